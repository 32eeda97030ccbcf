"""Help of the commands: what each is for, its options, its groups with their choices, and examples.

Everything is read from the files of the commands and of their configuration; none is imported.
"""

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from search.cli import describe
from supernet import choices, registry

ROOT = Path(__file__).parents[2]
ROOMS = ("search/commands", "search/commands/judging")  # whose files are the commands
USAGE = "ofa-frontier COMMAND key=value ..."
MOST_CHOICES = 12  # that are listed; `ofa-frontier list` has all
WIDTH = 110  # of help that is no terminal's
FLAGS = {
    "-m, --multirun": "one job for each combination of values in key=a,b; hydra/sweeper=optuna chooses them",
    "--config-dir DIR": "choices of your own: DIR/GROUP/NAME.yaml",
    "experiment=NAME": "a complete run: ofa-frontier list experiments",
    "--cfg job": "print the configuration and stop",
    "-sc install=bash": 'Tab completes words: eval "$(ofa-frontier search -sc install=bash)"',
}


def modules() -> dict[str, str]:
    """{name as it is typed: module} of every command, by the files of its rooms.

    >>> modules()["rank"]
    'search.commands.judging.rank'
    """
    files = {path.stem: room for room in ROOMS for path in (ROOT / room).glob("[a-z]*.py")}
    return {
        name.replace("_", "-"): f"{room.replace('/', '.')}.{name}" for name, room in sorted(files.items())
    }


def commands() -> dict[str, str]:
    """{name as it is typed: what it is for} of every command.

    >>> commands()["export"]
    'Write a subnet for other programs'
    """
    return {name: _about(module).partition(":")[0].rstrip(".") for name, module in modules().items()}


def overview() -> str:
    """The list of commands."""
    lines = [f"  {name:14} {said}" for name, said in commands().items()]
    end = "`COMMAND --help` lists the options of a command, `list` what there is: targets, spaces, ..."
    return "\n".join([USAGE, "", *lines, "", end])


def examples(command: str) -> list[tuple[str, str]]:
    """(words, what they do) of the examples of a command: the first comments of its YAML."""
    lines = _yaml(command).read_text().splitlines()
    marked = [line.removeprefix("#").strip() for line in lines if line.startswith("# ofa-frontier ")]
    return [(line.partition(" : ")[0].strip(), line.partition(" : ")[2]) for line in marked]


def groups(command: str) -> dict[str, str]:
    """{group: choice by default} of a command, `null` for none and `???` where one has to be chosen."""
    node = choices.read_yaml(_yaml(command))
    entries = [entry for entry in node["defaults"] if isinstance(entry, dict)]
    pairs = [(key.removeprefix("optional "), choice) for entry in entries for key, choice in entry.items()]
    return {group: "null" if choice is None else choice for group, choice in pairs if " " not in group}


def options(command: str) -> list[describe.Option]:
    """The options of a command that are no groups, with the defaults that its YAML sets."""
    node = choices.read_yaml(_yaml(command))
    listed = [option for option in describe.options(node["_target_"]) if option.name not in groups(command)]
    return [
        describe.Option(one.name, one.kind, str(node.get(one.name, one.default)), one.meaning)
        for one in listed
    ]


def has_configuration(command: str) -> bool:
    """Whether a command has a YAML of its name, as all have that compute."""
    return _yaml(command).is_file()


def show(command: str, words: Sequence[str] = ()) -> None:
    """Print the help of a command that has a configuration, with the choices that its words bring along."""
    registry.use_folders(*choices.folders_of(words))
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=WIDTH)
    console.print(Text(commands()[command] + "."))
    console.print(f"\n[bold]ofa-frontier {command} key=value ...[/]")
    if chosen := groups(command):
        console.print(
            "\n[bold]groups[/]: GROUP=NAME chooses, GROUP.OPTION=VALUE sets an option of the choice"
        )
        console.print(_grid({f"{group}={name}": _choices(group) for group, name in chosen.items()}))
    console.print("\n[bold]options[/]")
    console.print(_grid({_head(one): f"{one.meaning} ({one.kind})" for one in options(command)}))
    console.print("\n[bold]flags[/]")
    console.print(_grid(FLAGS))
    console.print("\n[bold]examples[/]")
    for words_, said in examples(command):
        console.print(Text(f"  {words_}\n      {said}"), soft_wrap=True)


def _about(module: str) -> str:
    """The first line of a module's docstring."""
    text = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text()
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


def _head(option: describe.Option) -> str:
    return f"{option.name}=..." if option.default == describe.REQUIRED else f"{option.name}={option.default}"


def _yaml(command: str) -> Path:
    return choices.FOLDER / f"{command.replace('-', '_')}.yaml"


def _choices(group: str) -> str:
    names = registry.names(group)
    more = f", ... (ofa-frontier list {group})" if len(names) > MOST_CHOICES else ""
    return ", ".join(names[:MOST_CHOICES]) + more


def _grid(rows: Mapping[str, str]) -> Table:
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    for head, said in rows.items():
        grid.add_row(Text(head), Text(said))
    return grid
