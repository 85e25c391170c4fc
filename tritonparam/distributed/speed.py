"""How long writing values takes on a GPU, as a prediction: measured fractions of a memory bandwidth.

The figures are the bench's of an H100 80GB HBM3 (bench/results, one tensor of 1 GiB, eager). The kernels of random laws
are bound by their instructions in 16 bits, so what they take for an element is taken for that of 8 bits too.
"""

from __future__ import annotations

import torch

BANDWIDTH = 3240.0  # GB/s: its memset; its data sheet says 3,350
_FRACTIONS = {
    ("constant", torch.float32): 0.984,
    ("constant", torch.bfloat16): 0.990,
    ("uniform", torch.float32): 0.973,
    ("uniform", torch.bfloat16): 0.761,
    ("normal", torch.float32): 0.872,
    ("normal", torch.bfloat16): 0.432,
    ("truncated_normal", torch.float32): 0.587,
    ("truncated_normal", torch.bfloat16): 0.292,
}


def fraction_of_bandwidth(kind: str, dtype: torch.dtype) -> float:
    """How much of the memory bandwidth a fill reaches, from rows of the bench.

    Args:
        kind: Of the law: "constant", "uniform", "normal" or "truncated_normal".
        dtype: Wide ones count as float32 and narrow ones as bfloat16; random values of 8 bits as half as fast.

    Examples:
        >>> fraction_of_bandwidth("normal", torch.float16), fraction_of_bandwidth("normal", torch.float8_e5m2)
        (0.432, 0.216)
    """
    row = torch.float32 if dtype.itemsize >= torch.float32.itemsize else torch.bfloat16
    fraction = _FRACTIONS[kind, row]
    return fraction / 2 if dtype.itemsize == 1 and kind != "constant" else fraction
