"""The registry: `configs/<group>/<name>.yaml` is one choice. Adding a file adds the choice; nothing else lists them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent


def unknown_name(what: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that does not exist: offers the nearest spelling and lists what there is."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"unknown {what} {name!r}.{hint} Known: {', '.join(known) or 'none'}")


def names(group: str) -> list[str]:
    """Names of the choices of a group (space, target, accuracy, searcher, ...), sorted."""
    return sorted(path.stem for path in (FOLDER / group).glob("*.yaml"))


def load(group: str, name: str) -> dict[str, Any]:
    """The YAML node `configs/<group>/<name>.yaml`."""
    if name not in names(group):
        raise unknown_name(group, name, names(group))
    node = yaml.safe_load((FOLDER / group / f"{name}.yaml").read_text())
    if not isinstance(node, dict):
        raise ValueError(f"configs/{group}/{name}.yaml must be a mapping with a _target_")
    return node


def build(node: Any) -> Any:
    """The object a node describes; the one call site of Hydra's `instantiate`."""
    from hydra.utils import instantiate

    return instantiate(node, _convert_="all")
