"""Deferred initialization: run a constructor now, allocate and draw later.

Inside `deferred_init()` every tensor that a constructor makes is on the meta device, where it takes no memory, and a
tape keeps what was done to it. `tritonparam.materialize` makes the tensors real.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator

import numpy as np
import torch

from tritonparam.module.recorder import Recorder
from tritonparam.module.surface import Surface
from tritonparam.module.tape import History
from tritonparam.module.trunc_normal import truncated_normals_noted
from tritonparam.stream import TruncatedNormal


@contextlib.contextmanager
def deferred_init() -> Iterator[None]:
    """Run any torch constructor without allocating or drawing what it makes.

    Tensors made inside are on the meta device and remember what was done to them; `materialize` makes them real. To the
    code inside they seem to be on the device they were made for. Where it asks for values (`item`, `tolist`, `if`),
    these are computed, from random numbers that are the same for every seed if need be. Operations on tensors that were
    made outside are done at once. A `torch.Generator` that is given to a random function is not drawn from.

    Holds for the current thread. May be nested and entered again: a model goes on being recorded, also when it is
    copied (copies made outside, and pickles, lose what they remember, and `materialize` names them). The random states
    of torch (host and CUDA), NumPy and Python are as before on the way out, whatever happened inside.

    Examples:
        >>> import torch
        >>> from tritonparam import materialize
        >>> with deferred_init():
        ...     model = torch.nn.Linear(4, 2)
        >>> model.weight.is_meta
        True
        >>> materialize(model, seed=7).weight.is_meta
        False
    """
    if _recorder() is not None:
        yield
        return
    recorder = Recorder()
    with _random_states_kept(), truncated_normals_noted(_noting_for), recorder, Surface(recorder):
        _local.recorder = recorder
        try:
            yield
        finally:
            _local.recorder = None


_local = threading.local()


def _recorder() -> Recorder | None:
    recorder: Recorder | None = getattr(_local, "recorder", None)
    return recorder


def recording_paused() -> contextlib.AbstractContextManager[None]:
    """A context in which torch works as usual, also inside `deferred_init`."""
    recorder = _recorder()
    return contextlib.nullcontext() if recorder is None else recorder.paused()


def _noting_for(tensor: torch.Tensor) -> Callable[[torch.Tensor, TruncatedNormal], None] | None:
    """What takes the law of a deferred tensor in a thread that records; None for all others."""
    recorder = _recorder()
    with torch._C.DisableTorchFunction():
        is_deferred = History.of(tensor) is not None
    return None if recorder is None or recorder.is_paused or not is_deferred else recorder.draw


@contextlib.contextmanager
def _random_states_kept() -> Iterator[None]:
    python, numpy, host = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.default_generator.set_state(host)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
