"""Dropout (Srivastava et al., 2014): zeros at random in training, the rest scaled up."""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn.backend import Array, generator, to_device


def draw_dropout(
    rate: float,
    shape: tuple[int, ...],
    dtype: Any,
    training: bool = True,
    random: np.random.Generator | None = None,
) -> Array | None:
    """0 with probability `rate`, else 1 / (1 - rate); None where nothing is dropped.

    random: the generator to draw from, `minirnn.backend.generator()` if None.
    """
    if not training or rate == 0:
        return None
    kept = (random or generator()).random(shape) >= rate
    return to_device(kept * (1 / (1 - rate)), dtype=dtype)
