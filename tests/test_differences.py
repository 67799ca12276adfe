"""One test for each row of docs/differences.md, in its order; the docstring is the row's name."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import minirnn
from minirnn import NonFiniteError, Seq2Seq, Sequential, callbacks, initializers, losses, optimizers
from minirnn.base import RowGradient
from minirnn.data import Dataset
from minirnn.layers import (
    GRU,
    LSTM,
    RNN,
    Bidirectional,
    Dense,
    DropMask,
    Dropout,
    Embedding,
    Flatten,
    GlobalAveragePooling1D,
    GlobalMaxPooling1D,
    GRUCell,
    GRUCellResetBefore,
    LSTMCell,
    TextVectorization,
    TimeDistributed,
)
from minirnn.packing import Mask

PAGE = Path(__file__).parent.parent / "docs" / "differences.md"
MASK = np.array([[0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)


def rng(seed=0):
    return np.random.default_rng(seed)


def steps(rows=3, time=4, features=5):
    return rng().normal(size=(rows, time, features)).astype("float32")


def initial(rows=3, units=2):
    return [rng(i).normal(size=(rows, units)).astype("float32") for i in (1, 2)]


def refused(make, *options):
    """Each option by itself is an argument that does not exist."""
    for option in options:
        with pytest.raises(
            TypeError, match=f"(unexpected keyword|there is no) argument '?{option}"
        ):
            make(**{option: 1})


def classifier(*layers, optimizer="sgd", **options):
    model = Sequential([*layers, Dense(3, activation="softmax")])
    model.compile(optimizer, "sparse_categorical_crossentropy", **options)
    return model


def rows(count=7, features=2):
    return rng().normal(size=(count, features)).astype("float32"), rng(1).integers(0, 3, count)


class Figures(callbacks.Callback):
    """Puts the given figures in the place of what was measured."""

    def __init__(self, name, values):
        self.name, self.values = name, values

    def on_epoch_end(self, epoch, logs):
        logs[self.name] = self.values[epoch]


# --- Recurrent layers -----------------------------------------------------------------------------


def test_masked_steps_in_front():
    """output at masked steps before the first real one"""
    x, (h, c) = steps(), initial()
    y = LSTM(2, return_sequences=True)(x, mask=MASK, initial_state=(h, c))
    assert np.array_equal(y[0, :2], [h[0], h[0]])
    assert not np.isclose(y[0, 2], h[0]).any()


def test_zero_output_for_mask():
    """`zero_output_for_mask=True` without `return_sequences`"""
    layer, x = LSTM(2, zero_output_for_mask=True), steps()
    y = layer(x, mask=MASK)
    assert np.allclose(y[1], layer(x[1:2, :2])[0], atol=1e-6)
    assert y[1].all()


def test_mask_behind_go_backwards():
    """mask behind `go_backwards=True, return_sequences=True`"""
    layer = LSTM(2, go_backwards=True, return_sequences=True)
    assert np.array_equal(layer.compute_mask(steps(), Mask(MASK)).array, MASK[:, ::-1])


def test_all_padding():
    """a row that is all padding"""
    h, c = initial()
    y, h_last, c_last = LSTM(2, return_state=True)(steps(), mask=MASK, initial_state=(h, c))
    assert all(np.array_equal(a[2], b[2]) for a, b in ((y, h), (h_last, h), (c_last, c)))


def test_no_step():
    """a batch without any step, such as texts that are all empty"""
    h, c = initial()
    assert np.array_equal(LSTM(2)(steps(time=0), initial_state=(h, c)), h)
    vectorizer = TextVectorization(vocabulary=["oil"])
    model = Sequential([vectorizer, Embedding(3, 5, mask_zero=True), GRU(2)])
    assert np.array_equal(model.predict(["", ""]), np.zeros((2, 2)))


def test_dropout_draws():
    """`dropout`, `recurrent_dropout`"""
    layer, ones = RNN(LSTMCell(2), dropout=0.5, recurrent_dropout=0.5), np.ones((3, 4, 5), "f")
    layer.build(ones.shape)
    _, cache = layer.forward(ones, training=True)
    assert cache.drop_x.shape == (3, 5)  # no axis of time, none of gates
    assert cache.loop.drop.shape == (3, 2)
    assert set(np.unique(cache.drop_x)) == {0, 2}


@pytest.mark.parametrize(
    "make", [Dropout, lambda p: LSTM(2, dropout=p), lambda p: GRU(2, recurrent_dropout=p)]
)
def test_dropout_of_1(make):
    """a dropout share of 1"""
    with pytest.raises(ValueError, match="up to, not including, 1"):
        make(1.0)


def test_seeded_initializer():
    """a seeded initializer in `Bidirectional`"""
    layer = Bidirectional(LSTM(2, kernel_initializer=initializers.GlorotUniform(seed=3)))
    layer(steps())
    assert not np.isclose(layer.params["forward_kernel"], layer.params["backward_kernel"]).any()


def test_stateful_batch_size():
    """batch size of a `stateful` layer"""
    layer, x = LSTM(2, stateful=True), steps()
    layer.build((None, None, 5))
    layer(x)
    with pytest.raises(ValueError, match="batches of one size.*3 rows and received 2"):
        layer(x[:2])
    layer.reset_state()
    assert layer(x[:2]).shape == (2, 2)


def test_cell_called():
    """a cell called on one step"""
    cell, x, state = LSTMCell(2), steps(time=1), initial()
    layer = RNN(cell, return_state=True)
    y, h, c = layer(x, initial_state=state)
    h_cell, c_cell = cell(x[:, 0], state)
    assert np.allclose(h_cell, y, atol=1e-6)
    assert np.allclose([h_cell, c_cell], [h, c], atol=1e-6)


def test_reset_before():
    """`GRUCell(reset_after=False)`"""
    refused(lambda **options: GRUCell(2, **options), "reset_after")
    assert type(GRU(2, reset_after=False).cell) is GRUCellResetBefore
    assert type(GRU(2).cell) is GRUCell


def test_dropout_of_a_cell():
    """`dropout` of a cell"""
    refused(lambda **options: LSTMCell(2, **options), "dropout", "recurrent_dropout")
    assert RNN(LSTMCell(2), dropout=0.5).dropout == 0.5


def test_list_of_cells():
    """`RNN` of a list of cells"""
    with pytest.raises(TypeError, match="cell: expected a Cell"):
        RNN([LSTMCell(2), LSTMCell(3)])


def test_backward_layer():
    """`Bidirectional(backward_layer=...)`, `weights=`"""
    refused(lambda **options: Bidirectional(LSTM(2), **options), "backward_layer", "weights")
    with pytest.raises(ValueError, match="Bidirectional makes the backward one"):
        Bidirectional(LSTM(2, go_backwards=True))


def test_options_of_recurrent_layers():
    """`unroll`, `implementation`, `use_cudnn`, `seed`"""
    refused(lambda **options: LSTM(2, **options), "unroll", "implementation", "use_cudnn", "seed")


# --- Other layers and models ----------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [-1, 6])
def test_id_outside(wrong):
    """a token id outside an `Embedding`"""
    ids = np.array([[1, 5, 2], [3, wrong, 0]])
    with pytest.raises(ValueError, match=rf"id {wrong} at \(1, 1\) is outside 0\.\.5"):
        Embedding(6, 2)(ids)


def test_ids_with_fractions():
    """token ids with fractions"""
    with pytest.raises(TypeError, match="whole numbers .* with fractions"):
        Embedding(6, 2)(np.array([[1.0, 2.5]]))
    assert Embedding(6, 2)(np.array([[1.0, 2.0]])).shape == (1, 2, 2)


def test_dense_at_masked_steps():
    """what `Dense` and `TimeDistributed` show at masked steps"""
    for layer in (Dense(2), TimeDistributed(Dense(2))):
        y = layer(steps() + 1, mask=MASK)
        assert not y[~MASK].any()
        assert y[MASK].any(axis=-1).all()


def test_max_pooling_and_masks():
    """`GlobalMaxPooling1D` and masks"""
    x = steps()
    y = GlobalMaxPooling1D()(x, mask=MASK)
    assert np.array_equal(y, [x[0, 2:].max(axis=0), x[1, :2].max(axis=0), np.zeros(5)])


def test_equal_maxima():
    """gradient of equal maxima in `GlobalMaxPooling1D`"""
    layer, dy = GlobalMaxPooling1D(), steps()[:, 0]
    _, cache = layer.forward(np.ones((3, 4, 5), "f"))
    dx, _ = layer.backward(dy, cache)
    assert np.array_equal(dx[:, 0], dy)
    assert not dx[:, 1:].any()


def test_average_of_padding():
    """`GlobalAveragePooling1D` over a row that is all padding"""
    assert np.array_equal(GlobalAveragePooling1D()(steps(), mask=MASK)[2], np.zeros(5))


def test_functions_of_your_own():
    """functions of your own as activations or losses"""
    with pytest.raises(TypeError, match="activation: expected a name or an object"):
        Dense(2, activation=lambda a: a * a)
    with pytest.raises(TypeError, match="loss: expected a name or an object"):
        Sequential([Dense(2)]).compile("sgd", lambda y, p: (y - p) ** 2)
    square = minirnn.activations.Activation("square", lambda a, out=None: a * a, lambda y: 2 * y)
    layer, x = Dense(2, activation=square), steps()[:, 0]
    assert np.array_equal(layer(x), (x @ layer.params["kernel"]) ** 2)


def test_names_of_layers():
    """names of layers"""
    for _ in range(2):
        model = Sequential([LSTM(2, return_sequences=True), LSTM(3)])
        assert [layer.name for layer in model.layers] == ["lstm", "lstm_1"]


def test_seed():
    """what is drawn from a seed"""
    limit = np.sqrt(6 / (3 + 5))
    expected = rng(9).uniform(-limit, limit, (3, 5)).astype("float32")
    assert np.array_equal(initializers.GlorotUniform(seed=9)((3, 5)), expected)


def test_options_of_layers():
    """regularizers, constraints, `dtype` of a layer"""
    for make in (Dense, LSTM):
        names = "kernel_regularizer", "kernel_constraint", "activity_regularizer", "dtype"
        refused(lambda make=make, **options: make(2, **options), *names)


def test_functional_models():
    """`Model(inputs, outputs)`"""
    assert not hasattr(minirnn, "Model")
    assert not hasattr(minirnn.models, "Model")


def test_sequence_to_sequence():
    """sequence to sequence"""
    ends = {"start": 5, "end": 6}
    encoder = [Embedding(9, 2, mask_zero=True), GRU(3, return_state=True)]
    decoder = [Embedding(7, 2, mask_zero=True), GRU(3, return_sequences=True), Dense(7, "softmax")]
    model = Seq2Seq(encoder, decoder, **ends)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit([[1, 2], [3]], [[4], [1, 2, 3]], verbose=0)
    assert len(model.translate([[1, 2], [3]], max_length=4)) == 2
    with pytest.raises(ValueError, match="the model puts these where they belong"):
        model.fit([[1, 2]], [[5, 4]], verbose=0)
    with pytest.raises(ValueError, match="mask_zero=True"):
        Seq2Seq(encoder, [Embedding(7, 2), *decoder[1:]], **ends)


# --- Masks, losses, metrics -----------------------------------------------------------------------


def test_mask_that_cannot_be_used():
    """a mask reaches a layer that cannot use it"""
    ids = np.array([[3, 1, 0, 0], [2, 2, 4, 0]])
    with pytest.raises(ValueError, match=r"flatten: .*cannot use a mask.*DropMask\(\)"):
        Sequential([Embedding(5, 2, mask_zero=True), Flatten()]).predict(ids)
    model = Sequential([Embedding(5, 2, mask_zero=True), DropMask(), Flatten()])
    assert model.predict(ids).shape == (2, 8)


def test_loss_weighted_by_steps():
    """reported loss with an output at every step and masks"""
    ids = np.array([[1, 0, 0, 0], [2, 3, 4, 1], [3, 1, 2, 0]])
    labels = rng().integers(0, 3, ids.shape)
    model = classifier(Embedding(5, 2, "normal", mask_zero=True))
    one_by_one, together = (model.evaluate(ids, labels, batch_size=b, verbose=0) for b in (1, 3))
    rows_alone = [model.evaluate(ids[[i]], labels[[i]], verbose=0) for i in range(3)]
    assert one_by_one == pytest.approx(together, rel=1e-6)
    assert one_by_one != pytest.approx(np.mean(rows_alone), rel=1e-5)


def test_loss_from_logits():
    """cross-entropy behind a softmax"""
    model = classifier()
    model.build((None, 3))
    model.set_weights([np.diag([1.0, 200.0, 1.0]), np.zeros(3)])
    assert model.predict(np.eye(3))[1, 0] == 0  # the probability underflows, its logarithm does not
    assert model.evaluate(np.eye(3)[1:2], [0], verbose=0) == pytest.approx(200)


@pytest.mark.parametrize("label", [-1, 4, 0.5])
def test_label_that_is_no_class(label):
    """a label that is no class, such as 7 of 4 or 0.5"""
    with pytest.raises(ValueError, match=f"y_true: expected .*received {label} in row 2"):
        losses.SparseCategoricalCrossentropy()(np.array([1, 3, label]), np.full((3, 4), 0.25))


def test_targets_of_another_shape():
    """targets of another shape, `(3, 1)` for `(3, 4)`"""
    with pytest.raises(ValueError, match=r"expected shape \(3, 4\).*received \(3, 1\)"):
        losses.MeanSquaredError()(np.ones((3, 1)), np.zeros((3, 4)))


def test_binary_targets():
    """binary targets outside 0 to 1"""
    with pytest.raises(ValueError, match="targets from 0 to 1, received 5.0"):
        losses.BinaryCrossentropy()(np.array([[1.0], [5.0]]), np.array([[0.3], [0.2]]))


def test_options_of_losses():
    """`reduction`, `ignore_class`, `loss_weights`, `weighted_metrics`"""
    refused(losses.SparseCategoricalCrossentropy, "reduction", "ignore_class")
    refused(Sequential().compile, "loss_weights", "weighted_metrics")


# --- Optimizers -----------------------------------------------------------------------------------


def embedding_gradient():
    """The gradient of an Embedding whose row 1 was used twice, and that row's part of each."""
    layer = Embedding(4, 1)
    layer.build((None, None))
    _, cache = layer.forward(np.array([[1, 1, 2]]))
    dy = np.array([[[0.8], [0.4], [0.3]]], "float32")
    return layer.backward(dy, cache)[1]["embeddings"]


