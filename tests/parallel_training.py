"""What a rank does in the tests of data parallel training.

    mpiexec -n 2 python tests/parallel_training.py agree FOLDER     all trainings of CASES
    mpiexec -n 2 python tests/parallel_training.py fail HOW         a training that rank 1 spoils

See test_parallel.py, which compares with one process.
"""

import atexit
import csv
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import minirnn
from minirnn import callbacks, optimizers, parallel
from minirnn.data import Dataset
from minirnn.data.stream import Stream
from minirnn.layers import (
    GRU,
    LSTM,
    Bidirectional,
    Dense,
    Dropout,
    Embedding,
    GlobalAveragePooling1D,
    SimpleRNN,
    TextVectorization,
)

WORDS, CLASSES, ROWS = 23, 3, 55  # of 12 at a time: the last batch has 7, too few for some ranks
GLOBAL_BATCH = 12
CROSSENTROPY = "sparse_categorical_crossentropy"


class DenseGradient(Embedding):
    """A table whose gradient comes as a whole."""

    def backward(self, dy, cache):
        _, grads = super().backward(dy, cache)
        return None, {"embeddings": grads["embeddings"].dense(self.params["embeddings"].shape)}


class Slower(callbacks.Callback):
    """Looks at the model after each step, and changes what all ranks do."""

    def on_train_batch_end(self, batch, logs):
        if batch == 2:
            self.model.optimizer.learning_rate *= 0.5 + logs["loss"] / 100


def texts(rng, rows=ROWS):
    """Rows of ids that differ in length, and a label for each."""
    x = [rng.integers(1, WORDS, rng.integers(1, 9)) for _ in range(rows)]
    return x, rng.integers(0, CLASSES, rows)


def stack(*layers):
    return minirnn.Sequential([*layers])


def softmax():
    return Dense(CLASSES, activation="softmax")


def masked(rng):
    model = stack(Embedding(WORDS, 5, mask_zero=True), LSTM(4), softmax())
    model.compile("adam", CROSSENTROPY, ["acc"])
    return model, texts(rng), {"validation_split": 0.2}


def no_mask(rng):
    model = stack(Embedding(WORDS, 5), SimpleRNN(4), softmax())
    model.compile(optimizers.SGD(0.1, momentum=0.9, nesterov=True), CROSSENTROPY, ["acc"])
    return model, texts(rng), {}


def bidirectional(rng):
    model = stack(
        Embedding(WORDS, 5, mask_zero=True),
        Bidirectional(LSTM(4, return_sequences=True)),
        Bidirectional(GRU(3)),
        softmax(),
    )
    model.compile(optimizers.RMSprop(0.01, momentum=0.5, clipnorm=0.05), CROSSENTROPY)
    x, y = texts(rng)
    return model, (x, y), {"validation_data": texts(rng, 14), "callbacks": [Slower()]}


def each_step(rng):
    """Outputs at all steps, with a mask, weights for steps and for classes."""
    model = stack(Embedding(WORDS, 5, mask_zero=True), GRU(4, return_sequences=True), softmax())
    model.compile(optimizers.Adam(0.01, global_clipnorm=0.2), CROSSENTROPY, ["acc"])
    x = rng.integers(1, WORDS, (ROWS, 6)) * (np.arange(6) < rng.integers(0, 7, (ROWS, 1)))
    y, weights = rng.integers(0, CLASSES, (ROWS, 6)), rng.random((ROWS, 6))
    return model, (x, y), {"sample_weight": weights, "class_weight": {0: 2.0, 2: 0.3}}


def numbers(rng):
    """No Embedding, and a model that is built with the first batch."""
    model = stack(LSTM(4, return_sequences=True), SimpleRNN(3), Dense(2))
    model.compile(optimizers.Adagrad(0.05, clipvalue=0.02), "mse", ["mae"])
    x = rng.normal(size=(ROWS, 5, 3)).astype(minirnn.backend.floatx())
    return model, (x, rng.normal(size=(ROWS, 2))), {"sample_weight": rng.random(ROWS)}


