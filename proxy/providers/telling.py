"""PURE: what a caller is told when no provider has answered. How to reach the provider, and its words about our key,
are the operator's business."""

from __future__ import annotations

import math

from proxy.errors import ApiError
from proxy.routing.outcome import Failure, Fault, error_object

_CALLER_IS_TOLD: dict[Fault, tuple[int, str, str]] = {
    Fault.AUTH: (502, "upstream_credentials_exhausted", "The provider refused the proxy's own credentials."),
    Fault.QUOTA: (429, "upstream_rate_limited", "The provider's rate limit is reached."),
    Fault.TIMEOUT: (504, "upstream_timeout", "The provider did not answer in time."),
    Fault.OUTAGE: (502, "upstream_error", "The provider failed to answer."),
    Fault.NETWORK: (502, "upstream_unreachable", "The provider could not be reached."),
    Fault.DNS: (502, "upstream_unreachable", "The provider could not be reached."),
    Fault.TLS: (502, "upstream_unreachable", "The provider could not be reached."),
    Fault.MALFORMED: (502, "upstream_malformed", "The provider's answer could not be understood."),
}


def error_of(failure: Failure) -> ApiError:
    """The error for the caller. Our own retries are spent by then, so that it should not try again at once."""
    status, code, message = _CALLER_IS_TOLD[failure.fault]
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if failure.fault is Fault.OUTAGE and failure.status is not None:
        status = failure.status
    if failure.retry_after is not None and failure.fault is not Fault.AUTH:
        headers = ((b"retry-after", b"%d" % math.ceil(failure.retry_after)),)
    if failure.fault in (Fault.OUTAGE, Fault.QUOTA) and not failure.spent:
        said = error_object(failure.body).get("message")
        message = said if isinstance(said, str) and said else message
    kind = "rate_limit_error" if failure.fault is Fault.QUOTA else "upstream_error"
    return ApiError(status, message, type=kind, code=code, retryable=False, headers=headers)


def not_served(model: str) -> ApiError:
    """The error for a model that no provider serves, in this operation at least."""
    return ApiError(
        404,
        f"The model {model[:100]!r} is served by no provider.",
        code="model_not_found",
        param="model",
        retryable=False,
    )
