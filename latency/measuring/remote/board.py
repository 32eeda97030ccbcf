"""A device as a place of sittings: networks are exported here and timed there by the runner.

A connection that breaks is made again, also after a reboot of the device: files and the journal of the
sitting are still there, so nothing is sent or measured twice.
"""

import hashlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from latency.measuring.jobs import USUAL, Job, Rounds
from latency.measuring.place import Reading, sessions_in
from latency.measuring.remote import networks, runner
from latency.measuring.remote.transports import (
    CutError,
    FullError,
    LostError,
    Reach,
    Transport,
    TransportError,
    failure,
)

HELLO_SECONDS = 60.0  # for the runner to start
REPLY_SECONDS = 300.0  # for each line of an answer
PATIENCE_SECONDS = 600.0  # for a device that reboots or has lost its network
FIRST_SECONDS = 5.0  # the same for a device that was never reached
PAUSES_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)  # between attempts; the last one again and again
COOL_SECONDS = 60.0  # the longest wait for a device that is too hot
MOST_ENDS = 3  # of the runner in the same visit, after which its network is what fails
KEPT = "what was measured is kept and the same command goes on"
CODE = Path(runner.__file__).read_bytes()
RUNNER = f"runner-{hashlib.sha256(CODE).hexdigest()[:12]}.py"


