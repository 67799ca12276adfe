"""AG News from CSV files, from TensorFlow Datasets without TensorFlow, and the choice of source.

No row here is from AG News, and nothing is downloaded: tfds prepares a tiny archive made here.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.machinery
import importlib.util
import io
import json
import os
import re
import sys
import tarfile
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn.data import Stream, tfds_source
from minirnn.data.ag_news import (
    CLASS_NAMES,
    NewsDataError,
    Rows,
    load,
    load_for_streaming,
    read_csv,
    write_csv,
)


def make_rows(count, seed=0):
    """`count` made-up rows with quotes, commas, line breaks and letters beyond ASCII in them."""
    random = np.random.default_rng(seed)
    extras = ["", ' "so called"', ", again", "\nnext line", " \\ #39;s", " naïve 東京"]
    titles = [f"Title {i}{random.choice(extras)}" for i in range(count)]
    descriptions = [f"Text {i} of {seed}{random.choice(extras)}." for i in range(count)]
    return Rows(titles, descriptions, random.integers(0, 4, count).astype(np.int32))


def as_tuples(rows):
    return list(zip(rows.titles, rows.descriptions, rows.labels.tolist(), strict=True))


@pytest.fixture
def folder(tmp_path):
    """A folder with 13 training and 5 test rows."""
    path = tmp_path / "csv"
    path.mkdir()
    write_csv(make_rows(13), path / "train.csv")
    write_csv(make_rows(5, seed=1), path / "test.csv")
    return path


@pytest.fixture
def no_source(tmp_path, monkeypatch):
    """A machine with neither the environment variable nor anything prepared by tfds."""
    monkeypatch.delenv("MINIRNN_AG_NEWS", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))


# Rows.


def test_rows():
    rows = make_rows(11)
    assert len(rows) == 11
    assert as_tuples(rows[2:5]) == as_tuples(rows)[2:5]
    assert as_tuples(rows.take(3)) == as_tuples(rows)[:3]
    assert len(rows.take(99)) == 11
    assert rows.texts()[4] == f"{rows.titles[4]} {rows.descriptions[4]}"
    assert rows[:2].labels.dtype == np.int32


def test_rows_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="2 titles, 1 descriptions and 2 labels"):
        Rows(["a", "b"], ["c"], np.array([0, 1]))
    with pytest.raises(ValueError, match=r"labels must be 0 to 3 \(World, .*got 4 in row 1\."):
        Rows(["a", "b"], ["c", "d"], np.array([0, 4]))
    with pytest.raises(ValueError, match=r"one integer a row, got shape \(2,\) of float64"):
        Rows(["a", "b"], ["c", "d"], np.array([0.0, 1.0]))
    with pytest.raises(TypeError, match=r"slices such as rows\[:100\], got 3"):
        make_rows(5)[3]
    with pytest.raises(ValueError, match="0 rows or more, received -1"):
        make_rows(5).take(-1)


# CSV files.


def test_read_csv_as_published(tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(
        b'"3","Wall St. Bears Claw Back","Short-sellers, a ""dwindling\\band"" of #39;ultras."\n'
        b'"1","","two\nlines"\r\n'
        b"\n"
        b"4,no quotes,&lt;b&gt;kept&lt;/b&gt;"
    )
    rows = read_csv(path)
    assert as_tuples(rows) == [
        ("Wall St. Bears Claw Back", 'Short-sellers, a "dwindling\\band" of #39;ultras.', 2),
        ("", "two\nlines", 0),
        ("no quotes", "&lt;b&gt;kept&lt;/b&gt;", 3),
    ]
    assert rows.labels.dtype == np.int32


def test_read_csv_takes_a_byte_order_mark(tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(b'\xef\xbb\xbf"2","a","b"\n')
    assert as_tuples(read_csv(path)) == [("a", "b", 1)]


_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@given(st.lists(st.tuples(_text, _text, st.integers(0, 3)), min_size=1, max_size=8))
def test_csv_round_trip(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    titles, descriptions, labels = (list(column) for column in zip(*rows, strict=True))
    write_csv(Rows(titles, descriptions, np.array(labels)), path)
    assert as_tuples(read_csv(path)) == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", 'line 1: the file holds no row. Expected "class 1-4","title","description"'),
        (b"\n\n", "line 1: the file holds no row."),
        (b'"1","a","b"\n"2","c"\n', "line 2: a row of 2 fields. Expected 3 fields: "),
        (b'"1","a\n\nb","c"\n"2","d","e","f"\n', "line 4: a row of 4 fields."),
        (b'"1"\n', "line 1: a row of 1 field."),
        (b'"1","a","b"\n"5","c","d"\n', "line 2: the class '5'. Expected 1 to 4: "),
        (b'"0","a","b"\n', "line 1: the class '0'."),
        (b"World,a,b\n", "line 1: the class 'World'."),
        (b"1.0,a,b\n", "line 1: the class '1.0'."),
        (b"Class Index,Title,Description\n1,a,b\n", "with no header line"),
        (b'"1","a","b"\n"2","a "b" c","d"\n', "the row that begins in line 2: "),
        (b'"1","a","b"\n\n"2","never closed\n\n', "the row that begins in line 3: "),
        (b'"1","a","b"\n"2","caf\xe9","d"\n', "line 2: the byte 0xe9 is not UTF-8."),
    ],
)
def test_read_csv_names_the_file_the_line_and_what_was_expected(tmp_path, content, message):
    path = tmp_path / "broken.csv"
    path.write_bytes(content)
    with pytest.raises(NewsDataError, match=re.escape(message)) as caught:
        read_csv(path)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_read_csv_without_a_file(tmp_path):
    with pytest.raises(NewsDataError, match=r"Cannot read .*missing\.csv: No such file"):
        read_csv(tmp_path / "missing.csv")


def test_the_real_rows():
    where = os.environ.get("MINIRNN_AG_NEWS")
    if not where:
        pytest.skip("MINIRNN_AG_NEWS does not name a folder with the real AG News")
    data = load()
    assert data.source == "csv"
    assert len(data.test) == 7600
    assert np.bincount(data.test.labels).tolist() == [1900] * 4


# The choice of source.


def test_a_folder(folder):
    for source in str(folder), folder:
        data = load(source)
        assert as_tuples(data.train) == as_tuples(make_rows(13))
        assert as_tuples(data.test) == as_tuples(make_rows(5, seed=1))
        assert data.source == "csv"
        assert data.class_names == CLASS_NAMES == ("World", "Sports", "Business", "Sci/Tech")
        assert data.description == (
            f"AG News from CSV files in {folder}: 13 training rows and 5 test rows."
        )


def test_a_wrong_folder(tmp_path, folder):
    with pytest.raises(NewsDataError, match="The data source names '.*/no', which is not a folder"):
        load(tmp_path / "no")
    with pytest.raises(NewsDataError, match=r"has no train\.csv and no test\.csv\. Expected"):
        load(tmp_path)
    (folder / "test.csv").unlink()
    with pytest.raises(NewsDataError, match=r'has no test\.csv\. Expected .* "tfds" or "sample"'):
        load(folder)


def test_the_environment_variable_comes_first(no_source, monkeypatch, folder):
    monkeypatch.setenv("MINIRNN_AG_NEWS", str(folder))
    assert load().source == "csv"
    assert load("sample").source == "sample"  # what is asked for by name goes before it


def test_a_wrong_environment_variable_is_an_error(no_source, monkeypatch, tmp_path):
    monkeypatch.setenv("MINIRNN_AG_NEWS", str(tmp_path / "gone"))
    message = "environment variable MINIRNN_AG_NEWS names '.*gone', which is not a folder"
    with pytest.raises(NewsDataError, match=message):
        load()


def test_without_any_source_the_sample_says_that_it_is_one(no_source, monkeypatch):
    monkeypatch.setattr(tfds_source, "_import_tfds", mock.Mock(side_effect=AssertionError))
    data = load()
    assert data.source == "sample"
    assert data.description == (
        "A generated sample of toy news, not AG News: 6,000 training rows and 1,500 test rows."
    )
    assert load(seed=5).train.titles != data.train.titles


def test_missing_packages_are_named(no_source, monkeypatch):
    real = importlib.util.find_spec
    for package in "tensorflow_datasets", "importlib_resources":
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *rest, package=package: None if name == package else real(name, *rest),
        )
        if package == "importlib_resources" and real("tensorflow_datasets") is None:
            continue
        message = f'{package} is not installed, .*pip install "minirnn\\[tfds\\]".*MINIRNN_AG_NEWS'
        with pytest.raises(NewsDataError, match=message):
            load("tfds")


# TensorFlow Datasets.


@pytest.fixture
def tfds(monkeypatch):
    """tensorflow_datasets, with TensorFlow hidden and every network connection an error."""
    real = importlib.machinery.PathFinder.find_spec

    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] == "tensorflow" else real(name, path, target)

    monkeypatch.setattr(importlib.machinery.PathFinder, "find_spec", staticmethod(find_spec))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tfds and what it imports
        module = pytest.importorskip("tensorflow_datasets", reason="needs tensorflow-datasets")
        pytest.importorskip("importlib_resources", reason="tfds needs importlib_resources")
        yield module


@pytest.fixture
def online(monkeypatch):
    """Calls of the connection check and of the network; here it never answers."""
    import_requests = pytest.importorskip("requests", reason="comes with tensorflow-datasets")
    calls = []

    def refuse(session, method, url, **kwargs):
        calls.append((method.upper(), url, kwargs.get("timeout")))
        raise import_requests.ConnectionError("refused by the test")

    monkeypatch.setattr(import_requests.Session, "request", refuse)
    return calls


def tiny_archive(train, test):
    """The bytes of a tar.gz laid out like that of AG News."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, rows in ("train", train), ("test", test):
            text = io.StringIO()
            writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
            writer.writerows((label + 1, title, body) for title, body, label in as_tuples(rows))
            content = text.getvalue().encode()
            member = tarfile.TarInfo(f"ag_news_csv/{name}.csv")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)


