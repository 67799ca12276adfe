"""A minirnn model as an ONNX graph, for onnxruntime and others.

The graph takes what the model's layers take, and gives what `predict` gives:

    ids       int64 (batch, time), if the model begins with an Embedding or OneHot layer, or
    x         float (batch, time, features)
    lengths   int32 (batch,), how many steps of each row are real, if the model has a mask; padding
              stands behind (`mask_zero` alone is not asked: whoever feeds the graph tells)

A TextVectorization layer stays outside: texts become ids before. Behind a row's end, outputs at
every step are 0, as they are here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from minirnn import activations, layers
from minirnn.activations import Activation
from minirnn.base import Layer
from minirnn.cells import Cell, GRUCell, LSTMCell, SimpleRNNCell
from minirnn.interop.gates import block_orders, reorder
from minirnn.interop.matching import directions, host
from minirnn.models import Sequential
from minirnn.saving import write_whole

OPSET = 17
IR_VERSION = 8
# Ours → ONNX's names, of activations that go inside a cell as they are.
CELL_ACTIVATIONS = {"tanh": "Tanh", "sigmoid": "Sigmoid", "relu": "Relu", "softplus": "Softplus"}


def save(model: Sequential, path: str | os.PathLike[str]) -> None:
    """`export` into a file.

    Raises:
        ValueError: for a layer or option that ONNX's operators lack, by name.
    """
    write_whole(path, export(model).SerializeToString())


def export(model: Sequential) -> Any:
    """The model as an `onnx.ModelProto`; weights and results are those of the model's dtype."""
    try:
        from onnx import checker
    except ImportError:
        raise ImportError('onnx is needed: pip install "minirnn[interop]"') from None
    model.require_built()
    graph = Graph(next(iter(model.params.values())).dtype)
    body = model.without_vectorizer()
    flat = list(_flat(body))
    graph.begin(flat[0], body)
    for layer in flat:
        writer = next((WRITERS[kind] for kind in type(layer).__mro__ if kind in WRITERS), None)
        if writer is None:
            raise ValueError(f"{layer.name}: a {type(layer).__name__} has no counterpart in ONNX")
        writer(graph, layer)
    made = graph.finish(model.name)
    checker.check_model(made, full_check=True)
    return made


def _flat(model: Sequential) -> list[Layer]:
    found: list[Layer] = []
    for layer in model.layers:
        found += _flat(layer) if isinstance(layer, Sequential) else [layer]
    return found


