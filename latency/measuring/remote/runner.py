"""Times ONNX networks on the device that it runs on: one JSON line in per request, one out per visit.

This file is copied to the device alone. It needs Python >= 3.9 and the package onnxruntime, nothing else, and
writes only into the folder that it is given. `burst` is the visit of every place where we time networks.

The journal of a sitting is in that folder. So a visit that was made before a connection broke is not made
again: its line is sent when it is asked for once more.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import signal
import sys
import time
import zlib
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Mapping  # noqa: UP035  # Python 3.9

PROTOCOL = 1  # of requests and lines; the host copies this file again where it differs
WARM_UPS = 2
BURST = 3  # timed runs of a visit: noise comes in stretches, so many short visits beat few long ones
LONG_MS = 100.0  # runs beyond it need one warm-up and one timed run
TAKE_OVER_SECONDS = 20.0  # how long an earlier runner has to end, which a broken connection left behind
WINDOW_SECONDS = 0.25  # the least time over which the load of others is told
CPUS = "/sys/devices/system/cpu"
FILES = (  # what the facts of a device are read from, besides those of each core and thermal zone
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/device-tree/model",
    "/proc/device-tree/serial-number",
    "/etc/machine-id",
    "/proc/sys/kernel/osrelease",
)
POWERCAP = "/sys/class/powercap"  # where Linux has the energy counters (RAPL) of Intel and AMD processors
IDLE_SECONDS = 0.5  # over which the idle power is told
OF_A_CORE = ("cpufreq/cpuinfo_max_freq", "cpufreq/scaling_max_freq", "cpufreq/scaling_governor")


def burst(
    run: Callable[[], Any], meter: Any = None, warm_ups: int = WARM_UPS, timed: int = BURST,
    long_ms: float = LONG_MS,
) -> tuple[tuple[float, ...], tuple[float, ...], float | None]:  # fmt: skip
    """Wall and CPU milliseconds of each timed run of one visit, after its warm-ups, and the millijoules of a
    run where there is a `meter`.

    `run` returns milliseconds where the device has a clock of its own, which then are the wall time. Counters
    of energy are coarse, so short visits go on after their timed runs until `meter.seconds` are over.
    """
    begun = time.perf_counter()
    run()
    long = time.perf_counter() - begun > long_ms / 1000
    for _ in range(0 if long else warm_ups - 1):
        run()
    wall, cpu, runs = [], [], 1 if long else timed
    begun, before = time.perf_counter(), None if meter is None else meter.joules()
    for _ in range(runs):
        start, start_cpu = time.perf_counter_ns(), time.process_time_ns()
        on_device = run()
        end_cpu, end = time.process_time_ns(), time.perf_counter_ns()
        wall.append((end - start) / 1e6 if on_device is None else on_device)
        cpu.append((end_cpu - start_cpu) / 1e6)
    while before is not None and time.perf_counter() - begun < meter.seconds:
        run()
        runs += 1
    after = None if before is None else meter.joules()
    energy_mj = None if before is None or after is None else round(1e3 * (after - before) / runs, 5)
    return tuple(round(ms, 5) for ms in wall), tuple(round(ms, 5) for ms in cpu), energy_mj


# What it takes from the socket


class NoMeterError(ValueError):
    """The energy of this device cannot be measured, and why."""


class Rapl:
    """The energy that the packages of the processor and their memory have taken, by counters of Linux.

    `package` holds the cores; `dram` is beside it. `psys`, the whole platform, and the copy of the package in
    `intel-rapl-mmio` would count the same energy twice. NoMeterError where a counter cannot be read.
    """

    seconds = 0.02  # of a visit: the counters advance every millisecond

    def __init__(self, root: str = "") -> None:
        root = root or POWERCAP
        # In /sys/class the zones of a package lie beside it, in /sys/devices inside it.
        zones = [*Path(root).glob("intel-rapl:*/intel-rapl:*"), *Path(root).glob("intel-rapl:*")]
        folders = {path.name: path for path in zones}
        names = {name: read(path / "name") for name, path in folders.items()}
        packages = [name for name, what in names.items() if what.startswith("package")]
        memory = [n for n, what in names.items() if what == "dram" and n.rpartition(":")[0] in packages]
        counted = sorted([*packages, *memory])
        if not counted:
            raise NoMeterError(
                f"no energy counter of a processor in {root}: virtual machines and most boards have none; "
                "on an Intel or AMD machine `sudo modprobe intel_rapl_msr` may bring it"
            )
        self.files = [folders[name] / "energy_uj" for name in counted]
        for path in self.files:
            try:
                path.read_bytes()
            except PermissionError:
                listed = " ".join(map(str, self.files))
                raise NoMeterError(
                    f"{path} may be read by root only (since Linux 5.10): sudo chmod o+r {listed}"
                ) from None
            except OSError as error:
                raise NoMeterError(f"{path} cannot be read ({error})") from None
        self.ranges = [int(read(path.with_name("max_energy_range_uj")) or 0) for path in self.files]
        self.name = "RAPL: " + ", ".join(names[name] for name in counted)
        self.total, self.last = 0, [int(read(path) or 0) for path in self.files]

    def joules(self) -> float | None:
        """Since the meter was made; None where a counter cannot be read. A counter that has begun again at
        zero is followed, once between two calls."""
        texts = [read(path) for path in self.files]
        if not all(text.isdigit() for text in texts):
            return None
        now = [int(text) for text in texts]
        for before, after, most in zip(self.last, now, self.ranges):  # noqa: B905  # Python 3.9
            self.total += after - before if after >= before else after - before + most
        self.last = now
        return self.total / 1e6


def metered(make: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """The meter that `make` gives and its facts: what it counts and the idle power, or why there is none."""
    try:
        meter = make()
    except ValueError as error:
        return None, {"refused": str(error)}
    begun, before = time.perf_counter(), meter.joules()
    time.sleep(max(IDLE_SECONDS, meter.seconds))
    after, seconds = meter.joules(), time.perf_counter() - begun
    watts = None if before is None or after is None else round((after - before) / seconds, 3)
    return meter, {"meter": meter.name, "idle_watts": watts}


# What the device is


def read(path: str | Path) -> str:
    """The text of a file of the system; empty where it cannot be read."""
    try:
        return Path(path).read_bytes().replace(b"\0", b"").decode("utf-8", "replace").strip()
    except OSError:
        return ""


def system_files(root: str = "/") -> dict[str, str]:
    """{path: text} of everything that `describe` reads, and what the processor is (`machine`)."""
    paths = [*FILES, *(f"{core}/{name}" for core in cores(root) for name in OF_A_CORE), *zones(root)]
    texts = {path: text for path in paths if (text := read(Path(root, path.lstrip("/"))))}
    return {"machine": platform.machine(), **texts}


def cores(root: str = "/") -> list[str]:
    """The folders of the cores."""
    folder = Path(root, CPUS.lstrip("/"))
    names = [path.name for path in folder.glob("cpu[0-9]*")] if folder.is_dir() else []
    return [f"{CPUS}/{name}" for name in sorted(names, key=lambda name: int(name[3:]))]


def zones(root: str = "/") -> list[str]:
    """The files with the type and temperature of each thermal zone."""
    folder = Path(root, "sys/class/thermal")
    names = sorted(path.name for path in folder.glob("thermal_zone*")) if folder.is_dir() else []
    return [f"/sys/class/thermal/{name}/{what}" for name in names for what in ("type", "temp")]


def describe(texts: Mapping[str, str]) -> dict[str, Any]:
    """The facts of a device, of the files of its system. `unit` is the same for the same device only."""
    info = texts.get("/proc/cpuinfo", "")
    parts = re.findall(r"^CPU part\s*:\s*(\S+)", info, re.M)
    processors = re.findall(r"^processor\s*:\s*\d+", info, re.M)
    names = re.findall(r"^(?:model name|Hardware|Processor)\s*:\s*(.+)$", info, re.M)
    ids = [f"{letter}{found[0]}" for letter, key in (("f", "cpu family"), ("m", "model"))
           if (found := re.findall(rf"^{key}\s*:\s*(\d+)", info, re.M))]  # fmt: skip
    flags = re.findall(r"^(?:flags|Features)\s*:\s*(.+)$", info, re.M)
    memory = re.findall(r"^MemTotal:\s*(\d+)", texts.get("/proc/meminfo", ""), re.M)
    model = texts.get("/proc/device-tree/model") or texts.get("model") or (names[0] if names else "")
    facts = {
        "model": " ".join(model.split()),
        "machine": texts.get("machine", ""),
        "ids": ids,
        "parts": parts,
        "cores": len(processors) or None,
        "ram_gb": round(int(memory[0]) / 2**20, 1) if memory else None,
        "flags": sorted(set(flags[0].split())) if flags else [],
        "kernel": texts.get("/proc/sys/kernel/osrelease", ""),
        "governors": sorted({text for path, text in texts.items() if path.endswith("/scaling_governor")}),
        "max_mhz": sorted({int(text) // 1000 for path, text in texts.items()
                           if path.endswith("/scaling_max_freq") and text.isdigit()}),
        "celsius": hottest(texts),
    }  # fmt: skip
    own = next((texts[key] for key in ("/proc/device-tree/serial-number", "serial", "/etc/machine-id")
                if texts.get(key)), "")  # fmt: skip
    same = json.dumps([*(facts[name] for name in ("model", "machine", "ids", "parts", "cores")), own])
    return {**facts, "unit": hashlib.sha256(same.encode()).hexdigest()[:12]}


def hottest(texts: Mapping[str, str]) -> float | None:
    """The highest temperature of the processor's thermal zones, or of all where none is called so; None
    where no zone can be read."""
    by_type = {
        texts.get(path[:-4] + "type", ""): int(text) / 1000
        for path, text in texts.items()
        if re.search(r"/thermal_zone\d+/temp$", path) and re.fullmatch(r"\d{4,6}", text)
    }
    of_processor = {kind: t for kind, t in by_type.items() if re.search("cpu|soc|pkg", kind.lower())}
    possible = [t for t in (of_processor or by_type).values() if 0 < t < 150]
    return max(possible) if possible else None


def mhz_now() -> float | None:
    """The frequency of the core that this process ran on last; None where the system does not say."""
    fields = read("/proc/self/stat").rpartition(")")[2].split()
    path = f"{CPUS}/cpu{fields[36]}/cpufreq/scaling_cur_freq" if len(fields) > 36 else ""
    text = read(path) if path else ""
    return int(text) / 1000 if text.isdigit() else None


class Others:
    """The share of the device that other processes use."""

    def __init__(self) -> None:
        self.at, self.share = self.now(), None  # type: tuple[float, float, float], float | None

    def now(self) -> tuple[float, float, float]:
        line = read("/proc/stat").split("\n")[0].split()[1:9]
        ticks = [float(word) for word in line]
        busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK") if len(ticks) > 4 else -1.0
        return time.perf_counter(), busy, time.process_time()

    def tell(self) -> float | None:
        """In [0, 1] over the last quarter of a second or more; None where the system does not say."""
        before, now = self.at, self.now()
        elapsed = now[0] - before[0]
        if elapsed >= WINDOW_SECONDS and now[1] >= 0:
            used = now[1] - before[1] - (now[2] - before[2])
            self.share = round(min(1.0, max(0.0, used / elapsed / (os.cpu_count() or 1))), 3)
            self.at = now
        return self.share


# What it does


class Runner:
    """The sessions of this process, and the journal of the sitting."""

    def __init__(self, folder: Path, meter: Any = None) -> None:
        self.folder, self.sessions, self.others = folder, {}, Others()  # type: Path, dict[str, Any], Others
        self.meter = meter
        self.sitting, self.journal = "", {}  # type: str, dict[str, dict[str, Any]]
        self.zones = zones()

    def answer(self, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The lines that answer a request; the last one has `done`."""
        do = {"load": self.load, "drop": self.drop, "end": self.end, "round": self.round, "cool": self.cool}
        yield from do[request["do"]](request)
        yield {"done": True}

    def load(self, request: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
        """A session of a network, whose file was put into the folder; `error` says why there is none."""
        path = self.folder / Path(request["file"]).name
        if not path.is_file():
            return [{"missing": path.name}]
        try:
            self.sessions[request["name"]] = session(path, request["threads"])
        except Exception as error:  # whatever the engine raises: the others go on
            return [{"error": f"{type(error).__name__}: {error}"}]
        return []

    def drop(self, request: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
        """Forget networks and their files."""
        for name in request["names"]:
            self.sessions.pop(name, None)
        for name in request["files"]:
            (self.folder / Path(name).name).unlink(missing_ok=True)
        return []

    def end(self, request: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
        """The host has everything of a sitting: its journal goes, and so do networks of any sitting."""
        self.sitting = ""
        self.sessions.clear()
        (self.folder / journal_name(request["sitting"])).unlink(missing_ok=True)
        for pattern in ("*.onnx*", "*.part"):
            for path in self.folder.glob(pattern):
                path.unlink()
        return []

    def round(self, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Make visits [[key, name], ...] in this order; those in the journal were made before."""
        if request["sitting"] != self.sitting:
            self.sitting = request["sitting"]
            self.journal = {line["key"]: line for line in self.read_journal()}
        for key, name in request["visits"]:
            if key in self.journal:
                yield self.journal[key]
                continue
            if name not in self.sessions:
                continue  # it failed earlier in this round
            line = {"key": key, "name": name, **self.visit(name, request.get("long_ms", LONG_MS))}
            self.write_journal(line)
            yield line

    def visit(self, name: str, long_ms: float) -> dict[str, Any]:
        run, feed = self.sessions[name]
        try:
            wall, cpu, mj = burst(lambda: run(None, feed) and None, self.meter, long_ms=long_ms)
        except Exception as error:
            del self.sessions[name]
            return {"error": f"{type(error).__name__}: {error}"}
        heat = {path: read(path) for path in self.zones}
        line = {
            "wall_ms": wall,
            "cpu_ms": cpu,
            "others": self.others.tell(),
            "mhz": mhz_now(),
            "energy_mj": mj,
        }
        return {**line, "celsius": hottest(heat), "unix_time": time.time()}

    def cool(self, request: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
        """Wait until the device is no hotter than `celsius`, at most `seconds`; as long where it has no
        thermometer."""
        end = time.perf_counter() + request["seconds"]
        heat = None
        while time.perf_counter() < end:
            heat = hottest({path: read(path) for path in self.zones})
            if heat is not None and request.get("celsius") is not None and heat <= request["celsius"]:
                break
            time.sleep(min(1.0, max(0.0, end - time.perf_counter())))
        return [{"celsius": heat}]

    def read_journal(self) -> Iterator[dict[str, Any]]:
        for text in read(self.folder / journal_name(self.sitting)).splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue  # the last line, where the power went
            if isinstance(line, dict) and "key" in line:
                yield line

    def write_journal(self, line: dict[str, Any]) -> None:
        """Keep a line until the host has it for certain; on a full disk the line is only sent."""
        self.journal[line["key"]] = line
        try:
            with (self.folder / journal_name(self.sitting)).open("a") as file:
                file.write(f"\n{json.dumps(line)}\n")  # a line that was cut ends here
        except OSError as error:
            line["unkept"] = str(error)


def journal_name(sitting: str) -> str:
    return f"journal-{re.sub('[^0-9a-zA-Z]', '', sitting)}.jsonl"


def session(path: Path, threads: int) -> tuple[Any, dict[str, Any]]:
    """What runs an ONNX file, deflated or not, and its input: noise, the same each time."""
    import numpy
    import onnxruntime

    content = path.read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    if threads > 1:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    model = zlib.decompress(content) if path.suffix == ".z" else content
    ready = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    noise = numpy.random.default_rng(0)
    feed = {one.name: noise.standard_normal(one.shape, numpy.float32) for one in ready.get_inputs()}
    return ready.run, feed


def take_over(folder: Path) -> Any:
    """The lock of the folder, and an end to the runner that an earlier connection left behind."""
    lock = (folder / "lock").open("a+")
    end = time.perf_counter() + TAKE_OVER_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            lock.seek(0)
            earlier = lock.read().strip()
            if earlier.isdigit() and str(folder) in read(f"/proc/{earlier}/cmdline"):
                os.kill(int(earlier), signal.SIGTERM)
            if time.perf_counter() > end:
                raise SystemExit(f"another runner holds {folder}") from None
            time.sleep(0.1)
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def main() -> None:
    """`runner.py FOLDER [POWERCAP]`: says what the device is, then answers requests until its input ends."""
    folder = Path(sys.argv[1])
    lock = take_over(folder)  # held until the end
    try:
        import onnxruntime
    except ImportError as error:
        raise SystemExit(f"no onnxruntime for {sys.executable}: {error}") from None
    with contextlib.suppress(OSError):  # without privileges the priority stays
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    meter, energy = metered(lambda: Rapl("".join(sys.argv[2:])))
    about = {
        "protocol": PROTOCOL,
        **describe(system_files()),
        "python": platform.python_version(),
        "engine": f"onnxruntime {onnxruntime.__version__}",
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "free_memory": free_memory(),
        "energy": energy,
    }
    say({"hello": about})
    runner = Runner(folder, meter)
    for text in sys.stdin:
        request = json.loads(text)
        for line in runner.answer(request):
            say({"to": request["id"], **line})
    lock.close()


def free_memory() -> int | None:
    """Bytes that are free for sessions."""
    found = re.findall(r"^MemAvailable:\s*(\d+)", read("/proc/meminfo"), re.M)
    return int(found[0]) * 1024 if found else None


def say(line: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
