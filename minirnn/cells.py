"""The cells: every equation of a recurrent network, and under it the backward pass that undoes it.

Legend
    n   rows that run side by side (a batch)         x_t (n, F)   input of step t
    F   features of the input                        h   (n, U)   hidden state; c: LSTM's cell state
    U   units of the cell                            W, U, b      kernel, recurrent kernel, bias
    σ   sigmoid, ⊙ product by element                dh, da, ...  gradient of the loss at h, a, ...

A cell is its parameters and the equations of one step: arrays in, arrays out, nothing remembered.
One step has two halves, and so has its backward pass:

    project             a_t = x_t W + b            does not wait for the state, so the time loop
                                                   does it for all steps of all rows in one product
    step                state_t from a_t and       the recurrence: all that has to go step by step
                        state_{t-1}
    local_derivatives   every factor of the        does not wait for a gradient: done for all steps
                        chain rule in one step     at once, before the loop runs backwards
    step_backward       dstate_{t-1} from          one step of backpropagation through time
                        dstate_t
    weight_gradients    dW, dU, db and dx          sums over all steps: one product each, after the
                                                   loop

The numbers at the end of the lines say which line of the forward pass a backward line reverses.
`run` and `run_backward` in timeloop.py call these methods over whole sequences; `cell(x_t, state)`
and `cell.backward` run one step alone. All arrays may have further leading axes: both directions of
a Bidirectional layer run as one stack.

>>> import numpy as np
>>> cell = LSTMCell(2)
>>> cell.build(3)
>>> h, c = cell(np.ones((1, 3), "float32"), cell.initial_state(1))
>>> h.shape, c.shape
((1, 2), (1, 2))
"""

from __future__ import annotations

import copy
import functools
import inspect
from typing import Any

from minirnn import activations, initializers
from minirnn.backend import Array, floatx, get_backend, to_device, xp
from minirnn.checks import numbers, whole_number

State = tuple[Array, ...]


def transpose(matrix: Array) -> Array:
    """The matrix with its last two axes exchanged: the transpose of each one in a stack."""
    return matrix.swapaxes(-1, -2)


def dropped(h: Array, drop: Array | None) -> Array:
    """`h` under recurrent dropout; `drop` holds 0 and 1 / keep, the same at every step."""
    return h if drop is None else h * drop


