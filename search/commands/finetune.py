"""Train a chosen subnet further: `make finetune ARGS="supernet=runs/mine architecture=NAME"`.

Distributed: `torchrun --nproc-per-node=2 -m search.commands finetune supernet=runs/mine architecture=NAME`.
"""

from pathlib import Path
from typing import Any

from rich.console import Console

from search import command, front_table
from search.cli import watch
from search.cli.watch import Watched
from supernet import registry
from supernet.files import architectures, artifact
from supernet.files.command_line import then
from supernet.files.run_folder import LOGGING, RunFolder
from supernet.options import NonNegativeFloat, NonNegativeInt, PositiveInt
from supernet.surrogates.training_cost import TrainingCost
from supernet.training.finetune import FineTuned, FineTuning, Progress, energy_kwh, fine_tune
from supernet.training.measured_accuracy import SupernetAccuracy
from supernet.training.step import processes
from supernet.weights import subnet as subnets
from supernet.weights.augmentation import USUAL
from supernet.weights.origins import origin

CHECKPOINT = "checkpoint.safetensors"  # until the subnet is written


@command.options
class Options(Watched, FineTuning):
    """What `make finetune` takes: the recipe and what it is for."""

    supernet: str  # run folder of make train, published name, checkpoint of OFA, or hf:OWNER/NAME
    data: command.Node | None = None  # images, where the supernet is no run folder
    # one-line name, RUN:best@20ms, RUN:best or RUN:knee of a finished search, or path of a net.config; its ft
    # says how many epochs
    architecture: str
    epochs: NonNegativeInt | None = None  # type: ignore[assignment]  # None: as the name says
    augmentation: command.Node | None = None  # type: ignore[assignment]  # None: as the images say
    threads: PositiveInt = 1  # of PyTorch on a CPU, per process
    checkpoint_seconds: NonNegativeFloat = 30  # between two checkpoints
    watts: NonNegativeFloat = 65  # power of the device that the energy is estimated with: nothing measures it
    # training_step.json of make adapt: predicts the hours; null: steps timed here, once
    step_file: Path | None = None
    out: Path | None = None  # None: subnet/ in the run folder; of other weights in runs/NAME


@command.named("finetune")
def main(options: Options, config: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(options.threads)
    images = registry.build(options.data)
    out = command.run_folder(options.out or origin.folder(options.supernet) / "subnet", "finetune")
    rounds: list[dict[str, float]] = []
    with processes() as group, _run_folder(out).hold_by_first(config, group.rank):
        group.wait()  # the folder is ours
        trained = origin.load(options.supernet)
        space = trained.space
        genome = architectures.parse([front_table.architecture(options.architecture)], space)
        named = int(space.column(genome, "finetune_epochs")[0])
        epochs = named if options.epochs is None else options.epochs
        augmentation = registry.build(options.augmentation) or USUAL
        recipe = command.take(FineTuning, options, epochs=epochs, augmentation=augmentation)
        space.check_resolutions(genome, trained.resolution, f"the supernet {options.supernet}")
        accuracy = SupernetAccuracy(weights=options.supernet, image_set=images, finetuning=recipe)
        recipe.passes(group, len(accuracy.data.parts["train"]))
        with Console(quiet=group.rank > 0).status("timing training steps") as status:
            predicted = 0.0
            if epochs and not group.rank:
                model = accuracy.training_cost(TrainingCost(step_file=options.step_file))
                predicted = float(epochs * model.hours_per_epoch(space, genome)[0])

            def show(done: float, loss: float) -> None:
                if done == int(done):
                    rounds.append({"epoch": done, "loss": loss})
                status.update(f"epoch {done:.2f} of {epochs}, loss {loss:.3f}; {predicted:.3g} h in all")

            progress = Progress(show, out / CHECKPOINT, options.checkpoint_seconds)
            tuned = fine_tune(trained, accuracy.data, genome, recipe, group, progress)
        if not group.rank:
            cost = {
                "predicted_hours": predicted,
                "device_hours": tuned.hours,
                "energy_kwh_model": energy_kwh(tuned.hours, options.watts),
                "watts_assumed": options.watts,
                "processes": group.world,
            }
            facts = {"cost": cost, "top1_before": tuned.before.top1, "epochs": epochs}
            artifact.write_json(out / "cost.json", cost)
            tuned.subnet.with_facts(**facts).save(out / subnets.FILE)
            left = {"weights": out / subnets.FILE}
            run = watch.job("finetune", space.name, out, config, watch.weights(options.supernet), left)
            reached = {"top1_before": tuned.before.top1, "top1": tuned.after.top1}
            architecture = tuned.subnet.architecture
            watch.report(options, run, rounds, {"architecture": architecture, **cost, **reached})
            _tell(tuned, recipe, cost, out)


def _run_folder(out: Path) -> RunFolder:
    reporting = frozenset({*LOGGING, "out", "watts", "checkpoint_seconds"})
    return RunFolder(out, subnets.FILE, reporting, frozenset({CHECKPOINT}))


def _tell(tuned: FineTuned, recipe: FineTuning, cost: dict[str, float], out: Path) -> None:
    before, after = 100 * tuned.before.top1, 100 * tuned.after.top1
    how = f"{recipe.epochs} epoch{'s' * (recipe.epochs != 1)}{' from scratch' if recipe.from_scratch else ''}"
    print(f"test top-1 {before:.2f}% as it came out of the supernet, {after:.2f}% after {how}: {out}")
    kwh, watts = cost["energy_kwh_model"], cost["watts_assumed"]
    print(f"{tuned.hours:.4f} device-hours; {kwh:.5f} kWh at {watts:g} W, which are assumed")
    if recipe.epochs:
        off = 100 * (cost["predicted_hours"] / tuned.hours - 1)
        print(f"predicted {cost['predicted_hours']:.4f} device-hours: off by {off:+.0f}%")
    print(then("export", weights=out, out=out / "export"))
