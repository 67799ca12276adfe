"""AG News through TensorFlow Datasets (tfds), without TensorFlow.

tfds alone cannot do it: it unpacks archives with TensorFlow, never checks an archive that lies in
its cache, retries for minutes where there is no network, and reads decoded rows slowly. So, around
the stock builder of `ag_news_subset`, this module

1. looks whether the network answers before tfds tries it,
2. compares the archive with the size and SHA-256 that the builder has on record,
3. unpacks it with the standard library to where tfds looks for it,
4. lets tfds prepare array_record files (its parquet writer loses rows) and reads them in blocks,
5. counts the rows, and keeps a copy of them as CSV, which is read twenty times as fast.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import re
import shutil
import tarfile
import tempfile
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from minirnn.data.rows import NewsDataError, Rows, read_csv, write_csv

DATASET = "ag_news_subset"
SPLITS = ("train", "test")

_BLOCK = 1024  # rows read at once
_CONNECT_SECONDS = 4
_INSTEAD = (
    "Without it, set MINIRNN_AG_NEWS to a folder that holds train.csv and test.csv of AG News, "
    "name that folder with --data FOLDER, or use --data sample for generated toy news."
)


def prepared_folder(data_dir: str | os.PathLike | None = None) -> Path | None:
    """The newest version of AG News that tfds has prepared on this machine, or None.

    Only looks at the disk; tfds is not imported.
    """
    versions = [
        info.parent
        for info in (_data_dir(data_dir) / DATASET).glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name)
    ]
    return max(versions, key=lambda path: [*map(int, path.name.split("."))], default=None)


def load(data_dir: str | os.PathLike | None = None) -> tuple[Rows, Rows, str]:
    """The training rows, the test rows and the version, downloaded and prepared if need be.

    Raises NewsDataError if tfds is not installed, nothing can be downloaded, the archive is not
    the one on record, or rows were lost.
    """
    root = _data_dir(data_dir)
    folder = prepared_folder(root)
    if folder is not None:
        cached = _read_copy(folder)
        if cached is not None:
            return *cached, folder.name

    tfds = _import_tfds()
    if folder is None:
        folder = _prepare(tfds, root)
    try:
        builder = tfds.builder_from_directory(folder)
        train, test = (_read_split(tfds, builder, split) for split in SPLITS)
    except NewsDataError:
        raise
    except Exception as error:  # whatever tfds and its helpers raise at a damaged file
        raise NewsDataError(
            f"tfds cannot read what is prepared in {folder} ({type(error).__name__}: {error}). "
            "Delete that folder, so that the data set is prepared anew."
        ) from error
    _write_copy(folder, train, test)
    return train, test, folder.name


def _data_dir(data_dir: str | os.PathLike | None) -> Path:
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def _import_tfds():
    # tfds needs importlib_resources to prepare a data set, but does not bring it along.
    for package in "tensorflow_datasets", "importlib_resources":
        if importlib.util.find_spec(package) is None:
            raise NewsDataError(
                f"The package {package} is not installed, which AG News through tfds needs: "
                f'pip install "minirnn[tfds]". {_INSTEAD}'
            )
    import tensorflow_datasets

    return tensorflow_datasets


# Downloading and preparing.


def _prepare(tfds, root: Path) -> Path:
    """Download, check, unpack and prepare with the stock builder; the folder that comes of it."""
    builder = tfds.builder(DATASET, data_dir=root)
    download_dir = root / "downloads"
    ((url, expected),) = builder.url_infos.items()
    try:
        archive = _download(tfds, builder, download_dir, url, expected)
        _verify(archive, expected)
        _unpack(archive, download_dir)
        builder.download_and_prepare(download_dir=download_dir, file_format="array_record")
    except OSError as error:
        raise NewsDataError(f"AG News could not be prepared in {root}: {error}") from error
    return Path(builder.data_dir)


def _download(tfds, builder, download_dir: Path, url: str, expected) -> Path:
    """The archive: one that lies where tfds would find it, or else a download."""
    from tensorflow_datasets.core.download import resource

    name = resource.get_dl_fname(url, expected.checksum)
    by_hand = download_dir / "manual" / (expected.filename or name)
    if by_hand.is_file():
        return by_hand
    for place in download_dir / builder.name / name, download_dir / name:  # now, and formerly
        if resource.is_locally_cached(tfds.core.Path(place)):
            return place

    _check_connection(url)
    before = set((download_dir / builder.name).glob("*.tmp.*"))
    manager = tfds.download.DownloadManager(
        download_dir=download_dir, dataset_name=builder.name, url_infos=builder.url_infos
    )
    try:
        return Path(manager.download(url))
    except Exception as error:  # tfds lets through whatever its helpers raise
        raise NewsDataError(
            f"Downloading AG News from {url} failed: {type(error).__name__}: {error}. {_INSTEAD}"
        ) from error
    finally:
        for folder in set((download_dir / builder.name).glob("*.tmp.*")) - before:
            shutil.rmtree(folder, ignore_errors=True)


def _check_connection(url: str) -> None:
    """Raise NewsDataError if the host does not answer within seconds: tfds tries for minutes."""
    import requests  # comes with tfds

    host = "{0.scheme}://{0.netloc}".format(urllib.parse.urlsplit(url))
    try:
        requests.head(host, timeout=_CONNECT_SECONDS)
    except requests.RequestException as error:
        raise NewsDataError(
            f"AG News is not on this machine, and {host}, from where tfds downloads it, does not "
            f"answer ({type(error).__name__}). {_INSTEAD}"
        ) from error


def _verify(archive: Path, expected) -> None:
    with open(archive, "rb") as file:
        content = file.read()  # 11 MiB
    size, digest = len(content), hashlib.sha256(content).hexdigest()
    if (size, digest) != (int(expected.size), expected.checksum):
        raise NewsDataError(
            f"{archive} is not the archive of AG News that tfds has on record: it has {size:,} "
            f"bytes and the SHA-256 {digest}, expected {int(expected.size):,} bytes and "
            f"{expected.checksum}. Delete it and try again. {_INSTEAD}"
        )


def _unpack(archive: Path, download_dir: Path) -> None:
    """Unpack to where tfds looks before it would unpack with TensorFlow: all of it or nothing."""
    target = download_dir / "extracted" / f"TAR_GZ.{archive.name}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="incomplete.", dir=target.parent) as scratch:
        part = Path(scratch) / "part"
        try:
            if not hasattr(tarfile, "data_filter"):
                raise NewsDataError(
                    "tfds: unpacking the archive safely needs Python 3.10.12 or newer"
                )
            with tarfile.open(archive) as tar:
                tar.extractall(part, filter="data")
        except tarfile.TarError as error:
            raise NewsDataError(f"{archive} cannot be unpacked: {error}. Delete it.") from error
        if target.exists():  # of an earlier try, and nobody knows how complete
            shutil.rmtree(target)
        part.rename(target)


# Reading what is prepared.


def _read_split(tfds, builder, split: str) -> Rows:
    titles: list[str] = []
    descriptions: list[str] = []
    labels: list[int] = []
    for row in _prepared_rows(tfds, builder, split):
        titles.append(_text(row["title"]))
        descriptions.append(_text(row["description"]))
        labels.append(int(row["label"]))
    expected = builder.info.splits[split].num_examples
    if len(labels) != expected:
        raise NewsDataError(
            f"Rows were lost: tfds has {expected:,} rows of the split {split!r} on record in "
            f"{builder.data_dir}, and {len(labels):,} can be read. Delete that folder, so that "
            "the data set is prepared anew."
        )
    return Rows(titles, descriptions, np.array(labels, dtype=np.int32))


def _prepared_rows(tfds, builder, split: str):
    """The rows of a split, one dict each, whatever format they were prepared in."""
    file_format = builder.info.file_format.value
    if file_format in ("array_record", "parquet"):
        source = builder.as_data_source(split=split)
        for start in range(0, len(source), _BLOCK):
            yield from source.__getitems__(list(range(start, min(start + _BLOCK, len(source)))))
    elif importlib.util.find_spec("tensorflow") is not None:
        for block in tfds.as_numpy(builder.as_dataset(split=split, batch_size=_BLOCK)):
            for values in zip(*block.values(), strict=True):
                yield dict(zip(block, values, strict=True))
    else:
        raise NewsDataError(
            f"{builder.data_dir} was prepared in the format {file_format}, which tfds reads only "
            "with TensorFlow. Install TensorFlow, or prepare AG News in another folder: set "
            "TFDS_DATA_DIR to it. Or delete this one, so that it is prepared anew."
        )


@functools.lru_cache(maxsize=4)
def record_decoder(folder: Path) -> Callable[[bytes], list[str]] | None:
    """What makes the fields of a row, as in the CSV files, of a record of an array_record file.

    None where tfds has not prepared this folder: then it is not known what the records hold.

    Raises NewsDataError if tfds is not installed.
    """
    if not (folder / "dataset_info.json").is_file():
        return None
    features = _import_tfds().builder_from_directory(folder).info.features

    def decode(record: bytes) -> list[str]:
        row = features.deserialize_example_np(record)
        return [str(int(row["label"]) + 1), _text(row["title"]), _text(row["description"])]

    return decode


def _text(value) -> str:
    value = value.item() if isinstance(value, np.ndarray) else value
    return value if isinstance(value, str) else bytes(value).decode("utf-8")


# The copy of the rows as CSV files, beside the prepared folder.


def _copy_folder(prepared: Path) -> Path:
    return prepared.with_name(f"minirnn-{prepared.name}")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read_copy(prepared: Path) -> tuple[Rows, Rows] | None:
    """The rows of the copy, or None if there is none, it is damaged, or tfds prepared anew."""
    folder = _copy_folder(prepared)
    try:
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        if record != _record(prepared, folder):
            return None
        return read_csv(folder / "train.csv"), read_csv(folder / "test.csv")
    except (OSError, ValueError):
        return None


def _record(prepared: Path, folder: Path) -> dict[str, str]:
    """What a copy was made from, and what it holds: the SHA-256 of each file."""
    names = [f"{split}.csv" for split in SPLITS]
    return {
        "dataset_info.json": _sha256(prepared / "dataset_info.json"),
        **{name: _sha256(folder / name) for name in names},
    }


def _write_copy(prepared: Path, train: Rows, test: Rows) -> None:
    """Write the copy, all of it or nothing; do without where the folder cannot be written."""
    folder = _copy_folder(prepared)
    try:
        with tempfile.TemporaryDirectory(prefix="incomplete.", dir=folder.parent) as scratch:
            part = Path(scratch) / "part"
            part.mkdir()
            write_csv(train, part / "train.csv")
            write_csv(test, part / "test.csv")
            record = json.dumps(_record(prepared, part), indent=1)
            (part / "record.json").write_text(record, encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            part.rename(folder)
    except OSError:
        pass
