"""How an llm-proxy is asked: over its Unix sockets and its public port, with the admin key where one is taken."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import ConfigDict, ValidationError

from watchdog.errors import ActionError, ProbeError
from watchdog.system.http import HttpClient, HttpError, HttpResponse
from watchdog.system.proxy_api.answers import Answer

A = TypeVar("A", bound=Answer)


@dataclass(frozen=True)
class ProxyEndpoint:
    """Where one llm-proxy answers. `url` is its public base, `admin_key_file` is read anew for each admin call."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    url: str
    master_socket: Path
    admin_key_file: Path | None = None


class Caller:
    """Questions raise ProbeError, effects raise ActionError; both say what was asked and where."""

    def __init__(self, endpoint: ProxyEndpoint, http: HttpClient) -> None:
        self.endpoint = endpoint
        self._http = http

    @property
    def _base(self) -> str:
        return self.endpoint.url.rstrip("/")

    async def _ask(self, socket: Path, method: str, target: str, model: type[A], timeout: float) -> A:
        status, content = await self._http.unix.request(socket, method, target, timeout=timeout)
        if status != 200:
            raise ProbeError(f"{socket}: {method} {target} answered {status}: {content.get('error', '')}")
        return parse(model, content, f"{socket}: {method} {target}")

    async def _act(
        self, target: str, body: Mapping[str, object] | None, timeout: float, socket: Path | None = None
    ) -> tuple[int, dict[str, Any]]:
        try:
            return await self._http.unix.request(
                socket or self.endpoint.master_socket, "POST", target, json=body, timeout=timeout
            )
        except HttpError as error:
            raise ActionError(str(error)) from error

    def _require_ok(self, status: int, content: Mapping[str, Any], what: str) -> None:
        if not 200 <= status < 300:
            raise ActionError(f"{what} answered {status}: {content.get('error', '')}", permanent=status in (400, 404))

    async def _administer(
        self, method: str, path: str, body: Mapping[str, object] | None, timeout: float
    ) -> dict[str, Any]:
        url = self._base + path
        headers = {"authorization": f"Bearer {await asyncio.to_thread(self._admin_key)}"}
        try:
            response = await self._http.request(method, url, headers=headers, json=body, timeout=timeout)
            if 200 <= response.status_code < 300:
                return object_of(response, url)
        except ProbeError as error:
            raise ActionError(str(error)) from error
        refused = 400 <= response.status_code < 500 and response.status_code != 429
        raise ActionError(f"{method} {url} answered {response.status_code}: {response.text[:200]}", permanent=refused)

    def _admin_key(self) -> str:
        file = self.endpoint.admin_key_file
        if file is None:
            raise ActionError(f"{self.endpoint.url}: no admin_key_file is configured for this proxy", permanent=True)
        try:
            key = file.read_text().strip()
        except OSError as error:
            raise ActionError(f"{file}: the admin key cannot be read: {error.strerror}") from None
        if not key:
            raise ActionError(f"{file}: the admin key file is empty")
        return key


def object_of(response: HttpResponse, what: str) -> dict[str, Any]:
    """The JSON object in a good answer. ProbeError for anything else, with `what` was asked."""
    if not 200 <= response.status_code < 300:
        raise ProbeError(f"{what} answered {response.status_code}")
    content = response.json()
    if not isinstance(content, dict):
        raise ProbeError(f"{what}: the answer is not a JSON object")
    return content


def loads(line: str, what: str) -> dict[str, Any]:
    """The JSON object in a line. ProbeError, with `what` was asked."""
    try:
        content = json.loads(line)
    except ValueError as error:
        raise ProbeError(f"{what}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ProbeError(f"{what}: not a JSON object")
    return content


def parse(model: type[A], content: Any, what: str, error_type: type[ProbeError | ActionError] = ProbeError) -> A:
    """What was answered, as the model has it. `error_type` says where it differs."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise error_type(f"{what}: unexpected answer: {place}: {first['msg']}") from None
