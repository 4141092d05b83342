"""A filesystem that fills up, for real: what is listed goes, what is not stays, and nothing leads elsewhere."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from world import World, eventually, story

DISK = pytest.mark.skipif(os.geteuid() != 0 and os.environ.get("CI") != "true", reason="mounting needs root")
MIB = 1024 * 1024


def filled(file: Path, mebibytes: float, *, squeezable: bool = False) -> Path:
    """A file of last month."""
    size = int(mebibytes * MIB)
    file.write_bytes(bytes(size) if squeezable else os.urandom(size))
    aged(file)
    return file


def aged(file: Path) -> None:
    then = time.time() - 30 * 86400
    os.utime(file, (then, then), follow_symlinks=False)


@contextlib.asynccontextmanager
async def small_disk(world: World, place: Path, options: str, **watch: Any) -> AsyncIterator[Path]:
    """A small filesystem at `place`, and a configuration that looks at it often; where the proxy's logs would be."""
    place.mkdir(parents=True)
    subprocess.run(("mount", "-t", "tmpfs", "-o", options, "none", place), check=True)
    logs = world.root / "var/log/llm-proxy"
    logs.mkdir(parents=True)
    world.configure(watch={"probes": {"places": {"interval": "200ms"}}, **watch})
    for file, changes in (
        ("rules/disk.yaml", (("interval: 15s", "interval: 250ms"), ("for: 2m", "for: 0s"), ("for: 30s", "for: 0s"))),
        ("playbooks/free-disk.yaml", (("hold: 3s, within: 45s", "hold: 400ms, within: 1500ms"),)),
    ):
        path = world.root / "config" / file
        text = path.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)
    try:
        yield logs
    finally:
        await world.stop()
        subprocess.run(("umount", place), check=True)


@pytest.fixture
async def logs(world: World) -> AsyncIterator[Path]:
    """Where the world's logs are: a small filesystem of its own."""
    async with small_disk(world, world.root / "var/log", "size=16m,nr_inodes=400") as found:
        yield found


async def following(world: World, logs: Path, number: int, state: str, disk: Path | None = None) -> dict[str, Any]:
    """The disk's incident of that number, once it is in `state`."""
    target = f"filesystem:{disk or logs.parent}"

    async def there() -> bool:
        return len(await world.incidents(target)) == number

    await eventually(f"incident {number} of {target}", there, 20)
    return await world.incident(target, state, 30)


@DISK
async def test_a_full_disk_gets_room_from_what_is_listed_and_from_nothing_else(world: World, logs: Path) -> None:
    """First old logs are compressed; then temporary files go, but nothing that only looks like one; where inodes are
    short nothing is compressed in vain; and when the list gives nothing more, a person gets to see what is big."""
    await world.start()

    bulk = filled(logs / "bulk", 9)
    filled(logs / "llm_proxy.log.20261001T000000", 6, squeezable=True)
    told = story(await following(world, logs, 1, "resolved"))
    assert "rung compress-logs: verified" in told
    assert "evidence: disk_usage: " in told
    assert not (logs / "llm_proxy.log.20261001T000000").exists()
    assert (logs / "llm_proxy.log.20261001T000000.gz").exists()

    outside = filled(world.root / "outside.tmp", 0.1)
    (logs / "link.tmp").symlink_to(outside)
    (logs / "folder.tmp").mkdir()
    aged(logs / "link.tmp")
    kept = filled(logs / "hard.tmp", 0.1)
    os.link(kept, logs / "kept")
    (logs / "young.tmp").write_text("of now")
    filled(logs / "a\nb.tmp", 6)
    told = story(await following(world, logs, 2, "resolved"))
    assert "rung temporary-files: verified" in told
    assert "rung vacuum-journal: skipped" in told
    left = {path.name for path in logs.iterdir() if path.suffix == ".tmp"}
    assert left == {"link.tmp", "folder.tmp", "hard.tmp", "young.tmp"}
    assert outside.exists()

    for number in range(360):
        filled(logs / f"{number}.tmp", 0)
    incident = await following(world, logs, 3, "resolved")
    assert incident["alertnames"] == ["InodesLow"]
    told = story(incident)
    assert "rung compress-logs: skipped" in told
    assert "rung temporary-files: verified" in told

    filled(logs / "hoard", 6)
    incident = await following(world, logs, 4, "escalated")
    told = story(incident)
    assert "the ladder is exhausted" in told
    (evidence,) = [line["data"]["text"] for line in incident["timeline"] if line["data"].get("name") == "disk_usage"]
    assert f"   9.0 MiB  '{bulk}'" in evidence
    assert bulk.stat().st_size == 9 * MIB


@DISK
async def test_a_disk_that_is_full_to_the_last_byte_holds_the_agent_up_no_longer(world: World) -> None:
    """Its own memory lies there too, and without it nothing is done: a reserve is given up for it, and is there again
    when there is room."""
    disk = world.root / "var"
    async with small_disk(world, disk, "size=48m", services={"llm-proxy": None}) as logs:
        filled(logs / "old.tmp", 20)
        await world.start()
        reserve = disk / "lib/proxywatch/reserve"
        await eventually("a reserve is laid aside", reserve.exists, 20)
        with (disk / "hoard").open("wb") as hoard, contextlib.suppress(OSError):
            while True:
                hoard.write(bytes(65536))
                hoard.flush()
        told = story(await following(world, logs, 1, "resolved", disk))
        assert "rung temporary-files: verified" in told
        assert not (logs / "old.tmp").exists()
        await eventually("the reserve is laid aside again", reserve.exists, 20)
