"""NaN and infinity: reported at the step and in the layer where they begin, before they do harm."""

from __future__ import annotations

import numpy as np
import pytest
from strict_cupy import installed

from minirnn import NonFiniteError, Seq2Seq, Sequential, set_random_seed
from minirnn.backend import to_device
from minirnn.base import Layer, RowGradient
from minirnn.finite import squared_norm
from minirnn.generation import generate
from minirnn.layers import (
    GRU,
    LSTM,
    Dense,
    Embedding,
    GlobalMaxPooling1D,
    SimpleRNN,
    TimeDistributed,
)
from minirnn.optimizers import SGD, Adam
from minirnn.packing import Mask
from minirnn.word2vec import train_word2vec

quiet = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, on the way to ours
FEATURES = 3


def exploding(optimizer="adam"):
    """Backwards in time, each step multiplies a gradient by 10; the states stay small as long as
    weights rest."""
    set_random_seed(1)
    model = Sequential(
        [
            TimeDistributed(Dense(FEATURES, name="inner"), name="below"),
            SimpleRNN(4, activation="linear", name="explodes"),
            Dense(2, activation="softmax", name="head"),
        ]
    )
    model.build((None, None, FEATURES))
    model.params["explodes_recurrent_kernel"][...] = to_device(10 * np.eye(4))
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


def rows(steps, count=4):
    """Only the last step is not 0."""
    x = np.zeros((count, steps, FEATURES), "float32")
    x[:, -1] = np.random.default_rng(2).normal(size=(count, FEATURES))
    return x


def batches_of(*steps):
    """A data set of one batch for each of these lengths."""

    class Batches:
        def __iter__(self):
            return iter([(rows(n), np.array([0, 1, 0, 1])) for n in steps])

    return Batches()


def unchanged(model, weights):
    for now, before in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, before)


# --- gradients ------------------------------------------------------------------------------------


@quiet
@pytest.mark.parametrize("optimizer", [SGD, Adam])
@pytest.mark.parametrize(
    ("steps", "became", "weights"),
    [
        (60, "not finite", "kernel, recurrent_kernel, bias"),
        (26, "too large to be squared", "bias"),
    ],
)
def test_an_exploding_gradient_is_reported_at_its_step(optimizer, steps, became, weights):
    model = exploding(optimizer(0.0))
    model.fit(batches_of(2, 3), verbose=0)
    expected, state = model.get_weights(), model.optimizer.state_dict()

    model = exploding(optimizer(0.0))
    with pytest.raises(NonFiniteError) as caught:
        model.fit(batches_of(2, 3, steps, 2), verbose=0)
    assert str(caught.value).startswith(
        f"the gradient became {became} at epoch 1, step 3, though the loss is finite; it begins on "
        f"the way back in that of {weights} of layer 'explodes'. "
    )
    unchanged(model, expected)
    assert model.optimizer.iterations == 2
    found = model.optimizer.state_dict()
    assert found.keys() == state.keys()
    for key, value in state.items():
        np.testing.assert_array_equal(found[key], value)


@quiet
def test_train_on_batch_reports_it_as_well():
    model = exploding()
    before = model.get_weights()
    with pytest.raises(NonFiniteError, match="at train_on_batch, .* of layer 'explodes'"):
        model.train_on_batch(rows(60), np.array([0, 1, 0, 1]))
    unchanged(model, before)


@quiet
def test_it_is_found_on_a_device_with_the_loss_in_one_transfer():
    with installed():
        model = exploding()
        with pytest.raises(NonFiniteError, match="epoch 1, step 2.* of layer 'explodes'"):
            model.fit(batches_of(2, 60), verbose=0)
        assert model.optimizer.iterations == 1
        assert all(np.isfinite(weights).all() for weights in model.get_weights())


@quiet
def test_clipping_hides_no_overflow():
    for clipping in ("clipnorm", "global_clipnorm", "clipvalue"):
        model = exploding(SGD(0.1, **{clipping: 1.0}))
        before = model.get_weights()
        with pytest.raises(NonFiniteError, match="became not finite at epoch 1, step 1"):
            model.fit(batches_of(60), verbose=0)
        unchanged(model, before)


@quiet
def test_what_is_only_large_may_be_clipped():
    model = exploding(SGD(0.1, clipvalue=1.0))
    model.fit(batches_of(26), verbose=0)
    assert model.optimizer.iterations == 1
    assert all(np.isfinite(weights).all() for weights in model.get_weights())


@pytest.mark.parametrize("place", range(7))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_any_bad_number_shows_in_the_norm(place, bad):
    gradient = np.random.default_rng(3).normal(size=7).astype("float32")
    assert np.isfinite(squared_norm(gradient))
    gradient[place] = bad
    assert not np.isfinite(squared_norm(gradient))
    assert not np.isfinite(squared_norm(RowGradient(np.array([4]), gradient[None])))


