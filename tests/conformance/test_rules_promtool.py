"""Rule files and the timing of alerts: `promtool check rules` and `promtool test rules` judge our loader and engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from watchdog.core.model import AlertState, Sample, labels_of
from watchdog.errors import ConfigError
from watchdog.metrics.engine import RuleEngine
from watchdog.metrics.rules import AlertingRule, load_rules, parse_rules
from watchdog.metrics.series import SeriesStore

RULES = Path(__file__).parents[2] / "config" / "rules"
SHIPPED = sorted(RULES.glob("*.yaml"))


@pytest.fixture(scope="session")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("promtool is missing; install Debian's prometheus")
        pytest.skip("promtool is not installed")
    return found


def _check(promtool: str, file: Path) -> bool:
    return (
        subprocess.run([promtool, "check", "rules", str(file)], check=False, capture_output=True, timeout=60).returncode
        == 0
    )


def _rule(body: str) -> str:
    return "groups:\n- name: g\n  rules:\n  - " + body.replace("\n", "\n    ") + "\n"


GOOD = {
    "empty file": "",
    "no groups": "groups: []",
    "null groups": "groups:",
    "group without rules": "groups:\n- name: g",
    "interval and limit": "groups:\n- name: g\n  interval: 1m30s\n  limit: 10\n  rules: []",
    "interval zero": "groups:\n- name: g\n  interval: 0s\n  rules: []",
    "two groups": "groups:\n- name: a\n- name: b",
    "number as label": _rule("alert: A\nexpr: up\nlabels: {severity: 1, b: true, c: 0x10, d: 1e3, e: yes}"),
    "null label": _rule("alert: A\nexpr: up\nlabels: {severity: }"),
    "number as expr": _rule("alert: A\nexpr: 1"),
    "every field": _rule("alert: A\nexpr: up\nfor: 1m\nkeep_firing_for: 1w\nlabels: {a: b}\nannotations: {c: d}"),
    "duration zero": _rule("alert: A\nexpr: up\nfor: 0"),
    "duration in years": _rule("alert: A\nexpr: up\nfor: 1y2w3d4h5m6s7ms"),
    "alert with spaces": _rule("alert: A b c\nexpr: up"),
    "record with colons": _rule("record: a:b:c\nexpr: sum(up)\nlabels: {x: y}"),
    "record for zero": _rule("record: a\nexpr: up\nfor: 0s"),
    "braces in a recording label": _rule("record: a\nexpr: up\nlabels: {x: '{{ nope'}"),
    "scalar expr": _rule("alert: A\nexpr: time()"),
    "string expr": _rule("record: a\nexpr: '\"text\"'"),
    "range expr": _rule("record: a\nexpr: up[5m]"),
    "same alert twice": _rule("alert: A\nexpr: up") + "  - alert: A\n    expr: up == 0\n",
    "templates": _rule(
        "alert: A\nexpr: up\nannotations:\n"
        "  a: '{{ $labels.job }} {{ $value | humanize }} {{ .Labels.x }} {{ .Value }}'\n"
        "  b: '{{ if gt $value 1.0 }}x{{ else if eq $labels.a \"b\" }}y{{ else }}z{{ end }}'\n"
        "  c: '{{ printf \"%.2f %s\" $value $labels.job }} {{- /* gone */ -}} {{ humanizePercentage .Value }}'\n"
        '  d: \'{{ $value | humanizeDuration | toUpper }} {{ (index $labels "a-b") }} {{ "}}" }}\''
    ),
    "merge key": "groups:\n- name: g\n  rules:\n  - &base {alert: A, expr: up, for: 1m}\n  - {<<: *base, alert: B}",
}

BAD = {
    "not a mapping": "- a",
    "not yaml": "groups: [",
    "tab": "groups:\n\t- name: g",
    "unknown top field": "groups: []\nrules: []",
    "groups is a mapping": "groups: {name: g}",
    "groups is a text": "groups: x",
    "group is a text": "groups: [g]",
    "no group name": "groups:\n- rules: []",
    "empty group name": "groups:\n- name: ''",
    "duplicate group": "groups:\n- name: g\n- name: g",
    "double key": "groups: []\ngroups: []",
    "unknown group field": "groups:\n- name: g\n  evaluate: 1m",
    "bad interval": "groups:\n- name: g\n  interval: 5",
    "empty interval": "groups:\n- name: g\n  interval: ''",
    "bad limit": "groups:\n- name: g\n  limit: many",
    "rules is a mapping": "groups:\n- name: g\n  rules: {alert: A}",
    "rule is a text": "groups:\n- name: g\n  rules: [A]",
    "unknown rule field": _rule("alert: A\nexpr: up\nseverity: x"),
    "misspelt for": _rule("alert: A\nexpr: up\nFor: 1m"),
    "neither": _rule("expr: up"),
    "both": _rule("alert: A\nrecord: b\nexpr: up"),
    "no expr": _rule("alert: A"),
    "empty expr": _rule("alert: A\nexpr: ''"),
    "bad expr": _rule("alert: A\nexpr: up ="),
    "unknown function": _rule("alert: A\nexpr: nope(up)"),
    "wrong type": _rule("alert: A\nexpr: rate(up)"),
    "expr is a list": _rule("alert: A\nexpr: [up]"),
    "bad for": _rule("alert: A\nexpr: up\nfor: 5 minutes"),
    "bare for": _rule("alert: A\nexpr: up\nfor: 5"),
    "negative for": _rule("alert: A\nexpr: up\nfor: -5m"),
    "fraction for": _rule("alert: A\nexpr: up\nfor: 1.5m"),
    "units out of order": _rule("alert: A\nexpr: up\nfor: 1s1m"),
    "bad keep_firing_for": _rule("alert: A\nexpr: up\nkeep_firing_for: x"),
    "record with for": _rule("record: a\nexpr: up\nfor: 1m"),
    "record with keep_firing_for": _rule("record: a\nexpr: up\nkeep_firing_for: 1m"),
    "record with annotations": _rule("record: a\nexpr: up\nannotations: {a: b}"),
    "bad record name": _rule("record: a-b\nexpr: up"),
    "bad label name": _rule("alert: A\nexpr: up\nlabels: {a-b: c}"),
    "name as label": _rule("alert: A\nexpr: up\nlabels: {__name__: c}"),
    "name as record label": _rule("record: a\nexpr: up\nlabels: {__name__: c}"),
    "bad annotation name": _rule("alert: A\nexpr: up\nannotations: {a b: c}"),
    "labels is a list": _rule("alert: A\nexpr: up\nlabels: [a]"),
    "label is a mapping": _rule("alert: A\nexpr: up\nlabels: {a: {b: c}}"),
    "open action": _rule("alert: A\nexpr: up\nannotations: {a: '{{ $value'}"),
    "undefined variable": _rule("alert: A\nexpr: up\nannotations: {a: '{{ $nope }}'}"),
    "undefined template function": _rule("alert: A\nexpr: up\nannotations: {a: '{{ $value | nope }}'}"),
    "if without end": _rule("alert: A\nexpr: up\nannotations: {a: '{{ if $value }}x'}"),
    "end without if": _rule("alert: A\nexpr: up\nannotations: {a: 'x{{ end }}'}"),
    "two elses": _rule("alert: A\nexpr: up\nannotations: {a: '{{ if $value }}a{{ else }}b{{ else }}c{{ end }}'}"),
    "empty action": _rule("alert: A\nexpr: up\nannotations: {a: '{{ }}'}"),
    "open parenthesis": _rule("alert: A\nexpr: up\nannotations: {a: '{{ ($value }}'}"),
    "bad template in a label": _rule("alert: A\nexpr: up\nlabels: {a: '{{ $nope }}'}"),
}


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_shipped_rules_are_valid_for_both(file: Path, promtool: str) -> None:
    """Every shipped rule file loads here and in Prometheus."""
    assert _check(promtool, file)
    assert load_rules(file)


LOOKING_BACK = {
    "WorkerUnstable",
    "ServiceRestartsOften",
    "UnitRestartsOften",
    "UnitOutOfMemory",
    "LoadIsShed",
    "MemoryStalls",
    "SharedStoreDamaged",
    "LogMatch",
    "LogMatchCritical",
    "JournalUnitFailed",
    "JournalUnitWatchdog",
    "JournalUnitOutOfMemory",
    "JournalUnitRestartsOften",
    "JournalCoredump",
    "JournalMatch",
    "JournalMatchCritical",
}


def test_every_shipped_alert_helps_at_night() -> None:
    """Each alert has a severity, a target unless it looks back, a summary, and a description of several sentences."""
    alerts = [rule for file in SHIPPED for group in load_rules(file) for rule in group.rules if hasattr(rule, "alert")]
    assert len(alerts) >= 40
    for rule in alerts:
        labels, annotations = dict(rule.labels), dict(rule.annotations)
        assert labels["severity"] in {"critical", "warning", "info"}
        if rule.alert in LOOKING_BACK:
            assert "target" not in labels, "it would keep the target's incident open long after a repair"
        else:
            # One that is about another run names that run's own target, and a leak that of the process it is in.
            named = labels["target"].partition(":")[0].split("{{")[0] or "{{ if" in labels["target"]
            assert named or labels["target"] in {"{{ $labels.subject }}", "{{ $labels.target }}"}
        assert set(annotations) == {"summary", "description"}
        assert len(annotations["description"]) > 40


@pytest.mark.parametrize("name", GOOD)
def test_what_prometheus_loads_we_load(name: str, promtool: str, tmp_path: Path) -> None:
    """A file that promtool accepts is accepted."""
    file = tmp_path / "rules.yaml"
    file.write_text(GOOD[name])
    assert _check(promtool, file)
    load_rules(file)


@pytest.mark.parametrize("name", BAD)
def test_what_prometheus_refuses_we_refuse_with_the_place(name: str, promtool: str, tmp_path: Path) -> None:
    """A file that promtool refuses is refused, in one line that begins with the file."""
    file = tmp_path / "rules.yaml"
    file.write_text(BAD[name])
    assert not _check(promtool, file)
    with pytest.raises(ConfigError) as refusal:
        load_rules(file)
    assert str(refusal.value).startswith(str(file))
    assert "\n" not in str(refusal.value)


STEP = 5
TIMING = {
    "alert: A\nexpr: x == 0\n": [1, 0, 0, 1, 0, 1, 1, 0],
    "alert: A\nexpr: x == 0\nfor: 10s\n": [1, 0, 0, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0],
    "alert: A\nexpr: x == 0\nkeep_firing_for: 10s\n": [1, 0, 1, 1, 1, 1, 0, 1, 0, 1, 1, 1, 1],
    "alert: A\nexpr: x == 0\nfor: 10s\nkeep_firing_for: 15s\n": [0, 0, 0, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 0, 0, 0, 1, 1],
    "alert: A\nexpr: absent(x)\nfor: 5s\n": [1, 1, "stale", None, None, 1, 1, "stale", 1, 1],
    "alert: A\nexpr: x < 5\nlabels: {level: '{{ $value }}'}\nannotations: {s: '{{ $value | humanize }}'}\n": [
        9, 4, 4, 3, 3, 9, 1,
    ],
}  # fmt: skip


def _replay(body: str, values: list[object]) -> list[list[dict[str, object]]]:
    """What fires in our engine after each evaluation, in the form that promtool expects."""
    store = SeriesStore()
    engine = RuleEngine(parse_rules(_rule(body), "rules.yaml"), store)
    firing = []
    for i, value in enumerate(values):
        now = i * STEP
        if value == "stale":
            store.mark_stale(store.select("x"), now)
        elif value is not None:
            store.ingest([Sample("x", float(str(value)), labels_of(host="h"))], now)
        engine.evaluate_touched({"x"}, now)
        alerts = [alert for alert in engine.alerts() if alert.state is AlertState.FIRING]
        firing.append(
            [
                {
                    "exp_labels": {name: text for name, text in alert.labels if name != "alertname"},
                    "exp_annotations": dict(alert.annotations),
                }
                for alert in alerts
            ]
        )
    return firing


@pytest.mark.parametrize("body", TIMING, ids=lambda body: body.replace("\n", " "))
def test_alerts_fire_and_end_when_prometheus_says(body: str, promtool: str, tmp_path: Path) -> None:
    """After every evaluation exactly the alerts fire, with the labels and annotations, that fire in Prometheus."""
    values = TIMING[body]
    ours = _replay(body, values)
    assert any(ours)
    assert not all(ours)
    (tmp_path / "rules.yaml").write_text(_rule(body))
    checks = [{"eval_time": f"{i * STEP}s", "alertname": "A", "exp_alerts": firing} for i, firing in enumerate(ours)]
    notation = " ".join("_" if value is None else str(value) for value in values)
    suite = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": f"{STEP}s",
        "tests": [
            {
                "interval": f"{STEP}s",
                "input_series": [{"series": 'x{host="h"}', "values": notation}],
                "alert_rule_test": checks,
            }
        ],
    }
    file = tmp_path / "suite.yaml"
    file.write_text(json.dumps(suite))
    verdict = subprocess.run(
        [promtool, "test", "rules", str(file)], check=False, capture_output=True, text=True, timeout=60
    )
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr


@pytest.mark.parametrize(
    ("shape", "target", "fires"),
    [("leak", "worker:llm-proxy/0", True), ("leak", "service:shop", True), ("warm_up", "worker:llm-proxy/0", False)],
)
def test_leaks_alarm_in_prometheus_too(shape: str, target: str, fires: bool, promtool: str, tmp_path: Path) -> None:
    """A shape that is a leak fires both shipped alerts after their time, about the process that leaks; another none."""
    process = f'service="s",worker="0",target="{target}"'
    memory = {"slope_bytes_per_hour": 6 * 2**20, "confidence": 0.8, "window_seconds": 3600}
    resource = {"slope_per_hour": 12, "confidence": 0.8}
    series = {f"proxywatch_leak_{name}{{{process}}}": value for name, value in memory.items()}
    tasks = f'{process},resource="tasks"'
    series |= {f"proxywatch_resource_leak_{name}{{{tasks}}}": value for name, value in resource.items()}
    for name, labels in (("leak", process), ("resource_leak", tasks)):
        for one in ("leak", "warm_up"):
            series[f'proxywatch_{name}_shape{{{labels},shape="{one}"}}'] = int(one == shape)
    common = {"service": "s", "worker": "0", "target": target, "severity": "warning"}
    expected = {
        "MemoryLeakSuspected": ("Worker 0 of s leaks 6MiB an hour", common),
        "ResourceLeakSuspected": ("Worker 0 of s leaks 12 tasks an hour", {**common, "resource": "tasks"}),
    }
    rules = {
        rule.alert: rule
        for group in load_rules(RULES / "memory.yaml")
        for rule in group.rules
        if isinstance(rule, AlertingRule)
    }
    checks = [
        {
            "eval_time": at,
            "alertname": name,
            "exp_alerts": [
                {
                    "exp_labels": labels,
                    "exp_annotations": {**dict(rules[name].annotations), "summary": summary},
                }
            ]
            if fires and at == "12m"
            else [],
        }
        for name, (summary, labels) in expected.items()
        for at in ("4m", "12m")
    ]
    inputs = [{"series": name, "values": f"{value}+0x60"} for name, value in series.items()]
    suite = {
        "rule_files": [str(RULES / "memory.yaml")],
        "evaluation_interval": "15s",
        "tests": [{"interval": "15s", "input_series": inputs, "alert_rule_test": checks}],
    }
    file = tmp_path / "suite.yaml"
    file.write_text(json.dumps(suite))
    argv = [promtool, "test", "rules", str(file)]
    verdict = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
