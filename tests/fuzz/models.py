"""Files of models in our own format, of which nobody knows who made them."""

from __future__ import annotations

import copy
import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

import minirnn
from fuzz.judge import Finding, ask, refused, require
from fuzz.values import Draw, bent, mutated
from minirnn import layers, models, saving
from minirnn.models import Sequential

FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-files-")
FLOATS = ("F32", "F64", "F16", "BF16", "I32", "I64", "U8", "BOOL", "F8_E4M3", "X")


def path_of(name: str, content: bytes) -> Path:
    path = Path(FOLDER.name, name)
    path.write_bytes(content)
    return path


@functools.cache
def good_models() -> tuple[bytes, ...]:
    """Files of small models: with texts and training state, with nested layers, and a Seq2Seq."""
    from minirnn import Seq2Seq
    from minirnn.layers import GRU, LSTM, Bidirectional, Dense, Embedding, TextVectorization

    words = TextVectorization(vocabulary=["oil", "price", "rise"])
    text = Sequential([words, Embedding(5, 2, mask_zero=True), LSTM(2), Dense(3, "softmax")])
    text.compile("adam", "sparse_categorical_crossentropy", ["acc"])
    text.build()
    text.fit(["oil price", "rise"], np.array([0, 2]), verbose=0)
    inner = Sequential([layers.TimeDistributed(Dense(2)), layers.Activation("relu")])
    nested = Sequential([layers.Input((None, 3)), layers.Masking(), inner, Bidirectional(GRU(2))])
    nested.build()
    translator = Seq2Seq(
        encoder=[Embedding(5, 2, mask_zero=True), GRU(2, return_state=True)],
        decoder=[
            Embedding(6, 2, mask_zero=True),
            GRU(2, return_sequences=True),
            Dense(6, "softmax"),
        ],
        start=4,
        end=5,
    )
    translator.build()
    contents = []
    for number, model in enumerate((text, nested, translator)):
        path = Path(FOLDER.name, f"good{number}.mrnn")
        model.save(path)
        contents.append(path.read_bytes())
    return tuple(contents)


