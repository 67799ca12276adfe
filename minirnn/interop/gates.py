"""In what order the gates' blocks of weights stand, and which way the matrices lie, by library.

LSTM's candidate is called g, c or "cell"; GRU's is h, n or "hidden"; GRU's z is "update" and keeps
the past in all of these libraries: h_t = z ⊙ h_{t-1} + (1 - z) ⊙ candidate.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minirnn.cells import Cell, LSTMCell, SimpleRNNCell


class GateOrder(NamedTuple):
    """How one library lays out the weights of one cell.

    gates: names of the blocks, first to last, in the library's own letters.
    blocks: the same in minirnn's letters (LSTM: i f c o; GRU: z r h).
    transposed: False for kernels (features, gates * units), True for (gates * units, features).
    biases: how many vectors, in words.
    """

    library: str
    cell: str
    gates: tuple[str, ...]
    blocks: tuple[str, ...]
    transposed: bool
    biases: str


_LSTM, _GRU = tuple("ifco"), tuple("zrh")
_GRU_BIASES = "two; reset_after=False: one"

GATE_ORDERS = (
    GateOrder("minirnn", "LSTM", _LSTM, _LSTM, False, "one"),
    GateOrder("minirnn", "GRU", _GRU, _GRU, False, _GRU_BIASES),
    GateOrder("Keras", "LSTM", _LSTM, _LSTM, False, "one"),
    GateOrder("Keras", "GRU", _GRU, _GRU, False, _GRU_BIASES),
    GateOrder("PyTorch", "LSTM", tuple("ifgo"), _LSTM, True, "two, which are added"),
    GateOrder("PyTorch", "GRU", tuple("rzn"), tuple("rzh"), True, "two"),
    GateOrder("ONNX", "LSTM", tuple("iofc"), tuple("iofc"), True, "two, which are added"),
    GateOrder("ONNX", "GRU", _GRU, _GRU, True, "two; linear_before_reset=0: added"),
)


def gate_order(library: str, cell: str) -> GateOrder:
    """The entry of this library (minirnn, Keras, PyTorch, ONNX) and cell (LSTM, GRU).

    Raises:
        ValueError: if there is none.
    """
    for order in GATE_ORDERS:
        if (order.library.lower(), order.cell.lower()) == (library.lower(), cell.lower()):
            return order
    known = ", ".join(f"{order.library} {order.cell}" for order in GATE_ORDERS)
    raise ValueError(f"library, cell: expected one of {known}; received {library!r}, {cell!r}")


def block_orders(library: str, cell: Cell) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`(theirs, ours)`: the blocks of this cell's weights in a library and here, in our letters."""
    if isinstance(cell, SimpleRNNCell):
        return ("h",), ("h",)
    order = gate_order(library, "LSTM" if isinstance(cell, LSTMCell) else "GRU")
    return order.blocks, {"LSTM": _LSTM, "GRU": _GRU}[order.cell]


def gate_table() -> str:
    """All entries as text."""
    lines = [("library", "cell", "gates", "kernels", "biases")]
    for order in GATE_ORDERS:
        width = f"{len(order.gates)} * units"
        kernels = f"({width}, features)" if order.transposed else f"(features, {width})"
        lines.append((order.library, order.cell, " ".join(order.gates), kernels, order.biases))
    widths = (8, 5, 11, 24)
    return "\n".join(
        " ".join(cell.ljust(width) for cell, width in zip(line, (*widths, 0), strict=True)).rstrip()
        for line in lines
    )


def reorder(array: Any, given: tuple[str, ...], wanted: tuple[str, ...], axis: int = -1) -> Any:
    """The blocks along `axis`, which stand in the order `given`, in the order `wanted`.

    >>> reorder(np.array([1, 1, 2, 2, 3, 3]), ("r", "z", "h"), ("z", "r", "h"))
    array([2, 2, 1, 1, 3, 3])
    """
    blocks = dict(zip(given, np.split(np.asarray(array), len(given), axis=axis), strict=True))
    return np.concatenate([blocks[gate] for gate in wanted], axis=axis)
