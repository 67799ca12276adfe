"""A training step as one graph, its kernels run on the CPU, beside the ordinary training step."""

import collections

import cuda_emulator
import numpy as np
import pytest
import strict_cupy

import minirnn
from minirnn import callbacks, losses, optimizers
from minirnn.backend import to_device
from minirnn.bench.gpu import our_model
from minirnn.bench.lessons import LESSONS, batches_of, load
from minirnn.cuda import loops
from minirnn.cuda.graph import MOST_ROWS, MOST_STEPS, training_graph
from minirnn.data import Dataset
from minirnn.finite import NonFiniteError
from minirnn.layers import GRU, LSTM, Bidirectional, Dense, Dropout, Embedding, SimpleRNN
from minirnn.models import Sequential
from minirnn.optimizers import Adam
from minirnn.steps import train_step
from minirnn.text import pad_rows

pytestmark = pytest.mark.skipif(
    not cuda_emulator.has_compiler(), reason=f"needs a C++ compiler ({cuda_emulator.COMPILER})"
)

WORDS, CLASSES = 37, 3
MODELS = {
    "simple rnn": lambda: [SimpleRNN(5)],
    "lstm": lambda: [LSTM(6)],
    "gru, no bias": lambda: [GRU(5, use_bias=False)],
    "two bidirectional lstm": lambda: [
        Bidirectional(LSTM(5, return_sequences=True)),
        Bidirectional(LSTM(7)),
    ],
    "all kinds": lambda: [
        GRU(5, return_sequences=True),
        Bidirectional(GRU(3, return_sequences=True)),
        SimpleRNN(4, return_sequences=True, use_bias=False),
        Bidirectional(SimpleRNN(3)),
    ],
}


@pytest.fixture(autouse=True)
def usual_order():
    yield
    cuda_emulator.set_schedule("round robin")
    cuda_emulator.copies_happen(early=False)


def classifier(kind="lstm", mask_zero=True, optimizer=None, seed=3, bias=True):
    minirnn.utils.set_random_seed(seed)
    recurrent = MODELS[kind]() if isinstance(kind, str) else kind
    model = Sequential(
        [
            Embedding(WORDS, 6, mask_zero=mask_zero),
            *recurrent,
            Dense(CLASSES, activation="softmax", use_bias=bias),
        ]
    )
    optimizer = Adam(0.02) if optimizer is None else optimizer
    model.compile(optimizer, "sparse_categorical_crossentropy", ["acc"])
    model.build()
    return model


def rows_of_text(count, longest=20, seed=5):
    """Rows of differing length, and their labels."""
    rng = np.random.default_rng(seed)
    x = [rng.integers(1, WORDS, rng.integers(1, longest + 1)) for _ in range(count)]
    return x, rng.integers(0, CLASSES, count)


def trained(make, *data, epochs=2, on_device=False, **options):
    """`(history, weights, state of the optimizer, launches)` of a model after `fit`."""
    cuda_emulator.launches.clear()
    options = {"batch_size": 8, "verbose": 0} | options

    def run():
        model = make()
        history = model.fit(*data, epochs=epochs, **options)
        return history.history, model.get_weights(), model.optimizer.state_dict(), model

    if not on_device:
        return run()
    with strict_cupy.installed():
        return run()


def agree(make, *data, tolerance=1e-5, **options):
    """Training on the device does the same as on the host; gives what was launched, how often."""
    history, weights, state, _ = trained(make, *data, **options)
    history_2, weights_2, state_2, _ = trained(make, *data, on_device=True, **options)
    assert history.keys() == history_2.keys()
    for name, figures in history.items():
        np.testing.assert_allclose(history_2[name], figures, tolerance, tolerance, err_msg=name)
    for a, b in zip(weights, weights_2, strict=True):
        np.testing.assert_allclose(b, a, tolerance, tolerance)
    assert state.keys() == state_2.keys()
    assert state["iterations"] == state_2["iterations"]
    for name, value in state.items():
        if name.endswith(("/m", "/v")) and not name.startswith("scale"):
            scale, scale_2 = (s[f"scale/{name[-1]}"] for s in (state, state_2))
            np.testing.assert_allclose(
                state_2[name] * scale_2, value * scale, 10 * tolerance, tolerance, err_msg=name
            )
    return collections.Counter(cuda_emulator.launches)


