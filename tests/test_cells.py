"""One step of each cell, forward and backward, and its weights."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from recurrent_cases import CLOSE, KINDS

from minirnn import activations
from minirnn.cells import Cell, GRUCell, GRUCellResetBefore, LSTMCell, SimpleRNNCell
from minirnn.initializers import Constant
from minirnn.packing import Packing

CLASSES = {
    "simple_rnn": SimpleRNNCell,
    "lstm": LSTMCell,
    "gru": GRUCell,
    "gru_reset_before": GRUCellResetBefore,
}
N, F, U = 5, 2, 3
SMOOTH = ("tanh", "sigmoid", "softplus", "linear", "elu", "exponential")


def random_cell(kind, rng, **options):
    cell = CLASSES[kind](U, **options)
    cell.build(F)
    cell.cast("float64")
    for value in cell.params.values():
        value[...] = rng.normal(scale=0.7, size=value.shape)
    return cell


def random_step(cell, rng):
    state = tuple(rng.normal(size=(N, U)) for _ in cell.state_names)
    return rng.normal(size=(N, F)), state


# --- the equations --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ["tanh", "relu", "linear", "elu", "softplus", "sigmoid"])
@pytest.mark.parametrize("gates", [{}, {"recurrent_activation": "hard_sigmoid"}])
@pytest.mark.parametrize("use_bias", [True, False])
def test_one_step_is_that_of_the_paper(kind, activation, gates, use_bias):
    rng = np.random.default_rng(1)
    gates = {} if kind == "simple_rnn" else gates
    cell = random_cell(kind, rng, activation=activation, use_bias=use_bias, **gates)
    x, state = random_step(cell, rng)
    new = cell(x, state)
    weights = oracle.weights_by_gate(kind, cell.params)
    for row in range(N):
        expected = oracle.step_row(
            kind, weights, x[row], [s[row] for s in state], activation, **gates
        )
        assert len(new) == len(expected)
        for got, want in zip(new, expected, strict=True):
            np.testing.assert_allclose(got[row], want, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_leaves_its_arguments_alone(kind):
    rng = np.random.default_rng(2)
    cell = random_cell(kind, rng)
    x, state = random_step(cell, rng)
    copies = x.copy(), [s.copy() for s in state], {k: v.copy() for k, v in cell.params.items()}
    _, cache = cell.forward(x, state)
    cell.backward(tuple(rng.normal(size=(N, U)) for _ in state), cache)
    assert np.array_equal(x, copies[0])
    assert all(np.array_equal(a, b) for a, b in zip(state, copies[1], strict=True))
    assert all(np.array_equal(cell.params[key], copies[2][key]) for key in cell.params)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", SMOOTH)
def test_backward_of_one_step_by_differences(kind, activation):
    rng = np.random.default_rng(3)
    cell = random_cell(kind, rng, activation=activation)
    x, state = random_step(cell, rng)
    dnew = tuple(rng.normal(size=(N, U)) for _ in state)
    new, cache = cell.forward(x, state)
    dx, dstate, grads = cell.backward(dnew, cache)

    arrays = [x, *state, *cell.params.values()]
    found = [dx, *dstate, *(grads[key] for key in cell.params)]
    names = ["x", *cell.state_names, *cell.params]
    epsilon = 1e-6
    for array, gradient, name in zip(arrays, found, names, strict=True):
        assert gradient.shape == array.shape, name
        direction = rng.normal(size=array.shape)
        kept, values = array.copy(), []
        for sign in (1, -1):
            array[...] = kept + sign * epsilon * direction
            out = cell(x, state)
            values.append(sum((d * s).sum() for d, s in zip(dnew, out, strict=True)))
        array[...] = kept
        slope = (values[0] - values[1]) / (2 * epsilon)
        np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("activation", SMOOTH)
@pytest.mark.parametrize("kind", KINDS)
def test_backward_can_be_repeated_and_changes_no_result(kind, activation):
    rng = np.random.default_rng(4)
    cell = random_cell(kind, rng, activation=activation)
    x, state = random_step(cell, rng)
    new, cache = cell.forward(x, state)
    shown = [s.copy() for s in new]
    dnew = tuple(rng.normal(size=(N, U)) for _ in state)
    dnew_copies = [d.copy() for d in dnew]
    dx, dstate, grads = cell.backward(dnew, cache)
    dx_again, dstate_again, grads_again = cell.backward(dnew, cache)
    assert all(np.array_equal(a, b) for a, b in zip(new, shown, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(dnew, dnew_copies, strict=True))
    assert np.array_equal(dx, dx_again)
    assert all(np.array_equal(a, b) for a, b in zip(dstate, dstate_again, strict=True))
    assert all(np.array_equal(grads[key], grads_again[key]) for key in grads)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ["tanh", "relu", "softplus"])
@pytest.mark.parametrize("dropped", [False, True])
def test_steps_are_single_steps_one_after_the_other(kind, activation, dropped):
    """Both loops of a cell, over rows that end at different steps, against loops of one step."""
    rng = np.random.default_rng(12)
    cell = random_cell(kind, rng, activation=activation)
    packing = Packing(np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0], [1, 0, 0, 0]], bool))
    sizes, total = [4, 3, 3, 1], 11
    count, B = len(cell.state_names), 4
    x = rng.normal(size=(total, F))
    history = tuple(rng.normal(size=(B + total, U)) for _ in range(count))
    drop = (rng.random((B, U)) < 0.5) * 2.0 if dropped else None

    def kept():
        return tuple(np.empty((total, size)) for size in cell.saved_sizes())

    def one(n):
        return Packing(np.ones((n, 1), dtype=bool))

    def first(n):
        return None if drop is None else drop[:n]

    a, whole, saved = cell.project(x), tuple(h.copy() for h in history), kept()
    cell.steps(a, whole, saved, packing, drop)
    a_alone, saved_alone, stepped = cell.project(x), kept(), [h.copy() for h in history]
    before, start = [slice(0, B)], 0
    for n in sizes:
        block, start = slice(start, start + n), start + n
        rows = before[-1]
        alone = tuple(np.concatenate([h[rows][:n], h[:n]]) for h in stepped)
        cell.steps(a_alone[block], alone, tuple(k[block] for k in saved_alone), one(n), first(n))
        before.append(slice(B + block.start, B + block.stop))
        for states, new in zip(stepped, alone, strict=True):
            states[before[-1]] = new[n:]
    for got, want in zip((a, *whole, *saved), (a_alone, *stepped, *saved_alone), strict=True):
        np.testing.assert_allclose(got, want, **CLOSE)

    state_prev = tuple(
        np.concatenate([h[rows][:n] for rows, n in zip(before, sizes, strict=False)]) for h in whole
    )
    state = tuple(h[B:] for h in whole)
    drop_all = None if drop is None else np.concatenate([drop[:n] for n in sizes])
    local = cell.local_derivatives(state_prev, state, (a, *saved), drop_all)
    local_alone = cell.local_derivatives(state_prev, state, (a, *saved), drop_all)
    dstate = tuple(rng.normal(size=(B, U)) for _ in range(count))
    dstates = tuple(rng.normal(size=(total, U)) for _ in range(count))
    dstate_alone = tuple(d.copy() for d in dstate)
    dstates_before = [d.copy() for d in dstates]
    cell.steps_backward(dstate, dstates, local, packing, drop)
    for n in reversed(sizes):
        block, start = slice(start - n, start), start - n
        cell.steps_backward(
            tuple(d[:n] for d in dstate_alone),
            tuple(d[block] for d in dstates),
            tuple(array[block] for array in local_alone),
            one(n),
            first(n),
        )
    for got, want in zip((*dstate, *local), (*dstate_alone, *local_alone), strict=True):
        np.testing.assert_allclose(got, want, **CLOSE)
    assert all(np.array_equal(d, b) for d, b in zip(dstates, dstates_before, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_float32_stays_float32(kind):
    cell = CLASSES[kind](U)
    cell.build(F)
    x = np.random.default_rng(6).normal(size=(N, F)).astype("float32")
    new, cache = cell.forward(x, cell.initial_state(N))
    dx, dstate, grads = cell.backward(new, cache)
    for array in (*cell.params.values(), *new, dx, *dstate, *grads.values()):
        assert array.dtype == np.float32


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "gates", "bias"),
    [
        ("simple_rnn", 1, (U,)),
        ("lstm", 4, (4 * U,)),
        ("gru", 3, (2, 3 * U)),
        ("gru_reset_before", 3, (3 * U,)),
    ],
)
def test_shapes_of_the_weights(kind, gates, bias):
    cell = CLASSES[kind](U)
    cell.build(F)
    assert list(cell.params) == ["kernel", "recurrent_kernel", "bias"]
    assert cell.params["kernel"].shape == (F, gates * U)
    assert cell.params["recurrent_kernel"].shape == (U, gates * U)
    assert cell.params["bias"].shape == bias
    without = CLASSES[kind](U, use_bias=False)
    without.build(F)
    assert list(without.params) == ["kernel", "recurrent_kernel"]


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_start_as_whole_matrices(kind):
    cell = CLASSES[kind](31)
    cell.build(17)
    kernel, recurrent = cell.params["kernel"], cell.params["recurrent_kernel"]
    limit = np.sqrt(6 / (17 + kernel.shape[1]))
    assert 0.97 * limit < np.abs(kernel).max() <= limit * (1 + 1e-6)
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(31), atol=1e-5)
    if kind != "simple_rnn":
        block = recurrent[:, :31]
        assert np.abs(block @ block.T - np.eye(31)).max() > 0.1


def test_unit_forget_bias_sets_one_block_and_leaves_the_others_to_the_initializer():
    cell = LSTMCell(U, bias_initializer=Constant(0.25))
    cell.build(F)
    i, f, g, o = cell.params["bias"].reshape(4, U)
    assert (f == 1).all()
    assert (i == 0.25).all() and (g == 0.25).all() and (o == 0.25).all()
    plain = LSTMCell(U, bias_initializer=Constant(0.25), unit_forget_bias=False)
    plain.build(F)
    assert (plain.params["bias"] == 0.25).all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_equal_cell_from_its_configuration(kind):
    cell = CLASSES[kind](U, activation="relu", use_bias=False, kernel_initializer=Constant(0.5))
    config = cell.get_config()
    twin = CLASSES[kind](**config)
    twin.build(F)
    assert twin.activation is activations.relu
    assert (twin.params["kernel"] == 0.5).all()
    assert "bias" not in twin.params


def test_initial_state():
    h, c = LSTMCell(U).initial_state(N)
    assert h.shape == c.shape == (N, U)
    assert not h.any() and not c.any()
    assert h is not c and h.dtype == np.float32
    assert LSTMCell(U).initial_state(1, "float64")[0].dtype == np.float64


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("units", [0, -3, 2.0, "8", None])
def test_units_must_be_a_positive_whole_number(units):
    with pytest.raises(ValueError, match=f"units: expected a positive whole number.*{units!r}"):
        LSTMCell(units)


def test_unknown_names_get_the_nearest_match():
    with pytest.raises(ValueError, match="activation: there is none called 'tahn'.*mean 'tanh'"):
        SimpleRNNCell(U, activation="tahn")
    with pytest.raises(ValueError, match="'sigmiod'.*Did you mean 'sigmoid'"):
        GRUCell(U, recurrent_activation="sigmiod")
    with pytest.raises(ValueError, match="initializer: .*'ortogonal'.*Did you mean 'orthogonal'"):
        LSTMCell(U, recurrent_initializer="ortogonal")


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_computes_in_the_type_of_its_weights(kind):
    rng = np.random.default_rng(10)
    cell = CLASSES[kind](U)
    cell.build(F)
    x, state = rng.normal(size=(N, F)), tuple(rng.normal(size=(N, U)) for _ in cell.state_names)
    expected = cell(x.astype("float32"), tuple(s.astype("float32") for s in state))
    for new in (cell(x, state), cell(x.tolist(), [s.tolist() for s in state])):
        for got, want in zip(new, expected, strict=True):
            assert got.dtype == np.float32
            np.testing.assert_array_equal(got, want)
    new, cache = cell.forward(x, state)
    dx, dstate, grads = cell.backward(new, cache)
    assert {a.dtype for a in (dx, *dstate, *grads.values())} == {np.dtype("float32")}
    with pytest.raises(TypeError, match=f"^{type(cell).__name__}: expected .*numbers"):
        cell([["a", "b"]] * N, state)


def test_a_cell_without_weights_says_so():
    cell = GRUCell(U)
    with pytest.raises(ValueError, match=r"GRUCell: it has no weights yet; call build\(features\)"):
        cell(np.zeros((N, F)), cell.initial_state(N))


def test_wrong_shapes_are_named():
    cell = random_cell("lstm", np.random.default_rng(7))
    h = np.zeros((N, U))
    with pytest.raises(ValueError, match=r"LSTMCell: expected x_t of shape \(n, 2\), got \(5, 7\)"):
        cell(np.zeros((N, 7)), (h, h))
    with pytest.raises(ValueError, match=r"expected x_t of shape \(n, 2\), got \(5, 1, 2\)"):
        cell(np.zeros((N, 1, F)), (h, h))
    with pytest.raises(
        ValueError, match=r"expected the state \(h, c\), each \(5, 3\).*\[\(5, 3\)\]"
    ):
        cell(np.zeros((N, F)), (h,))
    with pytest.raises(ValueError, match=r"each \(5, 3\); received \[\(5, 3\), \(4, 3\)\]"):
        cell(np.zeros((N, F)), (h, h[:4]))


def test_a_cell_of_ones_own_must_have_equations():
    class Half(Cell):
        pass

    cell = Half(U)
    cell.build(F)
    with pytest.raises(NotImplementedError, match="Half has no steps$"):
        cell(np.zeros((N, F)), (np.zeros((N, U)),))
    packing = Packing(np.ones((N, 1), dtype=bool))
    h = (np.zeros((N, U)),)
    with pytest.raises(NotImplementedError, match="Half has no backward pass$"):
        cell.local_derivatives(h, h, h, None)
    with pytest.raises(NotImplementedError, match="Half has no backward pass$"):
        cell.steps_backward(h, (None,), h, packing)


def test_softmax_cannot_serve_inside_a_cell():
    cell = random_cell("simple_rnn", np.random.default_rng(8), activation="softmax")
    x, state = random_step(cell, np.random.default_rng(9))
    new, cache = cell.forward(x, state)
    with pytest.raises(ValueError, match="softmax: it mixes the elements of a row"):
        cell.backward(new, cache)
