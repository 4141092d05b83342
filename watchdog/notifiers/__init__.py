"""The edge that tells people: the contract of a notifier and the registry of its kinds, one file per kind.

A notifier never chooses whom to tell: `core.routing` does. It never retries: the outbox and the sender do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

from watchdog.clock import Clock
from watchdog.core.routing import Delivery
from watchdog.errors import DeliveryError
from watchdog.registry import Duration, Registry, Settings
from watchdog.system.http import HttpClient


class Defaults(Settings):
    """The `global` section of a routes file: what an integration falls back on.

    `resolve_timeout` is accepted and has no effect: our own alerts end when their rule says so.
    """

    resolve_timeout: Duration = 300.0
    smtp_smarthost: str | None = None
    smtp_from: str | None = None
    smtp_hello: str | None = None
    smtp_auth_username: str | None = None
    smtp_auth_password: str | None = None
    smtp_auth_password_file: str | None = None
    smtp_require_tls: bool = True


class NotifierSettings(Settings):
    """What every integration can say. A kind adds `kind: Literal[...]` with that value as its default."""

    send_resolved: bool = True
    x_send_healed: bool = False
    """Our extension: also tell what was repaired without a person."""

    def completed(self, defaults: Defaults) -> Self:
        """With the file's `global` section filled in. Raises ValueError for what is then still missing or unsafe."""
        del defaults
        return self


@dataclass(frozen=True, slots=True)
class NotifierContext:
    """What a notifier is built with. `host` is how people know this machine; `external_url` may be empty."""

    clock: Clock
    http: HttpClient
    host: str
    external_url: str = ""


class Notifier(Protocol):
    """The contract of a kind: built from its settings and a `NotifierContext`."""

    async def deliver(self, delivery: Delivery) -> None:
        """Hands the delivery over. Returning means accepted; DeliveryError says whether trying again can help."""
        ...


class BusyReceiverError(DeliveryError):
    """The receiver asks for patience: not before `retry_after_seconds` from now."""

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


notifiers: Registry[Notifier] = Registry("notifier")
