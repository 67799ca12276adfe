"""Word vectors: reading and writing files of them, and a table of them for an Embedding.

>>> from minirnn.layers import Embedding, TextVectorization
>>> vectorizer = TextVectorization(vocabulary=["oil", "rain"])
>>> words, vectors = ["rain", "snow"], np.array([[1.0, 2.0], [3.0, 4.0]])
>>> table, coverage = embedding_matrix(vectorizer, words, vectors)
>>> print(coverage)
vectors for 1 of 2 words (50.0 %); none for 'oil'
>>> layer = Embedding(*table.shape, weights=[table], trainable=False)

`train_word2vec` makes vectors from texts alone; see word2vec.py.
"""

from __future__ import annotations

import os
import re
import warnings
from array import array
from collections.abc import Collection, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from minirnn.backend import floatx, generator
from minirnn.checks import flag, host_array, listed, whole_number
from minirnn.lookup import by_name
from minirnn.saving import whole_file
from minirnn.text import PADDING, UNKNOWN, TextVectorization
from minirnn.word2vec import train_word2vec

__all__ = [
    "Coverage",
    "embedding_matrix",
    "load_vectors",
    "nearest",
    "save_vectors",
    "train_word2vec",
]

HEADER = re.compile(r"([0-9]{1,30}) ([0-9]{1,30})")
LONGEST_LINE = 2**20  # bytes: a file that is no text has no line ends, and is not to fill memory


# --- files ----------------------------------------------------------------------------------------


def load_vectors(
    path: str | os.PathLike[str],
    words: Collection[str] | None = None,
    limit: int | None = None,
) -> tuple[list[str], np.ndarray]:
    """Read vectors from a text file: word2vec's, whose first line is `count dim`, or GloVe's.

    Each line is a word and its numbers, with single spaces between them, in UTF-8. The file is read
    line by line, so that memory holds what is kept, and no more.

    Args:
        words: keep the vectors of these alone, such as a vectorizer's vocabulary.
        limit: stop when so many are kept. Files usually begin with the most frequent words.

    Returns:
        `(words, vectors)`: in the order of the file; vectors (words, dim) float32. Of a word that
        comes twice the first vector is kept, and a warning names it.

    Raises:
        ValueError: for a line with another number of fields, or with a field that is no finite
            number, that is no UTF-8 or far too long; or if there are not as many lines as the first
            one says. The message names the file and the line.
    """
    path = os.fspath(path)
    if limit is not None:
        whole_number("limit", limit)
    if isinstance(words, (str, bytes, np.ndarray)) or not isinstance(words, Collection | None):
        raise TypeError(f"words: expected a list or set of words, received {words!r:.80}")
    wanted = None if words is None else frozenset(map(str, words))
    kept: dict[str, None] = {}
    numbers, repeated = array("f"), []
    dim = promised = None
    read = 0
    with open(path, "rb") as file:
        for place, line in _lines(path, file):
            if dim is None and (header := HEADER.fullmatch(line)):
                promised, dim = int(header[1]), int(header[2])
                if not 0 < dim <= LONGEST_LINE:  # no line could hold more
                    raise ValueError(f"{place}: the vectors are to have {dim} numbers ({line!r})")
                continue
            dim = dim or line.count(" ")
            word, fields = _fields(place, line, dim)
            read += 1
            if word in kept:
                repeated.append(f"{word!r} at {place}")
            elif wanted is None or word in wanted:
                numbers.frombytes(_vector(place, fields).tobytes())
                kept[word] = None
                if len(kept) == limit:
                    break
        else:
            if promised is not None and read != promised:
                raise ValueError(
                    f"{path}: its first line tells of {promised} words, and {read} follow; part of "
                    "the file may be missing"
                )
    if dim is None:
        raise ValueError(f"{path}: expected lines of a word and its numbers; the file is empty")
    if repeated:
        warnings.warn(
            f"words that come again, of which the first vector is kept: {len(repeated)}, "
            f"{repeated[0]}",
            stacklevel=2,
        )
    return list(kept), np.frombuffer(numbers, dtype=np.float32).reshape(len(kept), dim)


def _lines(path: str, file: BinaryIO) -> Iterator[tuple[str, str]]:
    """`(place, text)` of each line, without the white space at its end."""
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        place = f"{path}, line {number}"
        if len(line) == LONGEST_LINE:
            raise ValueError(f"{place}: longer than {LONGEST_LINE:,} bytes; is this a text file?")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{place}: this is not UTF-8 ({error}); is this a text file?"
            ) from None
        yield place, text.rstrip(" \r\n")  # the word2vec program ends lines with a space


def _fields(place: str, line: str, dim: int) -> tuple[str, list[str]]:
    """The word and its `dim` fields. A word may have spaces in it, but may not end in a number:
    then there is one number too many."""
    word, *fields = line.rsplit(" ", dim)
    if len(fields) != max(dim, 1) or not word or (" " in word and _is_number(word.split(" ")[-1])):
        received = f"{line.count(' ') + 1} fields, {line[:40]!r}" if line else "an empty line"
        raise ValueError(f"{place}: expected a word and {max(dim, 1)} numbers, received {received}")
    return word, fields


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _vector(place: str, fields: list[str]) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):
            vector = np.array([float(field) for field in fields], dtype=np.float32)
    except ValueError:
        bad = next(field for field in fields if not _is_number(field))
        raise ValueError(f"{place}: expected a number, received {bad!r}") from None
    if not np.isfinite(vector).all():
        bad = fields[int(np.argmin(np.isfinite(vector)))]
        raise ValueError(f"{place}: expected a finite number, received {bad!r}")
    return vector


