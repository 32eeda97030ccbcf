"""Energy beside latency: counters of Linux in a folder of the test, and all that is made of what they say."""

import csv
import zlib
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from latency.data import LatencyData
from latency.measuring import session
from latency.measuring.known import Bench
from latency.measuring.remote import runner
from latency.measuring.store import Store
from latency.predictors import interface
from latency.zoo import catalogue
from search import models
from search.verify.rounds import Round
from supernet.space import get_space
from tests.e2e.commands import call
from tests.faults.clock import Engine, known_timings

RANGE = 262143328850  # microjoules after which a counter of Intel begins again at zero
IDLE_WATTS = 4.0


class Counters:
    """A folder as Linux has it. The package begins just before its counter's end."""

    def __init__(self, root):
        self.root, self.joules = root, 0.0
        for name, what in (
            ("intel-rapl:0", "package-0"),
            ("intel-rapl:0:0", "core"),
            ("intel-rapl:0:1", "dram"),
            ("intel-rapl:1", "psys"),
            ("intel-rapl:1:0", "dram"),  # of what is not counted
            ("intel-rapl-mmio:0", "package-0"),
        ):
            (root / name).mkdir(parents=True)
            (root / name / "name").write_text(f"{what}\n")
            (root / name / "max_energy_range_uj").write_text(f"{RANGE}\n")
            self.set(name, RANGE - 1000)

    def set(self, name, microjoules):
        (self.root / name / "energy_uj").write_text(f"{int(microjoules)}\n")

    def use(self, joules):
        """The package takes three quarters of them, its memory a quarter."""
        self.joules += joules
        for name, share in (("intel-rapl:0", 0.75), ("intel-rapl:0:1", 0.25)):
            self.set(name, (RANGE - 1000 + 1e6 * share * self.joules) % RANGE)


@pytest.fixture
def counters(tmp_path):
    return Counters(tmp_path / "powercap")


def test_packages_and_their_memory_are_counted_once_and_across_the_end_of_a_counter(counters):
    meter = runner.Rapl(str(counters.root))
    assert meter.name == "RAPL: package-0, dram"
    for name in ("intel-rapl:0:0", "intel-rapl:1", "intel-rapl:1:0", "intel-rapl-mmio:0"):
        counters.set(name, 5)  # elsewhere anything may happen
    assert meter.joules() == 0
    for total in (0.5, 1.0, 100.0):
        counters.use(total - counters.joules)
        assert meter.joules() == pytest.approx(total, abs=1e-5)
    (counters.root / "intel-rapl:0:1").rename(counters.root / "intel-rapl:0" / "intel-rapl:0:1")
    assert runner.Rapl(str(counters.root)).name == meter.name  # as a container may have it
    assert meter.joules() is None


def test_why_nothing_can_be_read(counters, tmp_path, monkeypatch):
    with pytest.raises(runner.NoMeterError, match="modprobe intel_rapl_msr"):
        runner.Rapl(str(tmp_path / "nothing"))
    path, whole = counters.root / "intel-rapl:0" / "energy_uj", Path.read_bytes

    def refused(self):
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(self))
        return whole(self)

    monkeypatch.setattr(Path, "read_bytes", refused)
    command = f"sudo chmod o\\+r {path} {counters.root / 'intel-rapl:0:1' / 'energy_uj'}$"
    with pytest.raises(runner.NoMeterError, match=command):
        runner.Rapl(str(counters.root))
    assert "sudo chmod" in runner.metered(lambda: runner.Rapl(str(counters.root)))[1]["refused"]


def test_a_visit_lasts_as_long_as_a_meter_needs(monkeypatch):
    """Every run takes a millisecond and 3 mJ; latencies are of the first runs alone."""

    class Clock:
        ns = 0

        def perf_counter(self):
            return self.ns / 1e9

        def perf_counter_ns(self):
            return self.ns

        process_time_ns = perf_counter_ns

    class Meter:
        seconds = 0.02

        def joules(self):
            return runs * 0.003

    clock, runs = Clock(), 0

    def run():
        nonlocal runs
        clock.ns, runs = clock.ns + 10**6, runs + 1

    monkeypatch.setattr(runner, "time", clock)
    assert runner.burst(run, Meter()) == ((1.0,) * 3, (1.0,) * 3, 3.0)
    assert 2 + 20 <= runs <= 2 + 21
    runs = 0
    assert runner.burst(run) == ((1.0,) * 3, (1.0,) * 3, None)
    assert runs == 5


def millijoules(name):
    """Of a run of the network with this name; its power is its own."""
    return (1 + zlib.crc32(name.encode()) % 1_000_000 / 1e6) * (5 + len(name) % 7)


@contextmanager
def metered(counters, others=0.0):
    """Networks take what their names say, milliseconds and millijoules."""

    class Metered(Engine):
        def prepare(self, name):
            return super().prepare(name), millijoules(name)

        def run(self, session):
            super().run(session[0])
            counters.use(session[1] / 1000)

    with known_timings() as clock, mock.patch.object(runner, "POWERCAP", str(counters.root)):
        sleep = clock.sleep
        clock.sleep = lambda seconds: (sleep(seconds), counters.use(IDLE_WATTS * seconds))
        load = mock.patch.object(session.conditions.Load, "others", return_value=others)
        with load, mock.patch.object(session, "engine_of", return_value=Metered(clock)):
            yield


