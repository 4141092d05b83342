"""What an e-mail says, and that nothing in it can forge a header or a tag."""

from __future__ import annotations

from dataclasses import replace
from email import message_from_bytes
from email.policy import default

import pytest

from watchdog.core.model import TimelineEntry, labels_of
from watchdog.core.routing import Delivery, Notice, NoticeKind
from watchdog.notifiers.email_message import addresses, compose, html_body, text_body
from watchdog.notifiers.wording import ENTRY_LENGTH, SUBJECT_LENGTH, subject, verdict

NOTICE = Notice(
    7,
    NoticeKind.ESCALATED,
    "7:escalated:1",
    labels_of(alertname="WorkerDown", severity="critical", target="worker:web/1"),
    labels_of(summary="Worker 1 is down", description="It died.\nThree times."),
    started_at=1_700_000_000.0,
    story=(
        TimelineEntry(1_700_000_000.0, "opened", "noticed"),
        TimelineEntry(1_700_000_001.0, "failed", "recycle worker: still dead"),
        TimelineEntry(1_700_000_002.0, "evidence", "stack\nline one", {"count": 3}),
    ),
    reason="the ladder is exhausted",
    advice=("look at the log",),
)
DELIVERY = Delivery("7:escalated:1:abc", "ops", "g", (), (NOTICE,), 1, 1_700_000_060.0)
OTHER = replace(NOTICE, incident_id=8, key="8:opened:1", kind=NoticeKind.OPENED, story=(), reason="", advice=())


def test_the_text_reads_from_verdict_to_advice() -> None:
    """The verdict is first, then reason, what is wrong, what happened, what was tried, evidence, what to do."""
    text = text_body(DELIVERY, "edge-3")
    order = [
        "NEEDS YOU: Worker 1 is down\nproxywatch cannot repair this alone; a person is needed.",
        "the ladder is exhausted",
        "It died. Three times.",
        "WHAT HAPPENED\n  22:13:20  noticed",
        "WHAT WAS TRIED\n  22:13:21  recycle worker: still dead",
        "EVIDENCE\n  22:13:22  stack\n      line one\n      count: 3",
        "WHAT TO DO\n  look at the log",
        "Incident: 7",
        "Began:    2023-11-14 22:13:20 UTC",
    ]
    positions = [text.find(part) for part in order]
    assert -1 not in positions
    assert positions == sorted(positions)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (NoticeKind.OPENED, "look at it"),
        (NoticeKind.ESCALATED, "a person is needed"),
        (NoticeKind.RESOLVED, "over after 3m 20s"),
        (NoticeKind.HEALED, "Repaired without you after 3m 20s"),
    ],
)
def test_each_kind_has_its_verdict(kind: NoticeKind, word: str) -> None:
    """The first sentence says whether anything is to be done."""
    assert word in verdict(replace(NOTICE, kind=kind, ended_at=1_700_000_200.0))


def test_subjects_are_short_and_tell_repeats_and_company() -> None:
    """A subject is bounded, says STILL for a repeat and counts the other incidents."""
    assert subject(DELIVERY, "h") == "[h] NEEDS YOU: Worker 1 is down (incident 7)"
    repeat = replace(DELIVERY, fresh=0, repeat=True)
    assert subject(repeat, "h") == "[h] STILL NEEDS YOU: Worker 1 is down (incident 7)"
    both = replace(DELIVERY, notices=(NOTICE, OTHER), fresh=2)
    assert subject(both, "h").endswith("(incident 7 and 1 more)")
    long = replace(NOTICE, annotations=labels_of(summary="x" * 500))
    assert len(subject(replace(DELIVERY, notices=(long,)), "h")) == SUBJECT_LENGTH
    bare = replace(NOTICE, annotations=())
    assert "WorkerDown worker:web/1" in subject(replace(DELIVERY, notices=(bare,)), "h")


def test_what_is_not_news_is_only_listed() -> None:
    """Unresolved incidents of the group that were told before take one line."""
    both = replace(DELIVERY, notices=(OTHER, NOTICE), fresh=1)
    for body in (text_body(both, "h"), html_body(both, "h")):
        assert "still dead" not in body
        assert "incident 7: Worker 1 is down" in body


