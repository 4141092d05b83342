"""The pressure probe on this machine's own kernel: averages, a trigger that goes off, triggers that are refused."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from watchdog.clock import SystemClock
from watchdog.core.model import Sample
from watchdog.errors import ProbeError
from watchdog.probes import ProbeContext
from watchdog.probes.pressure import PressureProbe, PressureProbeSettings
from watchdog.system.http import HttpClient

HAS_PRESSURE = pytest.mark.skipif(
    os.environ.get("CI") != "true" and not Path("/proc/pressure/cpu").exists(),
    reason="this kernel does not count pressure",
)


def probe_of(http: HttpClient, **settings: Any) -> PressureProbe:
    shape = PressureProbeSettings.model_validate({"kind": "pressure", **settings})
    return PressureProbe(shape, ProbeContext("mine", SystemClock(), http, {}, {}))


def value(samples: tuple[Sample, ...], name: str, **labels: str) -> float:
    (found,) = [s.value for s in samples if s.name == f"pressure_{name}" and labels.items() <= dict(s.labels).items()]
    return found


@HAS_PRESSURE
async def test_averages_are_ratios_and_totals_seconds(http: HttpClient) -> None:
    """What the kernel writes in percent and microseconds comes as ratios and seconds, for each resource."""
    before = float(Path("/proc/pressure/cpu").read_text().split("total=")[1].split()[0]) / 1e6
    samples = (await probe_of(http, triggers={}).measure()).samples
    after = float(Path("/proc/pressure/cpu").read_text().split("total=")[1].split()[0]) / 1e6
    assert before <= value(samples, "stalled_seconds_total", resource="cpu", kind="some") <= after
    for resource in ("cpu", "memory", "io"):
        assert 0 <= value(samples, "stalled_ratio", resource=resource, kind="some", window="300s") <= 1


@HAS_PRESSURE
async def test_a_stall_is_announced(http: HttpClient) -> None:
    """More busy processes than processors: the kernel's word is emitted and counted without any measurement."""
    probe = probe_of(http, triggers={"cpu": {"stall": "1ms", "window": "2s"}})
    heard: asyncio.Queue[tuple[Sample, ...]] = asyncio.Queue()
    task = asyncio.create_task(probe.watch(lambda samples: heard.put_nowait(tuple(samples))))
    await asyncio.sleep(0.01)
    if "by reading only" in (note := (await probe.measure()).note):
        task.cancel()
        pytest.skip(f"this kernel takes no trigger of ours: {note}")
    busy = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", "while True: pass", stderr=subprocess.DEVNULL)
        for _ in range((os.cpu_count() or 1) + 1)
    ]
    try:
        samples = await asyncio.wait_for(heard.get(), 30)
        assert value(samples, "trigger_events_total", resource="cpu", kind="some") == 1
        assert value(samples, "stalled_seconds_total", resource="cpu", kind="some") > 0
        measured = (await probe.measure()).samples
        assert value(measured, "trigger_armed", resource="cpu", kind="some") == 1
        assert not any(dict(sample.labels)["resource"] == "memory" for sample in samples)
    finally:
        for process in busy:
            process.kill()
            await process.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_refused_trigger_leaves_reading(http: HttpClient, tmp_path: Path) -> None:
    """Where the file cannot be opened for triggers, the samples still come, none is armed, and the note says why."""
    (tmp_path / "cpu.pressure").write_text("some avg10=12.50 avg60=1.00 avg300=0.10 total=3000000\n")
    (tmp_path / "memory.pressure").mkdir()
    probe = probe_of(http, cgroup=str(tmp_path), triggers={"memory": {"stall": "200ms"}})
    task = asyncio.create_task(probe.watch(lambda samples: None))
    await asyncio.sleep(0.01)
    measurement = await probe.measure()
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert value(measurement.samples, "stalled_ratio", resource="cpu", window="10s") == 0.125
    assert value(measurement.samples, "stalled_seconds_total", resource="cpu") == 3
    assert value(measurement.samples, "trigger_armed", resource="memory") == 0
    assert measurement.note == "memory by reading only: Is a directory"


@HAS_PRESSURE
async def test_what_the_kernel_refuses_is_told(http: HttpClient) -> None:
    """A trigger that no kernel takes (a stall below a microsecond) is told, and nothing is held open for it."""
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    probe = probe_of(http, triggers={"io": {"stall": "0.0001ms"}})
    task = asyncio.create_task(probe.watch(lambda samples: None))
    await asyncio.sleep(0.01)
    measurement = await probe.measure()
    assert measurement.note.startswith("io by reading only: ")
    assert value(measurement.samples, "trigger_armed", resource="io") == 0
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_kernel_without_pressure_fails(http: HttpClient, tmp_path: Path) -> None:
    """The failure says what to do about it."""
    with pytest.raises(ProbeError, match="boot it with psi=1"):
        await probe_of(http, cgroup=str(tmp_path)).measure()


@pytest.mark.parametrize(
    ("trigger", "complaint"),
    [
        pytest.param({"stall": "3s"}, "longer than its window", id="stall"),
        pytest.param({"stall": "1s", "window": "11s"}, "less than or equal to 10", id="window"),
    ],
)
def test_what_no_kernel_takes_is_refused(trigger: dict[str, str], complaint: str) -> None:
    """Limits of the kernel are told when the configuration is read."""
    with pytest.raises(ValidationError, match=complaint):
        PressureProbeSettings.model_validate({"kind": "pressure", "triggers": {"cpu": trigger}})
