"""How much is tried, and what came of it."""

from __future__ import annotations

import os
from collections import defaultdict

import hypothesis

FACTOR = int(os.environ.get("FUZZ", "1"))
# By suite: how many calls worked or raised as documented, and what did not.
clean: dict[str, int] = defaultdict(int)
unclean: dict[str, list[str]] = defaultdict(list)


def examples(few: int) -> hypothesis.settings:
    """Settings for `few` examples in the ordinary tests, which are the same each time, and FUZZ times as many else."""
    return hypothesis.settings(
        max_examples=few * FACTOR,
        derandomize=FACTOR == 1,
        deadline=None,
        database=None,
        suppress_health_check=list(getattr(hypothesis, "HealthCheck", ())),  # tests/conftest.py may stand in for it
    )


def tried(suite: str, what_is_wrong: str | None) -> None:
    """Count one call: clean, or unclean and why."""
    if what_is_wrong is None:
        clean[suite] += 1
    else:
        unclean[suite].append(what_is_wrong)


def summary() -> list[str]:
    """A line for each suite that ran."""
    suites = sorted({*clean, *unclean})
    return [
        f"{suite}: {clean[suite] + len(unclean[suite])} tried, {clean[suite]} clean, {len(unclean[suite])} unclean"
        for suite in suites
    ]
