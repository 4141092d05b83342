"""The one answer behind `proxywatch status`, `check` and the live view: how everything is, right now."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from watchdog.api import quiet, views
from watchdog.api.parts import Parts
from watchdog.api.shapes import moment, number
from watchdog.core.incidents import Incident
from watchdog.core.model import AlertState
from watchdog.errors import ProbeError, ProxywatchError, QueryError
from watchdog.release import __version__
from watchdog.system.proxy_api import MasterStatus

Shape = dict[str, Any]

MASTER_SECONDS = 0.1
"""How long an answer may wait for a proxy's master: longer, and `status` itself would seem to hang with it."""


AT_A_GLANCE = 100
"""So many alerts and incidents are shown; how many there are is said beside."""
_TELLING = frozenset({"child", "unit"})
"""Kinds of service that tell at once how they are."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was asked of the world for this answer. All by service name; what did not answer is left out."""

    masters: Mapping[str, MasterStatus]
    pids: Mapping[str, int]
    notes: Mapping[str, str]
    """Of services without a process: what is known of why."""


async def look(parts: Parts) -> Seen:
    """Asks each proxy's master for its workers, and each child and unit for its process, at this moment."""

    async def ask(name: str) -> MasterStatus | None:
        try:
            return await parts.proxies[name].status(timeout=MASTER_SECONDS)
        except ProbeError:
            return None

    names = list(parts.proxies)
    answers = await asyncio.gather(*(ask(name) for name in names))
    pids: dict[str, int] = {}
    notes: dict[str, str] = {}
    for name, settings in parts.loaded.config.services.items():
        if settings.kind in _TELLING:
            try:
                known = await parts.services[name].status()
            except ProxywatchError as error:
                notes[name] = str(error)
                continue
            if known.identity is not None:
                pids[name] = known.identity.pid
            elif known.note:
                notes[name] = known.note
    masters = {name: answer for name, answer in zip(names, answers, strict=True) if answer is not None}
    return Seen(masters, pids, notes)


def status(parts: Parts, seen: Seen) -> Shape:
    """Everything at a glance; `seen` gives process ids, all else is what was measured last.

    Keys: now, version, host, pid, started_at, uptime_seconds, ready, verdict {state: ok|warning|critical, text},
    config {file, reload_error}, pauses, maintenance, silences, approvals, storm {text, until},
    services (each with workers and cache), providers, system, probes {total, failing}, alerts (firing), pending,
    incidents (unresolved), alerts_total, incidents_total, outbox {pending, dead, oldest_at}, memory.
    """
    now = parts.clock.now()
    config = parts.loaded.config
    known = parts.pipeline.engine.alerts()
    firing = views.alerts(parts, [alert for alert in known if alert.state is AlertState.FIRING])["alerts"]
    unresolved = parts.desk.unresolved
    outbox = parts.outbox.stats()
    stats = parts.series.stats()
    shape: Shape = {
        "now": moment(now),
        "version": __version__,
        "host": config.host or socket.gethostname(),
        "pid": os.getpid(),
        "started_at": moment(parts.started_at),
        "uptime_seconds": round(now - parts.started_at, 3),
        "ready": parts.ready,
        "config": {"file": str(parts.loaded.file), "reload_error": parts.refused},
        "pauses": pauses(parts),
        "maintenance": quiet.maintenance(parts),
        "silences": quiet.silences(parts),
        "approvals": quiet.approvals(parts),
        "storm": storm(parts),
        "services": [_service(parts, name, seen) for name in config.services],
        "providers": _providers(parts),
        "system": _system(parts),
        "probes": {
            "total": len(config.probes),
            "failing": [
                {"name": name, "note": result.note}
                for name, result in sorted(parts.pipeline.results.items())
                if result.error is not None
            ],
        },
        "alerts": firing[:AT_A_GLANCE],
        "alerts_total": len(firing),
        "pending": sum(1 for a in known if a.state is AlertState.PENDING),
        "incidents": views.summaries(parts, unresolved[:AT_A_GLANCE]),
        "incidents_total": len(unresolved),
        "outbox": {"pending": outbox.pending, "dead": outbox.dead, "oldest_at": moment(outbox.oldest_at)},
        "memory": {"series": stats.series, "samples": stats.samples, "bytes": stats.bytes, "dropped": stats.dropped},
    }
    shape["verdict"] = _verdict(shape, firing, unresolved)
    return shape


