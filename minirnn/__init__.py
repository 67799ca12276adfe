"""minirnn: recurrent networks by hand: exact, small and fast, on NumPy and CuPy.

The names follow Keras, so that `import minirnn as keras` runs most of a Keras lesson on recurrent
networks. To see how it works, begin with `minirnn/cells.py`.
"""

from minirnn import (
    activations,
    callbacks,
    data,
    generation,
    initializers,
    layers,
    losses,
    metrics,
    models,
    optimizers,
    parallel,
    seq2seq,
    utils,
    vectors,
)
from minirnn.backend import get_backend, set_backend, set_floatx, set_random_seed
from minirnn.checkpoint import Checkpoint, CheckpointError
from minirnn.finite import NonFiniteError
from minirnn.generation import generate
from minirnn.gradcheck import gradcheck
from minirnn.invariance import check_padding_invariance
from minirnn.layers import Input
from minirnn.models import Sequential, load
from minirnn.saving import FileFormatError
from minirnn.segments import set_history_limit
from minirnn.seq2seq import Seq2Seq
from minirnn.turns import ModelBusyError
from minirnn.windows import Windows

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`minirnn.inspect` is imported when it is first asked for."""
    if name == "inspect":
        import importlib

        return importlib.import_module("minirnn.inspect")
    raise AttributeError(f"module 'minirnn' has no attribute {name!r}")


__all__ = [
    "Checkpoint",
    "CheckpointError",
    "FileFormatError",
    "Input",
    "ModelBusyError",
    "NonFiniteError",
    "Seq2Seq",
    "Sequential",
    "Windows",
    "activations",
    "callbacks",
    "check_padding_invariance",
    "data",
    "generate",
    "generation",
    "get_backend",
    "gradcheck",
    "initializers",
    "inspect",
    "layers",
    "load",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "parallel",
    "seq2seq",
    "set_backend",
    "set_floatx",
    "set_history_limit",
    "set_random_seed",
    "utils",
    "vectors",
]
