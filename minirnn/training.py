"""The training loop: plain functions over a model.

One training step is four lines: forward, loss, backward, optimizer (`train_step`). Around it stand
the epochs, the running means, the progress bar and the callbacks.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from minirnn.backend import memory_errors, to_host
from minirnn.batches import ArrayBatches, Batch, Passes, batches
from minirnn.callbacks import Callback, History
from minirnn.checkpoint import Checkpoint, Keeper, Standing
from minirnn.checks import number, whole_number
from minirnn.cuda.graph import training_graph
from minirnn.finite import (
    NonFiniteError,
    check_outputs,
    explain_gradients,
    explain_loss,
    loss_and_norms,
)
from minirnn.layers.embedding import Embedding, checked_ids
from minirnn.metrics import Mean
from minirnn.progress import Progress
from minirnn.threads import keep_limits
from minirnn.turns import View, trains, viewed

# --- one step -------------------------------------------------------------------------------------


def loss_and_gradients(
    model: Any, x: Any, y: Any, sample_weight: Any = None, training: bool = True
) -> tuple[Any, dict[str, Any], Any, Any]:
    """`(loss, grads, out, mask)` of one batch; grads has the keys of `model.params`.

    A softmax or sigmoid at the model's end that belongs to the loss is left out on the way: the
    loss is computed from the logits, which is exact where probabilities underflow, and whose
    gradient is just `p - y`. So `out` are predictions before that activation.
    """
    body, loss, _, _ = model.training_parts(x)
    out, caches, mask = body.walk(x, training=training)
    value, dout = loss.forward(y, out, sample_weight, mask)
    _, grads = body.backward(dout, caches)
    return value, grads, out, mask


def train_step(
    model: Any,
    x: Any,
    y: Any,
    sample_weight: Any = None,
    wait: bool = False,
    when: str = "this step",
) -> tuple[float, Any, Any]:
    """Changes the model's weights by one step; `(loss, out, mask)` from before it.

    Args:
        wait: let rows of the model's embedding that this batch does not use wait for their drift
            (see optimizers.py); whoever asks for that calls `model.optimizer.settle()` in the end.
        when: which step it is, for the error.

    Raises:
        NonFiniteError: if the loss or a gradient is not finite. Nothing has been changed then.
    """
    table = catch_up(model, x) if wait else ()
    loss, grads, out, mask = loss_and_gradients(model, x, y, sample_weight)
    body, _, _, params = model.training_parts(x)
    grads = {key: grads[key] for key in params}
    loss, *norms = loss_and_norms(loss, grads)
    if not math.isfinite(loss):
        raise NonFiniteError(explain_loss(body, x, loss, when))
    if not all(map(math.isfinite, norms)):
        clipped = model.optimizer.clipvalue is not None
        if problem := explain_gradients(body, x, grads, when, clipped):
            raise NonFiniteError(problem)
    model.optimizer.apply(params, grads, table)
    return loss, out, mask


def catch_up(model: Any, x: Any) -> tuple[str, ...]:
    """Bring the rows that this batch looks up up to date, and tell the key of their table.

    Only of a model that begins with an Embedding is it known which rows a batch will look up.
    """
    first = model.training_parts(x).body.layers[0]
    if not isinstance(first, Embedding) or not first.trainable:
        return ()
    key = f"{first.name}_embeddings"
    model.optimizer.catch_up(key, checked_ids(first.name, x, first.input_dim))
    return (key,)


def test_step(model: Any, x: Any, y: Any, sample_weight: Any = None) -> tuple[Any, Any, Any]:
    """`(loss, out, mask)` of one batch, without training."""
    body, loss, _, _ = model.training_parts(x)
    out, _, mask = body.walk(x)
    return loss(y, out, sample_weight, mask), out, mask


class RunningMeans:
    """The loss and the metrics of a pass, as means over all its samples (real steps, if masked)."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.loss = Mean("loss")
        self.metrics = copy.deepcopy(model.metrics)  # an evaluation may run inside a training
        for metric in self.metrics:
            metric.reset()

    def update(self, loss: float, y: Any, out: Any, sample_weight: Any, mask: Any) -> None:
        """Take a batch in; `out`, `mask`: what a step gave."""
        self.loss.update(loss, len(out) if mask is None else int(mask.array.sum()))
        if not all(metric.ranks_only for metric in self.metrics):
            out = self.model.training_parts(None).activation(out)
        for metric in self.metrics:
            metric.update(y, out, sample_weight, mask)

    def add(self, loss: float, hits: float, rows: float) -> None:
        """Take in what a graph has added up; all metrics of its model count hits."""
        for metric, total in [(self.loss, loss), *((metric, hits) for metric in self.metrics)]:
            metric.add(total, rows)

    def logs(self) -> dict[str, float]:
        figures = {"loss": self.loss.result()}
        return figures | {metric.name: metric.result() for metric in self.metrics}

    def state(self) -> list[list[float]]:
        return [metric.state() for metric in (self.loss, *self.metrics)]

    def restore(self, state: list[list[float]]) -> None:
        for metric, totals in zip((self.loss, *self.metrics), state, strict=True):
            metric.restore(*totals)


