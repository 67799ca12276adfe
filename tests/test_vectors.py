"""Word vectors: files, tables for an Embedding, and skip-gram with negative sampling."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest
from device_cases import compare
from hypothesis import given, settings
from hypothesis import strategies as st
from test_models import numeric

from minirnn import Sequential, set_random_seed, vectors
from minirnn.backend import to_device, to_host
from minirnn.layers import Dense, Embedding, SimpleRNN, TextVectorization
from minirnn.vectors import embedding_matrix, load_vectors, nearest, save_vectors
from minirnn.word2vec import (
    SkipGram,
    batches_of,
    negative_sampling,
    negative_sampling_backward,
    pairs_of,
    train_word2vec,
)

GLOVE = "the 0.5 -1 2e-3\nnaïve 1 2 3\n. 4 5 6\n"


def file_of(tmp_path, text):
    path = tmp_path / "vectors.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        GLOVE,
        "3 3\n" + GLOVE,
        "3 3\r\n" + GLOVE.replace("\n", "\r\n"),
        "\ufeff3 3\n" + GLOVE,
        ("3 3\n" + GLOVE).replace("\n", " \n"),  # as the word2vec program writes it
        GLOVE.rstrip("\n"),
    ],
)
def test_both_formats_are_read(tmp_path, text):
    words, table = load_vectors(file_of(tmp_path, text))
    assert words == ["the", "naïve", "."]
    assert table.dtype == np.float32
    np.testing.assert_array_equal(
        table, np.array([[0.5, -1, 2e-3], [1, 2, 3], [4, 5, 6]], "float32")
    )


def test_words_with_spaces_of_all_kinds_in_them(tmp_path):
    text = "a 1 2\n. . . 3 4\nat name@domain.com 5 6\nb\u00a0c 7 8\n\u2028 9 10\n"
    words, table = load_vectors(file_of(tmp_path, text))
    assert words == ["a", ". . .", "at name@domain.com", "b\u00a0c", "\u2028"]
    assert table[:, 1].tolist() == [2, 4, 6, 8, 10]


def test_only_what_is_wanted_is_kept(tmp_path):
    path = file_of(tmp_path, "4 2\na 1 2\nb 3 4\nc 5 6\nd 7 8\n")
    words, table = load_vectors(path, words=["d", "b", "z"])
    assert (words, table.tolist()) == (["b", "d"], [[3, 4], [7, 8]])
    words, table = load_vectors(path, limit=2)
    assert (words, table.tolist()) == (["a", "b"], [[1, 2], [3, 4]])
    words, table = load_vectors(path, words={"z"})
    assert (words, table.shape) == ([], (0, 2))
    assert load_vectors(path, limit=9)[0] == ["a", "b", "c", "d"]
    table = load_vectors(path)[1]
    table[0] = 9  # it is the reader's own
    assert load_vectors(path)[1][0].tolist() == [1, 2]


def test_memory_holds_what_is_kept_and_no_more(tmp_path):
    path, dim, rows = tmp_path / "large.txt", 50, 4000
    with open(path, "w", encoding="utf-8") as file:
        for i in range(rows):
            file.write(f"word{i} {' '.join(['-0.12345678'] * dim)}\n")
    load_vectors(path, limit=1)
    for options, most in (({}, 3.2 * rows * dim * 4), ({"words": ["word7"]}, 100_000)):
        tracemalloc.start()
        load_vectors(path, **options)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < most < path.stat().st_size * 1.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1 2\nb 3\n", r"line 2: expected a word and 2 numbers, received 2 fields, 'b 3'"),
        ("a 1 2\nb 3 4 5\n", r"line 2: expected a word and 2 numbers, received 4 fields"),
        ("2 2\na 1 2\nb 1 2 3\n", "line 3: expected a word and 2 numbers, received 4 fields"),
        ("a 1 2\n\nb 3 4\n", "line 2: expected a word and 2 numbers, received an empty line"),
        ("a 1 2\n 3 4\n", "line 2: expected a word and 2 numbers"),
        ("a 1 2\nb 3 x\n", "line 2: expected a number, received 'x'"),
        ("a 1 2\nb  4\n", "line 2: expected a number, received ''"),
        ("a 1 nan\n", "line 1: expected a finite number, received 'nan'"),
        ("a 1 2\nb -inf 2\n", "line 2: expected a finite number, received '-inf'"),
        ("a 1 1e39\n", "line 1: expected a finite number, received '1e39'"),
        ("word\n", "line 1: expected a word and 1 numbers, received 1 fields"),
        ("3 0\na\n", r"line 1: the vectors are to have 0 numbers \('3 0'\)"),
        ("3 2\na 1 2\nb 1 2\n", "its first line tells of 3 words, and 2 follow; part of the file"),
        ("1 2\na 1 2\nb 1 2\n", "its first line tells of 1 words, and 2 follow"),
        ("", "expected lines of a word and its numbers; the file is empty"),
        (b"a 1 2\n\xff 3 4\n", r"line 2: this is not UTF-8 \(.*0xff.*\); is this a text file\?"),
        (b"x" * 2**21, "line 1: longer than 1,048,576 bytes; is this a text file"),
    ],
)
def test_broken_files_are_named_with_the_line(tmp_path, text, message):
    path = file_of(tmp_path, text)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}(, |: )(?={message})"):
        load_vectors(path)


def test_a_word_that_comes_twice_keeps_its_first_vector(tmp_path):
    path = file_of(tmp_path, "4 2\na 1 2\nb 3 4\na 5 6\na 7 8\n")
    with pytest.warns(UserWarning, match=r"the first vector is kept: 2, 'a' at .*, line 4"):
        words, table = load_vectors(path)
    assert (words, table.tolist()) == (["a", "b"], [[1, 2], [3, 4]])


def test_other_wrong_use_of_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_vectors(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="limit: expected a positive whole number"):
        load_vectors(file_of(tmp_path, GLOVE), limit=0)


word = st.text(st.characters(exclude_characters=" \r\n", exclude_categories=["Cs"]), min_size=1)


@settings(max_examples=50, deadline=None)
@given(words=st.lists(word, unique=True, min_size=1, max_size=8), seed=st.integers(0, 99))
def test_what_is_written_is_read_again_to_the_last_bit(tmp_path_factory, words, seed):
    words = [f"w{w}" if w.startswith("\ufeff") else w for w in words]
    words = list(dict.fromkeys(words))
    path = tmp_path_factory.mktemp("vectors") / "vectors.txt"
    table = np.random.default_rng(seed).normal(size=(len(words), 3)).astype("float32") * 1e-20
    for header in (True, False):
        save_vectors(path, words, table, header=header)
        again, found = load_vectors(path)
        assert again == words
        np.testing.assert_array_equal(found, table)
    save_vectors(path, words, table)
    assert path.read_bytes().startswith(f"{len(words)} 3\n".encode())


@pytest.mark.parametrize(
    ("words", "table", "message"),
    [
        (["a", "b"], np.ones((3, 2)), r"vectors: expected numbers of shape \(2, dim\)"),
        (["a", "b"], np.ones(2), r"vectors: .* received float64 of shape \(2,\)"),
        (["a"], np.array([["x"]]), "vectors: expected numbers"),
        (["a", "b c"], np.ones((2, 2)), "words: expected words without spaces .* received 'b c'"),
        (["a", ""], np.ones((2, 2)), "words: expected words without .* received ''"),
        (["a", "b\n"], np.ones((2, 2)), r"words: expected words without .* received 'b\\n'"),
        (["a", "a"], np.ones((2, 2)), "words: expected each word once"),
    ],
)
def test_what_cannot_be_written(tmp_path, words, table, message):
    path = file_of(tmp_path, "as it was")
    with pytest.raises(ValueError, match=message):
        save_vectors(path, words, table)
    assert path.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [path]


# --- tables ---------------------------------------------------------------------------------------

WORDS, VECTORS = ["rain", "snow", "oil"], np.array([[1.0, 2], [3, 4], [8, 6]])


def vectorizer_of(*words):
    return TextVectorization(vocabulary=list(words))


def test_a_table_for_an_embedding():
    vectorizer = vectorizer_of("oil", "sun", "rain")
    table, coverage = embedding_matrix(vectorizer, WORDS, VECTORS)
    assert table.dtype == np.float32
    assert table.tolist() == [[0, 0], [0, 0], [8, 6], [0, 0], [1, 2]]
    assert coverage == (2, 3, ("sun",))
    assert str(coverage) == "vectors for 2 of 3 words (66.7 %); none for 'sun'"
    layer = Embedding(*table.shape, mask_zero=True, weights=[table], trainable=False)
    model = Sequential([vectorizer, layer, SimpleRNN(3), Dense(2, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(["oil sun", "rain"], [0, 1], verbose=0)
    np.testing.assert_array_equal(layer(np.array([[2, 4]]))[0], [[8, 6], [1, 2]])


def test_words_without_a_vector():
    table, _ = embedding_matrix(vectorizer_of("sun", "oil"), WORDS, VECTORS, missing="mean")
    np.testing.assert_allclose(table, [[0, 0], [4, 4], [4, 4], [8, 6]])
    many = vectorizer_of(*(f"w{i}" for i in range(5000)))
    set_random_seed(1)
    table, coverage = embedding_matrix(many, WORDS, VECTORS, missing="random")
    assert coverage.found == 0 and not table[0].any() and table[1].any()
    np.testing.assert_allclose(table[1:].mean(axis=0), VECTORS.mean(axis=0), atol=0.2)
    np.testing.assert_allclose(table[1:].std(axis=0), VECTORS.std(axis=0), atol=0.2)
    assert str(coverage).endswith("none for 'w0', 'w1', 'w2', 'w3', 'w4', ...")
    set_random_seed(1)
    again, _ = embedding_matrix(many, WORDS, VECTORS, missing="random")
    np.testing.assert_array_equal(again, table)


def test_a_vector_for_unknown_words_and_words_given_twice():
    words = ["[UNK]", "oil", "oil", ""]
    table, coverage = embedding_matrix(vectorizer_of("oil"), words, np.arange(8.0).reshape(4, 2))
    assert table.tolist() == [[0, 0], [0, 1], [2, 3]]
    assert str(coverage) == "vectors for 1 of 1 words (100.0 %)"


def test_tables_that_cannot_be_made():
    with pytest.raises(ValueError, match="missing: there is none called 'zero'. Did you mean"):
        embedding_matrix(vectorizer_of("oil"), WORDS, VECTORS, missing="zero")
    with pytest.raises(ValueError, match="has no vocabulary yet"):
        embedding_matrix(TextVectorization(), WORDS, VECTORS)
    with pytest.raises(ValueError, match=r"vectors: expected numbers of shape \(3, dim\)"):
        embedding_matrix(vectorizer_of("oil"), WORDS, VECTORS[:2])
    with pytest.raises(ValueError, match="words: expected at least one word with its vector"):
        embedding_matrix(vectorizer_of("oil"), [], np.ones((0, 2)))


def test_the_nearest_words():
    table = np.array([[1, 0], [2, 0.1], [0, 1], [-1, 0], [0, 0]])
    words = ["a", "b", "c", "d", "none"]
    found = nearest("a", words, table)
    assert [w for w, _ in found] == ["b", "c", "none", "d"]
    assert found[-1][1] == -1 and found[1][1] == 0
    assert nearest(np.array([0.0, 3.0]), words, table, count=1) == [("c", 1.0)]
    with pytest.raises(ValueError, match="word: 'z' is not among the 5 words"):
        nearest("z", words, table)
    with pytest.raises(ValueError, match=r"word: expected a word or a vector \(2,\)"):
        nearest(np.ones(3), words, table)


# --- skip-gram ------------------------------------------------------------------------------------


def test_the_loss_is_that_of_the_paper():
    rng = np.random.default_rng(0)
    v, u = rng.normal(size=(5, 3)), rng.normal(size=(5, 4, 3))
    value, _ = negative_sampling(v, u)
    expected = 0.0
    for centre, (true, *drawn) in zip(v, u, strict=True):
        expected -= np.log(1 / (1 + np.exp(-centre @ true)))
        expected -= sum(np.log(1 / (1 + np.exp(centre @ noise))) for noise in drawn)
    assert value == pytest.approx(expected / 5, rel=1e-12)
    large, _ = negative_sampling(v * 1e3, u * 1e3)
    assert np.isfinite(large)


def test_gradients_of_a_pair():
    rng = np.random.default_rng(1)
    v, u = rng.normal(size=(5, 3)), rng.normal(size=(5, 4, 3))
    dv, du = negative_sampling_backward(negative_sampling(v, u)[1])
    for gradient, array in ((dv, v), (du, u)):
        slopes = numeric(lambda: float(negative_sampling(v, u)[0]), array)
        np.testing.assert_allclose(gradient, slopes, rtol=1e-7, atol=1e-9)


def test_gradients_of_both_tables():
    model = SkipGram(7, 3, np.random.default_rng(2))
    for table in (model.centres, model.neighbours):
        table.cast("float64")
    rng = np.random.default_rng(3)
    for value in model.params.values():
        value[...] = rng.normal(size=value.shape)
    centres = np.array([1, 4, 1, 2, 6])  # words that come several times, in both places
    neighbours = np.array([[2, 3, 1], [1, 1, 4], [2, 2, 2], [5, 4, 1], [1, 6, 6]])
    _, grads = model.loss_and_gradients(centres, neighbours)
    assert grads.keys() == model.params.keys()
    for key, value in model.params.items():
        slopes = numeric(lambda: float(model.loss_and_gradients(centres, neighbours)[0]), value)
        np.testing.assert_allclose(grads[key].dense(value.shape), slopes, rtol=1e-7, atol=1e-9)
        assert np.abs(slopes).max() > 0.1


class FullReach:
    def integers(self, low, high, size):
        return np.full(size, high - 1)


def test_pairs_are_the_words_near_each_other_in_a_row():
    rows = [np.array([1, 2, 3, 4]), np.array([5]), np.array([6, 7])]
    found = set(zip(*map(np.ndarray.tolist, pairs_of(rows, 2, FullReach())), strict=True))
    near = {(1, 2), (1, 3), (2, 3), (2, 4), (3, 4), (6, 7)}
    assert found == near | {(b, a) for a, b in near}


def test_nearer_words_are_neighbours_more_often():
    rows = [np.arange(100)] * 200
    centres, neighbours = pairs_of(rows, 4, np.random.default_rng(0))
    counts = np.bincount(abs(centres - neighbours))
    shares = counts[1:] / counts[1]
    np.testing.assert_allclose(shares, [1, 0.75, 0.5, 0.25], atol=0.04)


def test_a_pass_gives_each_pair_once_whatever_the_chunks(monkeypatch):
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, 9, rng.integers(2, 12)) for _ in range(40)]
    noise = np.array([0, 0, 0.5, 0, 0.5, 0, 0, 0, 0])
    monkeypatch.setattr("minirnn.word2vec.pairs_of", lambda r, w, g: pairs_of(r, w, FullReach()))
    seen = []
    for chunk in (1, 50, 10_000):
        monkeypatch.setattr("minirnn.word2vec.CHUNK", chunk)
        batches = list(batches_of(rows, 3, 4, noise, 32, rng))
        assert all(len(c) == len(n) <= 32 and n.shape[1] == 5 for c, n in batches)
        drawn = np.concatenate([n[:, 1:].ravel() for _, n in batches])
        assert set(drawn) == {2, 4}
        pairs = [(c, n[0]) for cs, ns in batches for c, n in zip(cs, ns, strict=True)]
        seen.append(sorted(pairs))
    assert seen[0] == seen[1] == seen[2]


def made_up_texts(rows=1500, seed=0):
    """Animals eat, cars burn: words of a group have the same neighbours, and never meet."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(rows):
        if rng.random() < 0.5:
            animal, food = rng.choice(["cat", "dog", "horse"]), rng.choice(["meat", "hay", "oats"])
            texts.append(f"the {animal} quietly eats {food}")
        else:
            car, fuel = rng.choice(["car", "truck", "bus"]), rng.choice(["petrol", "diesel", "gas"])
            texts.append(f"the {car} loudly burns {fuel}")
    return texts


