"""Numbers as large as 1e4 in float32, and infinite ones where that has a meaning: values and
gradients against float64, with no warning on the way (in the tests, a warning is an error)."""

from __future__ import annotations

import itertools
import math

import numpy as np
import oracle
import pytest
from recurrent_cases import KINDS, built
from strict_cupy import installed

from minirnn import activations, compiled, losses
from minirnn.backend import to_device, to_host

LARGE = [-math.inf, -1e4, -88.8, -30, -1.5, 0, 0.3, 17, 89.5, 1e4, math.inf]
FINITE = [a for a in LARGE if math.isfinite(a)]


def sigmoid(a):
    return 1 / (1 + math.exp(-a)) if a > -700 else 0.0


# name → value and derivative at a, in float64
EXACT = {
    "tanh": (math.tanh, lambda a: 1 - math.tanh(a) ** 2),
    "sigmoid": (sigmoid, lambda a: sigmoid(a) * sigmoid(-a)),
    "hard_sigmoid": (
        lambda a: min(1.0, max(0.0, a / 6 + 0.5)),
        lambda a: 1 / 6 if -3 < a < 3 else 0.0,
    ),
    "relu": (lambda a: max(a, 0.0), lambda a: float(a > 0)),
    "elu": (
        lambda a: a if a > 0 else math.expm1(a),
        lambda a: 1.0 if a > 0 else math.exp(a),
    ),
    "softplus": (
        lambda a: max(a, 0.0) + math.log1p(math.exp(-abs(a))),
        sigmoid,
    ),
    "linear": (lambda a: a, lambda a: 1.0),
}


@pytest.mark.parametrize("device", [False, True])
@pytest.mark.parametrize("name", EXACT)
def test_activations(name, device):
    function, (value, derivative) = activations.get(name), EXACT[name]

    def found():
        y = function(to_device(np.array(LARGE, "float32")))
        into = function.raw(to_device(np.array(LARGE, "float32")), to_device(np.zeros(11, "f")))
        return map(to_host, (y, into, function.derivative(y)))

    if device:
        with installed():
            y, into, slope = found()
    else:
        y, into, slope = found()
    assert y.dtype == slope.dtype == np.float32
    np.testing.assert_allclose(y, [value(a) for a in LARGE], rtol=3e-7, atol=6e-8)
    np.testing.assert_array_equal(y, into)
    np.testing.assert_allclose(slope, [derivative(a) for a in LARGE], rtol=3e-7, atol=2e-7)


def test_the_compiled_tanh():
    kernels = pytest.importorskip("minirnn.kernels", reason="it needs Numba")
    found = [kernels.tanh(np.float32(a)) for a in LARGE]
    np.testing.assert_allclose(found, np.tanh(LARGE), rtol=3e-7, atol=1e-9)
    assert math.isnan(kernels.tanh(np.float32(math.nan)))


# --- softmax and the losses -----------------------------------------------------------------------

ROWS = [
    [1e4, -1e4, 0],
    [1e4, 1e4, -1e4],
    [-1e4, -1e4, -1e4 + 1],
    [9999, 1e4, 9998],
    [0.5, -math.inf, 0.25],  # of a class that is ruled out
    [1e4, -math.inf, -math.inf],
    [0.1, 0.2, 0.3],
]


def softmax_of(row):
    powers = [math.exp(a - max(row)) for a in row]
    return [p / sum(powers) for p in powers]


def log_softmax_of(row):
    total = math.log(sum(math.exp(a - max(row)) for a in row))
    return [a - max(row) - total for a in row]


