"""Devices over a connection: names that reach them, the runner, and what a broken connection leaves."""

import ast
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from latency.measuring import session, summary
from latency.measuring.jobs import Job, Rounds
from latency.measuring.remote import board as boards
from latency.measuring.remote import reached, runner, transports
from latency.measuring.remote.transports import CutError, FullError, LostError, Reach, TransportError
from latency.measuring.store import END, Store
from search.cli import devices
from supernet.space import get_space

HOSTILE = (
    "; rm -rf x", "$(touch x)", "`touch x`", "-oProxyCommand=touch x", "a b", "a'b", 'a"b', "h\u00f6st",
    "a\nb", "a|b", "../x", "",
)  # fmt: skip
QUICK = Rounds(fewest=5, most=5)  # of which three count, however slow the others are


# Names


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_no_addresses(name):
    for address in (f"ssh://{name}", f"ssh://{name}@board", f"ssh://board:{name}", f"docker://{name}"):
        if address in ("ssh://board:", "ssh://@board"):
            continue
        with pytest.raises(ValueError, match="no address of a device"):
            Reach.from_address(address)
    if name:
        with pytest.raises(ValueError, match="no address"):
            Reach.from_address(f"adb:{name}")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ssh://pi@board:2222", ["-p", "2222", "-l", "pi", "--", "board", "LINE"]),
        ("ssh://[fe80::1]", ["--", "fe80::1", "LINE"]),
        ("ssh://board?ssh_config=/a b", ["-F", "/a b", "-T"]),
    ],
)
def test_an_address_becomes_words_of_ssh(address, words):
    line = Reach.from_address(address).transport().command("LINE")
    assert line[0] == "ssh"
    assert "BatchMode=yes" in line
    start = line.index(words[0])
    assert line[start : start + len(words)] == words


def test_a_container_is_reached_by_docker_exec(tmp_path, monkeypatch):
    """A stand-in for docker that does in a shell here what it is asked to do in the container."""
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\n[ "$1 $2 $3" = "exec -i my.box_1" ] || exit 1\nshift 3\nexec "$@"\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    there = Reach.from_address(f"docker://my.box_1?folder={tmp_path}/box").transport()
    there.put(b"content", "file.bin")
    assert there.get("file.bin") == b"content"
    assert there.run(["echo", "a;b"]) == "a;b\n"
    assert "/proc/cpuinfo" in there.facts()


def test_options_of_an_address_are_known_and_no_options_of_programs():
    with pytest.raises(ValueError, match="no option pyton; there are python"):
        Reach.from_address("ssh://board?pyton=x")
    with pytest.raises(ValueError, match="begins with a dash"):
        Reach.from_address("ssh://board?python=-c")
    with pytest.raises(ValueError, match="control characters"):
        Reach.from_address("ssh://board?folder=a%0Ab")


def test_folders_and_words_are_quoted(tmp_path, monkeypatch):
    """A real shell makes files of just these names and runs nothing."""
    monkeypatch.chdir(tmp_path)
    for name in ("; touch hacked", "$(touch hacked)", "it's", "h\u00f6st & co", "a b"):
        folder = f"{tmp_path}/{name}"
        there = Reach("local", folder=folder).transport()
        there.put(b"content", "file.bin")
        assert there.get("file.bin") == b"content"
        assert there.run(["printf", "%s", name]) == name
        assert [path.name for path in Path(folder).iterdir()] == ["file.bin"]
        with pytest.raises(ValueError, match="no name of a file of ours"):
            there.put(b"", f"../{name}")
    assert not list(tmp_path.rglob("hacked"))


