"""The layers that are not recurrent: ids to vectors, masks, Dense and its like, poolings."""

from __future__ import annotations

import re

import numpy as np
import oracle
import pytest
from hypothesis import given
from recurrent_cases import (
    CLOSE,
    any_masks,
    built,
    close_grads,
    masks_of_every_kind,
    quick,
    randomize,
    seeds,
)

from minirnn.backend import set_random_seed
from minirnn.base import Layer, RowGradient, snake_case
from minirnn.initializers import Constant
from minirnn.layers import (
    LSTM,
    RNN,
    Activation,
    Bidirectional,
    Dense,
    DropMask,
    Dropout,
    Embedding,
    Flatten,
    GlobalAveragePooling1D,
    GlobalMaxPooling1D,
    Input,
    LSTMCell,
    Masking,
    OneHot,
    TimeDistributed,
)
from minirnn.packing import Mask

B, T, F, U = 5, 7, 2, 3


def rng(seed=1):
    return np.random.default_rng(seed)


def some_ids(limit=11, seed=1):
    return rng(seed).integers(0, limit, size=(B, T))


def check_gradient(layer, x, mask=None, seed=2):
    """dx and the gradients of all weights, against central differences along a random direction."""
    generator = rng(seed)
    y, cache = layer.forward(x, mask)
    dy = generator.normal(size=y.shape)
    dx, grads = layer.backward(dy, cache)
    assert list(grads) == list(layer.params)
    arrays = [(x, dx), *((value, grads[key]) for key, value in layer.params.items())]
    for array, gradient in arrays:
        assert gradient.shape == array.shape
        direction = generator.normal(size=array.shape)
        kept, values = array.copy(), []
        for sign in (1, -1):
            array[...] = kept + sign * 1e-6 * direction
            values.append((layer.forward(x, mask)[0] * dy).sum())
        array[...] = kept
        slope = (values[0] - values[1]) / 2e-6
        np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-8)


# --- Embedding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "float32"])
def test_embedding_looks_rows_up(dtype):
    layer = Embedding(11, U)
    ids = some_ids()
    y = layer(ids.astype(dtype))
    assert y.shape == (B, T, U) == layer.compute_output_shape((B, T))
    assert y.dtype == np.float32 and y.flags.c_contiguous
    for b in range(B):
        for t in range(T):
            assert np.array_equal(y[b, t], layer.params["embeddings"][ids[b, t]])


def test_embedding_starts_uniform_in_every_row():
    layer = Embedding(101, 17, mask_zero=True)
    layer.build((None, None))
    table = layer.params["embeddings"]
    assert layer.count_params() == 101 * 17
    assert np.abs(table).max() <= 0.05 and np.abs(table).max() > 0.049
    assert table[0].any()  # row 0 is a row like any other


def test_embedding_gradient_sums_the_rows_that_were_used():
    layer = Embedding(11, U)
    ids = np.array([[3, 3, 9, 0], [9, 3, 1, 1]])
    _, cache = (layer.build(ids.shape), layer.forward(ids))[1]
    dy = rng().normal(size=(2, 4, U))
    dx, grads = layer.backward(dy, cache)
    assert dx is None and list(grads) == ["embeddings"]
    gradient = grads["embeddings"]
    assert isinstance(gradient, RowGradient)
    assert gradient.ids.tolist() == [0, 1, 3, 9]
    expected = np.zeros((11, U))
    for b in range(2):
        for t in range(4):
            expected[ids[b, t]] += dy[b, t]
    np.testing.assert_allclose(gradient.dense((11, U)), expected, **CLOSE)
    np.testing.assert_allclose(gradient.rows, expected[[0, 1, 3, 9]], **CLOSE)


@quick
@given(seed=seeds)
def test_embedding_gradient_of_any_ids(seed):
    generator = rng(seed)
    ids = generator.integers(0, 5, size=generator.integers(0, 6, size=2))
    layer = Embedding(5, U)
    layer.build(ids.shape)
    y, cache = layer.forward(ids)
    dy = generator.normal(size=y.shape).astype("float32")
    gradient = layer.backward(dy, cache)[1]["embeddings"]
    assert gradient.ids.tolist() == sorted(set(ids.reshape(-1).tolist()))
    assert gradient.rows.dtype == np.float32
    expected = np.zeros((5, U))
    np.add.at(expected, ids, dy)
    np.testing.assert_allclose(gradient.dense((5, U)), expected, rtol=1e-5, atol=1e-5)


