"""Box: what it may be made of, and what its methods refuse."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from tritonparam import Box, Tensor


def test_any_iterables_of_ints_make_a_box() -> None:
    want = Box((1, 0), (2, 3))
    for offsets, sizes in (
        ([1, 0], torch.Size([2, 3])),
        (np.array([1, 0]), range(2, 4)),
        (iter((1, 0)), (np.int8(2), 3)),
    ):
        box = Box(offsets, sizes)  # type: ignore[arg-type]
        assert (box, hash(box)) == (want, hash(want))


@pytest.mark.parametrize("wrong", [None, 3, "ab", (1.0, 2), [None, 1], torch.ones(2), Tensor([1.0, 2.0])])
@pytest.mark.parametrize("argument", ["offsets", "sizes"])
def test_anything_but_ints_is_refused(argument: str, wrong: object) -> None:
    arguments = {"offsets": (0, 0), "sizes": (1, 1)} | {argument: wrong}
    with pytest.raises(TypeError, match=f"^{argument} must hold ints, got "):
        Box(**arguments)  # type: ignore[arg-type]


def test_offsets_and_sizes_are_of_one_length() -> None:
    with pytest.raises(ValueError, match=r"offsets and sizes must be of one length, got \(0,\) and \(1, 1\)"):
        Box((0,), (1, 1))


@pytest.mark.parametrize(
    ("tensor", "error", "message"),
    [
        (None, TypeError, "tensor must be a torch.Tensor, got NoneType"),
        (np.ones((2, 3)), TypeError, "tensor must be a torch.Tensor, got ndarray"),
        (Tensor([[1.0]]), TypeError, "tensor must be a torch.Tensor, got Tensor; its .torch is one"),
        (torch.ones(3), ValueError, "the box must lie in tensor, of shape (3,), got Box"),
        (torch.tensor(1.0), ValueError, "the box must lie in tensor, of shape (), got Box"),
        (torch.ones(1, 3), ValueError, "the box must lie in tensor, of shape (1, 3), got Box"),
        (torch.eye(3).to_sparse(), ValueError, "tensor must be a strided tensor, got one of layout torch.sparse_coo"),
        (torch.nn.parameter.UninitializedParameter(), ValueError, "tensor must have a shape, got a Uninit"),
    ],
)
def test_only_a_tensor_that_holds_the_box_is_cut(tensor: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="^" + re.escape(message)):
        Box((0, 0), (2, 2)).of(tensor)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_a_nested_tensor_is_refused(layout: torch.layout) -> None:
    nested = torch.nested.nested_tensor([torch.ones(1), torch.ones(2)], layout=layout)
    with pytest.raises(ValueError, match="tensor must be a strided tensor, got a nested tensor"):
        Box((0,), (1,)).of(nested)


@pytest.mark.parametrize(("method", "argument"), [("meet", "other"), ("minus", "inner"), ("within", "outer")])
def test_two_boxes_have_the_same_number_of_dimensions(method: str, argument: str) -> None:
    box = Box((0, 0), (2, 2))
    with pytest.raises(TypeError, match=f"^{argument} must be a Box, got None of type NoneType"):
        getattr(box, method)(None)
    with pytest.raises(ValueError, match=f"^{argument} must have the 2 dimensions of the box, got Box"):
        getattr(box, method)(Box((0,), (1,)))


def test_only_dimensions_of_the_box_are_mirrored() -> None:
    box = Box((1, 0), (2, 3))
    for shape, dims, message in (((5,), (0,), "^shape must have the 2"), ((5, 4), (2,), "^dims must be dimensions")):
        with pytest.raises(ValueError, match=message):
            box.mirrored(shape, dims)
