"""Activation functions, each with its derivative written in terms of its output.

Backpropagation meets an activation when its output is known and its input is long gone, so every
derivative here is a function of the output `y` alone.

>>> from minirnn.backend import xp
>>> y = sigmoid(xp.zeros(2))
>>> y, sigmoid.derivative(y)
(array([0.5, 0.5]), array([0.25, 0.25]))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minirnn.backend import Array, xp
from minirnn.lookup import by_name


class Activation:
    """A function of each element, with its derivative.

    function: `function(a, out=None) -> y`; `out` may be `a` itself.
    derivative: `derivative(y) -> dy/da`, a new array of the same shape as `y`.

    An activation of one's own is made the same way, and goes wherever a name goes.
    """

    def __init__(
        self, name: str, function: Callable[..., Array], derivative: Callable[[Array], Array]
    ) -> None:
        self.name = name
        self.function = function
        self.derivative = derivative

    @property
    def raw(self) -> Callable[[Array, Array], Array]:
        """`raw(a, out)`, with nothing around it that a time loop would pay for at each step."""
        return xp.tanh if self is tanh else self.function

    def __call__(self, a: Array, out: Array | None = None) -> Array:
        return self.function(a, out=out)

    def backward(self, dy: Array, y: Array) -> Array:
        """The gradient of the input, from the gradient of the output."""
        return dy * self.derivative(y)

    def __deepcopy__(self, memo: dict[int, Any]) -> Activation:
        return self  # it never changes, and copies of a layer are to know it by `is`

    def __reduce__(self) -> Any:
        if NAMES.get(self.name) is self:
            return get, (self.name,)  # ours are found again by name; lambdas cannot be pickled
        return Activation, (self.name, self.function, self.derivative)

    def __repr__(self) -> str:
        return f"<activation {self.name}>"


class _Softmax(Activation):
    """y = exp(a) / sum(exp(a)) over the last axis: every input moves every output."""

    def __init__(self) -> None:
        super().__init__("softmax", _softmax, self._refuse)

    def backward(self, dy: Array, y: Array) -> Array:
        return y * (dy - (dy * y).sum(axis=-1, keepdims=True))

    @staticmethod
    def _refuse(y: Array) -> Array:
        raise ValueError(
            "softmax: it mixes the elements of a row, so it has no derivative by element and "
            "cannot serve inside a cell. Use it in the last layer."
        )


def _softmax(a: Array, out: Array | None = None) -> Array:
    if not a.size:
        return _linear(a, out)
    # Shifting a row changes nothing but keeps exp from overflowing; .real serves complex steps.
    y = xp.subtract(a, a.real.max(axis=-1, keepdims=True), out=out)
    xp.exp(y, out=y)
    y /= y.sum(axis=-1, keepdims=True)
    return y


def _sigmoid(a: Array, out: Array | None = None) -> Array:
    # 1 / (1 + exp(-a)) = (tanh(a / 2) + 1) / 2, which cannot overflow.
    y = xp.multiply(a, 0.5, out=out)
    xp.tanh(y, out=y)
    y *= 0.5
    y += 0.5
    return y


def _hard_sigmoid(a: Array, out: Array | None = None) -> Array:
    y = xp.multiply(a, 1 / 6, out=out)
    y += 0.5
    return xp.clip(y, 0, 1, out=y)


def _linear(a: Array, out: Array | None = None) -> Array:
    if out is None or out is a:
        return a
    out[...] = a
    return out


def _softplus(a: Array, out: Array | None = None) -> Array:
    return xp.logaddexp(a, 0, out=out)


def _elu(a: Array, out: Array | None = None) -> Array:
    y = xp.where(a > 0, a, xp.expm1(xp.minimum(a, 0)))
    return _linear(y, out)


def _one(y: Array) -> Array:
    return xp.ones_like(y)


tanh = Activation("tanh", lambda a, out=None: xp.tanh(a, out=out), lambda y: 1 - y * y)
sigmoid = Activation("sigmoid", _sigmoid, lambda y: y * (1 - y))
hard_sigmoid = Activation(
    "hard_sigmoid", _hard_sigmoid, lambda y: ((y > 0) & (y < 1)).astype(y.dtype) * (1 / 6)
)
relu = Activation(
    "relu", lambda a, out=None: xp.maximum(a, 0, out=out), lambda y: (y > 0).astype(y.dtype)
)
elu = Activation("elu", _elu, lambda y: xp.where(y > 0, 1, y + 1).astype(y.dtype))
softplus = Activation("softplus", _softplus, lambda y: -xp.expm1(-y))
exponential = Activation("exponential", lambda a, out=None: xp.exp(a, out=out), lambda y: y.copy())
linear = Activation("linear", _linear, _one)
softmax = _Softmax()

NAMES = {
    activation.name: activation
    for activation in (
        tanh,
        sigmoid,
        hard_sigmoid,
        relu,
        elu,
        softplus,
        exponential,
        linear,
        softmax,
    )
}


def get(identifier: Any) -> Activation:
    """The activation of this name; None is `linear`; an Activation is itself.

    Raises:
        ValueError, TypeError: for anything else.
    """
    if identifier is None:
        return linear
    if isinstance(identifier, Activation):
        return identifier
    return by_name("activation", identifier, NAMES)
