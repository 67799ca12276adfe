"""Optimizers: SGD, RMSprop, Adagrad, Adam, with Keras's formulas, in place and without waste.

An optimizer is given the parameters and their gradients, under the same keys, and changes the
parameters in place:

>>> import numpy as np
>>> params, grads = {"w": np.ones(2)}, {"w": np.array([1.0, -2.0])}
>>> SGD(learning_rate=0.5).apply(params, grads)
>>> params["w"]
array([0.5, 2. ])

Each optimizer is written as up to two rules:

- `learn(g, slots, scratch)` takes a gradient into the running averages ("slots");
- a `Drift` is what then moves every weight, with a gradient or without: momentum goes on rolling.
  Where the first of the averages is 0, nothing may drift.

Either gives what to subtract from the weights. Both work number by number, so they can be run on
any part of a parameter: on blocks that fit in the cache, or on the rows of an embedding that a
batch used. The result has the same bits in every case.

**Decay for free.** `m = beta * m + c * g` would pass over all of `m` at each step, though a batch
has a gradient for few rows of an embedding. We keep `m` as `scale * M`, with one `scale` for all:
decay is then `scale *= beta`, and the gradient enters as `M += (c / scale) * g`, which leaves rows
without a gradient alone. Every hundred steps or more, before `scale` gets very small, it is folded
into `M`. Numbers that have decayed to nothing become exactly 0 there, and blocks of rows whose
momentum is all 0 have nothing to do until the next gradient.

**Drift for free.** So between two gradients only the weights of a row move, by
`factor_t * M / (root + epsilon_t)` in each step t, where `M` and `root` rest. Nobody looks at these
weights until a batch has the row's word in it again; then one such move, with the sum of the
factors and the mean of the epsilons, makes up for all of them (to rounding: within one decay of the
momentum, `epsilon_t` changes by half a percent). `fit` lets the rows wait this way (`waiting`),
calls `catch_up` for the rows that a batch is about to use, and `settle` before anything else
looks at the weights.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any

import numpy as np

from minirnn import schedules, stepping  # noqa: F401  (`optimizers.schedules`, as in Keras)
from minirnn.backend import Array, to_device, to_host, xp
from minirnn.base import RowGradient
from minirnn.checks import flag, host_array, number
from minirnn.compiled import for_floats
from minirnn.finite import squared_norm
from minirnn.lookup import by_name
from minirnn.schedules import LearningRateSchedule
from minirnn.stepping import Drift, Learn, Part, Table

FOLD = 2.0**-20  # a smaller scale is folded into its array
NOTHING = 1e-30  # averages below this cannot be seen in any weight, and would become denormal


class Optimizer:
    """Base of all optimizers.

    A subclass lists its running averages in `slots` and gives the two rules of a step in `rules`.
    Constructor arguments are kept as attributes of the same names; `get_config` relies on that.

    Args:
        learning_rate: a number, or a schedule (see `minirnn.optimizers.schedules`).
        clipnorm: the gradient of each parameter is scaled down to this L2 norm if it is longer.
        global_clipnorm: all gradients together are scaled down to this L2 norm.
        clipvalue: each number of each gradient is clipped to [-clipvalue, clipvalue].

    Attributes:
        iterations: how many steps have been done.

    Raises:
        ValueError: if more than one kind of clipping is asked for, or a number is out of range.
    """

    slots: dict[str, float] = {}  # name of each running average -> its start; see `drift`
    decays: dict[str, float] = {}  # those that decay -> what is left of them after a step
    derived: tuple[str, ...] = ()  # those that follow from the others; see `derive`

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule,
        *,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
        clipvalue: float | None = None,
    ) -> None:
        clipping = {
            "clipnorm": clipnorm,
            "global_clipnorm": global_clipnorm,
            "clipvalue": clipvalue,
        }
        given = {name: value for name, value in clipping.items() if value is not None}
        if len(given) > 1:
            raise ValueError(
                "clipnorm, global_clipnorm, clipvalue: expected at most one of them, received "
                + ", ".join(f"{name}={value!r}" for name, value in given.items())
            )
        for name, value in given.items():
            clipping[name] = number(name, value, "a number above 0", lambda limit: limit > 0)
        self.clipnorm = clipping["clipnorm"]
        self.global_clipnorm = clipping["global_clipnorm"]
        self.clipvalue = clipping["clipvalue"]
        self._learning_rate = _checked_rate(learning_rate)
        self.iterations = 0
        self._averages: dict[Hashable, dict[str, Array]] = {}  # each of its parameter's shape
        self._scales = dict.fromkeys(self.decays, 1.0)
        self._loaded: dict[str, Any] = {}  # averages from a checkpoint that wait for their weights
        self._parts: list[Part] = []
        self._planned: dict[Hashable, Array] = {}
        self._scratch: list[Array] = []

    def rules(self, rate: float) -> tuple[Learn, Drift | None]:
        """How this step learns and drifts; see the head of this module."""
        raise NotImplementedError(f"{type(self).__name__} has no rules")

    def derive(self, averages: dict[str, Array]) -> None:
        """Compute those of one parameter's `averages` that are listed in `derived`, in place."""

    # -- learning rate --

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step.

        Setting it raises TypeError where a schedule is in force.
        """
        if isinstance(self._learning_rate, LearningRateSchedule):
            return _checked_rate(self._learning_rate(self.iterations))
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float | LearningRateSchedule) -> None:
        follows = isinstance(self._learning_rate, LearningRateSchedule)
        if follows and not isinstance(value, LearningRateSchedule):
            raise TypeError(
                f"learning_rate: this {type(self).__name__} follows the schedule "
                f"{self._learning_rate!r}, so it cannot be set to {value!r}. Make the optimizer "
                "with a number as its learning rate instead."
            )
        self._learning_rate = _checked_rate(value)

    # -- one step --

    def apply(
        self,
        params: Mapping[Hashable, Array],
        grads: Mapping[Hashable, Array | RowGradient],
        waiting: Collection[Hashable] = (),
    ) -> None:
        """Do one step: change the arrays of `params` in place.

        Args:
            params: key → weights, of any shape.
            grads: key → gradient of the same shape, or a `RowGradient`. Parameters without a
                gradient stay as they are.
            waiting: keys of tables with a `RowGradient` whose weights need not move yet: until
                `catch_up` or `settle` they are those of an earlier step.

        Raises:
            ValueError: if a gradient has no parameter or another shape.
        """
        _check_shapes(params, grads)
        grads = self._clip(grads)
        known = grads.keys() == self._planned.keys()
        if not known or any(params[key] is not array for key, array in self._planned.items()):
            tables = [key for key, g in grads.items() if isinstance(g, RowGradient)]
            self._plan({key: params[key] for key in grads}, tables)
        rate = self.learning_rate
        self.iterations += 1
        self._decay()
        learn, drift = self.rules(rate)
        for part in self._parts:
            part.step(grads, learn, drift, self._scratch, wait=part.keys[0] in waiting)

    def catch_up(self, key: Hashable, ids: Array) -> None:
        """Bring these rows of a waiting table up to date, before a batch looks at them.

        ids: row numbers of any shape, on the host; a row may come several times.
        """
        for part in self._parts:
            if part.keys == [key]:
                part.catch_up(ids, self._scratch)

    @property
    def lags(self) -> bool:
        """Whether some rows wait."""
        return any(part.lags for part in self._parts)

    def settled_copies(self) -> list[tuple[Array, Array]]:
        """The tables with rows that wait, each with a copy of it in which none does."""
        return [
            (part.params[0], part.settled_copy(self._scratch)) for part in self._parts if part.lags
        ]

    def settle(self) -> None:
        """Bring all weights up to date."""
        for part in self._parts:
            part.settle(self._scratch)

    def _plan(self, planned: dict[Hashable, Array], tables: Collection[Hashable]) -> None:
        """Lay out the averages of these parameters, and go on from what is known of them.

        tables: the keys of those whose gradients come by rows.
        """
        self.settle()
        self._parts = stepping.parts_of(planned, tables, self.slots)
        for part in self._parts:
            for key in part.keys:
                self._averages[key] = self._continued(key, part.averages_of(key))
                self.derive(self._averages[key])
            part.find_live()
        if self._parts:
            length = max(part.scratch_size for part in self._parts)
            dtype = np.result_type(*(part.weights.dtype for part in self._parts))
            self._scratch = [xp.empty(length, dtype=dtype) for _ in range(2)]
        self._planned = planned

    def _continued(self, key: Hashable, averages: dict[str, Array]) -> dict[str, Array]:
        """Put what is known so far about `key` into its new averages."""
        for slot, array in averages.items():
            name = f"{_label(key)}/{slot}"
            before = self._averages.get(key, {}).get(slot)
            if before is None:
                before = self._loaded.get(name)
            if before is None:
                continue
            if before.shape != array.shape:
                raise ValueError(
                    f"optimizer state: {name} has shape {before.shape}, "
                    f"but the weights have shape {array.shape}"
                )
            array[...] = to_device(before, dtype=array.dtype)
            self._loaded.pop(name, None)
        return averages

    def _decay(self) -> None:
        """Let all averages decay by one step."""
        for slot, decay in self.decays.items():
            self._scales[slot] *= decay
            if self._scales[slot] < FOLD:
                self._fold(slot)

    def _fold(self, slot: str) -> None:
        """Multiply the scale into its averages, and round to 0 what has come to nothing."""
        self.settle()
        folded = [averages[slot] for averages in self._averages.values()]
        folded += [a for name, a in self._loaded.items() if name.rpartition("/")[2] == slot]
        for average in folded:
            average *= self._scales[slot]
            # A number much larger, added and taken away again, takes the digits below its own last.
            large = NOTHING / float(np.finfo(average.dtype).eps)
            average += large
            average -= large
        self._scales[slot] = 1.0
        for averages in self._averages.values():
            self.derive(averages)
        for part in self._parts:
            part.find_live()

    # -- clipping --

    def _clip(self, grads: Mapping) -> Mapping:
        """The gradients, clipped; those given are left as they are.

        The norm of a `RowGradient` is that of its rows: all other rows are zero.
        """
        if self.clipvalue is not None:
            limit = self.clipvalue
            return {
                key: _mapped(g, lambda a: xp.clip(a, -limit, limit)) for key, g in grads.items()
            }
        if self.clipnorm is not None:
            limit = self.clipnorm
            return {key: _scaled(g, _shrink(squared_norm(g), limit)) for key, g in grads.items()}
        if self.global_clipnorm is not None and grads:
            factor = _shrink(sum(map(squared_norm, grads.values())), self.global_clipnorm)
            return {key: _scaled(g, factor) for key, g in grads.items()}
        return grads

    # -- saving --

    def __getstate__(self) -> dict[str, Any]:
        """For a copy: its averages are its own, and so are the weights that it will be given."""
        self.settle()
        return self.__dict__ | {"_parts": [], "_planned": {}, "_scratch": []}

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on as if nothing had happened: host arrays and numbers, flat.

        An average is kept under `key/slot` and what it is to be multiplied with under
        `scale/slot`. The parts of a key that is a tuple are joined by `/`.
        """
        self.settle()
        return self.gathered()

    def gathered(self) -> dict[str, Any]:
        """`state_dict`, while rows of tables may go on to wait."""
        state: dict[str, Any] = {"iterations": self.iterations}
        if not isinstance(self._learning_rate, LearningRateSchedule):
            state["learning_rate"] = self._learning_rate
        for slot, scale in self._scales.items():
            state[f"scale/{slot}"] = scale
        state |= self._loaded
        for key, averages in self._averages.items():
            for slot, array in averages.items():
                if slot not in self.derived:
                    state[f"{_label(key)}/{slot}"] = np.array(to_host(array))
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, with an optimizer of the same kind.

        Raises:
            ValueError: if `state` comes from another kind of optimizer.
        """
        state = _checked_state(type(self).__name__, state)
        expected = {"iterations", *(f"scale/{slot}" for slot in self.decays)}
        if missing := sorted(expected - state.keys()):
            raise ValueError(
                f"optimizer state: {', '.join(missing)} not found; this is not the state of "
                f"{type(self).__name__} with these settings"
            )
        self.settle()
        self.iterations = int(state.pop("iterations"))
        rate = state.pop("learning_rate", None)
        if rate is not None and not isinstance(self._learning_rate, LearningRateSchedule):
            self._learning_rate = float(rate)
        for slot in self.decays:
            self._scales[slot] = float(state.pop(f"scale/{slot}"))
        foreign = [name for name in state if name.rpartition("/")[2] not in self.slots]
        if foreign:
            raise ValueError(
                f"optimizer state: {type(self).__name__} with these settings has no use for "
                f"{', '.join(foreign[:3])}"
            )
        self._loaded = {name: np.array(value) for name, value in state.items()}
        self._averages = {}
        self._planned = {}
        self._parts = []

    def exact_state(self) -> dict[str, Any]:
        """`state_dict` in the middle of a `fit`, with how far the rows of tables lag behind.

        To settle them would be right as well, but round otherwise than to let them wait: a training
        that goes on from here is to end with the same bits as without the break.
        """
        state = self.gathered()
        tables = [part for part in self._parts if isinstance(part, Table)]
        state["tables"] = [_label(part.keys[0]) for part in tables]
        for part in tables:
            for name, value in part.lag().items():
                state[f"{_label(part.keys[0])}/{name}"] = value
        return state

    def load_exact_state(self, state: Mapping[str, Any], params: Mapping[str, Array]) -> None:
        """Go on from what `exact_state` gave. params: what `apply` will be given, with names as
        keys and the values that they had then."""
        state = dict(state)
        tables = state.pop("tables")
        names = "factors", "weighted", "had_factors", "had_weighted"
        lags = {key: {name: state.pop(f"{key}/{name}") for name in names} for key in tables}
        self.load_state_dict(state)
        if not tables:
            return
        self._plan(dict(params), tables)
        _, drift = self.rules(self.learning_rate)
        for part in self._parts:
            if isinstance(part, Table):
                part.lag_again(lags[part.keys[0]], drift)

    # -- configuration --

    def get_config(self) -> dict[str, Any]:
        """The name and the constructor's arguments, fit for JSON."""
        config: dict[str, Any] = {"name": type(self).__name__.lower()}
        for key, parameter in inspect.signature(type(self)).parameters.items():
            if parameter.kind is not parameter.VAR_KEYWORD:
                config[key] = getattr(self, key)
        if isinstance(self._learning_rate, LearningRateSchedule):
            config["learning_rate"] = self._learning_rate.get_config()
        for key in ("clipnorm", "global_clipnorm", "clipvalue"):
            config[key] = getattr(self, key)
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Optimizer:
        """The optimizer that `get_config` described. `Optimizer.from_config` makes any of ours.

        Raises:
            ValueError: for a name that is not an optimizer's.
        """
        arguments = dict(config)
        name = arguments.pop("name", None)
        made = by_name("optimizer", name, OPTIMIZERS) if cls is Optimizer else cls
        if isinstance(arguments.get("learning_rate"), Mapping):
            rate = arguments["learning_rate"]
            arguments["learning_rate"] = LearningRateSchedule.from_config(dict(rate))
        return made(**arguments)

    def __repr__(self) -> str:
        config = self.get_config()
        del config["name"]
        shown = ", ".join(f"{key}={value!r}" for key, value in config.items() if value is not None)
        return f"{type(self).__name__}({shown})"


