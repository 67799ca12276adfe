"""The news classifier: its four models, training, results, and what it shows."""

from __future__ import annotations

import numpy as np
import pytest

from minirnn import NonFiniteError, Sequential, classifier, set_random_seed
from minirnn.classifier import RECIPES, ClassifierError
from minirnn.data import ag_news
from minirnn.data.ag_news import CLASS_NAMES, NewsData
from minirnn.layers import Bidirectional, Dense, Embedding, SimpleRNN, TextVectorization

every_model = pytest.mark.parametrize("name", RECIPES)


@pytest.fixture(scope="module")
def data():
    return ag_news.load("sample")


@pytest.fixture(scope="module")
def vectorizer(data):
    return classifier.adapted_vectorizer(data.train.titles)


def seeded(name, vectorizer, seed=0):
    set_random_seed(seed)
    return classifier.build_model(name, vectorizer)


@pytest.fixture(scope="module")
def trained(data, vectorizer):
    model = seeded("rnn-title", vectorizer)
    classifier.train(model, data.train, epochs=4, verbose=0)
    return model


def other_model(classes=3, activation="softmax"):
    layers = [TextVectorization(vocabulary=["oil"]), Embedding(3, 2), SimpleRNN(2)]
    model = Sequential([*layers, Dense(classes, activation=activation)])
    model.build()
    return model


# --- models ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("rnn-title", 1_280_000 + 1_296 + 68),
        ("rnn", 1_280_000 + 1_296 + 68),
        ("lstm", 1_280_000 + 2_336 + 36),
        ("bilstm", 2_560_000 + 98_816 + 98_816 + 516),
    ],
)
def test_models_have_the_weights_of_the_lesson(name, count, vectorizer):
    model = seeded(name, vectorizer)
    assert model.count_params() == count
    assert model.name == name
    assert model.predict(["oil prices", "a"]).shape == (2, 4)


def test_masks_and_directions_are_those_of_the_lesson(vectorizer):
    models = {name: seeded(name, vectorizer) for name in RECIPES}
    masked = {name for name, model in models.items() if model.layers[1].mask_zero}
    assert masked == {"rnn", "bilstm"}
    assert [type(layer) for layer in models["bilstm"].layers[2:4]] == [Bidirectional] * 2
    assert {name: recipe.batch_size for name, recipe in RECIPES.items()} == {
        "rnn-title": 16,
        "rnn": 16,
        "lstm": 8,
        "bilstm": 16,
    }


def test_unknown_model_names_the_nearest(vectorizer):
    with pytest.raises(ValueError, match="'bilstn'.*Did you mean 'bilstm'"):
        classifier.build_model("bilstn", vectorizer)


def test_vocabulary_is_that_of_the_first_2000_titles():
    titles = [f"word{i}" for i in range(2001)]
    known = classifier.adapted_vectorizer(titles).vocabulary
    assert len(known) == 2000
    assert "word1999" in known
    assert "word2000" not in known


@every_model
def test_only_rnn_title_reads_titles_alone(name, data, vectorizer):
    rows = data.test.take(2)
    texts = classifier.texts_for(seeded(name, vectorizer), rows)
    assert texts == (rows.titles if name == "rnn-title" else rows.texts())
    assert rows.texts()[0] == f"{rows.titles[0]} {rows.descriptions[0]}"


def test_one_epoch_of_ag_news_and_several_of_the_sample(data):
    real = NewsData(data.train, data.test, "csv", "AG News.")
    for name, recipe in RECIPES.items():
        assert classifier.default_epochs(name, real) == 1
        assert classifier.default_epochs(name, data) == recipe.sample_epochs > 1


# --- training -------------------------------------------------------------------------------------


@every_model
def test_every_model_learns_its_training_rows(name, data, vectorizer):
    model, rows = seeded(name, vectorizer), data.train.take(48)
    first = classifier.train(model, rows, epochs=1, verbose=0).history["loss"][0]
    for _ in range(2):
        last = classifier.train(model, rows, epochs=4, batch_size=8, verbose=0).history["loss"][-1]
    assert last < 0.95 * first


def test_the_batch_size_is_the_recipes_own_unless_given(data, vectorizer):
    model = seeded("lstm", vectorizer)
    classifier.train(model, data.train.take(17), epochs=1, verbose=0)
    assert model.optimizer.iterations == 3  # of 8, 8 and 1 rows
    classifier.train(model, data.train.take(17), epochs=1, batch_size=17, verbose=0)
    assert model.optimizer.iterations == 4


def test_same_seed_same_model(data, vectorizer):
    outputs = []
    for seed in (1, 1, 2):
        model = seeded("rnn-title", vectorizer, seed)
        classifier.train(model, data.train.take(40), epochs=2, verbose=0)
        outputs.append(model.predict(data.test.titles[:5]))
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert np.abs(outputs[0] - outputs[2]).max() > 1e-4


