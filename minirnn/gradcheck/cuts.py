"""Forward passes that leave a part of the chain rule out on purpose.

A complex step carries its derivative in the imaginary part. So a forward pass that drops an
imaginary part somewhere computes the right values with just the derivative that a backward pass
would have that forgets this very path. If the wrong gradients at hand equal those of a cut, the
error is found.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from minirnn.backend import Array, get_backend, xp
from minirnn.cells import Cell, GRUCell, GRUCellResetBefore, State, dropped, one_step
from minirnn.packing import Packing

# A cut is a step of a recurrence: cut(plain, cell, place, a_t, state, out, drop), with `plain` the
# true step, which writes the new state, and what the cell keeps, into `out`, and `place` = (number
# of this step, steps in all, rows in the step before).
Place = tuple[int, int, int]
Cut = Callable[..., None]


def real(array: Array) -> Array:
    """The same values without their derivative."""
    return array.real.astype(array.dtype)


@contextmanager
def cut_cells(cells: list[Cell], cut: Cut) -> Iterator[None]:
    """Let every cell run its steps through `cut`, one at a time."""
    classes = [type(cell) for cell in cells]
    for cell, plain_class in zip(cells, classes, strict=True):
        cell.__class__ = _with_cut(plain_class, cut)
    try:
        yield
    finally:
        for cell, plain_class in zip(cells, classes, strict=True):
            cell.__class__ = plain_class


def _with_cut(whole: type[Cell], cut: Cut) -> type[Cell]:
    class CutCell(whole):  # type: ignore[misc, valid-type]
        def steps(
            self,
            a: Array,
            history: State,
            kept: tuple[Array, ...],
            packing: Packing,
            drop: Array | None = None,
        ) -> None:
            count, rows_before = len(history), 0
            walk = packing.walk([a, *kept], history, [drop])
            for k, (a_t, *views, drop_t) in enumerate(walk):
                kept_t, states = views[: len(kept)], views[len(kept) :]
                state, out = states[:count], [*states[count:], *kept_t]
                place = (k, len(packing.batch_sizes), rows_before)
                cut(plain, self, place, a_t, state, out, drop_t)
                rows_before = len(a_t)

    def plain(
        cell: Cell, a_t: Array, state: list[Array], out: list[Array], drop: Array | None
    ) -> None:
        n = len(a_t)
        history = tuple(xp.concatenate([s, xp.empty_like(s)]) for s in state)
        packing = one_step(n, get_backend())
        whole.steps(cell, a_t, history, tuple(out[len(state) :]), packing, drop)
        for target, states in zip(out, history, strict=False):
            target[...] = states[n:]

    return CutCell


def cuts(state_names: tuple[str, ...]) -> dict[str, Cut]:
    """What each cut means, as a sentence, and the cut."""
    named: dict[str, Cut] = {}
    for k, name in enumerate(state_names):
        named[
            f"the gradient of {name} is not carried from a step to the one before: the part of "
            f"d{name} that comes through {name}_{{t-1}} is lost"
        ] = _state_cut(k)
    named["the first step is left out of the backward pass"] = _step_cut(lambda k, total: k == 0)
    named["the last step is left out of the backward pass"] = _step_cut(
        lambda k, total: k == total - 1
    )
    named[
        "where the batch shrinks because a row ends, the last of the rows that go on loses the "
        "gradient that it should pass to the step before"
    ] = _last_row_cut
    named["the recurrent kernel's gradient is made with h_t instead of h_{t-1}"] = _own_state_cut
    for which, rows in SUMS.items():
        named[f"a sum left out: {which}"] = _weights_cut(rows)
    return named


# Which rows of a step's block count in a sum over steps and rows: (place, n) -> bool by row.
SUMS: dict[str, Callable[[Place, int], Array]] = {
    "only one row of the first step counts": lambda place, n: (xp.arange(n) == 0) & (place[0] == 0),
    "only one row of the last step counts": lambda place, n: (
        (xp.arange(n) == n - 1) & (place[0] == place[1] - 1)
    ),
    "only the first step counts": lambda place, n: (xp.arange(n) >= 0) & (place[0] == 0),
    "only the last step counts": lambda place, n: (xp.arange(n) >= 0) & (place[0] == place[1] - 1),
    "the first step does not count": lambda place, n: (xp.arange(n) >= 0) & (place[0] > 0),
    "the last step does not count": lambda place, n: (
        (xp.arange(n) >= 0) & (place[0] < place[1] - 1)
    ),
}


def _state_cut(which: int) -> Cut:
    def cut(plain: Any, cell: Cell, place: Place, a_t: Array, state: list, out: Any, drop: Any):
        if which < len(state):
            state[which] = real(state[which])
        plain(cell, a_t, state, out, drop)

    return cut


def _step_cut(left_out: Callable[[int, int], bool]) -> Cut:
    def cut(plain: Any, cell: Cell, place: Place, a_t: Array, state: list, out: Any, drop: Any):
        plain(cell, a_t, state, out, drop)
        if left_out(place[0], place[1]):
            for array in out:
                array.imag[...] = 0

    return cut


def _last_row_cut(
    plain: Any, cell: Cell, place: Place, a_t: Array, state: list, out: Any, drop: Any
) -> None:
    if len(a_t) < place[2]:
        state = [s.copy() for s in state]
        for s in state:
            s.imag[-1] = 0
    plain(cell, a_t, state, out, drop)


def _own_state_cut(
    plain: Any, cell: Cell, place: Place, a_t: Array, state: list, out: Any, drop: Any
) -> None:
    U = cell.params["recurrent_kernel"]
    gates, trial = a_t.copy(), [array.copy() for array in out]
    plain(cell, gates, state, trial, drop)
    shift = dropped(real(trial[0]) - real(state[0]), drop)  # h_t - h_{t-1}
    extra = shift @ (U - real(U))
    if isinstance(cell, GRUCell):
        r = real(gates[:, cell.units : 2 * cell.units])
        U_h = (U - real(U))[:, 2 * cell.units :]
        before = isinstance(cell, GRUCellResetBefore)
        extra[:, 2 * cell.units :] = (r * shift) @ U_h if before else r * (shift @ U_h)
    a_t += extra
    plain(cell, a_t, state, out, drop)


def _weights_cut(rows: Callable[[Place, int], Array]) -> Cut:
    """Only some rows of some steps see the derivative of the weights."""

    def cut(plain: Any, cell: Cell, place: Place, a_t: Array, state: list, out: Any, drop: Any):
        quiet = copy.copy(cell)
        quiet.params = {key: real(value) for key, value in cell.params.items()}
        quiet_out = [array.copy() for array in out]
        plain(quiet, real(a_t), state, quiet_out, drop)
        plain(cell, a_t, state, out, drop)
        unseen = ~rows(place, len(a_t))
        for array, without in zip(out, quiet_out, strict=True):
            array[unseen] = without[unseen]

    return cut