def test_embedding_gradient_has_the_same_bits_every_time():
    layer = Embedding(3, U)
    ids = some_ids(3)
    layer.build(ids.shape)
    y, cache = layer.forward(ids)
    dy = rng().normal(size=y.shape).astype("float32")
    one, two = (layer.backward(dy, cache)[1]["embeddings"] for _ in range(2))
    assert np.array_equal(one.rows, two.rows)


def test_embedding_masks():
    ids = np.array([[3, 0, 2, 0], [0, 0, 0, 0]])
    assert Embedding(4, U).compute_mask(ids, None) is None
    mask = Embedding(4, U, mask_zero=True).compute_mask(ids, None)
    assert mask.array.tolist() == [[True, False, True, False], [False] * 4]
    passed_on = Mask(np.ones((2, 4), dtype=bool))
    assert Embedding(4, U).compute_mask(ids, passed_on) is passed_on


def test_masks_of_ids():
    ids = some_ids()
    for layer in (Embedding(11, U, mask_zero=True), OneHot(11, mask_zero=True)):
        for mask in (layer.compute_mask(ids), layer.compute_mask(ids, None)):
            assert np.array_equal(np.asarray(mask), ids != 0)
        with pytest.raises(
            ValueError,
            match=rf"{layer.name}: mask_zero needs ids of shape \(batch, time\), received \(7,\)",
        ):
            layer.compute_mask(ids[0])
    assert Embedding(11, U).compute_mask(ids) is None
    assert Embedding(11, U).compute_mask(ids[0]) is None


def test_embedding_from_a_table():
    table = rng().normal(size=(11, U))
    for weights in (table, [table]):  # Keras takes a list of one
        layer = Embedding(11, U, weights=weights, trainable=False)
        layer.build((None, None))
        np.testing.assert_array_equal(layer.params["embeddings"], table.astype("float32"))
        assert layer.trainable is False
    with pytest.raises(ValueError, match=r"weights: expected shape \(11, 3\), received \(3, 11\)"):
        Embedding(11, U, weights=table.T)


def test_ids_outside_the_table():
    layer = Embedding(11, U, name="words")
    layer.build((None, None))
    ids = some_ids()
    ids[3, 5] = 11
    with pytest.raises(
        ValueError, match=r"words: id 11 at \(3, 5\) is outside 0..10. The vocabulary"
    ):
        layer(ids)
    ids[2, 1] = -1
    with pytest.raises(ValueError, match=r"words: id -1 at \(2, 1\) is outside 0..10"):
        layer(ids)
    with pytest.raises(ValueError, match=r"id 4294967299 at \(0, 0\) is outside"):  # 3 as an int32
        layer(np.array([[2**32 + 3]]))
    with pytest.raises(ValueError, match=r"id inf at \(0, 0\) is outside"):
        layer(np.array([[np.inf]]))


def test_ids_that_are_no_whole_numbers():
    layer = Embedding(11, U, name="words")
    layer.build((None, None))
    with pytest.raises(TypeError, match=r"words: expected whole numbers \(token ids\).*fractions"):
        layer(np.array([[0.5, 1.0]]))
    with pytest.raises(TypeError, match="words: expected whole numbers"):
        layer(np.array([[np.nan, 1.0]]))
    with pytest.raises(TypeError, match="received text. Text goes through a TextVectorization"):
        layer(np.array([["a", "word"]]))


@pytest.mark.parametrize("size", [0, -1, 2.5, "many"])
def test_embedding_sizes(size):
    with pytest.raises(ValueError, match="input_dim: expected a positive whole number"):
        Embedding(size, 3)
    with pytest.raises(ValueError, match="output_dim: expected a positive whole number"):
        Embedding(3, size)


def test_embedding_before_it_was_built():
    with pytest.raises(ValueError, match="embedding: this layer has no weights yet"):
        Embedding(11, U).forward(some_ids())


# --- OneHot ---------------------------------------------------------------------------------------


