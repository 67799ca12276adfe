"""What minirnn.inspect sees of a model on the device is what it sees on the host."""

import cuda_emulator
import numpy as np
import pytest
from device_cases import compare

import minirnn
from minirnn.inspect import gradient_flow, trace
from minirnn.layers import (
    GRU,
    LSTM,
    Bidirectional,
    Dense,
    Embedding,
    GlobalAveragePooling1D,
    SimpleRNN,
)
from minirnn.models import Sequential

pytestmark = pytest.mark.skipif(
    not cuda_emulator.has_compiler(), reason=f"needs a C++ compiler ({cuda_emulator.COMPILER})"
)
ROW = [3, 5, 1, 8, 2]
STACKS = {
    "lstm": lambda: [LSTM(4), Dense(3, activation="softmax")],
    "bidirectional": lambda: [
        Bidirectional(GRU(3, return_sequences=True)),
        SimpleRNN(4),
        Dense(1, activation="sigmoid"),
    ],
    "pooling": lambda: [
        LSTM(4, return_sequences=True),
        GlobalAveragePooling1D(),
        Dense(3, activation="softmax"),
    ],
}


def model_of(kind):
    minirnn.set_random_seed(5)
    return Sequential([Embedding(10, 6, mask_zero=True), *STACKS[kind]()])


@pytest.mark.parametrize("kind", STACKS)
def test_trace(kind):
    def run():
        seen = vars(trace(model_of(kind), ROW)).copy()
        seen["layers"] = [vars(layer) for layer in seen["layers"]]
        return seen

    compare(run)


@pytest.mark.parametrize("labels", [None, [1, 0]])
def test_gradient_flow(labels):
    def run():
        model = model_of("lstm")
        model.compile("adam", "sparse_categorical_crossentropy")
        rows = np.array([ROW, [4, 4, 9, 0, 0]])
        flows = gradient_flow(model, rows, None if labels is None else np.array(labels))
        return [vars(flow) if hasattr(flow, "__dict__") else flow._asdict() for flow in flows]

    compare(run)


def test_explain():
    def run():
        minirnn.set_random_seed(5)
        cell = minirnn.layers.LSTMCell(2)
        cell.build(1)
        return cell.explain(np.ones((1, 1), "f"), cell.initial_state(1))

    compare(run)
