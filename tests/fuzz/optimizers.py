"""Optimizers, schedules and their states; and configurations as JSON has them."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fuzz.judge import ask, clean, refused, require
from fuzz.layers import plain
from fuzz.values import JSON_JUNK, Draw, arguments, array, either, junk, mutated
from minirnn import losses, optimizers, schedules
from minirnn.base import RowGradient

FLAGS = (False, True)

RATES = (0.1, 0.0, 1, lambda: schedules.ExponentialDecay(0.1, 10, 0.5))
CLIPPING = {"clipnorm": (None, 1.0), "global_clipnorm": (None, 1.0), "clipvalue": (None, 0.5)}
OPTIMIZERS = {
    "SGD": {"momentum": (0.0, 0.9, 1.0), "nesterov": FLAGS},
    "RMSprop": {
        "rho": (0.9, 0.0),
        "momentum": (0.0, 0.5),
        "epsilon": (1e-7, 1e-3),
        "centered": FLAGS,
    },
    "Adagrad": {"initial_accumulator_value": (0.1, 0.0), "epsilon": (1e-7, 1e-3)},
    "Adam": {"beta_1": (0.9, 0.0), "beta_2": (0.999, 0.0), "epsilon": (1e-7,), "lazy": FLAGS},
}
SCHEDULES = {
    "ExponentialDecay": {
        "initial_learning_rate": (0.1, 1), "decay_steps": (10, 1.5), "decay_rate": (0.5, 0.0, 1),
        "staircase": FLAGS,
    },
    "InverseTimeDecay": {
        "initial_learning_rate": (0.1, 1), "decay_steps": (10, 1.5), "decay_rate": (0.5, 0.0, 1),
        "staircase": FLAGS,
    },
    "PiecewiseConstantDecay": {
        "boundaries": ([1, 2], [1.5, 2, 7]), "values": ([1, 0.5, 0.1], [1, 2, 3, 4]),
    },
    "CosineDecay": {
        "initial_learning_rate": (0.1, 1), "decay_steps": (10, 1.5), "alpha": (0.0, 0.5),
        "warmup_target": (None, 0.5), "warmup_steps": (0, 3),
    },
}  # fmt: skip


def schedule_arguments(draw: Draw) -> None:
    """A schedule gives a finite rate not below 0 for each step, or it is not made."""
    kind = draw(st.sampled_from(list(SCHEDULES)))
    schedule = ask(
        getattr(schedules, kind), **{k: either(draw, v, 6) for k, v in SCHEDULES[kind].items()}
    )
    if refused(schedule):
        return
    for step in (0, 1, 5, 10**6):
        follows = optimizers.SGD(schedule)
        follows.iterations = step
        rate = ask(lambda follows=follows: follows.learning_rate)
        if refused(rate):
            return
        require(math.isfinite(rate) and rate >= 0, f"{kind} gave no rate", schedule, step, rate)
    again = ask(
        lambda: schedules.LearningRateSchedule.from_config(
            json.loads(json.dumps(schedule.get_config()))
        )
    )
    require(
        not refused(again) and again(3) == schedule(3), f"{kind} lost its configuration", schedule
    )


def optimizer_arguments(draw: Draw) -> None:
    """An optimizer is refused, or goes through JSON and moves weights to finite places."""
    kind = draw(st.sampled_from(list(OPTIMIZERS)))
    given = arguments(draw, OPTIMIZERS[kind] | CLIPPING | {"learning_rate": RATES})
    made = ask(getattr(optimizers, kind), **given)
    if refused(made):
        return
    again = ask(lambda: optimizers.Optimizer.from_config(json.loads(json.dumps(made.get_config()))))
    require(not refused(again), f"{kind} lost its configuration", given, again)
    rng = np.random.default_rng(2)
    params = {"w": rng.normal(size=(5, 3)).astype("f4"), "b": np.zeros(3, "f4")}
    for _ in range(3):
        rows = RowGradient(np.array([1, 4]), rng.normal(size=(2, 3)).astype("f4"))
        step = ask(made.apply, params, {"w": rows, "b": np.ones(3, "f4")})
        require(not refused(step), f"{kind} was made and does not step", given, step)
    if not refused(ask(lambda: made.learning_rate)) and made.learning_rate > 1e6:
        return
    finite = all(np.isfinite(p).all() for p in params.values())
    require(finite, f"{kind} moved weights to NaN", given, params)


def optimizer_inputs(draw: Draw) -> None:
    """Gradients that fit no parameter are refused, and what is refused changes nothing."""
    made = getattr(optimizers, draw(st.sampled_from(list(OPTIMIZERS))))()
    params = {"w": np.ones((3, 2), "f4"), "b": np.ones(2, "f4")}
    grads: dict[Any, Any] = {}
    for name in draw(
        st.lists(st.sampled_from(["w", "b", "v", 3, ("w", 1)]), unique=True, max_size=3)
    ):
        grads[name] = array(draw, ((3, 2) if name == "w" else (2,),), ("float32",))
        if draw(st.integers(0, 4)) == 0:
            ids = np.sort(np.atleast_1d(plain(array(draw, ((2,),), ("int64",), 0, 4))))
            grads[name] = RowGradient(ids, array(draw, ((2, 2),), ("float32",)))
        if draw(st.integers(0, 9)) == 0:
            grads[name] = junk(draw)
    answer = ask(made.apply, params, grads)
    if refused(answer):
        untouched = all((p == 1).all() for p in params.values())
        require(untouched, "a refused step changed weights", grads, params, answer)
        return
    require(all(p.dtype == np.float32 for p in params.values()), "another dtype", params)
    taken = [g.rows if isinstance(g, RowGradient) else g for g in grads.values()]
    require(not any(isinstance(g, np.ma.MaskedArray) for g in taken), "apply dropped a mask", grads)
    if all(clean(g) for g in taken):
        require(all(np.isfinite(p).all() for p in params.values()), "apply gave NaN", grads, params)


def optimizer_state(draw: Draw) -> None:
    """A state that is not this optimizer's is refused; one that is goes on."""
    kind = draw(st.sampled_from(["SGD", "RMSprop", "Adagrad", "Adam"]))
    made = getattr(optimizers, kind)(momentum=0.9) if kind == "SGD" else getattr(optimizers, kind)()
    params = {"w": np.ones((3, 2), "f4")}
    made.apply(params, {"w": np.ones((3, 2), "f4")})
    state = made.state_dict()
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from([*state, "w/x", "scale/m", "", "velocity"]))
        how = draw(st.integers(0, 3))
        if how == 0:
            state.pop(name, None)
        elif how == 1:
            state[name] = draw(st.sampled_from(JSON_JUNK))
        elif how == 2:
            state[name] = array(draw, ((3, 2),), ("float32",))
        else:
            state[name] = junk(draw)
    twin = type(made).from_config(made.get_config())
    answer = ask(twin.load_state_dict, state if draw(st.integers(0, 20)) else junk(draw))
    if refused(answer):
        return
    step = ask(twin.apply, params, {"w": np.ones((3, 2), "f4")})
    numbers = [v for v in state.values() if not isinstance(v, (str, dict))]
    if not refused(step) and all(clean(v) for v in numbers):
        require(np.isfinite(params["w"]).all(), f"{kind}: a state led to NaN", state, params)


def configurations(draw: Draw) -> None:
    """Configurations of losses, optimizers and schedules with places changed."""
    good: Any = draw(
        st.sampled_from(
            [
                losses.CategoricalCrossentropy(label_smoothing=0.1).get_config(),
                optimizers.Adam().get_config(),
                optimizers.SGD(schedules.CosineDecay(0.1, 10), momentum=0.5).get_config(),
                schedules.PiecewiseConstantDecay([1, 2], [1, 2, 3]).get_config(),
            ]
        )
    )
    kind = next(
        base
        for base, table in (
            (losses.Loss, losses.LOSSES),
            (optimizers.Optimizer, optimizers.OPTIMIZERS),
            (schedules.LearningRateSchedule, schedules.SCHEDULES),
        )
        if good["name"] in table
    )
    changed = mutated(draw, good, ["learning_rate", "from_logits", "beta_1"])
    made = ask(kind.from_config, changed)
    if not refused(made):
        ask(repr, made)


TARGETS = (
    schedule_arguments,
    optimizer_arguments,
    optimizer_inputs,
    optimizer_state,
    configurations,
)
