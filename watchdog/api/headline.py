"""The agent's state in a line: for its log, for systemd's STATUS and for whoever starts it."""

from __future__ import annotations

from collections.abc import Iterator

from watchdog.api.parts import Parts
from watchdog.core.model import AlertState
from watchdog.units import format_duration


def headline(parts: Parts) -> str:
    """`all well; 1 services, …`, or what is not, each kind of trouble with its first names."""
    config = parts.loaded.config
    return (
        f"{'; '.join(_troubles(parts)) or 'all well'}; {len(config.services)} services, {len(config.probes)} probes, "
        f"{len(parts.pipeline.engine.rules())} rules, {len(parts.runner.playbooks)} playbooks"
    )


def _troubles(parts: Parts) -> Iterator[str]:
    if parts.refused:
        yield f"configuration refused, the last good one is in force: {parts.refused}"
    incidents = parts.desk.unresolved
    if incidents:
        yield _named(f"{len(incidents)} unresolved incident(s)", [incident.title for incident in incidents])
    # What could not be started and is no incident yet: the probe that will notice has not measured since.
    known = {incident.key for incident in incidents}
    for service, why in sorted(parts.unstarted.items()):
        up = parts.series.latest("proxywatch_service_up", service=service)
        if f"service:{service}" not in known and not (up and up[0][1] == 1):
            yield f"not started: {why}"
    pending = [alert for alert in parts.pipeline.engine.alerts() if alert.state is AlertState.PENDING]
    if pending:
        names = [alert.annotation.get("summary") or alert.label.get("alertname", alert.rule) for alert in pending]
        yield _named(f"{len(pending)} pending alert(s)", names)
    failing = sorted(name for name, result in parts.pipeline.results.items() if result.error is not None)
    if failing:
        yield _named(f"{len(failing)} probe(s) measure nothing", failing)
    if not parts.ready:
        yield f"starting for {format_duration(parts.clock.now() - parts.started_at)}"


def _named(what: str, names: list[str]) -> str:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return f"{what}: {', '.join(names[:2])}{more}"