@pytest.fixture
def cached(tfds, tmp_path, monkeypatch, online):
    """A tfds folder in whose download cache lies a tiny archive, as the one on record."""
    from tensorflow_datasets.core.download import checksums, resource

    data_dir = tmp_path / "tfds"
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    monkeypatch.delenv("MINIRNN_AG_NEWS", raising=False)
    builder = tfds.builder("ag_news_subset", data_dir=data_dir)
    content = tiny_archive(make_rows(1100), make_rows(31, seed=1))
    (url,) = builder.url_infos
    info = checksums.UrlInfo(
        size=tfds.core.utils.Size(len(content)),
        checksum=hashlib.sha256(content).hexdigest(),
        filename="ag_news_csv.tar.gz",
    )
    monkeypatch.setitem(builder.url_infos, url, info)  # one dict for all builders of this class
    monkeypatch.setattr(checksums, "get_all_url_infos", dict)
    name = resource.get_dl_fname(url, info.checksum)
    archive = data_dir / "downloads" / "ag_news_subset" / name
    archive.parent.mkdir(parents=True)
    archive.write_bytes(content)
    Path(f"{archive}.INFO").write_text(
        json.dumps(
            {
                "dataset_names": ["ag_news_subset"],
                "urls": [url],
                "original_fname": info.filename,
                "url_info": {"checksum": info.checksum, "size": info.size, "filename": None},
            }
        )
    )
    return archive


