"""A whole installation in a temporary directory: proxywatch, llm-proxy, two demo upstreams, a mail sink, callers."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web

BIN = Path(sys.executable).parent
REPOSITORY = Path(__file__).resolve().parents[2]
QUESTION = {"model": "demo-small", "messages": [{"role": "user", "content": "hello"}]}

PATIENCE = 3.0
"""How many times longer a machine may take that has other things to do: a deadline is to end what hangs."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, mapping by mapping; None takes a key away."""
    result = dict(base)
    for key, value in over.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


async def eventually(what: str, probe: Callable[[], Any], seconds: float, every: float = 0.05) -> Any:
    """The first truthy value of `probe` (awaited if need be); fails with `what` and the last value otherwise.

    `seconds` is what a quiet machine may take at the most.
    """
    seconds *= PATIENCE
    deadline = time.monotonic() + seconds
    while True:
        value = probe()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}; last seen: {value!r}")
        await asyncio.sleep(every)


class UnixConnection(http.client.HTTPConnection):
    """http.client over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Inbox:
    """A webhook receiver that keeps what it is sent."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/hook"
        self.messages: list[dict[str, Any]] = []
        self._port = port
        self._runner: web.AppRunner | None = None

    @property
    def routes(self) -> dict[str, Any]:
        """A routes file that sends everything here at once."""
        hook = {"url": self.url, "send_resolved": True}
        route = {"receiver": "inbox", "group_by": ["..."], "group_wait": "1s", "group_interval": "1s"}
        return {"route": route, "receivers": [{"name": "inbox", "webhook_configs": [hook]}]}

    async def open(self) -> None:
        """Begins to listen."""

        async def take(request: web.Request) -> web.Response:
            self.messages.append(await request.json())
            return web.Response()

        app = web.Application()
        app.router.add_post("/hook", take)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()

    async def close(self) -> None:
        """Stops to listen; harmless twice."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


@dataclass
class Calls:
    """What a load of callers saw."""

    sent: int = 0
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    providers: dict[str, int] = field(default_factory=dict)
    slowest: float = 0.0


class World:
    """Paths, ports and processes of one installation."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port, self.primary, self.secondary, inbox = free_ports(4)
        self.inbox = Inbox(inbox)
        self.watchdog: asyncio.subprocess.Process | None = None
        self.log = root / "proxywatch.log"
        self.events: list[str] = []

    # --- setting up -----------------------------------------------------------------------------------------------

    def configure(
        self,
        proxy: dict[str, Any] | None = None,
        watch: dict[str, Any] | None = None,
        routes: dict[str, Any] | None = None,
    ) -> None:
        """Writes the shipped configuration with other ports and paths, and what a test lays over it. Probes of
        a service that the test takes away go with it."""
        config = self.root / "config"
        config.mkdir(exist_ok=True)
        for name in ("rules", "playbooks"):
            (config / name).mkdir(exist_ok=True)
            for file in (REPOSITORY / "config" / name).glob("*.yaml"):
                (config / name / file.name).write_text(file.read_text())
        shipped = yaml.safe_load((REPOSITORY / "config/llm-proxy.yaml").read_text())
        local = [
            {"name": "primary", "kind": "local", "port": self.primary},
            {"name": "secondary", "kind": "local", "port": self.secondary},
        ]
        shipped = merged(shipped, {"port": self.port, "providers": local, "recycle": {"drain_timeout": "20s"}})
        (config / "llm-proxy.yaml").write_text(yaml.safe_dump(merged(shipped, proxy or {})))
        own = yaml.safe_load((REPOSITORY / "config/proxywatch.yaml").read_text())
        base = f"http://127.0.0.1:{self.port}"
        own = merged(
            own,
            {
                "services": {
                    "llm-proxy": {
                        "argv": ["llm-proxy", "run", "--config", str(config / "llm-proxy.yaml")],
                        "ready_url": f"{base}/health/live",
                        "proxy": {"url": base},
                    }
                },
                "probes": {"front": {"url": f"{base}/health"}},
                "guards": {"boot_grace": "0s"},
            },
        )
        own = merged(own, watch or {})
        known = {None, *own["services"]}
        own["probes"] = {name: probe for name, probe in own["probes"].items() if probe.get("service") in known}
        (config / "proxywatch.yaml").write_text(yaml.safe_dump(own))
        plain = {"route": {"receiver": "journal"}, "receivers": [{"name": "journal"}]}
        (config / "routes.yaml").write_text(yaml.safe_dump(routes or plain))

    def edit(self, name: str, changes: Mapping[str, str]) -> None:
        """Replaces texts in one file of the configuration, everywhere in it; each must be there."""
        file = self.root / "config" / name
        text = file.read_text()
        for old, new in changes.items():
            assert old in text, f"{old!r} is not in {name}"
            text = text.replace(old, new)
        file.write_text(text)

    @property
    def config_file(self) -> Path:
        return self.root / "config" / "proxywatch.yaml"

    async def start(self, *arguments: str, program: Iterable[str] = ()) -> None:
        """Starts proxywatch and waits until it and the proxy answer."""
        argv = list(program) or [str(BIN / "proxywatch"), "run", "--plain", "--config", str(self.config_file)]
        with self.log.open("ab") as log:
            self.watchdog = await asyncio.create_subprocess_exec(
                *argv, *arguments, cwd=self.root, stdout=log, stderr=log, stdin=asyncio.subprocess.DEVNULL
            )
        await eventually("proxywatch is ready", self.ready, 30)

    async def ready(self) -> bool:
        """Whether the daemon has made its first round."""
        if self.watchdog is not None and self.watchdog.returncode is not None:
            raise AssertionError(f"proxywatch ended with {self.watchdog.returncode}:\n{self.tail()}")
        try:
            return bool((await self.ask("/v1/status"))["ready"])
        except (OSError, http.client.HTTPException, KeyError):
            return False

    async def kill(self) -> None:
        """kill -9 of the daemon; what it started goes on."""
        assert self.watchdog is not None
        with contextlib.suppress(ProcessLookupError):
            self.watchdog.send_signal(signal.SIGKILL)
        await self.watchdog.wait()

    async def stop(self) -> None:
        """Ends the daemon in good order, then whatever is left of this world's processes."""
        if self.watchdog is not None and self.watchdog.returncode is None:
            self.watchdog.terminate()
            try:
                await asyncio.wait_for(self.watchdog.wait(), 30)
            except TimeoutError:
                await self.kill()
        for pid in self._own_processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 5
        while (left := self._own_processes()) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _own_processes(self) -> list[int]:
        """Processes whose working directory is this world's, which only those have that it started."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                if (entry / "cwd").readlink() == self.root and b"Z" not in (entry / "stat").read_bytes().split()[2:3]:
                    found.append(int(entry.name))
        return found

    def tail(self, lines: int = 40) -> str:
        """The end of the daemon's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    # --- asking ---------------------------------------------------------------------------------------------------

    async def ask(self, path: str, method: str = "GET", body: dict[str, Any] | None = None) -> Any:
        """One call of the control API."""
        return await asyncio.to_thread(self._ask, self.root / "var/run/proxywatch/control.sock", path, method, body)

    async def master(self, path: str = "/status", method: str = "GET", body: dict[str, Any] | None = None) -> Any:
        """One call of the master's private socket."""
        return await asyncio.to_thread(self._ask, self.root / "var/run/llm-proxy/master.sock", path, method, body)

    @staticmethod
    def _ask(socket_path: Path, path: str, method: str, body: dict[str, Any] | None) -> Any:
        connection = UnixConnection(socket_path)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, body=content, headers={"content-type": "application/json"})
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    async def command(self, *arguments: str, timeout: float = 30) -> tuple[int, str]:
        """Runs the command line; exit code and everything it printed."""
        process = await asyncio.create_subprocess_exec(
            str(BIN / "proxywatch"),
            "--config",
            str(self.config_file),
            *arguments,
            cwd=self.root,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            stdin=asyncio.subprocess.DEVNULL,
        )
        output, _ = await asyncio.wait_for(process.communicate(), timeout)
        return process.returncode or 0, output.decode()

    async def incidents(self, target: str = "") -> list[dict[str, Any]]:
        """All incidents, newest first, of one target if it is named."""
        found = (await self.ask("/v1/incidents?all=1"))["incidents"]
        return [i for i in found if target in {"", i["target"]}]

    async def incident(self, target: str, state: str, seconds: float) -> dict[str, Any]:
        """The newest incident of a target, once it is in `state`, with its whole story."""

        async def look() -> dict[str, Any] | None:
            found = await self.incidents(target)
            return found[0] if found and found[0]["state"] == state else None

        try:
            found = await eventually(f"{target} is {state}", look, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{await self.incidents(target)}\n{self.tail()}") from None
        whole: dict[str, Any] = await self.ask(f"/v1/incidents/{found['id']}")
        return whole

    async def workers(self) -> list[dict[str, Any]]:
        """The master's view of its workers."""
        return list((await self.master())["workers"])

    async def all_serve(self) -> bool:
        """Whether every slot serves."""
        return all(worker["state"] == "serving" for worker in await self.workers())

    async def demo(self, port: int, **behaviour: Any) -> None:
        """Tells a demo upstream how to behave."""
        url = f"http://127.0.0.1:{port}/_demo/behaviour"
        async with aiohttp.ClientSession() as session, session.post(url, json=behaviour) as response:
            assert response.status == 200, await response.text()

    async def get(self, path: str) -> Any:
        """JSON of one of the proxy's own pages."""
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}{path}") as response:
            return await response.json()

    @property
    def admin_key(self) -> str:
        return (self.root / "var/lib/llm-proxy/admin.key").read_text().strip()

    # --- calling --------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def load(self, rate: float, body: dict[str, Any] | None = None) -> AsyncIterator[Calls]:
        """Callers that send `rate` requests a second as long as the block lasts, each on its own connection."""
        calls = Calls()
        stop = asyncio.Event()
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(30)) as session:
            sender = asyncio.create_task(self._send(session, rate, body, calls, stop))
            try:
                yield calls
            finally:
                stop.set()
                await sender

    async def _send(
        self,
        session: aiohttp.ClientSession,
        rate: float,
        body: dict[str, Any] | None,
        calls: Calls,
        stop: asyncio.Event,
    ) -> None:
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while not stop.is_set():
                group.create_task(self._call(session, body, calls))
                calls.sent += 1
                await asyncio.sleep(max(0.0, began + calls.sent / rate - time.monotonic()))

    async def _call(self, session: aiohttp.ClientSession, body: dict[str, Any] | None, calls: Calls) -> None:
        began = time.monotonic()
        question = body or QUESTION
        headers = {"cache-control": "no-store"}
        try:
            url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
            async with session.post(url, json=question, headers=headers) as response:
                text = await response.text()
                if response.status != 200:
                    calls.failures.append(f"{response.status}: {text[:200]}")
                    return
                calls.answered += 1
                provider = response.headers.get("x-provider", "?")
                calls.providers[provider] = calls.providers.get(provider, 0) + 1
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            calls.failures.append(f"{type(error).__name__}: {error}")
        finally:
            calls.slowest = max(calls.slowest, time.monotonic() - began)


def story(incident: dict[str, Any]) -> str:
    """An incident's timeline as text, for assertions and failures."""
    return "\n".join(f"{line['kind']}: {line['text']}" for line in incident["timeline"])


def kinds(incident: dict[str, Any]) -> list[str]:
    """The kinds of its timeline's entries in order."""
    return [line["kind"] for line in incident["timeline"]]


def found(pattern: str, text: str) -> bool:
    """Whether the pattern occurs."""
    return re.search(pattern, text) is not None
