"""ONNX's recurrent operators through minirnn's cells, and minirnn's models in onnxruntime."""

from __future__ import annotations

import glob
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from minirnn import Input, Sequential, layers, set_random_seed  # noqa: E402
from minirnn.interop import onnx as interop  # noqa: E402

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def session(model):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def node_model(kind, inputs, attributes):
    """A graph of one node; inputs: name → array or None."""
    names = [name if array is not None else "" for name, array in inputs.items()]
    outputs = ["Y", "Y_h", "Y_c"][: 3 if kind == "LSTM" else 2]
    node = helper.make_node(kind, names, outputs, **attributes)
    types = {np.dtype("float32"): TensorProto.FLOAT, np.dtype("int32"): TensorProto.INT32}
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(name, types[array.dtype], array.shape)
            for name, array in inputs.items()
            if array is not None
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def random_case(kind, direction, seed, ragged=True, bias=True, state=True, T=7, B=5, F=2, U=3):
    rng = np.random.default_rng(seed)
    D = 2 if direction == "bidirectional" else 1

    def draw(*shape):
        return rng.normal(scale=0.7, size=shape).astype("float32")

    inputs = {
        "X": draw(T, B, F),
        "W": draw(D, GATES[kind] * U, F),
        "R": draw(D, GATES[kind] * U, U),
        "B": draw(D, 2 * GATES[kind] * U) if bias else None,
        "sequence_lens": rng.integers(1, T + 1, B).astype("int32") if ragged else None,
        "initial_h": draw(D, B, U) if state else None,
    }
    if kind == "LSTM":
        inputs["initial_c"] = draw(D, B, U) if state else None
    return inputs, {"hidden_size": U, "direction": direction}


def compare(model, inputs):
    given_inputs = {name: array for name, array in inputs.items() if array is not None}
    want = session(model).run(None, given_inputs)
    got = interop.run(model, *given_inputs.values())
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape
        # onnxruntime's tanh and sigmoid are approximations, good to about 1e-5.
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=5e-5)
    return got


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(GATES)),
    direction=st.sampled_from(["forward", "reverse", "bidirectional"]),
    ragged=st.booleans(),
    bias=st.booleans(),
    state=st.booleans(),
    linear=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_nodes_as_onnxruntime_runs_them(kind, direction, ragged, bias, state, linear, seed):
    inputs, attributes = random_case(kind, direction, seed, ragged, bias, state)
    if kind == "GRU":
        attributes["linear_before_reset"] = int(linear)
    compare(node_model(kind, inputs, attributes), inputs)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("Relu", {}),
        ("Softsign", {}),
        ("Softplus", {}),
        ("Elu", {"activation_alpha": [0.7, 0.7]}),
        ("LeakyRelu", {"activation_alpha": [0.3, 0.2]}),
        ("ThresholdedRelu", {"activation_alpha": [0.1, 0.2]}),
        ("ScaledTanh", {"activation_alpha": [0.9, 0.8], "activation_beta": [0.5, 0.7]}),
        ("HardSigmoid", {"activation_alpha": [0.3, 0.25], "activation_beta": [0.4, 0.6]}),
        ("Affine", {"activation_alpha": [0.3, 0.25], "activation_beta": [0.4, 0.6]}),
    ],
)
def test_activations(name, numbers):
    inputs, attributes = random_case("RNN", "bidirectional", 3)
    attributes |= {"activations": [name, name], **numbers}
    compare(node_model("RNN", inputs, attributes), inputs)


@pytest.mark.parametrize("kind", sorted(GATES))
def test_layout_1_puts_the_batch_first(kind):
    inputs, attributes = random_case(kind, "bidirectional", 4)
    plain = interop.run(node_model(kind, inputs, attributes), *inputs.values())
    turned = dict(inputs)
    for name in ("X", "initial_h", "initial_c"):
        if name in turned:
            turned[name] = np.ascontiguousarray(np.swapaxes(turned[name], 0, 1))
    y, *states = interop.run(node_model(kind, turned, attributes | {"layout": 1}), *turned.values())
    np.testing.assert_array_equal(y, plain[0].transpose(2, 0, 1, 3))
    for one, other in zip(states, plain[1:], strict=True):
        np.testing.assert_array_equal(one, np.swapaxes(other, 0, 1))


def test_a_row_of_length_0_keeps_its_state():
    inputs, attributes = random_case("LSTM", "bidirectional", 5)
    inputs["sequence_lens"] = np.array([0, 7, 3, 0, 1], "int32")
    y, h, c = interop.run(node_model("LSTM", inputs, attributes), *inputs.values())
    assert not y[:, :, [0, 3]].any()
    np.testing.assert_array_equal(h[:, [0, 3]], inputs["initial_h"][:, [0, 3]])
    np.testing.assert_array_equal(c[:, [0, 3]], inputs["initial_c"][:, [0, 3]])


