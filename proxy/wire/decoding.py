"""Undoes a content coding, although we ask for none: some providers and what stands before them compress anyway."""

from __future__ import annotations

import zlib

_PART_BYTES = 1024 * 1024
_GZIP, _ZLIB, _RAW = 31, 15, -15
_NIBBLE = 0x0F
_DEFLATED = 8


class Inflater:
    """Of one answer in `gzip` or `deflate` (RFC 9110 §8.4.1): in the zlib format, or bare as some servers send it."""

    __slots__ = ("_gzip", "_stream", "_tail")

    def __init__(self, coding: str) -> None:
        self._gzip = coding != "deflate"
        self._stream = zlib.decompressobj(_GZIP) if self._gzip else None
        self._tail = b""

    @property
    def pending(self) -> bool:
        """Whether `decode(b"")` would give more, without more having come."""
        return bool(self._tail)

    @property
    def complete(self) -> bool:
        """Whether the coded data has come to its own end."""
        return self._stream is not None and self._stream.eof

    def decode(self, data: bytes) -> bytes:
        """At most a mebibyte of what `data`, and what was left over, hold; maybe nothing yet. zlib.error."""
        data = self._tail + data if self._tail else data
        if not data:
            return b""
        if self._stream is None:
            self._stream = zlib.decompressobj(_ZLIB if data[0] & _NIBBLE == _DEFLATED else _RAW)
        elif self._stream.eof:
            if not self._gzip:
                raise zlib.error("data after the end")
            self._stream = zlib.decompressobj(_GZIP)  # RFC 1952 §2.2: members may follow one another
        part = self._stream.decompress(data, _PART_BYTES)
        self._tail = self._stream.unused_data or self._stream.unconsumed_tail
        return part


def inflater(content_encoding: str) -> Inflater | None:
    """None if the body is to be taken as it comes."""
    coding = content_encoding.strip().lower()
    return Inflater(coding) if coding in ("gzip", "x-gzip", "deflate") else None
