"""The packed time loop against a cell stepped one position at a time over the padded batch."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from recurrent_cases import CLOSE, KINDS, any_masks, built, close_grads, quick, random_states, seeds

from minirnn.backend import xp
from minirnn.packing import Packing
from minirnn.timeloop import run, run_backward


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("go_backwards", [False, True])
@settings(parent=quick, max_examples=10)
@given(mask=any_masks(min_time=1), seed=seeds)
def test_a_layer_is_its_cell_stepped_over_the_padded_batch(mask, kind, go_backwards, seed):
    rng = np.random.default_rng(seed)
    options = {"return_sequences": True, "return_state": True, "go_backwards": go_backwards}
    layer = built(kind, rng, **options)
    B, T = mask.shape
    x = rng.normal(size=(B, T, 2))
    count = oracle.STATES[kind]
    initial = random_states(rng, count, batch=B)
    douts = rng.normal(size=(B, T, 3))
    dfinal = random_states(rng, count, batch=B)

    (y, *states), cache = layer.forward(x, mask, initial_state=initial)
    (dx, dinitial), grads = layer.backward((douts, *dfinal), cache)

    outputs, final, caches = oracle.stepped_forward(layer.cell, x, mask, initial, go_backwards)
    np.testing.assert_allclose(y, outputs, **CLOSE)
    for got, want in zip(states, final, strict=True):
        np.testing.assert_allclose(got, want, **CLOSE)
    expected = oracle.stepped_backward(layer.cell, x, mask, caches, douts, dfinal, go_backwards)
    np.testing.assert_allclose(dx, expected[0], **CLOSE)
    for got, want in zip(dinitial, expected[1], strict=True):
        np.testing.assert_allclose(got, want, **CLOSE)
    close_grads(grads, expected[2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("go_backwards", [False, True])
@settings(parent=quick, max_examples=10)
@given(mask=any_masks(min_time=1), seed=seeds)
def test_the_final_output_is_that_of_the_stepped_cell(mask, kind, go_backwards, seed):
    rng = np.random.default_rng(seed)
    layer = built(kind, rng, go_backwards=go_backwards)
    B, T = mask.shape
    x = rng.normal(size=(B, T, 2))
    zeros = layer.cell.initial_state(B, "float64")
    y, cache = layer.forward(x, mask)
    dy = rng.normal(size=y.shape)
    dx, grads = layer.backward(dy, cache)

    _, final, caches = oracle.stepped_forward(layer.cell, x, mask, zeros, go_backwards)
    np.testing.assert_allclose(y, final[0], **CLOSE)
    dfinal = (dy, *zeros[1:])
    none = np.zeros((B, T, 3))
    expected = oracle.stepped_backward(layer.cell, x, mask, caches, none, dfinal, go_backwards)
    np.testing.assert_allclose(dx, expected[0], **CLOSE)
    close_grads(grads, expected[2])


def packed_case(kind, seed=11):
    rng = np.random.default_rng(seed)
    mask = rng.random((5, 7)) < 0.6
    mask[2] = False
    packing = Packing(mask)
    cell = built(kind, rng).cell
    state = random_states(rng, len(cell.state_names))
    return rng, packing, cell, rng.normal(size=(len(packing), 2)), state


@pytest.mark.parametrize("kind", KINDS)
def test_the_history_starts_with_the_initial_state_of_every_row(kind):
    _, packing, cell, x, state = packed_case(kind)
    history, cache = run(cell, x, packing, state)
    for states, first in zip(history, state, strict=True):
        assert states.shape == (5 + len(packing), 3)
        assert np.array_equal(states[:5], first[packing.order])
    assert cache.packing is packing
    # Each further row of it is one step of the cell from the row before.
    before = tuple(states[packing.previous] for states in history)
    for states, new in zip(history, cell(x, before), strict=True):
        np.testing.assert_allclose(states[5:], new, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_the_initial_states_gradient_comes_in_the_order_of_the_batch(kind):
    """Rows without a real step hand their gradient through; the others are told apart by size."""
    rng, packing, cell, x, state = packed_case(kind)
    history, cache = run(cell, x, packing, state)
    dhistory = tuple(xp.zeros_like(states) for states in history)
    reached = rng.normal(size=(5, 3))
    dhistory[0][:5] = reached[packing.order]
    _, dinitial, grads = run_backward(cell, dhistory, cache)
    np.testing.assert_array_equal(dinitial[0], reached)
    assert not any(value.any() for value in grads.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dropped", [False, True])
def test_two_directions_in_one_loop_are_both_loops(kind, dropped):
    rng, packing, cell, x, state = packed_case(kind)
    other = built(kind, rng).cell
    two = rng.normal(size=x.shape)
    state_two = random_states(rng, len(state))
    drop = (rng.random((2, 5, 3)) < 0.5) * 2.0 if dropped else None
    stacked = tuple(np.stack(pair) for pair in zip(state, state_two, strict=True))
    history, cache = run(cell.stack(other), np.stack([x, two]), packing, stacked, drop)
    dhistory = tuple(rng.normal(size=states.shape) for states in history)
    copies = tuple(d.copy() for d in dhistory)
    dx, dinitial, grads = run_backward(cell.stack(other), dhistory, cache)
    for way, (one, x_one, first) in enumerate([(cell, x, state), (other, two, state_two)]):
        drop_one = None if drop is None else drop[way]
        history_one, cache_one = run(one, x_one, packing, first, drop_one)
        for states, alone in zip(history, history_one, strict=True):
            np.testing.assert_allclose(states[way], alone, **CLOSE)
        dhistory_one = tuple(d[way].copy() for d in copies)
        dx_one, dinitial_one, grads_one = run_backward(one, dhistory_one, cache_one)
        np.testing.assert_allclose(dx[way], dx_one, **CLOSE)
        for both, alone in zip(dinitial, dinitial_one, strict=True):
            np.testing.assert_allclose(both[way], alone, **CLOSE)
        close_grads({key: value[way] for key, value in grads.items()}, grads_one)


@pytest.mark.parametrize("kind", KINDS)
def test_recurrent_dropout_by_differences(kind):
    """Backward under dropout of the state, for the input, the states and every weight."""
    rng, packing, cell, x, state = packed_case(kind)
    drop = (rng.random((5, 3)) < 0.5) * 2.0
    history, cache = run(cell, x, packing, state, drop)
    upstream = tuple(rng.normal(size=states.shape) for states in history)
    dx, dinitial, grads = run_backward(cell, tuple(d.copy() for d in upstream), cache)

    def value():
        states, _ = run(cell, x, packing, state, drop)
        return sum((d * s).sum() for d, s in zip(upstream, states, strict=True))

    arrays = [x, *state, *cell.params.values()]
    found = [dx, *dinitial, *(grads[key] for key in cell.params)]
    for array, gradient in zip(arrays, found, strict=True):
        direction = rng.normal(size=array.shape)
        kept, values = array.copy(), []
        for sign in (1, -1):
            array[...] = kept + sign * 1e-6 * direction
            values.append(value())
        array[...] = kept
        slope = (values[0] - values[1]) / 2e-6
        np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_backward_leaves_the_cache_as_it_was(kind):
    rng, packing, cell, x, state = packed_case(kind)
    history, cache = run(cell, x, packing, state)
    before = [np.copy(array) for array in (*cache.history, *cache.saved, cache.x)]
    upstream = tuple(rng.normal(size=states.shape) for states in history)
    run_backward(cell, tuple(d.copy() for d in upstream), cache)
    for array, copy in zip((*cache.history, *cache.saved, cache.x), before, strict=True):
        assert np.array_equal(array, copy)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_of_no_steps(kind):
    _, _, cell, _, state = packed_case(kind)
    packing = Packing(np.zeros((5, 7), dtype=bool))
    history, cache = run(cell, np.zeros((0, 2)), packing, state)
    assert all(np.array_equal(h, s) for h, s in zip(history, state, strict=True))
    dhistory = tuple(np.ones_like(h) for h in history)
    dx, dinitial, grads = run_backward(cell, dhistory, cache)
    assert dx.shape == (0, 2)
    assert all((d == 1).all() for d in dinitial)
    assert all(grads[key].shape == cell.params[key].shape for key in cell.params)
    assert not any(value.any() for value in grads.values())
