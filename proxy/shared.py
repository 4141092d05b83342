"""State that all workers share: one LMDB environment, opened so that no torn file and no stuck worker stops the rest.

Writers take turns by an advisory file lock that is only ever tried, never waited for without end: a worker that is
stopped in the middle of a transaction delays no other one's requests, which do without their write instead
(`StoreBusyError`). Nothing kept here may be needed for a correct answer.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import lmdb

from proxy.clock import Clock
from proxy.errors import ProxyError
from proxy.group_access import share_directory

log = logging.getLogger(__name__)

_PAGE_BYTES = 4096
_MAGIC = (0xBEEFC0DE).to_bytes(4, "little")
_MAGIC_AT = (slice(16, 20), slice(_PAGE_BYTES + 16, _PAGE_BYTES + 20))
"""In both meta pages, behind the page's header."""
_BUSY_WAIT_SECONDS = 0.02
_BUSY_POLL_SECONDS = 0.0002
_BUSY_HOLIDAY_SECONDS = 0.5
"""After one fruitless wait, writers do not wait at all for this long."""
_OPEN_WAIT_SECONDS = 5.0
_DATABASES = (
    "meta",
    "providers",
    *(f"{cache}_{kind}" for cache in ("cache", "summary") for kind in ("entries", "bodies", "recency", "expiry")),
    "cache_popular",
)
_READERS = 512
_NOT_OPEN = -1


class StoreBusyError(ProxyError):
    """Another process holds the write lock too long; do without."""


class StoreFullError(StoreBusyError):
    """There is no room left in the map."""


class StoreBrokenError(ProxyError):
    """The files are damaged beyond use; `Shared.recover` sets them aside."""


_DAMAGE = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.PanicError, lmdb.InvalidError, lmdb.VersionMismatchError)


class Transaction:
    """A read or write transaction as a context manager; what LMDB reports becomes this module's errors."""

    __slots__ = ("_shared", "_write", "txn")

    txn: lmdb.Transaction[bytes]

    def __init__(self, shared: Shared, write: bool) -> None:
        self._shared = shared
        self._write = write

    def __enter__(self) -> lmdb.Transaction[bytes]:
        self._shared.check()
        if self._write:
            self._shared.lock()
        try:
            self.txn = self._shared.environment.begin(write=self._write)
        except lmdb.Error as error:
            if self._write:
                self._shared.unlock()
            raise _translated(error) from error
        return self.txn

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if kind is None:
                self.txn.commit()
            else:
                self.txn.abort()
        except lmdb.Error as failed:
            raise _translated(failed) from failed
        finally:
            if self._write:
                self._shared.unlock()
        if isinstance(error, lmdb.Error):
            raise _translated(error) from error


def _translated(error: lmdb.Error) -> ProxyError:
    if isinstance(error, lmdb.MapFullError | lmdb.DiskError):
        return StoreFullError(str(error))
    if isinstance(error, _DAMAGE):
        return StoreBrokenError(str(error))
    return StoreBusyError(str(error))


