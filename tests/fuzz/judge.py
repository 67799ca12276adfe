"""The judge of one call: a right answer, or an error of ours that says what is wrong.

An error is ours if a `raise` statement in minirnn raised it: NumPy, json, csv and the rest must not
be what users hear of their mistakes from. Each call has a limit on time and on new memory.
"""

from __future__ import annotations

import contextlib
import linecache
import re
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import minirnn

try:
    import resource
except ImportError:  # not on Windows, where cases run without a limit on memory
    resource = None

PACKAGE = str(Path(minirnn.__file__).parent)
NAMED = (ValueError, TypeError, OSError, MemoryError, ImportError)
SIGNATURE = re.compile(r"\w+\.__init__\(\) (got an unexpected|missing \d+ required)")
SECONDS = 20
BYTES = 512 * 2**20  # that one case may take, beyond what the process has


class Finding(AssertionError):
    """Neither a right answer nor a named error."""


class Hang(BaseException):
    """The time of a case is over. No `except Exception` may stop it."""


class Refusal:
    """A named error, where an answer would stand."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        return f"<{type(self.error).__name__}: {self.error}>"


def ask(call: Callable, *args: Any, about: tuple[str, ...] = (), **options: Any) -> Any:
    """The answer of `call(*args, **options)`, or a `Refusal`.

    about: words of which the message has to hold one: the names of what was wrong.
    """
    shown = f"{getattr(call, '__qualname__', call)}({brief((args, options))})"
    try:
        with limits(), warnings.catch_warnings():
            warnings.simplefilter("error")
            # Numbers that overflow or that are NaN already are judged by what comes out.
            warnings.simplefilter("ignore", RuntimeWarning)
            # So are names of dtypes that NumPy will drop one day, and until then takes.
            warnings.filterwarnings("ignore", "Data type alias", DeprecationWarning)
            return call(*args, **options)
    except NAMED as error:
        why = why_not_named(error, about)
        if why:
            raise Finding(f"{shown}: {why}\n{told(error)}") from error
        return Refusal(error)
    except Hang as error:
        raise Finding(f"{shown}: not done after {SECONDS} s\n{told(error)}") from None
    except Exception as error:
        if traceback.extract_tb(error.__traceback__)[-1].filename.endswith("fuzz/values.py"):
            return Refusal(error)
        raise Finding(f"{shown}: {type(error).__name__} came out\n{told(error)}") from error


def refused(answer: Any) -> bool:
    return isinstance(answer, Refusal)


def why_not_named(error: BaseException, about: tuple[str, ...]) -> str:
    """What is wrong with an error; an empty text if it is ours and says what it is about."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if SIGNATURE.match(str(error)):
        return ""  # Python itself names the argument
    if frame.filename.endswith("fuzz/values.py"):
        return ""  # an error of what was handed over, not of what was done with it
    if isinstance(error, OSError) and error.errno is not None:
        return ""  # from the system, with the file in it
    if not frame.filename.startswith(PACKAGE):
        return f"the error comes out of {frame.filename}, line {frame.lineno}"
    if not linecache.getline(frame.filename, frame.lineno or 0).strip().startswith("raise"):
        return f"no statement of ours raised it: {frame.filename}, line {frame.lineno}"
    message = str(error)
    if len(message.split()) < 3:
        return f"the message says too little: {message!r}"
    if about and not any(word in message for word in about):
        return f"the message speaks of none of {', '.join(about)}: {message!r}"
    return ""


def told(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, error.__traceback__)[-12:])


def brief(value: Any) -> str:
    with np.printoptions(threshold=20, edgeitems=3):
        try:
            shown = repr(value)
        except Exception as error:
            shown = f"<{type(value).__name__} without a repr: {error}>"
    return shown if len(shown) < 1500 else f"{shown[:1500]} ..."


# --- limits ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def limits(seconds: float | None = None, extra: int = BYTES) -> Iterator[None]:
    """Ends what takes too long by `Hang`, and what takes too much memory by `MemoryError`."""
    timed = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")

    def ring(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring) if timed else None
    with bounded_memory(extra):
        if timed:
            signal.setitimer(signal.ITIMER_REAL, seconds or SECONDS)
        try:
            yield
        finally:
            if timed:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def bounded_memory(extra: int) -> Iterator[None]:
    """Address space for `extra` bytes more, and no more."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        pages = None
    if resource is None or pages is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    bound = pages * resource.getpagesize() + extra
    resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


# --- right answers --------------------------------------------------------------------------------


def require(right: bool, message: str, *values: Any) -> None:
    if not right:
        raise Finding(f"{message}: {', '.join(map(brief, values))}")


def require_close(
    answer: Any, expected: Any, message: str, *values: Any, rtol: float = 1e-4
) -> None:
    answer, expected = np.asarray(answer), np.asarray(expected)
    close = answer.shape == expected.shape and np.allclose(
        answer, expected, rtol=rtol, atol=1e-5 * max(1, scale(expected)), equal_nan=True
    )
    require(close, message, answer, expected, *values)


def scale(values: np.ndarray) -> float:
    finite = np.abs(values[np.isfinite(values)]) if values.size else values
    return float(finite.max()) if finite.size else 0.0


def clean(*values: Any) -> bool:
    """Whether numbers are finite and of a size at which float32 does not overflow."""
    arrays = [np.asarray(value) for value in values if value is not None]
    return all(
        a.dtype.kind in "biuf" and bool((np.abs(a.astype(np.float64)) < 1e6).all()) for a in arrays
    )