# --- the optimizers -------------------------------------------------------------------------------


class SGD(Optimizer):
    """Gradient descent: `w -= rate * g`.

    With momentum (Polyak 1964), and with Nesterov's:

        velocity = momentum * velocity - rate * g
        w += velocity                            nesterov: w += momentum * velocity - rate * g

    We keep the velocity with its sign turned round.
    """

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        **clipping: float | None,
    ) -> None:
        momentum = number("momentum", momentum, "a number from 0 to 1", lambda m: 0 <= m <= 1)
        self.momentum = momentum
        self.nesterov = flag("nesterov", nesterov)
        if momentum:
            self.slots = {"velocity": 0.0}
            self.decays = {"velocity": momentum}
        super().__init__(learning_rate, **clipping)

    def rules(self, rate: float) -> tuple[Learn, Drift | None]:
        def descend(g: Array, slots: list[Array], scratch: list[Array]) -> Array:
            return xp.multiply(g, rate, out=scratch[0])

        if not self.momentum:
            return Learn(descend), None

        scale = self._scales["velocity"]
        taken = scale * self.momentum if self.nesterov else scale

        def learn(g: Array, slots: list[Array], scratch: list[Array]) -> Array | None:
            (velocity,) = slots
            velocity += xp.multiply(g, rate / scale, out=scratch[0])
            return descend(g, slots, scratch) if self.nesterov else None

        return Learn(learn), Drift(_roll, taken)


