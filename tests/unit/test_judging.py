"""`evaluate`: what subnets are judged on, how their norms are set, and what is kept."""

import json
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from supernet.files.tables import read_columns
from supernet.space import get_space
from supernet.training.accuracy_store import AccuracyStore
from supernet.training.evaluation import Evaluation, Judging, ofa_calibrated
from supernet.training.measured_accuracy import SupernetAccuracy
from supernet.training.step import Processes
from supernet.weights import network, quality
from supernet.weights import subnet as subnets
from supernet.weights.images import Images

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def names(trained_folder):
    space = get_space("ofa_small").restrict("r", 16, 20)
    rng = np.random.default_rng(3)
    return space.format(space.network(space.sample(3, rng)))


@pytest.fixture(scope="session")
def evaluation(trained_folder):
    trained, images = network.load(trained_folder), Images.from_run_folder(trained_folder)

    def make(group=Processes(0, 1, CPU), **options):  # noqa: B008 (frozen)
        return Evaluation(trained, trained.sha256, images, Judging(batch=100, **options), group)

    return make


def test_what_is_judged_is_what_the_definition_says(evaluation, names):
    judged = evaluation(part="val").judge(names[0])
    images = evaluation().data
    subnet = subnets.from_supernet(evaluation().source, images, names[0])
    with torch.no_grad():
        logits, labels = (
            torch.cat(parts)
            for parts in zip(
                *((subnet.module(x), y) for x, y in images.batches("val", subnet.side, 100)), strict=True
            )
        )
    assert judged.images == len(images.parts["val"]) == len(labels)
    assert judged.top1 == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    five = (logits.topk(5).indices == labels[:, None]).any(1)
    assert judged.top5 == pytest.approx(float(five.float().mean()), abs=1e-6)
    assert judged.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-5)


class Side(Processes):
    """One of several processes that run one after the other: what the others gather is known before."""

    shared: ClassVar[dict] = {}

    def gather(self, value):
        if isinstance(value, dict) and value and isinstance(next(iter(value)), int):
            self.shared[self.rank] = value
            return list(self.shared.values())
        return [value]


def test_processes_share_the_batches_and_change_nothing(evaluation, names, monkeypatch):
    """Rank 1 and 2 first; rank 0 then has everything, in another order of arrival."""
    alone = evaluation(part="all").judge(names[1])
    monkeypatch.setattr(Side, "shared", {})
    for rank in (2, 1):
        with pytest.raises(KeyError):  # the others' batches are not there yet
            evaluation(Side(rank, 3, CPU), part="all").judge(names[1])
    assert evaluation(Side(0, 3, CPU), part="all").judge(names[1]) == alone
    counts = [len(Side.shared[rank]) for rank in range(3)]
    assert max(counts) - min(counts) <= 1
    parts = evaluation().data.parts
    assert alone.images == sum(len(parts[part]) for part in ("train", "val", "test"))


def test_a_killed_evaluation_goes_on_and_judges_nothing_twice(evaluation, names, tmp_path, monkeypatch):
    asked = []
    real = Evaluation.judge

    def judge(self, name, tell=lambda batch, of: None):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(name)
        return real(self, name, tell)

    monkeypatch.setattr(Evaluation, "judge", judge)
    store = tmp_path / "store.sqlite"
    with pytest.raises(KeyboardInterrupt):
        evaluation().qualities(names, lambda: AccuracyStore(store))
    monkeypatch.setattr(Evaluation, "judge", lambda *args: asked.append(args[1]) or real(*args))
    told = []
    found = evaluation().qualities(
        [*names, names[0]], lambda: AccuracyStore(store), lambda *now: told.append(now)
    )
    assert asked == names
    assert list(found) == names
    assert told[-1][:2] == (len(told), len(told))
    again = evaluation().qualities(names, lambda: AccuracyStore(store))
    assert again == found
    assert asked == names
    assert evaluation(calibration="ofa").facts != evaluation().facts != evaluation(part="all").facts


def test_a_search_need_not_measure_what_was_judged(trained_folder, evaluation, names, tmp_path):
    """In the protocol of searches: the same setting in the same store."""
    store = tmp_path / "store.sqlite"
    judged = replace(evaluation(), judging=Judging(part="val"))
    quality = judged.qualities(names[:1], lambda: AccuracyStore(store))[names[0]]
    accuracy = SupernetAccuracy(weights=str(trained_folder), store=store)
    assert accuracy.facts == judged.facts
    accuracy.__dict__["trained"] = replace(accuracy.trained, module=None)  # cannot measure anything
    assert accuracy.measure(accuracy.trained.space.parse(names[:1]))[0] == quality.correct


