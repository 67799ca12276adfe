"""From one sequence to another: an encoder reads, a decoder writes (Sutskever et al., 2014).

    encoder   s = the states after the last step of the source
    decoder   p(y_t | y_1 .. y_{t-1}, source): a recurrent network that starts in s, reads what has
              been written so far, and says what comes next

While it is taught, the decoder reads the true target, one step behind (teacher forcing, Williams
and Zipser, 1989), so that all steps can be computed at once:

    target      a b c        it reads    <start> a b c      it is to say    a b c <end>

When it translates, it reads what it has said itself, one id after another.

The two meet in s alone. So the gradient of the loss goes backwards through the decoder to the
states that it started in, and these gradients are where the encoder's backward pass begins.

>>> from minirnn.layers import GRU, Dense, Embedding
>>> model = Seq2Seq(
...     encoder=[Embedding(10, 4, mask_zero=True), GRU(8, return_state=True)],
...     decoder=[
...         Embedding(12, 4, mask_zero=True),
...         GRU(8, return_sequences=True),
...         Dense(12, activation="softmax"),
...     ],
...     start=10,
...     end=11,
... )
>>> model.compile("adam", "sparse_categorical_crossentropy")
>>> history = model.fit([[3, 1, 4], [1, 5]], [[4, 1, 3], [5, 1]], verbose=0)
>>> model.predict([[3, 1, 4]], [[4, 1, 3]]).shape
(1, 4, 12)
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from minirnn import generation, optimizers, saving, training
from minirnn.backend import Array, memory_errors, xp
from minirnn.base import Layer, Shape
from minirnn.batches import ArrayBatches, batches
from minirnn.callbacks import History
from minirnn.checks import flag, listed, number, sizes, whole_number
from minirnn.encoder_decoder import Decoder, Encoder, check_states
from minirnn.models import Sequential, TrainingParts, without_activation
from minirnn.packing import Mask
from minirnn.summary import summary_table
from minirnn.teacher_forcing import Pairs, TeacherForcing
from minirnn.text import pad_rows
from minirnn.threads import keep_limits
from minirnn.turns import Turns, View


class Seq2Seq(Layer):
    """An encoder and a decoder as one model.

    The k-th layer of the encoder that gives its state starts the k-th recurrent layer of the
    decoder; the two need to be of one kind and size.

    Args:
        encoder: layers; those recurrent ones whose states go to the decoder with
            `return_state=True`, the last layer among them. `go_backwards=True` makes it read the
            source from its end, as in Sutskever et al. Below, a Bidirectional layer may stand.
        decoder: Embedding or OneHot with `mask_zero=True`, recurrent layers with
            `return_sequences=True`, and a Dense with a softmax, or with logits, over all ids.
        start, end: two ids of the decoder's that stand for no word. Rows of targets are given
            without them: the model puts them where they belong. 0 is padding.

    Raises:
        TypeError, ValueError: if the layers do not fit together; it says which and why.
    """

    vectorizer = None  # it takes ids

    def __init__(
        self,
        encoder: Sequence[Layer],
        decoder: Sequence[Layer],
        start: int,
        end: int,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        for half, stack in (("encoder", encoder), ("decoder", decoder)):
            listed(half, stack)
        shared = [layer for layer in decoder if any(layer is other for other in encoder)]
        if shared:
            raise ValueError(f"{shared[0].name}: this very layer is in the encoder already")
        self.encoder = Encoder(encoder, name="encoder")
        self.decoder = Decoder(decoder, name="decoder")
        check_states(self.encoder, self.decoder)
        ids = range(1, self.decoder.limit)
        whole = all(isinstance(number, (int, np.integer)) for number in (start, end))
        if not whole or start not in ids or end not in ids or start == end:
            raise ValueError(
                f"start, end: expected two different ids from 1 to {self.decoder.limit - 1}, which "
                f"{self.decoder.layers[0].name} takes; received {start!r} and {end!r}"
            )
        self.start, self.end = int(start), int(end)
        self.input_shape: Shape | None = None
        self.optimizer: optimizers.Optimizer | None = None
        self.stop_training = False
        self.turns = Turns()
        self._training_parts: TrainingParts | None = None

    # What any model does in the same way.
    compile: Callable[..., None] = Sequential.compile
    require_compiled = Sequential.require_compiled
    require_layers = Sequential.require_layers
    forget_training_parts = Sequential.forget_training_parts

    @property
    def layers(self) -> list[Layer]:
        return [self.encoder, self.decoder]

    def children(self) -> dict[str, Layer]:
        return {"encoder": self.encoder, "decoder": self.decoder}

    def build(self, input_shape: Shape | None = None) -> None:
        """Make the weights. input_shape: that of a source, where the encoder takes no ids."""
        shape = input_shape or self.input_shape or self.encoder.known_input_shape()
        if shape is None:
            raise ValueError(
                f"{self.name}: the shape of a source is not known yet. Call build((batch, time, "
                "features)), or begin the encoder with an Embedding or OneHot layer."
            )
        self.input_shape = tuple(shape)
        self.encoder.build(self.input_shape)
        self.decoder.build((None, None))
        classes = self.decoder.compute_output_shape((None, None))[-1]
        if self.end >= classes:
            raise ValueError(
                f"end: {self.end} is no class of {self.decoder.layers[-1].name}, which gives "
                f"{classes}"
            )
        self.built = True

    def ensure_built(self, x: Any) -> None:
        if not self.built:
            self.build(self.encoder.known_input_shape() or np.shape(x))

    def without_vectorizer(self) -> Seq2Seq:
        return self

    def compute_mask(self, x: Pairs, mask: Mask | None = None) -> Mask | None:
        """The mask of the output: that of what the decoder reads."""
        return self.decoder.compute_mask(x.target)

    # -- forward and backward --

    def forward(
        self, x: Pairs, mask: Mask | None = None, training: bool = False
    ) -> tuple[Array, Any]:
        """y (rows, time, classes) at each step of `x.target`. mask: of the source."""
        states, encoded = self.encoder.forward(x.source, Mask.of(mask), training)  #         1
        y, decoded = self.decoder.forward(x.target, None, training, states)  #              2
        return y, (encoded, decoded)

    def backward(self, dy: Array, cache: Any) -> tuple[Array | None, dict[str, Any]]:
        """`(dx, grads)`; dx is the gradient of the source, None where that is ids."""
        encoded, decoded = cache
        (_, dstates), later = self.decoder.backward(dy, decoded)  #                         2
        dx, earlier = self.encoder.backward(dstates, encoded)  #                            1
        grads = {f"encoder_{key}": value for key, value in earlier.items()}
        return dx, grads | {f"decoder_{key}": value for key, value in later.items()}

    def walk(
        self, x: Pairs, mask: Mask | None = None, training: bool = False
    ) -> tuple[Array, Any, Mask | None]:
        """`(y, cache, mask)`, with the mask of the output."""
        y, cache = self.forward(x, mask, training)
        return y, cache, self.compute_mask(x)

    def outputs(self, x: Pairs) -> Iterator[tuple[Layer, Array, Mask | None]]:
        """Both halves with what they give, and the mask of that; of the encoder, all states side by
        side."""
        states, _ = self.encoder.forward(x.source)
        side_by_side = xp.concatenate([part for state in states for part in state], axis=1)
        yield self.encoder, side_by_side, None
        y, _ = self.decoder.forward(x.target, states=states)
        yield self.decoder, y, self.compute_mask(x)

    # -- training --

    def training_parts(self, x: Any) -> TrainingParts:
        """As `Sequential.training_parts`."""
        parts = self._training_parts
        if parts is None:
            self.ensure_built(x)
            *first, last = self.decoder.layers
            bare, loss, activation = without_activation(last, self.loss)
            body = copy.copy(self)
            body.decoder = copy.copy(self.decoder)
            body.decoder.layers = [*first, bare]
            parts = TrainingParts(body, loss, activation, self.trainable_params)
            self._training_parts = parts
        return parts

    def taught(self, data: Any) -> TeacherForcing:
        """Batches (sources, targets) as this model is trained and evaluated on them."""
        return TeacherForcing(data, self.start, self.end, self.decoder.limit)

    def fit(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        *,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        sample_weight: Any = None,
        **options: Any,
    ) -> History:
        """Train by teacher forcing.

        Args:
            x: sources: rows of ids, an array or a list of rows of differing length; or a data set
                of batches (x, y).
            y: targets: rows of ids, likewise, without `start` and `end`; 0 is padding.
            sample_weight: (rows,) factors on the loss.
            validation_data: (x, y), (x, y, sample_weight), or a data set.
            options: callbacks, initial_epoch, steps_per_epoch, checkpoint, ranks; these and the
                rest as in `Sequential.fit`.

        Raises:
            ValueError: if a target holds `start` or `end`, or padding before an id; else as
                `Sequential.fit`.
        """
        data = batches(x, y, sample_weight, batch_size, shuffle)
        if number("validation_split", validation_split):
            if validation_data is not None or not isinstance(data, ArrayBatches):
                raise ValueError(
                    "validation_split: goes with arrays only, and without validation_data"
                )
            data, validation_data = data.split(validation_split)
        elif isinstance(validation_data, (tuple, list)):
            validation_data = batches(*validation_data, batch_size=batch_size)
        elif validation_data is not None:
            validation_data = batches(validation_data)
        held_out = None if validation_data is None else self.taught(validation_data)
        given = {"epochs": epochs, "verbose": verbose, "validation_data": held_out} | options
        return training.fit(self, self.taught(data), **given)

    def evaluate(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        sample_weight: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """The loss and the metrics by teacher forcing, as means over all ids of the targets and the
        end of each: a list, the loss alone, or a dict."""
        data = self.taught(batches(x, y, sample_weight, batch_size))
        logs = training.evaluate(self, data, verbose=verbose)
        if return_dict:
            return logs
        return list(logs.values()) if self.metrics else logs["loss"]

    def predict(
        self, x: Any, y: Any = None, batch_size: int | None = None, verbose: str | int = 0
    ) -> np.ndarray:
        """The chance of each id at each step of the targets y, given what stands before it there:
        (rows, time + 1, classes), the last real step of a row being its end."""
        self.require_built()
        data = self.taught(batches(x, y, batch_size=batch_size))
        return training.predict(self, data, verbose=verbose)

    # -- translating --

    @memory_errors()
    @keep_limits()
    def translate(
        self,
        x: Any,
        max_length: int,
        temperature: float = 0.0,
        top_k: int | None = None,
        rng: generation.Random = None,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """The targets that the model itself writes, (rows, longest) ids, padded with 0 behind.

        Args:
            x: sources, as in `fit`.
            max_length: where a row ends that the model does not end itself.
            temperature, top_k, rng: as in `generation.sample`; at 0 the likeliest id is taken.
        """
        self.require_built()
        whole_number("max_length", max_length)
        draw = generation.drawing(temperature, top_k, rng, never=(0, self.start))
        rows: list[np.ndarray] = []
        with self.turns.visit():
            view = View(self)
            for source, _, _ in batches(x, batch_size=batch_size):
                with view as seen:
                    layers = generation.stack_of(seen.decoder.layers)
                    states, _ = seen.encoder.forward(source)
                    begin = np.full((len(source), 1), self.start)
                    ids = generation.go_on(layers, begin, states, max_length, draw, self.end)
                rows += [row[row != self.end] for row in ids]
        return pad_rows(rows)

    # -- describing and storing --

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Print a table of the layers of each half, as `Sequential.summary`."""
        if not self.built and self.encoder.known_input_shape() is not None:
            self.build()
        for half in self.layers:
            print_fn(summary_table(half))

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "trainable": self.trainable,
            "input_shape": self.input_shape,
            "encoder": [saving.describe(layer) for layer in self.encoder.layers],
            "decoder": [saving.describe(layer) for layer in self.decoder.layers],
            "start": self.start,
            "end": self.end,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Seq2Seq:
        """An equal model with new weights."""
        encoder, decoder, start, end, name, trainable, shape = saving.fields(
            "Seq2Seq", config, *("encoder", "decoder", "start", "end", "name", "trainable"),
            "input_shape",
        )  # fmt: skip
        halves = (saving.made_layers("Seq2Seq", half) for half in (encoder, decoder))
        model = cls(*halves, start, end, name=name)
        model.trainable = flag("trainable", trainable)
        model.input_shape = None if shape is None else sizes("input_shape", shape)
        return model

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the whole model into one file; `minirnn.load` brings it back."""
        saving.save(self, path)


saving.MODELS["Seq2Seq"] = Seq2Seq
