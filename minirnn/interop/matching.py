"""Which layers of a model have weights, in the order in which another library would list them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from minirnn.backend import to_device, to_host
from minirnn.base import Layer
from minirnn.layers import RNN, Bidirectional, TimeDistributed
from minirnn.models import Sequential


def layers_with_weights(model: Layer) -> Iterator[Layer]:
    """The layers that hold weights, those of nested models in their place; a TimeDistributed
    layer counts as the layer inside it."""
    model.require_built()
    for layer in model.layers if isinstance(model, Sequential) else [model]:
        if isinstance(layer, Sequential):
            yield from layers_with_weights(layer)
        elif isinstance(layer, TimeDistributed):
            yield layer.layer
        elif layer.params:
            yield layer


def directions(layer: RNN | Bidirectional) -> list[RNN]:
    """The recurrent layers that hold the weights: one, or the forward and the backward one."""
    return [*layer.children().values()] if isinstance(layer, Bidirectional) else [layer]


def put_all(found: list[tuple[Layer, dict[str, np.ndarray]]], source: str) -> None:
    """Write arrays into the weights of layers, under their keys: all of them, or none.

    source: where they come from, for the message.

    Raises:
        ValueError: if a key or a shape differs.
    """
    for layer, arrays in found:
        params = layer.params
        if arrays.keys() != params.keys():
            raise ValueError(
                f"{source}: layer {layer.name!r} has the weights {', '.join(params)}; received "
                f"{', '.join(arrays)}"
            )
        for key, value in arrays.items():
            if value.shape != params[key].shape:
                raise ValueError(
                    f"{source}: {key} of layer {layer.name!r} has shape {params[key].shape}, "
                    f"received {value.shape}"
                )
    for layer, arrays in found:
        for key, value in arrays.items():
            target = layer.params[key]
            target[...] = to_device(value, dtype=target.dtype)


def host(array: Any) -> np.ndarray:
    """A copy on the host, C-contiguous (what formats store)."""
    return np.array(to_host(array), order="C")
