"""`proxywatch status`: everything at a glance."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from watchdog.cli import alerts, maintenance, silence, text
from watchdog.cli.control import control_of
from watchdog.cli.decide import asking
from watchdog.cli.pause import pause_lines

Shape = dict[str, Any]
_WITHOUT_PROCESS = frozenset({"down", "backoff", "gone"})


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    status = commands.add_parser("status", parents=[common], help="services, providers, alerts, incidents at a glance")
    status.set_defaults(do=_status)


def _status(options: argparse.Namespace) -> int:
    shape = control_of(options).get("/v1/status")
    if options.json:
        text.say_json(shape)
    else:
        text.say(lines(shape))
    return 0


def lines(shape: Shape) -> Iterator[str]:
    """The whole picture, as many lines as it needs."""
    verdict = shape["verdict"]
    word = text.paint(verdict["state"].upper(), text.state_colour(verdict["state"]))
    yield f"{word}  {verdict['text']}"
    up = text.span(shape["uptime_seconds"])
    me = f"proxywatch {shape['version']} on {shape['host']}, pid {shape['pid']}, up {up}, {shape['config']['file']}"
    yield text.shortened(me, text.width())
    for line in pause_lines(shape["pauses"], shape["now"]):
        yield text.shortened(line, text.width())
    if shape["storm"]:
        yield text.shortened(f"suspect the observer: {shape['storm']['text']}", text.width())
    if shape["config"]["reload_error"]:
        yield f"configuration refused, the last good one is in force: {shape['config']['reload_error']}"
        yield "  put it right (`proxywatch config check` says where it is wrong), then `proxywatch reload`"
    if shape["approvals"]:
        yield from _block("waits for `proxywatch approve|deny RUN`", text.columns(_asking(shape), indent=2))
    if shape["services"]:
        yield from _block("services", text.columns(_services(shape), indent=2))
    if shape["providers"]:
        yield from _block("providers", text.columns(map(provider_row, shape["providers"]), indent=2))
    yield from _block("host", ["  " + host_line(shape["system"])])
    if shape["alerts"]:
        rows = [alerts.row(alert, shape["now"]) for alert in shape["alerts"]]
        yield from _block(
            "alerts", [*text.columns(rows, indent=2), *_more(shape["alerts_total"] - len(rows), "alerts")]
        )
    if shape["incidents"]:
        rows = [incident_row(incident) for incident in shape["incidents"]]
        more = _more(shape["incidents_total"] - len(rows), "incident list")
        yield from _block("incidents", [*text.columns(rows, indent=2), *more])
    if shape["maintenance"]:
        yield from _block("maintenance", maintenance.lines(shape["maintenance"], shape["now"], indent=2))
    if shape["silences"]:
        yield from _block("silences", silence.lines(shape["silences"], shape["now"], indent=2))
    yield ""
    yield watchers_line(shape)


def _block(title: str, content: list[str]) -> Iterator[str]:
    yield ""
    yield text.heading(title)
    yield from content


def _asking(shape: Shape) -> Iterator[list[str]]:
    for one in shape["approvals"]:
        yield [f"run {one['run']}", text.until(one["until"], shape["now"]), asking(one).partition(" of ")[2]]


def _more(count: int, command: str) -> list[str]:
    return [f"  and {count} more: proxywatch {command}"] if count else []


def _services(shape: Shape) -> Iterator[list[str]]:
    for service in shape["services"]:
        yield service_row(service)
        for worker in service["workers"]:
            yield ["  worker " + worker["worker"], *worker_cells(worker, shape["now"])]
        if service["cache"] and service["cache"]["usage_ratio"] is not None:
            yield ["  cache", cache_text(service["cache"])]


def service_row(service: Shape) -> list[str]:
    """Name, state, and what is known of its load."""
    known = []
    if service["workers_expected"] is not None:
        verb = "serves" if service["workers_serving"] == 1 else "serve"
        known.append(f"{service['workers_serving']} of {text.count(service['workers_expected'], 'worker')} {verb}")
    if service["requests_per_second"] is not None:
        known.append(f"{service['requests_per_second']:.1f} requests/s")
    if service["ready"] is False:
        known.append("not ready")
    if service["pid"] is not None:
        known.append(f"pid {service['pid']}")
    if service["note"]:
        known.append(service["note"])
    return [service["name"], service["state"], ", ".join(known)]


def worker_cells(worker: Shape, now: Shape) -> list[str]:
    """State and figures of one worker."""
    # The master knows the pid, and may be slow to answer; whether there is a process has been measured.
    without = "no process" if worker["state"] in _WITHOUT_PROCESS else "pid unknown"
    pid = f"pid {worker['pid']}" if worker["pid"] else without
    if worker["backoff_seconds"]:
        pid += f", next start in {text.span(worker['backoff_seconds'])}"
    figures = [pid, f"up {text.ago(worker['since'], now)}", text.size(worker["uss_bytes"])]
    figures += [f"cpu {text.percent(worker['cpu_ratio'])}", f"answers in {text.span(worker['response_seconds'])}"]
    if worker["crashes"]:
        figures.append("1 crash" if worker["crashes"] == 1 else f"{worker['crashes']} crashes")
    return [worker["state"], ", ".join(figures)]


def cache_text(cache: Shape) -> str:
    """How full the cache is and how often it answers."""
    hits = "no look-ups yet" if cache["hit_rate"] is None else f"{text.percent(cache['hit_rate'])} hits"
    entries = text.count(round(cache["entries"] or 0), "entry").replace("entrys", "entries")
    return f"{text.percent(cache['usage_ratio'])} of {text.size(cache['max_bytes'])}, {entries}, {hits}"


def provider_row(provider: Shape) -> list[str]:
    """Name, state, circuit and figures of one provider."""
    state = "up" if provider["up"] and not provider["fault"] else "failing"
    fault = f"fault: {provider['fault']}" if provider["fault"] else "no fault"
    figures = f"errors {text.percent(provider['error_ratio'])}"
    if provider["latency_seconds"] is not None:
        figures += f", answers in {text.span(provider['latency_seconds'])}"
    return [provider["provider"], state, f"circuit {provider['circuit']}", fault, figures]


def host_line(system: Shape) -> str:
    """CPU, memory, disk and load."""
    disk = f"disk {text.percent(system['disk_ratio'])} of {system['disk'] or '?'}"
    memory = f"memory {text.percent(system['memory_ratio'])} of {text.size(system['memory_bytes'])}"
    load = "?" if system["load1"] is None else f"{system['load1']:.2f}"
    return f"cpu {text.percent(system['cpu_ratio'])}, {memory}, {disk}, load {load}"


def incident_row(incident: Shape) -> list[str]:
    """One incident in a line: what is wrong, since when, and what is being done."""
    since = text.span(incident["duration_seconds"])
    return [f"#{incident['id']}", incident["severity"], incident["target"], incident["state"], since, doing(incident)]


def doing(incident: Shape) -> str:
    """What happens about it now."""
    run = incident["run"]
    if run is None:
        seen = f"acknowledged by {incident['acknowledged_by']}" if incident["acknowledged_at"] else ""
        asked = "a person was asked: " if incident["paged"] and not incident["escalated_at"] else ""
        return (asked + incident["reason"] if incident["reason"] else seen) or incident["title"]
    place = f"{run['playbook']}: rung {run['rung']}, {run['doing']}" if run["rung"] else f"{run['playbook']}: ending"
    return place + (f": {run['waits_for'][0]['text']}" if run["waits_for"] else "")


def watchers_line(shape: Shape) -> str:
    """The agent's own state: probes and outbox."""
    failing = shape["probes"]["failing"]
    measured = f"failing: {', '.join(one['name'] for one in failing)}" if failing else "all measure"
    outbox = shape["outbox"]
    waiting = f"{outbox['pending']} to send" if outbox["pending"] else "nothing to send"
    dead = f", {outbox['dead']} given up" if outbox["dead"] else ""
    return f"{text.count(shape['probes']['total'], 'probe')}, {measured}; outbox: {waiting}{dead}"
