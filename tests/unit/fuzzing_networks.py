"""Networks that cannot be, for `predict`: an ONNX file with one change, and modules of Python."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from good_files import onnx_network
from onnx import TensorProto, helper

Named = Iterator[tuple[str, Callable[[Path], Any], str]]  # as in fuzzing_files


def graph_changes() -> Named:
    """An ONNX network that cannot be, or that is of its own kind."""

    def graph(change: Callable[[Any], Any]) -> Callable[[Path], Any]:
        def changed(path: Path) -> None:
            model = onnx_network()
            change(model)
            path.write_bytes(model.SerializeToString())

        return changed

    def sizes(*shape: int) -> Callable[[Any], Any]:
        def change(model: Any) -> None:
            for size, value in zip(model.graph.input[0].type.tensor_type.shape.dim, shape, strict=False):
                size.dim_value = value

        return change

    def weight(*shape: int) -> Callable[[Any], Any]:
        def change(model: Any) -> None:
            model.graph.initializer[0].dims[:] = shape

        return change

    def attribute(name: str, value: Any) -> Callable[[Any], Any]:
        def change(model: Any) -> None:
            node = model.graph.node[0]
            kept = [one for one in node.attribute if one.name != name]
            del node.attribute[:]
            node.attribute.extend([*kept, *([] if value is None else [helper.make_attribute(name, value)])])

        return change

    def elsewhere(model: Any) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "../../../../etc/passwd"), ("length", "100")):
            tensor.external_data.add(key=key, value=value)

    def nested(model: Any) -> None:
        inner = helper.make_graph([], "inner", [], [])
        node = helper.make_node("If", ["image"], ["b2"], then_branch=inner, else_branch=inner)
        model.graph.node.append(node)

    def operator(place: int, name: str) -> Callable[[Any], Any]:
        return lambda model: setattr(model.graph.node[place], "op_type", name)

    def renamed(name: str) -> Callable[[Any], Any]:
        return lambda model: setattr(model.graph.node[0], "name", name)

    wrong: dict[str, Callable[[Any], Any]] = {
        "of operators of the year 9999": lambda model: setattr(model.opset_import[0], "version", 9999),
        "of operators of no version": lambda model: model.opset_import.pop(),
        "of a negative version": lambda model: setattr(model.opset_import[0], "version", -1),
        "of operators of nobody": lambda model: setattr(model.opset_import[0], "domain", "nobody"),
        "in a format of the year 9999": lambda model: setattr(model, "ir_version", 9999),
        "without operators": lambda model: model.graph.ClearField("node"),
        "without graph": lambda model: model.ClearField("graph"),
        "without input": lambda model: model.graph.ClearField("input"),
        "with two inputs": lambda model: model.graph.input.append(
            helper.make_tensor_value_info("again", TensorProto.FLOAT, [1, 3, 32, 32])
        ),
        "with an input of text": lambda model: setattr(
            model.graph.input[0].type.tensor_type, "elem_type", TensorProto.STRING
        ),
        "an input of two sizes": lambda model: model.graph.input[0].type.tensor_type.shape.dim.pop(),
        "an input of no sizes": lambda model: model.graph.input[0].type.tensor_type.ClearField("shape"),
        "an input of a negative size": sizes(1, 3, -32, 32),
        "an input of 2^40 pixels": sizes(1, 3, 2**20, 2**20),
        "an input of 2^62 pixels": sizes(1, 3, 2**31, 2**31),
        "an input of another depth": sizes(1, 4, 32, 32),
        "an input of no channel": sizes(1, 0, 32, 32),
        "weights of 2^60 numbers": weight(2**20, 2**20, 2**10, 2**10),
        "weights of a negative size": weight(-8, 3, 3, 3),
        "weights of one size": weight(216),
        "weights of no size": weight(),
        "weights elsewhere": elsewhere,
        "a stride of 0": attribute("strides", [0, 0]),
        "a stride of -1": attribute("strides", [-1, -1]),
        "a padding of 2^40": attribute("pads", [2**40] * 4),
        "a group of 0": attribute("group", 0),
        "a group of 7": attribute("group", 7),
        "a kernel of another size": attribute("kernel_shape", [5, 5]),
        "a stride of text": attribute("strides", "x"),
        "a circle": lambda model: model.graph.node[0].input.__setitem__(0, "y"),
        "a value of nowhere": lambda model: model.graph.node[1].input.__setitem__(0, "nowhere"),
        "a value made twice": lambda model: model.graph.node[1].output.__setitem__(0, "a"),
        "operators in another order": lambda model: model.graph.node.insert(0, model.graph.node.pop()),
        "an operator with no input": lambda model: model.graph.node[0].ClearField("input"),
        "an operator with no output": lambda model: model.graph.node[4].ClearField("output"),
        "an operator of no name": operator(1, ""),
        "control flow": nested,
        "a loop": operator(1, "Loop"),
        "a product of other sizes": lambda model: model.graph.initializer[1].dims.__setitem__(0, 9),
    }
    for what, change in wrong.items():
        yield what, graph(change), "graph"
    odd: dict[str, Callable[[Any], Any]] = {
        "an operator that nobody knows": operator(1, "Frobnicate"),
        "a stride of 2^40": attribute("strides", [2**40, 2**40]),
        "no kernel": attribute("kernel_shape", None),
        "an input of open sizes": sizes(0, 3, 32, 32),
        "an output of another size": lambda model: setattr(
            model.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 7
        ),
        "names of a script": renamed("<script>alert(1)</script>"),
        "names of a formula": renamed("=cmd|'/C calc'!A0"),
        "names of 100,000 letters": renamed("x" * 100_000),
        "names with a line break": renamed("a\nb\r\x1b[31m"),
        "a name as of a path": lambda model: setattr(model.graph, "name", "../../etc/passwd"),
        "metadata of nobody": lambda model: model.metadata_props.add(key="exec", value="import os"),
    }
    for what, change in odd.items():
        yield what, graph(change), ""
    yield (
        "operators 20,000 times",
        graph(
            lambda model: model.graph.node.extend(
                helper.make_node("Relu", ["b" if i == 0 else f"r{i - 1}"], [f"r{i}"]) for i in range(20_000)
            )
        ),
        "",
    )


def code_changes() -> Named:
    """A module of the user's own, named by `model=net:build`, that is wrong."""
    good = "import torch\n\n\ndef build():\n    "
    texts = {
        "no Python": "def build(:\n",
        "without the function": "import torch\n",
        "with a number of that name": "build = 3\n",
        "that returns text": f"{good}return 'x'\n",
        "that returns nothing": f"{good}pass\n",
        "that raises": f"{good}raise RuntimeError('no weights here')\n",
        "that divides by zero": "1 / 0\n",
        "that asserts": f"{good}assert False\n",
        "that exits": f"{good}raise SystemExit(3)\n",
        "that imports what is not there": "import nobody_has_this\n",
        "that imports a name that is not there": "from torch import nobody_has_this\n",
        "that wants an argument": "def build(width):\n    pass\n",
        "of a network with another input": f"{good}return torch.nn.Conv2d(4, 8, 3)\n",
        "of a network without forward": f"{good}return torch.nn.Module()\n",
        "of a network that recurses": "def build():\n    return build()\n",
    }
    for what, text in texts.items():
        yield what, lambda path, text=text: path.write_text(text), "code"
    yield "of a network that does nothing", lambda path: path.write_text(
        f"{good}return torch.nn.Identity()\n"
    ), ""  # fmt: skip
