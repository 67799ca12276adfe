"""See inside a recurrent network: watch it read a text, and watch gradients travel back in time.

What is in it:

    trace.py        `trace`: states, gates, probabilities and gradients of one text, step by step
    page.py         the same as a page of HTML to step through (page.html)
    flow.py         `gradient_flow`: how far back the gradients of a batch reach
    explain.py      `explain`: the equations of one step of a cell, with the numbers in them
    bugs.py         classic mistakes of hand-written backpropagation, to be planted and found
                    (gallery.py: the mistakes themselves)
    ledger.py       what padding costs, and what packing and bucketing save
    plots.py        gates, states, gradients, training and padding as pictures (needs matplotlib)
    parts.py        a model taken apart: layers in a row, head, what it reads
    bptt.py         backpropagation through time, with a stop after each step
    equations.py    what `explain` prints of each cell; writing.py: how numbers are put on a line
"""

from minirnn.inspect import bugs, plots
from minirnn.inspect.explain import explain
from minirnn.inspect.flow import Flow, gradient_flow
from minirnn.inspect.ledger import Ledger, padding_ledger
from minirnn.inspect.page import html_page, write_page
from minirnn.inspect.trace import LayerTrace, Trace, trace

__all__ = [
    "Flow",
    "LayerTrace",
    "Ledger",
    "Trace",
    "bugs",
    "explain",
    "gradient_flow",
    "html_page",
    "padding_ledger",
    "plots",
    "trace",
    "write_page",
]
