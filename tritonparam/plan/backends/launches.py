"""What a CUDA device would be asked to do for some fills, found out on any host."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from tritonparam.plan.backends.missing import require

if TYPE_CHECKING:
    from tritonparam.plan.fill import Fill


class Launches(NamedTuple):
    """What a plan of fills takes on a CUDA device.

    Attributes:
        launches: Of kernels.
        rows: Of the table that they read.
        programs: Of all launches together.
        table_nbytes: The size of the table, which is sent to the device.
    """

    launches: int
    rows: int
    programs: int
    table_nbytes: int


def launches_of(fills: Sequence[Fill]) -> Launches:
    """Lay out fills, on whatever device their memory is, as the Triton backend does, and launch nothing.

    Raises:
        ImportError: Triton is not installed.

    Examples:
        >>> import torch
        >>> from tritonparam import Constant, Fill
        >>> launches_of([Fill(torch.empty(3), Constant(0)), Fill(torch.empty(20_000), Constant(1))])
        Launches(launches=1, rows=2, programs=3, table_nbytes=248)
    """
    require("the table of the kernels needs", "triton")
    table = importlib.import_module("tritonparam.plan.backends.fill_table").build_fill_table(fills)
    return Launches(int(table.programs > 0), table.rows, table.programs, table.words.nbytes)
