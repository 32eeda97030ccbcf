"""Predict how long a network takes, and where: `make predict ARGS="model=torchvision:resnet50"`.

Any network that can be traced or is an ONNX file, from the latencies of its modules (arXiv 2312.06440). On
this machine a handful of its modules are timed first, in seconds. On a GPU of which only the data sheet is
known, from the kernels that eager PyTorch runs.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

from latency.measuring.session import Measuring
from latency.measuring.store import Store
from latency.modules import anchors, breakdown
from latency.modules.breakdown import Breakdown
from latency.modules.networks import named
from latency.modules.networks.named import Network
from latency.modules.predictor import ModulesLatency
from latency.predictors import interface
from latency.target import Target
from latency.zoo import any_network, catalogue, needs
from latency.zoo.needs import Needs
from search import command
from search.report import predict_report
from supernet import registry
from supernet.files import artifact
from supernet.files.command_line import then
from supernet.files.run_folder import RunFolder
from supernet.files.tables import Table, rounded
from supernet.options import Fraction, NonNegativeInt, PositiveFloat, PositiveInt
from supernet.prediction import QUANTILE

CONFIDENCE = 0.90
SHOWN = 12  # layers that the terminal shows
MEMORY = "MB"  # of weights and activations of an engine in fp32
USUAL_ENGINE = "onnxruntime"  # whose modules stand for those of an engine that was never measured


@command.options
class Options:
    """What `make predict` takes."""

    target: command.Node
    # networks to predict: FILE.onnx, torchvision:NAME, timm:NAME, MODULE:FUNCTION (a function of yours that
    # returns a torch.nn.Module) or architectures of an OFA space; model=[A,B] or model=A,B compares
    model: str | list[str]
    input: str | None = None  # shape of one input, as 3x224x224; None: the network's own
    batches: list[PositiveInt] | None = None  # images at once; None: that of the target
    threads: list[PositiveInt] | None = None  # None: those of the target
    utilisations: list[Fraction] | None = None  # shares that other work asks for; None: that of the target
    predictor: Path | None = None  # of make modules; None: the one that ships for the engine
    # modules of the networks to time first on this machine, for each number of threads and utilisation; 0:
    # none, and the interval holds how much machines differ
    anchors: NonNegativeInt = 8
    seconds: PositiveFloat | None = None  # time budget of the timing
    training_batch: NonNegativeInt = 32  # images of a training step to tell memory and time of; 0: none
    store: Path = Path("runs/measurements.sqlite")
    out: Path | None = None  # folder of report.html, predictions.csv, layers.csv; None: runs/predict-<time>


def networks(options: Options) -> list[Network]:
    """The networks of the option `model`."""
    words = options.model if isinstance(options.model, list) else [options.model]
    shape = None
    if options.input is not None:
        sizes = options.input.split("x")
        if not all(size.isdigit() and int(size) for size in sizes):
            raise ValueError(f"input={options.input} is no shape: give sizes without batch, as 3x224x224")
        shape = tuple(map(int, sizes))
    return [named.network(word.strip(), shape) for word in words]


def base(options: Options, target: Target) -> tuple[ModulesLatency, str]:
    """The module predictor to start from, and what it is in words."""
    if options.predictor is not None:
        return interface.load_as(ModulesLatency, options.predictor), f"the modules of {options.predictor}"
    engine = target.engine if target.engine in catalogue.module_engines() else USUAL_ENGINE
    shipped = catalogue.module_predictor(engine)
    return shipped, f"modules of {shipped.target.spec.title} on {engine}"


def targets(options: Options, target: Target) -> list[Target]:
    """The conditions to predict for: all that were asked for together."""
    threads: Sequence[int | None] = options.threads or [target.threads]
    others = options.utilisations or [target.utilisation], options.batches or [target.batch]
    return [
        replace(target, batch=batch, threads=some, utilisation=utilisation)
        for some, utilisation, batch in product(threads, *others)
    ]


@dataclass(frozen=True)
class Predicted:
    """What is predicted of each network under each condition, what it rests on in words, and the predictor
    of modules under the first condition, if there is one."""

    breakdowns: list[list[Breakdown]]
    about: str
    predictor: ModulesLatency | None = None


def from_modules(options: Options, asked: list[Target], chosen: list[Network]) -> Predicted:
    """From the latencies of modules."""
    known, source = base(options, asked[0])
    fitted = predictors(options, known, asked, chosen)
    return Predicted(
        [[breakdown.of(one, network.modules, one.target) for one in fitted] for network in chosen],
        f"{asked[0]}; from {source}{_anchored(fitted[0])}",
        fitted[0],
    )


def from_data_sheet(asked: list[Target], chosen: list[Network]) -> Predicted:
    """From the kernels that eager PyTorch runs on a GPU."""
    breakdowns, whys = [], []
    for network in chosen:
        if network.code is None:
            raise ValueError(f"{network.name}: a data sheet tells times of PyTorch: give the network itself")
        each = [any_network.on_gpu(network.code, network.shape, target) for target in asked]
        breakdowns.append([one for one, _ in each])
        whys.append(each[0][1])
    return Predicted(breakdowns, f"{asked[0]}; {whys[0]}")


def predictors(
    options: Options, known: ModulesLatency, asked: list[Target], chosen: list[Network]
) -> list[ModulesLatency]:
    """A predictor for each target: at its conditions, or on this machine with modules timed first."""
    if asked[0].method != "measured":
        return [known.at(target) for target in asked]
    modules = [network.modules for network in chosen]
    by_condition: dict[tuple[int | None, float], ModulesLatency] = {}
    for target in asked:
        condition = target.threads, target.utilisation
        if condition in by_condition:
            continue
        if not options.anchors:
            by_condition[condition] = anchors.elsewhere(known, target)
            continue
        with Store(options.store) as store, Console().status("timing a few modules") as status:
            how = Measuring(store, options.seconds, command.watcher(status))
            timed = anchors.measure(anchors.choose(known, modules, target, options.anchors), target, how)
        by_condition[condition] = anchors.anchored(known, target, *timed)
    return [by_condition[target.threads, target.utilisation].at(target) for target in asked]


def latencies(chosen: list[Network], breakdowns: list[list[Breakdown]], needed: list[Needs]) -> Table:
    """A row per network and condition: ms with its interval, work, memory where it is known, and the share
    that is stood in for."""
    half, known = QUANTILE(0.5 + CONFIDENCE / 2), any(own.inference_bytes for own in needed)
    rows = []
    for network, ours, own in zip(chosen, breakdowns, needed, strict=True):
        for one in ours:
            mean, std = float(one.latency.mean[0]), float(one.latency.std[0])
            low, high = max(mean - half * std, 0), mean + half * std
            condition = (one.target.batch, one.target.threads, one.target.utilisation)
            unknown = sum(one.stand_ins.values()) / mean
            work = (round(network.macs / 1e6, 1), round(network.params / 1e6, 2))
            numbers = (*rounded((mean, low, high), 4), *work, round(unknown, 4))
            size = own.inference_bytes.get(one.target.batch)
            memory = (size and round(size / 1e6, 1),) if known else ()
            rows.append((network.name, *condition, *numbers, *memory))
    heads: tuple[str, ...] = ("network", "batch", "threads", "utilisation", "ms", "ms at least", "ms at most")
    heads = (*heads, "million MACs", "million params", "stood in for", *((MEMORY,) if known else ()))
    return Table.from_rows(heads, rows)


def training_steps(chosen: list[Network], needed: list[Needs], batch: int) -> Table:
    """A row per network whose training step is known: memory, and on a GPU ms with their interval."""
    rows, timed = [], any(own.training_ms is not None for own in needed)
    for network, own in zip(chosen, needed, strict=True):
        if own.training is not None:
            row: list[Any] = [network.name, batch, round(own.training.peak_bytes / 1e6, 1)]
            if own.training_ms is not None:
                low, high = (float(end[0]) for end in own.training_ms.interval(CONFIDENCE))
                row += rounded((float(own.training_ms.mean[0]), max(low, 0), high), 4)
            rows.append(row)
    heads = (
        "network",
        "training batch",
        "MB in fp32",
        *(("ms", "ms at least", "ms at most") if timed else ()),
    )
    return Table.from_rows(heads, rows)


def layers(chosen: list[Network], breakdowns: list[list[Breakdown]]) -> Table:
    """A row per layer of every network, under the first condition."""
    rows = [
        {"network": network.name, **row}
        for network, ours in zip(chosen, breakdowns, strict=True)
        for row in breakdown.rows(ours[0])
    ]
    return Table({name: [row[name] for row in rows] for name in rows[0]})


def notes(chosen: list[Network], breakdowns: list[list[Breakdown]], needed: list[Needs]) -> list[str]:
    """What is not known of the networks."""
    lines: list[str] = []
    for network, ours, own in zip(chosen, breakdowns, needed, strict=True):
        lines += own.unknown
        total = float(ours[0].latency.mean[0])
        if ours[0].stand_ins:
            shares = (f"{name} {ms / total:.1%}" for name, ms in list(ours[0].stand_ins.items())[:6])
            lines.append(
                f"{network.name}: never measured, other modules stand in for: {', '.join(shares)} of the time"
            )
    return lines


def longest(network: Network, one: Breakdown) -> str:
    """The layers that take longest, and the kinds, as text."""
    total = float(one.ms.sum())
    table = sorted(breakdown.rows(one), key=lambda row: -row["ms"])[:SHOWN]
    lines = [f"{network.name}: where {total:.3g} ms go"]
    lines += [
        f"{row['ms']:9.3f} ms {row['share']:6.1%}  {row['kind']:12} {row['layer']}  {row['inputs']}"
        for row in table
    ]
    kinds = (f"{kind} {ms / total:.0%} ({count})" for kind, (count, ms) in one.by_kind.items())
    return "\n".join([*lines, f"by kind: {', '.join(kinds)}"])


@command.named("predict")
def predict(options: Options, config: dict[str, Any]) -> None:
    target: Target = registry.build(options.target)
    if target.method not in ("measured", "modules", "data sheet"):
        raise ValueError(
            f"target={target.name} knows subnets only: give target=here, target=modules for the machine we "
            "measured, or target=gpu target.device=..."
        )
    chosen, asked = networks(options), targets(options, target)
    on_gpu = target.method == "data sheet"
    if on_gpu and (options.threads or options.utilisations or options.predictor):
        raise ValueError(
            "threads=, utilisations= and predictor= are of processors, not of a GPU's data sheet"
        )
    out = command.run_folder(options.out, "predict")
    with RunFolder(out, "report.html").hold(config):
        predicted = from_data_sheet(asked, chosen) if on_gpu else from_modules(options, asked, chosen)
        breakdowns, about = predicted.breakdowns, predicted.about
        batches = list(dict.fromkeys(one.batch for one in asked))
        needed = [needs.of(network, batches, options.training_batch, target) for network in chosen]
        table, own = latencies(chosen, breakdowns, needed), layers(chosen, breakdowns)
        training = training_steps(chosen, needed, options.training_batch)
        unknown = notes(chosen, breakdowns, needed)
        artifact.write_text(out / "predictions.csv", table.csv())
        artifact.write_text(out / "layers.csv", own.csv())
        if predicted.predictor is not None:
            predicted.predictor.save(out / "predictor.npz")
        if len(training):
            artifact.write_text(out / "training.csv", training.csv())
        page = predict_report.render((table, training, own), unknown, config, about)
        artifact.write_text(out / "report.html", page)
    print(about, "", table.markdown(), "", sep="\n")
    if len(training):
        print("training steps, eager PyTorch with momentum:", "", training.markdown(), "", sep="\n")
    for network, ours in zip(chosen, breakdowns, strict=True):
        print(longest(network, ours[0]), end="\n\n")
    print("\n".join([*unknown, f"written to {out}: report.html, predictions.csv, layers.csv"]))
    if predicted.predictor is not None:
        print(then("search", predictor=out / "predictor.npz"))
    else:
        print(
            then("search", target="gpu", **{"target.device": target.spec.name, "target.batch": target.batch})
        )


def main() -> None:
    """model=A,B is a list of networks, and every word of it is one, whatever its letters."""
    for place, word in enumerate(sys.argv):
        models = word.removeprefix("model=")
        if (
            models != word
            and "-m" not in sys.argv
            and "--multirun" not in sys.argv
            and models[:1] not in "['\""
        ):
            sys.argv[place] = f"model=[{','.join(map(json.dumps, models.split(',')))}]"
    predict()


def _anchored(predictor: ModulesLatency) -> str:
    if "anchors" not in predictor.facts:
        return ""
    factor = predictor.facts["anchored_by"]
    return f", {predictor.facts['anchors']} modules timed here are {factor:.2f} times as slow"
