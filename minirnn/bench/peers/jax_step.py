"""JAX: one hand-written training step under `jit`, batches padded to a multiple of 16 steps.

The input products are done for all steps before `lax.scan`; a masked step keeps its state by
`where`. Parameters and Adam's averages are donated, so that they are updated in place. Compile time
is left out: every length is met once before timing.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minirnn.bench.lessons import CLASSES, VOCABULARY, Lesson

BUCKET = 16


def describe() -> str:
    return f"JAX {jax.__version__}"


class Peer:
    def __init__(self, lesson: Lesson, unroll: str = "1") -> None:
        self.lesson, self.unroll = lesson, int(unroll)
        self.params = initial_params(lesson)
        zeros = jax.tree.map(jnp.zeros_like, self.params)
        self.state = zeros, jax.tree.map(jnp.copy, zeros), jnp.zeros((), jnp.float32)
        self.step = jax.jit(self._step, donate_argnums=(0, 1))
        self.probabilities = jax.jit(lambda p, x: jax.nn.softmax(self._logits(p, x)))

    def prepare(self, x: np.ndarray, y: np.ndarray | None) -> Any:
        rows, time = x.shape
        padded = np.zeros((rows, -(-time // BUCKET) * BUCKET), np.int32)
        padded[:, :time] = x
        return padded, y

    def train(self, batch: Any) -> float:
        self.params, self.state, loss = self.step(self.params, self.state, *batch)
        return float(loss)

    def infer(self, batch: Any) -> np.ndarray:
        return np.asarray(self.probabilities(self.params, batch[0]))

    def _logits(self, params: Any, ids: Any) -> Any:
        mask = (ids != 0).T if self.lesson.mask else None  # (time, rows)
        x = params["embedding"][ids].swapaxes(0, 1)
        for i, layer in enumerate(params["layers"]):
            last = i + 1 == len(params["layers"])
            both = [
                scan_cell(self.lesson, weights, x, mask, way == 1, self.unroll)
                for way, weights in enumerate(layer)
            ]
            x = jnp.concatenate([(final if last else every) for final, every in both], axis=-1)
        return x @ params["W"] + params["b"]

    def _loss(self, params: Any, ids: Any, labels: Any) -> Any:
        logp = jax.nn.log_softmax(self._logits(params, ids))
        return -jnp.take_along_axis(logp, labels[:, None].astype(jnp.int32), axis=1).mean()

    def _step(self, params: Any, state: Any, ids: Any, labels: Any) -> Any:
        loss, grads = jax.value_and_grad(self._loss)(params, ids, labels)
        m, v, t = state
        t = t + 1
        rate = 1e-3 * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        m = jax.tree.map(lambda m, g: m + (g - m) * 0.1, m, grads)
        v = jax.tree.map(lambda v, g: v + (g * g - v) * 0.001, v, grads)
        params = jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v) + 1e-7), params, m, v)
        return params, (m, v, t), loss


def initial_params(lesson: Lesson) -> Any:
    rng = np.random.default_rng(1)

    def draw(*shape: int) -> Any:
        return jnp.asarray(rng.uniform(-0.05, 0.05, shape), jnp.float32)

    gates = 4 if lesson.cell == "lstm" else 1
    layers, features = [], lesson.features
    for _ in range(lesson.layers):
        width = gates * lesson.units
        layers.append(
            [
                {"W": draw(features, width), "U": draw(lesson.units, width), "b": draw(width)}
                for _ in range(lesson.directions)
            ]
        )
        features = lesson.units * lesson.directions
    return {
        "embedding": draw(VOCABULARY, lesson.features),
        "layers": layers,
        "W": draw(features, CLASSES),
        "b": draw(CLASSES),
    }


def scan_cell(
    lesson: Lesson, weights: Any, x: Any, mask: Any, reverse: bool, unroll: int
) -> tuple[Any, Any]:
    """`(final h (rows, units), every h (time, rows, units))`."""
    a = x @ weights["W"] + weights["b"]
    zeros = jnp.zeros((x.shape[1], lesson.units), jnp.float32)

    def lstm(state: Any, a_t: Any) -> Any:
        h, c = state
        i, f, g, o = jnp.split(a_t + h @ weights["U"], 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

    def rnn(state: Any, a_t: Any) -> Any:
        return (jnp.tanh(a_t + state[0] @ weights["U"]),)

    cell = lstm if lesson.cell == "lstm" else rnn

    def step(state: Any, inputs: Any) -> Any:
        a_t, m_t = inputs
        new = cell(state, a_t)
        if m_t is not None:
            new = tuple(jnp.where(m_t[:, None], n, s) for n, s in zip(new, state, strict=True))
        return new, new[0]

    start = (zeros, zeros) if lesson.cell == "lstm" else (zeros,)
    final, every = jax.lax.scan(step, start, (a, mask), reverse=reverse, unroll=unroll)
    return final[0], every
