"""Recurrent layers: a cell, walked over the time axis of a padded batch.

What stands here is what happens around the time loop: packing the batch, the initial state,
dropout, and what the layer shows of the states it went through. The equations are in cells.py, the
loop in timeloop.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

from minirnn.backend import Array, sum_runs, xp
from minirnn.base import Layer, Shape
from minirnn.cells import Cell, GRUCell, GRUCellResetBefore, LSTMCell, SimpleRNNCell, State
from minirnn.checks import flag, numbers, share
from minirnn.dropout import draw_dropout
from minirnn.packing import Mask, Packed, Packing, full_mask, packs
from minirnn.segments import SegmentedRun, run_steps, run_steps_backward
from minirnn.timeloop import LoopCache


class RecurrentCache(NamedTuple):
    """What `RNN.backward` needs to know of a forward pass."""

    loop: LoopCache | SegmentedRun
    drop_x: Array | None
    state_given: bool
    x_packed: bool


class RNN(Layer):
    """Any cell as a layer: (batch, time, features) → (batch, units), or (batch, time, units).

    Args:
        cell: a Cell.
        return_sequences: give the output of every step instead of the last one.
        return_state: give `(y, *states)`; the states are those after the last real step.
        go_backwards: walk from the last position to the first. With `return_sequences`, outputs
            come in the order walked, and the mask that is handed on is turned round as well.
        stateful: start each batch in the state in which the one before ended. Gradients stop at
            the batch. `reset_state()` goes back to zeros. `minirnn.Windows` makes such batches of
            long rows.
        zero_output_for_mask: with `return_sequences`, masked steps show 0 instead of the state
            that stands there.
        dropout, recurrent_dropout: share of the inputs, of the states, dropped in training
            (0 to 1); what is left is scaled up. One draw per batch, the same at every step.

    Masks: at a masked step the state stays as it is, and the output is that state (the initial one
    before the first real step). Any mask will do: padding behind or in front, holes, empty rows.

    Batches whose steps would take much memory are run in segments, with the same gradient; see
    segments.py and `minirnn.set_history_limit`.
    """

    def __init__(
        self,
        cell: Cell,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        zero_output_for_mask: bool = False,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not isinstance(cell, Cell):
            raise TypeError(f"cell: expected a Cell such as LSTMCell(64), received {cell!r}")
        self.cell = cell
        self.return_sequences = flag("return_sequences", return_sequences)
        self.return_state = flag("return_state", return_state)
        self.go_backwards = flag("go_backwards", go_backwards)
        self.stateful = flag("stateful", stateful)
        self.zero_output_for_mask = flag("zero_output_for_mask", zero_output_for_mask)
        self.dropout = share("dropout", dropout)
        self.recurrent_dropout = share("recurrent_dropout", recurrent_dropout)
        self.states: State | None = None

    # -- shape and weights --

    @property
    def units(self) -> int:
        return self.cell.units

    @property
    def params(self) -> dict[str, Array]:
        return self.cell.params

    @property
    def trainable_params(self) -> dict[str, Array]:
        return self.cell.params if self.trainable else {}

    def cast(self, dtype: Any) -> None:
        self.cell.cast(dtype)
        if self.states is not None:
            self.states = tuple(state.astype(dtype) for state in self.states)

    def build(self, input_shape: Shape) -> None:
        if len(input_shape) != 3 or input_shape[-1] is None:
            raise ValueError(
                f"{self.name}: expected input of shape (batch, time, features), received "
                f"{tuple(input_shape)}. Token ids go through an Embedding or OneHot layer first."
            )
        features = int(input_shape[-1])
        if not self.cell.params:  # a cell that has weights, or serves two layers, keeps them
            self.cell.build(features)
        elif self.cell.params["kernel"].shape[-2] != features:
            raise ValueError(
                f"{self.name}: the cell was built for {self.cell.params['kernel'].shape[-2]} "
                f"features, the input has {features}"
            )
        self.built = True

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, time = input_shape[:2]
        return (batch, time, self.units) if self.return_sequences else (batch, self.units)

    def compute_mask(self, x: Array, mask: Mask | None = None) -> Mask | None:
        mask = Mask.of(mask)
        if mask is None or not self.return_sequences:
            return None
        return mask.reversed() if self.go_backwards else mask

    def get_config(self) -> dict[str, Any]:
        """The layer's own arguments and its cell's: `LSTM(units, ...)` takes both."""
        keys = [key for key in inspect.signature(RNN.__init__).parameters if key != "self"]
        config = {key: getattr(self, key) for key in keys if key != "options"}
        config |= {"name": self.name, "trainable": self.trainable}
        if type(self) is not RNN:
            config |= config.pop("cell").get_config()
        return config

    # -- state --

    def reset_state(self) -> None:
        """Forget the state that a stateful layer carries from batch to batch."""
        self.states = None

    def starting_state(self, given: Any, rows: int, dtype: Any) -> State:
        """The state before the first step: the one given, the one carried over, or zeros."""
        names = self.cell.state_names
        expected = (rows, self.units)
        if given is not None:
            if len(names) == 1 and hasattr(given, "shape"):
                given = (given,)
            if not isinstance(given, (tuple, list)):
                raise TypeError(
                    f"{self.name}: expected initial_state ({', '.join(names)}), received {given!r}"
                )
            state = tuple(numbers(self.name, s, dtype) for s in given)
            if len(state) != len(names) or any(s.shape != expected for s in state):
                raise ValueError(
                    f"{self.name}: expected initial_state ({', '.join(names)}), each {expected}; "
                    f"received {[tuple(s.shape) for s in state]}"
                )
            return state
        if self.stateful and self.states is not None:
            if self.states[0].shape != expected:
                raise ValueError(
                    f"{self.name}: a stateful layer needs batches of one size: it carries the "
                    f"state of {self.states[0].shape[0]} rows and received {rows}. Call "
                    "reset_state(), or drop the last, smaller batch."
                )
            return self.states
        return self.cell.initial_state(rows, dtype)

    # -- forward and backward --

    takes_packed = True

    def gives_packed(self, x: Any) -> bool:
        return self.return_sequences and not self.return_state and not self.go_backwards

    @packs
    def forward(
        self,
        x: Array | Packed,
        mask: Any = None,
        training: bool = False,
        initial_state: Any = None,
        packing: Packing | None = None,
    ) -> tuple[Any, RecurrentCache]:
        """y (batch, units) or (batch, time, units), with the states behind it if `return_state`.

        x (batch, time, features); mask (batch, time); initial_state (batch, units) for each state.
        packing: that of the mask; given where y is to be `Packed`.
        """
        steps, walked = self.packed_input(x, mask, self.go_backwards)
        B, F = walked.shape[0], steps.shape[-1]
        state = self.starting_state(initial_state, B, steps.dtype)
        drop_x = draw_dropout(self.dropout, (B, F), steps.dtype, training)
        drop_h = draw_dropout(self.recurrent_dropout, (B, self.units), steps.dtype, training)

        if drop_x is not None:
            steps = steps * drop_x[walked.rows]
        loop = run_steps(self.cell, steps, walked, state, drop_h, self.return_sequences)

        if self.stateful:
            self.states = last_states(loop)
        if packing is not None:
            y = Packed(loop.history[0][B:], packing)
        elif self.return_sequences:
            y = show_steps(loop.history[0], walked, self.zero_output_for_mask)
            if self.go_backwards:
                y = xp.ascontiguousarray(y[:, ::-1])
        else:
            y = loop.last(0)
        cache = RecurrentCache(loop, drop_x, initial_state is not None, isinstance(x, Packed))
        return ((y, *last_states(loop)) if self.return_state else y), cache

    def backward(self, dy: Any, cache: RecurrentCache) -> tuple[Any, dict[str, Array]]:
        """dx (batch, time, features) and the gradients of the weights.

        dy has the form of y; None in a tuple stands for zeros. If an initial state was given, the
        first result is `(dx, dstate)`.
        """
        loop, drop_x, state_given, x_packed = cache
        packing = loop.packing
        dy, *dstates = dy if self.return_state else (dy,)
        if dy is not None and self.return_sequences and self.go_backwards:
            dy = dy[:, ::-1]
        dfinal, dhistory = gradients_of_states(
            dy, dstates, loop, self.return_sequences, self.zero_output_for_mask
        )
        dsteps, dinitial, grads = run_steps_backward(self.cell, dfinal, dhistory, loop)
        if drop_x is not None:
            dsteps *= drop_x[packing.rows]
        dx = Packed(dsteps, packing) if x_packed else packing.unpack(dsteps)
        return ((dx, dinitial) if state_given else dx), grads

    def __call__(
        self, x: Array, mask: Any = None, training: bool = False, initial_state: Any = None
    ) -> Any:
        self.ensure_built(x)
        return self.forward(x, mask, training, initial_state)[0]

    def packed_input(self, x: Array | Packed, mask: Any, reverse: bool) -> tuple[Array, Packing]:
        """The real steps (N, features) of x, on the device and in the weights' dtype, and the
        packing to walk them by: that of a Packed x, else the mask's; without one all are real."""
        self.require_built()
        kernel = self.cell.params["kernel"]
        features = kernel.shape[-2]
        if not isinstance(x, Packed):
            x = numbers(self.name, x, kernel.dtype)
        if len(x.shape) != 3 or x.shape[-1] != features:
            raise ValueError(
                f"{self.name}: expected input of shape (batch, time, {features}), "
                f"received {x.shape}"
            )
        if isinstance(x, Packed):
            packing = x.packing.reversed if reverse else x.packing
            return numbers(self.name, x.steps, kernel.dtype), packing
        mask = Mask.of(mask) or full_mask(*x.shape[:2])
        mask.require_shape(self.name, x.shape)
        packing = mask.packing(reverse)
        return packing.pack(x), packing


