"""`gradient_flow` against `trace`, which looks at one text at a time, and against Jacobians taken
from forward passes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from recurrent_cases import KINDS, make, randomize

from minirnn.inspect import Flow, gradient_flow, trace
from minirnn.layers import (
    GRU,
    LSTM,
    Bidirectional,
    Dense,
    Embedding,
    GlobalAveragePooling1D,
    SimpleRNN,
    TextVectorization,
    TimeDistributed,
)
from minirnn.models import Sequential, layers_in_a_row

TOKENS, FEATURES, UNITS, CLASSES = 13, 2, 3, 5

# Of different lengths, one with holes and padding in front, one empty.
ROWS = np.array(
    [
        [4, 7, 3, 9, 2, 11, 5],
        [5, 1, 0, 0, 0, 0, 0],
        [0, 8, 0, 6, 12, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
        [2, 4, 3, 1, 0, 0, 0],
    ]
)
LABELS = np.array([1, 4, 0, 2, 2])


def head():
    return Dense(CLASSES, activation="softmax")


def finished(*layers, seed=0):
    model = Sequential([Embedding(TOKENS, FEATURES, mask_zero=True), *layers])
    model.build()
    model = randomize(model.astype("float64"), np.random.default_rng(seed), scale=0.7)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def one_layer(kind, **options):
    return finished(make(kind, UNITS, **options), head())


def stacked(kind):
    return finished(
        Bidirectional(make(kind, UNITS, return_sequences=True)),
        Sequential([make(kind, 2, return_sequences=True, go_backwards=True)], name="inner"),
        make(kind, 2),
        head(),
    )


def by_distance(layer, values):
    """The values (T, ...) of the steps that the layer took, from the last one taken back."""
    taken = values[layer.mask]
    return taken[::-1] if layer.direction == "forward" else taken


# --- the gradients --------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [None, LABELS], ids=["prediction", "labels"])
@pytest.mark.parametrize("build", [one_layer, stacked])
@pytest.mark.parametrize("kind", KINDS)
def test_norms_are_the_means_of_those_that_trace_shows(kind, build, labels):
    model = build(kind)
    flows = gradient_flow(model, ROWS, labels)
    traces = [
        trace(model, row, None if labels is None else labels[k]) for k, row in enumerate(ROWS)
    ]
    assert len(flows) == len(traces[0].layers) == (1 if build is one_layer else 4)
    for k, flow in enumerate(flows):
        layers = [seen.layers[k] for seen in traces]
        for name in ("name", "cell", "direction"):
            assert getattr(flow, name) == getattr(layers[0], name)
        assert flow.rows.tolist() == [4, 4, 3, 2, 1, 1, 1]
        assert set(flow.gradient_norm) == set(layers[0].states)
        for state, found in flow.gradient_norm.items():
            rows = [by_distance(layer, layer.gradient_norm[state]) for layer in layers]
            expected = [np.mean([r[d] for r in rows if len(r) > d]) for d in range(7)]
            np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("build", [one_layer, stacked])
@pytest.mark.parametrize(("kind", "gate"), [("lstm", "f"), ("gru", "z"), ("gru_reset_before", "z")])
def test_the_product_of_the_gates_back_from_the_end(kind, gate, build):
    model = build(kind)
    traces = [trace(model, row) for row in ROWS]
    for k, flow in enumerate(gradient_flow(model, ROWS)):
        products = []
        for layer in (seen.layers[k] for seen in traces):
            gates = by_distance(layer, layer.gates[gate])
            products.append([np.prod(gates[:d], axis=0).mean() for d in range(len(gates))])
        expected = [np.mean([p[d] for p in products if len(p) > d]) for d in range(7)]
        np.testing.assert_allclose(flow.gate_product, expected, rtol=1e-10)
        assert flow.gate_product[0] == 1
        names = "ifco" if kind == "lstm" else "zrh"
        layer = dict(layers_in_a_row(model.layers))[flow.name]
        cell = getattr(layer, f"{flow.direction}_layer", layer).cell
        blocks = np.split(cell.params["recurrent_kernel"], len(names), axis=1)
        for name, block in zip(names, blocks, strict=True):
            largest = max(abs(np.linalg.eigvals(block)))
            assert flow.spectral_radius[name] == pytest.approx(largest)


# --- the growth -----------------------------------------------------------------------------------


def jacobian(layer, vectors, step=1e-6):
    """The derivative of the last state at the initial one, by central differences."""
    layer = copy.copy(layer)
    layer.return_sequences, layer.return_state = False, True
    size = len(layer.cell.state_names) * layer.units

    def last(flat):
        state = tuple(part[None] for part in np.split(flat, len(layer.cell.state_names)))
        return np.concatenate([s[0] for s in layer(vectors[None], initial_state=state)[1:]])

    start = np.zeros(size)
    found = []
    for move in np.eye(size) * step:
        near, far = (last(start + k * move) - last(start - k * move) for k in (1, 2))
        found.append((8 * near - far) / (12 * step))
    return np.array(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backwards", [False, True])
def test_growth_is_the_root_of_the_norm_of_the_whole_jacobian(kind, backwards):
    model = one_layer(kind, go_backwards=backwards)
    table = model.layers[0].params["embeddings"]
    rates = []
    for row in ROWS:
        real = row[row != 0]
        if len(real):
            norm = np.linalg.norm(jacobian(model.layers[1], table[real]), 2)
            rates.append(np.log(norm) / len(real))
    [flow] = gradient_flow(model, ROWS)
    assert flow.growth == pytest.approx(np.exp(np.mean(rates)), rel=1e-6)


def test_in_a_linear_network_growth_and_radius_are_those_of_the_matrix():
    model = finished(SimpleRNN(2, activation="linear"), head())
    U = np.array([[0.5, 0.0], [0.0, -2.0]])
    model.layers[1].cell.params["recurrent_kernel"][...] = U
    [flow] = gradient_flow(model, ROWS)
    assert flow.growth == pytest.approx(2) and flow.spectral_radius == {"h": pytest.approx(2)}
    assert flow.gate_product is None
    model.layers[1].cell.params["recurrent_kernel"][...] = 0
    assert gradient_flow(model, ROWS)[0].growth == 0


def test_growth_over_so_many_steps_that_the_product_underflows():
    model = Sequential([Embedding(TOKENS, 2), SimpleRNN(2, activation="linear"), head()])
    model.build()
    model.layers[1].cell.params["recurrent_kernel"][...] = np.eye(2) * 0.01
    [flow] = gradient_flow(model, np.full((1, 200), 3))  # 0.01 ** 200 is 0 in float64, too
    assert flow.growth == pytest.approx(0.01, rel=1e-5)


def test_the_cells_on_the_same_rows():
    """What the gates are for: a gradient lasts where f or z stays near 1."""
    rng = np.random.default_rng(0)
    rows, left = rng.integers(1, TOKENS, (6, 30)), {}
    for name, layer in {"rnn": SimpleRNN(8), "lstm": LSTM(8), "gru": GRU(8)}.items():
        model = Sequential([Embedding(TOKENS, 4), layer, head()])
        model.build()
        params, units = layer.cell.params, 8
        params["recurrent_kernel"][...] *= 0.5
        if name == "lstm":
            params["bias"][units : 2 * units] = 4
        if name == "gru":
            params["bias"][0, :units] = 4
        [flow] = gradient_flow(model, rows)
        norm = flow.gradient_norm["c" if name == "lstm" else "h"]
        left[name] = norm[29] / norm[0]
        if name != "rnn":
            assert flow.gate_product[29] == pytest.approx(0.982**29, rel=0.1)
    assert left["rnn"] < 1e-8 and left["lstm"] > 0.1 and left["gru"] > 0.1


# --- batches and models ---------------------------------------------------------------------------


def text_model():
    words = TextVectorization(vocabulary=["oil", "prices", "rise"])
    model = Sequential([words, Embedding(5, 2, mask_zero=True), GRU(3), head()])
    model.build()
    return randomize(model, np.random.default_rng(0))


def equal(one, two):
    return all(
        np.array_equal(a.gradient_norm["h"], b.gradient_norm["h"]) and a.growth == b.growth
        for a, b in zip(one, two, strict=True)
    )


def test_texts_and_rows_of_ids():
    model = text_model()
    texts = gradient_flow(model, ["oil prices rise", "gold"])
    assert isinstance(texts[0], Flow) and texts[0].rows.tolist() == [2, 1, 1]
    below = model.without_vectorizer()
    assert equal(texts, gradient_flow(below, [[2, 3, 4], [1]]))
    assert equal(texts, gradient_flow(below, np.array([[2, 3, 4], [1, 0, 0]])))


def test_an_output_at_every_step():
    model = finished(LSTM(UNITS, return_sequences=True), TimeDistributed(head()))
    [flow] = gradient_flow(model, ROWS, np.broadcast_to(LABELS[:, None], ROWS.shape))
    alone = gradient_flow(model, ROWS[:1], np.broadcast_to(LABELS[:1, None], ROWS[:1].shape))
    assert flow.rows[6] == alone[0].rows[6] == 1
    [last] = gradient_flow(model, ROWS)
    assert last.gradient_norm["h"].shape == (7,)


def test_the_size_of_the_batch_does_not_matter():
    model = one_layer("lstm")
    once, twice = (
        gradient_flow(model, np.tile(ROWS, (n, 1)), np.tile(LABELS, n))[0] for n in (1, 2)
    )
    np.testing.assert_allclose(once.gradient_norm["c"], twice.gradient_norm["c"], rtol=1e-12)
    assert once.growth == pytest.approx(twice.growth)


def test_a_batch_of_nothing_but_padding():
    [flow] = gradient_flow(one_layer("gru"), np.zeros((2, 3), int))
    assert flow.rows.shape == flow.gate_product.shape == (0,) and np.isnan(flow.growth)


def test_stateful_layers_keep_what_they_had():
    model = one_layer("lstm", stateful=True)
    model.predict(ROWS[:2])
    kept = model.layers[1].states
    assert equal(gradient_flow(model, ROWS), gradient_flow(one_layer("lstm"), ROWS))
    gradient_flow(model, ROWS, LABELS)
    assert model.layers[1].states is kept


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "labels", "error", "said"),
    [
        ("oil", None, TypeError, "batch: expected a list of texts"),
        (3, None, TypeError, "batch: expected a list of texts"),
        ([], None, ValueError, "batch: expected at least one row"),
        (["oil", "rise"], [1], ValueError, "labels: expected one for each of the 2 rows"),
        (["oil"], 1, ValueError, "labels: expected one for each of the 1 rows"),
        (["oil"], [CLASSES], ValueError, "label"),
        (ROWS, None, TypeError, "expects texts"),
    ],
)
def test_batches_that_do_not_fit(batch, labels, error, said):
    model = text_model()
    model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(error, match=said):
        gradient_flow(model, batch, labels)


def test_models_that_do_not_fit():
    with pytest.raises(TypeError, match="model: expected a Sequential"):
        gradient_flow(LSTM(3), ROWS)
    with pytest.raises(ValueError, match="no recurrent layer"):
        gradient_flow(finished(GlobalAveragePooling1D(), head()), ROWS)
    with pytest.raises(ValueError, match="has no classes"):
        gradient_flow(finished(GRU(2), Dense(1)), ROWS)
    with pytest.raises(ValueError, match="compile"):
        gradient_flow(text_model(), ["oil"], [1])


def test_a_model_without_classes_has_a_gradient_where_there_are_labels():
    model = finished(GRU(2), Dense(1))
    model.compile("adam", "mse")
    [flow] = gradient_flow(model, ROWS, LABELS.astype(float))
    assert (flow.gradient_norm["h"] > 0).all()