# --- predictions and results ----------------------------------------------------------------------


def test_what_a_masked_model_says_does_not_depend_on_other_texts(data, vectorizer):
    model = seeded("rnn", vectorizer)
    classifier.train(model, data.train.take(64), epochs=2, verbose=0)
    texts = data.test.texts()[:100] + [""]
    together = classifier.predict(model, texts)
    assert together.shape == (101, 4)
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-5)
    for i in (0, 37, 70, 100):  # in different batches of 64; the last is empty
        np.testing.assert_allclose(together[i], classifier.predict(model, [texts[i]])[0], atol=1e-6)


def test_result_counts_right_and_wrong_rows(data, trained):
    rows = data.test.take(300)
    result = classifier.evaluate(trained, rows)
    predicted = [max(range(4), key=lambda c: p[c]) for p in result.probabilities]
    for true in range(4):
        for guess in range(4):
            pairs = zip(rows.labels, predicted, strict=True)
            assert result.confusion[true, guess] == sum(p == (true, guess) for p in pairs)
    right = sum(a == b for a, b in zip(rows.labels, predicted, strict=True))
    assert result.correct == right
    assert result.accuracy == pytest.approx(right / 300)
    assert result.accuracy > 0.75


def test_saved_classifier_is_the_same_and_still_reads_titles(tmp_path, data, trained):
    trained.save(tmp_path / "model.mrnn")
    again = classifier.load(tmp_path / "model.mrnn")
    assert classifier.class_names(again) == CLASS_NAMES
    before, after = (classifier.evaluate(model, data.test) for model in (trained, again))
    np.testing.assert_array_equal(before.probabilities, after.probabilities)
    np.testing.assert_array_equal(before.confusion, after.confusion)


def test_report_says_which_data_its_numbers_come_from(data, trained):
    few = NewsData(data.train, data.test[:40], "sample", data.description)
    result = classifier.evaluate(trained, few.test)
    text = classifier.report(trained, few)
    assert f"40 test rows of the generated sample (not AG News): {result.accuracy:.4f}" in text
    assert f"({result.correct} right)" in text

    real = NewsData(data.train, data.test[:40], "csv", "AG News from CSV files.")
    assert "40 test rows of AG News: " in classifier.report(trained, real)
    assert "sample" not in classifier.report(trained, real)


def test_report_shows_the_confusion_table_and_headlines(data, trained):
    few = NewsData(data.train, data.test[:40], "sample", data.description)
    result = classifier.evaluate(trained, few.test)
    lines = classifier.report(trained, few, headlines=5).splitlines()
    start = next(i for i, line in enumerate(lines) if line.split() == list(CLASS_NAMES))
    for i, name in enumerate(CLASS_NAMES, 1):
        assert lines[start + i].split() == [name, *map(str, result.confusion[i - 1])]
    for line, title, label, p in zip(
        lines[-5:], few.test.titles, few.test.labels, result.probabilities, strict=False
    ):
        assert line.split()[:5] == [*(f"{v:.3f}" for v in p), CLASS_NAMES[p.argmax()]]
        assert title in line
        assert line.endswith(f"(it is {CLASS_NAMES[label]})") == (p.argmax() != label)


def test_other_numbers_of_classes_are_numbered():
    assert classifier.class_names(other_model()) == ["0", "1", "2"]


# --- errors ---------------------------------------------------------------------------------------


def test_load_refuses_models_that_take_no_texts(tmp_path):
    model = Sequential([Embedding(5, 2), SimpleRNN(2), Dense(3, activation="softmax")])
    model.build()
    model.save(tmp_path / "m")
    with pytest.raises(ClassifierError, match="m: this model takes no texts.*TextVectorization"):
        classifier.load(tmp_path / "m")


@pytest.mark.parametrize("kind", ["one output", "steps"])
def test_load_refuses_models_that_are_no_classifiers(tmp_path, kind):
    model = other_model(1, "sigmoid")
    if kind == "steps":
        model = Sequential([TextVectorization(vocabulary=["oil"]), Embedding(3, 2)])
        model.build()
    model.save(tmp_path / "m")
    with pytest.raises(ClassifierError, match=r"no classifier.*Expected \(batch, classes\)"):
        classifier.load(tmp_path / "m")


def test_evaluate_refuses_other_classes(data):
    with pytest.raises(ClassifierError, match="has 3 classes, and the news rows have 4: World"):
        classifier.evaluate(other_model(), data.test)


def test_outputs_that_are_no_probabilities_are_refused():
    with pytest.raises(ClassifierError, match="no probabilities.*softmax"):
        classifier.predict(other_model(activation=None), ["oil", "price"])


def test_weights_that_are_not_finite_are_refused():
    model = other_model()
    model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
    with pytest.raises(NonFiniteError, match="row 0 of x holds nan; .* weights embeddings"):
        classifier.predict(model, ["oil"])
