"""What deferred tensors become: memory, and what is written to it; and the boxes of what stands in their place.

Processes that are to make the same can agree on it before.
"""

from __future__ import annotations

from tritonparam.module.making.agreement import Facts, agreed, fact, facts_of
from tritonparam.module.making.allocation import (
    Allocated,
    Views,
    allocate,
    allocated_for,
    deferred_storages,
    is_shown_beside,
    largest_first,
    write,
)
from tritonparam.module.making.placing import Placed, held_of, offloaded, placed_for, write_placed

__all__ = [
    "Allocated",
    "Facts",
    "Placed",
    "Views",
    "agreed",
    "allocate",
    "allocated_for",
    "deferred_storages",
    "fact",
    "facts_of",
    "held_of",
    "is_shown_beside",
    "largest_first",
    "offloaded",
    "placed_for",
    "write",
    "write_placed",
]
