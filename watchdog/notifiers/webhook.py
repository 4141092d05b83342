"""Notifier `webhook`: POSTs a delivery as JSON in the form of Alertmanager's webhook, version 4.

Beyond Alertmanager: `Idempotency-Key` (the same on each retry); with `x_hmac_secret_file` also
`X-Proxywatch-Timestamp` and `X-Proxywatch-Signature: sha256=<hex HMAC-SHA256 of "timestamp.body">`, so that a receiver
can refuse what is forged or old. How it fails: no answer, 408, 425, 429 and 5xx are passing (`Retry-After` is
honoured), any other answer but 2xx is permanent.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import chain
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from watchdog.core.model import Alert, AlertState, Labels, fingerprint
from watchdog.core.routing import Delivery, Notice
from watchdog.errors import DeliveryError
from watchdog.notifiers import BusyReceiverError, Defaults, NotifierContext, NotifierSettings, notifiers, secret_text
from watchdog.notifiers.wording import finding
from watchdog.registry import Settings
from watchdog.system.http import HttpError

ATTEMPT_SECONDS = 30.0
LONGEST_RETRY_AFTER_SECONDS = 3600.0
_PASSING = frozenset({408, 425, 429})
_NEVER = "0001-01-01T00:00:00Z"
"""Alertmanager's `endsAt` of an alert that has not ended."""


class Authorization(Settings):
    """`authorization`: a header of that type and those credentials."""

    type: str = "Bearer"
    credentials: SecretStr | None = None
    credentials_file: Path | None = None

    @field_validator("type")
    @classmethod
    def _type(cls, value: str) -> str:
        if not value.isalnum() or value.lower() == "basic":
            raise ValueError(f"expected a scheme such as Bearer, not {value!r}")
        return value


class HttpSettings(Settings):
    """`http_config`."""

    authorization: Authorization | None = None


class WebhookSettings(NotifierSettings):
    """Alertmanager's `webhook_configs`, and `x_hmac_secret_file`. `max_alerts` 0 means all."""

    kind: Literal["webhook"] = "webhook"
    url: str | None = None
    url_file: Path | None = None
    max_alerts: int = Field(default=0, ge=0)
    http_config: HttpSettings = HttpSettings()
    x_hmac_secret_file: Path | None = None

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        return checked_url(value)

    def completed(self, defaults: Defaults) -> Self:
        """See `NotifierSettings.completed`."""
        if (self.url is None) == (self.url_file is None):
            raise ValueError("exactly one of url and url_file is needed")
        authorization = self.http_config.authorization
        if authorization and (authorization.credentials is None) == (authorization.credentials_file is None):
            raise ValueError("http_config.authorization needs exactly one of credentials and credentials_file")
        return self


