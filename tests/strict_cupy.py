"""A strict stand-in for CuPy: NumPy's arithmetic behind arrays that refuse to mix with NumPy's.

CuPy is polite: a list used as an index, a mask that selects, `if array.any()` all work, each at the
price of a copy between host and device or of waiting for the device, which nobody sees on a machine
without one. Here such things are refused or counted:

- a `cupy.ndarray` never turns into a NumPy array by itself, and no operator, function or index
  takes a NumPy array or a list beside it (scalars are fine), in either order;
- only names and arguments that CuPy has exist (cupy_names.json);
- what makes the host wait is counted, and raises inside `with no_sync():`;
- what is undefined on a device raises (two values for one place), or is as bad as it can be
  (`empty` holds NaN, an index that is out of bounds goes round to the other side).

    with installed() as cupy:                    # set_backend("cupy") takes it for CuPy
        with counted() as counts, no_sync():
            ...
        assert counts.h2d == 1

`python tests/strict_cupy.py` writes cupy_names.json anew, where CuPy is installed (no GPU is
needed).
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import cuda_emulator
import numpy as np

NAMES_FILE = Path(__file__).with_name("cupy_names.json")


class MixError(TypeError):
    """Host and device were mixed: on a real device a hidden copy, or CuPy's own TypeError."""


class SyncError(RuntimeError):
    """The host would have to wait for the device inside `no_sync`."""


# --- what is counted ------------------------------------------------------------------------------


@dataclass
class Counts:
    """h2d, d2h: copies from host to device and back; syncs: how often the host has waited for the
    device (each copy back among them); ops: calls that would launch a kernel, about."""

    h2d: int = 0
    d2h: int = 0
    syncs: int = 0
    ops: int = 0


total = Counts()
_refusing_syncs = False


@contextmanager
def counted() -> Iterator[Counts]:
    """What happens inside the block; the figures are there when it ends."""
    before, counts = asdict(total), Counts()
    yield counts
    for name, start in before.items():
        setattr(counts, name, getattr(total, name) - start)


@contextmanager
def no_sync() -> Iterator[None]:
    """Whatever would make the host wait for the device raises SyncError."""
    global _refusing_syncs
    outside, _refusing_syncs = _refusing_syncs, True
    try:
        yield
    finally:
        _refusing_syncs = outside


def synced(what: str) -> None:
    total.syncs += 1
    if _refusing_syncs:
        raise SyncError(f"{what}: the host would wait for the device")


# --- between arrays of the device and those of NumPy ----------------------------------------------

NUMBERS = (bool, int, float, complex, np.number, np.bool_)


def inner(value: Any, sequences: bool = True) -> Any:
    """The same argument for NumPy; `sequences`: whether it may be a list or tuple."""
    if isinstance(value, ndarray):
        return value._a
    if isinstance(value, np.ndarray):
        raise MixError("a NumPy array was given to the device; to_device makes it one of its own")
    if isinstance(value, (list, tuple)):
        if not sequences:
            raise MixError(f"a {type(value).__name__} was given to the device as an array")
        return type(value)(inner(item) for item in value)
    return value


def outer(result: Any) -> Any:
    """A result of NumPy's as CuPy would give it: a reduction gives an array without axes."""
    if isinstance(result, (np.ndarray, np.generic)):
        return ndarray(result)
    if type(result) in (list, tuple):
        return type(result)(map(outer, result))
    return result


def launched(result: Any, *sources: Any) -> Any:
    """`outer(result)`, counted as an operation unless it is a source itself or a view of one."""
    for source in sources:
        if isinstance(source, ndarray) and isinstance(result, np.ndarray):
            if result is source._a:
                return source
            if np.may_share_memory(result, source._a):
                return ndarray(result)
    total.ops += 1
    return outer(result)


class Flags(NamedTuple):
    c_contiguous: bool
    f_contiguous: bool
    owndata: bool


