"""The cells: every equation of a recurrent network, and under it the backward pass that undoes it.

Legend
    n   rows that run side by side (a batch)         x_t (n, F)   input of step t
    F   features of the input                        h   (n, U)   hidden state; c: LSTM's cell state
    U   units of the cell                            W, U, b      kernel, recurrent kernel, bias
    σ   sigmoid, ⊙ product by element                dh, da, ...  gradient of the loss at h, a, ...

A cell is its parameters and the equations of one step: arrays in, arrays out, nothing remembered.
A run over a sequence has two halves, and so has its backward pass:

    project             a_t = x_t W + b            does not wait for the state, so it is done for
                                                   all steps of all rows in one product
    steps               state_t from a_t and       the recurrence: a loop over time, with all that
                        state_{t-1}                has to go step by step
    local_derivatives   every factor of the        does not wait for a gradient: done for all steps
                        chain rule in one step     at once, before the loop runs backwards
    steps_backward      dstate_{t-1} from          backpropagation through time: the loop backwards
                        dstate_t
    weight_gradients    dW, dU, db and dx          sums over all steps: one product each, after the
                                                   loop

The numbers at the end of the lines say which line of the forward pass a backward line reverses.
`run` and `run_backward` in timeloop.py call these methods over whole sequences; `cell(x_t, state)`
and `cell.backward` run one step alone.

A loop makes no arrays: results go into arrays made before it, `multiply(f, c, c_t)` being
`c_t = f ⊙ c`, the last argument the place of the result. With the small arrays of such models, what
a step costs is the number of its lines.

>>> import numpy as np
>>> cell = LSTMCell(2)
>>> cell.build(3)
>>> h, c = cell(np.ones((1, 3), "float32"), cell.initial_state(1))
>>> h.shape, c.shape
((1, 2), (1, 2))
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minirnn import activations, initializers
from minirnn.backend import Array, floatx, get_backend, to_device, xp
from minirnn.checks import flag, numbers, whole_number
from minirnn.packing import Packing

State = tuple[Array, ...]


def dropped(h: Array, drop: Array | None) -> Array:
    """`h` under recurrent dropout; `drop` holds 0 and 1 / keep, the same at every step."""
    return h if drop is None else h * drop


class Cell:
    """Base of all cells: the parameters, and what is the same for each.

    A cell of one's own sets `state_names` and `gates`, and implements `steps`, `local_derivatives`
    and `steps_backward`; `RNN` runs it.

    Attributes:
        units: U, the size of each state.
        state_names: one name a state; the first is the output.
        gates: one name a block of U columns in `kernel`, `recurrent_kernel` and `bias`.
        params: kernel (F, gates * U), recurrent_kernel (U, gates * U), bias (gates * U); GRUCell's
            bias is (2, gates * U).
    """

    state_names: tuple[str, ...] = ("h",)
    gates: tuple[str, ...] = ("h",)

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
    ) -> None:
        self.units = whole_number("units", units)
        self.activation = activations.get(activation)
        self.use_bias = flag("use_bias", use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.recurrent_initializer = initializers.get(recurrent_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.params: dict[str, Array] = {}

    def build(self, features: int) -> None:
        """Make the weights for inputs of this many features."""
        width = len(self.gates) * self.units
        drawn = {
            "kernel": self.kernel_initializer((features, width)),
            "recurrent_kernel": self.recurrent_initializer((self.units, width)),
        }
        if self.use_bias:
            drawn["bias"] = self.initial_bias(width)
        # An initializer may hand over a transposed view, which every product would pay for.
        self.params = {key: to_device(np.ascontiguousarray(value)) for key, value in drawn.items()}

    def initial_bias(self, width: int) -> Array:
        return self.bias_initializer((width,))

    def initial_state(self, rows: int, dtype: Any = None) -> State:
        """Zeros (rows, U) for each state."""
        return tuple(xp.zeros((rows, self.units), dtype or floatx()) for _ in self.state_names)

    def cast(self, dtype: Any) -> None:
        """Turn the weights into `dtype`."""
        self.params = {key: value.astype(dtype) for key, value in self.params.items()}

    def has_usual_activations(self) -> bool:
        """Whether they are those of the papers: tanh, and σ for the gates."""
        return self.activation is activations.tanh

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, from which an equal cell can be made."""
        arguments = inspect.signature(type(self)).parameters.values()
        named = [a.name for a in arguments if a.kind not in (a.VAR_KEYWORD, a.VAR_POSITIONAL)]
        return {name: getattr(self, name) for name in named}

    # -- the equations that all cells share --

    def project(self, x: Array) -> Array:
        """a = x W + b: (N, F) → (N, gates * U)."""
        a = x @ self.params["kernel"]
        if self.use_bias:
            a += self.params["bias"]
        return a

    def weight_gradients(
        self, x: Array, h_prev: Array, da: Array, du: Array, saved: tuple[Array, ...]
    ) -> tuple[dict[str, Array], Array]:
        """The gradients of the weights, summed over N steps, and dx (N, F).

        x (N, F), h_prev (N, U): what W and U multiplied, the latter after dropout.
        da, du (N, gates * U): gradients at `x W + b` and at `h_prev U`.
        saved: a as `steps` left it, then the arrays of `saved_sizes`, for all N steps.

        A cell with more weights than these extends it.
        """
        grads = {"kernel": x.T @ da, "recurrent_kernel": h_prev.T @ du}
        if self.use_bias:
            grads["bias"] = sum_of_rows(da)
        return grads, da @ self.params["kernel"].T

    # -- the equations of each cell --

    def saved_sizes(self) -> tuple[int, ...]:
        """How many columns each array has that `steps` keeps for backward, besides a itself."""
        return ()

    def steps(
        self,
        a: Array,
        history: State,
        kept: tuple[Array, ...],
        packing: Packing,
        drop: Array | None = None,
    ) -> None:
        """All steps, from the first to the last.

        a: (N, gates * U) projected inputs. Used up: they become the gates.
        history: (B + N, U) for each state; the first B rows hold the state to start from, and
            the state after each step is written behind them.
        kept: (N, size) for each of `saved_sizes`, to be filled.
        packing: says which rows take which step; `packing.walk` gives the views of each.
        drop: (B, U), rows in the order of the packing, or None.
        """
        raise NotImplementedError(f"{type(self).__name__} has no steps")

    def local_derivatives(
        self, state_prev: State, state: State, saved: tuple[Array, ...], drop: Array | None
    ) -> tuple[Array, ...]:
        """`(da, du, ...)`: what `steps_backward` multiplies with, for all N steps at once.

        state_prev, state: (N, U), before and after each step. drop: (N, U) or None.
        saved: a as `steps` left it, then the arrays of `saved_sizes`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no backward pass")

    def steps_backward(
        self,
        dstate: State,
        dstates: tuple[Array | None, ...],
        local: tuple[Array, ...],
        packing: Packing,
        drop: Array | None = None,
    ) -> None:
        """All steps, from the last to the first.

        dstate: (B, U) for each state, rows in the order of the packing: the gradient of each
            row's last state. It is turned, in place, into that of the state before the first step.
        dstates: (N, U) for each state, or None: what else reaches the state after each step.
        local: what `local_derivatives` gave. The first two arrays are used up: they become da and
            du, the gradients at `x W + b` and at `h_{t-1} U`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no backward pass")

    # -- one step alone --

    def __call__(self, x_t: Array, state: State) -> State:
        """One step: x_t (n, F) and the state before it → the state after it."""
        return self.forward(x_t, state)[0]

    def forward(self, x_t: Array, state: State) -> tuple[State, Any]:
        """One step with the cache that `backward` needs."""
        x_t, state_prev = self._checked(x_t, state)
        n, packing = len(x_t), one_step(len(x_t), get_backend())
        a_t = self.project(x_t)
        history = tuple(xp.concatenate([s, xp.empty_like(s)]) for s in state_prev)
        kept = tuple(xp.empty((n, size), a_t.dtype) for size in self.saved_sizes())
        self.steps(a_t, history, kept, packing)
        state = tuple(states[n:] for states in history)
        return state, (x_t, state_prev, state, (a_t, *kept))

    def backward(self, dstate: State, cache: Any) -> tuple[Array, State, dict[str, Array]]:
        """`(dx_t, dstate_{t-1}, grads)` of one step alone, from dstate_t, a tuple of (n, U)."""
        x_t, state_prev, state, saved = cache
        local = self.local_derivatives(state_prev, state, saved, None)
        dstate_prev = tuple(xp.array(d, dtype=x_t.dtype) for d in dstate)
        packing = one_step(len(x_t), get_backend())
        self.steps_backward(dstate_prev, (None,) * len(dstate_prev), local, packing)
        grads, dx_t = self.weight_gradients(x_t, state_prev[0], local[0], local[1], saved)
        return dx_t, dstate_prev, grads

    def explain(self, x_t: Any, state: Any, dstate: Any = None) -> str:
        """Every equation of one step of one row, with its numbers in it, as text to print.

        x_t (F,); state (U,) or a tuple of them; dstate: alike, for the backward pass as well. See
        `minirnn.inspect.explain`.
        """
        from minirnn.inspect.explain import explain  # it stands above the cells, so not before

        return explain(self, x_t, state, dstate)

    def _checked(self, x_t: Array, state: State) -> tuple[Array, State]:
        name = type(self).__name__
        if not self.params:
            raise ValueError(f"{name}: it has no weights yet; call build(features) first")
        kernel = self.params["kernel"]
        x_t = numbers(name, x_t, kernel.dtype)
        state = tuple(numbers(name, s, kernel.dtype) for s in state)
        if x_t.ndim != 2 or x_t.shape[1] != kernel.shape[0]:
            raise ValueError(
                f"{name}: expected x_t of shape (n, {kernel.shape[0]}), got {x_t.shape}"
            )
        expected = (x_t.shape[0], self.units)
        if len(state) != len(self.state_names) or any(s.shape != expected for s in state):
            raise ValueError(
                f"{name}: expected the state ({', '.join(self.state_names)}), each {expected}; "
                f"received {[tuple(s.shape) for s in state]}"
            )
        return x_t, state


