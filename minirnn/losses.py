"""Losses: how far a batch of predictions is from the truth, and the gradient of that.

>>> import numpy as np
>>> loss = SparseCategoricalCrossentropy()
>>> round(loss(np.array([1, 0]), np.array([[0.1, 0.9], [0.5, 0.5]])), 4)
0.3993

Each loss is two methods, one under the other: `elementwise`, the loss of each element, and
`gradient`, which undoes it. An element is a row of the batch, or one step of a row if there are
predictions for each step. Everything else is common to all losses:

    value = sum over elements of sample_weight * loss / number of elements

Masked steps are no elements: they are taken out before the loss sees them, so that nothing that
stands there, NaN included, shows in the value or in the gradient.

Letters: N elements, C classes or outputs.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from minirnn.backend import Array, to_device, xp
from minirnn.checks import all_within, flag, host_array, number, numbers
from minirnn.lookup import by_name
from minirnn.packing import Mask

EPSILON = 1e-7  # given probabilities are clipped to [EPSILON, 1 - EPSILON]


class Loss:
    """Base of all losses. One of your own implements `elementwise` and `gradient`.

    Constructor arguments are kept as attributes of the same names; `get_config` relies on that.

    Attributes:
        name: the name by which `get` finds it.
        from_logits: whether predictions come before their softmax or sigmoid.
        activation: the activation that `from_logits=True` takes the place of; None if there is
            none.
        sparse: whether y_true holds class numbers; otherwise it has y_pred's shape.
    """

    name = "loss"
    activation: str | None = None
    sparse = False
    from_logits = False

    def elementwise(self, y_true: np.ndarray, y_pred: Array) -> tuple[Array, Any]:
        """`(losses, cache)`: the loss of each element, `(N,)`, from y_pred `(N, C)`."""
        raise NotImplementedError(f"{type(self).__name__} has no formula")

    def gradient(self, cache: Any) -> Array:
        """`(N, C)`: the gradient of each element's loss at its own row of y_pred; a new array."""
        raise NotImplementedError(f"{type(self).__name__} has no gradient")

    def forward(
        self,
        y_true: Any,
        y_pred: Array,
        sample_weight: Any = None,
        mask: Mask | np.ndarray | None = None,
    ) -> tuple[Array, Array]:
        """`(value, dy)`: the mean loss and its gradient at `y_pred`.

        Args:
            y_true: on the host; class numbers `(batch,)`, `(batch, 1)` or `(batch, time)`, or
                targets of y_pred's shape, whichever the loss takes.
            y_pred: `(batch, C)` or `(batch, time, C)`.
            sample_weight: `(batch,)` or `(batch, time)`. As in Keras, the weighted sum is divided
                by the number of elements and not by the sum of the weights.
            mask: booleans `(batch, time)`, True = a real step.

        Returns:
            value: 0-d, y_pred's dtype. 0 if no step is real.
            dy: y_pred's shape and dtype, C-order; 0 at masked steps.

        Raises:
            ValueError: for shapes that do not fit, labels outside the classes, an empty batch.
        """
        batch = Elements(y_true, y_pred, self.sparse, sample_weight, mask)
        losses, cache = self.elementwise(batch.y_true, batch.y_pred)
        dy = self.gradient(cache)
        count = max(len(batch.y_pred), 1)
        if batch.weights is None:
            dy *= 1 / count
            return losses.sum() / count, batch.spread(dy)
        weights = to_device(batch.weights / count, dtype=losses.real.dtype)
        dy *= weights[:, None]
        return (losses * weights).sum(), batch.spread(dy)

    def __call__(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None, mask: Any = None
    ) -> float:
        """The mean loss alone; see `forward`."""
        batch = Elements(y_true, y_pred, self.sparse, sample_weight, mask)
        losses, _ = self.elementwise(batch.y_true, batch.y_pred)
        if batch.weights is not None:
            losses = losses * to_device(batch.weights, dtype=losses.dtype)
        return float(losses.sum()) / max(len(losses), 1)

    def on_logits(self) -> Loss:
        """The same loss for predictions that come before their activation.

        One formula for activation and loss together is exact where a probability rounds to 0.
        """
        if self.activation is None:
            raise ValueError(f"{self.name}: this loss belongs to no activation, so has no logits")
        twin = copy.copy(self)
        twin.from_logits = True
        return twin

    def get_config(self) -> dict[str, Any]:
        """The name and the constructor's arguments, fit for JSON."""
        arguments = inspect.signature(type(self)).parameters
        return {"name": self.name} | {key: getattr(self, key) for key in arguments}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Loss:
        """The loss that `get_config` described. `Loss.from_config` makes any of ours."""
        arguments = dict(config)
        name = arguments.pop("name", None)
        made = by_name("loss", name, LOSSES) if cls is Loss else cls
        return made(**arguments)

    def __repr__(self) -> str:
        config = self.get_config()
        del config["name"]
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in config.items())})"