# --- the same training ----------------------------------------------------------------------------


@pytest.mark.parametrize("mask_zero", [True, False])
@pytest.mark.parametrize("kind", MODELS)
def test_training_is_the_same(kind, mask_zero):
    x, y = rows_of_text(45)
    launched = agree(lambda: classifier(kind, mask_zero), x, y, validation_data=(x[:9], y[:9]))
    assert launched["plan"] == launched["adam_dense"] == 2 * 6  # every step was one of the graph


@pytest.mark.parametrize("kind", ["two bidirectional lstm", "all kinds"])
def test_cells_that_are_large_take_a_launch_for_each_step(kind, monkeypatch):
    monkeypatch.setattr(loops.Loop, "size", lambda *size: None)  # as if they were
    x, y = rows_of_text(12, longest=18)
    launched = agree(lambda: classifier(kind), x, y, batch_size=6)
    assert launched["plan"] == 4
    cell = "lstm" if "lstm" in kind else "gru"
    assert launched[f"{cell}_step"] == launched[f"{cell}_step_backward"] > 4 * 16


@pytest.mark.parametrize("schedule", cuda_emulator.SCHEDULES)
@pytest.mark.parametrize("early", [True, False])
def test_in_any_order_of_threads_and_copies(schedule, early):
    cuda_emulator.set_schedule(schedule, seed=2)
    cuda_emulator.copies_happen(early)
    x, y = rows_of_text(60, longest=6)
    assert agree(lambda: classifier("two bidirectional lstm"), x, y, batch_size=4)["plan"] == 30


def test_the_same_bits_every_time():
    x, y = rows_of_text(40)
    first, second = (
        trained(lambda: classifier("two bidirectional lstm"), x, y, on_device=True)[1]
        for _ in range(2)
    )
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["lstm", "all kinds"])
def test_a_training_that_was_broken_off_goes_on_to_the_same_bits(kind, tmp_path):
    """The weights leave the graph for a checkpoint and come back as they were."""
    x, y = rows_of_text(40)

    class Breaks(Dataset):
        def __init__(self, at):
            starts = [*range(0, 40, 8)]
            self.left = at
            batches = Dataset.from_rows(starts).shuffle(5, seed=1).map(self.batch)
            super().__init__(lambda: iter(batches), 5, [batches])

        def batch(self, start):
            self.left -= 1
            if self.left < 0:
                raise InterruptedError
            return pad_rows(x[start : start + 8]), y[start : start + 8]

    def run(at, path):
        model = classifier(kind)
        checkpoint = None if path is None else minirnn.Checkpoint(path, steps=2)
        model.fit(Breaks(at), epochs=3, verbose=0, checkpoint=checkpoint)
        return [w.tobytes() for w in model.get_weights()], model.optimizer.iterations

    with strict_cupy.installed():
        whole = run(100, None)
        for at in (3, 5, 9, 14):
            with pytest.raises(InterruptedError):
                run(at, tmp_path / str(at))
            assert run(100, tmp_path / str(at)) == whole


def test_texts_and_data_sets_go_the_same_way():
    words = [f"word{i}" for i in range(30)]
    rng = np.random.default_rng(3)
    texts = [" ".join(rng.choice(words, rng.integers(0, 9))) for _ in range(24)]
    labels = rng.integers(0, CLASSES, 24)

    def make():
        model = classifier("lstm")
        vectorizer = minirnn.layers.TextVectorization(max_tokens=WORDS)
        vectorizer.adapt(texts)
        whole = Sequential([vectorizer, *model.layers])
        whole.compile(Adam(0.02), "sparse_categorical_crossentropy", ["acc"])
        return whole

    assert agree(make, np.array(texts, dtype=object), labels)["plan"] == 6
    x, y = rows_of_text(24, longest=7)
    padded = minirnn.utils.pad_sequences(x, padding="post")
    data = Dataset.from_tensor_slices((padded, y)).batch(5)
    assert agree(lambda: classifier("lstm"), data, batch_size=None)["plan"] == 10


