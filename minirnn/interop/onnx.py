"""ONNX: run its recurrent operators through minirnn's cells, and write models for other runtimes.

    run(model, *inputs)      computes graphs of RNN, LSTM and GRU nodes
    save(model, path)        writes a minirnn model as a graph; `export` gives it unwritten

Refused by name, because minirnn's cells lack it: peepholes (input P), `clip`, `input_forget`, an
LSTM whose activations g and h differ, other types than float and double, other operators.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from minirnn import activations
from minirnn.activations import Activation
from minirnn.backend import to_device, to_host, xp
from minirnn.cells import Cell, GRUCell, GRUCellResetBefore, LSTMCell, SimpleRNNCell
from minirnn.checks import host_array, whole_number
from minirnn.interop.gates import block_orders, reorder
from minirnn.interop.onnx_export import CELL_ACTIVATIONS, export, save
from minirnn.lookup import by_name
from minirnn.packing import Mask
from minirnn.saving import FileFormatError
from minirnn.timeloop import run as run_cell

__all__ = ["export", "run", "save"]


def run(model: Any, *inputs: Any) -> list[np.ndarray]:
    """The outputs of a graph of RNN, LSTM and GRU nodes.

    Args:
        model: an `onnx.ModelProto`, its bytes, or the path of a file.
        inputs: arrays, in the order of the graph's inputs that are not initializers; None leaves an
            optional one out.

    Raises:
        ValueError: for what minirnn lacks, by name, and for inputs that do not fit.
    """
    graph = _graph_of(model)
    values: dict[str, Any] = {tensor.name: _array_of(tensor) for tensor in graph.initializer}
    free = [value.name for value in graph.input if value.name not in values]
    if len(inputs) != len(free):
        raise ValueError(
            f"inputs: the graph takes {len(free)} ({', '.join(free)}), received {len(inputs)}"
        )
    values |= {
        name: host_array(name, value)
        for name, value in zip(free, inputs, strict=True)
        if value is not None
    }
    for node in graph.node:
        if node.op_type not in ("RNN", "LSTM", "GRU"):
            raise ValueError(f"{node.op_type}: minirnn runs RNN, LSTM and GRU nodes, and no others")
        results = _run_node(node, [values.get(name) for name in node.input])
        values |= dict(zip(node.output, results, strict=False))
    missing = [value.name for value in graph.output if value.name not in values]
    if missing:
        raise ValueError(f"model: no node gives its output {', '.join(map(repr, missing))}")
    return [values[value.name] for value in graph.output]


def _graph_of(model: Any) -> Any:
    """The graph of a model, of its bytes, or of a file; it is in one file, or not read."""
    onnx = _onnx()
    from google.protobuf.message import DecodeError

    where = "model"
    if isinstance(model, (str, os.PathLike)):
        where = os.fspath(model)
        with open(where, "rb") as file:
            model = file.read()
    if isinstance(model, bytes):
        try:
            model = onnx.load_from_string(model)
        except DecodeError as error:
            raise FileFormatError(f"{where}: this is no ONNX model, or damaged ({error})") from None
    if not isinstance(model, onnx.ModelProto):
        raise TypeError(f"model: expected an ONNX model, its bytes or a path, received {model!r}")
    return model.graph


def _array_of(tensor: Any) -> np.ndarray:
    onnx = _onnx()
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ValueError(
            f"model: the numbers of {tensor.name!r} are in another file, which is not read. Store "
            "the model with its numbers in one file."
        )
    try:
        return onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, OverflowError, onnx.checker.ValidationError) as error:
        raise FileFormatError(f"model: the tensor {tensor.name!r} is damaged ({error})") from None


def _onnx() -> Any:
    try:
        import onnx
        import onnx.numpy_helper
    except ImportError:
        raise ImportError('onnx is needed: pip install "minirnn[interop]"') from None
    return onnx


# --- one node -------------------------------------------------------------------------------------


def _run_node(node: Any, inputs: list[Any]) -> list[np.ndarray]:
    """Y, Y_h and, of an LSTM, Y_c.

    Shapes (layout 0): X (time, batch, features); W (directions, gates * units, features);
    R (directions, gates * units, units); B (directions, 2 * gates * units); sequence_lens (batch,);
    initial_h, initial_c (directions, batch, units); Y (time, directions, batch, units). Layout 1
    puts the batch first.
    """
    kind = node.op_type
    attributes = _attributes(node)
    given = [*inputs, *[None] * (8 - len(inputs))]
    x, W, R, B, lengths, *state = given[:7]
    if kind == "LSTM" and given[7] is not None:
        raise ValueError("LSTM: minirnn has no peepholes (input P)")
    for name, array in (("X", x), ("W", W), ("R", R)):
        if array is None:
            raise ValueError(f"{kind}: input {name} is missing")
        if array.ndim != 3:
            raise ValueError(f"{kind}: expected {name} of three axes, received {array.shape}")
        if array.dtype not in (np.float32, np.float64):
            raise ValueError(f"{kind}: {name} is {array.dtype}; minirnn computes float and double")
    layout = attributes.get("layout", 0)
    if layout not in (0, 1):
        raise ValueError(f"{kind}: expected layout 0 or 1, received {layout!r}")
    if layout == 0:
        x = np.swapaxes(x, 0, 1)
    reverses = by_name("direction", attributes.get("direction", "forward"), DIRECTIONS)
    units = whole_number("hidden_size", attributes.get("hidden_size", R.shape[2]))
    batch, time = x.shape[:2]
    _require(kind, "W", W, (len(reverses), W.shape[1], x.shape[2]))
    _require(kind, "R", R, (len(reverses), W.shape[1], units))
    lengths = np.full(batch, time) if lengths is None else np.asarray(lengths)
    _require(kind, "sequence_lens", lengths, (batch,))
    if lengths.dtype.kind not in "iu":
        raise ValueError(f"{kind}: sequence_lens must be whole numbers; received {lengths.dtype}")
    if lengths.size and (lengths.min() < 0 or lengths.max() > time):
        raise ValueError(f"{kind}: sequence_lens must lie from 0 to {time}; received {lengths}")
    if B is not None:
        _require(kind, "B", B, (len(reverses), 2 * W.shape[1]))
    mask = Mask(np.arange(time) < lengths[:, None])
    functions = _functions(kind, attributes, len(reverses))
    count = 2 if kind == "LSTM" else 1
    state = state[:count]
    if layout == 1:
        state = [None if s is None else np.swapaxes(s, 0, 1) for s in state]
    ys, finals = [], []
    for d, reverse in enumerate(reverses):
        bias = np.zeros(2 * W.shape[1], W.dtype) if B is None else B[d]
        cell = _cell(kind, units, functions[d], attributes)
        cell.params = {
            key: to_device(value) for key, value in _params(cell, W[d], R[d], bias).items()
        }
        first = []
        for name, s in zip(("initial_h", "initial_c"), state, strict=False):
            if s is not None:
                _require(kind, name, s, (len(reverses), batch, units))
            first.append(xp.zeros((batch, units), x.dtype) if s is None else to_device(s[d]))
        packing = mask.packing(reverse)
        loop = run_cell(cell, packing.pack(to_device(x)), packing, tuple(first))
        ys.append(to_host(packing.unpack(loop.history[0][batch:])))
        finals.append([to_host(states[packing.final]) for states in loop.history])
    y = np.stack(ys)  # (directions, batch, time, units)
    y = y.transpose((2, 0, 1, 3) if layout == 0 else (1, 2, 0, 3))
    last = [np.stack([final[k] for final in finals]) for k in range(count)]
    return [y, *(last if layout == 0 else [np.swapaxes(s, 0, 1) for s in last])]


def _attributes(node: Any) -> dict[str, Any]:
    from onnx.helper import get_attribute_value

    try:
        attributes = {a.name: _plain(get_attribute_value(a)) for a in node.attribute}
    except ValueError as error:
        raise FileFormatError(f"{node.op_type}: an attribute is damaged ({error})") from None
    if "clip" in attributes:
        raise ValueError(f"{node.op_type}: minirnn has no clip")
    if attributes.get("input_forget"):
        raise ValueError("LSTM: minirnn has no input_forget")
    return attributes


def _plain(value: Any) -> Any:
    """An attribute's value with text for bytes."""
    if isinstance(value, bytes):
        return value.decode()
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _numbers(attributes: dict[str, Any], name: str) -> list[float]:
    values = attributes.get(name, [])
    if not isinstance(values, list) or not all(isinstance(v, (int, float)) for v in values):
        raise ValueError(f"{name}: expected a list of numbers, received {values!r}")
    return values


