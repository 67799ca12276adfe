"""The examples run, on few rows of the sample, and say what they are meant to say."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_the_demo_is_right_nine_times_out_of_ten(capsys):
    assert example("agnews_classifier")["main"](["--data", "sample"]) == 0
    out = capsys.readouterr().out
    assert "Model: rnn," in out
    found = re.search(r"test rows of the generated sample \(not AG News\): (0\.\d+)", out)
    assert float(found[1]) > 0.9


def test_the_demo_as_a_script_takes_the_options_of_minirnn_train(tmp_path):
    saved = tmp_path / "model.mrnn"
    options = ["--data", "sample", "--model", "lstm", "--take", "40", "--epochs", "1"]
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "agnews_classifier.py"), *options, "--save", str(saved)],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Training on 40 rows of the generated sample (not AG News), 8 a step" in done.stdout
    assert saved.is_file()


def test_the_demo_complains_in_one_line(capsys, tmp_path):
    assert example("agnews_classifier")["main"](["--data", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "which has no train.csv and no test.csv" in err
    assert err.count("\n") == 1


def test_the_lesson(capsys):
    accuracy = example("lesson")["main"](rows=120, data="sample")
    out = capsys.readouterr().out
    assert out.startswith("Data: A generated sample of toy news, not AG News: ")
    assert out.count("Total weights: 1,281,364") == 2
    for weights in ("1,280,000", "1,296", "68"):
        assert re.search(rf" {weights}\n", out)
    assert out.count("Epoch 1/1: ") == len(accuracy) == 4
    assert re.search(r"array of shape \(16, \d+\); \d+% of it is padding", out)
    table = out[out.index("After one epoch, on the test rows of the generated sample, not AG") :]
    for name, value in accuracy.items():
        assert 0 <= value <= 1
        assert f"    {value:.3f}  {name}\n" in table
    assert len(re.findall(r"\(0\.\d\d\), it is ", table)) == 3


def test_the_lesson_shows_a_title_as_numbers_and_back(capsys):
    lesson = example("lesson")
    rows = lesson["ag_news"].load("sample").train.take(50)
    vectorizer = lesson["learn_vocabulary"](lesson["as_dataset"](rows))
    out = capsys.readouterr().out
    assert repr(rows.titles[0]) in out
    assert str(vectorizer(rows.titles[0]).tolist()) in out
    assert re.sub(r"[^\w\s]", "", rows.titles[0]).lower() in out


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_has_help(script):
    done = subprocess.run(
        [sys.executable, str(script), "--help"], capture_output=True, encoding="utf-8", timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: " in done.stdout
