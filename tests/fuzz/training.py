"""Losses, metrics, optimizers, schedules, callbacks, and what `fit` and its like are given."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fuzz.judge import ask, clean, refused, require, require_close
from fuzz.layers import plain
from fuzz.values import JSON_JUNK, Draw, array, arguments, either, junk, mutated
from minirnn import callbacks, layers, losses, metrics, optimizers, schedules
from minirnn.base import RowGradient
from minirnn.data import Dataset
from minirnn.models import Sequential
from minirnn.packing import Mask

FLAGS = (False, True)

# --- losses and metrics ---------------------------------------------------------------------------

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
    y_pred = array(draw, (sizes,), ("float32", "float32", "float64"), 0 if within else -9, 1 if within else 9)
    fitting = (steps, (*steps, 1)) if sparse else (sizes, steps)
    y_true = array(draw, fitting, ("int32", "int64", "float32") if sparse else ("float32", "bool"), 0, classes if sparse else 1)
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
        p = np.clip(p / p.sum(axis=1, keepdims=True), 1e-7, 1 - 1e-7)
    return -(y * np.log(p)).sum(axis=1)


def loss_inputs(draw: Draw) -> None:
    """A loss refuses a batch, or gives what float64 gives, and a finite gradient of y_pred's shape."""
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
    require(not any(isinstance(v, np.ma.MaskedArray) for v in given), f"{kind} dropped a mask", given)
    require(all(plain(v).dtype.kind in "biufc" for v in given if v is not None), f"{kind} took", given)
    mean, dy = answer
    y, p, w = (None if v is None else np.asarray(v) for v in given)
    require(dy.shape == p.shape, f"{kind}: the gradient has another shape", dy.shape, p.shape)
    if p.dtype.kind == "c" or y.dtype.kind == "c" or not clean(*[v for v in (p, y, w) if v is not None]):
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
    require_close(mean, expected, f"{kind}: not what float64 gives", loss, given, options, rtol=1e-3)


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
    require(not any(isinstance(v, np.ma.MaskedArray) for v in given), f"{name} dropped a mask", given)
    y, p, w = (None if v is None else np.asarray(v) for v in given)
    if p.dtype.kind == "c" or y.dtype.kind == "c" or not clean(*[v for v in (p, y, w) if v is not None]):
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


# --- optimizers -----------------------------------------------------------------------------------

RATES = (0.1, 0.0, 1, lambda: schedules.ExponentialDecay(0.1, 10, 0.5))
CLIPPING = {"clipnorm": (None, 1.0), "global_clipnorm": (None, 1.0), "clipvalue": (None, 0.5)}
OPTIMIZERS = {
    "SGD": {"momentum": (0.0, 0.9, 1.0), "nesterov": FLAGS},
    "RMSprop": {"rho": (0.9, 0.0), "momentum": (0.0, 0.5), "epsilon": (1e-7, 1e-3), "centered": FLAGS},
    "Adagrad": {"initial_accumulator_value": (0.1, 0.0), "epsilon": (1e-7, 1e-3)},
    "Adam": {"beta_1": (0.9, 0.0), "beta_2": (0.999, 0.0), "epsilon": (1e-7,), "lazy": FLAGS},
}
SCHEDULES = {
    "ExponentialDecay": {
        "initial_learning_rate": (0.1, 1), "decay_steps": (10, 1.5), "decay_rate": (0.5, 0.0, 1),
        "staircase": FLAGS,
    },
    "InverseTimeDecay": {
        "initial_learning_rate": (0.1, 1), "decay_steps": (10, 1.5), "decay_rate": (0.5, 0.0, 1),
        "staircase": FLAGS,
    },
    "PiecewiseConstantDecay": {"boundaries": ([1, 2], [1.5, 2, 7]), "values": ([1, 0.5, 0.1], [1, 2, 3, 4])},
    "CosineDecay": {
        "initial_learning_rate": (0.1, 1), "decay_steps": (10, 1.5), "alpha": (0.0, 0.5),
        "warmup_target": (None, 0.5), "warmup_steps": (0, 3),
    },
}  # fmt: skip


