"""E-mail against a real mail server."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from watchdog.errors import DeliveryError


async def test_a_mail_arrives_in_both_forms(start_mail: Any, make_email: Any, make_delivery: Any) -> None:
    """Text and HTML say the same, the headers thread the incident and mark the mail as automatic."""
    server = await start_mail()
    await make_email(server.port, to="Ann <ann@example.org>, bob@example.org").deliver(make_delivery())
    (mail,) = server.mails
    assert server.recipients == [["ann@example.org", "bob@example.org"]]
    assert mail["Subject"] == "[edge-3] NEEDS YOU: Worker 1 is down (incident 7)"
    assert mail["Message-ID"] == "<7.escalated.1.abc@example.org>"
    assert mail["In-Reply-To"] == mail["References"] == "<incident.7.1700000000@example.org>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["X-Proxywatch-Incident"] == "7"
    for subtype in ("plain", "html"):
        body = mail.get_body((subtype,)).get_content()
        for part in ("Worker 1 is down", "a person is needed", "the ladder is exhausted", "app.py:7"):
            assert part in body


async def test_starttls_with_a_trusted_certificate(
    start_mail: Any, make_email: Any, make_delivery: Any, server_tls: ssl.SSLContext, certificate: tuple[Path, Path]
) -> None:
    """STARTTLS is used and the certificate checked; with sign-in, the name and password from a file."""
    server = await start_mail(server_tls, auth=True)
    secret = certificate[0].with_name("password")
    secret.write_text("right\n")
    options = {"require_tls": True, "tls_config": {"ca_file": certificate[0]}}
    options |= {"auth_username": "pw", "auth_password_file": secret}
    await make_email(server.port, **options).deliver(make_delivery())
    assert server.encrypted == [True]
    assert server.signed_in == ["pw"]


async def test_an_untrusted_certificate_is_refused(
    start_mail: Any, make_email: Any, make_delivery: Any, server_tls: ssl.SSLContext
) -> None:
    """Without the authority nothing is sent; the failure is passing, for certificates get repaired."""
    server = await start_mail(server_tls)
    with pytest.raises(DeliveryError, match="certificate") as caught:
        await make_email(server.port, require_tls=True).deliver(make_delivery())
    assert not caught.value.permanent
    assert server.mails == []
    await make_email(server.port, require_tls=True, tls_config={"insecure_skip_verify": True}).deliver(make_delivery())
    assert server.encrypted == [True]


async def test_required_tls_that_is_not_offered(start_mail: Any, make_email: Any, make_delivery: Any) -> None:
    """require_tls never falls back to plain text."""
    server = await start_mail()
    with pytest.raises(DeliveryError, match="STARTTLS"):
        await make_email(server.port, require_tls=True).deliver(make_delivery())
    assert server.mails == []


async def test_a_wrong_password_is_passing(
    start_mail: Any, make_email: Any, make_delivery: Any, server_tls: ssl.SSLContext, tmp_path: Path
) -> None:
    """535 is tried again, and the password file is read anew each time."""
    server = await start_mail(server_tls, auth=True)
    secret = tmp_path / "password"
    secret.write_text("wrong")
    options = {"require_tls": True, "tls_config": {"insecure_skip_verify": True}}
    notifier = make_email(server.port, **options, auth_username="pw", auth_password_file=secret)
    with pytest.raises(DeliveryError, match="535") as caught:
        await notifier.deliver(make_delivery())
    assert not caught.value.permanent
    secret.write_text("right")
    await notifier.deliver(make_delivery())
    assert len(server.mails) == 1


@pytest.mark.parametrize(
    ("replies", "permanent", "said"),
    [
        ({"mail_reply": "451 later"}, False, "451 later"),
        ({"mail_reply": "550 not you"}, True, "550 not you"),
        ({"mail_reply": "530 sign in first"}, False, "530"),
        ({"rcpt_reply": {"ann@example.org": "450 greylisted"}}, False, "450 greylisted"),
        ({"rcpt_reply": {"ann@example.org": "550 unknown"}}, True, "550 unknown"),
        ({"data_reply": "452 full"}, False, "452 full"),
        ({"data_reply": "554 spam"}, True, "554 spam"),
    ],
)
async def test_refusals(
    start_mail: Any, make_email: Any, make_delivery: Any, replies: dict[str, Any], permanent: bool, said: str
) -> None:
    """4xx is passing, 5xx permanent, and the server's words reach the operator."""
    server = await start_mail()
    for name, value in replies.items():
        setattr(server, name, value)
    with pytest.raises(DeliveryError, match=said) as caught:
        await make_email(server.port).deliver(make_delivery())
    assert caught.value.permanent is permanent
    assert server.mails == []


async def test_one_refused_recipient_does_not_cost_the_others_their_mail(
    start_mail: Any, make_email: Any, make_delivery: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The mail goes to those who are accepted, once, and the refusal is logged."""
    server = await start_mail()
    server.rcpt_reply = {"bob@example.org": "550 unknown"}
    await make_email(server.port, to="ann@example.org, bob@example.org").deliver(make_delivery())
    assert server.recipients == [["ann@example.org"]]
    assert "bob@example.org" in caplog.text


async def test_nobody_listens(make_email: Any, make_delivery: Any, closed_port: int) -> None:
    """No connection is passing, and the message says to whom."""
    with pytest.raises(DeliveryError, match=f"localhost:{closed_port}") as caught:
        await make_email(closed_port).deliver(make_delivery())
    assert not caught.value.permanent
