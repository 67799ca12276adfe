"""Derivatives from forward passes alone: the complex step, and central differences."""

from __future__ import annotations

import math
import warnings

import numpy as np

from minirnn.backend import to_host
from minirnn.gradcheck.subject import Subject

COMPLEX_STEP = 1e-30
CENTRAL_STEPS = (1e-4, 1e-6, 1e-7)


def differentiate(
    subject: Subject, name: str, upstream: np.ndarray, method: str, chosen: np.ndarray
) -> np.ndarray:
    """The numeric gradients of one tensor: (K, *shape), one for each of K upstream gradients.

    Args:
        subject: in complex128 if the method is "complex", else in float64.
        upstream: (K, outputs).
        chosen: flat numbers of the elements to move; the others come out as NaN.
    """
    tensor = subject.tensors[name]
    derivative = _complex_step if method == "complex" else _central_difference
    found = np.full((len(upstream), tensor.size), np.nan)
    fixed = subject.fixed.get(name)
    for k in chosen:
        index = np.unravel_index(k, tensor.shape)
        if fixed is not None and fixed[index]:
            found[:, k] = 0
        else:
            found[:, k] = upstream @ derivative(subject, tensor, index)
    return found.reshape(len(upstream), *tensor.shape)


def _complex_step(subject: Subject, tensor: np.ndarray, index: tuple[int, ...]) -> np.ndarray:
    """f'(x) = Im f(x + ih) / h + O(h²) (Squire and Trapp, 1998).

    No difference of nearly equal numbers is taken, so h can be so small that nothing is left of
    the error term: exact to rounding.
    """
    value = tensor[index].item()  # CuPy's tensor[index] is a view, and would change, too
    tensor[index] = value + 1j * COMPLEX_STEP
    try:
        return subject.outputs().imag / COMPLEX_STEP
    finally:
        tensor[index] = value


def _central_difference(subject: Subject, tensor: np.ndarray, index: tuple[int, ...]) -> np.ndarray:
    """(8 (f(x+h) - f(x-h)) - (f(x+2h) - f(x-2h))) / 12h, of order h⁴.

    Where the slopes over h and over 2h differ, something bends in between (relu, a maximum), and a
    smaller step is tried.
    """
    value = float(to_host(tensor[index]))

    def slope(h: float) -> np.ndarray:
        above, below = value + h, value - h
        tensor[index] = above
        y = subject.outputs()
        tensor[index] = below
        return (y - subject.outputs()) / (above - below)

    try:
        for step in CENTRAL_STEPS:
            h = step * max(1.0, abs(value))
            near, far = slope(h), slope(2 * h)
            scale = max(np.abs(near).max(initial=0), np.abs(far).max(initial=0), 1e-3)
            if np.abs(near - far).max(initial=0) <= 1e-5 * scale:
                break
        return (4 * near - far) / 3
    finally:
        tensor[index] = value


def differentiate_all(
    subject: Subject, upstream: np.ndarray, method: str, chosen: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The numeric gradient of every tensor named in `chosen`, for one upstream gradient.

    Raises:
        Exception: of any kind, if a forward pass cannot compute with complex numbers. One that
            drops an imaginary part raises `numpy.exceptions.ComplexWarning`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.ComplexWarning)
        return {
            name: differentiate(subject, name, upstream[None], method, elements)[0]
            for name, elements in chosen.items()
        }


def relative_error(
    analytic: np.ndarray, numeric: np.ndarray, floor: float, known: np.ndarray | None = None
) -> float:
    """max|a - n| / max(max|a|, max|n|, floor), over the elements that are `known`."""
    if known is not None:
        analytic, numeric = analytic[known], numeric[known]
    if not analytic.size:
        return 0.0
    difference = np.abs(analytic - numeric).max()
    scale = max(np.abs(analytic).max(), np.abs(numeric).max(), floor)
    if not (math.isfinite(difference) and math.isfinite(scale)):
        return math.inf
    return float(difference / scale)
