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
from minirnn.cli import main
from minirnn.data import Dataset, Stream, shards
from minirnn.data.rows import NewsDataError, read_csv
from minirnn.data.stream import title_and_description, title_only

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
            writer = shards.array_record().ArrayRecordWriter(str(path), "group_size:4")
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
        column = rows.titles if texts is title_only else rows.texts()
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
    source = Stream(write(tmp_path, sizes, kind), 4, buffer, seed=5, parse=title_only)
    epochs = [rows_of(source.walk()) for _ in range(3)]
    for rows in epochs:
        assert sorted(rows) == sorted(expected(paths, title_only))
    if buffer is None:
        assert all(rows == expected(paths, title_only) for rows in epochs)
    elif buffer > 1 and sum(sizes) > 10:
        assert len(set(map(tuple, epochs))) == 3
    again = Stream(tmp_path / f"*.{kind}", 4, buffer, seed=5, parse=title_only)
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


def test_files_come_in_another_order_in_each_epoch(tmp_path):
    source = Stream(write(tmp_path, [2] * 60), 4, 4, seed=1)
    first = [{int(text.split()[-1]) // 2 for text in next(source.walk())[0]} for _ in range(5)]
    assert len(set().union(*first)) > 16  # so many are open at once


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
    with pytest.raises(TypeError, match="how many rows CSV files hold is not known"):
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
        return title_only(fields)

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
        for count in (50, 50, 1000):  # the first fills caches
            folder = tmp_path / f"{count}-{len(peaks)}"
            folder.mkdir()
            peaks.append(peak_of_a_pass(write(folder, [count] * 6), vectorizer))
    assert peaks[2] < 1.5 * peaks[1] + 50_000  # 5,700 rows more take 1.2 MB


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


# --- training -------------------------------------------------------------------------------------


def small_model(paths):
    minirnn.set_random_seed(3)
    vectorizer = minirnn.layers.TextVectorization()
    vectorizer.adapt(Stream(paths, seed=0).texts(20))
    model = minirnn.Sequential(
        [
            vectorizer,
            minirnn.layers.Embedding(vectorizer.vocabulary_size(), 3, mask_zero=True),
            minirnn.layers.SimpleRNN(2),
            minirnn.layers.Dense(4, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["acc"])
    model.build()
    return model


def same_weights(a, b):
    assert a.params.keys() == b.params.keys()
    return all(np.array_equal(value, b.params[key]) for key, value in a.params.items())


def test_a_model_learns_the_same_from_a_stream_as_from_its_batches_in_memory(tmp_path, kind):
    paths = write(tmp_path, [7, 1, 13], kind)
    source = Stream(paths, 4, 10, seed=6)
    orders = iter([list(source.walk()) for _ in range(2)])
    in_memory, streamed = small_model(paths), small_model(paths)
    in_memory.fit(Dataset.from_generator(lambda: next(orders)), epochs=2, verbose=0)
    history = streamed.fit(Stream(paths, 4, 10, seed=6), epochs=2, verbose=0)
    assert same_weights(in_memory, streamed)
    assert len(set(history.history["loss"])) == 2

    rows = [read_csv(path) for path in write(tmp_path, [7, 1, 13])]
    texts = [text for part in rows for text in part.texts()]
    labels = np.concatenate([part.labels for part in rows])
    in_order = Stream(paths, 5, None)
    assert np.array_equal(streamed.predict(in_order), streamed.predict(texts, batch_size=5))
    assert streamed.evaluate(in_order, verbose=0) == pytest.approx(
        streamed.evaluate(texts, labels, verbose=0), rel=1e-6
    )


class Killed(Exception):
    pass


class Kill(minirnn.callbacks.Callback):
    def __init__(self, after):
        self.left = after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.mark.parametrize("steps_per_epoch", [None, 4])
def test_a_checkpoint_knows_the_place_in_the_stream(tmp_path, steps_per_epoch):
    paths = write(tmp_path, [7, 1, 13])
    arguments = {"epochs": 3, "steps_per_epoch": steps_per_epoch, "verbose": 0}

    def fit(model, source, after=-1):
        checkpoint = minirnn.Checkpoint(tmp_path / "training", 1)
        model.fit(source, callbacks=[Kill(after)], checkpoint=checkpoint, **arguments)

    whole = small_model(paths)
    whole.fit(Stream(paths, 4, 10, seed=6), callbacks=[Kill(-1)], **arguments)
    for after in (1, 4, 5, 3):
        with pytest.raises(Killed):
            fit(small_model(paths), Stream(paths, 4, 10, seed=6), after)
    resumed = small_model(paths)
    fit(resumed, Stream(paths, 4, 10))
    assert same_weights(resumed, whole)

    with pytest.raises(minirnn.CheckpointError, match="there shuffle_buffer 10, here .* 11"):
        fit(small_model(paths), Stream(paths, 4, 11))
    model = small_model(paths)
    paths[1].write_bytes(b"".join(lines(2)))
    with pytest.raises(
        minirnn.CheckpointError, match=r"there file 2 part-001.csv, \d+ bytes, here"
    ):
        fit(model, Stream(paths, 4, 10))


def test_the_vocabulary_of_a_stream(tmp_path):
    paths = write(tmp_path, [30, 30])
    source = Stream(paths, 7, 20, seed=1)
    assert list(map(len, source.texts(16))) == [7, 7, 2]
    assert sum(map(len, source.texts())) == 60
    assert list(source.share(1, 3).texts(16)) == list(source.texts(16))  # the same in each process
    whole, streamed = (minirnn.layers.TextVectorization() for _ in range(2))
    whole.adapt([text for text, _ in expected(paths)])
    streamed.adapt(source.texts())
    assert streamed.get_vocabulary() == whole.get_vocabulary()
    first = rows_of(source.walk())  # asking for texts is no pass
    assert [text for batch in source.texts() for text in batch] == [text for text, _ in first]


def test_rows_of_another_kind(tmp_path):
    (tmp_path / "a.csv").write_text('5;"0.5"\n7;"1"\n'.replace(";", ","))

    def parse(fields):
        return [int(fields[0])] * 3, float(fields[1])

    [(x, y, weight)] = batches(Stream(tmp_path, 2, None, parse=parse))
    assert (x.tolist(), y.tolist(), weight) == ([[5] * 3, [7] * 3], [0.5, 1.0], None)


# --- what is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'"2","c"\n', "line 15: a row of 2 fields. Expected 3 fields: "),
        (b'\n\r\n"2","c","d","e"\n', "line 17: a row of 4 fields."),
        (b'"9","c","d"\r\n', "line 15: the class '9'. Expected 1 to 4: "),
        (b'"2","a "b" c","d"\n', "line 15: the quotation marks of the row that begins here do not"),
        (b'\n2,5" disk,d\n', "line 16: the quotation marks of the row that begins here do not"),
        (b'2,5" disk,"d\ne"\n', "line 15: the quotation marks of the row that begins here do not"),
        (
            b'"2","caf\xe9","d"\n',
            "line 15: in the row that begins here, the byte 0xe9 is not UTF-8",
        ),
    ],
)
@pytest.mark.parametrize("buffer", [None, 3, 1000])
def test_a_wrong_row_has_a_file_and_a_line(tmp_path, content, message, buffer):
    write(tmp_path, [5, 30, 5])
    rows = lines(30, 5)
    assert sum(row.count(b"\n") for row in rows[:10]) == 14
    rows[10] = content
    broken = tmp_path / "part-001.csv"
    broken.write_bytes(b"".join(rows))
    with pytest.raises(NewsDataError, match=re.escape(f"{broken}, {message}")):
        for _ in Stream(tmp_path, 4, buffer, seed=1):
            pass
    # Also where reading began in the middle.
    walk = Stream(tmp_path, 1, buffer, seed=1).walk()
    place = walk.position()
    with pytest.raises(NewsDataError) as caught:
        for _ in walk:
            place = walk.position()
    with pytest.raises(NewsDataError) as again:
        list(Stream(tmp_path, 1, buffer).walk(place))
    assert str(again.value) == str(caught.value)


def test_a_row_that_would_take_in_the_next_one(tmp_path):
    """For the csv module these two lines are a row, for who counts quotation marks they are two."""
    (tmp_path / "a.csv").write_bytes(b'1,a,b\n1,5" disk,"c\nd"\n')
    with pytest.raises(NewsDataError, match="line 2: the quotation marks of the row that begins"):
        list(Stream(tmp_path, 4, None))


def test_a_wrong_record_has_a_file_and_a_number(tmp_path):
    pytest.importorskip("array_record", reason="needs array_record, which tfds brings")
    write(tmp_path, [4], "array_record")
    writer = shards.array_record().ArrayRecordWriter(str(tmp_path / "z.array_record"), "")
    for line in (*lines(3), b'"7","a","b"\n'):
        writer.write(line)
    writer.close()
    with pytest.raises(NewsDataError, match=r"z\.array_record, record 3: the class '7'"):
        list(Stream(tmp_path, 3, 100, seed=1))


@pytest.mark.parametrize(
    ("parse", "message"),
    [
        (lambda fields: (fields[1], int(fields[7])), r"line 1: <lambda> .*IndexError"),
        (lambda fields: fields[1], r"line 1: <lambda> could not make a text and a label"),
        (lambda fields: (fields[1], fields[0]), r"a number for a label, received '1'"),
        (lambda fields: (fields[1], [1] * int(fields[0])), r"a batch of rows: .* inhomogeneous"),
    ],
)
def test_a_function_that_does_not_fit_the_rows(tmp_path, parse, message):
    write(tmp_path, [5])
    with pytest.raises(NewsDataError, match=message):
        list(Stream(tmp_path, 4, None, parse=parse))


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(NewsDataError, match=r"no such file. Expected a folder, a file, or a patt"):
        Stream(tmp_path / "train-*.csv")
    with pytest.raises(
        NewsDataError, match=r"no such file. Expected files whose names end in .csv"
    ):
        Stream(tmp_path)
    with pytest.raises(NewsDataError, match="at least one file, received an empty list"):
        Stream([])
    with pytest.raises(NewsDataError, match=r"Cannot read .*gone.csv: No such file"):
        Stream([tmp_path / "gone.csv"])
    (tmp_path / "a.csv").write_bytes(b"\n\n")
    with pytest.raises(NewsDataError, match="the files hold no row"):
        list(Stream(tmp_path))
    (tmp_path / "a.csv.gz").write_bytes(b"")
    with pytest.raises(NewsDataError, match=r"a.csv.gz: a packed file .* Unpack it"):
        Stream(tmp_path / "*.gz")
    (tmp_path / "b.array_record").write_bytes(b"")
    with pytest.raises(NewsDataError, match="files of one kind"):
        Stream(tmp_path)


@pytest.mark.parametrize("grown", [True, False])
def test_a_file_that_changes_while_it_is_read(tmp_path, kind, grown, monkeypatch):
    monkeypatch.setattr("minirnn.data.stream.BLOCK", 20)
    monkeypatch.setattr("minirnn.data.shards.CHUNK", 512)
    paths = write(tmp_path, [50, 50], kind)
    walk = Stream(paths, 5, None).walk()
    next(walk)
    content = paths[1].read_bytes()
    paths[1].write_bytes(content + content if grown else content[:-50])
    with pytest.raises(NewsDataError, match=rf"part-001.{kind} has changed: it had [\d,]+ bytes"):
        list(walk)
    paths[1].unlink()
    walk = Stream(paths[:1], 5, None).walk()
    paths[0].unlink()
    with pytest.raises(NewsDataError, match=r"Cannot read .*part-000"):
        list(walk)


def test_array_record_files_that_are_none(tmp_path, monkeypatch):
    pytest.importorskip("array_record", reason="needs array_record, which tfds brings")
    [path] = write(tmp_path, [50], "array_record")
    whole = path.read_bytes()
    for content in (b"", b"abc", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(NewsDataError, match=r"part-000.array_record: this is no array_record"):
            list(Stream(tmp_path))
    flipped = bytearray(whole)
    flipped[1000] ^= 255
    path.write_bytes(flipped)
    with pytest.raises(NewsDataError, match=r"part-000.array_record: damaged or changed"):
        list(Stream(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None)
    with pytest.raises(NewsDataError, match=r'array_record is not installed.*"minirnn\[tfds\]"'):
        list(Stream(tmp_path))


def test_positions_of_other_streams(tmp_path):
    paths = write(tmp_path, [7, 9])
    walk = Stream(paths, 2, 5, seed=1).walk()
    next(walk)
    place = walk.position()
    with pytest.raises(ValueError, match="made with 5, and this stream has 6"):
        Stream(paths, 2, 6).walk(place)
    with pytest.raises(NewsDataError, match="expected the 2 files .* found 1"):
        Stream(paths[:1], 2, 5).walk(place)
    with pytest.raises(NewsDataError, match="expected 'part-000.csv', as when the position was"):
        Stream(paths[::-1], 2, 5).walk(place)
    wrong = {
        "epoch": [-1, "1", None, True, 1.5],
        "row": [-1],
        "begun": [3],
        "open": [[[2, 0]], [[0, 10**9]], [[0]], [[0, -1]], 5, "ab"],
        "files": [7, [7]],
        "seed": [-1],
    }
    for key, values in wrong.items():
        for value in values:
            with pytest.raises(ValueError, match="position: "):
                Stream(paths, 2, 5).walk(place | {key: value})
        with pytest.raises(ValueError, match="expected what Walk.position"):
            Stream(paths, 2, 5).walk({name: place[name] for name in place if name != key})
    with pytest.raises(ValueError, match="expected what Walk.position"):
        Stream(paths, 2, 5).walk([])
    paths[0].write_bytes(b"".join(lines(8)))
    with pytest.raises(NewsDataError, match="bytes when the position was made, and now has"):
        Stream(paths, 2, 5).walk(place)


def test_arguments(tmp_path):
    write(tmp_path, [3])
    for name in ("batch_size", "shuffle_buffer"):
        for value in (0, -1, 1.5, "3", True):
            with pytest.raises(ValueError, match=f"{name}: expected a positive whole number"):
                Stream(tmp_path, **{name: value})
    for seed in (-1, 0.5, True):
        with pytest.raises(ValueError, match="seed: expected a whole number from 0 up"):
            Stream(tmp_path, seed=seed)
    with pytest.raises(TypeError, match="parse: expected a function"):
        Stream(tmp_path, parse="title")
    with pytest.raises(ValueError, match="ranks: expected a positive"):
        Stream(tmp_path).share(0, 0)
    for rank in (-1, 2):
        with pytest.raises(ValueError, match="rank: expected 0 to 1, received"):
            Stream(tmp_path).share(rank, 2)
    with pytest.raises(ValueError, match="rows: expected a positive"):
        next(Stream(tmp_path).texts(0))


# --- the command ----------------------------------------------------------------------------------


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command_trains_on_a_stream(tmp_path, kind, capsys):
    for name, size in (("train", 60), ("test", 8)):
        for number, path in enumerate(write(tmp_path, [size, size], kind)):
            path.rename(tmp_path / f"{name}-{number}.{kind}")
    train = ("train", "--model", "rnn-title", "--stream", "--shuffle-buffer", 50, "--data")
    code, out, err = run(capsys, *train, tmp_path)
    assert (code, err) == (0, "")
    assert f"files in {tmp_path}: training rows stream from 2 files, and 16 test rows." in out
    assert "of the first 120 titles" in out
    assert "Training on the rows that stream from these files, 16 a step, for 1 epoch" in out
    assert "Accuracy on the 16 test rows" in out
    by_pattern = run(capsys, *train, tmp_path / f"train-*.{kind}")[1]
    assert by_pattern[by_pattern.index("Accuracy") :] == out[out.index("Accuracy") :]


def test_the_command_says_what_it_needs_for_a_stream(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MINIRNN_AG_NEWS", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
    train = ("train", "--stream", "--data")
    for where in ("sample", "tfds"):
        code, _, err = run(capsys, *train, where)
        assert (code, err.count("\n")) == (2, 1)
        assert "Rows stream from files: expected a folder that holds train.csv" in err
    write(tmp_path, [5])
    assert "holds no file of train rows" in run(capsys, *train, tmp_path)[2]
    (tmp_path / "part-000.csv").rename(tmp_path / "train.csv")
    assert "holds no file of test rows. Expected test.csv" in run(capsys, *train, tmp_path)[2]
    (tmp_path / "test.csv").write_bytes(b"".join(lines(3)))
    assert "expected training files alone" in run(capsys, *train, tmp_path / "*.csv")[2]
    assert "leave out --stream" in run(capsys, *train, tmp_path, "--take", 2)[2]
    monkeypatch.setenv("MINIRNN_AG_NEWS", str(tmp_path))
    code, out, _ = run(capsys, "train", "--stream", "--model", "rnn-title")
    assert code == 0
    assert "stream from 1 file, and 3 test rows." in out