class SimpleRNN(RNN):
    """The plain recurrent layer; equations in `SimpleRNNCell`, options in `RNN`."""

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        **options: Any,
    ) -> None:
        cell = SimpleRNNCell(
            units,
            activation,
            use_bias,
            kernel_initializer,
            recurrent_initializer,
            bias_initializer,
        )
        super().__init__(cell, **options)


class LSTM(RNN):
    """Long short-term memory; equations in `LSTMCell`, options in `RNN`. States: h, c."""

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        unit_forget_bias: bool = True,
        **options: Any,
    ) -> None:
        cell = LSTMCell(
            units,
            activation,
            recurrent_activation,
            use_bias,
            kernel_initializer,
            recurrent_initializer,
            bias_initializer,
            unit_forget_bias,
        )
        super().__init__(cell, **options)


class GRU(RNN):
    """Gated recurrent unit; equations in `GRUCell` (`reset_after=True`, the default) and in
    `GRUCellResetBefore`; options in `RNN`."""

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        reset_after: bool = True,
        **options: Any,
    ) -> None:
        reset_after = flag("reset_after", reset_after)
        cell_class = GRUCell if reset_after else GRUCellResetBefore
        cell = cell_class(
            units,
            activation,
            recurrent_activation,
            use_bias,
            kernel_initializer,
            recurrent_initializer,
            bias_initializer,
        )
        super().__init__(cell, **options)
        self.reset_after = reset_after

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"reset_after": self.reset_after}


