"""A gallery of bugs: the classic mistakes of hand-written backpropagation, as exercises.

>>> with planted("gates-swapped"):
...     seen = check("gates-swapped")
>>> seen.passed
False
>>> print(describe("gates-swapped"))
gates-swapped
  symptom: An LSTM learns, about as well as it should.
  hint: The check goes gate by gate: which blocks of the kernel are wrong, and which are right?

Most of them have one thing in common: the loss falls all the same (`exercise`). Only a comparison
with derivatives of the forward pass, `minirnn.gradcheck`, tells that something is wrong, and its
blocks tell where. To exercise: plant one that you have not read about, run `gradcheck` on the
layers, and find the line. The mistakes themselves stand in gallery.py.
"""

from __future__ import annotations

import inspect
import linecache
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

import minirnn.timeloop
from minirnn import steps
from minirnn.backend import generator
from minirnn.data.rows import CLASS_NAMES
from minirnn.data.sample import generate
from minirnn.gradcheck import GradientReport, gradcheck
from minirnn.gradcheck.subject import same_random_numbers
from minirnn.inspect.gallery import BUGS, Bug
from minirnn.layers import Dense, Embedding, TextVectorization, bidirectional
from minirnn.lookup import by_name
from minirnn.models import Sequential
from minirnn.optimizers import Adam


def names() -> tuple[str, ...]:
    """The names of all bugs."""
    return tuple(BUGS)


def describe(name: str, spoiler: bool = False) -> str:
    """What one sees of a bug, and a hint.

    spoiler: also the cause, the function in which it stands, and the line.

    Raises:
        ValueError: if there is no bug of this name.
    """
    bug = _bug(name)
    lines = [name, f"  symptom: {bug.symptom}", f"  hint: {bug.hint}"]
    if spoiler:
        lines += [f"  cause: {bug.cause}", f"  in {_where(bug)}:"]
        right, wrong = (textwrap.dedent(part).splitlines() for part in (bug.right, bug.wrong))
        lines += [f"    - {line.strip()}" for line in right]
        lines += [f"    + {line.strip()}" for line in wrong]
    return "\n".join(lines)


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Within the block, the library computes with this mistake in it.

    A function is replaced by its own source with one line changed; afterwards, whatever happened
    inside, the very same function is put back. The block uses the cells' own loops, since the
    compiled ones, and those of a GPU, would go round the mistake. Blocks of different bugs may
    stand inside each other.

    Threads: the function is replaced for the whole process. Whatever other threads compute
    meanwhile is wrong as well.

    Raises:
        ValueError: if there is no bug of this name; if it is planted already; if the line is not
            where it should be, since another bug that is planted has changed it.
    """
    _bug(name)
    with _lock:
        if name in _planted:
            raise ValueError(
                f"name: the bug {name!r} is planted already; leave that block before you plant it "
                "again"
            )
        _planted.append(name)
        try:
            _replant()
        except BaseException:
            _planted.remove(name)
            _replant()
            raise
    try:
        yield
    finally:
        with _lock:
            _planted.remove(name)
            _replant()


def check(name: str) -> GradientReport:
    """`minirnn.gradcheck` of the layer, cell or loss that this bug concerns.

    It plants nothing: inside `planted(name)` it fails, outside it passes.

    Raises:
        ValueError: if there is no bug of this name.
    """
    thing, options = _bug(name).suspect()
    return gradcheck(thing, **options)


class Exercise(NamedTuple):
    """How a small model learned with a bug in the library, and without.

    losses: the training loss of each epoch, with the bug. sound: the same without it.
    """

    name: str
    losses: tuple[float, ...]
    sound: tuple[float, ...]

    @property
    def learned(self) -> bool:
        """Whether the loss fell, with the bug, by a quarter of what it was or more."""
        return self.losses[-1] < 0.75 * self.losses[0]

    def __str__(self) -> str:
        lines = [f"{self.name}: training loss (mean cross-entropy of a row)"]
        lines += ["epoch  with the bug  without"]
        for epoch, (wrong, right) in enumerate(zip(self.losses, self.sound, strict=True), 1):
            lines.append(f"{epoch:5}  {wrong:12.4f}  {right:7.4f}")
        return "\n".join(lines)


def exercise(name: str, rows: int = 480, epochs: int = 5, seed: int = 0) -> Exercise:
    """Train a small model on titles of the generated sample, with the bug and without it.

    The model has 8 units and takes a few seconds; both start from the same weights and see the
    same batches. minirnn's random numbers go on afterwards as if nothing had been drawn.

    Args:
        rows: titles to train on.

    Raises:
        ValueError: if there is no bug of this name, or it is planted already.
    """
    bug = _bug(name)
    with planted(name):
        losses = _train(bug, rows, epochs, seed)
    return Exercise(name, losses, _train(bug, rows, epochs, seed))


def _train(bug: Bug, rows: int, epochs: int, seed: int) -> tuple[float, ...]:
    news, _ = generate(rows, 1, seed)
    words = TextVectorization()
    words.adapt(news.titles)
    with same_random_numbers([]):
        generator().bit_generator.state = np.random.default_rng(seed).bit_generator.state
        model = Sequential(
            [
                Embedding(words.vocabulary_size(), 16, mask_zero=True),
                *bug.layers(),
                Dense(len(CLASS_NAMES), activation="softmax"),
            ]
        )
        model.compile(Adam(0.01), "sparse_categorical_crossentropy")
        history = model.fit(
            words.ids(news.titles), news.labels, batch_size=16, epochs=epochs, verbose=0
        )
    return tuple(history.history["loss"])


# --- planting -------------------------------------------------------------------------------------

_lock = threading.RLock()
_planted: list[str] = []
_originals: list[tuple[Any, str, Any]] = []


def _bug(name: str) -> Bug:
    return by_name("bug", name, BUGS)


def _where(bug: Bug) -> str:
    owner, function = bug.places[0]
    return f"{owner.__name__}.{function}"


def _replant() -> None:
    """Put everything back, then plant all that is to be planted: blocks may end in any order."""
    while _originals:
        owner, key, function = _originals.pop()
        setattr(owner, key, function)
    if not _planted:
        return
    for module in (minirnn.timeloop, bidirectional):
        _put(module, "loops", lambda cell, dtype, drop: cell)
    _put(steps, "training_graph", lambda model, before: None)
    for name in _planted:
        bug = BUGS[name]
        function = _rewritten(name, bug)
        for owner, key in bug.places:
            _put(owner, key, function)


def _put(owner: Any, key: str, function: Callable) -> None:
    _originals.append((owner, key, vars(owner)[key]))
    setattr(owner, key, function)


def _rewritten(name: str, bug: Bug) -> Callable:
    """The function with the mistake in it, from its source."""
    owner, key = bug.places[0]
    function = vars(owner)[key]
    source = inspect.getsource(function)
    if source.count(bug.right) != 1:
        others = ", ".join(other for other in _planted if other != name) or "none"
        raise ValueError(
            f"name: the bug {name!r} needs the line {bug.right!r} once in {_where(bug)}, and finds "
            f"it {source.count(bug.right)} times; other bugs planted: {others}"
        )
    source = textwrap.dedent(source.replace(bug.right, bug.wrong))
    filename = f"<{_where(bug)} with {name}>"
    made: dict[str, Any] = {}
    exec(compile(source, filename, "exec"), function.__globals__, made)
    # So that tracebacks show the line, and the next bug in this function finds its source.
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    return made[key]
