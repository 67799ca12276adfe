"""The compiled loops against the cells that they stand in for."""

from __future__ import annotations

import contextlib
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrent_cases import (
    MASKS,
    any_masks,
    built,
    equal_grads,
    make,
    masks_of_every_kind,
    quick,
    random_states,
    seeds,
)

import minirnn
from minirnn import Sequential, compiled, set_random_seed
from minirnn.cells import GRUCell, GRUCellResetBefore, LSTMCell, SimpleRNNCell
from minirnn.compiled_loops import Loops, loops
from minirnn.layers import LSTM, Bidirectional, Dense, Embedding
from minirnn.optimizers import Adam
from minirnn.packing import Packing
from minirnn.timeloop import run, run_backward

KINDS = ("simple_rnn", "lstm")
UNITS = (1, 2, 3, 5, 7, 8, 16, 17, 64)

CLOSE = 2e-5  # float32 against float64, as a share of the largest value


@pytest.fixture(scope="module", autouse=True)
def as_usual():
    """Whatever MINIRNN_COMPILED is where the tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(compiled.ENVIRONMENT_VARIABLE, raising=False)
        compiled._kernels.cache_clear()
        yield
    compiled._kernels.cache_clear()


@pytest.fixture(scope="module")
def numba(as_usual):
    return pytest.importorskip("numba", reason="the compiled loops need Numba")


needs_numba = pytest.mark.usefixtures("numba")


@contextlib.contextmanager
def plain_cells():
    """Without the compiled loops, as with MINIRNN_COMPILED=0."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(compiled.ENVIRONMENT_VARIABLE, "0")
        compiled._kernels.cache_clear()
        yield
    compiled._kernels.cache_clear()


def is_compiled(cell):
    return isinstance(loops(cell, np.dtype("float32"), None), Loops)


def layer_of(kind, rng, units, features=2, **options):
    """In float32, with random weights that do not saturate the units."""
    layer = built(kind, rng, units, features, "float32", **options)
    for value in layer.params.values():
        value *= min(1.0, (3 / units) ** 0.5)
    return layer


# --- the same numbers as the cell -----------------------------------------------------------------


def both_passes(layer, x, mask, initial, dy, dstates):
    """`(states, gradients)`, two dicts of arrays, computed in the dtype of the weights."""
    dtype = layer.params["kernel"].dtype
    if initial is not None:
        initial = tuple(state.astype(dtype) for state in initial)
    out, cache = layer.forward(x.astype(dtype), mask, initial_state=initial)
    y, *states = out if layer.return_state else (out,)
    douts = [d.astype(dtype) for d in (dy, *dstates)]
    dx, grads = layer.backward(tuple(douts) if layer.return_state else douts[0], cache)
    dx, dinitial = (dx, ()) if initial is None else dx
    shown = {"y": y} | {f"state {i}": state for i, state in enumerate(states)}
    return shown, {"dx": dx} | {f"dinitial {i}": d for i, d in enumerate(dinitial)} | grads


def assert_close(one, two):
    """Each number; a share of the largest number of the same half of the computation."""
    for got, want in zip(one, two, strict=True):
        assert got.keys() == want.keys()
        largest = max([0.1, *(np.abs(value).max(initial=0) for value in want.values())])
        for key, value in want.items():
            assert got[key].shape == value.shape, key
            off = np.abs(got[key] - value).max(initial=0)
            assert off <= CLOSE * largest, f"{key}: off by {off}, the largest is {largest}"


def compare(layer, x, mask, rng, state_given):
    """The compiled loops against float64 on the plain cell, and the plain cell in float32."""
    B, T, _ = x.shape
    cell = layer.cell
    assert is_compiled(cell)
    count = len(cell.state_names)
    shape = (B, T, cell.units) if layer.return_sequences else (B, cell.units)
    # float32 numbers, so that all three see the same.
    states = [random_states(rng, count, B, cell.units) for _ in range(2)]
    initial, dstates = (tuple(s.astype("float32") for s in each) for each in states)
    dy = rng.normal(size=shape).astype("float32")
    arguments = x, mask, initial if state_given else None, dy, dstates if layer.return_state else ()

    result = both_passes(layer, *arguments)
    assert {a.dtype for half in result for a in half.values()} == {np.dtype("float32")}
    assert_close(result, both_passes(layer.astype("float64"), *arguments))
    with plain_cells():
        assert not is_compiled(cell)
        assert_close(result, both_passes(layer, *arguments))


