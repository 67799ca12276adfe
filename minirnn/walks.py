"""Walks over data that knows of none itself, and what a training does with walks.

A walk is one pass over batches, with a `position()`; see batches.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from minirnn.backend import generator_state, set_generator_state

Position = Mapping[str, Any]
Batch = tuple[Any, Any, Any]


class Replay:
    """One pass over any source; a position in it is found by walking there once more.

    What the source draws on the way from minirnn's random generator, and a `Dataset` for shuffling,
    is drawn again.

    Args:
        batch: how many batches have been had.
        random: the state of minirnn's random generator before the first, if it was asked for.
        orders: `Dataset.orders` before the first.
    """

    def __init__(self, source: Any, batch: int = 0, random: Any = None, orders: Any = None) -> None:
        self.source, self.batch, self.random, self.orders = source, batch, random, orders
        # The way back there may change what the source knows of, such as the states of a model.
        self.iterator: Iterator | None = self.begin() if batch else None

    def __iter__(self) -> Replay:
        return self

    def __next__(self) -> Any:
        if self.iterator is None:
            self.iterator = self.begin()
        try:
            element = next(self.iterator)
        except StopIteration:
            if self.batch == 0:
                raise ValueError(
                    "x: the data set is empty; there must be at least one batch"
                ) from None
            raise
        self.batch += 1
        return element

    def begin(self) -> Iterator:
        if self.orders is not None:
            self.source.orders = self.orders
        else:
            self.orders = getattr(self.source, "orders", None)
        if self.random is None:
            self.random = generator_state()
            return iter(self.source)
        now = generator_state()
        set_generator_state(self.random)
        iterator = iter(self.source)
        had = sum(1 for _ in itertools.islice(iterator, self.batch))
        set_generator_state(now)
        if had < self.batch:
            raise ValueError(f"x: expected at least {self.batch} batches, as before; found {had}")
        return iterator

    def position(self) -> dict[str, Any]:
        orders = self.orders or getattr(self.source, "orders", None)
        return {"batch": self.batch, "random": self.random, "orders": orders}


class Mapped:
    """A walk of which each element is made into something else."""

    def __init__(self, function: Callable[[Any], Any], walk: Any) -> None:
        self.function, self.walk = function, walk
        self.position = walk.position

    def __iter__(self) -> Mapped:
        return self

    def __next__(self) -> Any:
        return self.function(next(self.walk))


class Passes:
    """The batches of a training, epoch for epoch, and where it stands among them.

    Args:
        data: with `walk`, as above.
        steps: batches in an epoch; None for one pass over the data. Epochs of a set number of steps
            walk on through the data, and begin again where it ends.

    Attributes:
        began: the position at which it was begun to walk.
    """

    def __init__(self, data: Any, steps: int | None = None) -> None:
        self.data, self.steps = data, steps
        self.go_to(None)

    def epoch(self, done: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, of which some may be done; call `next_epoch` behind it."""
        if self.steps is None:
            yield from self.walk
            return
        while done < self.steps:
            for batch in itertools.islice(self.walk, self.steps - done):
                done += 1
                yield batch
            if done < self.steps:
                self.go_to(None)

    def next_epoch(self) -> None:
        if self.steps is None:
            self.go_to(None)

    def position(self) -> dict[str, Any]:
        return self.walk.position()

    def go_to(self, position: Position | None) -> None:
        """Go on from there; None: with the next pass."""
        self.walk = self.data.walk(position)
        self.began = self.walk.position()

    def __len__(self) -> int:
        """Batches in an epoch.

        Raises:
            TypeError: if the data cannot tell.
        """
        return self.steps or len(self.data)
