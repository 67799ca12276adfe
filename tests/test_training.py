"""The training loop: what goes in, in which order, what is reported, and what stops it."""

from __future__ import annotations

import copy
import fcntl
import os
import pty
import re
import struct
import termios
import time

import numpy as np
import pytest
from model_cases import (
    CLASSES,
    FEATURES,
    STACKS,
    TOKENS,
    ids,
    labels,
    make,
    randomize,
    same_weights,
    texts,
    vectorizer,
    vectors,
)

from minirnn import NonFiniteError, Sequential, backend, set_random_seed
from minirnn.base import RowGradient
from minirnn.callbacks import Callback
from minirnn.data import Dataset
from minirnn.layers import (
    GRU,
    LSTM,
    Dense,
    Dropout,
    Embedding,
    Layer,
    SimpleRNN,
    TimeDistributed,
)
from minirnn.steps import loss_and_gradients

every_stack = pytest.mark.parametrize("name", STACKS)


class Spy(Layer):
    """Notes each x that comes by in training, and each outside of it."""

    def __init__(self, **options):
        super().__init__(**options)
        self.trained, self.evaluated = [], []

    def forward(self, x, mask=None, training=False):
        (self.trained if training else self.evaluated).append(np.array(x))
        return x, None

    def backward(self, dy, cache):
        return dy, {}


def spied(optimizer="sgd"):
    """A model that notes the first id of every row; give row i the ids [i, i, i]."""
    spy = Spy()
    model = Sequential([spy, Embedding(100, 3), SimpleRNN(2), Dense(CLASSES, "softmax")])
    model.build((None, None))
    model.compile(optimizer, "sparse_categorical_crossentropy", ["acc"])
    return model, spy


def numbered(rows):
    return np.repeat(np.arange(rows)[:, None], 3, axis=1)


def order_of(batches):
    return [batch[:, 0].tolist() for batch in batches]


def cross_entropy(p, y):
    return -np.log(np.take_along_axis(p.astype("float64"), y[..., None], axis=-1)[..., 0])


# --- what fit takes -------------------------------------------------------------------------------


