"""What an operator may see and ask of the caches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args
from urllib.parse import parse_qs

from proxy.cache.operations.inspection import Selector, cursor
from proxy.cache.policy import CacheName
from proxy.endpoints.route import Route, Services
from proxy.errors import ApiError
from proxy.exchange import GatewayReply, Plain, Request, document, is_number, json_object
from proxy.settings import parse_duration

_NAMES = get_args(CacheName)
_PAGE, _LARGEST_PAGE = 100, 1000
_TEXT_CHARACTERS = 200
_LONGEST_PAUSE_SECONDS = 86_400
_JSON = (b"content-type", b"application/json")
_FILE = (b"content-disposition", b'attachment; filename="llm-proxy-cache.json"')


def routes(services: Services) -> list[Route]:
    """`/metrics/cache…`, open to everybody; `/debug/cache…` and `/api/cache…`, for admins."""
    return [*_seen(services), *_asked(services)]


def _seen(services: Services) -> list[Route]:
    gateway = services.gateway

    async def figures(_request: Request) -> GatewayReply:
        return document(gateway.cache_metrics())

    async def warming(_request: Request) -> GatewayReply:
        return document(gateway.caches.care.warming())

    async def keys(request: Request) -> GatewayReply:
        name, after, limit = _page(request.query)
        return document(gateway.caches.keys(name, after, limit))

    async def config(_request: Request) -> GatewayReply:
        return document(gateway.caches.config())

    async def stats(_request: Request) -> GatewayReply:
        return document(await gateway.caches.stats())

    return [
        Route("GET", "/metrics/cache", figures),
        Route("GET", "/metrics/cache/warming", warming),
        Route("GET", "/debug/cache/keys", keys, "admin"),
        Route("GET", "/debug/cache/config", config, "admin"),
        Route("GET", "/debug/cache/stats", stats, "admin"),
    ]


def _asked(services: Services) -> list[Route]:
    gateway = services.gateway

    async def flush(_request: Request) -> GatewayReply:
        return document(gateway.flush_cache())

    async def evict(request: Request) -> GatewayReply:
        expired, fraction = _eviction(json_object(request.body))
        return document(gateway.evict_cache(expired=expired, fraction=fraction))

    async def invalidate(request: Request) -> GatewayReply:
        return document(await gateway.caches.invalidate(_selector(json_object(request.body))))

    async def pause(request: Request) -> GatewayReply:
        return document(gateway.caches.care.pause(_pause(json_object(request.body) if request.body else {})))

    async def warm(_request: Request) -> GatewayReply:
        return document(gateway.caches.care.warm())

    async def compact(_request: Request) -> GatewayReply:
        return document(await gateway.caches.compact())

    async def resume(_request: Request) -> GatewayReply:
        return document(gateway.caches.care.resume())

    async def export(_request: Request) -> GatewayReply:
        return Plain(200, gateway.caches.exported(), [_JSON, _FILE])

    async def take_in(request: Request) -> GatewayReply:
        assert request.parts is not None
        return document(await gateway.caches.imported(request.parts()))

    return [
        Route("DELETE", "/api/cache", flush, "admin"),
        Route("POST", "/api/cache/evict", evict, "admin"),
        Route("POST", "/api/cache/invalidate", invalidate, "admin"),
        Route("POST", "/api/cache/compact", compact, "admin"),
        Route("POST", "/api/cache/warm", warm, "admin"),
        Route("POST", "/api/cache/pause-warming", pause, "admin"),
        Route("POST", "/api/cache/resume-warming", resume, "admin"),
        Route("GET", "/api/cache/export", export, "admin"),
        Route("POST", "/api/cache/import", take_in, "admin", piecewise=True),
    ]


def _eviction(body: Mapping[str, Any]) -> tuple[bool, float | None]:
    expired, fraction = body.get("expired", False), body.get("fraction")
    if not isinstance(expired, bool):
        raise ApiError(400, f"expired: expected true or false, not {expired!r}.", param="expired")
    if fraction is not None and not (is_number(fraction) and 0 < fraction <= 1):
        raise ApiError(400, f"fraction: expected a number above 0 and at most 1, not {fraction!r}.", param="fraction")
    if expired == (fraction is not None):
        raise ApiError(400, 'Expected exactly one of {"expired": true} and {"fraction": F}.')
    return expired, fraction


def _pause(body: Mapping[str, Any]) -> float | None:
    seconds = body.get("seconds")
    if seconds is not None and not (is_number(seconds) and 0 < seconds <= _LONGEST_PAUSE_SECONDS):
        raise ApiError(
            400,
            f"seconds: expected a number above 0 and at most {_LONGEST_PAUSE_SECONDS}, not {seconds!r}.",
            param="seconds",
        )
    return None if seconds is None else float(seconds)


def _selector(body: Mapping[str, Any]) -> Selector:
    """ApiError 400 for what is unknown or nonsense, and for a selector that would select everything."""
    allowed = ("cache", "model", "namespace", "operation", "older_than")
    for name, value in body.items():
        if name not in allowed:
            raise ApiError(400, f"{name[:100]}: expected one of {', '.join(allowed)}.", param=name[:100])
        if not isinstance(value, str) or not 0 < len(value) <= _TEXT_CHARACTERS:
            raise ApiError(400, f"{name}: expected a string of 1 to {_TEXT_CHARACTERS} characters.", param=name)
    if not body.keys() - {"cache"}:
        raise ApiError(400, "Expected a model, namespace, operation or older_than; DELETE /api/cache removes all.")
    seconds = None
    if "older_than" in body:
        try:
            seconds = parse_duration(body["older_than"])
        except ValueError as error:
            raise ApiError(400, f"older_than: {error}.", param="older_than") from error
    cache = None if "cache" not in body else _name(body["cache"])
    return Selector(cache, body.get("model"), body.get("namespace"), body.get("operation"), seconds)


def _name(text: str) -> CacheName:
    for name in _NAMES:
        if text == name:
            return name  # type: ignore[no-any-return]
    raise ApiError(400, f"cache: expected one of {', '.join(_NAMES)}, not {text[:100]!r}.", param="cache")


def _page(query: str) -> tuple[CacheName, bytes, int]:
    """Which page of keys: `cache`, `after` (an id, or the last page's `next`) and `limit`."""
    given = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
    limit = given.get("limit", str(_PAGE))
    if not (limit.isascii() and limit.isdigit() and 0 < int(limit[:9]) <= _LARGEST_PAGE):
        raise ApiError(400, f"limit: expected a number from 1 to {_LARGEST_PAGE}.", param="limit")
    try:
        after = cursor(given["after"]) if "after" in given else b""
    except ValueError as error:
        raise ApiError(400, f"after: {error}.", param="after") from error
    return _name(given.get("cache", "response")), after, int(limit)
