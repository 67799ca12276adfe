"""The gradient check of everything that minirnn has, one small case after another."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minirnn import losses
from minirnn.gradcheck.check import gradcheck
from minirnn.gradcheck.report import GradientReport
from minirnn.layers import (
    GRU,
    LSTM,
    RNN,
    Activation,
    Bidirectional,
    Dense,
    DropMask,
    Dropout,
    Embedding,
    Flatten,
    GlobalAveragePooling1D,
    GlobalMaxPooling1D,
    GRUCell,
    GRUCellResetBefore,
    LSTMCell,
    Masking,
    SimpleRNN,
    SimpleRNNCell,
    TimeDistributed,
)
from minirnn.layers.bidirectional import MERGE_MODES
from minirnn.models import Sequential
from minirnn.seq2seq import Seq2Seq
from minirnn.teacher_forcing import Pairs, one_step_behind

# Different primes, so that no two axes can be taken for each other: 5 rows, 7 steps, 2 features.
BATCH, TIME, FEATURES, UNITS = 5, 7, 2, 3

MASKS = {
    "trailing": ["1111111", "1100000", "1111000", "1000000", "1111110"],
    "leading": ["0001111", "1111111", "0000001", "0011111", "0000111"],
    "holes": ["1010110", "0100011", "1111111", "0110100", "1000001"],
    "empty row": ["1110000", "0000000", "1111111", "1111000", "0110000"],
}


def mask(name: str | None) -> np.ndarray | None:
    """(5, 7) booleans; None is no mask."""
    return None if name is None else np.array([[c == "1" for c in row] for row in MASKS[name]])


RECURRENT: dict[str, Callable[..., RNN]] = {
    "SimpleRNN": SimpleRNN,
    "LSTM": LSTM,
    "GRU": GRU,
    "GRU reset_before": lambda units, **options: GRU(units, reset_after=False, **options),
}

Case = tuple[Any, dict[str, Any]]


def check_library(only: str = "") -> Iterator[tuple[str, GradientReport]]:
    """The name and the report of each case in turn; `only` those with this in their name."""
    for name, (thing, options) in library_cases().items():
        if only in name:
            yield name, gradcheck(thing, **options)


def library_cases() -> dict[str, Case]:
    """Name → a thing and the arguments of `gradcheck`."""
    cases = {}
    for source in (_cells, _recurrent, _bidirectional, _others, _losses, _models):
        for name, thing, options in source():
            cases[name] = thing, options
    return cases


def _x(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape)


def _cells() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    for cell_class in (SimpleRNNCell, LSTMCell, GRUCell, GRUCellResetBefore):
        for options in ({}, {"use_bias": False}, {"activation": "relu"}):
            yield _name(cell_class.__name__, options), cell_class(UNITS, **options), {}


def _recurrent() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    x = _x(BATCH, TIME, FEATURES)
    flags = ("return_sequences", "go_backwards", "zero_output_for_mask")
    for kind, make in RECURRENT.items():
        for values in itertools.product((False, True), repeat=3):
            options = {flag: True for flag, value in zip(flags, values, strict=True) if value}
            for mask_name in (None, *MASKS):
                if mask_name is None and "zero_output_for_mask" in options:
                    continue
                checked = {"x": x, "mask": mask(mask_name)}
                yield _name(kind, options, mask_name), make(UNITS, **options), checked
        for options, mask_name in (
            ({"dropout": 0.4}, None),
            ({"recurrent_dropout": 0.4, "return_sequences": True}, "holes"),
            ({"dropout": 0.4, "recurrent_dropout": 0.4, "go_backwards": True}, "trailing"),
            ({"dropout": 0.3, "recurrent_dropout": 0.3, "return_sequences": True}, "empty row"),
        ):
            checked = {"x": x, "mask": mask(mask_name), "training": True}
            yield _name(kind, options, mask_name), make(UNITS, **options), checked
        for options in (
            {"return_state": True},
            {"return_state": True, "return_sequences": True, "go_backwards": True},
            {"stateful": True, "return_sequences": True},
            {"use_bias": False},
            {"activation": "relu", "return_sequences": True},
            {"activation": "softplus", "return_sequences": True},
        ):
            name = _name(kind, options, "holes")
            yield name, make(UNITS, **options), {"x": x, "mask": mask("holes")}
        if kind != "SimpleRNN":
            gates = {"activation": "elu", "recurrent_activation": "hard_sigmoid"}
            yield _name(kind, gates), make(UNITS, **gates), {"x": x, "method": "central"}


def _bidirectional() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    x = _x(BATCH, TIME, FEATURES)
    for kind, make in RECURRENT.items():
        for merge_mode, sequences, mask_name in itertools.product(
            MERGE_MODES, (False, True), (None, *MASKS)
        ):
            layer = Bidirectional(make(UNITS, return_sequences=sequences), merge_mode)
            options = {"merge_mode": merge_mode, "return_sequences": sequences}
            name = _name(f"Bidirectional {kind}", options, mask_name)
            yield name, layer, {"x": x, "mask": mask(mask_name)}
    for merge_mode in ("concat", None):
        inner = LSTM(UNITS, return_sequences=True, return_state=True)
        name = _name("Bidirectional LSTM return_state", {"merge_mode": merge_mode}, "holes")
        yield name, Bidirectional(inner, merge_mode), {"x": x, "mask": mask("holes")}
    for kind, make in RECURRENT.items():
        inner = make(UNITS, dropout=0.4, recurrent_dropout=0.4, return_sequences=True)
        options = {"x": x, "mask": mask("holes"), "training": True}
        yield _name(f"Bidirectional {kind} dropout", {}, "holes"), Bidirectional(inner), options


def _others() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    ids = np.random.default_rng(2).integers(0, 11, size=(BATCH, TIME))
    x = _x(BATCH, TIME, FEATURES)
    real = mask("empty row")
    yield "Embedding", Embedding(11, UNITS), {"x": ids}
    yield "Embedding mask_zero", Embedding(11, UNITS, mask_zero=True), {"x": ids}
    for activation in (None, "tanh", "sigmoid", "softmax", "relu"):
        yield f"Dense {activation or 'linear'}", Dense(UNITS, activation), {}
    for name in (None, *MASKS):
        for layer in (Dense(UNITS, "softmax"), TimeDistributed(Dense(UNITS, "tanh"))):
            kind = f"{type(layer).__name__} on steps"
            yield _name(kind, {}, name), layer, {"x": x, "mask": mask(name)}
    yield "Dense without bias", Dense(UNITS, use_bias=False), {}
    padded = x.copy()
    padded[~real] = 0
    yield "Masking", Masking(), {"x": padded}
    for name in (None, *MASKS):
        for layer in (GlobalAveragePooling1D(), GlobalMaxPooling1D()):
            yield _name(type(layer).__name__, {}, name), layer, {"x": x, "mask": mask(name)}
    yield "DropMask", DropMask(), {"x": x, "mask": real}
    yield "Flatten", Flatten(), {"x": x}
    yield "Dropout", Dropout(0.4), {"x": x, "training": True}
    yield "Dropout with a seed", Dropout(0.4, seed=3), {"x": x, "training": True}
    for activation in ("softmax", "tanh", "sigmoid", "hard_sigmoid", "relu", "elu", "softplus"):
        yield f"Activation {activation}", Activation(activation), {"x": x}
    yield "Activation exponential", Activation("exponential"), {"x": x}


def _losses() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    weights = np.random.default_rng(3).random((BATCH, TIME))
    for loss_class in dict.fromkeys(losses.LOSSES.values()):
        variants = [{}]
        if loss_class.activation is not None:
            variants.append({"from_logits": True})
        if loss_class is losses.CategoricalCrossentropy:
            variants.append({"from_logits": True, "label_smoothing": 0.1})
        for options in variants:
            name = _name(loss_class.__name__, options)
            yield name, loss_class(**options), {}
            for mask_name in MASKS:
                weighted = {"mask": mask(mask_name), "sample_weight": weights}
                yield f"{name}, weights, mask {mask_name}", loss_class(**options), weighted
    layer, x = LSTM(UNITS, return_sequences=True), _x(BATCH, TIME, FEATURES)
    yield "LSTM, then a loss", layer, {"x": x, "loss": "mse", "mask": mask("holes")}
    cross_entropy = {"loss": "sparse_categorical_crossentropy"}
    yield "Dense, then a loss", Dense(UNITS, "softmax"), cross_entropy


def _models() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Whole models with their loss, from token ids to one number."""
    ids = np.random.default_rng(4).integers(1, 11, size=(BATCH, TIME)) * mask("trailing")
    cross_entropy = {"x": ids, "loss": "sparse_categorical_crossentropy"}
    classify = Sequential(
        [
            Embedding(11, UNITS, mask_zero=True),
            Bidirectional(LSTM(2, return_sequences=True)),
            GRU(3),
            Dense(4, "softmax"),
        ]
    )
    yield "model: stacked classifier", classify, cross_entropy
    tag = Sequential(
        [Embedding(11, 2, mask_zero=True), SimpleRNN(3, return_sequences=True), Dense(4, "softmax")]
    )
    yield "model: an output at every step", tag, cross_entropy
    pooled = Sequential([Embedding(11, 3), Dense(2, "tanh"), GlobalAveragePooling1D(), Dense(1)])
    yield "model: pooling without a recurrence", pooled, {"x": ids, "loss": "mse"}
    for kind, make in RECURRENT.items():
        yield f"model: sequence to sequence, {kind}", *_seq2seq(make)


def _seq2seq(make: Callable[..., RNN]) -> tuple[Seq2Seq, dict[str, Any]]:
    """Two layers on either side; rows of differing length, one source of which is all padding."""
    model = Seq2Seq(
        [
            Embedding(11, 2, mask_zero=True),
            make(UNITS, return_sequences=True, return_state=True),
            make(2, return_state=True),
        ],
        [
            Embedding(7, 3, mask_zero=True),
            make(UNITS, return_sequences=True),
            make(2, return_sequences=True),
            Dense(7, "softmax"),
        ],
        start=5,
        end=6,
    )
    random = np.random.default_rng(5)
    source = random.integers(1, 11, size=(BATCH, TIME)) * mask("empty row")
    target = random.integers(1, 5, size=(BATCH, TIME)) * mask("trailing")
    given, expected = one_step_behind(target, model.start, model.end)
    loss = "sparse_categorical_crossentropy"
    return model, {"x": Pairs(source, given), "y_true": expected, "loss": loss}


def _name(kind: str, options: dict[str, Any], mask_name: str | None = None) -> str:
    words = [key if value is True else f"{key}={value}" for key, value in options.items()]
    return ", ".join([kind, *words, *([f"mask {mask_name}"] if mask_name else [])])
