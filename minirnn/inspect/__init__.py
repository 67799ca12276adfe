"""Looking at what a network did, at what padding costs, and at what goes wrong.

bugs.py      classic mistakes of hand-written backpropagation, to be planted and found
             (gallery.py: the mistakes themselves)
"""

from minirnn.inspect import bugs

__all__ = ["bugs"]
