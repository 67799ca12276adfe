"""Accuracy of the lesson's four models on AG News, epoch by epoch, here and in Keras.

    python benchmarks/accuracy.py --data FOLDER                     minirnn
    python benchmarks/accuracy.py --data FOLDER --library keras     Keras 3, where it is installed

Both go the same way: the vocabulary from the first 2,000 titles, rows in the order of the file, not
shuffled, each batch padded to its longest row, Adam with its defaults; accuracy on the test rows in
batches of 64. Each line of output is one epoch of one seed, as JSON; the last lines are the means
over the seeds.
"""

from __future__ import annotations

import argparse
import collections
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import minirnn
from minirnn.classifier import RECIPES, adapted_vectorizer
from minirnn.data import load_ag_news
from minirnn.text import pad_rows

EPOCHS = {"rnn-title": 3, "rnn": 3, "lstm": 3, "bilstm": 2}
CLASSES = 4


def layers_of(layers: Any, name: str) -> list[Any]:
    """The model's layers, made from Keras's module `layers` or from ours."""
    if name == "bilstm":
        return [
            layers.Embedding(20_000, 128, mask_zero=True),
            layers.Bidirectional(layers.LSTM(64, return_sequences=True)),
            layers.Bidirectional(layers.LSTM(64)),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    recurrent = layers.LSTM(8) if name == "lstm" else layers.SimpleRNN(16)
    return [
        layers.Embedding(20_000, 64, mask_zero=name == "rnn"),
        recurrent,
        layers.Dense(CLASSES, activation="softmax"),
    ]


class Minirnn:
    """One model of ours."""

    def __init__(self, name: str, seed: int) -> None:
        minirnn.set_random_seed(seed)
        self.model = minirnn.Sequential(layers_of(minirnn.layers, name))
        self.model.compile("adam", "sparse_categorical_crossentropy", metrics=["acc"])

    def train(self, ids: list[np.ndarray], labels: np.ndarray, batch: int) -> float:
        history = self.model.fit(ids, labels, batch_size=batch, shuffle=False, verbose=0)
        return history.history["acc"][0]

    def test(self, ids: list[np.ndarray], labels: np.ndarray) -> float:
        return self.model.evaluate(ids, labels, batch_size=64, verbose=0)[1]


class Keras:
    """The same model in Keras, on the backend that KERAS_BACKEND names."""

    def __init__(self, name: str, seed: int) -> None:
        import keras

        keras.utils.set_random_seed(seed)
        self.model = keras.Sequential(layers_of(keras.layers, name))
        self.model.compile("adam", "sparse_categorical_crossentropy", metrics=["acc"])

    def batches(self, ids: list[np.ndarray], labels: np.ndarray, batch: int) -> Any:
        import keras

        class Batches(keras.utils.PyDataset):
            def __len__(self) -> int:
                return -(-len(ids) // batch)

            def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
                rows = slice(index * batch, (index + 1) * batch)
                return pad_rows(ids[rows]), labels[rows]

        return Batches()

    def train(self, ids: list[np.ndarray], labels: np.ndarray, batch: int) -> float:
        data = self.batches(ids, labels, batch)
        return self.model.fit(data, shuffle=False, verbose=0).history["acc"][0]

    def test(self, ids: list[np.ndarray], labels: np.ndarray) -> float:
        return self.model.evaluate(self.batches(ids, labels, 64), verbose=0)[1]


LIBRARIES = {"minirnn": Minirnn, "keras": Keras}


def share_weights(model: Any, path: Path) -> None:
    """Start from the weights in this file, or write it if it is not there."""
    model.build((None, None))
    if path.exists():
        with np.load(path) as stored:
            model.set_weights([stored[key] for key in stored.files])
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, *model.get_weights())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder with train.csv and test.csv; default: as minirnn")
    parser.add_argument("--library", choices=LIBRARIES, default="minirnn")
    parser.add_argument("--models", nargs="+", choices=EPOCHS, default=list(EPOCHS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument(
        "--weights",
        type=Path,
        help="folder of initial weights: those that are there are used, others are written, so "
        "that two libraries can start from the same ones",
    )
    args = parser.parse_args()

    data = load_ag_news(args.data)
    print(data.description)
    vectorizer = adapted_vectorizer(data.train.titles)
    means = collections.defaultdict(list)
    for name in args.models:
        recipe = RECIPES[name]
        train, test = (
            vectorizer.ids(rows.titles if recipe.titles_only else rows.texts())
            for rows in (data.train, data.test)
        )
        for seed in args.seeds:
            model = LIBRARIES[args.library](name, seed)
            if args.weights is not None:
                share_weights(model.model, args.weights / f"{name}-{seed}.npz")
            for epoch in range(1, EPOCHS[name] + 1):
                begun = time.perf_counter()
                trained = model.train(train, data.train.labels, recipe.batch_size)
                seconds = time.perf_counter() - begun
                tested = model.test(test, data.test.labels)
                means[name, epoch].append((trained, tested))
                figures = {"train": round(trained, 4), "test": round(tested, 4)}
                where = {"model": name, "seed": seed, "epoch": epoch}
                print(json.dumps(where | figures | {"seconds": round(seconds, 2)}), flush=True)
    for (name, epoch), figures in means.items():
        trained, tested = np.mean(figures, axis=0)
        print(f"{name} epoch {epoch}: train {trained:.3f}, test {tested:.3f}")


if __name__ == "__main__":
    main()
