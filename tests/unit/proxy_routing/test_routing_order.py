"""In which order routes are tried by their circuits."""

from __future__ import annotations

from proxy.routing.breaker import Circuit, State
from proxy.routing.order import Order, Standing, arrange, standing


def test_arrange_prefers_closed_then_due_trials() -> None:
    """Closed circuits come in the configured order, then the trials that are due; forced ones are the last resort."""
    circuits = {
        "a": Circuit(State.OPEN, 0, 50.0, forced=True),
        "b": Circuit(),
        "c": Circuit(State.OPEN, 0, 10.0),
        "d": Circuit(),
        "e": Circuit(State.HALF_OPEN, 0, 99.0),
    }
    order = arrange(list(circuits), lambda name: standing(circuits[name], 20.0))
    assert order == Order(("b", "d"), ("c",), ("c", "e", "a"))


def test_arrange_puts_spared_behind_closed() -> None:
    """A route that is to be spared comes behind those that are well, and before every trial; it is no last resort."""
    standings = {"a": Standing.SPARED, "b": Standing.TRIAL, "c": Standing.CLOSED, "d": Standing.OPEN}
    order = arrange(list(standings), standings.__getitem__)
    assert order == Order(("c", "a"), ("b",), ("b", "d"))


def test_arrange_without_trouble() -> None:
    """With every circuit closed the order is the configured one."""
    assert arrange(["a", "b"], lambda _: Standing.CLOSED) == Order(("a", "b"), (), ())
