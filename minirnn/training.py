"""The training loop: plain functions over a model.

Around the steps (steps.py) stand the epochs, the validation, the progress bar, the callbacks, and
the checkpoints.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from minirnn.backend import memory_errors, to_host
from minirnn.batches import ArrayBatches, batches
from minirnn.callbacks import Callback, History
from minirnn.checkpoint import Checkpoint, Keeper, Standing
from minirnn.checks import number, whole_number
from minirnn.finite import NonFiniteError, check_outputs, explain_loss
from minirnn.progress import Progress
from minirnn.steps import RunningMeans, Steps, test_step
from minirnn.threads import keep_limits
from minirnn.turns import View, trains, viewed
from minirnn.walks import Batch, Passes


def ending_together(fit: Callable[..., History]) -> Callable[..., History]:
    """`fit`, in which an error on one of several ranks ends all of them."""

    @functools.wraps(fit)
    def guarded(*arguments: Any, ranks: Any = None, **options: Any) -> History:
        if ranks is None or ranks.size == 1:
            return fit(*arguments, **options)
        with ranks.together():
            return fit(*arguments, ranks=ranks, **options)

    return guarded


@ending_together
@memory_errors()
@keep_limits()
@trains
def fit(
    model: Any,
    x: Any,
    y: Any = None,
    batch_size: int | None = None,
    epochs: int = 1,
    verbose: str | int = "auto",
    callbacks: Sequence[Callback] | None = None,
    validation_split: float = 0.0,
    validation_data: Any = None,
    shuffle: bool = True,
    class_weight: Mapping[int, float] | None = None,
    sample_weight: Any = None,
    initial_epoch: int = 0,
    steps_per_epoch: int | None = None,
    checkpoint: Any = None,
    ranks: Any = None,
) -> History:
    """Train; the arguments are described at `Sequential.fit`."""
    model.require_compiled()
    data = batches(x, y, sample_weight, batch_size, shuffle, model.vectorizer)
    data, held_out = held_out_of(data, validation_split, validation_data, model.vectorizer)
    if steps_per_epoch is not None:
        whole_number("steps_per_epoch", steps_per_epoch)
    for name, value in (("epochs", epochs), ("initial_epoch", initial_epoch)):
        if not isinstance(value, (int, np.integer)) or value < 0:
            raise ValueError(f"{name}: expected a whole number from 0 up, received {value!r}")
    callbacks = () if callbacks is None else callbacks
    if not isinstance(callbacks, Sequence) or not all(isinstance(c, Callback) for c in callbacks):
        raise TypeError(f"callbacks: expected a list of Callback objects, received {callbacks!r}")
    history = History()
    watchers = [history, *callbacks]
    for watcher in watchers:
        watcher.model, watcher.first = model, ranks is None or ranks.rank == 0
    model.stop_training = False
    if ranks is not None:
        data = ranks.share(data)
        held_out = None if held_out is None else ranks.share(held_out)
        verbose = verbose if ranks.rank == 0 else 0
    passes = Passes(data, steps_per_epoch)
    if ranks is not None:
        ranks.begin(model, passes, epochs=epochs, checkpoint=checkpoint is not None)
    validation = None if held_out is None else Passes(held_out)
    keeper = None
    if checkpoint is not None:
        given = Checkpoint.of(checkpoint)
        keeper = Keeper(given, model, passes, validation, watchers, epochs, ranks)

    for watcher in watchers:
        watcher.on_train_begin()
    begun = keeper.found(verbose) if keeper is not None else None
    if begun is None:
        begun = Standing(initial_epoch)
    if ranks is not None:
        ranks.draw_apart(model)
    with keeper or nullcontext():
        graph = None
        while begun.epoch < epochs and not begun.stopped:
            steps = steps_of(model, begun, watchers, keeper, ranks, graph)
            title = f"Epoch {begun.epoch + 1}/{epochs}"
            with Progress(title, known_length(passes), verbose) as progress:
                train_epoch(steps, passes, class_weight, watchers, keeper, progress)
                logs = steps.logs()
                if validation is not None:
                    alone = keeper is not None and ranks is None
                    with keeper.resting(steps.standing()) if alone else nullcontext():
                        figures = run_evaluation(View(model), validation.epoch(), None, ranks)
                    logs |= {f"val_{name}": value for name, value in figures.items()}
                    validation.next_epoch()
                progress.finish(logs)
            for watcher in watchers:
                watcher.on_epoch_end(begun.epoch, logs)
            passes.next_epoch()
            graph = steps.graph
            stop = keeper is not None and keeper.signal is not None
            if ranks is not None:
                stop = ranks.end_epoch(model, stop)
            begun = Standing(begun.epoch + 1, stopped=model.stop_training)
            if keeper is not None:
                keeper.write(begun, stop)
    for watcher in watchers:
        watcher.on_train_end()
    return history


def held_out_of(
    data: Any, validation_split: float, validation_data: Any, vectorizer: Any
) -> tuple[Any, Any]:
    """The batches to train on, and those to evaluate after each epoch, or None."""
    if number("validation_split", validation_split) and validation_data is not None:
        raise ValueError("fit: give validation_split or validation_data, not both")
    if validation_split:
        if not isinstance(data, ArrayBatches):
            raise ValueError("validation_split: goes with arrays only; use take() and skip()")
        return data.split(validation_split)
    if validation_data is None:
        return data, None
    if not isinstance(validation_data, (tuple, list)):
        return data, batches(validation_data, vectorizer=vectorizer)
    if len(validation_data) not in (2, 3):
        raise ValueError(
            "validation_data: expected (x, y), (x, y, sample_weight) or a data set; received "
            f"{len(validation_data)} parts"
        )
    size = data.batch_size if isinstance(data, ArrayBatches) else None
    return data, batches(*validation_data, batch_size=size, vectorizer=vectorizer)


def steps_of(
    model: Any,
    begun: Standing,
    watchers: Sequence[Callback],
    keeper: Keeper | None,
    ranks: Any,
    graph: Any,
) -> Steps:
    """The steps of an epoch that begins here, or goes on."""
    if ranks is None:
        steps = Steps(model, begun.epoch, graph, one_by_one=any(map(is_stepwise, watchers)))
    else:
        steps = ranks.steps(model, begun.epoch, keeper)
    if begun.step:
        steps.go_on(begun)
    else:
        for watcher in watchers:
            watcher.on_epoch_begin(begun.epoch)
    model.forget_training_parts()
    return steps


def train_epoch(
    steps: Steps,
    passes: Passes,
    class_weight: Mapping[int, float] | None,
    watchers: Sequence[Callback],
    keeper: Keeper | None,
    progress: Progress,
) -> None:
    """Do what is left of the steps of an epoch; the model is up to date then, come what may."""
    stepwise = list(filter(is_stepwise, watchers))
    sparse = steps.model.loss.sparse
    try:
        for batch in passes.epoch(steps.done):
            steps.train(*prepared(batch, class_weight, sparse))
            progress.advance(steps)
            if stepwise:
                steps.settle()
            for watcher in stepwise:
                watcher.on_train_batch_end(steps.done - 1, steps.logs())
            if keeper is not None and steps.due(keeper):
                keeper.write(steps.standing(), steps.stop)
        steps.end()
    finally:
        steps.settle()


def is_stepwise(callback: Callback) -> bool:
    """Whether it wants to know of every step."""
    return type(callback).on_train_batch_end is not Callback.on_train_batch_end


@memory_errors()
@keep_limits()
def evaluate(
    model: Any,
    x: Any,
    y: Any = None,
    batch_size: int | None = None,
    verbose: str | int = "auto",
    sample_weight: Any = None,
) -> dict[str, float]:
    """The loss and the metrics over a data set: name → mean over its samples."""
    model.require_compiled()
    data = batches(x, y, sample_weight, batch_size, vectorizer=model.vectorizer)
    with (
        viewed(model, "evaluate") as view,
        Progress("Evaluate", known_length(data), verbose) as progress,
    ):
        logs = run_evaluation(view, data, progress)
        progress.finish(logs)
    return logs


def run_evaluation(
    view: View, data: Any, progress: Progress | None = None, ranks: Any = None
) -> dict[str, float]:
    means = RunningMeans(view.model)
    for step, batch in enumerate(data):
        if batch is None:  # of which this rank has no row
            continue
        xb, yb, weight = prepared(batch)
        with view(xb) as model:
            loss, out, mask = test_step(model, xb, yb, weight)
            if not math.isfinite(loss):
                body, when = model.training_parts(xb).body, f"evaluation, batch {step + 1}"
                raise NonFiniteError(explain_loss(body, xb, loss, when, training=False))
        means.update(loss, yb, out, weight, mask)
        if progress is not None:
            progress.advance(means)
    if ranks is not None:
        ranks.add_up(means)
    return means.logs()


@memory_errors()
@keep_limits()
def predict(
    model: Any, x: Any, batch_size: int | None = None, verbose: str | int = 0
) -> np.ndarray:
    """The outputs of all rows, on the host, in the order of the rows."""
    model.require_layers()
    data = batches(x, batch_size=batch_size, vectorizer=model.vectorizer)
    out, rows = [], 0
    with (
        viewed(model, "predict") as view,
        Progress("Predict", known_length(data), verbose) as progress,
    ):
        for xb, _, _ in data:
            with view(xb) as seen:
                body = seen.without_vectorizer()
                out.append(to_host(body.walk(xb)[0]))
                check_outputs(body, xb, out[-1], rows)
            rows += len(out[-1])
            progress.advance(None)
    if out[0].ndim > 2:  # an output at every step: batches differ in length
        longest = max(y.shape[1] for y in out)
        rest = [(0, 0)] * (out[0].ndim - 2)
        out = [np.pad(y, [(0, 0), (0, longest - y.shape[1]), *rest]) for y in out]
    return np.concatenate(out)


# --- helpers --------------------------------------------------------------------------------------


def known_length(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:  # a stream that cannot tell
        return None


def prepared(
    batch: Batch | None, class_weight: Mapping[int, float] | None = None, sparse: bool = True
) -> Batch:
    """The batch, with the class weights multiplied into the sample weights."""
    if batch is None:  # of which this rank has no row
        return None, None, None
    x, y, weight = batch
    if y is None:
        raise ValueError("y: training and evaluation need labels; the data set gives none")
    if class_weight is not None:
        one_hot = not sparse and y.ndim > 1 and y.shape[-1] > 1
        by_class = weights_by_class(y.argmax(axis=-1) if one_hot else y, class_weight)
        if weight is not None and weight.ndim == 2 and weight.shape[1] == 1:
            weight = weight[:, 0]
        if weight is not None and weight.ndim < by_class.ndim:
            weight = weight[:, None]  # a weight per row, for labels per step
        elif weight is not None and weight.ndim > by_class.ndim:
            raise ValueError(
                f"sample_weight: expected one weight per row, received shape {weight.shape}"
            )
        weight = by_class if weight is None else by_class * weight
    return x, y, weight


def weights_by_class(y: np.ndarray, class_weight: Mapping[int, float]) -> np.ndarray:
    """The weight of each label's class; 1 for classes that have none."""
    known = isinstance(class_weight, Mapping) and all(
        isinstance(label, (int, np.integer)) and label >= 0 for label in class_weight
    )
    if not known:
        raise ValueError(
            f"class_weight: expected class number → factor, such as {{0: 2.0}}; received "
            f"{class_weight!r}"
        )
    if y.ndim > 1 and y.shape[-1] == 1:
        y = y[..., 0]
    weights = np.ones(y.shape, dtype=np.float32)
    for label, factor in class_weight.items():
        weights[y == label] = number(f"class_weight[{label}]", factor)
    return weights
