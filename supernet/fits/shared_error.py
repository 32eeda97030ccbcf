"""Errors that all predictions of a fit share: what few samples leave open in given directions.

Letters: n samples, k directions, m other rows, r errors kept.

The relative error of a prediction is taken as s (F z + eps), where the row F (k,) of an architecture says
how far each direction moves it, z is the same for all architectures and eps is its own (ours). The n samples
leave z the posterior covariance A^-1, with A = F'F + 1 / kappa^2. The size s is not assumed but follows from
the residuals of samples left out of the fit, each in units of its own leverage. So the errors are larger far
from the samples, as the frontier of a search often is, and they are mostly common to all there.
"""

from dataclasses import dataclass

import numpy as np

from supernet.arrays import Floats


@dataclass(frozen=True, eq=False)
class Posterior:
    """What the samples leave open, in units of s."""

    root: Floats  # (k, k) whose product with its transpose is A^-1
    leverage: Floats  # (n,) variance of the shared error of each sample, had it been left out

    def variance(self, columns: Floats) -> Floats:
        """(m,) of the shared error of (m, k) rows."""
        return np.asarray(((columns @ self.root) ** 2).sum(axis=1))

    def main(self, columns: Floats, count: int) -> tuple[Floats, float]:
        """(k, r) factors of the `count` independent errors that matter most to (m, k) rows, and the mean
        variance of the others."""
        spread, vectors = np.linalg.eigh(self.root.T @ (columns.T @ columns) @ self.root / len(columns))
        return self.root @ vectors[:, ::-1][:, :count], float(max(spread[:-count].sum(), 0.0))


def posterior(columns: Floats, kappa: float) -> Posterior:
    """Of (n, k) rows of samples and the prior standard deviation `kappa` of each direction."""
    values, vectors = np.linalg.eigh(columns.T @ columns + np.eye(columns.shape[1]) / kappa**2)
    root = vectors / np.sqrt(values)
    inside = ((columns @ root) ** 2).sum(axis=1)
    return Posterior(root, inside / np.maximum(1 - inside, 1e-9))


def shift(columns: Floats, residuals: Floats, trust: Floats, kappa: float) -> Floats:
    """(k,) posterior mean of z s, from (n,) residuals; the noise of a sample counts 1 / trust."""
    if not kappa:
        return np.zeros(columns.shape[1])
    covariance = kappa**2 * columns @ columns.T + np.diag(1 / trust)
    return np.asarray(kappa**2 * columns.T @ np.linalg.solve(covariance, residuals))
