"""Small helpers under Keras's names."""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn.backend import floatx, set_random_seed
from minirnn.checks import full, host_array, whole_number
from minirnn.text import pad_sequences

__all__ = ["pad_sequences", "set_random_seed", "to_categorical"]


def to_categorical(labels: Any, num_classes: int | None = None) -> np.ndarray:
    """Class numbers as indicator vectors: (...) → (..., classes); a last axis of 1 is dropped."""
    labels = host_array("labels", labels)
    if num_classes is not None:
        whole_number("num_classes", num_classes)
    if labels.dtype.kind not in "iu" or (labels.size and labels.min() < 0):
        raise ValueError("labels: expected whole numbers from 0 up")
    classes = num_classes or (int(labels.max()) + 1 if labels.size else 0)
    if labels.size and labels.max() >= classes:
        raise ValueError(f"labels: class {labels.max()} is outside 0..{classes - 1}")
    if labels.ndim > 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    out = full("num_classes", (labels.size, classes), 0, floatx())
    out[np.arange(labels.size), labels.reshape(-1)] = 1
    return out.reshape(*labels.shape, classes)
