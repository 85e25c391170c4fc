"""Memory: cloning a group and copying slices take that of the result, and it is given back with the last clone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tritonparam
from tritonparam import Box, Parameter, ParameterTuple, copy_slices
from tritonparam.initializer import initializer

COUNT, ROWS = 12, 2**18  # 12 tensors of 4 MiB


class Allocations(TorchDispatchMode):
    """The bytes of each storage that torch's operators make, meta ones aside; what lies inside one is no new one."""

    def __init__(self):
        super().__init__()
        self.sizes, self._kept = [], []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = [x.untyped_storage() for x in args if isinstance(x, torch.Tensor) and not x.is_meta]
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not result.is_meta:
            storage = result.untyped_storage()
            inside = (k.data_ptr() <= storage.data_ptr() < k.data_ptr() + k.nbytes() for k in [*given, *self._kept])
            if storage.nbytes() and not any(inside):
                self._kept.append(storage)  # so that its address stays taken
                self.sizes.append(storage.nbytes())
        return result


def group(count=COUNT, dtype="float32"):
    return ParameterTuple(
        Parameter(initializer("ones", [ROWS // 256, 1024], dtype), f"w{index}").init_data() for index in range(count)
    )


def one_by_one(members, dtype):
    """A clone with temporaries: each a copy that is cast, or copied, once more."""
    wanted = members[0].dtype if dtype is None else tritonparam.dtype.as_dtype(dtype)
    return [member.torch.detach().clone().to(wanted.torch, copy=True) for member in members]


@pytest.mark.parametrize(("init", "dtype"), [("same", None), ("zeros", None), ("same", "bfloat16"), (2, "float64")])
def test_clone_of_a_group_asks_torch_for_the_result_and_no_more(init, dtype):
    members = group()
    with Allocations() as seen:
        clones = members.clone("m", init, dtype)
    nbytes = sum(clone.nbytes for clone in clones)
    big = [size for size in seen.sizes if size > 2**16]
    assert len(big) == 1
    assert nbytes <= big[0] <= nbytes + 256 * (COUNT + 1)
    with Allocations() as mutant:
        one_by_one(members, dtype)
    assert sum(size > 2**16 for size in mutant.sizes) == 2 * COUNT


def test_copy_slices_stages_only_what_meets_what_is_written():
    """Nothing where no box is read that is written; of three rows moved down by one, those, and not the others."""
    x = torch.arange(64.0 * 2**12).reshape(64, 2**12)
    want = x.clone()
    want[32:] = x[:32]
    rows = [(Box((32 + r, 0), (1, 2**12)), Box((r, 0), (1, 2**12))) for r in range(32)]
    for boxes in (rows, [(Box((32, 0), (32, 2**12)), Box((0, 0), (32, 2**12)))]):
        with Allocations() as seen:
            copy_slices(x, x, boxes)
        assert seen.sizes == []
        assert torch.equal(x, want)
    want[1:4] = x[:3]
    want[9:17] = x[50:58]
    moved = (Box((1, 0), (3, 2**12)), Box((0, 0), (3, 2**12)))
    with Allocations() as seen:
        copy_slices(x, x, [moved, (Box((9, 0), (8, 2**12)), Box((50, 0), (8, 2**12)))])
    assert seen.sizes == [3 * 2**12 * 4]
    assert torch.equal(x, want)


# Prints how much more memory, resident at the highest, `work` took, and by how much it has grown once it is done, in
# units of the result, which is 96 MiB. A thread looks every half millisecond; torch lets go of the interpreter's lock.
SCRIPT = """
import gc, sys, threading
import torch
from tritonparam import Parameter, ParameterTuple
from tritonparam.initializer import initializer

torch.set_num_threads(1)

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))

def measured(work):
    gc.collect()
    before, highest, done = anonymous(), [0], threading.Event()
    def look():
        while not done.wait(0.0005):
            highest[0] = max(highest[0], anonymous())
    thread = threading.Thread(target=look)
    thread.start()
    result = work()
    done.set()
    thread.join()
    highest = max(highest[0], anonymous()) - before
    return result, highest / RESULT

COUNT, RESULT = 6, 6 * 2**24
members = ParameterTuple(Parameter(initializer("ones", [2**22]), f"w{i}").init_data() for i in range(COUNT))
members[:1][0].clone()
"""

CLONE = """
clones, highest = measured(lambda: members.clone("m", INIT))
print(round(highest, 2))
start = anonymous()
kept = clones[3].torch.detach()
del clones
gc.collect()
print(round((start - anonymous()) / RESULT, 2))
del kept
gc.collect()
print(round((start - anonymous()) / RESULT, 2))
"""

MUTANT = """
def mutant():
    temporaries = [member.torch.detach().clone() for member in members]
    return [temporary.clone() for temporary in temporaries]
print(measured(mutant)[1])
"""


def numbers(script):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + script],
        env=os.environ | {"PYTHONPATH": str(Path(tritonparam.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [float(line) for line in done.stdout.split()]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("init", ['"same"', '"zeros"'])
def test_peak_of_a_clone_is_the_result_which_goes_with_the_last_clone(init):
    """The buffer lives while one clone does, and is given back then; a tenth of it is allowed for all else."""
    peak, with_one_left, with_none = numbers(CLONE.replace("INIT", init))
    assert 0.95 <= peak < 1.1
    assert abs(with_one_left) < 0.1
    assert with_none > 0.9


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_peak_can_be_seen_to_be_too_high():
    assert numbers(MUTANT)[0] > 1.5
