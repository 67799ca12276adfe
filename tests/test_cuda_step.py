"""The kernels of a training step besides the time loops, run on the CPU: products, packing, loss,
the embedding's gradient and Adam, each beside NumPy."""

import subprocess
import sys

import cuda_emulator
import numpy as np
import pytest
import strict_cupy
from hypothesis import given, settings
from hypothesis import strategies as st

from minirnn import losses
from minirnn.backend import to_device, to_host
from minirnn.base import RowGradient
from minirnn.cuda import modules
from minirnn.cuda.modules import kernel, pointer
from minirnn.optimizers import Adam
from minirnn.packing import Layout

pytestmark = pytest.mark.skipif(
    not cuda_emulator.has_compiler(), reason=f"needs a C++ compiler ({cuda_emulator.COMPILER})"
)
SCHEDULES = st.sampled_from(cuda_emulator.SCHEDULES)
SEEDS = st.integers(0, 2**32 - 1)
few = settings(max_examples=25, deadline=None)
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(autouse=True)
def usual_schedule():
    yield
    cuda_emulator.set_schedule("round robin")


def launch(name, file, grid, block, *arguments):
    """Run a kernel on NumPy arrays (results are written into them) and numbers."""
    with strict_cupy.installed():
        arrays = [to_device(a) if isinstance(a, np.ndarray) else a for a in arguments]
        made = [np.int32(a) if isinstance(a, int) else pointer(a) for a in arrays]
        kernel(name, file)(grid, (block,), tuple(made))
        for before, after in zip(arguments, arrays, strict=True):
            if isinstance(before, np.ndarray):
                before[...] = to_host(after)


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def blank(*shape):
    """Where results go: what is not written stays NaN."""
    return np.full(shape, np.nan, np.float32)


