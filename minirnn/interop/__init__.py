"""Weights and models in and out: PyTorch, Keras, ONNX.

    from minirnn.interop import keras, onnx, pytorch

    pytorch.load(model, "weights.safetensors")     and `save`; state dicts: `load_state_dict`
    keras.load("model.keras")                      and `save`; weights alone: `load_weights`
    onnx.save(model, "model.onnx")                 and `run`, which computes RNN, LSTM and GRU nodes

Each module needs what it reads or writes with: `pip install "minirnn[interop]"`. Nothing that a
file holds is ever run.

>>> print(gate_table())
library  cell  gates       kernels                  biases
minirnn  LSTM  i f c o     (features, 4 * units)    one
minirnn  GRU   z r h       (features, 3 * units)    two; reset_after=False: one
Keras    LSTM  i f c o     (features, 4 * units)    one
Keras    GRU   z r h       (features, 3 * units)    two; reset_after=False: one
PyTorch  LSTM  i f g o     (4 * units, features)    two, which are added
PyTorch  GRU   r z n       (3 * units, features)    two
ONNX     LSTM  i o f c     (4 * units, features)    two, which are added
ONNX     GRU   z r h       (3 * units, features)    two; linear_before_reset=0: added
"""

from minirnn.interop.gates import GATE_ORDERS, GateOrder, gate_order, gate_table, reorder

__all__ = ["GATE_ORDERS", "GateOrder", "gate_order", "gate_table", "reorder"]
