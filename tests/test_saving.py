"""Model files: what comes back, what is refused, and that nothing is half written or executed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cases import CLASSES, STACKS, TOKENS, ids, labels, make, randomize, same_weights, vectors
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

from minirnn import (
    FileFormatError,
    Sequential,
    load,
    losses,
    metrics,
    models,
    optimizers,
    set_floatx,
)
from minirnn.activations import Activation as ActivationFunction
from minirnn.layers import (
    LSTM,
    Bidirectional,
    Dense,
    Embedding,
    Input,
    Layer,
    SimpleRNN,
    TextVectorization,
)

every_stack = pytest.mark.parametrize("name", STACKS)


def reloaded(model, folder):
    model.save(folder / "model.mrnn")
    return load(folder / "model.mrnn")


# --- there and back -------------------------------------------------------------------------------


@every_stack
def test_every_model_comes_back_bit_by_bit(name, tmp_path):
    model, x, y = make(name)
    randomize(model)
    model.fit(x, y, verbose=0)
    twin = reloaded(model, tmp_path)
    assert same_weights(model, twin)
    assert twin.name == model.name
    assert [layer.name for layer in twin.layers] == [layer.name for layer in model.layers]
    np.testing.assert_array_equal(twin.predict(x), model.predict(x))
    assert twin.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)


OPTIMIZERS = {
    "sgd": lambda: optimizers.SGD(0.1),
    "momentum": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True, clipnorm=1.0),
    "rmsprop": lambda: optimizers.RMSprop(0.01, momentum=0.5, centered=True),
    "adagrad": lambda: optimizers.Adagrad(0.1),
    "adam": lambda: optimizers.Adam(0.01, global_clipnorm=0.5),
    "schedule": lambda: optimizers.Adam(optimizers.schedules.ExponentialDecay(0.1, 3, 0.5)),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_goes_on_after_loading_as_if_never_interrupted(optimizer, tmp_path):
    def train(model, epochs):
        return model.fit(x, y, epochs=epochs, batch_size=4, shuffle=False, verbose=0).history

    model, x, y = make("bidirectional", optimizer=OPTIMIZERS[optimizer]())
    train(model, 2)
    twin = reloaded(model, tmp_path)
    assert type(twin.optimizer) is type(model.optimizer)
    assert twin.optimizer.iterations == model.optimizer.iterations == 8
    assert train(model, 2) == train(twin, 2)
    assert same_weights(model, twin)


def test_a_model_saved_twice_and_never_trained_in_between_goes_on(tmp_path):
    model, x, y = make("lstm")
    model.fit(x, y, verbose=0)
    twin = reloaded(reloaded(model, tmp_path), tmp_path)
    model.fit(x, y, shuffle=False, verbose=0)
    twin.fit(x, y, shuffle=False, verbose=0)
    assert same_weights(model, twin)


def test_the_learning_rate_of_the_moment_comes_back(tmp_path):
    model, x, y = make("lstm")
    model.optimizer.learning_rate = 0.125
    assert reloaded(model, tmp_path).optimizer.learning_rate == 0.125


ODD_WORDS = [
    '"',
    "'quoted\"",
    "\\",
    "😀",
    "👩‍👩‍👧",
    "e\u0301",
    "é",
    "naïve",
    "\u2028",
    "\x00",
    "日本語",
    "</script>",
    "{}",
    "a/b",
    " ",
    "tab\there",
]


def test_an_odd_vocabulary_comes_back(tmp_path):
    vectorizer = TextVectorization(standardize=None, split="whitespace", vocabulary=ODD_WORDS)
    model = Sequential([vectorizer, Embedding(30, 3), SimpleRNN(2)], name="übung")
    model.build()
    twin = reloaded(model, tmp_path)
    assert twin.name == "übung"
    assert twin.vectorizer.get_vocabulary() == ["", "[UNK]", *ODD_WORDS]
    np.testing.assert_array_equal(twin.predict(ODD_WORDS), model.predict(ODD_WORDS))


def test_an_adapted_vocabulary_comes_back(tmp_path):
    model, x, _ = make("texts")
    twin = reloaded(model, tmp_path)
    assert twin.vectorizer.get_vocabulary() == model.vectorizer.get_vocabulary()


def test_a_model_without_compile_comes_back(tmp_path):
    model = Sequential([Input((None, 2)), LSTM(3)])
    model.build()
    twin = reloaded(model, tmp_path)
    assert twin.optimizer is None
    assert same_weights(model, twin)


def test_float64_comes_back(tmp_path):
    set_floatx("float64")
    try:
        model, x, _ = make("bidirectional")
    finally:
        set_floatx("float32")
    twin = reloaded(model, tmp_path)
    assert twin.params["dense_kernel"].dtype == np.float64
    assert same_weights(model, twin)


def test_frozen_layers_come_back_frozen(tmp_path):
    model, _, _ = make("bidirectional")
    model.layers[1].trainable = False
    twin = reloaded(model, tmp_path)
    assert [layer.trainable for layer in twin.layers] == [True, False, True, True]


def test_extreme_numbers_come_back(tmp_path):
    model = Sequential([Input((2,)), Dense(3)])
    model.build()
    values = [np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38]
    model.params["dense_kernel"][...] = np.array(values, "float32").reshape(2, 3)
    kept = model.params["dense_kernel"].tobytes()
    with pytest.warns(UserWarning, match="NaN or infinity, in the weights dense"):
        twin = reloaded(model, tmp_path)
    assert twin.params["dense_kernel"].tobytes() == kept


def test_weights_in_fortran_order_are_stored_right(tmp_path):
    model, x, y = make("bidirectional")
    randomize(model)
    for layer in (model.layers[0], model.layers[-1]):
        for key, value in layer._weights.items():
            layer._weights[key] = np.asfortranarray(value)
    cell = model.layers[1].backward_layer.cell
    cell.params = {key: np.asfortranarray(value) for key, value in cell.params.items()}
    model.layers[-1]._weights["kernel"] = np.random.default_rng(0).normal(size=(3, 2)).astype("f").T
    assert not model.params["dense_kernel"].flags.c_contiguous
    assert not model.params["bidirectional_backward_kernel"].flags.c_contiguous
    twin = reloaded(model, tmp_path)
    assert same_weights(model, twin)
    np.testing.assert_array_equal(twin.predict(x), model.predict(x))


def test_metrics_and_losses_with_settings_come_back(tmp_path):
    model = Sequential([Embedding(TOKENS, 3), SimpleRNN(2), Dense(CLASSES, "softmax")])
    model.build()
    model.compile("sgd", losses.CategoricalCrossentropy(label_smoothing=0.25), ["acc", "mse"])
    twin = reloaded(model, tmp_path)
    assert twin.loss.get_config() == model.loss.get_config()
    assert [metric.name for metric in twin.metrics] == ["acc", "mse"]
    x, y = ids(), np.eye(CLASSES)[labels()]
    assert twin.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)


@pytest.mark.parametrize("name", ["top2", None])
def test_a_metric_with_settings_comes_back(name, tmp_path):
    model, x, y = make("lstm")
    metric = metrics.SparseTopKCategoricalAccuracy(k=2, name=name)
    model.compile("sgd", "sparse_categorical_crossentropy", [metric])
    twin = reloaded(model, tmp_path)
    assert twin.metrics[0].name == metric.name
    assert twin.metrics[0].k == 2


@pytest.mark.parametrize("use", ["predict", "fit"])
def test_a_model_that_was_built_by_its_data_comes_back(use, tmp_path):
    model = Sequential([LSTM(2), Dense(CLASSES, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    if use == "fit":
        model.fit(vectors(), labels(), verbose=0)
    else:
        model.predict(vectors())
    twin = reloaded(model, tmp_path)
    np.testing.assert_array_equal(twin.predict(vectors()), model.predict(vectors()))


def test_a_model_in_a_model_comes_back(tmp_path):
    model = Sequential([Embedding(TOKENS, 3), Sequential([LSTM(2), Dense(3)])])
    model.build()
    assert same_weights(model, reloaded(model, tmp_path))


def test_loading_in_another_process(tmp_path):
    """Nothing of this process is needed; and no module beyond minirnn's own is."""
    model, x, _ = make("texts")
    model.save(tmp_path / "m.mrnn")
    code = (
        "import sys, minirnn\n"
        "model = minirnn.load(sys.argv[1])\n"
        "print(model.predict(['oil prices']).tolist())\n"
    )
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path / "m.mrnn")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(out.stdout) == model.predict(["oil prices"]).tolist()


