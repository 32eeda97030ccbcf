"""The timing protocol, on an engine whose times are known and on the real ones."""

import time
from dataclasses import replace

import numpy as np
import pytest

from latency.measuring import conditions, summary
from latency.measuring import session as measure
from latency.measuring.engine import build_engine
from latency.measuring.here import here, is_here
from latency.measuring.jobs import Job, Rounds
from latency.measuring.store import Store, Visit
from latency.target import Target
from supernet import extras, registry
from supernet.extras import NotInstalledError
from supernet.space import get_space

CPU = Target(
    name="cpu",
    device="i7_8700k",
    space="ofa_mbv3_w1.0",
    engine="torch_eager",
    threads=1,
)
NAMES = [f"c{i}" for i in range(12)]


def visits(true_ms, drift, rng, noise=0.01, anchors=3, block=1, **changes):
    """Visits of candidates and anchors over rounds that are slow by `drift`."""
    found = []
    names = [*true_ms, *[f"anchor{i}" for i in range(anchors)]]
    for number, slow in enumerate(drift):
        for name in names:
            ms = true_ms.get(name, 10.0) * slow * np.exp(noise * rng.normal())
            role = "anchor" if name.startswith("anchor") else "candidate"
            runs = (ms, ms * 1.2, ms * 1.5)
            found.append(Visit("s", float(number), name, role, block, block * 100 + number, runs, runs, 0.5))
    return [replace(visit, **changes) for visit in found]


def test_drift_between_rounds_and_blocks_is_removed(rng):
    true = dict(zip(NAMES, np.linspace(2, 6, len(NAMES)), strict=True))
    first = {name: true[name] for name in NAMES[:6]}
    second = {name: true[name] for name in NAMES[6:]}
    slow = np.exp(0.15 * rng.normal(size=16))
    taken = visits(first, slow, rng) + visits(second, 1.3 * slow[::-1], rng, block=2)
    quartiles, anchors = summary.summarise(taken, CPU)
    ratio = np.array([quartiles[name][1] / true[name] for name in NAMES])
    assert np.ptp(ratio) < 0.03  # one common scale, whatever the block
    assert list(anchors) == ["anchor0", "anchor1", "anchor2"]


def test_slow_rounds_do_not_count(rng):
    true = dict.fromkeys(NAMES, 4.0)
    clean = visits(true, np.ones(12), rng, noise=0.0)
    # In slow rounds the noise is not common: candidates suffer differently.
    rough = visits(true, np.full(5, 1.3), rng, noise=0.3)
    rough = [replace(visit, round=visit.round + 50) for visit in rough]
    quartiles, _ = summary.summarise(clean + rough, CPU)
    assert np.allclose([quartiles[name][1] for name in NAMES], 4.0, rtol=1e-6)


def test_measurements_that_were_cut_short_or_broke_down_do_not_count(rng):
    true = dict.fromkeys(NAMES, 4.0)
    taken = visits(true, np.ones(12), rng)
    short = [
        visit for visit in taken if visit.architecture != "c0" or visit.round < 100 + measure.MIN_VISITS - 1
    ]
    broken = replace(taken[-1], architecture="c1", error="MemoryError: out of memory")
    quartiles, _ = summary.summarise([*short, broken], CPU)
    assert set(quartiles) == {*NAMES, "anchor0", "anchor1", "anchor2"} - {"c0", "c1"}


def test_a_sitting_that_was_killed_at_once_is_not_known(tmp_path, rng):
    space = get_space(CPU.space)
    true = dict(zip(space.format(space.network(space.sample(6, rng))), np.linspace(2, 6, 6), strict=True))
    with Store(tmp_path / "s.sqlite") as store:
        for rounds in (12, 1):
            sitting = measure.Sitting.begin(CPU, "1", {})
            for i, visit in enumerate(visits(true, np.ones(rounds), rng)):
                store.add(sitting, replace(visit, sitting=sitting.id, unix_time=float(i)))
        data, anchors = summary.stored_latencies(store, CPU, "1")
    assert len(data) == 6
    assert len(anchors) == 3


def test_anchors_can_be_asked_for_too(tmp_path, stub):
    with Store(tmp_path / "s.sqlite") as store:
        both = measure.time_jobs(CPU, jobs({"a1": 7.0, "x": 2.0}), measure.Measuring(store))
        alone = measure.time_jobs(CPU, jobs({"a1": 7.0}), measure.Measuring(store))
    assert list(both.quartiles_ms) == ["a1", "x"]
    assert list(alone.quartiles_ms) == ["a1"]


