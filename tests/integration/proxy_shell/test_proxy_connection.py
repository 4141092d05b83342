"""A connection of the server over a real socket, with an application of the test's own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from proxy.connection import Connection
from proxy.exchange import WHOLE_ANSWER, Headers

HEADERS: Headers = [(b"content-length", b"5"), (b"x-test", b"yes")]
Ask = Callable[[bytes], Awaitable[bytes]]


async def app(scope: Any, receive: Any, send: Any) -> None:
    headers = {
        "/close": [*HEADERS, (b"connection", b"close")],
        "/split": [*HEADERS, (b"x-evil", b"a\r\nset-cookie: b")],
        "/feed": [*HEADERS, (b"x-evil", b"a\nset-cookie: b")],
    }.get(scope["path"], HEADERS)
    await scope[WHOLE_ANSWER](200, headers, b"hello")


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    """Sends bytes on a fresh connection and ends its half of it; what came back until the server closed."""
    config = uvicorn.Config(app, log_config=None, lifespan="off", ws="none")
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(config, state, {}), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def ask(sent: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    yield ask
    server.close()
    await server.wait_closed()
    await asyncio.gather(*state.tasks)


async def test_a_whole_answer_keeps_the_connection_until_one_closes_it(ask: Ask) -> None:
    """Three requests sent at once are answered in order, the HEAD without its body, and the third one's
    `connection: close` ends the connection."""
    one = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-test: yes\r\n"
    heads = b"".join(b"%b HTTP/1.1\r\nhost: x\r\n\r\n" % line for line in (b"GET /", b"HEAD /", b"GET /close"))
    assert await ask(heads) == one + b"\r\nhello" + one + b"\r\n" + one + b"connection: close\r\n\r\nhello"


async def test_a_client_that_asks_for_the_end_gets_it(ask: Ask) -> None:
    """`connection: close` of the request, or HTTP/1.0, is honoured and told."""
    for request in (b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"):
        answer = await ask(request)
        assert answer.endswith(b"x-test: yes\r\nconnection: close\r\n\r\nhello")


@pytest.mark.parametrize("path", [b"/split", b"/feed"])
async def test_a_header_with_a_line_break_is_never_sent(
    ask: Ask, path: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody can smuggle a header or an answer in by way of a header's value: the caller gets a 500."""
    with caplog.at_level(logging.ERROR, "uvicorn.error"):
        answer = await ask(b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % path)
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"set-cookie" not in answer
    assert "a header holds a line break" in caplog.text
