"""The body of a webhook, field by field."""

from __future__ import annotations

from dataclasses import replace

import pytest

from watchdog.core.model import Alert, AlertState, fingerprint, labels_of
from watchdog.core.routing import Delivery, Notice, NoticeKind
from watchdog.notifiers import Defaults
from watchdog.notifiers.webhook import WebhookSettings, payload, signature

LABELS = labels_of(alertname="WorkerDown", severity="critical", worker="1")
FIRING = Alert("WorkerDown", LABELS, labels_of(summary="s"), AlertState.FIRING, 0.0, 1_700_000_000.25, 1_700_000_001.0)
GONE = replace(
    FIRING, labels=labels_of(dict(LABELS), worker="2"), state=AlertState.RESOLVED, resolved_at=1_700_000_009.0
)
NOTICE = Notice(
    7, NoticeKind.ESCALATED, "7:escalated:1", LABELS, (), 1_700_000_000.0, alerts=(FIRING, GONE), reason="exhausted"
)
DELIVERY = Delivery("k", "ops", '{}:{alertname="WorkerDown"}', labels_of(alertname="WorkerDown"), (NOTICE,), 1, 0.0)


def test_the_body_of_a_page() -> None:
    """Alerts keep their own labels and times; what they share is common; ours are annotations."""
    ours = {"proxywatch_incident": "7", "proxywatch_notice": "escalated", "proxywatch_reason": "exhausted"}
    assert payload(DELIVERY, external_url="http://h/") == {
        "version": "4",
        "groupKey": '{}:{alertname="WorkerDown"}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "ops",
        "groupLabels": {"alertname": "WorkerDown"},
        "commonLabels": {"alertname": "WorkerDown", "severity": "critical"},
        "commonAnnotations": {**ours, "summary": "s"},
        "externalURL": "http://h/",
        "alerts": [
            {
                "status": "firing",
                "labels": {"alertname": "WorkerDown", "severity": "critical", "worker": "1"},
                "annotations": {**ours, "summary": "s"},
                "startsAt": "2023-11-14T22:13:20.250Z",
                "endsAt": "0001-01-01T00:00:00Z",
                "generatorURL": "http://h/",
                "fingerprint": fingerprint(LABELS),
            },
            {
                "status": "resolved",
                "labels": {"alertname": "WorkerDown", "severity": "critical", "worker": "2"},
                "annotations": {**ours, "summary": "s"},
                "startsAt": "2023-11-14T22:13:20.250Z",
                "endsAt": "2023-11-14T22:13:29.000Z",
                "generatorURL": "http://h/",
                "fingerprint": fingerprint(GONE.labels),
            },
        ],
    }


def test_an_end_resolves_every_alert() -> None:
    """The alerts of a resolved incident are resolved, also those that were firing when it was last told."""
    ended = replace(NOTICE, kind=NoticeKind.RESOLVED, ended_at=1_700_000_060.0)
    body = payload(replace(DELIVERY, notices=(ended,)))
    assert body["status"] == "resolved"
    assert isinstance(body["alerts"], list)
    assert [alert["status"] for alert in body["alerts"]] == ["resolved", "resolved"]
    assert body["alerts"][0]["endsAt"] == "2023-11-14T22:14:20.000Z"


def test_an_incident_without_alerts_stands_for_itself() -> None:
    """Something always carries the news: without alerts the incident's own labels do."""
    body = payload(replace(DELIVERY, notices=(replace(NOTICE, alerts=()),)))
    assert isinstance(body["alerts"], list)
    assert [alert["labels"] for alert in body["alerts"]] == [dict(LABELS)]


def test_truncation_is_counted() -> None:
    """max_alerts keeps the first ones and says how many are missing."""
    body = payload(DELIVERY, max_alerts=1)
    assert isinstance(body["alerts"], list)
    assert (len(body["alerts"]), body["truncatedAlerts"]) == (1, 1)


def test_the_signature_is_hmac_sha256() -> None:
    """Against a value computed by `openssl dgst -sha256 -hmac key` over `1700000000.{}`."""
    expected = "sha256=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae"
    assert signature("key", "1700000000", b"{}") == expected


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"url": "http://h", "url_file": "/x"},
        {"url": "http://h", "http_config": {"authorization": {}}},
    ],
)
def test_incomplete_settings_are_refused(values: dict[str, object]) -> None:
    """Exactly one address and, with authorization, exactly one credential."""
    with pytest.raises(ValueError, match="exactly one"):
        WebhookSettings.model_validate(values).completed(Defaults())
