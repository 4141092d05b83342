"""Probes of the net against real sockets: what is told apart, what is measured, what is not believed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import watchdog.probes
from watchdog.clock import FakeClock, SystemClock
from watchdog.core.model import Sample
from watchdog.errors import ProbeError
from watchdog.probes import MeasurementError, Probe, ProbeContext, ProbeResult, ProbeSettings, probes, run_once
from watchdog.system.http import HttpClient

probes.discover(watchdog.probes)
DAY = 86400
Answers = Callable[[bytes], Iterable[bytes]]


@pytest.fixture
def make(http: HttpClient) -> Callable[..., tuple[Probe, ProbeSettings]]:
    def built(kind: str, clock: Any = None, **written: Any) -> tuple[Probe, ProbeSettings]:
        settings = probes.kinds[kind].model_validate({"kind": kind, **written})
        assert isinstance(settings, ProbeSettings)
        context = ProbeContext("mine", clock or SystemClock(), http, {}, {})
        return probes.implementation(kind)(settings, context), settings

    return built


@pytest.fixture
def run(make: Callable[..., tuple[Probe, ProbeSettings]]) -> Callable[..., Any]:
    async def once(kind: str, **written: Any) -> ProbeResult:
        probe, settings = make(kind, **written)
        return await run_once(probe, settings, "mine", SystemClock())

    return once


def figure(samples: Iterable[Sample], name: str) -> float:
    return next(sample.value for sample in samples if sample.name == name)


def reasons(samples: Iterable[Sample], name: str) -> list[str]:
    return [dict(sample.labels)["reason"] for sample in samples if sample.name == name and sample.value]


@contextlib.asynccontextmanager
async def tcp_server(says: bytes, *, hears: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Reads so many bytes of each caller, says its word, and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readexactly(hears)
            writer.write(says)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@contextlib.asynccontextmanager
async def udp_server(answers: Answers) -> AsyncIterator[str]:
    class Peer(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            for answer in answers(data):
                self.transport.sendto(answer, addr)

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Peer, local_addr=("127.0.0.1", 0))
    try:
        yield f"127.0.0.1:{transport.get_extra_info('sockname')[1]}"
    finally:
        transport.close()


def closed_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


# --- tcp ----------------------------------------------------------------------------------------------------------


async def test_a_port_that_answers_as_expected(run: Any) -> None:
    """What is sent reaches the program, and what it says is searched."""
    async with tcp_server(b"220 ready\r\n", hears=6) as address:
        result = await run("tcp", address=address, send="HELLO\n", expect="^220 ")
    assert result.error is None
    assert reasons(result.samples, "probe_tcp_failure") == []
    assert 0 < figure(result.samples, "probe_tcp_connect_seconds") < 5


@pytest.mark.parametrize(("says", "reason"), [(b"421 busy\r\n", "regex"), (b"", "closed")], ids=["wrong", "none"])
async def test_a_port_that_answers_otherwise(run: Any, says: bytes, reason: str) -> None:
    """An answer that does not match, and none at all, are told apart; that it took the connection is measured."""
    async with tcp_server(says) as address:
        result = await run("tcp", address=address, expect="^220 ")
    assert result.error
    assert reasons(result.samples, "probe_tcp_failure") == [reason]
    assert figure(result.samples, "probe_failed_due_to_regex") == (reason == "regex")
    assert figure(result.samples, "probe_tcp_connect_seconds") > 0


@pytest.mark.parametrize(
    ("host", "reason"), [("127.0.0.1", "refused"), ("no-such-host.invalid", "dns"), ("255.255.255.255", "unreachable")]
)
async def test_why_nothing_was_reached(run: Any, host: str, reason: str) -> None:
    """Refused, not found and unreachable are told apart."""
    result = await run("tcp", address=f"{host}:{closed_port()}")
    assert reasons(result.samples, "probe_tcp_failure") == [reason]
    assert host in result.note


async def test_a_port_that_takes_no_connection_is_a_timeout(run: Any) -> None:
    """A listener with a full queue: the kernel answers nothing, and the reason comes before the probe's own limit."""
    with socket.socket() as full, contextlib.ExitStack() as others:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            other = others.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        result = await run("tcp", address=f"127.0.0.1:{full.getsockname()[1]}", timeout="400ms")
    assert reasons(result.samples, "probe_tcp_failure") == ["timeout"]
    assert "connected" not in result.note
    assert result.duration < 5


async def test_a_silent_program_is_a_timeout(run: Any) -> None:
    """It took the connection and says nothing: the note says that it was connected."""
    async with tcp_server(b"late", hears=1) as address:
        result = await run("tcp", address=address, expect="late", timeout="300ms")
    assert reasons(result.samples, "probe_tcp_failure") == ["timeout"]
    assert "connected, but no answer" in result.note


# --- tls ----------------------------------------------------------------------------------------------------------


