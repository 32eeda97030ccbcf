"""MAPLE: many devices, one regression; descriptors and instruction-set limits."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.protocols import maplex
from latency.data import LatencyData
from latency.descriptors import Descriptors, KnownDevice
from latency.features import features
from latency.measuring import instruction_sets, operators
from latency.measuring.counters import perf
from latency.measuring.counters.events import EVENTS
from latency.measuring.operators import Operators
from latency.perceptron import Mlp, Training
from latency.predictors import interface
from latency.predictors.maple import Maple, Strengths, likeliest, virtual_examples
from latency.target import Target
from latency.zoo import devices
from supernet import footprint
from supernet.fits import gaussian
from supernet.space import get_space

SPACE = get_space("ofa_mbv3_w1.0")
QUICK = Training(epochs=4, batch=64)


def device(name, ms, genomes):
    target = Target(name, "i7_8700k", SPACE.name, engine="torch_eager", threads=1)
    return LatencyData(target, genomes, ms, np.full(len(ms), np.nan))


@pytest.fixture
def family(rng):
    """Devices that differ in what a depthwise and what another MAC costs, described by just that."""
    genomes = SPACE.network(SPACE.sample(60, rng))
    table = SPACE.layers(genomes)
    deep = (table.layer_macs() * (table.groups > 1)).sum(axis=1) / 1e7
    dense = footprint.compute(SPACE, genomes, "macs") / 1e7 - deep

    def make(name, ratio):
        return KnownDevice(
            device(name, 0.1 * (ratio * deep + dense), genomes), {"ratio": np.array([np.log(ratio)])}
        )

    known = [make(f"d{i}", ratio) for i, ratio in enumerate((1.0, 2.0, 4.0, 6.0, 12.0))]
    return known, make("new", 5.0)


def test_descriptor_and_devices_beat_the_samples_alone(family):
    """The new device lies between two known ones: four samples are enough, a MACs line is not."""
    known, new = family
    samples, rest = new.data.take(slice(0, 4)), new.data.take(slice(4, None))
    for learner in (Maple(), Maple(virtual=False, importance=False)):
        found = learner.fit_from(known, samples, new.descriptor).predict(rest.genomes, rest.target)
        error = np.abs(found.mean / rest.ms - 1).mean()
        log_macs = np.log(footprint.compute(SPACE, new.data.genomes, "macs"))
        line = np.polyfit(log_macs[:4], np.log(samples.ms), 1)
        by_line = np.abs(np.exp(np.polyval(line, log_macs[4:])) / rest.ms - 1).mean()
        assert error < 0.012
        assert error < by_line / 3


def test_network_form_learns_from_known_devices(family):
    known, new = family
    samples, rest = new.data.take(slice(0, 6)), new.data.take(slice(6, None))
    learner = Maple(form="network", training=Training(epochs=40, batch=64, learning_rate=3e-3))
    found = learner.fit_from(known, samples, new.descriptor).predict(rest.genomes, rest.target)
    assert np.corrcoef(np.log(found.mean), np.log(rest.ms))[0, 1] > 0.99
    again = learner.fit_from(known, samples, new.descriptor).predict(rest.genomes, rest.target)
    assert (again.mean == found.mean).all()


@pytest.mark.parametrize("form", ["gp", "network"])
def test_saved_predictors_are_the_same_and_broken_ones_refused(family, form, tmp_path):
    known, new = family
    fitted = Maple(form=form, training=QUICK).fit_from(known, new.data.take(slice(0, 5)), new.descriptor)
    fitted.save(tmp_path / "p.npz")
    loaded = interface.load(tmp_path / "p.npz")
    genomes = new.data.genomes
    expected = fitted.predict(genomes, fitted.target)
    assert np.allclose(loaded.predict(genomes, fitted.target).mean, expected.mean, rtol=1e-12)
    turned = loaded.predict(genomes[::-1], fitted.target).mean[::-1]
    assert np.allclose(turned, expected.mean, rtol=1e-5)  # a network computes in single precision
    with pytest.raises(ValueError, match="fitted for new"):
        loaded.predict(genomes, replace(fitted.target, batch=2))
    spoilt = replace(fitted, middle=fitted.middle[:-1])
    spoilt.save(tmp_path / "q.npz")
    with pytest.raises(ValueError, match="no usable maple predictor"):
        interface.load(tmp_path / "q.npz")


def test_a_network_with_a_descriptor_among_its_inputs_is_refused(family, rng, tmp_path):
    """Version 0.1 kept the target's descriptor beside the network, whose inputs were both."""
    known, new = family
    fitted = Maple(training=QUICK).fit_from(known, new.data.take(slice(0, 5)), new.descriptor)
    old = Mlp.random((len(fitted.middle) + 2, 4, 1), rng)
    replace(fitted, function=old).save(tmp_path / "p.npz")
    with pytest.raises(ValueError, match="no usable maple predictor"):
        interface.load(tmp_path / "p.npz")