# --- writing --------------------------------------------------------------------------------------


def test_paths_of_every_kind(tmp_path, monkeypatch):
    model, _, _ = make("lstm")
    monkeypatch.chdir(tmp_path)
    for path in ("plain", "with space.mrnn", "ünï.mrnn", tmp_path / "path.mrnn"):
        model.save(path)
        assert same_weights(load(path), model)
    assert len(list(tmp_path.iterdir())) == 4


def test_an_older_file_is_replaced_and_the_rights_are_those_of_any_file(tmp_path):
    model, _, _ = make("lstm")
    path = tmp_path / "m.mrnn"
    path.write_bytes(b"old")
    model.save(path)
    assert same_weights(load(path), model)
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("old", [True, False])
def test_a_failure_half_way_leaves_the_old_file_and_nothing_else(step, old, tmp_path, monkeypatch):
    model, _, _ = make("lstm")
    path = tmp_path / "m.mrnn"
    if old:
        path.write_bytes(b"the old model")

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"minirnn.saving.os.{step}", fail)
    with pytest.raises(OSError, match="No space left"):
        model.save(path)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == (["m.mrnn"] if old else [])
    if old:
        assert path.read_bytes() == b"the old model"


def test_an_interrupt_half_way_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("minirnn.saving.os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make("lstm")[0].save(tmp_path / "m.mrnn")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"there is no folder '.*nowhere' to write 'm.mrnn'"
    ):
        make("lstm")[0].save(tmp_path / "nowhere" / "m.mrnn")


