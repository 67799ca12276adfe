"""One model, several threads: a training step works alone, predictions work side by side.

Any number of threads may predict with one model at the same time. While one of them trains it, the
weights are in order between two steps only, and even then rows of an Embedding may lag behind (see
optimizers.py). So whoever wants to look takes turns with the steps, and computes with a copy, made
between two steps, in which no row lags. Training waits for that copy and for nothing else, and goes
on as if nobody had looked: to the same weights, bit for bit.
"""

from __future__ import annotations

import copy
import functools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

from minirnn.base import layers_of

Function = TypeVar("Function", bound=Callable[..., Any])


class ModelBusyError(RuntimeError):
    """Another thread does something with this model that leaves no room for a second one."""


class Turns:
    """Who may touch the weights of a model now: one thread that changes them, or all who look.

    First come, first served: neither steps nor predictions can keep the others out for long. Who
    works alone may take further turns inside.

    Attributes:
        owner: the thread that trains the model, and the name of what it called; or None.
        unsettled: while weights may lag behind what has been learned: what brings back those that
            a graph on a GPU holds.
    """

    def __init__(self) -> None:
        self.begin()
        _known[id(self)] = self

    def begin(self) -> None:
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.queue: deque[object] = deque()
        self.writer: int | None = None
        self.depth = 0  # of the writer's turns inside one another
        self.readers: list[int] = []
        self.owner: tuple[int, str] | None = None
        self.unsettled: Callable[[], None] | None = None

    def __reduce__(self) -> Any:
        return Turns, ()  # a copy of a model has weights of its own

    def alone(self) -> Turns:
        """Enter this (`with`) to change the weights."""
        return self

    def together(self) -> _Together:
        """Enter this to look at them."""
        return _Together(self)

    def __enter__(self) -> None:
        self.enter(alone=True)

    def __exit__(self, *error: object) -> None:
        self.leave()

    def enter(self, alone: bool) -> None:
        me = threading.get_ident()
        with self.lock:
            if self.writer == me:
                self.depth += 1
                return
            if self.queue or self.writer is not None or (alone and self.readers):
                self.wait(alone, me)
            if alone:
                self.writer, self.depth = me, 1
            else:
                self.readers.append(me)

    def wait(self, alone: bool, me: int) -> None:
        if me in self.readers:
            if not alone:
                return  # it looks already: to wait for others would be to wait for itself
            raise ModelBusyError("a model cannot be trained by what it computes in a prediction")
        place = object()
        self.queue.append(place)
        try:
            while self.queue[0] is not place or self.writer is not None or (alone and self.readers):
                self.changed.wait()
        finally:
            self.queue.remove(place)
            self.changed.notify_all()  # the next one may be free to go, too

    def leave(self) -> None:
        me = threading.get_ident()
        with self.lock:
            if self.writer == me:
                self.depth -= 1
                if self.depth == 0:
                    self.writer = None
            elif me in self.readers:
                self.readers.remove(me)
            if self.queue:
                self.changed.notify_all()

    @contextmanager
    def visit(self) -> Iterator[None]:
        """Within this a thread takes its turns; none is left over, wherever it is interrupted."""
        me = threading.get_ident()
        looking = self.readers.count(me)
        depth = self.depth if self.writer == me else 0
        try:
            yield
        finally:
            while self.readers.count(me) > looking or (self.writer == me and self.depth > depth):
                self.leave()

    @contextmanager
    def owned(self, model: Any, action: str) -> Iterator[None]:
        """Within this, no other thread may do the like.

        Raises:
            ModelBusyError: if one does already.
        """
        me = threading.get_ident()
        with self.visit():
            with self.alone():
                before = self.owner
                if before is not None and before[0] != me:
                    raise ModelBusyError(
                        f"{action}: another thread is in `{before[1]}` of {model.name!r}. Wait "
                        "until that is done, or give each thread a model of its own "
                        "(copy.deepcopy)."
                    )
                self.owner = me, action
            try:
                yield
            finally:
                self.owner = before

    def behind(self, optimizer: Any) -> bool:
        """Whether the weights are not to be looked at as they are."""
        trained = self.owner is not None and self.owner[0] != threading.get_ident()
        return trained or self.unsettled is not None or (optimizer is not None and optimizer.lags)


