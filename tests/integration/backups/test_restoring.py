"""Put back by hand: what is chosen, what is refused, and the way back; and what the keeper archives by itself."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from conftest import Program, corrupt, count, fill

from watchdog.backups.keeper import Keeper
from watchdog.backups.making import create, create_point
from watchdog.backups.pruning import prune
from watchdog.backups.restoring import Wanted, is_restored, restore
from watchdog.backups.shelf import Shelf
from watchdog.backups.switching import Change, switch
from watchdog.backups.undoing import is_undone, undo
from watchdog.backups.vault import Vault
from watchdog.clock import FakeClock
from watchdog.errors import BackupError

NOW = 1_795_000_000.0
DAY = 86400.0


async def archived(shelf: Shelf, program: Program, at: float = NOW) -> str:
    """Its name."""
    verdict = await create(shelf, program.holding, now=at, reason="a test")
    assert verdict.bad == ""
    return verdict.name


async def put_back(shelf: Shelf, program: Program, wanted: Wanted | None = None, run: str = "1-1") -> str:
    async with shelf.lock():
        return await restore(shelf, program.holding, wanted or Wanted(), shelf.point_of("web", run), now=NOW)


@contextmanager
def writing(database: Path) -> Iterator[None]:
    """Somebody has it open, with rows that are in the log beside it only."""
    with closing(sqlite3.connect(database)) as opened:
        opened.execute("PRAGMA wal_autocheckpoint=0")
        opened.execute("INSERT INTO rows (text) VALUES ('in the log')")
        opened.commit()
        yield


async def test_a_database_in_use_is_copied_with_its_last_row(shelf: Shelf, program: Program, tmp_path: Path) -> None:
    """The online copy has what stands only in the log of the running writer."""
    with writing(program.database):
        name = await archived(shelf, program)
    program.database.write_bytes(b"gone")
    said = await put_back(shelf, program, Wanted(databases=True))
    assert f"rows.sqlite (file is not a database) from {name}" in said
    assert count(program.database) == 501


async def test_only_what_verifies_is_put_back(shelf: Shelf, program: Program) -> None:
    """Damaged, refused by its program, of a database that is corrupt: each is passed over, with why."""
    good = await archived(shelf, program, NOW)
    whole = program.main.read_bytes()
    refused = await archived_as(shelf, program, b"prot: 1\n", NOW + 1)
    damaged = await archived_as(shelf, program, b"port: 9000\n", NOW + 2)
    (shelf.directory / damaged).write_bytes((shelf.directory / damaged).read_bytes()[:-9])
    program.main.write_text("broken")
    said = await put_back(shelf, program)
    assert said.startswith(f"configuration from {good}; passed over {damaged}: truncated; passed over {refused}: ")
    assert "port: is required and missing" in said
    assert program.main.read_bytes() == whole


async def archived_as(shelf: Shelf, program: Program, text: bytes, at: float) -> str:
    program.main.write_bytes(text)
    return (await create(shelf, program.holding, now=at, reason="a test")).name


async def test_rights_and_times_come_back_and_strangers_go(shelf: Shelf, program: Program) -> None:
    """A fragment that was added later is removed, and stands in the restore point; a secret beside it stays."""
    await archived(shelf, program)
    before = program.every_byte()
    added = program.fragment.with_name("zzz.yaml")
    added.write_text("bad: 1\n")
    program.main.write_text("port: 1\n")
    program.main.chmod(0o600)
    found = program.every_byte()
    await put_back(shelf, program)
    assert program.every_byte() == before
    async with shelf.lock():
        await undo(shelf, program.holding, shelf.point_of("web", "1-1"), now=NOW)
    assert program.every_byte() == found


async def test_another_configuration_than_the_one_in_place(shelf: Shelf, program: Program) -> None:
    """`different` goes back behind archives of what is in place; without one that differs nothing is done."""
    await archived(shelf, program, NOW)
    newest = await archived_as(shelf, program, b"port: 9\n", NOW + 1)
    said = await put_back(shelf, program, Wanted(different=True))
    assert f"passed over {newest}: it holds what is in place already" in said
    assert program.main.read_text() == "port: 8000\n"
    (shelf.directory / newest).unlink()
    with pytest.raises(BackupError, match=r"no archive of web has a configuration to put back: .* in place already"):
        await put_back(shelf, program, Wanted(different=True), "2-1")


async def test_nothing_is_put_where_the_configuration_does_not_say(shelf: Shelf, program: Program) -> None:
    """An archive of files that are no longer the program's is refused, as is one of another program."""
    name = await archived(shelf, program)
    moved = Program(program.root / "moved")
    shutil.copyfile(shelf.directory / name, shelf.directory / name.replace("web-", "web-1"))
    with pytest.raises(BackupError, match="which is no file of web today"):
        await put_back(shelf, moved)


async def test_a_restore_that_was_killed_in_its_middle(shelf: Shelf, program: Program) -> None:
    """Half of the renames happened: it is told from one that ended; doing it again ends it, and the restore point still
    is what was found first."""
    await archived(shelf, program)
    program.main.write_text("broken")
    program.fragment.write_text("bad")
    found = program.every_byte()
    point = shelf.point_of("web", "1-1")
    await put_back(shelf, program)
    assert is_restored(point)
    program.fragment.write_text("bad")
    draft = program.fragment.with_name(f".{program.fragment.name}.proxywatch-new")
    draft.write_text("half")
    assert not is_restored(point)
    assert not is_undone(program.holding, point)
    await put_back(shelf, program)
    assert is_restored(point)
    assert not draft.exists()
    async with shelf.lock():
        await undo(shelf, program.holding, point, now=NOW)
    assert is_undone(program.holding, point)
    assert program.every_byte() == found


