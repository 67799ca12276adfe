"""Two things at once: the two directions of a layer, on two threads.

NumPy and compiled loops let go of Python's interpreter lock while they compute, so two threads use
two cores. What they compute does not depend on how they are scheduled: each works alone on arrays
of its own.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from minirnn.backend import get_backend

ENVIRONMENT_VARIABLE = "MINIRNN_THREADS"
WORTH_A_THREAD = 50_000  # with less work than this, handing it over costs more than it saves

Result = TypeVar("Result")


def side_by_side(task: Callable[[int], Result], work: int) -> tuple[Result, Result]:
    """`(task(0), task(1))`; at the same time, if there is enough work for that to pay.

    work: about how many numbers each of the two goes over.
    """
    if work < WORTH_A_THREAD or threads() < 2 or get_backend() != "numpy":
        return task(0), task(1)
    second = _worker(os.getpid()).submit(task, 1)
    try:
        first = task(0)
    finally:
        second.exception()  # wait, whatever happened here
    return first, second.result()


def threads() -> int:
    """How many threads may work: MINIRNN_THREADS, or 2 where there are as many cores."""
    return int(os.environ.get(ENVIRONMENT_VARIABLE) or min(2, os.cpu_count() or 1))


@functools.lru_cache(maxsize=1)
def _worker(process: int) -> ThreadPoolExecutor:
    """A thread of this process: a fork does not take threads along."""
    return ThreadPoolExecutor(max_workers=2, thread_name_prefix="minirnn")
