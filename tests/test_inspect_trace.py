"""`trace` against forward passes alone: every number that it shows."""

from __future__ import annotations

import json

import model_cases
import numpy as np
import pytest
from nudged_cells import nudgeable, slope
from recurrent_cases import KINDS, make, randomize

from minirnn.inspect import Trace, trace
from minirnn.layers import (
    GRU,
    LSTM,
    RNN,
    Activation,
    Bidirectional,
    Dense,
    DropMask,
    Dropout,
    Embedding,
    Flatten,
    GlobalAveragePooling1D,
    GlobalMaxPooling1D,
    Input,
    LSTMCell,
    Masking,
    OneHot,
    SimpleRNN,
    TextVectorization,
    TimeDistributed,
)
from minirnn.losses import SparseCategoricalCrossentropy
from minirnn.models import Sequential, load

TOKENS, FEATURES, UNITS, CLASSES = 13, 2, 3, 5

HOLES = [0, 7, 0, 3, 9, 0, 0, 2, 11, 0]  # masked in front, in between and behind
PLAIN = [4, 7, 3, 9, 2, 11]


def head(units=CLASSES, activation="softmax"):
    return Dense(units, activation=activation)


def finished(layers, seed=0):
    """The model with random weights, in float64."""
    model = Sequential(layers)
    model.build((None, None) if isinstance(model.layers[0], Embedding) else None)
    return randomize(model.astype("float64"), np.random.default_rng(seed), scale=0.7)


def embedding(mask_zero=True):
    return Embedding(TOKENS, FEATURES, mask_zero=mask_zero)


def one_layer(kind, **options):
    return [embedding(), make(kind, UNITS, **options), head()]


def both_ways(kind, merge_mode="concat", **options):
    return Bidirectional(make(kind, UNITS, **options), merge_mode=merge_mode)


SHAPES = {
    "one layer": one_layer,
    "no mask": lambda kind: [embedding(False), make(kind, UNITS), head()],
    "backwards": lambda kind: one_layer(kind, go_backwards=True),
    "stacked": lambda kind: [
        embedding(),
        make(kind, UNITS, return_sequences=True),
        Dropout(0.5),
        make(kind, 2),
        head(),
    ],
    "stacked backwards": lambda kind: [
        embedding(),
        make(kind, UNITS, return_sequences=True, go_backwards=True),
        make(kind, 2, return_sequences=True),
        both_ways(kind, return_sequences=True),
        make(kind, 2, go_backwards=True),
        head(),
    ],
    "bidirectional": lambda kind: [embedding(), both_ways(kind), head()],
    "bidirectional twice": lambda kind: [
        embedding(),
        both_ways(kind, "ave", return_sequences=True),
        TimeDistributed(Dense(4, activation="tanh")),
        both_ways(kind, "mul"),
        head(),
    ],
    "bidirectional sum, maximum": lambda kind: [
        embedding(),
        both_ways(kind, "sum", return_sequences=True),
        GlobalMaxPooling1D(),
        head(),
    ],
    "zeros at masked steps, mean": lambda kind: [
        embedding(),
        make(kind, UNITS, return_sequences=True, zero_output_for_mask=True),
        GlobalAveragePooling1D(),
        head(),
    ],
    "states at masked steps": lambda kind: [
        embedding(),
        make(kind, UNITS, return_sequences=True),
        DropMask(),
        GlobalAveragePooling1D(),
        head(),
    ],
    "inner model": lambda kind: [
        embedding(),
        Sequential([make(kind, UNITS, return_sequences=True), make(kind, 2)], name="inner"),
        Sequential([head()], name="end"),
    ],
    "an output at every step": lambda kind: [
        embedding(),
        both_ways(kind, return_sequences=True),
        TimeDistributed(head()),
    ],
    "one sigmoid": lambda kind: [embedding(), make(kind, UNITS), head(1, "sigmoid")],
    "many sigmoids": lambda kind: [embedding(), make(kind, UNITS), head(CLASSES, "sigmoid")],
    "an activation behind": lambda kind: [
        embedding(),
        make(kind, UNITS),
        Dense(CLASSES),
        Activation("softmax"),
        Dropout(0.1),
    ],
    "probabilities": lambda kind: [
        embedding(),
        make(kind, UNITS, return_sequences=True),
        TimeDistributed(head()),
        GlobalAveragePooling1D(),
    ],
}
CASES = [(kind, name) for kind in KINDS for name in SHAPES]


