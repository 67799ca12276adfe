"""See inside a recurrent network: watch it read a text, and watch gradients travel back in time."""

from minirnn.inspect.page import html_page, write_page
from minirnn.inspect.trace import LayerTrace, Trace, trace

__all__ = ["LayerTrace", "Trace", "html_page", "trace", "write_page"]
