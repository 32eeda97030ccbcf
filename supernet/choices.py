"""Where the choices of a group are from: files that ship, folders that the user names, installed plugins.

- `configs/<group>/<name>.yaml` ships with the project.
- `use_folders` adds those of the user (`--config-dir DIR`): `DIR/<group>/<name>.yaml`. The folder that holds
  DIR is where Python finds the modules that they name.
- An installed package offers classes and functions as entry points of the groups in PLUGINS, the name of the
  entry point being that of the choice. None is imported before it is chosen.

These are all the ways in: a name in any other file is looked up here (`targets`), never imported by itself.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

INSTALLED = Path(__file__).parent / "configs"  # where a wheel puts them
FOLDER = INSTALLED if INSTALLED.is_dir() else Path(__file__).parents[1] / "configs"
SHIPPED = "shipped"
OURS = ("supernet", "latency", "search", "benchmarks")  # packages whose classes and functions nodes build
INSTALLED_IN = {"site-packages", "dist-packages"}
PLUGINS = {  # groups that plugins add to, and those of their entry points
    "space": "ofa_frontier.spaces",
    "target": "ofa_frontier.targets",
    "engine": "ofa_frontier.engines",
    "learner": "ofa_frontier.predictors",
    "searcher": "ofa_frontier.searchers",
    "recipe": "ofa_frontier.recipes",
    "objective": "ofa_frontier.objectives",
}
LARGEST_YAML, MOST_NODES = 2**20, 10**6  # bytes and values of a YAML file; a table of layers has 15 kB
NAMED = ("space", "target", "device")  # groups whose nodes say their own name
_folders: list[Path] = []  # of the user, for this process


@dataclass(frozen=True)
class Choice:
    """A choice of a group. `origin` is SHIPPED, `plugin PACKAGE`, the folder of the user, or a library."""

    group: str
    name: str
    origin: str
    path: Path | None = None  # its YAML
    target: str | None = None  # what a plugin offers: MODULE.NAME
    facts: Mapping[str, Any] | None = None  # the node itself, of what is in a library

    def node(self) -> dict[str, Any]:
        """The node that describes it; ValueError for a file that is none."""
        if self.facts is not None:
            return dict(self.facts)
        if self.path is None:
            return {"_target_": self.target}
        node = read_yaml(self.path)
        if not isinstance(node, dict):
            raise ValueError(f"{self.path} must be a mapping with a _target_")
        if self.group in NAMED and node.get("name") not in (None, self.name):
            raise ValueError(f"{self.path}: name: {node['name']} must be that of the file, {self.name}")
        return node

    def __str__(self) -> str:
        return f"{self.path}" if self.path else f"{self.target} ({self.origin})"


def use_folders(*folders: str | Path) -> None:
    """Take these folders of the user, and no others, as sources of choices from now on in this process.

    ValueError for a path that is no folder.

    >>> use_folders("tests")  # tests/target/board.yaml would be target=board
    >>> use_folders()
    """
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise ValueError(f"--config-dir {folder} is no folder; it holds GROUP/NAME.yaml, see `list`")
        if (parent := str(folder.absolute().parent)) not in sys.path:
            sys.path.append(parent)  # last: no module of the user hides one of Python or of a package
    _folders[:] = [Path(folder) for folder in folders]
    _targets_of.cache_clear()


def used_folders() -> list[Path]:
    """The folders of the user that choices come from, absolute."""
    return [folder.absolute() for folder in _folders]


def folders_of(words: Iterable[str]) -> list[str]:
    """The folders of `--config-dir` among the words of a command line.

    >>> folders_of(["--config-dir", "mine", "target=board"])
    ['mine']
    """
    flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    flags.add_argument("--config-dir", "-cd", action="append", default=[])
    try:
        named: list[str] = flags.parse_known_args(list(words))[0].config_dir
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error
    return named


def folders_in_use() -> tuple[Path, ...]:
    """The folders of the user, as `use_folders` was given them."""
    return tuple(_folders)


def groups() -> list[str]:
    """Names of all groups that have choices, sorted."""
    folders = {path.name for folder in (FOLDER, *_folders) for path in folder.iterdir() if path.is_dir()}
    offered = {group for group in PLUGINS if any(_plugins(group))}
    return sorted(group for group in folders | offered if not group.startswith((".", "_", "hydra")))


def choices(group: str) -> list[Choice]:
    """All choices of a group, sorted by name."""
    found = [*_files(FOLDER, SHIPPED, group), *_plugins(group)]
    found += [choice for folder in _folders for choice in _files(folder, str(folder), group)]
    return sorted(found, key=lambda choice: choice.name)


def targets() -> frozenset[str]:
    """The full names of all classes and functions that nodes may build: those that `_target_` names in a file
    that ships or in a folder of the user, and those that plugins offer."""
    offered = {str(choice.target) for group in PLUGINS for choice in _plugins(group)}
    modules = {target.rpartition(".")[0] for target in offered}
    mine = {target for folder in _folders for target in _targets_of(folder)}
    return _shipped_targets() | offered | {one for one in mine if not _is_foreign(one, modules)}


@cache
def _shipped_targets() -> frozenset[str]:
    """By their text, because parsing all these files takes a tenth of a second."""
    texts = (path.read_text() for path in FOLDER.rglob("*.yaml"))
    return frozenset(target for text in texts for target in re.findall(r"\b_target_: *([\w.]+)", text))


def _is_foreign(target: str, plugins: Iterable[str]) -> bool:
    """Whether what a folder of the user names is of Python's library or of an installed package, unless that
    is this project or a module with plugins."""
    module = target.rpartition(".")[0]
    root = module.partition(".")[0]
    if root in OURS or module in plugins:
        return False
    spec = find_spec(root) if root and root not in sys.stdlib_module_names else None
    places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or ())]
    return root in sys.stdlib_module_names or any(INSTALLED_IN & {*Path(place).parts} for place in places)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; ValueError that names the file for what is none, or is a bomb: too
    long, too deep, or with references that stand for more than MOST_NODES."""
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_YAML + 1)
        if len(text) > LARGEST_YAML:
            raise ValueError(f"it has more than {LARGEST_YAML:,} bytes")
        content = yaml.safe_load(text.decode())
        if (nodes := _nodes(content, {})) > MOST_NODES:
            raise ValueError(f"it stands for {nodes:,} values, at most {MOST_NODES:,} are read")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no YAML that can be read: {reason}; mend it") from error
    return content


