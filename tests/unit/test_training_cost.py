"""Training cost against the formula written out."""

from dataclasses import replace

import numpy as np
import pytest

from supernet import registry
from supernet.layers import Heads, LayerBuilder
from supernet.space import get_space
from supernet.surrogates import training_cost
from supernet.surrogates.training_cost import Steps, TrainingCost


@pytest.mark.parametrize("name", ["ofa_mbv3_w1.0", "ofa_proxyless_w1.3", "ofa_resnet50", "compofa_elastic"])
def test_hours_are_epochs_times_images_times_seconds(name, rng):
    space = get_space(name)
    genomes = space.sample(200, rng)
    table = space.layers(genomes)
    step = training_cost.fitted()["resnet" if "resnet" in name else "mobile"]
    ms = (
        step.per_mega_activation * 4 * table.layer_activations().sum(axis=1) / 4e6
        + step.per_giga_mac * table.macs() / 1e9
        + step.per_mega_param_over_batch * table.params() / 1e6 / 64
        + step.floor
    )
    epochs = space.column(genomes, "finetune_epochs")
    hours = TrainingCost(images=1000, batch=64).hours(space, genomes)
    assert np.allclose(hours.mean, epochs * 1000 * ms / 3.6e6)
    assert np.allclose(hours.std, step.relative_std * hours.mean)
    assert (hours.mean[epochs == 0] == 0).all()


def test_other_gpus_are_scaled_and_less_certain(rng):
    space = get_space("ofa_mbv3_w1.0")
    genomes = space.sample(50, rng)
    base, faster = TrainingCost().hours(space, genomes), TrainingCost(gpu="rtx_4090").hours(space, genomes)
    ratio = (1008 / 936.2) ** 0.85 * (82.58 / 35.58) ** 0.15
    assert np.allclose(base.mean, faster.mean * ratio)
    paid = base.mean > 0
    assert (faster.std[paid] / faster.mean[paid] > base.std[paid] / base.mean[paid]).all()


def test_energy_and_price_follow_from_hours(rng):
    space = get_space("ofa_mbv3_w1.0")
    genomes = space.sample(20, rng)
    cost = TrainingCost(usd_per_hour=2.0, power_overhead=1.2)
    hours = cost.hours(space, genomes).mean
    assert np.allclose(cost.usd(space, genomes).mean, 2 * hours)
    assert np.allclose(cost.kwh(space, genomes).mean, 0.350 * 1.2 * hours)
    assert np.allclose(TrainingCost(watts=65).kwh(space, genomes).mean, 0.065 * hours)
    facts = cost.describe(space)
    assert facts["recipe"] == "fine-tuning on 1,281,167 images, batch 256, on rtx_3090"
    assert "30 h per deployment over 40" in facts["shared, not in the objective"]


@pytest.mark.parametrize("name", ["ofa_small", "compofa_elastic", "ofa_mbv3_w1.0_int8"])
def test_a_teacher_adds_a_third_of_a_step_of_the_largest_network(name, rng):
    """Against layer tables; a teacher has no share in the terms of parameters and floor."""
    space = get_space(name)
    genomes = space.sample(20, rng)
    largest = get_space(space.owner.name).extremes()[1:].repeat(20, axis=0)
    sides = space.owner.axis("r").values
    largest[:, space.owner.index["r"]] = [1 + sides.index(side) for side in space.column(genomes, "r")]
    tables = [space.layers(genomes), space.owner.layers(largest)]
    own, its = (table.layer_activations().sum(axis=1) for table in tables)
    steps = Steps.from_genomes(space, genomes, 64, teacher=1 / 3)
    assert steps.activations == pytest.approx(own + its / 3)
    assert steps.macs == pytest.approx(tables[0].macs() + tables[1].macs() / 3)
    assert (steps.params == tables[0].params()).all()
    plain, distilled = TrainingCost(), TrainingCost(distil=True)
    extra = distilled.hours_per_epoch(space, genomes) - plain.hours_per_epoch(space, genomes)
    step = training_cost.fitted()["mobile"]
    ms = (step.per_mega_activation * its / 1e6 + step.per_giga_mac * tables[1].macs() / 1e9) / 3
    assert extra == pytest.approx(ms * 1_281_167 / 3.6e6)


def test_fit_recovers_known_coefficients(rng):
    sizes = rng.uniform(1e6, 2e7, 200), rng.uniform(1e8, 1e9, 200), rng.uniform(2e6, 9e6, 200)
    steps = Steps(*sizes, rng.choice([128.0, 256.0, 512.0], 200))
    activations, macs, params = sizes
    ms = 0.05 * activations / 1e6 + 0.2 * macs / 1e9 + 1.5 * params / 1e6 / steps.batch + 0.03
    found = training_cost.fit(steps, ms)
    assert found.ms(steps) == pytest.approx(ms)
    assert found.per_mega_activation == pytest.approx(0.05)
    assert found.per_giga_mac == pytest.approx(0.2)
    assert found.per_mega_param_over_batch == pytest.approx(1.5)
    assert found.floor == pytest.approx(0.03)
    assert found.relative_std == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(gpu="note10"), "no training speed"),
        (dict(images=0), r"images\n.*greater than 0"),
        (dict(gpu="h100"), "Did you mean 'h100_"),
    ],
)
def test_senseless_recipes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainingCost(**options)


def test_families_of_architectures():
    assert training_cost.family_of("tf_efficientnet_b1") == "mobile"
    assert training_cost.family_of("resnet50d") == "resnet"
    assert training_cost.family_of("vit_base_patch16_224") == "transformer"
    assert training_cost.family_of("convnext_tiny") == "other"


def test_a_space_has_the_family_of_its_layers():
    """Attention, depthwise convolutions or neither."""
    families = {name: training_cost.family_of_space(get_space(name)) for name in registry.names("space")}
    assert families.pop("ofa_resnet50") == families.pop("nasbench201") == "resnet"
    assert set(families.values()) == {"mobile"}
    space = get_space("fbnet")

    def layers(space, genomes):
        build = LayerBuilder(len(genomes), np.full(len(genomes), 4))
        build.transformer(8, 16, Heads(2, 4))
        return build.table()

    assert training_cost.family_of_space(replace(space, make_layers=layers)) == "transformer"


@pytest.mark.parametrize("text", [None, "NaN", "-1", "1e999", "true", '"a"', "[" * 100_000])
def test_a_step_file_with_anything_but_numbers_is_refused_by_name(tmp_path, text):
    step, path = training_cost.fitted()["mobile"], tmp_path / "step.json"
    training_cost.save_step(path, step)
    if text is None:
        assert training_cost.load_step(path) == step
        return
    path.write_text(path.read_text().replace(f'"floor": {step.floor}', f'"floor": {text}'))
    with pytest.raises(ValueError, match=r"step\.json holds no measured training step"):
        TrainingCost(step_file=path)
