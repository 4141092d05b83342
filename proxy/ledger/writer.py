"""The ledger of one worker: takes a row in microseconds, and sees to it that the database has it in the end.

A row is at once in memory and in a journal, which outlives the process. Each `flush_interval`, or `batch_rows`, what
was gathered goes to the database; while that takes nothing, to the spool, which is replayed oldest first when the
database is back. Rows that an earlier worker left behind are adopted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from proxy.clock import Clock
from proxy.ledger.engine import Sink
from proxy.ledger.journal import Journal, orphans
from proxy.ledger.row import LedgerDownError, LedgerRefusedError, Row, packed, tamed, unpacked
from proxy.ledger.spool import Spool
from proxy.metrics import Metrics
from proxy.settings import Settings

log = logging.getLogger(__name__)

_JOURNAL_BYTES = 512 * 1024
_JOURNALS = 4
_HELD_ROWS = 20_000
"""In memory at the most, when neither database nor spool takes anything."""
_BEHIND = 4
"""So many batches may gather behind one that is being written before they go to the spool instead."""
_RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0)
_LOOK_SECONDS = 10.0
"""How often what dead workers left is looked for."""
_CLOSE_SECONDS = 3.0
_PRUNE_FIRST_SECONDS = 60.0
_DAY_SECONDS = 86_400.0
_MIB = 1024 * 1024

T = TypeVar("T")


@dataclass(slots=True)
class _Batch:
    """Rows of this worker, and the journal that they stand in (None: there is no room for one)."""

    journal: Journal | None
    rows: list[Row] = field(default_factory=list)
    journaled: int = 0
    """How many of them stand in the journal: the first ones, until it is full."""


class Ledger:
    """Made and started inside the running event loop."""

    def __init__(self, settings: Settings, sink: Sink, metrics: Metrics, clock: Clock) -> None:
        wanted = settings.ledger
        self._settings = wanted
        self._sink = sink
        self._clock = clock
        self._journals = settings.run_dir / "ledger"
        self._incarnation = secrets.randbits(63)
        self._name = f"{self._incarnation:016x}"
        self._sequence = 0
        self._journals_made = 0
        self._spool = Spool(settings.state_dir / "ledger-spool", self._name, int(wanted.spool_max_mb * _MIB), clock)
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="ledger-disk")
        self._spare: list[Journal] = []
        self._batch = _Batch(None)
        self._held: deque[_Batch] = deque()
        self._writing: _Batch | None = None
        self._waiting = True
        """Whether the spool may have rows for this worker to replay."""
        self._delivery: asyncio.Task[None] | None = None
        self._down: str | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._look_at = 0.0
        self._prune_at = clock.monotonic() + _PRUNE_FIRST_SECONDS
        self._wake = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._spool_bytes = 0
        self._queue = metrics.gauge("ledger_queue_rows", "Rows that are in no database yet, spool left out.")
        self._spooled_bytes = metrics.gauge("ledger_spool_bytes", "Size of the spool on disk.", combine="max")
        self._is_down = metrics.gauge("ledger_down", "1 while the database takes no rows.", combine="max")
        self._written = metrics.counter("ledger_rows_written_total", "Rows that the database has taken.")
        self._spooled = metrics.counter("ledger_rows_spooled_total", "Rows that had to wait in the spool.")
        self._lost = metrics.counter("ledger_rows_lost_total", "Rows that no database will have.", ("reason",))

    async def start(self) -> None:
        """Begins to write. Whatever is wrong with disk or database is told by `health` and the log, and not raised."""
        self._batch = _Batch(self._journal())
        self._running = asyncio.create_task(self._run())

    def record(self, values: Row) -> None:
        """Takes one row, without the two columns that name it. Costs two microseconds."""
        self._sequence = sequence = self._sequence + 1
        row: Row = (self._incarnation, sequence, *values)
        try:
            line = packed(row)
        except TypeError:
            row = tamed(row)
            line = packed(row)
        batch = self._batch
        batch.rows.append(row)
        if batch.journal is not None and batch.journal.append(line):
            batch.journaled += 1
        if len(batch.rows) == self._settings.batch_rows:
            self._wake.set()

    def health(self) -> dict[str, Any]:
        """`status` healthy or degraded, `waiting_rows` of this worker, `spool_mb` of all. The cause is in the log only,
        for it may name places."""
        return {
            "status": "healthy" if self._down is None else "degraded",
            "kind": self._settings.kind,
            "waiting_rows": self._waiting_rows(),
            "spool_mb": round(self._spool_bytes / _MIB, 3),
        }

    async def close(self) -> None:
        """Writes what is left, or spools it. At most some seconds."""
        if self._running is None:
            return
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        self._running = None
        if self._delivery is not None:
            await asyncio.wait({self._delivery}, timeout=_CLOSE_SECONDS)
            self._delivery.cancel()
            await asyncio.gather(self._delivery, return_exceptions=True)
        last, self._batch = self._batch, _Batch(None)
        self._held.append(last)
        if self._down is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._deliver_held()
        await self._spool_held()
        await self._on_disk(self._spool.seal)
        self._show()
        for batch in self._held:
            self._lose(len(batch.rows) - batch.journaled, "no_room")
            if batch.journal is not None:
                batch.journal.close(keep=True)
        for journal in self._spare:
            journal.close(keep=False)
        self._disk.shutdown(wait=False)
        await self._sink.close()

    # Each turn

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.flush_interval):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._turn(self._clock.monotonic())
            except Exception:
                log.exception("the ledger could not look after its rows")

    async def _turn(self, now: float) -> None:
        busy = self._delivery is not None and not self._delivery.done()
        behind = busy and len(self._batch.rows) >= _BEHIND * self._settings.batch_rows
        # While neither database nor spool takes anything, one journal is filled after the other, for there are few.
        stuck = self._down is not None and self._held and self._batch.journaled == len(self._batch.rows)
        if self._batch.rows and not stuck and (not busy or behind or self._down is not None):
            self._held.append(self._batch)
            self._batch = _Batch(self._journal())
        if now >= self._look_at:
            self._look_at = now + _LOOK_SECONDS
            await self._look()
        if self._held and (behind or self._down is not None):
            await self._spool_held()
        if not busy and now >= self._retry_at:
            work = self._next(now)
            self._delivery = None if work is None else asyncio.create_task(_attended(work()))
        self._show()

    def _next(self, now: float) -> Callable[[], Coroutine[Any, Any, None]] | None:
        if self._waiting or self._down is not None:
            return self._replay
        if self._held:
            return self._deliver_held
        if self._settings.keep and now >= self._prune_at:
            return self._prune
        return None

    async def _deliver_held(self) -> None:
        """Writes the batches in memory, in order; each is settled when it is in the database."""
        while self._held:
            batch = self._writing = self._held.popleft()
            taken = False
            try:
                taken = not batch.rows or await self._write(batch.rows)
            finally:
                self._writing = None
                if not taken:
                    self._held.appendleft(batch)
            if not taken:
                return
            self._settle(batch)
        if len(self._batch.rows) >= self._settings.batch_rows:
            self._wake.set()

    async def _replay(self) -> None:
        """Writes what the spool has, oldest first, and then what is in memory."""
        try:
            while (chunk := await self._on_disk(self._spool.oldest)) is not None:
                taken = False
                try:
                    taken = await self._write(chunk.rows)
                finally:
                    self._spool.release(chunk, done=taken)
                if not taken:
                    return
                self._lose(chunk.torn, "torn")
        except OSError as error:
            log.warning("the ledger's spool cannot be read: %s", error)
        self._waiting = False
        self._spool_bytes = await self._on_disk(self._spool.bytes_waiting)
        if await self._write(()):
            await self._deliver_held()

    async def _write(self, rows: Sequence[Row]) -> bool:
        """Whether the database has them now, but for those that it will never take. Without rows: whether it would."""
        size = self._settings.batch_rows
        try:
            for begin in range(0, max(1, len(rows)), size):
                await self._write_some(rows[begin : begin + size])
        except LedgerDownError as error:
            self._failed(error)
            return False
        if self._down is not None:
            log.warning("the ledger takes rows again")
        self._down, self._failures = None, 0
        return True

    def _failed(self, error: LedgerDownError) -> None:
        pause = _RETRY_SECONDS[min(self._failures, len(_RETRY_SECONDS) - 1)]
        self._failures += 1
        self._retry_at = self._clock.monotonic() + pause
        if self._down is None:
            log.warning("the ledger takes no rows; they wait in the spool: %s", error)
            self._wake.set()
        self._down = str(error)

    async def _write_some(self, rows: Sequence[Row]) -> None:
        try:
            await self._sink.write(rows)
        except LedgerRefusedError as error:
            if len(rows) <= 1:
                log.warning("the ledger's database refuses a row for good: %s", error)
                self._lose(len(rows), "refused")
                return
            middle = len(rows) // 2
            await self._write_some(rows[:middle])
            await self._write_some(rows[middle:])
        else:
            self._written.inc(by=len(rows))

    async def _prune(self) -> None:
        self._prune_at = self._clock.monotonic() + _DAY_SECONDS
        try:
            removed = await self._sink.prune(self._clock.wall() - self._settings.keep)
        except (LedgerDownError, LedgerRefusedError) as error:
            log.warning("old rows of the ledger could not be removed: %s", error)
        else:
            log.info("%d rows of the ledger were older than it keeps them", removed)

    # On disk

    async def _look(self) -> None:
        """Takes over what dead workers left: their journals go to the spool, and what waits there is replayed."""
        try:
            adopted, torn, lost = await self._on_disk(self._adopt)
            self._spool_bytes = await self._on_disk(self._spool.bytes_waiting)
        except OSError as error:
            log.warning("what earlier workers left of the ledger cannot be read: %s", error)
            return
        self._spooled.inc(by=adopted)
        self._lose(torn, "torn")
        self._lose(lost, "spool_full")
        self._waiting = self._waiting or self._spool_bytes > 0

    def _adopt(self) -> tuple[int, int, int]:
        """How many rows were adopted, how many lines torn, how many rows the spool gave up for them."""
        adopted = broken = lost = 0
        for lines in orphans(self._journals):
            rows, torn = unpacked(lines)
            lost += self._spool.append(rows) if rows else 0
            adopted += len(rows)
            broken += torn
        return adopted, broken, lost

    async def _spool_held(self) -> None:
        """Moves the batches in memory to the spool; what has no room there stays, but not without bound."""
        while self._held:
            batch = self._held.popleft()
            try:
                lost = await self._on_disk(partial(self._spool.append, batch.rows)) if batch.rows else 0
            except OSError as error:
                self._held.appendleft(batch)
                if self._waiting_rows() <= _HELD_ROWS:
                    break
                log.error("neither the ledger's database nor its spool takes rows: %s", error)  # noqa: TRY400
                self._held.popleft()
                self._lose(len(batch.rows), "no_room")
            else:
                self._spooled.inc(by=len(batch.rows))
                self._lose(lost, "spool_full")
                self._waiting = True
            self._settle(batch)
        self._spool_bytes = await self._on_disk(self._spool.bytes_waiting)

    async def _on_disk(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)

    def _journal(self) -> Journal | None:
        """A clean journal; None if there are enough of them, or no room."""
        if self._spare:
            return self._spare.pop()
        if self._journals_made == _JOURNALS:
            return None
        try:
            journal = Journal(self._journals, f"{self._name}-{self._journals_made}", _JOURNAL_BYTES)
        except OSError as error:
            log.warning("the ledger has no journal, so that a killed worker would lose rows: %s", error)
            return None
        self._journals_made += 1
        return journal

    def _settle(self, batch: _Batch) -> None:
        """The batch is safe elsewhere, or given up."""
        if batch.journal is not None:
            batch.journal.clear()
            self._spare.append(batch.journal)
        batch.rows = []

    def _lose(self, number: int, reason: str) -> None:
        if number:
            self._lost.inc(reason, by=number)
            log.warning("the ledger lost %d rows: %s", number, reason)

    def _waiting_rows(self) -> int:
        written = 0 if self._writing is None else len(self._writing.rows)
        return len(self._batch.rows) + written + sum(len(batch.rows) for batch in self._held)

    def _show(self) -> None:
        self._queue.set(self._waiting_rows())
        self._spooled_bytes.set(self._spool_bytes)
        self._is_down.set(float(self._down is not None))


async def _attended(work: Coroutine[Any, Any, None]) -> None:
    """Does the work; what nobody foresaw of it is told, and costs a turn, not the ledger."""
    try:
        await work
    except Exception:
        log.exception("the ledger could not write")
