"""The packed time loop against a cell stepped one position at a time over the padded batch."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from recurrent_cases import (
    CLOSE,
    KINDS,
    any_masks,
    built,
    close_grads,
    equal_grads,
    quick,
    random_states,
    seeds,
)

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
@pytest.mark.parametrize("return_state", [False, True])
@settings(parent=quick, max_examples=10)
@given(mask=any_masks(min_time=1), seed=seeds)
def test_the_final_output_is_that_of_the_stepped_cell(mask, kind, go_backwards, return_state, seed):
    rng = np.random.default_rng(seed)
    layer = built(kind, rng, go_backwards=go_backwards, return_state=return_state)
    B, T = mask.shape
    x = rng.normal(size=(B, T, 2))
    zeros = layer.cell.initial_state(B, "float64")
    out, cache = layer.forward(x, mask)
    y, *states = out if return_state else (out,)
    dy, dstates = rng.normal(size=y.shape), random_states(rng, len(zeros), batch=B)
    dx, grads = layer.backward((dy, *dstates) if return_state else dy, cache)

    _, final, caches = oracle.stepped_forward(layer.cell, x, mask, zeros, go_backwards)
    np.testing.assert_allclose(y, final[0], **CLOSE)
    for got, want in zip(states, final, strict=return_state):
        np.testing.assert_allclose(got, want, **CLOSE)
    # The output is the last state of h as well.
    dfinal = (dy + dstates[0], *dstates[1:]) if return_state else (dy, *zeros[1:])
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
    cache = run(cell, x, packing, state)
    history = cache.history
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
    cache = run(cell, x, packing, state)
    history = cache.history
    dhistory = tuple(xp.zeros_like(states) for states in history)
    reached = rng.normal(size=(5, 3))
    dhistory[0][:5] = reached[packing.order]
    nothing = (None,) * len(history)
    _, dinitial, grads = run_backward(cell, nothing, dhistory, cache)
    np.testing.assert_array_equal(dinitial[0], reached)
    assert not any(value.any() for value in grads.values())
    # Row 2 takes no step: its last state is its first one.
    dfinal = tuple(np.zeros((5, 3)) for _ in history)
    for d in dfinal:
        d[2] = rng.normal(size=3)
    _, dinitial, grads = run_backward(cell, dfinal, dhistory, cache)
    for d, last, other in zip(dinitial, dfinal, (reached, 0), strict=False):
        np.testing.assert_array_equal(d, last + other)
    assert not any(value.any() for value in grads.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ["dfinal", "dhistory"])
def test_no_gradient_is_a_gradient_of_zeros(kind, which):
    """Of each state, and of all states at once."""
    rng, packing, cell, x, state = packed_case(kind)
    cache = run(cell, x, packing, state)
    history = cache.history
    dfinal = [rng.normal(size=(5, 3)) for _ in history]
    dhistory = [rng.normal(size=states.shape) for states in history]
    for absent in [{0}, {1}, {0, 1}][: 2 * len(history) - 1]:
        results = []
        for nothing in (lambda d: None, np.zeros_like):
            arguments = {"dfinal": list(dfinal), "dhistory": list(dhistory)}
            for k in absent:
                arguments[which][k] = nothing(arguments[which][k])
            results.append(run_backward(cell, cache=cache, **arguments))
        (dx, dinitial, grads), (dx_zeros, dinitial_zeros, grads_zeros) = results
        assert dx.any()
        np.testing.assert_array_equal(dx, dx_zeros)
        for d, d_zeros in zip(dinitial, dinitial_zeros, strict=True):
            assert d.any()
            np.testing.assert_array_equal(d, d_zeros)
        assert equal_grads(grads, grads_zeros)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_comes_of_no_gradient_at_all(kind):
    _, packing, cell, x, state = packed_case(kind)
    cache = run(cell, x, packing, state)
    history = cache.history
    nothing = (None,) * len(history)
    dx, dinitial, grads = run_backward(cell, nothing, nothing, cache)
    assert dx.shape == x.shape and not dx.any()
    assert [d.shape for d in dinitial] == [(5, 3)] * len(history)
    assert not any(d.any() for d in dinitial)
    assert {key: grad.shape for key, grad in grads.items()} == {
        key: value.shape for key, value in cell.params.items()
    }
    assert not any(grad.any() for grad in grads.values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_states_gradient_is_that_of_a_place_in_the_history(kind):
    rng, packing, cell, x, state = packed_case(kind)
    cache = run(cell, x, packing, state)
    history = cache.history
    dfinal = random_states(rng, len(history))
    dhistory = tuple(np.zeros_like(states) for states in history)
    for d, last in zip(dhistory, dfinal, strict=True):
        d[packing.final] = last
    nothing = (None,) * len(history)
    dx, dinitial, grads = run_backward(cell, dfinal, nothing, cache)
    expected = run_backward(cell, nothing, dhistory, cache)
    np.testing.assert_allclose(dx, expected[0], **CLOSE)
    for got, want in zip(dinitial, expected[1], strict=True):
        np.testing.assert_allclose(got, want, **CLOSE)
    close_grads(grads, expected[2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_of_any_type_and_layout(kind, dtype):
    """Results have the type of the weights, whatever the gradients from outside are."""
    rng, packing, cell, x, state = packed_case(kind)
    cell.cast(dtype)
    x, state = x.astype(dtype), tuple(first.astype(dtype) for first in state)
    cache = run(cell, x, packing, state)
    history = cache.history
    dfinal = random_states(rng, len(history))
    dhistory = tuple(rng.normal(size=states.shape) for states in history)
    plain = run_backward(
        cell,
        tuple(d.astype(dtype) for d in dfinal),
        tuple(d.astype(dtype) for d in dhistory),
        cache,
    )

    def columns(d):
        return np.asfortranarray(np.repeat(d, 2, axis=0))[::2]

    dx, dinitial, grads = run_backward(
        cell, tuple(map(columns, dfinal)), tuple(map(columns, dhistory)), cache
    )
    tolerance = {} if dtype == "float64" else {"rtol": 1e-4, "atol": 1e-5}
    assert {a.dtype for a in (dx, *dinitial, *grads.values())} == {np.dtype(dtype)}
    np.testing.assert_allclose(dx, plain[0], **(CLOSE | tolerance))
    for got, want in zip(dinitial, plain[1], strict=True):
        np.testing.assert_allclose(got, want, **(CLOSE | tolerance))
    close_grads(grads, plain[2], **tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_recurrent_dropout_by_differences(kind):
    """Backward under dropout of the state, for the input, the states and every weight."""
    rng, packing, cell, x, state = packed_case(kind)
    drop = (rng.random((5, 3)) < 0.5) * 2.0
    cache = run(cell, x, packing, state, drop)
    history = cache.history
    dhistory = tuple(rng.normal(size=states.shape) for states in history)
    dfinal = random_states(rng, len(history))
    dx, dinitial, grads = run_backward(cell, dfinal, dhistory, cache)

    def value():
        states = run(cell, x, packing, state, drop).history
        last = tuple(s[packing.final] for s in states)
        pairs = zip((*dhistory, *dfinal), (*states, *last), strict=True)
        return sum((d * s).sum() for d, s in pairs)

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
@pytest.mark.parametrize("dropped", [False, True])
def test_backward_leaves_the_cache_and_its_arguments_as_they_were(kind, dropped):
    rng, packing, cell, x, state = packed_case(kind)
    drop = (rng.random((5, 3)) < 0.5) * 2.0 if dropped else None
    cache = run(cell, x, packing, state, drop)
    history = cache.history
    dhistory = tuple(rng.normal(size=states.shape) for states in history)
    dfinal = random_states(rng, len(history))
    arrays = [*cache.history, *cache.saved, cache.x, *dhistory, *dfinal]
    arrays += [] if drop is None else [cache.drop]
    before = [np.copy(array) for array in arrays]
    dx, dinitial, grads = run_backward(cell, dfinal, dhistory, cache)
    for array, copy in zip(arrays, before, strict=True):
        assert np.array_equal(array, copy)
    again = run_backward(cell, dfinal, dhistory, cache)
    assert np.array_equal(dx, again[0]) and equal_grads(grads, again[2])
    assert all(np.array_equal(d, d_2) for d, d_2 in zip(dinitial, again[1], strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_of_no_steps(kind):
    _, _, cell, _, state = packed_case(kind)
    packing = Packing(np.zeros((5, 7), dtype=bool))
    cache = run(cell, np.zeros((0, 2)), packing, state)
    history = cache.history
    assert all(np.array_equal(h, s) for h, s in zip(history, state, strict=True))
    dhistory = tuple(np.ones_like(h) for h in history)
    nothing = (None,) * len(history)
    dx, dinitial, grads = run_backward(cell, nothing, dhistory, cache)
    assert dx.shape == (0, 2)
    assert all((d == 1).all() for d in dinitial)
    dfinal = random_states(np.random.default_rng(12), len(history))
    for further, added in ((nothing, 0), (dhistory, 1)):
        dinitial = run_backward(cell, dfinal, further, cache)[1]
        for d, last in zip(dinitial, dfinal, strict=True):
            np.testing.assert_array_equal(d, last + added)
    assert all(grads[key].shape == cell.params[key].shape for key in cell.params)
    assert not any(value.any() for value in grads.values())
