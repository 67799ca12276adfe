"""Compiling the `.cu` sources, through CuPy, when a kernel is first asked for."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from minirnn.backend import xp

FOLDER = Path(__file__).parent
NOTHING = np.uint64(0)  # a null pointer, for an array that is not there
PLAIN_SHARED_BYTES = 48 * 1024  # of shared memory, that a kernel may use without asking


def source(*files: str) -> str:
    """The text of these sources, one behind the other."""
    return "\n".join((FOLDER / file).read_text(encoding="utf-8") for file in files)


def kernel(name: str, *files: str, dynamic_shared_bytes: int = 0, **definitions: Any) -> Any:
    """A kernel of these sources, compiled with `-Dname=value` for each of the definitions."""
    options = tuple(f"-D{key}={value}" for key, value in definitions.items())
    return _kernel(xp.module, name, files, options, dynamic_shared_bytes)


@functools.cache
def _kernel(cupy: Any, name: str, files: tuple, options: tuple, shared_bytes: int) -> Any:
    function = _module(cupy, files, options).get_function(name)
    if shared_bytes > PLAIN_SHARED_BYTES:
        function.max_dynamic_shared_size_bytes = shared_bytes
    return function


@functools.cache
def _module(cupy: Any, files: tuple, options: tuple) -> Any:
    return cupy.RawModule(code=source(*files), options=("-std=c++17", *options))


def pointer(array: Any) -> Any:
    """What stands for this array, or for None, among a kernel's arguments."""
    return NOTHING if array is None else array
