"""What is being checked: a cell, a layer or a loss as one function of named arrays."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minirnn import losses
from minirnn.backend import Array, generator, to_device, to_host
from minirnn.base import Layer, RowGradient
from minirnn.cells import Cell
from minirnn.checks import host_array
from minirnn.gradcheck.anatomy import (
    first_layer,
    gates_of,
    names_of_outputs,
    state_names,
    takes_floats,
    walk,
)
from minirnn.gradcheck.examples import (
    example_input,
    example_predictions,
    example_sizes,
    example_targets,
)
from minirnn.layers import Masking
from minirnn.losses import Loss
from minirnn.packing import Mask
from minirnn.teacher_forcing import Pairs


class Subject:
    """A function of named tensors, and the hand-written gradient of it.

    Attributes:
        thing: a copy of what is checked, with weights in float64.
        inputs: name → array: `x` (if it is not token ids or text) and the initial states.
        gates: tensor name → the names of the blocks of its columns.
        fixed: tensor name → booleans: elements that cannot be moved; their gradient is to be 0.
        mask: the mask given, or None.
        output_names: one name an output.
    """

    def __init__(self, thing: Any) -> None:
        self.thing = thing
        self.inputs: dict[str, Array] = {}
        self.gates: dict[str, tuple[str, ...]] = {}
        self.fixed: dict[str, np.ndarray] = {}
        self.mask: Mask | None = None
        self.output_names: list[str] = []

    @property
    def params(self) -> dict[str, Array]:
        return getattr(self.thing, "params", {})

    @property
    def tensors(self) -> dict[str, Array]:
        """Every array by which the function is differentiated: changing one in place counts."""
        return self.inputs | self.params

    def astype(self, dtype: str) -> Subject:
        """A copy that computes in `dtype`."""
        twin = copy.deepcopy(self)
        if isinstance(twin.thing, (Layer, Cell)):
            twin.thing.cast(dtype)
        twin.inputs = {name: array.astype(dtype) for name, array in twin.inputs.items()}
        return twin

    def forward(self) -> tuple[tuple[Array, ...], Any]:
        """`(outputs, cache)`; the same numbers at each call, dropout included."""
        raise NotImplementedError

    def backward(self, upstream: tuple[Array, ...], cache: Any) -> dict[str, Any]:
        """The gradient of each tensor, from that of each output."""
        raise NotImplementedError

    def outputs(self) -> np.ndarray:
        """All outputs in one vector, on the host."""
        return np.concatenate([to_host(y).reshape(-1) for y in self.forward()[0]])

    def layers(self) -> list[Layer]:
        """The layer that is checked and all layers inside it."""
        return list(walk(self.thing)) if isinstance(self.thing, Layer) else []


class CellSubject(Subject):
    """One step of a cell: x (n, features) and a state → the state after it."""

    def __init__(self, cell: Cell, x: Array, states: tuple[Array, ...]) -> None:
        super().__init__(cell)
        self.inputs["x"] = x
        self.state_names = [f"initial {name}" for name in cell.state_names]
        self.inputs |= dict(zip(self.state_names, states, strict=True))
        self.gates = dict.fromkeys(cell.params, cell.gates)
        self.output_names = list(cell.state_names)

    def forward(self) -> tuple[tuple[Array, ...], Any]:
        state = tuple(self.inputs[name] for name in self.state_names)
        return self.thing.forward(self.inputs["x"], state)

    def backward(self, upstream: tuple[Array, ...], cache: Any) -> dict[str, Any]:
        dx, dstate, grads = self.thing.backward(upstream, cache)
        return {"x": dx, **dict(zip(self.state_names, dstate, strict=True)), **grads}


class LayerSubject(Subject):
    """A layer or a model; with a loss behind it, the one output is the loss.

    x: floats, or token ids or text, which have no gradient.
    states: initial states, or () if the layer takes none.
    """

    def __init__(
        self,
        layer: Layer,
        x: Array,
        states: tuple[Array, ...] = (),
        mask: Mask | None = None,
        training: bool = False,
        loss: Loss | None = None,
        y_true: Any = None,
        sample_weight: Any = None,
    ) -> None:
        super().__init__(layer)
        self.mask, self.training = mask, training
        self.loss, self.y_true, self.sample_weight = loss, y_true, sample_weight
        self.x = None
        if takes_floats(layer, x):
            self.inputs["x"] = x
        else:
            self.x = x
        self.state_names = [f"initial {name}" for name in state_names(layer)] if states else []
        self.inputs |= dict(zip(self.state_names, states, strict=True))
        self.gates = gates_of(layer)
        first = first_layer(layer)
        if isinstance(first, Masking) and self.x is None:
            real = first.compute_mask(x, None).array
            self.fixed["x"] = np.broadcast_to(~real[..., None], x.shape)
        y = self._call()[0]
        self.several = isinstance(y, tuple)
        if loss is None:
            self.output_names = names_of_outputs(layer, len(y) if self.several else 1)
            return
        if self.several:
            raise ValueError("loss: expected a layer with one output; this one gives several")
        self.output_names = ["loss"]
        self.loss_mask = layer.compute_mask(x, mask) if y.ndim > 2 else None

    def _call(self) -> tuple[Any, Any]:
        x = self.inputs["x"] if self.x is None else self.x
        options = {}
        if self.state_names:
            options["initial_state"] = tuple(self.inputs[name] for name in self.state_names)
        for layer in self.layers():
            if getattr(layer, "stateful", False):
                layer.reset_state()
        if not self.training:
            return self.thing.forward(x, mask=self.mask, training=False, **options)
        with same_random_numbers(self.layers()):
            return self.thing.forward(x, mask=self.mask, training=True, **options)

    def forward(self) -> tuple[tuple[Array, ...], Any]:
        y, cache = self._call()
        if self.loss is None:
            return (y if self.several else (y,)), cache
        value, dy = self.loss.forward(self.y_true, y, self.sample_weight, mask=self.loss_mask)
        return (value,), (cache, dy)

    def backward(self, upstream: tuple[Array, ...], cache: Any) -> dict[str, Any]:
        if self.loss is None:
            dy = upstream if self.several else upstream[0]
        else:
            cache, dy = cache
            dy = dy * upstream[0]
        dx, grads = self.thing.backward(dy, cache)
        found = {}
        if self.state_names:
            dx, dstates = dx
            found |= dict(zip(self.state_names, dstates, strict=True))
        if self.x is None:
            found["x"] = dx
        for key, grad in grads.items():
            is_sparse = isinstance(grad, RowGradient) and key in self.params
            found[key] = grad.dense(self.params[key].shape) if is_sparse else grad
        return found


class LossSubject(Subject):
    """A loss as a function of the predictions."""

    def __init__(
        self, loss: Loss, y_pred: Array, y_true: Any, mask: Mask | None, sample_weight: Any
    ) -> None:
        super().__init__(loss)
        self.inputs["y_pred"] = y_pred
        self.y_true, self.mask, self.sample_weight = y_true, mask, sample_weight
        self.output_names = ["loss"]

    def forward(self) -> tuple[tuple[Array, ...], Any]:
        y_pred = self.inputs["y_pred"]
        value, dy = self.thing.forward(self.y_true, y_pred, self.sample_weight, mask=self.mask)
        return (value,), dy

    def backward(self, upstream: tuple[Array, ...], cache: Any) -> dict[str, Any]:
        return {"y_pred": cache * upstream[0]}


# --- making a subject -----------------------------------------------------------------------------


def make_subject(
    thing: Any,
    x: Any,
    random: np.random.Generator,
    *,
    mask: Any = None,
    initial_state: Any = None,
    y_true: Any = None,
    loss: Any = None,
    sample_weight: Any = None,
    training: bool = False,
    redraw: bool = True,
) -> Subject:
    """The subject for a cell, layer, model or loss; what was not given is drawn from `random`."""
    mask = Mask.of(mask)
    if isinstance(thing, Loss):
        if initial_state is not None or loss is not None:
            raise ValueError(f"{thing.name}: a loss takes neither `loss` nor `initial_state`")
        y_pred = example_predictions(thing, random, mask) if x is None else floats(x)
        y_true = example_targets(thing, y_pred.shape, random) if y_true is None else y_true
        return LossSubject(thing, y_pred, y_true, mask, sample_weight)
    if not isinstance(thing, (Cell, Layer)):
        raise TypeError(
            "gradcheck: expected a cell, a layer, a model or a loss (an instance, such as "
            f"LSTM(3)), received {thing!r}"
        )
    if loss is None and (y_true is not None or sample_weight is not None):
        raise ValueError("gradcheck: y_true and sample_weight belong to a loss; give loss=, too")
    thing = copy.deepcopy(thing)
    if isinstance(thing, Cell):
        if mask is not None or loss is not None or training:
            raise ValueError(
                f"{type(thing).__name__}: mask, loss and training are for layers; wrap the cell: "
                "gradcheck(RNN(cell), ...)"
            )
        return _cell_subject(thing, x, random, initial_state, redraw)
    if mask is not None and not thing.supports_masking:
        raise ValueError(f"{thing.name}: mask: this layer cannot use one")
    if x is None:
        x = example_input(thing, random, mask)
    elif not isinstance(x, Pairs):
        x = np.asarray(to_host(x))
    x = floats(x) if takes_floats(thing, x) else x
    thing.ensure_built(x)
    thing.cast("float64")
    redraw_weights(thing.params, random, redraw)
    states = _states(thing, state_names(thing), initial_state, len(x), random)
    if loss is not None:
        loss = losses.get(loss)
        if y_true is None:
            y = thing(x, mask=mask)
            y_true = example_targets(loss, np.shape(y), random)
    return LayerSubject(thing, x, states, mask, training, loss, y_true, sample_weight)


def _cell_subject(
    cell: Cell, x: Any, random: np.random.Generator, initial_state: Any, redraw: bool
) -> Subject:
    if x is None:
        features = cell.params["kernel"].shape[-2] if cell.params else None
        sizes = example_sizes(cell.units, features)
        x = random.normal(size=(sizes["batch"], sizes["features"]))
    x = floats(x)
    if not cell.params:
        cell.build(x.shape[-1])
    cell.cast("float64")
    redraw_weights(cell.params, random, redraw)
    return CellSubject(cell, x, _states(cell, cell.state_names, initial_state, len(x), random))


def _states(
    owner: Any, names: tuple[str, ...], given: Any, rows: int, random: np.random.Generator
) -> tuple[Array, ...]:
    """The initial states given, or random ones; one array for each of `names`."""
    if given is None:
        units = getattr(owner, "units", None) or getattr(getattr(owner, "layer", None), "units", 0)
        return tuple(to_device(random.normal(size=(rows, units))) for _ in names)
    if not names:
        raise ValueError(f"{owner.name}: initial_state: this layer has no state")
    given = (given,) if hasattr(given, "shape") else tuple(given)
    if len(given) != len(names):
        raise ValueError(
            f"initial_state: expected {len(names)} arrays ({', '.join(names)}), received "
            f"{len(given)}"
        )
    return tuple(floats(state) for state in given)


def floats(array: Any) -> Array:
    values = host_array("x", array)
    if values.dtype.kind not in "biuf":
        raise TypeError(f"x: expected numbers, received {values.dtype} values")
    return to_device(np.array(values), dtype="float64")


def redraw_weights(params: dict[str, Array], random: np.random.Generator, redraw: bool) -> None:
    """Put random values into all weights: a zero bias hides as many errors as it can."""
    for value in params.values() if redraw else ():
        width = value.shape[0] if value.ndim == 2 else 4
        value[...] = to_device(random.normal(size=value.shape) / max(width, 2) ** 0.5)


@contextmanager
def same_random_numbers(layers: list[Layer]) -> Iterator[None]:
    """Put all random generators back afterwards, so that the next call draws the same."""
    owned = [getattr(layer, "generator", None) for layer in layers]
    bits = [g.bit_generator for g in (generator(), *owned) if g is not None]
    states = [b.state for b in bits]
    try:
        yield
    finally:
        for b, state in zip(bits, states, strict=True):
            b.state = state
