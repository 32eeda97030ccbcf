"""What classes and functions say of their options, read from their source: nothing is imported.

An option is a field of a class or a parameter of a function; its meaning is the comment above it, or behind
it. So `--help` of a command that needs PyTorch takes as long as that of any other.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

REQUIRED = "needed"
SHARED = {  # options that mean the same in every command
    "seed": "of everything that is drawn at random",
    "threads": "of PyTorch on a CPU",
    "out": "file or folder that is written",
    "store": "file where measurements are kept; they are never made twice",
    "optimiser": "what steps with the gradients",
    "limits": "of any quantity: limits.params=6e6 limits.accuracy=0.78 (a lower limit)",
    "objectives": "quantities that are traded off: `ofa-frontier list objectives`",
    "engine": "what ran the networks",
    "precision": "they ran in",
    "epochs": "passes over the training images",
    "batch": "images of a step",
    "rate": "highest learning rate",
    "momentum": "of SGD",
    "weight_decay": "of weights, not of biases and norms",
    "label_smoothing": "share of each label that all classes get",
    "wandb": "where the record of Weights & Biases goes: offline into the run folder",
    "resolution": "one input side in pixels, or [lowest,highest]; all that are known",
}
KINDS = {  # types in the words of a user
    "Sides": "int or [int,int]",
    "Node": "group",
    "dict[str, Any]": "group",
    "FileName": "name",
    "GivenPath": "Path",
    "CsvFile": "Path",
    "TableFile": "Path",
    "JsonFile": "Path",
    "PredictorFile": "Path",
    "NonNegativeInt": "int >= 0",
    "PositiveInt": "int > 0",
    "AtLeastTwo": "int >= 2",
    "NonNegativeFloat": "float >= 0",
    "PositiveFloat": "float > 0",
    "FractionBelowOne": "float in [0,1)",
    "OpenFraction": "float in (0,1)",
    "PositiveFraction": "float in (0,1]",
    "Fraction": "float in [0,1]",
}


@dataclass(frozen=True)
class Option:
    """An option as `--help` shows it; `default` is REQUIRED where there is none."""

    name: str
    kind: str
    default: str
    meaning: str


@dataclass(frozen=True)
class _Module:
    name: str
    tree: ast.Module
    comments: dict[int, str]  # by line
    lines: list[str]

    def constant(self, name: str) -> ast.expr | None:
        """What a name of the module stands for, also where it is imported from a module of ours."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == name for t in node.targets
            ):
                return node.value
            if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
                return read_module(str(node.module)).constant(name)
        return None

    def imports(self, source: str, name: str) -> bool:
        """Whether `name` is imported from the module `source`."""
        froms = [
            node for node in self.tree.body if isinstance(node, ast.ImportFrom) and node.module == source
        ]
        return any(alias.name == name for node in froms for alias in node.names)

    def definition(self, name: str) -> tuple["_Module", ast.ClassDef | ast.FunctionDef]:
        """The class or function `name` and the module that defines it; ValueError for what is neither."""
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
                return self, node
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return read_module(str(node.module)).definition(alias.name)
        raise ValueError(f"{self.name} defines no {name}")

    def comment(self, first: int, last: int) -> str:
        """The comment in the lines above `first`, and in those from it to `last`."""
        above: list[str] = []
        line = first - 1
        while line in self.comments and self.lines[line - 1].lstrip().startswith("#"):
            above.insert(0, self.comments[line])
            line -= 1
        return " ".join(
            [*above, *(self.comments[at] for at in range(first, last + 1) if at in self.comments)]
        )


@cache
def read_module(name: str) -> _Module:
    """The source of a module; ValueError where there is none."""
    spec = find_spec(name)
    if spec is None or not spec.origin:
        raise ValueError(f"no module {name}")
    text = Path(spec.origin).read_text()
    comments = {
        token.start[0]: said
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
        if (said := re.sub(r"# type: ignore\[[\w,-]+\] *", "", token.string).lstrip("# "))
    }
    return _Module(name, ast.parse(text), comments, text.splitlines())


def purpose(target: str) -> str:
    """The first sentence of the docstring of a class or function, given by its dotted name."""
    module, node = _find(target)
    text = ast.get_docstring(node) or ast.get_docstring(module.tree) or ""
    return text.split("\n\n")[0].replace("\n", " ").split(". ")[0].rstrip(".:")


def options(target: str) -> list[Option]:
    """The options of a class or function, given by its dotted name, those of its bases last."""
    module, node = _find(target)
    nearest: dict[str, Option] = {}
    for option in _options(module, node):
        nearest.setdefault(option.name, option)
    return list(nearest.values())


def _find(target: str) -> tuple[_Module, ast.ClassDef | ast.FunctionDef]:
    module, _, name = target.rpartition(".")
    return read_module(module).definition(name)


def _options(module: _Module, node: ast.ClassDef | ast.FunctionDef) -> Iterator[Option]:
    if isinstance(node, ast.FunctionDef):
        for parameter, default in _parameters(node.args):
            last = (default or parameter).end_lineno or parameter.lineno
            yield _option(module, parameter.arg, parameter.annotation, default, (parameter.lineno, last))
        return
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            where = (line.lineno, line.end_lineno or line.lineno)
            if not ast.unparse(line.annotation).startswith("ClassVar"):
                yield _option(module, line.target.id, line.annotation, line.value, where)
    for base in node.bases:
        if isinstance(base, ast.Name) and not module.imports("typing", base.id):
            yield from _options(*module.definition(base.id))


def _parameters(arguments: ast.arguments) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    plain = [*arguments.posonlyargs, *arguments.args]
    missing: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults))
    yield from zip(plain, [*missing, *arguments.defaults], strict=True)
    yield from zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)


def _option(
    module: _Module, name: str, kind: ast.expr | None, default: ast.expr | None, lines: tuple[int, int]
) -> Option:
    meaning = module.comment(*lines) or SHARED.get(name, "")
    shown = REQUIRED if default is None else _shown(module, default)
    return Option(name, "" if kind is None else _kind(ast.unparse(kind)), shown, meaning)


def _kind(annotation: str) -> str:
    """An annotation in the words of a user: what may be None may be `null` on a command line."""
    words = annotation.replace("command.", "").replace(" | None", "").replace("'", "")
    for type_, said in KINDS.items():
        words = words.replace(type_, said)
    return words.replace("Literal[", "").rstrip("]") if words.startswith("Literal[") else words


def _shown(module: _Module, value: ast.expr) -> str:
    """A default as it is typed."""
    if isinstance(value, ast.Name) and (constant := module.constant(value.id)) is not None:
        return _shown(module, constant)
    if isinstance(value, ast.Call):
        name = ast.unparse(value.func)
        factory = next((key.value for key in value.keywords if key.arg == "default_factory"), None)
        plain = next((key.value for key in value.keywords if key.arg == "default"), None)
        if isinstance(factory, ast.Lambda):
            return _shown(module, factory.body)
        if factory is not None:
            return {"list": "[]", "dict": "{}"}.get(ast.unparse(factory), f"see {ast.unparse(factory)}")
        if plain is not None or name in ("field", "Field"):
            return _shown(module, plain or value.args[0])
        if name == "Path":
            return str(ast.literal_eval(value.args[0]))
        return "{}" if name == "dict.fromkeys" else ast.unparse(value)
    if isinstance(value, ast.Constant):
        words = {"None": "null", "True": "true", "False": "false"}
        return words.get(str(value.value), str(value.value))
    return ast.unparse(value).replace("'", "").replace(", ", ",").replace("(", "[").replace(")", "]")