class Graph:
    """A graph in the making: the value that the next layer gets, and whether steps are masked.

    Steps travel time-major, (time, batch, features), as ONNX's recurrent operators want them.
    """

    def __init__(self, dtype: Any) -> None:
        from onnx import TensorProto

        self.dtype = np.dtype(dtype)
        self.float = TensorProto.FLOAT if self.dtype == np.float32 else TensorProto.DOUBLE
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.inputs: list[Any] = []
        self.value = ""
        self.features: int | None = None
        self.steps = False  # whether the value has a time axis
        self.masked = False
        self.real = ""  # the mask (time, batch, 1) as floats, once it is asked for

    def begin(self, first: Layer, model: Sequential) -> None:
        from onnx import TensorProto

        if isinstance(first, (layers.Embedding, layers.OneHot)):
            self._input("ids", TensorProto.INT64, ["batch", "time"])
            self.value = self.add("Transpose", ["ids"], perm=[1, 0])
        else:
            shape = model.known_input_shape()
            if shape is None or len(shape) != 3 or shape[-1] is None:
                raise ValueError(
                    f"{model.name}: expected a model of ids or of steps (batch, time, features); "
                    f"its input has the shape {shape}"
                )
            self.features = int(shape[-1])
            self._input("x", self.float, ["batch", "time", self.features])
            self.value = self.add("Transpose", ["x"], perm=[1, 0, 2])
        self.steps = True

    def _input(self, name: str, kind: int, shape: list[Any]) -> None:
        from onnx import helper

        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))

    def mask(self) -> None:
        """From here on, steps behind a row's length are padding."""
        from onnx import TensorProto

        if not any(value.name == "lengths" for value in self.inputs):
            self._input("lengths", TensorProto.INT32, ["batch"])
        self.masked = True

    def constant(self, array: Any, name: str = "") -> str:
        name = name or f"constant_{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def number(self, value: float) -> str:
        return self.constant(np.asarray(value, self.dtype))

    def add(self, kind: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> Any:
        """One more node; the name of its output, or of its outputs."""
        from onnx import helper

        names = [f"{kind.lower()}_{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def real_steps(self) -> str:
        """(time, batch, 1) floats: 1 at real steps, 0 at padding."""
        if not self.real:
            from onnx import TensorProto

            shape = self.add("Shape", [self.inputs[0].name], start=1, end=2)
            time = self.add("Squeeze", [shape])
            zero, one = (self.constant(np.int64(n)) for n in (0, 1))
            steps = self.add("Range", [zero, time, one])
            column = self.add("Unsqueeze", [steps, self.constant(np.array([1]))])
            lengths = self.add("Cast", ["lengths"], to=TensorProto.INT64)
            real = self.add("Less", [column, lengths])  # (time, batch)
            real = self.add("Cast", [real], to=self.float)
            self.real = self.add("Unsqueeze", [real, self.constant(np.array([2]))])
        return self.real

    def zero_padding(self) -> None:
        if self.masked and self.steps:
            self.value = self.add("Mul", [self.value, self.real_steps()])

    def finish(self, name: str) -> Any:
        from onnx import helper, numpy_helper

        shape: list[Any] = ["batch", self.features]
        if self.steps:
            self.value = self.add("Transpose", [self.value], perm=[1, 0, 2])
            shape = ["batch", "time", self.features]
        self.nodes.append(helper.make_node("Identity", [self.value], ["y"]))
        graph = helper.make_graph(
            self.nodes,
            name,
            self.inputs,
            [helper.make_tensor_value_info("y", self.float, shape)],
            [numpy_helper.from_array(array, key) for key, array in self.constants.items()],
        )
        opset = [helper.make_opsetid("", OPSET)]
        made = helper.make_model(graph, opset_imports=opset, producer_name="minirnn")
        made.ir_version = IR_VERSION
        return made


# --- how each layer is written --------------------------------------------------------------------


def _embedding(graph: Graph, layer: Any) -> None:
    table = graph.constant(host(layer.params["embeddings"]), f"{layer.name}.embeddings")
    graph.value = graph.add("Gather", [table, graph.value])
    graph.features = layer.output_dim
    if layer.mask_zero:
        graph.mask()


def _one_hot(graph: Graph, layer: Any) -> None:
    depth, values = graph.constant(np.int64(layer.num_tokens)), np.array([0, 1], graph.dtype)
    graph.value = graph.add("OneHot", [graph.value, depth, graph.constant(values)])
    graph.features = layer.num_tokens
    if layer.mask_zero:
        graph.mask()


def _recurrent(graph: Graph, layer: Any) -> None:
    both = isinstance(layer, layers.Bidirectional)
    pattern = layer.layer if both else layer
    if layer.return_sequences and not both and layer.go_backwards:
        raise ValueError(
            f"{layer.name}: go_backwards with return_sequences gives the steps in the order "
            "walked, which ONNX's operators do not"
        )
    if pattern.stateful:
        raise ValueError(f"{layer.name}: a graph cannot carry the state of a stateful layer")
    parts = directions(layer)
    kind, attributes = _operator(parts[0].cell, layer.name)
    weights = [_weights(part.cell) for part in parts]
    inputs = [graph.value]
    for key, arrays in zip("WRB", zip(*weights, strict=True), strict=True):
        inputs.append(graph.constant(np.stack(arrays), f"{layer.name}.{key}"))
    inputs.append("lengths" if graph.masked else "")
    direction = "bidirectional" if both else "reverse" if layer.go_backwards else "forward"
    if both:
        attributes["activations"] = attributes["activations"] * 2
    outputs = graph.add(
        kind, inputs, outputs=2, direction=direction, hidden_size=pattern.units, **attributes
    )
    every, last = outputs  # (time, directions, batch, units), (directions, batch, units)
    graph.steps = layer.return_sequences
    axis = 1 if graph.steps else 0
    value = every if graph.steps else last
    if not both:
        graph.value = graph.add("Squeeze", [value, graph.constant(np.array([axis]))])
    elif layer.merge_mode == "concat":
        order, shape = ([0, 2, 1, 3], [0, 0, -1]) if graph.steps else ([1, 0, 2], [0, -1])
        value = graph.add("Transpose", [value], perm=order)
        graph.value = graph.add("Reshape", [value, graph.constant(np.array(shape))])
    else:
        one, two = graph.add(
            "Split", [value, graph.constant(np.array([1, 1]))], outputs=2, axis=axis
        )
        merged = graph.add("Mul" if layer.merge_mode == "mul" else "Add", [one, two])
        if layer.merge_mode == "ave":
            merged = graph.add("Mul", [merged, graph.number(0.5)])
        graph.value = graph.add("Squeeze", [merged, graph.constant(np.array([axis]))])
    graph.features = pattern.units * (2 if both and layer.merge_mode == "concat" else 1)
    if not graph.steps:
        graph.masked = False


def _operator(cell: Cell, name: str) -> tuple[str, dict[str, Any]]:
    if isinstance(cell, SimpleRNNCell):
        return "RNN", {"activations": [_cell_activation(cell.activation, name)]}
    functions = [
        _cell_activation(function, name)
        for function in (cell.recurrent_activation, cell.activation)  # type: ignore[attr-defined]
    ]
    if isinstance(cell, LSTMCell):
        return "LSTM", {"activations": [*functions, functions[1]]}
    after = int(isinstance(cell, GRUCell))
    return "GRU", {"activations": functions, "linear_before_reset": after}


def _cell_activation(function: Activation, name: str) -> str:
    if function.name not in CELL_ACTIVATIONS:
        raise ValueError(
            f"{name}: the activation {function.name} inside a cell is not written; "
            f"{', '.join(CELL_ACTIVATIONS)} are"
        )
    return CELL_ACTIVATIONS[function.name]


def _weights(cell: Cell) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W, R and B of one direction."""
    params = {key: host(value) for key, value in cell.params.items()}
    theirs, ours = block_orders("ONNX", cell)
    W = reorder(params["kernel"].T, ours, theirs, axis=0)
    R = reorder(params["recurrent_kernel"].T, ours, theirs, axis=0)
    nothing = np.zeros(W.shape[0], W.dtype)
    bias = params.get("bias", nothing)
    b_w, b_r = bias if bias.ndim == 2 else (bias, nothing)
    return W, R, np.concatenate([reorder(b, ours, theirs) for b in (b_w, b_r)])


def _dense(graph: Graph, layer: Any) -> None:
    W = graph.constant(host(layer.params["kernel"]), f"{layer.name}.kernel")
    graph.value = graph.add("MatMul", [graph.value, W])
    if layer.use_bias:
        b = graph.constant(host(layer.params["bias"]), f"{layer.name}.bias")
        graph.value = graph.add("Add", [graph.value, b])
    graph.features = layer.units
    _apply(graph, layer.activation, layer.name)
    graph.zero_padding()


ELEMENTWISE = CELL_ACTIVATIONS | {"elu": "Elu", "exponential": "Exp"}


def _apply(graph: Graph, function: Activation, name: str) -> None:
    if function is activations.softmax:
        graph.value = graph.add("Softmax", [graph.value], axis=-1)
    elif function is activations.hard_sigmoid:
        graph.value = graph.add("HardSigmoid", [graph.value], alpha=1 / 6, beta=0.5)
    elif function.name in ELEMENTWISE and activations.NAMES.get(function.name) is function:
        graph.value = graph.add(ELEMENTWISE[function.name], [graph.value])
    elif function is not activations.linear:
        raise ValueError(f"{name}: the activation {function.name} is not one that ONNX has")


def _activation(graph: Graph, layer: Any) -> None:
    _apply(graph, layer.activation, layer.name)


def _nothing(graph: Graph, layer: Any) -> None:
    """At inference, this layer hands on what it gets."""


def _drop_mask(graph: Graph, layer: Any) -> None:
    graph.masked = False


def _time_distributed(graph: Graph, layer: Any) -> None:
    if type(layer.layer) is not layers.Dense:
        raise ValueError(f"{layer.name}: TimeDistributed is written around a Dense layer only")
    _dense(graph, layer.layer)


def _average(graph: Graph, layer: Any) -> None:
    if graph.masked:
        graph.zero_padding()
        total = graph.add("ReduceSum", [graph.value, graph.constant(np.array([0]))], keepdims=0)
        one = graph.constant(np.int32(1))
        count = graph.add("Max", ["lengths", one])
        count = graph.add("Cast", [count], to=graph.float)
        count = graph.add("Unsqueeze", [count, graph.constant(np.array([1]))])
        graph.value = graph.add("Div", [total, count])
    else:
        graph.value = graph.add("ReduceMean", [graph.value], axes=[0], keepdims=0)
    graph.steps = graph.masked = False


def _maximum(graph: Graph, layer: Any) -> None:
    value = graph.value
    if graph.masked:
        real = graph.add("Greater", [graph.real_steps(), graph.number(0)])
        value = graph.add("Where", [real, value, graph.number(-np.inf)])
        value = graph.add("ReduceMax", [value], axes=[0], keepdims=0)
        some = graph.add("Greater", ["lengths", graph.constant(np.int32(0))])
        some = graph.add("Unsqueeze", [some, graph.constant(np.array([1]))])
        graph.value = graph.add("Where", [some, value, graph.number(0)])
    else:
        graph.value = graph.add("ReduceMax", [value], axes=[0], keepdims=0)
    graph.steps = graph.masked = False


WRITERS: dict[type, Callable[[Graph, Any], None]] = {
    layers.Embedding: _embedding,
    layers.OneHot: _one_hot,
    layers.RNN: _recurrent,
    layers.Bidirectional: _recurrent,
    layers.Dense: _dense,
    layers.Activation: _activation,
    layers.Dropout: _nothing,
    layers.DropMask: _drop_mask,
    layers.TimeDistributed: _time_distributed,
    layers.GlobalAveragePooling1D: _average,
    layers.GlobalMaxPooling1D: _maximum,
}
