"""Few-shot transfer: the latency of a new device as a non-negative mix of known ones, from about ten samples.

Letters: n samples, d sources, S slots, R resolutions, C slot codes.

1. Mix (`supernet/fits/mixing.py`): y = sum_d w_d f_d, w >= 0, robust, its prior stronger or weaker as samples
   left out of the fit want it. The prior leans on sources of the same batch size.
2. Shift (ours): a mix may be off in few directions: as a whole, in its stages and kinds of blocks, towards
   each source (`supernet/table_parts.py`). It moves along them by the posterior mean given the residuals,
   with a strength that samples left out choose, too.
3. Correction (ours): every part of the table may be off by a factor 1 + delta, delta ~ N(0, g^2). Families of
   parts, from coarse to fine, have a g each, chosen by marginal likelihood: zero for a handful of samples,
   and what makes 50 of them count. With some hundred samples this is a Gaussian process whose mean is the
   mix, and a better fit than ridge regression from nothing.
4. Errors (`supernet/fits/shared_error.py`): what the samples leave open in the same directions is an error
   that all networks share, larger where a network is unlike the samples.

Sources, parts and errors are slot tables, so a prediction is a few gathers: above 1,000,000 subnets a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from latency import conformal
from latency.conformal import mape
from latency.data import LatencyData
from latency.predictors import sampling
from latency.predictors.interface import check_samples
from latency.predictors.slots import SharedErrors, SlotLatency
from latency.predictors.sources import Source, common_resolutions, constant, sources_of
from latency.target import Target
from supernet import slot_table, table_parts
from supernet.arrays import Floats, Genomes, Ints, Rng
from supernet.fits import folds, mixing, robust, shared_error
from supernet.options import PositiveInt, options
from supernet.slot_table import SlotTable, SlotTables
from supernet.space import SearchSpace, get_space
from supernet.table_parts import Directions, Parts, Samples

LINE = ("macs", "constant")  # sources that are fitted alone, too
SHIFTS = (0.0, 2.0, 6.0, 20.0)  # candidates of how far a mix is moved along its directions
WILD = 5.0  # spreads; samples further off the mix, when left out, do not move it
KAPPA = 15.0  # prior deviation of the error in each direction, in units of the errors' size
RANK = 12  # errors in these directions that are kept
FINE = 16  # errors that stand for a factor on every block of every slot
ALIKE = 0.97  # share of the variance besides these directions that networks with the same blocks share
POOL = 300  # random subnets, and as many tilted ones, that the largest errors are chosen on
SWEEPS = 3
TINY = 1e-30  # squared relative error of a fit that meets its samples exactly
CAUTION = 2.0  # log-evidence by which a family must be better than none: ten samples are easily persuaded
CORRECTIONS = (0.0, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12)  # candidates for g
FOLDS = 10  # of the residuals that intervals come from; each sample alone up to 2 * FOLDS samples
UNMEASURED_STD = 0.40  # relative, of a prediction from specifications alone (28% off on HELP's GPUs left out)
OTHER_ENGINE_STD = 1.0  # the same if the known device ran another engine: eager PyTorch takes 2.5 times ORT


@options
class Transfer:
    """`resolutions` leaves out sources that do not cover them; `without` leaves out sources by name."""

    correct: bool = True  # let parts of the mix be off by a factor, where the samples say so
    # [lowest,highest]: leave out sources that do not cover these input sides
    resolutions: tuple[PositiveInt, PositiveInt] | None = None
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
        known = [*known, constant(space)]
        low, high = common_resolutions(known)
        space.check_resolutions(data.genomes, (low, high), "the mix of " + ", ".join(s.name for s in known))
        problem = _Problem.build(space, known, data)
        fold = folds.random_folds(len(data), FOLDS, singly_up_to=2 * FOLDS)
        line = [i for i, source in enumerate(known) if source.name in LINE]
        mix = mixing.fit(problem.samples.tables, data.ms, problem.leaning(known), fold, line)
        problem = problem.with_trust(mix)
        strengths = problem.strengths(mix)
        left_out = np.empty(len(data))
        for kept, out, weights in mix.left_out:
            table = problem.table(weights, kept, strengths, self.correct)
            left_out[out] = table.evaluate(space, data.genomes[out]) / data.ms[out] - 1
        everything = np.arange(len(data))
        table = problem.table(mix.weights, everything, strengths, self.correct)
        share = mix.weights * problem.samples.tables.mean(axis=0) / data.ms.mean()
        used = sorted(zip(share, known, strict=True), key=lambda pair: -pair[0])
        facts = {
            "method": "transfer",
            "samples": len(data),
            "left_out_mape": mape(left_out),
            "mix": {source.name: round(float(part), 3) for part, source in used if part > 0.0005},
        }
        if "r" in space.index:
            space = space.restrict("r", low, high)
        errors = problem.errors(space, mix, left_out)
        return SlotLatency(data.target, table, errors.typical, (low, high), facts, errors)

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


@dataclass(frozen=True, eq=False)
class _Problem:
    """Samples of a target, and what the sources and their parts say of them."""

    space: SearchSpace
    directions: Directions
    samples: Samples
    families: Sequence[Parts]
    data: LatencyData
    trust: Floats  # (n,)

    @classmethod
    def build(cls, space: SearchSpace, known: Sequence[Source], data: LatencyData) -> "_Problem":
        directions = Directions.from_tables(space, [source.table for source in known])
        families, trust = table_parts.families(space), np.ones(len(data))
        return cls(space, directions, directions.at(data.genomes), families, data, trust)

    def leaning(self, known: Sequence[Source]) -> NDArray[np.bool_]:
        """(d,) the sources that the prior leans on: of the same batch size, or else all."""
        batches = [None if source.target is None else source.target.batch for source in known]
        group = np.array([batch == self.data.target.batch for batch in batches])
        return group | ~group.any()

    def with_trust(self, mix: mixing.Mix) -> "_Problem":
        """With little trust in samples far off, when left out of the mix."""
        off = np.empty(len(self.data))
        for _, out, weights in mix.left_out:
            off[out] = self.samples.tables[out] @ weights / self.data.ms[out] - 1
        spread = robust.spread(off, mixing.SPREAD_FLOOR)
        return replace(self, trust=robust.cauchy_weights(off, spread, WILD))

    def strengths(self, mix: mixing.Mix) -> Floats:
        """(t,) shares of `SHIFTS`, by the errors on samples left out."""
        errors = np.empty((len(SHIFTS), len(self.data)))
        for kept, out, weights in mix.left_out:
            columns, residual = self._columns(weights, kept)
            shifts = np.stack([self._shift(columns, residual, kept, kappa) for kappa in SHIFTS])
            errors[:, out] = (1 + shifts @ columns[out].T) / (1 + residual[out]) - 1
        return mixing.stacking_shares(errors, self.trust)

    def table(self, weights: Floats, rows: Ints, strengths: Floats, correct: bool) -> SlotTable:
        """The mix, moved along its directions and corrected in its parts as the samples `rows` say."""
        columns, residual = self._columns(weights, rows)
        shift = strengths @ [self._shift(columns, residual, rows, kappa) for kappa in SHIFTS]
        mix = slot_table.combine(zip(weights, self.directions.tables, strict=True))
        cells, base = self.directions.combined(shift[:, None], weights, self._scale(weights, rows))
        table = SlotTable(mix.cells + cells[..., 0], mix.base + base[..., 0])
        if not correct:
            return table
        codes, level = (
            self.space.slot_codes(self.data.genomes[rows]),
            slot_table.resolution_level(self.space, self.data.genomes[rows]),
        )
        mixed = table.at(codes, level)
        shares = [family.at(table, codes, level) / mixed[:, None] for family in self.families]
        rest = self.data.ms[rows] / mixed - 1
        spread = robust.spread(rest, mixing.SPREAD_FLOOR)
        trust = robust.cauchy_weights(rest, spread)
        deltas = _correction(shares, rest, trust, spread)
        moved = [f.combined(table, d) for f, d in zip(self.families, deltas, strict=True) if d.any()]
        return slot_table.combine([(1.0, table), *((1.0, part) for part in moved)])

    def errors(self, space: SearchSpace, mix: mixing.Mix, left_out: Floats) -> SharedErrors:
        """What the samples leave open, on subnets of `space` from the smallest to the largest.

        Their size is not likely to be larger than that of the nearest source, however few samples tell it.
        """
        everything, weights = np.arange(len(self.data)), mix.weights
        columns, _ = self._columns(weights, everything)
        open_ = shared_error.posterior(columns, KAPPA)
        likely = min(conformal.LIKELY_SPREAD, mix.nearest)
        spread, tails = conformal.spread_and_tails(left_out / np.sqrt(1 + open_.leverage), likely)
        rng = np.random.default_rng(0)
        pool = np.concatenate([space.sample(POOL, rng), sampling.tilted(space, POOL, rng)])
        scale = self._scale(weights, everything)
        seen = self.directions.columns(self.directions.at(pool), weights, scale)
        factors, rest = open_.main(seen, RANK)
        own = spread * np.sqrt(1 + rest)
        typical = np.sqrt(own**2 + spread**2 * ((seen @ factors) ** 2).sum(axis=1).mean())
        cells, base = self.directions.combined(spread * factors, weights, scale)
        fine = self._fine(weights, pool, own * np.sqrt(ALIKE), rng)
        tables = SlotTables(
            np.concatenate([cells, fine], axis=3).astype(np.float32),
            np.concatenate([base, np.zeros((len(base), FINE))], axis=1).astype(np.float32),
        )
        return SharedErrors(tables, float(own * np.sqrt(1 - ALIKE)), float(typical), tails)

    def _fine(self, weights: Floats, pool: Genomes, size: float, rng: Rng) -> Floats:
        """Cells (R, S, C, FINE) of errors that networks share as far as they have the same blocks.

        A factor on every block in every slot would be hundreds of errors; sums of all of them with random
        signs stand for them. `size` is their relative standard deviation in all, in the mean of the pool.
        """
        mix = slot_table.combine(zip(weights, self.directions.tables, strict=True))
        cells = mix.cells[..., None] * rng.choice([-1.0, 1.0], size=(*mix.cells.shape[1:], FINE))
        tables = SlotTables(cells.astype(np.float32), np.zeros((len(mix.base), FINE), np.float32))
        moved = tables.evaluate(self.space, pool) / mix.evaluate(self.space, pool)[:, None]
        return np.asarray(cells * size / np.sqrt((moved**2).sum(axis=1).mean()))

    def _columns(self, weights: Floats, rows: Ints) -> tuple[Floats, Floats]:
        """(n, k) directions of a mix fitted on some rows, and the (n,) relative residuals from the mix."""
        residual = self.data.ms / (self.samples.tables @ weights) - 1
        return self.directions.columns(self.samples, weights, self._scale(weights, rows)), residual

    def _scale(self, weights: Floats, rows: Ints) -> Floats:
        return table_parts.scale_to(self.samples.tables @ weights, self.samples.tables, rows)

    def _shift(self, columns: Floats, residual: Floats, rows: Ints, kappa: float) -> Floats:
        return shared_error.shift(columns[rows], residual[rows], self.trust[rows], kappa)


def _correction(shares: Sequence[Floats], residual: Floats, trust: Floats, spread: float) -> list[Floats]:
    """The posterior mean of the deltas of each family, for the strengths of largest marginal likelihood.

    `shares` are (n, parts) of each family. Strengths are chosen in turn, three times around.
    """
    noise, n = np.diag(1 / trust), len(residual)
    kernels = [share @ share.T / spread**2 for share in shares]

    def evidence(covariance: Floats) -> float:
        factor = np.linalg.cholesky(covariance)
        half = np.linalg.solve(factor, residual)
        return float(-0.5 * n * np.log(np.maximum(half @ half / n, TINY)) - np.log(np.diag(factor)).sum())

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
