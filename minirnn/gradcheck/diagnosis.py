"""From wrong gradients to a guess at the cause.

Each hypothesis says: "had the backward pass this error, the gradient would be that". Those whose
gradient is the one at hand (to the same tolerance at which it would have passed) fit a block. The
guesses are the fewest hypotheses that together fit as many failing blocks as possible. There are
three kinds:

    of the block      zero, sign, factor, transposed, steps shifted, another block's gradient, ...
    of the upstream   the backward pass did not see the whole gradient of the output, or turned it
                      wrongly in time; gradients are linear in it, so each is one more product
    of the path       a part of the chain rule is missing inside a recurrence (cuts.py)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from minirnn.backend import to_host
from minirnn.cells import Cell
from minirnn.gradcheck.cuts import cut_cells, cuts
from minirnn.gradcheck.evidence import Block, Evidence, part
from minirnn.gradcheck.numeric import differentiate
from minirnn.gradcheck.subject import Subject
from minirnn.layers import RNN, Bidirectional

ELEMENTS = 3  # of a block, so many where it is most wrong and so many others test a hypothesis


def guesses(evidence: Evidence, failed: list[Block]) -> tuple[str, ...]:
    """Sentences, each with the blocks that it explains; the ones that explain most come first."""
    if not failed:
        return ()
    fitting: dict[str, set[Block]] = {}
    for block in failed:
        for sentence in block_hypotheses(evidence, block):
            fitting.setdefault(sentence, set()).add(block)
    comparable = [block for block in failed if np.isfinite(evidence.analytic_of(block)).all()]
    for hypotheses in (upstream_hypotheses, path_hypotheses):
        for sentence, block in hypotheses(evidence, comparable):
            fitting.setdefault(sentence, set()).add(block)
    unexplained, found = set(failed), []
    while fitting:
        sentence, blocks = max(fitting.items(), key=lambda item: len(item[1] & unexplained))
        if not blocks & unexplained:
            break
        found.append(f"{_names(evidence, blocks & unexplained)}: {sentence}")
        unexplained -= blocks
    if unexplained and found:
        found.append(f"{_names(evidence, unexplained)}: cause unknown")
    return tuple(found)


def _names(evidence: Evidence, blocks: set[Block]) -> str:
    """The blocks by name; a tensor without its gates if it is all of them."""
    names = []
    for tensor in evidence.subject.tensors:
        of_tensor = [block for block in evidence.blocks(tensor) if block in blocks]
        whole = len(of_tensor) == len(evidence.blocks(tensor))
        gates = ", ".join(block.gate for block in of_tensor)
        if of_tensor:
            names.append(tensor if whole else f"{tensor}[{gates}]")
    return ", ".join(names)


# --- hypotheses of the block ----------------------------------------------------------------------


def block_hypotheses(evidence: Evidence, block: Block) -> Iterator[str]:
    """What the analytic gradient is, seen from the numeric one."""
    a, n, known = (
        evidence.analytic_of(block), evidence.numeric_of(block), evidence.known_of(block)
    )  # fmt: skip
    if not np.isfinite(n[known]).all():
        yield "the forward pass gives NaN or infinity"
        return
    if not np.isfinite(a).all():
        yield "the gradient holds NaN or infinity"
        return

    def same(b: np.ndarray) -> bool:
        return evidence.fits(block, b, n)

    if not a[known].any():
        yield "the gradient is all zero: it never gets here"
        return
    if same(-a):
        yield "the sign is wrong"
    yield from _factors(evidence, a, n, known, same)
    weights = part(to_host(evidence.subject.tensors[block.tensor]), block)
    if block.tensor in evidence.subject.params and same(a - weights):
        yield "the weights themselves were added to their gradient"
    if not known.all():
        return  # what follows compares elements with other elements
    yield from _other_blocks(evidence, block, a)
    if a.ndim == 2 and a.shape[0] == a.shape[1] and same(a.T):
        yield "transposed"
    if block.tensor in evidence.subject.inputs:
        yield from _rows_and_steps(evidence, a, n, same)
    wrong = np.abs(a - n) > evidence.limits[block.tensor] * max(np.abs(n).max(), evidence.floor)
    in_order = same_values(a, n, evidence.limits[block.tensor])
    if in_order and a.size > 3:
        yield "the right values in the wrong places: an axis, or an order of rows, is mixed up"
    if not a[wrong].any():
        yield from _lost(evidence, wrong, "no gradient in")
    elif not np.abs(n[wrong]).max() > evidence.limits[block.tensor] * np.abs(a).max():
        yield from _lost(evidence, wrong, "gradient where none belongs, in")


def same_values(a: np.ndarray, n: np.ndarray, tolerance: float) -> bool:
    """Whether both arrays hold the same numbers, in whatever order."""
    a, n = np.sort(a, axis=None), np.sort(n, axis=None)
    return bool(np.abs(a - n).max() <= tolerance * np.abs(n).max())


def _factors(
    evidence: Evidence,
    a: np.ndarray,
    n: np.ndarray,
    known: np.ndarray,
    same: Callable[[np.ndarray], bool],
) -> Iterator[str]:
    square = float((n[known] ** 2).sum())
    if known.sum() < 3 or square == 0:
        return
    factor = float((a[known] * n[known]).sum()) / square
    if factor in (0, -1) or not same(a / factor):
        return
    sizes = _sizes(evidence.subject)
    for name, size in sizes.items():
        if abs(factor - size) < 1e-6 * size:
            yield f"{size} times too large ({name}): a mean was left out, or a sum done twice"
            return
        if abs(factor * size - 1) < 1e-6:
            yield f"1/{size} of what it should be (1 / {name}): a mean where a sum belongs"
            return
    yield f"{factor:.6g} times what it should be"


def _sizes(subject: Subject) -> dict[str, int]:
    """Sizes that a wrong mean would divide by."""
    x = subject.inputs.get("x", getattr(subject, "x", None))
    x = subject.inputs.get("y_pred") if x is None else x
    shape = np.shape(x)
    sizes = dict(zip(("batch", "time", "features"), shape, strict=False))
    if len(shape) == 2 and "x" in subject.inputs:
        sizes = {"batch": shape[0], "features": shape[1]}
    if subject.mask is not None:
        sizes["real steps"] = int(subject.mask.array.sum())
    elif len(shape) > 1:
        sizes["batch * time"] = shape[0] * shape[1]
    return {"two": 2} | {name: size for name, size in sizes.items() if size > 2}


def _other_blocks(evidence: Evidence, block: Block, a: np.ndarray) -> Iterator[str]:
    blocks = [b for name in evidence.subject.tensors for b in evidence.blocks(name)]
    n = evidence.numeric_of(block)
    for other in blocks:
        if other == block or evidence.numeric_of(other).shape != a.shape:
            continue
        if evidence.known_of(other).all() and evidence.fits(block, a, evidence.numeric_of(other)):
            back = evidence.analytic[other.tensor]
            if back is not None and evidence.fits(block, evidence.analytic_of(other), n):
                first, second = sorted([block, other], key=blocks.index)
                yield f"{first.name} and {second.name} are exchanged"
            else:
                yield f"this is the gradient of {other.name}"


def _rows_and_steps(
    evidence: Evidence, a: np.ndarray, n: np.ndarray, same: Callable[[np.ndarray], bool]
) -> Iterator[str]:
    """Inputs and states: (batch, ...) or (batch, time, ...)."""
    if len(a) <= 6 and a.ndim > 1:
        for order in itertools.permutations(range(len(a))):
            if list(order) != sorted(order) and same(a[list(order)]):
                yield f"the rows are permuted: row b got the gradient of row {_inverse(order)}[b]"
                break
    if a.ndim < 3 or "x" not in evidence.limits:  # of a loss it is y_pred
        return
    if same(a[:, ::-1]):
        yield "reversed in time"
    tolerance = evidence.limits["x"] * max(np.abs(n).max(), evidence.floor)
    for first, second, what in ((a[:, 1:], n[:, :-1], "late"), (a[:, :-1], n[:, 1:], "early")):
        if first.size and np.abs(first - second).max() <= tolerance:
            yield f"the gradient comes one step too {what}"


def _inverse(order: tuple[int, ...]) -> list[int]:
    return np.argsort(order).tolist()


def _lost(evidence: Evidence, wrong: np.ndarray, what: str) -> Iterator[str]:
    """Which rows, steps or columns hold all the elements that are wrong."""
    if wrong.all() or not wrong.any():
        return
    regions: dict[str, np.ndarray] = {}
    if wrong.ndim == 3:
        time = np.arange(wrong.shape[1])
        mask = evidence.subject.mask
        real = np.ones(wrong.shape[:2], bool) if mask is None else mask.array
        count = np.cumsum(real, axis=1)
        regions["masked steps"] = ~real
        regions["the first step"] = np.broadcast_to(time == 0, real.shape)
        regions["the last step"] = np.broadcast_to(time == time[-1], real.shape)
        regions["the first real step of every row"] = real & (count == 1)
        regions["the last real step of every row"] = real & (count == count[:, -1:])
        flat = wrong.any(axis=-1)
        for name, region in regions.items():
            lost = region & real if (region & real).any() else region
            if lost.any() and not flat[~region].any() and flat[lost].all():
                yield f"{what} {name}"
                return
    for axis, name in enumerate(
        ("row", "step", "feature") if wrong.ndim == 3 else ("row", "column")
    ):
        others = tuple(k for k in range(wrong.ndim) if k != axis)
        if axis < wrong.ndim:
            which = np.flatnonzero(wrong.any(axis=others)).tolist()
            if len(which) < wrong.shape[axis]:
                yield f"{what} {name} {', '.join(map(str, which))}"
                return


# --- hypotheses of the upstream gradient ----------------------------------------------------------


def upstream_hypotheses(evidence: Evidence, failed: list[Block]) -> Iterator[tuple[str, Block]]:
    """Sentences about the upstream gradient, each with a block that it explains."""
    subject = evidence.subject
    if evidence.upstream.size < 2:
        return
    outputs = [np.array(to_host(y)) for y in subject.forward()[0]]
    ends = np.cumsum([y.size for y in outputs])[:-1]
    pieces = [
        d.reshape(y.shape) for d, y in zip(np.split(evidence.upstream, ends), outputs, strict=True)
    ]
    variants = dict(_upstream_variants(subject, pieces))
    if not variants:
        return
    stacked = np.stack([np.concatenate([d.reshape(-1) for d in v]) for v in variants.values()])
    for block in failed:
        method = evidence.methods[block.tensor]
        source = evidence.dual if method == "complex" else subject
        elements = evidence.telling(block, ELEMENTS)
        numeric = differentiate(source, block.tensor, stacked, method, elements)
        for sentence, values in zip(variants, numeric, strict=True):
            if evidence.fits(block, evidence.analytic_of(block), part(values, block)):
                yield sentence, block


def _upstream_variants(
    subject: Subject, pieces: list[np.ndarray]
) -> Iterator[tuple[str, list[np.ndarray]]]:
    def with_piece(k: int, piece: np.ndarray) -> list[np.ndarray]:
        return [piece if j == k else d for j, d in enumerate(pieces)]

    if len(pieces) > 1:
        for k, name in enumerate(subject.output_names):
            yield f"the gradient of the output {name} is ignored", with_piece(k, pieces[k] * 0)
    x = subject.inputs.get("x", getattr(subject, "x", None))
    B, T = (*np.shape(x), 0)[:2]
    for k, d in enumerate(pieces):
        if d.ndim != 3 or d.shape[:2] != (B, T):
            continue
        whose = "the output" if len(pieces) == 1 else f"the output {subject.output_names[k]}"
        yield f"the gradient of {whose} is not turned back in time", with_piece(k, d[:, ::-1])
        if isinstance(subject.thing, Bidirectional):
            half = d.shape[-1] // 2
            turned = np.concatenate([d[..., :half], d[:, ::-1, half:]], axis=-1)
            yield (
                (
                    "the backward direction's half of the output's gradient is not "
                    "turned back in time"
                ),
                with_piece(k, turned),
            )
        for t, step in ((0, "first"), (T - 1, "last")):
            without = d.copy()
            without[:, t] = 0
            yield f"the {step} step of {whose}'s gradient is ignored", with_piece(k, without)
            yield f"only the {step} step of {whose}'s gradient counts", with_piece(k, d - without)
        if subject.mask is not None:
            real = subject.mask.array
            if getattr(subject.thing, "go_backwards", False):
                real = real[:, ::-1]
            yield (
                (
                    f"the gradient of {whose} at masked steps is ignored, although they show an "
                    "earlier state"
                ),
                with_piece(k, d * real[..., None]),
            )
    if all(d.ndim and d.shape[0] == B for d in pieces):
        for b in range(B if B <= 32 else 0):
            alone = [np.where(_column(d, b), d, 0) for d in pieces]
            yield f"a sum over the rows left out: only row {b} counts", alone
            rest = [d - one for d, one in zip(pieces, alone, strict=True)]
            yield f"row {b} of the batch is left out", rest


def _column(d: np.ndarray, b: int) -> np.ndarray:
    return (np.arange(len(d)) == b).reshape(-1, *(1,) * (d.ndim - 1))


# --- hypotheses of the path -----------------------------------------------------------------------


def path_hypotheses(evidence: Evidence, failed: list[Block]) -> Iterator[tuple[str, Block]]:
    """Sentences about a gap in the chain rule of a recurrence, each with a block it explains."""
    dual = evidence.dual
    cells = [] if dual is None else recurrent_cells(dual)
    if not cells:
        return
    complex_ones = [block for block in failed if evidence.methods[block.tensor] == "complex"]
    for sentence, cut in cuts(max((cell.state_names for cell in cells), key=len)).items():
        with cut_cells(cells, cut):
            for block in complex_ones:
                if all(_fits_cut(evidence, block, count) for count in (1, ELEMENTS)):
                    yield sentence, block


def _fits_cut(evidence: Evidence, block: Block, count: int) -> bool:
    elements = evidence.telling(block, count)
    upstream = evidence.upstream[None]
    numeric = differentiate(evidence.dual, block.tensor, upstream, "complex", elements)[0]
    return evidence.fits(block, evidence.analytic_of(block), part(numeric, block))


def recurrent_cells(subject: Subject) -> list[Cell]:
    if isinstance(subject.thing, Cell):
        return [subject.thing]
    return [layer.cell for layer in subject.layers() if isinstance(layer, RNN)]
