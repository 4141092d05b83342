"""What somebody wrote since a restore outlives its undoing: kept once, named, and put back by a person."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from conftest import Program, corrupt, count, fill

from watchdog.backups.archive import read_files, read_manifest
from watchdog.backups.making import create
from watchdog.backups.minimal import minimal_of
from watchdog.backups.pruning import prune
from watchdog.backups.restoring import Wanted, forget, plan_of, restore
from watchdog.backups.shelf import Shelf
from watchdog.backups.switching import Change, replaced, switch
from watchdog.backups.undoing import is_undone, undo
from watchdog.errors import BackupError

NOW = 1_795_000_000.0
DAY = 86400.0
EDITED, ADDED = "port: 4711\n", "mine: 1\n"


@pytest.fixture
async def point(shelf: Shelf, program: Program) -> Path:
    """A broken configuration was found, and the archive's put in its place."""
    await create(shelf, program.holding, now=NOW, reason="a test")
    program.main.write_text("broken\n")
    return await put_back(shelf, program)


async def put_back(shelf: Shelf, program: Program, wanted: Wanted | None = None) -> Path:
    point = shelf.point_of("web", "1-1")
    async with shelf.lock():
        await restore(shelf, program.holding, wanted or Wanted(), point, now=NOW)
    return point


async def taken_back(shelf: Shelf, program: Program, point: Path) -> str:
    async with shelf.lock():
        return await undo(shelf, program.holding, point, now=NOW + 9)


def kept(shelf: Shelf) -> list[dict[str, str]]:
    """The configuration files of each, by name."""
    return [
        {Path(path).name: content.decode() for path, content in read_files(each.path).items()}
        for each in shelf.archives("web", found=True)
    ]


async def test_what_nobody_touched_is_not_kept(shelf: Shelf, program: Program, point: Path) -> None:
    """Neither the restore's own files nor those it found; nor after a second restore that had nothing left to do."""
    await put_back(shelf, program)
    said = await taken_back(shelf, program, point)
    assert (said, kept(shelf), program.main.read_text()) == ("2 files are as they were found", [], "broken\n")


async def test_an_edited_and_an_added_file_are_kept_and_come_back(shelf: Shelf, program: Program, point: Path) -> None:
    """The undo goes on and says which and where; `restore --archive` puts them in place again, with all the others."""
    added = program.fragment.with_name("zz-mine.yaml")
    added.write_text(ADDED)
    program.main.write_text(EDITED)
    mine = program.every_byte()
    said = await taken_back(shelf, program, point)
    assert program.main.read_text() == "broken\n"
    assert not added.exists()
    (archive,) = shelf.archives("web", found=True)
    assert f"changed since were {program.main}, {added}: kept in {archive.path}" in said
    assert kept(shelf) == [{"web.yaml": EDITED, "one.yaml": "workers: 2\n", "zz-mine.yaml": ADDED}]
    await put_back(shelf, program, Wanted(archive=shelf.find(archive.name)))
    assert program.every_byte() == mine


async def test_a_removed_file_comes_back_and_nothing_is_kept(shelf: Shelf, program: Program, point: Path) -> None:
    """What is gone cannot be lost."""
    program.fragment.unlink()
    await taken_back(shelf, program, point)
    assert is_undone(program.holding, point)
    assert (program.fragment.read_text(), kept(shelf)) == ("workers: 2\n", [])


async def test_undone_twice(shelf: Shelf, program: Program, point: Path) -> None:
    """The same is not kept twice; what was written in between is kept too."""
    program.main.write_text(EDITED)
    first = await taken_back(shelf, program, point)
    assert await taken_back(shelf, program, point) == first
    program.main.write_text(EDITED)
    assert await taken_back(shelf, program, point) == first
    program.main.write_text("port: 4712\n")
    await taken_back(shelf, program, point)
    assert sorted(each["web.yaml"] for each in kept(shelf)) == [EDITED, "port: 4712\n"]


LIFE = """
import asyncio, sys
from pathlib import Path
from watchdog.backups.holding import Holding
from watchdog.backups.shelf import Shelf
from watchdog.backups.undoing import undo
main, fragments, directory, point = sys.argv[1:]

async def live():
    shelf = Shelf(Path(directory))
    async with shelf.lock():
        await undo(shelf, Holding("web", (main, fragments)), Path(point), now={now})

asyncio.run(live())
"""
KILLS = """
import os, signal, sys
seen = 0
def kill(event, arguments):
    global seen
    if event == {event!r} and {where!r} in str(arguments[0]):
        seen += 1
        if seen == {at}:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(kill)
"""