def test_kernel_mean_is_that_of_the_gaussian_process(family):
    """The sum over architectures against the textbook mean, written out device by device."""
    known, new = family
    strengths = Strengths(common=0.03, similar=0.06, own=0.02, noise=0.01, bend=0.4, reach=1.5)
    plain = Maple(virtual=False, importance=False, references=False)
    samples, rest = new.data.take(slice(0, 5)), new.data.take(slice(5, 12))
    fitted = plain.fit_from(known, samples, new.descriptor, strengths)
    x = [fitted.inputs(part.genomes)[1] for part in (*(k.data for k in known), samples)]
    ratios = np.array([device.descriptor["ratio"][0] for device in (*known, new)])
    scaled = (ratios - ratios.mean()) / ratios.std()
    gap = (scaled[:, None] - scaled) ** 2
    unit = np.median(gap[np.triu_indices(len(gap), 1)])
    mix = 0.03**2 + 0.06**2 * np.exp(-0.5 * gap / unit / 1.5**2) + 0.02**2 * np.eye(len(gap))

    def arch(a, b):
        return np.array(
            [[0.6 * p @ q / len(p) + 0.4 * np.exp(-0.5 * ((p - q) ** 2).mean()) for q in b] for p in a]
        )

    def line(data):
        at = np.log(footprint.compute(SPACE, data.genomes, "macs"))
        return np.polyfit(at, np.log(data.ms), 1)

    y = [np.log(k.data.ms) - np.polyval(line(k.data), features(SPACE, k.data.genomes)[:, 0]) for k in known]
    y.append(np.log(samples.ms) - fitted.inputs(samples.genomes)[0])
    level = strengths.level**2 * np.eye(len(gap))
    size = [len(part) for part in x]
    k = np.block([[arch(x[i], x[j]) * mix[i, j] + level[i, j] for j in range(6)] for i in range(6)])
    by_line, at = fitted.inputs(rest.genomes)
    cross = np.concatenate([arch(at, x[j]) * mix[5, j] + level[5, j] for j in range(6)], axis=1)
    got = np.log(fitted.predict(rest.genomes, rest.target).mean) - by_line
    fits = []
    for noise in (0.005, 0.01, 0.02, 0.04, 0.08, 0.16):  # that of the samples is chosen by evidence
        diagonal = np.concatenate([np.full(sum(size[:-1]), 0.01**2), np.full(size[-1], noise**2)])
        fits.append(cross @ np.linalg.solve(k + np.diag(diagonal), np.concatenate(y)))
    assert min(np.abs(fit - got).max() for fit in fits) < 2e-3  # Cauchy weights move it a little


def test_similar_devices_weigh_more():
    described = Descriptors.from_devices([{"a": np.array([number])} for number in (0.0, 1.0, 5.0, 0.1)])
    weight = described.importance(1.0)
    assert weight[0] == 1.0
    assert weight[0] > weight[1] > weight[2] > 0


def test_virtual_examples_are_the_architectures_of_closest_latency(family):
    known, new = family
    samples = new.data.genomes[:4]
    pool = np.unique(np.concatenate([k.data.genomes for k in known]), axis=0)
    near, of, apart = virtual_examples(known, samples, pool, np.ones(len(known)), 2)
    assert not {g.tobytes() for g in near} & {g.tobytes() for g in samples}
    for genome, sample, distance in zip(near, samples[of], apart, strict=True):
        both = [k.smooth(np.stack([genome, sample])) for k in known]
        assert distance == pytest.approx(np.sqrt(np.mean([(a - b) ** 2 for a, b in both])))
        others = [k.smooth(pool) - k.smooth(sample[None]) for k in known]
        rms = np.sort(np.sqrt((np.array(others) ** 2).mean(axis=0)))
        assert distance <= rms[2] + 1e-9  # itself is the closest of the pool