# --- forks ----------------------------------------------------------------------------------------

# A fork takes one thread along. It waits until no other one is inside a model, or the child would
# find a step half done, and locks that nobody is left to open.

_known: weakref.WeakValueDictionary[int, Turns] = weakref.WeakValueDictionary()
_forking = threading.Lock()
_held: list[Turns] = []


def _all_known() -> list[Turns]:
    return [turns for turns in (find() for find in _known.valuerefs()) if turns is not None]


def _before_fork() -> None:
    _forking.acquire()
    me = threading.get_ident()
    for turns in _all_known():
        if turns.writer != me and me not in turns.readers:
            turns.enter(alone=True)
            _held.append(turns)


def _after_fork(in_child: bool) -> None:
    for turns in _all_known() if in_child else _held:
        turns.begin() if in_child else turns.leave()
    _held.clear()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=functools.partial(_after_fork, False),
        after_in_child=functools.partial(_after_fork, True),
    )


# --- what others use ------------------------------------------------------------------------------


class _Together:
    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def __enter__(self) -> None:
        self.turns.enter(alone=False)

    def __exit__(self, *error: object) -> None:
        self.turns.leave()


class View:
    """What one call of `predict` or `evaluate` computes with; enter it for each batch.

    That is the model itself, or, from the first batch for which another thread trains it, a copy.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.copied = model, False

    def __call__(self, x: Any) -> View:
        """To enter for the batch x, from which a model that is not built yet takes shape."""
        if not self.model.built:
            with self.model.turns.alone():
                self.model.without_vectorizer().ensure_built(x)
        return self

    def __enter__(self) -> Any:
        if self.copied:
            return self.model
        turns = self.model.turns
        turns.enter(alone=False)
        if not turns.behind(self.model.optimizer):
            return self.model
        turns.leave()
        self.model, self.copied = settled_copy(self.model), True
        return self.model

    def __exit__(self, *error: object) -> None:
        if not self.copied:
            self.model.turns.leave()


@contextmanager
def viewed(model: Any, action: str) -> Iterator[View]:
    """The View for one call, whose name is `action`.

    Raises:
        ModelBusyError: if the model carries states from batch to batch, which can be those of one
            thread only, and another one is at it.
    """
    sole: AbstractContextManager = nullcontext()
    if stateful(model):
        sole = model.turns.owned(model, action)
    with sole, model.turns.visit():
        yield View(model)


def stateful(layer: Any) -> bool:
    """Whether it carries states from batch to batch, or a layer inside it does."""
    return any(getattr(part, "stateful", False) for _, part in layers_of(layer))


def settled_copy(model: Any) -> Any:
    """A copy of the model as it is between two steps, to predict with: up to date, and at rest."""
    with model.turns.alone():
        if model.turns.unsettled is not None:
            model.turns.unsettled()
        kept = [model.optimizer, model.vectorizer]
        memo = {id(part): part for part in kept}
        if model.optimizer is not None:
            memo |= {id(weights): new for weights, new in model.optimizer.settled_copies()}
        try:
            return copy.deepcopy(model, memo)
        except TypeError as error:  # a layer of somebody's own that holds a file, say
            raise ModelBusyError(
                f"{model.name}: it is being trained, so that only a copy of it could be looked at, "
                f"and it cannot be copied ({error})"
            ) from None


def trains(function: Function) -> Function:
    """Marks a function of a model that changes its weights: one thread at a time may be in it."""

    @functools.wraps(function)
    def owning(model: Any, *arguments: Any, **options: Any) -> Any:
        with model.turns.owned(model, function.__name__):
            return function(model, *arguments, **options)

    return owning  # type: ignore[return-value]
