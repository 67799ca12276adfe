"""What the tests of recurrent layers share: layers with random weights, masks of every kind."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minirnn.backend import to_device
from minirnn.layers import GRU, LSTM, Bidirectional, SimpleRNN

KINDS = ("simple_rnn", "lstm", "gru", "gru_reset_before")

# Different primes, so that no two axes can be taken for each other.
BATCH, TIME, FEATURES, UNITS = 5, 7, 2, 3

# Rounding in float64, for sums of a few dozen numbers near 1.
CLOSE = {"rtol": 1e-11, "atol": 1e-12}

quick = settings(max_examples=25, deadline=None)


def make(kind, units=UNITS, **options):
    if kind == "simple_rnn":
        return SimpleRNN(units, **options)
    if kind == "lstm":
        return LSTM(units, **options)
    return GRU(units, reset_after=kind == "gru", **options)


def randomize(layer, rng, scale=0.8):
    """New values for all weights, biases included."""
    for value in layer.params.values():
        value[...] = to_device(rng.normal(scale=scale, size=value.shape))
    return layer


def built(kind, rng, units=UNITS, features=FEATURES, dtype="float64", **options):
    """A recurrent layer with random weights, biases included, in `dtype`."""
    layer = make(kind, units, **options)
    layer.build((None, None, features))
    return randomize(layer.astype(dtype), rng)


def built_bidirectional(
    kind, rng, units=UNITS, features=FEATURES, dtype="float64", merge_mode="concat", **options
):
    layer = Bidirectional(make(kind, units, **options), merge_mode=merge_mode)
    layer.build((None, None, features))
    return randomize(layer.astype(dtype), rng)


def random_states(rng, count, batch=BATCH, units=UNITS):
    return tuple(rng.normal(size=(batch, units)) for _ in range(count))


def masks_of_every_kind(rng, batch=BATCH, time=TIME):
    """name → (batch, time) bool, or None."""
    steps = np.arange(time)
    lengths = rng.permutation(np.linspace(1, time, batch).astype(int))[:, None]
    trailing = steps < lengths
    holes = rng.random((batch, time)) < 0.6
    holes[0] = steps % 2 == 1  # starts and ends masked if time is odd
    holes[1 % batch, 0] = True
    empty_row = trailing.copy()
    empty_row[batch // 2] = False
    return {
        "none": None,
        "full": np.ones((batch, time), dtype=bool),
        "trailing": trailing,
        "leading": trailing[:, ::-1].copy(),
        "holes": holes,
        "empty row": empty_row,
        "nothing": np.zeros((batch, time), dtype=bool),
    }


MASKS = tuple(masks_of_every_kind(np.random.default_rng(0)))


@st.composite
def any_masks(draw, max_batch=5, max_time=6, min_time=0):
    """Any boolean mask at all."""
    batch = draw(st.integers(1, max_batch))
    time = draw(st.integers(min_time, max_time))
    return draw(arrays(bool, (batch, time)))


seeds = st.integers(0, 2**32 - 1)


def equal_grads(one, two):
    """Bit for bit."""
    return one.keys() == two.keys() and all(np.array_equal(one[key], two[key]) for key in one)


def close_grads(one, two, **tolerance):
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_allclose(one[key], two[key], **(CLOSE | tolerance), err_msg=key)
