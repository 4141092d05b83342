"""What people silenced or took under maintenance is not told meanwhile, and told afterwards if it is still so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from watchdog.clock import FakeClock
from watchdog.core.model import Alert, AlertState, labels_of
from watchdog.core.routing import Notice, NoticeKind, matcher
from watchdog.core.silences import Maintenance, Silence
from watchdog.notifiers.dispatch import Dispatcher
from watchdog.notifiers.routes_file import load_routes
from watchdog.store.database import Database
from watchdog.store.facts import Facts
from watchdog.store.outbox import Outbox

ROUTES = """
route: {receiver: ops, group_by: [target]}
receivers:
  - name: ops
    webhook_configs: [{url: 'http://localhost:9/', send_resolved: true}]
"""
HOUR = 3600.0


class Quiet:
    """A dispatcher over a real file, and what people ask of it."""

    def __init__(self, path: Path) -> None:
        (path / "routes.yaml").write_text(ROUTES)
        self.clock = FakeClock()
        self.database = Database(path / "state.db")
        self.facts = Facts(self.database)
        outbox = Outbox(self.database, self.clock)
        routes = load_routes(path / "routes.yaml")
        self.dispatcher = Dispatcher(routes, self.database, outbox, self.clock, list)

    def told(self, kind: NoticeKind, **labels: str) -> list[str]:
        """The kinds of what leaves when this notice comes in."""
        return self._kinds(self.dispatcher.notify(notice(kind, **labels)))

    def later(self, seconds: float) -> list[str]:
        """The kinds of what leaves after so long."""
        self.clock.advance(seconds)
        return self._kinds(self.dispatcher.tick())

    @staticmethod
    def _kinds(deliveries: object) -> list[str]:
        assert isinstance(deliveries, tuple)
        return [str(n.kind) for delivery in deliveries for n in delivery.notices]


@pytest.fixture
async def quiet(tmp_path: Path) -> AsyncIterator[Quiet]:
    one = Quiet(tmp_path)
    yield one
    one.database.close()


def notice(kind: NoticeKind, **more: str) -> Notice:
    labels = labels_of(more, alertname="WorkerDown", severity="critical", target="worker:web/1")
    return Notice(7, kind, f"7:{kind}:1", labels, (), started_at=1_700_000_000.0)


def silenced(quiet: Quiet) -> None:
    now = quiet.clock.now()
    quiet.facts.silence(Silence("s", (matcher("alertname", "=~", "Worker.*"),), now, now + HOUR, "ann", ""), now)


def maintained(quiet: Quiet) -> None:
    now = quiet.clock.now()
    quiet.facts.maintain(Maintenance("m", ("service:web",), now, now + HOUR, "ann", ""), now)


def awakened(quiet: Quiet) -> None:
    quiet.facts.end_silence("s", quiet.clock.now())
    quiet.facts.end_maintenance("m", quiet.clock.now())


WAYS = pytest.mark.parametrize("hush", [silenced, maintained])


@WAYS
async def test_what_is_still_wrong_is_told_when_the_quiet_ends(quiet: Quiet, hush: Callable[[Quiet], None]) -> None:
    """A page is held back while it lasts, however often it is looked at, and leaves within minutes of its end."""
    hush(quiet)
    assert quiet.told(NoticeKind.ESCALATED) == []
    assert quiet.later(400) == []
    assert quiet.later(HOUR) == ["escalated"]
    assert quiet.later(400) == []


@WAYS
async def test_an_early_end_lets_it_go_too(quiet: Quiet, hush: Callable[[Quiet], None]) -> None:
    """Whoever ends the quiet hears of what it held back."""
    hush(quiet)
    assert quiet.told(NoticeKind.ESCALATED) == []
    awakened(quiet)
    assert quiet.later(300) == ["escalated"]


@WAYS
async def test_what_is_over_by_then_is_never_told(quiet: Quiet, hush: Callable[[Quiet], None]) -> None:
    """Trouble that came and went in the quiet disturbs nobody."""
    hush(quiet)
    assert quiet.told(NoticeKind.ESCALATED) == []
    assert quiet.told(NoticeKind.RESOLVED) == []
    assert quiet.later(2 * HOUR) == []


@WAYS
async def test_the_end_of_what_was_told_is_not_hidden(quiet: Quiet, hush: Callable[[Quiet], None]) -> None:
    """A silence made after the page does not hide that it is over."""
    assert quiet.told(NoticeKind.ESCALATED) == ["escalated"]
    hush(quiet)
    assert quiet.told(NoticeKind.RESOLVED) == []
    assert quiet.later(300) == ["resolved"]


async def test_others_are_told_as_ever(quiet: Quiet) -> None:
    """A silence covers what its matchers meet, and nothing else."""
    silenced(quiet)
    labels = {"alertname": "CacheCorrupt"}
    other = notice(NoticeKind.ESCALATED)
    other = replace(other, labels=labels_of(labels, severity="critical", target="worker:web/1"))
    assert len(quiet.dispatcher.notify(other)) == 1


async def test_one_alert_that_nobody_silenced_lets_the_whole_incident_speak(quiet: Quiet) -> None:
    """Of an incident with two alerts both must be silenced: the other one may be news."""
    silenced(quiet)
    known, news = (
        Alert(name, labels_of(alertname=name, target="worker:web/1"), (), AlertState.FIRING, 1.0, 1.0, 1.0)
        for name in ("WorkerDown", "DiskFull")
    )
    page = notice(NoticeKind.ESCALATED)
    assert quiet.dispatcher.notify(replace(page, alerts=(known,))) == ()
    assert len(quiet.dispatcher.notify(replace(page, key="7:escalated:2", alerts=(known, news)))) == 1
