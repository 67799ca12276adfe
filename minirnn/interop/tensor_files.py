"""Files of named tensors, as PyTorch's users keep them: `.safetensors`, `.pt`, `.pth`.

No code of a file is ever run. A `.safetensors` file does not keep the order of its tensors; those
that we write have it in their metadata.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from minirnn.saving import FileFormatError, check_header, write_whole

ORDER = "minirnn_order"  # the names of all tensors, in the metadata


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], bool]:
    """`(state, ordered)`: name → array, and whether the file tells the order of its tensors.

    Raises:
        ValueError: for a file that holds anything but tensors, or has another ending.
    """
    if _kind(path) == "safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            check_header(os.fspath(path))
            with safe_open(path, framework="numpy") as file:
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                order = (file.metadata() or {}).get(ORDER)
        except (SafetensorError, FileFormatError) as error:
            raise FileFormatError(f"{os.fspath(path)}: {error}") from None
        try:
            keys = None if order is None else json.loads(order)
        except (ValueError, RecursionError):
            keys = None
        if isinstance(keys, list) and sorted(map(str, keys)) == sorted(state):
            return {key: state[key] for key in keys}, True
        return state, False
    return _read_torch(path), True


def _read_torch(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    import pickle

    torch = _torch()
    try:
        state = torch.load(os.fspath(path), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{os.fspath(path)}: this file holds more than tensors, and loading it could run code "
            f"({str(error).splitlines()[0]}). Save model.state_dict() instead of the model."
        ) from None
    if not isinstance(state, Mapping) or not all(
        isinstance(v, torch.Tensor) for v in state.values()
    ):
        raise ValueError(
            f"{os.fspath(path)}: expected a state dict, name → tensor; received "
            f"{type(state).__name__}"
        )
    return {key: array(value) for key, value in state.items()}


def _kind(path: str | os.PathLike[str]) -> str:
    ending = os.path.splitext(os.fspath(path))[1]
    if ending not in (".safetensors", ".pt", ".pth"):
        raise ValueError(f"path: expected .safetensors, .pt or .pth; received {os.fspath(path)!r}")
    return ending[1:]


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise ImportError(
            "PyTorch is needed for .pt and .pth files (pip install torch); .safetensors files do "
            "without it"
        ) from None
    return torch


def array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
        value = value.numpy()
    return np.asarray(value)


def write(path: str | os.PathLike[str], state: Mapping[str, np.ndarray]) -> None:
    """Name → array into a file of this ending."""
    if _kind(path) == "safetensors":
        from safetensors.numpy import save as to_bytes

        metadata = {"format": "pt", ORDER: json.dumps(list(state))}
        write_whole(path, to_bytes(dict(state), metadata=metadata))
        return
    torch = _torch()
    torch.save({key: torch.from_numpy(array) for key, array in state.items()}, os.fspath(path))
