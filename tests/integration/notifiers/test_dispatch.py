"""From a notice to rows in the outbox, and what a kill leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from watchdog.clock import FakeClock, SystemClock
from watchdog.core.grouping import GroupingState
from watchdog.core.model import Labels, labels_of
from watchdog.core.routing import Notice, NoticeKind
from watchdog.errors import StoreError
from watchdog.notifiers.dispatch import Dispatcher
from watchdog.notifiers.routes_file import RoutesConfig, load_routes
from watchdog.notifiers.sender import Sender
from watchdog.store.database import Database
from watchdog.store.outbox import LEASE_SECONDS, Outbox

ROUTES = """
global: {smtp_smarthost: 'localhost:25', smtp_from: pw@example.org, smtp_require_tls: false}
route: {receiver: ops, group_by: [target]}
receivers:
  - name: ops
    email_configs: [{to: ann@example.org}, {to: bob@example.org, send_resolved: true, x_send_healed: true}]
    webhook_configs: [{url: 'http://localhost:9/'}]
inhibit_rules: [{source_matchers: [alertname=Uplink], target_matchers: ['severity=~"warning|critical"']}]
"""


class World:
    """A dispatcher over a real file, and a clock that the test moves."""

    def __init__(self, path: Path) -> None:
        (path / "routes.yaml").write_text(ROUTES)
        self.config: RoutesConfig = load_routes(path / "routes.yaml")
        self.clock = FakeClock()
        self.database = Database(path / "state.db")
        self.outbox = Outbox(self.database, self.clock)
        self.firing: list[Labels] = []
        self.dispatcher = Dispatcher(self.config, self.database, self.outbox, self.clock, lambda: self.firing)

    def addresses(self) -> list[str]:
        rows = self.outbox.pending()
        for row in rows:
            self.outbox.sent(row.id)
        return [row.delivery.address for row in rows]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    one = World(tmp_path)
    yield one
    one.database.close()


def notice(kind: NoticeKind, nth: int = 1, severity: str = "critical") -> Notice:
    labels = labels_of(alertname="WorkerDown", severity=severity, target="worker:web/1")
    return Notice(7, kind, f"7:{kind}:{nth}", labels, (), started_at=1_700_000_000.0)


async def test_each_integration_gets_what_it_asks_for(world: World) -> None:
    """A page goes to all, the end to those with send_resolved, a repair to those with x_send_healed."""
    world.dispatcher.notify(notice(NoticeKind.ESCALATED))
    assert world.addresses() == ["ops/email[0]", "ops/email[1]", "ops/webhook[0]"]
    world.clock.advance(301)
    world.dispatcher.notify(notice(NoticeKind.RESOLVED, 2))
    assert world.addresses() == ["ops/email[1]", "ops/webhook[0]"]
    world.clock.advance(301)
    world.dispatcher.notify(notice(NoticeKind.HEALED, 3))
    world.clock.advance(31)
    world.dispatcher.tick()
    assert world.addresses() == ["ops/email[1]"]


async def test_a_rolled_back_notice_was_never_told(world: World) -> None:
    """The decision is part of the caller's transaction, and the same notice is told when it comes again."""

    def torn() -> None:
        with world.database.transaction():
            assert world.dispatcher.notify(notice(NoticeKind.ESCALATED))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        torn()
    assert world.outbox.pending() == []
    world.dispatcher.notify(notice(NoticeKind.ESCALATED))
    world.dispatcher.notify(notice(NoticeKind.ESCALATED))
    assert len(world.outbox.pending()) == 3


class TornOutbox(Outbox):
    """An outbox whose disk fills up between the rows and the state."""

    def save_grouping(self, state: GroupingState) -> None:
        raise StoreError("disk full")


async def test_rows_and_state_are_one(world: World) -> None:
    """When the state cannot be kept no row stays behind, or the same page would be made twice."""
    torn = TornOutbox(world.database, world.clock)
    dispatcher = Dispatcher(world.config, world.database, torn, world.clock, list)
    with pytest.raises(StoreError):
        dispatcher.notify(notice(NoticeKind.ESCALATED))
    assert world.outbox.pending() == []


async def test_inhibition_holds_back_and_lets_go(world: World) -> None:
    """What something bigger explains is not told while it fires, and told when it ends."""
    world.firing = [labels_of(alertname="Uplink")]
    world.dispatcher.notify(notice(NoticeKind.ESCALATED))
    assert world.outbox.pending() == []
    world.firing = []
    world.clock.advance(300)
    world.dispatcher.tick()
    assert len(world.addresses()) == 3