class RMSprop(Optimizer):
    """Steps divided by the root of a running mean of squared gradients (Hinton 2012, lecture 6e).

        v = rho * v + (1 - rho) * g**2
        step = rate * g / sqrt(v + epsilon)
        w -= step                                momentum: b = momentum * b + step;  w -= b

    `centered` divides by the standard deviation: `sqrt(v - a**2 + epsilon)` with
    `a = rho * a + (1 - rho) * g`.
    """

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        **clipping: float | None,
    ) -> None:
        _check_decays(rho=rho, momentum=momentum)
        self.rho = float(rho)
        self.momentum = momentum = float(momentum)
        self.epsilon = _positive("epsilon", epsilon)
        self.centered = flag("centered", centered)
        self.decays = {"momentum": momentum} if momentum else {}
        self.decays |= {"v": rho, "average": rho} if centered else {"v": rho}
        self.slots = dict.fromkeys(self.decays, 0.0)
        super().__init__(learning_rate, **clipping)

    def rules(self, rate: float) -> tuple[Learn, Drift | None]:
        scales = self._scales
        v_scale, fresh = scales["v"], (1 - self.rho) / scales["v"]
        names = list(self.slots)

        def learn(g: Array, slots: list[Array], scratch: list[Array]) -> Array | None:
            s, t = scratch
            named = dict(zip(names, slots, strict=True))
            v = named["v"]
            xp.multiply(g, g, out=s)
            s *= fresh
            v += s
            xp.multiply(v, v_scale, out=s)
            if self.centered:
                average = named["average"]
                average += xp.multiply(g, (1 - self.rho) / scales["average"], out=t)
                xp.multiply(average, scales["average"], out=t)
                t *= t
                s -= t
            s += self.epsilon
            xp.sqrt(s, out=s)
            xp.divide(g, s, out=s)
            s *= rate
            if not self.momentum:
                return s
            s *= 1 / scales["momentum"]
            named["momentum"] += s
            return None

        return Learn(learn), Drift(_roll, scales["momentum"]) if self.momentum else None


