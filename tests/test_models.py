"""Sequential: putting layers together, walking through them, masks, describing them again."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from model_cases import (
    CLASSES,
    FEATURES,
    STACKS,
    TIME,
    TOKENS,
    WORDS,
    ids,
    labels,
    make,
    randomize,
    same_weights,
    texts,
    vectorizer,
    vectors,
)

from minirnn import Input, Sequential, initializers, layers, losses, set_random_seed
from minirnn.base import RowGradient
from minirnn.data import Dataset
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
    GRUCell,
    GRUCellResetBefore,
    Layer,
    LSTMCell,
    Masking,
    OneHot,
    SimpleRNN,
    SimpleRNNCell,
    TextVectorization,
    TimeDistributed,
)
from minirnn.packing import Mask
from minirnn.steps import loss_and_gradients

every_stack = pytest.mark.parametrize("name", STACKS)


class Spy(Layer):
    """Notes each x and mask that comes by."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seen, self.masks = [], []

    def forward(self, x, mask=None, training=False):
        self.seen.append(np.array(x))
        self.masks.append(mask)
        return x, None

    def backward(self, dy, cache):
        return dy, {}


def dense(gradient, like):
    return gradient.dense(like.shape) if isinstance(gradient, RowGradient) else gradient


def numeric(f, array, step=1e-6):
    """The gradient of the number f() at `array`, by central differences."""
    result = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + step
        above = f()
        array[index] = kept - step
        below = f()
        array[index] = kept
        result[index] = (above - below) / (2 * step)
    return result


# --- putting it together --------------------------------------------------------------------------


def test_the_stacks_hold_every_layer():
    used = {type(layer).__name__ for _, stack in STACKS.values() for layer in stack()}
    used |= {
        type(layer.cell).__name__ for _, s in STACKS.values() for layer in s() if type(layer) is RNN
    }
    assert set(layers.__all__) - used == {"Layer"}


def test_names_are_made_unique():
    model = Sequential([LSTM(2, return_sequences=True), LSTM(2, return_sequences=True), LSTM(2)])
    assert [layer.name for layer in model.layers] == ["lstm", "lstm_1", "lstm_2"]
    model.build((None, None, 3))
    assert [key for key in model.params if key.endswith("bias")] == [
        "lstm_bias",
        "lstm_1_bias",
        "lstm_2_bias",
    ]


def test_names_given_twice_are_refused():
    with pytest.raises(ValueError, match="head: another layer has this name already"):
        Sequential([Dense(2, name="head"), Dense(3, name="head")])


def test_one_layer_cannot_stand_in_a_model_twice():
    layer = Dense(2)
    with pytest.raises(ValueError, match="this very layer is in the model already"):
        Sequential([layer, layer])


@pytest.mark.parametrize(
    ("stack", "error", "message"),
    [
        ([Dense], TypeError, "layer: expected a layer, received <class"),
        (["dense"], TypeError, "layer: expected a layer, received 'dense'"),
        ([Dense(2), Input((3,))], ValueError, "only the beginning of a model can be an Input"),
        ([Dense(2), TextVectorization()], ValueError, "only the first layer .* can take texts"),
        ([LSTM(2, return_state=True)], ValueError, "lstm: it has several outputs"),
        ([Bidirectional(LSTM(2), merge_mode=None)], ValueError, "several outputs"),
        ([Bidirectional(GRU(2, return_state=True))], ValueError, "several outputs"),
    ],
)
def test_what_cannot_stand_in_a_model(stack, error, message):
    with pytest.raises(error, match=message):
        Sequential(stack)


def test_pop_and_add():
    model, x, _ = make("lstm")
    before = model.layers[1].get_weights()
    head = model.pop()
    assert isinstance(head, Dense)
    assert model.predict(x).shape == (len(x), 3)
    model.add(Dense(5, name="new_head"))
    assert model.predict(x).shape == (len(x), 5)
    for kept, now in zip(before, model.layers[1].get_weights(), strict=True):
        np.testing.assert_array_equal(kept, now)
    with pytest.raises(ValueError, match="pop: the model has no layers"):
        Sequential().pop()


def test_training_goes_on_with_a_new_head():
    model, x, y = make("lstm")
    model.fit(x, y, verbose=0)
    model.pop()
    model.add(Dense(5, activation="softmax", name="new_head"))
    model.build()
    history = model.fit(x, y + 2, verbose=0)
    assert np.isfinite(history.history["loss"][0])


def test_get_layer_names_the_nearest():
    model, _, _ = make("lstm")
    assert model.get_layer("lstm") is model.layers[1]
    with pytest.raises(ValueError, match="layer: there is none called 'lstn'. Did you mean 'lstm'"):
        model.get_layer("lstn")


