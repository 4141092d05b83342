"""Removing files by list: what goes, and above all what stays."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from watchdog.core.model import Outcome
from watchdog.errors import ActionError

DAY = 86400


def old(file: Path, days: float = 10, content: bytes = bytes(5000)) -> Path:
    """A file that was last written so many days ago."""
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    written = file.stat().st_mtime - days * DAY
    os.utime(file, (written, written))
    return file


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    found = tmp_path / "archive"
    found.mkdir()
    return found


async def test_only_what_the_list_means_goes(make: Any, place: Path) -> None:
    """Old files of the pattern go; young ones, other names, directories and what is in them stay."""
    old(place / "a.tmp")
    old(place / "b.tmp")
    old(place / "young.tmp", days=0.5)
    old(place / "a.log")
    old(place / "below.tmp" / "c.tmp")
    action = make("remove_files", directories=[str(place)], patterns=["*.tmp"], min_age="1d")
    survey = json.loads(json.dumps(await action.survey()))
    assert (await action.perform(survey)).startswith("removed 2 files, freed ")
    assert names(place) == {"young.tmp", "a.log", "below.tmp"}
    assert names(place / "below.tmp") == {"c.tmp"}


async def test_the_newest_stay_whatever_their_age(make: Any, place: Path) -> None:
    """Of four old archives the newest two are kept, in each directory of the list."""
    other = place.with_name("other")
    for days in (10, 20, 30, 40):
        old(place / f"{days}.tar.gz", days)
    old(other / "1.tar.gz", 90)
    action = make(
        "remove_files", directories=[str(place), str(other)], patterns=["*.tar.gz"], min_age="15d", keep_newest=2
    )
    await action.perform(await action.survey())
    assert names(place) == {"10.tar.gz", "20.tar.gz"}
    assert names(other) == {"1.tar.gz"}


async def test_no_symbolic_link_leads_elsewhere(make: Any, place: Path) -> None:
    """Neither a link to a file, nor a listed directory that is a link or lies behind one."""
    victim = old(place.with_name("victim") / "v.tmp")
    (place / "link.tmp").symlink_to(victim)
    (place / "linked").symlink_to(victim.parent)
    beyond = [str(place / "linked"), str(place / "linked" / "deeper")]
    action = make("remove_files", directories=[str(place), *beyond], patterns=["*.tmp"], min_age="1d")
    survey = await action.survey()
    assert survey["files"] == []
    with pytest.raises(ActionError, match=r"removed 0 files.*linked: Not a directory"):
        await action.perform(survey)
    assert victim.exists()
    assert (place / "link.tmp").is_symlink()


async def test_a_directory_that_became_a_link_is_not_entered(make: Any, place: Path) -> None:
    """Somebody swaps the directory between survey and effect: nothing is removed where the link leads."""
    victim = old(place.with_name("victim") / "a.tmp")
    old(place / "a.tmp")
    action = make("remove_files", directories=[str(place)], patterns=["*.tmp"], min_age="1d")
    survey = await action.survey()
    place.rename(place.with_name("moved"))
    place.symlink_to(victim.parent)
    with pytest.raises(ActionError, match="removed 0 files"):
        await action.perform(survey)
    assert victim.exists()
    assert (await action.observe(survey)).outcome is Outcome.UNKNOWN


async def test_what_changed_since_the_survey_stays(make: Any, place: Path) -> None:
    """A file that was written again, and another one under an old name, are not those that were meant."""
    written, replaced, gone = old(place / "a.tmp"), old(place / "b.tmp"), old(place / "c.tmp")
    action = make("remove_files", directories=[str(place)], patterns=["*.tmp"], min_age="1d")
    survey = await action.survey()
    written.write_text("in use again")
    old(place / "new").rename(replaced)
    gone.unlink()
    assert await action.perform(survey) == "removed 0 files, freed 0 B"
    assert names(place) == {"a.tmp", "b.tmp"}


async def test_after_a_crash_the_files_tell(make: Any, place: Path) -> None:
    """All as they were: not done. One left: not done, for going on is harmless. None left: done."""
    first, second = old(place / "a.tmp"), old(place / "b.tmp")
    action = make("remove_files", directories=[str(place)], patterns=["*.tmp"], min_age="1d")
    survey = json.loads(json.dumps(await action.survey()))
    assert (await action.observe(survey)).outcome is Outcome.NOT_DONE
    first.unlink()
    assert (await action.observe(survey)).outcome is Outcome.NOT_DONE
    second.unlink()
    assert (await action.observe(survey)).outcome is Outcome.DONE


async def test_a_missing_directory_hides_no_other(make: Any, place: Path) -> None:
    """The files of the other go, and the step fails with the one that is missing."""
    old(place / "a.tmp")
    missing = place.with_name("missing")
    action = make("remove_files", directories=[str(missing), str(place)], patterns=["*.tmp"], min_age="1d")
    with pytest.raises(ActionError, match=r"removed 1 files.*missing: No such file"):
        await action.perform(await action.survey())
    assert names(place) == set()


async def test_whatever_is_planted_beside_the_files_stays(make: Any, place: Path) -> None:
    """Links hard and symbolic, a directory, a pipe, a socket: names that match, none of which is a file to free. Names
    with line ends or blanks are only names."""
    elsewhere = old(place.with_name("elsewhere") / "precious")
    os.link(elsewhere, place / "hard.tmp")
    (place / "soft.tmp").symlink_to(elsewhere)
    (place / "nowhere.tmp").symlink_to(place / "missing")
    old(place / "directory.tmp" / "in.tmp")
    os.mkfifo(place / "pipe.tmp")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place / "socket.tmp"))
        planted = names(place)
        old(place / "a\nb.tmp")
        old(place / " .tmp")
        for path in place.iterdir():
            os.utime(path, (1, 1), follow_symlinks=False)
        action = make("remove_files", directories=[str(place)], patterns=["*.tmp"], min_age="1d")
        survey = json.loads(json.dumps(await action.survey()))
        assert (await action.perform(survey)).startswith("removed 2 files")
    assert names(place) == planted
    assert elsewhere.read_bytes() == bytes(5000)


async def test_a_file_that_got_another_name_since_the_survey_stays(make: Any, place: Path) -> None:
    """A hard link made in between frees nothing by the removal, and somebody wanted to keep it."""
    kept = old(place / "a.tmp")
    action = make("remove_files", directories=[str(place)], patterns=["*.tmp"], min_age="1d")
    survey = await action.survey()
    os.link(kept, place / "kept")
    assert await action.perform(survey) == "removed 0 files, freed 0 B"
    assert names(place) == {"a.tmp", "kept"}


async def test_a_relative_place_is_below_where_the_agent_works(
    make: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As paths of state are; where that would be a part of the system nothing is touched."""
    old(place / "var" / "a.tmp")
    monkeypatch.chdir(place.parent)
    action = make("remove_files", directories=["archive/var"], patterns=["*.tmp"], min_age="1d")
    survey = await action.survey()
    monkeypatch.chdir("/usr")
    assert (await action.survey())["troubles"] == ["archive/var: '/usr/archive/var' belongs to the system"]
    assert (await action.perform(survey)).startswith("removed 1 files")
