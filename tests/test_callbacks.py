"""What may happen between epochs."""

from __future__ import annotations

import csv
import math
from types import SimpleNamespace

import numpy as np
import pytest
from model_cases import make, same_weights

from minirnn import load
from minirnn.callbacks import (
    Callback,
    CSVLogger,
    EarlyStopping,
    History,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
)


class Model:
    """Stands in for a model: its weights are the number of the epoch that it has seen last."""

    def __init__(self, rate=1.0):
        self.stop_training = False
        self.weights = [np.array(-1)]
        self.optimizer = SimpleNamespace(learning_rate=rate)
        self.saved = []

    def get_weights(self):
        return [value.copy() for value in self.weights]

    def set_weights(self, weights):
        self.weights = weights

    def save(self, path):
        self.saved.append(path)


def drive(callback, values, name="val_loss", model=None):
    """Show the callback one figure an epoch, until it stops; the model."""
    model = model or Model()
    callback.model = model
    model.stop_training = False
    callback.on_train_begin()
    for epoch, value in enumerate(values):
        callback.on_epoch_begin(epoch)
        model.weights = [np.array(epoch)]
        callback.on_epoch_end(epoch, {"loss": 1.0, name: value})
        if model.stop_training:
            break
    model.epochs = epoch + 1
    callback.on_train_end()
    return model


# --- EarlyStopping --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patience", "values", "epochs"),
    [
        (0, [3, 2, 2, 1], 3),
        (1, [3, 2, 2, 1], 3),
        (2, [3, 2, 2, 1, 4, 4, 0], 6),
        (2, [3, 4, 2, 4, 1], 5),
        (3, [3, 4, 4, 4, 4], 4),
        (0, [1, 2], 2),
        (0, [1], 1),
    ],
)
def test_early_stopping_waits(patience, values, epochs):
    callback = EarlyStopping(patience=patience)
    model = drive(callback, values)
    assert model.epochs == epochs
    assert callback.stopped_epoch == (epochs - 1 if model.stop_training else None)


def test_early_stopping_is_never_in_the_first_epoch():
    callback = EarlyStopping(patience=0)
    callback.model = Model()
    callback.on_train_begin()
    callback.watch.best = 0.0
    callback.on_epoch_end(0, {"val_loss": 1.0})
    assert not callback.model.stop_training
    callback.on_epoch_end(1, {"val_loss": 1.0})
    assert callback.model.stop_training


@pytest.mark.parametrize(
    ("min_delta", "epochs"), [(0.0, 5), (0.05, 5), (0.1, 2), (-0.1, 2), (0.5, 2)]
)
def test_a_small_change_is_no_improvement(min_delta, epochs):
    values = [1 - 0.09375 * i for i in range(5)]
    assert drive(EarlyStopping(patience=1, min_delta=min_delta), values).epochs == epochs


@pytest.mark.parametrize(
    ("monitor", "mode", "epochs"),
    [
        ("val_acc", "auto", 4),
        ("acc", "auto", 4),
        ("val_loss", "auto", 2),
        ("val_loss", "max", 4),
        ("val_acc", "min", 2),
    ],
)
def test_which_way_is_better(monitor, mode, epochs):
    callback = EarlyStopping(monitor=monitor, mode=mode, patience=1)
    assert drive(callback, [0.1, 0.2, 0.3, 0.25, 0.2], name=monitor).epochs == epochs


@pytest.mark.parametrize(("values", "best"), [([3, 1, 2, 2, 0], 1), ([3, 1, 2], 1), ([3, 2, 1], 2)])
def test_the_best_weights_come_back(values, best):
    """Also where training ended before patience did."""
    model = drive(EarlyStopping(patience=2, restore_best_weights=True), values)
    assert model.weights == [best]


def test_weights_stay_unless_asked_for():
    assert drive(EarlyStopping(patience=9), [1, 2, 3]).weights == [2]


def test_early_stopping_serves_a_second_time():
    callback = EarlyStopping(patience=1, restore_best_weights=True)
    drive(callback, [1, 2])
    model = drive(callback, [9, 8, 7])
    assert model.epochs == 3
    assert model.weights == [2]


