"""The plan of one rank: its boxes, and the operations that `materialize` has for them, laid out and not run."""

from __future__ import annotations

import math
import mmap
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from tritonparam.distributed.layouts import Layout
from tritonparam.distributed.mesh_shape import MeshShape
from tritonparam.plan import Fill, Launches, launches_of
from tritonparam.tensor import Held, held

GOES = 3  # of which the quickest counts: what else runs on the host only takes time away


@dataclass(frozen=True)
class RankTensor:
    """What a rank holds of one tensor.

    Attributes:
        layout: The tensor.
        local_shape: The shape of the local tensor; with a 0 where it holds nothing.
        held: Which boxes of the whole lie where in it, in its order.

    Examples:
        >>> from tritonparam import deferred_init
        >>> from tritonparam.distributed import plan_mesh
        >>> with deferred_init():
        ...     weight, bias = plan_mesh(torch.nn.Linear(4, 3), "dp_shard=2").tensors_of(1)
        >>> weight.local_shape, weight.nbytes, weight.held[0].box
        ((1, 4), 16, Box(offsets=(2, 0), sizes=(1, 4)))
    """

    layout: Layout
    local_shape: tuple[int, ...]
    held: tuple[Held, ...]

    @property
    def is_whole(self) -> bool:
        """Whether that is all of it."""
        return self.local_shape == self.layout.declaration.shape

    @property
    def nbytes(self) -> int:
        """The bytes that it holds."""
        return math.prod(self.local_shape) * self.layout.dtype.itemsize


@dataclass(frozen=True)
class RankBuild:
    """What it took to build the plan of a rank.

    Attributes:
        rank: Which.
        seconds: The least of a few goes, of boxes and fills of all tensors, and the table of the kernels.
        fills: How many fills there are.
        launches: What the table takes on a CUDA device; None where Triton is not installed, and no table is built.

    Examples:
        >>> RankBuild(3, 0.02, 291, None).fills
        291
    """

    rank: int
    seconds: float
    fills: int
    launches: Launches | None


def rank_tensors(layouts: Iterable[Layout], mesh: MeshShape, rank: int) -> list[RankTensor]:
    """What a rank holds of each tensor of its stage, in order.

    Raises:
        TypeError, ValueError: There is no such rank.
    """
    at = mesh.coordinate(rank)
    known: dict[object, tuple[tuple[int, ...], tuple[Held, ...]]] = {}
    found = []
    for layout in layouts:
        if at["pp"] not in layout.stages:
            continue
        key = layout.declaration.shape, layout.cuts
        if key not in known:
            runs = layout.runs(mesh, at)
            shape = tuple(sum(size for _, size in each) for each in runs)
            if layout.is_sharded and 0 in shape:
                shape = (0, *shape[1:])  # as fully_shard has it where nothing is left
            known[key] = shape, tuple(held(runs))
        found.append(RankTensor(layout, *known[key]))
    return found


def rank_fills(tensors: Sequence[RankTensor], seed: int = 0) -> list[Fill]:
    """The fills that write a rank's boxes, into memory that nothing may be written to: they are to be looked at.

    Tensors that are made whole first are not among them, unless the rank holds all of them.
    """
    written = [
        each
        for each in tensors
        if each.held
        and each.layout.declaration.laws is not None
        and not each.layout.is_given
        and (each.is_whole or not each.layout.is_made_whole)
    ]
    memory = _address_space(max((each.nbytes for each in written), default=0))
    fills = []
    for each in written:
        out = memory[: each.nbytes].view(each.layout.dtype).view(each.local_shape)
        for box, place in each.held:
            declaration = each.layout.declaration
            fills += declaration.fills(place.of(out), seed, None if each.is_whole else box)
    return fills


def build_rank(layouts: Sequence[Layout], mesh: MeshShape, rank: int) -> RankBuild:
    """Build the plan of a rank some times over, and time that.

    Raises:
        TypeError, ValueError: There is no such rank, or it holds a tensor that no process can address.
    """
    mesh.coordinate(rank)
    try:
        launches_of([])  # what it imports is not the plan's time
        has_table = True
    except ImportError:
        has_table = False
    goes = []
    for _ in range(GOES):
        begin = time.perf_counter()
        fills = rank_fills(rank_tensors(layouts, mesh, rank))
        launches = launches_of(fills) if has_table else None
        goes.append(RankBuild(rank, time.perf_counter() - begin, len(fills), launches))
    return min(goes, key=lambda each: each.seconds)


def _address_space(nbytes: int) -> torch.Tensor:
    """uint8 of shape [nbytes] at addresses behind which there is no memory, and which nothing can write to.

    Raises:
        ValueError: There are not so many.
    """
    if not nbytes:
        return torch.empty(0, dtype=torch.uint8)
    try:
        if hasattr(mmap, "PROT_READ"):
            space = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
        else:
            space = mmap.mmap(-1, nbytes, access=mmap.ACCESS_READ)
    except (OSError, OverflowError):
        raise ValueError(
            f"a rank must hold no tensor of more than this process can address, got {nbytes:,} bytes"
        ) from None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(space, dtype=torch.uint8)
