"""Every layer and cell on the strict stand-in for CuPy: the same numbers as on NumPy, and no hidden
copy or wait on the way. (Losses, metrics and optimizers: test_learning_on_device.py; whole models:
test_models_on_device.py.)"""

from __future__ import annotations

import numpy as np
import pytest
from device_cases import compare, like
from model_cases import ids
from recurrent_cases import FEATURES, KINDS, UNITS, make, masks_of_every_kind, randomize
from strict_cupy import counted, installed, no_sync

from minirnn import activations, set_random_seed
from minirnn.backend import sum_runs, to_device, to_host
from minirnn.base import RowGradient
from minirnn.layers import (
    Activation,
    Bidirectional,
    Dense,
    DropMask,
    Dropout,
    Embedding,
    Flatten,
    GlobalAveragePooling1D,
    GlobalMaxPooling1D,
    GRUCell,
    GRUCellResetBefore,
    LSTMCell,
    Masking,
    OneHot,
    SimpleRNNCell,
    TimeDistributed,
)
from minirnn.layers.bidirectional import MERGE_MODES
from minirnn.packing import Mask

pytestmark = pytest.mark.usefixtures("loops_that_run_here")
either_loop = pytest.mark.usefixtures("either_loop")

BATCH, TIME = 5, 7
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(BATCH, TIME, FEATURES)).astype("float32")
MASKS = masks_of_every_kind(np.random.default_rng(2), BATCH, TIME)


def both_ways(layer, x, mask=None, training=False, **given):
    """Forward and backward of a built layer, during which the host never waits."""
    rng = np.random.default_rng(3)
    randomize(layer, rng)
    mask = Mask.of(mask)
    with no_sync():
        y, cache = layer.forward(x, mask=mask, training=training, **given)
        dx, grads = layer.backward(like(y, rng), cache)
        after = layer.compute_mask(x, mask)
    grads = {k: tuple(g) if isinstance(g, RowGradient) else g for k, g in grads.items()}
    return y, dx, grads, None if after is None else after.array


def layer_run(made, x=X, mask=None, **options):
    """What `compare` runs: a layer, its weights and the random numbers of dropout from a seed."""

    def run():
        set_random_seed(1)
        layer = made()
        given = to_device(x) if x.dtype.kind == "f" else x  # token ids come from the host
        layer.build(x.shape)
        return both_ways(layer, given, mask, **options)

    return run


# --- recurrent layers -----------------------------------------------------------------------------

OPTIONS = {
    "last": {},
    "sequences": {"return_sequences": True},
    "states": {"return_state": True},
    "sequences and states": {"return_sequences": True, "return_state": True},
    "backwards": {"return_sequences": True, "go_backwards": True},
    "zeros": {"return_sequences": True, "zero_output_for_mask": True},
    "no bias": {"use_bias": False, "recurrent_initializer": "ones"},
    "other activation": {"activation": "softplus", "return_sequences": True},
    "dropout": {"dropout": 0.4, "recurrent_dropout": 0.3, "return_sequences": True},
}


@either_loop
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_recurrent_layers(kind, options):
    for mask in MASKS.values():
        compare(layer_run(lambda: make(kind, **options), mask=mask, training=True))


