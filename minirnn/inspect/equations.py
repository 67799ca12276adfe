"""The equations of each cell, written out: what `explain` prints."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minirnn.activations import Activation
from minirnn.backend import to_host, xp
from minirnn.cells import Cell, GRUCell, GRUCellResetBefore, LSTMCell, SimpleRNNCell
from minirnn.inspect.writing import Page, Strings


class Step(NamedTuple):
    """All numbers of one step of a cell, as vectors of one row.

    W, U, b: weights by gate, as `cell.gates` has them; b is None without biases. b_u: GRU's other
    bias. gates: what `steps` left of a, by gate. kept: the other arrays that it kept.
    after: the states after the step. The rest is None without a gradient:
    dstate, dbefore: the gradient of the states after and before the step; da, du: at `x W + b` and
    at `h U`, by gate; dx: at x_t; grads: of the weights.
    """

    cell: Cell
    x: np.ndarray
    before: list[np.ndarray]
    after: list[np.ndarray]
    gates: list[np.ndarray]
    kept: list[np.ndarray]
    W: list[np.ndarray]
    U: list[np.ndarray]
    b: list[np.ndarray] | None
    b_u: list[np.ndarray] | None
    dstate: list[np.ndarray] | None = None
    dbefore: list[np.ndarray] | None = None
    da: list[np.ndarray] | None = None
    du: list[np.ndarray] | None = None
    dx: np.ndarray | None = None
    grads: dict[str, np.ndarray] | None = None


# --- what the cells share -------------------------------------------------------------------------

SYMBOLS = {"sigmoid": "σ"}


def symbol(activation: Activation) -> str:
    return SYMBOLS.get(activation.name, activation.name)


def affine(page: Page, number: str, name: str, *parts: tuple[Any, ...]) -> np.ndarray:
    """Writes a sum of parts, `(formula, row, matrix)` or `(formula, bias or None)`; gives it."""
    parts = tuple(part for part in parts if part[-1] is not None)
    terms: list[Strings] = []
    for _, *arrays in parts:
        terms += page.matrix_product(*arrays) if len(arrays) == 2 else [page.factors(*arrays)]
    values = sum(part[1] @ part[2] if len(part) == 3 else part[1] for part in parts)
    page.line(number, name, " + ".join(part[0] for part in parts), values, page.sum(*terms))
    return values


def pre_activation(page: Page, step: Step, k: int, gate: str) -> np.ndarray:
    """Writes `a = x_t W + b + h_{t-1} U` for gate number k, and gives a (U,)."""
    return affine(
        page,
        "1",
        f"a{gate}",
        (f"x_t W{gate}", step.x, step.W[k]),
        (f"b{gate}", None if step.b is None else step.b[k]),
        (f"h_{{t-1}} U{gate}", step.before[0], step.U[k]),
    )


def derivative(
    page: Page, number: str, activation: Activation, at: str, name: str, y: np.ndarray
) -> np.ndarray:
    """Writes the derivative of an activation by means of its output y, named `name`."""
    found = to_host(activation.derivative(xp.asarray(y)))
    left, how = f"{symbol(activation)}'({at})", None
    if activation.name == "sigmoid":
        how = page.product(y, page.minus(1, y))
        formula = f"{name} ⊙ (1 - {name})"
    elif activation.name == "tanh":
        how = [f"1 - {number}²" for number in page.factors(y)]
        formula = f"1 - {name}²"
    else:
        formula = f"{activation.name}' where it gives {name}"
    page.line(number, left, formula, found, how)
    return found


def weight_lines(page: Page, step: Step, U_too: bool = True) -> None:
    """dx_t and the gradients of the weights, from da and, in GRU, du."""
    W, da = np.concatenate(step.W, axis=1), np.concatenate(step.da)
    how = page.sum(*page.matrix_product(da, W.T))
    page.line("1", "dx_t", "da Wᵀ", step.dx, how)
    page.outer("1", "dW", "x_tᵀ da", step.x, "da", step.grads["kernel"])
    du = "da" if step.b_u is None and not isinstance(step.cell, GRUCell) else "du"
    if U_too:
        dU = step.grads["recurrent_kernel"]
        page.outer("1", "dU", f"h_{{t-1}}ᵀ {du}", step.before[0], du, dU)
    if step.b is not None:
        rows = np.atleast_2d(step.grads["bias"])
        page.line("1", "db", "da", rows[0])
        if len(rows) > 1:
            page.line("1", "db_u", "du", rows[1])


# --- SimpleRNN ------------------------------------------------------------------------------------


def simple_rnn(page: Page, step: Step) -> None:
    a = pre_activation(page, step, 0, "")
    tanh = symbol(step.cell.activation)
    page.line("2", "h_t", f"{tanh}(a)", step.after[0], page.applied(tanh, page.factors(a)))


def simple_rnn_backward(page: Page, step: Step) -> None:
    tanh, (da,), (dh,) = step.cell.activation, step.da, step.dstate
    slope = derivative(page, "2", tanh, "a", "h_t", step.after[0])
    page.line("2", "da", f"dh_t ⊙ {symbol(tanh)}'(a)", da, page.product(dh, slope))
    how = page.sum(*page.matrix_product(da, step.U[0].T))
    page.line("1", "dh_{t-1}", "da Uᵀ", step.dbefore[0], how)
    weight_lines(page, step)


# --- LSTM -----------------------------------------------------------------------------------------


def lstm(page: Page, step: Step) -> None:
    i, f, g, o = step.gates
    c, (h_t, c_t), (tanh_c,) = step.before[1], step.after, step.kept
    names = "ifgo"
    a = [pre_activation(page, step, k, f"_{names[k]}") for k in range(4)]
    for name, before, gate in zip(names, a, step.gates, strict=True):
        cell = step.cell
        function = symbol(cell.activation if name == "g" else cell.recurrent_activation)
        how = page.applied(function, page.factors(before))
        page.line("2", name, f"{function}(a_{name})", gate, how)
    how = page.sum(page.product(f, c), page.product(i, g))
    page.line("3", "c_t", "f ⊙ c_{t-1} + i ⊙ g", c_t, how)
    tanh = symbol(step.cell.activation)
    page.line("4", "tanh_c", f"{tanh}(c_t)", tanh_c, page.applied(tanh, page.factors(c_t)))
    page.line("5", "h_t", "o ⊙ tanh_c", h_t, page.product(o, tanh_c))


def lstm_backward(page: Page, step: Step) -> None:
    i, f, g, o = step.gates
    c, (tanh_c,), (dh, dc) = step.before[1], step.kept, step.dstate
    sigma, tanh = step.cell.recurrent_activation, step.cell.activation
    s, t = symbol(sigma), symbol(tanh)
    slopes = []
    for name, gate in zip("ifgo", step.gates, strict=True):
        function = tanh if name == "g" else sigma
        slopes.append(derivative(page, "2", function, f"a_{name}", name, gate))
    slope_c = derivative(page, "4", tanh, "c_t", "tanh_c", tanh_c)
    total = dc + dh * o * slope_c
    how = page.sum(page.factors(dc), page.product(dh, o, slope_c))
    page.line("5 4", "dc", f"dc_t + dh_t ⊙ o ⊙ {t}'(c_t)", total, how)
    for k, (factor, by) in enumerate([("g", g), ("c_{t-1}", c), ("i", i)]):
        name = "ifg"[k]
        slope = f"{t if name == 'g' else s}'(a_{name})"
        how = page.product(total, by, slopes[k])
        page.line("3 2", f"da_{name}", f"dc ⊙ {factor} ⊙ {slope}", step.da[k], how)
    how = page.product(dh, tanh_c, slopes[3])
    page.line("5 2", "da_o", f"dh_t ⊙ tanh_c ⊙ {s}'(a_o)", step.da[3], how)
    gathered(page, step, "da", "ifgo", step.da)
    U = np.concatenate(step.U, axis=1)
    how = page.sum(*page.matrix_product(np.concatenate(step.da), U.T))
    page.line("1", "dh_{t-1}", "da Uᵀ", step.dbefore[0], how)
    page.line("3", "dc_{t-1}", "dc ⊙ f", step.dbefore[1], page.product(total, f))
    weight_lines(page, step)


def gathered(page: Page, step: Step, name: str, gates: Any, blocks: list[np.ndarray]) -> None:
    """Writes the gates' vectors side by side, as the weights have them."""
    parts = ", ".join(f"{name}_{gate}" for gate in gates)
    page.equation("", f"{name} = [{parts}] = {page.vector(np.concatenate(blocks))}")


