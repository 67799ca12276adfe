"""Losses and metrics, of batches of any kind."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fuzz.judge import ask, clean, refused, require, require_close
from fuzz.layers import plain
from fuzz.values import Draw, arguments, array, either, junk
from minirnn import losses, metrics
from minirnn.packing import Mask

FLAGS = (False, True)

LOSSES = {
    "sparse_categorical_crossentropy": {"from_logits": FLAGS},
    "categorical_crossentropy": {"from_logits": FLAGS, "label_smoothing": (0.0, 0.1, 1.0)},
    "binary_crossentropy": {"from_logits": FLAGS},
    "mean_squared_error": {},
    "mean_absolute_error": {},
}


def batch_of(draw: Draw, sparse: bool, within: bool) -> tuple[Any, Any, dict[str, Any]]:
    """y_true, y_pred, and perhaps weights and a mask; within: predictions mostly from 0 to 1."""
    steps = draw(st.sampled_from([(3,), (3,), (2, 4), (0,), (1,)]))
    classes = draw(st.sampled_from([1, 2, 3, 3]))
    sizes = (*steps, classes)
    y_pred = array(
        draw, (sizes,), ("float32", "float32", "float64"), 0 if within else -9, 1 if within else 9
    )
    fitting = (steps, (*steps, 1)) if sparse else (sizes, steps)
    y_true = array(
        draw,
        fitting,
        ("int32", "int64", "float32") if sparse else ("float32", "bool"),
        0,
        classes if sparse else 1,
    )
    options: dict[str, Any] = {}
    if draw(st.integers(0, 2)) == 0:
        weights = (steps, steps[:1], (steps[0], 1))
        options["sample_weight"] = array(draw, weights, ("float32", "float64", "int32"), 0)
    if draw(st.integers(0, 2)) == 0:
        real = np.random.default_rng(draw(st.integers(0, 99))).random((*steps, 1)[:2]) < 0.6
        options["mask"] = draw(st.sampled_from([real, Mask(real), real.astype(int), real.tolist()]))
    if draw(st.integers(0, 14)) == 0:
        y_true = junk(draw)
    if draw(st.integers(0, 14)) == 0:
        y_pred = junk(draw)
    return y_true, y_pred, options


def reference(kind: str, loss: Any, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """The loss of each element in float64, from y (N,) or (N, C) and p (N, C)."""
    p = p.astype(np.float64)
    y = y.astype(np.int64 if loss.sparse else np.float64)
    if kind == "mean_squared_error":
        return ((p - y) ** 2).mean(axis=1)
    if kind == "mean_absolute_error":
        return np.abs(p - y).mean(axis=1)
    if kind == "binary_crossentropy":
        if loss.from_logits:
            return (np.logaddexp(0, p) - p * y).mean(axis=1)
        p = np.clip(p, 1e-7, 1 - 1e-7)
        return -(y * np.log(p) + (1 - y) * np.log1p(-p)).mean(axis=1)
    if loss.sparse:
        y = np.eye(p.shape[1])[y]
    elif loss.label_smoothing:
        y = y * (1 - loss.label_smoothing) + loss.label_smoothing / y.shape[1]
    if loss.from_logits:
        return y.sum(axis=1) * np.logaddexp.reduce(p, axis=1) - (y * p).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = p.sum(axis=1, keepdims=True)
        p = np.clip(p / np.where(total == 0, 1, total), 1e-7, 1 - 1e-7)
    return -(y * np.log(p)).sum(axis=1)


def loss_inputs(draw: Draw) -> None:
    """A loss refuses a batch, or gives what float64 gives, with a finite gradient."""
    kind = draw(st.sampled_from(list(LOSSES)))
    loss = ask(losses.LOSSES[kind], **arguments(draw, LOSSES[kind]))
    if refused(loss):
        return
    within = not (loss.from_logits or kind.startswith("mean"))
    y_true, y_pred, options = batch_of(draw, loss.sparse, within)
    answer = ask(loss.forward, y_true, y_pred, **options)
    value = ask(loss, y_true, y_pred, **options)
    require(refused(answer) == refused(value), f"{kind}: forward and call differ", answer, value)
    if refused(answer):
        return
    given = [y_true, y_pred, options.get("sample_weight")]
    require(
        not any(isinstance(v, np.ma.MaskedArray) for v in given), f"{kind} dropped a mask", given
    )
    require(
        all(plain(v).dtype.kind in "biufc" for v in given if v is not None), f"{kind} took", given
    )
    mean, dy = answer
    y, p, w = (None if v is None else np.asarray(v) for v in given)
    require(dy.shape == p.shape, f"{kind}: the gradient has another shape", dy.shape, p.shape)
    if (
        p.dtype.kind == "c"
        or y.dtype.kind == "c"
        or not clean(*[v for v in (p, y, w) if v is not None])
    ):
        return
    require(np.isfinite(mean) and np.isfinite(dy).all(), f"{kind} gave NaN", given, mean, dy)
    flat = p.reshape(-1, p.shape[-1])
    y = y.reshape(-1) if loss.sparse else y.reshape(flat.shape)
    steps = p.shape[1] if p.ndim == 3 else 1
    w = np.ones(len(flat)) if w is None else w.reshape(-1).astype(np.float64)
    w = np.repeat(w, steps) if len(w) < len(flat) else w
    m = options.get("mask")
    real = np.ones(len(flat), bool) if m is None else np.asarray(m, dtype=bool).reshape(-1)
    expected = (reference(kind, loss, y[real], flat[real]) * w[real]).sum() / max(real.sum(), 1)
    require_close(
        mean, expected, f"{kind}: not what float64 gives", loss, given, options, rtol=1e-3
    )


METRICS = {
    "sparse_categorical_accuracy": lambda y, p: p.argmax(axis=1) == y,
    "categorical_accuracy": lambda y, p: p.argmax(axis=1) == y.argmax(axis=1),
    "binary_accuracy": lambda y, p: ((p > 0.5) == y).mean(axis=1),
    "mse": lambda y, p: ((p - y) ** 2).mean(axis=1),
    "mae": lambda y, p: np.abs(p - y).mean(axis=1),
}


def metric_inputs(draw: Draw) -> None:
    """A metric refuses a batch, or gives the weighted mean."""
    name = draw(st.sampled_from([*METRICS, "acc", "sparse_top_k_categorical_accuracy"]))
    metric = ask(metrics.get, name)
    y_true, y_pred, options = batch_of(draw, metric.sparse or name == "acc", True)
    answer = ask(metric.update, y_true, y_pred, **options)
    if refused(answer):
        return
    result = ask(metric.result)
    given = [y_true, y_pred, options.get("sample_weight")]
    require(
        not any(isinstance(v, np.ma.MaskedArray) for v in given), f"{name} dropped a mask", given
    )
    y, p, w = (None if v is None else np.asarray(v) for v in given)
    if (
        p.dtype.kind == "c"
        or y.dtype.kind == "c"
        or not clean(*[v for v in (p, y, w) if v is not None])
    ):
        return
    require(math.isfinite(result), f"{name} gave NaN", given, options, result)
    if name in METRICS and w is None and "mask" not in options:
        flat = p.reshape(-1, p.shape[-1])
        y = y.reshape(-1) if metric.sparse else y.reshape(flat.shape)
        expected = METRICS[name](y.astype(np.float64), flat.astype(np.float64)).mean()
        require_close(result, expected, f"{name}: another mean", given, rtol=1e-3)


def metric_arguments(draw: Draw) -> None:
    """Metrics with arguments of their own, and the confusion matrix."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        metric = ask(metrics.BinaryAccuracy, threshold=either(draw, (0.5, 0.1)))
        if not refused(metric):
            ask(metric.update, np.ones((3, 2)), np.ones((3, 2)) / 2)
            ask(metric.result)
    elif kind == 1:
        metric = ask(metrics.SparseTopKCategoricalAccuracy, k=either(draw, (1, 2)))
        if not refused(metric):
            ask(metric.update, np.ones(3, int), np.ones((3, 2)) / 2)
            ask(metric.result)
    elif kind == 2:
        ask(metrics.get, junk(draw))
    else:
        y = array(draw, ((4,),), ("int32", "int64", "uint8"), 0, 3)
        p = array(draw, ((4,),), ("int32", "int64", "uint8"), 0, 3)
        matrix = ask(metrics.confusion_matrix, y, p, either(draw, (3, 4)))
        if not refused(matrix):
            require(matrix.sum() == np.asarray(y).size, "a label was lost", y, p, matrix)


TARGETS = (
    loss_inputs,
    metric_inputs,
    metric_arguments,
)
