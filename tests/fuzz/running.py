"""Runs targets: with Hypothesis, and, where it is installed, with the coverage-guided Atheris."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException

from fuzz.judge import Finding
from fuzz.values import Draw

Target = Callable[[Draw], None]


def all_targets() -> dict[str, Target]:
    from fuzz import data, files, functions, layers, training

    modules = (layers, training, data, files, functions)
    return {target.__name__: target for module in modules for target in module.TARGETS}


def test_of(target: Target, cases: int, fixed: bool = True, collect: Counter | None = None):
    """A Hypothesis test of `cases` cases. collect: findings are counted here by their first lines,
    and do not stop it."""

    @settings(
        max_examples=cases,
        derandomize=fixed,
        database=None,
        deadline=None,
        phases=[Phase.generate] if collect is not None else [Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(st.data())
    def test(data):
        ran[0] += 1
        if collect is None:
            target(data.draw)
            return
        try:
            target(data.draw)
        except HypothesisException:
            raise
        except Exception as finding:
            collect[signature(finding)] += 1
            examples.setdefault(signature(finding), str(finding))

    ran = [0]
    examples: dict[str, str] = {}
    test.ran, test.examples = ran, examples
    return test


def signature(finding: Exception) -> str:
    """What findings of one cause have in common: where it came from, or what was required."""
    lines = str(finding).splitlines()
    if not isinstance(finding, Finding):
        return f"in the target: {traceback.format_exc()[-300:]}"
    places = [line.strip() for line in lines if line.strip().startswith("File ")]
    own = [p for p in places if "/minirnn/" in p]
    head = lines[0]
    if not places:
        return head.split(":")[0][:100]
    kind = head.rpartition("): ")[2][:60]
    return f"{kind} @ {(own or places)[-1]} | {lines[-1][:80]}"