def test_stopped_epoch_is_that_of_the_last_training():
    callback = EarlyStopping(patience=1)
    drive(callback, [1, 2])
    drive(callback, [3, 2, 1])
    assert callback.stopped_epoch is None


@pytest.mark.parametrize(
    "values",
    [[3, 1, math.nan, 2, 2], [math.nan, 3, 1, 2, 2]],
)
def test_nan_is_no_improvement(values):
    model = drive(EarlyStopping(patience=2, restore_best_weights=True), values)
    assert model.weights == [values.index(1)]


def test_early_stopping_in_a_real_training():
    model, x, y = make("lstm", optimizer="sgd")
    model.optimizer.learning_rate = 0.0 + 1e-30  # nothing moves, so nothing becomes better
    stopping = EarlyStopping("loss", patience=3)
    history = model.fit(x, y, epochs=20, shuffle=False, verbose=0, callbacks=[stopping])
    assert history.epoch == [0, 1, 2, 3]


def test_restoring_in_a_real_training():
    model, x, y = make("lstm")
    kept = []

    class Note(Callback):
        def on_epoch_end(self, epoch, logs):
            kept.append(self.model.get_weights())

    stopping = EarlyStopping("val_acc", mode="min", restore_best_weights=True, patience=99)
    callbacks = [stopping, Note()]
    history = model.fit(
        x, y, epochs=6, validation_data=(x, y), batch_size=4, verbose=0, callbacks=callbacks
    )
    best = int(np.argmin(history.history["val_acc"]))
    for value, expected in zip(model.get_weights(), kept[best], strict=True):
        np.testing.assert_array_equal(value, expected)


# --- ReduceLROnPlateau ----------------------------------------------------------------------------


def rates(callback, values, rate=1.0):
    seen = []

    model = Model(rate)
    callback.model = model
    callback.on_train_begin()
    for epoch, value in enumerate(values):
        callback.on_epoch_end(epoch, {"val_loss": value})
        seen.append(model.optimizer.learning_rate)
    return seen


def test_the_rate_falls_on_a_plateau():
    assert rates(ReduceLROnPlateau(factor=0.5, patience=2), [3, 2, 2, 2, 2, 2]) == [
        1, 1, 1, 0.5, 0.5, 0.25,
    ]  # fmt: skip


def test_an_improvement_starts_the_wait_anew():
    assert rates(ReduceLROnPlateau(factor=0.5, patience=2), [3, 3, 2, 2, 1, 1]) == [1] * 6


def test_a_change_below_min_delta_is_a_plateau():
    values = [1, 0.99995, 0.9999]
    assert rates(ReduceLROnPlateau(factor=0.5, patience=1), values) == [1, 0.5, 0.25]
    assert rates(ReduceLROnPlateau(factor=0.5, patience=1, min_delta=0), values) == [1, 1, 1]


def test_cooldown_as_in_keras():
    callback = ReduceLROnPlateau(factor=0.5, patience=2, cooldown=1)
    assert rates(callback, [1] * 7) == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125]
    callback = ReduceLROnPlateau(factor=0.5, patience=1, cooldown=3)
    assert rates(callback, [1] * 8) == [1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]


def test_the_rate_never_falls_below_min_lr():
    assert rates(ReduceLROnPlateau(factor=0.5, patience=1, min_lr=0.3), [1] * 4) == [
        1, 0.5, 0.3, 0.3,
    ]  # fmt: skip


def test_a_rate_below_min_lr_is_never_raised(capsys):
    callback = ReduceLROnPlateau(factor=0.5, patience=1, min_lr=0.3, verbose=1)
    assert rates(callback, [1] * 4, rate=0.2) == [0.2] * 4
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("factor", [1.0, 0, -0.5, 2])
def test_a_factor_that_does_not_lower(factor):
    with pytest.raises(ValueError, match="factor: expected a number between 0 and 1, received"):
        ReduceLROnPlateau(factor=factor)


