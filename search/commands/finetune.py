"""Train a chosen subnet further: `make finetune ARGS="supernet=runs/mine architecture=NAME"`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt
from rich.console import Console

from search import command, front_table
from search.cli import watch
from search.cli.watch import Watched
from supernet import registry
from supernet.files import architectures, artifact
from supernet.files.command_line import then
from supernet.files.run_folder import RunFolder
from supernet.surrogates.training_cost import TrainingCost
from supernet.training.finetune import FineTuning, Progress, energy_kwh, fine_tune
from supernet.training.measured_accuracy import SupernetAccuracy
from supernet.training.step import processes
from supernet.training.train import FINISHED
from supernet.weights import subnet as subnets

CHECKPOINT = "checkpoint.safetensors"  # until the training is finished


@command.options
class Options(Watched, FineTuning):
    """What `make finetune` takes: the recipe and what it is for."""

    supernet: str  # run folder of make train, published name, checkpoint of OFA, or hf:OWNER/NAME
    data: dict[str, Any] | None = None  # images, where the supernet is no run folder
    # one-line name, RUN:best@20ms, RUN:best or RUN:knee of a finished search, or path of a net.config; its ft
    # says how many epochs
    architecture: str
    epochs: NonNegativeInt | None = None  # type: ignore[assignment]  # None: as the name says
    threads: int = 1
    watts: float = 65  # power of the device that the energy is estimated with: nothing measures it
    # training_step.json of make adapt: predicts the hours; null: steps timed here, once
    step_file: Path | None = None
    out: Path | None = None  # None: subnet/ in the run folder; of other weights in runs/NAME


@command.named("finetune")
def main(options: Options, config: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(options.threads)
    images = registry.build(options.data)
    accuracy = SupernetAccuracy(weights=options.supernet, image_set=images)
    trained = accuracy.trained
    space = trained.space
    genome = architectures.parse([front_table.architecture(options.architecture)], space)
    named = int(space.column(genome, "finetune_epochs")[0])
    recipe = command.take(FineTuning, options, epochs=named if options.epochs is None else options.epochs)
    space.check_resolutions(genome, trained.resolution, f"the supernet {options.supernet}")
    accuracy = replace(accuracy, finetuning=recipe)
    out = command.run_folder(options.out or accuracy.place / "subnet", "finetune")
    rounds: list[dict[str, float]] = []
    with RunFolder(out, subnets.FILE).hold(config):
        with processes() as group, Console().status("timing training steps") as status:
            predicted = 0.0
            if recipe.epochs:
                model = accuracy.training_cost(TrainingCost(step_file=options.step_file))
                predicted = float(recipe.epochs * model.hours_per_epoch(space, genome)[0])

            def show(done: int, loss: float) -> None:
                rounds.append({"epoch": done, "loss": loss})
                status.update(f"epoch {done} of {recipe.epochs}, loss {loss:.3f}; {predicted:.3g} h in all")

            tuned = fine_tune(trained, accuracy.data, genome, recipe, group, Progress(show, out / CHECKPOINT))
        cost = {
            "predicted_hours": predicted,
            "device_hours": tuned.hours,
            "energy_kwh_model": energy_kwh(tuned.hours, options.watts),
            "watts_assumed": options.watts,
        }
        facts = {"cost": cost, "top1_before": tuned.before.top1, "epochs": recipe.epochs}
        artifact.write_json(out / "cost.json", cost)
        tuned.subnet.with_facts(**facts).save(out / subnets.FILE)
    left = {"weights": out / subnets.FILE}
    run = watch.job("finetune", space.name, out, config, {"weights": Path(options.supernet, FINISHED)}, left)
    reached = {"top1_before": tuned.before.top1, "top1": tuned.after.top1}
    watch.report(options, run, rounds, {"architecture": tuned.subnet.architecture, **cost, **reached})
    before, after = 100 * tuned.before.top1, 100 * tuned.after.top1
    how = f"{recipe.epochs} epoch{'s' * (recipe.epochs != 1)}{' from scratch' if recipe.from_scratch else ''}"
    print(f"test top-1 {before:.2f}% as it came out of the supernet, {after:.2f}% after {how}: {out}")
    kwh = cost["energy_kwh_model"]
    print(f"{tuned.hours:.4f} device-hours; {kwh:.5f} kWh at {options.watts:g} W, which are assumed")
    if recipe.epochs:
        off = 100 * (predicted / tuned.hours - 1)
        print(f"predicted {predicted:.4f} device-hours: off by {off:+.0f}%")
    print(then("export", weights=out, out=out / "export"))
