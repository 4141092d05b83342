"""PURE. The life of a slot (a place for one worker): every transition in one table, and the delay before a restart.

 starting ──ready──▶ serving ──recycle──▶ replacing ──ready──▶ serving (the old process drains beside it)
    ▲ │ died           │ died                │ died ▶ starting; replacement_died ▶ serving
due │ ▼                ▼
    backoff ◀──────────┘                     stop: starting, serving, replacing ▶ stopping ──died──▶ gone
"""

from __future__ import annotations

from enum import StrEnum

from proxy.errors import ProxyError


class State(StrEnum):
    """Where a slot stands. `replacing` serves with its old process while the new one starts."""

    STARTING = "starting"
    SERVING = "serving"
    REPLACING = "replacing"
    BACKOFF = "backoff"
    STOPPING = "stopping"
    GONE = "gone"


class Event(StrEnum):
    """What can happen to a slot. `overdue`: a new process has not become ready in time."""

    READY = "ready"
    DIED = "died"
    REPLACEMENT_DIED = "replacement_died"
    OVERDUE = "overdue"
    DUE = "due"
    RECYCLE = "recycle"
    STOP = "stop"


class Action(StrEnum):
    """What the master must do about it."""

    NOTHING = "nothing"
    SPAWN = "spawn"
    SPAWN_REPLACEMENT = "spawn_replacement"
    ANNOUNCE = "announce"
    PROMOTE = "promote"
    """The replacement becomes the slot's process; the old one is told to drain."""
    ADOPT = "adopt"
    """The replacement, still starting, becomes the slot's process, for the old one is dead."""
    GIVE_UP = "give_up"
    """The old process stays; whoever asked for the recycle is told that the replacement died."""
    KILL_STARTING = "kill_starting"
    SCHEDULE = "schedule"
    TERMINATE = "terminate"
    FORGET = "forget"


class ImpossibleEvent(ProxyError):  # noqa: N818 - it names what happened
    """An event that the state it met cannot take: a bug of the master, named precisely."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"slot: event {event.value!r} is impossible in state {state.value!r}")


TABLE: dict[tuple[State, Event], tuple[State, Action]] = {
    (State.STARTING, Event.READY): (State.SERVING, Action.ANNOUNCE),
    (State.STARTING, Event.DIED): (State.BACKOFF, Action.SCHEDULE),
    (State.STARTING, Event.OVERDUE): (State.STARTING, Action.KILL_STARTING),
    (State.STARTING, Event.STOP): (State.STOPPING, Action.TERMINATE),
    (State.SERVING, Event.DIED): (State.BACKOFF, Action.SCHEDULE),
    (State.SERVING, Event.RECYCLE): (State.REPLACING, Action.SPAWN_REPLACEMENT),
    (State.SERVING, Event.STOP): (State.STOPPING, Action.TERMINATE),
    (State.REPLACING, Event.READY): (State.SERVING, Action.PROMOTE),
    (State.REPLACING, Event.DIED): (State.STARTING, Action.ADOPT),
    (State.REPLACING, Event.REPLACEMENT_DIED): (State.SERVING, Action.GIVE_UP),
    (State.REPLACING, Event.OVERDUE): (State.REPLACING, Action.KILL_STARTING),
    (State.REPLACING, Event.STOP): (State.STOPPING, Action.TERMINATE),
    (State.BACKOFF, Event.DUE): (State.STARTING, Action.SPAWN),
    (State.BACKOFF, Event.STOP): (State.GONE, Action.FORGET),
    (State.STOPPING, Event.READY): (State.STOPPING, Action.NOTHING),
    (State.STOPPING, Event.OVERDUE): (State.STOPPING, Action.NOTHING),
    (State.STOPPING, Event.DIED): (State.GONE, Action.FORGET),
}


def step(state: State, event: Event) -> tuple[State, Action]:
    """The next state and what to do; raises ImpossibleEvent for a pair that is not in the table."""
    try:
        return TABLE[state, event]
    except KeyError:
        raise ImpossibleEvent(state, event) from None


def crash_count(consecutive: int, *, served_seconds: float | None, reset_seconds: float) -> int:
    """Consecutive crashes after one more, given how long the process had served (None: never)."""
    return 1 if served_seconds is not None and served_seconds >= reset_seconds else consecutive + 1


def restart_delay(consecutive: int, *, served: bool, initial: float, maximum: float) -> float:
    """Seconds until the next start after crash number `consecutive` in a row.

    The first crash of a process that had served is answered at once; from then on the delay doubles from `initial`
    to `maximum`. A process that dies before it ever served waits `initial` the first time.
    """
    if consecutive <= 1:
        return 0.0 if served else initial
    return min(maximum, initial * 2.0 ** min(consecutive - 2, 60))
