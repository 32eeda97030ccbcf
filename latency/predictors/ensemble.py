"""Few-shot transfer where known devices may not explain the new one: a Gaussian process and a mix, averaged.

Letters: n samples, o others, d sources, F families of features, J features of a family, S slots, C codes.

1. A Gaussian process (ours), linear
   in milliseconds, with independent normal priors on the weights of five families of features:
       known devices       their standardised latencies, variance 1 / d each
       their mean          variance 1
       counts              how often each level of each kind of gene occurs ("op counts")
       footprints          multiply-accumulates, activations, parameters, layers, where these belong to slots
       parts               every variant of every slot
   The level is free. Strengths of counts and footprints and the noise are not chosen but averaged over a
   grid, by the evidence of the samples: from ten samples a single choice is luck. One more round lets samples
   count less whose standardised left-out residual is large.
2. A mix: the non-negative least squares combination of the known devices. Hard to beat when one of them is
   much like the new one, useless when none is.
3. Their average, weighted by the inverse fourth power of the root mean square of left-out residuals.

In milliseconds because the latency of a network is a sum. Chosen on the validation devices of HELP's splits
and on its training devices left out in turn (13 per space, N=10): there the process alone loses up to .01 of
Spearman, the mix alone .01 to .03. Everything is a slot table, so the average is one as well. Known devices
are *denoised* first: `denoised` fits their measurements with slots and genes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated

import numpy as np
from pydantic import Field

from latency import conformal
from latency.data import LatencyData
from latency.predictors import sampling
from latency.predictors.interface import check_samples, space_of, with_history
from latency.predictors.slots import SlotLatency
from latency.predictors.sources import FOOTPRINTS, Source, common_resolutions, sources_of
from latency.predictors.transfer import FOLDS
from latency.target import Target
from supernet import footprint, slot_table
from supernet.arrays import Floats, Genomes, Ints
from supernet.fits import folds, robust
from supernet.options import NonNegativeFloat, NonNegativeInt, PositiveInt, options
from supernet.prediction import Prediction
from supernet.slot_table import SlotTable
from supernet.space import SearchSpace, get_space

MIN_SAMPLES = 3  # one is left out of the fit, and two still have a spread
MAX_SAMPLES = 2000  # a fit is cubic in them
REFERENCE = 1000  # random networks over which features are standardised
LEVEL = 10.0  # prior variance of the level, in units of the variance of the samples
NOISES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # in the same units; phones in whole ms need the last ones
OUTLIER = 3.0  # standardised left-out residual at which a sample counts half
CHOICE = (1.0, 1.0, 0.1, 0.3, 0.0)  # strengths of the families when samples are chosen
MIN_ROWS = 50  # of a known device
DENOISING = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # noise over prior variance
ROBUST_ROUNDS = 3


@dataclass(frozen=True, eq=False, kw_only=True)
class EnsembleLatency(SlotLatency):
    """A slot table whose deviation is the same for all networks: `relative_std` times the mean sample.

    Noise in whole milliseconds does not shrink with the latency.
    """

    std_ms: float  # of a single new measurement, from samples left out of the fit
    floor_ms: float  # no prediction is below: half the fastest sample

    def predict(self, genomes: Genomes, target: Target) -> Prediction:
        """(n,) ms of canonical genomes; ValueError for another target or unknown resolutions."""
        space = space_of(self, genomes, target)
        mean = np.maximum(self.table.evaluate(space, genomes), self.floor_ms)
        return Prediction(mean, np.full(len(mean), self.std_ms))

    @with_history
    def adapt(self, data: LatencyData) -> "EnsembleLatency":
        """The predictor of another device of the same space: its samples, and this one as the only source."""
        check_samples(data, self.target, MIN_SAMPLES)
        itself = Source(self.target.name, self.table, self.resolutions, self.target)
        return Ensemble().fit_from([itself], data)


Strengths = Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)]


@options
class Ensemble:
    """The learner. Strengths are those that the fit averages over, in units of that of the known devices."""

    counts: Strengths = (0.01, 0.03, 0.1, 0.3)
    footprints: Strengths = (0.01, 0.1, 1.0)
    parts: Strengths = (0.03,)
    rounds: NonNegativeInt = 1  # of re-weighting samples
    # [lowest,highest]: leave out sources that do not cover these input sides
    resolutions: tuple[PositiveInt, PositiveInt] | None = None
    without: tuple[str, ...] = ()  # sources to leave out, by name

    def sources(self, space: SearchSpace) -> list[Source]:
        """The known devices that a fit uses; footprints are features anyway. ValueError if none is left."""
        sources = sources_of(space, without=self.without, covering=self.resolutions)
        return [source for source in sources if source.target is not None] or sources

    def fit(self, data: LatencyData) -> EnsembleLatency:
        """The predictor of the target of these samples, 3 or more."""
        return self.fit_from(self.sources(get_space(data.target.space)), data)

    def fit_from(self, known: Sequence[Source], data: LatencyData) -> EnsembleLatency:
        """The same with other sources; their resolutions in common are those of the result."""
        if not MIN_SAMPLES <= len(data) <= MAX_SAMPLES:
            limits = f"an ensemble needs {MIN_SAMPLES} to {MAX_SAMPLES}"
            raise ValueError(f"{len(data)} samples, but {limits}: measure more, or use learner=additive")
        features = Features.build(get_space(data.target.space), known)
        features.space.check_resolutions(
            data.genomes, features.resolutions, "the mix of " + ", ".join(source.name for source in known)
        )
        values = features.evaluate(data.genomes)
        grams = values.grams(values)
        seen = np.stack([source.table.evaluate(features.space, data.genomes) for source in known], axis=1)

        def predict(kept: Ints, out: Ints) -> Floats:
            level, pulls, _ = self._process(grams[:, kept][:, :, kept], data.ms[kept])
            process = level + np.einsum("fon,fn->o", grams[:, out][:, :, kept], pulls)
            return np.stack([process, seen[out] @ _mix(seen[kept], data.ms[kept])])

        fold = folds.random_folds(len(data), FOLDS, singly_up_to=2 * FOLDS)
        left_out = folds.left_out(fold, predict) - data.ms  # (2, n) residuals of the process and the mix
        trust = 1 / np.maximum((left_out**2).mean(axis=1), (1e-6 * data.ms.mean()) ** 2) ** 2
        process, mix = trust / trust.sum()
        level, pulls, strengths = self._process(grams, data.ms)
        weights = _mix(seen, data.ms)
        terms = [(float(mix * w), source.table) for w, source in zip(weights, known, strict=True)]
        table = slot_table.combine([(float(process), features.table(values, level, pulls)), *terms])
        residual = process * left_out[0] + mix * left_out[1]
        relative = conformal.relative_std(residual / data.ms.mean())
        return EnsembleLatency(
            target=data.target,
            table=table,
            std_ms=relative * float(data.ms.mean()),
            floor_ms=float(data.ms.min()) / 2,
            relative_std=relative,
            resolutions=features.resolutions,
            facts={
                "method": "ensemble",
                "samples": len(data),
                "mix": {source.name: float(w) for source, w in zip(known, weights, strict=True) if w > 0},
                "left_out_mape": conformal.mape(residual / data.ms),
                "process": float(process),
                **strengths,
            },
        )

    def choose(self, space: SearchSpace, known: Sequence[Source], genomes: Genomes, n: int) -> Ints:
        """(n,) rows of a pool of genomes: those whose measurement tells most about all others.

        Greedy variance reduction under the prior of the fit.
        """
        values = Features.build(space, known).evaluate(genomes)
        prior = 1.0 + np.einsum("f,fpq->pq", np.array(CHOICE), values.grams(values))
        return sampling.greedy(prior, n)

    def _process(self, grams: Floats, ms: Floats) -> tuple[float, Floats, dict[str, float]]:
        """The level in ms, the (F, n) pull of every sample on the weights of each family, and facts.

        The prediction is level + sum over families and samples of gram * pull.
        """
        n, trust = len(ms), np.ones(len(ms))
        level, spread = float(ms.mean()), max(float(ms.std()), 1e-6 * float(ms.mean()))
        scaled = (ms - level) / spread
        tried = np.array([(1.0, 1.0, *rest) for rest in product(self.counts, self.footprints, self.parts)])
        kernels = LEVEL + np.einsum("hf,fij->hij", tried, grams)
        for _ in range(self.rounds + 1):
            root = np.sqrt(trust)
            size, vectors = np.linalg.eigh(kernels * root[:, None] * root)
            along = np.einsum("hij,i->hj", vectors, scaled * root)
            total = np.maximum(size, 0)[:, None] + np.array(NOISES)[:, None]  # (h, noises, n)
            variance = ((along[:, None] ** 2 / total).sum(axis=2) + 2) / (n + 2)  # two samples' worth of 1
            evidence = -0.5 * (n + 2) * np.log(variance) - 0.5 * np.log(total).sum(axis=2)
            weight = np.exp(evidence - evidence.max())
            weight /= weight.sum()
            solved = np.einsum("hij,hkj->hki", vectors, along[:, None] / total)
            precision = np.einsum("hij,hkj->hki", vectors**2, 1 / total)
            surprise = solved / np.sqrt(precision * variance[:, :, None])  # left-out residual, standardised
            trust = robust.cauchy_weights(np.einsum("hk,hkn->n", weight, surprise), 1.0, OUTLIER)
        pull = np.einsum("hk,hkn->hn", weight, solved) * root * spread
        counts, footprints = weight.sum(axis=1) @ tried[:, 2:4]
        noise = float(weight.sum(axis=0) @ np.array(NOISES))
        strengths = {"counts": float(counts), "footprints": float(footprints), "noise": noise}
        return level + LEVEL * float(pull.sum()), tried.T @ pull, strengths


def _mix(seen: Floats, ms: Floats) -> Floats:
    """(d,) non-negative weights of the sources, least squares in ms."""
    from scipy.optimize import nnls

    return nnls(seen, ms)[0]


@dataclass(frozen=True, eq=False)
class Values:
    """Features of n networks: (n, J) of each family of tables, and the (n, S) slot codes."""

    families: tuple[Floats, ...]
    codes: Ints

    def grams(self, other: "Values") -> Floats:
        """(F, n, m) prior covariances of each family at strength 1; an empty family has none."""
        inner = [a @ b.T / max(a.shape[1], 1) for a, b in zip(self.families, other.families, strict=True)]
        both = self.codes[:, None, :] == other.codes[None, :, :]
        shared = (both & (self.codes > 0)[:, None, :]).mean(axis=2)
        return np.stack([*inner, shared])


@dataclass(frozen=True, eq=False)
class Features:
    """The standardised features of a space and some sources; see the module's list of families."""

    space: SearchSpace
    resolutions: tuple[PositiveInt, PositiveInt]
    families: tuple[tuple[SlotTable, ...], ...]

    @classmethod
    def build(cls, space: SearchSpace, known: Sequence[Source]) -> "Features":
        low, high = common_resolutions(known)
        within = space.restrict("r", low, high) if "r" in space.index else space
        reference = within.sample(REFERENCE, np.random.default_rng(0))
        devices = _standardised(space, reference, [source.table for source in known])
        if not devices:
            raise ValueError(f"the sources {', '.join(s.name for s in known)} are constant")
        mean = slot_table.combine((1 / len(devices), table) for table in devices)
        prints = [footprint.table(space, metric) for metric in FOOTPRINTS]
        families = (
            devices,
            (mean,),
            _standardised(space, reference, operation_counts(space)),
            _standardised(space, reference, [table for table in prints if table is not None]),
        )
        return cls(space, (low, high), families)

    def evaluate(self, genomes: Genomes) -> Values:
        codes, level = self.space.slot_codes(genomes), slot_table.resolution_level(self.space, genomes)
        columns = [[table.at(codes, level) for table in tables] for tables in self.families]
        values = [np.array(family).reshape(-1, len(genomes)).T for family in columns]
        return Values(tuple(values), codes.astype(np.int64))

    def table(self, values: Values, level: float, pulls: Floats) -> SlotTable:
        """The slot table that predicts level + sum over families and samples of gram * pull."""
        resolutions, (_, codes) = slot_table.resolution_count(self.space), self.space.slot_radix
        slots = len(self.space.slots)
        cells = np.zeros((slots, codes))
        np.add.at(cells, (np.arange(slots), values.codes), pulls[-1][:, None] / slots)
        cells[:, 0] = 0
        terms = [(1.0, SlotTable(np.repeat(cells[None], resolutions, axis=0), np.full(resolutions, level)))]
        for tables, seen, pull in zip(self.families, values.families, pulls[:-1], strict=True):
            terms += zip(seen.T @ pull / max(len(tables), 1), tables, strict=True)
        return slot_table.combine(terms)


