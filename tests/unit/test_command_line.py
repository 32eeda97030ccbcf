"""The one command: its help, its lists, what Tab completes."""

import shlex
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from pydantic_core import to_jsonable_python

from latency.zoo import catalogue
from search import command
from search.cli import describe, entry, help, listing
from search.models import QUANTITIES
from supernet import choices, registry
from supernet.files import command_line

COMPUTING = [name for name in help.commands() if help.has_configuration(name)]


@pytest.fixture
def typed(monkeypatch, capsys):
    """Runs the command line with these words, and returns what it prints."""

    def run(*words):
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["ofa-frontier", *words])
        entry.main()
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", COMPUTING)
def test_help_has_the_options_of_the_class_with_their_defaults(name):
    """Read from the source without importing it: the same names and values that the class itself has."""
    node = choices.read_yaml(choices.FOLDER / f"{name.replace('-', '_')}.yaml")
    defaults = registry.complete(node)
    options = {option.name: option for option in help.options(name)}
    assert set(options) == set(registry.defaults(registry.locate(node["_target_"]))) - set(help.groups(name))
    for option in options.values():
        assert option.meaning, f"{name}: {option.name} has no comment that says what it is"
        value = to_jsonable_python(defaults[option.name])
        if option.default == describe.REQUIRED:
            assert value == registry.REQUIRED
        elif not isinstance(value, dict) and "(" not in option.default:
            same = (
                option.default == value if isinstance(value, str) else yaml.safe_load(option.default) == value
            )
            assert same, option


@pytest.mark.parametrize("name", COMPUTING)
def test_help_shows_a_few_examples_that_compose(name, typed):
    shown = typed(name, "--help")
    assert 3 <= len(help.examples(name)) <= 4
    for line, said in help.examples(name):
        program, verb, *words = shlex.split(line)
        assert (program, verb) == ("ofa-frontier", name)
        assert line in shown
        assert said in shown
        swept = [word.partition(",")[0] if "-m" in words and "[" not in word else word for word in words]
        command.compose(name.replace("-", "_"), [word for word in swept if word != "-m"])


def test_help_lists_the_groups_of_its_command_only(typed):
    assert set(help.groups("export")) == {"target", "data"}
    shown = typed("export", "--help")
    assert "regressor" not in shown
    assert "searcher" not in shown
    assert "formats=[onnx,torch_export,state_dict]" in shown
    assert "linas, local" in typed("search", "-h")


def test_help_imports_neither_torch_nor_hydra():
    code = (
        "import sys; from search.cli import entry; entry.main(); print({'torch', 'hydra'} & set(sys.modules))"
    )
    words = [sys.executable, "-c", code, "train", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    assert "recipe=sandwich" in done.stdout


def test_an_old_python_is_refused_at_once(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 12))
    with pytest.raises(SystemExit, match=r"needs Python >= 3\.11, this is 3\.10"):
        entry.main()


def test_targets_are_listed_with_error_source_and_origin(typed):
    rows = {row["name"]: row for row in listing.table("target").rows()}
    assert set(rows) == set(registry.names("target"))
    for name in catalogue.names():
        assert rows[name]["median error"]
        assert rows[name]["source"]
        assert rows[name]["from"] == "shipped"
    facts = catalogue.predictor("v100_b64").facts["test"]
    assert rows["v100_b64"]["median error"] == f"{facts['median_ape']:.2g}% of {facts['n']} left out"
    assert "Titan RTX" in typed("list", "targets")


@pytest.mark.parametrize("group", listing.groups())
def test_every_choice_says_what_it_is_for(group):
    for row in listing.table(group).rows():
        assert any(row[head] for head in row if head not in ("name", "from")), row
        assert "broken" not in str(row)


def test_objectives_groups_and_single_choices(typed):
    assert [row["name"] for row in listing.table("objective").rows()][: len(QUANTITIES)] == list(QUANTITIES)
    assert {row["group"] for row in listing.table().rows()} == set(listing.groups())
    assert "searcher.population=200" in typed("list", "searchers", "local")
    assert "bandwidth_gbs: 320" in typed("list", "device", "t4")
    with pytest.raises(SystemExit, match="Did you mean 'target'"):
        typed("list", "targts")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sea", ["search"]),
        ("search target=v100", ["target=v100_b1", "target=v100_b32", "target=v100_b64"]),
        ("search searcher.popu", ["searcher.population="]),
        ("train recipe=s", ["recipe=sandwich"]),
        ("list targ", ["target"]),
    ],
)
def test_tab_completes(line, words, typed, monkeypatch):
    """As bash asks: the program with `-sc query=bash` and the line in COMP_LINE."""
    monkeypatch.setenv("COMP_LINE", f"ofa-frontier {line}")
    assert typed("-sc", "query=bash").split() == words


def test_completion_is_installed_for_the_program(typed):
    for words in (["search", "-sc", "install=bash"], ["-sc", "install=bash"]):
        script = typed(*words)
        assert script.rstrip().endswith("-F hydra_bash_completion ofa-frontier")
        assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_a_node_is_built_once():
    @command.options
    class Options:
        searcher: command.Node
        seed: int = 0

    options = Options(searcher=registry.load("searcher", "random"))
    built = registry.build(options.searcher)
    assert registry.build(replace(options, seed=1).searcher) is built
    assert registry.build([options.searcher])[0] is built
    assert registry.build(dict(options.searcher)) is not built
    other = Options(searcher=options.searcher | {"batch": 7})
    assert registry.build(other.searcher).batch == 7


def test_a_line_to_paste_has_nothing_that_a_shell_would_run(tmp_path, monkeypatch):
    """Through make, whose recipe is a second shell; texts may be of files of somebody else."""
    evil = [
        "x;touch pwned",
        'x";touch pwned;"',
        "$(touch pwned)",
        "`touch pwned`",
        "';touch pwned;'",
        "a\ntouch pwned",
    ]
    options = {f"o{i}": text for i, text in enumerate(evil)} | {
        "a;touch pwned;b": 1,
        "l": evil,
        "out": "runs/it 1",
    }
    line = command_line.typed("show", **options)
    assert line == """make show ARGS="o0='x;touch pwned' out='runs/it 1'\""""
    (tmp_path / "Makefile").write_text("show:\n\t@printf '%s\\n' $(ARGS)\n")
    for name in ("MAKELEVEL", "MAKEFLAGS"):  # as typed into a shell, though a make may run these tests
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "o0=x;touch pwned\nout=runs/it 1\n"
    assert not (tmp_path / "pwned").exists()
