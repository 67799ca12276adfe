"""From one sequence to another: encoder, decoder, the gradient between them, training, files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from device_cases import compare
from model_cases import randomize, same_weights
from test_models import dense, numeric

import minirnn
from minirnn import FileFormatError, NonFiniteError, Seq2Seq, Sequential, set_random_seed
from minirnn.backend import to_host
from minirnn.callbacks import EarlyStopping, ModelCheckpoint
from minirnn.data import Dataset
from minirnn.encoder_decoder import Decoder
from minirnn.gradcheck import gradcheck
from minirnn.layers import (
    GRU,
    LSTM,
    Activation,
    Bidirectional,
    Dense,
    Dropout,
    Embedding,
    OneHot,
    SimpleRNN,
)
from minirnn.steps import loss_and_gradients
from minirnn.teacher_forcing import Pairs, one_step_behind
from minirnn.text import pad_rows

SOURCE, TARGET, START, END = 11, 7, 5, 6  # ids of each side; the last two of the target's

X = [[3, 1, 4, 1, 5], [9], [2, 6, 5], [8, 10]]
Y = [[1, 2], [3, 4, 1], [], [2]]


def encoder_of(kind):
    return [
        Embedding(SOURCE, 3, mask_zero=True),
        kind(4, return_sequences=True, return_state=True),
        kind(5, return_state=True),
    ]


def decoder_of(kind):
    return [
        Embedding(TARGET, 2, mask_zero=True),
        kind(4, return_sequences=True),
        kind(5, return_sequences=True),
        Dense(TARGET, activation="softmax"),
    ]


ENCODERS = {
    "simple_rnn": lambda: (encoder_of(SimpleRNN), decoder_of(SimpleRNN)),
    "lstm": lambda: (encoder_of(LSTM), decoder_of(LSTM)),
    "gru": lambda: (encoder_of(GRU), decoder_of(GRU)),
    "reversed": lambda: (
        [OneHot(SOURCE, mask_zero=True), LSTM(3, return_state=True, go_backwards=True)],
        [OneHot(TARGET, mask_zero=True), LSTM(3, return_sequences=True), Dense(TARGET)],
    ),
    "bidirectional below": lambda: (
        [
            Embedding(SOURCE, 3, mask_zero=True),
            Bidirectional(GRU(2, return_sequences=True)),
            Dropout(0.3),
            GRU(3, return_state=True),
        ],
        [
            Embedding(TARGET, 2, mask_zero=True),
            Dropout(0.3),
            GRU(3, return_sequences=True, dropout=0.2, recurrent_dropout=0.2),
            Dense(TARGET),
            Activation("softmax"),
        ],
    ),
}
every_model = pytest.mark.parametrize("name", ENCODERS)


def make(name="lstm", dtype="float64", optimizer="adam", seed=3):
    set_random_seed(seed)
    model = Seq2Seq(*ENCODERS[name](), start=START, end=END)
    model.build()
    if dtype != "float32":
        model = model.astype(dtype)
    loss = minirnn.losses.SparseCategoricalCrossentropy(from_logits=name == "reversed")
    model.compile(optimizer, loss, ["acc"])
    return randomize(model, seed)


def padded(rows, extra=0):
    rows = pad_rows([np.array(row, dtype=np.int32) for row in rows])
    return np.pad(rows, [(0, 0), (0, extra)])


def pairs(x=X, y=Y, extra=(0, 0)):
    """`(Pairs, expected)` of rows, with more padding if `extra` says so."""
    given, expected = one_step_behind(padded(y, extra[1]), START, END)
    return Pairs(padded(x, extra[0]), given), expected


def reversals(rows, longest=5, seed=0, unlike=()):
    """Sequences of digits, all different, and their reversals: ids are digits + 1."""
    unlike = set(unlike)
    rng, taken = np.random.default_rng(seed), set(unlike)
    while len(taken) < rows + len(unlike):
        taken.add(tuple(rng.integers(1, 11, rng.integers(2, longest + 1)).tolist()))
    x = [list(row) for row in sorted(taken - unlike, key=lambda row: rng.random())]
    return x, [row[::-1] for row in x]


def test_the_decoder_reads_one_step_behind_what_it_is_to_say():
    given, expected = one_step_behind(np.array([[3, 4, 1], [2, 0, 0], [0, 0, 0]]), START, END)
    assert given.tolist() == [[START, 3, 4, 1], [START, 2, 0, 0], [START, 0, 0, 0]]
    assert expected.tolist() == [[3, 4, 1, END], [2, END, 0, 0], [END, 0, 0, 0]]


# --- forward --------------------------------------------------------------------------------------


@every_model
def test_it_is_cells_run_one_after_another(name):
    model = make(name)
    x, _ = pairs()
    found, _ = model.forward(x)
    for row, y, chances in zip(X, Y, found, strict=True):
        values, states = np.array([row]), []
        for layer in model.encoder.layers:
            values = layer(values)
            if getattr(layer, "return_state", False):
                values, *state = values
                states.append(tuple(state))
        for t, i in enumerate([START, *y]):
            value, before, states = np.array([[i]]), states, []
            for layer in model.decoder.layers:
                if hasattr(layer, "cell"):
                    states.append(layer.cell(value[:, 0], before[len(states)]))
                    value = states[-1][0][:, None]
                else:
                    value = layer(value)
            np.testing.assert_allclose(chances[t], value[0, 0], rtol=1e-11, atol=1e-12)


@every_model
def test_padding_changes_neither_loss_nor_gradients(name):
    model = make(name)
    expected = loss_and_gradients(model, *pairs(), training=False)
    found = loss_and_gradients(model, *pairs(extra=(4, 3)), training=False)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
    for key, value in model.params.items():
        one, other = dense(expected[1][key], value), dense(found[1][key], value)
        np.testing.assert_allclose(other, one, rtol=1e-10, atol=1e-13, err_msg=key)


@every_model
def test_a_batch_is_the_mean_of_its_rows(name):
    model = make(name)
    loss, grads, _, mask = loss_and_gradients(model, *pairs(), training=False)
    assert mask.array.sum(axis=1).tolist() == [len(y) + 1 for y in Y]
    steps = mask.array.sum()
    total, sums = 0, {key: np.zeros_like(value) for key, value in model.params.items()}
    for x, y in zip(X, Y, strict=True):
        share = (len(y) + 1) / steps
        value, alone, _, _ = loss_and_gradients(model, *pairs([x], [y]), training=False)
        total += share * value
        for key in sums:
            sums[key] += share * dense(alone[key], sums[key])
    np.testing.assert_allclose(loss, total)
    for key, mean in sums.items():
        np.testing.assert_allclose(dense(grads[key], mean), mean, rtol=1e-9, atol=1e-13)


def test_what_stands_under_a_mask_gets_no_gradient():
    model = make()
    _, grads, _, _ = loss_and_gradients(model, *pairs(extra=(2, 2)))
    for key in ("encoder_embedding_embeddings", "decoder_embedding_embeddings"):
        table = dense(grads[key], model.params[key])
        assert not table[0].any() and table[1:].any()


# --- gradients ------------------------------------------------------------------------------------


@every_model
def test_gradients_of_all_weights_on_both_sides(name):
    model = make(name)
    x, expected = pairs(extra=(1, 0))
    _, grads, _, _ = loss_and_gradients(model, x, expected, training=False)
    assert grads.keys() == model.params.keys()

    def loss():
        return float(loss_and_gradients(model, x, expected, training=False)[0])

    for key, value in model.params.items():
        slopes = numeric(loss, value)
        assert np.abs(slopes).max() > 1e-4, key  # there is something to see
        error = np.abs(dense(grads[key], value) - slopes).max() / np.abs(slopes).max()
        assert error < 1e-6, (key, error)


@pytest.mark.parametrize("training", [False, True])
def test_the_gradient_check_takes_such_models(training):
    x, expected = pairs()
    model = Seq2Seq(*ENCODERS["bidirectional below"](), start=START, end=END)
    loss = "sparse_categorical_crossentropy"
    report = gradcheck(model, x, y_true=expected, loss=loss, training=training)
    assert report.passed, report
    assert len(report.rows) == 40
    report = gradcheck(make("lstm"), x)  # without a loss: any gradient of the outputs
    assert report.passed, report


def test_the_gradient_check_sees_a_gradient_that_stops_between_the_halves(monkeypatch):
    whole = Decoder.backward

    def stopped(decoder, dy, cache):
        (dx, dstates), grads = whole(decoder, dy, cache)
        return (dx, [tuple(map(np.zeros_like, state)) for state in dstates]), grads

    monkeypatch.setattr(Decoder, "backward", stopped)
    report = gradcheck(make("gru"), pairs()[0])
    failed = {row.name for row in report.rows if not row.passed}
    assert failed == {row.name for row in report.rows if row.name.startswith("encoder")}


# --- teaching -------------------------------------------------------------------------------------


def test_a_training_step_is_the_optimizer_on_these_gradients():
    model, by_hand = make(optimizer="sgd"), make(optimizer="sgd")
    model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    _, grads, _, _ = loss_and_gradients(by_hand, *pairs())
    by_hand.optimizer.apply(by_hand.params, grads)
    for key, value in model.params.items():
        np.testing.assert_allclose(value, by_hand.params[key], rtol=1e-12, err_msg=key)


def test_it_learns_to_reverse_digits():
    set_random_seed(1)
    x, y = reversals(4000)
    held_out, truth = reversals(400, seed=1, unlike=map(tuple, x))
    model = Seq2Seq(
        [Embedding(11, 16, mask_zero=True), GRU(64, return_state=True)],
        [
            Embedding(13, 16, mask_zero=True),
            GRU(64, return_sequences=True),
            Dense(13, activation="softmax"),
        ],
        start=11,
        end=12,
    )
    model.compile("adam", "sparse_categorical_crossentropy", ["acc"])
    model.optimizer.learning_rate = 0.008
    history = model.fit(x, y, batch_size=64, epochs=9, validation_split=0.05, verbose=0).history
    assert history["val_acc"][-1] > 0.98
    found = model.translate(held_out, max_length=5)
    assert (found == padded(truth)).all(axis=1).mean() > 0.95
    drawn = model.translate(held_out[:100], max_length=5, temperature=0.1, rng=1)
    assert (drawn == padded(truth[:100])).all(axis=1).mean() > 0.9


def test_what_fit_takes(tmp_path):
    model = make()
    saved = tmp_path / "best.mrnn"
    history = model.fit(
        padded(X),
        padded(Y),
        batch_size=3,
        epochs=3,
        verbose=0,
        validation_data=(X, Y),
        sample_weight=[1, 0.5, 2, 0],
        callbacks=[ModelCheckpoint(saved), EarlyStopping(patience=5, restore_best_weights=True)],
    ).history
    assert list(history) == ["loss", "acc", "val_loss", "val_acc"]
    assert saved.exists() and len(history["loss"]) == 3
    stream = Dataset.from_generator(lambda: iter([(padded(X), padded(Y))] * 2))
    model.fit(stream, validation_data=stream, verbose=0)
    loss, acc = model.evaluate(X, Y, verbose=0)
    assert model.evaluate(stream, verbose=0, return_dict=True)["acc"] == pytest.approx(acc)
    chances = model.predict(X, Y, batch_size=3)
    _, expected = pairs()
    mask = expected != 0
    assert chances.shape == (4, 4, TARGET)
    true = np.take_along_axis(chances, expected[..., None], axis=-1)[..., 0]
    assert loss == pytest.approx(-np.log(true[mask]).mean(), rel=1e-6)
    assert acc == pytest.approx((chances.argmax(axis=-1) == expected)[mask].mean())


def test_frozen_layers_stay_as_they_are():
    model = make()
    model.encoder.trainable = False
    before = {key: value.copy() for key, value in model.params.items()}
    model.fit(X, Y, verbose=0)
    for key, value in model.params.items():
        assert (value == before[key]).all() == key.startswith("encoder"), key


@pytest.mark.parametrize(
    ("half", "key"), [("encoder", "encoder_gru_kernel"), ("decoder", "decoder_dense_bias")]
)
def test_a_loss_that_is_not_finite_is_traced(half, key):
    model = make("gru")
    model.params[key][...] = np.nan
    name = key.removeprefix(f"{half}_")
    with pytest.raises(NonFiniteError, match=f"in the weights {name} of layer '{half}'"):
        model.fit(X, Y, verbose=0)


# --- translating ----------------------------------------------------------------------------------


@every_model
def test_a_translation_is_what_the_whole_of_it_read_again_gives(name):
    model = make(name)
    found = model.translate(X, max_length=9)
    assert found.dtype == np.int32 and found.shape[1] <= 9
    for row, ids in zip(X, found.tolist(), strict=True):
        written = []
        while len(written) < 9:
            chances = model.predict([row], [written])[0, -1]
            chances[[0, START]] = -np.inf
            following = int(chances.argmax())
            if following == END:
                break
            written.append(following)
        assert ids == written + [0] * (len(ids) - len(written))


def test_translations_are_drawn_from_the_seed():
    model = make()
    texts = [model.translate(X * 5, 6, temperature=2.0, rng=seed).tolist() for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert not {0, START, END} & {i for row in texts[0] for i in row[:1] if i}
    set_random_seed(4)
    first = model.translate(X, 6, temperature=2.0)
    set_random_seed(4)
    np.testing.assert_array_equal(model.translate(X, 6, temperature=2.0), first)
    greedy = model.translate(X, 6)
    np.testing.assert_array_equal(model.translate(X, 6, temperature=5.0, top_k=1), greedy)
    np.testing.assert_array_equal(model.translate(X, 6, batch_size=1), greedy)


def test_rows_that_end_at_once_and_rows_that_never_end():
    model = make()
    model.params["decoder_dense_bias"][END] = 100
    assert model.translate(X, 6).shape == (4, 0)
    model.params["decoder_dense_bias"][END] = -100
    assert model.translate(X, 6).shape == (4, 6)


# --- files and tables -----------------------------------------------------------------------------


@every_model
def test_a_saved_model_goes_on_as_if_nothing_had_happened(name, tmp_path):
    model = make(name, dtype="float32")
    model.fit(X, Y, verbose=0, epochs=2)
    model.save(tmp_path / "model.mrnn")
    again = minirnn.load(tmp_path / "model.mrnn")
    assert type(again) is Seq2Seq and same_weights(model, again)
    np.testing.assert_array_equal(model.predict(X, Y), again.predict(X, Y))
    np.testing.assert_array_equal(model.translate(X, 5), again.translate(X, 5))
    for each in (model, again):
        set_random_seed(2)
        each.fit(X, Y, verbose=0, epochs=2, batch_size=2)
    assert same_weights(model, again)
    assert json.loads(json.dumps(again.get_config())) == json.loads(json.dumps(model.get_config()))


def test_a_file_of_an_unknown_kind_of_model(tmp_path, monkeypatch):
    make().save(tmp_path / "model.mrnn")
    monkeypatch.delitem(minirnn.saving.MODELS, "Seq2Seq")
    with pytest.raises(FileFormatError, match=r"model.mrnn: unknown class 'Seq2Seq'"):
        minirnn.load(tmp_path / "model.mrnn")


def test_floats_as_sources(tmp_path):
    x = np.random.default_rng(0).normal(size=(4, 6, 3)).astype("float32")
    model = Seq2Seq([GRU(4, return_state=True)], [*decoder_of(GRU)[:2], Dense(7)], START, END)
    loss = minirnn.losses.SparseCategoricalCrossentropy(from_logits=True)
    with pytest.raises(ValueError, match="seq2_seq: the shape of a source is not known yet"):
        model.build()
    model.compile("adam", loss)
    model.fit(x, Y, verbose=0)
    model.save(tmp_path / "model.mrnn")
    again = minirnn.load(tmp_path / "model.mrnn")
    np.testing.assert_array_equal(again.translate(x, 5), model.translate(x, 5))
    dx, _ = model.backward(*_random_gradient(model, Pairs(x, pairs()[0].target)))
    assert dx.shape == x.shape and dx.any()


def _random_gradient(model, x):
    y, cache = model.forward(x)
    return np.random.default_rng(1).normal(size=y.shape).astype("float32"), cache


def test_the_summary_shows_both_halves(capsys):
    make("gru").summary()
    shown = capsys.readouterr().out
    assert 'Model "encoder"' in shown and 'Model "decoder"' in shown
    assert shown.count("(GRU)") == 4 and "(–, –, 7)" in shown


# --- on the device --------------------------------------------------------------------------------


@pytest.mark.usefixtures("loops_that_run_here")
@pytest.mark.parametrize("name", ["lstm", "bidirectional below"])
def test_on_the_device(name):
    def run():
        model = make(name, dtype="float32")
        history = model.fit(X, Y, batch_size=2, epochs=2, verbose=0).history
        translated = model.translate(X, 5, temperature=1.0, rng=1).astype(float)
        weights = [to_host(value) for value in model.params.values()]
        return history, translated, model.predict(X, Y), weights

    compare(run, rtol=1e-4, atol=1e-4)


# --- errors ---------------------------------------------------------------------------------------

HEAD = Dense(TARGET, activation="softmax")


def source(*layers, **options):
    return [Embedding(SOURCE, 3, mask_zero=True), *layers]


def target(*layers, **options):
    return [Embedding(TARGET, 2, mask_zero=True), *layers, Dense(TARGET, activation="softmax")]


def state(kind, units=4, **options):
    return kind(units, return_state=True, **options)


def steps(kind, units=4, **options):
    return kind(units, return_sequences=True, **options)


@pytest.mark.parametrize(
    ("encoder", "decoder", "error", "message"),
    [
        ([GRU], target(steps(GRU)), TypeError, "encoder: expected a list of layers, received <cl"),
        (
            [Sequential([GRU(3)])],
            target(steps(GRU)),
            TypeError,
            "encoder: expected a list of layers, received <Sequential",
        ),
        (source(GRU(4)), target(steps(GRU)), ValueError, "encoder: expected a recurrent layer wi"),
        ([], target(steps(GRU)), ValueError, r"encoder: expected a recurrent layer .* received \["),
        (
            source(Bidirectional(GRU(4, return_state=True))),
            target(steps(GRU)),
            ValueError,
            "bidirectional: the states of a Bidirectional fit no decoder",
        ),
        (
            source(state(GRU)),
            target(steps(LSTM)),
            ValueError,
            r"gru of the encoder gives \(h\) of 4 units, and lstm of the decoder starts in \(h, c",
        ),
        (source(state(GRU)), target(steps(GRU, 5)), ValueError, r"gru of the decoder .* 5 units"),
        (
            source(state(GRU)),
            target(steps(GRU), steps(GRU)),
            ValueError,
            "expected as many layers with return_state=True in the encoder as recurrent layers",
        ),
        (source(state(GRU)), target(GRU(4)), ValueError, "gru: generating needs an output at ev"),
        (
            source(state(GRU)),
            target(Bidirectional(steps(GRU))),
            ValueError,
            "bidirectional: a Bidirectional layer cannot generate",
        ),
        (
            source(state(GRU)),
            target(steps(GRU, return_state=True)),
            ValueError,
            "gru: a decoder hands its states on by itself",
        ),
        (
            source(state(GRU)),
            [Embedding(TARGET, 2), steps(GRU), Dense(TARGET)],
            ValueError,
            "embedding: targets differ in length, .* mask_zero=True",
        ),
        (
            source(state(GRU)),
            [Embedding(TARGET, 2, mask_zero=True), steps(GRU), Dense(TARGET + 1)],
            ValueError,
            "dense: it gives 8 classes, and embedding takes ids below 7",
        ),
        (
            source(state(GRU, name="same"), state(GRU, name="same")),
            target(steps(GRU)),
            ValueError,
            "same: another layer has this name already",
        ),
    ],
)
def test_layers_that_do_not_fit_together(encoder, decoder, error, message):
    with pytest.raises(error, match=message):
        Seq2Seq(encoder, decoder, START, END)


def test_a_layer_cannot_stand_on_both_sides():
    shared = Embedding(TARGET, 3, mask_zero=True)
    with pytest.raises(ValueError, match="embedding: this very layer is in the encoder already"):
        Seq2Seq([shared, state(GRU)], [shared, steps(GRU), Dense(TARGET)], START, END)


@pytest.mark.parametrize("ids", [(0, 6), (5, 5), (5, 7), (-1, 6), ("start", 6)])
def test_ids_that_cannot_be_start_and_end(ids):
    with pytest.raises(ValueError, match=r"start, end: expected two different ids from 1 to 6"):
        Seq2Seq(*ENCODERS["gru"](), *ids)


def test_an_end_that_the_decoder_cannot_say():
    decoder = [Embedding(TARGET, 2, mask_zero=True), steps(GRU), Dense(TARGET - 1)]
    with pytest.raises(ValueError, match="end: 6 is no class of dense, which gives 6"):
        Seq2Seq(source(state(GRU)), decoder, START, END).build()


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (X, None, ValueError, r"y: expected targets, received none; translate\(x, max_length\)"),
        (X, Y[:3], ValueError, "x has 4 rows and y has 3"),
        (X, [[1], [2], [3], [END]], ValueError, "y: row 3 of a batch holds the id 6, which is st"),
        (X, [[1], [START], [3], []], ValueError, "y: row 1 of a batch holds the id 5"),
        (X, [[1], [2], [0, 3], []], ValueError, "y: row 2 of a batch holds padding, 0, before"),
        (X, [1, 2, 3, 4], ValueError, r"y: expected rows of ids \(rows, time\), received shape"),
        (X, [[1], [2], [7], [3]], ValueError, r"y: id 7 at \(2, 0\) is outside 0..6"),
        (X, [[1.5], [2], [3], [3]], TypeError, "y: expected whole numbers"),
        ([[1], [2], [99], [3]], Y, ValueError, "embedding: id 99"),
    ],
)
def test_rows_that_cannot_be_taught(x, y, error, message):
    model = make()
    with pytest.raises(error, match=message):
        model.fit(x, y, shuffle=False, verbose=0)


def test_other_wrong_use():
    model = make()
    with pytest.raises(ValueError, match="validation_split: goes with arrays only, and without"):
        model.fit(X, Y, validation_split=0.5, validation_data=(X, Y), verbose=0)
    with pytest.raises(ValueError, match="max_length: expected a positive whole number"):
        model.translate(X, 0)
    with pytest.raises(ValueError, match="temperature: expected a number from 0 up"):
        model.translate(X, 3, temperature=-1)
    fresh = Seq2Seq(*ENCODERS["gru"](), start=START, end=END)
    with pytest.raises(ValueError, match="seq2_seq: call compile"):
        fresh.fit(X, Y)
    with pytest.raises(ValueError, match="seq2_seq: this layer has no weights yet"):
        fresh.translate(X, 3)
    with pytest.raises(ValueError, match="from_logits=True, but the model ends in its softmax"):
        loss = minirnn.losses.SparseCategoricalCrossentropy(from_logits=True)
        fresh.compile("adam", loss)
        fresh.fit(X, Y, verbose=0)