def schedule_arguments(draw: Draw) -> None:
    """A schedule gives a finite rate not below 0 for each step, or it is not made."""
    kind = draw(st.sampled_from(list(SCHEDULES)))
    schedule = ask(getattr(schedules, kind), **{k: either(draw, v, 6) for k, v in SCHEDULES[kind].items()})
    if refused(schedule):
        return
    for step in (0, 1, 5, 10**6):
        follows = optimizers.SGD(schedule)
        follows.iterations = step
        rate = ask(lambda follows=follows: follows.learning_rate)
        if refused(rate):
            return
        require(math.isfinite(rate) and rate >= 0, f"{kind} gave no rate", schedule, step, rate)
    again = ask(lambda: schedules.LearningRateSchedule.from_config(json.loads(json.dumps(schedule.get_config()))))
    require(not refused(again) and again(3) == schedule(3), f"{kind} lost its configuration", schedule)


def optimizer_arguments(draw: Draw) -> None:
    """An optimizer is made, goes through JSON, and moves weights to finite places; or it is refused."""
    kind = draw(st.sampled_from(list(OPTIMIZERS)))
    given = arguments(draw, OPTIMIZERS[kind] | CLIPPING | {"learning_rate": RATES})
    made = ask(getattr(optimizers, kind), **given)
    if refused(made):
        return
    again = ask(lambda: optimizers.Optimizer.from_config(json.loads(json.dumps(made.get_config()))))
    require(not refused(again), f"{kind} lost its configuration", given, again)
    rng = np.random.default_rng(2)
    params = {"w": rng.normal(size=(5, 3)).astype("f4"), "b": np.zeros(3, "f4")}
    for _ in range(3):
        rows = RowGradient(np.array([1, 4]), rng.normal(size=(2, 3)).astype("f4"))
        step = ask(made.apply, params, {"w": rows, "b": np.ones(3, "f4")})
        require(not refused(step), f"{kind} was made and does not step", given, step)
    if not refused(ask(lambda: made.learning_rate)) and made.learning_rate > 1e6:
        return
    finite = all(np.isfinite(p).all() for p in params.values())
    require(finite, f"{kind} moved weights to NaN", given, params)


def optimizer_inputs(draw: Draw) -> None:
    """Gradients that fit no parameter are refused, and what is refused changes nothing."""
    made = getattr(optimizers, draw(st.sampled_from(list(OPTIMIZERS))))()
    params = {"w": np.ones((3, 2), "f4"), "b": np.ones(2, "f4")}
    grads: dict[Any, Any] = {}
    for name in draw(st.lists(st.sampled_from(["w", "b", "v", 3, ("w", 1)]), unique=True, max_size=3)):
        grads[name] = array(draw, ((3, 2) if name == "w" else (2,),), ("float32",))
        if draw(st.integers(0, 4)) == 0:
            ids = np.sort(np.atleast_1d(plain(array(draw, ((2,),), ("int64",), 0, 4))))
            grads[name] = RowGradient(ids, array(draw, ((2, 2),), ("float32",)))
        if draw(st.integers(0, 9)) == 0:
            grads[name] = junk(draw)
    answer = ask(made.apply, params, grads)
    if refused(answer):
        untouched = all((p == 1).all() for p in params.values())
        require(untouched, "a refused step changed weights", grads, params, answer)
        return
    require(all(p.dtype == np.float32 for p in params.values()), "another dtype", params)
    taken = [g.rows if isinstance(g, RowGradient) else g for g in grads.values()]
    require(not any(isinstance(g, np.ma.MaskedArray) for g in taken), "apply dropped a mask", grads)
    if all(clean(g) for g in taken):
        require(all(np.isfinite(p).all() for p in params.values()), "apply gave NaN", grads, params)


def optimizer_state(draw: Draw) -> None:
    """A state that is not this optimizer's is refused; one that is goes on."""
    kind = draw(st.sampled_from(["SGD", "RMSprop", "Adagrad", "Adam"]))
    made = getattr(optimizers, kind)(momentum=0.9) if kind == "SGD" else getattr(optimizers, kind)()
    params = {"w": np.ones((3, 2), "f4")}
    made.apply(params, {"w": np.ones((3, 2), "f4")})
    state = made.state_dict()
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from([*state, "w/x", "scale/m", "", "velocity"]))
        how = draw(st.integers(0, 3))
        if how == 0:
            state.pop(name, None)
        elif how == 1:
            state[name] = draw(st.sampled_from(JSON_JUNK))
        elif how == 2:
            state[name] = array(draw, ((3, 2),), ("float32",))
        else:
            state[name] = junk(draw)
    twin = type(made).from_config(made.get_config())
    answer = ask(twin.load_state_dict, state if draw(st.integers(0, 20)) else junk(draw))
    if refused(answer):
        return
    step = ask(twin.apply, params, {"w": np.ones((3, 2), "f4")})
    stored = [v for v in state.values() if isinstance(v, (np.ndarray, list))]
    if not refused(step) and all(clean(v) for v in state.values() if not isinstance(v, (str, dict, list))):
        if all(clean(v) for v in stored):
            require(np.isfinite(params["w"]).all(), f"{kind}: a state led to NaN", state, params)


