"""A whole service keeps its books: what was asked is in the ledger, the metrics and the log, whatever befalls it."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import plain_http
from load_on_service import CHAT, Load, asked, load, rows, samples
from postgres_server import PostgresServer
from proxy_service import Service


def test_each_request_leaves_its_row_its_figures_and_its_line(books_service: Service) -> None:
    """Answers, a stream, a hit and refusals are written down with what is known of each; strangers are not."""
    service = books_service
    service.settings["auth"]["anonymous_loopback"] = "none"
    service.settings["log"]["level"] = "info"
    service.start()
    url, key = service.url(CHAT), service.admin
    plain = [{"x-request-id": name} | key for name in ("whole", "stream", "hit", "unknown", "torn")]
    assert plain_http.post(url, json=asked("one"), headers=plain[0]).status_code == 200
    with plain_http.stream("POST", url, json=asked("two", stream=True), headers=plain[1]) as streamed:
        assert streamed.read().endswith(b"[DONE]\n\n")
    service.until(lambda: plain_http.post(url, json=asked("one"), headers=plain[2]).headers["x-cache"] == "hit")
    unknown = {"model": "no-such-model", "messages": []}
    refused = plain_http.post(url, json=unknown, headers=plain[3]).status_code
    assert plain_http.post(url, content=b"{", headers=plain[4]).status_code == 400
    assert plain_http.post(url, json=asked("three"), headers={"x-request-id": "stranger"}).status_code == 401
    found = service.until(lambda: len(known := rows(service)) == 5 and known)
    assert set(found) == {"whole", "stream", "hit", "unknown", "torn"}
    whole = found["whole"]
    assert (whole["caller"], whole["operation"], whole["model_asked"], whole["provider"]) == (
        "admin",
        "chat",
        "demo-small",
        "demo",
    )
    assert (whole["status"], whole["error"], whole["stream"], whole["cache"], whole["attempts"]) == (
        200,
        None,
        0,
        "miss",
        1,
    )
    assert whole["latency_ms"] > 0
    assert abs(whole["time"] - time.time()) < 60
    assert (found["stream"]["stream"], found["hit"]["cache"], found["hit"]["attempts"]) == (1, "hit", 0)
    assert (found["unknown"]["status"], found["unknown"]["model_asked"]) == (refused, "no-such-model")
    assert (found["torn"]["status"], found["torn"]["error"]) == (400, "invalid_json")
    duration = "gen_ai_client_operation_duration_seconds_count"
    assert samples(service, duration, 'gen_ai_request_model="demo-small"', 'error_type=""') == 2
    assert samples(service, duration, 'error_type="400"', 'gen_ai_request_model="other"') >= 1
    assert samples(service, duration, 'gen_ai_request_model="other"') == 2
    assert samples(service, duration) == 4
    told = service.until(lambda: (found := lines_told(service)).keys() >= {"whole", "stream"} and found)
    assert (told["whole"]["provider"], told["whole"]["cache"], told["whole"]["attempts"]) == ("demo", "miss", 1)


def lines_told(service: Service) -> dict[str, dict[str, Any]]:
    """The log's lines about requests, by request."""
    lines = (service.place / "log").read_text().splitlines()
    return {line["request_id"]: line for line in map(json.loads, lines) if line["message"] == "request"}


def test_no_figure_goes_back_and_none_is_lost_when_workers_die(books_service: Service) -> None:
    """Under load one worker is killed and all are recycled: counters only grow, and every answer that a caller got is
    counted once, in the metrics and in the ledger; but for the one that the killed worker may just have been sending.
    """
    service = books_service
    service.start()
    counted = [0.0]
    with load(service.url(CHAT)) as met:
        for step in range(12):
            if step == 3:
                os.kill(service.workers()[0]["pid"], signal.SIGKILL)
            if step == 6:
                assert service.ask("POST", "/recycle")[0] == 200
            time.sleep(0.1)
            counted.append(samples(service, "http_requests_total", CHAT, 'status="200"'))
    assert met.failed == []
    assert counted == sorted(counted)
    answered = len(met.answered)
    total = samples(service, "http_requests_total", CHAT, 'status="200"')
    assert answered - 1 <= total <= answered + met.broken
    known = service.until(lambda: len(set(met.answered) - set(found := rows(service))) <= 1 and found, 30)
    assert len(known) <= answered + met.broken
    observed = samples(service, "gen_ai_client_operation_duration_seconds_count")
    assert answered - 1 <= observed <= answered + met.broken


def outage(service: Service, postgres: PostgresServer, begin: Any, end: Any, seconds: float) -> tuple[Load, list[str]]:
    """Runs the load before, during and after an outage of the database; returns what was met, and the ids of rows."""
    postgres.query("DROP TABLE IF EXISTS llm_proxy_requests, llm_proxy_ledger")
    service.settings["ledger"] |= {"kind": "postgres", "dsn": postgres.dsn, "batch_rows": 50}
    service.start()
    with load(service.url(CHAT)) as met:
        time.sleep(1.0)
        marks = [time.monotonic()]
        begin()
        try:
            status = service.until(
                lambda: (found := plain_http.get(service.url("/health")).json())["reasons"] and found
            )
            assert status["status"] == "degraded"
            assert "ledger" in status["reasons"][0]
            assert plain_http.get(service.url("/health/ready")).status_code == 200
            time.sleep(seconds)
            marks.append(time.monotonic())
        finally:
            end()
        service.until(lambda: plain_http.get(service.url("/health")).json()["status"] == "healthy", 30)
    before, during = met.summary(0, marks[0]), met.summary(*marks)
    print(f"before: {before}; during the outage: {during}")
    assert met.failed == []
    assert met.broken == 0
    rough = met.latencies(*marks)
    assert rough[len(rough) // 2] < seconds / 2, "who waits for the database waits until it is back"
    sent = len(met.answered)
    statement = "SELECT request_id FROM llm_proxy_requests"
    service.until(lambda: len(postgres.query(statement) or ()) >= sent, 30)
    return met, postgres.query(statement) or []


def test_a_dead_postgres_costs_no_request_and_no_row(books_service: Service, postgres: PostgresServer) -> None:
    """PostgreSQL is killed under load and comes back: nobody notices, and then every request has its one row."""
    met, written = outage(books_service, postgres, postgres.stop, postgres.start, 2.0)
    assert sorted(written) == sorted(met.answered)


def test_a_hanging_postgres_costs_no_request_and_no_row(books_service: Service, postgres: PostgresServer) -> None:
    """PostgreSQL stops in the middle of everything, keeping its connections, and goes on later: the same."""

    def stop() -> None:
        postgres.signal_all(signal.SIGSTOP)

    def go_on() -> None:
        postgres.signal_all(signal.SIGCONT)

    met, written = outage(books_service, postgres, stop, go_on, 0.5)
    assert sorted(written) == sorted(met.answered)


def test_a_missing_extra_or_secret_is_told_with_its_place(books_service: Service, tmp_path: Path) -> None:
    """The configuration's judge names the line of a database that cannot be addressed."""
    books_service.settings["ledger"] |= {"kind": "postgres", "dsn_file": str(tmp_path / "nowhere")}
    books_service.write()
    books_service.spawn()
    told = books_service.hear("dsn_file")
    assert "c.yaml:" in told
    assert "does not exist" in told
