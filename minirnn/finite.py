"""Numbers that are NaN or infinite: how they are noticed, and where they come from.

A training step looks at its loss and at the squared norm of each gradient before it changes
anything: one pass over numbers that have just been computed. Only when one of them is not finite is
it asked where that begins, which may take as long as it likes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from minirnn.backend import Array, get_backend, to_device, to_host, xp
from minirnn.base import RowGradient

ADVICE = "A smaller learning_rate or clipnorm=1.0 in the optimizer often helps."


class NonFiniteError(ValueError, ArithmeticError):
    """A loss, a gradient or an output became NaN or infinite; the message says at which step, and
    where it began. Weights and the optimizer's averages are those from before that step."""


def squared_norm(gradient: Array | RowGradient) -> Array:
    """On the device. Finite if the gradient is, and if its square is as well, which most optimizers
    average."""
    numbers = gradient.rows if isinstance(gradient, RowGradient) else gradient
    flat = numbers.reshape(-1)
    return flat.dot(flat)


def loss_and_norms(loss: Array, grads: Mapping[Any, Array | RowGradient]) -> list[float]:
    """The loss, then the squared norm of each gradient, on the host: moved there together."""
    figures = [loss, *map(squared_norm, grads.values())]
    if get_backend() == "numpy":
        return [float(figure) for figure in figures]
    return to_host(xp.stack(figures)).tolist()


def is_finite(values: Any, mask: Any = None) -> bool:
    """Whether all of them are, at the real steps of the mask."""
    if not hasattr(values, "dtype") or values.dtype.kind not in "fc":
        return True
    if mask is not None and values.ndim == 3 and values.shape[:2] == mask.shape:
        values = values[mask.array if isinstance(values, np.ndarray) else to_device(mask.array)]
    return bool(np.isfinite(to_host(values)).all())


def where_it_begins(body: Any, x: Any) -> str | None:
    """What, on the way forward through the model `body`, is the first that is not finite; None if
    all is. Steps that a mask hides do not count."""
    source = getattr(x, "source", x)  # a Seq2Seq takes Pairs
    for place, (layer, y, mask) in enumerate(body.outputs(x)):
        if place == 0 and not is_finite(source, mask):
            return "in the input x"
        if not is_finite(y, mask):
            broken = [key for key, weight in layer.params.items() if not is_finite(weight)]
            part = f"weights {', '.join(broken)}" if broken else "output"
            return f"in the {part} of layer {layer.name!r}"
    return None


def explain_loss(body: Any, x: Any, loss: float, when: str, training: bool = True) -> str:
    begins = where_it_begins(body, x)
    advice = f" {ADVICE}" if training and begins is not None and "layer" in begins else ""
    begins = begins or "in the loss itself (a label or a sample weight may not be finite)"
    return f"the loss became {loss} at {when}; it begins {begins}.{advice}"


def explain_gradients(
    body: Any, x: Any, grads: Mapping[str, Any], when: str, clipped: bool = False
) -> str | None:
    """Where on the way back gradients cease to be finite, or to have a finite square. The latter is
    no harm where each number is clipped: then None."""
    numbers = {key: getattr(gradient, "rows", gradient) for key, gradient in grads.items()}
    broken = {key for key, gradient in numbers.items() if not is_finite(gradient)}
    became = "not finite"
    if not broken:
        if clipped:
            return None
        with np.errstate(over="ignore"):
            norms = {key: float(to_host(squared_norm(g))) for key, g in grads.items()}
        broken = {key for key, norm in norms.items() if not math.isfinite(norm)}
        became = "too large to be squared"
    begins = where_it_begins(body, x) or f"on the way back {_last_layer_of(body, broken)}"
    return (
        f"the gradient became {became} at {when}, though the loss is finite; it begins {begins}. "
        f"This step has changed no weights. {ADVICE}"
    )


def _last_layer_of(body: Any, broken: set[str]) -> str:
    """The layer that is last in the model, and so first on the way back, among whose weights are
    some of these."""
    for layer in reversed(body.layers):
        keys = [key for key in layer.params if f"{layer.name}_{key}" in broken]
        if keys:
            return f"in that of {', '.join(keys)} of layer {layer.name!r}"
    return f"in that of {', '.join(sorted(broken))}"


def check_outputs(body: Any, x: Any, y: np.ndarray, rows_before: int) -> None:
    """Raises NonFiniteError unless all outputs of a batch are finite; names the first row."""
    if np.isfinite(y).all():
        return
    row = int(np.argmin(np.isfinite(y).reshape(len(y), -1).all(axis=1)))
    values = y[row][~np.isfinite(y[row])]
    begins = where_it_begins(body, x) or "in what the layers make of it"
    raise NonFiniteError(
        f"predict: the output for row {rows_before + row} of x holds {values.flat[0]}; it begins "
        f"{begins}."
    )
