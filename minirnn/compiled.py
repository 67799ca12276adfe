"""The loops of cells.py and the moves of an optimizer, compiled by Numba where it is installed.

The mathematics is that of cells.py; read it there. NumPy pays for each call, which with the small
arrays of such models is most of the time; here the same steps are loops over numbers, compiled to
machine code. `loops(cell)` gives `steps` and `steps_backward` in place of the cell's own, for the
usual activations and without recurrent dropout; whatever is not covered, the cell does itself.
tests/test_compiled.py compares the two.

`pip install "minirnn[fast]"` brings Numba; MINIRNN_COMPILED=0 leaves it unused. The first run on a
machine compiles for some seconds, later ones read the result from a cache.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from minirnn import activations
from minirnn.backend import Array, get_backend, sum_runs, to_device, xp
from minirnn.cells import Cell, LSTMCell, SimpleRNNCell, State
from minirnn.packing import Packing

ENVIRONMENT_VARIABLE = "MINIRNN_COMPILED"


class Loops(NamedTuple):
    """What stands in for the methods of the same names of a cell."""

    steps: Callable[..., None]
    local_derivatives: Callable[..., tuple[Array, ...]]
    steps_backward: Callable[..., None]


def loops(cell: Cell, dtype: Any, drop: Array | None) -> Loops | Cell:
    """The compiled loops for this cell and arrays of this dtype, or the cell itself."""
    if drop is not None or get_backend() != "numpy" or dtype != np.float32:
        return cell
    kind = type(cell)
    if kind is SimpleRNNCell and cell.activation is activations.tanh:
        made = _simple_rnn
    elif kind is LSTMCell and cell.one_tanh():
        made = _lstm
    else:
        return cell
    kernels = _kernels()
    return cell if kernels is None else made(cell, kernels)


@functools.lru_cache(maxsize=1)
def _kernels() -> ModuleType | None:
    if os.environ.get(ENVIRONMENT_VARIABLE) == "0":
        return None
    try:
        from minirnn import kernels
    except Exception:  # no Numba, or a broken one, which fails in ways of its own
        return None
    return kernels


def for_floats(dtype: Any) -> Any:
    """The compiled functions (kernels.py) if they can be used on arrays of this dtype, or None."""
    usable = get_backend() == "numpy" and dtype == np.float32
    return _kernels() if usable else None


def grouped_sums(rows: Array, order: np.ndarray, starts: np.ndarray) -> Array:
    """Sums of the rows of each group: (n, features) → (len(starts), features).

    order: (n,) all rows, those of a group side by side; starts: where in it each group begins.
    """
    kernels = for_floats(rows.dtype)
    if kernels is None:
        return sum_runs(xp.take(rows, to_device(order), axis=0), to_device(starts))
    sums = np.empty((len(starts), rows.shape[1]), rows.dtype)
    kernels.grouped_sums(rows, order, starts, sums)
    return sums


def _plan(packing: Packing) -> np.ndarray:
    """(stretches, 4) int64: k, n, first, block."""
    return np.array(packing.stretches, dtype=np.int64).reshape(-1, 4)


def _simple_rnn(cell: Cell, kernels: Any) -> Loops:
    def steps(a: Array, history: State, kept: Any, packing: Packing, drop: None = None) -> None:
        U = np.ascontiguousarray(cell.params["recurrent_kernel"])
        kernels.simple_rnn(a, U, history[0], packing.shape[0], _plan(packing))

    def steps_backward(
        dstate: State, dstates: Any, local: Any, packing: Packing, drop: None = None
    ) -> None:
        U_T = np.ascontiguousarray(cell.params["recurrent_kernel"].T)
        (da, _), (dh,), (dh_t,) = local, dstate, dstates
        given = dh_t is not None
        kernels.simple_rnn_backward(da, U_T, dh, dh_t if given else da, given, _plan(packing))

    return Loops(steps, cell.local_derivatives, steps_backward)


def _lstm(cell: Cell, kernels: Any) -> Loops:
    def steps(a: Array, history: State, kept: Any, packing: Packing, drop: None = None) -> None:
        U = np.ascontiguousarray(cell.params["recurrent_kernel"])
        B = packing.shape[0]
        kernels.lstm(a, U, history[0], history[1], kept[0], B, _plan(packing))

    def local_derivatives(
        state_prev: State, state: State, saved: tuple[Array, ...], drop: None
    ) -> tuple[Array, ...]:
        gates, tanh_c = saved
        da, dc_dh = np.empty_like(gates), np.empty_like(tanh_c)
        kernels.lstm_local_derivatives(gates, tanh_c, state_prev[1], da, dc_dh)
        return da, da, dc_dh, gates[:, cell.units : 2 * cell.units]

    def steps_backward(
        dstate: State, dstates: Any, local: Any, packing: Packing, drop: None = None
    ) -> None:
        U_T = np.ascontiguousarray(cell.params["recurrent_kernel"].T)
        da, _, dc_dh, f = local
        dh, dc = dstate
        dh_t, dc_t = (dc_dh if d is None else d for d in dstates)
        h_given, c_given = (d is not None for d in dstates)
        kernels.lstm_backward(
            da, U_T, dc_dh, f, dh, dc, dh_t, h_given, dc_t, c_given, _plan(packing)
        )

    return Loops(steps, local_derivatives, steps_backward)
