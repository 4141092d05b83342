"""What an operator holds back for a time, at a real service with two workers before two providers."""

from __future__ import annotations

import hashlib
import json
import secrets
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import plain_http
import pytest
from proxy_service import Service, free_port, make_service

KEYS = {name: secrets.token_urlsafe(24) for name in ("shop", "limited")}
QUESTION = {"model": "demo-small", "messages": [{"role": "user", "content": "hello"}]}


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[name]}"}


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="lp-") as name:
        made = make_service(Path(name))
        made.settings["providers"] = [
            {"name": provider, "kind": "local", "port": free_port()} for provider in ("first", "second")
        ]
        for key, secret in KEYS.items():
            made.settings["auth"]["keys"].append({"id": key, "sha256": hashlib.sha256(secret.encode()).hexdigest()})
        made.settings["auth"]["keys"][-1]["limit"] = {"requests": 1000, "window": "1h"}
        made.start()
        yield made
        made.end()


@pytest.fixture
def service(running: Service) -> Iterator[Service]:
    """With nothing held back, before and after."""
    yield running
    left = told(running)
    for one in left:
        if one["what"] == "key":
            admin(running, f"/api/keys/{one['subject']}", state="active")
        else:
            where = f"/api/providers/{one['subject']}/rate" if one["what"] == "rate" else f"/api/{one['what']}"
            admin(running, where, share=0.5, seconds=0)
    if left:
        known(running)


def admin(service: Service, path: str, **body: Any) -> httpx.Response:
    return plain_http.post(service.url(path), json=body, headers=service.admin)


def told(service: Service) -> list[dict[str, Any]]:
    answer = plain_http.get(service.url("/api/restraints"), headers=service.admin)
    listed: list[dict[str, Any]] = answer.json()["restraints"]
    return listed


def known(service: Service, *words: str) -> None:
    """Waits until each of both workers, asked over connections of its own, says that just this is held back."""

    def agree() -> bool:
        said: dict[int, list[str]] = {}
        for _ in range(60):
            told = plain_http.get(service.url("/health/detailed")).json()
            said[told["application"]["pid"]] = told["overall"]["restraints"]
            if len(said) == 2:
                return all(each == list(words) for each in said.values())
        return False

    service.until(agree)


def ask(service: Service, number: int, caller: str | None = None) -> list[httpx.Response]:
    """So many completions that no cache answers, over connections of their own, so that both workers get some."""
    headers = {"cache-control": "no-store", **(bearer(caller) if caller else {})}
    url = service.url("/v1/chat/completions")
    return [plain_http.post(url, json=QUESTION, headers=headers) for _ in range(number)]


def gauge(service: Service, what: str, subject: str = "") -> float:
    accept = {"accept": "text/plain;version=0.0.4"}
    for line in plain_http.get(service.url("/metrics"), headers=accept).text.splitlines():
        if line.startswith("restrained_ratio{") and f'what="{what}"' in line and f'subject="{subject}"' in line:
            return float(line.rpartition(" ")[2])
    return 0.0


def test_load_is_shed_evenly_and_ends_by_itself(service: Service) -> None:
    """Every second new request at each worker is a 503 `overloaded` with the time to come back; health and admin calls
    go on; when the time is over so is the shedding."""
    put = admin(service, "/api/load", share=0.5, seconds=60, reason="too hot")
    assert put.status_code == 200
    assert put.json() | {"since": 0, "until": 0, "seconds": 0} == {
        "what": "load", "subject": "", "share": 0.5, "since": 0, "until": 0, "seconds": 0, "reason": "too hot",
    }  # fmt: skip
    known(service, "50% of new requests are refused to shed load")
    with plain_http.Client() as client:
        url = service.url("/v1/chat/completions")
        statuses = [client.post(url, json=QUESTION) for _ in range(12)]
        assert [answer.status_code for answer in statuses][:2] in ([200, 503], [503, 200])
        assert all(one.status_code != two.status_code for one, two in pairwise(statuses))
        refused = next(answer for answer in statuses if answer.status_code == 503)
        assert refused.json()["error"]["code"] == "overloaded"
        assert 0 < int(refused.headers["retry-after"]) <= 60
        assert all(client.get(service.url("/health/live")).status_code == 200 for _ in range(5))
    assert gauge(service, "load") == 0.5
    began = time.monotonic()
    assert admin(service, "/api/load", share=0.5, seconds=2).status_code == 200
    service.until(lambda: not told(service))
    assert time.monotonic() - began >= 2
    assert {answer.status_code for answer in ask(service, 6)} == {200}


def test_a_stream_under_way_is_untouched_by_shedding(service: Service) -> None:
    """Who was let in before all load is shed gets every word."""
    body = {**QUESTION, "stream": True}
    with plain_http.stream("POST", service.url("/v1/chat/completions"), json=body) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        assert admin(service, "/api/load", share=1, seconds=60).status_code == 200
        assert [line for line in lines if line][-1] == "data: [DONE]"
    known(service, "100% of new requests are refused to shed load")
    assert {answer.status_code for answer in ask(service, 4)} == {503}


