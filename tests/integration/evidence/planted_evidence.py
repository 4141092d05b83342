"""What evidence is taken of in tests: a proxy that tells secrets, a world to write the pieces into, planted secrets."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "healing"))

from healing_world import World, alert

from watchdog.actions import ActionContext
from watchdog.backups.vault import Vault
from watchdog.clock import SystemClock
from watchdog.core.targets import parse_target
from watchdog.playbooks.evidence import Evidence
from watchdog.system.proxy_api.answers import CacheHealth, MasterStatus, ProviderHealth, WorkerStatus

SECRET = "Zq9planted7secretXy"


class TalkativeProxy:
    """Answers as a ProxyApi does, with secrets wherever a text may stand."""

    async def status(self) -> MasterStatus:
        worker = WorkerStatus(slot=0, state="backoff", crashes=2, last_exit=f"exit 1: api_key={SECRET} is refused")
        return MasterStatus(pid=1, started_at=0.0, state="serving", workers=(worker,))

    async def providers(self) -> Mapping[str, ProviderHealth]:
        said = f"401: Incorrect API key provided: {SECRET}. You can find it on your page."
        return {"primary": ProviderHealth(status="unhealthy", circuit="open", fault="auth", last_error=said)}

    async def worker_stacks(self, slot: int) -> str:
        return f'File "/srv/app.py", line 7, in ask\n  headers = {{"authorization": "Bearer {SECRET}"}}\n'

    async def cache(self) -> CacheHealth:
        return CacheHealth(status="healthy", entries=3)


def context_of(
    directory: Path, *, service: Any = None, vault: Vault | None = None, target: str = "worker:web/0"
) -> ActionContext:
    """What a collector sees: a proxy, a service if one is given, logs below the directory."""
    services = {} if service is None else {"web": service}
    proxies: Any = {"web": TalkativeProxy()}
    return ActionContext(parse_target(target), {}, services, proxies, SystemClock(), directory / "log", vault)


async def taken(directory: Path, context: ActionContext, *names: str) -> dict[str, str]:
    """The pieces as they stand in the story of an incident afterwards, by name."""
    world = World(directory)
    try:
        incident = world.fire(alert(str(context.target)))
        run = world.runs.begin(
            incident_id=incident.id, playbook="p", target=str(context.target), trigger="alert", labels={}, now=1.0
        )

        class Plan:
            evidence = names

        await Evidence(world.desk, world.runs, lambda target, labels: context).collect(run, Plan())
        story = world.desk.incidents.story(incident.id)
        found = {str(e.data["name"]): str(e.data["text"]) for e in story if e.kind == "evidence"}
        assert all(SECRET not in entry.text for entry in story)
        assert set(found) == set(names)
        return found
    finally:
        await world.close()
