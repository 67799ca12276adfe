"""One model and several threads: answers are those of some moment between two steps, and training
goes as if nobody had looked."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import minirnn
from minirnn import ModelBusyError, Sequential, backend, set_random_seed, turns
from minirnn.callbacks import Callback
from minirnn.data import Dataset
from minirnn.layers import LSTM, Bidirectional, Dense, Embedding, SimpleRNN, TextVectorization
from minirnn.turns import Turns

PATIENCE = 30  # seconds, after which a thread that waits has waited in vain
WORDS = 300  # so many that most rows of the table wait for most batches
X = np.random.default_rng(5).integers(1, WORDS, (11, 6)).astype(np.int32)
Y = np.arange(11) % 3


def make(optimizer="adam", **options):
    set_random_seed(3)
    model = Sequential(
        [
            Embedding(WORDS, 8, mask_zero=True),
            SimpleRNN(5, **options),
            Dense(3, activation="softmax"),
        ]
    )
    model.compile(optimizer, "sparse_categorical_crossentropy", ["acc"])
    model.build((None, None))
    return model


def batch(k, rows=4):
    rng = np.random.default_rng(k)
    x = rng.integers(1, WORDS, (rows, int(rng.integers(2, 7)))).astype(np.int32)
    return x, rng.integers(0, 3, rows)


class Steps:
    """`count` batches; before each of them `between(its number)` is called."""

    def __init__(self, count, between=lambda k: None):
        self.count, self.between = count, between

    def __iter__(self):
        for k in range(self.count):
            self.between(k)
            yield batch(k)


def in_thread(action):
    """What `action` gives, or raises, in another thread."""
    got = []

    def run():
        try:
            got.append((action(), None))
        except BaseException as error:
            got.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert got, "it waits for ever"
    result, error = got[0]
    if error is not None:
        raise error
    return result


def all_at_once(actions):
    """What each gives, all begun at one moment."""
    barrier, results = threading.Barrier(len(actions)), [None] * len(actions)

    def run(i, action):
        barrier.wait(PATIENCE)
        try:
            results[i] = action()
        except BaseException as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "it waits for ever"
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


@pytest.fixture(autouse=True)
def restless():
    """Threads change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def same(a, b):
    return len(a) == len(b) and all(map(np.array_equal, a, b))


def trained(steps, **options):
    model = make(**options)
    model.fit(Steps(steps), verbose=0)
    return model


# --- looking at a model that is being trained -----------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "sgd"])
@pytest.mark.parametrize("where", [in_thread, lambda action: action()], ids=["thread", "source"])
def test_in_the_middle_of_training_a_model_is_what_its_steps_so_far_made_it(optimizer, where):
    """Rows that wait included: as if training had stopped there. And training does not notice."""
    model, seen = make(optimizer), []

    def look(k):
        if k in (1, 7, 8):
            seen.append(
                where(lambda: (model.predict(X), model.evaluate(X, Y, verbose=0, batch_size=4)))
            )

    model.fit(Steps(12, look), verbose=0)
    for k, (answer, figures) in zip((1, 7, 8), seen, strict=True):
        expected = trained(k, optimizer=optimizer)
        assert np.array_equal(answer, expected.predict(X))
        assert figures == expected.evaluate(X, Y, verbose=0, batch_size=4)
    assert same(model.get_weights(), trained(12, optimizer=optimizer).get_weights())


def test_every_answer_is_that_of_a_moment_between_two_steps():
    steps, answers, alone = 150, [], []
    watched = make()
    watched.fit(Steps(steps, lambda k: alone.append(watched.predict(X).tobytes())), verbose=0)
    alone.append(watched.predict(X).tobytes())
    assert len(set(alone)) == steps + 1

    model, ended = make(), threading.Event()

    def look():
        while not ended.is_set():
            answers.append(model.predict(X).tobytes())
        answers.append(model.predict(X).tobytes())

    def train():
        try:
            model.fit(Steps(steps), verbose=0)
        finally:
            ended.set()

    all_at_once([train, look, look])
    assert set(answers) <= set(alone)
    assert len(set(answers)) > 2
    assert same(model.get_weights(), watched.get_weights())


