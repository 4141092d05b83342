"""Who calls: API keys, roles, and the callers of this machine who need none."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from proxy.clock import Clock
from proxy.errors import ApiError, ConfigError
from proxy.limits.restraints import Restraints
from proxy.limits.sources import Sources
from proxy.loopback import Endpoint, is_forwarded, is_loopback, is_of_a_page, owner
from proxy.metrics import Metrics
from proxy.secret_file import secret_fault
from proxy.settings import Auth, Key

ANONYMOUS = "anonymous"
OWNER = "owner"
"""The id of the proxy's own system user, let in as admin without a key."""
_FILES_CHECKED_SECONDS = 1.0

Role = Literal["user", "admin"]

log = logging.getLogger("proxy.security")


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller who was let in. `id` is the key's id, never the key."""

    id: str
    role: Role


class Line(Protocol):
    """A connection."""

    @property
    def transport(self) -> asyncio.BaseTransport: ...


class Visit(Protocol):
    """What is known of a request when it is asked who calls: the exchange."""

    @property
    def id(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def peer(self) -> str | None: ...
    @property
    def label(self) -> str: ...
    @property
    def line(self) -> Line: ...


class KeyRing:
    """The callers' keys, by their SHA-256.

    A key is found by its digest in a table, whose timing tells at most of digests that are near, and who could make
    a key of a wanted digest has broken SHA-256; so it takes as long for one key as for thousands. The keys themselves
    are nowhere kept. A hash takes less than a microsecond, so nothing is remembered of what was presented.
    """

    def __init__(self, keys: tuple[Key, ...], clock: Clock) -> None:
        """Reads the key files. ConfigError if one cannot be used."""
        self._clock = clock
        self._callers = {key.id: Caller(key.id, key.role) for key in keys}
        self._filed = {key.id: key.key_file for key in keys if key.key_file is not None}
        self._seen: dict[str, tuple[int, ...]] = {}
        self._digests = {key.id: bytes.fromhex(key.sha256) for key in keys if key.sha256 is not None}
        self._found: dict[bytes, Caller] = {}
        for key, fault in self._read_changed().items():
            if fault is not None:
                raise ConfigError(fault, key=f"auth.keys.{key}")
        self._checked = clock.monotonic()

    def find(self, presented: str) -> Caller | None:
        """Whose key that is. `presented` is a header's text, Latin-1. Key files that were changed count from a second
        later on, and what stood in them before counts no longer."""
        if self._filed and self._clock.monotonic() - self._checked >= _FILES_CHECKED_SECONDS:
            self._checked = self._clock.monotonic()
            self._follow_files()
        return self._found.get(hashlib.sha256(presented.encode("latin-1", "replace")).digest())

    def _follow_files(self) -> None:
        for key, fault in self._read_changed().items():
            if fault is None:
                log.warning(
                    "key changed", extra={"event": "key_changed", "category": "key", "success": True, "key_id": key}
                )
            else:
                told = {"event": "key_changed", "category": "key", "success": False, "key_id": key}
                log.error("key refused: %s", fault, extra=told)

    def _read_changed(self) -> dict[str, str | None]:
        """Reads the files that are not as they were: by key id, what makes the file unusable, or None."""
        changed: dict[str, str | None] = {}
        for key, file in self._filed.items():
            try:
                status = file.stat()
                now = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            except OSError:
                now = (0, 0, 0, 0)
            if self._seen.get(key) == now:
                continue
            self._seen[key] = now
            self._digests.pop(key, None)
            changed[key] = fault = secret_fault(file)
            if fault is None:
                self._digests[key] = hashlib.sha256(file.read_text(encoding="utf-8").strip().encode()).digest()
        if changed or not self._found:
            self._found = {digest: self._callers[key] for key, digest in self._digests.items()}
        return changed


class Doorman:
    """Decides who a request's caller is."""

    def __init__(self, settings: Auth, metrics: Metrics, clock: Clock, restraints: Restraints) -> None:
        """Reads the key files. ConfigError if one cannot be used."""
        self._restraints = restraints
        self._anonymous = settings.anonymous_loopback
        self._clock = clock
        self._keys = KeyRing(settings.keys, clock)
        self._sources = Sources()
        restraints.on_change(lambda: self._sources.tighten(restraints.limits()))
        self._failures = metrics.counter("auth_failures_total", "Requests refused for their key.", ("reason",))
        self._admin_calls = metrics.counter("admin_calls_total", "Calls of admin routes.", ("route", "caller"))

    def admit(self, visit: Visit, needs: Role) -> Caller:
        """The caller, who has at least the role `needs`. ApiError 401 without a valid key, 403 for a lesser role or a
        suspended key, 429 for one of many failures from one address."""
        presented = _presented(visit.headers)
        caller = self._anonymous_caller(visit, needs) if presented is None else self._keys.find(presented)
        if caller is None:
            raise self._refused(visit, presented)
        self._restraints.check_key(caller.id)
        if presented is not None and self._sources.admitted(visit.peer, self._clock.monotonic()):
            told = _event(visit, "admitted_among_failures", "authentication", caller.id, success=True)
            log.info("a valid key came from an address that sends many others", extra=told)
        if needs == "user":
            return caller
        if caller.role != "admin":
            self._failures.inc("forbidden")
            log.warning(
                "unauthorized: this call needs an admin key",
                extra=_event(visit, "forbidden", "authorization", caller.id),
            )
            raise ApiError(
                403,
                f"This call needs an admin key; {caller.id!r} is a {caller.role}.",
                type="permission_error",
                code="admin_key_required",
            )
        self._admin_calls.inc(visit.label, caller.id)
        log.info("admin call: %s", visit.label, extra=_event(visit, "admin_call", "access", caller.id, success=True))
        return caller

    def _anonymous_caller(self, visit: Visit, needs: Role) -> Caller | None:
        headers = visit.headers
        if self._anonymous == "none" or not is_loopback(visit.peer) or is_forwarded(headers) or is_of_a_page(headers):
            return None
        if needs == "user":
            return _ANYBODY
        if self._anonymous == "owner" and _owner_of(visit) == os.geteuid():
            return _OWNER
        return None

    def _refused(self, visit: Visit, presented: str | None) -> ApiError:
        seconds, begins, failures = self._sources.failed(visit.peer, self._clock.monotonic())
        reason = "missing" if presented is None else "invalid" if presented else "malformed"
        self._failures.inc("throttled" if seconds and not begins else reason)
        if failures:
            more = "; further failures of this address are told every ten seconds" if begins else ""
            log.warning(
                "authentication failed, unauthorized: %s key%s",
                reason,
                more if failures == 1 else f", {failures} since the last word",
                extra=_event(visit, "failed_auth", "authentication", None, reason=reason, failures=failures),
            )
        if seconds:
            return ApiError(
                429,
                "Too many requests without a valid key came from this address.",
                type="requests",
                code="too_many_failed_attempts",
                retryable=False,
                headers=((b"retry-after", b"%d" % math.ceil(seconds)),),
            )
        if presented is None:
            return _unauthorized("You didn't provide an API key; send it as Authorization: Bearer KEY.")
        return _unauthorized("Incorrect API key provided.")


_ANYBODY = Caller(ANONYMOUS, "user")
_OWNER = Caller(OWNER, "admin")


def _event(
    visit: Visit, event: str, category: str, key: str | None, *, success: bool = False, **fields: object
) -> dict[str, object]:
    """What a line of the security log tells of a request; the source comes last, where people's scripts look."""
    told = {"event": event, "category": category, "success": success, "request_id": visit.id, "path": visit.label}
    return {**told, "key_id": key, **fields, "source": visit.peer}


def _owner_of(visit: Visit) -> int | None:
    transport = visit.line.transport
    client, server = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    return owner(_endpoint(client), _endpoint(server)) if client and server else None


def _endpoint(name: tuple[str, int]) -> Endpoint:
    return name[0], name[1]


def _presented(headers: Mapping[str, str]) -> str | None:
    """The key that a request shows, empty if it shows something else in its place; None if it shows nothing."""
    authorization = headers.get("authorization")
    if authorization is not None:
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() == "bearer":
            return key.strip()
    return headers.get("x-api-key", None if authorization is None else "")


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers=((b"www-authenticate", b"Bearer"),))
