"""Wrappers: tensors of classes of their own that hold deferred ones, made in a block and written to after it.

Inside a block their operators are recorded as what they do to the tensors within. After it that moves no version
counter of those, but the wrapper's own, which is why the tensors within watch that one too.
"""

from __future__ import annotations

import weakref

import torch

from tritonparam.module.tape import History
from tritonparam.module.traversal import tensors_within


class Wrappers:
    """The wrappers of one block, none of which is kept alive once it has what it wraps."""

    def __init__(self) -> None:
        self._blank: list[torch.Tensor] = []
        self._found: list[tuple[torch.Tensor, list[weakref.ref[History]]]] = []

    def note(self, wrapper: torch.Tensor) -> None:
        """Note one, in which nothing is yet; by now there is something in the one before."""
        if self._blank and not self._look_into(last := self._blank.pop()):
            self._blank.insert(0, last)
        self._blank.append(wrapper)

    def watch(self) -> None:
        """Have the deferred tensors within take a write to one of them, from now on, for one that was not seen."""
        while self._blank:
            self._look_into(self._blank.pop())
        for counter, histories in self._found:
            for reference in histories:
                if (history := reference()) is not None:
                    history.watched.append((counter, counter._version))
        self._found.clear()

    def _look_into(self, wrapper: torch.Tensor) -> bool:
        """Find out what there is within one; False where there is nothing."""
        with torch._C.DisableTorchFunction():
            within = list(tensors_within(wrapper))
            histories = {history for each in within if (history := History.of(each)) is not None}
            if histories and not wrapper.is_inference():  # which has no version counter
                with torch._C._DisableTorchDispatch():
                    counter = wrapper.detach()  # of the same counter, and of nothing else of the wrapper
                self._found.append((counter, [weakref.ref(history) for history in histories]))
        return bool(within)