@pytest.mark.parametrize("kind", [optimizers.Adam, optimizers.RMSprop, optimizers.Adagrad])
def test_repeated_ids(kind):
    """Adam, RMSprop, Adagrad on an `Embedding` whose ids repeat in a batch"""
    table, dense = {"e": np.zeros((4, 1), "f")}, {"e": np.zeros((4, 1), "f")}
    kind(1.0).apply(table, {"e": embedding_gradient()})
    kind(1.0).apply(dense, {"e": np.array([[0], [0.8 + 0.4], [0.3], [0]], "float32")})
    assert np.allclose(table["e"], dense["e"], rtol=1e-6)


@pytest.mark.parametrize("clipping", ["clipvalue", "clipnorm", "global_clipnorm"])
def test_repeated_ids_clipped(clipping):
    """`clipvalue`, `clipnorm`, `global_clipnorm` on such an `Embedding`"""
    table, dense = {"e": np.zeros((4, 1), "f")}, {"e": np.zeros((4, 1), "f")}
    optimizers.SGD(1.0, **{clipping: 0.9}).apply(table, {"e": embedding_gradient()})
    full = np.array([[0], [0.8 + 0.4], [0.3], [0]], "float32")
    optimizers.SGD(1.0, **{clipping: 0.9}).apply(dense, {"e": full})
    assert np.allclose(table["e"], dense["e"], rtol=1e-6)
    assert abs(table["e"][1, 0]) <= 0.9


