"""Skip-gram with negative sampling (Mikolov et al., 2013): vectors of words from their neighbours.

Each word has two vectors: v as the centre of a window, u as a neighbour. Of a centre and a true
neighbour, and of K words drawn at random in place of it, a logistic regression is to tell which is
which by the products v · u. Words that have the same neighbours come to have like v.

Letters: N pairs, K words drawn for each, D numbers in a vector.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from minirnn.activations import sigmoid
from minirnn.backend import Array, generator, to_host, xp
from minirnn.base import RowGradient
from minirnn.checks import whole_number
from minirnn.finite import NonFiniteError, loss_and_norms
from minirnn.layers.embedding import Embedding, checked_ids
from minirnn.optimizers import Adam

CHUNK = 20_000  # words whose pairs are in memory at a time
NOISE_POWER = 0.75  # words are drawn by their count to this power, as in the paper


def negative_sampling(v: Array, u: Array) -> tuple[Array, Any]:
    """`(value, cache)`: the mean over pairs of -log σ(v · u_0) - Σ_{k>0} log σ(-v · u_k).

    v: (N, D), the centres. u: (N, 1 + K, D): of each the true neighbour, then the words drawn.
    """
    s = (u @ v[:, :, None])[:, :, 0]  #                         1   s_k = v · u_k
    sign = xp.ones_like(s)
    sign[:, 0] = -1
    value = xp.logaddexp(s * sign, 0).sum() / len(v)  #         2   -log σ(x) = log(1 + exp(-x))
    return value, (v, u, s)


def negative_sampling_backward(cache: Any) -> tuple[Array, Array]:
    """`(dv, du)`, of the shapes of v and u."""
    v, u, s = cache
    ds = sigmoid(s)
    ds[:, 0] -= 1
    ds *= 1 / len(v)  #                                         2   (σ(s) - [k = 0]) / N
    dv = (ds[:, None] @ u)[:, 0]  #                             1   Σ_k ds_k u_k
    du = ds[:, :, None] * v[:, None]  #                         1   ds_k v
    return dv, du


class SkipGram:
    """The two tables, (vocabulary_size, dim) each, and the gradient of a batch of pairs in them."""

    def __init__(self, vocabulary_size: int, dim: int, random: np.random.Generator) -> None:
        # As in the word2vec program: centres near 0, neighbours 0.
        start = random.uniform(-0.5 / dim, 0.5 / dim, (vocabulary_size, dim))
        self.centres = Embedding(vocabulary_size, dim, weights=[start], name="centres")
        self.neighbours = Embedding(vocabulary_size, dim, "zeros", name="neighbours")
        for table in (self.centres, self.neighbours):
            table.build((None,))

    @property
    def params(self) -> dict[str, Array]:
        return {table.name: table.params["embeddings"] for table in (self.centres, self.neighbours)}

    def loss_and_gradients(
        self, centres: np.ndarray, neighbours: np.ndarray
    ) -> tuple[Array, dict[str, RowGradient]]:
        """centres: (N,) ids. neighbours: (N, 1 + K) ids, the true one first."""
        v, v_cache = self.centres.forward(centres)
        u, u_cache = self.neighbours.forward(neighbours)
        value, cache = negative_sampling(v, u)
        dv, du = negative_sampling_backward(cache)
        _, dcentres = self.centres.backward(dv, v_cache)
        _, dneighbours = self.neighbours.backward(du, u_cache)
        grads = {"centres": dcentres["embeddings"], "neighbours": dneighbours["embeddings"]}
        return value, grads


def pairs_of(
    rows: Sequence[np.ndarray], window: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`(centres, neighbours)`, (N,) each: all pairs of words of one row that are near each other.

    For each centre the reach of its window is drawn, from 1 to `window`: so nearer words count for
    more.
    """
    ids = np.concatenate(rows)
    row = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
    reach = random.integers(1, window + 1, len(ids))
    centres, neighbours = [], []
    for distance in range(1, window + 1):
        left = np.flatnonzero(row[distance:] == row[:-distance])
        right = left + distance
        for centre, neighbour in ((left, right), (right, left)):
            near = reach[centre] >= distance
            centres.append(ids[centre[near]])
            neighbours.append(ids[neighbour[near]])
    return np.concatenate(centres), np.concatenate(neighbours)