def test_a_folder_that_may_only_be_read(tmp_path):
    tmp_path.chmod(0o555)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write everywhere")
        with pytest.raises(PermissionError):
            make("lstm")[0].save(tmp_path / "m.mrnn")
    finally:
        tmp_path.chmod(0o755)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_the_right_to_make_a_file(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    (tmp_path / "m.mrnn").write_bytes(b"the old model")
    monkeypatch.setattr("minirnn.saving.tempfile.mkstemp", refuse)
    with pytest.raises(PermissionError, match=str(tmp_path)):
        make("lstm")[0].save(tmp_path / "m.mrnn")
    assert (tmp_path / "m.mrnn").read_bytes() == b"the old model"


def test_a_path_that_is_a_folder(tmp_path):
    (tmp_path / "m.mrnn").mkdir()
    with pytest.raises(OSError):
        make("lstm")[0].save(tmp_path / "m.mrnn")
    assert [p.name for p in tmp_path.iterdir()] == ["m.mrnn"]


@pytest.mark.parametrize("ending", [".keras", ".h5", ".hdf5"])
def test_endings_of_other_formats_are_refused(ending, tmp_path):
    model = make("lstm")[0]
    for path in (tmp_path / f"m{ending}", str(tmp_path / f"m{ending}")):
        with pytest.raises(ValueError, match=f"^path: .*m{ending}' has an ending of Keras.*mrnn"):
            model.save(path)
    assert list(tmp_path.iterdir()) == []


def test_load_has_its_name_in_keras(tmp_path):
    assert models.load_model is load
    model, x, _ = make("gru")
    model.save(tmp_path / "m.mrnn")
    np.testing.assert_array_equal(
        models.load_model(tmp_path / "m.mrnn").predict(x), model.predict(x)
    )


def test_a_model_without_weights_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="no weights yet.*build"):
        Sequential([Dense(2)]).save(tmp_path / "m.mrnn")
    assert list(tmp_path.iterdir()) == []


# --- what cannot be stored ------------------------------------------------------------------------


class Doubled(Layer):
    def forward(self, x, mask=None, training=False):
        return x * 2, None


class OwnLoss(losses.Loss):
    name = "own"

    def elementwise(self, y_true, y_pred):
        return (y_pred * y_pred).sum(axis=1), y_pred

    def gradient(self, cache):
        return 2 * cache


class OwnOptimizer(optimizers.SGD):
    pass


class OwnMetric(metrics.SparseCategoricalAccuracy):
    def __init__(self, name="own"):
        super().__init__(name)


SQUARE = ActivationFunction("square", lambda a, out=None: a * a, lambda y: 2 * np.sqrt(y))
FALSE_TANH = ActivationFunction("tanh", lambda a, out=None: a * a, lambda y: 2 * np.sqrt(y))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([Input((2,)), Dense(3, activation=SQUARE)], "square.*activation of your own cannot be st"),
        ([Input((2,)), Dense(3, activation=FALSE_TANH)], "activation of your own cannot be stored"),
        ([Input((None, 2)), LSTM(3, activation=SQUARE)], "activation of your own cannot be stored"),
        (
            [Input((2,)), Dense(3), Doubled()],
            "a Doubled cannot be stored in a file; only minirnn's",
        ),
        (
            [TextVectorization(vocabulary=["a"], standardize=str.lower), Embedding(3, 2)],
            "standardize is a function and cannot be stored",
        ),
    ],
)
def test_what_a_file_cannot_hold_is_refused_before_writing(layers, message, tmp_path):
    model = Sequential(layers)
    model.build()
    with pytest.raises(ValueError, match=message):
        model.save(tmp_path / "m.mrnn")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["optimizer", "loss", "metrics"])
