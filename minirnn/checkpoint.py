"""The state of a training in one file: killed at any moment, it goes on as if nothing had happened.

`fit(..., checkpoint=path)` writes down, every so often, all that the next step depends on: weights,
what the optimizer has gathered, the states of stateful layers, the random generators, the place in
the data, and the figures so far. The same call in a new process finds the file and goes on from
there, to the same weights, bit for bit, as without the break.

The file is in the safetensors format, as a model's is: numbers and JSON, no code. It is written
beside its place and then moved there, so that a whole one is always there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from minirnn.backend import generator_state, set_generator_state, to_device
from minirnn.base import layers_of, set_arrays
from minirnn.callbacks import Callback
from minirnn.checks import whole_number
from minirnn.saving import DAMAGE, FileFormatError, encoded, read, write_whole

FORMAT = "minirnn checkpoint"
SECONDS = 60.0  # between two checkpoints, where nothing else is asked for


class CheckpointError(ValueError):
    """A checkpoint from which this training cannot go on: it is of another one."""


class Checkpoint:
    """Where `fit` writes down the state of a training, and how often.

    Args:
        path: the file; if it is there when `fit` begins, the training goes on from it.
        steps: write after every so many steps.
        seconds: write when so many seconds have passed; 60, if `steps` is not given either.

    It is also written at the end of each epoch. A training that has ended is not repeated: to begin
    anew, delete the file.

    Raises:
        ValueError: if a number is not positive.
        FileNotFoundError, PermissionError, IsADirectoryError: if the file cannot be written there.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        steps: int | None = None,
        seconds: float | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self.steps = None if steps is None else whole_number("steps", steps)
        if seconds is None:
            seconds = SECONDS if steps is None else None
        elif not isinstance(seconds, (int, float)) or not seconds > 0:
            raise ValueError(f"seconds: expected a number above 0, received {seconds!r}")
        self.seconds = seconds
        folder = os.path.dirname(os.path.abspath(self.path))
        if os.path.isdir(self.path):
            raise IsADirectoryError(f"checkpoint: {self.path} is a folder; name a file")
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"checkpoint: there is no folder {folder}; make it first")
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"checkpoint: no right to write into the folder {folder}")

    @staticmethod
    def of(given: Any) -> Checkpoint:
        """`given` itself, or the one at that path."""
        if isinstance(given, Checkpoint):
            return given
        if not isinstance(given, (str, os.PathLike)):
            raise TypeError(f"checkpoint: expected a path or a Checkpoint, received {given!r}")
        return Checkpoint(given)


class Standing(NamedTuple):
    """How far a training has come.

    epoch: the one at hand, counted from 0.
    step: how many of its steps are done; it has begun if there are any.
    figures: its running means, as `RunningMeans.state` gives them.
    stopped: whether a callback has ended the training.
    """

    epoch: int
    step: int = 0
    figures: Any = None
    stopped: bool = False


