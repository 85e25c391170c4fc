"""`python -m tritonparam`: the command line."""

from __future__ import annotations

from tritonparam.cli import main

if __name__ == "__main__":
    main()
