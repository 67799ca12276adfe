"""Random input and targets for whatever is checked, with sizes that no one can mix up."""

from __future__ import annotations

import numpy as np

from minirnn import losses
from minirnn.backend import Array, to_device
from minirnn.base import Layer
from minirnn.gradcheck.anatomy import first_layer, layer_at
from minirnn.layers import Dense, Embedding, Input, Masking, OneHot, TextVectorization
from minirnn.losses import Loss
from minirnn.packing import Mask


def example_sizes(units: int | None = None, features: int | None = None) -> dict[str, int]:
    """Different primes for batch, time and features, none of them `units`.

    >>> example_sizes(units=3)
    {'features': 2, 'batch': 5, 'time': 7}
    """
    free = [prime for prime in (2, 3, 5, 7, 11) if prime not in (units, features)]
    sizes = {"features": features or free.pop(0)}
    return sizes | {"batch": free.pop(0), "time": free.pop(0)}


def example_input(layer: Layer, random: np.random.Generator, mask: Mask | None) -> np.ndarray:
    """A random batch that `layer` takes: floats, or token ids."""
    first = first_layer(layer)
    if isinstance(first, TextVectorization):
        raise ValueError(f"{layer.name}: x: no example can be made up for text; give some")
    kernel = next((w for key, w in first.params.items() if key.endswith("kernel")), None)
    features = None if kernel is None else kernel.shape[-2]
    if isinstance(layer_at(layer, 0), Input) and len(layer_at(layer, 0).shape) > 1:
        features = layer_at(layer, 0).shape[-1]
    inner = getattr(first, "layer", first)
    units = getattr(inner, "units", getattr(first, "output_dim", None))
    sizes = example_sizes(units, features)
    shape = mask.shape if mask is not None else (sizes["batch"], sizes["time"])
    if isinstance(first, (Embedding, OneHot)):
        limit = first.input_dim if isinstance(first, Embedding) else first.num_tokens
        return random.integers(0, limit, size=shape).astype(np.int32)
    if isinstance(first, Dense) and mask is None:
        return random.normal(size=(shape[0], sizes["features"]))
    x = random.normal(size=(*shape, sizes["features"]))
    if isinstance(first, Masking):
        x[random.random(shape) < 0.3] = first.mask_value
    return x


def example_predictions(loss: Loss, random: np.random.Generator, mask: Mask | None) -> Array:
    """Predictions (5, 3), or (batch, time, 3) for a mask: any numbers, or probabilities."""
    y = random.normal(size=(*((5,) if mask is None else mask.shape), 3))
    if loss.activation == "softmax" and not loss.from_logits:
        y = np.exp(y) / np.exp(y).sum(axis=-1, keepdims=True)
    if loss.activation == "sigmoid" and not loss.from_logits:
        y = 1 / (1 + np.exp(-y))
    return to_device(y)


def example_targets(loss: Loss, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Targets for predictions of this shape: class numbers, probabilities, or any numbers."""
    if isinstance(loss, losses.SparseCategoricalCrossentropy):
        return random.integers(0, shape[-1], size=shape[:-1])
    if loss.activation == "softmax":
        return random.dirichlet(np.ones(shape[-1]), size=shape[:-1])
    return random.random(shape) if loss.activation == "sigmoid" else random.normal(size=shape)