def test_averages_of_frozen_weights():
    """a frozen weight's running averages"""
    adam = optimizers.Adam()
    params = {"a": np.ones(2, "f"), "b": np.ones(3, "f")}
    grads = {"a": np.ones(2, "f"), "b": np.ones(3, "f")}
    adam.apply(params, grads)
    adam.apply(params, {"a": grads["a"]})
    state = adam.state_dict()
    assert np.allclose(state["b/m"] * state["scale/m"], 0.1 * 0.9)
    assert np.allclose(state["b/v"] * state["scale/v"], 0.001 * 0.999)


def test_frozen_after_compile():
    """`layer.trainable = False` after `compile`"""
    x, y = rows()
    model = classifier(Dense(4))
    model.train_on_batch(x, y)
    before = model.get_weights()
    model.layers[0].trainable = False
    model.train_on_batch(x, y)
    moved = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert moved == [False, False, True, True]


def test_lazy_adam():
    """`Adam(lazy=True)`"""
    for lazy in (False, True):
        adam, table = optimizers.Adam(lazy=lazy), {"e": np.zeros((4, 1), "f")}
        for row in (1, 2):
            before = table["e"].copy()
            gradient = RowGradient(np.array([row]), np.ones((1, 1), "f"))
            adam.apply(table, {"e": gradient})
        assert (table["e"][1] == before[1]) == lazy
        assert table["e"][2] != before[2]


