"""A restore by a user who may write where the configuration is, but is not root."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from watchdog.backups.holding import member_of
from watchdog.backups.switching import Change, switch

NOBODY = 65534
GROUP = 4242


@contextmanager
def as_nobody() -> Iterator[None]:
    """What is inside is done by nobody; the user is the whole process's, and nothing else runs in it meanwhile."""
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="taking another user's place needs root")
def test_a_file_of_root_comes_back_as_the_own_and_stays_readable_for_its_group(tmp_path: Path) -> None:
    """The agent returns what an administrator wrote: content and mode are as archived, the group is the directory's."""
    place = tmp_path / "etc"
    place.mkdir()
    os.chown(place, NOBODY, GROUP)
    place.chmod(0o2750)
    for part in (tmp_path, *tmp_path.parents):
        if not part.stat().st_mode & 0o001:
            part.chmod(part.stat().st_mode | 0o001)  # pytest's own directories, which nobody else may enter
    file = place / "web.yaml"
    file.write_text("port: 8000\n")
    file.chmod(0o640)
    member = member_of(file, "file", file.stat(), 11, hashlib.sha256(b"port: 8000\n").hexdigest())
    file.write_text("port: none\n")
    with as_nobody():
        switch([Change(str(file), b"port: 8000\n", member)])
    found = file.stat()
    assert file.read_text() == "port: 8000\n"
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (NOBODY, GROUP, 0o640)


@pytest.mark.skipif(os.geteuid() != 0, reason="taking another user's place needs root")
def test_in_a_shared_directory_the_group_may_do_what_the_owner_could(tmp_path: Path) -> None:
    """A database that only its owner could use comes back as the agent's, and its service uses it through the group."""
    place = tmp_path / "state"
    place.mkdir()
    os.chown(place, NOBODY, GROUP)
    place.chmod(0o2770)
    for part in (tmp_path, *tmp_path.parents):
        if not part.stat().st_mode & 0o001:
            part.chmod(part.stat().st_mode | 0o001)
    file = place / "ledger.sqlite"
    file.write_text("rows")
    file.chmod(0o600)
    member = member_of(file, "database", file.stat(), 4, hashlib.sha256(b"rows").hexdigest())
    with as_nobody():
        switch([Change(str(file), b"rows", member)])
    found = file.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (NOBODY, GROUP, 0o660)
