"""Does a row's answer depend on its padding, or on the rows beside it?

A model without a mask reads the padding of a batch as if it were text: what it says about a row
then depends on how long the longest row of the batch is. `check_padding_invariance` runs a model on
the same rows with more padding, and on each row alone, and names the first layer that answers
otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minirnn.backend import to_device, to_host
from minirnn.base import RowGradient
from minirnn.checks import host_array, listed, number, whole_number
from minirnn.models import Sequential
from minirnn.text import pad_rows

TOLERANCE = 1e-4  # of the largest number in an output: what rounding may come to in float32


class PaddingReport(NamedTuple):
    """What depends on padding and batch-mates.

    passed: nothing does, but for rounding.
    bit_for_bit: more padding changes no bit, neither of an output nor of a gradient.
    layer: the first layer whose output depends on them; None if none does.
    padding, mates: the largest difference of the model's outputs, with more padding and alone.
    weights: the weights whose gradients depend on them.
    """

    passed: bool
    bit_for_bit: bool
    layer: str | None
    padding: float
    mates: float
    weights: tuple[str, ...]

    def __str__(self) -> str:
        if self.passed:
            bits = "no bit" if self.bit_for_bit else f"outputs by {self.padding:.1e}"
            return (
                f"the same answer whatever the batch: more padding changes {bits}, other rows "
                f"change outputs by {self.mates:.1e}"
            )
        begins = f"it begins in layer {self.layer!r}" if self.layer else "no output does"
        weights = f"; gradients of {', '.join(self.weights)} do, too" if self.weights else ""
        return (
            f"the answer depends on the batch: outputs move by {self.padding:.1e} with more "
            f"padding, and by {self.mates:.1e} when a row is alone; {begins}{weights}. "
            "mask_zero=True in the Embedding (or a Masking layer) lets the layers behind skip "
            "padding."
        )


def _row(ids: Any) -> np.ndarray:
    row = host_array("texts", ids)
    if row.ndim != 1 or (row.dtype.kind not in "iu" and row.size):
        raise TypeError(f"texts: expected whole numbers (token ids) in rows, received {ids!r:.80}")
    return row


def check_padding_invariance(
    model: Sequential, texts: Sequence[Any], padding: int = 7
) -> PaddingReport:
    """Compare a model's outputs and gradients on rows, on the same rows with more padding, and on
    each row alone.

    Args:
        model: a model that is built; it is not changed.
        texts: at least two rows: texts, if the model begins with a TextVectorization layer, else
            sequences of token ids. They should differ in length.
        padding: how many steps of padding are added.

    Raises:
        ValueError: for less than two rows, or a padding below 1.
    """
    model.require_built()
    if len(listed("texts", texts)) < 2 or number("padding", padding) < 1:
        raise ValueError(
            "texts, padding: expected at least 2 rows and 1 step of padding; received "
            f"{len(texts)} and {padding}"
        )
    whole_number("padding", padding)
    vectorizer, body = model.vectorizer, model.without_vectorizer()
    rows = vectorizer.ids(texts) if vectorizer is not None else [_row(t) for t in texts]
    lengths = [len(row) for row in rows]
    kind = np.result_type(np.int32, *(row.dtype for row in rows if len(row)))
    together = pad_rows([row.astype(kind) for row in rows])  # [] is no array of floats
    wider = np.pad(together, [(0, 0), (0, padding)])
    alone = [together[i : i + 1, : max(length, 1)] for i, length in enumerate(lengths)]

    outputs = body.compute_output_shape(together.shape)[-1]
    dy = np.random.default_rng(1).normal(size=(len(rows), outputs)).astype("float32")
    expected = Seen(body, together, lengths, dy)
    padded = Seen(body, wider, lengths, dy)
    each = [
        Seen(body, x, [n], dy[i : i + 1])
        for i, (x, n) in enumerate(zip(alone, lengths, strict=True))
    ]

    layer = None
    for k, name in enumerate(expected.names):
        singles = [seen.outputs[k][0] for seen in each]
        if any(
            distance(expected.outputs[k], other) > TOLERANCE
            for other in (padded.outputs[k], singles)
        ):
            layer = name
            break
    weights = tuple(
        key
        for key, gradient in expected.grads.items()
        if distance([gradient], [padded.grads[key]]) > TOLERANCE
        or distance([gradient], [sum(seen.grads[key] for seen in each)]) > TOLERANCE
    )
    last = len(expected.names) - 1
    pairs = [*zip(expected.outputs[last], padded.outputs[last], strict=True)]
    pairs += [(gradient, padded.grads[key]) for key, gradient in expected.grads.items()]
    return PaddingReport(
        passed=layer is None and not weights,
        bit_for_bit=all(np.array_equal(one, other) for one, other in pairs),
        layer=layer,
        padding=largest(expected.outputs[last], padded.outputs[last]),
        mates=largest(expected.outputs[last], [seen.outputs[last][0] for seen in each]),
        weights=weights,
    )


class Seen:
    """What a model gave for a batch.

    names: of the layers. outputs: for each layer, of each row its real steps, or its one vector.
    grads: of all weights, dense.
    """

    def __init__(
        self, model: Sequential, x: np.ndarray, lengths: Sequence[int], dy: np.ndarray
    ) -> None:
        self.names = [layer.name for layer in model.layers]
        self.outputs = []
        y, mask = x, None
        for layer in model.layers:
            out, _ = layer.forward(y, mask=layer.checked_mask(y, mask))
            mask, y = layer.compute_mask(y, mask), out
            self.outputs.append(rows_of(y, x.shape, lengths))
        y, caches, _ = model.walk(x)
        self.outputs[-1] = rows_of(y, x.shape, lengths)
        dout = np.zeros(y.shape, dtype=y.dtype)
        for row, d, length in zip(dout, dy, lengths, strict=True):
            row[: length if y.ndim == 3 else None] = d  # of an output at every step, the real ones
        _, grads = model.backward(to_device(dout), caches)
        params = model.params
        self.grads = {
            key: to_host(g.dense(params[key].shape) if isinstance(g, RowGradient) else g)
            for key, g in grads.items()
        }


def rows_of(y: Any, shape: tuple[int, ...], lengths: Sequence[int]) -> list[np.ndarray]:
    y = to_host(y)
    has_steps = y.ndim > 2 and y.shape[1] == shape[1]
    return [row[:length] if has_steps else row for row, length in zip(y, lengths, strict=True)]


def largest(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    """The largest difference of any number."""
    return max(
        (float(abs(a - b).max()) for a, b in zip(one, other, strict=True) if np.size(a)),
        default=0.0,
    )


def distance(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    """The largest difference, beside the largest number."""
    scale = max((float(abs(a).max()) for a in one if np.size(a)), default=0.0)
    return largest(one, other) / (scale or 1.0)
