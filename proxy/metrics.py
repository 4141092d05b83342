"""Counters, gauges and histograms of one process in a memory-mapped file, and their sum over all processes.

Each worker incarnation (and the master) writes `<directory>/<incarnation>.metrics`: after a header of magic and used
length come records of a JSON key and its float64 cells. A cell is one aligned store, so that readers need no lock.
When a process is dead the master folds its file into `base.json` (by rename, with the ids already folded in), so that
counters never go back when a worker is replaced and nothing is counted twice. Gauges die with their process.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from bisect import bisect_left
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

_MAGIC = b"LPMETR01"
_HEADER = 16
_FILE_BYTES = 16 * 1024 * 1024
"""Sparse: only touched pages cost anything. Holds some 200 metrics, each with all the series that it may have."""
MAX_SERIES = 256
OTHER = "other"
_REMEMBERED = 256
"""How many folded ids the base file names, for readers that began before the fold."""

Kind = Literal["counter", "gauge", "histogram"]
Combine = Literal["sum", "max"]


@dataclass(slots=True)
class Family:
    """All series of one metric. Cells of a histogram: one count per bucket, the count above them all, the sum."""

    kind: Kind
    name: str
    help: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()
    combine: Combine = "sum"
    series: dict[tuple[str, ...], list[float]] = field(default_factory=dict)

    def add(self, values: tuple[str, ...], cells: list[float]) -> None:
        """Combines one process's cells into this family."""
        known = self.series.get(values)
        if known is None:
            self.series[values] = list(cells)
        elif self.combine == "max":
            self.series[values] = [max(old, new) for old, new in zip(known, cells, strict=True)]
        else:
            self.series[values] = [old + new for old, new in zip(known, cells, strict=True)]


Families = dict[str, Family]


