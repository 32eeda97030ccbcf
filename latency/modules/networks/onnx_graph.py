"""The modules of a network in an ONNX file: its operators as layers, then the rules of `tracing`.

Shapes are those of `onnx.shape_inference`; where a network computes them, ONNX Runtime folds its constants
first. Nothing is run.

Letters: m modules.
"""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from latency.modules.kinds.module_kind import Module
from latency.modules.networks import tracing
from supernet import extras
from supernet.files import artifact

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
MOST = 2**40  # numbers of a tensor
LONGEST = 300  # letters of an error of a library
# A product with such a function of the same tensor is one activation.
GATED = dict(Sigmoid="Silu", HardSigmoid="HardSwish")


def modules(path: Path, shape: Sequence[int] | None = None) -> tuple[list[Module], tuple[int, ...]]:
    """The m modules of an ONNX file for one image, in the order they run, and the shape of its input.

    `shape` fills what the file leaves open. ValueError that names the operator for one with weights that no
    module kind covers, and for control flow.
    """
    extras.require(f"model={path}", ["onnx"])
    import onnx

    with _valid(path):
        model = _read(path)
        weights = {tensor.name for tensor in model.graph.initializer}
        _without_weights(model.graph)
        if all(end.type.tensor_type.HasField("shape") for end in (*model.graph.input, *model.graph.output)):
            onnx.checker.check_model(model)  # which asks for shapes that nobody has to give
        entry = _fixed(model.graph, weights, shape, path)
        graph = _inferred(model)
        recorder = tracing.Recorder(graph.tensor(entry.name))
        for node in graph.nodes():
            recorder.names[-1] = node.name or node.output[0]
            if not graph.is_free(node):
                recorder.record(*graph.call(node))
            elif node.op_type not in ("Shape", "Size"):  # whose results do not depend on the image
                recorder.record("view", graph.tensors(node.input), {}, graph.tensors(node.output), 0.0)
        return tracing.combined(recorder.layers), tuple(graph.tensor(entry.name).shape[1:])


@contextmanager
def _valid(path: Path) -> Iterator[None]:
    """ValueError that names the file for whatever is wrong with it, in one line."""
    import onnx
    from google.protobuf.message import DecodeError

    damage = (DecodeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError)
    with artifact.usable(path, "ONNX network"):
        try:
            yield
        except damage as error:
            raise ValueError(f"{' '.join(str(error).split())[:LONGEST]}") from error


def _read(path: Path) -> Any:
    """The network of a file, checked; its weights may be elsewhere and are not read."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    known = onnx.defs.onnx_opset_version()
    for one in model.opset_import:
        if one.domain in ("", "ai.onnx") and not 0 < one.version <= known:
            raise ValueError(
                f"it is of opset {one.version}, the onnx installed here knows 1 to {known}: export it for one"
            )
    for tensor in model.graph.initializer:
        told = {entry.key: entry.value for entry in tensor.external_data}
        place = Path(told.get("location", "weights"))
        if place.is_absolute() or ".." in place.parts:
            raise ValueError(f"its weights {tensor.name} would be in {place}, outside of its folder")
        if min(tensor.dims, default=0) < 0 or math.prod(tensor.dims) > MOST:
            raise ValueError(f"its weights {tensor.name} are of the shape {[*tensor.dims]}")
    return model


def _inferred(model: Any) -> "_Graph":
    """The graph with its shapes."""
    import onnx

    graph = _Graph(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph)
    if graph.complete:
        return graph
    folded = onnx.load_from_string(_folded(model))
    return _Graph(onnx.shape_inference.infer_shapes(folded, data_prop=True).graph)


def _fixed(graph: Any, weights: Set[str], shape: Sequence[int] | None, path: Path) -> Any:
    """The input of a graph, its open sizes filled: one image of a shape."""
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise ValueError(f"{path} has {len(inputs)} inputs, one is needed: {names or 'give another'}")
    sizes = inputs[0].type.tensor_type.shape.dim
    wanted = (1, *(shape or [size.dim_value for size in sizes[1:]]))
    if len(wanted) != len(sizes) or not all(wanted):
        told = "x".join(str(size.dim_value or "?") for size in sizes[1:])
        raise ValueError(
            f"{path} takes inputs of {told}: please give input=CxHxW with as many sizes, as 3x224x224"
        )
    for size, value in zip(sizes, wanted, strict=True):
        if size.dim_value > 1 and size.dim_value != value:
            raise ValueError(f"{path} takes only {size.dim_value} where input= says {value}")
        size.dim_value = value
    for value in (*graph.output, *graph.value_info):  # what was said of them may be of another batch
        value.type.tensor_type.ClearField("shape")
    return inputs[0]


def _without_weights(graph: Any) -> None:
    """Large constants become inputs of their shape: shapes do not depend on them."""
    import onnx

    def is_large(tensor: Any) -> bool:
        return math.prod(tensor.dims) > LARGE or tensor.data_location == onnx.TensorProto.EXTERNAL

    large = [tensor for tensor in graph.initializer if is_large(tensor)]
    known = {value.name for value in graph.input}
    small = [tensor for tensor in graph.initializer if not is_large(tensor)]
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
        try:
            onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # of ONNX Runtime, whose errors have no class in common
            raise ValueError(f"ONNX Runtime cannot read it: {str(error)[:LONGEST]}") from error
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
            if min(shape, default=1) < 1 or math.prod(shape) > MOST:
                raise ValueError(f"{name} is of the shape {list(shape)}")
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
            self._check_convolution(node, attributes, args)
            args = [*args[:2], None, strides, None, None, attributes.get("group", 1)]
        elif node.op_type in ("MaxPool", "AveragePool"):
            named = dict(kernel_size=attributes["kernel_shape"], stride=attributes.get("strides", 1))
        elif node.op_type.startswith("Reduce"):
            lost = [i for i, (a, b) in enumerate(zip(args[0].shape, result.shape, strict=False)) if a != b]
            args, named = args[:1], dict(dim=attributes.get("axes") or lost)
        return name or node.op_type, args, named, result, self._macs(node, args, result)

    def _check_convolution(self, node: Any, attributes: Mapping[str, Any], args: Sequence[Any]) -> None:
        """ValueError for what ONNX itself lets pass."""
        weights, groups = args[1].shape, attributes.get("group", 1)
        channels = weights[1] * groups if node.op_type == "Conv" else weights[0]
        kernel = attributes.get("kernel_shape") or list(weights[2:])
        if groups < 1 or weights[0] % groups or channels != args[0].shape[1] or kernel != list(weights[2:]):
            raise ValueError(
                f"{node.name}: {groups} groups and weights of {list(weights)} do not fit a kernel of "
                f"{kernel} on {args[0].shape[1]} channels"
            )

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
