"""What each rank does for `minirnn bench scale`; rank 0 prints what it has measured, as JSON.

mpiexec -n 2 python -m minirnn.bench.rank MODEL BATCHES.npz ROUNDS     training steps
mpiexec -n 2 python -m minirnn.bench.rank wire                         MPI alone
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from minirnn import parallel
from minirnn.backend import set_random_seed
from minirnn.bench.gpu import our_model
from minirnn.bench.lessons import LESSONS, Batch
from minirnn.bench.peers.minirnn_peer import Stream
from minirnn.bench.worker import load_batches
from minirnn.callbacks import Callback, Logs
from minirnn.steps import train_step

SIZES = (8, 1 << 10, 1 << 13, 1 << 16, 1 << 19, 1 << 22)  # bytes


class Timed:
    """A transport that counts the seconds spent in it, and the bytes that it is given."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.seconds: dict[str, float] = {}
        self.bytes: dict[str, int] = {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self.transport, name)

        def timed(*arguments: Any) -> Any:
            begun = time.perf_counter()
            result = function(*arguments)
            self.seconds[name] = self.seconds.get(name, 0) + time.perf_counter() - begun
            given = sum(array.nbytes for array in arguments)
            self.bytes[name] = self.bytes.get(name, 0) + given
            return result

        return timed


class Clock(Callback):
    """Seconds of each epoch's steps, without what `fit` does once; the first one is for caches."""

    def __init__(self, timed: Timed) -> None:
        self.timed, self.epochs = timed, []

    def on_epoch_begin(self, epoch: int) -> None:
        if epoch == 1:
            self.timed.seconds.clear(), self.timed.bytes.clear()
        self.begun = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        self.epochs.append(time.perf_counter() - self.begun)


def steps(name: str, batches: list[Batch], rounds: int) -> dict[str, Any]:
    """Milliseconds of `fit` per step, round by round, and where they go."""
    ranks = parallel.world()
    set_random_seed(1)
    model = our_model(LESSONS[name])
    data, found = Stream(batches), {}
    timed = Timed(ranks.transport)
    if ranks.size > 1:
        ranks.transport = timed
    clock = Clock(timed)
    model.fit(data, epochs=rounds + 1, verbose=0, callbacks=[clock], ranks=ranks)
    seconds = [value / len(batches) * 1e3 for value in clock.epochs[1:]]
    if ranks.size > 1:
        count = rounds * (len(batches) + 1)
        found["calls"] = {key: value / count * 1e3 for key, value in timed.seconds.items()}
        found["bytes"] = {key: value / count for key, value in timed.bytes.items()}
    else:
        found["each"] = each_step(model, batches, rounds)
    return {"ms": [round(value, 4) for value in seconds], **found}


def each_step(model: Any, batches: list[Batch], rounds: int) -> list[float]:
    """Milliseconds of the step on each batch, the median of the rounds."""
    model.forget_training_parts()
    table = []
    for _ in range(rounds):
        row = []
        for x, y in batches:
            begun = time.perf_counter()
            train_step(model, x, y, wait=True)
            row.append((time.perf_counter() - begun) * 1e3)
        table.append(row)
    return [round(statistics.median(column), 4) for column in zip(*table, strict=True)]


def wire() -> dict[str, Any]:
    """Microseconds of a sum over all ranks, and of gathering rows, by bytes from each rank."""
    ranks = parallel.world()
    found: dict[str, Any] = {"sum": {}, "gather": {}}
    transport = ranks.transport
    for size in SIZES:
        numbers = np.zeros(max(size // 4, 1), np.float32)
        ids, rows = np.zeros(1, np.int32), numbers.reshape(1, -1)
        tasks = {
            "sum": lambda a=numbers: (transport.start_sum(a), transport.finish_sum()),
            "gather": lambda i=ids, r=rows: transport.gather_rows(i, r),
        }
        for name, task in tasks.items():
            means = []
            calls = 200 if size < 1 << 17 else 20
            for _ in range(7):
                ranks.barrier()
                begun = time.perf_counter()
                for _ in range(calls):
                    task()
                means.append((time.perf_counter() - begun) / calls * 1e6)
            found[name][size] = round(min(means), 3)
    return found


def main(task: str, *arguments: str) -> None:
    if task == "wire":
        found = wire()
    else:
        path, rounds = arguments
        found = steps(task, load_batches(path), int(rounds))
    if parallel.world().rank == 0:
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
