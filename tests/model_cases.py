"""What the tests of whole models share: small models with every layer in them, and their data."""

from __future__ import annotations

import numpy as np

from minirnn import Sequential, set_random_seed
from minirnn.backend import to_device
from minirnn.layers import (
    GRU,
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
    GRUCell,
    GRUCellResetBefore,
    Input,
    LSTMCell,
    Masking,
    OneHot,
    SimpleRNN,
    SimpleRNNCell,
    TextVectorization,
    TimeDistributed,
)

# Different primes, so that no two axes can be taken for each other.
ROWS, TIME, FEATURES, CLASSES, TOKENS = 13, 7, 2, 3, 11

WORDS = ["oil", "prices", "rise", "again", "as", "markets", "fall", "far", "and", "wide"]


def texts(rows=ROWS, seed=0):
    """Texts of 1 to 6 words, all different."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 7))) + f" {i}" for i in range(rows)]


def ids(rows=ROWS, seed=0, time=TIME):
    """Token ids with padding behind, in front and in between."""
    rng = np.random.default_rng(seed)
    values = rng.integers(1, TOKENS, (rows, time))
    values[rng.random((rows, time)) < 0.3] = 0
    return values


def vectors(rows=ROWS, seed=0, time=TIME):
    values = np.random.default_rng(seed).normal(size=(rows, time, FEATURES))
    values[1::3, time - 2 :] = 0
    return values.astype("float32")


def labels(rows=ROWS, seed=0):
    return np.random.default_rng(seed).integers(0, CLASSES, rows)


def vectorizer(**options):
    layer = TextVectorization(**options)
    layer.adapt([" ".join(WORDS)])
    return layer


# Each is the data and the layers that come before a Dense with a softmax.
STACKS = {
    "simple_rnn": (ids, lambda: [Embedding(TOKENS, 5), SimpleRNN(3)]),
    "lstm": (ids, lambda: [Embedding(TOKENS, 5, mask_zero=True), LSTM(3)]),
    "gru": (ids, lambda: [Embedding(TOKENS, 5, mask_zero=True), GRU(3)]),
    "gru_reset_before": (ids, lambda: [Embedding(TOKENS, 5), GRU(3, reset_after=False)]),
    "backwards": (
        ids,
        lambda: [
            Embedding(TOKENS, 5, mask_zero=True),
            LSTM(3, go_backwards=True, return_sequences=True),
            GRU(2, dropout=0.2, recurrent_dropout=0.1),
        ],
    ),
    "bidirectional": (
        ids,
        lambda: [
            Embedding(TOKENS, 5, mask_zero=True),
            Bidirectional(LSTM(3, return_sequences=True)),
            Bidirectional(GRU(2), merge_mode="mul"),
        ],
    ),
    "rnn_cells": (
        ids,
        lambda: [
            OneHot(TOKENS, mask_zero=True),
            RNN(LSTMCell(3), return_sequences=True),
            RNN(GRUCell(2), return_sequences=True, zero_output_for_mask=True),
            RNN(GRUCellResetBefore(2), return_sequences=True),
            RNN(SimpleRNNCell(3)),
        ],
    ),
    "masking": (vectors, lambda: [Input((TIME, FEATURES)), Masking(), LSTM(3, stateful=False)]),
    "flatten": (
        ids,
        lambda: [
            Input((TIME,)),
            Embedding(TOKENS, 2, mask_zero=True),
            DropMask(),
            Flatten(),
            Dropout(0.3, seed=4),
            Activation("elu"),
        ],
    ),
    "max_pooling": (
        vectors,
        lambda: [
            Input((None, FEATURES)),
            TimeDistributed(Dense(4, activation="tanh")),
            GlobalMaxPooling1D(),
        ],
    ),
    "average_pooling": (
        ids,
        lambda: [
            Embedding(TOKENS, 3, mask_zero=True),
            Dense(4, activation="tanh", use_bias=False),
            GlobalAveragePooling1D(),
        ],
    ),
    "texts": (texts, lambda: [vectorizer(), Embedding(12, 3, mask_zero=True), SimpleRNN(3)]),
    "bag_of_words": (texts, lambda: [vectorizer(output_mode="multi_hot"), Dense(5, "relu")]),
}


def make(name, seed=7, optimizer="adam", loss="sparse_categorical_crossentropy", metrics=("acc",)):
    """`(model, x, y)`: the model built and compiled, with weights that the seed tells."""
    data, layers = STACKS[name]
    set_random_seed(seed)
    model = Sequential([*layers(), Dense(CLASSES, activation="softmax")])
    model.build()
    model.compile(optimizer, loss, list(metrics))
    return model, data(), labels()


def randomize(model, seed=0, scale=0.7):
    """New values for all weights, biases included."""
    rng = np.random.default_rng(seed)
    for value in model.params.values():
        value[...] = to_device(rng.normal(scale=scale, size=value.shape))
    return model


def same_weights(one, other):
    """Whether all weights agree in name, type and every bit."""
    a, b = one.params, other.params
    return list(a) == list(b) and all(
        a[key].dtype == b[key].dtype and np.array_equal(a[key], b[key]) for key in a
    )
