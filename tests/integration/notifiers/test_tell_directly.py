"""`proxywatch tell`, against real servers: people are reached without a daemon and without a good configuration."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from watchdog.cli.main import main


def _write(place: Path, routes: str, configuration: str = "state_dir: state\n") -> list[str]:
    (place / "routes.yaml").write_text(routes)
    (place / "proxywatch.yaml").write_text(configuration)
    return ["--config", str(place / "proxywatch.yaml"), "tell"]


def _routes(url: str, mail_port: int | None = None) -> str:
    mail = ""
    if mail_port is not None:
        mail = f"""
    email_configs:
      - {{to: you@example.org, from: pw@example.org, smarthost: "127.0.0.1:{mail_port}", require_tls: false}}"""
    return f"""
route:
  receiver: quiet
  routes:
    - receiver: on-call
      matchers: ['severity="critical"']
receivers:
  - name: quiet
  - name: on-call
    webhook_configs:
      - url: {url}{mail}
"""


async def test_a_failed_unit_is_told_although_the_configuration_is_broken(
    sink: Any, start_mail: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The routes file beside a broken configuration is enough; every integration of the chosen receiver is reached."""
    mail = await start_mail()
    argv = _write(tmp_path, _routes(sink.url, mail.port), "probes: {host: {kind: sistem}}\n")
    assert await asyncio.to_thread(main, [*argv, "--unit", "proxywatch.service"]) == 0
    ((_, body),) = sink.requests
    told = json.loads(body)["alerts"][0]
    assert told["labels"] == {
        "alertname": "UnitFailed",
        "severity": "critical",
        "unit": "proxywatch.service",
        "target": "unit:proxywatch.service",
    }
    assert "proxywatch.service has failed for good" in told["annotations"]["summary"]
    (message,) = mail.mails
    assert "NEEDS YOU: proxywatch.service has failed for good" in message["subject"]
    assert "incident 0" not in message.as_string()
    assert "systemctl reset-failed proxywatch.service" in message.get_body(("plain",)).get_content()
    said = capsys.readouterr()
    assert said.out.startswith("proxywatch.service has failed for good")
    assert "sistem" in said.err


async def test_a_receiver_that_refuses_is_named_and_the_exit_code_tells(
    sink: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What nobody took is exit 1 with the receiver's answer; a passing refusal is tried again first."""
    sink.answers = ["503 Busy\r\n", "404 Gone\r\n"]
    argv = _write(tmp_path, _routes(sink.url))
    assert await asyncio.to_thread(main, [*argv, "disk", "gone"]) == 1
    assert len(sink.requests) == 2
    said = capsys.readouterr()
    assert said.out == "disk gone\n"
    assert "on-call/webhook[0]" in said.err
    assert "404" in said.err


def test_routes_that_name_nobody_are_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where no integration is chosen nobody was told, and that is said."""
    argv = _write(tmp_path, _routes("http://127.0.0.1:9/"))
    assert main([*argv, "--severity", "info", "--json", "hello"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out) == {"summary": "hello", "told": []}
    assert "nobody was told" in said.err


def test_nothing_to_tell_is_wrong_usage(tmp_path: Path) -> None:
    """Neither a text nor a unit is exit 2, before anything is read."""
    assert main(["tell"]) == 2
