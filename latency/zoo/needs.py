"""What any network needs besides time: its memory, that of a training step, and how long such a step takes.

Memory is counted in a run without numbers. The time of a training step is known on GPUs with a data sheet.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from latency.modules.networks.named import Network
from latency.target import Target
from supernet.prediction import Prediction
from supernet.surrogates import training_cost
from supernet.surrogates.training_cost import Steps
from supernet.weights import live_memory
from supernet.weights.live_memory import TrainingStep

PRODUCTS = (
    "linear",
    "attention",
)  # kinds of modules that make a network a transformer, with half of the work
DEPTHWISE = ("depthwise", "mbconv", "mbconv_se")  # and a mobile network
STRANGE = 0.25  # relative deviation of the step time of a network of a family that was not fitted. Of 19 of
# timm's without grouped convolutions, drawn after it was chosen on others, 18 were inside of the 90% interval


@dataclass(frozen=True, eq=False)
class Needs:
    """What a network needs; nothing of an ONNX file, whose code is not known. `unknown` says why."""

    inference_bytes: Mapping[int, int]  # by batch: weights and activations of an engine in fp32
    training: TrainingStep | None = None
    training_ms: Prediction | None = None  # (1,) of a batch, under AMP
    unknown: tuple[str, ...] = ()


def of(network: Network, batches: Sequence[int], training_batch: int, target: Target) -> Needs:
    """Memory for these batches, and a training step of another (0: none) on the target."""
    code, shape, unknown = network.code, network.shape, list[str]()
    if code is None:
        return Needs({})
    sizes, step, ms = dict[int, int](), None, None
    for batch in batches:
        with _noting(unknown, f"{network.name}: memory at batch {batch}"):
            sizes[batch] = live_memory.inference_bytes(code, shape, batch)
    if training_batch:
        with _noting(unknown, f"{network.name}: a training step of {training_batch}"):
            step = live_memory.training_step(code, shape, training_batch)
    if step is not None and target.method == "data sheet":
        numbers = (step.activations, step.macs, step.params, training_batch)
        steps = Steps(*(np.array([float(number)]) for number in numbers))
        if nearest := family(network):
            near = training_cost.step_ms(steps, nearest, target.spec)
            ms = replace(near, std=np.hypot(near.std, STRANGE * near.mean))
        else:
            unknown.append(f"{network.name}: how long grouped convolutions train is not known")
    return Needs(sizes, step, ms, tuple(unknown))


@contextmanager
def _noting(unknown: list[str], what: str) -> Iterator[None]:
    """Notes that something is not known where the code of a network raises."""
    try:
        yield
    except Exception as error:  # of whatever kind: a norm refuses a single value, say
        unknown.append(f"{what} is not known: {type(error).__name__}: {error}")


def family(network: Network) -> str | None:
    """The family of `training_cost.FAMILIES` that a network trains like, by what it multiplies in; None with
    grouped convolutions, which took PyTorch two to six times as long as those of any family."""
    if network.macs_in(("grouped",)):
        return None
    if network.macs_in(PRODUCTS) > network.macs / 2:
        return "transformer"
    return "mobile" if network.macs_in(DEPTHWISE) else "resnet"
