"""minirnn.data.Dataset: against plain Python, and what it says about wrong use."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import traceback

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirnn import backend
from minirnn.data import AUTOTUNE, Dataset

small_lists = st.lists(st.integers(-1000, 1000), max_size=40)
sizes = st.integers(1, 9)


def numbers(n: int) -> Dataset:
    return Dataset.from_rows(range(n))


def unknown_length(n: int) -> Dataset:
    return Dataset.from_generator(lambda: iter(range(n)))


def plain(batches) -> list[list]:
    return [batch.tolist() for batch in batches]


def ragged(lengths) -> list[tuple[np.ndarray, int]]:
    """(ids, number) pairs in which every id tells the element from which it came."""
    return [(np.arange(n, dtype=np.int32) + 100 * (i + 1), i) for i, n in enumerate(lengths)]


# ---------------------------------------------------------------- sources


def test_tensor_slices_of_every_structure():
    x = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    rows = list(Dataset.from_tensor_slices(x))
    np.testing.assert_array_equal(np.stack(rows), x)
    assert rows[0].dtype == np.float32
    nested = list(Dataset.from_arrays(({"text": ["a", "bcd", ""], "x": x}, [7, 8, 9])))
    assert [(row["text"], label) for row, label in nested] == [("a", 7), ("bcd", 8), ("", 9)]
    np.testing.assert_array_equal(nested[1][0]["x"], x[1])
    assert list(Dataset.from_tensor_slices([0.5]))[0].dtype == backend.floatx()
    assert list(Dataset.from_tensor_slices([])) == []
    assert len(Dataset.from_tensor_slices(({"a": x}, [1, 2, 3]))) == 3


def test_tensor_slices_name_the_unequal_lengths():
    message = r"tensors\[0\]\['ids'\] has 2, tensors\[1\] has 3"
    with pytest.raises(ValueError, match=message):
        Dataset.from_tensor_slices(({"ids": [1, 2]}, [1, 2, 3]))


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        ((), ValueError, "no component"),
        (5, ValueError, "tensors must be an array or a list.*int 5"),
        ("text", ValueError, "tensors must be an array or a list"),
        (([1, 2], 3), ValueError, r"tensors\[1\] must be an array"),
        ([[1, 2], [3]], ValueError, "different lengths.*from_rows"),
        (["a", 1], TypeError, "only numbers or only strings, got int 1"),
        ([1, None], TypeError, "only numbers or only strings"),
        ([1, "a"], TypeError, "only numbers or only strings, got int 1"),
    ],
)
def test_tensor_slices_refuse(tensors, error, message):
    with pytest.raises(error, match=message):
        Dataset.from_tensor_slices(tensors)


class Source:
    """Like a tfds data source: rows one by one, and many at once."""

    def __init__(self, n: int, lost: int = 0) -> None:
        self.n, self.lost, self.asked = n, lost, []

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> dict:
        raise AssertionError("rows should be read in blocks")

    def __getitems__(self, places: list[int]) -> list[dict]:
        self.asked.append(len(places))
        return [{"label": i} for i in places[self.lost :]]


def test_rows_are_read_in_blocks():
    source = Source(2500)
    dataset = Dataset.from_rows(source)
    assert [row["label"] for row in dataset] == list(range(2500))
    assert source.asked == [1024, 1024, 452]
    assert len(dataset) == 2500
    source.asked.clear()
    next(iter(dataset))
    assert source.asked == [1024]
    with pytest.raises(ValueError, match="asked for 5 rows and gave 4"):
        list(Dataset.from_rows(Source(5, lost=1)))


@pytest.mark.parametrize("rows", [{"a": [1]}, "text", iter([1]), {1, 2}, 3])
def test_rows_refuse_what_is_no_sequence(rows):
    with pytest.raises(TypeError, match=f"rows must be a sequence.*{type(rows).__name__}"):
        Dataset.from_rows(rows)


def test_generator_is_called_for_each_iteration():
    def count():
        yield from range(4)

    dataset = Dataset.from_generator(count)
    assert list(dataset) == list(dataset) == [0, 1, 2, 3]
    one, two = iter(dataset), iter(dataset)
    assert [next(one), next(one), next(two), next(one)] == [0, 1, 0, 2]
    assert list(Dataset.from_generator(lambda: [5, 6])) == [5, 6]


def test_generator_refuses_what_can_be_walked_only_once():
    walked = (i for i in range(3))
    with pytest.raises(TypeError, match="without calling it"):
        Dataset.from_generator(walked)
    again = Dataset.from_generator(lambda: walked)
    assert list(again) == [0, 1, 2]
    with pytest.raises(ValueError, match="same iterator twice"):
        list(again)
    with pytest.raises(TypeError, match="must return an iterator, got int 3"):
        list(Dataset.from_generator(lambda: 3))


def test_a_source_of_a_thousand_million_elements_is_not_walked():
    seen = []

    def source():
        for i in range(10**9):
            seen.append(i)
            yield i

    dataset = Dataset.from_generator(source)
    assert list(dataset.map(lambda i: i * 2).take(3)) == [0, 2, 4]
    assert seen == [0, 1, 2]
    assert list(Dataset.from_rows(range(10**9)).skip(5).batch(2).take(1))[0].tolist() == [5, 6]
    assert len(Dataset.from_rows(range(10**9)).batch(16)) == 62_500_000


# ---------------------------------------------------------------- against plain Python


@given(small_lists, st.integers(0, 50), st.integers(0, 50))
def test_take_and_skip_are_slices(xs, start, count):
    dataset = Dataset.from_rows(xs).skip(start).take(count)
    expected = xs[start : start + count]
    assert list(dataset) == list(dataset) == expected
    assert len(dataset) == dataset.cardinality() == len(expected)


@given(small_lists, sizes, st.booleans())
def test_batch_is_the_stack_of_its_rows(xs, size, drop):
    expected = [xs[i : i + size] for i in range(0, len(xs), size)]
    if drop:
        expected = [rows for rows in expected if len(rows) == size]
    dataset = Dataset.from_rows(xs).batch(size, drop_remainder=drop)
    assert plain(dataset) == plain(dataset) == expected
    assert len(dataset) == len(expected)


@given(small_lists, small_lists, st.integers(0, 4))
def test_repeat_concatenate_zip_enumerate(xs, ys, count):
    a, b = Dataset.from_rows(xs), Dataset.from_rows(ys)
    both = a.concatenate(b)
    assert (list(both), len(both)) == (xs + ys, len(xs + ys))
    assert (list(a.repeat(count)), len(a.repeat(count))) == (xs * count, len(xs * count))
    pairs = Dataset.zip(a, b)
    short = min(len(xs), len(ys))
    assert (list(pairs), len(pairs)) == (list(zip(xs, ys, strict=False)), short)
    assert list(Dataset.zip((a, b))) == list(pairs)
    assert list(a.enumerate(start=5)) == list(enumerate(xs, 5))


@given(small_lists, st.integers(1, 50), st.integers(0, 2**40))
def test_shuffle_is_a_permutation_within_its_buffer(xs, buffer_size, seed):
    places = list(Dataset.from_rows(range(len(xs))).shuffle(buffer_size, seed))
    assert sorted(places) == list(range(len(xs)))
    # What is drawn at position p is among the first p + buffer_size elements.
    assert all(place < position + buffer_size for position, place in enumerate(places))


def test_shuffle_seeds_and_iterations():
    def make(**how):
        return numbers(50).shuffle(20, **how)

    first = make(seed=3)
    orders = [list(first), list(first), list(first)]
    assert len({tuple(order) for order in orders}) == 3
    second = make(seed=3)
    assert [list(second), list(second), list(second)] == orders
    assert list(make(seed=4)) != orders[0]
    same = make(seed=3, reshuffle_each_iteration=False)
    assert list(same) == list(same) == orders[0]
    passes = list(make(seed=3).repeat(2))
    assert passes == orders[0] + orders[1]
    assert len(first) == 50


def test_shuffle_without_a_seed_follows_the_random_generator():
    backend.set_random_seed(11)
    a, b = numbers(40).shuffle(40), numbers(40).shuffle(40)
    drawn = [list(a), list(b), list(a)]
    backend.set_random_seed(11)
    a, b = numbers(40).shuffle(40), numbers(40).shuffle(40)
    assert [list(a), list(b), list(a)] == drawn
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]
    fixed = numbers(40).shuffle(40, reshuffle_each_iteration=False)
    assert list(fixed) == list(fixed)


def test_a_full_buffer_gives_every_order():
    dataset = numbers(3).shuffle(3, seed=0)
    seen = [tuple(dataset) for _ in range(600)]
    counts = [seen.count(order) for order in itertools.permutations(range(3))]
    assert min(counts) > 60, counts


def test_map_and_filter_spread_tuples_and_pass_dicts_whole():
    pairs = Dataset.from_rows([(1, 2), (3, 4)])
    assert list(pairs.map(lambda a, b: a * 10 + b, num_parallel_calls=AUTOTUNE)) == [12, 34]
    assert list(pairs.filter(lambda a, b: a > 1)) == [(3, 4)]
    news = Dataset.from_rows([{"title": "a", "label": 0}, {"title": "b", "label": 3}])
    tupled = news.map(lambda x: (x["title"] + "!", x["label"]))
    assert list(tupled) == [("a!", 0), ("b!", 3)]
    texts, labels = next(iter(tupled.batch(2)))
    assert (texts.tolist(), labels.tolist()) == (["a!", "b!"], [0, 3])
    assert list(numbers(5).filter(lambda i: np.array(i % 2 == 0))) == [0, 2, 4]
    with pytest.raises(TypeError, match="predicate must return True or False"):
        list(numbers(5).filter(lambda i: np.array([True, False])))
    with pytest.raises(TypeError, match="predicate must return True or False, got None"):
        list(numbers(5).filter(lambda i: None))


# ---------------------------------------------------------------- batches


def test_batch_keeps_structure_and_dtypes():
    rows = [
        ({"text": "a much longer text\0", "x": np.float16([i, i])}, np.int8(i), 0.5, i, b"\0")
        for i in range(3)
    ]
    head, small, real, whole, raw = next(iter(Dataset.from_rows(rows).batch(3)))
    assert list(head) == ["text", "x"]
    assert head["text"].dtype == object and head["text"][2] == "a much longer text\0"
    assert head["x"].shape == (3, 2) and head["x"].dtype == np.float16
    assert (small.dtype, whole.dtype, real.dtype) == (np.int8, np.int64, backend.floatx())
    assert raw.tolist() == [b"\0"] * 3
    tokens = Dataset.from_rows([["a", "bcd"], ["efghij", "k"]]).batch(2)
    assert next(iter(tokens)).tolist() == [["a", "bcd"], ["efghij", "k"]]
    words = Dataset.from_tensor_slices(np.array([["a", "bcd"], ["efghij", "k"]])).batch(2)
    assert next(iter(words)).dtype == object


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (ragged([2, 3]), ValueError, r"element\[0\] has different shapes.*padded_batch"),
        ([(1, 2), (1, 2, 3)], ValueError, "element is a tuple of 2 and a tuple of 3"),
        ([(1, 2), 3], ValueError, "structure: element is a tuple of 2 and int 3"),
        ([3, (1, 2)], ValueError, "structure"),
        ([{"a": 1}, {"b": 1}], ValueError, r"keys \['a'\] and a dict with keys \['b'\]"),
        ([{"a": (1, 2)}, {"a": (1,)}], ValueError, r"element\['a'\] is a tuple"),
        ([1, 2.5], TypeError, "different dtypes within a batch: float32, int64"),
        (["a", 1], TypeError, "different dtypes within a batch: int64, object"),
        ([None, None], TypeError, "only numbers or only strings, got NoneType None"),
        ([[[1], [2, 3]]], ValueError, "list of lists of different lengths"),
    ],
)
def test_batch_refuses_elements_that_do_not_fit(rows, error, message):
    with pytest.raises(error, match=message):
        list(Dataset.from_rows(rows).batch(2))


def slow_padded(rows, length, fill):
    return [list(row) + [fill] * (length - len(row)) for row in rows]


@given(st.lists(st.integers(0, 7), max_size=20), sizes, st.integers(-5, 5))
def test_padded_batch_of_ids_and_label(lengths, size, fill):
    rows = ragged(lengths)
    dataset = Dataset.from_rows(rows).padded_batch(size, padding_values=(fill, None))
    batches = list(dataset)
    assert len(batches) == len(dataset) == -(-len(rows) // size)
    for k, (ids, labels) in enumerate(batches):
        part = rows[k * size : (k + 1) * size]
        longest = max(len(row) for row, _ in part)
        assert ids.tolist() == slow_padded([row for row, _ in part], longest, fill)
        assert ids.dtype == np.int32
        assert labels.tolist() == [label for _, label in part]


def test_padded_batch_of_more_dimensions_strings_and_lists():
    a, b = np.ones((2, 3)), np.full((1, 5), 2.0)
    both = next(iter(Dataset.from_rows([a, b]).padded_batch(2, padding_values=np.nan)))
    assert both.shape == (2, 2, 5) and both.dtype == np.float64
    np.testing.assert_array_equal(both[0, :2, :3], a)
    np.testing.assert_array_equal(both[1, :1], b)
    assert np.isnan(both).sum() == 20 - 6 - 5
    tokens = Dataset.from_rows([{"t": ["a", "b"]}, {"t": ["c"]}]).padded_batch(2)
    assert next(iter(tokens))["t"].tolist() == [["a", "b"], ["c", ""]]
    raw = Dataset.from_rows([[b"a", b"b"], [b"c"]]).padded_batch(2)
    assert next(iter(raw)).tolist() == [[b"a", b"b"], [b"c", b""]]
    empty_text = next(iter(Dataset.from_rows([[], [4, 5]]).padded_batch(2)))
    assert empty_text.tolist() == [[0, 0], [4, 5]] and empty_text.dtype == np.int64
    flags = Dataset.from_rows([[True], [True, True]]).padded_batch(2)
    assert next(iter(flags)).tolist() == [[True, False], [True, True]]


def test_padded_batch_with_shapes():
    rows = Dataset.from_rows(ragged([2, 3]))
    ids, labels = next(iter(rows.padded_batch(2, padded_shapes=([5], []))))
    assert ids.shape == (2, 5) and labels.shape == (2,)
    assert next(iter(rows.padded_batch(2, ((None,), None))))[0].shape == (2, 3)
    with pytest.raises(ValueError, match=r"element\[0\] is up to \[3\] long.*padded to \[2\]"):
        list(rows.padded_batch(2, ([2], [])))
    with pytest.raises(ValueError, match="structure of an element, a tuple of 2"):
        list(rows.padded_batch(2, ([2],)))
    with pytest.raises(ValueError, match=r"element\[1\] must be a shape of 0 dimensions"):
        list(rows.padded_batch(2, ([None], [None])))
    with pytest.raises(ValueError, match=r"element\[1\] must be a shape of 0 dimensions"):
        texts = rows.map(lambda ids, label: (ids, "text"))
        list(texts.padded_batch(2, ([None], [None])))
    with pytest.raises(ValueError, match=r"different numbers of dimensions.*\[1, 2\]"):
        list(Dataset.from_rows([np.ones(2), np.ones((2, 2))]).padded_batch(2))


@pytest.mark.parametrize(
    ("dtype", "fill"),
    [(np.int8, 300), (np.uint8, -1), (np.int32, 0.5), (np.int32, "x"), (np.float32, [0.0])],
)
def test_padding_values_must_fit(dtype, fill):
    rows = Dataset.from_rows([np.ones(2, dtype), np.ones(3, dtype)])
    with pytest.raises(TypeError, match="padding_values for element, of dtype"):
        list(rows.padded_batch(2, padding_values=fill))


# ---------------------------------------------------------------- buckets


def slow_buckets(lengths, boundaries, batch_sizes, drop):
    """Which elements come together, one range test at a time."""
    ranges = list(zip([0, *boundaries], [*boundaries, 10**9], strict=True))
    waiting = {r: [] for r in ranges}
    done = []
    for i, n in enumerate(lengths):
        (mine,) = [r for r in ranges if r[0] <= n < r[1]]
        waiting[mine].append(i)
        if len(waiting[mine]) == batch_sizes[ranges.index(mine)]:
            done.append(waiting[mine])
            waiting[mine] = []
    return done if drop else done + [waiting[r] for r in ranges if waiting[r]]


@given(
    st.lists(st.integers(0, 12), max_size=40),
    st.lists(st.integers(1, 12), max_size=4, unique=True).map(sorted),
    st.data(),
    st.booleans(),
)
def test_buckets_against_a_slow_oracle(lengths, boundaries, data, drop):
    n = len(boundaries) + 1
    batch_sizes = data.draw(st.lists(st.integers(1, 5), min_size=n, max_size=n))
    rows = ragged(lengths)
    dataset = Dataset.from_rows(rows).bucket_by_sequence_length(
        lambda ids, label: len(ids), boundaries, batch_sizes, drop_remainder=drop
    )
    batches = list(dataset)
    expected = slow_buckets(lengths, boundaries, batch_sizes, drop)
    assert [labels.tolist() for _, labels in batches] == expected
    for (ids, labels), part in zip(batches, expected, strict=True):
        longest = max(lengths[i] for i in part)
        assert ids.tolist() == slow_padded([rows[i][0] for i in labels], longest, 0)
        assert ids.dtype == np.int32


def test_a_bucket_leaves_the_moment_it_is_full():
    seen = []

    def source():
        for n in itertools.cycle([1, 5, 2]):
            seen.append(n)
            yield [n] * n

    dataset = Dataset.from_generator(source).bucket_by_sequence_length(len, [4], [2, 2])
    batches = iter(dataset)
    assert next(batches).tolist() == [[1, 0], [2, 2]]
    assert seen == [1, 5, 2]
    assert next(batches).shape == (2, 5)
    assert seen == [1, 5, 2, 1, 5]


def test_pad_to_bucket_boundary():
    def bucketed(lengths, **how):
        rows = Dataset.from_rows(ragged(lengths))
        return rows.bucket_by_sequence_length(
            lambda ids, label: len(ids), [4, 8], [2, 2, 2], pad_to_bucket_boundary=True, **how
        )

    shapes = [ids.shape for ids, _ in bucketed([1, 4, 7, 3, 0])]
    assert shapes == [(2, 7), (2, 3), (1, 3)]
    shapes = [ids.shape for ids, _ in bucketed([1, 4], padded_shapes=([None], []))]
    assert shapes == [(1, 3), (1, 7)]
    assert [ids.shape for ids, _ in bucketed([4], padded_shapes=([9], []))] == [(1, 9)]
    assert next(iter(bucketed([2], padding_values=(-1, 0))))[0].tolist() == [[100, 101, -1]]
    with pytest.raises(ValueError, match=r"below the last boundary \(8\), got 8"):
        list(bucketed([1, 8]))


def test_pad_to_bucket_boundary_does_not_pad_what_is_no_sequence():
    one_hot = Dataset.from_rows([([1, 2], np.eye(4)[1]), ([3, 4], np.eye(4)[2])])
    how = {"bucket_boundaries": [6], "bucket_batch_sizes": [2, 2], "pad_to_bucket_boundary": True}
    with pytest.raises(ValueError, match=r"element\[1\] has 4 rows.*length is 2.*padded_shapes"):
        list(one_hot.bucket_by_sequence_length(lambda ids, y: len(ids), **how))
    shaped = one_hot.bucket_by_sequence_length(
        lambda ids, y: len(ids), padded_shapes=([None], [4]), **how
    )
    ids, y = next(iter(shaped))
    assert (ids.shape, y.shape) == ((2, 5), (2, 4))


@pytest.mark.parametrize(
    ("boundaries", "batch_sizes", "error", "message"),
    [
        ([4, 8], [2, 2], ValueError, "expected 3, got 2"),
        ([8, 4], [2, 2, 2], ValueError, r"increase strictly, got \[8, 4\]"),
        ([4, 4], [2, 2, 2], ValueError, "increase strictly"),
        ([0, 4], [2, 2, 2], ValueError, r"bucket_boundaries\[0\] must be 1 or more, got 0"),
        ([4], [2, 0], ValueError, r"bucket_batch_sizes\[1\] must be 1 or more"),
        ([4.5], [2, 2], TypeError, r"bucket_boundaries\[0\] must be a whole number"),
        (4, [2, 2], TypeError, "bucket_boundaries must be a list of whole numbers, got int 4"),
    ],
)
def test_bucket_arguments(boundaries, batch_sizes, error, message):
    with pytest.raises(error, match=message):
        numbers(3).bucket_by_sequence_length(len, boundaries, batch_sizes)


def test_the_length_function_must_give_a_length():
    for bad, error in ((0.5, TypeError), (-1, ValueError)):
        dataset = numbers(3).bucket_by_sequence_length(lambda i, bad=bad: bad, [2], [1, 1])
        with pytest.raises(error, match="the result of element_length_func must be"):
            list(dataset)
    by_array = Dataset.from_rows([[1]]).bucket_by_sequence_length(np.size, [2], [1, 1])
    assert plain(by_array) == [[[1]]]


# ---------------------------------------------------------------- cache and prefetch


def test_cache_is_filled_by_the_first_complete_pass():
    walks = []

    def source():
        walk = []
        walks.append(walk)
        for i in range(5):
            walk.append(i)
            yield i

    dataset = Dataset.from_generator(source).cache()
    assert list(dataset.take(2)) == [0, 1]
    one, two = iter(dataset), iter(dataset)
    assert [next(one), next(two), next(one)] == [0, 0, 1]
    assert list(two) == [1, 2, 3, 4]
    assert list(one) == [2, 3, 4]
    assert [len(walk) for walk in walks] == [2, 5, 5]
    assert list(dataset) == list(dataset) == [0, 1, 2, 3, 4]
    assert len(walks) == 3


def test_cache_of_nothing_and_of_a_failure():
    assert list(Dataset.from_rows([]).cache().repeat(2)) == []
    broken = [True]

    def source():
        yield 1
        if broken:
            raise OSError("unreadable")
        yield 2

    dataset = Dataset.from_generator(source).cache()
    with pytest.raises(OSError, match="unreadable"):
        list(dataset)
    broken.clear()
    assert list(dataset) == list(dataset) == [1, 2]


def prefetch_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "minirnn-prefetch"]


@pytest.fixture
def no_threads_left():
    yield
    gc.collect()
    deadline = time.monotonic() + 5
    while prefetch_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not prefetch_threads()


@settings(max_examples=25)
@given(small_lists, st.sampled_from([1, 2, 7, AUTOTUNE]))
def test_prefetch_changes_nothing(xs, size):
    dataset = Dataset.from_rows(xs).prefetch(size)
    assert list(dataset) == list(dataset) == xs
    assert len(dataset) == len(xs)
    assert not prefetch_threads()


def test_prefetch_reads_ahead_but_not_without_bound(no_threads_left):
    seen, full = [], threading.Event()

    def source():
        for i in range(100):
            seen.append(i)
            if i == 4:
                full.set()
            yield i

    iterator = iter(Dataset.from_generator(source).prefetch(3))
    assert not seen  # nothing starts before the first element is asked for
    assert next(iterator) == 0
    assert full.wait(5)  # one taken, three ready, one that waits to be put
    time.sleep(0.05)
    assert len(seen) == 5
    iterator.close()


def test_an_error_of_the_source_comes_out_with_its_traceback(no_threads_left):
    def broken_step(i):
        if i == 3:
            raise KeyError("row three")
        return i

    seen = []
    with pytest.raises(KeyError, match="row three") as caught:
        for i in numbers(10).map(broken_step).prefetch(2):
            seen.append(i)
    assert seen == [0, 1, 2]
    assert "broken_step" in [frame.name for frame in traceback.extract_tb(caught.tb)]


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_an_abandoned_prefetch_stops_its_thread_and_its_source(taken, no_threads_left):
    closed = threading.Event()

    def source():
        try:
            yield from itertools.count()
        finally:
            closed.set()

    iterator = iter(Dataset.from_generator(source).prefetch(2).map(lambda i: i).prefetch(3))
    assert [next(iterator) for _ in range(taken)] == list(range(taken))
    del iterator
    if taken:
        assert closed.wait(5)


def test_an_abandoned_prefetch_with_an_error_waiting(no_threads_left):
    def source():
        yield 1
        raise RuntimeError("nobody is there to see it")

    for size in (1, 2):
        iterator = iter(Dataset.from_generator(source).prefetch(size))
        assert next(iterator) == 1
        iterator.close()


def test_take_of_a_prefetch_leaves_no_thread(no_threads_left):
    for _ in range(20):
        assert list(Dataset.from_generator(itertools.count).prefetch(2).take(3)) == [0, 1, 2]


# ---------------------------------------------------------------- lengths and wrong use


def test_lengths_where_they_are_not_known():
    assert unknown_length(3).cardinality() == -2
    assert numbers(3).filter(bool).cardinality() == -2
    assert unknown_length(3).take(2).cardinality() == -2
    assert unknown_length(3).batch(2).cardinality() == -2
    assert unknown_length(3).concatenate(numbers(2)).cardinality() == -2
    assert Dataset.zip(unknown_length(3), numbers(2)).cardinality() == -2
    endless = numbers(3).repeat()
    for dataset in (endless, endless.skip(9), endless.batch(2), numbers(1).concatenate(endless)):
        assert dataset.cardinality() == -1
    assert Dataset.zip(endless, numbers(4)).cardinality() == 4
    assert len(endless.take(7)) == 7
    assert list(endless.take(7)) == [0, 1, 2, 0, 1, 2, 0]
    assert numbers(0).repeat().cardinality() == 0
    with pytest.raises(TypeError, match=r"infinite: bound it with take\(n\)"):
        len(endless)
    with pytest.raises(TypeError, match="not known before it is walked"):
        len(unknown_length(3))
    assert list(unknown_length(3)) == [0, 1, 2]
    assert bool(unknown_length(3)) and bool(numbers(0))
    assert repr(numbers(3)) == "<Dataset of 3 elements>"
    assert repr(endless) == "<Dataset of infinitely many elements>"


def test_repeat_for_ever_of_nothing_ends():
    assert list(unknown_length(0).repeat()) == []
    assert list(numbers(2).repeat(-1).take(3)) == [0, 1, 0]


def test_an_empty_dataset_passes_through_everything():
    empty = numbers(0)
    for dataset in (
        empty.batch(3),
        empty.padded_batch(3),
        empty.shuffle(4, seed=1),
        empty.bucket_by_sequence_length(len, [2], [1, 1]),
        empty.prefetch(1),
        empty.map(str).filter(bool).take(2).skip(1).enumerate().cache(),
    ):
        assert list(dataset) == []


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda d, n: d.batch(n), "batch_size"),
        (lambda d, n: d.padded_batch(n), "batch_size"),
        (lambda d, n: d.shuffle(n), "buffer_size"),
        (lambda d, n: d.prefetch(n), "buffer_size"),
        (lambda d, n: d.take(n), "count"),
        (lambda d, n: d.skip(n), "count"),
        (lambda d, n: d.repeat(n), "count"),
        (lambda d, n: d.shuffle(3, seed=n), "seed"),
    ],
)
def test_numbers_are_checked(call, name):
    with pytest.raises(ValueError, match=f"{name} must be . or more, got -3"):
        call(numbers(5), -3)
    for wrong in (2.0, "2", True, [2]):
        with pytest.raises(TypeError, match=f"{name} must be a whole number, got"):
            call(numbers(5), wrong)
    call(numbers(5), np.int32(2))


def test_zero_is_too_small_where_something_must_be_held():
    for call in (Dataset.batch, Dataset.padded_batch, Dataset.shuffle, Dataset.prefetch):
        with pytest.raises(ValueError, match="must be 1 or more, got 0"):
            call(numbers(5), 0)


def test_functions_and_datasets_are_checked():
    for method in ("map", "filter"):
        with pytest.raises(TypeError, match="must be a function, got int 3"):
            getattr(numbers(5), method)(3)
    with pytest.raises(TypeError, match="element_length_func must be a function"):
        numbers(5).bucket_by_sequence_length(3, [1], [1, 1])
    with pytest.raises(TypeError, match="concatenate needs a Dataset, got list"):
        numbers(5).concatenate([1])
    with pytest.raises(TypeError, match="zip needs a Dataset, got list"):
        Dataset.zip(numbers(5), [1])
    with pytest.raises(ValueError, match="at least one dataset"):
        Dataset.zip()


def test_as_numpy_iterator():
    iterator = numbers(2).as_numpy_iterator()
    assert [next(iterator), next(iterator), next(iterator, "end")] == [0, 1, "end"]


# --- orders: what lets a training go on in the middle of a pass -----------------------------------


def shuffled(seed=None):
    return Dataset.from_rows(list(range(20))).shuffle(7, seed=seed).map(lambda x: x + 1).batch(3)


def values(dataset):
    return [batch.tolist() for batch in dataset]


def test_orders_bring_an_equal_pipeline_to_the_same_pass():
    first = shuffled()
    passes = []
    for _ in range(3):
        passes.append((first.orders, values(first)))
    assert passes[0][1] != passes[1][1] != passes[2][1]
    for orders, expected in reversed(passes):
        again = shuffled()  # with a seed of its own
        again.orders = orders
        assert values(again) == expected
        assert again.orders == [[orders[0][0], orders[0][1] + 1]]


def test_orders_of_all_shuffles_once_each():
    source = shuffled(1)
    joined = Dataset.zip(source, source.concatenate(shuffled(2))).take(5).prefetch(1)
    assert joined.orders == [[1, 0], [2, 0]]
    assert Dataset.from_rows([1]).repeat().skip(1).orders == []


def test_a_cache_keeps_the_order_of_its_first_pass_in_another_process_too():
    first = shuffled(3).cache()
    kept = values(first)
    orders = first.orders
    again = shuffled(3).cache()
    again.orders = orders
    assert values(again) == kept == values(first)


def test_orders_of_another_pipeline_are_refused():
    with pytest.raises(ValueError, match="expected those of 1 shuffles, received 2"):
        shuffled().orders = [[1, 1], [2, 2]]


def test_a_replay_that_finds_fewer_batches_than_were_had():
    from minirnn.walks import Replay

    walk = Replay(shuffled(1))
    next(walk), next(walk), next(walk)
    with pytest.raises(ValueError, match="expected at least 3 batches, as before; found 2"):
        Replay(shuffled(1).take(2), **walk.position())