def test_nothing_can_forge_a_header() -> None:
    """Line ends in labels, summaries and keys end up as spaces or dots, never as headers."""
    evil = replace(
        NOTICE,
        annotations=labels_of(summary="x\r\nBcc: eve@example.org\r\n\r\nbody"),
        labels=labels_of(target="a\nX-Evil: 1", alertname="b"),
    )
    delivery = replace(DELIVERY, key="7\r\nX-Evil: 1", notices=(evil,))
    mail = compose(delivery, sender="pw@example.org", recipients="ann@example.org", host="h\nX-Evil: 1")
    again = message_from_bytes(mail.as_bytes(), policy=default)
    assert "X-Evil" not in again
    assert "Bcc" not in again
    assert again["To"] == "ann@example.org"


def test_nothing_can_forge_a_tag() -> None:
    """Every value is escaped in the HTML part, and the page loads nothing."""
    evil = "<script src=//x></script>&\"'"
    notice = replace(
        NOTICE,
        labels=labels_of(alertname=evil, target=evil, severity=evil),
        annotations=labels_of(summary=evil, description=evil),
        story=(TimelineEntry(0.0, "evidence", evil, {"x": evil}), TimelineEntry(0.0, "opened", evil)),
        reason=evil,
        advice=(evil,),
    )
    page = html_body(replace(DELIVERY, notices=(notice, notice), fresh=1), evil)
    assert "<script" not in page
    assert "&lt;script" in page
    assert "http" not in page


def test_evidence_is_its_text() -> None:
    """An entry that carries its whole text shows that, and none of the bookkeeping beside it."""
    data = {"name": "stack", "run": 3, "text": "first\nsecond"}
    story = (TimelineEntry(0.0, "evidence", "stack: first", data), TimelineEntry(0.0, "rung_failed", "rung 1"))
    text = text_body(replace(DELIVERY, notices=(replace(NOTICE, story=story),)), "h")
    assert "EVIDENCE\n  00:00:00  stack: first\n      first\n      second\n\n" in text
    assert "WHAT WAS TRIED\n  00:00:00  rung 1" in text


def test_terminal_sequences_stay_out() -> None:
    """Control characters of logs and labels reach neither subject nor text nor HTML."""
    evil = "red \x1b[31mtext\x07\x00"
    story = (TimelineEntry(0.0, "opened", evil), TimelineEntry(0.0, "evidence", evil, {"text": evil}))
    delivery = replace(DELIVERY, notices=(replace(NOTICE, story=story, annotations=labels_of(summary=evil)),))
    for text in (subject(delivery, "h"), text_body(delivery, "h"), html_body(delivery, "h")):
        assert "red" in text
        assert not set(text) & {"\x1b", "\x07", "\x00"}


def test_evidence_is_bounded() -> None:
    """A log of megabytes becomes its beginning and the number of characters left out."""
    story = (TimelineEntry(0.0, "evidence", "log", {"log": "x" * 10_000_000}),)
    text = text_body(replace(DELIVERY, notices=(replace(NOTICE, story=story),)), "h")
    assert len(text) < ENTRY_LENGTH + 2_000
    assert "characters more in the incident" in text


def test_headers_of_the_operator() -> None:
    """An operator's subject replaces ours, other headers are added."""
    mail = compose(
        DELIVERY,
        sender="proxywatch <pw@example.org>",
        recipients="ann@example.org",
        host="h",
        headers={"subject": "mine", "X-Team": "ops"},
    )
    assert (mail["Subject"], mail["X-Team"]) == ("mine", "ops")
    assert mail["Message-ID"] == "<7.escalated.1.abc@example.org>"


@pytest.mark.parametrize("text", ["", "ann", "ann@", "@x", "ann@x\nBcc: eve@x", "ann@x, bob", "a b@x", "ann@x <b@y>c"])
def test_bad_addresses_are_refused(text: str) -> None:
    """What is no list of addresses is refused when the file is read."""
    with pytest.raises(ValueError, match=r"e-mail address"):
        addresses(text)
