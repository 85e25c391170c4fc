"""A case to time, a row as if measured, a maker made wrong, and the command: what the bench's tests share."""

import collections
import contextlib
import dataclasses
import importlib.util
import io

import torch

from bench import rows, run
from bench.cases import Case
from tritonparam.stream.key import STREAM_VERSION

ENVIRONMENT = rows.Environment("a device", "3", "2", "none", "1", "0", STREAM_VERSION, "2026-01-01", "abc")


def case(op="normal", provider="tritonparam numpy", dtype="float32", shapes=((70_001,), (3, 5), ()), threads=1):
    return Case(op, provider, "some tensors", shapes, dtype, threads)


Told = collections.namedtuple("Told", ["exit_code", "output"])


def bench(*arguments):
    """What `python -m bench` returns and prints, on both streams, with these arguments."""
    main = importlib.import_module("bench.__main__").main
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        code = main([*map(str, arguments)])
    return Told(code, text.getvalue())


def measured(**changes):
    """A row as if measured."""
    row = run.row(ENVIRONMENT, case(), "eager", 4, [0.5, 0.25, 1.0], 0.125)
    return dataclasses.replace(row, **changes)


def made_wrong(provider, spoil):
    """`provider` with `spoil` done to its tensors after each run."""

    def prepare(case, memory):
        right = provider.prepare(case, memory)

        def wrong():
            right()
            spoil(memory)

        return wrong

    return dataclasses.replace(provider, prepare=prepare)


def flip_a_bit(memory):
    memory.tensors[0].view(-1).view(torch.int32)[-1] ^= 1
