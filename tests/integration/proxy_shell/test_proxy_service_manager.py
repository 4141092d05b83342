"""What systemd passes to the master and hears of it: real sockets, a real process that was passed them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from proxy.service_manager import ServiceManager

_CHILD = """
import os, sys
descriptors = [int(number) for number in sys.argv[3:]]
for at, descriptor in enumerate(descriptors):
    os.dup2(descriptor, 3 + at)
os.environ.update(LISTEN_PID=str(os.getpid() + int(sys.argv[1])), LISTEN_FDS=str(len(descriptors)))
if sys.argv[2]:
    os.environ["LISTEN_FDNAMES"] = sys.argv[2]
from proxy.errors import ProxyError
from proxy.service_manager import passed_socket
try:
    listener = passed_socket()
except ProxyError as error:
    sys.exit(f"refused: {error}")
print(listener.getsockname()[1] if listener else "none", any(name.startswith("LISTEN_") for name in os.environ))
"""


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    """Two that listen, above the descriptors that systemd would pass."""
    made = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    yield made
    for each in made:
        each.close()


def _passed(descriptors: list[int], names: str = "", pid_off: int = 0) -> str:
    """What the child makes of what it is passed. Descriptors are moved up, so that copying to 3 and 4 harms none."""
    high = [fcntl.fcntl(each, fcntl.F_DUPFD, 100 + at) for at, each in enumerate(descriptors)]
    try:
        argv = [sys.executable, "-c", _CHILD, str(pid_off), names, *map(str, high)]
        done = subprocess.run(argv, check=False, pass_fds=high, capture_output=True, text=True, timeout=30)
    finally:
        for each in high:
            os.close(each)
    return (done.stdout + done.stderr).strip()


def test_one_socket_is_taken_whatever_its_name(listeners: list[socket.socket]) -> None:
    """A single socket needs no name, and its variables are taken out of the environment."""
    port = listeners[0].getsockname()[1]
    assert _passed([listeners[0].fileno()], "llm-proxy.socket") == f"{port} False"


def test_of_several_the_named_one_is_taken(listeners: list[socket.socket]) -> None:
    """Among several sockets the one that is named `http` is served."""
    port = listeners[1].getsockname()[1]
    assert _passed([each.fileno() for each in listeners], "metrics:http") == f"{port} False"


def test_several_without_the_name_are_refused(listeners: list[socket.socket]) -> None:
    """Which of several unnamed sockets is meant is not guessed."""
    assert "expected one" in _passed([each.fileno() for each in listeners])


def test_what_was_passed_to_another_process_is_not_ours(listeners: list[socket.socket]) -> None:
    """LISTEN_PID of another process means that nothing was passed to this one."""
    assert _passed([listeners[0].fileno()], pid_off=1) == "none False"


def test_what_does_not_listen_is_refused(tmp_path: Path) -> None:
    """A datagram socket, a connected socket and a plain file are refused with what was expected."""
    left, right = socket.socketpair()
    with left, right, socket.socket() as closed, (tmp_path / "file").open("wb") as file:
        told = [_passed([each.fileno()]) for each in (left, closed)]
        assert "no socket" in _passed([file.fileno()])
    assert all("not a listening TCP socket" in one for one in told)


async def test_signs_of_life_come_within_the_limit_and_a_reload_is_told(tmp_path: Path) -> None:
    """WATCHDOG=1 comes three times per WatchdogSec, and only for the process that systemd watches."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(5)
        os.environ["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        try:
            watched = ServiceManager(SystemClock(), {"WATCHDOG_USEC": "300000", "WATCHDOG_PID": str(os.getpid())})
            another = ServiceManager(SystemClock(), {"WATCHDOG_USEC": "300000", "WATCHDOG_PID": "1"})
        finally:
            del os.environ["NOTIFY_SOCKET"]
        async with asyncio.timeout(45):
            await another.live()
        living = asyncio.create_task(watched.live())
        assert [(await asyncio.to_thread(heard.recv, 64)) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        living.cancel()
        async with watched.reload(20):
            pass
        told = [heard.recv(256) for _ in range(2)]
        watched.close()
        another.close()
    assert told[0].startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert told[0].endswith(b"\nEXTEND_TIMEOUT_USEC=30000000")
    assert told[1] == b"READY=1"
