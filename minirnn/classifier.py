"""The news classifier: four small models for AG News, how they are trained, and how well they do.

>>> from minirnn.data import ag_news
>>> data = ag_news.load("sample")
>>> model = build_model("rnn-title", adapted_vectorizer(data.train.titles))
>>> history = train(model, data.train.take(64), epochs=1, verbose=0)
>>> predict(model, ["Wrestlers win the regatta"]).shape
(1, 4)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from minirnn.callbacks import History
from minirnn.checkpoint import Checkpoint
from minirnn.data.ag_news import CLASS_NAMES, NewsData, Rows
from minirnn.data.shards import Files
from minirnn.data.stream import SHUFFLE_BUFFER, Stream, title_and_description, title_only
from minirnn.layers import (
    LSTM,
    Bidirectional,
    Dense,
    Embedding,
    Layer,
    SimpleRNN,
    TextVectorization,
)
from minirnn.lookup import by_name
from minirnn.metrics import confusion_matrix
from minirnn.models import Sequential
from minirnn.models import load as load_model
from minirnn.parallel import Ranks

MAX_TOKENS = 20_000
VOCABULARY_TITLES = 2_000  # the vocabulary is learned from this many titles, the first ones
PREDICT_BATCH = 64  # texts predicted at a time


class ClassifierError(ValueError):
    """A model that cannot do what is asked of it here."""


class Recipe(NamedTuple):
    """One of the models, and how it is trained.

    layers: makes the layers between the vectorizer and the last Dense layer.
    titles_only: it reads the titles; else each title, a space and the description.
    batch_size: rows per training step.
    sample_epochs: passes over the sample, which has few rows; AG News needs one.
    about: one line to show.
    """

    layers: Callable[[], list[Layer]]
    titles_only: bool
    batch_size: int
    sample_epochs: int
    about: str


RECIPES = {
    "rnn-title": Recipe(
        lambda: [Embedding(MAX_TOKENS, 64), SimpleRNN(16)],
        titles_only=True,
        batch_size=16,
        sample_epochs=8,
        about="SimpleRNN(16) on the titles, no mask",
    ),
    "rnn": Recipe(
        lambda: [Embedding(MAX_TOKENS, 64, mask_zero=True), SimpleRNN(16)],
        titles_only=False,
        batch_size=16,
        sample_epochs=5,
        about="SimpleRNN(16) on titles and descriptions, padding masked",
    ),
    "lstm": Recipe(
        lambda: [Embedding(MAX_TOKENS, 64), LSTM(8)],
        titles_only=False,
        batch_size=8,
        sample_epochs=12,
        about="LSTM(8) on titles and descriptions, no mask; learns slowly",
    ),
    "bilstm": Recipe(
        lambda: [
            Embedding(MAX_TOKENS, 128, mask_zero=True),
            Bidirectional(LSTM(64, return_sequences=True)),
            Bidirectional(LSTM(64)),
        ],
        titles_only=False,
        batch_size=16,
        sample_epochs=2,
        about="two Bidirectional(LSTM(64)) on titles and descriptions, padding masked",
    ),
}


# --- making and training a model ------------------------------------------------------------------


def adapted_vectorizer(titles: Sequence[str]) -> TextVectorization:
    """Knows the words of the first 2,000 of these titles; all other words are unknown to it."""
    vectorizer = TextVectorization(max_tokens=MAX_TOKENS)
    vectorizer.adapt(titles[:VOCABULARY_TITLES])
    return vectorizer


def build_model(name: str, vectorizer: TextVectorization) -> Sequential:
    """The model of this name, compiled: texts `(batch,)` to probabilities `(batch, 4)`.

    Raises:
        ValueError: if there is no model of this name.
    """
    recipe = by_name("model", name, RECIPES)
    head = Dense(len(CLASS_NAMES), activation="softmax")
    model = Sequential([vectorizer, *recipe.layers(), head], name=name)
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["acc"])
    model.build()
    return model


def texts_for(model: Sequential, rows: Rows) -> list[str]:
    """What this model reads of each row; the model's name tells whether that is the title alone."""
    recipe = RECIPES.get(model.name)
    return rows.titles if recipe is not None and recipe.titles_only else rows.texts()


def default_epochs(name: str, data: NewsData) -> int:
    """One pass over AG News; several over the sample."""
    return RECIPES[name].sample_epochs if data.source == "sample" else 1


def stream(
    name: str,
    files: Files,
    batch_size: int | None = None,
    shuffle_buffer: int = SHUFFLE_BUFFER,
    seed: int = 0,
) -> Stream:
    """Training rows for the model of this name, from files that need not fit into memory."""
    recipe = by_name("model", name, RECIPES)
    parse = title_only if recipe.titles_only else title_and_description
    return Stream(files, batch_size or recipe.batch_size, shuffle_buffer, seed, parse)


def first_titles(files: Files, shuffle_buffer: int, seed: int) -> list[str]:
    """The titles that such a stream gives first, of shuffled rows, to learn the vocabulary from."""
    rows = Stream(files, shuffle_buffer=shuffle_buffer, seed=seed, parse=title_only)
    return [title for titles in rows.texts(VOCABULARY_TITLES) for title in titles]


