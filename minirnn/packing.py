"""Masking is deleting steps: from a mask, the plan of which steps exist and in what order they run.

Legend: B rows in the batch, T padded time steps, N real steps in all rows together.

A padded batch wastes work on steps that are not there. A `Packing` lays the real steps one after
another, time-major: first the first real step of every row, then the second of every row that has
one, and so on, rows sorted by how many real steps they have. Step k of all rows then stands in one
block, and each block's rows are a prefix of the block before:

    row 0:  a b c d           sorted by length: row 2, row 0, row 1
    row 1:  e f . .
    row 2:  g h i j k   →     g a e | h b f | i c | j d | k      batch_sizes = [3, 3, 2, 2, 1]

Any mask goes this way: padding behind, in front, holes, an empty row, or no mask at all. Backwards
in time the same blocks are walked from the last to the first: each row joins in its last real step.

The states of a run are kept in a *history* of B + N rows: first the initial state of every row (in
sorted order), then the state after each packed step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from typing import Any, NamedTuple

import numpy as np

from minirnn.backend import Array, get_backend, to_device, xp
from minirnn.checks import host_array
from minirnn.compiled import for_floats


class Layout:
    """Where the real steps of a mask stand when packed: made on the host, for both directions.

    Attributes:
        shape: (B, T) of the padded batch.
        lengths: (B,) how many real steps each row has, on the host.
        order: (B,) the rows of the batch, longest first (stable).
        stretches: neighbouring steps that the same rows take, together: `(k, n, block)` for k steps
            of n rows, the first of whose blocks begins at `block` in the packed order.
        batch_sizes: n of each step; falling.
        offsets: where each step's block begins, and where the last one ends; on the host.
        positions: (N,) flat padded position b * T + t of each packed step, on the host;
            `gather` is the same on the device.
    """

    def __init__(self, mask: np.ndarray) -> None:
        self.shape = mask.shape
        self.mask = mask
        self.lengths = np.add.reduce(mask, axis=1)
        self.host_order = order = np.argsort(-self.lengths, kind="stable")

        self.stretches: list[tuple[int, int, int]] = []
        block = taken = 0
        lengths = self.lengths[order].tolist()
        for n in range(len(lengths), 0, -1):  # n rows go on until the n-th longest ends
            k = lengths[n - 1] - taken
            if k:
                self.stretches.append((k, n, block))
                block, taken = block + k * n, taken + k
        self.steps = block

        k, n = (np.array([part[i] for part in self.stretches], dtype=np.int64) for i in (0, 1))
        self.sizes = np.repeat(n, k)
        self.offsets = np.zeros(taken + 1, dtype=np.int64)
        np.cumsum(self.sizes, out=self.offsets[1:])
        self.positions = self._place_steps(mask, order)
        self.order = to_device(order)

    def _place_steps(self, mask: np.ndarray, order: np.ndarray) -> np.ndarray:
        kernels = for_floats(np.float32)
        if kernels is not None:
            positions = np.empty(self.steps, dtype=np.int64)
            kernels.place_steps(np.ascontiguousarray(mask), order, self.offsets, positions)
            return positions
        position = np.flatnonzero(mask)  # row by row
        before = np.cumsum(self.lengths) - self.lengths
        k = np.repeat(np.arange(len(self.sizes)), self.sizes)
        return position[before[order][self.host_ranks] + k]

    @functools.cached_property
    def gather(self) -> Array:
        return to_device(self.positions)

    @functools.cached_property
    def batch_sizes(self) -> list[int]:
        return self.sizes.tolist()

    # For kernels, which count in 32 bits.

    @functools.cached_property
    def device_lengths(self) -> Array:
        """(B,) how many real steps each row has, longest first."""
        return to_device(self.lengths[self.host_order].astype(np.int32))

    @functools.cached_property
    def device_offsets(self) -> Array:
        return to_device(self.offsets.astype(np.int32))

    @functools.cached_property
    def rank(self) -> np.ndarray:
        """(B,) the place of each row in `order`."""
        rank = np.empty_like(self.host_order)
        rank[self.host_order] = np.arange(len(rank))
        return rank

    @functools.cached_property
    def host_ranks(self) -> np.ndarray:
        """(N,) the place in `order` of each packed step's row: its place in the block."""
        return np.arange(self.steps) - np.repeat(self.offsets[:-1], self.sizes)

    @functools.cached_property
    def ranks(self) -> Array:
        return to_device(self.host_ranks)

    @functools.cached_property
    def rows(self) -> Array:
        """(N,) row b of each packed step."""
        return self.gather // max(self.shape[1], 1)


