"""Columns of what all ranks hold along a dimension say what `cut_runs` says rank by rank."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

pytest.importorskip("hypothesis")

from hypothesis import example, given
from hypothesis import strategies as st

from tritonparam.distributed.spans import spans_of
from tritonparam.tensor import Cut, cut_runs

CUTS = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4)), max_size=3)


@given(st.integers(0, 23), CUTS, st.integers(0, 23), st.integers(0, 23))
@example(2, [(2, 2)], 0, 2)  # pieces of one index each, which go on where the one before ends
@example(8, [(2, 2), (3, 1)], 1, 7)
def test_every_coordinate_has_what_cut_runs_gives_it(size: int, cuts: Any, low: int, extent: int) -> None:
    """Also in a part of the dimension, where runs that touch are one."""
    elements, runs = spans_of(size, cuts).met(low, low + extent)
    assert elements.shape == runs.shape == tuple(parts for parts, _ in cuts)
    for coordinate in itertools.product(*(range(parts) for parts, _ in cuts)):
        found = cut_runs((size,), [Cut(0, split) for _, split in cuts], [parts for parts, _ in cuts], coordinate)[0]
        met = [min(start + count, low + extent) - max(start, low) for start, count in found]
        assert elements[coordinate] == sum(each for each in met if each > 0)
        assert runs[coordinate] == sum(each > 0 for each in met)
