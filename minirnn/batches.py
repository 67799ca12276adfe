"""From what users hand to `fit`, `evaluate` and `predict` to a stream of padded batches.

A batch is `(x, y, sample_weight)` on the host; y and sample_weight may be None. Where a model
begins with a TextVectorization layer, its texts are turned into token ids here, once: not once an
epoch.

One pass over the data is a *walk*: an iterator of batches that knows its `position()`, a dict of
JSON values. `data.walk(position)`, even in another process, gives the batches that would have come
next; that is how a training which was killed goes on in the middle of an epoch. A data set that has
a `walk` of its own is asked for it; any other is walked once more from where that pass began, and
what was had is passed over.
"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from minirnn.backend import (
    draws_from,
    floatx,
    generator,
    generator_state,
    to_host,
)
from minirnn.checks import flag, host_array, number, whole_number
from minirnn.text import TextVectorization, pad_rows
from minirnn.walks import Batch, Mapped, Position, Replay

REMEMBERED_BYTES = 200_000_000  # of texts that come in a stream, and their ids
REMEMBERED_EACH = 400  # bytes: what a text and its ids take beside their contents


class ArrayBatches:
    """Batches of data that is all there: arrays, or lists of rows of differing length.

    Args:
        x: array (rows, ...), list of texts, or list of sequences, which are padded per batch.
        shuffle: a new order at each pass, drawn from `minirnn.backend.generator()`.
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        batch_size: int = 32,
        shuffle: bool = False,
        vectorizer: TextVectorization | None = None,
    ) -> None:
        self.x = as_rows("x", x) if vectorizer is None else vectorized(vectorizer, x)
        self.y = None if y is None else as_rows("y", y)
        self.sample_weight = None if sample_weight is None else weights_of_rows(sample_weight)
        self.rows = len(self.x)
        if self.rows == 0:
            raise ValueError("x: the data set is empty; there must be at least one row")
        for name, values in (("y", self.y), ("sample_weight", self.sample_weight)):
            if values is not None and len(values) != self.rows:
                raise ValueError(
                    f"x has {self.rows} rows and {name} has {len(values)}; there must be as many"
                )
        self.batch_size = whole_number("batch_size", batch_size)
        self.shuffle = flag("shuffle", shuffle)
        self.part = 0, 1

    def share(self, rank: int, ranks: int) -> ArrayBatches:
        """Batches `ranks` times as large, of which each walk gives the rows of one rank, padded as
        in the whole batch; None in place of a batch where it has no row."""
        shared = copy.copy(self)
        shared.batch_size, shared.part = self.batch_size * ranks, (rank, ranks)
        return shared

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    def walk(self, position: Position | None = None) -> ArrayWalk:
        """One pass over the rows, from its beginning or from a position on."""
        return ArrayWalk(self, **(position or {}))

    def __iter__(self) -> Iterator[Batch]:
        return self.walk()

    def described(self) -> dict[str, Any]:
        """What tells these rows from others; JSON values."""
        labels = [] if self.y is None else self.y
        joined = b"".join(np.ascontiguousarray(part).tobytes() for part in labels)
        return {"rows": self.rows, "labels": zlib.crc32(joined)}

    def split(self, share: float) -> tuple[ArrayBatches, ArrayBatches]:
        """The first rows, and the last `share` of them."""
        share = number("validation_split", share, "a share between 0 and 1", lambda s: 0 < s < 1)
        border = math.floor(self.rows * (1 - share))  # as Keras rounds
        if border == 0 or border == self.rows:
            raise ValueError(
                f"validation_split: {share} of {self.rows} rows leaves one of the parts empty"
            )
        parts = []
        for part, shuffle in ((slice(border), self.shuffle), (slice(border, None), False)):
            x, y, weight = (
                None if values is None else values[part]
                for values in (self.x, self.y, self.sample_weight)
            )
            parts.append(ArrayBatches(x, y, weight, self.batch_size, shuffle))
        return parts[0], parts[1]


class ArrayWalk:
    """One pass over an `ArrayBatches`, in an order that is drawn with the first batch.

    Args:
        row: how many rows have been had.
        order: the state of the random generator from which the order was drawn, if it was.
    """

    def __init__(self, data: ArrayBatches, row: int = 0, order: Any = None) -> None:
        self.data, self.row, self.drawn_from = data, row, order
        self.order: np.ndarray | None = None

    def __iter__(self) -> ArrayWalk:
        return self

    def __next__(self) -> Batch | None:
        data = self.data
        if self.row >= data.rows:
            raise StopIteration
        if self.order is None:
            self.order = self.draw() if data.shuffle else np.arange(data.rows)
        chosen = self.order[self.row : self.row + data.batch_size]
        self.row += len(chosen)
        mine = rows_of_rank(len(chosen), *data.part)
        if mine.start == mine.stop:
            return None
        return tuple(
            None if values is None else pick(values, chosen, mine)
            for values in (data.x, data.y, data.sample_weight)
        )

    def draw(self) -> np.ndarray:
        if self.drawn_from is None:
            self.drawn_from = generator_state()
            return generator().permutation(self.data.rows)
        return draws_from(self.drawn_from).permutation(self.data.rows)

    def position(self) -> dict[str, Any]:
        return {"row": self.row, "order": self.drawn_from}


