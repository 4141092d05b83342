"""Counters that all workers share: one memory-mapped file, a row for each process, a ring of time buckets for each
subject in it.

A cell is 64 bits, the number of its bucket above and the count below, and is written by its row's process only, in one
aligned store; so neither reading nor counting takes a lock. A process claims its row by a lock of the open file
(fcntl(2), F_OFD_SETLK) that ends with it; whoever claims the row next goes on where the dead one stopped, so that what
was counted stays counted until its bucket has aged out, over a worker's end and over a restart of the service. After a
reboot, whose clock begins anew, the file is made anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from proxy.limits.window import RING

_MAGIC = b"LPLIMIT1"
_HEADER = struct.Struct("=8s16sQQQ")
"""Magic, boot id, subjects that a row has room for, subjects named, rows claimed so far."""
_NAMED_AT, _ROWS_AT = 32, 40
_ROWS_CELL = 5
_NAMES_AT = 64
_NAME_BYTES = 16
_CELL_BYTES = 8
_FEWEST_SUBJECTS = 256
_LOCK = struct.Struct("hhqqi4x")
"""Linux: struct flock."""
_COUNT_BITS = 32
_LOW = (1 << _COUNT_BITS) - 1
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Counters:
    """This process's row, and its sight of all rows. Not for use by several threads at once."""

    def __init__(self, path: Path, subjects: Iterable[str]) -> None:
        """Opens or makes `path` (mode 0600) with a ring for each of `subjects`. A file that is of no use (another
        boot's, damaged, full) is replaced: processes that still use it count apart until they end. OSError."""
        wanted = {_name(subject): subject for subject in subjects}
        self._file, self._room = _opened(path, wanted)
        try:
            named = _names(self._file)
            fresh = [name for name in wanted if name not in named]
            os.pwrite(self._file, b"".join(fresh), _NAMES_AT + len(named) * _NAME_BYTES)
            places = {name: place for place, name in enumerate([*named, *fresh])}
            os.pwrite(self._file, struct.pack("=Q", len(places)), _NAMED_AT)
            self._places = {subject: places[name] * RING for name, subject in wanted.items()}
            self._stride = self._room * RING
            self._first = _first_cell(self._room)
            self._row = self._claim()
            self._reserve(len(places))
            self._map()
            fcntl.flock(self._file, fcntl.LOCK_UN)
        except BaseException:
            os.close(self._file)
            raise

    def ring(self, subject: str) -> Ring:
        """The counters of one of the subjects that were given. KeyError for another."""
        return Ring(self, self._places[subject])

    def close(self) -> None:
        """Lets the row go; what it counted stays."""
        self.cells.release()
        self._mapped.close()
        os.close(self._file)

    def _claim(self) -> int:
        """The number of the first row that no living process holds; the file is made to hold it."""
        rows, row = self._rows_in_file(), 0
        while not _locked(self._file, row):
            row += 1
        if row >= rows:
            os.ftruncate(self._file, (self._first + (row + 1) * self._stride) * _CELL_BYTES)
            os.pwrite(self._file, struct.pack("=Q", row + 1), _ROWS_AT)
        return row

    def _reserve(self, subjects: int) -> None:
        """Takes the disk's room for what is used of each row now: touching a hole of a mapped file on a full disk would
        be a bus error."""
        for row in range(self._rows_in_file()):
            begin = (self._first + row * self._stride) * _CELL_BYTES
            os.posix_fallocate(self._file, begin, subjects * RING * _CELL_BYTES)

    def _rows_in_file(self) -> int:
        rows: int = struct.unpack("=Q", os.pread(self._file, 8, _ROWS_AT))[0]
        return rows

    def grown(self) -> memoryview:
        """The cells, mapped anew because another process has claimed a further row."""
        self.cells.release()
        self._mapped.close()
        self._map()
        return self.cells

    def _map(self) -> None:
        rows = self._rows_in_file()
        self._mapped = mmap.mmap(self._file, (self._first + rows * self._stride) * _CELL_BYTES)
        self.cells = memoryview(self._mapped).cast("Q")
        self.rows = rows
        self.offsets = tuple(self._first + row * self._stride for row in range(rows))
        self.own = self.offsets[self._row]


