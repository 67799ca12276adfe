"""`gradient_flow`: how far back in time a gradient reaches, in SimpleRNN, LSTM and GRU.

From one step to the one before it, a gradient is multiplied by the step's Jacobian J_t, so n steps
back by a product of n of them. Where such products shrink, the network cannot learn what lies far
back; where they grow, training explodes (Hochreiter, 1991; Bengio et al., 1994). In SimpleRNN,
J_t = diag(tanh'(a_t)) Uᵀ. LSTM and GRU have a way past the matrix: there the gradient is multiplied
by the forget gate f, or by z, alone.

>>> import numpy as np
>>> from minirnn.layers import Dense, Embedding, SimpleRNN
>>> from minirnn.models import Sequential
>>> layers = [Embedding(10, 4), SimpleRNN(3), Dense(2, activation="softmax")]
>>> [flow] = gradient_flow(Sequential(layers), np.array([[7, 2, 5, 1], [3, 3, 8, 9]]))
>>> flow.gradient_norm["h"].shape  # one number for each distance from the end
(4,)
>>> round(flow.spectral_radius["h"], 4)  # U is orthogonal at first
1.0
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minirnn.backend import Array, to_host, xp
from minirnn.base import Layer
from minirnn.batches import batches
from minirnn.cells import Cell, split
from minirnn.inspect.bptt import (
    Run,
    back_through_layers,
    blocks_back,
    step_back,
    steps_from_the_end,
)
from minirnn.inspect.parts import (
    Parts,
    at_the_end,
    fresh_states,
    parts_of,
    put_at_the_end,
    require_classes,
)
from minirnn.inspect.trace import cell_name, gates_of
from minirnn.layers import TextVectorization
from minirnn.models import layers_in_a_row


class Flow(NamedTuple):
    """How the gradient went back through one recurrent layer, in one direction.

    Distance d counts back from the last step that the cell takes, which for a backward direction is
    the first one of the text; D is the number of steps of the longest row. Masked steps do not
    count. Means are over the rows that are long enough to have a step at that distance; they are
    float64.

    Attributes:
        name: the layer's, in its model; both directions of a Bidirectional have one name.
        cell: "SimpleRNN", "LSTM", "GRU", "GRUResetBefore", or the name of a cell of one's own.
        direction: "forward" or "backward", in the text.
        rows: (D,) int, how many rows have a step at each distance.
        gradient_norm: name of a state → (D,), the mean Euclidean norm of the gradient at it.
        gate_product: (D,), the product of the last d forget gates f (LSTM) or update gates z (GRU),
            mean over units and rows: what is left of a gradient that takes the way past the matrix.
            None for other cells.
        growth: the factor that one step back puts on a gradient, on average: the n-th root of the
            spectral norm of the product of the Jacobians of all n steps of a row, of the whole
            state (h and c); geometric mean over rows. Below 1 gradients vanish, above 1 they grow.
        spectral_radius: name of a gate → the largest of the absolute values of the eigenvalues of
            its block of the recurrent matrix, U by U numbers; SimpleRNN has one block, "h". In the
            other cells the matrix is not all that there is: see `growth`.
    """

    name: str
    cell: str
    direction: str
    rows: np.ndarray
    gradient_norm: dict[str, np.ndarray]
    gate_product: np.ndarray | None
    growth: float
    spectral_radius: dict[str, float]


def gradient_flow(model: Any, batch: Any, labels: Any = None) -> list[Flow]:
    """Send the gradient of a batch back through a model, and measure it at every step.

    Args:
        model: a Sequential with at least one recurrent layer.
        batch: a list of texts; token ids (B, T), or a list of rows of them, which is padded;
            vectors (B, T, F). A model without a mask reads the padding as if it were words.
        labels: (B,), or whatever else the compiled loss takes: follow that loss, times the number
            of rows, so that a row's gradient is that of its own loss. None: follow log p of each
            row's predicted class.

    Returns:
        A Flow for each recurrent layer and direction, in order, the forward one first.

    Raises:
        TypeError: if the model is not a Sequential, or cannot read the batch.
        ValueError: if it has no recurrent layer; if there are labels and it is not compiled, or
            none and it has no classes; if the batch is empty, or does not go with the labels.
    """
    parts = parts_of(model)
    one = isinstance(batch, (str, bytes, type)) or getattr(batch, "shape", None) == ()
    if one or not hasattr(batch, "__len__"):
        raise TypeError(f"batch: expected a list of texts or rows of token ids, received {batch!r}")
    size = len(batch)
    if size == 0:
        raise ValueError("batch: expected at least one row, received none")
    if labels is not None and np.shape(labels)[:1] != (size,):
        raise ValueError(
            f"labels: expected one for each of the {size} rows, received an array of shape "
            f"{np.shape(labels)}"
        )
    [(x, y, _)] = batches(batch, labels, batch_size=size, vectorizer=parts.vectorizer)
    if labels is None:
        layers, names, caches, dout = from_the_prediction(model, parts, x)
    else:
        layers, names, caches, dout = from_the_loss(model, x, y)
    _, runs = back_through_layers(layers, names, caches, dout)
    if not runs:
        raise ValueError(
            f"model: {model.name} has no recurrent layer, so no gradient travels back through time"
        )
    return [flow_of(run) for run in runs]


def from_the_prediction(
    model: Any, parts: Parts, x: np.ndarray
) -> tuple[list[Layer], list[str], list[Any], Array]:
    """`(layers, names, caches, dout)`: the gradient of log p of each row's predicted class."""
    with fresh_states(parts.layers):
        out, caches, mask = model.part(parts.layers).walk(x)
    last, places = at_the_end(out, mask)
    require_classes(model, parts.head, last)
    predicted = parts.head.probabilities(last).argmax(axis=1)
    dout = put_at_the_end(parts.head.gradient(last, predicted), places, out.shape)
    return parts.layers, parts.names, caches, dout