def test_a_part_of_training_of_ones_own_is_refused_when_it_is_saved(part, tmp_path):
    model, _, _ = make("lstm")
    own = {"optimizer": OwnOptimizer(), "loss": OwnLoss(), "metrics": [OwnMetric()]}
    model.compile(**{"optimizer": "sgd", "loss": "mse", part: own[part]})
    with pytest.raises(ValueError, match="cannot be stored"):
        model.save(tmp_path / "m.mrnn")


# --- files that are no models ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The bytes of a good file: a small model with a vocabulary, trained."""
    vectorizer = TextVectorization(vocabulary=["oil", "😀"], output_sequence_length=3)
    model = Sequential(
        [
            vectorizer,
            Embedding(5, 2, mask_zero=True),
            Bidirectional(LSTM(2)),
            Dense(2, activation="softmax"),
        ]
    )
    model.build()
    model.compile("adam", "sparse_categorical_crossentropy", ["acc"])
    model.fit(["oil", "😀 oil"], [0, 1], verbose=0)
    path = tmp_path_factory.mktemp("good") / "m.mrnn"
    model.save(path)
    return path.read_bytes()


def taken_apart(content):
    """`(safetensors header, our own header, the numbers behind)`"""
    length = int.from_bytes(content[:8], "little")
    outer = json.loads(content[8 : 8 + length])
    return outer, json.loads(outer["__metadata__"]["header"]), content[8 + length :]


def put_together(outer, inner, numbers):
    if inner is not None:
        outer["__metadata__"]["header"] = json.dumps(inner)
    header = json.dumps(outer).encode()
    return len(header).to_bytes(8, "little") + header + numbers


def refused(tmp_path, content):
    path = tmp_path / "broken.mrnn"
    path.write_bytes(content)
    with pytest.raises(FileFormatError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


class Trap:
    """Unpickling it would leave a mark."""

    def __reduce__(self):
        return os.system, ("echo trapped > trapped",)


def test_taking_apart_and_putting_together_changes_nothing(content, tmp_path):
    path = tmp_path / "m.mrnn"
    path.write_bytes(put_together(*taken_apart(content)))
    assert load(path).predict(["oil"]).shape == (1, 2)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 500, -1000, -4, -1])
def test_truncated_files_are_refused(content, length, tmp_path):
    assert "no model file, or it is damaged" in refused(tmp_path, content[:length])


def test_bytes_at_the_end_are_refused(content, tmp_path):
    assert "no model file, or it is damaged" in refused(tmp_path, content + b"more")


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_are_refused(seed, tmp_path):
    rng = np.random.default_rng(seed)
    assert "no model file" in refused(tmp_path, rng.bytes(1000))
    header = rng.bytes(300)
    assert "no model file" in refused(tmp_path, (300).to_bytes(8, "little") + header)


@pytest.mark.parametrize(
    "header", [b"", b"[]", b"3", b"null", b"{}", b"{", b"[" * 5000, b"\xff\xfe"]
)
def test_headers_that_are_no_headers_are_refused(header, tmp_path):
    refused(tmp_path, len(header).to_bytes(8, "little") + header)


def test_a_pickle_is_refused_and_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no model file" in refused(tmp_path, pickle.dumps(Trap()))
    assert "no model file" in refused(tmp_path, pickle.dumps({"weights": [Trap()]}, protocol=0))
    assert [p.name for p in tmp_path.iterdir()] == ["broken.mrnn"]


def test_other_safetensors_files_are_refused(tmp_path):
    table = {"weight": np.zeros((2, 3), "float32")}
    message = "a safetensors file, but not a minirnn model"
    assert message in refused(tmp_path, to_bytes(table))
    assert message in refused(tmp_path, to_bytes(table, metadata={"format": "pt"}))


def test_a_key_twice_is_refused(content, tmp_path):
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].rstrip()
    entry = header[header.index(b'"weights/') : header.index(b"}", header.index(b'"weights/')) + 1]
    header = header[:-1] + b"," + entry + b"}"
    doubled = len(header).to_bytes(8, "little") + header + content[8 + length :]
    assert "holds a key twice" in refused(tmp_path, doubled)


