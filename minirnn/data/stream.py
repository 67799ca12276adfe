"""Training data that does not fit into memory: rows stream from many files, shuffled in blocks.

    files, in a new order each epoch → a block of raw rows, some of each of several files
    → the block in a random order → batches → of each batch, the rows of this process are parsed

Every order is drawn from (seed, epoch, block). So the place in a stream is a few numbers, and to go
on from there, in another process too, costs reading one block.
"""

from __future__ import annotations

import copy
import csv
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from minirnn.backend import generator
from minirnn.checks import whole_number
from minirnn.data.rows import NewsDataError, WrongRow, news
from minirnn.data.shards import Files, find_shards

SHUFFLE_BUFFER = 100_000
SHARDS_AT_ONCE = 16  # files from which a block is gathered: some of them may hold one class alone
BLOCK = 10_000  # rows read at once where nothing is shuffled

Parse = Callable[[list[str]], tuple[Any, Any]]


def title_only(fields: Sequence[str]) -> tuple[str, int]:
    """The title alone, and the label, of a row of AG News."""
    label, title, _ = news(fields)
    return title, label


def title_and_description(fields: Sequence[str]) -> tuple[str, int]:
    """Title, a space and description, and the label, of a row of AG News."""
    label, title, description = news(fields)
    return f"{title} {description}", label