class Cell:
    """Base of all cells: the parameters, and what is the same for each.

    A cell of one's own sets `state_names` and `gates`, and implements `step`, `local_derivatives`
    and `step_backward`; `RNN` runs it.

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
        self.use_bias = use_bias
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
        self.params = {key: to_device(value) for key, value in drawn.items()}

    def initial_bias(self, width: int) -> Array:
        return self.bias_initializer((width,))

    def initial_state(self, rows: int, dtype: Any = None) -> State:
        """Zeros (rows, U) for each state."""
        return tuple(xp.zeros((rows, self.units), dtype or floatx()) for _ in self.state_names)

    def cast(self, dtype: Any) -> None:
        """Turn the weights into `dtype`."""
        self.params = {key: value.astype(dtype) for key, value in self.params.items()}

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, from which an equal cell can be made."""
        arguments = inspect.signature(type(self)).parameters.values()
        named = [a.name for a in arguments if a.kind not in (a.VAR_KEYWORD, a.VAR_POSITIONAL)]
        return {name: getattr(self, name) for name in named}

    def stack(self, other: Cell) -> Cell:
        """This cell and another of its kind as one, whose arrays have a leading axis of two."""
        both = copy.copy(self)
        both.params = {
            key: xp.stack([value, other.params[key]]) for key, value in self.params.items()
        }
        return both

    # -- the equations that all cells share --

    def project(self, x: Array) -> Array:
        """a = x W + b: (..., N, F) → (..., N, gates * U)."""
        a = x @ self.params["kernel"]
        if self.use_bias:
            a += self.params["bias"][..., None, :]
        return a

    def weight_gradients(
        self, x: Array, h_prev: Array, da: Array, du: Array, saved: tuple[Array, ...]
    ) -> tuple[dict[str, Array], Array]:
        """The gradients of the weights, summed over N steps, and dx (..., N, F).

        x (..., N, F), h_prev (..., N, U): what W and U multiplied, the latter after dropout.
        da, du (..., N, gates * U): gradients at `x W + b` and at `h_prev U`.
        saved: a_t as `step` left it, then the arrays of `saved_sizes`, for all N steps.

        A cell with more weights than these extends it.
        """
        grads = {"kernel": transpose(x) @ da, "recurrent_kernel": transpose(h_prev) @ du}
        if self.use_bias:
            grads["bias"] = da.sum(axis=-2)
        return grads, da @ transpose(self.params["kernel"])

    # -- the equations of each cell --

    def saved_sizes(self) -> tuple[int, ...]:
        """How many columns each array has that `step` keeps for backward, besides a_t itself."""
        return ()

    def step(
        self, a_t: Array, state: State, out: tuple[Array, ...], drop: Array | None = None
    ) -> None:
        """One step: writes the new state, and what `saved_sizes` tells, into `out`.

        a_t (..., n, gates * U): projected input. It is used up: it becomes the gates.
        state: tuple of (..., n, U). drop (..., n, U) or None.
        """
        raise NotImplementedError(f"{type(self).__name__} has no step")

    def local_derivatives(
        self, state_prev: State, state: State, saved: tuple[Array, ...], drop: Array | None
    ) -> tuple[Array, ...]:
        """`(da, du, ...)`: what `step_backward` multiplies with, for any number of steps at once.

        saved: a_t as `step` left it, then the arrays of `saved_sizes`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no backward pass")

    def step_backward(
        self, dstate: State, local: tuple[Array, ...], drop: Array | None = None
    ) -> State:
        """Gradient of the state before this step, from that of the state after it.

        local: this step's part of `local_derivatives`. Its first two arrays are used up: they
        become da_t and du_t, the gradients at `x_t W + b` and at `h_{t-1} U`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no backward pass")

    # -- one step alone --

    def __call__(self, x_t: Array, state: State) -> State:
        """One step: x_t (n, F) and the state before it → the state after it."""
        return self.forward(x_t, state)[0]

    def forward(self, x_t: Array, state: State) -> tuple[State, Any]:
        """One step with the cache that `backward` needs."""
        x_t, state_prev = self._checked(x_t, state)
        a_t = self.project(x_t)
        sizes = (self.units,) * len(self.state_names) + self.saved_sizes()
        out = tuple(xp.empty((*a_t.shape[:-1], size), a_t.dtype) for size in sizes)
        self.step(a_t, state_prev, out)
        state = out[: len(self.state_names)]
        saved = (a_t, *out[len(self.state_names) :])
        return state, (x_t, state_prev, state, saved)

    def backward(self, dstate: State, cache: Any) -> tuple[Array, State, dict[str, Array]]:
        """`(dx_t, dstate_{t-1}, grads)` of one step alone, from dstate_t, a tuple of (n, U)."""
        x_t, state_prev, state, saved = cache
        local = self.local_derivatives(state_prev, state, saved, None)
        dstate_prev = self.step_backward(tuple(dstate), local)
        grads, dx_t = self.weight_gradients(x_t, state_prev[0], local[0], local[1], saved)
        return dx_t, dstate_prev, grads

    def _checked(self, x_t: Array, state: State) -> tuple[Array, State]:
        name = type(self).__name__
        if not self.params:
            raise ValueError(f"{name}: it has no weights yet; call build(features) first")
        kernel = self.params["kernel"]
        x_t = numbers(name, x_t, kernel.dtype)
        state = tuple(numbers(name, s, kernel.dtype) for s in state)
        if x_t.ndim != 2 or x_t.shape[-1] != kernel.shape[-2]:
            raise ValueError(
                f"{name}: expected x_t of shape (n, {kernel.shape[-2]}), got {x_t.shape}"
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

    def step(
        self, a_t: Array, state: State, out: tuple[Array, ...], drop: Array | None = None
    ) -> None:
        (h_prev,), (h,) = state, out
        U = self.params["recurrent_kernel"]
        a_t += dropped(h_prev, drop) @ U  #                     1   a = x_t W + b + h_{t-1} U
        self.activation(a_t, out=h)  #                          2   h_t = tanh(a)

    def local_derivatives(
        self, state_prev: State, state: State, saved: tuple[Array, ...], drop: Array | None
    ) -> tuple[Array, ...]:
        (h,) = state
        dh_da = self.activation.derivative(h)  #                2
        return dh_da, dh_da

    def step_backward(
        self, dstate: State, local: tuple[Array, ...], drop: Array | None = None
    ) -> State:
        (dh,), (da, _) = dstate, local
        U = self.params["recurrent_kernel"]
        da *= dh  #                                             2   da = dh ⊙ tanh'(a)
        return (dropped(da @ transpose(U), drop),)  #           1   dh_{t-1} = da Uᵀ


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


class LSTMCell(GatedCell):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997; forget gate: Gers et al., 2000).

        i, f, o = σ(a_i), σ(a_f), σ(a_o)    g = tanh(a_g)    with a = x_t W + b + h_{t-1} U
        c_t = f ⊙ c_{t-1} + i ⊙ g
        h_t = o ⊙ tanh(c_t)

    The blocks of the weights stand in Keras's order i, f, c, o (the candidate g under the name c).

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
        self.unit_forget_bias = unit_forget_bias

    def initial_bias(self, width: int) -> Array:
        bias = super().initial_bias(width)
        if self.unit_forget_bias:
            bias[self.units : 2 * self.units] = 1
        return bias

    def saved_sizes(self) -> tuple[int, ...]:
        """Kept for backward: the gates i, f, g, o (in place of a_t), and tanh(c_t) (n, U)."""
        return (self.units,)

    def step(
        self, a_t: Array, state: State, out: tuple[Array, ...], drop: Array | None = None
    ) -> None:
        (h_prev, c_prev), (h, c, tanh_c) = state, out
        U = self.params["recurrent_kernel"]
        a_t += dropped(h_prev, drop) @ U  #                     1   a = x_t W + b + h_{t-1} U
        activate_gates(self, a_t)  #                            2   i, f, o = σ(a), g = tanh(a)
        i, f, g, o = split(a_t, 4)
        xp.multiply(f, c_prev, out=c)  #                        3   c_t = f ⊙ c_{t-1} + i ⊙ g
        c += i * g
        self.activation(c, out=tanh_c)  #                       4
        xp.multiply(o, tanh_c, out=h)  #                        5   h_t = o ⊙ tanh(c_t)

    def local_derivatives(
        self, state_prev: State, state: State, saved: tuple[Array, ...], drop: Array | None
    ) -> tuple[Array, ...]:
        (_, c_prev), (gates, tanh_c) = state_prev, saved
        i, f, g, o = split(gates, 4)
        da = gate_derivatives(self, gates)  #                   2   σ'(a_i), σ'(a_f), tanh'(a_g) …
        for da_gate, factor in zip(split(da, 4), (g, c_prev, i, tanh_c), strict=True):
            da_gate *= factor  #                              3 5   ⊙ dc/di, dc/df, dc/dg, dh/do
        dc_dh = o * self.activation.derivative(tanh_c)  #     5 4   o ⊙ tanh'(c_t)
        return da, da, dc_dh, f

    def step_backward(
        self, dstate: State, local: tuple[Array, ...], drop: Array | None = None
    ) -> State:
        (dh, dc), (da, _, dc_dh, f) = dstate, local
        U = self.params["recurrent_kernel"]
        dc = dc + dh * dc_dh  #                               5 4   dc_t += dh ⊙ o ⊙ tanh'(c_t)
        blocks = da.reshape(*da.shape[:-1], 4, self.units)
        blocks[..., :3, :] *= dc[..., None, :]  #             3 2   da_i, da_f, da_g
        blocks[..., 3, :] *= dh  #                            5 2   da_o
        dh_prev = dropped(da @ transpose(U), drop)  #           1   dh_{t-1} = da Uᵀ
        return dh_prev, dc * f  #                               3   dc_{t-1} = dc_t ⊙ f