def test_build_needs_a_shape():
    model = Sequential([LSTM(2), Dense(3)])
    with pytest.raises(
        ValueError, match=r"the shape of the input is not known yet. Begin .* Input"
    ):
        model.build()
    with pytest.raises(ValueError, match="no weights yet"):
        model.params_count = model.count_params()
    model.build((None, None, 5))
    assert model.count_params() == 4 * 2 * (5 + 2 + 1) + 3 * 3


def test_input_tells_the_shape():
    model = Sequential([Input((None, 5)), GRU(2)])
    model.build()
    assert model.layers[0].params["kernel"].shape == (5, 6)
    assert model.input_shape == (None, None, 5)
    assert model.compute_output_shape((7, 3, 5)) == (7, 2)


def test_the_call_builds():
    model = Sequential([LSTM(2), Dense(3)])
    assert model(vectors()).shape == (len(vectors()), 3)
    assert model.built
    assert model.input_shape[-1] == FEATURES


def test_two_builds_keep_the_weights():
    model, x, _ = make("bidirectional")
    before = model.predict(x)
    model.build()
    np.testing.assert_array_equal(model.predict(x), before)


@pytest.mark.parametrize("use", ["predict", "evaluate", "fit"])
def test_a_model_that_fit_built_stays_as_it_was_trained(use):
    model = Sequential([Embedding(TOKENS, 3), SimpleRNN(2), Dense(CLASSES, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = ids(), labels()
    model.fit(x, y, verbose=0)
    trained = {key: value.copy() for key, value in model.params.items()}
    if use == "predict":
        model.predict(x)
    elif use == "evaluate":
        model.evaluate(x, y, verbose=0)
    else:
        model.optimizer.learning_rate = 1e-30
        model.fit(x, y, verbose=0)
    for key, value in trained.items():
        np.testing.assert_array_equal(model.params[key], value, err_msg=key)


def test_a_model_that_fit_built_counts_its_weights_and_knows_its_input():
    model = Sequential([LSTM(2), Dense(CLASSES, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(vectors(), labels(), verbose=0)
    assert model.count_params() == 4 * 2 * (FEATURES + 2 + 1) + 3 * CLASSES
    assert model.input_shape is not None
    assert model.input_shape[-1] == FEATURES


# --- summary --------------------------------------------------------------------------------------


def summary_of(model):
    lines = []
    model.summary(print_fn=lines.append)
    return "\n".join(lines)


def test_summary_of_the_plain_model_of_the_lesson():
    model = Sequential(
        [Embedding(20000, 64, mask_zero=True), SimpleRNN(16), Dense(4, activation="softmax")]
    )
    text = summary_of(model)
    rows = {line.split()[0]: line for line in text.splitlines() if "(" in line}
    assert rows["embedding"].split()[-1] == "1,280,000"
    assert rows["simple_rnn"].split()[-1] == "1,296"
    assert rows["dense"].split()[-1] == "68"
    assert "Total weights: 1,281,364 (5.13 MB)" in text
    assert "made" in rows["embedding"]
    assert "used" in rows["simple_rnn"]
    assert "frozen" not in text


def test_summary_of_the_bidirectional_model_of_the_lesson():
    model = Sequential(
        [
            Embedding(20000, 128),
            Bidirectional(LSTM(64, return_sequences=True)),
            Bidirectional(LSTM(64)),
            Dense(4, activation="softmax"),
        ]
    )
    text = summary_of(model)
    assert "Total weights: 2,758,148" in text
    assert "(–, –, 128)" in text
    assert "(–, 4)" in text
    assert text.count("98,816") == 2


def test_summary_prints_by_default(capsys):
    make("lstm")[0].summary()
    assert "Total weights" in capsys.readouterr().out


def test_summary_before_the_shape_is_known():
    text = summary_of(Sequential([LSTM(2), Dense(3)], name="later"))
    assert 'Model "later"' in text
    assert text.count("not built") == 2
    assert "Total" not in text


def test_summary_tells_of_frozen_weights_and_masks():
    model = Sequential(
        [
            Embedding(TOKENS, 2, mask_zero=True, trainable=False),
            LSTM(3, return_sequences=True),
            DropMask(),
            Dense(2),
        ]
    )
    text = summary_of(model)
    assert f"frozen: {TOKENS * 2}" in text
    words = [
        re.search(r"made|used, kept|dropped|used|kept|$", line)[0] for line in text.splitlines()
    ]
    assert [word for word in words if word] == ["made", "used, kept", "dropped"]


# --- forward and backward -------------------------------------------------------------------------


@every_stack
def test_forward_is_the_layers_one_after_another(name):
    model, x, _ = make(name)
    randomize(model)
    y, mask = x, None
    for layer in model.layers:
        z, _ = layer.forward(y, mask=mask)
        mask, y = layer.compute_mask(y, mask), z
    np.testing.assert_array_equal(model.forward(x)[0], y)
    np.testing.assert_array_equal(model(x), y)
    np.testing.assert_array_equal(model.predict(x, batch_size=len(x)), y)


def stacked(per_step):
    """A model of many layers whose weights are all random, in float64; ids with every mask."""
    model = Sequential(
        [
            Embedding(5, 2, mask_zero=True),
            Bidirectional(LSTM(2, return_sequences=True)),
            GRU(3, return_sequences=per_step, go_backwards=not per_step),
            Dense(CLASSES, activation="softmax"),
        ]
    )
    model.build()
    randomize(model)
    return model.astype("float64")


MASKED_IDS = np.array([[1, 2, 3, 4, 2], [0, 3, 0, 1, 0], [4, 1, 0, 0, 0], [0, 0, 0, 0, 0]])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("per_step", [False, True])
def test_gradients_through_a_whole_model(per_step, weighted):
    """Central differences at every weight, through loss, masks and sample weights."""
    model = stacked(per_step)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.require_compiled()
    rng = np.random.default_rng(1)
    shape = MASKED_IDS.shape if per_step else MASKED_IDS.shape[:1]
    y = rng.integers(0, CLASSES, shape)
    weight = rng.uniform(0.5, 2, shape) if weighted else None

    def value():
        return float(loss_and_gradients(model, MASKED_IDS, y, weight)[0])

    _, grads, _, _ = loss_and_gradients(model, MASKED_IDS, y, weight)
    assert list(grads.keys() - model.params.keys()) == []
    assert grads.keys() == model.params.keys()
    for key, array in model.params.items():
        np.testing.assert_allclose(
            dense(grads[key], array), numeric(value, array), rtol=1e-6, atol=1e-8, err_msg=key
        )


def nested_and_flat():
    inner = Sequential([LSTM(2, return_sequences=True), Dense(5, activation="tanh")], name="inner")
    nested = Sequential([Dense(3), inner, GRU(2)])
    nested.build((None, None, FEATURES))
    flat = Sequential([Dense(3), LSTM(2, return_sequences=True), Dense(5, "tanh"), GRU(2)])
    flat.build((None, None, FEATURES))
    randomize(nested)
    flat.set_weights(nested.get_weights())
    return nested.astype("float64"), flat.astype("float64")


def test_a_model_in_a_model_is_its_layers():
    nested, flat = nested_and_flat()
    assert list(nested.params)[2:5] == [
        "inner_lstm_kernel",
        "inner_lstm_recurrent_kernel",
        "inner_lstm_bias",
    ]
    x = np.random.default_rng(0).normal(size=(5, 7, FEATURES))
    mask = np.random.default_rng(1).random((5, 7)) < 0.6
    y, cache = nested.forward(x, mask=mask)
    expected, flat_cache = flat.forward(x, mask=mask)
    np.testing.assert_array_equal(y, expected)
    dy = np.random.default_rng(2).normal(size=y.shape)
    dx, grads = nested.backward(dy, cache)
    flat_dx, flat_grads = flat.backward(dy, flat_cache)
    np.testing.assert_array_equal(dx, flat_dx)
    assert grads.keys() == nested.params.keys()
    in_order = zip(nested.params, flat.params, strict=True)
    for key, flat_key in in_order:
        np.testing.assert_array_equal(grads[key], flat_grads[flat_key])


def test_the_input_gradient_of_a_model_in_a_model():
    nested, _ = nested_and_flat()
    rng = np.random.default_rng(3)
    x, mask = rng.normal(size=(3, 5, FEATURES)), rng.random((3, 5)) < 0.7
    y, cache = nested.forward(x, mask=mask)
    upstream = rng.normal(size=y.shape)
    dx, _ = nested.backward(upstream, cache)
    expected = numeric(lambda: float((nested.forward(x, mask=mask)[0] * upstream).sum()), x)
    np.testing.assert_allclose(dx, expected, rtol=1e-6, atol=1e-8)


def test_a_model_in_a_model_is_trained():
    inner = Sequential([LSTM(2), Dense(4, activation="tanh")])
    model = Sequential([Embedding(TOKENS, 3, mask_zero=True), inner, Dense(CLASSES, "softmax")])
    model.build()
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = {key: value.copy() for key, value in model.params.items()}
    model.fit(ids(), labels(), verbose=0)
    assert all((model.params[key] != value).any() for key, value in before.items())


def test_a_state_in_a_model_in_a_model_moves_once_a_batch():
    def make(nest):
        set_random_seed(1)
        recurrent = LSTM(2, stateful=True)
        model = Sequential([Embedding(TOKENS, 3), Sequential([recurrent]) if nest else recurrent])
        model.build()
        return model, recurrent

    (nested, inside), (flat, plain) = make(True), make(False)
    for part in (ids(seed=1), ids(seed=2)):
        np.testing.assert_array_equal(nested.predict(part), flat.predict(part))
    np.testing.assert_array_equal(inside.states[0], plain.states[0])


def test_reset_states_reaches_into_a_model_in_a_model():
    recurrent = LSTM(2, stateful=True)
    model = Sequential([Embedding(TOKENS, 3), Sequential([recurrent])])
    model.build()
    model.predict(ids())
    assert recurrent.states is not None
    model.reset_states()
    assert recurrent.states is None


def test_one_cache_does_not_disturb_another():
    """A model may serve twice before it is differentiated."""
    model = stacked(per_step=False)
    rng = np.random.default_rng(0)
    first, cache = model.forward(MASKED_IDS)
    upstream = rng.normal(size=first.shape)
    expected = {k: dense(g, model.params[k]) for k, g in model.backward(upstream, cache)[1].items()}
    _, cache = model.forward(MASKED_IDS)
    model.forward(MASKED_IDS[::-1] % 3)
    for key, gradient in model.backward(upstream, cache)[1].items():
        np.testing.assert_array_equal(dense(gradient, model.params[key]), expected[key])


# --- masks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (Dropout(0.1), "same"),
        (Activation("tanh"), "same"),
        (Dense(3), "same"),
        (TimeDistributed(Dense(3)), "same"),
        (LSTM(3, return_sequences=True), "same"),
        (LSTM(3, return_sequences=True, go_backwards=True), "reversed"),
        (Bidirectional(GRU(3, return_sequences=True)), "same"),
        (Sequential([Dense(2), SimpleRNN(3, return_sequences=True)]), "same"),
        (LSTM(3), None),
        (Bidirectional(GRU(3)), None),
        (GlobalAveragePooling1D(), None),
        (GlobalMaxPooling1D(), None),
        (DropMask(), None),
        (Sequential([SimpleRNN(3)]), None),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_becomes_of_a_mask(layer, expected):
    spy = Spy()
    model = Sequential([Embedding(TOKENS, 2, mask_zero=True), layer, spy])
    x = ids()
    model.predict(x, batch_size=len(x))
    (mask,) = spy.masks
    if expected is None:
        assert mask is None
    else:
        wanted = (x != 0)[:, ::-1] if expected == "reversed" else x != 0
        np.testing.assert_array_equal(mask.array, wanted)


def test_one_mask_object_travels_through_all_layers():
    spies = [Spy(), Spy(), Spy()]
    model = Sequential(
        [
            Embedding(TOKENS, 2, mask_zero=True),
            spies[0],
            LSTM(2, return_sequences=True),
            spies[1],
            Bidirectional(GRU(2, return_sequences=True)),
            spies[2],
        ]
    )
    model.predict(ids())
    assert spies[0].masks[0] is spies[1].masks[0] is spies[2].masks[0]


def test_a_layer_that_cannot_use_a_mask_refuses_it():
    stack = [Input((TIME,)), Embedding(TOKENS, 2, mask_zero=True), Flatten(), Dense(2)]
    model = Sequential(stack)
    with pytest.raises(ValueError, match=r"flatten: this layer cannot use a mask.*DropMask\(\)"):
        model.predict(ids())
    model = Sequential([*stack[:2], DropMask(), Flatten(), Dense(2)])
    assert model.predict(ids()).shape == (len(ids()), 2)


def test_a_mask_from_outside():
    model = Sequential([Dense(3), LSTM(2)])
    x = vectors()
    mask = np.random.default_rng(0).random(x.shape[:2]) < 0.5
    y = model(x, mask=mask)
    x[~mask] = np.nan
    np.testing.assert_array_equal(model(x, mask=Mask(mask)), y)


def test_padding_changes_no_prediction():
    model = randomize(make("bidirectional")[0])
    x = ids()
    longer = np.pad(x, [(0, 0), (0, 4)])
    np.testing.assert_allclose(model.predict(longer), model.predict(x), rtol=1e-5, atol=1e-6)


HIDDEN = 31, 37, 29  # large enough for BLAS to choose its way by the number of rows


def last_layers(per_step):
    if per_step:
        return [
            GRU(HIDDEN[2], return_sequences=True),
            TimeDistributed(Dense(CLASSES, activation="softmax")),
        ]
    return [
        Dense(HIDDEN[1], activation="tanh"),
        LSTM(HIDDEN[2]),
        Dense(CLASSES, activation="softmax"),
    ]


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "shortest",
    [
        0,
        1,
        23,
    ],
    ids=["empty row", "short", "full"],
)
def test_padding_added_behind_changes_no_bit(per_step, dtype, shortest):
    rng, rows, time, added = np.random.default_rng(3), 13, 23, 5
    set_random_seed(7)
    model = Sequential([Embedding(TOKENS, HIDDEN[0], mask_zero=True), *last_layers(per_step)])
    model.build()
    model.compile("sgd", "sparse_categorical_crossentropy")
    randomize(model, scale=0.4)
    model.cast(dtype)
    lengths = rng.integers(shortest, time + 1, rows)
    lengths[[4, 8]] = shortest, time
    x = np.where(np.arange(time) < lengths[:, None], rng.integers(1, TOKENS, (rows, time)), 0)
    y = rng.integers(0, CLASSES, (rows, time) if per_step else rows)
    behind = [(0, 0), (0, added)]
    longer = np.pad(x, behind), np.pad(y, behind) if per_step else y

    expected, p = model.predict(x), model.predict(longer[0])
    if per_step:
        assert not p[:, time:].any()
        p = p[:, :time]
    np.testing.assert_array_equal(p, expected)
    value, grads, _, _ = loss_and_gradients(model, x, y)
    value_longer, grads_longer, _, _ = loss_and_gradients(model, *longer)
    assert float(value) == float(value_longer)
    assert list(grads) == list(grads_longer)
    for key, weight in model.params.items():
        one, other = (dense(g[key], weight) for g in (grads, grads_longer))
        assert one.any(), key
        np.testing.assert_array_equal(one, other, err_msg=key)


@pytest.mark.parametrize("weighted", [False, True])
def test_masked_loss_and_accuracy_per_step(weighted):
    """One output a step: loss and accuracy are means over the real steps of all batches."""
    model = Sequential(
        [
            Embedding(TOKENS, 4, mask_zero=True),
            Bidirectional(GRU(3, return_sequences=True)),
            TimeDistributed(Dense(CLASSES, activation="softmax")),
        ]
    )
    model.build()
    randomize(model)
    model.compile("sgd", "sparse_categorical_crossentropy", ["acc"])
    x, rng = ids(), np.random.default_rng(5)
    y = rng.integers(0, CLASSES, x.shape)
    weight = rng.uniform(0.2, 3, x.shape) if weighted else np.ones(x.shape)
    given = weight if weighted else None
    loss, accuracy = model.evaluate(x, y, batch_size=4, sample_weight=given, verbose=0)
    p, real = model.predict(x).astype("float64"), x != 0
    assert (p[~real] == 0).all()  # nothing is said of padding
    p[~real] = 1
    each = -np.log(np.take_along_axis(p, y[..., None], axis=2)[..., 0])
    hits = p.argmax(axis=2) == y
    assert loss == pytest.approx((each * weight)[real].sum() / real.sum(), rel=1e-5)
    assert accuracy == pytest.approx((hits * weight)[real].sum() / weight[real].sum(), rel=1e-6)


def test_masked_steps_do_not_train():
    """Labels at masked steps are never looked at, wherever they are."""
    results = []
    for wrong in (0, 99):
        set_random_seed(3)
        model = Sequential(
            [
                Embedding(TOKENS, 4, mask_zero=True),
                LSTM(3, return_sequences=True),
                Dense(CLASSES, activation="softmax"),
            ]
        )
        model.build()
        model.compile("adam", "sparse_categorical_crossentropy", ["acc"])
        x = ids()
        y = np.where(x == 0, wrong, x % CLASSES)
        history = model.fit(x, y, epochs=2, batch_size=4, verbose=0)
        results.append((model, history.history))
    assert results[0][1] == results[1][1]
    assert same_weights(results[0][0], results[1][0])


# --- texts ----------------------------------------------------------------------------------------


def test_predict_takes_texts():
    model, x, _ = make("texts")
    randomize(model)
    expected = model.without_vectorizer().predict(model.vectorizer(x))
    for given in (x, np.array(x), np.array(x, dtype=object)[:, None], [t.encode() for t in x]):
        np.testing.assert_array_equal(model.predict(given), expected)
    stream = Dataset.from_tensor_slices(x).batch(5)
    np.testing.assert_allclose(model.predict(stream), expected, rtol=1e-5)
    np.testing.assert_array_equal(model(x), expected)


def test_predict_takes_empty_texts_and_unknown_words():
    model = randomize(make("texts")[0])
    y = model.predict(["", "oil", "?!", "zebra zebra"])
    np.testing.assert_array_equal(y[0], y[2])
    assert (y[0] != y[1]).any()
    assert model.predict([""]).shape == (1, CLASSES)
    assert np.isfinite(y).all()


@pytest.mark.parametrize("length", [None, 4])
@pytest.mark.parametrize("text", ["oil prices rise", "oil", "x" * 100, ""])
def test_one_text_is_one_row(text, length):
    first = vectorizer(output_sequence_length=length)
    model = Sequential([first, Embedding(12, 3, mask_zero=True), LSTM(2), Dense(CLASSES)])
    expected = model.predict([text])
    assert expected.shape == (1, CLASSES)
    for given in (text, np.array(text), np.array([text]), text.encode()):
        np.testing.assert_array_equal(model.predict(given), expected)


def test_predict_on_batch():
    model, x, _ = make("texts")
    np.testing.assert_array_equal(model.predict_on_batch(x), model.predict(x, batch_size=len(x)))
    model, x, _ = make("lstm")
    np.testing.assert_array_equal(model.predict_on_batch(x), model.predict(x, batch_size=len(x)))
    assert isinstance(model.predict_on_batch(x), np.ndarray)


@pytest.mark.parametrize("pooling", [GlobalAveragePooling1D, GlobalMaxPooling1D])
def test_a_batch_of_empty_texts_is_pooled_to_zeros(pooling):
    model = Sequential([vectorizer(), Embedding(12, 3, mask_zero=True), pooling()])
    np.testing.assert_array_equal(model.predict(["", ""]), np.zeros((2, 3)))


def test_the_output_length_of_a_vectorizer_reaches_the_layers():
    spy = Spy()
    model = Sequential([vectorizer(output_sequence_length=4), spy, Embedding(12, 3), LSTM(2)])
    model.predict(["oil", "oil prices rise again as markets"])
    assert spy.seen[0].shape == (2, 4)


def test_texts_need_a_vocabulary():
    model = Sequential([TextVectorization(), Embedding(12, 3), LSTM(2)])
    with pytest.raises(ValueError, match=r"text_vectorization: .* no vocabulary yet. Call adapt"):
        model.predict(["oil"])


# --- predict --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4, 32])
@every_stack
def test_batches_change_no_prediction(name, batch_size):
    model, x, _ = make(name)
    randomize(model)
    whole = model.predict(x, batch_size=len(x))
    assert whole.dtype == np.float32
    assert whole.shape == (len(x), CLASSES)
    np.testing.assert_allclose(whole.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(model.predict(x, batch_size=batch_size), whole, rtol=1e-4, atol=1e-6)


def test_predict_per_step_pads_to_the_longest():
    model = Sequential([Embedding(TOKENS, 3, mask_zero=True), GRU(2, return_sequences=True)])
    rows = [[1, 2], [3], [4, 5, 6, 7, 8], [9]]
    y = model.predict(rows, batch_size=2)
    assert y.shape == (4, 5, 2)
    np.testing.assert_array_equal(y[0, 2:], np.zeros((3, 2)))
    np.testing.assert_allclose(y[1, :1], model.predict([[3]])[0], rtol=1e-5)


def test_predict_does_not_train_and_does_not_drop():
    model, x, _ = make("flatten")
    before = model.get_weights()
    np.testing.assert_array_equal(model.predict(x), model.predict(x))
    for kept, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, now)


# --- configurations -------------------------------------------------------------------------------

CONFIGURED = {
    "embedding": lambda: Embedding(
        TOKENS,
        3,
        embeddings_initializer=initializers.RandomNormal(0.5, 0.1, seed=3),
        mask_zero=True,
    ),
    "one_hot": lambda: OneHot(TOKENS, mask_zero=True),
    "masking": lambda: Masking(mask_value=-1.5),
    "drop_mask": lambda: DropMask(),
    "dense": lambda: Dense(
        5,
        activation="softplus",
        use_bias=False,
        kernel_initializer=initializers.Orthogonal(gain=0.5, seed=9),
        bias_initializer="ones",
    ),
    "dense_bias": lambda: Dense(
        5, kernel_initializer="he_uniform", bias_initializer=initializers.Constant(0.25)
    ),
    "activation": lambda: Activation("hard_sigmoid"),
    "dropout": lambda: Dropout(0.25, seed=12),
    "time_distributed": lambda: TimeDistributed(Dense(3, activation="elu")),
    "flatten": lambda: Flatten(),
    "average": lambda: GlobalAveragePooling1D(),
    "maximum": lambda: GlobalMaxPooling1D(),
    "simple_rnn": lambda: SimpleRNN(
        3,
        activation="relu",
        use_bias=False,
        kernel_initializer=initializers.RandomUniform(-0.3, 0.4, seed=2),
        recurrent_initializer="glorot_uniform",
        return_sequences=True,
        go_backwards=True,
        zero_output_for_mask=True,
    ),
    "lstm": lambda: LSTM(
        3,
        activation="softplus",
        recurrent_activation="hard_sigmoid",
        bias_initializer="random_normal",
        unit_forget_bias=False,
        dropout=0.1,
        recurrent_dropout=0.2,
        stateful=True,
    ),
    "gru": lambda: GRU(3, activation="elu", recurrent_activation="hard_sigmoid", dropout=0.5),
    "gru_reset_before": lambda: GRU(3, reset_after=False, use_bias=False),
    "bidirectional": lambda: Bidirectional(
        LSTM(3, return_sequences=True, kernel_initializer=initializers.GlorotUniform(seed=4)),
        merge_mode="ave",
    ),
    "rnn_simple": lambda: RNN(SimpleRNNCell(2, "elu"), zero_output_for_mask=True),
    "rnn_lstm": lambda: RNN(LSTMCell(2, unit_forget_bias=False), return_sequences=True),
    "rnn_gru": lambda: RNN(GRUCell(2, recurrent_activation="hard_sigmoid")),
    "rnn_gru_before": lambda: RNN(GRUCellResetBefore(2, use_bias=False), go_backwards=True),
    "text_vectorization": lambda: TextVectorization(
        max_tokens=50,
        standardize="unicode",
        split="character",
        ngrams=(1, 3),
        output_sequence_length=4,
        vocabulary=["a", '"', "é", "a b c"],
    ),
    "text_bag": lambda: TextVectorization(output_mode="count", ngrams=2, vocabulary=WORDS),
}

TAKES = {"embedding": ids, "one_hot": ids, "text_vectorization": texts, "text_bag": texts}


def test_every_layer_has_a_configuration_test():
    made = {type(make_layer()).__name__ for make_layer in CONFIGURED.values()}
    made |= {type(m().cell).__name__ for m in CONFIGURED.values() if isinstance(m(), RNN)}
    assert set(layers.__all__) - made == {"Layer", "Input"}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", CONFIGURED)
def test_configurations_round_trip(name, frozen):
    """All options survive JSON, and the model made anew with the old weights is the same."""
    layer = CONFIGURED[name]()
    layer.trainable = not frozen
    x = TAKES.get(name, vectors)()
    model = Sequential([layer], name="around")
    model.build(np.shape(x))
    config = json.loads(json.dumps(model.get_config()))
    twin = Sequential.from_config(config)
    assert json.loads(json.dumps(twin.get_config())) == config
    assert twin.name == "around"
    (copied,) = twin.layers
    assert type(copied) is type(layer)
    assert copied.name == layer.name
    if not isinstance(layer, TextVectorization):
        assert copied.trainable is not frozen
    twin.build()
    assert list(twin.params) == list(model.params)
    randomize(model)
    twin.set_weights(model.get_weights())
    np.testing.assert_array_equal(twin.predict(x), model.predict(x))


def test_seeded_weights_come_out_of_a_configuration_alike():
    model = Sequential([CONFIGURED["embedding"](), CONFIGURED["bidirectional"]()])
    model.build()
    twin = Sequential.from_config(model.get_config())
    twin.build()
    for key in ("embedding_embeddings", "bidirectional_backward_kernel"):
        np.testing.assert_array_equal(twin.params[key], model.params[key])


def test_the_input_shape_is_kept():
    model = Sequential([Input((None, 5), batch_size=3), LSTM(2)])
    twin = Sequential.from_config(json.loads(json.dumps(model.get_config())))
    assert twin.input_shape == (3, None, 5)


def test_a_model_in_a_model_has_a_configuration():
    nested, _ = nested_and_flat()
    twin = Sequential.from_config(json.loads(json.dumps(nested.get_config())))
    twin.build()
    assert list(twin.params) == list(nested.params)


def test_a_frozen_model_stays_frozen_in_its_configuration():
    model, _, _ = make("lstm")
    model.trainable = False
    assert Sequential.from_config(model.get_config()).trainable is False


def test_an_array_as_initializer_can_be_described():
    bias = np.array([0.5, -1, 2], dtype="float32")
    model = Sequential([Input((2,)), Dense(3, bias_initializer=initializers.Constant(bias))])
    twin = Sequential.from_config(json.loads(json.dumps(model.get_config())))
    twin.build()
    assert twin.params["dense_bias"].shape == (3,)


# --- weights --------------------------------------------------------------------------------------


def test_set_weights_checks_before_it_writes():
    model, _, _ = make("lstm")
    weights = model.get_weights()
    before = {key: value.copy() for key, value in model.params.items()}
    with pytest.raises(ValueError, match=r"sequential: expected 6 arrays \(embedding_embeddings"):
        model.set_weights(weights[:-1])
    wrong = [value + 1 for value in weights]
    wrong[-1] = np.zeros(5)
    with pytest.raises(ValueError, match=r"dense_bias has shape \(3,\), received \(5,\)"):
        model.set_weights(wrong)
    for key, value in before.items():
        np.testing.assert_array_equal(model.params[key], value)


def test_get_weights_are_copies():
    model, _, _ = make("lstm")
    model.get_weights()[0][...] = 99
    assert not (model.params["embedding_embeddings"] == 99).any()


def test_weights_are_the_arrays_themselves():
    model, _, _ = make("bidirectional")
    assert [id(w) for w in model.weights] == [id(w) for w in model.params.values()]
    assert [id(w) for w in model.trainable_weights] == [id(w) for w in model.weights]
    model.layers[1].trainable = False
    frozen = {id(w) for w in model.layers[1].weights}
    expected = [id(w) for w in model.weights if id(w) not in frozen]
    assert [id(w) for w in model.trainable_weights] == expected
    assert len(frozen) == 6 and model.layers[1].trainable_weights == []
    model.weights[0][...] = 0.5
    assert (model.get_weights()[0] == 0.5).all()


def test_no_weight_hides_behind_another():
    model = Sequential(
        [
            Bidirectional(LSTM(3, return_sequences=True), name="a"),
            LSTM(3, name="a_forward"),
        ]
    )
    with pytest.raises(ValueError, match="two weights would have one name"):
        model.build((None, None, 2))


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_frozen_layers_are_not_trained(frozen):
    model, x, y = make("lstm")
    model.layers[frozen].trainable = False
    before = {key: value.copy() for key, value in model.params.items()}
    model.fit(x, y, epochs=2, verbose=0)
    for key, value in before.items():
        of_frozen = key.startswith(model.layers[frozen].name + "_")
        assert np.array_equal(model.params[key], value) is of_frozen, key


def test_a_frozen_model_is_not_trained_and_thaws():
    model, x, y = make("lstm")
    model.trainable = False
    before = model.get_weights()
    model.fit(x, y, verbose=0)
    for kept, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, now)
    model.trainable = True
    model.fit(x, y, verbose=0)
    assert any((kept != now).any() for kept, now in zip(before, model.get_weights(), strict=True))


def test_frozen_layers_of_a_model_in_a_model_are_not_trained():
    frozen = LSTM(2, trainable=False)
    model = Sequential(
        [Embedding(TOKENS, 3), Sequential([frozen, Dense(4)]), Dense(CLASSES, "softmax")]
    )
    model.build()
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = frozen.get_weights()
    model.fit(ids(), labels(), verbose=0)
    for kept, now in zip(before, frozen.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, now)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda: Bidirectional(LSTM(2, return_sequences=True, trainable=False)),
        lambda: TimeDistributed(Dense(2, trainable=False)),
    ],
    ids=["bidirectional", "time_distributed"],
)
def test_frozen_layers_inside_another_layer_are_not_trained(wrapped):
    layer = wrapped()
    model = Sequential([Embedding(TOKENS, 3), layer, LSTM(2), Dense(CLASSES, "softmax")])
    model.build()
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = layer.get_weights()
    model.fit(ids(), labels(), verbose=0)
    for kept, now in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, now)


def test_a_pretrained_table_is_used_and_stays():
    table = np.random.default_rng(0).normal(size=(TOKENS, 3)).astype("float32")
    model = Sequential(
        [Embedding(TOKENS, 3, weights=table, trainable=False), LSTM(2), Dense(CLASSES, "softmax")]
    )
    model.build()
    model.compile("adam", losses.SparseCategoricalCrossentropy())
    model.fit(ids(), labels(), verbose=0)
    np.testing.assert_array_equal(model.params["embedding_embeddings"], table)


def changed_precision(model, way):
    if way == "astype":
        return model.astype("float64")
    model.cast("float64")
    return model


@pytest.mark.parametrize("way", ["astype", "cast"])
def test_a_trained_model_in_another_precision_is_trained_whole(way):
    """The loss that it trains on is that of its own predictions."""
    model, x, y = make("lstm", optimizer="sgd")
    model.optimizer.learning_rate = 0.5
    model.fit(x, y, verbose=0)
    model = changed_precision(model, way)
    before = {key: value.copy() for key, value in model.params.items()}
    model.fit(x, y, epochs=3, verbose=0)
    for key, value in before.items():
        assert model.params[key].dtype == np.float64
        assert (model.params[key] != value).any(), key
    true = model.predict(x)[np.arange(len(y)), y]
    assert model.evaluate(x, y, verbose=0)[0] == pytest.approx(-np.log(true).mean(), rel=1e-9)


def test_a_model_that_predict_built_knows_its_input():
    model = Sequential([LSTM(2), Dense(3)])
    model.predict(vectors())
    assert model.input_shape is not None
    assert model.input_shape[-1] == FEATURES
