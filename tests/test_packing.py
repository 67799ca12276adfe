"""The plan of a packed batch, against a plan made by hand, one position at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from recurrent_cases import any_masks, quick

from minirnn.backend import set_random_seed
from minirnn.layers import GRU, LSTM, Bidirectional, Dense, Embedding, SimpleRNN
from minirnn.models import Sequential
from minirnn.packing import Mask, Packed, Packing, full_mask


def plan(mask):
    """Each row's real positions, and the rows, longest first."""
    real = [[t for t in range(len(row)) if row[t]] for row in mask]
    order = sorted(range(len(mask)), key=lambda b: -len(real[b]))  # sorted() is stable
    return real, order


def packed_steps(real, order):
    """(row, position) of each packed step: all first steps, then all second steps, ..."""
    longest = max(map(len, real), default=0)
    return [(b, real[b][k]) for k in range(longest) for b in order if k < len(real[b])]


@quick
@given(any_masks())
def test_the_packed_order_is_time_major_and_longest_first(mask):
    for reverse in (False, True):
        packing = Packing(mask, reverse)
        real, order = plan(mask)
        steps = packed_steps(real, order)
        T = mask.shape[1]
        assert packing.shape == mask.shape
        assert len(packing) == mask.sum() == len(steps)
        assert packing.order.tolist() == order
        assert packing.gather.tolist() == [b * T + t for b, t in steps]
        assert packing.rows.tolist() == [b for b, _ in steps]
        assert packing.ranks.tolist() == [order.index(b) for b, _ in steps]
        longest = max(map(len, real), default=0)
        assert packing.batch_sizes == [sum(len(r) > k for r in real) for k in range(longest)]
        x = np.random.default_rng(5).normal(size=(*mask.shape, 3))
        packed = packing.pack(x)
        assert np.array_equal(packed, [x[b, t] for b, t in steps] or np.empty((0, 3)))
        assert np.array_equal(packing.unpack(packed), x * mask[..., None])
        assert Packed(packed, packing).shape == x.shape


def numbered(count, width=2):
    """Rows (count, width) that hold their own number in each column."""
    return np.broadcast_to(np.arange(count)[:, None], (count, width)).copy()


def numbers_in(view):
    """What a view of numbered rows shows; every column shows the same."""
    numbers = view[:, 0]
    assert (view == numbers[:, None]).all()
    return numbers.tolist()


@quick
@given(any_masks())
def test_stretches_are_the_batch_sizes(mask):
    for reverse in (False, True):
        packing = Packing(mask, reverse)
        sizes, k = packing.batch_sizes, 0
        offsets = [sum(sizes[:j]) for j in range(len(sizes))]
        for steps, n, block in packing.stretches:
            assert steps > 0
            assert sizes[k : k + steps] == [n] * steps
            assert block == offsets[k]
            k += steps
        assert k == len(sizes)
        # No stretch could be joined with the next one.
        different = [n for _, n, _ in packing.stretches]
        assert different == sorted(set(sizes), reverse=True)
        # The plan tells the same in the order walked.
        walked = [
            (block, n)
            for k, n, first, move in packing.plan
            for block in range(first, first + k * move, move)
        ]
        blocks = list(zip(offsets, sizes, strict=True))
        assert walked == (blocks[::-1] if reverse else blocks)


