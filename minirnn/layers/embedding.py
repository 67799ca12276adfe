"""From token ids to vectors, and where masks begin and end."""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn import initializers
from minirnn.backend import Array, floatx, to_device, to_host, xp
from minirnn.base import Layer, RowGradient, Shape
from minirnn.checks import all_within, flag, host_array, number, numbers, whole_number
from minirnn.compiled import grouped_sums
from minirnn.packing import Mask, Packed, Packing, full_mask, packs


class Embedding(Layer):
    """Token ids to vectors: y = E[ids]. (batch, time) → (batch, time, output_dim).

    The gradient is a `RowGradient`: of the rows that the batch used, and of no others.

    Args:
        input_dim: rows of the table: the vocabulary's size, ids being 0 .. input_dim - 1.
        mask_zero: id 0 is padding, and the layers behind skip it. (Row 0 is a row like any other.)
        weights: a table to start from, (input_dim, output_dim): pretrained vectors, say. With
            `trainable=False` it stays as it is.

    Raises:
        TypeError: for ids that are not whole numbers; ValueError: for ids outside the table.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: Any = "uniform",
        mask_zero: bool = False,
        weights: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.input_dim = whole_number("input_dim", input_dim)
        self.output_dim = whole_number("output_dim", output_dim)
        self.mask_zero = flag("mask_zero", mask_zero)
        if weights is not None:
            in_a_list = isinstance(weights, (list, tuple)) and len(weights) == 1
            table = host_array("weights", weights[0] if in_a_list else weights)  # Keras: [table]
            if table.dtype.kind not in "biuf":
                raise TypeError(f"weights: expected numbers, received {table.dtype} values")
            if table.shape != (input_dim, output_dim):
                raise ValueError(
                    f"weights: expected shape ({input_dim}, {output_dim}), received {table.shape}"
                )
            embeddings_initializer = initializers.Constant(table)
        self.pretrained = weights is not None
        self.embeddings_initializer = initializers.get(embeddings_initializer)

    def build(self, input_shape: Shape) -> None:
        shape = (self.input_dim, self.output_dim)
        self.add_weight("embeddings", shape, self.embeddings_initializer)
        self.built = True

    def get_config(self) -> dict[str, Any]:
        return {
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "embeddings_initializer": "uniform" if self.pretrained else self.embeddings_initializer,
            "mask_zero": self.mask_zero,
            "name": self.name,
            "trainable": self.trainable,
        }

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape, self.output_dim)

    def compute_mask(self, x: Array, mask: Mask | None = None) -> Mask | None:
        return mask_of_ids(self.name, x) if self.mask_zero else mask

    def gives_packed(self, x: Array) -> bool:
        return np.ndim(x) == 2

    @packs
    def forward(
        self,
        x: Array,
        mask: Mask | None = None,
        training: bool = False,
        packing: Packing | None = None,
    ) -> tuple[Array | Packed, Any]:
        self.require_built()
        ids = checked_ids(self.name, x, self.input_dim)
        if packing is not None:
            ids = ids.reshape(-1)[packing.layout.positions]
        y = xp.take(self._weights["embeddings"], to_device(ids), axis=0)
        return (y if packing is None else Packed(y, packing)), ids

    def backward(self, dy: Array | Packed, cache: Any) -> tuple[None, dict[str, RowGradient]]:
        ids = cache.reshape(-1)
        if isinstance(dy, Packed):
            dy = dy.steps
        rows = dy.reshape(-1, self.output_dim)
        return None, {"embeddings": sum_equal_ids(ids, rows, self.input_dim)}


def sum_equal_ids(ids: np.ndarray, rows: Array, limit: int) -> RowGradient:
    """The gradient of a table, from rows (n, features) of which several may have one id.

    ids: (n,) on the host, below `limit`. Rows of one id are added up in the order given.
    """
    # Equal ids side by side; NumPy sorts short integers faster.
    short = ids.astype(np.uint16) if limit <= 2**16 else ids
    order = np.argsort(short, kind="stable")
    ids = ids[order]
    starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]])[: len(ids)])
    sums = grouped_sums(rows, order, starts) if len(ids) else rows
    return RowGradient(to_device(ids[starts]), sums)


LARGEST_ONE_HOT = 2**31  # numbers in the output of a batch: 8 GB


class OneHot(Layer):
    """Token ids to indicator vectors: (batch, time) → (batch, time, num_tokens), one 1 a step.

    Args:
        mask_zero: id 0 is padding, and the layers behind skip it.
    """

    def __init__(self, num_tokens: int, mask_zero: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.num_tokens = whole_number("num_tokens", num_tokens)
        self.mask_zero = flag("mask_zero", mask_zero)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape, self.num_tokens)

    def compute_mask(self, x: Array, mask: Mask | None = None) -> Mask | None:
        return mask_of_ids(self.name, x) if self.mask_zero else mask

    def forward(
        self, x: Array, mask: Mask | None = None, training: bool = False
    ) -> tuple[Array, Any]:
        ids = checked_ids(self.name, x, self.num_tokens)
        if ids.size * self.num_tokens > LARGEST_ONE_HOT:
            raise MemoryError(
                f"{self.name}: one-hot vectors of {ids.size} ids, each {self.num_tokens} long, are "
                "too large. Use an Embedding, which needs no such vectors."
            )
        y = xp.zeros((ids.size, self.num_tokens), dtype=floatx())
        y[xp.arange(ids.size), to_device(ids.reshape(-1))] = 1
        return y.reshape(*ids.shape, self.num_tokens), None

    def backward(self, dy: Array, cache: Any) -> tuple[None, dict[str, Array]]:
        return None, {}


class Masking(Layer):
    """Steps whose features all equal `mask_value` are padding: masked, and set to zero."""

    def __init__(self, mask_value: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.mask_value = number("mask_value", mask_value)

    def _real(self, x: Array) -> Array:
        if np.ndim(x) != 3:
            raise ValueError(
                f"{self.name}: expected input of shape (batch, time, features), received "
                f"{tuple(np.shape(x))}"
            )
        return (x != self.mask_value).any(axis=-1)

    def compute_mask(self, x: Array, mask: Mask | None = None) -> Mask | None:
        return Mask(to_host(self._real(numbers(self.name, x))))

    def forward(
        self, x: Array, mask: Mask | None = None, training: bool = False
    ) -> tuple[Array, Any]:
        x = numbers(self.name, x)
        real = self._real(x)[..., None]
        return xp.where(real, x, xp.zeros((), x.dtype)), real

    def backward(self, dy: Array, cache: Any) -> tuple[Array, dict[str, Array]]:
        return dy * cache, {}


class DropMask(Layer):
    """Forgets the mask, on purpose: layers behind treat padding as real steps."""

    def compute_mask(self, x: Array, mask: Mask | None = None) -> None:
        return None

    def forward(
        self, x: Array, mask: Mask | None = None, training: bool = False
    ) -> tuple[Array, Any]:
        return x, None

    def backward(self, dy: Array, cache: Any) -> tuple[Array, dict[str, Array]]:
        return dy, {}


def checked_ids(name: str, ids: Any, limit: int) -> np.ndarray:
    """`ids` as int32 on the host, if all are whole numbers from 0 to below `limit`."""
    ids = host_array(name, ids)
    whole = ids.dtype.kind in "iu" or (ids.dtype.kind == "f" and (ids == np.floor(ids)).all())
    if not whole:
        fractions = " with fractions" if ids.dtype.kind == "f" else ""
        shown = "text" if ids.dtype.kind in "OUS" else f"{ids.dtype}{fractions}"
        raise TypeError(
            f"{name}: expected whole numbers (token ids), received {shown}. Text goes through a "
            "TextVectorization layer first."
        )
    if not all_within(ids, limit):
        where = np.unravel_index(np.argmax((ids < 0) | (ids >= limit)), ids.shape)
        raise ValueError(
            f"{name}: id {ids[where]} at {tuple(map(int, where))} is outside 0..{limit - 1}. "
            "The vocabulary and this layer's size must agree."
        )
    return ids.astype(np.int32, copy=False)


def mask_of_ids(name: str, ids: Any) -> Mask:
    """Where ids (batch, time) are no padding, that is not 0."""
    ids = host_array(name, ids)
    if ids.ndim != 2:
        raise ValueError(
            f"{name}: mask_zero needs ids of shape (batch, time), received {ids.shape}"
        )
    real = ids != 0
    return full_mask(*ids.shape) if real.all() else Mask(real)  # one text alone has no padding