def test_options_of_optimizers():
    """`weight_decay`, `amsgrad`, `use_ema`, `gradient_accumulation_steps`"""
    names = "weight_decay", "amsgrad", "use_ema", "gradient_accumulation_steps"
    refused(optimizers.Adam, *names)


# --- Text -----------------------------------------------------------------------------------------


def test_int32():
    """token ids"""
    assert TextVectorization(vocabulary=["oil"])(["oil price", "oil"]).dtype == np.int32


def test_adapt_without_tokens():
    """`adapt` on data without any token"""
    with pytest.raises(ValueError, match="at least one token, received 2 texts without any"):
        TextVectorization().adapt(["", " !"])


def test_adapt_after_set_vocabulary():
    """`adapt` after `set_vocabulary`"""
    layer = TextVectorization()
    layer.set_vocabulary(["oil"])
    with pytest.raises(ValueError, match="would replace the vocabulary"):
        layer.adapt(["prices rise"])


def test_functions_get_one_text():
    """`standardize` and `split` as functions"""
    seen = []

    def spy(text):
        seen.append(text)
        return text

    layer = TextVectorization(standardize=spy, split=lambda text: spy(text).split("-"))
    layer.adapt(["Oil-up", "down"])
    assert sorted(seen) == ["Oil-up", "Oil-up", "down", "down"]
    assert set(layer.get_vocabulary()[2:]) == {"Oil", "up", "down"}


