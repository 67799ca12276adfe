"""Whole models beside Keras: training, texts, and files."""

from __future__ import annotations

import json
import os
import zipfile

import numpy as np
import pytest

pytest.importorskip("keras", reason="Keras is not installed")
pytest.importorskip("jax", reason="JAX, on which the tests run Keras, is not installed")
pytest.importorskip("h5py", reason="h5py is not installed")

import keras  # noqa: E402

import minirnn  # noqa: E402
from minirnn import FileFormatError, Sequential, layers, set_random_seed  # noqa: E402
from minirnn.classifier import RECIPES  # noqa: E402
from minirnn.interop import keras as interop  # noqa: E402

WORDS, CLASSES = 211, 4


def stack(name, lib):
    """The lesson's models over a small vocabulary."""
    mask = name in ("rnn", "bilstm")
    if name == "bilstm":
        return [
            lib.Embedding(WORDS, 16, mask_zero=True),
            lib.Bidirectional(lib.LSTM(8, return_sequences=True)),
            lib.Bidirectional(lib.LSTM(8)),
            lib.Dense(CLASSES, activation="softmax"),
        ]
    cell = lib.LSTM(8) if name == "lstm" else lib.SimpleRNN(16)
    return [
        lib.Embedding(WORDS, 12, mask_zero=mask),
        cell,
        lib.Dense(CLASSES, activation="softmax"),
    ]


def both(name, seed=1):
    """`(ours, theirs)` with the same weights."""
    set_random_seed(seed)
    mine = Sequential(stack(name, layers))
    mine.build((None, None))
    theirs = keras.Sequential([keras.Input((None,), dtype="int32"), *stack(name, keras.layers)])
    theirs.set_weights(mine.get_weights())
    return mine, theirs


