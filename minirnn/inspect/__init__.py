"""Looking at what a network did, at what padding costs, and at what goes wrong.

bugs.py      classic mistakes of hand-written backpropagation, to be planted and found
             (gallery.py: the mistakes themselves)
ledger.py    what padding costs, and what packing and bucketing save
plots.py     gates, states, gradients, training and padding as pictures (needs matplotlib)
"""

from minirnn.inspect import bugs, plots
from minirnn.inspect.ledger import Ledger, padding_ledger

__all__ = ["Ledger", "bugs", "padding_ledger", "plots"]
