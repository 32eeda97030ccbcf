"""What `weights=` may name: checkpoints, published supernets and their mirrors, repositories, run folders."""

import hashlib
import json

import numpy as np
import pytest
import torch
from checkpoints import SPACES, server, write_checkpoint, write_photos
from safetensors.torch import save_file

from supernet.registry import load as load_node
from supernet.training.measured_accuracy import SupernetAccuracy
from supernet.weights import network
from supernet.weights.image_sources import imagenet_wnids
from supernet.weights.images import ImageSet
from supernet.weights.origins import checkpoint, hub, origin, published
from supernet.weights.origins.published import Published


@pytest.fixture
def folder_of(tmp_path):
    """Options of images in a folder."""

    def options(root, **others):
        node = load_node("data", "folder") | {"root": root, "val": 4, "calibration": 16, **others}
        node.pop("_target_")
        return ImageSet(**node)

    return options


@pytest.mark.parametrize("name", SPACES)
def test_a_checkpoint_tells_its_space_by_its_shapes(name, tmp_path):
    path = tmp_path / "checkpoint.pth"
    module = write_checkpoint(path, name)
    trained = origin.load(str(path))
    assert trained.space.name == name
    assert trained.facts["classes"] == 1000
    assert trained.facts["labels"] == list(imagenet_wnids())
    own = module.state_dict()
    assert own.keys() == trained.module.state_dict().keys()
    assert all((own[key] == tensor).all() for key, tensor in trained.module.state_dict().items())


