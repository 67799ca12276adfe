"""Keras 3's files: `.weights.h5` (weights) and `.keras` (configuration, weights, vocabulary).

    keras.load_weights(model, "news.weights.h5")     keras.save_weights(model, "news.weights.h5")
    model = keras.load("news.keras")                 keras.save(model, "news.keras")

A `.keras` file is a zip archive of JSON and HDF5; reading it makes layers of ours from what the
JSON says, and runs no code of the file: a layer that minirnn does not have is refused by name.
Models are `keras.Sequential`, of the layers that both libraries have. The training state (optimizer
and compile arguments) is left out. Needs h5py, not Keras.

In an h5 file a layer is found by its class and number, `layers/lstm`, `layers/lstm_1`, ..., as in
Keras, and not by its name.
"""

from __future__ import annotations

import datetime
import inspect
import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from minirnn import initializers, layers
from minirnn.base import Layer, snake_case
from minirnn.initializers import blank_weights
from minirnn.interop.matching import directions, host, put_all
from minirnn.layers import RNN, Bidirectional, Input, TextVectorization, TimeDistributed
from minirnn.models import Sequential
from minirnn.saving import DAMAGE, SPARE, FileFormatError, write_whole

WEIGHTS, CONFIG, METADATA = "model.weights.h5", "config.json", "metadata.json"
KERAS_VERSION = "3.12.0"  # whose format is written

SAME_NAMES = (
    "Activation",
    "Bidirectional",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "GRU",
    "GlobalAveragePooling1D",
    "GlobalMaxPooling1D",
    "LSTM",
    "Masking",
    "SimpleRNN",
    "TextVectorization",
    "TimeDistributed",
)


# --- weights --------------------------------------------------------------------------------------


def load_weights(model: Sequential, path: str | os.PathLike[str]) -> None:
    """Put the weights of a `.weights.h5` file into a model that is built.

    Raises:
        ValueError: if a layer is missing in the file or has other shapes.
        FileFormatError: if it is no such file.
    """
    with open(path, "rb") as file:
        _read_weights(model, file.read(), os.fspath(path))


def save_weights(model: Sequential, path: str | os.PathLike[str]) -> None:
    """Write a `.weights.h5` file that Keras's `load_weights` reads into an equal model."""
    if not os.fspath(path).endswith(".weights.h5"):
        raise ValueError(
            f"path: Keras wants it to end in .weights.h5; received {os.fspath(path)!r}"
        )
    write_whole(path, _weights_as_bytes(model))


def _read_weights(model: Sequential, content: bytes, source: str) -> None:
    h5py = _h5py()
    model.require_built()
    try:
        file = h5py.File(io.BytesIO(content), "r")
    except (OSError, OverflowError) as error:  # the latter for a size that no file has
        raise FileFormatError(
            f"{source}: this is no HDF5 file, or it is damaged ({error})"
        ) from None
    try:
        with file:
            found = [
                (layer, _stored_arrays(file, f"{place}/vars", layer, source))
                for place, layer in _places(model)
            ]
    except (KeyError, RuntimeError, OverflowError, OSError) as error:  # what h5py and HDF5 raise
        raise FileFormatError(f"{source}: this HDF5 file is damaged ({error})") from None
    put_all(found, source)


def _stored_arrays(file: Any, place: str, layer: Layer, source: str) -> dict[str, np.ndarray]:
    """A layer's arrays, read when it is clear that they are of its shapes."""
    group, params = _inside(file, place), layer.params
    names = [] if group is None or not hasattr(group, "keys") else list(group.keys())
    stored = sorted((name for name in names if name.isascii() and name.isdigit()), key=int)
    if len(stored) != len(params):
        known = _inside(file, "layers")
        raise ValueError(
            f"{source}: expected {len(params)} arrays in {place} (layer {layer.name!r}), found "
            f"{len(stored)}; the file has {', '.join(known or ()) or 'no layers'}"
        )
    arrays = {}
    for (key, param), name in zip(params.items(), stored, strict=True):
        dataset = _inside(group, name)
        shape, dtype = getattr(dataset, "shape", None), getattr(dataset, "dtype", None)
        if shape != param.shape or dtype is None or dtype.kind not in "fiu":
            raise ValueError(
                f"{source}: {key} of layer {layer.name!r} has shape {param.shape}, received "
                f"{shape} of {dtype}"
            )
        arrays[key] = np.asarray(dataset)
    return arrays


