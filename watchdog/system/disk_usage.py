"""What uses the space of one filesystem: its largest directories and files, and deleted files that are still open.

Looks for a bounded time and never leaves the filesystem: neither through a symbolic link nor over a mount point. It
goes broadest first, so that what a short time shows is the whole in coarse rather than a corner in detail.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import stat
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SHOWN = 10
_DEPTH = 3
"""Directories are told apart so far below the mount point; what is deeper counts for the one above it."""


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """Bytes are those that are taken on the disk. Each list has at most ten entries, the largest first."""

    directories: tuple[tuple[int, str], ...]
    """With everything below, among those at most three levels below the mount point."""
    crowded: tuple[tuple[int, str], ...]
    """Directories by the number of entries directly in them: where the inodes are."""
    files: tuple[tuple[int, str], ...]
    deleted: tuple[tuple[int, str], ...]
    """Bytes that only the end of a process gives back, with its pid, name and the file's former name."""
    looked_at: int
    """So many entries."""
    complete: bool
    """Whether the time was enough for all of the filesystem that we may read."""


def disk_usage(mountpoint: str, seconds: float) -> DiskUsage:
    """Looks at the filesystem mounted there, for about so many seconds. OSError if it cannot be opened."""
    device = Path(mountpoint).stat().st_dev
    end = time.monotonic() + seconds
    sizes: Counter[str] = Counter()
    entries: Counter[str] = Counter()
    files: list[tuple[int, str]] = []
    seen: set[int] = set()
    looked, complete = 0, True
    todo: deque[tuple[str, tuple[str, ...]]] = deque([(mountpoint, (mountpoint,))])
    while todo:
        if time.monotonic() > end:
            complete = False
            break
        directory, above = todo.popleft()
        for path, found in _entries(directory):
            if found.st_dev != device:
                continue
            looked += 1
            entries[directory] += 1
            if stat.S_ISDIR(found.st_mode):
                todo.append((path, (*above, path) if len(above) <= _DEPTH else above))
            elif found.st_nlink > 1 and found.st_ino in seen:
                continue
            else:
                seen.update((found.st_ino,) if found.st_nlink > 1 else ())
                size = found.st_blocks * 512
                for one in above:
                    sizes[one] += size
                _keep(files, (size, path))
    deleted: list[tuple[int, str]] = []
    for one_deleted in _deleted(device, end):
        _keep(deleted, one_deleted)
    return DiskUsage(
        directories=tuple((size, path) for path, size in sizes.most_common(_SHOWN)),
        crowded=tuple((count, path) for path, count in entries.most_common(_SHOWN)),
        files=tuple(sorted(files, reverse=True)),
        deleted=tuple(sorted(deleted, reverse=True)),
        looked_at=looked,
        complete=complete,
    )


def _keep(largest: list[tuple[int, str]], one: tuple[int, str]) -> None:
    if len(largest) < _SHOWN:
        heapq.heappush(largest, one)
    else:
        heapq.heappushpop(largest, one)


def _entries(directory: str) -> Iterator[tuple[str, os.stat_result]]:
    """What is directly in it; what vanishes meanwhile or may not be read is left out."""
    with contextlib.suppress(OSError), os.scandir(directory) as found:
        for entry in found:
            with contextlib.suppress(OSError):
                yield entry.path, entry.stat(follow_symlinks=False)


def _deleted(device: int, end: float) -> Iterator[tuple[int, str]]:
    """Regular files without a name that some process holds open; of other users' processes only as root."""
    seen: set[int] = set()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or time.monotonic() > end:
            continue
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    found = descriptor.stat()
                    gone = stat.S_ISREG(found.st_mode) and found.st_nlink == 0 and found.st_dev == device
                    if gone and found.st_ino not in seen:
                        seen.add(found.st_ino)
                        name = (process / "comm").read_text(errors="replace").strip()
                        former = str(descriptor.readlink()).removesuffix(" (deleted)")
                        yield found.st_blocks * 512, f"pid {process.name} ({name}) {former}"
