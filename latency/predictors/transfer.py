"""Few-shot transfer: the latency of a new device as a non-negative mix of known ones, from about ten samples.

Letters: n samples, d sources, S slots, R resolutions, C slot codes.

1. Mix (ours):  y = sum_d w_d f_d,  w >= 0, minimising
       sum_i c_i (yhat_i / y_i - 1)^2 + (s / tau)^2 sum_d (m_d (w_d - p_d))^2,
   m_d = mean f_d / mean y. The prior p puts the weight on sources of the same batch size, by 1 / spread^2 of
   their log ratio to the samples, times the median ratio. Cauchy weights c_i = 1 / (1 + (r_i / 2s)^2) and the
   robust spread s are estimated again in every round.
2. Correction (ours): every part of the mix may be off by a factor 1 + delta, delta ~ N(0, g^2). Families of
   parts, from coarse to fine, have a g each, chosen by marginal likelihood: zero for a handful of samples,
   and what makes 50 of them count. With some hundred samples this is a Gaussian process whose mean is the
   mix, and a better fit than ridge regression from nothing.

Sources and parts are slot tables, so the result is one too and predicts more than a million subnets a second.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt

from latency.conformal import mape, relative_std
from latency.data import LatencyData
from latency.predictors.interface import check_samples
from latency.predictors.slots import SlotLatency
from latency.predictors.sources import Source, common_resolutions, sources_of
from latency.target import Target
from supernet import slot_table
from supernet.arrays import Floats, Ints
from supernet.fits import folds, robust
from supernet.options import options
from supernet.slot_table import SlotTable
from supernet.space import SearchSpace, get_space

SPREAD_FLOOR = 0.004  # relative; fits of few samples can be perfect by chance
RATIO_SPREAD = 0.03  # of a source's ratio to the samples, as assumed before they are seen; worth 2 samples
SWEEPS = 3
CAUTION = 2.0  # log-evidence by which a family must be better than none: ten samples are easily persuaded
CORRECTIONS = (0.0, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12)  # candidates for g
FOLDS = 10  # of the residuals that intervals come from; each sample alone up to 2 * FOLDS samples
UNMEASURED_STD = 0.40  # relative, of a prediction from specifications alone (28% off on HELP's GPUs left out)
OTHER_ENGINE_STD = 1.0  # the same if the known device ran another engine: eager PyTorch takes 2.5 times ORT


@options
class Transfer:
    """`resolutions` leaves out sources that do not cover them; `without` leaves out sources by name."""

    tau: PositiveFloat = 1.0  # how freely the weights leave their prior
    rounds: PositiveInt = 8  # of robust re-weighting
    correct: bool = True  # let parts of the mix be off by a factor, where the samples say so
    # [lowest,highest]: leave out sources that do not cover these input sides
    resolutions: tuple[int, int] | None = None
    without: tuple[str, ...] = ()  # sources to leave out, by name

    def sources(self, space: SearchSpace) -> list[Source]:
        """The sources that a fit uses. ValueError if none is left."""
        return sources_of(space, without=self.without, covering=self.resolutions)

    def fit(self, data: LatencyData) -> SlotLatency:
        """The predictor of the target of these samples, 2 or more."""
        return self.fit_from(self.sources(get_space(data.target.space)), data)

    def fit_from(self, known: Sequence[Source], data: LatencyData) -> SlotLatency:
        """The same with other sources; their resolutions in common are those of the result."""
        check_samples(data, data.target, 2)
        space = get_space(data.target.space)
        low, high = common_resolutions(known)
        space.check_resolutions(data.genomes, (low, high), "the mix of " + ", ".join(s.name for s in known))
        seen = np.stack([source.table.evaluate(space, data.genomes) for source in known], axis=1)

        def predict(kept: Ints, out: Ints) -> Floats:
            return self._mix(space, known, seen[kept], data.take(kept))[0].evaluate(space, data.genomes[out])

        fold = folds.random_folds(len(data), FOLDS, singly_up_to=2 * FOLDS)
        left_out = folds.left_out(fold, predict) / data.ms - 1
        table, weights = self._mix(space, known, seen, data)
        share = weights * seen.mean(axis=0) / data.ms.mean()
        used = sorted(zip(share, known, strict=True), key=lambda pair: -pair[0])
        return SlotLatency(
            target=data.target,
            table=table,
            relative_std=relative_std(left_out),
            resolutions=(low, high),
            facts={
                "method": "transfer",
                "samples": len(data),
                "left_out_mape": mape(left_out),
                "mix": {source.name: round(float(part), 3) for part, source in used if part > 0.0005},
            },
        )

    def _mix(
        self, space: SearchSpace, known: Sequence[Source], seen: Floats, data: LatencyData
    ) -> tuple[SlotTable, Floats]:
        """The table and the (d,) weights, from (n, d) values of the sources on the samples."""
        batches = [None if source.target is None else source.target.batch for source in known]
        group = np.array([batch == data.target.batch for batch in batches])
        group |= not group.any()  # the prior leans on sources of the same batch size, or else on all
        weights, trust, spread = _weights(seen, data.ms, group, self.tau, self.rounds)
        table = slot_table.combine(zip(weights, (source.table for source in known), strict=True))
        if not self.correct:
            return table, weights
        families = table_families(space, table)
        mixed = table.evaluate(space, data.genomes)
        shares = [
            np.stack([part.evaluate(space, data.genomes) for part in parts], axis=1) / mixed[:, None]
            for parts in families
        ]
        deltas = _correction(shares, data.ms / mixed - 1, trust, spread)
        corrections = zip(chain(*deltas), chain(*families), strict=True)
        return slot_table.combine([(1.0, table), *(pair for pair in corrections if pair[0])]), weights

    def from_specification(self, target: Target, known: Sequence[Source] | None = None) -> SlotLatency:
        """A prediction without any sample: the most similar device of the zoo (or of other sources), scaled
        by data sheets.

        Similar: same kind of device, device, engine and precision before batch size before year. Scaled by
        memory bandwidth, where both are known.
        """
        known = self.sources(get_space(target.space)) if known is None else known
        candidates = [(source, source.target) for source in known if source.target is not None]
        if not candidates:
            raise ValueError(f"no known device has timed {target.space}: measure some subnets (samples=5)")
        nearest, its = min(candidates, key=lambda candidate: _distance(candidate[1], target))
        ours, theirs = target.spec.bandwidth_gbs, its.spec.bandwidth_gbs
        scale = (theirs / ours if ours and theirs else 1.0) * target.batch / its.batch
        facts = {"method": "specification", "samples": 0, "mix": {nearest.name: 1.0}, "scale": scale}
        std = UNMEASURED_STD if its.engine == target.engine else OTHER_ENGINE_STD
        return SlotLatency(target, nearest.table.times(scale), std, nearest.resolutions, facts)


def _distance(other: Target, target: Target) -> tuple[float, ...]:
    return (
        other.spec.kind != target.spec.kind,
        other.spec.name != target.spec.name,
        other.engine != target.engine,
        other.precision != target.precision,
        abs(float(np.log2(other.batch / target.batch))),
        abs((other.spec.year or 2020) - (target.spec.year or 2020)),
    )


def _weights(
    seen: Floats, ms: Floats, group: NDArray[np.bool_], tau: float, rounds: int
) -> tuple[Floats, Floats, float]:
    """(d,) weights, (n,) trust in the samples, and the robust relative spread of the residuals."""
    from scipy.optimize import nnls

    n = len(ms)
    log_ratio = np.log(ms[:, None] / seen)
    middle = np.median(log_ratio, axis=0)
    spread_of = np.array([robust.spread(column) for column in (log_ratio - middle).T])
    spread_of = np.sqrt((n * spread_of**2 + 2 * RATIO_SPREAD**2) / (n + 2))
    lean = np.where(group, 1 / spread_of**2, 0)
    prior = lean / lean.sum() * np.exp(middle)
    share = seen.mean(axis=0) / ms.mean()
    relative = seen / ms[:, None]
    weights = prior
    for _ in range(rounds):
        residual = relative @ weights - 1
        spread = robust.spread(residual, SPREAD_FLOOR)
        trust = robust.cauchy_weights(residual, spread)
        root, hold = np.sqrt(trust), spread / tau * share
        weights, _ = nnls(
            np.concatenate([relative * root[:, None], np.diag(hold)]), np.append(root, hold * prior)
        )
    return weights, trust, spread


def table_families(space: SearchSpace, table: SlotTable) -> list[list[SlotTable]]:
    """Tables that are parts of `table`, from coarse to fine: what may be off by a factor of its own."""
    slots, codes, levels = len(space.slots), table.cells.shape[2], len(table.base)
    stage = slot_table.stages(space)
    stages = np.eye(int(stage.max()) + 1, dtype=bool)[:, stage, None]  # (stages, S, 1)
    each = np.eye(slots, dtype=bool)[:, :, None]
    genes = slot_table.gene_levels(space, 0)
    kinds = [levels == level for levels in genes for level in range(1, levels.max() + 1)]
    variants = [np.arange(codes) == code for code in np.flatnonzero((genes > 0).all(axis=0))]
    line = np.linspace(-1.75, 1.75, levels)  # unit variance over evenly drawn resolutions
    one = np.eye(levels)

    def part(mask: NDArray[np.bool_], along: Floats | None = None) -> SlotTable:
        cells = table.cells * mask
        return SlotTable(cells if along is None else cells * along[:, None, None], np.zeros(levels))

    whole = np.ones((slots, codes), bool)
    coarse = [table, SlotTable(np.zeros_like(table.cells), table.base)]
    coarse += [part(own & whole) for own in stages] + [part(kind & whole) for kind in kinds]
    coarse += [part(own & kind) for own in stages for kind in kinds]
    families = [coarse]
    if levels > 1:
        for along in (line, line**2):
            coarse.append(SlotTable(table.cells * along[:, None, None], table.base * along))
        families.append([part(own & kind, line) for own in stages for kind in (whole, *kinds)])
        families.append([part(own & whole, along) for own in stages for along in one])
    families.append([part(own & kind) for own in each for kind in (whole, *kinds)])
    families.append([part(own & variant) for own in each for variant in variants])
    return families


def _correction(shares: Sequence[Floats], residual: Floats, trust: Floats, spread: float) -> list[Floats]:
    """The posterior mean of the deltas of each family, for the strengths of largest marginal likelihood.

    `shares` are (n, parts) of each family. Strengths are chosen in turn, three times around.
    """
    noise, n = np.diag(1 / trust), len(residual)
    kernels = [share @ share.T / spread**2 for share in shares]

    def evidence(covariance: Floats) -> float:
        factor = np.linalg.cholesky(covariance)
        half = np.linalg.solve(factor, residual)
        return float(-0.5 * n * np.log(half @ half / n) - np.log(np.diag(factor)).sum())

    strengths = [0.0] * len(shares)
    for _ in range(SWEEPS):
        before = list(strengths)
        for i, kernel in enumerate(kernels):
            others = noise + sum(
                g**2 * k for j, (g, k) in enumerate(zip(strengths, kernels, strict=True)) if j != i
            )
            gain = [evidence(others + g**2 * kernel) - (CAUTION if g else 0.0) for g in CORRECTIONS]
            strengths[i] = CORRECTIONS[int(np.argmax(gain))]
        if strengths == before:
            break
    covariance = noise + sum(g**2 * kernel for g, kernel in zip(strengths, kernels, strict=True))
    pull = np.linalg.solve(covariance, residual) / spread**2
    return [g**2 * share.T @ pull for g, share in zip(strengths, shares, strict=True)]