def test_an_embedding_that_is_frozen_stays():
    def make():
        model = classifier("lstm")
        model.layers[0].trainable = False
        return model

    x, y = rows_of_text(20)
    launched = agree(make, x, y)
    assert launched["plan"] == 6
    assert not launched["adam_table"]
    np.testing.assert_array_equal(
        trained(make, x, y, on_device=True)[1][0], classifier("lstm").get_weights()[0]
    )


def test_a_learning_rate_that_falls_and_weights_that_others_change():
    class Shake(callbacks.Callback):
        def on_epoch_end(self, epoch, logs):
            self.model.set_weights([w * 0.5 for w in self.model.get_weights()])

    def make():
        schedule = optimizers.schedules.ExponentialDecay(0.05, 3, 0.5)
        return classifier("lstm", optimizer=Adam(schedule, beta_1=0.7, epsilon=1e-3))

    x, y = rows_of_text(20)
    assert agree(make, x, y, epochs=3, callbacks=[Shake()])["plan"] == 9


def test_what_a_graph_does_not_do_goes_the_ordinary_way_in_between():
    x, y = rows_of_text(40, longest=6)
    weights = np.ones(len(x), dtype=np.float32)
    padded = minirnn.utils.pad_sequences(x, padding="post")

    def batches():
        for i in range(0, 40, 8):
            part = slice(i, i + 8)
            yield (padded[part], y[part]) + ((weights[part] * 2,) if i % 16 else ())

    def data():
        return Dataset.from_generator(batches)

    assert agree(lambda: classifier("lstm"), data(), batch_size=None)["plan"] == 6


def test_without_a_bias_in_the_last_layer_and_without_metrics():
    def make():
        model = classifier("simple rnn", bias=False)
        model.compile(Adam(0.01), "sparse_categorical_crossentropy")
        return model

    assert agree(make, *rows_of_text(20))["plan"] == 6


def test_many_steps_are_asked_about_now_and_then(monkeypatch):
    monkeypatch.setattr("minirnn.steps.Steps.AHEAD", 3)
    assert agree(lambda: classifier("simple rnn"), *rows_of_text(40, 4), batch_size=2)["plan"] == 40


def test_a_batch_that_is_larger_than_all_before():
    x, y = rows_of_text(30, longest=5)
    padded = minirnn.utils.pad_sequences(x, padding="post")

    def batches():
        for part in (slice(0, 3), slice(3, 14), slice(14, 16), slice(16, 30)):
            yield padded[part], y[part]

    agree(lambda: classifier("lstm"), Dataset.from_generator(batches), batch_size=None)


def test_ids_that_come_often_and_only_once():
    rng = np.random.default_rng(0)
    ids = np.where(rng.random((8, 40)) < 0.8, 2, rng.integers(1, WORDS, (8, 40)))
    assert agree(lambda: classifier("simple rnn"), ids, rng.integers(0, CLASSES, 8), epochs=4)


