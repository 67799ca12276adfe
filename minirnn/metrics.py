"""Metrics: numbers about a model's predictions, gathered over many batches.

>>> import numpy as np
>>> accuracy = SparseCategoricalAccuracy()
>>> accuracy.update(np.array([1, 0]), np.array([[0.1, 0.9], [0.2, 0.8]]))
>>> accuracy.update(np.array([0]), np.array([[0.7, 0.3]]))
>>> round(accuracy.result(), 4)
0.6667

A metric is the weighted mean of a value for each element; elements, masks and shapes are those of
`minirnn.losses`. Totals stay on the device; only `result` waits for it.

Letters: N elements, C classes or outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn import losses
from minirnn.backend import Array, to_device, xp
from minirnn.checks import host_array, number, numbers, text, whole_number
from minirnn.lookup import by_name
from minirnn.losses import Elements, Loss
from minirnn.packing import Mask

MOST_CLASSES = 5_000  # of a confusion matrix, which has as many rows as columns


class Metric:
    """Base of all metrics. One of your own implements `values`.

    Attributes:
        name: under which it is reported.
        sparse: whether y_true holds class numbers; otherwise it has y_pred's shape.
        ranks_only: whether only the order of the outputs of an element matters, so that
            predictions before their softmax do as well.
    """

    sparse = False
    ranks_only = False

    def __init__(self, name: str | None = None) -> None:
        name = None if name is None else text("name", name)
        self.name = name or next(key for key, kind in METRICS.items() if kind is type(self))
        self.reset()

    def values(self, y_true: np.ndarray, y_pred: Array) -> Array:
        """`(N,)` from y_true, `(N,)` or `(N, C)` on the host, and y_pred `(N, C)`."""
        raise NotImplementedError(f"{type(self).__name__} has no formula")

    def update(
        self,
        y_true: Any,
        y_pred: Array,
        sample_weight: Any = None,
        mask: Mask | np.ndarray | None = None,
    ) -> None:
        """Take a batch in. Arguments and errors are those of `Loss.forward`."""
        batch = Elements(y_true, y_pred, self.sparse, sample_weight, mask)
        values = self.values(batch.y_true, batch.y_pred)
        if batch.weights is None:
            self.add(values.sum(dtype=xp.float64), len(batch.y_pred))
        else:
            weights = to_device(batch.weights, dtype=xp.float64)
            self.add((values * weights).sum(), float(batch.weights.sum()))

    def add(self, total: Any, weight: float) -> None:
        self.total = self.total + total
        self.weight += weight

    def result(self) -> float:
        """The weighted mean of all values so far; 0 if there is none, as in Keras."""
        return float(self.total) / self.weight if self.weight else 0.0

    def reset(self) -> None:
        self.total: Any = 0.0
        self.weight = 0.0

    def state(self) -> list[float]:
        """The totals so far, `[total, weight]`; `restore(*state)` goes on from there."""
        return [float(self.total), float(self.weight)]

    def restore(self, total: float, weight: float) -> None:
        self.total, self.weight = total, weight


class Mean(Metric):
    """The mean of given numbers: `update(value, weight)`, with the rows of the batch as weight."""

    def __init__(self, name: str = "mean") -> None:
        super().__init__(name)

    def update(self, value: Any, weight: float = 1.0) -> None:  # type: ignore[override]
        self.add(value * float(weight), float(weight))


class SparseCategoricalAccuracy(Metric):
    """How often the largest output is the labelled class; the first one wins a tie."""

    sparse = True
    ranks_only = True

    def values(self, y_true: np.ndarray, y_pred: Array) -> Array:
        return y_pred.argmax(axis=1) == to_device(y_true)


class CategoricalAccuracy(Metric):
    """How often the largest output is the largest target; the first one wins a tie."""

    ranks_only = True

    def values(self, y_true: np.ndarray, y_pred: Array) -> Array:
        return y_pred.argmax(axis=1) == to_device(y_true.argmax(axis=1))


class BinaryAccuracy(Metric):
    """How often an output is above the threshold just when its target is 1; mean over outputs."""

    def __init__(self, threshold: float = 0.5, name: str | None = None) -> None:
        super().__init__(name)
        self.threshold = number("threshold", threshold)

    def values(self, y_true: np.ndarray, y_pred: Array) -> Array:
        return ((y_pred > self.threshold) == to_device(y_true)).mean(axis=1)


class SparseTopKCategoricalAccuracy(Metric):
    """How often fewer than k outputs are larger than that of the labelled class."""

    sparse = True
    ranks_only = True

    def __init__(self, k: int = 5, name: str | None = None) -> None:
        super().__init__(name)
        self.k = whole_number("k", k)

    def values(self, y_true: np.ndarray, y_pred: Array) -> Array:
        labels = to_device(y_true)
        true = y_pred[xp.arange(len(labels)), labels]
        return (y_pred > true[:, None]).sum(axis=1) < self.k


class MeanSquaredError(Metric):
    """`(y_pred - y_true)**2`, the mean over outputs."""

    def values(self, y_true: np.ndarray, y_pred: Array) -> Array:
        return losses.MeanSquaredError().elementwise(y_true, y_pred)[0]


class MeanAbsoluteError(Metric):
    """`|y_pred - y_true|`, the mean over outputs."""

    def values(self, y_true: np.ndarray, y_pred: Array) -> Array:
        return losses.MeanAbsoluteError().elementwise(y_true, y_pred)[0]


class Accuracy(Metric):
    """Binary, sparse or categorical accuracy, whichever suits the shapes, as "accuracy" in Keras.

    One output: binary. Labels with fewer axes than the outputs, or a last axis of 1: class numbers.
    Otherwise: one-hot targets.
    """

    def update(
        self,
        y_true: Any,
        y_pred: Array,
        sample_weight: Any = None,
        mask: Mask | np.ndarray | None = None,
    ) -> None:
        y_true, y_pred = host_array("y_true", y_true), numbers("y_pred", y_pred)
        shape = y_true.shape
        if y_pred.shape[-1] == 1:
            chosen: type[Metric] = BinaryAccuracy
        elif len(shape) < y_pred.ndim or shape[-1] == 1:
            chosen = SparseCategoricalAccuracy
        else:
            chosen = CategoricalAccuracy
        batch = chosen()
        batch.update(y_true, y_pred, sample_weight, mask)
        self.add(batch.total, batch.weight)


METRICS: dict[str, type[Metric]] = {
    "accuracy": Accuracy,
    "acc": Accuracy,
    "sparse_categorical_accuracy": SparseCategoricalAccuracy,
    "categorical_accuracy": CategoricalAccuracy,
    "binary_accuracy": BinaryAccuracy,
    "sparse_top_k_categorical_accuracy": SparseTopKCategoricalAccuracy,
    "mean_squared_error": MeanSquaredError,
    "mse": MeanSquaredError,
    "mean_absolute_error": MeanAbsoluteError,
    "mae": MeanAbsoluteError,
}


def get(identifier: str | Metric, loss: Loss | None = None) -> Metric:
    """The metric itself, or a new one of this name, reported under the name as given.

    Args:
        identifier: a metric or its name.
        loss: the model's loss. After one that belongs to a softmax, "accuracy" looks at the ranks
            of the outputs only.

    Raises:
        TypeError: for anything but a metric or a name.
        ValueError: for an unknown name.
    """
    if isinstance(identifier, Metric):
        metric = identifier
    else:
        metric = by_name("metric", identifier, METRICS)(name=identifier)
    if isinstance(metric, Accuracy) and loss is not None:
        metric.ranks_only = loss.activation == "softmax"
    return metric


def confusion_matrix(y_true: Any, y_pred: Any, classes: int) -> np.ndarray:
    """How often each class (rows) was taken for each class (columns).

    Args:
        y_true: `(N,)` true class numbers.
        y_pred: `(N,)` predicted class numbers.
        classes: how many classes there are.

    Returns:
        `(classes, classes)` int64, on the host.

    Raises:
        ValueError: if the lengths differ or a number is not a class.

    >>> confusion_matrix([0, 1, 1], [0, 0, 1], classes=2)
    array([[1, 0],
           [1, 1]])
    """
    true, predicted = host_array("y_true", y_true), host_array("y_pred", y_pred)
    if whole_number("classes", classes) > MOST_CLASSES:
        raise ValueError(f"classes: expected at most {MOST_CLASSES:,}, received {classes}")
    if true.ndim != 1 or true.shape != predicted.shape:
        raise ValueError(
            "y_true, y_pred: expected class numbers of one shape (N,), "
            f"received {true.shape} and {predicted.shape}"
        )
    for name, labels in (("y_true", true), ("y_pred", predicted)):
        if labels.dtype.kind not in ("iu" if labels.size else "iuf"):  # [] is made of floats
            raise ValueError(f"{name}: expected class numbers, received {labels.dtype}")
        bad = np.flatnonzero((labels < 0) | (labels >= classes))
        if bad.size:
            raise ValueError(
                f"{name}: expected each number to be one of the {classes} classes, 0 to "
                f"{classes - 1}; received {labels[bad[0]].item()} in row {bad[0]}"
            )
    pairs = true.astype(np.int64) * classes + predicted.astype(np.int64)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
