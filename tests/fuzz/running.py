"""Runs targets: with Hypothesis, and, where it is installed, with the coverage-guided Atheris."""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from collections.abc import Callable

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException

from fuzz.judge import Finding
from fuzz.values import Draw

Target = Callable[[Draw], None]


def all_targets() -> dict[str, Target]:
    from fuzz import command, data, files, functions, layers, losses, models, optimizers, training

    modules = (layers, losses, optimizers, training, data, models, files, functions, command)
    return {target.__name__: target for module in modules for target in module.TARGETS}


def test_of(target: Target, cases: int, seed: int, report: Callable | None = None) -> Callable:
    """A Hypothesis test of about `cases` cases, the same ones for the same seed.

    report: is told of each finding, which then does not stop the test.
    """

    @hypothesis.seed(seed)
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[Phase.generate] if report else [Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def test(data):
        test.ran += 1
        try:
            target(data.draw)
        except HypothesisException:
            raise
        except Exception as finding:
            if report is None:
                raise
            report(finding)

    test.ran = 0
    return test


class Findings:
    """Findings by their cause, and one example of each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def __call__(self, finding: Exception) -> None:
        cause = cause_of(finding)
        self.counts[cause] += 1
        if self.counts[cause] == 1:
            text = str(finding) if isinstance(finding, Finding) else traceback.format_exc()
            print(f"FINDING {cause}\n{text[:3000]}\n", flush=True)


def cause_of(finding: Exception) -> str:
    """What findings of one cause have in common: where it came from, or what was required."""
    if not isinstance(finding, Finding):
        return f"in the target: {type(finding).__name__}: {str(finding)[:100]}"
    lines = str(finding).splitlines()
    places = [line.strip() for line in lines if line.strip().startswith("File ")]
    if not places:
        return lines[0].split(":")[0][:100]
    own = [place for place in places if "/minirnn/" in place]
    return f"{(own or places)[-1]}: {lines[-1][:100]}"


def run_guided(target: Target, seconds: int, folder: str) -> None:
    """Let Atheris look for inputs that reach new branches of minirnn; it ends the process."""
    import atheris

    findings = Findings()
    test_of(target, 20, 0, findings)()  # what is imported and compiled once does not count
    test = test_of(target, 1, 0, findings)
    options = ["-timeout=0", "-rss_limit_mb=0", f"-artifact_prefix={folder}/", folder]
    arguments = [sys.argv[0], f"-max_total_time={seconds}", *options]
    atheris.Setup(arguments, test.hypothesis.fuzz_one_input)
    atheris.Fuzz()
