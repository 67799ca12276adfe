"""What may happen between epochs: stopping early, keeping the best weights, logging, slower steps.

A callback of one's own overrides the methods that it needs. `logs` holds the figures so far, such
as `{"loss": 0.61, "acc": 0.78, "val_loss": 0.66, "val_acc": 0.75}`; `self.model` is the model.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from minirnn.checks import flag, number, text

Logs = dict[str, float]


class Callback:
    """Base of all callbacks: does nothing."""

    model: Any = None
    first: bool = True  # False on all ranks of a training but the first; files are written by that

    def on_train_begin(self) -> None:
        """Before the first epoch."""

    def on_epoch_begin(self, epoch: int) -> None:
        """Before epoch `epoch`, counted from 0."""

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """After each training step; `logs` holds the running means of this epoch."""

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """After an epoch and its validation."""

    def on_train_end(self) -> None:
        """After the last epoch."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint is to keep of this callback: JSON values and arrays by name."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave, in a training that goes on; after `on_train_begin`."""


def say(callback: Any, what: str) -> None:
    """Print one line, if the callback was made with `verbose`."""
    if callback.verbose and callback.first:
        print(f"{type(callback).__name__}: {what}", flush=True)


class History(Callback):
    """The figures of every epoch; `fit` returns one.

    Attributes:
        epoch: the epochs' numbers.
        history: name → one figure per epoch.
    """

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.history: dict[str, list[float]] = {}

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        self.epoch.append(epoch)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)

    def state(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "history": self.history}

    def restore(self, state: dict[str, Any]) -> None:
        self.epoch, self.history = state["epoch"], state["history"]


def _epochs(name: str, value: int) -> int:
    return number(name, value, "a number of epochs from 0 up", lambda epochs: epochs >= 0)


class _Watch:
    """Follows one figure and says whether it has become better."""

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        if not isinstance(mode, str) or mode not in ("auto", "min", "max"):
            raise ValueError(f"mode: expected 'auto', 'min' or 'max', received {mode!r}")
        self.monitor = text("monitor", monitor)
        rising = mode == "max" or (mode == "auto" and "acc" in monitor)
        self.sign = 1 if rising else -1
        self.min_delta = abs(number("min_delta", min_delta))
        self.best: float | None = None

    def read(self, logs: Logs) -> float:
        if self.monitor not in logs:
            raise ValueError(
                f"monitor: there is no figure {self.monitor!r}; known: {', '.join(logs)}. Figures "
                "that begin with val_ need validation_data or validation_split."
            )
        return logs[self.monitor]

    def improved(self, logs: Logs) -> bool:
        """Whether this is the best so far; if it is, remembers it."""
        value = self.read(logs)
        if np.isnan(value):
            return False
        if self.best is not None and self.sign * (value - self.best) <= self.min_delta:
            return False
        self.best = value
        return True


class EarlyStopping(Callback):
    """Stops when `monitor` has not become better for `patience` epochs.

    Args:
        min_delta: a change that is not larger than this is no improvement.
        restore_best_weights: at the end of training, stopped early or not, go back to the weights
            of the best epoch.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        mode: str = "auto",
        restore_best_weights: bool = False,
        verbose: int = 0,
    ) -> None:
        self.verbose = verbose
        self.watch = _Watch(monitor, mode, min_delta)
        self.patience = _epochs("patience", patience)
        self.restore_best_weights = flag("restore_best_weights", restore_best_weights)
        self.stopped_epoch: int | None = None

    def on_train_begin(self) -> None:
        self.watch.best, self.waited, self.best_weights = None, 0, None
        self.stopped_epoch = None

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if self.watch.improved(logs):
            self.waited = 0
            if self.restore_best_weights:
                self.best_weights = self.model.get_weights()
            return
        self.waited += 1
        if self.waited >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True
            say(self, f"epoch {epoch + 1}: stopped, {self.waited} epochs without improvement")

    def on_train_end(self) -> None:
        if self.best_weights is not None:
            self.model.set_weights(self.best_weights)

    def state(self) -> dict[str, Any]:
        weights = {f"weights/{i}": w for i, w in enumerate(self.best_weights or ())}
        numbers = {"waited": self.waited, "stopped_epoch": self.stopped_epoch}
        return {"best": self.watch.best} | numbers | weights

    def restore(self, state: dict[str, Any]) -> None:
        self.watch.best, self.waited = state["best"], state["waited"]
        self.stopped_epoch = state["stopped_epoch"]
        count = sum(key.startswith("weights/") for key in state)
        self.best_weights = [state[f"weights/{i}"] for i in range(count)] or None


