"""How bad values are drawn: numbers, objects, arrays, texts, and JSON."""

from __future__ import annotations

import copy
import datetime
import decimal
import fractions
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy], Any]

HUGE = (10**9, 2**31, 2**31 - 1, 2**32, 2**62, 2**63, 2**64, 10**30)
FLOATS = (0.0, -0.0, 0.5, 1.0, 1.5, -1.0, 2.0, 1e-45, 1e-30, 1e30, 1e308, float("inf"))
NAN = float("nan")


class Odd:
    """Has nothing that one could ask an argument for."""


class Sly:
    """Says that it is of a length that it is not."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, place: Any) -> Any:
        raise RuntimeError("there is nothing here")


JUNK: tuple[Callable[[], Any], ...] = (
    *(lambda value=value: value for value in (*HUGE, *(-v for v in HUGE), *FLOATS, NAN)),
    *(
        lambda value=value: value
        for value in (-NAN, -float("inf"), 0, 1, 2, 3, -1, -2, True, False)
    ),
    *(lambda value=value: value for value in (None, "", "a", "tanh", "lstm", "é\udc80", b"", b"a")),
    lambda: "x" * 10_000,
    list,
    lambda: [1],
    lambda: [1, 2],
    lambda: [[1], [2, 3]],
    lambda: [None],
    lambda: ["a", 1],
    lambda: (),
    lambda: (1, 2),
    dict,
    lambda: {"a": 1},
    lambda: {1, 2},
    lambda: 1j,
    lambda: np.float32(0.5),
    lambda: np.float64("nan"),
    lambda: np.int8(3),
    lambda: np.uint64(2**64 - 1),
    lambda: np.bool_(True),
    lambda: np.str_("a"),
    lambda: np.datetime64("2020-01-01"),
    lambda: np.zeros(()),
    lambda: np.ones(3),
    lambda: np.ones((2, 2)),
    lambda: np.zeros((0, 3)),
    lambda: np.array(["a", "b"]),
    lambda: np.array([object(), None], dtype=object),
    lambda: np.ma.masked_array([1.0, 2.0], [True, False]),
    lambda: np.zeros(2, dtype=[("a", "f4"), ("b", "i4")]),
    lambda: decimal.Decimal("0.5"),
    lambda: fractions.Fraction(1, 2),
    lambda: datetime.date(2020, 1, 1),
    lambda: object(),
    lambda: Odd(),
    lambda: Sly(),
    lambda: Odd,
    lambda: len,
    lambda: lambda *_: None,
    lambda: iter([1, 2]),
    lambda: range(3),
    lambda: slice(2),
    lambda: ...,
    lambda: NotImplemented,
    lambda: memoryview(b"abc"),
)


def junk(draw: Draw) -> Any:
    """Anything."""
    kind = draw(st.integers(0, 9))
    if kind < 6:
        return draw(st.sampled_from(JUNK))()
    if kind == 6:
        return draw(st.integers())
    if kind == 7:
        return draw(st.floats())
    if kind == 8:
        return draw(st.text(max_size=8))
    return array(draw)


def either(draw: Draw, good: Sequence[Any], bad: int = 4) -> Any:
    """One of `good`, or, once in `bad` times, anything."""
    if draw(st.integers(1, bad)) == bad:
        return junk(draw)
    value = draw(st.sampled_from(list(good)))
    return value() if isinstance(value, type(lambda: 0)) and value.__name__ == "<lambda>" else value


def arguments(draw: Draw, good: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Some of these arguments, one or two of them perhaps bad."""
    if not good:
        return {}
    names = draw(st.lists(st.sampled_from(list(good)), unique=True, max_size=len(good)))
    return {name: either(draw, good[name], bad=5) for name in names}


# --- arrays ---------------------------------------------------------------------------------------

DTYPES = (
    *("float32", "float64", "float16", "int8", "uint8", "int32", "int64", "uint64", "bool"),
    *("complex64", "O", "U3", "M8[s]"),
)
ENDINGS = (">f4", ">i8", "longdouble", "S2", "m8[s]", "complex128")


def shape(draw: Draw, most: int = 4) -> tuple[int, ...]:
    return tuple(draw(st.lists(st.integers(0, 4), max_size=most)))


def array(
    draw: Draw,
    shapes: Sequence[tuple[int, ...]] = (),
    dtypes: Sequence[str] = (),
    low: float = -3,
    high: float = 3,
) -> Any:
    """An array, mostly of one of `shapes` and `dtypes`, with numbers mostly from low to high; or
    what somebody may hand over in its place: a list, a view, a subclass, another byte order."""
    sizes = (
        draw(st.sampled_from(list(shapes))) if shapes and draw(st.integers(0, 5)) else shape(draw)
    )
    known = list(dtypes) if dtypes and draw(st.integers(0, 5)) else [*DTYPES, *ENDINGS]
    dtype = np.dtype(draw(st.sampled_from(known)))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    values = filled(rng, sizes, dtype, low, high)
    if values.size and dtype.kind in "fc" and draw(st.integers(0, 4)) == 0:
        spoil = draw(
            st.sampled_from([NAN, float("inf"), -float("inf"), 1e30, -1e30, 1e4, -1e4, 1e-42])
        )
        with np.errstate(over="ignore"):
            values[tuple(rng.integers(n) for n in sizes)] = spoil
    if values.size and dtype.kind in "iu" and draw(st.integers(0, 6)) == 0:
        limit = np.iinfo(dtype)
        values[tuple(rng.integers(n) for n in sizes)] = draw(
            st.sampled_from([limit.min, limit.max])
        )
    return disguised(draw, values)