def train(
    model: Sequential,
    rows: Rows | Stream,
    epochs: int,
    batch_size: int | None = None,
    verbose: str | int = "auto",
    checkpoint: Checkpoint | None = None,
    ranks: Ranks | None = None,
) -> History:
    """Train a model that `build_model` made; the rows are shuffled anew in each epoch."""
    options = {"checkpoint": checkpoint, "ranks": ranks}
    if isinstance(rows, Stream):
        return model.fit(rows, epochs=epochs, verbose=verbose, **options)
    batch_size = batch_size or RECIPES[model.name].batch_size
    texts = texts_for(model, rows)
    return model.fit(texts, rows.labels, batch_size, epochs, verbose, **options)


def load(path: str | os.PathLike[str]) -> Sequential:
    """The classifier in a file that `save` wrote: a model from texts to one of several classes.

    Raises:
        FileFormatError: if the file is no model, or is damaged.
        ClassifierError: if the model in it is no classifier of texts.
    """
    model = load_model(path)
    if model.vectorizer is None:
        raise ClassifierError(
            f"{path}: this model takes no texts. Expected a model that begins with a "
            "TextVectorization layer, such as `minirnn train --save` writes."
        )
    shape = model.compute_output_shape((None,))
    if len(shape) != 2 or shape[1] is None or shape[1] < 2:
        raise ClassifierError(
            f"{path}: this model is no classifier; its output for a batch of texts has the shape "
            f"{shape}. Expected (batch, classes), with two classes or more."
        )
    return model


# --- using it -------------------------------------------------------------------------------------


def class_names(model: Sequential) -> Sequence[str]:
    """The names of the model's classes; of a model that is not for AG News, their numbers."""
    classes = model.compute_output_shape((None,))[-1]
    return CLASS_NAMES if classes == len(CLASS_NAMES) else [str(i) for i in range(classes)]


def predict(model: Sequential, texts: Sequence[str]) -> np.ndarray:
    """`(texts, classes)` probabilities, float32.

    The models without a mask take padding for words, in training as here, so what they say of a
    text depends a little on how long the longest text of its batch is.

    Raises:
        ClassifierError: if the outputs are no probabilities.
        NonFiniteError: if they are not even numbers.
    """
    outputs = model.predict(list(texts), batch_size=PREDICT_BATCH)
    if not np.allclose(outputs.sum(axis=1), 1, atol=1e-3):
        raise ClassifierError(
            f"the outputs of model {model.name!r} are no probabilities: they do not add up to 1. "
            'Expected a last layer with activation="softmax".'
        )
    return outputs


class Result(NamedTuple):
    """How a model did on labelled rows.

    probabilities: (rows, classes) float32. confusion: (classes, classes) counts, a row for each
    true class and a column for each predicted one.
    """

    probabilities: np.ndarray
    confusion: np.ndarray

    @property
    def correct(self) -> int:
        return int(self.confusion.trace())

    @property
    def accuracy(self) -> float:
        return self.correct / int(self.confusion.sum())


def evaluate(model: Sequential, rows: Rows) -> Result:
    """Predict the class of each row, and compare.

    Raises:
        ClassifierError: if the model has other classes than the rows.
    """
    names = class_names(model)
    if len(names) != len(CLASS_NAMES):
        raise ClassifierError(
            f"model {model.name!r} has {len(names)} classes, and the news rows have "
            f"{len(CLASS_NAMES)}: {', '.join(CLASS_NAMES)}"
        )
    probabilities = predict(model, texts_for(model, rows))
    predicted = probabilities.argmax(axis=1)
    return Result(probabilities, confusion_matrix(rows.labels, predicted, len(names)))


# --- showing it -----------------------------------------------------------------------------------


def report(model: Sequential, data: NewsData, headlines: int = 6) -> str:
    """Accuracy and confusion table on the test rows, and what it says of the first `headlines`."""
    result = evaluate(model, data.test)
    total = len(data.test)
    return "\n".join(
        [
            f"Accuracy on the {total:,} test rows of {short_name(data)}: "
            f"{result.accuracy:.4f} ({result.correct:,} right)",
            "",
            *confusion_table(result.confusion),
            "",
            *headline_table(data.test.take(headlines), result.probabilities),
        ]
    )


def short_name(data: NewsData) -> str:
    """What these rows are, to stand beside every number that comes from them."""
    return "the generated sample (not AG News)" if data.source == "sample" else "AG News"


def confusion_table(confusion: np.ndarray) -> list[str]:
    width = max(map(len, CLASS_NAMES)) + 2
    lines = ["How often each class (a row) was taken for each class (a column):"]
    lines.append(" " * width + "".join(name.rjust(width) for name in CLASS_NAMES))
    for name, counts in zip(CLASS_NAMES, confusion.tolist(), strict=True):
        lines.append(name.ljust(width) + "".join(f"{count:{width},}" for count in counts))
    return lines


def headline_table(rows: Rows, probabilities: np.ndarray) -> list[str]:
    """One line for each row: its probabilities, the class predicted, and the title."""
    width = max(map(len, CLASS_NAMES)) + 2
    lines = ["Probability of each class, the class predicted, and the headline:"]
    lines.append("".join(name.rjust(width) for name in CLASS_NAMES))
    for title, label, p in zip(rows.titles, rows.labels, probabilities, strict=False):
        shown = "".join(f"{value:{width}.3f}" for value in p)
        best = int(p.argmax())
        truth = "" if best == label else f"  (it is {CLASS_NAMES[label]})"
        lines.append(f"{shown}  {CLASS_NAMES[best]:<{width}}{title}{truth}")
    return lines
