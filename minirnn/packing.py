"""Masking is deleting steps: from a mask, the plan of which steps exist and in what order they run.

Legend: B rows in the batch, T padded time steps, N real steps in all rows together.

A padded batch wastes work on steps that are not there. A `Packing` lays the real steps one after
another, time-major: first the first real step of every row, then the second of every row that has
one, and so on, rows sorted by how many real steps they have. Step k of all rows then stands in one
block, and each block's rows are a prefix of the block before:

    row 0:  a b c d           sorted by length: row 2, row 0, row 1
    row 1:  e f . .
    row 2:  g h i j k   →     g a e | h b f | i c | j d | k      batch_sizes = [3, 3, 2, 2, 1]

Any mask goes this way: padding behind, in front, holes, an empty row, or no mask at all; backwards
in time as well (each row from its last real step to its first).

The states of a run are kept in a *history* of B + N rows: first the initial state of every row (in
sorted order), then the state after each packed step.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from minirnn.backend import get_backend, to_device


class Packing:
    """The plan for one mask and one direction: made on the host, its index arrays then moved.

    Attributes:
        shape: (B, T) of the padded batch.
        order: (B,) the rows of the batch, longest first (stable).
        batch_sizes: how many rows have a k-th real step, for k = 0, 1, ...; falling.
        steps: for each k three slices: step k's block in the packed order, and the history rows of
            the states before and after it.
        gather: (N,) flat padded position b * T + t of each packed step.
        rows: (N,) row b of each packed step; ranks: (N,) that row's place in `order`.
        previous: (N,) history row that holds the state before each packed step.
        source: (B, T) history row of the state that each padded position shows: the one after the
            last real step taken so far, or the initial one.
        final: (B,) history row of each row's last state.
        repeats: whether some position shows a state that another one shows too.
        runs, run_sources: where, in the flat padded order, each run of positions that show one
            state starts, and the history row of that state.
    """

    def __init__(self, mask: np.ndarray, reverse: bool = False) -> None:
        B, T = self.shape = mask.shape
        walked = mask[:, ::-1] if reverse else mask
        lengths = walked.sum(axis=1)
        steps = int(lengths.max(initial=0))

        self.order = np.argsort(-lengths, kind="stable")
        rank = np.empty(B, dtype=np.int64)
        rank[self.order] = np.arange(B)

        sizes = B - np.searchsorted(np.sort(lengths), np.arange(steps), side="right")
        offsets = np.zeros(steps + 1, dtype=np.int64)
        np.cumsum(sizes, out=offsets[1:])
        self.batch_sizes: list[int] = sizes.tolist()
        N = int(offsets[-1])

        self.steps: list[tuple[slice, slice, slice]] = []
        before = 0
        for start, n in zip(offsets.tolist(), self.batch_sizes, strict=False):
            block = slice(start, start + n)
            after = slice(B + start, B + start + n)
            self.steps.append((block, slice(before, before + n), after))
            before = B + start

        # How many real steps each row has taken once it has walked past each position.
        taken = np.cumsum(walked, axis=1)
        in_history = np.concatenate([[0], B + offsets[:-1]])  # where the states after k steps start
        source = in_history[taken] + rank[:, None]
        self.final = in_history[lengths] + rank

        position = np.arange(B * T).reshape(B, T)
        if reverse:
            position = position[:, ::-1]
        self.gather = np.empty(N, dtype=np.int64)
        self.gather[source[walked] - B] = position[walked]
        self.rows = self.gather // max(T, 1)
        self.ranks = rank[self.rows]
        self.source = source[:, ::-1] if reverse else source

        # The state before step k stands in step k - 1's block, in the same place from its start.
        block_before = np.concatenate([[B], sizes])[:steps]
        self.previous = np.arange(B, B + N) - np.repeat(block_before, sizes)

        # Masked positions repeat a state, so its gradient is a sum. Each run of positions that show
        # one state stands together in time, which is all that summing needs to know.
        self.repeats = not mask.all()
        flat = self.source.reshape(-1)
        starts = np.ones(B * T, dtype=bool)
        starts[1:] = flat[1:] != flat[:-1]
        self.runs = np.flatnonzero(starts)
        self.run_sources = flat[self.runs]

        for name in ("order", "ranks", "gather", "rows", "previous", "source", "final"):
            setattr(self, name, to_device(getattr(self, name)))
        self.runs, self.run_sources = to_device(self.runs), to_device(self.run_sources)

    def __len__(self) -> int:
        """N, the number of real steps."""
        return len(self.gather)


class Mask:
    """Which steps of a padded batch are real; one object travels through all layers of a model.

    Its packings are computed once, however many recurrent layers use them.

    Attributes:
        array: (batch, time) bool on the host, True = a real step.
    """

    def __init__(self, array: Any) -> None:
        array = np.asarray(array)
        if array.ndim != 2 or array.dtype != bool:
            raise ValueError(
                "mask: expected booleans of shape (batch, time), True = a real step; received "
                f"{array.dtype} of shape {array.shape}"
            )
        self.array = array
        self._packings: dict[bool, Packing] = {}

    @classmethod
    def of(cls, mask: Any) -> Mask | None:
        """`mask` itself if it is a Mask or None, else a Mask of these booleans."""
        return mask if mask is None or isinstance(mask, Mask) else cls(mask)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.array, dtype=dtype) if copy else np.asarray(self.array, dtype=dtype)

    def __repr__(self) -> str:
        return f"Mask({self.array!r})"

    @property
    def shape(self) -> tuple[int, int]:
        return self.array.shape

    def require_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Raises ValueError unless the mask is that of an input of this shape (batch, time, ...).

        name: the layer's, for the message.
        """
        if self.shape != tuple(shape[:2]):
            raise ValueError(
                f"{name}: the mask has shape {self.shape}, the input (batch, time) is "
                f"{tuple(shape[:2])}; they must be equal"
            )

    @functools.cached_property
    def real(self) -> Any:
        """(N,) flat positions b * T + t of the real steps, in the batch's order; on the device."""
        return to_device(np.flatnonzero(self.array))

    def packing(self, reverse: bool = False) -> Packing:
        """The plan for walking the real steps forwards, or backwards in time."""
        if reverse not in self._packings:
            self._packings[reverse] = Packing(self.array, reverse)
        return self._packings[reverse]

    def reversed(self) -> Mask:
        """The mask of the same batch with its time axis turned round."""
        return Mask(self.array[:, ::-1])


def full_mask(batch: int, time: int) -> Mask:
    """The mask of a batch without padding: every step is real."""
    return _full_mask(batch, time, get_backend())


@functools.lru_cache(maxsize=64)
def _full_mask(batch: int, time: int, backend: str) -> Mask:
    return Mask(np.ones((batch, time), dtype=bool))
