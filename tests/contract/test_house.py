"""The rules of the house (docs/ and CONTRIBUTING): imports go one way, rooms and files stay small.

`ALLOWED` lists what breaks a rule today. It must be exactly right: a new offence fails, and so does a line
whose offence is gone. It only ever gets shorter.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("supernet", "latency", "search", "scripts", "benchmarks")
# From the ground up: a room imports from itself and from rooms above it in this list, never from below it.
# The files that lie directly in a package are listed by the package's name.
GROUND = ("supernet", "supernet.spaces", "supernet.devices")
ROOMS = {
    "supernet": ("supernet.spaces", "supernet.devices"),
    "supernet.spaces": ("supernet",),
    "supernet.devices": ("supernet",),
    "supernet.files": GROUND,
    "supernet.fits": GROUND,
    "supernet.surrogates": (*GROUND, "supernet.files", "supernet.fits"),
    "supernet.weights": (*GROUND, "supernet.files", "supernet.fits", "supernet.surrogates"),
    "supernet.weights.origins": (*GROUND, "supernet.files", "supernet.weights"),
    "supernet.training": (
        *GROUND,
        "supernet.files",
        "supernet.fits",
        "supernet.surrogates",
        "supernet.weights",
        "supernet.weights.origins",
    ),
    "supernet.deploy": ("supernet.*",),
    "latency": ("supernet.*",),
    "latency.measuring": ("supernet.*", "latency", "latency.measuring.*"),
    "latency.measuring.counters": ("supernet.*", "latency", "latency.measuring"),
    "latency.measuring.engines": ("supernet.*", "latency", "latency.measuring"),
    "latency.measuring.remote": ("supernet.*", "latency", "latency.measuring"),
    "latency.predictors": ("supernet.*", "latency"),
    "latency.modules": (
        "supernet.*",
        "latency",
        "latency.measuring",
        "latency.predictors",
        "latency.modules.*",
    ),
    "latency.modules.kinds": ("supernet.*",),
    "latency.gpu": ("supernet.*", "latency", "latency.predictors"),
    "latency.modules.networks": (
        "supernet.*",
        "latency",
        "latency.measuring",
        "latency.modules",
        "latency.modules.kinds",
    ),
    "latency.zoo": ("supernet.*", "latency.*"),
    "search": (
        "supernet.*",
        "latency.*",
        "search.searchers",
        "search.ranking",
        "search.report",
        "search.verify",
        "search.bound",
        "search.cli",
    ),
    "search.cli": ("supernet.*", "latency.*", "search"),
    "search.bound": ("supernet.*", "latency.*", "search"),
    "search.searchers": ("supernet.*", "latency.*", "search", "search.ranking"),
    "search.ranking": ("supernet.*", "latency.*", "search"),
    "search.verify": ("supernet.*", "latency.*", "search"),
    "search.report": ("supernet.*", "latency.*", "search", "search.ranking"),
    "search.commands": ("supernet.*", "latency.*", "search.*"),
    "search.commands.judging": ("supernet.*", "latency.*", "search.*"),
    "search.commands.shipped": ("supernet.*", "latency.*", "search.*"),
    "scripts": ("supernet.*", "latency.*", "search.*"),
    "benchmarks": ("supernet.*", "latency.*", "search.*", "benchmarks.*"),
    "benchmarks.protocols": ("supernet.*", "latency.*", "search.*", "benchmarks"),
    "benchmarks.searches": ("supernet.*", "latency.*", "search.*", "benchmarks"),
}
MOST_FILES, MOST_LINES, MOST_LINES_OF_A_FUNCTION, MOST_PARAMETERS = 14, 450, 60, 6
# `from search import search` is one function behind the door sign: it opens the command that it is.
FRONT_DOOR, BEHIND_IT = "search", "search.commands.search"
FRONT_DOOR_BODY = ["Expr", "ImportFrom", "If", "Assign", "FunctionDef"]  # docstring, imports, version, search

ALLOWED: dict[str, set[str]] = {
    "many_parameters": {
        "latency.measuring.here:here",
        "latency.target:modules",
        "supernet.layers:LayerBuilder.add",
    },
}


def sources() -> dict[str, Path]:
    """{module name: file} of everything outside tests; a package is named without `__init__`."""
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in files
    }


SOURCES = sources()
TREES = {name: ast.parse(path.read_text()) for name, path in SOURCES.items()}


def imported(tree: ast.AST) -> set[str]:
    """The modules of ours that a file imports anywhere: at its top, in functions, for type checking."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {
                full if (full := f"{node.module}.{alias.name}") in SOURCES else node.module
                for alias in node.names
            }
    return {name for name in names if name in SOURCES}


