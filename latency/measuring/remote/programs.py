"""Devices without Python: engines' own benchmark programs are run there, one run of the program per visit.

A program is named where it lies on the device (`?program=PATH`); what it prints is parsed. It tells no CPU
times, so the latency is wall time, and the device should do nothing else meanwhile.
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from latency.measuring.jobs import Job
from latency.measuring.place import Reading
from latency.measuring.remote import networks, runner
from latency.measuring.remote.board import KEPT, Elsewhere
from latency.measuring.remote.transports import (
    CutError,
    FullError,
    LostError,
    TransportError,
)

VISIT_SECONDS = 300.0
COOL_SECONDS, LOOK_SECONDS = 60.0, 5.0  # the longest wait for a hot device, and between looks at it


@dataclass(frozen=True)
class Program:
    """`words` are its options for a model and a number of timed runs and of threads; `parse` gives the
    milliseconds of each run that it prints."""

    words: Callable[[str, int, int], list[str]]
    parse: Callable[[str], tuple[float, ...]]


def perf_test_ms(text: str) -> tuple[float, ...]:
    """Of onnxruntime_perf_test: a line per run with -v, else its least and greatest."""
    runs = [1000 * float(s) for s in re.findall(r"iteration:\d+,\s*time_cost:([\d.eE+-]+)", text)]
    ends = re.findall(r"(?:Min|P50|Max) Latency(?: is|:) *([\d.eE+-]+) *s", text)
    return tuple(runs) or tuple(1000 * float(s) for s in ends)


def benchmark_model_ms(text: str) -> tuple[float, ...]:
    """Of LiteRT's benchmark_model: least, mean and greatest of its timed runs, in microseconds there."""
    timed = re.findall(r"count=\d+ .*?\bmin=(\d+) max=(\d+) avg=([\d.]+)", text)
    if timed:
        least, most, mean = timed[-1]  # the first are its warm-ups
        return float(least) / 1000, float(mean) / 1000, float(most) / 1000
    mean_us = re.findall(r"Inference \(avg\): *([\d.e+]+)", text)
    return tuple(float(us) / 1000 for us in mean_us[-1:])


def executor_runner_ms(text: str) -> tuple[float, ...]:
    """Of ExecuTorch's executor_runner: the mean of its runs."""
    runs = re.findall(r"executed successfully (\d+) time\(s\) in ([\d.]+) ms", text)
    return tuple(float(ms) / int(count) for count, ms in runs[-1:])


PROGRAMS = {  # by the name of the file
    "onnxruntime_perf_test": Program(
        lambda model, runs, threads: [
            "-m", "times", "-r", str(runs), "-v", "-s", "-I", "-e", "cpu",
            "-x", str(threads), "-y", "1", model,
        ],
        perf_test_ms,
    ),
    "benchmark_model": Program(
        lambda model, runs, threads: [
            f"--graph={model}", f"--num_threads={threads}", f"--num_runs={runs}", "--min_secs=0",
            f"--warmup_runs={runner.WARM_UPS}", "--warmup_min_secs=0",
        ],
        benchmark_model_ms,
    ),
    "executor_runner": Program(
        lambda model, runs, threads: [f"--model_path={model}", f"--num_executions={runs}"],
        executor_runner_ms,
    ),
}  # fmt: skip


@dataclass
class ProgramBoard(Elsewhere):
    """A device on which a benchmark program is run, as a place of sittings."""

    _files: dict[str, str] = field(default_factory=dict)  # {network: file on the device}

    @cached_property
    def program(self) -> Program:
        name = PurePosixPath(self.reach.program).name
        if name != "onnxruntime_perf_test":
            raise ValueError(
                f"program={self.reach.program} must be an onnxruntime_perf_test: networks are ONNX"
            )
        return PROGRAMS[name]

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """What the device's files and properties say; ValueError where it cannot be reached or lacks the
        program."""
        name = PurePosixPath(self.reach.program).name
        try:
            texts = self._patiently(self.transport.facts)
            digest = self.transport.run(["sha256sum", self.reach.program]).split()[0]
        except (TransportError, IndexError) as error:
            raise LostError(f"{error}; {name} must lie at {self.reach.program} (?program=PATH)") from error
        facts = runner.describe(texts)
        del facts["flags"]
        return {
            **facts,
            "screen": texts.get("screen", ""),
            "engine": f"{name} {digest[:12]}",
            "usable_cores": facts["cores"],
            "energy": {"refused": "a benchmark program tells none"},
        }

    @property
    def version(self) -> str:
        return str(self.facts["engine"])

    def room(self) -> int:
        """Networks are loaded one at a time."""
        return self.rounds.block

    def prepare(self, job: Job) -> None:
        """Export a network, send it, and run it once; ValueError with what the program said."""
        content = networks.export(job, self.precision, narrow=False)
        name = f"{hashlib.sha256(content).hexdigest()[:24]}.onnx"
        try:
            self._patiently(lambda: self.transport.put(content, name))
        except FullError as error:
            raise LostError(f"{error}; free some space there, {KEPT}") from error
        self._files[job.name] = name
        self._run(job.name)

    def visits(self, order: Sequence[tuple[str, str]]) -> Iterator[Reading]:
        for _, name in order:
            if name not in self._files:
                continue  # it failed earlier in this round
            try:
                ms = self._run(name)
            except TransportError as error:
                self.forget([name])
                yield Reading(name, error=str(error))
                continue
            heat = self._patiently(self.transport.conditions)
            caps = [
                int(text) / 1000 for path, text in heat.items() if path.endswith("_freq") and text.isdigit()
            ]
            yield Reading(name, ms, celsius=runner.hottest(heat), mhz=max(caps) if caps else None)

    def _run(self, name: str) -> tuple[float, ...]:
        """The milliseconds of each timed run of a visit."""
        path = f"{self.transport.folder}/{self._files[name]}"
        runs = runner.BURST + 1  # the programs warm up once; the first is the second warm-up
        words = [self.reach.program, *self.program.words(path, runs, self.threads)]
        text = self._patiently(lambda: self.transport.run(words, VISIT_SECONDS))
        ms = self.program.parse(text)
        if not ms:
            raise TransportError(f"{self.reach.program} printed no times: {text.strip()[-200:]!r}")
        return tuple(round(value, 5) for value in (ms[1:] if len(ms) == runs else ms))

    def _patiently(self, action: Callable[[], Any]) -> Any:
        """What an action gives, tried again while the device does not answer; LostError at last."""
        end, times = time.monotonic() + self.patience, 0
        while True:
            try:
                return action()
            except CutError as error:
                if time.monotonic() > end:
                    raise LostError(f"{error}; no answer for {self.patience:.0f} s, {KEPT}") from error
                self.pause(times)
                times += 1

    def forget(self, names: Sequence[str]) -> None:
        """Remove the files of these networks."""
        files = [self._files.pop(name) for name in names if name in self._files]
        gone = [f"{self.transport.folder}/{file}" for file in files if file not in self._files.values()]
        if gone:
            with suppress(TransportError):
                self.transport.run(["rm", "-f", *gone])

    def cool(self, celsius: float | None) -> None:
        """Wait until the device is no hotter, or a while where it has no thermometer."""
        end = time.monotonic() + COOL_SECONDS
        while time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
            heat = runner.hottest(self._patiently(self.transport.conditions))
            if celsius is not None and heat is not None and heat <= celsius:
                return

    @contextmanager
    def sitting(self, identity: str) -> Iterator[None]:
        yield
        self.forget(list(self._files))

    def close(self) -> None:
        """Nothing is left running."""
