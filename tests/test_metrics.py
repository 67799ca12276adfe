"""Metrics against counts made one element at a time."""

from __future__ import annotations

import numpy as np
import pytest

from minirnn import losses, metrics
from minirnn.metrics import (
    BinaryAccuracy,
    CategoricalAccuracy,
    Mean,
    MeanAbsoluteError,
    MeanSquaredError,
    SparseCategoricalAccuracy,
    SparseTopKCategoricalAccuracy,
    confusion_matrix,
)
from minirnn.packing import Mask

B, T, C = 11, 5, 4

RULES = {  # metric -> the value of one element
    SparseCategoricalAccuracy: lambda y, p: float(list(p).index(max(p)) == y),
    SparseTopKCategoricalAccuracy: lambda y, p: float(y in np.argsort(-p, kind="stable")[:2]),
    CategoricalAccuracy: lambda y, p: float(list(p).index(max(p)) == list(y).index(max(y))),
    BinaryAccuracy: lambda y, p: np.mean([(a > 0.5) == t for a, t in zip(p, y, strict=True)]),
    MeanSquaredError: lambda y, p: np.mean((p - y) ** 2),
    MeanAbsoluteError: lambda y, p: np.mean(abs(p - y)),
}
every_metric = pytest.mark.parametrize("kind", RULES, ids=lambda kind: kind.__name__)


def make(kind):
    return kind(k=2) if kind is SparseTopKCategoricalAccuracy else kind()


def random_batch(kind, shape, rng):
    y_pred = rng.random(shape).astype(np.float32)
    if kind.sparse:
        return rng.integers(0, shape[-1], size=shape[:-1]), y_pred
    if kind is BinaryAccuracy:
        return rng.integers(0, 2, size=shape), y_pred
    return rng.random(shape), y_pred


@every_metric
@pytest.mark.parametrize("steps", [False, True], ids=["rows", "steps"])
@pytest.mark.parametrize("weighted", [False, True], ids=["even", "weighted"])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_mean_over_all_elements_of_all_batches(kind, steps, weighted, masked):
    rng = np.random.default_rng(1)
    metric = make(kind)
    total = weights = 0.0
    for batch in (B, 2, 7):
        shape = (batch, T, C) if steps else (batch, C)
        y_true, y_pred = random_batch(kind, shape, rng)
        weight = rng.uniform(0, 3, size=shape[:-1]) if weighted else None
        mask = rng.random(shape[:-1]) < 0.6 if masked and steps else None
        for place in np.ndindex(shape[:-1]):
            if mask is None or mask[place]:
                w = weight[place] if weighted else 1.0
                total += w * RULES[kind](y_true[place], y_pred[place])
                weights += w
        if mask is not None:
            y_pred[~mask] = np.nan
            mask = Mask(mask)
        metric.update(y_true, y_pred, weight, mask)
    assert isinstance(metric.result(), float)
    assert metric.result() == pytest.approx(total / weights, rel=1e-6)
    assert 0 < metric.result() < 1
    metric.reset()
    assert metric.result() == 0.0


def test_first_of_equal_outputs_wins():
    ties = np.array([[0.5, 0.5, 0.0], [0.2, 0.4, 0.4]])
    first, second = SparseCategoricalAccuracy(), SparseCategoricalAccuracy()
    first.update([0, 1], ties)
    second.update([1, 2], ties)
    assert (first.result(), second.result()) == (1.0, 0.0)


def test_threshold():
    metric = BinaryAccuracy(threshold=0.2)
    metric.update([1, 0, 0, 1], np.array([[0.3], [0.3], [0.1], [0.2]]))
    assert metric.result() == 0.5


def test_mean_of_losses_is_the_mean_over_samples():
    mean = Mean("loss")
    mean.update(np.float32(1.0), 16)
    mean.update(np.float32(2.0), 4)
    assert mean.name == "loss" and mean.result() == pytest.approx(1.2)


@pytest.mark.parametrize("name", ["acc", "accuracy"])
def test_accuracy_goes_by_the_shapes(name):
    rng = np.random.default_rng(2)
    y_pred = rng.random((B, C))
    labels = rng.integers(0, C, size=B)
    yes = rng.integers(0, 2, size=B)
    cases = [
        (SparseCategoricalAccuracy, labels, y_pred),
        (SparseCategoricalAccuracy, labels[:, None], y_pred),
        (CategoricalAccuracy, np.eye(C)[labels], y_pred),
        (BinaryAccuracy, yes, y_pred[:, :1]),
        (BinaryAccuracy, yes[:, None], y_pred[:, :1]),
        (SparseCategoricalAccuracy, rng.integers(0, C, size=(3, T)), rng.random((3, T, C))),
    ]
    for kind, y_true, predictions in cases:
        metric, expected = metrics.get(name), kind()
        metric.update(y_true, predictions)
        expected.update(y_true, predictions)
        assert metric.name == name
        assert metric.result() == expected.result()


def test_get():
    for name in metrics.METRICS:
        assert metrics.get(name).name == name
    metric = BinaryAccuracy(0.3)
    assert metrics.get(metric) is metric and metric.name == "binary_accuracy"
    assert metrics.get("acc", losses.SparseCategoricalCrossentropy()).ranks_only
    assert not metrics.get("acc", losses.BinaryCrossentropy()).ranks_only
    with pytest.raises(ValueError, match=r"metric: there is none called 'acuracy'.*'accuracy'"):
        metrics.get("acuracy")


def test_bad_batches_are_refused():
    metric = SparseCategoricalAccuracy()
    with pytest.raises(ValueError, match=r"one of the 3 classes, 0 to 2; received 5 in row 1"):
        metric.update([0, 5], np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"y_true: expected shape \(2,\) .* received \(3,\)"):
        metric.update([0, 1, 2], np.zeros((2, 3)))
    assert metric.result() == 0.0


def test_confusion_matrix():
    rng = np.random.default_rng(3)
    true, predicted = rng.integers(0, 3, size=40), rng.integers(0, 3, size=40)
    expected = np.zeros((5, 5), dtype=int)
    for t, p in zip(true, predicted, strict=True):
        expected[t, p] += 1
    got = confusion_matrix(true.astype(np.uint8), predicted, classes=5)
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == np.int64
    assert not confusion_matrix([], [], classes=2).any()
    with pytest.raises(
        ValueError, match=r"y_pred: .* one of the 2 classes, .* received 2 in row 1"
    ):
        confusion_matrix([0, 1], [0, 2], classes=2)
    with pytest.raises(ValueError, match=r"of one shape \(N,\), received \(2,\) and \(3,\)"):
        confusion_matrix([0, 1], [0, 1, 1], classes=2)
    with pytest.raises(ValueError, match=r"y_true: expected class numbers, received float64"):
        confusion_matrix([0.0, 1.0], [0, 1], classes=2)
