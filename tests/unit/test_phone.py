"""A phone behind adb: a shim logs what adb is asked for and does it here; programs print recorded words."""

import hashlib
import os
import re
import shutil
from pathlib import Path

import pytest

from latency.measuring import session
from latency.measuring.jobs import Job, Rounds
from latency.measuring.remote import board as boards
from latency.measuring.remote import networks, programs
from latency.measuring.remote.target import remote
from latency.measuring.remote.transports import LostError, Reach
from latency.measuring.store import END, Store

SHIM = r"""#!/bin/sh
# adb [-s SERIAL] shell LINE | push HERE THERE | pull THERE HERE
printf '%s\036' "$@" >> "$ADB_LOG"; printf '\n' >> "$ADB_LOG"
[ -e "$PHONE/offline" ] && { rm "$PHONE/offline"; echo "error: device 'R58' not found" >&2; exit 1; }
[ "$1" = -s ] && shift 2
case "$1" in
  shell) shift; PATH="$PHONE/bin:$PATH" exec sh -c "$*" ;;
  push) cp "$2" "$3" ;;
  pull) cp "$2" "$3" ;;
esac
"""
GETPROP = """#!/bin/sh
case "$1" in ro.product.model) echo 'SM-N975F' ;; ro.serialno) echo R58M000001 ;; esac
"""
# As ONNX Runtime's sources print it (onnxruntime/test/perftest); the times are made up.
PERF_TEST = """Setting intra_op_num_threads to 1
Setting inter_op_num_threads to 1
Session creation time cost: 0.0413 s
First inference time cost: 31 ms
iteration:1,time_cost:0.0281
iteration:2,time_cost:0.0243
iteration:3,time_cost:0.0241
iteration:4,time_cost:0.0246
Total inference time cost: 0.1011 s
Total inference requests: 4
Average inference time cost: 25.275 ms
Min Latency: 0.0241 s
Max Latency: 0.0281 s
P50 Latency: 0.0246 s
"""
# As LiteRT's and ExecuTorch's documentation shows their output.
BENCHMARK_MODEL = """INFO: Running benchmark for at least 2 iterations and at least 0 seconds
INFO: count=2 first=18535 curr=14322 min=14322 max=18535 avg=16428.5 std=2106

INFO: Running benchmark for at least 3 iterations and at least 0 seconds
INFO: count=3 first=14211 curr=14307 min=14203 max=14312 avg=14240.3 std=33

INFO: Inference timings in us: Init: 5685, First inference: 18535, Inference (avg): 14240.3
"""
EXECUTOR_RUNNER = (
    "I 00:00:00.013 executor_runner.cpp:391] Model executed successfully 4 time(s) in 51.200 ms.\n"
)


def test_what_benchmark_programs_print():
    assert programs.perf_test_ms(PERF_TEST) == pytest.approx((28.1, 24.3, 24.1, 24.6))
    without = re.sub("iteration.*\n", "", PERF_TEST)
    assert sorted(programs.perf_test_ms(without)) == pytest.approx([24.1, 24.6, 28.1])
    older = without.replace(" Latency: ", " Latency is ").replace(" s\n", "sec\n")
    assert sorted(programs.perf_test_ms(older)) == pytest.approx([24.1, 24.6, 28.1])
    assert programs.benchmark_model_ms(BENCHMARK_MODEL) == pytest.approx((14.203, 14.2403, 14.312))
    assert programs.executor_runner_ms(EXECUTOR_RUNNER) == pytest.approx((12.8,))
    for program in programs.PROGRAMS.values():
        assert program.parse("Segmentation fault") == ()


@pytest.fixture
def phone(tmp_path, monkeypatch):
    """The folder of a phone, and what adb was asked for, as a function."""
    there, log = tmp_path / "phone", tmp_path / "adb.log"
    (there / "bin").mkdir(parents=True)
    (tmp_path / "sdk").mkdir()
    answers = {
        tmp_path / "sdk" / "adb": SHIM,
        there / "bin" / "getprop": GETPROP,
        there / "bin" / "dumpsys": "#!/bin/sh\necho '  mWakefulness=Asleep'\n",
        there / "onnxruntime_perf_test": f"#!/bin/sh\ncat <<'END'\n{PERF_TEST}END\n",
    }
    for path, text in answers.items():
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'sdk'}:{os.environ['PATH']}")
    monkeypatch.setenv("ADB_LOG", str(log))
    monkeypatch.setenv("PHONE", str(there))
    monkeypatch.setattr(networks, "exported", lambda network, *rest, **more: network.encode())
    monkeypatch.setattr(session, "subnet_jobs", lambda target, genomes: jobs("a0", "a1", "a2"))
    monkeypatch.setattr(boards, "PAUSES_SECONDS", (0.01,))

    def asked():
        return [text.split("\x1e") for text in log.read_text().split("\x1e\n")[:-1]]

    return there, asked, f"adb:R58M000001?folder={there}/ours&program={there}/onnxruntime_perf_test"


