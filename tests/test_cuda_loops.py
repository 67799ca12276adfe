"""The time loops of a GPU, their sources run on the CPU, beside the loops of the cells."""

import re

import cuda_emulator
import numpy as np
import pytest
import strict_cupy
from hypothesis import given, settings
from hypothesis import strategies as st

from minirnn import timeloop
from minirnn.backend import floatx, set_floatx, to_device, to_host
from minirnn.cells import GRUCell, GRUCellResetBefore, LSTMCell, SimpleRNNCell
from minirnn.cuda import loops, modules
from minirnn.packing import Packing

needs_compiler = pytest.mark.skipif(
    not cuda_emulator.has_compiler(), reason=f"needs a C++ compiler ({cuda_emulator.COMPILER})"
)
CELLS = [SimpleRNNCell, LSTMCell, GRUCell]
FILES = {SimpleRNNCell: "simple_rnn.cu", LSTMCell: "lstm.cu", GRUCell: "gru.cu"}


@pytest.fixture(autouse=True)
def usual_schedule_and_floats():
    yield
    cuda_emulator.set_schedule("round robin")
    set_floatx("float32")


def a_run(cell_class, units, features, mask, dtype, rng, use_bias=True, drop=False, left_out=()):
    """A cell with random weights, and all that a run over a batch and back is given."""
    set_floatx(dtype)
    cell = cell_class(units, use_bias=use_bias)
    cell.build(features)
    rows, n = len(mask), int(mask.sum())

    def draw(*shape):
        return rng.normal(size=shape).astype(dtype)

    for key, value in cell.params.items():
        cell.params[key] = draw(*value.shape) / np.sqrt(units).astype(dtype)
    dropped = (rng.random((rows, units)) < 0.7).astype(dtype) / np.dtype(dtype).type(0.7)
    states = range(len(cell.state_names))
    return cell, {
        "x": draw(n, features),
        "first": tuple(draw(rows, units) for _ in states),
        "drop": dropped if drop else None,
        "dfinal": tuple(None if "dfinal" in left_out else draw(rows, units) for _ in states),
        "dhistory": tuple(
            None if f"dhistory {i}" in left_out else draw(rows + n, units) for i in states
        ),
    }


def results(cell, run, mask, reverse):
    """All that comes out: states after each step, gradients of inputs, first states, weights."""
    packing = Packing(mask, reverse)
    here = {
        key: tuple(None if a is None else to_device(a) for a in value)
        if isinstance(value, tuple)
        else None
        if value is None
        else to_device(value)
        for key, value in run.items()
    }
    weights = cell.params
    cell.params = {key: to_device(value) for key, value in weights.items()}
    cache = timeloop.run(cell, here["x"], packing, here["first"], here["drop"])
    dx, dfirst, grads = timeloop.run_backward(cell, here["dfinal"], here["dhistory"], cache)
    cell.params = weights
    named = {f"history {i}": h for i, h in enumerate(cache.history)} | {"dx": dx}
    named |= {f"dfirst {i}": d for i, d in enumerate(dfirst)} | grads
    return {name: to_host(value) for name, value in named.items()}


