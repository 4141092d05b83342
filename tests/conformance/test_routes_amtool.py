"""Debian's amtool is the judge of the routes file."""

from __future__ import annotations

import os
import shutil
import subprocess
from itertools import product
from pathlib import Path

import pytest

from watchdog.core.model import labels_of
from watchdog.core.routing import receivers_for
from watchdog.errors import ConfigError
from watchdog.notifiers.routes_file import load_routes

AMTOOL = shutil.which("amtool")
MAIL = "global: {smtp_smarthost: 'localhost:25', smtp_from: a@example.org, smtp_require_tls: false}\n"
ROUTE = "route: {receiver: r}\nreceivers: [{name: r}]\n"


@pytest.fixture(autouse=True)
def _judge() -> None:
    if AMTOOL is None:
        message = "amtool is not installed (Debian: prometheus-alertmanager)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


def email(text: str, top: str = MAIL) -> str:
    return f"{top}route: {{receiver: r}}\nreceivers: [{{name: r, email_configs: [{text}]}}]\n"


def webhook(text: str) -> str:
    return f"route: {{receiver: r}}\nreceivers: [{{name: r, webhook_configs: [{text}]}}]\n"


def route(text: str) -> str:
    return f"route: {{receiver: r, {text}}}\nreceivers: [{{name: r}}]\n"


def child(text: str) -> str:
    return route(f"routes: [{{{text}}}]")


GOOD = {
    "smallest": ROUTE,
    "waits": route("group_wait: 0s, group_interval: 1m30s, repeat_interval: 1d"),
    "group_by": route("group_by: [alertname, service]"),
    "group_by_all": route("group_by: ['...']"),
    "matchers": child("matchers: ['a=b', 'c=~\"d|e\"', '{f!=g}']"),
    "matchers_two_in_one": child("matchers: ['a=b,c!~\"d\"']"),
    "match": child("match: {a: b}, match_re: {c: 'd.*'}"),
    "match_number": child("match: {a: 1}"),
    "continue": child("continue: true"),
    "nested": child("receiver: r, routes: [{matchers: ['a=\"\"'], group_by: []}]"),
    "resolve_timeout": "global: {resolve_timeout: 5m}\n" + ROUTE,
    "email": email("{to: b@example.org}"),
    "email_own": email("{to: b@example.org, from: c@example.org, smarthost: 'h:587', send_resolved: true}", top=""),
    "email_headers": email("{to: b@example.org, headers: {subject: hello, X-Team: ops}}"),
    "webhook": webhook("{url: 'http://localhost/hook', send_resolved: false, max_alerts: 3}"),
    "webhook_auth": webhook("{url: 'https://h/x', http_config: {authorization: {credentials: abc}}}"),
    "inhibit": ROUTE + "inhibit_rules: [{source_matchers: [a=b], target_matchers: ['c=~d'], equal: [e]}]\n",
    "inhibit_old": ROUTE + "inhibit_rules: [{source_match: {a: b}, target_match_re: {c: d}}]\n",
    "templates_empty": ROUTE + "templates: []\n",
}
BAD = {
    "empty": "",
    "no_route": "receivers: [{name: r}]\n",
    "no_receiver": "route: {}\nreceivers: [{name: r}]\n",
    "unknown_receiver": "route: {receiver: x}\nreceivers: [{name: r}]\n",
    "unknown_child_receiver": child("receiver: x"),
    "no_receivers": "route: {receiver: r}\n",
    "twice": "route: {receiver: r}\nreceivers: [{name: r}, {name: r}]\n",
    "nameless": "route: {receiver: r}\nreceivers: [{name: r}, {}]\n",
    "root_matchers": route("matchers: ['a=b']"),
    "root_match": route("match: {a: b}"),
    "root_match_re": route("match_re: {a: b}"),
    "root_continue": route("continue: true"),
    "unknown_key": ROUTE + "rout: {}\n",
    "unknown_route_key": route("group_wiat: 1s"),
    "unknown_receiver_key": "route: {receiver: r}\nreceivers: [{name: r, mail_configs: []}]\n",
    "bad_matcher": child("matchers: ['a']"),
    "bad_matcher_regex": child("matchers: ['a=~\"(\"']"),
    "bad_matcher_quote": child("matchers: ['a=\"b']"),
    "bad_match_re": child("match_re: {a: '('}"),
    "bad_match_name": child("match: {'1a': b}"),
    "bad_duration": route("group_wait: 5"),
    "bad_duration_order": route("group_wait: 30m1h"),
    "zero_interval": route("group_interval: 0s"),
    "zero_repeat": route("repeat_interval: 0s"),
    "group_by_all_and": route("group_by: ['...', a]"),
    "group_by_name": route("group_by: ['1a']"),
    "group_by_twice": route("group_by: [a, a]"),
    "email_no_smarthost": email("{to: b@example.org}", top="global: {smtp_from: a@example.org}\n"),
    "email_no_from": email("{to: b@example.org}", top="global: {smtp_smarthost: 'h:25'}\n"),
    "email_no_to": email("{send_resolved: true}"),
    "email_bad_smarthost": email("{to: b@example.org, smarthost: host}"),
    "email_header_twice": email("{to: b@example.org, headers: {subject: a, Subject: b}}"),
    "email_unknown": email("{to: b@example.org, tls: true}"),
    "webhook_no_url": webhook("{send_resolved: true}"),
    "webhook_bad_url": webhook("{url: 'ftp://h/x'}"),
    "webhook_two_credentials": webhook(
        "{url: 'http://h', http_config: {authorization: {credentials: a, credentials_file: b}}}"
    ),
    "webhook_basic": webhook("{url: 'http://h', http_config: {authorization: {type: Basic, credentials: a}}}"),
    "inhibit_bad": ROUTE + "inhibit_rules: [{source_matchers: ['a'], target_matchers: ['c=d']}]\n",
    "inhibit_equal": ROUTE + "inhibit_rules: [{source_matchers: [a=b], target_matchers: [c=d], equal: ['1']}]\n",
    "not_yaml": "route: [\n",
    "route_list": "route: []\nreceivers: [{name: r}]\n",
}


def amtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(AMTOOL), *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", GOOD)
def test_both_accept(name: str, tmp_path: Path) -> None:
    """What amtool accepts and we support, we accept."""
    file = tmp_path / "routes.yaml"
    file.write_text(GOOD[name])
    judged = amtool("check-config", str(file))
    assert judged.returncode == 0, judged.stdout + judged.stderr
    load_routes(file)


@pytest.mark.parametrize("name", BAD)
def test_both_refuse(name: str, tmp_path: Path) -> None:
    """What amtool refuses, we refuse in one line that names the file."""
    file = tmp_path / "routes.yaml"
    file.write_text(BAD[name])
    assert amtool("check-config", str(file)).returncode != 0
    with pytest.raises(ConfigError) as caught:
        load_routes(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_amtool_accepts_the_shipped_file() -> None:
    """config/routes.yaml is a file of Alertmanager's."""
    shipped = Path(__file__).parents[2] / "config" / "routes.yaml"
    assert amtool("check-config", str(shipped)).returncode == 0
    assert load_routes(shipped).receivers == {"journal": ()}


TREE = """
route:
  receiver: default
  group_by: [alertname]
  routes:
    - matchers: ['alertname=~"Worker.*"']
      receiver: workers
      routes:
        - matchers: [severity="critical", service!=""]
          receiver: workers-page
          continue: true
        - match: {service: batch}
          receiver: batch
        - matchers: ['service!~"web|api"', severity=~"critical|warning"]
          receiver: other-workers
    - receiver: audit
      matchers: ['severity!="info"']
      continue: true
      routes:
        - match_re: {service: 'w.b'}
          receiver: audit-web
    - matchers: ['{service="web",alertname!="Disk"}']
      receiver: web
    - match: {alertname: Disk}
      receiver: disk
      continue: true
    - match_re: {severity: "crit.*"}
      receiver: page
receivers: [{name: default}, {name: workers}, {name: workers-page}, {name: batch}, {name: other-workers},
            {name: audit}, {name: audit-web}, {name: web}, {name: disk}, {name: page}]
"""


def test_routes_go_where_amtool_says(tmp_path: Path) -> None:
    """60 label sets over a nested tree reach the receivers that `amtool config routes test` names, in its order."""
    file = tmp_path / "routes.yaml"
    file.write_text(TREE)
    config = load_routes(file)
    sets = [
        {name: value for name, value in zip(("alertname", "service", "severity"), values, strict=True) if value}
        for values in product(
            ("WorkerDown", "Disk", "XWorker"), ("", "web", "batch", "db", "wob"), ("critical", "warning", "info", "")
        )
    ]
    disagreements = []
    for labels in sets:
        judged = amtool("config", "routes", "test", f"--config.file={file}", *(f"{k}={v}" for k, v in labels.items()))
        assert judged.returncode == 0, judged.stderr
        ours = ",".join(match.receiver for match in receivers_for(config.route, labels_of(labels)))
        if judged.stdout.strip() != ours:
            disagreements.append((labels, judged.stdout.strip(), ours))
    assert len(sets) == 60
    assert disagreements == []