def test_tensors_without_pickle_and_with_other_wrappers(tmp_path):
    """The same weights as `.safetensors`, under the names of a network trained on several GPUs."""
    module = write_checkpoint(tmp_path / "checkpoint.pth", "ofa_mbv3_w1.0")
    state = {f"module.{name}": tensor.contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors")
    names = ("checkpoint.pth", "weights.safetensors")
    one, other = (origin.load(str(tmp_path / name)).module.state_dict() for name in names)
    assert all((one[key] == tensor).all() for key, tensor in other.items())


def test_wrong_checkpoints_are_refused_in_a_line(tmp_path):
    path = tmp_path / "checkpoint.pth"
    state = write_checkpoint(path, "ofa_mbv3_w1.2").state_dict()
    whole = path.read_bytes()
    with pytest.raises(ValueError, match=r"^the weights in .* are of ofa_mbv3_w1\.2, not of ofa_mbv3_w1\.0$"):
        checkpoint.load(path, space="ofa_mbv3_w1.0")
    refused = {
        "truncated or no checkpoint": whole[:20_000],
        "truncated or no checkpoint.*": b"<html>moved</html>",
    }
    for message, content in refused.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"^[^\n]*{message}[^\n]*$"):
            origin.load(str(path))
    for content, message in (
        ({"state_dict": torch.nn.Linear(2, 2)}, "read safely"),  # an object: could run anything
        ({"state_dict": dict(list(state.items())[:-2])}, "473 tensors that are the weights of none"),
        ({"weight": torch.zeros(2, 2)}, "1 tensors that are the weights of none .*no classifier"),
        ({"state_dict": {}}, "holds no weights"),
        ([1, 2], "holds no weights"),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=f"^[^\n]*{message}[^\n]*$"):
            origin.load(str(path))
    (tmp_path / "half.safetensors").write_bytes(whole[:100])
    with pytest.raises(ValueError, match=r"half\.safetensors is damaged"):
        origin.load(str(tmp_path / "half.safetensors"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(published.CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def only(monkeypatch, mirrors):
    monkeypatch.setattr(published, "PUBLISHED", (Published("ofa_test", "ofa_mbv3_w1.0", mirrors),))


def test_a_published_file_comes_from_the_first_mirror_that_has_it_and_only_once(cache, monkeypatch):
    content = b"weights" * 1000
    right = hashlib.sha256(content).hexdigest()
    files = {
        "/other": b"something else",
        "/page": b"<html>sign in</html>",
        "/cut": content,
        "/whole": content,
    }
    changed = {"/page": {"Content-Type": "text/html; charset=utf-8"}, "/cut": {"Content-Length": "9000"}}
    with server(files, changed) as (base, asked):
        order = ["/absent", "/other", "/page", "/cut", "/whole", "/never"]
        only(monkeypatch, {base + path: right for path in order})
        path = origin.find("ofa_mbv3_w1.0")
        assert asked == order[:-1]
        assert origin.find("ofa_test") == path == cache / "ofa_test"
        assert asked == order[:-1]
    assert path.read_bytes() == content
    assert [file.name for file in cache.iterdir()] == ["ofa_test"]
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=f"expected {right}: it is not the published file"):
        origin.find("ofa_test")


def test_mirrors_that_do_not_answer_are_named_with_the_place_for_the_file(cache, monkeypatch):
    with server({"/wrong": b"other"}, {}) as (base, _):
        only(monkeypatch, {f"{base}/absent": None, f"{base}/wrong": "0" * 64, "http://127.0.0.1:9/x": None})
        message = r"^ofa_test was not downloaded .*404.*; .*expected 000.*; .*[Rr]efused.*put it at .*ofa_t"
        with pytest.raises(ValueError, match=message) as refused:
            origin.load("ofa_test")
    assert "\n" not in str(refused.value)
    assert not cache.exists() or not list(cache.iterdir())


def test_published_names_are_known_and_misspelt_ones_get_the_nearest():
    assert {one.space for one in published.PUBLISHED} == set(SPACES)
    assert published.find("ofa_mbv3_d234_e346_k357_w1.2") is published.find("ofa_mbv3_w1.2")
    with pytest.raises(ValueError, match=r"no folder, no file .*Did you mean 'ofa_resnet50'"):
        origin.load("ofa_resnet5")


def test_a_repository_gives_its_file(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    write_checkpoint(tmp_path / "own.pth", SPACES[0])
    content = (tmp_path / "own.pth").read_bytes()
    commit, etag = "1" * 40, hashlib.sha256(content).hexdigest()
    tree = [{"type": "file", "path": path, "size": 1, "oid": "2" * 40} for path in ("own.pth", "README.md")]
    listing = json.dumps(tree).encode()
    files = {f"/me/nets/resolve/{revision}/own.pth": content for revision in ("main", commit, "v1")}
    asking = "?recursive=true&expand=false"
    files |= {f"/api/models/me/nets/tree/{revision}{asking}": listing for revision in ("main", "v1")}
    headers = {path: {"ETag": f'"{etag}"', "X-Repo-Commit": commit} for path in files if "resolve" in path}
    headers |= {path: {"Content-Type": "application/json"} for path in files if path.startswith("/api")}
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with server(files, headers) as (base, asked):
        monkeypatch.setattr(constants, "ENDPOINT", base)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", base)  # made with the usual one
        template = base + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        for name in ("hf:me/nets", "me/nets", "hf:me/nets@v1", "hf:me/nets/own.pth@v1"):
            assert origin.find(name).read_bytes() == content, name
        with pytest.raises(ValueError, match=r"^hf:me/absent is no file or folder here, and no weights came"):
            origin.find("hf:me/absent")
    assert asked


def test_which_file_of_a_repository():
    assert hub.choose(["a.pth", "supernet.safetensors", "x.safetensors"], "hf:a/b") == "supernet.safetensors"
    assert hub.choose(["ofa_supernet_resnet50", "README.md"], "hf:a/b") == "ofa_supernet_resnet50"
    with pytest.raises(ValueError, match=r"several files .*give hf:a/b/1\.pth@v2 or hf:a/b/2\.pth@v2"):
        hub.choose(["1.pth", "2.pth"], "hf:a/b@v2")
    with pytest.raises(ValueError, match=r"no file with weights .* only README\.md"):
        hub.choose(["README.md"], "hf:a/b")
    assert not hub.is_repository("tests/mine")  # a folder `tests` is here: a typo, not a repository
    assert not hub.is_repository("/abs/olute")


def test_weights_and_images_must_belong_together(tmp_path, folder_of):
    write_checkpoint(tmp_path / "own.pth", SPACES[0])
    trained = origin.load(str(tmp_path / "own.pth"))
    photos = write_photos(tmp_path / "photos")
    images = origin.images("own.pth", trained, folder_of(photos))
    wnids = imagenet_wnids()
    assert {wnids[label] for label in images.labels} == {path.name for path in (photos / "val").iterdir()}
    assert images.classes == wnids
    assert not images.in_memory
    (photos / "val" / wnids[5]).rename(photos / "val" / "cat")
    (photos / "train" / wnids[5]).rename(photos / "train" / "cat")
    with pytest.raises(ValueError, match=r"'cat' are none of 1000 from 'n01440764' to"):
        origin.images("own.pth", trained, folder_of(photos))
    with pytest.raises(ValueError, match=r"^own\.pth needs data="):
        origin.images("own.pth", trained, None)


def test_a_run_folder_on_other_images(trained_folder, tmp_path, folder_of):
    trained = origin.load(str(trained_folder))
    own = origin.images(str(trained_folder), trained, None)
    digits = ImageSet(source="digits", resolution=(16, 20), val=50, augment="none", flip=False)
    other = origin.images(str(trained_folder), trained, digits)
    assert other.mean == pytest.approx(own.mean)
    assert len(other.parts["val"]) == 50
    with pytest.raises(ValueError, match="are not those of the weights"):
        origin.images(str(trained_folder), trained, folder_of(write_photos(tmp_path / "photos")))


def test_what_measures_accuracy_needs_weights_and_images(trained_folder):
    with pytest.raises(ValueError, match=r"please give evaluator\.weights="):
        SupernetAccuracy()
    with pytest.raises(ValueError, match=r"please give evaluator\.weights="):
        SupernetAccuracy(weights="runs/mine", folder=trained_folder)
    with pytest.raises(ValueError, match=r"ofa_mbv3_w1\.0 needs data="):  # before anything is downloaded
        SupernetAccuracy(weights="ofa_mbv3_w1.0")
    older = SupernetAccuracy(folder=trained_folder)  # the name until release 0.2
    assert older.facts == SupernetAccuracy(weights=str(trained_folder)).facts
    assert older.place == trained_folder


def test_untrained_weights_name_their_space():
    trained = origin.load("random:compofa_fixed")
    assert (trained.space.name, trained.sha256) == ("ofa_mbv3_w1.0", "random:ofa_mbv3_w1.0")
    again = origin.load("random:ofa_mbv3_w1.0").module.state_dict()
    assert all((a == again[name]).all() for name, a in trained.module.state_dict().items())
    with pytest.raises(ValueError, match="names no space"):
        origin.load("random")
    with pytest.raises(ValueError, match="please give architecture"):
        origin.subnet("random", None)
    with pytest.raises(ValueError, match="please give architecture"):
        origin.subnet("ofa_mbv3_w1.0", None)


def test_results_are_kept_in_the_run_folder_or_under_the_name(tmp_path):
    assert origin.folder(str(tmp_path)) == tmp_path
    assert origin.folder(str(tmp_path / network.FILE)) == tmp_path
    for name in ("ofa_mbv3_w1.0", "ofa_mbv3_d234_e346_k357_w1.0"):
        assert str(origin.folder(name)) == "runs/ofa_mbv3_d234_e346_k357_w1.0"
    (tmp_path / "mine.pth.tar").touch()
    assert str(origin.folder(str(tmp_path / "mine.pth.tar"))) == "runs/mine"
    assert str(origin.folder("hf:me/nets@v1")) == "runs/hf-me-nets-v1"


def test_photos_are_seen_as_the_authors_test_them(tmp_path, folder_of):
    """Resize and crop of `ofa`'s ImagenetDataProvider (torchvision's transforms), at each side."""
    import math

    from PIL import Image
    from torchvision import transforms

    rng = np.random.default_rng(1)
    root = tmp_path / "photos"
    for wnid, size in zip(imagenet_wnids()[:2], ((301, 200), (163, 377)), strict=True):
        for part in ("train", "val"):
            (root / part / wnid).mkdir(parents=True)
            for i in range(4):
                Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(
                    root / part / wnid / f"{i}.png"
                )
    images = folder_of(root, val=2).load(photos=True)
    for side in (128, 180, 224):
        theirs = transforms.Compose(
            [transforms.Resize(math.ceil(side / 0.875)), transforms.CenterCrop(side), transforms.ToTensor(),
             transforms.Normalize(images.mean, images.std)]
        )  # fmt: skip
        (ours, _), *_ = images.batches("test", side, 8)
        expected = [theirs(images.source[row]()) for row in images.parts["test"]]
        assert torch.allclose(ours, torch.stack(expected), atol=1e-6), side


def test_a_random_network_is_of_the_named_space():
    with pytest.raises(ValueError, match="is of another space than weights=random:ofa_small"):
        origin.subnet("random:ofa_small", "ofa_mbv3_w1.0 r128 d2-2-2-2-2 k33-33-33-33-33 e33-33-33-33-33 ft0")


def test_published_weights_without_images_are_refused_before_a_download(monkeypatch):
    monkeypatch.setattr(published, "fetch", None)
    with pytest.raises(ValueError, match="needs data="):
        origin.subnet("ofa_mbv3_w1.0", "ofa_mbv3_w1.0 r128 d2-2-2-2-2 k33-33-33-33-33 e33-33-33-33-33 ft0")


def test_a_folder_that_is_deployed_in_int8_is_not_judged_as_fp32(tmp_path):
    subnet = origin.subnet("random", "ofa_small r16 d1-1-1 k3-3-3 e2-2-2 ft0")
    subnet.with_facts(precision="int8").save(tmp_path / "subnet.safetensors")
    with pytest.raises(ValueError, match="is deployed in int8"):
        origin.find_any(str(tmp_path))