@quick
@given(any_masks())
def test_steps_are_slices_of_the_history(mask):
    B = len(mask)
    for reverse in (False, True):
        packing = Packing(mask, reverse)
        real, order = plan(mask)
        # A name for each row of the history: the row of the batch, and how many steps it took.
        history = [(b, 0) for b in order]
        for k in range(len(packing.batch_sizes)):
            taken = [(b, len(real[b]) - k if reverse else k + 1) for b in order]
            history += [(b, steps) for b, steps in taken if k < len(real[b])]
        assert len(history) == B + len(packing)
        states = numbered(len(history))
        arrays = [numbered(len(packing))], [states], [numbered(B)]
        covered, sizes = [], packing.batch_sizes[:: -1 if reverse else 1]
        for n, views in zip(sizes, packing.walk(*arrays), strict=True):
            block, before, after, rows = map(numbers_in, views)
            taken_before, taken_after = ([history[row] for row in rows] for rows in (before, after))
            assert taken_before == [(b, steps - 1) for b, steps in taken_after]
            assert len(taken_after) == len(block) == n
            assert after == [B + step for step in block]
            assert rows == list(range(len(block)))
            assert [order[row] for row in rows] == [b for b, _ in taken_after]
            covered += block[::-1] if reverse else block
        assert covered == list(range(len(packing)))[:: -1 if reverse else 1]
        for step, row in enumerate(packing.previous):
            b, taken = history[B + step]
            assert history[row] == (b, taken - 1)
        assert np.array_equal(packing.states_before(states), states[packing.previous])
        assert [history[row] for row in packing.final] == [(b, len(r)) for b, r in enumerate(real)]


def place(view):
    """Where in memory a view lies, and how."""
    return view.__array_interface__["data"], view.shape, view.strides


@quick
@given(any_masks())
def test_a_walk_back_is_the_walk_in_reverse_order(mask):
    B = len(mask)
    for reverse in (False, True):
        packing = Packing(mask, reverse)
        N = len(packing)
        steps = [numbered(N), None, numbered(N, width=3)]
        rows = [None, numbered(B), numbered(B, width=1)]
        ahead = list(packing.walk(steps, (), rows))
        back = list(packing.walk_back(steps, rows))
        assert len(ahead) == len(back) == len(packing.batch_sizes)
        for there, home in zip(ahead, reversed(back), strict=True):
            assert len(there) == len(home) == 6
            for one, other in zip(there, home, strict=True):
                assert (one is None) == (other is None)
                assert one is None or place(one) == place(other)
        sizes = packing.batch_sizes if reverse else packing.batch_sizes[::-1]
        stop = 0 if reverse else N
        for n, views in zip(sizes, back, strict=True):
            start = stop if reverse else stop - n
            block, stop = list(range(start, start + n)), stop + (n if reverse else -n)
            assert views[1] is None and views[3] is None
            assert [view.shape for view in views if view is not None] == [
                (n, width) for width in (2, 3, 2, 1)
            ]
            assert [numbers_in(views[k]) for k in (0, 2)] == [block] * 2
            assert [numbers_in(views[k]) for k in (4, 5)] == [list(range(n))] * 2


@quick
@given(any_masks())
def test_a_walk_gives_views_in_the_order_of_its_arguments(mask):
    """What is written into them stands in the arrays, columns of a wider array included."""
    B, packing = len(mask), Packing(mask)
    N = len(packing)
    wide = np.zeros((N, 5))
    histories = [np.zeros((B + N, 2)), np.zeros((B + N, 3))]
    row_sums = np.zeros((B, 1))
    walk = packing.walk([wide[:, :2], None, wide[:, 2:]], histories, [row_sums, None])
    block = 0
    for k, views in enumerate(walk):
        n = packing.batch_sizes[k]
        left, nothing, right, before, before_2, after, after_2, of_rows, nothing_2 = views
        assert nothing is None and nothing_2 is None
        shapes = [view.shape for view in views if view is not None]
        assert shapes == [(n, width) for width in (2, 3, 2, 3, 2, 3, 1)]
        assert (before == k).all() and (before_2 == 10 * k).all()
        left[...], right[...] = k, -k
        after[...], after_2[...] = k + 1, 10 * (k + 1)
        of_rows += 1
        assert (wide[block : block + n] == [k, k, -k, -k, -k]).all()
        block += n
    assert block == N
    lengths = np.sort(mask.sum(axis=1))[::-1]
    assert (row_sums == lengths[:, None]).all()
    for states, scale in zip(histories, (1, 10), strict=True):
        assert not states[:B].any()
        taken = np.repeat(np.arange(len(packing.batch_sizes)), packing.batch_sizes) + 1
        assert (states[B:] == scale * taken[:, None]).all()


