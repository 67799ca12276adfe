"""See inside a recurrent network: watch it read a text, and watch gradients travel back in time.

trace.py        `trace`: states, gates, probabilities and gradients of one text, step by step
flow.py         `gradient_flow`: how far back the gradients of a batch reach
explain.py      `explain`: the equations of one step of a cell, with the numbers in them
parts.py        a model taken apart: layers in a row, head, what it reads
bptt.py         backpropagation through time, with a stop after each step
equations.py    what `explain` prints of each cell; writing.py: how numbers are put on a line
"""

from minirnn.inspect.explain import explain
from minirnn.inspect.flow import Flow, gradient_flow
from minirnn.inspect.trace import LayerTrace, Trace, trace

__all__ = ["Flow", "LayerTrace", "Trace", "explain", "gradient_flow", "trace"]