# --- the losses -----------------------------------------------------------------------------------


class SparseCategoricalCrossentropy(Loss):
    """Minus the logarithm of the probability p given to the true class; labels are class numbers.

    from logits a:       -log(softmax(a)[label]) = log(sum(exp(a))) - a[label]
    from probabilities:  -log(clip(p / sum(p))[label])
    """

    name = "sparse_categorical_crossentropy"
    activation = "softmax"
    sparse = True

    def __init__(self, from_logits: bool = False) -> None:
        self.from_logits = flag("from_logits", from_logits)

    def elementwise(self, y_true: np.ndarray, y_pred: Array) -> tuple[Array, Any]:
        labels = to_device(y_true)
        rows = xp.arange(len(labels))
        if self.from_logits:
            shifted, exps, total = _exponentials(y_pred)
            losses = xp.log(total[:, 0]) - shifted[rows, labels]
            return losses, (rows, labels, exps, total)
        p, total = _normalised(y_pred)
        true = p[rows, labels]
        clipped = _clip(true)
        return -xp.log(clipped), (rows, labels, p, true, clipped, total)

    def gradient(self, cache: Any) -> Array:
        """`softmax(a) - onehot`; from probabilities through the clip and the division by the sum.

        At p's true class t: `d = -1 / p_t`, or 0 where the clip holds; then
        `dy_j = (d * [j = t] - d * p_t) / sum(p)`.
        """
        if self.from_logits:
            rows, labels, exps, total = cache
            exps /= total
            exps[rows, labels] -= 1
            return exps
        rows, labels, p, true, clipped, total = cache
        dtrue = -1 / clipped * _unclipped(true)
        dp = xp.empty_like(p)
        dp[...] = -(dtrue * true)[:, None]
        dp[rows, labels] += dtrue
        dp /= total
        return dp


class CategoricalCrossentropy(Loss):
    """Cross-entropy with target probabilities y, one-hot or soft, of y_pred's shape.

        from logits a:       sum(y) * log(sum(exp(a))) - sum(y * a)
        from probabilities:  -sum(y * log(clip(p / sum(p))))

    `label_smoothing` s replaces y by `(1 - s) * y + s / C` (Szegedy et al. 2016).
    """

    name = "categorical_crossentropy"
    activation = "softmax"

    def __init__(self, from_logits: bool = False, label_smoothing: float = 0.0) -> None:
        self.from_logits = flag("from_logits", from_logits)
        self.label_smoothing = number(
            "label_smoothing", label_smoothing, "a number from 0 to 1", lambda s: 0 <= s <= 1
        )

    def elementwise(self, y_true: np.ndarray, y_pred: Array) -> tuple[Array, Any]:
        y = to_device(y_true, dtype=y_pred.real.dtype)
        if self.label_smoothing:
            y = y * (1 - self.label_smoothing) + self.label_smoothing / y.shape[1]
        if self.from_logits:
            shifted, exps, total = _exponentials(y_pred)
            mass = y.sum(axis=1)
            taken = xp.where(y == 0, 0, shifted)  # a logit of -inf has no part in 0 * log(0)
            losses = mass * xp.log(total[:, 0]) - (y * taken).sum(axis=1)
            return losses, (y, mass[:, None], exps, total)
        p, total = _normalised(y_pred)
        clipped = _clip(p)
        return -(y * xp.log(clipped)).sum(axis=1), (y, p, clipped, total)

    def gradient(self, cache: Any) -> Array:
        """`softmax(a) * sum(y) - y`; from probabilities through the clip and the division.

        `d = -y / p`, or 0 where the clip holds; then `dy = (d - sum(d * p)) / sum(p)`.
        """
        if self.from_logits:
            y, mass, exps, total = cache
            exps *= mass / total
            exps -= y
            return exps
        y, p, clipped, total = cache
        dp = -y / clipped * _unclipped(p)
        return (dp - (dp * p).sum(axis=1, keepdims=True)) / total