def test_bytes_not_utf8():
    """bytes that are not UTF-8"""
    layer = TextVectorization(vocabulary=["oil", "é"])
    assert layer(["oil é".encode()]).tolist() == [[2, 3]]
    with pytest.raises(ValueError, match="number 1 is bytes that are not UTF-8"):
        layer([b"oil", b"oil \xff"])


def test_vocabulary_file():
    """`vocabulary="words.txt"`"""
    with pytest.raises(TypeError, match="To read a file"):
        TextVectorization(vocabulary="words.txt")


def test_standardize_unicode():
    """`standardize="unicode"`"""
    assert TextVectorization(standardize="unicode").tokens("¿ÉTÉ?\u00a0—Straße") == [
        "été",
        "strasse",
    ]
    assert TextVectorization().tokens("¿ÉTÉ? Oil") == ["¿ÉtÉ", "oil"]


def test_split_none():
    """`split=None`"""
    layer = TextVectorization(split=None, vocabulary=["oil price", "up"])
    assert layer(["Up", "oil price", "down"]).tolist() == [[3], [2], [1]]


def test_options_of_text():
    """`output_mode="tf_idf"`, `ragged`, `sparse`, `pad_to_max_tokens`"""
    with pytest.raises(ValueError, match="output_mode: there is none called 'tf_idf'"):
        TextVectorization(output_mode="tf_idf")
    refused(TextVectorization, "ragged", "sparse", "pad_to_max_tokens")


# --- Training -------------------------------------------------------------------------------------


def test_loss_not_finite():
    """the loss or a gradient becomes NaN or infinite"""
    x, y = rows()
    model = classifier(Dense(4, name="first"))
    model.train_on_batch(x, y)
    before = model.get_weights()
    before[0][1, 2] = np.nan
    model.set_weights(before)
    with pytest.raises(NonFiniteError, match="epoch 1, step 1;.* weights kernel of layer 'first'"):
        model.fit(x, y, verbose=0)
    for one, other in zip(before, model.get_weights(), strict=True):
        assert np.array_equal(one, other, equal_nan=True)


