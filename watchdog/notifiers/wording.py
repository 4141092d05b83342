"""What a notice says to a person: the verdict in one line, then sections, the same for every kind of receiver."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from watchdog.core.model import TimelineEntry
from watchdog.core.routing import Delivery, Notice, NoticeKind
from watchdog.units import format_duration

SUBJECT_LENGTH = 150
ENTRY_LENGTH = 4000
"""Characters of one evidence entry: a stack dump fits, a log file does not."""

WORDS = {
    NoticeKind.OPENED: "OPEN",
    NoticeKind.ESCALATED: "NEEDS YOU",
    NoticeKind.APPROVAL: "MAY I",
    NoticeKind.RESOLVED: "RESOLVED",
    NoticeKind.HEALED: "HEALED",
}
EVIDENCE_KIND = "evidence"
FINDING_KIND = "finding"
_WITH_TEXT = (EVIDENCE_KIND, FINDING_KIND)
TRIED_KINDS = frozenset(
    {"run", "intent", "done", "failed", "not_done", "unknown", "reconciled", "resumed", "refused", "verified"}
    | {"cancelled", "unhandled"}
)
"""Kinds of story lines that tell of our own acts, beside all that begin with `rung_`; the rest is what happened."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a section; `when` may be empty, `block` is preformatted evidence."""

    when: str
    text: str
    block: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and its lines; never empty."""

    title: str
    lines: tuple[Line, ...]


def summary(notice: Notice) -> str:
    """What is wrong, in the words of the rule: the alert's summary, else its name and target."""
    label = notice.label
    named = f"{label.get('alertname', 'incident')} {label.get('target', '')}".strip()
    return _one_line(notice.annotation.get("summary") or named)


def subject(delivery: Delivery, host: str) -> str:
    """`[host] NEEDS YOU: summary (incident 7)`; one line of at most 150 characters."""
    first, fresh = delivery.notices[0], max(delivery.fresh, 1)
    still = "STILL " if delivery.repeat else ""
    more = f" and {fresh - 1} more" if fresh > 1 and not delivery.repeat else ""
    tail = f" (incident {first.incident_id}{more})" if first.incident_id else ""
    head = _one_line(f"[{host}] {still}{WORDS[first.kind]}: {summary(first)}")
    room = SUBJECT_LENGTH - len(tail)
    return (head if len(head) <= room else head[: room - 1] + "…") + tail


def verdict(notice: Notice) -> str:
    """One sentence that is enough at three in the morning."""
    lasted = format_duration(max((notice.ended_at or notice.started_at) - notice.started_at, 0.0))
    match notice.kind:
        case NoticeKind.ESCALATED:
            return "proxywatch cannot repair this alone; a person is needed."
        case NoticeKind.APPROVAL:
            return "A repair is ready and waits for your word; without it nothing is done."
        case NoticeKind.OPENED:
            return "Nothing repairs this by itself; please look at it."
        case NoticeKind.HEALED:
            rest = "what was found is for a programmer, by day" if finding(notice) else "nothing to do"
            return f"Repaired without you after {lasted}; {rest}."
        case NoticeKind.RESOLVED:
            return f"It is over after {lasted}; nothing to do."


def finding(notice: Notice) -> str:
    """What was found of the cause, in one line; empty if nothing was."""
    return next((_one_line(entry.text) for entry in reversed(notice.story) if entry.kind == FINDING_KIND), "")


def sections(notice: Notice) -> tuple[Section, ...]:
    """Why, what was found, what is wrong, what happened, what was tried, evidence, what to do: those that are not
    empty."""
    told = notice.annotation.get("description", "").strip()
    why = "Why you are told" if notice.status == "firing" else "How it ended"
    candidates = (
        Section(why, tuple(Line("", _one_line(text)) for text in (notice.reason,) if text)),
        Section("What was found", tuple(_evidence(e) for e in notice.story if e.kind == FINDING_KIND)),
        Section("What is wrong", tuple(Line("", _one_line(part)) for part in told.split("\n\n") if part)),
        Section("What happened", _lines(e for e in notice.story if e.kind not in _WITH_TEXT and not _is_ours(e))),
        Section("What was tried", _lines(filter(_is_ours, notice.story))),
        Section("Evidence", tuple(_evidence(e) for e in notice.story if e.kind == EVIDENCE_KIND)),
        Section("What to do", tuple(Line("", _one_line(step)) for step in notice.advice)),
    )
    return tuple(section for section in candidates if section.lines)


def facts(notice: Notice, host: str) -> tuple[tuple[str, str], ...]:
    """Name and value pairs that place the incident; empty values are left out."""
    label = notice.label
    pairs = (
        ("Incident", str(notice.incident_id or "")),
        ("Host", host),
        ("Alert", label.get("alertname", "")),
        ("Severity", label.get("severity", "")),
        ("Target", label.get("target", "")),
        ("Began", when(notice.started_at)),
        ("Ended", when(notice.ended_at) if notice.ended_at else ""),
    )
    return tuple((name, _one_line(value)) for name, value in pairs if value)


def when(at: float) -> str:
    """`2026-11-23 04:05:06 UTC`: a mail is read in any time zone."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _is_ours(entry: TimelineEntry) -> bool:
    return entry.kind in TRIED_KINDS or entry.kind.startswith("rung_")


def _lines(entries: Iterable[TimelineEntry]) -> tuple[Line, ...]:
    return tuple(Line(_clock_time(entry), _one_line(entry.text)) for entry in entries)


def _evidence(entry: TimelineEntry) -> Line:
    """The whole text stands in the entry's `text` where there is one, a finding's with its first line twice; any other
    data is listed by name."""
    head, _, rest = entry.text.strip().partition("\n")
    whole = entry.data.get("text")
    if entry.kind == FINDING_KIND and isinstance(whole, str):
        whole = whole.partition("\n")[2]
    block = (
        whole if isinstance(whole, str) else "\n".join([rest, *(f"{n}: {_shown(v)}" for n, v in entry.data.items())])
    )
    block = "".join(c if c.isprintable() or c in "\n\t" else "�" for c in block.strip("\n"))
    if len(block) > ENTRY_LENGTH:
        block = f"{block[:ENTRY_LENGTH]}\n… {len(block) - ENTRY_LENGTH} characters more in the incident"
    return Line(_clock_time(entry), _one_line(head), block)


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _clock_time(entry: TimelineEntry) -> str:
    return datetime.fromtimestamp(entry.at, UTC).strftime("%H:%M:%S")


def _one_line(text: str) -> str:
    """Without line ends and other control characters, so that no value can start a line or a header of its own."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
