"""Truncated BPTT: windows of long rows, with the state carried from one to the next."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from recurrent_cases import KINDS, make

import minirnn
from minirnn import Sequential, Windows, set_random_seed
from minirnn.layers import (
    GRU,
    LSTM,
    Bidirectional,
    Dense,
    Embedding,
    GlobalMaxPooling1D,
    Masking,
    TextVectorization,
)
from minirnn.optimizers import SGD
from minirnn.steps import loss_and_gradients

FEATURES, CLASSES = 2, 3


def model_of(kind="lstm", each_step=True, stateful=True, masked=True, rate=0.5):
    set_random_seed(1)
    layers = [Masking()] if masked else []
    layers += [
        make(kind, 4, return_sequences=True, stateful=stateful),
        make("gru", 3, return_sequences=each_step, stateful=stateful),
        Dense(CLASSES, activation="softmax"),
    ]
    model = Sequential(layers)
    model.build((None, None, FEATURES))
    model.compile(SGD(rate), "sparse_categorical_crossentropy", ["acc"])
    return model


def rows_of(*lengths, each_step=True, seed=2):
    rng = np.random.default_rng(seed)
    x = [rng.normal(size=(n, FEATURES)).astype("float32") for n in lengths]
    y = [rng.integers(0, CLASSES, n) for n in lengths]
    return x, (y if each_step else np.array([row[0] for row in y]))


def padded(x):
    longest = max(map(len, x))
    return np.stack([np.pad(r, [(0, longest - len(r))] + [(0, 0)] * (r.ndim - 1)) for r in x])


# --- it is what it says ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("each_step", [True, False])
def test_one_window_is_a_whole_row(kind, each_step):
    x, y = rows_of(9, 9, 9, each_step=each_step)
    cut, whole = model_of(kind, each_step), model_of(kind, each_step, stateful=False)
    whole.set_weights(cut.get_weights())
    windows = Windows(cut, x, y, window=10**20, batch_size=2, shuffle=False)  # longer than any row
    one = cut.fit(windows, verbose=0)
    other = whole.fit(np.stack(x), np.stack(y), batch_size=2, shuffle=False, verbose=0)
    assert one.history == other.history
    for a, b in zip(cut.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_each_window_begins_in_the_state_of_the_one_before_and_without_its_gradient(kind):
    """By hand: the steps of a layer with an initial state that is a number like any other."""
    x, y = rows_of(10, 10, 7)
    model, by_hand = model_of(kind), model_of(kind, stateful=False)
    by_hand.set_weights(model.get_weights())
    model.fit(Windows(model, x, y, window=4, batch_size=3, shuffle=False), verbose=0)

    # Rows of 10 and 7 steps have 3 and 2 windows, so the latter is a batch of its own.
    for rows, ends in (([2], [4, 7]), ([0, 1], [4, 8, 10])):
        states, start = [None, None], 0
        for end in ends:
            given = [x[r][start:end] for r in rows], [y[r][start:end] for r in rows]
            states = step_from(by_hand, *map(np.stack, given), states)
            start = end
    for a, b in zip(model.get_weights(), by_hand.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert all(layer.states is None for layer in model.layers[1:3])


def step_from(model, x, y, states):
    """A step of SGD on a window that begins in these states; the states that it ends in."""
    _, first, second, last = model.layers
    h, cache_1 = first.forward(x, initial_state=states[0], training=True)
    h_2, cache_2 = second.forward(h, initial_state=states[1], training=True)
    bare, _ = last.split_activation()
    logits, cache_3 = bare.forward(h_2)
    _, dlogits = model.loss.on_logits().forward(y, logits)
    dh_2, grads_3 = bare.backward(dlogits, cache_3)
    dh, grads_2 = second.backward(dh_2, cache_2)
    _, grads_1 = first.backward(dh[0] if isinstance(dh, tuple) else dh, cache_1)
    ends = []
    for cache in (cache_1, cache_2):
        ends.append(tuple(cache.loop.last(k) for k in range(len(cache.loop.history))))
    for layer, grads in ((first, grads_1), (second, grads_2), (last, grads_3)):
        for key, gradient in grads.items():
            layer.params[key][...] -= 0.5 * gradient
    return ends


def test_with_one_output_a_row_only_the_last_window_teaches():
    """Its gradient is that of the last window, begun in the state after all steps before."""
    x, y = rows_of(10, 9, 10, each_step=False)
    model, by_hand = model_of(each_step=False, rate=0.1), model_of(each_step=False, rate=0.1)
    steps = model.fit(Windows(model, x, y, window=4, batch_size=3, shuffle=False), verbose=0)
    assert model.optimizer.iterations == 1 and np.isfinite(steps.history["loss"][0])
    whole = padded(x)
    by_hand.walk(whole[:, :8])
    _, grads, _, _ = loss_and_gradients(by_hand, whole[:, 8:], y)
    for key, weights in by_hand.params.items():
        weights -= 0.1 * grads[key]
        np.testing.assert_allclose(model.params[key], weights, rtol=1e-5, atol=1e-6, err_msg=key)


def test_evaluation_in_windows_is_that_of_whole_rows():
    for each_step in (True, False):
        x, y = rows_of(10, 3, 8, 8, 6, each_step=each_step)
        cut, whole = model_of(each_step=each_step), model_of(each_step=each_step, stateful=False)
        whole.set_weights(cut.get_weights())
        one = cut.evaluate(Windows(cut, x, y, window=3, batch_size=2), verbose=0)
        other = whole.evaluate(padded(x), padded(y) if each_step else y, verbose=0)
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_arrays_are_as_long_as_their_mask():
    x, y = rows_of(10, 3, 8)
    model = model_of()
    windows = [
        Windows(model, *data, window=4, shuffle=False) for data in ((x, y), (padded(x), padded(y)))
    ]
    assert [w.lengths.tolist() for w in windows] == [[10, 3, 8]] * 2
    assert len(windows[0]) == len(windows[1]) == 3 + 1 + 2
    for one, other in zip(*windows, strict=True):
        for a, b in zip(one[:2], other[:2], strict=True):
            np.testing.assert_array_equal(a, b)


def test_weights_of_rows_and_of_steps():
    x, y = rows_of(6, 6)
    model = model_of()
    for weight in (np.array([1.0, 3.0]), np.arange(12.0).reshape(2, 6)):
        cut = [w for *_, w in Windows(model, x, y, 4, shuffle=False, sample_weight=weight)]
        whole = [weight, weight] if weight.ndim == 1 else [weight[:, :4], weight[:, 4:]]
        for a, b in zip(cut, whole, strict=True):
            np.testing.assert_array_equal(a, b)


def test_every_row_comes_once_and_in_order_of_time():
    model = model_of(masked=False)
    lengths = [7, 4, 12, 9, 4, 1, 12, 5]
    x = [np.full((n, FEATURES), row, "float32") for row, n in enumerate(lengths)]
    y = [np.arange(n) % CLASSES for n in lengths]
    set_random_seed(4)
    passes = []
    windows = Windows(model, x, y, window=4, batch_size=2)
    for _ in range(2):
        seen = {row: [] for row in range(len(x))}
        order = []
        for xb, yb, _ in windows:
            rows = xb[:, 0, 0].astype(int).tolist()
            assert len(set(rows)) == len(rows) <= 2
            order.append(rows)
            for row, labels in zip(rows, yb, strict=True):
                seen[row] += labels.tolist()
        assert len(order) == len(windows)
        for row, n in enumerate(lengths):
            assert seen[row][:n] == y[row].tolist()
        passes.append(order)
    assert passes[0] != passes[1]


def test_states_are_gone_though_the_walk_was_broken_off():
    model = model_of()
    walk = iter(Windows(model, *rows_of(9, 9), window=4))
    model.train_on_batch(*next(walk)[:2])
    assert model.layers[1].states is not None
    walk.close()
    assert model.layers[1].states is None


def test_it_learns_what_stands_in_an_earlier_window():
    """The label of a step is the sign seen at the row's beginning: only the state can know it."""
    set_random_seed(3)
    model = Sequential(
        [
            Embedding(4, 4),
            LSTM(8, return_sequences=True, stateful=True),
            Dense(2, activation="softmax"),
        ]
    )
    model.compile(minirnn.optimizers.Adam(0.02), "sparse_categorical_crossentropy", ["acc"])
    rng = np.random.default_rng(0)
    signs = rng.integers(0, 2, 64)
    x = rng.integers(2, 4, (64, 24))
    x[:, 0] = signs
    y = np.repeat(signs[:, None], 24, axis=1)
    model.fit(Windows(model, x, y, window=6, batch_size=16), epochs=15, verbose=0)
    assert model.evaluate(Windows(model, x, y, window=6), verbose=0)[1] > 0.95


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (lambda: [GRU(3)], "expected stateful=True"),
        (lambda: [Bidirectional(GRU(3, stateful=True))], "needs all steps of a row at once"),
        (lambda: [GRU(3, stateful=True, go_backwards=True)], "needs all steps of a row at once"),
        (
            lambda: [GRU(3, stateful=True, return_sequences=True), GlobalMaxPooling1D()],
            "needs all steps of a row at once",
        ),
        (lambda: [Dense(3)], "no recurrent layer"),
        (list, "no layers"),
        (lambda: [TextVectorization(), GRU(3)], "begins with a TextVectorization"),
    ],
)
def test_models_that_cannot_go_on(layers, message):
    with pytest.raises(ValueError, match=message):
        Windows(Sequential(layers()), *rows_of(4), window=2)


