"""Options made of good ones by one change each: what `test_fuzz` gives to the commands.

`WRONG` is the written list of what may never be accepted.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from search.cli import describe, help
from search.command import compose
from search.commands.judging import compare
from supernet import choices, registry

# Values that a kind of option may never accept, as they are typed. Kinds are words of `--help`.
WRONG = {
    "number": [
        "nan",
        "inf",
        "-inf",
        "1e400",
        "true",
        "false",
        "abc",
        "[1]",
        "{a:1}",
        "''",
        "../../etc/passwd",
    ],
    "int": ["1.5", "0.3", "1e-3", "123456789012345678901234567890"],
    "> 0": ["-1", "0", "-1.5", "-1e9"],
    ">= 0": ["-1", "-1.5", "-1e9"],
    ">= 2": ["-1", "0", "1", "-7"],
    "[0,1]": ["-1", "1.5", "-0.01", "100"],
    "(0,1]": ["-1", "0", "1.5", "100"],
    "[0,1)": ["-1", "1", "1.5", "100"],
    "(0,1)": ["-1", "0", "1", "1.5", "100"],
    "Path": ["''", "1.5", "true", "[1]", "{a:1}", "-7"],
    "bool": ["abc", "2", "1.5", "[1]", "{a:1}", "''"],
    "choice": ["abc", "1", "true", "[1]", "{a:1}", "''", "../../etc/passwd"],
    "name": ["''", "../../etc/passwd", "/etc/passwd", ".hidden", "a/b", "1", "[1]", "{a:1}"],
    "sides": ["abc", "0", "-1", "1.5", "true", "[1]", "[224,128]", "[1,2,3]", "[-1,5]", "{a:1}", "[nan,1]"],
    "list": ["abc", "5", "[-1]", "[1.5,x]", "[nan]", "[true]", "{a:1}"],
    "limits": ["5", "abc", "[1]", "{macs:-1}", "{macs:nan}", "{macs:abc}", "{macs:true}", "{macs:[1]}"],
    "group": ["{a:1}", "{_target_:os.system}", "{_target_:builtins.eval}", "5", "abc", "[1]"],
}
SEARCH = "search"  # where an option of compare has those of a search
WORDS = {  # the least that each command needs
    "accuracy_data": ["supernet=x"],
    "compare": ["runs=[a,b]"],
    "evaluate": ["weights=x"],
    "export": ["weights=x", "out=y"],
    "finetune": ["supernet=x", "architecture=y"],
    "fit": ["rows=a.csv", "column=x"],
    "score": ["predictor=x", "rows=a.csv", "column=b"],
    "shrink": ["supernet=a", "architecture=b", "target=here", "data=digits"],
    "search": ["target=here", "evaluator=supernet", "evaluator.weights=x", "data=digits"],
    "bound": ["target=v100_b64"],
    "predict": ["model=torchvision:resnet18", "target=modules"],
    "publish": ["run=a", "licence=CC0-1.0"],
}


@dataclass(frozen=True)
class OptionCase:
    """One option of a command, or of a node of a group, with a value it may not have."""

    command: str  # or group
    node: str  # of a group, whose option it is; empty for one of the command itself
    option: str
    value: str  # as it is typed

    def __str__(self) -> str:
        return f"{self.command} {'.'.join(filter(None, [self.node, self.option]))}={self.value}"


def commands() -> list[str]:
    names = (module.rpartition(".")[2] for module in help.modules().values())
    return [name for name in names if (choices.FOLDER / f"{name}.yaml").is_file()]


def target_of(command: str) -> str:
    return yaml.safe_load((choices.FOLDER / f"{command}.yaml").read_text())["_target_"]


def wrong_values(option: describe.Option) -> list[str]:
    """What an option may not be, by its kind and default; nothing for texts and mappings."""
    kind, default = option.kind, option.default
    if kind == "int or [int,int]":
        values = WRONG["sides"]
    elif kind.startswith(("int ", "float ")) and "|" not in kind:
        bound = next((bound for bound in WRONG if kind.endswith((f" {bound}", f"in {bound}"))), "")
        if not bound:
            raise ValueError(f"{option.name} has the kind {kind!r}, of which no wrong value is listed")
        values = WRONG["number"] + WRONG[bound] + (WRONG["int"] if kind.startswith("int") else [])
    elif kind in WRONG:
        values = WRONG[kind]
    elif kind.startswith(("list[int", "list[float")):
        values = WRONG["list"]
    elif kind == "dict[str, float >= 0]":
        values = WRONG["limits"]
    elif kind in ("Amp", "Norms") or (
        kind and set(kind) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-, ") and ", " in kind
    ):
        values = WRONG["choice"]
    else:
        return []
    return [value for value in values if value != default]


def option_cases() -> list[OptionCase]:
    """Every option of every command and of every choice of every group, with every value it may not have."""
    cases = []
    for command in commands():
        for option in describe.options(target_of(command)):
            if (command, option.name) != ("compare", SEARCH):  # whose options are below
                cases += [OptionCase(command, "", option.name, value) for value in wrong_values(option)]
            if command == "search" and option.name not in compare.SET_HERE:  # as compare gpus= hands it on
                cases += [OptionCase("compare", SEARCH, option.name, value) for value in wrong_values(option)]
    for group in sorted({choice.parent.name for choice in choices.FOLDER.glob("*/*.yaml")}):
        seen = set()
        for name in registry.shipped(group):
            node = registry.load(group, name)
            if "_target_" in node and node["_target_"] not in seen and not registry.states_facts(group, node):
                seen.add(node["_target_"])
                for option in describe.options(registry.MOVED.get(node["_target_"], node["_target_"])):
                    values = wrong_values(option)
                    cases += [OptionCase(group, name, option.name, value) for value in values]
    return cases


@cache
def _composed(command: str) -> dict[str, Any]:
    return compose(command, WORDS.get(command, []))


def give(case: OptionCase) -> None:
    """Check an option as its command does, before it starts; ValueError where it is refused."""
    value = OverridesParser.create().parse_override(f"x={case.value}").value()
    if case.node == SEARCH:
        asked = {"runs": [], "gpus": ["t4", "l4"], "search": {case.option: value}}
        chosen = compare.Options(**{**_composed("compare"), **asked})
        compare.GpuSearch.from_options("t4", chosen)
    elif not case.node:
        registry.locate(target_of(case.command))(**{**_composed(case.command), case.option: value})
    else:
        node = {**registry.load(case.command, case.node), case.option: value}
        missing = {
            key: "x" for key, default in registry.complete(node).items() if default == registry.REQUIRED
        }
        registry.build({**missing, **node}, case.command)