def test_one_call_that_begins_in_training_sees_one_moment():
    """However many batches it has: the copy is made for the first and serves them all."""
    model, moments = make(), []
    begun, go_on = threading.Event(), threading.Event()

    class Rows:
        def __iter__(self):
            for _ in range(2):
                yield X
                begun.set()
                go_on.wait(PATIENCE)

    def look(k):
        if k == 3:
            thread = threading.Thread(target=lambda: moments.append(model.predict(Rows())))
            thread.start()
            assert begun.wait(PATIENCE)
            moments.append(thread)
        if k == 9:
            go_on.set()
            moments.pop(0).join(PATIENCE)

    model.fit(Steps(12, look), verbose=0)
    first, second = np.split(moments[0], 2)
    assert np.array_equal(first, second)
    assert np.array_equal(first, trained(3).predict(X))


def test_training_that_begins_during_a_prediction():
    """Batches before it and batches after it are each right."""
    model, expected = make(), make().predict(X)
    begun, go_on, got = threading.Event(), threading.Event(), []

    class Rows:
        def __iter__(self):
            yield X
            begun.set()
            go_on.wait(PATIENCE)
            yield X

    thread = threading.Thread(target=lambda: got.append(model.predict(Rows())))
    thread.start()
    assert begun.wait(PATIENCE)

    def look(k):
        if k == 5:
            go_on.set()
            thread.join(PATIENCE)

    model.fit(Steps(8, look), verbose=0)
    first, second = np.split(got[0], 2)
    assert np.array_equal(first, expected)
    assert np.array_equal(second, trained(5).predict(X))


def test_a_file_saved_in_training_is_whole_and_training_does_not_notice(tmp_path):
    model = make()

    def look(k):
        if k == 6:
            in_thread(lambda: model.save(tmp_path / "six"))

    model.fit(Steps(9, look), verbose=0)
    assert np.array_equal(minirnn.load(tmp_path / "six").predict(X), trained(6).predict(X))
    assert same(model.get_weights(), trained(9).get_weights())


def test_generating_and_translating_in_training():
    def language_model(steps=0, between=lambda k: None):
        set_random_seed(4)
        layers = [Embedding(30, 4), LSTM(6, return_sequences=True), Dense(30, activation="softmax")]
        model = Sequential(layers)
        model.compile(minirnn.optimizers.Adam(0.1), "sparse_categorical_crossentropy")
        model.build()
        rows = np.random.default_rng(1).integers(0, 30, (9, 2, 5))

        class Rows:
            def __iter__(self):
                for k in range(steps):
                    between(model, k)
                    yield rows[k, :, :-1], rows[k, :, 1:]

        if steps:
            model.fit(Rows(), verbose=0)
        return model

    def write(model):
        return minirnn.generate(model, [[3, 1], [4, 1]], steps=20, rng=1)

    got = []

    def look(model, k):
        if k == 5:
            got.append(in_thread(lambda: write(model)))

    after = language_model(9, look)
    expected = language_model(5, lambda model, k: None)
    assert np.array_equal(got[0], write(expected))
    assert not np.array_equal(got[0], write(after))


def test_models_that_read_texts():
    texts = [f"word{i} word{i + 1}" for i in range(40)]
    labels = np.arange(40) % 2

    def make_one():
        set_random_seed(1)
        vectorizer = TextVectorization()
        vectorizer.adapt(texts)
        layers = [Embedding(60, 4), LSTM(3), Dense(2, activation="softmax")]
        model = Sequential([vectorizer, *layers])
        model.compile("adam", "sparse_categorical_crossentropy")
        model.build()
        return model

    class Look(Callback):
        def on_epoch_begin(self, epoch):
            got.append(in_thread(lambda: self.model.predict(texts)))

    got = []
    make_one().fit(texts, labels, epochs=3, verbose=0, callbacks=[Look()])
    shorter = make_one()
    shorter.fit(texts, labels, epochs=2, verbose=0)
    assert np.array_equal(got[2], shorter.predict(texts))


# --- many threads, one model ----------------------------------------------------------------------


