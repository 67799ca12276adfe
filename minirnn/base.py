"""What every layer is: parameters, a forward pass, and the backward pass that undoes it.

`y, cache = layer.forward(x)` and `dx, grads = layer.backward(dy, cache)`. The cache is a value and
not hidden state: a layer can serve twice in one pass, nothing needs to be zeroed, and inference
from several threads is safe.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from minirnn.backend import Array, floatx, to_device, to_host, xp
from minirnn.checks import flag, text, with_dtype
from minirnn.packing import Mask

Shape = tuple[int | None, ...]


class RowGradient(NamedTuple):
    """The gradient of a table of which a batch used few rows: all other rows have gradient zero.

    ids: (rows,) int, each row's number once, rising.
    rows: (rows, features), the gradient of each of those rows.
    """

    ids: Array
    rows: Array

    def dense(self, shape: tuple[int, ...]) -> Array:
        """The same gradient as a full array of `shape`."""
        full = xp.zeros(shape, dtype=self.rows.dtype)
        full[self.ids] = self.rows
        return full


class Layer:
    """Base of all layers.

    A layer of one's own implements `forward` and `backward`, `build` if it has weights, and
    `compute_output_shape` if the shape changes. Constructor arguments are kept as attributes of the
    same names; `get_config` relies on that.

    Attributes:
        name: unique in its model.
        trainable: False freezes the layer: `fit` leaves its weights alone.
        built: whether the weights exist.
        params: name → array, in a fixed order. Optimizers change these arrays in place.
        supports_masking: whether a mask may reach this layer. One that cannot use a mask refuses
            it instead of dropping it silently.
        takes_packed: whether x may be `Packed`: real steps only, the padding left out.
    """

    supports_masking = True
    takes_packed = False

    def __init__(self, *, name: str | None = None, trainable: bool = True, **unknown: Any) -> None:
        if unknown:
            shape = {"input_shape", "input_dim", "input_length"} & set(unknown)
            hint = "; put Input(shape) in front of the model instead" if shape else ""
            raise TypeError(
                f"{type(self).__name__}: there is no argument {', '.join(unknown)}{hint}"
            )
        name = None if name is None else text("name", name)
        self.name = name or snake_case(type(self).__name__)
        self.named_by_user = name is not None
        self.trainable = flag("trainable", trainable)
        self.built = False
        self._weights: dict[str, Array] = {}

    # -- what a layer of one's own overrides --

    def build(self, input_shape: Shape) -> None:
        """Make the weights for inputs of this shape; None stands for any size."""
        self.built = True

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def compute_mask(self, x: Array, mask: Mask | None = None) -> Mask | None:
        """The mask that the next layer gets."""
        return mask

    def gives_packed(self, x: Array) -> bool:
        """Whether `forward` can give a `Packed`, for this x, to a layer that takes it."""
        return False

    def forward(
        self, x: Array, mask: Mask | None = None, training: bool = False
    ) -> tuple[Array, Any]:
        """`(y, cache)`: the output, and all that `backward` needs to know.

        x (batch, ...), floats in the dtype of the weights or ids; mask (batch, time) or None;
        training: whether dropout is at work.
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward pass")

    def backward(self, dy: Array, cache: Any) -> tuple[Array, dict[str, Any]]:
        """`(dx, grads)` from `dy`, the gradient of the output.

        dy and dx have the shapes of y and x (dx is None where x has no gradient, as token ids);
        `grads` has the keys of `params`, each an array of its weight's shape or a `RowGradient`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no backward pass")

    def children(self) -> dict[str, Layer]:
        """Layers inside this one; their weights count as its own, under a prefix."""
        return {}

    # -- calling --

    def __call__(self, x: Array, mask: Any = None, training: bool = False, **inputs: Any) -> Array:
        """The output alone. `mask`: booleans `(batch, time)`, True = a real step."""
        self.ensure_built(x)
        mask = self.checked_mask(x, mask)
        y, _ = self.forward(x, mask=mask, training=training, **inputs)
        return y

    def checked_mask(self, x: Array, mask: Any) -> Mask | None:
        """The mask as a Mask, if this layer can use one and it fits x."""
        mask = Mask.of(mask)
        if mask is not None:
            mask.require_shape(self.name, np.shape(x))
        if mask is not None and not self.supports_masking:
            raise ValueError(
                f"{self.name}: this layer cannot use a mask, and would treat padding as data. Use "
                "a layer that can (a recurrent or pooling layer), or put DropMask() before it to "
                "forget the mask on purpose."
            )
        return mask

    def ensure_built(self, x: Array) -> None:
        if isinstance(x, Layer):
            raise TypeError(
                f"{self.name}: a layer is called with an array, and received the layer {x!r}. "
                "Models are made with Sequential([...]); there is no functional API."
            )
        if not self.built:
            self.build(np.shape(x))

    def require_built(self) -> None:
        if not self.built:
            raise ValueError(
                f"{self.name}: this layer has no weights yet. Call it on a batch, or call "
                "build(input_shape), first."
            )

    # -- weights --

    @property
    def params(self) -> dict[str, Array]:
        return self._weights | self._of_children("params")

    @property
    def trainable_params(self) -> dict[str, Array]:
        """The weights that training changes: those of frozen layers are left out."""
        return self._weights | self._of_children("trainable_params") if self.trainable else {}

    def _of_children(self, which: str) -> dict[str, Array]:
        return {
            f"{prefix}_{key}" if prefix else key: value
            for prefix, child in self.children().items()
            for key, value in getattr(child, which).items()
        }

    @property
    def weights(self) -> list[Array]:
        """The weights themselves, in the order of `params`; `get_weights` gives copies."""
        return list(self.params.values())

    @property
    def trainable_weights(self) -> list[Array]:
        return list(self.trainable_params.values())

    def reset_state(self) -> None:
        """Forget the states that stateful layers carry from batch to batch."""
        for child in self.children().values():
            child.reset_state()

    def add_weight(self, key: str, shape: tuple[int, ...], initializer: Any) -> Array:
        """Make the weight `key`, drawn on the host and then moved to the device."""
        value = to_device(initializer(shape, dtype=floatx()))
        self._weights[key] = value
        return value

    def count_params(self) -> int:
        self.require_built()
        return sum(int(value.size) for value in self.params.values())

    def get_weights(self) -> list[np.ndarray]:
        """Copies of all weights, on the host, in the order of `params`."""
        return [np.array(to_host(value)) for value in self.params.values()]

    def set_weights(self, weights: list[np.ndarray]) -> None:
        """Put values, in the order of `params`, into the weights.

        Raises:
            ValueError: if their number or a shape differs.
        """
        self.require_built()
        set_arrays(self.name, self.params, weights)

    def astype(self, dtype: Any) -> Layer:
        """A copy of this layer with its weights in `dtype` (float64 for gradient checks)."""
        twin = copy.deepcopy(self)
        twin.cast(dtype)
        return twin

    def cast(self, dtype: Any) -> None:
        """Turn the weights into `dtype`, in this layer and those inside it."""
        self._weights = {key: value.astype(dtype) for key, value in self._weights.items()}
        for child in self.children().values():
            child.cast(dtype)

    # -- configuration --

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, from which an equal layer can be made."""
        config: dict[str, Any] = {}
        for key, parameter in inspect.signature(type(self).__init__).parameters.items():
            if key != "self" and parameter.kind is not parameter.VAR_KEYWORD:
                config[key] = getattr(self, key)
        return config | {"name": self.name, "trainable": self.trainable}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Layer:
        """An equal layer with new weights, from what `get_config` gave."""
        arguments = dict(config)
        trainable = arguments.pop("trainable", True)
        layer = cls(**arguments)
        layer.trainable = flag("trainable", trainable)
        return layer

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


