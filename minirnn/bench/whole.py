"""A whole training, from reading the rows to the accuracy on the test rows, in another library.

    python -m minirnn.bench.whole keras FOLDER
    python -m minirnn.bench.whole pytorch FOLDER

What `minirnn train --model rnn --data FOLDER --epochs 1` does, as one would write it there.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

ROWS, FEATURES, UNITS, WORDS, TITLES = 16, 64, 16, 20_000, 2_000


def read(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Titles, title + description, labels 0 .. 3."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    titles = [row[1] for row in rows]
    return titles, [f"{row[1]} {row[2]}" for row in rows], np.array([int(r[0]) - 1 for r in rows])


def keras(folder: Path) -> None:
    import keras
    import tensorflow as tf

    titles, texts, labels = read(folder / "train.csv")
    _, test_texts, test_labels = read(folder / "test.csv")
    vectorizer = keras.layers.TextVectorization(max_tokens=WORDS)
    vectorizer.adapt(titles[:TITLES])

    def batches(texts: list[str], labels: np.ndarray, rows: int, shuffle: bool) -> tf.data.Dataset:
        data = tf.data.Dataset.from_tensor_slices((texts, labels))
        data = data.shuffle(len(texts)) if shuffle else data
        data = data.batch(rows).map(lambda x, y: (vectorizer(x), y), tf.data.AUTOTUNE)
        return data.prefetch(tf.data.AUTOTUNE)

    model = keras.Sequential(
        [
            keras.layers.Embedding(WORDS, FEATURES, mask_zero=True),
            keras.layers.SimpleRNN(UNITS),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["acc"])
    model.fit(batches(texts, labels, ROWS, True), epochs=1, verbose=0)
    print("accuracy", model.evaluate(batches(test_texts, test_labels, 64, False), verbose=0)[1])


def pytorch(folder: Path) -> None:
    import string
    from collections import Counter

    import torch

    from minirnn.bench.lessons import LESSONS
    from minirnn.bench.peers.pytorch import Peer

    table = str.maketrans("", "", string.punctuation)
    titles, texts, labels = read(folder / "train.csv")
    _, test_texts, test_labels = read(folder / "test.csv")

    def tokens(text: str) -> list[str]:
        return text.lower().translate(table).split()

    counts = Counter(token for title in titles[:TITLES] for token in tokens(title))
    ids = {token: i for i, (token, _) in enumerate(counts.most_common(WORDS - 2), start=2)}

    def rows_of(texts: list[str]) -> list[np.ndarray]:
        return [np.array([ids.get(t, 1) for t in tokens(x)] or [1], np.int64) for x in texts]

    peer = Peer(LESSONS["rnn"], rows="packed")
    rows, test_rows = rows_of(texts), rows_of(test_texts)

    def batch(chosen: list[np.ndarray], y: np.ndarray | None) -> object:
        padded = np.zeros((len(chosen), max(map(len, chosen))), np.int64)
        for target, row in zip(padded, chosen, strict=True):
            target[: len(row)] = row
        return peer.prepare(padded, y)

    order = torch.randperm(len(rows)).tolist()
    for start in range(0, len(order), ROWS):
        chosen = order[start : start + ROWS]
        peer.train(batch([rows[i] for i in chosen], labels[chosen]))
    right = 0
    for start in range(0, len(test_rows), 64):
        p = peer.infer(batch(test_rows[start : start + 64], None))
        right += int((p.argmax(axis=1) == test_labels[start : start + 64]).sum())
    print("accuracy", right / len(test_rows))


if __name__ == "__main__":
    {"keras": keras, "pytorch": pytorch}[sys.argv[1]](Path(sys.argv[2]))
