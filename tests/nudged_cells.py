"""Cells whose states can be moved a little after one of their steps: what a gradient at a state is
to be measured against, with forward passes alone."""

from __future__ import annotations

import copy

import numpy as np

from minirnn.backend import get_backend
from minirnn.cells import (
    GRUCell,
    GRUCellResetBefore,
    LSTMCell,
    SimpleRNNCell,
    one_step,
    split,
)
from minirnn.layers import RNN, Bidirectional
from minirnn.models import Sequential


class Nudged:
    """A cell that takes its steps one by one, and adds `amount` to one element of one state.

    place: (state's number, packed step, or -1 for the initial state, unit). Of a batch of one, the
    packed steps are the real steps in the text's order.
    """

    place, amount = (0, 0, 0), 0.0

    def initial_state(self, rows, dtype=None):
        states = super().initial_state(rows, dtype)
        state, step, unit = self.place
        if step == -1:
            states[state][:, unit] += self.amount
        return states

    def steps(self, a, history, kept, packing, drop=None):
        B, offsets = packing.shape[0], packing.layout.offsets
        order = range(len(offsets) - 1)
        for k in reversed(order) if packing.reverse else order:
            block = slice(offsets[k], offsets[k + 1])
            n = block.stop - block.start
            before = [states[packing.previous[block]] for states in history]
            own = tuple(np.concatenate([b, np.empty_like(b)]) for b in before)
            super().steps(a[block], own, tuple(part[block] for part in kept), one_step(n, BACKEND))
            after = [states[n:] for states in own]
            state, step, unit = self.place
            if block.start == step:
                self.nudge(after, state, unit, a[block], tuple(part[block] for part in kept))
            for states, new in zip(history, after, strict=True):
                states[B:][block] = new

    def nudge(self, after, state, unit, gates, kept):
        after[state][0, unit] += self.amount
        if isinstance(self, LSTMCell) and state == 1:  # h_t is made of c_t
            kept[0][...] = self.activation(after[1].copy())
            after[0][...] = split(gates, 4)[3] * kept[0]


BACKEND = get_backend()
KINDS = {
    cell: type(f"Nudged{cell.__name__}", (Nudged, cell), {})
    for cell in (SimpleRNNCell, LSTMCell, GRUCell, GRUCellResetBefore)
}


def nudgeable(model):
    """`(copy, cells)`: the same model with cells that can be nudged, and those cells in order."""
    twin = copy.deepcopy(model)
    cells = []

    def visit(layers):
        for layer in layers:
            if isinstance(layer, Sequential):
                visit(layer.layers)
            for rnn in layer.children().values() if isinstance(layer, Bidirectional) else [layer]:
                if isinstance(rnn, RNN):
                    rnn.cell.__class__ = KINDS[type(rnn.cell)]
                    cells.append(rnn.cell)

    visit(twin.layers)
    return twin, cells


def slope(function, move, step=1e-5):
    """The derivative of `function()` as `move(amount)` moves something, to fourth order."""

    def at(amount):
        move(amount)
        return function()

    near, far = (at(h) - at(-h) for h in (step, 2 * step))
    move(0.0)
    return (8 * near - far) / (12 * step)