# --- GRU ------------------------------------------------------------------------------------------


def gru(page: Page, step: Step) -> None:
    h, (h_t,), (z, r, hh) = step.before[0], step.after, step.gates
    u, a = [], []
    for k, gate in enumerate("zrh"):
        bias = f"b_u{gate}", None if step.b_u is None else step.b_u[k]
        u.append(affine(page, "1", f"u_{gate}", (f"h_{{t-1}} U_{gate}", h, step.U[k]), bias))
    for k, gate in enumerate("zrh"):
        bias = f"b_{gate}", None if step.b is None else step.b[k]
        a.append(affine(page, "1", f"a_{gate}", (f"x_t W_{gate}", step.x, step.W[k]), bias))
    sigma, tanh = symbol(step.cell.recurrent_activation), symbol(step.cell.activation)
    for k, name in enumerate("zr"):
        how = page.applied(sigma, page.factors(a[k]), page.factors(u[k]))
        page.line("2", name, f"{sigma}(a_{name} + u_{name})", step.gates[k], how)
    how = page.applied(tanh, page.factors(a[2]), page.product(r, u[2]))
    page.line("3", "hh", f"{tanh}(a_h + r ⊙ u_h)", hh, how)
    new_state(page, "4", h_t, h, z, hh)


def new_state(
    page: Page, number: str, h_t: np.ndarray, h: np.ndarray, z: np.ndarray, hh: np.ndarray
) -> None:
    how: Strings = page.sum(page.product(z, h), page.product(page.minus(1, z), hh))
    page.line(number, "h_t", "z ⊙ h_{t-1} + (1 - z) ⊙ hh", h_t, how)


