"""What training images are changed into, against closed forms and torchvision."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision  # noqa: F401  # its import-time warnings, if any, belong to no test
from PIL import Image
from torchvision import transforms

from supernet import registry
from supernet.weights import pixels as cuts
from supernet.weights.augmentation import Augmentation
from supernet.weights.images import Epoch, ImageSet, training_batches

NAMES = registry.names("augmentation")


@pytest.fixture(scope="module")
def digits():
    return ImageSet(source="digits", resolution=(16, 24), val=200, train_images=300, flip=False).load()


def shown(images, augmentation, batch=100, sides=(16,)):
    """(pixels, labels) of the first forward pass of an epoch, and its numbers and rows."""
    loader = training_batches(images, Epoch(3, 5, batch, batch, sides, augmentation))
    pixels, labels = next(iter(loader))
    return pixels, labels, loader.plan[0].rows


def as_stored(images, rows):
    """(b, 3, S, S) images in [0, 1] as they are in memory."""
    return torch.from_numpy(images.source[rows]).float() / 255


def normalised(images, pixels):
    return (pixels - torch.tensor(images.mean).view(3, 1, 1)) / torch.tensor(images.std).view(3, 1, 1)


@pytest.mark.parametrize("name", NAMES)
def test_processes_share_the_images_of_one(digits, name):
    """For every augmentation: same images and labels whoever shows them, and others in another epoch."""
    augmentation = registry.get("augmentation", name)
    epoch = Epoch(3, 5, 64, 32, (16, 20), augmentation)
    whole = list(training_batches(digits, epoch))
    for rank in (0, 1):
        half = list(training_batches(digits, epoch, rank=rank, world=2))
        for (pixels, labels), (other_pixels, other_labels) in zip(half, whole[rank::2], strict=True):
            assert (pixels == other_pixels).all()
            assert (labels == other_labels).all()
    for pixels, labels in whole:
        assert pixels.isfinite().all()
        assert pixels.shape[:2] == (32, 3)
        assert labels.shape == ((32, 10) if augmentation.mixup or augmentation.cutmix else (32,))
    later = next(iter(training_batches(digits, Epoch(3, 6, 64, 32, (16,), augmentation))))
    assert (later[0] != whole[0][0][:, :, : later[0].shape[2], : later[0].shape[3]]).any()


def test_without_options_the_data_decide(digits):
    plain, _, rows = shown(digits, Augmentation(cut="none"))
    assert torch.allclose(plain, normalised(digits, as_stored(digits, rows)), atol=1e-5)
    mirrored, _, rows = shown(digits, Augmentation(cut="none", flip=True))
    stored = normalised(digits, as_stored(digits, rows))
    same = torch.isclose(mirrored, stored, atol=1e-5).flatten(1).all(1)
    turned = torch.isclose(mirrored, stored.flip(3), atol=1e-5).flatten(1).all(1)
    assert (same | turned).all()
    assert 30 < int(turned.sum()) < 70
    usual = shown(digits, Augmentation())[0]
    assert (usual == shown(digits, Augmentation(cut="shift", flip=False))[0]).all()
    assert (usual != plain).any()


def test_colours_change_by_factors_of_their_own():
    """Brightness: x f; saturation: grey + f (x - grey); factors uniform in 1 +- value, one per image."""
    torch.manual_seed(0)
    pixels, draws = 0.4 + 0.1 * torch.rand(200, 3, 4, 4), np.random.default_rng(0).random((200, 8))
    state = torch.get_rng_state()
    factors = (Augmentation(brightness=0.3).coloured(pixels, draws) / pixels).flatten(1)
    assert torch.allclose(factors, factors[:, :1].expand_as(factors), atol=1e-5)
    assert len(factors[:, 0].unique()) == 200
    assert 0.7 <= factors.min() < 0.72
    assert 1.28 < factors.max() <= 1.3
    grey = (pixels * torch.tensor([0.2989, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    changed = Augmentation(saturation=0.5).coloured(pixels, draws)
    factors = ((changed - grey) * (pixels - grey)).sum((1, 2, 3)) / (pixels - grey).square().sum((1, 2, 3))
    assert (torch.get_rng_state() == state).all()  # torch's generator goes on as if nothing had been drawn
    assert torch.allclose(changed, grey + factors.view(-1, 1, 1, 1) * (pixels - grey), atol=1e-3)
    assert 0.5 <= factors.min() < 0.53
    assert 1.47 < factors.max() <= 1.5


def test_mixed_images_have_the_shares_of_their_labels(digits):
    """Mixup is lam x + (1 - lam) of the neighbour; CutMix takes a rectangle of 1 - lam of the pixels."""
    noise = np.random.default_rng(0).integers(0, 256, digits.source.shape, np.uint8)
    digits = replace(digits, source=noise)  # without margins that all images share
    for options in ({"mixup": 0.8}, {"cutmix": 1.0}):
        pixels, shares, rows = shown(digits, Augmentation(cut="none", **options))
        stored, labels = normalised(digits, as_stored(digits, rows)), torch.from_numpy(digits.labels[rows])
        neighbours, others = stored.roll(1, 0), labels.roll(1)
        differ = labels != others
        own = shares[differ][0, labels[differ][0]]
        assert 0 < own < 1
        assert torch.allclose(shares.sum(1), torch.ones(100))
        assert torch.allclose(shares[differ, labels[differ]], own.expand(int(differ.sum())))
        assert torch.allclose(shares[differ, others[differ]], 1 - own.expand(int(differ.sum())))
        if "mixup" in options:
            assert torch.allclose(pixels, own * stored + (1 - own) * neighbours, atol=1e-5)
        else:
            kept = torch.isclose(pixels, stored, atol=1e-5).all(1).all(0)  # (16, 16)
            assert torch.isclose(pixels, neighbours, atol=1e-5).all(1)[:, ~kept].all()
            assert float(kept.float().mean()) == pytest.approx(float(own), abs=1e-6)
            inside = (~kept).nonzero()
            height, width = (inside.max(0).values - inside.min(0).values + 1).tolist()
            assert height * width == int((~kept).sum())


def test_each_forward_pass_of_two_mixers_gets_one_of_them(digits):
    both = Augmentation(cut="none", mixup=0.8, cutmix=1.0)
    loader = training_batches(digits, Epoch(0, 0, 20, 20, (16,), both))
    cut = []
    for (pixels, _), batch in zip(loader, loader.plan, strict=True):
        stored = normalised(digits, as_stored(digits, batch.rows))
        own, other = (torch.isclose(pixels, images, atol=1e-5) for images in (stored, stored.roll(1, 0)))
        cut.append(bool((own | other).all()))
    assert 2 < sum(cut) < len(cut) - 2 == 13


def test_a_share_of_the_images_loses_a_rectangle(digits):
    erased, _, rows = shown(digits, Augmentation(cut="none", erase=0.4), batch=300)
    stored = normalised(digits, as_stored(digits, rows))
    gone = (erased != stored).any(1)
    assert (erased.abs().sum(1)[gone] == 0).all()
    changed = gone.flatten(1).any(1)
    assert 90 < int(changed.sum()) < 150
    assert gone[changed].float().mean((1, 2)).max() < 0.37


def test_randaugment_changes_images_each_in_its_way(digits):
    """Two operations each; one of the 14 is the identity, and some leave a digit as it is."""
    changed, _, rows = shown(digits, Augmentation(cut="none", randaugment=2))
    stored = normalised(digits, as_stored(digits, rows))
    assert 60 < int((changed != stored).flatten(1).any(1).sum()) <= 100
    gentle = shown(digits, Augmentation(cut="none", randaugment=2, magnitude=1))[0]
    strong = shown(digits, Augmentation(cut="none", randaugment=2, magnitude=25))[0]
    assert (strong - stored).abs().mean() > 2 * (gentle - stored).abs().mean()


def test_crops_have_the_area_and_aspect_that_are_asked_for():
    draws = np.random.default_rng(0).random((2000, 8))
    boxes = np.array([cuts.box(200, 150, row, (0.08, 1.0), (3 / 4, 4 / 3)) for row in draws])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes >= 0).all()
    assert (boxes[:, 2:] <= [200, 150]).all()
    share, aspect = width * height / 30000, width / height
    assert 0.078 < share.min() < 0.1
    assert share.max() > 0.9
    assert 0.74 < aspect.min() < 0.78
    assert 1.28 < aspect.max() < 1.35
    long = cuts.box(1000, 100, draws[0], (0.9, 1.0), (3 / 4, 4 / 3))  # never fits: the centre
    assert long == (433, 0, 566, 100)


@pytest.mark.parametrize("size", [(40, 30), (31, 57), (50, 50), (99, 37)])
@pytest.mark.parametrize("side", [16, 24, 25])
def test_the_centre_of_a_photo_is_that_of_the_authors_transform(size, side):
    """ofa: imagenet.py build_valid_transform, Resize(ceil(side / .875)) and CenterCrop(side)."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    theirs = transforms.Compose([transforms.Resize(int(np.ceil(side / 0.875))), transforms.CenterCrop(side)])
    assert (np.asarray(cuts.central(image, side)) == np.asarray(theirs(image))).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"area": (0.5, 0.1)}, r"augmentation.area=\[0.5,0.1\] must be \[lowest,highest\]"),
        ({"aspect": (0.0, 1.0)}, "aspect"),
        ({"hue": 0.7}, "hue"),
        ({"magnitude": 31}, "magnitude"),
        ({"cut": "crops"}, "cut"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)