DIRECTIONS = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}


def _require(kind: str, name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if np.shape(array) != shape:
        raise ValueError(f"{kind}: expected {name} of shape {shape}, received {np.shape(array)}")


def _cell(kind: str, units: int, functions: list[Activation], attributes: dict) -> Cell:
    if kind == "RNN":
        return SimpleRNNCell(units, functions[0])
    if kind == "GRU":
        made = GRUCell if attributes.get("linear_before_reset", 0) else GRUCellResetBefore
        return made(units, functions[1], functions[0])
    gates, candidate, hidden = functions
    if candidate is not hidden:
        raise ValueError(
            f"LSTM: minirnn has one activation for g and h; received {candidate.name}, "
            f"{hidden.name}"
        )
    return LSTMCell(units, candidate, gates)


def _params(cell: Cell, W: np.ndarray, R: np.ndarray, B: np.ndarray) -> dict[str, np.ndarray]:
    theirs, ours = block_orders("ONNX", cell)
    if W.shape[0] != len(ours) * cell.units or B.shape != (2 * W.shape[0],):
        raise ValueError(
            f"W, B: {len(ours)} gates of {cell.units} units need {len(ours) * cell.units} rows and "
            f"twice as many biases; received {W.shape[0]} and {B.shape}"
        )
    b_w, b_r = (reorder(part, theirs, ours) for part in np.split(B, 2))
    return {
        "kernel": np.ascontiguousarray(reorder(W, theirs, ours, axis=0).T),
        "recurrent_kernel": np.ascontiguousarray(reorder(R, theirs, ours, axis=0).T),
        "bias": np.stack([b_w, b_r]) if isinstance(cell, GRUCell) else b_w + b_r,
    }


# --- ONNX's activations ---------------------------------------------------------------------------

DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}


