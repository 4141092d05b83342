"""The command probe on real programs: Nagios' exit codes and figures, and programs that do not keep to them."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest

from watchdog.clock import SystemClock
from watchdog.core.model import Measurement
from watchdog.errors import ProbeError
from watchdog.probes import MeasurementError, ProbeContext
from watchdog.probes.command import CommandProbe, CommandProbeSettings, Figure, parse_output
from watchdog.system.http import HttpClient


def probe_of(http: HttpClient, *argv: str, **settings: Any) -> CommandProbe:
    shape = CommandProbeSettings.model_validate({"kind": "command", "argv": argv, **settings})
    return CommandProbe(shape, ProbeContext("raid", SystemClock(), http, {}, {}))


def values(measurement: Measurement) -> dict[tuple[str, ...], float]:
    return {
        (s.name.removeprefix("command_"), *(v for n, v in s.labels if n != "command")): s.value
        for s in measurement.samples
    }


@pytest.mark.parametrize("status", [0, 1, 2])
async def test_ok_warning_and_critical_are_measurements(status: int, http: HttpClient) -> None:
    """The plugin's word is the status, its first line the note, its figures samples in base units with their limits."""
    said = "DISK - /=91% | '/ used'=2048KB;10:3000;4096;0;5120 /inodes=7%\nmore\n| time=250ms;;;0"
    measurement = await probe_of(http, "sh", "-c", f'printf %s "$0"; exit {status}', said).measure()
    assert measurement.note == "DISK - /=91%"
    assert values(measurement) == {
        ("status",): status,
        ("exit_code",): status,
        ("perfdata", "/ used", "B"): 2048 * 1024,
        ("perfdata_warning", "/ used", "B"): 3000 * 1024,
        ("perfdata_critical", "/ used", "B"): 4096 * 1024,
        ("perfdata_minimum", "/ used", "B"): 0,
        ("perfdata_maximum", "/ used", "B"): 5120 * 1024,
        ("perfdata", "/inodes", "ratio"): 0.07,
        ("perfdata", "time", "s"): 0.25,
        ("perfdata_minimum", "time", "s"): 0,
    }


@pytest.mark.parametrize(
    ("script", "complaint", "exit_code"),
    [
        pytest.param("echo no such host; exit 3", "exit 3: no such host", 3, id="unknown"),
        pytest.param("exit 127", "exit 127: it said nothing", 127, id="not-found"),
        pytest.param("kill -9 $$", "killed by signal 9", -9, id="killed"),
    ],
)
async def test_unknown_is_a_failure(script: str, complaint: str, exit_code: int, http: HttpClient) -> None:
    """Status 3, any status beyond and a signal say that nothing was measured; the exit code is told all the same."""
    with pytest.raises(MeasurementError, match=complaint) as caught:
        await probe_of(http, "sh", "-c", script).measure()
    assert [s.value for s in caught.value.samples] == [3, exit_code]


async def test_what_takes_too_long_is_ended_and_told(http: HttpClient) -> None:
    """The failure names the program and the time it had."""
    before = time.monotonic()
    with pytest.raises(ProbeError, match=r"sleep: not done after 0\.19 s"):
        await probe_of(http, "sleep", "60", timeout="200ms").measure()
    assert time.monotonic() - before < 30


async def test_what_is_not_there_is_told(http: HttpClient) -> None:
    """A program that cannot be started is a failure."""
    with pytest.raises(ProbeError, match="/nowhere/plugin: cannot be started"):
        await probe_of(http, "/nowhere/plugin").measure()


async def test_no_shell_reads_the_arguments(http: HttpClient) -> None:
    """What a shell would run or expand comes out as it was written."""
    assert (await probe_of(http, "echo", "$HOME `id`; *").measure()).note == "$HOME `id`; *"


@pytest.mark.parametrize(
    ("output", "note", "figures"),
    [
        pytest.param("", "", (), id="nothing"),
        pytest.param("fine", "fine", (), id="no-figures"),
        pytest.param("x|a=1", "x", (Figure("a", "", 1),), id="bare"),
        pytest.param("x|a=1c b=2requests", "x", (Figure("a", "c", 1), Figure("b", "requests", 2)), id="own-units"),
        pytest.param("x|'it''s'=-1.5e2s;@5:10;~:20", "x",
                     (Figure("it's", "s", -150, (("warning", 10), ("critical", 20))),), id="ranges"),
        pytest.param("x|a=5;10:;", "x", (Figure("a", "", 5),), id="open-ranges"),
        pytest.param("x|a=U b=1.2.3 c= =4 d=nan e=7", "x", (Figure("e", "", 7),), id="no-numbers"),
        pytest.param("x|a=1 a=2", "x", (Figure("a", "", 1),), id="twice"),
    ],
)  # fmt: skip
def test_figures_are_read_as_the_guidelines_write_them(output: str, note: str, figures: tuple[Figure, ...]) -> None:
    """Quotes, units, ranges, undetermined values; what is no figure is passed over."""
    assert parse_output(output) == (note, figures)


@pytest.mark.parametrize("piece", [" ", "a", "'", "a=", "''", "a=1;", "a=1e"])
def test_no_output_makes_reading_slow(piece: str) -> None:
    """As much as is kept of any output is read in a moment, and gives a hundred figures at most."""
    before = time.process_time()
    note, figures = parse_output("x|" + piece * (64 * 1024 // len(piece)))
    assert time.process_time() - before < 1
    assert len(figures) <= 100
    assert note == "x"


async def test_many_figures_are_bounded(http: HttpClient) -> None:
    """A plugin that prints a thousand figures makes no more than a hundred series of them."""
    script = "print('x |', *(f'n{i}={i}' for i in range(1000)))"
    measurement = await probe_of(http, sys.executable, "-c", script).measure()
    assert sum(sample.name == "command_perfdata" for sample in measurement.samples) == 100