class Keeper:
    """Writes the checkpoints of one call of `fit`, and goes on from the one that it finds.

    As a context manager it turns Ctrl-C, and SIGTERM, into a wish that `fit` grants after the step
    at hand. A second Ctrl-C does not wait.

    Args:
        passes: where the training stands in its data.
        validation: the same for what is evaluated after each epoch, or None.
        callbacks: all, with their states.
        ranks: the processes of the training, if there are several: the first writes and reads.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: Any,
        passes: Any,
        validation: Any,
        callbacks: Sequence[Callback],
        epochs: int,
        ranks: Any = None,
    ) -> None:
        self.checkpoint, self.model = checkpoint, model
        self.passes, self.validation = passes, validation
        self.callbacks, self.epochs, self.ranks = callbacks, epochs, ranks
        self.signal: int | None = None  # the wish to stop
        self.handlers: dict[int, Any] = {}
        self.at_rest = False
        self.written = time.monotonic()
        if self.first:
            sweep(checkpoint.path)

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.ranks is None or self.ranks.rank == 0

    # -- when --

    def due(self, step: int) -> bool:
        """Whether to write after step `step` of the epoch, counted from 1."""
        often = self.checkpoint
        return (
            self.signal is not None
            or (often.steps is not None and step % often.steps == 0)
            or (often.seconds is not None and time.monotonic() - self.written > often.seconds)
        )

    # -- writing --

    def write(self, standing: Standing, stop: bool = False) -> None:
        """Write the state of the training; then stop, if there is a wish to."""
        if self.first:
            self.put_down(standing)
        self.written = time.monotonic()
        if stop or (self.ranks is None and self.signal is not None):
            self.stop(standing)

    def put_down(self, standing: Standing) -> None:
        path = self.checkpoint.path
        with self.model.turns.alone():
            content = encoded(FORMAT, *self.state(standing))
        try:
            write_whole(path, content)
        except OSError as error:
            last = "the one before stays" if os.path.exists(path) else "there is none"
            raise OSError(
                error.errno,
                f"the checkpoint cannot be written ({error.strerror or error}); {last}. "
                f"Training has stopped at {told(standing)}",
                path,
            ) from error

    def stop(self, standing: Standing) -> None:
        message = (
            f"stopped at {told(standing)}; all is saved in {self.checkpoint.path}, and the same "
            "call goes on from there"
        )
        if self.ranks is not None:
            self.ranks.barrier()  # what is written is there, whoever ends first
            raise self.ranks.on_all(KeyboardInterrupt(message))
        if self.signal == signal.SIGTERM:
            print(message, file=sys.stderr, flush=True)
            self.__exit__()
            os.kill(os.getpid(), signal.SIGTERM)
        raise KeyboardInterrupt(message)

    def state(self, standing: Standing) -> tuple[dict[str, Any], dict[str, Any]]:
        """All that the next step depends on: `(JSON values, arrays)`."""
        model = self.model
        arrays = {f"weights/{key}": value for key, value in model.params.items()}
        callbacks = [
            apart(callback.state(), f"callback/{number}", arrays)
            for number, callback in enumerate(self.callbacks)
        ]
        layers = {}
        for name, layer in layers_of(model):
            if getattr(layer, "generator", None) is not None:
                layers[name] = layer.generator.bit_generator.state
            for i, state in enumerate(getattr(layer, "states", None) or ()):
                arrays[f"state/{name}/{i}"] = state
        return {
            "of": self.described(),
            "standing": standing._asdict(),
            "epochs": self.epochs,
            "position": self.passes.position(),
            "validation": None if self.validation is None else self.validation.began,
            "random": generator_state(),
            "draws": None if self.ranks is None else self.ranks.draws,
            "layers": layers,
            "optimizer": apart(model.optimizer.exact_state(), "optimizer", arrays),
            "callbacks": callbacks,
        }, arrays

    def described(self) -> dict[str, Any]:
        """What tells this training from others."""
        model = self.model
        vectorizer = getattr(model, "vectorizer", None)
        words = [] if vectorizer is None else vectorizer.get_vocabulary()
        digest = zlib.crc32("\n".join(words).encode("utf-8", "surrogatepass"))
        optimizer = model.optimizer.get_config()
        del optimizer["learning_rate"]  # callbacks may change it
        described = {
            "weights": {key: [str(v.dtype), *v.shape] for key, v in model.params.items()},
            "vocabulary": f"{len(words)} words, digest {digest:08x}",
            "optimizer": optimizer,
            "loss": type(model.loss).__name__,
            "callbacks": [type(callback).__name__ for callback in self.callbacks],
            "data": self.passes.data.described(),
        }
        return json.loads(json.dumps(described, default=repr))

    # -- going on --

    def found(self, verbose: str | int = 0) -> Standing | None:
        """Bring everything to where the checkpoint stands; None if there is none.

        verbose: say so, unless it is 0.

        Raises:
            CheckpointError: if it is of another training.
            FileFormatError: if it is no checkpoint, or is damaged.
        """
        path, ranks = self.checkpoint.path, self.ranks
        from_first = ranks.from_first if ranks is not None else lambda function: function()
        if not from_first(lambda: os.path.exists(path)):
            return None
        if not self.model.built:  # what the batch costs in random numbers is made good below
            batch = next(self.passes.data.walk())
            if ranks is None:
                self.model.training_parts(batch[0])
            else:
                ranks.build(self.model, batch and batch[0])
        try:
            header, arrays = from_first(lambda: read(path, FORMAT))
            self.compare(header["of"])
            standing = Standing(**header["standing"])
            places = (standing.epoch, standing.step, header["epochs"])
            if not all(type(place) is int and place >= 0 for place in places):
                raise FileFormatError(f"the checkpoint is damaged: it stands at {places}")
            self.restore(header, arrays)
        except CheckpointError:
            raise
        except FileFormatError as error:
            raise FileFormatError(f"{path}: {error}") from None
        except DAMAGE as error:
            raise FileFormatError(f"{path}: the checkpoint is damaged ({error!r})") from error
        if standing.stopped and self.epochs > header["epochs"]:
            standing = standing._replace(stopped=False)
        if verbose:
            ended = standing.stopped or standing.epoch >= self.epochs
            says = "has ended" if ended else "goes on"
            print(f"The training in {path} {says} at {told(standing)}.", flush=True)
        return standing

    def compare(self, of: Mapping[str, Any]) -> None:
        for what, here in self.described().items():
            if of[what] == here:
                continue
            there, these = differing(of[what], here)
            raise CheckpointError(
                f"checkpoint: {self.checkpoint.path} is of a training with other {what}: there "
                f"{there}, here {these}. To begin anew, delete the file or name another one."
            )

    def restore(self, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        model = self.model
        self.passes.go_to(header["position"])
        if self.validation is not None and header["validation"] is not None:
            self.validation.go_to(header["validation"])
        weights = [arrays[f"weights/{key}"] for key in model.params]
        set_arrays("checkpoint", model.params, weights)
        for name, layer in layers_of(model):
            if name in header["layers"]:
                layer.generator.bit_generator.state = header["layers"][name]
            if hasattr(layer, "states"):
                states = [to_device(a) for a in values_under(f"state/{name}", arrays).values()]
                layer.states = tuple(states) or None
        state = header["optimizer"] | values_under("optimizer", arrays)
        model.optimizer.load_exact_state(state, model.training_parts(None).params)
        for number, callback in enumerate(self.callbacks):
            there = values_under(f"callback/{number}", arrays)
            callback.restore(header["callbacks"][number] | there)
        set_generator_state(header["random"])
        if self.ranks is not None and header["draws"] is not None:
            self.ranks.draws = header["draws"]

    # -- being interrupted --

    def __enter__(self) -> Keeper:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
                    self.handlers[number] = signal.signal(number, self.interrupted)
        return self

    def __exit__(self, *error: object) -> None:
        while self.handlers:
            signal.signal(*self.handlers.popitem())

    def interrupted(self, number: int, frame: Any) -> None:
        if self.at_rest or self.signal is not None:
            self.signal = number
            raise KeyboardInterrupt
        self.signal = number

    @contextmanager
    def resting(self, standing: Standing) -> Iterator[None]:
        """While nothing of the training's state changes: stop at once, and save."""
        self.at_rest = True
        try:
            yield
        except KeyboardInterrupt:
            if self.signal is not None:
                self.write(standing)
            raise
        finally:
            self.at_rest = False