def configurations(draw: Draw) -> None:
    """Configurations of losses, optimizers and schedules with places changed."""
    good: Any = draw(
        st.sampled_from(
            [
                losses.CategoricalCrossentropy(label_smoothing=0.1).get_config(),
                optimizers.Adam().get_config(),
                optimizers.SGD(schedules.CosineDecay(0.1, 10), momentum=0.5).get_config(),
                schedules.PiecewiseConstantDecay([1, 2], [1, 2, 3]).get_config(),
            ]
        )
    )
    kind = next(
        base
        for base, table in (
            (losses.Loss, losses.LOSSES),
            (optimizers.Optimizer, optimizers.OPTIMIZERS),
            (schedules.LearningRateSchedule, schedules.SCHEDULES),
        )
        if good["name"] in table
    )
    changed = mutated(draw, good, ["learning_rate", "from_logits", "beta_1"])
    made = ask(kind.from_config, changed)
    if not refused(made):
        ask(repr, made)


# --- fit, evaluate, predict -----------------------------------------------------------------------


@functools.cache
def built() -> dict[str, Sequential]:
    dense = Sequential([layers.Dense(3, "softmax")])
    ids = Sequential([layers.Embedding(5, 3, mask_zero=True), layers.LSTM(2), layers.Dense(3, "softmax")])
    words = layers.TextVectorization(vocabulary=["oil", "price", "rise"])
    texts = Sequential([words, layers.Embedding(5, 3, mask_zero=True), layers.GRU(2), layers.Dense(3, "softmax")])
    tagger = Sequential([layers.LSTM(2, return_sequences=True), layers.Dense(3, "softmax")])
    dense.build((None, 4))
    tagger.build((None, None, 4))
    ids.build()
    texts.build()
    return {"dense": dense, "ids": ids, "texts": texts, "tagger": tagger}


def fresh(name: str) -> Sequential:
    """A model that a case may spoil."""
    model = built()[name]
    twin = Sequential.from_config(model.get_config())
    twin.build(model.input_shape)
    twin.set_weights(model.get_weights())
    twin.compile("sgd", "sparse_categorical_crossentropy", ["acc"])
    return twin


def rows_for(draw: Draw, name: str) -> Any:
    if name == "dense":
        return array(draw, ((4, 4), (1, 4)), ("float32", "float64", "int32"))
    if name == "tagger":
        return array(draw, ((4, 3, 4), (2, 0, 4)), ("float32",))
    if name == "ids":
        ragged = [[1, 2], [3], [4, 1, 2], []]
        return array(draw, ((4, 3),), ("int32", "int64"), 0, 5) if draw(st.booleans()) else ragged
    words = ["oil price", "rise", "", "snow"]
    kind = draw(st.integers(0, 3))
    return (words, np.array(words), np.array(words, object), [w.encode() for w in words])[kind]


