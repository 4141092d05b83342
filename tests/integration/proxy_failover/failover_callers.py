"""Callers of a gateway before scripted providers, and what they got."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from scripted_upstream import ScriptedUpstream

from proxy.call import Account, Operation
from proxy.errors import ApiError
from proxy.gateway import Gateway


def provider(upstream: ScriptedUpstream, **fields: Any) -> dict[str, Any]:
    """A provider's section for a scripted one."""
    return {"name": upstream.name, "kind": "openai", "base_url": upstream.base_url, **fields}


@dataclass
class Heard:
    """What a caller got."""

    status: int
    body: bytes
    account: Account
    provider: str | None
    retryable: bool | None = None
    headers: dict[bytes, bytes] | None = None

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.body.rsplit(b"data: ", 1)[-1])["error"]
        return found

    @property
    def text(self) -> str:
        """Of a whole answer or a stream."""
        if not self.body.startswith(b"data: "):
            content: str = orjson.loads(self.body)["choices"][0]["message"]["content"]
            return content
        chunks = [orjson.loads(line[6:]) for line in self.body.splitlines() if line.startswith(b"data: {")]
        deltas = [choice["delta"] for chunk in chunks for choice in chunk.get("choices", ())]
        return "".join(delta.get("content") or "" for delta in deltas)

    @property
    def done(self) -> bool:
        return self.body.endswith(b"data: [DONE]\n\n")


async def ask(gateway: Gateway, operation: Operation = Operation.CHAT, **fields: Any) -> Heard:
    """Sends one request, as the shell does, and reads all of the answer."""
    asked = {"model": "m", "messages": [{"role": "user", "content": "hello"}], **fields}
    account = Account(operation, "", stream=False)
    try:
        reply = await gateway.answer(operation, orjson.dumps(asked), {}, "me", "req-1", account)
    except ApiError as error:
        return Heard(error.status, error.body(), account, None, error.retryable, dict(error.headers))
    body = reply.body
    if not isinstance(body, bytes):
        received = b""
        try:
            async for part in body:
                received += part
        finally:
            await body.aclose()  # type: ignore[attr-defined]
        body = received
    provider = dict(reply.headers).get(b"x-provider", b"").decode()
    return Heard(reply.status, body, account, provider, headers=dict(reply.headers))


async def until(condition: Callable[[], object], seconds: float = 45.0) -> None:
    """Polls until a condition holds; fails after a deadline."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "the condition never held"
        await asyncio.sleep(0.02)