def test_words_of_a_command_line_name_a_device():
    assert devices.spelt_out(["target=ssh://pi@board", "samples=5", "target=here"]) == [
        "target=remote", "target.at=ssh://pi@board", "samples=5", "target=here",
    ]  # fmt: skip
    assert devices.spelt_out(["target=adb?program=/x"]) == ["target=remote", "target.at='adb?program=/x'"]
    both = "targets=['ssh://a?python=/x&folder=b','v100_b64']"
    taken = "targets=[ssh://a?python=/x&folder=b,v100_b64]"  # by the shell that make starts
    assert devices.spelt_out([both]) == devices.spelt_out([taken]) == [both.replace("'v100_b64'", "v100_b64")]
    several = devices.spelt_out(["-m", "target=ssh://a,ssh://b?python=/x", "samples=5"])
    assert several == devices.spelt_out(["-m", "target='ssh://a','ssh://b?python=/x'", "samples=5"])
    assert several == ["-m", "target=remote", "target.at=ssh://a,'ssh://b?python=/x'", "samples=5"]
    assert devices.spelt_out(["targets=[v100_b64,p40]"]) == ["targets=[v100_b64,p40]"]
    assert devices.spelt_out(["target=adb:R58M;x"]) == ["target=remote", "target.at='adb:R58M;x'"]


def test_what_programs_say_of_connections():
    assert type(transports.failure("a", 255, "")) is CutError
    assert type(transports.failure("a", -9, "")) is CutError
    assert type(transports.failure("a", 1, "error: device 'R58' not found")) is CutError
    assert type(transports.failure("a", 1, "cat: write error: No space left on device")) is FullError
    assert type(transports.failure("a", 127, "sh: 1: python3: not found")) is TransportError


def test_commands_have_a_time_limit(tmp_path):
    with pytest.raises(CutError, match="no answer within 0 s"):
        Reach("local", folder=str(tmp_path)).transport().run(["sleep", "5"], seconds=0.2)


# The runner


def test_the_runner_is_one_file_for_python_3_9():
    tree = ast.parse(boards.CODE, feature_version=(3, 9))
    modules = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    modules |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {m for m in modules if m.partition(".")[0] not in sys.stdlib_module_names} == {
        "numpy",
        "onnxruntime",
    }


PI = {
    "/proc/cpuinfo": "\n".join(
        f"processor\t: {i}\nCPU part\t: 0xd08\nFeatures\t: fp asimd" for i in range(4)
    ),
    "/proc/meminfo": "MemTotal:        3884360 kB\nMemFree: 1 kB",
    "/proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4",
    "/proc/device-tree/serial-number": "10000000abcdef01",
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand",
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1800000",
    "/sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "/sys/class/thermal/thermal_zone0/temp": "48312",
    "/sys/class/thermal/thermal_zone1/type": "battery",
    "/sys/class/thermal/thermal_zone1/temp": "61000",
}


def test_a_device_is_known_by_its_facts_and_not_by_its_name():
    facts = runner.describe(PI)
    assert (facts["model"], facts["cores"], facts["ram_gb"]) == ("Raspberry Pi 4 Model B Rev 1.4", 4, 3.7)
    assert (facts["governors"], facts["max_mhz"], facts["celsius"]) == (["ondemand"], [1800], 48.312)
    warmer = {**PI, "/sys/class/thermal/thermal_zone0/temp": "70000", "/proc/sys/kernel/osrelease": "6.9"}
    assert runner.describe(warmer)["unit"] == facts["unit"]
    twin = {**PI, "/proc/device-tree/serial-number": "10000000abcdef02"}
    assert runner.describe(twin)["unit"] != facts["unit"]
    assert "abcdef" not in json.dumps(facts)  # its serial number stays there


@pytest.fixture(scope="module")
def model():
    """A small ONNX network for (1, 3, 32, 32) images: half a millisecond; clocks are coarse."""
    onnx = pytest.importorskip("onnx")
    h = onnx.helper
    kind = onnx.TensorProto.FLOAT
    weights = np.random.default_rng(0).standard_normal((32, 3, 7, 7), np.float32)
    graph = h.make_graph(
        [h.make_node("Conv", ["images", "w"], ["logits"], pads=[3, 3, 3, 3])],
        "net",
        [h.make_tensor_value_info("images", kind, [1, 3, 32, 32])],
        [h.make_tensor_value_info("logits", kind, None)],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    made = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=10)
    return made.SerializeToString()


