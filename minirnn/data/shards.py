"""Files of rows, CSV or array_record, read forward from any place on, some rows at a time.

What is read is raw, as it stands in the file: of the rows that stream by, a process of several
parses only its own. Between two reads no CSV file is open, so files may be many.
"""

from __future__ import annotations

import csv
import functools
import glob
import importlib.util
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from minirnn.data.rows import NewsDataError
from minirnn.data.tfds_source import record_decoder

CHUNK = 1 << 18  # bytes read at once
LONGEST_ROW = 1 << 21  # bytes; what is longer lacks a quotation mark, and would fill the memory

AT_ONCE = 1024  # records of a file
LINE_ENDS = b"\r\n"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
PACKED = (".gz", ".bz2", ".xz", ".zip", ".zst")


Files = str | os.PathLike | Iterable[str | os.PathLike]


# --- which files ----------------------------------------------------------------------------------


def find_shards(files: Files) -> list[Shard]:
    """The shards in a folder or of a pattern ("news/train-*.csv"), by name; or those of a list.

    Raises:
        NewsDataError: if there are none, they are of more than one kind, or cannot be read.
    """
    if isinstance(files, (str, os.PathLike)):
        place = Path(files).expanduser()
        if place.is_dir():
            paths = sorted(path for path in place.iterdir() if path.is_file() and kind_of(path))
            wanted = "files whose names end in .csv, or have .array_record in them"
        else:
            paths = [place] if place.exists() else sorted(map(Path, glob.glob(str(place))))
            wanted = "a folder, a file, or a pattern such as 'news/train-*.csv'"
        if not paths:
            raise NewsDataError(f"{files}: there is no such file. Expected {wanted}.")
    else:
        paths = [Path(path).expanduser() for path in files]
        if not paths:
            raise NewsDataError("files: expected at least one file, received an empty list.")
    for path in paths:
        if path.suffix in PACKED:
            raise NewsDataError(
                f"{path}: a packed file cannot be entered in its middle, which is how a training "
                "goes on from where it stopped. Unpack it."
            )
    kinds = {kind_of(path) or CsvShard for path in paths}  # a CSV file may have any name
    if len(kinds) > 1:
        raise NewsDataError(
            f"{paths[0].parent}: expected files of one kind, received CSV and array_record files."
        )
    [kind] = kinds
    return [kind(path) for path in paths]


def kind_of(path: Path) -> type[Shard] | None:
    """The kind of shard that a file's name promises."""
    if path.suffix == ".csv":
        return CsvShard
    return ArrayRecordShard if ".array_record" in path.name else None