def node_tests():
    data = os.path.join(os.path.dirname(onnx.__file__), "backend", "test", "data", "node")
    folders = [
        f
        for kind in ("lstm", "gru", "rnn", "simple_rnn")
        for f in sorted(glob.glob(os.path.join(data, f"test_{kind}_*")))
    ]
    return folders or [None]


@pytest.mark.parametrize("folder", node_tests(), ids=lambda f: f and os.path.basename(f))
def test_the_node_tests_of_onnx(folder):
    if folder is None:
        pytest.skip("this onnx package carries no node tests (1.19 does)")
    model = onnx.load(os.path.join(folder, "model.onnx"))
    inputs, outputs = (
        [
            numpy_helper.to_array(onnx.load_tensor(path))
            for path in sorted(glob.glob(os.path.join(folder, "test_data_set_0", f"{which}_*.pb")))
        ]
        for which in ("input", "output")
    )
    if "peepholes" in folder:
        with pytest.raises(ValueError, match="no peepholes"):
            interop.run(model, *inputs)
        return
    got = interop.run(model, *inputs)
    for one, other in zip(got, outputs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("LSTM", {"clip": 1.0}, "no clip"),
        ("LSTM", {"input_forget": 1}, "no input_forget"),
        ("LSTM", {"activations": ["Sigmoid", "Tanh", "Relu"]}, "one activation for g and h"),
        ("GRU", {"activations": ["Sigmoid", "Swish"]}, "no 'Swish'"),
        ("RNN", {"activations": ["Tanh", "Tanh"]}, "expected 1 activations, received 2"),
    ],
)
def test_what_is_lacking_is_refused_by_name(kind, change, message):
    inputs, attributes = random_case(kind, "forward", 6)
    with pytest.raises(ValueError, match=message):
        interop.run(node_model(kind, inputs, attributes | change), *inputs.values())


def test_inputs_that_do_not_fit():
    inputs, attributes = random_case("GRU", "forward", 7)
    model = node_model("GRU", inputs, attributes)
    with pytest.raises(ValueError, match="the graph takes 6"):
        interop.run(model, inputs["X"])
    wrong = dict(inputs, sequence_lens=np.full(5, 8, "int32"))
    with pytest.raises(ValueError, match="sequence_lens must lie from 0 to 7"):
        interop.run(model, *wrong.values())
    half = dict(inputs, X=inputs["X"].astype("float16"))
    with pytest.raises(ValueError, match="X is float16"):
        interop.run(model, *half.values())
    other = helper.make_model(
        helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            "other",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        )
    )
    with pytest.raises(ValueError, match="Relu: minirnn runs RNN, LSTM and GRU"):
        interop.run(other.SerializeToString(), np.ones(1, "float32"))


# --- export ---------------------------------------------------------------------------------------

L = layers


def models():
    def both(layer, merge="concat", **options):
        return L.Bidirectional(layer, merge_mode=merge, **options)

    yield "rnn-title", [L.Embedding(31, 5), L.SimpleRNN(3), L.Dense(4, activation="softmax")]
    yield "rnn", [L.Embedding(31, 5, mask_zero=True), L.SimpleRNN(3), L.Dense(4, "softmax")]
    yield "lstm", [L.Embedding(31, 5), L.LSTM(3), L.Dense(4, "softmax")]
    yield (
        "bilstm",
        [
            L.Embedding(31, 5, mask_zero=True),
            both(L.LSTM(3, return_sequences=True)),
            both(L.LSTM(2)),
            L.Dense(4, "softmax"),
        ],
    )
    for merge in ("sum", "mul", "ave"):
        yield (
            f"bigru-{merge}",
            [
                L.Embedding(31, 5, mask_zero=True),
                both(L.GRU(3, return_sequences=True), merge),
                both(L.GRU(2, reset_after=False), merge),
                L.Dense(4, "softmax"),
            ],
        )
    yield (
        "backwards",
        [
            L.Embedding(31, 5, mask_zero=True),
            L.LSTM(3, go_backwards=True, use_bias=False),
            L.Dropout(0.4),
            L.Dense(3, "relu", use_bias=False),
            L.Dense(1, "sigmoid"),
        ],
    )
    yield (
        "every-step",
        [
            L.Embedding(31, 5, mask_zero=True),
            L.GRU(3, return_sequences=True),
            L.TimeDistributed(L.Dense(4, "softmax")),
        ],
    )
    yield (
        "every-step-unmasked",
        [
            L.Embedding(31, 5),
            L.GRU(3, return_sequences=True, activation="relu"),
            L.Dense(4),
            L.Activation("softmax"),
        ],
    )
    for mask in (False, True):
        yield (
            f"average-{mask}",
            [
                L.Embedding(31, 5, mask_zero=mask),
                both(L.LSTM(3, return_sequences=True)),
                L.GlobalAveragePooling1D(),
                L.Dense(4, "softmax"),
            ],
        )
        yield (
            f"maximum-{mask}",
            [
                L.OneHot(31, mask_zero=mask),
                L.SimpleRNN(3, return_sequences=True),
                L.GlobalMaxPooling1D(),
                L.Dense(4, "softmax"),
            ],
        )
    yield (
        "mask-dropped",
        [
            L.Embedding(31, 5, mask_zero=True),
            L.LSTM(3, return_sequences=True, zero_output_for_mask=True),
            L.DropMask(),
            L.LSTM(3),
            L.Dense(4, "softmax"),
        ],
    )
    yield (
        "nested",
        [
            Sequential([L.Embedding(31, 5, mask_zero=True), L.LSTM(3)]),
            Sequential([L.Dense(4, "softmax")]),
        ],
    )


