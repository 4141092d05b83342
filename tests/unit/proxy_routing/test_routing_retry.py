"""The course of one request: what is tried next, when, and what the caller is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.routing.candidates import Candidate
from proxy.routing.order import Standing
from proxy.routing.outcome import Failure, Fault, Refusal, Rejected
from proxy.routing.retry import Ask, KeyChoice, Outcome, Pause, Policy, Told, proceed, pursue

POLICY = Policy(rounds=5, pause_initial=1.0, pause_max=16.0, attempts=12, retry_after_max=60.0)
A, B, C = (Candidate(name, "m", "m") for name in "abc")
OUTAGE = Failure(Fault.OUTAGE, "503", 503)
SILENT = Failure(Fault.TIMEOUT, "silent")
REFUSED = Rejected(Refusal.REQUEST, 400, b"bad")
TOO_LONG = Rejected(Refusal.CONTEXT, 400, b"too long")


@dataclass
class OwnWorld:
    """Circuits and keys as the test wants them. Keys learn of their failures as the proxy's do."""

    standings: dict[str, Standing] = field(default_factory=dict)
    keys: dict[str, list[str]] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    claims: int = 1

    def standing(self, candidate: Candidate) -> Standing:
        return self.standings.get(candidate.provider, Standing.CLOSED)

    def claim(self, candidate: Candidate) -> bool:
        self.claims -= 1
        return self.claims >= 0

    def key(self, candidate: Candidate, tried: AbstractSet[str]) -> KeyChoice | Failure:
        keys = self.keys.get(candidate.provider)
        if keys is None:
            return KeyChoice(None)
        for key in keys:
            if key not in self.dead and key not in tried:
                return KeyChoice(key)
        return Failure(Fault.AUTH, "no usable key is left", asked=False)


@dataclass
class Journey:
    """What became of one request: each attempt with its time, the pauses, and the end. None is a good answer."""

    asked: list[tuple[Candidate, str | None, float]] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    told: Told | None = None
    now: float = 0.0

    @property
    def providers(self) -> str:
        return "".join(candidate.provider for candidate, _, _ in self.asked)


def travel(
    candidates: list[Candidate],
    outcome_of: Callable[[Ask, int], Outcome | None],
    world: OwnWorld | None = None,
    policy: Policy = POLICY,
    deadline: float = 600.0,
    jitter: float = 0.5,
    seconds: float = 0.0,
    accepted: bool = False,
    spared: AbstractSet[str] = frozenset(),
) -> Journey:
    """Goes a whole course; each attempt takes `seconds`."""
    journey, world = Journey(), world or OwnWorld()
    course = pursue(
        candidates,
        policy,
        world,
        now=lambda: journey.now,
        jitter=lambda: jitter,
        deadline=deadline,
        accepted=accepted,
        spared=spared,
    )
    step = proceed(course, None)
    while not isinstance(step, Told):
        if isinstance(step, Pause):
            journey.pauses.append(step.seconds)
            journey.now += step.seconds
            step = proceed(course, None)
            continue
        came = outcome_of(step, len(journey.asked))
        journey.asked.append((step.candidate, step.key.id, journey.now))
        journey.now += seconds
        if came is None:
            return journey
        if isinstance(came, Failure) and came.fault is Fault.AUTH and step.key.id:
            world.dead.add(step.key.id)
        step = proceed(course, came)
    journey.told = step
    return journey


def always(outcome: Outcome | None) -> Callable[[Ask, int], Outcome | None]:
    return lambda _ask, _number: outcome


def by_provider(**outcomes: Outcome | None) -> Callable[[Ask, int], Outcome | None]:
    return lambda ask, _number: outcomes[ask.candidate.provider]


def test_good_answer_ends_it() -> None:
    """Nobody else is asked."""
    assert travel([A, B], always(None)).providers == "a"


def test_outage_goes_to_the_next_at_once_and_pauses_double_between_rounds() -> None:
    """Six rounds over both routes, 1, 2, 4, 8, 16 s apart, and the first failure is told."""
    first = replace(OUTAGE, message="the first")
    journey = travel([A, B], lambda _ask, number: OUTAGE if number else first)
    assert journey.providers == "ab" * 6
    assert journey.pauses == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert journey.told == Told(A, first)