GROUPS = [["cat", "dog", "horse"], ["car", "truck", "bus"], ["meat", "hay", "oats"]]


def test_words_with_the_same_neighbours_come_near_each_other():
    vectorizer = TextVectorization()
    vectorizer.adapt(made_up_texts())
    words, ids = vectorizer.get_vocabulary(), vectorizer.ids(made_up_texts())
    table = train_word2vec(ids, len(words), dim=12, window=3, epochs=4, seed=1)
    assert table.shape == (len(words), 12) and table.dtype == np.float32
    assert np.isfinite(table).all() and not table[0].any()
    for group in GROUPS:
        for each in group:
            close = [w for w, _ in nearest(each, words, table, count=2)]
            assert set(close) == set(group) - {each}, (each, close)


def test_the_same_seed_gives_the_same_vectors():
    ids = [np.array([1, 2, 3, 2, 1]), [2, 3, 4], np.array([4, 1])]
    one, two, other = (train_word2vec(ids, 5, dim=3, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()
    set_random_seed(3)
    drawn = train_word2vec(ids, 5, dim=3)
    set_random_seed(3)
    np.testing.assert_array_equal(train_word2vec(ids, 5, dim=3), drawn)


def test_padding_is_left_out():
    rows = [[1, 2, 3], [4, 2]]
    padded = np.array([[1, 2, 3, 0, 0], [4, 2, 0, 0, 0]])
    one, two = (train_word2vec(each, 6, dim=3, seed=1) for each in (rows, padded))
    np.testing.assert_array_equal(one, two)
    assert one[5].any() and np.abs(one[5]).max() <= 0.5 / 3  # never seen


def test_on_the_device():
    def run():
        table = train_word2vec([[1, 2, 3], [2, 3, 1, 4]], 5, dim=3, seed=1)
        model = SkipGram(5, 3, np.random.default_rng(1))
        v, u = (to_device(np.ones(shape, "float32")) for shape in ((2, 3), (2, 4, 3)))
        dv, du = negative_sampling_backward(negative_sampling(v, u)[1])
        return table, to_host(dv), to_host(du), to_host(model.params["centres"])

    compare(run)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1, 5]], 5), r"token_rows: id 5 at \(1,\) is outside 0..4"),
        (([[1], [0, 2]], 5), "token_rows: expected rows of two words or more, received none"),
        (([], 5), "token_rows: expected rows of two words or more"),
        (([[1, 2]], 5, 0), "dim: expected a positive whole number, received 0"),
        (([[1, 2]], 5, 3, 0), "window: expected a positive whole number"),
        (([[1, 2]], 5, 3, 2, 0), "negatives: expected a positive whole number"),
        (([[1, 2]], 5, 3, 2, 5, 0), "epochs: expected a positive whole number"),
    ],
)
def test_what_nothing_can_be_learned_from(arguments, message):
    with pytest.raises(ValueError, match=message):
        train_word2vec(*arguments)


def test_public_names():
    assert vectors.train_word2vec is train_word2vec
