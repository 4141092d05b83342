"""The only file that speaks HTTP to providers: one pooled aiohttp session per worker.

What can go wrong on the way becomes an `UpstreamError` with its class; statuses are not judged here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import aiohttp
import yarl

from proxy.errors import ProxyError
from proxy.providers.endpoint import Endpoint
from proxy.routing.outcome import Fault

_DNS_CACHE_SECONDS = 30
_KEEPALIVE_SECONDS = 15.0
_MAX_ANSWER_BYTES = 64 * 1024 * 1024
_QUICK_RETRY_SECONDS = 1.0


class UpstreamError(ProxyError):
    """No usable answer came; `fault` says at which stage."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


_STAGES: tuple[tuple[type[BaseException], Fault, str], ...] = (
    (aiohttp.ClientConnectorDNSError, Fault.DNS, "the host's name does not resolve"),
    (aiohttp.ClientSSLError, Fault.TLS, "no TLS connection"),
    (aiohttp.ServerFingerprintMismatch, Fault.TLS, "no TLS connection"),
    (aiohttp.ConnectionTimeoutError, Fault.NETWORK, "the connection was not accepted in time"),
    (aiohttp.ClientConnectorError, Fault.NETWORK, "no connection"),
    (aiohttp.ClientPayloadError, Fault.NETWORK, "the answer was cut"),
    (aiohttp.ServerDisconnectedError, Fault.NETWORK, "the connection was closed before an answer"),
    (aiohttp.ClientResponseError, Fault.MALFORMED, "the answer is not HTTP"),
    (aiohttp.ClientError, Fault.NETWORK, "the connection failed"),
    (OSError, Fault.NETWORK, "the connection failed"),
)
_TRANSPORT = (aiohttp.ClientError, OSError)


def _error(error: BaseException) -> UpstreamError:
    fault, what = next((fault, what) for kind, fault, what in _STAGES if isinstance(error, kind))
    return UpstreamError(fault, f"{what}: {error}" if str(error) else what)


class Answer:
    """A provider's answer whose headers have come. Whoever holds it must `close` it, or read it to its end."""

    __slots__ = ("_response", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def read(self) -> bytes:
        """The rest of the body. UpstreamError if it is cut or too large."""
        parts: list[bytes] = []
        size = 0
        while part := await self.read_some():
            parts.append(part)
            size += len(part)
            if size > _MAX_ANSWER_BYTES:
                self.close()
                raise UpstreamError(Fault.MALFORMED, f"the answer is larger than {_MAX_ANSWER_BYTES} bytes")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def read_some(self) -> bytes:
        """What has come since, at least a byte; empty at the end. UpstreamError if the body is cut."""
        try:
            return await self._response.content.readany()
        except TimeoutError:
            raise
        except _TRANSPORT as error:
            raise _error(error) from error

    def close(self) -> None:
        """Closes the connection at once, unless the answer has ended, in which case the pool has it back already."""
        self._response.close()


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is the same in all requests to one address with one key. To be kept by whoever sends them."""

    url: yarl.URL
    headers: dict[str, str]


class Upstream:
    """The session. To be made inside the running event loop."""

    def __init__(self, connect_seconds: float) -> None:
        connector = aiohttp.TCPConnector(
            limit=0, ttl_dns_cache=_DNS_CACHE_SECONDS, keepalive_timeout=_KEEPALIVE_SECONDS, happy_eyeballs_delay=0.25
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds),
            auto_decompress=True,
        )
        self._targets: dict[str, tuple[Prepared, Prepared]] = {}

    async def close(self) -> None:
        """Closes every connection."""
        await self._session.close()

    def prepare(self, url: str, headers: Iterable[tuple[str, str]]) -> Prepared:
        """Does once what needs to be done once. `headers` come after `accept`, `accept-encoding`, `content-type` (JSON)
        and `user-agent`, and replace those of the same lower-case name. ValueError if a header or the URL is none."""
        fixed = {
            "accept": "*/*",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "user-agent": "llm-proxy",
        }
        return Prepared(yarl.URL(url), fixed | dict(headers))

    async def post(self, request: Prepared, headers: Iterable[tuple[str, str]], body: bytes) -> Answer:
        """Sends `body` with `headers` beside the prepared ones; returns when the answer's headers have come.

        UpstreamError, or TimeoutError of the caller's. A connection that was closed before any answer is replaced once
        at once: a kept-alive one may have ended just as it was taken from the pool.
        """
        sent = request.headers | dict(headers)
        began = asyncio.get_running_loop().time()
        try:
            return await self._send("POST", request.url, sent, body)
        except UpstreamError as error:
            quick = asyncio.get_running_loop().time() - began < _QUICK_RETRY_SECONDS
            if not quick or not isinstance(error.__cause__, aiohttp.ServerDisconnectedError | ConnectionResetError):
                raise
        return await self._send("POST", request.url, sent, body)

    async def get(self, request: Prepared, headers: Iterable[tuple[str, str]] = ()) -> Answer:
        """Like `post`, without a body."""
        return await self._send("GET", request.url, request.headers | dict(headers), None)

    async def chat(self, endpoint: Endpoint, body: bytes, request_id: str) -> Answer:
        """Posts a chat completion."""
        return await self.post(self._target(endpoint)[0], (("x-request-id", request_id),), body)

    async def models(self, endpoint: Endpoint) -> tuple[Answer, bytes]:
        """The provider's models listing, whatever its status. UpstreamError, or TimeoutError of the caller's."""
        answer = await self.get(self._target(endpoint)[1])
        try:
            return answer, await answer.read()
        finally:
            answer.close()

    async def _send(self, method: str, url: yarl.URL, headers: dict[str, str], body: bytes | None) -> Answer:
        try:
            data = None if body is None else aiohttp.BytesPayload(body)
            request = self._session.request(method, url, data=data, headers=headers, allow_redirects=False)
            return Answer(await request)
        except aiohttp.ConnectionTimeoutError as error:
            raise _error(error) from error
        except TimeoutError:
            raise
        except _TRANSPORT as error:
            raise _error(error) from error

    def _target(self, endpoint: Endpoint) -> tuple[Prepared, Prepared]:
        target = self._targets.get(endpoint.name)
        if target is None:
            chat = self.prepare(endpoint.chat_url, endpoint.headers)
            models = self.prepare(endpoint.models_url, endpoint.headers)
            target = self._targets[endpoint.name] = (chat, models)
        return target
