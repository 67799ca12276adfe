"""Checks of arguments that many places share; each error says what came and what was expected."""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn.backend import Array, floatx, to_device


def whole_number(name: str, value: Any) -> int:
    """`value` as an int, if it is a whole number from 1 up.

    Raises:
        ValueError: if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name}: expected a positive whole number, received {value!r}")
    return int(value)


def share(name: str, value: Any) -> float:
    """`value` as a float, if it is a share from 0 up to, not including, 1.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(value, (int, float, np.number)) or not 0 <= value < 1:
        raise ValueError(f"{name}: expected a share from 0 up to, not including, 1; got {value!r}")
    return float(value)


def all_within(values: np.ndarray, limit: int) -> bool:
    """Whether all are from 0 to below `limit`."""
    if not values.size:
        return True
    if values.dtype.kind == "i":  # one pass does: without its sign, a negative number is very large
        values = values.view(values.dtype.str.replace("i", "u"))
    return bool(values.max() < limit and (values.dtype.kind == "u" or values.min() >= 0))


def numbers(name: str, x: Any, dtype: Any = None) -> Array:
    """`x` as an array of floats on the device, in `dtype` or, if they are whole, in `floatx()`.

    Raises:
        TypeError: if it is not made of numbers.
    """
    if isinstance(x, np.ndarray) and x.dtype.kind in "OUS":
        raise TypeError(f"{name}: expected numbers, received {x.dtype.name} values")
    try:
        x = to_device(x, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected an array of numbers ({error})") from None
    return x if x.dtype.kind in "fc" else x.astype(floatx())
