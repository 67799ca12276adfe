"""On a GPU: gradient checks, the same numbers as on the CPU, the same bits every time, memory.

    pytest -m gpu

Without a GPU the same tests run on the stand-in for CuPy, with less to do.
"""

import cuda_emulator
import numpy as np
import pytest
import strict_cupy

import minirnn
from minirnn import backend, losses, timeloop
from minirnn.backend import get_backend, set_backend, set_floatx, to_device, to_host, xp
from minirnn.cells import GRUCell, LSTMCell, SimpleRNNCell
from minirnn.cuda import loops
from minirnn.cuda.graph import training_graph
from minirnn.gradcheck import check_library, gradcheck
from minirnn.layers import GRU, LSTM, Bidirectional, Dense, Embedding, SimpleRNN
from minirnn.models import Sequential
from minirnn.optimizers import Adam
from minirnn.packing import Packing

WORDS, CLASSES = 211, 4


@pytest.fixture(params=[pytest.param("gpu", marks=pytest.mark.gpu), "stand-in"])
def device(request):
    """Computing on a GPU, or on the stand-in for one."""
    if request.param == "stand-in":
        if not cuda_emulator.has_compiler():
            pytest.skip(f"needs a C++ compiler ({cuda_emulator.COMPILER})")
        with strict_cupy.installed():
            yield "stand-in"
    else:
        if set_backend("auto") != "cupy":
            pytest.skip("there is no GPU that CuPy can use here")
        yield "gpu"
    set_backend("numpy")
    set_floatx("float32")


def on_host(run):
    """What `run` gives when NumPy computes."""
    module = xp.module
    set_backend("numpy")
    try:
        return run()
    finally:
        xp.use(module)


# --- gradients ------------------------------------------------------------------------------------


def test_every_gradient_check(device):
    if device == "gpu":
        assert all(report.passed for _, report in check_library())
    for layer in (
        LSTM(3, return_sequences=True),
        Bidirectional(GRU(2)),
        SimpleRNN(5, recurrent_dropout=0.3),
        losses.SparseCategoricalCrossentropy(),
    ):
        options = {"training": True} if hasattr(layer, "units") else {}
        report = gradcheck(layer, **options)
        assert report.passed, report


# --- the time loops beside those of the cells -----------------------------------------------------


def loop_results(cell, x, packing, first, dfinal, dhistory):
    weights = cell.params
    cell.params = {key: to_device(value) for key, value in weights.items()}
    states = tuple(map(to_device, first))
    cache = timeloop.run(cell, to_device(x), packing, states)
    given = tuple(map(to_device, dfinal)), tuple(map(to_device, dhistory))
    dx, dfirst, grads = timeloop.run_backward(cell, *given, cache)
    cell.params = weights
    return [to_host(a) for a in (*cache.history, dx, *dfirst, *grads.values())]


@pytest.mark.parametrize("units", [5, 16, 64, 96, 100, 128, 192, 300])
@pytest.mark.parametrize("cell_class", [SimpleRNNCell, LSTMCell, GRUCell])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_loops_give_what_the_cells_give(device, cell_class, units, dtype):
    if device == "stand-in" and units > 16:
        pytest.skip("on the stand-in, large cells are a matter of test_cuda_loops.py")
    set_floatx(dtype)
    rng = np.random.default_rng(units)
    mask = rng.random((7, 23)) < 0.7
    mask[3] = False
    cell = on_host(lambda: built(cell_class(units), rng, dtype))
    n, states = int(mask.sum()), range(len(cell.state_names))

    def draw(*shape):
        return rng.normal(size=shape).astype(dtype)

    x, first = draw(n, 6), [draw(7, units) for _ in states]
    dfinal = [draw(7, units) for _ in states]
    dhistory = [draw(7 + n, units) for _ in states]
    tolerance = 1e-9 if dtype == "float64" else 2e-4
    for reverse in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(timeloop, "loops", lambda cell, *rest: cell)
            expected = on_host(
                lambda reverse=reverse: loop_results(
                    cell, x, Packing(mask, reverse), first, dfinal, dhistory
                )
            )
        got = loop_results(cell, x, Packing(mask, reverse), first, dfinal, dhistory)
        for a, b in zip(expected, got, strict=True):
            np.testing.assert_allclose(b, a, tolerance, tolerance)


def built(cell, rng, dtype):
    cell.build(6)
    scale = 0.5 / np.sqrt(cell.units)
    cell.params = {
        key: rng.normal(scale=scale, size=value.shape).astype(dtype)
        for key, value in cell.params.items()
    }
    return cell


def test_a_cell_that_does_not_fit_on_this_device_goes_step_by_step(device, monkeypatch):
    assert loops.LSTM.size(64) is not None
    limit = xp.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"]
    assert (loops.LSTM.size(128) is not None) == (limit >= 140_000)
    monkeypatch.setattr(loops, "shared_memory", lambda module: 99 * 1024)
    assert loops.LSTM.size(128) is None
    assert loops.GRU.size(128) is not None