def probabilities(model, ids):
    """By a plain forward pass of the whole model, softmax included."""
    out = model(np.array([ids]))
    if out.ndim == 3:
        real = np.flatnonzero(ids)
        out = out[:, real[-1] if len(real) else -1]
    p = out[0]
    return p if len(p) > 1 else np.array([1 - p[0], p[0]])


def log_p(model, ids, target):
    return float(np.log(probabilities(model, ids)[target]))


# --- the gradients --------------------------------------------------------------------------------


def shown_steps(layer, turned):
    """(T,) the packed step whose state each position shows; -1: the initial state."""
    real = np.flatnonzero(layer.mask)
    if layer.direction == "forward":
        steps = np.cumsum(layer.mask) - 1
    else:
        steps = np.array([np.sum(real < t) for t in range(len(layer.mask))])
        steps[steps == len(real)] = -1
    return np.where(steps < 0, -1, len(real) - 1 - steps if turned else steps)


@pytest.mark.parametrize("ids", [HOLES, PLAIN], ids=["holes", "plain"])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_at_states_are_those_of_nudges(kind, name, ids):
    model = finished(SHAPES[name](kind))
    seen = trace(model, ids, target=1)
    twin, cells = nudgeable(model)
    assert len(cells) == len(seen.layers) > 0
    for k, (cell, layer) in enumerate(zip(cells, seen.layers, strict=True)):
        shown = shown_steps(layer, turned=name == "stacked backwards" and k > 0)
        assert list(layer.gradients) == list(cell.state_names)
        for s, state in enumerate(cell.state_names):
            expected = {}
            for step in set(shown.tolist()):
                for unit in range(cell.units):
                    cell.place = (s, step, unit)
                    expected[step, unit] = slope(
                        lambda: log_p(twin, ids, 1), lambda d, cell=cell: setattr(cell, "amount", d)
                    )
            expected = [[expected[step, unit] for unit in range(cell.units)] for step in shown]
            near = {"rtol": 1e-6, "atol": 1e-9, "err_msg": f"{layer.name} {layer.direction}"}
            np.testing.assert_allclose(layer.gradients[state], expected, **near)
            norms = np.linalg.norm(expected, axis=1)
            np.testing.assert_allclose(layer.gradient_norm[state], norms, **near)


@pytest.mark.parametrize("ids", [HOLES, PLAIN], ids=["holes", "plain"])
@pytest.mark.parametrize("name", SHAPES)
def test_saliency_is_the_slope_at_the_vectors(name, ids):
    model = finished(SHAPES[name]("lstm"))
    seen = trace(model, ids, target=1)
    table = model.layers[0].params["embeddings"]
    np.testing.assert_array_equal(seen.embedding, table[ids])
    for i in set(ids):
        for j in range(FEATURES):
            start = table[i, j].copy()

            def move(d, i=i, j=j, start=start):
                table[i, j] = start + d

            found = seen.saliency[np.array(ids) == i, j].sum()  # positions share a vector
            expected = slope(lambda: log_p(model, ids, 1), move)
            assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)
            table[i, j] = start
    np.testing.assert_allclose(seen.saliency_norm, np.linalg.norm(seen.saliency, axis=1))
    products = [g @ v for g, v in zip(seen.saliency, seen.embedding, strict=True)]
    np.testing.assert_allclose(seen.gradient_times_input, products, atol=1e-15)


@pytest.mark.parametrize("name", ["one layer", "one sigmoid", "many sigmoids", "probabilities"])
def test_each_class_can_be_the_target(name):
    model = finished(SHAPES[name]("gru"))
    classes = trace(model, PLAIN).probabilities.shape[1]
    assert classes == (2 if name == "one sigmoid" else CLASSES)
    table = model.layers[0].params["embeddings"]
    start = table[3, 1].copy()

    def move(d):
        table[3, 1] = start + d

    for target in range(classes):
        found = trace(model, PLAIN, target).saliency[PLAIN.index(3), 1]
        assert found == pytest.approx(slope(lambda t=target: log_p(model, PLAIN, t), move))


