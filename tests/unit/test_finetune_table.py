"""The small form of the table of ways to fine-tune, on images of noise."""

import numpy as np
import pytest
from PIL import Image

from benchmarks import supernet


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of statistics of few images
def test_ways_to_fine_tune_are_compared(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for part, count in (("train", 100), ("test", 10)):
        for label in ("cat", "dog"):
            (tmp_path / "images" / part / label).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / part / label / f"{i}.png")
    options = supernet.Options(
        tmp_path / "out", tmp_path / "images", epochs=2, seeds=2, train_images=130, tuned_epochs=1, ways=2
    )
    supernet.finetune(options)
    table = capsys.readouterr().out.splitlines()
    rows = [line for line in table if line.startswith(("| frozen norms", "| no augmentation"))]
    assert len(rows) == 2
    assert "+-" in rows[1]
    assert (tmp_path / "out" / "finetune-1-epochs.json").exists()
    supernet.finetune(options)  # nothing is trained again
    assert [line for line in capsys.readouterr().out.splitlines() if "+-" in line] == rows[1:]
