"""The floor: what a training step of each model cannot do without, at the speed of this machine.

- Its matrix products, at the speed at which BLAS does products of just these shapes: those of all
  steps at once, on one thread or two, whichever is faster, and those inside the loop over time,
  step by step, each with as many rows as are still running. Two directions on two cores take
  as long as one.
- The bytes its optimizer has to move, at the speed of memory: weights, both averages and the
  gradient of the rows that the batch uses (read all, write three), and of all dense weights.

No elementwise mathematics, no lookups, no Python: nobody can be faster with these products.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minirnn.bench.lessons import CLASSES, LESSONS, Batch, Lesson, batches_of, load


def seconds_of(task: Callable[[], Any], least: float = 0.05) -> float:
    """The shortest of five means, each over at least `least` / 5 seconds."""
    task()
    begun = time.perf_counter()
    task()
    runs = max(1, int(least / 5 / max(time.perf_counter() - begun, 1e-7)))
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(runs):
            task()
        best = min(best, (time.perf_counter() - begun) / runs)
    return best


def lengths_of(lesson: Lesson, batch: Batch) -> np.ndarray:
    ids = batch[0]
    if not lesson.mask:
        return np.full(len(ids), ids.shape[1])
    return (ids != 0).sum(axis=1)


def layers_of(lesson: Lesson) -> Iterator[tuple[int, int, int]]:
    """(features, units, columns of the kernel) of each layer."""
    features = lesson.features
    gates = 4 if lesson.cell == "lstm" else 1
    for _ in range(lesson.layers):
        yield features, lesson.units, gates * lesson.units
        features = lesson.units * lesson.directions


def batched_products(lesson: Lesson, N: int) -> float:
    """Seconds for the products over all steps: x W, xᵀ da, hᵀ da, da Wᵀ."""
    total = 0.0
    for F, U, width in layers_of(lesson):
        x, h, da = (np.ones((N, size), np.float32) for size in (F, U, width))
        W, a, dx = np.ones((F, width), np.float32), np.empty_like(da), np.empty_like(x)
        dW, dU = np.empty_like(W), np.empty((U, width), np.float32)

        def products(x=x, h=h, da=da, W=W, a=a, dx=dx, dW=dW, dU=dU) -> None:
            np.dot(x, W, a)
            np.dot(x.T, da, dW)
            np.dot(h.T, da, dU)
            np.dot(da, W.T, dx)

        total += lesson.directions * seconds_of(products)
    return total


def loop_products(lesson: Lesson, lengths: np.ndarray) -> float:
    """Seconds for h U and da Uᵀ, step by step; two directions count once, on two cores."""
    running = [int((lengths > t).sum()) for t in range(int(lengths.max()))]
    total = 0.0
    for _, U, width in layers_of(lesson):
        kernel, transposed = np.ones((U, width), np.float32), np.ones((width, U), np.float32)
        for n in sorted(set(running)):
            h, a = np.ones((n, U), np.float32), np.empty((n, width), np.float32)
            one, product = np.ones((1, 1), np.float32), np.empty((1, 1), np.float32)
            # What a call costs beside the product is not the product's: leave it out.
            call = seconds_of(lambda one=one, out=product: np.dot(one, one, out), 0.005)
            both = seconds_of(lambda h=h, a=a, k=kernel: np.dot(h, k, a), 0.01)
            both += seconds_of(lambda h=h, a=a, k=transposed: np.dot(a, k, h), 0.01)
            total += running.count(n) * max(both - 2 * call, 0)
    cores = min(lesson.directions, os.cpu_count() or 1)
    return total * lesson.directions / cores


def memory_speed() -> float:
    """Bytes per second of reading two arrays and writing one, far beyond the caches."""
    a, b, c = (np.ones(16_000_000, np.float32) for _ in range(3))
    return 3 * a.nbytes / seconds_of(lambda: np.add(a, b, c))


def optimizer_bytes(lesson: Lesson, batch: Batch) -> int:
    dense = sum(
        lesson.directions * (F * width + U * width + width) for F, U, width in layers_of(lesson)
    )
    dense += (lesson.units * lesson.directions + 1) * CLASSES
    rows = len(np.unique(batch[0])) * lesson.features
    return 4 * 7 * (dense + rows)  # read w, m, v, g; write w, m, v


def floor_of(lesson: Lesson, batches: list[Batch], speed: float) -> dict[str, float]:
    """Milliseconds of each part for the batch of median size."""
    by_size = sorted(batches, key=lambda batch: int(lengths_of(lesson, batch).sum()))
    batch = by_size[len(by_size) // 2]
    lengths = lengths_of(lesson, batch)
    return {
        "batched products": batched_products(lesson, int(lengths.sum())) * 1e3,
        "products in the loop": loop_products(lesson, lengths) * 1e3,
        "optimizer's bytes": optimizer_bytes(lesson, batch) / speed * 1e3,
    }


def floors(source: str | None, count: int) -> dict[str, dict[str, float]]:
    """Model → milliseconds of each part, measured in a fresh process for each number of threads."""
    command = [sys.executable, "-m", "minirnn.bench.limits", source or "", str(count)]
    each = []
    for n in ("1", "2"):
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": n}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        each.append(json.loads(done.stdout.splitlines()[-1]))
    parts = {
        model: {part: round(min(one[model][part] for one in each), 4) for part in each[0][model]}
        for model in LESSONS
    }
    return {model: part | {"floor": round(sum(part.values()), 4)} for model, part in parts.items()}


def main(source: str, count: str) -> None:
    data, speed = load(source or None), memory_speed()
    figures = {
        name: floor_of(lesson, batches_of(lesson, data, int(count)), speed)
        for name, lesson in LESSONS.items()
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
