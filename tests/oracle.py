"""What recurrent layers must compute, written a second time and as plainly as possible.

The first half follows the papers and Keras's rules: one row, one step, one gate at a time, in
float64, with loops over the padded row and `if masked: carry`. There is no batching, no packing and
no fused weight: the matrices are cut into one kernel, one recurrent kernel and one bias a gate
first. It shares no code with the library.

The second half steps a real cell over the padded batch, one position at a time, and keeps masked
rows with `where`; then the same backwards. The time loop must give the very same.
"""

from __future__ import annotations

import math

import numpy as np

GATES = {
    "simple_rnn": ["h"],
    "lstm": ["i", "f", "c", "o"],
    "gru": ["z", "r", "h"],
    "gru_reset_before": ["z", "r", "h"],
}
STATES = {"simple_rnn": 1, "lstm": 2, "gru": 1, "gru_reset_before": 1}

FUNCTIONS = {
    "tanh": math.tanh,
    "sigmoid": lambda a: 1 / (1 + math.exp(-a)) if a > -700 else 0.0,
    "hard_sigmoid": lambda a: min(1.0, max(0.0, a / 6 + 0.5)),
    "relu": lambda a: max(0.0, a),
    "elu": lambda a: a if a > 0 else math.exp(a) - 1,
    "softplus": lambda a: math.log(1 + math.exp(a)),
    "exponential": math.exp,
    "linear": lambda a: a,
}


def each(name, vector):
    """An activation, number by number."""
    return np.array([FUNCTIONS[name](float(a)) for a in vector])


# --- one row, one step at a time ------------------------------------------------------------------


def weights_by_gate(kind, params):
    """Keras's wide matrices cut into {gate: {W, U, b, b_u}}; absent biases are zeros."""
    kernel = np.asarray(params["kernel"], dtype=np.float64)
    recurrent = np.asarray(params["recurrent_kernel"], dtype=np.float64)
    units = recurrent.shape[0]
    width = len(GATES[kind]) * units
    bias = np.asarray(params.get("bias", np.zeros(width)), dtype=np.float64)
    b, b_u = bias if bias.ndim == 2 else (bias, np.zeros(width))
    weights = {}
    for number, gate in enumerate(GATES[kind]):
        columns = range(number * units, (number + 1) * units)
        weights[gate] = {
            "W": np.stack([kernel[:, k] for k in columns], axis=1),
            "U": np.stack([recurrent[:, k] for k in columns], axis=1),
            "b": np.array([b[k] for k in columns]),
            "b_u": np.array([b_u[k] for k in columns]),
        }
    return weights


def step_row(kind, weights, x, state, activation="tanh", recurrent_activation="sigmoid", drop=None):
    """The states after one step of one row: x (F,), each state (U,)."""
    h = state[0]
    h_in = h if drop is None else h * drop

    def net(gate, h_seen):
        w = weights[gate]
        return x @ w["W"] + w["b"] + h_seen @ w["U"] + w["b_u"]

    if kind == "simple_rnn":
        return [each(activation, net("h", h_in))]

    if kind == "lstm":
        c = state[1]
        i = each(recurrent_activation, net("i", h_in))
        f = each(recurrent_activation, net("f", h_in))
        o = each(recurrent_activation, net("o", h_in))
        candidate = each(activation, net("c", h_in))
        c = f * c + i * candidate
        return [o * each(activation, c), c]

    z = each(recurrent_activation, net("z", h_in))
    r = each(recurrent_activation, net("r", h_in))
    if kind == "gru":
        w = weights["h"]
        candidate = each(activation, x @ w["W"] + w["b"] + r * (h_in @ w["U"] + w["b_u"]))
    else:
        candidate = each(activation, net("h", r * h_in))
    return [z * h + (1 - z) * candidate]


def run_row(
    kind,
    params,
    x,
    mask=None,
    initial_state=None,
    go_backwards=False,
    zero_output_for_mask=False,
    activation="tanh",
    recurrent_activation="sigmoid",
    drop_x=None,
    drop_h=None,
):
    """One padded row x (T, F) → outputs (T, U) in the order walked, and the last states."""
    weights = weights_by_gate(kind, params)
    units = np.shape(params["recurrent_kernel"])[0]
    state = [np.zeros(units)] * STATES[kind]
    if initial_state is not None:
        state = [np.asarray(s, dtype=np.float64) for s in initial_state]
    outputs = []
    positions = list(range(len(x)))
    if go_backwards:
        positions.reverse()
    for t in positions:
        masked = mask is not None and not mask[t]
        if masked:
            outputs.append(np.zeros(units) if zero_output_for_mask else state[0])
            continue
        x_t = np.asarray(x[t], dtype=np.float64)
        if drop_x is not None:
            x_t = x_t * drop_x
        state = step_row(kind, weights, x_t, state, activation, recurrent_activation, drop_h)
        outputs.append(state[0])
    return np.array(outputs).reshape(len(x), units), state