# --- the states and the gates ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backwards", [False, True])
def test_states_and_gates_are_those_of_the_cell_walked_step_by_step(kind, backwards):
    model = finished(one_layer(kind, go_backwards=backwards))
    seen = trace(model, HOLES)
    [layer] = seen.layers
    cell = model.layers[1].cell
    assert layer.name == model.layers[1].name
    assert layer.direction == ("backward" if backwards else "forward")
    assert layer.mask.tolist() == [i != 0 for i in HOLES]
    state = cell.initial_state(1, "float64")
    for t in reversed(range(len(HOLES))) if backwards else range(len(HOLES)):
        gates = {name: gate[t] for name, gate in layer.gates.items()}
        if HOLES[t] == 0:
            assert not any(gate.any() for gate in gates.values())
            assert (
                not layer.wrote[t].any() and not layer.kept[t].any() and not layer.forgot[t].any()
            )
        else:
            before = state[-1]  # c of LSTM, h of the others: the memory
            state, cache = cell.forward(seen.embedding[t][None], state)
            saved = cache[3][0][0]
            if kind == "lstm":
                assert list(gates) == ["i", "f", "g", "o"]
            elif kind != "simple_rnn":
                assert list(gates) == ["z", "r", "hh"]
            else:
                assert gates == {}
                saved = []
                np.testing.assert_allclose(layer.wrote[t], state[0][0])
            np.testing.assert_allclose(np.concatenate([*gates.values(), []]), saved, rtol=1e-12)
            np.testing.assert_allclose(layer.wrote[t] + layer.kept[t], state[-1][0], rtol=1e-12)
            if kind != "simple_rnn":
                np.testing.assert_allclose(layer.kept[t] + layer.forgot[t], before[0], rtol=1e-12)
                carried = gates["f" if kind == "lstm" else "z"]
                np.testing.assert_allclose(layer.kept[t], carried * before[0], rtol=1e-12)
        for name, values in zip(cell.state_names, state, strict=True):
            np.testing.assert_allclose(layer.states[name][t], values[0], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_and_its_compiled_loops_show_the_same(kind):
    model = finished(SHAPES["bidirectional twice"](kind))
    one, two = trace(model, HOLES, 1), trace(model.astype("float32"), HOLES, 1)
    assert two.saliency.dtype == two.layers[0].wrote.dtype == "float32"
    for a, b in [(one, two), *zip(one.layers, two.layers, strict=True)]:
        for key, value in vars(a).items():
            other = vars(b)[key]
            parts = value if isinstance(value, dict) else {"": value}
            others = other if isinstance(other, dict) else {"": other}
            for name, part in parts.items():
                if isinstance(part, np.ndarray):
                    np.testing.assert_allclose(part, others[name], rtol=1e-4, atol=1e-5)


def test_a_layer_behind_one_that_turns_time_round_is_shown_in_the_texts_order():
    model = finished(SHAPES["stacked backwards"]("lstm"))
    seen = trace(model, HOLES)
    directions = [layer.direction for layer in seen.layers]
    assert directions == ["backward", "backward", "backward", "forward", "forward"]
    for layer in seen.layers:
        assert layer.mask.tolist() == [i != 0 for i in HOLES]
        moves = np.abs(np.diff(layer.states["h"], axis=0)).sum(axis=1) > 0
        mask = layer.mask[1:] if layer.direction == "forward" else layer.mask[:-1]
        np.testing.assert_array_equal(moves, mask)


def test_names_of_layers_in_inner_models():
    seen = trace(finished(SHAPES["inner model"]("gru")), PLAIN)
    assert [layer.name for layer in seen.layers] == ["inner_gru", "inner_gru_1"]
    assert [layer.cell for layer in seen.layers] == ["GRU", "GRU"]


def test_a_cell_of_ones_own_shows_its_states():
    class Own(LSTMCell):
        pass

    model = finished([embedding(), RNN(Own(UNITS)), head()])
    [layer] = trace(model, PLAIN).layers
    assert layer.cell == "Own" and list(layer.gates) == ["i", "f", "g", "o"]


# --- the probabilities ----------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [HOLES, PLAIN], ids=["holes", "plain"])
@pytest.mark.parametrize("name", SHAPES)
def test_probabilities_are_those_of_the_text_cut_after_each_token(name, ids):
    model = finished(SHAPES[name]("lstm"))
    seen = trace(model, ids)
    for t, p in enumerate(seen.probabilities):
        expected = probabilities(model, ids[: t + 1])
        if expected.any():  # an output of a masked step is no probability
            np.testing.assert_allclose(p, expected, rtol=1e-10)
    np.testing.assert_allclose(seen.prediction, seen.probabilities[-1], rtol=1e-10)
    assert seen.target == seen.prediction.argmax()


def test_where_texts_are_padded_to_one_length_so_are_the_cut_ones():
    words = TextVectorization(output_sequence_length=4, vocabulary=["oil", "prices", "rise"])
    model = Sequential([words, Embedding(5, 2), SimpleRNN(3), head()])
    randomize(model_built(model), np.random.default_rng(0))
    seen = trace(model, "Oil! prices, gold")
    assert seen.tokens == ["oil", "prices", "gold", ""]
    assert seen.known.tolist() == [True, True, False, True]
    assert seen.ids.tolist() == [2, 3, 1, 0]
    assert seen.mask.all()  # this model reads the padding
    expected = model.predict(["oil", "oil prices", "oil prices gold", "oil prices gold"])
    np.testing.assert_allclose(seen.probabilities, expected, rtol=1e-5)
    longer = trace(model, "rise rise rise rise rise")
    assert longer.tokens == ["rise"] * 4


def test_a_model_of_one_length_pads_the_cut_rows_with_zeros():
    model = Sequential([Input((4,)), Embedding(9, 2), LSTM(3, return_sequences=True), Flatten()])
    model.add(head())
    randomize(model_built(model), np.random.default_rng(0))
    seen = trace(model, [3, 4, 5, 6])
    expected = model.predict(np.array([[3, 0, 0, 0], [3, 4, 0, 0], [3, 4, 5, 0], [3, 4, 5, 6]]))
    np.testing.assert_allclose(seen.probabilities, expected, rtol=1e-5)


def model_built(model):
    model.build()
    return model


# --- what a model can read ------------------------------------------------------------------------


def text_model(**options):
    words = TextVectorization(vocabulary=["oil", "prices", "rise"], **options)
    model = Sequential([words, Embedding(5, 2, mask_zero=True), LSTM(3), head()])
    return randomize(model_built(model), np.random.default_rng(0))


def test_a_text_and_its_ids_are_the_same():
    model = text_model()
    text, row = trace(model, "Gold prices rise, again"), trace(model, np.array([1, 3, 4, 1]))
    assert text.tokens == ["gold", "prices", "rise", "again"]
    assert row.tokens == ["[UNK]", "prices", "rise", "[UNK]"]
    for seen in (text, row):
        assert seen.known.tolist() == [False, True, True, False]
        np.testing.assert_array_equal(seen.prediction, model.predict(["gold prices rise x"])[0])
    np.testing.assert_array_equal(text.saliency, row.saliency)
    assert text.saliency.dtype == text.layers[0].gradients["c"].dtype == "float32"


def test_groups_of_words_are_tokens():
    seen = trace(text_model(ngrams=2), "oil rise")
    assert seen.tokens == ["oil", "rise", "oil rise"] and seen.ids.tolist() == [2, 4, 1]


def test_ids_without_a_vocabulary_are_shown_as_numbers():
    seen = trace(finished(one_layer("gru")), HOLES)
    assert seen.tokens == [str(i) for i in HOLES] and seen.known.all()


def test_indicator_vectors():
    model = Sequential([OneHot(TOKENS, mask_zero=True), GRU(UNITS), head()])
    randomize(model_built(model), np.random.default_rng(0))
    seen = trace(model, HOLES)
    np.testing.assert_array_equal(seen.embedding, np.eye(TOKENS)[HOLES])
    assert seen.saliency.shape == (len(HOLES), TOKENS) and not seen.saliency[0].any()
    np.testing.assert_array_equal(seen.mask, np.array(HOLES) != 0)


def test_a_row_of_vectors():
    model = Sequential([Input((None, FEATURES)), Masking(), both_ways("gru"), head()])
    model.build()
    randomize(model, np.random.default_rng(0))
    x = np.random.default_rng(1).normal(size=(4, FEATURES)).astype("float32")
    x[2] = 0
    seen = trace(model, x)
    assert seen.tokens == ["0", "1", "2", "3"] and seen.ids.tolist() == [-1] * 4
    assert seen.mask.tolist() == [True, True, False, True]
    np.testing.assert_array_equal(seen.embedding, x)
    expected = [model.predict(x[None, : t + 1])[0] for t in range(4)]
    np.testing.assert_allclose(seen.probabilities, expected, rtol=1e-6)


def test_a_model_without_recurrent_layers():
    seen = trace(finished([embedding(), GlobalAveragePooling1D(), head()]), HOLES, target=2)
    assert seen.layers == [] and seen.probabilities.shape == (len(HOLES), CLASSES)
    np.testing.assert_array_equal(seen.mask, np.array(HOLES) != 0)
    assert seen.saliency[1].any() and not seen.saliency[0].any()


def test_a_row_that_is_all_padding():
    seen = trace(finished(one_layer("lstm")), [0, 0])
    assert not seen.saliency.any() and not seen.layers[0].states["h"].any()
    assert seen.layers[0].gradients["h"].any()  # that of the initial state


def test_logits_that_the_loss_takes():
    plain, logits = (finished([embedding(), LSTM(2), head(CLASSES, a)]) for a in ("softmax", None))
    logits.compile(loss=SparseCategoricalCrossentropy(from_logits=True))
    one, two = (trace(model, PLAIN) for model in (plain, logits))
    np.testing.assert_array_equal(one.probabilities, two.probabilities)
    np.testing.assert_array_equal(one.saliency, two.saliency)


def test_stateful_layers_start_from_zeros_and_keep_what_they_had():
    fresh = finished([embedding(), LSTM(UNITS), head()])
    model = finished([embedding(), LSTM(UNITS, stateful=True), head()])
    model.predict(np.array([PLAIN, PLAIN]))
    kept = model.layers[1].states
    seen = trace(model, PLAIN)
    assert model.layers[1].states is kept and kept[0].any()
    np.testing.assert_array_equal(seen.probabilities, trace(fresh, PLAIN).probabilities)


def test_it_changes_nothing_in_the_model(tmp_path):
    model = text_model()
    model.save(tmp_path / "model")
    before = [w.copy() for w in model.get_weights()]
    seen = trace(model, "oil prices")
    assert all(map(np.array_equal, before, model.get_weights()))
    again = trace(load(tmp_path / "model"), "oil prices")
    assert again.to_dict() == seen.to_dict()


# --- as JSON --------------------------------------------------------------------------------------


def test_to_dict_holds_everything_as_float32():
    seen = trace(finished(SHAPES["bidirectional"]("lstm")), HOLES)
    assert isinstance(seen, Trace)
    found = json.loads(json.dumps(seen.to_dict(), allow_nan=False))
    assert found["format"] == 1 and set(found) == {"format", *vars(seen)}
    for one, two in [(found, seen), *zip(found["layers"], seen.layers, strict=True)]:
        for key, value in vars(two).items():
            parts = value.items() if isinstance(value, dict) else [(None, value)]
            for name, part in parts:
                if not isinstance(part, np.ndarray):
                    continue
                shown = one[key] if name is None else one[key][name]
                assert np.shape(shown) == part.shape
                if part.dtype.kind == "f":
                    part, shown = part.astype("float32"), np.array(shown, "float32")
                np.testing.assert_array_equal(shown, part)
    assert found["tokens"] == seen.tokens and found["target"] == seen.target
    assert [layer["direction"] for layer in found["layers"]] == ["forward", "backward"]


def test_to_dict_with_few_digits_without_wide_vectors_and_without_nan():
    model = Sequential([OneHot(600), SimpleRNN(2), head()])
    randomize(model_built(model), np.random.default_rng(0))
    seen = trace(model, [3, 555])
    short = seen.to_dict(digits=3)
    assert short["embedding"] is None and short["saliency"] is None
    assert short["prediction"] == [float(f"{p:.3g}") for p in seen.prediction]
    assert len(json.dumps(short)) < len(json.dumps(seen.to_dict()))
    model.layers[1].params["kernel"][3] = np.nan
    broken = trace(model, [3, 555]).to_dict()
    assert broken["layers"][0]["states"]["h"] == [[None, None], [None, None]]
    json.dumps(broken, allow_nan=False)
    with pytest.raises(ValueError, match="digits: expected a whole number from 1"):
        seen.to_dict(digits=0)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [-1, CLASSES, 1.0, True, "a"])
