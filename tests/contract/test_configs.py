"""Every YAML file builds what it says, and every option can be set."""

import importlib
import inspect
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from latency.data import LatencyData
from latency.measuring.engine import build_engine
from latency.modules.kinds import module_kind
from latency.perceptron import Training
from latency.predictors import interface
from latency.predictors.neural import Neural
from latency.target import Target, gpu
from latency.zoo import catalogue
from search import command
from search.models import QUANTITIES
from search.searchers.nsga2 import NSGA2
from search.searchers.searcher import Searcher
from supernet import choices, device, registry
from supernet.extras import NotInstalledError
from supernet.space import SearchSpace, get_space
from supernet.surrogates import accuracy
from supernet.surrogates.training_cost import TrainingCost
from supernet.weights.images import ImageSet


@pytest.mark.parametrize("name", registry.names("space"))
def test_spaces_build(name):
    space = get_space(name)
    assert isinstance(space, SearchSpace)
    assert space.name == name


@pytest.mark.parametrize("name", catalogue.names())
def test_targets_build_and_have_a_predictor(name, rng):
    target = catalogue.target(name)
    assert isinstance(target, Target)
    assert target.name == name
    assert target.source
    assert target.licence
    predictor = catalogue.predictor(name)
    assert predictor.target == target
    low, high = predictor.resolutions
    space = get_space(target.space).restrict("r", low, high)
    predicted = predictor.predict(space.sample(20, rng), target)
    assert (predicted.mean > 0).all()
    assert (predicted.std > 0).all()


@pytest.mark.parametrize("name", registry.names("accuracy"))
def test_accuracy_surrogates_build(name):
    surrogate = registry.build(registry.load("accuracy", name))
    assert isinstance(surrogate, accuracy.AccuracySurrogate)
    assert surrogate.space == name


@pytest.mark.parametrize("name", registry.names("searcher"))
def test_searchers_build(name):
    searcher: Searcher = registry.build(registry.load("searcher", name))
    assert searcher.state() is not None


@pytest.mark.parametrize("name", registry.names("evaluator"))
def test_evaluators_build(name, tmp_path):
    """And load nothing before they are asked."""
    node = registry.complete(registry.load("evaluator", name))
    model = registry.build({**node, "folder": str(tmp_path)})
    with pytest.raises(ValueError, match=str(tmp_path)):
        model.predict(np.zeros((1, 3), np.int8))


@pytest.mark.parametrize("name", registry.names("device"))
def test_devices_build(name):
    assert device.get(name).name == name


def test_the_others_build():
    assert isinstance(registry.build(registry.load("training", "default")), TrainingCost)


@pytest.mark.parametrize("name", registry.names("learner"))
def test_learners_fit_and_predict(name, rng, tmp_path, modules_of):
    """From 24 measurements, whatever the method: positive latencies with an uncertainty, for each network the
    same in any order; adapting leaves a predictor alone but forgets no sample, and its file says the same."""
    target = catalogue.target("epyc_ort")
    space = get_space(target.space).restrict("r", 160, 224)
    genomes = space.network(space.sample(24, rng))
    if name in ("s1", "s1_gpus"):
        genomes[:, space.index["r"]] = space.levels[space.index["r"]]  # it knows steps of 16 pixels only
    ms = catalogue.predictor("epyc_ort").predict(genomes, target).mean
    data = LatencyData(target, genomes, ms, np.full(24, np.nan))
    node = registry.complete(registry.load("learner", name))
    if "training" in node:
        node["training"] |= {"epochs": 2, "batch": 8}
    if name == "fine_tune":
        node["base"] = str(tmp_path / "base.safetensors")
        Neural(training=Training(epochs=2)).fit(data).save(node["base"])
    if name == "modules":
        node["base"] = str(tmp_path / "base.npz")
        modules_of(target).save(node["base"])
    fitted = registry.build(node).fit(data)
    predicted = fitted.predict(genomes, target)
    assert (predicted.mean > 0).all()
    assert (predicted.std > 0).all()
    order = rng.permutation(24)
    assert np.allclose(fitted.predict(genomes[order], target).mean, predicted.mean[order], rtol=1e-5)
    assert fitted.facts["left_out_mape"] >= 0
    fitted.adapt(replace(data, ms=2 * ms))
    assert (fitted.predict(genomes, target).mean == predicted.mean).all()
    path = tmp_path / f"mine{interface.suffix(fitted)}"
    fitted.save(path)
    pairs = [(interface.load(path), fitted)]
    for batch in (1, 2):  # its own target and another one: two times three samples say what six say at once
        six = replace(
            data.take(slice(0, 6)), target=replace(target, batch=batch), ms=np.linspace(1.5, 2.5, 6) * ms[:6]
        )
        fitted.adapt(six.take(slice(0, 3))).save(path)
        pairs.append((interface.load(path).adapt(six.take(slice(3, 6))), fitted.adapt(six)))
    for again, expected in pairs:
        said, wanted = (each.predict(genomes, expected.target) for each in (again, expected))
        assert np.allclose(said.mean, wanted.mean, rtol=1e-5)
        assert np.allclose(said.std, wanted.std, rtol=1e-5)


