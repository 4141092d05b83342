"""What a routes file says beyond what amtool can judge: our keys, secrets, and where a problem is."""

from __future__ import annotations

from pathlib import Path

import pytest

from watchdog.errors import ConfigError
from watchdog.notifiers.email import EmailSettings
from watchdog.notifiers.routes_file import load_routes
from watchdog.notifiers.webhook import WebhookSettings

HEAD = "route:\n  receiver: r\n"
MAIL = "global:\n  smtp_smarthost: mail.example.org:587\n  smtp_from: pw@example.org\n"


def write(directory: Path, text: str) -> Path:
    file = directory / "routes.yaml"
    file.write_text(text)
    return file


def test_what_is_left_out_is_inherited(tmp_path: Path) -> None:
    """Waits come from the parent, mail settings from `global`, defaults are Alertmanager's."""
    (tmp_path / "password").write_text("x")
    (tmp_path / "password").chmod(0o640)
    file = write(
        tmp_path,
        MAIL + "  smtp_auth_username: pw\n  smtp_auth_password_file: password\n"
        "route: {receiver: r, group_wait: 1s, x_escalation_wait: 2s, group_by: [a],\n"
        "        routes: [{receiver: s, group_interval: 7m, routes: [{group_by: []}]}]}\n"
        "receivers: [{name: r}, {name: s, email_configs: [{to: a@example.org}]}]\n",
    )
    config = load_routes(file)
    (child,) = config.route.routes
    (grandchild,) = child.routes
    assert (grandchild.receiver, grandchild.group_wait, grandchild.group_interval) == ("s", 1.0, 420.0)
    assert (grandchild.repeat_interval, grandchild.escalation_wait) == (14_400.0, 2.0)
    assert (child.group_by, grandchild.group_by) == (("a",), ())
    ((integration,), settings) = config.receivers["s"], config.receivers["s"][0].settings
    assert integration.name == "email[0]"
    assert isinstance(settings, EmailSettings)
    assert (settings.smarthost, settings.require_tls, settings.send_resolved) == ("mail.example.org:587", True, False)
    assert settings.auth_password_file == tmp_path / "password"


def test_our_own_keys(tmp_path: Path) -> None:
    """x_send_healed and x_hmac_secret_file stand on an integration."""
    (tmp_path / "hmac").write_text("x")
    (tmp_path / "hmac").chmod(0o600)
    text = "receivers: [{name: r, webhook_configs: [{url: 'http://h', x_hmac_secret_file: hmac, x_send_healed: true}]}]"
    settings = load_routes(write(tmp_path, HEAD + text)).receivers["r"][0].settings
    assert isinstance(settings, WebhookSettings)
    assert (settings.x_hmac_secret_file, settings.x_send_healed) == (tmp_path / "hmac", True)
    assert settings.send_resolved


def test_secrets_do_not_show(tmp_path: Path) -> None:
    """A password in the file is not in the settings' text."""
    text = "receivers: [{name: r, email_configs: [{to: a@x.org, auth_username: u, auth_password: hush}]}]"
    assert "hush" not in repr(load_routes(write(tmp_path, MAIL + HEAD + text)))


EMAIL = "receivers:\n  - name: r\n    email_configs:\n      - to: a@example.org\n"
HOOK = "receivers:\n  - name: r\n    webhook_configs:\n      - url: http://h\n"


@pytest.mark.parametrize(
    ("text", "line", "key", "said"),
    [
        (HEAD + "  group_wiat: 1s\nreceivers: [{name: r}]", 3, "route.group_wiat", "did you mean 'group_wait'?"),
        (HEAD + "receivers: [{name: x}]", 2, "route.receiver", "no receiver 'r'; known: x"),
        (
            HEAD + "  routes:\n  - matchers:\n    - a\nreceivers: [{name: r}]",
            5,
            "route.routes.0.matchers.0",
            "bad matcher",
        ),
        (HEAD + "receivers:\n- name: r\n  slack_configs: [{}]", 5, "receivers.0.slack_configs", "not supported yet"),
        (HEAD + "receivers: [{name: r}]\ntemplates: [x]", 4, "templates", "not supported yet"),
        (HEAD + "  mute_time_intervals: [x]\nreceivers: [{name: r}]", 3, "route.mute_time_intervals", "not supported"),
        (MAIL + HEAD + EMAIL + "        html: x", 10, "receivers.0.email_configs.0.html", "not supported yet"),
        (HEAD + EMAIL, 6, "receivers.0.email_configs.0", "neither `smarthost` here nor `smtp_smarthost`"),
        (MAIL + HEAD + EMAIL + "        to_: x", 10, "receivers.0.email_configs.0.to_", "unknown key"),
        (MAIL + HEAD + EMAIL + "        headers: {Bcc: x}", 10, "receivers.0.email_configs.0.headers", "set by"),
        (
            MAIL + HEAD + EMAIL + "        headers: {A: '{{ x }}'}",
            10,
            "receivers.0.email_configs.0.headers",
            "templates",
        ),
        (
            MAIL + "  smtp_require_tls: false\n  smtp_auth_username: u\n" + HEAD + EMAIL,
            11,
            "receivers.0.email_configs.0",
            "unencrypted",
        ),
        (
            MAIL + "  smtp_auth_password_file: nofile\n" + HEAD + EMAIL,
            4,
            "global.smtp_auth_password_file",
            "cannot be read",
        ),
        (
            HEAD + HOOK + "        x_hmac_secret_file: open",
            7,
            "receivers.0.webhook_configs.0.x_hmac_secret_file",
            "others",
        ),
        (
            HEAD + HOOK + "        x_hmac_secret_file: empty",
            7,
            "receivers.0.webhook_configs.0.x_hmac_secret_file",
            "empty",
        ),
        (HEAD + HOOK + "        max_alerts: many", 7, "receivers.0.webhook_configs.0.max_alerts", "integer"),
    ],
)
def test_a_problem_is_one_line(text: str, line: int, key: str, said: str, tmp_path: Path) -> None:
    """File, line, key, what is wrong."""
    (tmp_path / "open").write_text("secret")
    (tmp_path / "open").chmod(0o644)
    (tmp_path / "empty").touch(mode=0o600)
    file = write(tmp_path, text + "\n")
    with pytest.raises(ConfigError) as caught:
        load_routes(file)
    assert str(caught.value).startswith(f"{file}:{line}: {key}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
