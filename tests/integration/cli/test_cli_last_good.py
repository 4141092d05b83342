"""The daemon as a process of its own, started with a configuration that was broken since it last accepted it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from small_daemon import write_config

PROGRAM = (sys.executable, "-m", "watchdog.cli.main", "--config")
OWN_PROBE = {"here": {"kind": "file", "path": "/", "interval": "1h"}}


class Installed:
    """A configuration and what runs with it; systemd's ear is `heard`."""

    def __init__(self, root: Path, notify: socket.socket) -> None:
        self.file = write_config(root, services={}, probes=OWN_PROBE)
        self.log = root / "log.txt"
        self._notify = notify

    async def cli(self, *arguments: str) -> tuple[int, str]:
        """Exit status and standard output of a command."""
        argv = (*PROGRAM, str(self.file), *arguments)
        process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE, stderr=-3)
        told, _ = await process.communicate()
        return process.returncode or 0, told.decode()

    async def query(self, expression: str) -> Any:
        return json.loads((await self.cli("--json", "query", expression))[1])["result"]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Until the block is left; its value is the status with which it said that it is ready."""
        environment = {**os.environ, "NOTIFY_SOCKET": self._notify.getsockname()}
        with self.log.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *PROGRAM, str(self.file), "run", "--plain", stdout=log, stderr=log, env=environment
            )
        try:
            yield await self._ready()
        finally:
            process.terminate()
            assert await process.wait() == 0

    async def _ready(self) -> str:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(60):
            while not (told := (await loop.sock_recv(self._notify, 4096)).decode()).startswith("READY=1\nSTATUS="):
                pass
        return told.partition("STATUS=")[2]


@pytest.fixture
async def installed(tmp_path: Path) -> AsyncIterator[Installed]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        notify.setblocking(False)
        yield Installed(tmp_path, notify)


async def eventually(what: str, seen: Callable[[], Any]) -> Any:
    async with asyncio.timeout(60):
        while not (value := await seen()):
            await asyncio.sleep(0.1)
        return value


async def test_a_broken_configuration_starts_with_the_last_good_one_and_says_so(installed: Installed) -> None:
    """Before anything was accepted a broken file ends the start; afterwards the agent runs with what it accepted last,
    says so to systemd, in its log, to whoever asks, and by an incident, and takes the corrected file over."""
    good = installed.file.read_text()
    installed.file.write_text(good + "guard: {}\n")
    assert (await installed.cli("run", "--plain"))[0] == 2
    installed.file.write_text(good)
    async with installed.running() as status:
        assert status.startswith("all well")
        await eventually(
            "kept", lambda: asyncio.to_thread((installed.file.parents[1] / "state/accepted/last.json").exists)
        )
    installed.file.write_text(good.replace("host: here", "host: there") + "probes: {\n")
    async with installed.running() as status:
        assert status.startswith(f"configuration refused, the last good one is in force: {installed.file}:")
        assert "the configuration is refused" in installed.log.read_text()
        code, told = await installed.cli("status")
        assert (code, "configuration refused, the last good one is in force: " in told) == (0, True)
        assert "on here, pid" in told.replace("\n", " ")
        code, told = await installed.cli("config", "check")
        assert (code, "not valid YAML" in told) == (2, True)
        await eventually("measured", lambda: installed.query("proxywatch_config_last_reload_successful == 0"))
        installed.file.write_text(good.replace("host: here", "host: there"))
        assert (await installed.cli("reload"))[0] == 0
        assert "on there, pid" in (await installed.cli("status"))[1]
        await eventually("measured", lambda: installed.query("proxywatch_config_last_reload_successful == 1"))
