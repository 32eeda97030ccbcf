"""How a device is reached: files go there and back, and commands run there, each within a time limit.

Every transport is one command of this machine (ssh, adb, docker, sh) that takes a line for the device's
shell. Names and paths in that line are quoted, and none may begin with a dash. What is run is what this
package asks for: shell words to move files, the runner, and benchmark programs of engines.
"""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl

from latency.measuring.remote import runner

SECONDS = 60.0  # for a command that does not measure; a file takes more by its size
BYTES_PER_SECOND = 200e3  # of the slowest link that is waited for
ALIVE_SECONDS = 5  # between the signs of life of an ssh connection, of which three may be missing
MARK = "@@"  # begins the line that names a file
ZONES = "/sys/class/thermal/thermal_zone*/type /sys/class/thermal/thermal_zone*/temp"
FULL = re.compile("no space left|disk full|disk quota|not enough space", re.I)
GONE = re.compile(
    "|".join(
        (
            "connection (refused|reset|closed|timed out)", "broken pipe", "timed out", "no route",
            "unreachable", "could not resolve", "kex_exchange", "closed by remote", "lost connection",
            "mux_client", "device .*not found", "device offline", "no devices", "is not running",
        )
    ),
    re.I,
)  # fmt: skip  # what OpenSSH, adb and docker say of a connection that may come back


class TransportError(Exception):
    """A command on the device failed, with what it said."""


class CutError(TransportError):
    """The device does not answer, which may pass: a connection that broke, or a reboot."""


class FullError(TransportError):
    """The device has no room for a file."""


class LostError(ValueError):
    """A device cannot be measured on any more; what was measured is kept, and the same command goes on."""


class Transport(Protocol):
    """What measuring needs of a device: put, get, run, and a process to talk with."""

    @property
    def address(self) -> str: ...
    @property
    def folder(self) -> str: ...
    def put(self, content: bytes, name: str) -> None: ...
    def get(self, name: str) -> bytes: ...
    def run(self, words: Sequence[str], seconds: float = SECONDS) -> str: ...
    def start(self, words: Sequence[str]) -> "subprocess.Popen[str]": ...
    def facts(self) -> dict[str, str]: ...
    def conditions(self) -> dict[str, str]: ...


@dataclass
class Shell:
    """A device behind a command of this machine: `command` gives the words that run a line in its shell."""

    address: str
    folder: str  # of ours, on the device
    command: Callable[[str], list[str]]

    def line(self, words: Sequence[str]) -> str:
        """The words for a shell, each quoted; the first, the program, is no option of another."""
        return " ".join(map(shlex.quote, [checked(words[0]), *words[1:]]))

    def path(self, name: str) -> str:
        """The path of a file of ours, quoted."""
        return shlex.quote(checked(f"{self.folder}/{file_name(name)}"))

    def put(self, content: bytes, name: str) -> None:
        """Write a file into our folder, aside and renamed; FullError where there is no room."""
        folder, path = shlex.quote(checked(self.folder)), self.path(name)
        # Where the connection breaks, the shell there reads the end of its input like that of a whole file.
        whole = f"[ $(wc -c < {path}.part) -eq {len(content)} ]"
        line = f"mkdir -p {folder} && cat > {path}.part && {whole} && mv {path}.part {path}"
        line += f" || {{ rm -f {path}.part; false; }}"
        self._do(line, SECONDS + len(content) / BYTES_PER_SECOND, content)

    def get(self, name: str) -> bytes:
        """The content of a file of our folder."""
        return self._do(f"cat {self.path(name)}", SECONDS)

    def run(self, words: Sequence[str], seconds: float = SECONDS) -> str:
        """What a program on the device prints; TransportError with what it said where it fails."""
        return self._do(self.line(words), seconds).decode("utf-8", "replace")

    def start(self, words: Sequence[str]) -> "subprocess.Popen[str]":
        """A program on the device that is talked with over its input and output, by lines."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            self.command(self.line(words)), stdin=pipe, stdout=pipe, stderr=pipe,
            text=True, encoding="utf-8", errors="replace", bufsize=1, start_new_session=True,
        )  # fmt: skip  # a session of its own: Ctrl-C is for the host, which then ends it

    def facts(self) -> dict[str, str]:
        """{path: text} of the files of its system that say what the device is."""
        return self._texts(
            (*runner.FILES, *(f"{runner.CPUS}/cpu[0-9]*/{name}" for name in runner.OF_A_CORE), ZONES)
        )

    def conditions(self) -> dict[str, str]:
        """The same of what its temperature is, and the frequency it may have now."""
        return self._texts((ZONES, f"{runner.CPUS}/cpu[0-9]*/cpufreq/scaling_max_freq"))

    def _texts(self, patterns: Sequence[str]) -> dict[str, str]:
        """Files by patterns of ours, in one command."""
        each = f'[ -r "$f" ] && echo "{MARK} $f" && cat "$f" && echo'
        line = f"for f in {' '.join(patterns)}; do {each}; done; true"
        text = self._do(line, SECONDS).decode("utf-8", "replace").replace("\0", "")
        parts = re.split(rf"^{MARK} (\S+)$", text, flags=re.M)[1:]
        return {path: content.strip() for path, content in zip(parts[::2], parts[1::2], strict=True)}

    def _do(self, line: str, seconds: float, content: bytes = b"") -> bytes:
        return execute(self.command(line), seconds, content, self.address)


def execute(words: Sequence[str], seconds: float, content: bytes, address: str) -> bytes:
    """The output of a command of this machine that reaches a device; TransportError where it fails."""
    try:
        done = subprocess.run(
            words, input=content, capture_output=True, timeout=seconds, check=False,
            start_new_session=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise CutError(f"{address}: no answer within {seconds:.0f} s") from None
    except BrokenPipeError as error:
        raise CutError(f"{address}: {error}") from error
    if done.returncode:
        raise failure(address, done.returncode, done.stderr.decode("utf-8", "replace"))
    return done.stdout


def failure(address: str, code: int, said: str) -> TransportError:
    """The error that a command's last words mean."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    message = f"{address}: {lines[-1] if lines else f'ended with {code}'}"
    if FULL.search(said):
        return FullError(message)
    # 255 is OpenSSH's own, negative is a signal: the connection, not the program on the device.
    if code == 255 or code < 0 or GONE.search(said):
        return CutError(message)
    return TransportError(message)