def _standardised(
    space: SearchSpace, reference: Genomes, tables: Sequence[SlotTable]
) -> tuple[SlotTable, ...]:
    """The tables with mean 0 and variance 1 over the reference; those that are constant there left out."""
    standardised = []
    for table in tables:
        values = table.evaluate(space, reference)
        mean, std = float(values.mean()), float(values.std())
        if std > 1e-9 * max(1.0, abs(mean)):
            standardised.append(SlotTable(table.cells / std, (table.base - mean) / std))
    return tuple(standardised)


def operation_counts(space: SearchSpace) -> list[SlotTable]:
    """How often each level of each kind of gene occurs in the slots."""
    resolutions = slot_table.resolution_count(space)
    kinds: dict[tuple[str, int], Floats] = {}
    for (gene, level), cells in _gene_cells(space).items():
        kind = space.axes[gene].letter, level
        kinds[kind] = kinds.get(kind, 0) + cells
    return [SlotTable(np.repeat(c[None], resolutions, axis=0), np.zeros(resolutions)) for c in kinds.values()]


def _gene_cells(space: SearchSpace) -> dict[tuple[int, int], Floats]:
    """(S, C) the slot table of the indicator of each (gene, level), shared by the slots of the gene."""
    cells: dict[tuple[int, int], Floats] = {}
    for slot, genes in enumerate(space.slots):
        for gene, levels in zip(genes, slot_table.gene_levels(space, slot), strict=True):
            for level in range(1, int(space.levels[gene]) + 1):
                blank = np.zeros((len(space.slots), space.slot_radix[1]))
                cells.setdefault((gene, level), blank)[slot] = levels == level
    return {key: cells[key] / cells[key].any(axis=1).sum() for key in sorted(cells)}


