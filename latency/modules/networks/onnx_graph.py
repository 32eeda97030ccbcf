"""The modules of a network in an ONNX file: its operators as layers, then the rules of `tracing`.

Shapes are those of `onnx.shape_inference`; where a network computes them, ONNX Runtime folds its constants
first. Nothing is run.

Letters: m modules.
"""

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from latency.modules.kinds.module_kind import Module
from latency.modules.networks import tracing
from supernet import extras

# Operators and the tensor functions that work as they do; the others have a rule below.
SAME_AS = """
    Relu relu, Clip clamp, HardSwish hardswish, HardSigmoid hardsigmoid, Sigmoid sigmoid, Gelu gelu, Silu
    silu, Swish silu, Softmax softmax, LogSoftmax log_softmax, Tanh tanh, LeakyRelu leaky_relu, PRelu
    prelu, Elu elu, Selu selu, Softplus softplus, Mish mish, Erf erf, Exp exp, BatchNormalization
    batch_norm, Add add, Sub sub, LayerNormalization layer_norm, GroupNormalization group_norm,
    InstanceNormalization instance_norm, RMSNormalization rms_norm, LRN local_response_norm, Mul mul, Div
    div, Sum add, Concat cat, Pad pad, Transpose permute, Resize interpolate, Upsample interpolate,
    DepthToSpace pixel_shuffle, Tile tile, SpaceToDepth pixel_unshuffle, Gather gather, GatherND gather,
    GatherElements gather, Where where, TopK topk, GlobalAveragePool adaptive_avg_pool2d, GlobalMaxPool
    adaptive_max_pool2d, ReduceMean mean, ReduceSum sum, ReduceMax amax, ReduceMin amin, ReduceL2 sum,
    ArgMax argmax, MaxPool max_pool2d, AveragePool avg_pool2d, Conv conv2d, ConvTranspose
    conv_transpose2d, MatMul matmul, Gemm linear, Einsum einsum
"""
FUNCTIONS: dict[str, str] = dict(pair.split() for pair in SAME_AS.split(","))
FREE = """
    Cast CastLike Constant ConstantOfShape Dropout EyeLike Expand Flatten Identity Range Reshape Shape Size
    Slice Split Squeeze Unsqueeze
"""
LARGE = 256  # numbers of a constant that is no shape
# A product with such a function of the same tensor is one activation.
GATED = dict(Sigmoid="Silu", HardSigmoid="HardSwish")


def modules(path: Path, shape: Sequence[int] | None = None) -> tuple[list[Module], tuple[int, ...]]:
    """The m modules of an ONNX file for one image, in the order they run, and the shape of its input.

    `shape` fills what the file leaves open. ValueError that names the operator for one with weights that no
    module kind covers, and for control flow.
    """
    extras.require(f"model={path}", ["onnx"])
    import onnx

    model = onnx.load(path, load_external_data=False)
    entry = _fixed(model.graph, shape)
    _without_weights(model.graph)
    try:
        graph = _Graph(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph)
        if not graph.complete:
            folded = onnx.load_from_string(_folded(model))
            graph = _Graph(onnx.shape_inference.infer_shapes(folded, data_prop=True).graph)
    except onnx.shape_inference.InferenceError as error:
        raise ValueError(f"{path} is no valid ONNX model: {error}") from error
    recorder = tracing.Recorder(graph.tensor(entry.name))
    for node in graph.nodes():
        recorder.names[-1] = node.name or node.output[0]
        if not graph.is_free(node):
            recorder.record(*graph.call(node))
        elif node.op_type not in ("Shape", "Size"):  # whose results do not depend on the image
            recorder.record("view", graph.tensors(node.input), {}, graph.tensors(node.output), 0.0)
    return tracing.combined(recorder.layers), tuple(graph.tensor(entry.name).shape[1:])


