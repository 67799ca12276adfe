"""`gradcheck`: one call that checks the gradients of one thing."""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn import checks
from minirnn.backend import to_device, to_host
from minirnn.checks import number, whole_number
from minirnn.gradcheck.anatomy import describe
from minirnn.gradcheck.diagnosis import guesses
from minirnn.gradcheck.evidence import Block, Evidence, positions
from minirnn.gradcheck.numeric import differentiate_all, relative_error
from minirnn.gradcheck.report import ENTRIES, Entry, GradientReport, GradientRow
from minirnn.gradcheck.subject import Subject, make_subject, same_random_numbers
from minirnn.lookup import by_name

METHODS = ("auto", "complex", "central")
TOLERANCES = {"complex": 1e-12, "central": 1e-6}
FLOOR = 1e-3  # times the largest gradient of all: blocks below that are measured against it


def gradcheck(
    thing: Any,
    x: Any = None,
    *,
    mask: Any = None,
    initial_state: Any = None,
    y_true: Any = None,
    loss: Any = None,
    sample_weight: Any = None,
    training: bool = False,
    redraw: bool = True,
    method: str = "auto",
    tolerance: float | None = None,
    seed: int = 0,
    sample: int | None = None,
) -> GradientReport:
    """Compare every gradient of a cell, layer, model or loss with derivatives of its forward pass.

    It works on a copy in float64, with random weights and a random upstream gradient for each
    output; dropout draws the same numbers at every evaluation. Inputs, every initial state and
    every weight are checked, the weights of recurrent layers gate by gate. The error of a block is
    `max|a - n| / max(max|a|, max|n|, floor)`, with a the analytic and n the numeric gradient, and
    a floor of 1e-3 times the largest numeric gradient of the whole check.

    Args:
        thing: a cell, a layer, a model (any layer with `layers`) or a loss; built or not.
        x: input of the layer or cell, predictions for a loss; random if None, its sizes different
            primes. Token ids and text have no gradient.
        mask: (batch, time) booleans, True = a real step.
        initial_state: for cells and recurrent layers; random if None.
        loss, y_true, sample_weight: a loss behind the layer, which makes one number of its output;
            random targets if None.
        training: with dropout.
        redraw: random weights in place of those that the thing has.
        method: "complex", exact to rounding, but every function on the way must take complex
            numbers; "central", differences of fourth order; "auto", the first, and where that is
            impossible or disagrees, the second.
        tolerance: the largest error that passes; 1e-12 for complex, 1e-6 for central if None.
        seed: of everything random here.
        sample: of each tensor at most this many elements, chosen at random: one element costs one
            forward pass (four with central differences), so whole models want this.

    Raises:
        TypeError: for a thing that has no gradient.
        ValueError: for arguments that do not fit, for something without anything to differentiate,
            or if the method is "complex" and the forward pass cannot take complex numbers.
    """
    by_name("method", method, dict.fromkeys(METHODS))
    if sample is not None:
        whole_number("sample", sample)
    if tolerance is not None:
        number("tolerance", tolerance, "a number above 0", lambda value: value > 0)
    seed, redraw = checks.seed("seed", seed), checks.flag("redraw", redraw)
    random = np.random.default_rng(seed)
    with same_random_numbers([]):
        subject = make_subject(
            thing,
            x,
            random,
            mask=mask,
            initial_state=initial_state,
            y_true=y_true,
            loss=loss,
            sample_weight=sample_weight,
            training=checks.flag("training", training),
            redraw=redraw,
        )
        return _check(subject, random, method, tolerance, seed, sample)