def taken_apart(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the numbers of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def put_together(header: Any, numbers: bytes, twice: str = "") -> bytes:
    text = json.dumps(header)
    if twice:
        text = f"{text[:-1]}, {json.dumps(twice)}: 1}}"
    encoded = text.encode(errors="replace")
    return len(encoded).to_bytes(8, "little") + encoded + numbers


def model_files(draw: Draw) -> None:
    """A file that is not what `save` wrote: a FileFormatError, or a model that computes."""
    content = draw(st.sampled_from(good_models()))
    header, numbers = copy.deepcopy(taken_apart(content))
    how = draw(st.integers(0, 6))
    if how == 0:
        content = bent(draw, content)
    elif how in (1, 2, 3):
        metadata = header["__metadata__"]
        stored = json.loads(metadata["header"])
        stored = mutated(draw, stored, ["layers", "config", "class", "input_shape", "weights"])
        metadata["header"] = json.dumps(stored)
        content = put_together(header, numbers)
    elif how == 4:
        content = put_together(with_other_tensors(draw, header), numbers)
    elif how == 5:
        content = put_together(mutated(draw, header, ["__metadata__", "dtype", "shape"]), numbers)
    else:
        content = odd_headers(draw, header, numbers)
    judge_model(draw, path_of("bad.mrnn", content))


def with_other_tensors(draw: Draw, header: dict[str, Any]) -> dict[str, Any]:
    """Tensors that claim what is not there."""
    names = [name for name in header if name != "__metadata__"]
    for _ in range(draw(st.integers(1, 2))):
        tensor = header[draw(st.sampled_from(names))]
        how = draw(st.integers(0, 4))
        if how == 0:
            tensor["dtype"] = draw(st.sampled_from(FLOATS))
        elif how == 1:
            tensor["shape"] = draw(
                st.sampled_from([[], [10**9, 10**9], [2**62, 4], [-1], [0], [1, 1], [10**30]])
            )
        elif how == 2:
            tensor["shape"] = tensor["shape"][::-1]
        elif how == 3:
            a, b = tensor["data_offsets"]
            tensor["data_offsets"] = draw(
                st.sampled_from([[b, a], [a, b + 4], [a, 10**12], [0, b - a], [-4, 0]])
            )
        else:
            header[draw(st.sampled_from(["weights/x", "optimizer/x/m", "/etc/passwd", "../x"]))] = (
                tensor
            )
    return header


def odd_headers(draw: Draw, header: dict[str, Any], numbers: bytes) -> bytes:
    metadata = header["__metadata__"]
    how = draw(st.integers(0, 6))
    if how == 0:
        return put_together(header, numbers, twice=draw(st.sampled_from(list(header))))
    if how == 1:
        deep = draw(st.sampled_from([50, 2_000, 100_000]))
        metadata["header"] = draw(
            st.sampled_from(["[" * deep, "[" * deep + "]" * deep, '{"model":' * deep])
        )
    elif how == 2:
        metadata["header"] = draw(
            st.sampled_from(["", "null", "3", "[]", "NaN", "1" * 5000, '"x"', "{}"])
        )
    elif how == 3:
        metadata["version"] = draw(
            st.sampled_from(["", "0", "2", "99", "-1", "1.0", "²", "1" * 5000])
        )
    elif how == 4:
        metadata[draw(st.sampled_from(["version", "header", "format"]))] = draw(
            st.sampled_from([1, None, [], {}])
        )
    elif how == 5:
        stored = json.loads(metadata["header"])
        where = stored["model"].get("layers") or stored["model"]["encoder"]
        units = draw(st.sampled_from([10**9, 2**31, 10**5, 2**63, 10**30]))
        for layer in where:
            key = next(
                (k for k in ("units", "input_dim", "num_tokens") if k in layer["config"]), None
            )
            if key:
                layer["config"][key] = units
        metadata["header"] = json.dumps(stored)
    else:
        metadata["header"] = metadata["header"].replace(
            "0.001", draw(st.sampled_from(["NaN", "1e999", "-1", '"x"']))
        )
    return put_together(header, numbers)


def judge_model(draw: Draw, path: Path) -> None:
    """What `load` makes of this file, and what can be done with what it makes."""
    try:
        model = ask(models.load, path, about=(str(path),))
    except Finding as finding:
        if "not finite" in str(finding) and "UserWarning" in str(finding):
            return  # the warning that a weight is NaN
        raise
    if refused(model):
        wrong = not isinstance(model.error, saving.FileFormatError)
        require(not wrong, "another error than FileFormatError", model.error)
        return
    again = Path(FOLDER.name, "again.mrnn")
    saved = ask(model.save, again)
    if not refused(saved):
        loaded = ask(models.load, again)
        require(not refused(loaded), "what was loaded and saved cannot be loaded", loaded)
    if isinstance(model, Sequential):
        x = ["oil", "snow rise"] if model.vectorizer else np.ones((2, 3, 3), np.float32)
        y = ask(model.predict, x)
        if not refused(y):
            require(len(y) == 2, "another number of rows", y)


def described(draw: Draw) -> None:
    """`from_config` of a configuration with places changed."""
    content = draw(st.sampled_from(good_models()[:2]))
    stored = json.loads(taken_apart(content)[0]["__metadata__"]["header"])["model"]
    layer = draw(st.sampled_from(stored["layers"]))
    made = ask(saving.revive, mutated(draw, layer, ["units", "name", "activation"]))
    if not refused(made) and isinstance(made, layers.Layer):
        ask(saving.describe, made)


# --- checkpoints ----------------------------------------------------------------------------------


def train(path: Path) -> Any:
    """A short training that keeps a checkpoint there, or goes on from it."""
    minirnn.set_random_seed(0)
    model = Sequential([layers.Dense(2, "softmax")])
    model.compile(minirnn.optimizers.SGD(momentum=0.5), "sparse_categorical_crossentropy", ["acc"])
    x, y = np.ones((4, 3), np.float32), np.array([0, 1, 0, 1])
    model.fit(x, y, batch_size=2, epochs=2, verbose=0, checkpoint=path)
    return model


@functools.cache
def good_checkpoint() -> bytes:
    path = Path(FOLDER.name, "good.ckpt")
    train(path)
    return path.read_bytes()


def checkpoint_files(draw: Draw) -> None:
    """A checkpoint that is not what `fit` wrote: refused by its name, or a training that ends."""
    content = good_checkpoint()
    header, numbers = copy.deepcopy(taken_apart(content))
    how = draw(st.integers(0, 4))
    if how == 0:
        content = bent(draw, content)
    elif how == 1:
        content = put_together(with_other_tensors(draw, header), numbers)
    elif how == 2:
        content = put_together(mutated(draw, header, ["__metadata__"]), numbers)
    else:
        stored = json.loads(header["__metadata__"]["header"])
        keys = ["epoch", "step", "position", "random", "state", "weights"]
        header["__metadata__"]["header"] = json.dumps(mutated(draw, stored, keys))
        content = put_together(header, numbers)
    path = path_of("bad.ckpt", content)
    model = ask(train, path)
    if refused(model):
        require(str(path) in str(model.error), "an error without the file's name", model)


TARGETS = (model_files, described, checkpoint_files)
