"""Runs in segments against runs in one piece: the same numbers, in much less memory."""

from __future__ import annotations

import contextlib
import math
import tracemalloc

import numpy as np
import pytest
from device_cases import compare
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrent_cases import (
    BATCH,
    CLOSE,
    KINDS,
    UNITS,
    any_masks,
    built,
    built_bidirectional,
    close_grads,
    equal_grads,
    make,
    masks_of_every_kind,
    quick,
    random_states,
    randomize,
    seeds,
)

import minirnn
from minirnn import Sequential, segments, set_random_seed
from minirnn.backend import to_device
from minirnn.inspect import trace
from minirnn.layers import GRU, LSTM, Bidirectional, Dense, Embedding
from minirnn.packing import Packing
from minirnn.segments import SegmentedRun, segments_of
from minirnn.timeloop import LoopCache, run

flags = st.booleans()


@contextlib.contextmanager
def limit(most_bytes):
    minirnn.set_history_limit(most_bytes)
    try:
        yield
    finally:
        minirnn.set_history_limit(None)


def both_passes(layer, x, mask, dy_seed, most_bytes, **given):
    """Outputs, dx and the states' gradients, gradients of weights, and the cache."""
    with limit(most_bytes):
        set_random_seed(3)  # dropout
        out, cache = layer.forward(x, mask, training=True, **given)
        rng = np.random.default_rng(dy_seed)
        outs = out if isinstance(out, tuple) else (out,)
        dy = tuple(rng.normal(size=y.shape).astype(y.dtype) for y in outs)
        dx, grads = layer.backward(dy if isinstance(out, tuple) else dy[0], cache)
    dx = (dx[0], *dx[1]) if isinstance(dx, tuple) else (dx,)
    return outs, dx, grads, cache


def compare_with_the_whole(layer, x, mask, seed, tolerance=CLOSE, **given):
    outs, dx, grads, cache = both_passes(layer, x, mask, seed, 2**60, **given)
    outs_s, dx_s, grads_s, cache_s = both_passes(layer, x, mask, seed, 1, **given)
    for one, other in ((outs, outs_s), (dx, dx_s)):
        for whole, cut in zip(one, other, strict=True):
            np.testing.assert_allclose(cut, whole, **tolerance)
    close_grads(grads_s, grads, **tolerance)
    return cache, cache_s


@pytest.mark.parametrize("kind", KINDS)
@settings(parent=quick, max_examples=40)
@given(
    mask=any_masks(max_time=11, min_time=1),
    options=st.fixed_dictionaries(
        {
            "return_sequences": flags,
            "return_state": flags,
            "go_backwards": flags,
            "dropout": st.sampled_from([0, 0.4]),
            "recurrent_dropout": st.sampled_from([0, 0.4]),
        }
    ),
    state_given=flags,
    seed=seeds,
)
def test_a_run_in_segments_is_the_run(kind, mask, options, state_given, seed):
    rng = np.random.default_rng(seed)
    layer = built(kind, rng, **options)
    x = rng.normal(size=(*mask.shape, 2))
    state = random_states(rng, len(layer.cell.state_names), batch=len(mask))
    start = {"initial_state": state} if state_given else {}
    cache, cut = compare_with_the_whole(layer, x, mask, seed, **start)
    assert isinstance(cache.loop, LoopCache)
    assert isinstance(cut.loop, SegmentedRun) == bool(mask.any())


@pytest.mark.parametrize("kind", KINDS)
@settings(parent=quick, max_examples=10)
@given(mask=any_masks(max_time=11, min_time=1), sequences=flags, seed=seeds)
def test_so_it_is_in_both_directions(kind, mask, sequences, seed):
    rng = np.random.default_rng(seed)
    options = {"return_sequences": sequences, "return_state": True, "recurrent_dropout": 0.3}
    layer = built_bidirectional(kind, rng, dropout=0.3, **options)
    x = rng.normal(size=(*mask.shape, 2))
    state = random_states(rng, 2 * len(layer.layer.cell.state_names), batch=len(mask))
    compare_with_the_whole(layer, x, mask, seed, initial_state=state)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask_kind", ["none", "trailing", "holes"])