def _fixed(graph: Any, shape: Sequence[int] | None) -> Any:
    """The input of a graph, its open sizes filled: one image of a shape."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise ValueError(f"a network with one input is needed, this one has {len(inputs)}: {names}")
    sizes = inputs[0].type.tensor_type.shape.dim
    wanted = (1, *(shape or [size.dim_value for size in sizes[1:]]))
    if len(wanted) != len(sizes) or not all(wanted):
        told = "x".join(str(size.dim_value or "?") for size in sizes[1:])
        raise ValueError(
            f"the file takes inputs of {told}: please give input=CxHxW with as many sizes, as 3x224x224"
        )
    for size, value in zip(sizes, wanted, strict=True):
        if size.dim_value > 1 and size.dim_value != value:
            raise ValueError(f"the file takes only {size.dim_value} where input= says {value}")
        size.dim_value = value
    for value in (*graph.output, *graph.value_info):  # what was said of them may be of another batch
        value.type.tensor_type.ClearField("shape")
    return inputs[0]


def _without_weights(graph: Any) -> None:
    """Large constants become inputs of their shape: shapes do not depend on them."""
    import onnx

    large = [tensor for tensor in graph.initializer if math.prod(tensor.dims) > LARGE]
    known = {value.name for value in graph.input}
    small = [tensor for tensor in graph.initializer if math.prod(tensor.dims) <= LARGE]
    del graph.initializer[:]
    graph.initializer.extend(small)
    graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in large
        if tensor.name not in known
    )


def _folded(model: Any) -> bytes:
    """The model with what does not depend on its inputs computed."""
    extras.require("an ONNX model that computes its shapes", ["onnxruntime"])
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return Path(options.optimized_model_filepath).read_bytes()


class _Graph:
    """The operators of a graph as calls on meta tensors of the inferred shapes."""

    def __init__(self, graph: Any) -> None:
        made = {name for node in graph.node for name in node.output}
        self._nodes = [  # without those that a weight of several layers goes through
            node for node in graph.node if node.op_type != "Identity" or node.input[0] in made
        ]
        typed = (*graph.input, *graph.value_info, *graph.output)
        self._shapes = {each.name: _shape(each) for each in typed}
        self._shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        self._tensors: dict[str, torch.Tensor] = {}
        self._makers = {name: node for node in self._nodes for name in node.output}

    @property
    def complete(self) -> bool:
        """Whether all shapes are known."""
        return all(self._shapes.get(name) is not None for node in self._nodes for name in node.output if name)

    def tensor(self, name: str) -> torch.Tensor:
        """The meta tensor of a value; ValueError where its shape is not known."""
        if name not in self._tensors:
            shape = self._shapes.get(name)
            if shape is None:
                raise ValueError(
                    f"onnx cannot infer the shape of {name}: export the network for a fixed input"
                )
            self._tensors[name] = torch.empty(shape, device="meta")
        return self._tensors[name]

    def tensors(self, names: Sequence[str]) -> list[torch.Tensor]:
        return [self.tensor(name) for name in names if name and self._shapes.get(name) is not None]

    def nodes(self) -> list[Any]:
        """The operators in their order, activations of several operators as one."""
        users: dict[str, list[Any]] = {}
        for node in self._nodes:
            for name in node.input:
                users.setdefault(name, []).append(node)
        gone: set[int] = set()
        for node in self._nodes:
            if node.op_type == "Mul" and len(node.input) == 2:
                for gate, other in (node.input, reversed(node.input)):
                    maker = self._makers.get(gate)
                    if maker and maker.op_type in GATED and maker.input[0] == other and len(users[gate]) == 1:
                        gone.add(id(maker))
                        node.op_type, node.input[:] = GATED[maker.op_type], [other]
                        break
            elif node.op_type == "Erf":
                gone |= self._as_gelu(node, users)
        return [node for node in self._nodes if id(node) not in gone]

    def _as_gelu(self, erf: Any, users: Mapping[str, Any]) -> set[int]:
        """x / 2 (1 + erf(x / root 2)), in any order of its factors, as one operator; the others are gone."""
        makers = self._makers
        scaled = makers.get(erf.input[0])
        if scaled is None or scaled.op_type not in ("Mul", "Div"):
            return set()
        image = scaled.input[0] if scaled.input[0] in makers else scaled.input[1]
        chain, last = [scaled, erf], erf
        while len(users.get(last.output[0], ())) == 1 and len(chain) < 5:
            after = users[last.output[0]][0]
            if after.op_type not in ("Add", "Mul"):
                break
            halves = [makers[name] for name in after.input if name != last.output[0] and name in makers]
            chain += [half for half in halves if half.op_type == "Mul" and image in half.input]
            chain.append(after)
            last = after
        if [node.op_type for node in chain].count("Mul") < 2:
            return set()
        last.op_type, last.input[:] = "Gelu", [image]
        return {id(node) for node in chain if node is not last}

    def is_free(self, node: Any) -> bool:
        """Whether an operator moves nothing: a view, one entry of an axis, the bias of a linear layer."""
        if node.op_type == "Gather":
            return math.prod(self._shapes.get(node.input[1]) or ()) == 1
        if node.op_type == "Add":
            made = [self._makers[name] for name in node.input if name in self._makers]
            biases = [name for name in node.input if name not in self._makers]
            linear = [maker.op_type for maker in made] == ["MatMul"]
            return linear and len(self._shapes.get(biases[0]) or (0, 0)) == 1
        return node.op_type in FREE.split()

    def call(self, node: Any) -> tuple[str, list[Any], dict[str, Any], Any, float]:
        """An operator as a tensor function: name, arguments, named ones, result, multiply-accumulates."""
        name = FUNCTIONS.get(node.op_type)
        if name is None and (any(a.type in (5, 10) for a in node.attribute) or self._has_weights(node)):
            raise ValueError(
                f"no module kind covers the operator {node.op_type} ({node.name}) of this network"
            )
        attributes = {a.name: list(a.ints) or a.i for a in node.attribute}
        args: list[Any] = self.tensors(node.input)
        result = self.tensor(node.output[0])
        named: dict[str, Any] = {}
        if node.op_type in ("Conv", "ConvTranspose"):
            strides = attributes.get("strides", 1)
            args = [*args[:2], None, strides, None, None, attributes.get("group", 1)]
        elif node.op_type in ("MaxPool", "AveragePool"):
            named = dict(kernel_size=attributes["kernel_shape"], stride=attributes.get("strides", 1))
        elif node.op_type.startswith("Reduce"):
            lost = [i for i, (a, b) in enumerate(zip(args[0].shape, result.shape, strict=False)) if a != b]
            args, named = args[:1], dict(dim=attributes.get("axes") or lost)
        return name or node.op_type, args, named, result, self._macs(node, args, result)

    def _has_weights(self, node: Any) -> bool:
        """Whether an operator has constants of two dimensions or more."""
        return any(name not in self._makers and len(self._shapes.get(name) or ()) > 1 for name in node.input)

    def _macs(self, node: Any, args: Sequence[Any], result: torch.Tensor) -> float:
        if node.op_type == "Conv":
            return float(result.numel() * math.prod(args[1].shape[1:]))
        if node.op_type == "ConvTranspose":
            return float(args[0].numel() * math.prod(args[1].shape[1:]))
        if node.op_type == "MatMul":
            return float(result.numel() * args[0].shape[-1])
        if node.op_type == "Gemm":
            return math.sqrt(args[0].numel() * args[1].numel() * result.numel())
        if node.op_type == "Einsum":
            terms = node.attribute[0].s.decode().split("->")[0].replace(" ", "").split(",")
            sizes = {
                letter: size
                for term, tensor in zip(terms, args, strict=True)
                for letter, size in zip(term, tensor.shape, strict=True)
            }
            contracted = set(sizes) - set(node.attribute[0].s.decode().split("->")[-1])
            return float(math.prod(sizes.values())) if contracted else 0.0
        return 0.0


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape of a value where all of it is known."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(size.HasField("dim_value") for size in tensor.shape.dim):
        return None
    return tuple(size.dim_value for size in tensor.shape.dim)