class Ring:
    """One subject's counters, as `window.Buckets` wants them."""

    __slots__ = ("_counters", "_counting", "_own", "_place")

    def __init__(self, counters: Counters, place: int) -> None:
        self._counters = counters
        self._place = place
        self._counting = -1
        self._own = 0

    def total(self, number: int) -> int:
        """The sum over all rows of what is held for that bucket."""
        counters = self._counters
        cells = counters.cells
        if cells[_ROWS_CELL] != counters.rows:
            cells = counters.grown()
        at, stamp, count = self._place + number % RING, number & _LOW, 0
        for row in counters.offsets:
            cell = cells[row + at]
            if cell >> _COUNT_BITS == stamp:
                count += cell & _LOW
        return count

    def add(self, number: int, amount: int) -> None:
        """Adds to this process's own cell."""
        counters = self._counters
        at, stamp = counters.own + self._place + number % RING, number & _LOW
        if number != self._counting:
            cell = counters.cells[at]
            self._counting, self._own = number, cell & _LOW if cell >> _COUNT_BITS == stamp else 0
        self._own = count = min(self._own + amount, _LOW)
        counters.cells[at] = stamp << _COUNT_BITS | count


def _name(subject: str) -> bytes:
    return hashlib.blake2b(subject.encode("utf-8", "surrogatepass"), digest_size=_NAME_BYTES).digest()


def _first_cell(room: int) -> int:
    return (_NAMES_AT + room * _NAME_BYTES) // _CELL_BYTES


def _boot_id() -> bytes:
    return bytes.fromhex(_BOOT_ID.read_text().strip().replace("-", ""))


def _opened(path: Path, wanted: Iterable[bytes]) -> tuple[int, int]:
    """The file, locked (flock(2)) against others that open it, and the number of subjects that it has room for."""
    names = set(wanted)
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(path, file):
                os.close(file)
                continue
            room = _room(file)
            if room and len(names.union(_names(file))) <= room:
                return file, room
            if os.fstat(file).st_size == 0:
                room = max(_FEWEST_SUBJECTS, 1 << (2 * len(names)).bit_length())
                os.ftruncate(file, _first_cell(room) * _CELL_BYTES)
                os.pwrite(file, _HEADER.pack(_MAGIC, _boot_id(), room, 0, 0), 0)
                return file, room
            path.unlink()
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _is_at(path: Path, file: int) -> bool:
    try:
        there, ours = path.stat(), os.fstat(file)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _room(file: int) -> int:
    """How many subjects the file has room for; 0 if it is of no use."""
    head = os.pread(file, _HEADER.size, 0)
    if len(head) < _HEADER.size:
        return 0
    magic, boot, room, named, rows = _HEADER.unpack(head)
    size = (_first_cell(room) + rows * room * RING) * _CELL_BYTES
    whole = magic == _MAGIC and boot == _boot_id() and named <= room and os.fstat(file).st_size >= size
    return int(room) if whole else 0


def _names(file: int) -> list[bytes]:
    named = struct.unpack("=Q", os.pread(file, 8, _NAMED_AT))[0]
    text = os.pread(file, named * _NAME_BYTES, _NAMES_AT)
    return [text[at : at + _NAME_BYTES] for at in range(0, len(text), _NAME_BYTES)]


def _locked(file: int, row: int) -> bool:
    """Claims one byte's lock, which ends when the file is closed. Whether nobody else held it."""
    request = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, row, 1, 0)
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, request)
    except BlockingIOError:
        return False
    except PermissionError:  # POSIX lets a lock that is held be refused with EACCES too
        return False
    return True
