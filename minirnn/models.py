"""Sequential: layers one after another, as one layer that can be trained.

>>> import numpy as np
>>> from minirnn.layers import Dense, Embedding, SimpleRNN
>>> model = Sequential([Embedding(20000, 64), SimpleRNN(16), Dense(4, activation="softmax")])
>>> model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["acc"])
>>> model.count_params()
1281364
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minirnn import activations, losses, optimizers, saving, steps, training
from minirnn.backend import Array
from minirnn.base import Layer, Shape
from minirnn.batches import batches
from minirnn.callbacks import Callback, History
from minirnn.checkpoint import Checkpoint
from minirnn.checks import flag, sizes
from minirnn.layers import Bidirectional, Embedding, Input, OneHot
from minirnn.lookup import by_name
from minirnn.metrics import Metric
from minirnn.metrics import get as get_metric
from minirnn.packing import Mask, full_mask
from minirnn.summary import summary_table
from minirnn.text import TextVectorization
from minirnn.turns import Turns

if TYPE_CHECKING:
    from minirnn.parallel import Ranks


class TrainingParts(NamedTuple):
    """A model as a training step sees it.

    body: the layers, without the softmax or sigmoid at their end that belongs to the loss.
    loss: that of what the body gives.
    activation: what was left out, or `linear`.
    params: the weights that training changes.
    """

    body: Sequential
    loss: losses.Loss
    activation: activations.Activation
    params: dict[str, Array]


class Sequential(Layer):
    """A stack of layers: the output of each is the input of the next, and masks travel along.

    It is a layer itself: `forward` and `backward` follow the same contract, and it can stand inside
    another model. Its parameters are those of its layers, as `layername_key`.

    A TextVectorization layer may come first; then the model takes texts.

    Args:
        layers: the layers, first to last; an `Input` in front tells the shape of one row.
    """

    def __init__(self, layers: Iterable[Layer] = (), *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.layers: list[Layer] = []
        self.input_shape: Shape | None = None
        self.optimizer: optimizers.Optimizer | None = None
        self.stop_training = False
        self.turns = Turns()
        self._training_parts: Any = None
        if not isinstance(layers, Iterable):
            raise TypeError(f"layers: expected a list of layers, received {layers!r}")
        for layer in layers:
            self.add(layer)

    # -- putting it together --

    def add(self, layer: Layer) -> None:
        """Put one more layer at the end.

        Raises:
            TypeError: if it is not a layer.
            ValueError: if it cannot stand there.
        """
        if not isinstance(layer, Layer):
            raise TypeError(f"layer: expected a layer, received {layer!r}")
        if isinstance(layer, Input):
            if self.layers:
                raise ValueError("Input: only the beginning of a model can be an Input")
            self.input_shape = (layer.batch_size, *layer.shape)
            return
        if isinstance(layer, TextVectorization) and self.layers:
            raise ValueError("TextVectorization: only the first layer of a model can take texts")
        several = getattr(layer, "return_state", False) or (
            isinstance(layer, Bidirectional) and layer.merge_mode is None
        )
        if several:
            raise ValueError(
                f"{layer.name}: it has several outputs (return_state=True, or merge_mode=None), "
                "and in a Sequential each layer has one. Call the layer by itself."
            )
        name_apart(layer, self.layers)
        self.layers.append(layer)

    def pop(self) -> Layer:
        """Take the last layer away."""
        if not self.layers:
            raise ValueError("pop: the model has no layers")
        return self.layers.pop()

    def children(self) -> dict[str, Layer]:
        return {layer.name: layer for layer in self.layers}

    def get_layer(self, name: str) -> Layer:
        """The layer of this name."""
        return by_name("layer", name, self.children())

    def build(self, input_shape: Shape | None = None) -> None:
        """Make the weights of all layers. The shape may be left out where the layers tell it."""
        if input_shape is not None:
            input_shape = sizes("input_shape", input_shape)
        shape = input_shape or self.known_input_shape()
        if shape is None:
            raise ValueError(
                f"{self.name}: the shape of the input is not known yet. Begin the model with "
                "Input(shape), call it on a batch, or call build((batch, ...))."
            )
        self.input_shape = tuple(shape)
        for layer in self.layers:
            if not layer.built:
                layer.build(shape)
            shape = layer.compute_output_shape(shape)
        if len(self.params) != sum(len(layer.params) for layer in self.layers):
            names = ", ".join(layer.name for layer in self.layers)
            raise ValueError(
                f"{self.name}: two weights would have one name, `layer_weight`; give the layers "
                f"({names}) names of which none is another one's and `_forward` or the like"
            )

    @property
    def built(self) -> bool:
        """Whether all layers have their weights."""
        return bool(self.layers) and all(layer.built for layer in self.layers)

    @built.setter
    def built(self, value: bool) -> None:
        """The layers alone tell."""

    def known_input_shape(self) -> Shape | None:
        """The shape of the input as far as the layers tell it without data."""
        if self.input_shape is not None:
            return self.input_shape
        if self.vectorizer is not None:
            return (None,)
        if self.layers and isinstance(self.layers[0], (Embedding, OneHot)):
            return (None, None)
        return None

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        for layer in self.layers:
            input_shape = layer.compute_output_shape(input_shape)
        return input_shape

    @property
    def vectorizer(self) -> TextVectorization | None:
        """The first layer, if it takes texts."""
        first = self.layers[0] if self.layers else None
        return first if isinstance(first, TextVectorization) else None

    # -- forward and backward --

    def walk(
        self, x: Any, mask: Mask | None = None, training: bool = False
    ) -> tuple[Array, list[Any], Mask | None]:
        """`(y, caches, mask)`: the output, each layer's cache, and the mask of the output."""
        caches = []
        for layer, following in pairwise([*self.layers, None]):
            mask = layer.checked_mask(x, mask)
            if isinstance(layer, Sequential):
                x, cache, mask = layer.walk(x, mask, training)
            else:
                layer.ensure_built(x)
                mask_after, packed = layer.compute_mask(x, mask), {}
                if packs_between(layer, following, x):
                    packed["packing"] = (mask_after or full_mask(*np.shape(x)[:2])).packing()
                x, cache = layer.forward(x, mask=mask, training=training, **packed)
                mask = mask_after
            caches.append(cache)
        return x, caches, mask

    def forward(
        self, x: Any, mask: Mask | None = None, training: bool = False
    ) -> tuple[Array, list[Any]]:
        y, caches, _ = self.walk(x, Mask.of(mask), training)
        return y, caches

    def backward(self, dy: Array, cache: list[Any]) -> tuple[Array, dict[str, Any]]:
        grads: dict[str, Any] = {}
        for layer, layer_cache in zip(reversed(self.layers), reversed(cache), strict=True):
            dy, layer_grads = layer.backward(dy, layer_cache)
            grads |= {f"{layer.name}_{key}": value for key, value in layer_grads.items()}
        return dy, grads

    def outputs(self, x: Any) -> Iterator[tuple[Layer, Array, Mask | None]]:
        """Each layer with what it gives, and the mask of that, first to last."""
        mask = None
        for layer in self.layers:
            y, _ = layer.forward(x, mask=mask)
            mask, x = layer.compute_mask(x, mask), y
            yield layer, y, mask

    def compute_mask(self, x: Any, mask: Mask | None = None) -> Mask | None:
        """The mask of the output; to find it, the layers are run."""
        return self.walk(x, Mask.of(mask))[2]

    def ensure_built(self, x: Any) -> None:
        if not self.built:
            self.build(self.known_input_shape() or np.shape(x))

    def part(self, layers: Sequence[Layer]) -> Sequential:
        """A model of these layers of this one; it shares their weights."""
        part = copy.copy(self)
        part.layers, part.input_shape = list(layers), None
        return part

    def without_vectorizer(self) -> Sequential:
        """The part that takes token ids."""
        return self if self.vectorizer is None else self.part(self.layers[1:])

    def reset_states(self) -> None:
        """`reset_state` under the name that models have for it in Keras."""
        self.reset_state()

    # -- training --

    def compile(
        self,
        optimizer: str | optimizers.Optimizer = "rmsprop",
        loss: str | losses.Loss | None = None,
        metrics: Sequence[str | Metric] | None = None,
    ) -> None:
        """Say how to train.

        Args:
            optimizer, loss, metrics: names as in Keras ("adam", "sparse_categorical_crossentropy",
                ["acc"]), or objects.
        """
        if loss is None:
            raise ValueError("loss: expected a name or a Loss, such as 'mse'; received None")
        self.optimizer = optimizers.get(optimizer)
        self.loss = losses.get(loss)
        metrics = () if metrics is None else metrics
        if isinstance(metrics, str) or not isinstance(metrics, Sequence):
            raise TypeError(f"metrics: expected a list such as ['acc'], received {metrics!r}")
        self.metrics = [get_metric(metric, self.loss) for metric in metrics]

    def require_compiled(self) -> None:
        if self.optimizer is None:
            raise ValueError(f"{self.name}: call compile(optimizer, loss, metrics) before training")
        self.require_layers()
        self.forget_training_parts()

    def forget_training_parts(self) -> None:
        """Find them anew: layers may have been frozen meanwhile."""
        self._training_parts = None

    def require_layers(self) -> None:
        if not self.layers:
            raise ValueError(f"{self.name}: the model has no layers; add some first")

    def training_parts(self, x: Any) -> TrainingParts:
        """The model as a training step sees it; found once per epoch.

        x: a batch, from which a model that is not built yet takes shape.
        """
        parts = self._training_parts  # another thread may forget them meanwhile
        if parts is None:
            body = self.without_vectorizer()
            body.ensure_built(x)
            *first, last = body.layers
            bare, loss, activation = without_activation(last, self.loss)
            if bare is not last:
                body = self.part([*first, bare])
            parts = TrainingParts(body, loss, activation, self.trainable_params)
            self._training_parts = parts
        return parts

    def fit(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Sequence[Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
        ranks: Ranks | None = None,
    ) -> History:
        """Train.

        Args:
            x: rows: an array, a list of texts, or a list of sequences of differing length (padded
                per batch); or a data set of batches `(x, y)` or `(x, y, sample_weight)`.
            y: one label per row, or one per step: (rows,) or (rows, time).
            batch_size: rows per step, 32 if not given; a data set brings its own.
            verbose: "auto" or 1: a progress bar on a terminal, a line per epoch elsewhere; 2: a
                line; 0: nothing.
            validation_split: the share of the rows, taken from the end before any shuffling, that
                is not trained on but evaluated after each epoch.
            validation_data: `(x, y)`, `(x, y, sample_weight)` or a data set, for the same.
            shuffle: a new order of the rows in each epoch. A data set has an order of its own.
            class_weight: class → factor on the loss of its rows.
            sample_weight: (rows,) or (rows, time) factors on the loss.
            initial_epoch: where counting begins.
            steps_per_epoch: batches in an epoch, where it is not one pass over the data.
            checkpoint: a file, or a `Checkpoint`, which says how often as well: there the state of
                the training is written down every minute and after each epoch. If the file is there
                already, the training goes on from it, to the same weights as without the break.
            ranks: `minirnn.parallel.world()`, to train on several processes at once. Each gets its
                rows of each batch: of arrays, `batch_size` of them; a data set's batches are those
                of all together.

        While it runs, rows of an Embedding at the model's beginning that no batch uses lag behind
        (see optimizers.py); callbacks, other threads that predict with the model or save it, and
        whoever looks afterwards, find all weights up to date.

        Returns:
            History, with `history["loss"]`, and so on, one figure per epoch: means over all samples
            of the epoch, taken while the weights moved; `val_` figures at its end.

        Raises:
            NonFiniteError: if the loss or a gradient becomes NaN or infinite; it says at which
                step and where that began. The weights are those from before that step.
            CheckpointError: if the checkpoint is of another training.
            KeyboardInterrupt: with a checkpoint, after the step at hand, when all is saved.
            ModelBusyError: if another thread is training this model.
        """
        return training.fit(
            self,
            x,
            y,
            batch_size,
            epochs,
            verbose,
            callbacks,
            validation_split,
            validation_data,
            shuffle,
            class_weight,
            sample_weight,
            initial_epoch,
            steps_per_epoch,
            checkpoint,
            ranks=ranks,
        )

    def evaluate(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        sample_weight: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """The loss and the metrics as means over all samples: a list, the loss alone, or a dict."""
        logs = training.evaluate(self, x, y, batch_size, verbose, sample_weight)
        if return_dict:
            return logs
        return list(logs.values()) if self.metrics else logs["loss"]

    def predict(self, x: Any, batch_size: int | None = None, verbose: str | int = 0) -> np.ndarray:
        """The outputs of all rows, in their order, on the host."""
        return training.predict(self, x, batch_size, verbose)

    def train_on_batch(self, x: Any, y: Any, sample_weight: Any = None) -> float:
        """One training step on one batch; its loss before the step."""
        self.require_compiled()
        if np.ndim(y) == 0:
            raise ValueError(f"y: expected one label per row, received {y!r}")
        [(x, y, weight)] = batches(x, y, sample_weight, len(y), vectorizer=self.vectorizer)
        with self.turns.alone(), self.turns.owned(self, "train_on_batch"):
            return steps.train_step(self, x, y, weight, when="train_on_batch")[0]

    def predict_on_batch(self, x: Any) -> np.ndarray:
        """The outputs of one batch, on the host."""
        if not hasattr(x, "__len__") or (hasattr(x, "shape") and not x.shape):
            raise TypeError(f"x: expected a batch of rows, received {x!r}")
        return training.predict(self, x, batch_size=len(x))

    # -- describing and storing --

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Print a table of the layers: name, output shape, what becomes of the mask, weights."""
        if not self.built and self.known_input_shape() is not None:
            self.build()
        print_fn(summary_table(self))

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "trainable": self.trainable,
            "input_shape": self.input_shape,
            "layers": [saving.describe(layer) for layer in self.layers],
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Sequential:
        """An equal model with new weights."""
        stored, name, trainable, shape = saving.fields(
            "Sequential", config, "layers", "name", "trainable", "input_shape"
        )
        model = cls(saving.made_layers("Sequential", stored), name=name)
        model.trainable = flag("trainable", trainable)
        if shape is not None:
            model.input_shape = sizes("input_shape", shape)
        return model

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the whole model, vocabulary and training state included, into one file."""
        saving.save(self, path)


def name_apart(layer: Layer, others: Iterable[Layer]) -> None:
    """Number a layer's name if one of the others has it.

    Raises:
        ValueError: if the user gave the name, or the layer is one of the others.
    """
    if any(layer is other for other in others):
        raise ValueError(f"{layer.name}: this very layer is in the model already")
    taken = {other.name for other in others}
    if layer.name in taken and layer.named_by_user:
        raise ValueError(f"{layer.name}: another layer has this name already")
    base, number = layer.name, 0
    while layer.name in taken:
        number += 1
        layer.name = f"{base}_{number}"


def without_activation(
    last: Layer, loss: losses.Loss
) -> tuple[Layer, losses.Loss, activations.Activation]:
    """A model's last layer without the softmax or sigmoid that belongs to the loss, the loss of
    what it then gives, and what was left out, or `linear`."""
    if not hasattr(last, "split_activation"):
        return last, loss, activations.linear
    bare, activation = last.split_activation()
    if activation.name != loss.activation:
        return last, loss, activations.linear
    if loss.from_logits:
        raise ValueError(
            f"loss: from_logits=True, but the model ends in its {loss.activation} "
            "already; leave one of the two out"
        )
    return bare, loss.on_logits(), activation


def layers_in_a_row(layers: Iterable[Layer], prefix: str = "") -> Iterator[tuple[str, Layer]]:
    """`(name, layer)`; those of models among them in their places, as `outer_inner`."""
    for layer in layers:
        if isinstance(layer, Sequential):
            yield from layers_in_a_row(layer.layers, f"{prefix}{layer.name}_")
        else:
            yield prefix + layer.name, layer


def packs_between(layer: Layer, following: Layer | None, x: Any) -> bool:
    """Whether `layer` can hand on the real steps alone: what the padding between them cost."""
    if following is None or not following.takes_packed or not layer.gives_packed(x):
        return False
    return all(getattr(type(each).forward, "packs", False) for each in (layer, following))


saving.CLASSES["Sequential"] = Sequential  # a model may stand inside a model


def load(path: str | os.PathLike[str]) -> Any:
    """The model that `save` wrote: a Sequential, or a Seq2Seq.

    Raises:
        FileFormatError: if the file is not such a model, or is damaged.
    """
    return saving.load(path, Sequential)


load_model = load  # its name in Keras