async def test_acknowledged_is_not_repeated(world: World) -> None:
    """Without an acknowledgement a page is repeated after repeat_interval, with one it is not."""
    world.dispatcher.notify(notice(NoticeKind.ESCALATED))
    world.addresses()
    world.clock.advance(4 * 3600)
    assert [delivery.repeat for delivery in world.dispatcher.tick()] == [True]
    world.dispatcher.acknowledge(7)
    assert world.dispatcher.next_due() is None


async def test_a_receiver_that_left_the_file_leaves_a_trace(world: World, reach: Any) -> None:
    """News of a group whose receiver is gone ends as a dead row that says so."""
    world.dispatcher.notify(notice(NoticeKind.OPENED, severity="info"))
    world.dispatcher.config = RoutesConfig("routes.yaml", world.config.route, {}, ())
    world.clock.advance(30)
    world.dispatcher.tick()
    stop = asyncio.Event()
    task = asyncio.create_task(Sender(world.outbox, {}, world.clock).run(stop))
    await reach(lambda: len(world.outbox.dead()) == 1)
    stop.set()
    await task
    assert "no ops/ any more" in world.outbox.dead()[0].error


async def test_the_loop_ticks_when_something_is_due(world: World, reach: Any) -> None:
    """run() lets news leave when its wait has passed, and ends when told to."""
    stop = asyncio.Event()
    task = asyncio.create_task(world.dispatcher.run(stop))
    world.dispatcher.notify(notice(NoticeKind.OPENED))
    world.clock.advance(30)
    world.dispatcher.wake()
    await reach(lambda: len(world.outbox.pending()) == 3)
    stop.set()
    await task


CHILD = """
import asyncio, sys
from pathlib import Path
from watchdog.clock import SystemClock
from watchdog.core.model import labels_of
from watchdog.core.routing import Notice, NoticeKind
from watchdog.notifiers import NotifierContext
from watchdog.errors import StoreError
from watchdog.notifiers.dispatch import Dispatcher
from watchdog.notifiers.routes_file import load_routes
from watchdog.notifiers.sender import Sender, build_notifiers
from watchdog.store.database import Database
from watchdog.store.outbox import Outbox
from watchdog.system.http import HttpClient

class Frozen:
    def __init__(self, inner):
        self.inner = inner
    async def deliver(self, delivery):
        await self.inner.deliver(delivery)
        print("accepted", flush=True)
        await asyncio.Event().wait()

async def main(directory, stage):
    clock = SystemClock()
    config = load_routes(directory / "routes.yaml")
    database = Database(directory / "state.db")
    outbox = Outbox(database, clock)
    dispatcher = Dispatcher(config, database, outbox, clock, lambda: [])
    labels = labels_of(alertname="WorkerDown", severity="critical", target="worker:web/1")
    dispatcher.notify(Notice(7, NoticeKind.ESCALATED, "7:escalated:1", labels, (), clock.now()))
    if stage == "put":
        print("put", flush=True)
        await asyncio.Event().wait()
    context = NotifierContext(clock, HttpClient(), "edge-3")
    receivers = {address: Frozen(one) for address, one in build_notifiers(config, context).items()}
    await Sender(outbox, receivers, clock).run(asyncio.Event())

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


@pytest.mark.parametrize(("stage", "mails"), [("put", 1), ("accepted", 2)])
async def test_a_kill_loses_nothing(
    stage: str, mails: int, tmp_path: Path, start_mail: Any, make_email: Any, reach: Any
) -> None:
    """Killed after the decision: told once afterwards. Killed after acceptance: told again with the same Message-ID."""
    server = await start_mail()
    (tmp_path / "routes.yaml").write_text(
        f"global: {{smtp_smarthost: 'localhost:{server.port}', smtp_from: pw@example.org, smtp_require_tls: false}}\n"
        "route: {receiver: ops}\nreceivers: [{name: ops, email_configs: [{to: ann@example.org}]}]\n"
    )
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CHILD, str(tmp_path), stage),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert child.stdout is not None
    assert (await asyncio.wait_for(child.stdout.readline(), 30)).decode().strip() == stage
    os.kill(child.pid, signal.SIGKILL)
    await child.wait()

    clock = FakeClock(SystemClock().now() + LEASE_SECONDS + 1)
    database = Database(tmp_path / "state.db")
    outbox = Outbox(database, clock)
    dispatcher = Dispatcher(load_routes(tmp_path / "routes.yaml"), database, outbox, clock, list)
    assert dispatcher.tick() == ()
    stop = asyncio.Event()
    task = asyncio.create_task(Sender(outbox, {"ops/email[0]": make_email(server.port)}, clock).run(stop))
    await reach(lambda: outbox.pending() == [])
    stop.set()
    await task
    database.close()
    assert len(server.mails) == mails
    assert len({mail["Message-ID"] for mail in server.mails}) == 1
