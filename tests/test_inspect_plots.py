"""The plots: what is drawn, what stands on the axes, and that nothing else is touched."""

from __future__ import annotations

import builtins
import io
import sys

import numpy as np
import pytest

from minirnn import Sequential
from minirnn.callbacks import History
from minirnn.inspect import padding_ledger, plots
from minirnn.inspect.ledger import WAYS
from minirnn.layers import Dense, Embedding, SimpleRNN
from minirnn.metrics import confusion_matrix

pytest.importorskip("matplotlib", reason='plots need matplotlib: pip install "minirnn[plots]"')

from matplotlib.colors import to_rgb  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

T, U = 7, 5
TOKENS = ["oil", "costs", "$5", "again", "says", "the", "bank"]
RNG = np.random.default_rng(0)
GATES = {"f": RNG.random((T, U)), "c": np.tanh(RNG.normal(size=(T, U)))}
NORMS = {
    name: (np.arange(20), rate ** np.arange(20.0))
    for name, rate in (("SimpleRNN", 0.5), ("LSTM", 0.97), ("GRU", 0.9))
}
CURVES = {"loss": [1.2, 0.8, 0.5], "acc": [0.3, 0.6, 0.7], "val_loss": [1.1, 0.9, 1.0]}
ROWS = [[4, 2, 7], [1], [3, 3, 5, 6, 2], [8, 1], [9, 9, 4, 1]]

DRAWN = {
    "gate_heatmap": lambda **o: plots.gate_heatmap(GATES, TOKENS, **o),
    "state_trajectories": lambda **o: plots.state_trajectories(GATES["c"], TOKENS, **o),
    "gradient_norms": lambda **o: plots.gradient_norms(NORMS, **o),
    "training_curves": lambda **o: plots.training_curves(CURVES, **o),
    "confusion": lambda **o: plots.confusion([[3, 1], [0, 5]], ["left", "right"], **o),
    "padding_saved": lambda **o: plots.padding_saved(padding_ledger(ROWS, batch_size=2), **o),
}
EVERY = pytest.mark.parametrize("name", DRAWN)