def denoised(data: LatencyData) -> Source:
    """A known device without its measurement noise, in spaces without resolution, from some hundred rows.

    A Gaussian process in ms, linear in the variants of the slots and in the genes (NAS-Bench-201: pairs of
    edges, and edges), the noise by evidence, Cauchy weights beyond 3 robust deviations.
    """
    space = get_space(data.target.space)
    if "r" in space.index:
        raise ValueError(f"{space.name} has resolutions: fit its devices with learner=additive")
    if len(data) < MIN_ROWS:
        raise ValueError(f"{len(data)} measurements are too few to denoise; give at least {MIN_ROWS}")
    codes = space.slot_radix[1]
    variants = space.slot_codes(data.genomes)[:, :, None] == np.arange(1, codes)
    seen = np.flatnonzero(variants.any(axis=0).ravel())
    shared = [c[:, 1:].ravel() for c in _gene_cells(space).values() if c.any(axis=1).sum() > 1]
    genes = np.reshape(shared, (len(shared), variants[0].size))[:, seen]  # the others are slots themselves
    slots = variants.reshape(len(data), -1)[:, seen].astype(np.float64)
    design = np.concatenate([slots, slots @ genes.T], axis=1)
    middle = design.mean(axis=0)
    design -= middle
    scale = float(np.sqrt((design**2).sum(axis=1).mean()))
    design = np.concatenate([np.full((len(data), 1), np.sqrt(LEVEL)), design / scale], axis=1)
    weights, level = _robust_fit(design, data.ms)
    base = level + np.sqrt(LEVEL) * weights[0] - middle @ weights[1:] / scale
    of_slots, of_genes = np.split(weights[1:] / scale, [len(seen)])
    flat = np.zeros(len(space.slots) * (codes - 1))
    flat[seen] = of_slots + of_genes @ genes
    cells = np.pad(flat.reshape(len(space.slots), -1), ((0, 0), (1, 0)))
    return Source(data.target.name, SlotTable(cells[None], np.array([base])), (0, 0), data.target)


def _robust_fit(design: Floats, ms: Floats) -> tuple[Floats, float]:
    """(p,) weights with a normal prior, and the level they are added to."""
    n, trust = len(ms), np.ones(len(ms))
    for _ in range(ROBUST_ROUNDS + 1):
        root = np.sqrt(trust)
        level = float(np.average(ms, weights=trust))
        rows, y = design * root[:, None], (ms - level) * root
        size, vectors = np.linalg.eigh(rows.T @ rows)
        along = vectors.T @ (rows.T @ y)
        noise = np.array(DENOISING)[:, None]
        total = np.maximum(size, 0) + noise
        quadratic = (y @ y - (along**2 / total).sum(axis=1)) / noise[:, 0]
        spreads = np.log(total / noise).sum(axis=1) + n * np.log(noise[:, 0])
        evidence = -0.5 * (n * np.log(quadratic) + spreads)
        weights = vectors @ (along / total[int(np.argmax(evidence))])
        residual = ms - level - design @ weights
        trust = robust.cauchy_weights(residual, robust.spread(residual, 1e-9 * level), OUTLIER)
    return weights, level
