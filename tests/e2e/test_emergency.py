"""The last resort on a whole installation: from a proxy that cannot start to one that serves, or all as found."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from world import QUESTION, World, eventually, story

from watchdog.backups.shelf import Shelf

SERVICE = "service:llm-proxy"


def prepare(world: World, **playbook: Any) -> None:
    """The shipped configuration, quick; the ordinary ladder only restarts, so that the last resort's turn comes."""
    quick = {
        "backups": {"look_every": "1s"},
        "probes": dict.fromkeys(["workers", "leak", "places"]),
        "guards": {
            "budget": {"1h": 30},
            "host_budget": {"1h": 60},
            "backoff_initial": "100ms",
            "backoff_max": "60s",
        },
        "services": {"llm-proxy": {"recovery": {"needs": {"ports": [world.port]}}}},
    }
    world.configure(watch=quick, routes=world.inbox.routes)
    ladders = world.root / "config/playbooks"
    ordinary = yaml.safe_load((ladders / "restore-service.yaml").read_text())
    del ordinary["ladder"][1:]
    ordinary["ladder"][0] = {**ordinary["ladder"][0], "attempts": 1, "when": ""}
    ordinary["ladder"][0]["verify"] |= {"hold": "1s", "within": "5s"}
    (ladders / "restore-service.yaml").write_text(yaml.safe_dump(ordinary))
    last = yaml.safe_load((ladders / "emergency-recovery.yaml").read_text())
    last["ladder"][0]["steps"][-1] |= {"interval": "200ms", "timeout": "30s"}
    last["ladder"][0]["verify"] |= {"hold": "1s"}
    (ladders / "emergency-recovery.yaml").write_text(yaml.safe_dump({**last, "autonomy": "auto", **playbook}))


def archives(world: World) -> list[Path]:
    """Of the proxy, newest first."""
    return [archive.path for archive in Shelf(world.root / "var/lib/proxywatch/backups").archives("llm-proxy")]


def ledger(world: World) -> Path:
    return world.root / "var/lib/llm-proxy/ledger.sqlite"


def rows(world: World) -> int:
    if not ledger(world).exists():
        return 0
    with closing(sqlite3.connect(f"file:{ledger(world)}?mode=ro", uri=True)) as opened:
        assert opened.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        if not opened.execute("SELECT 1 FROM sqlite_master WHERE name = 'requests'").fetchall():
            return 0
        return int(opened.execute("SELECT count(*) FROM requests").fetchone()[0])