def test_so_it_is_in_float32_with_the_loops_of_this_machine(kind, mask_kind):
    rng = np.random.default_rng(4)
    mask = masks_of_every_kind(rng, 7, 50)[mask_kind]
    layer = built(kind, rng, units=5, dtype="float32", return_sequences=True, return_state=True)
    x = rng.normal(size=(7, 50, 2)).astype("float32")
    compare_with_the_whole(layer, x, mask, 1, {"rtol": 2e-4, "atol": 2e-5})


@pytest.mark.usefixtures("either_loop")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backwards", [False, True])
def test_so_it_is_on_the_stand_in_for_cupy(kind, backwards):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(BATCH, 11, 2)).astype("float32")
    mask = masks_of_every_kind(rng, BATCH, 11)["holes"]

    def segmented():
        set_random_seed(1)
        layer = make(kind, UNITS, go_backwards=backwards, recurrent_dropout=0.3, dropout=0.3)
        layer.build(x.shape)
        randomize(layer, np.random.default_rng(2))
        with limit(1):
            y, cache = layer.forward(to_device(x), mask, training=True)
            assert isinstance(cache.loop, SegmentedRun)
            return y, *layer.backward(to_device(np.ones(y.shape, "float32")), cache)

    compare(segmented)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_passes_on_a_layer_in_segments(kind):
    mask = np.arange(13) < np.array([[13], [5], [9]])
    with limit(1):
        report = minirnn.gradcheck(make(kind, 3, go_backwards=True), mask=mask, method="complex")
        both = minirnn.gradcheck(Bidirectional(make(kind, 2, return_sequences=True)))
    assert report.passed and both.passed


def test_a_backward_pass_can_be_had_twice():
    rng = np.random.default_rng(6)
    layer = built("lstm", rng, recurrent_dropout=0.5)
    x, dy = rng.normal(size=(3, 17, 2)), rng.normal(size=(3, UNITS))
    with limit(1):
        _, cache = layer.forward(x, training=True)
        (dx, grads), (again, grads_again) = layer.backward(dy, cache), layer.backward(dy, cache)
    np.testing.assert_array_equal(dx, again)
    assert equal_grads(grads, grads_again)


def test_a_stateful_layer_goes_on_where_the_last_segment_ended():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(2, 20, 2))
    whole, cut = built("gru", rng), built("gru", rng, stateful=True)
    cut.set_weights(whole.get_weights())
    with limit(1):
        cut(x[:, :9])
        last = cut(x[:, 9:])
    np.testing.assert_allclose(last, whole(x), **CLOSE)


# --- how it is cut --------------------------------------------------------------------------------


@settings(parent=quick, max_examples=50)
@given(mask=any_masks(max_time=30), reverse=flags)
def test_segments_are_all_steps_in_the_order_walked(mask, reverse):
    packing = Packing(mask, reverse)
    found = list(segments_of(packing))
    longest = len(packing.batch_sizes)
    assert len(found) <= math.isqrt(longest) + 1
    assert all(len(plan.batch_sizes) <= math.isqrt(longest) + 1 for _, plan in found)
    in_order = found[::-1] if reverse else found
    steps = [k for steps, _ in in_order for k in range(steps.start, steps.stop)]
    assert steps == list(range(len(packing)))
    assert [n for _, plan in in_order for n in plan.batch_sizes] == packing.batch_sizes
    assert all(plan.order.tolist() == list(range(len(mask))) for _, plan in found)


