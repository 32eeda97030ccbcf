"""What the benchmarks share: their command lines, and timing."""

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from supernet.registry import unknown_name

Options = TypeVar("Options")
Result = TypeVar("Result")


def timed(function: Callable[[], Result]) -> tuple[Result, float]:
    """What the function returns, and the seconds it takes."""
    begun = time.perf_counter()
    return function(), time.perf_counter() - begun


def words(options: type[Options], parts: Iterable[str] | None = None) -> tuple[list[str], Options]:
    """(the parts that are asked for, or all without a name; the options) of the command line.

    An option is `name=value`, `--name value` or, to switch it on, `--name`; `options` is the dataclass of
    their defaults. One whose default is a tuple takes several: `--name value value` or `name=[value,value]`.
    Without `parts` any other word is returned. SystemExit for a word that means nothing.
    """
    defaults = {field.name: field.default for field in fields(options)}  # type: ignore[arg-type]
    asked: list[str] = []
    values: dict[str, Any] = {}
    several = ""  # the option that takes the words that follow
    remaining = iter(sys.argv[1:])
    for word in remaining:
        name, equals, value = word.removeprefix("--").partition("=")
        if not equals and not word.startswith("--"):
            if several:
                values[several].append(word)
                continue
            asked.append(word if parts is None else _one_of(word, parts))
            continue
        name = _one_of(name.replace("-", "_"), defaults)
        several = name if isinstance(defaults[name], tuple) else ""
        if several:
            values[name] = value.strip("[]").replace(",", " ").split()
        else:
            values[name] = value if equals else "1" if defaults[name] is False else next(remaining, "")
    try:
        return asked or list(parts or ()), TypeAdapter(options).validate_python(values)
    except ValidationError as error:
        problem = error.errors()[0]
        raise SystemExit(f"error: {problem['loc'][0]}={problem['input']}: {problem['msg']}") from error


def _one_of(word: str, allowed: Iterable[str]) -> str:
    if word not in allowed:
        raise SystemExit(f"error: {unknown_name('word', word, list(allowed))}")
    return word
