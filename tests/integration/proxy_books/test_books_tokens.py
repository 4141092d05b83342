"""Tokens and cost, as the providers count them, come to the ledger and the metrics."""

from __future__ import annotations

import plain_http
import pytest
from load_on_service import CHAT, asked, rows, samples
from proxy_service import Service


def test_tokens_and_cost_are_written_down(books_service: Service) -> None:
    """What the provider counted stands in the ledger and the metrics, whole or streamed, with what it cost."""
    service = books_service
    service.start()
    url = service.url(CHAT)
    whole = plain_http.post(url, json=asked("one"), headers={"x-request-id": "whole"}).json()["usage"]
    with plain_http.stream("POST", url, json=asked("two", stream=True), headers={"x-request-id": "stream"}) as streamed:
        streamed.read()
    found = service.until(lambda: len(known := rows(service)) == 2 and known)
    row = found["whole"]
    assert (row["input_tokens"], row["output_tokens"]) == (whole["prompt_tokens"], whole["completion_tokens"])
    assert row["cost_usd"] == pytest.approx((row["input_tokens"] + 2.0 * row["output_tokens"]) / 1e6)
    assert found["stream"]["output_tokens"] > 0
    assert found["stream"]["first_content_ms"] > 0
    total = row["output_tokens"] + found["stream"]["output_tokens"]
    assert samples(service, "gen_ai_client_token_usage_sum", 'gen_ai_token_type="output"') == total
    assert samples(service, "gen_ai_server_time_to_first_token_seconds_count") == 1
    assert samples(service, "gen_ai_server_time_per_output_token_seconds_count") == 1
    cost = row["cost_usd"] + found["stream"]["cost_usd"]
    assert samples(service, "llm_proxy_cost_usd_total") == pytest.approx(cost)


def test_what_warming_asks_is_written_down(books_service: Service) -> None:
    """A popular request that the cache asks again by itself costs money, so it has a row too, under its own name."""
    service = books_service
    service.settings["cache"] = {"ttl": "2s", "warming": {"enabled": True, "interval": "1s"}}
    service.start()
    service.until((service.place / "state" / "ledger.sqlite").exists)

    def warmed() -> list[dict[str, object]]:
        plain_http.post(service.url(CHAT), json=asked("popular")).raise_for_status()
        return [row for row in rows(service).values() if row["caller"] == "warming"]

    row = service.until(warmed)[0]
    assert (row["status"], row["provider"] is not None) == (200, True)
    assert row["output_tokens"] > 0
