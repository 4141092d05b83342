"""PURE: what is kept of one answer beside its body, as bytes and back, and how bodies are compressed."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple

from proxy.cache.policy import KEY_BYTES
from proxy.settings.cache import Compression

_ENTRY = struct.Struct("<QdddQQIB")
_HEAD = struct.Struct("<Qdd")
_STAMP = struct.Struct(">Q")
_RANKED = struct.Struct(">QQ")
STAMP_BYTES = _STAMP.size
RANKED_BYTES = _RANKED.size
_PLAIN = 0
_WINDOW = {"gzip": 31, "zlib": 15}
"""The window sizes by which zlib knows its two headers."""
_CODE = {"gzip": 1, "zlib": 2}
_DETECT = 47
"""Either header."""


class About(NamedTuple):
    """What an answer is an answer to; never the prompt."""

    operation: str
    version: str
    namespace: str
    model: str

    def pack(self) -> bytes:
        """As kept with the entry. A NUL would part the fields, and is replaced."""
        packed = "\0".join(self)
        if packed.count("\0") != len(self) - 1:
            packed = "\0".join([part.replace("\0", " ") for part in self])
        return packed.encode("utf-8", "surrogateescape")


class Entry(NamedTuple):
    """One entry. Times are wall seconds."""

    serial: int
    """Of this body: another one under the same key has another serial."""
    stored: float
    expires: float
    used: float
    rank: int
    """Its place in the order of eviction, before `used`: 0 under LRU, how often it was used (with ageing) under LFU."""
    size: int
    """Accounted bytes: its body as kept, its keys and this."""
    hits: int
    coding: int
    packed_about: bytes

    def pack(self) -> bytes:
        """As kept."""
        return _ENTRY.pack(*self[:8]) + self.packed_about

    @property
    def about(self) -> About:
        """What it is an answer to."""
        return About(*self.packed_about.decode("utf-8", "surrogateescape").split("\0", 3))

    def body(self, kept: bytes) -> bytes:
        """The plain body. ValueError if what is kept cannot be inflated."""
        if self.coding == _PLAIN:
            return kept
        try:
            return zlib.decompress(kept, _DETECT)
        except zlib.error as error:
            raise ValueError(f"a body cannot be inflated: {error}") from error

    @property
    def compressed(self) -> bool:
        """Whether its body is kept compressed."""
        return self.coding != _PLAIN


OVERHEAD_BYTES = _ENTRY.size + 4 * KEY_BYTES + STAMP_BYTES + RANKED_BYTES
"""Keys, times and indexes of one entry, to which come its body and `packed_about`."""


@dataclass(frozen=True, slots=True)
class Birth:
    """An earlier life of an answer."""

    stored: float
    expires: float
    used: float
    hits: int


@dataclass(frozen=True, slots=True)
class Fresh:
    """An answer on its way into a cache."""

    key: bytes
    body: bytes
    packed_about: bytes
    ttl: float | None = None
    """None: the cache's own, with jitter."""
    born: Birth | None = None
    """Of an answer that comes from an export; it begins now otherwise."""


def unpack(raw: bytes) -> Entry:
    """What `Entry.pack` made. ValueError if it is too short."""
    if len(raw) < _ENTRY.size:
        raise ValueError("an entry is cut short")
    return Entry(*_ENTRY.unpack_from(raw), raw[_ENTRY.size :])  # type: ignore[call-arg]


def head(raw: bytes) -> tuple[int, float, float]:
    """Serial, stored, expires: what a look-up needs."""
    return _HEAD.unpack_from(raw)


def code(body: bytes, how: Compression) -> tuple[int, bytes]:
    """How a body is to be kept: its coding and its bytes, compressed if that is wanted and makes it smaller."""
    if not how.enabled or len(body) < how.min_size_kb * 1024:
        return _PLAIN, body
    compressor = zlib.compressobj(how.level, zlib.DEFLATED, _WINDOW[how.algorithm])
    packed = compressor.compress(body) + compressor.flush()
    return (_CODE[how.algorithm], packed) if len(packed) < len(body) else (_PLAIN, body)


def by_time(seconds: float) -> bytes:
    """The head of a key in an index by time: microseconds since the epoch, big-endian."""
    return _STAMP.pack(max(0, int(seconds * 1e6)))


def of_time(stamp: bytes) -> float:
    """The seconds that `by_time` wrote."""
    (microseconds,) = _STAMP.unpack(stamp)
    return float(microseconds) / 1e6


def by_rank(rank: int, used: float) -> bytes:
    """The head of a key in the order of eviction: rank first, then when it was last used."""
    return _RANKED.pack(rank, max(0, int(used * 1e6)))
