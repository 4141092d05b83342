"""What the probes measured, kept in bounded memory: the newest samples as they are, older ones in packed blocks.

Times are whole milliseconds, as in Prometheus. A series that its source no longer returns ends with a stale marker, so
that `absent` and alerts react at the next evaluation instead of after the lookback of five minutes.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Protocol

from watchdog.core.model import Labels, Sample, labels_of

LOOKBACK_SECONDS = 300.0
"""How long an instant selector sees a sample (Prometheus' default)."""
BLOCK_SAMPLES = 64
_PRUNE_SECONDS = 60.0
_SELECTIONS = 1024
_SERIES_OVERHEAD = 1100
"""Bytes that one series costs before its first sample: labels, index entries, objects (measured)."""

_STALE_BYTES = struct.pack("<d", struct.unpack("<d", (0x7FF8_0000_0000_5741).to_bytes(8, "little"))[0])
STALE = struct.unpack("<d", _STALE_BYTES)[0]


def is_stale(value: float) -> bool:
    """Whether `value` is the marker that ends a series; any other NaN is a value like others."""
    return value != value and struct.pack("<d", value) == _STALE_BYTES


class Matcher(Protocol):
    """One label matcher of a selector; hashable, so that selections can be cached."""

    @property
    def label(self) -> str: ...

    def matches(self, value: str) -> bool: ...


@dataclass(slots=True)
class _Block:
    """Sealed samples: times as differences and the bytes of the values regrouped by significance, then deflated."""

    first: int
    last: int
    count: int
    packed: bytes

    @classmethod
    def seal(cls, times: array[int], values: array[float]) -> _Block:
        steps = array("q", [0, *(b - a for a, b in pairwise(times))]).tobytes()
        raw = steps + values.tobytes()
        return cls(times[0], times[-1], len(times), zlib.compress(b"".join(raw[i::8] for i in range(8)), 1))

    def open(self) -> tuple[array[int], array[float]]:
        planes = zlib.decompress(self.packed)
        raw = bytearray(len(planes))
        words = 2 * self.count
        for i in range(8):
            raw[i::8] = planes[i * words : (i + 1) * words]
        times, values = array("q"), array("d")
        times.frombytes(bytes(raw[: 8 * self.count]))
        values.frombytes(bytes(raw[8 * self.count :]))
        time = self.first
        for i, step in enumerate(times):
            time += step
            times[i] = time
        return times, values


@dataclass(slots=True, eq=False)
class Series:
    """The samples of one name and label set. `labels` have no `__name__`; times are in milliseconds."""

    name: str
    labels: Labels
    times: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))
    blocks: list[_Block] = field(default_factory=list)

    @property
    def last(self) -> int:
        """The time of the newest sample; there always is one."""
        return self.times[-1]

    @property
    def count(self) -> int:
        """Number of samples, markers included."""
        return len(self.times) + sum(block.count for block in self.blocks)

    def append(self, at: int, value: float) -> bool:
        """Adds a sample. One at the time of the newest replaces it; an older one is refused (False)."""
        if self.times and at <= self.times[-1]:
            if at == self.times[-1]:
                self.values[-1] = value
            return at == self.times[-1]
        self.times.append(at)
        self.values.append(value)
        return True

    def seal(self, oldest: int, max_samples: int) -> None:
        """Packs the older half of a full head and drops the blocks that are too old or too many."""
        if len(self.times) >= 2 * BLOCK_SAMPLES:
            self.blocks.append(_Block.seal(self.times[:BLOCK_SAMPLES], self.values[:BLOCK_SAMPLES]))
            self.times, self.values = self.times[BLOCK_SAMPLES:], self.values[BLOCK_SAMPLES:]
        excess = self.count - max_samples
        while self.blocks and (self.blocks[0].last < oldest or excess > 0):
            excess -= self.blocks.pop(0).count

    def newest(self, at: int, lookback: int) -> tuple[int, float] | None:
        """The newest sample in (at - lookback, at], unless it is stale."""
        times = self.times
        if times[-1] <= at:
            time, value = times[-1], self.values[-1]
        elif index := bisect_right(times, at):
            time, value = times[index - 1], self.values[index - 1]
        else:
            block = next((block for block in reversed(self.blocks) if block.first <= at), None)
            if block is None:
                return None
            old_times, old_values = block.open()
            index = bisect_right(old_times, at) - 1
            time, value = old_times[index], old_values[index]
        if time <= at - lookback or is_stale(value):
            return None
        return time, value

    def between(self, start: int, end: int) -> tuple[Sequence[int], list[float]]:
        """The samples in [start, end] without stale markers."""
        head = self.times
        low, high = bisect_left(head, start), bisect_right(head, end)
        times: Sequence[int] = head[low:high]
        values = self.values[low:high].tolist()
        if low == 0 and self.blocks and self.blocks[-1].last >= start:
            older = [block.open() for block in self.blocks if block.first <= end and block.last >= start]
            spans = [(part, bisect_left(part[0], start), bisect_right(part[0], end)) for part in older]
            times = [*chain.from_iterable(part[0][a:b] for part, a, b in spans), *times]
            values = [*chain.from_iterable(part[1][a:b] for part, a, b in spans), *values]
        # A sum is NaN if anything in it is, and far cheaper to look at than every value.
        total = sum(values)
        if total != total and any(map(is_stale, values)):
            kept = [(time, value) for time, value in zip(times, values, strict=True) if not is_stale(value)]
            return [time for time, _ in kept], [value for _, value in kept]
        return times, values


