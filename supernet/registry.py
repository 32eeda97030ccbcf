"""The registry: `configs/<group>/<name>.yaml` is one choice.

Adding a file adds the choice; nothing else lists them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

INSTALLED = Path(__file__).parent / "configs"  # where a wheel puts them
FOLDER = INSTALLED if INSTALLED.is_dir() else Path(__file__).parents[1] / "configs"
FACTS = ("space", "target", "device", "accuracy")  # groups whose files say how things are
FACT_TYPE = "Target"  # targets that are built by a function have options: this machine, any GPU


def unknown_name(what: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that does not exist: offers the nearest spelling and lists what there is."""
    known = list(known)
    near = [other for other in known if name and other.startswith(name)][:1]
    near = near or difflib.get_close_matches(name, known, n=1)
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


def check_overrides(overrides: Iterable[str], config: str) -> None:
    """ValueError for `key=value` words whose key or choice does not exist, with the nearest spelling.

    Hydra refuses them too, but offers nothing near. Words that start with `hydra`, `+`, `-` or `~` are left
    to Hydra.
    """
    top = yaml.safe_load((FOLDER / f"{config}.yaml").read_text())
    chosen = {
        key: value for entry in top["defaults"] if isinstance(entry, dict) for key, value in entry.items()
    }
    chosen = {key: value for key, value in chosen.items() if "/" not in key}
    known = sorted({*chosen, *top} - {"defaults", "hydra"})
    nested = []
    for word in overrides:
        key, equals, value = word.partition("=")
        if not equals or word.startswith(("hydra", "+", "-", "~")):
            continue
        root, _, option = key.partition(".")
        if root not in known:
            raise unknown_name("option", root, known)
        if option:
            nested.append((root, option))
        elif root in chosen:
            chosen[root] = value
            for name in value.split(","):
                if name != "null" and name not in names(root):
                    raise unknown_name(root, name, names(root))
    if missing := [key for key, value in chosen.items() if value == "???"]:
        raise ValueError(
            f"please give {', '.join(f'{key}=...' for key in missing)} ({', '.join(names(missing[0]))})"
        )
    for root, option in nested:
        if root in FACTS and not _has_options(root, str(chosen[root])):
            raise ValueError(
                f"{root}.{option} states a fact and is no option; write a configs/{root}/NAME.yaml for "
                f"another {root}"
            )
        node = top[root] if root not in chosen else load(root, str(chosen[root]).split(",")[0])
        if isinstance(node, dict) and option.split(".")[0] not in node:
            raise unknown_name(f"option of {root}", option, [name for name in node if name != "_target_"])


def _has_options(group: str, name: str) -> bool:
    """Whether a choice among facts takes options all the same."""
    return (
        group == "target" and name in names(group) and not load(group, name)["_target_"].endswith(FACT_TYPE)
    )