@pytest.mark.parametrize("kind", KINDS)
def test_the_limit_is_on_what_a_run_keeps(kind):
    rng = np.random.default_rng(8)
    layer = built(kind, rng)
    x = rng.normal(size=(4, 9, 2))
    (packed, packing), state = layer.packed_input(x, None, False), layer.cell.initial_state(4)
    loop = run(layer.cell, packed, packing, state)
    states = sum(h[4:].nbytes for h in loop.history)
    kept = 2 * states + sum(array.nbytes for array in loop.saved)
    assert segments.bytes_of_history(layer.cell, packed) == kept
    for most, kind_of_run in ((kept, LoopCache), (kept - 1, SegmentedRun)):
        with limit(most):
            assert isinstance(layer.forward(x)[1].loop, kind_of_run)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "1 GB", True])
def test_the_limit_is_a_number_of_bytes(wrong):
    with pytest.raises(ValueError, match="most_bytes: expected a positive whole number"):
        minirnn.set_history_limit(wrong)


def test_the_usual_limit(monkeypatch):
    layer = built("gru", np.random.default_rng(8))
    x = np.zeros((4, 9, 2))
    assert isinstance(layer.forward(x)[1].loop, LoopCache)
    monkeypatch.setitem(segments.USUAL_LIMIT, "numpy", 100)
    assert isinstance(layer.forward(x)[1].loop, SegmentedRun)


# --- whole models ---------------------------------------------------------------------------------


def classifier():
    set_random_seed(1)
    model = Sequential(
        [
            Embedding(20, 4, mask_zero=True),
            Bidirectional(LSTM(3, return_sequences=True)),
            GRU(3, dropout=0.2),
            Dense(2, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", ["acc"])
    return model


def rows():
    rng = np.random.default_rng(9)
    x = rng.integers(1, 20, (12, 40))
    x[np.arange(40) >= rng.integers(1, 41, (12, 1))] = 0
    return x, rng.integers(0, 2, 12)


def test_a_model_learns_the_same_in_segments():
    x, y = rows()
    learned = []
    for most in (2**60, 1, 1):
        with limit(most):
            model = classifier()
            model.fit(x, y, batch_size=4, epochs=2, verbose=0)
            learned.append((*model.get_weights(), model.predict(x)))
    for whole, cut, again in zip(*learned, strict=True):
        np.testing.assert_allclose(cut, whole, rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(cut, again)


def test_what_looks_at_every_step_still_finds_it():
    model = classifier()
    x, _ = rows()
    model.build()
    found = []
    for most in (2**60, 1):
        with limit(most):
            found.append(trace(model, x[0]))
    whole, cut = found
    assert len(whole.layers) == len(cut.layers) == 3
    for one, other in zip(whole.layers, cut.layers, strict=True):
        for name in one.states:
            np.testing.assert_allclose(other.states[name], one.states[name], rtol=1e-4, atol=1e-6)
        for name in one.gradients:
            np.testing.assert_allclose(
                other.gradients[name], one.gradients[name], rtol=1e-4, atol=1e-6
            )


# --- 100,000 steps --------------------------------------------------------------------------------


def long_run(most_bytes, steps=100_000):
    """The loss and weights of a training step, and an output; the most memory each took, in MB."""
    set_random_seed(1)
    model = Sequential([Embedding(50, 2), LSTM(16), Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    x = np.random.default_rng(0).integers(0, 50, (1, steps)).astype("int32")
    model.train_on_batch(x[:, :30], [1])  # what is compiled or remembered is there
    found, megabytes = [], []
    with limit(most_bytes):
        for do in (lambda: model.train_on_batch(x, [1]), lambda: model.predict(x)):
            tracemalloc.start()
            try:
                found.append(do())
                megabytes.append(tracemalloc.get_traced_memory()[1] / 2**20)
            finally:
                tracemalloc.stop()
    return [*found, *model.get_weights()], megabytes


def test_a_hundred_thousand_steps_fit_into_little_memory():
    whole, (training, predicting) = long_run(2**60)
    cut, (training_cut, predicting_cut) = long_run(2**20)
    for one, other in zip(whole, cut, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-6)
    # Of 62 MB of history; ids, x, dx and the plan of the steps stay.
    assert training > 80 and predicting > 50
    assert training_cut < 9 and predicting_cut < 6
