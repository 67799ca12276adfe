"""PyTorch's state dicts: `nn.Embedding`, `nn.RNN`, `nn.LSTM`, `nn.GRU`, `nn.Linear`.

PyTorch keeps its matrices the other way round, (outputs, inputs), GRU's gates in the order r z n,
and two biases in each recurrent layer, whose sum counts (but for GRU's candidate). A state dict
does not tell what its modules are for; they are taken in their order, or by name:

    class Classifier(torch.nn.Module):              model = minirnn.Sequential([
        def __init__(self):
            self.embed = nn.Embedding(20000, 64)        Embedding(20000, 64),
            self.rnn = nn.LSTM(64, 8, 2)                LSTM(8, return_sequences=True),
                                                        LSTM(8),
            self.out = nn.Linear(8, 4)                  Dense(4, activation="softmax")])

    pytorch.load(model, "classifier.safetensors")

Files: `.safetensors`, or `.pt` and `.pth`, which are read by `torch.load(weights_only=True)` alone:
no code of a file is ever run. A `.safetensors` file forgets the order of its modules, so there they
are taken in the one order in which all kinds and shapes fit; where there are several, by name only.
`nn.LSTM(proj_size=...)` has no counterpart here.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from minirnn import activations
from minirnn.base import Layer
from minirnn.cells import Cell, GRUCell, LSTMCell, SimpleRNNCell
from minirnn.interop import tensor_files
from minirnn.interop.gates import block_orders, reorder
from minirnn.interop.matching import directions, host, layers_with_weights, put_all
from minirnn.layers import RNN, Bidirectional, Dense, Embedding

RECURRENT_KEY = re.compile(r"(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)_l(\d+)(_reverse)?$")


# --- state dicts ----------------------------------------------------------------------------------


def load_state_dict(
    model: Layer, state: Mapping[str, Any], names: Mapping[str, str] | None = None
) -> None:
    """Put the weights of a PyTorch state dict into a model.

    Args:
        model: a model or layer that is built.
        state: name → tensor or array.
        names: layer of ours → PyTorch's module, such as {"lstm": "encoder.rnn"}; layers that stand
            for `num_layers` of one module name it one after another. Without names, all modules
            belong to our layers in their order.

    Raises:
        ValueError: if layers and modules do not fit each other; it names both. Nothing is changed
            then.
    """
    _load_state(
        model, {key: tensor_files.array(value) for key, value in state.items()}, names, ordered=True
    )


def _load_state(
    model: Layer,
    state: Mapping[str, np.ndarray],
    names: Mapping[str, str] | None,
    ordered: bool,
) -> None:
    """ordered: whether the modules stand in the order of the model."""
    modules, layers = _modules(state), list(layers_with_weights(model))
    if not ordered and not names:
        modules = _in_the_order_that_fits(layers, modules)
    targets = _targets(layers, modules, names)
    found = [
        pair
        for layer, target in targets
        for pair in zip(_parts(layer), _weights_of(layer, *target), strict=True)
    ]
    put_all(found, "state")


def state_dict(model: Layer, names: Mapping[str, str] | None = None) -> dict[str, np.ndarray]:
    """The weights of a model as a PyTorch state dict of NumPy arrays.

    names: as in `load_state_dict`; without them, each layer is a module of its own, under its name.
    """
    state: dict[str, np.ndarray] = {}
    layers = list(layers_with_weights(model))
    _known_names(layers, names)
    taken: dict[str, int] = {}
    for layer in layers:
        module = (names or {}).get(layer.name, layer.name)
        number = taken.get(module, 0)
        taken[module] = number + 1
        if number and not isinstance(layer, (RNN, Bidirectional)):
            raise ValueError(f"names: two layers have the name {module!r} in PyTorch")
        for key, array in _to_torch(layer, number).items():
            state[f"{module}.{key}" if module else key] = array
    return state


# --- files ----------------------------------------------------------------------------------------


def load(
    model: Layer, path: str | os.PathLike[str], names: Mapping[str, str] | None = None
) -> None:
    """`load_state_dict` from a file: `.safetensors`, `.pt` or `.pth`.

    Raises:
        ValueError: as `load_state_dict`, and for a file that holds anything but tensors.
    """
    state, ordered = tensor_files.read(path)
    _load_state(model, state, names, ordered)


def save(
    model: Layer, path: str | os.PathLike[str], names: Mapping[str, str] | None = None
) -> None:
    """`state_dict` into a file: `.safetensors`, `.pt` or `.pth`."""
    tensor_files.write(path, state_dict(model, names))


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Name → array of a file of tensors."""
    return tensor_files.read(path)[0]


# --- which module belongs to which layer ----------------------------------------------------------

