"""The step before an upgrade: the configuration and databases of now are archived, as the agent itself does it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from watchdog.errors import InstallationError
from watchdog.installation.layout import AGENT_FILE
from watchdog.installation.steps import DONE, Finding, Undo, due
from watchdog.installation.world import World

_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Archive:
    """By the agent's user and the programs that are there, so that the agent can judge and restore it."""

    release: str
    """The one that comes."""

    @property
    def says(self) -> str:
        return "archive the configuration of now, as `proxywatch backup create` does"

    @property
    def touches(self) -> tuple[str, ...]:
        return ()

    def look(self, world: World) -> Finding:
        return DONE if world.record.release == self.release else due()

    def do(self, world: World) -> Undo | None:
        program = f"{world.record.environment}/bin/proxywatch"
        argv = ("runuser", "-u", "proxywatch", "--", program, "--config", AGENT_FILE, "--json", "backup", "create")
        done = world.command(argv, _SECONDS)
        try:
            archives = json.loads(done.output)["archives"]
        except (ValueError, KeyError, TypeError):
            raise InstallationError(f"nothing could be archived: {done.last_line}") from None
        for archive in archives:
            if not archive["good"]:
                raise InstallationError(f"{archive['name']} does not verify: {archive['problem']}")
        return None
