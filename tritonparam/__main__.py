"""`python -m tritonparam`: the command line."""

from __future__ import annotations

import os
import sys

from tritonparam._interrupt import quiet_interrupt

with quiet_interrupt():
    from tritonparam.cli import main

if __name__ == "__main__":
    # `python -m` looks for modules in the working directory first: a file there must not stand in for a package.
    if not getattr(sys.flags, "safe_path", False) and sys.path and sys.path[0] in ("", os.getcwd()):
        del sys.path[0]
    main()
