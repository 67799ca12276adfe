"""Feeds generated bad input to every part of the library that takes input.

    python scripts/fuzz.py                        3,000 cases of each target, by Hypothesis
    python scripts/fuzz.py --cases 200 csv texts  of the targets with one of these words in the name
    python scripts/fuzz.py --seconds 60           and then Atheris for a minute each, if installed
    python scripts/fuzz.py --list                 names only

A target (see tests/fuzz) draws a case and judges what becomes of it: a named error or a right
answer, within limits of time and memory. Each runs in a process of its own, so that one that
crashes is told of like any other finding. Atheris (`pip install "minirnn[fuzz]"`) is guided by
coverage: it looks for inputs that reach new branches. The exit status is 0 if nothing was found.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


class Result(NamedTuple):
    cases: int
    seconds: float
    findings: list[str]


def run_one(name: str, cases: int, seconds: int, seed: int, timeout: float) -> Result:
    """One target in a process of its own."""
    start = time.perf_counter()
    how = ["--cases", str(cases), "--seed", str(seed), "--seconds", str(seconds)]
    command = [sys.executable, __file__, "--one", name, *how]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="fuzz-run-") as folder:
        try:
            done = subprocess.run(
                [*command, "--folder", folder],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                env=environment | {"TMPDIR": folder},
            )
            output, code = done.stdout + done.stderr, done.returncode
        except subprocess.TimeoutExpired as error:
            output = "".join(
                (part or b"").decode(errors="replace") for part in (error.stdout, error.stderr)
            )
            code = f"still at it after {timeout:.0f} s"
    findings = re.findall(r"^FINDING (.*(?:\n(?!FINDING ).*)*)", output, re.MULTILINE)
    ran = re.search(r"^Done (\d+) ", output, re.MULTILINE)
    if code != 0 or ran is None:
        findings.append(f"the process ended with {code}\n{output[-3000:]}")
    return Result(int(ran[1]) if ran else 0, time.perf_counter() - start, findings)


def one(name: str, cases: int, seconds: int, seed: int, folder: str) -> None:
    """What the process of a target does."""
    if seconds:
        import atheris

        with atheris.instrument_imports(include=["minirnn"]):
            import minirnn  # noqa: F401
            import minirnn.inspect  # noqa: F401
            import minirnn.interop.keras
            import minirnn.interop.onnx
            import minirnn.interop.pytorch  # noqa: F401
        from fuzz import running

        running.run_guided(running.all_targets()[name], seconds, folder)
    from fuzz import running

    test = running.test_of(running.all_targets()[name], cases, seed, running.Findings())
    test()
    print(f"Done {test.ran} cases", flush=True)


def table(names: list[str], cases: int, seconds: int, seed: int) -> int:
    """Run them, print a line for each, and then all that was found; how many findings."""
    widest = max(map(len, names))
    total, found, began = 0, [], time.perf_counter()
    for guided in (0, seconds) if seconds else (0,):
        print(f"{'Atheris' if guided else 'Hypothesis'}:", flush=True)
        for name in names:
            result = run_one(name, cases, guided, seed, 600 + cases + guided)
            total += result.cases
            found += [(name, finding) for finding in result.findings]
            verdict = f"{len(result.findings)} FINDINGS" if result.findings else "nothing found"
            print(
                f"  {name:{widest}} {result.cases:9,} cases {result.seconds:6.0f} s  {verdict}",
                flush=True,
            )
    for name, finding in found:
        print(f"\n{name}: {finding}")
    print(f"\n{total:,} cases, {len(found)} findings ({time.perf_counter() - began:.0f} s)")
    return len(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only targets with one of these in their name")
    parser.add_argument("--cases", type=int, default=3000, help="of each target (default: 3000)")
    parser.add_argument("--seconds", type=int, default=0, help="with Atheris, for each target")
    parser.add_argument("--seed", type=int, default=0, help="other cases for other seeds")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one, arguments.cases, arguments.seconds, arguments.seed, arguments.folder)
        return 0
    from fuzz import running

    words = arguments.words
    names = [n for n in running.all_targets() if not words or any(word in n for word in words)]
    if not names:
        parser.error(f"no target is called anything like {' or '.join(words)}")
    if arguments.list:
        print("\n".join(names))
        return 0
    if arguments.seconds and importlib.util.find_spec("atheris") is None:
        parser.error('--seconds needs Atheris: pip install "minirnn[fuzz]"')
    return 1 if table(names, arguments.cases, arguments.seconds, arguments.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
