"""Words, columns, perfdata and the live picture: pure, without a terminal."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.cli import nagios, text
from watchdog.cli.incident import story
from watchdog.cli.live import cropped, picture
from watchdog.cli.query import series_text
from watchdog.cli.status import doing, lines, service_row, worker_cells

NOW = {"epoch": 1_700_000_100.0, "iso": "2023-11-14T22:15:00.000Z"}
THEN = {"epoch": 1_700_000_000.0, "iso": "2023-11-14T22:13:20.000Z"}
CODE = re.compile(r"\x1b\[[0-9;]*m")


def worker(**over: Any) -> dict[str, Any]:
    return {
        "worker": "0",
        "pid": 4242,
        "state": "serving",
        "since": THEN,
        "uss_bytes": 40e6,
        "cpu_ratio": 0.12,
        "response_seconds": 0.002,
        "crashes": 2,
        "backoff_seconds": 0.0,
        "last_exit": None,
        **over,
    }


def incident(**over: Any) -> dict[str, Any]:
    return {
        "id": 3,
        "state": "healing",
        "target": "worker:llm-proxy/0",
        "title": "Worker 0 of llm-proxy is alive but does not answer",
        "severity": "critical",
        "alertnames": ["WorkerHung"],
        "firing": 1,
        "reason": "",
        "healed": False,
        "told": 0,
        "started_at": THEN,
        "opened_at": THEN,
        "acted_at": None,
        "escalated_at": None,
        "paged": False,
        "hands_off": "",
        "resolved_at": None,
        "acknowledged_at": None,
        "acknowledged_by": "",
        "duration_seconds": 100.0,
        "seconds_to_detect": 0.5,
        "seconds_to_act": None,
        "seconds_to_repair": None,
        "run": {
            "id": 9,
            "playbook": "restore-worker",
            "rung": "recycle",
            "attempt": 1,
            "doing": "waiting",
            "waits_for": [{"reason": "backoff", "text": "backing off 20 s", "until": NOW, "final": False}],
            "until": {"epoch": NOW["epoch"] + 12, "iso": ""},
        },
        **over,
    }


def overview(workers: int = 2, incidents: int = 1) -> dict[str, Any]:
    alert = {
        "name": "ProbeFailing",
        "state": "firing",
        "severity": "warning",
        "target": "probe:front",
        "summary": "Probe front has measured nothing for two minutes",
        "fired_at": THEN,
        "active_at": THEN,
        "fingerprint": "ff",
        "incident": None,
    }
    cache = {
        "usage_ratio": 0.5,
        "size_bytes": 1.0,
        "max_bytes": 64 * 1024**2,
        "entries": 1.0,
        "max_entries": 10.0,
        "hit_rate": 0.25,
    }
    service = {
        "name": "llm-proxy",
        "kind": "child",
        "state": "running",
        "pid": 4000,
        "note": "",
        "url": "http://127.0.0.1:8000",
        "ready": True,
        "workers_serving": workers,
        "workers_expected": workers,
        "requests_per_second": 12.3,
        "uss_bytes": 1.0,
        "workers": [worker(worker=str(n)) for n in range(workers)],
        "cache": cache,
    }
    provider = {
        "provider": "primary",
        "service": "llm-proxy",
        "up": True,
        "fault": "outage",
        "circuit": "open",
        "error_ratio": 1.0,
        "latency_seconds": 0.25,
    }
    quiet = {
        "id": "0a1b2c3d",
        "since": THEN,
        "until": NOW,
        "by": "alice (uid 1000)",
        "comment": "a new disk is put in, and then the machine is moved to another rack " * 2,
        "covers": [3],
    }
    return {
        "now": NOW,
        "version": "0.1.0",
        "host": "a-host-with-a-rather-long-name.example.org",
        "pid": 1,
        "started_at": THEN,
        "uptime_seconds": 100.0,
        "ready": True,
        "verdict": {"state": "critical", "text": "critical alert: " + "Worker 0 hangs " * 10},
        "config": {"file": "config/proxywatch.yaml", "reload_error": ""},
        "pauses": [{"reason": "maintenance", "by": "alice (uid 1000)", "since": THEN, "until": None}],
        "storm": {"text": "5 of 6 targets fell ill together: " + "worker:llm-proxy/0, " * 6, "until": NOW},
        "approvals": [
            {
                "run": 12,
                "playbook": "restore-worker",
                "target": "worker:llm-proxy/0",
                "incident": 3,
                "rung": "recycle",
                "does": ["recycle worker 0 of llm-proxy with a word or two about it " * 3],
                "asked_at": THEN,
                "until": NOW,
            }
        ],
        "maintenance": [{**quiet, "targets": ["service:llm-proxy", "worker:*"]}],
        "silences": [{**quiet, "matchers": 'alertname="WorkerHung", severity=~"warning|info"'}],
        "services": [service],
        "providers": [provider],
        "system": {
            "cpu_ratio": 0.5,
            "memory_ratio": None,
            "memory_bytes": 8e9,
            "disk_ratio": 0.7,
            "disk": "/",
            "load1": 1.5,
        },
        "probes": {"total": 8, "failing": [{"name": "front", "note": "refused"}]},
        "alerts": [alert],
        "alerts_total": 1,
        "pending": 0,
        "incidents": [incident(id=n) for n in range(incidents)],
        "incidents_total": incidents,
        "outbox": {"pending": 2, "dead": 1, "oldest_at": THEN},
        "memory": {},
    }


@pytest.mark.parametrize("width", [80, 100, 120, 200])
@pytest.mark.parametrize("height", [24, 35, 36, 50])
@pytest.mark.parametrize(("workers", "incidents", "log"), [(2, 1, 50), (2, 0, 0), (64, 8, 5), (0, 0, 1)])
def test_the_picture_fits_the_screen(width: int, height: int, workers: int, incidents: int, log: int) -> None:
    """Whatever there is to show, the picture has exactly the screen's lines, none is wider, and the hint stays."""
    over = incident(id=99, resolved_at=NOW, seconds_to_repair=2.5, healed=True, run=None, state="resolved")
    drawn = picture(overview(workers, incidents), [over], ["a log line " * 20] * log, width, height)
    assert len(drawn) == height
    assert max(len(CODE.sub("", line)) for line in drawn) <= width
    assert "Ctrl-C leaves" in drawn[-1]
    assert drawn[0].startswith("proxywatch")