class Authority:
    """A certificate authority of this test's own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.file = self._issue("ca", 30, "-addext", "basicConstraints=critical,CA:TRUE")

    def _issue(self, name: str, days: int, *more: str) -> Path:
        file, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        argv = ("openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
        argv = (*argv, "-subj", f"/CN={name}", "-days", str(days), "-keyout", str(key), "-out", str(file), *more)
        subprocess.run(argv, check=True, capture_output=True, cwd=self._directory)
        return file

    def certificate(self, host: str, days: int = 90) -> Path:
        """Signed for a host, followed by the authority's own."""
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", f"subjectAltName={host}")
        file = self._issue("leaf", days, *signed, "-addext", "basicConstraints=critical,CA:FALSE")
        file.write_text(file.read_text() + self.file.read_text())
        return file

    def serving(self, file: Path) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file, file.with_suffix(".key"))
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_a_trusted_server_tells_the_earliest_end_of_its_chain(run: Any, authority: Authority) -> None:
    """Of 90 days and 30 days, 30 count; the server's own certificate is known by its fingerprint."""
    file = authority.certificate("IP:127.0.0.1")
    async with tcp_server(b"", tls=authority.serving(file)) as address:
        result = await run("tls", address=address, ca_file=str(authority.file))
    assert result.error is None
    assert figure(result.samples, "probe_ssl_earliest_cert_expiry") - time.time() == pytest.approx(30 * DAY, abs=60)
    assert figure(result.samples, "probe_tls_certificates") == 2
    assert figure(result.samples, "probe_tls_verified") == 1
    assert reasons(result.samples, "probe_tls_problem") == []
    labels = {name: value for sample in result.samples for name, value in sample.labels}
    said = subprocess.check_output(("openssl", "x509", "-in", file, "-noout", "-fingerprint", "-sha256"), text=True)
    assert labels["fingerprint_sha256"] == said.strip().partition("=")[2].replace(":", "").lower()
    assert labels["version"] == "TLSv1.3"


async def test_why_a_server_is_not_trusted(run: Any, authority: Authority) -> None:
    """Another host's certificate and an unknown authority are told apart, and the expiry is known all the same."""
    named = authority.serving(authority.certificate("DNS:other.example"))
    async with tcp_server(b"", tls=named) as address:
        wrong = await run("tls", address=address, ca_file=str(authority.file))
        right = await run("tls", address=address, ca_file=str(authority.file), server_name="other.example")
        unknown = await run("tls", address=address)
    assert reasons(wrong.samples, "probe_tls_problem") == ["hostname"]
    assert right.error is None
    assert reasons(unknown.samples, "probe_tls_problem") == ["untrusted"]
    for result in (wrong, unknown):
        assert figure(result.samples, "probe_success") == figure(result.samples, "probe_tls_verified") == 0
        assert figure(result.samples, "probe_ssl_earliest_cert_expiry") > time.time() + 29 * DAY


async def test_a_certificate_that_signs_itself(run: Any, authority: Authority) -> None:
    """It is told as such, and trusted when it is its own `ca_file`."""
    file = authority._issue("own", 5, "-addext", "subjectAltName=IP:127.0.0.1")
    async with tcp_server(b"", tls=authority.serving(file)) as address:
        result = await run("tls", address=address)
        trusted = await run("tls", address=address, ca_file=str(file))
    assert reasons(result.samples, "probe_tls_problem") == ["self_signed"]
    assert "good for 4d 23h" in result.note or "good for 5d" in result.note
    assert trusted.error is None


async def test_a_port_without_tls_fails_with_its_reason(run: Any) -> None:
    """What answers plain text is no certificate problem."""
    async with tcp_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        result = await run("tls", address=address)
    assert "the TLS handshake broke" in result.error
    assert not reasons(result.samples, "probe_tls_problem")


async def test_a_file_tells_the_earliest_end_of_its_certificates(run: Any, authority: Authority) -> None:
    """As a server would that showed them; a file without any fails."""
    result = await run("tls", file=str(authority.certificate("DNS:a", days=3)))
    assert figure(result.samples, "probe_ssl_earliest_cert_expiry") - time.time() == pytest.approx(3 * DAY, abs=60)
    assert figure(result.samples, "probe_tls_certificates") == 2
    key = await run("tls", file=str(authority.file.with_suffix(".key")))
    assert "no certificate is in it" in key.error
    assert "PRIVATE" not in key.error


# --- dns ----------------------------------------------------------------------------------------------------------


def dns_answers(rcode: int, *addresses: str) -> Answers:
    """A name server with this answer to everything, after a forged one with another id."""

    def answer(query: bytes) -> Iterable[bytes]:
        question = query[12 : query.index(b"\0", 12) + 5]
        records = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 9, 4) + socket.inet_aton(a) for a in addresses)
        forged = struct.pack("!6H", (query[0] << 8 | query[1]) ^ 1, 0x8180, 1, 0, 0, 0) + question
        return forged, query[:2] + struct.pack("!5H", 0x8180 | rcode, 1, len(addresses), 0, 0) + question + records

    return answer


