"""check_padding_invariance: which models answer the same whatever the batch, and where others begin
to differ."""

from __future__ import annotations

import numpy as np
import pytest

import minirnn
from minirnn import Sequential, layers, set_random_seed
from minirnn.classifier import build_model

TEXTS = [
    "striker scores twice in the cup final",
    "shares fall",
    "probe reaches the outer planets after ten years of travel",
    "minister resigns over budget",
]


def lesson(name):
    set_random_seed(3)
    vectorizer = layers.TextVectorization(max_tokens=200)
    vectorizer.adapt(TEXTS)
    model = Sequential([vectorizer, *build_model(name, vectorizer).layers[1:]])
    model.build()
    return model


@pytest.mark.parametrize("name", ["rnn", "bilstm"])
def test_the_masked_models_answer_the_same(name):
    report = minirnn.check_padding_invariance(lesson(name), TEXTS)
    assert report.passed and report.layer is None and report.weights == ()
    assert report.bit_for_bit and report.padding == 0 and report.mates < 1e-6
    assert "the same answer whatever the batch" in str(report)


@pytest.mark.parametrize(("name", "layer"), [("rnn-title", "simple_rnn"), ("lstm", "lstm")])
def test_the_unmasked_models_do_not_and_the_layer_is_named(name, layer):
    report = minirnn.check_padding_invariance(lesson(name), TEXTS)
    assert not report.passed and not report.bit_for_bit and report.layer == layer
    assert report.padding > 1e-4 and report.mates > 1e-4
    assert f"{layer}_kernel" in report.weights
    assert f"it begins in layer {layer!r}" in str(report) and "mask_zero=True" in str(report)


def ids():
    return [[3, 1, 4, 1, 5], [9, 2], [6], [5, 3, 5, 8, 9, 7, 9]]


@pytest.mark.parametrize(
    ("stack", "layer"),
    [
        ([layers.Embedding(11, 3, mask_zero=True), layers.GRU(4, return_sequences=True)], None),
        (
            [
                layers.Embedding(11, 3, mask_zero=True),
                layers.Bidirectional(layers.GRU(4, return_sequences=True)),
                layers.Dense(2),
            ],
            None,
        ),
        (
            [layers.Embedding(11, 3, mask_zero=True), layers.GlobalMaxPooling1D(), layers.Dense(2)],
            None,
        ),
        (
            [layers.Embedding(11, 3), layers.LSTM(4, return_sequences=True), layers.Dense(2)],
            None,  # what stands behind a row changes nothing before it
        ),
        (
            [layers.Embedding(11, 3), layers.GlobalAveragePooling1D(), layers.Dense(2)],
            "global_average_pooling1d",
        ),
        (
            [
                layers.Embedding(11, 3, mask_zero=True),
                layers.LSTM(4, return_sequences=True),
                layers.DropMask(),
                layers.LSTM(4),
            ],
            "lstm_1",
        ),
    ],
    ids=["gru", "bigru", "maximum", "causal", "average", "mask dropped"],
)
def test_the_first_layer_that_depends_is_named(stack, layer):
    set_random_seed(4)
    model = Sequential(stack)
    model.build()
    before = model.get_weights()
    report = minirnn.check_padding_invariance(model, ids())
    assert report.layer == layer
    assert report.passed == (layer is None)
    assert all(map(np.array_equal, before, model.get_weights()))


def test_many_outputs_and_ids_that_are_none():
    model = Sequential([layers.Embedding(11, 3, mask_zero=True), layers.GRU(300)])
    model.build()
    assert minirnn.check_padding_invariance(model, [*ids(), []]).passed
    with pytest.raises(TypeError, match="expected whole numbers"):
        minirnn.check_padding_invariance(model, [[1, 2], [1.5]])


@pytest.mark.parametrize(("rows", "padding"), [([[1, 2]], 3), ([[1, 2], [3]], 0)])
def test_too_little_to_compare(rows, padding):
    model = Sequential([layers.Embedding(11, 3), layers.LSTM(4)])
    model.build()
    with pytest.raises(ValueError, match="at least 2 rows and 1 step"):
        minirnn.check_padding_invariance(model, rows, padding)
