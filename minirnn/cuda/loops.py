"""The time loops as single kernels, in place of a cell's own; see recurrent.cuh.

`loops(cell, dtype)` gives `steps`, `local_derivatives` and `steps_backward` for cells of the usual
activations: in one launch where the cell fits on a multiprocessor, else in one for each step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from minirnn.backend import Array, get_backend, xp
from minirnn.cells import Cell, GRUCell, Loops, LSTMCell, SimpleRNNCell, State
from minirnn.cuda.modules import kernel, pointer
from minirnn.packing import Packing

LANES = 4  # that share a unit


@functools.cache
def shared_memory(module: Any) -> int:
    """Bytes of it that a block may have here; without a GPU, what those of data centres have."""
    if get_backend() == "numpy":
        return 160 * 1024
    return module.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"]


class Size(NamedTuple):
    """How a cell of so many units is laid out on a multiprocessor.

    threads: of a block. in_shared: numbers of each lane and gate that stand in shared memory,
    because the registers (65,536 of a multiprocessor) cannot take all of U; shared_bytes: their
    room.
    """

    threads: int
    in_shared: int
    shared_bytes: int


class Loop(NamedTuple):
    """The kernels of a cell. most_units: in float32; half of it in float64. in_registers: up to how
    many units all of U stays in registers, beyond that `in_shared` numbers do not."""

    file: str
    gates: int
    most_units: int
    in_registers: int
    in_shared: int

    def size(self, units: int, itemsize: int = 4) -> Size | None:
        """None if it does not fit."""
        units_of_float32 = units * itemsize // 4
        if units_of_float32 > self.most_units:
            return None
        threads = -(-units // 8) * 8 * LANES
        in_shared = 0 if units_of_float32 <= self.in_registers else self.in_shared
        # backward keeps four units' rows of U, whatever the number of gates
        shared_bytes = in_shared * max(self.gates, 4) * threads * itemsize
        state = 2 * self.gates * (units + 64) * itemsize  # h or da of two steps
        if shared_bytes + state > shared_memory(xp.module):
            return None
        return Size(threads, in_shared, shared_bytes)


SIMPLE_RNN = Loop("simple_rnn", gates=1, most_units=192, in_registers=192, in_shared=0)
LSTM = Loop("lstm", gates=4, most_units=128, in_registers=96, in_shared=16)
GRU = Loop("gru", gates=3, most_units=128, in_registers=96, in_shared=8)


def loop_of(cell: Cell) -> Loop | None:
    """The kernels that compute this cell, whatever its size."""
    kinds = {SimpleRNNCell: SIMPLE_RNN, LSTMCell: LSTM, GRUCell: GRU}
    loop = kinds.get(type(cell))
    return loop if loop is not None and cell.has_usual_activations() else None


REAL = {"float32": "float", "float64": "double"}


def time_loop(loop: Loop, half: str, units: int, dtype: Any) -> Any:
    """The kernel of one half of a loop, "forward" or "backward"."""
    size = loop.size(units, np.dtype(dtype).itemsize)
    return kernel(
        f"{loop.file}_{half}",
        "recurrent.cuh",
        f"{loop.file}.cu",
        dynamic_shared_bytes=size.shared_bytes,
        UNITS=units,
        REAL=REAL[np.dtype(dtype).name],
        IN_SHARED=size.in_shared,
    )


def loops(cell: Cell, dtype: Any) -> Loops | None:
    """The kernels for this cell and arrays of this dtype, or None."""
    loop = loop_of(cell)
    if loop is None or np.dtype(dtype).name not in REAL:  # gradcheck computes with complex numbers
        return None
    size = loop.size(cell.units, np.dtype(dtype).itemsize)
    forward, backward = (
        _step_by_step(cell, loop, dtype)
        if size is None
        else _in_one_launch(cell, loop, size, dtype)
    )

    def walk(packing: Packing) -> tuple[Any, ...]:
        """The arguments behind `drop`: order, lengths, offsets, rows, capacity, weights_apart,
        reverse."""
        layout, numbers = packing.layout, (packing.shape[0], len(packing), 0, packing.reverse)
        return None, layout.device_lengths, layout.device_offsets, *map(np.int32, numbers)

    def steps(a: Array, history: State, kept: State, packing: Packing, drop: Array | None) -> State:
        B, N = packing.shape[0], len(packing)
        before = tuple(xp.empty((N, cell.units), a.dtype) for _ in history)
        first, after = _two([h[:B] for h in history]), _two([h[B:] for h in history])
        made = *after, *_two(before), _or_none(kept), None
        if N:
            given = a, *_weights(cell), *first, drop, *made, *walk(packing)
            forward(packing, tuple(map(pointer, given)))
        return before

    def local_derivatives(
        state_prev: State, state: State, saved: tuple[Array, ...], drop: Array | None
    ) -> tuple[Array | None, ...]:
        gates, *kept = saved
        da = xp.empty_like(gates)
        du = xp.empty_like(gates) if loop is GRU else da
        (h_before, *c_before), (h, *_) = state_prev, state
        return da, du, gates, _or_none(kept), h, h_before, _or_none(c_before)

    def steps_backward(
        dstate: State, dstates: State, local: Any, packing: Packing, drop: Array | None
    ) -> None:
        U, _ = _weights(cell)
        if len(packing):
            given = *local, U, *_two(dstates), *_two(dstate), drop, *walk(packing)
            backward(packing, tuple(map(pointer, given)))

    return Loops(steps, local_derivatives, steps_backward)


def _or_none(at_most_one: Sequence[Array]) -> Array | None:
    return at_most_one[0] if at_most_one else None


def _weights(cell: Cell) -> tuple[Array, Array | None]:
    """U, and b_u where the cell has one."""
    has_b_u = loop_of(cell) is GRU and cell.use_bias
    return cell.params["recurrent_kernel"], cell.params["bias"][1] if has_b_u else None


def _two(states: Sequence[Array | None]) -> tuple[Array | None, Array | None]:
    """What belongs to h and what belongs to c, which not every cell has."""
    return states[0], states[1] if len(states) == 2 else None


def _in_one_launch(cell: Cell, loop: Loop, size: Size, dtype: Any) -> tuple[Callable, Callable]:
    """The loops of a cell that fits on a multiprocessor: `forward(rows, arguments)`, and `backward`
    alike, with the arguments of recurrent.cuh."""

    def launcher(half: str) -> Callable[..., None]:
        function = time_loop(loop, half, cell.units, dtype)

        def launch(packing: Packing, arguments: tuple[Any, ...]) -> None:
            grid = packing.shape[0], 1
            function(grid, (size.threads,), arguments, shared_mem=size.shared_bytes)

        return launch

    return launcher("forward"), launcher("backward")


def _step_by_step(cell: Cell, loop: Loop, dtype: Any) -> tuple[Callable, Callable]:
    """The same for larger cells: a launch for each step; see wide.cuh."""
    step, step_backward, first_states = (wide_step(loop, half, dtype) for half in WIDE)
    units = np.int32(cell.units)

    def grid(rows: int) -> tuple[int, int, int]:
        return wide_grid(rows, cell.units, 1)

    def forward(packing: Packing, arguments: tuple[Any, ...]) -> None:
        last = len(packing.batch_sizes) - 1
        for k in range(last + 1):
            n = packing.batch_sizes[last - k if packing.reverse else k]
            step(grid(n), (256,), (*arguments, np.int32(k), np.int32(last), units))

    def backward(packing: Packing, arguments: tuple[Any, ...]) -> None:
        last, (da, du, *_), rows = len(packing.batch_sizes) - 1, arguments, packing.shape[0]
        carry = xp.empty((rows, cell.units), da.dtype)
        for k in range(last, -1, -1):
            n = packing.batch_sizes[last - k if packing.reverse else k]
            step_backward(grid(n), (256,), (*arguments, np.int32(k), np.int32(last), units, carry))
        U, *_, dh_ends, dc_ends = arguments[7:12]
        given = du, U, dh_ends, dc_ends, *arguments[12:], units, carry
        first_states(grid(rows), (256,), given)

    return forward, backward


WIDE = ("step", "step_backward", "first_states")


def wide_step(loop: Loop, half: str, dtype: Any) -> Any:
    """A kernel of wide.cu."""
    real = REAL[np.dtype(dtype).name]
    return kernel(f"{loop.file}_{half}", "wide.cuh", "wide.cu", REAL=real)


def wide_grid(rows: int, units: int, directions: int) -> tuple[int, int, int]:
    return -(-units // 8), -(-rows // 16), directions
