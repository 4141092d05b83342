"""The systemd_unit probe on what `systemctl show` of systemd 252 prints, and where there is no systemd."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from fake_programs import program
from pydantic import ValidationError

from watchdog.clock import SystemClock
from watchdog.core.model import Sample
from watchdog.errors import ProbeError
from watchdog.probes import MeasurementError, ProbeContext
from watchdog.probes.systemd_unit import SystemdUnitProbe, SystemdUnitProbeSettings
from watchdog.system.http import HttpClient

RUNNING = """\
NRestarts=2
ExecMainPID=812
ExecMainStatus=0
Result=success
LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled
InactiveExitTimestampMonotonic={begun}
ActiveEnterTimestampMonotonic={active}
"""
FAILED = """\
NRestarts=5
ExecMainPID=913
ExecMainStatus=3
Result=exit-code
LoadState=loaded
ActiveState=failed
SubState=failed
UnitFileState=disabled
Job=77
InactiveExitTimestampMonotonic=0
ActiveEnterTimestampMonotonic=0
"""
UNKNOWN = """\
Result=success
LoadState=not-found
ActiveState=inactive
SubState=dead
UnitFileState=
InactiveExitTimestampMonotonic=0
ActiveEnterTimestampMonotonic=0
"""


def probe_of(http: HttpClient, systemctl: tuple[str, ...], *units: str) -> SystemdUnitProbe:
    settings = SystemdUnitProbeSettings(kind="systemd_unit", units=units, systemctl=systemctl)
    return SystemdUnitProbe(settings, ProbeContext("mine", SystemClock(), http, {}, {}))


def figures(samples: Iterable[Sample], unit: str) -> dict[str, float]:
    """By name; of the states only the one that holds."""
    found = {}
    for sample in samples:
        labels = dict(sample.labels)
        if labels["unit"] == unit and (sample.name != "systemd_unit_state" or sample.value):
            name = sample.name.removeprefix("systemd_unit_")
            found[name + (f"={labels['state']}" if "state" in labels else "")] = sample.value
    return found


async def test_each_unit_has_its_figures(tmp_path: Path, http: HttpClient) -> None:
    """Two units in one call: states, restarts, main process, pending job and ages, each under its own unit."""
    now = time.monotonic()
    running = RUNNING.format(begun=int((now - 100) * 1e6), active=int((now - 40) * 1e6))
    said = (
        f"import sys\nassert sys.argv[-3:] == ['--', 'a.service', 'b.service']\nprint({running + chr(10) + FAILED!r})"
    )
    probe = probe_of(http, program(tmp_path / "systemctl", said), "a.service", "b.service")
    measurement = await probe.measure()
    first, second = (figures(measurement.samples, unit) for unit in ("a.service", "b.service"))
    assert first.pop("active_enter_age_seconds") == pytest.approx(40, abs=10)
    assert first.pop("inactive_exit_age_seconds") == pytest.approx(100, abs=10)
    common = {"info": 1, "loaded": 1}
    process = {"restarts_total": 2, "main_process_id": 812, "main_process_status": 0}
    assert first == {"state=active": 1, "job_pending": 0, **common, **process}
    process = {"restarts_total": 5, "main_process_id": 913, "main_process_status": 3}
    assert second == {"state=failed": 1, "job_pending": 1, **common, **process}
    info = [dict(s.labels) for s in measurement.samples if s.name == "systemd_unit_info"]
    assert info[1] == {
        "unit": "b.service",
        "sub_state": "failed",
        "result": "exit-code",
        "load_state": "loaded",
        "unit_file_state": "disabled",
    }
    assert measurement.note == "a.service: active (running), b.service: failed (failed)"


async def test_an_unknown_unit_is_named_and_measured(tmp_path: Path, http: HttpClient) -> None:
    """It is a failure that names the unit and says that it is not loaded."""
    probe = probe_of(http, program(tmp_path / "systemctl", f"print({UNKNOWN!r})"), "none.service")
    with pytest.raises(MeasurementError, match=r"knows no unit none\.service") as caught:
        await probe.measure()
    assert figures(caught.value.samples, "none.service")["loaded"] == 0


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        pytest.param("import sys; sys.exit('System has not been booted with systemd')", "not been booted", id="none"),
        pytest.param("print('ActiveState=active')", "told of 1 units, asked for 2", id="one-of-two"),
    ],
)
async def test_what_systemd_does_not_tell_is_a_failure(
    tmp_path: Path, http: HttpClient, body: str, complaint: str
) -> None:
    """Without a systemd that answers for every unit there is no figure at all."""
    with pytest.raises(ProbeError, match=complaint):
        await probe_of(http, program(tmp_path / "systemctl", body), "a.service", "b.service").measure()


async def test_a_machine_without_systemctl_says_so(http: HttpClient, tmp_path: Path) -> None:
    """A program that is not there is a failure that names it."""
    with pytest.raises(ProbeError, match="nowhere: cannot be started"):
        await probe_of(http, (str(tmp_path / "nowhere"),), "a.service").measure()


@pytest.mark.parametrize("unit", ["nginx", "*.service", "--all", "a.service b.service"])
def test_only_whole_names_of_units_are_taken(unit: str) -> None:
    """No pattern, no option, no half name."""
    shape: dict[str, Any] = {"kind": "systemd_unit", "units": [unit]}
    with pytest.raises(ValidationError, match="whole name"):
        SystemdUnitProbeSettings.model_validate(shape)
