"""The time loops as single kernels, in place of a cell's own; see recurrent.cuh.

`loops(cell, dtype)` gives `steps`, `local_derivatives` and `steps_backward` for cells of the usual
activations that fit on one multiprocessor; a cell with more units does its steps itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minirnn import activations
from minirnn.backend import Array, xp
from minirnn.cells import Cell, GRUCell, Loops, LSTMCell, SimpleRNNCell, State
from minirnn.cuda.modules import kernel, pointer
from minirnn.packing import Packing

LANES = 4  # that share a unit


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
        return Size(threads, in_shared, in_shared * max(self.gates, 4) * threads * itemsize)


SIMPLE_RNN = Loop("simple_rnn", gates=1, most_units=192, in_registers=192, in_shared=0)
LSTM = Loop("lstm", gates=4, most_units=128, in_registers=96, in_shared=12)
GRU = Loop("gru", gates=3, most_units=128, in_registers=96, in_shared=8)


def loop_of(cell: Cell) -> Loop | None:
    """The kernels that compute this cell, whatever its size."""
    usual = activations.sigmoid, activations.tanh
    if type(cell) is SimpleRNNCell and cell.activation is activations.tanh:
        return SIMPLE_RNN
    if type(cell) is LSTMCell and (cell.recurrent_activation, cell.activation) == usual:
        return LSTM
    if type(cell) is GRUCell and (cell.recurrent_activation, cell.activation) == usual:
        return GRU
    return None


def time_loop(loop: Loop, half: str, units: int, dtype: Any) -> Any:
    """The kernel of one half of a loop, "forward" or "backward"."""
    size = loop.size(units, np.dtype(dtype).itemsize)
    real = {"float32": "float", "float64": "double"}[np.dtype(dtype).name]
    return kernel(
        f"{loop.file}_{half}",
        "recurrent.cuh",
        f"{loop.file}.cu",
        dynamic_shared_bytes=size.shared_bytes,
        UNITS=units,
        REAL=real,
        IN_SHARED=size.in_shared,
    )


def loops(cell: Cell, dtype: Any) -> Loops | None:
    """The kernels for this cell and arrays of this dtype, or None."""
    loop = loop_of(cell)
    if loop is None or loop.size(cell.units, np.dtype(dtype).itemsize) is None:
        return None
    make = {SIMPLE_RNN: _simple_rnn, LSTM: _lstm, GRU: _gru}[loop]
    return make(cell, *(_launcher(loop, half, cell, dtype) for half in ("forward", "backward")))


def _launcher(loop: Loop, half: str, cell: Cell, dtype: Any) -> Callable[..., None]:
    """`launch(rows, *arguments)`, in one direction."""
    function = time_loop(loop, half, cell.units, dtype)
    size = loop.size(cell.units, np.dtype(dtype).itemsize)

    def launch(rows: int, *arguments: Any) -> None:
        function((rows, 1), (size.threads,), arguments, shared_mem=size.shared_bytes)

    return launch


def _walk(packing: Packing, drop: Array | None) -> tuple[Any, ...]:
    """`(drop, order, lengths, offsets)`, and `(rows, capacity, weights_apart, reverse)`."""
    layout = packing.layout
    numbers = packing.shape[0], max(len(packing), 1), 0, int(packing.reverse)
    walk = pointer(drop), pointer(None), layout.device_lengths, layout.device_offsets
    return walk, tuple(map(np.int32, numbers))


def _simple_rnn(cell: Cell, forward: Callable, backward: Callable) -> Loops:
    def steps(a: Array, history: State, kept: Any, packing: Packing, drop: Array | None) -> State:
        B = packing.shape[0]
        U, h_before = cell.params["recurrent_kernel"], xp.empty_like(a)
        if len(packing):
            (drop, *walk), numbers = _walk(packing, drop)
            first, h = history[0][:B], history[0][B:]
            forward(B, a, U, first, drop, h, h_before, pointer(None), *walk, *numbers)
        return (h_before,)

    def local_derivatives(
        state_prev: State, state: State, saved: tuple[Array, ...], drop: Array | None
    ) -> tuple[Array, ...]:
        (h,) = state
        da = xp.empty_like(h)
        return da, da, h

    def steps_backward(
        dstate: State, dstates: Any, local: Any, packing: Packing, drop: Array | None
    ) -> None:
        (da, _, h), (dh,), (given,) = local, dstate, dstates
        if len(packing):
            walk, numbers = _walk(packing, drop)
            U = cell.params["recurrent_kernel"]
            backward(packing.shape[0], da, h, U, pointer(given), dh, *walk, *numbers)

    return Loops(steps, local_derivatives, steps_backward)


def _lstm(cell: Cell, forward: Callable, backward: Callable) -> Loops:
    def steps(a: Array, history: State, kept: Any, packing: Packing, drop: Array | None) -> State:
        B, U, (tanh_c,) = packing.shape[0], cell.params["recurrent_kernel"], kept
        h_before, c_before = xp.empty_like(tanh_c), xp.empty_like(tanh_c)
        if len(packing):
            (drop, *walk), numbers = _walk(packing, drop)
            first, after = [s[:B] for s in history], [s[B:] for s in history]
            made = *after, h_before, c_before, tanh_c, pointer(None)
            forward(B, a, U, *first, drop, *made, *walk, *numbers)
        return h_before, c_before

    def local_derivatives(
        state_prev: State, state: State, saved: tuple[Array, ...], drop: Array | None
    ) -> tuple[Array, ...]:
        (_, c_prev), (gates, tanh_c) = state_prev, saved
        da = xp.empty_like(gates)
        return da, da, gates, tanh_c, c_prev

    def steps_backward(
        dstate: State, dstates: Any, local: Any, packing: Packing, drop: Array | None
    ) -> None:
        da, _, gates, tanh_c, c_prev = local
        if len(packing):
            walk, numbers = _walk(packing, drop)
            kept = gates, tanh_c, c_prev, cell.params["recurrent_kernel"]
            given = map(pointer, dstates)
            backward(packing.shape[0], da, *kept, *given, *dstate, *walk, *numbers)

    return Loops(steps, local_derivatives, steps_backward)


def _gru(cell: Cell, forward: Callable, backward: Callable) -> Loops:
    def steps(a: Array, history: State, kept: Any, packing: Packing, drop: Array | None) -> State:
        B, U, (u_h,) = packing.shape[0], cell.params["recurrent_kernel"], kept
        b_u = cell.params["bias"][1] if cell.use_bias else None
        h_before = xp.empty_like(u_h)
        if len(packing):
            (drop, *walk), numbers = _walk(packing, drop)
            first, h = history[0][:B], history[0][B:]
            made = h, h_before, u_h, pointer(None)
            forward(B, a, U, pointer(b_u), first, drop, *made, *walk, *numbers)
        return (h_before,)

    def local_derivatives(
        state_prev: State, state: State, saved: tuple[Array, ...], drop: Array | None
    ) -> tuple[Array, ...]:
        (h_prev,), (gates, u_h) = state_prev, saved
        return xp.empty_like(gates), xp.empty_like(gates), gates, u_h, h_prev

    def steps_backward(
        dstate: State, dstates: Any, local: Any, packing: Packing, drop: Array | None
    ) -> None:
        da, du, gates, u_h, h_prev = local
        (dh,), (given,) = dstate, dstates
        if len(packing):
            walk, numbers = _walk(packing, drop)
            kept = gates, u_h, h_prev, cell.params["recurrent_kernel"], pointer(given)
            backward(packing.shape[0], da, du, *kept, dh, *walk, *numbers)

    return Loops(steps, local_derivatives, steps_backward)
