"""A remediation storm: a real daemon, five hundred targets ill at once, and somebody who asks all the while."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import yaml

TARGETS = 500
ACTIONS = 5
"""What the host's budget allows."""
BIN = Path(sys.executable).parent
RULES = {
    "groups": [
        {
            "name": "storm",
            "interval": "5s",
            "rules": [
                {
                    "alert": "FileMissing",
                    "expr": "file_exists == 0",
                    "labels": {"severity": "critical", "target": "probe:{{ $labels.job }}"},
                    "annotations": {"summary": "{{ $labels.path }} is not there"},
                }
            ],
        }
    ]
}
PUT_BACK = "import pathlib, sys; pathlib.Path(sys.argv[1]).touch(exist_ok=False); pathlib.Path(sys.argv[2]).touch()"


def get(control: Path, target: str) -> Any:
    """The JSON of one GET over the control socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(control))
        connection.sendall(f"GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        said = b""
        while part := connection.recv(1 << 20):
            said += part
    return json.loads(said.partition(b"\r\n\r\n")[2])


class Asking(threading.Thread):
    """Somebody who asks for the status without a pause."""

    def __init__(self, control: Path) -> None:
        super().__init__()
        self._control = control
        self._enough = threading.Event()
        self.answers: list[tuple[float, float]] = []
        """When each was asked, and how long it took; seconds."""

    def run(self) -> None:
        while not self._enough.is_set():
            began = time.monotonic()
            get(self._control, "/v1/incidents?limit=1")
            self.answers.append((began, time.monotonic() - began))
            self._enough.wait(0.05)

    def end(self) -> None:
        """The last question has been answered."""
        self._enough.set()
        self.join()


class Storm:
    """A daemon over files that should be there, each looked at by a probe of its own."""

    def __init__(self, root: Path, inbox: str) -> None:
        self.root, self.files, self.acted, self._away = root, root / "files", root / "acted", root / "away"
        self.control = root / "var/run/proxywatch/control.sock"
        self.log = root / "proxywatch.log"
        for directory in (self.files, self.acted):
            directory.mkdir()
        for number in range(TARGETS):
            (self.files / f"file-{number}").touch()
        step = {
            "kind": "command",
            "argv": [sys.executable, "-c", PUT_BACK, f"{self.acted}/{{probe}}", f"{self.files}/{{probe}}"],
            "timeout": "20s",
        }
        playbook = {
            "name": "put-back",
            "answers": ['alertname="FileMissing"'],
            "targets": ["probe"],
            "ladder": [{"rung": "put", "steps": [step], "verify": {"hold": "0s", "within": "30s"}}],
        }
        route = {"receiver": "inbox", "group_by": ["alertname"], "group_wait": "1s", "group_interval": "5s"}
        config = {
            "rules": ["rules.yaml"],
            "playbooks": ["playbook.yaml"],
            "routes": "routes.yaml",
            "probes": {
                f"file-{number}": {"kind": "file", "path": str(self.files / f"file-{number}"), "interval": "2s"}
                for number in range(TARGETS)
            },
            "guards": {"boot_grace": "0s", "host_budget": {"1h": ACTIONS}},
        }
        hook = {"url": inbox, "send_resolved": True}
        for name, content in {
            "rules.yaml": RULES,
            "playbook.yaml": playbook,
            "routes.yaml": {"route": route, "receivers": [{"name": "inbox", "webhook_configs": [hook]}]},
            "proxywatch.yaml": config,
        }.items():
            (root / name).write_text(yaml.safe_dump(content))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        """The daemon's process number, once it has made its first round."""
        argv = (str(BIN / "proxywatch"), "run", "--plain", "--config", "proxywatch.yaml")
        with self.log.open("wb") as log:
            daemon = await asyncio.create_subprocess_exec(
                *argv, cwd=self.root, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            await self.until("it is ready", lambda: self.control.exists() and self.ask("/v1/status")["ready"], 30)
            yield daemon.pid
            assert daemon.returncode is None, self.log.read_text()[-2000:]
        finally:
            daemon.terminate()
            await daemon.wait()

    async def until(self, what: str, condition: Callable[[], object], seconds: float) -> None:
        """Until the condition holds; asked by a thread, so that the receiver can answer meanwhile."""
        deadline = time.monotonic() + seconds
        while not await asyncio.to_thread(self._holds, condition):
            assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}; {self.states()}"
            await asyncio.sleep(0.5)

    @staticmethod
    def _holds(condition: Callable[[], object]) -> bool:
        try:
            return bool(condition())
        except OSError:
            return False

    def ask(self, target: str) -> Any:
        """The JSON of one GET."""
        return get(self.control, target)

    def states(self) -> Counter[str]:
        """How many incidents are in each state; read from the store, for asking is not to be the load here."""
        file = f"file:{self.root}/var/lib/proxywatch/proxywatch.db?mode=ro"
        with closing(sqlite3.connect(file, uri=True)) as connection:
            return Counter(dict(connection.execute("SELECT state, count(*) FROM incidents GROUP BY state").fetchall()))

    def begin(self) -> None:
        """Everything is ill from now on."""
        self.files.rename(self._away)
        self.files.mkdir()

    def end(self) -> None:
        """Everything is well from now on."""
        for number in range(TARGETS):
            (self.files / f"file-{number}").touch()