class GRUCell(GatedCell):
    """Gated recurrent unit with the reset gate after the product (as in cuDNN, Keras's default).

        u = h_{t-1} U + b_u                 a = x_t W + b
        z, r = σ(a_z + u_z), σ(a_r + u_r)   hh = tanh(a_h + r ⊙ u_h)
        h_t = z ⊙ h_{t-1} + (1 - z) ⊙ hh

    (Cho et al., 2014.) The blocks stand in Keras's order z, r, h; z keeps the past. The bias is
    (2, 3 * U): b, then b_u. `GRUCellResetBefore` is the original form.
    """

    gates = ("z", "r", "h")

    def initial_bias(self, width: int) -> Array:
        return self.bias_initializer((2, width))

    def project(self, x: Array) -> Array:
        a = x @ self.params["kernel"]
        if self.use_bias:
            a += self.params["bias"][..., :1, :]
        return a

    def saved_sizes(self) -> tuple[int, ...]:
        """Kept for backward: the gates z, r, hh (in place of a_t), and u_h (n, U)."""
        return (self.units,)

    def step(
        self, a_t: Array, state: State, out: tuple[Array, ...], drop: Array | None = None
    ) -> None:
        (h_prev,), (h, u_h) = state, out
        U = self.params["recurrent_kernel"]
        u = dropped(h_prev, drop) @ U  #                        1   u = h_{t-1} U + b_u
        if self.use_bias:
            u += self.params["bias"][..., 1:, :]
        zr, hh = a_t[..., : 2 * self.units], a_t[..., 2 * self.units :]
        zr += u[..., : 2 * self.units]
        self.recurrent_activation(zr, out=zr)  #                2   z = σ(a_z + u_z), r alike
        z, r = split(zr, 2)
        u_h[...] = u[..., 2 * self.units :]
        hh += r * u_h
        self.activation(hh, out=hh)  #                          3   hh = tanh(a_h + r ⊙ u_h)
        xp.subtract(h_prev, hh, out=h)
        h *= z
        h += hh  #                                              4   h_t = z ⊙ h_{t-1} + (1-z) ⊙ hh

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
        split(du, 3)[2][...] *= r  #                            3   u_h comes in through r
        return da, du, z

    def step_backward(
        self, dstate: State, local: tuple[Array, ...], drop: Array | None = None
    ) -> State:
        (dh,), (da, du, z) = dstate, local
        U = self.params["recurrent_kernel"]
        for d in (da, du):
            blocks = d.reshape(*d.shape[:-1], 3, self.units)
            blocks *= dh[..., None, :]  #                   4 3 2   da, du = dh ⊙ local derivatives
        dh_prev = dropped(du @ transpose(U), drop)  #           1   du Uᵀ
        dh_prev += dh * z  #                                    4   dh_t ⊙ z
        return (dh_prev,)

    def weight_gradients(
        self, x: Array, h_prev: Array, da: Array, du: Array, saved: tuple[Array, ...]
    ) -> tuple[dict[str, Array], Array]:
        grads, dx = super().weight_gradients(x, h_prev, da, du, saved)
        if self.use_bias:
            grads["bias"] = xp.stack([da.sum(axis=-2), du.sum(axis=-2)], axis=-2)
        return grads, dx