@pytest.mark.parametrize("name", LESSONS)
def test_the_lessons_models_in_full_size(name):
    lesson, data = LESSONS[name], load("sample")
    batches = batches_of(lesson, data, 2)

    def make():
        minirnn.set_random_seed(1)
        return our_model(lesson)

    expected_model = make()
    expected = [train_step(expected_model, *batch)[0] for batch in batches]
    with strict_cupy.installed():
        model = make()
        graph = training_graph(model)
        for batch, value in zip(batches, expected, strict=True):
            graph.step(*batch)
            loss, _, rows, _ = graph.read()
            assert loss / rows == pytest.approx(value, rel=1e-5)
        graph.leave()
        weights = model.get_weights()
    for a, b in zip(expected_model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(b, a, 1e-4, 1e-5)


# --- a step: launches, transfers, waiting ---------------------------------------------------------


def test_a_step_is_one_copy_and_one_launch_and_nobody_waits():
    x, y = rows_of_text(8, longest=9)
    ids = minirnn.utils.pad_sequences(x, padding="post").astype(np.int32)
    with strict_cupy.installed():
        model = classifier("two bidirectional lstm")
        model.require_compiled()
        graph = training_graph(model)
        graph.step(ids, y)
        graph.stream.synchronize()
        cuda_emulator.launches.clear()
        with strict_cupy.counted() as counts, strict_cupy.no_sync():
            graph.step(ids, y)
            graph.stream.synchronize()
        assert (counts.h2d, counts.d2h, counts.syncs, counts.ops) == (1, 0, 0, 0)
    assert len(cuda_emulator.launches) == 21, cuda_emulator.launches


def test_memory_stays_as_it_is():
    import gc

    x, y = rows_of_text(16, longest=9)
    with strict_cupy.installed():
        model = classifier("lstm")
        model.fit(x, y, batch_size=8, epochs=1, verbose=0)
        gc.collect()
        before = sum(type(o) is strict_cupy.ndarray for o in gc.get_objects())
        model.fit(x, y, batch_size=8, epochs=20, verbose=0)
        gc.collect()
        assert sum(type(o) is strict_cupy.ndarray for o in gc.get_objects()) <= before + 2


# --- what can go wrong ----------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_is_found_though_the_host_was_ahead():
    x, y = rows_of_text(64, longest=5)
    messages, weights, steps = [], [], []
    for on_device in (False, True):
        model = None

        class Keep(callbacks.Callback):
            def on_train_begin(self):
                nonlocal model
                model = self.model

        def make():
            made = classifier("simple rnn", optimizer=Adam(0.02))
            table = made.layers[0].params["embeddings"]
            table[WORDS - 1] = float("nan")
            return made

        rows = [np.where(row == WORDS - 1, 1, row) for row in x]
        rows[45] = np.array([3, WORDS - 1, 4])
        with pytest.raises(NonFiniteError) as caught:
            trained(make, rows, y, on_device=on_device, shuffle=False, callbacks=[Keep()])
        messages.append(str(caught.value))
        steps.append(model.optimizer.iterations)
        if on_device:
            with strict_cupy.installed():
                weights.append(model.get_weights()[1:])
        else:
            weights.append(model.get_weights()[1:])
    assert "epoch 1, step 6" in messages[0]
    assert messages[0] == messages[1]
    assert steps == [5, 5]
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, 1e-5, 1e-5)


@pytest.mark.filterwarnings("ignore:overflow encountered in (matmul|dot):RuntimeWarning")
@pytest.mark.parametrize("scale", [1e10, 3e38])
def test_gradients_that_are_not_finite_stop_it_before_they_do_harm(scale):
    """All states, and so all logits, are 0, whatever the words: only the kernel's gradient shows
    that one word has a vector, and that is too large."""
    x, y = rows_of_text(64, longest=5)
    rows = [np.where(row == WORDS - 1, 1, row) for row in x]
    rows[45] = np.array([3, 4, WORDS - 1])
    messages, states = [], []
    for on_device in (False, True):
        model = None

        def make():
            nonlocal model
            model = classifier("simple rnn", optimizer=Adam(0.0))
            table, *rest, head = (layer.params for layer in model.layers)
            for weights in (*table.values(), *rest[0].values()):
                weights[...] = 0
            table["embeddings"][WORDS - 1] = scale
            head["kernel"][...] = to_device([0, 1e15, 3e15])
            return model

        with pytest.raises(NonFiniteError) as caught:
            trained(make, rows, y, on_device=on_device, shuffle=False)
        messages.append(str(caught.value))
        states.append(model.optimizer.state_dict())
    assert "epoch 1, step 6" in messages[0]
    assert "begins on the way back in that of kernel of layer 'simple_rnn" in messages[0]
    assert messages[0] == messages[1]
    for state in states:
        assert state["iterations"] == 5
        assert all(np.isfinite(value).all() for value in state.values())