@pytest.fixture
def misleading(family, rng):
    """The family, whose known devices far from the new one are noisy, and its samples, too."""
    known, new = family

    def noisy(k, size):
        return replace(k, data=replace(k.data, ms=k.data.ms * np.exp(size * rng.normal(size=60))))

    return [noisy(k, 0.3 if i in (0, 1, 4) else 0.0) for i, k in enumerate(known)], noisy(new, 0.03)


@pytest.mark.parametrize("form", ["gp", "network"])
def test_neither_part_of_maple_x_is_a_no_op(misleading, form):
    """Each moves the prediction by more than rounding, and by more than training again does (nothing)."""
    known, new = misleading
    samples, rest = new.data.take(slice(0, 4)), new.data.take(slice(4, None))
    plain = Maple(form=form, virtual=False, importance=False, training=QUICK)

    def ms(learner):
        return learner.fit_from(known, samples, new.descriptor).predict(rest.genomes, rest.target).mean

    for part in ("virtual", "importance"):
        moved = np.abs(ms(replace(plain, **{part: True})) / ms(plain) - 1).mean()
        assert moved > 1e-3, part


def test_parts_are_on_where_they_helped_unless_they_are_named(family):
    """That is where no operators were timed; a twin's label or a weight that is asked for stays."""
    known, new = family
    samples = new.data.take(slice(0, 4))
    timed = [replace(k, descriptor={"operators": k.descriptor["ratio"]}) for k in known]

    def fitted(learner, devices_known, descriptor):
        return learner.fit_from(devices_known, samples, descriptor, Strengths())

    off = Maple(virtual=False, importance=False)
    on = Maple(virtual=True, importance=True)
    for devices_known, own, same in ((known, new.descriptor, on), (timed, timed[2].descriptor, off)):
        default = fitted(Maple(), devices_known, own)
        expected = fitted(same, devices_known, own)
        assert default.facts["method"] == ("maple-x" if same is on else "maple")
        ms = [p.predict(new.data.genomes, samples.target).mean for p in (default, expected)]
        assert (ms[0] == ms[1]).all()


def test_importance_holds_back_devices_unlike_the_target(misleading):
    """The devices far from the target mislead: with importance the error is smaller."""
    known, new = misleading
    samples = new.data.take(slice(0, 4))

    def error(learner):
        got = learner.fit_from(known, samples, new.descriptor, Strengths(noise=0.02))
        return np.abs(got.predict(new.data.genomes, new.data.target).mean / new.data.ms - 1).mean()

    plain = Maple(virtual=False, importance=False)
    assert error(replace(plain, importance=True)) < 0.9 * error(plain)


def test_a_virtual_twin_is_left_out_with_its_sample(family, rng):
    """A process conditioned on twins: the closed form against fits without the sample and its twin."""
    x = rng.normal(size=8)
    y, group = np.sin(x), np.array([0, 1, 2, 3, 0, 1, 2, 3])
    y[4:] = y[:4]  # twins share labels
    covariance = np.exp(-0.5 * (x[:, None] - x) ** 2) + 0.01 * np.eye(8)
    got = gaussian.condition(covariance, y).left_out_together(group)
    for one in range(4):
        out, kept = group == one, group != one
        mean = covariance[np.ix_(out, kept)] @ np.linalg.solve(covariance[np.ix_(kept, kept)], y[kept])
        assert np.allclose(got[out], y[out] - mean)
    known, new = family
    wild = replace(new.data, ms=new.data.ms * np.exp(0.2 * rng.normal(size=len(new.data))))
    learner = Maple(neighbours=8)  # many twins would vouch for a wild label, were they kept
    fitted = learner.fit_from(known, wild.take(slice(0, 6)), new.descriptor)
    without = replace(learner, virtual=False).fit_from(known, wild.take(slice(0, 6)), new.descriptor)
    assert fitted.facts["left_out_mape"] > 0.8 * without.facts["left_out_mape"]


