"""Reading ahead in a thread: the part of `Dataset` that runs beside the training loop."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Iterable, Iterator


def read_ahead(source: Iterable, buffer_size: int) -> Iterator:
    """The elements of `source`, of which a thread keeps up to `buffer_size` ready.

    The thread starts with the first element asked for and ends with this iterator, also when it is
    abandoned half way. An error of `source` is raised here, with its traceback.
    """
    ready: queue.Queue = queue.Queue(buffer_size)
    stop = threading.Event()
    # The caller's context goes along: its random numbers, and np.errstate, are part of it.
    work = contextvars.copy_context().run
    thread = threading.Thread(
        target=work, args=(_fill, source, ready, stop), name="minirnn-prefetch", daemon=True
    )
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        value = None  # an error kept here would keep its own traceback, and so itself, alive
        stop.set()
        # The thread may be in the middle of one last put: make room, so that it cannot wait.
        while not ready.empty():
            ready.get()
        if thread is not threading.current_thread():  # the garbage collector may run this anywhere
            thread.join(timeout=1.0)  # a source that hangs must not hold us for ever


def _fill(source: Iterable, ready: queue.Queue, stop: threading.Event) -> None:
    """Puts (kind, value) pairs until `source` ends or `stop` is set."""
    try:
        for element in source:
            if not stop.is_set():
                ready.put(("element", element))
            if stop.is_set():
                return
    except BaseException as error:  # whatever it is, the consumer shall see it
        if not stop.is_set():
            ready.put(("error", error))
    else:
        if not stop.is_set():
            ready.put(("end", None))
