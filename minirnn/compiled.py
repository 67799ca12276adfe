"""What Numba compiles (kernels.py), where it is installed: the one place that knows.

The mathematics is that of the module that asks; read it there. NumPy pays for each call, which with
the small arrays of such models is most of the time; compiled, the same steps are loops over
numbers. `pip install "minirnn[fast]"` brings Numba; MINIRNN_COMPILED=0 leaves it unused. The first
run on a machine compiles for some seconds, later ones read the result from a cache.
tests/test_compiled.py compares each with its NumPy twin.
"""

from __future__ import annotations

import functools
import os
from types import ModuleType
from typing import Any

import numpy as np

from minirnn.backend import Array, get_backend, sum_runs, to_device, xp

ENVIRONMENT_VARIABLE = "MINIRNN_COMPILED"


@functools.lru_cache(maxsize=1)
def _kernels() -> ModuleType | None:
    if os.environ.get(ENVIRONMENT_VARIABLE) == "0":
        return None
    try:
        from minirnn import kernels
    except Exception:  # no Numba, or a broken one, which fails in ways of its own
        return None
    return kernels


def for_floats(dtype: Any) -> Any:
    """The compiled functions (kernels.py) if they can be used on arrays of this dtype, or None."""
    usable = get_backend() == "numpy" and dtype == np.float32
    return _kernels() if usable else None


def grouped_sums(rows: Array, order: np.ndarray, starts: np.ndarray) -> Array:
    """Sums of the rows of each group: (n, features) → (len(starts), features).

    order: (n,) all rows, those of a group side by side; starts: where in it each group begins.
    """
    kernels = for_floats(rows.dtype)
    if kernels is None:
        return sum_runs(xp.take(rows, to_device(order), axis=0), starts)
    sums = np.empty((len(starts), rows.shape[1]), rows.dtype)
    kernels.grouped_sums(rows, order, starts, sums)
    return sums