def test_plateau_in_a_real_training():
    model, x, y = make("lstm", optimizer="sgd")
    model.optimizer.learning_rate = 1e-9
    plateau = ReduceLROnPlateau("loss", factor=0.5, patience=1)
    model.fit(x, y, epochs=3, shuffle=False, verbose=0, callbacks=[plateau])
    assert model.optimizer.learning_rate == 0.25e-9


# --- LearningRateScheduler ------------------------------------------------------------------------


def test_the_scheduler_sets_the_rate_before_each_epoch():
    model, x, y = make("lstm", optimizer="sgd")
    model.optimizer.learning_rate = 0.5
    asked, used = [], []

    def schedule(epoch, rate):
        asked.append((epoch, rate))
        return rate / 2

    class Note(Callback):
        def on_train_batch_end(self, batch, logs):
            used.append(self.model.optimizer.learning_rate)

    callbacks = [LearningRateScheduler(schedule), Note()]
    model.fit(x, y, batch_size=13, epochs=5, initial_epoch=2, verbose=0, callbacks=callbacks)
    assert asked == [(2, 0.5), (3, 0.25), (4, 0.125)]
    assert used == [0.25, 0.125, 0.0625]


@pytest.mark.parametrize("rate", [None, "fast", math.nan, -1])
def test_a_schedule_that_gives_no_rate(rate):
    model, x, y = make("lstm", optimizer="sgd")
    scheduler = LearningRateScheduler(lambda epoch, before: rate)
    with pytest.raises((ValueError, TypeError), match="learning_rate: expected"):
        model.fit(x, y, verbose=0, callbacks=[scheduler])


# --- ModelCheckpoint ------------------------------------------------------------------------------


def test_a_checkpoint_for_each_epoch():
    model = drive(ModelCheckpoint("m-{epoch:02d}-{val_loss:.2f}.mrnn"), [1.234, 2, 0.5])
    assert model.saved == ["m-01-1.23.mrnn", "m-02-2.00.mrnn", "m-03-0.50.mrnn"]


def test_a_checkpoint_for_the_best_only():
    model = drive(ModelCheckpoint("{epoch}", save_best_only=True), [3, 4, 2, 2, 1])
    assert model.saved == ["1", "3", "5"]
    callback = ModelCheckpoint("{epoch}", monitor="val_acc", save_best_only=True)
    assert drive(callback, [0.3, 0.4, 0.2, 0.5], name="val_acc").saved == ["1", "2", "4"]


@pytest.mark.parametrize(
    "path",
    [
        "{val_acc}.mrnn",
        "{}.mrnn",
        "{epoch:q}.mrnn",
        "{epoch",
        "{epoch.x}",
    ],
)
def test_a_path_that_cannot_be_filled_in(path):
    with pytest.raises(
        ValueError, match=r"filepath: .* cannot be filled in .*known: epoch, loss, val"
    ):
        drive(ModelCheckpoint(path), [1])


def test_the_best_checkpoint_of_a_real_training(tmp_path):
    model, x, y = make("lstm")
    saver = ModelCheckpoint(tmp_path / "best.mrnn", monitor="loss", save_best_only=True)
    model.fit(x, y, epochs=3, verbose=0, callbacks=[saver])
    # The loss of this training falls in every epoch, so that the last one is the best.
    assert same_weights(load(tmp_path / "best.mrnn"), model)
    assert [path.name for path in tmp_path.iterdir()] == ["best.mrnn"]


def test_a_checkpoint_into_no_folder(tmp_path):
    model, x, y = make("lstm")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        model.fit(x, y, verbose=0, callbacks=[ModelCheckpoint(tmp_path / "none" / "m.mrnn")])


# --- CSVLogger ------------------------------------------------------------------------------------


def rows_of(path, separator=","):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file, delimiter=separator))


def test_the_log_has_a_row_for_each_epoch(tmp_path):
    path = tmp_path / "log.csv"
    model, x, y = make("lstm")
    history = model.fit(
        x, y, epochs=3, verbose=0, validation_split=0.3, callbacks=[CSVLogger(path)]
    )
    header, *rows = rows_of(path)
    assert header == ["epoch", "loss", "acc", "val_loss", "val_acc"]
    assert [int(row[0]) for row in rows] == [0, 1, 2]
    for column, name in enumerate(header[1:], start=1):
        assert [float(row[column]) for row in rows] == history.history[name]


