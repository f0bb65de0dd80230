"""`python -m rlm` is `rlm`."""

from __future__ import annotations

import sys

from rlm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
