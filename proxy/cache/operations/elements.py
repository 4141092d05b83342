"""PURE: takes the elements out of one large JSON document while it is still coming, in bounded memory."""

from __future__ import annotations

import re

import orjson

_TOKEN = re.compile(rb'[{}\[\]]|"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_OPENING, _CLOSING = frozenset(b"{["), frozenset(b"}]")
_MOST_SKELETON_BYTES = 1024 * 1024


class Elements:
    """Of the array under one name of a JSON object: `feed` gives those that are whole. Spaces are as they please.

    What lies around and between them is judged by `finish`: each element leaves a 0 there, and the rest must be JSON.
    """

    def __init__(self, name: str, max_element_bytes: int) -> None:
        self._name = orjson.dumps(name)
        self._max_bytes = max_element_bytes
        self._buffer = b""
        self._scanned = 0
        self._depth = 0
        self._inside = False
        self._last = b""
        self._element_at: int | None = None
        self._skeleton = bytearray()
        self.number = 0
        """Of elements that were whole."""
        self.offset = 0
        """Of the buffer's begin in the document, in bytes."""

    def feed(self, data: bytes) -> list[bytes]:
        """The elements that are whole now. ValueError if one is too large, or the rest of the document is."""
        self._buffer += data
        found: list[bytes] = []
        kept_from = self._element_at or 0
        position = self._scanned
        while match := _TOKEN.search(self._buffer, position):
            unfinished = self._buffer.find(b'"', position, match.start())
            if unfinished >= 0:
                break
            position = match.end()
            token = match[0]
            if token[0] in _OPENING:
                kept_from = self._open(token, match.start(), kept_from)
            elif token[0] in _CLOSING:
                kept_from = self._close(position, kept_from, found)
            elif self._depth == 1:
                self._last = token
        quote = self._buffer.find(b'"', position)
        self._scanned = quote if quote >= 0 else len(self._buffer)
        if self._element_at is None:
            self._bones(self._buffer[kept_from : self._scanned])
            kept_from = self._scanned
        self._buffer = self._buffer[kept_from:]
        self._scanned -= kept_from
        self.offset += kept_from
        if self._element_at is not None:
            self._element_at = 0
        if len(self._buffer) > self._max_bytes:
            raise ValueError(f"larger than {self._max_bytes} bytes")
        return found

    def finish(self) -> dict[str, object]:
        """What the document says beside its elements. ValueError if it is not whole, or was no such object."""
        if self._element_at is not None or self._buffer.strip():
            raise ValueError("the document is cut short")
        try:
            around = orjson.loads(bytes(self._skeleton))
        except orjson.JSONDecodeError as error:
            raise ValueError(f"what is around the entries is not JSON: {error}") from error
        if not isinstance(around, dict) or not isinstance(around.get(orjson.loads(self._name)), list):
            raise ValueError(f"expected an object with an array {self._name.decode()}")
        return around

    def _open(self, token: bytes, at: int, kept_from: int) -> int:
        self._depth += 1
        if not self._inside and self._depth == 2 and token == b"[" and self._last == self._name:
            self._inside = True
        elif self._inside and self._depth == 3:
            self._bones(self._buffer[kept_from:at] + b"0")
            self._element_at = at
            return at
        return kept_from

    def _close(self, end: int, kept_from: int, found: list[bytes]) -> int:
        self._depth -= 1
        if self._inside and self._depth == 2 and self._element_at is not None:
            element = self._buffer[self._element_at : end]
            if len(element) > self._max_bytes:
                raise ValueError(f"larger than {self._max_bytes} bytes")
            found.append(element)
            self.number += 1
            self._element_at = None
            return end
        if self._inside and self._depth == 1:
            self._inside, self._last = False, b""
        return kept_from

    def _bones(self, data: bytes) -> None:
        self._skeleton += data
        if len(self._skeleton) > _MOST_SKELETON_BYTES:
            raise ValueError("there is too much around the entries")