def _nodes(content: Any, counted: dict[int, int]) -> int:
    """How many values a content has, those that are referred to as often as they are."""
    if not isinstance(content, dict | list):
        return 1
    if id(content) not in counted:
        parts = content.values() if isinstance(content, dict) else content
        counted[id(content)] = 1 + sum(_nodes(part, counted) for part in parts)
    return counted[id(content)]


def _files(folder: Path, origin: str, group: str) -> Iterator[Choice]:
    for path in (folder / group).glob("*.yaml"):
        yield Choice(group, path.stem, origin, path=path)


def _plugins(group: str) -> Iterator[Choice]:
    if group in PLUGINS:
        for name, target, package in _entry_points(PLUGINS[group], tuple(sys.path)):
            yield Choice(group, name, f"plugin {package}", target=target)


@cache
def _entry_points(group: str, path: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """(name, MODULE.NAME, package) of each entry point of a group that is installed along Python's path."""
    return [
        (point.name, f"{point.module}.{point.attr}", "unknown" if point.dist is None else point.dist.name)
        for point in entry_points(group=group)
    ]


@cache
def _targets_of(folder: Path) -> frozenset[str]:
    return frozenset(_targets(read_yaml(path) for path in sorted(folder.rglob("*.yaml"))))


def _targets(nodes: Iterable[Any]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, dict):
            if isinstance(target := node.get("_target_"), str):
                yield target
            yield from _targets(node.values())
        elif isinstance(node, list):
            yield from _targets(node)