class ndarray:
    """An array on the device; `_a` is the NumPy array that holds its numbers."""

    __slots__ = ("_a", "__weakref__")
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, a: Any) -> None:
        self._a = np.asarray(a)
        if self._a.dtype.kind not in "biufc":
            raise ValueError(f"Unsupported dtype {self._a.dtype}")

    # -- where it lies --

    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    itemsize = property(lambda self: self._a.itemsize)
    nbytes = property(lambda self: self._a.nbytes)
    strides = property(lambda self: self._a.strides)
    T = property(lambda self: ndarray(self._a.T))
    mT = property(lambda self: ndarray(self._a.mT))
    real = property(lambda self: ndarray(self._a.real))
    imag = property(lambda self: ndarray(self._a.imag))
    data = property(lambda self: SimpleNamespace(ptr=self._a.ctypes.data))

    @property
    def flags(self) -> Flags:
        return Flags(*(getattr(self._a.flags, name) for name in Flags._fields))

    def __len__(self) -> int:
        return len(self._a)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[i] for i in range(len(self)))

    def __copy__(self) -> ndarray:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> ndarray:
        return self.copy()

    # -- to the host: never unasked --

    def __array__(self, *arguments: Any, **options: Any) -> None:
        raise MixError("an array of the device does not turn into NumPy's by itself; use to_host")

    @property
    def __array_interface__(self) -> None:  # np.asarray would look here next
        raise AttributeError("__array_interface__")

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True):
        synced("get()")
        total.d2h += 1
        if out is None:
            return self._a.copy(order)
        out[...] = self._a
        return out

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray) or arr.dtype != self.dtype or arr.shape != self.shape:
            raise ValueError("set: expected a NumPy array of the same dtype and shape")
        total.h2d += 1
        self._a[...] = arr

    def _read(self, what: str) -> np.ndarray:
        synced(what)
        total.d2h += 1
        return self._a

    def __bool__(self) -> bool:
        return bool(self._read("bool()"))

    def __int__(self) -> int:
        return int(self._read("int()"))

    def __index__(self) -> int:
        return self._read("an array as a whole number").__index__()

    def __float__(self) -> float:
        return float(self._read("float()"))

    def __complex__(self) -> complex:
        return complex(self._read("complex()"))

    def item(self) -> Any:
        return self._read("item()").item()

    def tolist(self) -> Any:
        return self._read("tolist()").tolist()

    def tobytes(self) -> bytes:
        return self._read("tobytes()").tobytes()

    def __repr__(self) -> str:
        return repr(self._read("repr()"))

    def __str__(self) -> str:
        return str(self._read("str()"))

    def __format__(self, how: str) -> str:
        return format(self._read("format()"), how)

    def __reduce__(self) -> Any:
        return cupy.array, (self.get(),)

    # -- indexing --

    def _index(self, key: Any) -> tuple[Any, bool]:
        """The index for NumPy, out of bounds gone round, and whether it has arrays in it."""
        parts = list(key) if isinstance(key, tuple) else [key]
        for part in parts:
            if isinstance(part, (list, tuple, np.ndarray)):
                raise MixError(f"a {type(part).__name__} as an index: a hidden copy to the device")
        axis, widths = 0, [axes_of(part) for part in parts]
        arrays = any(isinstance(part, ndarray) for part in parts)
        for i, part in enumerate(parts):
            if isinstance(part, ndarray) and part.dtype == bool:
                synced("a mask as an index")
                parts[i] = part._a
            elif isinstance(part, ndarray):
                parts[i] = part._a % max(self.shape[axis], 1)
            axis += self.ndim - sum(widths) if part is Ellipsis else widths[i]
        return tuple(parts), arrays

    def __getitem__(self, key: Any) -> ndarray:
        index, arrays = self._index(key)
        total.ops += arrays
        if not arrays and Ellipsis not in index:
            index = (*index, ...)  # even a single number is a view, not a copy
        return ndarray(self._a[index])

    def __setitem__(self, key: Any, value: Any) -> None:
        index, arrays = self._index(key)
        total.ops += 1
        if arrays and not isinstance(value, ndarray):
            total.h2d += 1  # CuPy makes an array of the scalar
        elif arrays:
            places = np.arange(self.size).reshape(self.shape)[index]
            if len(np.unique(places)) != places.size:
                raise ValueError("an index twice in a[index] = values: undefined on a device")
        self._a[index] = inner(value, sequences=False)

    # -- NumPy's functions go to CuPy's of the same name --

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or not isinstance(getattr(cupy, function.__name__, None), ufunc):
            raise TypeError(f"cupy.{function.__name__}.{method}: CuPy has none, or none we want")
        out = options.pop("out", None)
        if out is not None:
            (options["out"],) = out
        return getattr(cupy, function.__name__)(*inputs, **options)

    def __array_function__(self, function: Any, types: Any, inputs: Any, options: Any) -> Any:
        if not hasattr(cupy, function.__name__):
            raise TypeError(f"CuPy has no {function.__name__}")
        return getattr(cupy, function.__name__)(*inputs, **options)


