"""From a name to a connection: every stage at which that fails, and how long it may take."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wire_peers import OK, Reader, Writer, saying

from proxy.routing.outcome import Fault
from proxy.upstream import Upstream, UpstreamError
from proxy.wire.dialing import Names, Place, alternating, reach


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port whose queue of connections is full: whoever else comes is not answered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for filler in fillers:
            filler.close()


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def asked(upstream: Upstream, url: str) -> tuple[int, bytes] | tuple[Fault, str]:
    """Status and body, or fault and message."""
    try:
        answer = await upstream.post(upstream.prepare(url, ()), (), b"{}")
        return answer.status, await answer.read()
    except UpstreamError as error:
        return error.fault, str(error)


def server_side(files: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    return context


def trusting(files: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=files[0])


async def test_wire_nobody_listens(upstream: Upstream, closed_port: int) -> None:
    """A refused connection is a network fault at once."""
    outcome = await asked(upstream, f"http://127.0.0.1:{closed_port}/")
    assert outcome[0] is Fault.NETWORK


async def test_wire_connect_that_is_swallowed_ends_at_the_limit(black_hole: int) -> None:
    """A network fault after the connect limit, although the caller would have waited for longer."""
    upstream = Upstream(0.3)
    began = asyncio.get_running_loop().time()
    outcome = await asked(upstream, f"http://127.0.0.1:{black_hole}/")
    assert outcome[0] is Fault.NETWORK
    assert 0.2 < asyncio.get_running_loop().time() - began < 2
    await upstream.close()


async def test_wire_callers_own_limit_stays_the_callers(black_hole: int, upstream: Upstream) -> None:
    """TimeoutError, not UpstreamError, when the caller's limit strikes while connecting."""
    request = upstream.prepare(f"http://127.0.0.1:{black_hole}/", ())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await upstream.post(request, (), b"")
    with pytest.raises(TimeoutError):
        await upstream.post(request, (), b"", asyncio.get_running_loop().time() + 0.1)


async def test_wire_name_that_does_not_resolve(upstream: Upstream) -> None:
    """A DNS fault."""
    assert (await asked(upstream, "http://nowhere.invalid/"))[0] is Fault.DNS


async def test_wire_name_is_resolved(peer_of: Any, upstream: Upstream) -> None:
    """A host by its name, whichever of its addresses the peer listens on."""
    peer = await peer_of(saying(OK))
    assert await asked(upstream, peer.url(host="localhost")) == (200, b"ok")


async def test_wire_dead_addresses_cost_little(peer_of: Any, black_hole: int, closed_port: int) -> None:
    """One that swallows costs a stagger, one that refuses nothing; the caller gets the one that accepts."""
    peer = await peer_of(saying(OK))
    loop = asyncio.get_running_loop()
    for first, least, most in ((black_hole, 0.24, 1.5), (closed_port, 0.0, 0.2)):
        began = loop.time()
        sock = await reach([(socket.AF_INET, ("127.0.0.1", port)) for port in (first, peer.port)])
        assert sock.getpeername()[1] == peer.port
        assert least <= loop.time() - began < most
        sock.close()
    with pytest.raises(ConnectionRefusedError):
        await reach([(socket.AF_INET, ("127.0.0.1", closed_port))] * 2)


def test_wire_families_take_turns() -> None:
    """Addresses keep their order within a family, families alternate, doubles are left out (RFC 8305 §4)."""
    six = [(socket.AF_INET6, (f"::{number}", 1, 0, 0)) for number in range(3)]
    four: list[Place] = [(socket.AF_INET, ("127.0.0.1", 1))]
    assert alternating([*six, *four, six[0]]) == (six[0], four[0], six[1], six[2])


