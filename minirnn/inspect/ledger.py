"""What padding costs: steps, multiplications, bytes and seconds spent on steps that are not real.

>>> ledger = padding_ledger([[5, 3], [7], [2, 2, 9, 4], [8]], batch_size=2)
>>> ledger.given.padded, ledger.given.real
(array([4, 8]), array([3, 5]))
>>> print(ledger)
4 rows in 2 batches: 8 of 12 padded steps are real (66.7 %)
way                    steps  in a row
no masking                12         6
where                     12         6
packing                    8         6
bucketing                  8         7
bucketing and packing      8         7

Five ways to treat the same rows, `WAYS`:

    no masking     a recurrent layer computes all padded steps, as if padding were text
    where          it computes all of them, and throws away those that the mask names: the outputs
                   are right, the work is the same
    packing        it computes the real steps only (see minirnn/packing.py)
    bucketing      rows of similar length share a batch, and all its padded steps are computed
    bucketing and packing

The *steps* are those of all rows; *in a row* are those that have to wait for each other, as many as
the longest row of each batch has. A step is real if its token id is not 0.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from minirnn.backend import to_host, xp
from minirnn.base import Layer, RowGradient
from minirnn.batches import batches as batches_of
from minirnn.checks import listed, whole_number
from minirnn.data.dataset import INFINITE, Dataset
from minirnn.layers import RNN
from minirnn.models import Sequential
from minirnn.packing import Mask
from minirnn.text import pad_rows

WAYS = ("no masking", "where", "packing", "bucketing", "bucketing and packing")
PASSES = 3  # products of one size: x W in forward, and dW and dx in backward; with U alike


class LayerCost(NamedTuple):
    """What one step of one row takes in one direction of a recurrent layer.

    multiplications: gates * units * (features + units) in forward; three times that with backward,
        which is what stands here.
    kept: bytes that forward keeps for backward: the input, the gates, the states, and what else
        the cell saves.
    """

    name: str
    features: int
    units: int
    gates: int
    multiplications: int
    kept: int


class Batches(NamedTuple):
    """A way to put the rows into batches; arrays (batches,) int64.

    rows: how many rows. width: padded steps of each row. real: real steps of all rows.
    longest: real steps of the row that has most.
    """

    rows: np.ndarray
    width: np.ndarray
    real: np.ndarray
    longest: np.ndarray

    @property
    def padded(self) -> np.ndarray:
        """All steps of each batch, real or not."""
        return self.rows * self.width


class Work(NamedTuple):
    """What one of the ways takes; arrays (batches,) int64.

    steps: computed, of all rows. in_a_row: those that wait for each other.
    multiplications: of the recurrent layers, forward and backward. kept: bytes, see `LayerCost`.
    """

    steps: np.ndarray
    in_a_row: np.ndarray
    multiplications: np.ndarray
    kept: np.ndarray


@dataclass(frozen=True, eq=False)
class Ledger:
    """What padding costs, batch by batch; `print(ledger)` shows the sums of an epoch.

    Attributes:
        lengths: (rows,) int64, the real steps of each row.
        given: the batches as they came. bucketed: the same rows sorted into buckets.
        batch_size: rows of a full batch.
        boundaries: of the buckets; bucket i holds the lengths from boundaries[i - 1] up to, not
            including, boundaries[i].
        layers: the cost of each recurrent layer, and of each direction of a Bidirectional one.
        seconds: way → (batches,) float64, if they were measured; empty otherwise.
    """

    lengths: np.ndarray
    given: Batches
    bucketed: Batches
    batch_size: int
    boundaries: tuple[int, ...]
    layers: tuple[LayerCost, ...] = ()
    seconds: dict[str, np.ndarray] = field(default_factory=dict)
    ids: tuple[np.ndarray, ...] = field(default=(), repr=False)
    buckets: tuple[np.ndarray, ...] = field(default=(), repr=False)

    def work(self, way: str) -> Work:
        """What one of `WAYS` takes, batch by batch.

        Raises:
            ValueError: for any other way.
        """
        if way not in WAYS:
            raise ValueError(f"way: expected one of {', '.join(WAYS)}; received {way!r}")
        made = self.bucketed if "bucketing" in way else self.given
        packed = "packing" in way
        steps = made.real if packed else made.padded
        return Work(
            steps,
            made.longest if packed else made.width,
            steps * sum(layer.multiplications for layer in self.layers),
            steps * sum(layer.kept for layer in self.layers),
        )

    @property
    def real_share(self) -> float:
        """The share of the padded steps that is real; 1 where there is no step at all."""
        padded = int(self.given.padded.sum())
        return int(self.given.real.sum()) / padded if padded else 1.0

    @property
    def saved(self) -> dict[str, float]:
        """way → the share of the steps that it saves beside no masking."""
        all_steps = max(int(self.given.padded.sum()), 1)
        return {way: 1 - int(self.work(way).steps.sum()) / all_steps for way in WAYS}

    def measure(self, model: Sequential, repeats: int = 3) -> Ledger:
        """The same ledger with the seconds that forward and backward of the model take.

        A copy of the model runs on each batch, without a mask and with one, which this library
        packs; the fastest of the repeats counts. Making the packing counts, too. What padding does
        not change, the loss and the optimizer's step, is left out, and so is dropout. There is no
        `where` to be measured here.

        Args:
            model: a model that is built and takes token ids (or texts, by its vectorizer).

        Raises:
            ValueError: if it is not built, or one of its layers cannot use a mask.
        """
        repeats = whole_number("repeats", repeats)
        body = _without_masks(model)
        rows = [row[row != 0] for x in self.ids for row in x]
        sorted_ids = [pad_rows([rows[i] for i in chosen]) for chosen in self.buckets]
        seconds = {
            "no masking": _times(body, self.ids, False, repeats),
            "packing": _times(body, self.ids, True, repeats),
            "bucketing": _times(body, sorted_ids, False, repeats),
            "bucketing and packing": _times(body, sorted_ids, True, repeats),
        }
        return replace(self, seconds=seconds)

    # -- showing it --

    def __str__(self) -> str:
        padded, real = int(self.given.padded.sum()), int(self.given.real.sum())
        count = len(self.given.rows)
        lines = [
            f"{len(self.lengths):,} rows in {count:,} batch{'es' * (count != 1)}: {real:,} of "
            f"{padded:,} padded steps are real ({100 * self.real_share:.1f} %)"
        ]
        table = [["way", "steps", "in a row"]]
        table[0] += ["multiplications", "largest batch keeps"] if self.layers else []
        table[0] += ["seconds"] if self.seconds else []
        for way in WAYS:
            work = self.work(way)
            row = [way, f"{work.steps.sum():,}", f"{work.in_a_row.sum():,}"]
            if self.layers:
                row += [_millions(work.multiplications.sum()), _bytes(work.kept.max(initial=0))]
            if self.seconds:
                row.append(f"{self.seconds[way].sum():.4f}" if way in self.seconds else "-")
            table.append(row)
        return "\n".join(lines + _columns(table))

    def by_batch(self) -> str:
        """A table of the batches as they came."""
        table = [["batch", "rows", "width", "padded", "real", "real %"]]
        for i, (rows, width, real, _) in enumerate(zip(*self.given, strict=True)):
            share = f"{100 * real / max(rows * width, 1):.1f}"
            table.append([str(i), *(f"{n:,}" for n in (rows, width, rows * width, real)), share])
        return "\n".join(_columns(table))


def padding_ledger(
    data: Any,
    model: Sequential | None = None,
    batch_size: int | None = None,
    boundaries: Sequence[int] | None = None,
    measured: bool = False,
) -> Ledger:
    """Count what padding costs on these rows.

    Args:
        data: what `fit` takes, without labels: lists of token ids of differing length, an array
            (rows, time) of ids with 0 for padding, texts for a model with a TextVectorization
            layer, or a data set of batches: ids, or `(ids, y)`. The rows stay in their order.
        model: a model that is built, for multiplications and bytes; without one steps are counted.
        batch_size: rows of a batch, 32 if not given; a data set brings its own.
        boundaries: of the buckets, rising; if not given, a quarter of the rows goes to each of
            four.
        measured: measure seconds, too; see `Ledger.measure`.

    Raises:
        ValueError: for data that holds no token ids, no row, or no end; for boundaries that do not
            rise; for a model that is not built; if seconds are wanted without a model.
    """
    if measured and model is None:
        raise ValueError("measured: seconds need a model; received model=None")
    if callable(getattr(data, "cardinality", None)) and data.cardinality() == INFINITE:
        raise ValueError("data: expected a data set that ends; bound it with take(n)")
    layers = () if model is None else recurrent_costs(model)
    if isinstance(data, (list, tuple)):  # NumPy takes [] for an array of floats
        data = [np.zeros(0, np.int64) if _no_step(row) else row for row in data]
    made = batches_of(data, batch_size=batch_size, vectorizer=getattr(model, "vectorizer", None))
    ids = tuple(_checked(x) for x, _, _ in made)
    real = [(x != 0).sum(axis=1) for x in ids]
    lengths = np.concatenate(real).astype(np.int64)
    given = _batches([x.shape[1] for x in ids], real)
    if batch_size is None:
        batch_size = getattr(made, "batch_size", None) or max(len(x) for x in ids)
    cuts = quarters(lengths) if boundaries is None else _rising(boundaries)
    buckets = tuple(
        Dataset.from_rows(range(len(lengths))).bucket_by_sequence_length(
            lambda row: int(lengths[row]), cuts, [batch_size] * (len(cuts) + 1)
        )
    )
    in_bucket = [lengths[chosen] for chosen in buckets]
    bucketed = _batches([int(n.max()) for n in in_bucket], in_bucket)
    ledger = Ledger(
        lengths, given, bucketed, batch_size, tuple(cuts), layers, ids=ids, buckets=buckets
    )
    return ledger.measure(model) if measured else ledger


def recurrent_costs(model: Layer) -> tuple[LayerCost, ...]:
    """What one step takes in each recurrent layer of a built model, both directions apart."""
    model.require_built()
    found = []
    for name, layer in _walk(model.name, model):
        if not isinstance(layer, RNN):
            continue
        cell, kernel = layer.cell, layer.cell.params["kernel"]
        features, gates = kernel.shape[-2], len(cell.gates)
        forward = gates * cell.units * (features + cell.units)
        numbers = features + (gates + len(cell.state_names)) * cell.units + sum(cell.saved_sizes())
        found.append(
            LayerCost(
                name,
                features,
                cell.units,
                gates,
                PASSES * forward,
                numbers * kernel.dtype.itemsize,
            )
        )
    return tuple(found)


def quarters(lengths: np.ndarray) -> list[int]:
    """Boundaries that put about a quarter of the rows into each bucket; fewer where lengths tie."""
    cuts = np.quantile(lengths, [0.25, 0.5, 0.75], method="higher") + 1
    return np.unique(cuts).astype(int).tolist()


# --- counting -------------------------------------------------------------------------------------


def _no_step(row: Any) -> bool:
    return not isinstance(row, (str, bytes)) and hasattr(row, "__len__") and len(row) == 0


def _checked(x: Any) -> np.ndarray:
    x = np.asarray(to_host(x)) if hasattr(x, "shape") else x
    if getattr(x, "ndim", 0) != 2 or x.dtype.kind not in "iu":
        what = f"{x.dtype} of shape {x.shape}" if hasattr(x, "shape") else repr(x)[:60]
        raise ValueError(
            "data: expected token ids (batch, time), whole numbers with 0 for padding; received "
            f"{what}"
        )
    return x


def _batches(widths: list[int], lengths: list[np.ndarray]) -> Batches:
    columns = (
        [len(n) for n in lengths],
        widths,
        [n.sum() for n in lengths],
        [n.max(initial=0) for n in lengths],
    )
    return Batches(*(np.array(column, dtype=np.int64) for column in columns))


def _rising(boundaries: Sequence[int]) -> list[int]:
    cuts = [whole_number("boundaries", cut) for cut in listed("boundaries", boundaries)]
    if cuts != sorted(set(cuts)):
        raise ValueError(f"boundaries: expected rising numbers, received {cuts}")
    return cuts


def _walk(name: str, layer: Layer) -> Iterator[tuple[str, Layer]]:
    """The layer and all inside it, each under its name; that of a copy in Bidirectional tells the
    direction."""
    yield name, layer
    for key, child in layer.children().items():
        own = f"{name} {key}".strip() if key in ("forward", "backward") else child.name
        yield from _walk(own, child)


# --- measuring ------------------------------------------------------------------------------------


def _without_masks(model: Sequential) -> Sequential:
    """A copy of the layers that take token ids, none of which makes a mask of its own."""
    model.require_built()
    body = Sequential(copy.deepcopy(model.without_vectorizer().layers))
    for _, layer in _walk("", body):
        if hasattr(layer, "mask_zero"):
            layer.mask_zero = False
    return body


def _times(
    body: Sequential, batches: Sequence[np.ndarray], packed: bool, repeats: int
) -> np.ndarray:
    def step(x: np.ndarray) -> None:
        body.reset_state()
        y, caches, _ = body.walk(x, Mask(x != 0) if packed else None)
        _, grads = body.backward(xp.ones(y.shape, y.dtype), caches)
        last = list(grads.values())[-1]
        to_host(last.rows if isinstance(last, RowGradient) else last)  # waits for a GPU

    return np.array([min(_seconds(step, x) for _ in range(repeats)) for x in batches])


def _seconds(step: Callable[[np.ndarray], None], x: np.ndarray) -> float:
    begun = time.perf_counter()
    step(x)
    return time.perf_counter() - begun


# --- text -----------------------------------------------------------------------------------------


def _columns(table: list[list[str]]) -> list[str]:
    widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))]
    return [
        "  ".join(
            cell.rjust(width) if k else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f} M"


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.2f} MB" if count >= 1e5 else f"{count / 1e3:,.2f} kB"
