"""Images for supernets: parts, batches, sources, and errors that say what is wrong."""

import numpy as np
import pytest
import torchvision  # noqa: F401  # its import-time warnings, if any, belong to no test
from PIL import Image

from supernet.weights.images import Epoch, ImageSet, check_mixed, training_batches

DIGITS = {"source": "digits", "resolution": (16, 24), "val": 200}


@pytest.fixture(scope="module")
def digits():
    return ImageSet(**DIGITS, train_images=600).load()


def draw_folder(root, *, classes=("cat", "dog"), count=6, sizes=((20, 20),), parts=("train", "test")):
    """PNG images of noise whose first pixel tells their class."""
    rng = np.random.default_rng(0)
    for part in parts:
        for label, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                width, height = sizes[i % len(sizes)]
                pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
                pixels[0, 0] = 10 * label
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root


def test_parts_are_disjoint_stratified_and_fixed_by_the_seed(digits):
    parts = digits.parts
    assert {part: len(rows) for part, rows in parts.items()} == {
        "train": 600,
        "val": 200,
        "calibration": 600,
        "test": 449,
    }
    assert not {*parts["train"]} & {*parts["val"]}
    assert not {*parts["train"], *parts["val"]} & {*parts["test"]}
    assert {*parts["calibration"]} <= {*parts["train"]}
    for part in ("train", "val", "test"):
        counts = np.bincount(digits.labels[parts[part]], minlength=10)
        share = np.bincount(digits.labels, minlength=10) * len(parts[part]) / len(digits.labels)
        assert np.abs(counts - share).max() <= 2
    again = ImageSet(**DIGITS, train_images=600).load()
    other = ImageSet(**DIGITS, train_images=600, split_seed=1).load()
    assert all((again.parts[part] == parts[part]).all() for part in parts)
    assert (other.parts["test"] != parts["test"]).any()


