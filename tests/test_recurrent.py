"""Recurrent layers: against the oracle, and the properties that hold for any weights and masks."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrent_cases import (
    BATCH,
    CLOSE,
    FEATURES,
    KINDS,
    MASKS,
    TIME,
    UNITS,
    any_masks,
    built,
    close_grads,
    equal_grads,
    make,
    masks_of_every_kind,
    quick,
    random_states,
    randomize,
    seeds,
)

from minirnn.backend import set_random_seed
from minirnn.cells import GRUCell, GRUCellResetBefore, LSTMCell, SimpleRNNCell
from minirnn.initializers import Constant, GlorotUniform
from minirnn.layers import GRU, LSTM, RNN, SimpleRNN
from minirnn.packing import Mask

by_kind = pytest.mark.parametrize("kind", KINDS)
any_kind = st.sampled_from(KINDS)
FLAGS = (False, True)


def random_batch(rng, batch=BATCH, time=TIME):
    return rng.normal(size=(batch, time, FEATURES))


def options_of(layer):
    return {
        "return_sequences": layer.return_sequences,
        "go_backwards": layer.go_backwards,
        "zero_output_for_mask": layer.zero_output_for_mask,
    }


def forward_and_backward(layer, x, mask=None, seed=5, dy=None, **inputs):
    """y, dx and grads, for an upstream gradient that depends on the seed alone."""
    y, cache = layer.forward(x, mask, **inputs)
    if dy is None:
        dy = np.random.default_rng(seed).normal(size=y.shape)
    dx, grads = layer.backward(dy, cache)
    return y, dx, grads


# --- against the oracle ---------------------------------------------------------------------------


@by_kind
@pytest.mark.parametrize("mask_kind", MASKS)
def test_every_option_is_that_of_the_oracle(kind, mask_kind):
    rng = np.random.default_rng(1)
    mask = masks_of_every_kind(rng)[mask_kind]
    x = random_batch(rng)
    initial = random_states(rng, oracle.STATES[kind])
    for sequences, backwards, zeros, given_state in itertools.product(FLAGS, repeat=4):
        layer = built(
            kind,
            rng,
            return_sequences=sequences,
            go_backwards=backwards,
            zero_output_for_mask=zeros,
            return_state=True,
        )
        start = initial if given_state else None
        y, *states = layer(x, mask=mask, initial_state=start)
        expected, finals = oracle.run_layer(kind, layer.params, x, mask, start, **options_of(layer))
        what = f"sequences={sequences} backwards={backwards} zeros={zeros} state={given_state}"
        np.testing.assert_allclose(y, expected, **CLOSE, err_msg=what)
        assert len(states) == len(finals)
        for got, want in zip(states, finals, strict=True):
            np.testing.assert_allclose(got, want, **CLOSE, err_msg=what)
        layer.return_state = False
        assert np.array_equal(layer(x, mask=mask, initial_state=start), y)


@by_kind
@pytest.mark.parametrize(("batch", "time"), [(1, 7), (5, 1), (1, 1), (11, 2)])
def test_batches_of_any_size(kind, batch, time):
    rng = np.random.default_rng(2)
    layer = built(kind, rng, return_sequences=True)
    x = random_batch(rng, batch, time)
    for mask in (None, rng.random((batch, time)) < 0.5):
        y = layer(x, mask=mask)
        expected, _ = oracle.run_layer(kind, layer.params, x, mask, return_sequences=True)
        assert y.shape == (batch, time, UNITS)
        np.testing.assert_allclose(y, expected, **CLOSE)


@by_kind
def test_other_activations_and_no_bias(kind):
    rng = np.random.default_rng(3)
    x, mask = random_batch(rng), masks_of_every_kind(rng)["holes"]
    chosen = {"activation": "relu"}
    if kind != "simple_rnn":
        chosen["recurrent_activation"] = "hard_sigmoid"
    for use_bias in FLAGS:
        layer = built(kind, rng, return_sequences=True, use_bias=use_bias, **chosen)
        expected, _ = oracle.run_layer(kind, layer.params, x, mask, return_sequences=True, **chosen)
        np.testing.assert_allclose(layer(x, mask=mask), expected, **CLOSE)


@by_kind
def test_float32_is_the_oracle_to_its_own_rounding(kind):
    rng = np.random.default_rng(4)
    layer = built(kind, rng, dtype="float32", return_sequences=True)
    x, mask = random_batch(rng).astype("float32"), masks_of_every_kind(rng)["trailing"]
    expected, _ = oracle.run_layer(kind, layer.params, x, mask, return_sequences=True)
    np.testing.assert_allclose(layer(x, mask=mask), expected, rtol=2e-5, atol=2e-6)


def recorded_dropout(monkeypatch, module):
    """The factors that a forward pass draws, by the size of their last axis."""
    drawn = {}
    draw = module.draw_dropout

    def record(rate, shape, *rest, **options):
        drawn[shape[-1]] = draw(rate, shape, *rest, **options)
        return drawn[shape[-1]]

    monkeypatch.setattr(module, "draw_dropout", record)
    return drawn


@by_kind
@pytest.mark.parametrize("go_backwards", FLAGS)
def test_dropout_is_that_of_the_oracle(kind, go_backwards, monkeypatch):
    from minirnn.layers import recurrent

    drawn = recorded_dropout(monkeypatch, recurrent)
    rng = np.random.default_rng(6)
    options = {"return_sequences": True, "go_backwards": go_backwards}
    layer = built(kind, rng, dropout=0.4, recurrent_dropout=0.3, **options)
    x, mask = random_batch(rng), masks_of_every_kind(rng)["holes"]
    y = layer(x, mask=mask, training=True)
    drop_x, drop_h = drawn[FEATURES], drawn[UNITS]
    assert drop_x.shape == (BATCH, FEATURES) and drop_h.shape == (BATCH, UNITS)
    assert set(np.unique(drop_x)) <= {0, 1 / 0.6} and set(np.unique(drop_h)) <= {0, 1 / 0.7}
    expected, _ = oracle.run_layer(
        kind, layer.params, x, mask, drop_x=drop_x, drop_h=drop_h, **options
    )
    np.testing.assert_allclose(y, expected, **CLOSE)


# --- padding --------------------------------------------------------------------------------------


@quick
@given(mask=any_masks(), kind=any_kind, more=st.integers(1, 4), seed=seeds)
def test_padding_behind_changes_no_bit(mask, kind, more, seed):
    rng = np.random.default_rng(seed)
    layer = built(kind, rng)
    B, T = mask.shape
    x = random_batch(rng, B, T)
    y, dx, grads = forward_and_backward(layer, x, mask)
    longer = np.concatenate([x, rng.normal(size=(B, more, FEATURES))], axis=1)
    mask_longer = np.concatenate([mask, np.zeros((B, more), dtype=bool)], axis=1)
    y_longer, dx_longer, grads_longer = forward_and_backward(layer, longer, mask_longer)
    assert np.array_equal(y, y_longer)
    assert np.array_equal(dx, dx_longer[:, :T]) and not dx_longer[:, T:].any()
    assert equal_grads(grads, grads_longer)


@by_kind
def test_padding_behind_a_whole_batch_changes_no_bit(kind):
    """The same batch without a mask, and padded: outputs of all steps, and their gradients."""
    rng = np.random.default_rng(7)
    layer = built(kind, rng, return_sequences=True, dtype="float32")
    x = random_batch(rng).astype("float32")
    y, dx, grads = forward_and_backward(layer, x)
    longer = np.concatenate([x, rng.normal(size=(BATCH, 4, FEATURES)).astype("float32")], axis=1)
    mask = np.broadcast_to(np.arange(TIME + 4) < TIME, (BATCH, TIME + 4))
    dy = np.random.default_rng(5).normal(size=y.shape)
    dy_longer = np.concatenate([dy, np.zeros((BATCH, 4, UNITS))], axis=1)
    y_longer, dx_longer, grads_longer = forward_and_backward(layer, longer, mask, dy=dy_longer)
    assert np.array_equal(y, y_longer[:, :TIME])
    assert np.array_equal(y_longer[:, TIME:], np.repeat(y[:, -1:], 4, axis=1))
    assert np.array_equal(dx, dx_longer[:, :TIME]) and not dx_longer[:, TIME:].any()
    assert equal_grads(grads, grads_longer)


@by_kind
@pytest.mark.parametrize("backwards", FLAGS)
@settings(parent=quick, max_examples=8)
@given(mask=any_masks(min_time=1), seed=seeds)
def test_what_stands_under_a_mask_changes_no_bit(mask, kind, backwards, seed):
    rng = np.random.default_rng(seed)
    layer = built(kind, rng, return_sequences=True, go_backwards=backwards)
    x = random_batch(rng, *mask.shape)
    y, dx, grads = forward_and_backward(layer, x, mask)
    for poison in (np.nan, np.inf, -np.inf, 1e300, 0.0):
        dirty = np.where(mask[..., None], x, poison)
        y_dirty, dx_dirty, grads_dirty = forward_and_backward(layer, dirty, mask)
        assert np.array_equal(y, y_dirty)
        assert np.array_equal(dx, dx_dirty) and not dx_dirty[~mask].any()
        assert equal_grads(grads, grads_dirty)


@quick
@given(mask=any_masks(), kind=any_kind, seed=seeds)
def test_a_mask_with_holes_is_the_row_with_those_steps_deleted(mask, kind, seed):
    rng = np.random.default_rng(seed)
    layer = built(kind, rng)
    x = random_batch(rng, *mask.shape)
    y, dx, _ = forward_and_backward(layer, x, mask, dy=(dy := rng.normal(size=(len(x), UNITS))))
    for b, real in enumerate(mask):
        short = x[b : b + 1, real]
        y_row, dx_row, _ = forward_and_backward(layer, short, dy=dy[b : b + 1])
        np.testing.assert_allclose(y[b : b + 1], y_row, **CLOSE)
        np.testing.assert_allclose(dx[b : b + 1, real], dx_row, **CLOSE)


@by_kind
def test_zeroed_outputs_pass_no_gradient(kind):
    rng = np.random.default_rng(8)
    mask = masks_of_every_kind(rng)["holes"]
    layer = built(kind, rng, return_sequences=True, zero_output_for_mask=True)
    x = random_batch(rng)
    dy = rng.normal(size=(BATCH, TIME, UNITS))
    y, dx, grads = forward_and_backward(layer, x, mask, dy=dy)
    assert not y[~mask].any() and y[mask].all()
    _, dx_other, grads_other = forward_and_backward(
        layer, x, mask, dy=np.where(mask[..., None], dy, np.nan)
    )
    assert np.array_equal(dx, dx_other) and equal_grads(grads, grads_other)


@by_kind
def test_zero_output_for_mask_leaves_the_final_output_alone(kind):
    rng = np.random.default_rng(9)
    masks = masks_of_every_kind(rng)
    x = random_batch(rng)
    for mask_kind in ("trailing", "holes", "empty row"):
        layer = built(kind, np.random.default_rng(10))
        y = layer(x, mask=masks[mask_kind])
        layer.zero_output_for_mask = True
        assert np.array_equal(layer(x, mask=masks[mask_kind]), y)


# --- rows and steps -------------------------------------------------------------------------------


@quick
@given(mask=any_masks(min_time=1), kind=any_kind, seed=seeds)
def test_permuting_rows_permutes_results(mask, kind, seed):
    rng = np.random.default_rng(seed)
    layer = built(kind, rng, return_sequences=True)
    x = random_batch(rng, *mask.shape)
    state = random_states(rng, oracle.STATES[kind], batch=len(x))
    order = rng.permutation(len(x))
    dy = rng.normal(size=(*mask.shape, UNITS))
    y, (dx, dstate), grads = forward_and_backward(layer, x, mask, dy=dy, initial_state=state)
    y_moved, (dx_moved, dstate_moved), grads_moved = forward_and_backward(
        layer, x[order], mask[order], dy=dy[order], initial_state=[s[order] for s in state]
    )
    np.testing.assert_allclose(y[order], y_moved, **CLOSE)
    np.testing.assert_allclose(dx[order], dx_moved, **CLOSE)
    for here, moved in zip(dstate, dstate_moved, strict=True):
        np.testing.assert_allclose(here[order], moved, **CLOSE)
    close_grads(grads, grads_moved)


@quick
@given(mask=any_masks(min_time=1), kind=any_kind, seed=seeds)
def test_a_batch_is_the_stack_of_its_rows(mask, kind, seed):
    rng = np.random.default_rng(seed)
    layer = built(kind, rng, return_sequences=True)
    x = random_batch(rng, *mask.shape)
    dy = rng.normal(size=(*mask.shape, UNITS))
    y, dx, grads = forward_and_backward(layer, x, mask, dy=dy)
    total = {key: np.zeros_like(value) for key, value in grads.items()}
    for b in range(len(x)):
        row = slice(b, b + 1)
        y_row, dx_row, grads_row = forward_and_backward(layer, x[row], mask[row], dy=dy[row])
        np.testing.assert_allclose(y[row], y_row, **CLOSE)
        np.testing.assert_allclose(dx[row], dx_row, **CLOSE)
        for key in total:
            total[key] += grads_row[key]
    close_grads(grads, total)


@quick
@given(mask=any_masks(min_time=1), kind=any_kind, data=st.data(), seed=seeds)
def test_a_sequence_cut_in_two_is_the_whole(mask, kind, data, seed):
    rng = np.random.default_rng(seed)
    layer = built(kind, rng, return_sequences=True, return_state=True)
    B, T = mask.shape
    x = random_batch(rng, B, T)
    cut = data.draw(st.integers(1, T))
    (y, *states), cache = layer.forward(x, mask)
    dy = rng.normal(size=y.shape)
    dstates = random_states(rng, len(states), batch=B)
    dx, grads = layer.backward((dy, *dstates), cache)

    (y_1, *middle), cache_1 = layer.forward(x[:, :cut], mask[:, :cut])
    if cut == T:
        parts, final, dmiddle = [y_1], middle, dstates
        pieces, totals = [], dict.fromkeys(grads, 0)
    else:
        (y_2, *final), cache_2 = layer.forward(x[:, cut:], mask[:, cut:], initial_state=middle)
        (dx_2, dmiddle), totals = layer.backward((dy[:, cut:], *dstates), cache_2)
        parts, pieces = [y_1, y_2], [dx_2]
    dx_1, grads_1 = layer.backward((dy[:, :cut], *dmiddle), cache_1)

    np.testing.assert_allclose(np.concatenate(parts, axis=1), y, **CLOSE)
    for whole, piece in zip(states, final, strict=True):
        np.testing.assert_allclose(piece, whole, **CLOSE)
    np.testing.assert_allclose(np.concatenate([dx_1, *pieces], axis=1), dx, **CLOSE)
    close_grads(grads, {key: grads_1[key] + totals[key] for key in grads})


@quick
@given(mask=any_masks(min_time=1), kind=any_kind, seed=seeds)
def test_a_backward_layer_is_a_forward_layer_on_the_reversed_row(mask, kind, seed):
    rng = np.random.default_rng(seed)
    layer = built(kind, rng, return_sequences=True)
    x = random_batch(rng, *mask.shape)
    dy = rng.normal(size=(*mask.shape, UNITS))
    y, dx, grads = forward_and_backward(layer, x[:, ::-1], mask[:, ::-1], dy=dy)
    layer.go_backwards = True
    y_back, dx_back, grads_back = forward_and_backward(layer, x, mask, dy=dy)
    # To rounding: which rows run side by side in a step differs.
    np.testing.assert_allclose(y_back, y, **CLOSE)
    np.testing.assert_allclose(dx_back, dx[:, ::-1], **CLOSE)
    close_grads(grads, grads_back)


@by_kind
@pytest.mark.parametrize("mask_kind", ["none", "trailing", "holes"])
def test_causality(kind, mask_kind):
    """A change at step t moves no output before t, by not one bit, and some output from t on."""
    rng = np.random.default_rng(12)
    mask = masks_of_every_kind(rng)[mask_kind]
    layer = built(kind, rng, return_sequences=True)
    x = random_batch(rng)
    y = layer(x, mask=mask)
    for t in range(TIME):
        other = x.copy()
        other[:, t] += 1
        y_other = layer(other, mask=mask)
        assert np.array_equal(y[:, :t], y_other[:, :t])
        seen = np.ones(BATCH, dtype=bool) if mask is None else mask[:, t]
        changed = (y[:, t:] != y_other[:, t:]).any(axis=(1, 2))
        assert changed.tolist() == seen.tolist()


# --- states ---------------------------------------------------------------------------------------


@by_kind
def test_stateful_carries_the_state_from_batch_to_batch(kind):
    rng = np.random.default_rng(13)
    layer = built(kind, rng, stateful=True, return_sequences=True)
    x, mask = random_batch(rng), masks_of_every_kind(rng)["holes"]
    whole, _ = oracle.run_layer(kind, layer.params, x, mask, return_sequences=True)
    y = np.concatenate([layer(x[:, :3], mask=mask[:, :3]), layer(x[:, 3:], mask=mask[:, 3:])], 1)
    np.testing.assert_allclose(y, whole, **CLOSE)
    layer.reset_state()
    np.testing.assert_allclose(layer(x[:, :3], mask=mask[:, :3]), whole[:, :3], **CLOSE)


@by_kind
def test_a_given_state_comes_before_the_carried_one(kind):
    rng = np.random.default_rng(14)
    layer = built(kind, rng, stateful=True)
    x = random_batch(rng)
    layer(x)
    state = random_states(rng, oracle.STATES[kind])
    expected, _ = oracle.run_layer(kind, layer.params, x, initial_state=state)
    np.testing.assert_allclose(layer(x, initial_state=state), expected, **CLOSE)


@by_kind
def test_the_carried_state_belongs_to_the_layer(kind):
    """Whoever writes into an output changes no state."""
    rng = np.random.default_rng(15)
    layer = built(kind, rng, stateful=True, return_state=True)
    x = random_batch(rng)
    y, *states = layer(x)
    start = [s.copy() for s in states]
    for array in (y, *states):
        array[...] = 99
    expected, _ = oracle.run_layer(kind, layer.params, x, initial_state=start)
    np.testing.assert_allclose(layer(x)[0], expected, **CLOSE)


def test_a_stateful_layer_needs_batches_of_one_size():
    layer = built("lstm", np.random.default_rng(16), stateful=True, name="memory")
    layer(np.zeros((5, 2, FEATURES)))
    with pytest.raises(
        ValueError, match=r"memory: a stateful layer .* 5 rows and received 3.*reset"
    ):
        layer(np.zeros((3, 2, FEATURES)))
    layer.reset_state()
    assert layer(np.zeros((3, 2, FEATURES))).shape == (3, UNITS)


@by_kind
@pytest.mark.parametrize("sequences", FLAGS)
def test_outputs_and_states_are_arrays_of_their_own(kind, sequences):
    """Whoever changes one of them changes no other, and not the gradients to come."""
    rng = np.random.default_rng(42)
    layer = built(kind, rng, return_sequences=sequences, return_state=True)
    x = random_batch(rng)
    results, cache = layer.forward(x)
    assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(results, 2))
    dy = tuple(rng.normal(size=value.shape) for value in results)
    dx, grads = layer.backward(dy, cache)
    for value in results:
        value[...] = np.nan
    dx_again, grads_again = layer.backward(dy, cache)
    assert np.array_equal(dx, dx_again) and equal_grads(grads, grads_again)


def test_one_state_may_come_without_a_tuple():
    layer = built("gru", np.random.default_rng(17))
    x, state = np.ones((5, 2, FEATURES)), np.full((5, UNITS), 0.5)
    assert np.array_equal(layer(x, initial_state=state), layer(x, initial_state=(state,)))
    assert np.array_equal(layer(x, initial_state=state), layer(x, initial_state=[state]))


@by_kind
def test_an_absent_gradient_is_a_gradient_of_zeros(kind):
    rng = np.random.default_rng(18)
    layer = built(kind, rng, return_sequences=True, return_state=True)
    (y, *states), cache = layer.forward(random_batch(rng))
    ds = random_states(rng, len(states))
    dx, grads = layer.backward((None, *ds), cache)
    dx_zeros, grads_zeros = layer.backward((np.zeros_like(y), *ds), cache)
    assert np.array_equal(dx, dx_zeros) and equal_grads(grads, grads_zeros)
    dy = rng.normal(size=y.shape)
    dx, grads = layer.backward((dy, *[None] * len(states)), cache)
    dx_zeros, grads_zeros = layer.backward((dy, *[np.zeros_like(s) for s in states]), cache)
    assert np.array_equal(dx, dx_zeros) and equal_grads(grads, grads_zeros)


# --- the cache is a value -------------------------------------------------------------------------


@by_kind
@pytest.mark.parametrize("sequences", FLAGS)
def test_a_layer_used_twice_before_backward(kind, sequences):
    rng = np.random.default_rng(19)
    layer = built(kind, rng, return_sequences=sequences)
    masks = masks_of_every_kind(rng)
    first, second = random_batch(rng), random_batch(rng, 3, 4)
    y_1, cache_1 = layer.forward(first, masks["holes"])
    y_2, cache_2 = layer.forward(second)
    dy_1, dy_2 = rng.normal(size=y_1.shape), rng.normal(size=y_2.shape)
    # Last in, first out; then the first once more.
    got_2, got_1, again_1 = (
        layer.backward(dy_2, cache_2),
        layer.backward(dy_1, cache_1),
        layer.backward(dy_1, cache_1),
    )
    _, dx_1, grads_1 = forward_and_backward(layer, first, masks["holes"], dy=dy_1)
    _, dx_2, grads_2 = forward_and_backward(layer, second, dy=dy_2)
    for (dx, grads), dx_alone, grads_alone in (
        (got_1, dx_1, grads_1),
        (again_1, dx_1, grads_1),
        (got_2, dx_2, grads_2),
    ):
        assert np.array_equal(dx, dx_alone)
        assert equal_grads(grads, grads_alone)


@by_kind
def test_nothing_given_is_changed(kind):
    rng = np.random.default_rng(20)
    layer = built(kind, rng, dropout=0.3, recurrent_dropout=0.3, return_sequences=True)
    x, mask = random_batch(rng), masks_of_every_kind(rng)["holes"]
    state = random_states(rng, oracle.STATES[kind])
    dy = rng.normal(size=(BATCH, TIME, UNITS))
    arrays = (x, mask, *state, dy, *layer.params.values())
    copies = [array.copy() for array in arrays]
    y, cache = layer.forward(x, mask, training=True, initial_state=state)
    shown = y.copy()
    layer.backward(dy, cache)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, copies, strict=True))
    assert np.array_equal(y, shown)


@by_kind
def test_two_threads_at_once(kind):
    rng = np.random.default_rng(21)
    layer = built(kind, rng, return_sequences=True)
    masks = list(masks_of_every_kind(rng).values())
    jobs = [(random_batch(rng), Mask.of(mask)) for mask in masks for _ in range(6)]

    def work(job):
        return forward_and_backward(layer, *job)

    alone = [work(job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, jobs))
    for (y, dx, grads), (y_2, dx_2, grads_2) in zip(alone, together, strict=True):
        assert np.array_equal(y, y_2) and np.array_equal(dx, dx_2) and equal_grads(grads, grads_2)


@by_kind
def test_the_same_seed_gives_the_same_bits(kind):
    def once():
        set_random_seed(22)
        layer = make(kind, dropout=0.3, recurrent_dropout=0.3)
        layer.build((None, None, FEATURES))
        x = np.random.default_rng(1).normal(size=(BATCH, TIME, FEATURES)).astype("float32")
        return forward_and_backward(layer, x, training=True)

    (y, dx, grads), (y_2, dx_2, grads_2) = once(), once()
    assert np.array_equal(y, y_2) and np.array_equal(dx, dx_2) and equal_grads(grads, grads_2)


# --- dropout --------------------------------------------------------------------------------------


@by_kind
def test_dropout_only_in_training(kind):
    rng = np.random.default_rng(23)
    layer = built(kind, rng, dropout=0.5, recurrent_dropout=0.5)
    x = random_batch(rng)
    expected, _ = oracle.run_layer(kind, layer.params, x)
    np.testing.assert_allclose(layer(x), expected, **CLOSE)
    assert not np.allclose(layer(x, training=True), expected)
    assert not np.array_equal(layer(x, training=True), layer(x, training=True))


def linear_rnn(**options):
    """h_t = x_t + h_{t-1}: what is dropped can be read off its outputs."""
    layer = SimpleRNN(
        FEATURES,
        activation="linear",
        use_bias=False,
        kernel_initializer=Constant(np.eye(FEATURES)),
        recurrent_initializer=Constant(np.eye(FEATURES)),
        return_sequences=True,
        **options,
    )
    layer.build((None, None, FEATURES))
    return layer.astype("float64")


def test_dropout_of_inputs_is_one_draw_for_all_steps():
    rng = np.random.default_rng(24)
    layer = linear_rnn(dropout=0.25)
    x = rng.normal(size=(400, 3, FEATURES))
    factors = np.diff(layer(x, training=True), axis=1, prepend=0) / x
    np.testing.assert_allclose(factors, np.repeat(factors[:, :1], 3, axis=1), atol=1e-9)
    kept = factors > 0.5
    np.testing.assert_allclose(factors[kept], 1 / 0.75)
    np.testing.assert_allclose(factors[~kept], 0, atol=1e-9)
    assert abs(kept.mean() - 0.75) < 0.06  # 2400 / 3 draws: four standard deviations
    assert abs(factors.mean() - 1) < 0.08


def test_dropout_of_states_is_one_draw_for_all_steps():
    layer = linear_rnn(recurrent_dropout=0.25)
    y = layer(np.zeros((400, 3, FEATURES)), training=True, initial_state=np.ones((400, FEATURES)))
    factor = y[:, 0]
    assert set(np.unique(factor.round(9))) == {0, round(1 / 0.75, 9)}
    np.testing.assert_allclose(y[:, 1], factor**2)
    np.testing.assert_allclose(y[:, 2], factor**3)
    assert abs((factor > 0).mean() - 0.75) < 0.06


@by_kind
@pytest.mark.parametrize("mask_kind", ["none", "holes"])
def test_gradients_under_dropout_by_differences(kind, mask_kind):
    rng = np.random.default_rng(25)
    mask = masks_of_every_kind(rng)[mask_kind]
    layer = built(kind, rng, dropout=0.4, recurrent_dropout=0.4)
    x = random_batch(rng)
    dy = rng.normal(size=(BATCH, UNITS))

    def loss(backward=False):
        set_random_seed(26)
        y, cache = layer.forward(x, mask, training=True)
        return layer.backward(dy, cache) if backward else (y * dy).sum()

    dx, grads = loss(backward=True)
    for array, gradient in [(x, dx), *((layer.params[key], grads[key]) for key in grads)]:
        direction = rng.normal(size=array.shape)
        kept, values = array.copy(), []
        for sign in (1, -1):
            array[...] = kept + sign * 1e-6 * direction
            values.append(loss())
        array[...] = kept
        slope = (values[0] - values[1]) / 2e-6
        np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-9)


# --- arrays and shapes ----------------------------------------------------------------------------


@by_kind
def test_float32_everywhere(kind):
    for sequences, backwards, zeros in itertools.product(FLAGS, repeat=3):
        layer = make(
            kind,
            return_sequences=sequences,
            go_backwards=backwards,
            zero_output_for_mask=zeros,
            return_state=True,
            dropout=0.3,
            recurrent_dropout=0.3,
        )
        rng = np.random.default_rng(27)
        x = random_batch(rng).astype("float32")
        layer.build(x.shape)
        for mask in masks_of_every_kind(rng).values():
            state = layer.cell.initial_state(BATCH)
            out, cache = layer.forward(x, mask, training=True, initial_state=state)
            (dx, dstate), grads = layer.backward(out, cache)
            for array in (*out, dx, *dstate, *grads.values(), *layer.params.values()):
                assert array.dtype == np.float32


@by_kind
@pytest.mark.parametrize(
    "backwards",
    [
        False,
        True,
    ],
)
def test_results_are_in_c_order(kind, backwards):
    rng = np.random.default_rng(28)
    for mask in masks_of_every_kind(rng).values():
        for sequences, zeros in itertools.product(FLAGS, repeat=2):
            layer = built(
                kind,
                rng,
                return_sequences=sequences,
                go_backwards=backwards,
                zero_output_for_mask=zeros,
            )
            y, dx, grads = forward_and_backward(layer, random_batch(rng), mask)
            for array in (y, dx, *grads.values()):
                assert array.flags.c_contiguous


@by_kind
def test_inputs_of_any_layout_and_type(kind):
    rng = np.random.default_rng(29)
    layer = built(kind, rng)
    x = rng.integers(-3, 4, size=(BATCH, TIME, FEATURES))
    y = layer(x.astype("float64"))
    for same in (x, x.astype("float32"), np.asfortranarray(x), x[::-1][::-1]):
        assert np.array_equal(layer(same), y)
    assert np.array_equal(make(kind).astype("float64")(x).shape, y.shape)


@by_kind
def test_a_list_is_an_input(kind):
    rng = np.random.default_rng(39)
    layer, x = built(kind, rng), random_batch(rng)
    assert np.array_equal(layer(x.tolist()), layer(x))


@by_kind
def test_astype_copies(kind):
    rng = np.random.default_rng(30)
    layer = built(kind, rng, dtype="float32")
    double = layer.astype("float64")
    assert all(value.dtype == np.float64 for value in double.params.values())
    before = [value.copy() for value in layer.params.values()]
    randomize(double, rng)
    assert all(np.array_equal(a, b) for a, b in zip(before, layer.params.values(), strict=True))
    x = random_batch(rng)
    y, dx, grads = forward_and_backward(double, x)
    assert y.dtype == dx.dtype == np.float64
    assert all(value.dtype == np.float64 for value in grads.values())


@by_kind
@pytest.mark.parametrize("sequences", FLAGS)
def test_output_shape_is_the_one_announced(kind, sequences):
    layer = built(kind, np.random.default_rng(31), return_sequences=sequences)
    x = np.zeros((BATCH, TIME, FEATURES))
    assert layer(x).shape == layer.compute_output_shape(x.shape)
    assert layer.compute_output_shape((None, None, FEATURES)) == (
        (None, None, UNITS) if sequences else (None, UNITS)
    )


@pytest.mark.parametrize("zeros", FLAGS)
@by_kind
def test_a_time_axis_of_length_zero(kind, zeros):
    rng = np.random.default_rng(32)
    x = np.zeros((BATCH, 0, FEATURES))
    state = random_states(rng, oracle.STATES[kind])
    for backwards in FLAGS:
        layer = built(kind, rng, go_backwards=backwards)
        y, cache = layer.forward(x, initial_state=state)
        assert np.array_equal(y, state[0])
        dy = rng.normal(size=y.shape)
        (dx, dstate), grads = layer.backward(dy, cache)
        assert dx.shape == x.shape and np.array_equal(dstate[0], dy)
        assert not any(value.any() for value in grads.values())
        layer.return_sequences, layer.zero_output_for_mask = True, zeros
        y, cache = layer.forward(x)
        assert y.shape == (BATCH, 0, UNITS)
        dx, grads = layer.backward(y, cache)
        assert dx.shape == x.shape and not any(value.any() for value in grads.values())


def test_the_mask_handed_on():
    mask = Mask(np.array([[True, True, False], [True, False, False]]))
    assert LSTM(3).compute_mask(None, mask) is None
    assert LSTM(3, return_sequences=True).compute_mask(None, mask) is mask
    assert LSTM(3, return_sequences=True).compute_mask(None, None) is None
    turned = LSTM(3, return_sequences=True, go_backwards=True).compute_mask(None, mask)
    assert turned.array.tolist() == mask.array[:, ::-1].tolist()


@quick
@given(mask=any_masks(min_time=1), kind=any_kind, seed=seeds)
def test_a_stack_behind_a_backward_layer_is_invariant_to_padding(mask, kind, seed):
    """The mask has to be turned round with the outputs."""
    rng = np.random.default_rng(seed)
    lower = built(kind, rng, go_backwards=True, return_sequences=True)
    upper = built(kind, rng, features=UNITS)

    def stack(x, mask):
        mask = Mask.of(mask)
        return upper(lower(x, mask=mask), mask=lower.compute_mask(x, mask))

    x = random_batch(rng, *mask.shape)
    padded = np.concatenate([x, rng.normal(size=x.shape)], axis=1)
    mask_padded = np.concatenate([mask, np.zeros_like(mask)], axis=1)
    assert np.array_equal(stack(x, mask), stack(padded, mask_padded))


# --- weights and configuration --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "features", "count"),
    [
        (SimpleRNN(16), 64, 1296),
        (LSTM(8), 64, 2336),
        (LSTM(64), 128, 49408),
        (GRU(16), 64, 3 * 16 * (64 + 16 + 2)),
        (GRU(16, reset_after=False), 64, 3 * 16 * (64 + 16 + 1)),
        (LSTM(8, use_bias=False), 64, 2336 - 32),
        (GRU(5, use_bias=False), 7, 3 * 5 * (7 + 5)),
    ],
)
def test_numbers_of_weights_are_those_of_keras(layer, features, count):
    layer.build((None, None, features))
    assert layer.count_params() == count
    assert sum(w.size for w in layer.get_weights()) == count


@by_kind
def test_an_equal_layer_from_its_configuration(kind):
    layer = make(
        kind,
        activation="relu",
        use_bias=False,
        kernel_initializer=GlorotUniform(seed=3),
        recurrent_initializer=Constant(0.5),
        return_sequences=True,
        go_backwards=True,
        dropout=0.25,
        name="mine",
        trainable=False,
    )
    config = layer.get_config()
    twin = type(layer)(**config)
    assert {k: v for k, v in twin.get_config().items() if "initializer" not in k} == {
        k: v for k, v in config.items() if "initializer" not in k
    }
    for one in (layer, twin):
        one.build((None, None, FEATURES))
    for key in layer.params:
        assert np.array_equal(layer.params[key], twin.params[key])
    assert twin.name == "mine" and twin.trainable is False and twin.go_backwards
    assert type(twin.cell) is type(layer.cell)


@by_kind
def test_get_and_set_weights(kind):
    rng = np.random.default_rng(33)
    layer = built(kind, rng, dtype="float32")
    weights = [rng.normal(size=w.shape) for w in layer.get_weights()]
    arrays = list(layer.params.values())
    layer.set_weights(weights)
    assert all(a is b for a, b in zip(arrays, layer.params.values(), strict=True))
    for got, want in zip(layer.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(got, want.astype("float32"))
    layer.get_weights()[0][...] = 7  # a copy
    assert not (layer.get_weights()[0] == 7).any()
    with pytest.raises(
        ValueError, match=r"expected 3 arrays \(kernel, recurrent_kernel, bias\).* 2"
    ):
        layer.set_weights(weights[:2])
    with pytest.raises(ValueError, match="kernel has shape .* received"):
        layer.set_weights([weights[0].T, *weights[1:]])
    # A refused call has changed nothing.
    np.testing.assert_array_equal(layer.get_weights()[1], weights[1].astype("float32"))


def test_rnn_takes_any_cell():
    rng = np.random.default_rng(34)
    layer = RNN(LSTMCell(UNITS), return_sequences=True)
    layer.build((None, None, FEATURES))
    layer = randomize(layer.astype("float64"), rng)
    x = random_batch(rng)
    expected, _ = oracle.run_layer("lstm", layer.params, x, return_sequences=True)
    np.testing.assert_allclose(layer(x), expected, **CLOSE)


CELLS = [SimpleRNNCell, LSTMCell, GRUCell, GRUCellResetBefore]


@pytest.mark.parametrize("made", CELLS)
def test_a_cell_that_was_built_before_keeps_its_weights(made):
    cell = made(UNITS)
    cell.build(FEATURES)
    randomize(cell, np.random.default_rng(39))
    arrays = dict(cell.params)
    values = {key: value.copy() for key, value in arrays.items()}
    layer = RNN(cell)
    x = random_batch(np.random.default_rng(40)).astype("float32")
    y = layer(x)
    assert all(layer.params[key] is arrays[key] for key in arrays)
    assert equal_grads(layer.params, values)

    other = RNN(cell, go_backwards=True)
    np.testing.assert_array_equal(other(x[:, ::-1]), y)
    assert all(other.params[key] is arrays[key] for key in arrays)
    with pytest.raises(
        ValueError, match="^reader: the cell was built for 2 features, the input has 3$"
    ):
        RNN(cell, name="reader")(np.zeros((BATCH, TIME, 3)))
    assert equal_grads(layer.params, values)


def test_layers_over_one_cell_learn_together():
    cell = GRUCell(UNITS)
    one, two = RNN(cell), RNN(cell)
    x = random_batch(np.random.default_rng(41))
    before = one(x)
    assert np.array_equal(two(x), before)
    two.set_weights([value + 1 for value in two.get_weights()])
    assert np.array_equal(one(x), two(x)) and (one(x) != before).any()


# --- errors ---------------------------------------------------------------------------------------


def test_input_of_a_wrong_shape():
    layer = built("lstm", np.random.default_rng(35), name="reader")
    with pytest.raises(
        ValueError, match=r"reader: expected input of shape \(batch, time, 2\), received \(5, 7\)"
    ):
        layer(np.zeros((5, 7)))
    with pytest.raises(ValueError, match=r"shape \(batch, time, 2\), received \(5, 7, 3\)"):
        layer(np.zeros((5, 7, 3)))
    with pytest.raises(ValueError, match=r"shape \(batch, time, 2\), received \(5, 7, 2, 1\)"):
        layer(np.zeros((5, 7, 2, 1)))


def test_ids_without_an_embedding():
    with pytest.raises(
        ValueError, match=r"\(batch, time, features\), received \(5, 7\).*Embedding"
    ):
        LSTM(3)(np.zeros((5, 7), dtype="int32"))
    with pytest.raises(ValueError, match=r"received \(None, None, None\)"):
        LSTM(3).build((None, None, None))


def test_a_mask_of_a_wrong_shape_or_type():
    layer = built("gru", np.random.default_rng(36), name="reader")
    x = np.zeros((5, 7, FEATURES))
    with pytest.raises(
        ValueError,
        match=r"reader: the mask has shape \(5, 6\), the input \(batch, time\) is \(5, 7\)",
    ):
        layer(x, mask=np.ones((5, 6), dtype=bool))
    with pytest.raises(ValueError, match=r"the mask has shape \(7, 5\)"):
        layer(x, mask=np.ones((7, 5), dtype=bool))
    with pytest.raises(
        ValueError, match=r"mask: expected booleans .* received int64 of shape \(5, 7\)"
    ):
        layer(x, mask=np.ones((5, 7), dtype="int64"))
    with pytest.raises(ValueError, match=r"mask: expected booleans .* shape \(5, 7, 1\)"):
        layer(x, mask=np.ones((5, 7, 1), dtype=bool))


def test_initial_states_of_a_wrong_shape():
    layer = built("lstm", np.random.default_rng(37), name="reader")
    x, h = np.zeros((5, 7, FEATURES)), np.zeros((5, UNITS))
    with pytest.raises(
        ValueError, match=r"reader: expected initial_state \(h, c\), each \(5, 3\); .*\[\(5, 3\)\]"
    ):
        layer(x, initial_state=(h,))
    with pytest.raises(ValueError, match=r"received \[\(5, 3\), \(4, 3\)\]"):
        layer(x, initial_state=(h, h[:4]))
    with pytest.raises(ValueError, match=r"\(h, c\), each \(5, 3\)"):
        layer(x, initial_state=(h, h, h))
    one = built("gru", np.random.default_rng(38))
    with pytest.raises(ValueError, match=r"expected initial_state \(h\), each \(5, 3\)"):
        one(x, initial_state=np.zeros((5, 2)))


def test_a_layer_used_before_it_was_built():
    with pytest.raises(
        ValueError, match=r"gru: this layer has no weights yet.*build\(input_shape\)"
    ):
        GRU(3).forward(np.zeros((5, 7, 2)))
    with pytest.raises(ValueError, match="this layer has no weights yet"):
        GRU(3).count_params()


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
@pytest.mark.parametrize("name", ["dropout", "recurrent_dropout"])
def test_dropout_rates(name, rate):
    message = f"^{name}: expected a share from 0 up to.* 1, received {rate}"
    with pytest.raises(ValueError, match=message):
        LSTM(3, **{name: rate})


def test_bad_arguments():
    with pytest.raises(
        TypeError, match=r"cell: expected a Cell such as LSTMCell\(64\), received 8"
    ):
        RNN(8)
    with pytest.raises(ValueError, match="units: expected a positive whole number, received 0"):
        SimpleRNN(0)
    with pytest.raises(ValueError, match="there is none called 'rleu'. Did you mean 'relu'"):
        SimpleRNN(3, activation="rleu")
    with pytest.raises(ValueError, match="Did you mean 'glorot_uniform'"):
        LSTM(3, kernel_initializer="glorot_unifrom")
    with pytest.raises(TypeError, match="activation: expected a name or an object, received 3"):
        LSTM(3, activation=3)
    with pytest.raises(TypeError, match="return_sequence"):
        LSTM(3, return_sequence=True)
