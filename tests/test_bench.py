"""The benchmark runs what is installed, and says what it measured; how fast is no test's matter."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minirnn.bench import compare, limits, more, scale
from minirnn.bench.lessons import LESSONS, batches_of, load
from minirnn.bench.worker import load_batches, save_batches
from minirnn.cli import main


@pytest.fixture(scope="module")
def sample():
    return load("sample")


def test_batches_are_the_rows_in_order_each_padded_to_its_longest(sample):
    lesson = LESSONS["rnn"]
    made = batches_of(lesson, sample, 3)
    assert len(made) == 3
    for i, (x, y) in enumerate(made):
        assert x.shape[0] == lesson.rows == 16 and x.dtype == np.int32
        assert (x[:, -1] != 0).any() and not (x == 0).all(axis=0).any()
        assert y.tolist() == list(sample.train.labels[16 * i : 16 * (i + 1)])
    [(x, _)] = batches_of(lesson, sample, 1, rows=5, time=31)
    assert x.shape == (5, 31) and (x != 0).all()


def test_batches_survive_the_way_to_a_worker(sample, tmp_path):
    made = batches_of(LESSONS["lstm"], sample, 2)
    save_batches(str(tmp_path / "b.npz"), made)
    for (x, y), (x_back, y_back) in zip(made, load_batches(str(tmp_path / "b.npz")), strict=True):
        assert np.array_equal(x, x_back) and np.array_equal(y, y_back)


def test_a_setting_that_fails_is_left_out_and_named(sample, capfd):
    good = compare.Setting("ours", "minirnn_peer")
    bad = compare.Setting("broken", "minirnn_peer", ("no_such_option=1",))
    made = batches_of(LESSONS["rnn-title"], sample, 2)
    table = compare.in_turn("rnn-title", [good, bad], made, ["train", "infer", "one"], rounds=2)
    assert list(table) == ["ours"]
    assert {len(entry["rounds"]) for entry in table["ours"].values()} == {2}
    assert all(figure > 0 for entry in table["ours"].values() for figure in entry["rounds"])
    assert "broken left out" in capfd.readouterr().err


def test_ratios_are_formed_within_a_round():
    table = {
        "ours": {"train": {"rounds": [1.0, 2.0, 4.0]}},
        "theirs": {"train": {"rounds": [3.0, 2.0, 20.0]}},
    }
    assert compare.ratios(table, "train", "ours")["theirs"] == [3.0, 1.0, 5.0]
    assert compare.ratios(table, "train", "nobody") == {}


def test_the_floor_counts_products_and_bytes(sample):
    lesson = LESSONS["bilstm"]
    batches = batches_of(lesson, sample, 2)
    parts = limits.floor_of(lesson, batches, speed=1e9)
    assert list(parts) == ["batched products", "products in the loop", "optimizer's bytes"]
    assert all(value > 0 for value in parts.values())
    assert list(limits.layers_of(lesson)) == [(128, 64, 256), (128, 64, 256)]
    ids = np.array([[1, 2, 0], [1, 0, 0]], np.int32)
    dense = 2 * 2 * (128 * 256 + 64 * 256 + 256) + 129 * 4
    assert limits.optimizer_bytes(lesson, (ids, None)) == 28 * (dense + 3 * 128)
    assert limits.lengths_of(lesson, (ids, None)).tolist() == [2, 1]
    assert limits.lengths_of(LESSONS["lstm"], (ids, None)).tolist() == [3, 3]


def test_a_profile_accounts_for_the_whole_step(sample, monkeypatch):
    monkeypatch.setenv("MINIRNN_THREADS", "1")
    phases = more.profile("rnn", batches_of(LESSONS["rnn"], sample, 5))
    total = phases.pop("a step, under the profiler")
    assert sum(phases.values()) == pytest.approx(total, abs=0.02)
    assert all(value > 0 for value in phases.values())


def test_the_command_writes_its_figures(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(compare, "installed", lambda package: False)
    path = tmp_path / "figures.json"
    options = ["--data", "sample", "--models", "rnn-title", "--batches", "2", "--rounds", "1"]
    assert main(["bench", "steps", *options, "--json", str(path)]) == 0
    figures = json.loads(path.read_text())
    assert figures["machine"]["cores"] >= 1 and "sample" in figures["data"]
    columns = figures["steps"]["rnn-title"]["train"]["columns"]
    assert list(columns) == [compare.NUMPY]
    assert "### `rnn-title`, train" in capsys.readouterr().out


def test_an_unknown_part_is_named(capsys):
    assert main(["bench", "speed", "--data", "sample"]) == 2
    assert "there is no part speed; known: steps, inference" in capsys.readouterr().err


# --- many ranks -----------------------------------------------------------------------------------


def test_a_sum_over_many_ranks_takes_the_faster_of_two_ways():
    wire = scale.Wire(1e-6, 1e-9)
    assert wire.sum(1, 1e6) == 0
    assert wire.sum(8, 8) == pytest.approx(3 * (1e-6 + 8e-9))
    assert wire.sum(8, 1e6) == pytest.approx(6e-6 + 2e-3 * 7 / 8)
    assert wire.gather(4, 1000) == pytest.approx(6e-6 + 3e-6)


def test_all_wait_for_the_slowest():
    assert scale.slowest([1.0, 2.0, 3.0], 1) == pytest.approx(2.0)
    assert scale.slowest([1.0, 3.0], 2) == pytest.approx(0.25 * 1 + 0.75 * 3)
    assert scale.slowest([3.0, 1.0, 2.0], 10_000) == pytest.approx(3.0)


def test_what_was_measured_grows_on_as_a_power():
    union = scale.grown({1: {"union": 5}, 4: {"union": 20}, 16: {"union": 40}}, "union")
    assert union(4) == 20
    assert union(64) == pytest.approx(80)


@pytest.mark.slow
def test_two_ranks_are_measured_and_more_are_modelled(sample, capsys):
    pytest.importorskip("mpi4py.MPI", reason="needs MPI: minirnn[mpi]")
    if scale.mpiexec() is None:
        pytest.skip("needs mpiexec: minirnn[mpi]")
    results = scale.run(sample, ["rnn-title"], count=3, rounds=1)
    found = results["models"]["rnn-title"]
    assert found["measured"][2]["bytes"]["start_sum"] > 4 * (64 * 16 + 16 * 16)
    assert found["measured"][2]["bytes"]["gather_rows"] > 100 * 4 * 65 / 3
    assert [entry["ranks"] for entry in found["model"]] == list(scale.RANKS)
    assert all(e["here"]["step"] > 0 for e in found["model"])
    shown = scale.table(json.loads(json.dumps(results), object_hook=with_numbers))
    assert "| 1,024 |" in shown and "Assumptions:" in shown


def with_numbers(entry):
    """JSON's keys are texts."""
    return {int(key) if key.isdecimal() else key: value for key, value in entry.items()}
