"""Server-sent events: cutting a byte stream into events, and the data of one (HTML Living Standard, §9.2.6)."""

from __future__ import annotations

MAX_EVENT_BYTES = 4 * 1024 * 1024
DONE = b"data: [DONE]\n\n"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_END = b"\n\n"


class SseParser:
    """Cuts a byte stream into whole events, whichever way the bytes were split. Lines may end in LF, CRLF or CR, and in
    each of them by turns; in the events that come out they all end in LF."""

    __slots__ = ("_begun", "_parts", "_return", "_size")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._return = False
        """Whether the last byte was a carriage return, so that a line feed now is the other half of its line end."""
        self._begun = False

    def feed(self, data: bytes) -> list[bytes]:
        """The events completed by `data`, each with its blank line. ValueError if one exceeds MAX_EVENT_BYTES."""
        parts = self._parts
        if self._return or b"\r" in data:
            data = self._line_feeds(data)
        elif self._begun and not parts and data.find(_END) == len(data) - 2 and 2 <= len(data) <= MAX_EVENT_BYTES:
            return [data]
        if not self._begun and data:
            data = self._without_mark(data)
        completes = _END in data or (parts and data[:1] == b"\n" and parts[-1][-1:] == b"\n")
        if not completes:
            if data:
                parts.append(data)
                self._size += len(data)
                self._check(self._size)
            return []
        if parts:
            data = b"".join((*parts, data))
        pieces = data.split(_END)
        rest = pieces.pop()
        self._parts = [rest] if rest else []
        self._size = len(rest)
        if len(data) > MAX_EVENT_BYTES:
            self._check(max(self._size, *(len(piece) + len(_END) for piece in pieces)))
        return [piece + _END for piece in pieces]

    def finish(self) -> list[bytes]:
        """What is left at the end of the stream: an event whose blank line never came, or nothing."""
        rest, self._parts, self._size = b"".join(self._parts).strip(b"\n"), [], 0
        return [rest + _END] if rest else []

    def _line_feeds(self, data: bytes) -> bytes:
        if self._return and data[:1] == b"\n":
            data = data[1:]
            self._return = False
        if data:
            self._return = data[-1:] == b"\r"
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _without_mark(self, data: bytes) -> bytes:
        """A byte order mark may stand before the first event; it may come in pieces."""
        data = b"".join((*self._parts, data))
        self._parts.clear()
        self._size = 0
        self._begun = not _BYTE_ORDER_MARK.startswith(data) or data == _BYTE_ORDER_MARK
        return data.removeprefix(_BYTE_ORDER_MARK) if self._begun else data

    def _check(self, size: int) -> None:
        if size > MAX_EVENT_BYTES:
            raise ValueError(f"an event is longer than {MAX_EVENT_BYTES} bytes")


def data_of(event: bytes) -> bytes | None:
    """The data of one event as `SseParser` cuts it, or None for a comment or an event without any."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2:
        return event[6:-2]
    lines = [
        line[6:] if line.startswith(b"data: ") else line[5:] for line in event.split(b"\n") if line.startswith(b"data:")
    ]
    return b"\n".join(lines) if lines else None
