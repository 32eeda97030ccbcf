"""Networks by what a command line calls them: an ONNX file, a model of a library, a function, a subnet.

Letters: m modules.
"""

import importlib
import inspect
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latency.modules.kinds import module_kind
from latency.modules.kinds.module_kind import Module
from latency.modules.networks import classifiers, onnx_graph, tracing
from latency.modules.networks.measured import modules_of
from supernet import extras, registry
from supernet.space import get_space
from supernet.weights import network as subnets

USUAL_INPUT = (3, 224, 224)
MODULES = {"torchvision": "torchvision.models", "timm": "timm"}  # of libraries of models


@dataclass(frozen=True)
class Network:
    """A network as its m modules, for one input of `shape` (without batch).

    `code` is the network itself; None for an ONNX file.
    """

    name: str
    modules: tuple[Module, ...]
    shape: tuple[int, ...]
    code: torch.nn.Module | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.modules:
            raise ValueError(f"model={self.name} has nothing that takes time: give another network")

    @property
    def macs(self) -> float:
        """Multiply-accumulates of one input."""
        return self._sum("macs", self.modules)

    def macs_in(self, kinds: Sequence[str]) -> float:
        """Those in modules of these kinds."""
        return self._sum("macs", [module for module in self.modules if module.kind in kinds])

    @property
    def params(self) -> float:
        """Weights, as the modules have them."""
        return self._sum("params", self.modules)

    def _sum(self, cost: str, modules: Sequence[Module]) -> float:
        total = 0.0
        for module in modules:
            kind = module_kind.named(module.kind)
            row = np.array([[module.inputs[name] for name in kind.inputs]])
            total += float(getattr(kind.work(row), cost)[0])
        return total


def network(word: str, shape: Sequence[int] | None = None) -> Network:
    """The network that a word stands for, on inputs of `shape`, or on those of its own.

    FILE.onnx; torchvision:NAME or timm:NAME; MODULE:FUNCTION, a function of Python without arguments that
    returns a torch.nn.Module; the one-line name of an architecture of an OFA space. The code of a library or
    a module is run. ValueError for anything else, and for what cannot be traced.

    >>> network("torchvision:resnet18").macs
    1814073344.0
    """
    source, colon, name = word.partition(":")
    if word.split(" ")[0] in registry.names("space"):
        return _of_space(word)
    if word.endswith(".onnx"):
        if not Path(word).is_file():
            raise ValueError(f"model={word}: no such file; give one")
        modules, own = onnx_graph.modules(Path(word), shape)
        return Network(Path(word).name, tuple(modules), own)
    if not colon or not name or not source:
        raise ValueError(
            f"model={word} is no network: give FILE.onnx, torchvision:NAME, timm:NAME, MODULE:FUNCTION or "
            "the one-line name of an architecture"
        )
    library = source in MODULES
    built, own = _of_library(source, name) if library else (_of_function(source, name), USUAL_INPUT)
    shape = tuple(shape or own)
    try:
        traced = tuple(tracing.modules(built, shape))
    except ValueError as error:
        error.add_note(f"mend model={word}, or give another input=")
        raise
    return Network(name if library else word, traced, shape, built)


def _of_space(word: str) -> Network:
    """A subnet by its one-line name, with random weights."""
    space = get_space(word.split(" ")[0])
    genome = space.parse([word])
    torch.manual_seed(0)
    code = subnets.extract(subnets.supernet(space), space, genome)
    side = subnets.resolution(space, genome)
    return Network(word, modules_of(word), (3, side, side), code)


def _of_library(library: str, name: str) -> tuple[torch.nn.Module, tuple[int, ...]]:
    """A model of a library with random weights, and the input it was made for."""
    extras.require(f"model={library}:{name}", [library])
    models: Any = importlib.import_module(MODULES[library])
    if name not in (names := models.list_models()):
        raise registry.unknown_name(f"model of {library}", name, names)
    make = partial(_torchvision, name) if library == "torchvision" else partial(models.create_model, name)
    try:
        with torch.device("meta"):  # no weights are drawn
            built = make()
    except (NotImplementedError, RuntimeError):  # a model that computes with its weights when it is made
        built = make()
    if library == "timm":
        config: Any = built.default_cfg
        return built, tuple(config["input_size"])
    best = models.get_model_weights(name).DEFAULT.transforms()
    side = int(best.crop_size[0]) if hasattr(best, "crop_size") else USUAL_INPUT[-1]
    return built, (3, side, side)


def _torchvision(name: str) -> torch.nn.Module:
    """A model without weights, also without those of its backbone, and without side outputs."""
    models = classifiers.library()
    options: dict[str, Any] = {"weights": None}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        options["weights_backbone"] = None
    if name in classifiers.SLOW:
        options |= classifiers.SLOW_OPTIONS
    model: torch.nn.Module = models.get_model(name, **options)
    return model


def _of_function(module: str, function: str) -> torch.nn.Module:
    """What a function of the user's own returns; modules in the working directory count."""
    word = f"model={module}:{function}"
    sys.path.insert(0, "")
    try:
        build = getattr(importlib.import_module(module), function, None)
        made = build() if callable(build) else None
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{word}: {error}; libraries are {', '.join(MODULES)}, a module of yours must be importable from "
            "here"
        ) from error
    except (Exception, SystemExit) as error:  # whatever code of the user does
        line = tracing.own_line(traceback.extract_tb(error.__traceback__), __file__)
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"{word} fails, {line}: {said}; mend it") from error
    finally:
        sys.path.remove("")
    if not callable(build):
        raise ValueError(f"{word}: {module} has no function {function}; give one that is there")
    if not isinstance(made, torch.nn.Module):
        raise ValueError(f"{word} returns a {type(made).__name__}: it must return a torch.nn.Module")
    if isinstance(made, torch.jit.ScriptModule):
        raise ValueError(
            f"{word} returns a compiled torch.jit module, which cannot be traced: return the torch.nn.Module "
            "that it was made of, or give an ONNX file"
        )
    return made
