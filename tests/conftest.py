"""Fixtures of all tests. Nothing here needs a network.

Tests run on all cores at once (pytest-xdist), so each process computes on one thread: on a busy machine small
matrix products are ten times as fast that way. The variables are read when numpy and torch are loaded.
"""

import os
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

from supernet.files import tables


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of public tables; tests that need it are skipped where it is absent."""
    try:
        return tables.data_dir()
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def measured_modules():
    """Modules of every type whose latency is known: work at fixed rates, twice that when half utilised."""
    from latency.modules.data import CONDITIONS, ModuleData
    from latency.modules.kinds import module_kind
    from supernet import registry

    found = {}
    for name in registry.names("module"):
        kind = module_kind.named(name)
        rows, batch = kind.draw(60, (1, 2, 8), seed=1)
        draw = np.random.default_rng(2)
        conditions = np.stack([batch, draw.choice([1.0, 2.0], 60), draw.choice([0.0, 0.5], 60)], axis=1)
        work = kind.work(rows)
        ms = 0.01 + batch * (work.macs / 2e7 + (work.read + work.written + work.inner) / 5e6)
        ms *= np.exp(conditions[:, 2] * np.log(4)) / conditions[:, 1] ** 0.7
        found[name] = ModuleData(name, rows, conditions, CONDITIONS, ms, 0.01 * ms)
    return found


@pytest.fixture(scope="session")
def modules_of(measured_modules):
    """A module predictor of any target, fitted on those."""
    from latency.modules import fit
    from latency.modules.fit import Fitting

    fits = Fitting(models=("ridge",)).fit(measured_modules)
    return lambda target: fit.predictor(target, fits)
