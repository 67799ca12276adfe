"""One library, one model, one process: waits for orders on standard input, answers in JSON lines.

    python -m minirnn.bench.worker PEER MODEL BATCHES.npz [OPTION=VALUE ...]

Orders: `train` (one pass over the batches; the answer is the seconds of each step), `infer`, `one`
(a single row at a time), `all` (the seconds of predicting all batches together), `memory` (peak
resident bytes), `quit`.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from minirnn.bench.lessons import LESSONS, Batch, Lesson


def load_batches(path: str) -> list[Batch]:
    with np.load(path) as stored:
        return [(stored[f"x{i}"], stored[f"y{i}"]) for i in range(len(stored.files) // 2)]


def save_batches(path: str, batches: Iterable[Batch]) -> None:
    arrays = {}
    for i, (x, y) in enumerate(batches):
        arrays |= {f"x{i}": x, f"y{i}": y}
    np.savez(path, **arrays)


def seconds_of(step: Callable[[Any], Any], inputs: Iterable[Any]) -> list[float]:
    seconds = []
    for value in inputs:
        begun = time.perf_counter()
        step(value)
        seconds.append(time.perf_counter() - begun)
    return seconds


def lesson_with(name: str, options: dict[str, str]) -> Lesson:
    """The lesson, with `units` replaced where that is asked for."""
    lesson = LESSONS[name]
    units = options.pop("units", None)
    return lesson if units is None else lesson._replace(units=int(units))


def main(arguments: list[str]) -> None:
    peer_name, model_name, path, *rest = arguments
    options = dict(option.split("=", 1) for option in rest)
    lesson = lesson_with(model_name, options)
    batches = load_batches(path)
    module = importlib.import_module(f"minirnn.bench.peers.{peer_name}")
    peer = module.Peer(lesson, **options)
    trained = [peer.prepare(x, y) for x, y in batches]
    inferred = [peer.prepare(x, None) for x, _ in batches]
    singles = [peer.prepare(x[:1, : max(int((x[0] != 0).sum()), 1)], None) for x, _ in batches]
    answers = {
        "train": lambda: (
            peer.timed_pass(trained)
            if hasattr(peer, "timed_pass")
            else seconds_of(peer.train, trained)
        ),
        "infer": lambda: seconds_of(peer.infer, inferred),
        "one": lambda: seconds_of(peer.infer, singles),
        "all": lambda: [sum(seconds_of(peer.infer, inferred))],
        "memory": lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps({"ready": module.describe()}), flush=True)
    for line in sys.stdin:
        order = line.strip()
        if order == "quit":
            break
        print(json.dumps(answers[order]()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