def test_the_log_is_begun_anew_or_continued(tmp_path):
    path = tmp_path / "log.csv"
    drive(CSVLogger(path), [1, 2])
    drive(CSVLogger(path), [3])
    assert [row[0] for row in rows_of(path)] == ["epoch", "0"]
    drive(CSVLogger(path, append=True), [4, 5])
    assert [row[0] for row in rows_of(path)] == ["epoch", "0", "0", "1"]
    assert [row[2] for row in rows_of(path)] == ["val_loss", "3.0", "4.0", "5.0"]


def test_appending_to_no_file_writes_a_header(tmp_path):
    path = tmp_path / "log.csv"
    drive(CSVLogger(path, separator=";", append=True), [4])
    assert rows_of(path, ";") == [["epoch", "loss", "val_loss"], ["0", "1.0", "4.0"]]


def test_a_row_is_on_disk_after_its_epoch(tmp_path):
    path, seen = tmp_path / "log.csv", []

    class Look(Callback):
        def on_epoch_end(self, epoch, logs):
            seen.append(len(rows_of(path)))

    model, x, y = make("lstm")
    model.fit(x, y, epochs=2, verbose=0, callbacks=[CSVLogger(path), Look()])
    assert seen == [2, 3]


# --- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "callback",
    [
        EarlyStopping("val_los"),
        ReduceLROnPlateau("val_los"),
        ModelCheckpoint("m.mrnn", "val_los", save_best_only=True),
    ],
    ids=lambda callback: type(callback).__name__,
)
def test_an_unknown_monitor(callback):
    model, x, y = make("lstm")
    with pytest.raises(ValueError) as caught:
        model.fit(x, y, verbose=0, callbacks=[callback])
    message = str(caught.value)
    assert "monitor: there is no figure 'val_los'; known: loss, acc" in message
    assert "need validation_data or validation_split" in message


@pytest.mark.parametrize(
    ("made", "lines"),
    [
        (
            lambda verbose: EarlyStopping(patience=2, verbose=verbose),
            ["EarlyStopping: epoch 3: stopped, 2 epochs without improvement"],
        ),
        (
            lambda verbose: ReduceLROnPlateau(factor=0.5, patience=2, verbose=verbose),
            ["ReduceLROnPlateau: epoch 3: learning rate 0.5"],
        ),
        (
            lambda verbose: ModelCheckpoint("m{epoch}.mrnn", save_best_only=True, verbose=verbose),
            ["ModelCheckpoint: epoch 1: saved m1.mrnn"],
        ),
        (
            lambda verbose: LearningRateScheduler(lambda epoch, rate: rate / 4, verbose=verbose),
            [
                f"LearningRateScheduler: epoch {epoch}: learning rate {rate}"
                for epoch, rate in ((1, "0.25"), (2, "0.0625"), (3, "0.0156"))
            ],
        ),
    ],
    ids=["early stopping", "plateau", "checkpoint", "scheduler"],
)
def test_verbose_callbacks_print_a_line(made, lines, capsys):
    drive(made(1), [1.0, 2.0, 3.0])
    assert capsys.readouterr().out.splitlines() == lines
    drive(made(0), [1.0, 2.0, 3.0])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("made", [EarlyStopping, ReduceLROnPlateau])
def test_an_unknown_mode(made):
    with pytest.raises(ValueError, match="mode: expected 'auto', 'min' or 'max', received 'up'"):
        made(mode="up")


def test_history_lists_every_figure():
    history = History()
    drive(history, [3, 2])
    assert history.history == {"loss": [1.0, 1.0], "val_loss": [3, 2]}
    assert history.epoch == [0, 1]


def test_fit_returns_its_history_and_callbacks_know_the_model():
    model, x, y = make("lstm")
    callback = Callback()
    history = model.fit(x, y, verbose=0, callbacks=[callback])
    assert callback.model is model
    assert isinstance(history, History)
    assert history.model is model