def test_a_walk_over_nothing_but_none_ends():
    packing = Packing(np.array([[1, 1, 1, 0], [1, 1, 1, 1]], bool))
    assert list(packing.walk([None, None])) == [(None, None)] * 4
    assert list(packing.walk_back([None], [None])) == [(None, None)] * 4
    assert list(packing.walk([], (), [None])) == [(None,)] * 4


@quick
@given(any_masks())
def test_each_position_shows_the_last_state_reached(mask):
    B, T = mask.shape
    for reverse in (False, True):
        packing = Packing(mask, reverse)
        real, order = plan(mask)
        steps = packed_steps(real, order)
        for b in range(B):
            shown = order.index(b)  # the initial state
            for t in range(T - 1, -1, -1) if reverse else range(T):
                if mask[b, t]:
                    shown = B + steps.index((b, t))
                assert packing.source[b, t] == shown


@quick
@given(any_masks())
def test_runs_cover_every_position_once(mask):
    for reverse in (False, True):
        packing = Packing(mask, reverse)
        flat = packing.source.reshape(-1)
        ends = [*packing.runs.tolist(), flat.size][1:]
        rebuilt = []
        for start, end, source in zip(packing.runs, ends, packing.run_sources, strict=True):
            assert end > start
            rebuilt += [source] * (end - start)
        assert rebuilt == flat.tolist()
        assert len(set(packing.run_sources.tolist())) == len(packing.run_sources)
        assert packing.repeats == (not mask.all())


def test_the_example_of_the_module():
    mask = np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=bool)
    packing = Packing(mask)
    letters = np.array(list("abcd.ef...ghijk"))
    assert "".join(letters[packing.gather]) == "gaehbficjdk"
    assert packing.batch_sizes == [3, 3, 2, 2, 1]
    assert "".join(letters[Packing(mask, reverse=True).gather]) == "gaehbficjdk"
    states = numbered(3 + 11)
    back = packing.reversed
    for plan_of in (packing, back):
        assert np.array_equal(plan_of.states_before(states), states[plan_of.previous])
    assert back.previous.tolist() == [6, 7, 8, 9, 10, 2, 11, 12, 13, 1, 0]


def test_rows_of_one_length_keep_their_order():
    assert Packing(np.ones((7, 3), dtype=bool)).order.tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_both_directions_share_their_layout():
    mask = Mask(np.random.default_rng(3).random((11, 13)) < 0.5)
    ahead, back = mask.packing(), mask.packing(reverse=True)
    assert ahead.layout is back.layout
    assert (ahead.reverse, back.reverse) == (False, True)
    assert ahead.reversed is back and not back.reversed.reverse


def test_a_forward_of_ones_own_is_not_taken_to_know_packed_steps():
    class Louder(Embedding):
        def forward(self, x, mask=None, training=False):
            y, cache = super().forward(x, mask, training)
            return 2 * y, cache

    class Shifted(LSTM):
        def forward(self, x, mask=None, training=False, initial_state=None):
            return super().forward(x + 1, mask, training, initial_state)

    ids = np.array([[3, 1, 0, 0], [2, 2, 1, 3], [0, 0, 0, 0]])
    for layers in (
        [Louder(5, 3, mask_zero=True), LSTM(2, return_sequences=True), LSTM(2)],
        [Embedding(5, 3, mask_zero=True), Shifted(2, return_sequences=True), LSTM(2)],
        [Louder(5, 3), Shifted(2)],
    ):
        x, mask = ids, None
        model = Sequential(layers)
        got = model.predict(ids)
        for layer in layers:
            y = layer(x, mask=mask)
            x, mask = y, layer.compute_mask(x, mask)
        assert np.array_equal(got, x)


