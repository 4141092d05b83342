"""Limits as callers and providers meet them: what is refused, what the answers tell, what workers share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy import metrics
from proxy.clock import FakeClock
from proxy.errors import ApiError
from proxy.limits.admission import Limits, span
from proxy.settings import Settings

SHA = "a" * 64


class World:
    """Workers of one service, on one clock."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.clock = FakeClock()
        self.opened: list[Limits | metrics.Metrics] = []

    def worker(self, key: dict[str, Any] | None = None, **more: Any) -> Limits:
        document = {
            "run_dir": str(self.place / "run"),
            "auth": {"keys": [{"id": "k", "sha256": SHA, "limit": key}, {"id": "other", "sha256": "b" * 64}]},
            "providers": [{"name": "p", "kind": "local", "port": 1}],
        }
        measured = metrics.Metrics(self.place / "metrics", f"w{len(self.opened)}")
        limits = Limits(Settings.model_validate(document | more), measured, self.clock)
        self.opened += [limits, measured]
        return limits

    def close(self) -> None:
        for one in self.opened:
            one.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def refusal(limits: Limits, caller: str = "k") -> ApiError:
    with pytest.raises(ApiError) as refused:
        limits.keys.admit(caller)
    return refused.value


def told(lines: bytes) -> dict[str, str]:
    return dict(line.split(": ") for line in lines.decode().splitlines())


def test_headers_tell_what_is_left(world: World) -> None:
    """Each answer tells limit, remaining and reset of requests and tokens, as OpenAI writes them."""
    limits = world.worker({"requests": 3, "tokens": 1000, "window": "6m"})
    assert told(limits.keys.admit("k")) == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "2",
        "x-ratelimit-reset-requests": "6m1s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "1000",
        "x-ratelimit-reset-tokens": "0s",
    }
    limits.charge("k", 300)
    world.clock.advance(60)
    later = told(limits.keys.admit("k"))
    assert later["x-ratelimit-remaining-requests"] == "1"
    assert (later["x-ratelimit-remaining-tokens"], later["x-ratelimit-reset-tokens"]) == ("700", "5m1s")
    assert limits.keys.admit("other") == b""


