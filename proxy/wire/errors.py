"""What can go wrong between a request and the end of its answer. Statuses are not judged here."""

from __future__ import annotations

from proxy.errors import ProxyError
from proxy.routing.outcome import Fault


class UpstreamError(ProxyError):
    """No usable answer came; `fault` says at which stage."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


class ClosedEarlyError(UpstreamError):
    """The connection ended before the first byte of an answer."""

    def __init__(self, message: str) -> None:
        super().__init__(Fault.NETWORK, message)