def batch(rng, rows=8, time=12):
    """Rows whose class shows in their words, so that there is something to learn."""
    y = rng.integers(0, CLASSES, rows)
    ids = rng.integers(1, WORDS, (rows, time))
    ids = np.where(rng.random((rows, time)) < 0.3, y[:, None] * 7 + 3, ids)
    lengths = rng.integers(time // 2, time + 1, rows)
    return (ids * (np.arange(time) < lengths[:, None])).astype("int32"), y.astype("int32")


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_two_hundred_steps_of_the_lessons_models(name):
    """In their full size, step by step, and as one `fit`, in which rows of the embedding wait."""
    recipe, mask = RECIPES[name], name in ("rnn", "bilstm")
    width = 128 if name == "bilstm" else 64

    def made(lib):
        cells = {
            "lstm": lambda: [lib.LSTM(8)],
            "bilstm": lambda: [
                lib.Bidirectional(lib.LSTM(64, return_sequences=True)),
                lib.Bidirectional(lib.LSTM(64)),
            ],
        }.get(name, lambda: [lib.SimpleRNN(16)])()
        embedding = lib.Embedding(20_000, width, mask_zero=mask)
        return [embedding, *cells, lib.Dense(CLASSES, activation="softmax")]

    set_random_seed(1)
    mine, waiting = Sequential(made(layers)), Sequential(made(layers))
    theirs = keras.Sequential([keras.Input((None,), dtype="int32"), *made(keras.layers)])
    for model in (mine, waiting):
        model.build((None, None))
        model.set_weights(mine.get_weights())
    theirs.set_weights(mine.get_weights())
    for model in (mine, waiting, theirs):
        model.compile(optimizer="adam", loss="sparse_categorical_crossentropy")
    rng = np.random.default_rng(2)
    batches = [batch(rng, recipe.batch_size) for _ in range(200)]
    losses = []
    for step, (x, y) in enumerate(batches):
        theirs.reset_metrics()  # Keras reports the mean since the last reset, ours is this batch's
        want = float(theirs.train_on_batch(x, y))
        got = mine.train_on_batch(x, y)
        assert got == pytest.approx(want, abs=1e-4), step
        losses.append(want)
    assert want < 1.2  # it did learn
    history = waiting.fit(batches_of(batches), verbose=0)
    assert history.history["loss"][0] == pytest.approx(np.mean(losses), abs=1e-4)
    for one, other in zip(waiting.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)


def batches_of(batches):
    return minirnn.data.Dataset.from_generator(lambda: iter(batches))


@pytest.mark.parametrize("weighted", [False, True])
def test_training_with_an_output_at_every_step(weighted):
    """The loss is the mean over real steps; with a weight for each step."""
    set_random_seed(4)

    def made(lib):
        return [
            lib.Embedding(WORDS, 6, mask_zero=True),
            lib.Bidirectional(lib.GRU(5, return_sequences=True), merge_mode="ave"),
            lib.TimeDistributed(lib.Dense(CLASSES, activation="softmax")),
        ]

    mine = Sequential(made(layers))
    mine.build((None, None))
    theirs = keras.Sequential([keras.Input((None,), dtype="int32"), *made(keras.layers)])
    theirs.set_weights(mine.get_weights())
    for model in (mine, theirs):
        model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
        model.optimizer.learning_rate = 0.5
    rng = np.random.default_rng(5)
    for _ in range(20):
        x, _ = batch(rng)
        y = rng.integers(0, CLASSES, x.shape)
        weight = rng.random(x.shape).astype("float32") if weighted else None
        theirs.reset_metrics()
        want = float(theirs.train_on_batch(x, y, sample_weight=weight))
        assert mine.train_on_batch(x, y, sample_weight=weight) == pytest.approx(want, rel=1e-4)
    for one, other in zip(mine.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


# --- texts ----------------------------------------------------------------------------------------

ODD = [
    "",
    "   \t\n ",
    "!?!... --- ;;;",
    "Plain words, twice: plain WORDS.",
    "dot-com e-mail it's AT&T #36;quot",
    "İstanbul ısırgan IŞIK iş",
    "ÉCOLE école E\u0301cole",
    "🎉 party🎉time 👩‍👩‍👧",
    "a\u00a0b\u2003c\u3000d",
    "[UNK] unknown",
    "x" * 5000,
    "word " * 700,
    "tab\tand\nnewline\x0bvertical\x0cfeed\rreturn",
    "naïve façade — “quotes” … ‘single’",
    "1,234.56 50% (x+y)=z_under",
]


@pytest.mark.parametrize("limit", [None, 12])
def test_text_vectorization_of_odd_texts(limit):
    pytest.importorskip("tensorflow", reason="Keras vectorizes texts by TensorFlow")
    mine = layers.TextVectorization(max_tokens=limit)
    theirs = keras.layers.TextVectorization(max_tokens=limit)
    mine.adapt(ODD)
    theirs.adapt(np.array(ODD))
    assert mine.get_vocabulary() == [str(word) for word in theirs.get_vocabulary()]
    np.testing.assert_array_equal(mine(ODD), np.asarray(theirs(np.array(ODD))))
    unseen = ["plain new words", "", "🎉"]
    np.testing.assert_array_equal(mine(unseen), np.asarray(theirs(np.array(unseen))))


def test_text_vectorization_of_real_rows():
    pytest.importorskip("tensorflow", reason="Keras vectorizes texts by TensorFlow")
    folder = os.environ.get("MINIRNN_AG_NEWS")
    if not folder:
        pytest.skip("MINIRNN_AG_NEWS does not name a folder with the AG News files")
    data = minirnn.data.load_ag_news(folder)
    texts = data.train.texts()[:4000]
    for options in ({"max_tokens": 20000}, {"max_tokens": 500, "output_sequence_length": 30}):
        mine = layers.TextVectorization(**options)
        theirs = keras.layers.TextVectorization(**options)
        mine.adapt(texts[:2000])
        theirs.adapt(np.array(texts[:2000]))
        assert mine.get_vocabulary() == [str(word) for word in theirs.get_vocabulary()]
        np.testing.assert_array_equal(mine(texts), np.asarray(theirs(np.array(texts))))


# --- files ----------------------------------------------------------------------------------------


def trained_a_little(model, seed=3):
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy")
    rng = np.random.default_rng(seed)
    for _ in range(5):
        model.train_on_batch(*batch(rng))


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_weights_go_there_and_back_bit_for_bit(name, tmp_path):
    mine, theirs = both(name)
    trained_a_little(theirs)
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    interop.load_weights(mine, tmp_path / "theirs.weights.h5")
    for one, other in zip(mine.get_weights(), theirs.get_weights(), strict=True):
        assert np.array_equal(one, other)
    interop.save_weights(mine, tmp_path / "mine.weights.h5")
    _, again = both(name, seed=9)
    again.load_weights(tmp_path / "mine.weights.h5")
    for one, other in zip(again.get_weights(), theirs.get_weights(), strict=True):
        assert np.array_equal(one, other)


def everything(lib):
    """All layers that both libraries have."""
    return [
        lib.Embedding(WORDS, 6, mask_zero=True),
        lib.Dropout(0.3),
        lib.SimpleRNN(5, return_sequences=True, activation="relu", use_bias=False),
        lib.GRU(4, return_sequences=True, reset_after=False),
        lib.Bidirectional(lib.GRU(3, return_sequences=True), merge_mode="sum"),
        lib.TimeDistributed(lib.Dense(5, activation="tanh")),
        lib.Bidirectional(lib.LSTM(4, return_sequences=True, dropout=0.1)),
        lib.GlobalAveragePooling1D(),
        lib.Dense(7, activation="elu", kernel_initializer="he_uniform"),
        lib.Activation("softplus"),
        lib.Dense(CLASSES, activation="softmax"),
    ]


@pytest.mark.parametrize("name", [*sorted(RECIPES), "everything"])
def test_whole_models_go_there_and_back(name, tmp_path):
    made = everything if name == "everything" else lambda lib: stack(name, lib)
    theirs = keras.Sequential([keras.Input((None,), dtype="int32"), *made(keras.layers)])
    trained_a_little(theirs)
    theirs.save(tmp_path / "theirs.keras")
    mine = interop.load(tmp_path / "theirs.keras")
    x, _ = batch(np.random.default_rng(4), rows=30)
    want = np.asarray(theirs.predict(x, verbose=0))
    np.testing.assert_allclose(mine.predict(x), want, rtol=1e-4, atol=1e-6)
    interop.save(mine, tmp_path / "mine.keras")
    again = keras.models.load_model(tmp_path / "mine.keras")
    for one, other in zip(again.get_weights(), theirs.get_weights(), strict=True):
        assert np.array_equal(one, other)
    np.testing.assert_allclose(np.asarray(again.predict(x, verbose=0)), want, rtol=1e-5, atol=1e-7)
    twin = interop.load(tmp_path / "mine.keras")
    assert [type(layer) for layer in twin.layers] == [type(layer) for layer in mine.layers]
    assert all(map(np.array_equal, twin.get_weights(), mine.get_weights()))


def test_a_model_with_its_vectorizer(tmp_path):
    texts = ["shares fall as oil climbs", "striker scores twice", "probe reaches the moon"]
    vectorizer = layers.TextVectorization(max_tokens=50)
    vectorizer.adapt(texts)
    mine = Sequential([vectorizer, *stack("rnn", layers)])
    mine.build()
    interop.save(mine, tmp_path / "texts.keras")
    twin = interop.load(tmp_path / "texts.keras")
    assert twin.vectorizer.get_vocabulary() == vectorizer.get_vocabulary()
    assert np.array_equal(twin.predict(texts), mine.predict(texts))


def test_classes_of_the_real_test_rows(tmp_path):
    """A model trained in Keras and loaded here classifies the 7,600 rows alike."""
    folder = os.environ.get("MINIRNN_AG_NEWS")
    if not folder:
        pytest.skip("MINIRNN_AG_NEWS does not name a folder with the AG News files")
    data = minirnn.data.load_ag_news(folder)
    vectorizer = layers.TextVectorization(max_tokens=20000)
    vectorizer.adapt(data.train.titles[:2000])
    theirs = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(20000, 64, mask_zero=True),
            keras.layers.SimpleRNN(16),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )
    keras.utils.set_random_seed(2)
    theirs.compile(optimizer="adam", loss="sparse_categorical_crossentropy")
    x = minirnn.utils.pad_sequences(vectorizer.ids(data.train.texts()[:6000]), padding="post")
    theirs.fit(x, np.array(data.train.labels[:6000]), batch_size=16, epochs=4, verbose=0)
    theirs.save(tmp_path / "news.keras")
    mine = interop.load(tmp_path / "news.keras")
    test = minirnn.utils.pad_sequences(vectorizer.ids(data.test.texts()), padding="post")
    want = np.asarray(theirs.predict(test, batch_size=200, verbose=0))
    got = mine.predict(test, batch_size=200)
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert (got.argmax(1) == want.argmax(1)).all()
    assert len(got) == 7600 and (got.argmax(1) == data.test.labels).mean() > 0.5


# --- what is refused ------------------------------------------------------------------------------


def changed(source, target, change):
    """A copy of a .keras file whose configuration went through `change`."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                config = json.loads(content)
                change(config)
                content = json.dumps(config).encode()
            new.writestr(name, content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["config"]["layers"][2].update(class_name="Lambda"), "no layer Lambda"),
        (lambda c: c.update(class_name="Functional"), "expected a Sequential model"),
        (
            lambda c: c["config"]["layers"][2]["config"].update(kernel_regularizer={"l2": 0.1}),
            "kernel_regularizer=.* is not an option",
        ),
        (lambda c: c["config"]["layers"][2]["config"].update(surprise=1), "surprise=1"),
        (lambda c: c["config"]["layers"][2]["config"].update(units="many"), "makes no sense"),
        (
            lambda c: c["config"]["layers"][2]["config"].update(
                kernel_initializer={"class_name": "Odd", "module": "evil", "config": {}}
            ),
            "minirnn has no Odd",
        ),
        (lambda c: c["config"]["layers"][2]["config"].update(units=9), "has shape"),
        (lambda c: c.pop("config"), "makes no sense"),
    ],
)
def test_a_configuration_that_is_not_ours_is_refused_by_name(change, message, tmp_path):
    mine, _ = both("rnn")
    interop.save(mine, tmp_path / "good.keras")
    changed(tmp_path / "good.keras", tmp_path / "bad.keras", change)
    with pytest.raises((FileFormatError, ValueError), match=message):
        interop.load(tmp_path / "bad.keras")


def test_files_that_are_none(tmp_path):
    (tmp_path / "text.keras").write_text("hello")
    with pytest.raises(FileFormatError, match="no .keras file"):
        interop.load(tmp_path / "text.keras")
    mine, _ = both("rnn")
    (tmp_path / "text.weights.h5").write_text("hello")
    with pytest.raises(FileFormatError, match="no HDF5 file"):
        interop.load_weights(mine, tmp_path / "text.weights.h5")
    interop.save_weights(mine, tmp_path / "rnn.weights.h5")
    other, _ = both("lstm")
    with pytest.raises(ValueError, match="layers/lstm/cell/vars"):
        interop.load_weights(other, tmp_path / "rnn.weights.h5")
    with pytest.raises(ValueError, match="end in .weights.h5"):
        interop.save_weights(mine, tmp_path / "weights.hdf")
    with pytest.raises(ValueError, match="end in .keras"):
        interop.save(mine, tmp_path / "model.zip")
    lonely = Sequential([layers.OneHot(5), layers.LSTM(3)])
    lonely.build((None, None))
    with pytest.raises(ValueError, match="Keras has no layer OneHot"):
        interop.save(lonely, tmp_path / "model.keras")