def padded(rng, rows=6, time=9):
    lengths = rng.integers(1, time + 1, rows).astype("int32")
    lengths[0] = time
    ids = rng.integers(1, 31, (rows, time)) * (np.arange(time) < lengths[:, None])
    return ids.astype("int64"), lengths


@pytest.mark.parametrize(("name", "stack"), list(models()), ids=[name for name, _ in models()])
def test_an_exported_classifier_gives_the_same_probabilities(name, stack, tmp_path):
    set_random_seed(7)
    rng = np.random.default_rng(8)
    model = Sequential(stack)
    model.build((None, None))
    model.set_weights([rng.normal(size=w.shape).astype(w.dtype) for w in model.get_weights()])
    path = tmp_path / "model.onnx"
    interop.save(model, path)
    runtime = session(onnx.load(path))
    needed = {value.name for value in runtime.get_inputs()}
    for seed in range(3):
        ids, lengths = padded(np.random.default_rng(seed))
        feed = {"ids": ids, "lengths": lengths}
        (got,) = runtime.run(None, {key: feed[key] for key in needed})
        np.testing.assert_allclose(got, model.predict(ids), rtol=1e-4, atol=1e-6)


def test_a_model_of_vectors_and_one_in_float64():
    rng = np.random.default_rng(9)
    model = Sequential([Input((None, 3)), L.GRU(4), L.Dense(2)])
    model.build()
    model = model.astype("float64")
    x = rng.normal(size=(5, 7, 3))
    exported = interop.export(model)
    assert [value.name for value in exported.graph.input] == ["x"]
    assert exported.graph.output[0].type.tensor_type.elem_type == TensorProto.DOUBLE
    single = interop.export(model.astype("float32"))
    (got,) = session(single).run(None, {"x": x.astype("float32")})
    np.testing.assert_allclose(got, model.forward(x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("stack", "message"),
    [
        ([L.Embedding(9, 2), L.LSTM(2, return_sequences=True, go_backwards=True)], "order walked"),
        ([L.Embedding(9, 2), L.LSTM(2, activation="elu")], "elu inside a cell"),
        ([L.Embedding(9, 2), L.LSTM(2, stateful=True)], "stateful"),
        ([L.Embedding(9, 2), L.Masking(), L.LSTM(2)], "a Masking has no counterpart"),
    ],
)
def test_what_cannot_be_exported_is_named(stack, message):
    model = Sequential(stack)
    model.build()
    with pytest.raises(ValueError, match=message):
        interop.export(model)


def test_export_and_run_are_each_others_witness():
    """The recurrent node of an exported model, run through `run`, is the layer."""
    model = Sequential([Input((None, 3)), L.Bidirectional(L.LSTM(4, return_sequences=True))])
    model.build()
    graph = interop.export(model).graph
    (node,) = [n for n in graph.node if n.op_type == "LSTM"]
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    x = np.random.default_rng(1).normal(size=(5, 7, 3)).astype("float32")
    inputs = {"X": x.swapaxes(0, 1).copy()}
    inputs |= {k: constants[n] for k, n in zip("WRB", node.input[1:4], strict=True)}
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    y, *_ = interop.run(node_model("LSTM", inputs, attributes), *inputs.values())
    want = model.predict(x)
    np.testing.assert_allclose(y.transpose(2, 0, 1, 3).reshape(5, 7, 8), want, rtol=1e-5, atol=1e-6)
