"""The edge that tells people: the contract of a notifier and the registry of its kinds, one file per kind.

A notifier never chooses whom to tell: `core.routing` does. It never retries: the outbox and the sender do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, Self

from pydantic import SecretStr

from watchdog.clock import Clock
from watchdog.core.routing import Delivery
from watchdog.errors import DeliveryError
from watchdog.registry import Duration, Registry, Settings
from watchdog.system.http import HttpClient


class Defaults(Settings):
    """The `global` section of a routes file: what an integration falls back on.

    `resolve_timeout` is accepted and has no effect: our own alerts end when their rule says so.
    """

    not_yet: ClassVar[frozenset[str]] = frozenset(
        {"http_config", "smtp_auth_secret", "smtp_auth_identity", "slack_api_url", "slack_api_url_file"}
        | {"pagerduty_url", "opsgenie_api_url", "opsgenie_api_key", "opsgenie_api_key_file", "wechat_api_url"}
        | {"wechat_api_secret", "wechat_api_corp_id", "victorops_api_url", "victorops_api_key", "telegram_api_url"}
        | {"victorops_api_key_file", "webex_api_url"}
    )
    resolve_timeout: Duration = 300.0
    smtp_smarthost: str | None = None
    smtp_from: str | None = None
    smtp_hello: str | None = None
    smtp_auth_username: str | None = None
    smtp_auth_password: SecretStr | None = None
    smtp_auth_password_file: Path | None = None
    smtp_require_tls: bool = True


class NotifierSettings(Settings):
    """What every integration can say. A kind adds `kind: Literal[...]` with that value as its default.

    `not_yet` names keys of Alertmanager's that we know and refuse. A field named `*_file` is a secret unless it is in
    `public_files`; secrets must not be readable by others.
    """

    not_yet: ClassVar[frozenset[str]] = frozenset()
    public_files: ClassVar[frozenset[str]] = frozenset({"ca_file"})
    send_resolved: bool = True
    x_send_healed: bool = False
    """Our extension: also tell what was repaired without a person."""

    def completed(self, defaults: Defaults) -> Self:
        """With the file's `global` section filled in. Raises ValueError for what is then still missing or unsafe."""
        del defaults
        return self


def secret_text(path: Path, what: str) -> str:
    """The content of a secret's file without its line end; read at each use, so that a rotated secret just works.

    Raises DeliveryError (passing: the operator can put it right) if it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DeliveryError(f"{what}: {path} cannot be read: {error}", hint="check its owner and mode") from error


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
