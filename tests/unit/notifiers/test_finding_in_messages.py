"""What was found of a cause stands in every message about the incident, also in the one that it is healed."""

from __future__ import annotations

from watchdog.core.model import TimelineEntry
from watchdog.core.routing import Delivery, Notice, NoticeKind
from watchdog.notifiers.webhook import payload
from watchdog.notifiers.wording import sections, verdict

SENTENCE = "/srv/app/cache.py:41 keeps 3.2 MiB an hour, 1.1 KiB a request, 14,000 objects more; confidence high"
FOUND = TimelineEntry(20.0, "finding", SENTENCE, {"name": "find_leak", "text": f"{SENTENCE}\nreport: /var/leak.html"})


def notice(*story: TimelineEntry) -> Notice:
    labels = (("alertname", "MemoryLeakSuspected"),)
    return Notice(7, NoticeKind.HEALED, "7:healed:1", labels, (), 0.0, 60.0, story=story, reason="healed")


def test_a_healed_leak_is_left_to_a_programmer() -> None:
    """The sentence comes right after how it ended, with the rest below it, and nobody is told that nothing is to do."""
    healed = notice(TimelineEntry(10.0, "opened", "it grows"), FOUND)
    _, found, *_ = sections(healed)
    assert (found.title, found.lines[0].text, found.lines[0].block) == (
        "What was found",
        SENTENCE,
        "report: /var/leak.html",
    )
    assert verdict(healed).endswith("what was found is for a programmer, by day.")
    assert verdict(notice()).endswith("nothing to do.")


def test_programs_are_told_it_in_an_annotation() -> None:
    """A webhook's alerts carry the sentence where something was found, and no empty annotation where nothing was."""
    for story, told in (((FOUND,), SENTENCE), ((), None)):
        (alert,) = payload(Delivery("k", "r", "g", (), (notice(*story),), 1, 60.0))["alerts"]  # type: ignore[misc]
        assert alert["annotations"].get("proxywatch_finding") == told
