"""Both directions at once: against the oracle, and against two layers run one after the other."""

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
    built_bidirectional,
    close_grads,
    equal_grads,
    masks_of_every_kind,
    quick,
    random_states,
    seeds,
)

from minirnn.backend import set_random_seed
from minirnn.initializers import Constant, GlorotUniform, Orthogonal
from minirnn.layers import GRU, LSTM, Bidirectional, Dense, SimpleRNN
from minirnn.packing import Mask

MERGE_MODES = ("concat", "sum", "mul", "ave", None)
FLAGS = (False, True)
by_kind = pytest.mark.parametrize("kind", KINDS)
any_kind = st.sampled_from(KINDS)


def random_batch(rng, batch=BATCH, time=TIME):
    return rng.normal(size=(batch, time, FEATURES))


def two_layers(layer):
    """The two directions as layers of their own, with the same weights."""
    pair = []
    for way in ("forward", "backward"):
        alone = type(layer.layer)(**layer.layer.get_config())
        alone.build((None, None, FEATURES))
        alone.cast("float64")
        alone.go_backwards = way == "backward"
        alone.zero_output_for_mask = True
        alone.set_weights([value for key, value in layer.params.items() if key.startswith(way)])
        pair.append(alone)
    return pair


# --- against the oracle ---------------------------------------------------------------------------


@by_kind
@pytest.mark.parametrize("mask_kind", MASKS)
def test_every_option_is_that_of_the_oracle(kind, mask_kind):
    rng = np.random.default_rng(1)
    mask = masks_of_every_kind(rng)[mask_kind]
    x = random_batch(rng)
    initial = random_states(rng, 2 * oracle.STATES[kind])
    for merge_mode, sequences, given_state in itertools.product(MERGE_MODES, FLAGS, FLAGS):
        layer = built_bidirectional(
            kind, rng, merge_mode=merge_mode, return_sequences=sequences, return_state=True
        )
        start = initial if given_state else None
        out = layer(x, mask=mask, initial_state=start)
        outputs = 2 if merge_mode is None else 1
        expected, finals = oracle.run_bidirectional(
            kind, layer.params, x, mask, start, sequences, merge_mode
        )
        expected = expected if merge_mode is None else (expected,)
        what = f"merge={merge_mode} sequences={sequences} state={given_state}"
        assert len(out) == outputs + len(finals), what
        for got, want in zip(out, [*expected, *finals], strict=True):
            assert got.shape == want.shape, what
            np.testing.assert_allclose(got, want, **CLOSE, err_msg=what)


@by_kind
def test_dropout_is_that_of_the_oracle(kind, monkeypatch):
    from minirnn.layers import bidirectional

    drawn, draw = {}, bidirectional.draw_dropout

    def record(rate, shape, *rest, **options):
        drawn[shape[-1]] = draw(rate, shape, *rest, **options)
        return drawn[shape[-1]]

    monkeypatch.setattr(bidirectional, "draw_dropout", record)
    rng = np.random.default_rng(2)
    layer = built_bidirectional(
        kind, rng, return_sequences=True, dropout=0.4, recurrent_dropout=0.3
    )
    x, mask = random_batch(rng), masks_of_every_kind(rng)["holes"]
    y = layer(x, mask=mask, training=True)
    drop_x, drop_h = drawn[FEATURES], drawn[UNITS]
    assert not np.array_equal(drop_x[0], drop_x[1])
    assert not np.array_equal(drop_h[0], drop_h[1])
    expected, _ = oracle.run_bidirectional(
        kind, layer.params, x, mask, None, True, drop_x=drop_x, drop_h=drop_h
    )
    np.testing.assert_allclose(y, expected, **CLOSE)
    expected, _ = oracle.run_bidirectional(kind, layer.params, x, mask, None, True)
    np.testing.assert_allclose(layer(x, mask=mask), expected, **CLOSE)


# --- against two layers ---------------------------------------------------------------------------


