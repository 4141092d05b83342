"""PURE: one provider's health as `GET /health/providers` shows it and the watchdog reads it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from proxy.providers.figures import HEALTH_WINDOW_SECONDS, together
from proxy.providers.record import ProviderView
from proxy.routing.breaker import Circuit, State

DEGRADED_ERROR_RATE = 0.05
_RANK = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}


def provider_health(view: ProviderView, keys: list[dict[str, Any]], now: float, wall: float) -> dict[str, Any]:
    """`now` is monotonic, `wall` the same moment in epoch seconds. `error_rate` is over the last minute.

    `models` is there when the circuits of its models differ.
    """
    figures = together(view.figures.values())
    requests, errors = figures.window(now, HEALTH_WINDOW_SECONDS)
    error_rate = errors / requests if requests else 0.0
    circuit = overall(view, now)
    used = in_use(view, now)
    states = {label: max(view.whole.state, view.circuits[label].state, key=_RANK.__getitem__) for label in used}
    health = {
        "status": _status(circuit, error_rate),
        "latency_ms": None if figures.latency_ms is None else round(figures.latency_ms, 2),
        "error_rate": round(error_rate, 4),
        "rate_limit_remaining": figures.rate_limit_remaining,
        "circuit": circuit.state,
        "forced": circuit.forced,
        "fault": circuit.fault,
        "last_error": figures.last_error,
        "last_error_at": figures.last_error_at,
        "last_success_at": figures.last_success_at,
        "retry_at": round(wall + max(0.0, circuit.until - now), 3) if circuit.state is State.OPEN else None,
        "requests": figures.requests,
        "errors": figures.errors,
        "keys": keys,
    }
    return health | {"models": states} if len(set(states.values())) > 1 else health


def in_use(view: ProviderView, now: float) -> list[str]:
    """Labels of the models that had requests in the last minute, or of which a failure is remembered. The others say
    nothing of the provider: nobody has asked."""
    return [
        label
        for label, circuit in view.circuits.items()
        if circuit.fault is not None
        or circuit.state is not State.CLOSED
        or view.figures[label].window(now, HEALTH_WINDOW_SECONDS)[0]
    ]


def overall(view: ProviderView, now: float) -> Circuit:
    """The provider's circuit as one: its own where that is not closed, else the best of the models in use; with the
    newest fault of any of them."""
    circuits = [view.circuits[label] for label in in_use(view, now)]
    faulty = [circuit for circuit in (view.whole, *circuits) if circuit.fault is not None]
    fault = max(faulty, key=lambda circuit: circuit.failed_at).fault if faulty else None
    if view.whole.state is not State.CLOSED or not circuits:
        return replace(view.whole, fault=fault)
    best = min(circuits, key=lambda circuit: (_RANK[circuit.state], circuit.until))
    return replace(best, fault=fault, forced=all(circuit.forced for circuit in circuits))


def _status(circuit: Circuit, error_rate: float) -> str:
    if circuit.state is State.OPEN:
        return "unhealthy"
    if circuit.state is State.HALF_OPEN or circuit.fault is not None or error_rate >= DEGRADED_ERROR_RATE:
        return "degraded"
    return "healthy"