class Steps:
    """The training steps of an epoch, and the means of what they report.

    A step is `train_step`, or, on a GPU and for the usual models, one launch of a graph (see
    cuda/graph.py), which does the same without the host waiting for it.

    Args:
        graph: that of the epoch before, if there was one.
        one_by_one: whether somebody looks at the model after every step.
    """

    AHEAD = 256  # steps that may be done before the host asks how they went
    stop = False  # whether another rank of this training wishes to stop

    def __init__(self, model: Any, epoch: int, graph: Any = None, one_by_one: bool = False) -> None:
        self.model, self.epoch, self.one_by_one = model, epoch, one_by_one
        self.means = RunningMeans(model)
        self.graph = graph
        self.begun = False
        self.done = self.unread = 0

    def train(self, x: Any, y: Any, sample_weight: Any) -> None:
        """Do one step."""
        with self.model.turns.alone():
            self.model.turns.unsettled = self.leave_graph
            self.step(x, y, sample_weight)

    def step(self, x: Any, y: Any, sample_weight: Any) -> None:
        if not self.begun:
            self.begun = True
            self.model.training_parts(x)
            self.graph = None if self.one_by_one else training_graph(self.model, self.graph)
        self.done += 1
        if self.graph is not None and self.graph.takes(x, y, sample_weight):
            self.graph.step(x, y)
            self.unread += 1
            if self.unread == self.AHEAD:
                self.read()
            return
        self.leave_graph()
        when = self.when(self.done)
        loss, out, mask = train_step(self.model, x, y, sample_weight, wait=True, when=when)
        self.means.update(loss, y, out, sample_weight, mask)

    def due(self, keeper: Keeper) -> bool:
        """Whether a checkpoint is to be written after this step."""
        return keeper.due(self.done)

    def end(self) -> None:
        """After the last step of the epoch."""

    def read(self) -> None:
        """Ask how the last steps went."""
        if not self.unread:
            return
        self.unread = 0
        loss, hits, rows, failed = self.graph.read()
        self.means.add(loss, hits, rows)
        if failed is not None:  # since then nothing has changed: so it fails again, and says why
            self.graph.leave()
            x, y, steps_ago = failed
            when = self.when(self.done - steps_ago)
            train_step(self.model, x, y, when=when)
            raise NonFiniteError(f"the loss or a gradient was not finite at {when} on the device")

    def when(self, step: int) -> str:
        return f"epoch {self.epoch + 1}, step {step}"

    def logs(self) -> dict[str, float]:
        with self.model.turns.alone():
            self.read()
            return self.means.logs()

    def leave_graph(self) -> None:
        """Give back to the model what a graph has learned, if there is one."""
        if self.graph is not None:
            self.read()
            self.graph.leave()

    def settle(self) -> None:
        """Bring the model and its optimizer up to date."""
        with self.model.turns.alone():
            self.leave_graph()
            self.model.optimizer.settle()
            self.model.turns.unsettled = None

    def standing(self) -> Standing:
        """What a checkpoint in the middle of this epoch is to know."""
        with self.model.turns.alone():
            self.leave_graph()
        return Standing(self.epoch, self.done, self.means.state())

    def go_on(self, standing: Standing) -> None:
        self.done = standing.step
        self.means.restore(standing.figures)


