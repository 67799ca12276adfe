"""Data: CSV files, data sets, texts, padding, and files of word vectors."""

from __future__ import annotations

import csv
import io
import itertools
import re
import string
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fuzz.judge import ask, refused, require
from fuzz.values import Draw, arguments, array, bent, either, junk, text
from minirnn import vectors
from minirnn.data import Dataset, Stream, ag_news
from minirnn.data.rows import news as ag_news_row
from minirnn.layers import TextVectorization
from minirnn.text import pad_sequences

FLAGS = (False, True)
FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-data-")


def path_of(name: str, content: bytes) -> Path:
    path = Path(FOLDER.name, name)
    path.write_bytes(content)
    return path


# --- CSV ------------------------------------------------------------------------------------------

FIELDS = (
    "1",
    "4",
    "0",
    "5",
    " 1",
    "",
    "oil",
    'a "quoted" word',
    "two\nlines",
    "a,b",
    "é",
    "\x00",
    "\ufeff",
)
ENDS = ("\n", "\r\n", "\r", "")


def csv_content(draw: Draw) -> bytes:
    """Of a file: as published, nearly so, or anything."""
    kind = draw(st.integers(0, 4))
    if kind == 0:
        content = draw(st.binary(max_size=60))
    else:
        lines = []
        for _ in range(draw(st.integers(0, 4))):
            fields = [draw(st.sampled_from(["1", "2", "3", "4"])), text(draw), text(draw)]
            if draw(st.integers(0, 9)) == 0:
                fields = draw(st.lists(st.sampled_from(FIELDS), max_size=4))
            quoted = draw(st.integers(0, 4))
            parts = ['"' + f.replace('"', '""') + '"' if quoted else f for f in fields]
            lines.append(",".join(parts) + draw(st.sampled_from(ENDS)))
        content = "".join(lines).encode(errors=draw(st.sampled_from(["replace", "surrogatepass"])))
        content = bent(draw, content) if kind == 1 else content
    return content


def csv_rows(draw: Draw) -> None:
    """`read_csv` gives what the csv module gives, or names the file and the line."""
    content = csv_content(draw)
    path = path_of("train.csv", content)
    rows = ask(ag_news.read_csv, path, about=(str(path),))
    expected = by_the_csv_module(content)
    if refused(rows):
        require(expected is None, "good rows were refused", content, rows)
        return
    require(expected is not None, "bad rows were taken", content, rows.titles)
    read = list(zip((rows.labels + 1).tolist(), rows.titles, rows.descriptions, strict=True))
    require(read == expected, "other rows than the csv module's", content, read, expected)
    copy = Path(FOLDER.name, "copy.csv")
    written = ask(ag_news.write_csv, rows, copy)
    if not refused(written):
        again = ag_news.read_csv(copy)
        require(again.titles == rows.titles, "writing changed the rows", content, again.titles)


def streams(draw: Draw) -> None:
    """A stream gives the rows of the csv module, each once, or names the file."""
    content = csv_content(draw)
    path = path_of("train-0.csv", content)
    size, buffer = draw(st.integers(1, 3)), draw(st.sampled_from([None, 1, 3]))
    stream = Stream([path], size, buffer, seed=0, parse=news)
    walk, rows, at = stream.walk(), [], draw(st.integers(0, 3))
    expected = by_the_csv_module(content)
    while True:
        if len(rows) >= at and draw(st.booleans()):  # goes on from a place, good or bad
            position = walk.position()
            if draw(st.booleans()):
                bad = position | {draw(st.sampled_from(sorted(position))): junk(draw)}
                if refused(ask(stream.walk, bad)):
                    continue
            walk = stream.walk(position)
        batch = ask(next, walk, None, about=(str(path), str(path.parent)))
        if refused(batch):
            # Rows are told apart by their quotation marks: a lone one inside a field is refused.
            loose = any(b'"' in field.strip(b'"') for field in content.split(b","))
            require(expected is None or loose, "good rows were refused", content, batch)
            return
        if batch is None:
            break
        texts, labels, _ = batch
        rows += [(int(label) + 1, *text) for label, text in zip(labels, texts, strict=True)]
    require(expected is not None, "bad rows were taken", content, rows)
    if buffer is None:
        require(rows == expected, "other rows than the csv module's", content, rows, expected)
    require(sorted(rows) == sorted(expected), "rows were lost or doubled", content, rows)


