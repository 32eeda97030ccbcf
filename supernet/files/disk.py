"""Every change of a disk: files written aside and renamed, lines appended, files removed, files locked.

Nothing else in this project writes (a contract test), so these few functions are where a killed process, a
full disk and a second process are thought of. A file is written aside, brought to the disk and renamed, so
that a reader sees the old content or the new, never half of it. The file aside is locked meanwhile: of two
processes that write the same file, one waits.
"""

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

LOCK = ".lock"  # in a folder that belongs to one process
ASIDE = ".part"
WAIT_SECONDS = 30.0  # for another process that writes the same file
FULL = (errno.ENOSPC, errno.EDQUOT)
BUSY = (errno.EAGAIN, errno.EACCES)  # of a lock that another process has

_folders: set[Path] = set()  # that this process has
_files: dict[Path, BinaryIO] = {}  # reserved by this process, with the file aside


class BusyError(ValueError):
    """Another process has the folder or the file."""


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless they are there."""
    path.mkdir(parents=True, exist_ok=True)


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    path.unlink(missing_ok=True)


def remove_folder(path: Path, last: str = "") -> None:
    """Remove a folder with its files, `last` after the others."""
    for file in sorted(path.iterdir(), key=lambda one: one.name == last):
        remove(file)
    path.rmdir()


def remove_empty(path: Path) -> None:
    """Remove a folder without files; OSError for one that has some."""
    path.rmdir()


def rename(aside: Path, path: Path) -> None:
    """Put a whole file in the place of another, and bring its folder to the disk."""
    os.replace(aside, path)
    _sync_folder(path.parent)


def sync(file: BinaryIO) -> None:
    """Bring what was written to the disk."""
    file.flush()
    os.fsync(file.fileno())


def allocate(file: BinaryIO, size: int) -> None:
    """Take so many bytes of the disk for an empty file."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, max(1, size))
    else:
        file.write(bytes(size))
    sync(file)


def append(file: BinaryIO, text: str) -> None:
    """Write a line at the end of a file of `appending`, in one piece."""
    file.write(text.encode())
    file.flush()


def appending(path: Path) -> BinaryIO:
    """A file to append lines to; the half line that a killed process left is cut off."""
    make_folder(path.parent)
    file = path.open("ab+")
    end = file.tell()
    file.seek(max(0, end - 2**20))
    tail = file.read()
    if tail and not tail.endswith(b"\n"):
        file.truncate(end - len(tail) + tail.rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)
    return file


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """An open file that takes the place of `path` once the block is left without an error."""
    make_folder(path.parent)
    aside, key = _aside(path), path.absolute()
    with _files[key] if key in _files else open_locked(aside, WAIT_SECONDS) as file:
        try:
            file.truncate(0)
            file.seek(0)
            yield file
            sync(file)
            rename(aside, path)
        except BaseException:
            remove(aside)  # of a full disk, say: no half file is in the way
            raise
        finally:
            _files.pop(key, None)


@contextmanager
def reserved(path: Path, seconds: float = 0.0) -> Iterator[None]:
    """`path` is ours to write in the block: BusyError where another process has it for so long, OSError where
    it cannot be written. Both come before any work is done for it."""
    make_folder(path.parent)
    key = path.absolute()
    _files[key] = open_locked(_aside(path), seconds, f"another process is writing {path}; name another file")
    try:
        yield
    finally:
        if (file := _files.pop(key, None)) is not None:  # nothing was written
            remove(_aside(path))
            file.close()


class Spare:
    """So many bytes of the disk, in a file beside `path` until they are released: `write` finds room for the
    next version of `path` where others have filled the disk meanwhile.

    >>> with Spare(Path("runs/mine/checkpoint.npz"), 10_000_000) as spare:
    ...     spare.write(lambda: artifact.save(Path("runs/mine/checkpoint.npz"), "checkpoint", arrays, {}))
    """

    def __init__(self, path: Path, size: int) -> None:
        self._file = path.with_name(f"{path.name}.spare{ASIDE}")
        self._size = size

    def __enter__(self) -> "Spare":
        make_folder(self._file.parent)
        with self._file.open("wb") as file:
            allocate(file, self._size)
        return self

    def __exit__(self, *error: object) -> None:
        remove(self._file)

    def write(self, save: Callable[[], None]) -> None:
        """Save; where the disk is full, once more in the room that was kept for it."""
        try:
            save()
        except OSError as error:
            if error.errno not in FULL or not self._file.exists():
                raise
            remove(self._file)
            save()


@contextmanager
def scratch(folder: Path) -> Iterator[None]:
    """An empty folder until the block is left; what a killed process left in it is removed."""
    if folder.is_dir():
        remove_folder(folder)
    make_folder(folder)
    try:
        yield
    finally:
        remove_folder(folder)


@contextmanager
def holding(folder: Path, *, leave: bool = True) -> Iterator[None]:
    """The folder, made where there is none, is ours in the block; BusyError where it is another process's.

    The file of its lock stays there afterwards, unless the folder is no run and had none.
    """
    leave = leave or (folder / LOCK).exists()
    busy = f"another process is running in {folder}; choose another out="
    key = folder.absolute()
    with open_locked(folder / LOCK, 0, busy):
        _folders.add(key)
        try:
            yield
        finally:
            if not leave:
                remove(folder / LOCK)
            _folders.discard(key)


def is_ours(path: Path) -> bool:
    """Whether this process has reserved the file, or holds a folder that it is in: a command writes nothing
    else, which the tests of faults check."""
    key = path.absolute()
    return key in _files or any(folder in _folders for folder in key.parents)


def _aside(path: Path) -> Path:
    return path.with_name(path.name + ASIDE)


def open_locked(path: Path, seconds: float, busy: str = "") -> BinaryIO:
    """An open file, made where there is none, that is ours until it is closed; waits so long for another
    process. A link is not followed."""
    deadline = time.monotonic() + seconds
    while True:
        make_folder(path.parent)  # also where the process that had it removed the folder
        try:
            file = os.fdopen(
                os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666), "rb+"
            )
        except FileNotFoundError:
            continue
        try:
            _lock(file)
            if _is_there(file, path):  # not renamed or removed by the process that had it
                return file
            file.close()
        except OSError as error:
            file.close()
            if error.errno not in BUSY:
                raise
            if time.monotonic() >= deadline:
                raise BusyError(busy or f"another process is writing {path.with_suffix('')}") from error
            time.sleep(0.02)


def _is_there(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: BinaryIO) -> None:
    """Make an open file ours alone until it is closed; OSError where it is another process's."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    if sys.platform != "win32":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
