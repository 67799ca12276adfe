"""Mistakes that people make, and what they are told: what came, what was expected, what to do.

No mistake may end in a wrong answer, or in an error from inside NumPy.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from model_cases import CLASSES, TIME, TOKENS, ids, labels, texts, vectorizer, vectors

from minirnn import Sequential, callbacks, layers, losses, optimizers
from minirnn.data import Dataset
from minirnn.initializers import Constant
from minirnn.layers import (
    GRU,
    LSTM,
    RNN,
    Activation,
    Bidirectional,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GlobalAveragePooling1D,
    GlobalMaxPooling1D,
    Masking,
    OneHot,
    SimpleRNN,
    TextVectorization,
    TimeDistributed,
)


def model_of(*stack, loss="sparse_categorical_crossentropy", metrics=("acc",)):
    """A compiled model of these layers and a softmax over CLASSES."""
    model = Sequential([*stack, Dense(CLASSES, activation="softmax")])
    model.compile("adam", loss, list(metrics))
    return model


def on_ids(**options):
    return model_of(Embedding(TOKENS, 3), LSTM(2), **options)


def on_vectors(**options):
    return model_of(LSTM(2), **options)


def on_texts(**options):
    return model_of(vectorizer(), Embedding(12, 3, mask_zero=True), LSTM(2), **options)


def fit(model, *data, **options):
    return model.fit(*data, verbose=0, **options)


def ending_in(layer, loss):
    """A compiled model with this layer at its end."""
    model = Sequential([Embedding(TOKENS, 3), LSTM(2), layer])
    model.compile("sgd", loss)
    return model


LOGITS = losses.SparseCategoricalCrossentropy(from_logits=True)
X, Y, V, TEXTS = ids(), labels(), vectors(), texts()
ROWS = len(X)


def batches(*elements):
    return Dataset.from_rows(list(elements))


# name → (what is done, the kind of error, what its message says)
MISTAKES = {
    # --- labels
    "one-hot labels with the sparse loss": (
        lambda: fit(on_ids(), X, np.eye(CLASSES)[Y]),
        ValueError,
        r"y_true: expected shape \(13,\) .* received \(13, 3\); .* use categorical_crossentropy",
    ),
    "class numbers with the dense loss": (
        lambda: fit(on_ids(loss="categorical_crossentropy"), X, Y),
        ValueError,
        r"expected shape \(13, 3\) .* received \(13,\); .* use sparse_categorical_crossentropy",
    ),
    "labels from 1": (
        lambda: fit(on_ids(), X, Y + 1),
        ValueError,
        r"y_true: expected each label to be one of the 3 classes, 0 to 2; received 3 in row \d+",
    ),
    "labels below 0": (
        lambda: fit(on_ids(), X, Y - 1),
        ValueError,
        "one of the 3 classes, 0 to 2; received -1 in row",
    ),
    "labels with fractions": (
        lambda: fit(on_ids(), X, Y + 0.5),
        ValueError,
        r"y_true: expected each label to be a whole number; received \d.5 in row 0",
    ),
    "labels that are not numbers": (
        lambda: fit(on_ids(), X, np.where(np.arange(ROWS) == 4, np.nan, 1.0)),
        ValueError,
        "expected each label to be a whole number; received nan in row",
    ),
    "labels that are words": (
        lambda: fit(on_ids(), X, ["World"] * ROWS),
        ValueError,
        "y_true: expected class numbers, received <U5",
    ),
    "one label per row with an output per step": (
        lambda: fit(model_of(Embedding(TOKENS, 3), LSTM(2, return_sequences=True)), X, Y),
        ValueError,
        r"y_true: expected shape \(13, 7\) for y_pred of shape \(13, 7, 3\), received \(13,\)",
    ),
    "labels outside at a step": (
        lambda: fit(model_of(Embedding(TOKENS, 3), LSTM(2, return_sequences=True)), X, X),
        ValueError,
        r"0 to 2; received \d+ in row \d+, step \d+",
    ),
    "targets outside 0 to 1": (
        lambda: fit(on_ids(loss="binary_crossentropy"), X, np.full((ROWS, CLASSES), 2.0)),
        ValueError,
        "y_true: expected targets from 0 to 1, received 2.0",
    ),
    "no labels": (lambda: fit(on_ids(), X), ValueError, "need labels; the data set gives none"),
    "no labels in a data set": (
        lambda: fit(on_ids(), batches(X)),
        ValueError,
        "need labels; the data set gives none",
    ),
    "no labels to validate with": (
        lambda: fit(on_ids(), X, Y, validation_data=(X,)),
        ValueError,
        r"validation_data: expected \(x, y\), .* received 1 parts",
    ),
    "evaluate without labels": (lambda: on_ids().evaluate(X), ValueError, "need labels"),
    # --- the number of rows
    "fewer labels than rows": (
        lambda: fit(on_ids(), X, Y[:5]),
        ValueError,
        "x has 13 rows and y has 5; there must be as many",
    ),
    "fewer weights than rows": (
        lambda: fit(on_ids(), X, Y, sample_weight=np.ones(4)),
        ValueError,
        "x has 13 rows and sample_weight has 4; there must be as many",
    ),
    "fewer labels than texts": (
        lambda: fit(on_texts(), TEXTS, Y[:5]),
        ValueError,
        "x has 13 rows and y has 5",
    ),
    "fewer labels than rows in a batch": (
        lambda: fit(on_ids(), batches((X, Y[:5]))),
        ValueError,
        r"y_true: expected shape \(13,\) .* received \(5,\)",
    ),
    "fewer labels than rows in validation": (
        lambda: fit(on_ids(), X, Y, validation_data=(X, Y[:5])),
        ValueError,
        "x has 13 rows and y has 5",
    ),
    "weights of the wrong shape": (
        lambda: fit(on_ids(), X, Y, sample_weight=np.ones((ROWS, 2))),
        ValueError,
        r"sample_weight: expected shape \(13,\), received \(13, 2\)",
    ),
    "no rows": (lambda: fit(on_ids(), X[:0], Y[:0]), ValueError, "the data set is empty"),
    "no rows in a list": (lambda: fit(on_ids(), [], []), ValueError, "the data set is empty"),
    "no texts": (lambda: on_texts().predict([]), ValueError, "the data set is empty"),
    "no rows to predict": (
        lambda: on_ids().predict(X[:0]),
        ValueError,
        "there must be at least one",
    ),
    "no batches": (
        lambda: fit(on_ids(), batches()),
        ValueError,
        "there must be at least one batch",
    ),
    "no batches after a filter": (
        lambda: fit(on_ids(), Dataset.from_arrays((X, Y)).filter(lambda x, y: False).batch(2)),
        ValueError,
        "the data set is empty",
    ),
    # --- what x is
    "texts without a vectorizer": (
        lambda: fit(on_ids(), TEXTS, Y),
        TypeError,
        r"embedding: expected whole numbers \(token ids\), received text.*TextVectorization layer",
    ),
    "texts to predict without a vectorizer": (
        lambda: on_ids().predict(TEXTS),
        TypeError,
        "received text. Text goes through a TextVectorization layer first",
    ),
    "texts in a data set without a vectorizer": (
        lambda: fit(on_ids(), Dataset.from_arrays((TEXTS, Y)).batch(4)),
        TypeError,
        "received text. Text goes through a TextVectorization layer first",
    ),
    "ids into a model of texts": (
        lambda: on_texts().predict(X),
        TypeError,
        "begins with a TextVectorization layer and expects texts; received int64 values",
    ),
    "lists of ids into a model of texts": (
        lambda: on_texts().predict(X.tolist()),
        (TypeError, ValueError),
        r"expected texts.* number 0",
    ),
    "None among the texts": (
        lambda: on_texts().predict(["oil", None]),
        TypeError,
        "expected texts, but number 1 is None of type NoneType",
    ),
    "a vectorizer that was not adapted": (
        lambda: fit(model_of(TextVectorization(), Embedding(9, 3), LSTM(2)), TEXTS, Y),
        ValueError,
        r"text_vectorization: this layer has no vocabulary yet. Call adapt\(texts\)",
    ),
    "one text instead of a list": (
        lambda: on_ids().predict("oil prices"),
        TypeError,
        "x: expected an array or list of rows, received <class 'str'>",
    ),
    "a vocabulary larger than the embedding": (
        lambda: model_of(vectorizer(), Embedding(5, 3), LSTM(2)).predict(TEXTS),
        ValueError,
        r"embedding: id \d+ at \(\d+, \d+\) is outside 0..4. The vocabulary and this layer's size",
    ),
    "ids beyond the embedding": (
        lambda: fit(on_ids(), X + TOKENS, Y),
        ValueError,
        r"embedding: id \d+ at \(0, 0\) is outside 0..10",
    ),
    "ids below 0": (lambda: on_ids().predict(X - 1), ValueError, "id -1 at .* is outside 0..10"),
    "ids with fractions": (
        lambda: on_ids().predict(X + 0.5),
        TypeError,
        "embedding: expected whole numbers .*, received float64 with fractions",
    ),
    "ids beyond the one-hot layer": (
        lambda: model_of(OneHot(4), LSTM(2)).predict(X),
        ValueError,
        r"one_hot: id \d+ at .* is outside 0..3",
    ),
    "a matrix into an LSTM": (
        lambda: fit(on_vectors(), V[:, 0], Y),
        ValueError,
        r"lstm: expected input of shape \(batch, time, features\), received \(13, 2\). Token ids "
        "go through an Embedding",
    ),
    "ids into an LSTM": (
        lambda: on_vectors().predict(X),
        ValueError,
        "Token ids go through an Embedding or OneHot layer first",
    ),
    "other features than before": (
        lambda: (model := on_vectors(), model.predict(V), model.predict(np.ones((2, 5, 3)))),
        ValueError,
        r"lstm: expected input of shape \(batch, time, 2\), received \(2, 5, 3\)",
    ),
    "other features into Dense": (
        lambda: (model := model_of(), model.predict(V[:, 0]), model.predict(np.ones((2, 5)))),
        ValueError,
        r"dense: expected input of shape \(batch, ..., 2\), received \(2, 5\)",
    ),
    "rows without features into Dense": (
        lambda: model_of().predict(np.ones(4)),
        ValueError,
        r"dense: expected input of shape \(batch, ..., features\), received \(4,\)",
    ),
    "a matrix into a layer for each step": (
        lambda: model_of(TimeDistributed(Dense(3))).predict(V[:, 0]),
        ValueError,
        r"time_distributed: expected input of shape \(batch, time, ...\), received \(13, 2\)",
    ),
    "a matrix into a pooling": (
        lambda: model_of(GlobalAveragePooling1D()).predict(V[:, 0]),
        ValueError,
        r"global_average_pooling1d: expected input of shape \(batch, time, features\)",
    ),
    "a matrix into Masking": (
        lambda: model_of(Masking()).predict(V[:, 0]),
        ValueError,
        r"masking: expected input of shape \(batch, time, features\), received \(13, 2\)",
    ),
    "one number": (lambda: on_ids().predict(5), TypeError, "x: expected an array or list of rows"),
    "one number in an array": (
        lambda: on_ids().predict(np.array(5)),
        ValueError,
        "x: expected an array or list of rows, received one number",
    ),
    "None": (lambda: on_ids().predict(None), TypeError, "x: expected an array or list of rows"),
    "a dictionary": (lambda: on_ids().predict({"x": X}), TypeError, "received <class 'dict'>"),
    "a generator": (
        lambda: fit(on_ids(), ((X, Y) for _ in range(3))),
        TypeError,
        r"x: a generator can be walked only once.*Dataset.from_generator\(function\)",
    ),
    "a generator function": (
        lambda: fit(on_ids(), lambda: iter([(X, Y)])),
        TypeError,
        "x: expected an array or list of rows, received <class 'function'>",
    ),
    "four fields": (
        lambda: fit(on_ids(), batches((X, Y, None, None))),
        ValueError,
        r"expected a data set of x, \(x, y\) or \(x, y, sample_weight\); received an element of 4",
    ),
    "a dictionary for each batch": (
        lambda: fit(on_ids(), batches({"x": X, "y": Y})),
        TypeError,
        "x: expected an array or list of rows, received <class 'dict'>",
    ),
    "a data set without batches": (
        lambda: fit(on_ids(), Dataset.from_arrays((X, Y))),
        ValueError,
        r"lstm: expected input of shape \(batch, time, ",
    ),
    "a data set and labels": (
        lambda: fit(on_ids(), batches((X, Y)), Y),
        ValueError,
        "x is a data set that gives whole batches.*y, sample_weight and batch_size go with arrays",
    ),
    "a data set and a batch size": (
        lambda: fit(on_ids(), batches((X, Y)), batch_size=4),
        ValueError,
        "sample_weight and batch_size go with arrays only",
    ),
    "texts into Dense": (
        lambda: model_of().predict(np.array([["a", "b"]])),
        TypeError,
        "dense: expected numbers, received str",
    ),
    "lists of texts into a layer": (
        lambda: LSTM(2)([[["a", "b"]]]),
        TypeError,
        "lstm: expected numbers, received str",
    ),
    "booleans as ids": (
        lambda: on_ids().predict(X > 3),
        TypeError,
        "embedding: expected whole numbers .*, received bool",
    ),
    # --- masks
    "a mask of the wrong shape": (
        lambda: LSTM(2)(V, mask=np.ones((ROWS, TIME + 1), bool)),
        ValueError,
        r"lstm: the mask has shape \(13, 8\), the input \(batch, time\) is \(13, 7\)",
    ),
    "a mask of the wrong shape into a model": (
        lambda: Sequential([Dense(2), GRU(2)])(V, mask=np.ones((ROWS - 1, TIME), bool)),
        ValueError,
        r"sequential: the mask has shape \(12, 7\), the input",
    ),
    "a mask of numbers": (
        lambda: LSTM(2)(V, mask=np.ones((ROWS, TIME))),
        ValueError,
        r"mask: expected booleans of shape \(batch, time\), True = a real step; received float64",
    ),
    "a mask for one row": (
        lambda: Bidirectional(LSTM(2))(V, mask=np.ones(TIME, bool)),
        ValueError,
        r"mask: expected booleans of shape \(batch, time\).* received bool of shape \(7,\)",
    ),
    "a mask of the wrong shape into a pooling": (
        lambda: GlobalMaxPooling1D()(V, mask=np.ones((ROWS, 2), bool)),
        ValueError,
        r"the mask has shape \(13, 2\), the input",
    ),
    "a mask into Flatten": (
        lambda: fit(
            model_of(layers.Input((7,)), Embedding(TOKENS, 3, mask_zero=True), Flatten()), X, Y
        ),
        ValueError,
        r"flatten: this layer cannot use a mask.*put DropMask\(\) before it",
    ),
    # --- names
    "an optimizer misspelt": (
        lambda: Sequential([Dense(2)]).compile("adamm", "mse"),
        ValueError,
        "optimizer: there is none called 'adamm'. Did you mean 'adam'",
    ),
    "a loss misspelt": (
        lambda: on_ids(loss="sparse_categorical_crossentrpy"),
        ValueError,
        "loss: there is none called .* Did you mean 'sparse_categorical_crossentropy'",
    ),
    "a metric misspelt": (
        lambda: on_ids(metrics=["acuracy"]),
        ValueError,
        "metric: there is none called 'acuracy'. Did you mean 'accuracy'",
    ),
    "an activation misspelt": (
        lambda: Dense(2, activation="sofmax"),
        ValueError,
        "activation: there is none called 'sofmax'. Did you mean 'softmax'",
    ),
    "an initializer misspelt": (
        lambda: LSTM(2, recurrent_initializer="ortogonal"),
        ValueError,
        "initializer: there is none called 'ortogonal'. Did you mean 'orthogonal'",
    ),
    "an output mode misspelt": (
        lambda: TextVectorization(output_mode="multihot"),
        ValueError,
        "output_mode: there is none called 'multihot'. Did you mean 'multi_hot'",
    ),
    "a function as activation": (
        lambda: Dense(2, activation=np.tanh),
        TypeError,
        "activation: expected a name or an object, received <ufunc 'tanh'>",
    ),
    "a function as loss": (
        lambda: on_ids(loss=lambda y, p: 0),
        TypeError,
        "loss: expected a name or an object, received <function",
    ),
    "no loss": (
        lambda: Sequential([Dense(2)]).compile("adam"),
        ValueError,
        "loss: expected a name or a Loss, such as 'mse'; received None",
    ),
    "softmax inside a cell": (
        lambda: fit(model_of(SimpleRNN(2, activation="softmax")), V, Y),
        ValueError,
        "softmax: .* cannot serve inside a cell. Use it in the last layer",
    ),
    # --- the order of calls
    "fit before compile": (
        lambda: fit(Sequential([Dense(2)], name="early"), V, Y),
        ValueError,
        r"early: call compile\(optimizer, loss, metrics\) before training",
    ),
    "evaluate before compile": (
        lambda: Sequential([Dense(2)]).evaluate(V, Y),
        ValueError,
        "call compile",
    ),
    "train_on_batch before compile": (
        lambda: Sequential([Dense(2)]).train_on_batch(V, Y),
        ValueError,
        "call compile",
    ),
    "fit without layers": (
        lambda: (model := Sequential(), model.compile("sgd", "mse"), fit(model, V, Y)),
        ValueError,
        "sequential: the model has no layers",
    ),
    "counting weights that are not there": (
        lambda: LSTM(3).count_params(),
        ValueError,
        r"lstm: this layer has no weights yet. Call it on a batch, or call build\(input_shape\)",
    ),
    "forward before build": (lambda: Dense(2).forward(V), ValueError, "no weights yet"),
    "adapt twice": (
        lambda: TextVectorization(vocabulary=["a"]).adapt(TEXTS),
        ValueError,
        r"adapt\(\) would replace the vocabulary that was given",
    ),
    # --- numbers that make no sense
    "a share of 1 to validate with": (
        lambda: fit(on_ids(), X, Y, validation_split=1.0),
        ValueError,
        "validation_split: expected a share between 0 and 1, received 1.0",
    ),
    "a share below 0": (
        lambda: fit(on_ids(), X, Y, validation_split=-0.1),
        ValueError,
        "validation_split: expected a share between 0 and 1",
    ),
    "a share that leaves nothing": (
        lambda: fit(on_ids(), X, Y, validation_split=0.999),
        ValueError,
        "validation_split: 0.999 of 13 rows leaves one of the parts empty",
    ),
    "a share of a data set": (
        lambda: fit(on_ids(), batches((X, Y)), validation_split=0.1),
        ValueError,
        r"validation_split: goes with arrays only; use take\(\) and skip\(\)",
    ),
    "two kinds of validation": (
        lambda: fit(on_ids(), X, Y, validation_split=0.1, validation_data=(X, Y)),
        ValueError,
        "give validation_split or validation_data, not both",
    ),
    "a negative batch size": (
        lambda: fit(on_ids(), X, Y, batch_size=-1),
        ValueError,
        "batch_size: expected a positive whole number, received -1",
    ),
    "a batch size with a fraction": (
        lambda: fit(on_ids(), X, Y, batch_size=2.5),
        ValueError,
        "batch_size: expected a positive whole number, received 2.5",
    ),
    "another verbosity": (
        lambda: on_ids().fit(X, Y, verbose="loud"),
        ValueError,
        "verbose: expected 'auto', 0, 1 or 2, received 'loud'",
    ),
    "no units": (
        lambda: Dense(0),
        ValueError,
        "units: expected a positive whole number, received 0",
    ),
    "half a unit": (lambda: LSTM(2.5), ValueError, "units: expected a positive whole number"),
    "an embedding of no rows": (
        lambda: Embedding(0, 3),
        ValueError,
        "input_dim: expected a positive",
    ),
    "a rate above 1": (lambda: Dropout(1.5), ValueError, "rate: expected a share from 0 up to"),
    "a state of another size": (
        lambda: LSTM(2)(V, initial_state=(np.ones((ROWS, 3)), np.ones((ROWS, 3)))),
        ValueError,
        r"lstm: expected initial_state \(h, c\), each \(13, 2\); received",
    ),
    "one state of two": (
        lambda: LSTM(2)(V, initial_state=(np.ones((ROWS, 2)),)),
        ValueError,
        r"expected initial_state \(h, c\)",
    ),
    "a stateful layer and a smaller batch": (
        lambda: model_of(Embedding(TOKENS, 3), GRU(2, stateful=True)).predict(X, batch_size=5),
        ValueError,
        r"gru: a stateful layer needs batches of one size: .* 5 rows and received 3. Call reset_st",
    ),
    "two kinds of clipping": (
        lambda: optimizers.Adam(clipnorm=1.0, clipvalue=1.0),
        ValueError,
        "expected at most one of them, received clipnorm=1.0, clipvalue=1.0",
    ),
    "smoothing above 1": (
        lambda: losses.CategoricalCrossentropy(label_smoothing=2),
        ValueError,
        "label_smoothing: expected a number from 0 to 1, received 2",
    ),
    "Embedding with mask_zero on ids without a time axis": (
        lambda: model_of(Embedding(TOKENS, 3, mask_zero=True), LSTM(2)).predict(X[:, 0]),
        ValueError,
        r"embedding: mask_zero needs ids of shape \(batch, time\), received \(13,\)",
    ),
    # --- softmax and loss that do not go together
    "a loss on probabilities and no softmax": (
        lambda: fit(ending_in(Dense(CLASSES), "sparse_categorical_crossentropy"), X, Y),
        ValueError,
        r"y_pred: expected probabilities from 0 to 1, received .* or the loss from_logits=True",
    ),
    "a loss on probabilities and a relu": (
        lambda: ending_in(
            Dense(CLASSES, "relu", bias_initializer=Constant(2.0)), "categorical_crossentropy"
        ).evaluate(X, np.eye(CLASSES)[Y], verbose=0),
        ValueError,
        r"y_pred: expected probabilities .* or the loss from_logits=True",
    ),
    "a loss on probabilities and no sigmoid": (
        lambda: fit(ending_in(Dense(CLASSES), "binary_crossentropy"), X, np.eye(CLASSES)[Y]),
        ValueError,
        r"y_pred: expected probabilities .* or the loss from_logits=True",
    ),
    "a softmax twice": (
        lambda: fit(ending_in(Dense(CLASSES, "softmax"), LOGITS), X, Y),
        ValueError,
        "loss: from_logits=True, but the model ends in its softmax already; leave one",
    ),
    "a softmax twice, the first a layer of its own": (
        lambda: ending_in(Activation("softmax"), LOGITS).evaluate(X, Y % 2, verbose=0),
        ValueError,
        "loss: from_logits=True, but the model ends in its softmax already; leave one",
    ),
    "a sigmoid twice": (
        lambda: fit(
            ending_in(Dense(1, "sigmoid"), losses.BinaryCrossentropy(from_logits=True)), X, Y % 2
        ),
        ValueError,
        "loss: from_logits=True, but the model ends in its sigmoid already; leave one",
    ),
    # --- things of the wrong kind
    # --- things of the wrong kind
    "a layer that is none": (
        lambda: Sequential([Dense(2), "softmax"]),
        TypeError,
        "expected a layer",
    ),
    "a cell that is none": (
        lambda: RNN(LSTM(2)),
        TypeError,
        r"cell: expected a Cell such as LSTMCell",
    ),
    "Bidirectional of Dense": (
        lambda: Bidirectional(Dense(2)),
        TypeError,
        "layer: expected a recurrent layer, received <Dense dense>",
    ),
    "Bidirectional with another mode": (
        lambda: Bidirectional(LSTM(2), merge_mode="max"),
        ValueError,
        r"merge_mode: expected one of .*received 'max'",
    ),
    "an activation that is none": (
        lambda: Activation(3),
        TypeError,
        "expected a name or an object",
    ),
    "a pretrained table of another shape": (
        lambda: Embedding(5, 3, weights=np.ones((3, 5))),
        ValueError,
        r"weights: expected shape \(5, 3\), received \(3, 5\)",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_explained(name):
    make, kind, message = MISTAKES[name]
    with pytest.raises(kind) as caught:
        make()
    assert re.search(message, str(caught.value), re.DOTALL), str(caught.value)


# Each of these ends in an error from inside NumPy or Python, in a message about something else, or
# in a wrong answer. name → (what is done, what the message should at least say)
UNUSUAL = {
    "sample_weight is one number": (
        lambda: fit(on_ids(), X, Y, sample_weight=2.0),
        "sample_weight",
    ),
    "sample_weight is ragged": (
        lambda: fit(on_ids(), X[:2], Y[:2], sample_weight=[[1, 2], [1]]),
        "sample_weight",
    ),
    "validation_data of four parts": (
        lambda: fit(on_ids(), X, Y, validation_data=(X, Y, None, 3)),
        "validation_data",
    ),
    "a list of batches": (lambda: fit(on_ids(), [(X, Y), (X, Y)]), "^x: "),
    "numbers and lists mixed": (lambda: on_ids().predict([1, [2, 3]]), "^x: "),
    "metrics is one name": (lambda: Sequential([Dense(2)]).compile("sgd", "mse", "mae"), "metrics"),
    "labels that are words, with mse": (
        lambda: fit(on_ids(loss="mse"), X, np.full((ROWS, CLASSES), "World")),
        "y_true",
    ),
    "no steps": (lambda: fit(on_ids(), X, Y, steps_per_epoch=0), "steps_per_epoch"),
    "fewer than no steps": (lambda: fit(on_ids(), X, Y, steps_per_epoch=-1), "steps_per_epoch"),
    "half an epoch": (lambda: fit(on_ids(), X, Y, epochs=1.5), "epochs"),
    "no rows in a batch": (lambda: fit(on_ids(), X, Y, batch_size=0), "batch_size"),
    "one callback instead of a list": (
        lambda: fit(on_ids(), X, Y, callbacks=callbacks.EarlyStopping("loss")),
        "callbacks",
    ),
    "a class instead of a callback": (
        lambda: fit(on_ids(), X, Y, callbacks=[callbacks.EarlyStopping]),
        "callbacks",
    ),
    "class_weight with names": (
        lambda: fit(on_ids(), X, Y, class_weight={"World": 2.0}),
        "class_weight",
    ),
    "class_weight of a class below 0": (
        lambda: fit(on_ids(), X, Y, class_weight={-1: 2.0}),
        "class_weight",
    ),
    "class_weight is a list": (lambda: fit(on_ids(), X, Y, class_weight=[1, 2, 3]), "class_weight"),
    "one label for train_on_batch": (lambda: on_ids().train_on_batch(X, 1), "^y"),
    "predict without layers": (lambda: Sequential().predict(X), "no layers"),
    "a batch that is a list": (lambda: fit(on_ids(), batches([X, Y])), "^x: "),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_mistake(name):
    make, message = UNUSUAL[name]
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    assert re.search(message, str(caught.value), re.DOTALL), str(caught.value)


@pytest.mark.parametrize("layer", [GlobalAveragePooling1D(), Dropout(0.4, seed=1)])
def test_whole_numbers_are_computed_with_as_floats(layer):
    x = np.arange(1, 43).reshape(3, 7, 2)
    expected = type(layer)(**({"rate": 0.4, "seed": 1} if isinstance(layer, Dropout) else {}))(
        x.astype("float32"), training=True
    )
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-6)


@pytest.mark.parametrize("layer", [LSTM(2), Dense(2)], ids=["lstm", "dense"])
def test_plain_lists_into_a_layer(layer):
    y = layer(V[:3].tolist())
    np.testing.assert_array_equal(y, layer(V[:3]))


def test_whole_floats_are_good_labels_and_ids():
    """What is no mistake: numbers that are whole, in a type that is not."""
    one, other = on_ids(), on_ids()
    one.build()
    other.build()
    other.set_weights(one.get_weights())
    fit(one, X, Y, shuffle=False)
    fit(other, X.astype("float64"), Y.astype("float32"), shuffle=False)
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
