"""Large host memory is asked for in huge pages; the system keeps a mark of that, which is read here."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch

from tritonparam import Parameter, ParameterTuple
from tritonparam.dtype import float32
from tritonparam.plan.huge_pages import _LARGE, ask_for_huge_pages
from tritonparam.tensor.storage import empty

SMAPS = Path("/proc/self/smaps")


def is_marked(tensor: torch.Tensor) -> bool:
    """Whether the middle of a tensor's memory has the flag `hg`."""
    middle = tensor.data_ptr() + tensor.nbytes // 2
    inside = False
    for line in SMAPS.read_text().splitlines():
        head = line.split(" ", 1)[0]
        if "-" in head and ":" not in head:
            first, last = (int(each, 16) for each in head.split("-"))
            inside = first <= middle < last
        elif inside and head == "VmFlags:":
            return " hg" in line
    raise AssertionError("the memory is not mapped")


def has_huge_pages() -> bool:
    """Whether this system has them and says where."""
    return Path("/sys/kernel/mm/transparent_hugepage").exists() and SMAPS.exists() and "\nVmFlags:" in SMAPS.read_text()


pytestmark = pytest.mark.skipif(not has_huge_pages(), reason="needs Linux's huge pages")


def fresh_memory(nbytes: int) -> torch.Tensor:
    """Pages that no allocator had before: what it gives a second time may have been marked the first time."""
    return torch.frombuffer(mmap.mmap(-1, nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype=torch.float32)


def test_large_memory_is_marked_and_other_memory_is_not() -> None:
    assert is_marked(empty((1 << 24,), float32, "cpu"))
    block = fresh_memory(4 * _LARGE)
    assert not is_marked(block)
    ask_for_huge_pages(block[: _LARGE // 4 - 1])
    assert not is_marked(block[: _LARGE // 4 - 1])
    ask_for_huge_pages(block[: _LARGE // 4])
    assert is_marked(block[: _LARGE // 4])


def test_a_clone_buffer_is_marked() -> None:
    group = ParameterTuple(Parameter(torch.arange(1 << 21, dtype=torch.float32) + n, name=f"w{n}") for n in range(3))
    for clone, each in zip(group.clone("copy"), group, strict=True):
        assert is_marked(clone.torch)
        assert torch.equal(clone.torch, each.torch)


def test_what_has_no_memory_is_left_alone() -> None:
    for tensor in (torch.empty(1 << 30, device="meta"), torch.empty(0)):
        assert ask_for_huge_pages(tensor) is tensor
