"""The registry of what models are compared by: one name, unit and direction for each quantity, used by the
objectives of a search, by rankings, reports and the tables of shrinking and exporting."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A quantity with its unit. Tables show it in the unit `shown`, which is `scale` times as large."""

    unit: str
    title: str
    maximize: bool = False
    shown: str = ""
    scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "shown", self.shown or self.unit)


MEASURES: Mapping[str, Measure] = {
    "accuracy": Measure("fraction", "top-1 accuracy of a subnet after its recipe", True, "%", 0.01),
    "params": Measure("params", "trainable parameters", shown="M", scale=1e6),
    "macs": Measure("MACs", "multiply-accumulates of one image", shown="M", scale=1e6),
    "weight_bytes": Measure("B", "weights as they are stored", shown="kB", scale=1e3),
    "activations": Measure("elements", "outputs of layers with weights, one image", shown="M", scale=1e6),
    "activation_bytes": Measure("B", "those outputs as they are stored", shown="kB", scale=1e3),
    "peak_bytes": Measure("B", "activations alive at the worst moment, one image", shown="kB", scale=1e3),
    "file_bytes": Measure("B", "the model file on disk", shown="kB", scale=1e3),
    "packed_bytes": Measure("B", "that file compressed (DEFLATE)", shown="kB", scale=1e3),
    "latency_ms": Measure("ms", "one batch on a target"),
    "energy_mj": Measure("mJ", "energy of one batch on a target, its idle power included"),
    "images_per_second": Measure("images/s", "throughput on a target", maximize=True),
    "throughput": Measure("images/s", "images in a second at the batch of a target", maximize=True),
    "worst_latency": Measure("of its limit", "latency on the target that is nearest to its limit"),
    "training_hours": Measure("h", "device-hours of training beyond the supernet"),
    "training_kwh": Measure("kWh", "energy of those hours, at a stated power"),
    "training_usd": Measure("USD", "price of those hours, at a stated rate"),
    "top1": Measure("fraction", "top-1 accuracy on given images", True, "%", 0.01),
    "top5": Measure("fraction", "top-5 accuracy on given images", True, "%", 0.01),
    "loss": Measure("nats", "cross entropy"),
    "ece": Measure("fraction", "expected calibration error, 15 bins", shown="%", scale=0.01),
}
