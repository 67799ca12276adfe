"""Learning rates that change with the step: `SGD(learning_rate=CosineDecay(0.1, 1000))`.

A schedule is a function from the number of steps done so far (0 before the first) to the learning
rate of the next one. Names and arguments are those of `keras.optimizers.schedules`.
"""

from __future__ import annotations

import bisect
import inspect
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minirnn.checks import flag, host_array, number
from minirnn.lookup import by_name


class LearningRateSchedule:
    """Base of all schedules. One of your own implements `__call__(step) -> float`.

    Constructor arguments are kept as attributes of the same names; `get_config` relies on that.
    """

    def __call__(self, step: int) -> float:
        raise NotImplementedError(f"{type(self).__name__} must implement __call__(step)")

    def get_config(self) -> dict[str, Any]:
        """The class's name and the constructor's arguments, fit for JSON."""
        arguments = inspect.signature(type(self)).parameters
        return {"name": type(self).__name__} | {key: getattr(self, key) for key in arguments}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LearningRateSchedule:
        """The schedule that `get_config` described.

        Raises:
            ValueError: for a name that is not a schedule's.
        """
        arguments = dict(config)
        name = arguments.pop("name", cls.__name__)
        made = by_name("schedule", name, SCHEDULES) if cls is LearningRateSchedule else cls
        return made(**arguments)

    def __repr__(self) -> str:
        config = self.get_config()
        name = config.pop("name")
        return f"{name}({', '.join(f'{key}={value!r}' for key, value in config.items())})"


def _positive_steps(decay_steps: float) -> float:
    return float(number("decay_steps", decay_steps, "a number above 0", lambda steps: steps > 0))


def _rate(name: str, value: float) -> float:
    return number(name, value, "a finite number not below 0", lambda rate: rate >= 0)


class ExponentialDecay(LearningRateSchedule):
    """`initial_learning_rate * decay_rate ** (step / decay_steps)`.

    With `staircase` the exponent is rounded down, so that the rate falls in steps.

    >>> schedule = ExponentialDecay(0.5, decay_steps=10, decay_rate=0.5)
    >>> schedule(0), schedule(10), schedule(20)
    (0.5, 0.25, 0.125)
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        decay_rate: float,
        staircase: bool = False,
    ) -> None:
        self.initial_learning_rate = _rate("initial_learning_rate", initial_learning_rate)
        self.decay_steps = _positive_steps(decay_steps)
        self.decay_rate = _rate("decay_rate", decay_rate)
        self.staircase = flag("staircase", staircase)

    def __call__(self, step: int) -> float:
        exponent = step / self.decay_steps
        if self.staircase:
            exponent = exponent // 1
        try:
            return self.initial_learning_rate * self.decay_rate**exponent
        except OverflowError:
            return math.inf


class InverseTimeDecay(LearningRateSchedule):
    """`initial_learning_rate / (1 + decay_rate * step / decay_steps)`.

    With `staircase` the quotient `step / decay_steps` is rounded down.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        decay_rate: float,
        staircase: bool = False,
    ) -> None:
        self.initial_learning_rate = _rate("initial_learning_rate", initial_learning_rate)
        self.decay_steps = _positive_steps(decay_steps)
        self.decay_rate = _rate("decay_rate", decay_rate)
        self.staircase = flag("staircase", staircase)

    def __call__(self, step: int) -> float:
        quotient = step / self.decay_steps
        if self.staircase:
            quotient = quotient // 1
        return self.initial_learning_rate / (1 + self.decay_rate * quotient)


class PiecewiseConstantDecay(LearningRateSchedule):
    """`values[0]` up to and with step `boundaries[0]`, then `values[1]`, and so on.

    >>> schedule = PiecewiseConstantDecay([100, 200], [1.0, 0.5, 0.1])
    >>> schedule(100), schedule(101), schedule(201)
    (1.0, 0.5, 0.1)
    """

    def __init__(self, boundaries: Sequence[float], values: Sequence[float]) -> None:
        for name, listed in (("boundaries", boundaries), ("values", values)):
            array = host_array(name, listed)
            finite = array.dtype.kind in "iuf" and array.ndim == 1 and np.isfinite(array).all()
            if not finite and array.shape != (0,):
                raise TypeError(f"{name}: expected a list of finite numbers, received {listed!r}")
        if len(values) != len(boundaries) + 1:
            raise ValueError(
                "values: expected one more than there are boundaries, "
                f"received {len(values)} values and {len(boundaries)} boundaries"
            )
        if list(boundaries) != sorted(boundaries):
            raise ValueError(f"boundaries: expected rising steps, received {list(boundaries)}")
        self.boundaries = [number("boundaries", boundary) for boundary in boundaries]
        self.values = [_rate("values", value) for value in values]

    def __call__(self, step: int) -> float:
        return self.values[bisect.bisect_left(self.boundaries, step)]


class CosineDecay(LearningRateSchedule):
    """Half a cosine from `initial_learning_rate` down to `alpha` times that, after `decay_steps`.

        rate = start * ((1 - alpha) * (1 + cos(pi * step / decay_steps)) / 2 + alpha)

    With `warmup_target` the rate first rises evenly from `initial_learning_rate` to that target in
    `warmup_steps` steps, and the cosine starts there. (Loshchilov and Hutter 2016, SGDR.)
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        alpha: float = 0.0,
        warmup_target: float | None = None,
        warmup_steps: int = 0,
    ) -> None:
        self.initial_learning_rate = _rate("initial_learning_rate", initial_learning_rate)
        self.decay_steps = _positive_steps(decay_steps)
        self.alpha = _rate("alpha", alpha)
        if warmup_target is not None:
            warmup_target = _rate("warmup_target", warmup_target)
        self.warmup_target = warmup_target
        self.warmup_steps = _rate("warmup_steps", warmup_steps)

    def __call__(self, step: int) -> float:
        start = self.initial_learning_rate
        if self.warmup_target is not None:
            if step < self.warmup_steps:
                rise = self.warmup_target - start
                return start + rise * step / self.warmup_steps
            start = self.warmup_target
            step = step - self.warmup_steps
        done = min(step / self.decay_steps, 1.0)
        cosine = (1 + math.cos(math.pi * done)) / 2
        return start * ((1 - self.alpha) * cosine + self.alpha)


SCHEDULES: dict[str, type[LearningRateSchedule]] = {
    schedule.__name__: schedule
    for schedule in (ExponentialDecay, InverseTimeDecay, PiecewiseConstantDecay, CosineDecay)
}
