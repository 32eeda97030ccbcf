"""How long a training step takes on this machine: steps of `finetune.train_alone` itself, timed.

So the images are loaded and augmented, the teacher answers, and the device is the one that a fine-tuning
would run on. Letters: n subnets.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from supernet.arrays import Floats, Genomes
from supernet.files import run_folder
from supernet.surrogates import training_cost
from supernet.surrogates.training_cost import FORWARD, Steps, StepTime
from supernet.training import finetune
from supernet.training.finetune import FineTuning, train_alone
from supernet.training.step import alone
from supernet.weights import network
from supernet.weights import subnet as subnets
from supernet.weights.images import Images
from supernet.weights.network import Trained

SUBNETS = 8  # that are timed; a step time has four coefficients
WORK = ("batch", "forward_batch", "distil", "norms", "amp")  # what of a recipe a step's time depends on
STEPS, VISITS = 4, 3  # timed steps of a visit, after as many that warm up; visits of each subnet, in turns
STANDING = 1e-9  # rate of timed steps: norms that are not calibrated could let others diverge
DRIFT = 0.10  # relative deviation of a machine's speed from one sitting to another (our assumption)


@dataclass(frozen=True, eq=False)
class Workplace:
    """What a fine-tuning takes place with: the supernet, its images, the recipe (whatever its epochs)."""

    trained: Trained
    images: Images
    recipe: FineTuning

    @property
    def facts(self) -> dict[str, Any]:
        """Everything that the time of a step depends on besides the subnet."""
        recipe = asdict(self.recipe)
        settings = asdict(self.images.settings)
        environment = run_folder.environment()
        device = network.best_device()
        return {
            "space": self.trained.space.name,
            "recipe": {name: recipe[name] for name in WORK},
            "images": {
                name: settings[name] for name in ("source", "resolution", "augment", "flip", "workers")
            },
            "processor": environment["processor"],
            "torch": torch.__version__,
            "device": "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
        }

    @property
    def images_of_an_epoch(self) -> int:
        """Training images that fill whole batches; the others are left out of an epoch."""
        count, batch = len(self.images.parts["train"]), self.recipe.batch
        return count // batch * batch

    def step_file(self, folder: Path, genomes: Genomes) -> Path:
        """The file of `training_cost.save_step` in a folder that says what steps of these subnets (n, d) took
        on this machine; times them where it is not there yet."""
        key = hashlib.sha256(json.dumps(self.facts, sort_keys=True, default=str).encode()).hexdigest()
        path = folder / f"training_step-{key[:12]}.json"
        if not path.exists():
            training_cost.save_step(path, self.step_time(genomes))
        return path

    def step_time(self, genomes: Genomes) -> StepTime:
        """The step time fitted on these subnets (n, d), timed now.

        `relative_std` holds the errors on subnets left out of the fit, and the drift of the machine.
        """
        share = FORWARD if self.recipe.distil != "none" else 0.0
        steps = Steps.from_genomes(self.trained.space, genomes, self.recipe.batch, teacher=share)
        ms = self._time(self.trained.space.format(genomes))
        left_out = training_cost.left_out_error(steps, ms, np.arange(len(ms)))
        std = float(np.hypot(np.sqrt(np.mean(left_out**2)), DRIFT))
        return replace(training_cost.fit(steps, ms), relative_std=std, teacher=share)

    def _time(self, names: Sequence[str]) -> Floats:
        """(n,) ms per image of a training step, the median of the visits."""
        rows = self.images.parts["train"][: STEPS * self.recipe.batch]
        few = replace(self.images, parts={**self.images.parts, "train": rows})
        seconds = np.empty((VISITS, len(names)))
        with threadpool_limits(1):  # hours are of one CPU thread, or of the GPU
            for visit in range(VISITS):
                for i, name in enumerate(names):
                    seconds[visit, i] = self._visit(name, few)
        return 1000 * np.median(seconds, axis=0) / (len(rows) // self.recipe.batch * self.recipe.batch)

    def _visit(self, name: str, few: Images) -> float:
        """Seconds of an epoch of few images, after one that warms up."""
        subnet = subnets.from_supernet(self.trained, few, name, calibrate=False)
        largest = network.largest(self.trained.space.restrict("r", subnet.side, subnet.side))
        teacher = None
        if self.recipe.distil == "largest":
            teacher = self.trained.extract(largest).eval()  # uncalibrated: only its time counts
        elif self.recipe.distil != "none":
            teacher = finetune.teacher(self.recipe.distil, self.trained, few, subnet.side)
        recipe = replace(self.recipe, epochs=2, rate=STANDING)
        return train_alone(subnet, few, recipe, alone(), teacher=teacher)[0][1]