@pytest.mark.parametrize("compiled", ["0", "1"])
def test_one_model_in_many_threads_gives_the_same_bits_as_alone(compiled):
    """In a new process, so that imports, compiling and caches are met at the same time, too."""
    code = f"""
import sys, threading
import numpy as np
import minirnn
from minirnn.layers import *
sys.setswitchinterval(1e-5)
rng = np.random.default_rng(0)
model = minirnn.Sequential([
    Embedding(90, 8, mask_zero=True), Bidirectional(LSTM(7, return_sequences=True)),
    GRU(5, return_sequences=True), GlobalAveragePooling1D(), Dense(3, activation="softmax"),
])
inputs = [rng.integers(0, 90, (1 + k % 7, 1 + 5 * k % 40)) for k in range(20)]
barrier, results = threading.Barrier(6), {{}}
def work(name):
    barrier.wait({PATIENCE})  # the model is not even built yet
    results[name] = [model.predict(x) for x in inputs * 3]
threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
alone = [model.predict(x) for x in inputs * 3]
assert len(results) == 6
assert all(all(map(np.array_equal, alone, got)) for got in results.values())
"""
    run_python(code, MINIRNN_COMPILED=compiled)


def run_python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", "-c", code],
        cwd=Path(minirnn.__file__).parents[1],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_predictions_run_side_by_side():
    """All of them stand inside the model at the same time."""
    barrier = threading.Barrier(4)

    class Meeting(Dense):
        def forward(self, x, mask=None, training=False):
            barrier.wait(PATIENCE)
            return super().forward(x, mask, training)

    model = Sequential([Embedding(WORDS, 4), SimpleRNN(3), Meeting(2)])
    model.build()
    results = all_at_once([lambda: model.predict(X)] * 4)
    assert same(results, results[:1] * 4)


def fitted_with(seed):
    set_random_seed(seed)
    layers = [
        Embedding(WORDS, 6, mask_zero=True),
        Bidirectional(LSTM(4, dropout=0.3, return_sequences=True)),
        LSTM(4, recurrent_dropout=0.2),
        Dense(3, activation="softmax"),
    ]
    model = Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = batch(seed, rows=40)
    shuffled = Dataset.from_tensor_slices((x, y)).shuffle(40).batch(7).prefetch(2)
    model.fit(x, y, batch_size=5, epochs=2, verbose=0)
    model.fit(shuffled, epochs=2, verbose=0)
    return model.get_weights()


def test_models_trained_side_by_side_come_out_as_alone():
    """Weights, shuffling, dropout, prefetching: each thread draws from a generator of its own."""
    seeds = [11, 12, 13, 11]
    alone = [fitted_with(seed) for seed in seeds]
    set_random_seed(0)
    before = backend.generator().bit_generator.state
    together = all_at_once([lambda seed=seed: fitted_with(seed) for seed in seeds])
    assert all(map(same, alone, together))
    assert not same(together[0], together[1])
    assert backend.generator().bit_generator.state == before


def test_training_one_model_does_not_disturb_another():
    other, x = make(), [batch(k)[0] for k in range(30)]
    expected = [other.predict(each) for each in x]
    got, weights = all_at_once(
        [lambda: [other.predict(each) for each in x], lambda: trained(40).get_weights()]
    )
    assert same(got, expected)
    assert same(weights, trained(40).get_weights())


# --- one at a time --------------------------------------------------------------------------------


def test_two_threads_cannot_train_one_model():
    model = make()

    def look(k):
        if k == 2:
            for action in (
                lambda: model.fit(*batch(0), verbose=0),
                lambda: model.train_on_batch(X, Y),
            ):
                with pytest.raises(ModelBusyError, match=r"another thread is in `fit` of 'seq"):
                    in_thread(action)

    model.fit(Steps(4, look), verbose=0)
    assert same(model.get_weights(), trained(4).get_weights())
    in_thread(lambda: model.fit(*batch(0), verbose=0))
    model.train_on_batch(X, Y)


def test_after_an_error_in_training_all_goes_on():
    def fail(k):
        if k == 3:
            raise LookupError("no more data")

    model = make()
    with pytest.raises(LookupError):
        model.fit(Steps(9, fail), verbose=0)
    assert np.array_equal(in_thread(lambda: model.predict(X)), trained(3).predict(X))
    with pytest.raises(ValueError, match="y_true"):
        model.fit(X, Y + 9, verbose=0)
    in_thread(lambda: model.fit(Steps(2), verbose=0))
    with pytest.raises(ValueError, match="outside"):
        model.predict(X + WORDS)
    in_thread(lambda: model.fit(Steps(2), verbose=0))