def test_weights_that_repeat_deflate_and_keep_everything_else(model, monkeypatch):
    onnx = pytest.importorskip("onnx")
    from latency.measuring.remote import networks

    monkeypatch.setattr(networks, "PERIOD", 64)
    small = networks.repeating(model)
    before, after = onnx.load_from_string(model), onnx.load_from_string(small)
    assert after.graph.node == before.graph.node
    weights = onnx.numpy_helper.to_array(after.graph.initializer[0])
    assert weights.shape == (32, 3, 7, 7)
    assert len(np.unique(weights)) == 64
    assert len(zlib.compress(small, 1)) < len(zlib.compress(model, 1)) / 4


@pytest.fixture
def device(tmp_path, monkeypatch, model):
    """This machine as a device of its own, reached through a shell, and the target that it is; the networks
    of its sittings are small, and what is exported is counted."""
    exports = []

    def exported(network, images, precision, *, narrow):
        exports.append(network)
        if network == "bad":
            raise RuntimeError("no such operator")
        return b"no network" if network == "broken" else model + onnx_comment(network)

    monkeypatch.setattr(boards.networks, "exported", exported)
    monkeypatch.setattr(session, "subnet_jobs", lambda target, genomes: jobs("a0", "a1", "a2"))
    monkeypatch.setattr(boards, "PAUSES_SECONDS", (0.05,))
    from latency.measuring.remote.target import remote

    target = remote(f"local?python={sys.executable}&folder={tmp_path}/board")
    return target, tmp_path / "board", exports