class Adagrad(Optimizer):
    """Steps divided by the root of the sum of all squared gradients (Duchi et al. 2011).

        a += g**2
        w -= rate * g / sqrt(a + epsilon)

    a begins at `initial_accumulator_value`.
    """

    slots = {"accumulator": 0.1}

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        **clipping: float | None,
    ) -> None:
        self.initial_accumulator_value = number(
            "initial_accumulator_value",
            initial_accumulator_value,
            "a number not below 0",
            lambda value: value >= 0,
        )
        self.epsilon = _positive("epsilon", epsilon)
        self.slots = {"accumulator": self.initial_accumulator_value}
        super().__init__(learning_rate, **clipping)

    def rules(self, rate: float) -> tuple[Learn, Drift | None]:
        def learn(g: Array, slots: list[Array], scratch: list[Array]) -> Array:
            (a,) = slots
            s = scratch[0]
            a += xp.multiply(g, g, out=s)
            xp.add(a, self.epsilon, out=s)
            xp.sqrt(s, out=s)
            xp.divide(g, s, out=s)
            s *= rate
            return s

        return Learn(learn), None


class Adam(Optimizer):
    """Momentum over the root of a running mean of squared gradients (Kingma and Ba 2015).

        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g**2
        w -= rate * sqrt(1 - beta_2**t) / (1 - beta_1**t) * m / (sqrt(v) + epsilon)

    in step t = 1, 2, ...; epsilon stands outside the bias correction, as in Keras.

    Rows of an embedding that a batch does not use go on moving while their m is not 0. With `lazy`
    they stay: only the rows of the batch are updated, which is faster for a large vocabulary and
    gives other numbers. (Their m and v decay all the same.)

    Kept besides m and v: the root of v, because v too rests where there is no gradient.
    """

    derived = ("root",)

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        lazy: bool = False,
        **clipping: float | None,
    ) -> None:
        _check_decays(beta_1=beta_1, beta_2=beta_2)
        self.beta_1 = float(beta_1)
        self.beta_2 = float(beta_2)
        self.epsilon = _positive("epsilon", epsilon)
        self.lazy = flag("lazy", lazy)
        self.decays = {"m": beta_1, "v": beta_2}
        self.slots = {"m": 0.0, "v": 0.0, "root": 0.0}
        super().__init__(learning_rate, **clipping)

    def rules(self, rate: float) -> tuple[Learn, Drift | None]:
        m_scale, v_scale = self._scales["m"], self._scales["v"]
        m_fresh = (1 - self.beta_1) / m_scale
        v_fresh = (1 - self.beta_2) / v_scale
        t = self.iterations
        corrected = rate * math.sqrt(1 - self.beta_2**t) / (1 - self.beta_1**t)
        # m / (sqrt(v) + epsilon), with the scales taken out of the root.
        factor = corrected * m_scale / math.sqrt(v_scale)
        epsilon = self.epsilon / math.sqrt(v_scale)

        def learn(g: Array, slots: list[Array], scratch: list[Array]) -> Array | None:
            m, v, root = slots
            s = scratch[0]
            m += xp.multiply(g, m_fresh, out=s)  #   m += (1 - beta_1) * g      (times 1 / m_scale)
            xp.multiply(g, g, out=s)
            s *= v_fresh
            v += s  #                                v += (1 - beta_2) * g**2   (times 1 / v_scale)
            xp.sqrt(v, out=root)
            return move(slots, scratch, factor, epsilon) if self.lazy else None

        def move(slots: list[Array], scratch: list[Array], factor: Any, epsilon: Any) -> Array:
            m, _, root = slots
            s = xp.add(root, epsilon, out=scratch[0])
            xp.divide(m, s, out=s)  #                m / (sqrt(v) + epsilon)
            s *= factor
            return s

        kernels = for_floats(np.float32)
        learn_rows = step_dense = catch_up = None
        if kernels is not None and not self.lazy:
            fresh = np.float32(m_fresh), np.float32(v_fresh)

            def learn_rows(ids: Array, g: Array, *tables: Array) -> None:
                kernels.adam_learn(ids, g, *fresh, *tables)

            def step_dense(weights: Array, g: Array, *slots: Array) -> None:
                terms = *fresh, np.float32(factor), np.float32(epsilon)
                kernels.adam(weights, g, *slots, *terms)

            def catch_up(ids: Array, w: Array, tables: Any, *waited: Any) -> None:
                m, _, root = tables
                kernels.adam_catch_up(ids, w, m, root, *waited)

        if self.lazy:
            return Learn(learn), None
        # epsilon grows by 1 - sqrt(beta_2) a step, and m goes by 1 - beta_1.
        steady = 1 - math.sqrt(self.beta_2) <= 0.01 * (1 - self.beta_1)
        drift = Drift(move, factor, epsilon, steady, catch_up)
        return Learn(learn, learn_rows, step_dense), drift

    def derive(self, averages: dict[str, Array]) -> None:
        xp.sqrt(averages["v"], out=averages["root"])