def from_the_loss(
    model: Any, x: np.ndarray, y: np.ndarray
) -> tuple[list[Layer], list[str], list[Any], Array]:
    """The same, for the loss that the model is compiled with."""
    model.require_compiled()
    body, loss, _, _ = model.training_parts(x)
    named = [
        (name, layer)
        for name, layer in layers_in_a_row(body.layers)
        if not isinstance(layer, TextVectorization)
    ]
    names, layers = map(list, zip(*named, strict=True))
    with fresh_states(layers):
        out, caches, mask = model.part(layers).walk(x)
    _, dout = loss.forward(y, out, None, mask)
    return layers, names, caches, dout * len(x)


# --- what is measured -----------------------------------------------------------------------------


def flow_of(run: Run) -> Flow:
    B, distance = run.packing.shape[0], steps_from_the_end(run.packing)
    rows = np.bincount(distance)

    def mean(values: np.ndarray) -> np.ndarray:
        """(N,) of the packed steps → (D,)"""
        return np.bincount(distance, values) / rows

    norms = [np.linalg.norm(to_host(gradient)[B:], axis=1) for gradient in run.gradients]
    gates = gates_of(run.cell, run.loop.saved)
    gate = gates.get("f", gates.get("z"))
    product = None if gate is None else mean(to_host(product_of_later(run, gate)).mean(axis=1))
    return Flow(
        name=run.name,
        cell=cell_name(run.cell),
        direction="backward" if run.backward_in_text else "forward",
        rows=rows,
        gradient_norm=dict(zip(run.cell.state_names, map(mean, norms), strict=True)),
        gate_product=product,
        growth=growth(run),
        spectral_radius=spectral_radii(run.cell),
    )


def spectral_radii(cell: Cell) -> dict[str, float]:
    """Gate → the spectral radius of its block of the recurrent matrix."""
    blocks = split(to_host(cell.params["recurrent_kernel"]), len(cell.gates))
    return {
        gate: float(np.abs(np.linalg.eigvals(block)).max())
        for gate, block in zip(cell.gates, blocks, strict=True)
    }


def product_of_later(run: Run, gate: Array) -> Array:
    """(N, U): for each packed step, the product of a gate over all steps that its row takes
    later."""
    product = xp.ones((run.packing.shape[0], gate.shape[1]), gate.dtype)
    later = xp.empty_like(gate)
    for block in blocks_back(run.packing):
        n = block.stop - block.start
        later[block] = product[:n]
        product[:n] *= gate[block]
    return later


def growth(run: Run) -> float:
    """See `Flow`; NaN if no row has a step.

    The product of the Jacobians is what becomes of the rows of the unit matrix, when each is sent
    back as a gradient. It is brought back to norm 1 after each step, or it would underflow.
    """
    cell, packing = run.cell, run.packing
    before, after = run.states_before, run.states_after
    B, size = packing.shape[0], len(before) * cell.units
    unit = xp.eye(size, dtype=before[0].dtype)
    product = xp.repeat(unit[None], B, axis=0)  # (B, size, size), rows in the packing's order
    logarithm = np.zeros(B)
    for block in blocks_back(packing):
        n = block.stop - block.start

        def sent(array: Array, block: slice = block) -> Array:
            """What stands at these steps, once for each row of the unit matrix."""
            return xp.repeat(array[block], size, axis=0)

        rows = product[:n].reshape(n * size, len(before), cell.units)
        dstate = tuple(rows[:, s] for s in range(len(before)))
        saved = tuple(map(sent, run.loop.saved))
        earlier = step_back(cell, dstate, tuple(map(sent, before)), tuple(map(sent, after)), saved)
        found = xp.stack(earlier, axis=1).reshape(n, size, size)
        norm = xp.sqrt((found * found).sum(axis=(1, 2), keepdims=True))
        product[:n] = found / xp.where(norm > 0, norm, 1)
        with np.errstate(divide="ignore"):  # nothing at all may be left
            logarithm[:n] += np.log(to_host(norm)[:, 0, 0])
    lengths = packing.layout.lengths[packing.layout.host_order]
    real = lengths > 0
    if not real.any():
        return float("nan")
    with np.errstate(divide="ignore"):
        logarithm += np.log(np.linalg.norm(to_host(product), 2, axis=(1, 2)))
    return float(np.exp((logarithm[real] / lengths[real]).mean()))
