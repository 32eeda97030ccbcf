"""Who writes, and how: through `supernet.files.disk` alone, where locks and kills are thought of once."""

import ast

import pytest

from search.cli import help
from tests.contract.test_house import TREES
from tests.faults.commands import WRITING

# Calls that change a disk, by the name of the function or method.
CHANGING = {
    "write_text",
    "write_bytes",
    "savez",
    "savez_compressed",
    "save_file",
    "to_csv",
    "savetxt",
    "unlink",
    "rmdir",
    "rmtree",
    "mkdir",
    "makedirs",
    "touch",
    "symlink_to",
    "rename",
    "renames",
}
OURS = {"artifact", "disk"}  # modules whose functions may have the same names
MAY = {
    "supernet.files.disk": "this is it",
    "latency.measuring.remote.runner": "runs alone on the board that is measured, where this package is not",
    "latency.measuring.remote.transports": "folders of one connection, in the system's folder for such files",
    "search.cli.sweep": "removes the empty folder that Hydra made for a job",
}
READING = {"list", "bound"}  # commands that write nothing


def writes(tree):
    """'line: call' for every call of a file that changes a disk by itself."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        owner = getattr(getattr(function, "value", None), "id", "")
        mode = [
            *node.args[isinstance(function, ast.Name) :][:1],
            *(k.value for k in node.keywords if k.arg == "mode"),
        ]
        opens = name == "open" and any(
            isinstance(one, ast.Constant) and isinstance(one.value, str) and set(one.value) & set("wax+")
            for one in mode
        )
        replaces = name == "replace" and owner == "os"
        changes = isinstance(function, ast.Attribute) and name in CHANGING and owner not in OURS
        if changes or opens or replaces:
            yield f"{node.lineno}: {ast.unparse(node)[:60]}"


def test_nothing_else_changes_a_disk():
    """Scripts in benchmarks may: what they write is a table for people."""
    offences = {
        f"{module}:{write}"
        for module, tree in TREES.items()
        if module not in MAY and not module.startswith("benchmarks")
        for write in writes(tree)
    }
    assert offences == set()


@pytest.mark.parametrize(
    "text", ["open(p, 'w')", "p.open('ab')", "p.write_text(t)", "np.savez(f)", "os.replace(a, b)"]
)
def test_a_write_is_recognised(text):
    assert list(writes(ast.parse(text)))


def test_all_commands_that_write_are_tried_with_faults():
    """Each has a small form in `tests.faults.commands`, where locks and faults are checked."""
    assert {writing.name for writing in WRITING.values()} | READING == set(help.modules())
