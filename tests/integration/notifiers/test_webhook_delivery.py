"""Webhooks against a real HTTP server."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from watchdog.errors import DeliveryError
from watchdog.notifiers import BusyReceiverError, Defaults, NotifierContext
from watchdog.notifiers.webhook import WebhookNotifier, WebhookSettings


def make(context: NotifierContext, **values: Any) -> WebhookNotifier:
    return WebhookNotifier(WebhookSettings.model_validate(values).completed(Defaults()), context)


async def test_it_posts_what_alertmanager_posts(sink: Any, context: NotifierContext, make_delivery: Any) -> None:
    """The body has exactly Alertmanager's keys; the idempotency key travels as a header."""
    await make(context, url=sink.url).deliver(make_delivery())
    ((headers, body),) = sink.requests
    sent = json.loads(body)
    assert set(sent) == {
        *("version", "groupKey", "truncatedAlerts", "status", "receiver", "groupLabels", "commonLabels"),
        *("commonAnnotations", "externalURL", "alerts"),
    }
    assert (sent["version"], sent["status"], sent["receiver"]) == ("4", "firing", "ops")
    assert headers["idempotency-key"] == "7:escalated:1:abc"
    assert headers["content-type"] == "application/json"
    assert "x-proxywatch-signature" not in headers


async def test_signature_and_credentials_come_from_files(
    sink: Any, context: NotifierContext, make_delivery: Any, tmp_path: Path
) -> None:
    """The signature covers timestamp and body; URL, token and secret are read from their files at each delivery."""
    for name, text in (("url", sink.url), ("token", "t0ken"), ("secret", "s3cret")):
        (tmp_path / name).write_text(text + "\n")
    authorization = {"authorization": {"credentials_file": tmp_path / "token"}}
    notifier = make(
        context, url_file=tmp_path / "url", http_config=authorization, x_hmac_secret_file=tmp_path / "secret"
    )
    await notifier.deliver(make_delivery())
    ((headers, body),) = sink.requests
    assert headers["authorization"] == "Bearer t0ken"
    signed = headers["x-proxywatch-timestamp"].encode() + b"." + body
    expected = hmac.new(b"s3cret", signed, hashlib.sha256).hexdigest()
    assert headers["x-proxywatch-signature"] == f"sha256={expected}"
    (tmp_path / "secret").unlink()
    with pytest.raises(DeliveryError, match="cannot be read") as caught:
        await notifier.deliver(make_delivery())
    assert not caught.value.permanent


@pytest.mark.parametrize(
    ("answer", "permanent", "retry_after"),
    [
        ("500 Oops\r\n", False, 0.0),
        ("503 Busy\r\nRetry-After: 7\r\n", False, 7.0),
        ("429 Slow\r\nRetry-After: 99999\r\n", False, 3600.0),
        ("429 Slow\r\nRetry-After: Tue, 14 Nov 2023 22:14:20 GMT\r\n", False, 60.0),
        ("429 Slow\r\nRetry-After: soon\r\n", False, 0.0),
        ("404 No\r\n", True, None),
        ("302 Elsewhere\r\nLocation: /x\r\n", True, None),
    ],
)
async def test_refusals(
    sink: Any,
    context: NotifierContext,
    make_delivery: Any,
    answer: str,
    permanent: bool,
    retry_after: float | None,
) -> None:
    """Busy receivers are asked again when they say so, wrong addresses never; the URL's path stays secret."""
    sink.answers = [answer]
    with pytest.raises(DeliveryError) as caught:
        await make(context, url=sink.url).deliver(make_delivery())
    error = caught.value
    assert error.permanent is permanent
    assert "secret-path" not in str(error)
    assert (error.retry_after_seconds if isinstance(error, BusyReceiverError) else None) == retry_after


async def test_nobody_listens(context: NotifierContext, make_delivery: Any, closed_port: int) -> None:
    """No connection is passing."""
    with pytest.raises(DeliveryError, match="refused") as caught:
        await make(context, url=f"http://127.0.0.1:{closed_port}/secret-path").deliver(make_delivery())
    assert not caught.value.permanent
    assert "secret-path" not in str(caught.value)