def checked(word: str) -> str:
    """A name or path that may stand in a command; ValueError for one that a program takes for an option."""
    if word.startswith("-"):
        raise ValueError(f"{word!r} begins with a dash, so a program would take it for an option")
    if not word or any(ord(letter) < 32 or ord(letter) == 127 for letter in word):
        raise ValueError(f"{word!r} is empty or has control characters: it cannot be a word of a command")
    return word


def file_name(name: str) -> str:
    """The name of a file of ours on a device: letters, digits, dot, dash and underscore."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise ValueError(f"{name!r} is no name of a file of ours: letters, digits, dots, dashes, underscores")
    return name


# The transports


NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
ADDRESSES = {
    "local": r"local",
    "ssh": rf"ssh://(?:(?P<user>{NAME})@)?(?P<host>{NAME}|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{{1,5}}))?/?",
    "adb": r"adb(?:://|:)?(?P<serial>[A-Za-z0-9_][A-Za-z0-9_.:-]*)?",
    "docker": rf"docker://(?P<container>{NAME})",
}
FORMS = "ssh://[USER@]HOST[:PORT], adb, adb:SERIAL, docker://CONTAINER or local"
FOLDERS = {  # of ours on the device; relative ones begin where a login does
    "local": "/tmp/ofa-frontier-{user}",
    "ssh": ".cache/ofa-frontier",
    "adb": "/data/local/tmp/ofa-frontier",
    "docker": "/tmp/ofa-frontier",
}


def parse(address: str) -> tuple[str, dict[str, str]]:
    """The kind of an address and its parts; ValueError for one that is none, or that could be a command."""
    for kind, form in ADDRESSES.items():
        if match := re.fullmatch(form, address, re.ASCII):
            return kind, {name: text for name, text in match.groupdict().items() if text}
    raise ValueError(
        f"{address!r} is no address of a device: {FORMS}; names have letters, digits, dots, dashes and "
        "underscores, and begin with a letter or digit (others: give the host a name in your ~/.ssh/config)"
    )


def is_address(text: str) -> bool:
    """Whether a text is meant as the address of a device, well formed or not."""
    return bool(re.match(r"(ssh|docker|adb):|(adb|local)(\?|$)", text))


PERF_TEST = "/data/local/tmp/onnxruntime_perf_test"  # on a phone, which has no Python
OPTIONS = ("python", "folder", "ssh_config", "program", "powercap")


@dataclass(frozen=True)
class Reach:
    """How to reach a device: its address, and what is not usual there. Only the command line says so, never
    a file that somebody sent.

    >>> Reach.from_address("ssh://pi@board?python=/home/pi/venv/bin/python").python
    '/home/pi/venv/bin/python'
    """

    address: str
    python: str = "python3"  # that has onnxruntime
    folder: str = ""  # of ours on the device; empty: as FOLDERS says
    ssh_config: str = ""  # a file for `ssh -F`; empty: the user's own
    program: str = ""  # the benchmark program of an engine, on the device
    powercap: str = ""  # its folder of energy counters; empty: /sys/class/powercap

    @classmethod
    def from_address(cls, text: str) -> "Reach":
        """An address, and after `?` options as in a URL; ValueError that says what is wrong with it."""
        address, _, query = text.partition("?")
        parse(address)
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
        if unknown := set(options) - set(OPTIONS):
            raise ValueError(f"{text}: no option {sorted(unknown)[0]}; there are {', '.join(OPTIONS)}")
        for value in options.values():
            checked(value)
        if parse(address)[0] == "adb" and "python" not in options:
            options.setdefault("program", PERF_TEST)
        return cls(address, **options)

    def transport(self) -> Transport:
        """ValueError where this machine lacks the program that reaches the device."""
        kind, parts = parse(self.address)
        folder = self.folder or FOLDERS[kind].format(user=os.getuid())
        program = "sh" if kind == "local" else kind
        if shutil.which(program) is None:
            raise ValueError(f"{self.address} needs the program {program}, which is not installed here")
        if kind == "ssh":
            return Shell(self.address, folder, self._ssh(parts))
        if kind == "docker":
            words = ["docker", "exec", "-i", parts["container"], "sh", "-c"]
            return Shell(self.address, folder, lambda line: [*words, line])
        if kind == "adb":
            return Adb(self.address, folder, self._adb(parts))
        return Shell(self.address, folder, lambda line: ["sh", "-c", line])

    def _ssh(self, parts: Mapping[str, str]) -> Callable[[str], list[str]]:
        """OpenSSH with the user's keys and configuration. It asks for nothing: a password is an error."""
        control = Path(tempfile.gettempdir(), f"ofa-frontier-ssh-{os.getuid()}")
        with contextlib.suppress(FileExistsError):
            control.mkdir(mode=0o700)
        if control.stat().st_uid != os.getuid() or control.stat().st_mode & 0o077:
            raise ValueError(f"{control} belongs to somebody else: remove it, sockets of ssh are kept there")
        options = {
            "BatchMode": "yes", "ConnectTimeout": "10", "ServerAliveInterval": str(ALIVE_SECONDS),
            "ServerAliveCountMax": "3", "ControlMaster": "auto", "ControlPersist": "60",
            "ControlPath": f"{control}/%C",
        }  # fmt: skip
        words = ["ssh", *(["-F", checked(self.ssh_config)] if self.ssh_config else []), "-T"]
        words += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        words += ["-p", parts["port"]] if "port" in parts else []
        words += ["-l", parts["user"]] if "user" in parts else []
        return lambda line: [*words, "--", parts["host"].strip("[]"), line]

    @staticmethod
    def _adb(parts: Mapping[str, str]) -> Callable[[str], list[str]]:
        words = ["adb", *(["-s", parts["serial"]] if "serial" in parts else []), "shell"]
        return lambda line: [*words, line]


