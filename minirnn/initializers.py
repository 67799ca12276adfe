"""How weights start. Values are drawn on the host, so that both backends start alike.

An initializer is called with a shape and gives a NumPy array. One made with an int seed gives the
same values at every call, as in Keras; without a seed it draws from `minirnn.backend.generator()`.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np

from minirnn.backend import floatx, generator
from minirnn.lookup import by_name


class Initializer:
    """Base of all initializers; one of one's own implements `draw`."""

    seed: int | None = None

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
        """An array of `shape` in `dtype` (default: `floatx()`)."""
        random = generator() if self.seed is None else np.random.default_rng(self.seed)
        return self.draw(tuple(shape), random).astype(dtype or floatx())

    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        raise NotImplementedError(f"{type(self).__name__} draws nothing")

    def split(self, children: int) -> list[Initializer]:
        """As many initializers as there are `children`, alike but with seeds of their own.

        Bidirectional uses this: two layers started from one seed would start equal.
        """
        twins = [type(self)(**self.get_config()) for _ in range(children)]
        if self.seed is not None:
            seeds = np.random.SeedSequence(self.seed).generate_state(children)
            for twin, seed in zip(twins, seeds, strict=True):
                twin.seed = int(seed)
        return twins

    def get_config(self) -> dict[str, Any]:
        names = inspect.signature(type(self).__init__).parameters
        return {name: getattr(self, name) for name in names if name != "self"}

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


class Zeros(Initializer):
    """All 0."""

    def __init__(self) -> None:
        pass

    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        return np.zeros(shape)


class Ones(Initializer):
    """All 1."""

    def __init__(self) -> None:
        pass

    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        return np.ones(shape)


class Constant(Initializer):
    """All one number, or a given array (pretrained vectors, say) of the very shape."""

    def __init__(self, value: Any = 0.0) -> None:
        self.value = value

    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        value = np.asarray(self.value)
        if value.ndim and value.shape != shape:
            raise ValueError(
                f"Constant: the weight has shape {shape}, the given array has {value.shape}"
            )
        return np.broadcast_to(value, shape)


class RandomUniform(Initializer):
    """Uniform in [minval, maxval)."""

    def __init__(
        self, minval: float = -0.05, maxval: float = 0.05, seed: int | None = None
    ) -> None:
        self.minval, self.maxval, self.seed = minval, maxval, seed

    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        return random.uniform(self.minval, self.maxval, shape)


class RandomNormal(Initializer):
    """Normal with this mean and standard deviation."""

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: int | None = None) -> None:
        self.mean, self.stddev, self.seed = mean, stddev, seed

    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        return random.normal(self.mean, self.stddev, shape)


class GlorotUniform(Initializer):
    """Uniform in ±sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010).

    The fans are those of the whole matrix, all gates together, as in Keras.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        limit = math.sqrt(6 / max(1, sum(fans(shape))))
        return random.uniform(-limit, limit, shape)


class HeUniform(Initializer):
    """Uniform in ±sqrt(6 / fan_in) (He et al., 2015), for relu."""

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        limit = math.sqrt(6 / max(1, fans(shape)[0]))
        return random.uniform(-limit, limit, shape)


class Orthogonal(Initializer):
    """A matrix with orthonormal rows (or columns, if it is tall), times `gain` (Saxe et al., 2014).

    Products with it neither grow nor shrink a vector, which is what a recurrence asks for. The
    matrix is made whole, all gates together, as in Keras: one gate's block is not orthogonal.
    """

    def __init__(self, gain: float = 1.0, seed: int | None = None) -> None:
        self.gain, self.seed = gain, seed

    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        if len(shape) < 2:
            raise ValueError(f"Orthogonal: expected a shape of two dimensions, received {shape}")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        normal = random.normal(size=(max(rows, columns), min(rows, columns)))
        q, r = np.linalg.qr(normal)
        q *= np.sign(np.diag(r))  # makes the draw uniform over all orthogonal matrices
        return self.gain * (q.T if rows < columns else q).reshape(shape)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out): how many numbers come into, and leave, a weight of this shape."""
    if len(shape) < 2:
        size = math.prod(shape)
        return size, size
    return math.prod(shape[:-1]), shape[-1]


NAMES = {
    "zeros": Zeros,
    "ones": Ones,
    "constant": Constant,
    "random_uniform": RandomUniform,
    "uniform": RandomUniform,
    "random_normal": RandomNormal,
    "normal": RandomNormal,
    "glorot_uniform": GlorotUniform,
    "he_uniform": HeUniform,
    "orthogonal": Orthogonal,
}


def get(identifier: Any) -> Initializer:
    """The initializer of this name with its defaults; an Initializer is itself.

    Raises:
        ValueError, TypeError: for anything else.
    """
    if isinstance(identifier, Initializer):
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, Initializer):
        return identifier()
    return by_name("initializer", identifier, NAMES)()
