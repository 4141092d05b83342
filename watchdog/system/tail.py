"""The last lines of a log file, for evidence."""

from __future__ import annotations

import os
from pathlib import Path


def tail(path: Path, lines: int = 20, max_bytes: int = 64 * 1024) -> tuple[str, ...]:
    """At most `lines` last lines from the last `max_bytes` bytes; the rotated `path.1` fills up what is missing.

    A line cut by `max_bytes` is left out. Raises OSError if the file itself cannot be read; a missing `path.1` is
    no error. Blocks on the disk, so call it in a thread.
    """
    last = _last_lines(path, lines, max_bytes)
    if len(last) < lines:
        # Just after a rotation the new file says nothing yet of what happened.
        rotated = path.with_name(path.name + ".1")
        try:
            last = _last_lines(rotated, lines - len(last), max_bytes) + last
        except OSError:
            return last
    return last


def _last_lines(path: Path, lines: int, max_bytes: int) -> tuple[str, ...]:
    # A pipe in the log's place must not hang us.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        start = max(0, size - max_bytes)
        file.seek(start)
        found = file.read(max_bytes).decode("utf-8", "replace").splitlines()
    whole = found[1:] if start else found
    return tuple(whole[-lines:]) if lines else ()