def tiles(n):
    return -(-n // 64)


# --- products -------------------------------------------------------------------------------------

SIZES = st.integers(1, 150)


@few
@given(
    N=SIZES, room=st.integers(0, 70), features=SIZES, width=SIZES, ways=st.integers(1, 2),
    looked_up=st.booleans(), bias=st.booleans(), schedule=SCHEDULES, seed=SEEDS,
)  # fmt: skip
def test_project(N, room, features, width, ways, looked_up, bias, schedule, seed):
    cuda_emulator.set_schedule(schedule, seed % 100)
    rng, capacity = np.random.default_rng(seed), N + room
    x = normal(rng, 40 if looked_up else capacity, features)
    rows_of = rng.integers(0, 40, capacity).astype(np.int32) if looked_up else None
    weights = normal(rng, ways, features * width + width)
    W = weights[:, : features * width].reshape(ways, features, width)
    b = weights[:, features * width :]
    a = blank(ways, capacity, width)
    launch(
        "project", "products.cu", (tiles(width), tiles(capacity), ways), 256,
        x, rows_of, weights, weights.reshape(-1)[features * width :].copy() if bias else None, a,
        np.array([N], np.int32), features, width, capacity, weights.shape[1],
    )  # fmt: skip
    taken = (x[rows_of] if looked_up else x)[:N]
    expected = np.stack([taken @ W[way] + (b[way] if bias else 0) for way in range(ways)])
    np.testing.assert_allclose(a[:, :N], expected, **CLOSE)
    assert np.isnan(a[:, N:]).all()


@few
@given(
    N=SIZES, room=st.integers(0, 70), features=SIZES, width=SIZES, ways=st.integers(1, 2),
    schedule=SCHEDULES, seed=SEEDS,
)  # fmt: skip
def test_project_backward(N, room, features, width, ways, schedule, seed):
    cuda_emulator.set_schedule(schedule, seed % 100)
    rng, capacity = np.random.default_rng(seed), N + room
    da, W = normal(rng, ways, capacity, width), normal(rng, ways, features, width)
    da[:, N:] = np.nan  # what stands behind the real steps does not count
    dx = blank(capacity, features)
    launch(
        "project_backward", "products.cu", (tiles(features), tiles(capacity)), 256,
        da, W, dx, np.array([N], np.int32), features, width, capacity, features * width, ways,
    )  # fmt: skip
    expected = sum(da[way, :N] @ W[way].T for way in range(ways))
    np.testing.assert_allclose(dx[:N], expected, **CLOSE)
    assert np.isnan(dx[N:]).all()


@few
@given(
    N=SIZES, room=st.integers(0, 70), features=SIZES, width=SIZES, ways=st.integers(1, 2),
    slices=st.integers(1, 9), looked_up=st.booleans(), bias=st.booleans(), apart=st.booleans(),
    schedule=SCHEDULES, seed=SEEDS,
)  # fmt: skip
def test_sum_outer(
    N, room, features, width, ways, slices, looked_up, bias, apart, schedule, seed
):  # fmt: skip
    cuda_emulator.set_schedule(schedule, seed % 100)
    rng, capacity = np.random.default_rng(seed), N + room
    apart = apart and not looked_up
    x = normal(rng, ways if apart else 1, 40 if looked_up else capacity, features)
    rows_of = rng.integers(0, 40, capacity).astype(np.int32) if looked_up else None
    da = normal(rng, ways, capacity, width)
    da[:, N:] = np.nan
    rows = features + bias
    grads = blank(slices, ways, rows, width)
    launch(
        "sum_outer", "products.cu", (tiles(width), tiles(rows), ways * slices), 256,
        x, rows_of, da, grads, np.array([N], np.int32), features, int(bias), width, capacity,
        x[0].size if apart else 0, rows * width, ways * rows * width, slices,
    )  # fmt: skip
    for way in range(ways):
        taken = x[way if apart else 0]
        taken = (taken[rows_of] if looked_up else taken)[:N]
        taken = np.concatenate([taken, np.ones((N, 1), np.float32)], axis=1)[:, :rows]
        np.testing.assert_allclose(grads.sum(axis=0)[way], taken.T @ da[way, :N], 1e-3, 1e-3)


# --- the packing ----------------------------------------------------------------------------------


def planned(ids, mask_zero, room_for_rows, room_for_time, step=4, rate=0.5, batches=5):
    """What the kernel `plan` makes of a batch: name → array."""
    rows, time = ids.shape
    B, T = rows + room_for_rows, time + room_for_time
    slots = np.full((3, 4 + B + B * T), 99, np.int32)
    slot = slots[batches % 3]
    slot[:2], slot[2:3].view(np.float32)[0] = (rows, time), rate
    slot[4 : 4 + rows] = np.arange(rows) + 7
    slot[4 + B : 4 + B + ids.size] = ids.reshape(-1)
    made = {
        "numbers": np.array([0, 0, step, batches, 0], np.int32),
        "powers": np.array([0.9**step, 0.99**step, 0.0]),
        "lengths": np.full(B, -1, np.int32),
        "order": np.full(B, -1, np.int32),
        "offsets": np.full(T + 1, -1, np.int32),
        "ids": np.full(B * T, -1, np.int32),
        "labels": np.full(B, -1, np.int32),
    }
    launch(
        "plan", "step.cu", (1,), 256, slots, 3, slots.shape[1], int(mask_zero), B, T,
        np.float64(0.9), np.float64(0.99), *made.values(),
    )  # fmt: skip
    return made


@few
@given(
    rows=st.integers(1, 40), time=st.integers(1, 70), more_rows=st.integers(0, 5),
    more_time=st.integers(0, 20), mask_zero=st.booleans(), schedule=SCHEDULES, seed=SEEDS,
)  # fmt: skip
def test_plan_packs_as_layout_does(
    rows, time, more_rows, more_time, mask_zero, schedule, seed
):  # fmt: skip
    cuda_emulator.set_schedule(schedule, seed % 100)
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 3, (rows, time)).astype(np.int32)
    made = planned(ids, mask_zero, more_rows, more_time)
    layout = Layout(ids != 0 if mask_zero else np.ones_like(ids, dtype=bool))
    N = layout.steps
    assert made["numbers"].tolist() == [N, rows, 5, 6, 0]
    assert made["order"][:rows].tolist() == layout.host_order.tolist()
    assert made["lengths"][:rows].tolist() == layout.lengths[layout.host_order].tolist()
    assert not made["lengths"][rows:].any()
    assert sorted(made["order"]) == list(range(rows + more_rows))
    steps = len(layout.offsets)
    assert made["offsets"][:steps].tolist() == layout.offsets.tolist()
    assert (made["offsets"][steps:] == N).all()
    assert made["ids"][:N].tolist() == ids.reshape(-1)[layout.positions].tolist()
    assert made["labels"][:rows].tolist() == list(range(7, 7 + rows))


def test_plan_counts_steps_and_prepares_adams_rate():
    made = planned(np.ones((2, 3), np.int32), True, 0, 0, step=4, rate=0.5)
    expected = 0.5 * np.sqrt(1 - 0.99**5) / (1 - 0.9**5)
    np.testing.assert_allclose(made["powers"], [0.9**5, 0.99**5, expected], 1e-12)


# --- the loss -------------------------------------------------------------------------------------


