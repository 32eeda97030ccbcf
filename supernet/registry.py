"""The registry: the choices of each group by name, and building what a node describes.

A node is a mapping with `_target_`, the dotted name of a class or function, and arguments for it. Adding a
file, or installing a plugin, adds a choice (`choices`); nothing else lists them. Defaults are those of the
class or function: `complete` adds them to a node, so that YAML says only what differs.
"""

import difflib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from supernet import choices, extras
from supernet.choices import FOLDER, SHIPPED, Choice, use_folders
from supernet.devices import catalogue
from supernet.extras import NotInstalledError
from supernet.options import did_you_mean, explain

__all__ = ["FOLDER", "use_folders"]  # of choices, for those who look for them here
FACTS = ("space", "target", "device", "accuracy")  # groups whose files say how things are
CALLED_SO = ("space", "device")  # groups whose objects have the names of their choices
FACT_TYPE = "latency.target.Target"  # targets that a function makes have options: this machine, any GPU
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
    known = ", ".join(choices) or "none"
    return ValueError(f"unknown {what} {name!r}.{did_you_mean(name, choices)} Known: {known}")


def names(group: str) -> list[str]:
    """Names of the choices of a group (space, target, accuracy, searcher, ...), sorted."""
    return list(dict.fromkeys(choice.name for choice in choices.choices(group)))


def shipped(group: str) -> list[str]:
    """Names of the choices of a group that ship with the project, sorted."""
    return [choice.name for choice in choices.choices(group) if choice.origin == SHIPPED]


def find(group: str, name: str) -> Choice:
    """The choice `name` of a group; ValueError for an unknown name, and for one that two sources have.

    Devices have other spellings, and there are more of them than are listed (`devices.catalogue`).
    """
    same = [choice for choice in choices.choices(group) if choice.name == name]
    if not same and group == "device":
        return catalogue.find(name, choices.choices(group))
    if not same:
        raise unknown_name(group, name, names(group))
    if len(same) > 1:
        raise ValueError(f"{group}={name} is more than one: {' and '.join(map(str, same))}; rename one")
    return same[0]


def exists(group: str, name: str) -> bool:
    """Whether a group has this choice, listed or not."""
    return name in names(group) or (group == "device" and catalogue.has(name, choices.choices(group)))


def load(group: str, name: str) -> dict[str, Any]:
    """The node of a choice: for a file that ships that of `configs/<group>/<name>.yaml`."""
    return find(group, name).node()


def get(group: str, name: str, **options: Any) -> Any:
    """What a choice describes, with some options set to other values.

    >>> from supernet import registry
    >>> registry.names("searcher")
    ['ageing', 'linas', 'local', 'noisy_nsga2', 'nsga2', 'random']
    >>> searcher = registry.get("searcher", "nsga2", population=50)
    """
    choice = find(group, name)
    if "_target_" in options:
        raise ValueError(
            f"_target_={options['_target_']} is no option of {choice}: it says itself what it builds"
        )
    built = build(choice.node() | options)
    if group in CALLED_SO and built.name != choice.name:
        raise ValueError(f"{choice} builds one that is called {built.name}: give both the same name")
    return built


def states_facts(group: str, node: Mapping[str, Any]) -> bool:
    """Whether a node of the group says how something is, so that its arguments are no options."""
    return group in FACTS and (group != "target" or node.get("_target_") == FACT_TYPE)


class Built(dict[str, Any]):
    """A node with the object that it describes, so that `build` makes nothing twice: a device that is asked
    for its facts is asked once. A copy with other values (`node | {...}`) is a plain node."""

    def __init__(self, node: Mapping[str, Any], built: Any) -> None:
        super().__init__(node)
        self.built = built


def build(node: Any, option: str = "") -> Any:
    """The object that a node describes, its inner nodes first; what is no node is returned as it is.

    ValueError for arguments that are wrong, which calls them parts of `option`, where the node was given.
    """
    if isinstance(node, Built):
        return node.built
    within = f"{option}." if option else ""
    if isinstance(node, list | tuple):
        return [build(item, f"{within}{i}") for i, item in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    arguments = {key: build(value, f"{within}{key}") for key, value in node.items() if key != "_target_"}
    if "_target_" not in node:
        return arguments
    target = locate(node["_target_"])
    try:
        inspect.signature(target).bind(**arguments)
    except TypeError:
        options = defaults(target)
        if unknown := [name for name in arguments if name not in options]:
            raise unknown_name(f"option of {node['_target_']}", str(unknown[0]), options) from None
        missing = [n for n, default in options.items() if default == REQUIRED and n not in arguments]
        raise ValueError(
            f"please give {', '.join(f'{within}{n}=...' for n in missing)}, which {node['_target_']} needs"
        ) from None
    try:
        return target(**arguments)
    except ValidationError as error:
        causes = (problem.get("ctx", {}).get("error") for problem in error.errors())
        for cause in causes:
            if isinstance(cause, NotInstalledError):  # raised while checking itself, wrapped by pydantic
                raise cause from error
        raise ValueError(explain(error, option)) from error


def locate(target: str) -> Callable[..., Any]:
    """The class or function of a dotted name; names of release 0.1 are found where they have moved to.

    Nodes come from files that somebody else may have written. So they build only what is registered under
    exactly this name (`choices.targets`), and of that only what its own package defines: nothing that a
    module has imported from Python's library or from another package, which could run any command.
    """
    module, _, name = str(target).rpartition(".")
    module = MOVED.get(module, module)
    if f"{module}.{name}" not in choices.targets():
        raise _not_registered(target)
    try:
        builder: Callable[..., Any] = pkgutil.resolve_name(f"{module}:{name}")
    except (ImportError, AttributeError, ValueError) as error:
        if isinstance(error, ModuleNotFoundError) and not f"{module}.".startswith(f"{error.name}."):
            raise NotInstalledError(extras.explain(error)) from error
        raise ValueError(
            f"_target_={target} names no class or function ({error}): write a dotted name"
        ) from error
    is_builder = inspect.isclass(builder) or inspect.isfunction(builder)
    if not is_builder or builder.__module__.partition(".")[0] not in (
        *choices.OURS,
        module.partition(".")[0],
    ):
        raise _not_registered(target)
    return builder


def _not_registered(target: Any) -> ValueError:
    near = difflib.get_close_matches(str(target), choices.targets(), n=1, cutoff=0.8)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(
        f"_target_={target} is not registered.{hint} A node builds what a file of configs/, a file in a "
        "folder given as --config-dir, or an installed plugin names exactly so; nothing of Python or of "
        "another package"
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
