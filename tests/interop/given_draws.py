"""Another library's random numbers in the place of ours, so that results can be compared."""

from __future__ import annotations

import numpy as np


class GivenDraws:
    """Stands in for a generator of random numbers, and gives those it was made with."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers

    def random(self, shape: tuple[int, ...]) -> np.ndarray:
        assert self.numbers.shape == shape
        return self.numbers

    def uniform(self, low: float, high: float, shape: tuple[int, ...]) -> np.ndarray:
        return low + (high - low) * self.random(shape)

    def normal(self, mean: float = 0, stddev: float = 1, size: tuple[int, ...] = ()) -> np.ndarray:
        return mean + stddev * self.random(size)