class BinaryCrossentropy(Loss):
    """Cross-entropy of yes-or-no outputs with targets y in [0, 1]; the mean over the C outputs.

    from logits a:       max(a, 0) - a * y + log(1 + exp(-|a|))
    from probabilities:  -(y * log(p) + (1 - y) * log(1 - p)),  p clipped
    """

    name = "binary_crossentropy"
    activation = "sigmoid"

    def __init__(self, from_logits: bool = False) -> None:
        self.from_logits = flag("from_logits", from_logits)

    def elementwise(self, y_true: np.ndarray, y_pred: Array) -> tuple[Array, Any]:
        _check_within_0_and_1(y_true)
        y = to_device(y_true, dtype=y_pred.real.dtype)
        if self.from_logits:
            positive = y_pred.real > 0
            e = xp.exp(xp.where(positive, -y_pred, y_pred))  # exp(-|a|), also for complex steps
            wrong = positive - y  # 0 where an infinite logit is right
            losses = xp.where(wrong == 0, 0, y_pred) * wrong + xp.log1p(e)
            return losses.mean(axis=1), (y, positive, e)
        _check_probabilities(y_pred)
        p = _clip(y_pred)
        losses = -(y * xp.log(p) + (1 - y) * xp.log(1 - p))
        return losses.mean(axis=1), (y, p, _unclipped(y_pred))

    def gradient(self, cache: Any) -> Array:
        """`(sigmoid(a) - y) / C`; from probabilities `(p - y) / (p - p**2) / C`, 0 if clipped."""
        if self.from_logits:
            y, positive, e = cache
            sigmoid = xp.where(positive, xp.ones_like(e), e) / (1 + e)
            return (sigmoid - y) / y.shape[1]
        y, p, unclipped = cache
        return (p - y) / (p * (1 - p)) * unclipped / y.shape[1]


class MeanSquaredError(Loss):
    """`(y_pred - y_true)**2`, the mean over the C outputs."""

    name = "mean_squared_error"

    def elementwise(self, y_true: np.ndarray, y_pred: Array) -> tuple[Array, Any]:
        error = y_pred - to_device(y_true, dtype=y_pred.real.dtype)
        return (error * error).mean(axis=1), error

    def gradient(self, error: Array) -> Array:
        """`2 * (y_pred - y_true) / C`"""
        return error * (2 / error.shape[1])


class MeanAbsoluteError(Loss):
    """`|y_pred - y_true|`, the mean over the C outputs."""

    name = "mean_absolute_error"

    def elementwise(self, y_true: np.ndarray, y_pred: Array) -> tuple[Array, Any]:
        error = y_pred - to_device(y_true, dtype=y_pred.real.dtype)
        sign = xp.sign(error.real)
        return (error * sign).mean(axis=1), sign

    def gradient(self, sign: Array) -> Array:
        """`sign(y_pred - y_true) / C`"""
        return sign / sign.shape[1]


