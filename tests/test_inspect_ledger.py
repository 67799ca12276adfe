"""The ledger of padding: counted by hand, beside what the library does, and over any rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strict_cupy import installed

from minirnn import Sequential, set_random_seed, timeloop
from minirnn.backend import generator
from minirnn.cells import SimpleRNNCell
from minirnn.data import Dataset
from minirnn.inspect import Ledger, padding_ledger
from minirnn.inspect.ledger import WAYS, quarters, recurrent_costs
from minirnn.layers import (
    GRU,
    LSTM,
    Bidirectional,
    Dense,
    Embedding,
    Flatten,
    Input,
    SimpleRNN,
    TextVectorization,
)
from minirnn.packing import Packing

# Lengths 3, 1, 5, 2, 4, 0: by hand, with two rows a batch.
ROWS = [[4, 2, 7], [1], [3, 3, 5, 6, 2], [8, 1], [9, 9, 4, 1], []]


def model(*layers, tokens=11, features=5):
    made = Sequential([Embedding(tokens, features, mask_zero=True), *layers, Dense(2)])
    made.build()
    return made


def numbers(array):
    return np.asarray(array).tolist()


# ---------------------------------------------------------------- counting


def test_batches_by_hand():
    ledger = padding_ledger(ROWS, batch_size=2, boundaries=[3])
    assert isinstance(ledger, Ledger)
    assert numbers(ledger.lengths) == [3, 1, 5, 2, 4, 0]
    assert numbers(ledger.given.rows) == [2, 2, 2]
    assert numbers(ledger.given.width) == [3, 5, 4] == numbers(ledger.given.longest)
    assert numbers(ledger.given.padded) == [6, 10, 8]
    assert numbers(ledger.given.real) == [4, 7, 4]
    # Shorter than 3: rows 1 and 3, then row 5 alone. From 3 on: rows 0 and 2, then row 4 alone.
    assert numbers(ledger.bucketed.padded) == [10, 4, 0, 4]
    assert numbers(ledger.bucketed.real) == [8, 3, 0, 4]
    assert ledger.real_share == 15 / 24
    for way, steps, in_a_row in (
        ("no masking", 24, 12),
        ("where", 24, 12),
        ("packing", 15, 12),
        ("bucketing", 18, 11),
        ("bucketing and packing", 15, 11),
    ):
        work = ledger.work(way)
        assert (work.steps.sum(), work.in_a_row.sum()) == (steps, in_a_row)
        assert ledger.saved[way] == 1 - steps / 24
        assert not work.multiplications.any() and not work.kept.any()


def test_an_array_keeps_its_width_and_zeros_anywhere_are_padding():
    ids = np.array([[0, 0, 3, 1, 0, 0], [2, 0, 0, 5, 6, 0], [1, 0, 0, 0, 0, 0]])
    ledger = padding_ledger(ids, batch_size=2)
    assert numbers(ledger.given.width) == [6, 6]
    assert numbers(ledger.given.real) == [5, 1]
    assert numbers(ledger.given.longest) == [3, 1]
    assert numbers(ledger.lengths) == [2, 3, 1]
    assert ledger.work("packing").in_a_row.sum() == 4
    assert ledger.work("no masking").in_a_row.sum() == 12


def test_a_data_set_of_batches_and_texts_count_alike():
    words = TextVectorization()
    texts = ["oil prices rise again", "markets fall", "oil", "prices fall far and wide"]
    words.adapt(texts)
    ids = words.ids(texts)
    rows = padding_ledger(ids, batch_size=2)
    pairs = Dataset.from_rows([(row, 1) for row in ids]).padded_batch(2)
    made = Sequential([words, Embedding(20, 3, mask_zero=True), LSTM(2), Dense(2)])
    made.build()
    for other in (padding_ledger(pairs), padding_ledger(texts, made, batch_size=2)):
        assert other.batch_size == 2
        assert other.boundaries == rows.boundaries
        for one, two in zip(rows.given + rows.bucketed, other.given + other.bucketed, strict=True):
            np.testing.assert_array_equal(one, two)


def test_the_usual_batch_size_is_that_of_fit():
    assert numbers(padding_ledger([[1, 2]] * 40).given.rows) == [32, 8]


def test_quarters():
    assert quarters(np.arange(1, 9)) == [4, 6, 8]
    assert quarters(np.array([5, 5, 5])) == [6]


# ---------------------------------------------------------------- multiplications and bytes


def test_costs_of_the_layers():
    found = recurrent_costs(
        model(Bidirectional(LSTM(3, return_sequences=True)), GRU(2, return_sequences=True))
    )
    assert [cost.name for cost in found] == [
        "bidirectional forward",
        "bidirectional backward",
        "gru",
    ]
    lstm, _, gru = found
    assert lstm[1:5] == (5, 3, 4, 3 * 4 * 3 * (5 + 3))
    assert gru[1:5] == (6, 2, 3, 3 * 3 * 2 * (6 + 2))
    assert recurrent_costs(model(SimpleRNN(7)))[0].multiplications == 3 * 7 * (5 + 7)


@pytest.mark.parametrize(
    "layer",
    [SimpleRNN(3), LSTM(3), GRU(3), GRU(3, reset_after=False)],
    ids=lambda layer: type(layer.cell).__name__,
)
def test_bytes_are_those_that_the_loop_keeps(layer):
    layer.build((None, None, 5))
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], bool)
    packing = Packing(mask)
    x = np.ones((len(packing), 5), "float32")
    loop = timeloop.run(layer.cell, x, packing, layer.cell.initial_state(2))
    kept = loop.x.nbytes + sum(a.nbytes for a in loop.saved)
    kept += sum(states[2:].nbytes for states in loop.history)
    (cost,) = recurrent_costs(Sequential([Input((None, 5)), layer]))
    assert cost.kept * len(packing) == kept


def test_multiplications_are_those_of_the_products(monkeypatch):
    """Every product of the plain loop, counted."""

    class Counting:
        total = 0

        def __getattr__(self, name):
            return getattr(np, name)

        def dot(self, a, b, out=None):
            self.total += a.shape[0] * a.shape[1] * b.shape[1]
            return np.dot(a, b, out)

    counting = Counting()
    monkeypatch.setattr("minirnn.cells.xp", counting)
    cell = SimpleRNNCell(3)
    cell.build(5)
    packing = Packing(np.array([[1, 1, 1, 0], [1, 0, 0, 0]], bool))
    cell.cast("float64")  # the compiled loops are for float32
    x = np.ones((len(packing), 5))
    loop = timeloop.run(cell, x, packing, cell.initial_state(2, "float64"))
    timeloop.run_backward(cell, (np.ones((2, 3)),), (None,), loop)
    # In the loops: h U, and da Uᵀ. Outside, as matrix products: x W, dW, dU and dx.
    in_loops = len(packing) * 3 * 3 * 2
    assert counting.total == in_loops
    outside = len(packing) * (3 * 5 + 3 * 5 + 3 * 3 + 3 * 5)
    (cost,) = recurrent_costs(model(SimpleRNN(3)))
    assert cost.multiplications * len(packing) == in_loops + outside


def test_work_of_a_model():
    ledger = padding_ledger(ROWS, model(LSTM(3)), batch_size=2, boundaries=[3])
    (cost,) = ledger.layers
    work = ledger.work("packing")
    assert numbers(work.multiplications) == [n * cost.multiplications for n in (4, 7, 4)]
    assert numbers(work.kept) == [n * cost.kept for n in (4, 7, 4)]


# ---------------------------------------------------------------- seconds


def test_measured_seconds():
    made = model(Bidirectional(LSTM(3, return_sequences=True)), SimpleRNN(2, stateful=False))
    ledger = padding_ledger(ROWS, made, batch_size=2, boundaries=[3], measured=True)
    assert list(ledger.seconds) == [way for way in WAYS if way != "where"]
    for way, seconds in ledger.seconds.items():
        assert seconds.shape == ledger.work(way).steps.shape
        assert (seconds > 0).all()
    assert "seconds" in str(ledger)


def test_packing_takes_less_time_where_there_is_much_padding():
    made = model(LSTM(32), tokens=50, features=32)
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 50, (32, 200))
    ids[1:, 20:] = 0
    seconds = padding_ledger(ids, made, batch_size=32, measured=True).seconds
    assert seconds["packing"].sum() < seconds["no masking"].sum()


@pytest.mark.usefixtures("loops_that_run_here")
def test_measured_seconds_on_the_stand_in_for_cupy():
    with installed():
        ledger = padding_ledger(ROWS, model(GRU(3)), batch_size=2, measured=True)
    assert all((seconds > 0).all() for seconds in ledger.seconds.values())


def test_measuring_leaves_the_model_alone():
    set_random_seed(3)
    made = model(LSTM(3, dropout=0.5, stateful=True), tokens=11)
    before, state = made.get_weights(), generator().bit_generator.state
    padding_ledger(ROWS, made, batch_size=2, measured=True)
    assert made.layers[0].mask_zero and made.layers[1].states is None
    assert generator().bit_generator.state == state
    for one, two in zip(before, made.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_measuring_later_gives_a_new_ledger():
    ledger = padding_ledger(ROWS, batch_size=2)
    measured = ledger.measure(model(GRU(2)), repeats=1)
    assert not ledger.seconds and measured.seconds
    assert measured.given is ledger.given


# ---------------------------------------------------------------- text


def test_the_table():
    ledger = padding_ledger(ROWS, model(LSTM(3)), batch_size=2, boundaries=[3])
    lines = str(ledger).splitlines()
    assert lines[0] == "6 rows in 3 batches: 15 of 24 padded steps are real (62.5 %)"
    head = "way steps in a row multiplications largest batch keeps"
    assert " ".join(lines[1].split()) == head
    assert len({len(line) for line in lines[1:]}) == 1
    assert [line.split("  ")[0] for line in lines[2:]] == list(WAYS)
    one = str(padding_ledger([[1, 2]]))
    assert one.startswith("1 rows in 1 batch: 2 of 2")
    assert ledger.by_batch().splitlines()[2].split() == ["1", "2", "5", "10", "7", "70.0"]


def test_rows_without_any_step():
    ledger = padding_ledger([[], []])
    assert ledger.real_share == 1 and set(ledger.saved.values()) == {1.0}
    assert padding_ledger(np.zeros((2, 3), int)).real_share == 0


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"data": np.ones((3, 4))}, "data: expected token ids .* received float64 of shape"),
        ({"data": np.ones((3, 4, 2), int)}, "received int64 of shape"),
        ({"data": [["oil", "rises"]]}, "data: expected token ids"),
        ({"data": []}, "empty"),
        ({"data": [[[1], [2, 3]], [1]]}, "x: expected rows of one kind"),
        ({"data": Dataset.from_rows([ROWS[0]]).batch(1).repeat()}, "bound it with take"),
        ({"data": ROWS, "boundaries": [3, 3]}, r"boundaries: expected rising numbers.*\[3, 3\]"),
        ({"data": ROWS, "boundaries": [0]}, "boundaries: expected a positive whole number"),
        ({"data": ROWS, "batch_size": 0}, "batch_size: expected a positive"),
        ({"data": ROWS, "measured": True}, "measured: seconds need a model"),
        ({"data": ROWS, "model": Sequential([Embedding(3, 2), LSTM(2)])}, "no weights yet"),
    ],
)
def test_wrong_use(arguments, words):
    with pytest.raises(ValueError, match=words):
        padding_ledger(**arguments)


def test_wrong_ways_to_use_a_ledger():
    ledger = padding_ledger(ROWS, batch_size=2)
    with pytest.raises(ValueError, match="way: expected one of no masking, where"):
        ledger.work("packed")
    with pytest.raises(ValueError, match="repeats: expected a positive"):
        ledger.measure(model(LSTM(2)), repeats=0)
    flat = Sequential([Input((5,)), Embedding(11, 2), Flatten(), Dense(2)])
    flat.build()
    with pytest.raises(ValueError, match="cannot use a mask"):
        padding_ledger(np.ones((2, 5), int)).measure(flat)


# ---------------------------------------------------------------- any rows


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=12),
    batch_size=st.integers(1, 5),
)
def test_what_holds_for_any_rows(rows, batch_size):
    ledger = padding_ledger(rows, batch_size=batch_size)
    assert ledger.given.rows.sum() == ledger.bucketed.rows.sum() == len(rows)
    assert numbers(ledger.lengths) == [sum(token != 0 for token in row) for row in rows]
    assert ledger.given.real.sum() == ledger.bucketed.real.sum() == ledger.lengths.sum()
    for made in (ledger.given, ledger.bucketed):
        assert (made.real <= made.rows * made.longest).all()
        assert (made.longest <= made.width).all()
    steps = {way: ledger.work(way).steps.sum() for way in WAYS}
    assert steps["packing"] <= steps["bucketing"]
    assert steps["packing"] <= steps["no masking"] == steps["where"]
    str(ledger), ledger.by_batch()
