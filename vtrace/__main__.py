"""``python -m vtrace``: the same as the ``vtrace`` command."""

from __future__ import annotations

import sys

from vtrace.cli import main

if __name__ == "__main__":
    sys.exit(main())