LOSSES: dict[str, type[Loss]] = {
    "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
    "categorical_crossentropy": CategoricalCrossentropy,
    "binary_crossentropy": BinaryCrossentropy,
    "mean_squared_error": MeanSquaredError,
    "mse": MeanSquaredError,
    "mean_absolute_error": MeanAbsoluteError,
    "mae": MeanAbsoluteError,
}


def get(identifier: str | Loss) -> Loss:
    """The loss itself, or a new one of this name with default settings.

    Raises:
        TypeError: for anything but a loss or a name.
        ValueError: for an unknown name.
    """
    return identifier if isinstance(identifier, Loss) else by_name("loss", identifier, LOSSES)()


# --- formulas that losses share -------------------------------------------------------------------
# Comparisons look at the real part only, so that a complex step (y_pred + ih) differentiates all.


def _exponentials(a: Array) -> tuple[Array, Array, Array]:
    """`a` shifted to a maximum of 0, its exponentials, and their sum `(N, 1)`."""
    shifted = a - a.real.max(axis=1, keepdims=True)
    exps = xp.exp(shifted)
    return shifted, exps, exps.sum(axis=1, keepdims=True)


def _normalised(p: Array) -> tuple[Array, Array]:
    """`p` divided by its sum over the classes, and that sum `(N, 1)`."""
    _check_probabilities(p)
    total = p.sum(axis=1, keepdims=True)
    total += total == 0  # a row of zeros stays one
    return p / total, total


def _check_probabilities(p: Array) -> None:
    outside = (p.real < 0) | (p.real > 1.001)  # a sum may round to a little over 1
    if bool(outside.any()):
        raise ValueError(
            f"y_pred: expected probabilities from 0 to 1, received {p.real[outside][0].item():.4g}."
            " Give the last layer its softmax or sigmoid, or the loss from_logits=True."
        )


def _clip(p: Array) -> Array:
    if p.dtype.kind != "c":
        return xp.clip(p, EPSILON, 1 - EPSILON)
    return xp.where(_unclipped(p), p, xp.clip(p.real, EPSILON, 1 - EPSILON))


def _unclipped(p: Array) -> Array:
    return (p.real >= EPSILON) & (p.real <= 1 - EPSILON)


# --- a batch as a list of elements ----------------------------------------------------------------