class StreamBatches:
    """Batches that come from outside: a `data.Dataset`, or anything that can be walked repeatedly.

    Each element is x, (x, y) or (x, y, sample_weight), already batched.

    Attributes:
        longest: where several ranks pad each its own texts: from the length of the longest here to
            that of the longest of all; else None.
    """

    longest: Callable[[int], int] | None = None

    def __init__(self, source: Iterable[Any], vectorizer: TextVectorization | None = None) -> None:
        if isinstance(source, Iterator):
            raise TypeError(
                "x: a generator can be walked only once. Hand over something that can be walked "
                "again, such as minirnn.data.Dataset.from_generator(function)."
            )
        self.source = source
        self.vectorizer = vectorizer
        self.known: dict[Any, np.ndarray] = {}  # text → ids
        # What is walked from files (data.Stream) need not fit into memory, nor do its ids.
        self.room = 0 if hasattr(source, "walk") else REMEMBERED_BYTES

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]

    def share(self, rank: int, ranks: int) -> StreamBatches | Share:
        """The same batches, of which each walk gives the rows of one rank."""
        if hasattr(self.source, "share"):
            return StreamBatches(self.source.share(rank, ranks), self.vectorizer)
        return Share(self, rank, ranks)

    @property
    def pads_alone(self) -> bool:
        """Whether its texts become as long as the longest here, though a rank has only some."""
        return (
            self.vectorizer is not None
            and self.vectorizer.output_mode == "int"
            and self.vectorizer.output_sequence_length is None
        )

    def walk(self, position: Position | None = None) -> Mapped:
        """One pass over the batches, from its beginning or from a position on."""
        if hasattr(self.source, "walk"):
            return Mapped(self.taken_in, self.source.walk(position))
        return Mapped(self.taken_in, Replay(self.source, **(position or {})))

    def __iter__(self) -> Iterator[Batch]:
        return self.walk()

    def described(self) -> dict[str, Any]:
        """What tells this data from other data, as far as the source can say; JSON values."""
        return self.source.described() if hasattr(self.source, "described") else {}

    def taken_in(self, element: Any) -> Batch | None:
        """The batch in an element of the source; None where a share of it has no row."""
        if element is None:
            if self.longest is not None:
                self.longest(0)
            return None
        x, y, weight = unpack(element)
        if self.vectorizer is not None:
            x = self._ids(x)
        elif not hasattr(x, "shape"):
            x = pick(as_rows("x", x), slice(None))
        return x, None if y is None else np.asarray(to_host(y)), weight

    def _ids(self, texts: Any) -> Any:
        if self.vectorizer.output_mode != "int":
            return vectorized(self.vectorizer, texts)
        texts = np.asarray(texts, dtype=object).reshape(-1).tolist()
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        fresh = dict(zip(new, self.vectorizer.ids(new), strict=True)) if new else {}
        rows = [fresh[text] if text in fresh else self.known[text] for text in texts]
        if self.room > 0:
            self.known |= fresh
            self.room -= sum(
                len(text) + ids.nbytes + REMEMBERED_EACH for text, ids in fresh.items()
            )
        length = self.vectorizer.output_sequence_length
        if self.longest is not None:
            length = self.longest(max(map(len, rows), default=0))
        return pad_rows(rows, length=length)


class Share:
    """The batches of some data, of which each walk gives the rows of one rank.

    All ranks walk over the whole data; a source that can do better has a `share` of its own.
    """

    def __init__(self, data: StreamBatches, rank: int, ranks: int) -> None:
        self.data, self.part = data, (rank, ranks)

    def __len__(self) -> int:
        return len(self.data)

    def walk(self, position: Position | None = None) -> Mapped:
        return Mapped(self.cut, self.data.walk(position))

    def __iter__(self) -> Iterator[Batch | None]:
        return self.walk()

    def described(self) -> dict[str, Any]:
        return self.data.described()

    def cut(self, batch: Batch) -> Batch | None:
        mine = rows_of_rank(len(batch[0]), *self.part)
        if mine.start == mine.stop:
            return None
        return tuple(None if values is None else values[mine] for values in batch)


