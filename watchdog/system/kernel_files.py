"""Files that the kernel makes up as they are read, several times cheaper than through pathlib and buffered files."""

from __future__ import annotations

import os

_PAGE = 4096
_CHUNK = 64 * 1024


def read_small(path: str) -> bytes:
    """A file that fits a page. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _PAGE)
    finally:
        os.close(descriptor)


def read_whole(path: str) -> bytes:
    """A file of any size; the kernel may hand out less at once than it was asked for. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(descriptor, _CHUNK):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)