# --- fit, evaluate, predict -----------------------------------------------------------------------


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
    if number("validation_split", validation_split) and validation_data is not None:
        raise ValueError("fit: give validation_split or validation_data, not both")
    data = batches(x, y, sample_weight, batch_size, shuffle, model.vectorizer)
    validation = None
    if validation_split:
        if not isinstance(data, ArrayBatches):
            raise ValueError("validation_split: goes with arrays only; use take() and skip()")
        data, validation = data.split(validation_split)
    elif isinstance(validation_data, (tuple, list)):
        if len(validation_data) not in (2, 3):
            raise ValueError(
                "validation_data: expected (x, y), (x, y, sample_weight) or a data set; received "
                f"{len(validation_data)} parts"
            )
        validation = batches(*validation_data, batch_size=batch_size, vectorizer=model.vectorizer)
    elif validation_data is not None:
        validation = batches(validation_data, vectorizer=model.vectorizer)

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
        data = data.share(ranks.rank, ranks.size)
        validation = validation and validation.share(ranks.rank, ranks.size)
        verbose = verbose if ranks.rank == 0 else 0
    passes = Passes(data, steps_per_epoch)
    if ranks is not None:
        ranks.begin(model, passes, epochs=epochs, checkpoint=checkpoint is not None)
    keeper = None
    if checkpoint is not None:
        keeper = Keeper(Checkpoint.of(checkpoint), model, passes, watchers, epochs, ranks)
    for watcher in watchers:
        watcher.on_train_begin()
    begun = keeper.found(verbose) if keeper is not None else None
    if begun is None:
        begun = Standing(initial_epoch)
    if ranks is not None:
        ranks.draw_apart(model)
    with keeper or nullcontext():
        train_epochs(
            model, passes, begun, epochs, verbose, watchers, validation, class_weight, keeper, ranks
        )
    for watcher in watchers:
        watcher.on_train_end()
    return history


def train_epochs(
    model: Any,
    passes: Passes,
    begun: Standing,
    epochs: int,
    verbose: str | int,
    watchers: Sequence[Callback],
    validation: Any,
    class_weight: Mapping[int, float] | None,
    keeper: Keeper | None,
    ranks: Any = None,
) -> None:
    """The epochs of `fit`, from where the training stands (`begun`) on."""
    stepwise = [
        w for w in watchers if type(w).on_train_batch_end is not Callback.on_train_batch_end
    ]
    graph = None
    while begun.epoch < epochs and not begun.stopped:
        epoch = begun.epoch
        if ranks is None:
            steps = Steps(model, epoch, graph, one_by_one=bool(stepwise))
        else:
            steps = ranks.steps(model, epoch, keeper)
        if begun.step:
            steps.go_on(begun)
        else:
            for watcher in watchers:
                watcher.on_epoch_begin(epoch)
        model.forget_training_parts()
        with Progress(f"Epoch {epoch + 1}/{epochs}", known_length(passes), verbose) as progress:
            try:
                for batch in passes.epoch(steps.done):
                    steps.train(*prepared(batch, class_weight, model.loss.sparse))
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
                graph = steps.graph
            logs = steps.logs()
            if validation is not None:
                alone = keeper is not None and ranks is None
                with keeper.resting(steps.standing()) if alone else nullcontext():
                    figures = run_evaluation(View(model), validation, None, ranks)
                logs |= {f"val_{name}": value for name, value in figures.items()}
            progress.finish(logs)
        for watcher in watchers:
            watcher.on_epoch_end(epoch, logs)
        passes.next_epoch()
        stop = keeper is not None and keeper.signal is not None
        if ranks is not None:
            stop = ranks.end_epoch(model, stop)
        begun = Standing(epoch + 1, stopped=model.stop_training)
        if keeper is not None:
            keeper.write(begun, stop)


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