async def test_a_server_answers_with_addresses(run: Any) -> None:
    """They are counted, and expected ones are looked for; a forged answer that comes first is not believed."""
    async with udp_server(dns_answers(0, "10.0.0.1", "10.0.0.2")) as server:
        good = await run("dns", name="a.example", server=server, expected=["10.0.0.2"])
        moved = await run("dns", name="a.example", server=server, expected=["10.0.0.3"])
    assert good.error is None
    assert figure(good.samples, "probe_dns_answer_rrs") == 2
    assert figure(good.samples, "probe_dns_expected") == 1
    assert "without the expected 10.0.0.3" in moved.error
    assert figure(moved.samples, "probe_dns_expected") == 0
    assert figure(moved.samples, "probe_dns_query_succeeded") == 1


@pytest.mark.parametrize(
    ("answers", "said"),
    [(dns_answers(3), "NXDOMAIN"), (dns_answers(0), "no A record"), (lambda _: (), "no answer within")],
    ids=["nxdomain", "empty", "silent"],
)
async def test_a_server_that_gives_no_address(run: Any, answers: Answers, said: str) -> None:
    """No such name, no such record and silence are told apart."""
    async with udp_server(answers) as server:
        result = await run("dns", name="a.example", server=server, timeout="300ms")
    assert said in result.error
    assert figure(result.samples, "probe_dns_query_succeeded") == 0
    assert figure(result.samples, "probe_dns_answer_rrs") == 0


async def test_the_systems_resolver_is_asked_without_a_server(run: Any) -> None:
    """`localhost` is found by way of the hosts file, and a name that cannot be is not."""
    found = await run("dns", name="localhost", expected=["127.0.0.1"])
    assert found.error is None
    missing = await run("dns", name="no-such-host.invalid")
    assert "no-such-host.invalid" in missing.error
    assert figure(missing.samples, "probe_dns_query_succeeded") == 0


# --- ntp ----------------------------------------------------------------------------------------------------------


def time_answers(shows: Callable[[], float], stratum: int = 2, leap: int = 0, reference: bytes = b"") -> Answers:
    """A time server whose clock shows so many epoch seconds, after a forged answer to another question."""

    def answer(query: bytes) -> Iterable[bytes]:
        now = int((shows() + 2_208_988_800) * 2**32) % 2**64
        head = struct.pack("!BBbbII4sQ", leap << 6 | 0x24, stratum, 0, 0, 65536, 32768, reference, 0)
        times = struct.pack("!QQ", now, now)
        return head + bytes(8) + times, head + query[40:48] + times

    return answer


@pytest.mark.parametrize("ahead", [5.0, -3600.0], ids=["ahead", "behind"])
async def test_the_offset_is_the_difference_of_the_clocks(run: Any, ahead: float) -> None:
    """Exact to half of the round trip; positive when our clock is behind. A forged answer is not believed."""
    async with udp_server(time_answers(lambda: time.time() + ahead)) as server:
        result = await run("ntp", server=server)
    assert result.error is None
    slack = figure(result.samples, "node_ntp_rtt_seconds") / 2 + 0.001
    assert figure(result.samples, "node_ntp_offset_seconds") == pytest.approx(ahead, abs=slack)
    assert figure(result.samples, "node_ntp_stratum") == 2
    assert figure(result.samples, "node_ntp_root_delay_seconds") == 1
    assert ("behind" if ahead > 0 else "ahead of") in result.note


async def test_the_count_of_ntp_may_begin_anew(make: Any) -> None:
    """In 2036 it does: our clock a second before, the server's two after, are three seconds apart."""
    end = 2**32 - 2_208_988_800.0
    async with udp_server(time_answers(lambda: end + 2)) as server:
        probe, _ = make("ntp", clock=FakeClock(end - 1), server=server)
        measurement = await probe.measure()
    assert figure(measurement.samples, "node_ntp_offset_seconds") == pytest.approx(3, abs=0.001)


async def test_a_server_that_does_not_know_the_time(make: Any) -> None:
    """It is no reason to think that our clock is wrong: stratum and leap are told, no offset."""
    async with udp_server(time_answers(lambda: 0.0, stratum=16, leap=3)) as server:
        probe, _ = make("ntp", server=server)
        with pytest.raises(MeasurementError, match="does not know the time") as caught:
            await probe.measure()
    assert figure(caught.value.samples, "node_ntp_leap") == 3
    assert "node_ntp_offset_seconds" not in {sample.name for sample in caught.value.samples}


async def test_a_server_that_sends_us_away(make: Any) -> None:
    """Its code is told, such as RATE for asking too often."""
    async with udp_server(time_answers(lambda: 0.0, stratum=0, reference=b"RATE")) as server:
        probe, _ = make("ntp", server=server)
        with pytest.raises(ProbeError, match="sends us away: RATE"):
            await probe.measure()
