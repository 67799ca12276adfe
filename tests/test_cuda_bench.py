"""The benchmark for GPUs, on the stand-in for one: it runs, and shows what it measured."""

import json

import cuda_emulator
import pytest
import strict_cupy

from minirnn.bench import gpu
from minirnn.bench.lessons import Lesson, load
from minirnn.cli import main

pytestmark = pytest.mark.skipif(
    not cuda_emulator.has_compiler(), reason=f"needs a C++ compiler ({cuda_emulator.COMPILER})"
)
SMALL = {
    "rnn": Lesson("rnn", "rnn", features=6, units=4, mask=True),
    "bilstm": Lesson("bilstm", "lstm", 6, 3, layers=2, bidirectional=True, mask=True),
}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(gpu, "LESSONS", SMALL)
    monkeypatch.setattr(gpu, "EPOCH", 40)
    monkeypatch.setattr(gpu, "COPIED", 1000)
    monkeypatch.setattr(gpu, "MULTIPLIED", 8)
    monkeypatch.setattr(gpu, "describe", lambda: {"name": "a stand-in"})
    shapes = ("LSTM", 4, 3, 2), ("SimpleRNN", 5, 2, 3), ("GRU", 4, 2, 2)
    monkeypatch.setattr(gpu, "sizes", lambda: iter(shapes))
    real = gpu.seconds_of
    monkeypatch.setattr(gpu, "seconds_of", lambda task, wait: real(task, wait, least=1e-6))
    with strict_cupy.installed():
        yield


def test_all_parts_give_figures(small, capsys):
    results = gpu.run(load("sample"), ["rnn", "bilstm"], batches=3, device="cpu")
    for name in SMALL:
        assert results[name]["minirnn ms"] > 0
        assert results[name]["epoch s"] > 0
        assert results[name]["share of the floor"] > 0
        assert all(figure > 0 for figure in results[name]["floor ms"].values())
    assert [tuple(figures["size"]) for figures in results["layers"]] == list(gpu.sizes())
    for figures in results["layers"]:
        assert figures["minirnn"]["loop forward"] > 0
        assert figures["minirnn"]["loop backward"] > 0
    assert results["left out"] == []
    lines = gpu.table(results).splitlines()
    assert "| rnn |" in lines[4] and "| bilstm |" in lines[5]
    assert len(lines) == 2 + 2 + 2 + 1 + 2 + 3
    json.dumps(results)


def test_what_there_is_no_time_for_is_named(small, monkeypatch):
    monkeypatch.setattr(gpu, "SECONDS", 0)
    results = gpu.run(load("sample"), [], batches=1, device="cpu")
    assert results["left out"] == list(gpu.sizes())
    assert results["layers"] == []


def test_without_a_gpu_it_says_so(capsys):
    assert main(["bench", "gpu", "--data", "sample", "--batches", "1"]) == 2
    assert "there is no GPU that CuPy can use here" in capsys.readouterr().err
