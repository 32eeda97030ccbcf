"""The network: its forward pass, what it learns, files, fine-tuning."""

from dataclasses import replace

import numpy as np
import pytest

from latency.data import LatencyData
from latency.descriptors import roofline_ms
from latency.perceptron import Mlp, Training
from latency.predictors import interface, mlp, neural
from latency.predictors.mlp import Rows
from latency.predictors.neural import FineTune, Neural
from latency.scores import scores
from latency.target import Target, gpu
from latency.zoo import catalogue
from supernet import registry
from supernet.device import Device
from supernet.space import SearchSpace, get_space

SHORT = Training(epochs=15, batch=32, learning_rate=4e-3)
SMALL = Neural(hidden=(32, 32), training=SHORT)


def measured(n: int, name: str = "2080ti_b64_w1.0", seed: int = 0) -> LatencyData:
    """n latencies of a shipped target at one resolution of arXiv 2101.00732."""
    target = catalogue.target(name)
    genomes = s1_space().sample(n, np.random.default_rng(seed))
    ms = catalogue.predictor(name).predict(genomes, target).mean
    return LatencyData(target, genomes, ms, np.full(n, np.nan))


def s1_space() -> SearchSpace:
    """The space at a resolution that its `s1` encoding knows."""
    return get_space("ofa_mbv3_w1.0").restrict("r", 224, 224)


def test_forward_pass_is_that_of_torch(rng):
    import torch

    network = Mlp.random((7, 5, 3, 1), rng)
    layers = []
    for weights, bias in network.layers:
        layer = torch.nn.Linear(*weights.shape)
        layer.weight.data, layer.bias.data = torch.tensor(weights.T.copy()), torch.tensor(bias)
        layers += [layer, torch.nn.ReLU()]
    x = rng.normal(size=(20, 7)).astype(np.float32)
    wanted = torch.nn.Sequential(*layers[:-1])(torch.tensor(x))[:, 0].detach().numpy()
    assert np.allclose(network(x), wanted, atol=1e-5)


def test_a_network_learns_a_linear_function_and_weights_of_rows_count(rng):
    x = rng.normal(size=(400, 4)).astype(np.float32)
    y = x @ np.array([1.0, -2.0, 0.5, 0.0])
    wrong = np.r_[y[:200], -y[200:]]  # the second half lies
    start = Mlp.random((4, 32, 1), rng)
    options = dict(training=Training(epochs=60, batch=32, learning_rate=1e-2, loss="mse"), rng=rng)
    honest = mlp.train(start, Rows(x, y), **options)
    trusted = mlp.train(start, Rows(x, wrong, np.r_[np.ones(200), np.zeros(200)]), **options)
    deceived = mlp.train(start, Rows(x, wrong), **options)
    error = [float(np.abs(network(x) - y).mean()) for network in (honest, trusted, deceived)]
    assert error[0] < 0.1
    assert error[1] < 0.3
    assert error[2] > 0.7


def test_only_the_head_moves(rng):
    x, y = rng.normal(size=(64, 3)), rng.normal(size=64)
    start = Mlp.random((3, 8, 1), rng)
    tuned = mlp.train(start, Rows(x, y), training=SHORT, rng=rng, only_head=True)
    assert (tuned.layers[0][0] == start.layers[0][0]).all()
    assert (tuned.layers[1][0] != start.layers[1][0]).any()


def test_divergence_is_an_error(rng):
    x, y = rng.normal(size=(64, 3)), 1e6 * rng.normal(size=64)
    steep = Training(epochs=5, learning_rate=1e6, optimiser="sgd", loss="mse", schedule="constant")
    with pytest.raises(ValueError, match="lower learning_rate"):
        mlp.train(Mlp.random((3, 8, 1), rng), Rows(x, y), training=steep, rng=rng)


def test_shapes_that_do_not_follow_are_refused():
    with pytest.raises(ValueError, match="no network"):
        Mlp.restored(
            {
                "weight0": np.zeros((3, 4)),
                "bias0": np.zeros(4),
                "weight1": np.zeros((5, 1)),
                "bias1": np.zeros(1),
            }
        )


def test_s1_encoding_is_128_inputs_with_zeros_for_absent_blocks():
    space = s1_space()
    shallow = space.parse([space.format(space.sample(200, np.random.default_rng(1)))[0]])
    x = neural.encode(space, shallow, "s1")
    blocks = int(sum(space.column(shallow, f"d{s}")[0] for s in range(5)))
    assert x.shape == (1, 128)
    assert x[0, :60].sum() == x[0, 60:120].sum() == blocks
    assert x[0, 120:].argmax() == (224 - 112) // 16
    between = get_space("ofa_mbv3_w1.0").restrict("r", 164, 164).sample(1, np.random.default_rng(0))
    with pytest.raises(ValueError, match="112, 128"):
        neural.encode(space, between, "s1")


def test_resolutions_between_knots_are_interpolated():
    space = get_space("ofa_mbv3_w1.0")
    genome = space.restrict("r", 160, 160).sample(1, np.random.default_rng(0))
    moved = np.repeat(genome, 3, axis=0)
    moved[:, space.index["r"]] = [space.axis("r").values.index(r) + 1 for r in (160, 168, 176)]
    low, middle, high = neural.encode(space, moved, "one_hot")
    assert np.allclose(middle, (low + high) / 2)