def test_evaluating_what_is_not_finite():
    """`evaluate` or `predict` meets NaN"""
    x, y = rows()
    model = classifier(Dense(4, name="first"))
    model.train_on_batch(x, y)
    model.layers[0].params["bias"][0] = np.nan
    with pytest.raises(NonFiniteError, match="evaluation, batch 1;.* bias of layer 'first'"):
        model.evaluate(x, y, verbose=0)
    with pytest.raises(NonFiniteError, match="row 0 of x holds nan;.* bias of layer 'first'"):
        model.predict(x)


def test_fit_on_a_generator():
    """`fit` on a generator object"""
    with pytest.raises(TypeError, match=r"walked only once.*Dataset\.from_generator"):
        classifier().fit((rows() for _ in range(3)), verbose=0)


def test_fit_on_a_list():
    """`fit` on a list"""
    model = classifier(Embedding(6, 2, mask_zero=True), LSTM(2))
    history = model.fit([[1, 2, 3], [4], [5, 1]], [0, 1, 2], verbose=0)
    assert len(history.history["loss"]) == 1
    padded = model.predict(np.array([[1, 2, 3], [4, 0, 0]]))
    assert np.array_equal(model.predict([[1, 2, 3], [4]]), padded)


def test_arguments_that_exclude_each_other():
    """`fit` on a data set with `batch_size`; `validation_split` with `validation_data`"""
    x, y = rows()
    with pytest.raises(ValueError, match="gives whole batches"):
        classifier().fit(Dataset.from_tensor_slices((x, y)).batch(3), batch_size=5)
    with pytest.raises(ValueError, match="not both"):
        classifier().fit(x, y, validation_split=0.3, validation_data=(x, y))


def test_texts_are_vectorized_once():
    """texts in front of a `TextVectorization` layer"""
    seen = []
    layer = TextVectorization(standardize=lambda text: seen.append(text) or text)
    layer.adapt(["oil up", "down"])
    seen.clear()
    model = classifier(layer, Embedding(6, 2, mask_zero=True), LSTM(2))
    model.fit(["oil", "up oil", "down"], [0, 1, 2], epochs=4, batch_size=2, verbose=0)
    assert sorted(seen) == ["down", "oil", "up oil"]


def test_train_on_batch():
    """`train_on_batch`"""
    x, y = rows()
    model = classifier(optimizer=optimizers.SGD(0.0), metrics=["acc"])
    figures = [model.train_on_batch(x[part], y[part]) for part in (slice(3), slice(3, None))]
    expected = [model.evaluate(x[p], y[p], verbose=0)[0] for p in (slice(3), slice(3, None))]
    assert figures == pytest.approx(expected)


def test_predict_of_differing_lengths():
    """`predict` where batches differ in length and each step has an output"""
    model = Sequential([Embedding(6, 2), LSTM(2, return_sequences=True)])
    short, long = np.array([[1, 2, 3]]), np.array([[4, 1, 2, 5], [2, 2, 3, 1]])
    y = model.predict(Dataset.from_generator(lambda: [short, long]))
    assert y.shape == (3, 4, 2)
    assert not y[0, 3].any()
    assert np.allclose(y[:1, :3], model.predict(short), atol=1e-6)


@pytest.mark.parametrize("name", ["EarlyStopping", "ReduceLROnPlateau", "ModelCheckpoint"])
def test_monitor_that_is_not_there(name, tmp_path):
    """a callback's `monitor` that there is no figure for"""
    x, y = rows()
    checkpoint = {"filepath": tmp_path / "best.mrnn", "save_best_only": True}
    watcher = getattr(callbacks, name)(**checkpoint if name == "ModelCheckpoint" else {})
    with pytest.raises(ValueError, match="monitor: there is no figure 'val_loss'; known: loss"):
        classifier().fit(x, y, callbacks=[watcher], verbose=0)


