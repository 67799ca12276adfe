"""Training data that streams from files: each row once, in orders to be taken up anywhere."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import minirnn
from minirnn.batches import batches
from minirnn.data import Stream, shards
from minirnn.data.rows import NewsDataError, read_csv
from minirnn.data.stream import title, title_and_description

ROOT = Path(__file__).parent.parent
KINDS = ["csv", "array_record"]


def lines(count, start=0):
    """`count` rows of CSV, each another; some with quotation marks and line breaks inside."""
    extras = ["", ' ""so called""', ", again", "\nnext line", "\n\n\n", ' "", ""', " 東京"]
    return [
        f'"{i % 4 + 1}","Title {i}{extras[i % 7]}","Text {i}"\n'.encode()
        for i in range(start, start + count)
    ]


def write(folder, sizes, kind="csv"):
    """Files with so many rows each; their paths."""
    paths, start = [], 0
    for number, size in enumerate(sizes):
        path = folder / f"part-{number:03}.{kind}"
        rows = lines(size, start)
        if kind == "csv":
            path.write_bytes(b"".join(rows))
        else:
            writer = shards.array_record().ArrayRecordWriter(str(path), "group_size:1")
            for row in rows:
                writer.write(row)
            writer.close()
        paths.append(path)
        start += size
    return paths


@pytest.fixture(params=KINDS)
def kind(request):
    if request.param == "array_record":
        pytest.importorskip("array_record", reason="needs array_record, which tfds brings")
    return request.param


def listed(batch):
    if batch is None:
        return None
    texts, labels, weight = batch
    assert weight is None
    assert len(texts) == len(labels)
    return list(zip(texts, labels.tolist(), strict=True))


def rows_of(walk):
    return [row for batch in walk for row in listed(batch)]


def expected(paths, texts=title_and_description):
    """What the rows are, as the csv module reads whole files."""
    found = []
    for path in (path for path in paths if path.stat().st_size):
        rows = read_csv(path)
        column = rows.titles if texts is title else rows.texts()
        found += zip(column, rows.labels.tolist(), strict=True)
    return found


# --- which rows -----------------------------------------------------------------------------------

field = st.text(st.sampled_from('ab",\n\r \té東\u2028\x0b😀'), max_size=6)
row = st.tuples(st.sampled_from("1234"), field, field)


@st.composite
def csv_bytes(draw):
    """A file as programs write them: quoted where needed or everywhere, blank lines between."""
    ends = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    text = io.StringIO(newline="")
    for fields in draw(st.lists(row, min_size=1, max_size=12)):
        text.write(draw(st.sampled_from(["", "", "", ends, 2 * ends])))
        quoting = draw(st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
        if {"\n", "\r"} & set("".join(fields)):  # older csv modules quote only their own line ends
            quoting = csv.QUOTE_ALL
        csv.writer(text, quoting=quoting, lineterminator=ends).writerow(fields)
    whole = text.getvalue()
    if draw(st.booleans()):
        whole = whole.removesuffix(ends)
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + whole.encode()


@settings(deadline=None)
@given(
    st.lists(csv_bytes(), min_size=1, max_size=3),
    st.sampled_from([None, 1, 2, 7, 1000]),
    st.integers(1, 9),
    st.integers(3, 40),
)
@example([b'1,a,"b""\n""c"\n2,d,e\n'], None, 2, 6)  # a chunk ends between two quotation marks
@example([b"\xef\xbb\xbf\r\n\r\n1,a,b\r\n"], None, 2, 4)  # and one between \r and \n
def test_rows_are_those_of_the_csv_module(tmp_path_factory, files, buffer, batch_size, chunk):
    folder = tmp_path_factory.mktemp("rows")
    paths = []
    for number, content in enumerate(files):
        paths.append(folder / f"{number}.csv")
        paths[-1].write_bytes(content)
    with mock.patch.object(shards, "CHUNK", chunk):
        source = Stream(paths, batch_size, buffer, seed=1)
        walked = [listed(batch) for batch in source]
    found = list(itertools.chain.from_iterable(walked))
    if buffer is None:
        assert found == expected(paths)
    assert sorted(found) == sorted(expected(paths))
    assert {len(batch) for batch in walked[:-1]} <= {batch_size}
    assert len(walked) == -(-len(found) // batch_size)


@pytest.mark.parametrize("sizes", [[1], [7, 1, 13], [0, 5, 0], [3] * 40])
@pytest.mark.parametrize("buffer", [None, 1, 4, 10, 1000])
def test_every_row_once_in_each_epoch_and_each_in_another_order(tmp_path, kind, sizes, buffer):
    paths = write(tmp_path, sizes)
    source = Stream(write(tmp_path, sizes, kind), 4, buffer, seed=5, parse=title)
    epochs = [rows_of(source.walk()) for _ in range(3)]
    for rows in epochs:
        assert sorted(rows) == sorted(expected(paths, title))
    if buffer is None:
        assert all(rows == expected(paths, title) for rows in epochs)
    elif buffer > 1 and sum(sizes) > 10:
        assert len(set(map(tuple, epochs))) == 3
    again = Stream(tmp_path / f"*.{kind}", 4, buffer, seed=5, parse=title)
    assert [rows_of(again) for _ in range(3)] == epochs


def test_csv_and_array_record_give_the_same_batches(tmp_path):
    pytest.importorskip("array_record", reason="needs array_record, which tfds brings")
    sizes = [31, 4, 18]
    by_kind = [
        [listed(b) for b in Stream(write(tmp_path, sizes, kind), 5, 16, seed=2)] for kind in KINDS
    ]
    assert by_kind[0] == by_kind[1]


def test_a_block_mixes_files_of_one_class_each(tmp_path):
    for label in range(4):
        rows = [f"{label + 1},t,{i}\n" for i in range(500)]
        (tmp_path / f"{label}.csv").write_text("".join(rows))
    for _, labels, _ in itertools.islice(Stream(tmp_path, 100, 400, seed=1), 8):
        assert np.bincount(labels, minlength=4).min() > 10


def test_rows_change_their_places_within_a_block(tmp_path):
    paths = write(tmp_path, [100])
    order = [int(text.split()[-1]) for text, _ in rows_of(Stream(paths, 10, 25, seed=3))]
    for start in range(0, 100, 25):
        block = order[start : start + 25]
        assert sorted(block) == list(range(start, start + 25))
        assert block != sorted(block)
    shuffles = {tuple(place % 25 for place in order[s : s + 25]) for s in range(0, 100, 25)}
    assert len(shuffles) == 4  # each block in an order of its own


def test_without_a_seed_orders_come_from_the_library_s_generator(tmp_path):
    paths = write(tmp_path, [40])
    orders = []
    for seed in (1, 1, 2):
        minirnn.set_random_seed(seed)
        orders.append(rows_of(Stream(paths)))
    assert orders[0] == orders[1] != orders[2]


def test_length(tmp_path):
    with pytest.raises(TypeError, match="CsvShard"):
        len(Stream(write(tmp_path, [5])))
    assert Stream(tmp_path)  # there is one, however long it is
    pytest.importorskip("array_record", reason="needs array_record, which tfds brings")
    source = Stream(write(tmp_path, [5, 8], "array_record"), 2)
    assert len(source) == sum(1 for _ in source) == 7
    assert len(source.share(0, 3)) == sum(1 for _ in source.share(0, 3)) == 3


# --- going on from a position ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "buffer", "batch_size"),
    [([7, 1, 13], 5, 3), ([7, 1, 13], 4, 9), ([0, 3, 17], 100, 4), ([9, 6], None, 4), ([2], 1, 1)],
)
def test_going_on_from_every_place(tmp_path, kind, sizes, buffer, batch_size):
    paths = write(tmp_path, sizes, kind)

    def new(**changed):
        return Stream(paths, **{"batch_size": batch_size, "shuffle_buffer": buffer} | changed)

    whole, places, source = [], [], new(seed=9)
    for _ in range(3):
        walk = source.walk()
        places.append([walk.position()])
        whole.append([])
        for batch in walk:
            whole[-1].append(listed(batch))
            places[-1].append(walk.position())
    for epoch in range(3):
        for done, place in enumerate(json.loads(json.dumps(places[epoch]))):
            source = new(seed=done)  # the position tells the seed
            walk = source.walk(place)
            assert [listed(batch) for batch in walk] == whole[epoch][done:]
            if epoch < 2:
                assert [listed(batch) for batch in source] == whole[epoch + 1]
            # A position of a walk that was itself taken up, and another batch size.
            walk = new().walk(place)
            for batch in itertools.islice(walk, 2):
                assert listed(batch) == whole[epoch][done]
                done += 1
            rest = rows_of(new(batch_size=5).walk(walk.position()))
            assert rest == list(itertools.chain.from_iterable(whole[epoch][done:]))


GO_ON = """
import json, sys
from minirnn.data import Stream
files, places = json.loads(sys.stdin.read())
found = []
for place in places:
    source = Stream(files, 3, 5)
    found.append([[texts, labels.tolist()] for w in (source.walk(place), source.walk())
                  for texts, labels, _ in w])