@pytest.mark.parametrize(("jitter", "pause"), [(0.0, 0.75), (1.0, 1.25)])
def test_pauses_have_jitter(jitter: float, pause: float) -> None:
    """A quarter up or down, so that callers do not come back all at once."""
    assert travel([A], always(OUTAGE), jitter=jitter).pauses[0] == pause


def test_attempts_are_bounded() -> None:
    """Over all rounds and routes together."""
    assert len(travel([A, B, C], always(OUTAGE), policy=replace(POLICY, attempts=7)).asked) == 7


@pytest.mark.parametrize("fault", [Fault.TIMEOUT, Fault.AUTH, Fault.TLS, Fault.MALFORMED])
def test_what_no_pause_mends_is_asked_once(fault: Fault) -> None:
    """A silent route never twice, nor one that refuses us or speaks nonsense."""
    journey = travel([A, B], by_provider(a=Failure(fault, ""), b=OUTAGE))
    assert Counter(journey.providers) == {"a": 1, "b": 6}


def test_only_silence_ends_after_one_round() -> None:
    """With nothing left to wait for there is no pause."""
    journey = travel([A, B], always(SILENT))
    assert (journey.providers, journey.pauses) == ("ab", [])


def test_retry_after_is_waited_for() -> None:
    """The provider's own wait is the pause, and no route is asked before its time."""
    journey = travel([A], always(replace(OUTAGE, retry_after=7.0)), policy=replace(POLICY, rounds=1))
    assert 7.0 < journey.asked[1][2] < 7.5


def test_a_route_that_asks_for_a_wait_is_left_out_of_earlier_rounds() -> None:
    """While one route waits the other one is tried in its own rhythm."""
    outcomes = by_provider(a=replace(OUTAGE, retry_after=5.0), b=OUTAGE)
    journey = travel([A, B], outcomes, policy=replace(POLICY, rounds=3))
    assert journey.providers == "abbb" + "ab"
    assert min(at for candidate, _, at in journey.asked[1:] if candidate is A) >= 5.0


def test_too_long_a_wait_is_not_waited_for() -> None:
    """A provider that wants an hour is given up for this request."""
    assert travel([A], always(replace(OUTAGE, retry_after=3600.0))).pauses == []


def test_spent_key_is_not_waited_for() -> None:
    """No pause brings money."""
    assert travel([A], always(Failure(Fault.QUOTA, "", 429, spent=True))).providers == "a"


def test_no_pause_beyond_the_deadline() -> None:
    """What cannot be tried again in time is told now."""
    journey = travel([A], always(OUTAGE), deadline=5.0)
    assert (journey.pauses, journey.now) == ([1.0, 2.0], 3.0)


def test_no_attempt_after_the_deadline() -> None:
    """The first route may have used up all the time."""
    assert travel([A, B], always(SILENT), deadline=5.0, seconds=5.0).providers == "a"


def test_refusal_by_the_first_is_final() -> None:
    """A 400 of a model's own provider is the answer."""
    journey = travel([A, B], always(REFUSED))
    assert (journey.providers, journey.told) == ("a", Told(A, REFUSED))


def test_refusal_by_a_later_one_never_hides_the_first_failure() -> None:
    """A fallback that will not have the request is left out, and the caller hears of the outage."""
    journey = travel([A, B], by_provider(a=OUTAGE, b=REFUSED))
    assert Counter(journey.providers) == {"a": 6, "b": 1}
    assert journey.told == Told(A, OUTAGE)


def test_refusal_by_another_model_is_not_final() -> None:
    """With the model's own route taken out, a fallback's refusal leads to that route as the last resort."""
    other = Candidate("b", "n", "n")
    world = OwnWorld({"a": Standing.OPEN})
    journey = travel([A, other], by_provider(a=None, b=REFUSED), world)
    assert (journey.providers, journey.told) == ("ba", None)