def test_nan_at_first():
    """a monitored figure that is NaN at first"""
    x, y = rows()
    early = callbacks.EarlyStopping("figure", patience=2)
    fed = Figures("figure", [np.nan, 0.5, 0.4, 0.3, 0.2])
    history = classifier().fit(x, y, epochs=5, callbacks=[fed, early], verbose=0)
    assert history.epoch == [0, 1, 2, 3, 4]


def test_learning_rate_scheduler():
    """`LearningRateScheduler`"""
    x, y = rows()
    model, seen = classifier(optimizer=optimizers.SGD(0.5)), []
    halve = callbacks.LearningRateScheduler(lambda *given: seen.append(given) or given[1] / 2)
    model.fit(x, y, epochs=3, callbacks=[halve], verbose=0)
    assert seen == [(0, 0.5), (1, 0.25), (2, 0.125)]


def test_predict_is_silent(capsys):
    """`predict(verbose=...)`"""
    model = Sequential([Dense(2)])
    model.predict(rows()[0])
    assert capsys.readouterr() == ("", "")


def test_options_of_training():
    """`validation_steps`, `validation_freq`, `jit_compile`, `baseline`, `save_weights_only`"""
    model = classifier()
    refused(lambda **options: model.fit(*rows(), **options), "validation_steps", "validation_freq")
    refused(model.compile, "jit_compile")
    refused(callbacks.EarlyStopping, "baseline")
    refused(lambda **options: callbacks.ModelCheckpoint("m", **options), "save_weights_only")


def test_saved_files(tmp_path):
    """saved files"""
    from safetensors.numpy import load_file

    model, x = Sequential([Dense(2), Dense(3)]), rows()[0]
    y = model.predict(x)
    model.save(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert np.array_equal(
        load_file(tmp_path / "model")["weights/dense_kernel"], model.get_weights()[0]
    )
    assert np.array_equal(minirnn.load(tmp_path / "model").predict(x), y)


# --- Data sets, beside `tf.data` ------------------------------------------------------------------


def test_elements():
    """elements"""
    element, label = next(iter(Dataset.from_tensor_slices((["oil é", "up"], np.arange(2.0)))))
    assert (element, type(element)) == ("oil é", str)
    assert isinstance(label, np.floating)
    batch = next(iter(Dataset.from_rows(["oil é", "up"]).batch(2)))
    assert isinstance(batch, np.ndarray)
    assert batch.tolist() == ["oil é", "up"]


def test_whole_numbers():
    """whole numbers of Python in a batch"""
    (batch,) = Dataset.from_rows([1, 2**40]).batch(2)
    assert batch.dtype == np.int64
    assert batch.tolist() == [1, 2**40]


@pytest.mark.parametrize("method", [Dataset.take, Dataset.skip])
def test_minus_one(method):
    """`take(-1)`, `skip(-1)`"""
    with pytest.raises(ValueError, match="count must be 0 or more, got -1"):
        method(Dataset.from_rows([1, 2, 3]), -1)


def test_lists_are_components():
    """a list returned by the function in `map`"""
    pairs = Dataset.from_rows([1, 2, 3]).map(lambda i: [i, i + 1])
    (batch,) = pairs.batch(3)
    assert batch.tolist() == [[1, 2], [2, 3], [3, 4]]


def test_functions_are_called():
    """functions in `map` and `filter`"""
    seen = []
    kept = Dataset.from_rows([3, 5, 4]).map(lambda i: seen.append(i) or i).filter(lambda i: i > 3)
    assert (list(kept), seen) == ([5, 4], [3, 5, 4])


def test_from_generator():
    """`from_generator`"""
    data = Dataset.from_generator(lambda: iter([("oil", 1), ("up", 0)]))
    assert list(data) == list(data) == [("oil", 1), ("up", 0)]


# --- the page and this file -----------------------------------------------------------------------


def test_page_and_tests_agree():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    named = [re.match(r"\| (.+?) \| .+ \| .+ \| .*\|$", line) for line in lines]
    on_page = [found[1] for found in named if found and found[1] not in ("what", "---")]
    tests = [value for name, value in vars(sys.modules[__name__]).items() if name[:5] == "test_"]
    assert [test.__doc__ for test in tests if test.__doc__] == on_page
    assert len(on_page) > 60
