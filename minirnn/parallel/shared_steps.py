"""The steps of a training of which each rank has a part; see ranks.py, and exchange.py below it.

What a step is stands in steps.py: forward, loss, backward, optimizer. Between the last two all
ranks add up their gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from minirnn.backend import draws_apart, to_host, xp
from minirnn.base import RowGradient
from minirnn.finite import NonFiniteError, explain_gradients, explain_loss, loss_and_norms
from minirnn.layers.embedding import Embedding, checked_ids
from minirnn.parallel.exchange import Exchange, keys_of_tables
from minirnn.steps import RunningMeans, Steps


class SharedSteps(Steps):
    """The steps of an epoch in which each rank has a part of each batch.

    The numbers that travel with the gradients: how many ranks have no more batches, want a
    checkpoint, and want to stop; then total and weight of the loss and of each metric, the weight
    of the loss being the number of elements.

    Args:
        ranks: the `parallel.Ranks`.
        keeper: of the checkpoints, or None.
    """

    FLAGS = 3

    def __init__(self, ranks: Any, model: Any, epoch: int, keeper: Any) -> None:
        super().__init__(model, epoch)
        self.ranks, self.keeper = ranks, keeper
        self.save = False
        self.mine = RunningMeans(model)
        self.exchange: Exchange | None = None

    def begin(self, x: Any) -> None:
        model = self.model
        self.begun = True
        self.ranks.build(model, x)
        self.parts = parts = model.training_parts(None)
        tables = set(keys_of_tables(parts.body))
        figures = 1 + len(self.mine.metrics)
        numbers = self.FLAGS + 2 * figures
        self.exchange = Exchange(self.ranks.transport, parts.params, tables, numbers)
        self.table, self.waits = None, ()
        self.above = parts.body
        first = parts.body.layers[0]
        if isinstance(first, Embedding):
            self.above = parts.body.part(parts.body.layers[1:])
            if first.trainable:
                self.table, self.waits = first, (f"{first.name}_embeddings",)

    def due(self, keeper: Any) -> bool:
        """As the ranks have agreed in the last step."""
        return self.save

    def end(self) -> None:
        """After the last batch: make sure that it is the last one of all ranks."""
        with self.model.turns.alone():
            self.step(None, None, None, ended=True)

    def step(self, x: Any, y: Any, sample_weight: Any, ended: bool = False) -> None:
        """One step; x: this rank's rows of the batch, None if it has none."""
        if not self.begun:
            self.begin(x)
        exchange, optimizer = self.exchange, self.model.optimizer
        if not ended:
            self.done += 1
            self.catch_up(x)
        figures = [self.mine.loss, *self.mine.metrics]
        for figure in figures:
            figure.reset()
        grads: dict[str, Any] | None = None
        if x is not None:
            grads, finish = self.backward(x, y, sample_weight)
        elements = self.mine.loss.weight
        flags = ended, *self.wishes()
        told = [number for figure in figures for number in (figure.total, figure.weight)]
        exchange.start(grads, elements, [*flags, *told])
        if grads is not None:
            grads |= finish()
        merged = {
            key: exchange.rows(key, grads and grads[key], elements) for key in exchange.tables
        }
        have_ended, save, stop, *told = exchange.wait().tolist()
        if have_ended:
            self.end_together(int(have_ended), ended)
            return
        self.save, self.stop = save > 0, stop > 0
        total, all_elements = told[:2]
        loss = total / max(all_elements, 1)
        if not math.isfinite(loss):
            self.fail_together(x, loss)
        share = 1 / max(all_elements, 1)
        exchange.gradients *= share
        for key, gradient in merged.items():
            merged[key] = RowGradient(gradient.ids, gradient.rows * gradient.rows.dtype.type(share))
        params, summed = self.parts.params, exchange.views | merged
        summed = {key: summed[key] for key in params}
        _, *norms = loss_and_norms(exchange.numbers[0], summed)
        if not all(map(math.isfinite, norms)):
            self.explain_together(x, grads and {key: grads[key] for key in params})
        optimizer.apply(params, summed, self.waits)
        means = [self.means.loss, *self.means.metrics]
        for figure, total, weight in zip(means, told[::2], told[1::2], strict=True):
            figure.add(total, weight)

    def wishes(self) -> tuple[bool, bool]:
        """Whether this rank wants a checkpoint after this step, and whether it wants to stop."""
        if self.keeper is None:
            return False, False
        return self.keeper.due(self.done), self.keeper.signal is not None

    def backward(
        self, x: Any, y: Any, sample_weight: Any
    ) -> tuple[dict[str, Any], Callable[[], dict[str, Any]]]:
        """The gradients of all layers above the first Embedding, and what gives those of that."""
        body, loss, _, _ = self.parts
        seed = [self.ranks.draws, self.ranks.rank, self.model.optimizer.iterations]
        with draws_apart(seed):
            out, caches, mask = body.walk(x, training=True)
        value, dout = loss.forward(y, out, sample_weight, mask)
        self.mine.update(value, y, out, sample_weight, mask)
        if self.above is body:
            _, grads = body.backward(dout, caches)
            return grads, dict
        dy, grads = self.above.backward(dout, caches[1:])

        def finish() -> dict[str, Any]:
            _, grads = body.layers[0].backward(dy, caches[0])
            return {f"{body.layers[0].name}_{key}": value for key, value in grads.items()}

        return grads, finish

    def catch_up(self, x: Any) -> None:
        """As `steps.catch_up`. To keep the same bits, ranks bring the same rows up to date in
        the same steps: those of the merged gradient, and that of the padding."""
        if self.table is None:
            return
        ids = np.empty(0, np.int32)
        if x is not None:
            ids = checked_ids(self.table.name, x, self.table.input_dim).reshape(-1)
        if self.table.mask_zero:
            ids = np.append(ids, ids.dtype.type(0))
        self.model.optimizer.catch_up(self.waits[0], ids)

    def end_together(self, have_ended: int, ended: bool) -> None:
        """All ranks have come to the end of the epoch, or else they have differing data."""
        if have_ended == self.ranks.size:
            return
        ends = self.ranks.comm.allgather(ended)
        raise self.ranks.on_all(
            RuntimeError(
                f"the data of rank {ends.index(True)} ended after {self.done - (not ended)} steps "
                f"of epoch {self.epoch + 1}, and that of rank {ends.index(False)} goes on. All "
                "ranks must be given the same data set; `fit` gives each its share of it."
            )
        )

    def fail_together(self, x: Any, loss: float) -> None:
        """The loss is not finite: let the first rank whose own is not explain it."""
        own, message = float(to_host(xp.asarray(self.mine.loss.total))), None
        if not math.isfinite(own):
            message = explain_loss(self.parts.body, x, own, self.when(self.done))
        self.raise_first(message)
        when = self.when(self.done)
        message = f"the loss of all ranks became {loss} at {when}, while that of each is finite"
        raise self.ranks.on_all(NonFiniteError(message))

    def explain_together(self, x: Any, grads: Mapping[str, Any] | None) -> None:
        """The gradient is not finite, or its square is not: likewise."""
        clipped, message = self.model.optimizer.clipvalue is not None, None
        _, *norms = loss_and_norms(self.exchange.numbers[0], grads or {})
        if not all(map(math.isfinite, norms)):
            when = self.when(self.done)
            message = explain_gradients(self.parts.body, x, grads, when, clipped)
        self.raise_first(message)
        if not clipped:
            message = (
                f"the gradient of all ranks is too large to be squared at {self.when(self.done)}"
            )
            raise self.ranks.on_all(NonFiniteError(f"{message}, while that of each is not"))

    def raise_first(self, message: str | None) -> None:
        """All ranks raise the message of the first that has one."""
        found = self.ranks.comm.allgather(message)
        rank = next((r for r, message in enumerate(found) if message is not None), None)
        if rank is not None:
            message = f"on rank {rank} of {self.ranks.size}, {found[rank]}"
            raise self.ranks.on_all(NonFiniteError(message))
