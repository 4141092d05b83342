"""Peers, the client before them, and certificates made for the run."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvloop
from wire_peers import Peer, Script

from proxy.upstream import Upstream


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that workers run on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def peer_of() -> AsyncIterator[Callable[..., Awaitable[Peer]]]:
    """Starts peers."""
    peers: list[Peer] = []

    async def start(script: Script, tls: ssl.SSLContext | None = None) -> Peer:
        peer = Peer(script, tls)
        await peer.start()
        peers.append(peer)
        return peer

    yield start
    for peer in peers:
        await peer.stop()


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    made = Upstream(2.0)
    yield made
    await made.close()
    assert made.connections == 0


@pytest.fixture(scope="session")
def certificate_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """A self-signed certificate for a subjectAltName, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    made: dict[str, tuple[Path, Path]] = {}

    def make(name: str) -> tuple[Path, Path]:
        if name not in made:
            directory = tmp_path_factory.mktemp("tls")
            certificate, key = directory / "cert.pem", directory / "key.pem"
            words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
            subprocess.run(
                [*words.split(), "-addext", f"subjectAltName={name}", "-keyout", str(key), "-out", str(certificate)],
                check=True,
                capture_output=True,
            )
            made[name] = certificate, key
        return made[name]

    return make
