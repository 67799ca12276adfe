"""The training step, and the steps of an epoch.

One step is four lines: forward, loss, backward, optimizer (`train_step`). What goes on around the
steps stands in training.py.
"""

from __future__ import annotations

import copy
import math
from typing import Any

from minirnn.checkpoint import Keeper, Standing
from minirnn.cuda.graph import training_graph
from minirnn.finite import NonFiniteError, explain_gradients, explain_loss, loss_and_norms
from minirnn.layers.embedding import Embedding, checked_ids
from minirnn.metrics import Mean

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


# --- the steps of an epoch ------------------------------------------------------------------------


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
