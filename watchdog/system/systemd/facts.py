"""What systemd says of one unit, and what follows from it. Pure: the moment is an argument.

Ages are counted from `InactiveExitTimestamp` (a start began), never from `ActiveEnterTimestamp`: a unit that is still
starting has not reached the latter, so a repair timed by it comes again in the middle of every start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from watchdog.core.permission import Denial, Reason

UnitVerdict = Literal["running", "starting", "stopped", "failed"]

_MICROSECONDS = 1e6
_FOREVER = 2**64 - 1
"""How D-Bus tells `infinity`."""
_MOVING = {"activating": "starting", "deactivating": "stopping", "reloading": "reloading", "refreshing": "reloading"}
_JOB_SECONDS = 90.0
"""How long a job is left alone whose unit names no limit: systemd's own default."""


@dataclass(frozen=True, slots=True)
class UnitFacts:
    """One look. Times are seconds of the machine's monotonic clock; 0 where it has not been."""

    name: str
    load: str
    active: str
    sub: str
    file_state: str = ""
    result: str = ""
    job: int = 0
    main_pid: int = 0
    restarts: int = 0
    """Starts that systemd made by itself (`NRestarts`)."""
    exit_code: int = 0
    """Of the main process: 1 exited, 2 killed, 3 dumped core (`CLD_*`)."""
    exit_status: int = 0
    restart: str = ""
    """`Restart=`."""
    restart_seconds: float = 0.0
    start_limit_seconds: float | None = None
    stop_limit_seconds: float | None = None
    began: float = 0.0
    """Since when its last start is under way or done (`InactiveExitTimestamp`)."""
    changed: float = 0.0
    """Its last change of state."""
    load_error: str = ""

    @property
    def verdict(self) -> UnitVerdict:
        """For whoever only wants to know whether it runs. In the middle of a start or a stop, or while systemd will
        start it again by itself, it is `starting`: how it will be is not decided, and nothing is wrong yet."""
        match self.active:
            case "active" | "reloading" | "refreshing":
                return "running"
            case "activating" | "deactivating":
                return "starting"
            case "failed":
                return "failed"
            case _:
                return "stopped"

    @property
    def on_purpose(self) -> bool:
        """Whether it is down because somebody wants it so: masked, or ended without a fault by somebody's order or by
        its own will. systemd itself sees no failure then, and starting it would be an answer that nobody asked for."""
        return self.load == "masked" or (self.active == "inactive" and self.result in ("", "success"))

    @property
    def told(self) -> str:
        """In a line, for people."""
        if self.load == "not-found":
            return f"systemd knows no unit {self.name}"
        if self.load == "masked":
            return f"{self.name} is masked, so nothing can start it until `systemctl unmask {self.name}`"
        if self.load in ("error", "bad-setting"):
            return f"{self.name} cannot be loaded: {self.load_error or 'see systemctl status'}"
        state = f"{self.name} is {self.active} ({self.sub})"
        if self.result not in ("", "success"):
            state += f", {_why(self)}"
        if self.restarts:
            state += f"; systemd has started it again {self.restarts} times by itself"
        return state


def supervision(facts: UnitFacts, now: float) -> Denial | None:
    """What systemd is doing to the unit at the monotonic second `now`, as a refusal to do the same; None if nothing.
    The refusal's `until` is in that clock too."""
    if facts.sub in ("auto-restart", "auto-restart-queued"):
        due = facts.changed + facts.restart_seconds + _slack(facts)
        text = f"systemd itself starts {facts.name} again ({facts.restarts} times so far)"
        return Denial(Reason.SUPERVISOR_BUSY, text, due)
    doing = _MOVING.get(facts.active)
    if doing is not None:
        limit = facts.stop_limit_seconds if doing == "stopping" else facts.start_limit_seconds
        until = None if limit is None else (facts.changed if doing == "stopping" else facts.began) + limit
        return Denial(Reason.SUPERVISOR_BUSY, f"systemd is {doing} {facts.name} now", until)
    if facts.job:
        text = f"systemd has a job for {facts.name} under way (job {facts.job})"
        return Denial(Reason.SUPERVISOR_BUSY, text, now + (facts.start_limit_seconds or _JOB_SECONDS))
    return None


def unit_facts(name: str, unit: Mapping[str, Any], service: Mapping[str, Any]) -> UnitFacts:
    """From the properties of `org.freedesktop.systemd1.Unit` and `.Service` as D-Bus gives them, variants unpacked."""
    job = unit.get("Job") or (0, "/")
    error = unit.get("LoadError") or ("", "")
    return UnitFacts(
        name=name,
        load=unit.get("LoadState", ""),
        active=unit.get("ActiveState", ""),
        sub=unit.get("SubState", ""),
        file_state=unit.get("UnitFileState", ""),
        result=service.get("Result", ""),
        job=int(job[0]),
        main_pid=service.get("MainPID", 0),
        restarts=service.get("NRestarts", 0),
        exit_code=service.get("ExecMainCode", 0),
        exit_status=service.get("ExecMainStatus", 0),
        restart=service.get("Restart", ""),
        restart_seconds=_seconds(service.get("RestartUSec", 0)) or 0.0,
        start_limit_seconds=_seconds(service.get("TimeoutStartUSec", 0)),
        stop_limit_seconds=_seconds(service.get("TimeoutStopUSec", 0)),
        began=unit.get("InactiveExitTimestampMonotonic", 0) / _MICROSECONDS,
        changed=unit.get("StateChangeTimestampMonotonic", 0) / _MICROSECONDS,
        load_error=str(error[1]),
    )


def _seconds(microseconds: int) -> float | None:
    return None if microseconds == _FOREVER else microseconds / _MICROSECONDS


def _slack(facts: UnitFacts) -> float:
    """A start that is due begins a moment later; asking again then costs nothing."""
    return max(1.0, 0.1 * facts.restart_seconds)


_RESULTS = {
    "oom-kill": "the kernel killed it for want of memory",
    "watchdog": "it missed its watchdog",
    "timeout": "it was not ready, or did not end, in time",
    "start-limit-hit": "it was started too often, and systemd starts it no more until `systemctl reset-failed`",
    "core-dump": "it dumped core",
    "protocol": "it never said that it was ready",
    "resources": "systemd could not set up what it needs to run",
    "exec-condition": "its ExecCondition= said no",
}


def _why(facts: UnitFacts) -> str:
    if facts.result == "exit-code":
        return f"its main process ended with {facts.exit_status}"
    if facts.result == "signal":
        return f"its main process was killed by signal {facts.exit_status}"
    return _RESULTS.get(facts.result, f"result {facts.result}")
