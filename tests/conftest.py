"""Fixtures of all tests. Nothing here needs a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from supernet import tidy


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of public tables; tests that need it are skipped where it is absent."""
    try:
        return tidy.data_dir()
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