@pytest.mark.parametrize("device", [False, True])
def test_softmax(device):
    dy = np.random.default_rng(1).normal(size=(len(ROWS), 3))

    def found():
        y = activations.softmax(to_device(np.array(ROWS, "float32")))
        return to_host(y), to_host(activations.softmax.backward(to_device(dy.astype("f")), y))

    if device:
        with installed():
            y, da = found()
    else:
        y, da = found()
    p = np.array(list(map(softmax_of, ROWS)))
    np.testing.assert_allclose(y, p, rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(da, p * (dy - (p * dy).sum(1, keepdims=True)), rtol=1e-5, atol=1e-7)


def check_loss(loss, y_true, y_pred, values, gradients):
    """One row at a time and all together; values and gradients in float64, of each row alone."""
    y_pred = np.array(y_pred, "float32")
    for device in (False, True):
        with installed() if device else pytest.MonkeyPatch.context():
            for k, (value, gradient) in enumerate(zip(values, gradients, strict=True)):
                found, dy = loss.forward(y_true[k : k + 1], to_device(y_pred[k : k + 1]))
                np.testing.assert_allclose(float(found), value, rtol=1e-6, atol=1e-7)
                np.testing.assert_allclose(to_host(dy)[0], gradient, rtol=1e-6, atol=1e-7)
                found = loss(y_true[k : k + 1], to_device(y_pred[k : k + 1]))
                np.testing.assert_allclose(found, value, rtol=1e-6, atol=1e-7)
    found, dy = loss.forward(y_true, y_pred)
    np.testing.assert_allclose(found, np.mean(values), rtol=1e-6)
    np.testing.assert_allclose(dy, np.array(gradients) / len(values), rtol=1e-6, atol=1e-7)


def test_sparse_categorical_crossentropy():
    logits, labels = [], []
    for row, label in itertools.product(ROWS, range(3)):
        if row[label] > -math.inf:  # otherwise the loss is infinite
            logits.append(row), labels.append(label)
    check_loss(
        losses.SparseCategoricalCrossentropy(from_logits=True),
        np.array(labels),
        logits,
        [-log_softmax_of(row)[label] for row, label in zip(logits, labels, strict=True)],
        [softmax_of(r) - np.eye(3)[k] for r, k in zip(logits, labels, strict=True)],
    )


def test_an_impossible_class_has_an_infinite_loss():
    logits = np.array([[0.5, -np.inf, 0.25]], "float32")
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    assert loss(np.array([1]), logits) == math.inf


@pytest.mark.parametrize("smoothing", [0, 0.25])
def test_categorical_crossentropy(smoothing):
    targets = [[1, 0, 0], [0, 0.25, 0.75], [0.5, 0, 0.5]]
    logits, y = [], []
    for row, target in itertools.product(ROWS, targets):
        ruled_out = [a == -math.inf for a in row]
        if not any(out and (t or smoothing) for out, t in zip(ruled_out, target, strict=True)):
            logits.append(row), y.append(target)
    smooth = np.array(y) * (1 - smoothing) + smoothing / 3
    values = [
        -sum(t * lp for t, lp in zip(target, log_softmax_of(row), strict=True) if t)
        for row, target in zip(logits, smooth.tolist(), strict=True)
    ]
    gradients = [softmax_of(row) - t for row, t in zip(logits, smooth, strict=True)]
    loss = losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    check_loss(loss, np.array(y, "float32"), logits, values, gradients)


def test_binary_crossentropy():
    cases = [(a, y) for a in LARGE for y in (0, 0.25, 1) if math.isfinite(a) or y == (a > 0)]
    values = [
        (0 if y == (a > 0) else abs(a) * abs((a > 0) - y)) + math.log1p(math.exp(-abs(a)))
        for a, y in cases
    ]
    check_loss(
        losses.BinaryCrossentropy(from_logits=True),
        np.array([[y] for _, y in cases], "float32"),
        [[a] for a, _ in cases],
        values,
        [[sigmoid(a) - y] for a, y in cases],
    )


@pytest.mark.parametrize("name", ["mse", "mae"])
def test_losses_of_distances(name):
    cases = [(a, y) for a in FINITE for y in (-1e4, 0.5, 1e4)]
    square = name == "mse"
    check_loss(
        losses.get(name),
        np.array([[y] for _, y in cases], "float32"),
        [[a] for a, _ in cases],
        [(np.float32(a) - y) ** 2 if square else abs(np.float32(a) - y) for a, y in cases],
        [[2 * (np.float32(a) - y) if square else np.sign(a - y)] for a, y in cases],
    )


@pytest.mark.parametrize("p", [0.0, 1.0])
@pytest.mark.parametrize("label", [0, 1])
def test_losses_of_probabilities_that_are_certain(p, label):
    """Clipped to 1e-7 from 0 and 1, and there without a gradient; what float32 has next to 1 is
    1.2e-7 away from it."""
    expected = -math.log(1e-7) if p != label else 0
    certain = np.array([[1 - p, p]], "float32")
    for loss, y_true, y_pred in (
        (losses.SparseCategoricalCrossentropy(), np.array([label]), certain),
        (losses.CategoricalCrossentropy(), np.eye(2, dtype="f")[[label]], certain),
        (losses.BinaryCrossentropy(), np.array([[float(label)]]), certain[:, 1:]),
    ):
        value, dy = loss.forward(y_true, y_pred)
        np.testing.assert_allclose(value, expected, rtol=0.02, atol=3e-7)
        assert not dy.any()


# --- inside the cells -----------------------------------------------------------------------------


@pytest.fixture(params=["compiled", "plain"])
def loops(request, monkeypatch):
    if request.param == "compiled":
        pytest.importorskip("numba", reason="the compiled loops need Numba")
        monkeypatch.delenv(compiled.ENVIRONMENT_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(compiled.ENVIRONMENT_VARIABLE, "0")
    compiled._kernels.cache_clear()
    yield
    monkeypatch.undo()
    compiled._kernels.cache_clear()


GATES = {"simple_rnn": 1, "lstm": 4, "gru": 3, "gru_reset_before": 3}


def saturated(kind, levels):
    """A layer whose gates get these numbers on top of what is usual."""
    layer = built(kind, np.random.default_rng(7), units=2, features=1, dtype="float32")
    bias = layer.params["bias"]
    (bias[0] if kind == "gru" else bias)[:] += np.repeat(levels, 2).astype("float32")
    return layer


def everything(layer, x, dy):
    y, cache = layer.forward(to_device(x))
    dx, grads = layer.backward(to_device(dy), cache)
    return {"y": to_host(y), "dx": to_host(dx)} | {k: to_host(v) for k, v in grads.items()}


X = np.random.default_rng(8).normal(size=(1, 4, 1)).astype("float32")
DY = np.random.default_rng(9).normal(size=(1, 2)).astype("float32")


def reference(kind, layer):
    """The oracle's outputs, and central differences of them; all in float64."""
    given = {k: to_host(v).astype("float64") for k, v in layer.params.items()} | {
        "dx": X.astype("float64")
    }

    def output():
        params = {k: v for k, v in given.items() if k != "dx"}
        return np.array(oracle.run_layer(kind, params, given["dx"])[0])

    found = {"y": output()}
    for name, values in given.items():
        slopes = np.zeros_like(values)
        for place in np.ndindex(values.shape):
            at, ends = values[place], []
            for h in (1e-4, -1e-4):
                values[place] = at + h
                ends.append((output() * DY).sum())
            values[place] = at
            slopes[place] = (ends[0] - ends[1]) / 2e-4
        found[name] = slopes
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_gates_far_in_saturation(kind, loops):
    for levels in itertools.product((-1e4, 0, 1e4), repeat=GATES[kind]):
        layer = saturated(kind, levels)
        expected = reference(kind, layer)
        for name, value in everything(layer, X, DY).items():
            np.testing.assert_allclose(
                value, expected[name], rtol=1e-4, atol=1e-5, err_msg=f"{name} {levels}"
            )


@pytest.mark.usefixtures("either_loop")
@pytest.mark.parametrize("kind", KINDS)
def test_gates_far_in_saturation_on_a_device(kind):
    for levels in itertools.product((-1e4, 1e4), repeat=GATES[kind]):
        expected = everything(saturated(kind, levels), X, DY)
        layer = saturated(kind, levels)
        with installed():
            layer.cell.params = {key: to_device(v) for key, v in layer.cell.params.items()}
            found = everything(layer, X, DY)
        for name, value in found.items():
            np.testing.assert_allclose(
                value, expected[name], rtol=1e-5, atol=1e-6, err_msg=f"{name} {levels}"
            )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_nan_stays_nan(kind, loops):
    layer = saturated(kind, [0] * GATES[kind])
    x = X.copy()
    x[0, 1] = np.nan
    assert all(
        np.isnan(value).all() for key, value in everything(layer, x, DY).items() if key == "y"
    )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.usefixtures("either_loop")
@pytest.mark.parametrize("kind", KINDS)
def test_nan_stays_nan_on_a_device(kind):
    layer = saturated(kind, [0] * GATES[kind])
    x = X.copy()
    x[0, 1] = np.nan
    with installed():
        layer.cell.params = {key: to_device(v) for key, v in layer.cell.params.items()}
        assert np.isnan(everything(layer, x, DY)["y"]).all()
