"""Whole models on the strict stand-in for CuPy: trained, used, saved and checked as on NumPy."""

from __future__ import annotations

import os
import subprocess
import sys

import model_cases
import numpy as np
import pytest
from device_cases import compare
from model_cases import CLASSES, ids, labels, make
from strict_cupy import installed

from minirnn import (
    Sequential,
    check_padding_invariance,
    load,
    losses,
    set_random_seed,
)
from minirnn.backend import to_host
from minirnn.callbacks import EarlyStopping, ModelCheckpoint
from minirnn.cli import main
from minirnn.finite import NonFiniteError
from minirnn.gradcheck import gradcheck
from minirnn.layers import (
    GRU,
    LSTM,
    Bidirectional,
    Dense,
    Embedding,
    GlobalMaxPooling1D,
    GRUCell,
    SimpleRNN,
    TimeDistributed,
)
from minirnn.losses import SparseCategoricalCrossentropy
from minirnn.optimizers import Adam
from minirnn.schedules import CosineDecay

pytestmark = pytest.mark.usefixtures("loops_that_run_here")
either_loop = pytest.mark.usefixtures("either_loop")


def fit(model, x, y, **options):
    options = {"batch_size": 5, "epochs": 2, "verbose": 0} | options
    return model.fit(x, y, **options).history


def steps_model(**options):
    """A class at every step."""
    set_random_seed(7)
    layers = [Embedding(11, 5, mask_zero=True), LSTM(3, return_sequences=True)]
    model = Sequential([*layers, TimeDistributed(Dense(CLASSES, activation="softmax"))])
    model.build()
    model.compile("adam", "sparse_categorical_crossentropy", ["acc"], **options)
    return model


# --- training -------------------------------------------------------------------------------------


@either_loop
@pytest.mark.parametrize("name", model_cases.STACKS)
def test_a_model_is_trained_and_used(name):
    def run():
        model, x, y = make(name)
        history = fit(model, x, y, validation_split=0.3)
        lines = []
        model.summary(lines.append)
        figures = model.evaluate(x, y, verbose=0, return_dict=True)
        return history, figures, model.predict(x), model.get_weights(), lines

    compare(run)


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adagrad", "adam", "a schedule"])
def test_optimizers(optimizer):
    def run():
        chosen = Adam(CosineDecay(0.02, 6), clipnorm=0.1) if optimizer[0:2] == "a " else optimizer
        model, x, y = make("lstm", optimizer=chosen)
        return fit(model, x, y), model.get_weights()

    compare(run)


LOSSES = {
    "mse": (1, np.linspace(-1, 1, 13)),
    "mae": (2, np.linspace(-1, 1, 26).reshape(13, 2)),
    "binary_crossentropy": (1, labels() % 2),
    "categorical_crossentropy": (CLASSES, np.eye(CLASSES)[labels()]),
}


@pytest.mark.parametrize("activation", [None, "sigmoid", "softmax"])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses(loss, activation):
    outputs, y = LOSSES[loss]
    if activation is None and losses.get(loss).activation is not None:
        activation = "hard_sigmoid"

    def run():
        set_random_seed(7)
        model = Sequential([Embedding(11, 4), GRU(3), Dense(outputs, activation=activation)])
        model.build()
        model.compile("sgd", loss, ["mse", "acc"])
        return fit(model, ids(), y), model.get_weights()

    compare(run)


def test_weights_of_samples_and_classes():
    def run():
        model, x, y = make("simple_rnn")
        weight = np.linspace(0, 2, len(y))
        first = fit(model, x, y, sample_weight=weight, class_weight={0: 2.0, 2: 0.5})
        figures = model.evaluate(x, y, verbose=0, sample_weight=weight)
        return first, figures, model.train_on_batch(x, y, weight), model.predict_on_batch(x)

    compare(run)


@either_loop
def test_an_output_at_every_step():
    def run():
        model, x = steps_model(), ids()
        y = np.random.default_rng(1).integers(0, CLASSES, x.shape)
        weight = np.random.default_rng(2).random(x.shape)
        history = fit(model, x, y, sample_weight=weight, validation_data=(x, y))
        return history, model.predict(x), model.get_weights()

    compare(run)


def test_a_model_inside_a_model_and_frozen_layers():
    def run():
        set_random_seed(7)
        inner = Sequential([LSTM(3, return_sequences=True), GlobalMaxPooling1D()])
        table = Embedding(11, 4, mask_zero=True, trainable=False)
        model = Sequential([table, inner, Dense(CLASSES, activation="softmax")])
        model.build()
        model.compile("adam", SparseCategoricalCrossentropy(), ["acc"])
        return fit(model, ids(), labels()), model.get_weights()

    compare(run)


def test_a_stateful_model():
    def run():
        set_random_seed(7)
        layers = [Embedding(11, 4), LSTM(3, stateful=True), Dense(CLASSES, activation="softmax")]
        model = Sequential(layers)
        model.build()
        model.compile("adam", "sparse_categorical_crossentropy")
        history = fit(model, ids()[:10], labels()[:10], shuffle=False)
        model.reset_states()
        return history, model.predict(ids()[:5])

    compare(run)


def test_callbacks_and_a_step_that_they_watch(tmp_path):
    def run():
        model, x, y = make("lstm")
        stopping = EarlyStopping("loss", patience=1, restore_best_weights=True)
        saving = ModelCheckpoint(str(tmp_path / "{epoch}.mrnn"))
        history = fit(model, x, y, callbacks=[stopping, saving])
        return history, load(tmp_path / "2.mrnn").get_weights(), model.get_weights()

    compare(run)


