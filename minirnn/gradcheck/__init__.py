"""Is the backward pass right? Every gradient against derivatives taken from forward passes alone.

>>> from minirnn.layers import LSTM
>>> report = gradcheck(LSTM(3, return_sequences=True))
>>> report.passed
True

A falling loss proves nothing: a network with a wrong gradient learns too, only worse. So
everything is compared, gate by gate, on random weights and with a random upstream gradient, and
where a block fails the report guesses at the cause.

    subject.py     a cell, layer, model or loss as one function of named arrays
                   (anatomy.py: what layers are made of; examples.py: random input for them)
    numeric.py     derivatives from forward passes: complex step, central differences
    evidence.py    both gradients of everything, block by block
    report.py      the result: rows, text, error
    cuts.py        forward passes with a part of the chain rule left out on purpose
    diagnosis.py   what kind of error would give just these wrong gradients
    check.py       `gradcheck`, which puts all of that together
    library.py     the check of everything that minirnn has
"""

from minirnn.gradcheck.check import gradcheck
from minirnn.gradcheck.library import check_library, library_cases
from minirnn.gradcheck.report import GradientError, GradientReport, GradientRow

__all__ = [
    "GradientError",
    "GradientReport",
    "GradientRow",
    "check_library",
    "gradcheck",
    "library_cases",
]
