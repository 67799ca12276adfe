"""Equations as lines of text, with the numbers in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minirnn.backend import to_host

SMALL = 3  # with more units or features than these, only results are shown, and only some of them

Strings = list[str]


class Page:
    """Collects lines such as `2      h_t = tanh(a) = tanh(0.25) = 0.24492`.

    A vector of several elements takes a line for each; a vector of many is one line of results.

    Args:
        in_full: whether there are few enough elements to show how each is computed.
        digits: significant ones of each number.
    """

    def __init__(self, in_full: bool, digits: int) -> None:
        self.in_full, self.digits = in_full, digits
        self.lines: Strings = []

    def __str__(self) -> str:
        return "\n".join(self.lines)

    # -- numbers, and how they are put together --

    def number(self, value: Any) -> str:
        return f"{float(value) + 0.0:.{self.digits}g}"  # + 0.0: never "-0"

    def factors(self, values: Any) -> Strings:
        """The numbers of a vector, to stand in a product or a sum: the negative in brackets.

        None where only results are shown.
        """
        if not self.in_full:
            return []
        numbers = map(self.number, to_host(values))
        return [f"({number})" if number.startswith("-") else number for number in numbers]

    def minus(self, a: Any, b: Any) -> Strings:
        """`(a - b)` for each element; a may be one number for all."""
        first = np.broadcast_to(to_host(a), np.shape(b))
        pairs = zip(self.factors(first), self.factors(b), strict=True)
        return [f"({x} - {y})" for x, y in pairs]

    def product(self, *vectors: Any) -> Strings:
        """`x·y` for each element, of vectors that are numbers or written already."""
        written = [v if isinstance(v, list) else self.factors(v) for v in vectors]
        return ["·".join(element) for element in zip(*written, strict=True)]

    def matrix_product(self, row: Any, matrix: Any) -> list[Strings]:
        """The terms of each element of `row @ matrix`: row (n,), matrix (n, m)."""
        pairs = zip(self.factors(row), to_host(matrix), strict=self.in_full)
        return [[f"{x}·{w}" for w in self.factors(weights)] for x, weights in pairs]

    def sum(self, *terms: Strings) -> Strings:
        return [" + ".join(element) for element in zip(*terms, strict=True)]

    def applied(self, function: str, *terms: Strings) -> Strings:
        """`function(x + y)` for each element."""
        return [f"{function}({unwrapped(a)})" for a in self.sum(*terms)]

    def vector(self, values: Any) -> str:
        """`[0.1, -0.2]`; of many numbers, the first three and the last."""
        most = 4 * SMALL if self.in_full else SMALL + 1  # up to four gates stand side by side
        return listed([self.number(v) for v in to_host(values)], most)

    # -- lines --

    def text(self, text: str) -> None:
        self.lines.append(text)

    def given(self, **vectors: Any) -> None:
        """What the step begins with."""
        shown = [f"{name} = {self.vector(values)}" for name, values in vectors.items()]
        self.equation("", "   ".join(shown))

    def equation(self, number: str, text: str) -> None:
        """number: which line of the cell's forward pass this is, or undoes."""
        self.lines.append(f"{number:<7}{text}")

    def line(
        self, number: str, name: str, formula: str, values: Any, how: Strings | None = None
    ) -> None:
        """values: (n,), the results. how: the expression of each, written out."""
        head = f"{name} = {formula}"
        if not self.in_full or (how is None and len(values) > 1):
            self.equation(number, f"{head} = {self.vector(values)}")
        elif len(values) == 1:
            steps = [] if how is None else how
            self.equation(number, " = ".join([head, *steps, self.number(values[0])]))
        else:
            self.equation(number, head)
            for j, (expression, value) in enumerate(zip(how or (), to_host(values), strict=True)):
                self.equation("", f"  [{j}]  {expression} = {self.number(value)}")

    def outer(
        self, number: str, name: str, formula: str, column: Any, right: str, value: Any
    ) -> None:
        """A matrix (n, m) that is a column (n,) times a row, which is named `right`."""
        rows = [self.vector(row) for row in to_host(value)]
        if not self.in_full:
            shape = " by ".join(map(str, np.shape(value)))
            self.equation(number, f"{name} = {formula}, {shape}: {listed(rows, most=1)}")
        else:
            self.equation(number, f"{name} = {formula}")
            for k, (x, row) in enumerate(zip(self.factors(column), rows, strict=True)):
                self.equation("", f"  [{k}]  {x}·{right} = {row}")


def listed(items: Sequence[str], most: int) -> str:
    if len(items) > most:
        items = [*items[: min(3, most)], "…", items[-1]]
    return f"[{', '.join(items)}]"


def unwrapped(number: str) -> str:
    """A lone number needs no brackets inside of others."""
    lone = number.startswith("(") and number.endswith(")") and number.count("(") == 1
    return number[1:-1] if lone else number
