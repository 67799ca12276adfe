"""10,000 steps of the lesson's models, and the memory of the process after every thousand.

    python benchmarks/long_runs.py                    all models, all kinds of steps
    python benchmarks/long_runs.py rnn fit predict    only these

Batches change their shape at every step. Each case runs in a process of its own; the figures are
resident megabytes after a garbage collection. The exit status is 1 if one has grown by more than
8 MB from the second thousand to the last.
"""

from __future__ import annotations

import gc
import subprocess
import sys

import numpy as np

from minirnn import classifier, set_random_seed
from minirnn.callbacks import Callback
from minirnn.data import load_ag_news

KINDS = ("fit", "train_on_batch", "predict", "evaluate")
THOUSANDS, ALLOWED = 10, 8.0


def resident() -> float:
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6


class Show(Callback):
    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        print(f"{resident():.1f}", flush=True)


def work(name: str, kind: str) -> None:
    """Print the memory after each thousand steps."""
    news = load_ag_news("sample").train
    set_random_seed(0)
    model = classifier.build_model(name, classifier.adapted_vectorizer(news.titles))
    texts, labels = classifier.texts_for(model, news), np.asarray(news.labels)
    if kind == "fit":
        model.fit(texts, labels, 7, THOUSANDS, 0, [Show()], steps_per_epoch=1000)
        return
    rng = np.random.default_rng(1)
    for step in range(THOUSANDS * 1000):
        rows = rng.integers(0, len(texts), rng.integers(1, 40))
        x = [" ".join([texts[i]] * int(rng.integers(1, 4))) for i in rows]
        if kind == "predict":
            model.predict(x, batch_size=int(rng.integers(1, 33)))
        elif kind == "evaluate":
            model.evaluate(x, labels[rows], verbose=0)
        else:
            model.train_on_batch(x, labels[rows])
        if step % 1000 == 999:
            print(f"{resident():.1f}", flush=True)


def main(words: list[str]) -> int:
    names = [name for name in classifier.RECIPES if name in words] or list(classifier.RECIPES)
    kinds = [kind for kind in KINDS if kind in words] or KINDS
    grown = 0
    for name in names:
        for kind in kinds:
            command = [sys.executable, __file__, "--work", name, kind]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            sizes = [float(size) for size in done.stdout.split()]
            grown += sizes[-1] - sizes[1] > ALLOWED
            print(f"{name:9} {kind:14}", *(f"{size:7.1f}" for size in sizes), flush=True)
    return 1 if grown else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:])
    else:
        sys.exit(main(sys.argv[1:]))