@pytest.mark.parametrize("merge_mode", MERGE_MODES)
@pytest.mark.parametrize("sequences", FLAGS)
@settings(parent=quick, max_examples=8)
@given(mask=any_masks(min_time=1), kind=any_kind, seed=seeds)
def test_backward_is_that_of_two_layers(mask, kind, merge_mode, sequences, seed):
    rng = np.random.default_rng(seed)
    layer = built_bidirectional(
        kind, rng, merge_mode=merge_mode, return_sequences=sequences, return_state=True
    )
    ahead, back = two_layers(layer)
    B, T = mask.shape
    x = random_batch(rng, B, T)
    count = oracle.STATES[kind]
    start = random_states(rng, 2 * count, batch=B)
    out, cache = layer.forward(x, mask, initial_state=start)
    douts = tuple(rng.normal(size=array.shape) for array in out)
    (dx, dstart), grads = layer.backward(douts, cache)

    (y_ahead, *_), cache_ahead = ahead.forward(x, mask, initial_state=start[:count])
    (y_back, *_), cache_back = back.forward(x, mask, initial_state=start[count:])
    dstates = douts[-2 * count :]
    turned = y_back[:, ::-1] if sequences else y_back
    if merge_mode is None:
        d_ahead, d_back = douts[0], douts[1]
    elif merge_mode == "concat":
        d_ahead, d_back = np.split(douts[0], 2, axis=-1)
    elif merge_mode == "mul":
        d_ahead, d_back = douts[0] * turned, douts[0] * y_ahead
    else:
        share = 0.5 if merge_mode == "ave" else 1.0
        d_ahead = d_back = douts[0] * share
    d_back = d_back[:, ::-1] if sequences else d_back
    (dx_1, dstart_1), grads_1 = ahead.backward((d_ahead, *dstates[:count]), cache_ahead)
    (dx_2, dstart_2), grads_2 = back.backward((d_back, *dstates[count:]), cache_back)

    np.testing.assert_allclose(dx, dx_1 + dx_2, **CLOSE)
    for got, want in zip(dstart, [*dstart_1, *dstart_2], strict=True):
        np.testing.assert_allclose(got, want, **CLOSE)
    expected = {f"forward_{key}": value for key, value in grads_1.items()}
    expected |= {f"backward_{key}": value for key, value in grads_2.items()}
    assert list(grads) == list(layer.params)
    close_grads(grads, expected)


@by_kind
def test_gradients_under_dropout_by_differences(kind):
    rng = np.random.default_rng(3)
    layer = built_bidirectional(kind, rng, dropout=0.4, recurrent_dropout=0.4)
    x, mask = random_batch(rng), masks_of_every_kind(rng)["holes"]
    dy = rng.normal(size=(BATCH, 2 * UNITS))

    def loss(backward=False):
        set_random_seed(4)
        y, cache = layer.forward(x, mask, training=True)
        return layer.backward(dy, cache) if backward else (y * dy).sum()

    dx, grads = loss(backward=True)
    params = layer.params
    for array, gradient in [(x, dx), *((params[key], grads[key]) for key in grads)]:
        direction = rng.normal(size=array.shape)
        kept, values = array.copy(), []
        for sign in (1, -1):
            array[...] = kept + sign * 1e-6 * direction
            values.append(loss())
        array[...] = kept
        slope = (values[0] - values[1]) / 2e-6
        np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-9)


# --- properties -----------------------------------------------------------------------------------


def forward_and_backward(layer, x, mask=None, dy=None):
    y, cache = layer.forward(x, mask)
    if dy is None:
        dy = np.random.default_rng(5).normal(size=y.shape)
    dx, grads = layer.backward(dy, cache)
    return y, dx, grads


