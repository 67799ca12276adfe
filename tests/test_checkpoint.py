"""A training broken off anywhere goes on and ends as if nothing had happened, bit for bit."""

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import minirnn
from minirnn.callbacks import (
    Callback,
    CSVLogger,
    EarlyStopping,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
)
from minirnn.checkpoint import Checkpoint, CheckpointError
from minirnn.data import Dataset
from minirnn.layers import (
    GRU,
    LSTM,
    Bidirectional,
    Dense,
    Dropout,
    Embedding,
    SimpleRNN,
    TextVectorization,
)
from minirnn.optimizers import SGD, Adagrad, Adam, RMSprop, schedules
from minirnn.saving import FileFormatError

ROWS, TIME, WORDS, CLASSES = 37, 7, 500, 3
BATCH, EPOCHS = 5, 3
STEPS = -(-ROWS // BATCH) * EPOCHS


class Crash(Exception):
    """Power is gone."""


def rows(seed=0):
    random = np.random.default_rng(seed)
    x = random.integers(1, WORDS, (ROWS, TIME))
    x[np.arange(TIME) >= random.integers(1, TIME + 1, ROWS)[:, None]] = 0
    return x, random.integers(0, CLASSES, ROWS)


def classifier(*layers, optimizer="adam", metrics=("acc",)):
    minirnn.set_random_seed(3)
    head = Dense(CLASSES, activation="softmax")
    model = minirnn.Sequential([*layers, head])
    model.compile(optimizer, "sparse_categorical_crossentropy", list(metrics))
    return model


def rnn(optimizer="adam"):
    return classifier(
        Embedding(WORDS, 6, mask_zero=True), SimpleRNN(4), optimizer=optimizer, metrics=["acc"]
    )


def everything(model):
    """All that a training changes, as bytes."""
    model.optimizer.settle()
    state = model.optimizer.state_dict()
    parts = [w.tobytes() for w in model.get_weights()]
    parts += [np.asarray(state[key]).tobytes() for key in sorted(state)]
    return parts, minirnn.backend.generator_state()


def fit(make, path, data, monkeypatch, crash_at=None, validation=None, **options):
    """One process's part of a training; `crash_at`: the power goes in this step of it."""
    model = make()
    step, steps = minirnn.steps.train_step, itertools.count(1)

    def failing(*arguments, **more):
        if next(steps) == crash_at:
            raise Crash
        return step(*arguments, **more)

    given = {"epochs": EPOCHS, "verbose": 0} | options
    if validation is not None:
        given["validation_data"] = validation()
    x, y = data()
    more = {"batch_size": BATCH} if y is not None else {}
    checkpoint = None if path is None else Checkpoint(path, steps=1)
    with monkeypatch.context() as patched:
        patched.setattr(minirnn.steps, "train_step", failing)
        history = model.fit(x, y, **more, checkpoint=checkpoint, **given)
    return model, history


def check(make, tmp_path, monkeypatch, data=rows, callbacks=list, crashes=None, **options):
    """Crash at each of the steps, and compare with a training that knows no checkpoints."""
    whole, history = fit(make, None, data, monkeypatch, callbacks=callbacks(), **options)
    for crash_at in crashes or (1, 2, 8, 9, STEPS // 2, STEPS):
        path = tmp_path / f"{crash_at}.ckpt"
        with pytest.raises(Crash):
            fit(make, path, data, monkeypatch, crash_at, callbacks=callbacks(), **options)
        assert path.exists() == (crash_at > 1)
        model, again = fit(make, path, data, monkeypatch, callbacks=callbacks(), **options)
        assert everything(model) == everything(whole), f"after a crash in step {crash_at}"
        assert again.history == history.history
        assert again.epoch == history.epoch
    return whole


MODELS = {
    "rnn": rnn,
    "lstm": lambda: classifier(Embedding(WORDS, 6), LSTM(4)),
    "bigru": lambda: classifier(
        Embedding(WORDS, 6, mask_zero=True),
        Bidirectional(GRU(4, return_sequences=True, recurrent_dropout=0.2)),
        Bidirectional(LSTM(3, dropout=0.3)),
    ),
    "own generators": lambda: classifier(
        Embedding(WORDS, 6, mask_zero=True), Dropout(0.3, seed=5), GRU(4), Dropout(0.2)
    ),
    "frozen": lambda: classifier(Embedding(WORDS, 6, trainable=False), SimpleRNN(4)),
}

OPTIMIZERS = {
    "sgd": lambda: SGD(0.1),
    "momentum": lambda: SGD(0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda: RMSprop(0.01, momentum=0.5, centered=True),
    "adagrad": lambda: Adagrad(0.1),
    "adam": lambda: Adam(0.01, beta_1=0.5, clipnorm=1.0),  # the small beta: averages are folded
    "lazy": lambda: Adam(0.01, lazy=True),
    "schedule": lambda: Adam(schedules.ExponentialDecay(0.01, 4, 0.5)),
}


@pytest.mark.parametrize("name", MODELS)
def test_models(name, tmp_path, monkeypatch):
    check(MODELS[name], tmp_path, monkeypatch)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name, tmp_path, monkeypatch):
    check(lambda: rnn(OPTIMIZERS[name]()), tmp_path, monkeypatch, crashes=[2, 7, STEPS - 3])


def test_a_stateful_layer(tmp_path, monkeypatch):
    def make():
        return classifier(Embedding(WORDS, 6), LSTM(4, stateful=True))

    def data():
        x, y = rows()
        return x[:35], y[:35]

    check(make, tmp_path, monkeypatch, data, shuffle=False, crashes=[3, 8, 15])


def test_in_a_thread_with_a_seed_of_its_own(tmp_path, monkeypatch):
    """The generator of that thread is the one that counts."""
    with ThreadPoolExecutor(1) as pool:
        data = MODELS["bigru"], tmp_path, monkeypatch
        pool.submit(check, *data, crashes=[2, 9, 17]).result()


@pytest.mark.parametrize("at_each_step", [False, True])
def test_windows(at_each_step, tmp_path, monkeypatch):
    """In the middle of rows, too: the states that they are in go along."""
    random = np.random.default_rng(0)
    x = random.normal(size=(12, 9, 2)).astype("float32")
    y = random.normal(size=(12, 9, 1) if at_each_step else (12, 1)).astype("float32")
    models = []

    def make():
        minirnn.set_random_seed(3)
        layer = GRU(3, stateful=True, return_sequences=at_each_step, dropout=0.1)
        models.append(minirnn.Sequential([minirnn.Input((None, 2)), layer, Dense(1)]))
        models[-1].compile("adam", "mse")
        return models[-1]

    def data():
        return minirnn.Windows(models[-1], x, y, window=4, batch_size=5), None

    check(make, tmp_path, monkeypatch, data, crashes=[2, 3, 5, 6, 8])


@pytest.mark.parametrize("steps", [None, 3, 11])
def test_a_data_set(steps, tmp_path, monkeypatch):
    """With orders of its own, and read ahead."""

    def data():
        x, y = rows()
        pairs = Dataset.from_tensor_slices((x, y)).shuffle(20).batch(BATCH)
        return pairs.prefetch(2), None

    check(rnn, tmp_path, monkeypatch, data, steps_per_epoch=steps, crashes=[2, 4, 8, 9])


def test_validation_on_a_data_set_that_is_shuffled(tmp_path, monkeypatch):
    """Its figures depend on the order, here on which rows there are."""

    def validation():
        x, y = rows(4)
        return Dataset.from_tensor_slices((x, y)).shuffle(9).batch(7).take(2)

    check(rnn, tmp_path, monkeypatch, validation=validation, crashes=[2, 9, 17])


def test_arrays_in_epochs_of_a_set_number_of_steps(tmp_path, monkeypatch):
    check(rnn, tmp_path, monkeypatch, steps_per_epoch=5, crashes=[2, 6, 8, 9, 15])


def test_texts(tmp_path, monkeypatch):
    def data():
        x, y = rows()
        return [" ".join(f"w{word}" for word in row if word) for row in x], y

    def make():
        layer = TextVectorization()
        layer.adapt(data()[0])
        return classifier(layer, Embedding(WORDS, 6, mask_zero=True), GRU(4))

    check(make, tmp_path, monkeypatch, data, crashes=[2, 9])


def test_callbacks(tmp_path, monkeypatch):
    """What they remember goes on, and what they write is the same in the end."""
    log = tmp_path / "log.csv"

    def callbacks():
        return [
            EarlyStopping("loss", patience=1, restore_best_weights=True),
            ReduceLROnPlateau("acc", factor=0.5, patience=1, min_delta=0.2),
            LearningRateScheduler(lambda epoch, rate: rate * 0.9),
            CSVLogger(log),
            ModelCheckpoint(tmp_path / "best.mrnn", "acc", save_best_only=True),
        ]

    def make():
        return rnn(SGD(0.5, momentum=0.9))

    minirnn.set_random_seed(3)
    options = {"epochs": 6, "validation_split": 0.2}
    check(make, tmp_path, monkeypatch, rows, callbacks, crashes=[1], **options)
    expected = log.read_text(), everything(minirnn.load(tmp_path / "best.mrnn"))[0]
    assert expected[0].count("\n") > 2
    for crash_at in (4, 7, 13, 14):
        check(make, tmp_path, monkeypatch, rows, callbacks, crashes=[crash_at], **options)
        assert log.read_text() == expected[0]
        assert everything(minirnn.load(tmp_path / "best.mrnn"))[0] == expected[1]


def test_seq2seq(tmp_path, monkeypatch):
    def make():
        minirnn.set_random_seed(3)
        model = minirnn.Seq2Seq(
            encoder=[Embedding(WORDS, 4, mask_zero=True), GRU(5, return_state=True)],
            decoder=[
                Embedding(WORDS + 2, 4, mask_zero=True),
                GRU(5, return_sequences=True),
                Dense(WORDS + 2, activation="softmax"),
            ],
            start=WORDS,
            end=WORDS + 1,
        )
        model.compile("adam", "sparse_categorical_crossentropy")
        return model

    def data():
        x, _ = rows()
        return x, rows(1)[0]

    check(make, tmp_path, monkeypatch, data, crashes=[2, 8, 9])


def test_a_model_that_takes_shape_with_the_first_batch(tmp_path, monkeypatch):
    def make():
        minirnn.set_random_seed(3)
        model = minirnn.Sequential([GRU(3, dropout=0.2), Dense(1)])
        model.compile("rmsprop", "mse")
        return model

    def data():
        random = np.random.default_rng(0)
        return random.normal(size=(ROWS, 4, 2)).astype("float32"), random.normal(size=(ROWS, 1))

    check(make, tmp_path, monkeypatch, data, crashes=[2, 9])


def test_a_training_that_has_ended_is_not_repeated(tmp_path, capsys):
    path = tmp_path / "c"
    x, y = rows()
    model = rnn()
    history = model.fit(x, y, BATCH, 2, verbose=0, checkpoint=path)
    again = rnn()
    same = again.fit(x, y, BATCH, 2, verbose=2, checkpoint=path)
    assert capsys.readouterr().out == f"The training in {path} has ended at the end of epoch 2.\n"
    assert everything(again) == everything(model)
    assert same.history == history.history
    longer = rnn()
    more = longer.fit(x, y, BATCH, 3, verbose=0, checkpoint=path)
    assert more.epoch == [0, 1, 2]
    whole = rnn()
    whole.fit(x, y, BATCH, 3, verbose=0)
    assert everything(longer) == everything(whole)


def test_a_training_that_stopped_early_stays_so_unless_more_epochs_are_asked_for(tmp_path):
    class Stop(Callback):
        def on_epoch_end(self, epoch, logs):
            self.model.stop_training = True

    x, y = rows()
    for epochs, expected in ((4, [0]), (4, [0]), (5, [0, 1])):
        history = rnn().fit(
            x, y, BATCH, epochs, verbose=0, callbacks=[Stop()], checkpoint=tmp_path / "c"
        )
        assert history.epoch == expected


def test_the_batch_size_may_change(tmp_path, monkeypatch):
    """The rows that were had are not had again."""
    path = tmp_path / "c"
    with pytest.raises(Crash):
        fit(rnn, path, rows, monkeypatch, 4)
    x, y = rows()
    seen = []
    inner = minirnn.steps.train_step

    def spy(model, x, *arguments, **options):
        seen.append(len(x))
        return inner(model, x, *arguments, **options)

    monkeypatch.setattr(minirnn.steps, "train_step", spy)
    rnn().fit(x, y, 10, 1, verbose=0, checkpoint=path)
    assert seen == [10, 10, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": slice(0, 30)}, "other data: there rows 37, here rows 30"),
        ({"units": 5}, "other weights: there simple_rnn_kernel"),
        ({"optimizer": Adam(beta_1=0.5)}, "other optimizer: there beta_1 0.9, here beta_1 0.5"),
        ({"callbacks": [EarlyStopping("loss")]}, "other callbacks"),
    ],
)
def test_a_checkpoint_of_another_training(change, message, tmp_path):
    x, y = rows()
    path = tmp_path / "c"
    rnn().fit(x, y, BATCH, 1, verbose=0, checkpoint=path)
    before = path.read_bytes()
    chosen = change.get("rows", slice(None))
    model = classifier(
        Embedding(WORDS, 6, mask_zero=True),
        SimpleRNN(change.get("units", 4)),
        optimizer=change.get("optimizer", "adam"),
    )
    with pytest.raises(CheckpointError, match=message):
        model.fit(
            x[chosen],
            y[chosen],
            BATCH,
            2,
            verbose=0,
            checkpoint=path,
            callbacks=change.get("callbacks"),
        )
    assert path.read_bytes() == before


# --- real processes -------------------------------------------------------------------------------

SCRIPT = """
import sys, time
import numpy as np
import minirnn
from minirnn.layers import Dense, Embedding, GRU

draw = np.random.default_rng(0)
x, y = draw.integers(0, 90, (2000, 9)), draw.integers(0, 3, 2000)
minirnn.set_random_seed(1)
model = minirnn.Sequential([Embedding(90, 4), GRU(3), Dense(3, activation="softmax")])
model.compile("adam", "sparse_categorical_crossentropy")

class Tell(minirnn.callbacks.Callback):
    def on_epoch_begin(self, epoch):
        print("epoch", epoch, flush=True)
    def on_epoch_end(self, epoch, logs):
        time.sleep(float(sys.argv[3]))

model.fit(x, y, 4, int(sys.argv[2]), verbose=0, callbacks=[Tell()], checkpoint=sys.argv[1])
np.save(sys.argv[1] + ".npy", np.concatenate([w.ravel() for w in model.get_weights()]))
"""


def started(path, epochs, pause=0.0, **options):
    command = [sys.executable, "-c", SCRIPT, path, str(epochs), str(pause)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_killed_at_fifty_random_moments():
    script = Path(__file__).parent / "killed_training.py"
    done = subprocess.run(
        [sys.executable, script, "50"],
        env=os.environ | {"MINIRNN_THREADS": "1"},  # it forks
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kills, in_a_write = map(
        int, re.match(r"(\d+) kills, (\d+) of them in a write", done.stdout).groups()
    )
    assert kills == 50 and in_a_write > 0


@pytest.mark.parametrize(("number", "code"), [("SIGINT", None), ("SIGTERM", -signal.SIGTERM)])
def test_a_signal_stops_after_the_step_and_saves(number, code, tmp_path):
    path = str(tmp_path / "c")
    process = started(path, 3)
    assert process.stdout.readline() == "epoch 0\n"
    process.send_signal(getattr(signal, number))
    _, errors = process.communicate(timeout=60)
    assert re.search(
        rf"stopped at epoch \d, step \d+; all is saved in {path}, and the same", errors
    )
    assert process.returncode == code if code else process.returncode in (1, -signal.SIGINT)
    results = []
    for file in (path, str(tmp_path / "whole")):
        again = started(file, 3)
        again.communicate(timeout=60)
        assert again.returncode == 0
        results.append(np.load(file + ".npy"))
    np.testing.assert_array_equal(*results)


def test_a_second_interrupt_does_not_wait(tmp_path):
    """Here a callback hangs, so that the step at hand does not end."""
    process = started(str(tmp_path / "c"), 1, pause=60)
    assert process.stdout.readline() == "epoch 0\n"
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    _, errors = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors


def test_an_interrupt_in_validation_stops_at_once_and_saves(tmp_path, monkeypatch):
    path = tmp_path / "c"
    evaluation = minirnn.training.run_evaluation

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        return evaluation(*arguments)

    x, y = rows()
    options = {"verbose": 0, "validation_split": 0.2, "checkpoint": Checkpoint(path, steps=1000)}
    monkeypatch.setattr(minirnn.training, "run_evaluation", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stopped at epoch 1, step 6; all is saved"):
        rnn().fit(x, y, BATCH, 2, **options)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    model = rnn()
    history = model.fit(x, y, BATCH, 2, **options)
    whole = rnn()
    expected = whole.fit(x, y, BATCH, 2, **options | {"checkpoint": None})
    assert history.history == expected.history
    assert everything(model) == everything(whole)


# --- places that cannot be written ----------------------------------------------------------------


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path):
    """The disk is full in the middle of a write, here by a limit on the size of files."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "c"
    x, y = rows()
    rnn().fit(x, y, BATCH, 1, verbose=0, checkpoint=path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="cannot be written .*; the one before stays") as caught:
            rnn().fit(x, y, BATCH, 2, verbose=0, checkpoint=Checkpoint(path, steps=3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "Training has stopped at epoch 2, step 3" in str(caught.value)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["c"]


def test_places_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        Checkpoint(tmp_path / "nowhere" / "c")
    with pytest.raises(IsADirectoryError, match="name a file"):
        Checkpoint(tmp_path)
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    with pytest.raises(PermissionError, match="no right to write"):
        rnn().fit(*rows(), verbose=0, checkpoint=tmp_path / "c")


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"steps": 1.5}, {"seconds": 0}, {"seconds": "1"}]
)
def test_how_often_makes_no_sense(options, tmp_path):
    with pytest.raises(ValueError, match="steps|seconds"):
        Checkpoint(tmp_path / "c", **options)


def test_a_checkpoint_that_is_none(tmp_path):
    with pytest.raises(TypeError, match="expected a path or a Checkpoint, received 3"):
        rnn().fit(*rows(), verbose=0, checkpoint=3)
    path = tmp_path / "c"
    model = rnn()
    model.build()
    model.save(path)
    with pytest.raises(FileFormatError, match="expected a minirnn checkpoint, found a minirnn"):
        rnn().fit(*rows(), verbose=0, checkpoint=path)
    rnn().fit(*rows(), verbose=0, checkpoint=tmp_path / "d")
    with pytest.raises(FileFormatError, match="expected a minirnn model, found a minirnn check"):
        minirnn.load(tmp_path / "d")


def test_damaged_checkpoints_are_refused(tmp_path):
    path = tmp_path / "c"
    rnn().fit(*rows(), verbose=0, checkpoint=path)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for case in range(60):
        damaged = bytearray(whole)
        if case % 3 == 0:
            damaged = damaged[: random.integers(len(whole))]
        else:
            damaged[random.integers(3000)] = random.integers(256)
        path.write_bytes(damaged)
        try:
            rnn().fit(*rows(), verbose=0, checkpoint=path)
        except (FileFormatError, CheckpointError):
            refused += 1
    assert refused > 30


def test_how_often(tmp_path, monkeypatch):
    written = []
    encoded = minirnn.checkpoint.encoded

    def spy(kind, header, arrays):
        written.append(header["standing"])
        return encoded(kind, header, arrays)

    monkeypatch.setattr(minirnn.checkpoint, "encoded", spy)
    clock = itertools.count(0, 10)  # 10 seconds go by from one look at it to the next
    monkeypatch.setattr(minirnn.checkpoint.time, "monotonic", lambda: next(clock))
    x, y = rows()

    def steps(**often):
        written.clear()
        rnn().fit(x, y, BATCH, 1, verbose=0, checkpoint=Checkpoint(tmp_path / "c", **often))
        os.unlink(tmp_path / "c")
        return [(standing["epoch"], standing["step"]) for standing in written]

    assert steps(steps=3) == [(0, 3), (0, 6), (1, 0)]
    assert steps(seconds=25) == [(0, 3), (0, 6), (1, 0)]
    assert steps() == [(0, 7), (1, 0)]
