"""The array types that every room shares; axes have fixed letters (n architectures, d genes)."""

import numpy as np
from numpy.typing import NDArray

Genomes = NDArray[np.int8]  # (n, d) canonical
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rng = np.random.Generator