def with_arrays(content, change):
    """The same file with other arrays."""
    arrays, metadata = from_bytes(content), taken_apart(content)[0]["__metadata__"]
    change(arrays)
    return to_bytes(arrays, metadata=metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("weights/dense_bias"), r"do not fit the configuration: \['dense_bias'\]"),
        (
            lambda a: a.update({"weights/extra": np.zeros(2, "f")}),
            r"do not fit the configuration: \['extra'\]",
        ),
        (
            lambda a: a.update({"weights/dense_bias": np.zeros(3, "f")}),
            r"weight dense_bias: expected floats of shape \(2,\), found float32 of \(3,\)",
        ),
        (
            lambda a: a.update({"weights/dense_kernel": a["weights/dense_kernel"].T.copy()}),
            r"weight dense_kernel: expected floats of shape \(4, 2\), found float32 of \(2, 4\)",
        ),
        (
            lambda a: a.update({"weights/dense_bias": np.zeros(2, "int32")}),
            "weight dense_bias: expected floats of shape .*, found int32",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(content, change, message, tmp_path):
    broken = refused(tmp_path, with_arrays(content, change))
    assert re.search(message, broken)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.update({"optimizer/dense_bias/m": np.zeros(5, "f")}),
        lambda a: a.update({"optimizer/dense_bias/who": np.zeros(2, "f")}),
        lambda a: a.update({"optimizer/nobody/m": np.zeros(2, "f")}),
    ],
    ids=["shape", "slot", "weight"],
)
def test_an_optimizer_state_that_does_not_fit_is_refused(content, change, tmp_path, request):
    refused(tmp_path, with_arrays(content, change))


def first_layer(inner):
    return inner["model"]["layers"][1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: first_layer(d).update({"class": "os.system"}), "unknown class 'os.system'"),
        (lambda d: first_layer(d).update({"class": "Layer"}), "unknown class 'Layer'"),
        (lambda d: first_layer(d).update({"class": ["LSTM"]}), r"unknown class \['LSTM'\]"),
        (lambda d: first_layer(d).update({"class": "Zeros", "config": {}}), "expected a layer"),
        (lambda d: first_layer(d).update({"config": None}), "expected a configuration, found"),
        (lambda d: first_layer(d)["config"].update(who=1), "configuration is damaged"),
        (
            lambda d: first_layer(d)["config"].update(input_dim="5"),
            "input_dim: expected a positive",
        ),
        (lambda d: first_layer(d)["config"].update(input_dim=-5), "input_dim: expected a positive"),
        (lambda d: first_layer(d)["config"].update(input_dim=6), r"of shape \(6, 2\), found"),
        (lambda d: first_layer(d)["config"].pop("input_dim"), "input_dim"),
        (lambda d: d.update(model=[]), r"expected a configuration, found \[\]"),
        (lambda d: d.pop("model"), "configuration is damaged"),
        (lambda d: d["model"].pop("layers"), "the configuration lacks layers"),
        (lambda d: d["training"].update(loss={"name": "eval"}), "there is none called 'eval'"),
        (lambda d: d["training"]["metrics"][0].update(kind="exec"), "there is none called 'exec'"),
        (lambda d: d["training"]["optimizer"].update(name="x"), "there is none called 'x'"),
        (lambda d: d["optimizer_state"].pop("iterations"), "iterations not found"),
        (lambda d: d["model"]["layers"][0]["config"].update(vocabulary=[1]), "expected texts"),
    ],
)
def test_configurations_that_are_damaged_are_refused(content, change, message, tmp_path):
    outer, inner, numbers = taken_apart(content)
    change(inner)
    assert re.search(message, refused(tmp_path, put_together(outer, inner, numbers)))


def deep(inner):
    value = 1
    for _ in range(900):
        value = {"deeper": value}
    first_layer(inner)["config"]["deep"] = value


UNCAUGHT = {
    "huge": lambda d: first_layer(d)["config"].update(input_dim=10**13),
    "infinite": lambda d: d["optimizer_state"].update(iterations=float("inf")),
    "no_axes": lambda d: d.update(
        model={"name": "m", "input_shape": [], "layers": [{"class": "Flatten", "config": {}}]}
    ),
    "deep": deep,
}


@pytest.mark.parametrize("name", UNCAUGHT)
def test_configurations_that_break_in_other_ways_are_refused(content, name, tmp_path):
    outer, inner, numbers = taken_apart(content)
    UNCAUGHT[name](inner)
    refused(tmp_path, put_together(outer, inner, numbers))