def axes_of(part: Any) -> int:
    """How many axes of an array a part of an index stands for; 0 for `...`, which is the rest."""
    if part is None or part is Ellipsis:
        return 0
    return part.ndim if isinstance(part, ndarray) and part.dtype == bool else 1


# --- ufuncs, functions and methods ----------------------------------------------------------------

# Of NumPy's names those that CuPy has, too: `same`, the very objects of NumPy; `ufuncs`; and the
# arguments of its `functions` and of the `methods` of its arrays.
NAMES = json.loads(NAMES_FILE.read_text(encoding="utf-8"))


def words(text: str) -> set[str]:
    return set(text.split())


# Arguments that may be lists or tuples; in place of an array they would be a hidden copy.
SEQUENCES = words(
    "args arrays arrays_and_dtypes arys axes axis choicelist condlist destination dims funclist "
    "indices_or_sections new_shape newshape operands pad_width reps shape shift source tup "
    "varargs xi"
)

# They ask the device how large their result is going to be, or look for what is wrong.
SYNCING = words(
    "argwhere array2string array_repr array_str asarray_chkfinite bincount choose compress delete "
    "extract flatnonzero histogram histogram2d histogramdd intersect1d nonzero place setdiff1d "
    "setxor1d trim_zeros union1d unique unique_all unique_counts unique_inverse unique_values "
    "dump dumps tofile"
)


def arguments(text: str) -> inspect.Signature:
    return inspect.signature(eval(f"lambda {text}: None"))  # the text is that of our own file


def checked(name: str, signature: inspect.Signature, given: tuple, options: dict) -> None:
    """Whether CuPy has these arguments, and none of them is a list in place of an array."""
    try:
        bound = signature.bind(*given, **options).arguments
    except TypeError as error:
        raise TypeError(f"cupy.{name}: {error}") from None
    for key, value in bound.items():
        inner(value, sequences=key in SEQUENCES)
    if name in SYNCING or (name == "where" and len(bound) == 1):
        synced(name)
    if isinstance(bound.get("repeats"), ndarray):
        synced(name)


def run(name: str, function: Callable[..., Any], given: tuple, options: dict) -> Any:
    result = function(*map(inner, given), **{key: inner(v) for key, v in options.items()})
    if options.get("out") is not None:
        total.ops += 1
        return options["out"]
    return launched(result, *given)


def function_of(name: str) -> Callable[..., Any]:
    """CuPy's function of this name, computed by NumPy's."""
    signature = arguments(NAMES["functions"][name])

    def function(*given: Any, **options: Any) -> Any:
        checked(name, signature, given, options)
        return run(name, getattr(np, name), given, options)

    function.__name__ = name
    return function


def method_of(name: str) -> Callable[..., Any]:
    """The method of this name, computed by that of NumPy's arrays."""
    signature = arguments(NAMES["methods"][name])

    def method(self: ndarray, *given: Any, **options: Any) -> Any:
        checked(name, signature, given, options)
        bound = getattr(self._a, name)
        return run(name, lambda a, *rest, **more: bound(*rest, **more), (self, *given), options)

    method.__name__ = name
    return method


