"""`explain`: every equation of one step of a cell, forward and backward, with its numbers in it.

A plain cell with one feature and one unit, small enough to be checked on paper:

>>> import numpy as np
>>> from minirnn.cells import SimpleRNNCell
>>> cell = SimpleRNNCell(1)
>>> cell.build(1)
>>> for key, value in {"kernel": 0.5, "recurrent_kernel": -1, "bias": 0.25}.items():
...     cell.params[key][...] = value
>>> print(cell.explain([2.0], [1.0], dstate=[3.0]))
SimpleRNNCell, features: 1, units: 1
One step forward
       x_t = [2]   h_{t-1} = [1]
1      a = x_t W + b + h_{t-1} U = 2·0.5 + 0.25 + 1·(-1) = 0.25
2      h_t = tanh(a) = tanh(0.25) = 0.24492
The same step backward
       dh_t = [3]
2      tanh'(a) = 1 - h_t² = 1 - 0.24492² = 0.94001
2      da = dh_t ⊙ tanh'(a) = 3·0.94001 = 2.82
1      dh_{t-1} = da Uᵀ = 2.82·(-1) = -2.82
1      dx_t = da Wᵀ = 2.82·0.5 = 1.41
1      dW = x_tᵀ da
         [0]  2·da = [5.6401]
1      dU = h_{t-1}ᵀ da
         [0]  1·da = [2.82]
1      db = da = 2.82

The numbers at the beginning of the lines are those at the ends of the lines in cells.py: which line
of the forward pass it is, and which ones a backward line reverses.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn.backend import Array, get_backend, to_host, xp
from minirnn.cells import Cell, one_step, split
from minirnn.checks import numbers, whole_number
from minirnn.inspect.equations import WRITERS, Step
from minirnn.inspect.writing import SMALL, Page

MOST_DIGITS = 17  # that a float64 has


def explain(cell: Cell, x_t: Any, state: Any, dstate: Any = None, *, digits: int = 5) -> str:
    """Every equation of one step, with its numbers, as lines of text.

    Of cells with more than 3 units or features only results are shown, abbreviated.

    Args:
        cell: one of minirnn's cells, built.
        x_t: (F,) or (1, F), the input.
        state: h (U,) or (1, U), or (h, c) for LSTM: the state before the step.
        dstate: the gradient of the state after it, of the same form; None: forward only.
        digits: significant ones of each number.

    Raises:
        TypeError: for a cell that has other equations than minirnn's.
        ValueError: for shapes that do not fit, a cell without weights, or digits below 1.
    """
    writers = [pair for kind, pair in WRITERS.items() if isinstance(cell, kind)]
    if not writers:
        known = ", ".join(kind.__name__ for kind in WRITERS)
        raise TypeError(f"cell: expected one of {known}; received {cell!r}")
    [(forward, backward)] = writers
    step = all_numbers(cell, x_t, state, dstate)
    in_full = cell.units <= SMALL and len(step.x) <= SMALL
    if whole_number("digits", digits) > MOST_DIGITS:
        raise ValueError(f"digits: expected at most {MOST_DIGITS}, received {digits}")
    page = Page(in_full, digits)
    page.text(f"{type(cell).__name__}, features: {len(step.x)}, units: {cell.units}")
    page.text("One step forward")
    before = [f"{name}_{{t-1}}" for name in cell.state_names]
    page.given(x_t=step.x, **dict(zip(before, step.before, strict=True)))
    forward(page, step)
    if dstate is not None:
        page.text("The same step backward")
        after = [f"d{name}_t" for name in cell.state_names]
        page.given(**dict(zip(after, step.dstate, strict=True)))
        backward(page, step)
    return str(page)


# --- the numbers ----------------------------------------------------------------------------------


def all_numbers(cell: Cell, x_t: Any, state: Any, dstate: Any) -> Step:
    """Takes the step with the cell's own methods."""
    dtype = cell.params["kernel"].dtype if cell.params else None
    x_t = one_row("x_t", x_t, dtype)
    state = states_of(cell, "state", state, dtype)
    after, cache = cell.forward(x_t, state)
    gates, *kept = cache[3]
    blocks = len(cell.gates)

    def row(array: Array) -> np.ndarray:
        return to_host(array)[0]

    def by_gate(array: Array) -> list[np.ndarray]:
        return [row(part) for part in split(array, blocks)]

    bias = cell.params.get("bias")
    biases = [] if bias is None else xp.atleast_2d(bias)
    step = Step(
        cell,
        row(x_t),
        [row(s) for s in state],
        [row(s) for s in after],
        by_gate(gates),
        [row(array) for array in kept],
        [to_host(w) for w in split(cell.params["kernel"], blocks)],
        [to_host(u) for u in split(cell.params["recurrent_kernel"], blocks)],
        by_gate(biases[:1]) if len(biases) else None,
        by_gate(biases[1:]) if len(biases) > 1 else None,
    )
    if dstate is None:
        return step
    dstate = states_of(cell, "dstate", dstate, dtype, like=after)
    dx, dbefore, grads = cell.backward(dstate, cache)
    da, du, *_ = local = cell.local_derivatives(state, after, cache[3], None)
    used_up = tuple(xp.array(d) for d in dstate)
    cell.steps_backward(used_up, (None,) * len(dstate), local, one_step(1, get_backend()))
    return step._replace(
        dstate=[row(d) for d in dstate],
        dbefore=[row(d) for d in dbefore],
        da=by_gate(da),
        du=by_gate(du),
        dx=row(dx),
        grads={key: to_host(g) for key, g in grads.items()},
    )


def one_row(name: str, values: Any, dtype: Any) -> Array:
    """(1, n) from (n,) or (1, n)."""
    row = numbers(name, values, dtype)
    row = row[None] if row.ndim == 1 else row
    if row.ndim != 2 or len(row) != 1:
        raise ValueError(
            f"{name}: expected one row, (n,) or (1, n); received an array of shape {row.shape}"
        )
    return row


def states_of(
    cell: Cell, argument: str, given: Any, dtype: Any, like: tuple[Array, ...] | None = None
) -> tuple[Array, ...]:
    names = cell.state_names
    in_tuple = isinstance(given, tuple) and len(given) == 1 and np.ndim(given[0])
    if len(names) == 1 and not in_tuple:
        given = (given,)
    if not isinstance(given, (tuple, list)) or len(given) != len(names):
        raise ValueError(f"{argument}: expected ({', '.join(names)}), received {given!r}")
    rows = tuple(one_row(argument, s, dtype) for s in given)
    if like is not None and any(d.shape != s.shape for d, s in zip(rows, like, strict=True)):
        raise ValueError(
            f"{argument}: expected {cell.units} numbers for each of {', '.join(names)}; received "
            f"{[tuple(d.shape) for d in rows]}"
        )
    return rows
