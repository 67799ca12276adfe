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
from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from typing import Any

import numpy as np

from minirnn.backend import Array, get_backend, to_device
from minirnn.compiled import for_floats


class Packing:
    """The plan for one mask and one direction: made on the host, its index arrays then moved.

    Attributes:
        shape: (B, T) of the padded batch.
        order: (B,) the rows of the batch, longest first (stable).
        batch_sizes: how many rows have a k-th real step, for k = 0, 1, ...; falling.
        stretches: the same, neighbouring steps of one size together: `(k, n, first, block)` for
            k steps of n rows, whose block in the packed order begins at `block`, and the state
            before whose first step stands in the history from row `first` on.
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
        self._walked = mask[:, ::-1] if reverse else mask
        self._reverse = reverse
        self._lengths = lengths = np.count_nonzero(mask, axis=1)
        order = np.argsort(-lengths, kind="stable")
        self._rank = np.empty(B, dtype=np.int64)
        self._rank[order] = np.arange(B)

        steps = np.arange(lengths.max(initial=0))
        sizes = B - np.searchsorted(lengths[order[::-1]], steps, "right")
        self._offsets = np.concatenate([[0], np.cumsum(sizes)])
        self.batch_sizes: list[int] = sizes.tolist()
        self._steps = int(self._offsets[-1])

        self.stretches: list[tuple[int, int, int, int]] = []
        first = start = taken = 0
        for n, until in zip(*_last_of_each(self.batch_sizes), strict=True):
            self.stretches.append((until - taken, n, first, start))
            start += (until - taken) * n
            first, taken = B + start - n, until

        gather, previous = self._place_steps(mask, order, sizes)
        self.gather, self.previous = to_device(gather), to_device(previous)
        self.order = to_device(order)
        self.final = to_device(self._in_history(lengths) + self._rank)

    def _place_steps(
        self, mask: np.ndarray, order: np.ndarray, sizes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """`gather` and `previous`."""
        B, T = self.shape
        kernels = for_floats(np.float32)
        if kernels is not None:
            gather, previous = np.empty((2, self._steps), dtype=np.int64)
            mask = np.ascontiguousarray(mask)
            kernels.place_steps(mask, order, self._offsets, self._reverse, gather, previous)
            return gather, previous
        # The k-th real step of the j-th longest row, for k = 0, 1, ... and all j that have one.
        lengths = self._lengths
        k, j = (np.arange(len(sizes))[:, None] < lengths[order]).nonzero()
        position = np.flatnonzero(self._walked)  # row by row, each in the order walked
        before = np.cumsum(lengths) - lengths
        gather = position[before[order][j] + k]
        if self._reverse:
            gather = gather + (T - 1) - 2 * (gather % max(T, 1))
        # The state before step k stands in step k - 1's block, in the same place from its start.
        block_before = np.concatenate([[B], sizes])[: len(sizes)]
        return gather, np.arange(B, B + self._steps) - np.repeat(block_before, sizes)

    def _in_history(self, taken: np.ndarray) -> np.ndarray:
        """Where the history's block of states after so many steps begins."""
        return np.where(taken > 0, self.shape[0] + self._offsets[taken - 1], 0)

    def __len__(self) -> int:
        """N, the number of real steps."""
        return self._steps

    @functools.cached_property
    def rows(self) -> Array:
        return self.gather // max(self.shape[1], 1)

    @functools.cached_property
    def ranks(self) -> Array:
        return to_device(self._rank)[self.rows]

    @functools.cached_property
    def _host_source(self) -> np.ndarray:
        # How many real steps each row has taken once it has walked past each position.
        taken = np.cumsum(self._walked, axis=1)
        source = self._in_history(taken) + self._rank[:, None]
        return source[:, ::-1] if self._reverse else source

    @functools.cached_property
    def source(self) -> Array:
        return to_device(self._host_source)

    @functools.cached_property
    def repeats(self) -> bool:
        return self._steps < self.shape[0] * self.shape[1]

    # Masked positions repeat a state, so its gradient is a sum. Each run of positions that show
    # one state stands together in time, which is all that summing needs to know.

    @functools.cached_property
    def _host_runs(self) -> np.ndarray:
        flat = self._host_source.reshape(-1)
        starts = np.ones(len(flat), dtype=bool)
        starts[1:] = flat[1:] != flat[:-1]
        return np.flatnonzero(starts)

    @functools.cached_property
    def runs(self) -> Array:
        return to_device(self._host_runs)

    @functools.cached_property
    def run_sources(self) -> Array:
        return to_device(self._host_source.reshape(-1)[self._host_runs])

    # -- walking --

    def walk(
        self,
        steps: Iterable[Array | None],
        states: Iterable[Array] = (),
        rows: Iterable[Array | None] = (),
    ) -> Iterator[tuple[Any, ...]]:
        """Step by step, from the first to the last, the views that a cell works on.

        Args:
            steps: arrays (N, width) of one row per packed step.
            states: histories (B + N, width).
            rows: arrays (B, width) of one row per row of the batch, longest first.

        Yields for each step: the (n, width) of the n rows that take it, of each array of
        `steps`; the states before it, of each history; the states after it; and the part of each
        array of `rows`. None stays None.
        """
        states, B = list(states), self.shape[0]
        for k, n, first, block in self.stretches:
            after = [_by_step(history, B + block, k, n) for history in states]
            before = [
                chain((history[first : first + n],), views)
                for history, views in zip(states, after, strict=True)
            ]
            along = [_by_step(array, block, k, n) for array in steps]
            yield from zip(*along, *before, *after, *_prefixes(rows, n, k), strict=False)

    def walk_back(
        self, steps: Iterable[Array | None], rows: Iterable[Array | None] = ()
    ) -> Iterator[tuple[Any, ...]]:
        """As `walk`, from the last step to the first, without states."""
        for k, n, _, block in reversed(self.stretches):
            along = [_by_step(array, block, k, n) for array in steps]
            backwards = [views[::-1] for views in along]
            yield from zip(*backwards, *_prefixes(rows, n, k), strict=True)


def _by_step(array: Array | None, start: int, k: int, n: int) -> Any:
    """Rows `start` to `start + k * n` of (rows, width), as k views (n, width); or None k times."""
    if array is None:
        return (None,) * k
    block = array[start : start + k * n]
    return (block,) if k == 1 else block.reshape(k, n, -1)


def _prefixes(rows: Iterable[Array | None], n: int, k: int) -> list[Iterator[Any]]:
    """The first n rows of each array, k times."""
    return [repeat(None if array is None else array[:n], k) for array in rows]


def _last_of_each(sizes: list[int]) -> tuple[list[int], list[int]]:
    """The different values of a falling list, and how many entries have come when each ends."""
    if not sizes:
        return [], []
    ends = (np.flatnonzero(np.diff(sizes, append=0)) + 1).tolist()
    return [sizes[end - 1] for end in ends], ends


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
