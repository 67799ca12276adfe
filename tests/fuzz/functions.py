"""The functions that notebooks call: to generate, to translate, to look inside."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

import minirnn
from fuzz.judge import ask, refused, require
from fuzz.models import good_models
from fuzz.training import fresh
from fuzz.values import Draw, arguments, array, either
from minirnn import backend, generation, inspect, layers, utils
from minirnn.models import Sequential
from minirnn.word2vec import train_word2vec

FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-functions-")
FLAGS = (False, True)

# --- generating -----------------------------------------------------------------------------------


@functools.cache
def writer() -> Sequential:
    model = Sequential(
        [
            layers.Embedding(5, 3, mask_zero=True),
            layers.GRU(4, return_sequences=True),
            layers.Dense(5, "softmax"),
        ]
    )
    model.build()
    return model


DRAWING = {"temperature": (0.0, 0.5, 1.0), "top_k": (None, 1, 3), "rng": (0, None)}


def generating(draw: Draw) -> None:
    """`generate` and `sample`: ids of the vocabulary, or a named error."""
    options = arguments(draw, DRAWING)
    if draw(st.booleans()):
        p = array(draw, ((5,), (2, 5)), ("float32", "float64"), 0, 1)
        if draw(st.booleans()) and np.ndim(p) and np.asarray(p).dtype.kind == "f" and np.size(p):
            with np.errstate(all="ignore"):
                p = np.asarray(p) / np.asarray(p).sum(axis=-1, keepdims=True)
        ids = ask(generation.sample, p, from_logits=either(draw, FLAGS), **options)
        if not refused(ids):
            require(np.shape(ids) == np.shape(p)[:-1], "another shape", p, ids)
            require(bool(((ids >= 0) & (ids < np.shape(p)[-1])).all()), "no class", p, ids)
        return
    start = either(draw, ([1], [1, 2], [[1], [2, 3]], np.array([[1, 2]]), [], [9], [[]]), 3)
    steps = either(draw, (1, 3), 5)
    if isinstance(steps, (int, np.integer)) and steps > 100:
        steps = 5
    model = either(draw, (writer, lambda: fresh("dense"), lambda: Sequential()), 9)
    model = model() if model is writer else model
    ids = ask(generation.generate, model, start, steps, stop=either(draw, (None, 3), 5), **options)
    if not refused(ids):
        require(bool(((ids >= 0) & (ids < 5)).all()), "no id of the vocabulary", start, ids)


@functools.cache
def translator() -> Any:
    path = Path(FOLDER.name, "translator.mrnn")
    path.write_bytes(good_models()[2])
    return minirnn.load(path)


def translating(draw: Draw) -> None:
    """Seq2Seq: what it is made of, what it is trained on, what it translates."""
    model = translator()
    kind = draw(st.integers(0, 3))
    x = either(draw, ([[1, 2], [3]], np.array([[1, 2], [3, 0]]), [[9]], [[]], []), 4)
    if kind == 0:
        length = either(draw, (1, 4), 5)
        if isinstance(length, (int, np.integer)) and length > 100:
            length = 5
        written = ask(
            model.translate, x, length, **arguments(draw, DRAWING | {"batch_size": (None, 1)})
        )
        if not refused(written):
            require(len(written) == len(x), "a row was lost", x, written)
    elif kind == 1:
        y = either(draw, ([[1, 2], [3]], np.array([[1, 2], [3, 0]]), [[4]], [[0, 1], [2]], []), 4)
        twin = type(model).from_config(model.get_config())
        twin.compile("sgd", "sparse_categorical_crossentropy", ["acc"])
        options = arguments(
            draw,
            {
                "batch_size": (None, 1),
                "validation_split": (0.0, 0.5),
                "shuffle": FLAGS,
                "sample_weight": (None, np.ones(2)),
            },
        )
        ask(twin.fit, x, y, verbose=0, **options)
        ask(model.predict, x, y)
    elif kind == 2:
        config = model.get_config()
        first = either(draw, (4, 1), 2)
        last = either(draw, (5, 2), 2)
        ask(type(model).from_config, config | {"start": first, "end": last})
    else:
        halves = {"encoder": 0, "decoder": 0}
        for half in halves:
            good = [minirnn.saving.revive(layer) for layer in model.get_config()[half]]
            halves[half] = either(draw, (good, good[:1], good[::-1], []), 5)
        ask(minirnn.Seq2Seq, **halves, start=4, end=5)


# --- seeing inside --------------------------------------------------------------------------------


def looking_inside(draw: Draw) -> None:
    """`inspect`: what notebooks ask of a model and a text."""
    name = draw(st.sampled_from(["texts", "ids", "tagger", "dense"]))
    model = fresh(name)
    good = {
        "texts": ("oil price", "", "snow"),
        "ids": ([1, 2], np.array([3])),
        "tagger": (np.ones((3, 4), "f4"),),
        "dense": (np.ones(4, "f4"),),
    }
    kind = draw(st.integers(0, 4))
    if kind == 0:
        seen = ask(
            inspect.trace,
            either(draw, (lambda: model,), 9),
            either(draw, good[name], 3),
            either(draw, (None, 0, 2), 4),
        )
        if not refused(seen) and draw(st.integers(0, 4)) == 0:
            ask(inspect.html_page, seen, either(draw, (None, ["a", "b", "c"], ["a"]), 3))
    elif kind == 1:
        batch = either(draw, ([good[name][0]], good[name], []), 3)
        ask(inspect.gradient_flow, model, batch, either(draw, (None, [0], np.array([1])), 3))
    elif kind == 2:
        cell = draw(st.sampled_from([layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell]))(2)
        if draw(st.integers(0, 4)):
            cell.build(3)
        h = array(draw, ((2,), (1, 2)), ("float32", "float64"))
        state = (h, h) if draw(st.booleans()) else h
        ask(
            inspect.explain,
            cell,
            array(draw, ((3,), (1, 3)), ("float32",)),
            state,
            either(draw, (None, state), 5),
            digits=either(draw, (3, 5), 5),
        )
    elif kind == 3:
        data = either(draw, ([[1, 2], [3]], np.array([[1, 2], [3, 0]]), [], [[]]), 3)
        ask(
            inspect.padding_ledger,
            data,
            batch_size=either(draw, (None, 1), 5),
            boundaries=either(draw, (None, [2]), 5),
        )
    else:
        rows = either(draw, ([[1, 2], [3]], [[1], [2]], [[1]], ["oil", "snow"], []), 3)
        padding = either(draw, (1, 3), 4)
        if isinstance(padding, (int, np.integer)) and padding > 100:
            padding = 3
        ask(minirnn.check_padding_invariance, model, rows, padding)


def checking_gradients(draw: Draw) -> None:
    """`gradcheck` of things and with arguments that are wrong: named; a right layer passes."""
    thing = either(
        draw,
        (
            lambda: layers.Dense(2),
            lambda: layers.SimpleRNN(2),
            lambda: minirnn.losses.MeanSquaredError(),
        ),
        5,
    )
    x = array(draw, ((2, 3), (2, 3, 2)), ("float32", "float64"))
    known = {
        "mask": (None, np.ones((2, 3), bool)), "y_true": (None, np.ones((2, 3))),
        "sample_weight": (None, np.ones(2)), "training": FLAGS, "redraw": FLAGS,
        "loss": (None, "mse"), "method": ("auto", "central"),
        "tolerance": (None, 1e-4), "seed": (0, 1), "sample": (None, 3),
    }  # fmt: skip
    report = ask(minirnn.gradcheck, thing, x, **arguments(draw, known))
    if not refused(report):
        ask(str, report)


# --- small functions ------------------------------------------------------------------------------


def small_functions(draw: Draw) -> None:
    """What stands beside: one-hot labels, seeds, types, backends, word2vec."""
    kind = draw(st.integers(0, 4))
    if kind == 0:
        labels = array(draw, ((3,), (3, 1)), ("int32", "int64"), 0, 4)
        y = ask(utils.to_categorical, labels, either(draw, (None, 4, 5)))
        if not refused(y):
            require(bool((y.sum(axis=-1) == 1).all()), "not one 1", labels, y)
    elif kind == 1:
        value = either(draw, ("float32", "float64", np.float32), 2)
        ask(backend.set_floatx, value)
        backend.set_floatx("float32")
    elif kind == 2:
        ask(backend.set_random_seed, either(draw, (0, 1, None), 2))
        backend.set_random_seed(0)
    elif kind == 3:
        ask(backend.set_backend, either(draw, ("numpy", "x"), 2))
        backend.set_backend("numpy")
    else:
        rows = either(draw, ([[1, 2, 3], [2, 3]], [np.array([1, 2])], [], [[0]], [[7]]), 3)
        options = arguments(
            draw,
            {
                "dim": (2, 3),
                "window": (1, 2),
                "negatives": (1, 2),
                "epochs": (1,),
                "seed": (0, None),
                "learning_rate": (0.01, 0.1),
                "batch_size": (1, 4),
            },
        )
        for key, most in (
            ("epochs", 3),
            ("dim", 10),
            ("window", 10),
            ("negatives", 10),
            ("batch_size", 100),
        ):
            if isinstance(options.get(key), (int, np.integer)) and options[key] > most:
                options[key] = most
        table = ask(train_word2vec, rows, either(draw, (5, 4), 6), **options)
        if not refused(table):
            require(bool(np.isfinite(table).all()), "word2vec gave NaN", rows, options)


TARGETS = (generating, translating, looking_inside, checking_gradients, small_functions)
