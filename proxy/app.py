"""The HTTP face of one worker: what every request goes through, with its routes in a table."""

from __future__ import annotations

import itertools
import os
import time
import traceback
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from proxy import faults, metrics
from proxy.auth import Doorman
from proxy.books import Books, milliseconds
from proxy.clock import Clock
from proxy.connection import Bounds
from proxy.eager import in_task
from proxy.endpoints import caching, completions, figures, health, restraining, security, steering
from proxy.endpoints.description import description
from proxy.endpoints.route import Route, RouteTable, Services
from proxy.errors import ApiError
from proxy.exchange import Exchange, GatewayReply, Headers, Request, envelope, header_lines
from proxy.gateway import Gateway
from proxy.health import LATENCY, LATENCY_BUCKETS, Health
from proxy.limits.admission import Limits
from proxy.logs import LogWriter
from proxy.settings import Settings
from proxy.share import Share

_SECURITY: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"default-src 'none'"),
    (b"strict-transport-security", b"max-age=31536000"),
    (b"cache-control", b"no-store"),
]
REQUESTS = "http_requests_total"
_ENDPOINTS = (completions, health, figures, caching, steering, restraining, security)
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True, slots=True)
class _Tally:
    """Where requests of one method, route and status are counted."""

    number: metrics.CounterSeries
    durations: metrics.HistogramSeries


