"""A model as one who looks inside needs it: its layers in a row, its head, and how it reads a text.

A model ends in class probabilities, and those are followed back from before their softmax or
sigmoid: there the gradient of log p(target) is `1 - p` and `-p`, exact even where p is 0 to
rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from minirnn import activations
from minirnn.backend import Array, to_device, to_host, xp
from minirnn.base import Layer
from minirnn.checks import host_array
from minirnn.layers import RNN, Bidirectional, Dropout, Embedding, OneHot, TextVectorization
from minirnn.models import Sequential, layers_in_a_row
from minirnn.text import UNKNOWN


class Head(NamedTuple):
    """How a model's last outputs become class probabilities.

    activation: "softmax", "sigmoid", or "none" for outputs that are probabilities already.
    """

    activation: str

    def probabilities(self, out: Array) -> Array:
        """(rows, C) from the outputs before the activation; one sigmoid makes two classes."""
        if self.activation == "none":
            return out
        p = activations.get(self.activation)(out)
        return p if p.shape[1] > 1 else xp.concatenate([1 - p, p], axis=1)

    def gradient(self, out: Array, target: Any) -> Array:
        """The gradient of log p(target) at `out`; target: a class for each row (rows,)."""
        p = self.probabilities(out)
        rows, target = xp.arange(len(out)), to_device(target)
        if self.activation == "none":
            dout = xp.zeros_like(out)
            dout[rows, target] = 1 / xp.maximum(p[rows, target], xp.finfo(p.dtype).tiny)
            return dout
        if out.shape[1] == 1:
            dout = -p[:, 1:]
            dout[:, 0] += target
            return dout
        chosen = xp.zeros_like(p)
        chosen[rows, target] = 1
        if self.activation == "softmax":
            return chosen - p
        return chosen * (1 - p)  # sigmoids do not know of each other


class Parts(NamedTuple):
    """A model taken apart.

    vectorizer: the TextVectorization at its beginning, or None.
    layers: all others, those of inner models in their places; the last one without the activation
        that belongs to `head`.
    names: of the layers; `outer_inner` where they stand in an inner model.
    head: how outputs become probabilities.
    """

    vectorizer: TextVectorization | None
    layers: list[Layer]
    names: list[str]
    head: Head

    @property
    def makes_vectors(self) -> bool:
        """Whether the first layer turns token ids into vectors."""
        return isinstance(self.layers[0], (Embedding, OneHot))


def parts_of(model: Any) -> Parts:
    """Take a model apart; its weights are shared.

    Raises:
        TypeError: if it is not a Sequential. ValueError: if it has no layers.
    """
    if not isinstance(model, Sequential):
        raise TypeError(f"model: expected a Sequential, received {model!r}")
    model.require_layers()
    named = list(layers_in_a_row(model.layers))
    vectorizer = None
    if isinstance(named[0][1], TextVectorization):
        vectorizer = named.pop(0)[1]
        if vectorizer.output_mode != "int":
            raise ValueError(
                f"model: {vectorizer.name} makes a bag of words (output_mode="
                f"{vectorizer.output_mode!r}), which has no steps to look at; expected 'int'"
            )
    while named and isinstance(named[-1][1], Dropout):  # it does nothing outside training
        named.pop()
    if not named:
        raise ValueError(f"model: {model.name} has no layers that compute anything")
    if not model.built:
        model.build()
    names, layers = map(list, zip(*named, strict=True))
    activation = "linear"
    if hasattr(layers[-1], "split_activation"):
        last, found = layers[-1].split_activation()
        activation = found.name
        if activation in ("softmax", "sigmoid"):
            layers[-1] = last
    if activation not in ("softmax", "sigmoid"):
        loss = model.loss if model.optimizer is not None else None
        activation = loss.activation if loss is not None and loss.from_logits else "none"
    return Parts(vectorizer, layers, names, Head(activation or "none"))


def require_classes(model: Any, head: Head, out: Array) -> None:
    """Raises ValueError unless the outputs (rows, C) tell the probabilities of classes."""
    p = to_host(head.probabilities(out))
    said = None
    if p.shape[1] < 2 or (head.activation == "softmax" and out.shape[1] < 2):
        said = "it has one output, which is the same for every text or no probability"
    elif head.activation == "none" and not (
        (p >= 0).all() and np.allclose(p.sum(axis=1), 1, atol=1e-3)
    ):
        said = f"its outputs are no probabilities: of this text, {np.round(p[0], 3).tolist()}"
    if said is not None:
        raise ValueError(
            f"model: {model.name} has no classes; {said}. Expected a last layer with "
            'activation="softmax" or "sigmoid", or a loss compiled with from_logits=True.'
        )


def at_the_end(out: Array, mask: Any) -> tuple[Array, tuple[Array, Array] | None]:
    """The outputs (rows, C) that tell of the whole text, and their places if there are others.

    Of a model with an output at every step, those of each row's last real step.
    """
    if out.ndim == 2:
        return out, None
    rows, time = out.shape[:2]
    last = np.full(rows, time - 1)
    if mask is not None:
        real = mask.array
        last = np.where(real.any(axis=1), time - 1 - np.argmax(real[:, ::-1], axis=1), time - 1)
    places = xp.arange(rows), xp.asarray(last)
    return out[places], places


def put_at_the_end(dlast: Array, places: Any, shape: tuple[int, ...]) -> Array:
    """The gradient of all outputs, from that of those that `at_the_end` took."""
    if places is None:
        return dlast
    dout = xp.zeros(shape, dlast.dtype)
    dout[places] = dlast
    return dout


@contextmanager
def fresh_states(layers: Sequence[Layer]) -> Iterator[None]:
    """Stateful layers start from zeros here, and find their states as they were afterwards."""
    cells = []
    for layer in layers:
        cells += layer.children().values() if isinstance(layer, Bidirectional) else [layer]
    stateful = [layer for layer in cells if isinstance(layer, RNN) and layer.stateful]
    kept = [layer.states for layer in stateful]
    for layer in stateful:
        layer.reset_state()
    try:
        yield
    finally:
        for layer, states in zip(stateful, kept, strict=True):
            layer.states = states


# --- what a model reads of a text -----------------------------------------------------------------


class Reading(NamedTuple):
    """One text as a model reads it.

    tokens: T strings. known: (T,) bool. ids: (T,) int, -1 where the row is of vectors.
    row: (1, T) ids or (1, T, F) vectors: what the first layer gets.
    """

    tokens: list[str]
    known: np.ndarray
    ids: np.ndarray
    row: np.ndarray


def read(vectorizer: TextVectorization | None, text: Any) -> Reading:
    """A text, or a row of token ids (T,), or of vectors (T, F), as the model reads it.

    Raises:
        TypeError, ValueError: if it is something else, or empty.
    """
    if isinstance(text, (str, bytes)):
        return _read_text(vectorizer, text)
    row = host_array("text", text)
    if row.dtype.kind not in "iuf":
        raise TypeError(
            f"text: expected a string or one row of token ids, received {type(text).__name__} of "
            f"{row.dtype} values"
        )
    if row.ndim not in (1, 2):
        raise ValueError(
            f"text: expected one row of token ids (T,), or of vectors (T, F); received an array of "
            f"shape {row.shape}"
        )
    if len(row) == 0:
        raise ValueError("text: expected at least one token, received an empty row")
    if row.ndim == 2:
        places = [str(t) for t in range(len(row))]
        return Reading(places, np.ones(len(row), bool), np.full(len(row), -1), row[None])
    if (row != np.floor(row)).any() or (abs(row) >= 2**31).any():
        raise ValueError(f"text: expected whole numbers (token ids), received {row.tolist()}")
    ids = row.astype(np.int32)
    words = [] if vectorizer is None else vectorizer.get_vocabulary()
    known = np.ones(len(ids), bool) if vectorizer is None else ids != unknown_id(vectorizer)
    tokens = [words[i] if 0 <= i < len(words) else str(i) for i in ids.tolist()]
    return Reading(tokens, known, ids, ids[None])


def _read_text(vectorizer: TextVectorization | None, text: str | bytes) -> Reading:
    if vectorizer is None:
        raise TypeError(
            f"text: this model takes token ids, not text (it has no TextVectorization in front); "
            f"expected one row of ids, received {text!r}"
        )
    vectorizer.require_built()
    ids, _ = vectorizer.forward([text])
    tokens = vectorizer.tokens(text)
    if not tokens:
        raise ValueError(f"text: expected at least one token, received {text!r}, which has none")
    length = ids.shape[1]  # the vectorizer may cut the text, or pad it
    tokens = (tokens + [""] * length)[:length]
    return Reading(tokens, ids[0] != unknown_id(vectorizer), ids[0], ids)


def unknown_id(vectorizer: TextVectorization) -> int:
    return vectorizer.special_tokens.index(UNKNOWN)
