"""A provider's figures and health, and what callers are told of its failures."""

from __future__ import annotations

import pytest

from proxy.providers.attempts import error_of
from proxy.providers.endpoint import Endpoint
from proxy.providers.health import provider_health
from proxy.providers.record import Figures
from proxy.routing.breaker import Circuit, State
from proxy.routing.outcome import Failure, Fault

ENDPOINT = Endpoint("a", "", "", (("authorization", "Bearer secret"),), (), (), "key-1")


def test_figures_window_counts_only_what_is_recent() -> None:
    """A window covers its own seconds, and what is older has been forgotten."""
    figures = Figures()
    figures.count(1000.0, error=True)
    figures.count(1040.0, error=False)
    assert figures.window(1042.0, 30.0) == (1, 0)
    assert figures.window(1042.0, 60.0) == (2, 1)
    figures.absorb(Figures(), 2000.0)
    assert figures.buckets == {}
    assert figures.requests == 2


def test_figures_of_two_workers_add_up() -> None:
    """Folding a worker's news adds counts and keeps the newest times."""
    shared, news = Figures(), Figures()
    shared.count(1000.0, error=False)
    news.count(1001.0, error=True)
    news.last_error_at, news.last_error = 5.0, "x"
    shared.absorb(news, 1002.0)
    assert (shared.requests, shared.errors, shared.last_error, shared.window(1002.0, 10.0)) == (2, 1, "x", (2, 1))


@pytest.mark.parametrize(
    ("circuit", "status", "key"),
    [
        (Circuit(), "healthy", "active"),
        (Circuit(fault=Fault.OUTAGE), "degraded", "active"),
        (Circuit(State.HALF_OPEN, fault=Fault.OUTAGE), "degraded", "active"),
        (Circuit(State.OPEN, fault=Fault.AUTH), "unhealthy", "dead"),
        (Circuit(State.OPEN, fault=Fault.QUOTA), "unhealthy", "cooldown"),
    ],
)
def test_provider_health(circuit: Circuit, status: str, key: str) -> None:
    """Status follows the circuit and the fault; the key is shown by its name and state only."""
    health = provider_health(ENDPOINT, circuit, Figures(), 1000.0, 5000.0)
    assert (health["status"], health["keys"]) == (status, [{"id": "key-1", "state": key}])
    assert "secret" not in repr(health) + repr(ENDPOINT)


def test_provider_health_tells_when_it_will_retry() -> None:
    """The end of a cooldown is shown in people's time."""
    health = provider_health(ENDPOINT, Circuit(State.OPEN, until=1007.5), Figures(), 1000.0, 5000.0)
    assert health["retry_at"] == 5007.5


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (Failure(Fault.AUTH, "401", 401), 502, "upstream_credentials_exhausted"),
        (Failure(Fault.QUOTA, "429", 429), 429, "upstream_rate_limited"),
        (Failure(Fault.OUTAGE, "503", 503), 503, "upstream_error"),
        (Failure(Fault.TIMEOUT, "slow"), 504, "upstream_timeout"),
        (Failure(Fault.DNS, "host"), 502, "upstream_unreachable"),
    ],
)
def test_callers_are_told(failure: Failure, status: int, code: str) -> None:
    """Each class has its status and code, is not to be retried, and hides where the provider is."""
    error = error_of(failure)
    assert (error.status, error.code, error.retryable) == (status, code, False)
    assert "host" not in error.message


def test_callers_are_told_the_providers_own_words_and_wait() -> None:
    """An outage's message and a quota's Retry-After are passed on."""
    body = b'{"error": {"message": "too many", "type": "requests"}}'
    error = error_of(Failure(Fault.QUOTA, "429: too many", 429, body, 1.2))
    assert error.message == "too many"
    assert error.headers == ((b"retry-after", b"2"),)
