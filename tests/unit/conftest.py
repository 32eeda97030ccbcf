"""A small supernet that was really trained, for the tests that need one."""

from pathlib import Path
from typing import Any

import pytest

DIGITS = {"_target_": "supernet.weights.images.ImageSet", "source": "digits", "resolution": [16, 20]}


@pytest.fixture(scope="session")
def training():
    """Trains `ofa_small` on a part of the digits in a folder, with options of `Optimisation`."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ofa.imagenet_classification.elastic_nn.networks  # noqa: F401
        import torch

    from supernet import registry
    from supernet.space import get_space
    from supernet.training.step import Optimisation, processes
    from supernet.training.train import Plan, train

    torch.set_num_threads(1)

    def run(
        out: Path,
        recipe: Any,
        *,
        images: int = 128,
        val: int = 40,
        sinks: Any = (),
        seed: int = 0,
        augmentation: str = "data",
        **options: Any,
    ) -> Any:
        node = {**DIGITS, "train_images": images, "val": val, "calibration": min(images, 256)}
        given = {"epochs": 3, "batch": 64, "forward_batch": 32, "rate": 0.05, **options}
        data = registry.build(node).load()
        change = registry.get("augmentation", augmentation)
        plan = Plan(get_space("ofa_small"), data, recipe, Optimisation(**given), seed, change)
        config = {"data": node, "seed": seed, **given}
        with processes() as group:
            return train(plan, out, config, group, sinks=sinks, validate_every=100)

    return run


@pytest.fixture(scope="session")
def trained_folder(training, tmp_path_factory) -> Path:
    """A run folder of six epochs on 300 digits: its subnets are right about half of the time."""
    from supernet.training.recipes import Sandwich

    out = tmp_path_factory.mktemp("trained") / "run"
    training(out, Sandwich(largest_first=0.25), images=300, val=300, epochs=6, batch=32, forward_batch=32)
    return out


@pytest.fixture(scope="session")
def bench() -> Any:
    """What steps of shrinking work with: an untrained small supernet and a few digits."""
    import torch

    from supernet import registry
    from supernet.deploy import shrink
    from supernet.space import get_space
    from supernet.training.step import processes
    from supernet.weights import network

    torch.set_num_threads(1)
    node = registry.load("data", "digits") | {"train_images": 128, "calibration": 64, "test": 0.1}
    images = registry.build(node).load()
    space = get_space("ofa_small")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = network.supernet(space, 10)
    facts = {"classes": 10, "resolution": [16, 16], "mean": list(images.mean), "std": list(images.std)}
    trained = network.Trained(space, module, facts, "none")
    with processes() as group:
        yield shrink.Bench(trained, images, group, narrow=False)
