"""Processes of a group agree, or all of them raise within the deadline: whoever fails, dies, stops or comes late."""

import contextlib
import os
import signal
import time

import pytest
import torch

from tritonparam._meeting import ProcessesError
from tritonparam._processes import Processes, check_deadline

DEADLINE = 2.0
LATEST = 60.0  # seconds in which an error has come: this is no measure of speed, but many times the deadline


def _caught(call):
    """The error of a call, and whether it came in time."""
    begin = time.monotonic()
    try:
        call()
    except (ProcessesError, ValueError) as error:
        return f"{type(error).__name__}: {error}", time.monotonic() - begin < LATEST
    return "nothing", True


def _gathered(rank, world):
    processes = Processes.of(deadline=60.0)
    texts = [b"\0" * rank, b"same" * 50_000, b""]
    found = [processes.gather(text, "test") for text in texts]
    pair = torch.distributed.new_group([0, 2])
    inner = Processes.of(pair).gather(b"%d" % rank, "test") if rank != 1 else None
    refused = _caught(lambda: Processes.of(pair)) if rank == 1 else None
    kept = []
    for _ in range(4):
        processes.gather(b"%d" % rank, "test")
        torch.distributed.barrier()
        kept.append(torch.distributed.distributed_c10d._get_default_store().num_keys())
        torch.distributed.barrier()
    return found, inner, refused, len(set(kept))


def test_gather(launch):
    want = [[b"", b"\0", b"\0\0"], [b"same" * 50_000] * 3, [b""] * 3]
    found = launch(_gathered, 3)
    assert [each[0] for each in found] == [want] * 3
    assert [each[1] for each in found] == [[b"0", b"2"], None, [b"0", b"2"]]
    assert [each[3] for each in found] == [1] * 3  # messages do not pile up in the store
    assert "group must have this process in it" in found[1][2][0]


def _raising(rank, world):
    processes = Processes.of(deadline=60.0)

    def call(bad):
        if rank in bad:
            raise ValueError(f"bad value of {rank}")
        return rank

    told = [_caught(lambda bad=bad: processes.together(lambda: call(bad), "test")) for bad in ([1], [0], [0, 2])]
    return told, processes.together(lambda: call([]), "test")


def test_an_error_is_told_to_all(launch):
    """The own error where there is one; the group can still be used."""
    found = launch(_raising, 3)
    assert [each[1] for each in found] == [0, 1, 2]
    texts = [[text for text, _ in each[0]] for each in found]
    assert texts[1][0] == "ValueError: bad value of 1"
    assert texts[0][0] == texts[2][0] == "ProcessesError: test failed in process 1 of 3: ValueError: bad value of 1"
    assert texts[0][1] == "ValueError: bad value of 0"
    assert texts[1][1] == "ProcessesError: test failed in process 0 of 3: ValueError: bad value of 0"
    assert [each[2].partition(":")[0] for each in texts] == ["ValueError", "ProcessesError", "ValueError"]


def _losing(rank, world, who, how):
    def call():
        Processes.of(deadline=20.0).gather(b"", "begin")
        if rank == who:
            os.kill(os.getpid(), how)
        Processes.of(deadline=DEADLINE).gather(b"", "test")

    return _caught(call)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("who", [0, 2])
def test_a_process_that_is_gone_is_named(launch, who, how):
    found = launch(_losing, 3, lost=(who,), who=who, how=how)
    for told, soon in (each for each in found if each is not None):
        assert f"ProcessesError: test: process {who} of 3 has not come for 2 s" in told
        assert soon


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_store_that_is_gone_is_named(launch, how):
    """Where rank 0 keeps it, as without a launcher."""
    found = launch(_losing, 3, lost=(0,), store_in_rank_0=True, who=0, how=how)
    for told, soon in found[1:]:
        assert "the store of the process group" in told
        assert soon


def _late(rank, world, alive):
    """Process 1 comes after the deadline."""
    Processes.of(deadline=60.0).wait("begin")
    processes = Processes.of(deadline=2 * DEADLINE)
    if rank == 1:
        with processes.working() if alive else contextlib.nullcontext():
            time.sleep(4 * DEADLINE)
    first, _ = _caught(lambda: processes.wait("test"))
    Processes.of(deadline=60.0).wait("end")
    return first


def test_who_works_is_waited_for(launch):
    assert launch(_late, 2, alive=True) == ["nothing"] * 2


def test_who_comes_late_is_told_too(launch):
    """And can be met again."""
    assert all("test: process 1 of 2 has not come for 4 s" in told for told in launch(_late, 2, alive=False))


def test_one_process_agrees_with_itself():
    processes = Processes.of()
    assert (processes.rank, processes.size) == (0, 1)
    assert processes.gather(b"x", "test") == [b"x"]
    assert processes.together(lambda: 3, "test") == 3
    with processes.working():
        processes.wait("test")
    with pytest.raises(KeyError):
        processes.together(lambda: {}[0], "test")


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e30])
def test_deadlines_out_of_range(seconds):
    with pytest.raises(ValueError, match="deadline must be a number of seconds above 0"):
        check_deadline("deadline", seconds)


@pytest.mark.parametrize("seconds", [None, "5", True])
def test_deadlines_of_other_types(seconds):
    with pytest.raises(TypeError, match="deadline must be a number of seconds"):
        check_deadline("deadline", seconds)


def _different_calls(rank, world):
    """One fails before it meets the others, and goes on with another call."""
    processes = Processes.of(deadline=60.0)
    told = [_caught(lambda: processes.gather(b"", "second" if rank == 1 else "first"))]
    return told, processes.gather(b"x", "third /own/path" if rank else "third /path")


def test_calls_that_are_not_the_same_are_an_error_in_all(launch):
    for rank, (((text, soon),), found) in enumerate(launch(_different_calls, 3)):
        call, others = ("second", "0, 2") if rank == 1 else ("first", "1")
        assert text.startswith(f"ProcessesError: {call}: all processes must make the same calls in the same order")
        assert f"process {others} of 3 made another one" in text
        assert soon
        assert found == [b"x"] * 3
