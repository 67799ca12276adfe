"""A recurrent layer that reads in both directions, side by side."""

from __future__ import annotations

import copy
from typing import Any

from minirnn.backend import Array, xp
from minirnn.base import Layer, Shape
from minirnn.compiled_loops import loops
from minirnn.dropout import draw_dropout
from minirnn.layers.recurrent import RNN, gradients_of_states, show_steps
from minirnn.packing import Mask
from minirnn.threads import side_by_side
from minirnn.timeloop import LoopCache, run, run_backward

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

    def forward(
        self, x: Array, mask: Any = None, training: bool = False, initial_state: Any = None
    ) -> tuple[Any, Any]:
        """As `RNN.forward`. initial_state: forward states, then backward states."""
        self.require_built()
        first, second = self.forward_layer, self.backward_layer
        x, mask = first.checked(x, mask)
        B, T, F = x.shape
        given = self._split_states(initial_state)
        options = self.layer
        drop_x = draw_dropout(options.dropout, (2, B, F), x.dtype, training)
        drop_h = draw_dropout(options.recurrent_dropout, (2, B, options.units), x.dtype, training)

        def walk(way: int) -> tuple[LoopCache, Array]:
            layer, packing = (first, second)[way], mask.packing(reverse=way == 1)
            x_packed = xp.take(x.reshape(B * T, F), packing.gather, axis=0)
            if drop_x is not None:
                x_packed *= drop_x[way][packing.rows]
            state = layer.starting_state(given[way], B, x.dtype)
            drop = None if drop_h is None else drop_h[way]
            loop = run(layer.cell, x_packed, packing, state, drop)
            if self.return_sequences:
                return loop, show_steps(loop.history[0], packing, zero_masked=True)
            return loop, loop.history[0][packing.final]

        self_made = loops(first.cell, x.dtype, drop_h) is first.cell
        # NumPy's many small calls want the interpreter's lock all the time: one thread is faster.
        work = 0 if self_made else int(mask.array.sum()) * (F + options.units)
        ways = side_by_side(walk, work)
        runs, ys = zip(*ways, strict=True)
        finals = [tuple(h[loop.packing.final] for h in loop.history) for loop in runs]
        if options.stateful:
            first.states, second.states = (tuple(s.copy() for s in way) for way in finals)
        y = self._merge(*ys)
        cache = x.shape, runs, drop_x, initial_state is not None, ys, work
        if not self.return_state:
            return y, cache
        return ((*y,) if self.merge_mode is None else (y,)) + finals[0] + finals[1], cache

    def backward(self, dy: Any, cache: Any) -> tuple[Any, dict[str, Array]]:
        """As `RNN.backward`; grads under the names of both copies."""
        (B, T, F), runs, drop_x, state_given, ys, work = cache
        dys, dstates = self._split_gradients(dy, ys)

        def walk_back(way: int) -> Any:
            loop, dy = runs[way], dys[way]
            dfinal, dhistory = gradients_of_states(
                dy, dstates[way], loop, self.return_sequences, zero_masked=True
            )
            layer = (self.forward_layer, self.backward_layer)[way]
            dx_packed, dinitial, grads = run_backward(layer.cell, dfinal, dhistory, loop)
            if drop_x is not None:
                dx_packed *= drop_x[way][loop.packing.rows]
            dx = xp.zeros((B * T, F), dx_packed.dtype)
            dx[loop.packing.gather] = dx_packed
            return dx.reshape(B, T, F), dinitial, grads

        ways = side_by_side(walk_back, work)
        dx = ways[0][0]
        dx += ways[1][0]
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

    def _split_gradients(self, dy: Any, ys: tuple[Array, Array]) -> tuple[Any, Any]:
        """`dy` → the gradients of both outputs, and those of both copies' states."""
        outputs = 2 if self.merge_mode is None else 1
        dstates: tuple[Any, ...] = ()
        if self.return_state:
            dy, dstates = dy[:outputs], tuple(dy[outputs:])
            dy = dy if self.merge_mode is None else dy[0]
        half = len(dstates) // 2
        return self._merge_backward(dy, *ys), (dstates[:half], dstates[half:])

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