def test_batches_of_several_threads_are_trained_one_after_the_other():
    """Online learning: nothing is lost, whatever the order."""
    model = make("sgd")

    def train(name):
        for k in range(20):
            model.train_on_batch(*batch(100 * name + k))

    all_at_once([lambda name=name: train(name) for name in range(3)])
    assert model.optimizer.iterations == 60


def test_states_of_a_stateful_model_are_those_of_one_thread():
    model = make(stateful=True)
    begun, go_on = threading.Event(), threading.Event()

    class Rows:
        def __iter__(self):
            yield X
            begun.set()
            go_on.wait(PATIENCE)

    thread = threading.Thread(target=lambda: model.predict(Rows()))
    thread.start()
    assert begun.wait(PATIENCE)
    with pytest.raises(ModelBusyError, match=r"predict: another thread is in `predict`"):
        model.predict(X)
    go_on.set()
    thread.join(PATIENCE)
    model.predict(X)


def test_a_callback_may_use_the_model_and_wait_for_threads_that_do():
    class Uses(Callback):
        def on_train_batch_end(self, batch, logs):
            here = self.model.predict(X)
            assert np.array_equal(here, in_thread(lambda: self.model.predict(X)))

        def on_epoch_end(self, epoch, logs):
            self.model.evaluate(X, Y, verbose=0)
            self.model.train_on_batch(X, Y)

    model = make()
    model.fit(Steps(3), epochs=2, verbose=0, callbacks=[Uses()])
    assert model.optimizer.iterations == 8


def test_a_source_that_asks_the_model_in_a_thread_of_its_own():
    model = make()
    rows = Dataset.from_tensor_slices(batch(0, rows=30)).batch(3)
    asked = rows.map(lambda x, y: (x, model.predict(x).argmax(axis=1))).prefetch(2)
    in_thread(lambda: model.fit(asked, epochs=3, verbose=0))


