"""thinc: Embed and its own LSTM; it has no simple RNN."""

from __future__ import annotations

from typing import Any

import numpy as np
import thinc
from thinc.api import LSTM, Adam, Embed, Linear, fix_random_seed, with_padded
from thinc.util import to_categorical

from minirnn.bench.lessons import CLASSES, VOCABULARY, Lesson


def describe() -> str:
    return f"thinc {thinc.about.__version__ if hasattr(thinc, 'about') else thinc.__version__}"


class Peer:
    def __init__(self, lesson: Lesson) -> None:
        if lesson.cell != "lstm":
            raise SystemExit("thinc has no simple RNN")
        fix_random_seed(1)
        self.width = lesson.units * lesson.directions
        self.embed = Embed(lesson.features, VOCABULARY)
        self.lstm = with_padded(
            LSTM(self.width, lesson.features, bi=lesson.bidirectional, depth=lesson.layers)
        )
        self.head = Linear(CLASSES, self.width)
        self.mask = lesson.mask
        for layer in (self.embed, self.lstm, self.head):
            layer.initialize()
        self.optimizer = Adam(0.001)

    def prepare(self, x: np.ndarray, y: np.ndarray | None) -> Any:
        if self.mask:
            rows = [row[row != 0].astype("uint64") for row in x]
        else:
            rows = [row.astype("uint64") for row in x]
        return [row if len(row) else np.zeros(1, "uint64") for row in rows], (
            None if y is None else to_categorical(y.astype("int64"), n_classes=CLASSES)
        )

    def forward(self, rows: list[np.ndarray], train: bool) -> Any:
        vectors, back_embed = self.embed(np.concatenate(rows), is_train=train)
        ends = np.cumsum([len(row) for row in rows])
        split = np.split(vectors, ends[:-1])
        hidden, back_lstm = self.lstm(split, is_train=train)
        last = np.stack([h[-1] for h in hidden])
        logits, back_head = self.head(last, is_train=train)
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True), (hidden, back_embed, back_lstm, back_head)

    def train(self, batch: Any) -> float:
        rows, y = batch
        p, (hidden, back_embed, back_lstm, back_head) = self.forward(rows, True)
        dlast = back_head((p - y) / len(p))
        dhidden = [np.zeros_like(h) for h in hidden]
        for d, row in zip(dhidden, dlast, strict=True):
            d[-1] = row
        back_embed(np.concatenate(back_lstm(dhidden)))
        for layer in (self.embed, self.lstm, self.head):
            layer.finish_update(self.optimizer)
        return float(-np.log((p * y).sum(axis=1)).mean())

    def infer(self, batch: Any) -> np.ndarray:
        return self.forward(batch[0], False)[0]
