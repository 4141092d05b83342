"""In which order the routes of a request are tried, by what is known of their circuits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar

from proxy.routing.breaker import Circuit, State, due

T = TypeVar("T")


class Standing(IntEnum):
    """What the circuits on a route allow; of two circuits the worse one counts."""

    CLOSED = 0
    SPARED = 1
    """Closed, but an operator would have this request go elsewhere."""
    TRIAL = 2
    """A trial is due, and must be claimed first."""
    OPEN = 3
    FORCED = 4
    """An operator has taken it out."""


def standing(circuit: Circuit, now: float) -> Standing:
    """Of one circuit."""
    if circuit.state is State.CLOSED:
        return Standing.CLOSED
    if due(circuit, now):
        return Standing.TRIAL
    return Standing.FORCED if circuit.forced else Standing.OPEN


@dataclass(frozen=True, slots=True)
class Order(Generic[T]):
    """`trials` need a claim first; `last_resort` is for when nothing else could be tried."""

    closed: tuple[T, ...]
    trials: tuple[T, ...]
    last_resort: tuple[T, ...]


def arrange(routes: Sequence[T], standing_of: Callable[[T], Standing]) -> Order[T]:
    """Closed circuits as they come, the spared ones behind them, then trials that are due; all of the others last of
    all.

    Failing open (the last resort) follows LiteLLM: an open circuit is an opinion, a refused request a certainty.
    Routes that an operator has taken out come last there.
    """
    standings = [standing_of(route) for route in routes]
    if not any(standings):
        return Order(tuple(routes), (), ())
    pairs = list(zip(routes, standings, strict=True))
    well = sorted((pair for pair in pairs if pair[1] <= Standing.SPARED), key=lambda pair: pair[1])
    others = sorted((pair for pair in pairs if pair[1] > Standing.SPARED), key=lambda pair: pair[1] is Standing.FORCED)
    return Order(
        tuple(route for route, _ in well),
        tuple(route for route, how in pairs if how is Standing.TRIAL),
        tuple(route for route, _ in others),
    )
