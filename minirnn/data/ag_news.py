"""AG News (Zhang, Zhao and LeCun, 2015): news in four classes, from CSV files, tfds or a sample.

The 120,000 training and 7,600 test rows may be had as the CSV files of the published archive, or
through TensorFlow Datasets (`pip install "minirnn[tfds]"`; TensorFlow itself is not needed). Where
neither is at hand, a generated sample takes their place and says so: see `minirnn.data.sample`.

Source: "Character-level Convolutional Networks for Text Classification",
https://arxiv.org/abs/1509.01626. AG News is given for research and other non-commercial use.
"""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from minirnn.data import sample, tfds_source
from minirnn.data.rows import CLASS_NAMES, NewsDataError, Rows, news, read_csv, write_csv
from minirnn.data.shards import find_shards, kind_of
from minirnn.data.stream import Stream

__all__ = [
    "CLASS_NAMES",
    "NewsData",
    "NewsDataError",
    "Rows",
    "load",
    "load_for_streaming",
    "read_csv",
    "write_csv",
]

ENVIRONMENT_VARIABLE = "MINIRNN_AG_NEWS"


@dataclass(frozen=True, eq=False)
class NewsData:
    """A training and a test split, and where they come from.

    source: "csv", "tfds", "sample", or "stream", where `train` is empty, as its rows stay in files.
    description: one sentence that says which data this is, to be shown with every number that comes
    from it.
    """

    train: Rows
    test: Rows
    source: str
    description: str
    class_names: tuple[str, ...] = CLASS_NAMES


def load(
    source: str | os.PathLike | None = None,
    *,
    data_dir: str | os.PathLike | None = None,
    seed: int = 0,
) -> NewsData:
    """Load AG News, or the sample in its place.

    source:
        - a folder that holds train.csv and test.csv as published;
        - "tfds": TensorFlow Datasets, which downloads 11 MiB on its first use;
        - "sample": generated toy news, not AG News;
        - None: the folder in the environment variable MINIRNN_AG_NEWS if that is set, or else what
          tfds has already prepared on this machine, or else the sample (with a warning where what
          tfds has prepared cannot be read). Nothing is downloaded.
    data_dir: where tfds keeps its data sets, by default as tfds itself has it: the environment
        variable TFDS_DATA_DIR, or else ~/tensorflow_datasets.
    seed: of the sample.

    Raises NewsDataError (a ValueError) that says what to do if the source cannot be used.
    """
    if source is None:
        folder = os.environ.get(ENVIRONMENT_VARIABLE)
        if folder:
            return _from_csv(folder, f"The environment variable {ENVIRONMENT_VARIABLE}")
        return _from_prepared(data_dir) or _from_sample(seed)
    if source == "sample":
        return _from_sample(seed)
    if source == "tfds":
        return _from_tfds(data_dir)
    return _from_csv(source, "The data source")


def load_for_streaming(where: str | os.PathLike | None) -> tuple[list[Path], NewsData]:
    """The files of the training rows, for `Stream`, and the test rows, which are read.

    where: a folder that holds train.csv and test.csv, or shards of them (train-00000.csv,
        train-00000.array_record, or what tfds has prepared); a pattern of the training files, with
        test files in the same folder; "tfds": where tfds prepares; or None: the folder in the
        environment variable MINIRNN_AG_NEWS.

    Raises NewsDataError if there are no such files, or a test row is wrong.
    """
    place = where or os.environ.get(ENVIRONMENT_VARIABLE)
    if place == "tfds":
        place = tfds_source.prepared_folder()
    if place in (None, "", "sample"):
        raise NewsDataError(
            "Rows stream from files: expected a folder that holds train.csv and test.csv or shards "
            f"of them, or a pattern such as 'news/train-*.csv'; received {where!r}."
        )
    place = Path(place).expanduser()
    train = _files(place, "train") if place.is_dir() else [s.path for s in find_shards(place)]
    test = _files(train[0].parent, "test")
    both = set(train) & set(test)
    if both:
        raise NewsDataError(f"{place}: expected training files alone, found {min(both)}, too.")
    rows = [row for rows, _, _ in Stream(test, 1024, None, 0, _row) for row in rows]
    labels, titles, descriptions = map(list, zip(*rows, strict=True))
    description = (
        f"AG News from files in {train[0].parent}: training rows stream from {len(train):,} "
        f"file{'s' * (len(train) > 1)}, and {len(rows):,} test rows."
    )
    test_rows = Rows(titles, descriptions, labels)
    return train, NewsData(Rows([], [], []), test_rows, "stream", description)


def _files(folder: Path, split: str) -> list[Path]:
    named = re.compile(rf"(.*-)?{split}(?![a-z])")
    files = [path for path in folder.iterdir() if kind_of(path) and named.match(path.name)]
    if not files:
        raise NewsDataError(
            f"{folder} holds no file of {split} rows. Expected {split}.csv, or shards such as "
            f"{split}-00000.csv or {split}-00000.array_record."
        )
    return sorted(files)


def _row(fields: list[str]) -> tuple[tuple[int, str, str], int]:
    return news(fields), 0


def _from_csv(folder: str | os.PathLike, who: str) -> NewsData:
    folder = Path(folder).expanduser()
    missing = [name for name in ("train.csv", "test.csv") if not (folder / name).is_file()]
    if missing:
        what = f"has no {' and no '.join(missing)}" if folder.is_dir() else "is not a folder"
        raise NewsDataError(
            f"{who} names {str(folder)!r}, which {what}. Expected a folder that holds train.csv "
            'and test.csv of AG News, or else "tfds" or "sample".'
        )
    train, test = read_csv(folder / "train.csv"), read_csv(folder / "test.csv")
    return NewsData(
        train, test, "csv", _describe(f"AG News from CSV files in {folder}", train, test)
    )


def _from_prepared(data_dir: str | os.PathLike | None) -> NewsData | None:
    """What tfds has prepared on this machine, if that can be read; nothing is downloaded."""
    folder = tfds_source.prepared_folder(data_dir)
    if folder is None:
        return None
    try:
        return _from_tfds(data_dir)
    except NewsDataError as error:
        warnings.warn(f"AG News in {folder} is not used: {error}", stacklevel=3)
        return None


def _from_tfds(data_dir: str | os.PathLike | None) -> NewsData:
    train, test, version = tfds_source.load(data_dir)
    name = f"AG News from TensorFlow Datasets (ag_news_subset {version})"
    return NewsData(train, test, "tfds", _describe(name, train, test))


def _from_sample(seed: int) -> NewsData:
    train, test = sample.generate(seed=seed)
    name = "A generated sample of toy news, not AG News"
    return NewsData(train, test, "sample", _describe(name, train, test))


def _describe(name: str, train: Rows, test: Rows) -> str:
    return f"{name}: {len(train):,} training rows and {len(test):,} test rows."
