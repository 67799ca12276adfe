"""How weights start. Values are drawn on the host, so that both backends start alike.

An initializer is called with a shape and gives a NumPy array. One made with an int seed gives the
same values at every call, as in Keras; without a seed it draws from `minirnn.backend.generator()`.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np

from minirnn import checks
from minirnn.backend import floatx, generator
from minirnn.checks import host_array, number
from minirnn.lookup import by_name

ROOM: ContextVar[int | None] = ContextVar("room", default=None)  # see `blank_weights`


class Initializer:
    """Base of all initializers; one of one's own implements `draw`."""

    seed: int | None = None

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
        """An array of `shape` in `dtype` (default: `floatx()`).

        Raises:
            MemoryError: if there is no room for it.
        """
        shape, dtype, room = tuple(shape), dtype or floatx(), ROOM.get()
        size = math.prod(shape)
        if room is not None:
            if size > room:
                raise ValueError(f"a weight of shape {shape} is larger than all that are stored")
            ROOM.set(room - size)
            return np.zeros(shape, dtype)
        random = generator() if self.seed is None else np.random.default_rng(self.seed)
        try:
            if size > MOST:
                raise MemoryError
            return self.draw(shape, random).astype(dtype)
        except MemoryError:
            raise MemoryError(
                f"there is no memory for a weight of shape {shape}: it needs {8 * size:.1e} bytes "
                "while it is made. Use fewer units or a smaller vocabulary."
            ) from None

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


MOST = np.iinfo(np.intp).max // 8  # numbers that can be counted


@contextlib.contextmanager
def blank_weights(room: int) -> Iterator[None]:
    """In here weights are not drawn: they are zeros, for stored ones to take their place.

    room: so many numbers are stored. Weights that would be more, all together, are refused with a
        ValueError before there is any memory for them.
    """
    token = ROOM.set(room)
    try:
        yield
    finally:
        ROOM.reset(token)


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
        array = host_array("value", value)
        if array.dtype.kind not in "iuf":
            raise TypeError(f"value: expected numbers, received {array.dtype} values")
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
        self.minval, self.maxval = number("minval", minval), number("maxval", maxval)
        if not 0 <= self.maxval - self.minval <= checks.LARGEST:
            raise ValueError(f"maxval: expected no less than minval {minval}, received {maxval}")
        self.seed = checks.seed("seed", seed)

    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        return random.uniform(self.minval, self.maxval, shape)


class RandomNormal(Initializer):
    """Normal with this mean and standard deviation."""

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: int | None = None) -> None:
        self.mean = number("mean", mean)
        stddev = number("stddev", stddev, "a finite number from 0 up", lambda s: s >= 0)
        self.stddev = abs(stddev)  # -0.0 is none for NumPy
        self.seed = checks.seed("seed", seed)

    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        return random.normal(self.mean, self.stddev, shape)


class GlorotUniform(Initializer):
    """Uniform in ±sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010).

    The fans are those of the whole matrix, all gates together, as in Keras.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = checks.seed("seed", seed)

    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        limit = math.sqrt(6 / max(1, sum(fans(shape))))
        return random.uniform(-limit, limit, shape)


class HeUniform(Initializer):
    """Uniform in ±sqrt(6 / fan_in) (He et al., 2015), for relu."""

    def __init__(self, seed: int | None = None) -> None:
        self.seed = checks.seed("seed", seed)

    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        limit = math.sqrt(6 / max(1, fans(shape)[0]))
        return random.uniform(-limit, limit, shape)


class Orthogonal(Initializer):
    """A matrix with orthonormal rows (or columns, if it is tall), times `gain` (Saxe et al., 2014).

    Products with it neither grow nor shrink a vector, which is what a recurrence asks for. The
    matrix is made whole, all gates together, as in Keras: one gate's block is not orthogonal.
    """

    def __init__(self, gain: float = 1.0, seed: int | None = None) -> None:
        self.gain, self.seed = number("gain", gain), checks.seed("seed", seed)

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
