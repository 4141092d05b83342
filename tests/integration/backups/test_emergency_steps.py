"""The last resort, step by step: what it does, what it leaves alone, and how it takes everything back."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from emergency_world import RECOVER, EmergencyWorld, Site
from healing_world import playbook

from watchdog.core.model import IncidentState
from watchdog.system.services.recovery import Needs


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    made.make()
    return made


async def lived(site: Site, **steps: dict[str, Any]) -> tuple[IncidentState, list[tuple[str, str, str]]]:
    """One life to its end: the last incident's state; action, outcome and note of each effect. It is stopped then."""
    ladder = {**RECOVER, "steps": [{**step, **steps.get(step["kind"], {})} for step in RECOVER["steps"]]}
    world = EmergencyWorld(site, playbook(ladder, name="emergency-recovery"))
    try:
        await world.live()
        incident = world.desk.incidents.latest()[0]
        effects = [e for run in world.runs.of_incident(incident.id) for e in world.runs.effects_of(run.id)]
        return incident.state, [(e.action, str(e.outcome), e.note) for e in effects]
    finally:
        await world.service.stop()
        await world.close()


def spoil(archive: Path) -> None:
    whole = bytearray(archive.read_bytes())
    whole[len(whole) // 2] ^= 1
    archive.write_bytes(whole)


async def test_a_service_in_ruins_serves_again(site: Site) -> None:
    """Configuration and database come from the newest archive that verifies, the minimal configuration is made of it,
    what is temporary and cached is gone, and it was started once."""
    good = await site.archive()
    whole = yaml.safe_load(site.config.read_text())
    bad = await site.archive()
    spoil(bad)
    site.ruin()
    state, effects = await lived(site)
    assert state is IncidentState.RESOLVED, effects
    assert [outcome for _, outcome, _ in effects] == ["done"] * 7
    assert effects[3][2].startswith(f"configuration from {good.name}; rows.sqlite (")
    assert f"passed over {bad.name}: " in effects[3][2]
    assert site.started() == ["minimal"]
    assert yaml.safe_load(site.config.read_text()) == {"port": whole["port"]}
    assert site.rows() == 200
    assert not site.temporary.exists()
    assert not site.cached.exists()


async def test_a_sound_database_is_left_alone(site: Site) -> None:
    """Rows that are younger than every archive are not given up where only the configuration is broken."""
    await site.archive()
    site.add_row()
    before = site.database.read_bytes()
    site.ruin(database=False)
    state, effects = await lived(site)
    assert state is IncidentState.RESOLVED, effects
    assert "rows.sqlite is sound and was left alone" in effects[3][2]
    assert site.database.read_bytes() == before


async def test_missing_resources_are_named_and_everything_is_put_back(site: Site) -> None:
    """No disk, no inodes, no memory, a port in other hands: all of it is told at once, and nothing was changed."""
    await site.archive()
    site.ruin()
    found = site.every_byte()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        needs = {"disk": "900TB", "inodes": 10**18, "memory": "900TB", "ports": [holder.getsockname()[1]]}
        site.needs = Needs.model_validate(needs)
        state, effects = await lived(site)
    assert state is IncidentState.ESCALATED
    assert [effect[:2] for effect in effects] == [
        ("stop_service", "done"),
        ("check_resources", "failed"),
        ("stop_service", "done"),
        ("restore_point", "done"),
    ]
    for words in ("of disk are free", "inodes are free", "of memory are available", "is held by somebody else"):
        assert words in effects[1][2]
    assert site.every_byte() == found
    assert site.temporary.exists()


@pytest.mark.parametrize("trouble", ["no good archive", "does not start", "does not stay"])
async def test_any_failure_puts_every_byte_back(site: Site, trouble: str) -> None:
    """Whatever fails, and however far it had come: configuration and database are as they were found, it is stopped,
    and the incident says why."""
    archive = await site.archive()
    site.ruin()
    found = site.every_byte()
    steps: dict[str, Any] = {}
    match trouble:
        case "no good archive":
            spoil(archive)
        case "does not start":
            (site.root / "server.py").write_text("raise SystemExit(3)")
        case "does not stay":
            steps["watch_service"] = {"looks": 20, "in_a_row": 20, "interval": "100ms"}
            (site.root / "server.py").write_text("import time\ntime.sleep(1.5)")
    state, effects = await lived(site, **steps)
    assert state is IncidentState.ESCALATED
    assert [effect[:2] for effect in effects[-2:]] == [("stop_service", "done"), ("restore_point", "done")]
    assert effects[-3][1] == "failed"
    assert site.every_byte() == found


async def test_an_archive_of_a_minimal_configuration_is_not_come_back_to(site: Site) -> None:
    """After the last resort an archive of what is in place is marked; the next one takes the whole configuration."""
    whole = await site.archive()
    site.ruin()
    state, effects = await lived(site)
    assert state is IncidentState.RESOLVED, effects
    small = await site.archive()
    assert small != whole
    site.ruin()
    state, effects = await lived(site)
    assert f"configuration from {whole.name}" in effects[-4][2]
    assert f"passed over {small.name}: it holds a minimal configuration" in effects[-4][2]