async def test_a_restore_point_keeps_the_damage(shelf: Shelf, program: Program) -> None:
    """A corrupt database and the log beside it come back to the byte, whatever SQLite thinks of them."""
    await archived(shelf, program)
    corrupt(program.database)
    Path(f"{program.database}-wal").write_bytes(b"what a crash left")
    found = program.every_byte()
    said = await put_back(shelf, program, Wanted(databases=True))
    assert "rows.sqlite (" in said
    assert count(program.database) == 500
    async with shelf.lock():
        await undo(shelf, program.holding, shelf.point_of("web", "1-1"), now=NOW)
    assert program.every_byte() == found


async def test_a_database_that_is_corrupt_already_is_left_out(shelf: Shelf, program: Program) -> None:
    """The archive is made all the same, says why, and still brings the configuration back."""
    corrupt(program.database)
    verdict = await create(shelf, program.holding, now=NOW, reason="a test")
    assert verdict.bad == ""
    assert verdict.manifest is not None
    assert list(verdict.manifest.left_out) == [str(program.database)]
    program.main.write_text("broken")
    await put_back(shelf, program)
    assert program.main.read_text() == "port: 8000\n"
    with pytest.raises(BackupError, match=r"no archive of web has a sound rows\.sqlite"):
        await put_back(shelf, program, Wanted(databases=True), "2-1")


def test_all_or_nothing_is_switched(program: Program, tmp_path: Path) -> None:
    """Where one file cannot be prepared none is replaced, and nothing is left beside them."""
    before = program.every_byte()
    member_of_main = _member(program.main)
    missing = tmp_path / "no such content"
    with pytest.raises(BackupError, match="no such content: cannot be written"):
        switch(
            [
                Change(str(program.main), b"new", member_of_main),
                Change(str(program.fragment), missing, _member(program.fragment)),
            ]
        )
    assert program.every_byte() == before


def _member(path: Path):  # type: ignore[no-untyped-def]
    from watchdog.backups.holding import member_of

    return member_of(path, "file", path.stat(), 3, "0" * 64)


async def test_links_are_refused_with_what_to_do(shelf: Shelf, program: Program) -> None:
    """A configuration file that is a symbolic link would be replaced by a file: it is told instead."""
    real = program.main.with_name("real.yaml")
    program.main.rename(real)
    program.main.symlink_to(real)
    with pytest.raises(BackupError, match="is a symbolic link: name the file itself"):
        await create(shelf, program.holding, now=NOW, reason="a test")


async def test_old_archives_go_but_never_the_last_good_ones(shelf: Shelf, program: Program) -> None:
    """Older than 30 days goes, except the newest two that verify; a bad one does not count as one of them."""
    names = [await archived(shelf, program, NOW + day * DAY) for day in range(5)]
    bad = shelf.directory / names[4]
    bad.write_bytes(bad.read_bytes()[:-9])
    async with shelf.lock():
        gone = await prune(shelf, program.holding, now=NOW + 60 * DAY, keep=30 * DAY, at_least=2)
    assert {archive.name for archive in gone} == {names[0], names[1], names[4]}
    assert [archive.name for archive in shelf.archives("web")] == [names[3], names[2]]
    async with shelf.lock():
        assert await prune(shelf, program.holding, now=NOW + 4 * DAY, keep=30 * DAY, at_least=2) == []


async def test_the_last_accepted_configuration_is_always_archived(shelf: Shelf, program: Program) -> None:
    """Accepted at the start, then a change that is refused, then a good one: each good one is archived once, a touched
    file is none, and what is refused never is; the figures say so."""
    clock = FakeClock(NOW)
    keeper = Keeper(Vault(shelf, {"web": program.holding}), clock, keep=30 * DAY, at_least=3)

    def figures() -> dict[str, float]:
        return {s.name.removeprefix("proxywatch_"): s.value for s in keeper.samples()}

    await keeper.look()
    first = program.main.read_bytes()
    assert figures()["configuration_good"] == 1
    assert len(shelf.archives("web")) == 1
    clock.advance(60)
    program.main.write_text("prot: 1\n")
    await keeper.look()
    assert figures()["configuration_good"] == 0
    assert figures()["configuration_changed_timestamp_seconds"] == clock.now()
    assert len(shelf.archives("web")) == 1
    clock.advance(60)
    program.main.write_bytes(first)
    await keeper.look()
    assert figures()["configuration_good"] == 1
    assert len(shelf.archives("web")) == 1
    clock.advance(60)
    program.main.write_text("port: 9000\n")
    await keeper.look()
    await keeper.look()
    assert len(shelf.archives("web")) == 2
    assert figures()["backup_good"] == 1
    assert figures()["backup_newest_timestamp_seconds"] == int(clock.wall())


async def test_what_was_in_force_is_archived_before_a_change(shelf: Shelf, program: Program) -> None:
    """Even when the file on the disk has been overwritten already: it was remembered."""
    keeper = Keeper(Vault(shelf, {"web": program.holding}), FakeClock(NOW), keep=30 * DAY, at_least=3)
    await keeper.remember("web")
    program.main.write_text("port: 9000\n")
    await keeper.before_change("web")
    await put_back(shelf, program)
    assert program.main.read_text() == "port: 8000\n"


async def test_a_point_that_is_there_is_kept(shelf: Shelf, program: Program) -> None:
    """A run that goes on after a crash does not take its own half-made changes for what it found."""
    async with shelf.lock():
        point = shelf.point_of("web", "1-1")
        await create_point(program.holding, point, now=NOW, with_databases=True)
        made = point.read_bytes()
        fill(program.database, 1)
        await create_point(program.holding, point, now=NOW + 9, with_databases=True)
    assert point.read_bytes() == made
