"""Every recurrent layer and option beside Keras itself: outputs, states and gradients to 1e-5."""

from __future__ import annotations

import numpy as np
import pytest
from given_draws import GivenDraws
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("keras", reason="Keras is not installed")
pytest.importorskip("jax", reason="JAX, on which the tests run Keras, is not installed")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import keras  # noqa: E402
from keras_twins import (  # noqa: E402
    CLOSE,
    MASKS,
    B,
    F,
    T,
    U,
    as_list,
    mask_of,
    theirs_with_gradients,
    twins,
)

from minirnn import Sequential, initializers, layers, set_random_seed  # noqa: E402

KINDS = ["SimpleRNN", "LSTM", "GRU"]


def compare(mine, theirs, rng, mask, state=None, rows=B, time=T, training=False):
    x = rng.normal(size=(rows, time, F)).astype("float32")
    out, cache = mine.forward(x, mask=mask, initial_state=state, training=training)
    outs = as_list(out)
    douts = [rng.normal(size=o.shape).astype("float32") for o in outs]
    want, want_dx, want_dstate, want_grads = theirs_with_gradients(
        theirs, x, mask, state, douts, training
    )
    for one, other in zip(outs, want, strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)
    back, grads = mine.backward(tuple(douts) if len(douts) > 1 else douts[0], cache)
    dx, dstate = back if state is not None else (back, ())
    np.testing.assert_allclose(dx, want_dx, **CLOSE)
    for one, other in zip(dstate, want_dstate, strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)
    for (key, one), other in zip(((k, grads[k]) for k in mine.params), want_grads, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5, err_msg=key)


