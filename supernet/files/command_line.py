"""Commands as they are typed: the words of options, and the line that says which command comes next."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supernet import choices

# A word that two shells, the user's and that of make, take as it is: what is not plain stands in quotes.
SAFE = re.compile(r"""[\w.+@/-]+=([\w./:@%+,\[\]-]|'[^"'$`\\\x00-\x1f\x7f]*')*""")


def words(options: Mapping[str, Any]) -> list[str]:
    """Options as the words of a command line; nested ones get dotted names.

    >>> words({"target": "v100_b64", "limits": {"params": 6e6}, "objectives": ["accuracy", "macs"]})
    ['target=v100_b64', 'limits.params=6000000.0', 'objectives=[accuracy,macs]']
    """
    listed = []
    for name, value in options.items():
        if isinstance(value, Mapping):
            listed += words({f"{name}.{key}": inner for key, inner in value.items()})
        else:
            listed.append(f"{name}={_word(value)}")
    return listed


def _word(value: Any) -> str:
    """A value as it is typed: a text with characters of Hydra's grammar in quotes."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_word, value))}]"
    if isinstance(value, str | Path) and not re.fullmatch(r"[\w./:@%+-]+", str(value)):
        # Backslashes count only before a quote, the closing one too.
        return "'" + re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + m[2].replace("'", "\\'"), str(value)) + "'"
    return str(value)


def typed(command: str, *given: str, **options: Any) -> str:
    """The whole command, ready to paste into a shell; `given` are words as they were typed before. Folders of
    the user's that choices are taken from come first.

    Left out are options with names or texts that a shell would run: they may be of a file of somebody else.

    >>> print(typed("search", predictor="run:runs/mine", latency_limit_ms=20))
    make search ARGS="predictor=run:runs/mine latency_limit_ms=20"
    """
    folders = [f"--config-dir {_word(folder)}" for folder in choices.folders_in_use()]
    safe = [word for word in words(options) if SAFE.fullmatch(word)]
    listed = " ".join([*folders, *given, *safe])
    return f'make {command} ARGS="{listed}"' if listed else f"make {command}"


def then(command: str, *given: str, **options: Any) -> str:
    """The last line that a command prints: the next one that makes sense, complete.

    >>> print(then("score", predictor="runs/mine.npz", rows="my.csv", column="lat_ms"))
    next: make score ARGS="predictor=runs/mine.npz rows=my.csv column=lat_ms"
    """
    return f"next: {typed(command, *given, **options)}"
