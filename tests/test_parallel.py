"""Several ranks, started by mpiexec, beside one process with batches as large as all of theirs."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import parallel_training
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parallel_training import CASES

import minirnn
from minirnn import parallel
from minirnn.base import RowGradient
from minirnn.batches import batches, rows_of_rank
from minirnn.data import ag_news
from minirnn.layers import Dense, Embedding
from minirnn.parallel.exchange import Exchange, keys_of_tables

HERE = Path(__file__).parent
MPIEXEC = shutil.which("mpiexec", path=Path(sys.executable).parent) or shutil.which("mpiexec")


def mpi_works():
    if MPIEXEC is None:
        return False
    probe = [MPIEXEC, "-n", "2", sys.executable, "-c", "from mpi4py import MPI"]
    try:
        return subprocess.run(probe, capture_output=True, timeout=60).returncode == 0
    except subprocess.TimeoutExpired:
        return False


needs_mpi = pytest.mark.skipif(not mpi_works(), reason="needs mpi4py and mpiexec: minirnn[mpi]")


@contextlib.contextmanager
def started(ranks, *command, **environment):
    """The process of mpiexec; it does not outlive this."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PMI", "MPI_"))}
    paths = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    threads = {"OPENBLAS_NUM_THREADS": "1", "MINIRNN_THREADS": "1", "PYTHONPATH": paths}
    with subprocess.Popen(
        [MPIEXEC, "-n", str(ranks), sys.executable, *map(str, command)],
        env=kept | threads | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def run(ranks, *command, timeout=90, **environment):
    """A command on so many ranks; a hang is an error."""
    with started(ranks, *command, **environment) as process:
        output, errors = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def script(ranks, *arguments, **environment):
    return run(ranks, HERE / "parallel_training.py", *arguments, **environment)


def arrays(path):
    with np.load(path) as stored:
        return [stored[name] for name in stored.files]


# --- the same training ----------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[2, 3])
def trained(request, tmp_path_factory):
    """`(ranks, folder)`: what all cases have come to on so many ranks."""
    folder = tmp_path_factory.mktemp("agree")
    done = script(request.param, "agree", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "", "verbose=0"
    return request.param, folder


@needs_mpi
@pytest.mark.parametrize("name", [name for name in CASES if name != "dropout"])
def test_several_ranks_train_as_one_process_does(trained, name):
    _, folder = trained
    model, history = parallel_training.train(name, "float64")
    for mine, theirs in zip(
        model.get_weights(), arrays(folder / f"{name}-float64-0.npz"), strict=True
    ):
        np.testing.assert_allclose(theirs, mine, rtol=1e-7, atol=1e-9)
    theirs = json.loads((folder / f"{name}-float64-0.json").read_text())
    assert theirs.keys() == history.keys()
    for figure, values in history.items():
        np.testing.assert_allclose(theirs[figure], values, rtol=1e-7, err_msg=figure)


@needs_mpi
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_all_ranks_have_the_same_bits(trained, name, dtype):
    ranks, folder = trained
    first = arrays(folder / f"{name}-{dtype}-0.npz")
    assert all(weights.dtype == dtype for weights in first)
    for rank in range(1, ranks):
        other = arrays(folder / f"{name}-{dtype}-{rank}.npz")
        assert [w.tobytes() for w in other] == [w.tobytes() for w in first]
        figures = [(folder / f"{name}-{dtype}-{r}.json").read_text() for r in (0, rank)]
        assert figures[0] == figures[1]


@needs_mpi
def test_dropout_draws_differ_between_ranks_steps_and_layers(trained):
    ranks, folder = trained
    drawn = [json.loads((folder / f"drawn-{rank}.json").read_text()) for rank in range(ranks)]
    draws = [tuple(step[:16]) for layers in drawn for layer in layers for step in layer]
    assert len(draws) > 10 * ranks
    assert len(set(draws)) > 0.99 * len(draws)  # of 65,536


@needs_mpi
@pytest.mark.parametrize("transport", ["NcclTransport", "MpiTransport"])
def test_arrays_of_a_device_take_the_same_way(transport, tmp_path):
    done = script(2, "on_stand_in", tmp_path, transport)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("masked", "each_step", "numbers", "dense_gradient"):
        model, _ = parallel_training.train(name, "float32")
        ours = [arrays(tmp_path / f"{name}-device-{rank}.npz") for rank in (0, 1)]
        assert [w.tobytes() for w in ours[0]] == [w.tobytes() for w in ours[1]]
        for mine, theirs in zip(model.get_weights(), ours[0], strict=True):
            np.testing.assert_allclose(theirs, mine, rtol=2e-4, atol=2e-5)
    calls = [kind for kind, _ in json.loads((tmp_path / "sums-0.json").read_text())]
    assert set(calls) == ({"allReduce", "allGather"} if transport == "NcclTransport" else set())


# --- the parts, in threads ------------------------------------------------------------------------


class Thread:
    """What stands for MPI where the ranks are threads."""

    def __init__(self, rank, size, board):
        self.rank, self.size, self.board = rank, size, board

    def exchanged(self, value):
        self.board["values"][self.rank] = value
        self.board["all"].wait()
        values = list(self.board["values"])
        self.board["all"].wait()
        return values

    def start_sum(self, flat):
        self.flat = flat

    def finish_sum(self):
        self.flat[...] = sum(self.exchanged(self.flat.copy()))

    def gather_rows(self, ids, rows):
        found = self.exchanged((ids, rows))
        return tuple(np.concatenate([pair[i] for pair in found]) for i in (0, 1))


def on_threads(size, task):
    """`[task(transport, rank), ...]`, at the same time."""
    board = {"values": [None] * size, "all": threading.Barrier(size, timeout=20)}
    results = [None] * size

    def work(rank):
        results[rank] = task(Thread(rank, size, board), rank)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_gradients_are_summed_with_the_weight_of_their_elements(data):
    size = data.draw(st.integers(1, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    elements = data.draw(st.lists(st.integers(0, 6), min_size=size, max_size=size))
    params = {"table": np.zeros((11, 3)), "kernel": np.zeros((2, 3)), "bias": np.zeros(3)}
    grads = []
    for count in elements:
        ids = np.unique(rng.integers(0, 11, 4)).astype(np.int32)
        rows = RowGradient(ids, rng.normal(size=(len(ids), 3)))
        kernel, bias = rng.normal(size=(2, 3)), rng.normal(size=3)
        grads.append({"table": rows, "kernel": kernel, "bias": bias} if count else None)

    def task(transport, rank):
        exchange = Exchange(transport, params, {"table"}, 2)
        mine = grads[rank]
        exchange.start(mine, elements[rank], [elements[rank], rank])
        rows = exchange.rows("table", mine and mine["table"], elements[rank])
        numbers = exchange.wait()
        return exchange.views["kernel"], exchange.views["bias"], rows, numbers

    found = on_threads(size, task)
    kernel, bias, rows, numbers = found[0]
    there = [(g, n) for g, n in zip(grads, elements, strict=True) if g is not None]
    np.testing.assert_allclose(kernel, sum((g["kernel"] * n for g, n in there), np.zeros((2, 3))))
    np.testing.assert_allclose(bias, sum((g["bias"] * n for g, n in there), np.zeros(3)))
    table = sum((g["table"].dense((11, 3)) * n for g, n in there), np.zeros((11, 3)))
    np.testing.assert_allclose(rows.dense((11, 3)), table)
    ids = set().union(*(set(g["table"].ids.tolist()) for g, _ in there))
    assert rows.ids.tolist() == sorted(ids)
    assert numbers.tolist() == [sum(elements), sum(range(size))]
    for other in found[1:]:
        assert other[2].rows.tobytes() == rows.rows.tobytes()


class Alone:
    """A communicator of one process, and its transport."""

    rank, size = 0, 1

    def __init__(self):
        self.said = []

    def allgather(self, value):
        return [value]

    def bcast(self, value, root=0):
        return value

    def Bcast(self, array):
        pass

    def start_sum(self, flat):
        self.said.append("sum begins")

    def finish_sum(self):
        self.said.append("sum ends")

    def gather_rows(self, ids, rows):
        self.said.append("rows")
        return ids, rows


def test_a_step_makes_one_sum_around_the_backward_pass_of_the_table(monkeypatch):
    comm = Alone()
    ranks = parallel.Ranks(comm)
    ranks.transport, ranks.draws = comm, 0
    backward = Embedding.backward
    monkeypatch.setattr(
        Embedding, "backward", lambda *given: comm.said.append("table") or backward(*given)
    )
    models = []
    for train in (lambda model: ranks.steps(model, 0).train, lambda model: model.train_on_batch):
        minirnn.set_random_seed(1)
        model, (x, y), _ = parallel_training.masked(np.random.default_rng(2))
        x = minirnn.text.pad_rows(x)
        model.require_compiled()
        model.build()
        step = train(model)
        for rows in (slice(0, 20), slice(20, 50)):
            step(x[rows], y[rows], None)
        model.optimizer.settle()
        models.append(model)
    assert comm.said[:8] == ["sum begins", "table", "rows", "sum ends"] * 2
    for mine, theirs in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)


@given(st.integers(0, 40), st.integers(1, 9))
def test_the_shares_of_a_batch_are_its_rows(rows, ranks):
    parts = [np.arange(rows)[rows_of_rank(rows, rank, ranks)] for rank in range(ranks)]
    assert np.concatenate(parts).tolist() == list(range(rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("as_stream", [False, True])
def test_shares_are_padded_as_the_whole_batch(as_stream):
    x = [np.arange(1, length + 1) for length in (2, 5, 1, 3, 4, 1, 2)]
    y = np.arange(7)
    whole = [next(batches(x, y, batch_size=6).walk()), batches(x[6:], y[6:]).walk().__next__()]
    if as_stream:
        shares = [batches(Walkable(whole)).share(rank, 3) for rank in range(3)]
    else:
        shares = [batches(x, y, batch_size=2).share(rank, 3) for rank in range(3)]
    for k, (full_x, full_y, _) in enumerate(whole):
        parts = [list(share)[k] for share in shares]
        assert [part is None for part in parts] == ([False] * 3 if k == 0 else [True, True, False])
        parts = [part for part in parts if part is not None]
        np.testing.assert_array_equal(np.concatenate([p[0] for p in parts]), full_x)
        np.testing.assert_array_equal(np.concatenate([p[1] for p in parts]), full_y)


class Walkable:
    def __init__(self, elements):
        self.elements = elements

    def __iter__(self):
        return iter(self.elements)


def test_a_share_goes_on_from_a_position_on_any_number_of_ranks():
    x = np.arange(30)
    data = batches(x, batch_size=2, shuffle=True)
    walk = data.share(0, 3).walk()
    next(walk), next(walk)
    position = json.loads(json.dumps(walk.position()))
    rest = np.concatenate([batch[0] for batch in data.walk(position)])
    again = [
        np.concatenate([batch[0] for batch in data.share(rank, 2).walk(position)])
        for rank in range(2)
    ]
    assert len(rest) == 30 - 12
    assert sorted(np.concatenate(again)) == sorted(rest)


# --- when a rank fails ----------------------------------------------------------------------------

FAILURES = {
    "kill": (1, r"rank 1 of 2 was killed by SIGKILL"),
    "error": (0, r"ZeroDivisionError: seven steps.*rank 1 of 2 failed \(ZeroDivisionError\)"),
    "memory": (0, r"rank 1 of 2 failed \(MemoryError: Unable to allocate 3 TiB\)"),
    "exit": (0, r"rank 1 of 2 failed \(SystemExit: enough\)"),
    "leave": (0, r"rank 1 of 2 has ended, and is needed here.*rank 0 of 2 failed"),
    "rate": (0, r"the weights \w+ of rank 1 are no longer those of rank 0"),
    "data": (0, r"rank 0 has batches 10, and rank 1 has 10|rank 0 has data .* and rank 1 has"),
    "length": (0, r"the data of rank 1 ended after 3 steps of epoch 1, and that of rank 0 goes on"),
}


@needs_mpi
@pytest.mark.parametrize("how", FAILURES)
def test_a_rank_that_fails_ends_all(how):
    done = script(2, "fail", how, MINIRNN_COMPILED="0")
    assert done.returncode != 0
    assert re.search(FAILURES[how][1], done.stderr, re.DOTALL), done.stderr
    assert done.stdout.count("has begun") == 2


NOT_FINITE = {
    "nan": "the loss became nan at epoch 2, step 3; it begins in the weights bias",
    "gradient": "the gradient became not finite at epoch 2, step 3, though the loss is finite",
}


@needs_mpi
@pytest.mark.parametrize("how", NOT_FINITE)
def test_what_is_not_finite_is_reported_by_all_ranks_alike(how):
    done = script(2, "fail", how, MINIRNN_COMPILED="0")
    assert done.returncode == 0, done.stderr
    told = re.findall(r"rank \d: (on rank.*)", done.stdout)
    assert len(told) == 2 and told[0] == told[1]
    assert told[0].startswith(f"on rank 1 of 2, {NOT_FINITE[how]}")


@needs_mpi
@pytest.mark.parametrize("death", ["5/1", "9/0"])
def test_a_killed_training_goes_on_on_any_number_of_ranks(death, tmp_path):
    file, whole = tmp_path / "c", tmp_path / "whole.npz"
    plain = {"MINIRNN_COMPILED": "0"}
    assert script(2, "killed", "", whole, "", **plain).returncode == 0
    killed = script(2, "killed", file, "none", death, **plain)
    assert killed.returncode != 0 and f"rank {death[-1]} of 2 was killed" in killed.stderr
    assert not (tmp_path / "none").exists()
    kept = file.read_bytes()
    for ranks in (2, 3, 1):
        result = tmp_path / f"{ranks}.npz"
        file.write_bytes(kept)
        done = script(ranks, "killed", file, result, "", **plain)
        assert done.returncode == 0, done.stderr
        for mine, theirs in zip(arrays(whole), arrays(result), strict=True):
            if ranks == 2:
                assert mine.tobytes() == theirs.tobytes()
            np.testing.assert_allclose(theirs, mine, rtol=1e-7, atol=1e-9)


@needs_mpi
def test_an_interrupt_stops_all_ranks_after_a_step_and_saves(tmp_path):
    file, results = tmp_path / "c", [tmp_path / "whole.npz", tmp_path / "again.npz"]
    command = HERE / "parallel_training.py", "killed", file, "none", "wait"
    with started(2, *command, MINIRNN_COMPILED="0") as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert len(re.findall(rf"stopped at epoch \d.*all is saved in {file}", errors)) == 1, errors
    for path, result in zip(("", file), results, strict=True):
        assert script(2, "killed", path, result, "", MINIRNN_COMPILED="0").returncode == 0
    whole, again = map(arrays, results)
    assert [array.tobytes() for array in whole] == [array.tobytes() for array in again]


# --- the command, and doing without ---------------------------------------------------------------


@needs_mpi
@pytest.mark.parametrize("streams", [False, True])
def test_the_command_trains_on_all_ranks(streams, tmp_path):
    data = "--data", "sample", "--take", "320"
    if streams:
        news = ag_news.load("sample")
        ag_news.write_csv(news.train.take(320), tmp_path / "train.csv")
        ag_news.write_csv(news.test.take(80), tmp_path / "test.csv")
        data = "--data", tmp_path, "--stream", "--shuffle-buffer", "100"
    arguments = "train", "--model", "rnn-title", *data, "--epochs"
    outputs = []
    for ranks, batch in ((1, 32), (2, 16)):
        model = tmp_path / f"{ranks}.mrnn"
        options = (*arguments, "2", "--batch-size", batch, "--save", model)
        done = run(ranks, "-m", "minirnn", *options, MINIRNN_COMPILED="0")
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
        assert done.stderr == ""
    figures = [re.findall(r"(?:loss|acc|Accuracy).*?(0\.\d+|1\.\d+)", text) for text in outputs]
    assert len(figures[0]) == 5
    np.testing.assert_allclose(*np.array(figures, float), atol=2e-3)
    assert "16 a step on each of 2 ranks" in outputs[1]
    assert outputs[1].count("Epoch 2/2") == 1
    pair = [minirnn.load(tmp_path / f"{ranks}.mrnn").get_weights() for ranks in (1, 2)]
    for one, two in zip(*pair, strict=True):
        np.testing.assert_allclose(two, one, atol=2e-3)


@needs_mpi
def test_the_command_is_interrupted_on_all_ranks_and_says_so_once(tmp_path):
    train = "train", "--model", "rnn-title", "--data", "sample", "--take", "320"
    options = "--epochs", "500", "--checkpoint", tmp_path / "c"
    with started(2, "-m", "minirnn", *train, *options, MINIRNN_COMPILED="0") as process:
        assert any(line.startswith("Epoch 2/") for line in process.stdout)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    told = [line for line in errors.splitlines() if not line.startswith("[mpiexec")]
    assert len(told) == 1 and re.match(r"minirnn: stopped at .* all is saved in .*/c", told[0])


@needs_mpi
def test_the_command_tells_a_broken_checkpoint_in_a_line(tmp_path):
    (tmp_path / "c").write_text("no checkpoint")
    train = "train", "--model", "rnn-title", "--data", "sample", "--take", "64"
    done = run(2, "-m", "minirnn", *train, "--checkpoint", tmp_path / "c", MINIRNN_COMPILED="0")
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if not line.startswith("Abort(1)")]
    for line in told:  # of one rank, or of both, where the machine is slow
        assert re.match(r"minirnn: rank \d of 2 failed \(FileFormatError: .*/c: this is no", line)
    assert told


@needs_mpi
def test_the_command_says_what_is_missing(tmp_path):
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text("raise ImportError('no mpi4py here')")
    paths = f"{tmp_path}:{HERE.parent}"
    done = run(2, "-m", "minirnn", "train", "--data", "sample", PYTHONPATH=paths)
    assert done.returncode == 2
    assert done.stderr.count('pip install "minirnn[mpi]"') == 1
    assert done.stderr.startswith("minirnn: error: training on several processes needs mpi4py")


@needs_mpi
def test_one_process_alone_is_a_world_of_one():
    code = (
        "import minirnn; from parallel_training import train; world = minirnn.parallel.world\n"
        "assert world() is world(); print(world(), len(train('masked', 'float32', world())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=HERE,
        env=os.environ | {"PYTHONPATH": f"{HERE.parent}:{HERE}", "MINIRNN_COMPILED": "0"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "<rank 0 of 1> 2\n"), done.stderr


def test_what_mpiexec_has_started_is_seen_in_the_environment(monkeypatch):
    for name in ("PMI_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert parallel.launched() == (0, 1)
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "3")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "8")
    assert parallel.launched() == (3, 8)
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setenv("PMI_SIZE", "2")
    assert parallel.launched() == (1, 2)


def test_without_mpi_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(parallel.ranks, "_world", None)
    monkeypatch.setattr(parallel.ranks, "launched", lambda: (0, 1))
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match=r'pip install "minirnn\[mpi\]"'):
        parallel.world()


def test_the_keys_of_tables_are_found_in_inner_models():
    inner = minirnn.Sequential([Embedding(5, 2, name="words")], name="inner")
    model = minirnn.Sequential([inner, Dense(2)])
    model.build((None, 3))
    assert list(keys_of_tables(model)) == ["inner_words_embeddings"]
    assert set(keys_of_tables(model)) <= model.params.keys()
