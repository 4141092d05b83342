"""Every kind of notifier meets the same contract."""

from __future__ import annotations

import sys
from typing import get_args

import pytest

import watchdog.notifiers
from watchdog.clock import FakeClock
from watchdog.core.model import labels_of
from watchdog.core.routing import Delivery, Notice, NoticeKind
from watchdog.errors import DeliveryError
from watchdog.notifiers import Defaults, NotifierContext, NotifierSettings, notifiers
from watchdog.system.http import HttpClient

notifiers.discover(watchdog.notifiers)

NOBODY = "127.0.0.1:1"
"""A port on which nothing can listen without being root, and nothing does."""

SMALLEST = {
    "email": {"to": "a@example.org", "from": "b@example.org", "smarthost": NOBODY, "require_tls": False},
    "webhook": {"url": f"http://{NOBODY}/"},
}


def test_every_kind_has_an_example() -> None:
    """A new kind is tested here as soon as it is registered."""
    assert set(SMALLEST) == set(notifiers.kinds)


@pytest.mark.parametrize("kind", notifiers.kinds)
def test_settings(kind: str) -> None:
    """Settings are frozen, refuse unknown keys, name their kind, and can be completed; the file says what it does."""
    model = notifiers.kinds[kind]
    assert issubclass(model, NotifierSettings)
    assert get_args(model.model_fields["kind"].annotation) == (kind,)
    settings = model.model_validate(SMALLEST[kind])
    assert settings.completed(Defaults())
    with pytest.raises(ValueError, match="frozen"):
        settings.send_resolved = True  # type: ignore[misc]
    with pytest.raises(ValueError, match="nonsense"):
        model.model_validate({**SMALLEST[kind], "nonsense": 1})
    documentation = sys.modules[model.__module__].__doc__ or ""
    assert documentation.startswith(f"Notifier `{kind}`:")
    assert "How it fails" in documentation


@pytest.mark.parametrize("kind", notifiers.kinds)
async def test_a_dead_receiver_is_a_passing_delivery_error(kind: str) -> None:
    """When nobody listens, deliver raises DeliveryError, not permanent, in one line."""
    settings = notifiers.kinds[kind].model_validate(SMALLEST[kind])
    assert isinstance(settings, NotifierSettings)
    http = HttpClient()
    context = NotifierContext(FakeClock(), http, "edge-3")
    notifier = notifiers.implementation(kind)(settings.completed(Defaults()), context)
    notice = Notice(1, NoticeKind.OPENED, "1:opened:1", labels_of(alertname="x"), (), 0.0)
    with pytest.raises(DeliveryError) as caught:
        await notifier.deliver(Delivery("k", "r", "g", (), (notice,), 1, 0.0))
    await http.close()
    assert not caught.value.permanent
    assert "\n" not in str(caught.value)