def test_refused_content_is_final_whoever_refuses_it() -> None:
    """Nobody is asked to overrule a content filter."""
    refused = Rejected(Refusal.CONTENT, 400, b"no")
    journey = travel([A, B, C], by_provider(a=OUTAGE, b=refused, c=None))
    assert (journey.providers, journey.told) == ("ab", Told(B, refused))


def test_what_cannot_be_said_somewhere_is_said_elsewhere() -> None:
    """A dialect that lacks a word is no judgement of the request."""
    assert travel([A, B], by_provider(a=Rejected(Refusal.DIALECT, 400, b""), b=None)).providers == "ab"


def test_too_long_a_request_goes_only_where_there_is_more_room() -> None:
    """Not to the same model elsewhere, not to a smaller one, but to a larger one, or one of unknown size."""
    full, elsewhere = replace(A, context_tokens=8), replace(B, context_tokens=8)
    smaller, larger = Candidate("c", "s", "s", 4), Candidate("d", "l", "l", 16)
    unknown = Candidate("e", "u", "u")
    journey = travel([full, elsewhere, smaller, larger, unknown], always(TOO_LONG))
    assert journey.providers == "ade"
    journey = travel([full, elsewhere, smaller, unknown], always(TOO_LONG))
    assert (journey.providers, journey.told) == ("ae", Told(full, TOO_LONG))
    assert travel([full, elsewhere, smaller], always(TOO_LONG)).told == Told(full, TOO_LONG)


def test_larger_model_that_fails_does_not_hide_that_it_was_too_long() -> None:
    """The provider's own 400 goes to the caller in the end."""
    larger = Candidate("b", "l", "l", 16)
    journey = travel([replace(A, context_tokens=8), larger], by_provider(a=TOO_LONG, b=OUTAGE))
    assert journey.told is not None
    assert journey.told.outcome == TOO_LONG


def test_next_key_is_tried_at_once() -> None:
    """A limited or refused key is followed by the next one of the same provider, without a pause."""
    world = OwnWorld(keys={"a": ["k1", "k2", "k3"]})
    limit, refusal = Failure(Fault.QUOTA, "", 429), Failure(Fault.AUTH, "", 401)
    journey = travel([A, B], lambda ask, _: {"k1": limit, "k2": refusal}.get(ask.key.id or ""), world)
    assert [(candidate.provider, key) for candidate, key, _ in journey.asked] == [("a", "k1"), ("a", "k2"), ("a", "k3")]
    assert journey.now == 0.0


def test_dead_keys_are_not_asked() -> None:
    """A provider without a usable key is passed over; if nobody else answers, that is what is told."""
    world = OwnWorld(keys={"a": ["k1"]}, dead={"k1"})
    assert travel([A, B], always(None), world).providers == "b"
    told = travel([A], always(None), world).told
    assert told is not None
    assert isinstance(told.outcome, Failure)
    assert (told.outcome.fault, told.outcome.asked) == (Fault.AUTH, False)


def test_closed_circuits_come_first_and_a_trial_is_claimed() -> None:
    """An open circuit's trial is made only when the closed ones have failed, and by one request."""
    world = OwnWorld({"a": Standing.TRIAL})
    assert travel([A, B], by_provider(a=None, b=OUTAGE), world).providers == "ba"
    assert travel([A, B], by_provider(a=OUTAGE, b=OUTAGE), world, replace(POLICY, rounds=0)).providers == "b"


def test_open_circuits_are_the_last_resort() -> None:
    """They are tried when nothing else could be, one that an operator has taken out last of all."""
    world = OwnWorld({"a": Standing.FORCED, "b": Standing.OPEN}, claims=0)
    assert travel([A, B], by_provider(a=None, b=OUTAGE), world).providers == "ba"
    assert travel([A, B, C], always(OUTAGE), world, replace(POLICY, rounds=0)).providers == "c"


def test_once_accepted_no_refusal_is_final() -> None:
    """A continuation that one provider will not have is another one's to give."""
    assert travel([A, B], by_provider(a=REFUSED, b=None), accepted=True).providers == "ab"


