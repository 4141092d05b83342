"""Vacuuming the journal: the real journalctl on real journal files where they can be made, and one that refuses."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from watchdog.core.model import Outcome
from watchdog.errors import ActionError

REMOTE = shutil.which("systemd-journal-remote", path="/usr/lib/systemd:/lib/systemd")


def journal(place: Path, name: str, entries: int) -> None:
    """A real journal file with so many entries of 2 KiB."""
    entry = "__REALTIME_TIMESTAMP={0}\n__MONOTONIC_TIMESTAMP={0}\n_BOOT_ID={1:032x}\nMESSAGE={2}\n\n"
    said = "".join(entry.format(1_600_000_000_000_000 + i, 7, f"{i:08d}" * 256) for i in range(entries))
    argv = (str(REMOTE), "--compress=no", "--split-mode=none", "-o", str(place / f"{name}.journal"), "-")
    subprocess.run(argv, input=said, text=True, check=True, capture_output=True)


@pytest.mark.skipif(
    os.environ.get("CI") != "true" and (REMOTE is None or shutil.which("journalctl") is None),
    reason="systemd-journal-remote makes the files",
)
async def test_archived_files_go_and_the_effect_is_seen(make: Any, tmp_path: Path) -> None:
    """Before: not done. Afterwards the journal takes less, the file in use is there, and looking says: done."""
    place = tmp_path / "journal"
    place.mkdir()
    for name in ("system", f"system@{1:032x}-{1:016x}-{1:016x}", f"system@{1:032x}-{2:016x}-{2:016x}"):
        await asyncio.to_thread(journal, place, name, 50)
    action = make("vacuum_journal", keep_time="1h", journalctl=["journalctl", f"--directory={place}"])
    survey = await action.survey()
    assert survey["bytes"] == pytest.approx(sum(f.stat().st_blocks * 512 for f in place.iterdir()), rel=0.1)
    assert (await action.observe(survey)).outcome is Outcome.NOT_DONE
    assert "the journal takes " in await action.perform(survey)
    assert [file.name for file in place.iterdir()] == ["system.journal"]
    assert (await action.observe(survey)).outcome is Outcome.DONE


def program(tmp_path: Path, script: str) -> list[str]:
    file = tmp_path / "journalctl"
    file.write_text(f'#!/bin/sh\necho "$LC_ALL $@" >> {tmp_path}/calls\n{script}\n')
    file.chmod(0o755)
    return [str(file)]


async def test_what_it_is_told_to_keep(make: Any, tmp_path: Path) -> None:
    """Bytes and seconds, rotated first if asked for, in untranslated words."""
    told = program(tmp_path, 'echo "Archived and active journals take up 1.5G in the file system."')
    action = make("vacuum_journal", keep_size="64MiB", keep_time="2d", rotate=True, journalctl=told)
    assert action.describe() == "vacuum the journal down to 64.0 MiB and 2d"
    survey = await action.survey()
    assert survey == {"bytes": 1.5 * 1024**3}
    await action.perform(survey)
    usage = "C --disk-usage"
    vacuum = f"C --rotate --vacuum-size={64 * 1024**2} --vacuum-time=172800s"
    assert (tmp_path / "calls").read_text().splitlines() == [usage, vacuum, usage]


@pytest.mark.parametrize("freed", ["0B", "8.0M"])
async def test_what_journalctl_may_not_remove_is_no_success(make: Any, tmp_path: Path, freed: str) -> None:
    """It says that it is done where it may not remove a file: that is a missing privilege, and named. Where it freed
    something it had the right."""
    usage = "echo 'Archived and active journals take up 1.5G in the file system.'"
    vacuumed = f"echo 'Vacuuming done, freed {freed} of archived journals from /var/log/no-journal-here.'"
    action = make("vacuum_journal", keep_time="1d", journalctl=program(tmp_path, f"{usage}; {vacuumed}"))
    survey = await action.survey()
    if freed == "0B":
        with pytest.raises(
            ActionError, match="missing privilege CAP_DAC_OVERRIDE with ReadWritePaths=/var/log/no-journal-here"
        ):
            await action.perform(survey)
    else:
        assert "takes 1.5 GiB" in await action.perform(survey)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        pytest.param("echo 'Failed to open: Permission denied'; exit 1", "ended with 1: Failed to open", id="refused"),
        pytest.param("echo 'No journal files were found.'", "does not tell what the journal takes", id="no-figure"),
    ],
)
async def test_a_journalctl_that_does_not_tell(make: Any, tmp_path: Path, script: str, said: str) -> None:
    """Its own words are the failure, and nothing is claimed."""
    action = make("vacuum_journal", keep_time="1d", journalctl=program(tmp_path, script))
    with pytest.raises(ActionError, match=said):
        await action.survey()
    assert (await action.observe({"bytes": 10})).outcome is Outcome.UNKNOWN