@pytest.mark.parametrize("name", registry.names("module"))
def test_modules_build(name):
    assert module_kind.named(name).name == name


@pytest.mark.parametrize("name", registry.names("regressor"))
def test_regressors_build(name):
    learner = registry.build({k: v for k, v in registry.load("regressor", name).items() if k != "requires"})
    assert hasattr(learner, "fit_all" if name == "medn" else "fit")


@pytest.mark.parametrize("name", registry.names("table"))
def test_tables_build_with_views_of_their_axes(name):
    """And what makes them is declared in full: only a folder has to be given."""
    node = registry.load("table", name)
    fill = {"folder": "runs/mine", "data_dir": None}
    table = registry.build({key: fill.get(key, value) for key, value in node.items()})
    assert table.title
    assert table.note
    declared = {axis.name for axis in getattr(table, "axes", ())} or {"top1", *getattr(table, "timings", ())}
    for axes in (*table.views.values(), *table.devices.values()):
        assert set(axes) <= declared
    for timing in getattr(table, "timings", {}).values():
        assert timing.engine in registry.names("engine")


@pytest.mark.parametrize("name", registry.names("engine"))
def test_engines_say_what_they_need(name):
    node = registry.load("engine", name)
    assert node["requires"]
    try:
        engine = build_engine(name)
    except NotInstalledError as error:
        pytest.skip(str(error))
    assert (engine.precision, engine.threads) == ("fp32", 1)
    assert engine.version


def test_every_objective_can_be_limited_on_the_command_line():
    assert set(command.compose("search", [])["limits"]) == set(QUANTITIES)


@pytest.mark.parametrize(
    ("group", "node"),
    [
        ("searcher", {"_target_": "search.searchers.nsga2.NSGA2", "popsize": 3}),
        ("searcher", {"_target_": "search.searchers.nsga2.NSGA2", "population": "many"}),
        ("searcher", {"_target_": "search.searchers.noisy_nsga2.NoisyNSGA2", "select": "crowd"}),
        ("table", {"_target_": "search.ranking.timed_models.Torchvision", "timings": {}, "popsize": 3}),
        ("training", {"_target_": "supernet.surrogates.training_cost.TrainingCost", "gpu": "rtx_3091"}),
    ],
)
def test_misspelt_options_fail(group, node):
    with pytest.raises(Exception, match=r"popsize|population|select|rtx_3090"):
        registry.build(node)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["targt=v100_b64"], "Did you mean 'target'"),
        (["target=v100_b65"], "Did you mean 'v100_b64'"),
        (["searcher.popultion=3"], "Did you mean 'population'"),
        (["searcher=random", "searcher.population=3"], "Known: batch"),
        (["limits.param=3"], "Did you mean 'params'"),
        (["target=v100_b64", "target.batch=1"], "states a fact"),
        (["space=ofa_mbv3_w1.0", "space.width=1.2"], "states a fact"),
        (["target=v100_b64", "target.threads=1"], "states a fact"),
        (["target=gpu", "target.devise=t4"], "Did you mean 'device'"),
        (["target.batch=8"], "give target=... first"),
    ],
)
def test_misspelt_words_get_the_nearest(words, message):
    with pytest.raises(ValueError, match=message):
        command.compose("search", words)


