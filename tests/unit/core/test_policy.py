"""The guards: laws over random histories, and a table of every refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchdog.core.backoff import backoff_chain, backoff_delay
from watchdog.core.permission import Decision, Denial, Facts, Limits, PastEffect, Pause, Reason, Window, Wish
from watchdog.core.policy import decide
from watchdog.core.steadiness import Trouble
from watchdog.core.targets import parse_target

# Small numbers, so that short histories reach every limit; whole seconds, so that sums of times are exact.
LIMITS = Limits(
    budget=(Window(60, 2), Window(300, 4)),
    host_budget=(Window(100, 5),),
    gentle_factor=2,
    backoff_initial=4,
    backoff_max=32,
    health_resets_after=40,
    boot_grace=10,
    start_grace=3,
)
TARGETS = ("service:web", "worker:web/0", "worker:web/1", "cache:web", "cache:web2", "service:web2", "provider:openai")
PLAYBOOKS = ("restore", "relieve")
START = 1000.0


def wish(target: str = "worker:web/0", *, disruptive: bool = True, playbook: str = "restore", run_id: int = 1) -> Wish:
    parsed = parse_target(target)
    return Wish(playbook, parsed, disruptive, service=parsed.labels.get("service", ""), run_id=run_id)


def effect(
    at: float, target: str = "worker:web/0", *, disruptive: bool = True, playbook: str = "restore"
) -> PastEffect:
    return PastEffect(playbook, target, at, disruptive)


def reasons(decision: Decision) -> set[Reason]:
    return {denial.reason for denial in decision.denials}


TIMES = st.integers(900, 1400).map(float)
EFFECTS = st.lists(
    st.builds(PastEffect, st.sampled_from(PLAYBOOKS), st.sampled_from(TARGETS[:4]), TIMES, st.booleans()), max_size=8
).map(tuple)
TROUBLE = st.builds(
    lambda times, open_: Trouble(min(times), None if open_ else max(times)), st.tuples(TIMES, TIMES), st.booleans()
)
TROUBLES = st.dictionaries(
    st.sampled_from(TARGETS[:4]),
    st.lists(TROUBLE, max_size=3).map(lambda ts: tuple(sorted(ts, key=lambda t: t.opened_at))),
    max_size=3,
)
PAUSES = st.lists(st.builds(Pause, st.just("care"), st.just("ann"), TIMES, st.none() | TIMES), max_size=2).map(tuple)
WISHES = st.builds(
    lambda target, playbook, disruptive, autonomy, by_person: replace(
        wish(target, disruptive=disruptive, playbook=playbook), autonomy=autonomy, by_person=by_person
    ),
    st.sampled_from(TARGETS),
    st.sampled_from(PLAYBOOKS),
    st.booleans(),
    st.sampled_from(("auto", "auto", "auto", "observe", "dry_run")),
    st.booleans(),
)
FACTS = st.builds(
    Facts,
    started_at=st.integers(900, 1200).map(float),
    readable=st.sampled_from((True, True, True, False)),
    pauses=PAUSES,
    effects=EFFECTS,
    troubles=st.none() | TROUBLES,
    running=st.none() | st.dictionaries(st.sampled_from(TARGETS), st.integers(1, 3), max_size=2),
    stopped_on_purpose=st.sampled_from((frozenset(), frozenset(), frozenset({"web"}))),
    only_remote_faults=st.booleans(),
)
HISTORY = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.sampled_from(TARGETS[:4]),
        st.sampled_from(PLAYBOOKS),
        st.sampled_from((True, True, False)),
        st.booleans(),
    ),
    min_size=4,
    max_size=24,
)


@settings(max_examples=200)
@given(HISTORY)
def test_no_budget_is_ever_exceeded(history: list[tuple[int, str, str, bool, bool]]) -> None:
    """Whatever asks, in whatever order and at whatever times, no window of any budget holds more effects than it may:
    neither one playbook's on one target nor the host's, and backoff keeps its distance."""
    now, done = START, tuple[PastEffect, ...]()
    troubles: dict[str, tuple[Trouble, ...]] = {}
    for seconds, target, playbook, disruptive, falls_ill in history:
        now += seconds
        before = troubles.get(target, ())
        if falls_ill and (not before or before[-1].resolved_at is not None):
            troubles[target] = (*before, Trouble(now, None))
        elif not falls_ill and before and before[-1].resolved_at is None:
            troubles[target] = (*before[:-1], replace(before[-1], resolved_at=now))
        facts = Facts(started_at=0.0, effects=done, troubles=troubles)
        if decide(wish(target, playbook=playbook, disruptive=disruptive), facts, LIMITS, now).allowed:
            done = (*done, effect(now, target, playbook=playbook, disruptive=disruptive))
    for disruptive, factor in ((True, 1), (False, LIMITS.gentle_factor)):
        alike = [e for e in done if e.disruptive is disruptive]
        for window in LIMITS.host_budget:
            assert _most_within(window.seconds, [e.at for e in alike]) <= window.count * factor
        for target in TARGETS:
            for playbook in PLAYBOOKS:
                mine = [e.at for e in alike if (e.target, e.playbook) == (target, playbook)]
                for window in LIMITS.budget:
                    assert _most_within(window.seconds, mine) <= window.count * factor
    for target in TARGETS:
        times = [e.at for e in done if e.target == target and e.disruptive]
        assert all(later - earlier >= LIMITS.backoff_initial for earlier, later in pairwise(times))


def _most_within(seconds: float, times: list[float]) -> int:
    """The largest number of effects in any half-open window of this length."""
    return max((sum(start <= t < start + seconds for t in times) for start in times), default=0)


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from(TARGETS), st.integers(0, 5), st.booleans()), min_size=2, max_size=20
    )
)
def test_never_two_at_work_on_one_thing(history: list[tuple[bool, str, int, bool]]) -> None:
    """Runs that begin when allowed and end in any order never share a target, nor touch a part while the whole is
    being repaired or the whole while a part is, whoever asks."""
    acting: dict[str, int] = {}
    for number, (begins, target, ends, by_person) in enumerate(history, start=1):
        if not begins:
            acting = {t: run for t, run in acting.items() if run != ends}
            continue
        facts = Facts(started_at=0.0, running=acting)
        if decide(replace(wish(target, run_id=number), by_person=by_person), facts, LIMITS, START).allowed:
            assert target not in acting
            acting = {**acting, target: number}
        parents = {str(parse_target(t).parent) for t in acting}
        assert not parents & set(acting)


@settings(max_examples=75)
@given(WISHES, FACTS, TIMES)
def test_nothing_is_allowed_while_paused_unreadable_or_observing(wish: Wish, facts: Facts, now: float) -> None:
    """A pause in force, an unreadable state, or a playbook that only observes each refuse by themselves; a person may
    overrule only the last."""
    decision = decide(wish, facts, LIMITS, now)
    assert decision.allowed is (decision.denials == ())
    if not facts.readable:
        assert reasons(decision) == {Reason.STATE_UNREADABLE}
        return
    paused = any(p.until is None or p.until > now for p in facts.pauses)
    assert (Reason.PAUSED in reasons(decision)) is paused
    observing = wish.autonomy != "auto" and not wish.by_person
    assert (Reason.OBSERVE_ONLY in reasons(decision)) is observing


@settings(max_examples=150)
@given(WISHES, FACTS, TIMES)
def test_until_is_when_it_ends(wish: Wish, facts: Facts, now: float) -> None:
    """Asking again at a refusal's `until` with nothing changed no longer meets that refusal, and asking at the
    decision's `until` is allowed; `until` lies in the future."""
    decision = decide(wish, facts, LIMITS, now)
    for reason in reasons(decision):
        ends = [d.until for d in decision.denials if d.reason is reason]
        if None not in ends:
            last = max(end for end in ends if end is not None)
            assert last > now
            assert reason not in reasons(decide(wish, facts, LIMITS, last))
    if decision.until is not None:
        assert decide(wish, facts, LIMITS, decision.until).allowed