OPTIONS = ("use_bias", "return_sequences", "return_state", "go_backwards", "zero_output_for_mask")


@needs_numba
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("units", UNITS)
@settings(parent=quick, max_examples=20)
@given(
    mask=any_masks(max_batch=9, min_time=1),
    options=st.fixed_dictionaries(dict.fromkeys(OPTIONS, st.booleans())),
    state_given=st.booleans(),
    seed=seeds,
)
def test_the_loops_compute_what_the_cell_computes(kind, units, mask, options, state_given, seed):
    rng = np.random.default_rng(seed)
    layer = layer_of(kind, rng, units, **options)
    x = rng.normal(size=(*mask.shape, 2)).astype("float32")
    compare(layer, x, mask, rng, state_given)


@needs_numba
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("batch", [1, 2, 4, 11])
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("go_backwards", [False, True])
def test_the_loops_under_every_mask(kind, name, batch, return_sequences, go_backwards):
    """With nothing in the batch, one row, and rows that do not come in fours."""
    rng = np.random.default_rng(21)
    options = {"return_sequences": return_sequences, "go_backwards": go_backwards}
    layer = layer_of(kind, rng, 5, 3, return_state=True, **options)
    x = rng.normal(size=(batch, 7, 3)).astype("float32")
    compare(layer, x, masks_of_every_kind(rng, batch, 7)[name], rng, state_given=True)


@needs_numba
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(0, 7), (5, 0), (0, 0)])
def test_a_batch_of_nothing(kind, shape):
    rng = np.random.default_rng(22)
    layer = layer_of(kind, rng, 3, return_sequences=True, return_state=True)
    compare(layer, np.zeros((*shape, 2), "float32"), None, rng, state_given=True)


@needs_numba
@pytest.mark.parametrize("kind", KINDS)
def test_long_sequences_in_a_wide_layer(kind):
    rng = np.random.default_rng(23)
    layer = layer_of(kind, rng, 64, 31, return_sequences=True)
    mask = np.arange(53) < rng.integers(1, 54, 29)[:, None]
    x = rng.normal(size=(29, 53, 31)).astype("float32")
    for value in layer.params.values():
        value *= 0.5  # so that the state forgets, and rounding with it
    compare(layer, x, mask, rng, state_given=False)


@needs_numba
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_any_layout(kind):
    """Columns, broadcast numbers that cannot be written to, float64."""
    rng = np.random.default_rng(24)
    cell = layer_of(kind, rng, 3).cell
    packing = Packing(rng.random((5, 7)) < 0.6)
    state = random_states(rng, len(cell.state_names))
    first = tuple(s.astype("float32") for s in state)
    cache = run(cell, rng.normal(size=(len(packing), 2)).astype("float32"), packing, first)
    rows = 5 + len(packing)
    one = np.float32(0.25)
    want = None
    for dhistory in (
        np.full((rows, 3), one),
        np.broadcast_to(one, (rows, 3)),
        np.asfortranarray(np.full((2 * rows, 3), one))[::2],
        np.full((rows, 3), 0.25),
    ):
        given = (dhistory,) * len(first)
        dx, dinitial, grads = run_backward(cell, tuple(d[:5] for d in given), given, cache)
        got = {"dx": dx, "dh": dinitial[0]} | grads
        assert dx.any() and {a.dtype for a in got.values()} == {np.dtype("float32")}
        want = want or got
        assert_close([got], [want])


@needs_numba
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("absent", [{0}, {1}, {0, 1}, set()])
def test_gradients_of_any_of_the_states(kind, absent):
    """After every step and after the last one; a layer gives none for LSTM's c at every step."""
    rng = np.random.default_rng(25)
    cell = layer_of(kind, rng, 5).cell
    count = len(cell.state_names)
    packing = Packing(rng.random((7, 11)) < 0.6)
    rows = 7 + len(packing)
    x = rng.normal(size=(len(packing), 2)).astype("float32")
    numbers = [random_states(rng, count, size, 5) for size in (7, 7, rows)]
    initial, dfinal, dhistory = ([s.astype("float32") for s in each] for each in numbers)

    def gradients(dtype):
        cell.cast(dtype)
        first = tuple(s.astype(dtype) for s in initial)
        cache = run(cell, x.astype(dtype), packing, first)
        result = []
        for given_last in (True, False):
            last, every = (
                tuple(None if i in absent else d.astype(dtype) for i, d in enumerate(each))
                for each in (dfinal, dhistory)
            )
            last = last if given_last else (None,) * count
            dx, dinitial, grads = run_backward(cell, last, every, cache)
            result.append({"dx": dx} | {f"dinitial {i}": d for i, d in enumerate(dinitial)} | grads)
        return result

    result = gradients("float32")
    with plain_cells():
        assert_close(result, gradients("float32"))
    assert_close(result, gradients("float64"))


