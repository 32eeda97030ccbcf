"""Files that hold arrays and facts: one `.npz` without pickle, written aside and renamed, refused when
foreign."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSION = 1
DAMAGE = (zipfile.BadZipFile, zlib.error, ValueError, TypeError, KeyError, AttributeError, OSError, EOFError)


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new, never half of it."""
    aside = path.with_name(path.name + ".part")
    aside.write_text(text)
    os.replace(aside, path)


def save(
    path: Path,
    kind: str,
    arrays: Mapping[str, NDArray[Any]],
    facts: Mapping[str, Any],
    *,
    compress: bool = True,
) -> None:
    """Write arrays and JSON facts as `kind`. The same content gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"kind": kind, "version": VERSION, **facts}, sort_keys=True)
    aside = path.with_name(path.name + ".part")
    with open(aside, "wb") as file:
        content: dict[str, Any] = {"facts": np.array(header), **arrays}
        (np.savez_compressed if compress else np.savez)(file, **content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def load(path: Path, *kinds: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """(arrays, facts) of a file of one of these kinds.

    ValueError that names the file when it is damaged or something else.
    """
    expected = " or ".join(kinds)
    if not path.is_file():
        raise ValueError(f"no file {path}; expected a {expected} file (.npz) of ofa-frontier")
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        facts = json.loads(str(arrays.pop("facts")))
    except DAMAGE as error:
        raise ValueError(
            f"{path} is damaged or not a file of ofa-frontier ({type(error).__name__}: {error}); left as it "
            "is"
        ) from error
    if not isinstance(facts, dict) or facts.get("kind") not in kinds:
        found = facts.get("kind") if isinstance(facts, dict) else None
        raise ValueError(f"{path} holds {found or 'no kind'}, expected {expected}; left as it is")
    if facts.get("version") != VERSION:
        raise ValueError(
            f"{path} has version {facts.get('version')}, this release reads {VERSION}; left as it is"
        )
    return arrays, facts
