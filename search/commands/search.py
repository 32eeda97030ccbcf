"""Search for the Pareto front of a device: `make search ARGS="target=titan_rtx_b64 latency_limit_ms=20"`."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from latency.measuring import session
from latency.measuring.here import in_int8, is_here
from latency.measuring.known import Bench, Known
from latency.measuring.store import Store
from latency.predictors.interface import LatencyModel, LatencyPredictor
from latency.predictors.slots import SlotLatency
from latency.target import Target
from latency.zoo import adaptation, catalogue
from latency.zoo.adaptation import Adaptation
from search import command, models, problem, run
from search import own as own_objectives
from search.api import Front
from search.archive import Archive
from search.cli import fleet, watch
from search.cli.watch import Watched
from search.front_table import FRONT, SHORTLIST
from search.models import QUANTITIES
from search.objective import Objective
from search.result import Result, weights_and_images
from search.verify.latency import KnownLatency, parts
from search.verify.rounds import Rounds
from supernet import registry
from supernet.arrays import Genomes
from supernet.files import command_line, sinks
from supernet.files.command_line import then
from supernet.files.loggers import Job
from supernet.files.sinks import Sink
from supernet.options import AtLeastTwo, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Sides
from supernet.space import SearchSpace, get_space
from supernet.surrogates import accuracy, int8_change

BUDGET = 50_000
MEASURED_BUDGET = 200
BOUND_SECONDS = 20.0
WARM_BUDGET = 10_000
WARM_SHARE = 0.2  # of the budget, for what another run has found; .1 and .35 were no better


@command.options
class Options(Watched):
    """What `make search` takes. The nodes of groups are built by the command."""

    training: command.Node
    searcher: command.Node
    target: command.Node | None = None  # v100_b64, or the first that fits space=
    # several, by what predictor= knows or by address (ssh://board): each has latency_ms@, throughput@TARGET
    targets: list[str] = field(default_factory=list)
    space: command.Node | None = None  # that of the target
    accuracy: command.Node | None = None  # the surrogate that ships for the space
    evaluator: command.Node | None = None  # supernet: accuracy is measured, in evaluator.weights=
    data: command.Node | None = None  # images of evaluator=supernet, where its weights are no run folder
    objectives: list[str] = field(default_factory=lambda: ["accuracy", "latency_ms", "training_hours"])
    # of your own, by name: options of objective/NAME.yaml of --config-dir, or of a plugin's
    objective: dict[str, dict[str, Any]] = field(default_factory=dict)
    latency_limit_ms: PositiveFloat | None = None  # short for limits.latency_ms
    # of any objective, searched or not: limits.params=6e6 limits.accuracy=0.78 (a lower limit)
    limits: dict[str, NonNegativeFloat | None] = field(default_factory=lambda: dict.fromkeys(QUANTITIES))
    confidence: PositiveFloat = 0.9  # limits are tested on the bound that holds with this probability
    resolution: Sides = None  # one input side, or [lowest,highest]; all that is known
    # values that genes may have: genes.kernel=[3] genes.depth=[2,3] genes.ks3=[5]; all that the space has
    genes: dict[str, int | list[int]] = field(default_factory=dict)
    # epochs of fine-tuning of all networks; null: searched where a training cost is asked for, else none
    recipe: NonNegativeInt | None = None
    budget: PositiveInt | None = None  # evaluations; 50000, 10000 of a warm start, 200 of measured accuracy
    warm_start: Path | None = None  # finished run folder whose best architectures are evaluated first
    seed: NonNegativeInt = 0
    out: Path | None = None  # run folder; runs/<target>-<time>. An unfinished one is resumed
    predictor: str = "auto"  # by the target; or run:FOLDER of make adapt, a name, or a .npz or .safetensors
    accuracy_file: Path | None = None  # a fitted accuracy surrogate (.npz) in place of the one that ships
    int8_predictor: str | None = None  # of a space with a precision gene: as predictor, but for int8
    int8_accuracy: Path | None = None  # measured change of accuracy by int8 (JSON); as torchvision publishes
    samples: AtLeastTwo = 10  # target=here: subnets to time, unless the store holds as many
    verify: NonNegativeInt = 24  # networks of the front to measure, when it is for this machine
    rounds: PositiveInt = 3  # in which they are measured; each fits the predictor again and goes on searching
    store: Path = Path("runs/measurements.sqlite")  # where measurements are kept
    # seconds to prove how far the front is from the best within the limits; by default 20 where a surrogate
    # predicts accuracy and at least 50000 networks are evaluated, else none
    bound: NonNegativeFloat | None = None
    shortlist: AtLeastTwo = SHORTLIST  # members that stand for the front: printed, and marked in front.csv

    def __post_init__(self) -> None:
        if sum(one is not None for one in (self.evaluator, self.accuracy_file, self.accuracy)) > 1:
            raise ValueError("evaluator=, accuracy_file= and accuracy= all say what tells accuracy: give one")
        if self.data is not None and self.evaluator is None:
            raise ValueError("data= has the images of evaluator=supernet: give both, or neither")
        if self.targets and (self.target or self.predictor != "auto" or self.int8_predictor):
            raise ValueError(
                "targets= names all devices: leave target=, predictor= and int8_predictor= out; a predictor "
                "of your own is one of targets=[v100_b64,run:FOLDER,FILE.npz]"
            )

    @property
    def evaluations(self) -> int:
        """The budget; where accuracy is measured it is smaller unless one is given."""
        if self.budget is not None:
            return self.budget
        if self.evaluator is not None:
            return MEASURED_BUDGET
        return BUDGET if self.warm_start is None else WARM_BUDGET

    @property
    def bound_seconds(self) -> float:
        """Seconds for the proof; small searches go without unless they ask for it."""
        if self.bound is not None:
            return self.bound
        return BOUND_SECONDS if self.evaluator is None and self.evaluations >= BUDGET else 0.0

    @property
    def adaptation(self) -> Adaptation:
        """How devices that are measured are adapted to."""
        return Adaptation(samples=self.samples, energy="energy_mj" in self.quantities)

    @property
    def quantities(self) -> set[str]:
        """What is asked for or limited, on whichever target."""
        return {name.partition("@")[0] for name in (*self.objectives, *self.all_limits())}

    def all_limits(self) -> dict[str, float]:
        """The limits that are set, by objective."""
        limits = {name: limit for name, limit in self.limits.items() if limit is not None}
        if self.latency_limit_ms is not None:
            if "latency_ms" in limits and limits["latency_ms"] != self.latency_limit_ms:
                raise ValueError(
                    f"latency_limit_ms={self.latency_limit_ms:g} and "
                    f"limits.latency_ms={limits['latency_ms']:g}: give one"
                )
            limits["latency_ms"] = self.latency_limit_ms
        return limits


@dataclass(frozen=True)
class Choices:
    """What the options name: the target, the space, and predictors that need no measuring."""

    target: Target | None
    space: SearchSpace | None
    predictor: LatencyPredictor | None
    int8: LatencyPredictor | None
    devices: Sequence[fleet.Device]  # of targets=

    @classmethod
    def from_options(cls, options: Options) -> "Choices":
        return cls(
            registry.build(options.target),
            registry.build(options.space),
            None if options.predictor == "auto" else catalogue.find(options.predictor),
            catalogue.find(options.int8_predictor) if options.int8_predictor else None,
            fleet.find(options.targets, options.target or {}),
        )

    @property
    def adapted(self) -> list[Target]:
        """The targets that are measured to adapt to them."""
        own = [self.target] if self.predictor is None and self.target is not None else []
        return [one for one in (*self.devices, *own) if isinstance(one, Target) and one.method == "measured"]

    @property
    def where(self) -> Target | None:
        return self.target if self.predictor is None else self.predictor.target

    @property
    def name(self) -> str:
        """What the run is called after: the targets, else the space."""
        if self.devices:
            return "+".join(target.name for target in fleet.targets(self.devices))
        if self.where is not None:
            return self.where.name
        return models.DEFAULT_TARGET if self.space is None else self.space.name


@command.named("search", maximize=True)
def main(options: Options, config: dict[str, Any]) -> dict[str, float]:
    choices = Choices.from_options(options)
    out = command.run_folder(options.out, choices.name)
    try:
        result = run_search(options, config, choices, out, say=print, sinks=[progress("search", options)])
    except run.Interrupted:
        command.stop("search", out)
    result.front.show()
    print(result.describe(out))
    weights, images = weights_and_images(config)
    if (export := result.export_command(weights, out / "export", images)) is not None:
        chosen = "the most accurate within the limits" if result.front.limits else "the knee"
        untrained = " (untrained; trained ones: docs/weights.md)" if weights == "random" else ""
        print(f"to {export.split()[1]} {chosen}{untrained}:\nnext: {export.splitlines()[0]}")
    else:
        print(then("rank", table="search_run", **{"table.folder": out}))
    return result.figures()


def progress(title: str, options: Options) -> sinks.Bar:
    """The line on the terminal that says how far a search is."""
    shown = {"front_size": "front {:.0f}", "hypervolume": "hypervolume {:.4f}"}
    return sinks.Bar(title, options.evaluations, shown, counted="evaluations")


def from_python(options: Mapping[str, Any]) -> Front:
    """The front of a search with these options, as `search.search` takes them."""
    asked = dict(options)
    own = [one for one in asked.get("objectives", ()) if isinstance(one, Objective)]
    if own:
        asked["objectives"] = [one.name if isinstance(one, Objective) else one for one in asked["objectives"]]
    config = command.compose("search", command_line.words({"wandb": "disabled", **asked}))
    with tempfile.TemporaryDirectory() if asked.get("out") is None else nullcontext() as scratch:
        try:
            checked = Options(**config)
            out = checked.out or Path(scratch or "", "run")
            result = run_search(checked, config, Choices.from_options(checked), out, own=own)
        except ValidationError as error:
            raise ValueError(command.explain(error)) from error
        except run.Interrupted as stopped:
            raise KeyboardInterrupt("the same call with out= goes on" if checked.out else "") from stopped
    return Front(result, checked.out)


def run_search(
    options: Options,
    config: dict[str, Any],
    choices: Choices,
    out: Path,
    *,
    own: Sequence[Objective] = (),
    say: Callable[[str], None] = lambda line: None,
    sinks: Sequence[Sink] = (),
) -> Result:
    """Run, or go on with, the search in `out`; `own` are objectives that its options name, `say` gets what
    is assumed."""
    for target in choices.adapted if options.adaptation.energy else []:
        session.check_energy(target)
    with run.folder(out).hold(config) as environment, ExitStack() as stack:
        store = stack.enter_context(Store(options.store)) if _measures(options, choices) else None
        chosen = _models(options, choices, out, store, say)
        asked = _problem(options, chosen, own, out)
        if asked.recipe is not None and asked.models.accuracy is not None:
            say(problem.recipe_line(asked.recipe, options.recipe is None))
        if asked.evaluator.measures:
            measured = " and ".join(one.name for one in asked.evaluator.asked if one.measured is not None)
            say(f"{measured} is measured: {options.evaluations} evaluations, kept and never repeated")
            _fine_tune(asked, say)
        warm = None if options.warm_start is None else _warm_start(options, options.warm_start, asked)
        if warm is not None:
            say(f"warm start: {len(warm)} architectures of {options.warm_start} are evaluated first")
        turns = None
        if store is not None and options.verify and fleet.can_verify(asked.models):
            turns = _rounds(options, store)
        whole = run.Search(
            asked,
            registry.build(options.searcher),
            budget=options.evaluations,
            seed=options.seed,
            out=out,
            config=config,
            sinks=[*sinks, *watch.sinks(options, _job(options, config, choices.name, out))],
            rounds=turns,
            shortlist=options.shortlist,
            bound_seconds=options.bound_seconds,
            warm=warm,
            finishing=partial(_keep_predictors, out=out),
        )
        try:
            result = whole.run_held(environment)
        except KeyboardInterrupt as stopped:
            raise run.Interrupted from stopped
    return result


def _job(options: Options, config: Mapping[str, Any], name: str, out: Path) -> Job:
    """The run as it is logged: what it takes from other runs, and what it leaves."""
    inputs = {
        key: Path(value.removeprefix("run:"), "predictor.npz") if value.startswith("run:") else Path(value)
        for key, value in (("predictor", options.predictor), ("predictor-int8", options.int8_predictor or ""))
    }
    if options.accuracy_file is not None:
        inputs["surrogate"] = options.accuracy_file
    if options.warm_start is not None:
        inputs["archive"] = options.warm_start / "archive.npz"
    if options.evaluator is not None:
        inputs |= watch.weights(options.evaluator.get("weights") or options.evaluator["folder"])
    left = {"archive": "archive.npz", "front": FRONT, "report": "report.html", "measurements": "measured.csv"}
    return watch.job("search", name, out, config, inputs, {kind: out / file for kind, file in left.items()})


def problem_of(
    options: Options, out: Path, say: Callable[[str], None] = lambda line: None
) -> problem.Problem:
    """The problem of the options, which are of the run `out` and may be foreign: nothing is measured or
    downloaded, and predictors of this machine are those of the run. `say` gets what is assumed."""
    measured = options.evaluator or {}
    if weights := measured.get("weights") or measured.get("folder"):
        from supernet.weights.origins import origin

        origin.check_here(str(weights))
    fp32, int8 = (out / name for name in run.PREDICTORS)
    if fp32.exists():
        options = replace(options, predictor=str(fp32))
    if int8.exists():
        options = replace(options, int8_predictor=str(int8))
    options = replace(options, targets=fleet.kept(options.targets, out))
    chosen = _models(options, Choices.from_options(options), out, None, say)
    return _problem(options, chosen, (), out)


def _models(
    options: Options,
    choices: Choices,
    out: Path,
    store: Store | None,
    say: Callable[[str], None],
) -> models.Models:
    """The models that the options ask for; a predictor of this machine is adapted to it first."""
    target, space, predictor, eight = choices.target, choices.space, choices.predictor, choices.int8
    if store is not None and target is not None and target in choices.adapted:
        joint = eight is None and space is not None and "precision" in space.index
        small = in_int8(target) if joint else None
        predictor = _adapted(target, run.begun(out, run.PREDICTORS[0]), options, store, say)
        if small is not None:
            eight = _adapted(small, run.begun(out, run.PREDICTORS[1]), options, store, say)
    elif predictor is None and target is not None and "latency_ms" in options.objectives:
        predictor, why = catalogue.automatic(target)
        say(f"latency of {target.name}: {why}")
    known = fleet.predictors(choices.devices, out, options.adaptation, options.store)
    if known:
        predictor, space = known[0], space or get_space(known[0].target.space)
    chosen = models.choose(
        space=space,
        target=None if eight else target,
        latency=models.by_precision(space, target, predictor, eight) if eight else predictor,
        accuracy=accuracy.load(options.accuracy_file)
        if options.accuracy_file
        else registry.build(_evaluator(options) or options.accuracy),
        training=registry.build(options.training),
        int8=int8_change.load(options.int8_accuracy) if options.int8_accuracy else None,
    )
    return models.several(chosen, known) if known else chosen


def _evaluator(options: Options) -> dict[str, Any] | None:
    """The node of what measures accuracy, with its images."""
    if options.evaluator is None or options.data is None:
        return options.evaluator
    return options.evaluator | {"image_set": options.data}


def _problem(options: Options, chosen: models.Models, own: Sequence[Objective], out: Path) -> problem.Problem:
    """What the options ask of these models; `own` are objectives from Python."""
    space = chosen.space
    mine = own_objectives.find((*options.objectives, *options.all_limits()), options.objective, space)
    mine |= {one.name: one for one in own}
    values = out / own_objectives.STORE
    return problem.build(
        options.objectives,
        replace(chosen, own={name: own_objectives.prepared(o, space, values) for name, o in mine.items()}),
        limits=options.all_limits(),
        confidence=options.confidence,
        resolution=options.resolution,
        genes=_genes(options, space),
    )


def _warm_start(options: Options, folder: Path, asked: problem.Problem) -> Genomes:
    """The architectures of a finished run that this one begins with."""
    path = folder / "archive.npz"
    if not path.is_file():
        raise ValueError(f"warm_start={folder} holds no finished search: there is no {path}")
    count = max(1, int(WARM_SHARE * options.evaluations))
    return Archive.load(path, asked.space).seeds(asked.space, asked.evaluator, count)


def _genes(options: Options, space: SearchSpace) -> dict[str, list[int]]:
    """The values of genes that are asked for, the recipe's among them."""
    genes = {name: [v] if isinstance(v, int) else v for name, v in options.genes.items()}
    return genes if options.recipe is None else genes | problem.recipe_genes(space, options.recipe)


