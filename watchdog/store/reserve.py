"""A little space laid aside for the store: given up when the disk is full, so that a repair of that can be recorded.

Without it a full disk would hold up the very repair that makes room, for nothing is done that cannot be written down.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

RESERVE_BYTES = 4 * 1024 * 1024
_LEAST_BYTES = 1024 * 1024
_PLENTY_BYTES = 4 * RESERVE_BYTES
"""The reserve is laid aside only where that leaves plenty."""


class Reserve:
    """The file `reserve` beside the store; filled with real blocks, not sparse."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "reserve"

    def keep(self) -> str:
        """To be called every few seconds: gives the reserve up where the disk is full, lays it aside where there is
        room. Why it was given up, for the log, else empty. OSError where the disk cannot be asked."""
        disk = os.statvfs(self._file.parent)
        available = disk.f_bavail * disk.f_frsize
        if self._file.exists():
            if available >= _LEAST_BYTES:
                return ""
            self._file.unlink()
            return "the disk is full: the reserve is given up, so that its repair can be recorded"
        if available >= _PLENTY_BYTES:
            self._lay_aside()
        return ""

    def _lay_aside(self) -> None:
        partial = self._file.with_name("reserve.tmp")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        except OSError as error:
            with contextlib.suppress(FileNotFoundError):
                partial.unlink()
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EOPNOTSUPP):
                return
            raise
        finally:
            os.close(descriptor)
        partial.rename(self._file)