class App:
    """Answers exchanges. `draining` is set by the worker."""

    def __init__(
        self,
        settings: Settings,
        gateway: Gateway,
        measured: metrics.Metrics,
        log: LogWriter,
        clock: Clock,
        limits: Limits | None = None,
    ) -> None:
        """`limits` are those of the gateway too; None: of its own."""
        self.draining = False
        self.in_flight = 0
        self.begun = 0
        """Requests so far."""
        self.share = Share(lambda: metrics.total(measured.directory, REQUESTS), settings.workers)
        self._limits = limits or Limits(settings, measured, clock)
        self.books = Books(settings, measured, clock, self._limits.charge)
        gateway.settle = self.books.settle
        self.health = Health(
            settings, gateway, self.books.health, clock, measured.directory, self._limits.restraints.in_words
        )
        self.bounds = Bounds(
            head_bytes=int(settings.limits.max_header_kb * 1024),
            body_bytes=int(settings.max_body_mb * 1024 * 1024),
            head_seconds=settings.limits.header_timeout,
            body_seconds=settings.limits.body_timeout,
        )
        self._max_in_flight = settings.max_in_flight
        self._log = log
        self._logs_requests = settings.log.level in ("debug", "info")
        self._clock = clock
        self._restraints = self._limits.restraints
        self._doorman = Doorman(settings.auth, measured, clock, self._restraints)
        self._requests = measured.counter(REQUESTS, "Requests answered.", ("method", "route", "status"))
        self._durations = measured.histogram(LATENCY, "Until the last byte.", LATENCY_BUCKETS, ("route",))
        self._in_flight = measured.gauge("http_requests_in_flight", "Requests being answered.").at()
        self._lines_lost = measured.counter("log_lines_lost_total", "Lines of the logs that could not be written.")
        self._lines_told = 0
        self._lost = measured.counter("http_clients_gone_total", "Requests whose client went away early.", ("route",))
        self._tallies: dict[tuple[str, str, int], _Tally] = {}
        services = Services(
            settings, gateway, self.health, measured.directory, lambda: self.draining, self._limits.restraints
        )
        routes = [route for kind in _ENDPOINTS for route in kind.routes(services)]
        if settings.faults:
            routes.append(Route("POST", "/debug/fault", faults.inject, "admin"))
        self._routes = RouteTable([*routes, description(routes)])
        self.bounds = replace(self.bounds, piecewise=frozenset(route.path for route in routes if route.piecewise))
        self._id_prefix = os.urandom(6).hex()
        self._ids = itertools.count(int.from_bytes(os.urandom(3)))
        self._security = header_lines(_SECURITY)
        self._common = self._security + self._date()

    def tick(self) -> None:
        """Once a second: what does not change from request to request, and the figures of health."""
        self._common = self._security + self._date()
        self.health.tick()
        self._restraints.tick()
        self._log.look()
        if (lost := self._log.lost) > self._lines_told:
            self._lines_lost.inc(by=lost - self._lines_told)
            self._lines_told = lost

    async def __call__(self, exchange: Exchange) -> None:
        """Answers one request; every error becomes OpenAI's envelope here, and nowhere else."""
        exchange.began = self._clock.monotonic()
        given = exchange.headers.get("x-request-id")
        if given is not None and 0 < len(given) <= 64 and _ID_CHARACTERS.issuperset(given):
            exchange.id = given
        else:
            exchange.id = f"{self._id_prefix}{next(self._ids):08x}"
        self.begun += 1
        if self.share.reduced:
            self.share.count()
        self.in_flight += 1
        self._in_flight.set(self.in_flight)
        try:
            try:
                reply = await self._answer(exchange)
            except ApiError as error:
                reply = envelope(error, exchange.path, exchange.id)
            body = reply.body
            if isinstance(body, bytes):
                exchange.send_whole(reply.status, self._fields(exchange, reply.headers), body)
            else:
                await self._stream(exchange, reply.status, self._fields(exchange, reply.headers), body)
        except BaseException as error:
            self._fail(exchange, error)
            if not exchange.gone and not isinstance(error, Exception):
                raise
        finally:
            self.in_flight -= 1
            self._in_flight.set(self.in_flight)
            self._account(exchange)
            exchange.end()

    async def _answer(self, exchange: Exchange) -> GatewayReply:
        if exchange.fault is not None and not exchange.method:
            raise exchange.fault
        method, headers = exchange.method, exchange.headers
        route, argument = self._routes.find(method, exchange.path)
        exchange.label = route.path
        caller = None if route.needs is None else self._doorman.admit(exchange, route.needs)
        exchange.caller = caller
        if route.bounded:
            self._check_room()
            self._restraints.check_load()
            if caller is not None:
                exchange.limits = self._limits.keys.admit(caller.id)
        if method in ("GET", "HEAD") or route.piecewise:
            body = b""
        else:
            body = exchange.whole_body() if exchange.arrived else await exchange.body()
        if not route.immediate:
            await in_task()
        request = exchange.request = Request(
            headers, caller, exchange.id, argument, body, exchange.query, exchange.parts if route.piecewise else None
        )
        return await route.handler(request)

    def _check_room(self) -> None:
        if self.in_flight > self._max_in_flight:
            raise ApiError(
                503,
                "The proxy has as many requests in hand as it may; try again in a moment.",
                type="server_error",
                code="overloaded",
                headers=((b"retry-after", b"1"),),
            )

    def _fields(self, exchange: Exchange, headers: Headers) -> bytes:
        """The header lines of an answer."""
        if self.draining or (self.share.reduced and self.share.ends_connections):
            exchange.keep_alive = False
        tenths = int((self._clock.monotonic() - exchange.began) * 1e4 + 0.5)
        named = f"x-request-id: {exchange.id}\r\nx-response-time: {tenths // 10}.{tenths % 10}\r\n".encode()
        return b"".join((header_lines(headers), exchange.limits, self._common, named))

    async def _stream(self, exchange: Exchange, status: int, fields: bytes, chunks: AsyncIterator[bytes]) -> None:
        exchange.start_stream(status, fields)
        line = exchange.line
        try:
            await in_task()
            async for chunk in chunks:
                exchange.write(chunk)
                if line.congested:
                    await line.drained()
            exchange.end_stream()
        finally:
            close = getattr(chunks, "aclose", None)
            if close is not None:
                await close()

    def _fail(self, exchange: Exchange, error: BaseException) -> None:
        """The client has gone, the worker ends, or we have a bug: tells it if nothing has been told yet, else cuts the
        answer."""
        if exchange.gone:
            self._lost.inc(exchange.label)
            return
        told = ApiError(503, "The worker ends.", type="server_error", code="shutting_down")
        if isinstance(error, Exception):
            told = ApiError(500, "The proxy met an unexpected error.", type="server_error", code="internal_error")
            what = "".join(traceback.format_exception(error))
            self._log.write("error", "unexpected error", request_id=exchange.id, route=exchange.label, exception=what)
        if exchange.status:
            exchange.cut()
            return
        reply = envelope(told, exchange.path, exchange.id)
        assert isinstance(reply.body, bytes)
        exchange.send_whole(reply.status, self._fields(exchange, reply.headers), reply.body)

    def _date(self) -> bytes:
        """The `date` line (RFC 9110, section 5.6.7)."""
        at = time.gmtime(self._clock.wall())
        day = f"{_WEEKDAYS[at.tm_wday]}, {at.tm_mday:02} {_MONTHS[at.tm_mon - 1]} {at.tm_year}"
        return f"date: {day} {at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} GMT\r\n".encode()

    def _account(self, exchange: Exchange) -> None:
        seconds = self._clock.monotonic() - exchange.began
        status = 499 if exchange.gone and exchange.status < 400 else exchange.status or 500
        method = exchange.method if exchange.method in _METHODS else "other"
        counted = (method, exchange.label, status)
        tally = self._tallies.get(counted)
        if tally is None:
            tally = self._tallies[counted] = _Tally(
                self._requests.at(method, exchange.label, str(status)), self._durations.at(exchange.label)
            )
        tally.number.inc()
        tally.durations.observe(seconds)
        caller = exchange.caller.id if exchange.caller else None
        account = exchange.request.account if exchange.request else None
        told = None
        if account is not None:
            if account.stream:
                self._limits.streams.leave(account)
            told = self.books.settle(account, exchange.id, caller or "", status, seconds)
        if self._logs_requests:
            fields: dict[str, str | int | float | None] = {
                "request_id": exchange.id,
                "method": method,
                "path": exchange.path[:200],
                "status": status,
                "response_time_ms": milliseconds(seconds),
                "caller": caller,
                "source": exchange.peer,
            }
            if told is not None:
                fields |= told
            self._log.tell("info", "request", fields)