def layers_of(layer: Layer, name: str = "") -> Iterator[tuple[str, Layer]]:
    """A layer and all inside it, by name."""
    yield name, layer
    for prefix, child in layer.children().items():
        yield from layers_of(child, f"{name}/{prefix}")


def set_arrays(owner: str, params: dict[str, Array], values: list[np.ndarray]) -> None:
    """Write `values` into the arrays of `params`, in place, if all shapes agree."""
    one = isinstance(values, (str, bytes)) or getattr(values, "shape", None) == ()
    if one or not hasattr(values, "__len__"):
        raise TypeError(f"{owner}: expected a list of arrays, received {values!r:.80}")
    if len(values) != len(params):
        raise ValueError(
            f"{owner}: expected {len(params)} arrays ({', '.join(params)}), received {len(values)}"
        )
    values = [with_dtype(f"{owner}: {key}", v) for key, v in zip(params, values, strict=True)]
    for (key, target), value in zip(params.items(), values, strict=True):
        if value.dtype.kind not in "biuf" + target.dtype.kind:
            raise TypeError(f"{owner}: {key} is made of numbers, received {value.dtype} values")
        if value.shape != target.shape:
            raise ValueError(f"{owner}: {key} has shape {target.shape}, received {value.shape}")
    for target, value in zip(params.values(), values, strict=True):
        target[...] = to_device(value, dtype=target.dtype)


def snake_case(name: str) -> str:
    """The name that Keras gives to a layer of this class.

    >>> snake_case("SimpleRNN"), snake_case("TextVectorization"), snake_case("GRU")
    ('simple_rnn', 'text_vectorization', 'gru')
    """
    words, word = [], ""
    for here, following in zip(name, name[1:] + " ", strict=True):
        starts = here.isupper() and word and (word[-1].islower() or following.islower())
        if starts:
            words.append(word)
            word = ""
        word += here
    return "_".join([*words, word]).lower()
