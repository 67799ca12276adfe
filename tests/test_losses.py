"""Losses against their equations, and their gradients against finite differences."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from minirnn import losses
from minirnn.losses import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
    SparseCategoricalCrossentropy,
)
from minirnn.packing import Mask

B, T, C = 5, 7, 3

LOSSES = {
    "sparse-logits": SparseCategoricalCrossentropy(from_logits=True),
    "sparse": SparseCategoricalCrossentropy(),
    "categorical-logits": CategoricalCrossentropy(from_logits=True),
    "categorical": CategoricalCrossentropy(),
    "smoothed-logits": CategoricalCrossentropy(from_logits=True, label_smoothing=0.3),
    "smoothed": CategoricalCrossentropy(label_smoothing=0.3),
    "binary-logits": BinaryCrossentropy(from_logits=True),
    "binary": BinaryCrossentropy(),
    "squared": MeanSquaredError(),
    "absolute": MeanAbsoluteError(),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def random_batch(loss, shape, seed=0):
    """Random targets and float64 predictions of this shape, probabilities where they are wanted."""
    rng = np.random.default_rng(seed)
    y_pred = rng.normal(size=shape) * 2
    if not loss.from_logits and loss.activation:
        y_pred = rng.uniform(0.05, 0.9, size=shape)  # not normalised
    y_true = rng.uniform(0, 1, size=shape)
    if loss.sparse:
        y_true = rng.integers(0, shape[-1], size=shape[:-1])
    return y_true, y_pred


def masks():
    rng = np.random.default_rng(1)
    lengths = np.array([7, 3, 0, 1, 5])
    return {
        "trailing": np.arange(T) < lengths[:, None],
        "holes": rng.random((B, T)) < 0.6,
        "one step": np.arange(B * T).reshape(B, T) == 11,
        "none": np.zeros((B, T), dtype=bool),
        "all": np.ones((B, T), dtype=bool),
    }


# --- an oracle: one element at a time -------------------------------------------------------------


def element_loss(loss, y, p):
    """The loss of one element, in Python floats."""
    p = [float(x) for x in p]
    if isinstance(loss, MeanSquaredError):
        return sum((a - b) ** 2 for a, b in zip(p, y, strict=True)) / len(p)
    if isinstance(loss, MeanAbsoluteError):
        return sum(abs(a - b) for a, b in zip(p, y, strict=True)) / len(p)
    if isinstance(loss, BinaryCrossentropy):
        if loss.from_logits:
            p = [1 / (1 + math.exp(-a)) for a in p]
        else:
            p = [min(max(a, 1e-7), 1 - 1e-7) for a in p]
        terms = [t * math.log(a) + (1 - t) * math.log(1 - a) for a, t in zip(p, y, strict=True)]
        return -sum(terms) / len(p)
    if loss.from_logits:
        p = [math.exp(a) for a in p]
    q = [a / sum(p) for a in p]
    if not loss.from_logits:
        q = [min(max(a, 1e-7), 1 - 1e-7) for a in q]
    if loss.sparse:
        return -math.log(q[y])
    s = loss.label_smoothing
    y = [(1 - s) * t + s / len(p) for t in y]
    return -sum(t * math.log(a) for a, t in zip(q, y, strict=True))


def oracle(loss, y_true, y_pred, weight=None, mask=None):
    total, count = 0.0, 0
    for place in np.ndindex(y_pred.shape[:-1]):
        if mask is None or mask[place]:
            w = 1.0 if weight is None else weight[place[: weight.ndim]]
            total += w * element_loss(loss, y_true[place], y_pred[place])
            count += 1
    return total / max(count, 1)


@every_loss
@pytest.mark.parametrize("shape", [(B, C), (B, T, C), (B, 1), (1, 2)], ids=str)
def test_value(loss, shape):
    if shape == (B, 1) and loss.activation == "softmax":
        shape = (B, 4)
    y_true, y_pred = random_batch(loss, shape)
    value, dy = loss.forward(y_true, y_pred)
    expected = oracle(loss, y_true, y_pred)
    assert value.shape == () and float(value) == pytest.approx(expected, rel=1e-12)
    assert loss(y_true, y_pred) == pytest.approx(expected, rel=1e-12)
    assert isinstance(loss(y_true, y_pred), float)
    assert dy.shape == shape and dy.flags.c_contiguous


@every_loss
@pytest.mark.parametrize("mask", masks().values(), ids=masks())
@pytest.mark.parametrize("weighted", [None, (B,), (B, T)], ids=str)
def test_value_and_gradient_under_masks_and_weights(loss, mask, weighted):
    y_true, y_pred = random_batch(loss, (B, T, C), seed=2)
    rng = np.random.default_rng(3)
    weight = None if weighted is None else rng.uniform(0, 3, size=weighted)
    value, dy = loss.forward(y_true, y_pred, weight, mask)
    assert float(value) == pytest.approx(oracle(loss, y_true, y_pred, weight, mask), rel=1e-12)
    assert loss(y_true, y_pred, weight, Mask(mask)) == pytest.approx(float(value), rel=1e-12)
    check_gradient(loss, y_true, y_pred, dy, weight, mask)
    assert (dy[~mask] == 0).all()

    # Whatever stands under the mask changes nothing.
    hidden_true, hidden_pred = y_true.copy(), y_pred.copy()
    hidden_pred[~mask] = np.nan
    hidden_true[~mask] = -7
    if weighted == (B, T):
        weight = np.where(mask, weight, np.nan)
    again, dy_again = loss.forward(hidden_true, hidden_pred, weight, mask)
    assert again == value
    np.testing.assert_array_equal(dy_again, dy)


def check_gradient(loss, y_true, y_pred, dy, weight=None, mask=None):
    h = 1e-6
    numeric = np.zeros_like(y_pred)
    for place in np.ndindex(y_pred.shape):
        sides = []
        for sign in (1, -1):
            moved = y_pred.copy()
            moved[place] += sign * h
            sides.append(loss.forward(y_true, moved, weight, mask)[0])
        numeric[place] = (sides[0] - sides[1]) / (2 * h)
    np.testing.assert_allclose(dy, numeric, rtol=1e-6, atol=1e-8)


@every_loss
@pytest.mark.parametrize("shape", [(7, 5), (3, 2), (5, 1)], ids=str)
def test_gradient(loss, shape):
    if shape == (5, 1) and loss.activation == "softmax":
        shape = (5, 4)
    y_true, y_pred = random_batch(loss, shape, seed=4)
    weight = np.random.default_rng(5).normal(size=shape[0])
    check_gradient(loss, y_true, y_pred, loss.forward(y_true, y_pred)[1])
    check_gradient(loss, y_true, y_pred, loss.forward(y_true, y_pred, weight)[1], weight)


@every_loss
def test_complex_step_gives_the_gradient(loss):
    y_true, y_pred = random_batch(loss, (4, 3), seed=6)
    _, dy = loss.forward(y_true, y_pred)
    for place in np.ndindex(y_pred.shape):
        moved = y_pred.astype(np.complex128)
        moved[place] += 1e-30j
        value, _ = loss.forward(y_true, moved)
        assert value.imag / 1e-30 == pytest.approx(dy[place], rel=1e-12, abs=1e-15)


@every_loss
def test_float32_stays_float32(loss):
    y_true, y_pred = random_batch(loss, (B, T, C))
    exact, dy_exact = loss.forward(y_true, y_pred)
    weights = [None, np.random.default_rng(7).random((B, T))]
    for weight in weights:
        for mask in (None, masks()["holes"]):
            value, dy = loss.forward(y_true, y_pred.astype(np.float32), weight, mask)
            assert value.dtype == dy.dtype == np.float32
    value, dy = loss.forward(y_true, y_pred.astype(np.float32))
    assert float(value) == pytest.approx(float(exact), rel=1e-5)
    np.testing.assert_allclose(dy, dy_exact, rtol=1e-4, atol=1e-6)


# --- extremes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_far_out_stay_finite(dtype):
    logits = np.array([[1000.0, -1000.0, 0.0], [-1000.0, 1000.0, 0.0]], dtype=dtype)
    value, dy = SparseCategoricalCrossentropy(True).forward(np.array([0, 0]), logits)
    assert value == 1000.0
    np.testing.assert_array_equal(dy, [[0, 0, 0], [-0.5, 0.5, 0]])
    value, dy = CategoricalCrossentropy(True).forward(np.eye(3)[[0, 0]], logits)
    assert value == 1000.0
    np.testing.assert_array_equal(dy, [[0, 0, 0], [-0.5, 0.5, 0]])
    value, dy = BinaryCrossentropy(True).forward(np.array([1, 1]), logits[:, :1])
    assert value == 500.0
    np.testing.assert_array_equal(dy, [[0], [-0.5]])


def test_probabilities_are_renormalised_and_clipped():
    """Values of Keras 3 on NumPy."""
    loss = SparseCategoricalCrossentropy()
    assert loss([0], [[0.0, 1.0]]) == pytest.approx(16.118, abs=1e-3)
    assert loss([1], np.array([[0.0, 1.0]], dtype=np.float32)) == pytest.approx(1.19e-7, rel=0.01)
    assert loss([0], [[0.2, 0.2]]) == pytest.approx(0.6931, abs=1e-4)
    for other in (loss, CategoricalCrossentropy()):
        y_true = [0] if other.sparse else np.array([[1.0, 0.0]])
        _, dy = other.forward(y_true, np.array([[1e-9, 1.0]]))
        assert not dy.any()  # the clip holds


def test_on_logits():
    loss = CategoricalCrossentropy(label_smoothing=0.2)
    twin = loss.on_logits()
    assert twin.from_logits and not loss.from_logits and twin.label_smoothing == 0.2
    y_true, logits = random_batch(twin, (B, C))
    exps = np.exp(logits)
    assert twin(y_true, logits) == pytest.approx(loss(y_true, exps / exps.sum(1, keepdims=True)))
    assert (loss.activation, BinaryCrossentropy().activation) == ("softmax", "sigmoid")
    assert MeanSquaredError.activation is None
    with pytest.raises(ValueError, match="mean_squared_error: this loss belongs to no activation"):
        MeanSquaredError().on_logits()


@pytest.mark.parametrize(
    "loss", ["sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy"]
)
@pytest.mark.parametrize("wrong", [-0.01, 1.01, -3.0, 40.0])
def test_a_loss_on_probabilities_refuses_what_is_none(loss, wrong):
    loss = losses.get(loss)
    y_true, p = random_batch(loss, (B, T, C))
    loss(y_true, p)
    p[2, 3, 1] = wrong
    message = (
        rf"^y_pred: expected probabilities from 0 to 1, received {wrong:.4g}\. .*"
        r"softmax or sigmoid, or the loss from_logits=True\.$"
    )
    with pytest.raises(ValueError, match=message):
        loss(y_true, p)
    with pytest.raises(ValueError, match=message):
        loss.forward(y_true, p)
    mask = np.ones((B, T), dtype=bool)
    mask[2, 3] = False
    assert np.isfinite(loss(y_true, p, mask=Mask(mask)))


# --- shapes and errors ----------------------------------------------------------------------------


def test_labels_come_in_several_forms():
    loss = SparseCategoricalCrossentropy()
    y_true, y_pred = random_batch(loss, (B, C))
    expected = loss(y_true, y_pred)
    for form in (
        y_true[:, None],
        y_true.astype(np.float32),
        y_true.astype(np.uint8),
        y_true.tolist(),
    ):
        assert loss(form, y_pred) == expected
    assert loss(np.array([True, False]), y_pred[:2]) == loss(np.array([1, 0]), y_pred[:2])
    binary = BinaryCrossentropy()
    assert binary([1, 0], [[0.7], [0.4]]) == binary([[1], [0]], [[0.7], [0.4]])
    assert MeanSquaredError()([1, 2], [[3], [2]]) == 2.0  # whole numbers as predictions


SPARSE, DENSE, YESNO = (
    SparseCategoricalCrossentropy(),
    CategoricalCrossentropy(),
    BinaryCrossentropy(),
)
PRED, STEPS = np.full((4, 3), 0.3), np.full((4, 2, 3), 0.3)


@pytest.mark.parametrize(
    "loss, arguments, message",
    [
        (SPARSE, ([0, 1, 3, 0], PRED), r"one of the 3 classes, 0 to 2; received 3 in row 2"),
        (SPARSE, ([0, -1, 2, 0], PRED), r"one of the 3 classes, 0 to 2; received -1 in row 1"),
        (SPARSE, ([[0, 1], [2, 2], [0, 9], [0, 0]], STEPS), r"received 9 in row 2, step 1"),
        (
            SPARSE,
            ([[0, 7], [2, 2], [0, 9], [0, 0]], STEPS, None, np.arange(8).reshape(4, 2) > 1),
            r"received 9 in row 2, step 1",
        ),
        (SPARSE, ([0, 0.5, 1, 2], PRED), r"to be a whole number; received 0.5 in row 1"),
        (SPARSE, ([0, math.nan, 1, 2], PRED), r"to be a whole number; received nan in row 1"),
        (SPARSE, (list("abcd"), PRED), r"y_true: expected class numbers, received <U1"),
        (SPARSE, ([0, 1, 2], PRED), r"y_true: expected shape \(4,\) .* received \(3,\)$"),
        (SPARSE, (np.eye(3)[[0, 1, 2, 0]], PRED), r"received \(4, 3\); .* use categorical_cross"),
        (DENSE, ([0, 1, 2, 0], PRED), r"\(4, 3\).*received \(4,\); .* use sparse_categorical"),
        (DENSE, (np.zeros((4, 2)), PRED), r"expected shape \(4, 3\) .* received \(4, 2\)$"),
        (YESNO, ([[0.5], [1.5]], [[0.3], [0.3]]), r"targets from 0 to 1, received 1.5"),
        (YESNO, ([[0.5], [math.nan]], [[0.3], [0.3]]), r"targets from 0 to 1, received nan"),
        (SPARSE, ([], np.zeros((0, 3))), r"the batch is empty, its shape is \(0, 3\)"),
        (SPARSE, ([0, 1], np.zeros(2)), r"y_pred: expected shape \(batch, outputs\) .* \(2,\)"),
        (
            SPARSE,
            ([0, 1, 2, 0], PRED, [1.0, 2.0]),
            r"sample_weight: expected shape \(4,\), .*\(2,\)",
        ),
        (
            SPARSE,
            (np.zeros((4, 2), int), STEPS, np.ones((4, 3))),
            r"sample_weight: expected shape \(4,\) or \(4, 2\), received \(4, 3\)",
        ),
        (
            SPARSE,
            (np.zeros((4, 2), int), STEPS, None, np.ones((4, 3), bool)),
            r"mask: expected shape \(4, 2\), one for each prediction, received \(4, 3\)",
        ),
        (SPARSE, ([0, 1, 2, 0], PRED, None, np.ones((4, 3), bool)), r"mask: expected shape \(4,\)"),
    ],
)
def test_bad_input_is_refused(loss, arguments, message):
    y_true, y_pred, *rest = arguments
    with pytest.raises(ValueError, match=message):
        loss.forward(y_true, np.asarray(y_pred), *rest)
    with pytest.raises(ValueError, match=message):
        loss(y_true, y_pred, *rest)


def test_get_and_config():
    assert type(losses.get("mse")) is MeanSquaredError
    for name in ("sparse_categorical_crossentropy", "binary_crossentropy", "mean_absolute_error"):
        assert losses.get(name).name == name
    loss = CategoricalCrossentropy(label_smoothing=0.25)
    assert losses.get(loss) is loss
    with pytest.raises(ValueError, match=r"called 'binary_crossentrpy'.* Did you mean 'binary_cro"):
        losses.get("binary_crossentrpy")
    with pytest.raises(ValueError, match=r"label_smoothing: expected .* 0 to 1, received 2"):
        CategoricalCrossentropy(label_smoothing=2)


@every_loss
def test_config_survives_json(loss):
    twin = Loss.from_config(json.loads(json.dumps(loss.get_config())))
    assert type(twin) is type(loss) and repr(twin) == repr(loss)


@pytest.mark.parametrize("name", ["sparse_categorical_crossentropy", "categorical_crossentropy"])
def test_a_row_of_probabilities_that_are_all_zero_is_clipped(name):
    p = np.array([[0, 0, 0], [0.5, 0.25, 0.25]], "float32")
    y = np.array([1, 0]) if losses.get(name).sparse else np.array([[0, 1, 0], [1, 0, 0]])
    value, dp = losses.get(name).forward(y, p)
    np.testing.assert_allclose(value, -(np.log(1e-7) + np.log(0.5)) / 2, rtol=1e-5)
    np.testing.assert_array_equal(dp[0], 0)
    assert np.isfinite(dp).all()
