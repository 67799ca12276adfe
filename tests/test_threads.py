"""Two things at once: what comes out does not tell that there were two threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from recurrent_cases import KINDS, built_bidirectional, equal_grads, make

import minirnn
from minirnn import Sequential, set_random_seed, threads
from minirnn.layers import Bidirectional, Dense, Embedding
from minirnn.threads import WORTH_A_THREAD, side_by_side

ENOUGH = WORTH_A_THREAD
PATIENCE = 20  # seconds, after which a thread that waits has waited in vain


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    """However many cores there are."""
    monkeypatch.setenv("MINIRNN_THREADS", "2")


def run_python(code, **environment):
    """Run `code` in a Python of its own, where it may fork, or wait for ever."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", "-c", code],
        cwd=Path(minirnn.__file__).parents[1],
        env=os.environ | {"MINIRNN_THREADS": "2"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- side_by_side ---------------------------------------------------------------------------------


@pytest.mark.parametrize("work", [0, ENOUGH - 1, ENOUGH, 100 * ENOUGH])
@pytest.mark.parametrize("number", ["1", "2", "7", ""])
def test_both_results_come_in_order(work, number, monkeypatch):
    monkeypatch.setenv("MINIRNN_THREADS", number)
    asked = []
    assert side_by_side(lambda k: asked.append(k) or f"result {k}", work) == (
        "result 0",
        "result 1",
    )
    assert sorted(asked) == [0, 1]


def test_both_run_at_the_same_time():
    barrier = threading.Barrier(2)

    def task(k):
        barrier.wait(PATIENCE)  # breaks unless both stand here
        return k, threading.get_ident()

    (first, here), (second, there) = side_by_side(task, ENOUGH)
    assert (first, second) == (0, 1)
    assert here == threading.get_ident() != there


@pytest.mark.parametrize("reason", ["little work", "one thread", "another backend"])
def test_one_after_the_other_where_two_threads_do_not_pay(reason, monkeypatch):
    if reason == "one thread":
        monkeypatch.setenv("MINIRNN_THREADS", "1")
    if reason == "another backend":
        monkeypatch.setattr(threads, "get_backend", lambda: "cupy")
    asked = []

    def task(k):
        asked.append(k)
        return threading.get_ident()

    work = ENOUGH - 1 if reason == "little work" else ENOUGH
    assert side_by_side(task, work) == (threading.get_ident(),) * 2
    assert asked == [0, 1]


@pytest.mark.parametrize("failing", [{0}, {1}, {0, 1}])
def test_an_error_comes_out_when_the_other_task_has_ended(failing):
    begun, ended = [threading.Event(), threading.Event()], []
    pause = threading.Event()

    def task(k):
        begun[k].set()
        assert begun[1 - k].wait(PATIENCE)
        if k in failing:
            raise LookupError(f"task {k}")
        pause.wait(0.1)  # the other has failed by now
        ended.append(k)

    with pytest.raises(LookupError, match=f"^task {min(failing)}$"):
        side_by_side(task, ENOUGH)
    assert set(ended) == {0, 1} - failing
    # The next one works as ever.
    assert side_by_side(lambda k: k, ENOUGH) == (0, 1)


def test_an_error_comes_out_with_one_thread_too(monkeypatch):
    monkeypatch.setenv("MINIRNN_THREADS", "1")
    for failing in (0, 1):
        with pytest.raises(ZeroDivisionError):
            side_by_side(lambda k, failing=failing: 1 / (k != failing), ENOUGH)


@pytest.mark.parametrize("kind", ["ignore", "raise"])
def test_both_tasks_have_the_callers_way_with_floating_point_errors(kind):
    barrier = threading.Barrier(2)

    def task(k):
        barrier.wait(PATIENCE)
        try:
            return np.ones(3) / np.zeros(3)  # a warning, which is an error, if nobody says else
        except FloatingPointError:
            return "raised"

    with np.errstate(divide=kind):
        results = side_by_side(task, ENOUGH)
    for result in results:
        assert result == "raised" if kind == "raise" else np.isinf(result).all()


def keep_all_threads_busy(release):
    """Callers whose tasks wait for `release`; gives them when all their tasks have begun."""
    workers = 2
    begun = threading.Barrier(2 * workers + 1)

    def task(k):
        begun.wait(PATIENCE)
        release.wait(PATIENCE)

    callers = [threading.Thread(target=side_by_side, args=(task, ENOUGH)) for _ in range(workers)]
    for caller in callers:
        caller.start()
    begun.wait(PATIENCE)
    return callers


def test_nobody_waits_for_a_free_thread():
    release, done = threading.Event(), threading.Event()
    callers, results = keep_all_threads_busy(release), []

    def call():
        results.extend(side_by_side(lambda k: (k, threading.get_ident()), ENOUGH))
        done.set()

    caller = threading.Thread(target=call)
    caller.start()
    in_time = done.wait(PATIENCE / 4)
    release.set()
    for thread in (*callers, caller):
        thread.join()
    assert in_time
    assert results == [(0, caller.ident), (1, caller.ident)]


def test_after_an_error_no_task_is_left_to_begin_later():
    release, asked = threading.Event(), []
    callers = keep_all_threads_busy(release)

    def task(k):
        asked.append(k)
        raise LookupError(f"task {k}")

    waited = threading.Timer(PATIENCE / 4, release.set)  # for one that waits for a free thread
    waited.start()
    with pytest.raises(LookupError, match="task 0"):
        side_by_side(task, ENOUGH)
    waited.cancel()
    in_time = not release.is_set()
    release.set()
    for thread in callers:
        thread.join()
    assert in_time
    side_by_side(lambda k: k, ENOUGH)
    assert asked == [0]


def test_a_helper_whose_caller_is_interrupted_is_given_up(monkeypatch):
    side_by_side(lambda k: k, ENOUGH)
    release, ended = threading.Event(), threading.Event()

    def task(k):
        if k:
            release.wait(PATIENCE)
            ended.set()
        return k

    def interrupted(helper):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(threads._Helper, "result", interrupted)
        side_by_side(task, ENOUGH)
    # Others do the work meanwhile, and what the one left alone computes goes nowhere.
    for _ in range(3):
        assert side_by_side(lambda k: (k, threading.get_ident()), ENOUGH)[1][0] == 1
    release.set()
    assert ended.wait(PATIENCE)
    assert side_by_side(lambda k: k, ENOUGH) == (0, 1)
    assert len(threads._helpers) <= threads.HELPERS


def test_tasks_within_tasks_come_to_an_end():
    code = f"""
import threading
from minirnn.threads import side_by_side

def total(depth):
    return 1 if depth == 0 else sum(side_by_side(lambda k: total(depth - 1), {ENOUGH}))

sums = []
callers = [threading.Thread(target=lambda: sums.append(total(6))) for _ in range(5)]
for caller in callers: caller.start()
for caller in callers: caller.join()
print(sums)
"""
    assert run_python(code).strip() == str([64] * 5)


# --- MINIRNN_THREADS ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "2.0", "1e1", "²", "1_0", "nan"])
def test_the_variable_has_to_be_a_positive_whole_number(value, monkeypatch):
    monkeypatch.setenv("MINIRNN_THREADS", value)
    message = f"^MINIRNN_THREADS: expected a positive whole number, received .?{value}.?$"
    with pytest.raises(ValueError, match=message):
        threads.threads()
    with pytest.raises(ValueError, match=message):
        side_by_side(lambda k: k, ENOUGH)


@pytest.mark.parametrize("cores, expected", [(1, 1), (2, 2), (64, 2), (None, 1)])
def test_without_the_variable_two_threads_if_there_are_two_cores(cores, expected, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setenv("MINIRNN_THREADS", "")
    assert threads.threads() == expected
    monkeypatch.delenv("MINIRNN_THREADS")
    assert threads.threads() == expected
    monkeypatch.setenv("MINIRNN_THREADS", "3")
    assert threads.threads() == 3


class Blas:
    """Counts as threadpoolctl's controller would set threads."""

    def __init__(self):
        self.now, self.seen = 2, []

    def limit(self, limits, user_api):
        assert user_api == "blas"
        before, self.now = self.now, limits
        outer = self

        class Limit:
            def restore_original_limits(self):
                outer.now = before

        return Limit()


def test_blas_keeps_to_one_thread_while_tasks_run(monkeypatch):
    """Also with one thread of ours (the same numbers), in nested calls, and after an error."""
    blas = Blas()
    monkeypatch.setattr(threads, "_blas", lambda loops_only=False: blas)
    for number in ("1", "2"):
        monkeypatch.setenv("MINIRNN_THREADS", number)
        assert side_by_side(lambda k: blas.now, ENOUGH) == (1, 1)
        assert blas.now == 2
        nested = side_by_side(lambda k: side_by_side(lambda j: blas.now, ENOUGH), ENOUGH)
        assert nested == ((1, 1), (1, 1)) and blas.now == 2
        with pytest.raises(ZeroDivisionError):
            side_by_side(lambda k: 1 // k, ENOUGH)
        assert blas.now == 2
    assert side_by_side(lambda k: blas.now, 0) == (2, 2)


def test_limits_are_kept_for_as_long_as_someone_wants_that(monkeypatch):
    blas = Blas()
    monkeypatch.setattr(threads, "_blas", lambda loops_only=False: blas)
    with threads.keep_limits():
        assert blas.now == 2
        with threads.keep_limits():
            assert side_by_side(lambda k: blas.now, ENOUGH) == (1, 1)
            assert blas.now == 1
        assert blas.now == 1
    assert blas.now == 2
    with threads.ONE_BLAS_THREAD_IN_LOOPS:
        with threads.keep_limits():
            pass
        assert blas.now == 1
    assert blas.now == 2
    with pytest.raises(ZeroDivisionError), threads.keep_limits():
        side_by_side(lambda k: 1 // k, ENOUGH)
    assert blas.now == 2


def test_the_blas_of_compiled_loops_is_scipys():
    pytest.importorskip("numba")
    pytest.importorskip("minirnn.kernels")
    pools, loops = (threads._blas(loops_only).info() for loops_only in (False, True))
    assert loops and len(pools) >= len(loops)
    before = {pool["filepath"]: pool["num_threads"] for pool in pools}
    with threads.ONE_BLAS_THREAD_IN_LOOPS as limited:
        assert limited
        assert {pool["num_threads"] for pool in threads._blas(True).info()} == {1}
        others = {pool["filepath"] for pool in pools} - {pool["filepath"] for pool in loops}
        assert others or len(pools) == len(loops)
        for pool in threads._blas(False).info():
            if pool["filepath"] in others:
                assert pool["num_threads"] == before[pool["filepath"]]
    assert threads._blas(True).info() == loops


@pytest.mark.parametrize(("variable", "at_once"), [("1", True), ("2", False), (None, False)])
def test_without_threadpoolctl_only_the_user_can_limit_blas(variable, at_once, monkeypatch):
    monkeypatch.setattr(threads, "_blas", lambda loops_only=False: None)
    monkeypatch.setenv("MINIRNN_THREADS", "2")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", variable)
    handed = []
    monkeypatch.setattr(threads, "_at_once", lambda task: handed.append(1) or (task(0), task(1)))
    assert side_by_side(lambda k: k, ENOUGH) == (0, 1)
    assert bool(handed) == at_once


# --- Bidirectional --------------------------------------------------------------------------------

ROWS, TIME, FEATURES, UNITS = 37, 41, 23, 19


def counted(monkeypatch):
    """A list that grows with every task that is handed over."""
    calls, at_once = [], threads._at_once

    def counting(task):
        calls.append(task)
        return at_once(task)

    monkeypatch.setattr(threads, "_at_once", counting)
    return calls


@pytest.fixture
def handed_over(monkeypatch):
    """Every cell's loops are handed over, compiled or not."""
    monkeypatch.setattr("minirnn.layers.bidirectional.loops", lambda *arguments: None)


def test_loops_that_numpy_walks_stay_on_one_thread(monkeypatch):
    """Two threads of small NumPy calls would only wait for each other."""
    layer = built_bidirectional("gru", np.random.default_rng(6), UNITS, FEATURES, "float32")
    calls = counted(monkeypatch)
    y, cache = layer.forward(np.ones((ROWS, TIME, FEATURES), "float32"))
    layer.backward(y, cache)
    assert not calls


@pytest.mark.usefixtures("handed_over")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("return_sequences", [False, True])
def test_a_layer_gives_the_same_bits_with_one_thread_and_two(kind, return_sequences, monkeypatch):
    rng = np.random.default_rng(1)
    layer = built_bidirectional(
        kind, rng, UNITS, FEATURES, "float32", return_sequences=return_sequences
    )
    x = rng.normal(size=(ROWS, TIME, FEATURES)).astype("float32")
    mask = rng.random((ROWS, TIME)) < 0.9
    calls, results = counted(monkeypatch), []
    for number in ("1", "2", "2"):
        monkeypatch.setenv("MINIRNN_THREADS", number)
        y, cache = layer.forward(x, mask)
        results.append((y, *layer.backward(np.cos(y), cache)))
    assert len(calls) == 4
    y, dx, grads = results[0]
    for y_two, dx_two, grads_two in results[1:]:
        assert np.array_equal(y, y_two) and np.array_equal(dx, dx_two)
        assert equal_grads(grads, grads_two)


def weights_after_training(kind):
    set_random_seed(2)
    rng = np.random.default_rng(3)
    layer = make(kind, UNITS, dropout=0.2, recurrent_dropout=0.1, return_sequences=True)
    model = Sequential(
        [
            Embedding(101, FEATURES, mask_zero=True),
            Bidirectional(layer),
            Bidirectional(make(kind, UNITS)),
            Dense(3, activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy")
    tokens = rng.integers(1, 101, (ROWS, TIME))
    tokens[np.arange(TIME) >= rng.integers(TIME // 2, TIME + 1, ROWS)[:, None]] = 0
    tokens[0] = 0
    labels = rng.integers(0, 3, ROWS)
    losses = [model.train_on_batch(tokens, labels) for _ in range(3)]
    return losses, {key: np.copy(value) for key, value in model.params.items()}


@pytest.mark.usefixtures("handed_over")
@pytest.mark.parametrize("kind", ["simple_rnn", "lstm", "gru"])
def test_training_gives_the_same_bits_with_one_thread_and_two(kind, monkeypatch):
    monkeypatch.setattr(threads, "WORTH_A_THREAD", 10_000)
    calls = counted(monkeypatch)
    losses, weights = weights_after_training(kind)
    assert len(calls) == 3 * 2 * 2  # steps, layers, forward and backward
    monkeypatch.setenv("MINIRNN_THREADS", "1")
    losses_one, weights_one = weights_after_training(kind)
    assert losses == losses_one and equal_grads(weights, weights_one)
    assert len(calls) == 3 * 2 * 2


@pytest.mark.usefixtures("handed_over")
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_layer_in_tasks_side_by_side(kind):
    rng = np.random.default_rng(4)
    layer = built_bidirectional(kind, rng, UNITS, FEATURES, "float32")
    x = rng.normal(size=(2, 2, ROWS, TIME, FEATURES)).astype("float32")
    barrier = threading.Barrier(2)

    def task(k):
        barrier.wait(PATIENCE)
        return side_by_side(lambda i: layer(x[k, i]), ENOUGH)

    for k, pair in enumerate(side_by_side(task, ENOUGH)):
        for i, y in enumerate(pair):
            assert np.array_equal(y, layer(x[k, i]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_forked_process_computes_the_same(kind):
    """The parent's threads are not there, and the child starts its own."""
    code = f"""
import os, signal, threading
import numpy as np
from minirnn.layers import Bidirectional, {kind}
from minirnn.threads import side_by_side

layer = Bidirectional({kind}({UNITS}))
x = np.random.default_rng(5).normal(size=({ROWS}, {TIME}, {FEATURES})).astype("float32")

def both():
    layer.ensure_built(x)
    y, cache = layer.forward(x)
    dx, grads = layer.backward(np.cos(y), cache)
    return [y, dx, *grads.values()]

def two_threads():
    barrier = threading.Barrier(2)
    def task(k):
        barrier.wait({PATIENCE})
        return threading.get_ident()
    return len(set(side_by_side(task, {ENOUGH})))

want = both()
assert two_threads() == 2
child = os.fork()
if child == 0:
    signal.alarm(40)
    right = False
    try:
        right = two_threads() == 2 and all(map(np.array_equal, both(), want))
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0 if all(map(np.array_equal, both(), want)) else 1)
        right = right and os.waitpid(grandchild, 0)[1] == 0
    finally:
        os._exit(0 if right else 1)
assert os.waitpid(child, 0)[1] == 0
assert all(map(np.array_equal, both(), want)) and two_threads() == 2
print("the same")
"""
    assert run_python(code).strip() == "the same"
