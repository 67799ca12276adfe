"""Compiled stand-ins for the loops of the cells in cells.py; see compiled.py.

`loops(cell, ...)` gives `steps`, `local_derivatives` and `steps_backward` in place of the cell's
own, for the usual activations, in float32 and without recurrent dropout; whatever is not covered,
the cell does itself.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np

import minirnn.cuda.loops as kernel_loops
from minirnn.backend import Array, get_backend
from minirnn.cells import Cell, Loops, LSTMCell, SimpleRNNCell, State, sigmoid_as_tanh
from minirnn.compiled import for_floats
from minirnn.packing import Packing
from minirnn.threads import ONE_BLAS_THREAD_IN_LOOPS

WIDEST = 128  # with more units the products are most of the work, and NumPy's BLAS uses all cores
ONE_THREAD_AT_MOST = 200_000  # OpenBLAS does a product of fewer multiplications on one thread


def loops(cell: Cell, dtype: Any, drop: Array | None) -> Loops | Cell:
    """The loops for this cell and arrays of this dtype: a GPU's kernels, compiled ones, or those of
    the cell itself."""
    if get_backend() == "cupy":
        return kernel_loops.loops(cell, dtype) or cell
    kernels = for_floats(dtype)
    if kernels is None or drop is not None or cell.units > WIDEST:
        return cell
    kind = type(cell)
    if kind is SimpleRNNCell and cell.has_usual_activations():
        made = _simple_rnn
    elif kind is LSTMCell and cell.has_usual_activations():
        made = _lstm
    else:
        return cell
    return made(cell, kernels)


def one_blas_thread(packing: Packing, U: np.ndarray) -> Any:
    """Keeps the products in a loop, which are SciPy's, on one thread where they are large enough
    for more: its threads and those of NumPy's own BLAS would wait for each other."""
    return (
        ONE_BLAS_THREAD_IN_LOOPS
        if packing.shape[0] * U.size > ONE_THREAD_AT_MOST
        else nullcontext()
    )


def _simple_rnn(cell: Cell, kernels: Any) -> Loops:
    def steps(a: Array, history: State, kept: Any, packing: Packing, drop: None = None) -> State:
        U = np.ascontiguousarray(cell.params["recurrent_kernel"])
        h_prev = np.empty_like(a)
        with one_blas_thread(packing, U):
            kernels.simple_rnn(a, U, history[0], h_prev, packing.shape[0], packing.plan)
        return (h_prev,)

    def local_derivatives(
        state_prev: State, state: State, saved: tuple[Array, ...], drop: None
    ) -> tuple[Array, ...]:
        (h,) = state
        da = np.empty_like(h)
        return da, da, h

    def steps_backward(
        dstate: State, dstates: Any, local: Any, packing: Packing, drop: None = None
    ) -> None:
        U_T = np.ascontiguousarray(cell.params["recurrent_kernel"].T)
        (da, _, h), (dh,), (dh_t,) = local, dstate, dstates
        given = dh_t is not None
        with one_blas_thread(packing, U_T):
            kernels.simple_rnn_backward(da, h, U_T, dh, dh_t if given else da, given, packing.plan)

    return Loops(steps, local_derivatives, steps_backward)


def _lstm(cell: Cell, kernels: Any) -> Loops:
    def steps(a: Array, history: State, kept: Any, packing: Packing, drop: None = None) -> State:
        U = np.ascontiguousarray(cell.params["recurrent_kernel"])
        B = packing.shape[0]
        half, shift = sigmoid_as_tanh(a, B)
        before = tuple(np.empty_like(*kept) for _ in history)
        with one_blas_thread(packing, U):
            kernels.lstm(a, U, half, shift, *history, *before, *kept, B, packing.plan)
        return before

    def local_derivatives(
        state_prev: State, state: State, saved: tuple[Array, ...], drop: None
    ) -> tuple[Array, ...]:
        (_, c_prev), (gates, tanh_c) = state_prev, saved
        da = np.empty_like(gates)
        return da, da, gates, tanh_c, c_prev

    def steps_backward(
        dstate: State, dstates: Any, local: Any, packing: Packing, drop: None = None
    ) -> None:
        U_T = np.ascontiguousarray(cell.params["recurrent_kernel"].T)
        da, _, gates, tanh_c, c_prev = local
        dh_t, dc_t = (da if d is None else d for d in dstates)
        h_given, c_given = (d is not None for d in dstates)
        given = dh_t, h_given, dc_t, c_given
        with one_blas_thread(packing, U_T):
            kernels.lstm_backward(da, gates, tanh_c, c_prev, U_T, *dstate, *given, packing.plan)

    return Loops(steps, local_derivatives, steps_backward)
