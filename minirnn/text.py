"""From texts to integers: standardize, split, look up, pad.

    "Oil prices, up!"  →  "oil prices up"  →  ["oil", "prices", "up"]  →  [12, 345, 47]

Id 0 is padding, id 1 a word that the vocabulary lacks, and the words themselves start at 2, the
most frequent first.

Inside, a text is UTF-8 bytes: outside ASCII no character has an ASCII byte in it, so that lowering,
deleting and splitting at ASCII bytes is safe; it is fast; and the methods of bytes know ASCII
letters and ASCII white space alone, which are the rules here.
"""

from __future__ import annotations

import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, repeat
from typing import Any

import numpy as np

from minirnn.backend import to_host
from minirnn.base import Layer, Shape
from minirnn.checks import full, host_array, listed
from minirnn.lookup import by_name
from minirnn.packing import Mask

PADDING, UNKNOWN = "", "[UNK]"
CHUNK = 256  # texts worked on at a time: their tokens stay in the processor's cache

LOWER = bytes(range(256)).lower()  # what each byte becomes; only ASCII letters change
PUNCTUATION = string.punctuation.encode()  # the 32 characters of ASCII that are none else

# name → (what each byte becomes, bytes to delete)
STANDARDIZE = {
    "lower_and_strip_punctuation": (LOWER, PUNCTUATION),
    "lower": (LOWER, b""),
    "strip_punctuation": (None, PUNCTUATION),
    "unicode": (None, b""),  # all done before, by `fold_unicode`
}
SPLIT: dict[str, Callable[[bytes], list[bytes]]] = {
    "whitespace": bytes.split,
    "character": lambda text: [character.encode() for character in text.decode()],
}
# output mode → the tokens that stand before the learned ones
SPECIAL_TOKENS = {
    "int": [PADDING, UNKNOWN],
    "multi_hot": [UNKNOWN],
    "count": [UNKNOWN],
}


