"""In which order the providers of a model are tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from proxy.routing.breaker import Circuit, State, due


@dataclass(frozen=True, slots=True)
class Plan:
    """Names of providers. `trials` need a claim first; `last_resort` is for when nothing else could be tried."""

    closed: tuple[str, ...]
    trials: tuple[str, ...]
    last_resort: tuple[str, ...]


def plan(names: Sequence[str], circuit_of: Callable[[str], Circuit], now: float) -> Plan:
    """Closed circuits in the configured order of `names`, then trials that are due; all of the others last of all.

    Failing open (the last resort) follows LiteLLM: an open circuit is an opinion, a refused request a certainty.
    Providers that an operator has taken out come last there.
    """
    circuits = [(name, circuit_of(name)) for name in names]
    closed = tuple(name for name, circuit in circuits if circuit.state is State.CLOSED)
    if len(closed) == len(circuits):
        return Plan(closed, (), ())
    others = [(name, circuit) for name, circuit in circuits if circuit.state is not State.CLOSED]
    trials = tuple(name for name, circuit in others if due(circuit, now))
    others.sort(key=lambda pair: pair[1].forced)
    return Plan(closed, trials, tuple(name for name, _ in others))
