"""Module predictors brought to another engine by a few of its modules and networks."""

from dataclasses import replace

import numpy as np
import pytest

from latency.modules import anchors
from latency.modules.networks import measured as networks
from latency.modules.predictor import Correction, ModulesLatency, Networks
from latency.predictors import interface
from latency.target import Target
from supernet.space import get_space

TARGET = Target(
    name="cpu", device="i7_8700k", space="ofa_mbv3_w1.0", engine="torch_eager", threads=1, method="modules"
)
ELSEWHERE = replace(TARGET, engine="openvino", method="measured")
BATCHES = (1.0, 8.0)


def slower(kind, inputs, batch):
    """What modules take on the other engine over what they take here: by kind, by size and by batch."""
    of_kind = {"mbconv": 1.5, "mbconv_se": 1.8, "pointwise": 0.8}.get(kind, 1.2)
    return of_kind * (inputs[:, 0] / 100) ** 0.2 * batch**-0.1


@pytest.fixture(scope="module")
def elsewhere(modules_of, measured_modules):
    """(base, modules timed by themselves there, networks there): inside of networks all are 10% faster."""
    base, rng = modules_of(TARGET), np.random.default_rng(3)

    timed = {}
    for name, of in measured_modules.items():
        idle = np.flatnonzero((of.conditions[:, 1] == 1) & (of.conditions[:, 2] == 0))[:30]
        some = of.take(idle)
        ms = base.models[name].ms(some.rows, some.conditions)
        factor = slower(name, some.rows, some.conditions[:, 0]) * np.exp(0.03 * rng.normal(size=len(ms)))
        timed[name] = replace(some, ms=ms * factor)

    def measure(count, seed, space=TARGET.space):
        names = networks.subnets(space, count, seed)
        ms, conditions, modules = [], [], []
        for name in names:
            for batch in BATCHES:
                at, parts = np.array([[batch, 1.0, 0.0]]), networks.modules_of(name)
                total = 0.0
                for part in parts:
                    row = np.array([[part.inputs[key] for key in base.models[part.kind].kind.inputs]])
                    total += float((base.models[part.kind].ms(row, at) * slower(part.kind, row, batch))[0])
                ms.append(0.9 * total * np.exp(0.01 * rng.normal()))
                conditions.append(at[0])
                modules.append(parts)
        named = tuple(name for name in names for _ in BATCHES)
        return Networks(named, tuple(modules), np.array(conditions), np.array(ms))

    return base, timed, measure


def off(predictor, measured):
    return predictor.network_ms(measured.modules, measured.conditions) / measured.ms - 1


def test_few_modules_and_networks_bring_a_predictor_to_another_engine(elsewhere, tmp_path):
    base, timed, measure = elsewhere
    known, fresh = measure(8, 1), measure(20, 2)
    moved = anchors.elsewhere(base, ELSEWHERE).corrected(known, timed)
    factor = float(np.median(known.ms / base.network_ms(known.modules, known.conditions)))
    one = replace(
        base,
        correction=Correction.from_weights(
            list(base.models), factor * base.correction.weights(list(base.models))
        ),
    )
    assert np.abs(off(moved, fresh)).mean() < 0.02 < 0.08 < np.abs(off(one, fresh)).mean()
    # of kinds that no measured network has, the modules tell
    resnets, networks_only = (
        measure(8, 2, "ofa_resnet50"),
        anchors.elsewhere(base, ELSEWHERE).corrected(known),
    )
    assert 2 * np.abs(off(moved, resnets)).mean() < np.abs(off(networks_only, resnets)).mean()
    inside = np.abs(off(moved, fresh)) <= 1.645 * moved.relative_std
    assert inside.mean() >= 0.75
    assert moved.relative_std < 0.06
    moved.save(tmp_path / "moved.npz")
    again = interface.load_as(ModulesLatency, tmp_path / "moved.npz")
    assert np.allclose(off(again, fresh), off(moved, fresh), atol=1e-3)


def test_a_space_is_the_sum_of_its_shifted_modules(elsewhere, rng):
    base, timed, measure = elsewhere
    moved = anchors.elsewhere(base, ELSEWHERE).corrected(measure(6, 1), timed)
    space = get_space(TARGET.space)
    genomes = space.sample(3, rng)
    said = moved.predict(genomes, ELSEWHERE).mean
    parts = [networks.modules_of(name) for name in space.format(genomes)]
    assert said == pytest.approx(moved.network_ms(parts, np.tile([[1.0, 1.0, 0.0]], (3, 1))), rel=1e-5)


def test_a_shifted_predictor_is_shifted_again(elsewhere):
    """To a machine that is a third slower throughout, by a few networks."""
    base, timed, measure = elsewhere
    first = anchors.elsewhere(base, ELSEWHERE).corrected(measure(6, 1), timed)
    slow, fresh = measure(6, 4), measure(10, 5)
    second = first.corrected(replace(slow, ms=1.3 * slow.ms))
    assert np.abs(off(second, replace(fresh, ms=1.3 * fresh.ms))).mean() < 0.03


def test_too_few_networks_are_refused(elsewhere):
    base, timed, measure = elsewhere
    with pytest.raises(ValueError, match="2 networks are too few"):
        base.corrected(measure(1, 1), timed)
