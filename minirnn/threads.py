"""Two things at once: the two directions of a layer, on two threads.

NumPy and compiled loops let go of Python's interpreter lock while they compute, so two threads use
two cores. What they compute does not depend on how they are scheduled: each works alone on arrays
of its own.
"""

from __future__ import annotations

import contextvars
import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from minirnn.backend import get_backend
from minirnn.checks import whole_number

ENVIRONMENT_VARIABLE = "MINIRNN_THREADS"
WORTH_A_THREAD = 50_000  # with less work than this, handing it over costs more than it saves

Result = TypeVar("Result")


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
    # The caller's context goes along: np.errstate is part of it.
    second = _worker(os.getpid()).submit(contextvars.copy_context().run, task, 1)
    try:
        first = task(0)
    finally:
        begun = not second.cancel()
        if begun:
            second.exception()  # wait, whatever happened here
    # Waiting for a free thread could take forever: all may be at tasks that wait like this one.
    return first, second.result() if begun else task(1)


class _OneBlasThread:
    """While this is entered, BLAS works on one thread: threads of its own would be in our way.

    Entering tells whether that is so; without threadpoolctl only a user can see to it. The limit
    holds for the whole process, so it is set by the first who enters and lifted by the last who
    leaves. It holds with MINIRNN_THREADS=1 as well, so that results do not depend on that.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.limit: Any = None

    def __enter__(self) -> bool:
        controller = _blas()
        if controller is None:
            return os.environ.get("OPENBLAS_NUM_THREADS") == "1"
        with self.lock:
            self.inside += 1
            if self.inside == 1:
                self.limit = controller.limit(limits=1, user_api="blas")
        return True

    def __exit__(self, *error: object) -> None:
        if _blas() is None:
            return
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.limit.restore_original_limits()


ONE_BLAS_THREAD = _OneBlasThread()


@functools.lru_cache(maxsize=1)
def _blas() -> Any:
    """What sets the number of BLAS's threads, if threadpoolctl is installed."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController()


def threads() -> int:
    """How many threads may work: MINIRNN_THREADS, or 2 where there are as many cores."""
    value = os.environ.get(ENVIRONMENT_VARIABLE)
    if not value:
        return min(2, os.cpu_count() or 1)
    return whole_number(ENVIRONMENT_VARIABLE, int(value) if value.isdecimal() else value)


@functools.lru_cache(maxsize=1)
def _worker(process: int) -> ThreadPoolExecutor:
    """A thread of this process: a fork does not take threads along."""
    return ThreadPoolExecutor(max_workers=2, thread_name_prefix="minirnn")