def _inside(group: Any, place: str) -> Any:
    """What stands there in this very file; None if there is nothing, or a way to another file:
    a link, or numbers that are kept elsewhere."""
    h5py = _h5py()
    for name in place.split("/"):
        if not isinstance(group, h5py.Group) or not isinstance(
            group.get(name, getlink=True), h5py.HardLink
        ):
            return None
        group = group[name]
    if isinstance(group, h5py.Dataset) and (group.external or group.is_virtual):
        return None
    return group


def _weights_as_bytes(model: Sequential) -> bytes:
    h5py = _h5py()
    model.require_built()
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_group("layers")
        for place, layer in _places(model):
            group = file.create_group(f"{place}/vars")
            for i, value in enumerate(layer.params.values()):
                group[str(i)] = host(value)
    return buffer.getvalue()


def _places(model: Sequential, path: str = "") -> Iterator[tuple[str, Layer]]:
    """Where in the file each layer's weights stand, and the layer."""
    used: dict[str, int] = {}
    for layer in model.layers:
        base = snake_case(type(layer).__name__)
        number = used[base] = used.get(base, -1) + 1
        place = f"{path}layers/{base}" + (f"_{number}" if number else "")
        yield from _places_within(layer, place)


def _places_within(layer: Layer, place: str) -> Iterator[tuple[str, Layer]]:
    if isinstance(layer, Sequential):
        yield from _places(layer, f"{place}/")
    elif isinstance(layer, Bidirectional):
        for way, part in zip(("forward", "backward"), directions(layer), strict=True):
            yield f"{place}/{way}_layer/cell", part
    elif isinstance(layer, RNN):
        yield f"{place}/cell", layer
    elif isinstance(layer, TimeDistributed):
        yield from _places_within(layer.layer, f"{place}/layer")
    elif layer.params:
        yield place, layer


# --- whole models ---------------------------------------------------------------------------------


def load(path: str | os.PathLike[str]) -> Sequential:
    """The model in a `.keras` file; `compile` it before training.

    Raises:
        FileFormatError: if it is no such file, is damaged, or holds layers or options that minirnn
            does not have; it names them.
    """
    source = os.fspath(path)
    try:
        with zipfile.ZipFile(path) as archive:
            _refuse_bombs(archive, source)
            config = json.loads(archive.read(CONFIG))
            weights = archive.read(WEIGHTS)
            vocabularies = {
                name: archive.read(name).decode()
                for name in archive.namelist()
                if name.endswith("vocabulary.txt")
            }
    except FileFormatError:
        raise
    except UNREADABLE as error:
        raise FileFormatError(
            f"{source}: this is no .keras file, or it is damaged ({error})"
        ) from None
    try:
        model = _model_from(config)
        _give_vocabulary(model, vocabularies)
        if not model.built:
            with blank_weights(len(weights) // 2 + SPARE):  # each has two bytes or more
                model.build()
    except FileFormatError as error:
        raise FileFormatError(f"{source}: {error}") from None
    except DAMAGE as error:
        raise FileFormatError(
            f"{source}: its configuration makes no sense here ({error})"
        ) from error
    _read_weights(model, weights, source)
    return model


# What an archive or its JSON can be that cannot be read.
UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    ValueError,
    RecursionError,
    NotImplementedError,  # a way to compress that Python lacks
    RuntimeError,  # a password
)


def _refuse_bombs(archive: zipfile.ZipFile, source: str) -> None:
    """Keras packs without compression: what unpacks to much more than the file is none of its."""
    size = sum(info.file_size for info in archive.infolist())
    if size > 100 * max(os.path.getsize(source), 2**16):
        raise FileFormatError(f"{source}: this archive would unpack to {size:,} bytes")


