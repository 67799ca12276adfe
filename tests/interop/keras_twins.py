"""A layer of ours and Keras's with the same weights, run on the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("keras", reason="Keras is not installed")
pytest.importorskip("jax", reason="JAX, on which the tests run Keras, is not installed")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import keras  # noqa: E402

from minirnn.layers import GRU, LSTM, Bidirectional, SimpleRNN  # noqa: E402

assert keras.backend.backend() == "jax", "the tests run Keras on JAX: set KERAS_BACKEND=jax"

B, T, F, U = 5, 7, 2, 3
CLOSE = {"rtol": 1e-5, "atol": 1e-5}

MASKS = {
    "none": None,
    "trailing": ["1111111", "1100000", "1111000", "1000000", "1111110"],
    "leading": ["0001111", "1111111", "0000001", "0011111", "0000111"],
    "holes": ["1010110", "0100011", "1111111", "0110100", "1000001"],
    "empty row": ["1110000", "0000000", "1111111", "1111000", "0110000"],
}
OURS = {"SimpleRNN": SimpleRNN, "LSTM": LSTM, "GRU": GRU}


def mask_of(name: str) -> np.ndarray | None:
    rows = MASKS[name]
    return None if rows is None else np.array([[c == "1" for c in row] for row in rows])


def random_weights(layer: Any, rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=w.shape).astype("float32") for w in layer.get_weights()]


def twins(kind: str, rng: np.random.Generator, merge: Any = "", **options: Any) -> tuple[Any, Any]:
    """`(ours, theirs)`; merge: the merge_mode of a Bidirectional around it, "" for none."""
    mine = OURS[kind](U, **options)
    theirs = getattr(keras.layers, kind)(U, **options)
    if merge != "":
        mine = Bidirectional(mine, merge_mode=merge)
        theirs = keras.layers.Bidirectional(theirs, merge_mode=merge)
    mine.build((None, None, F))
    theirs.build((B, T, F))
    weights = random_weights(mine, rng)
    mine.set_weights(weights)
    theirs.set_weights(weights)
    return mine, theirs


def as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


def theirs_with_gradients(
    layer: Any,
    x: np.ndarray,
    mask: Any,
    state: Any,
    douts: list[np.ndarray],
    training: bool = False,
) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Outputs, dx, gradients of the initial states and of the weights of a Keras layer."""
    trainable = [v.value for v in layer.trainable_variables]
    rest = [v.value for v in layer.non_trainable_variables]

    def outputs(weights: Any, x: Any, state: Any) -> Any:
        extra = {"training": training}
        extra |= {} if state is None else {"initial_state": list(state)}
        out, _ = layer.stateless_call(weights, rest, x, mask=mask, **extra)
        return [jnp.asarray(value) for value in as_list(out)]

    def total(weights: Any, x: Any, state: Any) -> Any:
        found = outputs(weights, x, state)
        return sum((out * d).sum() for out, d in zip(found, douts, strict=True))

    given = None if state is None else [jnp.asarray(s) for s in state]
    which = (0, 1) if state is None else (0, 1, 2)
    with jax.disable_jit():  # a few small steps are faster than their compilation
        out = outputs(trainable, jnp.asarray(x), state)
        grads = jax.grad(total, argnums=which)(trainable, jnp.asarray(x), given)
    dstate = [] if state is None else [np.asarray(d) for d in grads[2]]
    return (
        [np.asarray(value) for value in out],
        np.asarray(grads[1]),
        dstate,
        [np.asarray(d) for d in grads[0]],
    )
