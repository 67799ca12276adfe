"""Generating: a model with an output at every step goes on from a beginning, one id at a time.

What it gives for a step is a distribution over the next id; one is drawn, and is the next input:

    logits_t, states = step(id_t, states)      id_{t+1} ~ softmax(logits_t / temperature)

All that the model knows of the ids so far is in the states of its recurrent layers. They are handed
from step to step, so one more id costs the same however many went before, and nothing is kept in
the model.

>>> import numpy as np
>>> sample(np.array([0.1, 0.7, 0.2]), temperature=0)
array(1, dtype=int32)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from minirnn import activations
from minirnn.backend import Array, generator, to_host
from minirnn.base import Layer
from minirnn.cells import State
from minirnn.checks import flag, host_array, whole_number
from minirnn.layers import (
    RNN,
    Activation,
    Bidirectional,
    Dense,
    DropMask,
    Dropout,
    Embedding,
    OneHot,
    TimeDistributed,
)
from minirnn.layers.embedding import checked_ids
from minirnn.models import Sequential, layers_in_a_row
from minirnn.turns import View

Random = np.random.Generator | int | None
Draw = Callable[[Array], np.ndarray]  # logits (rows, classes) → ids (rows,)

EACH_STEP_ALONE = (Embedding, OneHot, Dense, Activation, Dropout, TimeDistributed, DropMask)


# --- drawing one id -------------------------------------------------------------------------------


def sample(
    predictions: Any,
    temperature: float = 1.0,
    top_k: int | None = None,
    rng: Random = None,
    from_logits: bool = False,
) -> np.ndarray:
    """Draw an id from each distribution: (..., classes) → (...) int32, on the host.

    The chance of an id is softmax(logits / temperature): below 1 the likely ones become likelier,
    above 1 all come closer to each other. For probabilities p, logits are log p.

    Args:
        predictions: probabilities, or logits with `from_logits`; logits may be -inf: never drawn.
        temperature: 0 takes the likeliest id, the first of equals.
        top_k: leave out all but the k likeliest (Fan et al., 2018); equals of the k-th stay in.
        rng: a NumPy generator or a seed; `minirnn.backend.generator()` if None.

    Raises:
        ValueError: for a negative or infinite temperature, a `top_k` that is not from 1 to the
            number of classes, predictions that are no probabilities, or NaN.
    """
    temperature = _checked_temperature(temperature)
    logits = _as_logits(predictions, flag("from_logits", from_logits))
    classes = logits.shape[-1]
    if top_k is not None:
        if whole_number("top_k", top_k) > classes:
            raise ValueError(f"top_k: expected 1 to {classes}, the classes; received {top_k}")
        least = np.partition(logits, classes - top_k)[..., classes - top_k, None]
        logits = np.where(logits < least, -np.inf, logits)
    if temperature > 0:
        # Where G are Gumbel numbers, argmax(a + G) is distributed as softmax(a) (Gumbel, 1954).
        with np.errstate(over="ignore"):  # a temperature near 0 makes all but the maximum -inf
            scaled = (logits - logits.max(axis=-1, keepdims=True)) / temperature
        logits = scaled + _generator(rng).gumbel(size=logits.shape)
    return np.asarray(logits.argmax(axis=-1), dtype=np.int32)


def _as_logits(predictions: Any, from_logits: bool) -> np.ndarray:
    values = host_array("predictions", predictions)
    if values.dtype.kind not in "biuf":
        raise TypeError(f"predictions: expected numbers, received {values.dtype} values")
    values = values.astype(np.float64)
    if values.ndim == 0 or values.shape[-1] == 0:
        raise ValueError(f"predictions: expected shape (..., classes), received {values.shape}")
    if from_logits:
        # A row of -inf alone has nothing to draw; +inf has no neighbour to be compared with.
        if not np.isfinite(values.max(axis=-1)).all():
            raise ValueError("predictions: expected finite logits, received NaN or infinite ones")
        return values
    total = values.sum(axis=-1)
    if not (values >= 0).all() or not (abs(total - 1) <= 1e-3).all():
        raise ValueError(
            "predictions: expected probabilities, none below 0, that add up to 1; received a sum "
            f"of {total.flat[np.argmax(~(abs(total - 1) <= 1e-3))]:.4g} and a smallest number of "
            f"{values.min():.4g}. Logits go with from_logits=True."
        )
    with np.errstate(divide="ignore"):
        return np.log(values)


def _checked_temperature(temperature: Any) -> float:
    if not isinstance(temperature, (int, float, np.number)) or not 0 <= temperature < math.inf:
        raise ValueError(f"temperature: expected a number from 0 up, received {temperature!r}")
    return float(temperature)


def _generator(rng: Random) -> np.random.Generator:
    if rng is None:
        return generator()
    if not isinstance(rng, (np.random.Generator, int, np.integer)):
        raise TypeError(f"rng: expected a numpy.random.Generator, a seed or None, got {rng!r}")
    if not isinstance(rng, np.random.Generator) and rng < 0:
        raise ValueError(f"rng: expected a seed from 0 up, received {rng!r}")
    return np.random.default_rng(rng)


# --- one step of a stack of layers ----------------------------------------------------------------


def step(layers: Sequence[Layer], ids: Any, states: Sequence[State]) -> tuple[Array, list[State]]:
    """What the layers give for one more id, and their states after it.

    Args:
        ids: (rows, 1), the id of this step in each row.
        states: one state, a tuple of (rows, units), for each recurrent layer; they are not changed.

    Returns:
        `(y, states)`: y (rows, features).
    """
    x, before, after = ids, iter(states), []
    for layer in layers:
        if isinstance(layer, RNN):
            state = layer.cell(x[:, 0], next(before))
            after.append(state)
            x = state[0][:, None]
        else:
            x, _ = layer.forward(x)
    return x[:, 0], after


def first_states(layers: Sequence[Layer], rows: int) -> list[State]:
    """Zeros for each recurrent layer, in the dtype of its weights."""
    cells = [layer.cell for layer in layers if isinstance(layer, RNN)]
    return [cell.initial_state(rows, cell.params["kernel"].dtype) for cell in cells]


def stack_of(layers: Sequence[Layer]) -> list[Layer]:
    """The layers that `step` walks, those of models among them in their places; a softmax at the
    end is left out, so that they give logits.

    Raises:
        ValueError: if one of them cannot work step by step; it says which and why.
    """
    flat = [layer for _, layer in layers_in_a_row(layers)]
    for layer in flat:
        problem = _why_not(layer)
        if problem:
            raise ValueError(f"{layer.name}: {problem}")
    if not flat or not isinstance(flat[0], (Embedding, OneHot)):
        raise ValueError(
            "generating needs a model that begins with an Embedding or OneHot layer: each id that "
            f"it gives is its next input; received {flat}"
        )
    last = flat[-1]
    bare, activation = last, None
    if hasattr(last, "split_activation"):
        bare, activation = last.split_activation()
    if activation not in (activations.softmax, activations.linear):
        raise ValueError(
            f"{last.name}: generating needs a last layer that gives the chance of each id: a Dense "
            "with a softmax, or with logits"
        )
    return [*flat[:-1], bare]


def _why_not(layer: Layer) -> str:
    """Why a layer cannot work step by step; an empty text if it can."""
    if isinstance(layer, Bidirectional):
        return (
            "a Bidirectional layer cannot generate: it reads each row from its end as well, and "
            "what comes after a step is not there yet"
        )
    if isinstance(layer, RNN):
        if layer.go_backwards:
            return "go_backwards=True reads a row from its end, which is not there yet"
        if not layer.return_sequences:
            return "generating needs an output at every step; make it with return_sequences=True"
    elif not isinstance(layer, EACH_STEP_ALONE):
        known = ", ".join(kind.__name__ for kind in EACH_STEP_ALONE)
        return (
            f"generating needs layers with an output at every step: recurrent ones, {known}; "
            f"received a {type(layer).__name__}"
        )
    return ""


# --- many steps -----------------------------------------------------------------------------------


def generate(
    model: Sequential,
    start_ids: Any,
    steps: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    stop: int | None = None,
    rng: Random = None,
) -> np.ndarray:
    """Let a model go on from a beginning.

    Args:
        model: Embedding or OneHot, recurrent layers with `return_sequences`, and a Dense whose
            output at each step is the chance of each id to come next. It is left as it is; what a
            `stateful` layer carries plays no part.
        start_ids: the beginning, at least one id: (time,), or several rows, an array (rows, time)
            or a list of sequences of differing length. Where the first layer has `mask_zero`, 0 is
            padding: it is left out here, and never drawn.
        steps: how many ids to add to each row.
        temperature, top_k, rng: as in `sample`; temperature 0 always takes the likeliest.
        stop: an id that ends its row.

    Returns:
        The new ids, int32 on the host: for one beginning (n,), up to `stop` and with it; for rows
        (rows, n), where rows that have ended are filled up with `stop`. n is `steps`, or less if
        all rows have ended.

    Raises:
        ValueError: if the model has no weights yet or cannot generate, an id is outside its
            vocabulary, a beginning is empty, or as `sample` does. TypeError: for what is no model.
    """
    if not isinstance(model, Sequential):
        raise TypeError(f"model: expected a Sequential model, received {model!r}")
    whole_number("steps", steps)
    model.require_built()
    layers = stack_of(model.without_vectorizer().layers)
    limit, padded = readable(layers), layers[0].mask_zero
    alone, rows = beginnings(start_ids, limit)
    if padded:
        rows = [row[row != 0] for row in rows]
    if stop is not None:
        if checked_ids("stop", stop, limit).shape:
            raise ValueError(f"stop: expected one id, received {stop!r}")
        if padded and stop == 0:
            raise ValueError(f"stop: 0 is padding for {layers[0].name}, and never drawn")
    draw = drawing(temperature, top_k, rng, never=(0,) if padded else ())
    with model.turns.visit(), View(model) as seen:
        layers = stack_of(seen.without_vectorizer().layers)
        ids = go_on(layers, rows, first_states(layers, len(rows)), steps, draw, stop)
    return ids[0] if alone else ids


def beginnings(start_ids: Any, limit: int) -> tuple[bool, list[np.ndarray]]:
    """Whether it is one row of ids alone, and the rows."""
    if not isinstance(start_ids, (list, tuple)):
        start_ids = host_array("start_ids", start_ids)
        if start_ids.ndim not in (1, 2):
            raise ValueError(
                "start_ids: expected ids (time,) or (rows, time), or a list of rows; received "
                f"shape {start_ids.shape}"
            )
    alone = len(start_ids) > 0 and all(np.ndim(row) == 0 for row in start_ids)
    rows = [start_ids] if alone else start_ids
    return alone, [checked_ids("start_ids", row, limit) for row in rows]


def readable(layers: Sequence[Layer]) -> int:
    """How many ids the first layer takes, if it takes all that the last one gives."""
    first, last = layers[0], layers[-1]
    limit = first.input_dim if isinstance(first, Embedding) else first.num_tokens
    classes = last.compute_output_shape((None, None, None))[-1]
    if classes is not None and classes > limit:
        raise ValueError(
            f"{last.name}: it gives {classes} classes, and {first.name} takes ids below {limit}: "
            "an id that is drawn could not be read"
        )
    return limit


def drawing(
    temperature: float, top_k: int | None, rng: Random, never: Collection[int] = ()
) -> Draw:
    """From logits (rows, classes) to ids (rows,), as `sample` does, without those in `never`."""
    random, banned = _generator(rng), list(never)

    def draw(logits: Array) -> np.ndarray:
        logits = to_host(logits).astype(np.float64)
        logits[:, banned] = -np.inf
        return sample(logits, temperature, top_k, random, from_logits=True)

    return draw


def go_on(
    layers: Sequence[Layer],
    rows: Sequence[np.ndarray],
    states: Sequence[State],
    steps: int,
    draw: Draw,
    stop: int | None = None,
) -> np.ndarray:
    """The ids, (rows, n), that follow these beginnings; n is `steps`, or less if all have ended.

    All rows walk side by side: each is given its own ids as long as it has some, and from then on
    what was drawn for it. So rows of differing length need no padding.

    states: before the first id of each row, as `step` takes them.
    """
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    if not len(rows) or not lengths.min():
        raise ValueError(
            "start_ids: expected at least one id in each row, received "
            f"{'an empty row' if len(rows) else 'no rows'}"
        )
    longest = int(lengths.max())
    ids = np.full((len(rows), longest + steps), 0 if stop is None else stop, dtype=np.int32)
    for target, row in zip(ids, rows, strict=True):
        target[: len(row)] = row
    ended = np.zeros(len(rows), dtype=bool)
    for t in range(longest + steps - 1):
        logits, states = step(layers, ids[:, t : t + 1], states)
        goes_on = (lengths <= t + 1) & ~ended
        if goes_on.any():
            ids[goes_on, t + 1] = draw(logits)[goes_on]
            ended |= goes_on & (ids[:, t + 1] == stop)
        if ended.all():
            break
    new = ids[np.arange(len(rows))[:, None], lengths[:, None] + np.arange(steps)]
    if stop is None:
        return new
    found = new == stop
    return new[:, : np.where(found.any(axis=1), found.argmax(axis=1) + 1, steps).max()]
