"""`http`: one HTTP request, and whether its answer is the expected one.

Gives `probe_http_status_code`, `probe_http_content_length` (bytes that were read) and
`probe_http_duration_seconds{phase}` (connect, tls, processing, transfer). Each request has a connection of its own, so
that it also proves that connections are accepted. Fails when no answer comes (dns, refused, timeout, tls, network,
protocol, too_large) and, with these samples, when status or body are not as expected. TLS is verified and redirects
are not followed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from watchdog.core.model import Measurement, Sample, labels_of
from watchdog.probes import MeasurementError, ProbeContext, ProbeSettings, probes

_SEARCHED_CHARACTERS = 256 * 1024
_CLASS = re.compile(r"([1-5])xx")
_RANGE = re.compile(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?")


def _status_range(value: object) -> tuple[int, int]:
    if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(end, int) for end in value):
        return (value[0], value[1])
    text = str(value)
    if match := _CLASS.fullmatch(text):
        return (int(match[1]) * 100, int(match[1]) * 100 + 99)
    if (match := _RANGE.fullmatch(text)) and int(match[2] or match[1]) >= int(match[1]):
        return (int(match[1]), int(match[2] or match[1]))
    raise ValueError(f"expected a status such as 200, 2xx or 200-299, not {value!r}")


def _compilable(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return pattern


def _http_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"expected a URL such as http://127.0.0.1:8000/health, not {url!r}")
    return url


StatusRange = Annotated[tuple[int, int], BeforeValidator(_status_range)]
Pattern = Annotated[str, AfterValidator(_compilable)]
Url = Annotated[str, AfterValidator(_http_url)]


class HttpProbeSettings(ProbeSettings):
    """Patterns are searched in the first 256 Ki characters of the body."""

    kind: Literal["http"]
    url: Url
    method: Literal["GET", "HEAD", "POST", "OPTIONS"] = "GET"
    headers: dict[str, str] = Field(default_factory=dict)
    expected_status: tuple[StatusRange, ...] = ((200, 299),)
    """`200`, `2xx` or `200-299`; any of them will do."""
    body_contains: str | None = None
    body_matches: Pattern | None = None
    verify_tls: bool = True
    unix_socket: Path | None = None
    """Connected to instead of the URL's host."""


@probes.register(HttpProbeSettings)
class HttpProbe:
    """See the module."""

    def __init__(self, settings: HttpProbeSettings, context: ProbeContext) -> None:
        self._settings = settings
        self._http = context.http

    async def measure(self) -> Measurement:
        settings = self._settings
        response = await self._http.request(
            settings.method,
            settings.url,
            headers=settings.headers,
            timeout=settings.timeout,
            verify=settings.verify_tls,
            unix_socket=settings.unix_socket,
            keep=False,
        )
        samples = (
            Sample("probe_http_status_code", response.status_code),
            Sample("probe_http_content_length", len(response.content)),
            *(
                Sample("probe_http_duration_seconds", seconds, labels_of(phase=phase))
                for phase, seconds in response.phases.items()
            ),
        )
        problem = _problem(settings, response.status_code, response.text)
        if problem:
            raise MeasurementError(f"{settings.method} {settings.url}: {problem}", samples)
        return Measurement(samples, f"{response.status_code} in {response.seconds * 1000:.0f} ms")


def _problem(settings: HttpProbeSettings, status: int, text: str) -> str:
    if not any(low <= status <= high for low, high in settings.expected_status):
        expected = ", ".join(f"{low}-{high}" if low != high else str(low) for low, high in settings.expected_status)
        return f"status {status}, expected {expected}"
    searched = text[:_SEARCHED_CHARACTERS]
    if settings.body_contains is not None and settings.body_contains not in searched:
        return f"the body does not contain {settings.body_contains!r}"
    if settings.body_matches is not None and not re.search(settings.body_matches, searched):
        return f"the body does not match {settings.body_matches!r}"
    return ""
