"""Looks: random values that a constructor asks for, which have a source of their own from then on."""

from __future__ import annotations

from collections import Counter

from tritonparam._arguments import warn
from tritonparam.module.recording.notes import where
from tritonparam.module.source import Elements, Source
from tritonparam.module.tape import Node, Version, drawn_before

_NAME = "tritonparam.deferred_init"


class Looks:
    """The looks of one block."""

    def __init__(self) -> None:
        self._before: Counter[str] = Counter()
        self._is_told = False

    def pin(self, head: Version) -> None:
        """Let everything that is drawn on the way to `head` have a source that does not depend on the seed."""
        for drawn, law in drawn_before(head):
            what, shape = (drawn.func._schema.name, ()) if isinstance(drawn, Node) else (repr(law), drawn.shape)
            drawn.pinned = self._source(what, shape)

    def _source(self, what: str, shape: tuple[int, ...]) -> Source:
        """A source that depends on what is drawn, and on how many like it this block has looked at before."""
        name = f"{_NAME} {what} {shape}"
        occurrence = self._before[name]
        self._before[name] += 1
        if not self._is_told:
            self._is_told = True
            warn(
                f"the constructor looks at random values that it drew{where()}: these are the same for every seed, "
                "and in every model whose constructor looks at values like them"
            )
        return Source(name, occurrence, shape, Elements.all_of(shape), seed=0)