def states_of(kind, rng, count=1, rows=B):
    return [
        rng.normal(size=(rows, U)).astype("float32")
        for _ in range(count * (2 if kind == "LSTM" else 1))
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask", sorted(MASKS))
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
def test_sequences_directions_and_masks(kind, mask, sequences, backwards):
    """With the states behind the output, from a state that is given."""
    rng = np.random.default_rng(1)
    options = {"return_sequences": sequences, "go_backwards": backwards, "return_state": True}
    mine, theirs = twins(kind, rng, **options)
    compare(mine, theirs, rng, mask_of(mask), states_of(kind, rng))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask", ["trailing", "holes"])
def test_zero_output_for_mask(kind, mask):
    rng = np.random.default_rng(2)
    options = {"return_sequences": True, "zero_output_for_mask": True}
    mine, theirs = twins(kind, rng, **options)
    compare(mine, theirs, rng, mask_of(mask))


OPTIONS = [
    ("SimpleRNN", {"activation": "relu"}),
    ("SimpleRNN", {"activation": "sigmoid", "use_bias": False}),
    ("LSTM", {"activation": "softplus", "recurrent_activation": "hard_sigmoid"}),
    ("LSTM", {"activation": "elu", "use_bias": False}),
    ("LSTM", {"recurrent_activation": "tanh"}),
    ("GRU", {"reset_after": False}),
    ("GRU", {"reset_after": False, "activation": "relu", "use_bias": False}),
    ("GRU", {"recurrent_activation": "hard_sigmoid"}),
    ("GRU", {"activation": "exponential", "recurrent_activation": "linear"}),
]


@pytest.mark.parametrize(("kind", "options"), OPTIONS, ids=lambda v: str(v))
def test_options_of_cells(kind, options):
    rng = np.random.default_rng(3)
    mine, theirs = twins(kind, rng, return_sequences=True, **options)
    if options.get("activation") == "exponential":
        for layer in (mine, theirs):  # so that it does not run away
            layer.set_weights([w * 0.1 for w in layer.get_weights()])
    compare(mine, theirs, rng, mask_of("holes"), states_of(kind, rng))


MERGES = ["concat", "sum", "mul", "ave", None]
BOTH = [
    (kind, merge, mask, sequences)
    for k, kind in enumerate(KINDS)
    for m, merge in enumerate(MERGES)
    for n, mask in enumerate(["none", "trailing", "holes", "empty row"])
    for sequences in (False, True)
    if (k + m + n) % 3 == 0  # every pair of them comes, not every triple
]


@pytest.mark.parametrize(("kind", "merge", "mask", "sequences"), BOTH)
def test_bidirectional(kind, merge, mask, sequences):
    rng = np.random.default_rng(4)
    mine, theirs = twins(kind, rng, merge, return_sequences=sequences)
    compare(mine, theirs, rng, mask_of(mask))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("merge", ["concat", None])
def test_states_of_both_directions(kind, merge):
    rng = np.random.default_rng(5)
    mine, theirs = twins(kind, rng, merge, return_sequences=True, return_state=True)
    compare(mine, theirs, rng, mask_of("trailing"), states_of(kind, rng, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_stateful(kind):
    rng = np.random.default_rng(6)
    mine, theirs = twins(kind, rng, stateful=True, return_sequences=True)
    for _ in range(3):
        x = rng.normal(size=(B, T, F)).astype("float32")
        np.testing.assert_allclose(mine(x), np.asarray(theirs(x)), **CLOSE)
    for layer in (mine, theirs):
        layer.reset_state()
    np.testing.assert_allclose(mine(x), np.asarray(theirs(x)), **CLOSE)


@settings(max_examples=6, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    rows=st.integers(1, 4),
    time=st.integers(1, 5),
    both=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_random_shapes_and_masks(kind, rows, time, both, seed):
    rng = np.random.default_rng(seed)
    mine, theirs = twins(kind, rng, "concat" if both else "", return_sequences=True)
    compare(mine, theirs, rng, rng.random((rows, time)) < 0.7, rows=rows, time=time)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_keeps_the_weights_it_has(kind):
    """Built first and put into a layer then, it is not built again."""
    rng = np.random.default_rng(16)
    mine, theirs = (getattr(lib, f"{kind}Cell")(U) for lib in (layers, keras.layers))
    mine.build(F)
    theirs.build((B, F))
    weights = [rng.normal(size=w.shape).astype("float32") for w in mine.params.values()]
    mine.params = dict(zip(mine.params, weights, strict=True))
    theirs.set_weights([w.copy() for w in weights])
    mine, theirs = layers.RNN(mine), keras.layers.RNN(theirs)
    mine.build((None, None, F))
    theirs.build((B, T, F))
    for one, other in zip(mine.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    compare(mine, theirs, rng, mask_of("holes"))


# --- the rest -------------------------------------------------------------------------------------


def ids_with_padding(rng):
    return rng.integers(1, 11, (B, T)) * mask_of("trailing")


def test_embedding():
    rng = np.random.default_rng(7)
    table = rng.normal(size=(11, F)).astype("float32")
    mine = layers.Embedding(11, F, mask_zero=True, weights=table)
    mine.build((None, None))
    theirs = keras.layers.Embedding(11, F, mask_zero=True)
    theirs.build((None, T))
    theirs.set_weights([table])
    ids = ids_with_padding(rng)
    y, cache = mine.forward(ids)
    assert np.array_equal(y, np.asarray(theirs(ids)))
    assert np.array_equal(mine.compute_mask(ids).array, np.asarray(theirs.compute_mask(ids)))
    dy = rng.normal(size=y.shape).astype("float32")
    _, grads = mine.backward(dy, cache)

    def total(weights):
        return (theirs.stateless_call([weights], [], ids)[0] * dy).sum()

    want = np.asarray(jax.grad(total)(jnp.asarray(table)))
    np.testing.assert_allclose(grads["embeddings"].dense(table.shape), want, **CLOSE)


def test_masking():
    rng = np.random.default_rng(8)
    x = rng.integers(0, 2, (B, T, F)).astype("float32")
    mine, theirs = layers.Masking(1.0), keras.layers.Masking(1.0)
    assert np.array_equal(mine.compute_mask(x).array, np.asarray(theirs.compute_mask(x)))
    assert np.array_equal(mine(x), np.asarray(theirs(x)))


ACTIVATIONS = [
    "linear",
    "tanh",
    "sigmoid",
    "relu",
    "softmax",
    "elu",
    "softplus",
    "hard_sigmoid",
    "exponential",
]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [False, True])
def test_dense(activation, bias):
    rng = np.random.default_rng(9)
    mine = layers.Dense(U, activation, bias)
    theirs = keras.layers.Dense(U, activation, bias)
    mine.build((None, T, F))
    theirs.build((None, T, F))
    weights = [rng.normal(size=w.shape).astype("float32") for w in mine.get_weights()]
    mine.set_weights(weights)
    theirs.set_weights(weights)
    x = rng.normal(size=(B, T, F)).astype("float32")
    y, cache = mine.forward(x)
    dy = rng.normal(size=y.shape).astype("float32")
    dx, grads = mine.backward(dy, cache)

    def total(weights, x):
        return (theirs.stateless_call(weights, [], x)[0] * dy).sum()

    np.testing.assert_allclose(y, np.asarray(theirs(x)), **CLOSE)
    want, want_dx = jax.grad(total, argnums=(0, 1))([jnp.asarray(w) for w in weights], x)
    np.testing.assert_allclose(dx, np.asarray(want_dx), **CLOSE)
    for key, other in zip(mine.params, want, strict=True):
        np.testing.assert_allclose(grads[key], np.asarray(other), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("mask", ["none", "trailing", "holes"])
@pytest.mark.parametrize("name", ["GlobalAveragePooling1D", "GlobalMaxPooling1D", "Flatten"])
def test_pooling(name, mask):
    """Keras's maximum does not look at masks, ours does: compared without."""
    if mask != "none" and name != "GlobalAveragePooling1D":
        pytest.skip("Keras passes over the mask here")
    rng = np.random.default_rng(10)
    x = rng.normal(size=(B, T, F)).astype("float32")
    mine, theirs = getattr(layers, name)(), getattr(keras.layers, name)()
    options = {} if mask == "none" else {"mask": mask_of(mask)}
    np.testing.assert_allclose(mine(x, **options), np.asarray(theirs(x, **options)), **CLOSE)


@pytest.mark.parametrize("kind", [*KINDS, "Dense", "Embedding"])
def test_initial_weights_follow_the_same_rules(kind):
    """Bounds, orthogonality and constants, on a layer large enough to tell."""
    set_random_seed(14)
    keras.utils.set_random_seed(14)
    features, units = 40, 50
    made = {
        "Dense": lambda lib: lib.Dense(units),
        "Embedding": lambda lib: lib.Embedding(features, units),
    }.get(kind, lambda lib: getattr(lib, kind)(units))
    mine, theirs = made(layers), made(keras.layers)
    shape = (None, None) if kind == "Embedding" else (None, 5, features)
    mine.build(shape)
    theirs.build((None, 5) if kind == "Embedding" else shape)
    for one, other in zip(mine.get_weights(), theirs.get_weights(), strict=True):
        assert one.shape == other.shape
        if one.ndim == 2 and len(one) == units and kind in KINDS:
            for w in (one, other):  # recurrent kernels
                np.testing.assert_allclose(w @ w.T, np.eye(units), atol=1e-5)
        elif one.ndim == 2 and one.std() > 0:
            assert abs(one).max() == pytest.approx(abs(other).max(), rel=0.05)
            assert one.std() == pytest.approx(other.std(), rel=0.1)
        else:
            np.testing.assert_array_equal(one, other)


INITIALIZERS = [
    ("RandomUniform", {"minval": -0.3, "maxval": 0.7}),
    ("RandomNormal", {"mean": 0.2, "stddev": 0.4}),
    ("GlorotUniform", {}),
    ("HeUniform", {}),
    ("Orthogonal", {}),
    ("Orthogonal", {"gain": 1.3}),
]


@pytest.mark.parametrize(("name", "options"), INITIALIZERS, ids=lambda v: str(v))
@pytest.mark.parametrize("shape", [(7, 11), (13, 5), (17, 17)])
def test_initial_weights_from_the_same_draws(name, options, shape):
    """Keras draws the same numbers again from the same seed: ours starts from these."""
    draw = keras.random.uniform if name.endswith("Uniform") else keras.random.normal
    # Of an orthogonal matrix, Keras and we draw the tall one of both forms.
    drawn = (max(shape), min(shape)) if name == "Orthogonal" else shape
    numbers = np.asarray(draw(drawn, seed=17), "float64")
    mine = getattr(initializers, name)(**options)
    want = np.asarray(getattr(keras.initializers, name)(**options, seed=17)(shape))
    np.testing.assert_allclose(mine.draw(shape, GivenDraws(numbers)), want, **CLOSE)


@pytest.mark.parametrize("forget", [False, True])
@pytest.mark.parametrize("initializer", ["zeros", "ones"])
def test_unit_forget_bias(forget, initializer):
    options = {"unit_forget_bias": forget, "bias_initializer": initializer}
    mine, theirs = layers.LSTM(U, **options), keras.layers.LSTM(U, **options)
    for layer in (mine, theirs):
        layer.build((None, T, F))
    np.testing.assert_array_equal(mine.get_weights()[2], theirs.get_weights()[2])


LOSSES = [
    "sparse_categorical_crossentropy",
    "categorical_crossentropy",
    "binary_crossentropy",
    "mean_squared_error",
    "mean_absolute_error",
]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_on_probabilities(name, weighted):
    from minirnn import losses

    rng = np.random.default_rng(11)
    p = rng.random((B, 4)).astype("float32") + 0.05
    p /= p.sum(axis=1, keepdims=True)
    y = rng.integers(0, 4, B)
    if name == "categorical_crossentropy":
        y = np.eye(4, dtype="float32")[y]
    elif not name.startswith("sparse"):
        y = rng.integers(0, 2, (B, 4)).astype("float32")
    weight = rng.random(B).astype("float32") if weighted else None
    value, dy = losses.get(name).forward(y, p, weight)
    made = {
        "sparse_categorical_crossentropy": keras.losses.SparseCategoricalCrossentropy,
        "categorical_crossentropy": keras.losses.CategoricalCrossentropy,
        "binary_crossentropy": keras.losses.BinaryCrossentropy,
        "mean_squared_error": keras.losses.MeanSquaredError,
        "mean_absolute_error": keras.losses.MeanAbsoluteError,
    }[name]()
    want, want_dy = jax.value_and_grad(lambda q: made(y, q, sample_weight=weight))(jnp.asarray(p))
    assert float(value) == pytest.approx(float(want), rel=1e-5)
    np.testing.assert_allclose(dy, np.asarray(want_dy), **CLOSE)


OPTIMIZERS = {
    "sgd": ("SGD", {"learning_rate": 0.1}),
    "momentum": ("SGD", {"learning_rate": 0.1, "momentum": 0.9}),
    "nesterov": ("SGD", {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}),
    "rmsprop": ("RMSprop", {}),
    "rmsprop-centered": ("RMSprop", {"momentum": 0.7, "centered": True, "learning_rate": 0.01}),
    "adagrad": ("Adagrad", {"learning_rate": 0.1}),
    "adam": ("Adam", {"learning_rate": 0.01}),
    "adam-other": ("Adam", {"learning_rate": 0.05, "beta_1": 0.8, "beta_2": 0.99}),
    "adam-epsilon": ("Adam", {"learning_rate": 0.05, "epsilon": 0.03}),
    "clipnorm": ("Adam", {"clipnorm": 0.5}),
    "global_clipnorm": ("SGD", {"learning_rate": 0.2, "global_clipnorm": 0.7}),
    "clipvalue": ("Adam", {"clipvalue": 0.1}),
}


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_optimizers_over_fifty_steps(name):
    from minirnn import optimizers

    kind, options = OPTIMIZERS[name]
    rng = np.random.default_rng(12)
    start = {"w": rng.normal(size=(4, 3)), "b": rng.normal(size=3), "rest": np.ones((2, 2))}
    start = {key: value.astype("float32") for key, value in start.items()}
    params = {key: value.copy() for key, value in start.items()}
    variables = [keras.Variable(value) for value in start.values()]
    mine, theirs = getattr(optimizers, kind)(**options), getattr(keras.optimizers, kind)(**options)
    for step in range(50):
        grads = {key: rng.normal(size=v.shape).astype("float32") for key, v in start.items()}
        if step % 7 == 3:
            grads["rest"][...] = 0
        mine.apply(params, grads)
        theirs.apply([jnp.asarray(g) for g in grads.values()], variables)
    for key, variable in zip(params, variables, strict=True):
        np.testing.assert_allclose(params[key], np.asarray(variable), rtol=2e-5, atol=2e-6)


def force_dropout(monkeypatch, mine, theirs, drops):
    """Let both libraries use these draws; drops: a pair (of x, of h) for each direction."""
    both = hasattr(mine, "forward_layer")
    cells = [theirs.forward_layer.cell, theirs.backward_layer.cell] if both else [theirs.cell]
    for cell, (drop_x, drop_h) in zip(cells, drops, strict=True):
        count = getattr(cell, "dropout_mask_count", None)

        def given_mask(drop, count=count):
            return lambda step: jnp.asarray(drop) if count is None else [jnp.asarray(drop)] * count

        cell.get_dropout_mask = given_mask(drop_x)
        cell.get_recurrent_dropout_mask = given_mask(drop_h)

    def draw(rate, shape, dtype, training=True, random=None):
        if not training or rate == 0:
            return None
        which = 0 if shape[-1] == F else 1
        found = np.stack([pair[which] for pair in drops])
        return (found if both else found[0]).astype(dtype)

    for module in ("recurrent", "bidirectional"):
        monkeypatch.setattr(f"minirnn.layers.{module}.draw_dropout", draw)


@pytest.mark.parametrize("kind", [*KINDS, "GRU reset_before"])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("mask", ["none", "holes"])
def test_dropout_of_inputs_and_states(kind, both, mask, monkeypatch):
    """With the same draws in both: one for all steps (Keras's one a gate, made equal)."""
    rng = np.random.default_rng(13)
    options = {"dropout": 0.5, "recurrent_dropout": 0.3, "return_sequences": True}
    if kind == "GRU reset_before":
        kind, options["reset_after"] = "GRU", False
    mine, theirs = twins(kind, rng, "concat" if both else "", **options)
    drops = [
        tuple((rng.random((B, size)) < 0.6).astype("float32") * 2.5 for size in (F, U))
        for _ in range(2 if both else 1)
    ]
    force_dropout(monkeypatch, mine, theirs, drops)
    compare(mine, theirs, rng, mask_of(mask), training=True)
    compare(mine, theirs, rng, mask_of(mask))


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_behind_one_that_reads_backwards(kind):
    """Keras hands the mask on as it was (see docs/differences.md): here it is turned by hand."""
    rng = np.random.default_rng(15)
    mine, theirs = twins(kind, rng, return_sequences=True, go_backwards=True)
    behind = layers.SimpleRNN(U)
    behind.build((None, None, U))
    weights = [rng.normal(size=w.shape).astype("float32") for w in behind.get_weights()]
    behind.set_weights(weights)
    twin = keras.layers.SimpleRNN(U)
    twin.build((B, T, U))
    twin.set_weights(weights)
    x, mask = rng.normal(size=(B, T, F)).astype("float32"), mask_of("trailing")
    model = Sequential([mine, behind])
    want = twin(theirs(x, mask=mask), mask=mask[:, ::-1])
    np.testing.assert_allclose(model.forward(x, mask=mask)[0], np.asarray(want), **CLOSE)