@quick
@given(mask=any_masks(), kind=any_kind, more=st.integers(1, 4), seed=seeds)
def test_padding_behind_changes_no_bit(mask, kind, more, seed):
    rng = np.random.default_rng(seed)
    layer = built_bidirectional(kind, rng)
    B, T = mask.shape
    x = random_batch(rng, B, T)
    y, dx, grads = forward_and_backward(layer, x, mask)
    longer = np.concatenate([x, np.full((B, more, FEATURES), np.nan)], axis=1)
    mask_longer = np.concatenate([mask, np.zeros((B, more), dtype=bool)], axis=1)
    y_longer, dx_longer, grads_longer = forward_and_backward(layer, longer, mask_longer)
    assert np.array_equal(y, y_longer)
    assert np.array_equal(dx, dx_longer[:, :T]) and not dx_longer[:, T:].any()
    assert equal_grads(grads, grads_longer)


@quick
@given(mask=any_masks(min_time=1), kind=any_kind, seed=seeds)
def test_what_stands_under_a_mask_changes_no_bit(mask, kind, seed):
    rng = np.random.default_rng(seed)
    layer = built_bidirectional(kind, rng, return_sequences=True)
    x = random_batch(rng, *mask.shape)
    y, dx, grads = forward_and_backward(layer, x, mask)
    assert not y[~mask].any()
    for poison in (np.nan, np.inf, 1e300):
        dirty = np.where(mask[..., None], x, poison)
        y_dirty, dx_dirty, grads_dirty = forward_and_backward(layer, dirty, mask)
        assert np.array_equal(y, y_dirty)
        assert np.array_equal(dx, dx_dirty) and not dx_dirty[~mask].any()
        assert equal_grads(grads, grads_dirty)


@by_kind
def test_each_position_knows_all_steps(kind):
    """With both directions, a change anywhere reaches the outputs everywhere."""
    rng = np.random.default_rng(6)
    layer = built_bidirectional(kind, rng, return_sequences=True)
    x = random_batch(rng)
    y = layer(x)
    for t in range(TIME):
        other = x.copy()
        other[:, t] += 1
        ahead, back = np.split(layer(other) != y, 2, axis=-1)
        assert not ahead[:, :t].any() and ahead[:, t:].any(axis=-1).all()
        assert not back[:, t + 1 :].any() and back[:, : t + 1].any(axis=-1).all()


@by_kind
def test_a_layer_used_twice_before_backward(kind):
    rng = np.random.default_rng(7)
    layer = built_bidirectional(kind, rng, merge_mode="mul", return_sequences=True)
    first, second, mask = random_batch(rng), random_batch(rng, 3, 4), rng.random((5, 7)) < 0.6
    y_1, cache_1 = layer.forward(first, mask)
    y_2, cache_2 = layer.forward(second)
    dy_1, dy_2 = rng.normal(size=y_1.shape), rng.normal(size=y_2.shape)
    dx_2, grads_2 = layer.backward(dy_2, cache_2)
    for _ in range(2):
        dx_1, grads_1 = layer.backward(dy_1, cache_1)
        _, dx_alone, grads_alone = forward_and_backward(layer, first, mask, dy_1)
        assert np.array_equal(dx_1, dx_alone) and equal_grads(grads_1, grads_alone)
    _, dx_alone, grads_alone = forward_and_backward(layer, second, None, dy_2)
    assert np.array_equal(dx_2, dx_alone) and equal_grads(grads_2, grads_alone)


def test_two_threads_at_once():
    rng = np.random.default_rng(8)
    layer = built_bidirectional("lstm", rng, return_sequences=True)
    jobs = [(random_batch(rng), Mask(rng.random((BATCH, TIME)) < 0.6)) for _ in range(30)]
    alone = [forward_and_backward(layer, *job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: forward_and_backward(layer, *job), jobs))
    for (y, dx, grads), (y_2, dx_2, grads_2) in zip(alone, together, strict=True):
        assert np.array_equal(y, y_2) and np.array_equal(dx, dx_2) and equal_grads(grads, grads_2)


