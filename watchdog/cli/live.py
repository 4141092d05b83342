"""The live view of `proxywatch run`: the whole screen, drawn anew when something happened, gone without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from watchdog.api import overview, views
from watchdog.api.frames import frames
from watchdog.api.parts import Parts
from watchdog.api.shapes import moment
from watchdog.cli import alerts, status, text
from watchdog.cli.pause import pause_lines
from watchdog.errors import StoreError

Shape = dict[str, Any]

AT_MOST_SECONDS = 0.25
AT_LEAST_SECONDS = 1.0
RECENT = 3
"""Incidents that are over and still shown."""
_ABOUT = re.compile(r"^incident (\d+) \S+: ")
_CODE = re.compile(r"(\x1b\[[0-9;]*m)")
_LEVELS = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}


class _Ring(logging.Handler):
    """Keeps the last lines of the log for the screen."""

    def __init__(self, lines: int = 200) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=lines)

    def emit(self, record: logging.LogRecord) -> None:
        at = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        line = f"{at}  " + _ABOUT.sub(r"#\1 ", " ".join(record.getMessage().split()))
        colour = _LEVELS.get(record.levelno)
        self.lines.append(text.paint(line, colour) if colour else line)


async def live(parts: Parts, stop: asyncio.Event) -> None:
    """Draws until `stop` is set. A terminal that goes away ends the view, not the daemon."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    screen = Live(console=console, screen=True, auto_refresh=False, transient=True)
    pace = frames(parts.bell, stop, shortest=AT_MOST_SECONDS, longest=AT_LEAST_SECONDS)
    async with contextlib.aclosing(pace):
        with contextlib.suppress(OSError), _log_on_screen() as log, screen:
            async for _ in pace:
                screen.update(_drawn(await _lines(parts, log.lines, *console.size)), refresh=True)


async def _lines(parts: Parts, log: Sequence[str], width: int, height: int) -> list[str]:
    try:
        shape = overview.status(parts, await overview.look(parts))
        latest = views.incidents(parts, everything=True, limit=RECENT + len(shape["incidents"]))["incidents"]
    except StoreError as error:
        now = moment(parts.clock.now())
        return [f"{text.clock_time(now or {})}  {error}; nothing is done until it can be read again", *log][-height:]
    recent = [incident for incident in latest if incident["resolved_at"]][:RECENT]
    return picture(shape, recent, list(log), width, height)


def _drawn(lines: Sequence[str]) -> Any:
    from rich.text import Text

    return Text("\n", no_wrap=True, overflow="crop").join(Text.from_ansi(line) for line in lines)


@contextlib.contextmanager
def _log_on_screen() -> Iterator[_Ring]:
    """While the view is up, log lines that would go to the terminal go into it instead."""
    root = logging.getLogger()
    aside = [
        handler
        for handler in root.handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream in {sys.stderr, sys.stdout}
    ]
    ring = _Ring()
    for handler in aside:
        root.removeHandler(handler)
    root.addHandler(ring)
    try:
        yield ring
    finally:
        root.removeHandler(ring)
        for handler in aside:
            root.addHandler(handler)


def picture(shape: Shape, recent: Sequence[Shape], log: Sequence[str], width: int, height: int) -> list[str]:
    """At most `height` lines of at most `width` columns. What does not fit is left out from below the incidents."""
    airy = height >= 36
    body: list[str] = []
    for title, lines in _blocks(shape, recent, width):
        if lines:
            body += ([""] if airy else []) + [text.heading(title), *lines]
    head, hint = _head(shape, width), _hint(shape, width)
    room = height - len(head) - len(hint) - (1 if airy else 0)
    body = body[:room]
    left = room - len(body) - (2 if airy else 1)
    tail = [text.heading("log"), *log[-left:]] if left > 0 and log else []
    if tail and airy:
        tail = ["", *tail]
    padding = [""] * (room + (1 if airy else 0) - len(body) - len(tail))
    return [cropped(line, width) for line in [*head, *body, *tail, *padding, *hint]][:height]