def test_a_layer_that_trains_its_own_model_is_told_so():
    class Greedy(Dense):
        def forward(self, x, mask=None, training=False):
            if not training and len(x) == 11:
                model.train_on_batch(*batch(0))
            return super().forward(x, mask, training)

    model = Sequential([Embedding(WORDS, 4), SimpleRNN(3), Greedy(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.build()
    with pytest.raises(ModelBusyError, match="cannot be trained by what it computes"):
        in_thread(lambda: model.predict(X))
    model.predict(X[:3])


def test_a_model_that_cannot_be_copied_is_told_so():
    class Locked(Dense):
        lock = None

    model, told = (
        Sequential([Embedding(WORDS, 4), SimpleRNN(3), Locked(3, activation="softmax")]),
        [],
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.layers[-1].lock = threading.Lock()

    def look(k):
        if k:
            with pytest.raises(ModelBusyError, match="it cannot be copied"):
                in_thread(lambda: model.predict(X))
            told.append(k)

    model.fit(Steps(3, look), verbose=0)
    assert told == [1, 2]
    model.predict(X)


# --- turns ----------------------------------------------------------------------------------------


def test_nobody_is_kept_out():
    """Two threads that ask for turns all the time, and one of the other kind that gets its own."""
    for busy, patient in ((True, False), (False, True)):
        table, ended, taken = Turns(), threading.Event(), []

        def ask(table=table, busy=busy, ended=ended):
            while not ended.is_set():
                with table.alone() if busy else table.together():
                    time.sleep(1e-4)

        threads = [threading.Thread(target=ask, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()

        def wait(table=table, patient=patient, taken=taken):
            for _ in range(50):
                with table.alone() if patient else table.together():
                    taken.append(1)

        try:
            in_thread(wait)
        finally:
            ended.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert len(taken) == 50


def test_who_is_alone_is_alone():
    table, inside, worst = Turns(), [], []

    def change():
        for _ in range(200):
            with table.alone():
                inside.append("change")
                worst.append(tuple(inside))
                with table.alone(), table.together():
                    inside.remove("change")

    def look():
        for _ in range(200):
            with table.together():
                inside.append("look")
                if "change" in inside:
                    worst.append(tuple(inside))
                inside.remove("look")

    all_at_once([change, change, look, look])
    assert set(worst) == {("change",)}


@pytest.mark.parametrize("alone", [True, False])
def test_a_turn_that_an_interrupt_left_behind_is_given_back(alone):
    """It may come between taking a turn and the block that would give it back."""
    table = Turns()
    with pytest.raises(KeyboardInterrupt), table.visit():
        table.enter(alone)
        raise KeyboardInterrupt
    assert table.writer is None and not table.readers
    with table.alone(), table.visit():
        table.enter(True)
    assert in_thread(lambda: table.alone().__enter__()) is None


def test_an_interrupt_while_waiting_leaves_the_queue(monkeypatch):
    table = Turns()
    table.writer = -1  # somebody else

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(table.changed, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        table.enter(True)
    assert not table.queue and table.writer == -1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_process_forked_in_the_middle_of_it_all_goes_on_alone():
    """Other threads train, predict and set BLAS's limits; the child has none of them."""
    code = f"""
import os, signal, threading
import numpy as np
from minirnn import Sequential
from minirnn.layers import *
model = Sequential([Embedding(50, 4), Bidirectional(LSTM(3)), Dense(2, activation="softmax")])
model.compile("adam", "sparse_categorical_crossentropy")
x, y = np.ones((8, 5), int), np.arange(8) % 2
expected = [model.predict(x)]
class Row:
    def __iter__(self):
        yield x, y
ended = threading.Event()
def train():
    while not ended.is_set():
        model.fit(x, y, batch_size=2, verbose=0)
def look():
    while not ended.is_set():
        model.predict(x)
threads = [threading.Thread(target=f, daemon=True) for f in (train, look, look)]
for thread in threads: thread.start()
for _ in range(30):
    child = os.fork()
    if child == 0:
        signal.alarm({PATIENCE})
        right = False
        try:
            model.predict(x)
            model.fit(x, y, verbose=0)
            right = True
        finally:
            os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0
ended.set()
for thread in threads: thread.join()
"""
    run_python(code)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize(
    "lock", ["backend._generator.bit_generator.lock", "threads._lock", "model.turns.alone()"]
)
def test_a_fork_waits_for_locks_that_others_hold(lock):
    code = f"""
import os, signal, threading, time
import numpy as np
from minirnn import Sequential, backend, threads
from minirnn.layers import Dense
model = Sequential([Dense(2)])
held = threading.Event()
def hold():
    with {lock}:
        held.set()
        time.sleep(0.3)
threading.Thread(target=hold, daemon=True).start()
assert held.wait({PATIENCE})
child = os.fork()
if child == 0:
    signal.alarm({PATIENCE})
    right = False
    try:
        model.compile("sgd", "mse")
        model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
        model.predict(np.ones((2, 3)))
        threads.ONE_BLAS_THREAD.lift()
        right = True
    finally:
        os._exit(0 if right else 1)
assert os.waitpid(child, 0)[1] == 0
model.predict(np.ones((2, 3)))
"""
    run_python(code)


# --- copies ---------------------------------------------------------------------------------------


def test_a_copy_of_a_trained_model_goes_on_like_the_model():
    model = trained(6)
    twin, apart = copy.deepcopy(model), model.get_weights()
    twin.fit(Steps(6), verbose=0)
    assert all(not np.array_equal(a, b) for a, b in zip(apart, twin.get_weights(), strict=True))
    assert same(model.get_weights(), apart)
    model.fit(Steps(6), verbose=0)
    assert same(model.get_weights(), twin.get_weights())
    assert twin.turns is not model.turns


def test_a_step_pays_little_for_its_turn():
    """No waiting, no lists that grow."""
    table = Turns()
    for _ in range(100):
        with table.alone():
            pass
        with table.together():
            pass
    assert not table.queue and not table.readers and table.writer is None


def test_setting_the_backend_in_use_again_disturbs_nobody():
    ended = threading.Event()

    def set_again():
        try:
            for _ in range(2000):
                minirnn.set_backend("numpy")
        finally:
            ended.set()

    def compute():
        while not ended.is_set():
            assert backend.xp.tanh(0.0) == 0
            assert backend.get_backend() == "numpy"

    all_at_once([set_again, compute, compute])


def test_turns_are_used_where_models_are():
    assert isinstance(make().turns, turns.Turns)
    assert make().without_vectorizer().turns is not make().turns