class GRUCellResetBefore(GatedCell):
    """The original GRU (Cho et al., 2014): the reset gate is applied before the product.

        z, r = σ(a_z + h_{t-1} U_z), σ(a_r + h_{t-1} U_r)    with a = x_t W + b
        hh = tanh(a_h + (r ⊙ h_{t-1}) U_h)
        h_t = z ⊙ h_{t-1} + (1 - z) ⊙ hh

    Keras calls it `reset_after=False`. The bias is (3 * U).
    """

    gates = ("z", "r", "h")

    def step(
        self, a_t: Array, state: State, out: tuple[Array, ...], drop: Array | None = None
    ) -> None:
        (h_prev,), (h,) = state, out
        U = self.params["recurrent_kernel"]
        U_zr, U_h = U[..., : 2 * self.units], U[..., 2 * self.units :]
        zr, hh = a_t[..., : 2 * self.units], a_t[..., 2 * self.units :]
        h_in = dropped(h_prev, drop)
        zr += h_in @ U_zr  #                                    1   a_zr += h_{t-1} U_zr
        self.recurrent_activation(zr, out=zr)  #                2   z, r = σ(a_zr)
        z, r = split(zr, 2)
        hh += (r * h_in) @ U_h  #                               3   a_h += (r ⊙ h_{t-1}) U_h
        self.activation(hh, out=hh)  #                          4   hh = tanh(a_h)
        xp.subtract(h_prev, hh, out=h)
        h *= z
        h += hh  #                                              5   h_t = z ⊙ h_{t-1} + (1-z) ⊙ hh

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

    def step_backward(
        self, dstate: State, local: tuple[Array, ...], drop: Array | None = None
    ) -> State:
        (dh,), (da, _, z, r) = dstate, local
        U = self.params["recurrent_kernel"]
        U_zr, U_h = U[..., : 2 * self.units], U[..., 2 * self.units :]
        da_z, da_r, da_h = split(da, 3)
        da_z *= dh  #                                         5 2
        da_h *= dh  #                                         5 4
        drh = da_h @ transpose(U_h)  #                          3   gradient at r ⊙ h_{t-1}
        da_r *= drh  #                                        3 2
        dh_in = da[..., : 2 * self.units] @ transpose(U_zr)  #  1
        dh_in += drh * r  #                                     3
        return (dropped(dh_in, drop) + dh * z,)  #              5

    def weight_gradients(
        self, x: Array, h_prev: Array, da: Array, du: Array, saved: tuple[Array, ...]
    ) -> tuple[dict[str, Array], Array]:
        grads, dx = super().weight_gradients(x, h_prev, da, du, saved)
        _, r, _ = split(saved[0], 3)
        dU_h = grads["recurrent_kernel"][..., 2 * self.units :]
        dU_h[...] = transpose(r * h_prev) @ du[..., 2 * self.units :]  # U_h met r ⊙ h_{t-1}
        return grads, dx


