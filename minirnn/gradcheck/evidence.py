"""All that a check has computed, block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from minirnn.gradcheck.numeric import relative_error
from minirnn.gradcheck.subject import Subject


class Block(NamedTuple):
    """A tensor, or the columns of it that belong to one gate."""

    tensor: str
    gate: str
    start: int
    stop: int

    @property
    def columns(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def name(self) -> str:
        return f"{self.tensor}[{self.gate}]" if self.gate else self.tensor


@dataclass
class Evidence:
    """Everything that a check has computed.

    subject: in float64; dual: the same in complex128, or None if that cannot run.
    methods, limits, chosen: for each tensor, how it was differentiated, its tolerance, and the
        flat numbers of the elements compared.
    upstream: the gradient of all outputs in one vector.
    """

    subject: Subject
    dual: Subject | None
    methods: dict[str, str]
    upstream: np.ndarray
    analytic: dict[str, np.ndarray | None]
    numeric: dict[str, np.ndarray]
    chosen: dict[str, np.ndarray]
    floor: float
    limits: dict[str, float]

    def blocks(self, name: str) -> list[Block]:
        shape, gates = self.subject.tensors[name].shape, self.subject.gates.get(name, ())
        width = shape[-1] if shape else 0
        if len(gates) < 2 or width % len(gates):
            return [Block(name, "", 0, width)]
        size = width // len(gates)
        return [Block(name, g, k * size, (k + 1) * size) for k, g in enumerate(gates)]

    def analytic_of(self, block: Block) -> np.ndarray:
        return part(self.analytic[block.tensor], block)

    def numeric_of(self, block: Block) -> np.ndarray:
        return part(self.numeric[block.tensor], block)

    def known_of(self, block: Block) -> np.ndarray:
        shape = self.subject.tensors[block.tensor].shape
        return part(positions(self.chosen[block.tensor], shape), block)

    def fits(self, block: Block, first: np.ndarray, second: np.ndarray) -> bool:
        """Whether two gradients for this block are the same, where the second is not NaN."""
        known = self.known_of(block) & ~np.isnan(second)
        floor = max(self.floor, np.abs(first).max(initial=0))
        return relative_error(first, second, floor, known) <= self.limits[block.tensor]

    def telling(self, block: Block, count: int) -> np.ndarray:
        """Flat numbers, in the whole tensor, of elements that tell one hypothesis from another.

        At first those where the gradients differ most, then, equally many, others.
        """
        shape = self.subject.tensors[block.tensor].shape
        difference = np.full(shape, -1.0)
        known, a, n = self.known_of(block), self.analytic_of(block), self.numeric_of(block)
        part(difference, block)[...] = np.where(known, np.abs(a - n), -1)
        order = np.argsort(-difference, axis=None, kind="stable")[: int(known.sum())]
        others = np.random.default_rng(0).permutation(order[count:])
        return np.concatenate([order[:count], others[: count if count > 1 else 0]])


def part(array: np.ndarray, block: Block) -> np.ndarray:
    return array[..., block.columns] if array.ndim else array


def positions(elements: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Booleans of this shape, True at these flat numbers."""
    mask = np.zeros(shape, dtype=bool)
    mask.reshape(-1)[elements] = True
    return mask
