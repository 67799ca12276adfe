"""Lines of a stream, a batch at a time: in bounded memory, and none later than it needs to be.

A batch is what is there when it is asked for: many lines of a file, or the one that somebody has
just typed. So that a batch is not cut short by a producer that only takes a breath, a few more
milliseconds are waited for what may come next.
"""

from __future__ import annotations

import codecs
import select
from collections.abc import Iterable, Iterator
from typing import BinaryIO

LONGEST = 2**18  # bytes of a line; also characters of a batch, each text as long as its longest
BATCH = 64  # texts
CHUNK = 2**16  # bytes read at a time; no more than LONGEST
BREATH = 0.02  # seconds


class LineError(ValueError):
    """A line that cannot be read as a text; the message says which one, and why."""


def batches_of_lines(file: BinaryIO) -> Iterator[list[str]]:
    """The lines of standard input, without their ends (LF, CR LF), in order; an empty one counts.

    Raises:
        LineError: for a line that is too long or is not UTF-8, after all lines before it.
    """
    waiting: list[str] = []
    for lines, error in arrivals(file):
        waiting += lines
        kept_back = len(waiting) % BATCH if error is None and more_comes(file) else 0
        ready = waiting[: len(waiting) - kept_back]
        waiting = waiting[len(ready) :]
        yield from batches_of(ready)
        if error is not None:
            raise error
    yield from batches_of(waiting)


def batches_of(texts: Iterable[str]) -> Iterator[list[str]]:
    """These texts in batches that do not take too much memory."""
    batch: list[str] = []
    longest = 0
    for text in texts:
        longest = max(longest, len(text))
        if batch and (len(batch) == BATCH or (len(batch) + 1) * longest > LONGEST):
            yield batch
            batch, longest = [], len(text)
        batch.append(text)
    if batch:
        yield batch


def arrivals(file: BinaryIO) -> Iterator[tuple[list[str], LineError | None]]:
    """The lines that come with each read, and what is wrong with the one after them."""
    begun: list[bytes] = []  # a line whose end has not come yet
    size = number = 0
    ended = False
    while not ended:
        chunk = file.read1(CHUNK)  # type: ignore[attr-defined]
        ended = not chunk
        head, newline, tail = chunk.rpartition(b"\n")
        more_of_it = head.split(b"\n", 1)[0] if newline else tail
        if size + len(more_of_it) > LONGEST:
            yield (
                [],
                LineError(
                    f"standard input, line {number + 1}: it is longer than {LONGEST:,} bytes, "
                    "the most that a line may have. Cut it, or spread it over several lines."
                ),
            )
            return
        if newline or (ended and size):
            block = b"".join([*begun, head])
            if number == 0:
                block = block.removeprefix(codecs.BOM_UTF8)
            lines, error = decoded(block, number)
            yield lines, error
            number += len(lines)
            begun, size = [], 0
        if tail:
            begun.append(tail)
            size += len(tail)


def decoded(block: bytes, number: int) -> tuple[list[str], LineError | None]:
    """The lines of a block up to the first that is not UTF-8; `number` lines went before it."""
    error = None
    try:
        text = block.decode()
    except UnicodeDecodeError as problem:
        good = block[: problem.start].rpartition(b"\n")
        number += good[0].count(b"\n") + len(good[1])
        error = LineError(
            f"standard input, line {number + 1}: the byte 0x{block[problem.start]:02x} is not UTF-8"
        )
        if not good[1]:
            return [], error
        text = good[0].decode()
    return [line.rstrip("\r") for line in text.split("\n")], error


def more_comes(file: BinaryIO) -> bool:
    """Whether there is more to read within a breath, the end included."""
    try:
        return bool(select.select([file], [], [], BREATH)[0])
    except (OSError, ValueError):  # nothing that the system knows how to wait for
        return False