@dataclass
class Link:
    """A runner that answers. Requests and lines are JSON; stderr is kept for when it ends."""

    process: "subprocess.Popen[str]"
    address: str
    number: int = 0

    def __post_init__(self) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._said: list[str] = []
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read, self._listen)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with suppress(ValueError, OSError):  # closed meanwhile
            for line in self.process.stdout:
                self._lines.put(line)
        self._lines.put(None)

    def _listen(self) -> None:
        assert self.process.stderr is not None
        with suppress(ValueError, OSError):
            for line in self.process.stderr:
                self._said[:] = [*self._said[-20:], line]

    def receive(self, seconds: float) -> dict[str, Any]:
        """The next line; CutError where none comes, TransportError with its last words where it ended."""
        try:
            text = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise CutError(f"{self.address}: no answer within {seconds:.0f} s") from None
        if text is None:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(5.0)
            time.sleep(0.05)  # for its last words
            code = self.process.returncode
            raise failure(self.address, -1 if code is None else code, "".join(self._said))
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if not isinstance(line, dict):
            raise TransportError(f"{self.address}: {text.strip()[:200]!r} is no line of the runner")
        return line

    def ask(self, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The lines that answer a request."""
        self.number += 1
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"id": self.number, **request}) + "\n")
            self.process.stdin.flush()
        except (OSError, ValueError) as error:
            raise CutError(f"{self.address}: {error}") from error
        while True:
            line = self.receive(REPLY_SECONDS)
            if line.get("to") != self.number:
                continue  # of a request that nobody waits for any more
            if line.get("done"):
                return
            yield line

    def close(self) -> None:
        """End the connection; the runner ends when its input does."""
        with suppress(OSError, ValueError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(2.0)
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for reader, file in zip(self._readers, (self.process.stdout, self.process.stderr), strict=True):
            reader.join(2.0)  # a master connection of ssh may hold stderr open, and with it the reader
            if file is not None and not reader.is_alive():
                file.close()


@dataclass
class Elsewhere:
    """What places on a device that the command line named have in common."""

    reach: Reach
    precision: str = "fp32"
    threads: int = 1
    batch: int = 1
    rounds: Rounds = USUAL
    known: bool = False  # whether this command has reached the device before
    resumes: bool = True

    @cached_property
    def transport(self) -> Transport:
        return self.reach.transport()

    @property
    def patience(self) -> float:
        """Seconds for which a device that does not answer is asked again."""
        return PATIENCE_SECONDS if self.known else FIRST_SECONDS

    def pause(self, times: int) -> None:
        """Wait before asking for the so-many-th time again."""
        time.sleep(PAUSES_SECONDS[min(times, len(PAUSES_SECONDS) - 1)])


@dataclass
class Board(Elsewhere):
    """A device with our runner, for one target and any number of sittings."""

    _link: Link | None = None
    _hello: dict[str, Any] = field(default_factory=dict)
    _sitting: str = ""
    _sent: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # {network: (file, content)}
    _broken: dict[str, str] = field(default_factory=dict)  # why a network did not load again

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the device says of itself; connects to it."""
        self._linked()
        return {name: value for name, value in self._hello.items() if name not in ("flags", "protocol")}

    @property
    def flags(self) -> frozenset[str]:
        """What its processor can do."""
        self._linked()
        return frozenset(self._hello["flags"])

    @property
    def version(self) -> str:
        return str(self.facts["engine"])

    def room(self) -> int:
        """As many sessions as a quarter of the device's free memory has room for."""
        free = self.facts["free_memory"]
        return self.rounds.block if free is None else sessions_in(free, self.batch, self.rounds)

    def prepare(self, job: Job) -> None:
        """Export a network, send it, and load it there; ValueError where the device cannot."""
        narrow = "sse2" in self.flags and not {"avx512_vnni", "avx_vnni"} & self.flags
        content = zlib.compress(networks.export(job, self.precision, narrow=narrow), 1)
        sent = f"{hashlib.sha256(content).hexdigest()[:24]}.onnx.z", content
        ends = 0
        while True:
            try:
                self._load(job.name, sent)
                self._sent[job.name] = sent
                return
            except FullError as error:
                raise LostError(f"{error}; free some space there, {KEPT}") from error
            except TransportError as error:
                ends += 1
                self._again(error)
                if ends == MOST_ENDS:
                    raise ValueError(f"the runner ended {ends} times while it loaded: {error}") from error

    def visits(self, order: Sequence[tuple[str, str]]) -> Iterator[Reading]:
        """Each visit as its line arrives; after a broken connection the rest of them."""
        left, ends = list(order), Counter[str]()
        while left:
            for name in list(self._broken):
                left = [(k, n) for k, n in left if n != name]
                yield Reading(name, error=self._broken.pop(name))
            request = {"do": "round", "sitting": self._sitting, "visits": left}
            try:
                for line in self._linked().ask({**request, "long_ms": self.rounds.long_ms}):
                    # Those before it in the order were skipped: their network has failed in this round.
                    left = left[1 + [key for key, _ in left].index(line["key"]) :]
                    if "error" in line:
                        self._sent.pop(line["name"], None)
                    yield reading(line)
                return
            except TransportError as error:
                key, name = left[0] if left else ("", "")
                ends[key] += 1
                if ends[key] == MOST_ENDS and name in self._sent:
                    del self._sent[name]
                    self._broken[name] = f"the runner ended {MOST_ENDS} times in this visit: {error}"
                self._again(error)

    def forget(self, names: Sequence[str]) -> None:
        """Drop the sessions and files of these networks."""
        files = [self._sent.pop(name)[0] for name in names if name in self._sent]
        kept = {file for file, _ in self._sent.values()}
        self._say({"do": "drop", "names": [*names], "files": [file for file in files if file not in kept]})

    def cool(self, celsius: float | None) -> None:
        """Wait until the device is no hotter, or a while where it has no thermometer."""
        self._say({"do": "cool", "celsius": celsius, "seconds": COOL_SECONDS})

    @contextmanager
    def sitting(self, identity: str) -> Iterator[None]:
        """The journal of a sitting; it is removed at its end, when everything is in the store."""
        self._sitting = identity
        yield
        self._sent.clear()
        self._say({"do": "end", "sitting": identity})

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
        self._sent.clear()

    def _say(self, request: Mapping[str, Any]) -> None:
        """A request that gives nothing; a device that does not answer it is asked again with the next."""
        with suppress(TransportError):
            for _ in self._linked().ask(request):
                pass

    def _linked(self) -> Link:
        """The connection, made where there is none; ValueError where the device cannot be measured on."""
        if self._link is None:
            try:
                self._connect()
            except CutError as error:
                self._again(error)
            except FullError as error:
                raise LostError(f"{error}; free some space there, {KEPT}") from error
            except TransportError as error:
                raise LostError(f"{error}{self._advice(str(error))}") from error
        assert self._link is not None
        return self._link

    def _connect(self) -> None:
        self.transport.put(CODE, RUNNER)
        words = [self.reach.python, f"{self.transport.folder}/{RUNNER}", self.transport.folder]
        words += [self.reach.powercap] if self.reach.powercap else []
        link = Link(self.transport.start(words), self.reach.address)
        try:
            hello = link.receive(HELLO_SECONDS).get("hello")
            if not isinstance(hello, dict) or hello.get("protocol") != runner.PROTOCOL:
                raise TransportError(f"{self.reach.address}: the runner there is another one")
            if self._hello and hello["unit"] != self._hello["unit"]:
                raise LostError(f"{self.reach.address} is another device than before: {hello['model']}")
        except BaseException:
            link.close()
            raise
        self._link, self._hello = link, hello

    def _advice(self, message: str) -> str:
        if "onnxruntime" in message:
            return (
                "; install it there (python3 -m venv ofa; ofa/bin/pip install onnxruntime) and name that "
                f"Python: '{self.reach.address}?python=ofa/bin/python'"
            )
        if "denied" in message or "password" in message:
            return "; this asks for no password: make `ssh` to it work with a key first (ssh-copy-id)"
        return ""

    def _load(self, name: str, sent: tuple[str, bytes]) -> None:
        """Load a network, sent where the device does not have it; ValueError with the engine's reason."""
        file, content = sent
        request = {"do": "load", "name": name, "file": file, "threads": self.threads}
        lines = list(self._linked().ask(request))
        if any("missing" in line for line in lines):
            self.transport.put(content, file)
            lines = list(self._linked().ask(request))
        if lines:
            self._say({"do": "drop", "names": [], "files": [file]})
            raise ValueError(str(lines[0].get("error", f"{file} is not there")))

    def _again(self, error: TransportError) -> None:
        """Connect again and load what was loaded; LostError when patience ends, which is short where this
        command never reached the device."""
        end = time.monotonic() + self.patience
        for times in count():
            if self._link is not None:
                self._link.close()
                self._link = None
            try:
                self._connect()
                for name, sent in list(self._sent.items()):
                    try:
                        self._load(name, sent)
                    except ValueError as reason:  # the engine's, of a network that loaded before
                        self._broken[name] = str(reason)
                        del self._sent[name]
                return
            except FullError as full:
                raise LostError(f"{full}; free some space there, {KEPT}") from full
            except TransportError as failed:
                if time.monotonic() > end and self.known:
                    raise LostError(f"{failed}; no answer for {self.patience:.0f} s, {KEPT}") from error
                if time.monotonic() > end:
                    raise LostError(f"{failed}{self._advice(str(failed))}") from error
                self.pause(times)


def reading(line: Mapping[str, Any]) -> Reading:
    """A line of the runner; ValueError for one that is none."""
    try:
        if "error" in line:
            return Reading(str(line["name"]), error=str(line["error"]))
        wall, cpu = (tuple(float(ms) for ms in line[name]) for name in ("wall_ms", "cpu_ms"))
        others, celsius, mhz, energy_mj = (
            None if line.get(name) is None else float(line[name])
            for name in ("others", "celsius", "mhz", "energy_mj")
        )
        return Reading(str(line["name"]), wall, cpu, others, None, celsius, mhz, energy_mj)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{line} is no visit of the runner ({error})") from error
