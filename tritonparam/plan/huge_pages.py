"""Huge pages for large host memory: the system hands out 2 MiB at a time where it would hand out 4 KiB."""

from __future__ import annotations

import ctypes
import mmap

import torch

_LARGE = 1 << 22  # bytes; below, an allocator is likely to have the memory already
_ADVICE = getattr(mmap, "MADV_HUGEPAGE", None)


def ask_for_huge_pages(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor`, whose memory nobody has touched yet, to be written faster the first time; no value changes.

    Where the system has no such pages or does not lend them, nothing happens.
    """
    if _ADVICE is not None and tensor.is_cpu and tensor.nbytes >= _LARGE and tensor.data_ptr():
        first = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        length = tensor.data_ptr() + tensor.nbytes - first
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), ctypes.c_int(_ADVICE))
    return tensor