def apart(state: Mapping[str, Any], where: str, arrays: dict[str, Any]) -> dict[str, Any]:
    """The plain values of `state`; its arrays are put into `arrays`, under `where`."""
    arrays |= {f"{where}/{key}": value for key, value in state.items() if hasattr(value, "shape")}
    return {key: value for key, value in state.items() if not hasattr(value, "shape")}


def values_under(where: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    start = f"{where}/"
    return {k.removeprefix(start): value for k, value in arrays.items() if k.startswith(start)}


def differing(there: Any, here: Any) -> tuple[Any, Any]:
    """The first parts of two descriptions that differ."""
    if not isinstance(there, dict) or not isinstance(here, dict):
        return there, here
    none = "is missing"  # which is not the same as None
    key = next(k for k in {**there, **here} if there.get(k, none) != here.get(k, none))
    return f"{key} {there.get(key, none)}", f"{key} {here.get(key, none)}"


def told(standing: Standing) -> str:
    if standing.step == 0:
        return f"the end of epoch {standing.epoch}"
    return f"epoch {standing.epoch + 1}, step {standing.step}"


def sweep(path: str) -> None:
    """Remove what a process that was killed while it wrote has left beside the checkpoint."""
    folder, name = os.path.split(os.path.abspath(path))
    for other in os.listdir(folder):
        if re.fullmatch(re.escape(f".{name}.") + r"\w{8}", other):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, other))