def pauses(parts: Parts) -> list[Shape]:
    """The reasons why nothing may act, in force now, the kill switch among them."""
    return [
        {"reason": p.reason, "by": p.by, "since": moment(p.since or None), "until": moment(p.until)}
        for p in parts.surroundings.pauses(parts.clock.now())
    ]


def storm(parts: Parts) -> Shape | None:
    """So much fell ill together that the observer itself is suspected; None if not."""
    raging = parts.surroundings.storm(parts.runner.guards.limits.storm, parts.clock.now())
    return None if raging is None else {"text": raging.text, "until": moment(raging.until)}


def _verdict(shape: Shape, alerts: list[Shape], incidents: list[Incident]) -> Shape:
    """Critical: something critical fires or a person is needed. Warning: anything else that is not as it should be."""
    escalated = [i.title for i in incidents if i.escalated_at is not None]
    firing = {s: [a["summary"] or a["name"] for a in alerts if a["severity"] == s] for s in ("critical", "warning")}
    ending = [i.title for i in incidents if i.escalated_at is None and not i.firing]
    critical = _counted("incident needs a person", escalated) + _counted("critical alert", firing["critical"])
    warning = _counted("warning", firing["warning"]) + _counted("incident is ending", ending)
    warning += _counted("a person was asked", [i.title for i in incidents if i.paged and i.escalated_at is None])
    warning += _counted("repair waits for approval", [f"proxywatch approve {a['run']}" for a in shape["approvals"]])
    warning += [f"paused by {p['by']}: {p['reason']}" for p in shape["pauses"]]
    if shape["config"]["reload_error"]:
        warning.append("the configuration in place was refused, the last good one is in force")
    if not shape["ready"]:
        warning.append("starting: not every probe has measured yet")
    state = "critical" if critical else "warning" if warning else "ok"
    return {"state": state, "text": "; ".join(critical + warning) or "all well"}


def _counted(what: str, titles: list[str]) -> list[str]:
    more = f" (and {len(titles) - 1} more)" if len(titles) > 1 else ""
    return [f"{what}: {titles[0]}{more}"] if titles else []


def _service(parts: Parts, name: str, seen: Seen) -> Shape:
    master = seen.masters.get(name)
    settings = parts.loaded.config.services[name]
    up = _one(parts, "proxywatch_service_up", service=name)
    stopped = _one(parts, "proxywatch_service_stopped", service=name)
    state = "unknown" if up is None else "running" if up else "stopped" if stopped else "down"
    workers = _workers(parts, name, master) if settings.proxy is not None else []
    return {
        "name": name,
        "kind": settings.kind,
        "state": state,
        "note": seen.notes.get(name, "") if state != "running" else "",
        "pid": master.pid if master else seen.pids.get(name),
        "url": settings.proxy.url if settings.proxy else None,
        "ready": _flag(_one(parts, "proxywatch_proxy_ready", service=name)),
        "workers_serving": sum(worker["state"] == "serving" for worker in workers) if workers else None,
        "workers_expected": _whole(_one(parts, "proxywatch_workers_expected", service=name)),
        "requests_per_second": _ask(
            parts, f'sum(rate(http_requests_total{{service="{name}",route!~"/(health|metrics).*"}}[1m]))'
        ),
        "uss_bytes": _one(parts, "proxywatch_process_uss_bytes", service=name),
        "workers": workers,
        "cache": _cache(parts, name) if settings.proxy is not None else None,
    }


def _workers(parts: Parts, service: str, master: MasterStatus | None) -> list[Shape]:
    slots = sorted(
        {dict(labels)["worker"] for labels, _, _ in parts.series.latest("proxywatch_worker_up", service=service)},
        key=lambda slot: (len(slot), slot),
    )
    present = {str(w.slot): w for w in master.workers} if master else {}
    return [_worker(parts, service, slot, present) for slot in slots]


