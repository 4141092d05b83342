"""The journal probe on a program that speaks as journalctl does: matches, the place where it stopped, its failures."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_programs import program
from pydantic import ValidationError

from watchdog.clock import SystemClock
from watchdog.core.model import Sample
from watchdog.probes import MeasurementError, Memory, ProbeContext
from watchdog.probes.journal import JournalMatch, JournalProbe, JournalProbeSettings
from watchdog.store.database import Database
from watchdog.store.facts import Facts
from watchdog.system.http import HttpClient

FAILED = {
    "__CURSOR": "c1",
    "__REALTIME_TIMESTAMP": "1700000000000000",
    "_PID": "1",
    "MESSAGE_ID": "d9b373ed55a64feb8242e02dbe79a49c",
    "MESSAGE": "a.service: Failed.",
    "UNIT": "a.service",
    "UNIT_RESULT": "exit-code",
}
PLAIN = {"__CURSOR": "c2", "MESSAGE": "hello", "PRIORITY": "6"}
# Says how it was called, prints what it is given, then stays as `--follow` does.
FOLLOWING = """
import json, pathlib, sys, time
place = pathlib.Path(__file__)
with place.with_suffix(".calls").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + chr(10))
sys.stdout.write(place.with_suffix(".entries").read_text())
sys.stdout.flush()
time.sleep(600)
"""


@pytest.fixture
def facts(tmp_path: Path) -> Iterator[Facts]:
    database = Database(tmp_path / "facts.db")
    yield Facts(database)
    database.close()


def probe_of(http: HttpClient, journalctl: tuple[str, ...], memory: Memory | None = None, **more: Any) -> JournalProbe:
    settings = JournalProbeSettings.model_validate({"kind": "journal", "journalctl": journalctl, **more})
    return JournalProbe(settings, ProbeContext("j", SystemClock(), http, {}, {}, memory))


def journalctl(root: Path, *lines: str | dict[str, Any]) -> tuple[str, ...]:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (root / "journalctl.entries").write_text(text)
    return program(root / "journalctl", FOLLOWING)


def calls(root: Path) -> list[list[str]]:
    return [json.loads(line) for line in (root / "journalctl.calls").read_text().splitlines()]


def counts(samples: tuple[Sample, ...]) -> dict[str, float]:
    return {dict(s.labels).get("match", s.name): s.value for s in samples if "unit" not in dict(s.labels)}


@contextlib.asynccontextmanager
async def watched(probe: JournalProbe) -> AsyncIterator[asyncio.Queue[dict[str, float]]]:
    heard: asyncio.Queue[dict[str, float]] = asyncio.Queue()
    task = asyncio.create_task(probe.watch(lambda samples: heard.put_nowait(counts(tuple(samples)))))
    try:
        async with asyncio.timeout(30):
            yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_failed_unit_is_told_by_its_message_id(tmp_path: Path, http: HttpClient) -> None:
    """From zero to one, at once; entries that match nothing are counted and not told; the note is the entry."""
    probe = probe_of(http, journalctl(tmp_path, PLAIN, FAILED))
    async with watched(probe) as heard:
        assert (await heard.get())["unit_failed"] == 0
        assert (await heard.get())["unit_failed"] == 1
        measurement = await probe.measure()
    found = counts(measurement.samples)
    assert (found["journal_entries_total"], found["coredump"], found["journal_following"]) == (2, 0, 1)
    assert measurement.note == "unit_failed: a.service: Failed."


@pytest.mark.parametrize(
    ("match", "entry"),
    [
        pytest.param("unit_start_failed", {"MESSAGE_ID": "be02cf6855d2428ba40df7e9d022f03d"}, id="start-failed"),
        pytest.param("unit_restarting", {"MESSAGE_ID": "5eb03494b6584870a536b337290809b3"}, id="restarting"),
        pytest.param("unit_watchdog", {"UNIT_RESULT": "watchdog"}, id="watchdog"),
        pytest.param("unit_out_of_memory", {"MESSAGE_ID": "fe6faa94e7774663a0da52717891d8ef"}, id="out-of-memory"),
        pytest.param("unit_oomd_kill", {"MESSAGE_ID": "d989611b15e44c9dbf31e3c81256e4ed"}, id="oomd"),
    ],
)
async def test_each_kind_of_trouble_is_told_with_its_unit(
    tmp_path: Path, http: HttpClient, match: str, entry: dict[str, Any]
) -> None:
    """What systemd says of a unit is counted by unit and dated in the agent's clock; the same words of anybody else
    are not believed, but for those of another daemon than systemd."""
    forged = {**FAILED, **entry, "_PID": "4711", "UNIT": "forged.service"}
    probe = probe_of(http, journalctl(tmp_path, forged, {**FAILED, **entry}, {**FAILED, **entry}))
    async with watched(probe) as heard:
        while (await heard.get())[match] < 2:
            pass
        samples = (await probe.measure()).samples
    told = {s.name: s.value for s in samples if {("match", match), ("unit", "a.service")} <= set(s.labels)}
    assert told["journal_unit_matches_total"] == 2
    assert abs(told["journal_match_timestamp_seconds"] - 1_700_000_000) < 60
    believed = [s for s in samples if ("unit", "forged.service") in s.labels]
    assert bool(believed) is (match == "unit_oomd_kill")


async def test_units_that_nobody_speaks_of_any_more_give_way(tmp_path: Path, http: HttpClient) -> None:
    """However many names the journal tells, 32 are kept of each match, those told last."""
    entries = [{**FAILED, "UNIT": f"unit-{number}.service"} for number in range(40)]
    probe = probe_of(http, journalctl(tmp_path, *entries))
    async with watched(probe) as heard:
        while (await heard.get())["unit_failed"] < 40:
            pass
        samples = (await probe.measure()).samples
    units = [dict(s.labels)["unit"] for s in samples if s.name == "journal_unit_matches_total"]
    assert units == [f"unit-{number}.service" for number in range(8, 40)]


async def test_the_place_outlives_the_agent(tmp_path: Path, http: HttpClient, facts: Facts) -> None:
    """The first life begins with what is new, the next one after the last entry of the first."""
    async with watched(probe_of(http, journalctl(tmp_path, FAILED), facts)) as heard:
        while not (await heard.get())["unit_failed"]:
            pass
    async with watched(probe_of(http, journalctl(tmp_path, {**FAILED, "__CURSOR": "c9"}), facts)) as heard:
        while not (await heard.get())["unit_failed"]:
            pass
    first, second = calls(tmp_path)
    assert first[-2:] == ["--lines", "0"]
    assert second[-4:] == ["--lines", "all", "--after-cursor", "c1"]
    assert facts.get("journal_cursor:j") == "c9"


async def test_what_is_no_entry_is_passed_over(tmp_path: Path, http: HttpClient) -> None:
    """A line beyond all bounds, half a line and a list do not end the watch."""
    lines = ("{" + "x" * 3_000_000, '{"MESSAGE": ', "[1]", FAILED)
    async with watched(probe_of(http, journalctl(tmp_path, *lines))) as heard:
        while not (await heard.get())["unit_failed"]:
            pass


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        pytest.param("import sys; sys.exit('No permission to read')", "No permission to read", id="refused"),
        pytest.param("pass", "ended with status 0", id="ended"),
    ],
)
async def test_a_journalctl_that_ends_is_a_failure(tmp_path: Path, http: HttpClient, body: str, complaint: str) -> None:
    """While it does not run the measurement fails with its last words, and the counts stay."""
    probe = probe_of(http, program(tmp_path / "journalctl", body))
    async with watched(probe) as heard:
        await heard.get()
        while True:
            try:
                await probe.measure()
            except MeasurementError as error:
                if complaint in str(error):
                    samples = error.samples
                    break
            await asyncio.sleep(0.05)
    assert counts(samples) == dict.fromkeys(counts(samples), 0)


async def test_a_machine_without_journalctl_says_what_to_install(tmp_path: Path, http: HttpClient) -> None:
    """By itself and while it is watched."""
    probe = probe_of(http, (str(tmp_path / "none"),))
    with pytest.raises(MeasurementError, match="cannot be started: No such file or directory; it comes with systemd"):
        await probe.measure()
    async with watched(probe) as heard:
        await heard.get()
        with pytest.raises(MeasurementError, match="is not followed"):
            await probe.measure()


@pytest.mark.parametrize(
    ("match", "entry", "holds"),
    [
        pytest.param({"fields": {"_SYSTEMD_UNIT": "a"}}, {"_SYSTEMD_UNIT": "a"}, True, id="field"),
        pytest.param({"fields": {"_SYSTEMD_UNIT": "a", "_UID": "0"}}, {"_SYSTEMD_UNIT": "a"}, False, id="one-of-two"),
        pytest.param({"max_priority": 3}, {"PRIORITY": "3"}, True, id="priority"),
        pytest.param({"max_priority": 3}, {"PRIORITY": "4"}, False, id="less-grave"),
        pytest.param({"max_priority": 3}, {}, False, id="no-priority"),
        pytest.param({"text": "out of m"}, {"MESSAGE": "out of memory"}, True, id="text"),
        pytest.param({"text": "^hä"}, {"MESSAGE": [*"hä\xff".encode("latin-1")]}, False, id="bytes"),
        pytest.param({"text": "^ok"}, {"MESSAGE": [111, 107, 255]}, True, id="bytes-that-match"),
        pytest.param({"text": "a b"}, {"MESSAGE": ["a", "b"]}, True, id="several"),
        pytest.param({"text": "x"}, {"MESSAGE": None}, False, id="null"),
    ],
)
def test_all_that_is_given_must_hold(match: dict[str, Any], entry: dict[str, Any], holds: bool) -> None:
    """Fields by whole value, priority as a bound, text by pattern, in each form that journalctl gives."""
    assert JournalMatch.model_validate(match).holds(entry) is holds


@pytest.mark.parametrize("match", [{}, {"message_id": "xyz"}, {"text": "("}], ids=["empty", "id", "pattern"])
def test_a_match_that_says_nothing_is_refused(match: dict[str, Any]) -> None:
    """An empty match would be every entry."""
    with pytest.raises(ValidationError):
        JournalMatch.model_validate(match)
