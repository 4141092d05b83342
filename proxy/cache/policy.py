"""PURE: what a caller wants of the caches, which cache a request belongs to, and under which key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Literal

import orjson

from proxy.call import Call
from proxy.errors import ApiError
from proxy.settings import ResponseCache, SummaryCache, parse_duration
from proxy.settings.cache import NAMESPACE_PATTERN

CacheName = Literal["response", "summary"]

KEY_BYTES = 16
_NOT_SEMANTIC = frozenset(
    {"stream", "stream_options", "user", "metadata", "store", "safety_identifier", "prompt_cache_key"}
)
"""Fields that change how or for whom an answer is delivered, not what it says."""
_NAMESPACE = re.compile(NAMESPACE_PATTERN)
_LONGEST_TTL_SECONDS = 30 * 86_400.0
_FOR_EVER = float("inf")


@dataclass(frozen=True, slots=True)
class Wish:
    """What the headers of one request allow and ask for; times in seconds."""

    lookup: bool = True
    store: bool = True
    only: bool = False
    """No provider may be asked."""
    max_age: float = _FOR_EVER
    max_stale: float = 0.0
    """How long ago an answer may have expired."""
    stale_if_error: float = 0.0
    """Likewise, if every provider fails."""
    ttl: float | None = None
    namespace: str = ""
    summary: bool = False


PLAIN = Wish()


def wish(headers: Mapping[str, str]) -> Wish:
    """From `cache-control` (RFC 9111 §5.2.1; RFC 5861 §4), `x-cache`, `x-cache-ttl` and `x-cache-namespace`. Directives
    that are not understood are ignored; ApiError 400 for one of our own headers that says nothing sensible."""
    control, kind = headers.get("cache-control"), headers.get("x-cache")
    ttl, namespace = headers.get("x-cache-ttl"), headers.get("x-cache-namespace")
    if control is None and kind is None and ttl is None and namespace is None:
        return PLAIN
    return _wish(control or "", kind or "", ttl, namespace)


@lru_cache(maxsize=256)
def _wish(control: str, kind: str, ttl: str | None, namespace: str | None) -> Wish:
    words = _directives(control)
    max_age = _seconds(words.get("max-age"), _FOR_EVER)
    stores = "no-store" not in words
    return Wish(
        lookup=stores and "no-cache" not in words and max_age > 0,
        store=stores,
        only="only-if-cached" in words,
        max_age=max_age,
        max_stale=_seconds(words["max-stale"], 0.0, bare=_FOR_EVER) if "max-stale" in words else 0.0,
        stale_if_error=_seconds(words.get("stale-if-error"), 0.0),
        ttl=None if ttl is None else _ttl(ttl),
        namespace="" if namespace is None else _namespace(namespace),
        summary=kind.strip().lower() == "summary",
    )


def _directives(control: str) -> dict[str, str]:
    pairs = (word.partition("=") for word in control.lower().split(","))
    return {name.strip(): value.strip().strip('"') for name, _, value in pairs}


def _seconds(value: str | None, otherwise: float, *, bare: float | None = None) -> float:
    if value == "" and bare is not None:
        return bare
    return float(value) if value is not None and value.isascii() and value.isdigit() and len(value) < 12 else otherwise


def _ttl(value: str) -> float:
    try:
        seconds = parse_duration(value.strip())
    except ValueError as error:
        raise ApiError(400, f"x-cache-ttl: {error}.", code="invalid_header", param="x-cache-ttl") from error
    if not 0 < seconds <= _LONGEST_TTL_SECONDS:
        raise ApiError(
            400, "x-cache-ttl: expected more than 0 and at most 30d.", code="invalid_header", param="x-cache-ttl"
        )
    return seconds


def _namespace(value: str) -> str:
    if not _NAMESPACE.fullmatch(value):
        raise ApiError(
            400,
            "x-cache-namespace: expected 1 to 64 letters, digits, dots, dashes or underscores.",
            code="invalid_header",
            param="x-cache-namespace",
        )
    return value


def namespace_of(caller: str, named: str, settings: ResponseCache) -> str:
    """Where a caller's answers lie: `key:ID`, `key:ID#NAME`, or `shared:NAME` if NAME is shared with this key. ApiError
    403 if it is shared with others only."""
    if not named:
        return f"key:{caller}"
    for shared in settings.shared_namespaces:
        if shared.name == named:
            if shared.keys is not None and caller not in shared.keys:
                raise ApiError(
                    403,
                    f"This key may not use the namespace {named!r}.",
                    type="permission_error",
                    code="namespace_forbidden",
                    param="x-cache-namespace",
                    retryable=False,
                )
            return f"shared:{named}"
    return f"key:{caller}#{named}"


def is_summary(call: Call, wanted: Wish, settings: SummaryCache) -> bool:
    """Whether a request belongs to the summary cache."""
    if not settings.enabled:
        return False
    if wanted.summary or call.model in settings.models:
        return True
    metadata = call.fields.get("metadata")
    return isinstance(metadata, dict) and metadata.get("purpose") == "summary"


def request_key(call: Call, namespace: str, version: str) -> bytes:
    """The key of every request that means the same in one namespace, whatever the order of its fields. Operations,
    namespaces, versions and the headers that go along to the provider keep answers apart."""
    meaning = {name: value for name, value in call.fields.items() if name not in _NOT_SEMANTIC}
    digest = blake2b(orjson.dumps(meaning, option=orjson.OPT_SORT_KEYS), digest_size=KEY_BYTES)
    digest.update(realm(call.operation, namespace, version, call.passed))
    return digest.digest()


@lru_cache(maxsize=256)
def realm(operation: str, namespace: str, version: str, passed: tuple[tuple[str, str], ...]) -> bytes:
    """What besides its body tells one request's key from another's; its parts cannot be confused with each other."""
    parts = [operation, namespace, version]
    for header in passed:
        parts += header
    return "".join(f"\0{len(part)}:{part}" for part in parts).encode("utf-8", "surrogateescape")
