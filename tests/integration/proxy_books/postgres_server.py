"""A real PostgreSQL in a directory of its own, which can be killed, stopped and started again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest


def find_postgres() -> Path:
    """The directory of PostgreSQL's programs. Without one the test is skipped, in CI failed."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: int(place.parent.name))
    on_path = shutil.which("initdb")
    if places:
        return places[-1]
    if on_path:
        return Path(on_path).resolve().parent
    if os.environ.get("CI"):
        pytest.fail("PostgreSQL is not installed (Debian: postgresql)")
    pytest.skip("PostgreSQL is not installed (Debian: postgresql)")


class PostgresServer:
    """One server; it refuses to run as root, so that root runs it as postgres."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._user: dict[str, Any] = {"user": "postgres"} if os.geteuid() == 0 else {}
        self.place = Path(tempfile.mkdtemp(prefix="pg-"))
        if self._user:
            shutil.chown(self.place, "postgres")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._run("initdb", "-D", str(self.place / "data"), "-U", "owner", "--auth=trust", "--no-sync")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        return f"postgresql://owner@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Returns when it takes connections."""
        self.process = subprocess.Popen(
            [
                str(self._programs / "postgres"),
                *("-D", str(self.place / "data"), "-k", str(self.place), "-p", str(self.port)),
                *("-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=40"),
            ],
            cwd=self.place,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **self._user,
        )
        deadline = time.monotonic() + 20
        while self.query("SELECT 1") is None:
            assert time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.05)

    def stop(self) -> None:
        """At once, as `pg_ctl -m immediate stop` does: no connection is closed politely."""
        assert self.process is not None
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(20)
        self.process = None

    def signal_all(self, number: signal.Signals) -> None:
        """To the server and each of its processes."""
        assert self.process is not None
        postmaster = psutil.Process(self.process.pid)
        for process in (postmaster, *postmaster.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def query(self, statement: str) -> list[str] | None:
        """The lines of the answer, columns apart by `|`; None if the server does not answer."""
        done = subprocess.run(
            [str(self._programs / "psql"), "-X", "-A", "-t", "-q", "-d", self.dsn, "-c", statement],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.splitlines() if done.returncode == 0 else None

    def end(self) -> None:
        if self.process is not None:
            self.stop()
        shutil.rmtree(self.place)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._programs / program), *arguments], check=True, capture_output=True, cwd=self.place, **self._user
        )
