"""Gaussian processes: condition one on values, and fit the parameters of its covariance.

The processes have mean zero, so callers centre their values. Letters: k known rows, n new rows, h parameters.

>>> process = condition(kernel(x, x) + noise * np.eye(len(x)), values)
>>> mean = process.mean(kernel(new, x))
>>> variance = process.variance(np.diag(kernel(new, new)), kernel(new, x))
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from supernet.arrays import Floats, Ints

JITTER = 1e-6  # added to the variance of the noise: equal rows would make the covariance singular

# From (h,) parameters to the (k, k) covariance without noise, and the function that turns the derivative of a
# number by that covariance (k, k) into its derivative by the parameters (h,).
Kernel = Callable[[Floats], tuple[Floats, Callable[[Floats], Floats]]]


@dataclass(frozen=True, eq=False)
class Posterior:
    """A process after k values were seen. `cross` is the (n, k) covariance of new rows with known ones."""

    factor: Floats  # (k, k) lower Cholesky factor of the covariance of the known values, noise included
    weights: Floats  # (k,) inverse of that covariance, times the values
    log_evidence: float  # log marginal likelihood, up to a constant

    def mean(self, cross: Floats) -> Floats:
        """(n,) posterior means."""
        return cross @ self.weights

    def variance(self, own: Floats, cross: Floats) -> Floats:
        """(n,) posterior variances without noise, from the prior ones `own` (n,)."""
        return np.maximum(own - (self.whitened(cross) ** 2).sum(axis=0), 0)

    def whitened(self, cross: Floats) -> Floats:
        """(k, n) with which the posterior covariance is that of the prior minus whitened.T @ whitened."""
        from scipy.linalg import solve_triangular

        return solve_triangular(self.factor, cross.T, lower=True, check_finite=False)

    def solve(self, right: Floats) -> Floats:
        """Inverse of the covariance of the known values, times `right` (k,) or (k, m)."""
        from scipy.linalg import cho_solve

        return cho_solve((self.factor, True), right, check_finite=False)

    def inverse(self) -> Floats:
        """(k, k) inverse of the covariance of the known values."""
        return self.solve(np.eye(len(self.weights)))

    def left_out(self) -> Floats:
        """(k,) residuals: each value minus its mean given all other values."""
        return self.weights / np.diag(self.inverse())

    def left_out_together(self, group: Ints) -> Floats:
        """(k,) residuals: each value minus its mean given all values outside its (k,) group."""
        inverse, residual = self.inverse(), np.empty(len(group))
        for one in np.unique(group):
            out = np.flatnonzero(group == one)
            residual[out] = np.linalg.solve(inverse[np.ix_(out, out)], self.weights[out])
        return residual


def condition(covariance: Floats, values: Floats) -> Posterior:
    """The posterior after (k,) values whose prior covariance (k, k), noise included, is given."""
    from scipy.linalg import cho_factor, cho_solve

    factor = cho_factor(covariance, lower=True, check_finite=False)
    weights = cho_solve(factor, values, check_finite=False)
    cost = 0.5 * values @ weights + np.log(np.diag(factor[0])).sum()
    return Posterior(np.tril(factor[0]), weights, -float(cost))


def with_noise(covariance: Floats, noise: float) -> Floats:
    """The covariance of noisy values: the variance `noise` and a little more on the diagonal."""
    return covariance + (noise + JITTER) * np.eye(len(covariance))


def negative_log_posterior(
    theta: Floats, kernel: Kernel, values: Floats, prior: tuple[Floats, Floats] | None = None
) -> tuple[float, Floats]:
    """Negative log of the marginal likelihood, times the prior, and its gradient (h + 1,) by `theta`.

    `theta` holds the parameters of the kernel and the log deviation of the noise; `prior` the means and
    standard deviations of independent normal distributions of `theta` (None: no prior).
    """
    covariance, gradient_of = kernel(theta[:-1])
    noise = float(np.exp(2 * theta[-1]))
    process = condition(with_noise(covariance, noise), values)
    slope = 0.5 * (process.inverse() - np.outer(process.weights, process.weights))  # by the covariance
    gradient = np.append(gradient_of(slope), 2 * noise * np.trace(slope))
    if prior is None:
        return -process.log_evidence, gradient
    off = (theta - prior[0]) / prior[1]
    return float(0.5 * off @ off) - process.log_evidence, gradient + off / prior[1]


def most_likely(
    kernel: Kernel,
    values: Floats,
    start: Floats,
    *,
    bounds: Sequence[tuple[float, float]],
    iterations: int,
    prior: tuple[Floats, Floats] | None = None,
) -> Floats:
    """(h + 1,) `theta` of smallest `negative_log_posterior`, from `start` in at most `iterations` steps."""
    from scipy.optimize import minimize

    return minimize(
        negative_log_posterior,
        start,
        args=(kernel, values, prior),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": iterations},
    ).x