def test_one_hot():
    layer = OneHot(11, mask_zero=True)
    ids = some_ids()
    y, cache = layer.forward(ids)
    assert y.shape == (B, T, 11) == layer.compute_output_shape((B, T))
    assert y.dtype == np.float32 and y.flags.c_contiguous
    assert np.array_equal(y.argmax(axis=-1), ids)
    assert np.array_equal(np.sort(y, axis=-1)[..., -2:], np.broadcast_to([0, 1], (B, T, 2)))
    assert layer.backward(y, cache) == (None, {})
    assert np.array_equal(layer.compute_mask(ids, None).array, ids != 0)
    assert OneHot(11).compute_mask(ids, None) is None
    with pytest.raises(ValueError, match=r"one_hot: id 11 at \(0, 0\) is outside 0..10"):
        layer(np.array([[11]]))


def test_one_hot_is_an_embedding_of_the_unit_vectors():
    ids = some_ids()
    table = rng().normal(size=(11, U)).astype("float32")
    embedding = Embedding(11, U, weights=table)
    np.testing.assert_array_equal(OneHot(11)(ids) @ table, embedding(ids))


# --- Masking and DropMask -------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, -1.5])
def test_masking(value):
    x = rng().normal(size=(B, T, F))
    x[1, 2] = x[3, :] = value
    x[0, 0, 1] = value  # one feature alone does not mask the step
    layer = Masking(value)
    real = np.ones((B, T), dtype=bool)
    real[1, 2] = real[3] = False
    assert np.array_equal(layer.compute_mask(x, None).array, real)
    y, cache = layer.forward(x)
    assert np.array_equal(y, np.where(real[..., None], x, 0))
    dy = rng(2).normal(size=x.shape)
    dx, grads = layer.backward(dy, cache)
    assert np.array_equal(dx, np.where(real[..., None], dy, 0)) and grads == {}
    assert layer(x.astype("float32")).dtype == np.float32


def test_masking_needs_features():
    with pytest.raises(
        ValueError, match=r"masking: expected input of shape \(batch, time, features\)"
    ):
        Masking()(np.zeros((5, 7)))


@quick
@given(mask=any_masks(min_time=1), seed=seeds)
def test_masking_before_a_recurrent_layer_deletes_steps(mask, seed):
    generator = rng(seed)
    x = np.where(mask[..., None], generator.normal(size=(*mask.shape, F)), 9.0)
    masking, reader = Masking(9.0), built("lstm", generator)
    y = reader(masking(x), mask=masking.compute_mask(x, None))
    expected, _ = oracle.run_layer("lstm", reader.params, x, mask)
    np.testing.assert_allclose(y, expected, **CLOSE)


def test_drop_mask():
    x, mask = rng().normal(size=(B, T, F)), Mask(np.ones((B, T), dtype=bool))
    layer = DropMask()
    assert layer.compute_mask(x, mask) is None
    y, cache = layer.forward(x, mask)
    assert np.array_equal(y, x)
    assert np.array_equal(layer.backward(x, cache)[0], x)


# --- Dense and Activation -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(B, F), (B, T, F), (B, T, 11, F)])
@pytest.mark.parametrize("activation", [None, "tanh", "softmax", "sigmoid"])
@pytest.mark.parametrize("use_bias", [True, False])
def test_dense(shape, activation, use_bias):
    layer = Dense(U, activation=activation, use_bias=use_bias)
    layer.build(shape)
    layer = randomize(layer.astype("float64"), rng(3))
    x = rng(4).normal(size=shape)
    y = layer(x)
    assert y.shape == (*shape[:-1], U) == layer.compute_output_shape(shape)
    W, b = layer.params["kernel"], layer.params.get("bias", np.zeros(U))
    for index in np.ndindex(*shape[:-1]):
        a = [sum(x[index][k] * W[k, u] for k in range(F)) + b[u] for u in range(U)]
        if activation == "softmax":
            want = np.exp(a) / np.exp(a).sum()
        else:
            want = oracle.each(activation or "linear", a)
        np.testing.assert_allclose(y[index], want, **CLOSE)
    check_gradient(layer, x)


def test_dense_passes_the_mask_on():
    mask = Mask(np.ones((B, T), dtype=bool))
    assert Dense(U).compute_mask(None, mask) is mask


def per_step(wrapped, activation, features=F):
    """A Dense with random weights in float64, by itself or in a TimeDistributed."""
    layer = Dense(U, activation=activation)
    layer = TimeDistributed(layer) if wrapped else layer
    layer.build((None, None, features))
    return randomize(layer.astype("float64"), rng(3))


wrapped_or_not = pytest.mark.parametrize("wrapped", [False, True])
activation_or_none = pytest.mark.parametrize("activation", [None, "tanh", "softmax"])


