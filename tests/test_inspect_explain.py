"""`explain`: the numbers in the text are those of the cell, and each equation holds."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from minirnn import activations
from minirnn.backend import xp
from minirnn.cells import Cell, GRUCell, GRUCellResetBefore, LSTMCell, SimpleRNNCell, split
from minirnn.inspect import explain

CELLS = {
    "simple_rnn": SimpleRNNCell,
    "lstm": LSTMCell,
    "gru": GRUCell,
    "gru_reset_before": GRUCellResetBefore,
}
SIZES = [(1, 1), (2, 3), (3, 2)]


def built(kind, features, units, dtype="float64", seed=0, **options):
    cell = CELLS[kind](units, **options)
    cell.build(features)
    cell.cast(dtype)
    rng = np.random.default_rng(seed)
    for value in cell.params.values():
        value[...] = rng.normal(scale=0.7, size=value.shape)
    count = len(cell.state_names)
    x = rng.normal(size=features).astype(dtype)
    state, dstate = (
        tuple(rng.normal(size=units).astype(dtype) for _ in range(count)) for _ in range(2)
    )
    return cell, x, state, dstate


def equations(text):
    """`(number, name, formula, rows)` of each equation; a row is `(expression or None, result)`."""
    found = []
    for line in text.strip("\n").splitlines():
        number, body = line[:7].strip(), line[7:]
        row = re.match(r"  \[(\d+)\]  (.+) = (.+)$", body)
        if row:
            assert int(row[1]) == len(found[-1][3])
            found[-1][3].append((row[2], row[3]))
        elif line.startswith(("One step", "The same")) or "features:" in line:
            continue
        elif "   " in body.strip():  # several vectors that are given
            for part in body.split("   "):
                name, value = part.split(" = ")
                found.append((number, name, None, [(None, value)]))
        else:
            name, *rest = body.split(" = ")
            if len(rest) == 1 and not re.fullmatch(r"\[.*\]|-?[\d.]+(e[-+]\d+)?", rest[0]):
                found.append((number, name, rest[0], []))
            else:
                *formula, value = rest
                expression = formula[-1] if len(formula) > 1 else None
                row = (expression, value)
                found.append((number, name, formula[0] if formula else None, [row]))
    return found


def evaluated(expression):
    """What an expression of the page comes to, by Python's own arithmetic."""
    python = expression.replace("·", "*").replace("²", "**2").replace("σ(", "sigmoid(")
    names = {
        "sigmoid": lambda a: 1 / (1 + math.exp(-a)),
        "tanh": math.tanh,
        "relu": lambda a: max(a, 0.0),
        "linear": lambda a: a,
    }
    return eval(python, {"__builtins__": {}}, names)


def numbers_of(rows):
    """The results of an equation as one array: (n,), or (rows, columns) of a matrix."""
    values = [eval(value) for _, value in rows]
    return np.array(values[0] if len(rows) == 1 and isinstance(values[0], list) else values)


def results(text):
    return {name: numbers_of(rows) for _, name, _, rows in equations(text)}


def expected_numbers(kind, cell, x, state, dstate):
    """Name on the page → the cell's own number, from `forward` and `backward`."""
    rows = tuple(s[None] for s in state)
    after, cache = cell.forward(x[None], rows)
    dx, dbefore, grads = cell.backward(tuple(d[None] for d in dstate), cache)
    gates = [gate[0] for gate in split(cache[3][0], len(cell.gates))]
    names = {"lstm": "i f g o", "simple_rnn": ""}.get(kind, "z r hh").split()
    found = dict(zip(names, gates, strict=False)) | {"x_t": x, "dx_t": dx[0]}
    for k, name in enumerate(cell.state_names):
        found |= {f"{name}_{{t-1}}": state[k], f"{name}_t": after[k][0]}
        found |= {f"d{name}_t": dstate[k], f"d{name}_{{t-1}}": dbefore[k][0]}
    dU = grads["recurrent_kernel"]
    found["dW"] = grads["kernel"]
    if kind == "gru_reset_before":
        past = 2 * cell.units
        found |= {"dU_z, dU_r": dU[:, :past], "dU_h": dU[:, past:]}
    else:
        found["dU"] = dU
    if "bias" in grads:
        found["db"] = np.atleast_2d(grads["bias"])[0]
        if kind == "gru":
            found["db_u"] = grads["bias"][1]
    return found


