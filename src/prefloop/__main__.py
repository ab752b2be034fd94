"""`python -m prefloop` is `prefloop`."""

from __future__ import annotations

import sys

from prefloop.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