def test_the_picture_says_how_to_break_something() -> None:
    """The hint names the pid of a worker that serves right now and a provider that exists."""
    hint = picture(overview(), [], [], 100, 30)[-1]
    assert "kill -9 4242" in hint
    assert "llm-proxy demo primary 500" in hint


def test_the_picture_tells_what_a_run_waits_for() -> None:
    """A healing incident shows its playbook's rung, the refusal it waits out, and when that ends."""
    drawn = "\n".join(picture(overview(), [], [], 120, 40))
    assert "restore-worker: rung recycle, waiting: backing off 20 s (in 12s)" in drawn


@given(st.lists(st.tuples(st.text(), st.sampled_from(["\x1b[31m", "\x1b[0m", ""]))), st.integers(1, 60))
def test_a_cropped_line_is_never_wider(pieces: list[tuple[str, str]], width: int) -> None:
    """Colour codes take no room and survive; everything visible beyond the width goes."""
    line = "".join(words.replace("\x1b", "") + code for words, code in pieces)
    assert len(CODE.sub("", cropped(line, width))) <= width


def test_status_is_never_wider_than_a_hundred_columns() -> None:
    """The whole of `status` stays within 100 columns but for the verdict, which is never cut."""
    told = list(lines(overview()))
    assert told[0].startswith("CRITICAL")
    assert max(len(line) for line in told[1:]) <= 100
    assert any("paused by alice" in line for line in told)
    assert any("1 entry" in line for line in told)


@given(st.lists(st.lists(st.text(alphabet="abc é", max_size=150), min_size=3, max_size=3), min_size=1, max_size=5))
def test_columns_line_up(rows: list[list[str]]) -> None:
    """Every row's second cell begins in the same column, and no line has an end of blanks."""
    told = text.columns(rows)
    assert len(told) == len(rows)
    start = max(len(row[0]) for row in rows) + 2
    for line, row in zip(told, rows, strict=True):
        assert line == line.rstrip()
        assert line[: len(row[0])] == row[0][: len(line)]
        assert line[start : start + len(row[1])].rstrip() == row[1].rstrip()[: max(0, len(line) - start)].rstrip()


@pytest.mark.parametrize(
    ("ratio", "shown"), [(None, "?"), (0.0, "0%"), (0.004, "0.4%"), (0.1, "10%"), (0.955, "96%"), (1.0, "100%")]
)
def test_shares_are_short(ratio: float | None, shown: str) -> None:
    """Small shares keep a digit, unknown ones are a question mark."""
    assert text.percent(ratio) == shown


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ({"label": "alerts critical", "value": 0, "crit": "0"}, "alerts_critical=0;;0;0"),
        ({"label": "a=b|c", "value": 1.5, "unit": "s", "low": ""}, "a_b_c=1.5s"),
        ({"label": "workers", "value": 2, "warn": "2:"}, "workers=2;2:;;0"),
    ],
)
def test_perfdata_keeps_the_plugin_format(arguments: dict[str, Any], shown: str) -> None:
    """`label=value[UOM];warn;crit;min`, with nothing in a label that would end it."""
    assert nagios.figure(**arguments) == shown


def test_a_plugins_line_is_one_line() -> None:
    """Line breaks and bars in the text cannot break the format."""
    told = nagios.line("PROBE x", nagios.Verdict.CRITICAL, "no answer\n| within 2 s", ["a=1"])
    assert told == "PROBE x CRITICAL - no answer / within 2 s | a=1"