def test_options_need_no_line_in_yaml():
    """They are those of the class, and the configuration of a run holds all of them."""
    assert set(registry.load("searcher", "nsga2")) == {"_target_"}
    words = ["searcher=nsga2", "searcher.population=50", "++searcher.mutation=0.1"]
    config = command.compose("search", [*words, "target=gpu", "target.device=t4"])
    assert config["searcher"] == registry.load("searcher", "nsga2") | {
        "population": 50,
        "crossover": NSGA2().crossover,
        "mutation": 0.1,
    }
    assert config["target"]["batch"] == inspect.signature(gpu).parameters["batch"].default
    assert config["training"]["usd_per_hour"] == TrainingCost().usd_per_hour


def test_parts_of_an_option_keep_the_defaults_of_its_class():
    node = {"_target_": "latency.predictors.neural.Neural", "training": {"epochs": 3}, "hidden": [8]}
    complete = registry.complete(node)
    assert complete["training"] == {**vars(Training()), "epochs": 3}
    assert complete["hidden"] == [8]
    assert complete["encoding"] == Neural().encoding


def test_names_of_release_0_1_are_found_where_they_moved():
    """Run folders of 0.1 have such nodes: configs/data/digits.yaml, as `make train` left it there."""
    node = {"_target_": "supernet.data.ImageSet", "source": "digits", "resolution": [16, 16], "root": None}
    assert registry.build(node) == ImageSet("digits", resolution=(16, 16))
    for module in registry.MOVED.values():
        importlib.import_module(module)


def test_what_is_gone_is_refused_with_its_name():
    with pytest.raises(ValueError, match=r"_target_=supernet\.data\.Pictures is not registered"):
        registry.build({"data": {"_target_": "supernet.data.Pictures"}})


FOREIGN = (
    "os.system",
    "builtins.eval",
    "subprocess.run",
    "shutil.rmtree",
    "runpy.run_path",
    "numpy.load",
    "torch.load",
    "hydra.utils.instantiate",
    "supernet.files.artifact.os.replace",
    "supernet.registry.sys.exit",
    "supernet.files.artifact.Path",
    "supernet.registry.FOLDER",
    "search.run.subprocess.run",
    "supernet.files.artifact.write_text",
    "supernet.registry.build",
    "latency.measuring.instruction_sets.restart_under",
    "supernet.weights.images.ImageSet.load",
    "supernet.device.Device ",
    "Device",
    ["os.system"],
    None,
)


@pytest.mark.parametrize("target", FOREIGN)
def test_nodes_build_nothing_of_python_or_of_installed_packages(target):
    """A configuration or run folder of somebody else must not run commands, nor write files with our own
    functions: what is built is registered under exactly this name."""
    said = re.escape(f"_target_={target} is not registered")
    for node in (
        {"_target_": target},
        {"axes": [{"_target_": target, "path": "absent"}]},
        ({"a": {"_target_": target}},),
    ):
        with pytest.raises(ValueError, match=said):
            registry.build(node)


def test_a_node_has_options_and_no_words_of_hydra():
    """Nothing is called with positional arguments, later, or by reference: nodes are not Hydra's."""
    node = {"_target_": "supernet.weights.images.ImageSet", "source": "digits", "resolution": [16, 16]}
    for word in ("_partial_", "_args_", "_recursive_", "_convert_"):
        with pytest.raises(ValueError, match=f"unknown option of supernet.weights.images.ImageSet '{word}'"):
            registry.build({**node, word: True})
    assert registry.build({**node, "root": "${oc.env:HOME}"}).root == Path("${oc.env:HOME}")
    with pytest.raises(ValueError, match=r"_target_=os\.system is no option of"):
        registry.get("learner", "maple", _target_="os.system")


def test_hydra_is_new_enough_to_refuse_what_its_own_nodes_must_not_run():
    """Launchers, sweepers and callbacks are built by Hydra, whose list of refused targets could be emptied
    by a node until 1.3.7 (CVE-2026-68508, CVE-2026-106439)."""
    needs = tomllib.loads((choices.FOLDER.parent / "pyproject.toml").read_text())["project"]["dependencies"]
    (bound,) = [need.partition(">=")[2] for need in needs if need.startswith("hydra-core")]
    assert [int(part) for part in bound.split(".")] >= [1, 3, 7]
    for target in ("os.system", "subprocess.run", "builtins.eval", "logging.os.system"):
        with pytest.raises(InstantiationException):
            instantiate({"_target_": target, "_args_": ["true"]})
