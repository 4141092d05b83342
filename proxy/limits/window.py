"""Sliding-window arithmetic over counters in time buckets. Pure: the time and the counters are arguments.

A window is cut into `BUCKETS` buckets. What counts is the present bucket and the `BUCKETS` before it, the oldest one
whole, although only a part of it still lies in the window. So there is never more than the limit in any window,
wherever it begins, and a caller who stays below BUCKETS / (BUCKETS + 1) of the limit (99.6 %) is never refused.
Weighing the oldest bucket by its part in the window, as is often done, would let through up to twice the limit when a
burst came at the bucket's end.

Several processes may count at once, each reading the sum of all before it adds its own: each of the others can then
add one more in that moment, so that the limit holds to within the number of processes less one.
"""

from __future__ import annotations

import math
from typing import Protocol

BUCKETS = 255
RING = BUCKETS + 1
"""Cells that a ring of buckets must have."""
_GLANCE_SECONDS = 0.005


class Buckets(Protocol):
    """The counters of one subject. Numbers of buckets grow with time."""

    def total(self, number: int) -> int:
        """What was counted in that bucket, by everybody; it may be asked for the latest `RING` buckets."""
        ...

    def add(self, number: int, amount: int) -> None:
        """Counts in the bucket of that number."""
        ...


class Window:
    """One limit on one subject, as one process sees it. Ask `look` first; the rest is as of that look.

    `burst` is how many may come at once, ahead of an even pace (a leaky bucket over the same counters, followed
    between looks; when this process did not look for longer than a bucket, arrivals count as spread over it). None is
    no such bound.

    A clock that is set back by less than a window stands still here until it has caught up; by more, it begins anew,
    and as much as the limit may pass once more.
    """

    __slots__ = (
        "_add",
        "_burst",
        "_level",
        "_newest",
        "_now",
        "_number",
        "_pace",
        "_past",
        "_seen",
        "_sums",
        "_total",
        "_whole",
        "_width",
        "limit",
        "used",
    )

    def __init__(self, limit: int, seconds: float, burst: int | None, buckets: Buckets) -> None:
        self.limit = limit
        self.used = 0
        """What lies in the window."""
        self._whole = limit, burst
        self._width = seconds / BUCKETS
        self._pace = limit / seconds
        self._burst = burst if burst is not None and burst < limit else None
        self._total, self._add = buckets.total, buckets.add
        self._sums = [0] * RING
        self._past = 0
        self._number = self._newest = -RING
        self._now = -math.inf
        self._seen = 0
        self._level = 0.0

    def tighten(self, share: float) -> None:
        """From now on so much of the limit and of its burst holds, at least 1 of each; a share of 1 is all of it. What
        was counted before goes on to count."""
        whole, burst = self._whole
        self.limit = limit = max(1, math.floor(whole * share + 1e-9))
        self._pace = limit / (self._width * BUCKETS)
        narrow = None if burst is None else max(1, math.floor(burst * share + 1e-9))
        self._burst = narrow if narrow is not None and narrow < limit else None

    def look(self, now: float) -> None:
        """Brings `used` up to date; `now` in seconds of a clock that all processes share."""
        if now < self._now:
            if now > self._now - BUCKETS * self._width:
                now = self._now
            else:
                self._number, self._newest, self._now, self._level = -RING, -RING, -math.inf, 0.0
        number = int(now / self._width)
        if number != self._number:
            self._turn(number)
        present = self._total(number)
        if self._burst is not None:
            self._follow(now, number, present)
        if present:
            self._newest = number
        self._now, self._number, self._seen = now, number, present
        self.used = self._past + present

    def glance(self, now: float) -> None:
        """`look`, unless that was done 5 ms ago or less; so what others count may be seen that late. For amounts that
        are told late anyway."""
        if not 0 <= now - self._now <= _GLANCE_SECONDS:
            self.look(now)

    def add(self, amount: int) -> None:
        """Counts, at the time of the last look."""
        self._add(self._number, amount)
        self._newest = self._number
        self.used += amount
        self._seen += amount
        self._level += amount

    def remaining(self) -> int:
        """How many may come now."""
        room = self.limit - self.used
        if self._burst is not None:
            room = min(room, math.floor(self._burst - self._level + 1e-9))
        return max(room, 0)

    def wait(self) -> float:
        """Seconds until one more may come if nobody else does; 0 if it may now."""
        seconds = 0.0
        if self._burst is not None and self._level + 1 > self._burst + 1e-9:
            seconds = (self._level + 1 - self._burst) / self._pace
        if self.used >= self.limit:
            left = self.used
            for number in range(self._number - BUCKETS, self._number):
                left -= self._sums[number % RING]
                if left < self.limit:
                    return max(seconds, self._gone_at(number))
            return max(seconds, self._gone_at(self._number))
        return seconds

    def reset(self) -> float:
        """Seconds until nothing of what lies in the window counts any more."""
        return self._gone_at(self._newest) if self.used else 0.0

    def _gone_at(self, number: int) -> float:
        return (number + RING) * self._width - self._now

    def _turn(self, number: int) -> None:
        """Time has come to another bucket. The one before the last present one is summed again too, for somebody may
        have counted in it after we had looked."""
        for closed in range(max(self._number - 1, number - BUCKETS), number):
            count = self._sums[closed % RING] = self._total(closed)
            if count:
                self._newest = closed
        self._sums[number % RING] = 0
        self._past = sum(self._sums)

    def _follow(self, now: float, number: int, present: int) -> None:
        """Lindley's recursion: the level sinks at the even pace, and rises by what has come since the last look."""
        turns = number - self._number
        if turns <= 1:
            came = present - self._seen + (self._sums[self._number % RING] if turns else 0)
            self._level = max(0.0, self._level - self._pace * (now - self._now)) + came
            return
        level, drained = 0.0, self._pace * self._width
        for closed in range(number - BUCKETS, number):
            level = max(0.0, level + self._sums[closed % RING] - drained)
        self._level = max(0.0, level - self._pace * (now - number * self._width)) + present
