"""Options that YAML and command lines can give: the decorators of what takes them, their types, their errors.

Numbers are finite, and at most so large that a float holds them exactly; true and false are no numbers. What
is wrong with an option is said in one line, with its value and what is allowed (`explain`).
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar, dataclass_transform

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError, validate_call
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs

P = ParamSpec("P")
T = TypeVar("T")
MOST = 2**53  # floats are exact up to here
LONGEST = 80  # letters of a value that an error shows
CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _sides(value: Any) -> tuple[int, int] | None:
    sides = value if isinstance(value, list | tuple) else [value, value]
    if value is None:
        return None
    if len(sides) != 2 or not all(type(side) is int and 0 < side <= MOST for side in sides):
        raise ValueError("must be one input side in pixels, or [lowest,highest]")
    if sides[0] > sides[1]:
        raise ValueError(f"must be [lowest,highest]; did you mean [{sides[1]},{sides[0]}]?")
    return sides[0], sides[1]


def _ends(*suffixes: str) -> AfterValidator:
    def check(path: Path) -> Path:
        if not path.name.endswith(suffixes):
            raise ValueError(f"must be a file whose name ends in {' or '.join(suffixes)}")
        return path

    return AfterValidator(check)


def _given(value: Any) -> Any:
    if value == "":
        raise ValueError("must not be empty; leave it out, or name a path")
    return value


_NUMBER = BeforeValidator(_number)
NonNegativeInt = Annotated[int, Field(ge=0, le=MOST), _NUMBER]
PositiveInt = Annotated[int, Field(gt=0, le=MOST), _NUMBER]
AtLeastTwo = Annotated[int, Field(ge=2, le=MOST), _NUMBER]
Number = Annotated[float, Field(allow_inf_nan=False), _NUMBER]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False), _NUMBER]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False), _NUMBER]
Fraction = Annotated[float, Field(ge=0, le=1), _NUMBER]
FractionBelowOne = Annotated[float, Field(ge=0, lt=1), _NUMBER]
PositiveFraction = Annotated[float, Field(gt=0, le=1), _NUMBER]
OpenFraction = Annotated[float, Field(gt=0, lt=1), _NUMBER]
GivenPath = Annotated[Path, BeforeValidator(_given)]  # no empty word, which would be the folder one is in
# Files that a command writes.
CsvFile = Annotated[Path, _ends(".csv")]
TableFile = Annotated[Path, _ends(".csv", ".csv.gz")]
JsonFile = Annotated[Path, _ends(".json")]
PredictorFile = Annotated[Path, _ends(".npz", ".safetensors")]
# Input sides in pixels: one, or [lowest,highest]; None: all that are known.
Sides = Annotated[tuple[int, int] | None, BeforeValidator(_sides)]

# What is said in place of those of pydantic's messages that a user would not understand, by their type.
SAID = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "path_type": "must be the path of a file or folder",
    "dict_type": "must be a mapping, {name:value}",
    "dataclass_type": "must be a mapping of its options, {name:value}",
    "list_type": "must be a list, [first,second]",
    "tuple_type": "must be a list, [first,second]",
    "unexpected_keyword_argument": "is no option here; leave it out",
}
TYPES = {"int", "float", "str", "bool"}  # what pydantic appends to the path of an option with several types


def file_name(name: str) -> str:
    """The name; ValueError unless a file of that name lies in the folder that it is written to.

    >>> file_name("titan_rtx_b64")
    'titan_rtx_b64'
    """
    if not re.fullmatch(r"[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]{0,199}", name):
        raise ValueError(
            f"{name[:80]!r} must be a name for files: 1 to 200 characters, none of them / or \\ or "
            "unprintable, and no dot in front"
        )
    return name


FileName = Annotated[str, AfterValidator(file_name)]


@dataclass_transform(frozen_default=True, field_specifiers=(field, Field))
def options(cls: type[T]) -> type[T]:
    """A frozen dataclass whose values are checked: a misspelt or mistyped option fails with its name."""
    return dataclass(frozen=True, config=CONFIG)(cls)  # type: ignore[return-value]  # pydantic's stub drops T


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """A function whose arguments are checked as the options of a class are."""
    return validate_call(config=CONFIG)(function)


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A question for the choice that is spelt most like a name, with a space before it; empty without one."""
    choices = list(choices)
    near = [choice for choice in choices if name and choice.startswith(name)][:1]
    near = near or difflib.get_close_matches(name, choices, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def explain(error: Exception, within: str = "") -> str:
    """What an error says, in one line; of options that are wrong, each with its value and what is allowed.

    `within` says where the options stand.

    >>> explain(error)
    'epochs=1.5 must be a whole number'
    """
    if isinstance(error, KeyError):
        return f"{error} is missing"
    if not isinstance(error, ValidationError):
        return str(error)
    problems: dict[str, list[Any]] = {}
    for problem in error.errors():
        parts = [str(part) for part in problem["loc"]]
        option = [part for part in parts if part not in TYPES and "[" not in part]
        problems.setdefault(".".join([*filter(None, [within]), *option]), []).append(problem)
    deepest = [path for path in problems if not any(other.startswith(f"{path}.") for other in problems)]
    return "; ".join(_line(path, problems[path]) for path in deepest)


def _line(path: str, problems: list[Any]) -> str:
    """What is wrong with one option, which may have several types."""
    value, reasons = problems[0]["input"], " or ".join(dict.fromkeys(map(_reason, problems)))
    if problems[0]["type"].startswith("missing"):
        return f"{path} is missing; please give it"
    is_phrase = reasons.startswith(("must ", "is "))
    if not path or (isinstance(value, Mapping | ArgsKwargs) and not is_phrase):
        return reasons  # of several options, which it names
    shown = value if len(str(value)) <= LONGEST else f"{str(value)[:LONGEST]}..."
    return f"{path}={shown}{'' if is_phrase else ':'} {reasons}"


def _reason(problem: Any) -> str:
    message = problem["msg"].removeprefix("Value error, ").replace("Input should", "must")
    hint = ""
    if problem["type"] == "literal_error":
        hint = did_you_mean(str(problem["input"]), re.findall("'(.*?)'", problem["ctx"]["expected"]))
    return SAID.get(problem["type"], message) + (hint and f".{hint}")
