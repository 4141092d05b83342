"""Bodies of every shape before a real gateway."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.call import Operation
from proxy.clock import SystemClock
from proxy.errors import ApiError
from proxy.gateway import Gateway
from proxy.metrics import Metrics
from proxy.settings import Settings

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_REQUEST = st.fixed_dictionaries(
    {},
    optional={
        "model": _JSON,
        "messages": _JSON | st.lists(st.fixed_dictionaries({"role": _JSON, "content": _JSON}), max_size=2),
        "stream": _JSON,
        "stream_options": _JSON,
        "n": _JSON,
        "temperature": _JSON,
    },
)


def _dump(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:
        return repr(value).encode("utf-8", "surrogatepass")


def test_any_body_gets_an_answer_or_a_400(alpha: Any, tmp_path: Path) -> None:
    """Whatever the body, however deep, the caller gets an answer or an envelope with a 4xx, never a crash."""
    with asyncio.Runner() as runner:

        async def start() -> Gateway:
            gateway = Gateway(
                Settings.model_validate(
                    {
                        "state_dir": tmp_path / "state",
                        "providers": [{"name": "alpha", "kind": "local", "port": alpha.port}],
                    }
                ),
                Metrics(tmp_path / "metrics", "fuzz"),
                SystemClock(),
            )
            await gateway.start()
            return gateway

        gateway = runner.run(start())

        async def send(body: bytes) -> int:
            try:
                reply = await gateway.answer(Operation.CHAT, body, {}, "me", "r")
            except ApiError as error:
                envelope = orjson.loads(error.body())
                return error.status if envelope["error"]["message"] else 0
            if not isinstance(reply.body, bytes):
                async for _ in reply.body:
                    pass
                await reply.body.aclose()  # type: ignore[attr-defined]
            return reply.status

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.binary(max_size=40) | _JSON.map(_dump) | _REQUEST.map(_dump))
        def fuzz(body: bytes) -> None:
            assert runner.run(send(body)) in (200, 400)

        deep = b"[" * 250 + b"]" * 250
        try:
            fuzz()
            assert (
                runner.run(send(b'{"model":"m","messages":[{"role":"user","content":"hi"}],"x":' + deep + b"}")) == 400
            )
            assert gateway.providers_health()["alpha"]["errors"] == 0
        finally:
            runner.run(gateway.close())
