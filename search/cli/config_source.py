"""Where Hydra reads the configuration of a command: from the registry, every node with all options.

Hydra is extended by its public plugins only, and only while a command of ours composes: other programs of the
same process see nothing of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from search.cli import describe
from supernet import choices, registry

SCHEME = "registry"
EXPERIMENT = "experiment"  # the group whose files set options of a whole command, after its own


class RegistrySource(ConfigSource):
    """The commands `configs/NAME.yaml`, and the choices of all groups wherever they are from.

    Nodes get every option of what they build. So all options can be set on the command line, and are in the
    config.yaml of a run, without being repeated in YAML. `plain` are options of the command that are no
    groups, also where another command has a group of that name (recipe). Of `optional` groups Hydra itself
    leaves a choice out that does not exist.
    """

    plain: ClassVar[frozenset[str]] = frozenset()
    optional: ClassVar[frozenset[str]] = frozenset()
    command: ClassVar[str] = ""

    def __getstate__(self) -> dict[str, Any]:
        """With what a process that runs a job has to know, too: launchers send sources there."""
        known = {"plain": self.plain, "optional": self.optional, "command": self.command}
        return {**vars(self), **known, "folders": choices.used_folders()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        choices.use_folders(*state.pop("folders"))
        self.__dict__.update(state)

    @staticmethod
    def scheme() -> str:
        return SCHEME

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path == "" or (config_path not in self.plain and config_path in choices.groups())

    def is_config(self, config_path: str) -> bool:
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        return registry.exists(group, name) if group else name in command_names()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        groups = [] if config_path or results_filter == ObjectType.CONFIG else choices.groups()
        if results_filter == ObjectType.GROUP:
            return sorted(group for group in groups if group not in self.plain)
        return sorted([*groups, *(registry.names(config_path) if config_path else command_names())])

    def load_config(self, config_path: str) -> ConfigResult:
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        if not self.is_config(config_path):
            raise ConfigLoadError(f"no configuration {config_path}")
        if group:
            choice = registry.find(group, name)
            node, text = choice.node(), choice.path.read_text() if choice.path else ""
            if group == EXPERIMENT:
                self._check_command(name, text)
        else:
            path = choices.FOLDER / f"{name}.yaml"
            node, text = choices.read_yaml(path), path.read_text()
            node["defaults"].insert(node["defaults"].index("_self_") + 1, {EXPERIMENT: None})
        return ConfigResult(
            provider=self.provider,
            path=self.full_path(),
            config=_with_options(group, node),
            header=self._get_header_dict(text[:512]),
        )

    def _check_command(self, experiment: str, text: str) -> None:
        """ValueError for an experiment of another command than its comment `# ofa-frontier COMMAND` names."""
        marked = [line.split()[2] for line in text.splitlines() if line.startswith("# ofa-frontier ")]
        if marked and self.command not in marked:
            raise ValueError(f"experiment={experiment} is one of {marked[0]}, not of {self.command}")


class RegistryFirst(SearchPathPlugin):
    """Puts the registry in place of the caller's package, the usual main source, while a command composes."""

    active: ClassVar[bool] = False

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if self.active:
            places = search_path.get_path()
            places[:] = [place for place in places if place.provider != "main"]
            search_path.append("main", f"{SCHEME}://")


@contextmanager
def reading(command: str) -> Iterator[None]:
    """While this holds, Hydra composes `configs/<command>.yaml` and its groups; also inside another command,
    which reads its own again afterwards."""
    for plugin in (RegistrySource, RegistryFirst):
        Plugins.instance().register(plugin)
    node = choices.read_yaml(choices.FOLDER / f"{command}.yaml")
    groups = _groups(node)
    options = frozenset(option.name for option in describe.options(node["_target_"]))
    outer = RegistryFirst.active, RegistrySource.plain, RegistrySource.optional, RegistrySource.command
    RegistrySource.plain = options - groups.keys()
    RegistrySource.optional = frozenset(group for group, optional in groups.items() if optional)
    RegistrySource.command = command.replace("_", "-")
    RegistryFirst.active = True
    try:
        yield
    finally:
        RegistryFirst.active, RegistrySource.plain, RegistrySource.optional, RegistrySource.command = outer


def command_names() -> list[str]:
    """Names of the files that configure commands, sorted."""
    return sorted(path.stem for path in choices.FOLDER.glob("*.yaml"))


def _groups(node: dict[str, Any]) -> dict[str, bool]:
    """The groups in the defaults of a node, and whether a choice that does not exist is left out."""
    keys = [key for entry in node.get("defaults", ()) if isinstance(entry, dict) for key in entry]
    return {key.removeprefix("optional "): key.startswith("optional ") for key in keys}


def _with_options(group: str, node: dict[str, Any]) -> Any:
    if "_target_" not in node or registry.states_facts(group, node):
        return OmegaConf.create(node)
    choosable = _groups(node)
    options = registry.complete(node)
    # Hydra fills in the groups of its defaults itself.
    config = OmegaConf.create(
        {key: value for key, value in options.items() if key in node or key not in choosable}
    )
    for option, value in options.items():
        # A mapping without values takes any names, which are checked later.
        if isinstance(value, dict) and not any(value.values()) and option in config:
            OmegaConf.set_struct(config[option], False)
    return config
