"""`minirnn bench`: runs what is installed, and shows it."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minirnn.bench import compare, gpu, limits, more, scale
from minirnn.bench.lessons import LESSONS, batches_of, load
from minirnn.data import ag_news

PARTS = (
    "steps",
    "inference",
    "limits",
    "profile",
    "process",
    "growth",
    "memory",
    "throughput",
    "gpu",
    "scale",
)

TABLES = {"gpu": gpu.table, "scale": scale.table}  # of the others, the figures are shown


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = named[0].partition(":")[2].strip() if named else model
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "Python": platform.python_version(),
        "NumPy": np.__version__,
    }


def add_arguments(parser: argparse.ArgumentParser, positive: Callable[[str], int]) -> None:
    """The options of `minirnn bench`; positive: reads a whole number from 1 up."""
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)} (default: steps)"
    )
    parser.add_argument("--data", help="folder with train.csv and test.csv; default: as `train`")
    parser.add_argument("--models", nargs="+", choices=LESSONS, default=list(LESSONS))
    parser.add_argument("--batches", type=positive, default=200, help="batches in a pass (200)")
    parser.add_argument("--rounds", type=positive, default=5, help="passes that count (5)")
    parser.add_argument("--json", type=Path, help="write all figures to this file as well")


def run(args: argparse.Namespace) -> int:
    parts = args.parts or ["steps"]
    if unknown := sorted(set(parts) - set(PARTS)):
        raise ValueError(f"there is no part {', '.join(unknown)}; known: {', '.join(PARTS)}")
    data = load(args.data)
    results: dict[str, Any] = {"machine": machine(), "data": data.description}
    print(json.dumps(results, indent=1))
    tasks = {
        "steps": lambda: compare.compare(data, args.batches, args.rounds, ["train"], args.models),
        "inference": lambda: compare.compare(
            data, args.batches, args.rounds, ["infer", "one", "all"], args.models
        ),
        "limits": lambda: limits.floors(args.data, args.batches),
        "profile": lambda: {
            name: more.profile(name, batches_of(LESSONS[name], data, args.batches))
            for name in args.models
        },
        "process": lambda: more.whole_processes(
            args.data or os.environ.get(ag_news.ENVIRONMENT_VARIABLE, "sample"), args.rounds
        ),
        "growth": lambda: more.growth(data, args.rounds),
        "memory": lambda: {"padding": more.padding(data, args.rounds), "MB": more.memory(data)},
        "throughput": lambda: more.throughput(data),
        "gpu": lambda: gpu.run(data, args.models, args.batches),
        "scale": lambda: scale.run(data, args.models, min(args.batches, 60), args.rounds),
    }
    for part in parts:
        results[part] = tasks[part]()
        if part in TABLES:
            print(TABLES[part](results[part]), flush=True)
        elif part not in ("steps", "inference"):
            print(json.dumps({part: results[part]}, indent=1, ensure_ascii=False), flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return 0
