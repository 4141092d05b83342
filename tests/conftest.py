"""What holds for every test: programs that tests start are compiled once, and figures are shown at the end."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from running_order import shared_out

if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    # Whoever sets it wants no __pycache__ in the checkout. But without any bytecode each of the hundreds of starts
    # compiles the whole program again, which took more than the tests themselves, so it is kept beside the packages.
    sys.pycache_prefix = os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path(sys.prefix) / "bytecode"))
    sys.dont_write_bytecode = False


TESTS = Path(__file__).parent
MAY_LACK = ("this machine", "this kernel", "no version 1 memory controller")
"""Beginnings of reasons that no package could mend."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI nothing that could be installed may be missing: there a skip is a failure, whoever skipped."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(MAY_LACK):
            report.outcome, report.longrepr = "failed", f"{item.nodeid} was skipped in CI: {reason}"
    return report


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes share the tests, none is to be left alone with a long one at the end."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if processes > 1:
        items[:] = shared_out([(item.path.relative_to(TESTS).as_posix(), item) for item in items], processes)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests measured and recorded as a `figure` is shown at the end, from whichever process they ran in."""
    passed = terminalreporter.stats.get("passed", [])
    figures = [text for report in passed for name, text in report.user_properties if name == "figure"]
    if figures:
        terminalreporter.section("figures")
        for figure in figures:
            terminalreporter.write_line(str(figure))
