"""What is tried next, when, and when to give up: the whole course of one request as a generator.

It does nothing itself: it yields what to do, is sent what came of it, and returns what the caller is to be told when
nothing answered. After a good answer it is simply dropped. Pauses double as OpenAI's SDKs' do, with jitter, and come
only between rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from proxy.routing.candidates import Candidate, roomier
from proxy.routing.order import Standing, arrange
from proxy.routing.outcome import MAY_PASS, Failure, Fault, Refusal, Rejected

_JITTER_SHARE = 0.25
_LONGEST_DOUBLING = 30
_MARGIN = 0.02
"""Timers may come a few milliseconds early."""
_OF_A_KEY = (Fault.AUTH, Fault.QUOTA)


@dataclass(frozen=True, slots=True)
class Policy:
    """Bounds of one request; see `settings.Retry`."""

    rounds: int
    pause_initial: float
    pause_max: float
    attempts: int
    retry_after_max: float


@dataclass(frozen=True, slots=True)
class KeyChoice:
    """The id of the key for one attempt; None where a provider takes no key."""

    id: str | None


class World(Protocol):
    """What is known outside of this request."""

    def standing(self, candidate: Candidate) -> Standing:
        """What the circuits on this route allow now."""
        ...

    def claim(self, candidate: Candidate) -> bool:
        """Whether this request may make the one trial."""
        ...

    def key(self, candidate: Candidate, tried: AbstractSet[str]) -> KeyChoice | Failure:
        """A usable key that is not among `tried`, or why there is none."""
        ...


class Ask(NamedTuple):
    """Send the request there; what comes of it is to be sent back, unless it is good."""

    candidate: Candidate
    key: KeyChoice
    trial: bool


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so long; None is to be sent back."""

    seconds: float


Outcome = Failure | Rejected


@dataclass(frozen=True, slots=True)
class Told:
    """What the caller is told, and whose word that is."""

    candidate: Candidate
    outcome: Outcome


Step = Ask | Pause | Told
_Begun = tuple[KeyChoice, Outcome]
Course = Generator[Ask | Pause, Outcome | None, Told]


@dataclass(slots=True)
class _Route:
    candidate: Candidate
    over: bool = False
    """Not to be tried again for this request."""
    not_before: float | None = None
    """The end of the wait that the provider asked for."""


class _Ledger:
    """What has happened to one request so far."""

    __slots__ = ("asked", "failed", "failed_now", "first", "policy", "routes", "spared")

    def __init__(
        self, candidates: Sequence[Candidate], policy: Policy, accepted: bool, spared: AbstractSet[str]
    ) -> None:
        self.spared = spared
        self.routes = [_Route(candidate) for candidate in candidates]
        self.policy = policy
        self.first: Told | None = None
        self.asked = 0
        self.failed = accepted
        """Whether a provider that was asked has failed: then no later refusal may hide that."""
        self.failed_now = False
        """Whether one has in this round."""

    def refused(self, route: _Route, refusal: Rejected) -> bool:
        """Remembers it; whether it is final."""
        if refusal.refusal is Refusal.CONTENT:
            return True
        if refusal.refusal is Refusal.CONTEXT:
            for other in self.routes:
                other.over = other.over or not roomier(other.candidate, route.candidate)
        elif refusal.refusal is Refusal.REQUEST and self._first_judge(route):
            return True
        route.over = True
        self.remember(route, refusal)
        return False

    def went_wrong(self, route: _Route, failure: Failure, now: float) -> None:
        """Remembers a failure that no other key of the route can mend."""
        self.remember(route, failure)
        self.failed = self.failed or failure.asked
        wait = failure.retry_after
        route.not_before = None if wait is None else now + wait
        too_long = wait is not None and wait > self.policy.retry_after_max
        if failure.fault not in MAY_PASS or failure.spent or too_long:
            route.over = True

    def remember(self, route: _Route, outcome: Outcome) -> None:
        """The first outcome is what the caller is told in the end."""
        self.first = self.first or Told(route.candidate, outcome)

    def pause(self, finished_round: int, now: float, jitter: float) -> float | None:
        """Seconds until the next round; None if there is nothing to wait for. `jitter` is from 0 to 1."""
        if finished_round >= self.policy.rounds or self.asked >= self.policy.attempts:
            return None
        doubled = self.policy.pause_initial * 2.0 ** min(finished_round, _LONGEST_DOUBLING)
        usual = min(self.policy.pause_max, doubled) * (1.0 + _JITTER_SHARE * (2.0 * jitter - 1.0))
        waits = [
            usual if route.not_before is None else max(0.0, route.not_before - now) + _MARGIN + _JITTER_SHARE * jitter
            for route in self.routes
            if not route.over
        ]
        return min(waits) if waits else None

    def ready(self, now: float) -> list[_Route]:
        """Routes whose provider has not asked for a longer wait."""
        return [route for route in self.routes if not route.over and (route.not_before or now) <= now]

    def _first_judge(self, route: _Route) -> bool:
        """Whether a provider of the very model that was asked for is the first to judge the request, so that its word
        counts. One of a fallback's says little of a request that was meant for another model."""
        asked_for = self.routes[0].candidate.label
        unjudged = self.first is None or isinstance(self.first.outcome, Failure)
        return unjudged and not self.failed and route.candidate.label == asked_for