def jobs(*names):
    return [Job(name, lambda name=name: (name, None)) for name in names]


def test_exactly_what_a_phone_is_asked_for(phone):
    there, asked, address = phone
    target = remote(address)
    assert target.spec.kind == "mobile"
    assert target.spec.title.startswith("SM-N975F (")
    facts = [words[3] for words in asked()]
    assert all(words[:3] == ["-s", "R58M000001", "shell"] for words in asked())
    assert facts[0].startswith("for f in /proc/cpuinfo /proc/meminfo ")
    assert "scaling_governor" in facts[0]
    assert "thermal_zone*/temp" in facts[0]
    assert facts[1:] == [
        "getprop ro.product.model", "getprop ro.serialno", "uname -m", "dumpsys power",
        f"sha256sum {there}/onnxruntime_perf_test",
    ]  # fmt: skip
    board = programs.ProgramBoard(Reach.from_address(address))
    board.prepare(jobs("net")[0])
    (reading,) = board.visits([("1/1/net", "net")])
    assert reading.wall_ms == (24.3, 24.1, 24.6)  # the first is a warm-up
    name = f"{hashlib.sha256(b'net').hexdigest()[:24]}.onnx"
    board.transport.get(name)
    board.forget(["net"])
    words = [entry[2:] for entry in asked()[6:]]
    ours, run = f"{there}/ours", f"{there}/onnxruntime_perf_test -m times -r 4 -v -s -I -e cpu -x 1 -y 1"
    copies = [entry.pop(1) for entry in words if entry[0] == "push"] + [
        entry.pop(2) for entry in words if entry[0] == "pull"
    ]
    assert words == [
        ["shell", f"mkdir -p {ours}"],
        ["push", f"{ours}/{name}.part"],
        ["shell", f"mv {ours}/{name}.part {ours}/{name}"],
        ["shell", f"{run} {ours}/{name}"],  # once, to see that it runs
        ["shell", f"{run} {ours}/{name}"],
        ["shell", words[5][1]],
        ["pull", f"{ours}/{name}"],
        ["shell", f"rm -f {ours}/{name}"],
    ]
    assert words[5][1].startswith("for f in /sys/class/thermal/thermal_zone*/type ")
    assert {Path(copy).name for copy in copies} == {name}


def test_a_phone_is_measured_by_the_same_protocol_and_may_go_offline(phone, tmp_path):
    there, _, address = phone
    target = remote(address)
    (there / "offline").touch()
    with Store(tmp_path / "s.sqlite") as store:
        how = session.Measuring(store, rounds=Rounds(fewest=5, most=5))
        timed = session.time_jobs(target, jobs("x"), how)
        visits = [v for v in store.visits(store.sittings(target)[0].id) if v.role != END]
    assert timed.quartiles_ms["x"].tolist() == pytest.approx([24.1] * 3)
    assert len(visits) == 5 * 7
    assert all(visit.cpu_ms == () for visit in visits)
    assert timed.facts["screen"] == "asleep"
    assert list((there / "ours").iterdir()) == []


def test_a_phone_without_the_program_or_with_a_failing_one_says_so(phone, tmp_path):
    there, _, address = phone
    target = remote(address)
    program = there / "onnxruntime_perf_test"
    program.write_text("#!/bin/sh\necho 'no such operator' >&2\nexit 1\n")
    with Store(tmp_path / "s.sqlite") as store, pytest.raises(ValueError, match="no such operator"):
        session.time_jobs(target, jobs("x"), session.Measuring(store))
    program.unlink()
    with pytest.raises(LostError, match=r"must lie at .*onnxruntime_perf_test \(\?program=PATH\)"):
        remote(address)
    other = Reach.from_address(
        f"{address.partition('?')[0]}?folder={there}/ours&program={there}/benchmark_model"
    )
    with pytest.raises(ValueError, match="networks are ONNX"):
        _ = programs.ProgramBoard(other).program


def test_phones_need_adb(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="needs the program adb, which is not installed here"):
        remote("adb:R58M000001")
