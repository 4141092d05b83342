"""What reaches people when the way to them is broken."""

from __future__ import annotations

import socket
from email.message import Message

from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message as Handler
from world import World, eventually, free_ports

REFUSALS = 3


class Mailbox(Handler):
    """Keeps every mail."""

    def __init__(self) -> None:
        super().__init__()
        self.mails: list[Message] = []

    def handle_message(self, message: Message) -> None:
        self.mails.append(message)


def mail_routes(port: int) -> dict[str, object]:
    """Everything by mail, at once."""
    mail = {
        "to": "night@example.org",
        "from": "proxywatch@example.org",
        "smarthost": f"127.0.0.1:{port}",
        "require_tls": False,
    }
    route = {"receiver": "mail", "group_by": ["..."], "group_wait": "1s", "group_interval": "2s"}
    return {"route": route, "receivers": [{"name": "mail", "email_configs": [mail]}]}


async def test_mail_server_down_when_the_page_is_due(world: World) -> None:
    """The mail server is down when an incident escalates: the mail arrives afterwards, once."""
    (port,) = free_ports(1)
    proxy = {"providers": [{"name": "primary", "kind": "local", "port": world.primary}], "retry": {"rounds": 1}}
    world.configure(proxy=proxy, routes=mail_routes(port))
    world.edit("playbooks/provider-failover.yaml", {"within: 5s": "within: 2s"})
    await world.start()
    await world.demo(world.primary, mode="500")
    async with world.load(5):
        incident = await world.incident("provider:primary", "escalated", 60)
    waiting = await outbox(world)
    assert waiting >= 1
    await eventually("it was refused again and again", lambda: refusals(world) >= REFUSALS, 30)
    assert await outbox(world) >= waiting, "nothing is lost while the server is down"
    mailbox = Mailbox()
    controller = Controller(mailbox, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        await eventually("the mail arrives", lambda: mailbox.mails, 60)

        async def empty() -> bool:
            return await outbox(world) == 0

        await eventually("the outbox is empty", empty, 60)
        about = [m["subject"] for m in mailbox.mails if m["X-Proxywatch-Incident"] == str(incident["id"])]
        print(f"\n{[m['subject'] for m in mailbox.mails]}")
        assert len(about) == 1, about
        assert "primary" in str(about[0])
    finally:
        controller.stop()


def refusals(world: World) -> int:
    """How often a mail could not be handed over, as the log tells it."""
    return world.log.read_text().count("will be tried again")


async def outbox(world: World) -> int:
    """How many deliveries wait."""
    return int((await world.ask("/v1/status"))["outbox"]["pending"])


def test_nobody_listens_on_a_free_port() -> None:
    """The harness' free ports really refuse connections, so that «down» is down."""
    (port,) = free_ports(1)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
