"""The demo upstream as a process."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def request_body() -> dict[str, Any]:
    return {"model": "demo-small", "messages": [{"role": "user", "content": "one two"}]}


def test_demo_names_itself_and_echoes(alpha: Any, request_body: dict[str, Any]) -> None:
    """The answer is the same each time, names the upstream and echoes the last user message."""
    first, second = (alpha.client.post("/v1/chat/completions", json=request_body).json() for _ in range(2))
    assert first["choices"] == second["choices"]
    assert first["choices"][0]["message"]["content"] == "alpha heard: one two"
    assert (first["system_fingerprint"], first["usage"]["completion_tokens"]) == ("alpha", 4)


def test_demo_behaves_for_so_many_requests(alpha: Any, request_body: dict[str, Any]) -> None:
    """A behaviour for two requests is over after two, and statuses are counted."""
    before = alpha.seen()["by_status"].get("500", 0)
    alpha.behave("500", for_requests=2)
    statuses = [alpha.client.post("/v1/chat/completions", json=request_body).status_code for _ in range(3)]
    assert statuses == [500, 500, 200]
    assert alpha.seen()["by_status"]["500"] == before + 2


def test_demo_says_when_to_come_back(alpha: Any, request_body: dict[str, Any]) -> None:
    """A rate limit carries the Retry-After that was asked for."""
    alpha.behave("429", retry_after=2.5)
    answer = alpha.client.post("/v1/chat/completions", json=request_body)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2.5")


def test_demo_lists_its_models(alpha: Any) -> None:
    """The models listing is OpenAI's, and follows the behaviour."""
    assert [model["id"] for model in alpha.client.get("/v1/models").json()["data"]] == ["demo-small", "demo-large"]
    alpha.behave("503")
    assert alpha.client.get("/v1/models").status_code == 503


def test_demo_refuses_a_bad_behaviour(alpha: Any) -> None:
    """A wrong behaviour is a 400 that names the key and changes nothing."""
    answer = alpha.client.post("/_demo/behaviour", json={"mode": "sad"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("mode: expected one of ok, ")
    assert alpha.seen()["mode"] == "ok"


def test_demo_ends_on_sigterm_with_streams_open(make_demo: Any, request_body: dict[str, Any]) -> None:
    """SIGTERM ends it cleanly within seconds, even with a stalled stream open."""
    demo = make_demo("gamma")
    demo.behave("stall", after_chunks=1)
    with demo.client.stream("POST", "/v1/chat/completions", json={**request_body, "stream": True}) as answer:
        next(answer.iter_raw())
        demo.process.terminate()
        assert demo.process.wait(5) == 0