def test_cpu_time_is_the_latency_with_one_thread_and_wall_time_otherwise():
    visit = Visit("s", 0.0, "a", "candidate", 1, 1, (5.0, 4.0), (3.0, 2.0), 0.05)
    assert summary.burst_ms(visit, CPU) == 2.0
    assert summary.burst_ms(replace(visit, cpu_ms=(0.0, 3.0)), CPU) == 3.0  # that clock stood still
    assert not summary.counts(replace(visit, cpu_ms=(0.0, 0.0)), CPU)
    assert summary.burst_ms(visit, replace(CPU, threads=2)) == 4.0
    assert summary.burst_ms(visit, replace(CPU, device="v100")) == 4.0


def test_visits_on_a_busy_machine_count_with_one_thread_only():
    visit = Visit("s", 0.0, "a", "candidate", 1, 1, (5.0,), (3.0,), 0.4)
    assert summary.counts(visit, CPU)
    assert not summary.counts(visit, replace(CPU, threads=2))
    assert not summary.counts(replace(visit, error="broke"), CPU)


def test_sittings_are_brought_to_one_scale(tmp_path, rng):
    space = get_space(CPU.space)
    names = space.format(space.network(space.sample(6, rng)))
    true = dict(zip(names, np.linspace(2, 6, 6), strict=True))
    with Store(tmp_path / "s.sqlite") as store:
        for scale in (1.0, 1.25):
            sitting = measure.Sitting.begin(CPU, "1", {})
            for i, visit in enumerate(visits(true, np.full(12, scale), rng, noise=0.002)):
                store.add(sitting, replace(visit, sitting=sitting.id, unix_time=float(i)))
        data, anchors = summary.stored_latencies(store, CPU, "1")
        nothing, _ = summary.stored_latencies(store, CPU, "2")
    assert len(nothing) == 0
    assert len(data) == 6
    expected = np.array([true[name] for name in space.format(data.genomes)])
    assert np.allclose(data.ms / expected, 1.25, rtol=0.02)  # that of the last sitting
    assert summary.relative_scale(anchors, dict.fromkeys(anchors, 10.0)) == pytest.approx(1.25, rel=0.02)


@pytest.fixture
def stub(monkeypatch):
    """An engine with a clock of its own that says what it is told; 'bad' and 'late' fail."""

    class Sleeper:
        precision, threads, version = "fp32", 1, "sleeper 1"

        def prepare(self, network, images):
            if network == "bad":
                raise RuntimeError("no such operator")
            return network

        def run(self, session):
            if session == "late":
                raise MemoryError("out of memory")
            return float(session)

    monkeypatch.setattr(measure, "build_engine", lambda *words, **options: Sleeper())
    anchors = {"a0": 5.0, "a1": 7.0, "a2": 9.0}
    monkeypatch.setattr(measure, "subnet_jobs", lambda target, genomes: jobs(anchors))


def jobs(sessions):
    return [Job(name, lambda value=value: (value, None)) for name, value in sessions.items()]


def test_failures_are_recorded_and_the_others_go_on(tmp_path, stub):
    target = replace(CPU, device="v100")  # the engine's own clock counts
    with Store(tmp_path / "s.sqlite") as store:
        timed = measure.time_jobs(
            target, jobs({"x": 2.0, "broken": "bad", "y": 3.0, "late": "late"}), measure.Measuring(store)
        )
        stored = store.visits(store.sittings(target)[0].id)
    assert {name: q[1] for name, q in timed.quartiles_ms.items()} == pytest.approx({"x": 2.0, "y": 3.0})
    assert timed.failed == {"broken": "RuntimeError: no such operator", "late": "MemoryError: out of memory"}
    assert {visit.architecture for visit in stored if visit.error} == {"broken", "late"}
    rounds = [visit.round for visit in stored if visit.architecture == "x"]
    assert rounds == list(range(1, Rounds().fewest + 1))  # agreed at once: no round more
    assert all(visit.others is None or 0 <= visit.others <= 1 for visit in stored)


