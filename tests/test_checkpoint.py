"""A training that is broken off anywhere and goes on ends as if nothing had happened, bit for bit."""

import itertools

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


def fit(make, path, data, crash_at=None, monkeypatch=None, **options):
    """One process's part of a training; `crash_at`: the power goes in this step of it."""
    model = make()
    step = minirnn.training.train_step
    if crash_at is not None:
        steps = itertools.count(1)

        def failing(*arguments, **more):
            if next(steps) == crash_at:
                raise Crash
            return step(*arguments, **more)

        monkeypatch.setattr(minirnn.training, "train_step", failing)
    given = {"epochs": EPOCHS, "verbose": 0} | options
    try:
        x, y = data()
        more = {"batch_size": BATCH} if y is not None else {}
        history = model.fit(x, y, **more, checkpoint=path and Checkpoint(path, steps=1), **given)
    finally:
        monkeypatch.undo()
    return model, history


def check(make, tmp_path, monkeypatch, data=rows, callbacks=list, crashes=None, **options):
    """Crash at each of the steps, and compare with a training that knows no checkpoints."""
    whole, history = fit(
        make, None, data, monkeypatch=monkeypatch, callbacks=callbacks(), **options
    )
    for crash_at in crashes or (1, 2, 8, 9, STEPS // 2, STEPS):
        path = tmp_path / f"{crash_at}.ckpt"
        with pytest.raises(Crash):
            fit(make, path, data, crash_at, monkeypatch, callbacks=callbacks(), **options)
        assert path.exists() == (crash_at > 1)
        model, again = fit(
            make, path, data, monkeypatch=monkeypatch, callbacks=callbacks(), **options
        )
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


@pytest.mark.parametrize("steps", [None, 3, 11])
def test_a_data_set(steps, tmp_path, monkeypatch):
    """With orders of its own, and read ahead."""

    def data():
        x, y = rows()
        pairs = Dataset.from_tensor_slices((x, y)).shuffle(20).batch(BATCH)
        return pairs.prefetch(2), None

    check(rnn, tmp_path, monkeypatch, data, steps_per_epoch=steps, crashes=[2, 4, 8, 9])


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
        fit(rnn, path, rows, 4, monkeypatch)
    x, y = rows()
    seen = []
    inner = minirnn.training.train_step

    def spy(model, x, *arguments, **options):
        seen.append(len(x))
        return inner(model, x, *arguments, **options)

    monkeypatch.setattr(minirnn.training, "train_step", spy)
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