@wrapped_or_not
@activation_or_none
@pytest.mark.parametrize("kind", ["full", "trailing", "leading", "holes", "empty row", "nothing"])
def test_whatever_stands_under_the_mask_changes_nothing(wrapped, activation, kind):
    layer = per_step(wrapped, activation)
    mask = masks_of_every_kind(rng(4), B, T)[kind]
    x, dy = rng().normal(size=(B, T, F)), rng(2).normal(size=(B, T, U))
    expected, cache = layer.forward(x)
    expected_dx, expected_grads = layer.backward(np.where(mask[..., None], dy, 0), cache)

    x[~mask] = rng(5).choice([np.nan, np.inf, -np.inf, 1e300], size=x[~mask].shape)
    dy[~mask] = np.nan
    y, cache = layer.forward(x, Mask(mask))
    dx, grads = layer.backward(dy, cache)
    assert y.shape == dy.shape and dx.shape == x.shape
    assert not y[~mask].any() and not dx[~mask].any()
    np.testing.assert_allclose(y[mask], expected[mask], **CLOSE)
    np.testing.assert_allclose(dx[mask], expected_dx[mask], **CLOSE)
    close_grads(grads, expected_grads)
    assert np.array_equal(layer(x, mask=mask), y)


@wrapped_or_not
@activation_or_none
@quick
@given(mask=any_masks(min_time=1), seed=seeds)
def test_gradients_of_the_real_steps(wrapped, activation, mask, seed):
    x = rng(seed).normal(size=(*mask.shape, F))
    check_gradient(per_step(wrapped, activation), x, Mask(mask))


@wrapped_or_not
def test_a_masked_step_may_have_more_than_one_axis(wrapped):
    x, mask = rng().normal(size=(B, T, 11, F)), rng(2).random((B, T)) < 0.5
    layer = Dense(U, activation="tanh")
    layer = TimeDistributed(layer) if wrapped else layer
    layer.build(x.shape)
    layer = randomize(layer.astype("float64"), rng(3))
    expected = np.where(mask[..., None, None], layer(x), 0)
    np.testing.assert_allclose(layer(x, mask=mask), expected, **CLOSE)
    check_gradient(layer, x, Mask(mask))
    flat = TimeDistributed(Flatten())(x, mask=mask)
    assert np.array_equal(flat, np.where(mask[..., None], x.reshape(B, T, 11 * F), 0))


@pytest.mark.parametrize("shape", [(B, T - 1), (T, B), (B + 1, T)])
@pytest.mark.parametrize("layer", [Dense(U), TimeDistributed(Dense(U)), Dropout(0.5)], ids=repr)
def test_a_mask_of_a_wrong_shape(layer, shape):
    message = (
        f"{layer.name}: the mask has shape {shape}, the input (batch, time) is {B, T}; they must "
        "be equal"
    )
    for mask in (np.ones(shape, dtype=bool), Mask(np.ones(shape, dtype=bool))):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            layer(np.zeros((B, T, F), dtype="float32"), mask=mask)


def test_dense_without_its_activation():
    layer = Dense(U, activation="softmax")
    x = rng().normal(size=(B, F)).astype("float32")
    p = layer(x)
    twin, activation = layer.split_activation()
    np.testing.assert_allclose(activation(twin(x)), p, rtol=1e-6)
    assert twin.params["kernel"] is layer.params["kernel"]
    assert layer.activation.name == "softmax" and twin.activation.name == "linear"
    own, activation = Activation("tanh").split_activation()
    assert np.array_equal(own(x), x) and activation.name == "tanh"


def test_dense_starts_as_in_keras():
    layer = Dense(31)
    layer.build((None, 37))
    limit = np.sqrt(6 / (31 + 37))
    assert 0.97 * limit < np.abs(layer.params["kernel"]).max() <= limit
    assert not layer.params["bias"].any()
    assert layer.count_params() == 31 * 37 + 31


def test_dense_float32():
    layer = Dense(U, activation="softmax")
    y = layer(rng().normal(size=(B, F)))
    assert y.dtype == np.float32
    y, cache = layer.forward(np.zeros((B, F), dtype="float32"))
    dx, grads = layer.backward(y, cache)
    assert {dx.dtype, *(g.dtype for g in grads.values())} == {np.dtype("float32")}