def _fine_tune(asked: problem.Problem, say: Callable[[str], None]) -> None:
    """Fine-tune the subnets that accuracies after it are predicted from, unless the store holds them."""
    accuracy, space = asked.models.accuracy, asked.space
    if not isinstance(accuracy, models.OwnTraining):
        return
    waiting = accuracy.waiting(space)
    if len(waiting):
        cost = asked.models.training
        hours = "" if cost is None else f", {cost.hours(space.owner, waiting).mean.sum():.2g} h predicted"
        say(f"fine-tuning {len(waiting)} subnets{hours}: kept and never repeated")
    recipes = [epochs for epochs in space.allowed(problem.RECIPE) if epochs]
    with Console().status("fine-tuning") as status:
        for epochs in recipes:

            def watch(done: int, of: int, epochs: int = epochs) -> None:
                status.update(f"{done} of {of} subnets fine-tuned for {epochs} epochs")

            accuracy.measured_after(epochs, watch)
    for epochs in recipes:
        say(accuracy.describe_gain(epochs))


def _adapted(
    target: Target, kept: Path, options: Options, store: Store, say: Callable[[str], None]
) -> LatencyPredictor:
    with Console().status("measuring") as status:
        watch = command.watcher(status)
        predictor = adaptation.for_run(target, kept, options.adaptation, store=store, watch=watch)
    say(f"latency of {target.name}: {predictor.facts['samples']} subnets timed here (transfer)")
    return predictor


