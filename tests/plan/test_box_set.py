"""A set of boxes has the elements that were added and not taken, however many boxes there are."""

from __future__ import annotations

import itertools

import pytest
import torch

from tritonparam.plan import Box, BoxSet


def elements(box: Box) -> set[tuple[int, ...]]:
    return set(itertools.product(*(range(o, o + n) for o, n in zip(box.offsets, box.sizes, strict=True))))


def drawn(shape: tuple[int, ...], generator: torch.Generator) -> Box:
    ends = [sorted(torch.randint(0, size + 1, (2,), generator=generator).tolist()) for size in shape]
    return Box(tuple(low for low, _ in ends), tuple(high - low for low, high in ends))


@pytest.mark.parametrize("shape", [(7,), (60, 3), (5, 6, 4)])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_taken_is_what_was_there(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    boxes, want = BoxSet([Box.whole(shape)]), elements(Box.whole(shape))
    for n in range(200):
        box = drawn(shape, generator)
        assert boxes.meets(box) == bool(want & elements(box))
        taken = [each for part in boxes.take(box) for each in elements(part)]
        assert len(taken) == len(set(taken))
        assert set(taken) == want & elements(box)
        want -= elements(box)
        if n % 3 == 0 and not boxes.meets(box):
            boxes.add(box)
            want |= elements(box)
        assert {each for part in boxes for each in elements(part)} == want
        assert bool(boxes) or not want


def test_many_boxes_are_found_and_forgotten():
    boxes = BoxSet()
    for row in range(300):
        boxes.add(Box((row, 0), (1, 4)))
    assert [row for row in range(0, 300, 7) if boxes.take(Box((row, 1), (1, 1))) != [Box((row, 1), (1, 1))]] == []
    assert not boxes.meets(Box((0, 1), (1, 1)))
    assert boxes.take(Box((0, 0), (300, 4)))
    assert not boxes


def test_a_tensor_without_dimensions_is_one_element():
    boxes = BoxSet([Box((), ())])
    assert boxes.meets(Box((), ()))
    assert boxes.take(Box((), ())) == [Box((), ())]
    assert not boxes.take(Box((), ()))
