"""A training, killed with SIGKILL again and again at random moments, beside one that is not.

    python tests/killed_training.py 50

prints how often it was killed, how often inside a write, and whether all ended alike.
"""

import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import minirnn
from minirnn.checkpoint import Checkpoint
from minirnn.layers import LSTM, Bidirectional, Dense, Dropout, Embedding

WORDS = 6000  # so many that a write takes about as long as a step


def train(path):
    """The digest of the weights that the training at `path` ends with."""
    minirnn.set_random_seed(1)
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, WORDS, (60, 9)), draw.integers(0, 3, 60)
    model = minirnn.Sequential(
        [
            Embedding(WORDS, 32, mask_zero=True),
            Bidirectional(LSTM(6, recurrent_dropout=0.1)),
            Dropout(0.2),
            Dense(3, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", ["acc"])
    checkpoint = None if path is None else Checkpoint(path, steps=1)
    history = model.fit(x, y, 6, epochs=4, verbose=0, checkpoint=checkpoint)
    digest = hashlib.sha256(repr(history.history).encode())
    for weights in model.get_weights():
        digest.update(weights.tobytes())
    return digest.hexdigest()


def life(path, result, longest):
    """One process, which may be killed; whether it was."""
    child = os.fork()
    if child == 0:
        result.write_text(train(path))
        os._exit(0)
    if longest is not None:
        time.sleep(random.random() * longest)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status) and status != 0:
        sys.exit(f"a process ended with {status}")
    return os.WIFSIGNALED(status)


def main(wanted):
    random.seed(0)
    kills = in_a_write = trainings = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        train(None)  # what is compiled is then there for all
        life(None, folder / "whole", None)
        started = time.monotonic()
        life(folder / "timed", folder / "result", None)
        lasts = time.monotonic() - started
        while kills < wanted:
            trainings += 1
            path = folder / f"{trainings}.ckpt"
            while life(path, folder / "result", lasts / 3 if kills < wanted else None):
                kills += 1
                in_a_write += any(folder.glob(f".{path.name}.*"))
            if (folder / "result").read_text() != (folder / "whole").read_text():
                sys.exit(f"training {trainings} ended otherwise, after {kills} kills")
        left = [name for name in os.listdir(folder) if name.startswith(".")]
    print(f"{kills} kills, {in_a_write} of them in a write, in {trainings} trainings: all alike")
    if left:
        sys.exit(f"left behind: {left}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
