"""Issue 2, item 10: streams while workers are recycled."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from proxy.control import request

CLIENTS = 200
CHUNKS = 10


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A running llm-proxy; its run_dir is short, for Unix sockets are limited to 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="lp-") as name:
        place = Path(name)
        settings = {
            "port": 0,
            "workers": 2,
            "run_dir": str(place / "run"),
            "state_dir": str(place / "state"),
            "auth": {"anonymous_loopback": "user"},
            "providers": [{"name": "demo", "kind": "local", "port": free_port()}],
            "cache": {"enabled": False},
            "log": {"file": str(place / "log")},
        }
        (place / "c.yaml").write_text(yaml.safe_dump(settings))
        master = subprocess.Popen(
            [sys.executable, "-m", "proxy", "run", "--config", str(place / "c.yaml")], stderr=subprocess.PIPE
        )
        assert master.stderr is not None
        try:
            said = master.stderr.readline()
            assert b"serving on" in said, said
            yield place / "run"
        finally:
            master.send_signal(signal.SIGTERM)
            master.communicate(timeout=30)


async def stream(session: aiohttp.ClientSession, url: str) -> str | None:
    """One stream read to its end; what was wrong with it, or None."""
    body = {"model": "demo-small", "stream": True, "messages": [{"role": "user", "content": "go"}]}
    contents, ended = 0, False
    try:
        async with session.post(url, json=body) as response:
            if response.status != 200:
                return f"status {response.status}: {await response.text()}"
            async for line in response.content:
                if line.startswith(b"data: [DONE]"):
                    ended = True
                elif line.startswith(b"data: "):
                    event: dict[str, Any] = json.loads(line[6:])
                    if "error" in event:
                        return str(event["error"])
                    contents += bool(event["choices"] and event["choices"][0]["delta"].get("content"))
    except (aiohttp.ClientError, TimeoutError) as error:
        return f"{type(error).__name__}: {error}"
    return None if ended and contents == CHUNKS else f"ended={ended} with {contents} chunks"


async def test_no_stream_is_broken_by_recycling_all_workers(run_dir: Path) -> None:
    """200 clients stream without a pause, half of them on kept-alive connections, while every worker is replaced,
    one after another: each stream arrives whole."""
    control = run_dir / "master.sock"
    _, status = await asyncio.to_thread(request, control, "GET", "/status")
    demo_port = yaml.safe_load((run_dir.parent / "c.yaml").read_text())["providers"][0]["port"]
    url = f"http://127.0.0.1:{status['port']}/v1/chat/completions"
    recycled = asyncio.Event()
    faults: list[str] = []
    finished = 0

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        nonlocal finished
        await asyncio.sleep(number / CLIENTS)
        while True:
            last = recycled.is_set()
            if (fault := await stream(session, url)) is not None:
                faults.append(fault)
            finished += 1
            if last or faults:
                return

    fresh = aiohttp.TCPConnector(limit=0, force_close=True)
    kept = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=fresh) as one, aiohttp.ClientSession(connector=kept) as other:
        behaviour = {"mode": "ok", "chunks": CHUNKS, "chunk_delay_seconds": 0.25}
        async with one.post(f"http://127.0.0.1:{demo_port}/_demo/behaviour", json=behaviour) as told:
            assert told.status == 200
        clients = [asyncio.ensure_future(client(other if n % 2 else one, n)) for n in range(CLIENTS)]
        code, answer = await asyncio.to_thread(request, control, "POST", "/recycle", timeout=60)
        assert code == 200, answer
        assert len(answer["recycled"]) == 2
        recycled.set()
        await asyncio.gather(*clients)
    _, after = await asyncio.to_thread(request, control, "GET", "/status")
    assert faults == []
    assert finished > 2 * CLIENTS
    assert [worker["starts"] for worker in after["workers"]] == [2, 2]
    assert not {worker["pid"] for worker in status["workers"]} & {worker["pid"] for worker in after["workers"]}
    assert not any(Path(f"/proc/{worker['pid']}").exists() for worker in status["workers"])
    assert control.stat().st_mode & 0o777 == 0o600