class SimpleRNNCell(Cell):
    """The plain recurrent cell (Elman, 1990): h_t = tanh(x_t W + b + h_{t-1} U)."""

    def steps(
        self,
        a: Array,
        history: State,
        kept: tuple[Array, ...],
        packing: Packing,
        drop: Array | None = None,
    ) -> None:
        U = self.params["recurrent_kernel"]
        dot, activation, multiply = xp.dot, self.activation.raw, xp.multiply
        u, h_in = like_rows(a, packing, drop)
        walk = packing.walk([a], history, [u, h_in, drop])
        for a_t, h, h_t, u, h_in, drop in walk:
            if drop is not None:
                h = multiply(h, drop, h_in)
            dot(h, U, u)
            a_t += u  #                                 1   a = x_t W + b + h_{t-1} U
            activation(a_t, h_t)  #                     2   h_t = tanh(a)

    def local_derivatives(
        self, state_prev: State, state: State, saved: tuple[Array, ...], drop: Array | None
    ) -> tuple[Array, ...]:
        (h,) = state
        dh_da = self.activation.derivative(h)  #        2   tanh'(a)
        return dh_da, dh_da

    def steps_backward(
        self,
        dstate: State,
        dstates: tuple[Array | None, ...],
        local: tuple[Array, ...],
        packing: Packing,
        drop: Array | None = None,
    ) -> None:
        U_T = xp.ascontiguousarray(self.params["recurrent_kernel"].T)
        dot = xp.dot
        walk = packing.walk_back([local[0], *dstates], [*dstate, drop])
        for da, dh_t, dh, drop in walk:
            if dh_t is not None:
                dh += dh_t
            da *= dh  #                                 2   da = dh ⊙ tanh'(a)
            dot(da, U_T, dh)  #                         1   dh_{t-1} = da Uᵀ
            if drop is not None:
                dh *= drop


