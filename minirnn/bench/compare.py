"""Steps and predictions of the lesson's models, in minirnn and in each peer, in turn.

Every library works in a process of its own (worker.py). In each round each of them goes once over
the same batches while the others sleep: A B C A B C ... The figure of a round is the median of its
steps (for `fit` the mean, which is all that can be seen from outside); that of a library is the
median of its rounds, and of several settings the best one counts. Ratios are formed within a round,
so that a machine whose speed drifts does not bend them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from minirnn.bench.lessons import LESSONS, Batch, Lesson, batches_of
from minirnn.bench.worker import save_batches

NUMPY, NUMBA = "minirnn, NumPy alone", "minirnn with Numba"


class Setting(NamedTuple):
    """One way to run one library: its column, module, options and environment."""

    column: str
    module: str
    options: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        rest = [f"{key}={value}" for key, value in self.environment]
        return " ".join([*self.options, *rest]) or "defaults"


def settings_of(lesson: Lesson, training: bool = True) -> Iterator[Setting]:
    """All that is installed here and can run this lesson."""
    blas = [(("OPENBLAS_NUM_THREADS", str(n)),) for n in (1, 2)]
    for environment in blas:
        yield Setting(NUMPY, "minirnn_peer", (), (*environment, ("MINIRNN_COMPILED", "0")))
    if installed("numba"):
        for environment in blas:
            yield Setting(NUMBA, "minirnn_peer", (), environment)
    if installed("torch"):
        like = "packed" if lesson.mask else "padded"
        for threads in ("threads=1", "threads=2"):
            for adam in ("adam=fused", "adam=default") if training else ("adam=fused",):
                yield Setting("PyTorch", "pytorch", (adam, f"rows={like}", threads))
                if lesson.mask and adam == "adam=fused":
                    column = "PyTorch, padded, no mask"
                    yield Setting(column, "pytorch", (adam, "rows=padded", threads))
    if installed("jax"):
        for unroll in ("unroll=1", "unroll=4"):
            yield Setting("JAX jit", "jax_step", (unroll,))
    if installed("keras"):
        for backend in ("tensorflow", "jax"):
            if installed(backend):
                environment = (("KERAS_BACKEND", backend), ("TF_CPP_MIN_LOG_LEVEL", "3"))
                for way in ("way=fit", "way=batch") if training else ("way=batch",):
                    name = "TensorFlow" if backend == "tensorflow" else "JAX"
                    yield Setting(f"Keras on {name}", "keras_fit", (way,), environment)
    if installed("thinc") and lesson.cell == "lstm":
        yield Setting("thinc", "thinc_model")


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


class Worker:
    """A library in a process of its own; it works when asked, and sleeps otherwise."""

    def __init__(self, setting: Setting, model: str, path: str) -> None:
        self.setting = setting
        command = [sys.executable, "-m", "minirnn.bench.worker", setting.module, model, path]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in `close`
        self.process = subprocess.Popen(
            [*command, *setting.options],
            env={**os.environ, **dict(setting.environment)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        try:
            self.description = self._answer()["ready"]
        except RuntimeError:
            self.close()
            raise

    def ask(self, order: str) -> Any:
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        for line in self.process.stdout:
            try:
                return json.loads(line)
            except json.JSONDecodeError:
                continue  # a library that prints
        self.errors.seek(0)
        raise RuntimeError(f"{self.setting}: it ended.\n{self.errors.read()[-2000:]}")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=30)
        self.errors.close()


def in_turn(
    model: str, settings: Iterable[Setting], batches: list[Batch], orders: list[str], rounds: int
) -> dict[str, dict[str, Any]]:
    """Column → order → `{"setting", "rounds", "version"}` of its best setting, in milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "batches.npz")
        save_batches(path, batches)
        workers = []
        for setting in settings:
            try:
                workers.append(Worker(setting, model, path))
            except (RuntimeError, OSError) as error:
                print(f"{setting.column} left out: {error}", file=sys.stderr)
        seen: dict[Any, list[float]] = {}
        for turn in range(rounds + 1):  # the first one is for compilers and caches
            for worker in workers:
                for order in orders:
                    seconds = statistics.median(worker.ask(order))
                    if turn:
                        seen.setdefault((worker.setting, order), []).append(seconds * 1e3)
        versions = {worker.setting.column: worker.description for worker in workers}
        for worker in workers:
            worker.close()
    table: dict[str, dict[str, Any]] = {}
    for (setting, order), figures in seen.items():
        best = table.setdefault(setting.column, {}).get(order)
        if best is None or statistics.median(figures) < statistics.median(best["rounds"]):
            table[setting.column][order] = {
                "setting": str(setting),
                "rounds": [round(figure, 4) for figure in figures],
                "version": versions[setting.column],
            }
    return table


def ratios(table: dict[str, dict[str, Any]], order: str, ours: str) -> dict[str, list[float]]:
    """Column → `[median, least, most]` of its time over ours, round by round."""
    if ours not in table:
        return {}
    mine = table[ours][order]["rounds"]
    found = {}
    for column, entry in table.items():
        each = [theirs / my for theirs, my in zip(entry[order]["rounds"], mine, strict=True)]
        found[column] = [round(f(each), 2) for f in (statistics.median, min, max)]
    return found


def compare(
    data: Any, count: int, rounds: int, orders: list[str], models: Iterable[str] = tuple(LESSONS)
) -> dict[str, Any]:
    """All figures of the models, by order: `train`, `infer` (a batch), `one` (a row), `all` (7,600
    rows, as many as the test set has, in batches of 100)."""
    results: dict[str, Any] = {}
    for model in models:
        lesson = LESSONS[model]
        for order in orders:
            all_rows = order == "all"
            batches = batches_of(lesson, data, *((76, 100) if all_rows else (count,)))
            settings = settings_of(lesson, training=order == "train")
            table = in_turn(model, settings, batches, [order], rounds)
            results.setdefault(model, {})[order] = {
                "columns": {column: entry[order] for column, entry in table.items()},
                "ratios": {ours: ratios(table, order, ours) for ours in (NUMPY, NUMBA)},
            }
            print(markdown(model, order, results[model][order]), flush=True)
    return results


def markdown(model: str, order: str, result: dict[str, Any]) -> str:
    """A table of one model and one order."""
    ratio = result["ratios"]
    head = [
        "",
        "ms, median",
        "least to most",
        "over NumPy alone",
        "over ours with Numba",
        "setting",
    ]
    lines = [f"### `{model}`, {order}", "", "| " + " | ".join(head) + " |", "| --- " * 6 + "|"]
    for column, entry in result["columns"].items():
        figures = entry["rounds"]
        cells = [column, f"{statistics.median(figures):.3f}"]
        cells.append(f"{min(figures):.3f} to {max(figures):.3f}")
        for ours in (NUMPY, NUMBA):
            r = ratio.get(ours, {}).get(column)
            cells.append("" if r is None else f"{r[0]:.2f} ({r[1]:.2f} to {r[2]:.2f})")
        lines.append("| " + " | ".join([*cells, entry["setting"]]) + " |")
    return "\n".join([*lines, ""])