def test_evidence_prefers_the_noise_that_is_there(family, rng):
    known, _ = family
    noisy = [
        replace(k, data=replace(k.data, ms=k.data.ms * np.exp(0.08 * rng.normal(size=60)))) for k in known
    ]
    assert likeliest(known, with_references=False).noise <= 0.01
    assert 0.04 <= likeliest(noisy, with_references=False).noise <= 0.16


def test_too_little_is_refused(family):
    known, new = family
    with pytest.raises(ValueError, match="at least 2 devices"):
        Maple().fit_from(known[:1], new.data, new.descriptor)
    with pytest.raises(ValueError, match="at least 2 samples"):
        Maple().fit_from(known, new.data.take(slice(0, 1)), new.descriptor)
    with pytest.raises(ValueError, match="operators"):
        devices.by_operators(Target("x", "i7_8700k", "ofa_resnet50"))


# ---------------------------------------------------------------------- measured devices
def test_measured_devices_are_what_they_say():
    assert len(devices.names()) >= 10
    keys = set()
    for name in devices.names():
        data, found = devices.load(name)
        assert len(data) >= 60
        assert len(found.ms) == 13
        assert all(ms > 0 for ms in found.ms.values())
        assert found.batch == data.target.batch
        keys.add(data.target.key)
    assert len(keys) == len(devices.names())  # no two are the same device
    native, held = (devices.load(f"ov_fp32{isa}_b1")[0] for isa in ("", "_sse41"))
    row = {g.tobytes(): ms for g, ms in zip(native.genomes, native.ms, strict=True)}
    ratio = np.array([ms / row[g.tobytes()] for g, ms in zip(held.genomes, held.ms, strict=True)])
    assert np.median(ratio) > 1.3  # the limit changes what runs
    assert np.std(np.log(ratio)) > 0.01  # and not by one factor


def test_own_devices_left_out_are_better_than_a_line_in_macs():
    """One device of the validation part, 10 samples: what MACs leave is explained to a good part."""
    found = {name: devices.load(name) for name in devices.names()}
    name = maplex.VALIDATION[0]
    known = [KnownDevice(data, o.descriptor()) for other, (data, o) in found.items() if other != name]
    data, own = found[name]
    samples, rest = data.take(slice(0, 10)), data.take(slice(10, None))
    predicted = Maple().fit_from(known, samples, own.descriptor()).predict(rest.genomes, rest.target)
    log_macs = np.log(footprint.compute(SPACE, data.genomes, "macs"))
    line = np.polyval(np.polyfit(log_macs, np.log(data.ms), 1), log_macs[10:])
    true, guess = np.log(rest.ms) - line, np.log(predicted.mean) - line
    assert 1 - ((true - guess) ** 2).sum() / ((true - true.mean()) ** 2).sum() > 0.3


# ---------------------------------------------------------------------- operators and limits
def test_descriptor_is_per_image_and_holds_counters():
    times = Operators({"b": 8.0, "a": 4.0}, {}, 1.0, batch=4)
    assert list(times.descriptor()) == ["operators"]
    assert np.allclose(times.descriptor()["operators"], np.log([1.0, 2.0]))
    counted = replace(times, counters={"a": {"instructions": 5.0}}).descriptor()["counters"]
    assert counted.shape == (2 * len(EVENTS),)
    at = EVENTS.index("instructions")
    assert counted[at] == pytest.approx(np.log(6.0))
    assert np.isnan(np.delete(counted, at)).all()