@by_kind
def test_stateful_carries_both_states(kind):
    rng = np.random.default_rng(9)
    layer = built_bidirectional(kind, rng, stateful=True, return_state=True)
    x = random_batch(rng)
    first = layer(x)
    second = layer(x)
    count = 2 * oracle.STATES[kind]
    expected, finals = oracle.run_bidirectional(kind, layer.params, x, None, first[-count:])
    np.testing.assert_allclose(second[0], expected, **CLOSE)
    for got, want in zip(second[1:], finals, strict=True):
        np.testing.assert_allclose(got, want, **CLOSE)
    layer.reset_state()
    assert np.array_equal(layer(x)[0], first[0])
    with pytest.raises(ValueError, match="a stateful layer needs batches of one size"):
        layer(x[:2])


@by_kind
@pytest.mark.parametrize("merge_mode", MERGE_MODES)
def test_float32_and_c_order(kind, merge_mode):
    rng = np.random.default_rng(10)
    for sequences in FLAGS:
        layer = built_bidirectional(
            kind,
            rng,
            dtype="float32",
            merge_mode=merge_mode,
            return_sequences=sequences,
            return_state=True,
            dropout=0.3,
            recurrent_dropout=0.3,
        )
        x, mask = random_batch(rng).astype("float32"), masks_of_every_kind(rng)["holes"]
        out, cache = layer.forward(x, mask, training=True)
        dx, grads = layer.backward(out, cache)
        for array in (*out, dx, *grads.values()):
            assert array.dtype == np.float32
            assert array.flags.c_contiguous


@pytest.mark.parametrize("merge_mode", MERGE_MODES)
@pytest.mark.parametrize("sequences", FLAGS)
def test_output_shape_is_the_one_announced(merge_mode, sequences):
    layer = built_bidirectional(
        "gru", np.random.default_rng(11), merge_mode=merge_mode, return_sequences=sequences
    )
    x = np.zeros((BATCH, TIME, FEATURES))
    y, shape = layer(x), layer.compute_output_shape(x.shape)
    assert (tuple(a.shape for a in y) if merge_mode is None else y.shape) == shape


def test_the_mask_handed_on():
    mask = Mask(np.array([[True, True, False], [True, False, False]]))
    assert Bidirectional(LSTM(3)).compute_mask(None, mask) is None
    assert Bidirectional(LSTM(3, return_sequences=True)).compute_mask(None, mask) is mask


@pytest.mark.parametrize("merge_mode", MERGE_MODES)
def test_a_time_axis_of_length_zero(merge_mode):
    for sequences in FLAGS:
        layer = built_bidirectional(
            "lstm", np.random.default_rng(12), merge_mode=merge_mode, return_sequences=sequences
        )
        y, cache = layer.forward(np.zeros((BATCH, 0, FEATURES)))
        dx, grads = layer.backward(y, cache)
        assert dx.shape == (BATCH, 0, FEATURES)
        assert not any(value.any() for value in grads.values())


# --- weights and configuration --------------------------------------------------------------------


def test_numbers_of_weights_are_those_of_keras():
    layer = Bidirectional(LSTM(64))
    layer.build((None, None, 128))
    assert layer.count_params() == 98816
    small = Bidirectional(SimpleRNN(16), merge_mode="sum")
    small.build((None, None, 64))
    assert small.count_params() == 2 * 1296


def test_the_order_of_the_weights():
    layer = Bidirectional(GRU(3))
    layer.build((None, None, 2))
    assert list(layer.params) == [
        "forward_kernel",
        "forward_recurrent_kernel",
        "forward_bias",
        "backward_kernel",
        "backward_recurrent_kernel",
        "backward_bias",
    ]


def test_directions_start_differently_with_and_without_a_seed():
    def seeded():
        layer = Bidirectional(
            LSTM(
                UNITS,
                kernel_initializer=GlorotUniform(seed=1),
                recurrent_initializer=Orthogonal(seed=1),
            )
        )
        layer.build((None, None, FEATURES))
        return layer.params

    one, two = seeded(), seeded()
    for key in ("kernel", "recurrent_kernel"):
        assert not np.array_equal(one[f"forward_{key}"], one[f"backward_{key}"])
        assert np.array_equal(one[f"forward_{key}"], two[f"forward_{key}"])
        assert np.array_equal(one[f"backward_{key}"], two[f"backward_{key}"])
    plain = Bidirectional(LSTM(UNITS))
    plain.build((None, None, FEATURES))
    assert not np.array_equal(plain.params["forward_kernel"], plain.params["backward_kernel"])