# --- what gated cells share -----------------------------------------------------------------------


def split(array: Array, blocks: int) -> list[Array]:
    """Views of the equal blocks of the last axis, one a gate."""
    size = array.shape[-1] // blocks
    return [array[..., k * size : (k + 1) * size] for k in range(blocks)]


def activate_gates(cell: LSTMCell, a: Array) -> None:
    """i, f, o = σ(a_i), σ(a_f), σ(a_o) and g = tanh(a_g), in place."""
    if cell.recurrent_activation is activations.sigmoid and cell.activation is activations.tanh:
        # σ(a) = tanh(a / 2) / 2 + 1/2, so that one tanh serves all four gates.
        scale, shift = _sigmoid_as_tanh(a.shape[-1], a.dtype, get_backend())
        a *= scale
        xp.tanh(a, out=a)
        a *= scale
        a += shift
        return
    i_f, g, o = a[..., : 2 * cell.units], *split(a, 4)[2:]
    cell.recurrent_activation(i_f, out=i_f)
    cell.activation(g, out=g)
    cell.recurrent_activation(o, out=o)


def gate_derivatives(cell: LSTMCell, gates: Array) -> Array:
    """σ'(a_i), σ'(a_f), tanh'(a_g), σ'(a_o), as one array beside `gates`."""
    da = xp.empty_like(gates)
    functions = [cell.recurrent_activation] * 4
    functions[2] = cell.activation
    for function, da_gate, gate in zip(functions, split(da, 4), split(gates, 4), strict=True):
        da_gate[...] = function.derivative(gate)
    return da


@functools.lru_cache(maxsize=64)
def _sigmoid_as_tanh(width: int, dtype: Any, backend: str) -> tuple[Array, Array]:
    scale = xp.full(width, 0.5, dtype=dtype)
    scale[width // 2 : width // 4 * 3] = 1  # the candidate's block: a plain tanh
    return scale, 1 - scale
