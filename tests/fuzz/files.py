"""Files that others may have made: models of Keras, PyTorch and ONNX."""

from __future__ import annotations

import copy
import functools
import io
import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from fuzz.judge import ask, refused, require
from fuzz.models import path_of, put_together, taken_apart, with_other_tensors
from fuzz.values import Draw, bent, mutated
from minirnn import layers
from minirnn.models import Sequential

FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-files-")


# --- Keras's files --------------------------------------------------------------------------------


@functools.cache
def keras_parts() -> tuple[tuple[str, bytes], ...]:
    from minirnn.interop import keras

    words = layers.TextVectorization(vocabulary=["oil", "price", "rise"])
    recurrent = layers.Bidirectional(layers.LSTM(2))
    model = Sequential([words, layers.Embedding(5, 2, mask_zero=True), recurrent, layers.Dense(3)])
    model.build()
    path = Path(FOLDER.name, "good.keras")
    keras.save(model, path)
    with zipfile.ZipFile(path) as archive:
        return tuple((name, archive.read(name)) for name in archive.namelist())


def keras_files(draw: Draw) -> None:
    """A `.keras` file that is not right: a named error, or a model; nothing is written anywhere."""
    from minirnn.interop import keras

    parts = dict(keras_parts())
    how = draw(st.integers(0, 4))
    if how in (0, 1):
        config = mutated(
            draw, json.loads(parts[keras.CONFIG]), ["module", "class_name", "units", "vocabulary"]
        )
        parts[keras.CONFIG] = json.dumps(config).encode()
    elif how == 2:
        name = draw(st.sampled_from(list(parts)))
        parts[name] = bent(draw, parts[name])
    elif how == 3:
        del parts[draw(st.sampled_from(list(parts)))]
    if draw(st.integers(0, 3)) == 0:
        name = draw(
            st.sampled_from(
                [
                    "../../x",
                    "/tmp/fuzz-x",
                    "assets/text_vectorization/vocabulary.txt",
                    "../vocabulary.txt",
                ]
            )
        )
        parts[name] = draw(
            st.sampled_from([b"", b"\n[UNK]\noil\nprice\nrise", b"\xff", b"oil\noil"])
        )
    buffer = io.BytesIO()
    squeeze = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    with zipfile.ZipFile(buffer, "w", squeeze) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    content = buffer.getvalue()
    content = bent(draw, content) if draw(st.integers(0, 4)) == 0 else content
    before = set(Path(FOLDER.name).parent.glob("fuzz-x*"))
    model = ask(keras.load, path_of("bad.keras", content))
    require(set(Path(FOLDER.name).parent.glob("fuzz-x*")) == before, "it wrote a file", parts)
    if not refused(model):
        x = ["oil", "snow rise"] if model.vectorizer else np.ones((2, 3), np.int32)
        ask(model.predict, x)


@functools.cache
def h5_weights() -> tuple[Sequential, bytes]:
    from minirnn.interop import keras

    model = Sequential([layers.Input((3,)), layers.Dense(2)])
    model.build()
    path = Path(FOLDER.name, "good.weights.h5")
    keras.save_weights(model, path)
    return model, path.read_bytes()


def h5_files(draw: Draw) -> None:
    """A `.weights.h5` file that is damaged, or that claims what is not there."""
    import h5py

    from minirnn.interop import keras

    model, content = h5_weights()
    if draw(st.booleans()):
        content = bent(draw, content)
    else:
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            group = file.create_group(
                draw(st.sampled_from(["layers/dense/vars", "layers/x/vars", "vars"]))
            )
            for name in ("0", draw(st.sampled_from(["1", "x", "-1", "²"]))):
                sizes = draw(st.sampled_from([(3, 2), (2,), (), (10**6, 10**6), (0,)]))
                kind = draw(st.sampled_from(["f4", "f8", "i4", "S3", "c8", "f2"]))
                how = draw(st.integers(0, 3))
                if how == 0 or np.prod(sizes, dtype=float) > 1e6:
                    group.create_dataset(
                        name,
                        shape=sizes,
                        dtype=kind,
                        chunks=True if sizes and 0 not in sizes else None,
                    )
                elif how == 1:
                    group.create_group(name)
                elif how == 2:
                    group[name] = h5py.ExternalLink(
                        draw(st.sampled_from(["/etc/passwd", "../x.h5"])), "/x"
                    )
                else:
                    group.create_dataset(name, data=np.zeros(sizes, kind))
        content = buffer.getvalue()
    weights = model.get_weights()
    answer = ask(keras.load_weights, model, path_of("bad.weights.h5", content))
    if refused(answer):
        kept = all((a == b).all() for a, b in zip(weights, model.get_weights(), strict=True))
        require(kept, "a refused file changed weights", answer)
    model.set_weights([np.zeros_like(w) for w in weights])


# --- tensors and graphs ---------------------------------------------------------------------------


