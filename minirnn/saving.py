"""One file holds a model: its configuration, vocabulary, weights and training state.

The file is in the safetensors format: a JSON header and raw numbers. Nothing in it is code, and
loading it runs none. It is written beside its place and then moved there, so that a file under its
final name is always whole.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from minirnn import activations, initializers, layers, losses, optimizers
from minirnn.backend import to_host, xp
from minirnn.base import Layer
from minirnn.initializers import blank_weights
from minirnn.lookup import by_name
from minirnn.metrics import METRICS, Metric

FORMAT = "minirnn"
VERSION = 1

CLASSES: dict[str, type] = {
    made.__name__: made
    for made in (
        *(getattr(layers, name) for name in layers.__all__ if name != "Layer"),
        *initializers.NAMES.values(),
    )
}

SPARE = 2**20  # numbers more than a file has, so that `fill` can say of a few what does not fit

MODELS: dict[str, type] = {}  # kinds of models other than Sequential, which a file names


# What a configuration that makes no sense can lead to when a model is made from it.
DAMAGE = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
    MemoryError,
    OverflowError,
    RecursionError,
)


class FileFormatError(ValueError):
    """A file that is no model of ours, or is damaged."""


# --- objects as plain data ------------------------------------------------------------------------


def describe(value: Any) -> Any:
    """`value` as data that JSON can hold: objects as their class and configuration.

    Raises:
        ValueError: for what cannot be stored, such as a function or an activation of one's own.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.integer, np.floating)):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, activations.Activation):
        if activations.NAMES.get(value.name) is not value:
            raise ValueError(f"{value!r}: an activation of your own cannot be stored in a file")
        return value.name
    if CLASSES.get(type(value).__name__) is type(value):
        return {"class": type(value).__name__, "config": describe(value.get_config())}
    raise ValueError(
        f"{value!r}: a {type(value).__name__} cannot be stored in a file; only minirnn's own "
        "layers, cells and initializers, numbers and texts can"
    )


def revive(value: Any) -> Any:
    """The opposite of `describe`."""
    if isinstance(value, list):
        return [revive(item) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) != {"class", "config"}:
        return {key: revive(item) for key, item in value.items()}
    if not isinstance(value["class"], str) or value["class"] not in CLASSES:
        raise FileFormatError(f"unknown class {value['class']!r}")
    made, config = CLASSES[value["class"]], revive(value["config"])
    if not isinstance(config, dict):
        raise FileFormatError(f"{value['class']}: expected a configuration, found {config!r:.80}")
    return made.from_config(config) if issubclass(made, Layer) else made(**config)


def fields(kind: str, config: Mapping[str, Any], *names: str) -> list[Any]:
    """The values of a configuration under these names, each of which it must have.

    Raises:
        FileFormatError: if one is missing.
    """
    if not isinstance(config, Mapping):
        raise FileFormatError(f"{kind}: expected a configuration, found {config!r:.80}")
    missing = [name for name in names if name not in config]
    if missing:
        raise FileFormatError(f"{kind}: the configuration lacks {', '.join(missing)}")
    return [config[name] for name in names]


def made_layers(kind: str, stored: Any) -> list[Layer]:
    """The layers of a list of descriptions."""
    if not isinstance(stored, list):
        raise FileFormatError(f"{kind}: expected a list of layers, found {stored!r:.80}")
    return [revive(layer) for layer in stored]


def of_ours(value: Any, table: Mapping[str, type]) -> Any:
    """`value`, if its class is in `table`, so that `load` will know it."""
    if type(value) not in table.values():
        raise ValueError(f"{value!r}: a {type(value).__name__} of your own cannot be stored")
    return value


def describe_metric(metric: Metric) -> dict[str, Any]:
    kind = next(name for name, made in METRICS.items() if isinstance(metric, made))
    of_ours(metric, METRICS)
    settings = inspect.signature(type(metric)).parameters
    return {"kind": kind, "settings": {key: getattr(metric, key) for key in settings}}


def revive_metric(stored: Mapping[str, Any]) -> Metric:
    return by_name("metric", stored["kind"], METRICS)(**stored["settings"])


# --- files ----------------------------------------------------------------------------------------


def save(model: Any, path: str | os.PathLike[str]) -> None:
    """Write the model into one file, all or nothing.

    Raises:
        ValueError: if it has no weights yet, or holds what cannot be stored.
        OSError: if there is no room, or no right to write; an older file stays as it was.
    """
    model.require_built()
    if os.fspath(path).endswith((".keras", ".h5", ".hdf5")):
        raise ValueError(
            f"path: {os.fspath(path)!r} has an ending of Keras's files, and minirnn's format is "
            "another one; name it *.mrnn, say"
        )
    with model.turns.alone():  # between two steps, if another thread trains it
        if model.turns.unsettled is not None:
            model.turns.unsettled()
        content = encoded(FORMAT, *contents(model))
    write_whole(path, content)