def save(model: Sequential, path: str | os.PathLike[str]) -> None:
    """Write a `.keras` file that `keras.models.load_model` reads.

    Raises:
        ValueError: for a layer that Keras does not have.
    """
    if not os.fspath(path).endswith(".keras"):
        raise ValueError(f"path: Keras wants it to end in .keras; received {os.fspath(path)!r}")
    buffer = io.BytesIO()
    now = datetime.datetime.now().strftime("%Y-%m-%d@%H:%M:%S")
    with zipfile.ZipFile(buffer, "w") as archive:
        metadata = {"keras_version": KERAS_VERSION, "date_saved": now}
        archive.writestr(METADATA, json.dumps(metadata))
        archive.writestr(CONFIG, json.dumps(_described(model)))
        archive.writestr(WEIGHTS, _weights_as_bytes(model))
    write_whole(path, buffer.getvalue())


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise ImportError(
            'h5py is needed for Keras files: pip install "minirnn[interop]"'
        ) from None
    return h5py


# --- from Keras's configuration -------------------------------------------------------------------

# Options that minirnn does not have, and the values with which they do nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "unroll": (False, True),  # how it is computed, not what
    "use_cudnn": ("auto", True, False),
    "activity_regularizer": (None,),
    "kernel_regularizer": (None,),
    "recurrent_regularizer": (None,),
    "bias_regularizer": (None,),
    "embeddings_regularizer": (None,),
    "kernel_constraint": (None,),
    "recurrent_constraint": (None,),
    "bias_constraint": (None,),
    "embeddings_constraint": (None,),
    "lora_rank": (None,),
    "lora_alpha": (None,),
    "quantization_config": (None,),
    "quantization_mode": (None,),
    "sparse": (False,),
    "ragged": (False,),
    "pad_to_max_tokens": (False,),
    "idf_weights": (None,),
    "encoding": ("utf-8",),
    "noise_shape": (None,),
    "data_format": (None, "channels_last"),
    "keepdims": (False,),
}
IGNORED = ("dtype", "seed", "vocabulary_size", "batch_input_shape", "input_length")


def _model_from(stored: Mapping[str, Any]) -> Sequential:
    if stored["class_name"] != "Sequential":
        raise FileFormatError(f"expected a Sequential model, found a {stored['class_name']}")
    config = stored["config"]
    model = Sequential(name=config["name"])
    for entry in config["layers"]:
        model.add(_layer_from(entry))
    shape = config.get("build_input_shape")
    if model.input_shape is None and shape is not None:
        model.input_shape = tuple(shape)
    return model


def _layer_from(stored: Mapping[str, Any]) -> Layer:
    kind, config = stored["class_name"], dict(stored["config"])
    if kind == "InputLayer":
        shape = config.get("batch_shape") or config["batch_input_shape"]
        return Input(tuple(shape[1:]))
    if kind == "Sequential":
        return _model_from(stored)
    if kind not in SAME_NAMES:
        raise FileFormatError(f"minirnn has no layer {kind}")
    name = config.get("name", kind)
    made = getattr(layers, kind)
    if kind == "Bidirectional":
        backward = config.pop("backward_layer", None)
        if backward is not None and _differs(config["layer"], backward):
            raise FileFormatError(f"{name}: minirnn makes the backward layer after the forward one")
    _require_float32(name, config.get("dtype"))
    own, arguments = _arguments_of(made), {}
    for key, value in config.items():
        if key in own:
            arguments[key] = _value_from(value)
        elif key not in IGNORED and value not in NEUTRAL.get(key, ()):
            raise FileFormatError(f"{name}: {key}={value!r} is not an option here")
    return made.from_config(arguments)


def _arguments_of(made: type[Layer]) -> set[str]:
    """The names of the arguments of a layer's class and of its bases."""
    return {
        key
        for base in made.__mro__
        if issubclass(base, Layer) and "__init__" in vars(base)
        for key in inspect.signature(base.__init__).parameters
    } - {"self", "options", "unknown", "cell"}