class ufunc:
    """CuPy's function by element of this name, computed by NumPy's.

    It has no further methods here. In CuPy, `add.at` adds in an order of the moment; `add.reduceat`
    takes differences of one long running sum, so that a run gets the rounding errors, and the NaN,
    of all runs before it; and most of the others are missing.
    """

    def __init__(self, name: str) -> None:
        self.__name__, self.of_numpy = name, getattr(np, name)

    def __call__(
        self,
        *given: Any,
        out: Any = None,
        dtype: Any = None,
        casting: Any = None,
        where: Any = True,
    ) -> Any:
        values = [self.operand(value) for value in given]
        options = {} if dtype is None else {"dtype": dtype}
        if casting is not None:
            options["casting"] = casting
        if where is not True:
            options["where"] = self.operand(where)
        if isinstance(self.of_numpy, np.ufunc):
            options["order"] = "C"  # whatever the layout of the operands was
        if len(values) > self.of_numpy.nin:
            out, values = given[self.of_numpy.nin], values[: self.of_numpy.nin]
        total.ops += 1
        if out is None:
            return outer(self.of_numpy(*values, **options))
        if not isinstance(out, ndarray):
            raise MixError(f"cupy.{self.__name__}: out is a {type(out).__name__}")
        self.of_numpy(*values, out=out._a, **options)
        return out

    def operand(self, value: Any) -> Any:
        if isinstance(value, ndarray):
            return value._a
        if not isinstance(value, NUMBERS):
            kind = f"{type(value).__module__}.{type(value).__name__}"
            raise MixError(f"cupy.{self.__name__}: an operand is a {kind}")
        return value


def operator_of(name: str, swapped: bool = False, in_place: bool = False) -> Callable[..., Any]:
    """The method behind an operator; what cannot be an operand at all is left to Python."""

    def operator(self: ndarray, other: Any) -> Any:
        if not isinstance(other, (ndarray, np.ndarray, list, tuple, *NUMBERS)):
            return NotImplemented
        function = getattr(cupy, name)
        if in_place:
            return function(self, other, out=self)
        return function(other, self) if swapped else function(self, other)

    return operator


OPERATORS = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "power",
    "matmul": "matmul",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "left_shift",
    "rshift": "right_shift",
}
COMPARISONS = {
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "eq": "equal",
    "ne": "not_equal",
}
SIGNS = {"neg": "negative", "pos": "positive", "abs": "absolute", "invert": "invert"}


# --- the module -----------------------------------------------------------------------------------

cupy = ModuleType("cupy")
cupy.ndarray, cupy.ufunc = ndarray, ufunc  # type: ignore[attr-defined]


def array(obj: Any, dtype: Any = None, copy: bool | None = True, order: str = "K") -> ndarray:
    """From the host that is a copy to the device, and counted."""
    if isinstance(obj, ndarray):
        if not copy and dtype in (None, obj.dtype):
            return obj
        total.ops += 1
        return ndarray(np.array(obj._a, dtype=dtype, order=order))
    if isinstance(obj, (list, tuple)) and any(isinstance(item, ndarray) for item in obj):
        return cupy.stack([array(item, dtype, copy=False) for item in obj])
    total.h2d += 1
    return ndarray(np.array(obj, dtype=dtype, order=order))


def asarray(a: Any, dtype: Any = None, order: str = "K", *, copy: bool | None = None) -> ndarray:
    return array(a, dtype, bool(copy), order)


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    a = asarray(a, dtype)
    return a if a.flags.c_contiguous else array(a, order="C")


def dot(a: ndarray, b: ndarray, out: ndarray | None = None) -> ndarray:
    if out is not None and not out.flags.c_contiguous:
        raise ValueError("Output array must be C-contiguous")
    return run("dot", np.dot, (a, b), {} if out is None else {"out": out})


def take(a: ndarray, indices: Any, axis: int | None = None, out: ndarray | None = None) -> ndarray:
    """An index that is out of bounds goes round to the other side."""
    checked("take", arguments("a, indices, axis=None, out=None"), (a, indices, axis, out), {})
    given = {"axis": axis, "mode": "wrap"} | ({} if out is None else {"out": out})
    return run("take", np.take, (a, indices), given)


def take_along_axis(a: ndarray, indices: ndarray, axis: int) -> ndarray:
    return run("take_along_axis", np.take_along_axis, (a, indices % a.shape[axis], axis), {})


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    """What happens to lie in that memory: the worst that may."""
    kind = np.dtype(dtype).kind
    worst = np.nan if kind in "fc" else True if kind == "b" else np.iinfo(dtype).max
    return ndarray(np.full(shape, worst, dtype=dtype, order=order))


def empty_like(prototype: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape=None):
    return empty(prototype.shape if shape is None else shape, dtype or prototype.dtype)


