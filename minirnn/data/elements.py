"""What the elements of a `Dataset` are made of, and how several become the arrays of a batch.

An element is one component (a number, a string, an array, a list) or a tuple or dict of them,
nested at will. Where an array must be made, Python floats take `minirnn.backend.floatx()`, which is
float32, Python ints int64, and strings become an object array, in which nothing is cut short.
Arrays keep their dtype.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minirnn.backend import floatx

# -------------------------------------------------------------------- structures of components


def leaves(element: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Pairs (name such as `element[0]['ids']`, component)."""
    if isinstance(element, (tuple, dict)):
        items = element.items() if isinstance(element, dict) else enumerate(element)
        for key, part in items:
            yield from leaves(part, f"{where}[{key!r}]")
    else:
        yield where, element


def as_columns(tensors: Any, where: str = "tensors") -> Any:
    """The same structure with an array, of one row per element, for each component."""
    if isinstance(tensors, (tuple, dict)) and not tensors:
        raise ValueError(f"{where} holds no component: expected at least one array or list")
    if isinstance(tensors, tuple):
        return tuple(as_columns(part, f"{where}[{i}]") for i, part in enumerate(tensors))
    if isinstance(tensors, dict):
        return {key: as_columns(part, f"{where}[{key!r}]") for key, part in tensors.items()}
    try:
        column = tensors if isinstance(tensors, np.ndarray) else _as_array(tensors, where)
    except ValueError as error:
        raise ValueError(f"{error}; for rows of different lengths use from_rows") from None
    if column.ndim == 0:
        raise ValueError(
            f"{where} must be an array or a list, with one row per element, got {shown(tensors)}"
        )
    return column


def rows_of(columns: Any) -> Iterator:
    """From a structure of columns to an iterator of elements of that structure."""
    if isinstance(columns, tuple):
        return zip(*map(rows_of, columns), strict=True)
    if isinstance(columns, dict):
        rows = zip(*map(rows_of, columns.values()), strict=True)
        return (dict(zip(columns, row, strict=True)) for row in rows)
    return iter(columns)


def combine(rows: list, join: Callable, where: str = "element", guides: tuple = ()) -> Any:
    """`join` for each component over all rows; `guides` are taken apart along with the rows."""
    first = rows[0]
    keys = _keys(first)
    for row in rows:
        if _keys(row) != keys:
            raise ValueError(
                f"elements of one batch differ in structure: {where} is {_outline(first)} "
                f"and {_outline(row)}"
            )
    if keys is None:
        return join(rows, where, *guides)
    parts = {}
    for key in keys:
        column = [row[key] for row in rows]
        part_guides = tuple(_guide(guide, key, first) for guide in guides)
        parts[key] = combine(column, join, f"{where}[{key!r}]", part_guides)
    return parts if isinstance(first, dict) else tuple(parts.values())


def _keys(part: Any) -> Any:
    """What a tuple or dict is indexed with; None for a component."""
    if isinstance(part, dict):
        return part.keys()
    return range(len(part)) if isinstance(part, tuple) else None


def _guide(guide: Any, key: Any, element: tuple | dict) -> Any:
    """The part of padded_shapes or padding_values for component `key`; one value serves all."""
    if not isinstance(guide, (tuple, list, dict)):
        return guide
    if _keys(tuple(guide) if isinstance(guide, list) else guide) != _keys(element):
        raise ValueError(
            "padded_shapes and padding_values must have the structure of an element, "
            f"{_outline(element)}, got {guide!r}"
        )
    return guide[key]


# -------------------------------------------------------------------- arrays


def _as_array(value: Any, where: str) -> np.ndarray:
    if isinstance(value, np.ndarray) and value.dtype.kind not in "US":
        return value
    try:
        array = np.array(value, dtype=object) if _is_text(value) else np.asarray(value)
    except ValueError:
        raise ValueError(f"{where} is a list of lists of different lengths, not an array") from None
    if array.dtype.kind in "OUS":
        array = np.array(value, dtype=object)
        for item in array.flat:
            if not isinstance(item, (str, bytes)):
                raise TypeError(
                    f"{where} must hold only numbers or only strings, got {shown(item)}"
                )
    elif array.dtype == np.float64 and not hasattr(value, "dtype"):
        array = array.astype(floatx())
    return array


def _is_text(value: Any) -> bool:
    """Whether `value` is a string or a list that starts with one."""
    if isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, (str, bytes))