class Packing:
    """The plan for one mask and one direction.

    Attributes:
        layout: where the steps stand; its attributes of the same names stand here, too.
        reverse: whether it walks from the last block to the first.
        previous: (N,) history row that holds the state before each packed step.
        source: (B, T) history row of the state that each padded position shows: the one after the
            last real step taken so far, or the initial one.
        final: (B,) history row of each row's last state.
        repeats: whether some position shows a state that another one shows too.
        runs, run_sources: where, in the flat padded order, each run of positions that show one
            state starts (on the host), and the history row of that state.
    """

    def __init__(self, mask: np.ndarray | Layout, reverse: bool = False) -> None:
        self.layout = layout = mask if isinstance(mask, Layout) else Layout(mask)
        self.reverse = reverse
        self.shape, self.order = layout.shape, layout.order
        self.stretches = layout.stretches

    def __len__(self) -> int:
        """N, the number of real steps."""
        return self.layout.steps

    @functools.cached_property
    def reversed(self) -> Packing:
        """The plan for the same steps, walked the other way."""
        return Packing(self.layout, not self.reverse)

    @property
    def gather(self) -> Array:
        return self.layout.gather

    @property
    def batch_sizes(self) -> list[int]:
        return self.layout.batch_sizes

    @property
    def ranks(self) -> Array:
        return self.layout.ranks

    @property
    def rows(self) -> Array:
        return self.layout.rows

    # -- between padded and packed --

    def pack(self, x: Array) -> Array:
        """(B, T, features) → the real steps (N, features)."""
        B, T = self.shape
        return xp.take(x.reshape(B * T, x.shape[-1]), self.gather, axis=0)

    def unpack(self, steps: Array) -> Array:
        """The opposite: (B, T, features), where masked positions hold 0."""
        B, T = self.shape
        padded = xp.zeros((B * T, steps.shape[-1]), steps.dtype)
        padded[self.gather] = steps
        return padded.reshape(B, T, steps.shape[-1])

    # -- the history --

    def states_before(self, states: Array) -> Array:
        """(N, U): the state before each packed step, from a history (B + N, U)."""
        if not self.reverse and not self.repeats:
            return states[: len(self)]  # all rows take all steps: no copy
        return xp.take(states, self.previous, axis=0)

    @functools.cached_property
    def previous(self) -> Array:
        layout, B = self.layout, self.shape[0]
        sizes, own = layout.sizes, np.arange(B, B + len(self))
        if not self.reverse:
            # In the block before, in the same place from its start.
            return to_device(own - np.repeat(np.concatenate([[B], sizes])[: len(sizes)], sizes))
        # In the block behind, unless the row joins here.
        ranks, behind = layout.host_ranks, np.concatenate([sizes[1:], [0]])[: len(sizes)]
        joins = ranks >= np.repeat(behind, sizes)
        return to_device(np.where(joins, ranks, own + np.repeat(sizes, sizes)))

    def _after(self, taken: np.ndarray, last: np.ndarray, rank: np.ndarray) -> np.ndarray:
        """History rows of the states after so many steps, the last of them being step `last`."""
        return np.where(taken > 0, self.shape[0] + self.layout.offsets[last], 0) + rank

    @functools.cached_property
    def final(self) -> Array:
        lengths = self.layout.lengths
        last = lengths * 0 if self.reverse else lengths - 1
        return to_device(self._after(lengths, last, self.layout.rank))

    @functools.cached_property
    def _host_source(self) -> np.ndarray:
        layout = self.layout
        # How many real steps each row has taken once it has walked past each position.
        walked = layout.mask[:, ::-1] if self.reverse else layout.mask
        taken = np.cumsum(walked, axis=1)
        last = layout.lengths[:, None] - taken if self.reverse else taken - 1
        source = self._after(taken, last, layout.rank[:, None])
        return source[:, ::-1] if self.reverse else source

    @functools.cached_property
    def source(self) -> Array:
        return to_device(self._host_source)

    @functools.cached_property
    def repeats(self) -> bool:
        return len(self) < self.shape[0] * self.shape[1]

    # Masked positions repeat a state, so its gradient is a sum. Each run of positions that show
    # one state stands together in time, which is all that summing needs to know.

    @functools.cached_property
    def runs(self) -> np.ndarray:
        flat = self._host_source.reshape(-1)
        starts = np.ones(len(flat), dtype=bool)
        starts[1:] = flat[1:] != flat[:-1]
        return np.flatnonzero(starts)

    @functools.cached_property
    def run_sources(self) -> Array:
        return to_device(self._host_source.reshape(-1)[self.runs])

    # -- walking --

    @functools.cached_property
    def plan(self) -> np.ndarray:
        """The walk in numbers, (stretches, 4) int64: k steps of n rows, the first of whose blocks
        begins at a certain packed step, and how far on the next one begins."""
        plan = [
            (k, n, block + (k - 1) * n, -n) if self.reverse else (k, n, block, n)
            for k, n, block in self._walked()
        ]
        return np.array(plan, dtype=np.int64).reshape(-1, 4)

    def _walked(self) -> list[tuple[int, int, int]]:
        """The stretches in the order walked."""
        return self.stretches[::-1] if self.reverse else self.stretches

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
        histories, B = list(states), self.shape[0]
        last = [history[: 0 if self.reverse else B] for history in histories]
        for k, n, block in self._walked():
            along = [self._by_step(array, block, k, n) for array in steps]
            after = [list(self._by_step(history, B + block, k, n)) for history in histories]
            before = []
            for i, (history, views) in enumerate(zip(histories, after, strict=True)):
                start = last[i][:n]
                if len(start) < n:  # further rows join, each in its initial state
                    start = xp.concatenate([start, history[len(start) : n]])
                before.append(chain((start,), views))
                last[i] = views[-1]
            yield from zip(*along, *before, *after, *_prefixes(rows, n, k), strict=False)

    def walk_back(
        self, steps: Iterable[Array | None], rows: Iterable[Array | None] = ()
    ) -> Iterator[tuple[Any, ...]]:
        """As `walk`, from the last step to the first, without states."""
        for k, n, block in self._walked()[::-1]:
            along = [self._by_step(array, block, k, n) for array in steps]
            backwards = [views[::-1] for views in along]
            yield from zip(*backwards, *_prefixes(rows, n, k), strict=True)

    def _by_step(self, array: Array | None, start: int, k: int, n: int) -> Any:
        """Rows `start` to `start + k * n` of (rows, ...), as k views (n, ...), in the order walked;
        or None k times."""
        if array is None:
            return (None,) * k
        block = array[start : start + k * n]
        if k == 1:
            return (block,)
        views = block.reshape(k, n, *array.shape[1:])
        return views[::-1] if self.reverse else views


