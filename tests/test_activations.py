"""Activations and their derivatives."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from recurrent_cases import quick

from minirnn import activations
from minirnn.activations import NAMES, Activation
from minirnn.layers import GRU, Dense

BY_ELEMENT = [name for name in NAMES if name != "softmax"]
KINKS = {"relu": [0.0], "hard_sigmoid": [-3.0, 3.0], "elu": [0.0]}
by_name = pytest.mark.parametrize("name", BY_ELEMENT)

matrices = arrays("float64", (3, 5), elements=st.floats(-20, 20))


@by_name
@quick
@given(a=matrices)
def test_values(name, a):
    expected = oracle.each(name, a.reshape(-1)).reshape(a.shape)
    np.testing.assert_allclose(NAMES[name](a), expected, rtol=1e-12, atol=1e-12)


@by_name
@quick
@given(a=arrays("float64", (3, 5), elements=st.floats(-5, 5)))
def test_derivatives_by_differences(name, a):
    for kink in KINKS.get(name, []):
        a = np.where(abs(a - kink) < 1e-3, kink + 0.01, a)
    function, epsilon = NAMES[name], 1e-6
    slope = (function(a + epsilon) - function(a - epsilon)) / (2 * epsilon)
    y = function(a.copy())
    np.testing.assert_allclose(function.derivative(y), slope, rtol=1e-7, atol=1e-8)
    dy = np.arange(1.0, 16).reshape(3, 5)
    np.testing.assert_allclose(function.backward(dy, y), dy * slope, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_out_may_be_another_array_or_the_input(name):
    a = np.random.default_rng(1).normal(size=(3, 5))
    expected = NAMES[name](a.copy())
    out = np.full_like(a, np.nan)
    given_a = a.copy()
    assert NAMES[name](given_a, out=out) is out
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(given_a, a)
    assert NAMES[name](given_a, out=given_a) is given_a
    np.testing.assert_array_equal(given_a, expected)


@pytest.mark.parametrize("name", NAMES)
def test_float32_stays_float32(name):
    a = np.random.default_rng(2).normal(size=(3, 5)).astype("float32")
    y = NAMES[name](a.copy())
    assert y.dtype == np.float32
    assert NAMES[name].backward(np.ones_like(y), y).dtype == np.float32
    if name != "softmax":
        assert NAMES[name].derivative(y).dtype == np.float32


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "hard_sigmoid", "relu", "elu", "softplus"])
def test_far_out_nothing_overflows(name):
    for dtype in ("float32", "float64"):
        y = NAMES[name](np.array([-1e30, -1e4, 1e4, 1e30], dtype=dtype))
        assert np.isfinite(y).all()
        assert np.isfinite(NAMES[name].derivative(y)).all()


@quick
@given(a=arrays("float64", (3, 5), elements=st.floats(-700, 700)))
def test_softmax(a):
    y = activations.softmax(a)
    expected = [[math.exp(v - max(row)) for v in row] for row in a]
    expected = [[v / sum(row) for v in row] for row in expected]
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(y.sum(axis=-1), 1, rtol=1e-12)
    np.testing.assert_allclose(activations.softmax(a + 1000), y, rtol=1e-9, atol=1e-300)


def test_softmax_of_huge_numbers():
    np.testing.assert_array_equal(activations.softmax(np.array([[1e30, 0.0]])), [[1, 0]])


def test_softmax_backward_by_differences():
    rng = np.random.default_rng(3)
    a, dy = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 3, 5))
    da = activations.softmax.backward(dy, activations.softmax(a))
    for index in np.ndindex(a.shape):
        step = np.zeros_like(a)
        step[index] = 1e-6
        up, down = activations.softmax(a + step), activations.softmax(a - step)
        np.testing.assert_allclose(da[index], ((up - down) * dy).sum() / 2e-6, atol=1e-8)


def test_softmax_has_no_derivative_by_element():
    with pytest.raises(ValueError, match="softmax: it mixes the elements of a row"):
        activations.softmax.derivative(np.ones((2, 3)))


def test_get():
    assert activations.get("tanh") is activations.tanh
    assert activations.get(None) is activations.linear
    assert activations.get(activations.relu) is activations.relu
    own = Activation("square", lambda a, out=None: np.square(a, out=out), lambda y: 2 * np.sqrt(y))
    assert activations.get(own) is own
    assert repr(own) == "<activation square>"
    with pytest.raises(ValueError, match="there is none called 'Tahn'. Did you mean 'tanh'.*Known"):
        activations.get("Tahn")
    with pytest.raises(ValueError, match="there is none called 'zzz'. Known: tanh, sigmoid"):
        activations.get("zzz")
    with pytest.raises(TypeError, match="activation: expected a name or an object, received 3"):
        activations.get(3)


@pytest.mark.parametrize("name", NAMES)
def test_copies_are_the_activation_itself(name):
    ours = NAMES[name]
    assert copy.deepcopy(ours) is ours
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(ours, protocol)) is ours


@pytest.mark.parametrize("make", [lambda: Dense(3, "softmax"), lambda: GRU(3)])
def test_a_layer_survives_pickle(make):
    layer = make()
    x = np.random.default_rng(5).normal(size=(2, 7, 5)).astype("float32")
    y = layer(x)
    twin = pickle.loads(pickle.dumps(layer))
    np.testing.assert_array_equal(twin(x), y)
    owner, owner_of_twin = (getattr(one, "cell", one) for one in (layer, twin))
    assert owner_of_twin.activation is owner.activation
    assert owner_of_twin.params["kernel"] is not owner.params["kernel"]


def cube(a, out=None):
    return np.power(a, 3, out=out)


def cube_derivative(y):
    return 3 * np.cbrt(y) ** 2


def test_an_activation_of_ones_own_survives_pickle():
    own = Activation("tanh", cube, cube_derivative)  # the name of ours, and yet another one
    assert copy.deepcopy(own) is own
    twin = pickle.loads(pickle.dumps(own))
    assert (twin.name, twin.function, twin.derivative) == ("tanh", cube, cube_derivative)
    layer = Dense(3, own)
    x = np.random.default_rng(6).normal(size=(4, 5)).astype("float32")
    y = layer(x)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(layer))(x), y)