@pytest.fixture
async def inbox() -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook receiver: its address, and what it has been sent."""
    messages: list[dict[str, Any]] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        messages.append(json.loads(await reader.readexactly(length)))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(take, "127.0.0.1", 0, limit=1 << 24)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook", messages


def heard_of(messages: list[dict[str, Any]]) -> set[str]:
    """Fingerprints of the alerts that a person was told of."""
    return {alert["fingerprint"] for message in messages for alert in message["alerts"]}


def resident_mib(pid: int) -> float:
    """What the process has in memory."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


@pytest.mark.timeout(300)
async def test_five_hundred_targets_ill_at_once(tmp_path: Path, inbox: tuple[str, list[dict[str, Any]]]) -> None:
    """It acts as often as its budget allows, one repair after the other; it suspects itself and says so; a person hears
    of the rest in a few messages; it answers all the while; and when everything is well again, nothing is left over."""
    address, messages = inbox
    storm = Storm(tmp_path, address)
    async with storm.running() as pid:
        before = resident_mib(pid)
        asking = Asking(storm.control)
        asking.start()
        try:
            storm.begin()
            await storm.until("each has an incident", lambda: storm.states().total() >= TARGETS, 60)
            at_once = len(asking.answers)
            await storm.until("a person has the rest", lambda: storm.states()["escalated"] >= TARGETS - ACTIONS, 150)
            await storm.until("a person has heard of each", lambda: len(heard_of(messages)) >= TARGETS - ACTIONS, 60)
            acted = len(list(storm.acted.iterdir()))
            told = len(asking.answers)
            history = (await asyncio.to_thread(storm.ask, "/v1/history?since=600"))["lines"]
            one = await asyncio.to_thread(storm.ask, "/v1/incidents/250")
            storm.end()
            await storm.until("all is resolved", lambda: set(storm.states()) == {"resolved"}, 60)
            status = await asyncio.to_thread(storm.ask, "/v1/status")
            await storm.until("all is told", lambda: storm.ask("/v1/status")["outbox"]["pending"] == 0, 30)
            memory = resident_mib(pid)
        finally:
            await asyncio.to_thread(asking.end)
        playbook = await asyncio.to_thread(storm.ask, "/v1/explain?incident=250")
    slowest = max(took for _, took in asking.answers)
    print(f"\n{len(messages)} messages, {acted} actions, slowest answer {slowest * 1000:.0f} ms, {memory:.0f} MiB")
    assert acted == ACTIONS
    assert len(list(storm.acted.iterdir())) == ACTIONS, "nor did it act later"
    suspicions = [line["text"] for line in history if line["kind"] == "storm" and line["incident"] is None]
    assert ["suspect the observer" in text for text in suspicions] == [True], "said once in the history"
    assert "storm" in {line["kind"] for line in one["timeline"]}
    assert 0 < at_once < told < len(asking.answers), "it answered in every stage"
    assert len(messages) <= 60, "hundreds of incidents are a few dozen messages at the most"
    assert len(heard_of(messages)) == TARGETS - ACTIONS
    assert (status["incidents"], status["alerts"], status["verdict"]["state"]) == ([], [], "ok")
    assert playbook["subjects"][0]["now"] is None, "no run is left"
    assert memory < before + 150, f"{before:.0f} MiB before"
