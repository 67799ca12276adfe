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
    adam_dense, adam_table

No launch allocates memory or makes the host wait, and each is the same for every batch: what
differs (rows, real steps, learning rate, the number of the step) stands in the device's memory.
The first batch of a size runs launch by launch, which also loads the kernels; then they are
captured. Losses and hits are added up on the device and read now and then.

Letters: B rows and T padded steps that a size has room for; N = B T packed steps; D directions.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from minirnn import losses, metrics
from minirnn.backend import Array, get_backend, to_device, to_host, xp
from minirnn.cells import Cell
from minirnn.checks import all_within
from minirnn.cuda.loops import (
    GRU,
    LSTM,
    SIMPLE_RNN,
    WIDE,
    Loop,
    loop_of,
    time_loop,
    wide_grid,
    wide_step,
)
from minirnn.cuda.modules import kernel, pointer
from minirnn.layers import RNN, Bidirectional, Dense, Embedding
from minirnn.layers.embedding import checked_ids
from minirnn.optimizers import Adam

SLOTS = 4  # batches that may be on their way to the device
SLICES = 8  # into which the steps are cut for the gradients of weights; see sum_outer
TILE = 64  # rows and columns of a product that a block of threads computes
HEADER = 4  # numbers in front of a batch
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
    first, *recurrent, last = parts.body.layers
    usual = (
        type(first) is Embedding
        and type(last) is Dense
        and last.trainable
        and type(parts.loss) is losses.SparseCategoricalCrossentropy
        and parts.loss.from_logits
        and type(model.optimizer) is Adam
        and not model.optimizer.lazy
        and not any(getattr(model.optimizer, name) for name in CLIPPING)
        and all(_counts_hits(metric) for metric in model.metrics)
        and recurrent
        and all(_is_usual(layer, layer is not recurrent[-1]) for layer in recurrent)
        and all(p.dtype == np.float32 for p in model.params.values())
        and len({id(cell) for layer in recurrent for cell in _cells(layer)})
        == sum(len(_cells(layer)) for layer in recurrent)
    )
    if not usual:
        return None
    graph = TrainingGraph(model, first, recurrent, last)
    return before if before is not None and before.fixed == graph.fixed else graph.ready()


def _counts_hits(metric: Any) -> bool:
    kinds = metrics.Accuracy, metrics.SparseCategoricalAccuracy
    return type(metric) in kinds and metric.ranks_only


def _cells(layer: Any) -> list[Cell]:
    if isinstance(layer, Bidirectional):
        return [layer.forward_layer.cell, layer.backward_layer.cell]
    return [layer.cell]


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
        and layer.trainable
        and pattern.return_sequences == return_sequences
        and not any(getattr(pattern, option) for option in options)
    )


class Weights(NamedTuple):
    """Where the weights of a layer stand in the flat arrays: `kernel, b, recurrent_kernel, b_u`,
    of each direction, `apart` numbers from one to the next.

    begins: of each of them, for the first direction; those that a cell has not are None.
    """

    begins: dict[str, int | None]
    apart: int
    directions: int