def gru_backward(page: Page, step: Step) -> None:
    h, (z, r, hh), (u_h,), (dh,) = step.before[0], step.gates, step.kept, step.dstate
    sigma, tanh = step.cell.recurrent_activation, step.cell.activation
    s, t = symbol(sigma), symbol(tanh)
    slope_z = derivative(page, "2", sigma, "a_z + u_z", "z", z)
    slope_r = derivative(page, "2", sigma, "a_r + u_r", "r", r)
    slope_h = derivative(page, "3", tanh, "a_h + r ⊙ u_h", "hh", hh)
    how = page.product(dh, page.minus(h, hh), slope_z)
    page.line("4 2", "da_z", f"dh_t ⊙ (h_{{t-1}} - hh) ⊙ {s}'(a_z + u_z)", step.da[0], how)
    how = page.product(dh, page.minus(1, z), slope_h)
    page.line("4 3", "da_h", f"dh_t ⊙ (1 - z) ⊙ {t}'(a_h + r ⊙ u_h)", step.da[2], how)
    how = page.product(step.da[2], u_h, slope_r)
    page.line("4 3 2", "da_r", f"da_h ⊙ u_h ⊙ {s}'(a_r + u_r)", step.da[1], how)
    gathered(page, step, "da", "zrh", step.da)
    page.line("3", "du_h", "da_h ⊙ r", step.du[2], page.product(step.da[2], r))
    page.equation("", f"du = [da_z, da_r, du_h] = {page.vector(np.concatenate(step.du))}")
    U = np.concatenate(step.U, axis=1)
    terms = page.matrix_product(np.concatenate(step.du), U.T)
    how = page.sum(*terms, page.product(dh, z))
    page.line("4 1", "dh_{t-1}", "du Uᵀ + dh_t ⊙ z", step.dbefore[0], how)
    weight_lines(page, step)


