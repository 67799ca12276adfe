"""What a gradient check found, as rows, as text, and as an error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

ENTRIES = 3  # how many of the worst entries of a block an error shows


class GradientError(ValueError):
    """A gradient is wrong; the message holds all that is needed to see it again."""


class Entry(NamedTuple):
    """One element of a block: where it stands in the whole tensor, and both gradients."""

    index: tuple[int, ...]
    analytic: float
    numeric: float


@dataclass(frozen=True)
class GradientRow:
    """One block: a tensor, or one gate's columns of it.

    Attributes:
        tensor: `x`, `initial h`, or the name of a weight.
        gate: the gate, or "" for a tensor that has none.
        shape: of the block.
        error: max|a - n| / max(max|a|, max|n|, floor), a analytic and n numeric.
        tolerance: the largest error that passes.
        method: "complex" or "central".
        entries: the worst elements, worst first; empty if there is nothing to compare.
        problem: what is wrong, if the gradients cannot even be compared.
    """

    tensor: str
    gate: str
    shape: tuple[int, ...]
    error: float
    tolerance: float
    method: str
    entries: tuple[Entry, ...] = ()
    problem: str = ""

    @property
    def passed(self) -> bool:
        return not self.problem and self.error <= self.tolerance

    @property
    def name(self) -> str:
        return f"{self.tensor}[{self.gate}]" if self.gate else self.tensor

    @property
    def index(self) -> tuple[int, ...] | None:
        """Where in the tensor the gradients differ most."""
        return self.entries[0].index if self.entries else None

    @property
    def analytic(self) -> float:
        return self.entries[0].analytic if self.entries else float("nan")

    @property
    def numeric(self) -> float:
        return self.entries[0].numeric if self.entries else float("nan")


@dataclass(frozen=True)
class GradientReport:
    """The result of `gradcheck`: print it, or call `raise_on_failure()` in a test.

    Attributes:
        title: what was checked, as the call that makes it.
        setup: how: sizes, mask, seed.
        rows: one a block.
        guesses: what may be the cause of the blocks that fail, likeliest first.
    """

    title: str
    setup: tuple[str, ...]
    rows: tuple[GradientRow, ...]
    guesses: tuple[str, ...] = field(default=())

    @property
    def passed(self) -> bool:
        return all(row.passed for row in self.rows)

    @property
    def failures(self) -> tuple[GradientRow, ...]:
        return tuple(row for row in self.rows if not row.passed)

    @property
    def worst(self) -> GradientRow:
        """The row that is nearest to failing, or has failed worst."""
        return max(self.rows, key=lambda row: (bool(row.problem), row.error / row.tolerance))

    def raise_on_failure(self) -> GradientReport:
        """The report itself.

        Raises:
            GradientError: if a block fails.
        """
        if self.passed:
            return self
        lines = [str(self), "", "worst entries of each block that fails:"]
        for row in self.failures:
            for entry in row.entries:
                lines.append(
                    f"  {row.tensor}{list(entry.index)}: "
                    f"analytic {entry.analytic:.12g}, numeric {entry.numeric:.12g}"
                )
        raise GradientError("\n".join(lines))

    def summary(self) -> str:
        """One line: what was checked, and the worst block."""
        worst = self.worst
        return (
            f"{'ok  ' if self.passed else 'FAIL'} {self.title}: {len(self.rows)} blocks, "
            f"worst {worst.error:.1e} in {worst.name} ({worst.method})"
        )

    def __str__(self) -> str:
        head = ("tensor", "gate", "shape", "method", "error", "at", "analytic", "numeric", "")
        table = [head] + [_cells(row) for row in self.rows]
        widths = [max(len(line[k]) for line in table) for k in range(len(head))]
        failed = len(self.failures)
        lines = [self.title, *(f"  {line}" for line in self.setup), ""]
        for line in table:
            lines.append("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())
        lines += ["", f"{failed} of {len(self.rows)} blocks FAIL" if failed else "all blocks pass"]
        lines += [f"guess: {guess}" for guess in self.guesses]
        return "\n".join(lines)


def _cells(row: GradientRow) -> tuple[str, ...]:
    verdict = "ok" if row.passed else f"FAIL {row.problem}".strip()
    at = str(row.index) if row.entries else "-"
    shown = [f"{row.analytic:.6g}", f"{row.numeric:.6g}"] if row.entries else ["-", "-"]
    error = "-" if row.problem and not row.entries else f"{row.error:.1e}"
    return (row.tensor, row.gate, str(row.shape), row.method, error, at, *shown, verdict)
