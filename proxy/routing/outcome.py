"""What the end of one attempt at a provider means: whose fault it was, and what may be tried next.

Which statuses are final follows Bifrost and OpenAI's SDKs; the cooldown headers are those that OpenAI and Azure send.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum, auto
from typing import Any

import orjson

RETRY_AFTER_LIMIT_SECONDS = 3600.0
"""A longer wait than this is not believed: the provider is asked again after an hour."""
_MESSAGE_LIMIT = 500
_SEARCHED_CHARACTERS = 2000


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


PROVIDER_WIDE = frozenset((Fault.DNS, Fault.NETWORK, Fault.TLS, Fault.AUTH))
"""Faults that say as much of a provider's other models; the rest speak only of the model that was asked."""
MAY_PASS = frozenset((Fault.QUOTA, Fault.OUTAGE, Fault.NETWORK, Fault.DNS))
"""Faults after which the same route is worth a pause and another try. A silent route is never asked twice."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that failed through the provider's fault; the next route may be tried.

    `status` and `body` are the provider's answer, if there was one.
    """

    fault: Fault
    message: str
    status: int | None = None
    body: bytes = b""
    retry_after: float | None = None
    """Seconds for which the provider asks to be left alone."""
    spent: bool = False
    """The key's money or monthly allowance is used up, which no short pause will change."""
    asked: bool = True
    """False: the provider was not even asked, for no key or no allowance of our own was left."""


class Refusal(StrEnum):
    """Why a provider would not answer this very request."""

    REQUEST = auto()
    """It is wrong in the provider's eyes: 400, 404, 422 and their like."""
    CONTEXT = auto()
    """It is longer than the model's context."""
    CONTENT = auto()
    """A content filter would not have it; nobody else is asked then."""
    DIALECT = auto()
    """It cannot be said in the provider's dialect, so that it was not sent. `body` is empty."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The provider is well and refused the request."""

    refusal: Refusal
    status: int
    body: bytes
    message: str = ""


CONTENT_CODES = frozenset(
    {
        "content_filter",
        "content_policy_violation",
        "moderation_blocked",
        "ResponsibleAIPolicyViolation",
    }
)
"""Codes and types of errors that judge the content, which no other provider is asked to revise."""
_CONTENT_TEXTS = re.compile(r"content filtering policy|content exists risk|content management policy", re.IGNORECASE)
_CONTEXT_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_CONTEXT_TEXTS = re.compile(
    r"prompt is too long"  # Anthropic
    r"|input length and .{0,20}exceed context limit"  # Anthropic
    r"|maximum context length"  # OpenAI, vLLM, Mistral
    r"|longer than the maximum model length"  # vLLM
    r"|exceeds? the (?:available )?context (?:size|length|window)"  # llama.cpp and others
    r"|context (?:length|window|size) (?:is |was )?exceeded"
    r"|exceeds? the maximum number of (?:input )?tokens"  # Gemini
    r"|tokens.{0,40}must be <= \d"  # text-generation-inference
    r"|input is too long for requested model",  # Bedrock
    re.IGNORECASE,
)
_SPENT_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "insufficient_balance"})
_SPENT_TEXTS = re.compile(r"credit balance is too low", re.IGNORECASE)
_FAULTS = {401: Fault.AUTH, 402: Fault.QUOTA, 403: Fault.AUTH, 408: Fault.TIMEOUT, 429: Fault.QUOTA}
_PAYMENT_REQUIRED = 402
_TOO_LONG_STATUSES = (400, 413, 422)


def judge(status: int, headers: Mapping[str, str], body: bytes, wall: float = 0.0) -> Failure | Rejected | None:
    """None if an answer with this status is a success. `headers` have case-insensitive or lower-case names; `wall` is
    the time, in epoch seconds, that a date in `retry-after` is compared to."""
    if 200 <= status < 300:
        return None
    error = error_object(body)
    words = _codes(error)
    text = error.get("message")
    said = text[:_SEARCHED_CHARACTERS] if isinstance(text, str) else ""
    message = f"{status}: {said}"[:_MESSAGE_LIMIT] if said else f"{status}"
    if words & CONTENT_CODES or (status < 500 and _CONTENT_TEXTS.search(said)):
        return Rejected(Refusal.CONTENT, status, body, message)
    if words & _CONTEXT_CODES or (status in _TOO_LONG_STATUSES and _CONTEXT_TEXTS.search(said)):
        return Rejected(Refusal.CONTEXT, status, body, message)
    spent = status == _PAYMENT_REQUIRED or bool(words & _SPENT_CODES) or bool(_SPENT_TEXTS.search(said))
    fault = Fault.QUOTA if spent and status < 500 else _FAULTS.get(status)
    if fault is None:
        if 400 <= status < 500:
            return Rejected(Refusal.REQUEST, status, body, message)
        fault = Fault.OUTAGE if status >= 500 else Fault.MALFORMED
    return Failure(fault, message, status, body, retry_after_seconds(headers, wall), spent)


def error_object(body: bytes) -> dict[str, Any]:
    """The error that a body tells of, whichever way: OpenAI's and Anthropic's `error` object, a bare text there, or
    (vLLM, FastAPI) `message` or `detail` at the top. Empty if there is none."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(parsed, dict):
        return {}
    error = parsed.get("error")
    if isinstance(error, dict):
        return error
    if isinstance(error, str):
        return {"message": error}
    if isinstance(parsed.get("message"), str):
        return parsed
    detail = parsed.get("detail")
    return {"message": detail} if isinstance(detail, str) else {}


def _codes(error: Mapping[str, Any]) -> frozenset[str]:
    inner = error.get("innererror")
    found = (error.get("code"), error.get("type"), inner.get("code") if isinstance(inner, dict) else None)
    return frozenset(word for word in found if isinstance(word, str))


def retry_after_seconds(headers: Mapping[str, str], wall: float = 0.0) -> float | None:
    """The wait in seconds that `retry-after-ms`, `x-ms-retry-after-ms` or `retry-after` (a number, or a date that is
    compared to `wall`) asks for, 0 to an hour. None without one that can be understood."""
    for name, unit in (("retry-after-ms", 0.001), ("x-ms-retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "")
        try:
            seconds = float(value) * unit
        except ValueError:
            if unit != 1.0 or not value:
                continue
            try:
                seconds = max(0.0, parsedate_to_datetime(value).timestamp() - wall)
            except (ValueError, OverflowError):
                continue
        if seconds >= 0:
            return min(seconds, RETRY_AFTER_LIMIT_SECONDS)
    return None
