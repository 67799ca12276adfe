"""The other figures: whole processes, growth, memory, throughput, and where a step's time goes."""

from __future__ import annotations

import cProfile
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

import minirnn
from minirnn.batches import batches
from minirnn.bench.compare import NUMBA, NUMPY, Setting, Worker, in_turn, installed, settings_of
from minirnn.bench.lessons import LESSONS, Batch, batches_of
from minirnn.bench.worker import save_batches
from minirnn.classifier import adapted_vectorizer, build_model


def whole_processes(source: str, rounds: int) -> dict[str, Any]:
    """Seconds from starting Python to a trained and tested `rnn`, and the peak memory in MB."""
    ours = [sys.executable, "-m", "minirnn", "train", "--model", "rnn", "--data", source]
    commands: dict[str, tuple[list[str], dict[str, str]]] = {
        NUMPY: ([*ours, "--epochs", "1"], {"MINIRNN_COMPILED": "0"})
    }
    if installed("numba"):
        commands[NUMBA] = ([*ours, "--epochs", "1"], {})
    for name, package in (("keras", "tensorflow"), ("pytorch", "torch")):
        if installed(package):
            command = [sys.executable, "-m", "minirnn.bench.whole", name, source]
            commands[name] = (command, {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"})
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, (command, extra) in commands.items():
            begun = time.perf_counter()
            process = subprocess.Popen(
                command,
                env={**os.environ, **extra},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise RuntimeError(f"{name}: {' '.join(command)} ended with {process.returncode}")
            if turn:
                seen[name].append((time.perf_counter() - begun, used.ru_maxrss / 1024))
    return {
        name: {"seconds": [round(s, 2) for s, _ in runs], "peak MB": round(max(m for _, m in runs))}
        for name, runs in seen.items()
    }


def growth(data: Any, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Milliseconds a step of `lstm` as one size grows, all steps real: ours beside PyTorch."""
    tables: dict[str, dict[str, dict[str, float]]] = {}
    cases = (
        ("units", (8, 16, 32, 64, 128, 256, 512), {"rows": 16, "time": 64}),
        ("length", (16, 64, 256, 1024), {"rows": 16, "units": 64}),
        ("batch", (1, 4, 16, 64, 256), {"time": 64, "units": 64}),
    )
    lesson = LESSONS["lstm"]
    wanted = {NUMPY, NUMBA, "PyTorch"}
    for name, sizes, rest in cases:
        for size in sizes:
            sized = dict(rest)
            sized[{"units": "units", "length": "time", "batch": "rows"}[name]] = size
            option = f"units={sized.pop('units')}"
            count = max(4, min(40, 1600 // sized["rows"], 20_000 // sized["time"]))
            made = batches_of(lesson, data, count, **sized)
            settings = [
                setting._replace(options=(*setting.options, option))
                for setting in settings_of(lesson)
                if setting.column in wanted and "adam=default" not in setting.options
            ]
            found = in_turn("lstm", settings, made, ["train"], rounds)
            tables.setdefault(name, {})[str(size)] = {
                column: round(statistics.median(entry["train"]["rounds"]), 3)
                for column, entry in found.items()
            }
            print(name, size, tables[name][str(size)], flush=True)
    return tables


def padding(data: Any, rounds: int) -> dict[str, float]:
    """Milliseconds a step of the masked `rnn`, and with 500 more steps of padding."""
    lesson = LESSONS["rnn"]
    plain = batches_of(lesson, data, 60)
    wider = [(np.pad(x, [(0, 0), (0, 500)]), y) for x, y in plain]
    figures = {}
    for name, made in (("as it is", plain), ("500 steps of padding more", wider)):
        settings = [setting for setting in settings_of(lesson) if setting.column == NUMPY]
        found = in_turn("rnn", settings, made, ["train"], rounds)
        figures[name] = round(statistics.median(found[NUMPY]["train"]["rounds"]), 3)
    return figures


def memory(data: Any) -> dict[str, dict[str, int]]:
    """Peak MB of a process that has trained 40 batches, and 400, for each model."""
    figures: dict[str, dict[str, int]] = {}
    for name, lesson in LESSONS.items():
        for count in (40, 400):
            with tempfile.TemporaryDirectory() as folder:
                path = f"{folder}/batches.npz"
                save_batches(path, batches_of(lesson, data, count))
                setting = Setting(NUMPY, "minirnn_peer", (), (("MINIRNN_COMPILED", "0"),))
                worker = Worker(setting, name, path)
                worker.ask("train")
                figures.setdefault(name, {})[f"{count} batches"] = worker.ask("memory") >> 20
                worker.close()
    return figures


def throughput(data: Any) -> dict[str, float]:
    """Rows per second of text, feeding and prediction; milliseconds for one headline."""
    texts = data.train.texts()
    vectorizer = adapted_vectorizer(data.train.titles)
    figures = {}

    def timed(task: Any, repeat: int = 3) -> float:
        best = float("inf")
        for _ in range(repeat):
            begun = time.perf_counter()
            task()
            best = min(best, time.perf_counter() - begun)
        return best

    fresh = minirnn.layers.TextVectorization(max_tokens=20_000)
    figures["TextVectorization.adapt, rows/s"] = len(texts) / timed(lambda: fresh.adapt(texts))
    figures["TextVectorization.ids, rows/s"] = len(texts) / timed(lambda: vectorizer.ids(texts))
    ids = vectorizer.ids(texts)
    feed = batches(ids, np.asarray(data.train.labels), batch_size=16, shuffle=True)
    figures["batches of 16, shuffled and padded, rows/s"] = len(texts) / timed(
        lambda: sum(1 for _ in feed)
    )
    model = build_model("rnn", vectorizer)
    tested = data.test.texts()
    rows = timed(lambda: model.predict(tested, batch_size=64))
    figures["predict `rnn`, texts to probabilities, rows/s"] = len(tested) / rows
    headlines = data.test.titles[:500]
    each = []
    for text in headlines:
        begun = time.perf_counter()
        model.predict([text])
        each.append(time.perf_counter() - begun)
    figures["one headline, text to class, `rnn`, ms"] = statistics.median(each) * 1e3
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


PHASES = (
    ("lookup", ("embedding.py:forward", "steps.py:catch_up")),
    ("packing", ("packing.py:__init__",)),
    ("input product", ("cells.py:project",)),
    ("loop forwards", ("cells.py:steps", "compiled_loops.py:steps")),
    ("local derivatives", ("cells.py:local_derivatives", "compiled_loops.py:local_derivatives")),
    ("loop backwards", ("cells.py:steps_backward", "compiled_loops.py:steps_backward")),
    ("weight gradients", ("cells.py:weight_gradients",)),
    ("embedding gradient", ("embedding.py:backward",)),
    ("loss", ("losses.py:forward",)),
    ("optimizer", ("optimizers.py:apply",)),
)


def profile(name: str, made: list[Batch]) -> dict[str, float]:
    """Phase → milliseconds a step, on one thread; the profiler itself takes a part of each."""
    from minirnn.bench.peers.minirnn_peer import Peer

    os.environ["MINIRNN_THREADS"] = "1"
    peer = Peer(LESSONS[name])
    peer.timed_pass(made)
    profiler = cProfile.Profile()
    profiler.runcall(peer.timed_pass, made)
    spent: dict[str, float] = {}
    stats: Any = pstats.Stats(profiler)
    for (file, _, function), (_, _, _, cumulative, _) in stats.stats.items():
        for phase, labels in PHASES:
            if f"{os.path.basename(file)}:{function}" in labels:
                spent[phase] = spent.get(phase, 0.0) + cumulative
    figures = {phase: spent.get(phase, 0.0) * 1e3 / len(made) for phase, _ in PHASES}
    total = stats.total_tt * 1e3 / len(made)
    figures["everything else"] = total - sum(figures.values())
    figures["a step, under the profiler"] = total
    return {phase: round(value, 3) for phase, value in figures.items()}
