"""Checks of arguments that many places share; each error says what came and what was expected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minirnn.backend import Array, floatx, to_device, to_host, xp

FLOATS = np.dtype("float32"), np.dtype("float64")
LARGEST = float(np.finfo(np.float32).max)  # what is computed in float32 has to fit into that


def whole_number(name: str, value: Any) -> int:
    """`value` as an int, if it is a whole number from 1 up.

    Raises:
        ValueError: if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name}: expected a positive whole number, received {value!r}")
    return int(value)


def number(
    name: str,
    value: Any,
    expected: str = "a finite number",
    fits: Callable[[float], bool] = lambda value: True,
) -> float:
    """`value` as an int or float of Python, if it is a finite number that `fits`.

    expected: what fits, in words.

    Raises:
        TypeError: if it is no number; ValueError: if it does not fit.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(
        value, (int, float, np.integer, np.floating)
    ):
        raise TypeError(f"{name}: expected {expected}, received {value!r}")
    if not -LARGEST <= value <= LARGEST or not fits(value):
        raise ValueError(f"{name}: expected {expected}, received {value!r}")
    return value.item() if isinstance(value, np.generic) else value


def share(name: str, value: Any) -> float:
    """`value` as a float, if it is a share from 0 up to, not including, 1.

    Raises:
        TypeError: if it is no number; ValueError: if it is no share.
    """
    expected = "a share from 0 up to, not including, 1"
    return float(number(name, value, expected, lambda share: 0 <= share < 1))


def flag(name: str, value: Any) -> bool:
    """`value` as a bool, if it is True or False, or their numbers 1 and 0.

    Raises:
        TypeError: if it is not: "no" would count as True.
    """
    if not isinstance(value, (bool, int, np.bool_, np.integer)) or value not in (0, 1):
        raise TypeError(f"{name}: expected True or False, received {value!r}")
    return bool(value)


def seed(name: str, value: Any) -> int | None:
    """`value`, if it is None or a whole number from 0 up.

    Raises:
        TypeError: if it is no whole number; ValueError: if it is below 0.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: expected None or a whole number from 0 up, received {value!r}")
    if value < 0:
        raise ValueError(f"{name}: expected None or a whole number from 0 up, received {value!r}")
    return int(value)


def sizes(name: str, shape: Any) -> tuple[int | None, ...]:
    """`shape`, if it is a tuple or list of whole numbers, or None for any size.

    Raises:
        TypeError: if it is not.
    """
    fits = isinstance(shape, (tuple, list)) and all(
        size is None or (isinstance(size, (int, np.integer)) and 0 <= size < 2**63)
        for size in shape
    )
    if not fits:
        raise TypeError(
            f"{name}: expected a tuple of whole numbers, or None for any size, received {shape!r}"
        )
    return tuple(shape)


def text(name: str, value: Any) -> str:
    """`value`, if it is a text.

    Raises:
        TypeError: if it is not.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a text, received {value!r}")
    return str(value)


def all_within(values: np.ndarray, limit: int) -> bool:
    """Whether all are from 0 to below `limit`."""
    if not values.size:
        return True
    if values.dtype.kind == "i":  # one pass does: without its sign, a negative number is very large
        values = values.view(values.dtype.str.replace("i", "u"))
    return bool(values.max() < limit and (values.dtype.kind == "u" or values.min() >= 0))


def host_array(name: str, values: Any) -> np.ndarray:
    """`values` as an array on the host.

    Raises:
        TypeError: if it is a masked array, or cannot be one array.
    """
    if type(values) is np.ndarray:
        return values
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: received a masked array, whose mask would be lost; use its filled(...) "
            "values, and tell layers by mask= which steps are real"
        )
    try:
        return np.asarray(to_host(values))
    except (TypeError, ValueError, np.ma.MAError) as error:
        raise TypeError(f"{name}: expected one array ({error})") from None


def full(name: str, shape: tuple[int, ...], value: Any, dtype: Any) -> np.ndarray:
    """`np.full(shape, value, dtype)`; name: what makes it as large as it is.

    Raises:
        MemoryError: if there is no room for it.
    """
    try:
        return np.full(shape, value, dtype)
    except (MemoryError, ValueError):  # the latter where even its size cannot be counted
        raise MemoryError(f"{name}: there is no memory for an array of shape {shape}") from None


def with_dtype(name: str, x: Any) -> Array:
    """`x` itself if it is an array, on the host or the device; else as one on the host.

    Raises:
        TypeError: as `host_array`.
    """
    if type(x) is np.ndarray:
        return x
    known = hasattr(x, "dtype") and not isinstance(x, np.ma.MaskedArray)
    return x if known else host_array(name, x)


def listed(name: str, values: Any, of: type | tuple[type, ...] = object) -> Any:
    """`values`, if it is a list, tuple or array of rows, and no text, whose items are `of` a kind.

    Raises:
        TypeError: if it is not.
    """
    rows = isinstance(values, (Sequence, np.ndarray)) and not isinstance(values, (str, bytes))
    if not rows or getattr(values, "shape", None) == ():
        raise TypeError(f"{name}: expected a list, received {values!r:.80}")
    if of is not object and not all(isinstance(value, of) for value in values):
        raise TypeError(f"{name}: expected a list of {of}, received {values!r:.80}")
    return values


def numbers(name: str, x: Any, dtype: Any = None) -> Array:
    """`x` as an array of floats on the device, in `dtype` or, if they are whole, in `floatx()`.

    Raises:
        TypeError: if it is not made of numbers; ValueError: if it is one number, and no batch.
    """
    usual = type(x) is xp.ndarray and x.dtype in FLOATS and x.ndim
    if usual and (dtype is None or dtype == x.dtype):
        return x  # most are so, and this is asked several times a step
    x = with_dtype(name, x)
    kind = getattr(x.dtype, "kind", "")
    if kind not in "biufc" or (kind == "c" and dtype is not None and dtype.kind == "f"):
        raise TypeError(f"{name}: expected numbers, received {x.dtype.name} values")
    if not x.shape:
        raise ValueError(f"{name}: expected an array, one row for each of a batch; received {x!r}")
    x = to_device(x, dtype=dtype)
    wide = x.dtype.kind in "fc" and x.dtype.itemsize >= 4  # float16 ends at 65,504
    return x if wide else x.astype(floatx())
