"""The definition as compiled loops for a host's CPU: the same bits as `reference`, tens of times faster.

A batch of blocks goes through three loops, each short enough for a compiler to vectorize: words (`philox`), values of a
law (`transforms`), bits of a dtype (`rounding`). `boxes` runs them over the boxes of a table. Numba compiles them, once
for a machine; later processes load what it made and need no Numba. A loop is called by its address, so there is one for
each law and one for each dtype, and none for each pair.
"""

from __future__ import annotations

from tritonparam.stream.loops.library import LOOPS, CompilerError, address_of
from tritonparam.stream.loops.table import BoxTable, Dim, Maker, SumTable, constant_maker, maker_of

__all__ = ["LOOPS", "BoxTable", "CompilerError", "Dim", "Maker", "SumTable", "address_of", "constant_maker", "maker_of"]