def _rounds(options: Options, store: Store) -> Rounds:
    """The front is measured and the predictor fitted again with it: from everything that the store holds
    where this run adapts it itself, else the one that was asked for is corrected."""

    def refit(predictor: LatencyModel, known: Known) -> LatencyModel:
        if options.predictor == "auto":
            return adaptation.from_known(options.adaptation, known)
        return adaptation.corrected(predictor, known)

    return Rounds(Bench(store), refit, options.verify, options.rounds)


def _keep_predictors(result: Result, out: Path) -> None:
    """The predictors that the front ended with, where the run began with its own: `predictor=run:FOLDER`."""
    latency = result.problem.models.latency
    for part, name in zip(parts(latency) if latency else [], run.PREDICTORS, strict=False):
        predictor = part.predictor if isinstance(part, KnownLatency) else part
        if run.begun(out, name).exists() and isinstance(predictor, SlotLatency):
            predictor.save(out / name)


def _measures(options: Options, choices: Choices) -> bool:
    """Whether this run times networks: to adapt to this machine, or to verify a front that is for it."""
    where = choices.where
    if choices.devices:
        return fleet.measures(choices.devices, options.verify > 0)
    if where is None or not options.quantities & set(models.ON_A_DEVICE):
        return False
    wanted = options.verify > 0 or (choices.predictor is None and where.method == "measured")
    return wanted and is_here(where)