def test_a_target_that_is_no_class(target):
    with pytest.raises(ValueError, match="target: expected a class from 0 to 4"):
        trace(finished(one_layer("gru")), PLAIN, target)


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("oil", TypeError, "text: this model takes token ids, not text"),
        ([], ValueError, "text: expected at least one token"),
        ([PLAIN], ValueError, "takes a row of token ids"),
        ([[[1]]], ValueError, "text: expected one row of token ids"),
        (3, ValueError, "text: expected one row of token ids"),
        ([1.5], ValueError, "text: expected whole numbers"),
        ([[1], [1, 2]], TypeError, "text: expected one array"),
        (["oil"], TypeError, "text: expected a string or one row"),
        (None, TypeError, "text: expected a string or one row"),
        ([TOKENS], ValueError, "outside 0..12"),
    ],
)
def test_texts_that_cannot_be_read(text, error, said):
    with pytest.raises(error, match=said):
        trace(finished(one_layer("gru")), text)


@pytest.mark.parametrize("text", ["", " ", "?!"])
def test_a_text_without_tokens(text):
    with pytest.raises(ValueError, match="text: expected at least one token, received"):
        trace(text_model(), text)


def test_ids_for_a_model_of_vectors():
    model = Sequential([Input((None, FEATURES)), GRU(2), head()])
    with pytest.raises(ValueError, match="takes a row of vectors"):
        trace(model, PLAIN)


