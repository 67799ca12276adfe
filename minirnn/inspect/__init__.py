"""See inside a recurrent network: watch it read a text, and watch gradients travel back in time."""

from minirnn.inspect.explain import explain
from minirnn.inspect.trace import LayerTrace, Trace, trace

__all__ = ["LayerTrace", "Trace", "explain", "trace"]