def _differs(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two recurrent layers differ in more than their name, direction and initial values."""
    drawn = {"name", "go_backwards", "seed"} | {
        f"{key}_initializer" for key in ("kernel", "recurrent", "bias")
    }
    left, right = ({k: v for k, v in e["config"].items() if k not in drawn} for e in (one, other))
    return (one["class_name"], left) != (other["class_name"], right)


def _require_float32(name: str, dtype: Any) -> None:
    policy = dtype["config"]["name"] if isinstance(dtype, Mapping) else dtype
    if policy not in (None, "float32", "float64", "int64", "int32", "string"):
        raise FileFormatError(f"{name}: its dtype is {policy}; minirnn computes float32 or float64")


def _value_from(value: Any) -> Any:
    """An argument as our constructors take it: objects are made, lists are tuples where it says."""
    if not isinstance(value, Mapping):
        return value
    if value.get("class_name") == "__tuple__":
        return tuple(value["items"]) if "items" in value else tuple(value["config"])
    module, kind = value.get("module", ""), value.get("class_name")
    if kind in INITIALIZERS:
        made, config = INITIALIZERS[kind], dict(value.get("config") or {})
        known = inspect.signature(made).parameters
        for key in [key for key in config if key not in known]:
            if config.pop(key) is not None:
                raise FileFormatError(f"{kind}: {key} is not an option here")
        return made(**config)
    if module in ("keras.layers", "keras.models", "keras"):
        return _layer_from(value)
    raise FileFormatError(f"minirnn has no {kind}")


INITIALIZERS = {made.__name__: made for made in initializers.NAMES.values()}
INITIALIZERS["OrthogonalInitializer"] = initializers.Orthogonal


def _give_vocabulary(model: Sequential, vocabularies: Mapping[str, str]) -> None:
    vectorizer = model.vectorizer
    if vectorizer is None or vectorizer.built:
        return
    texts = [text for name, text in vocabularies.items() if "text_vectorization" in name]
    if not texts:
        raise FileFormatError("the file holds no vocabulary for its TextVectorization layer")
    words = texts[0].split("\n")
    vectorizer.set_vocabulary(words[len(vectorizer.special_tokens) :])


# --- to Keras's configuration ---------------------------------------------------------------------


def _described(model: Sequential) -> dict[str, Any]:
    shape = model.known_input_shape()
    entries = [_entry(layer) for layer in model.layers]
    config: dict[str, Any] = {"name": model.name, "trainable": model.trainable}
    if shape is not None:
        if model.vectorizer is not None:
            dtype = "string"
        else:
            ids = bool(model.layers) and isinstance(model.layers[0], layers.Embedding)
            dtype = "int32" if ids else "float32"
        input_config = {"batch_shape": list(shape), "dtype": dtype, "name": "input_layer"}
        entries.insert(0, _serialized("InputLayer", input_config))
        config["build_input_shape"] = list(shape)
    config["layers"] = entries
    return _serialized("Sequential", config, "keras")


def _serialized(kind: str, config: dict[str, Any], module: str = "keras.layers") -> dict[str, Any]:
    return {"module": module, "class_name": kind, "config": config, "registered_name": None}


def _entry(layer: Layer) -> dict[str, Any]:
    if isinstance(layer, Sequential):
        return _described(layer)
    kind = type(layer).__name__
    if kind not in SAME_NAMES:
        raise ValueError(f"{layer.name}: Keras has no layer {kind}")
    config = {key: _plain(value) for key, value in layer.get_config().items()}
    if isinstance(layer, (Bidirectional, TimeDistributed)):
        config["layer"] = _entry(layer.layer)
    if isinstance(layer, TextVectorization):
        config["vocabulary"] = list(layer.get_vocabulary(include_special_tokens=False))
    return _serialized(kind, config)


def _plain(value: Any) -> Any:
    if isinstance(value, initializers.Initializer):
        kind = type(value).__name__
        if INITIALIZERS.get(kind) is not type(value):
            raise ValueError(f"{value!r}: Keras has no such initializer")
        return _serialized(kind, value.get_config(), "keras.initializers")
    if hasattr(value, "name") and hasattr(value, "derivative"):
        return value.name
    if isinstance(value, tuple):
        return list(value)
    return value
