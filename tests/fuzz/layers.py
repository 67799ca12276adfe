"""Layers: what they are made with, and what they are given."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import oracle
from hypothesis import strategies as st

from fuzz import values
from fuzz.judge import ask, clean, refused, require, require_close
from fuzz.values import Draw, arguments, array, either, junk
from minirnn import activations, initializers, layers, saving
from minirnn.models import Sequential
from minirnn.packing import Mask

SIZES = (1, 2, 3)
FLAGS = (False, True)
SHARES = (0.0, 0.5, 0.9)
ACTIVATIONS = (*activations.NAMES, activations.tanh, None)
INITIALIZERS = (
    *initializers.NAMES,
    lambda: initializers.Constant(0.5),
    lambda: initializers.Zeros(),
)
SEEDS = (None, 0, 7)
NAMES = (None, "a", "b c")
BASE = {"name": NAMES, "trainable": FLAGS}
CELL = {
    "units": SIZES,
    "activation": ACTIVATIONS,
    "use_bias": FLAGS,
    "kernel_initializer": INITIALIZERS,
    "recurrent_initializer": INITIALIZERS,
    "bias_initializer": INITIALIZERS,
}
GATED = CELL | {"recurrent_activation": ACTIVATIONS}
WALK = {
    "return_sequences": FLAGS,
    "return_state": FLAGS,
    "go_backwards": FLAGS,
    "stateful": FLAGS,
    "zero_output_for_mask": FLAGS,
    "dropout": SHARES,
    "recurrent_dropout": SHARES,
}
INNER = (
    lambda: layers.LSTM(2),
    lambda: layers.GRU(1, return_sequences=True),
    lambda: layers.Dense(2),
)

# class → its arguments with good values, and the shapes of what it is called with
ARGUMENTS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "Dense": ({k: CELL[k] for k in CELL if k != "recurrent_initializer"}, (2, 3)),
    "SimpleRNN": (CELL | WALK, (2, 4, 3)),
    "LSTM": (GATED | WALK | {"unit_forget_bias": FLAGS}, (2, 4, 3)),
    "GRU": (GATED | WALK | {"reset_after": FLAGS}, (2, 4, 3)),
    "RNN": ({"cell": (lambda: layers.LSTMCell(2), lambda: layers.GRUCell(1))} | WALK, (2, 4, 3)),
    "Bidirectional": (
        {"layer": INNER, "merge_mode": ("concat", "sum", "mul", "ave", None)},
        (2, 4, 3),
    ),
    "TimeDistributed": ({"layer": INNER}, (2, 4, 3)),
    "Activation": ({"activation": ACTIVATIONS}, (2, 3)),
    "Dropout": ({"rate": SHARES, "seed": SEEDS}, (2, 3)),
    "Embedding": (
        {
            "input_dim": (5,),
            "output_dim": SIZES,
            "embeddings_initializer": INITIALIZERS,
            "mask_zero": FLAGS,
            "weights": (None, lambda: np.ones((5, 2)), lambda: [np.ones((5, 3))]),
        },
        (2, 4),
    ),
    "OneHot": ({"num_tokens": (5,), "mask_zero": FLAGS}, (2, 4)),
    "Masking": ({"mask_value": (0.0, 1.0, -1)}, (2, 4, 3)),
    "DropMask": ({}, (2, 3)),
    "Flatten": ({}, (2, 4, 3)),
    "GlobalAveragePooling1D": ({}, (2, 4, 3)),
    "GlobalMaxPooling1D": ({}, (2, 4, 3)),
    "Input": (
        {"shape": ((), (None,), (None, 3)), "batch_size": (None, 2), "dtype": (None, "int32")},
        (2, 3),
    ),
    "LSTMCell": (GATED | {"unit_forget_bias": FLAGS}, ()),
    "GRUCell": (GATED, ()),
    "GRUCellResetBefore": (GATED, ()),
    "SimpleRNNCell": (CELL, ()),
}  # fmt: skip
REQUIRED = {"units", "cell", "layer", "activation", "rate", "input_dim", "output_dim", "num_tokens"}
REQUIRED_OF = {"Activation": {"activation"}}


def layer_arguments(draw: Draw) -> None:
    """A layer is made with the arguments or says what is wrong with one of them; once it is made,
    it computes finite numbers of the shape it promised, and its configuration makes another."""
    kind = draw(st.sampled_from(list(ARGUMENTS)))
    known, sizes = ARGUMENTS[kind]
    given = arguments(draw, known | (BASE if not kind.endswith(("Cell", "Before")) else {}))
    needed = REQUIRED & set(known) - ({"activation"} if kind != "Activation" else set())
    for name in sorted(needed - set(given)):
        given[name] = either(draw, known[name], bad=12)
    if draw(st.integers(0, 30)) == 0 and sizes:
        given[draw(st.sampled_from(["input_shape", "unit", "kernel"]))] = 3
    layer = ask(getattr(layers, kind), **given)
    if refused(layer):
        return
    config = ask(lambda: json.loads(json.dumps(saving.describe(layer))))
    if not sizes:
        return
    x = np.random.default_rng(0).integers(0, 5, sizes).astype(np.float32)
    y = ask(layer, x)
    if refused(y) or layer.name != (given.get("name") or layer.name):
        return
    if not any(np.shape(part) for part in np.atleast_1d(given.get("mask_value", 0.0))):
        promised = ask(layer.compute_output_shape, sizes)
        first = y[0] if isinstance(y, tuple) else y
        if not isinstance(y, tuple):
            require(
                promised == first.shape, f"{kind} gave another shape", given, promised, first.shape
            )
        states = y if isinstance(y, tuple) else (y,)
        finite = all(bool(np.isfinite(part).all()) for part in states)
        runs_off = {"relu", "elu", "softplus", "exponential", "linear", None} & set(
            functions_in(given)
        )
        small = clean(*layer.params.values())
        require(finite or runs_off or not small, f"{kind} gave NaN", given)
    if not refused(config):
        again = ask(saving.revive, config)
        require(not refused(again), f"{kind} cannot be made of its configuration", given, again)
        second, third = (
            saving.describe(again),
            saving.describe(saving.revive(saving.describe(again))),
        )
        require(repr(second) == repr(third), f"{kind} changed its configuration", second, third)


def functions_in(given: dict[str, Any]) -> list[Any]:
    """The activations that a layer was given; those without a bound may grow past all numbers."""
    names = [given.get(key) for key in ("activation", "recurrent_activation")]
    return (
        [name for name in names if isinstance(name, str | None)]
        if "activation" in given or "recurrent_activation" in given
        else []
    )


# --- what they are given --------------------------------------------------------------------------


@functools.cache
def made(kind: str) -> Any:
    """A layer of each kind that is built, with weights that stay as they are."""
    options = {"kernel_initializer": initializers.GlorotUniform(seed=3)}
    layer = {
        "Dense": lambda: layers.Dense(3, "tanh", **options),
        "softmax": lambda: layers.Dense(3, "softmax", **options),
        "SimpleRNN": lambda: layers.SimpleRNN(2, **options),
        "LSTM": lambda: layers.LSTM(2, **options),
        "sequences": lambda: layers.LSTM(2, return_sequences=True, return_state=True, **options),
        "backwards": lambda: layers.GRU(2, go_backwards=True, return_sequences=True, **options),
        "GRU": lambda: layers.GRU(2, **options),
        "before": lambda: layers.GRU(2, reset_after=False, **options),
        "Bidirectional": lambda: layers.Bidirectional(layers.LSTM(2, **options)),
        "both": lambda: layers.Bidirectional(
            layers.GRU(2, return_sequences=True, **options), merge_mode="sum"
        ),
        "TimeDistributed": lambda: layers.TimeDistributed(layers.Dense(2, **options)),
        "Activation": lambda: layers.Activation("sigmoid"),
        "Softmax": lambda: layers.Activation("softmax"),
        "Dropout": lambda: layers.Dropout(0.5),
        "Embedding": lambda: layers.Embedding(5, 3),
        "mask_zero": lambda: layers.Embedding(5, 3, mask_zero=True),
        "OneHot": lambda: layers.OneHot(5),
        "Masking": lambda: layers.Masking(),
        "DropMask": lambda: layers.DropMask(),
        "Flatten": lambda: layers.Flatten(),
        "GlobalAveragePooling1D": lambda: layers.GlobalAveragePooling1D(),
        "GlobalMaxPooling1D": lambda: layers.GlobalMaxPooling1D(),
    }[kind]()
    shape = (None, None, 3)
    if kind in ("Dense", "softmax"):
        shape = (None, 3)
    layer.build(shape)
    return layer


KINDS = (
    *("Dense", "softmax", "SimpleRNN", "LSTM", "sequences", "backwards", "GRU", "before"),
    *("Bidirectional", "both", "TimeDistributed", "Activation", "Softmax", "Dropout", "Embedding"),
    *("mask_zero", "OneHot", "Masking", "DropMask", "Flatten", "GlobalAveragePooling1D"),
    "GlobalMaxPooling1D",
)
RECURRENT = {"SimpleRNN": "simple_rnn", "LSTM": "lstm", "GRU": "gru", "before": "gru_reset_before"}
IDS = ("Embedding", "mask_zero", "OneHot")
SHAPES = ((2, 3), (2, 4, 3), (0, 4, 3), (2, 0, 3), (1, 1, 3), (2, 4), (0, 0), (3, 0), (2, 4, 5))


def layer_inputs(draw: Draw) -> None:
    """Any x, mask and initial state: refused, or the same as for a plain float copy of them."""
    kind = draw(st.sampled_from(KINDS))
    layer = made(kind)
    if kind in IDS:
        x = array(
            draw,
            ((2, 4), (2, 1), (0, 3), (2, 0), (3,)),
            ("int32", "int64", "uint8", "float32"),
            0,
            5,
        )
    else:
        x = array(draw, SHAPES, ("float32", "float32", "float64", "int32"))
    if draw(st.integers(0, 19)) == 0:
        x = junk(draw)
    options: dict[str, Any] = {}
    if draw(st.booleans()):
        options["mask"] = mask(draw, np.shape(plain(x)))
    if draw(st.integers(0, 3)) == 0 and isinstance(layer, layers.RNN | layers.Bidirectional):
        options["initial_state"] = initial_state(draw, layer, np.shape(plain(x))[:1])
    if draw(st.integers(0, 3)) == 0:
        options["training"] = True
    before = plain(x)
    before = before.copy() if isinstance(before, np.ndarray) else None
    y = ask(layer, x, **options)
    if refused(y) or kind == "DropMask":  # which hands on whatever it is given
        return
    require(before is not None, f"{kind} took what is no array of numbers", x)
    same = plain(x).tobytes() == before.tobytes() or before.dtype.kind == "O"
    require(same, f"{kind} changed its input", x)
    require(not isinstance(x, np.ma.MaskedArray), f"{kind} dropped the mask of a masked array", x)
    require(before.dtype.kind in "biufc", f"{kind} computed with {before.dtype}", x, y)
    parts = y if isinstance(y, tuple) else (y,)
    if not isinstance(y, tuple):
        promised = layer.compute_output_shape(np.shape(before))
        require(promised == y.shape, f"{kind} gave another shape", promised, y.shape, x)
    if before.dtype.kind == "c" or not clean(before) or not states_clean(options):
        return
    require(all(np.isfinite(part).all() for part in parts), f"{kind} gave NaN", x, options, y)
    if kind == "Dropout" and options.get("training"):
        return
    dtype = np.int64 if kind in IDS else np.float32
    expected = ask(layer, np.array(before, dtype=dtype, order="C"), **options)
    for one, other in zip(parts, expected if isinstance(y, tuple) else (expected,), strict=True):
        require_close(one, other, f"{kind} depends on the guise of x", x, options)
    if kind in RECURRENT and before.size:
        given = options.get("initial_state")
        if given is not None and len(np.shape(given)) == 2:
            given = [given]
        m = options.get("mask")
        m = m.array if isinstance(m, Mask) else m
        expected, _ = oracle.run_layer(RECURRENT[kind], layer.params, before, m, given)
        require_close(y, expected, f"{kind} is not what the papers say", x, options, rtol=1e-3)


def plain(x: Any) -> Any:
    """x as an array, if it can be one."""
    try:
        return np.asarray(x)
    except Exception:
        return None


def states_clean(options: dict[str, Any]) -> bool:
    given = options.get("initial_state")
    try:
        return given is None or clean(*[np.asarray(s) for s in given])
    except Exception:
        return False


def mask(draw: Draw, sizes: tuple[int, ...]) -> Any:
    kind = draw(st.integers(0, 7))
    fitting = (*sizes, 1, 1)[:2]
    if kind == 0:
        return junk(draw)
    if kind == 1:
        return array(draw, (fitting,), ("bool", "int32", "float32"))
    real = np.random.default_rng(draw(st.integers(0, 999))).random(fitting) < 0.6
    if kind == 2:
        real[...] = False
    if kind == 3:
        return real.tolist()
    return Mask(real) if kind == 4 else real


def initial_state(draw: Draw, layer: Any, rows: tuple[int, ...]) -> Any:
    sizes = ((*(rows or (1,)), 2),)
    count = draw(st.sampled_from([1, 2, 2, 4, 3]))
    if draw(st.integers(0, 5)) == 0:
        return junk(draw)
    states = [array(draw, sizes, ("float32", "float64")) for _ in range(count)]
    return (
        states[0]
        if count == 1 and draw(st.booleans())
        else draw(st.sampled_from([tuple, list]))(states)
    )


# --- models of several layers ---------------------------------------------------------------------


def grows_without_bound(layer: Any) -> bool:
    """Whether it may give numbers so large that the next layer takes inf from inf."""
    parts = (layer, getattr(layer, "layer", None), getattr(layer, "cell", None))
    used = [getattr(part, name, None) for part in parts for name in ("activation", "cell")]
    used += [getattr(part, "activation", None) for part in used]
    return activations.exponential in used


def model_shapes(draw: Draw) -> None:
    """Layers one after another in any order: they fit, or one of them says why not."""
    stack = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from([k for k, (_, sizes) in ARGUMENTS.items() if sizes]))
        known, _ = ARGUMENTS[kind]
        given = {name: either(draw, known[name], bad=200) for name in sorted(REQUIRED & set(known))}
        if "return_sequences" in known and draw(st.booleans()):
            given["return_sequences"] = True
        layer = ask(getattr(layers, kind), **given)
        if refused(layer):
            return
        stack.append(layer)
    model = ask(Sequential, stack)
    if refused(model):
        return
    sizes = draw(st.sampled_from([(2, 4), (2, 4, 3), (2, 3), (1, 1, 1), (3,), (2, 0, 3)]))
    x = np.random.default_rng(1).integers(0, 3, sizes).astype(draw(st.sampled_from(["f4", "i4"])))
    if draw(st.booleans()):
        ask(model.build, (None, *sizes[1:]))
    y = ask(model, x)
    if not refused(y):
        grows = any(grows_without_bound(layer) for layer in stack)
        names = [type(layer).__name__ for layer in stack]
        require(grows or np.isfinite(y).all(), "NaN out of a model", names, y)
    out = ask(model.predict, x)
    if not refused(y) and not refused(out):
        require_close(out, y, "predict is not the model's output", stack)


def initializer_arguments(draw: Draw) -> None:
    """An initializer draws finite numbers of a shape and a type, or says why it cannot."""
    kind = draw(st.sampled_from(sorted({made.__name__ for made in initializers.NAMES.values()})))
    seeded = {"seed": SEEDS}
    known = {
        "Constant": {"value": (0.0, 1, lambda: np.ones((2, 3)))},
        "RandomUniform": {"minval": (-1.0, 0.0), "maxval": (0.0, 1.0)} | seeded,
        "RandomNormal": {"mean": (0.0, 1.0), "stddev": (0.0, 0.5)} | seeded,
        "GlorotUniform": seeded,
        "HeUniform": seeded,
        "Orthogonal": {"gain": (1.0, 0.5)} | seeded,
    }.get(kind, {})
    given = arguments(draw, known)
    made_of_it = ask(getattr(initializers, kind), **given)
    if refused(made_of_it):
        return
    sizes = draw(st.sampled_from([(2, 3), (3,), (), (0, 2), (2, 3, 4), (10**6, 10**6), (2**62, 4)]))
    weights = ask(made_of_it, sizes)
    if not refused(weights):
        require(weights.shape == sizes and weights.dtype == np.float32, f"{kind} drew", weights)
        sound = np.isfinite(weights).all() or kind == "Constant"  # which may be given NaN
        require(sound, f"{kind} drew NaN", given, weights)


TARGETS = (layer_arguments, layer_inputs, model_shapes, initializer_arguments)
__all__ = ["TARGETS", "values"]
