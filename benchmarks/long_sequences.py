"""Time and memory of a training step on long rows: in one piece, in segments, in windows.

    python benchmarks/long_sequences.py [--rows 16] [--units 64] [--steps 1000 10000 100000]

Embedding(1000, units), LSTM(units), Dense(4); token ids, one label a row. Each case runs in a
process of its own, one after another. Time: CPU seconds, the fewer of two steps. Memory: the most
that the process held (resident set) over what it held before; "failed" where that was too much.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

WAYS = ("one piece", "segments", "windows of 1000")


def measure(way: str, rows: int, units: int, steps: int) -> tuple[float, float]:
    """Seconds and MB of one training step, or, for windows, of all that it takes for a row."""
    import numpy as np

    import minirnn
    from minirnn.layers import LSTM, Dense, Embedding

    minirnn.set_random_seed(1)
    minirnn.set_history_limit(2**50 if way == "one piece" else 2**20)
    windows = way.startswith("windows")
    layers = [Embedding(1000, units), LSTM(units, stateful=windows), Dense(4, "softmax")]
    model = minirnn.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 1000, (rows, steps), np.int32), rng.integers(0, 4, rows)
    model.train_on_batch(x[:, :30], y)  # what is compiled is loaded

    def step() -> None:
        if not windows:
            model.train_on_batch(x, y)
            return
        model.fit(minirnn.Windows(model, x, y, window=1000, batch_size=rows), verbose=0)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(2):
        begun = time.process_time()
        step()
        seconds.append(time.process_time() - begun)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return min(seconds), held / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--units", type=int, default=64)
    parser.add_argument("--steps", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--way", choices=WAYS, help="only this one, as two numbers")
    args = parser.parse_args()
    if args.way:
        print(*measure(args.way, args.rows, args.units, args.steps[0]))
        return
    print("| steps | " + " | ".join(WAYS) + " |")
    print("| --- |" + " --- |" * len(WAYS))
    for steps in args.steps:
        cells = []
        for way in WAYS:
            size = ["--rows", str(args.rows), "--units", str(args.units), "--steps", str(steps)]
            command = [sys.executable, __file__, *size, "--way", way]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                cells.append("failed")
                continue
            seconds, megabytes = map(float, done.stdout.split())
            cells.append(f"{seconds:.2f} s, {megabytes:,.0f} MB")
        print(f"| {steps:,} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
