"""The HTTP face of one worker: a plain ASGI callable with its routes in a table."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Mapping

from proxy import faults, metrics
from proxy.auth import Doorman
from proxy.clock import Clock
from proxy.endpoints import caching, completions, figures, health, steering
from proxy.endpoints.route import Route, RouteTable, Services
from proxy.errors import ApiError
from proxy.exchange import (
    ON_DISCONNECT,
    Exchange,
    GatewayReply,
    Headers,
    Receive,
    Request,
    Scope,
    Send,
    envelope,
)
from proxy.gateway import Gateway
from proxy.health import LATENCY, LATENCY_BUCKETS, Health
from proxy.logs import LogWriter
from proxy.settings import Settings

_SECURITY: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"default-src 'none'"),
    (b"strict-transport-security", b"max-age=31536000"),
    (b"cache-control", b"no-store"),
]
_ENDPOINTS = (completions, health, figures, caching, steering)
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class App:
    """The ASGI callable. `draining` and `started` are set by the worker."""

    def __init__(
        self, settings: Settings, gateway: Gateway, measured: metrics.Metrics, log: LogWriter, clock: Clock
    ) -> None:
        self.draining = False
        self.in_flight = 0
        self.health = Health(settings, gateway, clock, measured.directory)
        self._settings = settings
        self._log = log
        self._clock = clock
        self._doorman = Doorman(settings.auth, measured)
        self._max_body = int(settings.max_body_mb * 1024 * 1024)
        self._requests = measured.counter("http_requests_total", "Requests answered.", ("method", "route", "status"))
        self._durations = measured.histogram(LATENCY, "Until the last byte.", LATENCY_BUCKETS, ("route",))
        self._in_flight = measured.gauge("http_requests_in_flight", "Requests being answered.")
        self._lost = measured.counter("http_clients_gone_total", "Requests whose client went away early.", ("route",))
        services = Services(settings, gateway, self.health, measured.directory, lambda: self.draining)
        routes = [route for kind in _ENDPOINTS for route in kind.routes(services)]
        if settings.faults:
            routes.append(Route("POST", "/debug/fault", faults.inject, "admin"))
        self._routes = RouteTable(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; every error becomes an envelope here, and nowhere else."""
        if scope["type"] != "http":
            raise ValueError(f"only HTTP is served, not {scope['type']!r}")
        exchange = Exchange(scope, send, self._clock.monotonic())
        self.in_flight += 1
        self._in_flight.set(self.in_flight)
        task = asyncio.current_task()
        assert task is not None
        scope[ON_DISCONNECT] = exchange.client_gone(task)
        try:
            await self._answer(exchange, receive)
        except asyncio.CancelledError:
            if not exchange.gone:
                raise
            self._lost.inc(exchange.label)
        except Exception as error:
            self._log.write(
                "error",
                "unexpected error",
                request_id=exchange.id,
                route=exchange.label,
                exception="".join(traceback.format_exception(error)),
            )
            failure = ApiError(500, "The proxy met an unexpected error.", type="server_error", code="internal_error")
            if exchange.status == 0:
                await self._send(exchange, envelope(failure, exchange.path, exchange.id))
            else:
                raise
        finally:
            self.in_flight -= 1
            self._in_flight.set(self.in_flight)
            self._account(exchange)

    async def _answer(self, exchange: Exchange, receive: Receive) -> None:
        try:
            route, argument = self._routes.find(exchange.method, exchange.path)
            exchange.label = route.path
            headers = exchange.headers
            caller = None if route.needs is None else self._doorman.admit(headers, exchange.peer, route.needs)
            exchange.caller = caller
            if route.bounded:
                self._check_room()
            body = await self._body(headers, receive) if exchange.method not in ("GET", "HEAD") else b""
            reply = await route.handler(Request(headers, caller, exchange.id, argument, body))
        except ApiError as error:
            reply = envelope(error, exchange.path, exchange.id)
        await self._send(exchange, reply)

    def _check_room(self) -> None:
        if self.in_flight > self._settings.max_in_flight:
            raise ApiError(
                503,
                "The proxy has as many requests in hand as it may; try again in a moment.",
                type="server_error",
                code="overloaded",
                headers=((b"retry-after", b"1"),),
            )

    async def _body(self, headers: Mapping[str, str], receive: Receive) -> bytes:
        limit = self._max_body
        declared = headers.get("content-length", "")
        parts: list[bytes] = []
        size = int(declared) if declared.isdigit() and int(declared) > limit else 0
        while size <= limit:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise asyncio.CancelledError
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)
        raise ApiError(
            413,
            f"The body is larger than {self._settings.max_body_mb:g} MB.",
            code="request_too_large",
            headers=((b"connection", b"close"),),
        )

    async def _send(self, exchange: Exchange, reply: GatewayReply) -> None:
        body = reply.body
        headers = [*reply.headers, *_SECURITY, (b"x-request-id", exchange.id.encode())]
        headers.append((b"x-response-time", b"%.1f" % ((self._clock.monotonic() - exchange.began) * 1000)))
        if isinstance(body, bytes):
            headers.append((b"content-length", b"%d" % len(body)))
        if self.draining:
            headers.append((b"connection", b"close"))
        exchange.status = reply.status
        if isinstance(body, bytes):
            await exchange.send_whole(reply.status, headers, body)
            return
        await exchange.send({"type": "http.response.start", "status": reply.status, "headers": headers})
        try:
            async for chunk in body:
                await exchange.send({"type": "http.response.body", "body": chunk, "more_body": True})
            await exchange.send({"type": "http.response.body", "body": b""})
        finally:
            close = getattr(body, "aclose", None)
            if close is not None:
                await close()

    def _account(self, exchange: Exchange) -> None:
        seconds = self._clock.monotonic() - exchange.began
        status = "499" if exchange.gone and exchange.status < 400 else str(exchange.status or 500)
        method = exchange.method if exchange.method in _METHODS else "other"
        self._requests.inc(method, exchange.label, status)
        self._durations.observe(seconds, exchange.label)
        self._log.write(
            "info",
            "request",
            request_id=exchange.id,
            method=method,
            path=exchange.path[:200],
            status=int(status),
            response_time_ms=round(seconds * 1000, 3),
            caller=exchange.caller.id if exchange.caller else None,
        )
