"""The leaking build at work: one started service, whose workers each have a case of their own, and callers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from planted.planting import build
from world import QUESTION, eventually, free_ports

from proxy.control import request


@dataclass
class Callers:
    """What those who called have seen."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


class PlantedService:
    """One llm-proxy of the leaking build. `place` is a short path, for the sockets."""

    def __init__(self, place: Path, workers: int) -> None:
        self.place = place
        self.workers = workers
        self.port, self.provider = free_ports(2)
        self.cases_file = place / "cases.json"
        self.assign({})
        (place / "c.yaml").write_text(
            yaml.safe_dump(
                {
                    "port": self.port,
                    "workers": workers,
                    "run_dir": str(place / "run"),
                    "state_dir": str(place / "state"),
                    "auth": {"anonymous_loopback": "user"},
                    "providers": [{"name": "demo", "kind": "local", "port": self.provider}],
                    "recycle": {"drain_timeout": "10s"},
                    "log": {"file": str(place / "log")},
                }
            )
        )
        self._master: asyncio.subprocess.Process | None = None

    def assign(self, cases: Mapping[int, str]) -> None:
        """Gives workers their cases; from then on, within a moment, the others have none."""
        told = {"cases": {str(slot): case for slot, case in cases.items()}, "provider": self.provider}
        fresh = self.cases_file.with_suffix(".new")
        fresh.write_text(json.dumps(told))
        fresh.replace(self.cases_file)

    @property
    def environment(self) -> dict[str, str]:
        """In which `python -m proxy` is the leaking build."""
        return {"PYTHONPATH": str(self.place / "build"), "PLANTED_CASES": str(self.cases_file)}

    async def start(self) -> None:
        """Builds, starts, and waits until all workers serve."""
        build(self.place / "build")
        with (self.place / "said").open("wb") as said:
            self._master = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "proxy", "run", "--config", str(self.place / "c.yaml")),
                env={**os.environ, **self.environment},
                cwd=self.place,
                stderr=said,
            )
        await eventually("all workers serve", self._all_serve, 60)

    async def _all_serve(self) -> bool:
        assert self._master is not None
        if self._master.returncode is not None:
            raise AssertionError((self.place / "said").read_text())
        with contextlib.suppress(OSError):
            status = await self.master("GET", "/status")
            return len(status["workers"]) == self.workers and all(w["state"] == "serving" for w in status["workers"])
        return False

    async def stop(self) -> None:
        """Ends it."""
        if self._master is not None and self._master.returncode is None:
            self._master.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await self._master.wait()
                return
            self._master.send_signal(signal.SIGTERM)  # a second order ends what still drains
            await self._master.wait()

    async def master(self, method: str, target: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One call of the master's socket."""
        path = self.place / "run" / "master.sock"
        return (await asyncio.to_thread(request, path, method, target, body, timeout=60))[1]

    def socket(self, slot: int) -> Path:
        """Where a worker answers."""
        return self.place / "run" / f"worker-{slot}.sock"

    @contextlib.asynccontextmanager
    async def load(self, rate: float, *, fullest: float = 1.0) -> AsyncIterator[Callers]:
        """Callers that send `rate` requests a second as long as the block lasts, each on its own connection. With
        `fullest` the rate goes up to so many times that and back, every four seconds."""
        callers, stop = Callers(), asyncio.Event()
        sending = asyncio.create_task(self._send(rate, fullest, callers, stop))
        try:
            yield callers
        finally:
            stop.set()
            await sending

    async def _send(self, rate: float, fullest: float, callers: Callers, stop: asyncio.Event) -> None:
        due = began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while not stop.is_set():
                group.create_task(self._call(callers))
                high = abs((time.monotonic() - began) % 4.0 - 2.0) / 2.0
                due = max(due + 1.0 / (rate * (1.0 + (fullest - 1.0) * high)), time.monotonic() - 0.1)
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _call(self, callers: Callers) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(30):
                answer = await self._answer()
        except (OSError, TimeoutError) as error:
            callers.failures.append(f"{type(error).__name__}: {error}")
            return
        if answer.startswith(b"HTTP/1.1 200 "):
            callers.answered += 1
            callers.seconds.append(time.monotonic() - began)
        else:
            callers.failures.append(answer[:300].decode("latin-1"))

    async def _answer(self) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(_REQUEST)
            return await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


_BODY = json.dumps(QUESTION).encode()
_REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)
