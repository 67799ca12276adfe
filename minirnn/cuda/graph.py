"""A whole training step on the device, as one CUDA graph for each size of batch.

`training_graph(model)` does this for classifiers of the usual kind: an Embedding, recurrent layers,
a Dense layer with a softmax, cross-entropy and Adam. (`fit` takes any other model, or batch, the
ordinary way.) A step is then a copy of the batch into memory of the device, on a stream of its own,
and one launch. In it, one after another:

    plan              which steps exist and in what order they run (Layout in packing.py)
    project           a = x W + b of a layer, both directions; the first layer looks its x up in the
                      embedding's table as it goes
    ..._forward       its time loop
    ...               the next layers
    project           the logits
    cross_entropy     the loss and dlogits
    ...               backward: sum_outer, project_backward, ..._backward, layer by layer
    sum_equal_ids     the gradient of the table
    check_gradients   whether they are finite
    adam_dense, adam_table

No launch allocates memory or makes the host wait, and each is the same for every batch: what
differs (rows, real steps, learning rate, the number of the step) stands in the device's memory.
The first batch of a size runs launch by launch, which also loads the kernels; then they are
captured. Losses and hits are added up on the device and read now and then.

Letters: B rows and T padded steps that a size has room for; N = B T packed steps; D directions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minirnn import losses, metrics
from minirnn.backend import Array, get_backend, to_device, to_host, xp
from minirnn.checks import all_within
from minirnn.cuda.launches import SLICES, SLOTS, BatchSize, Weights, cells_of
from minirnn.cuda.loops import GRU, loop_of
from minirnn.layers import RNN, Bidirectional, Dense, Embedding
from minirnn.layers.embedding import checked_ids
from minirnn.optimizers import Adam

MOST_ROWS, MOST_STEPS = 1024, 32_768  # of a batch: more is work enough for the ordinary way
STEP_OF_TIME = 16  # T is rounded up to a multiple, so that few sizes serve all batches
CLIPPING = "clipnorm", "global_clipnorm", "clipvalue"
ALIGNED = 64  # numbers, where the weights of a layer begin


def training_graph(model: Any, before: TrainingGraph | None = None) -> TrainingGraph | None:
    """The graph of this model's training step, or None if it is not of the usual kind.

    model: compiled and built. before: one that is taken again if it still fits.
    """
    if get_backend() != "cupy":
        return None
    parts = model.training_parts(None)
    if len(parts.body.layers) < 3:
        return None
    first, *recurrent, last = parts.body.layers
    frozen = model.params.keys() - parts.params.keys()
    usual = (
        type(first) is Embedding
        and type(last) is Dense
        and frozen <= {_key_of_table(first)}
        and type(parts.loss) is losses.SparseCategoricalCrossentropy
        and parts.loss.from_logits
        and type(model.optimizer) is Adam
        and not model.optimizer.lazy
        and not any(getattr(model.optimizer, name) for name in CLIPPING)
        and all(_counts_hits(metric) for metric in model.metrics)
        and all(_is_usual(layer, layer is not recurrent[-1]) for layer in recurrent)
        and all(p.dtype == np.float32 for p in model.params.values())
        and len({id(cell) for layer in recurrent for cell in cells_of(layer)})
        == sum(len(cells_of(layer)) for layer in recurrent)
    )
    if not usual:
        return None
    graph = TrainingGraph(model, first, recurrent, last, trains_table=not frozen)
    return before if before is not None and before.fixed == graph.fixed else graph.ready()


def _key_of_table(table: Embedding) -> str:
    return f"{table.name}_embeddings"


def _counts_hits(metric: Any) -> bool:
    kinds = metrics.Accuracy, metrics.SparseCategoricalAccuracy
    return type(metric) in kinds and metric.ranks_only


def _is_usual(layer: Any, return_sequences: bool) -> bool:
    """Whether the kernels compute this recurrent layer as it is set up."""
    pattern = layer
    if type(layer) is Bidirectional and layer.merge_mode == "concat":
        pattern = layer.layer
    if not isinstance(pattern, RNN) or type(layer).forward not in (
        RNN.forward,
        Bidirectional.forward,
    ):
        return False
    options = "return_state", "go_backwards", "stateful", "dropout", "recurrent_dropout"
    return (
        loop_of(pattern.cell) is not None
        and pattern.return_sequences == return_sequences
        and not any(getattr(pattern, option) for option in options)
    )


class TrainingGraph:
    """See the head of this module.

    Attributes:
        fixed: all that the launches of a step have in them and that may change between two epochs.
        batches: steps done since weights were last taken over from the model.
        recent: the batches since the last `read`, one of which may turn out to have a bad loss.
    """

    def __init__(
        self, model: Any, table: Embedding, recurrent: list[Any], head: Dense, trains_table: bool
    ) -> None:
        self.model, self.table, self.recurrent, self.head = model, table, recurrent, head
        self.trains_table, self.table_key = trains_table, _key_of_table(table)
        self.classes = head.units
        optimizer = model.optimizer
        self.fixed = (
            *map(id, (*table.params.values(), *recurrent, head, optimizer)),
            trains_table,
            *(optimizer.beta_1, optimizer.beta_2, optimizer.epsilon),
        )

    def ready(self) -> TrainingGraph:
        """Itself, with all that it needs on the device."""
        self.stream = xp.cuda.Stream(non_blocking=True)
        self.copies = xp.cuda.Stream(non_blocking=True)
        self.sizes: dict[tuple[int, int], BatchSize] = {}
        self.most_rows = 1
        self.at_work = False
        self.recent: list[Any] = []
        self.lay_out()
        return self

    # -- weights, gradients and averages: flat, end to end --

    def lay_out(self) -> None:
        self.places: list[tuple[str, Any, int]] = []  # (key in params, rows of it, where it begins)
        self.layers: list[Weights] = []
        end = 0
        for layer in [*self.recurrent, self.head]:
            owners = {"": layer}
            if isinstance(layer, Bidirectional):
                owners = {"forward_": layer.forward_layer, "backward_": layer.backward_layer}
            begins, apart = {}, 0
            for way, (prefix, owner) in enumerate(owners.items()):
                begin = end
                for name, key, rows in _order(owner):
                    value = owner.params.get(key)
                    if way == 0:
                        begins[name] = None if value is None else begin
                    if value is not None:
                        part = value if rows is None else value[rows]
                        self.places.append((f"{layer.name}_{prefix}{key}", rows, begin))
                        begin += part.size
                apart = -(-(begin - end) // ALIGNED) * ALIGNED
                end += apart
            self.layers.append(Weights(begins, apart, len(owners)))
        self.size = end
        self.weights, self.m, self.v = (xp.zeros(end, np.float32) for _ in range(3))
        self.grads = xp.zeros((SLICES, end), np.float32)
        rows, width = self.table.params["embeddings"].shape
        self.table_m, self.table_v = (xp.zeros((rows, width), np.float32) for _ in range(2))
        self.place, self.touched = (xp.zeros(rows, np.int32) for _ in range(2))
        self.numbers = xp.zeros(5, np.int32)
        self.powers, self.totals = xp.zeros(3, np.float64), xp.zeros(3, np.float64)

    def parts(self, flat: Array) -> list[tuple[str, Any, Array]]:
        """`(key in params, which rows of it, the part of `flat` that belongs to it)`."""
        params, found = self.model.params, []
        for key, rows, begin in self.places:
            shape = params[key].shape if rows is None else params[key].shape[1:]
            found.append((key, rows, flat[begin : begin + math.prod(shape)].reshape(shape)))
        return found

    def enter(self) -> None:
        """Take over the weights of the model and the averages of its optimizer."""
        if self.at_work:
            return
        optimizer, params = self.model.optimizer, self.model.params
        for key, rows, part in self.parts(self.weights):
            part[...] = params[key] if rows is None else params[key][rows]
        state = optimizer.state_dict()
        for slot, flat, table in (("m", self.m, self.table_m), ("v", self.v, self.table_v)):
            scale = np.float32(state[f"scale/{slot}"])
            for key, rows, part in self.parts(flat):
                average = state.get(f"{key}/{slot}")
                if average is None:
                    part[...] = 0
                else:
                    part[...] = to_device((average if rows is None else average[rows]) * scale)
            average = state.get(f"{self.table_key}/{slot}")
            table[...] = 0 if average is None else to_device(average * scale)
        moving = (self.table_m != 0).any(axis=1) | (self.table_v != 0).any(axis=1)
        self.touched[...] = -moving.astype(np.int32)
        beta_1, beta_2 = optimizer.beta_1, optimizer.beta_2
        steps = optimizer.iterations
        self.numbers[...] = to_device(np.array([0, 0, steps, 0, 0], np.int32))
        self.powers[...] = to_device(np.array([beta_1**steps, beta_2**steps, 0.0]))
        self.batches = 0
        self.at_work = True
        xp.cuda.Device().synchronize()  # what was written on the default stream is there

    def leave(self) -> None:
        """Give weights and averages back."""
        if not self.at_work:
            return
        self.stream.synchronize()
        optimizer, params = self.model.optimizer, self.model.params
        for key, rows, part in self.parts(self.weights):
            params[key][... if rows is None else rows] = part
        state: dict[str, Any] = {"iterations": int(to_host(self.numbers)[2])}
        for slot, flat, table in (("m", self.m, self.table_m), ("v", self.v, self.table_v)):
            state[f"scale/{slot}"] = 1.0
            for key, rows, part in self.parts(flat):
                name = f"{key}/{slot}"
                if rows is None:
                    state[name] = to_host(part)
                else:
                    state.setdefault(name, np.empty(params[key].shape, np.float32))
                    state[name][rows] = to_host(part)
            if self.trains_table:
                state[f"{self.table_key}/{slot}"] = to_host(table)
        optimizer.load_state_dict(state)
        self.at_work = False

    # -- a step --

    def takes(self, x: Any, y: Any, sample_weight: Any) -> bool:
        """Whether a step on this batch is one of ours. What is wrong with a batch, the ordinary way
        finds out."""
        if sample_weight is not None or getattr(x, "ndim", 0) != 2 or not isinstance(x, np.ndarray):
            return False
        rows, time = x.shape
        return (
            0 < rows <= MOST_ROWS
            and time > 0
            and rows * time <= MOST_STEPS
            and np.ndim(y) in (1, 2)
            and np.size(y) == rows
            and y.dtype.kind in "iu"
            and all_within(y, self.classes)
        )

    def step(self, x: np.ndarray, y: np.ndarray) -> None:
        """Train on one batch: ids (rows, time), labels (rows,)."""
        ids = checked_ids(self.table.name, x, self.table.input_dim)
        self.enter()
        rows, time = ids.shape
        self.most_rows = max(self.most_rows, rows)
        key = self.most_rows, -(-time // STEP_OF_TIME) * STEP_OF_TIME
        if key not in self.sizes:
            self.sizes[key] = BatchSize(self, *key)
        self.sizes[key].step(ids, y, self.batches % SLOTS, self.model.optimizer.learning_rate)
        self.batches += 1
        self.model.optimizer.iterations += 1
        self.recent.append((x, y))

    def read(self) -> tuple[float, float, float, Any]:
        """`(loss, hits, rows, failed)`: sums since the last call, and, of the first batch whose
        loss or gradient was not finite, `(x, y, how many steps ago)`; no step has been done since.
        """
        self.stream.synchronize()
        loss, hits, rows = to_host(self.totals).tolist()
        self.totals[...] = 0
        failed = int(to_host(self.numbers)[4])
        xp.cuda.Device().synchronize()
        steps_ago = self.batches - failed
        bad = (*self.recent[-1 - steps_ago], steps_ago) if failed else None
        self.recent.clear()
        return loss, hits, rows, bad


def _order(layer: Any) -> list[tuple[str, str, int | None]]:
    """`(name, key in params, row of it)`: the weights of a layer, in the order of the flat arrays.

    Each bias stands behind the matrix whose gradient is summed along with it.
    """
    if isinstance(layer, Dense):
        return [("kernel", "kernel", None), ("b", "bias", None)]
    two = loop_of(layer.cell) is GRU  # its bias has two rows: b, and b_u
    order = [("kernel", "kernel", None), ("b", "bias", 0 if two else None)]
    order += [("recurrent_kernel", "recurrent_kernel", None)]
    return [*order, ("b_u", "bias", 1)] if two else order
