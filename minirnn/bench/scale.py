"""Training on several ranks: what is measured on one and two, and a model of many more.

*Measured* here: a step of `fit` on one rank and on two, each rank with the lesson's batch; the
bytes that a rank sends; the seconds within MPI; a sum and a gathering by size; and, with the
gradients of as many real batches as there would be ranks, how the union of their ids grows, and
what it takes to add up equal ids and to update those rows.

*Modelled*, for P ranks, from these: see `ASSUMPTIONS`, which stands below each table.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minirnn.base import RowGradient
from minirnn.bench.gpu import our_model
from minirnn.bench.lessons import LESSONS, VOCABULARY, Lesson, batches_of
from minirnn.bench.limits import seconds_of
from minirnn.bench.worker import save_batches
from minirnn.layers.embedding import sum_equal_ids
from minirnn.parallel.exchange import Exchange, MpiTransport, keys_of_tables
from minirnn.steps import loss_and_gradients

RANKS = (1, 2, 8, 32, 128, 512, 1024)
SIMULATED = (1, 2, 4, 8, 16, 32, 64)  # ranks whose gradients are merged in one process
ETHERNET = (15e-6, 1 / 2.9e9)  # seconds of a message, and of a byte: 25 Gbit/s

ASSUMPTIONS = f"""\
Assumptions: a message of n bytes takes a + n b seconds, whichever two ranks send it at the same
time; a and b are those measured between two processes of this machine (*here*: shared memory, so
each rank would need a core of its own), or, *not measured*, {ETHERNET[0] * 1e6:.0f} µs and
{1e-9 / ETHERNET[1]:.1f} GB/s of an Ethernet of 25 Gbit/s. The sum of n bytes: the faster of
recursive doubling, log2(P) (a + n b), and reduce-scatter with all-gather, 2 log2(P) a +
2 n b (P-1)/P. Rows: three gatherings of log2(P) messages, and P-1 times what one rank sends. All
ranks wait for the slowest: compute is the expected maximum of P steps drawn from those measured on
one rank, lengths of texts included. Nothing is hidden behind computation. The union of ids grows as
measured up to {SIMULATED[-1]} batches, beyond as c P^e with the same c and e, up to the whole
table; adding up costs in proportion to the rows that arrive, the update in proportion to the union.
Reading and shuffling the data costs nothing, no rank fails, and nothing else is on the network.
"""


def run(data: Any, models: Iterable[str], count: int, rounds: int) -> dict[str, Any]:
    """All figures; those of the models under their names."""
    launcher = mpiexec()
    if launcher is None:
        raise ValueError('scale: there is no mpiexec; pip install "minirnn[mpi]" brings one')

    def on(ranks: int, *arguments: str) -> Any:
        command = [launcher, "-n", str(ranks), sys.executable, "-m", "minirnn.bench.rank"]
        environment = {"OPENBLAS_NUM_THREADS": "1", "MINIRNN_THREADS": "1"}
        done = subprocess.run(
            [*command, *arguments],
            env=os.environ | environment,
            capture_output=True,
            encoding="utf-8",
            timeout=170,
        )
        if done.returncode:
            raise ValueError(f"scale: {ranks} ranks failed.\n{done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])

    results: dict[str, Any] = {"wire": on(2, "wire"), "models": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in models:
            lesson, measured = LESSONS[name], {}
            for ranks in (1, 2):
                path = str(Path(folder) / f"{name}-{ranks}.npz")
                save_batches(path, batches_of(lesson, data, count, lesson.rows * ranks))
                measured[ranks] = on(ranks, name, path, str(rounds))
            results["models"][name] = {"measured": measured, "merging": merging(lesson, data)}
    for name, found in results["models"].items():
        found["model"] = modelled(found, results["wire"], LESSONS[name])
    return results


def mpiexec() -> str | None:
    """The one beside this Python, or else any."""
    beside = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    return beside or shutil.which("mpiexec")


# --- measuring, in one process --------------------------------------------------------------------


def merging(lesson: Lesson, data: Any) -> dict[str, Any]:
    """By number of ranks: rows that arrive and their union; ms to add up and to update."""
    from mpi4py import MPI

    model = our_model(lesson)
    batches = batches_of(lesson, data, SIMULATED[-1])
    [key] = keys_of_tables(model)
    params = model.training_parts(None).params
    grads = [loss_and_gradients(model, x, y)[1] for x, y in batches]
    exchange = Exchange(MpiTransport(MPI.COMM_SELF), params, {key}, 7)

    def alone() -> None:
        exchange.start(grads[0], 1.0, range(7))
        exchange.rows(key, grads[0][key], 1.0)
        exchange.wait()

    found: dict[str, Any] = {"alone": seconds_of(alone) * 1e3, "width": lesson.features}
    found["params"] = {"dense": int(exchange.flat.nbytes), "table": int(params[key].nbytes)}
    found["ranks"] = {}
    for ranks in SIMULATED:
        if ranks > len(grads):
            break
        ids = np.concatenate([g[key].ids for g in grads[:ranks]])
        rows = np.concatenate([g[key].rows for g in grads[:ranks]])
        merged = sum_equal_ids(ids, rows, VOCABULARY)

        def update(merged: RowGradient = merged) -> None:
            model.optimizer.apply({key: params[key]}, {key: merged}, (key,))

        adding = seconds_of(lambda ids=ids, rows=rows: sum_equal_ids(ids, rows, VOCABULARY))
        found["ranks"][ranks] = {
            "arriving": len(ids),
            "union": len(merged.ids),
            "adding": adding * 1e3,
            "update": seconds_of(update) * 1e3,
        }
    return found


# --- the model ------------------------------------------------------------------------------------


class Wire(NamedTuple):
    """Seconds of a message, and of each of its bytes."""

    a: float
    b: float

    def sum(self, ranks: int, size: float) -> float:
        """Seconds of a sum of so many bytes over all ranks."""
        if ranks == 1:
            return 0.0
        hops = math.log2(ranks)
        return min(
            hops * (self.a + size * self.b),
            2 * hops * self.a + 2 * size * self.b * (ranks - 1) / ranks,
        )

    def gather(self, ranks: int, size: float) -> float:
        """Seconds to bring so many bytes of each rank to all, in three calls."""
        return 3 * math.log2(ranks) * self.a + (ranks - 1) * size * self.b


def wire_of(measured: dict[str, Any]) -> Wire:
    """The line through the shortest sum and the longest one."""
    times = {int(size): us * 1e-6 for size, us in measured["sum"].items()}
    least, most = min(times), max(times)
    return Wire(times[least], (times[most] - times[least]) / (most - least))


def slowest(each: list[float], ranks: int) -> float:
    """The expected maximum of so many draws from these times."""
    times, n = np.sort(each), len(each)
    chance = (np.arange(n + 1) / n) ** ranks
    return float((times * np.diff(chance)).sum())


def grown(measured: dict[str, Any], figure: str) -> Callable[[float], float]:
    """The curve c x^e through the last two of the simulated numbers of ranks; figure against x."""
    known = {int(ranks): entry[figure] for ranks, entry in measured.items()}
    (x0, y0), (x1, y1) = sorted(known.items())[-2:]
    e = math.log(y1 / y0) / math.log(x1 / x0)
    return lambda ranks: known.get(ranks, y1 * (ranks / x1) ** e)


def modelled(found: dict[str, Any], measured_wire: dict[str, Any], lesson: Lesson) -> list[Any]:
    """One entry for each number of ranks: milliseconds of a step, and where they go."""
    merging = found["merging"]
    by_ranks, last = merging["ranks"], merging["ranks"][max(merging["ranks"])]
    first = by_ranks[1]
    arriving = statistics.mean(entry["arriving"] / ranks for ranks, entry in by_ranks.items())
    union = grown(by_ranks, "union")
    per_row = last["adding"] / last["arriving"]
    per_update = max(last["update"] - first["update"], 0) / max(last["union"] - first["union"], 1)
    row_bytes = 4 * (merging["width"] + 1)
    each = found["measured"][1]["each"]
    entries = []
    for ranks in RANKS:
        compute = slowest(each, ranks)
        several = ranks > 1
        rows_now = min(union(ranks), VOCABULARY)
        merge = several * (
            merging["alone"]
            + per_row * arriving * (ranks - 1)
            + per_update * (rows_now - first["union"])
        )
        entry = {"ranks": ranks, "compute": compute, "merge": merge, "union": rows_now}
        table = merging["params"]["table"]
        entry["arriving_MB"] = arriving * ranks * row_bytes / 1e6
        for name, wire in (("here", wire_of(measured_wire)), ("Ethernet", Wire(*ETHERNET))):
            dense = wire.sum(ranks, merging["params"]["dense"]) * 1e3
            rows = several * wire.gather(ranks, arriving * row_bytes) * 1e3
            whole = compute + merge + dense + rows
            speed = statistics.mean(each) * ranks / whole
            entry[name] = {"dense": dense, "rows": rows, "step": whole, "times": speed}
            entry[name]["table"] = wire.sum(ranks, table) * 1e3
        entries.append(entry)
    return entries


# --- showing it -----------------------------------------------------------------------------------


def table(results: dict[str, Any]) -> str:
    """Everything as Markdown."""
    wire = wire_of(results["wire"])
    lines = [
        "Two ranks exchange a message on this machine in "
        f"{wire.a * 1e6:.1f} µs and {1e-9 / wire.b:.1f} GB/s (sums of 8 bytes to 4 MB).",
        "",
        "| model | one rank, ms a step | two ranks | rows a second, over one rank | bytes a rank "
        "sends: dense | rows | ms in MPI: sum | rows |",
        "| --- " * 8 + "|",
    ]
    for name, found in results["models"].items():
        one, two = found["measured"][1], found["measured"][2]
        ms = [statistics.median(entry["ms"]) for entry in (one, two)]
        calls, sizes = two["calls"], two["bytes"]
        summing = calls["start_sum"] + calls["finish_sum"]
        lines.append(
            f"| `{name}` | {ms[0]:.2f} | {ms[1]:.2f} | {2 * ms[0] / ms[1]:.2f} | "
            f"{sizes['start_sum']:,.0f} | {sizes['gather_rows']:,.0f} | {summing:.3f} | "
            f"{calls['gather_rows']:.3f} |"
        )
    lines += ["", "Modelled, milliseconds of a step:"]
    for name, found in results["models"].items():
        lines += [
            "",
            f"`{name}`; its table: {found['merging']['params']['table'] / 1e6:.1f} MB.",
            "",
            "| ranks | slowest compute | merge, update | union of ids | rows arriving, MB | sum, "
            "here | rows, here | (whole table) | step, here | times one rank | step, Ethernet | "
            "times one rank |",
            "| --- " * 12 + "|",
        ]
        for e in found["model"]:
            here, far = e["here"], e["Ethernet"]
            lines.append(
                f"| {e['ranks']:,} | {e['compute']:.2f} | {e['merge']:.2f} | {e['union']:,.0f} | "
                f"{e['arriving_MB']:.2f} | {here['dense']:.3f} | {here['rows']:.2f} | "
                f"{here['table']:.2f} | "
                f"{here['step']:.2f} | {here['times']:.1f} | {far['step']:.2f} | "
                f"{far['times']:.1f} |"
            )
    explained = '"(whole table)" is what a sum of the table in place of its rows would take.'
    return "\n".join([*lines, "", explained, "", ASSUMPTIONS])