def _roll(slots: list[Array], scratch: list[Array], factor: Any, epsilon: Any) -> Array:
    """The drift of plain momentum, which is the first of the averages."""
    return xp.multiply(slots[0], factor, out=scratch[0])


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
    "adam": Adam,
}


def get(identifier: str | Optimizer) -> Optimizer:
    """The optimizer itself, or a new one of this name with default settings.

    Raises:
        TypeError: for anything but an optimizer or a name.
        ValueError: for an unknown name.
    """
    if isinstance(identifier, Optimizer):
        return identifier
    name = identifier.lower() if isinstance(identifier, str) else identifier
    return by_name("optimizer", name, OPTIMIZERS)()


# --- checks and clipping --------------------------------------------------------------------------


def _checked_rate(rate: Any) -> float | LearningRateSchedule:
    if isinstance(rate, LearningRateSchedule):
        return rate
    if hasattr(rate, "item") and not rate.shape:  # an array of one number
        rate = rate.item()
    if isinstance(rate, bool) or not isinstance(rate, (int, float)):
        raise TypeError(
            f"learning_rate: expected a number or a LearningRateSchedule, received {rate!r}"
        )
    return float(
        number("learning_rate", rate, "a finite number not below 0", lambda rate: rate >= 0)
    )


def _check_decays(**decays: float) -> None:
    for name, value in decays.items():
        number(name, value, "a number from 0 to below 1", lambda decay: 0 <= decay < 1)


