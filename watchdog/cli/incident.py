"""`proxywatch incident list|show|ack`: what went wrong, told so that it can be read at night."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from watchdog.cli import text
from watchdog.cli.control import control_of
from watchdog.cli.status import doing
from watchdog.units import format_duration

Shape = dict[str, Any]

EVIDENCE_LINES = 4
"""Lines of a piece of evidence that are shown without --full."""
_TOLD_AT_THE_END = frozenset({"service_log"})
"""Of a log the last lines tell most."""
_LOUD = {"escalated": "red", "failed": "red", "person_needed": "red", "rung_failed": "yellow", "refused": "yellow"}
_CALM = {"verified": "green", "rung_verified": "green", "resolved": "green", "evidence": "dim", "notice": "dim"}


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the three actions."""
    incident = commands.add_parser("incident", aliases=["incidents"], parents=[common], help="list, show, acknowledge")
    actions = incident.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", parents=[common], help="the unresolved ones")
    listing.add_argument("--all", action="store_true", help="the resolved ones as well, newest first")
    listing.add_argument("--limit", type=int, default=20, metavar="N")
    listing.set_defaults(do=_list)
    show = actions.add_parser("show", parents=[common], help="the whole story of one")
    show.add_argument("id", type=int, metavar="ID")
    show.add_argument("--full", action="store_true", help="all evidence, unfolded")
    show.set_defaults(do=_show)
    ack = actions.add_parser("ack", parents=[common], help="say that you have it: its messages are not repeated")
    ack.add_argument("id", type=int, metavar="ID")
    ack.set_defaults(do=_ack)


def _list(options: argparse.Namespace) -> int:
    shape = control_of(options).get("/v1/incidents", limit=options.limit, all="1" if options.all else None)
    if options.json:
        text.say_json(shape)
    elif not shape["incidents"]:
        text.say("there was never an incident" if options.all else "no unresolved incident (--all shows the others)")
    else:
        text.say(text.columns(_row(incident) for incident in shape["incidents"]))
    return 0


def _row(incident: Shape) -> list[str]:
    began = text.clock_time(incident["started_at"], date=True)
    if incident["resolved_at"]:
        what = incident["title"] + (" (healed)" if incident["healed"] else "")
    else:
        what = doing(incident)
    lasted = text.span(incident["duration_seconds"])
    return [f"#{incident['id']}", began, incident["severity"], incident["target"], incident["state"], lasted, what]


def _ack(options: argparse.Namespace) -> int:
    shape = control_of(options).post(f"/v1/incidents/{options.id}/ack")
    if options.json:
        text.say_json(shape)
    else:
        text.say(f"incident {shape['id']} acknowledged by {shape['acknowledged_by']}")
    return 0


def _show(options: argparse.Namespace) -> int:
    shape = control_of(options).get(f"/v1/incidents/{options.id}")
    if options.json:
        text.say_json(shape)
    else:
        text.say(story(shape, full=options.full))
    return 0


def story(shape: Shape, *, full: bool = False) -> Iterator[str]:
    """Header, then the timeline with offsets from the first wrong measurement, evidence folded below its line."""
    yield text.heading(f"Incident {shape['id']}: {shape['title']}")
    yield from text.columns(_header(shape), indent=2, wrap_last=True)
    if shape["annotations"].get("description"):
        yield ""
        for line in text.folded(" ".join(shape["annotations"]["description"].split()), text.width() - 2):
            yield "  " + line
    yield ""
    size = max((len(entry["kind"]) for entry in shape["timeline"]), default=0)
    for entry in shape["timeline"]:
        yield from _entry(entry, size, full)


def _header(shape: Shape) -> list[list[str]]:
    state = shape["state"] + (f": {shape['reason']}" if shape["reason"] and shape["state"] != "resolved" else "")
    times = [f"detected after {text.span(shape['seconds_to_detect'])}"]
    if shape["seconds_to_act"] is not None:
        times.append(f"first act {text.span(shape['seconds_to_act'])} later")
    if shape["seconds_to_repair"] is not None:
        times.append(f"over after {text.span(shape['seconds_to_repair'])}")
    rows = [
        ["state", state],
        ["target", shape["target"]],
        ["severity", shape["severity"]],
        [
            "began",
            f"{text.clock_time(shape['started_at'], date=True)}, {text.ago(shape['started_at'], shape['now'])} ago",
        ],
        ["times", ", ".join(times)],
        ["alerts", ", ".join(shape["alertnames"])],
    ]
    found = next((entry["text"] for entry in reversed(shape["timeline"]) if entry["kind"] == "finding"), "")
    if found:
        rows.append(["found", found])
    if shape["run"] is not None:
        rows.append(["now", doing(shape)])
    if shape["escalated_at"]:
        rows.append(["page", f"a person was called {text.ago(shape['escalated_at'], shape['now'])} ago"])
    elif shape["paged"]:
        rows.append(["page", "a person was asked for what only a person can do"])
    if shape["hands_off"]:
        rows.append(["left", f"to people by {shape['hands_off']}: nothing begins by itself"])
    if shape["acknowledged_at"]:
        rows.append(["seen", f"by {shape['acknowledged_by']}, {text.ago(shape['acknowledged_at'], shape['now'])} ago"])
    return rows


def _entry(entry: Shape, size: int, full: bool) -> Iterator[str]:
    kind = entry["kind"]
    colour = _LOUD.get(kind) or _CALM.get(kind)
    label = kind.replace("_", " ").ljust(size)
    head = f"{_offset(entry['offset_seconds']):>9}  {text.paint(label, colour) if colour else label}  "
    evidence = entry["data"].get("text") if kind == "evidence" else None
    start = 9 + 2 + size + 2
    words = f"{entry['data'].get('name', '')}:" if evidence else entry["text"]
    if evidence and "\n" not in evidence.strip():
        words, evidence = f"{words} {evidence.strip()}", None
    if kind == "finding":
        # Its first line is the entry's own.
        evidence = str(entry["data"].get("text", "")).partition("\n")[2]
    for index, line in enumerate(text.folded(words, max(30, text.width() - start))):
        yield (head if not index else " " * start) + line
    if evidence:
        lines = str(evidence).rstrip().splitlines()
        room = max(30, text.width() - start - 2)
        at_the_end = entry["data"].get("name") in _TOLD_AT_THE_END
        shown = lines if full else lines[-EVIDENCE_LINES:] if at_the_end else lines[:EVIDENCE_LINES]
        hidden = text.count(len(lines) - len(shown), "more line")
        if len(lines) > len(shown) and at_the_end:
            yield " " * start + text.paint(f"┌ {hidden} before: --full shows all", "dim")
        for line in shown:
            cut = line if full or len(line) <= room else line[: room - 1] + "…"
            yield " " * start + text.paint("│ " + cut, "dim")
        if len(lines) > len(shown) and not at_the_end:
            yield " " * start + text.paint(f"└ {hidden}: --full shows all", "dim")


def _offset(seconds: float) -> str:
    return f"+{format_duration(seconds)}" if seconds >= 0 else f"-{format_duration(-seconds)}"
