"""Generated bad input (tests/fuzz), and bad input that was once taken for good.

`scripts/fuzz.py` runs many more cases of the same targets.
"""

from __future__ import annotations

import io
import json
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
from fuzz import judge, models, running

import minirnn
from minirnn import (
    Sequential,
    activations,
    backend,
    callbacks,
    data,
    generation,
    initializers,
    inspect,
    layers,
    losses,
    metrics,
    optimizers,
    schedules,
    utils,
    vectors,
)
from minirnn.base import RowGradient
from minirnn.layers import GRU, LSTM, Dense, Dropout, Embedding, Input, OneHot, TextVectorization
from minirnn.text import pad_sequences

NEEDS = {"keras_files": "h5py", "h5_files": "h5py", "onnx_files": "onnx"}
CASES = 30


@pytest.mark.parametrize("name", running.all_targets())
def test_bad_input_is_named_or_answered(name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    backend.set_random_seed(0)
    running.test_of(running.all_targets()[name], CASES, seed=1)()


# --- the judge itself -----------------------------------------------------------------------------


def spin():
    while True:
        pass


@pytest.mark.parametrize(
    ("call", "finding"),
    [
        (lambda: np.zeros(3).reshape(2, 2), "no statement of ours raised it|comes out of"),
        (lambda: {}["x"], "KeyError came out"),
        (lambda: LSTM(2)(np.zeros((2, 3))), None),
        (lambda: np.zeros(2**40), "comes out of"),
        (lambda: warnings.warn("old", DeprecationWarning, stacklevel=1), "DeprecationWarning"),
        (spin, "not done"),
    ],
)
def test_the_judge(call, finding, monkeypatch):
    monkeypatch.setattr(judge, "SECONDS", 1)
    if finding is None:
        assert judge.refused(judge.ask(call))
        return
    with pytest.raises(judge.Finding, match=finding):
        judge.ask(call)


# --- what was found -------------------------------------------------------------------------------

MASKED = np.ma.masked_array(np.ones((2, 3, 4)), np.zeros((2, 3, 4), bool))
FLOATS = np.ones((2, 3, 4), np.float32)
PARAMS = {"w": np.ones((3, 2), np.float32)}
NEWS = data.Rows(["a"], ["b"], np.array([0]))


def trained(**options):
    model = Sequential([Dense(3, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model.fit(np.ones((4, 2)), np.zeros(4, int), verbose=0, **options)


# what is done, and what the error says. Each of these once gave a wrong answer, a crash, or an
# error of NumPy's.
FOUND = {
    # --- layers
    "a masked array": (lambda: GRU(2)(MASKED), "gru: received a masked array"),
    "a masked array of ids": (lambda: Embedding(5, 2)(MASKED[0]), "embedding: received a masked"),
    "dates": (lambda: Dense(2)(FLOATS[0].astype("M8[s]")), "dense: expected numbers"),
    "digits in a list": (lambda: Dense(2)([["1", "2"]]), "dense: expected numbers, received str"),
    "complex numbers": (lambda: Dense(2)(FLOATS * 1j), "dense: expected numbers, received complex"),
    "one number": (lambda: layers.Activation("sigmoid")(3.0), "activation: expected an array"),
    "no time axis": (
        lambda: layers.TimeDistributed(Dense(2, name="d")).forward(FLOATS[0]),
        "no weights yet",
    ),
    "a flag that is a word": (lambda: LSTM(2, return_sequences="no"), "return_sequences: expected"),
    "a bias that is a word": (lambda: Dense(2, use_bias="no"), "use_bias: expected True or False"),
    "a seed below 0": (lambda: Dropout(0.5, seed=-1), "seed: expected None or a whole number"),
    "a mask value that is no number": (lambda: layers.Masking(np.nan), "mask_value: expected"),
    "a name that is no text": (lambda: Dense(2, name=[1]), "name: expected a text"),
    "a shape that is no shape": (lambda: Input(3), "shape: expected a tuple"),
    "a table of words": (lambda: Embedding(1, 1, weights=[["a"]]), "weights: expected numbers"),
    "more units than there is memory": (lambda: Dense(10**15)(FLOATS), "no memory for a weight"),
    "more units than can be counted": (lambda: LSTM(2**62)(FLOATS), "no memory for a weight"),
    "too many classes for one-hot": (lambda: OneHot(10**15)(np.ones((2, 3), int)), "too large"),
    "an infinite range": (lambda: initializers.RandomUniform(0, np.inf), "maxval: expected"),
    "a constant that is a word": (lambda: initializers.Constant("a"), "value: expected numbers"),
    # --- losses, metrics, optimizers
    "ragged labels": (
        lambda: losses.MeanSquaredError()([[1], [2, 3]], FLOATS[0]),
        "y_true: expected one array",
    ),
    "predictions that are a list of words": (
        lambda: losses.MeanSquaredError()(FLOATS[0], [["a"]]),
        "y_pred: expected numbers",
    ),
    "weights that are words": (
        lambda: losses.MeanSquaredError()(FLOATS[0], FLOATS[0], ["a", "b", "c"]),
        "sample_weight: expected numbers",
    ),
    "half a k": (lambda: metrics.SparseTopKCategoricalAccuracy(k=1.5), "k: expected a positive"),
    "a table of all classes": (lambda: metrics.confusion_matrix([0], [0], 10**9), "classes: exp"),
    "dates, though there are none": (
        lambda: metrics.confusion_matrix(np.zeros(0, "M8[s]"), np.zeros(0, int), 3),
        "y_true: expected class numbers",
    ),
    "a shuffle that is an array": (lambda: trained(shuffle=FLOATS), "shuffle: expected True or"),
    "a limit that clips all to NaN": (lambda: optimizers.SGD(clipnorm=np.inf), "clipnorm: expect"),
    "no epsilon": (lambda: optimizers.Adam(epsilon=0), "epsilon: expected"),
    "a momentum that is a word": (lambda: optimizers.SGD(momentum="a"), "momentum: expected"),
    "a schedule that runs away": (
        lambda: (
            optimizers.SGD(schedules.ExponentialDecay(1, 1e-3, 9.0)).apply(PARAMS, PARAMS)
            or optimizers.SGD(schedules.PiecewiseConstantDecay([1], [1, np.nan]))
        ),
        "values: expected a list of finite numbers",
    ),
    "a gradient that is a list": (
        lambda: optimizers.SGD().apply(PARAMS, {"w": [1, 2]}),
        "grads: expected the gradient of 'w' to have shape",
    ),
    "boundaries that are one number": (
        lambda: data.Dataset.from_rows([[1]]).bucket_by_sequence_length(len, np.array(3), [1, 1]),
        "bucket_boundaries must be a list of whole numbers",
    ),
    "a component that is an empty tuple": (
        lambda: data.Dataset.from_tensor_slices({"a": (), "b": [1]}),
        r"tensors\['a'\] holds no component",
    ),
    "a gradient check in a training that is an array": (
        lambda: minirnn.gradcheck(Dense(1), training=np.zeros(0)),
        "training: expected True or False",
    ),
    "flags of a data set that are arrays": (
        lambda: data.Dataset.from_rows([[1]]).batch(2, drop_remainder=np.zeros(0)),
        "drop_remainder: expected True or False",
    ),
    "rows that are a masked array": (
        lambda: pad_sequences(np.ma.masked_array([1.0], [True])),
        "sequences: received a masked array",
    ),
    "a row of records": (
        lambda: pad_sequences([np.zeros(2, "f4,i4")]),
        "sequences: element 0 is not of int32",
    ),
    "a header that is an array": (
        lambda: vectors.save_vectors("v.txt", ["oil"], np.ones((1, 2)), np.zeros((0, 2))),
        "header: expected True or False",
    ),
    "a gradient that has a shape and no dtype": (
        lambda: optimizers.SGD().apply(PARAMS, {"w": memoryview(b"ab")}),
        "grads: expected the gradient of 'w' to have shape",
    ),
    "rows that the table lacks": (
        lambda: optimizers.SGD().apply(PARAMS, {"w": RowGradient(np.array([7]), np.ones((1, 2)))}),
        "grads: expected the ids of 'w' to be rising row numbers below 3",
    ),
    "squares below 0": (
        lambda: optimizers.Adam().load_state_dict(
            {"iterations": 1, "scale/m": 1.0, "scale/v": 1.0, "w/v": np.array([-1.0])}
        ),
        "w/v: a mean of squares is not below 0",
    ),
    "a schedule that is no function": (lambda: callbacks.LearningRateScheduler(3), "schedule: exp"),
    "an infinite patience": (lambda: callbacks.EarlyStopping(patience="a"), "patience: expected"),
    # --- training
    "a class weight that is a word": (lambda: trained(class_weight={0: "a"}), r"class_weight\[0\]"),
    "a split that is an array": (lambda: trained(validation_split=FLOATS), "validation_split: exp"),
    "a set of labels": (
        lambda: Sequential([Dense(2)]).predict({1, 2}),
        "x: expected an array or list of rows|x: the data set",
    ),
    "a batch that is a number": (
        lambda: Sequential([Dense(2)]).predict_on_batch(3),
        "x: expected a batch of rows",
    ),
    # --- data and texts
    "titles that are no texts": (lambda: data.Rows([1], ["a"], np.array([0])), "titles: expected"),
    "one row and a half": (lambda: NEWS.take("a"), "count: expected"),
    "more than can be counted": (lambda: data.Dataset.from_rows([1]).take(10**30), "count must be"),
    "a length of digits": (lambda: pad_sequences([["a"]]), "sequences: element 0"),
    "rows of texts to pad": (lambda: pad_sequences(["12"]), "sequences: expected a list of seq"),
    "a padded length without end": (lambda: pad_sequences([[1]], maxlen=10**30), "maxlen: there"),
    "one text to adapt to": (lambda: TextVectorization().adapt(np.array(1.0)), "adapt: expected"),
    "words that are one text": (
        lambda: vectors.load_vectors("/none", words="oil"),
        "words: expected a list or set",
    ),
    "vectors of numbers": (lambda: vectors.nearest("a", 3, FLOATS[0]), "words: expected a list"),
    "more classes than there is memory": (
        lambda: utils.to_categorical([1], 10**15),
        "num_classes: there is no memory",
    ),
    # --- the rest
    "logits that are words": (lambda: generation.sample(["a"]), "predictions: expected numbers"),
    "a seed that crashes NumPy": (
        lambda: backend.set_random_seed(np.ones((2, 2)).view(np.matrix)),
        "seed: expected a whole number",
    ),
    "a seed that is a word": (lambda: backend.set_random_seed("a"), "seed: expected a whole"),
    "digits without end": (
        lambda: inspect.explain(layers.SimpleRNNCell(1), [1.0], [1.0], digits=10**9),
        "digits: expected|no weights",
    ),
    "an id that wraps around": (
        lambda: inspect.trace(models_of_ids(), [2**32 + 1]),
        "text: expected whole numbers",
    ),
}


def models_of_ids():
    model = Sequential([Embedding(5, 2), GRU(2), Dense(3, "softmax")])
    model.build()
    return model


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_is_refused(name):
    call, message = FOUND[name]
    with pytest.raises((ValueError, TypeError, MemoryError), match=message), judge.limits():
        call()


def test_nothing_to_take_the_softmax_of():
    assert activations.softmax(np.zeros((3, 0))).shape == (3, 0)


def test_half_floats_do_not_overflow():
    big, small = np.full((1, 2), 1e4, np.float16), np.zeros((1, 2), np.float16)
    assert losses.MeanSquaredError()(small, big) == pytest.approx(1e8)


def test_groups_of_more_tokens_than_there_are():
    layer = TextVectorization(ngrams=10**12)
    with judge.limits(5):
        layer.adapt(["oil price rise"])
    assert "oil price rise" in layer.get_vocabulary()


# --- files ----------------------------------------------------------------------------------------


def model_file(tmp_path, change, numbers=None):
    """The path of a good model's file whose configuration has been changed."""
    header, content = models.taken_apart(models.good_models()[0])
    stored = json.loads(header["__metadata__"]["header"])
    change(stored["model"]["layers"])
    header["__metadata__"]["header"] = json.dumps(stored)
    path = tmp_path / "model.mrnn"
    path.write_bytes(models.put_together(header, content if numbers is None else numbers(content)))
    return path


@pytest.mark.parametrize("units", [10**4, 10**9, 2**62])
def test_a_file_that_claims_much_is_refused_before_anything_is_allocated(tmp_path, units):
    """10,000 units would need 1.6 GB, and minutes to draw."""
    path = model_file(tmp_path, lambda stack: stack[2]["config"].update(units=units))
    message = "larger than all that are stored"
    with (
        pytest.raises(minirnn.FileFormatError, match=message) as caught,
        judge.limits(5, 64 * 2**20),
    ):
        minirnn.load(path)
    assert str(path) in str(caught.value)


def test_a_file_with_nan_in_its_weights_is_told_of(tmp_path):
    def spoilt(numbers):
        return b"\xff" * len(numbers)

    path = tmp_path / "model.mrnn"
    model = models_of_ids()
    model.save(path)
    header, numbers = models.taken_apart(path.read_bytes())
    path.write_bytes(models.put_together(header, spoilt(numbers)))
    with pytest.warns(UserWarning, match="not finite.* embedding_embeddings, gru_kernel"):
        minirnn.load(path)


@pytest.mark.parametrize(
    "code",
    ["__import__('os').system('touch ran')", "os.system", "builtins.eval", "Sequential.save"],
)
def test_a_file_runs_no_code(tmp_path, monkeypatch, code):
    """Whatever stands where a class or a function is named, it is looked up and never run."""
    monkeypatch.chdir(tmp_path)

    def change(stack):
        stack[2]["class"] = code

    with pytest.raises(minirnn.FileFormatError, match="unknown class"):
        minirnn.load(model_file(tmp_path, change))
    for key in ("activation", "kernel_initializer"):
        with pytest.raises(minirnn.FileFormatError, match="there is none called"):
            minirnn.load(
                model_file(tmp_path, lambda s, key=key: s[2]["config"].update({key: code}))
            )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.mrnn"]


def test_a_vocabulary_is_no_path(tmp_path):
    (tmp_path / "secret").write_text("oil\nprice")
    for path in (str(tmp_path / "secret"), "../secret"):
        changed = model_file(tmp_path, lambda s, p=path: s[0]["config"].update(vocabulary=p))
        with pytest.raises(minirnn.FileFormatError, match="expected a list of strings"):
            minirnn.load(changed)


# --- paths in the files of others -----------------------------------------------------------------


def test_a_keras_archive_writes_nothing_and_reads_no_path(tmp_path):
    pytest.importorskip("h5py")
    from fuzz.files import keras_parts

    from minirnn.interop import keras

    folder = tmp_path / "in" / "side"
    folder.mkdir(parents=True)
    parts = dict(keras_parts())
    config = json.loads(parts[keras.CONFIG])
    text = next(e for e in config["config"]["layers"] if e["class_name"] == "TextVectorization")
    text["config"]["vocabulary"] = str(tmp_path / "words")
    (tmp_path / "words").write_text("oil\nprice\nrise")
    parts[keras.CONFIG] = json.dumps(config).encode()
    parts["../../escaped"] = parts[str(tmp_path / "absolute")] = b"x"
    with zipfile.ZipFile(folder / "model.keras", "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    with pytest.raises(minirnn.FileFormatError, match="expected a list of strings"):
        keras.load(folder / "model.keras")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["in", "model.keras", "side", "words"]


def test_an_archive_that_unpacks_to_much_is_refused(tmp_path):
    pytest.importorskip("h5py")
    from minirnn.interop import keras

    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(keras.CONFIG, "{}")
        archive.writestr(keras.WEIGHTS, b"\0" * (50 * 2**20))
    with pytest.raises(minirnn.FileFormatError, match="would unpack to 52,428,802 bytes"):
        keras.load(path)


def h5_with(h5py, make):
    """An h5 file whose kernel of a Dense layer is something odd."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        group = file.create_group("layers/dense/vars")
        make(group)
        group["1"] = np.zeros(2, "f4")
    return buffer.getvalue()


@pytest.mark.parametrize("way", ["link", "soft link", "stored elsewhere", "virtual", "huge"])
def test_h5_files_read_no_other_file_and_nothing_that_does_not_fit(tmp_path, way):
    h5py = pytest.importorskip("h5py")
    from minirnn.interop import keras

    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.ones((3, 2), "f4")
    (tmp_path / "raw").write_bytes(np.ones(6, "f4").tobytes())

    def make(group):
        if way == "link":
            group["0"] = h5py.ExternalLink(str(secret), "/x")
        elif way == "soft link":
            group["0"] = h5py.SoftLink("/layers/dense/vars/1")
        elif way == "stored elsewhere":
            group.create_dataset("0", (3, 2), "f4", external=[(str(tmp_path / "raw"), 0, 24)])
        elif way == "virtual":
            layout = h5py.VirtualLayout((3, 2), "f4")
            layout[...] = h5py.VirtualSource(str(secret), "x", (3, 2))
            group.create_virtual_dataset("0", layout)
        else:
            group.create_dataset("0", (10**6, 10**6), "f4", chunks=True)

    path = tmp_path / "bad.weights.h5"
    path.write_bytes(h5_with(h5py, make))
    model = Sequential([Input((3,)), Dense(2)])
    model.build()
    before = model.get_weights()
    message = r"kernel of layer 'dense' has shape \(3, 2\)"
    with pytest.raises(ValueError, match=message), judge.limits():
        keras.load_weights(model, path)
    np.testing.assert_array_equal(before[0], model.get_weights()[0])


@pytest.mark.parametrize("place", ["beside.bin", "../outside.bin", "/etc/passwd"])
def test_onnx_files_read_no_other_file(tmp_path, monkeypatch, place):
    peer = pytest.importorskip("onnx")
    from fuzz.files import onnx_node

    from minirnn.interop import onnx

    model = peer.load_from_string(onnx_node())
    tensor = model.graph.initializer[0]
    (tmp_path / "in").mkdir()
    for folder in (tmp_path, tmp_path / "in"):
        for name in ("beside.bin", "outside.bin"):
            (folder / name).write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = peer.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    path = tmp_path / "in" / "model.onnx"
    path.write_bytes(model.SerializeToString())
    monkeypatch.chdir(path.parent)
    x = np.ones((4, 2, 3), np.float32)
    for given in (path, path.read_bytes(), model):
        with pytest.raises(ValueError, match="the numbers of 'W' are in another file"):
            onnx.run(given, x)


@pytest.mark.parametrize("member", ["../escaped", "absolute", "way/../../escaped", "link"])
def test_an_archive_of_news_stays_in_its_folder(tmp_path, member):
    from minirnn.data import ag_news, tfds_source

    archive = tmp_path / "deep" / "news.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        entry = tarfile.TarInfo(str(tmp_path / "escaped") if member == "absolute" else member)
        if member == "link":
            entry.type, entry.linkname = tarfile.SYMTYPE, "../../../../etc"
        else:
            entry.size = 1
        tar.addfile(entry, io.BytesIO(b"x"))
    # A leading / is left out, which keeps the member inside; all else is refused.
    if member == "absolute":
        tfds_source._unpack(archive, archive.parent)
    else:
        with pytest.raises(ag_news.NewsDataError, match="cannot be unpacked"):
            tfds_source._unpack(archive, archive.parent)
    outside = [p for p in tmp_path.rglob("*escaped*") if "extracted" not in p.parts]
    assert not outside


def test_a_deviation_of_minus_zero_is_none_at_all():
    assert (initializers.RandomNormal(1.0, stddev=-0.0)((2,)) == 1).all()
