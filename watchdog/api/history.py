"""What happened, in one timeline: incidents, runs, effects, approvals, pauses, silences, maintenance, storms."""

from __future__ import annotations

from typing import Any

from watchdog.api.commands import RefusedError
from watchdog.api.parts import Parts
from watchdog.api.shapes import moment
from watchdog.core.targets import Target, parse_target

Shape = dict[str, Any]


def history(parts: Parts, seconds: float, target: str | None = None) -> Shape:
    """`{"now", "since", "lines": [{at, kind, text, target, incident}]}`, oldest first, over the last `seconds`.

    Of a `target` also what it contains, and what concerns the whole agent (`target` empty): a pause explains what was
    not done. Raises RefusedError for a bad target.
    """
    now = parts.clock.now()
    wanted = None if target is None else _parsed(target)
    lines = [
        {"at": moment(one.at), "kind": one.kind, "text": one.text, "target": one.target, "incident": one.incident_id}
        for one in parts.desk.history.since(now - seconds)
        if wanted is None or not one.target or wanted in _with_parent(one.target)
    ]
    return {"now": moment(now), "since": moment(now - seconds), "lines": lines}


def _parsed(target: str) -> Target:
    try:
        return parse_target(target)
    except ValueError as error:
        raise RefusedError(400, str(error), "name a target as `proxywatch alerts` shows it") from None


def _with_parent(text: str) -> tuple[Target | None, ...]:
    target = parse_target(text)
    return target, target.parent