class GatedCell(Cell):
    """Base of the cells with gates: `recurrent_activation` is theirs, σ unless told otherwise."""

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
    ) -> None:
        super().__init__(
            units, activation, use_bias, kernel_initializer, recurrent_initializer, bias_initializer
        )
        self.recurrent_activation = activations.get(recurrent_activation)

    def has_usual_activations(self) -> bool:
        return super().has_usual_activations() and (
            self.recurrent_activation is activations.sigmoid
        )


class LSTMCell(GatedCell):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997; forget gate: Gers et al., 2000).

        i, f, o = σ(a_i), σ(a_f), σ(a_o)    g = tanh(a_g)    with a = x_t W + b + h_{t-1} U
        c_t = f ⊙ c_{t-1} + i ⊙ g
        h_t = o ⊙ tanh(c_t)

    The blocks of the weights stand in Keras's order i, f, c, o (the candidate g under the name c);
    `minirnn.interop.gate_table()` tells where other libraries put them.

    Args:
        recurrent_activation: of the gates i, f and o; `activation` serves g and c_t.
        unit_forget_bias: start with f's part of the bias at 1, so that the cell remembers at first
            (Jozefowicz et al., 2015).
    """

    state_names = ("h", "c")
    gates = ("i", "f", "c", "o")

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
    ) -> None:
        super().__init__(
            units,
            activation,
            recurrent_activation,
            use_bias,
            kernel_initializer,
            recurrent_initializer,
            bias_initializer,
        )
        self.unit_forget_bias = flag("unit_forget_bias", unit_forget_bias)

    def initial_bias(self, width: int) -> Array:
        bias = super().initial_bias(width)
        if self.unit_forget_bias:
            bias[self.units : 2 * self.units] = 1
        return bias

    def saved_sizes(self) -> tuple[int, ...]:
        """Kept for backward: the gates i, f, g, o (in place of a), and tanh(c_t) (N, U)."""
        return (self.units,)

    def steps(
        self,
        a: Array,
        history: State,
        kept: tuple[Array, ...],
        packing: Packing,
        drop: Array | None = None,
    ) -> None:
        U = self.params["recurrent_kernel"]
        half = None
        if self.has_usual_activations():
            # σ(a) = tanh(a / 2) / 2 + 1/2, so one tanh serves all four gates.
            half, shift = sigmoid_as_tanh(a, packing.shape[0])
            halved, _ = sigmoid_as_tanh(a, 1)
            U = U * halved
            a *= halved
        dot, activation, multiply = xp.dot, self.activation.raw, xp.multiply
        gate = self.recurrent_activation.raw
        u, h_in = like_rows(a, packing, drop)
        ig = xp.empty_like(history[0][: packing.shape[0]])
        fixed = [u, h_in, ig, drop] + ([None, None] if half is None else [half, shift])
        walk = packing.walk([a, *split(a, 4), *kept], history, fixed)
        for a_t, i, f, g, o, tanh_c, h, c, h_t, c_t, u, h_in, ig, drop, half, shift in walk:
            if drop is not None:
                h = multiply(h, drop, h_in)
            dot(h, U, u)
            a_t += u  #                                 1   a = x_t W + b + h_{t-1} U
            if half is not None:
                activation(a_t, a_t)  #                 2   i, f, o = σ(a), g = tanh(a)
                a_t *= half
                a_t += shift
            else:
                gate(i, i), gate(f, f), activation(g, g), gate(o, o)
            multiply(f, c, c_t)
            multiply(i, g, ig)
            c_t += ig  #                                3   c_t = f ⊙ c_{t-1} + i ⊙ g
            activation(c_t, tanh_c)  #                  4   tanh(c_t)
            multiply(o, tanh_c, h_t)  #                 5   h_t = o ⊙ tanh(c_t)

    def local_derivatives(
        self, state_prev: State, state: State, saved: tuple[Array, ...], drop: Array | None
    ) -> tuple[Array, ...]:
        (_, c_prev), (gates, tanh_c) = state_prev, saved
        i, f, g, o = split(gates, 4)
        da = self.gate_derivatives(gates)  #            2   σ'(a_i), σ'(a_f), tanh'(a_g), σ'(a_o)
        for da_gate, factor in zip(split(da, 4), (g, c_prev, i, tanh_c), strict=True):
            da_gate *= factor  #                      3 5   ⊙ dc/di, dc/df, dc/dg, dh/do
        dc_dh = self.activation.derivative(tanh_c)
        dc_dh *= o  #                                 5 4   o ⊙ tanh'(c_t)
        return da, da, dc_dh, f

    def steps_backward(
        self,
        dstate: State,
        dstates: tuple[Array | None, ...],
        local: tuple[Array, ...],
        packing: Packing,
        drop: Array | None = None,
    ) -> None:
        da, _, dc_dh, f = local
        U_T = xp.ascontiguousarray(self.params["recurrent_kernel"].T)
        dot, multiply = xp.dot, xp.multiply
        part = xp.empty_like(dstate[1])
        by_gate = da.reshape(len(da), 4, self.units)
        walk = packing.walk_back(
            [da, by_gate[:, :3], by_gate[:, 3], dc_dh, f, *dstates],
            [*dstate, dstate[1][:, None], part, drop],
        )
        for da, da_ifg, da_o, dc_dh, f, dh_t, dc_t, dh, dc, dc_thrice, part, drop in walk:
            if dh_t is not None:
                dh += dh_t
            if dc_t is not None:
                dc += dc_t
            multiply(dh, dc_dh, part)
            dc += part  #                             5 4   dc_t += dh ⊙ o ⊙ tanh'(c_t)
            da_ifg *= dc_thrice  #                    3 2   da_i, da_f, da_g
            da_o *= dh  #                             5 2   da_o
            dot(da, U_T, dh)  #                         1   dh_{t-1} = da Uᵀ
            if drop is not None:
                dh *= drop
            dc *= f  #                                  3   dc_{t-1} = dc_t ⊙ f

    def gate_derivatives(self, gates: Array) -> Array:
        """σ'(a_i), σ'(a_f), tanh'(a_g), σ'(a_o), as one array beside `gates`."""
        if self.has_usual_activations():
            # σ' = y (1 - y) and tanh' = (1 + y) (1 - y) differ in one term.
            da = 1 - gates
            half, shift = sigmoid_as_tanh(gates, 1)
            da *= gates + (half - shift)  # + 1 for g, + 0 for the others
            return da
        da = xp.empty_like(gates)
        functions = [self.recurrent_activation] * 4
        functions[2] = self.activation
        for function, da_gate, gate in zip(functions, split(da, 4), split(gates, 4), strict=True):
            da_gate[...] = function.derivative(gate)
        return da


class GRUCell(GatedCell):
    """Gated recurrent unit with the reset gate after the product (as in cuDNN, Keras's default).

        u = h_{t-1} U + b_u                 a = x_t W + b
        z, r = σ(a_z + u_z), σ(a_r + u_r)   hh = tanh(a_h + r ⊙ u_h)
        h_t = z ⊙ h_{t-1} + (1 - z) ⊙ hh

    (Cho et al., 2014.) The blocks stand in Keras's order z, r, h (PyTorch's is r, z, n; see
    `minirnn.interop.gate_table()`); z keeps the past. The bias is (2, 3 * U): b, then b_u.
    `GRUCellResetBefore` is the original form.
    """

    gates = ("z", "r", "h")

    def initial_bias(self, width: int) -> Array:
        return self.bias_initializer((2, width))

    def project(self, x: Array) -> Array:
        a = x @ self.params["kernel"]
        if self.use_bias:
            a += self.params["bias"][0]
        return a

    def saved_sizes(self) -> tuple[int, ...]:
        """Kept for backward: the gates z, r, hh (in place of a), and u_h (N, U)."""
        return (self.units,)

    def steps(
        self,
        a: Array,
        history: State,
        kept: tuple[Array, ...],
        packing: Packing,
        drop: Array | None = None,
    ) -> None:
        U = self.params["recurrent_kernel"]
        b_u = self.params["bias"][1] if self.use_bias else None
        dot, multiply, subtract = xp.dot, xp.multiply, xp.subtract
        gate, activation = self.recurrent_activation.raw, self.activation.raw
        u, h_in = like_rows(a, packing, drop)
        ru = xp.empty_like(history[0][: packing.shape[0]])
        past = 2 * self.units
        walk = packing.walk(
            [a[:, :past], *split(a, 3), *kept],
            history,
            [u, u[:, :past], u[:, past:], h_in, ru, drop],
        )
        for a_zr, z, r, hh, u_h, h, h_t, u, u_zr, u_new, h_in, ru, drop in walk:
            dot(h if drop is None else multiply(h, drop, h_in), U, u)
            if b_u is not None:
                u += b_u  #                             1   u = h_{t-1} U + b_u
            a_zr += u_zr
            gate(a_zr, a_zr)  #                         2   z = σ(a_z + u_z), r alike
            u_h[...] = u_new
            multiply(r, u_h, ru)
            hh += ru
            activation(hh, hh)  #                       3   hh = tanh(a_h + r ⊙ u_h)
            subtract(h, hh, h_t)
            h_t *= z
            h_t += hh  #                                4   h_t = z ⊙ h_{t-1} + (1-z) ⊙ hh

    def local_derivatives(
        self, state_prev: State, state: State, saved: tuple[Array, ...], drop: Array | None
    ) -> tuple[Array, ...]:
        (h_prev,), (gates, u_h) = state_prev, saved
        z, r, hh = split(gates, 3)
        da = xp.empty_like(gates)
        da_z, da_r, da_h = split(da, 3)
        da_z[...] = (h_prev - hh) * self.recurrent_activation.derivative(z)  #             4 2
        da_h[...] = (1 - z) * self.activation.derivative(hh)  #                            4 3
        da_r[...] = da_h * u_h * self.recurrent_activation.derivative(r)  #              4 3 2
        du = da.copy()
        split(du, 3)[2][...] *= r  #                    3   u_h comes in through r
        return da, du, z

    def steps_backward(
        self,
        dstate: State,
        dstates: tuple[Array | None, ...],
        local: tuple[Array, ...],
        packing: Packing,
        drop: Array | None = None,
    ) -> None:
        U_T = xp.ascontiguousarray(self.params["recurrent_kernel"].T)
        dot, multiply = xp.dot, xp.multiply
        through = xp.empty_like(dstate[0])
        by_gate = [d.reshape(len(d), 3, self.units) for d in local[:2]]
        walk = packing.walk_back(
            [*by_gate, *local[1:], *dstates], [*dstate, dstate[0][:, None], through, drop]
        )
        for da_zrh, du_zrh, du, z, dh_t, dh, dh_thrice, through, drop in walk:
            if dh_t is not None:
                dh += dh_t
            da_zrh *= dh_thrice  #                  4 3 2   da, du = dh ⊙ local derivatives
            du_zrh *= dh_thrice
            multiply(dh, z, through)
            dot(du, U_T, dh)  #                         1   du Uᵀ
            if drop is not None:
                dh *= drop
            dh += through  #                            4   dh_t ⊙ z

    def weight_gradients(
        self, x: Array, h_prev: Array, da: Array, du: Array, saved: tuple[Array, ...]
    ) -> tuple[dict[str, Array], Array]:
        grads, dx = super().weight_gradients(x, h_prev, da, du, saved)
        if self.use_bias:
            grads["bias"] = xp.stack([sum_of_rows(da), sum_of_rows(du)])
        return grads, dx


class GRUCellResetBefore(GatedCell):
    """The original GRU (Cho et al., 2014): the reset gate is applied before the product.

        z, r = σ(a_z + h_{t-1} U_z), σ(a_r + h_{t-1} U_r)    with a = x_t W + b
        hh = tanh(a_h + (r ⊙ h_{t-1}) U_h)
        h_t = z ⊙ h_{t-1} + (1 - z) ⊙ hh

    Keras calls it `reset_after=False`. The bias is (3 * U).
    """

    gates = ("z", "r", "h")

    def steps(
        self,
        a: Array,
        history: State,
        kept: tuple[Array, ...],
        packing: Packing,
        drop: Array | None = None,
    ) -> None:
        U = self.params["recurrent_kernel"]
        past = 2 * self.units
        U_zr, U_h = (xp.ascontiguousarray(part) for part in (U[:, :past], U[:, past:]))
        dot, multiply, subtract = xp.dot, xp.multiply, xp.subtract
        gate, activation = self.recurrent_activation.raw, self.activation.raw
        u, h_in = like_rows(a[:, :past], packing, drop)
        (rh, _), (rhU, _) = (like_rows(a[:, past:], packing, None) for _ in range(2))
        walk = packing.walk([a[:, :past], *split(a, 3)], history, [u, h_in, rh, rhU, drop])
        for a_zr, z, r, hh, h, h_t, u, h_in, rh, rhU, drop in walk:
            h_d = h if drop is None else multiply(h, drop, h_in)
            dot(h_d, U_zr, u)
            a_zr += u  #                                1   a_zr += h_{t-1} U_zr
            gate(a_zr, a_zr)  #                         2   z, r = σ(a_zr)
            multiply(r, h_d, rh)
            dot(rh, U_h, rhU)
            hh += rhU  #                                3   a_h += (r ⊙ h_{t-1}) U_h
            activation(hh, hh)  #                       4   hh = tanh(a_h)
            subtract(h, hh, h_t)
            h_t *= z
            h_t += hh  #                                5   h_t = z ⊙ h_{t-1} + (1-z) ⊙ hh

    def local_derivatives(
        self, state_prev: State, state: State, saved: tuple[Array, ...], drop: Array | None
    ) -> tuple[Array, ...]:
        (h_prev,), (gates,) = state_prev, saved
        z, r, hh = split(gates, 3)
        da = xp.empty_like(gates)
        da_z, da_r, da_h = split(da, 3)
        da_z[...] = (h_prev - hh) * self.recurrent_activation.derivative(z)  #             5 2
        da_h[...] = (1 - z) * self.activation.derivative(hh)  #                            5 4
        da_r[...] = dropped(h_prev, drop) * self.recurrent_activation.derivative(r)  #     3 2
        return da, da, z, r

    def steps_backward(
        self,
        dstate: State,
        dstates: tuple[Array | None, ...],
        local: tuple[Array, ...],
        packing: Packing,
        drop: Array | None = None,
    ) -> None:
        da, _, z, r = local
        past = 2 * self.units
        U_T = self.params["recurrent_kernel"].T
        U_zr_T, U_h_T = (xp.ascontiguousarray(U) for U in (U_T[:past], U_T[past:]))
        dot, multiply = xp.dot, xp.multiply
        drh, through = xp.empty_like(dstate[0]), xp.empty_like(dstate[0])
        walk = packing.walk_back(
            [da[:, :past], *split(da, 3), z, r, *dstates], [*dstate, drh, through, drop]
        )
        for da_zr, da_z, da_r, da_h, z, r, dh_t, dh, drh, through, drop in walk:
            if dh_t is not None:
                dh += dh_t
            multiply(dh, z, through)
            da_z *= dh  #                             5 2
            da_h *= dh  #                             5 4
            dot(da_h, U_h_T, drh)  #                    3   gradient at r ⊙ h_{t-1}
            da_r *= drh  #                            3 2
            dot(da_zr, U_zr_T, dh)  #                   1
            drh *= r
            dh += drh  #                                3
            if drop is not None:
                dh *= drop
            dh += through  #                            5   dh_t ⊙ z

    def weight_gradients(
        self, x: Array, h_prev: Array, da: Array, du: Array, saved: tuple[Array, ...]
    ) -> tuple[dict[str, Array], Array]:
        grads, dx = super().weight_gradients(x, h_prev, da, du, saved)
        _, r, _ = split(saved[0], 3)
        dU_h = grads["recurrent_kernel"][:, 2 * self.units :]
        dU_h[...] = (r * h_prev).T @ du[:, 2 * self.units :]  # U_h met r ⊙ h_{t-1}
        return grads, dx


class Loops(NamedTuple):
    """What may stand in for the methods of the same names of a cell: loops made for one machine.

    They may compute derivatives as they go: then `local_derivatives` only makes room for da and du,
    and hands on what `steps_backward` needs. `steps` gives the states before each step, (N, U)
    each, which it has at hand.
    """

    steps: Callable[..., State]
    local_derivatives: Callable[..., tuple[Array, ...]]
    steps_backward: Callable[..., None]


# --- what cells share -----------------------------------------------------------------------------


def sum_of_rows(d: Array) -> Array:
    """Σ d over its rows, as a product with ones: BLAS is several times faster than `d.sum(0)`."""
    return xp.ones(len(d), d.dtype) @ d


def split(array: Array, blocks: int) -> list[Array]:
    """Views of the equal blocks of columns, one a gate."""
    size = array.shape[1] // blocks
    return [array[:, k * size : (k + 1) * size] for k in range(blocks)]


def like_rows(a: Array, packing: Packing, drop: Array | None) -> tuple[Array, Array | None]:
    """Room for `h U` (B, gates * U), and for h under dropout, if there is any."""
    u = xp.empty((packing.shape[0], a.shape[1]), a.dtype)
    return u, None if drop is None else xp.empty_like(drop, dtype=a.dtype)


def sigmoid_as_tanh(a: Array, rows: int) -> tuple[Array, Array]:
    """Factors and terms that make i, f and o sigmoids, and leave g a tanh: (rows, 4 * U) each."""
    return _sigmoid_as_tanh(rows, a.shape[1], a.dtype, get_backend())


@functools.lru_cache(maxsize=64)
def _sigmoid_as_tanh(rows: int, width: int, dtype: Any, backend: str) -> tuple[Array, Array]:
    half = xp.full((rows, width), 0.5, dtype=dtype)
    half[:, width // 2 : width // 4 * 3] = 1  # the candidate's block: a plain tanh
    return half, 1 - half


@functools.lru_cache(maxsize=64)
def one_step(rows: int, backend: str) -> Packing:
    """The plan of one step that all rows take."""
    return Packing(np.ones((rows, 1), dtype=bool))