def _check(
    subject: Subject,
    random: np.random.Generator,
    method: str,
    tolerance: float | None,
    seed: int,
    sample: int | None,
) -> GradientReport:
    title = describe(subject.thing)
    tensors = subject.tensors
    if not tensors:
        raise ValueError(
            f"{title}: there is nothing to check: no weights, and no x with a gradient"
        )
    upstream, analytic = _analytic(subject, random)
    chosen = {name: _choose(array.size, sample, random) for name, array in tensors.items()}

    numeric, methods, dual = {}, dict.fromkeys(tensors, "central"), None
    if method != "central":
        try:
            dual = subject.astype("complex128")
            numeric = differentiate_all(dual, upstream, "complex", chosen)
            methods = dict.fromkeys(tensors, "complex")
        except Exception as error:  # the same forward pass has just run in float64
            if method == "complex":
                raise ValueError(
                    f"{title}: method: the forward pass cannot take complex numbers "
                    f"({type(error).__name__}: {error}). Use method='central'."
                ) from error
            dual = None
    limits = {name: tolerance or TOLERANCES[way] for name, way in methods.items()}

    def problem_of(name: str) -> str:
        return _problem(analytic.get(name), tensors[name].shape)

    def wrong(name: str) -> bool:
        if problem_of(name):
            return True
        known = positions(chosen[name], tensors[name].shape)
        return relative_error(analytic[name], numeric[name], floor, known) > limits[name]

    floor = _floor(numeric)
    for name in tensors:
        # Where the complex step disagrees with the gradient, another way has to say who is right.
        if name in numeric and not (method == "auto" and wrong(name)):
            continue
        if name in numeric and not problem_of(name):
            difference = np.nan_to_num(np.abs(analytic[name] - numeric[name]), posinf=0)
            worst = {name: np.argsort(-difference, axis=None)[:ENTRIES]}
            second = differentiate_all(subject, upstream, "central", worst)[name]
            known = ~np.isnan(second) & ~np.isnan(numeric[name])
            if relative_error(second, numeric[name], floor, known) <= TOLERANCES["central"]:
                continue
        numeric |= differentiate_all(subject, upstream, "central", {name: chosen[name]})
        methods[name], limits[name] = "central", tolerance or TOLERANCES["central"]
    floor = _floor(numeric)
    evidence = Evidence(subject, dual, methods, upstream, analytic, numeric, chosen, floor, limits)
    rows, failed = [], []
    for name, array in tensors.items():
        problem = problem_of(name)
        if problem:
            rows.append(
                GradientRow(name, "", array.shape, np.inf, limits[name], methods[name], (), problem)
            )
            continue
        for block in evidence.blocks(name):
            rows.append(_row(evidence, block))
            if not rows[-1].passed:
                failed.append(block)
    for name in analytic.keys() - tensors.keys():
        rows.append(
            GradientRow(name, "", (), np.inf, 1, "", (), "a gradient for something unknown")
        )
    return GradientReport(title, _setup(subject, seed), tuple(rows), guesses(evidence, failed))


def _analytic(
    subject: Subject, random: np.random.Generator
) -> tuple[np.ndarray, dict[str, np.ndarray | None]]:
    """A random upstream gradient, flat, and what the backward pass makes of it."""
    outputs, cache = subject.forward()
    shapes = [np.shape(y) for y in outputs]
    upstream = [random.normal(size=shape) for shape in shapes]
    given = tuple(to_device(d.copy()) for d in upstream)
    found = subject.backward(given, cache)
    flat = np.concatenate([d.reshape(-1) for d in upstream])
    return flat, {k: None if g is None else np.array(to_host(g)) for k, g in found.items()}


def _choose(size: int, sample: int | None, random: np.random.Generator) -> np.ndarray:
    if sample is None or size <= sample:
        return np.arange(size)
    return np.sort(random.choice(size, sample, replace=False))


def _floor(numeric: dict[str, np.ndarray]) -> float:
    largest = max((np.nan_to_num(np.abs(n)).max(initial=0) for n in numeric.values()), default=0)
    return max(FLOOR * float(largest), 1e-30)


def _problem(analytic: np.ndarray | None, shape: tuple[int, ...]) -> str:
    if analytic is None:
        return "no gradient"
    if analytic.shape != shape:
        return f"the gradient has shape {analytic.shape}"
    return ""


def _row(evidence: Evidence, block: Block) -> GradientRow:
    name = block.tensor
    analytic, numeric = evidence.analytic_of(block), evidence.numeric_of(block)
    known = evidence.known_of(block)
    error = relative_error(analytic, numeric, evidence.floor, known)
    difference = np.where(known, np.abs(analytic - numeric), -1)
    difference[np.isnan(difference)] = np.inf
    entries = []
    for k in np.argsort(-difference, axis=None, kind="stable")[:ENTRIES]:
        index = np.unravel_index(k, analytic.shape)
        if known[index]:
            place = (*index[:-1], index[-1] + block.start) if index else ()
            entry = Entry(tuple(map(int, place)), float(analytic[index]), float(numeric[index]))
            entries.append(entry)
    return GradientRow(
        name,
        block.gate,
        analytic.shape,
        error,
        evidence.limits[name],
        evidence.methods[name],
        tuple(entries),
    )


def _setup(subject: Subject, seed: int) -> tuple[str, ...]:
    """Lines that tell how to see the same numbers again."""
    sizes = [f"{name} {tuple(array.shape)}" for name, array in subject.inputs.items()]
    x = getattr(subject, "x", None)
    if x is not None:
        sizes.insert(0, f"x {np.shape(x)} without gradient")
    lines = [", ".join(sizes)] if sizes else []
    if subject.mask is not None:
        rows = ("".join("1" if step else "0" for step in row) for row in subject.mask.array)
        lines.append(f"mask {' '.join(rows)}")
    if getattr(subject, "loss", None) is not None:
        lines.append(f"loss {subject.loss!r}")
    training = ", training=True" if getattr(subject, "training", False) else ""
    return (*lines, f"seed={seed}{training}")
