"""A process that tells of the end of another one: of a rank that was killed, nothing else can.

mpiexec ends a job whose rank was killed within a millisecond, before the other ranks can say
anything, and itself names no rank. So each rank is a child of a process that does nothing but wait
for it. That one has been started by mpiexec, which takes it for the rank.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings

PASSED_ON = "SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"  # by mpiexec, to both processes


def supervise(rank: int, ranks: int) -> None:
    """Returns in a child of this process; the process itself waits for its end, and ends with it.

    Where processes cannot fork, or MPI or CUDA have begun their work already (a child could not go
    on with that), nothing is done.
    """
    if not hasattr(os, "fork") or "mpi4py.MPI" in sys.modules or "cupy" in sys.modules:
        return
    sys.stdout.flush(), sys.stderr.flush()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads: the parent only waits
        child = os.fork()
    if child == 0:
        os.close(writing)
        end_with_parent = threading.Thread(target=_end_after, args=(reading,), daemon=True)
        end_with_parent.start()
        return
    os.close(reading)
    for name in PASSED_ON:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0 and -code not in (signal.SIGINT, signal.SIGTERM):
        _tell_of_death(rank, ranks, -code)
    os._exit(code if code >= 0 else 128 - code)


def _end_after(pipe: int) -> None:
    """End when the other end of the pipe is closed: the parent has been killed."""
    os.read(pipe, 1)
    os._exit(1)


def _tell_of_death(rank: int, ranks: int, number: int) -> None:
    name = signal.Signals(number).name
    why = " (by someone, or because the memory was full)" if number == signal.SIGKILL else ""
    message = (
        f"minirnn: rank {rank} of {ranks} was killed by {name}{why}; this ends the training.\n"
    )
    os.write(2, message.encode())