def _head(shape: Shape, width: int) -> list[str]:
    verdict = shape["verdict"]
    state = text.paint(verdict["state"].upper(), text.state_colour(verdict["state"]))
    right = f"{shape['host']}  up {text.span(round(shape['uptime_seconds']))}  {text.clock_time(shape['now'])}"
    left = text.shortened(verdict["text"], max(10, width - len(right) - len(verdict["state"]) - 16))
    gap = max(2, width - len(right) - len(verdict["state"]) - len(left) - 14)
    first = f"{text.heading('proxywatch')}  {state}  {left}{' ' * gap}{text.paint(right, 'dim')}"
    pauses = [text.paint(line, "yellow") for line in pause_lines(shape["pauses"], shape["now"])]
    error = shape["config"]["reload_error"]
    return [
        first,
        *pauses,
        *([text.paint(f"configuration refused, the last good one is in force: {error}", "red")] if error else []),
    ]


def _blocks(shape: Shape, recent: Sequence[Shape], width: int) -> Iterator[tuple[str, list[str]]]:
    now = shape["now"]
    rows: list[list[str]] = []
    for service in shape["services"]:
        rows.append(status.service_row(service))
        rows += [["  worker " + one["worker"], *status.worker_cells(one, now)] for one in service["workers"]]
        if service["cache"] and service["cache"]["usage_ratio"] is not None:
            rows.append(["  cache", "", status.cache_text(service["cache"])])
    yield "services", text.columns(rows, indent=2, room=width)
    yield "providers", text.columns(map(status.provider_row, shape["providers"]), indent=2, room=width)
    host = [["host", status.host_line(shape["system"])], ["watch", status.watchers_line(shape)]]
    yield "host", text.columns(host, indent=2, room=width)
    yield "incidents", list(_incidents(shape, recent, width))
    known = {alert["fingerprint"] for alert in shape["alerts"] if alert["incident"]}
    loose = [alerts.row(one, now) for one in shape["alerts"] if one["fingerprint"] not in known]
    yield "alerts", text.columns(loose, indent=2, room=width)


def _incidents(shape: Shape, recent: Sequence[Shape], width: int) -> Iterator[str]:
    rows = []
    for incident in (*shape["incidents"], *recent):
        if incident["resolved_at"]:
            how = f"{'healed' if incident['healed'] else 'over'} in {text.span(incident['seconds_to_repair'])}"
            since = f"{text.ago(incident['resolved_at'], shape['now'])} ago"
            words = f"{how}: {incident['title']}"
        else:
            since, words = text.span(incident["duration_seconds"]), incident["title"]
        rows.append([f"#{incident['id']}", incident["target"], incident["state"], since, words])
    lines = text.columns(rows, indent=2, room=width)
    for incident, line in zip((*shape["incidents"], *recent), lines, strict=True):
        yield line
        if not incident["resolved_at"]:
            end = text.until(incident["run"]["until"], shape["now"]) if incident["run"] else ""
            words = status.doing(incident) + (f" ({end})" if end else "")
            yield "      " + text.paint(text.shortened(f"→ {words}", width - 6), "yellow")


def _hint(shape: Shape, width: int) -> list[str]:
    """How to break something, with a pid that is right now."""
    pid = next(
        (w["pid"] for s in shape["services"] for w in s["workers"] if w["pid"] and w["state"] == "serving"), None
    )
    provider = next((p["provider"] for p in shape["providers"]), None)
    ways = [f"kill -9 {pid}"] if pid else []
    ways += [f"{_beside_us('llm-proxy')} demo {provider} 500"] if provider else []
    words = f"try: {'  or  '.join(ways)}   " if ways else ""
    return [text.paint(text.shortened(words, width - 14).ljust(width - 14) + " Ctrl-C leaves", "dim")]


def _beside_us(program: str) -> str:
    """How to call a program that is installed beside ours, as this one was called."""
    own = Path(sys.argv[0])
    return str(own.with_name(program)) if own.name == "proxywatch" and own.parent.name else program


def cropped(line: str, width: int) -> str:
    """`line` cut to `width` visible columns; colour codes count for nothing and are closed."""
    if len(_CODE.sub("", line)) <= width:
        return line
    seen, kept = 0, []
    for piece in _CODE.split(line):
        if piece.startswith("\x1b"):
            kept.append(piece)
        else:
            kept.append(piece[: max(0, width - seen)])
            seen += len(piece)
    return "".join(kept) + ("\x1b[0m" if "\x1b" in line else "")