def test_other_things_that_do_not_fit():
    model = model_of()
    x, y = rows_of(4, 5)
    with pytest.raises(ValueError, match="window: expected a positive whole number"):
        Windows(model, x, y, window=0)
    with pytest.raises(ValueError, match="expected 5 labels for row 1, received shape .4,."):
        Windows(model, x, [y[0], y[0]], window=2)
    with pytest.raises(ValueError, match="y: expected labels, received none"):
        Windows(model, x, None, window=2)
    with pytest.raises(ValueError, match="x has 2 rows and y has 1"):
        Windows(model, x, y[:1], window=2)
    with pytest.raises(ValueError, match="received shape .4,."):
        Windows(model, np.zeros(4), np.zeros(4), window=2)
    with pytest.raises(TypeError, match="expected a Sequential model, received 3"):
        Windows(3, x, y, window=2)


# --- 100,000 steps --------------------------------------------------------------------------------


@pytest.mark.parametrize("each_step", [True, False])
def test_a_hundred_thousand_steps_take_the_memory_of_a_window(each_step):
    set_random_seed(1)
    model = Sequential(
        [
            Embedding(50, 2),
            LSTM(16, stateful=True, return_sequences=each_step),
            Dense(3, activation="softmax"),
        ]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 50, (1, 100_000), np.int32), rng.integers(0, 3, (1, 100_000), np.int32)
    model.train_on_batch(x[:, :30], y[:, :30] if each_step else y[:, 0])
    windows = Windows(model, x, y if each_step else y[:, 0], window=1000)
    tracemalloc.start()
    try:
        history = model.fit(windows, verbose=0)
        megabytes = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    assert model.optimizer.iterations == 1 + (100 if each_step else 1)
    assert np.isfinite(history.history["loss"][0])
    assert megabytes < 4