def _functions(kind: str, attributes: dict[str, Any], ways: int) -> list[list[Activation]]:
    """The activations of each direction."""
    names = attributes.get("activations", []) or DEFAULTS[kind] * ways
    each = len(DEFAULTS[kind])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{kind}: expected activations as a list of names, received {names!r}")
    if len(names) != each * ways:
        raise ValueError(f"{kind}: expected {each * ways} activations, received {len(names)}")
    alphas = iter(_numbers(attributes, "activation_alpha"))
    betas = iter(_numbers(attributes, "activation_beta"))
    made: dict[Any, Activation] = {}
    functions = [_activation(name, alphas, betas, made) for name in names]
    return [functions[d * each : (d + 1) * each] for d in range(ways)]


def _activation(name: str, alphas: Any, betas: Any, made: dict[Any, Activation]) -> Activation:
    """An activation by ONNX's name; the same one for the same name and numbers."""
    known = {theirs: ours for ours, theirs in CELL_ACTIVATIONS.items()}
    title = {key.lower(): key for key in (*known, *PARAMETRIC)}.get(name.lower())
    if title in known:
        return activations.get(known[title])
    if title is None:
        raise ValueError(
            f"activations: minirnn has no {name!r}; known: {', '.join([*known, *PARAMETRIC])}"
        )
    formula, numbers = PARAMETRIC[title]
    values = tuple(
        float(next(source, default))
        for source, default in zip((alphas, betas), numbers, strict=False)
    )
    key = (title, values)
    if key not in made:
        made[key] = Activation(f"{title}{values}", _filling(formula, values), _no_derivative)
    return made[key]


def _filling(formula: Callable[..., Any], values: tuple[float, ...]) -> Callable[..., Any]:
    def function(a: Any, out: Any = None) -> Any:
        y = formula(a, *values)
        if out is None:
            return y
        out[...] = y
        return out

    return function


def _no_derivative(y: Any) -> Any:
    raise NotImplementedError("ONNX's graphs are run forwards only")


# name → formula, and the defaults of alpha and beta
PARAMETRIC: dict[str, tuple[Callable[..., Any], tuple[float, ...]]] = {
    "Affine": (lambda a, alpha, beta: alpha * a + beta, (1.0, 0.0)),
    "LeakyRelu": (lambda a, alpha: xp.where(a < 0, alpha * a, a), (0.01,)),
    "ThresholdedRelu": (lambda a, alpha: xp.where(a > alpha, a, xp.zeros_like(a)), (1.0,)),
    "ScaledTanh": (lambda a, alpha, beta: alpha * xp.tanh(beta * a), (1.0, 1.0)),
    "HardSigmoid": (lambda a, alpha, beta: xp.clip(alpha * a + beta, 0, 1), (0.2, 0.5)),
    "Elu": (lambda a, alpha: xp.where(a < 0, alpha * xp.expm1(xp.minimum(a, 0)), a), (1.0,)),
    "Softsign": (lambda a: a / (1 + abs(a)), ()),
}
