"""The HTTP face of one worker: a plain ASGI callable with its routes in a table."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from proxy import faults, metrics
from proxy.auth import Doorman
from proxy.clock import Clock
from proxy.errors import ApiError
from proxy.exchange import (
    ON_DISCONNECT,
    Exchange,
    GatewayReply,
    Handler,
    Headers,
    Plain,
    Receive,
    Request,
    Scope,
    Send,
    document,
    envelope,
    is_number,
    json_object,
)
from proxy.exposition import text, wants
from proxy.health import LATENCY, LATENCY_BUCKETS, GatewayHealth, Health
from proxy.logs import LogWriter
from proxy.settings import Settings

_SECURITY: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"default-src 'none'"),
    (b"strict-transport-security", b"max-age=31536000"),
    (b"cache-control", b"no-store"),
]
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class Gateway(GatewayHealth, Protocol):
    """What the shell needs of the gateway."""

    async def chat_completions(
        self, body: bytes, headers: Mapping[str, str], caller: str, request_id: str
    ) -> GatewayReply: ...
    def models(self) -> dict[str, Any]: ...
    def evict_cache(self, *, expired: bool, fraction: float | None) -> dict[str, Any]: ...
    def flush_cache(self) -> dict[str, Any]: ...
    def set_circuit(
        self, provider: str, state: Literal["open", "closed"], seconds: float, reason: str
    ) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Route:
    """`label` names it in metrics; `needs` is the role, None for everybody; `bounded` counts towards max_in_flight."""

    label: str
    handler: Handler
    needs: Literal["user", "admin"] | None = None
    bounded: bool = False


class App:
    """The ASGI callable. `draining` and `started` are set by the worker."""

    def __init__(
        self, settings: Settings, gateway: Gateway, measured: metrics.Metrics, log: LogWriter, clock: Clock
    ) -> None:
        self.draining = False
        self.in_flight = 0
        self.health = Health(settings, gateway, clock, measured.directory)
        self._settings = settings
        self._gateway = gateway
        self._log = log
        self._clock = clock
        self._metrics_dir: Path = measured.directory
        self._doorman = Doorman(settings.auth, measured)
        self._max_body = int(settings.max_body_mb * 1024 * 1024)
        self._requests = measured.counter("http_requests_total", "Requests answered.", ("method", "route", "status"))
        self._durations = measured.histogram(LATENCY, "Until the last byte.", LATENCY_BUCKETS, ("route",))
        self._in_flight = measured.gauge("http_requests_in_flight", "Requests being answered.")
        self._lost = measured.counter("http_clients_gone_total", "Requests whose client went away early.", ("route",))
        self._routes = self._table()

    def _table(self) -> dict[str, dict[str, Route]]:
        """Path → method → route. A path that ends in `/*/circuit` has the one variable part."""
        chat = Route("/v1/chat/completions", self._chat, "user", bounded=True)
        table: dict[str, dict[str, Route]] = {
            "/v1/chat/completions": {"POST": chat},
            "/v1/models": {"GET": Route("/v1/models", self._models, "user")},
            "/api/models": {"GET": Route("/api/models", self._models, "user")},
            "/health": {"GET": Route("/health", self._health)},
            "/health/live": {"GET": Route("/health/live", self._live)},
            "/health/ready": {"GET": Route("/health/ready", self._ready)},
            "/health/quick": {"GET": Route("/health/quick", self._quick)},
            "/health/detailed": {"GET": Route("/health/detailed", self._detailed)},
            "/health/providers": {"GET": Route("/health/providers", self._providers)},
            "/health/cache": {"GET": Route("/health/cache", self._cache)},
            "/metrics": {"GET": Route("/metrics", self._metrics)},
            "/metrics/json": {"GET": Route("/metrics/json", self._metrics_json)},
            "/api/cache": {"DELETE": Route("/api/cache", self._flush, "admin")},
            "/api/cache/evict": {"POST": Route("/api/cache/evict", self._evict, "admin")},
            "/api/providers/*/circuit": {"POST": Route("/api/providers/*/circuit", self._circuit, "admin")},
        }
        if self._settings.faults:
            table["/debug/fault"] = {"POST": Route("/debug/fault", faults.inject, "admin")}
        for methods in table.values():
            if "GET" in methods:
                methods["HEAD"] = methods["GET"]
        return table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; every error becomes OpenAI's envelope here, and nowhere else."""
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
                await self._send(exchange, envelope(failure))
            else:
                raise
        finally:
            self.in_flight -= 1
            self._in_flight.set(self.in_flight)
            self._account(exchange)

    async def _answer(self, exchange: Exchange, receive: Receive) -> None:
        try:
            route, argument = self._find(exchange)
            headers = exchange.headers
            caller = None if route.needs is None else self._doorman.admit(headers, exchange.peer, route.needs)
            exchange.caller = caller
            if route.bounded:
                self._check_room()
            body = await self._body(headers, receive) if exchange.method not in ("GET", "HEAD") else b""
            reply = await route.handler(Request(headers, caller, exchange.id, argument, body))
        except ApiError as error:
            reply = envelope(error)
        await self._send(exchange, reply)

    def _find(self, exchange: Exchange) -> tuple[Route, str]:
        path, argument = exchange.path, ""
        methods = self._routes.get(path)
        if methods is None and path.startswith("/api/providers/") and path.endswith("/circuit"):
            argument = path.removeprefix("/api/providers/").removesuffix("/circuit")
            methods = self._routes["/api/providers/*/circuit"]
        if methods is None:
            raise ApiError(404, f"Unknown request URL: {exchange.method} {path}.", code="unknown_url")
        route = methods.get(exchange.method)
        if route is None:
            allowed = ", ".join(sorted(methods))
            raise ApiError(
                405,
                f"{exchange.method} is not allowed here; expected {allowed}.",
                code="method_not_allowed",
                headers=((b"allow", allowed.encode()),),
            )
        exchange.label = route.label
        return route, argument

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

    # Handlers

    async def _chat(self, request: Request) -> GatewayReply:
        assert request.caller is not None
        return await self._gateway.chat_completions(request.body, request.headers, request.caller.id, request.id)

    async def _models(self, request: Request) -> GatewayReply:
        return document(self._gateway.models())

    async def _health(self, request: Request) -> GatewayReply:
        return document(self.health.summary())

    async def _live(self, request: Request) -> GatewayReply:
        return document({"status": "alive"})

    async def _ready(self, request: Request) -> GatewayReply:
        reason = "draining" if self.draining else None if self._gateway.usable() else "no usable provider"
        if reason is not None:
            return document({"status": "not ready", "reason": reason}, 503)
        return document({"status": "ready"})

    async def _quick(self, request: Request) -> GatewayReply:
        return document(self.health.quick())

    async def _detailed(self, request: Request) -> GatewayReply:
        return document(self.health.detailed())

    async def _providers(self, request: Request) -> GatewayReply:
        return document(self._gateway.providers_health())

    async def _cache(self, request: Request) -> GatewayReply:
        return document(self._gateway.cache_health())

    async def _metrics(self, request: Request) -> GatewayReply:
        content_type = wants(request.headers.get("accept", ""))
        if content_type is None:
            return document(self.health.metrics_document())
        return Plain(200, text(metrics.read(self._metrics_dir), content_type), [(b"content-type", content_type)])

    async def _metrics_json(self, request: Request) -> GatewayReply:
        return document(self.health.metrics_document())

    async def _flush(self, request: Request) -> GatewayReply:
        return document(self._gateway.flush_cache())

    async def _evict(self, request: Request) -> GatewayReply:
        body = json_object(request.body)
        expired, fraction = body.get("expired", False), body.get("fraction")
        if not isinstance(expired, bool):
            raise ApiError(400, f"expired: expected true or false, not {expired!r}.", param="expired")
        if fraction is not None and not (is_number(fraction) and 0 < fraction <= 1):
            raise ApiError(
                400, f"fraction: expected a number above 0 and at most 1, not {fraction!r}.", param="fraction"
            )
        if expired == (fraction is not None):
            raise ApiError(400, 'Expected exactly one of {"expired": true} and {"fraction": F}.')
        return document(self._gateway.evict_cache(expired=expired, fraction=fraction))

    async def _circuit(self, request: Request) -> GatewayReply:
        body = json_object(request.body)
        state, seconds, reason = body.get("state"), body.get("seconds", 300), body.get("reason", "")
        if state not in ("open", "closed"):
            raise ApiError(400, f"state: expected open or closed, not {state!r}.", param="state")
        if not (is_number(seconds) and 0 < seconds <= 86_400):
            raise ApiError(400, f"seconds: expected a number above 0, at most 86400, not {seconds!r}.", param="seconds")
        if not isinstance(reason, str):
            raise ApiError(400, f"reason: expected a string, not {reason!r}.", param="reason")
        try:
            return document(self._gateway.set_circuit(request.argument, state, float(seconds), reason[:500]))
        except KeyError:
            raise ApiError(404, f"There is no provider {request.argument!r}.", code="unknown_provider") from None