@pytest.mark.parametrize(
    ("event", "where", "at"),
    [
        ("os.rename", "-found.tar.gz.new", 1),
        ("os.remove", "/zz-mine", 1),
        ("os.rename", ".proxywatch-new", 1),
        ("os.rename", ".proxywatch-new", 2),
    ],
    ids=["while-it-is-kept", "before-the-first-change", "first-file", "second-file"],
)
async def test_killed_in_its_middle(
    shelf: Shelf, program: Program, point: Path, event: str, where: str, at: int
) -> None:
    """Whoever goes on ends it, with nothing kept twice and nothing lost, and says all that was kept."""
    added = program.fragment.with_name("zz-mine.yaml")
    added.write_text(ADDED)
    program.main.write_text(EDITED)
    program.fragment.write_text("workers: 5\n")
    life = KILLS.format(event=event, where=where, at=at) + LIFE.format(now=NOW + 9)
    status = os.spawnv(
        os.P_WAIT,
        sys.executable,
        [sys.executable, "-c", life, *program.holding.patterns, str(shelf.directory), str(point)],
    )
    assert status == -signal.SIGKILL
    assert not is_undone(program.holding, point)
    said = await taken_back(shelf, program, point)
    assert is_undone(program.holding, point)
    assert kept(shelf) == [{"web.yaml": EDITED, "one.yaml": "workers: 5\n", "zz-mine.yaml": ADDED}]
    assert f"{program.main}, {program.fragment}, {added}: kept in" in said
    assert [path.name for path in program.root.rglob(".*")] == []


async def test_rows_written_since_are_kept(shelf: Shelf, program: Program) -> None:
    """A database that the service went on writing is kept whole; without that none is copied."""
    await create(shelf, program.holding, now=NOW, reason="a test")
    corrupt(program.database)
    found = program.database.read_bytes()
    point = await put_back(shelf, program, Wanted(databases=True))
    fill(program.database, 7)
    written = program.database.read_bytes()
    assert str(program.database) in await taken_back(shelf, program, point)
    assert program.database.read_bytes() == found
    (archive,) = shelf.archives("web", found=True)
    digest = {member.path: member.size for member in read_manifest(archive.path).members}
    assert digest[str(program.database)] == len(written)
    await put_back(shelf, program, Wanted(files=False, databases=True))
    assert count(program.database) == 500
    program.main.write_text(EDITED)
    await taken_back(shelf, program, point)
    newest = shelf.archives("web", found=True)[0]
    assert [m.kind for m in read_manifest(newest.path).members] == ["file", "file"]


async def test_our_own_minimal_configuration_is_nobodys_writing(shelf: Shelf, program: Program, point: Path) -> None:
    """It is made anew at any time; once somebody has written into it, it is kept."""
    smaller = minimal_of(program.main.read_bytes(), {"workers": 1})
    (member,) = [m for m in read_manifest(point).members if m.path == str(program.main)]
    switch([Change(str(program.main), smaller, replaced(member, smaller, int(NOW * 1e9)))])
    await taken_back(shelf, program, point)
    assert kept(shelf) == []
    program.main.write_bytes(smaller + b"mine: 1\n")
    await taken_back(shelf, program, point)
    assert [each["web.yaml"] for each in kept(shelf)] == [smaller.decode() + "mine: 1\n"]


async def test_a_link_is_kept_as_what_it_leads_to(shelf: Shelf, program: Program, point: Path) -> None:
    """The undo of an unattended run does not stop at it."""
    link = program.fragment.with_name("zz-mine.yaml")
    (program.root / "elsewhere").write_text(ADDED)
    link.symlink_to(program.root / "elsewhere")
    await taken_back(shelf, program, point)
    assert not link.is_symlink()
    assert kept(shelf)[0]["zz-mine.yaml"] == ADDED


async def test_what_cannot_be_kept_is_not_taken_back(shelf: Shelf, program: Program, point: Path) -> None:
    """Where the copy cannot be written, everything stays as somebody wrote it."""
    program.main.write_text(EDITED)
    (shelf.points / f".{shelf.place('web', NOW + 9, found=True).name}.new").mkdir()
    with pytest.raises(BackupError, match="cannot be written"):
        await undo(shelf, program.holding, point, now=NOW + 9)
    assert program.main.read_text() == EDITED


async def test_plans_go_with_their_points(shelf: Shelf, program: Program, point: Path) -> None:
    """One whose point is there stays however old, an orphan goes; what an undo found goes by its age."""
    orphan = plan_of(shelf.points / "web-20200101T000000Z.tar.gz")
    orphan.write_text("{}\n")
    program.main.write_text(EDITED)
    await taken_back(shelf, program, point)
    async with shelf.lock():
        await prune(shelf, program.holding, now=NOW, keep=30 * DAY, at_least=0)
    assert (orphan.exists(), plan_of(point).exists(), len(kept(shelf))) == (False, True, 1)
    forget(point)
    async with shelf.lock():
        await prune(shelf, program.holding, now=NOW + 60 * DAY, keep=30 * DAY, at_least=0)
    assert list(shelf.points.iterdir()) == []