def test_dense_leaves_its_input_and_gradient_alone():
    for activation in (None, "relu", "tanh", "softmax"):
        layer = Dense(F, activation=activation, kernel_initializer=Constant(np.eye(F)))
        layer.build((None, F))
        layer.cast("float64")
        x, dy = rng().normal(size=(B, F)), rng(2).normal(size=(B, F))
        kept = x.copy(), dy.copy()
        y, cache = layer.forward(x)
        layer.backward(dy, cache)
        assert np.array_equal(x, kept[0]) and np.array_equal(dy, kept[1])


def test_dense_errors():
    layer = Dense(U, name="out")
    with pytest.raises(ValueError, match="out: this layer has no weights yet"):
        layer.forward(np.zeros((B, F)))
    layer.build((None, F))
    with pytest.raises(
        ValueError, match=r"out: expected input of shape \(batch, ..., 2\).*\(5, 3\)"
    ):
        layer(np.zeros((B, 3)))
    with pytest.raises(ValueError, match=r"shape \(batch, ..., 2\), received \(2,\)"):
        layer(np.zeros(2))
    with pytest.raises(ValueError, match=r"\(batch, ..., features\), received \(None, None\)"):
        Dense(U).build((None, None))
    with pytest.raises(ValueError, match=r"\(batch, ..., features\), received \(5,\)"):
        Dense(U)(np.zeros(5))
    with pytest.raises(ValueError, match="units: expected a positive whole number, received 0"):
        Dense(0)
    with pytest.raises(ValueError, match="'sofmax'. Did you mean 'softmax'"):
        Dense(U, activation="sofmax")


@pytest.mark.parametrize("layer", [Dense(U), TimeDistributed(Dense(U))])
def test_a_list_is_an_input(layer):
    x = rng().normal(size=(B, T, F)).astype("float32")
    assert np.array_equal(layer(x.tolist()), layer(x))


def test_activation_layer():
    x = rng().normal(size=(B, T, F))
    for name in ("tanh", "relu", "softmax", "linear"):
        check_gradient(Activation(name), x)
    kept = x.copy()
    Activation("tanh")(x)
    assert np.array_equal(x, kept)


# --- Dropout --------------------------------------------------------------------------------------


def test_dropout_scales_up_what_it_keeps():
    set_random_seed(3)
    layer = Dropout(0.25)
    x = rng().normal(size=(101, 103)).astype("float32")
    y, cache = layer.forward(x, training=True)
    assert y.dtype == np.float32
    kept = y != 0
    np.testing.assert_allclose(y[kept], x[kept] / 0.75, rtol=1e-6)
    assert abs(kept.mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / x.size)
    dy = rng(2).normal(size=x.shape).astype("float32")
    dx, grads = layer.backward(dy, cache)
    np.testing.assert_allclose(dx, np.where(kept, dy / np.float32(0.75), 0), rtol=1e-6)
    assert grads == {} and dx.dtype == np.float32


def test_dropout_does_nothing_outside_training():
    x = rng().normal(size=(B, F))
    for layer, training in ((Dropout(0.5), False), (Dropout(0.0), True)):
        y, cache = layer.forward(x, training=training)
        assert np.array_equal(y, x)
        assert np.array_equal(layer.backward(x, cache)[0], x)


def test_dropout_seeds():
    x = np.ones((B, T))

    def draws(**options):
        layer = Dropout(0.5, **options)
        return layer(x, training=True), layer(x, training=True)

    set_random_seed(4)
    first, second = draws()
    assert not np.array_equal(first, second)
    set_random_seed(4)
    assert np.array_equal(draws()[0], first)
    own, other = draws(seed=1), draws(seed=1)
    assert np.array_equal(own, other) and not np.array_equal(own[0], own[1])
    set_random_seed(4)
    draws(seed=1)
    assert np.array_equal(draws()[0], first)  # its own generator took nothing from the common one


@pytest.mark.parametrize("rate", [-0.1, 1, 2.0])
def test_dropout_rates(rate):
    with pytest.raises(ValueError, match=f"rate: expected a share from 0 up to.*received {rate}"):
        Dropout(rate)


# --- TimeDistributed ------------------------------------------------------------------------------


