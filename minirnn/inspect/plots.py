"""Pictures of what a network did: gates, states, gradients, training, errors and padding.

    figure = training_curves(model.fit(x, y, epochs=5))
    figure.savefig("training.png")

They need matplotlib (`pip install "minirnn[plots]"`). All take plain arrays, or the `History` and
`Ledger` of this library, and return a matplotlib `Figure`; no window is opened and no global state
touched. A notebook shows it, `savefig` writes it. `figure=` draws into one that there is already,
or into a part of it, a `SubFigure`.

Colours are those of Okabe and Ito (2008) and the colour map cividis, which most people tell apart;
nothing hangs on colour alone: lines differ in style and marker, bars in hatching, and cells of a
table hold their numbers where there is room.

Legend: T steps, U units, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minirnn.backend import Array, to_host
from minirnn.callbacks import History
from minirnn.inspect.ledger import WAYS, Ledger

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PINK, SKY, RED = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00",
)  # fmt: skip
COLOURS = (BLUE, RED, GREEN, PINK, ORANGE, SKY)
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY = "#777777"

MOST_NAMED = 6  # units that are drawn as lines of their own
MOST_NUMBERS = 160  # cells of a heat map that hold their numbers
MOST_TICKS = 30  # tokens that are written under an axis
NEAR = 0.06  # of the width of a plot: points nearer than that to one with a number get none


# --- inside a cell --------------------------------------------------------------------------------


def gate_heatmap(
    gates: Mapping[str, Array], tokens: Sequence[Any] | None = None, figure: Any = None
) -> Figure:
    """How far each gate was open, step by step and unit by unit: one panel a gate.

    Args:
        gates: name → (T, U) floats; what reaches below 0, such as LSTM's candidate, is drawn on a
            scale from -1 to 1, all else from 0 to 1 (or further, as far as it goes).
        tokens: T words (or ids) to write under the steps; numbers from 0 if None.

    Raises:
        ValueError: if there is no gate, or shapes or the number of tokens do not fit.
        ImportError: without matplotlib.
    """
    arrays = {name: _matrix(f"gates[{name!r}]", a, "(T, U)") for name, a in gates.items()}
    shapes = {a.shape for a in arrays.values()}
    if len(shapes) != 1:
        raise ValueError(
            f"gates: expected arrays of one shape (T, U), at least one; received {shapes or 'none'}"
        )
    ((T, U),) = shapes
    tokens = _tokens(tokens, T)
    wide, high = min(max(5.0, 0.55 * T + 2), 14.0), min(max(1.3, 0.22 * U + 0.4), 2.8)
    size = (wide, 1.0 + len(arrays) * high)
    figure = _figure(figure, size)
    panels = figure.subplots(len(arrays), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, array) in zip(panels, arrays.items(), strict=True):
        high = max(1.0, float(abs(array).max()))
        low = -high if array.min() < 0 else 0.0
        image = axes.imshow(array.T, cmap="cividis", vmin=low, vmax=high, aspect="auto")
        meaning = "0 closed, 1 open" if (low, high) == (0, 1) else "value"
        figure.colorbar(image, ax=axes, label=meaning, ticks=[low, (low + high) / 2, high])
        axes.set_title(f"gate {name}", loc="left", fontsize="medium")
        _whole_ticks(axes.yaxis)
        axes.set_ylabel("unit (number)")
        if array.size <= MOST_NUMBERS:
            _numbers(axes, array.T, (array.T - low) / (high - low))
    _label_steps(panels[-1], tokens)
    return figure


def state_trajectories(
    states: Array, tokens: Sequence[Any] | None = None, figure: Any = None
) -> Figure:
    """The way of a state through time: its units as lines, and all of them as a path in the plane.

    On the left the six units that move most have lines of their own, the others are grey. On the
    right the states are projected on the two directions in which they differ most (the first two
    right singular vectors of the centred states); the numbers are those of the steps, left out
    where points are too close together.

    Args:
        states: (T, U) floats, the state after each step.
        tokens: T words (or ids); numbers from 0 if None.

    Raises:
        ValueError: if the shape or the number of tokens does not fit.
        ImportError: without matplotlib.
    """
    states = _matrix("states", states, "(T, U)")
    T, U = states.shape
    tokens = _tokens(tokens, T)
    figure = _figure(figure, (12, 4.6))
    lines, plane = figure.subplots(1, 2, width_ratios=(3, 2))

    moved = np.argsort(np.ptp(states, axis=0), kind="stable")[::-1]
    named = np.sort(moved[:MOST_NAMED])
    for unit in np.sort(moved[MOST_NAMED:]):
        lines.plot(states[:, unit], color="#bbbbbb", linewidth=0.8, zorder=1)
    for k, unit in enumerate(named):
        style = {"color": COLOURS[k], "linestyle": STYLES[k], "marker": MARKERS[k]}
        every = max(1, T // 20)
        lines.plot(states[:, unit], **style, markersize=4, markevery=every, label=f"unit {unit}")
    others = f" (grey: the other {U - len(named)})" if len(named) < U else ""
    lines.set_title(f"the units{others}", loc="left", fontsize="medium")
    lines.set_ylabel("state (no unit)")
    lines.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    _label_steps(lines, tokens)

    path, shares = project(states)
    plane.plot(*path.T, color=GREY, linewidth=0.8, zorder=1)
    plane.scatter(*path.T, c=np.arange(T), cmap="cividis", edgecolors="black", zorder=2)
    for t in _apart(path):
        plane.annotate(str(t), path[t], (5, 4), textcoords="offset points", fontsize="small")
    plane.margins(0.1)
    plane.set_title("all units, projected", loc="left", fontsize="medium")
    for k, set_label in enumerate((plane.set_xlabel, plane.set_ylabel)):
        set_label(f"direction {k + 1} ({100 * shares[k]:.0f} % of the variance)")
    return figure


def project(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(points, shares)`: states (T, U) in the plane in which they differ most, (T, 2), and the
    share of the variance on each of the two axes, (2,)."""
    centred = states - states.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    points, shares = np.zeros((len(states), 2)), np.zeros(2)
    k = min(2, len(sizes))
    points[:, :k] = left[:, :k] * sizes[:k]
    shares[:k] = sizes[:k] ** 2 / max(float((sizes**2).sum()), 1e-30)
    return points, shares