# --- saving ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lstm", "bidirectional", "texts"])
def test_files_go_from_the_one_to_the_other(name, tmp_path):
    """Half of a training on the device and half on the host, either way round."""
    model, x, y = make(name)
    fit(model, x, y, shuffle=False)
    model.save(tmp_path / "host")
    fit(model, x, y, shuffle=False)
    expected = model.get_weights()
    with installed():
        model, _, _ = make(name)
        fit(model, x, y, shuffle=False)
        model.save(tmp_path / "device")
        model = load(tmp_path / "host")
        fit(model, x, y, shuffle=False)
        on_device = model.get_weights()
    model = load(tmp_path / "device")
    fit(model, x, y, shuffle=False)
    for other in (on_device, model.get_weights()):
        for one, two in zip(expected, other, strict=True):
            np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)


def test_a_saved_model_is_the_same(tmp_path):
    with installed():
        model, x, y = make("gru")
        fit(model, x, y)
        model.save(tmp_path / "model")
        twin = load(tmp_path / "model")
        assert all(
            np.array_equal(to_host(a), to_host(b))
            for a, b in zip(model.weights, twin.weights, strict=True)
        )
        np.testing.assert_array_equal(model.predict(x), twin.predict(x))


# --- around it ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_losses_that_are_not_finite_are_traced():
    def message(plant):
        model, x, y = make("lstm")
        plant(model)
        with pytest.raises(NonFiniteError) as caught:
            fit(model, x, y)
        return str(caught.value)

    def weights(model):
        model.get_layer("lstm").params["bias"][...] = np.nan

    def output(model):
        model.get_layer("lstm").params["bias"][...] = 50
        model.get_layer("dense").params["kernel"][...] = 3e38

    for plant in (weights, output):
        compare(lambda: message(plant))  # noqa: B023


@either_loop
@pytest.mark.parametrize(
    "thing",
    [
        LSTM(2, return_sequences=True, recurrent_dropout=0.3),
        Bidirectional(GRU(2), merge_mode="ave"),
        GRUCell(2),
        GlobalMaxPooling1D(),
        SparseCategoricalCrossentropy(),
        Sequential([Embedding(5, 2, mask_zero=True), SimpleRNN(3), Dense(2)]),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_gradient_checks(thing):
    """With the same methods, not only the same verdict: the complex step leaves no trace."""

    def run():
        options = (
            {}
            if isinstance(thing, (GRUCell, SparseCategoricalCrossentropy))
            else {"training": True}
        )
        report = gradcheck(thing, sample=4, **options)
        assert report.passed
        return [(row.name, row.method) for row in report.rows]

    compare(run)


def test_padding_invariance():
    def run():
        model, x, _ = make("lstm")
        report = check_padding_invariance(model, [row[row > 0] for row in x[:4]])
        return report.passed, report.layer

    compare(run)


def test_the_command_line_trains_on_the_device(tmp_path, capsys):
    def train(backend):
        path = str(tmp_path / backend)
        arguments = ["--data", "sample", "--model", "rnn-title", "--take", "64", "--epochs", "1"]
        assert main(["train", *arguments, "--backend", backend, "--save", path]) == 0
        assert f"computed with {backend}." in capsys.readouterr().out
        return load(path).get_weights()

    expected = train("numpy")
    with installed():
        found = train("cupy")
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


def test_the_environment_variable_chooses_the_device(tmp_path):
    (tmp_path / "cupy.py").write_text(
        "import sys, strict_cupy\nsys.modules['cupy'] = strict_cupy.cupy\n", encoding="utf-8"
    )
    code = (
        "import minirnn, model_cases; model, x, y = model_cases.make('average_pooling'); "
        "model.fit(x, y, verbose=0); print(minirnn.get_backend(), type(model.weights[0]))"
    )
    here = os.path.dirname(__file__)
    path = os.pathsep.join([str(tmp_path), here, os.path.dirname(here)])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "MINIRNN_BACKEND": "cupy"},
    )
    assert (done.stdout, done.stderr) == ("cupy <class 'strict_cupy.ndarray'>\n", "")


def test_weights_go_to_other_libraries_and_come_back(tmp_path):
    pytest.importorskip("h5py")
    from minirnn.interop import keras, pytorch

    def run():
        model, x, _ = make("bidirectional")
        expected = model.predict(x)
        keras.save(model, tmp_path / "model.keras")
        other, _, _ = make("bidirectional", seed=8)
        pytorch.load_state_dict(other, pytorch.state_dict(model))
        twin = keras.load(tmp_path / "model.keras")
        for again in (other.predict(x), twin.predict(x)):
            np.testing.assert_array_equal(again, expected)
        return expected, pytorch.state_dict(model)

    compare(run)


def test_onnx_nodes_are_computed_on_the_device(tmp_path):
    onnx = pytest.importorskip("onnx")
    from minirnn.interop import onnx as ours

    rng = np.random.default_rng(1)
    weights = [rng.normal(size=(2, 12, n)).astype("float32") for n in (2, 3)]
    node = onnx.helper.make_node(
        "LSTM", ["X", "W", "R"], ["Y"], hidden_size=3, direction="bidirectional"
    )
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "XY"
    ]
    stored = [onnx.numpy_helper.from_array(w, name) for w, name in zip(weights, "WR", strict=True)]
    graph = onnx.helper.make_graph([node], "graph", values[:1], values[1:], stored)
    model = onnx.helper.make_model(graph)
    x = rng.normal(size=(7, 5, 2)).astype("float32")
    compare(lambda: ours.run(model, x))
    ours.save(make("lstm")[0], tmp_path / "host.onnx")
    with installed():
        ours.save(make("lstm")[0], tmp_path / "device.onnx")
    assert (tmp_path / "host.onnx").read_bytes() == (tmp_path / "device.onnx").read_bytes()
