"""A phone that gets too hot: slow visits are kept, repeated after it cooled down, and do not count."""

import contextlib
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from latency.measuring import session, summary
from latency.measuring.jobs import Job, Rounds
from latency.measuring.place import Reading
from latency.measuring.store import Store, Visit
from latency.target import Target

PHONE = Target("phone", "note10", "ofa_mbv3_w1.0", engine="onnxruntime", threads=1, unit="0123456789ab")
TRUE = {f"x{i}": 3.0 + i for i in range(8)} | {"a0": 5.0, "a1": 7.0, "a2": 9.0}
FULL, CAPPED = 2840.0, 1708.0  # MHz of the big cores


def trace():
    """(celsius, MHz) visit by visit, again and again: 35 visits until it is too hot, 45 that are slow."""
    heat = [(round(33 + 0.35 * i, 1), FULL) for i in range(35)]
    slow = [(round(45.2 - 0.05 * i, 1), CAPPED) for i in range(45)]
    return heat + slow


@dataclass
class Phone:
    """A place that replays the trace; memory-bound networks slow down less than others."""

    rng: np.random.Generator
    version: str = "onnxruntime 1"
    facts: dict = field(default_factory=dict)
    resumes: bool = True
    at: int = 0
    cooled: list = field(default_factory=list)

    def now(self):
        return trace()[self.at % len(trace())]

    def room(self):
        return 64

    def prepare(self, job):
        pass

    def visits(self, order):
        for _, name in order:
            celsius, mhz = self.now()
            self.at += 1
            slower = (FULL / mhz) ** (0.4 + 0.06 * len(name + str(TRUE[name])) % 0.5)
            ms = TRUE[name] * slower * np.exp(0.004 * self.rng.normal(size=3))
            yield Reading(name, tuple(ms), (), 0.0, None, celsius, mhz)

    def forget(self, names):
        pass

    def cool(self, celsius):
        """It idles, and begins to heat up anew."""
        assert celsius is not None
        self.cooled.append(celsius)
        self.at += -self.at % len(trace())

    @contextlib.contextmanager
    def sitting(self, identity):
        yield


@pytest.fixture
def phone(monkeypatch, rng):
    there = Phone(rng)
    monkeypatch.setattr(session, "place_of", lambda target, rounds: contextlib.nullcontext(there))
    anchors = [Job(name, lambda: (None, None)) for name in ("a0", "a1", "a2")]
    monkeypatch.setattr(session, "subnet_jobs", lambda target, genomes: anchors)
    return there


def measured(tmp_path):
    names = [name for name in TRUE if name.startswith("x")]
    with Store(tmp_path / "s.sqlite") as store:
        how = session.Measuring(store, rounds=Rounds(fewest=12))
        timed = session.time_jobs(PHONE, [Job(name, lambda: (None, None)) for name in names], how)
        visits = [v for sitting in store.sittings() for v in store.visits(sitting.id) if v.role != "end"]
    errors = {name: timed.quartiles_ms[name][1] / TRUE[name] - 1 for name in names}
    return errors, visits


def test_slow_visits_are_repeated_and_the_result_is_right(phone, tmp_path):
    errors, visits = measured(tmp_path)
    assert max(map(abs, errors.values())) < 0.03
    slow = [visit for visit in visits if visit.mhz == CAPPED]
    assert slow  # they are kept
    assert all(celsius < 45 for celsius in phone.cooled)
    again = {(v.round, v.architecture) for v in slow}
    whole = {(v.round, v.architecture) for v in visits if v.mhz == FULL}
    assert again <= whole
    assert all(33 <= visit.celsius < 46 for visit in visits)


def test_without_the_frequency_the_same_trace_would_be_wrong(phone, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "throttled", lambda visits: [False] * len(visits))
    monkeypatch.setattr(summary, "throttled", lambda visits: [False] * len(visits))
    errors, _ = measured(tmp_path)
    assert max(map(abs, errors.values())) > 0.05


def test_a_frequency_that_nothing_tells_is_no_throttling():
    visit = Visit("s", 0.0, "a", "candidate", 1, 1, (5.0,), (5.0,))
    assert summary.throttled([visit, replace(visit, mhz=2000.0), replace(visit, mhz=1000.0)]) == [
        False, False, True,
    ]  # fmt: skip
    assert summary.throttled([]) == []


def test_conditions_of_a_visit_travel_with_it(tmp_path):
    hot = Visit("s", 1.0, "a", "candidate", 1, 1, (5.0,), (5.0,), 0.1, None, 61.5, 1500.0)
    cold = Visit("s", 2.0, "a", "candidate", 1, 1, (5.0,), (5.0,), 0.1)
    with Store(tmp_path / "s.sqlite") as store:
        sitting = session.Sitting("s", 0.0, "e 1", PHONE, {})
        store.add(sitting, hot)
        store.add(sitting, cold)
        store.export_csv(tmp_path / "all.csv")
        assert store.visits("s") == [hot, cold]
    with Store(tmp_path / "t.sqlite") as other:
        assert other.import_csv(tmp_path / "all.csv") == 2
        assert other.import_csv(tmp_path / "all.csv") == 0
        assert other.visits("s") == [hot, cold]
    text = (tmp_path / "all.csv").read_text().splitlines()
    assert text[0].endswith(",celsius,mhz,energy_mj")
    (tmp_path / "old.csv").write_text("\n".join(line.rsplit(",", 3)[0] for line in text) + "\n")
    with Store(tmp_path / "u.sqlite") as other:  # of a release that did not know them
        assert other.import_csv(tmp_path / "old.csv") == 2
        assert other.visits("s") == [replace(hot, celsius=None, mhz=None), cold]
