"""A host that has none of our programs installed, and a checkout on it from which somebody installs them."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from booted_system import DEPENDENCIES, PYTHON, REPOSITORY, BootedSystem

CHECKOUT = Path("/opt/checkout")
CALLER = Path("/opt/caller")
URL = "http://127.0.0.1:8000"
_PARTS = ("watchdog", "proxy", "config", "systemd", "docs")
_FILES = ("pyproject.toml", "README.md", "LICENSE")


class BareHost:
    """`root` is its file system; `proxywatch` runs the checkout's command line there, as root."""

    def __init__(self, booted: BootedSystem) -> None:
        self.booted = booted
        self.root = booted.root
        self._check_out()

    def _check_out(self) -> None:
        """A copy of this repository, and an environment with what it requires: as `make` leaves one."""
        target = self.at(str(CHECKOUT))
        for name in _PARTS:
            shutil.copytree(REPOSITORY / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in _FILES:
            shutil.copy(REPOSITORY / name, target / name)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        # The services' users cannot read all of an interpreter that belongs to one user, which this one may do.
        system = Path("/usr/bin") / version
        python = system if system.exists() else PYTHON / "bin" / version
        self.booted.run(str(python), "-m", "venv", "--without-pip", str(CALLER))
        paths = self.at(f"{CALLER}/lib/{version}/site-packages/checkout.pth")
        paths.write_text(f"{DEPENDENCIES}\n{CHECKOUT}\n")

    def at(self, path: str) -> Path:
        """Where a path of the host is seen from here."""
        return self.root / path.lstrip("/")

    def proxywatch(
        self, *arguments: str, check: bool = True, user: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The checkout's command line."""
        return self.booted.run(
            f"{CALLER}/bin/python", "-m", "watchdog.cli.main", *arguments, check=check, user=user, seconds=110
        )

    def installed(self, *arguments: str) -> Any:
        """What the installed command line prints as JSON."""
        return json.loads(self.booted.run("proxywatch", "--json", *arguments).stdout)

    def steps(self, *arguments: str) -> dict[str, str]:
        """What became of each step of an installation, an upgrade or a removal, by what it says."""
        told = json.loads(self.proxywatch(*arguments, "--json").stdout)
        return {step["says"]: step["became"] for step in told["steps"]}

    def await_(self, what: str, probe: Callable[[], Any], seconds: float = 60.0) -> Any:
        """The first truthy value of `probe`, for what nothing announces; AssertionError after `seconds`."""
        deadline, seen = time.monotonic() + seconds, None
        while time.monotonic() < deadline:
            with contextlib.suppress(AssertionError, ValueError, KeyError):
                if seen := probe():
                    return seen
            time.sleep(0.1)
        raise AssertionError(f"not within {seconds:g} s: {what}; last seen: {seen!r}")

    def chat(self) -> str:
        """The answer to one chat completion."""
        body = json.dumps({"model": "demo-small", "messages": [{"role": "user", "content": "hello"}]})
        ask = ("curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "30")
        told = self.booted.run(*ask, "-H", "content-type: application/json", "-d", body, f"{URL}/v1/chat/completions")
        content: str = json.loads(told.stdout)["choices"][0]["message"]["content"]
        return content