@settings(max_examples=100)
@given(WISHES, FACTS, TIMES, st.integers(1, 300))
def test_a_clock_that_went_back_never_allows_more(wish: Wish, facts: Facts, now: float, back: int) -> None:
    """Facts dated in the future are refused at least as often as the same facts dated now."""
    clamped = replace(
        facts,
        effects=tuple(replace(e, at=min(e.at, now)) for e in facts.effects),
        troubles={
            target: tuple(
                Trouble(min(t.opened_at, now), None if t.resolved_at is None else min(t.resolved_at, now)) for t in ts
            )
            for target, ts in (facts.troubles or {}).items()
        },
    )
    assert reasons(decide(wish, clamped, LIMITS, now)) <= reasons(decide(wish, facts, LIMITS, now))


@settings(max_examples=75)
@given(WISHES, FACTS, TIMES, EFFECTS)
def test_more_effects_never_allow_more(wish: Wish, facts: Facts, now: float, further: tuple[PastEffect, ...]) -> None:
    """Remembering more effects only ever adds refusals."""
    before = decide(wish, facts, LIMITS, now)
    after = decide(wish, replace(facts, effects=facts.effects + further), LIMITS, now)
    assert reasons(before) <= reasons(after)


@settings(max_examples=100)
@given(
    st.sampled_from(TARGETS),
    st.integers(1, 60),
    st.floats(0.1, 100),
    st.floats(1, 20),
    st.floats(0, 1),
)
def test_backoff_never_shrinks_nor_passes_its_cap(
    target: str, count: int, initial: float, factor: float, jitter: float
) -> None:
    """Each further effect of a chain waits at least as long as the one before, from `initial` up to the cap."""
    limits = Limits(backoff_initial=initial, backoff_max=initial * factor, backoff_jitter=jitter)
    delays = [backoff_delay(target, n, limits) for n in range(1, count + 1)]
    assert delays == sorted(delays)
    assert initial <= delays[0]
    assert delays[-1] <= limits.backoff_max
    assert delays == [backoff_delay(target, n, limits) for n in range(1, count + 1)]


