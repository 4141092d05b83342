"""How an installation and an upgrade are judged: configuration accepted, both programs run, answer, and are well."""

from __future__ import annotations

import http.client
import json
import sys
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from watchdog.errors import ConfigError, InstallationError
from watchdog.installation.layout import AGENT, AGENT_FILE, PROXY, PROXY_FILE, Environment
from watchdog.installation.steps import DONE, Finding, Undo, due
from watchdog.installation.systemd_steps import ask, last_words, properties
from watchdog.installation.world import World

WELL_WITHIN_SECONDS = 60.0
_LOOK_SECONDS = 0.25
_ANSWER_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Judge:
    """Both programs accept what they are configured by."""

    environment: Environment

    @property
    def says(self) -> str:
        return f"have {PROXY_FILE} and {AGENT_FILE} judged"

    @property
    def touches(self) -> tuple[str, ...]:
        return ()

    def look(self, world: World) -> Finding:
        there = world.at(PROXY_FILE).exists() and world.at(AGENT_FILE).exists()
        unsettled = not there or world.pending.intersection((PROXY_FILE, AGENT_FILE))
        return due() if unsettled or self._refused(world) else DONE

    def do(self, world: World) -> Undo | None:
        if refused := self._refused(world):
            raise InstallationError(f"the configuration is refused: {refused}", hint="correct it, then do this again")
        return None

    def _refused(self, world: World) -> str | None:
        # Secrets of the proxy are handed to its unit when it starts, and may be new.
        for name, module, path, options in (
            ("llm-proxy", "proxy", PROXY_FILE, ("--without-secrets",)),
            ("proxywatch", "watchdog.cli.main", AGENT_FILE, ()),
        ):
            program = (f"{self.environment.directory}/bin/{name}",) if world.live else (sys.executable, "-m", module)
            done = world.command((*program, "config", "check", *options, str(world.at(path))), 60.0)
            if done.status != 0:
                return done.last_line
        return None


@dataclass(frozen=True, slots=True)
class Gate:
    """Both units are active, the proxy takes callers, and the agent has measured everything and finds it well."""

    environment: Environment
    within: float = WELL_WITHIN_SECONDS

    @property
    def says(self) -> str:
        return f"see within {self.within:g} s that both serve and all is well"

    @property
    def touches(self) -> tuple[str, ...]:
        return ()

    def look(self, world: World) -> Finding:
        return due() if world.pending or self.trouble(world) else DONE

    def do(self, world: World) -> Undo | None:
        deadline = time.monotonic() + self.within
        while (trouble := self.trouble(world)) is not None:
            if time.monotonic() >= deadline:
                words = "\n".join(last_words(world, unit) for unit in (PROXY, AGENT))
                raise InstallationError(f"not well after {self.within:g} s: {trouble}\n{words}")
            time.sleep(_LOOK_SECONDS)
        return None

    def trouble(self, world: World) -> str | None:
        """What is not well yet."""
        for unit in (PROXY, AGENT):
            state = properties(world, unit, "ActiveState").get("ActiveState")
            if state != "active":
                return f"{unit} is {state}"
        if trouble := _proxy_trouble():
            return trouble
        program = f"{self.environment.programs}/proxywatch"
        try:
            shape = json.loads(ask(world, program, "--config", AGENT_FILE, "status", "--json"))
            if shape["verdict"]["state"] != "ok":
                return str(shape["verdict"]["text"])
            if not shape["ready"]:
                return "proxywatch has not measured everything yet"
            failing = [probe["name"] for probe in shape["probes"]["failing"]]
        except InstallationError as error:
            return str(error)
        except (ValueError, KeyError, TypeError) as error:
            return f"proxywatch status is not understood: {error}"
        return f"these probes measure nothing: {', '.join(failing)}" if failing else None


def _proxy_trouble() -> str | None:
    """Why the proxy would not take callers, at the address that the agent is configured for."""
    from pathlib import Path

    from watchdog.settings import load_config

    try:
        services = load_config(Path(AGENT_FILE)).config.services.values()
    except ConfigError as error:
        return str(error)
    for service in services:
        if service.proxy is None:
            continue
        parts = urlsplit(service.proxy.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "127.0.0.1", parts.port, timeout=_ANSWER_SECONDS)
        try:
            connection.request("GET", f"{parts.path.rstrip('/')}/health/ready")
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            return f"{service.proxy.url} does not answer: {getattr(error, 'strerror', None) or error}"
        finally:
            connection.close()
        if status != 200:
            return f"{service.proxy.url}/health/ready answers {status}"
    return None