def batches_of(
    rows: Sequence[np.ndarray],
    window: int,
    negatives: int,
    noise: np.ndarray,
    batch_size: int,
    random: np.random.Generator,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One pass over all rows, in a random order: centres (N,) and neighbours (N, 1 + K)."""
    order = random.permutation(len(rows))
    chunk = np.cumsum([len(rows[i]) for i in order]) // CHUNK
    for part in np.split(order, np.flatnonzero(np.diff(chunk)) + 1):
        centres, neighbours = pairs_of([rows[i] for i in part], window, random)
        shuffled = random.permutation(len(centres))
        for start in range(0, len(shuffled), batch_size):
            chosen = shuffled[start : start + batch_size]
            drawn = random.choice(len(noise), (len(chosen), negatives), p=noise)
            yield centres[chosen], np.column_stack([neighbours[chosen], drawn])


def train_word2vec(
    token_rows: Sequence[Any],
    vocabulary_size: int,
    dim: int = 100,
    window: int = 5,
    negatives: int = 5,
    epochs: int = 5,
    seed: int | None = None,
    learning_rate: float = 0.01,
    batch_size: int = 512,
) -> np.ndarray:
    """Vectors of words from rows of ids alone.

    Args:
        token_rows: rows of ids, such as `TextVectorization.ids(texts)`; 0 is padding, and left out.
        vocabulary_size: ids are below it.
        window: how far apart two words of a row may stand to be neighbours.
        negatives: K, how many words are drawn against each true neighbour.
        epochs: passes over all rows.
        seed: same seed, same vectors; `minirnn.backend.generator()` draws if None.
        learning_rate: of Adam, which changes the rows of a batch alone.
        batch_size: pairs of a training step.

    Returns:
        (vocabulary_size, dim), on the host: the vectors of words as centres. Row 0 is zeros; words
        that never occur keep the small random numbers that all begin with.

    Raises:
        ValueError: for ids outside the vocabulary, numbers below 1, or rows without any pair.
        NonFiniteError: if the loss or a gradient becomes NaN or infinite.
    """
    settings = {"dim": dim, "window": window, "negatives": negatives, "epochs": epochs}
    settings |= {"vocabulary_size": vocabulary_size, "batch_size": batch_size}
    for name, value in settings.items():
        whole_number(name, value)
    random = generator() if seed is None else np.random.default_rng(seed)
    rows = [checked_ids("token_rows", row, vocabulary_size) for row in token_rows]
    rows = [row[row != 0] for row in rows]
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        raise ValueError("token_rows: expected rows of two words or more, received none")
    counts = np.bincount(np.concatenate(rows), minlength=vocabulary_size)
    noise = counts**NOISE_POWER / (counts**NOISE_POWER).sum()

    model = SkipGram(vocabulary_size, dim, random)
    optimizer = Adam(learning_rate, lazy=True)
    for epoch in range(epochs):
        walk = batches_of(rows, window, negatives, noise, batch_size, random)
        for step, batch in enumerate(walk):
            loss, grads = model.loss_and_gradients(*batch)
            if not all(map(math.isfinite, loss_and_norms(loss, grads))):
                raise NonFiniteError(
                    f"train_word2vec: the loss or a gradient is not finite at epoch {epoch + 1}, "
                    f"step {step + 1}. A smaller learning_rate than {learning_rate} helps."
                )
            optimizer.apply(model.params, grads)
    vectors = np.array(to_host(model.params["centres"]))
    vectors[0] = 0
    return vectors
