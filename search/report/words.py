"""How objectives are written: what a value is, in which unit, on which images or at which batch."""

import html
from collections.abc import Mapping
from typing import Any

from search.models import Models
from search.objective import Objective
from supernet.measures import MEASURES

SHARES = ("accuracy", "top1")  # fractions that people read as percents


def axis(objective: Objective, models: Models) -> str:
    """The text at an axis: `top-1, ImageNet validation`, `ms per batch of 64 on v100_b64`."""
    quantity, _, device = objective.name.partition("@")
    latency = models.devices.get(device, models.latency)
    if quantity == "accuracy":
        images = objective.images
        return f"top-1, {images.removesuffix(' top-1').removeprefix('top-1 on ')}" if images else "top-1"
    if quantity in ("latency_ms", "energy_mj") and latency is not None:
        batch = latency.target.batch
        return (
            f"{objective.unit} per {'image' if batch == 1 else f'batch of {batch}'} on {latency.target.name}"
        )
    if quantity not in MEASURES:
        return objective.label
    title = MEASURES[quantity].title
    return title if "hours" in title else f"{title}, {objective.unit}"


def head(objective: Objective) -> str:
    """The head of a column whose values are written without unit, as HTML that may be broken."""
    text = objective.name if objective.name in SHARES else objective.label
    return html.escape(text).replace("_", "<wbr>_").replace("@", "<wbr>@")


def value(objective: Objective, number: float) -> str:
    """A value as a person reads it, with its unit."""
    if objective.name in SHARES:
        return f"{100 * number:.2f}%"
    return f"{number:.4g} {objective.unit}"


def about(objective: Objective, models: Models) -> Mapping[str, str]:
    """What the columns of an objective in front.csv are, by column."""
    name, text = objective.name, axis(objective, models)
    side = "lower" if objective.maximize else "upper"
    return {
        name: text,
        f"{name}_std": f"standard deviation of {name}",
        f"{name}_bound": f"{side} bound of {name} at {objective.confidence:.0%} confidence",
        f"{name}_limit_holds": f"whether the {side} bound holds the limit",
    }


COLUMNS: Mapping[str, Any] = {
    "p_efficient": "probability that no other network dominates it, given how uncertain the predictors are",
    "macs": "multiply-accumulates of one image",
    "params": "trainable parameters",
    "shortlist": "one of the few that stand for all of the front",
    "on_verified_front": "measured on this machine, and efficient among those measured",
}
