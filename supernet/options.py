"""Options that YAML and command lines can give: the decorator of their classes, and their bounds.

Bounds at 0 are pydantic's own: `PositiveInt`, `NonNegativeInt`, `PositiveFloat`, `NonNegativeFloat`.
"""

import re
from dataclasses import field
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import AfterValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

T = TypeVar("T")
AtLeastTwo = Annotated[int, Field(ge=2)]
Fraction = Annotated[float, Field(ge=0, le=1)]
FractionBelowOne = Annotated[float, Field(ge=0, lt=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]


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


def explain(error: ValidationError) -> str:
    """What is wrong with options, in one line: for each its name, its value, and what is allowed."""
    return "; ".join(map(_explain_option, error.errors()))


def _explain_option(problem: Any) -> str:
    path = ".".join(map(str, problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ")
    return f"{path}={problem['input']}: {message}" if path else message


FileName = Annotated[str, AfterValidator(file_name)]


@dataclass_transform(frozen_default=True, field_specifiers=(field, Field))
def options(cls: type[T]) -> type[T]:
    """A frozen dataclass whose values are checked: a misspelt or mistyped option fails with its name."""
    return dataclass(frozen=True, config=ConfigDict(extra="forbid"))(cls)  # type: ignore[return-value]  # pydantic's stub drops T
