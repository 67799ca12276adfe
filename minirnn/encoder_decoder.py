"""The two halves of a model from one sequence to another; see seq2seq.py.

An encoder is layers of which some give the state that they end in; a decoder is layers of which the
recurrent ones begin in a state that is given. So the backward pass of a decoder ends with gradients
of states, and that of an encoder begins with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minirnn import generation
from minirnn.backend import Array
from minirnn.base import Layer, Shape
from minirnn.cells import State
from minirnn.layers import RNN, Embedding, OneHot
from minirnn.models import Sequential, name_apart
from minirnn.packing import Mask


class Stack(Layer):
    """Layers one after another: what encoder and decoder have in common."""

    def __init__(self, layers: Sequence[Layer], *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.layers: list[Layer] = []
        for layer in layers:
            if not isinstance(layer, Layer) or isinstance(layer, Sequential):
                raise TypeError(f"{self.name}: expected a list of layers, received {layer!r} in it")
            name_apart(layer, self.layers)
            self.layers.append(layer)

    def children(self) -> dict[str, Layer]:
        return {layer.name: layer for layer in self.layers}

    def known_input_shape(self) -> Shape | None:
        """The shape of the input as far as the layers tell it without data."""
        return (None, None) if isinstance(self.layers[0], (Embedding, OneHot)) else None

    def build(self, input_shape: Shape) -> None:
        for layer in self.layers:
            if not layer.built:
                layer.build(input_shape)
            input_shape = layer.compute_output_shape(input_shape)
        self.built = True

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        for layer in self.layers:
            input_shape = layer.compute_output_shape(input_shape)
        return input_shape


class Encoder(Stack):
    """From a source to the states of the layers with `return_state`, after their last real step."""

    def __init__(self, layers: Sequence[Layer], *, name: str | None = None) -> None:
        super().__init__(layers, name=name)
        for layer in self.layers:
            if gives_state(layer) and not isinstance(layer, RNN):
                raise ValueError(
                    f"{layer.name}: the states of a {type(layer).__name__} fit no decoder; use it "
                    "without return_state, and an LSTM, GRU or SimpleRNN with it behind"
                )
        if not self.layers or not gives_state(self.layers[-1]):
            raise ValueError(
                "encoder: expected a recurrent layer with return_state=True at its end, the "
                f"state of which goes to the decoder; received {self.layers}"
            )

    def forward(
        self, x: Any, mask: Mask | None = None, training: bool = False
    ) -> tuple[list[State], list[Any]]:
        """`(states, cache)`: one state, a tuple of (rows, units), for each that is given."""
        states, caches = [], []
        for layer in self.layers:
            mask = layer.checked_mask(x, mask)
            y, cache = layer.forward(x, mask=mask, training=training)
            mask = layer.compute_mask(x, mask)
            if gives_state(layer):
                y, *state = y
                states.append(tuple(state))
            x = y
            caches.append(cache)
        return states, caches

    def backward(
        self, dstates: Sequence[State], cache: list[Any]
    ) -> tuple[Array | None, dict[str, Any]]:
        """`(dx, grads)` from the gradients of the states."""
        dy, dstates, grads = None, list(dstates), {}  # nobody reads the last layer's output
        for layer, layer_cache in zip(reversed(self.layers), reversed(cache), strict=True):
            if gives_state(layer):
                dy = (dy, *dstates.pop())
            dy, layer_grads = layer.backward(dy, layer_cache)
            grads |= {f"{layer.name}_{key}": value for key, value in layer_grads.items()}
        return dy, grads


class Decoder(Stack):
    """From ids, and the states to start in, to the chance of each id at each step."""

    def __init__(self, layers: Sequence[Layer], *, name: str | None = None) -> None:
        super().__init__(layers, name=name)
        self.limit = generation.readable(generation.stack_of(self.layers))
        for layer in self.recurrent:
            if layer.return_state or layer.stateful:
                raise ValueError(
                    f"{layer.name}: a decoder hands its states on by itself; make this layer "
                    "without return_state and stateful"
                )
        if not self.layers[0].mask_zero:
            raise ValueError(
                f"{self.layers[0].name}: targets differ in length, and 0 is their padding; make "
                "this layer with mask_zero=True"
            )

    @property
    def recurrent(self) -> list[RNN]:
        return [layer for layer in self.layers if isinstance(layer, RNN)]

    def compute_mask(self, x: Any, mask: Mask | None = None) -> Mask | None:
        return self.layers[0].compute_mask(x)

    def forward(
        self,
        x: Any,
        mask: Mask | None = None,
        training: bool = False,
        states: Sequence[State] = (),
    ) -> tuple[Array, list[Any]]:
        """y (rows, time, classes). states: one for each recurrent layer, to start in."""
        states, caches = list(states), []
        for layer in self.layers:
            mask = layer.checked_mask(x, mask)
            start = {"initial_state": states.pop(0)} if isinstance(layer, RNN) else {}
            y, cache = layer.forward(x, mask=mask, training=training, **start)
            mask = layer.compute_mask(x, mask)
            x = y
            caches.append(cache)
        return x, caches

    def backward(
        self, dy: Array, cache: list[Any]
    ) -> tuple[tuple[None, list[State]], dict[str, Any]]:
        """`((dx, dstates), grads)`: dx is None, for ids have no gradient; dstates are the gradients
        of the states that it started in."""
        dstates, grads = [], {}
        for layer, layer_cache in zip(reversed(self.layers), reversed(cache), strict=True):
            dy, layer_grads = layer.backward(dy, layer_cache)
            if isinstance(layer, RNN):
                dy, dstate = dy
                dstates.insert(0, dstate)
            grads |= {f"{layer.name}_{key}": value for key, value in layer_grads.items()}
        return (dy, dstates), grads


def gives_state(layer: Layer) -> bool:
    return getattr(layer, "return_state", False)


def check_states(encoder: Encoder, decoder: Decoder) -> None:
    """Raises ValueError unless the states of the one fit the other."""
    givers = [layer for layer in encoder.layers if gives_state(layer)]
    takers = decoder.recurrent
    if len(givers) != len(takers):
        raise ValueError(
            f"encoder, decoder: expected as many layers with return_state=True in the encoder as "
            f"recurrent layers in the decoder; received {givers} and {takers}"
        )
    for giver, taker in zip(givers, takers, strict=True):
        one, other = giver.cell, taker.cell
        if one.state_names != other.state_names or one.units != other.units:
            raise ValueError(
                f"encoder, decoder: {giver.name} of the encoder gives {state_of(giver)}, and "
                f"{taker.name} of the decoder starts in {state_of(taker)}; they must be equal"
            )


def state_of(layer: RNN) -> str:
    return f"({', '.join(layer.cell.state_names)}) of {layer.units} units"