@pytest.mark.parametrize("mask_zero", [False, True])
@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("zero_output_for_mask", [False, True])
def test_packed_hand_over_changes_nothing(mask_zero, go_backwards, zero_output_for_mask):
    """A model, whose layers hand over real steps only, is its layers called one by one."""
    set_random_seed(3)
    options = {"return_sequences": True, "zero_output_for_mask": zero_output_for_mask}
    layers = [
        Embedding(9, 4, mask_zero=mask_zero),
        SimpleRNN(3, go_backwards=go_backwards, **options),
        Bidirectional(LSTM(2, return_sequences=True)),
        GRU(3, dropout=0.0, **options),
        Bidirectional(GRU(2), merge_mode="mul"),
        Dense(2),
    ]
    model = Sequential(layers)
    model.build((None, None))
    model = model.astype("float64")
    ids = np.array([[3, 1, 0, 0, 8], [2, 2, 1, 3, 0], [0, 0, 0, 0, 0], [0, 5, 0, 7, 7]])
    y, cache = model.forward(ids)
    x, mask, caches = ids, None, []
    for layer in model.layers:
        out, one = layer.forward(x, mask=mask)
        x, mask = out, layer.compute_mask(x, mask)
        caches.append(one)
    np.testing.assert_allclose(y, x, rtol=1e-12)
    dy = np.random.default_rng(4).normal(size=y.shape)
    _, grads = model.backward(dy, cache)
    for layer, one in zip(reversed(model.layers), reversed(caches), strict=True):
        dy, wanted = layer.backward(dy, one)
        for key, want in wanted.items():
            got = grads[f"{layer.name}_{key}"]
            if key == "embeddings":
                got, want = got.dense((9, 4)), want.dense((9, 4))
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 0), (0, 4), (0, 0)])
def test_nothing_at_all(shape):
    for reverse in (False, True):
        packing = Packing(np.zeros(shape, dtype=bool), reverse)
        assert len(packing) == 0
        assert packing.batch_sizes == [] == packing.stretches
        arrays = [np.zeros((0, 2)), None], [np.zeros((shape[0], 2))], [np.zeros((shape[0], 2))]
        assert list(packing.walk(*arrays)) == []
        assert list(packing.walk_back(arrays[0], arrays[2])) == []
        assert packing.source.shape == shape
        assert packing.final.tolist() == list(range(shape[0]))


# --- Mask -----------------------------------------------------------------------------------------


def test_a_mask_computes_each_packing_once():
    mask = Mask([[True, False], [True, True]])
    assert mask.packing() is mask.packing()
    assert mask.packing(reverse=True) is mask.packing(reverse=True)
    assert mask.packing() is not mask.packing(reverse=True)
    assert mask.shape == (2, 2)


def test_mask_of():
    mask = Mask(np.ones((2, 3), dtype=bool))
    assert Mask.of(mask) is mask
    assert Mask.of(None) is None
    assert isinstance(Mask.of([[True]]), Mask)


def test_a_reversed_mask():
    array = np.array([[True, False, False], [True, True, False]])
    assert Mask(array).reversed().array.tolist() == [[False, False, True], [False, True, True]]


def test_full_mask_is_all_real_and_made_once():
    assert full_mask(2, 3).array.tolist() == [[True] * 3] * 2
    assert full_mask(2, 3) is full_mask(2, 3)
    assert full_mask(3, 2).shape == (3, 2)


@pytest.mark.parametrize(
    ("array", "came"),
    [
        (np.ones((2, 3)), r"float64 of shape \(2, 3\)"),
        (np.ones((2, 3), dtype="int64"), r"int64 of shape \(2, 3\)"),
        (np.ones(3, dtype=bool), r"bool of shape \(3,\)"),
        (np.ones((2, 3, 1), dtype=bool), r"bool of shape \(2, 3, 1\)"),
    ],
)
def test_a_mask_must_be_booleans_of_two_axes(array, came):
    with pytest.raises(ValueError, match=rf"mask: expected booleans of shape .* received {came}"):
        Mask(array)


def test_a_mask_is_seen_as_an_array():
    array = np.array([[True, False, True], [False, False, True]])
    mask = Mask(array)
    assert np.array_equal(np.asarray(mask), array) and np.asarray(mask).dtype == bool
    assert np.asarray(mask, dtype="float32").tolist() == [[1, 0, 1], [0, 0, 1]]
    copied = np.array(mask)
    copied[0, 0] = False
    assert mask.array[0, 0]
    assert repr(mask) == f"Mask({array!r})"
