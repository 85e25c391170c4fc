"""What a user gives is shown in short, and checked, whatever it does when it is looked at."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from tests.fuzz.values import VALUES
from tritonparam._arguments import choice, entries, integer, integers, shown
from tritonparam.initializer import initializer


@pytest.mark.parametrize("name", VALUES)
def test_every_value_is_shown_in_short(name: str) -> None:
    text = shown(VALUES[name]())
    assert 0 < len(text) <= 240


@pytest.mark.parametrize(
    ("value", "want"),
    [
        ([1, "a", None], "[1, 'a', None]"),
        ((1,), "(1,)"),
        ({"a": 1.5}, "{'a': 1.5}"),
        (10**400, "<int of 1329 bits>"),
        (-(10**5000), "-<int of 16610 bits>"),
        ([10**5000], "[<int of 16610 bits>]"),
        (b"x" * 10**6, "bytes of 1000000 bytes"),
        (np.zeros(100), "ndarray(shape=(100,), dtype=float64)"),
        (np.arange(3), "array([0, 1, 2])"),
        (torch.ones(2), "Tensor(shape=(2,), dtype=torch.float32, device=cpu)"),
        ([torch.ones(2)], "[Tensor(shape=(2,), dtype=torch.float32, device=cpu)]"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_value_is_shown_as_its_repr_where_that_is_short(value: object, want: str) -> None:
    assert shown(value) == want


def test_showing_a_list_looks_at_few_of_its_entries() -> None:
    class Counted:
        looked = 0

        def __repr__(self) -> str:
            Counted.looked += 1
            return "c"

    shown([Counted()] * 10**6)
    assert Counted.looked < 20


def test_a_repr_that_recurses_or_raises_is_no_error() -> None:
    class Endless:
        def __repr__(self) -> str:
            return f"{self!r}"

    limit = sys.getrecursionlimit()
    assert "Endless" in shown(Endless())
    assert sys.getrecursionlimit() == limit


def test_a_lazy_tensor_stays_lazy_where_ints_or_entries_are_wanted() -> None:
    lazy = initializer("normal", [2])
    for check in (lambda: integers("shape", lazy), lambda: entries("boxes", lazy, "boxes")):
        with pytest.raises(TypeError, match="must"):
            check()
    assert lazy.has_init


def test_ints_of_any_kind_are_ints() -> None:
    assert integers("sizes", torch.Size([2, 3])) == (2, 3)
    assert integers("sizes", np.array([2, 3])) == (2, 3)
    assert [type(each) for each in integers("sizes", (np.int64(2), 3))] == [int, int]
    assert integer("rank", np.uint8(3)) == 3
    for value in (True, 1.0, "1", None):
        with pytest.raises(TypeError, match=r"^rank must be an int, got"):
            integer("rank", value)


def test_a_choice_is_a_string() -> None:
    for value in (np.array(["a", "b"]), ["a"], None, "c"):
        with pytest.raises(ValueError, match=r"^mode must be one of \('a', 'b'\), got"):
            choice("mode", value, ("a", "b"))
