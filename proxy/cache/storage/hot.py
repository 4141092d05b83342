"""What one worker has in hand of the most asked answers: plain bodies, and the streams told from them."""

from __future__ import annotations


class Hot:
    """Bounded by bytes; the oldest goes first. What is found counts only with the serial of the entry as it is now, so
    that whoever flushes or replaces an entry reaches this too."""

    __slots__ = ("_bytes", "_kept", "_max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: dict[tuple[bytes, int], tuple[int, bytes]] = {}

    @property
    def size_bytes(self) -> int:
        """Of the bodies in hand."""
        return self._bytes

    def get(self, key: bytes, form: int, serial: int) -> bytes | None:
        """The body in that form, if it is the one with that serial."""
        known = self._kept.get((key, form))
        return known[1] if known is not None and known[0] == serial else None

    def put(self, key: bytes, form: int, serial: int, body: bytes) -> None:
        """Keeps a body, unless it would take more than an eighth of the room."""
        if len(body) * 8 > self._max_bytes:
            return
        place = (key, form)
        known = self._kept.pop(place, None)
        if known is not None:
            self._bytes -= len(known[1])
        self._kept[place] = (serial, body)
        self._bytes += len(body)
        while self._bytes > self._max_bytes:
            oldest = next(iter(self._kept))
            self._bytes -= len(self._kept.pop(oldest)[1])

    def clear(self) -> None:
        """Lets everything go."""
        self._kept.clear()
        self._bytes = 0
