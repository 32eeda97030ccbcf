"""The registry: `configs/<group>/<name>.yaml` is one choice of a group, and building what a node describes.

A node is a mapping with `_target_`, the dotted name of a class or function, and arguments for it. Adding a
file adds a choice; nothing else lists them. Defaults are those of the class or function: `complete` adds them
to a node, so that YAML says only what differs.
"""

import difflib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

INSTALLED = Path(__file__).parent / "configs"  # where a wheel puts them
FOLDER = INSTALLED if INSTALLED.is_dir() else Path(__file__).parents[1] / "configs"
FACTS = ("space", "target", "device", "accuracy")  # groups whose files say how things are
FACT_TYPE = "latency.target.Target"  # targets that a function makes have options: this machine, any GPU
OURS = ("supernet", "latency", "search", "benchmarks")  # packages whose classes and functions nodes build
INSTALLED_IN = {"site-packages", "dist-packages"}
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
REQUIRED = "???"  # the value of an option that has to be given, as Hydra writes it
MOVED = {  # modules that nodes in run folders of release 0.1 name, and where what they held is now
    "latency.module_data": "latency.modules.design",
    "latency.module_fit": "latency.modules.fit",
    "search.model_table": "search.ranking.model_table",
    "search.timed_models": "search.ranking.timed_models",
    "supernet.accuracy": "supernet.surrogates.accuracy",
    "supernet.data": "supernet.weights.images",
    "supernet.evaluation": "supernet.training.measured_accuracy",
    "supernet.recipes": "supernet.training.recipes",
    "supernet.shrink": "supernet.deploy.shrink",
    "supernet.training_cost": "supernet.surrogates.training_cost",
}


def unknown_name(what: str, name: str, choices: Iterable[str]) -> ValueError:
    """The error for a name that does not exist: offers the nearest spelling and lists what there is."""
    choices = list(choices)
    near = [choice for choice in choices if name and choice.startswith(name)][:1]
    near = near or difflib.get_close_matches(name, choices, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"unknown {what} {name!r}.{hint} Known: {', '.join(choices) or 'none'}")


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


def get(group: str, name: str, **options: Any) -> Any:
    """What `configs/<group>/<name>.yaml` describes, with some options set to other values.

    >>> from supernet import registry
    >>> registry.names("searcher")
    ['ageing', 'linas', 'local', 'noisy_nsga2', 'nsga2', 'random']
    >>> searcher = registry.get("searcher", "nsga2", population=50)
    """
    return build(load(group, name) | options)


def states_facts(group: str, node: Mapping[str, Any]) -> bool:
    """Whether a node of the group says how something is, so that its arguments are no options."""
    return group in FACTS and (group != "target" or node.get("_target_") == FACT_TYPE)


def build(node: Any) -> Any:
    """The object that a node describes, its inner nodes first; what is no node is returned as it is."""
    if isinstance(node, list | tuple):
        return [build(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    arguments = {key: build(value) for key, value in node.items() if key != "_target_"}
    if "_target_" not in node:
        return arguments
    target = locate(node["_target_"])
    try:
        inspect.signature(target).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"_target_={node['_target_']}: {error}") from None
    return target(**arguments)


def locate(target: str) -> Callable[..., Any]:
    """The class or function of a dotted name; names of release 0.1 are found where they have moved to.

    Nodes come from files that somebody else may have written. So they build what this project or a module of
    your own defines, and nothing of Python's library or of an installed package: that could run any command.
    """
    module, _, name = target.rpartition(".")
    root = module.partition(".")[0]
    if root not in OURS and root in sys.stdlib_module_names:
        raise _not_ours(target)
    try:
        builder: Callable[..., Any] = pkgutil.resolve_name(f"{MOVED.get(module, module)}.{name}")
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"_target_={target} names no class or function ({error})") from error
    if not (inspect.isclass(builder) or inspect.isfunction(builder)) or not _is_ours(builder.__module__):
        raise _not_ours(target)
    return builder


def _is_ours(module: str) -> bool:
    """Whether a module is of this project or of the user: not of Python, not of an installed package."""
    root = module.partition(".")[0]
    path = getattr(sys.modules.get(module), "__file__", None)
    if root in OURS or path is None:
        return root in OURS
    return root not in sys.stdlib_module_names and INSTALLED_IN.isdisjoint(Path(path).parts)


def _not_ours(target: str) -> ValueError:
    return ValueError(
        f"_target_={target} must be a class or function of {', '.join(OURS[:3])} or of a module of your own, "
        "not of Python's library or an installed package"
    )


def complete(node: Any) -> Any:
    """The node with every option of what it builds: at its default, or REQUIRED where there is none."""
    if isinstance(node, list):
        return [complete(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: complete(value) for key, value in node.items()}
    if "_target_" not in node:
        return node
    for name, default in defaults(locate(node["_target_"])).items():
        value = to_jsonable_python(default)
        part_of_it = is_dataclass(default) and isinstance(node.get(name), dict)
        node[name] = value | node[name] if part_of_it else node.get(name, value)
    return node


def defaults(target: Callable[..., Any]) -> dict[str, Any]:
    """{option: default} of a class or function; REQUIRED where there is no default."""
    if not is_dataclass(target):
        options = inspect.signature(target).parameters.values()
        return {o.name: REQUIRED if o.default is o.empty else o.default for o in options if o.kind in NAMED}
    values = {}
    for field in fields(target):
        made = field.default if field.default_factory is MISSING else field.default_factory()
        made = made.get_default(call_default_factory=True) if isinstance(made, FieldInfo) else made
        if field.init:
            values[field.name] = REQUIRED if made is MISSING or made is PydanticUndefined else made
    return values
