"""Two things at once: the two directions of a layer, on two threads.

NumPy and compiled loops let go of Python's interpreter lock while they compute, so two threads use
two cores. What they compute does not depend on how they are scheduled: each works alone on arrays
of its own.
"""

from __future__ import annotations

import contextvars
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from minirnn.backend import get_backend
from minirnn.checks import whole_number

ENVIRONMENT_VARIABLE = "MINIRNN_THREADS"
WORTH_A_THREAD = 50_000  # with less work than this, handing it over costs more than it saves

Result = TypeVar("Result")
_lock = threading.Lock()
if hasattr(os, "register_at_fork"):  # or a child would wait for a thread that it does not have
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


def side_by_side(task: Callable[[int], Result], work: int) -> tuple[Result, Result]:
    """`(task(0), task(1))`; at the same time, if there is enough work for that to pay.

    work: about how many numbers each of the two goes over.
    """
    if work < WORTH_A_THREAD or get_backend() != "numpy":
        return task(0), task(1)
    with ONE_BLAS_THREAD as limited:
        if threads() < 2 or not limited:
            return task(0), task(1)
        return _at_once(task)


def _at_once(task: Callable[[int], Result]) -> tuple[Result, Result]:
    helper = _idle_helper()
    if helper is None:
        return task(0), task(1)
    # The caller's context goes along: np.errstate is part of it.
    helper.start(contextvars.copy_context(), task)
    try:
        first = task(0)
    finally:
        try:
            second, error = helper.result()
        except BaseException:  # an interrupt while we wait: leave this helper to itself
            _helpers.remove(helper)
            raise
        _idle.append(helper)
    if error is not None:
        raise error
    return first, second


class _Helper:
    """A second thread, to which two locks hand over and back: an executor takes twice the time for
    that, which counts where a task lasts less than a millisecond."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.job: Any = None
        self.given, self.done = threading.Lock(), threading.Lock()
        self.given.acquire(), self.done.acquire()
        threading.Thread(target=self._work, name="minirnn", daemon=True).start()

    def start(self, context: contextvars.Context, task: Callable[[int], Any]) -> None:
        self.job = context, task
        self.given.release()

    def result(self) -> tuple[Any, BaseException | None]:
        self.done.acquire()
        result, self.job = self.job, None  # what was computed lives no longer than its owner wants
        return result

    def _work(self) -> None:
        while True:
            self.given.acquire()
            context, task = self.job
            try:
                self.job = context.run(task, 1), None
            except BaseException as error:  # it is the caller's
                self.job = None, error
            del context, task
            self.done.release()


_idle: list[_Helper] = []
_helpers: list[_Helper] = []
HELPERS = 2  # in nested calls, and those of several threads, at most so many work at a time


def _idle_helper() -> _Helper | None:
    """A helper that has nothing to do; None if all are at work."""
    try:
        while True:
            helper = _idle.pop()
            if helper.process == os.getpid():  # a fork does not take threads along
                return helper
    except IndexError:
        pass
    with _lock:
        _helpers[:] = [helper for helper in _helpers if helper.process == os.getpid()]
        if len(_helpers) >= HELPERS:
            return None
        _helpers.append(_Helper())
        return _helpers[-1]


class OneBlasThread:
    """While this is entered, BLAS works on one thread: threads of its own would be in our way.

    Entering tells whether that is so; without threadpoolctl only a user can see to it. The limit
    holds for the whole process, so it is set by the first who enters and lifted by the last who
    leaves (or, within `keep_limits`, later). It holds with MINIRNN_THREADS=1 as well, so that
    results do not depend on that.

    loops_only: limit only the BLAS that compiled loops call, which is SciPy's and not NumPy's.
    """

    def __init__(self, loops_only: bool = False) -> None:
        self.loops_only = loops_only
        self.inside = 0
        self.limit: Any = None

    def __enter__(self) -> bool:
        libraries = _blas(self.loops_only)
        if libraries is None:
            return os.environ.get("OPENBLAS_NUM_THREADS") == "1"
        with _lock:
            self.inside += 1
            if self.limit is None:
                self.limit = libraries.limit(limits=1, user_api="blas")
        return True

    def __exit__(self, *error: object) -> None:
        with _lock:
            self.inside = max(self.inside - 1, 0)
        self.lift()

    def lift(self) -> None:
        """Lift the limit if nobody is inside, nor wants limits kept."""
        with _lock:
            if self.limit is not None and not self.inside and not _keeping:
                self.limit.restore_original_limits()
                self.limit = None


_keeping: list[None] = []  # one entry for each who is within `keep_limits`
ONE_BLAS_THREAD, ONE_BLAS_THREAD_IN_LOOPS = OneBlasThread(), OneBlasThread(loops_only=True)


@contextmanager
def keep_limits() -> Iterator[None]:
    """Within this, limits once set stay. BLAS's threads, when they are let loose again, turn idly
    for a while and take time from ours: training would lift and set limits thousands of times."""
    _keeping.append(None)
    try:
        yield
    finally:
        _keeping.pop()
        for limit in (ONE_BLAS_THREAD_IN_LOOPS, ONE_BLAS_THREAD):
            limit.lift()


def _blas(loops_only: bool) -> Any:
    """What sets the number of BLAS's threads, if threadpoolctl is installed."""
    return _libraries(loops_only, "scipy.linalg" in sys.modules)


@functools.lru_cache(maxsize=4)
def _libraries(loops_only: bool, scipy_is_loaded: bool) -> Any:
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    libraries = ThreadpoolController()
    if loops_only:
        paths = [library.filepath for library in libraries.lib_controllers]
        of_scipy = [p for p in paths if any(f.startswith("scipy") for f in Path(p).parts[:-1])]
        return libraries.select(filepath=of_scipy) if of_scipy else libraries  # one for both
    return libraries


def threads() -> int:
    """How many threads may work: MINIRNN_THREADS, or 2 where there are as many cores."""
    value = os.environ.get(ENVIRONMENT_VARIABLE)
    if not value:
        return min(2, os.cpu_count() or 1)
    return whole_number(ENVIRONMENT_VARIABLE, int(value) if value.isdecimal() else value)
