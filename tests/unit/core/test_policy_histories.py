"""Laws of the guards, the ladder and the incidents over thousands of random histories of the pure core.

`PROXYWATCH_HISTORIES` multiplies how many histories are tried, and has them drawn anew in each run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from hypothesis import given, note, settings
from hypothesis import strategies as st
from policy_agent import LIMITS, NEEDS, TARGETS, Act, Agent, lost

from watchdog.core.observer import Storm
from watchdog.core.permission import Pause
from watchdog.core.silences import Maintenance
from watchdog.core.targets import Target

TIMES_MORE = int(os.environ.get("PROXYWATCH_HISTORIES", "0"))
HISTORIES = 1000 * max(1, TIMES_MORE)
BUDGETS = [(window, False) for window in LIMITS.budget] + [(window, True) for window in LIMITS.host_budget]
tried = {"histories": 0, "effects": 0}


def events(history: bytes) -> Iterator[tuple[int, Target, int]]:
    """Two bytes an event: what happens and to which target, and how much of it."""
    for place in range(0, len(history) - 1, 2):
        what, much = history[place : place + 2]
        yield what // 8, TARGETS[what % 8 % len(TARGETS)], much


@settings(max_examples=HISTORIES, deadline=None, derandomize=not TIMES_MORE, database=None)
@given(st.binary(min_size=40, max_size=200))
def histories(history: bytes) -> None:
    """One history."""
    agent = Agent()
    tried["histories"] += 1
    for what, target, much in events(history):
        note(f"{agent.now:g}: {what} {target} {much}")
        happens(agent, what, target, much)
        assert lost(agent) == []
    assert agent.replayed() == agent.incidents


def test_the_laws_hold_in_every_history() -> None:
    """Whatever happens in whatever order: no budget is exceeded, two never work on one thing, nothing begins while
    paused, a remote fault restarts nothing, backoff only grows until sustained health, no alert is forgotten, and the
    log alone gives the same incidents."""
    histories()
    print(f"{tried['histories']} histories with {tried['effects']} effects")
    assert tried["histories"] >= HISTORIES
    assert tried["effects"] >= 2 * HISTORIES


def happens(agent: Agent, what: int, target: Target, much: int) -> None:
    """One event."""
    match what:
        case 0 | 1 | 2:
            agent.fire(target, symptom=much % 4 == 1)
        case 3 if much % 2:
            agent.clear(target)
        case 4 if much % 2:
            agent.pauses = (*agent.pauses, Pause("care", "ann", agent.now, None if much % 4 == 1 else agent.now + 9))
        case 5 | 6 | 7:
            agent.pauses = ()
        case 8 if much % 2:
            agent.maintenance = (Maintenance("m", (str(target),), agent.now, agent.now + much, "ann", ""),)
        case 9 if much % 2:
            agent.busy_until = agent.now + much % 32
        case 10 if much % 4 == 1:
            agent.storm = Storm(5, 6, ("service:web", "service:db"), agent.now + much % 32)
            agent.faults = ("it cannot start a process",) if much % 8 == 1 else ()
        case 11 if much % 4 < 2:
            assert agent.replayed() == agent.incidents
            agent.restart((much - 128) * 4.0 if much % 2 else 0.0)
        case 12:
            agent.readable = much % 16 != 0
        case 13:
            agent.begin(target, by_person=True)
        case 14:
            agent.stopped = much % 4 == 0
        case 15:
            agent.answer(target, granted=much % 4 != 0)
        case 16 | 17 | 18 | 19 | 20 | 21:
            agent.now += (1, 2, 4, 8, 16, 32, 64, 128)[much % 8]
        case _:
            agent.begin(target, by_person=False)
            for one in tuple(agent.work):
                act = agent.turn(one, helps=much % 8 == 0)
                if act is not None:
                    tried["effects"] += 1
                    check_act(agent, act)


def check_act(agent: Agent, act: Act) -> None:
    """What must be true of an effect in the moment in which it happens, told from the ledger alone."""
    now, web = agent.now, act.target.labels.get("service", "web") == "web"
    assert agent.readable
    assert all(pause.until is not None and pause.until <= now for pause in agent.pauses), "it acted while paused"
    for other in agent.work.values():
        if other is not act.work and other.done:
            family = {str(other.target), str(other.target.parent)} & {str(act.target), str(act.target.parent)}
            siblings = other.target != act.target and None is not other.target.parent == act.target.parent
            assert siblings or not family - {"None"}, f"{other.target} and {act.target} at once"
    if act.disruptive:
        assert not act.target.remote, "a remote fault disturbed something local"
        assert not agent.only_remote(act.target), "symptoms of a remote fault disturbed something local"
        assert not web or agent.busy_until <= now, "two supervisors at once"
    if act.work.by_person:
        return
    assert not web or not agent.stopped, "it repaired what a person stopped"
    assert not any(window.covers(act.target, now) for window in agent.maintenance), "it acted under maintenance"
    assert not (agent.raging() and agent.faults and act.disruptive), "it doubts itself and acts"
    if act.first:
        check_begin(agent, act)


def check_begin(agent: Agent, act: Act) -> None:
    """What must be true besides when a rung begins without a person's word."""
    now, approval = agent.now, act.work.approval
    assert now >= agent.started_at + LIMITS.boot_grace, "it acted before it had looked around"
    assert not act.step.asks or (approval is not None and approval.granted), "nobody gave leave"
    others = [work for work in agent.work.values() if work is not act.work and work.done]
    assert not (agent.raging() and others), "two repairs at once in a storm"
    needs = NEEDS.get(act.target.labels.get("service", "web"), "")
    assert not (act.disruptive and agent.ails(needs)), "what it depends on is ill"
    factor = 1 if act.disruptive else LIMITS.gentle_factor
    alike = [(a.at, a.target) for a in agent.ledger if a.disruptive == act.disruptive]
    promised = [(work.target, agent.step_of(work), work.done) for work in agent.work.values() if work.done]
    alike += [
        (now, t) for t, step, done in promised if step.disruptive == act.disruptive for _ in range(step.effects - done)
    ]
    for window, host in BUDGETS:
        mine = [target for at, target in alike if (host or target == act.target) and at > now - window.seconds]
        assert len(mine) <= window.count * factor, f"{len(mine)} effects in {window}"
    if act.disruptive:
        check_backoff(agent, act)


def check_backoff(agent: Agent, act: Act) -> None:
    """Since its target was last well for long, each rung kept twice the distance of the one before, up to the cap."""
    troubles = agent.troubles().get(str(act.target), ())
    well = [0.0]
    for trouble in troubles:
        end = trouble.resolved_at
        if end is not None:
            fell_ill = min(
                (t.opened_at for t in troubles if t.opened_at >= end and t is not trouble), default=agent.now
            )
            well += [end] if fell_ill - end >= LIMITS.health_resets_after else []
    chain = [a.at for a in agent.ledger[:-1] if a.target == act.target and a.disruptive and a.at > max(well)]
    if chain:
        least = min(LIMITS.backoff_initial * 2 ** (len(chain) - 1), LIMITS.backoff_max)
        assert act.at - chain[-1] >= least, f"only {act.at - chain[-1]} s after effect {len(chain)} of a chain"
