"""The method by what is known of a target: the learner of `make fit` unless another one is named.

Every candidate that the number of rows allows is fitted, and the one with the smallest error on rows left out
of its own fit is kept. With up to three rows of a GPU its data sheet is adapted, which is better than a mix
from so few (README, protocol gpu_loo).
"""

from latency.data import LatencyData
from latency.predictors import additive, neural, sources, transfer
from latency.predictors.interface import LatencyPredictor, Learner, with_facts
from supernet.options import options
from supernet.space import get_space

FEW, MOST = 4, 800  # rows: of fewer a data sheet makes more; the process of a mix takes a minute beyond
ADDITIVE, NETWORK = 50, 1000  # rows from which these can be better than what is known of other devices


@options
class Automatic:
    """No options; `facts["why"]` of the result says what was compared."""

    def fit(self, data: LatencyData) -> LatencyPredictor:
        """The predictor of the target of these rows; ValueError where no method can start from so few."""
        is_gpu = data.target.spec.kind == "gpu" and data.target.space in sources.gpu_model().resolutions
        if is_gpu and len(data) < FEW:
            adapted = sources.gpu_model().predictor(data.target).adapt(data)
            return with_facts(adapted, {"why": f"data sheet and anchors: only {len(data)} rows"})
        fitted = {name: learner.fit(data) for name, learner in _candidates(data).items()}
        if not fitted:
            raise ValueError(
                f"{len(data)} rows are too few, as nothing is known of {data.target.space}: give {ADDITIVE}"
            )
        errors = {name: float(predictor.facts["left_out_mape"]) for name, predictor in fitted.items()}
        best = min(errors, key=errors.__getitem__)
        listed = ", ".join(f"{name} {error:.2f}%" for name, error in errors.items())
        return with_facts(fitted[best], {"why": f"{best}, by the error on rows left out: {listed}"})


def _candidates(data: LatencyData) -> dict[str, Learner]:
    """The learners that can start from so many rows."""
    learners: dict[str, Learner] = {}
    space = get_space(data.target.space)
    if len(data) <= MOST and sources.any_of(space):
        covered = space.resolution_range(data.genomes) if "r" in space.index else None
        learners["transfer"] = transfer.Transfer(resolutions=covered)
    if len(data) >= ADDITIVE:
        learners["additive"] = additive.Additive()
    if len(data) >= NETWORK:
        learners["neural"] = neural.Neural()
    return learners
