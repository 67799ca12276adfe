"""Generating: drawing ids, and going on from a beginning step by step."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from device_cases import compare
from model_cases import randomize
from strict_cupy import installed

from minirnn import Sequential, generate, set_random_seed
from minirnn.base import Layer
from minirnn.generation import first_states, sample, stack_of, step
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
    GlobalMaxPooling1D,
    LSTMCell,
    Masking,
    OneHot,
    SimpleRNN,
    TextVectorization,
    TimeDistributed,
)

TOKENS = 11


def sequences(kind, units=5, **options):
    return kind(units, return_sequences=True, **options)


STACKS = {
    "simple_rnn": lambda: [Embedding(TOKENS, 3), sequences(SimpleRNN)],
    "lstm": lambda: [Embedding(TOKENS, 3), sequences(LSTM)],
    "gru": lambda: [OneHot(TOKENS), sequences(GRU)],
    "gru_reset_before": lambda: [OneHot(TOKENS), sequences(GRU, reset_after=False)],
    "three": lambda: [
        Embedding(TOKENS, 3),
        sequences(LSTM, 4, dropout=0.3, recurrent_dropout=0.2),
        TimeDistributed(Dense(7, activation="tanh")),
        sequences(GRU, 3),
        Dropout(0.5),
        sequences(SimpleRNN, 2, activation="relu"),
        Dense(6, activation="elu"),
        Activation("softplus"),
    ],
    "cell, model in a model, stateful": lambda: [
        OneHot(TOKENS),
        Sequential([RNN(LSTMCell(3), return_sequences=True), DropMask()]),
        sequences(GRU, 4, stateful=True),
    ],
}
every_stack = pytest.mark.parametrize("name", STACKS)


def make(name, seed=3, dtype="float64", head=None):
    set_random_seed(seed)
    head = head or Dense(TOKENS, activation="softmax")
    model = Sequential([*STACKS[name](), head])
    model.build()
    return randomize(model.astype(dtype), seed, scale=1.2)


def read_again(model, ids):
    """The chance of each id to come next, from all ids before it at once: (rows, classes)."""
    model.reset_state()
    chances = model.predict(np.asarray(ids))[:, -1]
    model.reset_state()
    return chances


# --- drawing one id -------------------------------------------------------------------------------


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_ids_are_drawn_as_often_as_their_chance_says(temperature, from_logits):
    p = np.array([0.05, 0.0, 0.5, 0.15, 0.3])
    with np.errstate(divide="ignore"):
        given = np.log(p) + 7 if from_logits else p
    n = 200_000
    drawn = sample(np.tile(given, (n, 1)), temperature, rng=5, from_logits=from_logits)
    assert (drawn.dtype, drawn.shape) == (np.int32, (n,))
    expected = p ** (1 / temperature) / (p ** (1 / temperature)).sum()
    counts = np.bincount(drawn, minlength=5)
    assert counts[1] == 0  # what has no chance is never drawn
    deviations = (counts - n * expected) / np.sqrt(n * expected * (1 - expected) + 1e-9)
    assert np.abs(deviations).max() < 4


def test_only_the_likeliest_are_drawn():
    p = np.array([0.1, 0.4, 0.2, 0.3])
    drawn = sample(np.tile(p, (20_000, 1)), top_k=2, rng=1)
    counts = np.bincount(drawn, minlength=4)
    assert counts[[0, 2]].tolist() == [0, 0]
    assert abs(counts[1] / 20_000 - 4 / 7) < 0.02
    assert set(sample(np.tile(p, (50, 1)), top_k=1, rng=1)) == {1}


def test_shapes():
    p = np.random.default_rng(0).dirichlet(np.ones(5), size=(3, 2))
    assert sample(p).shape == (3, 2)
    assert sample(p[0, 0]).shape == ()
    assert ["a", "b", "c", "d", "e"][sample(p[0, 0], 0)] == "abcde"[p[0, 0].argmax()]
    np.testing.assert_array_equal(sample(p, temperature=0), p.argmax(axis=-1))
    np.testing.assert_array_equal(sample(p.astype("float32"), 0), p.argmax(axis=-1))


def test_a_temperature_near_zero_takes_the_likeliest_and_a_high_one_takes_any():
    p = np.tile([0.3, 0.31, 0.0, 0.39], (1000, 1))
    assert set(sample(p, temperature=1e-3, rng=2)) == {3}
    assert set(sample(p, temperature=1e-300, rng=2)) == {3}
    counts = np.bincount(sample(p, temperature=1e6, rng=2), minlength=4)
    assert counts[2] == 0 and counts[[0, 1, 3]].min() > 270


def test_where_random_numbers_come_from():
    p = np.random.default_rng(0).dirichlet(np.ones(9), size=50)
    np.testing.assert_array_equal(sample(p, rng=4), sample(p, rng=np.random.default_rng(4)))
    set_random_seed(8)
    first, second = sample(p), sample(p)
    assert (first != second).any()
    set_random_seed(8)
    np.testing.assert_array_equal(sample(p), first)


@pytest.mark.parametrize(
    ("predictions", "options", "error", "message"),
    [
        ([0.5, 0.5], {"temperature": -0.1}, ValueError, "temperature: expected a number from 0 up"),
        ([0.5, 0.5], {"temperature": np.inf}, ValueError, "temperature: .* received inf"),
        ([0.5, 0.5], {"temperature": np.nan}, ValueError, "temperature: .* received nan"),
        ([0.5, 0.5], {"temperature": "hot"}, ValueError, "temperature: .* received 'hot'"),
        ([0.5, 0.5], {"top_k": 3}, ValueError, "top_k: expected 1 to 2, the classes; received 3"),
        ([0.5, 0.5], {"top_k": 0}, ValueError, "top_k: expected a positive whole number"),
        ([0.5, 0.5], {"rng": "seed"}, TypeError, "rng: expected a numpy.random.Generator, a seed"),
        ([1.5, 0.5], {}, ValueError, "add up to 1; received a sum of 2 and .* from_logits=True"),
        ([1.5, -0.5], {}, ValueError, "none below 0, .* a smallest number of -0.5"),
        ([np.nan, 0.5], {}, ValueError, "predictions: expected probabilities"),
        ([np.nan, 0.5], {"from_logits": True}, ValueError, "predictions: expected finite logits"),
        ([-np.inf] * 2, {"from_logits": True}, ValueError, "predictions: expected finite logits"),
        (0.5, {}, ValueError, r"predictions: expected shape \(..., classes\)"),
        (np.zeros((2, 0)), {}, ValueError, r"predictions: expected shape \(..., classes\)"),
    ],
)
def test_what_cannot_be_drawn_from(predictions, options, error, message):
    with pytest.raises(error, match=message):
        sample(predictions, **options)


# --- going on -------------------------------------------------------------------------------------


@every_stack
def test_steps_with_states_are_the_whole_prefix_read_again(name):
    model = make(name)
    ids = np.random.default_rng(1).integers(0, TOKENS, (3, 17))
    model.reset_state()
    expected = model.predict(ids)
    layers = stack_of(model.layers)
    states = first_states(layers, 3)
    for t in range(17):
        logits, states = step(layers, ids[:, t : t + 1], states)
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(chances, expected[:, t], rtol=1e-12, atol=1e-12)


@every_stack
@pytest.mark.parametrize("temperature", [0, 0.8])
def test_a_text_is_what_reading_all_of_it_at_each_step_gives(name, temperature):
    model = make(name)
    text = [3, 1, 4]
    found = generate(model, text, 12, temperature, rng=6)
    assert (found.dtype, found.shape) == (np.int32, (12,))
    random = np.random.default_rng(6)
    for _ in range(12):
        chances = read_again(model, [text])
        text.append(int(sample(chances, temperature, rng=random)[0]))
    assert found.tolist() == text[3:]


def test_rows_of_differing_length_go_on_as_if_they_were_alone():
    model = make("three")
    rows = [[3], [1, 4, 1, 5, 9], [2, 6], [5]]
    found = generate(model, rows, 8, temperature=0)
    assert found.shape == (4, 8)
    for row, ids in zip(rows, found, strict=True):
        assert generate(model, row, 8, temperature=0).tolist() == ids.tolist()
    same = generate(model, np.array([[3, 1], [2, 6]]), 8, temperature=0)
    assert same[1].tolist() == found[2].tolist()


def test_the_same_seed_gives_the_same_text():
    model = make("lstm")
    texts = []
    for seed in (1, 1, 2):
        set_random_seed(seed)
        texts.append(generate(model, [[3], [3]], 30).tolist())
    assert texts[0] == texts[1] != texts[2]
    assert texts[0][0] != texts[0][1]  # rows are drawn each for itself
    assert generate(model, [3], 30, rng=1).tolist() == generate(model, [3], 30, rng=1).tolist()


def test_nothing_is_left_behind_in_the_model():
    model = make("cell, model in a model, stateful")
    carried = np.random.default_rng(0).integers(0, TOKENS, (2, 5))
    model.predict(carried)
    before = copy.deepcopy(model)
    expected = generate(model, [3, 1], 9, temperature=0)  # of another number of rows
    assert model.layers[2].stateful and vars(model).keys() == vars(before).keys()
    for layer, other in zip(model.layers, before.layers, strict=True):
        assert vars(layer).keys() == vars(other).keys()
    np.testing.assert_array_equal(model.layers[2].states[0], before.layers[2].states[0])
    np.testing.assert_array_equal(model.predict(carried), before.predict(carried))
    model.reset_state()
    np.testing.assert_array_equal(generate(model, [3, 1], 9, temperature=0), expected)


def test_an_id_that_stops():
    model = make("gru")
    rows = [[3], [1], [4], [1, 5]]
    free = generate(model, rows, 40, temperature=3.0, rng=2)
    stop = next(i for i in range(TOKENS) if (free == i).any(axis=1).all())
    ends = [row.index(stop) + 1 for row in free.tolist()]
    assert len(set(ends)) == 4 and max(ends) < 40
    stopped = generate(model, rows, 40, temperature=3.0, rng=2, stop=stop)
    assert stopped.shape == (4, max(ends))
    for row, whole, end in zip(stopped.tolist(), free.tolist(), ends, strict=True):
        assert row == whole[:end] + [stop] * (max(ends) - end)
    alone = generate(model, [3], 40, temperature=0)
    stop = int(alone[4])
    first = alone.tolist().index(stop)
    assert generate(model, [3], 40, 0, stop=stop).tolist() == alone[: first + 1].tolist()


def test_an_id_that_stops_in_the_beginning_stops_nothing():
    model = make("gru")
    free = generate(model, [3, 5, 3], 6, temperature=0).tolist()
    stop = next(i for i in range(TOKENS) if i not in free)
    assert generate(model, [stop, 5, 3], 6, temperature=0, stop=stop).shape == (6,)


def test_padding_is_left_out_and_never_drawn():
    set_random_seed(1)
    model = Sequential([Embedding(4, 3, mask_zero=True), sequences(GRU), Dense(4, "softmax")])
    model.build()
    drawn = generate(model, [[1, 2, 0, 0], [0, 3, 0, 1]], 200, rng=1)
    assert set(drawn.ravel()) == {1, 2, 3}
    model = model.astype("float64")
    expected = generate(model, [[1, 2], [3, 1]], 9, temperature=0)
    found = generate(model, [[1, 2, 0, 0], [0, 3, 0, 1]], 9, temperature=0)
    np.testing.assert_array_equal(found, expected)


def test_models_with_logits_or_texts_at_their_ends():
    model = make("lstm")
    expected = generate(model, [3], 20, rng=1).tolist()
    logits = make("lstm", head=Dense(TOKENS))
    assert generate(logits, [3], 20, rng=1).tolist() == expected
    apart = Sequential([*logits.layers, Activation("softmax")])
    apart.build()
    assert generate(apart, [3], 20, rng=1).tolist() == expected
    vectorizer = TextVectorization(vocabulary=list("abcdefghi"), split="character")
    texts = Sequential([vectorizer, *model.layers])
    assert generate(texts, [3], 20, rng=1).tolist() == expected


def test_a_model_learns_a_text_and_says_it():
    set_random_seed(0)
    text = "the cat sat on the mat. "
    vectorizer = TextVectorization(standardize=None, split="character")
    vectorizer.adapt([text])
    words, size = vectorizer.get_vocabulary(), vectorizer.vocabulary_size()
    ids = vectorizer.ids([text * 6])[0]
    x = np.stack([ids[i : i + 25] for i in range(40)])
    model = Sequential([OneHot(size), sequences(LSTM, 32), Dense(size, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    model.optimizer.learning_rate = 0.01
    model.fit(x[:, :-1], x[:, 1:], batch_size=8, epochs=40, verbose=0)
    start = vectorizer.ids(["the cat s"])[0]
    for temperature in (0, 0.3):
        found = generate(model, start, 60, temperature, rng=1)
        assert "".join(words[i] for i in found) == (text * 4)[9:69]


def test_on_the_device():
    def run():
        set_random_seed(3)
        model = Sequential(
            [
                Embedding(TOKENS, 3, mask_zero=True),
                sequences(LSTM),
                sequences(GRU, 4),
                sequences(SimpleRNN, 3),
                Dense(TOKENS, activation="softmax"),
            ]
        )
        model.build()
        return generate(model, [[1, 2], [3], [4, 5, 6]], 10, rng=1).astype(float)

    compare(run)
    with installed():
        assert isinstance(run(), np.ndarray)


# --- errors ---------------------------------------------------------------------------------------


class OfOnesOwn(Layer):
    pass


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([Embedding(5, 2), Bidirectional(sequences(LSTM))], "bidirectional: .* cannot generate"),
        ([Embedding(5, 2), LSTM(3)], "lstm: generating needs an output at every step; make it"),
        ([Embedding(5, 2), sequences(GRU, go_backwards=True)], "gru: go_backwards=True reads"),
        (
            [Embedding(5, 2), sequences(GRU), GlobalMaxPooling1D()],
            "global_max_pooling1d: generating needs layers with an output at every step: .*Dense",
        ),
        ([OneHot(5), OfOnesOwn()], "of_ones_own: .*; received a OfOnesOwn"),
        ([Masking(), sequences(LSTM)], "masking: generating needs layers"),
        ([sequences(LSTM)], "begins with an Embedding or OneHot layer"),
    ],
)
def test_models_that_cannot_generate(layers, message):
    model = Sequential([*layers, Dense(5, activation="softmax")])
    model.build(None if isinstance(layers[0], (Embedding, OneHot)) else (None, None, 5))
    with pytest.raises(ValueError, match=message):
        generate(model, [1], 3)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (Dense(5, activation="sigmoid"), "dense: generating needs a last layer that gives the"),
        (Dropout(0.5), "dropout: generating needs a last layer that gives the chance of each id"),
        (Dense(7, activation="softmax"), "dense: it gives 7 classes, and embedding takes ids b"),
    ],
)
def test_last_layers_that_cannot_generate(head, message):
    model = Sequential([Embedding(5, 2), sequences(LSTM), head])
    model.build()
    with pytest.raises(ValueError, match=message):
        generate(model, [1], 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([], 3), ValueError, "start_ids: expected at least one id in each row, received no rows"),
        (([[1], []], 3), ValueError, "start_ids: .* received an empty row"),
        (([0, 0], 3), ValueError, "start_ids: .* received an empty row"),
        (([5], 3), ValueError, r"start_ids: id 5 at \(0,\) is outside 0..4"),
        (([1.5], 3), TypeError, "start_ids: expected whole numbers"),
        (("abc", 3), ValueError, r"start_ids: expected ids .* received shape \(\)"),
        ((["a"], 3), TypeError, "start_ids: expected whole numbers .* received text"),
        ((np.ones((1, 1, 1), int), 3), ValueError, r"start_ids: .* received shape \(1, 1, 1\)"),
        (([1], 0), ValueError, "steps: expected a positive whole number, received 0"),
        (([1], 3, -1.0), ValueError, "temperature: expected a number from 0 up, received -1.0"),
        (([1], 3, 1.0, 9), ValueError, "top_k: expected 1 to 5"),
        (([1], 3, 1.0, None, 5), ValueError, "stop: id 5 .* is outside 0..4"),
        (([1], 3, 1.0, None, 0), ValueError, "stop: 0 is padding for embedding, and never drawn"),
        (([1], 3, 1.0, None, None, 0.5), TypeError, "rng: expected"),
    ],
)
def test_arguments_that_do_not_fit(arguments, error, message):
    layers = [Embedding(5, 2, mask_zero=True), sequences(LSTM), Dense(5, activation="softmax")]
    model = Sequential(layers)
    model.build()
    with pytest.raises(error, match=message):
        generate(model, *arguments)


def test_only_models_that_are_built_generate():
    with pytest.raises(TypeError, match="model: expected a Sequential model, received <LSTM lstm>"):
        generate(LSTM(3), [1], 3)
    model = Sequential([OneHot(5), sequences(LSTM), Dense(5, activation="softmax")])
    with pytest.raises(ValueError, match="sequential: this layer has no weights yet"):
        generate(model, [1], 3)