def test_tfds_prepares_and_reads_without_tensorflow(cached, online):
    before = sys.modules.get("tensorflow")  # another test may have brought it in
    data = load("tfds")
    assert sorted(as_tuples(data.train)) == sorted(as_tuples(make_rows(1100)))
    assert sorted(as_tuples(data.test)) == sorted(as_tuples(make_rows(31, seed=1)))
    assert data.train.labels.dtype == np.int32
    assert data.source == "tfds"
    assert data.description == (
        "AG News from TensorFlow Datasets (ag_news_subset 1.0.0): "
        "1,100 training rows and 31 test rows."
    )
    assert sys.modules.get("tensorflow") is before
    assert online == []
    prepared = tfds_source.prepared_folder()
    assert prepared == cached.parents[2] / "ag_news_subset" / "1.0.0"
    assert list(prepared.glob("*.array_record*"))
    assert not [path for path in cached.parents[2].rglob("*") if "incomplete" in path.name]


def test_what_is_prepared_is_taken_by_itself_and_from_the_copy(cached, online, monkeypatch):
    first = load("tfds")
    monkeypatch.setattr(tfds_source, "_import_tfds", mock.Mock(side_effect=AssertionError))
    for source in None, "tfds":
        data = load(source)
        assert data.source == "tfds"
        assert as_tuples(data.train) == as_tuples(first.train)
        assert as_tuples(data.test) == as_tuples(first.test)
    assert online == []


