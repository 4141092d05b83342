"""Who was killed by the kernel for want of memory, and who by somebody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from watchdog.system.memory_group import KillCount, kill_count
from watchdog.system.oom_kills import OutOfMemoryKills

ONE, OTHER = 11, 12
SIGKILL = "signal 9"


class Group:
    """The kernel's files of one unit in which two processes live."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / "v2/web.service"
        self.directory.mkdir(parents=True)
        for pid in (ONE, OTHER):
            (root / str(pid)).mkdir()
            (root / str(pid) / "cgroup").write_text("0::/web.service\n")
        self.kills = 0

    @property
    def kills(self) -> int:
        """As the kernel counts them."""
        return self._kills

    @kills.setter
    def kills(self, kills: int) -> None:
        self._kills = kills
        (self.directory / "memory.events").write_text(f"oom 9\noom_kill {kills}\n")

    def count(self, pid: int) -> KillCount | None:
        return kill_count(pid, proc=self.root, v2=self.root / "v2", v1=self.root / "v1")


@pytest.fixture
def group(tmp_path: Path) -> Group:
    return Group(tmp_path)


def looked_at(group: Group, *pids: int) -> OutOfMemoryKills:
    found = OutOfMemoryKills(group.count)
    for pid in pids:
        found.look(pid)
    return found


def test_a_death_while_the_count_rose_is_the_kernels(group: Group) -> None:
    """It is told once, with the unit."""
    found = looked_at(group, ONE)
    group.kills = 1
    assert found.ended(ONE, SIGKILL) == "web.service"
    assert found.ended(ONE, SIGKILL) is None


def test_a_look_between_the_count_and_the_death_changes_nothing(group: Group) -> None:
    """The kernel counts before the process is gone, and who looks then sees a living process and the new count."""
    found = looked_at(group, ONE)
    group.kills = 1
    found.look(ONE)
    assert found.ended(ONE, SIGKILL) == "web.service"


def test_what_somebody_else_killed_is_not_the_kernels(group: Group) -> None:
    """Nor are kills of long ago its reason."""
    group.kills = 3
    found = looked_at(group, ONE, ONE)
    assert found.ended(ONE, SIGKILL) is None


def test_one_kill_explains_one_death(group: Group) -> None:
    """A neighbour that a person kills at the same moment was not killed by the kernel; of two kills each has one."""
    found = looked_at(group, ONE, OTHER)
    group.kills = 1
    assert found.ended(ONE, SIGKILL) == "web.service"
    assert found.ended(OTHER, SIGKILL) is None
    found = looked_at(group, ONE, OTHER)
    group.kills = 3
    assert [found.ended(pid, SIGKILL) for pid in (ONE, OTHER)] == ["web.service", "web.service"]


@pytest.mark.parametrize("how", ["signal 11", "exit 0", "exit 1: no memory", None])
def test_only_sigkill_is_the_kernels_way(group: Group, how: str | None) -> None:
    """What ended otherwise was not killed for want of memory, whatever the count says."""
    found = looked_at(group, ONE)
    group.kills = 1
    assert found.ended(ONE, how) is None


def test_what_was_not_seen_alive_is_not_guessed_at(group: Group) -> None:
    """Not of a stranger, not of one that is forgotten, not where the group has gone or counts nothing."""
    found = looked_at(group, ONE, OTHER)
    group.kills = 1
    assert found.ended(99, SIGKILL) is None
    found.forget_all_but({ONE})
    assert found.ended(OTHER, SIGKILL) is None
    (group.directory / "memory.events").unlink()
    assert found.ended(ONE, SIGKILL) is None
    found.look(ONE)
    found.look(99)
    group.kills = 7
    assert found.ended(ONE, SIGKILL) is None
