"""On the sample, word order matters: the example shows it with real trainings."""

import runpy
from pathlib import Path

EXAMPLE = Path(__file__).parent.parent / "examples" / "word_order.py"


def test_a_recurrent_network_beats_a_bag_of_words(capsys):
    accuracy = runpy.run_path(str(EXAMPLE))["main"](epochs=4, seed=3)
    assert accuracy["bag of words"] < 0.8
    assert accuracy["recurrent network"] > 0.92
    shown = capsys.readouterr().out
    assert "generated sample of toy news, not AG News" in shown
    assert f"of the sample, recurrent network: {accuracy['recurrent network']:.3f}" in shown