class Shard:
    """A file, and the size that it has to keep."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.size = path.stat().st_size
        except OSError as error:
            raise NewsDataError(f"Cannot read {path}: {error.strerror or error}.") from error

    def check_size(self, size: int) -> None:
        """Raises NewsDataError if the file has another size now."""
        if size != self.size:
            raise NewsDataError(
                f"{self.path} has changed: it had {self.size:,} bytes, and now has {size:,}. Where "
                "a stream stands in its files is lost when they change; begin anew."
            )


# --- CSV ------------------------------------------------------------------------------------------


class CsvShard(Shard):
    """A CSV file. A raw row is its bytes, line break included (and blank lines before it).

    Where a row ends is found by counting quotation marks, three times as fast as by parsing. That
    is right where these stand only around fields and, doubled, inside of quoted ones, as in files
    that programs write. `parse` finds out if it was not: then it fails.
    """

    def open(self, position: int) -> CsvReader:
        """Read from this byte on, at which a row begins."""
        return CsvReader(self, position)

    def chunk(self, start: int) -> bytes:
        """The next bytes of the file; none at its end."""
        try:
            with open(self.path, "rb", buffering=0) as file:
                self.check_size(os.fstat(file.fileno()).st_size)
                file.seek(start)
                return file.read(CHUNK)
        except OSError as error:
            raise NewsDataError(f"Cannot read {self.path}: {error.strerror or error}.") from error

    @staticmethod
    def fetch(rows: list[bytes]) -> list[bytes]:
        return rows

    @staticmethod
    def parse(rows: Sequence[bytes]) -> list[list[str]]:
        """The fields of each row.

        Raises:
            UnicodeDecodeError, csv.Error: if one is no row of CSV.
        """
        lines = [row.lstrip(LINE_ENDS).decode() for row in rows]
        fields = list(csv.reader(lines, strict=True))
        if len(fields) != len(rows):  # one had no end, and took the next one for a part of itself
            raise csv.Error("unexpected end of data")
        return fields

    def find(self, row: bytes, position: int, rows: int) -> tuple[str, bytes] | None:
        """Where a row stands, if it is one of the next `rows` from a position on; and the row.

        Of a row that is no CSV, the first such: a quotation mark too many spoils those behind it.
        """
        reader, broken = self.open(position), not self.is_row(row)
        for _ in range(rows):
            for found in reader.read(1):
                if found == row or (broken and not self.is_row(found)):
                    begin = reader.position - len(found.lstrip(LINE_ENDS))
                    return f"{self.path}, line {self.line_of(begin)}", found
        return None

    def is_row(self, row: bytes) -> bool:
        try:
            return bool(self.parse([row]))
        except (csv.Error, UnicodeDecodeError):
            return False

    def line_of(self, end: int) -> int:
        """The number of the line that begins at this byte."""
        line, start, last = 1, 0, b""
        while start < end:
            chunk = self.chunk(start)[: end - start]
            line += chunk.count(b"\n") + chunk.count(b"\r") - (last + chunk).count(b"\r\n")
            start, last = start + len(chunk), chunk[-1:]
        return line


class CsvReader:
    """Reads rows of a CSV file, in their order.

    position: the byte at which the row begins that comes next.
    """

    def __init__(self, shard: CsvShard, position: int) -> None:
        self.shard = shard
        self.position = self._end = position  # of what was given, and of what was read
        self._rows: list[bytes] = []  # read, not given yet
        self._rest = b""  # the line that is not read to its end
        self._begun: list[bytes] = []  # the lines of the row that is not read to its end
        self._quoted = False  # whether they end inside of quotation marks

    def read(self, count: int) -> list[bytes]:
        """The next rows; fewer than `count` at the end of the file only."""
        while len(self._rows) < count and self._end < self.shard.size:
            self._read_on()
        rows, self._rows = self._rows[:count], self._rows[count:]
        self.position += sum(map(len, rows))
        return rows

    def _read_on(self) -> None:
        chunk = self.shard.chunk(self._end)
        if self._end == 0 and chunk.startswith(BYTE_ORDER_MARK):
            self.position = self._end = len(BYTE_ORDER_MARK)
            chunk = chunk[self._end :]
        self._end += len(chunk)
        lines = (self._rest + chunk).splitlines(keepends=True)  # at \n, \r and \r\n, as csv does
        at_end = self._end == self.shard.size
        # The last line may go on in the next chunk, if only from \r to \r\n.
        self._rest = b"" if at_end or not lines else lines.pop()
        self._cut(lines)
        if at_end and any(line.strip(LINE_ENDS) for line in self._begun):
            self._rows.append(b"".join(self._begun))  # a row without an end: `parse` will tell
        if len(self._rest) + sum(map(len, self._begun)) > LONGEST_ROW:
            row = b"".join((*self._begun, self._rest))
            begin = self._end - len(row.lstrip(LINE_ENDS))
            raise NewsDataError(
                f"{self.shard.path}, line {self.shard.line_of(begin)}: the row that begins here "
                f"does not end within {LONGEST_ROW:,} bytes. Is a quotation mark missing?"
            )

    def _cut(self, lines: list[bytes]) -> None:
        """Lines → rows: a line break between quotation marks, or after nothing, ends no row."""
        rows, begun, quoted = self._rows, self._begun, self._quoted
        for line in lines:
            if line.count(b'"') % 2:
                quoted = not quoted
            if quoted or (len(line) < 3 and not line.strip(LINE_ENDS)):
                begun.append(line)
            elif begun:
                rows.append(b"".join((*begun, line)))
                begun.clear()
            else:
                rows.append(line)
        self._quoted = quoted


# --- array_record ---------------------------------------------------------------------------------


class ArrayRecordShard(Shard):
    """An array_record file, whose records are rows of CSV, or what tfds prepared.

    A raw row is (reader, number of the record), and its bytes once it is fetched: records that
    other processes are to have are not read at all.
    """

    def open(self, position: int) -> ArrayRecordReader:
        """Read from the record of this number on."""
        return ArrayRecordReader(self, position)

    @functools.cached_property
    def count(self) -> int:
        """Of its records."""
        return self.open(0).count

    @staticmethod
    def fetch(rows: list[tuple[ArrayRecordReader, int]]) -> list[bytes]:
        """The records of the rows; read file by file, in the order of the file."""
        places: dict[ArrayRecordReader, list[int]] = {}
        for place, (reader, _) in enumerate(rows):
            places.setdefault(reader, []).append(place)
        records = [b""] * len(rows)
        for reader, own in places.items():
            own.sort(key=lambda place: rows[place][1])
            for some in (own[i : i + AT_ONCE] for i in range(0, len(own), AT_ONCE)):
                found = reader.records([rows[place][1] for place in some])
                for place, record in zip(some, found, strict=True):
                    records[place] = record
        return records

    def parse(self, rows: Sequence[bytes]) -> list[list[str]]:
        """The fields of each row."""
        decode = record_decoder(self.path.parent)
        return CsvShard.parse(rows) if decode is None else list(map(decode, rows))

    def find(self, row: bytes, position: int, rows: int) -> tuple[str, bytes] | None:
        """Where a row stands, if it is one of the next `rows` from a position on; and the row."""
        reader = self.open(position)
        for _ in range(rows):
            number = reader.position
            if self.fetch(reader.read(1)) == [row]:
                return f"{self.path}, record {number}", row
        return None


class ArrayRecordReader:
    """Hands out records of a file, in their order.

    position: the number of the record that comes next. count: of the records in the file.
    """

    def __init__(self, shard: ArrayRecordShard, position: int) -> None:
        self.shard, self.position = shard, position
        try:
            shard.check_size(os.stat(shard.path).st_size)
            # Reading ahead would only cost memory: nothing is read here one record at a time.
            self.file = array_record().ArrayRecordReader(
                str(shard.path),
                "readahead_buffer_size:0,max_parallelism:0",
                file_reader_buffer_size=1 << 15,
            )
        except (OSError, RuntimeError) as error:
            raise NewsDataError(f"Cannot read {shard.path}: {error}.") from error
        if not self.file.ok():
            raise NewsDataError(f"{shard.path}: this is no array_record file, or a part of one.")
        self.count = self.file.num_records()
        if position > self.count:
            raise NewsDataError(
                f"{shard.path}: expected a record of number {position:,}, it has {self.count:,}."
            )

    def read(self, count: int) -> list[tuple[ArrayRecordReader, int]]:
        """The next rows, not fetched yet; fewer than `count` at the end of the file only."""
        start, self.position = self.position, min(self.position + count, self.count)
        return [(self, number) for number in range(start, self.position)]

    def records(self, numbers: list[int]) -> list[bytes]:
        """The records of these numbers, which rise."""
        first, last = numbers[0], numbers[-1]
        try:
            if 2 * len(numbers) < last - first:
                return self.file.read(numbers)
            records = self.file.read(first, last + 1)  # twice as fast, for each
            return [records[number - first] for number in numbers]
        except (RuntimeError, IndexError) as error:
            raise NewsDataError(f"{self.shard.path}: damaged or changed ({error}).") from error


def array_record() -> Any:
    """The module that reads and writes array_record files."""
    if importlib.util.find_spec("array_record") is None:
        raise NewsDataError(
            "The package array_record is not installed, which .array_record files need: "
            'pip install "minirnn[tfds]". CSV files need no package.'
        )
    from array_record.python import array_record_module

    return array_record_module