def test_a_copy_that_does_not_fit_is_made_again(cached):
    first = load("tfds")
    prepared = tfds_source.prepared_folder()
    copy = prepared.parent / "minirnn-1.0.0"

    def write_other_rows():
        (copy / "test.csv").write_bytes((copy / "train.csv").read_bytes())

    def prepare_anew():
        info = prepared / "dataset_info.json"
        info.write_text(info.read_text() + "\n")

    damages = {
        "other rows": write_other_rows,
        "broken record": lambda: (copy / "record.json").write_text("{"),
        "prepared anew": prepare_anew,
        "file gone": (copy / "train.csv").unlink,
    }
    for name, damage in damages.items():
        damage()
        assert tfds_source._read_copy(prepared) is None, name
        assert as_tuples(load("tfds").test) == as_tuples(first.test), name
        assert as_tuples(tfds_source._read_copy(prepared)[1]) == as_tuples(first.test), name


def test_what_tfds_has_prepared_streams_and_is_the_same(cached):
    data = load("tfds")
    files, streamed = load_for_streaming("tfds")
    assert [path.parent for path in files] == [tfds_source.prepared_folder()]
    assert sorted(as_tuples(streamed.test)) == sorted(as_tuples(make_rows(31, seed=1)))
    assert len(streamed.train) == 0
    rows = [
        (text, label)
        for texts, labels, _ in Stream(files, 100, 50, seed=1)
        for text, label in zip(texts, labels.tolist(), strict=True)
    ]
    assert sorted(rows) == sorted(zip(data.train.texts(), data.train.labels.tolist(), strict=True))


def test_without_a_place_for_the_copy_all_else_works(cached, monkeypatch):
    monkeypatch.setattr(tfds_source, "write_csv", mock.Mock(side_effect=PermissionError))
    assert len(load("tfds").train) == 1100
    assert not list(tfds_source.prepared_folder().parent.glob("minirnn*"))
    assert not list(tfds_source.prepared_folder().parent.glob("incomplete*"))