def test_the_pattern_keeps_its_own_weights():
    pattern = built("lstm", np.random.default_rng(13), dtype="float32")
    before = [value.copy() for value in pattern.params.values()]
    layer = Bidirectional(pattern)
    assert not layer.built
    layer(np.zeros((BATCH, TIME, FEATURES), dtype="float32"))
    for one, two in zip(before, pattern.params.values(), strict=True):
        assert np.array_equal(one, two)
    assert not np.array_equal(layer.params["forward_kernel"], pattern.params["kernel"])
    assert pattern.go_backwards is False


def test_bias_options_reach_both_directions():
    layer = Bidirectional(LSTM(UNITS, bias_initializer=Constant(0.25)))
    layer.build((None, None, FEATURES))
    for way in ("forward", "backward"):
        blocks = layer.params[f"{way}_bias"].reshape(4, UNITS)
        assert (blocks[1] == 1).all() and (blocks[[0, 2, 3]] == 0.25).all()
    without = Bidirectional(GRU(UNITS, use_bias=False), merge_mode="ave")
    without.build((None, None, FEATURES))
    assert len(without.params) == 4


def test_names():
    assert Bidirectional(LSTM(3)).name == "bidirectional"
    assert Bidirectional(LSTM(3), name="both").name == "both"
    named = Bidirectional(LSTM(3, name="reader"))
    assert named.name == "bidirectional_reader"
    assert named.forward_layer.name == "forward_reader"
    assert named.backward_layer.name == "backward_reader"


# --- errors ---------------------------------------------------------------------------------------


def test_bad_arguments():
    with pytest.raises(
        TypeError, match="layer: expected a recurrent layer, received <Dense dense>"
    ):
        Bidirectional(Dense(3))
    with pytest.raises(
        ValueError, match="give the forward layer; Bidirectional makes the backward"
    ):
        Bidirectional(LSTM(3, go_backwards=True))
    with pytest.raises(ValueError, match=r"merge_mode: expected one of \('concat'.*received 'cat'"):
        Bidirectional(LSTM(3), merge_mode="cat")


def test_input_mask_and_states_of_a_wrong_shape():
    layer = built_bidirectional("lstm", np.random.default_rng(14))
    x, h = np.zeros((5, 7, FEATURES)), np.zeros((5, UNITS))
    with pytest.raises(
        ValueError, match=r"expected input of shape \(batch, time, 2\).*\(5, 7, 3\)"
    ):
        layer(np.zeros((5, 7, 3)))
    with pytest.raises(ValueError, match=r"expected input of shape \(batch, time, 2\).*\(5, 7\)"):
        layer(np.zeros((5, 7)))
    with pytest.raises(ValueError, match=r"the mask has shape \(5, 8\).* is \(5, 7\)"):
        layer(x, mask=np.ones((5, 8), dtype=bool))
    with pytest.raises(ValueError, match="mask: expected booleans"):
        layer(x, mask=np.ones((5, 7)))
    with pytest.raises(
        ValueError,
        match=r"expected initial_state of 4 arrays \(forward, then backward\), received 2",
    ):
        layer(x, initial_state=(h, h))
    with pytest.raises(ValueError, match=r"backward_lstm: expected initial_state \(h, c\)"):
        layer(x, initial_state=(h, h, h, h[:3]))


def test_a_layer_used_before_it_was_built():
    with pytest.raises(ValueError, match="bidirectional: this layer has no weights yet"):
        Bidirectional(LSTM(3)).forward(np.zeros((5, 7, 2)))