_NAMES = ["a", "b", "c", "d"]
_CANDIDATES = st.lists(
    st.builds(
        Candidate,
        provider=st.sampled_from(_NAMES),
        model=st.sampled_from(["m", "n"]),
        label=st.sampled_from(["m", "n"]),
        context_tokens=st.none() | st.integers(1, 9),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda candidate: (candidate.provider, candidate.model),
)
_FAILURES = st.builds(
    Failure,
    fault=st.sampled_from(Fault),
    message=st.text(max_size=3),
    retry_after=st.none() | st.floats(0, 100),
    spent=st.booleans(),
)
_REJECTIONS = st.builds(Rejected, refusal=st.sampled_from(Refusal), status=st.just(400), body=st.binary(max_size=3))
_OUTCOMES = st.lists(_FAILURES | _REJECTIONS | st.none(), min_size=1, max_size=40)
_WORLDS = st.builds(
    OwnWorld,
    standings=st.dictionaries(st.sampled_from(_NAMES), st.sampled_from(Standing)),
    keys=st.dictionaries(
        st.sampled_from(_NAMES), st.lists(st.text("xyz", min_size=1, max_size=2), max_size=3, unique=True)
    ),
    claims=st.integers(0, 3),
)
_POLICIES = st.builds(
    Policy,
    rounds=st.integers(0, 6),
    pause_initial=st.floats(0.01, 2),
    pause_max=st.floats(0.01, 20),
    attempts=st.integers(1, 20),
    retry_after_max=st.floats(0, 60),
)


@given(_CANDIDATES, _OUTCOMES, _WORLDS, _POLICIES, st.floats(0, 1), st.floats(0, 5))
def test_laws_hold_for_any_table_of_outcomes(
    candidates: list[Candidate],
    outcomes: list[Outcome | None],
    world: OwnWorld,
    policy: Policy,
    jitter: float,
    seconds: float,
) -> None:
    """It ends within its bounds, never asks a silent route or a dead key again, and tells the first failure."""
    came: list[Outcome | None] = []
    dead_at_ask: list[bool] = []

    def outcome_of(ask: Ask, number: int) -> Outcome | None:
        dead_at_ask.append(ask.key.id in world.dead)
        came.append(outcomes[number % len(outcomes)])
        return came[-1]

    journey = travel(candidates, outcome_of, world, policy, deadline=60.0, jitter=jitter, seconds=seconds)
    assert len(journey.asked) <= policy.attempts
    assert len(journey.pauses) <= policy.rounds
    assert sum(journey.pauses) < 60.0
    assert all(at < 60.0 for _, _, at in journey.asked)
    assert not any(dead_at_ask)
    over: set[tuple[str, str]] = set()
    for (candidate, _, _), outcome in zip(journey.asked, came, strict=True):
        assert (candidate.provider, candidate.model) not in over
        if isinstance(outcome, Rejected) or (isinstance(outcome, Failure) and outcome.fault is Fault.TIMEOUT):
            over.add((candidate.provider, candidate.model))
    assert None not in came[:-1]
    if journey.told is None:
        assert came[-1] is None
        return
    failures = [outcome for outcome in came if isinstance(outcome, Failure)]
    told = journey.told.outcome
    if isinstance(told, Rejected):
        final = told.refusal is Refusal.CONTENT
        assert final or not failures or came.index(told) < came.index(failures[0])
    elif told.asked:
        assert told == failures[0]


@pytest.mark.parametrize(
    ("spared", "failing", "asked"),
    [("a", "", "b"), ("a", "b", "ba"), ("ab", "", "a"), ("a", "ab", "ba")],
    ids=["passed-by", "no-other-is-well", "all-spared", "all-fail"],
)
def test_a_spared_provider_is_passed_by_while_another_is_well(spared: str, failing: str, asked: str) -> None:
    """Its request goes to the next provider; where that fails, or all are spared, it is asked all the same."""
    journey = travel(
        [A, B],
        lambda ask, _: OUTAGE if ask.candidate.provider in failing else None,
        policy=replace(POLICY, rounds=0),
        spared=frozenset(spared),
    )
    assert journey.providers == asked
