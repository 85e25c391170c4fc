"""The bench's clock: peers are timed in turn, and what comes before a run is not timed."""

import time

from bench import clock


def test_peers_are_timed_in_turn():
    """A, B, A, B; who is over the budget drops out; a sample of many runs counts as seconds a run."""
    asked = []

    def fake(run, repeats):
        asked.append((run, repeats))
        return {"slow": 2.0, "quick": 0.004}[run] * repeats

    found = clock.interleave({"a": "slow", "b": "quick"}, fake, rounds=4, budget=5.0)
    assert found == {"a": (1, [2.0, 2.0]), "b": (3, [0.004] * 4)}
    assert asked == [("slow", 1), ("quick", 1), ("slow", 1), ("quick", 3), ("quick", 3), ("quick", 3), ("quick", 3)]


def test_what_comes_before_a_run_is_not_timed():
    """On a host; of three runs each has its own."""
    done = []

    def before():
        done.append("before")
        time.sleep(0.02)

    seconds = clock.host_clock(clock.FreshRun(lambda: done.append("run"), before), 3)
    assert done == ["before", "run"] * 3
    assert 0 < seconds < 0.02