@pytest.mark.parametrize("version", ["2", "99", "", "one", "-1", "1.5"])
def test_other_versions_are_refused(content, version, tmp_path):
    outer, inner, numbers = taken_apart(content)
    outer["__metadata__"]["version"] = version
    message = refused(tmp_path, put_together(outer, inner, numbers))
    assert f"format version '{version}' is not known" in message
    assert "Upgrade minirnn" in message


def test_a_header_of_ours_that_is_no_json_is_refused(content, tmp_path):
    outer, _, numbers = taken_apart(content)
    outer["__metadata__"]["header"] = "__import__('os')"
    assert "configuration is damaged" in refused(tmp_path, put_together(outer, None, numbers))
    del outer["__metadata__"]["header"]
    assert "configuration is damaged" in refused(tmp_path, put_together(outer, None, numbers))


def test_the_error_is_a_value_error_and_files_are_closed(content, tmp_path):
    """An open file would be a ResourceWarning, which is an error in these tests."""
    path = tmp_path / "m.mrnn"
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError):
        load(path)


@pytest.mark.parametrize(
    "value", ["__import__('os').system('echo trapped > trapped')", "os.system"]
)
def test_no_text_in_a_file_is_executed(content, value, tmp_path, monkeypatch):
    """Names of activations, initializers, standardizers, classes: looked up, never evaluated."""
    monkeypatch.chdir(tmp_path)

    def replaced(part):
        """Every way to put `value` in the place of one text of the configuration."""
        if isinstance(part, dict):
            for key, item in part.items():
                for other in replaced(item):
                    yield part | {key: other}
        elif isinstance(part, list):
            for i, item in enumerate(part):
                for other in replaced(item):
                    yield [*part[:i], other, *part[i + 1 :]]
        elif isinstance(part, str) or part is None:
            yield value

    outer, inner, numbers = taken_apart(content)
    variants = list(replaced(inner))
    assert len(variants) > 20
    for variant in variants:
        (tmp_path / "m.mrnn").write_bytes(put_together(outer, variant, numbers))
        with contextlib.suppress(FileFormatError):
            load(tmp_path / "m.mrnn")
    assert [p.name for p in tmp_path.iterdir()] == ["m.mrnn"]


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.mrnn"):
        load(tmp_path / "none.mrnn")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_flipped_bytes_give_an_error_of_ours_or_a_model(content, tmp_path_factory, data):
    broken = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        broken[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "flipped.mrnn"
    path.write_bytes(broken)
    try:
        model = load(path)
    except FileFormatError:
        return
    assert isinstance(model, Sequential)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_changed_numbers_and_signs_give_an_error_of_ours_or_a_model(
    content, tmp_path_factory, data
):
    """As above, but only in the header, and with characters that leave it likely to be JSON."""
    length = int.from_bytes(content[:8], "little")
    broken = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(8, 8 + length - 1))
        broken[place] = data.draw(st.sampled_from(b'0123456789-.eE"{}[],: nulltruefalse'))
    path = tmp_path_factory.getbasetemp() / "changed.mrnn"
    path.write_bytes(broken)
    try:
        model = load(path)
    except FileFormatError:
        return
    assert isinstance(model, Sequential)


# --- older files ----------------------------------------------------------------------------------


def test_a_file_of_the_first_version_still_loads():
    """Written by the first minirnn that could; it keeps its answers, and can be trained on."""
    model = load(Path(__file__).parent / "files" / "version_1.mrnn")
    texts = ["shares climb", "the striker scores", "probe falls", "oil", "", "twice"]
    expected = np.array(
        [
            [0.01480705, 0.01214574, 0.7053401, 0.26770708],
            [0.01613413, 0.01201901, 0.73737687, 0.23446997],
            [0.01804582, 0.01219292, 0.73192084, 0.23784037],
            [0.02297972, 0.0125802, 0.5134844, 0.4509556],
            [0.01379917, 0.01176553, 0.17745724, 0.796978],
            [0.02011998, 0.01373085, 0.5142112, 0.45193797],
        ]
    )
    np.testing.assert_allclose(model.predict(texts), expected, rtol=1e-5, atol=1e-6)
    assert model.optimizer.iterations == 4
    loss = model.train_on_batch(texts, np.array([0, 1, 2, 0, 3, 1]))
    assert loss == pytest.approx(
        -np.log(expected[np.arange(6), [0, 1, 2, 0, 3, 1]]).mean(), rel=1e-4
    )
    assert model.optimizer.iterations == 5
