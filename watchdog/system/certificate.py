"""Certificates as far as their time goes: when an X.509 certificate begins and ends, and the certificates of a file.

Python's own reader gives nothing of a certificate that was not verified, which is when one wants to know most.
"""

from __future__ import annotations

import calendar
import re
import ssl
from typing import NamedTuple

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\s.+?-----END CERTIFICATE-----", re.DOTALL)
_TIME = re.compile(rb"(\d{2}|\d{4})(\d{2})(\d{2})(\d{2})(\d{2})(\d{2})Z")
_SEQUENCE, _VERSION, _INTEGER, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x02, 0x17, 0x18


class Validity(NamedTuple):
    """Epoch seconds."""

    not_before: float
    not_after: float


def certificates_of(text: str) -> tuple[bytes, ...]:
    """The certificates (DER) in a PEM file, whatever else is in it. ValueError for one that is not base64."""
    return tuple(ssl.PEM_cert_to_DER_cert(found) for found in _PEM.findall(text))


def validity(der: bytes) -> Validity:
    """From when to when a certificate is good (RFC 5280, 4.1.2.5). ValueError for what is no certificate."""
    try:
        _, certificate, _ = _element(der, _SEQUENCE)
        _, signed, _ = _element(certificate, _SEQUENCE)
        if signed[0] == _VERSION:
            _, _, signed = _element(signed, _VERSION)
        for passed in (_INTEGER, _SEQUENCE, _SEQUENCE):  # serial number, algorithm, issuer
            _, _, signed = _element(signed, passed)
        _, times, _ = _element(signed, _SEQUENCE)
        kind, begins, times = _element(times, _UTC_TIME, _GENERALIZED_TIME)
        not_before = _seconds(kind, begins)
        kind, ends, _ = _element(times, _UTC_TIME, _GENERALIZED_TIME)
        return Validity(not_before, _seconds(kind, ends))
    except IndexError:
        raise ValueError("a certificate that is cut off") from None


def _element(data: bytes, *tags: int) -> tuple[int, bytes, bytes]:
    """Tag and content of the first DER element, and what follows it."""
    if data[0] not in tags:
        raise ValueError(f"not a certificate: tag {data[0]:#x}")
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start])
    if start + length > len(data):
        raise IndexError
    return data[0], data[start : start + length], data[start + length :]


def _seconds(kind: int, text: bytes) -> float:
    match = _TIME.fullmatch(text)
    if match is None or len(match[1]) != (2 if kind == _UTC_TIME else 4):
        raise ValueError(f"not a certificate: time {text[:20]!r}")
    year, month, day, hour, minute, second = map(int, match.groups())
    if kind == _UTC_TIME:
        year += 1900 if year >= 50 else 2000
    if not (1 <= month <= 12 and 1 <= day <= 31):
        raise ValueError(f"not a certificate: time {text[:20]!r}")
    return float(calendar.timegm((year, month, day, hour, minute, second)))