def frozen_table(rng):
    model = stack(Embedding(WORDS, 5, mask_zero=True, trainable=False), LSTM(4), softmax())
    model.compile("adam", CROSSENTROPY)
    return model, texts(rng), {"shuffle": False}


def frozen_rest(rng):
    model = stack(
        Embedding(WORDS, 5), GRU(4, trainable=False), Dense(CLASSES, "softmax", trainable=False)
    )
    model.compile(optimizers.Adam(0.01, lazy=True), CROSSENTROPY)
    return model, texts(rng), {}


def dense_gradient(rng):
    model = stack(DenseGradient(WORDS, 5), GlobalAveragePooling1D(), softmax())
    model.compile("rmsprop", CROSSENTROPY, ["acc"])
    return model, texts(rng), {"steps_per_epoch": 3}


def inner_model(rng):
    inner = stack(Embedding(WORDS, 5), SimpleRNN(4, return_sequences=True))
    model = stack(inner, LSTM(3), softmax())
    model.compile(optimizers.SGD(0.1), CROSSENTROPY)
    return model, texts(rng), {}


def data_set(rng):
    """Batches of a data set are those of all ranks."""
    vectorizer = TextVectorization()
    rows = [" ".join("abcdefgh"[i] for i in rng.integers(0, 8, 4)) for _ in range(ROWS)]
    vectorizer.adapt(rows)
    model = stack(vectorizer, Embedding(12, 4, mask_zero=True), SimpleRNN(4), softmax())
    model.compile("adam", CROSSENTROPY, ["acc"])
    data = Dataset.from_tensor_slices((np.array(rows), rng.integers(0, CLASSES, ROWS)))
    stopping = callbacks.EarlyStopping("loss", patience=0, min_delta=10.0)
    data = data.shuffle(ROWS, seed=4).batch(GLOBAL_BATCH)
    return model, (data,), {"callbacks": [stopping], "batch_size": None}


def carried_states(rng):
    """A row goes on where the row at its place in the batch before has ended."""
    model = stack(LSTM(4, stateful=True, return_sequences=True), GRU(3, stateful=True), Dense(2))
    model.compile(optimizers.SGD(0.1), "mse")
    x = rng.normal(size=(48, 5, 3)).astype(minirnn.backend.floatx())
    return model, (x, rng.normal(size=(48, 2))), {"shuffle": False}