GRAPH = {name: imported(tree) - {name} for name, tree in TREES.items()}


def room(module: str) -> str:
    """The room of a module: its package."""
    return module if SOURCES[module].name == "__init__.py" else module.rpartition(".")[0]


def circles() -> set[str]:
    """The files of each circle of imports, joined by ' <-> ' (strongly connected components, Tarjan 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    rings: set[str] = set()

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for other in sorted(GRAPH[module]):
            if other not in order:
                visit(other)
            if other in stack:
                lowest[module] = min(lowest[module], lowest[other])
        if lowest[module] == order[module]:
            ring = [stack.pop()]
            while ring[-1] != module:
                ring.append(stack.pop())
            if len(ring) > 1:
                rings.add(" <-> ".join(sorted(ring)))

    for module in sorted(GRAPH):
        if module not in order:
            visit(module)
    return rings


def upward() -> set[str]:
    """'module -> module' for each import of a room that lies further up."""
    offences = set()
    for module, others in GRAPH.items():
        for other in others:
            here, there = room(module), room(other)
            allowed = ROOMS[here]
            wildcards = [name.removesuffix("*") for name in allowed if name.endswith(".*")]
            below = there in allowed or any(f"{there}.".startswith(prefix) for prefix in wildcards)
            if here != there and not below and (module, other) != (FRONT_DOOR, BEHIND_IT):
                offences.add(f"{module} -> {other}")
    return offences


def code_in_door_signs() -> set[str]:
    """Packages whose `__init__.py` is more or less than a docstring; `search` says the version too, and has
    the function `search`."""
    signs = {name: TREES[name].body for name, path in SOURCES.items() if path.name == "__init__.py"}
    kinds = {name: [type(part).__name__ for part in body] for name, body in signs.items()}
    return {
        name
        for name, body in kinds.items()
        if body != (FRONT_DOOR_BODY if name == FRONT_DOOR else ["Expr"]) or not ast.get_docstring(TREES[name])
    }


def crowded_rooms() -> set[str]:
    """Folders of more than 14 code files; door signs and starters of commands are none."""
    files = Counter(path.parent for path in SOURCES.values() if path.name != "__init__.py")
    return {str(folder.relative_to(ROOT)) for folder, count in files.items() if count > MOST_FILES}


def long_files() -> set[str]:
    return {name for name, path in SOURCES.items() if len(path.read_text().splitlines()) > MOST_LINES}


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """('module:Class.name', function) of every function and method."""

    def inside(node: ast.AST, path: str) -> Iterator[tuple[str, ast.FunctionDef]]:
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, ast.FunctionDef | ast.ClassDef)
            below = path + (":" if ":" not in path else ".") + child.name if named else path
            if isinstance(child, ast.FunctionDef):
                yield below, child
            yield from inside(child, below)

    for module, tree in TREES.items():
        yield from inside(tree, module)


def long_functions() -> set[str]:
    return {name for name, node in functions() if node.end_lineno - node.lineno >= MOST_LINES_OF_A_FUNCTION}


def many_parameters() -> set[str]:
    """Functions of more than six parameters; `self`, commands and scripts do not count."""
    offences = set()
    for name, node in functions():
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        names = [name for name in names if name not in ("self", "cls")]
        if len(names) > MOST_PARAMETERS and not name.startswith(("search.commands", "scripts")):
            offences.add(name)
    return offences


def private_names_in_tests() -> set[str]:
    """'file: name' for every private name of ours that a test imports or reaches through a module."""
    offences = set()
    for path in sorted((ROOT / "tests").rglob("*.py")):
        tree = ast.parse(path.read_text())
        modules = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
                modules |= {a.asname or a.name for a in node.names if f"{node.module}.{a.name}" in SOURCES}
                offences |= {
                    f"{path.name}: {a.name}"
                    for a in node.names
                    if a.name.startswith("_") and not a.name.startswith("__")
                }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                name, attribute = node.value.id, node.attr
                if name in modules and attribute.startswith("_") and not attribute.startswith("__"):
                    offences.add(f"{path.name}: {name}.{attribute}")
    return offences


RULES = [
    circles,
    upward,
    code_in_door_signs,
    crowded_rooms,
    long_files,
    long_functions,
    many_parameters,
    private_names_in_tests,
]


def test_every_room_is_listed():
    assert {room(module) for module in SOURCES} - set(ROOMS) == set()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule):
    offences, allowed = rule(), ALLOWED.get(rule.__name__, set())
    assert not offences - allowed, f"new offences against {rule.__name__}: {sorted(offences - allowed)}"
    assert not allowed - offences, (
        f"gone, take them off ALLOWED[{rule.__name__!r}]: {sorted(allowed - offences)}"
    )
