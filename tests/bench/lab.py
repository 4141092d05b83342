"""A temporary directory with programs running in it, all of which end when it is closed."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from proxy.control import request
from tests.bench.figures import BenchError
from tests.bench.machine import living_below

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_JOURNAL_ONLY: Mapping[str, Any] = {"route": {"receiver": "journal"}, "receivers": [{"name": "journal"}]}

T = TypeVar("T")
Providers = list[dict[str, Any]]
"""As llm-proxy.yaml lists them."""


def only(upstream: int) -> Providers:
    """One provider: the server on this port."""
    return [{"name": "upstream", "kind": "openai", "base_url": f"http://127.0.0.1:{upstream}/v1"}]


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(what: str, look: Callable[[], T], seconds: float, every: float = 0.01) -> T:
    """The first truthy answer of `look`; BenchError after `seconds`. OSError of a look counts as not yet."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if found := look():
                return found
        if time.monotonic() > deadline:
            raise BenchError(f"not within {seconds:g} s: {what}")
        time.sleep(every)


def get(port: int, path: str, timeout: float = 2.0) -> tuple[int, bytes]:
    """Status and body over a fresh connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class Lab:
    """See the module. Programs log into `<name>.log`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._started: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        port: int | None = None,
        path: str = "/health/live",
        environment: Mapping[str, str] | None = None,
        seconds: float = _START_SECONDS,
    ) -> subprocess.Popen[bytes]:
        """Starts a program in the lab's directory; with `port`, returns once it answers there at `path` below 500."""
        log = self.root / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                argv,
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=os.environ
                | {"PYTHONPATH": str(REPOSITORY), "PATH": f"{BIN}:{os.environ['PATH']}"}
                | dict(environment or {}),
            )
        self._started.append(process)

        def answers() -> bool:
            if process.poll() is not None:
                raise BenchError(f"{name} ended with {process.returncode}: {log.read_text()[-600:]}")
            return port is None or get(port, path)[0] < 500

        until(f"{name} answers", answers, seconds)
        return process

    @property
    def newest(self) -> subprocess.Popen[bytes]:
        """The program started last."""
        return self._started[-1]

    def upstream(self) -> int:
        """Starts the fast upstream; its port."""
        port = free_port()
        self.start(f"upstream-{port}", [sys.executable, "-m", "tests.bench.fast_upstream", str(port)], port=port)
        return port

    def configure_proxy(
        self, name: str, providers: Providers, workers: int, changes: Mapping[str, Any] | None = None
    ) -> tuple[Path, int]:
        """Writes the shipped llm-proxy.yaml with other ports, paths and providers; the file and its port.

        `changes` go into its sections.
        """
        port = free_port()
        shipped = yaml.safe_load((REPOSITORY / "config/llm-proxy.yaml").read_text())
        shipped |= {
            "port": port,
            "workers": workers,
            "run_dir": str(self.root / name / "run"),
            "state_dir": str(self.root / name / "state"),
            "providers": providers,
        }
        shipped["auth"]["keys"][0]["key_file"] = str(self.root / name / "admin.key")
        shipped["log"]["file"] = str(self.root / name / "llm_proxy.log")
        for section, values in (changes or {}).items():
            shipped[section] = shipped.get(section, {}) | values
        file = self.root / f"{name}.yaml"
        file.write_text(yaml.safe_dump(shipped))
        return file, port

    def proxy(self, name: str, providers: Providers, workers: int, changes: Mapping[str, Any] | None = None) -> Proxy:
        """Starts llm-proxy and waits until all workers serve."""
        file, port = self.configure_proxy(name, providers, workers, changes)
        process = self.start(name, [BIN / "llm-proxy", "run", "--config", file], port=port)
        proxy = Proxy(file, port, self.root / name / "run" / "master.sock", process.pid)
        until("all workers serve", lambda: len(proxy.workers()) == workers, _START_SECONDS)
        return proxy

    def watchdog(self, proxy_file: Path, port: int) -> subprocess.Popen[bytes]:
        """Starts proxywatch as shipped, which starts the llm-proxy of `proxy_file`; returns when both are ready."""
        shipped = yaml.safe_load((REPOSITORY / "config/proxywatch.yaml").read_text())
        proxy = yaml.safe_load(proxy_file.read_text())
        base = f"http://127.0.0.1:{port}"
        service = shipped["services"]["llm-proxy"]
        service |= {"argv": [str(BIN / "llm-proxy"), "run", "--config", str(proxy_file)]}
        service |= {"ready_url": f"{base}/health/live"}
        service["proxy"] |= {
            "url": base,
            "master_socket": f"{proxy['run_dir']}/master.sock",
            "admin_key_file": proxy["auth"]["keys"][0]["key_file"],
        }
        shipped["probes"]["front"]["url"] = f"{base}/health"
        for name in ("rules", "playbooks"):
            shipped[name] = [str(REPOSITORY / "config" / pattern) for pattern in shipped[name]]
        shipped["guards"]["boot_grace"] = "0s"
        return self.start_watchdog(shipped)

    def start_watchdog(
        self, config: dict[str, Any], routes: Mapping[str, Any] = _JOURNAL_ONLY
    ) -> subprocess.Popen[bytes]:
        """Starts proxywatch with a configuration and waits for its first full round."""
        file = self.root / "proxywatch.yaml"
        (self.root / "routes.yaml").write_text(yaml.safe_dump(dict(routes)))
        file.write_text(yaml.safe_dump(config | {"routes": "routes.yaml"}))
        process = self.start("proxywatch", [BIN / "proxywatch", "run", "--plain", "--config", file])
        control = self.root / config.get("run_dir", "var/run/proxywatch") / "control.sock"

        def ready() -> bool:
            if process.poll() is not None:
                log = (self.root / "proxywatch.log").read_text()
                raise BenchError(f"proxywatch ended with {process.returncode}: {log[-600:]}")
            return bool(request(control, "GET", "/v1/status")[1].get("ready"))

        until("proxywatch is ready", ready, _START_SECONDS)
        return process

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """TERM, and KILL if that does not end it."""
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Ends everything that runs here, what programs have started in their turn included."""
        for process in reversed(self._started):
            self.end(process)
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + _STOP_SECONDS
            for pid in living_below(self.root):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            while living_below(self.root) and time.monotonic() < deadline:
                time.sleep(0.05)


class Proxy:
    """A running llm-proxy."""

    def __init__(self, file: Path, port: int, master_socket: Path, pid: int) -> None:
        self.file = file
        self.port = port
        self.pid = pid
        self._master_socket = master_socket

    def ask(self, method: str, target: str, timeout: float = 60.0) -> dict[str, Any]:
        """One call of the master. BenchError unless it answers 200."""
        status, document = request(self._master_socket, method, target, timeout=timeout)
        if status != 200:
            raise BenchError(f"{method} {target}: {status} {json.dumps(document)}")
        return document

    def workers(self) -> list[int]:
        """Process numbers of the workers that serve, by slot."""
        listed = self.ask("GET", "/status")["workers"]
        return [worker["pid"] for worker in listed if worker["state"] == "serving"]

    def health(self) -> list[dict[str, Any]]:
        """What each serving worker says of itself; one that is replaced meanwhile says nothing."""
        listed = self.ask("GET", "/status")["workers"]
        said = []
        for worker in listed:
            if worker["state"] == "serving":
                with contextlib.suppress(OSError):
                    said.append(request(Path(worker["socket"]), "GET", "/health")[1])
        return said

    def in_flight(self) -> int:
        """Requests that the serving workers have in hand."""
        return sum(health["in_flight"] for health in self.health())

    def pids(self) -> list[int]:
        """Master and serving workers."""
        return [self.pid, *self.workers()]


@contextlib.contextmanager
def lab() -> Iterator[Lab]:
    """A lab of one's own."""
    with tempfile.TemporaryDirectory(prefix="proxywatch-bench-") as directory:
        made = Lab(Path(directory))
        try:
            yield made
        finally:
            made.close()
