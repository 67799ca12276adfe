"""How far a pass over the data is: a bar on a terminal, a line in a file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any


class Progress:
    """A progress bar on a terminal, a line per epoch elsewhere, or nothing.

    A bar moves the cursor about, so it is for terminals and notebooks alone: files, pipes and
    terminals that cannot do that (TERM=dumb) get lines of plain text. However the pass ends, the
    cursor then stands at the beginning of a line.

    verbose: "auto" and 1: a bar if standard error is a terminal, else a line; 2: a line; 0: none.
    """

    def __init__(self, title: str, steps: int | None, verbose: str | int) -> None:
        if verbose not in ("auto", 0, 1, 2):
            raise ValueError(f"verbose: expected 'auto', 0, 1 or 2, received {verbose!r}")
        self.title, self.steps = title, steps
        self.wants_bar = verbose in ("auto", 1) and takes_bars(sys.stderr)
        self.line = verbose == 2 or (verbose in ("auto", 1) and not self.wants_bar)
        self.bar: Any = None
        self.begun = self.shown = time.perf_counter()

    def __enter__(self) -> Progress:
        if self.wants_bar:
            from tqdm import tqdm

            self.bar = tqdm(total=self.steps, desc=self.title, unit="batch", dynamic_ncols=True)
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is None:
            return
        try:
            self.bar.close()
        except BaseException:  # a second Ctrl-C: the line has an end all the same
            sys.stderr.write("\n")
            raise

    def advance(self, means: Any) -> None:
        """One more batch is done; `means.logs()` are the figures so far, if there are any."""
        if self.bar is None:
            return
        now = time.perf_counter()
        if means is not None and now - self.shown > 0.1:
            self.bar.set_postfix(figures(means.logs()), refresh=False)
            self.shown = now
        self.bar.update()

    def finish(self, logs: Mapping[str, float]) -> None:
        if self.bar is not None:
            self.bar.set_postfix(figures(logs))
        elif self.line:
            seconds = time.perf_counter() - self.begun
            shown = "  ".join(f"{name} {value}" for name, value in figures(logs).items())
            print(f"{self.title}: {seconds:.1f} s  {shown}", flush=True)


def takes_bars(stream: Any) -> bool:
    """Whether a bar can be drawn there: on a terminal, or in a notebook."""
    if type(stream).__module__.startswith("ipykernel"):
        return True
    try:
        return stream.isatty() and os.environ.get("TERM") != "dumb"
    except (AttributeError, ValueError):  # there is none, or it has been closed
        return False


def figures(logs: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.4f}" for name, value in logs.items()}
