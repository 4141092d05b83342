"""Real servers on loopback that notifiers are pointed at."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult

from watchdog.clock import FakeClock
from watchdog.core.model import TimelineEntry, labels_of
from watchdog.core.routing import Delivery, Notice, NoticeKind
from watchdog.notifiers import Defaults, NotifierContext
from watchdog.notifiers.email import EmailNotifier, EmailSettings
from watchdog.store.database import Database
from watchdog.store.outbox import Outbox
from watchdog.system.http import HttpClient


@dataclass
class MailServer:
    """What it was sent, and what it is told to say. A reply that is not None refuses."""

    port: int = 0
    mails: list[Message] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    rcpt_reply: dict[str, str] = field(default_factory=dict)
    mail_reply: str | None = None
    data_reply: str | None = None
    password: str = "right"
    signed_in: list[str] = field(default_factory=list)
    sessions: int = 0

    async def handle_EHLO(self, server: Any, session: Any, envelope: Any, hostname: str, responses: list[str]) -> Any:
        self.sessions += 1
        session.host_name = hostname
        return responses

    async def handle_MAIL(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        envelope.mail_from = address
        return self.mail_reply or "250 OK"

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        if address in self.rcpt_reply:
            return self.rcpt_reply[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.data_reply is not None:
            return self.data_reply
        self.mails.append(message_from_bytes(envelope.content, policy=default))
        self.recipients.append(list(envelope.rcpt_tos))
        self.encrypted.append(session.ssl is not None)
        return "250 accepted"

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        if data.password.decode() != self.password:
            return AuthResult(success=False, handled=False, message="535 5.7.8 wrong")
        self.signed_in.append(data.login.decode())
        return AuthResult(success=True)


StartMail = Callable[..., Awaitable[MailServer]]


@pytest.fixture
async def start_mail() -> AsyncIterator[StartMail]:
    """Starts a mail server on a port of its own, or on a given one."""
    servers: list[asyncio.Server] = []
    sessions: list[SMTP] = []

    async def start(tls: ssl.SSLContext | None = None, *, auth: bool = False, port: int = 0) -> MailServer:
        handler = MailServer()
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"hostname": "mail.test", "ident": "test", "loop": loop}
        if tls is not None:
            options |= {"tls_context": tls, "require_starttls": True}
        if auth:
            options |= {"authenticator": handler.authenticate, "auth_required": True}

        def session() -> SMTP:
            sessions.append(SMTP(handler, **options))
            return sessions[-1]

        server = await loop.create_server(session, "127.0.0.1", port)
        servers.append(server)
        handler.port = server.sockets[0].getsockname()[1]
        return handler

    yield start
    for server in servers:
        server.close()
    await reach(lambda: all(one._handler_coroutine is None or one._handler_coroutine.done() for one in sessions))


@dataclass
class Sink:
    """An HTTP server that answers from a script (the last answer for ever) and remembers what came."""

    port: int = 0
    answers: list[str] = field(default_factory=lambda: ["200 OK\r\n"])
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook/secret-path"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            headers = {
                name.lower(): value
                for name, _, value in (line.partition(": ") for line in head.split("\r\n")[1:])
                if name
            }
            body = await reader.readexactly(int(headers["content-length"]))
            self.requests.append((headers, body))
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if answer == "hang":
                await self.release.wait()
                answer = "200 OK\r\n"
            writer.write(f"HTTP/1.1 {answer}Content-Length: 2\r\nConnection: close\r\n\r\nno".encode())
            await writer.drain()
        finally:
            writer.close()


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    one = Sink()
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.port = server.sockets[0].getsockname()[1]
    yield one
    one.release.set()
    server.close()
    await server.wait_closed()


@pytest.fixture
async def context() -> AsyncIterator[NotifierContext]:
    http = HttpClient()
    yield NotifierContext(clock=FakeClock(), http=http, host="edge-3")
    await http.close()


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    database = Database(tmp_path / "state.db")
    yield Outbox(database, FakeClock())
    database.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for `localhost` and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
        f" -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout {key} -out {certificate}".split(),
        check=True,
        capture_output=True,
    )
    return certificate, key


@pytest.fixture
def server_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    return tls


MakeDelivery = Callable[..., Delivery]


@pytest.fixture
def make_delivery() -> MakeDelivery:
    def make(
        key: str = "7:escalated:1:abc", receiver: str = "ops", integration: str = "email[0]", **extra: Any
    ) -> Delivery:
        notice = Notice(
            7,
            NoticeKind.ESCALATED,
            "7:escalated:1",
            labels_of(alertname="WorkerDown", severity="critical", target="worker:web/1"),
            labels_of(summary="Worker 1 is down"),
            started_at=1_700_000_000.0,
            story=(TimelineEntry(1_700_000_000.0, "evidence", "stack", {"line": "app.py:7"}),),
            reason="the ladder is exhausted",
        )
        values: dict[str, Any] = {"group_key": "{}:{}", "group_labels": (), "notices": (notice,), "fresh": 1}
        values |= {"created_at": 1_700_000_000.0} | extra
        return Delivery(key=key, receiver=receiver, integration=integration, **values)

    return make


MakeEmail = Callable[..., EmailNotifier]


@pytest.fixture
def make_email(context: NotifierContext) -> MakeEmail:
    """An e-mail notifier that talks to `port` in the clear unless the settings say otherwise."""

    def make(port: int, **extra: Any) -> EmailNotifier:
        values = {"to": "ann@example.org", "from": "pw@example.org", "smarthost": f"localhost:{port}"}
        settings = EmailSettings.model_validate(values | {"require_tls": False} | extra)
        return EmailNotifier(settings.completed(Defaults()), context)

    return make


@pytest.fixture
def closed_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


async def reach(condition: Callable[[], bool], seconds: float = 45.0) -> None:
    """Waits until `condition` holds; fails after `seconds`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        assert loop.time() < deadline, "it did not come to pass in time"
        await asyncio.sleep(0.01)


Reach = Callable[..., Awaitable[None]]


@pytest.fixture(name="reach")
def reach_fixture() -> Reach:
    return reach
