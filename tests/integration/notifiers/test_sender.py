"""The sender: from the outbox to real receivers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from watchdog.clock import FakeClock
from watchdog.core.routing import Delivery
from watchdog.notifiers import Defaults, Notifier, NotifierContext
from watchdog.notifiers.sender import Sender
from watchdog.notifiers.webhook import WebhookNotifier, WebhookSettings
from watchdog.store.database import Database
from watchdog.store.outbox import Outbox


class World:
    """A running sender over a file of its own, with a clock that the test moves."""

    def __init__(self, path: Path, receivers: Mapping[str, Notifier]) -> None:
        self.clock = FakeClock()
        self.database = Database(path / "state.db")
        self.outbox = Outbox(self.database, self.clock)
        self.sender = Sender(self.outbox, receivers, self.clock)

    async def __aenter__(self) -> Self:
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(self.sender.run(self.stop))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop.set()
        await self.task
        self.database.close()

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.sender.wake()

    def total(self, outcome: str) -> float:
        return sum(
            sample.value
            for sample in self.sender.samples()
            if sample.name == "proxywatch_notifications_total" and ("outcome", outcome) in sample.labels
        )


async def test_the_mail_server_is_down_for_a_minute(
    tmp_path: Path, start_mail: Any, make_email: Any, make_delivery: Any, closed_port: int, reach: Any
) -> None:
    """While nobody listens attempts are made and fail; when the server is back the mail arrives, once."""
    async with World(tmp_path, {"ops/email[0]": make_email(closed_port)}) as world:
        world.outbox.put(make_delivery())
        for attempt in range(1, 7):
            await reach(lambda n=attempt: world.total("retried") == n)
            if attempt < 6:
                world.advance(40.0)
        assert "localhost" in world.outbox.pending()[0].error
        server = await start_mail(port=closed_port)
        world.advance(60.0)
        await reach(lambda: world.total("sent") == 1)
        world.advance(600.0)
        await reach(lambda: world.outbox.next_due() is None)
        assert [mail["Message-ID"] for mail in server.mails] == ["<7.escalated.1.abc@example.org>"]


async def test_a_slow_receiver_delays_no_other(
    tmp_path: Path,
    sink: Any,
    context: NotifierContext,
    start_mail: Any,
    make_email: Any,
    make_delivery: Any,
    reach: Any,
) -> None:
    """While one webhook hangs, mail to another address arrives; the hanging one is not asked twice meanwhile."""
    sink.answers = ["hang"]
    server = await start_mail()
    slow = WebhookNotifier(WebhookSettings(url=sink.url).completed(Defaults()), context)
    async with World(tmp_path, {"slow/webhook[0]": slow, "ops/email[0]": make_email(server.port)}) as world:
        world.outbox.put(make_delivery("a", receiver="slow", integration="webhook[0]"))
        await reach(lambda: len(sink.requests) == 1)
        world.outbox.put(make_delivery("b", receiver="slow", integration="webhook[0]", group_key="other"))
        world.outbox.put(make_delivery("c"))
        await reach(lambda: len(server.mails) == 1)
        assert len(sink.requests) == 1
        sink.release.set()
        await reach(lambda: world.total("sent") == 3)


async def test_a_receiver_that_is_gone(tmp_path: Path, make_delivery: Any, reach: Any) -> None:
    """What is addressed to a receiver that a reload took away dies at once, with the reason."""
    async with World(tmp_path, {}) as world:
        world.outbox.put(make_delivery())
        await reach(lambda: world.total("dead") == 1)
        (row,) = world.outbox.dead()
        assert "ops/email[0] any more" in row.error


async def test_a_busy_receiver_is_left_alone_as_long_as_it_asks(
    tmp_path: Path, sink: Any, context: NotifierContext, make_delivery: Any, reach: Any
) -> None:
    """Retry-After moves the next attempt."""
    sink.answers = ["503 Busy\r\nRetry-After: 120\r\n", "200 OK\r\n"]
    notifier = WebhookNotifier(WebhookSettings(url=sink.url).completed(Defaults()), context)
    async with World(tmp_path, {"ops/webhook[0]": notifier}) as world:
        world.outbox.put(make_delivery(integration="webhook[0]"))
        await reach(lambda: world.total("retried") == 1)
        assert world.outbox.next_due() == world.clock.now() + 120.0
        world.advance(120.0)
        await reach(lambda: world.total("sent") == 1)
        assert len({headers["idempotency-key"] for headers, _ in sink.requests}) == 1


class Defective:
    """A notifier with a bug."""

    async def deliver(self, delivery: Delivery) -> None:
        raise KeyError(delivery.key)


async def test_a_defect_is_logged_and_ends_nothing(
    tmp_path: Path, start_mail: Any, make_email: Any, make_delivery: Any, reach: Any, caplog: Any
) -> None:
    """A bug in one notifier is reported and tried again later, and the others go on."""
    server = await start_mail()
    async with World(tmp_path, {"bad/x[0]": Defective(), "ops/email[0]": make_email(server.port)}) as world:
        world.outbox.put(make_delivery("a", receiver="bad", integration="x[0]"))
        await reach(lambda: world.total("retried") == 1)
        world.outbox.put(make_delivery("b"))
        await reach(lambda: len(server.mails) == 1)
        assert "KeyError" in world.outbox.pending()[0].error
    assert "defective" in caplog.text


async def test_the_backlog_is_measured(tmp_path: Path, make_email: Any, make_delivery: Any, closed_port: int) -> None:
    """Pending rows and the age of the oldest are samples."""
    world = World(tmp_path, {"ops/email[0]": make_email(closed_port)})
    world.outbox.put(make_delivery())
    world.clock.advance(90.0)
    samples = {sample.name: sample.value for sample in world.sender.samples()}
    assert samples == {
        "proxywatch_outbox_pending": 1.0,
        "proxywatch_outbox_dead": 0.0,
        "proxywatch_outbox_oldest_seconds": 90.0,
    }
    world.database.close()
