"""Generated bad input: whatever comes in, a named error or a right answer goes out.

    judge.py      what "a named error or a right answer" means, with limits on time and memory
    values.py     how bad values, arrays and texts are drawn
    layers.py ... the targets: functions `target(draw)` that draw one case and judge it
    running.py    runs targets with Hypothesis, and with Atheris where that is installed

`tests/test_fuzz.py` runs a few cases of each target with fixed seeds; `scripts/fuzz.py` runs as
many as one likes.
"""
