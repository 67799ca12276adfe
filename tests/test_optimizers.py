"""Optimizers against a slow float64 oracle written from the equations, and row-sparse = dense."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from minirnn import optimizers, schedules, stepping
from minirnn.base import RowGradient
from minirnn.optimizers import SGD, Adagrad, Adam, Optimizer, RMSprop

STEPS = 50


# --- the oracle: one parameter, float64, straight from the equations ------------------------------


def oracle(optimizer, w, gradients, rates):
    """The weights after each step."""
    w = w.astype(np.float64)
    m, v, a = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
    o = optimizer
    if isinstance(o, Adagrad):
        v += o.initial_accumulator_value
    path = []
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        if isinstance(o, SGD):
            m = o.momentum * m - rate * g
            w = w + (o.momentum * m - rate * g if o.nesterov else m)
        elif isinstance(o, RMSprop):
            v = o.rho * v + (1 - o.rho) * g**2
            a = o.rho * a + (1 - o.rho) * g
            variance = v - a**2 if o.centered else v
            m = o.momentum * m + rate * g / np.sqrt(variance + o.epsilon)
            w = w - m
        elif isinstance(o, Adagrad):
            v = v + g**2
            w = w - rate * g / np.sqrt(v + o.epsilon)
        else:
            m = m + (g - m) * (1 - o.beta_1)
            v = v + (g**2 - v) * (1 - o.beta_2)
            alpha = rate * math.sqrt(1 - o.beta_2**t) / (1 - o.beta_1**t)
            w = w - alpha * m / (np.sqrt(v) + o.epsilon)
        path.append(w)
    return path


MAKERS = {
    "sgd": lambda **k: SGD(0.1, **k),
    "momentum": lambda **k: SGD(0.1, momentum=0.8, **k),
    "undamped": lambda **k: SGD(0.01, momentum=1.0, **k),
    "nesterov": lambda **k: SGD(0.1, momentum=0.7, nesterov=True, **k),
    "rmsprop": lambda **k: RMSprop(0.01, **k),
    "rmsprop-momentum": lambda **k: RMSprop(0.01, rho=0.6, momentum=0.5, **k),
    "rmsprop-centered": lambda **k: RMSprop(0.01, rho=0.8, centered=True, epsilon=1e-3, **k),
    "rmsprop-all": lambda **k: RMSprop(0.01, momentum=0.9, centered=True, epsilon=1e-3, **k),
    "adagrad": lambda **k: Adagrad(0.1, initial_accumulator_value=0.02, **k),
    "adam": lambda **k: Adam(0.01, **k),
    "adam-fast": lambda **k: Adam(0.03, beta_1=0.3, beta_2=0.5, epsilon=1e-4, **k),
    "adam-forgets": lambda **k: Adam(0.01, beta_1=0.0, beta_2=0.0, epsilon=1e-2, **k),
}
every_optimizer = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)

SHAPES = {("a", "kernel"): (7, 5), ("a", "bias"): (5,), ("b", "kernel"): (150, 131), "scalar": ()}


def random_params(rng, dtype=np.float64):
    return {key: rng.normal(size=shape).astype(dtype) for key, shape in SHAPES.items()}


def copies(arrays):
    return {key: array.copy() for key, array in arrays.items()}


@every_optimizer
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-11), (np.float32, 3e-5)])
def test_steps_are_those_of_the_equations(make, dtype, tolerance):
    rng = np.random.default_rng(1)
    optimizer, params = make(), random_params(rng, dtype)
    start = copies(params)
    arrays = dict(params)
    batches = [
        {k: g * rng.choice([1e-3, 0.1, 1]) for k, g in random_params(rng, dtype).items()}
        for _ in range(STEPS)
    ]
    paths = {
        key: oracle(
            optimizer, start[key], [b[key] for b in batches], [optimizer.learning_rate] * 50
        )
        for key in params
    }
    for step, batch in enumerate(batches):
        optimizer.apply(params, batch)
        if step in (0, 1, STEPS - 1):
            for key, path in paths.items():
                np.testing.assert_allclose(params[key], path[step], rtol=0, atol=tolerance)
    assert optimizer.iterations == STEPS
    assert all(params[key] is arrays[key] for key in arrays)  # in place
    assert all(array.dtype == dtype for array in params.values())


def test_small_and_large_and_strided_parameters_take_one_formula(monkeypatch):
    """Blocks, pools and memory order are for speed: they change no bit."""
    rng = np.random.default_rng(2)
    start = random_params(rng, np.float32)
    batches = [random_params(rng, np.float32) for _ in range(5)]

    def run(order="C"):
        optimizer = Adam()
        params = {k: np.array(a, order=order) for k, a in start.items()}
        for batch in batches:
            optimizer.apply(params, {k: np.array(g, order=order) for k, g in batch.items()})
        return params

    expected = run()
    others = [run("F")]
    monkeypatch.setattr(stepping, "SMALL", 0)
    monkeypatch.setattr(stepping, "BLOCK", 1000)
    others.append(run())
    monkeypatch.setattr(stepping, "SMALL", 10**9)
    others.append(run())
    for other in others:
        for key in expected:
            np.testing.assert_array_equal(other[key], expected[key])


# --- row-sparse gradients -------------------------------------------------------------------------


def random_rows(rng, rows, width, most):
    ids = np.sort(rng.choice(rows, size=rng.integers(0, most + 1), replace=False))
    return RowGradient(ids, rng.normal(size=(len(ids), width)).astype(np.float32))


@every_optimizer
@pytest.mark.parametrize("live_block", [1, 40, 4096])
def test_row_gradients_give_the_bits_of_dense_ones(make, live_block, monkeypatch):
    monkeypatch.setattr(stepping, "LIVE_BLOCK", live_block)
    monkeypatch.setattr(stepping, "BLOCK", 77)
    rng = np.random.default_rng(3)
    rows, width = 61, 7
    table = rng.normal(size=(rows, width)).astype(np.float32)
    bias = rng.normal(size=11).astype(np.float32)
    sparse, dense = make(), make()
    params, twins = {"t": table.copy(), "b": bias.copy()}, {"t": table.copy(), "b": bias.copy()}
    touched = set()
    for step in range(400):  # enough for rows to fall asleep and scales to be folded
        # Later rows come once, early, and never again; from step 60 on few rows come at all.
        gradient = random_rows(rng, rows if step < 3 else 20, width, 9 if step < 60 else 1)
        touched.update(gradient.ids.tolist())
        db = rng.normal(size=11).astype(np.float32)
        sparse.apply(params, {"t": gradient, "b": db})
        dense.apply(twins, {"t": gradient.dense(table.shape), "b": db})
        np.testing.assert_array_equal(params["t"], twins["t"], err_msg=f"step {step}")
    np.testing.assert_array_equal(params["b"], twins["b"])
    never = sorted(set(range(rows)) - touched)
    assert never and len(touched) > 20
    np.testing.assert_array_equal(params["t"][never], table[never])


def test_rows_drift_on_without_a_gradient():
    """Dense Adam: a row with a gradient in the past moves on, in the oracle as here."""
    table = np.random.default_rng(4).normal(size=(9, 3))
    optimizer, params = Adam(0.01), {"t": table.copy()}
    first = RowGradient(np.array([2]), np.array([[1.0, -2.0, 0.5]]))
    none = RowGradient(np.array([], dtype=int), np.zeros((0, 3)))
    gradients = [first] + [none] * 300
    for gradient in gradients:
        optimizer.apply(params, {"t": gradient})
    path = oracle(optimizer, table, [g.dense(table.shape) for g in gradients], [0.01] * 301)
    np.testing.assert_allclose(params["t"], path[-1], rtol=0, atol=1e-12)
    assert np.all(params["t"][2] != path[0][2])


@every_optimizer
@pytest.mark.parametrize("schedule", [False, True])
def test_rows_that_wait_end_where_those_end_that_move_at_each_step(make, schedule, monkeypatch):
    """Whoever looks sees the same weights, to rounding: the rows caught up with, and all rows."""
    monkeypatch.setattr(stepping, "BLOCK", 77)
    rng = np.random.default_rng(7)
    rows, width = 61, 7
    table = rng.normal(scale=0.05, size=(rows, width))
    waiting, prompt = make(), make()
    if schedule:
        for optimizer in (waiting, prompt):
            optimizer.learning_rate = schedules.InverseTimeDecay(0.02, 50, 0.5)
    params, twins = {"t": table.copy()}, {"t": table.copy()}
    for step in range(400):
        gradient = random_rows(rng, rows if step % 40 == 0 else 12, width, 9)
        scale = 10.0 ** rng.uniform(-9, 0, size=(len(gradient.ids), 1))  # epsilon matters, or not
        gradient = RowGradient(gradient.ids, gradient.rows.astype(np.float64) * scale)
        looked_up = np.concatenate([gradient.ids, gradient.ids[:3], rng.integers(0, rows, 2)])
        waiting.catch_up("t", looked_up)
        np.testing.assert_allclose(
            params["t"][looked_up], twins["t"][looked_up], rtol=0, atol=3e-7, err_msg=f"{step}"
        )
        waiting.apply(params, {"t": gradient}, waiting=("t",))
        prompt.apply(twins, {"t": gradient})
        if step in (30, 31, 200):
            waiting.settle()
            waiting.settle()  # twice is once
            np.testing.assert_allclose(params["t"], twins["t"], rtol=0, atol=3e-7)
    state, twin = waiting.state_dict(), prompt.state_dict()  # it settles
    np.testing.assert_allclose(params["t"], twins["t"], rtol=0, atol=3e-7)
    assert state.keys() == twin.keys()


def test_a_row_that_waits_stays_until_it_is_looked_at():
    """What is left undone is the drift of the rows that nobody used, and nothing else."""
    optimizer, params = Adam(0.01), {"t": np.ones((9, 3)), "b": np.ones(2)}
    none = RowGradient(np.array([], dtype=int), np.zeros((0, 3)))
    one = RowGradient(np.array([2]), np.ones((1, 3)))
    optimizer.apply(params, {"t": one, "b": np.ones(2)}, waiting=("t",))
    assert (params["t"] == 1).all() and (params["b"] < 1).all()
    for _ in range(5):
        optimizer.apply(params, {"t": none, "b": np.ones(2)}, waiting=("t",))
    optimizer.catch_up("t", np.array([[2, 3], [2, 2]]))
    moved = params["t"].copy()
    assert (moved[2] < 0.98).all() and (np.delete(moved, 2, axis=0) == 1).all()
    optimizer.settle()
    assert np.array_equal(params["t"], moved)
    # A step that does not wait brings everything up to date first.
    optimizer.apply(params, {"t": none, "b": np.ones(2)}, waiting=("t",))
    optimizer.apply(params, {"t": none, "b": np.ones(2)})
    path = oracle(Adam(0.01), np.ones((9, 3)), [one.dense((9, 3))] + [0] * 7, [0.01] * 8)
    np.testing.assert_allclose(params["t"], path[-1], rtol=1e-6)


@pytest.mark.parametrize("bad", [9, -10, 2**31 - 1])
def test_a_row_that_the_table_lacks_is_an_error(bad):
    optimizer, params = Adam(0.01), {"t": np.ones((9, 3), np.float32)}
    one = RowGradient(np.array([2]), np.ones((1, 3), np.float32))
    optimizer.apply(params, {"t": one}, waiting=("t",))
    with pytest.raises(IndexError):
        optimizer.catch_up("t", np.array([2, bad]))
    with pytest.raises(ValueError, match="grads: expected the ids of 't' to be rising row numbers"):
        optimizer.apply(params, {"t": RowGradient(np.array([bad]), one.rows)})


@every_optimizer
@pytest.mark.parametrize("dense", [False, True])
def test_rows_that_wait_catch_up_before_they_learn(make, dense):
    """Nobody looked at them first: the step itself makes up for what they waited for."""
    rng = np.random.default_rng(8)
    waiting, prompt = make(), make()
    params, twins = {"t": np.ones((9, 3))}, {"t": np.ones((9, 3))}
    for step in range(12):
        gradient = random_rows(rng, 9, 3, 4)
        if dense and step in (4, 9):
            gradient = gradient.dense((9, 3))
        waiting.apply(params, {"t": gradient}, waiting=("t",))
        prompt.apply(twins, {"t": gradient})
    waiting.settle()
    np.testing.assert_allclose(params["t"], twins["t"], rtol=0, atol=3e-7)


def test_momentum_that_came_to_nothing_is_zero_and_its_rows_rest():
    optimizer = Adam(0.01)
    params = {"t": np.zeros((500, 64), dtype=np.float32)}
    one = RowGradient(np.array([100]), np.full((1, 64), 1e-3, dtype=np.float32))
    none = RowGradient(np.array([], dtype=int), np.zeros((0, 64), dtype=np.float32))
    optimizer.apply(params, {"t": one})
    (part,) = optimizer._parts
    assert part.live.sum() == 1
    for _ in range(1000):
        optimizer.apply(params, {"t": none})
    assert part.live.sum() == 0
    m, v = (optimizer.state_dict()[f"t/{slot}"] for slot in "mv")
    assert not m.any() and v[100].all()
    optimizer.apply(params, {"t": one})
    assert part.live.sum() == 1


def test_lazy_adam_moves_only_the_rows_of_the_batch():
    rng = np.random.default_rng(5)
    table = rng.normal(size=(30, 4)).astype(np.float32)
    lazy, plain = Adam(0.01, lazy=True), Adam(0.01)
    params, twins = {"t": table.copy()}, {"t": table.copy()}
    for _ in range(20):
        before = params["t"].copy()
        gradient = random_rows(rng, 30, 4, 8)
        lazy.apply(params, {"t": gradient})
        plain.apply(twins, {"t": gradient})
        moved = np.flatnonzero((params["t"] != before).any(axis=1))
        np.testing.assert_array_equal(moved, gradient.ids)
    assert np.abs(params["t"] - twins["t"]).max() > 1e-3
    whole, dense = {"t": table.copy()}, {"t": table.copy()}
    for _ in range(3):  # with every row in the batch there is no difference
        g = rng.normal(size=table.shape).astype(np.float32)
        lazy_gradient = RowGradient(np.arange(30), g)
        lazy.apply(whole, {"t": lazy_gradient})
    fresh, other = Adam(0.01, lazy=True), Adam(0.01)
    whole = {"t": table.copy()}
    fresh.apply(whole, {"t": RowGradient(np.arange(30), g)})
    other.apply(dense, {"t": g})
    np.testing.assert_array_equal(whole["t"], dense["t"])


@every_optimizer
def test_dense_and_row_gradients_may_alternate(make):
    rng = np.random.default_rng(6)
    table = rng.normal(size=(23, 3)).astype(np.float32)
    mixed, dense = make(), make()
    params, twins = {"t": table.copy()}, {"t": table.copy()}
    for step in range(12):
        gradient = random_rows(rng, 23, 3, 5)
        full = gradient.dense(table.shape)
        mixed.apply(params, {"t": full if step % 3 == 1 else gradient})
        dense.apply(twins, {"t": full})
    np.testing.assert_array_equal(params["t"], twins["t"])


# --- parameters come and go, checkpoints ----------------------------------------------------------


def test_a_frozen_parameter_stays_and_goes_on_later():
    rng = np.random.default_rng(7)
    params = {"a": rng.normal(size=4), "b": rng.normal(size=3)}
    optimizer = SGD(0.1, momentum=0.5)
    optimizer.apply(params, {"a": np.ones(4), "b": np.ones(3)})
    b = params["b"].copy()
    optimizer.apply(params, {"a": np.ones(4)})
    np.testing.assert_array_equal(params["b"], b)
    optimizer.apply(params, {"a": np.zeros(4), "b": np.zeros(3)})
    assert not np.allclose(params["b"], b)  # its momentum was kept, decayed by two steps
    np.testing.assert_allclose(params["b"], b - 0.1 * 0.25)


def test_replaced_arrays_are_noticed():
    """A layer that was cast has new arrays under the old keys."""
    optimizer = SGD(0.5)
    params = {"a": np.zeros(3), "b": np.zeros((200, 200))}
    grads = {"a": np.ones(3), "b": np.ones((200, 200))}
    optimizer.apply(params, grads)
    params = copies(params)
    optimizer.apply(params, grads)
    assert (params["a"] == -1).all() and (params["b"] == -1).all()


@every_optimizer
def test_a_resumed_run_has_the_same_bits(make):
    rng = np.random.default_rng(8)
    params = random_params(rng, np.float32) | {"t": rng.normal(size=(40, 6)).astype(np.float32)}
    batches = [
        random_params(rng, np.float32) | {"t": random_rows(rng, 40, 6, 9)} for _ in range(60)
    ]
    straight = make()
    for batch in batches[:40]:
        straight.apply(params, batch)
    state, twins = straight.state_dict(), copies(params)
    resumed = make()
    resumed.load_state_dict(state)
    assert resumed.state_dict().keys() == state.keys()
    for batch in batches[40:]:
        straight.apply(params, batch)
        resumed.apply(twins, batch)
    for key in params:
        np.testing.assert_array_equal(params[key], twins[key])
    for name, value in straight.state_dict().items():
        np.testing.assert_array_equal(resumed.state_dict()[name], value, err_msg=name)


def test_state_is_flat_and_on_the_host():
    optimizer = Adam()
    params = {("lstm", "kernel"): np.zeros((2, 3), dtype=np.float32)}
    optimizer.apply(params, {("lstm", "kernel"): np.ones((2, 3), dtype=np.float32)})
    state = optimizer.state_dict()
    assert set(state) == {
        "iterations", "learning_rate", "scale/m", "scale/v", "lstm/kernel/m", "lstm/kernel/v",
    }  # fmt: skip
    np.testing.assert_allclose(state["lstm/kernel/m"] * state["scale/m"], 0.1, rtol=1e-6)
    np.testing.assert_allclose(state["lstm/kernel/v"] * state["scale/v"], 0.001, rtol=1e-6)


def test_state_of_another_kind_or_shape_is_refused():
    params, grads = {"w": np.zeros(3)}, {"w": np.ones(3)}
    momentum, adam = SGD(momentum=0.9), Adam()
    momentum.apply(params, grads)
    adam.apply(params, grads)
    with pytest.raises(ValueError, match=r"scale/m, scale/v not found.* state of Adam"):
        Adam().load_state_dict(momentum.state_dict())
    with pytest.raises(ValueError, match=r"SGD with these settings has no use for scale/m"):
        SGD().load_state_dict(adam.state_dict())
    other = Adam()
    other.load_state_dict(adam.state_dict())
    for _ in range(2):  # the second try must not pass either
        with pytest.raises(ValueError, match=r"w/m has shape \(3,\), but the weights .* \(4,\)"):
            other.apply({"w": np.zeros(4)}, {"w": np.ones(4)})


# --- clipping -------------------------------------------------------------------------------------


def clipped(optimizer, grads):
    """The gradients that reach the formula, seen through plain gradient descent."""
    params = {
        k: np.zeros((5, 2) if isinstance(g, RowGradient) else g.shape) for k, g in grads.items()
    }
    optimizer.apply(params, grads)
    return {key: -value for key, value in params.items()}


def test_clipping():
    rows = RowGradient(np.array([1, 4]), np.array([[3.0, 0.0], [0.0, -4.0]]))
    grads = {"a": np.array([3.0, 4.0]), "b": np.array([0.5]), "t": rows}
    given = {"a": grads["a"].copy(), "t": rows.rows.copy()}
    full = rows.dense((5, 2))

    got = clipped(SGD(1.0, clipnorm=1.0), grads)
    np.testing.assert_allclose(got["a"], [0.6, 0.8])
    np.testing.assert_array_equal(got["b"], [0.5])
    np.testing.assert_allclose(got["t"], full / 5)

    got = clipped(SGD(1.0, global_clipnorm=2.0), grads)
    norm = math.sqrt(25 + 0.25 + 25)
    for key, g in {"a": grads["a"], "b": grads["b"], "t": full}.items():
        np.testing.assert_allclose(got[key], g * 2 / norm)
    got = clipped(SGD(1.0, global_clipnorm=norm * 1.01), grads)
    np.testing.assert_array_equal(got["a"], grads["a"])

    got = clipped(SGD(1.0, clipvalue=0.7), grads)
    np.testing.assert_allclose(got["a"], [0.7, 0.7])
    np.testing.assert_allclose(got["t"], np.clip(full, -0.7, 0.7))

    np.testing.assert_array_equal(grads["a"], given["a"])  # what was given is left alone
    np.testing.assert_array_equal(rows.rows, given["t"])


@pytest.mark.parametrize("kind", ["clipnorm", "global_clipnorm"])
def test_clipping_does_not_hide_an_overflow(kind):
    got = clipped(SGD(1.0, **{kind: 1.0}), {"a": np.array([np.inf, 1.0])})
    assert np.isnan(got["a"]).all()


# --- learning rates -------------------------------------------------------------------------------


def test_schedules_follow_their_formulas():
    exponential = schedules.ExponentialDecay(0.3, 7, 0.6)
    stairs = schedules.ExponentialDecay(0.3, 7, 0.6, staircase=True)
    inverse = schedules.InverseTimeDecay(0.3, 7, 0.6)
    inverse_stairs = schedules.InverseTimeDecay(0.3, 7, 0.6, staircase=True)
    cosine = schedules.CosineDecay(0.3, 11, alpha=0.1)
    warm = schedules.CosineDecay(0.1, 11, alpha=0.2, warmup_target=0.5, warmup_steps=4)
    for step in range(40):
        assert exponential(step) == pytest.approx(0.3 * 0.6 ** (step / 7))
        assert stairs(step) == pytest.approx(0.3 * 0.6 ** (step // 7))
        assert inverse(step) == pytest.approx(0.3 / (1 + 0.6 * step / 7))
        assert inverse_stairs(step) == pytest.approx(0.3 / (1 + 0.6 * (step // 7)))
        cos = 0.5 * (1 + math.cos(math.pi * min(step, 11) / 11))
        assert cosine(step) == pytest.approx(0.3 * (0.9 * cos + 0.1))
        cos = 0.5 * (1 + math.cos(math.pi * min(step - 4, 11) / 11))
        expected = 0.1 + 0.4 * step / 4 if step < 4 else 0.5 * (0.8 * cos + 0.2)
        assert warm(step) == pytest.approx(expected)
    piecewise = schedules.PiecewiseConstantDecay([2, 5], [1.0, 0.5, 0.1])
    assert [piecewise(s) for s in range(8)] == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.1, 0.1]
    assert optimizers.schedules is schedules


def test_an_optimizer_follows_its_schedule():
    rng = np.random.default_rng(9)
    schedule = schedules.ExponentialDecay(0.05, 3, 0.5)
    optimizer, params = Adam(schedule), {"w": rng.normal(size=6)}
    gradients = [rng.normal(size=6) for _ in range(20)]
    path = oracle(optimizer, params["w"], gradients, [schedule(i) for i in range(20)])
    for g in gradients:
        optimizer.apply(params, {"w": g})
    np.testing.assert_allclose(params["w"], path[-1], rtol=0, atol=1e-12)
    assert optimizer.learning_rate == schedule(20)
    with pytest.raises(TypeError, match=r"Adam follows the schedule ExponentialDecay\(.*0\.3"):
        optimizer.learning_rate = 0.3


def test_learning_rate_can_be_set():
    optimizer, params = SGD(0.5), {"w": np.zeros(2)}
    optimizer.learning_rate = 0.25
    optimizer.apply(params, {"w": np.ones(2)})
    assert optimizer.learning_rate == 0.25
    np.testing.assert_array_equal(params["w"], [-0.25, -0.25])


# --- configuration and errors ---------------------------------------------------------------------


@every_optimizer
def test_config_survives_json(make):
    optimizer = make(clipnorm=2.5)
    config = json.loads(json.dumps(optimizer.get_config()))
    twin = Optimizer.from_config(config)
    assert type(twin) is type(optimizer)
    assert twin.get_config() == config and config["clipnorm"] == 2.5
    assert repr(twin) == repr(optimizer)


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.ExponentialDecay(0.1, 5, 0.9, staircase=True),
        schedules.InverseTimeDecay(0.1, 5, 0.9),
        schedules.PiecewiseConstantDecay([3, 6], [0.3, 0.2, 0.1]),
        schedules.CosineDecay(0.1, 9, alpha=0.3, warmup_target=0.4, warmup_steps=2),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_schedules_survive_json(schedule):
    config = json.loads(json.dumps(RMSprop(schedule, rho=0.7).get_config()))
    twin = Optimizer.from_config(config)
    for twin.iterations in range(20):
        assert twin.learning_rate == schedule(twin.iterations)
    assert twin.rho == 0.7


def test_get():
    for name, kind in [("sgd", SGD), ("RMSprop", RMSprop), ("adagrad", Adagrad), ("Adam", Adam)]:
        assert type(optimizers.get(name)) is kind
    adam = Adam(0.5)
    assert optimizers.get(adam) is adam
    with pytest.raises(ValueError, match=r"optimizer: there is none called 'adamm'.*'adam'"):
        optimizers.get("adamm")
    with pytest.raises(TypeError, match=r"optimizer: expected a name or an object, received 3"):
        optimizers.get(3)


@pytest.mark.parametrize(
    "error, make, message",
    [
        (
            ValueError,
            lambda: SGD(clipnorm=1.0, clipvalue=0.5),
            r"at most one of them, received clipnorm=1.0, clipvalue=0.5",
        ),
        (ValueError, lambda: Adam(global_clipnorm=0.0), r"global_clipnorm: .* above 0, .* 0.0"),
        (ValueError, lambda: Adam(-0.1), r"learning_rate: expected .* not below 0, received -0.1"),
        (ValueError, lambda: Adam(math.nan), r"learning_rate: .* received nan"),
        (TypeError, lambda: Adam("fast"), r"learning_rate: expected a number or .* 'fast'"),
        (ValueError, lambda: Adam(beta_2=1.0), r"beta_2: expected .* below 1, received 1.0"),
        (ValueError, lambda: RMSprop(rho=-0.1), r"rho: expected a number from 0 .* -0.1"),
        (ValueError, lambda: SGD(momentum=1.5), r"momentum: expected .* 0 to 1, received 1.5"),
        (ValueError, lambda: Adagrad(initial_accumulator_value=-1), r"not below 0, received -1"),
        (ValueError, lambda: schedules.CosineDecay(0.1, 0), r"decay_steps: .* above 0, received 0"),
        (
            ValueError,
            lambda: schedules.PiecewiseConstantDecay([5], [1.0]),
            r"values: expected one more .* received 1 values and 1 boundaries",
        ),
        (
            ValueError,
            lambda: schedules.PiecewiseConstantDecay([5, 2], [1.0, 2.0, 3.0]),
            r"boundaries: expected rising steps, received \[5, 2\]",
        ),
    ],
)
def test_bad_settings_are_refused(error, make, message):
    with pytest.raises(error, match=message):
        make()


def test_gradients_that_do_not_fit_are_refused():
    params = {"w": np.zeros((4, 3))}
    with pytest.raises(ValueError, match=r"there is no parameter 'u'; known: 'w'"):
        SGD().apply(params, {"u": np.zeros(3)})
    with pytest.raises(ValueError, match=r"gradient of 'w' to have shape \(4, 3\), .* \(3,\)"):
        SGD().apply(params, {"w": np.zeros(3)})
    rows = RowGradient(np.array([0, 1]), np.zeros((2, 5)))
    with pytest.raises(ValueError, match=r"'w' to have shape \(2, 3\), received \(2, 5\)"):
        SGD().apply(params, {"w": rows})