def on_both(cell, run, mask, reverse, schedules=cuda_emulator.SCHEDULES):
    """`(name, host's, device's)` of every result, under every schedule."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timeloop, "loops", lambda cell, *rest: cell)
        expected = results(cell, run, mask, reverse)
    for schedule in schedules:
        cuda_emulator.set_schedule(schedule, seed=7)
        with strict_cupy.installed():
            got = results(cell, run, mask, reverse)
        for name, value in expected.items():
            yield f"{name}, {schedule}", value, got[name]


def agree(cell, run, mask, reverse, tolerance, **options):
    for name, expected, got in on_both(cell, run, mask, reverse, **options):
        np.testing.assert_allclose(got, expected, tolerance, tolerance, err_msg=name)


def a_mask(rng, rows, time, kind="any"):
    mask = rng.random((rows, time)) < 0.6
    if kind == "none":
        mask[:] = True
    mask[0, 0] = True
    return mask


# --- the same numbers as the cells ----------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("cell_class", CELLS)
@settings(max_examples=40, deadline=None)
@given(
    units=st.sampled_from([1, 3, 8, 13, 24]),
    features=st.integers(1, 5),
    rows=st.integers(1, 5),
    time=st.integers(1, 7),
    kind=st.sampled_from(["any", "none"]),
    reverse=st.booleans(),
    use_bias=st.booleans(),
    drop=st.booleans(),
    left_out=st.sets(st.sampled_from(["dfinal", "dhistory 0", "dhistory 1"])),
    step_by_step=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape_in_double_precision(
    cell_class, units, features, rows, time, kind, reverse, use_bias, drop, left_out, step_by_step,
    seed,
):  # fmt: skip
    rng = np.random.default_rng(seed)
    mask = a_mask(rng, rows, time, kind)
    cell, run = a_run(cell_class, units, features, mask, "float64", rng, use_bias, drop, left_out)
    with pytest.MonkeyPatch.context() as patch:
        if step_by_step:  # as if the cell were too large for one multiprocessor
            patch.setattr(loops.Loop, "size", lambda *size: None)
        agree(cell, run, mask, reverse, 1e-10)


@needs_compiler
@pytest.mark.parametrize("units", [2, 16, 31])
@pytest.mark.parametrize("cell_class", CELLS)
def test_in_single_precision(cell_class, units):
    rng = np.random.default_rng(units)
    mask = a_mask(rng, 3, 5)
    cell, run = a_run(cell_class, units, 7, mask, "float32", rng, drop=True)
    agree(cell, run, mask, False, 2e-5)
    assert floatx() == np.float32


@needs_compiler
@pytest.mark.parametrize(
    ("cell_class", "units"),
    [(SimpleRNNCell, 191), (LSTMCell, 97), (LSTMCell, 128), (GRUCell, 99), (GRUCell, 128)],
)
def test_large_cells_with_a_part_of_their_weights_in_shared_memory(cell_class, units):
    rng = np.random.default_rng(units)
    mask = a_mask(rng, 2, 3)
    cell, run = a_run(cell_class, units, 3, mask, "float32", rng)
    agree(cell, run, mask, True, 5e-5)
    loop = loops.loop_of(cell)
    assert (loop.size(units).in_shared > 0) == (cell_class is not SimpleRNNCell)


@needs_compiler
@pytest.mark.parametrize(("cell_class", "units"), [(SimpleRNNCell, 193), (LSTMCell, 129)])
def test_larger_cells_step_by_step(cell_class, units):
    rng = np.random.default_rng(units)
    mask = a_mask(rng, 2, 4)
    cell, run = a_run(cell_class, units, 3, mask, "float32", rng, drop=True)
    cuda_emulator.launches.clear()
    agree(cell, run, mask, True, 5e-5, schedules=["random"])
    steps = int(mask.sum(axis=1).max())
    assert len(cuda_emulator.launches) == 2 * steps + 1


@needs_compiler
@pytest.mark.parametrize("cell_class", CELLS)
def test_a_batch_without_any_real_step(cell_class):
    rng = np.random.default_rng(0)
    mask = np.zeros((3, 4), dtype=bool)
    cell, run = a_run(cell_class, 5, 2, mask, "float64", rng)
    agree(cell, run, mask, False, 1e-12)


@needs_compiler
@pytest.mark.parametrize("cell_class", CELLS)
def test_the_same_bits_whatever_the_order_of_the_threads(cell_class):
    rng = np.random.default_rng(5)
    mask = a_mask(rng, 4, 6)
    cell, run = a_run(cell_class, 24, 3, mask, "float32", rng)
    everything = [got.tobytes() for _, _, got in on_both(cell, run, mask, True)]
    third = len(everything) // 3
    assert everything[:third] == everything[third : 2 * third] == everything[2 * third :]


# --- which cells have kernels ---------------------------------------------------------------------


def test_cells_of_other_kinds_do_their_steps_themselves():
    with strict_cupy.installed():
        assert loops.loops(LSTMCell(8, activation="relu"), "float32") is None
        assert loops.loops(SimpleRNNCell(8, activation="relu"), "float32") is None
        assert loops.loops(GRUCellResetBefore(8), "float32") is None
        assert loops.loops(LSTMCell(8), "complex128") is None


@pytest.mark.parametrize("loop", [loops.SIMPLE_RNN, loops.LSTM, loops.GRU])
def test_a_cell_of_any_size_that_is_taken_fits_on_a_multiprocessor(loop):
    for units in range(1, loop.most_units + 1):
        size = loop.size(units)
        assert size.threads <= 1024
        assert size.threads % 32 == 0
        assert size.threads >= units * loops.LANES
        assert size.shared_bytes + 4 * loop.gates * 2 * 144 <= 160 * 1024
    assert loop.size(loop.most_units + 1) is None


# --- errors planted in the kernels are seen -------------------------------------------------------

# What must be noticed: a pattern in lstm.cu, and what takes its place.
PLANTED = {
    "no barrier in a step forward": (r"(width\] = c;\n)    __syncthreads\(\);", r"\1"),
    "no barrier in a step backward": (r"(= da_q;\n    \}\n)    __syncthreads\(\);", r"\1"),
    "no barrier before the first step": (r"__syncthreads\(\);\n\n  for \(int s", "for (int s"),
    "one h for two steps, in turn": (r"\(s \+ 1\) % 2 \* Columns", "s % 2 * Columns"),
    "one h for two steps": (r"(\(s \+ 1\)|s) % 2 \* Columns", "0 * Columns"),
    "one da for two steps, in turn": (r"\(turn \^ 1\) \* Rows", "turn * Rows"),
    "one da for two steps": (r"(\(turn \^ 1\)|turn|walk.steps % 2) \* Rows", "0 * Rows"),
    "shared memory is not set to zero": (r"for \(int k = threadIdx.x; k < 2 \* Rows.*;\n", ""),
    "the input of another gate": (r"  a \+= (.*) \+ q \* UNITS", r"  a += \1 + (q ^ 1) * UNITS"),
    "the input of the step before": (r"a_next = a\[n \*", "a_next = a[here *"),
    "c not carried back": (r"dc \*= f;", "dc = f;"),
    "the gradient of the last state at every step": (r"    dh_last = 0;\n", ""),
}  # fmt: skip


# The same in wide.cuh and wide.cu.
SYNC = r"__syncthreads\(\);\n *"
PLANTED_IN_WIDE = {
    "no barrier before a chunk is overwritten": (SYNC + r"for \(int e", "for (int e"),
    "no barrier before a chunk is read": (
        SYNC + r"if \(column < COLUMNS\) \{",
        "if (column < COLUMNS) {",
    ),
    "no barrier before the slices are written": (
        SYNC + r"if \(column < COLUMNS\)\n",
        "if (column < COLUMNS)\n",
    ),
    "no barrier before the slices are added": (SYNC + r"\}\n\n  static", "}\n  static"),
    "a row that is read backwards looks the other way": (r"backwards \? 1 : -1", "-1"),
    "a row's last state at every step": (r"ends = step.behind\(rank\) < 0", "ends = true"),
    "c not carried back": (r"= dc \* f;", "= dc;"),
}  # fmt: skip


def caught(run_it, code, monkeypatch):
    """Whether `run_it` passes with the sources as they are, and not with `code` in their place."""
    run_it()
    monkeypatch.setattr(modules, "source", lambda *files: code)
    for cache in (modules._kernel, modules._module):
        cache.cache_clear()
    try:
        with pytest.raises(AssertionError, match="Not equal to tolerance|Mismatched"):
            run_it()
    finally:
        for cache in (modules._kernel, modules._module):
            cache.cache_clear()


def changed(text, pattern, replacement):
    text, times = re.subn(pattern, replacement, text)
    assert times, "the pattern stands nowhere in the source"
    return text


@needs_compiler
@pytest.mark.parametrize("name", PLANTED)
def test_an_error_planted_in_a_kernel_is_seen(name, monkeypatch):
    rng = np.random.default_rng(11)
    mask = a_mask(rng, 3, 6)
    cell, run = a_run(LSTMCell, 24, 3, mask, "float64", rng)
    code = modules.source("recurrent.cuh") + changed(modules.source("lstm.cu"), *PLANTED[name])
    caught(lambda: agree(cell, run, mask, False, 1e-10), code, monkeypatch)


@needs_compiler
@pytest.mark.parametrize("name", PLANTED_IN_WIDE)
def test_an_error_planted_in_the_steps_of_large_cells_is_seen(name, monkeypatch):
    monkeypatch.setattr(loops.Loop, "size", lambda *size: None)
    rng = np.random.default_rng(11)
    mask = a_mask(rng, 17, 3)
    cell, run = a_run(LSTMCell, 37, 3, mask, "float64", rng)
    code = changed(modules.source("wide.cuh", "wide.cu"), *PLANTED_IN_WIDE[name])
    caught(lambda: agree(cell, run, mask, True, 1e-10), code, monkeypatch)
