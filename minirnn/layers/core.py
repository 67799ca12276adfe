"""The layers that are not about time: Dense and what goes with it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from minirnn import activations, checks, initializers
from minirnn.backend import Array, to_device, xp
from minirnn.base import Layer, Shape
from minirnn.checks import flag, numbers, share, text, whole_number, with_dtype
from minirnn.dropout import draw_dropout
from minirnn.packing import Mask, full_mask


class Input(Layer):
    """The shape of one row of input, without the batch: lets a model be built before it sees data.

    Args:
        shape: such as (None,) for token ids, (None, 64) for vectors, () for text.
    """

    def __init__(
        self,
        shape: Shape = (),
        batch_size: int | None = None,
        dtype: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not isinstance(shape, (tuple, list)):
            raise TypeError(f"shape: expected a tuple such as (None, 64), received {shape!r}")
        self.shape = tuple(None if n is None else whole_number("shape", n) for n in shape)
        self.batch_size = None if batch_size is None else whole_number("batch_size", batch_size)
        self.dtype = None if dtype is None else text("dtype", dtype)
        self.built = True

    def forward(
        self, x: Array, mask: Mask | None = None, training: bool = False
    ) -> tuple[Array, Any]:
        return x, None

    def backward(self, dy: Array, cache: Any) -> tuple[Array, dict[str, Array]]:
        return dy, {}


class RealSteps:
    """Lets a layer that works step by step see the real steps only.

    So padding costs nothing, and whatever stands under the mask changes nothing: what a product
    gives for a row may differ in the last bit with the number of rows that it is given.
    """

    def __init__(self, name: str, x: Array, mask: Mask | None) -> None:
        self.shape = x.shape[:2]
        self.real = None
        if mask is not None and x.ndim > 2:
            mask.require_shape(name, x.shape)
            self.real = mask.real

    def take(self, x: Array) -> Array:
        """(batch, time, ...) → the real steps (N, ...); x itself where there is no mask."""
        if self.real is None:
            return x
        return x.reshape(self.shape[0] * self.shape[1], *x.shape[2:])[self.real]

    def put(self, y: Array) -> Array:
        """The opposite: masked steps show 0."""
        if self.real is None:
            return y
        padded = xp.zeros((self.shape[0] * self.shape[1], *y.shape[1:]), y.dtype)
        padded[self.real] = y
        return padded.reshape(*self.shape, *y.shape[1:])


class Dense(Layer):
    """y = activation(x W + b): (..., features) → (..., units); the same at each step.

    With a mask, masked steps are left out and show 0.
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.units = whole_number("units", units)
        self.activation = activations.get(activation)
        self.use_bias = flag("use_bias", use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)

    def build(self, input_shape: Shape) -> None:
        if len(input_shape) < 2 or input_shape[-1] is None:
            raise ValueError(
                f"{self.name}: expected input of shape (batch, ..., features), received "
                f"{tuple(input_shape)}"
            )
        self.add_weight("kernel", (int(input_shape[-1]), self.units), self.kernel_initializer)
        if self.use_bias:
            self.add_weight("bias", (self.units,), self.bias_initializer)
        self.built = True

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.units)

    def split_activation(self) -> tuple[Dense, activations.Activation]:
        """This layer without its activation (the weights are shared), and the activation.

        A loss that is computed from the logits, being more exact, needs the two apart.
        """
        twin = copy.copy(self)
        twin.activation = activations.linear
        return twin, self.activation

    def forward(
        self, x: Array, mask: Mask | None = None, training: bool = False
    ) -> tuple[Array, Any]:
        self.require_built()
        W = self._weights["kernel"]
        x = numbers(self.name, x, W.dtype)
        if x.ndim < 2 or x.shape[-1] != W.shape[0]:
            raise ValueError(
                f"{self.name}: expected input of shape (batch, ..., {W.shape[0]}), "
                f"received {x.shape}"
            )
        steps = RealSteps(self.name, x, Mask.of(mask))
        x = steps.take(x)
        a = x @ W  #                                            1   a = x W + b
        if self.use_bias:
            a += self._weights["bias"]
        y = self.activation(a, out=a)  #                        2   y = activation(a)
        return steps.put(y), (steps, x, y)

    def backward(self, dy: Array, cache: Any) -> tuple[Array, dict[str, Array]]:
        steps, x, y = cache
        W = self._weights["kernel"]
        da = dy = steps.take(dy)
        if self.activation is not activations.linear:
            da = self.activation.backward(dy, y)  #             2   da = dy ⊙ activation'(a)
        flat_da = da.reshape(-1, self.units)
        flat_x = x.reshape(len(flat_da), W.shape[0])
        grads = {"kernel": flat_x.T @ flat_da}  #               1   dW = xᵀ da
        if self.use_bias:
            grads["bias"] = flat_da.sum(axis=0)  #              1   db = Σ da
        return steps.put(da @ W.T), grads  #                    1   dx = da Wᵀ


