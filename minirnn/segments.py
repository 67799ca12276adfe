"""Long sequences: backpropagation through time in little memory, at the price of some time.

Backward needs the gates and states of every step, so what a run keeps grows with its length: some
nine numbers a unit and step of an LSTM, 4 GB for 16 rows of 100,000 steps and 64 units, and as much
again on the way back. A long run is therefore cut into segments of about √T steps. Forward keeps
only the state at each border; backward takes the segments from the last to the first, runs each
once more from its border, which brings its gates and states back, and goes through it:

    forward    s_0 ─────→ s_1 ─────→ s_2 ─────→ s_3      kept: s_0, s_1, s_2
    backward              │          s_2 ═════→ ╎  run again, then ←═════ ds_2
                          s_1 ═════→ ╎  run again, then ←═════ ds_1         and so on

The gradient is that of the whole sequence, exactly: the same sums, only that those of the weights
are added up segment by segment, so they differ in rounding. What stays in memory is O(√T) states,
one segment, and x, dx and the outputs that the layer shows. The price is a second forward pass.
(Gradient checkpointing; `torch.utils.checkpoint`, `jax.checkpoint`. Chen et al., 2016, "Training
deep nets with sublinear memory cost"; for BPTT first Gruslys et al., 2016.)

`run_steps` decides by size alone, so that the same rows always give the same bits. Truncated BPTT,
which is another thing (it leaves gradients out), stands in windows.py.

A segment is a stretch of packed steps, hence a plan of its own (packing.py) for the rows in the
order of the whole packing, the longest first: `timeloop.run` and `run_backward` serve it as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from minirnn import timeloop
from minirnn.backend import Array, get_backend, xp
from minirnn.cells import Cell, State
from minirnn.checks import whole_number
from minirnn.packing import Mask, Packing, full_mask
from minirnn.timeloop import LoopCache

USUAL_LIMIT = {"numpy": 2**28, "cupy": 2**31}  # a GPU has its memory for this, and loses more time
_most_bytes: int | None = None


def set_history_limit(most_bytes: int | None) -> None:
    """How much memory the gates and states of one run may take (of one layer, direction and batch)
    before it is cut into segments: `most_bytes` bytes. None: 256 MB, on a GPU 2 GB, as at first.

    A smaller limit saves memory and costs time; a larger one the other way round.

    Raises:
        ValueError: if it is neither None nor a whole number from 1 up.
    """
    global _most_bytes
    _most_bytes = None if most_bytes is None else whole_number("most_bytes", most_bytes)


class Segment(NamedTuple):
    """Some packed steps of a run: `steps` says which; `packing` is their own plan, whose batch is
    the rows in the order of the whole plan."""

    steps: slice
    packing: Packing


class SegmentedRun(NamedTuple):
    """What backward needs to know of a run in segments; in place of a LoopCache.

    drop: (B, U), rows in the packing's order, as all states here. starts: the state before each
    segment, in the order walked. final: the state after the last one. history: (B + N, U) of the
    output, if every step is shown; otherwise, and for all other states, None.
    """

    x: Array
    packing: Packing
    drop: Array | None
    starts: list[State]
    final: State
    history: tuple[Array | None, ...]

    def last(self, which: int) -> Array:
        """As `LoopCache.last`."""
        return in_batch_order(self.final[which], self.packing)


def run_steps(
    cell: Cell,
    x: Array,
    packing: Packing,
    initial_state: State,
    drop: Array | None = None,
    every_step: bool = True,
) -> LoopCache | SegmentedRun:
    """`timeloop.run`; in segments if all its steps would take more memory than the limit.

    every_step: whether somebody wants the output of every step.
    """
    if bytes_of_history(cell, x) <= (_most_bytes or USUAL_LIMIT[get_backend()]):
        return timeloop.run(cell, x, packing, initial_state, drop)
    return run_in_segments(cell, x, packing, initial_state, drop, every_step)


def run_steps_backward(
    cell: Cell,
    dfinal: tuple[Array | None, ...],
    dhistory: tuple[Array | None, ...],
    cache: LoopCache | SegmentedRun,
) -> tuple[Array, State, dict[str, Array]]:
    """`timeloop.run_backward`, for what `run_steps` gave."""
    if isinstance(cache, LoopCache):
        return timeloop.run_backward(cell, dfinal, dhistory, cache)
    return run_in_segments_backward(cell, dfinal, dhistory, cache)


def bytes_of_history(cell: Cell, x: Array) -> int:
    """What a run over x (N, F) keeps of its steps: gates, and each state twice, before and after
    the step."""
    numbers = (len(cell.gates) + 2 * len(cell.state_names)) * cell.units + sum(cell.saved_sizes())
    return len(x) * numbers * x.dtype.itemsize


def segments_of(packing: Packing) -> Iterator[Segment]:
    """About √T segments of √T steps, in the order walked."""
    layout = packing.layout
    B, T = packing.shape[0], len(layout.offsets) - 1
    size = math.isqrt(max(T - 1, 0)) + 1
    lengths = layout.lengths[layout.host_order][:, None]
    starts = range(0, T, size)
    for start in reversed(starts) if packing.reverse else starts:
        stop = min(start + size, T)
        real = np.arange(start, stop) < lengths
        plan = full_mask(B, stop - start) if real.all() else Mask(real)
        steps = slice(int(layout.offsets[start]), int(layout.offsets[stop]))
        yield Segment(steps, plan.packing(packing.reverse))


def run_in_segments(
    cell: Cell,
    x: Array,
    packing: Packing,
    initial_state: State,
    drop: Array | None = None,
    every_step: bool = True,
) -> SegmentedRun:
    """As `timeloop.run`, keeping the states at the borders of segments alone."""
    B = packing.shape[0]
    drop = None if drop is None else drop[packing.order]
    state = tuple(first[packing.order] for first in initial_state)
    outputs = xp.empty((B + len(packing), cell.units), state[0].dtype) if every_step else None
    if outputs is not None:
        outputs[:B] = state[0]
    starts = []
    for steps, plan in segments_of(packing):
        starts.append(state)
        part = timeloop.run(cell, x[steps], plan, state, drop)
        state = tuple(part.last(k) for k in range(len(state)))
        if outputs is not None:
            outputs[B + steps.start : B + steps.stop] = part.history[0][B:]
    history = outputs, *[None] * (len(state) - 1)
    return SegmentedRun(x, packing, drop, starts, state, history)


def run_in_segments_backward(
    cell: Cell,
    dfinal: tuple[Array | None, ...],
    dhistory: tuple[Array | None, ...],
    cache: SegmentedRun,
) -> tuple[Array, State, dict[str, Array]]:
    """As `timeloop.run_backward`: from the last segment to the first, each run once more."""
    x, packing, drop, starts, final, _ = cache
    B = packing.shape[0]
    dstate = tuple(None if d is None else d[packing.order] for d in dfinal)
    dx = xp.empty(x.shape, final[0].dtype)
    grads: dict[str, Array] = {}
    order = list(segments_of(packing))
    for (steps, plan), state in zip(reversed(order), reversed(starts), strict=True):
        part = timeloop.run(cell, x[steps], plan, state, drop)
        inside = tuple(None if d is None else _with_no_start(d, steps, B) for d in dhistory)
        dx[steps], dstate, of_part = timeloop.run_backward(cell, dstate, inside, part)
        for key, gradient in of_part.items():
            grads[key] = grads[key] + gradient if key in grads else gradient
    dstate = (
        d if further is None else d + further[:B]
        for d, further in zip(dstate, dhistory, strict=True)
    )
    return dx, tuple(in_batch_order(d, packing) for d in dstate), grads


def _with_no_start(dhistory: Array, steps: slice, B: int) -> Array:
    """The part of (B + N, U) that belongs to a segment, with zeros for the state it starts in."""
    part = dhistory[B + steps.start : B + steps.stop]
    return xp.concatenate([xp.zeros((B, part.shape[1]), part.dtype), part])


def whole(cell: Cell, cache: LoopCache | SegmentedRun) -> LoopCache:
    """The run with all of its steps, for whoever wants to look at them: run again if need be."""
    if isinstance(cache, LoopCache):
        return cache
    x, packing, drop, starts, _, _ = cache
    start = tuple(in_batch_order(state, packing) for state in starts[0])
    drop = None if drop is None else in_batch_order(drop, packing)
    return timeloop.run(cell, x, packing, start, drop)


def in_batch_order(rows: Array, packing: Packing) -> Array:
    """(B, U) from the order of the packing, the longest row first, to that of the batch."""
    unsorted = xp.empty_like(rows)
    unsorted[packing.order] = rows
    return unsorted
