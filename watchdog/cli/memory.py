"""`proxywatch memory status|trend|trace|snapshots|diff|report`: what processes keep, and what leaks in them."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from watchdog.cli import text
from watchdog.cli.arguments import duration
from watchdog.cli.control import control_of
from watchdog.cli.spark import spark
from watchdog.errors import ConfigError, ControlError

Shape = dict[str, Any]
ANSWER_SECONDS = 60.0
COMPARING_SECONDS = 330.0
SILENCE_SECONDS = 1800.0
"""So long a diagnosis may say nothing: its children give way to everybody else."""
_WIDE = 40
_NARROW = 16

_WORDS = {
    "leak": "it leaks: the floor rises and does not slow down",
    "warm_up": "it warms up: it rises and slows down",
    "plateau": "it stays",
    "saw_tooth": "a saw-tooth: it rises and falls to where it was",
    "step": "it rose at once and stayed",
    "traffic": "it goes with the traffic",
    "noise": "it goes up and down",
    "unknown": "not enough has been seen",
}


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the actions."""
    noun = commands.add_parser("memory", parents=[common], help="what processes keep, and what leaks in them")
    actions = noun.add_subparsers(metavar="ACTION", required=True)
    which = argparse.ArgumentParser(add_help=False)
    which.add_argument("--service", metavar="S", help="only this service")
    which.add_argument("--worker", metavar="N", help="only this worker, or process of the service")

    def action(name: str, do: Any, help_text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = actions.add_parser(name, parents=[common, which], help=help_text)
        made.set_defaults(do=do)
        return made

    action("status", _status, "every process with a memory agent: figures and trend")
    action("trend", _trend, "how it grew, and what that is judged to be")
    trace = action("trace", _trace, "look for what leaks now; tracing slows the process down, Ctrl-C ends it")
    trace.add_argument("--duration", type=duration, default=300.0, metavar="5m", help="of tracing (5m)")
    trace.add_argument("--snapshots", type=int, default=4, metavar="N", help="taken in that time, 3 to 12 (4)")
    trace.add_argument("--frames", type=int, default=1, metavar="N", help="of each allocation (1); more cost more")
    trace.add_argument("--share", type=float, default=0.1, metavar="0.1", help="of the connections for a worker (0.1)")
    trace.add_argument("--yes", action="store_true", help="do not ask")
    action("snapshots", _snapshots, "the snapshots that are kept")
    diff = action("diff", _diff, "what grew between two snapshots")
    diff.add_argument("older", metavar="OLDER")
    diff.add_argument("newer", metavar="NEWER")
    diff.add_argument("--top", type=int, default=20, metavar="N", help="lines (20)")
    report = action("report", _report, "what was found, as one HTML file")
    report.add_argument("name", nargs="?", metavar="FINDING", help="default: the newest")
    report.add_argument("--output", type=Path, metavar="FILE", help="write the page there; `-` for standard output")
    report.add_argument("--list", action="store_true", dest="listing", help="the names of what was found")


def _query(options: argparse.Namespace) -> Shape:
    return {"service": options.service, "worker": options.worker}


def _status(options: argparse.Namespace) -> int:
    shape = control_of(options).get("/v1/memory", timeout=ANSWER_SECONDS, **_query(options))
    if options.json:
        text.say_json(shape)
        return 0
    head = ["process", "anonymous", "objects", "fds", "tasks", "threads", "an hour", "shape", "last hours"]
    if shape["processes"]:
        text.say(text.columns([head, *(_row(one) for one in shape["processes"])]))
    elif not shape["problems"]:
        text.say("no process has a memory agent")
    for one in shape["processes"]:
        if one["tracing"]:
            text.say(f"{_name(one)} is being traced, until {text.clock_time({'epoch': one['tracing']['until']})}")
    _say_problems(shape)
    return 1 if shape["problems"] else 0


def _row(one: Shape) -> list[str]:
    trend, limit = one["trend"], one["descriptors_limit"]
    return [
        _name(one),
        text.size(one["anon_bytes"]),
        f"{one['objects']:,}",
        f"{one['descriptors']:,}" + (f"/{limit:,}" if limit else ""),
        f"{one['tasks']:,}",
        f"{one['threads']:,}",
        "-" if trend["bytes_per_hour"] is None or not _grows(trend) else text.size(trend["bytes_per_hour"]),
        (trend["shape"] or "-").replace("_", " "),
        spark(one["spark"], _NARROW),
    ]


def _grows(trend: Shape) -> bool:
    """Whether a rate means anything: the slope of what stays or warms up is none."""
    return trend["shape"] in {"leak", None}


def _name(one: Shape) -> str:
    return f"{one['service']}/{one['worker']}"


def _trend(options: argparse.Namespace) -> int:
    shape = control_of(options).get("/v1/memory/trend", timeout=ANSWER_SECONDS, **_query(options))
    if options.json:
        text.say_json(shape)
        return 0
    if not shape["processes"] and not shape["problems"]:
        text.say("no process has a memory agent")
    for one in shape["processes"]:
        text.say(_trend_lines(one, shape["now"]))
    _say_problems(shape)
    return 1 if shape["problems"] else 0


def _trend_lines(one: Shape, now: Shape) -> Iterator[str]:
    trend, points = one["trend"], [value for _at, value in one["points"]]
    yield text.heading(f"{_name(one)}, pid {one['pid']}")
    if points:
        line = f"{spark(points, _WIDE)}  {text.size(min(points))} to {text.size(max(points))}"
        yield f"  {line}, over {text.ago(one['since'], now)}"
    else:
        yield f"  anonymous memory {text.size(one['anon_bytes'])}; no series of it is kept"
    judged = _WORDS.get(trend["shape"] or "unknown", trend["shape"])
    sure = "" if trend["confidence"] is None else f" ({text.percent(trend['confidence'])} sure)"
    yield f"  memory: {judged}{sure}{_rates(trend)}"
    for resource in one["resources"]:
        known = resource["per_hour"] is not None and _grows(resource)
        rate = f", {resource['per_hour']:+,.0f} an hour" if known else ""
        judged = _WORDS.get(resource["shape"] or "unknown", resource["shape"])
        yield f"  {resource['resource']}: {judged}{rate}{_limit(resource)}"


def _rates(trend: Shape) -> str:
    parts = []
    if not _grows(trend):
        return ""
    if trend["bytes_per_hour"] is not None:
        parts.append(f"{text.size(trend['bytes_per_hour'])} an hour")
    if trend["bytes_per_request"] is not None:
        parts.append(f"{text.size(trend['bytes_per_request'])} a request")
    return (", " + ", ".join(parts) if parts else "") + _limit(trend)


def _limit(shape: Shape) -> str:
    left = shape["seconds_to_limit"]
    return "" if left is None else f", at its limit in {text.span(left)}"


def _trace(options: argparse.Namespace) -> int:
    body = _query(options) | {key: getattr(options, key) for key in ("snapshots", "frames", "share")}
    body["duration"] = f"{options.duration:g}s"
    if not options.yes:
        _ask(options)
    finding: Shape | None = None
    began = time.monotonic()
    for line in control_of(options).follow("/v1/memory/trace", body, timeout=SILENCE_SECONDS):
        if "tell" in line and not options.json:
            print(f"{text.span(time.monotonic() - began):>7}  {line['tell']}", file=sys.stderr)
        elif "error" in line:
            raise ControlError(line["error"], hint=line["hint"])
        finding = line.get("finding", finding)
    if finding is None:
        raise ControlError("the daemon ended before anything was found", hint="see its log")
    if options.json:
        text.say_json(finding)
        return 0
    for number, line in enumerate(finding["text"].splitlines()):
        text.say(text.paint(line, "bold") if number == 0 else f"  {line}")
    text.say(f"report: {finding['report']}")
    return 0


def _ask(options: argparse.Namespace) -> None:
    """Raises ConfigError where nobody can be asked, ControlError where the answer is no."""
    if not sys.stdin.isatty():
        raise ConfigError("tracing makes the process slower, and nobody can be asked here", hint="say --yes")
    which = f"worker {options.worker}" if options.worker else "the process that grows fastest"
    long = text.span(options.duration)
    answer = input(f"Trace {which} for {long}? Its requests are 3 to 5 times as dear meanwhile. [y/N] ")
    if answer.strip().lower() not in {"y", "yes"}:
        raise ControlError("nothing was done")


def _snapshots(options: argparse.Namespace) -> int:
    shape = control_of(options).get("/v1/memory/snapshots", timeout=ANSWER_SECONDS, **_query(options))
    if options.json:
        text.say_json(shape)
        return 0
    rows = [
        [
            one["name"],
            _name(one),
            text.clock_time({"epoch": one["taken_at"]}, date=True),
            f"{text.size(one['traced_bytes'])} in {one['traces']:,} traces",
        ]
        for one in shape["snapshots"]
    ]
    text.say(text.columns(rows) or "no process keeps a snapshot")
    _say_problems(shape)
    return 1 if shape["problems"] else 0


def _diff(options: argparse.Namespace) -> int:
    body = _query(options) | {"older": options.older, "newer": options.newer, "top": options.top}
    shape = control_of(options).post("/v1/memory/diff", body, timeout=COMPARING_SECONDS)
    if options.json:
        text.say_json(shape)
        return 0
    served = "" if shape["requests"] is None else f" and {shape['requests']:,} requests"
    text.say(f"{text.size(shape['grown_bytes'])} more in {text.span(shape['seconds'])}{served}")
    rows = [
        [
            text.size(line["bytes"] - line["bytes_before"]),
            f"{line['count'] - line['count_before']:+,}",
            f"{line['file']}:{line['line']}",
        ]
        for line in shape["lines"]
    ]
    text.say(text.columns(rows, wrap_last=True))
    return 0


def _report(options: argparse.Namespace) -> int:
    control = control_of(options)
    if options.listing:
        shape = control.get("/v1/memory/findings")
        if options.json:
            text.say_json(shape)
        else:
            text.say(shape["findings"] or "nothing was found yet")
        return 0
    shape = control.get("/v1/memory/findings", name=options.name or "newest", timeout=ANSWER_SECONDS)
    page = shape.pop("page")
    if options.json:
        text.say_json(shape)
    elif str(options.output) == "-":
        text.say(page)
    elif options.output is None:
        text.say([*shape["text"].splitlines(), f"report: {shape['report']}"])
    else:
        try:
            options.output.write_text(page, encoding="utf-8")
        except OSError as error:
            raise ControlError(f"{options.output}: cannot be written: {error.strerror}") from error
        text.say(f"{shape['name']}: {options.output}")
    return 0


def _say_problems(shape: Shape) -> None:
    for problem in shape["problems"]:
        print(f"proxywatch: {problem}", file=sys.stderr)
