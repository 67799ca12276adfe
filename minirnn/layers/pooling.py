"""From a sequence to one vector without a recurrence: flattening, and pooling over real steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn.backend import Array, to_device, xp
from minirnn.base import Layer, Shape
from minirnn.checks import numbers
from minirnn.packing import Mask


class Flatten(Layer):
    """(batch, ...) → (batch, all the rest). It cannot use a mask, and refuses one."""

    supports_masking = False

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        rest = input_shape[1:]
        return (input_shape[0], None if None in rest else int(np.prod(rest, dtype=int)))

    def forward(
        self, x: Array, mask: Mask | None = None, training: bool = False
    ) -> tuple[Array, Any]:
        x = numbers(self.name, x)
        return x.reshape(x.shape[0], int(np.prod(x.shape[1:], dtype=int))), x.shape

    def backward(self, dy: Array, cache: Any) -> tuple[Array, dict[str, Array]]:
        return dy.reshape(cache), {}


class _Pooling(Layer):
    """Base of the poolings over time: (batch, time, features) → (batch, features)."""

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        if len(input_shape) != 3:
            raise ValueError(
                f"{self.name}: expected input of shape (batch, time, features), received "
                f"{tuple(input_shape)}"
            )
        return (input_shape[0], input_shape[2])

    def compute_mask(self, x: Array, mask: Mask | None = None) -> None:
        return None

    def _real(self, x: Array, mask: Mask | None) -> Array:
        """(batch, time, 1) bool: which steps count."""
        self.compute_output_shape(x.shape)
        if mask is None:
            return xp.ones((*x.shape[:2], 1), dtype=bool)
        mask.require_shape(self.name, x.shape)
        return to_device(mask.array)[..., None]


class GlobalAveragePooling1D(_Pooling):
    """The mean over the real steps; 0 for a row that has none."""

    def forward(
        self, x: Array, mask: Mask | None = None, training: bool = False
    ) -> tuple[Array, Any]:
        x = numbers(self.name, x)
        real = self._real(x, Mask.of(mask))
        weight = real / xp.maximum(real.sum(axis=1, keepdims=True), 1)
        weight = weight.astype(x.dtype)
        return (xp.where(real, x, xp.zeros((), x.dtype)) * weight).sum(axis=1), weight

    def backward(self, dy: Array, cache: Any) -> tuple[Array, dict[str, Array]]:
        return dy[:, None, :] * cache, {}


class GlobalMaxPooling1D(_Pooling):
    """The maximum over the real steps, 0 for a row that has none.

    Of equal maxima, the first gets the gradient.
    """

    def forward(
        self, x: Array, mask: Mask | None = None, training: bool = False
    ) -> tuple[Array, Any]:
        x = numbers(self.name, x)
        real, shape = self._real(x, Mask.of(mask)), x.shape
        if x.shape[1] == 0:  # no step at all: the same as one that is not real
            x = xp.zeros((x.shape[0], 1, x.shape[2]), x.dtype)
            real = xp.zeros((x.shape[0], 1, 1), dtype=bool)
        candidates = xp.where(real, x.real, -xp.inf)
        first = xp.argmax(candidates, axis=1)[:, None, :]
        some = real.any(axis=1)
        y = xp.where(some, xp.take_along_axis(x, first, axis=1)[:, 0, :], xp.zeros((), x.dtype))
        return y, (shape, first, some)

    def backward(self, dy: Array, cache: Any) -> tuple[Array, dict[str, Array]]:
        shape, first, some = cache
        steps = xp.arange(shape[1])[None, :, None]
        chosen = (steps == first) & some[:, None, :]
        return xp.where(chosen, dy[:, None, :], xp.zeros((), dy.dtype)), {}
