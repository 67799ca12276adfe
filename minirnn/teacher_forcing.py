"""Teacher forcing (Williams and Zipser, 1989): what a decoder is taught with; see seq2seq.py.

It reads the true target one step behind, so that it has at each step just what stands before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from minirnn.batches import ArrayBatches, StreamBatches
from minirnn.layers.embedding import checked_ids
from minirnn.walks import Batch, Mapped, Position


class Pairs(NamedTuple):
    """What a model is taught with: a batch of sources, and what its decoder reads.

    source: (rows, time), or whatever the encoder takes. target: (rows, time) ids.
    """

    source: Any
    target: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the source."""
        return np.shape(self.source)

    @property
    def dtype(self) -> Any:
        return self.source.dtype


class TeacherForcing:
    """Batches (sources, targets) as a model is taught with them: (pairs, what it is to say)."""

    def __init__(
        self, data: ArrayBatches | StreamBatches, start: int, end: int, limit: int
    ) -> None:
        self.data = data
        self.start, self.end = start, end
        self.limit = limit  # ids are below it

    def __len__(self) -> int:
        return len(self.data)

    def walk(self, position: Position | None = None) -> Mapped:
        """One pass over the batches, from its beginning or from a position on."""
        return Mapped(self.taught, self.data.walk(position))

    def __iter__(self) -> Iterator[Batch]:
        return self.walk()

    def share(self, rank: int, ranks: int) -> TeacherForcing:
        """The same for one rank; see batches.py."""
        return TeacherForcing(self.data.share(rank, ranks), self.start, self.end, self.limit)

    def described(self) -> dict[str, Any]:
        return self.data.described()

    def taught(self, batch: Batch | None) -> Batch | None:
        if batch is None:
            return None
        x, y, weight = batch
        if y is None:
            raise ValueError(
                "y: expected targets, received none; translate(x, max_length) writes some"
            )
        y = checked_ids("y", y, self.limit)
        given, expected = one_step_behind(y, self.start, self.end)
        return Pairs(x, given), expected, weight


def one_step_behind(y: np.ndarray, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """What a decoder reads, and what it is to say: (rows, time + 1) each.

    >>> given, expected = one_step_behind(np.array([[5, 6, 7], [8, 0, 0]]), start=1, end=2)
    >>> given
    array([[1, 5, 6, 7],
           [1, 8, 0, 0]])
    >>> expected
    array([[5, 6, 7, 2],
           [8, 2, 0, 0]])
    """
    if y.ndim != 2:
        raise ValueError(f"y: expected rows of ids (rows, time), received shape {y.shape}")
    real = y != 0
    if len(found := np.argwhere((y == start) | (y == end))):
        raise ValueError(
            f"y: row {found[0][0]} of a batch holds the id {y[tuple(found[0])]}, which is start or "
            "end; leave it out: the model puts these where they belong"
        )
    if len(found := np.argwhere(real[:, 1:] & ~real[:, :-1])):
        raise ValueError(
            f"y: row {found[0][0]} of a batch holds padding, 0, before an id; pad rows behind"
        )
    given = np.pad(y, [(0, 0), (1, 0)], constant_values=start)
    expected = np.pad(y, [(0, 0), (0, 1)])
    expected[np.arange(len(y)), real.sum(axis=1)] = end
    return given, expected
