"""What `fit`, `evaluate`, `predict` and callbacks are given."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from hypothesis import strategies as st

import minirnn
from fuzz.judge import ask, clean, refused, require
from fuzz.values import Draw, arguments, array, either, junk
from minirnn import callbacks, layers, losses, optimizers
from minirnn.data import Dataset
from minirnn.models import Sequential

FLAGS = (False, True)


@functools.cache
def built() -> dict[str, Sequential]:
    dense = Sequential([layers.Dense(3, "softmax")])
    ids = Sequential(
        [layers.Embedding(5, 3, mask_zero=True), layers.LSTM(2), layers.Dense(3, "softmax")]
    )
    words = layers.TextVectorization(vocabulary=["oil", "price", "rise"])
    texts = Sequential(
        [words, layers.Embedding(5, 3, mask_zero=True), layers.GRU(2), layers.Dense(3, "softmax")]
    )
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
    y = (
        junk(draw)
        if draw(st.integers(0, 9)) == 0
        else array(draw, labels, ("int32", "int64"), 0, 3)
    )
    if draw(st.integers(0, 9)) == 0:
        x, y = Dataset.from_rows([(x, y)] * draw(st.integers(0, 2))), None
    what = draw(
        st.sampled_from(["fit", "fit", "evaluate", "predict", "train_on_batch", "predict_on_batch"])
    )
    known: dict[str, Any] = {"batch_size": (None, 1, 2, 32), "verbose": (0,)}
    weights = (None, lambda: array(draw, ((count,), (count, 3)), ("float32",), 0))
    if what == "fit":
        known |= {
            "epochs": (1, 2), "callbacks": (None, [], [callbacks.EarlyStopping("loss")]),
            "validation_split": (0.0, 0.5), "validation_data": (None, (x, y)), "shuffle": FLAGS,
            "class_weight": (None, {0: 2.0}, {1: 0.5, 2: 3}), "sample_weight": weights,
            "initial_epoch": (0, 1), "steps_per_epoch": (None, 1, 3),
                "checkpoint": (None, "/none/x"),
        }  # fmt: skip
    elif what == "evaluate":
        known |= {"sample_weight": weights, "return_dict": FLAGS}
    elif what == "train_on_batch":
        known = {"sample_weight": weights}
    elif what == "predict_on_batch":
        known = {}
    options = arguments(draw, known)
    if isinstance(options.get("checkpoint"), str) and not options["checkpoint"].startswith("/"):
        del options["checkpoint"]  # a path like another
    # What runs for as long as it is told to is no mistake.
    for key in ("epochs", "steps_per_epoch"):
        if isinstance(options.get(key), (int, np.integer)) and options[key] > 5:
            options[key] = 5
    if isinstance(options.get("verbose", 1), int) and "verbose" in known:
        options["verbose"] = 0
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
        require(
            np.isfinite(np.asarray(figures, float)).all(),
            f"{what} gave NaN",
            given,
            options,
            answer,
        )
    if what == "predict" and not isinstance(x, Dataset):
        require(len(answer) == len(x), "predict gave another number of rows", x, answer)


CALLBACKS = {
    "EarlyStopping": {
        "monitor": ("loss",), "patience": (0, 1), "min_delta": (0.0,), "mode": ("auto", "min"),
        "restore_best_weights": FLAGS, "verbose": (0,),
    },
    "ReduceLROnPlateau": {
        "monitor": ("loss",), "factor": (0.5,), "patience": (0, 1), "min_lr": (0.0,),
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


def model_arguments(draw: Draw) -> None:
    """The other methods of a model, with anything."""
    model = fresh(draw(st.sampled_from(["dense", "ids"])))
    kind = draw(st.integers(0, 7))
    if kind == 0:
        stack = [layers.Dense(2), layers.Dropout(0.5)]
        ask(Sequential, either(draw, (stack, (), [junk(draw)]), 2), name=junk(draw))
    elif kind == 1:
        optimizer = either(draw, ("adam", "SGD", "x", optimizers.Adam), 2)
        loss = either(draw, ("mse", "x", losses.MeanSquaredError), 2)
        ask(model.compile, optimizer, loss, either(draw, (None, [], ["acc"], ["x"], "acc"), 2))
    elif kind == 2:
        twin = Sequential([layers.Dense(2)])
        shapes = ((None, 3), (3,), (None, None), (2, 3), [None, 3], (-1, -1), (None, "a"))
        ask(twin.build, either(draw, shapes, 2))
    elif kind == 3:
        ask(model.get_layer, either(draw, ("dense", "x"), 2))
    elif kind == 4:
        weights = model.get_weights()
        changed = [array(draw, (w.shape,), ("float32",)) for w in weights]
        ask(model.set_weights, either(draw, (weights, changed, weights[:1], []), 3))
        require(all(w.dtype == np.float32 for w in model.get_weights()), "another dtype", changed)
    elif kind == 5:
        path = draw(st.sampled_from(["/none/x.mrnn", "/x.keras", "/", "/a\x00b", "/" + "x" * 300]))
        ask(model.save, path)
        ask(minirnn.load, path)
    elif kind == 6:
        ask(model.add, junk(draw))
        ask(model, junk(draw), mask=junk(draw), training=either(draw, FLAGS, 2))
    else:
        rate = junk(draw)
        ask(setattr, model.optimizer, "learning_rate", rate)
        ask(setattr, model, "stop_training", rate)


@functools.cache
def with_states() -> Sequential:
    rnn = layers.GRU(2, return_sequences=True, stateful=True)
    model = Sequential([layers.Embedding(5, 3, mask_zero=True), rnn, layers.Dense(3, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def windows(draw: Draw) -> None:
    """Windows of long rows: refused, or all of them are walked and trained on."""
    x = either(draw, (np.ones((3, 7), int), [[1, 2, 3], [4] * 9], [[]], np.ones((2, 3, 2))), 3)
    y = either(draw, (np.ones((3, 7), int), [[1, 2, 0], [1] * 9], [[]], np.ones(3, int), None), 3)
    model = draw(st.sampled_from([with_states()] * 5 + [fresh("ids"), Sequential(), junk(draw)]))
    known = {"batch_size": (1, 2, 32), "shuffle": FLAGS, "sample_weight": (None, np.ones(3))}
    made = ask(minirnn.Windows, model, x, y, either(draw, (1, 3, 100), 5), **arguments(draw, known))
    if refused(made):
        return
    count = ask(len, made)
    walked = ask(lambda: sum(1 for _ in made))
    require(refused(walked) or walked == count, "another number of windows", x, y, count, walked)
    ask(model.fit, made, verbose=0)


TARGETS = (training_arguments, callback_arguments, model_arguments, windows)
