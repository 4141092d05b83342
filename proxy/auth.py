"""Who calls: API keys, roles, and the anonymous caller of this machine."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from proxy.errors import ApiError, ConfigError
from proxy.metrics import Metrics
from proxy.secret_file import secret_fault
from proxy.settings import Auth

ANONYMOUS = "anonymous"
_FORWARDED = ("x-forwarded-for", "forwarded", "x-real-ip")

Role = Literal["user", "admin"]


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller who was let in. `id` is the key's id, never the key."""

    id: str
    role: Role


class Doorman:
    """Decides from a request's headers and peer who calls."""

    def __init__(self, settings: Auth, metrics: Metrics) -> None:
        """Reads the key files. ConfigError if one cannot be used."""
        self._anonymous = settings.anonymous_loopback
        self._keys: list[tuple[bytes, Caller]] = []
        for key in settings.keys:
            if key.key_file is not None:
                if (fault := secret_fault(key.key_file)) is not None:
                    raise ConfigError(fault, key=f"auth.keys.{key.id}")
                digest = hashlib.sha256(key.key_file.read_text(encoding="utf-8").strip().encode()).digest()
            else:
                digest = bytes.fromhex(key.sha256 or "")
            self._keys.append((digest, Caller(key.id, key.role)))
        self._failures = metrics.counter("auth_failures_total", "Requests refused for their key.", ("reason",))

    def admit(self, headers: Mapping[str, str], peer: str | None, needs: Role) -> Caller:
        """The caller, who has at least the role `needs`. ApiError 401 without a valid key, 403 for a lesser role."""
        presented = _presented(headers)
        if presented is None:
            if needs == "user" and self._welcomes_anonymous(headers, peer):
                return Caller(ANONYMOUS, "user")
            self._failures.inc("missing")
            raise _unauthorized("You didn't provide an API key; send it as Authorization: Bearer KEY.")
        caller = self._find(presented)
        if caller is None:
            self._failures.inc("invalid")
            raise _unauthorized("Incorrect API key provided.")
        if needs == "admin" and caller.role != "admin":
            self._failures.inc("forbidden")
            raise ApiError(
                403,
                f"This call needs an admin key; {caller.id!r} is a {caller.role}.",
                type="permission_error",
                code="admin_key_required",
            )
        return caller

    def _welcomes_anonymous(self, headers: Mapping[str, str], peer: str | None) -> bool:
        """A forwarding header says that the loopback peer is another proxy, whose clients may be anywhere."""
        return self._anonymous == "user" and is_loopback(peer) and not any(name in headers for name in _FORWARDED)

    def _find(self, presented: str) -> Caller | None:
        """Compares with every key, always, so that the time taken tells nothing."""
        digest = hashlib.sha256(presented.encode("utf-8", "surrogateescape")).digest()
        found = None
        for known, caller in self._keys:
            if hmac.compare_digest(digest, known):
                found = caller
        return found


def is_loopback(peer: str | None) -> bool:
    """Whether the address of the connection's other end is this machine's own loopback."""
    return peer is not None and (peer == "::1" or peer.startswith(("127.", "::ffff:127.")))


def _presented(headers: Mapping[str, str]) -> str | None:
    authorization = headers.get("authorization")
    if authorization is not None:
        scheme, _, key = authorization.partition(" ")
        return key.strip() if scheme.lower() == "bearer" else ""
    return headers.get("x-api-key")


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers=((b"www-authenticate", b"Bearer"),))