@pytest.mark.parametrize(
    "layers",
    [
        [embedding(), GRU(2), head(1, None)],
        [embedding(), GRU(2), head(3, None)],
        [embedding(), GRU(2), head(1, "softmax")],
        [embedding(), GRU(4)],
    ],
)
def test_a_model_without_classes(layers):
    with pytest.raises(ValueError, match="model: .* has no classes"):
        trace(finished(layers), PLAIN)


def test_models_that_are_none():
    with pytest.raises(TypeError, match="model: expected a Sequential"):
        trace(LSTM(3), PLAIN)
    with pytest.raises(ValueError, match="no layers"):
        trace(Sequential(), PLAIN)
    with pytest.raises(ValueError, match="no layers that compute"):
        trace(Sequential([Dropout(0.5)]), PLAIN)
    bag = TextVectorization(vocabulary=["oil"], output_mode="count")
    with pytest.raises(ValueError, match="bag of words"):
        trace(Sequential([bag, head()]), "oil")


@pytest.mark.parametrize("name", sorted(set(model_cases.STACKS) - {"bag_of_words"}))
def test_models_of_every_kind_can_be_traced(name):
    model, x, _ = model_cases.make(name)
    model_cases.randomize(model)
    for row in x[:4]:
        seen = trace(model, row)
        T, C = seen.probabilities.shape
        assert C == model_cases.CLASSES and len(seen.tokens) == T == len(seen.saliency)
        expected = model.predict([row] if isinstance(row, str) else np.array([row]))[0]
        for p in (seen.prediction, seen.probabilities[-1]):
            np.testing.assert_allclose(p, expected, rtol=1e-5)
        assert all(layer.states["h"].shape[0] == T for layer in seen.layers)
        json.dumps(seen.to_dict(), allow_nan=False)
