"""The fit of the formula of GPU kernels to all public measurements at once: maximum a posteriori, by L-BFGS.

Letters: g groups (one GPU, source, precision, batch), k kernels, m measurements, P parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize

from latency.gpu import formula, parameters
from latency.gpu.formula import Features, Products
from latency.gpu.kernels import Kind, concatenate
from latency.gpu.measurements import Group
from supernet.arrays import Floats

AGREEING = 30.0  # networks of a group count like so many, because they agree with each other
KERNELS = 100.0  # likewise, kernels timed alone, which differ more
ITERATIONS = 200


@dataclass(frozen=True, eq=False)
class Problem:
    """Groups joined into columns of tensors."""

    features: Features
    place: torch.Tensor  # (k,) group * kinds + kind of each sorted kernel
    entry: tuple[torch.Tensor, ...]  # network, sorted kernel, count
    group: torch.Tensor  # (m,)
    log_ms: torch.Tensor  # (m,)
    launches: torch.Tensor  # (m, kinds)
    alone: torch.Tensor  # (m,) 1 for kernels measured alone
    trust: torch.Tensor  # (m,) 1 / noise
    weight: torch.Tensor  # (m,)


def join(groups: Sequence[Group]) -> Problem:
    """The columns of all groups together."""
    sizes, counts = [len(group.kernels.kind) for group in groups], [len(group) for group in groups]
    starts, rows = np.cumsum([0, *sizes]), np.cumsum([0, *counts])
    of_kernel = np.repeat(np.arange(len(groups)), sizes)
    features = formula.features(
        concatenate([group.kernels for group in groups]), [group.chip for group in groups], of_kernel
    )
    sorted_place = np.empty(starts[-1], np.int64)
    sorted_place[features.order] = np.arange(starts[-1])
    entry = (
        np.concatenate([group.network + start for group, start in zip(groups, rows, strict=False)]),
        sorted_place[np.concatenate([g.kernel + start for g, start in zip(groups, starts, strict=False)])],
        np.concatenate([group.count for group in groups]),
    )
    most = [KERNELS if group.alone else AGREEING for group in groups]
    weights = [min(1.0, limit / max(count, 1)) for limit, count in zip(most, counts, strict=True)]
    return Problem(
        features=_tensors(features),
        place=torch.as_tensor(of_kernel[features.order] * len(Kind) + features.kind),
        entry=tuple(torch.as_tensor(column) for column in entry),
        group=torch.as_tensor(np.repeat(np.arange(len(groups)), counts)),
        log_ms=torch.log(torch.as_tensor(np.concatenate([group.ms for group in groups]))),
        launches=torch.as_tensor(np.concatenate([group.launches for group in groups])),
        alone=torch.as_tensor(np.repeat([float(group.alone) for group in groups], counts)),
        trust=torch.as_tensor(np.repeat([1 / group.noise for group in groups], counts)),
        weight=torch.as_tensor(np.repeat(weights, counts)),
    )


def _tensors(value: Any) -> Any:
    """The same features as tensors."""
    if isinstance(value, np.ndarray):
        return torch.as_tensor(value)
    if isinstance(value, Mapping):
        return {name: _tensors(one) for name, one in value.items()}
    if isinstance(value, Features | Products):
        return replace(value, **{f.name: _tensors(getattr(value, f.name)) for f in fields(value)})
    return tuple(map(_tensors, value)) if isinstance(value, tuple) else value


def predict(
    theta: torch.Tensor,
    layout: parameters.Layout,
    problem: Problem,
    places: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """(m,) log of ms. `places` are of the factors (g, kinds, f) and the hosts (g,) among the parameters."""
    factors, hosts = places
    extended = torch.cat([theta, torch.zeros(1, dtype=theta.dtype)])
    p = layout.named(extended)
    offsets = extended[factors].sum(-1).reshape(-1)
    times = torch.exp(formula.body(torch, p, problem.features) + offsets[problem.place])
    times = times + torch.exp(p["start"])
    network, kernel, count = problem.entry
    device = torch.zeros(len(problem.log_ms), dtype=theta.dtype).index_add(0, network, count * times[kernel])
    device = device + torch.exp(p["single"]) * problem.alone
    host = extended[hosts][problem.group]
    host = host + torch.log(problem.launches @ torch.exp(p["launch"]) + 1e-9)
    return torch.logaddexp(formula.SEEN * torch.log(device), formula.SEEN * host) / formula.SEEN


def fit(
    groups: Sequence[Group], iterations: int = ITERATIONS, start: Mapping[str, float] | None = None
) -> dict[str, float]:
    """The parameters by name, from `start` where it has them.

    ValueError without a group.
    """
    if not groups:
        raise ValueError("no GPU to learn from: give the measurements of at least one")
    layout = parameters.layout([(group.chip, group.source) for group in groups])
    problem = join(groups)
    factors, hosts = layout.places([(group.chip, group.source) for group in groups])
    places = torch.as_tensor(factors), torch.as_tensor(hosts)
    mean, spread = torch.as_tensor(layout.mean), torch.as_tensor(layout.spread)

    def loss(z: Floats) -> tuple[float, Floats]:
        white = torch.tensor(z, requires_grad=True)
        off = predict(mean + spread * white, layout, problem, places) - problem.log_ms
        huber = 2 * (torch.sqrt(1 + (off * problem.trust) ** 2) - 1)
        total = 0.5 * (problem.weight * huber).sum() + 0.5 * (white**2).sum()
        total.backward()  # type: ignore[no-untyped-call]
        assert white.grad is not None
        return float(total.detach()), white.grad.numpy().copy()

    first = [(start or {}).get(name, m) for name, m in zip(layout.names, layout.mean, strict=True)]
    z = (np.array(first) - layout.mean) / layout.spread
    options = {"maxiter": iterations, "maxcor": 30, "ftol": 1e-7}
    best = minimize(loss, z, jac=True, method="L-BFGS-B", options=options)
    return dict(zip(layout.names, (layout.mean + layout.spread * best.x).tolist(), strict=True))