# --- what a layer shows of the states it went through ---------------------------------------------


def last_states(loop: LoopCache | SegmentedRun) -> State:
    """Of each row, (batch, units), in the order of the batch: new arrays."""
    return tuple(loop.last(which) for which in range(len(loop.history)))


def show_steps(h: Array, packing: Packing, zero_masked: bool) -> Array:
    """The output of every position, (B, T, U), from the history h (B + N, U)."""
    if zero_masked:
        return packing.unpack(h[packing.shape[0] :])
    return xp.take(h, packing.source, axis=0)


def show_steps_backward(dy: Array | Packed, packing: Packing, zero_masked: bool) -> Array:
    """(B + N, U), the gradient of the history, from dy (B, T, U), that of what it shows.

    A masked position repeats the state of an earlier step, so its gradient goes to that step.
    """
    B, T = packing.shape
    steps = dy.steps if isinstance(dy, Packed) else dy
    if isinstance(dy, Packed):
        return xp.concatenate([xp.zeros((B, dy.shape[-1]), steps.dtype), steps])
    dh = xp.zeros((B + len(packing), dy.shape[-1]), steps.dtype)
    if zero_masked or not packing.repeats:
        dh[B:] = packing.pack(dy)
    else:
        flat = dy.reshape(B * T, dy.shape[-1])
        dh[packing.run_sources] = sum_runs(flat, packing.runs)
    return dh


def gradients_of_states(
    dy: Array | None,
    dstates: Sequence[Array | None],
    loop: LoopCache | SegmentedRun,
    return_sequences: bool,
    zero_masked: bool,
) -> tuple[list[Array | None], list[Array | None]]:
    """`(dfinal, dhistory)`: what `run_backward` takes.

    dy: the gradient of the output; dstates: those of the final states. None stands for zeros.
    """
    dfinal: list[Array | None] = list(dstates) or [None] * len(loop.history)
    dhistory: list[Array | None] = [None] * len(loop.history)
    if dy is not None and return_sequences:
        dhistory[0] = show_steps_backward(dy, loop.packing, zero_masked)
    elif dy is not None:
        dfinal[0] = dy if dfinal[0] is None else dy + dfinal[0]
    return dfinal, dhistory
