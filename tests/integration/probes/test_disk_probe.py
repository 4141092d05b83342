"""The disk probe on real filesystems: figures as df has them, presence of mounts, changes of the mount table."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from watchdog.clock import SystemClock
from watchdog.core.model import Sample
from watchdog.probes import MeasurementError, ProbeContext
from watchdog.probes.disk import DiskProbe, DiskProbeSettings
from watchdog.system.http import HttpClient

IS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def probe_of(http: HttpClient, **settings: Any) -> DiskProbe:
    return DiskProbe(DiskProbeSettings(kind="disk", **settings), ProbeContext("mine", SystemClock(), http, {}, {}))


def figures(samples: Iterable[Sample], path: Path) -> dict[str, float]:
    return {s.name.removeprefix("disk_"): s.value for s in samples if dict(s.labels)["path"] == str(path)}


@contextlib.asynccontextmanager
async def tmpfs(place: Path, options: str) -> AsyncIterator[None]:
    place.mkdir()
    await asyncio.to_thread(subprocess.run, ("mount", "-t", "tmpfs", "-o", options, "none", place), check=True)
    try:
        yield
    finally:
        await asyncio.to_thread(subprocess.run, ("umount", place), check=True)


@IS_ROOT
async def test_the_figures_are_those_of_df(tmp_path: Path, http: HttpClient) -> None:
    """Size, use and inodes of a small filesystem that is a quarter full are what df says of it."""
    place = tmp_path / "small"
    async with tmpfs(place, "size=4m,nr_inodes=100"):
        (place / "content").write_bytes(bytes(1024 * 1024))
        found = figures((await probe_of(http, mount_points=[place]).measure()).samples, place)
        columns = "--output=size,avail,itotal,iavail"
        said = await asyncio.to_thread(subprocess.check_output, ("df", "-B1", columns, place), text=True)
    size, available, inodes, inodes_free = map(int, said.splitlines()[1].split())
    assert (found["size_bytes"], found["available_bytes"]) == (size, available)
    assert (found["inodes"], found["inodes_free"]) == (inodes, inodes_free)
    assert found["used_ratio"] == 0.25
    assert found["inodes_used_ratio"] == 0.02
    assert (found["mounted"], found["read_only"]) == (1, 0)


@IS_ROOT
async def test_a_read_only_mount_of_a_writable_filesystem_is_no_fault_of_the_disk(
    tmp_path: Path, http: HttpClient
) -> None:
    """Under ProtectSystem=strict a unit sees /var/log as read-only, and the disk is well: the filesystem is asked."""
    place = tmp_path / "seen"
    async with tmpfs(place, "size=1m"):
        await asyncio.to_thread(subprocess.run, ("mount", "-o", "remount,bind,ro", place), check=True)
        assert os.statvfs(place).f_flag & os.ST_RDONLY
        assert figures((await probe_of(http, paths=[place]).measure()).samples, place)["read_only"] == 0


@IS_ROOT
async def test_a_mount_and_its_loss_are_announced(tmp_path: Path, http: HttpClient) -> None:
    """Without waiting for the interval: mounted with its figures (and read-only), then missing and nothing else."""
    place = tmp_path / "a b"
    probe = probe_of(http, mount_points=[place])
    heard: asyncio.Queue[dict[str, float]] = asyncio.Queue()
    task = asyncio.create_task(probe.watch(lambda samples: heard.put_nowait(figures(samples, place))))
    try:
        await asyncio.sleep(0)
        async with asyncio.timeout(20), tmpfs(place, "ro,size=1m"):
            while not (found := await heard.get())["mounted"]:
                pass
            assert found["read_only"] == 1
            assert found["used_ratio"] == 0
        async with asyncio.timeout(20):
            while (found := await heard.get())["mounted"]:
                pass
        assert found == {"mounted": 0}
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_is_not_mounted_is_measured_as_such(tmp_path: Path, http: HttpClient) -> None:
    """A plain directory in a mount's place gives `disk_mounted` 0 and no figures of the disk beneath."""
    measurement = await probe_of(http, mount_points=[tmp_path, Path("/proc")]).measure()
    assert figures(measurement.samples, tmp_path) == {"mounted": 0}
    assert figures(measurement.samples, Path("/proc"))["mounted"] == 1
    assert str(tmp_path) in measurement.note


async def test_a_missing_path_does_not_hide_the_others(tmp_path: Path, http: HttpClient) -> None:
    """It is named in the failure, which carries the figures of the others."""
    with pytest.raises(MeasurementError, match="none: No such file") as caught:
        await probe_of(http, paths=[tmp_path / "none", tmp_path]).measure()
    assert figures(caught.value.samples, tmp_path)["size_bytes"] > 0
    assert not figures(caught.value.samples, tmp_path / "none")


@pytest.mark.parametrize(
    "paths", [pytest.param({}, id="none"), pytest.param({"paths": ["/"], "mount_points": ["/"]}, id="twice")]
)
def test_paths_are_given_and_given_once(paths: dict[str, Any]) -> None:
    """No path, and one path in both lists, are refused when the configuration is read."""
    with pytest.raises(ValidationError, match=r"expected at least one|twice"):
        DiskProbeSettings.model_validate({"kind": "disk", **paths})


@IS_ROOT
async def test_each_figure_names_its_filesystem(tmp_path: Path, http: HttpClient) -> None:
    """By the mount point that holds the path, through a symbolic link too, and whatever the name is made of."""
    place, link = tmp_path / "a b", tmp_path / "link"
    async with tmpfs(place, "size=4m"):
        (place / "below").mkdir()
        link.symlink_to(place / "below")
        samples = (await probe_of(http, paths=[place / "below", link, tmp_path]).measure()).samples
    homes = {dict(s.labels)["path"]: dict(s.labels)["mountpoint"] for s in samples}
    assert homes[str(place / "below")] == homes[str(link)] == str(place)
    assert tmp_path.is_relative_to(homes[str(tmp_path)])
