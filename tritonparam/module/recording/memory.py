"""What asks for the memory of deferred tensors: addresses, by which people tell tensors apart, and pickles."""

from __future__ import annotations

import contextlib
import copy
import functools
import sys
from typing import Any

import torch

from tritonparam.module.recording.patches import Patches
from tritonparam.module.recording.recorder import Recorder, recorder
from tritonparam.module.tape import History


def address(recorder: Recorder, tensor: torch.Tensor, history: History, caller: Any) -> int:
    """A number that only deferred tensors of the same memory have; where `caller` reads what is there, an address."""
    if caller.f_globals.get("__name__") == "safetensors.torch" and caller.f_code.co_name == "_to_ndarray":
        shared = recorder.shared(tensor)
        if shared is None:
            raise RuntimeError(
                f"a deferred tensor of shape {tuple(tensor.shape)}, some of whose memory has no values yet, cannot be "
                "saved inside deferred_init(): save it after materialize"
            )
        return int(shared.data_ptr())
    return history.address(tensor.untyped_storage().nbytes()) + int(tensor.storage_offset()) * tensor.element_size()


def _numbering(data_ptr: Any) -> Any:
    @functools.wraps(data_ptr)
    def numbered(self: torch.UntypedStorage) -> int:
        history = History.of_storage(self) if recorder() is not None else None
        number: int = data_ptr(self) if history is None else history.address(self.nbytes())
        return number

    return numbered


def _writing_down(reduce: Any) -> Any:
    @functools.wraps(reduce)
    def written_down(self: torch.Tensor, protocol: int) -> Any:
        block = recorder()
        is_copy = sys._getframe(1).f_globals.get("__name__") == copy.__name__  # which is to share the memory
        if block is None or block.is_paused or is_copy:
            return reduce(self, protocol)
        with torch._C.DisableTorchFunction():
            if History.of(self) is None:
                return reduce(self, protocol)
            shared = block.shared(self)
            real = block.values(self) if shared is None else shared
            with block.paused():
                real = torch.Tensor._make_subclass(type(self), real, self.requires_grad)
                real.__dict__.update(vars(self))
                return reduce(real, protocol)

    return written_down


_patches = Patches(
    (torch.UntypedStorage, "data_ptr", _numbering),
    (torch.Tensor, "__reduce_ex__", _writing_down),
    (torch.nn.Parameter, "__reduce_ex__", _writing_down),
)


def memory_answers() -> contextlib.AbstractContextManager[None]:
    """Let storages of deferred tensors be told apart by their addresses, and pickles hold values."""
    return _patches.applied()