class _File:
    """The mapped file: hands out cells, never moves them."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, _FILE_BYTES)
            self._map = mmap.mmap(descriptor, _FILE_BYTES)
        finally:
            os.close(descriptor)
        self.cells = memoryview(self._map).cast("d")
        self._used = _HEADER
        self._map[:8] = _MAGIC
        self._publish()

    def _publish(self) -> None:
        struct.pack_into("<Q", self._map, 8, self._used)

    def reserve(self, key: bytes, count: int) -> int | None:
        """Index of the first of `count` new zero cells, or None when the file is full."""
        begin = self._used
        first = begin + 8 + (len(key) + 7) // 8 * 8
        if first + 8 * count > _FILE_BYTES:
            return None
        struct.pack_into("<II", self._map, begin, len(key), count)
        self._map[begin + 8 : begin + 8 + len(key)] = key
        self._used = first + 8 * count
        self._publish()
        return first // 8

    def close(self) -> None:
        self.cells.release()
        self._map.close()


class _Metric:
    """One family of this process. Not for use by several threads at once."""

    __slots__ = ("_cells", "_family", "_file", "_series")

    def __init__(self, file: _File, family: Family) -> None:
        self._file = file
        self._cells = file.cells
        self._family = family
        self._series: dict[tuple[str, ...], int] = {}
        if not family.labels:
            self._add(())

    def _at(self, values: tuple[str, ...]) -> int:
        known = self._series.get(values)
        return self._add(values) if known is None else known

    def _add(self, values: tuple[str, ...]) -> int:
        family = self._family
        if len(values) != len(family.labels):
            raise ValueError(f"metric {family.name} has labels {family.labels}, got values {values}")
        if len(self._series) >= MAX_SERIES - 1 and values:
            values = (OTHER,) * len(values)
            if (known := self._series.get(values)) is not None:
                return known
        key = [*_identity(family), values]
        count = len(family.buckets) + 2 if family.kind == "histogram" else 1
        at = self._file.reserve(json.dumps(key, separators=(",", ":")).encode(), count)
        if at is None:
            raise MemoryError(f"the metrics file is full; metric {family.name} cannot have another series")
        self._series[values] = at
        return at


class CounterSeries:
    """One series of a counter, found once."""

    __slots__ = ("_at", "_cells")

    def __init__(self, cells: memoryview[float], at: int) -> None:
        self._cells = cells
        self._at = at

    def inc(self, by: float = 1.0) -> None:
        """Adds `by` (never negative)."""
        self._cells[self._at] += by


class GaugeSeries:
    """One series of a gauge, found once."""

    __slots__ = ("_at", "_cells")

    def __init__(self, cells: memoryview[float], at: int) -> None:
        self._cells = cells
        self._at = at

    def set(self, value: float) -> None:
        """Replaces the level."""
        self._cells[self._at] = value


class HistogramSeries:
    """One series of a histogram, found once."""

    __slots__ = ("_at", "_buckets", "_cells", "_sum")

    def __init__(self, cells: memoryview[float], at: int, buckets: tuple[float, ...]) -> None:
        self._cells = cells
        self._at = at
        self._buckets = buckets
        self._sum = at + len(buckets) + 1

    def observe(self, value: float) -> None:
        """Counts `value`."""
        self._cells[self._at + bisect_left(self._buckets, value)] += 1.0
        self._cells[self._sum] += value


class Counter(_Metric):
    """Only grows."""

    __slots__ = ()

    def at(self, *label_values: str) -> CounterSeries:
        """The series of these label values, for callers that count in it often."""
        return CounterSeries(self._cells, self._at(label_values))

    def inc(self, *label_values: str, by: float = 1.0) -> None:
        """Adds `by` (never negative) to the series of these label values."""
        at = self._series.get(label_values)
        self._cells[self._add(label_values) if at is None else at] += by


class Gauge(_Metric):
    """A level of this process."""

    __slots__ = ()

    def at(self, *label_values: str) -> GaugeSeries:
        """The series of these label values, for callers that set it often."""
        return GaugeSeries(self._cells, self._at(label_values))

    def set(self, value: float, *label_values: str) -> None:
        """Replaces the level."""
        at = self._series.get(label_values)
        self._cells[self._add(label_values) if at is None else at] = value

    def add(self, by: float, *label_values: str) -> None:
        """Moves the level by `by`, which may be negative."""
        at = self._series.get(label_values)
        self._cells[self._add(label_values) if at is None else at] += by


class Histogram(_Metric):
    """Counts of observations per bucket, and their sum."""

    __slots__ = ()

    def at(self, *label_values: str) -> HistogramSeries:
        """The series of these label values, for callers that observe in it often."""
        return HistogramSeries(self._cells, self._at(label_values), self._family.buckets)

    def observe(self, value: float, *label_values: str) -> None:
        """Counts `value` in the first bucket whose upper bound is not below it."""
        known = self._series.get(label_values)
        at = self._add(label_values) if known is None else known
        buckets = self._family.buckets
        self._cells[at + bisect_left(buckets, value)] += 1.0
        self._cells[at + len(buckets) + 1] += value


M = TypeVar("M", bound=_Metric)


class Metrics:
    """This process's metrics. Label values must come from bounded sets; the overflow of a metric becomes `other`."""

    def __init__(self, directory: Path, incarnation: str) -> None:
        """Makes `<directory>/<incarnation>.metrics`, which must not exist yet (FileExistsError)."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory = directory
        self._file = _File(directory / f"{incarnation}.metrics")
        self._metrics: dict[str, _Metric] = {}

    def counter(self, name: str, help: str, labels: tuple[str, ...] = ()) -> Counter:  # noqa: A002
        """The counter of that name; asked for twice it is the same one. The name ends in `_total`."""
        return self._metric(Counter, Family("counter", name, help, labels))

    def gauge(self, name: str, help: str, labels: tuple[str, ...] = (), combine: Combine = "sum") -> Gauge:  # noqa: A002
        """The gauge of that name. `combine` says how the levels of several workers become one: `max` for a level of
        something that they share (the cache's size), `sum` for a part of a whole (requests in flight)."""
        return self._metric(Gauge, Family("gauge", name, help, labels, combine=combine))

    def histogram(
        self,
        name: str,
        help: str,  # noqa: A002
        buckets: tuple[float, ...],
        labels: tuple[str, ...] = (),
    ) -> Histogram:
        """The histogram of that name. `buckets` are ascending upper bounds without +Inf."""
        if not buckets or list(buckets) != sorted(set(buckets)):
            raise ValueError(f"metric {name}: buckets must ascend, got {buckets}")
        return self._metric(Histogram, Family("histogram", name, help, labels, buckets))

    def close(self) -> None:
        """Unmaps the file and leaves it for the master to fold."""
        self._metrics.clear()
        self._file.close()

    def _metric(self, kind: type[M], family: Family) -> M:
        known = self._metrics.get(family.name)
        if known is None:
            known = self._metrics[family.name] = kind(self._file, family)
        if not isinstance(known, kind):
            raise ValueError(f"metric {family.name} is already a {type(known).__name__.lower()}")
        return known


def read(directory: Path) -> Families:
    """The sum over all processes, by metric name, sorted by name.

    Live files are read before the base file: a file folded in between is then named in the base and left out here,
    and one that has vanished is in the base already.
    """
    live = {path.stem: _read_file(path) for path in sorted(directory.glob("*.metrics"))}
    base = _read_base(directory)
    families: Families = {}
    _combine(families, base.records)
    for incarnation, records in live.items():
        if incarnation not in base.folded:
            _combine(families, records)
    return dict(sorted(families.items()))


def total(directory: Path, name: str) -> float:
    """The sum of all series of one counter over the living processes alone; a few milliseconds."""
    return sum(
        record.cells[0]
        for path in directory.glob("*.metrics")
        for record in _read_file(path, name.encode())
        if record.family.name == name
    )


def fold(directory: Path, incarnation: str) -> None:
    """Moves the counters and histograms of a dead process into the base file. Only the master calls it."""
    path = directory / f"{incarnation}.metrics"
    base = _read_base(directory)
    if path.exists() and incarnation not in base.folded:
        families: Families = {}
        _combine(families, base.records)
        _combine(families, [record for record in _read_file(path) if record.family.kind != "gauge"])
        folded = [*base.folded, incarnation][-_REMEMBERED:]
        records = [
            [*_identity(family), values, cells]
            for family in families.values()
            for values, cells in family.series.items()
        ]
        fresh = directory / "base.json.new"
        fresh.write_text(json.dumps({"folded": folded, "records": records}))
        fresh.replace(directory / "base.json")
    path.unlink(missing_ok=True)


def fold_all(directory: Path) -> None:
    """Folds whatever an earlier master left behind; for a master that starts, before it makes its own file."""
    for path in sorted(directory.glob("*.metrics")):
        fold(directory, path.stem)


@dataclass(frozen=True, slots=True)
class _Record:
    family: Family
    values: tuple[str, ...]
    cells: list[float]


@dataclass(frozen=True, slots=True)
class _Base:
    folded: list[str]
    records: list[_Record]


def _identity(family: Family) -> list[object]:
    return [family.kind, family.name, family.help, family.labels, family.buckets, family.combine]


def _record(identity: list[Any], cells: list[float]) -> _Record:
    kind, name, text, labels, buckets, combine, values = identity
    return _Record(Family(kind, name, text, tuple(labels), tuple(buckets), combine), tuple(values), cells)


def _combine(families: Families, records: list[_Record]) -> None:
    """Adds `records` up. After an upgrade changed a metric's shape the first shape met is kept, the other left out."""
    for record in records:
        family = families.setdefault(record.family.name, record.family)
        if _identity(family)[3:5] == _identity(record.family)[3:5]:
            family.add(record.values, record.cells)


def _read_file(path: Path, naming: bytes = b"") -> list[_Record]:
    """The records of one file whose keys hold `naming`: none if it has vanished or was left unfinished by a process
    that died making it."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER)
            if header[:8] != _MAGIC or len(header) < _HEADER:
                return []
            data = file.read(struct.unpack_from("<Q", header, 8)[0] - _HEADER)
    except FileNotFoundError:
        return []
    records, at = [], 0
    while at < len(data):
        length, count = struct.unpack_from("<II", data, at)
        first = at + 8 + (length + 7) // 8 * 8
        key = data[at + 8 : at + 8 + length]
        if naming in key:
            records.append(_record(json.loads(key), list(struct.unpack_from(f"={count}d", data, first))))
        at = first + 8 * count
    return records


def _read_base(directory: Path) -> _Base:
    try:
        document = json.loads((directory / "base.json").read_bytes())
    except FileNotFoundError:
        return _Base([], [])
    return _Base(document["folded"], [_record(row[:-1], row[-1]) for row in document["records"]])