def _prefixes(rows: Iterable[Array | None], n: int, k: int) -> list[Iterator[Any]]:
    """The first n rows of each array, k times."""
    return [repeat(None if array is None else array[:n], k) for array in rows]


class Packed(NamedTuple):
    """The real steps of a batch without the padding between them: what packing layers hand on.

    steps: (N, features), in the order of the packing.
    """

    steps: Array
    packing: Packing

    @property
    def shape(self) -> tuple[int, int, int]:
        """That of the padded batch."""
        return (*self.packing.shape, self.steps.shape[-1])


def packs(forward: Callable) -> Callable:
    """Marks a layer's `forward` that knows `Packed`, in or out; one that overrides it is unmarked.

    It takes an argument `packing`: where that is given, the output is `Packed` by it, and so is
    then the gradient that `backward` is given.
    """
    forward.packs = True  # type: ignore[attr-defined]
    return forward


class Mask:
    """Which steps of a padded batch are real; one object travels through all layers of a model.

    Its packings are computed once, however many recurrent layers use them.

    Attributes:
        array: (batch, time) bool on the host, True = a real step.
    """

    def __init__(self, array: Any) -> None:
        array = host_array("mask", array)
        if array.ndim != 2 or array.dtype != bool:
            raise ValueError(
                "mask: expected booleans of shape (batch, time), True = a real step; received "
                f"{array.dtype} of shape {array.shape}"
            )
        self.array = array

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

    @functools.cached_property
    def _forwards(self) -> Packing:
        return Packing(self.array)

    def packing(self, reverse: bool = False) -> Packing:
        """The plan for walking the real steps forwards, or backwards in time."""
        return self._forwards.reversed if reverse else self._forwards

    def reversed(self) -> Mask:
        """The mask of the same batch with its time axis turned round."""
        return Mask(self.array[:, ::-1])


def full_mask(batch: int, time: int) -> Mask:
    """The mask of a batch without padding: every step is real."""
    return _full_mask(batch, time, get_backend())


@functools.lru_cache(maxsize=64)
def _full_mask(batch: int, time: int, backend: str) -> Mask:
    return Mask(np.ones((batch, time), dtype=bool))