def checked_url(text: str) -> str:
    """The URL, if it is one of http or https with a host. Raises ValueError."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or not text.isprintable():
        raise ValueError("expected a URL such as https://host/path")
    return text


@notifiers.register(WebhookSettings)
class WebhookNotifier:
    """Uses the daemon's HTTP client; secrets are read at each delivery."""

    def __init__(self, settings: WebhookSettings, context: NotifierContext) -> None:
        self._settings = settings
        self._context = context

    async def deliver(self, delivery: Delivery) -> None:
        """See `Notifier.deliver`."""
        url = self._url()
        body = json.dumps(payload(delivery, self._settings.max_alerts, self._context.external_url)).encode()
        # The path of a webhook is often its secret.
        place = f"webhook at {urlsplit(url).hostname}"
        try:
            answer = await self._context.http.request(
                "POST",
                url,
                headers=self._headers(delivery, body),
                content=body,
                timeout=ATTEMPT_SECONDS,
                by_library=True,
            )
        except HttpError as error:
            raise DeliveryError(f"{place}: no answer ({error.fault})") from error
        status = answer.status_code
        if 200 <= status < 300:
            return
        said = " ".join(answer.text.split())[:200]
        message = f"{place} answered {status}{': ' + said if said else ''}"
        if status in _PASSING or status >= 500:
            raise BusyReceiverError(message, retry_after_seconds=self._retry_after(answer.headers))
        raise DeliveryError(message, permanent=True)

    def _url(self) -> str:
        if self._settings.url is not None:
            return self._settings.url
        text = secret_text(self._settings.url_file or Path(), "webhook URL")
        try:
            return checked_url(text)
        except ValueError as error:
            raise DeliveryError(f"{self._settings.url_file}: {error}") from error

    def _headers(self, delivery: Delivery, body: bytes) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "proxywatch",
            "Idempotency-Key": delivery.key,
        }
        authorization = self._settings.http_config.authorization
        if authorization is not None:
            if authorization.credentials_file is not None:
                credentials = secret_text(authorization.credentials_file, "webhook credentials")
            else:
                credentials = authorization.credentials.get_secret_value() if authorization.credentials else ""
            headers["Authorization"] = f"{authorization.type} {credentials}"
        if self._settings.x_hmac_secret_file is not None:
            secret = secret_text(self._settings.x_hmac_secret_file, "webhook secret")
            timestamp = f"{self._context.clock.wall():.0f}"
            headers["X-Proxywatch-Timestamp"] = timestamp
            headers["X-Proxywatch-Signature"] = signature(secret, timestamp, body)
        return headers

    def _retry_after(self, headers: Mapping[str, str]) -> float:
        """Seconds that the receiver asks for, as a number or a date (RFC 9110); 0 if it asks for nothing sensible."""
        text = headers.get("retry-after", "").strip()
        if text.isdecimal():
            return min(float(text), LONGEST_RETRY_AFTER_SECONDS)
        try:
            until = parsedate_to_datetime(text).timestamp()
        except ValueError:
            return 0.0
        return min(max(until - self._context.clock.wall(), 0.0), LONGEST_RETRY_AFTER_SECONDS)


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """The value of `X-Proxywatch-Signature`."""
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"sha256={digest}"


def payload(delivery: Delivery, max_alerts: int = 0, external_url: str = "") -> dict[str, object]:
    """Alertmanager's webhook body, version 4. Annotations `proxywatch_*` say which incident and why."""
    alerts = list(chain.from_iterable(_alerts(notice, external_url) for notice in delivery.notices))
    kept = alerts[:max_alerts] if max_alerts else alerts
    return {
        "version": "4",
        "groupKey": delivery.group_key,
        "truncatedAlerts": len(alerts) - len(kept),
        "status": delivery.status,
        "receiver": delivery.receiver,
        "groupLabels": dict(delivery.group_labels),
        "commonLabels": _common([alert["labels"] for alert in alerts]),
        "commonAnnotations": _common([alert["annotations"] for alert in alerts]),
        "externalURL": external_url,
        "alerts": kept,
    }


def _alerts(notice: Notice, external_url: str) -> list[dict[str, object]]:
    if not notice.alerts:
        return [_entry(notice, notice.labels, notice.annotations, notice.started_at, notice.ended_at, external_url)]
    return [
        _entry(notice, alert.labels, alert.annotations, alert.active_at, _ended_at(notice, alert), external_url)
        for alert in notice.alerts
    ]


def _ended_at(notice: Notice, alert: Alert) -> float | None:
    if alert.state is AlertState.RESOLVED:
        return alert.resolved_at
    return notice.ended_at or alert.active_at if notice.status == "resolved" else None


def _entry(
    notice: Notice, labels: Labels, annotations: Labels, began: float, ended: float | None, external_url: str
) -> dict[str, object]:
    ours = {
        "proxywatch_incident": str(notice.incident_id),
        "proxywatch_notice": str(notice.kind),
        "proxywatch_reason": notice.reason,
        "proxywatch_finding": finding(notice),
    }
    return {
        "status": "firing" if ended is None else "resolved",
        "labels": dict(labels),
        "annotations": dict(annotations) | {name: value for name, value in ours.items() if value},
        "startsAt": _rfc3339(began),
        "endsAt": _NEVER if ended is None else _rfc3339(ended),
        "generatorURL": external_url,
        "fingerprint": fingerprint(labels),
    }


def _rfc3339(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _common(mappings: list[object]) -> dict[str, str]:
    pairs = [set(mapping.items()) for mapping in mappings if isinstance(mapping, dict)]
    return dict(sorted(set.intersection(*pairs))) if pairs else {}