def _positive(name: str, value: Any) -> float:
    """A divisor that float32 does not take for 0."""
    least = float(np.finfo(np.float32).tiny)
    return number(name, value, f"a number from {least:.3g} up", lambda value: value >= least)


def _checked_state(owner: str, state: Any) -> dict[str, Any]:
    """A copy of `state`, if its numbers and averages can be some."""
    if not isinstance(state, Mapping):
        raise TypeError(f"optimizer state: expected names and values, received {state!r}")
    for name, value in state.items():
        where = f"optimizer state of {owner}: {name}"
        if name == "iterations":
            number(where, value, "a whole number from 0 up", lambda n: n >= 0 and n == int(n))
        elif name == "learning_rate":
            _checked_rate(value)
        elif str(name).startswith("scale/"):
            number(where, value, "a number above 0", lambda scale: scale > 0)
        else:
            average = host_array(where, value)
            if average.dtype.kind != "f" or not np.isfinite(average).all():
                raise ValueError(f"{where}: expected finite numbers, received {average.dtype}")
            squares = str(name).rpartition("/")[2] in ("v", "accumulator")
            if squares and (average < 0).any():
                raise ValueError(f"{where}: a mean of squares is not below 0")
    return dict(state)


def _check_shapes(params: Mapping, grads: Mapping) -> None:
    for key, gradient in grads.items():
        if key not in params:
            raise ValueError(
                f"grads: there is no parameter {key!r}; known: {', '.join(map(repr, params))}"
            )
        expected = params[key].shape
        if isinstance(gradient, RowGradient):
            _check_ids(key, gradient.ids, expected[0])
            expected = (len(gradient.ids), *expected[1:])
            gradient = gradient.rows
        usual = type(gradient) is xp.ndarray or isinstance(gradient, np.generic)
        if not usual or gradient.dtype.kind != "f" or gradient.shape != expected:
            raise ValueError(
                f"grads: expected the gradient of {key!r} to have shape {expected}, "
                f"received {_outline(gradient)}"
            )


