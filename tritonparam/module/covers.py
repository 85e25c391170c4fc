"""Covers: by which writes of the tape the elements of a view are what they are, and whether each has a law."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from tritonparam.module.source import Elements
from tritonparam.module.tape import Content, Drawn, Node, Piece, Version, slice_of
from tritonparam.plan import Box, BoxSet, Placement, View, apart, placement


@dataclass(frozen=True, slots=True)
class Cover:
    """What one write left in a view.

    Attributes:
        version: The write; None for what was never written.
        boxes: The boxes of the view that have its values; None where they are no boxes, and nothing is known of what
            was written before.
        inner: Where the written elements lie in the view; None where they are no box of it.
        outer: Where the view lies in them, if it is a box of them and they are none of it.
    """

    version: Version | None
    boxes: tuple[Box, ...] | None
    inner: Placement | None = None
    outer: Placement | None = None


def covers(head: Version | None, view: View) -> Iterator[Cover]:
    """What the elements of `view` hold, by the writes that they come from, the last one first."""
    remaining = BoxSet([Box.whole(view.shape)] if view.numel else [])
    version = head
    while version is not None and remaining:
        if version.view.numel and not apart(version.view, view):
            inner = placement(version.view, view)
            outer = placement(view, version.view) if inner is None else None
            if inner is None and outer is None and not _same_elements(version.view, view):
                yield Cover(version, None)
                return
            area = Box.whole(view.shape) if inner is None else inner.box
            boxes = remaining.take(area)
            if boxes:
                yield Cover(version, tuple(boxes), inner, outer)
        version = version.previous
    if remaining:
        yield Cover(None, tuple(remaining))


def recognize(head: Version | None, view: View) -> list[Piece] | None:
    """The disjoint boxes with laws that `view` consists of; None where some of it has no law or was never written."""
    if head is not None and (head.view is view or head.view == view):
        written = _just_written(head.content, view)
        if written is not None:
            return [written]
    pieces: list[Piece] = []
    for cover in covers(head, view):
        for box in cover.boxes or (None,):
            drawn = None if box is None else _drawn_in(cover, box, view)
            if box is None or drawn is None:
                return None
            pieces.append(Piece(box, drawn))
    return sorted(pieces, key=lambda piece: piece.box.offsets)


def _just_written(content: Content, view: View) -> Piece | None:
    """What `covers` and `_drawn_in` find where the last write was to `view` itself; None where they are to be asked."""
    if not isinstance(content, Drawn) or not view.numel or not view.row_major():
        return None
    box = _whole(view.shape)
    if content.draw is None:
        return Piece(box, content)
    if content.reshaped or content.draw.pinned is not None:
        return None
    if 1 in view.shape:
        spot = Placement(box, tuple(d if size > 1 else None for d, size in enumerate(view.shape)))
        content = Drawn(content.law, content.draw, content.elements.inside(spot, box))
    return Piece(box, content)


@functools.lru_cache(maxsize=1024)
def _whole(shape: tuple[int, ...]) -> Box:
    return Box.whole(shape)


def _drawn_in(cover: Cover, box: Box, view: View) -> Drawn | None:
    """The values with a law that a box of `view` has from `cover`; None where they have none."""
    content = None if cover.version is None else cover.version.content
    if cover.version is None or not isinstance(content, Drawn):
        return None
    if content.draw is None:
        return content
    if content.draw.pinned is not None:
        return None
    if not content.reshaped and cover.inner is not None:
        return Drawn(content.law, content.draw, content.elements.inside(cover.inner, box))
    if not content.reshaped and cover.outer is not None:
        return Drawn(content.law, content.draw, content.elements.part(cover.outer, box))
    written = cover.version.view
    if box == Box.whole(view.shape) and _same_elements(written, view) and _all_of(content, written):
        return Drawn(content.law, content.draw, Elements.all_of(content.draw.shape), reshaped=True)
    return None


def _same_elements(a: View, b: View) -> bool:
    def ends(view: View) -> tuple[object, ...]:
        return view.offset, view.numel, view.dtype, view.conjugate, view.negative

    return ends(a) == ends(b) and a.row_major() and b.row_major()


def _all_of(drawn: Drawn, view: View) -> bool:
    """Whether `view` holds all of its draw, in the draw's own order."""
    if drawn.draw is None or drawn.reshaped:
        return True
    dims = [d for d in drawn.elements.dims if d is not None]
    return view.numel == math.prod(drawn.draw.shape) and dims == sorted(dims)


def is_covered(head: Version | None, view: View) -> bool | None:
    """Whether every element of `view` was written to; None where the views do not tell."""
    for cover in covers(head, view):
        if cover.version is None:
            return False
        content = cover.version.content
        if cover.boxes is None or (isinstance(content, Node) and content.may_leave_unwritten):
            return None
    return True


def is_written(head: Version | None, view: View) -> bool | None:
    """Whether what `view` holds comes from what was written; None where the tape does not tell."""
    covered = is_covered(head, view)
    if head is None or not covered:
        return covered
    reads_unwritten = any(isinstance(step, Node) and step.reads_unwritten for step in slice_of([head])[1])
    return None if reads_unwritten else True
