"""What holds for every test: the programs that tests start are compiled once, not at each start."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    # Whoever sets it wants no __pycache__ in the checkout. But without any bytecode each of the hundreds of starts
    # compiles the whole program again, which took more than the tests themselves, so it is kept beside the packages.
    sys.pycache_prefix = os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path(sys.prefix) / "bytecode"))
    sys.dont_write_bytecode = False
