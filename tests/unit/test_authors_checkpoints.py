"""Checkpoints in the form of the OFA authors give the logits that the `ofa` package's own code gives."""

import numpy as np
import pytest
import torch

from supernet.space import get_space
from supernet.weights import family, network
from supernet.weights.images import ImageSet
from supernet.weights.origins import checkpoint

NAMES = ["ofa_mbv3_w1.0", "ofa_mbv3_w1.2", "ofa_proxyless_w1.3", "ofa_resnet50"]


def differences(name, path, photos, count):
    """Largest difference of a logit, relative to the largest logit, of each of `count` subnets: ours against
    the package's extraction (`get_active_subnet`) and calibration (`set_running_statistics`), in double
    precision. In single precision both are as far from that as they are from each other: random weights
    enlarge rounding.
    """
    from ofa.imagenet_classification.elastic_nn.utils import set_running_statistics

    torch.set_num_threads(1)
    space = get_space(name)
    data = ImageSet("folder", (128, 224), root=photos, val=8, test=0.2, calibration=6, augment="crop").load()
    trained = checkpoint.load(path)
    assert trained.space.name == name
    content = torch.load(path, weights_only=True)
    theirs = family.of(space).elastic(space, 1000)
    theirs.load_state_dict(content.get("state_dict", content))
    for genome in space.restrict("r", 128, 128).sample(count, np.random.default_rng(3))[:, None]:
        side = network.resolution(space, genome)
        batches = [(images.double(), labels) for images, labels in data.batches("calibration", side, 3)]
        ours = network.calibrate(trained.extract(genome).double(), batches, data.frequencies)
        theirs.set_active_subnet(**space.settings(genome)[0])
        static = theirs.get_active_subnet(preserve_weight=True).double()
        set_running_statistics(static, batches)
        pictures = next(iter(data.batches("test", side, 2)))[0].double()
        with torch.inference_mode():
            expected, logits = static.eval()(pictures), ours(pictures)
        assert expected.shape == (len(pictures), 1000)
        assert expected.std() > 0.01 * expected.abs().max()
        yield float((logits - expected).abs().max() / expected.abs().max())


def test_logits_are_those_of_ofas_own_extraction_and_calibration(authors_checkpoint, photos):
    path = authors_checkpoint("ofa_mbv3_w1.0", plain=True)
    assert max(differences("ofa_mbv3_w1.0", path, photos, 1)) <= 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_logits_of_all_families(name, authors_checkpoint, photos):
    """Five subnets of each of the four published supernets."""
    assert max(differences(name, authors_checkpoint(name), photos, 5)) <= 1e-9