def run_layer(kind, params, x, mask=None, initial_state=None, return_sequences=False, **options):
    """Row after row: `(y, states)` as a recurrent layer gives them.

    `drop_x` (B, F) and `drop_h` (B, U) may be among the options of `run_row`.
    """
    units = np.shape(params["recurrent_kernel"])[0]
    drop_x, drop_h = options.pop("drop_x", None), options.pop("drop_h", None)
    sequences, finals = [], []
    for b in range(len(x)):
        outputs, state = run_row(
            kind,
            params,
            x[b],
            None if mask is None else mask[b],
            None if initial_state is None else [s[b] for s in initial_state],
            drop_x=None if drop_x is None else drop_x[b],
            drop_h=None if drop_h is None else drop_h[b],
            **options,
        )
        sequences.append(outputs)
        finals.append(state)
    states = [
        np.array([state[k] for state in finals]).reshape(len(x), units) for k in range(STATES[kind])
    ]
    y = np.array(sequences).reshape(*x.shape[:2], units) if return_sequences else states[0]
    return y, states


def run_bidirectional(
    kind,
    params,
    x,
    mask=None,
    initial_state=None,
    return_sequences=False,
    merge_mode="concat",
    drop_x=(None, None),
    drop_h=(None, None),
    **options,
):
    """`(y, states)`; a pair as y for `merge_mode=None`. params: forward_kernel, ..."""
    count = STATES[kind]
    ys, states = [], []
    for number, way in enumerate(("forward", "backward")):
        own = {key[len(way) + 1 :]: p for key, p in params.items() if key.startswith(f"{way}_")}
        given = None
        if initial_state is not None:
            given = initial_state[number * count : (number + 1) * count]
        y, final = run_layer(
            kind,
            own,
            x,
            mask,
            given,
            return_sequences,
            go_backwards=way == "backward",
            zero_output_for_mask=True,
            drop_x=drop_x[number],
            drop_h=drop_h[number],
            **options,
        )
        if way == "backward" and return_sequences:
            y = np.array([[row[len(row) - 1 - t] for t in range(len(row))] for row in y])
            y = y.reshape(ys[0].shape)
        ys.append(y)
        states += final
    ahead, back = ys
    if merge_mode is None:
        return (ahead, back), states
    merged = {
        "concat": lambda: np.concatenate([ahead, back], axis=-1),
        "sum": lambda: ahead + back,
        "mul": lambda: ahead * back,
        "ave": lambda: (ahead + back) / 2,
    }
    return merged[merge_mode](), states


# --- a real cell, stepped over the padded batch ---------------------------------------------------


def positions(T, go_backwards):
    return range(T - 1, -1, -1) if go_backwards else range(T)


def stepped_forward(cell, x, mask, initial_state, go_backwards=False):
    """Outputs (B, T, U) in the order walked, the last states, and the caches of all steps."""
    B, T, _ = x.shape
    state = tuple(initial_state)
    outputs = np.zeros((B, T, cell.units))
    caches = []
    for k, t in enumerate(positions(T, go_backwards)):
        new, cache = cell.forward(x[:, t], state)
        state = tuple(np.where(mask[:, t, None], n, s) for n, s in zip(new, state, strict=True))
        outputs[:, k] = state[0]
        caches.append(cache)
    return outputs, state, caches


def stepped_backward(cell, x, mask, caches, doutputs, dfinal, go_backwards=False):
    """`(dx, dinitial, grads)`; doutputs (B, T, U) in the order walked, dfinal one a state."""
    B, T, _ = x.shape
    dx = np.zeros_like(x)
    grads = {key: np.zeros_like(value) for key, value in cell.params.items()}
    dstate = [d.copy() for d in dfinal]
    walked = list(enumerate(positions(T, go_backwards)))
    for k, t in reversed(walked):
        real = mask[:, t, None]
        dstate[0] = dstate[0] + doutputs[:, k]
        dnew = tuple(np.where(real, d, 0.0) for d in dstate)
        dx_t, dprevious, step_grads = cell.backward(dnew, caches[k])
        dstate = [np.where(real, p, d) for p, d in zip(dprevious, dstate, strict=True)]
        dx[:, t] = np.where(real, dx_t, 0.0)
        for key, value in step_grads.items():
            grads[key] += value
    return dx, tuple(dstate), grads
