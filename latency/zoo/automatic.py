"""The method by what is known of a target: the learner of `make fit` unless another one is named.

Every candidate that the number of rows allows is fitted, and the one with the smallest error on rows left out
of its own fit is kept. The data sheet of a GPU is adapted to its rows as one of them, and with up to three
rows as the only one: it is better than a mix from so few (README, protocol gpu_loo). A phone is like another
phone (`phones`), not like a mix of all.
"""

from collections.abc import Callable, Sequence
from dataclasses import field, replace

from latency.conformal import mape
from latency.data import LatencyData
from latency.gpu.predictor import GpuLatency
from latency.predictors import additive, neural, sources, transfer
from latency.predictors.interface import LatencyPredictor, with_facts
from latency.zoo import data_sheets, phones
from supernet.arrays import Floats, Ints
from supernet.fits import folds
from supernet.options import options
from supernet.space import get_space

SHEET = "data sheet and anchors"
FEW, MOST = 4, 800  # rows: of fewer a data sheet makes more; the process of a mix takes a minute beyond
Fit = Callable[[LatencyData], LatencyPredictor]
ADDITIVE, NETWORK = 50, 1000  # rows from which these can be better than what is known of other devices


@options
class Automatic:
    """`facts["why"]` of the result says what was compared."""

    mix: transfer.Transfer = field(default_factory=transfer.Transfer)  # options of the mix of known devices

    def fit(self, data: LatencyData) -> LatencyPredictor:
        """The predictor of the target of these rows; ValueError where no method can start from so few."""
        if _has_sheet(data) and len(data) < FEW:
            adapted = data_sheets.predictor(data.target)[0].adapt(data)
            return with_facts(adapted, {"why": f"{SHEET}: only {len(data)} rows"})
        fitted = {name: fit(data) for name, fit in self._candidates(data).items()}
        if not fitted:
            raise ValueError(
                f"{len(data)} rows are too few, as nothing is known of {data.target.space}: give {ADDITIVE}"
            )
        errors = {name: float(predictor.facts["left_out_mape"]) for name, predictor in fitted.items()}
        best = min(errors, key=errors.__getitem__)
        listed = ", ".join(f"{name} {error:.2f}%" for name, error in errors.items())
        return with_facts(fitted[best], {"why": f"{best}, by the error on rows left out: {listed}"})

    def fit_many(self, sets: Sequence[LatencyData]) -> LatencyPredictor:
        """One predictor of several GPUs, for others by their data sheets: a network over the roofline."""
        return with_facts(neural.Neural().fit_many(sets), {"why": "neural: a network of several GPUs"})

    def _candidates(self, data: LatencyData) -> dict[str, Fit]:
        """The methods that can start from so many rows."""
        methods: dict[str, Fit] = {}
        space = get_space(data.target.space)
        if len(data) <= MOST and data.target.spec.kind == "mobile" and phones.serves(space.name):
            methods[f"transfer from {phones.TABLE}"] = phones.fit
        elif len(data) <= MOST and sources.any_of(space):
            covered = space.resolution_range(data.genomes) if "r" in space.index else None
            methods["transfer"] = replace(self.mix, resolutions=self.mix.resolutions or covered).fit
        if len(data) <= MOST and _has_sheet(data):
            methods[SHEET] = anchored
        if len(data) >= ADDITIVE:
            methods["additive"] = additive.Additive().fit
        if len(data) >= NETWORK:
            methods["neural"] = neural.Neural().fit
        return methods


def anchored(data: LatencyData) -> GpuLatency:
    """What the data sheet of a GPU says, adapted to its rows (2 or more), and the error on rows left out."""
    sheet = data_sheets.predictor(data.target)[0]

    def predict(kept: Ints, out: Ints) -> Floats:
        return sheet.adapt(data.take(kept)).predict(data.genomes[out], data.target).mean

    fold = folds.random_folds(len(data), transfer.FOLDS, singly_up_to=2 * transfer.FOLDS)
    left_out = folds.left_out(fold, predict) / data.ms - 1
    return with_facts(sheet.adapt(data), {"left_out_mape": mape(left_out)})


def _has_sheet(data: LatencyData) -> bool:
    return data.target.spec.kind == "gpu" and data_sheets.serves(data.target.space)
