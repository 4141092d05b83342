"""DNS messages as far as asking for the addresses of one name goes (RFC 1035; EDNS0 by RFC 6891)."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Literal

RecordType = Literal["A", "AAAA"]
_TYPES: dict[RecordType, int] = {"A": 1, "AAAA": 28}
_INTERNET = 1
_HEADER = struct.Struct("!6H")
_RECORD = struct.Struct("!HHIH")
_RECURSION_DESIRED, _RESPONSE, _TRUNCATED = 0x0100, 0x8000, 0x0200
# An option record that says: answers of up to 1,232 bytes are welcome, which no path cuts into pieces.
_EDNS = b"\x00" + _RECORD.pack(41, 1232, 0, 0)
_RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}


@dataclass(frozen=True, slots=True)
class DnsAnswer:
    """What a server said. `truncated`: there are more records than fitted in."""

    rcode: str
    addresses: tuple[str, ...]
    truncated: bool


def question(name: str, record: RecordType, message_id: int) -> bytes:
    """A recursive query as it goes out. ValueError for what is no name."""
    return _HEADER.pack(message_id, _RECURSION_DESIRED, 1, 0, 0, 1) + _asked(name, record) + _EDNS


def read_answer(message: bytes, name: str, record: RecordType, message_id: int) -> DnsAnswer | None:
    """None for what does not answer this question. ValueError for an answer that is cut off or makes no sense."""
    asked = _asked(name, record)
    if len(message) < _HEADER.size:
        return None
    found_id, flags, questions, answers, _, _ = _HEADER.unpack_from(message)
    if found_id != message_id or not flags & _RESPONSE:
        return None
    position = _HEADER.size
    if questions:  # Servers that refuse may leave it out.
        if message[position : position + len(asked)].lower() != asked.lower():
            return None
        position += len(asked)
    addresses = []
    try:
        for _ in range(answers):
            position = _after_name(message, position)
            kind, family, _, length = _RECORD.unpack_from(message, position)
            position += _RECORD.size
            content = message[position : position + length]
            position += length
            if position > len(message):
                raise ValueError("the answer is cut off")
            if (kind, family) == (_TYPES[record], _INTERNET):
                addresses.append(str(ipaddress.ip_address(content)))
    except (struct.error, IndexError):
        raise ValueError("the answer is cut off") from None
    rcode = flags & 0xF
    return DnsAnswer(_RCODES.get(rcode, f"RCODE{rcode}"), tuple(addresses), bool(flags & _TRUNCATED))


def _asked(name: str, record: RecordType) -> bytes:
    try:
        labels = [label.encode("ascii") for label in name.rstrip(".").split(".")]
    except UnicodeEncodeError:
        labels = name.rstrip(".").encode("idna").split(b".")
    if not all(0 < len(label) < 64 for label in labels) or sum(map(len, labels)) + len(labels) > 254:
        raise ValueError(f"not a DNS name: {name!r}")
    encoded = b"".join(bytes((len(label),)) + label for label in labels)
    return encoded + b"\x00" + struct.pack("!HH", _TYPES[record], _INTERNET)


def _after_name(message: bytes, position: int) -> int:
    while length := message[position]:
        if length & 0xC0:  # The rest of the name is elsewhere.
            return position + 2
        position += 1 + length
    return position + 1
