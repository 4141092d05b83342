"""Both programs as units in the lab: users, directories, configuration, secrets, polkit rule."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from booted_system import HOME, REPOSITORY, BootedSystem

UNITS = REPOSITORY / "systemd"
PROXY, AGENT = "llm-proxy.service", "proxywatch.service"
URL = "http://127.0.0.1:8000"
_LAB = "/opt/lab"

PROXY_CONFIGURATION: dict[str, Any] = {
    "host": "127.0.0.1",
    "port": 8000,
    "workers": 2,
    "run_dir": "/run/llm-proxy",
    "state_dir": "/var/lib/llm-proxy",
    "auth": {
        "keys": [
            {"id": "admin", "role": "admin", "key_file": "/run/credentials/llm-proxy.service/secret_admin.key"},
            {"id": "caller", "key_file": "/run/credentials/llm-proxy.service/secret_caller.key"},
        ]
    },
    "providers": [{"name": "primary", "kind": "local", "port": 8091}],
    "log": {"format": "json", "file": "/var/log/llm-proxy/llm_proxy.log"},
}
AGENT_CONFIGURATION: dict[str, Any] = {
    "state_dir": "/var/lib/proxywatch",
    "run_dir": "/run/proxywatch",
    "log_dir": "/var/log",
    "services": {
        "llm-proxy": {
            "kind": "unit",
            "unit": PROXY,
            "proxy": {
                "url": URL,
                "master_socket": "/run/llm-proxy/master.sock",
                "admin_key_file": "/run/credentials/proxywatch.service/secret_llm-proxy.key",
            },
        }
    },
    "probes": {
        "host": {"kind": "system", "interval": "1s"},
        "process": {"kind": "process", "service": "llm-proxy", "interval": "1s"},
        "workers": {"kind": "workers", "service": "llm-proxy", "interval": "500ms"},
        "leak": {"kind": "memory_leak", "service": "llm-proxy", "interval": "10s"},
        "unit": {"kind": "systemd_unit", "units": [PROXY], "interval": "1s"},
        "stall": {"kind": "pressure", "interval": "1s"},
        "journal": {"kind": "journal", "interval": "1s"},
    },
}


class Lab:
    """What tests share. Whatever a test changes it changes through a context manager that undoes it."""

    def __init__(self, booted: BootedSystem) -> None:
        self.booted = booted
        self.run = booted.run
        self.caller_key, self.admin_key = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        self._install()

    def _install(self) -> None:
        root = self.booted.root
        for unit in (*UNITS.glob("*.service"), *UNITS.glob("*.socket")):
            shutil.copy(unit, root / "etc/systemd/system" / unit.name)
        for kind in ("sysusers.d", "tmpfiles.d"):
            shutil.copy(UNITS / kind / "proxywatch.conf", root / "usr/lib" / kind / "proxywatch.conf")
        shutil.copy(UNITS / "polkit/50-proxywatch.rules", root / "etc/polkit-1/rules.d/50-proxywatch.rules")
        shutil.copy(UNITS / "catalog/proxywatch.catalog", root / "usr/lib/systemd/catalog/proxywatch.catalog")
        self.run("journalctl", "--update-catalog")
        self.run("systemd-sysusers")
        self.run("systemd-tmpfiles", "--create", "proxywatch.conf")
        for place, name, key in (
            ("llm-proxy", "admin", self.admin_key),
            ("llm-proxy", "caller", self.caller_key),
            ("proxywatch", "llm-proxy", self.admin_key),
        ):
            self.booted.write(f"/etc/credstore/{place}/{name}.key", key + "\n", 0o600)
        self.booted.write("/etc/llm-proxy/llm-proxy.yaml", yaml.safe_dump(PROXY_CONFIGURATION))
        for part in ("rules", "playbooks"):
            shutil.copytree(REPOSITORY / "config" / part, root / "etc/proxywatch" / part, dirs_exist_ok=True)
        shutil.copy(REPOSITORY / "config/routes.yaml", root / "etc/proxywatch/routes.yaml")
        self.booted.write("/etc/proxywatch/proxywatch.yaml", yaml.safe_dump(AGENT_CONFIGURATION))
        for script in Path(__file__).parent.glob("lab_*.py"):
            self.booted.write(f"{_LAB}/{script.name}", script.read_text())
        self.run("systemctl", "daemon-reload")

    def python(self, script: str, *arguments: str) -> list[str]:
        """The argv that runs one of the `lab_*.py` in the lab."""
        return [*self.booted.command(f"{HOME}/bin/python", f"{_LAB}/{script}", *arguments)]

    def settle(self) -> None:
        """The agent does not run, and no start that was counted counts any more."""
        self.run("systemctl", "stop", AGENT)
        self.run("systemctl", "reset-failed")

    def serve(self) -> None:
        """The proxy serves, with both workers."""
        self.run("systemctl", "start", PROXY)
        self.await_("two workers serve", lambda: len(self.workers()) == 2, 30)

    @contextlib.contextmanager
    def changed(self, path: str, text: str) -> Iterator[None]:
        """A file with another content while inside."""
        before = (self.booted.root / path.lstrip("/")).read_text()
        self.booted.write(path, text)
        try:
            yield
        finally:
            self.booted.write(path, before)

    @contextlib.contextmanager
    def drop_in(self, unit: str, text: str) -> Iterator[None]:
        """A drop-in of a unit while inside."""
        place = f"run/systemd/system/{unit}.d/{uuid.uuid4().hex}.conf"
        self.booted.write(place, text)
        self.run("systemctl", "daemon-reload")
        try:
            yield
        finally:
            (self.booted.root / place).unlink()
            self.run("systemctl", "daemon-reload")

    def workers(self) -> dict[int, int]:
        """Slots that serve and their pids, as seen in the lab."""
        told = self._ask("--unix-socket", "/run/llm-proxy/master.sock", "http://master/status")
        return {worker["slot"]: worker["pid"] for worker in told["workers"] if worker["state"] == "serving"}

    def answer(self) -> dict[str, Any]:
        """One chat completion, asked with the caller's key."""
        body = json.dumps({"model": "demo-small", "messages": [{"role": "user", "content": "hello"}]})
        headers = ("-H", f"authorization: Bearer {self.caller_key}", "-H", "content-type: application/json")
        return self._ask("--fail-with-body", *headers, "-d", body, f"{URL}/v1/chat/completions")

    def agent_says(self, *command: str) -> Any:
        """What the agent's command line prints as JSON."""
        told = self.run(f"{HOME}/bin/proxywatch", "--config", "/etc/proxywatch/proxywatch.yaml", "--json", *command)
        return json.loads(told.stdout)

    def _ask(self, *arguments: str) -> dict[str, Any]:
        told = self.run("curl", "--silent", "--show-error", "--max-time", "30", *arguments).stdout
        answer: dict[str, Any] = json.loads(told)
        return answer

    def await_(self, what: str, probe: Callable[[], Any], seconds: float) -> Any:
        """The first truthy value of `probe`, for what nothing announces; AssertionError after `seconds`."""
        deadline, seen = time.monotonic() + seconds, None
        while time.monotonic() < deadline:
            with contextlib.suppress(AssertionError, ValueError, KeyError):
                if seen := probe():
                    return seen
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds:g} s: {what}; last seen: {seen!r}")