def filled(
    rng: np.random.Generator, sizes: tuple[int, ...], dtype: np.dtype, low: float, high: float
) -> np.ndarray:
    if dtype.kind in "iu":
        floor = max(int(low), 0) if dtype.kind == "u" else int(low)
        return rng.integers(floor, max(int(high), floor + 1), size=sizes).astype(dtype)
    if dtype.kind == "b":
        return rng.random(sizes) < 0.5
    if dtype.kind in "US":
        return rng.integers(0, 99, sizes).astype(dtype)
    if dtype.kind in "Mm":
        return rng.integers(0, 99, sizes).astype(dtype)
    values = np.asarray(rng.uniform(low, high, sizes))
    if dtype.kind == "O":
        return values.astype(object)
    return np.asarray(values + 1j * rng.random(sizes) if dtype.kind == "c" else values).astype(
        dtype
    )


def disguised(draw: Draw, values: np.ndarray) -> Any:
    """The same values in another guise."""
    guise = draw(st.integers(0, 14))
    if guise == 0:
        return values.tolist()
    if guise == 1:
        return np.asfortranarray(values)
    if guise == 2 and values.ndim:
        return np.repeat(values, 2, axis=0)[::2]
    if guise == 3 and values.ndim:
        return np.ascontiguousarray(values[::-1])[::-1]
    if guise == 4:
        values = np.array(values)
        values.flags.writeable = False
        return values
    if guise == 5 and values.dtype.kind in "fiu":
        return np.ma.masked_array(values, np.arange(values.size).reshape(values.shape) % 2 == 0)
    if guise == 6 and values.ndim == 2 and values.dtype.kind in "fiu":
        with_matrix = values.view(np.matrix)
        return with_matrix
    if guise == 7 and values.ndim:
        return [list(row) if np.ndim(row) else row for row in values]
    return values


# --- texts ----------------------------------------------------------------------------------------

WORDS = ("oil", "Oil!", "price", "rise-up", "É", "straße", "İ", "ǅ", "a\u00a0b", "\ufeff", "don't")
SPACES = (
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x1f",
    "\x85",
    "\u2028",
    "\u3000",
    "",
)
CHARACTERS = st.characters()  # halves of characters among them


def text(draw: Draw) -> str:
    if draw(st.integers(0, 3)) == 0:
        return draw(st.text(CHARACTERS, max_size=12))
    words = draw(st.lists(st.sampled_from(WORDS), max_size=5))
    return draw(st.sampled_from(SPACES)).join(words)


# --- JSON -----------------------------------------------------------------------------------------

JSON_JUNK = (
    None, True, False, 0, 1, -1, 2, 3, 10**9, 2**31, 2**63, 10**30, -(10**9), 0.5, 1e308, NAN,
    float("inf"), "", "a", "é", "adam", "../../x", "/etc/passwd", [], [1], [[1], [2, 3]], [None, 3],
    {}, {"a": 1}, {"class": "LSTM", "config": {}}, {"class": "Constant", "config": {"value": 1}},
    {"class": "Dense", "config": {"units": 10**9}}, {"class": "__import__", "config": {}},
    {"class": "Sequential", "config": {}}, ["x"] * 50,
)  # fmt: skip


def mutated(draw: Draw, value: Any, keys: Sequence[str] = ()) -> Any:
    """A copy of a JSON value with one to three places changed."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        value = mutated_once(draw, value, keys)
    return value


def mutated_once(draw: Draw, value: Any, keys: Sequence[str]) -> Any:
    places = list(walk(value))
    holder, key = draw(st.sampled_from(places)) if places else (None, None)
    if holder is None:
        return draw(st.sampled_from(JSON_JUNK))
    kind = draw(st.integers(0, 7))
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[draw(st.sampled_from([*keys, "a", "name", "units", "vocabulary", ""]))] = holder[key]
    elif kind == 2 and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))
    elif kind == 3:  # what stands elsewhere
        other, place = draw(st.sampled_from(places))
        if place in other if isinstance(other, dict) else place < len(other):
            holder[key] = copy.deepcopy(other[place])
    elif kind == 4 and isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
        holder[key] = draw(st.sampled_from([-holder[key], holder[key] + 1, 10**9, 2**63, 0.5]))
    elif kind == 5 and isinstance(holder[key], str):
        holder[key] = draw(st.text(max_size=5))
    else:
        holder[key] = copy.deepcopy(draw(st.sampled_from(JSON_JUNK)))
    return value


def walk(value: Any) -> Any:
    """All `(holder, key)` of a JSON value."""
    if not isinstance(value, (dict, list)):
        return
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in items:
        yield value, key
        if isinstance(part, (dict, list)):
            yield from walk(part)


def bent(draw: Draw, content: bytes) -> bytes:
    """Bytes that are not quite `content`."""
    kind = draw(st.integers(0, 6))
    if kind == 0:
        return content[: draw(st.integers(0, len(content)))]
    if kind == 1:
        return content + draw(st.binary(max_size=8))
    if kind == 2:
        return draw(st.binary(max_size=64))
    if kind == 3:
        return content + content
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        if not changed:
            break
        near = draw(st.booleans())
        place = draw(st.integers(0, min(len(changed), 64 if near else len(changed)) - 1))
        if kind == 4:
            changed[place] = draw(st.integers(0, 255))
        elif kind == 5:
            del changed[place : place + draw(st.integers(1, 16))]
        else:
            changed[place:place] = draw(st.binary(min_size=1, max_size=4))
    return bytes(changed)
