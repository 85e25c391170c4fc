"""Under TRITON_INTERPRET=1 a user's backend "triton" gives the bits of "numpy"; nothing of the tests helps it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
pytestmark = pytest.mark.kernels

ROOT = Path(__file__).parents[3]
USE = """
import itertools, sys, warnings
import torch
import tritonparam
from tritonparam import Constant, Copy, Fill, Normal, Plan, TruncatedNormal, Uniform

assert "triton" not in sys.modules
warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's of infinities; a GPU says nothing
WIDTHS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
FLOATS = [getattr(torch, name) for name in
          ("bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "float8_e5m2")]
# Every bfloat16, what lies halfway to the next, and a little more and less than that.
bits = (torch.arange(2**16, dtype=torch.int64) << 16)[:, None] + torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
bits = bits.reshape(-1)
floats = torch.where(bits >= 2**31, bits - 2**32, bits).to(torch.int32).view(torch.float32)
every = floats[::6].clone()
count = 0


def compare(what, got, want):
    global count
    nan = torch.isnan(got.float()) & torch.isnan(want.float())
    differ = (got.view(WIDTHS[got.element_size()]) != want.view(WIDTHS[want.element_size()])) & ~nan
    assert not differ.any(), (what, int(differ.sum()), got[differ][:4], want[differ][:4])
    count += 1


laws = [Uniform(low=-0.07, high=0.07), Normal(mean=0.5, std=0.02), TruncatedNormal(), Normal(std=1e-39),
        Normal(std=5e37), Constant(1.00390625), Constant(3.4e38), Constant(float("nan"))]
for law, dtype, step in itertools.product(laws, FLOATS, (1, 2)):
    got, want = (torch.zeros(1000 * step, dtype=dtype)[::step] for _ in range(2))
    Plan([Fill(got, law, 7)], backend="triton").run()
    Plan([Fill(want, law, 7)], backend="numpy").run()
    compare((law, dtype, step), got.contiguous(), want.contiguous())
for source, dtype in itertools.permutations(FLOATS, 2):
    if torch.bfloat16 not in (source, dtype):
        continue
    values = (every if source == torch.bfloat16 else floats).to(source)
    got, want = (torch.zeros(values.shape, dtype=dtype) for _ in range(2))
    Plan([Copy(got, values)], backend="triton").run()
    Plan([Copy(want, values)], backend="numpy").run()
    compare((source, dtype), got, want)
print(count)
"""


def test_bfloat16_is_rounded_to_nearest_even_in_a_users_process() -> None:
    """Fills of every law and dtype, contiguous and strided, and casts from and to bfloat16, halfway cases and NaN."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", USE], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) == 8 * 6 * 2 + 10