class Shared:
    """The environment in `directory`. One instance per process; not for several threads.

    Writes survive the process at once and the machine mostly (no fsync): what is kept here may be lost.
    """

    environment: lmdb.Environment
    _head: mmap.mmap

    def __init__(self, directory: Path, map_bytes: int, clock: Clock) -> None:
        """Opens, or sets damaged files aside and begins anew. OSError if the directory cannot be written."""
        self._directory = directory
        self._map_bytes = -(-map_bytes // _PAGE_BYTES) * _PAGE_BYTES
        self._clock = clock
        self._databases: dict[str, lmdb._Database] = {}
        self._no_wait_until = 0.0
        self._mapped: int | None = None
        self.set_aside = 0
        """How often this process has found the files damaged and set them aside."""
        self._data = _NOT_OPEN
        self._seen_bytes = 0
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._gate = _lock_file(directory.with_name(directory.name + ".open.lock"))
        self._users = _lock_file(directory.with_name(directory.name + ".users.lock"))
        self._writer = _lock_file(directory.with_name(directory.name + ".write.lock"))
        try:
            self._open()
        except BaseException:
            self._close_locks()
            raise

    def read(self) -> Transaction:
        """A snapshot. StoreBrokenError when the files are damaged."""
        return Transaction(self, write=False)

    def get(self, key: bytes, database: lmdb._Database) -> bytes | None:
        """One value, as a transaction of its own would give it, for callers that count microseconds."""
        self.check()
        try:
            with self.environment.begin() as txn:
                return txn.get(key, db=database)
        except lmdb.Error as error:
            raise _translated(error) from error

    def write(self) -> Transaction:
        """The one write transaction; commits at the end of a clean block. StoreBusyError when it must be done without,
        StoreFullError when there is no room, StoreBrokenError when the files are damaged."""
        return Transaction(self, write=True)

    def database(self, name: str) -> lmdb._Database:
        """The handle of a named database; ask anew after `recover`."""
        return self._databases[name]

    def replaced(self) -> bool:
        """Whether another process has set aside the files that this one still uses, so that it should `recover`."""
        return _inode(self._directory) != self._mapped

    def recover(self) -> None:
        """After StoreBrokenError or `replaced`: sets the files aside, unless another process already has, and begins
        anew. If not even that works, everything is StoreBusyError until a later `recover` succeeds."""
        self._unmap()
        fcntl.flock(self._users, fcntl.LOCK_UN)
        try:
            self._open(distrusted=self._mapped)
        except (OSError, lmdb.Error):
            log.exception("the shared store %s cannot be begun anew", self._directory)

    def close(self) -> None:
        """Unmaps the files."""
        self._unmap()
        self._close_locks()

    def check(self) -> None:
        """StoreBrokenError if the file has been overwritten or truncated under us, which costs a microsecond to see;
        LMDB would die of it by a signal."""
        try:
            size = os.lseek(self._data, 0, os.SEEK_END)  # fstat makes an object of all that it tells
        except OSError as error:
            raise StoreBusyError(f"the store is not open: {error}") from error
        first, second = _MAGIC_AT
        if size < self._seen_bytes or self._head[first] != _MAGIC or self._head[second] != _MAGIC:
            raise StoreBrokenError("the file was overwritten or truncated")
        self._seen_bytes = size

    def lock(self) -> None:
        """Takes the writers' lock; StoreBusyError if that takes longer than some 20 ms."""
        wait_until = 0.0
        while True:
            try:
                fcntl.flock(self._writer, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                now = self._clock.monotonic()
                wait_until = wait_until or (now + _BUSY_WAIT_SECONDS)
                if now < self._no_wait_until or now >= wait_until:
                    self._no_wait_until = max(self._no_wait_until, now + _BUSY_HOLIDAY_SECONDS)
                    raise StoreBusyError("another process holds the write lock") from None
                time.sleep(_BUSY_POLL_SECONDS)
            else:
                self._no_wait_until = 0.0
                return

    def unlock(self) -> None:
        """Gives the writers' lock back."""
        fcntl.flock(self._writer, fcntl.LOCK_UN)

    def _close_locks(self) -> None:
        for descriptor in (self._users, self._gate, self._writer):
            os.close(descriptor)

    def _open(self, *, distrusted: int | None = None) -> None:
        with _held(self._gate, self._clock, f"{self._directory}: another process has been opening this store"):
            alone = _try_lock(self._users)
            damage = _damage(self._directory / "data.mdb", thorough=alone)
            if damage is None and distrusted is not None and _inode(self._directory) == distrusted:
                damage = "a transaction found damage"
            if damage is not None:
                self._set_aside(damage)
            try:
                self._map()
            except lmdb.Error as error:
                self._set_aside(str(error))
                self._map()
            fcntl.flock(self._users, fcntl.LOCK_SH)

    def _unmap(self) -> None:
        self.environment.close()
        if self._data != _NOT_OPEN:
            self._head.close()
            os.close(self._data)
            self._data = _NOT_OPEN

    def _map(self) -> None:
        self.environment = lmdb.open(
            str(self._directory),
            map_size=self._map_bytes,
            mode=0o700,
            sync=False,
            metasync=False,
            max_dbs=2 * len(_DATABASES),
            max_readers=_READERS,
            max_spare_txns=1,
        )
        share_directory(self._directory)
        try:
            with _held(self._writer, self._clock, f"{self._directory}: another process has been writing"):
                self.environment.reader_check()
                self._databases = {name: self.environment.open_db(name.encode()) for name in _DATABASES}
                self._forget_an_earlier_boot()
            self._mapped = _inode(self._directory)
            self._data = os.open(self._directory / "data.mdb", os.O_RDONLY | os.O_CLOEXEC)
            self._head = mmap.mmap(self._data, 2 * _PAGE_BYTES, prot=mmap.PROT_READ)
            self._seen_bytes = 0
        except lmdb.Error:
            self.environment.close()
            raise

    def _forget_an_earlier_boot(self) -> None:
        """Deadlines are monotonic times, which mean nothing after a reboot."""
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
        meta, providers = self._databases["meta"], self._databases["providers"]
        with self.environment.begin(write=True) as txn:
            if txn.get(b"boot", db=meta) != boot:
                txn.drop(providers, delete=False)
                txn.put(b"boot", boot, db=meta)

    def _set_aside(self, why: str) -> None:
        if not self._directory.exists():
            return
        for older in self._directory.parent.glob(self._directory.name + ".damaged-*"):
            shutil.rmtree(older, ignore_errors=True)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock.wall()))
        aside = self._directory.with_name(f"{self._directory.name}.damaged-{stamp}")
        self._directory.rename(aside)
        self.set_aside += 1
        log.warning("the shared store was set aside as %s and begun anew: %s", aside, why)


@contextlib.contextmanager
def _held(descriptor: int, clock: Clock, what: str) -> Iterator[None]:
    """Holds a lock that may have to be waited for when a worker starts; TimeoutError says `what` took too long."""
    deadline = clock.monotonic() + _OPEN_WAIT_SECONDS
    while not _try_lock(descriptor):
        if clock.monotonic() >= deadline:
            raise TimeoutError(f"{what} for more than {_OPEN_WAIT_SECONDS:g} s")
        time.sleep(0.01)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _inode(directory: Path) -> int | None:
    try:
        return (directory / "data.mdb").stat().st_ino
    except FileNotFoundError:
        return None


def _lock_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _damage(data: Path, *, thorough: bool) -> str | None:
    """What is wrong with the file, or None. LMDB maps it and would die by SIGBUS or SIGSEGV of what is found here.

    A thorough check walks every page, and is only right while nobody writes.
    """
    try:
        with data.open("rb") as file:
            head = file.read(2 * _PAGE_BYTES)
    except FileNotFoundError:
        return None
    if not head:
        return None
    if len(head) < 2 * _PAGE_BYTES:
        return f"{len(head)} bytes are too few"
    if any(head[place] != _MAGIC for place in _MAGIC_AT):
        return "not an LMDB file"
    if not thorough:
        return None
    from lmdb import verify

    try:
        found = verify.verify(str(data), subdir=False)  # type: ignore[no-untyped-call]
    except verify.VerifyError as error:
        return str(error)
    return str(found[0]) if found else None
