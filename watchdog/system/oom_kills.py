"""Whose death was the kernel's doing: a process that ended by SIGKILL while its group's count of such kills rose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from watchdog.system.memory_group import KillCount, kill_count


@dataclass(frozen=True, slots=True)
class _Looks:
    """The last count and the one before. A death is judged by the older: the kernel counts before it kills, so the
    last look may have come between the two."""

    count: KillCount
    older: int
    newer: int

    def rebased(self, kills: int) -> _Looks:
        """As if one kill more had been seen already, for it was another's; never more than there were."""
        return _Looks(self.count, min(self.older + 1, kills), min(self.newer + 1, kills))


class OutOfMemoryKills:
    """Of processes that are looked at while they live. A SIGKILL by a person within two looks of the kernel's kill of
    another process in the same group is taken for it; nothing that we may read tells these apart."""

    def __init__(self, count: Callable[[int], KillCount | None] = kill_count) -> None:
        """`count` is a seam."""
        self._count = count
        self._looks: dict[int, _Looks] = {}

    def look(self, pid: int) -> None:
        """While it lives; one that has gone, or whose memory nobody accounts for, teaches nothing."""
        try:
            count = self._count(pid)
        except OSError:
            return
        if count is None:
            return
        known = self._looks.get(pid)
        older = known.newer if known is not None and known.count.file == count.file else count.kills
        self._looks[pid] = _Looks(count, older, count.kills)

    def ended(self, pid: int, how: str | None) -> str | None:
        """The unit or group in which the kernel killed it for want of memory; None if it ended otherwise (`how` as the
        master tells it), was told of before, or was never looked at."""
        looks = self._looks.pop(pid, None)
        kills = looks.count.now() if looks is not None and how == "signal 9" else None
        if looks is None or kills is None or kills <= looks.older:
            return None
        for other, its in self._looks.items():
            if its.count.file == looks.count.file:
                self._looks[other] = its.rebased(kills)
        return looks.count.unit

    def forget_all_but(self, pids: set[int]) -> None:
        """Of these alone the end is still of interest."""
        self._looks = {pid: looks for pid, looks in self._looks.items() if pid in pids}
