"""Labelled news rows in memory, and the CSV format in which AG News is published."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minirnn.checks import host_array, listed, number

CLASS_NAMES = ("World", "Sports", "Business", "Sci/Tech")

_LABEL_OF = {str(number + 1): number for number in range(len(CLASS_NAMES))}
_FORMAT = '"class 1-4","title","description", with no header line'


class NewsDataError(ValueError):
    """News rows cannot be had from where they were asked for; the message says what to do."""


class WrongRow(NewsDataError):
    """A row that is no news; the message says why, and who reads a file adds where it stands."""


@dataclass(frozen=True, eq=False)
class Rows:
    """News rows, column by column.

    titles: n strings. descriptions: n strings. labels: (n,) int32, 0 to 3, as in `CLASS_NAMES`.
    `len(rows)` is n, and `rows[a:b]` and `rows.take(n)` are again `Rows`.
    Raises ValueError when the columns differ in length or a label is outside the classes.
    """

    titles: list[str]
    descriptions: list[str]
    labels: np.ndarray

    def __post_init__(self) -> None:
        labels = host_array("labels", self.labels)
        if labels.ndim != 1 or (labels.size and labels.dtype.kind not in "iu"):
            raise ValueError(
                f"labels must be one integer a row, got shape {labels.shape} of {labels.dtype}."
            )
        for name, column in (("titles", self.titles), ("descriptions", self.descriptions)):
            listed(name, column, str)
        counts = len(self.titles), len(self.descriptions), len(labels)
        if len(set(counts)) != 1:
            raise ValueError(
                "Rows needs as many titles as descriptions and labels, got {} titles, "
                "{} descriptions and {} labels.".format(*counts)
            )
        wrong = np.flatnonzero((labels < 0) | (labels >= len(CLASS_NAMES)))
        if len(wrong):
            raise ValueError(
                f"labels must be 0 to {len(CLASS_NAMES) - 1} ({', '.join(CLASS_NAMES)}), "
                f"got {labels[wrong[0]]} in row {wrong[0]}."
            )
        object.__setattr__(self, "labels", labels.astype(np.int32))

    def __len__(self) -> int:
        return len(self.titles)

    def __getitem__(self, rows: slice) -> Rows:
        if not isinstance(rows, slice):
            raise TypeError(f"Rows takes slices such as rows[:100], got {rows!r}.")
        return Rows(self.titles[rows], self.descriptions[rows], self.labels[rows])

    def take(self, count: int) -> Rows:
        """The first `count` rows, or all of them where there are fewer."""
        count = number("count", count, "0 rows or more", lambda n: n >= 0 and n == n // 1)
        return self[: int(count)]

    def texts(self) -> list[str]:
        """Title, a space, description: one string a row."""
        return [
            f"{title} {text}" for title, text in zip(self.titles, self.descriptions, strict=True)
        ]


def news(fields: Sequence[str]) -> tuple[int, str, str]:
    """`(label, title, description)` of the fields of a row; labels begin at 0.

    Raises:
        WrongRow: for another number of fields, or another class.
    """
    try:
        label, title, description = fields
        return _LABEL_OF[label], title, description
    except KeyError:
        found = f"the class {fields[0]!r}"
        expected = f"Expected 1 to {len(CLASS_NAMES)}: {_FORMAT}."
    except ValueError:
        found = f"a row of {len(fields)} field{'s' * (len(fields) != 1)}"
        expected = f"Expected 3 fields: {_FORMAT}."
    raise WrongRow(f"{found}. {expected}")


def read_csv(path: str | os.PathLike) -> Rows:
    """Read one split as AG News publishes it: `"class 1-4","title","description"`.

    No header line; UTF-8, with or without a byte order mark; quotes inside a field are doubled.
    Blank lines are passed over, and texts stay exactly as they are in the file.

    Raises NewsDataError (a ValueError) with the file and the line for a file that cannot be read
    or holds no row, and for a row with another number of fields or another class.
    """
    path = Path(path)
    titles: list[str] = []
    descriptions: list[str] = []
    labels: list[int] = []
    line = 1  # where the row begins; a quoted field may run over several lines
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                if row:
                    label, title, description = news(row)
                    labels.append(label)
                    titles.append(title)
                    descriptions.append(description)
                line = reader.line_num + 1
    except UnicodeDecodeError:
        raise _wrong_encoding(path) from None
    except csv.Error as error:
        raise NewsDataError(
            f"{path}, the row that begins in line {line}: {error}. Expected {_FORMAT}, "
            'with every " inside a field doubled.'
        ) from None
    except WrongRow as error:
        raise NewsDataError(f"{path}, line {line}: {error}") from None
    except OSError as error:
        raise NewsDataError(f"Cannot read {path}: {error.strerror or error}.") from error
    if not labels:
        raise NewsDataError(f"{path}, line 1: the file holds no row. Expected {_FORMAT}.")
    return Rows(titles, descriptions, np.array(labels, dtype=np.int32))


def _wrong_encoding(path: Path) -> NewsDataError:
    content = path.read_bytes()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return NewsDataError(
            f"{path}, line {line}: the byte 0x{content[error.start]:02x} is not UTF-8. "
            "Expected a text file in UTF-8; save it again in that encoding."
        )
    return NewsDataError(f"{path} changed while it was read. Try again.")


def write_csv(rows: Rows, path: str | os.PathLike) -> None:
    """Write rows in the format that `read_csv` reads: every field quoted, quotes doubled.

    Raises OSError when the file cannot be written.
    """
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        classes = (rows.labels + 1).tolist()
        writer.writerows(zip(classes, rows.titles, rows.descriptions, strict=True))