def news(fields: list[str]) -> tuple[tuple[str, str], int]:
    label, title, description = ag_news_row(fields)
    return (title, description), label


def by_the_csv_module(content: bytes) -> list[tuple[int, str, str]] | None:
    """The rows, or None if one is not as AG News has them."""
    try:
        decoded = content.decode("utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(decoded, newline=""), strict=True) if row]
    except (UnicodeDecodeError, csv.Error):
        return None
    if not rows or any(len(row) != 3 or row[0] not in ("1", "2", "3", "4") for row in rows):
        return None
    return [(int(label), title, description) for label, title, description in rows]


def news_rows(draw: Draw) -> None:
    """Columns that fit each other, or an error."""
    titles = either(draw, (["a", "b"], ["a"], []))
    descriptions = either(draw, (["a", "b"], ["a"], []))
    labels = either(draw, (np.array([0, 3]), np.array([1]), [0, 1], np.zeros(0, int)))
    rows = ask(ag_news.Rows, titles, descriptions, labels)
    if refused(rows):
        return
    ask(rows.take, either(draw, (0, 1, 5)))
    ask(rows.__getitem__, either(draw, (slice(1), slice(None, None, 2))))
    if all(isinstance(t, str) for t in itertools.chain(titles, descriptions)):
        require(len(ask(rows.texts)) == len(rows), "a row was lost", titles, descriptions)
    ask(ag_news.load, draw(st.sampled_from(["", "/none", "a\x00b", "x" * 300, "é"])))


# --- data sets ------------------------------------------------------------------------------------

SOURCES = (
    lambda: (Dataset.from_rows([[1, 2], [3], [], [4, 5, 6]]), [[1, 2], [3], [], [4, 5, 6]]),
    lambda: (Dataset.from_tensor_slices(np.arange(5)), list(range(5))),
    lambda: (Dataset.from_rows([]), []),
    lambda: (Dataset.from_generator(lambda: iter([1, 2, 3])), [1, 2, 3]),
    lambda: (Dataset.from_tensor_slices((["a", "b"], [1, 2])), [("a", 1), ("b", 2)]),
)
COUNTS = (0, 1, 2, 3)


def dataset_chains(draw: Draw) -> None:
    """A chain of methods gives what the same chain of list operations gives."""
    dataset, rows = draw(st.sampled_from(SOURCES))()
    for _ in range(draw(st.integers(1, 4))):
        method = draw(
            st.sampled_from(
                [
                    "take",
                    "skip",
                    "repeat",
                    "enumerate",
                    "concatenate",
                    "cache",
                    "shuffle",
                    "prefetch",
                    "filter",
                    "batch",
                    "zip",
                ]
            )
        )
        made, rows = link(draw, dataset, rows, method)
        if refused(made):
            return
        dataset = made
        if rows is None or method == "shuffle":
            break
    got = ask(lambda: list(itertools.islice(dataset, 200)))
    if refused(got) or rows is None:
        return
    if 0 <= dataset.cardinality() < 200:
        require(len(got) == dataset.cardinality(), "another length than promised", dataset, got)
    same = len(got) == 200 or sorted(map(naked, got)) == sorted(map(naked, rows))
    require(same, "other elements", got, rows)


def naked(element: Any) -> str:
    """An element as a text, whatever the types of its numbers."""
    return re.sub(r"np\.\w+\(([^()]*)\)", r"\1", repr(element))


def link(draw: Draw, dataset: Dataset, rows: list, method: str) -> tuple[Any, list | None]:
    """The next data set, and its elements as a list (None if that is not known here)."""
    if method in ("take", "skip", "repeat", "enumerate"):
        count = either(draw, COUNTS, 6)
        made = ask(getattr(dataset, method), count, about=("count", "start"))
        if refused(made):
            return made, None
        if method == "repeat":
            endless = count is None or count == -1
            return made, rows * (200 if endless or count > 200 else int(count))
        n = int(count)
        return made, {"take": rows[:n], "skip": rows[n:], "enumerate": list(enumerate(rows, n))}[
            method
        ]
    if method == "concatenate":
        other = either(draw, (lambda: dataset,), 6)
        return ask(dataset.concatenate, other), rows + rows
    if method == "zip":
        others = [either(draw, (lambda: dataset,), 6) for _ in range(draw(st.integers(0, 2)))]
        made = ask(Dataset.zip, dataset, *others)
        return made, [(row,) * (len(others) + 1) for row in rows]
    if method == "cache":
        return ask(dataset.cache), rows
    if method == "shuffle":
        made = ask(dataset.shuffle, either(draw, (1, 2, 100), 6), either(draw, (None, 0, 5), 6))
        return made, rows
    if method == "prefetch":
        return ask(dataset.prefetch, either(draw, (1, 2, -1), 6)), rows
    if method == "filter":
        answer = draw(st.sampled_from([True, False, 1, np.bool_(True), "yes", None, [True]]))
        function = draw(st.sampled_from([lambda *_: answer] * 5 + [3, None]))
        return ask(dataset.filter, function), rows if answer else []
    size = either(draw, (1, 2, 3), 6)
    how = draw(st.sampled_from(["batch", "padded_batch", "bucket"]))
    if how == "bucket":
        boundaries = either(draw, ([2], [1, 3], []), 6)
        sizes = either(draw, ([2, 2], [1, 1, 1], [2]), 6)
        options = arguments(draw, {"pad_to_bucket_boundary": FLAGS, "drop_remainder": FLAGS})
        length = draw(
            st.sampled_from([len, lambda *row: 2, lambda *row: "2", lambda *row: -1, None])
        )
        if length is len:  # what a function of the user's does is the user's
            length = lambda *row: np.size(row[0])  # noqa: E731
        return ask(dataset.bucket_by_sequence_length, length, boundaries, sizes, **options), None
    options = {"drop_remainder": either(draw, FLAGS, 6)}
    if how == "padded_batch":
        options |= arguments(
            draw, {"padded_shapes": (None, [None], [4]), "padding_values": (None, 0, 1)}
        )
    return ask(getattr(dataset, how), size, **options), None


def dataset_sources(draw: Draw) -> None:
    """What a data set can be made of, and what cannot."""
    kind = draw(st.sampled_from(["from_tensor_slices", "from_rows", "from_generator"]))
    source = junk(draw) if draw(st.booleans()) else array(draw, ((4,), (3, 2)))
    if kind == "from_generator" and callable(source):
        source = draw(
            st.sampled_from([lambda: [1, 2], lambda: 3, lambda: None, lambda: iter("ab")])
        )
    if kind == "from_tensor_slices" and draw(st.booleans()):
        other = array(draw, ((4,), (3, 2)))
        source = draw(st.sampled_from([(source, other), {"x": source, "y": other}]))
    made = ask(getattr(Dataset, kind), source)
    if not refused(made):
        ask(lambda: list(itertools.islice(made, 50)))


# --- texts ----------------------------------------------------------------------------------------

VECTORIZER = {
    "max_tokens": (None, 5, 100),
    "standardize": ("lower_and_strip_punctuation", "lower", "strip_punctuation", "unicode", None),
    "split": ("whitespace", "character", None),
    "ngrams": (None, 1, 2, (1, 3)),
    "output_mode": ("int", "multi_hot", "count"),
    "output_sequence_length": (None, 1, 4),
    "vocabulary": (None, ["oil", "price"], ["", "[UNK]", "oil"]),
    "name": (None, "words"),
}
ASCII_SPACE = " \t\n\r\x0b\x0c"


def naive_tokens(line: str, standardize: Any, split: Any) -> list[str]:
    """Character by character, as it stands in the documentation."""
    if standardize in ("lower_and_strip_punctuation", "lower"):
        line = "".join(c.lower() if c in string.ascii_uppercase else c for c in line)
    if standardize in ("lower_and_strip_punctuation", "strip_punctuation"):
        line = "".join(c for c in line if c not in string.punctuation)
    if split is None:
        return [line]
    if split == "character":
        return list(line)
    words, word = [], ""
    for character in [*line, " "]:
        if character in ASCII_SPACE:
            words += [word] if word else []
            word = ""
        else:
            word += character
    return words


def texts(draw: Draw) -> None:
    """TextVectorization of any texts: ids as a naive one gives them, or a named error."""
    given = arguments(draw, VECTORIZER) if draw(st.booleans()) else {}
    if any(callable(given.get(key)) for key in ("standardize", "split")):
        return  # what a function of the user's does is the user's
    layer = ask(TextVectorization, **given)
    if refused(layer):
        return
    lines = [text(draw) for _ in range(draw(st.integers(0, 3)))]
    if draw(st.integers(0, 5)) == 0:
        lines = either(draw, (np.array(lines, object), tuple(lines), [[line] for line in lines]), 2)
    if layer.vocabulary is None:
        learned = ask(layer.adapt, lines)
        if refused(learned):
            return
        if not given and all(type(line) is str for line in lines):
            words = Counter(w for line in lines for w in naive_tokens(line, *plain(layer)))
            expected = sorted(words, key=lambda w: (words[w], w.encode()), reverse=True)
            require(
                layer.get_vocabulary() == ["", "[UNK]", *[w for w in expected if w != "[UNK]"]],
                "another vocabulary",
                lines,
            )
    ids = ask(layer, lines)
    ask(layer.get_config)
    if refused(ids) or type(lines) is not list or any(type(line) is not str for line in lines):
        return
    for line in lines:
        tokens = ask(layer.tokens, line)
        if layer.standardize != "unicode" and layer.ngrams is None:
            require(
                tokens == naive_tokens(line, *plain(layer)), "other tokens", line, tokens, given
            )
    if layer.output_mode == "int" and layer.ngrams is None and layer.standardize != "unicode":
        place = {word: i for i, word in enumerate(layer.get_vocabulary())}
        for row, line in zip(ids, lines, strict=True):
            wanted = [place.get(t, 1) for t in naive_tokens(line, *plain(layer))][: ids.shape[1]]
            require(
                row.tolist() == wanted + [0] * (len(row) - len(wanted)),
                "other ids",
                line,
                row,
                wanted,
            )


def plain(layer: TextVectorization) -> tuple[Any, Any]:
    return layer.standardize, layer.split


def vocabularies(draw: Draw) -> None:
    """Vocabularies of any words."""
    words: Any = [
        draw(st.sampled_from(["oil", "", "[UNK]", "é", "\udc80", "a b", b"oil", 3, None]))
        for _ in range(draw(st.integers(0, 4)))
    ]
    if draw(st.integers(0, 5)) == 0:
        words = junk(draw)
    layer = ask(TextVectorization, vocabulary=words)
    if not refused(layer) and words is not None:
        vocabulary = layer.get_vocabulary(include_special_tokens=False)
        ids = ask(layer.ids, vocabulary)
        require(not refused(ids) and len(ids) == len(vocabulary), "ids of the words", words, ids)
    ask(TextVectorization(vocabulary=["oil"]), junk(draw))
    ask(TextVectorization().adapt, junk(draw))


PADDING = {
    "maxlen": (None, 0, 2, 5), "dtype": ("int32", "float32"), "padding": ("pre", "post"),
    "truncating": ("pre", "post"), "value": (0, 1),
}  # fmt: skip


def padding(draw: Draw) -> None:
    """`pad_sequences` of anything."""
    rows = either(
        draw, ([[1], [2, 3]], [], [[]], [[1, 2, 3]], [np.ones((2, 3)), np.ones((1, 3))]), 3
    )
    given = arguments(draw, PADDING)
    padded = ask(pad_sequences, rows, **given)
    if not refused(padded):
        require(len(padded) == len(rows), "a row was lost", rows, padded)


# --- word vectors ---------------------------------------------------------------------------------

NUMBERS = ("1", "-2.5", "1e3", "nan", "inf", "1e999", "x", "", "0x1", "1_0", "٣")


def vector_files(draw: Draw) -> None:
    """A file of vectors: words and finite numbers, or the file and the line that is wrong."""
    lines = []
    if draw(st.booleans()):
        lines.append(
            draw(
                st.sampled_from(
                    ["2 2", "3 2", "0 2", "2 0", "9999999999999 2", "2 99999999999999999999"]
                )
            )
        )
    for _ in range(draw(st.integers(0, 3))):
        word = draw(st.sampled_from(["oil", "rain", "a b", "", "é", "3", "\u00a0"]))
        count = draw(st.sampled_from([2, 2, 2, 1, 3]))
        good = draw(st.integers(0, 4))
        fields = [draw(st.sampled_from(NUMBERS[:3] if good else NUMBERS)) for _ in range(count)]
        lines.append(" ".join([word, *fields]) + draw(st.sampled_from(["", " "])))
    content = "\n".join(lines).encode() + b"\n"
    content = bent(draw, content) if draw(st.integers(0, 3)) == 0 else content
    path = path_of("vectors.txt", content)
    options = arguments(draw, {"words": (None, ["oil"]), "limit": (None, 1)})
    try:
        read = ask(vectors.load_vectors, path, **options)
    except AssertionError as finding:
        if "Warning" in str(finding) and "come again" in str(finding):
            return  # the warning that a word comes twice
        raise
    if refused(read):
        return
    words, table = read
    require(
        table.shape[0] == len(words) and bool(np.isfinite(table).all()), "vectors", content, read
    )


def vector_arguments(draw: Draw) -> None:
    """Vectors in use: tables, neighbours, and writing them."""
    words = either(draw, (["oil", "rain"], ["oil"], []), 3)
    table = array(draw, ((2, 3), (1, 3)), ("float32", "float64"))
    kind = draw(st.integers(0, 2))
    if kind == 0:
        layer = TextVectorization(vocabulary=["oil", "snow"])
        made = ask(
            vectors.embedding_matrix, layer, words, table, either(draw, ("zeros", "mean", "random"))
        )
        if not refused(made):
            require(made[0].shape[0] == 4, "a word has no row", words, made)
    elif kind == 1:
        word = either(draw, ("oil", lambda: np.ones(3)))
        found = ask(vectors.nearest, word, words, table, either(draw, (1, 2, 10)))
        if not refused(found) and np.isfinite(np.asarray(table, float)).all():
            ok = all(np.isfinite(cosine) for _, cosine in found)
            require(
                ok or not np.isfinite(np.asarray(word, float)).all()
                if not isinstance(word, str)
                else ok,
                "NaN",
                word,
                table,
                found,
            )
    else:
        path = Path(FOLDER.name, "saved.txt")
        saved = ask(vectors.save_vectors, path, words, table, either(draw, FLAGS))
        if not refused(saved) and np.isfinite(np.asarray(table, float)).all() and len(words):
            ask(vectors.load_vectors, path)


TARGETS = (
    csv_rows,
    news_rows,
    streams,
    dataset_chains,
    dataset_sources,
    texts,
    vocabularies,
    padding,
    vector_files,
    vector_arguments,
)
