"""What the tests on the stand-in for CuPy share: one run on either backend, and the comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from strict_cupy import cupy, installed

from minirnn.backend import to_device


def like(y: Any, rng: np.random.Generator) -> Any:
    """A random gradient for an output: for an array, or for several."""
    if isinstance(y, tuple):
        return tuple(like(part, rng) for part in y)
    return to_device(rng.normal(size=y.shape), dtype=y.dtype)


def compare(run: Callable[[], Any], rtol: float = 1e-5, atol: float = 1e-5) -> None:
    """That `run` gives the same on the stand-in as on NumPy: arrays, numbers, tuples, dicts ..."""
    expected = run()
    with installed():
        found = on_host(run())
    same(expected, found, rtol, atol)


def on_host(value: Any) -> Any:
    if isinstance(value, cupy.ndarray):
        return value.get()
    if isinstance(value, dict):
        return {key: on_host(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [on_host(item) for item in value]
    return value


def same(expected: Any, found: Any, rtol: float, atol: float, place: str = "result") -> None:
    if isinstance(expected, dict):
        assert list(expected) == list(found), place
        expected, found, names = [*expected.values()], [*found.values()], [*expected]
    elif isinstance(expected, (list, tuple)):
        names = range(len(expected))
    elif isinstance(expected, (np.ndarray, float)):
        a, b = np.asarray(expected), np.asarray(found)
        assert (a.dtype, a.shape) == (b.dtype, b.shape), place
        np.testing.assert_allclose(b, a, rtol=rtol, atol=atol, err_msg=place)
        return
    else:
        assert expected == found, place
        return
    assert len(expected) == len(found), place
    for name, one, other in zip(names, expected, found, strict=True):
        same(one, other, rtol, atol, f"{place}[{name!r}]")