def training_arguments(draw: Draw) -> None:
    """`fit`, `evaluate`, `predict` and their like: refused by name, or finite figures."""
    name = draw(st.sampled_from(["dense", "ids", "texts", "tagger"]))
    model = fresh(name)
    x = junk(draw) if draw(st.integers(0, 9)) == 0 else rows_for(draw, name)
    try:
        count = len(x)
    except Exception:
        count = 4
    labels = ((count, 3), (count,)) if name == "tagger" else ((count,), (count, 1))
    y = junk(draw) if draw(st.integers(0, 9)) == 0 else array(draw, labels, ("int32", "int64"), 0, 3)
    if draw(st.integers(0, 9)) == 0:
        x, y = Dataset.from_rows([(x, y)] * draw(st.integers(0, 2))), None
    what = draw(st.sampled_from(["fit", "fit", "evaluate", "predict", "train_on_batch", "predict_on_batch"]))
    known: dict[str, Any] = {"batch_size": (None, 1, 2, 32), "verbose": (0,)}
    weights = (None, lambda: array(draw, ((count,), (count, 3)), ("float32",), 0))
    if what == "fit":
        known |= {
            "epochs": (1, 2), "callbacks": (None, [], [callbacks.EarlyStopping("loss")]),
            "validation_split": (0.0, 0.5), "validation_data": (None, (x, y)), "shuffle": FLAGS,
            "class_weight": (None, {0: 2.0}, {1: 0.5, 2: 3}), "sample_weight": weights,
            "initial_epoch": (0, 1), "steps_per_epoch": (None, 1, 3),
        }  # fmt: skip
    elif what == "evaluate":
        known |= {"sample_weight": weights, "return_dict": FLAGS}
    elif what == "train_on_batch":
        known = {"sample_weight": weights}
    elif what == "predict_on_batch":
        known = {}
    options = arguments(draw, known)
    # What runs for as long as it is told to is no mistake.
    for key in ("epochs", "steps_per_epoch"):
        if isinstance(options.get(key), (int, np.integer)) and options[key] > 5:
            options[key] = 5
    if what in ("fit", "evaluate") and options.get("verbose") in ("auto", 1, 2, True):
        options["verbose"] = 0
    options.setdefault("verbose", 0) if "verbose" in known else None
    given = (x,) if what.startswith("predict") else (x, y)
    answer = ask(getattr(model, what), *given, **options)
    if refused(answer):
        return
    spoilt = [*given, options.get("sample_weight")]
    masked = any(isinstance(v, np.ma.MaskedArray) for v in spoilt)
    require(not masked, f"{what} dropped the mask of a masked array", given, options)
    figures: Any = answer
    if what == "fit":
        figures = sum(answer.history.values(), [])
    elif isinstance(answer, dict):
        figures = list(answer.values())
    numbers = [x] if name != "texts" else []
    numbers += [v for v in (y, options.get("sample_weight")) if v is not None]
    if isinstance(options.get("class_weight"), dict):
        numbers += list(options["class_weight"].values())
    flat = all(isinstance(v, (np.ndarray, int, float)) for v in numbers)
    if flat and clean(*numbers):
        require(np.isfinite(np.asarray(figures, float)).all(), f"{what} gave NaN", given, options, answer)
    if what == "predict" and not isinstance(x, Dataset):
        require(len(answer) == len(x), "predict gave another number of rows", x, answer)


CALLBACKS = {
    "EarlyStopping": {
        "monitor": ("loss",), "patience": (0, 1), "min_delta": (0.0,), "mode": ("auto", "min"),
        "restore_best_weights": FLAGS, "verbose": (0,),
    },
    "ReduceLROnPlateau": {
        "monitor": ("loss",), "factor": (0.5,), "patience": (0, 1), "min_lr": (0.0,), "verbose": (0,),
    },
    "LearningRateScheduler": {"schedule": (lambda: lambda epoch, rate: rate / 2,)},
    "TerminateOnNaN": {},
}  # fmt: skip


def callback_arguments(draw: Draw) -> None:
    """A callback is refused, or gets through two epochs."""
    kind = draw(st.sampled_from([k for k in CALLBACKS if hasattr(callbacks, k)]))
    known = CALLBACKS[kind]
    given = arguments(draw, known)
    if "schedule" in known:
        given["schedule"] = either(draw, known["schedule"])
        if callable(given["schedule"]):  # what a function of the user's does is the user's
            given["schedule"] = lambda epoch, rate: rate / 2
    callback = ask(getattr(callbacks, kind), **given)
    if refused(callback):
        return
    model = fresh("dense")
    x, y = np.ones((4, 4), "f4"), np.array([0, 1, 2, 0])
    ask(model.fit, x, y, epochs=2, verbose=0, callbacks=[callback])


TARGETS = (
    loss_inputs,
    metric_inputs,
    metric_arguments,
    schedule_arguments,
    optimizer_arguments,
    optimizer_inputs,
    optimizer_state,
    configurations,
    training_arguments,
    callback_arguments,
)
