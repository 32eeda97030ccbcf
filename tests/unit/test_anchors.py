"""Module predictors on another machine, from a handful of modules timed there."""

from dataclasses import replace

import numpy as np
import pytest

from latency.measuring import jobs as jobs_of
from latency.measuring import session
from latency.measuring.session import Measuring, Timed
from latency.modules import anchors, breakdown, design
from latency.modules.kinds.module_kind import Module
from latency.modules.networks import measured as networks
from latency.modules.networks.named import network
from latency.modules.predictor import Correction
from latency.target import Target
from supernet.space import get_space

TARGET = Target(
    name="cpu", device="i7_8700k", space="ofa_mbv3_w1.0", engine="torch_eager", threads=1, method="modules"
)
ELSEWHERE = replace(TARGET, device="amd_epyc_f25_m17_2c", method="measured")


@pytest.fixture(scope="module")
def modules():
    return network("torchvision:mobilenet_v2").modules


@pytest.fixture
def measured(monkeypatch):
    """`measured(predictor, modules, slower, subnets)`: anchors that take `slower(kind)` times what it says.

    The subnets of every sitting take `subnets` times that.
    """

    def run(predictor, modules, slower, subnets=None):
        def time_jobs(target, jobs, how):
            quartiles = {}
            for job in jobs:
                kind, (*row, _) = design.parse(job.name)
                ms = predictor.models[kind].ms(np.array([row]), predictor.condition)[0] * slower(kind)
                quartiles[job.name] = np.array([ms, ms, ms])
            names = get_space(target.space).format(jobs_of.anchor_subnets(get_space(target.space)))
            parts = [networks.modules_of(name) for name in names]
            ms = (subnets or 0) * predictor.network_ms(parts, np.tile(predictor.condition, (len(parts), 1)))
            usual = dict(zip(names, ms.tolist(), strict=True)) if subnets else {}
            return Timed(target, quartiles, {}, usual, 1.0, {})

        monkeypatch.setattr(session, "time_jobs", time_jobs)
        chosen = anchors.choose(predictor, [modules], ELSEWHERE, 8)
        return anchors.measure(chosen, ELSEWHERE, Measuring(store=None))

    return run


def test_a_machine_that_is_slower_throughout_is_found(modules_of, modules, measured):
    predictor = replace(modules_of(TARGET), correction=Correction({"mbconv": 0.8}, 0.01, 1e-7))
    timed = measured(predictor, modules, lambda kind: 1.3, 1.3)
    here = anchors.anchored(predictor, ELSEWHERE, *timed)
    before = breakdown.of(predictor, modules, TARGET).latency
    after = breakdown.of(here, modules, ELSEWHERE).latency
    assert after.mean[0] == pytest.approx(1.3 * before.mean[0], rel=0.02)
    assert after.std[0] / after.mean[0] == pytest.approx(before.std[0] / before.mean[0], rel=0.1)
    assert here.facts["anchored_by"] == pytest.approx(1.3)


def test_kinds_have_factors_of_their_own_and_their_scatter_widens(modules_of, modules, measured):
    predictor = modules_of(TARGET)
    timed = measured(predictor, modules, lambda kind: 2.0 if kind == "mbconv" else 1.0)
    here = anchors.anchored(predictor, ELSEWHERE, *timed)
    factor = here.module_ms(modules) / predictor.module_ms(modules)
    inverted = np.array([module.kind == "mbconv" for module in modules])
    assert 1.6 < np.median(factor[inverted]) < 2.0
    assert 0.9 < np.median(factor[~inverted]) < 1.4
    assert here.relative_std > predictor.relative_std


def test_networks_of_the_sitting_tell_what_modules_by_themselves_do_not(modules_of, modules, measured):
    predictor = modules_of(TARGET)
    alone = anchors.anchored(predictor, ELSEWHERE, *measured(predictor, modules, lambda kind: 1.0))
    within = anchors.anchored(predictor, ELSEWHERE, *measured(predictor, modules, lambda kind: 1.0, 1.2))
    ms = [each.network_ms([modules], each.condition)[0] for each in (predictor, alone, within)]
    assert ms[1] == pytest.approx(ms[0], rel=0.01)
    assert 1.08 < ms[2] / ms[0] < 1.2


def test_without_anchors_the_interval_holds_what_machines_differ_by(modules_of, modules):
    predictor = modules_of(TARGET)
    here = anchors.elsewhere(predictor, ELSEWHERE)
    assert here.relative_std == pytest.approx(np.hypot(predictor.relative_std, anchors.MACHINES))


def test_anchors_are_what_the_networks_spend_their_time_in(modules_of, modules):
    predictor = modules_of(TARGET)
    chosen = anchors.choose(predictor, [modules], ELSEWHERE, 5)
    assert len(chosen) == 5
    assert max(sum(anchor.kind == kind for anchor in chosen) for kind in ("mbconv", "dense")) <= 3
    shares = [anchor.share for anchor in chosen]
    assert shares == sorted(shares, reverse=True)
    odd = [Module("linear", {"cin": 1e4, "cout": 1e4, "rows": 10.0}, "odd", "lstm"), *modules]
    assert all(anchor.kind != "linear" for anchor in anchors.choose(predictor, [odd], ELSEWHERE, 8)[:1])


def test_stand_ins_widen_an_interval_by_their_share(modules_of, modules):
    predictor = modules_of(TARGET)
    some = [replace(module, stands_for="odd") if i < 3 else module for i, module in enumerate(modules)]
    known, partly = (breakdown.of(predictor, each, TARGET) for each in (modules, some))
    assert partly.latency.mean[0] == known.latency.mean[0]
    share = partly.stand_ins["odd"] / partly.latency.mean[0]
    assert share == pytest.approx(partly.ms[:3].sum() / partly.ms.sum())
    expected = np.hypot(predictor.relative_std, breakdown.STAND_IN_ERROR * share) * partly.latency.mean[0]
    assert partly.latency.std[0] == pytest.approx(expected)


def test_a_breakdown_adds_up_and_has_no_negative_part(modules_of, modules):
    predictor = replace(modules_of(TARGET), correction=Correction({}, -0.004, -1e-9))
    found = breakdown.of(predictor, modules, TARGET)
    assert (found.ms >= 0).all()
    total = predictor.network_ms([modules], predictor.condition)[0]
    assert found.ms.sum() == pytest.approx(total)
    assert sum(ms for _, ms in found.by_kind.values()) == pytest.approx(total)