def test_norms_as_the_authors_set_them(evaluation, names):
    """Mean of the batches' means, and of their biased variances, on augmented training crops."""
    data, trained = evaluation().data, evaluation().source
    subnet = ofa_calibrated(subnets.from_supernet(trained, data, names[0], calibrate=False), data, 0, CPU)
    again = evaluation(calibration="ofa").subnet(names[0])
    other = evaluation(calibration="ofa", seed=1).subnet(names[0])
    first = [one.module.first_conv.bn.running_mean for one in (subnet, again, other)]
    assert (first[0] == first[1]).all()
    assert (first[0] != first[2]).any()
    plain = evaluation().subnet(names[0])
    pictures = torch.cat([x for x, _ in data.batches("train", plain.side, 100)])
    with torch.no_grad():
        out = plain.module.first_conv.conv(pictures)
    shift = (first[0] - out.mean(dim=(0, 2, 3))).abs() / out.std(dim=(0, 2, 3))
    assert 0 < float(shift.max()) < 0.5  # crops of the same images: near, not the same
    with torch.no_grad():
        assert quality.runner(subnet.module)(pictures[:4].numpy()).shape == (4, 10)


def test_mixed_precision_is_another_setting(evaluation):
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    images = np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 3, 2, 2)
    full, half = (quality.runner(module, CPU, kind)(images) for kind in (None, torch.bfloat16))
    assert half.dtype == np.float32
    assert np.allclose(full, half, atol=0.02)
    assert (full != half).any()


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    from search.commands.judging import evaluate

    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr("sys.argv", ["evaluate", *words])
        capsys.readouterr()
        evaluate.main()
        return capsys.readouterr().out

    return run


def test_the_command_takes_names_in_files_and_writes_rows_for_fit(command, trained_folder, names, tmp_path):
    (tmp_path / "list.txt").write_text("\n".join(names[:2]) + "\n")
    fine_tuned = names[2].replace("ft0", "ft25")
    place = ["store=s.sqlite", "csv=rows.csv", "images=60"]
    out = command(f"weights={trained_folder}", f"architecture=[list.txt,'{fine_tuned}']", *place)
    assert "judged as they come out of the supernet (ft0)" in out
    assert "60 test images" in out
    rows = read_columns(tmp_path / "rows.csv")
    assert rows["architecture"].tolist() == names
    assert {"d0", "r", "macs", "top1", "top5", "loss", "ece"} <= set(rows)
    assert 'next: make fit ARGS="what=accuracy space=ofa_small rows=rows.csv column=top1"' in out
    out = command(f"supernet={trained_folder}", "architecture=rows.csv", "calibration=ofa", *place)
    assert "augmented training crops, as OFA" in out


def test_the_command_judges_a_saved_subnet_as_it_is(command, trained_folder, names, tmp_path):
    trained, images = network.load(trained_folder), Images.from_run_folder(trained_folder)
    subnets.from_supernet(trained, images, names[0]).save(tmp_path / "tuned" / subnets.FILE)
    (tmp_path / "tuned" / "config.yaml").write_text(json.dumps({"supernet": str(trained_folder)}))
    out = command("weights=tuned")
    assert "norms: as saved" in out
    stored = subnets.judge(subnets.load(tmp_path / "tuned"), images, "test")
    assert f"{100 * stored.top1:.2f}" in out
    with pytest.raises(SystemExit, match="leave architecture= out"):
        command("weights=tuned", f"architecture='{names[1]}'")


def test_wrong_words_of_the_command_are_one_line(command, trained_folder, tmp_path):
    for words, message in (
        ([], "please give weights="),
        (["weights=ofa_mbv3_w1.0"], "ofa_mbv3_w1.0 needs data="),
        ([f"weights={trained_folder}", "architecture='ofa_small r16'"], "cannot read the architecture"),
        ([f"weights={trained_folder}", "architecture=[]"], "names no network"),
        ([f"weights={trained_folder}", "calibration=theirs"], "calibration=theirs"),
    ):
        with pytest.raises(SystemExit, match=f"^error: [^\n]*{message}[^\n]*$"):
            command(*words)