def contents(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What describes the model, as JSON values, and its arrays."""
    header: dict[str, Any] = {"model": model.get_config()}
    if type(model).__name__ in MODELS:
        header["class"] = type(model).__name__
    arrays = {f"weights/{key}": value for key, value in model.params.items()}
    if model.optimizer is not None:
        settled = {id(old): new for old, new in model.optimizer.settled_copies()}
        arrays = {key: settled.get(id(value), value) for key, value in arrays.items()}
        header["training"] = {
            "optimizer": of_ours(model.optimizer, optimizers.OPTIMIZERS).get_config(),
            "loss": of_ours(model.loss, losses.LOSSES).get_config(),
            "metrics": [describe_metric(metric) for metric in model.metrics],
        }
        state = model.optimizer.gathered()
        header["optimizer_state"] = {k: v for k, v in state.items() if not hasattr(v, "shape")}
        arrays |= {f"optimizer/{k}": v for k, v in state.items() if hasattr(v, "shape")}
    return header, arrays


def encoded(kind: str, header: Mapping[str, Any], arrays: Mapping[str, Any]) -> bytes:
    """JSON values and arrays as the content of a file. kind: FORMAT, for a model."""
    from safetensors.numpy import save as to_bytes

    # safetensors 0.8.0 writes wrong values for arrays that are not C-contiguous.
    arrays = {key: np.ascontiguousarray(to_host(value)) for key, value in arrays.items()}
    metadata = {"format": kind, "version": str(VERSION), "header": json.dumps(header)}
    return to_bytes(arrays, metadata=metadata)


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file so that, whatever happens, either all of it is there or the old one is."""
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write that is put in its place when all of it is written, and not before."""
    folder, name = os.path.split(os.path.abspath(path))
    if "\0" in name:
        raise ValueError(f"path: a name has no null byte in it, received {os.fspath(path)!r}")
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"path: there is no folder {folder!r} to write {name!r} into")
    handle, beside = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(beside, 0o666 & ~umask)  # mkstemp makes files that only their owner may read
        os.replace(beside, path)
    except BaseException as error:
        os.unlink(beside)
        if isinstance(error, OSError) and error.filename is None:  # as of a write to a full disk
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None
        raise
    sync_folder(folder)


def sync_folder(folder: str) -> None:
    """Have the disk know of the new name, too, as far as the system lets us ask for that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def load(path: str | os.PathLike[str], model_class: Any) -> Any:
    """The model in a file, ready to predict and to train on.

    model_class: that of a file which names none.

    Raises:
        FileFormatError: if the file is no model of ours, is damaged, or is from a newer version.
    """
    path = os.fspath(path)
    try:
        header, arrays = read(path, FORMAT)
        if "class" in header and header["class"] not in MODELS:
            raise FileFormatError(f"unknown class {header['class']!r}")
        model_class = MODELS[header["class"]] if "class" in header else model_class
        model = model_class.from_config(header["model"])
        stored = sum(value.size for key, value in arrays.items() if key.startswith("weights/"))
        with blank_weights(stored + SPARE):
            model.build()
        fill(model, arrays)
        if "training" in header:
            resume(model, header, arrays)
    except FileFormatError as error:
        raise FileFormatError(f"{path}: {error}") from None
    except DAMAGE as error:
        raise FileFormatError(f"{path}: the configuration is damaged ({error!r})") from error
    broken = [key for key, value in model.params.items() if not bool(xp.isfinite(value).all())]
    if broken:
        warnings.warn(
            f"{path}: some numbers are not finite, but NaN or infinity, in the weights "
            f"{', '.join(broken)}; what this model computes may be no answer",
            stacklevel=3,
        )
    return model


def read(path: str, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """`(header, arrays)` of a file of this kind; see `encoded`."""
    from safetensors import SafetensorError, safe_open

    check_header(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise FileFormatError(f"this is no model file, or it is damaged ({error})") from None
    if (found := metadata.get("format", "")) != kind:
        expected = "minirnn model" if kind == FORMAT else kind
        raise FileFormatError(
            f"expected a {expected}, found a {found}"
            if found.startswith(FORMAT)
            else f"this is a safetensors file, but not a {expected}"
        )
    if not metadata.get("version", "").isdigit() or int(metadata["version"]) > VERSION:
        raise FileFormatError(
            f"format version {metadata.get('version')!r} is not known; this minirnn reads up to "
            f"{VERSION}. Upgrade minirnn."
        )
    return json.loads(metadata["header"]), arrays


def check_header(path: str) -> None:
    """Refuses a header with the same key twice, which safetensors lets pass."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise FileFormatError("the file's header holds a key twice")
        return dict(pairs)

    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > os.path.getsize(path) - 8:
            raise FileFormatError("this is no model file, or it is damaged (header too long)")
        try:
            json.loads(file.read(length), object_pairs_hook=once)
        except FileFormatError:
            raise
        except (ValueError, RecursionError):  # also a number of more digits than Python reads
            raise FileFormatError("this is no model file, or it is damaged (header)") from None


def fill(model: Any, arrays: Mapping[str, np.ndarray]) -> None:
    params = model.params
    stored = {key.removeprefix("weights/") for key in arrays if key.startswith("weights/")}
    if stored != set(params):
        raise FileFormatError(
            f"the weights do not fit the configuration: {sorted(stored ^ set(params))}"
        )
    values = [arrays[f"weights/{key}"] for key in params]
    for (key, target), value in zip(params.items(), values, strict=True):
        if value.shape != target.shape or value.dtype.kind != "f":
            raise FileFormatError(
                f"weight {key}: expected floats of shape {target.shape}, found {value.dtype} of "
                f"{value.shape}"
            )
    if values:
        model.cast(values[0].dtype)
    model.set_weights(values)


def resume(model: Any, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    how = header["training"]
    loss = losses.Loss.from_config(how["loss"])
    metrics = [revive_metric(stored) for stored in how["metrics"]]
    model.compile(optimizers.Optimizer.from_config(how["optimizer"]), loss, metrics)
    averages = {k.removeprefix("optimizer/"): v for k, v in arrays.items() if k.startswith("opt")}
    params = model.params
    for name, average in averages.items():
        key = name.rpartition("/")[0]
        if key not in params or average.shape != params[key].shape:
            raise FileFormatError(f"the optimizer's {name} {average.shape} fits no weight")
    model.optimizer.load_state_dict(header["optimizer_state"] | averages)
