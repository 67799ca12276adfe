"""The lesson's four models as plain facts, and the batches that every library is timed on."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minirnn.classifier import RECIPES, adapted_vectorizer
from minirnn.data import load_ag_news
from minirnn.text import pad_rows

VOCABULARY = 20_000
CLASSES = 4


class Lesson(NamedTuple):
    """One model: Embedding(20000, features), recurrent layers, Dense(4).

    cell: "rnn" or "lstm". layers: how many of them; bidirectional: in both directions.
    mask: whether padding is skipped. rows: of a batch.
    """

    name: str
    cell: str
    features: int
    units: int
    layers: int = 1
    bidirectional: bool = False
    mask: bool = False

    @property
    def rows(self) -> int:
        return RECIPES[self.name].batch_size

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1


LESSONS = {
    lesson.name: lesson
    for lesson in (
        Lesson("rnn-title", "rnn", features=64, units=16),
        Lesson("rnn", "rnn", features=64, units=16, mask=True),
        Lesson("lstm", "lstm", features=64, units=8),
        Lesson("bilstm", "lstm", 128, 64, layers=2, bidirectional=True, mask=True),
    )
}

Batch = tuple[np.ndarray, np.ndarray]


def batches_of(
    lesson: Lesson, data: Any, count: int, rows: int | None = None, time: int | None = None
) -> list[Batch]:
    """`count` batches `(ids (rows, time), labels (rows,))`, int32, rows in the order of the file.

    Each is padded to its longest row. rows: instead of the lesson's own batch size. time: take
    only so many steps, every row being filled up by repeating itself, so that all steps are real.
    """
    rows = rows or lesson.rows
    recipe = RECIPES[lesson.name]
    taken = data.train.take(rows * count)
    vectorizer = adapted_vectorizer(data.train.titles)
    ids = vectorizer.ids(taken.titles if recipe.titles_only else taken.texts())
    if time is not None:
        ids = [np.resize(row if len(row) else np.array([1], np.int32), time) for row in ids]
    labels = np.asarray(taken.labels, dtype=np.int32)
    starts = range(0, len(ids) - rows + 1, rows)
    return [(pad_rows(ids[s : s + rows]), labels[s : s + rows]) for s in starts]


def load(source: str | None) -> Any:
    """AG News from a folder, or what `minirnn train` would take."""
    return load_ag_news(source)
