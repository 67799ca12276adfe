"""The time loop: a cell walked over all real steps of a batch, and backwards through time.

There is one loop for every mask and direction: the cell's own, over packed steps (packing.py). What
stands here is what comes before and after it: the products that serve all steps at once, and the
arrays that the loop works in. All states are kept in the *history*, whose first B rows are the
initial state, so that the states before and after a step are views, and nothing is copied.

Runs too long to keep all their steps are cut into segments (segments.py).

Legend: B rows, N real steps, F features, U units.
"""

from __future__ import annotations

from typing import NamedTuple

from minirnn.backend import Array, xp
from minirnn.cells import Cell, State, dropped
from minirnn.compiled_loops import loops
from minirnn.packing import Packing


class LoopCache(NamedTuple):
    """What `run_backward` needs to know of a run.

    drop: rows in the packing's order. before: the states before each step, (N, U) each, if the loop
    has kept them.
    """

    x: Array
    packing: Packing
    history: State
    saved: tuple[Array, ...]
    drop: Array | None
    before: State | None = None

    def last(self, which: int) -> Array:
        """The last of this state of each row, (B, U), in the order of the batch: a new array."""
        return self.history[which][self.packing.final]


def run(
    cell: Cell, x: Array, packing: Packing, initial_state: State, drop: Array | None = None
) -> LoopCache:
    """Walk `cell` over all real steps.

    Args:
        x: (N, F) packed inputs.
        initial_state: (B, U) for each state, rows in the order of the batch.
        drop: (B, U) recurrent dropout, or None.

    Returns:
        The history of each state, with all else that `run_backward` needs.
    """
    B, N = len(packing.order), len(packing)
    a = cell.project(x)
    history = tuple(xp.empty((B + N, cell.units), a.dtype) for _ in cell.state_names)
    for states, first in zip(history, initial_state, strict=True):
        states[:B] = first[packing.order]
    kept = tuple(xp.empty((N, size), a.dtype) for size in cell.saved_sizes())
    drop_sorted = None if drop is None else drop[packing.order]
    before = loops(cell, a.dtype, drop_sorted).steps(a, history, kept, packing, drop_sorted)
    return LoopCache(x, packing, history, (a, *kept), drop_sorted, before)


def run_backward(
    cell: Cell,
    dfinal: tuple[Array | None, ...],
    dhistory: tuple[Array | None, ...],
    cache: LoopCache,
) -> tuple[Array, State, dict[str, Array]]:
    """Backpropagation through time.

    Args:
        dfinal: (B, U) for each state, rows in the order of the batch: the gradient that
            reaches each row's last state; None for zeros.
        dhistory: (B + N, U) for each state: what else reaches each state of the history from
            outside the loop; None for zeros.

    Returns:
        dx (N, F); the gradients of the initial state, rows in the order of the batch; and
        those of the weights, with the keys of `cell.params`.
    """
    x, packing, history, saved, drop, before = cache
    B = len(packing.order)
    state_prev = before or tuple(packing.states_before(states) for states in history)
    state = tuple(states[B:] for states in history)
    drop_all = None if drop is None else drop[packing.ranks]
    loop = loops(cell, saved[0].dtype, drop)
    local = loop.local_derivatives(state_prev, state, saved, drop_all)

    dstate = tuple(xp.zeros((B, cell.units), history[0].dtype) for _ in history)
    for started, d in zip(dstate, dfinal, strict=True):
        if d is not None:
            started[...] = d[packing.order]
    dstates = tuple(None if d is None else d[B:] for d in dhistory)
    loop.steps_backward(dstate, dstates, local, packing, drop)

    da, du = local[:2]
    grads, dx = cell.weight_gradients(x, dropped(state_prev[0], drop_all), da, du, saved)
    dinitial = tuple(xp.empty_like(d) for d in dstate)
    for unsorted, d, further in zip(dinitial, dstate, dhistory, strict=True):
        unsorted[packing.order] = d if further is None else d + further[:B]
    return dx, dinitial, grads
