"""minirnn itself: `fit` over the batches, timed as a whole pass, and `predict`."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

import minirnn
from minirnn import layers
from minirnn.bench.lessons import CLASSES, VOCABULARY, Lesson


def describe() -> str:
    return f"minirnn {minirnn.__version__}, NumPy {np.__version__}"


class Peer:
    def __init__(self, lesson: Lesson) -> None:
        minirnn.set_random_seed(1)
        self.model = minirnn.Sequential(model_layers(lesson))
        self.model.compile("adam", "sparse_categorical_crossentropy")
        self.model.build((None, None))

    def prepare(self, x: np.ndarray, y: np.ndarray | None) -> Any:
        return x, y

    def timed_pass(self, batches: list[Any]) -> list[float]:
        begun = time.perf_counter()
        self.model.fit(Stream(batches), verbose=0)
        return [(time.perf_counter() - begun) / len(batches)] * len(batches)

    def train(self, batch: Any) -> float:
        return self.model.train_on_batch(*batch)

    def infer(self, batch: Any) -> np.ndarray:
        return self.model.predict_on_batch(batch[0])


class Stream:
    """Batches that `fit` can walk again and again."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)


def model_layers(lesson: Lesson) -> list[layers.Layer]:
    made: list[layers.Layer] = [
        layers.Embedding(VOCABULARY, lesson.features, mask_zero=lesson.mask)
    ]
    kind = layers.LSTM if lesson.cell == "lstm" else layers.SimpleRNN
    for i in range(lesson.layers):
        layer = kind(lesson.units, return_sequences=i + 1 < lesson.layers)
        made.append(layers.Bidirectional(layer) if lesson.bidirectional else layer)
    return [*made, layers.Dense(CLASSES, activation="softmax")]