def asnumpy(a: Any, *arguments: Any, **options: Any) -> np.ndarray:
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def get_array_module(*arrays: Any) -> ModuleType:
    return cupy if any(isinstance(a, ndarray) for a in arrays) else np


def _fill_the_module() -> None:
    cupy.__version__ = NAMES["version"]  # type: ignore[attr-defined]
    for kind, made in (
        ("same", lambda name: getattr(np, name)),
        ("ufuncs", ufunc),
        ("functions", function_of),
    ):
        for name in NAMES[kind]:
            if hasattr(np, name):  # an older NumPy lacks some
                setattr(cupy, name, made(name))
    own = array, asarray, ascontiguousarray, dot, empty, empty_like, take, take_along_axis
    for function in (*own, asnumpy, get_array_module):
        setattr(cupy, function.__name__, function)
    ndarray.take = take  # type: ignore[attr-defined]
    cuda_emulator.attach(cupy, total)

    for name in NAMES["methods"]:
        if name not in ndarray.__dict__:
            setattr(ndarray, name, method_of(name))
    for name, function in OPERATORS.items():
        setattr(ndarray, f"__{name}__", operator_of(function))
        setattr(ndarray, f"__r{name}__", operator_of(function, swapped=True))
        setattr(ndarray, f"__i{name}__", operator_of(function, in_place=True))
    for name, function in COMPARISONS.items():
        setattr(ndarray, f"__{name}__", operator_of(function))
    for name, function in SIGNS.items():
        setattr(ndarray, f"__{name}__", lambda self, f=function: getattr(cupy, f)(self))
    ndarray.__hash__ = None  # type: ignore[assignment]


@contextmanager
def installed() -> Iterator[ModuleType]:
    """The stand-in is what `import cupy` gives, and minirnn computes with it."""
    from minirnn.backend import set_backend

    before = sys.modules.get("cupy")
    sys.modules["cupy"] = cupy
    try:
        assert set_backend("cupy") == "cupy"
        yield cupy
    finally:
        set_backend("numpy")
        del sys.modules["cupy"]
        if before is not None:
            sys.modules["cupy"] = before


# --- writing cupy_names.json ----------------------------------------------------------------------


def names_of(real: Any) -> dict[str, Any]:
    """What cupy_names.json holds, from CuPy itself."""

    def shown(function: Callable[..., Any]) -> str:
        parts = inspect.signature(function).parameters.values()
        bare = [p.replace(annotation=p.empty) for p in parts]
        bare = [p if p.default is p.empty else p.replace(default=None) for p in bare]
        return str(inspect.Signature(bare))[1:-1]

    def of_docstring(text: str) -> str:
        """`_ndarray_base.sum(self, int axis=-1) -> ...`: what is between the brackets."""
        inside = re.search(r"\((.*?)\)", text.splitlines()[0]).group(1)
        parts = [re.sub(r"^\w+ (?=\w)", "", part) for part in inside.split(", ")]
        return ", ".join(re.sub(r"=.*", "=None", part) for part in parts if part != "self")

    names: dict[str, Any] = {"version": real.__version__, "same": [], "ufuncs": []}
    functions: dict[str, str] = {"min_scalar_type": "a", "size": "a, axis=None"}  # built in
    for name in sorted(name for name in dir(real) if hasattr(np, name) and name[0] != "_"):
        value = getattr(real, name)
        if inspect.ismodule(value):
            continue
        if value is getattr(np, name) or isinstance(value, float):
            names["same"].append(name)
        elif isinstance(value, (real.ufunc, type(real.matmul))):
            names["ufuncs"].append(name)
        elif inspect.isfunction(value):
            functions[name] = shown(value)
    methods = {name: getattr(real.ndarray, name) for name in dir(real.ndarray) if name[0] != "_"}
    of_numpy = {name: m for name, m in methods.items() if hasattr(np.ndarray, name) and callable(m)}
    names["functions"] = dict(sorted(functions.items()))
    names["methods"] = {name: of_docstring(m.__doc__) for name, m in of_numpy.items()}
    return names


if __name__ == "__main__":
    import cupy as real

    NAMES_FILE.write_text(json.dumps(names_of(real), indent=1) + "\n", encoding="utf-8")
else:
    _fill_the_module()
