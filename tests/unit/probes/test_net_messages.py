"""What goes over the wire by our own hand: addresses as written, DNS messages, certificates' times."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from watchdog.probes.dns import DnsProbeSettings
from watchdog.probes.ntp import NtpProbeSettings
from watchdog.probes.tcp import TcpProbeSettings
from watchdog.probes.tls import TlsProbeSettings
from watchdog.registry import Settings
from watchdog.system.certificate import validity
from watchdog.system.dialing import split_address
from watchdog.system.dns_message import DnsAnswer, question, read_answer

ASKED = question("a.example", "A", 7)[12:-11]
POINTER = b"\xc0\x0c"


def answer(*records: bytes, flags: int = 0x8180, asked: bytes = ASKED, message_id: int = 7) -> bytes:
    return struct.pack("!6H", message_id, flags, 1 if asked else 0, len(records), 0, 0) + asked + b"".join(records)


def record(kind: int, content: bytes, name: bytes = POINTER) -> bytes:
    return name + struct.pack("!HHIH", kind, 1, 60, len(content)) + content


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("example.org:443", ("example.org", 443)),
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("example.org", ("example.org", 53)),
        ("[::1]", ("::1", 53)),
    ],
)
def test_an_address_is_host_and_port(text: str, expected: tuple[str, int]) -> None:
    """Names, IPv4 and IPv6 in brackets; the port may be left out where there is a usual one."""
    assert split_address(text, 53) == expected


@pytest.mark.parametrize(
    "text", ["", ":80", "a:", "a:0", "a:65536", "a:b", "::1", "[::1", "[::1]80", "a b:1", "http://a:1", "u@a:1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """Nothing is guessed from half an address, a URL or an IPv6 address without brackets."""
    with pytest.raises(ValueError, match="expected an address such as"):
        split_address(text, 53)


def test_an_answer_gives_the_addresses_of_its_family() -> None:
    """Aliases and other families are passed over; the server's own spelling of the name does not matter."""
    alias = record(5, b"\x01b\xc0\x0e")
    whole = answer(alias, record(1, b"\x01\x02\x03\x04", b"\x01b\xc0\x0e"), record(28, bytes(16)), asked=ASKED.upper())
    assert read_answer(whole, "a.Example.", "A", 7) == DnsAnswer("NOERROR", ("1.2.3.4",), truncated=False)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(answer(message_id=8), id="another-id"),
        pytest.param(answer(flags=0x0100), id="a-question"),
        pytest.param(answer(asked=question("b.example", "A", 7)[12:-11]), id="another-name"),
        pytest.param(answer(asked=question("a.example", "AAAA", 7)[12:-11]), id="another-type"),
        pytest.param(b"short", id="short"),
    ],
)
def test_what_answers_another_question_is_passed_over(message: bytes) -> None:
    """Neither a forged nor a late answer is taken for ours."""
    assert read_answer(message, "a.example", "A", 7) is None


def test_a_refusal_has_its_name() -> None:
    """With the question repeated or left out."""
    assert read_answer(answer(flags=0x8183), "a.example", "A", 7) == DnsAnswer("NXDOMAIN", (), truncated=False)
    refused = read_answer(answer(flags=0x8385, asked=b""), "a.example", "A", 7)
    assert refused == DnsAnswer("REFUSED", (), truncated=True)


@given(st.integers(0, 40))
def test_an_answer_that_is_cut_off_is_no_answer(missing: int) -> None:
    """Wherever it ends, it is refused or passed over, never half believed."""
    whole = answer(record(1, b"\x01\x02\x03\x04"))
    found = None
    with contextlib.suppress(ValueError):
        found = read_answer(whole[: len(whole) - missing], "a.example", "A", 7)
    assert (found is not None) == (missing == 0)


@given(st.binary(max_size=80))
def test_no_answer_breaks_the_reader(noise: bytes) -> None:
    """Whatever follows a good beginning, the reader gives an answer or a ValueError."""
    with contextlib.suppress(ValueError):
        found = read_answer(struct.pack("!6H", 7, 0x8180, 1, 3, 0, 0) + ASKED + noise, "a.example", "A", 7)
        assert isinstance(found, DnsAnswer)


@given(st.binary(max_size=80))
def test_no_bytes_break_the_reader_of_certificates(noise: bytes) -> None:
    """What is no certificate is a ValueError, also inside of a plausible frame."""
    for data in (noise, b"\x30\x82" + len(noise).to_bytes(2) + noise):
        with pytest.raises(ValueError):
            validity(data)


@pytest.mark.parametrize(
    ("model", "data", "complaint"),
    [
        (TcpProbeSettings, {"kind": "tcp", "address": "localhost"}, "expected an address such as"),
        (TcpProbeSettings, {"kind": "tcp", "address": "a:1", "expect": "("}, "not a regular expression"),
        (TlsProbeSettings, {"kind": "tls"}, "exactly one of"),
        (TlsProbeSettings, {"kind": "tls", "address": "a:1", "file": "/x"}, "exactly one of"),
        (TlsProbeSettings, {"kind": "tls", "file": "/x", "server_name": "a"}, "are for an `address`"),
        (DnsProbeSettings, {"kind": "dns", "name": "a..b"}, "not a DNS name"),
        (DnsProbeSettings, {"kind": "dns", "name": "a" * 64}, "not a DNS name"),
        (DnsProbeSettings, {"kind": "dns", "name": "a", "expected": ["b"]}, "does not appear to be"),
        (NtpProbeSettings, {"kind": "ntp", "server": "a:x"}, "expected an address such as"),
    ],
)
def test_a_probe_that_cannot_be_meant_is_refused(model: type[Settings], data: dict[str, Any], complaint: str) -> None:
    """Each mistake is told when the configuration is read."""
    with pytest.raises(ValidationError, match=complaint):
        model.model_validate(data)