class Stream:
    """Batches of rows from files, of which only `shuffle_buffer` rows are in memory.

    `fit`, `evaluate` and `predict` take it like any data set. Each pass over it has another order;
    it gives `(texts, labels, None)`, a list of texts and an array of labels, for each batch.

    Args:
        files: a folder, a pattern such as `news/train-*.csv`, or a list of files: CSV files, or
            array_record files whose records are rows of CSV or were prepared by tfds.
        batch_size: rows in a batch.
        shuffle_buffer: rows that are put in a random order at a time, drawn from 16 files in turn.
            Small buffers do for files whose rows are mixed; where each file holds one class, it is
            the files that have to be many. None: rows as they stand in the files, in their order,
            which is what `evaluate` and `predict` want.
        seed: of all orders. None: drawn from `minirnn.backend.generator()`.
        parse: from the fields of a row, a list of strings, to a text and a label. For AG News:
            `title_and_description`, or `title_only`.

    Raises:
        NewsDataError: if there are no such files. Walking over it raises the same, with file and
            line, for a row that is wrong, and for a file that has changed.
    """

    def __init__(
        self,
        files: Files,
        batch_size: int = 32,
        shuffle_buffer: int | None = SHUFFLE_BUFFER,
        seed: int | None = None,
        parse: Parse = title_and_description,
    ) -> None:
        self.shards = find_shards(files)
        self.batch_size = whole_number("batch_size", batch_size)
        if shuffle_buffer is not None:
            shuffle_buffer = whole_number("shuffle_buffer", shuffle_buffer)
        self.shuffle_buffer = shuffle_buffer
        if seed is None:
            seed = int(generator().integers(2**53))  # as much as fits any reader of JSON
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ValueError(f"seed: expected a whole number from 0 up, received {seed!r}")
        self.seed = int(seed)
        if not callable(parse):
            raise TypeError(
                f"parse: expected a function of the fields of a row, received {parse!r}"
            )
        self.parse = parse
        self.rank, self.ranks = 0, 1
        self._next_epoch = 0

    def share(self, rank: int, ranks: int) -> Stream:
        """The stream of one of `ranks` processes, which has `batch_size` rows of each step.

        A step is a batch of `ranks * batch_size` rows, of which rank r gets those from n*r//ranks
        up to n*(r+1)//ranks; None where it gets none of the last, shorter one.
        """
        ranks = whole_number("ranks", ranks)
        if rank not in range(ranks):
            raise ValueError(f"rank: expected 0 to {ranks - 1}, received {rank!r}")
        part = copy.copy(self)
        part.rank, part.ranks = int(rank), ranks
        return part

    def walk(self, position: Mapping[str, Any] | None = None) -> Walk:
        """One pass: the next one, or the rest of that in which this `position` was.

        Raises:
            ValueError: if the position is none of such a stream, or its files have changed.
        """
        walk = Walk(self, self._next_epoch) if position is None else resumed(self, position)
        self._next_epoch = walk.blocks.epoch + 1
        return walk

    __iter__ = walk

    def __len__(self) -> int:
        """Batches in a pass, where the files tell how many rows they hold.

        Raises:
            TypeError: for CSV files, which do not.
        """
        if not all(hasattr(shard, "count") for shard in self.shards):
            raise TypeError("how many rows CSV files hold is not known before they are read")
        rows = sum(shard.count for shard in self.shards)
        return -(-rows // (self.batch_size * self.ranks))

    def described(self) -> dict[str, Any]:
        """What a training that goes on must find as it was; the seed comes from the position."""
        files = {
            f"file {number}": f"{shard.path.name}, {shard.size:,} bytes"
            for number, shard in enumerate(self.shards, 1)
        }
        return {"shuffle_buffer": self.shuffle_buffer, "files": len(files), **files}

    def __bool__(self) -> bool:
        return True  # not a question about its length

    def texts(self, rows: int | None = None) -> Iterator[list[str]]:
        """Batches of the texts of the first `rows` rows of the first pass; of all, if None.

        For `TextVectorization.adapt`, which keeps the counts of words, not the texts.
        """
        if rows is not None:
            rows = whole_number("rows", rows)
        for texts, _, _ in Walk(self.share(0, 1), epoch=0):
            yield texts[:rows]
            if rows is not None:
                rows -= len(texts)
                if rows <= 0:
                    return


class Walk:
    """One pass over a stream: an iterator of batches that can tell where it is."""

    def __init__(
        self, stream: Stream, epoch: int, begin: Mapping[str, Any] | None = None, skip: int = 0
    ) -> None:
        self.stream = stream
        self.blocks = Blocks(stream, epoch, **(begin or {}))
        self._rows: list[Any] = []  # raw, of which `_next` is the first that was not given yet
        self._next = 0
        # The blocks in which these rows begin: where they begin themselves, and their length.
        self._of_blocks: deque[tuple[dict[str, Any], int]] = deque()
        self._row = self._skip = skip  # of the first of these blocks, the row that comes next

    def __iter__(self) -> Walk:
        return self

    def __next__(self) -> tuple[Any, np.ndarray, None] | None:
        stream = self.stream
        size = stream.batch_size * stream.ranks
        if len(self._rows) - self._next < size:
            self._read(size)
        first, n = self._next, min(size, len(self._rows) - self._next)
        if n == 0:
            if self.blocks.block == 0:
                raise NewsDataError(f"{stream.shards[0].path.parent}: the files hold no row.")
            raise StopIteration
        own = [self._rows[i] for i in self._own(first, n)]
        batch = self._parsed(own) if own else None
        self._next += n
        self._row += n
        while len(self._of_blocks) > 1 and self._row >= self._of_blocks[0][1]:
            self._row -= self._of_blocks.popleft()[1]
        return batch

    def position(self) -> dict[str, Any]:
        """Where the next batch begins, for `Stream.walk`; fit for JSON."""
        begin = self._of_blocks[0][0] if self._of_blocks else self.blocks.position()
        return {
            "epoch": self.blocks.epoch,
            **begin,
            "row": self._row,
            "seed": self.stream.seed,
            "shuffle_buffer": self.stream.shuffle_buffer,
            "files": [[shard.path.name, shard.size] for shard in self.stream.shards],
        }

    def _read(self, size: int) -> None:
        """Read until there is a whole batch, or nothing more."""
        rows = self._rows[self._next :]
        self._rows, self._next = [], 0  # lets go of what was given before more is read
        while len(rows) < size:
            begin = self.blocks.position()
            block = self.blocks.read()
            if not block:
                break
            self._of_blocks.append((begin, len(block)))
            rows += block[self._skip :]
            self._skip = 0  # a position is never further on than its block
        self._rows = rows
        # Which rows are ours is known of whole batches, and of the last one when nothing follows.
        known = len(rows) // size * size or len(rows)
        own = [i for first in range(0, known, size) for i in self._own(first, min(size, known))]
        fetched = self.stream.shards[0].fetch([rows[i] for i in own])
        for i, row in zip(own, fetched, strict=True):
            rows[i] = row

    def _own(self, first: int, n: int) -> range:
        """Our rows of a batch of n rows that begins here."""
        rank, ranks = self.stream.rank, self.stream.ranks
        return range(first + n * rank // ranks, first + n * (rank + 1) // ranks)

    def _parsed(self, rows: list[Any]) -> tuple[list[Any], np.ndarray, None]:
        try:
            fields = self.stream.shards[0].parse(rows)
            texts, labels = zip(*map(self.stream.parse, fields), strict=True)
            return list(texts), as_labels(labels), None
        except Exception as error:
            raise self._explained(rows, error) from error

    def _explained(self, rows: list[Any], error: Exception) -> NewsDataError:
        """What is wrong with a batch: which row, where it stands, and how it should be."""
        place = "a batch of rows"
        for row in rows:
            if self._error_of(row) is not None:
                place, row = self._find(row)
                error = self._error_of(row) or error
                break
        if isinstance(error, WrongRow):
            return NewsDataError(f"{place}: {error}")
        if isinstance(error, UnicodeDecodeError):
            byte = error.object[error.start]
            return NewsDataError(
                f"{place}: in the row that begins here, the byte 0x{byte:02x} is not UTF-8. "
                "Expected text in UTF-8; save it again in that encoding."
            )
        if isinstance(error, csv.Error):
            return NewsDataError(
                f"{place}: the quotation marks of the row that begins here do not match "
                f'({error}). Expected a field with " in it to stand between quotation marks, and '
                'each " inside to be doubled.'
            )
        name = getattr(self.stream.parse, "__name__", "parse")
        return NewsDataError(
            f"{place}: {name} could not make a text and a label of this row "
            f"({type(error).__name__}: {error})."
        )

    def _error_of(self, row: Any) -> Exception | None:
        try:
            [fields] = self.stream.shards[0].parse([row])
            _, label = self.stream.parse(fields)
            as_labels([label])
        except Exception as error:
            return error
        return None

    def _find(self, row: Any) -> tuple[str, Any]:
        """The file and the line of a row that has been read but not given yet; and the row."""
        shards, order = self.stream.shards, self.blocks.order
        begin, rows = self._of_blocks[0][0], sum(length for _, length in self._of_blocks)
        begun_since = order[begin["begun"] : self.blocks.begun]
        for shard, position in [*begin["open"], *([shard, 0] for shard in begun_since)]:
            found = shards[shard].find(row, position, rows)
            if found is not None:
                return found
        return "a file that has changed meanwhile", row


class Blocks:
    """The raw rows of one pass, a block at a time: what is shuffled is each block by itself.

    Args:
        block, begun, open: where to begin, as `position()` told it: the number of the next block,
            how many files were begun, and of those not at their end, which, and where they stand.
    """

    def __init__(
        self,
        stream: Stream,
        epoch: int,
        block: int = 0,
        begun: int = 0,
        open: Sequence[Sequence[int]] = (),
    ) -> None:
        self.stream, self.epoch, self.block, self.begun = stream, epoch, block, begun
        self.shuffled = stream.shuffle_buffer is not None
        self.order = list(range(len(stream.shards)))
        if self.shuffled:
            self.order = self._generator(0).permutation(self.order).tolist()
        self._open = [(shard, stream.shards[shard].open(place)) for shard, place in open]

    def position(self) -> dict[str, Any]:
        """Where the next block begins."""
        places = [[shard, reader.position] for shard, reader in self._open]
        return {"block": self.block, "begun": self.begun, "open": places}

    def read(self) -> list[Any]:
        """The next block, in its order; no rows at the end."""
        size, at_once = BLOCK, 1
        if self.shuffled:
            size, at_once = self.stream.shuffle_buffer, SHARDS_AT_ONCE
        rows: list[Any] = []
        while len(rows) < size:
            while len(self._open) < at_once and self.begun < len(self.order):
                shard = self.order[self.begun]
                self._open.append((shard, self.stream.shards[shard].open(0)))
                self.begun += 1
            if not self._open:
                break
            share = -(-(size - len(rows)) // len(self._open))
            for each in tuple(self._open):
                wanted = min(share, size - len(rows))
                found = each[1].read(wanted)
                rows += found
                if len(found) < wanted:
                    self._open.remove(each)
        if rows:
            self.block += 1
        if self.shuffled:
            rows = [rows[i] for i in self._generator(self.block).permutation(len(rows)).tolist()]
        return rows

    def _generator(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self.stream.seed, self.epoch, number])


def as_labels(labels: Sequence[Any]) -> np.ndarray:
    """One number, or one row of numbers, a row."""
    array = np.asarray(labels)
    if array.dtype.kind not in "iufb":
        raise TypeError(f"expected a number for a label, received {labels[0]!r}")
    return array


def resumed(stream: Stream, position: Mapping[str, Any]) -> Walk:
    """The walk that goes on from a position."""

    def is_count(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0

    try:
        begin = {key: position[key] for key in ("block", "begun", "open")}
        numbers = [position[key] for key in ("epoch", "row", "seed", "block", "begun")]
        numbers += [number for shard, place in position["open"] for number in (shard, place)]
        files = [(name, size) for name, size in position["files"]]
        buffer = position["shuffle_buffer"]
        numbers += [] if buffer is None else [buffer]
    except (KeyError, TypeError, ValueError):
        files = None
    count = len(stream.shards)
    if files is None or not all(map(is_count, numbers)) or begin["begun"] > count:
        raise ValueError(f"position: expected what Walk.position() gave, received {position!r}")
    if buffer != stream.shuffle_buffer:
        raise ValueError(
            f"shuffle_buffer: the position was made with {buffer}, and this stream has "
            f"{stream.shuffle_buffer}. Rows come in another order then; expected the same."
        )
    if len(files) != count:
        raise NewsDataError(
            f"{stream.shards[0].path.parent}: expected the {len(files)} files that the position "
            f"was made with, found {count}."
        )
    for (name, size), shard in zip(files, stream.shards, strict=True):
        if name != shard.path.name:
            raise NewsDataError(f"{shard.path}: expected {name!r}, as when the position was made.")
        if size != shard.size:
            raise NewsDataError(
                f"{shard.path}: it had {size:,} bytes when the position was made, and now has "
                f"{shard.size:,}. Where the stream stood in it is lost; begin anew."
            )
    if any(shard >= count or place > stream.shards[shard].size for shard, place in begin["open"]):
        raise ValueError("position: it lies outside of the files. Expected an unchanged position")
    stream.seed = position["seed"]  # what is to come was drawn from it
    return Walk(stream, position["epoch"], begin, position["row"])
