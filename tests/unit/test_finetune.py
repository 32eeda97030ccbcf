"""Fine-tuning one subnet, and what training costs on a machine of which little was measured."""

import numpy as np
import pytest

from supernet.surrogates import training_cost
from supernet.surrogates.training_cost import Steps, StepTime
from supernet.training import measured_accuracy
from supernet.training.finetune import FineTuning, energy_kwh, fine_tune
from supernet.training.train import processes
from supernet.weights import network


def test_fine_tuning_from_the_supernet_and_from_scratch(trained_folder):
    trained, images = network.load(trained_folder), measured_accuracy.images_of(trained_folder)
    genome = network.smallest(trained.space)
    with processes() as group:
        none = fine_tune(trained, images, genome, FineTuning(epochs=0), group)
        some = fine_tune(trained, images, genome, FineTuning(epochs=3, batch=32), group)
        scratch = fine_tune(
            trained, images, genome, FineTuning(epochs=1, batch=32, from_scratch=True, distil=False), group
        )
        again = fine_tune(
            trained, images, genome, FineTuning(epochs=1, batch=32, from_scratch=True, distil=False), group
        )
    assert none.after == none.before == some.before
    assert none.hours == 0
    assert some.after > some.before
    assert some.hours == pytest.approx(sum(some.epoch_seconds) / 3600)
    assert len(some.epoch_seconds) == 3
    assert scratch.after < some.before
    assert scratch.loss == again.loss
    fresh = network.load(trained_folder)  # the supernet is left as it was
    for (name, a), b in zip(
        fresh.module.state_dict().items(), trained.module.state_dict().values(), strict=True
    ):
        assert (a == b).all(), name
    assert energy_kwh(2.0, 65.0) == pytest.approx(0.13)


def test_adapting_step_times_from_three_measurements():
    """A machine whose steps are exactly scaled is found; one with other proportions is met halfway."""
    rng = np.random.default_rng(0)
    low, high = np.array([5e5, 1e6, 2e5]), np.array([2e6, 9e6, 5e5])
    steps = Steps(*rng.uniform(low, high, (10, 3)).T, np.full(10, 64.0))
    base = StepTime(1.0, 40.0, 3.0, 0.2, relative_std=0.1)

    def ms(step, rows):
        return step.ms(steps.take(rows))

    def adapted(times, rows):
        return training_cost.fit(steps.take(rows), times, base)

    few, rest = slice(3), slice(3, 10)
    same = adapted(7 * ms(base, few), few)
    assert ms(same, rest) == pytest.approx(7 * ms(base, rest), rel=1e-6)
    truth = StepTime(0.5, 200.0, 3.0, 0.1, relative_std=0.0)
    error = np.abs(ms(adapted(ms(truth, few), few), rest) / ms(truth, rest) - 1).mean()
    factor = np.median(ms(truth, few) / ms(base, few))
    plain = np.abs(factor * ms(base, rest) / ms(truth, rest) - 1).mean()
    assert error < 0.5 * plain
