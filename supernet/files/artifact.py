"""How files are written and read: all or nothing, without pickle, and refused when foreign or damaged.

Arrays and JSON facts go to one `.npz` or `.safetensors` file, by the suffix of its name. How it reaches the
disk is in `disk`.
"""

import hashlib
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from supernet.files import disk
from supernet.options import explain

VERSION = 1
Arrays = dict[str, NDArray[Any]]
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    SafetensorError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OSError,
    EOFError,
    MemoryError,
    RecursionError,
)
# What code that takes a damaged file apart may run into.
WRONG = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
CONTENT = "content_sha256"  # the fact that says which content was written; files of 0.1 and 0.2 lack it
UNPACKED, TIMES_PACKED = 2**28, 20  # bytes that a packed file may unpack to: so many, and so often its own


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file."""
    with disk.replacing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write a value as JSON."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save(
    path: Path,
    kind: str,
    arrays: Mapping[str, NDArray[Any]],
    facts: Mapping[str, Any],
    *,
    compress: bool = True,
) -> None:
    """Write arrays and JSON facts as `kind`, with their checksum. The same content gives the same bytes."""
    told = json.loads(json.dumps({"kind": kind, "version": VERSION, **facts}))
    header = json.dumps({**told, CONTENT: _content(arrays, told)}, sort_keys=True)
    with disk.replacing(path) as file:
        if path.suffix == ".safetensors":
            ordered = {name: np.asarray(array, order="C") for name, array in arrays.items()}
            file.write(safetensors_bytes(ordered, {"facts": header}))
        else:
            content: dict[str, Any] = {"facts": np.array(header), **arrays}
            (np.savez_compressed if compress else np.savez)(file, **content)


def load(path: Path, *kinds: str) -> tuple[Arrays, dict[str, Any]]:
    """(arrays, facts) of a file of one of these kinds.

    ValueError that names the file when it is damaged or something else, or when a byte of it has changed.
    """
    expected = " or ".join(kinds)
    if not path.is_file():
        raise ValueError(f"no file {path}; expected a {expected} file ({path.suffix}) of ofa-frontier")
    try:
        arrays, facts = (_read_safetensors if path.suffix == ".safetensors" else _read_npz)(path)
    except DAMAGE as error:
        cause = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{path} is damaged or not a file of ofa-frontier ({cause}); left as it is, give another"
        ) from error
    kind = facts.get("kind") if isinstance(facts, dict) else None
    if kind not in kinds:
        raise ValueError(
            f"{path} holds {kind or 'no kind'}, expected {expected}; left as it is, give another"
        )
    if (version := facts.get("version")) != VERSION:
        raise ValueError(
            f"{path} has version {version}, this release reads {VERSION}; left as it is, give another"
        )
    written = facts.pop(CONTENT, None)
    if written is not None and written != _content(arrays, facts):
        raise ValueError(
            f"{path} is damaged: its content has changed since it was written; left as it is, give another"
        )
    return arrays, facts


def _content(arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> str:
    """SHA-256 of arrays and facts."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


@contextmanager
def usable(path: Path, kind: str, remedy: str = "left as it is, give another") -> Iterator[None]:
    """ValueError that names the file for whatever the block runs into, which takes its content apart."""
    try:
        yield
    except WRONG as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        cause = " ".join(explain(error).split())
        raise ValueError(f"{path} is no usable {kind} ({cause}); {remedy}") from error


def check_finite(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    """ValueError that names the file where a number of its weights or coefficients is NaN or infinite."""
    for name, array in arrays.items():
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            raise ValueError(
                f"{path} is not usable: {name} holds NaN or infinite numbers; left as it is, give another"
            )


def check_packed(path: Path) -> None:
    """ValueError for a zip file that unpacks to far more than it holds; nothing is unpacked for that."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as file:
            size = sum(entry.file_size for entry in file.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ValueError(f"{path} is damaged ({error}); left as it is, give another") from error
    if size > (most := UNPACKED + TIMES_PACKED * path.stat().st_size):
        raise ValueError(
            f"{path} unpacks to {size:,} bytes, at most {most:,} are read; left as it is, give another"
        )


def read_json(path: Path) -> Any:
    """The value in a JSON file; ValueError that names the file for what is none."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); mend it, or give another") from error


def _read_npz(path: Path) -> tuple[Arrays, Any]:
    check_packed(path)
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return arrays, json.loads(str(arrays.pop("facts")))


def _read_safetensors(path: Path) -> tuple[Arrays, Any]:
    with safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        return arrays, json.loads((file.metadata() or {})["facts"])
