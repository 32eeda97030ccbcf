"""Draw the front of a run folder as PNG: `python -m benchmarks.figure runs/mine docs/front.png` (needs
matplotlib)."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    run, out = Path(sys.argv[1]), Path(sys.argv[2])
    with (run / "front.csv").open() as file:
        front = list(csv.DictReader(file))
    accuracy, latency, hours = (
        np.array([float(row[name]) for row in front]) for name in ("accuracy", "latency_ms", "training_hours")
    )
    with np.load(run / "archive.npz", allow_pickle=False) as archive:
        costs = archive["costs"]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), constrained_layout=True)
    drawn = np.random.default_rng(0).permutation(len(costs))[:4000]
    axes[0].scatter(costs[drawn, 1], -costs[drawn, 0], s=2, color="#d5dae0", label="evaluated")
    points = axes[0].scatter(latency, accuracy, c=hours, s=7, cmap="viridis", label="front")
    axes[0].set(xlabel="latency (ms per batch)", ylabel="predicted top-1")
    figure.colorbar(points, ax=axes[0], label="fine-tuning (GPU-hours)")
    axes[1].scatter(costs[drawn, 2], -costs[drawn, 0], s=2, color="#d5dae0")
    points = axes[1].scatter(hours, accuracy, c=latency, s=7, cmap="plasma")
    axes[1].set(xlabel="fine-tuning (GPU-hours)", ylabel="predicted top-1")
    figure.colorbar(points, ax=axes[1], label="latency (ms per batch)")
    for ax in axes:
        ax.grid(alpha=0.25)
        ax.set_axisbelow(True)
    figure.suptitle(
        f"{front[0]['architecture'].split()[0]}: {len(front)} architectures on the front of {len(costs):,} "
        "evaluated"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
