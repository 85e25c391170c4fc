"""The numbers of stream v1: polynomials and constants that the definition and the compiled loops compute with.

What each approximates, on what range and how well, is in docs/stream.md. Polynomials have their constant term first.
"""

from __future__ import annotations

import numpy as np


def _float32(*texts: str) -> tuple[np.float32, ...]:
    return tuple(np.float32(float.fromhex(text)) for text in texts)


LOG = _float32(
    *("-0x1.ffffcep-1", "0x1.0011e8p-2", "-0x1.519e66p-4", "0x1.2bc462p-5"),
    *("0x1.fb145cp-9", "0x1.0bdcf0p-5", "0x1.6db228p-6", "0x1.5e975cp-7"),
)
# 1 / sqrt(1 + e): docs/stream.md, section "Square root".
RSQRT = _float32("0x1.000000p+0", "-0x1.ffff90p-2", "0x1.7fffdap-2", "-0x1.4178b0p-2", "0x1.18e59cp-2")
COS = _float32("0x1.000000p+0", "-0x1.3bd39cp-2", "0x1.03b058p-6", "-0x1.4e78bep-12")
SIN = _float32("0x1.921fb6p-1", "-0x1.4abc0ap-4", "0x1.46767ap-9", "-0x1.314deep-15")
CENTRAL = _float32(
    *("0x1.40d930p+0", "0x1.4ffe62p-3", "0x1.0b77bap-8", "-0x1.aeea48p-12", "-0x1.95f488p-17"),
    *("0x1.27c9b2p-19", "0x1.a26504p-25", "-0x1.34b048p-26", "0x1.1703d4p-30", "-0x1.5aaebap-36"),
)
TAIL = _float32(
    *("0x1.002060p+0", "-0x1.920ca8p-5", "-0x1.1a8b1cp+1", "0x1.554a10p+3"),
    *("-0x1.05461cp+5", "0x1.2b3fc8p+6", "-0x1.9cfd6ep+6", "0x1.da17bep+5"),
)

MINUS_LN4_ULP = np.float32(float.fromhex("-0x1.62e430p-23"))  # of one octave, as it stands in the exponent bits
BELOW_TWO = np.float32(float.fromhex("0x1.fffffep+0"))
RSQRT_SEED = np.int32(0x5F375A86)
TAIL_FROM = np.float32(11.0)