# --- the numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(("features", "units"), SIZES)
@pytest.mark.parametrize("kind", CELLS)
def test_the_numbers_are_those_of_the_cell(kind, features, units, use_bias):
    cell, x, state, dstate = built(kind, features, units, use_bias=use_bias)
    shown = results(explain(cell, x, state, dstate, digits=13))
    for name, value in expected_numbers(kind, cell, x, state, dstate).items():
        found = shown[name].reshape(value.shape)
        np.testing.assert_allclose(found, value, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", CELLS)
def test_they_are_exact_to_the_digits_shown(kind):
    cell, x, state, dstate = built(kind, 2, 2, dtype="float32")
    text = explain(cell, x, state, dstate)
    shown = {name: rows for _, name, _, rows in equations(text)}
    for name, value in expected_numbers(kind, cell, x, state, dstate).items():
        parts = [item for _, result in shown[name] for item in re.findall(r"[^\[\], ]+", result)]
        assert parts == [f"{v:.5g}" for v in value.reshape(-1)], name


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(("features", "units"), SIZES)
@pytest.mark.parametrize("kind", CELLS)
def test_each_equation_holds(kind, features, units, use_bias):
    cell, x, state, dstate = built(kind, features, units, use_bias=use_bias)
    found = equations(explain(cell, x, state, dstate, digits=14))
    known, checked = results(explain(cell, x, state, dstate, digits=14)), 0
    for _, name, formula, rows in found:
        for expression, value in rows:
            if expression is None:
                continue
            times = re.fullmatch(r"(.+)·\[?(d.+?)\]?", expression)
            if times:  # a row of a matrix: a number times a vector that stands above
                vector = np.concatenate([known[part].reshape(-1) for part in times[2].split(", ")])
                np.testing.assert_allclose(eval(value), evaluated(times[1]) * vector, rtol=1e-11)
            else:
                assert evaluated(expression) == pytest.approx(float(value), rel=1e-10, abs=1e-13)
            checked += 1
        assert use_bias or "b" not in str(formula), name
    gates = len(cell.gates)
    assert checked >= units * (3 * gates + 2)


@pytest.mark.parametrize("kind", CELLS)
def test_other_activations_are_named(kind):
    gates = {} if kind == "simple_rnn" else {"recurrent_activation": "hard_sigmoid"}
    cell, x, state, dstate = built(kind, 1, 1, activation="relu", **gates)
    text = explain(cell, x, state, dstate, digits=13)
    shown = results(text)
    for name, value in expected_numbers(kind, cell, x, state, dstate).items():
        np.testing.assert_allclose(shown[name].reshape(value.shape), value, rtol=1e-12)
    assert "relu(" in text and "relu'(" in text and "tanh(" not in text
    assert ("hard_sigmoid(" in text) == bool(gates)


def test_an_activation_of_ones_own_is_named():
    own = activations.Activation("half", lambda a, out=None: xp.multiply(a, 0.5, out=out), _half)
    cell, x, state, dstate = built("simple_rnn", 1, 1, activation=own)
    text = explain(cell, x, state, dstate)
    assert "h_t = half(a) = half(" in text and "half'(a) = half' where it gives h_t = 0.5" in text


def _half(y):
    return xp.full_like(y, 0.5)


# --- the page -------------------------------------------------------------------------------------


def test_forward_alone_is_the_first_half():
    cell, x, state, dstate = built("lstm", 2, 1)
    both, first = explain(cell, x, state, dstate), explain(cell, x, state)
    assert both.startswith(first + "\nThe same step backward\n")


@pytest.mark.parametrize(
    ("kind", "forward", "backward"),
    [
        ("simple_rnn", {"1", "2"}, {"2", "1"}),
        ("lstm", {"1", "2", "3", "4", "5"}, {"2", "4", "5 4", "3 2", "5 2", "1", "3"}),
        ("gru", {"1", "2", "3", "4"}, {"2", "3", "4 2", "4 3", "4 3 2", "4 1", "1"}),
        (
            "gru_reset_before",
            {"1", "2", "3", "4", "5"},
            {"2", "4", "5 2", "5 4", "3", "3 2", "5 3 1", "1"},
        ),
    ],
)
def test_lines_bear_the_numbers_of_the_cells_lines(kind, forward, backward):
    first, second = explain(*built(kind, 1, 1)).split("The same step backward")
    for text, numbers in ((first, forward), (second, backward)):
        assert {number for number, *_ in equations(text)} - {""} == numbers


@pytest.mark.parametrize("kind", CELLS)
def test_of_large_cells_results_are_shown_and_abbreviated(kind):
    cell, x, state, dstate = built(kind, 40, 20)
    text = explain(cell, x, state, dstate)
    assert "·" not in text and "…" in text
    assert max(map(len, text.splitlines())) < 200
    h = cell(x[None], tuple(s[None] for s in state))[0][0]
    assert f"{h[0]:.5g}, {h[1]:.5g}, {h[2]:.5g}, …, {h[-1]:.5g}]" in text
    assert "dW = x_tᵀ da, 40 by" in text


def test_the_method_is_the_function():
    cell, x, state, dstate = built("gru", 2, 2)
    assert cell.explain(x, state, dstate) == explain(cell, x, state, dstate)
    assert cell.explain(x[None], state[0]) == explain(cell, x, state[0][None])
    assert cell.explain(x.tolist(), tuple(state[0].tolist())) == explain(cell, x, state)


def test_zeros_have_no_sign():
    cell, x, state, _ = built("simple_rnn", 1, 1)
    assert "-0 " not in cell.explain(x, state, [-0.0]) + " "


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x_t": np.ones((2, 2))}, "x_t: expected one row"),
        ({"x_t": np.ones(3)}, r"LSTMCell: expected x_t of shape \(n, 2\)"),
        ({"state": np.ones(3)}, r"state: expected \(h, c\), received"),
        ({"state": (np.ones(3),)}, r"state: expected \(h, c\), received"),
        ({"state": (np.ones(2), np.ones(2))}, "LSTMCell: expected the state"),
        ({"dstate": (np.ones(3),)}, r"dstate: expected \(h, c\), received"),
        ({"dstate": (np.ones(2), np.ones(3))}, "dstate: expected 3 numbers for each of h, c"),
        ({"digits": 0}, "digits: expected a positive whole number"),
    ],
)
def test_arguments_that_do_not_fit(change, said):
    cell, x, state, dstate = built("lstm", 2, 3)
    given = {"x_t": x, "state": state, "dstate": dstate} | change
    with pytest.raises(ValueError, match=said):
        explain(cell, **given)


def test_cells_that_cannot_be_explained():
    with pytest.raises(ValueError, match="has no weights yet"):
        explain(LSTMCell(2), [1.0], ([1.0, 1.0], [1.0, 1.0]))
    with pytest.raises(TypeError, match="cell: expected one of SimpleRNNCell, LSTMCell"):
        explain(Cell(2), [1.0], [1.0, 1.0])
