"""Does data that does not fit into memory stream at constant memory, and how fast?

    python benchmarks/stream.py                         100,000, 1 and 10 million rows (2 GB of CSV)
    python benchmarks/stream.py --rows 1000000 --kinds csv array_record
    python benchmarks/stream.py --rows 200000 --steps 300

Writes toy news, each row another, into files of 50,000 rows in a temporary folder. Then, each in a
process of its own, whose peak memory is its own:

    check   every row comes exactly once, of a pass that is interrupted and taken up twice
    ids     one pass: reading, shuffling, parsing, texts → ids
    train   an epoch of `rnn-title` (or `--steps` of it), batches of 256
    load    all rows in memory, for comparison (up to a million)

and prints a table, fit for RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from minirnn import classifier
from minirnn.batches import batches
from minirnn.data import Stream, load_ag_news, shards
from minirnn.data.rows import read_csv
from minirnn.data.stream import SHUFFLE_BUFFER, title_and_description, title_only

ROWS_IN_A_FILE = 50_000
BATCH = 256
LOADED = 1_000_000  # rows that are also loaded as a whole, which takes about 1 kB a row


def write(folder: Path, rows: int, kind: str) -> int:
    """Write the files; the bytes that they take."""
    sample = load_ag_news("sample").train
    of_class = [np.flatnonzero(sample.labels == label) for label in range(4)]
    for start in range(0, rows, ROWS_IN_A_FILE):
        count = min(ROWS_IN_A_FILE, rows - start)
        random = np.random.default_rng(start)
        labels = random.integers(4, size=count).tolist()
        picked = random.integers(min(map(len, of_class)), size=(count, 2)).tolist()
        lines = []
        for number, (label, (a, b)) in enumerate(zip(labels, picked, strict=True), start):
            a, b = of_class[label][a], of_class[label][b]
            lines.append(
                f'"{label + 1}","{sample.titles[a]}","{sample.descriptions[b]} {number}"\n'.encode()
            )
        path = folder / f"train-{start // ROWS_IN_A_FILE:05}.{kind}"
        if kind == "csv":
            path.write_bytes(b"".join(lines))
        else:
            writer = shards.array_record().ArrayRecordWriter(str(path), "group_size:100")
            for line in lines:
                writer.write(line)
            writer.close()
    return sum(path.stat().st_size for path in folder.iterdir())


# --- what is measured, each in a process of its own -----------------------------------------------


def check(folder: Path, steps: int | None) -> int:
    """Fails if a row is missing, or comes twice."""
    position, seen = None, bytearray()
    for part in range(3):
        walk = Stream(folder, BATCH, seed=1).walk(position)
        for number, (texts, _, _) in enumerate(walk):
            for text in texts:
                row = int(text.rpartition(" ")[2])
                if row >= len(seen):
                    seen.extend(bytes(row + 1 - len(seen)))
                seen[row] += 1
            if part < 2 and number == len(seen) // (4 * BATCH):
                break
        position = json.loads(json.dumps(walk.position()))
    assert set(seen) == {1}, "a row is missing, or came twice"
    return len(seen)


def vectorizer_for(folder: Path):
    texts = Stream(folder, seed=1, parse=title_only).texts(classifier.VOCABULARY_TITLES)
    return classifier.adapted_vectorizer([text for batch in texts for text in batch])


def ids(folder: Path, steps: int | None) -> int:
    source = Stream(folder, BATCH, seed=1, parse=title_and_description)
    return sum(len(x) for x, _, _ in batches(source, vectorizer=vectorizer_for(folder)))


def train(folder: Path, steps: int | None) -> int:
    model = classifier.build_model("rnn-title", vectorizer_for(folder))
    source = Stream(folder, BATCH, seed=1, parse=title_only)
    model.fit(source, epochs=1, steps_per_epoch=steps, verbose=0)
    return model.optimizer.iterations * BATCH


def load(folder: Path, steps: int | None) -> int:
    parts = [read_csv(path) for path in folder.iterdir()]
    return sum(map(len, parts))


MEASURES = {"check": check, "ids": ids, "train": train, "load": load}


def measured(measure: str, folder: Path, steps: int | None) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", measure, "--folder", str(folder)]
    if steps is not None:
        command += ["--steps", str(steps)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def measure_here(measure: str, folder: Path, steps: int | None) -> None:
    start = time.perf_counter()
    rows = MEASURES[measure](folder, steps)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rows": rows, "seconds": seconds, "MiB": peak}))


# --- the table ------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--kinds", nargs="+", choices=("csv", "array_record"), default=["csv"])
    parser.add_argument("--steps", type=int, help="train so many steps, not a whole epoch")
    parser.add_argument("--measure", choices=MEASURES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure_here(args.measure, args.folder, args.steps)
        return

    print(f"A shuffle buffer of {SHUFFLE_BUFFER:,} rows, batches of {BATCH}.\n")
    heads = ["rows", "files", "on disk", "each once", "texts → ids", "peak", "rnn-title", "peak"]
    print(f"| {' | '.join([*heads, 'peak, all loaded'])} |")
    print(f"|{' --- |' * (len(heads) + 1)}", flush=True)
    for kind in args.kinds:
        for rows in args.rows:
            folder = Path(tempfile.mkdtemp(prefix="minirnn-stream-"))
            try:
                size = write(folder, rows, kind)
                found = {
                    measure: measured(measure, folder, args.steps)
                    for measure in MEASURES
                    if measure != "load" or (rows <= LOADED and kind == "csv")
                }
                assert found["check"]["rows"] == found["ids"]["rows"] == rows
                cells = [
                    f"{rows:,}",
                    f"{len(list(folder.iterdir()))} {kind}",
                    f"{size / 1e6:,.0f} MB",
                    "yes",
                ]
                for measure in ("ids", "train"):
                    figures = found[measure]
                    cells.append(f"{figures['rows'] / figures['seconds']:,.0f} rows/s")
                    cells.append(f"{figures['MiB']:,.0f} MiB")
                cells.append(f"{found['load']['MiB']:,.0f} MiB" if "load" in found else "")
                print(f"| {' | '.join(cells)} |", flush=True)
            finally:
                shutil.rmtree(folder)


if __name__ == "__main__":
    main()