Modules = dict[str, dict[str, np.ndarray]]


def _modules(state: Mapping[str, np.ndarray]) -> Modules:
    """Module → its own keys, in the order of the state dict."""
    modules: Modules = {}
    for key, array in state.items():
        module, _, own = key.rpartition(".")
        modules.setdefault(module, {})[own] = array
    return modules


def _depth(module: Mapping[str, Any]) -> int:
    """`num_layers` of a recurrent module; 0 for others."""
    numbers = [int(m[2]) for m in map(RECURRENT_KEY.match, module) if m]
    return max(numbers, default=-1) + 1


def _known_names(layers: list[Layer], names: Mapping[str, str] | None) -> None:
    unknown = set(names or ()) - {layer.name for layer in layers}
    if unknown:
        raise ValueError(
            f"names: there is no layer with weights named {', '.join(sorted(unknown))}; there are "
            f"{', '.join(layer.name for layer in layers)}"
        )


def _targets(
    layers: list[Layer], modules: Modules, names: Mapping[str, str] | None
) -> list[tuple[Layer, tuple[str, dict[str, np.ndarray], int]]]:
    """Each layer with `(module's name, module, number of its layer)`."""
    _known_names(layers, names)
    listed = [
        (name, module, number)
        for name, module in modules.items()
        for number in range(max(_depth(module), 1))
    ]
    if names:
        by_name = {name: [unit for unit in listed if unit[0] == name] for name in modules}
        targets = []
        for layer in layers:
            name = names.get(layer.name, layer.name)
            if not by_name.get(name):
                raise ValueError(
                    f"state: nothing is left of a module {name!r} for layer {layer.name!r}; the "
                    f"modules are {', '.join(map(repr, modules))}"
                )
            targets.append((layer, by_name[name].pop(0)))
        left = [unit for units in by_name.values() for unit in units]
    else:
        targets, left = list(zip(layers, listed, strict=False)), listed[len(layers) :]
    if left or len(targets) < len(layers):
        raise ValueError(
            f"state: the model has the layers {', '.join(layer.name for layer in layers)}; the "
            f"state dict has {', '.join(f'{name}[{number}]' for name, _, number in listed)}. There "
            "must be as many; or say by `names` which belong together."
        )
    return targets


def _in_the_order_that_fits(layers: list[Layer], modules: Modules) -> Modules:
    """The modules in the one order in which each fits its layer, in kind and in shape; as they are
    where there is none.

    Raises:
        ValueError: if there are several.
    """
    orders = list(itertools.islice(_orders_that_fit(layers, modules, ()), 2))
    if len(orders) == 2:
        pairs = [", ".join(map(repr, order)) for order in orders]
        raise ValueError(
            "state: the file does not tell the order of its modules, and they fit the layers "
            f"{', '.join(layer.name for layer in layers)} in more than one: {pairs[0]}, or "
            f"{pairs[1]}. Say by `names` which belong together."
        )
    return {name: modules[name] for name in orders[0]} if orders else modules


def _orders_that_fit(
    layers: list[Layer], modules: Modules, taken: tuple[str, ...]
) -> Iterator[tuple[str, ...]]:
    """All orders of the modules that go on from those taken."""
    if not layers and len(taken) == len(modules):
        yield taken
    for name, module in modules.items():
        depth = max(_depth(module), 1)
        if name in taken or depth > len(layers):
            continue
        if all(_fits(layer, name, module, number) for number, layer in enumerate(layers[:depth])):
            yield from _orders_that_fit(layers[depth:], modules, (*taken, name))


def _fits(layer: Layer, name: str, module: Mapping[str, np.ndarray], number: int) -> bool:
    try:
        found = _weights_of(layer, name, module, number)
    except ValueError:
        return False
    return all(
        weights.keys() == part.params.keys()
        and all(weights[key].shape == value.shape for key, value in part.params.items())
        for part, weights in zip(_parts(layer), found, strict=True)
    )


def _parts(layer: Layer) -> list[Layer]:
    """What holds the weights: the layer itself, or its two directions."""
    return list(directions(layer)) if isinstance(layer, (RNN, Bidirectional)) else [layer]


# --- weights there and back -----------------------------------------------------------------------