async def ask(world: World) -> int:
    """One question to the proxy, answered."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{world.port}/v1/chat/completions", json=QUESTION) as response,
    ):
        await response.read()
        return response.status


async def served_and_archived(world: World) -> None:
    """A request is in the ledger, an archive holds both, and the agent has looked at what it archives by itself."""
    await world.start()
    await eventually("the agent has archived it", lambda: archives(world), 20)
    await eventually("the proxy answers", lambda: ask(world), 20)
    await eventually("the request is in the ledger", lambda: rows(world), 20)
    code, output = await world.command("backup", "create", "llm-proxy")
    assert code == 0, output
    assert archives(world)


async def ruin(world: World) -> None:
    """The configuration is broken, the proxy is killed, and its ledger is overwritten in the middle."""
    file = world.root / "config/llm-proxy.yaml"
    file.write_text(file.read_text().replace("providers:", "provider:", 1))
    master = await world.master()
    for pid in [master["pid"], *(worker["pid"] for worker in master["workers"])]:
        os.kill(pid, signal.SIGKILL)
    for suffix in ("-wal", "-shm"):
        Path(f"{ledger(world)}{suffix}").unlink(missing_ok=True)
    with ledger(world).open("r+b") as opened:
        opened.seek(0)
        opened.write(b"\xa5" * 4096)


def flip(archive: Path) -> None:
    """One bit in its middle."""
    whole = bytearray(archive.read_bytes())
    whole[len(whole) // 2] ^= 1
    archive.write_bytes(whole)


async def test_from_a_proxy_that_cannot_start_to_one_that_serves(world: World) -> None:
    """Configuration broken, ledger corrupted, newest archive damaged: the restart fails, the last resort passes the
    bad archive over, puts both back from the one before and starts the proxy with a minimal configuration; it serves,
    and the rows from before are there."""
    prepare(world)
    await served_and_archived(world)
    rows_before = rows(world)
    code, output = await world.command("backup", "create", "llm-proxy")
    assert code == 0, output
    newest, before, *_ = archives(world)
    flip(newest)
    await ruin(world)
    incident = await world.incident(SERVICE, "resolved", 100)
    print(f"\n{story(incident)}")
    assert [run["playbook"] for run in incident["runs"]] == ["restore-service", "emergency-recovery"]
    effects = incident["runs"][-1]["effects"]
    assert [effect["action"] for effect in effects] == [
        "stop_service",
        "check_resources",
        "clear_temporary",
        "restore_archive",
        "reset_cache",
        "start_service",
        "watch_service",
    ]
    note = effects[3]["note"]
    assert f"configuration from {before.name}" in note
    assert f"ledger.sqlite (file is not a database) from {before.name}" in note
    assert f"passed over {newest.name}: " in note
    assert await ask(world) == 200
    assert rows(world) >= rows_before
    now = yaml.safe_load((world.root / "config/llm-proxy.yaml").read_text())
    assert now["workers"] == 1
    assert [provider["name"] for provider in now["providers"]] == ["primary", "secondary"]


def every_byte(world: World) -> dict[str, tuple[bytes, int, int]]:
    """Content, rights and time of writing of everything that a restore may touch."""
    places = [world.root / "config", ledger(world).parent]
    files = [path for place in places for path in sorted(place.glob("*")) if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns) for path in files}


async def test_with_all_archives_bad_it_stops_and_pages(world: World) -> None:
    """Nothing verifies: the last resort stops at that step, a person is told which archive is bad and why, and
    configuration and ledger are as they were found, to the byte."""
    prepare(world)
    await served_and_archived(world)
    assert world.watchdog is not None
    world.watchdog.send_signal(signal.SIGSTOP)
    try:
        for archive in archives(world):
            flip(archive)
        await ruin(world)
        found = every_byte(world)
    finally:
        world.watchdog.send_signal(signal.SIGCONT)

    async def given_up() -> Any:
        wholes = [await world.ask(f"/v1/incidents/{i['id']}") for i in await world.incidents(SERVICE)]
        runs = [run for whole in wholes for run in whole["runs"]]
        return [run for run in runs if run["playbook"] == "emergency-recovery" and run["ended_at"]]

    (run,) = await eventually("the last resort has ended", given_up, 60)
    incident = await world.incident(SERVICE, "escalated", 20)
    assert run["state"] == "exhausted", story(incident)
    assert [(e["action"], e["outcome"]) for e in run["effects"]][3:] == [
        ("restore_archive", "failed"),
        ("stop_service", "done"),
        ("restore_point", "done"),
    ], story(incident)
    assert all(archive.name in run["effects"][3]["note"] for archive in archives(world))
    assert every_byte(world) == found
    told = [message for message in world.inbox.messages if "no archive of llm-proxy" in str(message)]
    await eventually("a person is told", lambda: told or [m for m in world.inbox.messages if "archive" in str(m)], 20)


async def test_killed_in_the_middle_it_goes_on(world: World) -> None:
    """kill -9 of the agent while it watches: the next one goes on where it was, starts nothing by itself, and ends
    it."""
    prepare(world)
    await served_and_archived(world)
    await ruin(world)

    async def watching() -> bool:
        incidents = await world.incidents(SERVICE)
        whole = await world.ask(f"/v1/incidents/{incidents[0]['id']}") if incidents else {"runs": []}
        return any(e["action"] == "watch_service" for run in whole["runs"] for e in run["effects"])

    await eventually("it watches", watching, 60, every=0.02)
    await world.kill()
    await world.start()
    incident = await world.incident(SERVICE, "resolved", 60)
    effects = [e["action"] for e in incident["runs"][-1]["effects"] if e["outcome"] != "not_done"]
    assert effects.count("start_service") == effects.count("restore_archive") == 1, story(incident)
    assert await ask(world) == 200


async def dry_run_says_each_step(world: World) -> None:
    """By hand and before anything is wrong: the seven steps in words, each with what it would touch."""
    code, output = await world.command("playbook", "run", "emergency-recovery", "--target", SERVICE, "--dry-run")
    print(f"\n{output}")
    assert code == 0, output
    said = " ".join(output.split())
    for words in (
        "stop service llm-proxy",
        "check that llm-proxy has 64.0 MiB of disk",
        "free ports 8000",
        "remove temporary files of llm-proxy: *.tmp in var/run/llm-proxy",
        "put back the configuration and every database that is not sound",
        "remove the cache of llm-proxy",
        "with its minimal configuration in the place of config/llm-proxy.yaml",
        "watch llm-proxy at most 30 times",
    ):
        assert words in said, words


async def test_the_shipped_ladder_puts_a_broken_configuration_back(world: World) -> None:
    """With the playbooks as shipped a proxy whose file was broken and that died is back without the last resort: the
    last good configuration takes the place of the broken one, which is kept in a restore point."""
    guards = {"backoff_initial": "100ms", "budget": {"1h": 30}, "host_budget": {"1h": 60}}
    world.configure(watch={"backups": {"look_every": "300ms"}, "guards": guards})
    await world.start()
    await eventually("there is an archive", lambda: archives(world), 20)
    await dry_run_says_each_step(world)
    good = (world.root / "config/llm-proxy.yaml").read_bytes()
    master = await world.master()
    (world.root / "config/llm-proxy.yaml").write_bytes(good.replace(b"providers:", b"provider:"))
    await asyncio.sleep(1)
    for pid in [master["pid"], *(worker["pid"] for worker in master["workers"])]:
        os.kill(pid, signal.SIGKILL)
    incident = await world.incident(SERVICE, "resolved", 60)
    print(f"\n{story(incident)}")
    assert (world.root / "config/llm-proxy.yaml").read_bytes() == good
    assert "rung last-good-config: verified" in story(incident)
    assert len(list((world.root / "var/lib/proxywatch/backups/points").glob("*.tar.gz"))) == 1
