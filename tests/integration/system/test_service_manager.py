"""What systemd hears of the agent, over a real datagram socket."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from watchdog.signs import Signs
from watchdog.system.service_manager import ServiceManager


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket that systemd would listen on, at `notify`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        yield listening


def test_a_status_in_any_language_arrives_with_the_sign_of_life(heard: socket.socket, tmp_path: Path) -> None:
    """An alert's own words must not keep WATCHDOG=1 from systemd, which would end the agent for its silence."""
    manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000000"})
    manager.tell("WATCHDOG=1", "1 firing: диск полон → 98 %…\nREADY=1")
    manager.close()
    assert heard.recv(1024).decode() == "WATCHDOG=1\nSTATUS=1 firing: диск полон → 98 %… READY=1"
    assert manager.watchdog_seconds == 60


def test_an_abstract_address_is_understood() -> None:
    """`@` at the begin of NOTIFY_SOCKET stands for the zero byte of an abstract address."""
    name = f"proxywatch-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.settimeout(5)
        manager = ServiceManager({"NOTIFY_SOCKET": f"@{name}"})
        manager.tell("STOPPING=1")
        manager.close()
        assert listening.recv(64) == b"STOPPING=1"


def test_another_processs_watchdog_is_not_fed() -> None:
    """WATCHDOG_PID of another process means that nobody waits for signs of life from this one."""
    manager = ServiceManager({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"})
    manager.tell("WATCHDOG=1")
    assert manager.watchdog_seconds == 0


def test_a_manager_that_has_gone_is_said_and_harms_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A message that cannot be sent is logged; the agent goes on."""
    manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    with caplog.at_level(logging.WARNING, "proxywatch"):
        manager.tell("READY=1")
    manager.close()
    assert "could not be told READY=1" in caplog.text


def test_more_time_is_asked_for_at_each_step_and_not_too_often(heard: socket.socket, tmp_path: Path) -> None:
    """Work that goes on gets more time with each of its steps; many steps in a moment are one message."""
    signs = Signs({"NOTIFY_SOCKET": str(tmp_path / "notify")}, lambda: "all well")
    for _ in range(100):
        signs.advanced("looking back")
    signs.ready()
    signs.close()
    assert heard.recv(1024) == b"EXTEND_TIMEOUT_USEC=60000000\nSTATUS=looking back"
    assert heard.recv(1024) == b"READY=1\nSTATUS=all well"