# --- what they leave to the cell ------------------------------------------------------------------


class OwnLSTMCell(LSTMCell):
    """May compute whatever it likes."""


class OwnSimpleRNNCell(SimpleRNNCell):
    """May compute whatever it likes."""


@needs_numba
@pytest.mark.parametrize(
    "cell",
    [
        SimpleRNNCell(3, activation="relu"),
        SimpleRNNCell(3, activation="sigmoid"),
        LSTMCell(3, activation="relu"),
        LSTMCell(3, recurrent_activation="hard_sigmoid"),
        LSTMCell(3, activation="sigmoid", recurrent_activation="tanh"),
        GRUCell(3),
        GRUCellResetBefore(3),
        OwnLSTMCell(3),
        OwnSimpleRNNCell(3),
    ],
    ids=lambda cell: f"{type(cell).__name__}-{cell.activation.name}",
)
def test_other_cells_run_themselves(cell):
    cell.build(2)
    assert loops(cell, np.dtype("float32"), None) is cell


@needs_numba
@pytest.mark.parametrize("kind", KINDS)
def test_the_usual_cells_are_covered_in_float32_without_dropout(kind, monkeypatch):
    cell = layer_of(kind, np.random.default_rng(31), 3).cell
    assert is_compiled(cell)
    assert loops(cell, np.dtype("float64"), None) is cell
    assert loops(cell, np.dtype("float16"), None) is cell
    assert loops(cell, np.dtype("float32"), np.ones((5, 3), "float32")) is cell
    wide = type(cell)(129)
    wide.build(2)
    assert loops(wide, np.dtype("float32"), None) is wide
    monkeypatch.setattr(compiled, "get_backend", lambda: "cupy")
    assert not is_compiled(cell)


@needs_numba
@pytest.mark.parametrize("kind", KINDS)
def test_recurrent_dropout_in_training_is_the_cells(kind):
    rng = np.random.default_rng(32)
    layer = layer_of(kind, rng, 3, recurrent_dropout=0.4)
    x = rng.normal(size=(5, 7, 2)).astype("float32")
    results = []
    for setting in (contextlib.nullcontext(), plain_cells()):
        with setting:
            set_random_seed(33)
            y, cache = layer.forward(x, training=True)
            results.append((y, *layer.backward(np.ones_like(y), cache)))
    (y, dx, grads), (y_plain, dx_plain, grads_plain) = results
    assert np.array_equal(y, y_plain) and np.array_equal(dx, dx_plain)
    assert equal_grads(grads, grads_plain)
    assert not np.array_equal(y, layer(x))


# --- the same bits every time ---------------------------------------------------------------------


@needs_numba
@pytest.mark.parametrize("kind", KINDS)
@settings(parent=quick)
@given(mask=any_masks(max_batch=9, min_time=1), more=st.integers(1, 5), seed=seeds)
def test_more_padding_changes_no_bit(kind, mask, more, seed):
    """Masked steps anywhere: not in what a row gives, nor in any gradient."""
    rng = np.random.default_rng(seed)
    layer = layer_of(kind, rng, 5, zero_output_for_mask=True, return_sequences=True)
    B, T = mask.shape
    x, dy = (rng.normal(size=(B, T, size)).astype("float32") for size in (2, 5))
    places = np.sort(rng.permutation(T + more)[:T])

    def spread(array):
        filling = rng.normal(size=(B, T + more, *array.shape[2:])).astype(array.dtype)
        wide = np.zeros_like(filling) if array.dtype == bool else filling
        wide[:, places] = array
        return wide

    y, cache = layer.forward(x, mask)
    dx, grads = layer.backward(dy, cache)
    y_wide, cache = layer.forward(spread(x), spread(mask))
    dx_wide, grads_wide = layer.backward(spread(dy), cache)
    assert np.array_equal(y_wide[:, places], y)
    assert np.array_equal(dx_wide[:, places], dx)
    assert equal_grads(grads_wide, grads)


