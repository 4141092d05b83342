"""What people changed: configuration against its archives, secrets masked."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from planted_evidence import SECRET, context_of, taken

from watchdog.backups.holding import OWN, Holding
from watchdog.backups.making import create
from watchdog.backups.shelf import Shelf
from watchdog.backups.vault import Vault

BEFORE = f"port: 8000\nworkers: 2\npassword: {SECRET}\nlevel: info\nlast: 1\n"


class Kept:
    """A service `web` with two files, and a shelf."""

    def __init__(self, root: Path) -> None:
        self.directory = root
        self.main, self.parts = root / "etc/web.yaml", root / "etc/conf.d"
        self.parts.mkdir(parents=True)
        self.main.write_text(BEFORE)
        self.shelf = Shelf(root / "backups")
        own = root / "etc/proxywatch.yaml"
        own.write_text("log: {}\n")
        os.utime(own, (1, 1))
        holdings = {
            OWN: Holding(OWN, (str(own),), (), ("true",)),
            "web": Holding("web", (str(self.main), str(self.parts / "*.yaml")), (), ("true",)),
        }
        self.vault = Vault(self.shelf, holdings)

    async def archive(self, ago: float) -> Path:
        """Archives what is there as if it had been so long ago."""
        verdict = await create(self.shelf, self.vault.holdings["web"], now=time.time() - ago, reason="a test")
        assert verdict.bad == ""
        return self.shelf.directory / verdict.name

    async def told(self) -> list[str]:
        """The piece, by lines."""
        context = context_of(self.directory, vault=self.vault)
        return (await taken(self.directory, context, "config_changes"))["config_changes"].splitlines()


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


async def test_a_change_is_told_with_its_time_and_its_lines(kept: Kept) -> None:
    """Which file, when, whose, and the difference from the newest archive that differs; what was a secret stays one."""
    archive = await kept.archive(3600)
    kept.main.write_text(BEFORE.replace("workers: 2", "workers: two").replace(SECRET, f"other{SECRET}"))
    os.utime(kept.main, (time.time() - 120, time.time() - 120))
    await kept.archive(60)  # it was taken over, and archived as it is now
    told = await kept.told()
    assert told[0].startswith("web: differs from its archive of 1h")
    assert archive.name in told[0]
    assert re.fullmatch(re.escape(f"{kept.main}, written 2m ") + r"(\d+s )?ago, of \w+:", told[1])
    assert told[2:4] == ["-workers: 2", "+workers: two"]
    assert told[4:] == ["proxywatch: nothing is archived yet to compare with"]


async def test_a_secret_that_changed_is_told_as_changed(kept: Kept) -> None:
    """Without either value."""
    await kept.archive(3600)
    kept.main.write_text(BEFORE.replace(SECRET, f"other{SECRET}"))
    told = await kept.told()
    assert told[1].startswith(f"{kept.main}, written ")
    assert told[1].endswith(": only what is masked here, or blanks")


async def test_files_come_and_go(kept: Kept) -> None:
    """A new file and one that is gone are told as such, and of a block nobody sees what is in it."""
    gone, new = kept.parts / "gone.yaml", kept.parts / "new.yaml"
    gone.write_text("a: 1\n")
    await kept.archive(3600)
    gone.unlink()
    new.write_text(f"private_key: |\n  {SECRET}\n")
    told = await kept.told()
    assert f"{gone}: removed" in told
    assert any(line.startswith(f"{new}: new, written ") for line in told)


async def test_what_did_not_change_is_told_in_a_line(kept: Kept) -> None:
    """For each program one: since when, or that nothing is archived yet."""
    await kept.archive(7200)
    await kept.archive(60)
    first, second = await kept.told()
    assert first.startswith("web: unchanged since its archive of 2h")
    assert second == "proxywatch: nothing is archived yet to compare with"


async def test_a_damaged_archive_is_passed_over(kept: Kept) -> None:
    """The one before it serves."""
    good = await kept.archive(3600)
    kept.main.write_text(BEFORE + "more: 1\n")
    bad = await kept.archive(60)
    bad.write_bytes(bad.read_bytes()[:40])
    told = await kept.told()
    assert good.name in told[0]
    assert "+more: 1" in told


async def test_without_archives_there_is_nothing_to_compare(tmp_path: Path) -> None:
    """It says so."""
    (found,) = (await taken(tmp_path, context_of(tmp_path), "config_changes")).values()
    assert found == "nothing is archived here, so there is nothing to compare with"