class TrainingGraph:
    """See the head of this module.

    Attributes:
        fixed: all that the launches of a step have in them and that may change between two epochs.
        batches: steps done since weights were last taken over from the model.
        recent: the batches since the last `read`, one of which may turn out to have a bad loss.
    """

    def __init__(self, model: Any, table: Embedding, recurrent: list[Any], head: Dense) -> None:
        self.model, self.table, self.recurrent, self.head = model, table, recurrent, head
        self.classes = head.units
        optimizer = model.optimizer
        self.fixed = (
            *map(id, (*table.params.values(), *recurrent, head, optimizer)),
            table.trainable,
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
            if self.table.trainable:
                state[f"{self.table_key}/{slot}"] = to_host(table)
        optimizer.load_state_dict(state)
        self.at_work = False

    @property
    def table_key(self) -> str:
        return f"{self.table.name}_embeddings"

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
        loss was not finite, `(x, y, how many steps ago)`; no step has been done since."""
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


class Launch(NamedTuple):
    """One launch of a kernel, with all that it is given."""

    function: Any
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: tuple[Any, ...]
    shared_bytes: int = 0

    def __call__(self) -> None:
        self.function(self.grid, self.block, self.arguments, shared_mem=self.shared_bytes)


class BatchSize:
    """The launches of a step on up to B rows of T steps, and the memory they work in."""

    def __init__(self, of: TrainingGraph, rows: int, time: int) -> None:
        self.of, self.rows, self.time = of, rows, time
        self.capacity = rows * time
        self.slot_size = HEADER + rows + self.capacity
        shape = (SLOTS, self.slot_size)
        memory = xp.cuda.alloc_pinned_memory(4 * SLOTS * self.slot_size)
        self.sent = np.frombuffer(memory, np.int32, SLOTS * self.slot_size).reshape(shape)
        self.sent[...] = 0
        self.slots = xp.zeros(shape, np.int32)
        self.arrived, self.used = ([xp.cuda.Event() for _ in range(SLOTS)] for _ in range(2))
        self.launches: list[Launch] = []
        self.graph: Any = None
        self.build()
        xp.cuda.Device().synchronize()

    def step(self, ids: np.ndarray, labels: np.ndarray, slot: int, learning_rate: float) -> None:
        (rows, time), sent, of = ids.shape, self.sent[slot], self.of
        self.arrived[slot].synchronize()  # the copy that went out of this slot before is done
        sent[:2] = rows, time
        sent[2:3].view(np.float32)[0] = learning_rate
        sent[HEADER : HEADER + rows] = labels.reshape(-1)
        begin = HEADER + self.rows
        sent[begin : begin + rows * time] = ids.reshape(-1)
        of.copies.wait_event(self.used[slot])  # so is the step that read the slot
        self.slots[slot].set(sent, stream=of.copies)
        self.arrived[slot].record(of.copies)
        of.stream.wait_event(self.arrived[slot])
        with of.stream:
            if self.graph is None:
                for launch in self.launches:
                    launch()
                self.capture()
            else:
                self.graph.launch(of.stream)
        self.used[slot].record(of.stream)

    def capture(self) -> None:
        of = self.of
        of.stream.begin_capture()
        try:
            for launch in self.launches:
                launch()
        finally:
            self.graph = of.stream.end_capture()

    # -- the launches --

    def room(self, *shape: int, dtype: Any = np.float32) -> Array:
        return xp.empty(shape, dtype)

    def add(self, function: Any, grid: tuple, block: int, *arguments: Any, shared: int = 0) -> None:
        made = [
            np.int32(a) if isinstance(a, int) else pointer(a) if a is None else a for a in arguments
        ]
        self.launches.append(Launch(function, grid, (block,), tuple(made), shared))

    def build(self) -> None:
        of, B, N = self.of, self.rows, self.capacity
        adam = of.model.optimizer
        step = {
            name: kernel(name, "step.cu")
            for name in ("plan", "cross_entropy", "sum_equal_ids", "adam_dense", "adam_table")
        }
        self.lengths, self.order, self.labels = (self.room(B, dtype=np.int32) for _ in range(3))
        self.offsets, self.ids = self.room(self.time + 1, dtype=np.int32), xp.zeros(N, np.int32)
        planned = self.lengths, self.order, self.offsets, self.ids, self.labels
        where = self.slots, SLOTS, self.slot_size, int(of.table.mask_zero), B, self.time
        betas = np.float64(adam.beta_1), np.float64(adam.beta_2)
        self.add(step["plan"], (1,), 256, *where, *betas, of.numbers, of.powers, *planned)

        # Forward, noting what backward will need.
        x, rows_of, features = of.table.params["embeddings"], self.ids, of.table.output_dim
        rows = of.numbers[1:2]
        walked = []
        for layer, weights in zip(of.recurrent, of.layers, strict=False):
            loop = Recurrence(self, layer, weights, x, rows_of, features)
            loop.forward(last=layer is of.recurrent[-1])
            walked.append(loop)
            x, rows_of, features = loop.h, None, loop.width
        head, last = of.layers[-1], walked[-1].last
        logits, dlogits = self.room(B, of.classes), self.room(B, of.classes)
        self.project(last, None, head, logits, rows, features, of.classes, B)

        # The loss, and backward.
        self.add(
            step["cross_entropy"], (1,), 256, logits, self.labels, dlogits, of.numbers, of.totals,
            of.classes, B,
        )  # fmt: skip
        dlast = self.room(B, features)
        self.sum_outer(last, None, dlogits, head, "kernel", rows, features, of.classes, B)
        self.project_backward(dlogits, head, dlast, rows, features, of.classes, B)
        dh = None
        for loop in reversed(walked):
            first = loop is walked[0]
            dh = loop.backward(dh, dlast, wanted=not first or of.table.trainable)
            dlast = None

        # The optimizer.
        fresh = np.float32(1 - adam.beta_1), np.float32(1 - adam.beta_2), np.float32(adam.epsilon)
        if of.table.trainable:
            vocabulary, width = of.table.params["embeddings"].shape
            sums = self.room(N, width)
            self.add(
                step["sum_equal_ids"], (-(-N // 4),), 128, self.ids, dh, sums, of.place, of.touched,
                of.numbers, width,
            )  # fmt: skip
            self.add(
                step["adam_table"], (-(-vocabulary // 8),), 256, of.table.params["embeddings"],
                of.table_m, of.table_v, sums, of.place, of.touched, of.numbers, of.powers,
                vocabulary, width, *fresh,
            )  # fmt: skip
        self.add(
            step["adam_dense"], (-(-of.size // 256),), 256, of.weights, of.m, of.v, of.grads,
            of.numbers, of.powers, of.size, SLICES, of.size, *fresh,
        )  # fmt: skip

    def project(
        self, x: Array, rows_of: Array | None, w: Weights, a: Array, count: Array, features: int,
        width: int, capacity: int,
    ) -> None:  # fmt: skip
        """a = x W + b, in every direction of a layer."""
        flat, b = self.of.weights, w.begins["b"]
        self.add(
            kernel("project", "products.cu"),
            (-(-width // TILE), -(-capacity // TILE), w.directions), 256,
            x, rows_of, flat[w.begins["kernel"] :], None if b is None else flat[b:], a, count,
            features, width, capacity, w.apart,
        )  # fmt: skip

    def project_backward(
        self, da: Array, w: Weights, dx: Array, count: Array, features: int, width: int,
        capacity: int,
    ) -> None:  # fmt: skip
        """dx = Σ da Wᵀ, over the directions of a layer."""
        self.add(
            kernel("project_backward", "products.cu"),
            (-(-features // TILE), -(-capacity // TILE)), 256,
            da, self.of.weights[w.begins["kernel"] :], dx, count, features, width, capacity,
            w.apart, w.directions,
        )  # fmt: skip

    def sum_outer(
        self, x: Array, rows_of: Array | None, da: Array, w: Weights, matrix: str, count: Array,
        features: int, width: int, capacity: int, x_apart: int = 0,
    ) -> None:  # fmt: skip
        """The gradients of a matrix, and of the bias behind it, in every direction of a layer."""
        begin, of = w.begins[matrix], self.of
        bias = w.begins.get({"kernel": "b", "recurrent_kernel": "b_u"}[matrix])
        rows = features + (bias is not None)
        self.add(
            kernel("sum_outer", "products.cu"),
            (-(-width // TILE), -(-rows // TILE), w.directions * SLICES), 256,
            x, rows_of, da, of.grads.reshape(-1)[begin:], count, features, int(bias is not None),
            width, capacity, x_apart, w.apart, of.size, SLICES,
        )  # fmt: skip


class Recurrence:
    """A recurrent layer among the launches: both directions at once."""

    def __init__(
        self, size: BatchSize, layer: Any, weights: Weights, x: Array, rows_of: Array | None,
        features: int,
    ) -> None:  # fmt: skip
        self.size, self.weights, self.x, self.rows_of = size, weights, x, rows_of
        self.features, self.directions = features, weights.directions
        cell = _cells(layer)[0]
        self.loop: Loop = loop_of(cell)
        self.units, self.gates = cell.units, self.loop.gates
        self.width = self.directions * self.units  # of h: directions side by side
        D, N, U = self.directions, size.capacity, self.units
        self.a = size.room(D, N, self.gates * U)
        self.h, self.h_before = size.room(N, self.width), size.room(D, N, U)
        self.c_before = size.room(D, N, U) if self.loop is LSTM else None
        wide = self.loop.size(U) is None
        self.c = size.room(N, self.width) if wide and self.loop is LSTM else None
        self.carry = size.room(size.rows, self.width) if wide else None
        self.extra = None if self.loop is SIMPLE_RNN else size.room(D, N, U)
        self.last = size.room(size.rows, self.width)
        self.count = size.of.numbers[0:1]

    def walk(self) -> tuple[Any, ...]:
        """The arguments with which those of every time loop end."""
        size = self.size
        reverse = 0b10 if self.directions == 2 else 0
        numbers = size.rows, size.capacity, self.weights.apart, reverse
        return size.order, size.lengths, size.offsets, *numbers

    def time_loop(self, half: str, *arguments: Any) -> None:
        """Launch one half of the loop: at once, or, for a large cell, step by step."""
        rows, size = self.size.rows, self.loop.size(self.units)
        if size is not None:
            function = time_loop(self.loop, half, self.units, np.float32)
            grid = rows, self.directions
            self.size.add(function, grid, size.threads, *arguments, shared=size.shared_bytes)
            return
        function = wide_step(self.loop, {"forward": WIDE[0], "backward": WIDE[1]}[half], np.float32)
        grid, last = wide_grid(rows, self.units, self.directions), self.size.time - 1
        steps = range(last + 1) if half == "forward" else range(last, -1, -1)
        behind = () if half == "forward" else (self.carry,)
        for k in steps:  # of rows that are shorter than the longest, some have nothing to do
            self.size.add(function, grid, 256, *arguments, k, last, self.units, *behind)

    def matrix(self, name: str) -> Array | None:
        begin = self.weights.begins.get(name)
        return None if begin is None else self.size.of.weights[begin:]

    def forward(self, last: bool) -> None:
        size, U = self.size, self.matrix("recurrent_kernel")
        width = self.gates * self.units
        size.project(
            self.x, self.rows_of, self.weights, self.a, self.count, self.features, width,
            size.capacity,
        )  # fmt: skip
        h_last = self.last if last else None
        kept = self.c, self.h_before, self.c_before, self.extra
        given = self.a, U, self.matrix("b_u"), None, None, None, self.h, *kept, h_last
        self.time_loop("forward", *given, *self.walk())

    def backward(self, dh: Array | None, dlast: Array | None, wanted: bool) -> Array | None:
        """The gradient of x, if it is wanted. dh (N, width): that of every step; dlast (B, width):
        that of each row's last state."""
        size, U = self.size, self.matrix("recurrent_kernel")
        D, N = self.directions, size.capacity
        width = self.gates * self.units
        da = size.room(D, N, width)
        du = size.room(D, N, width) if self.loop is GRU else da
        kept = self.a, self.extra, self.h, self.h_before, self.c_before
        self.time_loop(
            "backward", da, du, *kept, U, dh, None, dlast, None, None, *self.walk()
        )  # fmt: skip
        shape = self.features, width, N
        w = self.weights
        size.sum_outer(self.x, self.rows_of, da, w, "kernel", self.count, *shape)
        shape, apart = (self.units, width, N), N * self.units
        size.sum_outer(self.h_before, None, du, w, "recurrent_kernel", self.count, *shape, apart)
        if not wanted:
            return None
        dx = size.room(N, self.features)
        size.project_backward(da, w, dx, self.count, self.features, width, N)
        return dx