PROPERTIES = {
    "model": ["getprop", "ro.product.model"],
    "serial": ["getprop", "ro.serialno"],
    "machine": ["uname", "-m"],
}


@dataclass
class Adb(Shell):
    """An Android device: files are pushed and pulled."""

    def put(self, content: bytes, name: str) -> None:
        folder, path = shlex.quote(checked(self.folder)), self.path(name)
        self._do(f"mkdir -p {folder}", SECONDS)
        with tempfile.TemporaryDirectory() as here:
            copy = Path(here, file_name(name))
            copy.write_bytes(content)
            seconds = SECONDS + len(content) / BYTES_PER_SECOND
            there = f"{self.folder}/{name}.part"
            try:
                execute([*self._client(), "push", str(copy), there], seconds, b"", self.address)
            except TransportError:
                self._do(f"rm -f {path}.part", SECONDS)
                raise
        self._do(f"mv {path}.part {path}", SECONDS)

    def get(self, name: str) -> bytes:
        with tempfile.TemporaryDirectory() as here:
            copy, there = Path(here, file_name(name)), f"{self.folder}/{file_name(name)}"
            execute([*self._client(), "pull", there, str(copy)], SECONDS, b"", self.address)
            return copy.read_bytes()

    def facts(self) -> dict[str, str]:
        """With its model, serial number, machine and whether its screen is on."""
        texts = super().facts()
        for name, words in PROPERTIES.items():
            texts[name] = self.run(words).strip()
        awake = re.search(r"mWakefulness=(\w+)", self.run(["dumpsys", "power"]))
        return {**texts, "screen": "unknown" if awake is None else awake[1].lower()}

    def _client(self) -> list[str]:
        return self.command("")[:-2]  # without `shell` and its line
