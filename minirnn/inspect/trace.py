"""`trace`: one text on its way through a model, and the gradient on its way back.

>>> from minirnn.layers import LSTM, Dense, Embedding
>>> from minirnn.models import Sequential
>>> model = Sequential([Embedding(10, 4), LSTM(3), Dense(2, activation="softmax")])
>>> seen = trace(model, [7, 2, 5])
>>> seen.probabilities.shape, seen.saliency.shape
((3, 2), (3, 4))
>>> lstm = seen.layers[0]
>>> lstm.states["c"].shape, lstm.gates["f"].shape, lstm.gradients["c"].shape
((3, 3), (3, 3), (3, 3))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minirnn.backend import Array, to_host, xp
from minirnn.cells import (
    Cell,
    GRUCell,
    GRUCellResetBefore,
    LSTMCell,
    SimpleRNNCell,
    split,
)
from minirnn.inspect.bptt import Run, back_through_layers
from minirnn.inspect.parts import (
    Parts,
    at_the_end,
    fresh_states,
    parts_of,
    put_at_the_end,
    read,
    require_classes,
)
from minirnn.layers import DropMask, Masking
from minirnn.models import Sequential
from minirnn.packing import Mask

WIDEST_SHOWN = 512  # vectors with more features than that are left out of `Trace.to_dict`


@dataclass(frozen=True)
class LayerTrace:
    """What one recurrent layer did with a text, in one direction: all arrays in the text's order.

    T steps, U units; floats in the dtype of the weights.

    Masked steps: the cell does not take them. Its states stand still, so `states` and `gradients`
    repeat those of the last step taken (before the first one: those of the initial state), and
    `gates`, `wrote`, `kept` and `forgot` are 0.

    Attributes:
        name: the layer's, in its model; both directions of a Bidirectional have one name.
        cell: "SimpleRNN", "LSTM", "GRU", "GRUResetBefore", or the name of a cell of one's own.
        direction: "forward" if it read the text from its beginning, else "backward": then the
            first step it took is the last one here, and "t - 1" below is the step behind.
        usual: whether the cell is one of ours, with the activations of the papers.
        mask: (T,) bool, True = a step that the cell took.
        states: name → (T, U), after each step: h, and c for LSTM.
        gates: name → (T, U). LSTM: i, f, g, o; GRU: z, r, hh; others: none.
        wrote: (T, U), what the step added to the memory. LSTM: i ⊙ g; GRU: (1 - z) ⊙ hh;
            others: h_t.
        kept: (T, U), what it carried over. LSTM: f ⊙ c_{t-1}; GRU: z ⊙ h_{t-1}; others: 0. So
            wrote + kept is the new memory: c_t for LSTM, else h_t.
        forgot: (T, U), what it dropped. LSTM: (1 - f) ⊙ c_{t-1}; GRU: (1 - z) ⊙ h_{t-1};
            others: 0.
        gradients: name → (T, U), the gradient of log p(target) at each state after each step,
            through all paths.
        gradient_norm: name → (T,), their Euclidean norms, in float64: the squares of gradients that
            have almost vanished would be 0 in float32.
    """

    name: str
    cell: str
    direction: str
    usual: bool
    mask: np.ndarray
    states: dict[str, np.ndarray]
    gates: dict[str, np.ndarray]
    wrote: np.ndarray
    kept: np.ndarray
    forgot: np.ndarray
    gradients: dict[str, np.ndarray]
    gradient_norm: dict[str, np.ndarray]


@dataclass(frozen=True)
class Trace:
    """One text in a model: T tokens, C classes, F features; floats in the dtype of the weights.

    Attributes:
        tokens: T strings, what the model reads. A word that it does not know is shown as it is;
            padding as "".
        known: (T,) bool, False = a word that the vocabulary lacks.
        ids: (T,) int; -1 where the model was given vectors.
        mask: (T,) bool, True = a step that the first recurrent layer takes (without one: the layer
            behind the vectors).
        probabilities: (T, C), those of the classes if the text ended at each token.
        prediction: (C,), for the whole text.
        target: the class whose log p is followed back.
        embedding: (T, F), the vector of each token.
        saliency: (T, F), the gradient of log p(target) at it.
        saliency_norm: (T,), its Euclidean norm.
        gradient_times_input: (T,), the sum of saliency ⊙ embedding over the features: how much
            the vector moves log p, to first order.
        layers: a LayerTrace for each recurrent layer and direction, the forward one first.
    """

    tokens: list[str]
    known: np.ndarray
    ids: np.ndarray
    mask: np.ndarray
    probabilities: np.ndarray
    prediction: np.ndarray
    target: int
    embedding: np.ndarray
    saliency: np.ndarray
    saliency_norm: np.ndarray
    gradient_times_input: np.ndarray
    layers: list[LayerTrace]

    def to_dict(self, digits: int | None = None) -> dict[str, Any]:
        """All of it as lists, numbers and strings, fit for JSON.

        Keys are the attributes' names, and `"format"`: 1, to be raised when their meaning changes.
        Arrays are nested lists; a number that is not finite is None. `embedding` and `saliency` of
        more than 512 features (one-hot vectors, mostly) are None, too.

        Args:
            digits: significant ones of each number; None: as many as float32 has. With 4 of them
                the JSON is about a quarter shorter.

        Raises:
            ValueError: if `digits` is no whole number from 1 up.
        """
        if digits is not None and (not isinstance(digits, int) or digits < 1):
            raise ValueError(f"digits: expected a whole number from 1 up, or None; got {digits!r}")
        shown = {key: plain(value, digits) for key, value in vars(self).items() if key != "layers"}
        if self.embedding.shape[1] > WIDEST_SHOWN:
            shown |= {"embedding": None, "saliency": None}
        shown["layers"] = [
            {key: plain(value, digits) for key, value in vars(layer).items()}
            for layer in self.layers
        ]
        return {"format": 1} | shown


def trace(model: Sequential, text: Any, target: int | None = None) -> Trace:
    """Run the model on one text, keep all that happens on the way, and follow log p(target) back.

    Args:
        model: a Sequential that classifies: its last outputs are the probabilities of classes
            (softmax; sigmoid, a single one being the probability of class 1), or logits that a
            loss compiled with `from_logits=True` takes. If it has an output at every step, that of
            the last real step counts.
        text: a string, if the model begins with a TextVectorization; a row of token ids (T,); or a
            row of vectors (T, F), if the model begins with none of those.
        target: the class whose log p is followed back; None: the predicted one.

    `probabilities` come from the model run on the text cut after each token. Where texts are padded
    to a fixed length, so are these (by `output_sequence_length`, or for a layer like Flatten that
    needs one); everywhere else they end where they are cut.

    Dropout is off; stateful layers start from zeros, and keep the states that they had.

    Raises:
        TypeError: if the model is not a Sequential, or cannot read what `text` is.
        ValueError: if the text is empty, the target no class, or the model has no classes.
    """
    parts = parts_of(model)
    reading = read(parts.vectorizer, text)
    vectors, mask, rest = vectors_of(model, parts, reading.row)
    behind = model.part(rest)
    with fresh_states(rest):
        out, caches, mask_out = behind.walk(vectors, mask)
    last, places = at_the_end(out, mask_out)
    require_classes(model, parts.head, last)
    prediction = to_host(parts.head.probabilities(last))[0]
    target = checked_target(target, prediction)

    dout = put_at_the_end(parts.head.gradient(last, [target]), places, out.shape)
    names = parts.names[len(parts.layers) - len(rest) :]
    dvectors, runs = back_through_layers(rest, names, caches, dout)
    layers = [layer_trace(run) for run in runs]
    embedding, saliency = to_host(vectors)[0], to_host(dvectors)[0]
    steps = np.ones(len(embedding), bool) if mask is None else mask.array[0]
    return Trace(
        tokens=reading.tokens,
        known=reading.known,
        ids=reading.ids,
        mask=layers[0].mask if layers else steps.copy(),
        probabilities=probabilities_on_the_way(model, parts, reading.row),
        prediction=prediction,
        target=target,
        embedding=embedding,
        saliency=saliency,
        saliency_norm=np.linalg.norm(saliency, axis=1),
        gradient_times_input=(saliency * embedding).sum(axis=1),
        layers=layers,
    )


def vectors_of(model: Any, parts: Parts, row: np.ndarray) -> tuple[Array, Mask | None, list[Any]]:
    """`(vectors (1, T, F), mask, layers)`: the row as vectors, and the layers that take them."""
    first, *rest = parts.layers
    if parts.makes_vectors and row.ndim == 2:
        vectors, _ = first.forward(row)
        return vectors, first.compute_mask(row), rest
    if parts.makes_vectors or row.ndim == 2:
        wanted = "a row of token ids (T,)" if parts.makes_vectors else "a row of vectors (T, F)"
        raise ValueError(
            f"text: {model.name} begins with {first.name}, which takes {wanted}; received an array "
            f"of shape {row.shape[1:]}"
        )
    weights = next(iter(model.params.values()), None)
    return xp.asarray(row, None if weights is None else weights.dtype), None, parts.layers


def checked_target(target: Any, prediction: np.ndarray) -> int:
    if target is None:
        return int(prediction.argmax())
    whole = isinstance(target, (int, np.integer)) and not isinstance(target, bool)
    if not whole or not 0 <= target < len(prediction):
        raise ValueError(
            f"target: expected a class from 0 to {len(prediction) - 1}, or None for the predicted "
            f"one; received {target!r}"
        )
    return int(target)


# --- the text, cut after each token ---------------------------------------------------------------


def probabilities_on_the_way(model: Any, parts: Parts, row: np.ndarray) -> np.ndarray:
    """(T, C): the probabilities if the row, (1, T) or (1, T, F), ended at each of its steps."""
    T = row.shape[1]
    taken = np.tri(T, dtype=bool)  # cut k keeps the steps 0 to k
    cut = np.where(taken.reshape(T, T, *[1] * (row.ndim - 2)), row, np.zeros((), row.dtype))
    body = model.part(parts.layers)
    fixed = parts.vectorizer is not None and parts.vectorizer.output_sequence_length is not None
    if fixed or not all(layer.supports_masking for layer in parts.layers):
        batches = [(cut, None)]  # the model has learned to read the padding
    elif not any(isinstance(layer, (DropMask, Masking)) for layer in parts.layers):
        batches = [(cut, Mask(taken))]  # a masked step is one that is not there
    else:  # these would lose that mask
        batches = [(row[:, : k + 1], None) for k in range(T)]
    found = []
    for rows, mask in batches:
        with fresh_states(parts.layers):
            out, _, mask_out = body.walk(rows, mask)
        found.append(to_host(parts.head.probabilities(at_the_end(out, mask_out)[0])))
    return np.concatenate(found)


# --- one recurrent layer --------------------------------------------------------------------------


def layer_trace(run: Run) -> LayerTrace:
    """What a Run over a batch of one text shows."""
    packing, cell = run.packing, run.cell

    def in_text_order(padded: Array) -> np.ndarray:
        array = to_host(padded)[0]
        return array[::-1].copy() if run.turned else array

    def of_steps(steps: Array) -> np.ndarray:
        """(N, U) → (T, U), 0 at masked steps."""
        return in_text_order(packing.unpack(steps))

    def of_states(history: Array) -> np.ndarray:
        """(B + N, U) → (T, U); a masked step shows the state that stands there."""
        return in_text_order(xp.take(history, packing.source, axis=0))

    gates = gates_of(cell, run.loop.saved)
    gradients = map(of_states, run.gradients)
    by_name = dict(zip(cell.state_names, gradients, strict=True))
    wrote, kept, forgot = memory(cell, gates, run.states_before, run.states_after)
    return LayerTrace(
        name=run.name,
        cell=cell_name(cell),
        direction="backward" if run.backward_in_text else "forward",
        usual=is_usual(cell),
        mask=in_text_order(packing.layout.mask),
        states=dict(zip(cell.state_names, map(of_states, run.loop.history), strict=True)),
        gates={name: of_steps(gate) for name, gate in gates.items()},
        wrote=of_steps(wrote),
        kept=of_steps(kept),
        forgot=of_steps(forgot),
        gradients=by_name,
        gradient_norm={
            name: np.linalg.norm(d.astype(np.float64), axis=1) for name, d in by_name.items()
        },
    )


def is_usual(cell: Cell) -> bool:
    """Whether the equations in cells.py hold with σ and tanh."""
    ours = type(cell) in (SimpleRNNCell, LSTMCell, GRUCell, GRUCellResetBefore)
    return ours and cell.has_usual_activations()


def cell_name(cell: Cell) -> str:
    return type(cell).__name__.replace("Cell", "")


def gates_of(cell: Cell, saved: tuple[Array, ...]) -> dict[str, Array]:
    """name → (N, U), from what the steps kept; none for a cell that has no gates we know."""
    if isinstance(cell, LSTMCell):
        return dict(zip("ifgo", split(saved[0], 4), strict=True))
    if isinstance(cell, (GRUCell, GRUCellResetBefore)):
        return dict(zip(("z", "r", "hh"), split(saved[0], 3), strict=True))
    return {}


def memory(
    cell: Cell, gates: dict[str, Array], before: Any, after: Any
) -> tuple[Array, Array, Array]:
    """`(wrote, kept, forgot)` of each step, (N, U) each: see `LayerTrace`."""
    if "f" in gates:
        f, c_prev = gates["f"], before[1]
        return gates["i"] * gates["g"], f * c_prev, (1 - f) * c_prev
    if "z" in gates:
        z, h_prev = gates["z"], before[0]
        return (1 - z) * gates["hh"], z * h_prev, (1 - z) * h_prev
    return after[0], xp.zeros_like(after[0]), xp.zeros_like(after[0])


# --- as JSON --------------------------------------------------------------------------------------


def plain(value: Any, digits: int | None) -> Any:
    """Arrays as nested lists, numbers shortened; see `Trace.to_dict`."""
    if isinstance(value, dict):
        return {key: plain(item, digits) for key, item in value.items()}
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        return value.tolist() if isinstance(value, np.ndarray) else value
    # As text, a float32 has no more digits than it takes to tell it from its neighbours.
    short = value.astype(np.float32)
    text = short.astype(str) if digits is None else np.char.mod(f"%.{digits}g", short)
    numbers = text.astype(np.float64)
    if np.isfinite(numbers).all():
        return numbers.tolist()
    return np.where(np.isfinite(numbers), numbers, None).tolist()
