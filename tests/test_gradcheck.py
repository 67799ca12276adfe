"""minirnn.gradcheck: right gradients pass, planted errors fail, and the guesses name them."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirnn import activations, losses, timeloop
from minirnn.backend import generator, xp
from minirnn.base import Layer
from minirnn.cells import Cell, GRUCell, LSTMCell, SimpleRNNCell
from minirnn.gradcheck import (
    GradientError,
    GradientReport,
    check_library,
    gradcheck,
    library_cases,
)
from minirnn.gradcheck.library import mask
from minirnn.gradcheck.subject import make_subject
from minirnn.layers import (
    GRU,
    LSTM,
    RNN,
    Activation,
    Bidirectional,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GlobalAveragePooling1D,
    Input,
    Masking,
    OneHot,
    SimpleRNN,
    recurrent,
)
from minirnn.packing import Packing

CASES = library_cases()


class Chain(Layer):
    """Layers one after another: as much of a model as a gradient check needs."""

    def __init__(self, *layers: Layer) -> None:
        super().__init__()
        self.layers = list(layers)

    def children(self) -> dict[str, Layer]:
        return {f"{layer.name}": layer for layer in self.layers}

    def ensure_built(self, x) -> None:
        for layer in self.layers:
            layer.ensure_built(x)
            x = layer(x)

    def compute_mask(self, x, mask):
        for layer in self.layers:
            mask, x = layer.compute_mask(x, mask), layer(x, mask=mask)
        return mask

    def forward(self, x, mask=None, training=False):
        caches = []
        for layer in self.layers:
            following = layer.compute_mask(x, mask)
            x, cache = layer.forward(x, mask=mask, training=training)
            caches.append(cache)
            mask = following
        return x, caches

    def backward(self, dy, cache):
        grads = {}
        for layer, its_cache in zip(reversed(self.layers), reversed(cache), strict=True):
            dy, own = layer.backward(dy, its_cache)
            grads |= {f"{layer.name}_{key}": value for key, value in own.items()}
        return dy, grads


def classifier() -> Chain:
    return Chain(Embedding(11, 2, mask_zero=True), Bidirectional(GRU(3)), Dense(5, "softmax"))


# ---------------------------------------------------------------- right gradients


@pytest.mark.parametrize("name", CASES)
def test_everything_in_the_library_passes(name):
    thing, options = CASES[name]
    report = gradcheck(thing, **options).raise_on_failure()
    expected = {"complex": 1e-12, "central": 1e-6}
    assert all(row.tolerance == expected[row.method] for row in report.rows)


def test_the_library_is_checked_by_complex_steps_but_where_that_is_impossible():
    by_central = {
        name
        for name in ("LSTM, return_sequences", "Dense softmax", "Masking")
        for row in gradcheck(CASES[name][0], **CASES[name][1]).rows
        if row.method != "complex"
    }
    assert not by_central
    report = gradcheck(Activation("softplus"), np.ones((2, 3)))  # NumPy: no complex logaddexp
    assert {row.method for row in report.rows} == {"central"}


def test_check_library_yields_names_and_reports():
    found = dict(check_library(only="Embedding"))
    assert list(found) == ["Embedding", "Embedding mask_zero"]
    assert all(isinstance(report, GradientReport) for report in found.values())


@pytest.mark.parametrize("method", ["complex", "central"])
@pytest.mark.parametrize("layer", [LSTM(3, return_state=True), GRU(3), SimpleRNN(3)])
def test_both_methods_agree(layer, method):
    report = gradcheck(layer, mask=mask("holes"), method=method).raise_on_failure()
    assert {row.method for row in report.rows} == {method}
    assert report.worst.error < (1e-13 if method == "complex" else 1e-8)


@pytest.mark.parametrize("training", [False, True])
def test_a_model_with_a_loss(training):
    model = Chain(*classifier().layers[:2], Dropout(0.4), Dense(5, "softmax"))
    report = gradcheck(model, loss="sparse_categorical_crossentropy", training=training)
    report.raise_on_failure()
    names = {row.name for row in report.rows}
    assert "embedding_embeddings" in names
    assert "bidirectional_backward_recurrent_kernel[z]" in names
    assert "dense_bias" in names and "x" not in names


def test_a_model_on_vectors_with_a_loss_on_steps_and_a_mask():
    model = Chain(Input((None, 2)), LSTM(3, return_sequences=True), Dense(5))
    report = gradcheck(model, loss=losses.MeanSquaredError(), mask=mask("trailing"))
    report.raise_on_failure()
    assert report.rows[0].tensor == "x" and report.rows[0].shape == (5, 7, 2)


def test_masking_in_front_of_a_model_fixes_the_padding():
    gradcheck(Chain(Masking(), LSTM(3), Dense(2))).raise_on_failure()


def test_a_one_hot_layer_in_front():
    report = gradcheck(Chain(OneHot(11, mask_zero=True), GRU(3))).raise_on_failure()
    assert [row.tensor for row in report.rows][0] == "gru_kernel"


# ---------------------------------------------------------------- what it works on


def test_blocks_gate_by_gate():
    names = [row.name for row in gradcheck(Bidirectional(GRU(3))).rows]
    assert names[:3] == ["x", "initial forward h", "initial backward h"]
    assert names[3:6] == ["forward_kernel[z]", "forward_kernel[r]", "forward_kernel[h]"]
    assert names[-1] == "backward_bias[h]"
    assert gradcheck(GRU(3)).rows[-1].shape == (2, 3)
    assert [row.name for row in gradcheck(LSTMCell(3)).rows][:3] == ["x", "initial h", "initial c"]


def test_examples_have_sizes_that_cannot_be_taken_for_each_other():
    for units in (2, 3, 5, 7):
        B, T, F = gradcheck(SimpleRNN(units), method="complex", sample=5).rows[0].shape
        assert len({B, T, F, units}) == 4


def test_the_thing_itself_stays_as_it_is():
    layer, drop = LSTM(3, dropout=0.5), Dropout(0.5, seed=1)
    layer.build((None, None, 2))
    before = layer.get_weights()
    state, own = generator().bit_generator.state, drop.generator.bit_generator.state
    gradcheck(Chain(drop, layer), training=True).raise_on_failure()
    assert generator().bit_generator.state == state
    assert drop.generator.bit_generator.state == own
    for old, new in zip(before, layer.get_weights(), strict=True):
        assert new.dtype == np.float32
        np.testing.assert_array_equal(old, new)
    unbuilt = GRU(3)
    gradcheck(unbuilt)
    assert not unbuilt.built


def test_the_copy_runs_the_code_that_the_thing_runs():
    # Cells take a faster way if their activations are the very objects of `activations`.
    subject = make_subject(LSTM(3), None, np.random.default_rng(0))
    assert subject.thing.cell.activation is activations.tanh
    assert subject.astype("complex128").thing.cell.recurrent_activation is activations.sigmoid


def test_weights_are_redrawn_unless_told_otherwise(monkeypatch):
    plant(monkeypatch, "bias", lambda grad, cell: grad + 1)
    dense = Dense(3)
    dense.build((None, 2))
    subject = make_subject(dense, None, np.random.default_rng(0))
    assert subject.params["bias"].all()
    report = gradcheck(dense, redraw=False)
    assert report.passed
    np.testing.assert_array_equal(dense.params["bias"], 0)


def test_own_inputs_states_and_targets_are_used():
    x, h = np.ones((2, 3, 5)), np.ones((2, 7))
    report = gradcheck(GRU(7), x, initial_state=h, sample=3)
    assert [row.shape for row in report.rows[:2]] == [(2, 3, 5), (2, 7)]
    np.testing.assert_array_equal(x, 1)
    report = gradcheck(losses.MeanSquaredError(), np.zeros((2, 3)), y_true=np.ones((2, 3)))
    assert report.rows[0].analytic == pytest.approx(report.rows[0].numeric)
    assert abs(report.rows[0].numeric) < 10


def test_sample_checks_so_many_elements_of_each_tensor(monkeypatch):
    evaluations = []
    forward = Embedding.forward
    monkeypatch.setattr(
        Embedding, "forward", lambda self, *a, **k: evaluations.append(1) or forward(self, *a, **k)
    )
    gradcheck(Embedding(101, 3), sample=10).raise_on_failure()
    assert 10 <= len(evaluations) <= 13


def test_a_sampled_check_sees_errors_too(monkeypatch):
    plant(monkeypatch, "kernel", lambda grad, cell: -grad)
    report = gradcheck(LSTM(3), sample=7)
    assert failing(report) == {f"kernel[{gate}]" for gate in "ifco"} & failing(report) != set()
    assert "the sign is wrong" in str(report)


def test_kinks_are_met_with_smaller_steps():
    x = np.array([[3e-6, -3e-6, 5e-5, 1.0]])
    gradcheck(Activation("relu"), x, method="central").raise_on_failure()


def test_auto_falls_back_where_a_complex_step_goes_astray():
    class Real(Activation):
        def forward(self, x, mask=None, training=False):  # drops imaginary parts without a word
            y = self.activation(x.real.copy())
            return y, y

    report = gradcheck(Real("tanh"), np.array([[0.3, -0.2]]))
    assert report.passed and report.rows[0].method == "central"
    assert not gradcheck(Real("tanh"), np.array([[0.3, -0.2]]), method="complex").passed


# ---------------------------------------------------------------- planted errors


def failing(report: GradientReport) -> set[str]:
    return {row.name for row in report.failures}


def plant(monkeypatch, key, change) -> None:
    """`change(gradient, cell)` in place of the gradient of one weight of every cell."""
    for cell_class in (Cell, GRUCell, recurrent.GRUCellResetBefore):
        true = cell_class.weight_gradients

        def wrong(self, *inputs, true=true, outermost=cell_class):
            grads, dx = true(self, *inputs)
            own = next(c for c in type(self).__mro__ if "weight_gradients" in vars(c))
            if own is outermost:
                grads[key] = change(grads[key], self)
            return grads, dx

        monkeypatch.setattr(cell_class, "weight_gradients", wrong)


def plant_in_run_backward(monkeypatch, prepare) -> None:
    """Call `prepare(cache)` before every backward pass through time."""
    true = timeloop.run_backward

    def wrong(cell, dfinal, dhistory, cache):
        prepare(cache)
        return true(cell, dfinal, dhistory, cache)

    monkeypatch.setattr(timeloop, "run_backward", wrong)


def plant_in_steps_backward(monkeypatch, cell_class, change) -> None:
    """The true backward pass, one step at a time, with `change(dstate, k, sizes)` after step k.

    dstate: one (n, U) a state, for the n rows that take the step: the gradient of the state before
    it, to be changed in place. sizes: how many rows take each step.
    """
    true = cell_class.steps_backward

    def wrong(self, dstate, dstates, local, packing, drop=None):
        stop = len(packing)
        for k, n in reversed(list(enumerate(packing.batch_sizes))):
            block, stop = slice(stop - n, stop), stop - n
            of_rows = tuple(d[:n] for d in dstate)
            true(
                self,
                of_rows,
                tuple(None if d is None else d[block] for d in dstates),
                tuple(array[block] for array in local),
                Packing(np.ones((n, 1), dtype=bool)),
                None if drop is None else drop[:n],
            )
            change(of_rows, k, packing.batch_sizes)

    monkeypatch.setattr(cell_class, "steps_backward", wrong)


def blocks(array, count):
    return np.split(array, count, axis=-1)


def all_gates(*keys, gates="ifco"):
    return {f"{key}[{gate}]" for key in keys for gate in gates}


WEIGHTS = ("kernel", "recurrent_kernel", "bias")


@pytest.mark.parametrize(
    ("key", "change", "guess"),
    [
        ("kernel", lambda g, cell: g * 0, "all zero"),
        ("recurrent_kernel", lambda g, cell: -g, "the sign is wrong"),
        ("bias", lambda g, cell: g * 2, "2 times too large (two)"),
        ("bias", lambda g, cell: g / 5, "1/5 of what it should be (1 / batch)"),
        ("kernel", lambda g, cell: g / 7, "1/7 of what it should be (1 / time)"),
        ("kernel", lambda g, cell: g * 35, "35 times too large (batch * time)"),
        ("kernel", lambda g, cell: g * 0.3, "0.3 times what it should be"),
        ("kernel", lambda g, cell: g + cell.params["kernel"], "weights themselves were added"),
        (
            "recurrent_kernel",
            lambda g, cell: np.concatenate([b.T for b in blocks(g, 4)], axis=-1),
            "transposed",
        ),
        ("kernel", lambda g, cell: g[::-1], "the right values in the wrong places"),
        ("kernel", lambda g, cell: g * np.nan, "the gradient holds NaN"),
    ],
)
def test_a_wrong_gradient_of_one_weight(monkeypatch, key, change, guess):
    plant(monkeypatch, key, change)
    report = gradcheck(LSTM(3, return_sequences=True))
    assert failing(report) == all_gates(key)
    assert len(report.guesses) == 1
    assert guess in report.guesses[0]
    assert report.guesses[0].startswith(f"{key}: ")


@pytest.mark.parametrize("layer", [LSTM(3), Bidirectional(LSTM(3))])
def test_two_gates_exchanged(monkeypatch, layer):
    def swap(g, cell):
        i, f, c, o = blocks(g, 4)
        return np.concatenate([f, i, c, o], axis=-1)

    plant(monkeypatch, "recurrent_kernel", swap)
    report = gradcheck(layer)
    assert {name[-3:] for name in failing(report)} == {"[i]", "[f]"}
    for guess in report.guesses:
        assert re.search(r"recurrent_kernel\[i\] and .*recurrent_kernel\[f\] are exchanged", guess)


def test_a_gate_with_the_gradient_of_another(monkeypatch):
    plant(
        monkeypatch,
        "kernel",
        lambda g, cell: np.concatenate([blocks(g, 3)[k] for k in (0, 0, 2)], axis=-1),
    )
    report = gradcheck(GRU(3))
    assert failing(report) == {"kernel[r]"}
    assert report.guesses == ("kernel[r]: this is the gradient of kernel[z]",)


def test_both_directions_exchanged(monkeypatch):
    true = Bidirectional.backward

    def wrong(self, dy, cache):
        dx, grads = true(self, dy, cache)
        grads["forward_bias"], grads["backward_bias"] = (
            grads["backward_bias"],
            grads["forward_bias"],
        )
        return dx, grads

    monkeypatch.setattr(Bidirectional, "backward", wrong)
    report = gradcheck(Bidirectional(SimpleRNN(3)))
    assert failing(report) == {"forward_bias", "backward_bias"}
    assert report.guesses == (
        "forward_bias, backward_bias: forward_bias and backward_bias are exchanged",
    )


@pytest.mark.parametrize("layer", [SimpleRNN(3), LSTM(3), GRU(3), GRU(3, reset_after=False)])
def test_the_first_step_missing(monkeypatch, layer):
    plant_in_weight_gradients(monkeypatch, first_step_zero)
    report = gradcheck(layer)
    weights = {row.name for row in report.rows if row.tensor in WEIGHTS}
    assert failing(report) == {"x"} | weights
    assert len(report.guesses) == 1
    assert "first step" in report.guesses[0]


def plant_in_weight_gradients(monkeypatch, change) -> None:
    """`change(x, h_prev, da, du)`, in place, before the gradients of the weights are made."""
    true = Cell.weight_gradients

    def wrong(self, x, h_prev, da, du, saved):
        changed = change(x, h_prev, da, du)
        return true(self, *changed, saved)

    monkeypatch.setattr(Cell, "weight_gradients", wrong)


def first_step_zero(x, h_prev, da, du):
    da[:5] = 0
    du[:5] = 0
    return x, h_prev, da, du


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (SimpleRNN(3), {}),
        (LSTM(3, return_sequences=True), {"mask": mask("holes")}),
        (LSTM(3, recurrent_dropout=0.4), {"training": True}),
        (GRU(3), {"mask": mask("leading")}),
        (Bidirectional(LSTM(3)), {}),
    ],
)
def test_the_state_after_the_step_for_the_one_before(monkeypatch, layer, options):
    seen = {}

    def prepare(cache):
        h = cache.history[0][len(cache.packing.order) :]
        h = h if cache.drop is None else h * cache.drop[cache.packing.ranks]
        seen[id(cache.x)] = h  # both directions of a layer may be on their way at once

    plant_in_run_backward(monkeypatch, prepare)
    monkeypatch.setattr("minirnn.layers.bidirectional.run_backward", recurrent.run_backward)
    plant_in_weight_gradients(monkeypatch, lambda x, h_prev, da, du: (x, seen[id(x)], da, du))
    report = gradcheck(layer, **options)
    assert all("recurrent_kernel" in name for name in failing(report))
    assert len(failing(report)) == sum("recurrent_kernel" in row.name for row in report.rows)
    assert len(report.guesses) == 1
    assert "made with h_t instead of h_{t-1}" in report.guesses[0]


def test_only_one_row_in_the_sum_of_the_bias(monkeypatch):
    true = Cell.weight_gradients

    def wrong(self, x, h_prev, da, du, saved):
        grads, dx = true(self, x, h_prev, da, du, saved)
        return grads | {"bias": da[0]}, dx

    monkeypatch.setattr(Cell, "weight_gradients", wrong)
    report = gradcheck(LSTM(3))
    assert failing(report) == all_gates("bias")
    assert "a sum left out: only one row of the first step counts" in report.guesses[0]
    report = gradcheck(SimpleRNNCell(3))
    assert failing(report) == {"bias"}
    assert report.guesses == ("bias: a sum over the rows left out: only row 0 counts",)


def test_only_the_last_step_in_the_sum(monkeypatch):
    true = Cell.weight_gradients

    def wrong(self, x, h_prev, da, du, saved):
        grads, dx = true(self, x, h_prev, da, du, saved)
        return grads | {"recurrent_kernel": h_prev[-5:].T @ du[-5:]}, dx

    monkeypatch.setattr(Cell, "weight_gradients", wrong)
    report = gradcheck(LSTM(3))
    assert failing(report) == all_gates("recurrent_kernel")
    assert "a sum left out: only the last step counts" in report.guesses[0]


@pytest.mark.parametrize("layer", [SimpleRNN(3), LSTM(3), GRU(3), GRU(3, reset_after=False)])
@pytest.mark.parametrize("options", [{}, {"mask": mask("holes")}, {"mask": mask("trailing")}])
def test_a_backward_pass_in_single_steps_is_no_mistake(monkeypatch, layer, options):
    plant_in_steps_backward(monkeypatch, type(layer.cell), lambda dstate, k, sizes: None)
    gradcheck(layer, **options).raise_on_failure()


@pytest.mark.parametrize("which", ["h", "c"])
def test_a_state_that_is_not_carried(monkeypatch, which):
    def lose(dstate, k, sizes):
        dstate["hc".index(which)][...] = 0

    plant_in_steps_backward(monkeypatch, LSTMCell, lose)
    report = gradcheck(LSTM(3), mask=mask("trailing"))
    assert f"initial {which}" in failing(report)
    assert all_gates("kernel", gates="ifc") <= failing(report)
    assert len(report.guesses) == 1
    assert f"the gradient of {which} is not carried from a step to the one before" in str(report)


def test_the_last_row_of_a_shrinking_batch_lost(monkeypatch):
    def lose(dstate, k, sizes):
        if k > 0 and sizes[k] < sizes[k - 1]:
            for d in dstate:
                d[-1] = 0

    plant_in_steps_backward(monkeypatch, LSTMCell, lose)
    assert gradcheck(LSTM(3)).passed  # no row ends before the others
    report = gradcheck(LSTM(3), mask=mask("trailing"))
    assert {"x", "initial h", "initial c"} | all_gates("kernel") <= failing(report)
    assert len(report.guesses) == 1
    assert "the last of the rows that go on loses the gradient" in report.guesses[0]


def plant_in_dy(monkeypatch, layer_class, change) -> None:
    """`change(dy, cache)` in place of the gradient that reaches the layer."""
    true = layer_class.backward
    monkeypatch.setattr(
        layer_class, "backward", lambda self, dy, cache: true(self, change(dy, cache), cache)
    )


def test_a_direction_that_is_not_reversed(monkeypatch):
    plant_in_dy(
        monkeypatch,
        Bidirectional,
        lambda dy, cache: np.concatenate([dy[..., :3], dy[:, ::-1, 3:]], axis=-1),
    )
    report = gradcheck(Bidirectional(SimpleRNN(3, return_sequences=True)))
    assert failing(report) == {
        "x",
        "initial backward h",
        "backward_kernel",
        "backward_recurrent_kernel",
        "backward_bias",
    }
    assert len(report.guesses) == 1
    assert (
        "backward direction's half of the output's gradient is not turned back" in report.guesses[0]
    )


def test_outputs_of_a_backward_layer_not_turned_back(monkeypatch):
    plant_in_dy(monkeypatch, RNN, lambda dy, cache: dy[:, ::-1])
    report = gradcheck(GRU(3, return_sequences=True, go_backwards=True))
    assert not report.passed
    assert "the gradient of the output is not turned back in time" in report.guesses[0]


@pytest.mark.parametrize("go_backwards", [False, True])
def test_the_gradient_of_a_repeated_output_lost(monkeypatch, go_backwards):
    def only_real(dy, cache):
        packing = cache.loop.packing
        real = np.zeros(packing.shape, bool)
        real.reshape(-1)[packing.gather] = True
        return dy * (real[:, ::-1] if go_backwards else real)[..., None]

    plant_in_dy(monkeypatch, RNN, only_real)
    layer = LSTM(3, return_sequences=True, go_backwards=go_backwards)
    report = gradcheck(layer, mask=mask("holes"))
    assert {"x", "initial h"} | all_gates("kernel", "bias") <= failing(report)
    assert len(report.guesses) == 1
    assert "at masked steps is ignored, although they show an earlier state" in report.guesses[0]


def test_the_gradient_of_a_returned_state_ignored(monkeypatch):
    plant_in_dy(monkeypatch, RNN, lambda dy, cache: (*dy[:2], None))
    report = gradcheck(LSTM(3, return_state=True))
    assert len(report.guesses) == 1
    assert "the gradient of the output final c is ignored" in report.guesses[0]


def plant_in_dx(monkeypatch, change) -> None:
    true = RNN.backward

    def wrong(self, dy, cache):
        (dx, dstate), grads = true(self, dy, cache)
        return change(dx, dstate), grads

    monkeypatch.setattr(RNN, "backward", wrong)


def shifted(dx):
    late = np.zeros_like(dx)
    late[:, 1:] = dx[:, :-1]
    return late


@pytest.mark.parametrize(
    ("change", "guess"),
    [
        (lambda dx, dstate: (dx[:, ::-1], dstate), "x: reversed in time"),
        (lambda dx, dstate: (shifted(dx), dstate), "x: the gradient comes one step too late"),
        (
            lambda dx, dstate: (dx + 1 - xp.sign(abs(dx)), dstate),
            "x: gradient where none belongs, in masked steps",
        ),
        (
            lambda dx, dstate: (dx[[1, 2, 0, 3, 4]], dstate),
            "x: the rows are permuted: row b got the gradient of row [1, 2, 0, 3, 4][b]",
        ),
        (
            lambda dx, dstate: (dx * (np.arange(5) != 3)[:, None, None], dstate),
            "x: no gradient in row 3",
        ),
        (
            lambda dx, dstate: (dx, dstate[::-1]),
            "initial h, initial c: initial h and initial c are exchanged",
        ),
        (
            lambda dx, dstate: (dx, (dstate[0], dstate[1][[0, 2, 4, 3, 1]])),
            "initial c: the rows are permuted: row b got the gradient of row [0, 2, 4, 3, 1][b]",
        ),
    ],
)
def test_wrong_gradients_of_x_and_of_states(monkeypatch, change, guess):
    plant_in_dx(monkeypatch, change)
    report = gradcheck(LSTM(3, return_sequences=True), mask=mask("trailing"))
    assert failing(report) == set(guess.split(":")[0].split(", "))
    assert report.guesses == (guess,)


@pytest.mark.parametrize(("step", "name"), [(0, "first"), (6, "last")])
def test_a_step_of_dx_missing(monkeypatch, step, name):
    plant_in_dx(
        monkeypatch,
        lambda dx, dstate: (dx * (np.arange(7) != step)[:, None], dstate),
    )
    report = gradcheck(LSTM(3))
    assert report.guesses == (f"x: no gradient in the {name} step",)


def test_dropout_forgotten_on_the_way_back(monkeypatch):
    monkeypatch.setattr(Dropout, "backward", lambda self, dy, cache: (dy, {}))
    report = gradcheck(Dropout(0.4), np.ones((3, 5)), training=True)
    assert failing(report) == {"x"}
    assert gradcheck(Dropout(0.4), np.ones((3, 5))).passed  # nothing is dropped outside training


def test_a_mean_left_out_of_a_loss(monkeypatch):
    true = losses.Loss.forward

    def wrong(self, y_true, y_pred, *rest, **options):
        value, dy = true(self, y_true, y_pred, *rest, **options)
        return value, dy * len(y_pred)

    monkeypatch.setattr(losses.Loss, "forward", wrong)
    report = gradcheck(losses.SparseCategoricalCrossentropy(from_logits=True))
    assert report.guesses == (
        "y_pred: 5 times too large (batch): a mean was left out, or a sum done twice",
    )


def test_a_mean_over_all_steps_instead_of_the_real_ones(monkeypatch):
    monkeypatch.setattr(
        GlobalAveragePooling1D,
        "backward",
        lambda self, dy, cache: (np.repeat(dy[:, None], 7, axis=1) / 7, {}),
    )
    assert gradcheck(GlobalAveragePooling1D(), np.ones((5, 7, 2))).passed
    assert failing(gradcheck(GlobalAveragePooling1D(), mask=mask("holes"))) == {"x"}


def test_an_error_inside_a_model_is_found_at_its_layer(monkeypatch):
    true = Dense.backward

    def wrong(self, dy, cache):
        dx, grads = true(self, dy, cache)
        return dx, grads | {"bias": -grads["bias"]}

    monkeypatch.setattr(Dense, "backward", wrong)
    report = gradcheck(classifier(), loss="sparse_categorical_crossentropy")
    assert failing(report) == {"dense_bias"}
    assert report.guesses == ("dense_bias: the sign is wrong",)


def test_gradients_that_cannot_be_compared(monkeypatch):
    true = Dense.backward

    def wrong(self, dy, cache):
        dx, grads = true(self, dy, cache)
        return None, {"bias": grads["bias"][:, None], "beta": dx}

    monkeypatch.setattr(Dense, "backward", wrong)
    report = gradcheck(Dense(3))
    assert {row.name: row.problem for row in report.failures} == {
        "x": "no gradient",
        "kernel": "no gradient",
        "bias": "the gradient has shape (3, 1)",
        "beta": "a gradient for something unknown",
    }
    with pytest.raises(GradientError, match=r"FAIL the gradient has shape \(3, 1\)"):
        report.raise_on_failure()


# ---------------------------------------------------------------- the report


def test_the_text_of_a_report_that_passes():
    report = gradcheck(LSTM(3, return_sequences=True), mask=mask("trailing"), seed=4)
    lines = str(report).splitlines()
    assert lines[0] == "LSTM(units=3, return_sequences=True)"
    assert lines[1:4] == [
        "  x (5, 7, 2), initial h (5, 3), initial c (5, 3)",
        "  mask 1111111 1100000 1111000 1000000 1111110",
        "  seed=4",
    ]
    head = lines[5]
    assert " ".join(head.split()) == "tensor gate shape method error at analytic numeric"
    for name in ("gate", "shape", "method", "error", "at", "analytic", "numeric"):
        column = head.index(f" {name}") + 1
        assert all(line[column - 1] == " " != line[column] for line in lines[9:-2])
    assert lines[-1] == "all blocks pass"
    assert report.raise_on_failure() is report
    assert report.failures == () and report.guesses == ()
    assert report.worst.error == max(row.error for row in report.rows)


def test_the_error_holds_all_that_is_needed_to_see_it_again(monkeypatch):
    def wrong(g, cell):
        g = g.copy()
        g[1, 4] += 0.5
        return g

    plant(monkeypatch, "kernel", wrong)
    report = gradcheck(LSTM(3), mask=mask("holes"), seed=6)
    with pytest.raises(GradientError) as caught:
        report.raise_on_failure()
    message = str(caught.value)
    for part in ("LSTM(units=3)", "x (5, 7, 2)", "mask 1010110 0100011", "seed=6", "kernel[1, 4]"):
        assert part in message
    (row,) = report.failures
    assert row.name == "kernel[f]" and row.index == (1, 4)
    assert row.analytic - row.numeric == pytest.approx(0.5)
    assert "1 of 15 blocks FAIL" in message
    assert report.worst is row
    assert report.summary().startswith("FAIL LSTM(units=3): 15 blocks, worst")
    again = gradcheck(LSTM(3), mask=mask("holes"), seed=6)
    assert again.failures == report.failures


def test_titles_tell_how_to_make_the_thing_again():
    def title(thing, **options):
        return gradcheck(thing, sample=2, **options).title

    assert title(Bidirectional(GRU(3, dropout=0.1), "ave")) == (
        "Bidirectional(layer=GRU(units=3, dropout=0.1), merge_mode='ave')"
    )
    assert title(RNN(LSTMCell(3, activation="relu"))) == (
        "RNN(cell=LSTMCell(units=3, activation='relu'))"
    )
    assert title(Chain(Dense(3), Dropout(0.5))) == "Chain([Dense(units=3), Dropout(rate=0.5)])"
    assert title(losses.BinaryCrossentropy(from_logits=True)) == (
        "BinaryCrossentropy(from_logits=True)"
    )


@pytest.mark.parametrize(
    ("thing", "options", "error", "words"),
    [
        (LSTM, {}, TypeError, "expected a cell, a layer, a model or a loss (an instance"),
        (
            LSTM(3),
            {"method": "exact"},
            ValueError,
            "none called 'exact'. Known: auto, complex, central",
        ),
        (LSTM(3), {"sample": 0}, ValueError, "sample: expected a positive whole number"),
        (LSTM(3), {"y_true": np.ones(3)}, ValueError, "give loss="),
        (LSTM(3), {"initial_state": np.ones((5, 3))}, ValueError, "2 arrays (h, c), received 1"),
        (Dense(3), {"initial_state": np.ones((5, 3))}, ValueError, "has no state"),
        (LSTMCell(3), {"mask": mask("holes")}, ValueError, "gradcheck(RNN(cell), ...)"),
        (OneHot(5), {}, ValueError, "there is nothing to check"),
        (Flatten(), {"mask": mask("holes")}, ValueError, "cannot use one"),
        (
            Activation("softplus"),
            {"method": "complex"},
            ValueError,
            "cannot take complex numbers (TypeError",
        ),
        (
            LSTM(3, return_state=True),
            {"loss": "mse", "y_true": np.ones((5, 3))},
            ValueError,
            "expected a layer with one output",
        ),
        (losses.MeanSquaredError(), {"loss": "mse"}, ValueError, "takes neither"),
    ],
)
def test_wrong_use(thing, options, error, words):
    with pytest.raises(error, match=re.escape(words)):
        gradcheck(thing, **options)


# ---------------------------------------------------------------- any shape, any mask


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_shape_and_any_mask(data):
    batch, time, features, units = (data.draw(st.integers(1, 4)) for _ in range(4))
    steps = data.draw(
        st.lists(
            st.lists(st.booleans(), min_size=time, max_size=time), min_size=batch, max_size=batch
        )
    )
    layer = LSTM(
        units,
        return_sequences=data.draw(st.booleans()),
        return_state=data.draw(st.booleans()),
        go_backwards=data.draw(st.booleans()),
        zero_output_for_mask=data.draw(st.booleans()),
    )
    x = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=(batch, time, features))
    gradcheck(layer, x, mask=np.array(steps, bool), sample=12).raise_on_failure()
