"""Tables of what there is: `ofa-frontier list`, `list targets`, and one choice, `list searcher local`."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from latency.zoo import catalogue
from search.cli import describe
from search.models import QUANTITIES
from supernet import choices, device, registry
from supernet.choices import SHIPPED, Choice
from supernet.devices import catalogue as gpus
from supernet.files.tables import Table
from supernet.measures import MEASURES
from supernet.space import get_space
from supernet.surrogates import accuracy

GROUPS = {  # what the choices of a group are for
    "accuracy": "surrogates that predict top-1",
    "augmentation": "ways of changing training images",
    "data": "images that a supernet is trained and judged on",
    "device": "data sheets",
    "engine": "what runs a network: target.engine=NAME",
    "evaluator": "accuracy that is measured in place of predicted",
    "experiment": "complete runs of a command: COMMAND experiment=NAME",
    "learner": "methods that fit or adapt a latency predictor",
    "module": "kinds of modules that the command modules measures",
    "objective": "quantities of a search: objectives=[...], limits.NAME=...",
    "optimisation": "settings of the steps of a training",
    "recipe": "ways of training a supernet",
    "regressor": "regressions that the command modules selects from",
    "searcher": "search algorithms",
    "shrink": "recipes of shrinking",
    "space": "search spaces",
    "table": "tables of models that the command rank reads",
    "target": "where a latency holds: device, engine, precision, batch, threads",
    "training": "what training costs",
}
SENTENCE = 96  # characters of a purpose in a table
Cells = Mapping[str, Any]


def main() -> None:
    """Print the table that the words of the command line ask for."""
    try:
        folders = choices.folders_of(sys.argv[1:])
        registry.use_folders(*folders)
        words = [word for word in sys.argv[1:] if not word.startswith("-") and word not in folders]
        if len(words) > 1:
            print(about(registry.find(group_of(words[0]), words[1])))
        else:
            table(group_of(words[0]) if words else None).show()
            if words and group_of(words[0]) == "device":
                print(gpus.more())
    except ValueError as error:
        sys.exit(f"error: {error}")


def groups() -> list[str]:
    """Names of the groups that have choices."""
    return sorted({*choices.groups(), "objective"})


def group_of(word: str) -> str:
    """The group that a word means, also in the plural; ValueError for an unknown one.

    >>> group_of("targets")
    'target'
    """
    singular = {"accuracies": "accuracy"}.get(word, word if word in groups() else word.removesuffix("s"))
    if singular not in groups():
        raise registry.unknown_name("group", word, groups())
    return singular


def table(group: str | None = None) -> Table:
    """The choices of a group with what each is for, its error where it has one, and where it is from.

    Without a group, the groups. Parts of plugins are described by their docstrings and are not imported.
    """
    if group is None:
        numbers = {one: len(objectives() if one == "objective" else choices.choices(one)) for one in groups()}
        rows: list[Cells] = [
            {"group": one, "choices": number, "what for": GROUPS.get(one, "")}
            for one, number in numbers.items()
        ]
    elif group == "objective":
        rows = objectives()
    else:
        rows = [_row(choice) for choice in choices.choices(group)]
    heads = list(dict.fromkeys(head for row in rows for head in row if head != "from"))
    heads += ["from"] if group is not None else []
    return Table.from_rows(heads, ([row.get(head, "") for head in heads] for row in rows))


def objectives() -> list[Cells]:
    """The quantities of a search, those of the user's folders and of plugins last."""
    ours: list[Cells] = [
        {
            "name": name,
            "unit": MEASURES[name].unit,
            "better": "higher" if MEASURES[name].maximize else "lower",
            "what for": MEASURES[name].title,
            "from": SHIPPED,
        }
        for name in QUANTITIES
    ]
    return ours + [_row(choice) for choice in choices.choices("objective")]


def about(choice: Choice) -> str:
    """One choice: what it is for and its options, or the facts that its YAML states."""
    node = choice.node()
    lines = [f"{choice.group}={choice.name} ({choice.origin}): {_purpose(choice, node)}"]
    if "_target_" not in node or registry.states_facts(choice.group, node):
        return "\n".join([*lines, yaml.safe_dump(node, sort_keys=False, allow_unicode=True).rstrip()])
    for option in describe.options(node["_target_"]):
        default = node.get(option.name, option.default)
        lines.append(f"  {choice.group}.{option.name}={default}  {option.meaning} ({option.kind})")
    return "\n".join(lines)


def _row(choice: Choice) -> Cells:
    facts: Callable[[Choice], Cells] | None = FACTS.get(choice.group)
    said = SAID_IN.get(choice.group, "what for")
    try:
        node = choice.node()
        plain = facts is None or choice.path is None or not registry.states_facts(choice.group, node)
        cells = {said: _purpose(choice, node)} if plain or facts is None else facts(choice)
    except ValueError as error:
        cells = {said: f"broken: {error}"[:SENTENCE]}
    return {"name": choice.name, **cells, "from": choice.origin}


def _purpose(choice: Choice, node: Cells) -> str:
    """The first comment of its YAML, else the first sentence of the docstring of what it builds."""
    lines = choice.path.read_text().splitlines() if choice.path else []
    comments = [line.lstrip("# ") for line in lines[:2] if line.startswith("#") and "@package" not in line]
    said = (
        comments[0].partition(" : ")[2] or comments[0]
        if comments
        else describe.purpose(node["_target_"])
        if "_target_" in node
        else ""
    )
    return said.rstrip(".") if len(said) <= SENTENCE else said[: SENTENCE - 3].rpartition(" ")[0] + " ..."


def _target(choice: Choice) -> Cells:
    target = registry.build(choice.node())
    return {
        "device": target.spec.title,
        "engine": target.engine,
        "precision": target.precision,
        "batch": target.batch,
        "space": target.space,
        "median error": _error(catalogue.predictor(choice.name).facts) if choice.origin == SHIPPED else "",
        "source": target.source.partition(" (")[0].partition(";")[0],
    }


def _space(choice: Choice) -> Cells:
    space = get_space(choice.name)
    surrogate = space.name in registry.names("accuracy")
    return {
        "family": str(space.family or "").rpartition(":")[2],
        "genes": len(space.axes),
        "classes": choice.node().get("classes", ""),
        "accuracy": "surrogate" if surrogate else "",
        "latency": f"{len(catalogue.targets_of(space.name))} targets",
    }


def _device(choice: Choice) -> Cells:
    sheet = device.get(choice.name)
    shown = ("title", "kind", "year", "bandwidth_gbs", "fp32_tflops", "tdp_w", "source")
    return {key: getattr(sheet, key) for key in shown}


def _accuracy(choice: Choice) -> Cells:
    facts = accuracy.load(choice.name).facts if choice.origin == SHIPPED else {}
    return {
        "median error": _error(facts),
        "source": str(facts.get("source", "")).partition(" (")[0][:SENTENCE],
    }


def _error(facts: Cells) -> str:
    """The error of a predictor by its own facts, with what it was seen on."""
    tests = facts.get("test", {})
    tested = tests if "median_ape" in tests else next(iter(tests.values()), {}) if tests else {}
    if "median_ape" in tested:
        return f"{tested['median_ape']:.2g}% of {tested['n']:.0f} left out"
    if "left_out_mape" in facts:
        return f"mean {facts['left_out_mape']:.2g}% of {facts.get('samples', facts.get('rows'))} left out"
    return str(facts.get("protocol", ""))


SAID_IN = {"target": "device", "space": "family", "device": "title"}  # the column of what is said in words
FACTS = {"target": _target, "space": _space, "device": _device, "accuracy": _accuracy}