class TextVectorization(Layer):
    """Texts to ids: `(batch,)` strings → `(batch, time)` int32, padded with 0 on the right.

    A layer without weights, usually the first of a model. It needs a vocabulary, learned by `adapt`
    or given. Tokens, ids and vocabularies are those of Keras's layer of this name.

    Args:
        max_tokens: the most entries that the vocabulary may have, padding and unknown included: in
            mode "int" `adapt` learns at most `max_tokens - 2` words. None: no limit.
        standardize: what is done to each text first.
            "lower_and_strip_punctuation": ASCII letters to lower case (É stays É), then the 32
            ASCII punctuation characters deleted, with nothing in their place ("dot-com" →
            "dotcom");
            "lower", "strip_punctuation": one of the two;
            "unicode": our own, for other languages than English: Unicode case folding, punctuation
            of all scripts deleted, every Unicode space turned into a plain one;
            a function from str to str; or None.
        split: "whitespace" (runs of ASCII white space; none at the ends, no empty tokens),
            "character" (code points), a function from str to a list of str, or None: a text is one
            token, and the output has one step.
        ngrams: n, to add all groups of 2 to n neighbouring tokens, or a tuple of the group sizes
            wanted. A group is one token, joined by spaces. None: single tokens only.
        output_mode: "int"; "multi_hot" or "count" give a bag of words instead: `(batch, vocabulary
            size)` float32, with no padding entry, so that unknown is column 0.
        output_sequence_length: cut or pad every text to this many ids, at the end. None: pad to the
            longest text of the batch (no steps at all if all are empty).
        vocabulary: the words, without repeats, most frequent first; with or without the special
            tokens in front. A layer that was given one cannot be adapted.
        name: unique in its model.

    Attributes:
        vocabulary: the words, without special tokens, or None before there are any.

    >>> layer = TextVectorization()
    >>> layer.adapt(["Oil prices rise", "Oil! Again?"])
    >>> layer.get_vocabulary()
    ['', '[UNK]', 'oil', 'rise', 'prices', 'again']
    >>> layer(["oil falls again", "Prices"])
    array([[2, 1, 5],
           [4, 0, 0]], dtype=int32)
    """

    supports_masking = False

    def __init__(
        self,
        max_tokens: int | None = None,
        standardize: str | Callable[[str], str] | None = "lower_and_strip_punctuation",
        split: str | Callable[[str], list[str]] | None = "whitespace",
        ngrams: int | Sequence[int] | None = None,
        output_mode: str = "int",
        output_sequence_length: int | None = None,
        vocabulary: Sequence[str] | None = None,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        if not callable(standardize) and standardize is not None:
            by_name("standardize", standardize, STANDARDIZE)
        if not callable(split) and split is not None:
            by_name("split", split, SPLIT)
        self.special_tokens = by_name("output_mode", output_mode, SPECIAL_TOKENS)
        self.max_tokens = _whole("max_tokens", max_tokens, len(self.special_tokens) + 1)
        self.output_sequence_length = _whole("output_sequence_length", output_sequence_length, 1)
        if output_mode != "int" and output_sequence_length is not None:
            raise ValueError(
                f"output_sequence_length: output_mode={output_mode!r} has no sequence to cut or "
                f"pad; leave it None (received {output_sequence_length})"
            )
        self.standardize = standardize
        self.split = split
        self.ngrams = _group_sizes(ngrams)
        self.output_mode = output_mode
        self.vocabulary: list[str] | None = None
        self._ids: dict[bytes, int] = {}
        self._given = False
        if vocabulary is not None:
            self.set_vocabulary(vocabulary)

    # -- the vocabulary --

    def adapt(self, data: Any) -> None:
        """Learn the vocabulary: the most frequent tokens of `data`, counted afresh.

        Tokens with equal counts are ordered by their UTF-8 bytes, falling. Empty tokens and
        "[UNK]" are not counted.

        Args:
            data: a list or array of texts; or an iterable (a Dataset) of texts, or of batches of
                texts, read once from its start to its end.

        Raises:
            ValueError: if the vocabulary was given by hand, or if there is nothing to learn from.
            TypeError: if an element is not a text or a batch of texts.
        """
        if self._given:
            raise ValueError(
                f"{self.name}: adapt() would replace the vocabulary that was given to this layer. "
                "Make a new TextVectorization without `vocabulary` and adapt that one."
            )
        counts: Counter[bytes] = Counter()
        read = 0
        for rows in self._tokens("adapt", _stream(data)):
            counts.update(chain.from_iterable(rows))
            read += len(rows)
        for special in (PADDING, UNKNOWN):
            counts.pop(special.encode(), None)
        if not counts:
            raise ValueError(
                f"adapt: expected texts with at least one token, received "
                f"{f'{read} texts without any' if read else 'no texts at all'}"
            )
        # Sorting keeps equals in their order: the second sort leaves ties as the first put them.
        ranked = sorted(sorted(counts, reverse=True), key=counts.__getitem__, reverse=True)
        if self.max_tokens is not None:
            ranked = ranked[: self.max_tokens - len(self.special_tokens)]
        self._use([token.decode() for token in ranked])

    def set_vocabulary(self, vocabulary: Sequence[str]) -> None:
        """Take these words, without repeats, with or without the special tokens in front.

        Raises:
            ValueError: if it is empty or longer than `max_tokens`, or if a token stands in it
                twice, or a special token anywhere but in front.
            TypeError: if it is not a list of strings.
        """
        if isinstance(vocabulary, (str, bytes)):
            raise TypeError(
                f"vocabulary: expected a list of strings, received {vocabulary!r}. To read a file "
                "with one token a line: open(path, encoding='utf-8').read().split('\\n')"
            )
        tokens, specials = _texts("vocabulary", vocabulary), self.special_tokens
        if tokens[: len(specials)] == specials:
            tokens = tokens[len(specials) :]
        if not tokens:
            raise ValueError("vocabulary: expected at least one word, received none")
        for special in (PADDING, UNKNOWN):
            if special in tokens:
                raise ValueError(
                    f"vocabulary: the special token {special!r} stands among the words. Leave the "
                    f"special tokens out, or put exactly {specials} in front."
                )
        if len(set(tokens)) < len(tokens):
            repeated = [token for token, count in Counter(tokens).items() if count > 1]
            raise ValueError(
                f"vocabulary: these tokens stand in it more than once: {repeated[:10]}"
            )
        size = len(tokens) + len(specials)
        if self.max_tokens is not None and size > self.max_tokens:
            raise ValueError(
                f"vocabulary: max_tokens is {self.max_tokens}, received {len(tokens)} words and "
                f"{len(specials)} special tokens, {size} in all"
            )
        self._use(tokens)
        self._given = True

    def _use(self, words: list[str]) -> None:
        encoded = _encode("vocabulary", words)
        ids = {token: i for i, token in enumerate(encoded, start=len(self.special_tokens))}
        # An empty token is padding; where there is no padding, it is dropped after the look-up.
        ids[PADDING.encode()] = 0 if self.output_mode == "int" else -1
        self._ids, self.vocabulary, self.built = ids, words, True

    def get_vocabulary(self, include_special_tokens: bool = True) -> list[str]:
        """All tokens; a token's place is its id, unless special tokens are left out."""
        return (self.special_tokens if include_special_tokens else []) + (self.vocabulary or [])

    def vocabulary_size(self) -> int:
        """The number of ids, special tokens included: what an Embedding needs as `input_dim`."""
        return len(self.get_vocabulary())

    # -- texts to tokens to ids --

    def tokens(self, text: str) -> list[str]:
        """The tokens of one text, before the vocabulary is asked and before any cut."""
        (rows,) = self._tokens(self.name, _texts(self.name, [text]))
        return [token.decode() for token in rows[0]]

    def ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, not padded: one int32 array `(its tokens,)` a text.

        Cut to `output_sequence_length`, if there is one. Call it once for a whole data set: the
        arrays are views of a few large ones.
        """
        self.require_built()
        unknown = len(self.special_tokens) - 1
        result: list[np.ndarray] = []
        for rows in self._tokens(self.name, _texts(self.name, texts)):
            if self.output_sequence_length is not None:
                rows = [row[: self.output_sequence_length] for row in rows]
            ends = np.cumsum([len(row) for row in rows]).tolist()
            found = map(self._ids.get, chain.from_iterable(rows), repeat(unknown))
            flat = np.fromiter(found, dtype=np.int32, count=ends[-1])
            result += [flat[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        if self.output_mode != "int" and (self.split is None or callable(self.split)):
            result = [row[row >= 0] for row in result]
        return result

    def _tokens(self, argument: str, texts: Iterable[str]) -> Iterator[list[list[bytes]]]:
        """The tokens of each text, CHUNK texts at a time; `argument` is for errors."""
        texts, start = iter(texts), 0
        while chunk := list(islice(texts, CHUNK)):
            if self.standardize == "unicode":
                chunk = [fold_unicode(text) for text in chunk]
            elif callable(self.standardize):
                chunk = [self._standardized(text) for text in chunk]
            rows = _encode(argument, chunk, start)
            if isinstance(self.standardize, str):
                table, deleted = STANDARDIZE[self.standardize]
                rows = [row.translate(table, deleted) for row in rows]
            if callable(self.split):
                split = [self._split_by_caller(row.decode()) for row in rows]
            elif self.split is None:
                split = [[row] for row in rows]
            else:
                split = list(map(SPLIT[self.split], rows))
            yield split if self.ngrams is None else [self._groups(row) for row in split]
            start += len(chunk)

    def _standardized(self, text: str) -> str:
        result = self.standardize(text)
        if not isinstance(result, str):
            raise TypeError(f"standardize: the function must return a str, it returned {result!r}")
        return result

    def _split_by_caller(self, text: str) -> list[bytes]:
        result = self.split(text)
        if not isinstance(result, (list, tuple)) or not all(isinstance(t, str) for t in result):
            raise TypeError(
                f"split: the function must return a list of str, it returned {result!r}"
            )
        return _encode("split", result)

    def _groups(self, row: list[bytes]) -> list[bytes]:
        sizes = self.ngrams
        if isinstance(sizes, int):
            sizes = range(1, min(sizes, len(row)) + 1)
        return [b" ".join(row[i : i + n]) for n in sizes for i in range(len(row) - n + 1)]

    # -- the layer --

    def require_built(self) -> None:
        if not self.built:
            raise ValueError(
                f"{self.name}: this layer has no vocabulary yet. Call adapt(texts), or give it one "
                "by set_vocabulary(tokens), first."
            )

    def ensure_built(self, x: Any) -> None:
        self.require_built()

    def build(self, input_shape: Shape) -> None:
        self.require_built()

    def forward(
        self, x: Any, mask: Mask | None = None, training: bool = False
    ) -> tuple[np.ndarray, None]:
        """`(ids, None)`: `(batch, time)` int32 on the host, or the bag of words `(batch, size)`.

        `x`: `(batch,)` or `(batch, 1)` strings; of a single string, the ids `(time,)`.
        """
        single = np.ndim(x) == 0 if isinstance(x, np.ndarray) else isinstance(x, (str, bytes))
        rows = self.ids([x] if single else x)
        if self.output_mode == "int":
            y = pad_rows(rows, length=self.output_sequence_length)
        else:
            y = self._bag(rows)
        return (y[0] if single else y), None

    def _bag(self, rows: list[np.ndarray]) -> np.ndarray:
        size = self.vocabulary_size()
        y = np.zeros((len(rows), size), dtype=np.float32)
        for counts, row in zip(y, rows, strict=True):
            counts += np.bincount(row, minlength=size)
        return np.minimum(y, 1) if self.output_mode == "multi_hot" else y

    def backward(self, dy: Any, cache: None) -> tuple[None, dict[str, Any]]:
        """`(None, {})`: texts have no gradient."""
        return None, {}

    def compute_mask(self, x: Any, mask: Mask | None = None) -> None:
        """None: it is the Embedding that makes a mask of the padding, by `mask_zero=True`."""
        return

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        if self.output_mode == "int":
            return (input_shape[0], self.output_sequence_length)
        return (input_shape[0], self.vocabulary_size())

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments and the vocabulary, learned or given; fit for JSON.

        The layer made of it has the vocabulary as given.

        Raises:
            ValueError: if `standardize` or `split` is a function, which cannot be stored.
        """
        for key in ("standardize", "split"):
            if callable(getattr(self, key)):
                raise ValueError(
                    f"{self.name}: {key} is a function and cannot be stored. Apply it to the texts "
                    f"before this layer (Dataset.map), and give {key} a name or None."
                )
        return {
            "max_tokens": self.max_tokens,
            "standardize": self.standardize,
            "split": self.split,
            "ngrams": list(self.ngrams) if isinstance(self.ngrams, tuple) else self.ngrams,
            "output_mode": self.output_mode,
            "output_sequence_length": self.output_sequence_length,
            "vocabulary": None if self.vocabulary is None else list(self.vocabulary),
            "name": self.name,
        }


# --- Unicode --------------------------------------------------------------------------------------


class _UnicodeTable(dict):
    """For str.translate: what each character becomes; filled as characters come by."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if category.startswith("P") or character in string.punctuation:
            self[code] = ""
        else:
            self[code] = " " if character.isspace() else character
        return self[code]


_UNICODE_TABLE = _UnicodeTable()


def fold_unicode(text: str) -> str:
    """Case folded, without the punctuation of any script, every white space a plain space.

    >>> fold_unicode("¿Qué?\u00a0„STRASSE“ — Straße")
    'qué strasse  strasse'
    """
    return text.casefold().translate(_UNICODE_TABLE)


# --- padding --------------------------------------------------------------------------------------


def pad_rows(rows: Sequence[np.ndarray], value: float = 0, length: int | None = None) -> np.ndarray:
    """One array `(batch, longest, ...)` of the rows' dtype, `value` behind each row's end.

    rows: arrays of one dtype, (length,) or (length, ...), alike but for their first axis.
    length: cut and pad to this many columns instead.

    >>> pad_rows([np.array([5, 6, 7]), np.array([8])])
    array([[5, 6, 7],
           [8, 0, 0]])
    """
    if length is None:
        length = max(map(len, rows), default=0)
    dtype, rest = (rows[0].dtype, rows[0].shape[1:]) if len(rows) else (np.int32, ())
    padded = full("length", (len(rows), length, *rest), value, dtype)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row[:length]
    return padded


def pad_sequences(
    sequences: Sequence[Sequence[Any]],
    maxlen: int | None = None,
    dtype: Any = "int32",
    padding: str = "pre",
    truncating: str = "pre",
    value: Any = 0,
) -> np.ndarray:
    """One array `(batch, maxlen)` of sequences of any lengths, as Keras's function of this name.

    Args:
        sequences: each a list or array `(time,)` or `(time, features)`.
        maxlen: the length of every row; None: that of the longest sequence.
        dtype: of the result. Values are converted as NumPy does (3.7 → 3 for integers).
        padding: "pre" puts `value` in front of a short sequence, "post" behind it.
        truncating: "pre" cuts a long sequence at its start, "post" at its end.
        value: the padding.

    Raises:
        ValueError: for another `padding`, `truncating` or negative `maxlen`, or where the features
            differ.
        TypeError: if an element is not a sequence.

    >>> pad_sequences([[1], [2, 3], [4, 5, 6]], maxlen=2)
    array([[0, 1],
           [2, 3],
           [5, 6]], dtype=int32)
    """
    for argument, side in (("padding", padding), ("truncating", truncating)):
        if not isinstance(side, str) or side not in ("pre", "post"):
            raise ValueError(f'{argument}: expected "pre" or "post", received {side!r}')
    maxlen = _whole("maxlen", maxlen, 0)
    if isinstance(sequences, np.ndarray):
        sequences = host_array("sequences", sequences)
    for i, sequence in enumerate(listed("sequences", sequences)):
        if not hasattr(sequence, "__len__") or isinstance(sequence, (str, bytes, Mapping)):
            raise TypeError(f"sequences: expected a list of sequences, element {i} is {sequence!r}")
    if maxlen is None:
        maxlen = max(map(len, sequences), default=0)
    features = next((np.shape(sequence)[1:] for sequence in sequences if len(sequence)), ())

    try:
        dtype = np.dtype(dtype)
        filling = np.asarray(value).astype(dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(
            f"dtype, value: expected a dtype and a value for it, received {dtype!r} and {value!r} "
            f"({error})"
        ) from None
    if filling.ndim:
        raise TypeError(f"value: expected one number, received {value!r}")
    padded = full("maxlen", (len(sequences), maxlen, *features), filling, dtype)
    for i, sequence in enumerate(sequences):
        row = _row(i, sequence, dtype) if len(sequence) else padded[i, :0]
        if row.shape[1:] != features:
            raise ValueError(
                f"sequences: expected features {features} as in the first one, element {i} has "
                f"{row.shape[1:]}"
            )
        kept = min(len(row), maxlen)
        row = row[len(row) - kept :] if truncating == "pre" else row[:kept]
        start = maxlen - kept if padding == "pre" else 0
        padded[i, start : start + kept] = row
    return padded


def _row(i: int, sequence: Any, dtype: Any) -> np.ndarray:
    try:
        return host_array(f"sequences: element {i}", sequence).astype(dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"sequences: element {i} is not of {dtype} ({error})") from None


# --- checks ---------------------------------------------------------------------------------------


def _stream(data: Any) -> Iterator[str]:
    """The texts of a list, an array, or an iterable of texts or of batches of texts, one by one."""
    several = hasattr(data, "__iter__") and getattr(data, "shape", None) != ()
    if isinstance(data, (str, bytes, type)) or not several:
        raise TypeError(
            f"adapt: expected a list, an array or an iterable of texts, received {data!r}"
        )
    for i, element in enumerate(data):
        if isinstance(element, str):
            yield element
        elif isinstance(element, tuple):
            raise TypeError(
                f"adapt: expected texts or batches of texts, element {i} is a tuple of "
                f"{len(element)}. Keep the text alone first: "
                "dataset.map(lambda text, label: text)"
            )
        elif isinstance(element, list) or np.ndim(element):
            yield from _texts(f"adapt: in element {i}", element)
        else:
            yield from _texts("adapt", [element], i)


def _texts(argument: str, texts: Any, start: int = 0) -> list[str]:
    """`texts`, `(batch,)` or `(batch, 1)` of str or UTF-8 bytes, as a list of str.

    `start`: the number that errors give to the first.
    """
    if isinstance(texts, (str, bytes)):
        raise TypeError(
            f"{argument}: expected a list or an array of texts, received one: {texts!r}. Put it "
            "in a list."
        )
    if not isinstance(texts, (list, tuple)):
        texts = to_host(texts)
        if texts.ndim == 0:
            raise TypeError(
                f"{argument}: expected a list or an array of texts, received "
                f"{type(texts.item()).__name__}"
            )
        texts = texts.tolist()
    if set(map(type, texts)) <= {str}:  # the usual case, tested fast
        return list(texts)
    return [_text(argument, start + i, text) for i, text in enumerate(texts)]


def _text(argument: str, index: int, text: Any) -> str:
    if isinstance(text, np.ndarray):
        text = text.tolist()
    if isinstance(text, (list, tuple)):
        if len(text) != 1 or isinstance(text[0], (list, tuple, np.ndarray)):
            raise ValueError(
                f"{argument}: expected texts of shape (batch,) or (batch, 1), but number {index} "
                f"has shape {np.shape(np.asarray(text, dtype=object))}"
            )
        text = text[0]
    if isinstance(text, bytes):
        try:
            return text.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{argument}: number {index} is bytes that are not UTF-8 ({error}). Decode it "
                'yourself, with the right encoding or with errors="replace".'
            ) from None
    if not isinstance(text, str):
        raise TypeError(
            f"{argument}: expected texts, but number {index} is {text!r} of type "
            f"{type(text).__name__}"
        )
    return str(text)  # np.str_ is a str too, but prints otherwise


def _encode(argument: str, texts: Sequence[str], start: int = 0) -> list[bytes]:
    """Each text as UTF-8."""
    try:
        return [text.encode() for text in texts]
    except UnicodeEncodeError:
        for index, text in enumerate(texts, start):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"{argument}: number {index} has half of a character, which UTF-8 cannot hold "
                    f'({error}). Clean it: text.encode(errors="replace").decode()'
                ) from None
        raise


def _whole(argument: str, value: Any, least: int) -> int | None:
    """`value`, if it is None or a whole number of at least `least`."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{argument}: expected a whole number or None, received {value!r}")
    if value < least:
        raise ValueError(f"{argument}: expected at least {least}, received {value}")
    return int(value)


def _group_sizes(ngrams: Any) -> int | tuple[int, ...] | None:
    if isinstance(ngrams, (tuple, list)):
        if not ngrams:
            raise ValueError("ngrams: expected at least one group size, received none")
        return tuple(_whole("ngrams", n if n is not None else "None", 1) for n in ngrams)
    return _whole("ngrams", ngrams, 1)