def test_time_distributed_is_the_layer_at_each_step():
    layer = TimeDistributed(Dense(U, activation="tanh"))
    x = rng().normal(size=(B, T, F))
    layer.build(x.shape)
    layer = randomize(layer.astype("float64"), rng(2))
    y = layer(x)
    assert y.shape == (B, T, U) == layer.compute_output_shape((B, T, F))
    for t in range(T):
        np.testing.assert_allclose(y[:, t], layer.layer(x[:, t]), **CLOSE)
    assert list(layer.params) == ["kernel", "bias"]
    check_gradient(layer, x)
    mask = Mask(np.ones((B, T), dtype=bool))
    assert layer.compute_mask(x, mask) is mask


def test_time_distributed_flatten():
    x = rng().normal(size=(B, T, F, U))
    layer = TimeDistributed(Flatten())
    assert np.array_equal(layer(x), x.reshape(B, T, F * U))
    assert layer.compute_output_shape((None, None, F, U)) == (None, None, F * U)


def test_time_distributed_shares_its_split():
    layer = TimeDistributed(Dense(U, activation="softmax"))
    x = rng().normal(size=(B, T, F))
    p = layer(x)
    twin, activation = layer.split_activation()
    np.testing.assert_allclose(activation(twin(x)), p, rtol=1e-6)
    own, activation = TimeDistributed(Flatten()).split_activation()
    assert activation.name == "linear"


def test_time_distributed_errors():
    with pytest.raises(TypeError, match="layer: expected a layer, received 'dense'"):
        TimeDistributed("dense")
    with pytest.raises(ValueError, match=r"expected input of shape \(batch, time, ...\)"):
        TimeDistributed(Dense(U)).build((None, F))


# --- Flatten and the poolings ---------------------------------------------------------------------


def test_flatten():
    x = rng().normal(size=(B, T, F))
    layer = Flatten()
    assert np.array_equal(layer(x), x.reshape(B, T * F))
    assert layer.compute_output_shape((None, T, F)) == (None, T * F)
    assert layer.compute_output_shape((None, None, F)) == (None, None)
    assert layer(np.zeros((0, T, F))).shape == (0, T * F)
    assert layer.supports_masking is False
    check_gradient(layer, x)


@quick
@given(mask=any_masks(min_time=1), seed=seeds)
def test_poolings_see_real_steps_only(mask, seed):
    x = rng(seed).normal(size=(*mask.shape, F))
    dirty = np.where(mask[..., None], x, np.nan)
    average, largest = GlobalAveragePooling1D(), GlobalMaxPooling1D()
    for given_x in (x, dirty):
        mean, top = average(given_x, mask=mask), largest(given_x, mask=mask)
        for b, real in enumerate(mask):
            steps = x[b, real]
            expected = steps.mean(axis=0) if len(steps) else np.zeros(F)
            np.testing.assert_allclose(mean[b], expected, **CLOSE)
            expected = steps.max(axis=0) if len(steps) else np.zeros(F)
            np.testing.assert_array_equal(top[b], expected)
    for layer in (average, largest):
        y, cache = layer.forward(dirty, Mask(mask))
        dx, _ = layer.backward(np.ones_like(y), cache)
        assert not dx[~mask].any()
        np.testing.assert_allclose(dx.sum(axis=(1, 2)), F * mask.any(axis=1), **CLOSE)
        check_gradient(layer, x, Mask(mask))


@pytest.mark.parametrize("layer", [GlobalAveragePooling1D(), GlobalMaxPooling1D()])
def test_poolings(layer):
    x = rng().normal(size=(B, T, F))
    assert np.array_equal(layer(x), layer(x, mask=np.ones((B, T), dtype=bool)))
    check_gradient(layer, x)
    assert layer.compute_output_shape((None, None, F)) == (None, F)
    assert layer.compute_mask(x, Mask(np.ones((B, T), dtype=bool))) is None
    y, cache = layer.forward(x.astype("float32"), np.ones((B, T), dtype=bool))
    assert y.dtype == np.float32 and y.flags.c_contiguous
    assert layer.backward(y, cache)[0].dtype == np.float32
    with pytest.raises(ValueError, match=r"\(batch, time, features\), received \(5, 7\)"):
        layer(np.zeros((B, T)))
    with pytest.raises(ValueError, match=r"the mask has shape \(5, 6\), .* is \(5, 7\)"):
        layer(x, mask=np.ones((B, 6), dtype=bool))


