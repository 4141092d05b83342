"""One booted container for all tests of a process."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from booted_system import BootedSystem, BootError, unfit
from installed_lab import Lab


def _impossible(reason: str) -> None:
    """Where CI cannot boot it something is missing that CI was to have; elsewhere it is a matter of the machine."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The container with both programs installed as units."""
    if (reason := unfit()) is not None:
        _impossible(reason)
    try:
        booted = BootedSystem(tmp_path_factory.mktemp("lab"))
    except BootError as error:
        _impossible(f"no container can be booted here: {error}")
    try:
        yield Lab(booted)
    finally:
        booted.close()


@pytest.fixture
def lab(installed: Lab) -> Lab:
    """The same, with nothing left over from the test before but a proxy that serves, or none."""
    installed.settle()
    return installed


@pytest.fixture
def serving(lab: Lab) -> Lab:
    """The same, with the proxy serving."""
    lab.serve()
    return lab
