"""Texts to ids: against a slow oracle that spells the rules out, and against what Keras gave."""

from __future__ import annotations

import copy
import csv
import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn.text import TextVectorization, fold_unicode, pad_rows, pad_sequences

# --- the rules, spelled out slowly ----------------------------------------------------------------


def lower(text):
    return re.sub("[A-Z]", lambda match: chr(ord(match[0]) + 32), text)


def strip(text):
    return re.sub(r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]""", "", text)


ORACLE = {
    "lower_and_strip_punctuation": lambda text: strip(lower(text)),
    "lower": lower,
    "strip_punctuation": strip,
    None: lambda text: text,
}


def oracle_tokens(text, standardize="lower_and_strip_punctuation"):
    return re.findall("[^ \t\n\v\f\r]+", ORACLE[standardize](text))


def oracle_vocabulary(token_lists, max_tokens=None):
    counts = {}
    for tokens in token_lists:
        for token in tokens:
            if token not in ("", "[UNK]"):
                counts[token] = counts.get(token, 0) + 1
    by_count = {}
    for token, count in counts.items():
        by_count.setdefault(count, []).append(token.encode())
    words = []
    for count in sorted(by_count)[::-1]:
        words += [token.decode() for token in sorted(by_count[count])[::-1]]
    return ["", "[UNK]"] + words[: None if max_tokens is None else max_tokens - 2]


def oracle_ids(token_lists, vocabulary, length=None):
    length = max(map(len, token_lists), default=0) if length is None else length
    table = [
        [vocabulary.index(token) if token in vocabulary else 1 for token in tokens][:length]
        for tokens in token_lists
    ]
    return np.array([row + [0] * (length - len(row)) for row in table]).reshape(-1, length)


# Letters of both cases, all that splits or must not split, punctuation in and beyond ASCII.
TRICKY = (
    "aAbBzZ \t\n\v\f\r!#-_'\\[]{}~|`^$+0\x00\x1c\x1f\x7f\x85\u00a0\u2003\u3000ÉéİıßΣ\u0301👍“—中"
)
texts = st.text(st.one_of(st.sampled_from(TRICKY), st.characters(exclude_categories=["Cs"])))
words = st.sampled_from(["oil", "Oil,", "up", "[UNK]", "É", "é", "中", "a", "b", "don't", "..."])
sentences = st.lists(words, max_size=9).map(" ".join)


# --- tokens ---------------------------------------------------------------------------------------

# Each with what Keras 3.15 on TensorFlow 2.21 makes of it.
ODD_TEXTS = [
    ("", []),
    ("!!! ...", []),
    (" \t\n ", []),
    ("\ta\nb\vc\fd\re ", ["a", "b", "c", "d", "e"]),
    ("a\x1cb\x1dc\x1ed\x1fe\x00f\x7fg", ["a\x1cb\x1dc\x1ed\x1fe\x00f\x7fg"]),
    ("a\x85b\u00a0c\u2003d\u3000e\u2028f", ["a\x85b\u00a0c\u2003d\u3000e\u2028f"]),
    ("ÉCOLE Straße ẞ ΣΑΣ", ["École", "straße", "ẞ", "ΣΑΣ"]),
    ("İstanbul ISPARTA ıI", ["İstanbul", "isparta", "ıi"]),
    ("e\u0301 E\u0301 N\u0303", ["e\u0301", "e\u0301", "n\u0303"]),
    ("👍🏽 OK👨‍👩‍👧 flag🇩🇪", ["👍🏽", "ok👨‍👩‍👧", "flag🇩🇪"]),
    ("dot-com #36; \\A\\b it's a_b", ["dotcom", "36", "ab", "its", "ab"]),
    ("“Quoted” — dash…", ["“quoted”", "—", "dash…"]),
    ("ﬁ Ⅳ ａＢ", ["ﬁ", "Ⅳ", "ａＢ"]),
    ("\ufeffBOM \u200bzwsp", ["\ufeffbom", "\u200bzwsp"]),
    ("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~x", ["x"]),
    ("A" * 5000 + " " + "b" * 3, ["a" * 5000, "bbb"]),
]


@pytest.mark.parametrize(("text", "expected"), ODD_TEXTS)
def test_odd_texts_give_the_tokens_that_keras_gives(text, expected):
    assert TextVectorization().tokens(text) == expected
    assert oracle_tokens(text) == expected


@given(texts, st.sampled_from(list(ORACLE)))
def test_tokens_follow_the_rules(text, standardize):
    layer = TextVectorization(standardize=standardize)
    assert layer.tokens(text) == oracle_tokens(text, standardize)
    by_character = TextVectorization(standardize=standardize, split="character")
    assert by_character.tokens(text) == list(ORACLE[standardize](text))
    whole = TextVectorization(standardize=standardize, split=None)
    assert whole.tokens(text) == [ORACLE[standardize](text)]


@given(sentences, st.integers(1, 4))
def test_ngrams(text, n):
    tokens = oracle_tokens(text)

    def groups(size):
        return [
            " ".join(tokens[i : i + size]) for i in range(len(tokens)) if i + size <= len(tokens)
        ]

    assert TextVectorization(ngrams=(n,)).tokens(text) == groups(n)
    expected = [group for size in range(1, n + 1) for group in groups(size)]
    assert TextVectorization(ngrams=n).tokens(text) == expected
    assert TextVectorization(ngrams=(n, 1)).tokens(text) == groups(n) + groups(1)


def test_ngrams_as_in_keras():
    layer = TextVectorization(ngrams=2, vocabulary=["a", "a b", "b c"])
    assert layer(["a b c", "a", ""]).tolist() == [[2, 1, 1, 3, 4], [2, 0, 0, 0, 0], [0] * 5]


def test_unicode_standardizing_reaches_what_ascii_rules_leave():
    layer = TextVectorization(standardize="unicode")
    assert layer.tokens("„ÉCOLE“ — STRASSE\u00a0Straße… ¿ok? 5$ €5") == [
        "école",
        "strasse",
        "strasse",
        "ok",
        "5",
        "€5",
    ]


@given(texts)
def test_unicode_standardizing_twice_is_once(text):
    once = fold_unicode(text)
    assert not set(once) & set("!“”—¿、。\u00a0\u3000")
    assert fold_unicode(once) == once


def test_functions_standardize_and_split():
    layer = TextVectorization(
        standardize=lambda text: text.replace("1", "one"), split=lambda text: text.split(",")
    )
    assert layer.tokens("1, 2,É") == ["one", " 2", "É"]
    layer.adapt(["x,,x,y", ""])
    assert layer.get_vocabulary() == ["", "[UNK]", "x", "y"]
    assert layer(["y,,x"]).tolist() == [[3, 0, 2]]  # an empty token is padding, as in Keras


# --- vocabulary -----------------------------------------------------------------------------------


@given(st.lists(st.one_of(sentences, texts), max_size=12), st.none() | st.integers(3, 8))
def test_vocabulary_and_ids_follow_the_rules(rows, max_tokens):
    layer = TextVectorization(max_tokens=max_tokens)
    token_lists = [oracle_tokens(row) for row in rows]
    expected = oracle_vocabulary(token_lists, max_tokens)
    if len(expected) == 2:
        with pytest.raises(ValueError, match="at least one token"):
            layer.adapt(rows)
        return
    layer.adapt(rows)
    assert layer.get_vocabulary() == expected
    assert layer.get_vocabulary(include_special_tokens=False) == expected[2:]
    assert layer.vocabulary_size() == len(expected)

    ids = layer(rows)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, oracle_ids(token_lists, expected))
    ragged = layer.ids(rows)
    assert [row.tolist() for row in ragged] == [
        row[: len(tokens)].tolist() for row, tokens in zip(ids, token_lists, strict=True)
    ]
    assert all(row.dtype == np.int32 for row in ragged)

    layer = TextVectorization(output_sequence_length=4, vocabulary=expected)
    np.testing.assert_array_equal(layer(rows), oracle_ids(token_lists, expected, length=4))
    assert max(map(len, layer.ids(rows))) <= 4


def test_ties_fall_by_bytes_and_special_tokens_do_not_count():
    layer = TextVectorization(standardize=None)
    layer.adapt(["b B a é 中 👍 z ﬁ b [UNK] [UNK] [UNK]"])
    # By UTF-16 or by locale the order of the last six would differ.
    assert layer.get_vocabulary() == ["", "[UNK]", "b", "👍", "ﬁ", "中", "é", "z", "a", "B"]
    assert layer(["[UNK] b"]).tolist() == [[1, 2]]


def test_max_tokens_counts_the_special_tokens():
    layer = TextVectorization(max_tokens=4)
    layer.adapt(["c b a a d d"])
    assert layer.get_vocabulary() == ["", "[UNK]", "d", "a"]
    assert layer.vocabulary_size() == 4


def test_more_texts_than_one_chunk():
    rows = [f"word{i % 700} {'x ' * (i % 5)}" for i in range(2000)]
    layer = TextVectorization()
    layer.adapt(rows)
    token_lists = [oracle_tokens(row) for row in rows]
    vocabulary = oracle_vocabulary(token_lists)
    assert layer.get_vocabulary() == vocabulary
    np.testing.assert_array_equal(layer(rows), oracle_ids(token_lists, vocabulary))


ROWS = ["oil up oil", "", "É up", "x\u00a0y"]


@pytest.mark.parametrize(
    "data",
    [
        ROWS,
        tuple(ROWS),
        np.array(ROWS),
        np.array(ROWS, dtype=object),
        np.array(ROWS)[:, None],
        [row.encode() for row in ROWS],
        np.array([row.encode() for row in ROWS]),
        [np.str_(row) for row in ROWS],
        [np.array(row) for row in ROWS],
        [ROWS[:3], ROWS[3:]],
        [np.array(ROWS[:1]), np.array(ROWS[1:], dtype=object)[:, None]],
        [ROWS[0], ROWS[1:]],
        [[row] for row in ROWS],
    ],
    ids=lambda data: type(data).__name__,
)
def test_adapt_takes_texts_and_batches_however_they_come(data):
    def check(stream):
        layer = TextVectorization()
        layer.adapt(stream)
        assert layer.get_vocabulary() == ["", "[UNK]", "up", "oil", "É", "x\u00a0y"]
        assert all(type(word) is str for word in layer.get_vocabulary())

    check(data)
    check(iter(data))

    class Source:  # what a Dataset is to this layer
        def __iter__(self):
            return iter(data)

    check(Source())


def test_adapt_counts_afresh_each_time():
    layer = TextVectorization()
    layer.adapt(["a a a"])
    layer.adapt(["b"])
    assert layer.get_vocabulary() == ["", "[UNK]", "b"]
    with pytest.raises(ValueError):
        layer.adapt([])
    assert layer(["b"]).tolist() == [[2]]  # a failed adapt leaves the layer as it was


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], ValueError, "adapt: .* received no texts at all"),
        (iter([]), ValueError, "no texts at all"),
        (["", " ", "[UNK]"], ValueError, "received 3 texts without any"),
        ("one text", TypeError, "adapt: .* received 'one text'"),
        (None, TypeError, "adapt: .* received None"),
        ([("text", 3)], TypeError, r"element 0 is a tuple of 2.*map\(lambda text, label: text\)"),
        (["a", 5], TypeError, "adapt: .*number 1 is 5 of type int"),
        (["a", None], TypeError, "number 1 is None"),
        (np.array([1.5, 2.0]), TypeError, "number 0 is .*1.5"),
        ([["a"], ["b", 7]], TypeError, "in element 1: .*number 1 is 7"),
        ([np.array(["a"]), np.array([["b", "c"]])], ValueError, r"in element 1.*shape \(2,\)"),
        ([b"fine", b"caf\xe9"], ValueError, "number 1 is bytes that are not UTF-8"),
        (["x"] * 300 + ["\ud800"], ValueError, "adapt: number 300 has half of a character"),
    ],
    ids=repr,
)
def test_adapt_refuses(data, error, message):
    layer = TextVectorization(standardize=None)
    with pytest.raises(error, match=message):
        layer.adapt(data)
    assert not layer.built


def test_a_given_vocabulary_with_or_without_special_tokens():
    for given_words in (
        ["b", "a"],
        ["", "[UNK]", "b", "a"],
        ("", "[UNK]", "b", "a"),
        np.array(["b", "a"]),
    ):
        layer = TextVectorization(vocabulary=given_words)
        assert layer.built
        assert layer.get_vocabulary() == ["", "[UNK]", "b", "a"]
        with pytest.raises(ValueError, match="adapt.. would replace the vocabulary that was given"):
            layer.adapt(["c"])
    given_words = ["b", "a"]
    layer = TextVectorization()
    layer.set_vocabulary(given_words)
    given_words.append("c")
    assert layer.vocabulary_size() == 4
    assert layer(["a c"]).tolist() == [[3, 1]]
    with pytest.raises(ValueError, match="would replace"):
        layer.adapt(["c"])


@pytest.mark.parametrize(
    ("vocabulary", "error", "message"),
    [
        ([], ValueError, "at least one word"),
        (["", "[UNK]"], ValueError, "at least one word"),
        (["a", "b", "a"], ValueError, r"more than once: \['a'\]"),
        (["", "a"], ValueError, "special token '' stands among the words"),
        (["a", "[UNK]"], ValueError, r"'\[UNK\]' stands among the words"),
        (list("abcde"), ValueError, "max_tokens is 6, received 5 words and 2 special tokens, 7"),
        ("vocabulary.txt", TypeError, "one token a line"),
        (["a", 3], TypeError, "vocabulary: .*number 1 is 3"),
        (["a", "\udc00"], ValueError, "vocabulary: number 1 has half of a character"),
    ],
    ids=repr,
)
def test_a_given_vocabulary_is_checked(vocabulary, error, message):
    with pytest.raises(error, match=message):
        TextVectorization(max_tokens=6, vocabulary=vocabulary)
    layer = TextVectorization(max_tokens=6)
    with pytest.raises(error, match=message):
        layer.set_vocabulary(vocabulary)
    assert not layer.built


# --- the layer ------------------------------------------------------------------------------------


@pytest.fixture
def layer():
    return TextVectorization(vocabulary=["a", "b", "c"], name="encoder")


def test_one_text_gives_one_row(layer):
    for text in ("a b x", b"a b x", np.str_("a b x"), np.array("a b x")):
        assert layer(text).tolist() == [2, 3, 1]
    assert layer("").shape == (0,)
    padded = TextVectorization(vocabulary=["a"], output_sequence_length=3)
    assert padded("a").tolist() == [2, 0, 0]


def test_batches_of_any_kind(layer):
    rows = ["a b", "", "c é b"]
    expected = [[2, 3, 0], [0, 0, 0], [4, 1, 3]]
    for x in (
        rows,
        tuple(rows),
        np.array(rows),
        np.array(rows, dtype=object),
        [row.encode() for row in rows],
        np.array(rows)[:, None],
        [[row] for row in rows],
        [np.array([row]) for row in rows],
    ):
        assert layer(x).tolist() == expected


def test_empty_batches(layer):
    assert layer(["", "!"]).shape == (2, 0)
    assert layer([]).shape == (0, 0)
    assert layer(np.array([], dtype=str)).dtype == np.int32
    assert layer.ids([]) == []
    assert TextVectorization(vocabulary=["a"], output_sequence_length=3)([]).shape == (0, 3)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([["a", "b"]], ValueError, r"\(batch, 1\), but number 0 has shape \(2,\)"),
        (np.array([["a"], ["b"]])[None], ValueError, r"number 0 has shape \(2, 1\)"),
        (np.array([[["a"]]]), ValueError, r"number 0 has shape \(1, 1\)"),
        (["a", 2], TypeError, "encoder: expected texts, but number 1 is 2 of type int"),
        (["a", None], TypeError, "number 1 is None of type NoneType"),
        (np.array([1, 2]), TypeError, "number 0 is 1 of type int"),
        ([b"\xff"], ValueError, "number 0 is bytes that are not UTF-8"),
        (5, TypeError, "a list or an array of texts, received int"),
        (["x"] * 256 + ["\ud800"], ValueError, "encoder: number 256 has half of a character"),
    ],
    ids=repr,
)
def test_what_is_not_a_batch_of_texts_is_refused(layer, x, error, message):
    with pytest.raises(error, match=message):
        layer(x)


def test_ids_takes_no_single_text(layer):
    with pytest.raises(TypeError, match="received one: 'a b'. Put it in a list"):
        layer.ids("a b")


def test_before_there_is_a_vocabulary():
    layer = TextVectorization(name="encoder")
    assert not layer.built
    assert layer.get_vocabulary() == ["", "[UNK]"]
    for use in (
        lambda: layer(["a"]),
        lambda: layer.ids(["a"]),
        lambda: layer.build((None,)),
        lambda: layer.count_params(),
    ):
        with pytest.raises(ValueError, match=r"encoder: .* no vocabulary yet. Call adapt\(texts\)"):
            use()
    layer.adapt(["a"])
    assert layer.built


def test_it_is_a_layer_without_weights(layer):
    assert TextVectorization().name == "text_vectorization"
    assert layer.params == {}
    assert layer.count_params() == 0
    y, cache = layer.forward(["a b"])
    assert cache is None
    assert layer.backward(y, cache) == (None, {})
    assert layer.compute_mask(["a b"], None) is None
    assert layer.compute_output_shape((None,)) == (None, None)
    fixed = TextVectorization(vocabulary=["a"], output_sequence_length=7)
    assert fixed.compute_output_shape((5, 1)) == (5, 7)


def test_bags_of_words_have_no_padding_column():
    count = TextVectorization(output_mode="count", vocabulary=["a", "b", "c"])
    assert count.get_vocabulary() == ["[UNK]", "a", "b", "c"]
    rows = ["a b a x x", "", "c"]
    assert count(rows).tolist() == [[2, 2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    assert count(rows).dtype == np.float32
    assert count(rows[0]).tolist() == [2, 2, 1, 0]
    assert count.compute_output_shape((None,)) == (None, 4)
    multi_hot = TextVectorization(output_mode="multi_hot", vocabulary=["[UNK]", "a", "b", "c"])
    assert multi_hot(rows).tolist() == [[1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    assert multi_hot([]).shape == (0, 4)

    count = TextVectorization(output_mode="count", max_tokens=4)
    count.adapt(["a a a b b c c d"])
    assert count.get_vocabulary() == ["[UNK]", "a", "c", "b"]

    whole = TextVectorization(output_mode="count", split=None, vocabulary=["a"])
    assert whole(["a", "", "b"]).tolist() == [[0, 1], [0, 0], [1, 0]]


def test_without_split_a_text_is_one_token():
    layer = TextVectorization(split=None)
    layer.adapt(["New York!", "new york", "Rome", ""])
    assert layer.get_vocabulary() == ["", "[UNK]", "new york", "rome"]
    assert layer(["NEW YORK", "x", ""]).tolist() == [[2], [1], [0]]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_tokens": 2}, ValueError, "max_tokens: expected at least 3, received 2"),
        ({"max_tokens": 1, "output_mode": "count"}, ValueError, "expected at least 2, received 1"),
        ({"max_tokens": 10.0}, TypeError, "max_tokens: expected a whole number or None"),
        ({"standardize": "lowercase"}, ValueError, "standardize: .*Did you mean 'lower'"),
        ({"split": "words"}, ValueError, "split: .*whitespace, character"),
        ({"split": 3}, TypeError, "split: "),
        ({"ngrams": 0}, ValueError, "ngrams: expected at least 1"),
        ({"ngrams": ()}, ValueError, "ngrams: expected at least one group size"),
        ({"ngrams": (1, None)}, TypeError, "ngrams: "),
        ({"output_mode": "tf_idf"}, ValueError, "output_mode: .*int, multi_hot, count"),
        ({"output_sequence_length": 0}, ValueError, "output_sequence_length: .*at least 1"),
        ({"output_sequence_length": True}, TypeError, "output_sequence_length"),
        ({"output_sequence_length": 5, "output_mode": "count"}, ValueError, "no sequence to cut"),
    ],
    ids=repr,
)
def test_arguments_are_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        TextVectorization(**arguments)


def test_what_functions_return_is_checked():
    with pytest.raises(TypeError, match="standardize: the function must return a str.* 5"):
        TextVectorization(standardize=lambda text: 5).tokens("a")
    with pytest.raises(TypeError, match="split: the function must return a list of str.*'a'"):
        TextVectorization(split=lambda text: text).tokens("a")
    with pytest.raises(TypeError, match=r"split: the function must return a list.*\[1\]"):
        TextVectorization(split=lambda text: [1]).tokens("a")


# --- configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"max_tokens": 5, "standardize": "unicode", "output_sequence_length": 4, "name": "encoder"},
        {"standardize": None, "split": "character", "ngrams": 2},
        {"ngrams": (3, 1), "output_mode": "count"},
        {"split": None, "output_mode": "multi_hot"},
    ],
    ids=repr,
)
def test_an_equal_layer_from_the_configuration(arguments):
    rows = ["Oil up, up É", "“x” y", "中 ÉCOLE", ""]
    layer = TextVectorization(**arguments)
    layer.adapt(rows)
    stored = json.dumps(layer.get_config())
    twin = TextVectorization(**json.loads(stored))
    assert json.dumps(twin.get_config()) == stored
    assert twin.name == layer.name
    assert twin.get_vocabulary() == layer.get_vocabulary()
    for other in (
        twin,
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        layer.astype("f8"),
    ):
        np.testing.assert_array_equal(other(rows), layer(rows))


def test_the_configuration_of_a_layer_without_vocabulary():
    config = TextVectorization(max_tokens=9).get_config()
    assert config["vocabulary"] is None
    twin = TextVectorization(**config)
    assert not twin.built
    twin.adapt(["a"])
    assert config["vocabulary"] is None


@pytest.mark.parametrize("key", ["standardize", "split"])
def test_functions_have_no_configuration(key):
    layer = TextVectorization(**{key: str.split}, name="encoder")
    with pytest.raises(ValueError, match=f"encoder: {key} is a function and cannot be stored"):
        layer.get_config()


# --- padding --------------------------------------------------------------------------------------

lists = st.lists(st.lists(st.integers(1, 99), max_size=6), max_size=6)


@given(lists, st.none() | st.integers(0, 8), st.integers(-3, 0))
def test_pad_rows(rows, length, value):
    padded = pad_rows([np.array(row, dtype=np.int64) for row in rows], value, length)
    width = max(map(len, rows), default=0) if length is None else length
    assert padded.shape == (len(rows), width)
    assert padded.tolist() == [(row + [value] * width)[:width] for row in rows]
    assert padded.dtype == (np.int64 if rows else np.int32)


@given(
    lists,
    st.none() | st.integers(0, 8),
    st.sampled_from(["pre", "post"]),
    st.sampled_from(["pre", "post"]),
    st.integers(-3, 0),
)
def test_pad_sequences(rows, maxlen, padding, truncating, value):
    padded = pad_sequences(rows, maxlen, padding=padding, truncating=truncating, value=value)
    width = max(map(len, rows), default=0) if maxlen is None else maxlen
    expected = []
    for row in rows:
        kept = row[max(len(row) - width, 0) :] if truncating == "pre" else row[:width]
        filling = [value] * (width - len(kept))
        expected.append(filling + kept if padding == "pre" else kept + filling)
    assert padded.shape == (len(rows), width)
    assert padded.tolist() == expected
    assert padded.dtype == np.int32


def test_pad_sequences_to_nothing():
    assert pad_sequences([[1, 2, 3], [4]], maxlen=0).shape == (2, 0)


def test_pad_sequences_of_features():
    rows = [np.array([[1.5, 2], [3, 4]]), [], [[5, 6]]]
    padded = pad_sequences(rows, dtype="float32", value=-1)
    assert padded.dtype == np.float32
    assert padded.tolist() == [[[1.5, 2], [3, 4]], [[-1, -1], [-1, -1]], [[-1, -1], [5, 6]]]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"padding": "left"}, ValueError, 'padding: expected "pre" or "post", received \'left\''),
        ({"truncating": None}, ValueError, "truncating: .*None"),
        ({"maxlen": -1}, ValueError, "maxlen: expected at least 0"),
        ({"sequences": [[1], 2]}, TypeError, "element 1 is 2"),
        ({"sequences": [[1], [[2, 3]]]}, ValueError, r"features \(\) .* element 1 has \(2,\)"),
    ],
    ids=repr,
)
def test_pad_sequences_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        pad_sequences(**({"sequences": [[1], [2, 3]]} | arguments))


# --- real rows ------------------------------------------------------------------------------------


def test_real_rows_follow_the_rules():
    folder = os.environ.get("MINIRNN_AG_NEWS")
    if not folder:
        pytest.skip("MINIRNN_AG_NEWS does not name a folder with the AG News files")
    with (Path(folder) / "test.csv").open(encoding="utf-8", newline="") as file:
        rows = [f"{title} {description}" for _, title, description in csv.reader(file)]
    layer = TextVectorization(max_tokens=5000)
    layer.adapt(rows)
    token_lists = [oracle_tokens(row) for row in rows]
    vocabulary = oracle_vocabulary(token_lists, 5000)
    assert layer.get_vocabulary() == vocabulary
    place = {token: i for i, token in enumerate(vocabulary)}
    for ids, tokens in zip(layer.ids(rows), token_lists, strict=True):
        assert ids.tolist() == [place.get(token, 1) for token in tokens]