def _as_arrays(values: list, where: str) -> list[np.ndarray] | np.ndarray:
    """One array per value, all of one dtype; for plain Python values one array with a row each."""
    if len(kinds := {type(value) for value in values}) == 1 and kinds <= {str, bytes, int, float}:
        return _as_array(values, where)
    arrays = [_as_array(value, where) for value in values]
    dtypes = {a.dtype for a, v in zip(arrays, values, strict=True) if a.size or hasattr(v, "dtype")}
    if len(dtypes) > 1:
        raise TypeError(
            f"{where} has different dtypes within a batch: {', '.join(sorted(map(str, dtypes)))} "
            "(strings are object); give it one dtype with map"
        )
    # An empty list has no dtype of its own.
    return [array.astype(dtype, copy=False) for dtype in dtypes for array in arrays] or arrays


def stack(values: list, where: str) -> np.ndarray:
    """The values along a new first axis; they must agree in shape and dtype."""
    arrays = _as_arrays(values, where)
    if isinstance(arrays, np.ndarray):
        return arrays
    shapes = list(dict.fromkeys(array.shape for array in arrays))
    if len(shapes) > 1:
        raise ValueError(
            f"{where} has different shapes within a batch, such as {shapes[0]} and {shapes[1]}: "
            "use padded_batch (or bucket_by_sequence_length)"
        )
    return np.stack(arrays)


def pad(
    values: list, where: str, shape: Any, fill: Any, open_size: int | None = None
) -> np.ndarray:
    """Stacks `values`, each padded at the end with `fill`.

    A None in `shape` means the longest of the batch, or `open_size`; so does `shape` None, where
    `open_size` is for the first dimension only.
    """
    arrays = _as_arrays(values, where)
    scalars = isinstance(arrays, np.ndarray)
    shapes = [()] if scalars else [array.shape for array in arrays]
    ranks = sorted({len(sizes) for sizes in shapes})
    if len(ranks) > 1:
        raise ValueError(f"{where} has different numbers of dimensions within a batch: {ranks}")
    longest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    if shape is None:
        target = [open_size, *longest[1:]] if longest and open_size is not None else longest
    else:
        if not isinstance(shape, (tuple, list)) or len(shape) != ranks[0]:
            raise ValueError(
                f"padded_shapes for {where} must be a shape of {ranks[0]} dimensions, got {shape!r}"
            )
        open_sizes = longest if open_size is None else [open_size] * len(longest)
        target = [
            open_ if size is None else whole_number("a size in padded_shapes", size, 0)
            for size, open_ in zip(shape, open_sizes, strict=True)
        ]
    if any(size < needed for size, needed in zip(target, longest, strict=True)):
        raise ValueError(f"{where} is up to {longest} long and cannot be padded to {target}")
    if scalars:
        return arrays
    batch = np.empty((len(arrays), *target), arrays[0].dtype)
    if target:
        batch[...] = _fill_value(arrays, where, fill)
    for i, array in enumerate(arrays):
        batch[(i, *map(slice, array.shape), ...)] = array
    return batch


def _fill_value(arrays: list[np.ndarray], where: str, fill: Any) -> Any:
    """What to pad with: `fill` if the dtype can hold it, or the dtype's zero."""
    dtype = arrays[0].dtype
    if dtype.kind == "O":
        if fill is None:
            kind = next((type(item) for array in arrays for item in array.flat), str)
            return b"" if issubclass(kind, bytes) else ""
        fits = isinstance(fill, (str, bytes))
    elif fill is None:
        return np.zeros((), dtype)
    else:
        value = np.asarray(fill)
        fits = value.ndim == 0 and np.can_cast(np.min_scalar_type(value), dtype, "same_kind")
        fits = fits and (dtype.kind not in "iu" or value.astype(dtype) == value)
    if not fits:
        raise TypeError(f"padding_values for {where}, of dtype {dtype}, cannot be {fill!r}")
    return fill


# -------------------------------------------------------------------- checks


def whole_number(name: str, value: Any, least: int) -> int:
    """`value` as an int, if it is an integer of at least `least`."""
    if isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "iu":
        value = value[()]
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a whole number, got {shown(value)}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, got {value}")
    if value > sys.maxsize:
        raise ValueError(f"{name} must be at most {sys.maxsize}, got {value}")
    return int(value)


def shown(value: Any) -> str:
    """Type and value, for a message."""
    return f"{type(value).__name__} {value!r:.80}"


def _outline(element: Any) -> str:
    if isinstance(element, dict):
        return f"a dict with keys {list(element)}"
    return f"a tuple of {len(element)}" if isinstance(element, tuple) else shown(element)
