"""What follows from systemd's word about a unit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from watchdog.core.permission import Reason
from watchdog.system.systemd.facts import UnitFacts, supervision, unit_facts
from watchdog.system.systemd.names import unit_name

WELL = UnitFacts(
    "web.service",
    "loaded",
    "active",
    "running",
    result="success",
    main_pid=7,
    restart_seconds=20.0,
    start_limit_seconds=90.0,
    stop_limit_seconds=None,
    began=100.0,
    changed=101.0,
)


@pytest.mark.parametrize(
    ("change", "verdict", "on_purpose"),
    [
        ({}, "running", False),
        ({"active": "reloading"}, "running", False),
        ({"active": "activating", "sub": "start"}, "starting", False),
        ({"active": "activating", "sub": "auto-restart", "result": "exit-code"}, "starting", False),
        ({"active": "deactivating", "sub": "stop-sigterm"}, "starting", False),
        ({"active": "inactive", "sub": "dead"}, "stopped", True),
        ({"active": "inactive", "sub": "dead", "result": "exit-code"}, "stopped", False),
        ({"active": "failed", "sub": "failed", "result": "oom-kill"}, "failed", False),
        ({"active": "inactive", "sub": "dead", "load": "masked", "result": "signal"}, "stopped", True),
    ],
)
def test_how_it_is_and_whether_somebody_wants_it_so(change: dict[str, str], verdict: str, on_purpose: bool) -> None:
    """Down without a fault, or masked, is somebody's will; anything that went wrong is not."""
    facts = replace(WELL, **change)  # type: ignore[arg-type]
    assert (facts.verdict, facts.on_purpose) == (verdict, on_purpose)


@pytest.mark.parametrize(
    ("change", "until"),
    [
        ({"active": "activating", "sub": "auto-restart"}, 101.0 + 20.0 + 2.0),
        ({"active": "activating", "sub": "auto-restart", "restart_seconds": 0.1}, 101.0 + 0.1 + 1.0),
        ({"active": "activating", "sub": "start"}, 100.0 + 90.0),
        ({"active": "deactivating", "sub": "stop-sigterm"}, None),
        ({"active": "deactivating", "sub": "stop-sigterm", "stop_limit_seconds": 5.0}, 106.0),
        ({"job": 12}, 200.0 + 90.0),
    ],
)
def test_what_systemd_does_by_itself_is_left_to_it(change: dict[str, object], until: float | None) -> None:
    """Its restart, its start and stop, and a job of anybody's are refusals with the time at which they end; a start is
    counted from when it began, never from when it last succeeded."""
    denial = supervision(replace(WELL, **change), 200.0)  # type: ignore[arg-type]
    assert denial is not None
    assert denial.reason is Reason.SUPERVISOR_BUSY
    assert denial.until == (None if until is None else pytest.approx(until))
    assert "web.service" in denial.text


def test_what_systemd_has_left_is_ours() -> None:
    """A unit that runs, was stopped or has failed for good is in nobody's hands."""
    for active in ("active", "inactive", "failed"):
        assert supervision(replace(WELL, active=active), 200.0) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"load": "not-found"}, "systemd knows no unit web.service"),
        ({"load": "masked"}, "systemctl unmask web.service"),
        ({"load": "bad-setting", "load_error": "Unit has no ExecStart="}, "Unit has no ExecStart="),
        ({"active": "failed", "result": "oom-kill"}, "killed it for want of memory"),
        ({"active": "failed", "result": "signal", "exit_status": 9}, "killed by signal 9"),
        ({"active": "failed", "result": "start-limit-hit"}, "systemctl reset-failed"),
        ({"active": "failed", "result": "something-new"}, "result something-new"),
        ({"restarts": 4}, "started it again 4 times"),
    ],
)
def test_people_are_told_in_words(change: dict[str, object], says: str) -> None:
    """What systemd knows is told with what it means."""
    assert says in replace(WELL, **change).told  # type: ignore[arg-type]


def test_properties_as_the_bus_gives_them() -> None:
    """Microseconds become seconds, infinity no limit, the job its number; what is absent is nothing."""
    facts = unit_facts(
        "web.service",
        {
            "LoadState": "loaded",
            "ActiveState": "active",
            "SubState": "running",
            "Job": [17, "/org/freedesktop/systemd1/job/17"],
            "InactiveExitTimestampMonotonic": 2_500_000,
        },
        {"TimeoutStartUSec": 2**64 - 1, "TimeoutStopUSec": 1_500_000, "RestartUSec": 100_000, "MainPID": 7},
    )
    assert (facts.job, facts.began, facts.changed) == (17, 2.5, 0.0)
    assert (facts.start_limit_seconds, facts.stop_limit_seconds, facts.restart_seconds) == (None, 1.5, 0.1)
    assert unit_facts("web.socket", {}, {}).verdict == "stopped"


@pytest.mark.parametrize("name", ["web", "*.service", "a b.service", "--now.service", "web.service web.service", ""])
def test_a_pattern_is_no_unit(name: str) -> None:
    """Only one unit's whole name is taken: nothing that could mean several, or an option."""
    with pytest.raises(ValueError, match="one unit's whole name"):
        unit_name(name)