def test_devices_are_compared_by_what_is_known_of_both():
    """Means over shared numbers of a part, then over shared parts, by hand; strangers are no twins."""
    unknown = np.nan
    described = Descriptors.from_devices(
        [
            {"times": np.array([1.0, 2.0]), "events": np.array([1.0, 5.0, unknown])},
            {"times": np.array([3.0, 4.0]), "events": np.array([3.0, unknown, 7.0])},
            {"times": np.array([5.0, unknown])},
            {"events": np.array([unknown, 9.0, 9.0])},
        ]
    )
    distance = described.squared_distance()
    time = 4 / np.var([1, 3, 5]), 4 / np.var([2, 4])  # of the first two devices
    event = 4 / np.var([1, 3])
    assert distance[0, 1] == pytest.approx((np.mean(time) + event) / 2)
    assert distance[1, 2] == pytest.approx(4 / np.var([1, 3, 5]))
    assert distance[2, 3] == 2.0
    assert (np.diag(distance) == 0).all()
    assert np.linalg.eigvalsh(described.similarity(0.7)).min() > -1e-9
    with pytest.raises(ValueError, match=r"\[1, 2\] numbers of times"):
        Descriptors.from_devices([{"times": np.zeros(2)}, {"times": np.zeros(1)}])


@pytest.mark.parametrize("form", ["gp", "network"])
def test_counters_that_one_side_lacks_are_masked(family, form):
    """Known devices with counters, a target without, and the other way round, predict what none would."""
    known, new = family
    counted = [
        replace(k, descriptor={**k.descriptor, "counters": np.array([i, np.nan])})
        for i, k in enumerate(known)
    ]
    samples = new.data.take(slice(0, 5))
    learner = Maple(form=form, training=QUICK)
    for devices_known, own in (
        (counted, new.descriptor),
        (known, {**new.descriptor, "counters": np.ones(2)}),
    ):
        predicted = learner.fit_from(devices_known, samples, own).predict(new.data.genomes, samples.target)
        assert np.isfinite(predicted.mean).all()
        if form == "gp":
            assert np.abs(predicted.mean / new.data.ms - 1).mean() < 0.02


def test_operators_run_through_the_engine(monkeypatch):
    from latency.measuring.here import here

    wanted = ("stem_3x3_192", "depthwise_5_160_24", "launch")
    some = {name: made for name, made in operators.primitives().items() if name in wanted}
    monkeypatch.setattr(operators, "primitives", lambda: some)
    found = operators.describe(here(engine="torch_eager"))
    assert tuple(found.ms) == wanted
    assert found.ms["launch"] < found.ms["stem_3x3_192"]
    assert "launch" not in found.gmacs_per_s
    assert found.gmacs_per_s["stem_3x3_192"] == pytest.approx(
        16 * 27 * 96**2 / found.ms["stem_3x3_192"] / 1e6, rel=0.01
    )
    assert bool(found.counters) == bool(perf.countable())


def test_limits_follow_from_the_environment(monkeypatch):
    assert instruction_sets.current({}) is None
    for limit in instruction_sets.VALUES:
        assert instruction_sets.current(instruction_sets.environment(limit)) == limit
    assert instruction_sets.current(instruction_sets.environment(None)) is None
    with pytest.raises(ValueError, match="ONEDNN_MAX_CPU_ISA=AVX2 is no limit"):
        instruction_sets.current({"ONEDNN_MAX_CPU_ISA": "AVX2"})
    with pytest.raises(ValueError, match="takes no instruction-set limit"):
        instruction_sets.check("sse41", "onnxruntime")
    monkeypatch.setattr("latency.measuring.instruction_sets.cpu_flags", lambda: {"sse4_1"})
    with pytest.raises(ValueError, match="start it with ONEDNN_MAX_CPU_ISA=SSE41"):
        instruction_sets.check("sse41", "torch_eager")
    with pytest.raises(ValueError, match="no avx512f"):
        instruction_sets.check("avx512", "torch_eager")


def test_targets_under_a_limit_are_other_targets():
    free = Target("x", "i7_8700k", SPACE.name, engine="torch_eager", threads=1)
    held = replace(free, isa="sse41")
    assert free.key != held.key
    assert "at most sse41" in str(held)
    facts = json.loads(json.dumps({"name": "x", "device": "i7_8700k", "space": SPACE.name}))
    assert Target(**facts).isa is None  # files of before there were limits
    with pytest.raises(ValueError, match="isa"):
        replace(free, isa="mmx")


def test_maple_is_imported_without_torch():
    code = "import sys, latency.predictors.maple, latency.zoo.devices; assert 'torch' not in sys.modules"
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
