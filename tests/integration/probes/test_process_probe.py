"""The process probe on real processes: by each way of naming one, and its death announced at once."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest

from watchdog.clock import SystemClock
from watchdog.core.model import Sample, labels_of
from watchdog.probes import MeasurementError, ProbeContext
from watchdog.probes.process import ProcessProbe, ProcessProbeSettings
from watchdog.system.http import HttpClient
from watchdog.system.services import ServiceContext
from watchdog.system.services.child import ChildService, ChildSettings


def probe_of(http: HttpClient, services: dict[str, Any] | None = None, **settings: Any) -> ProcessProbe:
    context = ProbeContext("mine", SystemClock(), http, services or {}, {})
    return ProcessProbe(ProcessProbeSettings.model_validate({"kind": "process", **settings}), context)


@contextlib.asynccontextmanager
async def watching(probe: ProcessProbe) -> AsyncIterator[asyncio.Queue[tuple[Sample, ...]]]:
    heard: asyncio.Queue[tuple[Sample, ...]] = asyncio.Queue()

    def emit(samples: Iterable[Sample]) -> None:
        heard.put_nowait(tuple(samples))

    task = asyncio.create_task(probe.watch(emit))
    yield heard
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("way", ["pidfile", "executable", "command_line"])
async def test_a_process_is_found_and_its_death_is_announced(way: str, tmp_path: Path, http: HttpClient) -> None:
    """By pidfile, executable or command line: up with its figures, then 0 by the kernel's word, then a failure."""
    marker = f"marker-{tmp_path.name}"
    script = f": {marker}; echo up; read x; :"
    with subprocess.Popen(("sh", "-c", script), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        (tmp_path / "x.pid").write_text(str(child.pid))
        executable = str(Path(f"/proc/{child.pid}/exe").readlink())
        settings = {
            "pidfile": str(tmp_path / "x.pid"),
            "executable": executable,
            "command_line": marker,
        }
        probe = probe_of(http, **{way: settings[way]})
        measurement = await probe.measure()
        up = Sample("proxywatch_process_up", 1.0, labels_of(process="mine"))
        assert up in measurement.samples
        assert {"proxywatch_process_threads", "proxywatch_process_cpu_seconds_total"} <= {
            sample.name for sample in measurement.samples
        }
        if way == "executable":
            child.kill()
            return  # other processes of this machine may run the same shell
        async with watching(probe) as heard:
            await asyncio.sleep(0)
            child.kill()
            assert await asyncio.wait_for(heard.get(), 45) == (
                Sample("proxywatch_process_up", 0.0, labels_of(process="mine")),
            )
    with pytest.raises(MeasurementError, match="no process") as caught:
        await probe.measure()
    assert caught.value.samples == (Sample("proxywatch_process_up", 0.0, labels_of(process="mine")),)


async def test_a_service_is_seen_down_up_and_stopped_on_purpose(tmp_path: Path, http: HttpClient) -> None:
    """By service: a kill and the return are announced; a stop on purpose is no failure but is told."""
    service = ChildService(
        ChildSettings(kind="child", argv=("sleep", "600")),
        ServiceContext("demo", tmp_path, tmp_path, SystemClock(), http),
    )
    probe = probe_of(http, {"demo": service}, service="demo")
    labels = labels_of(service="demo")
    await service.start()
    try:
        measurement = await probe.measure()
        assert Sample("proxywatch_service_up", 1.0, labels) in measurement.samples
        async with watching(probe) as heard:
            identity = (await service.status()).identity
            assert identity is not None
            subprocess.run(("kill", "-9", str(identity.pid)), check=True)
            assert Sample("proxywatch_service_up", 0.0, labels) in await asyncio.wait_for(heard.get(), 45)
            await service.start()
            assert Sample("proxywatch_service_up", 1.0, labels) in await asyncio.wait_for(heard.get(), 45)
    finally:
        await service.stop()
    measurement = await probe.measure()
    assert Sample("proxywatch_service_up", 0.0, labels) in measurement.samples
    assert Sample("proxywatch_service_stopped", 1.0, labels) in measurement.samples
