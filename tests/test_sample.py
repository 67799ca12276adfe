"""The generated sample: the same everywhere, readable, and decided by the order of its words."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest

from minirnn.data import sample
from minirnn.data.rows import CLASS_NAMES


@pytest.fixture(scope="module")
def splits():
    return sample.generate()


def words(text):
    return re.sub(r"[^a-z ]", "", text.lower()).split()


def naive_bayes_accuracy(train_texts, train_labels, test_texts, test_labels, length):
    """Test accuracy of naive Bayes over which runs of `length` words a text holds."""

    def runs(text):
        tokens = words(text)
        return {tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1)}

    found = [runs(text) for text in train_texts]
    index = {run: i for i, run in enumerate(sorted(set().union(*found)))}
    counts = np.full((len(CLASS_NAMES), len(index)), 0.5)
    for label, text in zip(train_labels, found, strict=True):
        counts[label, [index[run] for run in text]] += 1
    scores = np.log(counts / (np.bincount(train_labels)[:, None] + 1))
    guesses = [
        scores[:, [index[run] for run in runs(text) if run in index]].sum(axis=1).argmax()
        for text in test_texts
    ]
    return np.mean(np.array(guesses) == test_labels)


def test_sizes_and_types(splits):
    train, test = splits
    assert (len(train), len(test)) == (6000, 1500)
    for rows in splits:
        assert rows.labels.dtype == np.int32
        shares = np.bincount(rows.labels, minlength=4) / len(rows)
        assert shares.min() > 0.2
        assert shares.max() < 0.3


def test_the_same_seed_gives_the_same_rows_on_every_machine():
    train, test = sample.generate(200, 50, seed=7)
    content = repr([train.titles, train.descriptions, train.labels.tolist(), test.titles])
    assert hashlib.sha256(content.encode()).hexdigest() == (
        "bd2ffb807c9e317bd349d7a34290d13197fa647314c6e1bda1ab3fb468415b4a"
    )
    again, _ = sample.generate(200, 50, seed=7)
    assert again.texts() == train.texts()
    other, _ = sample.generate(200, 50, seed=8)
    assert other.texts() != train.texts()


def test_more_rows_begin_with_the_same_rows():
    few, _ = sample.generate(50, 1)
    many, _ = sample.generate(300, 1)
    assert many.take(50).texts() == few.texts()
    np.testing.assert_array_equal(many.labels[:50], few.labels)


def test_no_row_stands_twice_or_in_both_splits(splits):
    train, test = splits
    titles = train.titles + test.titles
    assert len(set(titles)) == len(titles)
    texts = train.descriptions + test.descriptions
    assert len(set(texts)) > 0.9 * len(texts)


def test_lengths_are_those_of_news(splits):
    for rows in splits:
        title_words = np.array([len(title.split()) for title in rows.titles])
        assert title_words.min() >= 4
        assert title_words.max() <= 11
        text_words = np.array([len(text.split()) for text in rows.descriptions])
        assert text_words.min() >= 8
        assert text_words.max() <= 60
        assert 20 <= np.median(text_words) <= 35
        assert np.percentile(text_words, 95) > 45  # a long tail


def test_text_is_well_formed(splits):
    for rows in splits:
        for title, description in zip(rows.titles, rows.descriptions, strict=True):
            text = f"{title} {description}"
            assert text.isascii()
            assert not re.search(r"[{}]|  |\.\.|\bthe the\b|\ba a\b", text), text
            assert title[0].isupper()
            assert not title.endswith(".")
            assert description.endswith(".")
            assert all(part[0].isupper() for part in description.split(". "))


def test_a_bag_of_words_is_not_enough(splits):
    train, test = splits
    for column in "texts", "titles":
        train_texts, test_texts = (
            rows.texts() if column == "texts" else rows.titles for rows in splits
        )
        arguments = train_texts, train.labels, test_texts, test.labels
        bag = naive_bayes_accuracy(*arguments, length=1)
        ordered = naive_bayes_accuracy(*arguments, length=2)
        assert 0.65 < bag < 0.8, column
        assert ordered > bag + 0.12, column
        if column == "texts":
            assert ordered > 0.93


def test_the_same_pair_of_sides_occurs_in_both_classes(splits):
    """A title that names two sides is about either, so which two it names cannot decide."""
    train, _ = splits
    actors = {actor for group in sample._ACTORS for actor in group}
    labels_of_pair = {}
    for title, label in zip(train.titles, train.labels.tolist(), strict=True):
        pair = frozenset(words(title)) & actors
        if len(pair) == 2:
            labels_of_pair.setdefault(pair, []).append(label)
    assert sum(map(len, labels_of_pair.values())) > 1000  # a sixth of all rows, and more
    first = [sorted(labels)[0] == label for labels in labels_of_pair.values() for label in labels]
    assert 0.4 < np.mean(first) < 0.65


@pytest.mark.parametrize("arguments", [{"train_rows": 0}, {"test_rows": -3}])
def test_counts_must_be_positive(arguments):
    ((name, count),) = arguments.items()
    with pytest.raises(ValueError, match=rf"{name} must be at least 1, got {count}\."):
        sample.generate(**arguments)
