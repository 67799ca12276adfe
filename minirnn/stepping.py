"""How a step of an optimizer runs over the parameters: in blocks, pools and tables.

An optimizer's rules (see `minirnn.optimizers`) work number by number, so they may run on any part
of a parameter at a time, and that is chosen for speed:

- a large parameter (`Part`) is updated block by block, so that the numbers at hand stay in cache;
- small parameters (`Pool`) are laid end to end and updated in one go;
- a table with a gradient for few of its rows (`Table`), the weights of an `Embedding`, learns from
  these rows only, and only blocks of rows that have any momentum drift, at once or when their
  weights are next looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from minirnn.backend import Array, get_backend, to_device, to_host, xp
from minirnn.base import RowGradient

BLOCK = 32_768  # numbers updated at a time: with their averages they fit in the second-level cache
LIVE_BLOCK = 4_096  # numbers of a table that rest or are updated together
SMALL = 16_384  # parameters below this size are updated together, in one go


class Learn(NamedTuple):
    """How a gradient is taken into the averages.

    take_in: `take_in(g, slots, scratch)` → what to subtract from the weights, or None.
    rows: the same for rows of tables, compiled: `rows(ids, g, *tables)`; None where there is none.
    dense: both rules of the step for any stretch of numbers, compiled: `dense(weights, g, *slots)`.
    """

    take_in: Callable[[Array, list[Array], list[Array]], Array | None]
    rows: Callable[..., None] | None = None
    dense: Callable[..., None] | None = None

    def __call__(self, g: Array, slots: list[Array], scratch: list[Array]) -> Array | None:
        return self.take_in(g, slots, scratch)


class Drift(NamedTuple):
    """How weights move in a step without looking at a gradient.

    move: `move(slots, scratch, factor, epsilon)` → what to subtract. It is proportional to
        `factor`; both are numbers, or columns (rows, 1).
    factor, epsilon: those of this step.
    steady: whether epsilon changes so slowly that one move, with the sum of the factors and the
        mean of the epsilons, can stand for the moves of many steps.
    waiting: the same for rows of a table that wait, compiled: `waiting(ids, weights, tables,
        had_factors, had_weighted, factors, weighted)`.
    """

    move: Callable[[list[Array], list[Array], Any, Any], Array]
    factor: float
    epsilon: float = 0.0
    steady: bool = True
    waiting: Callable[..., None] | None = None

    def __call__(self, slots: list[Array], scratch: list[Array]) -> Array:
        return self.move(slots, scratch, self.factor, self.epsilon)


def parts_of(params: Mapping, tables: Collection, slots: dict[str, float]) -> list[Part]:
    """How to update these parameters; on a GPU, where a call costs most, with as few as can be.

    tables: the keys of those whose gradients come by rows.
    """
    small = SMALL if get_backend() == "numpy" else math.inf
    parts: list[Part] = []
    pools: dict[Any, list[Hashable]] = {}
    for key, weights in params.items():
        table = key in tables
        if weights.flags.c_contiguous and (table or weights.size >= small):
            kind = Table if table else Part
            parts.append(kind([key], params, slots))
        else:
            pools.setdefault(weights.dtype, []).append(key)
    return parts + [Pool(keys, params, slots) for keys in pools.values()]


class Part:
    """One large parameter, updated block by block; its averages are flat arrays."""

    def __init__(self, keys: list[Hashable], params: dict, slots: dict[str, float]) -> None:
        self.keys = keys
        self.params = [params[key] for key in keys]
        self.shapes = [array.shape for array in self.params]
        self.bounds = np.cumsum([0] + [array.size for array in self.params]).tolist()
        self.size = self.bounds[-1]
        self.weights = self.flat_weights()
        self.slots = {
            name: xp.full(self.size, start, dtype=self.weights.dtype)
            for name, start in slots.items()
        }
        self.in_float32 = self.weights.dtype == np.float32  # what is compiled is for that
        self.block = BLOCK if get_backend() == "numpy" else max(self.size, 1)
        self.all_blocks = self.cut([(0, self.size)])
        self.scratch_size = min(self.size, self.block)

    def flat_weights(self) -> Array:
        return self.params[0].reshape(-1)

    def view(self, flat: Array, i: int) -> Array:
        """The numbers of the i-th parameter in a flat array, in its shape."""
        return flat[self.bounds[i] : self.bounds[i + 1]].reshape(self.shapes[i])

    def averages_of(self, key: Hashable) -> dict[str, Array]:
        i = self.keys.index(key)
        return {name: self.view(flat, i) for name, flat in self.slots.items()}

    def cut(self, spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        return [
            (start, min(start + self.block, stop))
            for first, stop in spans
            for start in range(first, stop, self.block)
        ]

    def find_live(self) -> None:
        """Only a table has rows that may rest."""

    def catch_up(self, ids: np.ndarray, scratch: list) -> None:
        """Only a table has rows that wait."""

    def settle(self, scratch: list) -> None:
        """Only a table has rows that wait."""

    lags = False  # whether it has rows that wait

    def step(
        self, grads: Mapping, learn: Learn, drift: Drift | None, scratch: list, wait: bool = False
    ) -> None:
        gradient = _densified(grads[self.keys[0]], self.shapes[0])
        self.step_dense(gradient.reshape(-1), learn, drift, scratch)

    def step_dense(self, gradient: Array, learn: Learn, drift: Drift | None, scratch: list) -> None:
        flat_slots = list(self.slots.values())
        if self.in_float32 and learn.dense is not None:
            learn.dense(self.weights, gradient, *flat_slots)
            return
        for start, stop in self.all_blocks:
            weights = self.weights[start:stop]
            slots = [flat[start:stop] for flat in flat_slots]
            buffers = [buffer[: stop - start] for buffer in scratch]
            delta = learn(gradient[start:stop], slots, buffers)
            if delta is not None:
                weights -= delta
            if drift is not None:
                weights -= drift(slots, buffers)


class Pool(Part):
    """Small parameters end to end: a call costs more than their few numbers, so make few calls.

    Weights and gradients are copied in and the weights out again.
    """

    def flat_weights(self) -> Array:
        self.gradient, weights = (xp.empty(self.size, self.params[0].dtype) for _ in range(2))
        self.gradients, self.copies = (
            [self.view(flat, i) for i in range(len(self.params))]
            for flat in (self.gradient, weights)
        )
        return weights

    def step(
        self, grads: Mapping, learn: Learn, drift: Drift | None, scratch: list, wait: bool = False
    ) -> None:
        for key, part, copy, weights in zip(
            self.keys, self.gradients, self.copies, self.params, strict=True
        ):
            part[...] = _densified(grads[key], weights.shape)
            copy[...] = weights
        self.step_dense(self.gradient, learn, drift, scratch)
        for copy, weights in zip(self.copies, self.params, strict=True):
            weights[...] = copy


class Table(Part):
    """A table whose gradient comes by rows: only the rows of the batch learn, live blocks drift."""

    def __init__(self, keys: list[Hashable], params: dict, slots: dict[str, float]) -> None:
        super().__init__(keys, params, slots)
        self.width = max(1, self.size // max(1, len(self.params[0])))  # numbers in a row
        self.rows_at_once = max(1, self.block // self.width)
        self.scratch_size = self.block + self.width  # whole rows, where a block ends within one
        self.live_rows = max(1, LIVE_BLOCK // self.width)
        self.tables = list(self.averages_of(keys[0]).values())
        # What has been summed up of the drift that rows wait for, and of what each row has had.
        self.factors = self.weighted = 0.0
        self.had_factors = xp.zeros(len(self.params[0]))
        self.had_weighted = xp.zeros(len(self.params[0]))
        self.wanted = np.zeros(len(self.params[0]), dtype=bool)
        self.drift: Any = None
        flat = [self.weights, *self.slots.values()]
        self.by_row = [array.reshape(-1, self.width) for array in flat]

    def find_live(self) -> None:
        """Look up which blocks of rows have a first average that is not 0 everywhere."""
        starts = np.arange(0, self.size, self.live_rows * self.width)
        if get_backend() == "numpy" and self.slots and len(starts):
            first = next(iter(self.slots.values()))
            self.live = np.logical_or.reduceat(first != 0, starts)
        else:  # on a GPU looking would mean waiting
            self.live = np.ones(len(starts), dtype=bool)
        self.cut_live()

    def cut_live(self) -> None:
        edges = np.flatnonzero(np.diff(self.live, prepend=False, append=False))
        bounds = np.minimum(edges * self.live_rows * self.width, self.size).tolist()
        self.live_blocks = self.cut(zip(bounds[::2], bounds[1::2], strict=True))

    def wake(self, rows: Any) -> None:
        """The blocks of these rows (an index) have something to do from now on."""
        if not self.live[rows].all():
            self.live[rows] = True
            self.cut_live()

    def step(
        self, grads: Mapping, learn: Learn, drift: Drift | None, scratch: list, wait: bool = False
    ) -> None:
        gradient = grads[self.keys[0]]
        if not isinstance(gradient, RowGradient):
            self.settle(scratch)
            self.wake(slice(None))
            super().step(grads, learn, drift, scratch)
            return
        # A GPU moves a whole table at once; to look which rows have waited, we would wait for it.
        wait = wait and drift is not None and drift.steady and get_backend() == "numpy"
        if not wait:
            self.settle(scratch)
        elif self.factors and (self.had_factors[gradient.ids] != self.factors).any():
            self.catch_up(to_host(gradient.ids), scratch)
        self.learn_rows(gradient, learn, scratch)
        if drift is None:
            return
        if get_backend() == "numpy":
            self.wake(gradient.ids // self.live_rows)
        if wait:
            self.drift = drift
            self.factors += drift.factor
            self.weighted += drift.factor * drift.epsilon
            return
        for start, stop in self.live_blocks:
            slots = [flat[start:stop] for flat in self.slots.values()]
            weights = self.weights[start:stop]
            weights -= drift(slots, [buffer[: stop - start] for buffer in scratch])

    # -- rows that wait --

    def catch_up(self, ids: np.ndarray, scratch: list) -> None:
        if not self.factors:
            return
        if self.drift.waiting is not None and self.in_float32:
            weights, *tables = self.by_row
            had = self.had_factors, self.had_weighted
            self.drift.waiting(ids.reshape(-1), weights, tables, *had, self.factors, self.weighted)
            return
        self.wanted[ids] = True
        rows = np.flatnonzero(self.wanted)
        self.wanted[rows] = False
        rows = to_device(rows)
        rows = rows[self.had_factors[rows] != self.factors]
        (weights,) = self.params
        for start in range(0, len(rows), self.rows_at_once):
            chosen = rows[start : start + self.rows_at_once]
            moved = weights.take(chosen, axis=0)
            slots = [table.take(chosen, axis=0) for table in self.tables]
            moved -= self.waited(chosen, slots, scratch)
            weights[chosen] = moved
        self.had_factors[rows] = self.factors
        self.had_weighted[rows] = self.weighted

    @property
    def lags(self) -> bool:
        return self.factors != 0

    def settled_copy(self, scratch: list) -> Array:
        """The weights as `settle` would make them."""
        weights = self.params[0].copy()
        for rows in self.live_rows_in_blocks():
            weights[rows] -= self.waited(rows, [table[rows] for table in self.tables], scratch)
        return weights

    def live_rows_in_blocks(self) -> Iterator[slice]:
        for first, last in self.live_blocks:
            yield slice(first // self.width, last // self.width)

    def settle(self, scratch: list) -> None:
        if not self.factors:
            return
        (weights,) = self.params
        for rows in self.live_rows_in_blocks():
            weights[rows] -= self.waited(rows, [table[rows] for table in self.tables], scratch)
            self.had_factors[rows] = self.factors  # an interrupt here moves no row twice
            self.had_weighted[rows] = self.weighted
        self.factors = self.weighted = 0.0
        self.had_factors[:] = 0
        self.had_weighted[:] = 0

    def lag(self) -> dict[str, Any]:
        """How far the rows lag behind."""
        return {
            "factors": float(self.factors),
            "weighted": float(self.weighted),
            "had_factors": self.had_factors,
            "had_weighted": self.had_weighted,
        }

    def lag_again(self, state: Mapping[str, Any], drift: Drift | None) -> None:
        """Go on from where `lag` was asked. drift: of any step."""
        self.factors, self.weighted, self.drift = state["factors"], state["weighted"], drift
        self.had_factors[...] = to_device(state["had_factors"])
        self.had_weighted[...] = to_device(state["had_weighted"])

    def waited(self, rows: Any, slots: list[Array], scratch: list) -> Array:
        """All that these rows have waited for, as one move."""
        columns = [column[:, None] for column in self.waited_for(rows)]
        shape = slots[0].shape
        buffers = [b[: slots[0].size].reshape(len(slots[0]), self.width) for b in scratch]
        flat = [slot.reshape(len(slot), self.width) for slot in slots]
        return self.drift.move(flat, buffers, *columns).reshape(shape)

    def waited_for(self, rows: Any) -> tuple[Array, Array]:
        """The sum of the factors that these rows have waited for, and their mean epsilon."""
        factor = self.factors - self.had_factors[rows]
        epsilon = self.weighted - self.had_weighted[rows]
        had_all = factor == 0
        epsilon += had_all  # no 0 / 0 where there is nothing to move
        epsilon /= factor + had_all
        return factor.astype(self.weights.dtype), epsilon.astype(self.weights.dtype)

    def learn_rows(self, gradient: RowGradient, learn: Learn, scratch: list) -> None:
        (weights,) = self.params
        if learn.rows is not None and self.in_float32:
            learn.rows(gradient.ids, gradient.rows.reshape(-1, self.width), *self.by_row[1:])
            return
        for start in range(0, len(gradient.ids), self.rows_at_once):
            ids = gradient.ids[start : start + self.rows_at_once]
            rows = gradient.rows[start : start + self.rows_at_once]
            slots = [table.take(ids, axis=0) for table in self.tables]
            delta = learn(rows, slots, [b[: rows.size].reshape(rows.shape) for b in scratch])
            for table, slot in zip(self.tables, slots, strict=True):
                table[ids] = slot
            if delta is not None:
                moved = weights.take(ids, axis=0)
                moved -= delta
                weights[ids] = moved


def _densified(gradient: Array | RowGradient, shape: tuple[int, ...]) -> Array:
    return gradient.dense(shape) if isinstance(gradient, RowGradient) else gradient