def gru_reset_before(page: Page, step: Step) -> None:
    h, (h_t,), (z, r, hh) = step.before[0], step.after, step.gates
    sigma, tanh = symbol(step.cell.recurrent_activation), symbol(step.cell.activation)
    a = [pre_activation(page, step, k, f"_{'zr'[k]}") for k in range(2)]
    for name, before, gate in zip("zr", a, (z, r), strict=True):
        how = page.applied(sigma, page.factors(before))
        page.line("2", name, f"{sigma}(a_{name})", gate, how)
    page.line("3", "rh", "r ⊙ h_{t-1}", r * h, page.product(r, h))
    bias = "b_h", None if step.b is None else step.b[2]
    through_reset = "rh U_h", r * h, step.U[2]
    a_h = affine(page, "3", "a_h", ("x_t W_h", step.x, step.W[2]), bias, through_reset)
    page.line("4", "hh", f"{tanh}(a_h)", hh, page.applied(tanh, page.factors(a_h)))
    new_state(page, "5", h_t, h, z, hh)


def gru_reset_before_backward(page: Page, step: Step) -> None:
    h, (z, r, hh), (dh,) = step.before[0], step.gates, step.dstate
    sigma, tanh = step.cell.recurrent_activation, step.cell.activation
    s, t = symbol(sigma), symbol(tanh)
    slope_z = derivative(page, "2", sigma, "a_z", "z", z)
    slope_r = derivative(page, "2", sigma, "a_r", "r", r)
    slope_h = derivative(page, "4", tanh, "a_h", "hh", hh)
    how = page.product(dh, page.minus(h, hh), slope_z)
    page.line("5 2", "da_z", f"dh_t ⊙ (h_{{t-1}} - hh) ⊙ {s}'(a_z)", step.da[0], how)
    how = page.product(dh, page.minus(1, z), slope_h)
    page.line("5 4", "da_h", f"dh_t ⊙ (1 - z) ⊙ {t}'(a_h)", step.da[2], how)
    drh = step.da[2] @ step.U[2].T
    how = page.sum(*page.matrix_product(step.da[2], step.U[2].T))
    page.line("3", "drh", "da_h U_hᵀ", drh, how)
    how = page.product(drh, h, slope_r)
    page.line("3 2", "da_r", f"drh ⊙ h_{{t-1}} ⊙ {s}'(a_r)", step.da[1], how)
    gathered(page, step, "da", "zrh", step.da)
    terms = [page.matrix_product(step.da[k], step.U[k].T) for k in range(2)]
    how = page.sum(*terms[0], *terms[1], page.product(drh, r), page.product(dh, z))
    formula = "da_z U_zᵀ + da_r U_rᵀ + drh ⊙ r + dh_t ⊙ z"
    page.line("5 3 1", "dh_{t-1}", formula, step.dbefore[0], how)
    weight_lines(page, step, U_too=False)
    past = 2 * step.cell.units
    dU = step.grads["recurrent_kernel"]
    page.outer("1", "dU_z, dU_r", "h_{t-1}ᵀ [da_z, da_r]", h, "[da_z, da_r]", dU[:, :past])
    page.outer("3", "dU_h", "rhᵀ da_h", r * h, "da_h", dU[:, past:])


WRITERS = {
    SimpleRNNCell: (simple_rnn, simple_rnn_backward),
    LSTMCell: (lstm, lstm_backward),
    GRUCell: (gru, gru_backward),
    GRUCellResetBefore: (gru_reset_before, gru_reset_before_backward),
}
