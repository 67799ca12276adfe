"""Backpropagation through time, one step at a time, so that the gradient can be seen on its way.

`run_backward` in timeloop.py gives what training needs: the gradients at the weights, at the input
and at the initial state. What passes by in between, the gradient at every state after every step,
it lets go. Here the same loop is walked with a stop after each step. The equations are the cell's
own: `step_back` calls `local_derivatives` and `steps_backward` for one step.

Legend: B rows, N real steps, U units; "history" as in packing.py: the B initial states, then the
state after each packed step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from minirnn.backend import Array, get_backend, xp
from minirnn.base import Layer
from minirnn.cells import Cell, LSTMCell, State, one_step, split
from minirnn.layers import RNN, Bidirectional
from minirnn.layers.recurrent import gradients_of_states
from minirnn.packing import Packing
from minirnn.segments import whole
from minirnn.timeloop import LoopCache


class Run(NamedTuple):
    """One cell's walk over a batch, and the gradient at all states that it went through.

    Attributes:
        name: the layer's, in its model.
        cell: with the equations and the weights.
        loop: inputs, states and gates of all steps; `loop.packing` says which is which.
        backward_in_text: whether it read the texts from their ends to their beginnings.
        turned: whether the layer's time axis is the text's turned round, because a layer with
            `go_backwards` stands before it.
        gradients: (B + N, U) for each state: the gradient at every state of the history, through
            all paths.
    """

    name: str
    cell: Cell
    loop: LoopCache
    backward_in_text: bool
    turned: bool
    gradients: tuple[Array, ...]

    @property
    def packing(self) -> Packing:
        return self.loop.packing

    @property
    def states_before(self) -> State:
        """(N, U) for each state: what each step started from."""
        return tuple(self.packing.states_before(states) for states in self.loop.history)

    @property
    def states_after(self) -> State:
        """(N, U) for each state."""
        return tuple(states[self.packing.shape[0] :] for states in self.loop.history)


def back_through_layers(
    layers: Sequence[Layer], names: Sequence[str], caches: Sequence[Any], dy: Any
) -> tuple[Any, list[Run]]:
    """`(dx, runs)`: dy brought back through the layers, and a Run for each cell on the way.

    layers, caches: what `Sequential.walk` went through and gave; no layer is itself a Sequential.
    runs: in the order of the layers, of a Bidirectional the forward direction first.
    """
    turned = time_axes(layers)
    runs: list[Run] = []
    for k in reversed(range(len(layers))):
        found = []
        for cell, backwards, loop, dfinal, dhistory in arriving(layers[k], dy, caches[k]):
            gradients = gradients_at_states(cell, dfinal, dhistory, loop)
            way = backwards != turned[k]
            found.append(Run(names[k], cell, loop, way, turned[k], gradients))
        runs[:0] = found
        dy, _ = layers[k].backward(dy, caches[k])
    return dy, runs


def arriving(layer: Layer, dy: Any, cache: Any) -> Iterator[tuple[Any, ...]]:
    """`(cell, backwards, loop, dfinal, dhistory)` for each cell in the layer: what `run_backward`
    would be given, were dy, the gradient of the layer's output, to go on into the cell."""
    if isinstance(layer, RNN):
        if dy is not None and layer.return_sequences and layer.go_backwards:
            dy = dy[:, ::-1]
        how = layer.return_sequences, layer.zero_output_for_mask
        loop = whole(layer.cell, cache.loop)
        yield layer.cell, layer.go_backwards, loop, *gradients_of_states(dy, (), loop, *how)
    elif isinstance(layer, Bidirectional):
        loops, _, _, ys, *_ = cache
        dys, _ = layer.split_gradients(dy, ys, loops[0].packing)
        for inner, loop, dy_way in zip(layer.children().values(), loops, dys, strict=True):
            loop = whole(inner.cell, loop)
            arrived = gradients_of_states(dy_way, (), loop, layer.return_sequences, True)
            yield inner.cell, inner.go_backwards, loop, *arrived


def time_axes(layers: Sequence[Layer]) -> list[bool]:
    """Of each layer, whether the time axis of its input is the text's turned round."""
    turned, found = False, []
    for layer in layers:
        found.append(turned)
        if isinstance(layer, RNN) and layer.go_backwards and layer.return_sequences:
            turned = not turned
    return found


def gradients_at_states(
    cell: Cell,
    dfinal: Sequence[Array | None],
    dhistory: Sequence[Array | None],
    loop: LoopCache,
) -> tuple[Array, ...]:
    """(B + N, U) for each state: the gradient at every state of the history, through all paths.

    dfinal, dhistory: what reaches the states from outside the loop, as for `run_backward`.
    """
    packing = loop.packing
    B, states = len(packing.order), len(loop.history)
    before = tuple(packing.states_before(history) for history in loop.history)
    after = tuple(history[B:] for history in loop.history)
    gradients = tuple(
        xp.zeros_like(history) if d is None else xp.array(d, dtype=history.dtype)
        for history, d in zip(loop.history, dhistory, strict=True)
    )
    # Of the rows in the packing's order, what has come back so far.
    dstate = tuple(xp.zeros((B, cell.units), history.dtype) for history in loop.history)
    for started, d in zip(dstate, dfinal, strict=True):
        if d is not None:
            started[...] = d[packing.order]

    for block in blocks_back(packing):
        n = block.stop - block.start
        here = tuple(g[B:][block] for g in gradients)  # views: what comes from outside
        saved = tuple(array[block] for array in loop.saved)
        for s in range(states):
            here[s][...] += dstate[s][:n]
        earlier = step_back(
            cell, here, tuple(b[block] for b in before), tuple(a[block] for a in after), saved
        )
        for s in range(states):
            dstate[s][:n] = earlier[s]
        inside_the_step(cell, here, saved)
    for s in range(states):
        gradients[s][:B] += dstate[s]
    return gradients


def blocks_back(packing: Packing) -> Iterator[slice]:
    """The blocks of packed steps that are taken together, from the last one taken to the first."""
    offsets = packing.layout.offsets.tolist()
    blocks = [slice(a, b) for a, b in zip(offsets, offsets[1:], strict=False)]
    yield from blocks if packing.reverse else reversed(blocks)


def step_back(
    cell: Cell, dstate: State, before: State, after: State, saved: tuple[Array, ...]
) -> State:
    """dstate_{t-1} from dstate_t: one step of backpropagation through time, (n, U) each.

    before, after, saved: the states around the step and what it kept, as `local_derivatives` takes
    them.
    """
    local = cell.local_derivatives(before, after, saved, None)
    dstate = tuple(xp.array(d) for d in dstate)
    packing = one_step(len(dstate[0]), get_backend())
    cell.steps_backward(dstate, (None,) * len(dstate), local, packing)
    return dstate


def inside_the_step(cell: Cell, dstate: State, saved: tuple[Array, ...]) -> None:
    """Adds, in place, what a state gets through another state of the same step.

    That is so in LSTM alone: h_t is made of c_t, so dc_t += dh_t ⊙ o ⊙ tanh'(c_t).
    """
    if isinstance(cell, LSTMCell):
        dh, dc = dstate
        gates, tanh_c = saved
        dc += dh * split(gates, 4)[3] * cell.activation.derivative(tanh_c)


def steps_from_the_end(packing: Packing) -> np.ndarray:
    """(N,) for each packed step, how many further steps its row takes after it; on the host."""
    layout = packing.layout
    k = np.repeat(np.arange(len(layout.sizes)), layout.sizes)
    if packing.reverse:
        return k
    return layout.lengths[layout.host_order][layout.host_ranks] - 1 - k
