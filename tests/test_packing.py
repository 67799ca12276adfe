"""The plan of a packed batch, against a plan made by hand, one position at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from recurrent_cases import any_masks, quick

from minirnn.packing import Mask, Packing, full_mask


def plan(mask, reverse):
    """Each row's real positions in the order walked, and the rows, longest first."""
    walked = []
    for row in mask:
        real = [t for t in range(len(row)) if row[t]]
        walked.append(real[::-1] if reverse else real)
    order = sorted(range(len(mask)), key=lambda b: -len(walked[b]))  # sorted() is stable
    return walked, order


def packed_steps(walked, order):
    """(row, position) of each packed step: all first steps, then all second steps, ..."""
    longest = max(map(len, walked), default=0)
    return [(b, walked[b][k]) for k in range(longest) for b in order if k < len(walked[b])]


@quick
@given(any_masks())
def test_the_packed_order_is_time_major_and_longest_first(mask):
    for reverse in (False, True):
        packing = Packing(mask, reverse)
        walked, order = plan(mask, reverse)
        steps = packed_steps(walked, order)
        T = mask.shape[1]
        assert packing.shape == mask.shape
        assert len(packing) == mask.sum() == len(steps)
        assert packing.order.tolist() == order
        assert packing.gather.tolist() == [b * T + t for b, t in steps]
        assert packing.rows.tolist() == [b for b, _ in steps]
        assert packing.ranks.tolist() == [order.index(b) for b, _ in steps]
        longest = max(map(len, walked), default=0)
        assert packing.batch_sizes == [sum(len(w) > k for w in walked) for k in range(longest)]


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
    B = len(mask)
    for reverse in (False, True):
        packing = Packing(mask, reverse)
        sizes, k = packing.batch_sizes, 0
        offsets = [sum(sizes[:j]) for j in range(len(sizes))]
        for steps, n, first, block in packing.stretches:
            assert steps > 0
            assert sizes[k : k + steps] == [n] * steps
            assert block == offsets[k]
            assert first == (B + offsets[k - 1] if k else 0)
            k += steps
        assert k == len(sizes)
        # No stretch could be joined with the next one.
        different = [n for _, n, _, _ in packing.stretches]
        assert different == sorted(set(sizes), reverse=True)


@quick
@given(any_masks())
def test_steps_are_slices_of_the_history(mask):
    B = len(mask)
    for reverse in (False, True):
        packing = Packing(mask, reverse)
        walked, order = plan(mask, reverse)
        # A name for each row of the history: the row of the batch, and how many steps it took.
        history = [(b, 0) for b in order]
        for k in range(len(packing.batch_sizes)):
            history += [(b, k + 1) for b in order if k < len(walked[b])]
        assert len(history) == B + len(packing)
        arrays = [numbered(len(packing))], [numbered(len(history))], [numbered(B)]
        covered = []
        for k, views in enumerate(packing.walk(*arrays)):
            block, before, after, rows = map(numbers_in, views)
            taken_before, taken_after = ([history[row] for row in rows] for rows in (before, after))
            assert [b for b, _ in taken_before] == [b for b, _ in taken_after]
            assert all(steps == k for _, steps in taken_before)
            assert all(steps == k + 1 for _, steps in taken_after)
            assert len(taken_after) == len(block) == packing.batch_sizes[k]
            assert after == [B + step for step in block]
            assert rows == list(range(len(block)))
            assert [order[row] for row in rows] == [b for b, _ in taken_after]
            covered += block
        assert covered == list(range(len(packing)))
        for step, row in enumerate(packing.previous):
            b, taken = history[B + step]
            assert history[row] == (b, taken - 1)
        assert [history[row] for row in packing.final] == [
            (b, len(w)) for b, w in enumerate(walked)
        ]


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
        stop = N
        for n, views in zip(reversed(packing.batch_sizes), back, strict=True):
            block, stop = list(range(stop - n, stop)), stop - n
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
        walked, order = plan(mask, reverse)
        steps = packed_steps(walked, order)
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
    assert "".join(letters[Packing(mask, reverse=True).gather]) == "kdfjceibhag"


def test_rows_of_one_length_keep_their_order():
    assert Packing(np.ones((7, 3), dtype=bool)).order.tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_both_directions_share_order_and_sizes():
    mask = np.random.default_rng(3).random((11, 13)) < 0.5
    ahead, back = Packing(mask), Packing(mask, reverse=True)
    assert ahead.order.tolist() == back.order.tolist()
    assert ahead.batch_sizes == back.batch_sizes
    assert ahead.previous.tolist() == back.previous.tolist()
    assert ahead.final.tolist() == back.final.tolist()


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