@needs_numba
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("units", [3, 17, 64])
def test_the_same_bits_on_every_run(kind, units):
    rng = np.random.default_rng(42)
    layer = layer_of(kind, rng, units, 5)
    mask = rng.random((11, 13)) < 0.7
    x = rng.normal(size=(11, 13, 5)).astype("float32")
    results, held = [], []
    for size in (0, 1, 5, 1000):  # so that the arrays come to lie elsewhere
        held.append(np.empty(size, "float32"))
        y, cache = layer.forward(x, mask)
        dx, grads = layer.backward(np.ones_like(y), cache)
        results.append((y, dx, grads))
        held.append(cache)
    y, dx, grads = results[0]
    for y_again, dx_again, grads_again in results[1:]:
        assert np.array_equal(y, y_again) and np.array_equal(dx, dx_again)
        assert equal_grads(grads, grads_again)


# --- tanh -----------------------------------------------------------------------------------------


@pytest.fixture(params=["scalar", 1, 7, 64])
def tanh(request, numba):
    """float32 array → its tanh: one number at a time, and in the loop over many units."""
    from minirnn import kernels

    units = request.param

    def one_by_one(x):
        return np.array([kernels.tanh(number) for number in x], dtype="float32")

    def in_the_loop(x):
        """The state of a SimpleRNN after one step from zeros."""
        N = -(-len(x) // units)
        a = np.zeros(N * units, "float32")
        a[: len(x)] = x
        history = np.zeros((2 * N, units), "float32")
        plan = np.array([[1, N, 0, 0]])
        U = np.zeros((units, units), "float32")
        kernels.simple_rnn(
            a.reshape(N, units), U, history, np.empty_like(U, shape=(N, units)), N, plan
        )
        return history[N:].reshape(-1)[: len(x)]

    return one_by_one if units == "scalar" else in_the_loop


def numbers_for_tanh(points):
    tiny = np.geomspace(1e-30, 1, points)
    grid = np.linspace(-20, 20, points)
    edges = np.array([3.4e38, 1e10, 100, 9, np.nextafter(np.float32(9), 0), 8.99, 7.9])
    return np.concatenate([grid, tiny, -tiny, edges, -edges]).astype("float32")


def test_tanh_is_close_to_that_of_numpy_everywhere(tanh, request):
    x = numbers_for_tanh(2001 if "scalar" in request.node.name else 400_001)
    got, want = tanh(x), np.tanh(x.astype("float64"))
    assert got.dtype == np.float32 and np.abs(got).max() <= 1
    zero = want == 0
    assert not got[zero].any()
    relative = np.abs(got[~zero] - want[~zero]) / np.abs(want[~zero])
    assert relative.max() < 3e-7, x[~zero][relative.argmax()]
    assert np.array_equal(tanh(-x), -got)


def test_tanh_of_what_is_no_number_or_has_no_end(tanh):
    x = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, -np.nan, 1.0], dtype="float32")
    got = tanh(x)
    np.testing.assert_allclose(got[:2], [1, -1], rtol=3e-7)
    assert np.array_equal(got[3:5], [0, 0])
    assert np.isnan(got[[2, 5]]).all()
    np.testing.assert_allclose(got[6], np.tanh(1), rtol=3e-7)


# --- NaN ------------------------------------------------------------------------------------------


@needs_numba
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("units", [1, 3, 8, 17])
@pytest.mark.parametrize("row", range(7))
def test_nan_in_an_input_shows_in_that_row_from_that_step_on(kind, units, row):
    rng = np.random.default_rng(51)
    layer = layer_of(kind, rng, units, return_sequences=True)
    x = rng.normal(size=(7, 5, 2)).astype("float32")
    plain = layer(x)
    x[row, 2, 1] = np.nan
    y, cache = layer.forward(x)
    dx, grads = layer.backward(np.ones_like(y), cache)
    expected = np.zeros((7, 5), dtype=bool)
    expected[row, 2:] = True
    assert np.array_equal(np.isnan(y), np.broadcast_to(expected[..., None], y.shape))
    assert np.array_equal(y[~expected], plain[~expected])
    others = np.arange(7) != row
    assert np.isnan(dx[row, 2]).all() and np.isfinite(dx[others]).all()
    assert all(np.isnan(value).any() for value in grads.values())