def test_a_damaged_archive_is_refused(cached, online):
    content = bytearray(cached.read_bytes())
    content[len(content) // 2] ^= 1
    cached.write_bytes(content)
    with pytest.raises(NewsDataError) as caught:
        load("tfds")
    message = str(caught.value)
    assert f"{cached} is not the archive of AG News that tfds has on record" in message
    assert hashlib.sha256(content).hexdigest() in message
    assert "Delete it and try again." in message
    assert tfds_source.prepared_folder() is None
    assert not (cached.parents[1] / "extracted").exists()
    assert online == []


def test_an_archive_put_there_by_hand(cached, online):
    by_hand = cached.parents[1] / "manual" / "ag_news_csv.tar.gz"
    by_hand.parent.mkdir()
    cached.rename(by_hand)
    assert len(load("tfds").test) == 31
    assert online == []


def test_a_half_unpacked_archive_is_unpacked_again(cached):
    folder = cached.parents[1] / "extracted" / f"TAR_GZ.{cached.name}" / "ag_news_csv"
    folder.mkdir(parents=True)
    write_csv(make_rows(3), folder / "train.csv")
    assert len(load("tfds").train) == 1100


def test_offline_it_fails_at_once_and_leaves_nothing(cached, online):
    cached.unlink()
    with pytest.raises(NewsDataError) as caught:
        load("tfds")
    message = str(caught.value)
    assert "https://drive.google.com, from where tfds downloads it, does not answer" in message
    assert "set MINIRNN_AG_NEWS to a folder" in message
    assert "--data FOLDER" in message
    assert "--data sample" in message
    ((method, url, timeout),) = online  # asked once
    assert (method, url) == ("HEAD", "https://drive.google.com")
    assert timeout <= 5
    assert not list(cached.parent.glob("*.tmp.*"))


def test_a_download_that_fails_half_way_leaves_nothing(cached, tfds, monkeypatch):
    cached.unlink()
    monkeypatch.setattr(tfds_source, "_check_connection", lambda url: None)
    monkeypatch.setattr(
        "tensorflow_datasets.core.download.downloader._open_url",
        mock.Mock(side_effect=OSError("cut off")),
    )
    with pytest.raises(NewsDataError, match=r"from https://drive.* failed: OSError: cut off\. "):
        load("tfds")
    assert not list(cached.parent.glob("*.tmp.*"))


def test_a_download(cached, tfds, monkeypatch):
    """The archive comes through tfds's own downloader, with only the connection replaced."""
    content = cached.read_bytes()
    cached.unlink()
    Path(f"{cached}.INFO").unlink()
    monkeypatch.setattr(tfds_source, "_check_connection", lambda url: None)
    response = mock.Mock(
        url="https://drive.google.com/uc",
        headers={"content-disposition": 'attachment; filename="ag_news_csv.tar.gz"'},
    )
    connection = mock.MagicMock()
    connection.__enter__.return_value = response, [content[:999], content[999:]]
    monkeypatch.setattr(
        "tensorflow_datasets.core.download.downloader._open_url", lambda *a, **k: connection
    )
    assert len(load("tfds").train) == 1100
    assert cached.read_bytes() == content


def test_lost_rows_are_noticed(cached, tfds, monkeypatch):
    """As tfds loses them with parquet: fewer rows are stored than its own record says."""
    from tensorflow_datasets.core.data_sources.array_record import ArrayRecordDataSource

    real = ArrayRecordDataSource.__len__
    monkeypatch.setattr(ArrayRecordDataSource, "__len__", lambda self: real(self) - 7)
    with pytest.raises(NewsDataError, match=r"Rows were lost: tfds has 1,100 rows .* 1,093 can be"):
        load("tfds")
    assert not (tfds_source.prepared_folder().parent / "minirnn-1.0.0").exists()


def test_a_format_that_only_tensorflow_reads(cached, tfds, monkeypatch):
    if "tensorflow" in sys.modules:
        pytest.skip("another test has imported TensorFlow, and then it can be read")
    load("tfds")
    prepared = tfds_source.prepared_folder()
    info = prepared / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    for path in prepared.glob("*.array_record*"):
        path.rename(str(path).replace("array_record", "tfrecord"))
    message = r"1\.0\.0 was prepared in the format tfrecord, which tfds reads only with TensorFlow"
    with pytest.raises(NewsDataError, match=message):
        load("tfds")
    with pytest.warns(UserWarning, match="is not used: .*" + message):
        assert load().source == "sample"


def test_a_damaged_prepared_folder(cached):
    load("tfds")
    prepared = tfds_source.prepared_folder()
    (prepared / "dataset_info.json").write_text("{")
    with pytest.raises(NewsDataError, match=r"cannot read what is prepared in .*1\.0\.0 .*Delete"):
        load("tfds")


@pytest.mark.parametrize("as_array", [False, True])
def test_rows_decode_whatever_kind_of_value_they_hold(as_array):
    for value in "naïve", "naïve".encode():
        value = np.array(value, dtype=object) if as_array else value
        assert tfds_source._text(value) == "naïve"