def test_two_processes_share_the_images_of_one(digits):
    epoch = Epoch(seed=3, number=5, batch=64, forward_batch=32, sides=(16, 20, 24))
    whole = list(training_batches(digits, epoch))
    halves = [list(training_batches(digits, epoch, rank=rank, world=2)) for rank in (0, 1)]
    assert len(whole) == 2 * (600 // 64)
    for i, (pixels, labels) in enumerate(whole):
        other_pixels, other_labels = halves[i % 2][i // 2]
        assert (pixels == other_pixels).all()
        assert (labels == other_labels).all()
    assert {pixels.shape[-1] for pixels, _ in whole} == {16, 20, 24}
    steps = [pixels.shape[-1] for pixels, _ in whole]
    assert steps[::2] == steps[1::2]  # one side per step
    assert all(pixels.shape[1:] == (3, side, side) for (pixels, _), side in zip(whole, steps, strict=True))


def test_an_epoch_shows_each_image_once_and_epochs_differ(digits):
    plans = [training_batches(digits, Epoch(3, number, 64, 32, sides=(16,))).plan for number in (0, 1)]
    rows = [np.concatenate([batch.rows for batch in plan]) for plan in plans]
    assert len(np.unique(rows[0])) == len(rows[0]) == 576
    assert {*rows[0]} <= {*digits.parts["train"]}
    assert (rows[0] != rows[1]).any()


def test_normalised_and_unaugmented_where_it_is_not_training(digits):
    pixels = np.concatenate([p.numpy() for p, _ in digits.batches("train", 16, 100)])
    assert len(pixels) == 600
    assert np.allclose(pixels.mean(axis=(0, 2, 3)), 0, atol=1e-4)
    assert np.allclose(pixels.std(axis=(0, 2, 3), dtype=np.float64), 1, atol=1e-3)
    once, twice = (next(iter(digits.batches("test", 16, 50)))[0] for _ in range(2))
    assert (once == twice).all()
    assert sum(len(p) for p, _ in digits.batches("val", 16, 64, images=70)) == 70


def test_shift_moves_pictures_and_keeps_their_pixels():
    """Each augmented picture is the original moved by up to an eighth, with black around: found by search."""
    images = ImageSet(source="digits", resolution=(16, 16), flip=False, train_images=64, val=100).load()
    loader = training_batches(images, Epoch(0, 0, 32, 32, sides=(16,)))
    pixels, _ = next(iter(loader))
    rows = loader.plan[0].rows
    mean, std = (np.array(v).reshape(1, 3, 1, 1) for v in (images.mean, images.std))
    shown = pixels.numpy() * std + mean
    offsets = set()
    for picture, row in zip(shown, rows, strict=True):
        padded = np.pad(images.source[row] / 255, ((0, 0), (2, 2), (2, 2)))
        found = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if np.allclose(padded[:, y : y + 16, x : x + 16], picture, atol=1e-4)
        ]
        assert found
        offsets |= {found[0]}
    assert len(offsets) > 5


def test_folder_of_equal_images_is_decoded_once(tmp_path):
    root = draw_folder(tmp_path, count=8)
    images = ImageSet(source="folder", root=root, resolution=(16, 20), val=4, augment="none").load()
    assert images.classes == ("cat", "dog")
    assert images.in_memory
    assert [len(images.parts[part]) for part in ("train", "val", "test")] == [12, 4, 16]
    for part in images.parts:
        rows = images.parts[part]
        assert (images.source[rows][:, 0, 0, 0] == 10 * images.labels[rows]).all()


def test_few_images_are_held_out_of_few(tmp_path):
    """Of 135 images without a test part: a quarter for the test, a fifth of the others for validation."""
    root = draw_folder(tmp_path, classes=("cat", "dog", "owl"), count=45)
    flat = root / "train" if (root / "train").is_dir() else root
    images = ImageSet(source="folder", root=flat, resolution=(16, 16)).load()
    assert sum(len(rows) for rows in images.parts.values()) - len(images.parts["calibration"]) == 135
    assert [len(images.parts[part]) for part in ("test", "val", "train")] == [34, 20, 81]
    assert images.facts()["val"] == 20


@pytest.mark.parametrize("augment", ["none", "crop"])
def test_photos_of_several_sizes_are_decoded_batch_by_batch(tmp_path, augment):
    root = draw_folder(tmp_path, sizes=((40, 30), (31, 50)), count=6)
    given = dict(source="folder", root=root, resolution=(16, 24), val=2, augment=augment)
    images = ImageSet(**given).load()
    assert not images.in_memory
    epoch = Epoch(0, 0, 4, 4, sides=(24,))
    first = list(training_batches(images, epoch))
    assert all(pixels.shape == (4, 3, 24, 24) for pixels, _ in first)
    again = list(training_batches(images, epoch))
    assert all((a == b).all() for (a, _), (b, _) in zip(first, again, strict=True))
    assert sum(len(labels) for _, labels in images.batches("test", 16, 5)) == 12


def test_a_data_set_of_torchvision_by_name(tmp_path, monkeypatch):
    from torchvision import datasets

    class Tiny:
        """What SVHN looks like: parts by `split`, labels, items of (picture, label)."""

        classes = ("a", "b")

        def __init__(self, root, split="train", download=False):
            if not download:
                raise RuntimeError("Dataset not found")
            self.labels = np.arange(20 if split == "train" else 8) % 2

        def __len__(self):
            return len(self.labels)

        def __getitem__(self, row):
            return Image.new("L", (16, 16), int(100 * self.labels[row])), self.labels[row]

    monkeypatch.setattr(datasets, "SVHN", Tiny)
    given = dict(source="SVHN", root=tmp_path, resolution=(16, 16), val=4)
    images = ImageSet(**given, download=True).load()
    assert [len(images.parts[part]) for part in ("train", "val", "test")] == [16, 4, 8]
    assert (images.source[:, 0, 0, 0] == 100 * images.labels).all()
    with pytest.raises(ValueError, match=r"SVHN is not in .* data.download=true"):
        ImageSet(**given).load()


def test_errors_say_what_is_wrong(tmp_path):
    def folder(root, **options):
        return ImageSet(
            **{"source": "folder", "root": root, "resolution": (16, 16), "val": 2, **options}
        ).load()

    one = draw_folder(tmp_path / "one", classes=("cat",))
    with pytest.raises(ValueError, match=r"1 class\(es\) \(cat\).* at least two"):
        folder(one)
    small = draw_folder(tmp_path / "small", sizes=((12, 12),))
    with pytest.raises(ValueError, match=r"12 x 12 pixels, the stem allows 16"):
        folder(small)
    broken = draw_folder(tmp_path / "broken")
    whole = (broken / "train" / "dog" / "3.png").read_bytes()
    (broken / "train" / "dog" / "3.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"dog/3.png cannot be decoded as an image"):
        folder(broken)
    (broken / "train" / "dog" / "3.png").write_text("no image at all")
    with pytest.raises(ValueError, match=r"dog/3.png cannot be read as an image"):
        folder(broken)
    with pytest.raises(ValueError, match=r"is no folder"):
        folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"other classes than .*bird"):
        folder(
            draw_folder(
                draw_folder(tmp_path / "o", parts=("train",)), classes=("cat", "bird"), parts=("test",)
            )
        )
    with pytest.raises(ValueError, match=r"Did you mean 'CIFAR10'"):
        ImageSet(source="CIFAR11", root=tmp_path, resolution=(16, 16)).load()
    with pytest.raises(ValueError, match=r"needs data.root"):
        ImageSet(source="CIFAR10", resolution=(16, 16)).load()
    with pytest.raises(ValueError, match=r"at least 16"):
        ImageSet(source="digits", resolution=(8, 16))
    with pytest.raises(ValueError, match=r"leaves no training image"):
        ImageSet(source="digits", resolution=(16, 16), val=1500).load()


def test_a_calibration_batch_ordered_by_class_is_refused():
    even = np.full(10, 0.1)
    labels = np.random.default_rng(0).integers(0, 10, 1024)
    check_mixed(labels, even)
    with pytest.raises(ValueError, match=r"holds 1 class\(es\).*shuffle"):
        check_mixed(np.sort(labels)[:100], even)
    check_mixed(np.zeros(1, np.int64), even)  # one image can have one class only
    check_mixed(np.zeros(50, np.int64), np.array([0.999, 0.001]))  # and rare classes may be missing
