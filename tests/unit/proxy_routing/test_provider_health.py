"""A provider's figures and health, and what callers are told of its failures."""

from __future__ import annotations

import pytest

from proxy.providers.endpoint import ConfiguredKey
from proxy.providers.figures import Figures, together
from proxy.providers.health import provider_health
from proxy.providers.record import WHOLE, ProviderView, public_message
from proxy.providers.telling import error_of
from proxy.routing.breaker import Circuit, State
from proxy.routing.outcome import Failure, Fault

NOW = 1000.0
OPEN = Circuit(State.OPEN, until=1007.5, fault=Fault.OUTAGE, failed_at=990.0)


WELL = Circuit()


def view(whole: Circuit = WELL, **circuits: Circuit) -> ProviderView:
    return ProviderView(whole, circuits, {label: Figures() for label in (WHOLE, *circuits)})


def used(seen: ProviderView, *labels: str) -> ProviderView:
    for label in labels:
        seen.figures[label].count(NOW, error=False)
    return seen


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


def test_figures_of_two_models_make_the_providers() -> None:
    """Counts are summed; latency and remaining limit are those of the model that answered last."""
    one = Figures(requests=2, latency_ms=5.0, rate_limit_remaining=7, last_success_at=10.0)
    two = Figures(requests=3, errors=1, latency_ms=9.0, last_success_at=20.0, last_error_at=4.0, last_error="x")
    total = together([two, Figures(), one])
    assert (total.requests, total.errors, total.last_error, total.latency_ms) == (5, 1, "x", 9.0)


@pytest.mark.parametrize(
    ("circuit", "status"),
    [
        (Circuit(), "healthy"),
        (Circuit(fault=Fault.OUTAGE), "degraded"),
        (Circuit(State.HALF_OPEN, fault=Fault.OUTAGE), "degraded"),
        (Circuit(State.OPEN, fault=Fault.AUTH), "unhealthy"),
    ],
)
@pytest.mark.parametrize("whole", [True, False], ids=["provider", "model"])
def test_provider_health(circuit: Circuit, status: str, whole: bool) -> None:
    """Status follows the circuit and the fault, be they the provider's own or those of its only model in use."""
    seen = view(circuit, small=Circuit()) if whole else view(Circuit(), small=circuit, large=Circuit())
    health = provider_health(seen, [], NOW, 5000.0)
    assert (health["status"], health["circuit"], health["fault"]) == (status, circuit.state, circuit.fault)
    assert "models" not in health


def test_provider_is_usable_while_one_of_its_models_is() -> None:
    """With one model open and another one answering, the provider's circuit is closed, and both are shown."""
    health = provider_health(used(view(small=OPEN, large=Circuit()), "large"), [], NOW, 5000.0)
    assert (health["circuit"], health["status"], health["fault"]) == ("closed", "degraded", "outage")
    assert health["models"] == {"small": "open", "large": "closed"}


def test_provider_health_tells_when_it_will_retry() -> None:
    """The end of a cooldown is shown in people's time."""
    assert provider_health(view(small=OPEN), [], NOW, 5000.0)["retry_at"] == 5007.5


def test_keys_are_not_shown() -> None:
    """Neither a key's representation nor what is kept of its refusal has the key in it."""
    assert "secret" not in repr(ConfiguredKey("main", "secret"))
    refusal = Failure(Fault.AUTH, "401: Incorrect API key provided: secret", 401)
    assert public_message(refusal) == "401: the provider refused the key"


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


def test_callers_are_not_told_of_our_bills() -> None:
    """That our own account there has run dry is the operator's business."""
    body = b'{"error": {"message": "your account org-1 is out of credit", "code": "insufficient_quota"}}'
    assert "org-1" not in error_of(Failure(Fault.QUOTA, "429", 429, body, spent=True)).message


def test_a_forced_circuit_does_not_hide_that_the_provider_fails() -> None:
    """An operator who takes traffic off ends no failure: the newest fault of any model is still told."""
    forced = Circuit(State.OPEN, until=1015.0, forced=True)
    seen = provider_health(view(forced, small=OPEN, large=WELL), [], NOW, 0.0)
    assert (seen["circuit"], seen["forced"], seen["fault"]) == (State.OPEN, True, Fault.OUTAGE)
    assert provider_health(view(forced), [], NOW, 0.0)["fault"] is None