def test_backoff_doubles_from_ten_seconds_to_five_minutes() -> None:
    """By default: 10, 20, 40, 80, 160, 300, 300 s, each up to a tenth longer."""
    delays = [backoff_delay("service:web", n, Limits()) for n in range(1, 8)]
    for delay, base in zip(delays, (10, 20, 40, 80, 160, 300, 300), strict=True):
        assert base <= delay <= min(300, base * 1.1)


@pytest.mark.parametrize(
    ("troubles", "now", "chain"),
    [
        ((), 300, [100, 200]),
        ((Trouble(90, None),), 300, [100, 200]),
        ((Trouble(90, 110),), 149, [100]),
        ((Trouble(90, 110), Trouble(149, None)), 300, [100, 200]),
        ((Trouble(90, 110), Trouble(150, None)), 300, [200]),
        ((Trouble(90, 110), Trouble(150, 210)), 249, [200]),
        ((Trouble(90, 110), Trouble(150, 210)), 250, []),
        ((Trouble(150, None), Trouble(90, 110)), 300, [200]),
        ((Trouble(90, 400), Trouble(500, None)), 300, [100, 200]),
    ],
)
def test_only_sustained_health_ends_a_chain(troubles: tuple[Trouble, ...], now: float, chain: list[float]) -> None:
    """Effects of a chain are forgotten by 40 s without trouble, not a second sooner, and not by health to come."""
    at = {"worker:web/0": troubles}
    effects = (effect(200), effect(100), effect(50, disruptive=False), effect(120, "worker:web/1"))
    done = tuple(e for e in effects if e.at <= now)
    found = backoff_chain(wish(), Facts(started_at=0.0, effects=done, troubles=at), LIMITS, now)
    assert found == chain


NOW = 2000.0
QUIET = Facts(started_at=0.0)


