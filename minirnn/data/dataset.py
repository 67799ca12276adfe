"""A lazy pipeline of elements, with the names and rules of `tf.data.Dataset`, on NumPy alone.

A `Dataset` is a recipe: a function that makes a fresh iterator, and a length where it is known.
Every method returns a new `Dataset`, nothing runs before somebody iterates, and each iteration
starts afresh, so data larger than memory streams through.

What an element may be, and what dtype it gets in a batch: `minirnn.data.elements`.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from minirnn import backend
from minirnn.checks import flag
from minirnn.data.elements import (
    as_columns,
    combine,
    leaves,
    pad,
    rows_of,
    shown,
    stack,
    whole_number,
)
from minirnn.data.prefetch import read_ahead

AUTOTUNE = -1  # accepted where tf.data accepts it
INFINITE = -1  # what cardinality() answers, as in tf.data
UNKNOWN = -2
_READ_BLOCK = 1024  # rows asked for at once from a source that has `__getitems__`


class Dataset:
    """A lazy sequence of elements that can be walked any number of times.

    >>> ids = Dataset.from_rows([[5, 3], [7], [2, 2, 9]])
    >>> for batch in ids.padded_batch(2):
    ...     print(batch.tolist())
    [[5, 3], [7, 0]]
    [[2, 2, 9]]
    """

    def __init__(
        self,
        make_iterator: Callable[[], Iterator],
        length: int = UNKNOWN,
        parents: Sequence[Dataset] = (),
    ) -> None:
        self._make_iterator = make_iterator
        self._length = length
        shuffled = {id(order): order for parent in parents for order in parent._orders}
        self._orders: list[_Order] = list(shuffled.values())

    # ---------------------------------------------------------------- sources

    @staticmethod
    def from_tensor_slices(tensors: Any) -> Dataset:
        """One element per row of `tensors`: an array, a list, or a tuple or dict of them.

        All components need the same number of rows; else ValueError.
        """
        tensors = as_columns(tensors)
        lengths = {where: len(column) for where, column in leaves(tensors, "tensors")}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{where} has {length}" for where, length in lengths.items())
            raise ValueError(f"all components need the same number of rows, but {listed}")
        return Dataset(lambda: rows_of(tensors), next(iter(lengths.values())))

    from_arrays = from_tensor_slices

    @staticmethod
    def from_rows(rows: Sequence) -> Dataset:
        """One element per item of `rows`, anything with a length and `rows[i]`.

        A source that can answer many rows at once (`__getitems__`, as the data sources of
        tensorflow_datasets can) is read in blocks, which is many times faster.
        """
        one = isinstance(rows, (Mapping, str, bytes, type)) or getattr(rows, "shape", None) == ()
        if one or not (hasattr(rows, "__len__") and hasattr(rows, "__getitem__")):
            raise TypeError(
                f"rows must be a sequence of elements (len(rows), rows[i]), got {shown(rows)}; "
                "for a dict of columns use from_tensor_slices, for an iterator from_generator"
            )
        length = len(rows)

        def one_by_one():
            return (rows[i] for i in range(length))

        def in_blocks():
            for start in range(0, length, _READ_BLOCK):
                wanted = list(range(start, min(start + _READ_BLOCK, length)))
                block = rows.__getitems__(wanted)
                if len(block) != len(wanted):
                    raise ValueError(
                        f"rows.__getitems__ was asked for {len(wanted)} rows and gave {len(block)}"
                    )
                yield from block

        return Dataset(in_blocks if hasattr(rows, "__getitems__") else one_by_one, length)

    @staticmethod
    def from_generator(generator: Callable[[], Iterable]) -> Dataset:
        """The elements of `generator()`, called anew for every iteration.

        `generator` is a function, such as a generator function, and not a generator: that could
        be walked only once, and a second epoch would find it empty.
        """
        if not callable(generator):
            raise TypeError(
                "generator must be a function without arguments that returns a fresh iterator, "
                f"got {shown(generator)}; pass the generator function itself, without calling it"
            )
        last = [lambda: None]  # a weak reference to the iterator handed out last

        def iterate():
            iterator = generator()
            if not isinstance(iterator, Iterable):
                raise TypeError(f"generator() must return an iterator, got {shown(iterator)}")
            if iterator is last[0]():
                raise ValueError(
                    "generator() returned the same iterator twice, but an iterator can be walked "
                    "only once: make a new one in each call"
                )
            if isinstance(iterator, Iterator):
                with contextlib.suppress(TypeError):  # not all iterators can be referred to weakly
                    last[0] = weakref.ref(iterator)
            yield from iterator

        return Dataset(iterate)

    @staticmethod
    def zip(*datasets: Dataset) -> Dataset:
        """Tuples with one element of each dataset; ends with the shortest."""
        if len(datasets) == 1 and isinstance(datasets[0], (tuple, list)):
            datasets = tuple(datasets[0])
        if not datasets:
            raise ValueError("zip needs at least one dataset")
        for dataset in datasets:
            _check_dataset("zip", dataset)
        lengths = [d._length for d in datasets if d._length != INFINITE]
        known = UNKNOWN if UNKNOWN in lengths else min(lengths, default=INFINITE)
        return Dataset(lambda: zip(*datasets, strict=False), known, datasets)

    # ---------------------------------------------------------------- selection and order

    def take(self, count: int) -> Dataset:
        """The first `count` elements; no more than these are read."""
        count = whole_number("count", count, 0)
        length = count if self._length == INFINITE else min(self._length, count)
        return Dataset(lambda: itertools.islice(self, count), length, [self])

    def skip(self, count: int) -> Dataset:
        """All but the first `count` elements."""
        count = whole_number("count", count, 0)
        length = self._length if self._length < 0 else max(0, self._length - count)
        return Dataset(lambda: itertools.islice(self, count, None), length, [self])

    def repeat(self, count: int | None = None) -> Dataset:
        """The whole dataset `count` times; for ever with None or -1 (an empty one still ends)."""
        endless = count is None or (isinstance(count, (int, np.integer)) and count == -1)
        count = None if endless else whole_number("count", count, 0)

        def iterate():
            for _ in itertools.count() if endless else range(count):
                empty = True
                for element in self:
                    empty = False
                    yield element
                if empty:
                    return

        if self._length == 0 or count == 0:
            length = 0
        elif endless:
            length = INFINITE
        else:
            length = self._length if self._length < 0 else self._length * count
        return Dataset(iterate, length, [self])

    def concatenate(self, dataset: Dataset) -> Dataset:
        """This dataset, then `dataset`."""
        _check_dataset("concatenate", dataset)
        lengths = (self._length, dataset._length)
        special = [known for known in (INFINITE, UNKNOWN) if known in lengths]
        length = special[0] if special else sum(lengths)
        return Dataset(lambda: itertools.chain(self, dataset), length, [self, dataset])

    def shuffle(
        self, buffer_size: int, seed: int | None = None, reshuffle_each_iteration: bool = True
    ) -> Dataset:
        """Draws each next element at random from a buffer of the next `buffer_size` elements.

        A buffer as long as the dataset gives every order the same chance. The same seed gives the
        same orders; every iteration has another order, unless `reshuffle_each_iteration` is
        False. Without a seed, one is drawn here from `minirnn.backend.generator()`.
        """
        buffer_size = whole_number("buffer_size", buffer_size, 1)
        if seed is None:
            seed = int(backend.generator().integers(2**63))
        order = _Order(whole_number("seed", seed, 0))
        reshuffles = flag("reshuffle_each_iteration", reshuffle_each_iteration)

        def iterate():
            rng = np.random.default_rng([order.seed, order.passes if reshuffles else 0])
            order.passes += 1
            source = iter(self)
            buffer = list(itertools.islice(source, buffer_size))
            # Numbers are drawn many at a time: one by one costs more than all the rest.
            blocks = (rng.integers(len(buffer), size=1024).tolist() for _ in itertools.count())
            places = itertools.chain.from_iterable(blocks)
            for element, place in zip(source, places, strict=False):
                yield buffer[place]
                buffer[place] = element
            for place in rng.permutation(len(buffer)):
                yield buffer[place]

        shuffled = Dataset(iterate, self._length, [self])
        shuffled._orders.append(order)
        return shuffled

    # ---------------------------------------------------------------- one element at a time

    def map(self, function: Callable, num_parallel_calls: int | None = None) -> Dataset:
        """`function` of every element: a tuple is spread over its arguments, a dict passed whole.

        `num_parallel_calls` is accepted here and in the batch methods and has no effect.
        """
        _check_callable("function", function)
        return Dataset(lambda: (_call(function, element) for element in self), self._length, [self])

    def filter(self, predicate: Callable) -> Dataset:
        """The elements for which `predicate` is true; called in the same way as in `map`."""
        _check_callable("predicate", predicate)

        def iterate():
            for element in self:
                keep = _call(predicate, element)
                if np.ndim(keep) or not isinstance(keep, (bool, int, np.generic, np.ndarray)):
                    raise TypeError(f"predicate must return True or False, got {keep!r}")
                if keep:
                    yield element

        return Dataset(iterate, parents=[self])

    def enumerate(self, start: int = 0) -> Dataset:
        """Tuples `(number, element)`, counted from `start`."""
        start = whole_number("start", start, 0)
        return Dataset(lambda: enumerate(self, start), self._length, [self])

    # ---------------------------------------------------------------- batches

    def batch(
        self, batch_size: int, drop_remainder: bool = False, num_parallel_calls: int | None = None
    ) -> Dataset:
        """Stacks `batch_size` elements along a new first axis; the last batch may be shorter.

        Components must agree in shape and dtype over a batch; see `padded_batch` otherwise.
        """
        return self._batched(batch_size, drop_remainder, lambda rows: combine(rows, stack))

    def padded_batch(
        self,
        batch_size: int,
        padded_shapes: Any = None,
        padding_values: Any = None,
        drop_remainder: bool = False,
        num_parallel_calls: int | None = None,
    ) -> Dataset:
        """`batch` for components of different lengths: each is padded at its end.

        `padded_shapes` has the structure of an element with a shape for each component, such as
        `([None], [])` for `(ids, label)`; None, a dimension or as a whole, means the longest of
        the batch. `padding_values` is one value for all components or one for each; None means 0,
        False or the empty string. A component keeps its dtype.
        """
        guides = (padded_shapes, padding_values)
        return self._batched(
            batch_size, drop_remainder, lambda rows: combine(rows, pad, "element", guides)
        )

    def _batched(self, batch_size: int, drop_remainder: bool, join: Callable) -> Dataset:
        batch_size = whole_number("batch_size", batch_size, 1)
        drop_remainder = flag("drop_remainder", drop_remainder)

        def iterate():
            source = iter(self)
            while rows := list(itertools.islice(source, batch_size)):
                if len(rows) == batch_size or not drop_remainder:
                    yield join(rows)

        extra = 0 if drop_remainder else batch_size - 1
        length = self._length if self._length < 0 else (self._length + extra) // batch_size
        return Dataset(iterate, length, [self])

    def bucket_by_sequence_length(
        self,
        element_length_func: Callable,
        bucket_boundaries: Sequence[int],
        bucket_batch_sizes: Sequence[int],
        padded_shapes: Any = None,
        padding_values: Any = None,
        pad_to_bucket_boundary: bool = False,
        drop_remainder: bool = False,
    ) -> Dataset:
        """Padded batches of elements of similar length, so that little is spent on padding.

        Bucket i holds the lengths from `bucket_boundaries[i - 1]` up to, not including,
        `bucket_boundaries[i]`; the first starts at 0 and the last has no end, so there is one
        batch size more than there are boundaries. A batch leaves the moment that its bucket is
        full; what is left at the end comes in the order of the buckets, or is dropped with
        `drop_remainder`. Batches are padded as in `padded_batch`, or with
        `pad_to_bucket_boundary` to `boundary - 1`, the longest length of the bucket (the
        dimensions that `padded_shapes` leaves open; without it, the first of each component);
        an element of the last bucket is then a ValueError.
        """
        _check_callable("element_length_func", element_length_func)
        drop_remainder = flag("drop_remainder", drop_remainder)
        pad_to_bucket_boundary = flag("pad_to_bucket_boundary", pad_to_bucket_boundary)
        boundaries = _whole_numbers("bucket_boundaries", bucket_boundaries)
        sizes = _whole_numbers("bucket_batch_sizes", bucket_batch_sizes)
        if any(low >= high for low, high in itertools.pairwise(boundaries)):
            raise ValueError(f"bucket_boundaries must increase strictly, got {boundaries}")
        if len(sizes) != len(boundaries) + 1:
            raise ValueError(
                f"bucket_batch_sizes must have one size more than there are boundaries: expected "
                f"{len(boundaries) + 1}, got {len(sizes)}"
            )
        guides = (padded_shapes, padding_values)

        def join(rows, bucket):
            open_size = boundaries[bucket] - 1 if pad_to_bucket_boundary else None
            return combine(rows, partial(pad, open_size=open_size), "element", guides)

        def iterate():
            buckets = [[] for _ in sizes]
            for element in self:
                length = _call(element_length_func, element)
                length = whole_number("the result of element_length_func", length, 0)
                bucket = bisect_right(boundaries, length)
                if pad_to_bucket_boundary:
                    check_boundary(element, length, bucket)
                rows = buckets[bucket]
                rows.append(element)
                if len(rows) == sizes[bucket]:
                    buckets[bucket] = []
                    yield join(rows, bucket)
            for bucket, rows in enumerate(buckets):
                if rows and not drop_remainder:
                    yield join(rows, bucket)

        def check_boundary(element, length, bucket):
            if bucket == len(boundaries):
                raise ValueError(
                    f"with pad_to_bucket_boundary every length must be below the last boundary "
                    f"({boundaries[-1] if boundaries else 'there is none'}), got {length}"
                )
            for where, leaf in leaves(element, "element") if padded_shapes is None else ():
                if np.ndim(leaf) and len(leaf) != length:
                    raise ValueError(
                        f"{where} has {len(leaf)} rows and the element's length is {length}: say "
                        "with padded_shapes which dimensions to pad to the bucket boundary"
                    )

        return Dataset(iterate, parents=[self])

    # ---------------------------------------------------------------- storing and reading ahead

    def cache(self) -> Dataset:
        """Keeps the elements in memory, from the first complete pass on; do not change them.

        A first pass in another process begins from the first orders again, and so keeps the same.
        """
        stored: list[list] = []

        def iterate():
            if stored:
                yield from stored[0]
                return
            elements = []
            for element in self:
                elements.append(element)
                yield element
            stored[:] = [elements]

        return Dataset(iterate, self._length)

    def prefetch(self, buffer_size: int) -> Dataset:
        """Reads up to `buffer_size` elements ahead in a thread; AUTOTUNE means 2.

        The thread starts with the first element asked for and ends with the iteration, also an
        abandoned one. An error of the source is raised here, with its traceback.
        """
        auto = isinstance(buffer_size, (int, np.integer)) and buffer_size == AUTOTUNE
        buffer_size = 2 if auto else whole_number("buffer_size", buffer_size, 1)
        return Dataset(lambda: read_ahead(self, buffer_size), self._length, [self])

    # ---------------------------------------------------------------- reading

    @property
    def orders(self) -> list[list[int]]:
        """Where the shuffles in this pipeline stand, `[seed, passes begun]` each; to be set again,
        in an equal pipeline, for a training that goes on in the middle."""
        return [[order.seed, order.passes] for order in self._orders]

    @orders.setter
    def orders(self, values: Sequence[Sequence[int]]) -> None:
        if len(values) != len(self._orders):
            raise ValueError(
                f"orders: expected those of {len(self._orders)} shuffles, received {len(values)}; "
                "the data set is another one now"
            )
        for order, (seed, passes) in zip(self._orders, values, strict=True):
            order.seed, order.passes = seed, passes

    def __iter__(self) -> Iterator:
        return iter(self._make_iterator())

    def as_numpy_iterator(self) -> Iterator:
        """The same as `iter(dataset)`: elements are on the host already."""
        return iter(self)

    def cardinality(self) -> int:
        """The number of elements, -1 for infinitely many, -2 if not known without a full pass."""
        return self._length

    def __len__(self) -> int:
        if self._length < 0:
            raise TypeError(
                "the dataset is infinite: bound it with take(n)"
                if self._length == INFINITE
                else "the length of the dataset is not known before it is walked; "
                "count with sum(1 for _ in dataset)"
            )
        return self._length

    def __bool__(self) -> bool:
        return True  # `if dataset:` asks whether there is one, and must not need a length

    def __repr__(self) -> str:
        special = {INFINITE: "infinitely many", UNKNOWN: "an unknown number of"}
        return f"<Dataset of {special.get(self._length, self._length)} elements>"


class _Order:
    """What decides the order of a shuffle's next pass."""

    def __init__(self, seed: int) -> None:
        self.seed, self.passes = seed, 0


def _call(function: Callable, element: Any) -> Any:
    return function(*element) if isinstance(element, tuple) else function(element)


def _check_callable(name: str, value: Any) -> None:
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {shown(value)}")


def _check_dataset(name: str, value: Any) -> None:
    if not isinstance(value, Dataset):
        raise TypeError(f"{name} needs a Dataset, got {shown(value)}")


def _whole_numbers(name: str, values: Any) -> list[int]:
    if not isinstance(values, (Sequence, np.ndarray)) or getattr(values, "shape", None) == ():
        raise TypeError(f"{name} must be a list of whole numbers, got {shown(values)}")
    return [whole_number(f"{name}[{i}]", value, 1) for i, value in enumerate(values)]