class Activation(Layer):
    """An activation as a layer of its own."""

    def __init__(self, activation: Any, **options: Any) -> None:
        super().__init__(**options)
        self.activation = activations.get(activation)

    def split_activation(self) -> tuple[Layer, activations.Activation]:
        """As `Dense.split_activation`."""
        return Activation("linear", name=self.name), self.activation

    def forward(
        self, x: Array, mask: Mask | None = None, training: bool = False
    ) -> tuple[Array, Any]:
        y = self.activation(numbers(self.name, x))
        return y, y

    def backward(self, dy: Array, cache: Any) -> tuple[Array, dict[str, Array]]:
        return self.activation.backward(dy, cache), {}


class Dropout(Layer):
    """In training, each element is 0 with probability `rate`, else scaled up by 1 / (1 - rate).

    (Srivastava et al., 2014.) With a `seed` the layer draws from a generator of its own.
    """

    def __init__(self, rate: float, seed: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.rate = share("rate", rate)
        self.seed = checks.seed("seed", seed)
        self.generator = None if seed is None else np.random.default_rng(seed)

    def forward(
        self, x: Array, mask: Mask | None = None, training: bool = False
    ) -> tuple[Array, Any]:
        x = numbers(self.name, x)
        scale = draw_dropout(self.rate, x.shape, x.dtype, training, self.generator)
        return (x if scale is None else x * scale), scale

    def backward(self, dy: Array, cache: Any) -> tuple[Array, dict[str, Array]]:
        return (dy if cache is None else dy * cache), {}


class TimeDistributed(Layer):
    """A layer applied to every step by itself: (batch, time, ...) → (batch, time, ...).

    With a mask, masked steps are left out and show 0.
    """

    def __init__(self, layer: Layer, **options: Any) -> None:
        super().__init__(**options)
        if not isinstance(layer, Layer):
            raise TypeError(f"layer: expected a layer, received {layer!r}")
        self.layer = layer

    def children(self) -> dict[str, Layer]:
        return {"": self.layer}

    def build(self, input_shape: Shape) -> None:
        if len(input_shape) < 3:
            raise ValueError(
                f"{self.name}: expected input of shape (batch, time, ...), received "
                f"{tuple(input_shape)}"
            )
        self.layer.build((None, *input_shape[2:]))
        self.built = True

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        inner = self.layer.compute_output_shape((None, *input_shape[2:]))
        return (*input_shape[:2], *inner[1:])

    def split_activation(self) -> tuple[Layer, activations.Activation]:
        """As `Dense.split_activation`, if the layer inside has one."""
        if not hasattr(self.layer, "split_activation"):
            return self, activations.linear
        twin = copy.copy(self)
        twin.layer, activation = self.layer.split_activation()
        return twin, activation

    def forward(
        self, x: Array, mask: Mask | None = None, training: bool = False
    ) -> tuple[Array, Any]:
        self.require_built()
        x = to_device(with_dtype(self.name, x))
        if x.ndim < 3:
            raise ValueError(
                f"{self.name}: expected input of shape (batch, time, ...), received {x.shape}"
            )
        steps = RealSteps(self.name, x, Mask.of(mask) or full_mask(*x.shape[:2]))
        y, cache = self.layer.forward(steps.take(x), training=training)
        return steps.put(y), (steps, cache)

    def backward(self, dy: Array, cache: Any) -> tuple[Array, dict[str, Array]]:
        steps, inner = cache
        dx, grads = self.layer.backward(steps.take(dy), inner)
        return (None if dx is None else steps.put(dx)), grads