def save_vectors(
    path: str | os.PathLike[str], words: Sequence[str], vectors: Any, header: bool = True
) -> None:
    """Write vectors into a text file, all or nothing: with a first line as word2vec, or, without
    `header`, as GloVe. What `load_vectors` reads of it is the same, to the last bit of float32.

    Args:
        words: without spaces or line ends, all different.
        vectors: (words, dim).

    Raises:
        ValueError: if the two do not fit, or a word cannot stand in such a file.
        OSError: if there is no room, or no right to write.
    """
    header = flag("header", header)
    vectors = _checked_vectors(words, vectors)
    bad = next((word for word in words if not word or re.search(r"[ \r\n]", word)), None)
    if bad is not None:
        raise ValueError(f"words: expected words without spaces and line ends, received {bad!r}")
    if len(set(words)) < len(words):
        raise ValueError("words: expected each word once; some stand there more than once")
    with whole_file(path) as file:
        if header:
            file.write(f"{vectors.shape[0]} {vectors.shape[1]}\n".encode())
        for word, vector in zip(words, vectors, strict=True):
            file.write(f"{word} {' '.join(f'{value:.9g}' for value in vector)}\n".encode())


def _checked_vectors(words: Sequence[str], vectors: Any) -> np.ndarray:
    listed("words", words, str)
    vectors = host_array("vectors", vectors)
    if vectors.ndim != 2 or len(vectors) != len(words) or vectors.dtype.kind not in "fiu":
        raise ValueError(
            f"vectors: expected numbers of shape ({len(words)}, dim), one row for each word, "
            f"received {vectors.dtype} of shape {vectors.shape}"
        )
    return vectors.astype(np.float64) if vectors.dtype.itemsize > 8 else vectors


# --- using them -----------------------------------------------------------------------------------


class Coverage(NamedTuple):
    """How many words of a vocabulary have a vector.

    found, total: words, without padding and "[UNK]". missing: those without a vector.
    """

    found: int
    total: int
    missing: tuple[str, ...]

    def __str__(self) -> str:
        share = f" ({self.found / self.total:.1%})".replace("%", " %") if self.total else ""
        few = ", ".join(map(repr, self.missing[:5])) + (", ..." if len(self.missing) > 5 else "")
        none = f"; none for {few}" if few else ""
        return f"vectors for {self.found:,} of {self.total:,} words{share}{none}"


def _zeros(vectors: np.ndarray, count: int) -> np.ndarray:
    return np.zeros((count, vectors.shape[1]))


def _mean(vectors: np.ndarray, count: int) -> np.ndarray:
    return np.tile(vectors.mean(axis=0), (count, 1))


def _random(vectors: np.ndarray, count: int) -> np.ndarray:
    mean, deviation = vectors.mean(axis=0), vectors.std(axis=0)
    return generator().normal(mean, deviation, (count, vectors.shape[1]))


MISSING = {"zeros": _zeros, "mean": _mean, "random": _random}


def embedding_matrix(
    vectorizer: TextVectorization, words: Sequence[str], vectors: Any, missing: str = "zeros"
) -> tuple[np.ndarray, Coverage]:
    """A table for `Embedding(*table.shape, weights=[table])`: a row for each id of the vectorizer.

    Args:
        vectorizer: one with a vocabulary.
        words, vectors: what `load_vectors` gave; vectors (words, dim).
        missing: what words without a vector get, "[UNK]" among them: "zeros"; "mean", the mean of
            all vectors; or "random", numbers of the same mean and deviation.

    Returns:
        `(table, coverage)`: (ids, dim) in `floatx()`, whose row 0, padding, is zeros; and how many
        words were found.

    Raises:
        ValueError: if the vectorizer has no vocabulary, words and vectors do not fit, or there are
            none.
    """
    fill = by_name("missing", missing, MISSING)
    vectorizer.require_built()
    vectors = _checked_vectors(words, vectors)
    if not len(words):
        raise ValueError("words: expected at least one word with its vector, received none")
    place = {word: i for i, word in reversed(list(enumerate(words)))}  # of equal ones the first
    tokens = vectorizer.get_vocabulary()
    known = [i for i, token in enumerate(tokens) if token in place]
    unknown = [i for i, token in enumerate(tokens) if token not in place]
    table = np.empty((len(tokens), vectors.shape[1]), dtype=floatx())
    table[known] = vectors[[place[tokens[i]] for i in known]]
    table[unknown] = fill(vectors, len(unknown))
    if tokens[0] == PADDING:
        table[0] = 0
    real = [token for token in tokens if token not in (PADDING, UNKNOWN)]
    without = tuple(token for token in real if token not in place)
    return table, Coverage(len(real) - len(without), len(real), without)


def nearest(
    word: str | Any, words: Sequence[str], vectors: Any, count: int = 10
) -> list[tuple[str, float]]:
    """The words whose vectors point most nearly where that of `word` does, with the cosines.

    word: one of `words`, which is then left out itself, or a vector (dim,), such as
        king - man + woman.

    >>> nearest("a", ["a", "b", "c"], np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]]), count=1)
    [('c', 0.7071...)]
    """
    vectors = _checked_vectors(words, vectors)
    if isinstance(word, str):
        if word not in words:
            raise ValueError(f"word: {word!r} is not among the {len(words)} words")
        itself = list(words).index(word)
        vector = vectors[itself]
    else:
        itself, vector = None, host_array("word", word)
        if vector.shape != vectors.shape[1:] or vector.dtype.kind not in "fiu":
            raise ValueError(
                f"word: expected a word or a vector {vectors.shape[1:]}, received {vector.shape}"
            )
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(vector)
    cosines = vectors @ vector / np.where(lengths > 0, lengths, 1)
    order = [i for i in np.argsort(-cosines, kind="stable") if i != itself]
    return [(words[i], float(cosines[i])) for i in order[: whole_number("count", count)]]