@pytest.mark.parametrize(
    ("wished", "facts", "limits", "expected"),
    [
        (wish(), QUIET, LIMITS, []),
        (wish(), replace(QUIET, readable=False), LIMITS, [(Reason.STATE_UNREADABLE, None, True)]),
        (
            wish(),
            replace(
                QUIET, pauses=(Pause("care", "ann", 1.0), Pause("move", "bob", 1.0, NOW + 5), Pause("x", "y", 1, NOW))
            ),
            LIMITS,
            [(Reason.PAUSED, None, False), (Reason.PAUSED, NOW + 5, False)],
        ),
        (replace(wish(), autonomy="observe"), QUIET, LIMITS, [(Reason.OBSERVE_ONLY, None, True)]),
        (replace(wish(), autonomy="dry_run"), QUIET, LIMITS, [(Reason.OBSERVE_ONLY, None, True)]),
        (replace(wish(), autonomy="observe", by_person=True), QUIET, LIMITS, []),
        (wish(), replace(QUIET, started_at=NOW - 9), LIMITS, [(Reason.BOOT_GRACE, NOW + 1, False)]),
        (replace(wish(), by_person=True), replace(QUIET, started_at=NOW - 9), LIMITS, []),
        (
            wish(disruptive=False),
            replace(QUIET, effects=(effect(NOW - 2, disruptive=False),)),
            LIMITS,
            [(Reason.START_GRACE, NOW + 1, False)],
        ),
        (wish(), replace(QUIET, running={"worker:web/0": 9}), LIMITS, [(Reason.BUSY, None, False)]),
        (wish(), replace(QUIET, running={"worker:web/0": 1}), LIMITS, []),
        (wish(), replace(QUIET, running={"worker:web/1": 9, "cache:web": 8, "service:web2": 7}), LIMITS, []),
        (wish(), replace(QUIET, running={"service:web": 9}), LIMITS, [(Reason.PARENT_BUSY, None, False)]),
        (wish("service:web"), replace(QUIET, running={"worker:web/0": 9}), LIMITS, [(Reason.BUSY, None, False)]),
        (wish("service:web"), replace(QUIET, running={"cache:web": 9}), LIMITS, [(Reason.BUSY, None, False)]),
        (wish("service:web"), replace(QUIET, running={"cache:web2": 9, "worker:web2/0": 8}), LIMITS, []),
        (replace(wish("service:web"), service=""), replace(QUIET, running={"cache:web2": 9}), LIMITS, []),
        (wish(), replace(QUIET, only_remote_faults=True), LIMITS, [(Reason.REMOTE_FAULT, None, False)]),
        (wish(disruptive=False), replace(QUIET, only_remote_faults=True), LIMITS, []),
        (replace(wish("provider:openai"), service="web"), QUIET, LIMITS, [(Reason.REMOTE_FAULT, None, False)]),
        (wish("provider:openai"), QUIET, LIMITS, []),
        (
            wish(),
            replace(QUIET, stopped_on_purpose=frozenset({"web"})),
            LIMITS,
            [(Reason.STOPPED_ON_PURPOSE, None, False)],
        ),
        (replace(wish(), by_person=True), replace(QUIET, stopped_on_purpose=frozenset({"web"})), LIMITS, []),
        (
            wish(),
            replace(QUIET, effects=(effect(NOW - 90), effect(NOW - 80), effect(NOW - 70), effect(NOW - 61))),
            LIMITS,
            [(Reason.BUDGET, NOW + 210, True)],
        ),
        (
            wish(),
            replace(QUIET, effects=(effect(NOW - 50),)),
            replace(LIMITS, budget=(Window(60, 0),)),
            "spent for ever",
        ),
        (
            wish(),
            replace(QUIET, effects=(effect(NOW - 50), effect(NOW - 40), effect(NOW - 30))),
            LIMITS,
            [(Reason.BUDGET, NOW + 20, True)],
        ),
        (
            wish(disruptive=False),
            replace(QUIET, effects=tuple(effect(NOW - 59 + n, disruptive=False) for n in range(4))),
            LIMITS,
            [(Reason.BUDGET, NOW + 1, True)],
        ),
        (
            wish("service:web2"),
            replace(QUIET, effects=tuple(effect(NOW - 50 + n, f"worker:web/{n}") for n in range(5))),
            LIMITS,
            [(Reason.HOST_BUDGET, NOW + 50, True)],
        ),
        (
            replace(wish(), by_person=True),
            replace(QUIET, effects=tuple(effect(NOW - 50 + n) for n in range(9))),
            LIMITS,
            [],
        ),
        (wish(playbook="relieve"), replace(QUIET, effects=(effect(NOW - 59), effect(NOW - 58))), LIMITS, []),
    ],
)
def test_every_refusal(
    wished: Wish, facts: Facts, limits: Limits, expected: list[tuple[Reason, float | None, bool]] | str
) -> None:
    """Each guard refuses exactly what it is there for, with its end, and says whether waiting is worth while."""
    decision = decide(wished, facts, limits, NOW)
    found = [(d.reason, d.until, d.final) for d in decision.denials]
    if isinstance(expected, str):
        assert found == [(Reason.BUDGET, None, True)]
        assert expected.split()[0] in decision.denials[0].text
    else:
        assert found == expected
    assert all(d.text and "\n" not in d.text for d in decision.denials)


def test_backoff_says_when_it_ends() -> None:
    """A disruptive effect too soon after the last is refused until the delay is over; a gentle one is not."""
    facts = replace(QUIET, effects=(effect(NOW - 3.5),))
    (denial,) = decide(wish(), facts, LIMITS, NOW).denials
    end = NOW - 3.5 + backoff_delay("worker:web/0", 1, LIMITS)
    assert (denial.reason, denial.until, denial.final) == (Reason.BACKOFF, end, False)
    assert decide(wish(disruptive=False), facts, LIMITS, NOW).allowed
    assert decide(replace(wish(), by_person=True), facts, LIMITS, NOW).allowed
    assert decide(wish(), facts, LIMITS, end).allowed


