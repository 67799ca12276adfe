"""Truncated backpropagation through time: long rows are learned window by window.

    row       x_1 ... x_W | x_W+1 ... x_2W | x_2W+1 ...
    forward   ──────────→ s ─────────────→ s ─────────→      the state is carried over
    backward  ←────────── | ←───────────── | ←─────────      the gradient is not

Each window is a training step, which begins in the state that the window before ended in. So
memory and the time to the first step do not grow with the rows, and weights move many times a row;
but the gradient knows of no step before its window, and is not that of the loss of the whole row
(Williams and Peng, 1990). The exact gradient in little memory is what segments.py gives.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np

from minirnn.backend import generator
from minirnn.base import Layer
from minirnn.batches import ArrayBatches, pick, rows_of_rank
from minirnn.checks import whole_number
from minirnn.layers import (
    RNN,
    Bidirectional,
    Flatten,
    GlobalAveragePooling1D,
    GlobalMaxPooling1D,
)
from minirnn.models import Sequential, layers_in_a_row
from minirnn.walks import Batch

WHOLE_ROWS = (Bidirectional, Flatten, GlobalAveragePooling1D, GlobalMaxPooling1D)


class Windows:
    """Rows cut into windows, for `fit` and `evaluate`; the states of the model go along.

        model.fit(Windows(model, x, y, window=200, batch_size=16), epochs=3)

    The recurrent layers are `stateful`. Windows of the same rows follow each other, and before the
    first of them, and after the last, the states are reset. Rows of a batch have the same number of
    windows, so that all of them end in the last one.

    With an output at every step, each window is a training step on its outputs. With one output a
    row, only the last window is one; those before it are just read, to come to its state.

    Args:
        model: Sequential, of layers that read forwards in time, step by step.
        x, y, sample_weight: as for `fit`. Padding behind a row (id 0 under `mask_zero`, say, or
            what `Masking` masks) is no part of it.
        window: W, steps in a window: how far back a gradient reaches.
        batch_size: rows side by side.
        shuffle: rows in a new order at each pass.

    Raises:
        ValueError: if a layer is not stateful, or does not work step by step, or rows and labels
            do not fit.
    """

    def __init__(
        self,
        model: Sequential,
        x: Any,
        y: Any,
        window: int,
        batch_size: int = 32,
        shuffle: bool = True,
        sample_weight: Any = None,
    ) -> None:
        self.model = model
        self.window = min(whole_number("window", window), 2**31)  # no row is longer
        self.at_each_step = gives_each_step(model)
        self.rows = ArrayBatches(x, y, sample_weight, batch_size)
        self.shuffle = shuffle
        self.lengths = lengths_of(model.layers[0], self.rows.x)
        self.counts = np.maximum(-(-self.lengths // self.window), 1)
        if self.at_each_step:
            check_labels_of_steps(self.rows)

    def share(self, rank: int, ranks: int) -> Windows:
        """The same for one rank of several, whose batches are `ranks` times as large."""
        shared = copy.copy(self)
        shared.rows = self.rows.share(rank, ranks)
        return shared

    def __len__(self) -> int:
        batches = list(self._batches(np.arange(self.rows.rows)))
        return sum(int(self.counts[b[0]]) for b in batches) if self.at_each_step else len(batches)

    def __iter__(self) -> Iterator[Batch | None]:
        number = self.rows.rows
        order = generator().permutation(number) if self.shuffle else np.arange(number)
        batches = list(self._batches(order))
        if self.shuffle:
            batches = [batches[i] for i in generator().permutation(len(batches))]
        try:
            for chosen in batches:
                self.model.reset_states()
                yield from self._windows(chosen)
        finally:
            self.model.reset_states()

    def _batches(self, order: np.ndarray) -> Iterator[np.ndarray]:
        """The rows of each batch: those with the same number of windows, in this order."""
        for count in np.unique(self.counts):
            rows = order[self.counts[order] == count]
            for start in range(0, len(rows), self.rows.batch_size):
                yield rows[start : start + self.rows.batch_size]

    def _windows(self, chosen: np.ndarray) -> Iterator[Batch | None]:
        mine = rows_of_rank(len(chosen), *self.rows.part)
        x, y, weight = (
            None if values is None else pick(values, chosen, mine)
            for values in (self.rows.x, self.rows.y, self.rows.sample_weight)
        )
        end = max(int(self.lengths[chosen].max()), 1)
        for start in range(0, end, self.window):
            steps = slice(start, min(start + self.window, end))
            if mine.start == mine.stop:
                if self.at_each_step or steps.stop == end:
                    yield None
            elif self.at_each_step:
                by_step = weight is not None and weight.ndim == 2 and weight.shape[1] > 1
                yield x[:, steps], y[:, steps], weight[:, steps] if by_step else weight
            elif steps.stop == end:
                yield x[:, steps], y, weight
            else:
                self.model.ensure_built(x)
                self.model.walk(x[:, steps], training=True)


def gives_each_step(model: Any) -> bool:
    """Whether the model has an output at every step; it must be able to go on where it stopped."""
    if not isinstance(model, Sequential):
        raise TypeError(f"model: expected a Sequential model, received {model!r}")
    model.require_layers()
    if model.vectorizer is not None:
        raise ValueError(
            f"{model.name}: it begins with a TextVectorization; make windows for a model without "
            "it, of the ids that it gives: vectorizer.ids(texts)"
        )
    layers = [layer for _, layer in layers_in_a_row(model.layers)]
    for layer in layers:
        if isinstance(layer, WHOLE_ROWS) or getattr(layer, "go_backwards", False):
            raise ValueError(
                f"{layer.name}: it needs all steps of a row at once, and a window is a part of "
                "them; long rows in one piece take little memory too (docs/long_sequences.md)"
            )
        if isinstance(layer, RNN) and not layer.stateful:
            raise ValueError(
                f"{layer.name}: expected stateful=True, so that its state is carried from window "
                "to window"
            )
    recurrent = [layer for layer in layers if isinstance(layer, RNN)]
    if not recurrent:
        raise ValueError(f"{model.name}: there is no recurrent layer to carry a state")
    return all(layer.return_sequences for layer in recurrent)


def lengths_of(first: Layer, x: Any) -> np.ndarray:
    """How many steps each row has up to its last real one."""
    if not hasattr(x, "shape"):
        return np.array([len(row) for row in x])
    if x.ndim < 2:
        raise ValueError(f"x: expected rows of steps (rows, time, ...), received shape {x.shape}")
    mask = first.compute_mask(x)
    if mask is None or x.shape[1] == 0:
        return np.full(len(x), x.shape[1])
    behind = mask.array[:, ::-1].argmax(axis=1)
    return np.where(mask.array.any(axis=1), x.shape[1] - behind, 0)


def check_labels_of_steps(rows: ArrayBatches) -> None:
    """Raises ValueError unless there is a label, or a target, for each step of each row."""
    if rows.y is None:
        raise ValueError("y: expected labels, received none")
    for row, (steps, labels) in enumerate(zip(rows.x, rows.y, strict=True)):
        if np.shape(labels)[:1] != (len(steps),):
            raise ValueError(
                f"y: the model has an output at every step, so expected {len(steps)} labels for "
                f"row {row}, received shape {np.shape(labels)}"
            )