def pursue(
    candidates: Sequence[Candidate],
    policy: Policy,
    world: World,
    *,
    now: Callable[[], float],
    jitter: Callable[[], float],
    deadline: float,
    accepted: bool = False,
    spared: AbstractSet[str] = frozenset(),
) -> Course:
    """The course of one request over its candidates, at least one. `deadline` and `now` are of the same clock, `jitter`
    gives numbers from 0 to 1. `accepted`: some provider has accepted the request before, so that no other's refusal of
    it is final. `spared` are providers that it passes by while another one is well."""
    begun: _Begun | None = None
    if candidates[0].provider not in spared and world.standing(candidates[0]) is Standing.CLOSED:
        choice = world.key(candidates[0], frozenset())
        if not isinstance(choice, Failure):
            # The common case: a good answer to this needs no further thought.
            came = yield Ask(candidates[0], choice, trial=False)
            assert came is not None
            begun = choice, came
    ledger = _Ledger(candidates, policy, accepted, spared)
    for number in range(policy.rounds + 1):
        final = yield from _round(ledger, world, now, deadline, begun)
        begun = None
        if final is not None:
            return final
        pause = ledger.pause(number, now(), jitter())
        if pause is None or now() + pause >= deadline:
            break
        yield Pause(pause)
    assert ledger.first is not None
    return ledger.first


def proceed(course: Course, came: Outcome | None) -> Step:
    """The next step, after what came of the last one; None after a pause."""
    try:
        return course.send(came)
    except StopIteration as end:
        told: Told = end.value
        return told


def _round(
    ledger: _Ledger, world: World, now: Callable[[], float], deadline: float, begun: _Begun | None
) -> Generator[Ask | Pause, Outcome | None, Told | None]:
    """Each route once; with the first one, `begun` has been done already. What is final, if anything is."""
    ledger.failed_now = False
    if begun is not None:
        final = yield from _route(ledger, world, ledger.routes[0], now, deadline, trial=False, begun=begun)
        if final is not None:
            return final
    for route, trial in _turns(ledger, world, now()):
        if route.over or (begun is not None and route is ledger.routes[0]):
            continue
        final = yield from _route(ledger, world, route, now, deadline, trial=trial)
        if final is not None:
            return final
    return None


def _route(
    ledger: _Ledger,
    world: World,
    route: _Route,
    now: Callable[[], float],
    deadline: float,
    *,
    trial: bool,
    begun: _Begun | None = None,
) -> Generator[Ask | Pause, Outcome | None, Told | None]:
    """One route with one key after the other, until it is not the key's fault."""
    tried: set[str] = set()
    while True:
        if begun is None:
            choice = world.key(route.candidate, tried)
            if isinstance(choice, Failure):
                ledger.went_wrong(route, choice, now())
                return None
            if ledger.asked >= ledger.policy.attempts or (ledger.asked and now() >= deadline):
                return ledger.first
            if trial and not tried and not world.claim(route.candidate):
                return None
            came = yield Ask(route.candidate, choice, trial)
            assert came is not None
        else:
            (choice, came), begun = begun, None
        ledger.asked += 1
        if isinstance(came, Rejected):
            return Told(route.candidate, came) if ledger.refused(route, came) else None
        ledger.failed_now = True
        if choice.id is None or came.fault not in _OF_A_KEY:
            ledger.went_wrong(route, came, now())
            return None
        ledger.failed = True
        ledger.remember(route, came)
        tried.add(choice.id)


def _turns(ledger: _Ledger, world: World, now: float) -> Iterator[tuple[_Route, bool]]:
    """The routes of one round, and whether each is a trial. Those with an open circuit come only if no provider that
    was asked before them in this round has failed: its failure is an answer, and they are known to be worse."""
    order = arrange(ledger.ready(now), lambda route: _standing(route.candidate, ledger.spared, world))
    for route in order.closed:
        yield route, False
    for route in order.trials:
        yield route, True
    if not ledger.failed_now:
        for route in order.last_resort:
            yield route, False


def _standing(candidate: Candidate, spared: AbstractSet[str], world: World) -> Standing:
    standing = world.standing(candidate)
    return Standing.SPARED if standing is Standing.CLOSED and candidate.provider in spared else standing
