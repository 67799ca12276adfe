"""See inside a recurrent network: watch it read a text, and watch gradients travel back in time.

trace.py     one text on its way through a model, and the gradient on its way back
page.py      the same as a page of HTML to step through (page.html)
bugs.py      classic mistakes of hand-written backpropagation, to be planted and found
             (gallery.py: the mistakes themselves)
ledger.py    what padding costs, and what packing and bucketing save
plots.py     gates, states, gradients, training and padding as pictures (needs matplotlib)
"""

from minirnn.inspect import bugs, plots
from minirnn.inspect.ledger import Ledger, padding_ledger
from minirnn.inspect.page import html_page, write_page
from minirnn.inspect.trace import LayerTrace, Trace, trace

__all__ = [
    "Ledger",
    "LayerTrace",
    "Trace",
    "bugs",
    "html_page",
    "padding_ledger",
    "plots",
    "trace",
    "write_page",
]