@few
@given(
    rows=st.integers(1, 70), more_rows=st.integers(0, 5), classes=st.integers(1, 80),
    scale=st.sampled_from([1.0, 1e4]), schedule=SCHEDULES, seed=SEEDS,
)  # fmt: skip
def test_cross_entropy(rows, more_rows, classes, scale, schedule, seed):
    cuda_emulator.set_schedule(schedule, seed % 100)
    rng, B = np.random.default_rng(seed), rows + more_rows
    logits = normal(rng, B, classes) * np.float32(scale)
    labels = rng.integers(0, classes, B).astype(np.int32)
    dlogits, totals = blank(B, classes), np.array([3.0, 2.0, 1.0])
    numbers = np.array([0, rows, 9, 4, 0], np.int32)
    launch(
        "cross_entropy", "step.cu", (1,), 256,
        logits, labels, dlogits, numbers, totals, classes, B,
    )  # fmt: skip
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    value, expected = loss.forward(labels[:rows], logits[:rows])
    np.testing.assert_allclose(dlogits[:rows], expected, 1e-4, 1e-6)
    assert not dlogits[rows:].any()
    hits = (logits[:rows].argmax(axis=1) == labels[:rows]).sum()
    np.testing.assert_allclose(totals, [3 + value * rows, 2 + hits, 1 + rows], 1e-4)
    assert numbers.tolist() == [0, rows, 9, 4, 0]


def test_the_first_bad_loss_stops_the_training():
    logits, totals = np.array([[1.0, np.nan]], np.float32), np.zeros(3)
    numbers = np.array([0, 1, 9, 4, 0], np.int32)
    for _ in range(2):
        launch(
            "cross_entropy", "step.cu", (1,), 256,
            logits, np.zeros(1, np.int32), blank(1, 2), numbers, totals, 2, 1,
        )  # fmt: skip
    assert numbers.tolist() == [0, 1, 8, 4, 4]
    assert not totals.any()


# --- the embedding's gradient, and Adam -----------------------------------------------------------