@dataclass(frozen=True, slots=True)
class StoreStats:
    """`bytes` is an estimate; `dropped` counts samples of series beyond the limit, `late` those that came too late."""

    series: int
    samples: int
    dropped: int
    late: int
    bytes: int


class SeriesStore:
    """All series. `retention` in seconds; beyond `max_series` new series are dropped and counted, never kept."""

    def __init__(self, retention: float = 3600.0, max_series: int = 20_000, max_samples: int = 4_000) -> None:
        self.retention = retention
        self.max_series = max_series
        self.max_samples = max_samples
        self.dropped = 0
        self.late = 0
        self._names: dict[str, dict[Labels, Series]] = {}
        self._size = 0
        self._resolved: dict[Labels, dict[tuple[str, Labels], Series]] = {}
        self._sources: dict[str, dict[Series, None]] = {}
        self._selections: dict[tuple[str, tuple[Matcher, ...]], list[Series]] = {}
        self._next_prune = float("-inf")

    def ingest(self, samples: Iterable[Sample], at: float, extra: Labels = (), source: str = "") -> set[str]:
        """Stores `samples` measured at `at` (epoch seconds); returns the names under which something is new.

        A series that only goes on with the value that it had is no news to a rule, which its own interval brings round.

        `extra` are target labels (job, service …) that win over a sample's own. With a `source`, the series join those
        that the source is expected to return at its next scrape.
        """
        written, news = self._write(samples, at, extra)
        if source:
            self._sources.setdefault(source, {}).update(dict.fromkeys(written))
        return news

    def ingest_scrape(self, source: str, samples: Iterable[Sample], at: float, extra: Labels = ()) -> set[str]:
        """As `ingest`, for everything that `source` has now: series that it had before and lacks now become stale.

        Returns the names under which something is new or became stale. No samples means that the source failed.
        """
        written, news = self._write(samples, at, extra)
        now = dict.fromkeys(written)
        gone = [series for series in self._sources.get(source, ()) if series not in now]
        self.mark_stale(gone, at)
        self._sources[source] = now
        return news.union(series.name for series in gone)

    def forget_source(self, source: str, at: float) -> set[str]:
        """Ends all series of a source that exists no more; returns their names."""
        names = self.ingest_scrape(source, (), at)
        del self._sources[source]
        return names

    def mark_stale(self, series: Iterable[Series], at: float) -> None:
        """Ends these series at `at`; a series that has ended already stays as it is."""
        time = round(at * 1000)
        for one in series:
            if not is_stale(one.values[-1]):
                one.append(max(time, one.last), STALE)

    def _write(self, samples: Iterable[Sample], at: float, extra: Labels) -> tuple[list[Series], set[str]]:
        if at >= self._next_prune:
            self._prune(at)
        time = round(at * 1000)
        oldest = time - round(self.retention * 1000)
        resolved = self._resolved.setdefault(extra, {})
        written = []
        news = set[str]()
        forgotten = time - round(LOOKBACK_SECONDS * 1000)
        for sample in samples:
            series = resolved.get((sample.name, sample.labels)) or self._resolve(sample, extra)
            if series is None:
                self.dropped += 1
                continue
            written.append(series)
            if not series.times or series.values[-1] != sample.value or series.times[-1] <= forgotten:
                news.add(sample.name)
            if not series.append(time, sample.value):
                self.late += 1
            elif len(series.times) >= 2 * BLOCK_SAMPLES:
                series.seal(oldest, self.max_samples)
        return written, news

    def _resolve(self, sample: Sample, extra: Labels) -> Series | None:
        labels = labels_of(dict((*sample.labels, *extra)))
        known = self._names.get(sample.name, {})
        series = known.get(labels)
        if series is None:
            if self._size >= self.max_series:
                return None
            series = Series(sample.name, labels)
            self._names.setdefault(sample.name, known)[labels] = series
            self._size += 1
            self._selections.clear()
        self._resolved.setdefault(extra, {})[sample.name, sample.labels] = series
        return series

    def _prune(self, now: float) -> None:
        """Forgets series whose newest sample is older than the retention."""
        self._next_prune = now + _PRUNE_SECONDS
        oldest = round((now - self.retention) * 1000)
        old = [series for family in self._names.values() for series in family.values() if series.last < oldest]
        for series in old:
            family = self._names[series.name]
            del family[series.labels]
            if not family:
                del self._names[series.name]
        if old:
            self._size -= len(old)
            self._resolved.clear()
            self._selections.clear()
            gone = set(old)
            for source, members in self._sources.items():
                self._sources[source] = {series: None for series in members if series not in gone}

    def select(self, name: str, matchers: tuple[Matcher, ...] = ()) -> list[Series]:
        """The series with this name (any name if empty) that satisfy every matcher; the list is shared, not yours."""
        key = (name, matchers)
        found = self._selections.get(key)
        if found is None:
            families = [self._names.get(name, {})] if name else self._names.values()
            found = [one for family in families for one in family.values() if _matches(one, matchers)]
            if len(self._selections) >= _SELECTIONS:
                self._selections.clear()
            self._selections[key] = found
        return found

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def latest(self, name: str, **labels: str) -> list[tuple[Labels, float, float]]:
        """(labels, value, at) of the series of `name` with these labels, as they are at the store's newest sample.

        Stale series are left out, and so are those that nobody wrote for five minutes before that sample.
        """
        family = self._names.get(name, {})
        if not family:
            return []
        end = max(series.last for series in family.values())
        found = []
        for series in family.values():
            own = dict(series.labels)
            if all(own.get(label, "") == value for label, value in labels.items()) and (
                sample := series.newest(end, round(LOOKBACK_SECONDS * 1000))
            ):
                found.append((series.labels, sample[1], sample[0] / 1000))
        return found

    def range(
        self, name: str, labels: Mapping[str, str], start: float, end: float
    ) -> list[tuple[Labels, list[tuple[float, float]]]]:
        """(labels, [(at, value)]) of each series of `name` with these labels that has samples in [start, end]."""
        found = []
        for series in self._names.get(name, {}).values():
            own = dict(series.labels)
            if all(own.get(label, "") == value for label, value in labels.items()):
                times, values = series.between(round(start * 1000), round(end * 1000))
                if times:
                    points = [(time / 1000, value) for time, value in zip(times, values, strict=True)]
                    found.append((series.labels, points))
        return found

    def stats(self) -> StoreStats:
        """How much is kept, for our own metrics and for `status`."""
        everything = [series for family in self._names.values() for series in family.values()]
        heads = sum(16 * len(series.times) for series in everything)
        blocks = sum(120 + len(block.packed) for series in everything for block in series.blocks)
        return StoreStats(
            series=self._size,
            samples=sum(series.count for series in everything),
            dropped=self.dropped,
            late=self.late,
            bytes=self._size * _SERIES_OVERHEAD + heads + blocks,
        )


def _matches(series: Series, matchers: tuple[Matcher, ...]) -> bool:
    if not matchers:
        return True
    own = dict(series.labels)
    own["__name__"] = series.name
    return all(matcher.matches(own.get(matcher.label, "")) for matcher in matchers)