def windows(rng):
    """Truncated backpropagation, with outputs at each step."""
    model = stack(
        Embedding(WORDS, 5, mask_zero=True), GRU(4, stateful=True, return_sequences=True), softmax()
    )
    model.compile("adam", CROSSENTROPY, ["acc"])
    x = [rng.integers(1, WORDS, rng.integers(1, 12)) for _ in range(ROWS)]
    y = [rng.integers(0, CLASSES, len(row)) for row in x]
    data = minirnn.Windows(model, x, y, window=4, batch_size=GLOBAL_BATCH // train.ranks)
    return model, (data,), {"batch_size": None}


def last_windows(rng):
    """The same with one output a row."""
    model = stack(Embedding(WORDS, 5, mask_zero=True), LSTM(4, stateful=True), softmax())
    model.compile("adam", CROSSENTROPY, ["acc"])
    x = [rng.integers(1, WORDS, rng.integers(1, 12)) for _ in range(ROWS)]
    y = rng.integers(0, CLASSES, ROWS)
    data = minirnn.Windows(model, x, y, window=4, batch_size=GLOBAL_BATCH // train.ranks)
    return model, (data,), {"batch_size": None}


def from_files(rng):
    """A stream of rows from files."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for part in range(2):
        with open(f"{folder}/{part}.csv", "w", newline="") as file:
            for label, n in rng.integers(0, 3, (25, 2)):
                csv.writer(file).writerow([label + 1, "abc"[label] * 2, "xyz"[n] + " w" * n])
    data = Stream(folder, GLOBAL_BATCH // train.ranks, shuffle_buffer=17, seed=2)
    vectorizer = TextVectorization()
    vectorizer.adapt([text for batch in data.texts() for text in batch])
    model = stack(vectorizer, Embedding(12, 4, mask_zero=True), LSTM(4), softmax())
    model.compile("adam", CROSSENTROPY, ["acc"])
    held_out = Stream(folder, GLOBAL_BATCH // train.ranks, shuffle_buffer=None)
    return model, (data,), {"batch_size": None, "validation_data": held_out}


def mask_later(rng):
    """Padding that has momentum from before it was masked drifts on all ranks alike."""
    model, (x, y), _ = no_mask(rng)
    model.compile(optimizers.Adam(0.01), CROSSENTROPY)
    model.fit(x, y, verbose=0)
    model.layers[0].mask_zero = True
    return model, (x, y), {}


def translator(rng):
    model = minirnn.Seq2Seq(
        [Embedding(WORDS, 5, mask_zero=True), GRU(4, return_state=True)],
        [
            Embedding(9, 4, mask_zero=True),
            GRU(4, return_sequences=True),
            Dense(9, activation="softmax"),
        ],
        start=7,
        end=8,
    )
    model.compile("adam", CROSSENTROPY, ["acc"])
    x, _ = texts(rng)
    return model, (x, [rng.integers(1, 7, rng.integers(1, 5)) for _ in x]), {}


class Noted(Dropout):
    """Remembers what it has drawn."""

    def forward(self, x, mask=None, training=False):
        y, scale = super().forward(x, mask, training)
        if training:
            self.__dict__.setdefault("drawn", []).append((scale != 0).ravel().tolist())
        return y, scale


def dropout(rng):
    """Draws differ between ranks, so this is not compared with one process."""
    model = stack(
        Embedding(WORDS, 5, mask_zero=True),
        LSTM(8, dropout=0.3, recurrent_dropout=0.2),
        Noted(0.5),
        Noted(0.5, seed=3),
        softmax(),
    )
    model.compile("adam", CROSSENTROPY)
    return model, texts(rng), {}


CASES = {
    case.__name__: case
    for case in (
        masked,
        no_mask,
        bidirectional,
        each_step,
        numbers,
        frozen_table,
        frozen_rest,
        dense_gradient,
        inner_model,
        data_set,
        windows,
        last_windows,
        from_files,
        carried_states,
        mask_later,
        translator,
        dropout,
    )
}


def train(name, dtype, ranks=None, **options):
    """`(model, history)` of one of the cases."""
    minirnn.set_floatx(dtype)
    rank, size = (0, 1) if ranks is None else (ranks.rank, ranks.size)
    train.ranks = size
    minirnn.set_random_seed(5 + rank)  # what rank 0 has drawn holds for all
    model, data, chosen = CASES[name](np.random.default_rng(7))
    chosen = {"batch_size": GLOBAL_BATCH // size, "epochs": 3, "verbose": 0} | chosen | options
    try:
        return model, model.fit(*data, ranks=ranks, **chosen).history
    finally:
        minirnn.set_floatx("float32")


def agree(folder):
    ranks = parallel.world()
    for dtype in ("float32", "float64"):
        for name in CASES:
            model, history = train(name, dtype, ranks)
            np.savez(f"{folder}/{name}-{dtype}-{ranks.rank}.npz", *model.get_weights())
            Path(f"{folder}/{name}-{dtype}-{ranks.rank}.json").write_text(json.dumps(history))
    drawn = [layer.drawn for layer in model.layers if isinstance(layer, Noted)]
    Path(f"{folder}/drawn-{ranks.rank}.json").write_text(json.dumps(drawn))


def on_stand_in(folder, transport):
    """The same on the stand-in for CuPy, with a stand-in for NCCL, or with MPI."""
    import nccl_stand_in
    import strict_cupy

    ranks = parallel.world()
    with strict_cupy.installed() as cupy:
        nccl_stand_in.install(cupy, ranks.comm, transport == "NcclTransport")
        for name in ("masked", "each_step", "numbers", "dense_gradient"):
            model, history = train(name, "float32", ranks)
            assert type(ranks.transport).__name__ == transport
            np.savez(f"{folder}/{name}-device-{ranks.rank}.npz", *model.get_weights())
    Path(f"{folder}/sums-{ranks.rank}.json").write_text(json.dumps(nccl_stand_in.calls))


class Spoiler(callbacks.Callback):
    """Does something to one rank in the middle of an epoch."""

    def __init__(self, rank, how):
        self.rank, self.how, self.steps = rank, how, 0

    def on_train_batch_end(self, batch, logs):
        self.steps += 1
        if self.steps == 7 and self.rank == 1:
            HOW[self.how](self.model)


def raise_error(model):
    raise ZeroDivisionError("seven steps are enough")


def memory_full(model):
    raise MemoryError("Unable to allocate 3 TiB")


def other_rate(model):
    model.optimizer.learning_rate = 0.5


def other_weights(model):
    model.params["dense_bias"][0] = np.nan


def endless_gradient(model):
    layer = model.layers[1]
    backward = layer.backward

    def broken(dy, cache):
        dx, grads = backward(dy, cache)
        return dx, {key: gradient * np.inf for key, gradient in grads.items()}

    layer.backward = broken


HOW = {
    "kill": lambda model: os.kill(os.getpid(), signal.SIGKILL),
    "error": raise_error,
    "memory": memory_full,
    "exit": lambda model: sys.exit("enough"),
    "rate": other_rate,
    "nan": other_weights,
    "gradient": endless_gradient,
}


def fail(how, *arguments):
    ranks = parallel.world()
    print(f"rank {ranks.rank} has begun", flush=True)
    if how == "leave" and ranks.rank == 1:
        sys.exit(3)
    name, options = "no_mask", {"epochs": 50}
    if how in HOW:
        options["callbacks"] = [Spoiler(ranks.rank, how)]
    if how == "data" and ranks.rank == 1:
        CASES[name] = lambda rng: (*no_mask(rng)[:1], texts(rng, ROWS + 1), {})
    if how == "length":
        CASES[name] = other_length(ranks)
        options["batch_size"] = None
    try:
        train(name, "float32", ranks, **options)
    except minirnn.NonFiniteError as error:
        sys.stdout.write(f"rank {ranks.rank}: {error}\n")  # in one piece: the ranks share a pipe


def other_length(ranks):
    """A stream that ends too early on one rank, and does not tell its length before."""

    def case(rng):
        model, (x, y), options = no_mask(rng)
        x, y = minirnn.text.pad_rows(x), np.asarray(y)
        steps = 3 + 2 * (ranks.rank == 0)
        return model, (Dataset.from_generator(lambda: ((x, y) for _ in range(steps))),), options

    return case


def checkpointed(path, result, death):
    """A training that is killed in a step, "step/rank", or waits to be; "" lets it live."""
    ranks = parallel.world()
    steps, rank = (int(part) for part in death.split("/")) if "/" in death else (-1, 0)

    class Killer(callbacks.Callback):
        done = 0

        def on_train_batch_end(self, batch, logs):
            if self.done == ranks.rank == 0 and death == "wait":
                print("begun", flush=True)
            time.sleep(0.02 * (death == "wait"))
            self.done += 1
            if self.done == steps and ranks.rank == rank:
                os.kill(os.getpid(), signal.SIGKILL)

    place = minirnn.checkpoint.Checkpoint(path, steps=2) if path else None
    options = {"checkpoint": place, "callbacks": [Killer()]}
    model, history = train("masked", "float64", ranks, **options)
    if ranks.rank == 0:
        np.savez(result, *model.get_weights(), *history.values())


if __name__ == "__main__":
    task, *arguments = sys.argv[1:]
    tasks = SimpleNamespace(agree=agree, on_stand_in=on_stand_in, fail=fail, killed=checkpointed)
    getattr(tasks, task)(*arguments)