@every_stack
def test_two_steps_change_all_weights(name):
    model, x, y = make(name)
    before = {key: value.copy() for key, value in model.params.items()}
    history = model.fit(x, y, batch_size=len(y), epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    for key, value in before.items():
        assert (model.params[key] != value).any(), key
        assert np.isfinite(model.params[key]).all(), key
        assert model.params[key].dtype == np.float32, key


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adagrad", "adam"])
def test_a_model_learns_by_heart(optimizer):
    model, x, y = make("gru", optimizer=optimizer)
    model.optimizer.learning_rate = 0.5 if optimizer in ("sgd", "adagrad") else 0.03
    history = model.fit(x, y, batch_size=4, epochs=60, verbose=0).history
    assert history["loss"][-1] < 0.1 < history["loss"][0]
    assert model.evaluate(x, y, verbose=0)[1] == 1


def fitted(x, y=None, name="lstm", **options):
    model, _, _ = make(name)
    history = model.fit(x, y, epochs=2, verbose=0, shuffle=False, **options)
    return model, history.history


def test_arrays_lists_and_datasets_train_alike():
    x, y = ids(), labels()
    expected, figures = fitted(x, y, batch_size=4)
    for given in (
        (x.tolist(), y.tolist()),
        (x, y[:, None]),
        (x.astype("float32"), y.astype("uint8")),
    ):
        model, history = fitted(*given, batch_size=4)
        assert same_weights(model, expected)
        assert history == figures
    model, history = fitted(Dataset.from_tensor_slices((x, y)).batch(4))
    assert same_weights(model, expected)
    assert history == figures


def test_ragged_lists_are_padded_per_batch():
    rows = [row[: 1 + i % 6].tolist() for i, row in enumerate(ids())]
    padded = np.array([row + [0] * (7 - len(row)) for row in rows])
    one, _ = fitted(rows, labels(), batch_size=4)
    other, _ = fitted(padded, labels(), batch_size=4)
    for key, value in one.params.items():
        np.testing.assert_allclose(value, other.params[key], rtol=1e-4, atol=1e-6)
    model, spy = spied()
    model.fit([[1], [2, 2], [3, 3, 3], [4]], [0, 1, 2, 0], batch_size=2, shuffle=False, verbose=0)
    assert [batch.shape for batch in spy.trained] == [(2, 2), (2, 3)]


def test_ragged_rows_of_vectors_are_padded():
    rows = [row[: 1 + i % 6] for i, row in enumerate(vectors())]
    model = Sequential([LSTM(2), Dense(CLASSES, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(rows, labels(), verbose=0)
    assert model.predict(rows).shape == (len(rows), CLASSES)


def test_ragged_rows_of_differing_types_lose_no_digits():
    spy = Spy()
    Sequential([spy]).predict([[1, 2], [2.5, 3, 4]])
    assert spy.evaluated[0].tolist() == [[1, 2, 0], [2.5, 3, 4]]


def test_an_object_array_of_lists_is_ragged_data():
    """As `imdb.load_data()` of Keras gives it."""
    rows = np.empty(4, dtype=object)
    rows[:] = [[1], [2, 2], [3, 3, 3], [4]]
    model, spy = spied()
    model.fit(rows, [0, 1, 2, 0], batch_size=2, shuffle=False, verbose=0)
    assert [batch.shape for batch in spy.trained] == [(2, 2), (2, 3)]


def test_texts_as_list_array_and_dataset_train_alike():
    x, y = texts(), labels()
    expected, figures = fitted(x, y, "texts", batch_size=4)
    for given in (np.array(x), np.array(x, dtype=object)):
        model, history = fitted(given, y, "texts", batch_size=4)
        assert same_weights(model, expected)
        assert history == figures
    model, history = fitted(Dataset.from_tensor_slices((x, y)).batch(4), name="texts")
    assert same_weights(model, expected)
    assert history == figures


def test_a_list_of_batches_that_can_be_walked_again():
    class Batches:
        def __iter__(self):
            yield ids()[:4], labels()[:4]
            yield ids()[4:], labels()[4:]

    model, history = fitted(Batches())
    assert len(history["loss"]) == 2


def test_train_on_batch_is_one_step_of_fit():
    model, x, y = make("lstm")
    twin, _, _ = make("lstm")
    weight = np.linspace(0.5, 2, len(y))
    loss = model.train_on_batch(x, y, sample_weight=weight)
    history = twin.fit(x, y, sample_weight=weight, batch_size=len(y), shuffle=False, verbose=0)
    assert loss == pytest.approx(history.history["loss"][0], rel=1e-6)
    assert same_weights(model, twin)
    assert model.optimizer.iterations == 1
    model, x, y = make("texts")
    assert np.isfinite(model.train_on_batch(x, y.tolist()))


def test_a_second_fit_goes_on():
    once, x, y = make("lstm")
    twice, _, _ = make("lstm")
    once.fit(x, y, epochs=4, batch_size=4, shuffle=False, verbose=0)
    twice.fit(x, y, epochs=2, batch_size=4, shuffle=False, verbose=0)
    twice.fit(x, y, epochs=2, batch_size=4, shuffle=False, verbose=0)
    assert same_weights(once, twice)
    assert twice.optimizer.iterations == 16


def test_dropout_only_while_training():
    model = Sequential([Embedding(TOKENS, 5), LSTM(3), Dropout(0.5), Dense(CLASSES, "softmax")])
    model.build()
    randomize(model)
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = ids(), labels()
    loss = model.evaluate(x, y, verbose=0)
    assert loss == model.evaluate(x, y, verbose=0)
    assert loss == pytest.approx(cross_entropy(model.predict(x), y).mean(), rel=1e-5)
    assert model.train_on_batch(x, y) != pytest.approx(loss, rel=1e-6)


# --- weights of rows and classes ------------------------------------------------------------------


def test_class_weight_is_a_weight_for_each_row():
    x, y = ids(), labels()
    factors = {0: 1.0, 1: 3.0, 2: 0.25}
    one, figures = fitted(x, y, class_weight=factors, batch_size=4)
    rows = np.array([factors[label] for label in y], dtype="float32")
    other, expected = fitted(x, y, sample_weight=rows, batch_size=4)
    assert same_weights(one, other)
    assert figures == expected
    plain, _ = fitted(x, y, batch_size=4)
    assert not same_weights(one, plain)


def test_classes_without_a_weight_count_once():
    x, y = ids(), labels()
    one, _ = fitted(x, y, class_weight={1: 2.0})
    other, _ = fitted(x, y, class_weight={0: 1, 1: 2, 2: 1})
    assert same_weights(one, other)


def test_class_weight_and_sample_weight_are_multiplied():
    x, y = ids(), labels()
    rows = np.linspace(0.5, 2, len(y)).astype("float32")
    one, _ = fitted(x, y, class_weight={2: 2}, sample_weight=rows)
    other, _ = fitted(x, y, sample_weight=np.where(y == 2, 2, 1) * rows)
    assert same_weights(one, other)


def test_class_weight_through_a_dataset_and_for_columns_of_labels():
    x, y = ids(), labels()
    expected, _ = fitted(x, y, class_weight={2: 2.0}, batch_size=4)
    data = Dataset.from_tensor_slices((x, y[:, None])).batch(4)
    model, _ = fitted(data, class_weight={2: 2.0})
    assert same_weights(model, expected)


def test_class_weight_per_step():
    model = Sequential(
        [Embedding(TOKENS, 3), GRU(2, return_sequences=True), Dense(CLASSES, "softmax")]
    )
    model.build()
    model.compile("sgd", "sparse_categorical_crossentropy")
    twin = copy.deepcopy(model)
    x = ids()
    y = x % CLASSES
    model.fit(x, y, class_weight={1: 3.0}, shuffle=False, verbose=0)
    twin.fit(x, y, sample_weight=np.where(y == 1, 3.0, 1.0), shuffle=False, verbose=0)
    assert same_weights(model, twin)


SQUARE = 7  # rows and steps: as many, so that a wrong broadcast would find shapes that fit


@pytest.mark.parametrize("through", ["arrays", "dataset"])
@pytest.mark.parametrize("weighted", [None, "rows", "steps"])
@pytest.mark.parametrize("column", [False, True])
def test_class_weights_per_step_with_sample_weights(column, weighted, through):
    rng = np.random.default_rng(3)
    x = rng.integers(1, TOKENS, (SQUARE, SQUARE))
    x[1, 3:] = 0
    y = rng.integers(0, CLASSES, (SQUARE, SQUARE))
    factors = np.array([1.0, 3.0, 0.25], dtype="float32")
    shape = {"rows": (SQUARE,), "steps": (SQUARE, SQUARE)}.get(weighted)
    weight = rng.uniform(0.5, 2, shape).astype("float32") if weighted else None
    by_hand = factors[y]
    if weighted:
        by_hand = by_hand * (weight[:, None] if weighted == "rows" else weight)

    y = y[..., None] if column else y
    trained = []
    for given, class_weight in ((weight, dict(enumerate(factors))), (by_hand, None)):
        set_random_seed(4)
        head = Dense(CLASSES, "softmax")
        model = Sequential(
            [Embedding(TOKENS, 3, mask_zero=True), GRU(2, return_sequences=True), head]
        )
        model.build()
        model.compile("sgd", "sparse_categorical_crossentropy", ["acc"])
        data = {"x": x, "y": y, "sample_weight": given}
        if through == "dataset":
            parts = (x, y) if given is None else (x, y, given)
            data = {"x": Dataset.from_rows([parts])}
        figures = model.fit(
            **data, class_weight=class_weight, epochs=2, shuffle=False, verbose=0
        ).history
        trained.append((model, figures))
    (one, figures), (other, expected) = trained
    assert same_weights(one, other)
    assert figures == expected


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("loss", ["sparse_categorical_crossentropy", "binary_crossentropy"])
def test_class_weights_of_columns_of_labels_with_sample_weights(loss, column):
    rng = np.random.default_rng(5)
    x, y = ids(), labels() % 2
    weight = rng.uniform(0.5, 2, len(y)).astype("float32")
    factors = np.array([0.25, 3.0], dtype="float32")

    def trained(**options):
        set_random_seed(6)
        units, end = (1, "sigmoid") if loss.startswith("binary") else (CLASSES, "softmax")
        model = Sequential([Embedding(TOKENS, 3), GRU(2), Dense(units, end)])
        model.build()
        model.compile("sgd", loss)
        given = y[:, None] if column else y
        return model, model.fit(x, given, shuffle=False, verbose=0, **options).history

    one, figures = trained(class_weight=dict(enumerate(factors)), sample_weight=weight)
    other, expected = trained(sample_weight=factors[y] * weight)
    assert same_weights(one, other)
    assert figures == expected


def test_a_row_of_weight_two_is_a_row_that_comes_twice():
    """The gradient of a weighted batch is that of one in which rows are repeated."""
    model, x, y = make("lstm")
    model = randomize(model).astype("float64")
    times = np.arange(len(y)) % 3
    _, weighted, _, _ = loss_and_gradients(model, x, y, times)
    _, repeated, _, _ = loss_and_gradients(model, np.repeat(x, times, axis=0), np.repeat(y, times))
    share = times.sum() / len(y)
    for key, gradient in weighted.items():
        one, other = (
            g.dense(model.params[key].shape) if isinstance(g, RowGradient) else g
            for g in (gradient, repeated[key])
        )
        np.testing.assert_allclose(one, other * share, rtol=1e-9, atol=1e-12)


def test_weights_of_rows_in_a_dataset():
    x, y, weight = ids(), labels(), np.linspace(0, 2, 13).astype("float32")
    expected, figures = fitted(x, y, sample_weight=weight, batch_size=4)
    model, history = fitted(Dataset.from_tensor_slices((x, y, weight)).batch(4))
    assert same_weights(model, expected)
    assert history == figures


# --- what is reported -----------------------------------------------------------------------------


def test_history_holds_means_over_samples():
    """Also where the last batch is smaller; compared with a loop by hand."""
    model, x, y = make("lstm", optimizer="sgd")
    randomize(model)
    twin = copy.deepcopy(model)
    history = model.fit(x, y, batch_size=5, epochs=3, shuffle=False, verbose=0).history
    for epoch in range(3):
        losses, hits = [], []
        for start in range(0, len(x), 5):
            xb, yb = x[start : start + 5], y[start : start + 5]
            p = twin.predict(xb)
            losses += cross_entropy(p, yb).tolist()
            hits += (p.argmax(axis=1) == yb).tolist()
            _, grads, _, _ = loss_and_gradients(twin, xb, yb)
            twin.optimizer.apply(twin.params, grads)
        assert history["loss"][epoch] == pytest.approx(np.mean(losses), rel=1e-5)
        assert history["acc"][epoch] == pytest.approx(np.mean(hits), rel=1e-12)
    assert same_weights(model, twin)


@pytest.mark.parametrize("weighted", [False, True])
def test_evaluate_is_what_numpy_says_of_the_predictions(weighted):
    model, x, y = make("bidirectional")
    randomize(model)
    weight = np.random.default_rng(1).uniform(0, 3, len(y)) if weighted else np.ones(len(y))
    p = model.predict(x)
    given = weight if weighted else None
    loss, accuracy = model.evaluate(x, y, batch_size=4, sample_weight=given, verbose=0)
    assert loss == pytest.approx((cross_entropy(p, y) * weight).mean(), rel=1e-5)
    hits = p.argmax(axis=1) == y
    assert accuracy == pytest.approx((hits * weight).sum() / weight.sum(), rel=1e-6)
    figures = model.evaluate(x, y, sample_weight=given, verbose=0, return_dict=True)
    assert list(figures) == ["loss", "acc"]
    assert figures["loss"] == pytest.approx(loss, rel=1e-5)


def test_evaluate_without_metrics_is_the_loss_alone():
    model, x, y = make("lstm", metrics=())
    assert isinstance(model.evaluate(x, y, verbose=0), float)


@pytest.mark.parametrize("ending", ["the end", "a stop", "an error"])
def test_the_weights_are_up_to_date_however_training_ends(ending):
    """In `fit` rows of the embedding that no batch uses wait; afterwards none may."""

    class Ends(Callback):
        def on_epoch_begin(self, epoch):
            if ending == "an error" and epoch == 1:
                raise KeyboardInterrupt

        def on_epoch_end(self, epoch, logs):
            self.model.stop_training = ending == "a stop"

    x, y = ids(), labels()
    model, twin = (make("lstm")[0] for _ in range(2))
    for each in (model, twin):
        randomize(each)
    epochs = 2 if ending == "an error" else 1
    try:
        model.fit(x, y, 4, epochs, verbose=0, shuffle=False, callbacks=[Ends()])
    except KeyboardInterrupt:
        assert ending == "an error"
    for start in range(0, len(x), 4):
        twin.train_on_batch(x[start : start + 4], y[start : start + 4])
    for got, want in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_an_evaluation_inside_a_training_leaves_its_figures_alone():
    class Evaluates(Callback):
        def on_train_batch_end(self, batch, logs):
            found.append(self.model.evaluate(other, labels(seed=9), verbose=0, return_dict=True))

    class Watches(Callback):
        def on_train_batch_end(self, batch, logs):
            """Whoever looks after each step has all weights moved at each step."""

    x, y, other, found = ids(), labels(), ids(seed=8), []
    plain, expected = fitted(x, y, batch_size=4, callbacks=[Watches()])
    model, figures = fitted(x, y, batch_size=4, callbacks=[Evaluates()])
    assert figures == expected
    assert same_weights(model, plain)
    assert len(found) == 8
    assert found[-1] == model.evaluate(other, labels(seed=9), verbose=0, return_dict=True)


def test_validation_split_takes_the_tail_before_shuffling():
    model, spy = spied()
    x, y = numbered(10), labels(10)
    history = model.fit(x, y, validation_split=0.3, epochs=2, batch_size=4, verbose=0).history
    seen = order_of(spy.trained)
    assert sorted(sum(seen[:2], [])) == sorted(sum(seen[2:], [])) == list(range(7))
    assert order_of(spy.evaluated) == [[7, 8, 9]] * 2
    loss, accuracy = model.evaluate(x[7:], y[7:], verbose=0)
    assert history["val_loss"][-1] == pytest.approx(loss, rel=1e-6)
    assert history["val_acc"][-1] == accuracy
    assert list(history) == ["loss", "acc", "val_loss", "val_acc"]


def test_class_weights_of_one_hot_labels_are_those_of_the_classes():
    weights = []
    for loss in ("sparse_categorical_crossentropy", "categorical_crossentropy"):
        model, x, y = make("lstm", loss=loss)
        if loss == "categorical_crossentropy":
            y = np.eye(CLASSES, dtype="float32")[y]
        model.fit(x, y, class_weight={0: 3.0, 2: 0.5}, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_validation_split_cuts_where_keras_cuts():
    model, spy = spied()
    model.fit(numbered(10), labels(10), validation_split=0.25, shuffle=False, verbose=0)
    assert order_of(spy.evaluated) == [[7, 8, 9]]


@pytest.mark.parametrize("kind", ["tuple", "list", "dataset", "weights"])
def test_validation_data(kind):
    model, x, y = make("lstm")
    vx, vy = ids(5, seed=8), labels(5, seed=9)
    weight = np.linspace(1, 3, 5)
    given = {
        "tuple": (vx, vy),
        "list": [vx, vy],
        "dataset": Dataset.from_tensor_slices((vx, vy)).batch(2),
        "weights": (vx, vy, weight),
    }[kind]
    history = model.fit(x, y, validation_data=given, epochs=2, verbose=0).history
    weight = weight if kind == "weights" else None
    loss, accuracy = model.evaluate(vx, vy, sample_weight=weight, verbose=0)
    assert history["val_loss"][-1] == pytest.approx(loss, rel=1e-5)
    assert history["val_acc"][-1] == pytest.approx(accuracy)


def test_validation_texts_are_vectorized():
    model, x, y = make("texts")
    history = model.fit(x, y, validation_data=(texts(5, 3), labels(5)), verbose=0).history
    assert np.isfinite(history["val_loss"][0])


def test_validation_does_not_train():
    with_it, x, y = make("lstm")
    without, _, _ = make("lstm")
    with_it.fit(x, y, validation_data=(x, y), shuffle=False, verbose=0)
    without.fit(x, y, shuffle=False, verbose=0)
    assert same_weights(with_it, without)


# --- order and seeds ------------------------------------------------------------------------------


def test_shuffling_shows_each_row_once_an_epoch_in_new_orders():
    model, spy = spied()
    set_random_seed(5)
    model.fit(numbered(11), labels(11), epochs=3, batch_size=4, verbose=0)
    seen = order_of(spy.trained)
    assert [len(batch) for batch in seen] == [4, 4, 3] * 3
    epochs = [sum(seen[i : i + 3], []) for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert list(range(11)) not in epochs


def test_rows_keep_their_labels_and_weights_when_shuffled():
    model, spy = spied()
    taken = []

    x, y = numbered(11), np.arange(11) % CLASSES
    on_logits = model.loss.on_logits()
    original = on_logits.forward

    def forward(y_true, y_pred, sample_weight=None, mask=None):
        taken.append((y_true, sample_weight))
        return original(y_true, y_pred, sample_weight, mask)

    on_logits.forward = forward
    model.loss.on_logits = lambda: on_logits
    model.fit(x, y, sample_weight=np.arange(11.0), batch_size=4, verbose=0)
    for rows, (labelled, weight) in zip(order_of(spy.trained), taken, strict=True):
        np.testing.assert_array_equal(labelled, np.array(rows) % CLASSES)
        np.testing.assert_array_equal(weight, rows)


def test_without_shuffling_rows_come_in_order():
    model, spy = spied()
    model.fit(numbered(7), labels(7), epochs=2, batch_size=3, shuffle=False, verbose=0)
    assert order_of(spy.trained) == [[0, 1, 2], [3, 4, 5], [6]] * 2


@pytest.mark.parametrize("name", ["backwards", "bidirectional", "texts"])
def test_the_same_seed_gives_the_same_bits(name):
    """Weights, dropout and shuffling all come from one seed."""

    def train(seed):
        model, x, y = make(name, seed=seed)
        return model, model.fit(x, y, epochs=3, batch_size=4, verbose=0).history

    (one, first), (two, second), (three, _) = train(3), train(3), train(4)
    assert same_weights(one, two)
    assert first == second
    assert not same_weights(one, three)


def test_steps_per_epoch_walks_on_through_the_data():
    model, spy = spied()
    history = model.fit(
        numbered(5), labels(5), batch_size=2, epochs=3, steps_per_epoch=2, shuffle=False, verbose=0
    )
    assert order_of(spy.trained) == [[0, 1], [2, 3], [4], [0, 1], [2, 3], [4]]
    assert len(history.epoch) == 3


def test_steps_per_epoch_longer_than_the_data_and_endless_data():
    model, spy = spied()
    model.fit(numbered(3), labels(3), batch_size=2, steps_per_epoch=5, shuffle=False, verbose=0)
    assert order_of(spy.trained) == [[0, 1], [2], [0, 1], [2], [0, 1]]
    model, spy = spied()
    data = Dataset.from_tensor_slices((numbered(3), labels(3))).repeat().batch(2)
    model.fit(data, steps_per_epoch=2, epochs=2, verbose=0)
    assert order_of(spy.trained) == [[0, 1], [2, 0], [1, 2], [0, 1]]


def test_initial_epoch():
    model, spy = spied()
    history = model.fit(numbered(3), labels(3), initial_epoch=2, epochs=5, verbose=0)
    assert history.epoch == [2, 3, 4]
    assert len(spy.trained) == 3
    assert model.fit(numbered(3), labels(3), initial_epoch=2, epochs=2, verbose=0).epoch == []


# --- texts are vectorized once --------------------------------------------------------------------


def counted(model):
    """Notes how many texts `vectorizer.ids` is given."""
    given = []
    original = model.vectorizer.ids

    def ids_of(rows):
        given.append(len(rows))
        return original(rows)

    model.vectorizer.ids = ids_of
    return given


@pytest.mark.parametrize("length", [None, 4])
def test_an_array_of_texts_is_vectorized_once(length):
    model = Sequential(
        [
            vectorizer(output_sequence_length=length),
            Embedding(12, 3),
            GRU(2),
            Dense(CLASSES, "softmax"),
        ]
    )
    model.build()
    model.compile("sgd", "sparse_categorical_crossentropy")
    given = counted(model)
    model.fit(texts(10), labels(10), epochs=3, batch_size=4, verbose=0)
    assert sum(given) == 10
    given.clear()
    split = {"validation_split": 0.3}
    model.fit(texts(10), labels(10), epochs=3, batch_size=4, verbose=0, **split)
    assert sum(given) == 10


def test_a_dataset_of_texts_is_vectorized_once():
    model, _, _ = make("texts")
    given = counted(model)
    x = texts(9)
    x += x[:4]
    data = Dataset.from_tensor_slices((x, labels(13))).shuffle(13, seed=1).batch(4)
    model.fit(data, epochs=3, verbose=0)
    assert sum(given) == 9


def test_texts_that_do_not_fit_in_memory_are_vectorized_again(monkeypatch):
    monkeypatch.setattr("minirnn.batches.REMEMBERED_BYTES", 1)
    small, x, y = make("texts")
    given = counted(small)
    data = Dataset.from_tensor_slices((x, y)).batch(4)
    history = small.fit(data, epochs=2, verbose=0).history
    assert sum(given) == 4 + 2 * (len(x) - 4)
    roomy, _, _ = make("texts")
    monkeypatch.undo()
    assert roomy.fit(data, epochs=2, verbose=0).history == history


# --- loss and softmax in one ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "activation", "loss"),
    [
        (CLASSES, "softmax", "sparse_categorical_crossentropy"),
        (CLASSES, "softmax", "categorical_crossentropy"),
        (1, "sigmoid", "binary_crossentropy"),
    ],
)
@pytest.mark.parametrize("per_step", [False, True])
def test_the_loss_from_logits_has_the_gradient_of_the_two_apart(units, activation, loss, per_step):
    head = Dense(units, activation=activation)
    model = Sequential(
        [
            Embedding(TOKENS, 3, mask_zero=True),
            LSTM(2, return_sequences=per_step),
            TimeDistributed(head) if per_step else head,
        ]
    )
    model.build()
    model = randomize(model).astype("float64")
    model.compile("sgd", loss)
    x, rng = ids(), np.random.default_rng(1)
    shape = x.shape if per_step else x.shape[:1]
    y = rng.integers(0, max(units, 2), shape)
    if loss == "categorical_crossentropy":
        y = np.eye(CLASSES)[y]
    elif loss == "binary_crossentropy":
        y = y[..., None]
    weight = rng.uniform(0.5, 2, shape[:1])
    value, grads, before_activation, _ = loss_and_gradients(model, x, y, weight)
    p = model.training_parts(x).activation(before_activation)

    out, caches, mask = model.walk(x, training=True)
    real = np.ones(p.shape[:-1], bool) if mask is None else mask.array
    np.testing.assert_allclose(p[real], out[real], rtol=1e-12)
    expected, dout = model.loss.forward(y, out, weight, mask)
    _, apart = model.backward(dout, caches)
    assert float(value) == pytest.approx(float(expected), rel=1e-9)
    assert grads.keys() == apart.keys()
    for key, gradient in grads.items():
        one, other = (
            g.dense(model.params[key].shape) if isinstance(g, RowGradient) else g
            for g in (gradient, apart[key])
        )
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-11, err_msg=key)


def test_the_loss_from_logits_survives_where_probabilities_underflow():
    model = Sequential([Dense(2, "softmax", kernel_initializer="ones")])
    model.build((None, 1))
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.params["dense_kernel"][...] = [[200, -200]]
    x, y = np.ones((1, 1), "float32"), np.array([1])
    assert model.evaluate(x, y, verbose=0) == pytest.approx(400)
    _, grads, _, _ = loss_and_gradients(model, x, y)
    np.testing.assert_allclose(grads["dense_kernel"], [[1, -1]])


# --- what is not finite ---------------------------------------------------------------------------


class AtEpoch(Callback):
    def __init__(self, epoch, action):
        self.epoch, self.action = epoch, action

    def on_epoch_begin(self, epoch):
        if epoch == self.epoch:
            self.action()


@pytest.fixture
def quiet_numpy():
    with np.errstate(all="ignore"):
        yield


@pytest.mark.usefixtures("quiet_numpy")
def test_a_nan_in_the_weights_is_found():
    model, x, y = make("bidirectional")

    def plant():
        model.layers[2].backward_layer.params["recurrent_kernel"][0, 1] = np.nan

    with pytest.raises(NonFiniteError) as caught:
        model.fit(x, y, epochs=5, batch_size=4, verbose=0, callbacks=[AtEpoch(1, plant)])
    message = str(caught.value)
    assert "the loss became nan at epoch 2, step 1" in message
    assert "weights backward_recurrent_kernel of layer 'bidirectional_1'" in message
    assert "clipnorm" in message
    assert model.optimizer.iterations == 4


@pytest.mark.usefixtures("quiet_numpy")
def test_a_nan_in_the_input_is_found():
    model, x, y = make("max_pooling")
    x[9, 2, 1] = np.nan
    before_last = []

    class Note(Callback):
        def on_train_batch_end(self, batch, logs):
            before_last[:] = model.get_weights()

    with pytest.raises(NonFiniteError, match="epoch 1, step 3; it begins in the input x"):
        model.fit(x, y, batch_size=4, shuffle=False, verbose=0, callbacks=[Note()])
    for kept, now in zip(before_last, model.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, now)


@pytest.mark.usefixtures("quiet_numpy")
def test_an_infinite_input_is_found_in_its_step():
    """tanh makes it a harmless 1 on the way forward, but its weights get the gradient 0 * inf."""
    model, x, y = make("max_pooling")
    x[5, 2, 1] = np.inf
    with pytest.raises(NonFiniteError, match="epoch 1, step 2,? .*it begins in the input x"):
        model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    assert all(np.isfinite(weights).all() for weights in model.get_weights())
    assert model.optimizer.iterations == 1


@pytest.mark.usefixtures("quiet_numpy")
def test_an_exploding_activation_is_found():
    model = Sequential(
        [
            Dense(3, name="calm"),
            Dense(4, activation="exponential", name="explodes"),
            Dense(CLASSES, "softmax", name="head"),
        ]
    )
    model.build((None, FEATURES))
    randomize(model)
    model.params["explodes_bias"][...] = 200
    model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(NonFiniteError, match="in the output of layer 'explodes'"):
        model.fit(vectors()[:, 0], labels(), verbose=0)


@pytest.mark.usefixtures("quiet_numpy")
def test_a_weight_of_a_row_that_is_not_finite_is_found():
    model, x, y = make("lstm")
    with pytest.raises(NonFiniteError, match="in the loss itself .a label or a sample weight"):
        model.fit(x, y, sample_weight=np.full(len(y), np.nan), verbose=0)


@pytest.mark.usefixtures("quiet_numpy")
def test_train_on_batch_says_where_the_loss_went_astray():
    model, x, y = make("max_pooling")
    before = model.get_weights()
    x[9, 2, 1] = np.nan
    with pytest.raises(ValueError) as caught:
        model.train_on_batch(x, y)
    assert isinstance(caught.value, NonFiniteError)
    assert str(caught.value) == ("the loss became nan at train_on_batch; it begins in the input x.")
    for kept, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, now)
    x[9, 2, 1] = 0
    model.layers[-1].params["kernel"][0, 1] = np.nan
    with pytest.raises(NonFiniteError, match="weights kernel of layer 'dense_?[0-9]*'.*clipnorm"):
        model.train_on_batch(x, y)


@pytest.mark.usefixtures("quiet_numpy")
def test_a_smaller_rate_is_advised_only_where_it_may_help():
    model, x, y = make("lstm")
    with pytest.raises(
        NonFiniteError, match="a label or a sample weight may not be finite"
    ) as caught:
        model.fit(x, y, sample_weight=np.full(len(y), np.inf), verbose=0)
    assert "learning_rate" not in str(caught.value)


def test_non_finite_is_an_arithmetic_error_and_a_value_error():
    assert issubclass(NonFiniteError, ArithmeticError)
    assert issubclass(NonFiniteError, ValueError)


# --- progress -------------------------------------------------------------------------------------


def test_silent_when_told_so(capfd):
    model, x, y = make("lstm")
    model.fit(x, y, epochs=2, verbose=0, validation_split=0.2)
    model.evaluate(x, y, verbose=0)
    model.predict(x)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("verbose", ["auto", 1, 2])
def test_a_line_for_each_epoch_where_there_is_no_terminal(capfd, verbose):
    model, x, y = make("lstm")
    history = model.fit(x, y, epochs=3, verbose=verbose, validation_split=0.2).history
    out, err = capfd.readouterr()
    assert err == ""
    assert out.isprintable() or not re.search(r"[^\n -~]", out)
    lines = out.splitlines()
    assert len(lines) == 3
    for i, line in enumerate(lines):
        assert re.match(rf"Epoch {i + 1}/3: \d+\.\d s ", line)
        for name, values in history.items():
            assert f"{name} {values[i]:.4f}" in line


def test_evaluate_writes_a_line(capfd):
    model, x, y = make("lstm")
    loss, accuracy = model.evaluate(x, y)
    out, _ = capfd.readouterr()
    assert re.fullmatch(rf"Evaluate: \d+\.\d s  loss {loss:.4f}  acc {accuracy:.4f}\n", out)


def on_a_terminal(monkeypatch, action):
    """What `action` writes to standard error if that is a terminal 120 columns wide."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    with os.fdopen(slave, "w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        action()
        stream.flush()
        os.set_blocking(master, False)
        written = b""
        while True:
            try:
                written += os.read(master, 65536)
            except BlockingIOError:
                break
        monkeypatch.undo()
    os.close(master)
    return written.decode()


class Slow(Callback):
    def on_train_batch_end(self, batch, logs):
        time.sleep(0.06)


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    model, x, y = make("lstm")
    shown = on_a_terminal(
        monkeypatch,
        lambda: model.fit(x, y, batch_size=2, epochs=1, callbacks=[Slow()]),
    )
    frames = shown.split("\r")
    assert capsys.readouterr().out == ""
    assert "Epoch 1/1: 100%" in shown
    assert "7/7" in shown
    under_way = [frame for frame in frames if re.search(r"\b[1-6]/7 ", frame)]
    assert any(
        re.search(r"\d\d:\d\d<\d\d:\d\d.*loss=\d\.\d{4}, acc=\d\.\d{4}", frame)
        for frame in under_way
    )


def test_no_bar_on_a_terminal_for_a_line_or_nothing(monkeypatch, capsys):
    model, x, y = make("lstm")
    assert on_a_terminal(monkeypatch, lambda: model.fit(x, y, verbose=0)) == ""
    assert on_a_terminal(monkeypatch, lambda: model.fit(x, y, verbose=2)) == ""
    assert capsys.readouterr().out.count("\n") == 1


def test_the_bar_is_closed_by_an_error(monkeypatch):
    model, x, _ = make("lstm")
    with pytest.raises(ValueError, match="y_true"):
        on_a_terminal(monkeypatch, lambda: model.fit(x, labels() + 1))
    import tqdm

    assert not getattr(tqdm.tqdm, "_instances", None)


# --- callbacks of the loop ------------------------------------------------------------------------


def test_callbacks_are_called_in_order():
    calls = []

    class Note(Callback):
        def on_train_begin(self):
            calls.append("begin")

        def on_epoch_begin(self, epoch):
            calls.append(f"epoch {epoch}")

        def on_train_batch_end(self, batch, logs):
            calls.append(f"batch {batch}")
            assert set(logs) == {"loss", "acc"}

        def on_epoch_end(self, epoch, logs):
            calls.append(f"end {epoch}")
            assert set(logs) == {"loss", "acc", "val_loss", "val_acc"}

        def on_train_end(self):
            calls.append("done")

    model, x, y = make("lstm")
    model.fit(
        x[:4], y[:4], batch_size=1, epochs=2, validation_split=0.5, verbose=0, callbacks=[Note()]
    )
    each = ["batch 0", "batch 1"]
    assert calls == ["begin", "epoch 0", *each, "end 0", "epoch 1", *each, "end 1", "done"]


def test_none_stands_for_no_callbacks_and_no_metrics():
    model, x, y = make("lstm")
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=None)
    history = model.fit(x, y, callbacks=None, verbose=0).history
    assert list(history) == ["loss"]
    assert isinstance(model.evaluate(x, y, verbose=0), float)


def test_a_callback_can_stop_training():
    class Stop(Callback):
        def on_epoch_end(self, epoch, logs):
            self.model.stop_training = epoch == 1

    model, x, y = make("lstm")
    assert model.fit(x, y, epochs=9, verbose=0, callbacks=[Stop()]).epoch == [0, 1]
    assert model.fit(x, y, epochs=1, verbose=0).epoch == [0]


def test_training_in_float64_stays_there():
    backend.set_floatx("float64")
    try:
        model, x, y = make("lstm")
        model.fit(x, y, verbose=0)
    finally:
        backend.set_floatx("float32")
    assert {value.dtype for value in model.params.values()} == {np.dtype("float64")}
    assert model.predict(x).dtype == np.float64


def test_rows_that_wait_are_settled_once_an_epoch_and_not_at_each_step(monkeypatch):
    model, x, y = make("lstm")
    settled = []
    plain = type(model.optimizer).settle
    monkeypatch.setattr(
        type(model.optimizer), "settle", lambda self: (settled.append(1), plain(self))
    )
    model.fit(x, y, batch_size=1, epochs=2, verbose=0)
    assert len(x) > 8
    assert len(settled) <= 6
