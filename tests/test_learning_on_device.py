"""Losses, metrics and optimizers on the strict stand-in for CuPy: the same numbers as on NumPy. And
what a training step moves between host and device."""

from __future__ import annotations

from contextlib import nullcontext

import model_cases
import numpy as np
import pytest
from device_cases import compare
from model_cases import CLASSES, ids, labels, make
from recurrent_cases import masks_of_every_kind
from strict_cupy import counted, installed, no_sync

from minirnn import Sequential, losses, metrics, optimizers, steps
from minirnn.backend import to_device
from minirnn.base import RowGradient
from minirnn.layers import (
    GRU,
    LSTM,
    Bidirectional,
    Dense,
    Embedding,
    GlobalMaxPooling1D,
    Input,
    SimpleRNN,
)
from minirnn.optimizers import SGD, Adagrad, Adam, RMSprop
from minirnn.schedules import ExponentialDecay

pytestmark = pytest.mark.usefixtures("loops_that_run_here")

BATCH, TIME = 5, 7
MASKS = masks_of_every_kind(np.random.default_rng(2), BATCH, TIME)

# --- losses and metrics ---------------------------------------------------------------------------

ALL_LOSSES = [made() for made in dict.fromkeys(losses.LOSSES.values())]
LOGITS = [loss.on_logits() for loss in ALL_LOSSES if loss.activation is not None]
SHAPES = {"rows": (BATCH, 3), "steps": (BATCH, TIME, 3)}


def predictions(shape, rng):
    y = rng.uniform(0.1, 0.9, size=shape)
    return (y / y.sum(axis=-1, keepdims=True)).astype("float32")


def targets(sparse, shape, rng):
    return rng.integers(0, 3, size=shape[:-1]) if sparse else rng.random(shape).astype("float32")


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("loss", [*ALL_LOSSES, *LOGITS], ids=str)
def test_losses(loss, shape):
    probabilities = loss.activation is not None and not loss.from_logits

    def run():
        rng = np.random.default_rng(8)
        y, p = targets(loss.sparse, shape, rng), to_device(predictions(shape, rng))
        found = []
        for mask in MASKS.values() if len(shape) == 3 else [None]:
            for weight in (None, rng.random(shape[0]), rng.random(shape[:-1])):
                # Probabilities are looked at, to refuse what is none.
                with nullcontext() if probabilities else no_sync():
                    found.append(loss.forward(y, p, weight, mask))
                found.append(loss(y, p, weight, mask))
        return found

    compare(run)


def test_what_is_no_probability_is_refused_on_the_device():
    with installed(), pytest.raises(ValueError, match="expected probabilities .* received 1.5"):
        losses.get("binary_crossentropy")(np.ones((2, 1)), to_device([[0.5], [1.5]]))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", metrics.METRICS)
def test_metrics(name, shape):
    def run():
        rng = np.random.default_rng(9)
        metric = metrics.get(name)
        y, p = targets(metric.sparse, shape, rng), to_device(predictions(shape, rng))
        with no_sync():
            metric.update(y, p)
            metric.update(y, p, rng.random(shape[0]))
            if len(shape) == 3:
                metric.update(y, p, None, MASKS["holes"])
        return metric.result()

    compare(run)


def test_a_confusion_matrix():
    def run():
        return metrics.confusion_matrix(to_device([0, 1, 1]), to_device([0, 0, 1]), classes=2)

    compare(run)


# --- optimizers -----------------------------------------------------------------------------------

OPTIMIZERS = {
    "sgd": lambda **k: SGD(0.1, **k),
    "nesterov": lambda **k: SGD(0.1, momentum=0.7, nesterov=True, **k),
    "rmsprop": lambda **k: RMSprop(0.01, momentum=0.5, centered=True, epsilon=1e-3, **k),
    "adagrad": lambda **k: Adagrad(0.1, **k),
    "adam": lambda **k: Adam(0.01, **k),
    "adam that folds": lambda **k: Adam(0.01, beta_1=0.01, beta_2=0.02, epsilon=1e-2, **k),
    "lazy adam": lambda **k: Adam(ExponentialDecay(0.01, 2, 0.5), lazy=True, **k),
}
CLIPPINGS = {
    "none": {},
    "value": {"clipvalue": 0.1},
    "norm": {"clipnorm": 0.5},
    "global norm": {"global_clipnorm": 0.5},
}
SIZES = {"table": (40, 3), "large": (150, 131), "bias": (5,), "scalar": ()}