def rows_of_rank(rows: int, rank: int, ranks: int) -> slice:
    """Which of the rows of a batch a rank gets.

    >>> [rows_of_rank(7, rank, 3) for rank in range(3)]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)]
    """
    return slice(rows * rank // ranks, rows * (rank + 1) // ranks)


def batches(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    batch_size: int | None = None,
    shuffle: bool = False,
    vectorizer: TextVectorization | None = None,
) -> ArrayBatches | StreamBatches:
    """Batches of whatever `x` is; rows and texts are taken 32 at a time unless told otherwise."""
    if is_stream(x):
        if y is not None or sample_weight is not None or batch_size is not None:
            raise ValueError(
                "x is a data set that gives whole batches, with labels and weights in them; y, "
                "sample_weight and batch_size go with arrays only"
            )
        return StreamBatches(x, vectorizer)
    if batch_size is None:
        batch_size = 32
    return ArrayBatches(x, y, sample_weight, batch_size, shuffle, vectorizer)


def is_stream(x: Any) -> bool:
    """Whether `x` gives batches, rather than being the rows themselves."""
    rows = hasattr(x, "shape") or isinstance(x, (list, tuple, str, bytes, Mapping))
    return hasattr(x, "__iter__") and not rows


def unpack(element: Any) -> Batch:
    """`(x, y, sample_weight)` of an element of a data set."""
    if isinstance(element, list) and any(hasattr(part, "shape") for part in element):
        raise TypeError("x: expected a data set of tuples (x, y); received a list of arrays")
    if not isinstance(element, tuple):
        return element, None, None
    if not 1 <= len(element) <= 3:
        raise ValueError(
            "x: expected a data set of x, (x, y) or (x, y, sample_weight); received an element of "
            f"{len(element)} parts"
        )
    return element + (None,) * (3 - len(element))  # type: ignore[return-value]


def as_rows(name: str, values: Any) -> Any:
    """An array, or a list of arrays of differing length, one per row."""
    if hasattr(values, "shape"):
        if np.ndim(values) == 0:
            raise ValueError(f"{name}: expected an array or list of rows, received one number")
        values = host_array(name, values)
        if values.dtype != object or not len(values) or np.ndim(values[0]) == 0:
            return values
    listed = hasattr(values, "__len__") and hasattr(values, "__getitem__")
    if isinstance(values, (str, bytes, Mapping)) or not listed:
        raise TypeError(f"{name}: expected an array or list of rows, received {type(values)}")
    if len(values) and isinstance(values[0], tuple):
        raise TypeError(
            f"{name}: expected rows, received a list of tuples. A list of batches is made a data "
            "set by minirnn.data.Dataset.from_generator(lambda: batches)."
        )
    try:
        rows = [np.asarray(row) for row in values]
        if len({row.shape for row in rows}) <= 1:
            return np.stack(rows) if rows else np.asarray(values)
        if len({row.shape[1:] for row in rows}) > 1 or any(row.ndim == 0 for row in rows):
            raise ValueError("rows may differ in length, and in nothing else")
        dtype = np.result_type(*rows)
        return [row.astype(dtype, copy=False) for row in rows]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected rows of one kind ({error})") from None


def weights_of_rows(sample_weight: Any) -> np.ndarray:
    """Sample weights (rows,) or (rows, time) as floats."""
    try:
        weights = host_array("sample_weight", sample_weight).astype(floatx())
    except (TypeError, ValueError) as error:
        raise ValueError(f"sample_weight: expected numbers of equal rows ({error})") from None
    if weights.ndim == 0:
        raise ValueError(f"sample_weight: expected one weight per row, received {sample_weight!r}")
    return weights


def pick(rows: Any, chosen: Any, part: slice = slice(None)) -> Any:
    """A part of the chosen rows as one array, padded behind to the longest of all the chosen."""
    if hasattr(rows, "shape"):
        return rows[chosen][part]
    taken = rows[chosen] if isinstance(chosen, slice) else [rows[i] for i in chosen]
    return pad_rows(taken[part], length=max(map(len, taken), default=0))


def vectorized(vectorizer: TextVectorization, texts: Any) -> Any:
    """Texts → rows of ids (or the bags of words of the vectorizer's other output modes)."""
    if is_numeric(texts):
        raise TypeError(
            "x: this model begins with a TextVectorization layer and expects texts; received "
            f"{np.asarray(texts).dtype} values"
        )
    texts = np.asarray(texts, dtype=object)
    texts = texts[None] if texts.ndim == 0 else texts  # one text is a batch of one
    if vectorizer.output_mode == "int" and vectorizer.output_sequence_length is None:
        return vectorizer.ids(texts.reshape(-1).tolist())
    return vectorizer.forward(texts)[0]


def is_numeric(values: Any) -> bool:
    return hasattr(values, "dtype") and values.dtype.kind in "iufcb"
