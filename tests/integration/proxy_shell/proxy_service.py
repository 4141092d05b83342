"""A real llm-proxy in a directory of its own, on ports of its own."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from proxy.control import request


def free_port() -> int:
    """A port that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Service:
    """One llm-proxy: its place, its configuration and, once started, its master."""

    place: Path
    settings: dict[str, Any]
    masters: list[subprocess.Popen[bytes]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.place / "c.yaml"

    @property
    def control(self) -> Path:
        return self.place / "run" / "master.sock"

    @property
    def admin(self) -> dict[str, str]:
        return {"authorization": f"Bearer {(self.place / 'admin.key').read_text().strip()}"}

    def write(self) -> None:
        self.config.write_text(yaml.safe_dump(self.settings))

    def spawn(self, **environment: str) -> subprocess.Popen[bytes]:
        master = subprocess.Popen(
            [sys.executable, "-m", "proxy", "run", "--config", str(self.config)],
            stderr=subprocess.PIPE,
            env={**os.environ, **environment},
        )
        self.masters.append(master)
        return master

    def hear(self, what: str, seconds: float = 45.0) -> str:
        """Reads the newest master's standard error until a line contains `what`; returns the line."""
        output = self.masters[-1].stderr
        assert output is not None
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if select.select([output], [], [], max(0.0, deadline - time.monotonic()))[0]:
                line = os.read(output.fileno(), 65536).decode()
                self.said.extend(line.splitlines())
                if not line:
                    break
            found = [line for line in self.said if what in line]
            if found:
                self.said.clear()
                return found[0]
        raise AssertionError(f"the master never said {what!r}, only {self.said}")

    def start(self, **environment: str) -> None:
        self.write()
        self.spawn(**environment)
        self.hear("serving on")

    def ask(self, method: str, target: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        return request(self.control, method, target, body, timeout=30)

    def workers(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = self.ask("GET", "/status")[1]["workers"]
        return listed

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.ask('GET', '/status')[1]['port']}{path}"

    def until(self, holds: Callable[[], Any], seconds: float = 45.0) -> Any:
        """Polls until `holds` returns something true, and returns it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, httpx.TransportError):
                if found := holds():
                    return found
            time.sleep(0.02)
        raise AssertionError(f"it never came to hold within {seconds} s: {holds}")

    def stop(self) -> int:
        master = self.masters[-1]
        master.send_signal(signal.SIGTERM)
        return master.wait(timeout=20)

    def end(self) -> None:
        for master in self.masters:
            if master.poll() is None:
                master.send_signal(signal.SIGTERM)
                try:
                    master.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    master.kill()
                    master.wait()
            assert master.stderr is not None
            master.stderr.close()


def make_service(place: Path) -> Service:
    return Service(
        place,
        {
            "port": 0,
            "workers": 2,
            "run_dir": str(place / "run"),
            "state_dir": str(place / "state"),
            "auth": {
                "anonymous_loopback": "user",
                "keys": [{"id": "admin", "role": "admin", "key_file": str(place / "admin.key")}],
            },
            "providers": [{"name": "demo", "kind": "local", "port": free_port()}],
            "recycle": {"drain_timeout": "10s", "backoff_initial": "200ms"},
            "log": {"file": str(place / "log")},
            "faults": True,
        },
    )


@pytest.fixture
def service() -> Iterator[Service]:
    """A service of the test's own, not started. Its path is short, for Unix sockets are limited to 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="lp-") as name:
        made = make_service(Path(name))
        yield made
        made.end()


@pytest.fixture(scope="module")
def shared() -> Iterator[Service]:
    """A running service that a module's tests share; each leaves two serving workers behind."""
    with tempfile.TemporaryDirectory(prefix="lp-") as name:
        made = make_service(Path(name))
        made.start()
        yield made
        made.end()