def png(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def texts(axes):
    return [text.get_text() for text in axes.texts]


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


# ---------------------------------------------------------------- all of them


@EVERY
def test_each_gives_a_figure_with_every_axis_labelled(name):
    figure = DRAWN[name]()
    assert isinstance(figure, Figure)
    assert png(figure).startswith(b"\x89PNG")
    for axes in figure.axes:
        shared = name == "gate_heatmap"  # the lowest panel tells the steps of all
        assert axes.get_ylabel()
        assert axes.get_xlabel() or shared or axes.get_label() == "<colorbar>"


@EVERY
def test_no_window_and_no_global_state(name, monkeypatch):
    for module in [key for key in sys.modules if key.startswith("matplotlib.pyplot")]:
        monkeypatch.delitem(sys.modules, module)
    png(DRAWN[name]())
    assert "matplotlib.pyplot" not in sys.modules


@EVERY
def test_into_a_part_of_a_figure(name):
    whole = Figure(figsize=(12, 8), layout="constrained")
    left, right = whole.subfigures(1, 2)
    assert DRAWN[name](figure=left) is left
    assert left.axes and not right.axes
    png(whole)


@EVERY
def test_without_matplotlib_the_error_names_the_extra(name, monkeypatch):
    plain = builtins.__import__

    def without(module, *rest, **options):
        if module.startswith("matplotlib"):
            raise ImportError(f"No module named {module!r}")
        return plain(module, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "minirnn\[plots\]"'):
        DRAWN[name]()


def test_colours_are_told_apart_by_brightness_or_style():
    assert len(set(plots.COLOURS)) == len(set(plots.STYLES)) == len(set(plots.MARKERS)) == 6
    assert all(to_rgb(colour) for colour in plots.COLOURS)


# ---------------------------------------------------------------- one by one


def test_gate_heatmap():
    figure = plots.gate_heatmap(GATES, TOKENS)
    f, c = (axes for axes in figure.axes if axes.get_label() != "<colorbar>")
    assert [axes.get_title(loc="left") for axes in (f, c)] == ["gate f", "gate c"]
    assert f.images[0].get_array().shape == (U, T)
    np.testing.assert_allclose(c.images[0].get_array(), GATES["c"].T)
    assert f.images[0].get_clim() == (0, 1) and c.images[0].get_clim() == (-1, 1)
    assert len(f.texts) == T * U
    assert texts(c)[1] == f"{GATES['c'][1, 0]:.1f}"
    assert ticks(c.xaxis) == [f"{t} {w}" for t, w in enumerate(TOKENS)][:2] + [
        r"2 \$5",
        "3 again",
        "4 says",
        "5 the",
        "6 bank",
    ]
    assert c.get_xlabel() == "step (number and token)"


def test_a_large_heatmap_holds_no_numbers_and_few_tokens():
    figure = plots.gate_heatmap({"h": 3 * RNG.random((100, 40))}, ["word"] * 100)
    axes, _ = figure.axes
    assert not axes.texts and len(axes.get_xticks()) <= plots.MOST_TICKS
    assert axes.images[0].get_clim()[1] > 2
    assert (figure.get_size_inches() < 15).all()
    assert plots.gate_heatmap({"h": RNG.random((100, 4))}).axes[0].get_xlabel() == "step (number)"


def test_state_trajectories():
    states = RNG.normal(size=(T, 9)) * np.arange(1, 10)
    lines, plane = plots.state_trajectories(states, TOKENS).axes
    named = [line for line in lines.lines if not line.get_label().startswith("_")]
    assert len(lines.lines) == 9 and len(named) == plots.MOST_NAMED
    moved = np.argsort(np.ptp(states, axis=0))[-plots.MOST_NAMED :]
    assert {line.get_label() for line in named} == {f"unit {unit}" for unit in moved}
    assert len({line.get_marker() for line in named}) == len(named)
    assert "the other 3" in lines.get_title(loc="left")
    assert set(texts(plane)) <= {str(t) for t in range(T)} and len(plane.texts) >= 2
    assert plane.get_xlabel().endswith("% of the variance)")
    np.testing.assert_array_equal(plane.collections[0].get_offsets(), plots.project(states)[0])


def test_the_projection_keeps_distances_in_a_plane():
    flat = RNG.normal(size=(6, 2)) @ np.linalg.qr(RNG.normal(size=(5, 2)))[0].T + 3
    points, shares = plots.project(flat)
    before = np.linalg.norm(flat[:, None] - flat, axis=-1)
    after = np.linalg.norm(points[:, None] - points, axis=-1)
    np.testing.assert_allclose(before, after, atol=1e-12)
    assert shares.sum() == pytest.approx(1)


@pytest.mark.parametrize("shape", [(1, 3), (4, 1), (1, 1)])
def test_states_too_few_for_a_plane(shape):
    for states in (np.ones(shape), RNG.normal(size=shape)):
        assert png(plots.state_trajectories(states))


def test_gradient_norms():
    (axes,) = plots.gradient_norms(NORMS).axes
    assert axes.get_yscale() == "log"
    assert [line.get_label() for line in axes.lines] == list(NORMS)
    assert len({line.get_linestyle() for line in axes.lines}) == 3
    assert "steps" in axes.get_xlabel() and "gradient" in axes.get_ylabel()


def test_a_norm_of_zero_leaves_a_gap():
    (axes,) = plots.gradient_norms({"SimpleRNN": ([0, 1, 2], [1, 0, 1e-9])}).axes
    assert np.isnan(axes.lines[0].get_ydata()).tolist() == [False, True, False]


def test_training_curves():
    loss, acc = plots.training_curves(CURVES).axes
    assert [line.get_label() for line in loss.lines] == ["training", "validation"]
    assert [line.get_linestyle() for line in loss.lines] == ["-", "--"]
    assert [line.get_label() for line in acc.lines] == ["training"]
    assert loss.get_title(loc="left") == "loss" and acc.get_title(loc="left") == "acc"
    assert loss.get_xlabel() == "epoch (number)"
    np.testing.assert_array_equal(loss.lines[1].get_xdata(), [1, 2, 3])


def test_training_curves_of_a_history():
    model = Sequential([Embedding(5, 2), SimpleRNN(2), Dense(2, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", ["acc"])
    x, y = RNG.integers(0, 5, (8, 3)), RNG.integers(0, 2, 8)
    history = model.fit(x, y, epochs=5, initial_epoch=3, verbose=0, validation_data=(x, y))
    assert isinstance(history, History)
    loss, acc = plots.training_curves(history).axes
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), history.history["loss"])
    np.testing.assert_array_equal(acc.lines[1].get_ydata(), history.history["val_acc"])
    np.testing.assert_array_equal(acc.lines[0].get_xdata(), [4, 5])


def test_confusion():
    matrix = confusion_matrix([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 1, 0], classes=4)
    axes, bar = plots.confusion(matrix, ["World", "Sports", "Business", "Sci/Tech"]).axes
    assert ticks(axes.xaxis) == ticks(axes.yaxis) == ["World", "Sports", "Business", "Sci/Tech"]
    assert texts(axes)[:4] == ["2\n67 %", "1\n33 %", "0\n0 %", "0\n0 %"]
    np.testing.assert_allclose(axes.images[0].get_array()[0], [2 / 3, 1 / 3, 0, 0])
    assert axes.get_ylabel() == "true class" and axes.get_xlabel().startswith("class predicted")
    assert "share" in bar.get_ylabel()
    assert ticks(plots.confusion(matrix).axes[0].xaxis) == ["0", "1", "2", "3"]


def test_padding_saved():
    ledger = padding_ledger(ROWS, batch_size=2, boundaries=[3])
    rows, ways = plots.padding_saved(ledger).axes
    assert sum(patch.get_height() for patch in rows.patches) == len(ROWS)
    assert [line.get_xdata()[0] for line in rows.lines] == [2.5]
    assert ticks(ways.yaxis) == list(WAYS)
    ends = {
        patch.get_y(): patch.get_x() + patch.get_width() for patch in ways.patches
    }  # the later bar, of padding, ends where the whole does
    assert list(ends.values()) == [int(ledger.work(way).steps.sum()) for way in WAYS]
    assert texts(ways)[2] == f"{100 * ledger.saved['packing']:.0f} % saved"
    assert {patch.get_hatch() for patch in ways.patches} == {None, "///"}


def test_padding_saved_where_bucketing_costs_more():
    worse = padding_ledger([[1], [1, 1], [1] * 5], batch_size=2, boundaries=[2])
    _, ways = plots.padding_saved(worse).axes
    assert texts(ways) == ["0 % saved", "0 % saved", "11 % saved", "22 % more", "11 % saved"]


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: plots.gate_heatmap({}), r"gates: expected arrays of one shape.*none"),
        (
            lambda: plots.gate_heatmap({"f": np.ones((2, 3)), "i": np.ones((3, 3))}),
            "gates: expected arrays of one shape",
        ),
        (lambda: plots.gate_heatmap({"f": np.ones(3)}), r"gates\['f'\].*shape \(3,\)"),
        (lambda: plots.gate_heatmap(GATES, ["oil"]), "tokens: expected one for each of the 7"),
        (lambda: plots.state_trajectories(np.ones((0, 3))), "states: expected numbers"),
        (lambda: plots.state_trajectories([["a"]]), "states: expected numbers"),
        (lambda: plots.gradient_norms({}), "norms: expected at least one"),
        (lambda: plots.gradient_norms({"GRU": ([1, 2], [1.0])}), r"norms\['GRU'\]: expected"),
        (lambda: plots.gradient_norms({"GRU": ([1], [-1.0])}), "the smallest -1"),
        (lambda: plots.training_curves({}), "history: expected at least one epoch"),
        (lambda: plots.training_curves(History()), "history: expected at least one epoch"),
        (lambda: plots.confusion(np.ones((2, 3))), "expected a square matrix"),
        (lambda: plots.confusion(np.ones((2, 2)), ["one"]), "and 1 names"),
    ],
)
def test_wrong_use(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()
