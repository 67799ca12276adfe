"""Many steps, many models, many interruptions: memory stays where it is.

The models here are tiny; `python benchmarks/long_runs.py` does 10,000 steps of the lesson's.
"""

from __future__ import annotations

import gc
import threading
import tracemalloc
import weakref

import numpy as np
import pytest

import minirnn
from minirnn import Sequential, set_random_seed, threads, turns
from minirnn.data import Dataset
from minirnn.layers import LSTM, Bidirectional, Dense, Embedding, SimpleRNN, TextVectorization

WORDS = [f"word{i}" for i in range(50)]


def make(texts=False, **options):
    set_random_seed(1)
    first = [TextVectorization(vocabulary=WORDS)] if texts else []
    layers = [
        Embedding(52, 4, mask_zero=True),
        Bidirectional(LSTM(3, return_sequences=True)),
        SimpleRNN(3, **options),
        Dense(2, activation="softmax"),
    ]
    model = Sequential([*first, *layers])
    model.compile("adam", "sparse_categorical_crossentropy", ["acc"])
    return model


def batch(k):
    """One of 56 shapes: as many as the caches of plans have room for."""
    rng = np.random.default_rng(k)
    rows, time = 1 + k % 8, 1 + k % 7
    return rng.integers(1, 52, (rows, time)).astype(np.int32), rng.integers(0, 2, rows)


def text_batch(k):
    ids, labels = batch(k)
    return [" ".join(WORDS[i - 2] for i in row) for row in ids], labels


class Batches:
    def __init__(self, count, make=batch):
        self.count, self.make = count, make

    def __iter__(self):
        return map(self.make, range(self.count))


def growth(action, times, warm_up):
    """Bytes that Python and NumPy hold more after `times` calls than after `warm_up` of them."""
    sizes = []
    tracemalloc.start()
    try:
        for k in range(times + 1):
            if k in (warm_up, times):
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
            if k < times:
                action(k)
    finally:
        tracemalloc.stop()
    return sizes[1] - sizes[0]


def of(kind, model):
    """What the k-th step does."""
    if kind == "train_on_batch":
        return lambda k: model.train_on_batch(*batch(k))
    if kind == "predict":
        return lambda k: model.predict(batch(k)[0], batch_size=1 + k % 9)
    return lambda k: model.evaluate(*batch(k), batch_size=1 + k % 9, verbose=0)


@pytest.mark.parametrize("kind", ["train_on_batch", "predict", "evaluate"])
def test_steps_of_changing_shapes_leave_nothing_behind(kind):
    """Twenty bytes a step would show."""
    assert growth(of(kind, make()), times=400, warm_up=200) < 5_000


def test_a_leak_would_show():
    kept = []
    assert growth(lambda k: kept.append(bytes(20)), times=400, warm_up=200) > 8_000


def test_one_long_fit_leaves_nothing_behind():
    """2,000 steps in a single epoch."""
    layers = [Embedding(52, 4), SimpleRNN(3), Dense(2, activation="softmax")]
    model, sizes = Sequential(layers), []
    model.compile("adam", "sparse_categorical_crossentropy", ["acc"])

    class Watched(Batches):
        def __iter__(self):
            for k in range(self.count):
                if k in (1000, 1999):
                    gc.collect()
                    sizes.append(tracemalloc.get_traced_memory()[0])
                yield batch(k)

    tracemalloc.start()
    try:
        model.fit(Watched(2000), verbose=0)
    finally:
        tracemalloc.stop()
    assert sizes[1] - sizes[0] < 5_000
    assert model.optimizer.iterations == 2000


def test_what_is_remembered_of_a_stream_of_texts_has_a_bound(monkeypatch):
    """Texts without any token take room, too."""
    monkeypatch.setattr("minirnn.batches.REMEMBERED_BYTES", 50_000)
    for make_texts in (text_batch, lambda k: ([f"!{k}!{'?' * (k % 7)}"], [0])):
        batches = minirnn.batches.StreamBatches(
            Batches(600, make_texts), make(texts=True).vectorizer
        )
        for _ in range(2):
            for _ in batches:
                pass
        assert 0 < len(batches.known) < 300


def test_dropped_models_are_gone_at_once():
    """No cycle keeps them for the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        for texts in (False, True):
            model = make(texts)
            data = text_batch(1) if texts else batch(1)
            model.fit(*data, epochs=2, validation_data=data, verbose=0)
            model.predict(data[0])
            model.evaluate(*data, verbose=0)
            model.train_on_batch(*data)
            table = model.layers[-4].params["embeddings"]
            seen = [weakref.ref(model), weakref.ref(table), weakref.ref(model.turns)]
            del model, table
            assert [ref() for ref in seen] == [None] * 3
    finally:
        gc.enable()


def test_models_made_trained_and_dropped_leave_nothing_behind():
    def action(k):
        model = make(texts=k % 2 == 0)
        data = text_batch(k) if k % 2 == 0 else batch(k)
        model.fit(*data, batch_size=5, verbose=0)
        model.predict(data[0])

    gc.collect()
    kept = len(turns._all_known())  # by other tests
    assert growth(action, times=80, warm_up=40) < 10_000
    gc.collect()
    assert len(turns._all_known()) <= kept


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_training_that_is_broken_off_leaves_nothing_behind(error):
    model = make()

    class Fails(Batches):
        def __iter__(self):
            yield from super().__iter__()
            raise error("enough")

    def action(k):
        data = Fails(3, lambda i: batch(7 * k + i))
        if k % 2:
            source = Dataset.from_generator(lambda: iter(data)).prefetch(2)
        with pytest.raises(error):
            model.fit(source if k % 2 else data, verbose=0)
        with pytest.raises(error):
            model.evaluate(data, verbose=0)
        with pytest.raises(error):
            model.predict(data)

    assert growth(action, times=80, warm_up=40) < 10_000
    assert model.turns.writer is None and not model.turns.readers and model.turns.owner is None
    assert not threads._keeping and not threads.ONE_BLAS_THREAD.inside
    model.fit(*batch(1), verbose=0)


def test_abandoned_readers_end_their_threads():
    before = threading.active_count()
    endless = Dataset.from_generator(lambda: iter(lambda: batch(1), None))

    def action(k):
        reader = iter(endless.prefetch(3))
        next(reader)
        if k % 2:
            reader.close()

    assert growth(action, times=80, warm_up=40) < 10_000
    gc.collect()
    for thread in threading.enumerate():
        if thread.name == "minirnn-prefetch":
            thread.join(5)
    assert threading.active_count() <= before


def test_helpers_do_not_multiply(monkeypatch):
    monkeypatch.setenv("MINIRNN_THREADS", "2")
    for _ in range(200):
        threads.side_by_side(lambda k: k, threads.WORTH_A_THREAD)
    assert len([t for t in threading.enumerate() if t.name == "minirnn"]) <= threads.HELPERS