def test_a_request_too_many_is_refused_in_openais_words(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Beyond the limit the answer is 429 `rate_limit_exceeded` with the wait, which is enough; it is counted, and told
    in the security log once a window."""
    limits = world.worker({"requests": 2, "window": "10s"})
    limits.keys.admit("k")
    limits.keys.admit("k")
    errors = [refusal(limits) for _ in range(5)]
    headers = dict(errors[0].headers)
    assert (errors[0].status, errors[0].code, errors[0].type) == (429, "rate_limit_exceeded", "requests")
    assert headers[b"x-ratelimit-remaining-requests"] == b"0"
    assert headers[b"retry-after"] in (b"10", b"11")
    assert [(vars(record)["event"], vars(record)["key_id"]) for record in caplog.records] == [("rate_limited", "k")]
    family = metrics.read(world.place / "metrics")["rate_limited_total"]
    assert {values: cells[0] for values, cells in family.series.items()} == {("requests",): 5.0}
    world.clock.advance(int(headers[b"retry-after-ms"]) / 1000)
    limits.keys.admit("k")


def test_tokens_are_charged_at_the_end_and_refuse_the_next(world: World) -> None:
    """An answer may overshoot the tokens; then nothing is let in until they have left the window, at no worker."""
    first = world.worker({"tokens": 100, "requests": 50})
    second = world.worker({"tokens": 100, "requests": 50})
    first.keys.admit("k")
    second.keys.admit("k")
    first.charge("k", 250)
    world.clock.advance(1)
    for limits in (first, second):
        error = refusal(limits)
        assert error.type == "tokens"
        assert dict(error.headers)[b"x-ratelimit-remaining-requests"] == b"48"
    world.clock.advance(60)
    assert told(second.keys.admit("k"))["x-ratelimit-remaining-tokens"] == "100"


def test_workers_share_a_limit_also_with_one_that_came_later(world: World) -> None:
    """However requests fall on workers, old and new, no more than the limit pass."""
    key = {"requests": 10, "window": "1m"}
    first, second = world.worker(key), world.worker(key)
    for limits in (first, second, first, first, second):
        limits.keys.admit("k")
    third = world.worker(key)
    assert told(third.keys.admit("k"))["x-ratelimit-remaining-requests"] == "4"
    for limits in (third, first, second, second):
        limits.keys.admit("k")
    assert {refusal(limits).status for limits in (first, second, third)} == {429}


def test_a_restart_forgets_nothing(world: World) -> None:
    """Who has used up the limit has used it up after all workers were replaced, too."""
    key = {"requests": 3}
    first = world.worker(key)
    for _ in range(3):
        first.keys.admit("k")
    first.close()
    world.opened.remove(first)
    world.clock.advance(30)
    again = world.worker(key)
    assert refusal(again).status == 429
    world.clock.advance(31)
    again.keys.admit("k")


def test_a_changed_window_counts_by_itself_and_a_changed_limit_goes_on(world: World) -> None:
    """After a reload with another number what was counted counts on; with another window it begins anew."""
    first = world.worker({"requests": 5})
    for _ in range(4):
        first.keys.admit("k")
    assert told(world.worker({"requests": 10}).keys.admit("k"))["x-ratelimit-remaining-requests"] == "5"
    assert told(world.worker({"requests": 5, "window": "2m"}).keys.admit("k"))["x-ratelimit-remaining-requests"] == "4"


def test_callers_without_a_key_share_one_limit(world: World) -> None:
    """`limits.per_key` holds for each key without a limit of its own, and for all anonymous callers together."""
    limits = world.worker({"requests": 5}, limits={"per_key": {"requests": 1}})
    limits.keys.admit("anonymous")
    assert refusal(limits, "anonymous").status == 429
    limits.keys.admit("other")
    assert refusal(limits, "other").status == 429
    assert told(limits.keys.admit("k"))["x-ratelimit-remaining-requests"] == "4"


def test_a_provider_is_sent_no_more_than_its_limit(world: World) -> None:
    """`allows` counts and says no beyond the limit, at all workers, and `wait` says until when; another is free."""
    providers = [
        {"name": "p", "kind": "local", "port": 1, "limit": {"requests": 2, "tokens": 100, "window": "10s"}},
        {"name": "q", "kind": "local", "port": 2},
    ]
    first, second = world.worker(providers=providers), world.worker(providers=providers)
    assert first.providers.allows("p")
    assert second.providers.allows("p", world.clock.monotonic())
    assert first.providers.wait("p") > 0
    assert not first.providers.allows("p")
    assert all(first.providers.allows("q") for _ in range(100))
    world.clock.advance(first.providers.wait("p") + 0.001)
    assert first.providers.wait("p") == 0
    assert second.providers.allows("p")
    first.charge("k", 100, "p")
    world.clock.advance(0.01)
    assert not second.providers.allows("p")
    assert second.providers.wait("p") == pytest.approx(10.0, abs=0.1)


def test_without_limits_there_is_no_file(world: World) -> None:
    """A service without limits has no counters, and lets everything through without a header."""
    limits = world.worker()
    assert limits.keys.admit("k") == b""
    assert limits.providers.allows("p")
    limits.charge("k", 5, "p")
    assert not (world.place / "run").exists()


def test_open_streams_are_counted_by_key(world: World) -> None:
    """A key's third stream is refused while two are open, another key's is not; what never entered cannot leave."""
    streams = world.worker(limits={"max_streams_per_key": 2}).streams
    one, two, three = object(), object(), object()
    streams.enter("k", one)
    streams.enter("k", two)
    with pytest.raises(ApiError) as refused:
        streams.enter("k", three)
    assert (refused.value.status, refused.value.type) == (429, "streams")
    streams.leave(three)
    streams.enter("other", three)
    streams.leave(one)
    streams.leave(one)
    streams.enter("k", one)
    with pytest.raises(ApiError):
        streams.enter("k", object())


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, b"0s"), (1, b"1s"), (60, b"1m0s"), (360, b"6m0s"), (3661, b"1h1m1s")], ids=str
)
def test_spans_are_written_as_openai_does(seconds: int, text: bytes) -> None:
    """Seconds, minutes and hours, without leading zeros."""
    assert span(seconds) == text
