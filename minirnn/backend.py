"""Where arrays live and how wide they are: the one module that tells NumPy from CuPy.

Everything in the core computes through `xp`, which stands for NumPy or CuPy:

>>> from minirnn.backend import xp
>>> xp.tanh(xp.zeros((2, 3))).shape
(2, 3)

The backend is chosen by the environment variable `MINIRNN_BACKEND` (`numpy`, the default; `cupy`;
or `auto`, which takes CuPy where a usable GPU answers) or by `set_backend`.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # a NumPy or CuPy array; the two share one interface but no base class

BACKENDS = ("numpy", "cupy", "auto")
ENVIRONMENT_VARIABLE = "MINIRNN_BACKEND"


class _ArrayModule:
    """The chosen array module; it never goes stale, wherever `xp` was imported.

    A name is looked up in the module once and then kept here, so that it costs what any attribute
    costs.
    """

    def __init__(self) -> None:
        self.use(np)

    def use(self, module: ModuleType) -> None:
        if self.__dict__.get("module") is module:
            return
        self.__dict__["module"] = module  # first: another thread may ask for a name meanwhile
        for name in [name for name in self.__dict__ if name != "module"]:
            del self.__dict__[name]

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.module, name)
        self.__dict__[name] = value
        return value

    def __repr__(self) -> str:
        return f"<xp: {self.module.__name__}>"


xp = _ArrayModule()


# --- choosing a backend ---------------------------------------------------------------------------


def set_backend(name: str, argument: str = "backend") -> str:
    """Compute on `"numpy"`, on `"cupy"`, or on whichever of the two works best here (`"auto"`).

    When CuPy was asked for but cannot be used, NumPy is taken, and one warning says why. `"auto"`
    is silent about a machine that simply has no CuPy.

    Choose before any layer is built: arrays that exist already stay where they are.

    Args:
        argument: where the name comes from, for the error message.

    Returns:
        The name of the backend now in use, `"numpy"` or `"cupy"`.

    Raises:
        ValueError: for any other name.
    """
    if not isinstance(name, str) or name not in BACKENDS:
        raise ValueError(f"{argument}: expected one of {', '.join(BACKENDS)}; received {name!r}")
    if name == "numpy":
        xp.use(np)
        return "numpy"
    cupy, reason = _usable_cupy()
    if cupy is not None:
        xp.use(cupy)
        return "cupy"
    xp.use(np)
    not_installed = reason.startswith("CuPy is not installed")
    if name == "cupy" or not not_installed:
        warnings.warn(f"minirnn computes with NumPy: {reason}", RuntimeWarning, stacklevel=2)
    return "numpy"


def get_backend() -> str:
    """The name of the backend in use: `"numpy"` or `"cupy"`."""
    return "numpy" if xp.module is np else "cupy"


def _usable_cupy() -> tuple[ModuleType | None, str]:
    """CuPy, if one small computation on a GPU succeeds, else None and the reason.

    Importing CuPy and asking it for a GPU both succeed on machines where the libraries that it
    compiles and multiplies with are missing, so only a real product can tell.
    """
    try:
        cupy = importlib.import_module("cupy")
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            return None, f"CuPy is broken ({error})."
        return None, (
            'CuPy is not installed. `pip install "minirnn[cuda12]"` or `"minirnn[cuda13]"` adds it.'
        )
    except Exception as error:  # a broken CuPy fails in ways of its own
        return None, f"CuPy is broken ({type(error).__name__}: {error})."
    try:
        if not cupy.cuda.is_available():
            return None, "CuPy is installed, but there is no usable GPU or driver."
        ones = cupy.ones((2, 2), dtype="float32")
        answer = float((ones @ ones + 1).sum())
    except Exception as error:
        return None, f"CuPy is installed, but its GPU fails ({type(error).__name__}: {error})."
    if answer != 12.0:
        return None, f"CuPy is installed, but its GPU computes wrong numbers ({answer}, not 12)."
    return cupy, ""


# --- moving arrays --------------------------------------------------------------------------------


def to_device(array: Any, dtype: Any = None) -> Array:
    """An array of the backend in use; no copy if it is one already and has this dtype."""
    return xp.asarray(array, dtype=dtype)


def to_host(array: Any) -> np.ndarray:
    """A NumPy array; no copy if it is one already."""
    if isinstance(array, np.ndarray):
        return array
    on_device = hasattr(array, "get") and not hasattr(array, "keys")  # as dicts and tables have
    return array.get() if on_device else np.asarray(array)


def sum_runs(rows: Array, starts: np.ndarray) -> Array:
    """Sums of neighbouring rows: (n, features) → (len(starts), features).

    Run k begins at row `starts[k]` (rising, the first is 0; on the host) and ends where the next
    begins. The order of the additions is fixed, so that the sums come out the same every time.
    """
    if get_backend() == "numpy":
        return np.add.reduceat(rows, starts, axis=0)
    # CuPy's `add.reduceat` takes differences of one sum over all rows, with the rounding errors of
    # all runs before, and its `add.at` adds in an order of the moment. So: after each turn a row
    # holds the sum of twice as many, those of its run among the rows up to it.
    lengths = np.diff(starts, append=len(rows))
    place = to_device(np.arange(len(rows)) - np.repeat(starts, lengths))[:, None]
    reach = 1
    while reach < lengths.max(initial=0):
        before = xp.where(place[reach:] >= reach, rows[:-reach], xp.zeros((), rows.dtype))
        rows = xp.concatenate([rows[:reach], rows[reach:] + before])
        reach *= 2
    return rows[to_device(starts + lengths - 1)]


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """A device's memory that is full becomes an error that says what helps.

    Raises:
        MemoryError: in place of CuPy's.
    """
    try:
        yield
    except MemoryError as error:
        if not type(error).__module__.startswith("cupy"):
            raise
        raise MemoryError(
            f"the memory of the GPU is full ({str(error).rstrip('.')}). A smaller batch_size, or "
            'shorter rows, need less of it; set_backend("numpy") computes in that of the host.'
        ) from error


# --- float type -----------------------------------------------------------------------------------

_floatx = np.dtype("float32")


def floatx() -> np.dtype:
    """The dtype in which new weights are made and results are computed; float32 by default."""
    return _floatx


def set_floatx(dtype: Any) -> None:
    """Make new weights in `dtype`: float32, or float64 for gradient checks.

    Raises:
        ValueError: for any other dtype.
    """
    global _floatx
    for chosen in (np.dtype("float32"), np.dtype("float64")):
        if isinstance(dtype, (str, type, np.dtype)) and dtype == chosen:
            _floatx = chosen
            return
    raise ValueError(f"floatx: expected float32 or float64, received {dtype!r}")


# --- random numbers -------------------------------------------------------------------------------

_generator = np.random.default_rng()
_own: contextvars.ContextVar[np.random.Generator] = contextvars.ContextVar("generator")


def set_random_seed(seed: int) -> None:
    """Seed all that minirnn draws: weights, dropout, shuffling. Same seed, same numbers.

    In another thread than the main one: what is drawn in that thread, and nowhere else. So models
    can be trained side by side, each to the numbers of its seed.
    """
    if seed is not None and (not isinstance(seed, (int, np.integer)) or seed < 0):
        raise ValueError(f"seed: expected a whole number from 0 up, received {seed!r}")
    _draw_from(np.random.default_rng(seed))


def _draw_from(made: np.random.Generator) -> None:
    """Let this thread draw from it; if it is the main one, all that have none of their own."""
    global _generator
    if threading.current_thread() is threading.main_thread():
        _generator = made
    else:
        _own.set(made)


def generator() -> np.random.Generator:
    """The generator of all random numbers; on the host, so that both backends start alike."""
    return _own.get(_generator)


class _Later:
    """A random generator that is made when something is drawn, which in most models nothing is."""

    def __init__(self, seed: Sequence[int]) -> None:
        self.seed = seed

    def __getattr__(self, name: str) -> Any:
        if name == "made":
            self.made = np.random.default_rng(self.seed)
            return self.made
        return getattr(self.made, name)


@contextlib.contextmanager
def draws_apart(seed: Sequence[int]) -> Iterator[None]:
    """Within this, what this thread draws comes from a generator apart, with that seed."""
    before = _own.set(_Later(seed))  # type: ignore[arg-type]
    try:
        yield
    finally:
        _own.reset(before)


_locked: list[Any] = []  # a fork waits for a draw to end: else the child would, for ever
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _locked.append(_generator.bit_generator.lock) or _locked[-1].acquire(),
        after_in_parent=lambda: _locked.pop().release(),
        after_in_child=lambda: _locked.pop().release(),
    )


def generator_state() -> dict[str, Any]:
    """Where the generator stands: JSON values, for `set_generator_state` and `draws_from`."""
    return generator().bit_generator.state


def set_generator_state(state: dict[str, Any]) -> None:
    """Let the generator go on from where it stood."""
    _draw_from(draws_from(state))


def draws_from(state: dict[str, Any]) -> np.random.Generator:
    """A generator apart that stands there."""
    apart = np.random.default_rng()
    apart.bit_generator.state = state
    return apart


set_backend(os.environ.get(ENVIRONMENT_VARIABLE, "numpy"), ENVIRONMENT_VARIABLE)