@pytest.mark.parametrize(
    "layer",
    [
        GlobalAveragePooling1D(),
        GlobalMaxPooling1D(),
    ],
)
def test_poolings_of_a_time_axis_of_length_zero(layer):
    x = np.zeros((B, 0, F))
    y, cache = layer.forward(x)
    assert np.array_equal(y, np.zeros((B, F)))
    assert layer.backward(y, cache)[0].shape == x.shape


def test_of_equal_maxima_the_first_gets_the_gradient():
    x = np.array([[[1.0], [5.0], [5.0]]])
    y, cache = GlobalMaxPooling1D().forward(x)
    dx, _ = GlobalMaxPooling1D().backward(np.array([[7.0]]), cache)
    assert dx.tolist() == [[[0.0], [7.0], [0.0]]]


def test_flatten_refuses_a_mask():
    with pytest.raises(ValueError, match="flatten: .*mask"):
        Flatten()(np.zeros((B, T, F)), mask=np.ones((B, T), dtype=bool))


# --- Input and the base ---------------------------------------------------------------------------


def test_input():
    layer = Input(shape=(None, 64))
    assert layer.shape == (None, 64) and layer.built
    x = rng().normal(size=(B, T, F))
    y, cache = layer.forward(x)
    assert np.array_equal(y, x) and np.array_equal(layer.backward(x, cache)[0], x)


ON_LAYERS = [Dense(U), Embedding(11, U), Dropout(0.5), TimeDistributed(Dense(U)), Flatten()]
RECURRENT = [LSTM(U), RNN(LSTMCell(U)), Bidirectional(LSTM(U))]


@pytest.mark.parametrize("argument", [Input((None, F)), Dense(3)], ids=repr)
@pytest.mark.parametrize(
    "layer",
    [*ON_LAYERS, *RECURRENT],
    ids=repr,
)
def test_there_is_no_functional_api(layer, argument):
    with pytest.raises(TypeError) as caught:
        layer(argument)
    assert str(caught.value) == (
        f"{layer.name}: a layer is called with an array, and received the layer {argument!r}. "
        "Models are made with Sequential([...]); there is no functional API."
    )


@pytest.mark.parametrize("made", [Dense, LSTM, Embedding, TimeDistributed, Flatten])
def test_an_argument_that_does_not_exist(made):
    required = {Dense: (3,), LSTM: (3,), Embedding: (11, 3), TimeDistributed: (Dense(3),)}
    arguments = required.get(made, ())
    with pytest.raises(TypeError, match=f"^{made.__name__}: there is no argument unit$"):
        made(*arguments, unit=3)
    for hinted in ({"input_shape": (3,)}, {"input_dim": 3}):
        if made is Embedding and "input_dim" in hinted:
            continue  # there it is an argument
        with pytest.raises(
            TypeError,
            match=rf"^{made.__name__}: there is no argument {next(iter(hinted))}; put "
            r"Input\(shape\) in front of the model instead$",
        ):
            made(*arguments, **hinted)


def test_names_of_layers():
    names = {"TimeDistributed": "time_distributed", "GRU": "gru", "OneHot": "one_hot"}
    assert {name: snake_case(name) for name in names} == names
    assert snake_case("GlobalMaxPooling1D") == "global_max_pooling1d"
    assert Dense(3).name == "dense" and not Dense(3).named_by_user
    assert Dense(3, name="out").named_by_user
    assert repr(Dense(3, name="out")) == "<Dense out>"


@pytest.mark.parametrize(
    "layer",
    [
        Embedding(11, U, mask_zero=True, name="a", trainable=False),
        OneHot(11, mask_zero=True),
        Masking(-1.0),
        Dense(U, activation="relu", use_bias=False),
        Activation("tanh"),
        Dropout(0.25, seed=3),
        Flatten(),
        Input((None, 3)),
        GlobalMaxPooling1D(name="top"),
        DropMask(),
    ],
)
def test_an_equal_layer_from_its_configuration(layer):
    config = layer.get_config()
    twin = type(layer)(**config)
    assert {key: repr(value) for key, value in twin.get_config().items()} == {
        key: repr(value) for key, value in config.items()
    }
    assert (twin.name, twin.trainable) == (layer.name, layer.trainable)


def test_a_layer_of_ones_own_must_have_both_passes():
    class Half(Layer):
        pass

    with pytest.raises(NotImplementedError, match="Half has no forward pass"):
        Half()(np.zeros((2, 3)))
    with pytest.raises(NotImplementedError, match="Half has no backward pass"):
        Half().backward(np.zeros((2, 3)), None)