@either_loop
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("merge_mode", MERGE_MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_bidirectional(kind, merge_mode, sequences):
    def made():
        inner = make(kind, return_sequences=sequences, return_state=True, recurrent_dropout=0.2)
        return Bidirectional(inner, merge_mode=merge_mode)

    for mask in MASKS.values():
        compare(layer_run(made, mask=mask, training=True))


@either_loop
@pytest.mark.parametrize("kind", KINDS)
def test_initial_states(kind):
    states = np.random.default_rng(4).normal(size=(4, BATCH, UNITS)).astype("float32")
    count = 2 if kind == "lstm" else 1

    def run(made, count):
        given = tuple(to_device(state) for state in states[:count])
        return layer_run(made, mask=MASKS["empty row"], initial_state=given)()

    compare(lambda: run(lambda: make(kind), count))
    compare(lambda: run(lambda: Bidirectional(make(kind)), 2 * count))
    from_the_host = tuple(states[:count])
    compare(layer_run(lambda: make(kind), initial_state=from_the_host))


@either_loop
@pytest.mark.parametrize("kind", KINDS)
def test_stateful_layers(kind):
    def run():
        layer = make(kind, stateful=True)
        layer.build(X.shape)
        first = both_ways(layer, to_device(X), MASKS["trailing"])
        second = both_ways(layer, to_device(X), MASKS["holes"])
        return first, second, layer.states

    compare(run)


@either_loop
@pytest.mark.parametrize("cell", [SimpleRNNCell, LSTMCell, GRUCell, GRUCellResetBefore])
def test_one_step_of_a_cell(cell):
    def run():
        made, rng = cell(UNITS), np.random.default_rng(5)
        made.build(FEATURES)
        randomize(made, rng)
        state = tuple(rng.normal(size=(BATCH, UNITS)) for _ in made.state_names)
        with no_sync():
            after, cache = made.forward(X[:, 0], state)
            return after, made.backward(like(after, rng), cache)

    compare(run)


MOVING_NOTHING = {
    "last": lambda kind: make(kind),
    "backwards": lambda kind: make(kind, go_backwards=True),
    "zeros": lambda kind: make(kind, return_sequences=True, zero_output_for_mask=True),
    "bidirectional": lambda kind: Bidirectional(make(kind, return_sequences=True)),
    # To sum the gradients of positions that show one state: each one's place, and where runs end.
    "sequences, but for 2": lambda kind: make(kind, return_sequences=True),
}


@either_loop
@pytest.mark.parametrize("case", MOVING_NOTHING)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_moves_once_the_packing_of_a_mask_is_known(kind, case):
    with installed():
        layer, mask, x = MOVING_NOTHING[case](kind), Mask(MASKS["holes"]), to_device(X)
        layer.build(X.shape)
        for _ in range(2):
            y, cache = layer.forward(x, mask)
            dy = like(y, RANDOM)
            layer.backward(dy, cache)
        with counted() as counts, no_sync():
            _, cache = layer.forward(x, mask)
            layer.backward(dy, cache)
    assert (counts.h2d, counts.d2h) == (2 if case.endswith("for 2") else 0, 0)


def test_a_mask_may_lie_on_the_device():
    def run():
        layer = make("gru", return_sequences=True)
        layer.build(X.shape)
        randomize(layer, np.random.default_rng(5))
        return layer(to_device(X), mask=to_device(MASKS["holes"]))

    compare(run)


# --- the other layers -----------------------------------------------------------------------------

OTHERS = {
    "dense": lambda: Dense(4, activation="sigmoid"),
    "dense, softmax, no bias": lambda: Dense(4, activation="softmax", use_bias=False),
    "dropout": lambda: Dropout(0.4),
    "dropout with a seed": lambda: Dropout(0.4, seed=5),
    "time distributed": lambda: TimeDistributed(Dense(4, activation="tanh")),
    "average": GlobalAveragePooling1D,
    "maximum": GlobalMaxPooling1D,
    "masking forgotten": DropMask,
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", OTHERS)
def test_other_layers(kind, mask):
    compare(layer_run(OTHERS[kind], mask=MASKS[mask], training=True))


@pytest.mark.parametrize("name", activations.NAMES)
def test_activations(name):
    compare(layer_run(lambda: Activation(name)))
    compare(layer_run(lambda: Dense(4, activation=name), mask=MASKS["holes"]))
    if name in ("tanh", "sigmoid", "hard_sigmoid"):
        for kind in KINDS[1:]:
            compare(layer_run(lambda: make(kind, activation=name, recurrent_activation=name)))  # noqa: B023


def test_flatten_and_rows():
    compare(layer_run(Flatten))
    compare(layer_run(lambda: Dense(4, activation="elu"), x=X[:, 0]))


def test_masking_reads_the_features_back():
    def run():
        x = X.copy()
        x[MASKS["trailing"]] = 0
        layer = Masking()
        y, cache = layer.forward(to_device(x))
        return y, layer.backward(y, cache), layer.compute_mask(to_device(x)).array

    compare(run)


@pytest.mark.parametrize("mask_zero", [False, True])
def test_token_ids(mask_zero):
    for values in (ids(), ids()[:1], ids()[:, :1], np.full((300, 2), 7), np.zeros((2, 0), int)):
        compare(layer_run(lambda: Embedding(11, 3, mask_zero=mask_zero), x=values))
        compare(layer_run(lambda: OneHot(11, mask_zero=mask_zero), x=values))


def test_tokens_and_tables_on_the_device_are_read_back():
    def run():
        table = to_device(np.random.default_rng(6).normal(size=(11, 3)))
        return Embedding(11, 3, mask_zero=True, weights=table)(to_device(ids()))

    compare(run)


@pytest.mark.parametrize("starts", [[0], [0, 1, 2], [0, 5, 6, 40], list(range(0, 41, 3))])
def test_sums_of_runs_on_the_device(starts):
    """Every run to itself: what is large, or NaN, in one is not seen in another."""
    rows = np.random.default_rng(7).normal(size=(41, 3)).astype("float32")
    rows[0] = [np.nan, np.inf, 1e30]
    starts = np.array(starts)
    with installed(), no_sync():
        device = to_device(rows)
        sums = sum_runs(device, starts)
        again = sum_runs(device, starts)
    exact = np.add.reduceat(rows.astype("float64"), starts, axis=0)
    np.testing.assert_allclose(sums._a, exact, rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(sums._a, again._a)


def test_no_runs_at_all():
    with installed():
        assert sum_runs(to_device(np.zeros((0, 3))), np.zeros(0, dtype=int)).shape == (0, 3)


# --- does the stand-in bite? ----------------------------------------------------------------------


def test_a_hidden_copy_in_a_layer_is_seen(monkeypatch):
    run = layer_run(lambda: Dropout(0.5), training=True)
    with installed():
        run()
        monkeypatch.setattr("minirnn.dropout.to_device", np.asarray)  # left on the host
        with pytest.raises(TypeError, match="operand is a numpy.ndarray"):
            run()


def test_a_hidden_copy_in_an_index_is_seen(monkeypatch):
    run = layer_run(lambda: make("lstm"), mask=MASKS["holes"])
    with installed():
        run()
        monkeypatch.setattr("minirnn.packing.to_device", lambda array: array)
        with pytest.raises(TypeError, match="hidden copy|given to the device"):
            run()


def test_a_look_at_the_device_is_seen(monkeypatch):
    run = layer_run(lambda: Activation("relu"))

    def nosy(a, out=None):
        return a if bool((a > 0).all()) else activations.relu.function(a)

    with installed():
        run()
        monkeypatch.setattr(activations.NAMES["relu"], "function", nosy)
        with pytest.raises(RuntimeError, match="the host would wait"):
            run()


def test_numbers_that_were_never_written_are_seen(monkeypatch):
    run = layer_run(lambda: make("gru_reset_before", return_sequences=True))
    with installed():
        assert np.isfinite(to_host(run()[0])).all()
        monkeypatch.setattr(GRUCellResetBefore, "steps", lambda *arguments: None)
        assert np.isnan(to_host(run()[0])).all()