# --- training -------------------------------------------------------------------------------------

MODELS = {
    "rnn": lambda: [SimpleRNN(16)],
    "lstm": lambda: [LSTM(8)],
    "gru": lambda: [GRU(11, return_sequences=True), GRU(7)],
    "bilstm": lambda: [
        Bidirectional(LSTM(64, return_sequences=True)),
        Bidirectional(LSTM(64)),
    ],
}


def trained(kind, mask_zero, rows, epochs=2):
    """`(losses, weights)` of a classifier after `fit` on random rows."""
    minirnn.utils.set_random_seed(7)
    rng = np.random.default_rng(1)
    x = [rng.integers(1, WORDS, rng.integers(1, 40)) for _ in range(rows)]
    y = rng.integers(0, CLASSES, rows)
    stack = [Embedding(WORDS, 24, mask_zero=mask_zero), *MODELS[kind]()]
    model = Sequential([*stack, Dense(CLASSES, activation="softmax")])
    model.compile(Adam(0.01), "sparse_categorical_crossentropy", ["acc"])
    history = model.fit(x, y, batch_size=16, epochs=epochs, verbose=0)
    return history.history["loss"], model.get_weights()


@pytest.mark.parametrize("mask_zero", [True, False])
@pytest.mark.parametrize("kind", MODELS)
def test_training_as_on_the_cpu(device, kind, mask_zero):
    if device == "stand-in" and kind == "bilstm":
        pytest.skip("too much work for the stand-in")
    rows = 200 if device == "gpu" else 40
    losses_here, weights = trained(kind, mask_zero, rows)
    losses_there, expected = on_host(lambda: trained(kind, mask_zero, rows))
    np.testing.assert_allclose(losses_here, losses_there, 1e-4)
    for a, b in zip(weights, expected, strict=True):
        np.testing.assert_allclose(a, b, 1e-2, 1e-3)


@pytest.mark.parametrize("kind", MODELS)
def test_the_same_bits_every_time(device, kind):
    if device == "stand-in" and kind == "bilstm":
        pytest.skip("too much work for the stand-in")
    rows = 400 if device == "gpu" else 40
    (losses_1, first), (losses_2, second) = (trained(kind, True, rows) for _ in range(2))
    assert losses_1 == losses_2
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


# --- memory ---------------------------------------------------------------------------------------


def a_graph():
    minirnn.utils.set_random_seed(7)
    model = Sequential(
        [Embedding(WORDS, 8, mask_zero=True), LSTM(8), Dense(CLASSES, activation="softmax")]
    )
    model.compile(Adam(0.01), "sparse_categorical_crossentropy", ["acc"])
    model.build()
    model.require_compiled()
    return training_graph(model)


@pytest.mark.gpu
def test_no_memory_is_lost_in_a_thousand_steps():
    if set_backend("auto") != "cupy":
        pytest.skip("there is no GPU that CuPy can use here")
    try:
        rng = np.random.default_rng(0)
        x, y = rng.integers(0, WORDS, (16, 33)), rng.integers(0, CLASSES, 16)
        graph, pool = a_graph(), xp.get_default_memory_pool()
        eager = Sequential([Embedding(WORDS, 8, mask_zero=True), LSTM(8), Dense(CLASSES)])
        eager.compile("sgd", losses.SparseCategoricalCrossentropy(from_logits=True))
        used = []
        for step in range(1_000):
            graph.step(x, y)
            eager.train_on_batch(x, y)
            if step in (99, 999):
                graph.read()
                used.append(pool.used_bytes())
        assert used[0] == used[1]
    finally:
        set_backend("numpy")


def test_memory_that_is_full_gives_an_error_that_helps(device, monkeypatch):
    model = Sequential([Embedding(WORDS, 64), LSTM(64), Dense(CLASSES, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = np.ones((64, 128), dtype=np.int32), np.zeros(64, dtype=np.int32)
    model.build()
    if device == "gpu":
        pool = xp.get_default_memory_pool()
        pool.free_all_blocks()
        pool.set_limit(size=pool.total_bytes() + 2**20)
    else:

        class OutOfMemoryError(MemoryError):
            __module__ = "cupy.cuda.memory"

        def full(*shape, **options):
            raise OutOfMemoryError("Out of memory allocating 512 bytes.")

        monkeypatch.setattr(xp.module, "empty", full)
        xp.use(xp.module)
    try:
        with pytest.raises(MemoryError, match=r"the memory of the GPU is full \(Out of memory"):
            model.fit(x, y, batch_size=64, verbose=0)
    finally:
        if device == "gpu":
            pool.set_limit(size=0)


def test_a_host_that_is_full_is_no_matter_of_the_gpu():
    with pytest.raises(MemoryError, match="^of the host$"), backend.memory_errors():
        raise MemoryError("of the host")


def test_the_backend_is_the_device(device):
    assert get_backend() == "cupy"
    assert type(xp.zeros(3)).__module__ != "numpy"
