"""What holds for every test: programs that tests start are compiled once, and figures are shown at the end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    # Whoever sets it wants no __pycache__ in the checkout. But without any bytecode each of the hundreds of starts
    # compiles the whole program again, which took more than the tests themselves, so it is kept beside the packages.
    sys.pycache_prefix = os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path(sys.prefix) / "bytecode"))
    sys.dont_write_bytecode = False


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests measured and recorded as a `figure` is shown at the end, from whichever process they ran in."""
    passed = terminalreporter.stats.get("passed", [])
    figures = [text for report in passed for name, text in report.user_properties if name == "figure"]
    if figures:
        terminalreporter.section("figures")
        for figure in figures:
            terminalreporter.write_line(str(figure))