@quiet
def test_seq2seq_tells_the_half():
    set_random_seed(1)
    model = Seq2Seq(
        [Embedding(9, 3, mask_zero=True), GRU(4, return_state=True)],
        [
            Embedding(9, 3, mask_zero=True),
            GRU(4, return_sequences=True),
            Dense(9, activation="softmax"),
        ],
        start=7,
        end=8,
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.build()
    encoder = model.encoder.layers[1].params
    for value in (encoder["kernel"], encoder["bias"], encoder["recurrent_kernel"]):
        value[...] = 0  # the state that it ends in is 0
    encoder["recurrent_kernel"][:, 8:] = 1e30
    model.decoder.layers[1].params["recurrent_kernel"][...] *= 1e10
    before = model.get_weights()
    with pytest.raises(NonFiniteError, match="step 1, .* of layer 'encoder'"):
        model.fit([[1, 2, 3, 1, 2, 3]], [[1, 2]], verbose=0)
    unchanged(model, before)
    model.decoder.layers[-1].params["bias"][1] = np.nan
    with pytest.raises(NonFiniteError, match="predict: the output for row 0 .* layer 'decoder'"):
        model.predict([[1, 2, 3]], [[1, 2]])
    with pytest.raises(ValueError, match="expected finite logits"):
        model.translate([[1, 2, 3]], 4)


@quiet
def test_word2vec_tells_its_step():
    ids = [np.array([1, 2, 3, 1, 2])] * 4
    with pytest.raises(NonFiniteError, match="epoch [12], step [12]. A smaller learning_rate"):
        train_word2vec(ids, 4, dim=3, epochs=3, learning_rate=1e30, seed=1)


# --- what a mask hides ----------------------------------------------------------------------------


class SkipMissing(Layer):
    """Masks the steps with a NaN in them, and hands everything on."""

    def compute_mask(self, x, mask=None):
        return Mask(~np.isnan(x).any(axis=-1))

    def forward(self, x, mask=None, training=False):
        return x, None

    def backward(self, dy, cache):
        return dy, {}


def gappy():
    """Rows with gaps of NaN, the same with other numbers in the gaps, and labels."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(8, 5, FEATURES)).astype("float32")
    gaps = rng.random((8, 5)) < 0.4
    gaps[:, 2] = False
    x[gaps] = np.nan
    return x, rng.integers(0, 2, 8)


def reader(*layers):
    set_random_seed(1)
    model = Sequential([SkipMissing(), *layers, Dense(2, activation="softmax")])
    model.build((None, 5, FEATURES))
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def test_nan_in_a_step_that_is_masked_is_harmless():
    x, y = gappy()
    model = reader(LSTM(3, return_sequences=True), GRU(3))
    history = model.fit(x, y, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert all(np.isfinite(weights).all() for weights in model.get_weights())
    assert np.isfinite(model.evaluate(x, y, verbose=0))
    assert np.isfinite(model.predict(x)).all()


def test_nan_in_the_vector_of_padding_is_harmless():
    set_random_seed(1)
    model = Sequential([Embedding(9, 3, mask_zero=True), GRU(3), Dense(2, activation="softmax")])
    model.build()
    model.layers[0].params["embeddings"][0] = np.nan
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = [[1, 2, 3], [4, 5], [6]], [0, 1, 0]
    model.fit(x, y, epochs=2, verbose=0)
    assert np.isfinite(model.predict(x)).all()


@quiet
def test_hidden_nan_is_not_blamed():
    x, y = gappy()
    model = reader(LSTM(3, return_sequences=True, name="first"), GRU(3, name="second"))
    model.params["second_bias"][0, 1] = np.nan
    for report in (lambda: model.fit(x, y, verbose=0), lambda: model.predict(x)):
        with pytest.raises(NonFiniteError, match="begins in the weights bias of layer 'second'"):
            report()


# --- evaluate and predict -------------------------------------------------------------------------


def plain():
    set_random_seed(1)
    model = Sequential([GlobalMaxPooling1D(), Dense(2, activation="softmax", name="head")])
    model.build((None, 5, FEATURES))
    model.compile("sgd", "sparse_categorical_crossentropy", ["acc"])
    rng = np.random.default_rng(5)
    return model, rng.normal(size=(10, 5, FEATURES)).astype("float32"), rng.integers(0, 2, 10)


@quiet
def test_evaluate_tells_the_batch():
    model, x, y = plain()
    x[7, 1, 1] = np.nan
    with pytest.raises(NonFiniteError) as caught:
        model.evaluate(x, y, batch_size=4, verbose=0)
    assert str(caught.value) == (
        "the loss became nan at evaluation, batch 2; it begins in the input x."
    )
    with pytest.raises(NonFiniteError, match="evaluation, batch 2; it begins in the input x"):
        model.fit(x[:4], y[:4], validation_data=(x, y), batch_size=4, verbose=0)


@quiet
def test_predict_tells_the_row():
    model, x, _ = plain()
    x[7, 1, 1] = np.inf
    with pytest.raises(NonFiniteError, match="for row 7 of x holds nan; it begins in the input x"):
        model.predict(x, batch_size=4)
    x[7, 1, 1] = 0
    model.layers[-1].params["bias"][1] = np.inf
    with pytest.raises(NonFiniteError, match="row 0 of x .* weights bias of layer 'head'"):
        model.predict(x)
    uncompiled = Sequential(model.layers)
    with pytest.raises(NonFiniteError, match="row 0 of x .* weights bias of layer 'head'"):
        uncompiled.predict_on_batch(x)


@quiet
def test_predict_tells_an_output_that_overflows():
    model, x, _ = plain()
    model.layers[-1].params["kernel"][...] = 3e38
    with pytest.raises(NonFiniteError, match="row 0 of x .* in the output of layer 'head'"):
        model.predict(abs(x) * 100)


@quiet
def test_generating_from_broken_weights_is_refused():
    model = Sequential(
        [Embedding(5, 3), GRU(3, return_sequences=True), Dense(5, activation="softmax")]
    )
    model.build()
    model.layers[1].params["kernel"][0, 0] = np.nan
    with pytest.raises(ValueError, match="expected finite logits, received NaN"):
        generate(model, [1, 2], steps=3)


@quiet
def test_a_device_reports_the_same():
    found = []

    def report():
        model, x, y = plain()
        model.layers[-1].params["bias"][1] = np.nan
        for do in (lambda: model.evaluate(x, y, verbose=0), lambda: model.predict(x)):
            with pytest.raises(NonFiniteError) as caught:
                do()
            found.append(str(caught.value))

    report()
    with installed():
        report()
    assert found[:2] == found[2:]