@pytest.mark.parametrize(
    ("ids", "labels", "message"),
    [
        ([[1, WORDS]], [0], "embedding: id 37 at"),
        ([[1, 2]], [CLASSES], "y_true: expected each label to be one of the 3 classes"),
        ([[1, 2]], [-1], "y_true: expected each label"),
    ],
)
def test_bad_batches_give_the_usual_errors(ids, labels, message):
    with strict_cupy.installed():
        model = classifier("simple rnn")
        with pytest.raises(ValueError, match=message):
            model.fit(np.array(ids), np.array(labels), verbose=0)


UNUSUAL = {
    "another optimizer": lambda: classifier(optimizer=optimizers.SGD(0.1)),
    "clipping": lambda: classifier(optimizer=Adam(clipnorm=1.0)),
    "lazy": lambda: classifier(optimizer=Adam(lazy=True)),
    "dropout": lambda: classifier([LSTM(3, dropout=0.1)]),
    "another activation": lambda: classifier([LSTM(3, activation="relu")]),
    "a layer between": lambda: classifier([LSTM(3), Dropout(0.5)]),
    "stateful": lambda: classifier([LSTM(3, stateful=True)]),
    "reads backwards": lambda: classifier([LSTM(3, go_backwards=True)]),
    "another merge": lambda: classifier([Bidirectional(LSTM(3), merge_mode="sum")]),
    "reset before": lambda: classifier([GRU(3, reset_after=False)]),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_other_models_train_the_ordinary_way(name):
    with strict_cupy.installed():
        model = UNUSUAL[name]()
        model.require_compiled()
        assert training_graph(model) is None


def frozen_lstm():
    model = classifier()
    model.layers[1].trainable = False
    return model


def frozen_direction():
    model = classifier([Bidirectional(LSTM(3))])
    model.layers[1].backward_layer.trainable = False
    return model


def frozen_whole():
    model = classifier()
    model.trainable = False
    return model


@pytest.mark.parametrize("make", [frozen_lstm, frozen_direction, frozen_whole])
def test_frozen_layers_stay_as_they_are(make):
    assert not agree(make, *rows_of_text(20))["plan"]


def test_a_model_of_one_layer_trains():
    with strict_cupy.installed():
        model = Sequential([Dense(2)])
        model.compile("adam", "mse")
        model.fit(np.ones((4, 3), "f"), np.ones((4, 2), "f"), verbose=0)


def test_other_losses_and_metrics_train_the_ordinary_way():
    with strict_cupy.installed():
        model = classifier()
        model.compile(Adam(), losses.SparseCategoricalCrossentropy(), ["mse"])
        model.require_compiled()
        assert training_graph(model) is None
    assert training_graph(classifier()) is None  # on the host there are no graphs


def test_batches_that_are_too_large_train_the_ordinary_way():
    with strict_cupy.installed():
        model = classifier()
        model.require_compiled()
        graph = training_graph(model)
    y = np.zeros(8, dtype=np.int64)
    assert graph.takes(np.ones((8, 5), dtype=np.int32), y, None)
    assert not graph.takes(np.ones((8, 5), dtype=np.int32), y, np.ones(8))
    assert not graph.takes(np.ones((8, MOST_STEPS // 8 + 1), dtype=np.int32), y, None)
    many = MOST_ROWS + 1
    assert not graph.takes(np.ones((many, 2), dtype=np.int32), np.zeros(many, dtype=int), None)
    assert not graph.takes(np.ones((8, 5, 2)), y, None)
    assert not graph.takes(np.ones((8, 5), dtype=np.int32), y.astype(float), None)