def _check_ids(key: Hashable, ids: Any, rows: int) -> None:
    """Refuse what is no rising row numbers; of those on the host, the two ends are looked at."""
    fits = getattr(ids, "ndim", 0) == 1 and ids.dtype.kind in "iu"
    if fits and isinstance(ids, np.ndarray) and ids.size:
        fits = ids.item(0) >= 0 and ids.item(-1) < rows
    if not fits:
        raise ValueError(
            f"grads: expected the ids of {key!r} to be rising row numbers below {rows}, received "
            f"{ids!r:.80}"
        )


def _outline(gradient: Any) -> str:
    if not hasattr(gradient, "dtype"):
        return f"{gradient!r:.80}"
    return f"{gradient.shape}" + (f" of {gradient.dtype}" if gradient.dtype.kind != "f" else "")


def _label(key: Hashable) -> str:
    """The name of a parameter in a checkpoint."""
    return "/".join(map(str, key)) if isinstance(key, tuple) else str(key)


def _mapped(gradient: Array | RowGradient, change: Callable[[Array], Array]) -> Any:
    if isinstance(gradient, RowGradient):
        return RowGradient(gradient.ids, change(gradient.rows))
    return change(gradient)


def _shrink(squared_norm: Array, limit: float) -> Array:
    """What brings this norm down to `limit`; 1 if it is no longer than that.

    NaN for a norm that is not finite, so that an overflow shows instead of being clipped away.
    """
    with np.errstate(invalid="ignore"):
        norm = xp.sqrt(squared_norm)
        return limit / xp.maximum(norm, limit) + (norm - norm)


def _scaled(gradient: Array | RowGradient, factor: Array) -> Any:
    return _mapped(gradient, lambda numbers: numbers * factor)
