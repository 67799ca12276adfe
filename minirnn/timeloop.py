"""The time loop: a cell walked over all real steps of a batch, and backwards through time.

There is one loop for every cell, mask and direction. It runs over packed steps (packing.py), hands
the cell views of arrays made once per call, and keeps all states in the *history*, whose first B
rows are the initial state. So the state before a step, the state after it, and the gradients of
both are slices, and nothing is copied or allocated per step but what the cell's equations make.

Legend: B rows, N real steps, F features, U units; `...` a leading axis of two where both directions
of a Bidirectional layer run in one loop.
"""

from __future__ import annotations

from typing import NamedTuple

from minirnn.backend import Array, xp
from minirnn.cells import Cell, State, dropped
from minirnn.packing import Packing


class LoopCache(NamedTuple):
    """What `run_backward` needs to know of a run."""

    x: Array
    packing: Packing
    history: State
    saved: tuple[Array, ...]
    drop: Array | None


def run(
    cell: Cell, x: Array, packing: Packing, initial_state: State, drop: Array | None = None
) -> tuple[State, LoopCache]:
    """Walk `cell` over all real steps.

    Args:
        x: (..., N, F) packed inputs.
        initial_state: (..., B, U) for each state, rows in the order of the batch.
        drop: (..., B, U) recurrent dropout, or None.

    Returns:
        The history (..., B + N, U) of each state, and the cache.
    """
    B, N = len(packing.order), len(packing)
    a = cell.project(x)
    lead = a.shape[:-2]
    history = tuple(xp.empty((*lead, B + N, cell.units), a.dtype) for _ in cell.state_names)
    for states, first in zip(history, initial_state, strict=True):
        states[..., :B, :] = first[..., packing.order, :]
    kept = tuple(xp.empty((*lead, N, size), a.dtype) for size in cell.saved_sizes())
    if drop is not None:
        drop = drop[..., packing.order, :]

    for block, before, after in packing.steps:
        state = [states[..., before, :] for states in history]
        out = [states[..., after, :] for states in history]
        out += [array[..., block, :] for array in kept]
        drop_t = None if drop is None else drop[..., : block.stop - block.start, :]
        cell.step(a[..., block, :], state, out, drop_t)
    return history, LoopCache(x, packing, history, (a, *kept), drop)


def run_backward(
    cell: Cell, dhistory: State, cache: LoopCache
) -> tuple[Array, State, dict[str, Array]]:
    """Backpropagation through time.

    Args:
        dhistory: (..., B + N, U) for each state: the gradient that reaches each state from outside
            the loop. Used up: on the way back, the loop adds what comes through later steps.

    Returns:
        dx (..., N, F); the gradients of the initial state, rows in the order of the batch; and
        those of the weights, with the keys of `cell.params`.
    """
    x, packing, history, saved, drop = cache
    B = len(packing.order)
    state_prev = tuple(states[..., packing.previous, :] for states in history)
    state = tuple(states[..., B:, :] for states in history)
    drop_all = None if drop is None else drop[..., packing.ranks, :]
    local = cell.local_derivatives(state_prev, state, saved, drop_all)

    for block, before, after in reversed(packing.steps):
        dstate = [d[..., after, :] for d in dhistory]
        local_t = [array[..., block, :] for array in local]
        drop_t = None if drop is None else drop[..., : block.stop - block.start, :]
        dstate_prev = cell.step_backward(dstate, local_t, drop_t)
        for d, through_this_step in zip(dhistory, dstate_prev, strict=True):
            d[..., before, :] += through_this_step

    da, du = local[:2]
    grads, dx = cell.weight_gradients(x, dropped(state_prev[0], drop_all), da, du, saved)
    dinitial = tuple(xp.empty_like(d[..., :B, :]) for d in dhistory)
    for unsorted, d in zip(dinitial, dhistory, strict=True):
        unsorted[..., packing.order, :] = d[..., :B, :]
    return dx, dinitial, grads