def _weights_of(
    layer: Layer, name: str, module: Mapping[str, np.ndarray], number: int
) -> list[dict[str, np.ndarray]]:
    """A module's arrays in our layout: one dict for each part of the layer."""
    if isinstance(layer, (RNN, Bidirectional)):
        endings = [f"_l{number}", f"_l{number}_reverse"]
        if f"weight_hr_l{number}" in module:
            raise ValueError(f"state: {name} has a projection (proj_size), which minirnn lacks")
        both = f"weight_ih{endings[1]}" in module
        if both != isinstance(layer, Bidirectional):
            kind = "bidirectional" if both else "not bidirectional"
            raise ValueError(f"state: {name} is {kind}, and the layer {layer.name!r} is not alike")
        parts = directions(layer)
        if isinstance(layer, RNN) and layer.go_backwards:
            raise ValueError(f"{layer.name}: PyTorch has no layer that reads backwards only")
        return [
            _recurrent_from(part.cell, name, module, ending)
            for part, ending in zip(parts, endings, strict=False)
        ]
    if isinstance(layer, Embedding):
        return [{"embeddings": _member(name, module, "weight")}]
    if isinstance(layer, Dense):
        weights = {"kernel": _member(name, module, "weight").T}
        return [weights | ({"bias": _member(name, module, "bias")} if layer.use_bias else {})]
    raise ValueError(f"{layer.name}: a {type(layer).__name__} has no counterpart in PyTorch")


def _member(name: str, module: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    if key not in module:
        raise ValueError(f"state: {name}.{key} not found; {name} has {', '.join(module)}")
    return module[key]


def _recurrent_from(
    cell: Cell, name: str, module: Mapping[str, np.ndarray], ending: str
) -> dict[str, np.ndarray]:
    theirs, ours = _orders(cell)

    def member(key: str) -> np.ndarray:
        array = _member(name, module, key + ending)
        if array.shape[0] != len(theirs) * cell.units:
            raise ValueError(
                f"state: {name}.{key}{ending} has {array.shape[0]} rows; the layer's "
                f"{len(theirs)} gates of {cell.units} units need {len(theirs) * cell.units}"
            )
        return reorder(array, theirs, ours, axis=0)

    weights = {"kernel": member("weight_ih").T, "recurrent_kernel": member("weight_hh").T}
    has_bias = "bias_ih" + ending in module
    if has_bias != cell.use_bias:
        raise ValueError(f"state: {name} has {'a' if has_bias else 'no'} bias, our layer differs")
    if cell.use_bias:
        b_ih, b_hh = member("bias_ih"), member("bias_hh")
        weights["bias"] = np.stack([b_ih, b_hh]) if isinstance(cell, GRUCell) else b_ih + b_hh
    return weights


def _to_torch(layer: Layer, number: int) -> dict[str, np.ndarray]:
    if isinstance(layer, Embedding):
        return {"weight": host(layer.params["embeddings"])}
    if isinstance(layer, Dense):
        state = {"weight": host(layer.params["kernel"].T)}
        return state | ({"bias": host(layer.params["bias"])} if layer.use_bias else {})
    if isinstance(layer, RNN) and layer.go_backwards:
        raise ValueError(f"{layer.name}: PyTorch has no layer that reads backwards only")
    if isinstance(layer, (RNN, Bidirectional)):
        state = {}
        endings = (f"_l{number}", f"_l{number}_reverse")
        for part, ending in zip(directions(layer), endings, strict=False):
            arrays = _recurrent_to(part.cell)
            state |= {key + ending: array for key, array in arrays.items()}
        return state
    raise ValueError(f"{layer.name}: a {type(layer).__name__} has no counterpart in PyTorch")


def _recurrent_to(cell: Cell) -> dict[str, np.ndarray]:
    theirs, ours = _orders(cell)
    params = {key: host(value) for key, value in cell.params.items()}
    state = {
        "weight_ih": reorder(params["kernel"].T, ours, theirs, axis=0),
        "weight_hh": reorder(params["recurrent_kernel"].T, ours, theirs, axis=0),
    }
    if cell.use_bias:
        b_ih, b_hh = (
            params["bias"]
            if isinstance(cell, GRUCell)
            else (params["bias"], np.zeros_like(params["bias"]))
        )
        state["bias_ih"] = reorder(b_ih, ours, theirs)
        state["bias_hh"] = reorder(b_hh, ours, theirs)
    return {key: np.ascontiguousarray(array) for key, array in state.items()}


def _orders(cell: Cell) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """PyTorch's order of the blocks and ours, if PyTorch has this cell."""
    kind = type(cell)
    if kind is SimpleRNNCell and cell.activation in (activations.tanh, activations.relu):
        return block_orders("PyTorch", cell)
    usual = getattr(cell, "recurrent_activation", None) is activations.sigmoid
    if usual and cell.activation is activations.tanh and kind in (LSTMCell, GRUCell):
        return block_orders("PyTorch", cell)
    raise ValueError(
        f"{cell.get_config()}: PyTorch has RNN (tanh or relu), LSTM and GRU (reset_after=True), "
        f"with their usual activations; it has no such {kind.__name__}"
    )
