"""The launches of a training step, and the memory they work in, for batches of up to B rows of T
padded steps; see graph.py, where also the letters stand."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minirnn.backend import Array, xp
from minirnn.cells import Cell
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
from minirnn.layers import Bidirectional

SLOTS = 4  # batches that may be on their way to the device
SLICES = 8  # into which the steps are cut for the gradients of weights; see sum_outer
TILE = 64  # rows and columns of a product that a block of threads computes
HEADER = 4  # numbers in front of a batch


class Weights(NamedTuple):
    """Where the weights of a layer stand in the flat arrays: `kernel, b, recurrent_kernel, b_u`,
    of each direction, `apart` numbers from one to the next.

    begins: of each of them, for the first direction; those that a cell has not are None.
    """

    begins: dict[str, int | None]
    apart: int
    directions: int


def cells_of(layer: Any) -> list[Cell]:
    if isinstance(layer, Bidirectional):
        return [layer.forward_layer.cell, layer.backward_layer.cell]
    return [layer.cell]


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

    def __init__(self, of: Any, rows: int, time: int) -> None:
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
            for name in (
                "plan", "cross_entropy", "sum_equal_ids", "check_gradients", "adam_dense",
                "adam_table",
            )
        }  # fmt: skip
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
            dh = loop.backward(dh, dlast, wanted=not first or of.trains_table)
            dlast = None

        # The optimizer.
        fresh = np.float32(1 - adam.beta_1), np.float32(1 - adam.beta_2), np.float32(adam.epsilon)
        vocabulary, width = of.table.params["embeddings"].shape
        ids, sums = None, None
        if of.trains_table:
            ids, sums = self.ids, self.room(N, width)
            self.add(
                step["sum_equal_ids"], (-(-N // 4),), 128, ids, dh, sums, of.place, of.touched,
                of.numbers, width,
            )  # fmt: skip
        checked = of.size + (N * width if of.trains_table else 0)
        self.add(
            step["check_gradients"], (-(-checked // 256),), 256, of.grads, ids, sums, of.place,
            of.numbers, of.size, SLICES, of.size, width,
        )  # fmt: skip
        if of.trains_table:
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
        cell = cells_of(layer)[0]
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