@few
@given(
    N=st.integers(1, 200), words=st.integers(1, 50), width=st.integers(1, 200),
    schedule=SCHEDULES, seed=SEEDS,
)  # fmt: skip
def test_sum_equal_ids(N, words, width, schedule, seed):
    cuda_emulator.set_schedule(schedule, seed % 100)
    rng = np.random.default_rng(seed)
    ids, dx = rng.integers(0, words, N).astype(np.int32), normal(rng, N, width)
    sums, place, touched = blank(N, width), np.full(words, -1, np.int32), np.zeros(words, np.int32)
    numbers = np.array([N, 0, 0, 6, 0], np.int32)
    launch(
        "sum_equal_ids", "step.cu", (-(-N // 4),), 128,
        ids, dx, sums, place, touched, numbers, width,
    )  # fmt: skip
    for word in range(words):
        rows = np.flatnonzero(ids == word)
        assert touched[word] == (6 if len(rows) else 0)
        if len(rows):
            assert place[word] == rows[0]
            in_order = np.zeros(width, np.float32)
            for row in rows:
                in_order += dx[row]
            np.testing.assert_array_equal(sums[rows[0]], in_order)


@few
@given(
    size=st.integers(1, 300), slices=st.integers(1, 8), N=st.integers(1, 40),
    width=st.integers(1, 9), trains_table=st.booleans(),
    bad=st.sampled_from([np.nan, np.inf, -np.inf, 2e19, 1e18, 0]), schedule=SCHEDULES, seed=SEEDS,
)  # fmt: skip
def test_check_gradients(size, slices, N, width, trains_table, bad, schedule, seed):
    cuda_emulator.set_schedule(schedule, seed % 100)
    rng, room = np.random.default_rng(seed), 7
    grads = normal(rng, slices, size)
    ids = rng.integers(0, 11, N + room).astype(np.int32)
    place = np.full(11, 99, np.int32)
    place[ids[:N][::-1]] = np.arange(N)[::-1]  # the first step of each id
    sums = blank(N + room, width)  # of others nothing is written
    firsts = place[np.unique(ids[:N])]
    sums[firsts] = normal(rng, len(firsts), width)
    if trains_table and rng.random() < 0.5:
        sums[rng.choice(firsts), rng.integers(width)] = bad
    else:
        grads[rng.integers(slices), rng.integers(size)] = bad
    numbers = np.array([N, 3, 9, 4, 0], np.int32)
    for _ in range(2):  # only the first to fail counts
        launch(
            "check_gradients", "step.cu", (-(-(size + trains_table * sums.size) // 256),), 256,
            grads, ids if trains_table else None, sums if trains_table else None, place, numbers,
            size, slices, size, width,
        )  # fmt: skip
    failed = not abs(bad) < 1e19
    assert numbers.tolist() == [N, 3, 9 - failed, 4, 4 * failed]


def test_adam_over_twenty_steps():
    rng = np.random.default_rng(0)
    words, width, size, slices = 19, 7, 300, 3
    table, dense = normal(rng, words, width), normal(rng, size)
    expected = {"table": table.copy(), "dense": dense.copy()}
    optimizer = Adam(0.01, beta_1=0.8, beta_2=0.95, epsilon=1e-3)
    averages = [np.zeros_like(a) for a in (table, table, dense, dense)]
    touched = np.zeros(words, np.int32)
    fresh = np.float32(1 - 0.8), np.float32(1 - 0.95), np.float32(1e-3)
    for step in range(1, 21):
        ids = np.unique(rng.integers(0, words - 2, 4))
        rows, grads = normal(rng, len(ids), width), normal(rng, slices, size)
        optimizer.apply(expected, {"table": RowGradient(ids, rows), "dense": grads.sum(axis=0)}, ())
        place = np.full(words, 99, np.int32)
        place[ids], touched[ids] = np.arange(len(ids)), step
        numbers = np.array([0, 0, step, step, 0], np.int32)
        powers = np.array([0, 0, 0.01 * np.sqrt(1 - 0.95**step) / (1 - 0.8**step)])
        launch(
            "adam_table", "step.cu", (-(-words // 8),), 256, table, *averages[:2], rows, place,
            touched, numbers, powers, words, width, *fresh,
        )  # fmt: skip
        launch(
            "adam_dense", "step.cu", (-(-size // 256),), 256, dense, *averages[2:], grads, numbers,
            powers, size, slices, size, *fresh,
        )  # fmt: skip
    np.testing.assert_allclose(table, expected["table"], 1e-5, 1e-5)
    np.testing.assert_allclose(dense, expected["dense"], 1e-5, 1e-5)


# --- errors planted in the kernels are seen -------------------------------------------------------

# file, what stands there once, what takes its place, the test that sees it
PLANTED = {
    "no barrier before a tile is overwritten": (
        "products.cu",
        "      __syncthreads();  // all have used what stands in shared memory\n",
        "",
        "test_project_backward",
    ),
    "no barrier before a tile is read": (
        "products.cu",
        "      __syncthreads();\n      if (k + DEPTH",
        "      if (k + DEPTH",
        "test_project_backward",
    ),
    "a slice too long": (
        "products.cu",
        "min((slice + 1) * each, N)",
        "N",
        "test_sum_outer",
    ),
    "lengths read too early": (
        "step.cu",
        "    if (lane == 0) length[b] = steps;\n  }\n  __syncthreads();",
        "    if (lane == 0) length[b] = steps;\n  }",
        "test_plan_packs",
    ),
    "ranks not stable": (
        "step.cu",
        "&& other < b)",
        "&& other > b)",
        "test_plan_packs",
    ),
    "losses read too early": (
        "step.cu",
        "  __syncthreads();\n  if (warp) return;",
        "  if (warp) return;",
        "test_cross_entropy",
    ),
    "the rows of a warp's other steps left out": (
        "step.cu",
        "m = n / WARP * WARP; m < N",
        "m = n / WARP * WARP + WARP; m < N",
        "test_sum_equal_ids",
    ),
    "gradients that have a square taken for infinite ones": (
        "step.cu",
        "isfinite(g * g)",
        "isfinite(g * g * g)",
        "test_check_gradients",
    ),
    "gradients of the table not looked at": (
        "step.cu",
        "place[ids[n]] == n) g =",
        "place[ids[n]] < 0) g =",
        "test_check_gradients",
    ),
    "v without its square": (
        "step.cu",
        "(g * g - v)",
        "(g - v)",
        "test_adam",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_an_error_planted_in_a_kernel_is_seen(name):
    """In a process of its own, for it may well write where it should not."""
    file, old, new, test = PLANTED[name]
    text = modules.source(file)
    assert text.count(old) == 1
    code = f"""
import sys, pytest
from hypothesis import Phase, settings
from minirnn.cuda import modules
settings.register_profile("first failure", phases=[Phase.generate])
settings.load_profile("first failure")
source = modules.source
modules.source = lambda *files: source(*files).replace({old!r}, {new!r})
sys.exit(pytest.main(["-qx", "-p", "no:cacheprovider", {__file__!r}, "-k", {test!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 or done.returncode < 0, done.stdout