def rows_of(path):
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def test_energy_is_measured_stored_fitted_and_goes_by_csv(counters, tmp_path):
    with metered(counters):
        code, out, err = call("adapt", "samples=4", "tests=2", "store=s.sqlite", "out=mine", cwd=tmp_path)
        assert code == 0, err
        assert "energy (mJ), 4 samples" in out
        assert f"idle power ({IDLE_WATTS:g} W); RAPL: package-0, dram" in out
        words = ["export_csv=all.csv", "store=s.sqlite"]
        assert call("measure", *words, cwd=tmp_path)[0] == 0
        assert call("measure", "import_csv=all.csv", "store=other.sqlite", cwd=tmp_path)[0] == 0
    samples = rows_of(tmp_path / "mine" / "samples.csv")
    assert len(samples) == 4
    for row in samples:
        assert float(row["energy_mj"]) == pytest.approx(millijoules(row["architecture"]), rel=1e-4)
    predictor = catalogue.find(f"run:{tmp_path / 'mine'}")
    energy = interface.energy_of(predictor)
    assert energy.facts["idle_watts"] == IDLE_WATTS
    assert energy.facts["meter"] == "RAPL: package-0, dram"
    genomes = get_space(predictor.target.space).parse([row["architecture"] for row in samples])
    own = np.array([millijoules(row["architecture"]) for row in samples])
    predicted = energy.predict(genomes, predictor.target).mean
    assert np.abs(predicted / own - 1).mean() < 0.5  # nothing but noise can be fitted
    chosen = models.choose(latency=predictor)
    assert chosen.objective("energy_mj").of(genomes).mean == pytest.approx(predicted)
    assert chosen.objective("energy_mj").label == "energy_mj"
    assert predictor.adapt(LatencyData(predictor.target, genomes, own, own)).energy is None
    with metered(counters), Store(tmp_path / "s.sqlite") as store, Store(tmp_path / "other.sqlite") as other:
        energies = Bench(store).known(predictor.target).energy.data
        assert Bench(other).known(predictor.target).energy.data.ms == pytest.approx(energies.ms)
    names = get_space(predictor.target.space).format(energies.genomes)
    assert energies.ms == pytest.approx([millijoules(name) for name in names], rel=1e-4)
    assert len(names) == 4 + 2 + 3  # samples, tests, anchors


def test_visits_beside_other_processes_tell_no_energy(counters, tmp_path):
    with metered(counters, others=0.5):
        code, out, err = call("measure", "subnets=2", "store=s.sqlite", "csv=m.csv", cwd=tmp_path)
    assert code == 0, err
    assert "energy: not measured (other processes used the machine" in out
    assert "energy_mj" not in rows_of(tmp_path / "m.csv")[0]


SEARCH = (
    "target=here", "objectives=[accuracy,energy_mj]", "samples=5", "budget=400", "verify=4", "rounds=2",
    "store=s.sqlite", "out=run", "wandb=disabled", "bound=0",
)  # fmt: skip


def test_a_search_minimises_energy_and_measures_that_of_its_front(counters, tmp_path):
    with metered(counters):
        code, out, err = call("search", *SEARCH, "limits.energy_mj=20", cwd=tmp_path)
        assert code == 0, err
        front, measured = rows_of(tmp_path / "run/front.csv"), rows_of(tmp_path / "run/measured.csv")
        verified = [row for row in front if row["on_verified_front"] == "True"]
        assert verified
        for row in verified:
            own = millijoules(row["architecture"])
            assert float(row["energy_mj_measured"]) == pytest.approx(own, rel=1e-4)
            assert float(row["energy_mj"]) == pytest.approx(own, rel=1e-4)
            assert float(row["energy_mj_predicted"]) > 0
        assert all(float(row["energy_mj"]) <= 20 for row in front)
        assert {row["energy_mj_limit_holds"] for row in measured} <= {"True", "False"}
        assert "energy: predictions of" in out
        assert "mJ per image on" in (tmp_path / "run/report.html").read_text()
        other = ["predictor=run:run", "objectives=[accuracy,latency_ms]", "limits.energy_mj=20", "budget=200"]
        code, _, err = call("search", *other, "out=two", "verify=0", "wandb=disabled", cwd=tmp_path)
        assert code == 0, err
    target = catalogue.find(f"run:{tmp_path / 'run'}").target
    for number in (1, 2):  # a run that goes on has these and measures nothing twice
        part = Round.load(tmp_path / f"run/round_{number}.npz", {"fp32": target}).parts["fp32"]
        names = get_space(target.space).format(part.networks)
        assert part.energy.ms == pytest.approx([millijoules(name) for name in names], rel=1e-4)
        assert len(part.known.energy.data) == len(part.known.data)
        assert part.known.energy.anchors_ms.keys() == part.known.anchors_ms.keys()


def test_a_search_for_energy_without_a_meter_is_refused_at_once(tmp_path):
    with known_timings():
        code, _, err = call("search", *SEARCH, cwd=tmp_path)
    assert code != 0
    assert "energy_mj cannot be measured on" in err
    assert "no energy counter of a processor in /nowhere" in err
    assert not (tmp_path / "run").exists()
    code, _, err = call(
        "search", "target=v100_b64", "objectives=[accuracy,energy_mj]", "out=run", cwd=tmp_path
    )
    assert code != 0
    assert "no energy is known of v100_b64" in err


def test_under_a_background_load_there_is_no_energy_of_a_network():
    target = replace(catalogue.target("epyc_ort"), utilisation=0.5)
    with pytest.raises(runner.NoMeterError, match="background load"):
        session.meter_of(target, Engine(None))