async def test_wire_names_are_looked_up_once() -> None:
    """Many at once and again soon ask once; one that gives up disturbs nobody; no failure or old answer stays."""
    asked: list[str] = []
    go = asyncio.Event()

    async def look_up(host: str, port: int) -> tuple[Place, ...]:
        asked.append(host)
        await go.wait()
        if host == "bad":
            raise socket.gaierror(socket.EAI_NONAME, "no")
        return ((socket.AF_INET, ("192.0.2.1", port)),)

    names = Names(look_up)
    impatient = asyncio.create_task(names.places("h", 80))
    patient = [asyncio.create_task(names.places("h", 80)) for _ in range(5)]
    await asyncio.sleep(0)
    impatient.cancel()
    go.set()
    assert set(await asyncio.gather(*patient)) == {((socket.AF_INET, ("192.0.2.1", 80)),)}
    await names.places("h", 80)
    assert asked == ["h"]
    names.forget("h", 80)
    await names.places("h", 80)
    for _ in range(2):
        with pytest.raises(socket.gaierror):
            await names.places("bad", 80)
    assert asked == ["h", "h", "bad", "bad"]
    assert await names.places("::1", 80) == ((socket.AF_INET6, ("::1", 80, 0, 0)),)
    forgetful = Names(look_up, remembered_seconds=0.0)
    await forgetful.places("h", 80)
    await forgetful.places("h", 80)
    assert asked[4:] == ["h", "h"]


async def test_wire_tls_is_verified(peer_of: Any, certificate_of: Any) -> None:
    """A trusted certificate for the host's name or address is accepted; a stranger's, or for another name, is a TLS
    fault."""
    good, other = certificate_of("DNS:localhost,IP:127.0.0.1"), certificate_of("DNS:other.example")
    for files, trusted, host, expected in (
        (good, good, "localhost", 200),
        (good, good, "127.0.0.1", 200),
        (good, other, "localhost", Fault.TLS),
        (other, other, "localhost", Fault.TLS),
    ):
        peer = await peer_of(saying(OK), server_side(files))
        upstream = Upstream(5.0, trusting(trusted))
        for _ in range(2):
            outcome = await asked(upstream, peer.url(host=host))
            assert outcome[0] == expected, outcome
        if expected == 200:
            assert peer.connections == 1
        await upstream.close()


async def test_wire_tls_is_verified_without_being_told(peer_of: Any, certificate_of: Any, upstream: Upstream) -> None:
    """By default a certificate that no known authority has signed is refused."""
    peer = await peer_of(saying(OK), server_side(certificate_of("DNS:localhost")))
    fault, message = await asked(upstream, peer.url(host="localhost"))
    assert fault is Fault.TLS
    assert "certificate verify failed" in str(message)


async def test_wire_old_tls_is_refused(peer_of: Any, certificate_of: Any, upstream: Upstream) -> None:
    """Nothing older than TLS 1.2 is spoken."""
    upstream.prepare("https://localhost/", ())
    assert upstream._tls is not None
    assert upstream._tls.minimum_version >= ssl.TLSVersion.TLSv1_2


async def test_wire_peer_without_tls_is_a_tls_fault(peer_of: Any, upstream: Upstream) -> None:
    """Plain HTTP where TLS is expected, and a peer that says nothing in the handshake."""

    async def silent(reader: Reader, writer: Writer) -> None:
        await reader.read(65536)
        await reader.read()

    async def mail(reader: Reader, writer: Writer) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await reader.read(65536)

    async def ends(reader: Reader, writer: Writer) -> None:
        await reader.read(10)

    for script, limit in ((mail, 2.0), (ends, 2.0), (silent, 0.3)):
        peer = await peer_of(script)
        upstream = Upstream(limit)
        assert (await asked(upstream, f"https://127.0.0.1:{peer.port}/"))[0] is Fault.TLS
        await peer.until(lambda peer=peer: peer.gone == 1)  # type: ignore[misc]
        await upstream.close()


async def test_wire_large_answer_over_tls(peer_of: Any, certificate_of: Any) -> None:
    """Megabytes over TLS, read in parts, and a caller that leaves in the middle."""
    files = certificate_of("DNS:localhost,IP:127.0.0.1")
    body = bytes(range(256)) * 20_000
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    peer = await peer_of(saying(head, body), server_side(files))
    upstream = Upstream(5.0, trusting(files))
    assert await asked(upstream, peer.url()) == (200, body)
    answer = await upstream.post(upstream.prepare(peer.url(), ()), (), b"{}")
    assert await answer.read_some()
    answer.close()
    await peer.until(lambda: peer.gone == 1)
    await upstream.close()