def test_fit_predicts_better_than_the_mean_and_reports_honest_intervals():
    data, test = measured(400), measured(200, seed=1)
    fitted = SMALL.fit(data)
    found = scores(fitted.predict(test.genomes, test.target), test.ms)
    assert found["mape"] < 5
    assert (
        found["mape"]
        < 0.5
        * scores(
            registry.build(registry.load("learner", "constant")).fit(data).predict(test.genomes, test.target),
            test.ms,
        )["mape"]
    )
    assert 75 <= found["coverage_90"] <= 100
    assert (
        fitted.predict(test.genomes, test.target).mean
        == SMALL.fit(data).predict(test.genomes, test.target).mean
    ).all()


def test_save_and_load_give_the_same_predictions(tmp_path):
    fitted = SMALL.fit(measured(100))
    fitted.save(tmp_path / "net.safetensors")
    loaded = interface.load(tmp_path / "net.safetensors")
    genomes = measured(50, seed=2).genomes
    assert (loaded.predict(genomes, fitted.target).mean == fitted.predict(genomes, fitted.target).mean).all()
    assert loaded.relative_std == fitted.relative_std
    assert interface.suffix(loaded) == ".safetensors"
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes((tmp_path / "net.safetensors").read_bytes()[:-100])
    with pytest.raises(ValueError, match="left as it is"):
        interface.load(damaged)


def test_too_few_rows_and_other_targets_are_refused():
    with pytest.raises(ValueError, match="at least 20"):
        SMALL.fit(measured(10))
    fitted = SMALL.fit(measured(60))
    with pytest.raises(ValueError, match="was fitted for"):
        fitted.predict(measured(3).genomes, catalogue.target("p40_b64_w1.0"))
    other = get_space("ofa_mbv3_w1.0").restrict("r", 128, 128).sample(2, np.random.default_rng(0))
    with pytest.raises(ValueError, match="is known for resolutions"):
        fitted.predict(other, fitted.target)


def test_fine_tuning_moves_a_network_to_another_gpu_and_leaves_the_base_alone():
    """All layers beat the line alone with 200 samples; ten samples beat a new head (arXiv 2101.00732)."""
    base = Neural(hidden=(64, 64), training=replace(SHORT, epochs=40)).fit(measured(1500))
    before = base.network.layers[0][0].copy()
    few, many = measured(10, "p40_b64_w1.0", 3), measured(200, "p40_b64_w1.0", 4)
    test = measured(300, "p40_b64_w1.0", 5)

    def error(tuned: neural.NeuralLatency) -> float:
        return scores(tuned.predict(test.genomes, test.target), test.ms)["mape"]

    ten = base.adapt(few)
    assert error(ten) < 6
    assert error(FineTune().tune(base, many)) < error(ten)
    head = FineTune(layers="head")
    assert error(ten) < error(head.tune(base, few))
    assert (base.network.layers[0][0] == before).all()
    with pytest.raises(ValueError, match="at least 3"):
        base.adapt(few.take(slice(0, 2)))


def of_gpus(inputs: str, **options) -> neural.NeuralLatency:
    """A small network of the 2080 Ti and the P40, whose batches are alike."""
    how = replace(SMALL, inputs=inputs, **options)
    return how.fit_many([measured(300), measured(300, "p40_b64_w1.0")])


def parameters(**figures) -> Target:
    """A GPU of which only figures are known."""
    return gpu(figures, space="ofa_mbv3_w1.0", batch=64)


@pytest.mark.parametrize(("inputs", "width"), [("raw", 3), ("logarithms", 3), ("physical", 0)])
def test_several_gpus_share_a_network(inputs, width, tmp_path):
    """It tells them apart, its file says the same, and another GPU has wider intervals than a known one."""
    scaled = {"training": replace(SHORT, learning_rate=1e-3)} if inputs == "raw" else {}
    fitted = of_gpus(inputs, **scaled)
    assert fitted.network.inputs == neural.encode(s1_space(), measured(1).genomes, "one_hot").shape[1] + width
    fitted.save(tmp_path / "gpus.safetensors")
    loaded = interface.load(tmp_path / "gpus.safetensors")
    for name in ("2080ti_b64_w1.0", "p40_b64_w1.0"):
        data = measured(300, name)
        mine = loaded.at(data.target)
        assert scores(mine.predict(data.genomes, data.target), data.ms)["mape"] < (
            20 if inputs == "raw" else 8
        )
        assert np.allclose(fitted.at(data.target).ms(data.genomes), mine.ms(data.genomes))
        assert mine.relative_std == fitted.stds[0]
    other = parameters(cores=5000, ram_gb=16, bandwidth_gbs=700)
    away = loaded.at(other).predict(measured(5).genomes, other)
    assert away.std == pytest.approx(fitted.stds[1] * away.mean)
    assert fitted.stds[1] > fitted.stds[2] > fitted.stds[0]
    assert away.shared[:, 0] == pytest.approx(
        fitted.stds[2] * away.mean
    )  # its factor is that of all networks
    assert loaded.at(other).at(data.target).predict(data.genomes, data.target).shared is None
    assert set(fitted.facts["gpus_left_out"]) == {"rtx_2080ti", "tesla_p40"}


