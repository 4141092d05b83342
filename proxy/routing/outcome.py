"""What the end of one attempt at a provider means: whose fault it was, and whether the next provider may be tried.

Which statuses are final follows Bifrost and OpenAI's SDKs; the cooldown headers are those that OpenAI and Azure send.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

RETRY_AFTER_LIMIT_SECONDS = 3600.0
"""A longer wait than this is not believed: the provider is asked again after an hour."""


class Fault(StrEnum):
    """Classes of a provider's failure. Label values of metrics, and what the watchdog reads."""

    OUTAGE = "outage"
    AUTH = "auth"
    QUOTA = "quota"
    TIMEOUT = "timeout"
    NETWORK = "network"
    DNS = "dns"
    TLS = "tls"
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that failed through the provider's fault; the next provider may be tried.

    `status` and `body` are the provider's answer, if there was one.
    """

    fault: Fault
    message: str
    status: int | None = None
    body: bytes = b""
    retry_after: float | None = None
    """Seconds for which the provider asks to be left alone."""


_REFUSALS = frozenset({"content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"})
_FAULTS = {401: Fault.AUTH, 402: Fault.AUTH, 403: Fault.AUTH, 408: Fault.TIMEOUT, 429: Fault.QUOTA}


def judge(status: int, headers: Mapping[str, str], body: bytes, error: Mapping[str, Any]) -> Failure | None:
    """None if an answer with this status is final (a success, or the caller's own error), else the failure.

    `error` is the `error` object of the body, or empty. `headers` have case-insensitive or lower-case names.
    """
    if 200 <= status < 300 or error.get("code") in _REFUSALS or error.get("type") in _REFUSALS:
        return None
    fault = _FAULTS.get(status)
    if fault is None:
        if 400 <= status < 500:
            return None
        fault = Fault.OUTAGE if status >= 500 else Fault.MALFORMED
    message = error.get("message")
    said = f"{status}: {message}" if isinstance(message, str) else f"{status}"
    return Failure(fault, said[:500], status, body, retry_after_seconds(headers))


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """The wait in seconds that `retry-after-ms`, `x-ms-retry-after-ms` or `retry-after` asks for, 0 to an hour.

    None without one that is a number; a date is not understood, for it would need the time.
    """
    for name, unit in (("retry-after-ms", 0.001), ("x-ms-retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if seconds >= 0:
            return min(seconds, RETRY_AFTER_LIMIT_SECONDS)
    return None