def test_a_samples_suffix_becomes_the_unit() -> None:
    """Seconds, bytes and counters get Nagios' units; a value that is no number is U."""
    assert nagios.sample_figure("x_seconds", {"probe": "p"}, 0.5) == "x_seconds_probe_p=0.5s"
    assert nagios.sample_figure("x_total", {}, 3.0) == "x_total=3c"
    assert nagios.sample_figure("x_bytes", {}, "NaN") == "x_bytes=UB"


def test_series_are_written_as_prometheus_does() -> None:
    """A name, its labels in order; without a name at least the braces."""
    assert series_text({"__name__": "up", "b": "2", "a": "1"}) == 'up{a="1",b="2"}'
    assert series_text({"__name__": "up"}) == "up"
    assert series_text({}) == "{}"


def test_a_story_folds_evidence_and_unfolds_it_in_full() -> None:
    """The timeline has offsets; a long piece of evidence is folded, and shown whole with --full."""
    evidence = {"name": "worker_stacks", "text": "\n".join(f"frame {n}" for n in range(30))}
    shape = incident(
        now=NOW,
        annotations={"description": "It does not answer."},
        timeline=[
            {"at": THEN, "offset_seconds": 0.8, "kind": "opened", "text": "Worker 0 hangs", "data": {}},
            {"at": THEN, "offset_seconds": 65.0, "kind": "evidence", "text": "worker_stacks: …", "data": evidence},
        ],
    )
    folded = list(story(shape))
    assert any("+800ms  opened" in line for line in folded)
    assert any("+1m 5s  evidence" in line for line in folded)
    assert "frame 3" in "\n".join(folded)
    assert "frame 4" not in "\n".join(folded)
    assert any("26 more lines" in line for line in folded)
    assert "frame 29" in "\n".join(story(shape, full=True))


def test_a_story_shows_the_end_of_a_log() -> None:
    """Of a log the last lines are shown, and above them how many there are before."""
    evidence = {"name": "service_log", "text": "\n".join(f"line {n}" for n in range(30))}
    line = {"at": THEN, "offset_seconds": 0.8, "kind": "evidence", "text": "service_log: …", "data": evidence}
    told = "\n".join(story(incident(now=NOW, annotations={}, timeline=[line])))
    assert "line 25" not in told
    assert told.index("26 more lines before") < told.index("line 26") < told.index("line 29")


def test_a_piece_of_one_line_stands_beside_its_name() -> None:
    """It takes no line of its own; a long one is folded and told whole."""
    evidence = {"name": "service_status", "text": "failed: " + "it ended although it should run " * 5}
    line = {"at": THEN, "offset_seconds": 0.8, "kind": "evidence", "text": "service_status: …", "data": evidence}
    told = list(story(incident(now=NOW, annotations={}, timeline=[line])))
    (first,) = [index for index, text in enumerate(told) if "service_status: failed: it ended" in text]
    assert " ".join(" ".join(told[first:]).split()).count("although it should run") == 5
    assert not any("│" in text for text in told)


def test_a_story_says_who_was_called_and_who_keeps_hands_off() -> None:
    """Pages and a cancelled repair stand above the timeline."""
    shape = incident(now=NOW, annotations={}, timeline=[], escalated_at=THEN, hands_off="ann")
    told = "\n".join(story(shape))
    assert "a person was called 1m 40s ago" in told
    assert "to people by ann" in told
    paged = "\n".join(story(incident(now=NOW, annotations={}, timeline=[], paged=True)))
    assert "a person was asked" in paged


def test_doing_falls_back_from_run_to_reason_to_title() -> None:
    """What is being done now, else why it stands as it does, else what is wrong."""
    assert doing(incident()).startswith("restore-worker: rung recycle")
    assert doing(incident(run=None, reason="the budget is spent")) == "the budget is spent"
    assert doing(incident(run=None)) == "Worker 0 of llm-proxy is alive but does not answer"


@pytest.mark.parametrize(
    ("state", "told"), [("serving", "pid unknown"), ("hung", "pid unknown"), ("down", "no process"), ("backoff", "no")]
)
def test_a_worker_without_a_pid_is_not_a_worker_without_a_process(state: str, told: str) -> None:
    """While the master is slow to answer nobody knows the pid of a worker that serves; only a dead one has none."""
    assert worker_cells(worker(pid=None, state=state), NOW)[1].startswith(told)


@pytest.mark.parametrize(
    ("serving", "expected", "told"),
    [(1, 1, "1 of 1 worker serves"), (1, 2, "1 of 2 workers serves"), (0, 2, "0 of 2 workers serve")],
)
def test_one_worker_is_no_plural(serving: int, expected: int, told: str) -> None:
    """The service's line counts as people do."""
    service = {"name": "s", "state": "running", "workers_serving": serving, "workers_expected": expected}
    rest = dict.fromkeys(("requests_per_second", "ready", "pid", "note"))
    assert service_row({**rest, **service})[2] == told