@needs_numba
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", ["kernel", "recurrent_kernel", "bias"])
def test_nan_in_a_weight_shows_in_every_row(kind, key):
    rng = np.random.default_rng(52)
    layer = layer_of(kind, rng, 3)
    layer.params[key].flat[0] = np.nan
    y = layer(rng.normal(size=(7, 5, 2)).astype("float32"))
    assert np.isnan(y[:, 0]).all()


# --- without Numba --------------------------------------------------------------------------------


def without_the_variable(monkeypatch, tmp_path):
    monkeypatch.setenv(compiled.ENVIRONMENT_VARIABLE, "0")


def without_numba(monkeypatch, tmp_path):
    forget_numba(monkeypatch)
    monkeypatch.setitem(sys.modules, "numba", None)


def with_a_broken_numba(error):
    def breaks(monkeypatch, tmp_path):
        forget_numba(monkeypatch)
        (tmp_path / "numba.py").write_text(f"raise {error}\n")
        monkeypatch.syspath_prepend(tmp_path)

    return breaks


def forget_numba(monkeypatch):
    monkeypatch.delitem(sys.modules, "minirnn.kernels", raising=False)
    monkeypatch.delattr(minirnn, "kernels", raising=False)
    monkeypatch.delitem(sys.modules, "numba", raising=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "way",
    [
        without_the_variable,
        without_numba,
        with_a_broken_numba("ImportError('Numba needs NumPy 2.3 or less')"),
        with_a_broken_numba("AttributeError('module numpy has no attribute long')"),
        with_a_broken_numba("OSError('libllvmlite.so: cannot open shared object file')"),
        with_a_broken_numba("SystemError('initialization of _internal failed')"),
    ],
    ids=["variable", "missing", "ImportError", "AttributeError", "OSError", "SystemError"],
)
def test_without_numba_the_cell_runs_itself(kind, way, monkeypatch, tmp_path, capfd):
    """Silently: a warning would be an error here."""
    rng = np.random.default_rng(61)
    layer = layer_of(kind, rng, 3)
    x = rng.normal(size=(5, 7, 2)).astype("float32")
    usual = layer(x)
    way(monkeypatch, tmp_path)
    compiled._kernels.cache_clear()
    try:
        assert loops(layer.cell, np.dtype("float32"), None) is layer.cell
        np.testing.assert_allclose(layer(x), usual, rtol=1e-4, atol=1e-6)
        assert capfd.readouterr() == ("", "")
    finally:
        compiled._kernels.cache_clear()


@needs_numba
def test_any_other_value_of_the_variable_leaves_the_loops_on(monkeypatch):
    cell = make("lstm").cell
    monkeypatch.setenv(compiled.ENVIRONMENT_VARIABLE, "1")
    compiled._kernels.cache_clear()
    assert is_compiled(cell)


# --- training -------------------------------------------------------------------------------------


def losses_of_a_training(steps=30):
    set_random_seed(71)
    rng = np.random.default_rng(72)
    model = Sequential(
        [
            Embedding(101, 13, mask_zero=True),
            Bidirectional(LSTM(11, return_sequences=True)),
            Bidirectional(LSTM(7)),
            Dense(3, activation="softmax"),
        ]
    )
    model.compile(optimizer=Adam(0.01), loss="sparse_categorical_crossentropy")
    labels = rng.integers(0, 3, 37)
    lengths = rng.integers(1, 18, 37)[:, None]
    # Tokens tell the label, mostly.
    tokens = np.where(
        rng.random((37, 17)) < 0.5, labels[:, None] + 1, rng.integers(1, 101, (37, 17))
    )
    tokens[np.arange(17) >= lengths] = 0
    return [model.train_on_batch(tokens, labels) for _ in range(steps)]


@needs_numba
def test_a_model_trains_the_same():
    compiled._kernels.cache_clear()
    losses = losses_of_a_training()
    assert losses[-1] < 0.9 * losses[0]
    with plain_cells():
        plain = losses_of_a_training()
    np.testing.assert_allclose(losses, plain, rtol=1e-4)
    assert losses != plain  # it was not the same loop
    assert losses == losses_of_a_training()