class Elements:
    """A batch with its time axis flattened and its masked steps taken out, all checked.

    Attributes:
        y_true: `(N,)` class numbers if `sparse`, else `(N, C)`; on the host.
        y_pred: `(N, C)`.
        weights: `(N,)` on the host, or None.
    """

    def __init__(
        self,
        y_true: Any,
        y_pred: Array,
        sparse: bool,
        sample_weight: Any = None,
        mask: Mask | np.ndarray | None = None,
    ) -> None:
        y_pred = numbers("y_pred", y_pred)
        self.shape = y_pred.shape
        *elements, C = self.shape
        if len(elements) not in (1, 2):
            raise ValueError(
                "y_pred: expected shape (batch, outputs) or (batch, time, outputs), "
                f"received {self.shape}"
            )
        if y_pred.size == 0:
            raise ValueError(f"y_pred: the batch is empty, its shape is {self.shape}")
        shape = tuple(elements)
        y_true = _fitting(host_array("y_true", y_true), shape, C, sparse)
        weights = None if sample_weight is None else _fitting_weights(sample_weight, shape)

        mask = Mask.of(mask)
        self.kept = _kept(mask, shape)  # flat numbers of the real steps, or None for all
        self.real = None if self.kept is None else mask.real  # the same on the device
        self.y_pred = y_pred.reshape(-1, C)
        self.y_true = y_true
        self.weights = weights
        if self.kept is not None:
            self.y_pred = self.y_pred[self.real]
            self.y_true = y_true[self.kept]
            self.weights = None if weights is None else weights[self.kept]
        if sparse:
            self.y_true = self.checked_labels(self.y_true, C)

    def checked_labels(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """The labels as integers, if all of them are classes."""
        if labels.dtype.kind not in "iu":
            bad = labels != np.floor(labels) if labels.dtype.kind == "f" else None
            if labels.dtype.kind == "b" or (bad is not None and not bad.any()):
                labels = labels.astype(np.int64)
            elif bad is None:
                raise ValueError(f"y_true: expected class numbers, received {labels.dtype}")
            else:
                self.refuse_label(labels, bad, "a whole number")
        if not all_within(labels, classes):
            bad = (labels < 0) | (labels >= classes)
            expected = f"one of the {classes} classes, 0 to {classes - 1}"
            self.refuse_label(labels, bad, expected)
        return labels

    def refuse_label(self, labels: np.ndarray, bad: np.ndarray, expected: str) -> None:
        first = int(np.flatnonzero(bad)[0])
        flat = first if self.kept is None else int(self.kept[first])
        place = f"row {flat}"
        if len(self.shape) == 3:
            place = "row {}, step {}".format(*divmod(flat, self.shape[1]))
        raise ValueError(
            f"y_true: expected each label to be {expected}; received {labels[first].item()!r} "
            f"in {place}"
        )

    def spread(self, dy: Array) -> Array:
        """`(N, C)` back in the batch's own shape, 0 at masked steps."""
        if self.kept is None:
            return dy.reshape(self.shape)
        full = xp.zeros(self.shape, dtype=dy.dtype)
        full.reshape(-1, self.shape[-1])[self.real] = dy
        return full


def _fitting(y_true: np.ndarray, elements: tuple[int, ...], C: int, sparse: bool) -> np.ndarray:
    """y_true as `(elements,)` or `(elements, C)`, if its shape fits y_pred's."""
    if sparse:
        if y_true.shape in (elements, (*elements, 1)):
            return y_true.reshape(-1)
        expected, hint = elements, "for one-hot targets use categorical_crossentropy"
    else:
        if y_true.dtype.kind not in "biuf":
            such = f" such as {y_true.flat[0]!r}" if y_true.size else ""
            raise TypeError(f"y_true: expected numbers, received {y_true.dtype} values{such}")
        if y_true.shape == (*elements, C) or (C == 1 and y_true.shape == elements):
            return y_true.reshape(-1, C)
        expected, hint = (*elements, C), "for class numbers use sparse_categorical_crossentropy"
    message = f"y_true: expected shape {expected} for y_pred of shape {(*elements, C)}, received "
    other_kind = C > 1 and (y_true.ndim > len(elements)) == sparse
    raise ValueError(f"{message}{y_true.shape}" + (f"; {hint}" if other_kind else ""))


def _fitting_weights(sample_weight: Any, elements: tuple[int, ...]) -> np.ndarray:
    weights = host_array("sample_weight", sample_weight)
    if weights.dtype.kind not in "biuf":
        raise TypeError(f"sample_weight: expected numbers, received {weights.dtype} values")
    if weights.shape == elements:
        return weights.reshape(-1)
    if weights.shape in (elements[:1], (elements[0], 1)):
        steps = elements[1] if len(elements) == 2 else 1
        return np.repeat(weights.reshape(-1), steps)
    either = f" or {elements}" if len(elements) == 2 else ""
    raise ValueError(
        f"sample_weight: expected shape {elements[:1]}{either}, received {weights.shape}"
    )


def _kept(mask: Mask | None, elements: tuple[int, ...]) -> np.ndarray | None:
    if mask is None:
        return None
    if mask.shape != elements:
        raise ValueError(
            f"mask: expected shape {elements}, one for each prediction, received {mask.shape}"
        )
    return None if mask.array.all() else np.flatnonzero(mask.array)


def _check_within_0_and_1(y_true: np.ndarray) -> None:
    outside = ~((y_true >= 0) & (y_true <= 1))
    if outside.any():
        raise ValueError(
            f"y_true: expected targets from 0 to 1, received {y_true[outside][0].item()!r}"
        )