print(json.dumps(found))
"""


def test_going_on_in_another_process(tmp_path):
    paths = write(tmp_path, [7, 1, 13])
    source = Stream(paths, 3, 5, seed=4)
    walk, places, whole = source.walk(), [], []
    places.append(walk.position())
    for batch in walk:
        whole.append([batch[0], batch[1].tolist()])
        places.append(walk.position())
    whole += [[texts, labels.tolist()] for texts, labels, _ in source.walk()]
    done = subprocess.run(
        [sys.executable, "-c", GO_ON],
        input=json.dumps([list(map(str, paths)), places]),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        timeout=100,
    )
    assert done.stderr == ""
    assert json.loads(done.stdout) == [whole[i:] for i in range(len(places))]


def test_a_position_is_small_and_costs_one_block(tmp_path):
    paths = write(tmp_path, [400] * 5)
    walk = Stream(paths, 7, 50, seed=1).walk()
    for _ in range(150):
        next(walk)
    place = walk.position()
    assert len(json.dumps(place)) < 500
    with mock.patch.object(shards, "CHUNK", 512):
        read = shards.CsvShard.chunk
        with mock.patch.object(shards.CsvShard, "chunk", autospec=True, side_effect=read) as reads:
            batch = next(Stream(paths, 7, 50).walk(place))
    assert listed(batch) == listed(next(walk))
    assert reads.call_count < 30  # of 150 in all the files


# --- a share of every batch -----------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=4).filter(sum),
    st.sampled_from([None, 1, 6, 100]),
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(0, 8),
    st.sampled_from(KINDS),
)
def test_shares_are_parts_of_the_batches_of_one(
    tmp_path_factory, sizes, buffer, batch_size, ranks, cut, kind
):
    if kind == "array_record":
        pytest.importorskip("array_record", reason="needs array_record, which tfds brings")
    paths = write(tmp_path_factory.mktemp("shares"), sizes, kind)
    one = Stream(paths, batch_size * ranks, buffer, seed=8).walk()
    walks = [Stream(paths, batch_size, buffer, seed=8).share(r, ranks).walk() for r in range(ranks)]
    parsed = []
    for done, batch in enumerate(one):
        n = len(batch[0])
        parts = [listed(next(walk)) for walk in walks]
        assert [0 if part is None else len(part) for part in parts] == [
            n * (r + 1) // ranks - n * r // ranks for r in range(ranks)
        ]
        assert [row for part in parts if part for row in part] == listed(batch)
        place = one.position()
        assert [walk.position() for walk in walks] == [place] * ranks
        if done == cut:  # on another number of processes
            walks = [
                Stream(paths, batch_size * ranks, buffer).share(0, 1).walk(place)
                if ranks == 1
                else Stream(paths, batch_size, buffer).share(r, ranks).walk(place)
                for r in range(ranks)
            ]
        parsed.append(place)
    assert all(next(walk, "end") == "end" for walk in walks)
    if len(parsed) > 1:  # one process goes on where several stopped
        source = Stream(paths, 1, buffer)
        rest = rows_of(source.walk(parsed[0]))
        assert len(rest) == sum(sizes) - batch_size * ranks


def test_only_the_rows_of_a_share_are_parsed(tmp_path, kind):
    paths = write(tmp_path, [50, 50], kind)
    parsed = []

    def parse(fields):
        parsed.append(fields[1])
        return title(fields)

    read = []
    if kind == "array_record":
        records = shards.ArrayRecordReader.records

        def counted(reader, numbers):
            read.extend(numbers)
            return records(reader, numbers)

        with mock.patch.object(shards.ArrayRecordReader, "records", counted):
            assert len(list(Stream(paths, 5, 30, seed=1, parse=parse).share(1, 4))) == 5
        assert len(read) == 25
    else:
        assert len(list(Stream(paths, 5, 30, seed=1, parse=parse).share(1, 4))) == 5
    assert len(parsed) == 25


# --- memory ---------------------------------------------------------------------------------------


def peak_of_a_pass(paths, vectorizer):
    tracemalloc.start()
    for _ in batches(Stream(paths, 10, 50, seed=1), vectorizer=vectorizer):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_rows(tmp_path):
    vectorizer = minirnn.layers.TextVectorization(vocabulary=["title", "text"])
    with mock.patch.object(shards, "CHUNK", 2048):
        peaks = []
        for count in (16, 16, 64):  # the first fills caches
            folder = tmp_path / f"{count}-{len(peaks)}"
            folder.mkdir()
            peaks.append(peak_of_a_pass(write(folder, [100] * count), vectorizer))
    assert peaks[2] < 1.2 * peaks[1] + 20_000  # 4,800 rows more take 1 MB


def test_the_ids_of_a_stream_are_not_kept(tmp_path):
    vectorizer = minirnn.layers.TextVectorization(vocabulary=["title"])
    source = batches(Stream(write(tmp_path, [30])), vectorizer=vectorizer)
    for ids, _, _ in source:
        assert ids.dtype == np.int32
    assert source.known == {}


def test_a_missing_quotation_mark_does_not_fill_the_memory(tmp_path):
    rows = [line for line in lines(3000) if line.count(b"\n") == 1]
    rows[10] = b'\n"1","never closed,"a"\n'
    (tmp_path / "a.csv").write_bytes(b"".join(rows))
    with mock.patch.object(shards, "CHUNK", 1000), mock.patch.object(shards, "LONGEST_ROW", 5000):
        found = re.escape("a.csv, line 12: the row that begins here does not end within 5,000")
        with pytest.raises(NewsDataError, match=found):
            list(Stream(tmp_path))
