"""Health while everything else is down: liveness stays quick, readiness and health say what is wrong."""

from __future__ import annotations

import statistics
import time

import plain_http
from load_on_service import CHAT, asked
from proxy_service import Service, free_port


def test_a_process_is_alive_while_all_that_it_needs_is_down(books_service: Service) -> None:
    """Without provider, database and cache `/health/live` answers within 50 ms, `/health/ready` is 503 for want of a
    provider, and `/health` names what is not well."""
    service = books_service
    nowhere = f"127.0.0.1:{free_port()}"
    service.settings["providers"] = [{"name": "far", "kind": "openai", "base_url": f"http://{nowhere}/v1"}]
    service.settings["ledger"] |= {"kind": "postgres", "dsn": f"postgresql://someone@{nowhere}/none"}
    service.settings["retry"] = {"rounds": 0}
    service.settings["models"] = []
    service.start()
    store = service.place / "state" / "shared" / "data.mdb"
    store.write_bytes(b"no LMDB file" * 1000)
    http = plain_http.Client(base_url=service.url(""), timeout=20)
    for number in range(20):
        assert http.post(CHAT, json=asked(f"question {number}")).status_code in (502, 504)
    times = []
    for _ in range(21):
        began = time.monotonic()
        answer = http.get("/health/live")
        times.append(time.monotonic() - began)
        assert (answer.status_code, answer.json()) == (200, {"status": "alive"})
        assert float(answer.headers["x-response-time"]) < 50
    assert statistics.median(times) < 0.05
    ready = service.until(lambda: (found := http.get("/health/ready")).status_code == 503 and found)
    assert ready.json() == {"status": "not ready", "reason": "no usable provider"}
    told = service.until(lambda: len((found := http.get("/health").json())["reasons"]) >= 3 and found)
    assert told["status"] == "unhealthy"
    assert told["reasons"][0] == "no provider can be used"
    assert any("far" in reason for reason in told["reasons"])
    assert any("ledger" in reason for reason in told["reasons"])
    assert http.get("/health/detailed").json()["ledger"]["status"] == "degraded"
    http.close()


def test_figures_of_the_whole_service_are_one_document(books_service: Service) -> None:
    """`/metrics` as JSON has every figure that the guide and the watchdog read, over all workers."""
    service = books_service
    service.start()
    with plain_http.Client(base_url=service.url("")) as http:
        for number in range(10):
            assert http.post(CHAT, json=asked(f"question {number}")).status_code == 200
        found = http.get("/metrics/json").json()
    assert found["performance"]["avg_response_time_ms"] > 0
    assert set(found["performance"]["response_time_percentiles"]) == {"p50", "p95", "p99"}
    assert found["performance"]["queue_depth"] >= 0
    assert found["http"]["requests_by_status"]["200"] >= 10
    assert 0 <= found["http_client"]["pool_utilization"] <= 1
    assert found["cache"]["entries"] >= 1
    assert found["rate_limiting"]["providers"]["demo"]["remaining"] is None
    assert found["ledger"]["status"] == "healthy"
    assert found["workers"]["serving"] == 2
