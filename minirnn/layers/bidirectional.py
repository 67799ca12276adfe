"""A recurrent layer that reads in both directions, side by side."""

from __future__ import annotations

import copy
from typing import Any

from minirnn.backend import Array, xp
from minirnn.base import Layer, Shape
from minirnn.compiled_loops import loops
from minirnn.dropout import draw_dropout
from minirnn.layers.recurrent import RNN, gradients_of_states, last_states
from minirnn.packing import Mask, Packed, Packing, packs
from minirnn.segments import SegmentedRun, run_steps, run_steps_backward
from minirnn.threads import side_by_side
from minirnn.timeloop import LoopCache

MERGE_MODES = ("concat", "sum", "mul", "ave", None)


class Bidirectional(Layer):
    """Two copies of a recurrent layer, one of which reads from the last step to the first.

    Neither direction waits for the other, so they run side by side, on two threads where that pays.

    With `return_sequences`, the outputs of the backward copy are turned back in time before they
    are merged, so that position t holds what both know of it, and masked positions hold 0 (as in
    Keras). Otherwise each copy gives its state after reading the whole row.

    Args:
        layer: a recurrent layer: the pattern of which both copies are made (with new weights). An
            initializer with a seed gets a seed of its own for each copy.
        merge_mode: "concat", "sum", "mul", "ave", or None for the tuple of both outputs.

    With `return_state`, the result is (y, forward states ..., backward states ...).
    """

    def __init__(self, layer: RNN, merge_mode: str | None = "concat", **options: Any) -> None:
        super().__init__(**options)
        if not isinstance(layer, RNN):
            raise TypeError(f"layer: expected a recurrent layer, received {layer!r}")
        if layer.go_backwards:
            raise ValueError("layer: give the forward layer; Bidirectional makes the backward one")
        if merge_mode not in MERGE_MODES:
            raise ValueError(f"merge_mode: expected one of {MERGE_MODES}, received {merge_mode!r}")
        self.layer = layer
        self.merge_mode = merge_mode
        self.forward_layer = self._copy("forward")
        self.backward_layer = self._copy("backward")
        self.backward_layer.go_backwards = True
        if "name" not in options:
            self.name = f"bidirectional_{layer.name}" if layer.named_by_user else self.name

    def _copy(self, direction: str) -> RNN:
        twin = copy.deepcopy(self.layer)
        twin.name = f"{direction}_{self.layer.name}"
        twin.built, twin.states, twin.cell.params = False, None, {}
        which = 0 if direction == "forward" else 1
        for key in ("kernel_initializer", "recurrent_initializer", "bias_initializer"):
            setattr(twin.cell, key, getattr(self.layer.cell, key).split(2)[which])
        return twin

    # -- shape and weights --

    @property
    def return_sequences(self) -> bool:
        return self.layer.return_sequences

    @property
    def return_state(self) -> bool:
        return self.layer.return_state

    def children(self) -> dict[str, Layer]:
        return {"forward": self.forward_layer, "backward": self.backward_layer}

    def build(self, input_shape: Shape) -> None:
        for layer in self.children().values():
            layer.build(input_shape)
        self.built = True

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        shape = self.layer.compute_output_shape(input_shape)
        if self.merge_mode is None:
            return (shape, shape)
        return (*shape[:-1], shape[-1] * 2) if self.merge_mode == "concat" else shape

    def compute_mask(self, x: Array, mask: Mask | None = None) -> Mask | None:
        return mask if self.return_sequences else None

    # -- forward and backward --

    def __call__(
        self, x: Array, mask: Any = None, training: bool = False, initial_state: Any = None
    ) -> Any:
        self.ensure_built(x)
        return self.forward(x, mask, training, initial_state)[0]

    takes_packed = True

    def gives_packed(self, x: Any) -> bool:
        return self.return_sequences and not self.return_state and self.merge_mode is not None

    @packs
    def forward(
        self,
        x: Array | Packed,
        mask: Any = None,
        training: bool = False,
        initial_state: Any = None,
        packing: Packing | None = None,
    ) -> tuple[Any, Any]:
        """As `RNN.forward`. initial_state: forward states, then backward states."""
        self.require_built()
        first, second = self.forward_layer, self.backward_layer
        steps, ahead = first.packed_input(x, mask, reverse=False)
        packings = ahead, ahead.reversed
        B, (N, F) = ahead.shape[0], steps.shape
        given = self._split_states(initial_state)
        options = self.layer
        drop_x = draw_dropout(options.dropout, (2, B, F), steps.dtype, training)
        size = (2, B, options.units)
        drop_h = draw_dropout(options.recurrent_dropout, size, steps.dtype, training)

        def walk(way: int) -> LoopCache | SegmentedRun:
            layer = (first, second)[way]
            read = steps if drop_x is None else steps * drop_x[way][ahead.rows]
            state = layer.starting_state(given[way], B, steps.dtype)
            drop = None if drop_h is None else drop_h[way]
            return run_steps(layer.cell, read, packings[way], state, drop, self.return_sequences)

        self_made = loops(first.cell, steps.dtype, drop_h) is first.cell
        # NumPy's many small calls want the interpreter's lock all the time: one thread is faster.
        work = 0 if self_made else N * (F + options.units)
        runs = side_by_side(walk, work)
        if options.stateful:
            first.states, second.states = (last_states(loop) for loop in runs)
        if self.return_sequences:  # both directions show them in one order, that of the packing
            ys = [loop.history[0][B:] for loop in runs]
        else:
            ys = [loop.last(0) for loop in runs]
        y = self._merge(*ys)
        if packing is not None:
            y = Packed(y, packing)
        elif self.return_sequences:
            y = tuple(map(ahead.unpack, y)) if self.merge_mode is None else ahead.unpack(y)
        cache = runs, drop_x, initial_state is not None, ys, work, isinstance(x, Packed)
        if not self.return_state:
            return y, cache
        states = sum(map(last_states, runs), ())
        return ((*y,) if self.merge_mode is None else (y,)) + states, cache

    def backward(self, dy: Any, cache: Any) -> tuple[Any, dict[str, Array]]:
        """As `RNN.backward`; grads under the names of both copies."""
        runs, drop_x, state_given, ys, work, x_packed = cache
        packing = runs[0].packing
        dys, dstates = self.split_gradients(dy, ys, packing)

        def walk_back(way: int) -> Any:
            loop, dy = runs[way], dys[way]
            dfinal, dhistory = gradients_of_states(
                dy, dstates[way], loop, self.return_sequences, zero_masked=True
            )
            layer = (self.forward_layer, self.backward_layer)[way]
            dsteps, dinitial, grads = run_steps_backward(layer.cell, dfinal, dhistory, loop)
            if drop_x is not None:
                dsteps *= drop_x[way][packing.rows]
            return dsteps, dinitial, grads

        ways = side_by_side(walk_back, work)
        dsteps = ways[0][0]
        dsteps += ways[1][0]
        dx = Packed(dsteps, packing) if x_packed else packing.unpack(dsteps)
        grads = {f"forward_{key}": g for key, g in ways[0][2].items()}
        grads |= {f"backward_{key}": g for key, g in ways[1][2].items()}
        return ((dx, (*ways[0][1], *ways[1][1])) if state_given else dx), grads

    # -- merging --

    def _merge(self, ahead: Array, back: Array) -> Any:
        if self.merge_mode == "concat":
            return xp.concatenate([ahead, back], axis=-1)
        if self.merge_mode == "sum":
            return ahead + back
        if self.merge_mode == "mul":
            return ahead * back
        if self.merge_mode == "ave":
            return (ahead + back) * 0.5
        return ahead, back

    def _merge_backward(self, dy: Any, ahead: Array, back: Array) -> tuple[Any, Any]:
        if dy is None:
            return None, None
        if self.merge_mode == "concat":
            return dy[..., : self.layer.units], dy[..., self.layer.units :]
        if self.merge_mode == "sum":
            return dy, dy
        if self.merge_mode == "mul":
            return dy * back, dy * ahead
        if self.merge_mode == "ave":
            return dy * 0.5, dy * 0.5
        return dy

    def split_gradients(self, dy: Any, ys: Any, packing: Packing) -> tuple[Any, Any]:
        """`dy` → the gradients of both outputs, `Packed` where those are steps, and those of both
        copies' states."""
        outputs = 2 if self.merge_mode is None else 1
        dys, dstates = ((dy,) if outputs == 1 else dy), ()
        if self.return_state:
            dys, dstates = dy[:outputs], tuple(dy[outputs:])
        half = len(dstates) // 2
        if self.return_sequences:
            dys = [packed_gradient(d, packing) for d in dys or (None, None)]
        merged = self._merge_backward(dys if self.merge_mode is None else dys[0], *ys)
        if self.return_sequences:
            merged = [None if d is None else Packed(d, packing) for d in merged]
        return merged, (dstates[:half], dstates[half:])

    def _split_states(self, given: Any) -> tuple[Any, Any]:
        if given is None:
            return None, None
        count = len(self.layer.cell.state_names)
        if not isinstance(given, (tuple, list)):
            raise TypeError(f"{self.name}: expected initial_state as a tuple, received {given!r}")
        if len(given) != 2 * count:
            raise ValueError(
                f"{self.name}: expected initial_state of {2 * count} arrays (forward, then "
                f"backward), received {len(given)}"
            )
        return tuple(given[:count]), tuple(given[count:])


def packed_gradient(dy: Array | Packed | None, packing: Packing) -> Array | None:
    """The gradient of the steps of a layer, (N, features), from that of what it handed on."""
    if dy is None or isinstance(dy, Packed):
        return dy if dy is None else dy.steps
    return packing.pack(dy)
