"""The wrapper around every probe: what becomes of a measurement, a failure, silence and a bug."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

import pytest

from watchdog.clock import FakeClock
from watchdog.core.model import Measurement, Sample, labels_of
from watchdog.errors import ProbeError
from watchdog.probes import MeasurementError, ProbeResult, ProbeSettings, run_once


class Settings(ProbeSettings):
    kind: Literal["scripted"] = "scripted"


class ScriptedProbe:
    """Measures by calling what it was given."""

    def __init__(self, script: Callable[[], Awaitable[Measurement]]) -> None:
        self._script = script

    async def measure(self) -> Measurement:
        return await self._script()


async def outcome(script: Callable[[], Awaitable[Measurement]], timeout: str = "5s") -> ProbeResult:
    return await run_once(
        ScriptedProbe(script), Settings.model_validate({"timeout": timeout}), "mine", FakeClock(1000.0)
    )


def success(result: ProbeResult) -> float:
    wanted = labels_of(probe="mine", kind="scripted")
    return next(one.value for one in result.samples if one.name == "probe_success" and one.labels == wanted)


async def test_a_measurement_is_kept_and_counted_as_a_success() -> None:
    """Samples and note go through, with success 1 and the duration beside them."""
    clock = FakeClock(1000.0)

    async def measure() -> Measurement:
        clock.advance(2.5)
        return Measurement((Sample("x", 7.0),), "fine")

    result = await run_once(ScriptedProbe(measure), Settings(), "mine", clock)
    assert result.samples[0] == Sample("x", 7.0)
    assert success(result) == 1
    assert next(one.value for one in result.samples if one.name == "probe_duration_seconds") == 2.5
    assert (result.note, result.error, result.started_at, result.duration) == ("fine", None, 1000.0, 2.5)


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (ProbeError("no luck"), "no luck"),
        (FileNotFoundError(2, "No such file or directory", "/x"), "/x: No such file or directory"),
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
    ],
)
async def test_a_failure_is_a_measurement_too(error: Exception, note: str) -> None:
    """What goes wrong with the target gives success 0 and says why."""

    async def measure() -> Measurement:
        raise error

    result = await outcome(measure)
    assert success(result) == 0
    assert result.error == result.note == note


async def test_what_was_measured_before_a_failure_is_kept() -> None:
    """A probe that fails with samples loses none of them."""

    async def measure() -> Measurement:
        raise MeasurementError("half", (Sample("up", 0.0),))

    result = await outcome(measure)
    assert Sample("up", 0.0) in result.samples
    assert success(result) == 0


async def test_silence_ends_at_the_timeout() -> None:
    """A probe that never comes back is ended by its own timeout, and that is its result."""

    async def measure() -> Measurement:
        await asyncio.Event().wait()
        raise AssertionError

    result = await outcome(measure, "20ms")
    assert success(result) == 0
    assert result.note == "no measurement within 0.02 s"


async def test_a_bug_is_not_taken_for_a_failing_target() -> None:
    """An exception that no target can cause goes on to whoever runs the probe."""

    async def measure() -> Measurement:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        await outcome(measure)