def test_a_lowered_rate_moves_traffic_and_refuses_nobody(service: Service) -> None:
    """A provider at a quarter gets every fourth request of a worker, the next one the others; at nothing it still
    answers where no other provider can."""
    assert admin(service, "/api/providers/first/rate", share=0.25, seconds=60).status_code == 200
    known(service, "provider first gets 25% of its traffic")
    with plain_http.Client(headers={"cache-control": "no-store"}) as client:
        url = service.url("/v1/chat/completions")
        served = [client.post(url, json=QUESTION).headers["x-provider"] for _ in range(12)]
    assert served.count("first") == 3
    assert all(served[at : at + 4].count("first") == 1 for at in range(9)), served
    assert gauge(service, "rate", "first") == 0.75
    for name in ("first", "second"):
        admin(service, f"/api/providers/{name}/rate", share=0, seconds=60)
    known(service, *(f"provider {name} gets 0% of its traffic" for name in ("first", "second")))
    answers = ask(service, 6)
    assert {(answer.status_code, answer.headers["x-provider"]) for answer in answers} == {(200, "first")}


def test_tightened_limits_hold_for_callers_and_for_guessing(service: Service) -> None:
    """A quarter of a key's requests is all that its headers tell of and all that it gets, at every worker; an address
    is held off after two failures instead of ten; afterwards all is as before."""
    assert ask(service, 1, "limited")[0].headers["x-ratelimit-limit-requests"] == "1000"
    assert admin(service, "/api/limits", share=0.25, seconds=60).status_code == 200
    known(service, "callers have 25% of their limits")
    assert {answer.headers["x-ratelimit-limit-requests"] for answer in ask(service, 6, "limited")} == {"250"}
    with plain_http.Client(headers={"authorization": "Bearer wrong"}) as client:
        assert [client.get(service.url("/v1/models")).status_code for _ in range(4)] == [401, 401, 429, 429]
    assert admin(service, "/api/limits", share=0.004, seconds=60).status_code == 200
    known(service, "callers have 0.4% of their limits")
    (refused,) = ask(service, 1, "limited")
    assert (refused.status_code, refused.headers["x-ratelimit-limit-requests"]) == (429, "4")
    admin(service, "/api/limits", share=0.5, seconds=0)
    known(service)
    assert {answer.status_code for answer in ask(service, 4, "limited")} == {200}


def test_a_suspended_key_is_refused_until_it_is_taken_back(service: Service) -> None:
    """The key's callers get 403 `key_suspended` at every worker, others are served; a worker that starts later knows of
    it; nobody else learns which key it is; taken back, it works."""
    suspended = admin(service, "/api/keys/shop", state="suspended", seconds=600, reason="abuse")
    assert suspended.json()["subject"] == "shop"
    known(service, "a key is suspended")
    assert service.ask("POST", "/workers/0/recycle")[0] == 200
    answers = ask(service, 8, "shop")
    assert {(a.status_code, a.json()["error"]["code"], a.headers["x-should-retry"]) for a in answers} == {
        (403, "key_suspended", "false")
    }
    assert {answer.status_code for answer in ask(service, 4)} == {200}
    security = plain_http.get(service.url("/metrics/security"), headers=service.admin).json()
    assert security["rate_limited"]["by_type"]["suspended"] == 8
    assert admin(service, "/api/keys/shop", state="active").status_code == 200
    known(service)
    assert {answer.status_code for answer in ask(service, 4, "shop")} == {200}


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/api/load", {"share": 0, "seconds": 5}, 400, "above 0 and at most 1"),
        ("/api/load", {"share": True}, 400, "above 0 and at most 1"),
        ("/api/load", {"share": 0.5, "seconds": 86_401}, 400, "seconds: expected a number from 0 to 86400"),
        ("/api/load", {"share": 0.5, "reason": 7}, 400, "reason: expected a string"),
        ("/api/limits", {"share": 1}, 400, "above 0 and below 1"),
        ("/api/providers/first/rate", {"share": 1}, 400, "from 0 and below 1"),
        ("/api/providers/third/rate", {"share": 0.5}, 404, "There is no provider 'third'"),
        ("/api/keys/nobody", {"state": "suspended"}, 404, "There is no key 'nobody'"),
        ("/api/keys/shop", {"state": "gone"}, 400, "expected suspended or active"),
        ("/api/keys/admin", {"state": "suspended"}, 400, "cannot suspend itself"),
    ],
    ids=["none", "no-number", "too-long", "no-reason", "all", "whole-rate", "provider", "key", "state", "itself"],
)
def test_what_cannot_be_meant_is_refused(
    service: Service, path: str, body: dict[str, Any], status: int, said: str
) -> None:
    """With what was expected; nothing is put in force. Without an admin key nothing is even read."""
    answer = admin(service, path, **body)
    assert (answer.status_code, said in answer.json()["error"]["message"]) == (status, True), answer.text
    assert told(service) == []
    assert plain_http.post(service.url(path), content=json.dumps(body), headers=bearer("shop")).status_code == 403
