"""What all tests start from, and which time loops run on the stand-in for CuPy."""

from __future__ import annotations

import signal

import cuda_emulator
import pytest

# A shell has what it starts in the background ignore Ctrl-C, and so would all that we start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def leave_kernels_out(monkeypatch):
    """The cells then do their steps themselves, by calls of CuPy's functions."""
    monkeypatch.setattr("minirnn.cuda.loops.loops", lambda cell, dtype: None)
    monkeypatch.setattr("minirnn.steps.training_graph", lambda model, before: None)


@pytest.fixture
def loops_that_run_here(monkeypatch):
    """The kernels, if there is a compiler that makes them run on the CPU."""
    if not cuda_emulator.has_compiler():
        leave_kernels_out(monkeypatch)


@pytest.fixture(params=["kernels", "cells"])
def either_loop(request, monkeypatch):
    """Once with the kernels, and once with the loops of the cells."""
    if request.param == "cells":
        leave_kernels_out(monkeypatch)
    elif not cuda_emulator.has_compiler():
        pytest.skip(f"needs a C++ compiler ({cuda_emulator.COMPILER})")
    return request.param
