"""How good a prediction is: one function, one table, the same keys everywhere."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from supernet.arrays import Floats
from supernet.files.tables import Table
from supernet.prediction import CONFIDENCES, Prediction


def scores(predicted: Prediction, measured: Floats) -> dict[str, float]:
    """Errors in the unit of `measured`; mape, median_ape, within_* and coverage_90 in percent; ranks in [-1,
    1].

    Kendall is tau-b. Rank correlations of fewer than two different values are NaN.
    """
    from scipy.stats import kendalltau, spearmanr  # a quarter of a second, which a search does not need

    if len(measured) != len(predicted.mean) or not len(measured):
        raise ValueError(f"{len(predicted.mean)} predictions for {len(measured)} measurements; need as many")
    error = predicted.mean - measured
    relative = 100 * np.abs(error) / np.abs(measured)
    low, high = predicted.interval(0.90)
    ranked = np.ptp(measured) > 0 and np.ptp(predicted.mean) > 0
    return {
        "n": len(measured),
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "mape": float(relative.mean()),
        "median_ape": float(np.median(relative)),
        "within_5": float(100 * (relative <= 5).mean()),
        "within_10": float(100 * (relative <= 10).mean()),
        "spearman": float(spearmanr(predicted.mean, measured).statistic) if ranked else float("nan"),
        "kendall": float(kendalltau(predicted.mean, measured).statistic) if ranked else float("nan"),
        "coverage_90": float(100 * ((low <= measured) & (measured <= high)).mean()),
    }


def calibration(predicted: Prediction, measured: Floats) -> dict[str, float]:
    """`bias`, predicted minus measured in the mean, in the unit of `measured`; and `coverage_50` to
    `coverage_99`, the percent of measurements in the interval of each of `CONFIDENCES`."""
    row = {"bias": float(np.mean(predicted.mean - measured))}
    for confidence in CONFIDENCES:
        low, high = predicted.interval(confidence)
        row[f"coverage_{100 * confidence:.0f}"] = float(100 * ((low <= measured) & (measured <= high)).mean())
    return row


def markdown(rows: Mapping[str, Mapping[str, float]], first: str = "predictor") -> str:
    """A Markdown table, one line per named score."""
    columns: dict[str, list[Any]] = {first: list(rows)}
    columns |= {key: [row[key] for row in rows.values()] for key in next(iter(rows.values()))}
    return Table(columns | {"n": [round(n) for n in columns["n"]]}).markdown()