def _worker(parts: Parts, service: str, slot: str, present: Mapping[str, Any]) -> Shape:
    def last(metric: str) -> float | None:
        return _one(parts, f"proxywatch_worker_{metric}", service=service, worker=slot)

    seen = present.get(slot)
    up, serving, responsive = last("up"), last("serving"), last("responsive")
    if up and responsive == 0 and serving:
        state = "hung"
    elif seen is not None:
        state = seen.state
    else:
        state = "down" if not up else "serving" if serving else "starting"
    selector = f'proxywatch_worker_cpu_seconds_total{{service="{service}",worker="{slot}"}}'
    return {
        "worker": slot,
        "pid": seen.pid if seen else None,
        "state": state,
        "since": moment(seen.started_at if seen else last("start_time_seconds")),
        "uss_bytes": last("uss_bytes"),
        "cpu_ratio": _ask(parts, f"rate({selector}[15s])"),
        "response_seconds": last("response_seconds"),
        "crashes": _whole(last("crashes_total")),
        "backoff_seconds": last("backoff_seconds"),
        "last_exit": seen.last_exit if seen else None,
    }


def _cache(parts: Parts, service: str) -> Shape:
    return {
        name: _one(parts, f"cache_{name}", service=service)
        for name in ("usage_ratio", "size_bytes", "max_bytes", "entries", "max_entries", "hit_rate")
    }


def _providers(parts: Parts) -> list[Shape]:
    found = []
    for labels, up, _ in parts.series.latest("provider_up"):
        own = dict(labels)
        service, name = own.get("service", ""), own.get("provider", "")
        faults = [
            dict(fault).get("class", "")
            for fault, value, _ in parts.series.latest("provider_fault", service=service, provider=name)
            if value
        ]
        found.append(
            {
                "provider": name,
                "service": service,
                "up": bool(up),
                "fault": faults[0] if faults else None,
                "circuit": "open" if _one(parts, "provider_circuit_open", service=service, provider=name) else "closed",
                "error_ratio": _one(parts, "provider_error_ratio", service=service, provider=name),
                "latency_seconds": _one(parts, "provider_latency_seconds_mean", service=service, provider=name),
            }
        )
    return found


def _system(parts: Parts) -> Shape:
    """Of this host: CPU in use over the last minute, memory, the fullest file system, load. None: not measured."""
    fullest = _vector(parts, "topk(1, 1 - node_filesystem_avail_bytes / (node_filesystem_size_bytes > 0))")
    return {
        "cpu_ratio": _ask(parts, '1 - avg(sum by (cpu) (rate(node_cpu_seconds_total{mode=~"idle|iowait"}[1m])))'),
        "memory_ratio": _ask(parts, "1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes"),
        "memory_bytes": _one(parts, "node_memory_MemTotal_bytes"),
        "disk_ratio": fullest[0][1] if fullest else None,
        "disk": fullest[0][0].get("mountpoint", "") if fullest else "",
        "load1": _one(parts, "node_load1"),
    }


def _one(parts: Parts, name: str, **labels: str) -> float | None:
    """The newest value of the first series; None if there is none, or it is no number."""
    found = parts.series.latest(name, **labels)
    return _finite(found[0][1]) if found else None


def _ask(parts: Parts, expression: str) -> float | None:
    found = _vector(parts, expression)
    return _finite(found[0][1]) if found else None


def _vector(parts: Parts, expression: str) -> list[tuple[dict[str, str], float]]:
    try:
        value = parts.pipeline.engine.query(expression, parts.clock.now())
    except QueryError:
        return []
    return [(dict(labels), one) for labels, one in value] if isinstance(value, list) else []


def _finite(value: float) -> float | None:
    shown = number(value)
    return shown if isinstance(shown, float | int) else None


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _flag(value: float | None) -> bool | None:
    return None if value is None else bool(value)