def test_a_decision_sums_up_its_refusals() -> None:
    """`until` is the last end, None as soon as one has none; `final` is the first that is not worth waiting for."""
    passing = Denial(Reason.BACKOFF, "soon", 5.0)
    later = Denial(Reason.BUDGET, "spent", 9.0)
    endless = Denial(Reason.PAUSED, "paused")
    assert Decision((passing, later)).until == 9.0
    assert Decision((passing, later)).final is later
    assert Decision((passing, endless)).until is None
    assert Decision((passing, endless)).final is None
    assert Decision().until is None
    assert Decision().allowed


def test_texts_name_the_window() -> None:
    """A spent budget says which one, how much of it, and over which time in hours or minutes."""
    limits: Mapping[float, str] = {90.0: "in 1.5 min", 7200.0: "in 2 h"}
    for seconds, text in limits.items():
        facts = replace(QUIET, effects=(effect(NOW - 50),))
        only = replace(LIMITS, budget=(Window(seconds, 1),))
        (denial,) = decide(wish(), facts, only, NOW).denials
        assert denial.text == f"the budget of restore on worker:web/0 is spent: 1 of 1 {text}"


@pytest.mark.parametrize(
    ("wanted", "until"),
    [(1, None), (2, START - 50 + 60), (3, None)],
    ids=["there is room for one", "one must end before there is room for two", "never"],
)
def test_a_budget_has_room_for_the_whole_rung_or_for_none_of_it(wanted: int, until: float | None) -> None:
    """A rung of several effects is refused unless all of them fit; it ends when enough of the old ones have left."""
    limits = Limits(budget=(Window(60, 2),), host_budget=(), backoff_initial=0, boot_grace=0)
    facts = Facts(started_at=0, effects=(effect(START - 50),))
    decision = decide(replace(wish(), effects=wanted), facts, limits, START)
    if wanted == 1:
        assert decision.allowed
    else:
        (denial,) = decision.denials
        assert (denial.reason, denial.until) == (Reason.BUDGET, until)
        assert f"{wanted} more are wanted" in denial.text


def test_what_is_begun_asks_only_for_what_may_have_changed() -> None:
    """The rest of a rung is not held up by graces, backoff and budgets, which it has been through, but by a pause."""
    limits = replace(LIMITS, budget=(Window(60, 0),))
    facts = Facts(started_at=START, effects=(effect(START),))
    rest = replace(wish(), begun=True)
    assert decide(rest, facts, limits, START).allowed
    paused = replace(facts, pauses=(Pause("care", "ann", START),))
    assert reasons(decide(rest, paused, limits, START)) == {Reason.PAUSED}


@pytest.mark.parametrize("spent", ["source:192.0.2.1", "service:web2"], ids=["strangers", "host"])
def test_an_attack_cannot_spend_the_budget_of_the_host(spent: str) -> None:
    """What was done about callers leaves this host its whole budget, and the other way round."""
    effects = tuple(effect(START + n, spent) for n in range(5))
    facts = Facts(started_at=0.0, effects=effects)
    for target, refused in (("worker:web/0", spent == "service:web2"), ("source:192.0.2.7", spent != "service:web2")):
        assert (Reason.HOST_BUDGET in reasons(decide(wish(target), facts, LIMITS, START + 50))) is refused


def test_what_a_person_did_takes_nothing_of_the_hosts_budget() -> None:
    """The host's budget is for what is done without anybody; on the same target a person's act counts all the same."""
    effects = tuple(PastEffect("restore", "service:mail", 900.0 + n, True, by_person=True) for n in range(3))
    limits = Limits(budget=(Window(3600, 3),), host_budget=(Window(3600, 3),), boot_grace=0.0)
    facts = Facts(started_at=0.0, effects=effects)
    other = Wish("restore", parse_target("service:web"), True)
    assert decide(other, facts, limits, 5000.0).allowed
    reasons = [
        d.reason for d in decide(Wish("restore", parse_target("service:mail"), True), facts, limits, 4000.0).denials
    ]
    assert Reason.BUDGET in reasons
    assert Reason.HOST_BUDGET not in reasons