def onnx_comment(text):
    """Bytes after which an ONNX file is another one and the same network: its producer (field 2)."""
    return b"\x12" + bytes([len(text) % 128 | 128, len(text) // 128]) + text.encode()


def jobs(*names):
    return [Job(name, lambda name=name: (name, None)) for name in names]


def rows(store):
    """Every visit in the store, by what makes it one: its sitting, round and network."""
    return [
        (sitting.id, visit.round, visit.architecture)
        for sitting in store.sittings()
        for visit in store.visits(sitting.id)
        if visit.role != END
    ]


def expected(names, rounds=QUICK.fewest):
    """How often each network is visited in a round: anchors twice."""
    return {(r, name): 2 if name.startswith("a") else 1 for r in range(1, rounds + 1) for name in names}


def test_a_device_is_measured_by_the_same_protocol(device, tmp_path):
    target, folder, _ = device
    with Store(tmp_path / "s.sqlite") as store:
        odd = f"y'; touch {tmp_path}/hacked #"
        how = session.Measuring(store, rounds=QUICK)
        timed = session.time_jobs(target, jobs("x", "bad", odd, "broken"), how)
        visits = store.visits(store.sittings(target)[0].id)
    assert list(timed.quartiles_ms) == ["x", odd]
    assert not (tmp_path / "hacked").exists()
    assert timed.failed["bad"] == "RuntimeError: no such operator"
    assert "broken" in timed.failed
    whole = [visit for visit in visits if visit.error is None]
    assert all(len(visit.wall_ms) == len(visit.cpu_ms) == runner.BURST for visit in whole)
    assert all(min(visit.wall_ms) > 0 for visit in whole)
    facts = timed.facts
    assert facts["unit"] == target.unit
    assert facts["engine"].startswith("onnxruntime")
    assert sorted(path.name for path in folder.iterdir()) == sorted([boards.RUNNER, "lock"])  # tidied up


def test_a_device_tells_energy_by_counters_that_its_address_names(device, tmp_path):
    """A counter that advances by ten watts, as Linux has it."""
    from latency.measuring.remote.target import remote

    domain, stop = tmp_path / "caps/intel-rapl:0", threading.Event()
    domain.mkdir(parents=True)
    (domain / "name").write_text("package-0\n")
    (domain / "max_energy_range_uj").write_text("1000000000000\n")

    def count():
        while True:
            (domain / "next").write_text(f"{int(10e6 * time.perf_counter())}\n")
            (domain / "next").replace(domain / "energy_uj")
            if stop.wait(0.002):
                return

    counting = threading.Thread(target=count)
    counting.start()
    try:
        address = f"local?python={sys.executable}&folder={tmp_path}/board&powercap={tmp_path}/caps"
        target = remote(address)
        session.check_energy(target)
        with Store(tmp_path / "s.sqlite") as store:
            timed = session.time_jobs(target, jobs("x"), session.Measuring(store, rounds=QUICK))
            visits = store.visits(store.sittings(target)[0].id)
    finally:
        stop.set()
        counting.join()
    energies = [visit.energy_mj for visit in visits if visit.role != END]
    assert all(energy > 0 for energy in energies)
    assert timed.facts["energy"]["meter"] == "RAPL: package-0"
    assert timed.facts["energy"]["idle_watts"] == pytest.approx(10, rel=0.1)
    with pytest.raises(ValueError, match=r"energy_mj cannot be measured on .* in /nowhere"):
        session.check_energy(
            remote(f"local?python={sys.executable}&folder={tmp_path}/board&powercap=/nowhere")
        )


def test_a_device_that_no_command_named_is_not_connected_to(device, monkeypatch, tmp_path):
    target, _, _ = device
    monkeypatch.setattr(reached, "_reached", {})
    with Store(tmp_path / "s.sqlite") as store, pytest.raises(ValueError, match="name it again"):
        session.time_jobs(target, jobs("x"), session.Measuring(store))


def kill(folder):
    """End the runner of a folder at once, as a reboot does."""
    with suppress(ProcessLookupError, ValueError, FileNotFoundError):
        os.kill(int((folder / "lock").read_text()), signal.SIGKILL)


def test_a_broken_connection_loses_and_repeats_nothing(device, tmp_path, monkeypatch, rng):
    """The runner is killed six times, at any moment; later the device has lost its files too."""
    target, folder, _ = device
    times, taken = iter(rng.integers(3, 12, 6).tolist()), [0]
    receive, due = boards.Link.receive, [next(times)]

    def cut(self, seconds):
        line = receive(self, seconds)
        taken[0] += 1
        if taken[0] >= due[0]:
            due[0] = taken[0] + next(times, 10**9)
            if due[0] > 40 and due[0] < 10**8:
                for path in folder.glob("*.z"):
                    path.unlink()
            kill(folder)
        return line

    monkeypatch.setattr(boards.Link, "receive", cut)
    monkeypatch.setattr(boards, "MOST_ENDS", 100)
    with Store(tmp_path / "s.sqlite") as store:
        how = session.Measuring(store, rounds=QUICK)
        timed = session.time_jobs(target, jobs("x", "y"), how)
        made = rows(store)
    assert list(timed.quartiles_ms) == ["x", "y"]
    assert timed.failed == {}
    counted = {key: sum(row[1:] == key for row in made) for key in expected(["x", "y", "a0", "a1", "a2"])}
    assert counted == expected(["x", "y", "a0", "a1", "a2"])
    assert len(made) == sum(counted.values())


class KilledError(Exception):
    """The end of the host, at any moment."""


def test_a_killed_host_goes_on_where_it_was(device, tmp_path, monkeypatch, rng):
    target, _, exports = device
    add = Store.add
    sittings, made = set(), []
    for _ in range(60):
        left, after = [int(rng.integers(3, 18))], bool(rng.integers(2))

        def dying(self, sitting, visit, left=left, late=after):
            left[0] -= 1
            if left[0] or late:
                add(self, sitting, visit)
            if left[0] == 0:
                raise KilledError

        monkeypatch.setattr(Store, "add", dying)
        with Store(tmp_path / "s.sqlite") as store:
            try:
                how = session.Measuring(store, rounds=QUICK)
                timed = session.time_jobs(target, jobs("x", "bad", "y"), how)
            except KilledError:
                assert summary.stored_sittings(store, target, session.engine_version(target)) == []
                continue
            finally:
                sittings |= {sitting.id for sitting in store.sittings()}
            made = rows(store)
            break
    assert len(sittings) == 1
    assert list(timed.quartiles_ms) == ["x", "y"]
    assert timed.failed == {"bad": "RuntimeError: no such operator"}
    measured = [row[1:] for row in made if row[2] != "bad"]
    assert {key: measured.count(key) for key in set(measured)} == expected(["x", "y", "a0", "a1", "a2"])
    assert exports.count("bad") == 1
    monkeypatch.setattr(Store, "add", add)
    with Store(tmp_path / "s.sqlite") as store:  # it came to its end: the same again is another sitting
        session.time_jobs(target, jobs("x", "bad", "y"), session.Measuring(store, rounds=QUICK))
        assert len(store.sittings()) == 2


def test_another_sitting_closes_one_that_was_broken_off(device, tmp_path, monkeypatch):
    target, _, _ = device
    with Store(tmp_path / "s.sqlite") as store:
        how = session.Measuring(store, rounds=Rounds(fewest=4, most=4))
        with monkeypatch.context() as patched:
            patched.setattr(session, "MIN_VISITS", 1)
            patched.setattr(session.broken_off, "end", lambda *words: (_ for _ in ()).throw(KilledError))
            with pytest.raises(KilledError):
                session.time_jobs(target, jobs("x"), how)
        session.time_jobs(target, jobs("z"), how)
        ends = [[v.role for v in store.visits(s.id)].count(END) for s in store.sittings()]
    assert ends == [1, 1]


def test_a_runner_that_a_connection_left_behind_ends(device):
    _, folder, _ = device
    words = [sys.executable, str(folder / boards.RUNNER), str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe) as first:
        assert first.stdout.readline()
        second = subprocess.run(words, input=b"", stdout=pipe, check=True)
        assert "hello" in json.loads(second.stdout)
        assert first.wait(10) == -signal.SIGTERM


def test_a_network_that_ends_the_runner_every_time_fails_alone(device, tmp_path, monkeypatch):
    """As one that the device has no memory for: the system kills the runner."""
    target, _, _ = device
    fatal = boards.CODE.replace(b"run, feed = self.sessions[name]", b"run, feed = self.sessions[name]\n"
                                b"        name == 'x' and os.kill(os.getpid(), signal.SIGKILL)")  # fmt: skip
    assert fatal != boards.CODE
    monkeypatch.setattr(boards, "CODE", fatal)
    with Store(tmp_path / "s.sqlite") as store:
        timed = session.time_jobs(target, jobs("x", "y"), session.Measuring(store, rounds=QUICK))
    assert list(timed.quartiles_ms) == ["y"]
    assert "the runner ended 3 times in this visit" in timed.failed["x"]


def test_a_full_disk_says_so_and_keeps_what_was_measured(device, tmp_path, monkeypatch):
    target, _, _ = device
    put = transports.Shell.put

    def full(self, content, name):
        if name.endswith(".z"):
            raise FullError("board: No space left on device")
        put(self, content, name)

    monkeypatch.setattr(transports.Shell, "put", full)
    with (
        Store(tmp_path / "s.sqlite") as store,
        pytest.raises(LostError, match=r"free some space there.*goes on"),
    ):
        session.time_jobs(target, jobs("x"), session.Measuring(store))


def test_a_device_without_onnxruntime_gets_advice(tmp_path, monkeypatch):
    from latency.measuring.remote.target import remote

    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(ValueError, match=r"no onnxruntime for .*; install it there .*\?python="):
        remote(f"local?python={bare}&folder={tmp_path}/board")


def test_lines_that_are_none_of_the_runner_are_refused():
    with pytest.raises(ValueError, match="no visit of the runner"):
        boards.reading({"name": "x", "wall_ms": None, "cpu_ms": []})


def test_spaces_of_devices_are_those_that_ship(device):
    target, _, _ = device
    assert get_space(target.space).name == "ofa_mbv3_w1.0"
    assert target.name.startswith(target.spec.name)