def gradient_norms(norms: Mapping[str, tuple[Array, Array]], figure: Any = None) -> Figure:
    """How the gradient shrinks, or grows, with the distance that it has gone back in time.

    Args:
        norms: name → (distances, norms), (n,) each: how many steps back, and the norm of the
            gradient there. A norm of 0 leaves a gap: the axis is logarithmic.

    Raises:
        ValueError: if there is nothing to draw, lengths differ, or a norm is negative.
        ImportError: without matplotlib.
    """
    if not norms:
        raise ValueError("norms: expected at least one name → (distances, norms); received none")
    axes = (figure := _figure(figure, (6.4, 4.2))).subplots()
    for k, (name, (distances, values)) in enumerate(norms.items()):
        distances, values = np.asarray(to_host(distances)), np.asarray(to_host(values), float)
        if distances.ndim != 1 or distances.shape != values.shape or (values < 0).any():
            raise ValueError(
                f"norms[{name!r}]: expected distances and norms from 0 up, one shape (n,); "
                f"received {distances.shape} and {values.shape}"
                + (f", the smallest {values.min():.3g}" if values.size else "")
            )
        style = {"color": COLOURS[k % 6], "linestyle": STYLES[k % 6], "marker": MARKERS[k % 6]}
        every = max(1, len(values) // 12)
        shown = np.where(values > 0, values, np.nan)
        axes.plot(distances, shown, **style, markersize=5, markevery=every, label=name)
    axes.set_yscale("log")
    axes.set_xlabel("distance from the loss (steps back in time)")
    axes.set_ylabel("norm of the gradient (log scale)")
    axes.grid(True, which="major", color="#dddddd")
    axes.legend()
    return figure


# --- training -------------------------------------------------------------------------------------


def training_curves(history: History | Mapping[str, Sequence[float]], figure: Any = None) -> Figure:
    """Loss and metrics, epoch by epoch: a panel each, training solid and validation dashed.

    Args:
        history: what `fit` returned, or its `history`: name → one figure per epoch.

    Raises:
        ValueError: if there is no epoch.
        ImportError: without matplotlib.
    """
    figures = getattr(history, "history", history)
    count = max(map(len, figures.values()), default=0)
    if not count:
        raise ValueError("history: expected at least one epoch; received none")
    first = history.epoch[0] if isinstance(history, History) else 0
    epochs = np.arange(first + 1, first + 1 + count)
    names = list(dict.fromkeys(name.removeprefix("val_") for name in figures))
    figure = _figure(figure, (4.8 * len(names), 3.6))
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for key, label, style in (
            (name, "training", {"color": BLUE, "linestyle": "-", "marker": "o"}),
            (f"val_{name}", "validation", {"color": RED, "linestyle": "--", "marker": "s"}),
        ):
            if key in figures:
                values = list(figures[key])
                axes.plot(epochs[: len(values)], values, **style, markersize=4, label=label)
        axes.set_title(name, loc="left", fontsize="medium")
        axes.set_xlabel("epoch (number)")
        axes.set_ylabel(f"{name} (mean over the samples)")
        axes.grid(True, color="#dddddd")
        _whole_ticks(axes.xaxis)
        axes.legend()
    return figure


def confusion(matrix: Array, names: Sequence[str] | None = None, figure: Any = None) -> Figure:
    """How often each class was taken for each class: counts, and shares of the true class.

    Args:
        matrix: (C, C) counts, a row for each true class; see `minirnn.metrics.confusion_matrix`.
        names: C names of classes; numbers from 0 if None.

    Raises:
        ValueError: if the matrix is not square, or the number of names does not fit.
        ImportError: without matplotlib.
    """
    matrix = _matrix("matrix", matrix, "(C, C)")
    C = len(matrix)
    names = [str(i) for i in range(C)] if names is None else [str(name) for name in names]
    if matrix.shape != (C, C) or len(names) != C:
        raise ValueError(
            "matrix, names: expected a square matrix and a name for each of its rows; received "
            f"shape {matrix.shape} and {len(names)} names"
        )
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes = (figure := _figure(figure, (2.6 + 0.9 * C, 1.8 + 0.75 * C))).subplots()
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the rows of the true class (0 to 1)")
    for (i, j), count in np.ndenumerate(matrix):
        colour = "black" if shares[i, j] > 0.5 else "white"
        text = f"{count:,.0f}\n{100 * shares[i, j]:.0f} %"
        axes.text(j, i, text, ha="center", va="center", color=colour, fontsize="small")
    axes.set_xticks(range(C), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(C), names)
    axes.set_xlabel("class predicted (in each cell: rows of data)")
    axes.set_ylabel("true class")
    return figure


# --- padding --------------------------------------------------------------------------------------


def padding_saved(ledger: Ledger, figure: Any = None) -> Figure:
    """How long the rows are and where the buckets end; and what each way computes of padding.

    Args:
        ledger: of `padding_ledger`.

    Raises:
        ImportError: without matplotlib.
    """
    figure = _figure(figure, (11, 3.8))
    rows, ways = figure.subplots(1, 2)
    shortest, longest = int(ledger.lengths.min()), int(ledger.lengths.max())
    width = 1 + (longest - shortest) // 40
    edges = np.arange(shortest - 0.5, longest + width + 0.5, width)
    rows.hist(ledger.lengths, bins=edges, color=SKY, edgecolor="white")
    for boundary in ledger.boundaries:
        line = rows.axvline(boundary - 0.5, color=RED, linestyle="--")
        line.set_label("buckets end here" if boundary == ledger.boundaries[0] else "_")
    rows.set_xlabel("length (real steps of a row)")
    rows.set_ylabel("how many (rows)")
    rows.set_title("the rows", loc="left", fontsize="medium")
    rows.margins(y=0.2)
    rows.legend(loc="upper right")
    _whole_ticks(rows.xaxis)
    _whole_ticks(rows.yaxis)

    real = int(ledger.given.real.sum())
    steps = np.array([int(ledger.work(way).steps.sum()) for way in WAYS])
    ways.barh(range(len(WAYS)), real, color=BLUE, label="real steps")
    hatched = {"color": "white", "edgecolor": RED, "hatch": "///", "label": "padding"}
    wasted = np.flatnonzero(steps > real)
    ways.barh(wasted, steps[wasted] - real, left=real, **hatched)
    for place, share in enumerate(ledger.saved.values()):
        text = f"{abs(100 * share):.0f} % {'more' if share < 0 else 'saved'}"
        ways.annotate(text, (steps[place], place), (5, 0), textcoords="offset points", va="center")
    ways.set_yticks(range(len(WAYS)), WAYS)
    ways.xaxis.set_major_formatter("{x:,.0f}")
    ways.invert_yaxis()
    ways.set_xlim(0, 1.25 * max(steps.max(), 1))
    ways.set_xlabel("computed in an epoch (steps of all rows)")
    _whole_ticks(ways.xaxis, 5)
    ways.set_ylabel("way to treat padding")
    ways.set_title("the work", loc="left", fontsize="medium")
    figure.legend(*ways.get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return figure


# --- what they share ------------------------------------------------------------------------------


def _figure(given: Any, size: tuple[float, float]) -> Figure:
    """The figure given, or a new one of this size in inches that belongs to no window."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'minirnn.inspect.plots needs matplotlib: pip install "minirnn[plots]"'
        ) from error
    return Figure(figsize=size, layout="constrained") if given is None else given


def _matrix(name: str, array: Any, shape: str) -> np.ndarray:
    array = np.asarray(to_host(array))
    if array.ndim != 2 or not array.size or array.dtype.kind not in "iufb":
        raise ValueError(
            f"{name}: expected numbers of shape {shape}, none of them 0; received {array.dtype} of "
            f"shape {array.shape}"
        )
    return array.astype(float)


def _tokens(tokens: Sequence[Any] | None, steps: int) -> list[str]:
    written = [str(t) for t in (range(steps) if tokens is None else tokens)]
    if len(written) != steps:
        raise ValueError(f"tokens: expected one for each of the {steps} steps, got {len(written)}")
    return [token.replace("$", r"\$") for token in written]  # $ begins a formula


def _label_steps(axes: Axes, tokens: list[str]) -> None:
    """The tokens under the steps, or every so many of them."""
    if tokens == [str(t) for t in range(len(tokens))]:
        _whole_ticks(axes.xaxis)
        axes.set_xlabel("step (number)")
        return
    places = range(0, len(tokens), -(-len(tokens) // MOST_TICKS))
    labels = [f"{t} {tokens[t]}" for t in places]
    axes.set_xticks(places, labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_xlabel("step (number and token)")


def _apart(points: np.ndarray) -> list[int]:
    """The first point, the last one, and what others are far enough from those chosen before."""
    scaled = (points - points.min(axis=0)) / np.maximum(np.ptp(points, axis=0), 1e-30)
    chosen = sorted({0, len(points) - 1})
    for t in range(len(points)):
        if np.abs(scaled[chosen] - scaled[t]).max(axis=1).min() > NEAR:
            chosen.append(t)
    return chosen


def _whole_ticks(axis: Any, most: int | str = "auto") -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=most, integer=True, min_n_ticks=1))


def _numbers(axes: Axes, values: np.ndarray, brightness: np.ndarray) -> None:
    """Each cell's number, in black on bright cells and in white on dark ones."""
    for (i, j), value in np.ndenumerate(values):
        colour = "black" if brightness[i, j] > 0.5 else "white"
        axes.text(j, i, f"{value:.1f}", ha="center", va="center", color=colour, fontsize="x-small")
