"""The guards that look beyond one target: people, storms, supervisors, dependencies, steadiness."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.core.observer import SelfCheck, Storm
from watchdog.core.permission import Approval, Denial, Facts, Limits, Reason, Wish
from watchdog.core.policy import decide
from watchdog.core.silences import Maintenance
from watchdog.core.steadiness import Steadiness, Trouble
from watchdog.core.targets import parse_target

NOW = 2000.0
LIMITS = Limits(boot_grace=0, steadiness=Steadiness(slot=10))
QUIET = Facts(started_at=0.0)
TARGET = parse_target("worker:web/0")
WISH = Wish("restore", TARGET, disruptive=True, service="web", run_id=1)
GENTLE = replace(WISH, disruptive=False)
ASKED = replace(WISH, autonomy="approve")
WINDOW = Maintenance("m1", ("service:web",), 0.0, NOW + 9, "ann", "kernel")
RAGING = Storm(5, 6, ("service:a", "service:b"), NOW + 40)
DOUBT = SelfCheck(NOW, ("its event loop is 900 ms late",))
BUSY_UNIT = Denial(Reason.SUPERVISOR_BUSY, "systemd restarts it", NOW + 3)
RESTLESS = {"worker:web/0": tuple(Trouble(NOW - 10 * n, NOW - 10 * n + 4) for n in range(15, 0, -1))}


@pytest.mark.parametrize(
    ("wish", "facts", "expected"),
    [
        (ASKED, QUIET, [(Reason.APPROVAL, None, False)]),
        (replace(ASKED, approval=Approval(1.0, NOW + 5)), QUIET, [(Reason.APPROVAL, NOW + 5, False)]),
        (replace(ASKED, approval=Approval(1.0, NOW)), QUIET, [(Reason.DENIED, None, True)]),
        (
            replace(ASKED, approval=Approval(1.0, NOW + 5, granted=False, by="bob")),
            QUIET,
            [(Reason.DENIED, None, True)],
        ),
        (replace(ASKED, approval=Approval(1.0, NOW - 5, granted=True, by="bob")), QUIET, []),
        (replace(ASKED, by_person=True), QUIET, []),
        (WISH, replace(QUIET, maintenance=(WINDOW,)), [(Reason.MAINTENANCE, NOW + 9, False)]),
        (replace(WISH, begun=True), replace(QUIET, maintenance=(WINDOW,)), [(Reason.MAINTENANCE, NOW + 9, False)]),
        (replace(WISH, by_person=True), replace(QUIET, maintenance=(WINDOW,)), []),
        (WISH, replace(QUIET, storm=RAGING), [(Reason.OBSERVER, NOW + 40, False)]),
        (GENTLE, replace(QUIET, storm=RAGING), [(Reason.OBSERVER, NOW + 40, False)]),
        (WISH, replace(QUIET, storm=RAGING, check=DOUBT), [(Reason.OBSERVER, NOW + 40, False)]),
        (GENTLE, replace(QUIET, storm=RAGING, check=DOUBT), []),
        (WISH, replace(QUIET, storm=RAGING, check=SelfCheck(NOW)), []),
        (WISH, replace(QUIET, check=DOUBT), []),
        (
            WISH,
            replace(QUIET, storm=RAGING, check=SelfCheck(NOW), running={"service:other": 7}),
            [(Reason.STORM, None, False)],
        ),
        (replace(WISH, begun=True), replace(QUIET, storm=RAGING, check=SelfCheck(NOW), running={"service:o": 7}), []),
        (replace(WISH, by_person=True), replace(QUIET, storm=RAGING), []),
        (WISH, replace(QUIET, ailing={"host": "DiskFull"}), [(Reason.DEPENDENCY, None, False)]),
        (GENTLE, replace(QUIET, ailing={"host": "DiskFull"}), []),
        (WISH, replace(QUIET, supervised={"web": BUSY_UNIT}), [(Reason.SUPERVISOR_BUSY, NOW + 3, False)]),
        (WISH, replace(QUIET, supervised={"web": replace(BUSY_UNIT, until=NOW)}), []),
        (
            WISH,
            replace(QUIET, supervised={"web": replace(BUSY_UNIT, until=None)}),
            [(Reason.SUPERVISOR_BUSY, None, False)],
        ),
        (WISH, replace(QUIET, supervised={"other": BUSY_UNIT}), []),
        (GENTLE, replace(QUIET, supervised={"web": BUSY_UNIT}), []),
        (GENTLE, replace(QUIET, troubles=RESTLESS), []),
        (replace(WISH, by_person=True), replace(QUIET, troubles=RESTLESS), []),
    ],
)
def test_every_refusal_of_the_wider_guards(
    wish: Wish, facts: Facts, expected: list[tuple[Reason, float | None, bool]]
) -> None:
    """Each guard refuses exactly what it is there for, with its end, and says whether waiting is worth while."""
    decision = decide(wish, facts, LIMITS, NOW)
    assert [(d.reason, d.until, d.final) for d in decision.denials] == expected
    assert all(d.text and "\n" not in d.text for d in decision.denials)


def test_a_flapping_target_is_left_alone_until_it_is_calm() -> None:
    """A disruptive act is refused while the target flaps, and the promised end is when it may happen."""
    facts = replace(QUIET, troubles=RESTLESS)
    (denial,) = decide(WISH, facts, LIMITS, NOW).denials
    assert denial.reason is Reason.FLAPPING
    assert denial.until is not None
    assert decide(WISH, facts, LIMITS, denial.until).allowed


@given(
    st.booleans(),
    st.booleans(),
    st.sampled_from(("auto", "approve", "observe", "dry_run")),
    st.none() | st.builds(Approval, st.just(1.0), st.floats(1900, 2100), st.none() | st.booleans(), st.just("ann")),
)
def test_nothing_acts_without_leave(disruptive: bool, begun: bool, autonomy: str, approval: Approval | None) -> None:
    """Without a person's word, only `auto` and what was approved may begin, whatever else holds."""
    wish = replace(WISH, disruptive=disruptive, begun=begun, autonomy=autonomy, approval=approval)
    decision = decide(wish, QUIET, LIMITS, NOW)
    allowed = begun or autonomy == "auto" or (autonomy == "approve" and approval is not None and approval.granted)
    assert decision.allowed is bool(allowed)


@pytest.mark.parametrize(
    ("mine", "other", "allowed"),
    [
        ("host", "service:shop", False),
        ("host", "worker:shop/0", False),
        ("service:shop", "host", False),
        ("cache:shop", "worker:shop/0", False),
        ("worker:shop/0", "cache:shop", False),
        ("worker:shop/0", "worker:shop/1", True),
    ],
)
def test_two_repairs_do_not_disturb_one_service_by_different_ends(mine: str, other: str, allowed: bool) -> None:
    """Whatever the targets are called: while a run disturbs a service no other may, but that two workers are repaired
    side by side; what disturbs nobody, and another service, is free."""
    wish = Wish("p", parse_target(mine), True, service="shop", run_id=2)
    facts = Facts(started_at=0.0, running={other: 1}, disturbed={1: "shop"})
    assert decide(wish, facts, Limits(), 1e6).allowed is allowed
    if parse_target(mine).parent is None and parse_target(other).parent is None:
        assert decide(replace(wish, disruptive=False), facts, Limits(), 1e6).allowed
        assert decide(wish, replace(facts, disturbed={1: "mail"}), Limits(), 1e6).allowed
