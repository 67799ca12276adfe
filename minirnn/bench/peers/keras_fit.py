"""Keras 3 on the backend that KERAS_BACKEND names: `fit` over the batches, or `train_on_batch`.

Options: way=fit or batch. `fit` is timed as a whole pass, divided by its steps.
"""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np

from minirnn.bench.lessons import CLASSES, VOCABULARY, Lesson

BUCKET = 16


def describe() -> str:
    backend = keras.backend.backend()
    version = __import__(backend).__version__
    return f"Keras {keras.__version__} on {backend} {version}"


class Peer:
    def __init__(self, lesson: Lesson, way: str = "fit") -> None:
        keras.utils.set_random_seed(1)
        self.way = way
        self.bucketed = keras.backend.backend() == "jax"  # it compiles anew for every length
        layers = [keras.layers.Embedding(VOCABULARY, lesson.features, mask_zero=lesson.mask)]
        kind = keras.layers.LSTM if lesson.cell == "lstm" else keras.layers.SimpleRNN
        for i in range(lesson.layers):
            layer = kind(lesson.units, return_sequences=i + 1 < lesson.layers)
            layers.append(keras.layers.Bidirectional(layer) if lesson.bidirectional else layer)
        layers.append(keras.layers.Dense(CLASSES, activation="softmax"))
        self.model = keras.Sequential(layers)
        self.model.compile("adam", "sparse_categorical_crossentropy")
        self.data: Any = None

    def prepare(self, x: np.ndarray, y: np.ndarray | None) -> Any:
        if self.bucketed:
            rows, steps = x.shape
            padded = np.zeros((rows, -(-steps // BUCKET) * BUCKET), np.int32)
            padded[:, :steps] = x
            x = padded
        return x, y

    def train(self, batch: Any) -> float:
        return float(np.asarray(self.model.train_on_batch(*batch)))

    def infer(self, batch: Any) -> np.ndarray:
        return self.model.predict_on_batch(batch[0])

    def timed_pass(self, batches: list[Any]) -> list[float]:
        if self.way == "batch":
            seconds = []
            for batch in batches:
                begun = time.perf_counter()
                self.train(batch)
                seconds.append(time.perf_counter() - begun)
            return seconds
        if self.data is None:
            self.data = stream(batches)
        begun = time.perf_counter()
        self.model.fit(self.data, epochs=1, shuffle=False, verbose=0)
        return [(time.perf_counter() - begun) / len(batches)] * len(batches)


def stream(batches: list[Any]) -> Any:
    """The batches as the backend likes them best."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        spec = (
            tf.TensorSpec((None, None), tf.int32),
            tf.TensorSpec((None,), tf.int32),
        )
        data = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=spec)
        counted = tf.data.experimental.assert_cardinality(len(batches))
        return data.apply(counted).cache().prefetch(2)

    class Batches(keras.utils.PyDataset):
        def __len__(self) -> int:
            return len(batches)

        def __getitem__(self, index: int) -> Any:
            return batches[index]

    return Batches()
