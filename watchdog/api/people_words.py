"""What people have to do with an incident, in sentences: who was called, who is asked, who wants quiet."""

from __future__ import annotations

from collections.abc import Iterator

from watchdog.api.parts import Parts
from watchdog.core.incidents import Incident
from watchdog.core.model import IncidentState
from watchdog.core.silences import maintaining, silencing
from watchdog.core.targets import Target
from watchdog.units import format_duration


def people_words(parts: Parts, target: Target, incident: Incident | None) -> Iterator[str]:
    """Sentences about pages, questions, cancellations, silences and maintenance, as far as there are any."""
    now = parts.clock.now()
    if incident is not None:
        yield from _called(incident, now)
        yield from _asked(parts, incident, now)
        silence = silencing(parts.facts.silences(now), dict(incident.labels), now)
        if silence is not None and incident.resolved_at is None:
            end = format_duration(silence.until - now)
            yield f"Nobody is told of it for {end} more: silence {silence.id} by {silence.by}{_why(silence.comment)}."
    window = maintaining(parts.facts.maintenance(now), target, now)
    if window is not None:
        end = format_duration(window.until - now)
        by = f"maintenance {window.id} by {window.by}{_why(window.comment)}"
        yield f"{target} is left to people for {end} more, and nobody is told of it: {by}."


def _called(incident: Incident, now: float) -> Iterator[str]:
    if incident.escalated_at is not None and incident.state is not IncidentState.ESCALATED:
        yield f"A person was called {format_duration(now - incident.escalated_at)} ago."
    if incident.paged:
        yield f"A person was asked for what only a person can do: {incident.reason}."
    if incident.acknowledged_at is not None:
        yield f"{incident.acknowledged_by} has it since {format_duration(now - incident.acknowledged_at)}."
    if incident.hands_off and incident.resolved_at is None:
        yield f"{incident.hands_off} cancelled its repair: until it is over, only a person begins another one."


def _asked(parts: Parts, incident: Incident, now: float) -> Iterator[str]:
    run_id = parts.runner.run_of(incident.id)
    run = parts.runs.get(run_id) if run_id is not None else None
    asked = run.approval if run is not None else None
    if asked is None:
        return
    if asked.granted is not None:
        yield f"Run {run_id} was {'approved' if asked.granted else 'denied'} by {asked.by}."
    elif now < asked.until:
        since, left = format_duration(now - asked.asked_at), format_duration(asked.until - now)
        answer = f"`proxywatch approve {run_id}` or `proxywatch deny {run_id}`"
        yield f"Run {run_id} asks for leave since {since}: {answer}; no answer within {left} counts as no."


def _why(comment: str) -> str:
    return f" ({comment})" if comment else ""
