"""PURE: takes our own secrets out of what a provider says. Some repeat the key or the header that they complain of, and
their words go to callers, logs and health pages."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.providers.endpoint import Endpoint

_SHORTEST_HEADER = 12
"""Shorter values of configured headers are versions and names, not secrets."""
_HIDDEN = "[hidden]"


class Redaction:
    """The secrets of one kind of request to one provider."""

    __slots__ = ("_secrets",)

    def __init__(self, endpoint: Endpoint, key: str | None) -> None:
        found = [value for _, value in endpoint.headers if len(value) >= _SHORTEST_HEADER]
        found += [value.rpartition(" ")[2] for value in found if len(value.rpartition(" ")[2]) >= _SHORTEST_HEADER]
        self._secrets = sorted({*found, *([key] if key else [])}, key=len, reverse=True)

    def text(self, said: str) -> str:
        """The same without secrets."""
        for secret in self._secrets:
            said = said.replace(secret, _HIDDEN)
        return said

    def body(self, said: bytes) -> bytes:
        """Likewise."""
        for secret in self._secrets:
            said = said.replace(secret.encode(), _HIDDEN.encode())
        return said

    def headers(self, said: Mapping[str, str]) -> Mapping[str, str]:
        """Likewise: where a redirect leads is told to operators."""
        return {**said, "location": self.text(said["location"])} if "location" in said else said