def test_nothing_measured_is_an_error(tmp_path, stub):
    with Store(tmp_path / "s.sqlite") as store, pytest.raises(ValueError, match="no such operator"):
        measure.time_jobs(CPU, jobs({"broken": "bad"}), measure.Measuring(store))
    with Store(tmp_path / "s.sqlite") as store, pytest.raises(ValueError, match="no time"):
        measure.time_jobs(CPU, jobs({"x": 1.0}), measure.Measuring(store, -1.0))


def test_a_time_budget_gives_fewer(tmp_path, stub):
    def slow(value):
        time.sleep(0.2)
        return value, None

    many = [Job(f"c{i}", lambda i=i: slow(float(i + 1))) for i in range(20)]
    with Store(tmp_path / "s.sqlite") as store:
        timed = measure.time_jobs(CPU, many, measure.Measuring(store, 0.7))
    assert 1 <= len(timed.quartiles_ms) < 20


def test_several_threads_are_refused_on_a_busy_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(conditions, "BUSY_PATIENCE_SECONDS", 0.6)
    monkeypatch.setattr(conditions, "BUSY", -1.0)  # any machine is busier than that
    two = replace(CPU, threads=2)
    with Store(tmp_path / "s.sqlite") as store, pytest.raises(ValueError, match="threads=1"):
        measure.measure(two, get_space(two.space).sample(1, np.random.default_rng(0)), store=store)


def test_targets_that_do_not_say_their_threads_cannot_be_measured(tmp_path, rng):
    target = replace(CPU, threads=None)
    with Store(tmp_path / "s.sqlite") as store, pytest.raises(ValueError, match="not this machine"):
        measure.measure(target, get_space(target.space).sample(1, rng), store=store)


ENGINES = [
    ("torch_eager", "fp32"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "int8"),
]


@pytest.mark.parametrize(("engine", "precision"), ENGINES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_real_engines_run_what_pytorch_runs(engine, precision, rng):
    """The outputs agree with PyTorch's (int8: correlate), so what is timed is the network."""
    torch = pytest.importorskip("torch")
    try:
        built = build_engine(engine, precision=precision, threads=1)
    except NotInstalledError as error:
        pytest.skip(str(error))
    from supernet.weights import family, network
    from supernet.weights.ofa_families import with_native_activations

    space = get_space("ofa_mbv3_w1.0").restrict("r", 128, 128)
    genome = space.sample(1, rng)
    elastic = family.of(space).elastic(space, 1000)
    network.set_active(elastic, space, genome)
    written_out = elastic.get_active_subnet(preserve_weight=True)
    images = torch.randn((2, 3, 128, 128), generator=torch.Generator().manual_seed(0))
    network.settle_norms(written_out, images)
    with torch.inference_mode():
        before = written_out(images)
        native = with_native_activations(written_out)
        expected = native(images)
    assert torch.equal(before, expected)
    session = built.prepare(native, images)
    built.run(session)
    if engine == "torch_eager":
        with torch.inference_mode():
            output = session[0](session[1]).numpy()
    elif engine == "onnxruntime":
        output = session[0].run(None, session[1])[0]
    else:
        output = session[0].get_output_tensor(0).data
    if precision == "fp32":
        assert np.allclose(output, expected, atol=1e-3 * float(expected.std()))
    else:
        assert np.corrcoef(output.ravel(), expected.numpy().ravel())[0, 1] > 0.8


def test_engines_name_what_is_missing(monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda package: None)
    with pytest.raises(NotInstalledError, match=r"pip install -e '\.\[train\]'"):
        build_engine("onnxruntime")


@pytest.mark.parametrize("name", registry.names("engine"))
def test_unknown_precisions_are_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=r"fp32|CUDA|not installed here"):
        build_engine(name, precision="fp7")
    with pytest.raises(ValueError, match="Did you mean 'onnxruntime'"):
        build_engine("onnx")


def test_predictors_of_machines_with_a_gpu_can_be_used_elsewhere():
    assert not is_here(replace(CPU, device="rtx_3090", engine="torch_cuda")) or build_engine("torch_cuda")


def test_here_is_this_machine():
    target = here(engine="torch_eager", batch=4)
    values = [value for _, value in target.key]
    assert values == [target.spec.name, "torch_eager", "fp32", 4, 1, "ofa_mbv3_w1.0", None, 0.0, ""]
    assert is_here(target)
    assert not is_here(replace(target, device="v100"))
    assert not is_here(replace(target, threads=None))
    with pytest.raises(ValueError, match="engine"):
        here(engine="tensorflow")