class ReduceLROnPlateau(Callback):
    """Multiplies the learning rate by `factor` if `monitor` stands still for `patience` epochs."""

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
        verbose: int = 0,
    ) -> None:
        self.verbose = verbose
        self.factor = number("factor", factor, "a number between 0 and 1", lambda f: 0 < f < 1)
        self.watch = _Watch(monitor, mode, min_delta)
        self.patience, self.cooldown = _epochs("patience", patience), _epochs("cooldown", cooldown)
        self.min_lr = number("min_lr", min_lr, "a finite number from 0 up", lambda r: r >= 0)

    def on_train_begin(self) -> None:
        self.watch.best, self.waited, self.cooling = None, 0, 0

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        improved = self.watch.improved(logs)
        if self.cooling > 0:
            self.cooling -= 1
            self.waited = 0
        if improved:
            self.waited = 0
        elif self.cooling == 0:
            self.waited += 1
            if self.waited >= self.patience:
                self.lower(epoch)

    def lower(self, epoch: int) -> None:
        optimizer = self.model.optimizer
        if optimizer.learning_rate > self.min_lr:
            optimizer.learning_rate = max(optimizer.learning_rate * self.factor, self.min_lr)
            self.cooling, self.waited = self.cooldown, 0
            say(self, f"epoch {epoch + 1}: learning rate {optimizer.learning_rate:.3g}")

    def state(self) -> dict[str, Any]:
        return {"best": self.watch.best, "waited": self.waited, "cooling": self.cooling}

    def restore(self, state: dict[str, Any]) -> None:
        self.watch.best, self.waited = state["best"], state["waited"]
        self.cooling = state["cooling"]


class LearningRateScheduler(Callback):
    """Sets the learning rate before each epoch: `schedule(epoch, rate_so_far) -> rate`."""

    def __init__(self, schedule: Callable[[int, float], float], verbose: int = 0) -> None:
        if not callable(schedule):
            raise TypeError(f"schedule: expected a function (epoch, rate), received {schedule!r}")
        self.schedule, self.verbose = schedule, verbose

    def on_epoch_begin(self, epoch: int) -> None:
        optimizer = self.model.optimizer
        optimizer.learning_rate = self.schedule(epoch, optimizer.learning_rate)
        say(self, f"epoch {epoch + 1}: learning rate {optimizer.learning_rate:.3g}")


class ModelCheckpoint(Callback):
    """Saves the model after each epoch.

    Args:
        filepath: may hold the epoch's number and figures: `"best-{epoch:02d}-{val_acc:.3f}.mrnn"`.
        save_best_only: only when `monitor` has become better.
    """

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        save_best_only: bool = False,
        mode: str = "auto",
        verbose: int = 0,
    ) -> None:
        self.verbose = verbose
        self.filepath = os.fspath(filepath)
        self.save_best_only = save_best_only
        self.watch = _Watch(monitor, mode)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if self.save_best_only and not self.watch.improved(logs):
            return
        try:
            path = self.filepath.format(epoch=epoch + 1, **logs)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ValueError(
                f"filepath: {self.filepath!r} cannot be filled in ({error!r}); known: epoch, "
                f"{', '.join(logs)}"
            ) from None
        if self.first:
            self.model.save(path)
        say(self, f"epoch {epoch + 1}: saved {path}")

    def state(self) -> dict[str, Any]:
        return {"best": self.watch.best}

    def restore(self, state: dict[str, Any]) -> None:
        self.watch.best = state["best"]


class CSVLogger(Callback):
    """Writes one row of figures per epoch to a CSV file."""

    def __init__(
        self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False
    ) -> None:
        self.filename, self.separator, self.append = os.fspath(filename), separator, append
        self.fields: list[str] | None = None

    def on_train_begin(self) -> None:
        self.fields = None
        if self.first and not self.append:
            with open(self.filename, "w", encoding="utf-8"):
                pass

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if not self.first:
            return
        lines = io.StringIO()
        writer = csv.writer(lines, delimiter=self.separator, lineterminator="\n")
        if self.fields is None:
            self.fields = list(logs)
            if not os.path.exists(self.filename) or os.path.getsize(self.filename) == 0:
                writer.writerow(["epoch", *self.fields])
        writer.writerow([epoch, *(repr(float(logs.get(name, np.nan))) for name in self.fields)])
        with open(self.filename, "a", encoding="utf-8", newline="") as file:
            file.write(lines.getvalue())

    def state(self) -> dict[str, Any]:
        with open(self.filename, encoding="utf-8", newline="") as file:
            return {"fields": self.fields, "written": file.read()}

    def restore(self, state: dict[str, Any]) -> None:
        """Without the rows of epochs that are done once more."""
        self.fields = state["fields"]
        if not self.first:
            return
        with open(self.filename, "w", encoding="utf-8", newline="") as file:
            file.write(state["written"])