def test_a_network_over_the_roofline_is_as_fast_as_the_gpu():
    """Twice the cores and twice the bandwidth take half as long, but for the launches of the layers."""
    fitted, genomes = of_gpus("physical"), measured(20).genomes
    slow = fitted.at(parameters(cores=4352, ram_gb=11, bandwidth_gbs=600, fp32_tflops=13)).ms(genomes)
    fast = fitted.at(parameters(cores=8704, ram_gb=11, bandwidth_gbs=1200, fp32_tflops=26)).ms(genomes)
    assert (slow / fast > 1.6).all()
    assert (slow / fast < 2).all()


def test_a_roofline_is_what_the_data_sheet_promises():
    """A GPU of 500 GB/s, 10 TFLOPS and 100 with tensor cores, at batch 8, by the layers of three networks."""
    genomes, figures = measured(3).genomes, {"cores": 4000, "ram_gb": 8, "bandwidth_gbs": 500}
    target = replace(parameters(**figures, fp32_tflops=10, tensor_tflops=100), batch=8)
    layers = s1_space().layers(genomes)
    macs, launches = layers.macs(), layers.live.sum(axis=1)
    numbers = 4 * 8 * layers.layer_activations().sum(axis=1) + layers.params()
    fp32 = 4 * numbers / 500e6 + 8 * macs / 5e9 + 0.01 * launches
    amp = 2 * numbers / 500e6 + 8 * macs / 50e9 + 0.01 * launches
    assert roofline_ms(target, genomes) == pytest.approx(fp32)
    assert roofline_ms(replace(target, precision="amp"), genomes) == pytest.approx(amp)


def test_a_network_of_gpus_moves_to_another_one_by_samples():
    """Fifteen samples of a GPU three times as slow as its data sheet says."""
    fitted = of_gpus("physical")
    slow = parameters(cores=4352, ram_gb=11, bandwidth_gbs=616)
    data = measured(60)
    data = replace(data, target=slow, ms=3 * data.ms)
    moved = fitted.at(slow).adapt(data.take(slice(0, 15)))
    assert scores(moved.predict(data.genomes, slow), data.ms)["mape"] < 8
    with pytest.raises(ValueError, match="was fitted for"):  # it is no longer one of several GPUs
        moved.at(parameters(cores=5000, ram_gb=16, bandwidth_gbs=700))


def test_what_a_network_of_gpus_cannot_say_is_refused():
    fitted = of_gpus("logarithms")
    figures = {"cores": 5000, "ram_gb": 16, "bandwidth_gbs": 700}
    with pytest.raises(ValueError, match="seen batches of 64, not of 32"):
        fitted.at(replace(parameters(**figures), batch=32))
    with pytest.raises(ValueError, match=r"space ofa_mbv3_w1\.0, not ofa_mbv3_w1\.2"):
        fitted.at(replace(parameters(**figures), space="ofa_mbv3_w1.2"))
    with pytest.raises(ValueError, match="does not state its cores, ram_gb, bandwidth_gbs"):
        fitted.at(replace(parameters(**figures), device=Device("mine", "mine", "gpu", "nobody")))
    with pytest.raises(ValueError, match="two GPUs at least"):
        SMALL.fit_many([measured(30), measured(30)])
    p40 = measured(30, "p40_b64_w1.0")
    in_int8 = replace(p40, target=replace(p40.target, precision="int8"))
    with pytest.raises(ValueError, match="share all but device and batch"):
        SMALL.fit_many([measured(30), in_int8])
    with pytest.raises(ValueError, match="leave target=gpu"):
        SMALL.fit(measured(30)).at(parameters(**figures))


def test_a_new_head_learns_from_few_samples_as_the_authors_train_it():
    """`learner=fine_tune learner.layers=head` on a base in milliseconds, as `learner=s1` leaves one.

    With a rate of 1e-3 and no momentum the head of the P40, 2.7 times as slow, hardly leaves its start.
    """
    base = replace(registry.get("learner", "s1"), hidden=(64, 64)).fit(measured(600))
    head = registry.get("learner", "fine_tune", layers="head")
    test = measured(300, "p40_b64_w1.0", 5)

    def error(how: FineTune) -> float:
        tuned = how.tune(base, measured(20, "p40_b64_w1.0", 3))
        assert np.allclose(tuned.network.layers[0][0], base.network.layers[0][0])
        return scores(tuned.predict(test.genomes, test.target), test.ms)["mape"]

    assert error(head) < 10
    assert error(replace(head, head=replace(head.head, learning_rate=1e-3, momentum=0.0))) > 20


def test_the_options_of_the_other_way_to_fine_tune_are_refused():
    short = Training(epochs=3)
    with pytest.raises(ValueError, match="layers=head is trained as head"):
        FineTune(layers="head", training=short)
    with pytest.raises(ValueError, match="layers=all is trained as training"):
        FineTune(head=short)