@functools.cache
def torch_like() -> tuple[Sequential, bytes]:
    from minirnn.interop import pytorch

    model = Sequential([layers.Embedding(5, 3), layers.LSTM(2), layers.Dense(2)])
    model.build()
    path = Path(FOLDER.name, "good.safetensors")
    pytorch.save(model, path)
    return model, path.read_bytes()


def tensor_files(draw: Draw) -> None:
    """A `.safetensors` file as PyTorch's users have them, or nearly so."""
    from minirnn.interop import pytorch

    model, content = torch_like()
    header, numbers = copy.deepcopy(taken_apart(content))
    how = draw(st.integers(0, 3))
    if how == 0:
        content = bent(draw, content)
    elif how == 1:
        content = put_together(with_other_tensors(draw, header), numbers)
    elif how == 2:
        content = put_together(mutated(draw, header, ["dense.weight", "__metadata__"]), numbers)
    else:
        order = draw(
            st.sampled_from(["", "null", "[1]", "[[]]", "[" * 9999, '["a"]', "{}", "1" * 5000])
        )
        header["__metadata__"]["minirnn_order"] = order
        content = put_together(
            header, numbers, twice=draw(st.sampled_from(["", "lstm.weight_ih_l0"]))
        )
    names = draw(st.sampled_from([None, None, {}, {"lstm": "x"}, {"x": "lstm"}, {"lstm": "lstm"}]))
    ask(pytorch.load, model, path_of("bad.safetensors", content), names)


@functools.cache
def onnx_graph() -> bytes:
    from minirnn.interop import onnx

    model = Sequential([layers.Input((4, 3)), layers.LSTM(2, return_sequences=True)])
    model.build()
    return onnx.export(model).SerializeToString()


@functools.cache
def onnx_node() -> bytes:
    """A graph of one LSTM node, which `run` computes."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = {
        "W": rng.normal(size=(1, 8, 3)), "R": rng.normal(size=(1, 8, 2)), "B": np.zeros((1, 16)),
    }  # fmt: skip
    node = helper.make_node("LSTM", ["X", "W", "R", "B"], ["Y", "Y_h"], hidden_size=2)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [4, 2, 3])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v.astype("f4"), k) for k, v in weights.items()],
    )
    return onnx.helper.make_model(graph).SerializeToString()


def onnx_files(draw: Draw) -> None:
    """Graphs that are not right, and inputs that do not fit."""
    import onnx as peer

    from fuzz.values import array
    from minirnn.interop import onnx

    content = onnx_node() if draw(st.integers(0, 5)) else onnx_graph()
    if draw(st.integers(0, 2)) == 0:
        content = bent(draw, content)
    else:
        model = peer.load_from_string(content)
        how = draw(st.integers(0, 8))
        node = model.graph.node[0]
        tensor = draw(st.sampled_from(list(model.graph.initializer)))
        if how == 0:
            tensor.dims[:] = draw(st.sampled_from([[10**9, 10**9], [1, 8], [-1, 2], [], [0]]))
        elif how == 1:
            tensor.data_location = peer.TensorProto.EXTERNAL
            place = draw(
                st.sampled_from(["../../etc/passwd", "/etc/passwd", "x.bin", "good.keras"])
            )
            tensor.external_data.add(key="location", value=place)
            tensor.ClearField("raw_data")
        elif how == 2:
            tensor.data_type = draw(st.sampled_from([0, 2, 7, 8, 11, 16, 99]))
        elif how == 3:
            node.op_type = draw(st.sampled_from(["GRU", "RNN", "Add", ""]))
        elif how == 4:
            node.attribute.append(
                peer.helper.make_attribute(
                    draw(
                        st.sampled_from(
                            ["direction", "layout", "activations", "clip", "hidden_size"]
                        )
                    ),
                    draw(st.sampled_from([1, 10**9, "reverse", "x", -1])),
                )
            )
        elif how == 5:
            node.attribute.append(
                peer.helper.make_attribute(
                    "activations",
                    draw(
                        st.sampled_from(
                            [["Tanh"], ["Sigmoid", "Relu", "x"], ["Sigmoid", "Tanh", "Tanh"]]
                        )
                    ),
                )
            )
        elif how == 6:
            node.input[draw(st.integers(0, len(node.input) - 1))] = draw(
                st.sampled_from(["", "none", "X", "W"])
            )
        elif how == 7:
            del model.graph.output[:]
            model.graph.output.add(name="none")
        content = model.SerializeToString()
    x = array(draw, ((4, 2, 3),), ("float32", "float64"))
    inputs = draw(st.sampled_from([[x], [x], [x], [], [x, x], [None]]))
    if draw(st.booleans()):
        ask(onnx.run, path_of("bad.onnx", content), *inputs)
    else:
        ask(onnx.run, content, *inputs)


TARGETS = (keras_files, h5_files, tensor_files, onnx_files)