@pytest.mark.parametrize("clipping", CLIPPINGS.values(), ids=CLIPPINGS)
@pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizers(make_optimizer, clipping):
    def run():
        rng = np.random.default_rng(10)
        optimizer = make_optimizer(**clipping)
        params = {k: to_device(rng.normal(size=s), "float32") for k, s in SIZES.items()}
        for step in range(6):
            grads = {k: to_device(rng.normal(size=s), "float32") for k, s in SIZES.items()}
            if step != 3:  # a dense gradient may come between those of rows
                rows = np.sort(rng.choice(40, 7, replace=False))
                grads["table"] = RowGradient(to_device(rows), grads["table"][:7])
                optimizer.catch_up("table", rows)
            with no_sync(), counted() as counts:
                optimizer.apply(params, grads, waiting=["table"])
            assert counts.h2d == 0
        optimizer.settle()
        state = optimizer.state_dict()
        restored = make_optimizer(**clipping)
        restored.load_state_dict(state)
        restored.apply(params, grads)
        return params, restored.state_dict()

    compare(run, rtol=1e-4, atol=1e-5)


def test_every_optimizer_is_here():
    assert {type(made()) for made in OPTIMIZERS.values()} == set(optimizers.OPTIMIZERS.values())


# --- what moves in a training step ----------------------------------------------------------------

# Uploads of a step, each an array that only the host can know; first with kernels, then with the
# loops of the cells:
#   ids 1, labels 1; dropout 1;
#   packing: the order of the rows 1, the last states 1, for another direction 1 more; for kernels
#   the lengths of the rows and where each step begins 2, else the state before each step 1, and 1
#   more for another direction; what of the padded batch is real, where it is looked at, 1;
#   gradient of an embedding: the ids that occur, the steps sorted by id, and how to add up 4.
TRANSFERS = {
    "dense": (lambda: [Input((7, 2)), GlobalMaxPooling1D()], 2, 2),
    "simple_rnn": (lambda: [Embedding(11, 5), SimpleRNN(3)], 6, 6),
    "lstm": (lambda: [Embedding(11, 5, mask_zero=True), LSTM(3)], 10, 9),
    "two layers": (
        lambda: [Embedding(11, 5, mask_zero=True), GRU(3, return_sequences=True), GRU(3)],
        10,
        9,
    ),
    "bidirectional": (lambda: [Embedding(11, 5, mask_zero=True), Bidirectional(LSTM(3))], 11, 11),
    "dropout": (lambda: [Embedding(11, 5, mask_zero=True), LSTM(3, dropout=0.5)], 12, 11),
}


@pytest.mark.parametrize("name", TRANSFERS)
def test_a_step_moves_the_batch_in_and_the_loss_out(name, either_loop):
    layers, with_kernels, with_cells = TRANSFERS[name]
    x, y = (model_cases.vectors() if name == "dense" else ids()), labels()
    with installed():
        model = Sequential([*layers(), Dense(CLASSES, activation="softmax")])
        model.build()
        model.compile("adam", "sparse_categorical_crossentropy", ["acc"])
        steps.train_step(model, x, y, wait=True)
        with counted() as counts:
            steps.train_step(model, x, y, wait=True)
    assert counts.h2d == (with_kernels if either_loop == "kernels" else with_cells)
    assert (counts.d2h, counts.syncs) == (1, 1)  # the loss, to see that it is finite


@pytest.mark.usefixtures("either_loop")
def test_nothing_in_a_step_waits_for_the_device():
    with installed():
        model, x, y = make("bidirectional")
        steps.train_step(model, x, y)
        means = steps.RunningMeans(model)
        with no_sync():
            loss, grads, out, mask = steps.loss_and_gradients(model, x, y)
            means.update(0.0, y, out, None, mask)
            with counted() as counts:
                model.optimizer.apply(model.params, grads)
            assert counts.h2d == 0
        assert np.isfinite(float(loss))


def test_an_epoch_reads_a_loss_a_step_and_a_figure_a_metric():
    with installed():
        model, x, y = make("lstm", metrics=("acc", "sparse_top_k_categorical_accuracy"))
        model.fit(x, y, verbose=0)
        with counted() as counts:
            model.fit(x, y, batch_size=5, epochs=3, verbose=0)  # of 3 steps each
    assert counts.d2h == counts.syncs == 3 * (3 + 2)


def test_the_number_of_launches_does_not_grow_with_the_vocabulary_or_the_rows(either_loop):
    def launches(tokens, rows):
        model = Sequential([Embedding(tokens, 4, mask_zero=True), LSTM(3), Dense(2)])
        model.build()
        model.compile("adam", "mse")
        x = np.tile(np.arange(1, 8), (rows, 1))
        y = np.zeros((rows, 2))
        steps.train_step(model, x, y)
        with counted() as counts:
            steps.train_step(model, x, y)
        return counts.ops

    with installed():
        few, many = launches(20, 4), launches(20_000, 64)
    # A word that comes 16 times as often takes 4 more turns of 5 calls to add up.
    assert few <= (95 if either_loop == "kernels" else 220)
    assert many <= few + 4 * 5
