"""The mistakes themselves; `minirnn.inspect.bugs` plants them and tells about them.

Each is the replacement of a line of this library, so that it is made where one would make it. The
line must stand in its function exactly once; the tests plant every one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minirnn import timeloop
from minirnn.base import Layer
from minirnn.cells import Cell, GRUCell, LSTMCell, SimpleRNNCell
from minirnn.gradcheck.library import mask
from minirnn.layers import (
    GRU,
    LSTM,
    Bidirectional,
    Dense,
    DropMask,
    Dropout,
    Embedding,
    GlobalAveragePooling1D,
    SimpleRNN,
    embedding,
    recurrent,
)
from minirnn.losses import Loss, SparseCategoricalCrossentropy


class Bug(NamedTuple):
    """A mistake, and what is told about it.

    places: (owner, name) of the function that is rewritten: the first gives its source, the others
        are modules that have imported it.
    right, wrong: the piece of source, and what stands there instead.
    symptom, hint, cause: for whoever looks for it; `cause` gives it away.
    suspect: `gradcheck(thing, **options)` of `thing, options = suspect()` sees it.
    layers: what stands between an Embedding and the last Dense layer of a model that it hits.
    learns: whether the loss of such a model falls all the same.
    """

    places: tuple[tuple[Any, str], ...]
    right: str
    wrong: str
    symptom: str
    hint: str
    cause: str
    suspect: Callable[[], tuple[Any, dict[str, Any]]]
    layers: Callable[[], list[Layer]]
    learns: bool = True


# --- which layer is to be checked, and in which model it trains -----------------------------------


def checked(make: Callable[..., Any], *args: Any, **options: Any) -> Callable:
    """A suspect; `mask` is the name of a mask, all other options are those of `gradcheck`."""

    def suspect() -> tuple[Any, dict[str, Any]]:
        masked = {"mask": mask(options["mask"])} if "mask" in options else {}
        return make(*args), options | masked

    return suspect


def sequences(layer: Callable[..., Any]) -> Callable[..., Any]:
    return lambda units: layer(units, return_sequences=True)


def both_ways(units: int) -> Bidirectional:
    return Bidirectional(LSTM(units, return_sequences=True))


IDS = np.array([[3, 1, 3, 7], [1, 1, 9, 3]])  # some of them several times
UNITS = 8

RUN_BACKWARD = ((timeloop, "run_backward"),)


# --- the gallery ----------------------------------------------------------------------------------

BUGS: dict[str, Bug] = {
    "recurrent-gradient-dropped": Bug(
        ((SimpleRNNCell, "steps_backward"),),
        "dot(da, U_T, dh)",
        "dh[...] = 0",
        "A SimpleRNN learns, but only from the last words of a row; the first might as well not "
        "be there.",
        "Of one single step every weight's gradient is right, and only that of the state before it "
        "is wrong. Which gradient ties a step to the one before?",
        "h_t reaches the loss through h_{t+1} as well: dh_{t-1} = da Uᵀ. Here it is 0, so nothing "
        "is propagated through time.",
        checked(SimpleRNN, 3),
        lambda: [SimpleRNN(UNITS)],
    ),
    "recurrent-kernel-not-transposed": Bug(
        ((SimpleRNNCell, "steps_backward"),),
        'self.params["recurrent_kernel"].T',
        'self.params["recurrent_kernel"]',
        "A SimpleRNN learns a little slower than it should. All shapes fit.",
        "U is square, so NumPy cannot complain. Does a symmetric U make the error vanish?",
        "The gradient goes back through a product by the transposed matrix: dh_{t-1} = da Uᵀ, not "
        "da U.",
        checked(SimpleRNN, 3),
        lambda: [SimpleRNN(UNITS)],
    ),
    "tanh-without-the-square": Bug(
        ((SimpleRNNCell, "local_derivatives"),),
        "self.activation.derivative(h)",
        "1 - h",
        "A SimpleRNN's loss falls at first, and then rises again.",
        "Every weight is wrong, the bias included, even for one step and one row. What lies "
        "between the bias and the state?",
        "With h = tanh(a) the derivative is 1 - h², and not 1 - h, which grows where h is negative "
        "and the unit should be saturated.",
        checked(SimpleRNNCell, 3),
        lambda: [SimpleRNN(UNITS)],
        learns=False,
    ),
    "carry-not-reset": Bug(
        ((SimpleRNNCell, "steps_backward"),),
        "dot(da, U_T, dh)",
        "dh += da @ U_T",
        "A SimpleRNN's gradients are much too large on long rows, and right on rows of one step.",
        "Count how often the gradient of the last state comes into that of the first.",
        "dh_{t-1} replaces dh_t. Added to it, the gradient of each later step is counted again at "
        "every earlier one, as if h_t were h_{t-1} + tanh(a).",
        checked(SimpleRNN, 3),
        lambda: [SimpleRNN(UNITS)],
    ),
    "state-after-for-state-before": Bug(
        RUN_BACKWARD,
        "dropped(state_prev[0], drop_all)",
        "dropped(state[0], drop_all)",
        "Any recurrent layer learns, almost as well as ever.",
        "Only the recurrent kernel is wrong. Which two arrays is its gradient the product of?",
        "At step t, U multiplied h_{t-1}: dU = Σ h_{t-1}ᵀ da_t. Here it is made with h_t.",
        checked(LSTM, 3),
        lambda: [LSTM(UNITS)],
    ),
    "first-step-missing": Bug(
        RUN_BACKWARD,
        "da, du = local[:2]",
        "da, du = local[:2]\n    da[: sum(packing.batch_sizes[:1])] = 0",
        "Any recurrent layer learns, but nothing from the first word of a row.",
        "Look at the gradient of x, step by step.",
        "The loop over time ends one step early (range(T - 1, 0, -1) stops before 0), so the first "
        "step's da stays 0 and adds nothing to dW and db.",
        checked(LSTM, 3),
        lambda: [LSTM(UNITS)],
    ),
    "bias-of-one-step": Bug(
        ((Cell, "weight_gradients"),),
        'grads["bias"] = sum_of_rows(da)',
        'grads["bias"] = da[-1]',
        "SimpleRNN and LSTM learn, almost as if nothing were wrong.",
        "Only the bias is wrong, and it would be right for one row of one step.",
        "The bias takes part at every step of every row, so its gradient is the sum over all of "
        "them. Here it is set, not added to, and holds the last one.",
        checked(LSTM, 3),
        lambda: [LSTM(UNITS)],
    ),
    "gates-swapped": Bug(
        ((LSTMCell, "local_derivatives"),),
        "(g, c_prev, i, tanh_c)",
        "(c_prev, g, i, tanh_c)",
        "An LSTM learns, about as well as it should.",
        "The check goes gate by gate: which blocks of the kernel are wrong, and which are right?",
        "c_t = f c_{t-1} + i g: the input gate's gradient has the factor g and the forget gate's "
        "c_{t-1}. Here they are exchanged.",
        checked(LSTMCell, 3),
        lambda: [LSTM(UNITS)],
    ),
    "tanh-gate-as-sigmoid": Bug(
        ((LSTMCell, "gate_derivatives"),),
        "da *= gates + (half - shift)",
        "da *= gates",
        "An LSTM learns, a little slower than it should.",
        "One gate out of four is wrong, and it is the one with another activation.",
        "The candidate's g is a tanh, whose derivative is (1 + g)(1 - g). Here it gets the "
        "sigmoid's g (1 - g), which even has the wrong sign for half of the numbers.",
        checked(LSTMCell, 3),
        lambda: [LSTM(UNITS)],
    ),
    "cell-gradient-dropped": Bug(
        ((LSTMCell, "steps_backward"),),
        "dc *= f",
        "dc[...] = 0",
        "An LSTM learns, but remembers no longer than a SimpleRNN.",
        "The output gate is right for a row of two steps, the others are not. An LSTM has two "
        "states; which of them carries a gradient far?",
        "dc_{t-1} = dc_t f is the path on which an LSTM's gradient survives many steps. Here it is "
        "cut, and only the path through h is left.",
        checked(LSTM, 3),
        lambda: [LSTM(UNITS)],
    ),
    "forget-gate-bypassed": Bug(
        ((LSTMCell, "steps_backward"),),
        "dc *= f",
        "dc *= 1",
        "An LSTM learns, with gradients that are too large where it should have forgotten.",
        "The error grows with the distance from the end of the row, and would vanish if the forget "
        "gate were always open.",
        "c_{t-1} came in through the forget gate, so its gradient goes back through it: "
        "dc_{t-1} = dc_t f. Here it goes past it.",
        checked(LSTM, 3),
        lambda: [LSTM(UNITS)],
    ),
    "overwritten-too-early": Bug(
        ((LSTMCell, "steps_backward"),),
        "da_o *= dh  #                             5 2   da_o\n            dot(da, U_T, dh)",
        "dot(da, U_T, dh)\n            da_o *= dh",
        "An LSTM hardly learns, although each line of its backward pass is as it stands in the "
        "papers.",
        "The order of the lines counts where arrays are used again. Which array is read after it "
        "was overwritten?",
        "dh is overwritten with dh_{t-1} before the output gate's gradient, which needs dh_t, has "
        "been computed.",
        checked(LSTMCell, 3),
        lambda: [LSTM(UNITS)],
        learns=False,
    ),
    "reset-gate-forgotten": Bug(
        ((GRUCell, "local_derivatives"),),
        "split(du, 3)[2][...] *= r",
        "split(du, 3)[2][...] *= 1",
        "A GRU learns as if nothing were wrong.",
        "For a single step the kernel is right, and the recurrent kernel is wrong in one block.",
        "What h_{t-1} U says of the candidate came in through the reset gate (a_h + r u_h), so its "
        "gradient has the factor r.",
        checked(GRUCell, 3),
        lambda: [GRU(UNITS)],
    ),
    "update-gate-path-dropped": Bug(
        ((GRUCell, "steps_backward"),),
        "dh += through",
        "dh += 0",
        "A GRU learns, but not from words that are far from the end.",
        "h_{t-1} reaches h_t in two ways. Is the gradient of both there?",
        "h_t = z h_{t-1} + (1 - z) hh: the first term carries dh_t z straight to the step before. "
        "Here only the part through the product with U is left.",
        checked(GRU, 3),
        lambda: [GRU(UNITS)],
    ),
    "repeated-ids-not-summed": Bug(
        ((embedding, "sum_equal_ids"),),
        "grouped_sums(rows, order, starts)",
        "rows[to_device(order[starts])]",
        "A model learns, but its vectors of common words hardly faster than those of rare ones.",
        "Check an Embedding with rows in which an id comes twice, then with ids that are all "
        "different.",
        "A word that occurs several times in a batch gets the sum of its gradients. "
        "dE[ids] = dy keeps one of them; dE[ids] += dy does so, too, with NumPy.",
        checked(Embedding, 11, 3, x=IDS),
        lambda: [LSTM(UNITS)],
    ),
    "mask-ignored-in-backward": Bug(
        ((GlobalAveragePooling1D, "backward"),),
        "dy[:, None, :] * cache",
        "(dy[:, None, :] / cache.shape[1]).repeat(cache.shape[1], axis=1)",
        "A model that pools over masked rows learns, about as well as it should.",
        "Without a mask all is right. With one, does padding get a gradient?",
        "Forward takes the mean over the real steps, backward deals the gradient out to all steps "
        "and gives padding its share.",
        checked(GlobalAveragePooling1D, mask="trailing"),
        lambda: [LSTM(UNITS, return_sequences=True), GlobalAveragePooling1D()],
    ),
    "repeated-outputs-lost": Bug(
        ((recurrent, "show_steps_backward"),),
        "if zero_masked or not packing.repeats:",
        "if True:",
        "A recurrent layer that returns sequences learns, but from short rows less than from long "
        "ones.",
        "Without a mask all is right. What does a recurrent layer show at a masked step?",
        "A masked step repeats the state of an earlier one, so what its output adds to the loss "
        "belongs to that earlier step. Here it is thrown away with the padding.",
        checked(sequences(LSTM), 3, mask="holes"),
        lambda: [LSTM(UNITS, return_sequences=True), DropMask(), GlobalAveragePooling1D()],
    ),
    "direction-not-reversed": Bug(
        ((Bidirectional, "split_gradients"),),
        "merged = self._merge_backward(dys if self.merge_mode is None else dys[0], *ys)",
        "merged = self._merge_backward(dys if self.merge_mode is None else dys[0], *ys)\n"
        "        if self.return_sequences and merged[1] is not None:\n"
        "            turned = packing.pack(packing.unpack(merged[1])[:, ::-1])\n"
        "            merged = merged[0], turned",
        "A Bidirectional layer learns, but its backward direction hardly helps.",
        "One direction is right and the other wrong in every weight, unless only the last state is "
        "returned.",
        "The backward direction's outputs are turned back in time before they are merged, so their "
        "gradient has to be turned as well. Here each step gets that of its mirror image.",
        checked(both_ways, 3),
        lambda: [both_ways(UNITS), LSTM(UNITS)],
    ),
    "dropout-not-scaled": Bug(
        ((Dropout, "backward"),),
        "dy * cache",
        "dy * (cache > 0)",
        "A model with Dropout learns; with plain SGD, the layers before it as if their learning "
        "rate were lower.",
        "Outside training all is right. In training every gradient before the layer is off by one "
        "factor.",
        "What is not dropped was scaled up by 1 / (1 - rate), so its gradient is, too.",
        checked(Dropout, 0.4, x=np.ones((3, 5)), training=True),
        lambda: [LSTM(UNITS), Dropout(0.5)],
    ),
    "activation-skipped": Bug(
        ((Dense, "backward"),),
        "da = self.activation.backward(dy, y)",
        "da = dy",
        "A model with a hidden Dense layer learns, with steps that are too large where the layer "
        "is saturated.",
        "A Dense layer without activation is right, and one with tanh is wrong everywhere.",
        "y = tanh(a) with a = x W + b: before W and b get a gradient, dy has to go back through "
        "the activation.",
        checked(Dense, 3, "tanh"),
        lambda: [LSTM(UNITS), Dense(UNITS, "tanh")],
    ),
    "softmax-without-the-label": Bug(
        ((SparseCategoricalCrossentropy, "gradient"),),
        "exps[rows, labels] -= 1",
        "pass",
        "The loss does not fall.",
        "The gradient of a row does not sum to 0 over the classes. Does it depend on the label?",
        "The gradient of softmax and cross-entropy together is p - y, with y = 1 at the label. "
        "Here it is p: each logit is pushed down, whatever the label.",
        checked(SparseCategoricalCrossentropy, True),
        lambda: [LSTM(UNITS)],
        learns=False,
    ),
    "mean-forgotten": Bug(
        ((Loss, "forward"),),
        "dy *= 1 / count",
        "dy *= 1",
        "With Adam all is well. With plain SGD the same model needs another learning rate for each "
        "batch size.",
        "All gradients are wrong by one and the same factor. Which size is it?",
        "The loss is the mean over the rows of the batch, so its gradient has the factor "
        "1 / rows. Adam divides by the gradient's own size and does not notice.",
        checked(SparseCategoricalCrossentropy, True),
        lambda: [LSTM(UNITS)],
    ),
}
