"""Fixtures of all tests. Nothing here needs a network.

Tests run on all cores at once (pytest-xdist), so each process computes on one thread: on a busy machine small
matrix products are ten times as fast that way. The variables are read when numpy and torch are loaded.
"""

import ctypes
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WANDB_MODE"] = "disabled"  # starting it takes seconds; tests that want it say wandb=offline

import numpy as np
import pytest

from supernet.files import tables

with suppress(ImportError):  # of TensorBoard: its log closes what pytest captures when Hydra begins its own
    from absl import logging as absl

    absl.get_absl_handler().python_handler.stream = sys.__stderr__


class _Stack(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@pytest.fixture(autouse=True)
def _signals_have_their_stack(request: pytest.FixtureRequest) -> Iterator[None]:
    """Names the test after which signals would be handled on memory that is gone, or told to a closed file: a
    later test that raises one would kill its process."""
    yield
    if sys.platform != "linux":
        return
    left, stack, c = [], _Stack(), ctypes.CDLL(None)
    c.sigaltstack(None, ctypes.byref(stack))
    page = ctypes.c_void_p((stack.start or 0) & -4096)
    if (
        stack.start and not stack.flags & 2 and c.mincore(page, 1, ctypes.create_string_buffer(1))
    ):  # 2: disabled
        c.sigaltstack(ctypes.byref(_Stack(None, 2, 0)), None)
        left.append("an alternate stack that is unmapped")
    with suppress(ValueError):  # not in the main thread
        if (file := signal.set_wakeup_fd(-1)) != -1:
            left.append(f"the wake-up file {file}")
    if left:
        print(f"{request.node.nodeid} left {' and '.join(left)} for signals", file=sys.__stderr__)


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


@pytest.fixture(scope="session")
def authors_checkpoint(tmp_path_factory):
    """`authors_checkpoint(space, plain=False)`: a checkpoint as the OFA authors publish them, with random
    weights and norms that fit the signals: {"state_dict": ...} or the state dict itself, in their older
    names of tensors."""
    import torch

    from supernet.space import get_space
    from supernet.weights import network

    folder = tmp_path_factory.mktemp("authors")

    def make(name: str, plain: bool = False) -> Path:
        path = folder / f"{name}{'_plain' * plain}.pth"
        if not path.exists():
            space = get_space(name)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                module = network.supernet(space)
                network.set_active(module, space, network.largest(space))
                pictures = torch.randn(4, 3, 64, 64)
            with torch.no_grad():
                for _ in range(3):
                    module.train()(pictures)
            older = {
                re.sub(r"^(blocks\.\d+)\.conv\.", r"\1.mobile_inverted_conv.", key): tensor
                for key, tensor in module.state_dict().items()
            }
            state = older if space.design is not None else module.state_dict()
            torch.save(state if plain else {"state_dict": state}, path)
        return path

    return make


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A folder of 40 images in four classes, each of a colour of its own: coarse noise of 60 x 50 pixels and
    more. (Networks with random weights tell smooth images hardly apart.)"""
    from PIL import Image

    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for label, name in enumerate(("ape", "bee", "cat", "dog")):
        (root / name).mkdir()
        for i in range(10):
            pixels = rng.integers(0, 256, (50 + i, 60, 3), dtype=np.uint8)
            pixels[..., label % 3] //= 2 + label // 3
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root
