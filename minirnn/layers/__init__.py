"""All layers, under Keras's names."""

from minirnn.base import Layer
from minirnn.cells import GRUCell, GRUCellResetBefore, LSTMCell, SimpleRNNCell
from minirnn.layers.bidirectional import Bidirectional
from minirnn.layers.core import Activation, Dense, Dropout, Input, TimeDistributed
from minirnn.layers.embedding import DropMask, Embedding, Masking, OneHot
from minirnn.layers.pooling import Flatten, GlobalAveragePooling1D, GlobalMaxPooling1D
from minirnn.layers.recurrent import GRU, LSTM, RNN, SimpleRNN
from minirnn.text import TextVectorization

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Activation",
    "Bidirectional",
    "Dense",
    "DropMask",
    "Dropout",
    "Embedding",
    "Flatten",
    "GRUCell",
    "GRUCellResetBefore",
    "GlobalAveragePooling1D",
    "GlobalMaxPooling1D",
    "Input",
    "LSTMCell",
    "Layer",
    "Masking",
    "OneHot",
    "SimpleRNN",
    "SimpleRNNCell",
    "TextVectorization",
    "TimeDistributed",
]
