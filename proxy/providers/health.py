"""PURE: one provider's health as `GET /health/providers` shows it and the watchdog reads it."""

from __future__ import annotations

from typing import Any

from proxy.providers.endpoint import Endpoint
from proxy.providers.record import HEALTH_WINDOW_SECONDS, Figures
from proxy.routing.breaker import Circuit, State
from proxy.routing.outcome import Fault

DEGRADED_ERROR_RATE = 0.05


def provider_health(endpoint: Endpoint, circuit: Circuit, figures: Figures, now: float, wall: float) -> dict[str, Any]:
    """`now` is monotonic, `wall` the same moment in epoch seconds. `error_rate` is over the last minute."""
    requests, errors = figures.window(now, HEALTH_WINDOW_SECONDS)
    error_rate = errors / requests if requests else 0.0
    waits = circuit.state is State.OPEN
    return {
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
        "retry_at": round(wall + max(0.0, circuit.until - now), 3) if waits else None,
        "requests": figures.requests,
        "errors": figures.errors,
        "keys": [] if endpoint.key_id is None else [{"id": endpoint.key_id, "state": _key_state(circuit)}],
    }


def _status(circuit: Circuit, error_rate: float) -> str:
    if circuit.state is State.OPEN:
        return "unhealthy"
    if circuit.state is State.HALF_OPEN or circuit.fault is not None or error_rate >= DEGRADED_ERROR_RATE:
        return "degraded"
    return "healthy"


def _key_state(circuit: Circuit) -> str:
    if circuit.fault is Fault.AUTH:
        return "dead"
    return "cooldown" if circuit.fault is Fault.QUOTA and circuit.state is State.OPEN else "active"
