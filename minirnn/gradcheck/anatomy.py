"""What a layer is made of, as far as a gradient check needs to know."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from minirnn.base import Layer
from minirnn.cells import Cell
from minirnn.layers import RNN, Bidirectional, Embedding, Input, OneHot, TextVectorization


def inner_layers(layer: Layer) -> dict[str, Layer]:
    """Prefix of its weights' names → layer inside this one."""
    return layer.children() or {inner.name: inner for inner in getattr(layer, "layers", ())}


def walk(layer: Layer) -> Iterator[Layer]:
    yield layer
    for inner in inner_layers(layer).values():
        yield from walk(inner)


def layer_at(layer: Layer, index: int) -> Layer:
    """This layer, or the one that stands there in a model."""
    chain = getattr(layer, "layers", None)
    return layer_at(chain[index], index) if chain else layer


def first_layer(layer: Layer) -> Layer:
    """The layer that meets x first; in a model that begins with an Input, the one after it."""
    chain = [inner for inner in getattr(layer, "layers", ()) if not isinstance(inner, Input)]
    return first_layer(chain[0]) if chain else layer


def takes_floats(layer: Layer, x: Any) -> bool:
    """Whether `x` is something that has a gradient: no token ids, and no text."""
    if isinstance(first_layer(layer), (Embedding, OneHot, TextVectorization)):
        return False
    return x.dtype.kind in "fciub"


def state_names(layer: Layer) -> tuple[str, ...]:
    if isinstance(layer, RNN):
        return layer.cell.state_names
    if isinstance(layer, Bidirectional):
        names = layer.layer.cell.state_names
        return tuple(f"{way} {name}" for way in ("forward", "backward") for name in names)
    return ()


def names_of_outputs(layer: Layer, count: int) -> list[str]:
    names = [f"final {name}" for name in state_names(layer)] if count > 1 else []
    if isinstance(layer, Bidirectional) and layer.merge_mode is None:
        names = ["y forward", "y backward", *names]
    return (["y", *names] if len(names) < count else names)[:count]


def gates_of(layer: Layer) -> dict[str, tuple[str, ...]]:
    """Weight's name → the gates whose blocks stand side by side in it."""
    if isinstance(layer, RNN):
        return dict.fromkeys(layer.cell.params, layer.cell.gates)
    return {
        f"{prefix}_{key}" if prefix else key: gates
        for prefix, inner in inner_layers(layer).items()
        for key, gates in gates_of(inner).items()
    }


def describe(thing: Any) -> str:
    """How the thing could be made again: `LSTM(units=3, return_sequences=True)`.

    Initializers are left out, because the weights are redrawn.
    """
    inner = getattr(thing, "layers", None)
    if inner:
        return f"{type(thing).__name__}([{', '.join(describe(layer) for layer in inner)}])"
    config = thing.get_config() if hasattr(thing, "get_config") else {}
    defaults = inspect.signature(type(thing).__init__).parameters
    if isinstance(thing, RNN):
        defaults = {**inspect.signature(RNN.__init__).parameters, **defaults}
    shown = []
    for key, value in config.items():
        if key in ("name", "trainable") or key.endswith("_initializer"):
            continue
        default = defaults[key].default if key in defaults else inspect.Parameter.empty
        if key.endswith("activation"):
            value, default = getattr(value, "name", value), default or "linear"
        if isinstance(value, (Layer, Cell)):
            shown.append(f"{key}={describe(value)}")
        elif default is inspect.Parameter.empty:
            shown.insert(0, f"{key}={value!r}")
        elif type(value) is not type(default) or value != default:
            shown.append(f"{key}={value!r}")
    return f"{type(thing).__name__}({', '.join(shown)})"
