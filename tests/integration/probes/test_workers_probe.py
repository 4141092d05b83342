"""The workers probe on a real master and two real workers, of which some are killed and some are stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterable

import pytest
from live_proxy import LiveProxy

from watchdog.core.model import Sample, labels_of
from watchdog.errors import ActionError
from watchdog.probes import MeasurementError, ProbeContext
from watchdog.probes.workers import WorkersProbe, WorkersProbeSettings
from watchdog.system import process
from watchdog.system.proxy_api import AlreadyReplaced, Recycled

PATIENCE = 45.0


class Heard:
    """Collects what a watch emits and lets a test wait for a sample."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._more = asyncio.Event()

    def emit(self, samples: Iterable[Sample]) -> None:
        self.samples.extend(samples)
        self._more.set()

    async def until(self, wanted: Sample) -> None:
        async with asyncio.timeout(PATIENCE):
            while wanted not in self.samples:
                self._more.clear()
                await self._more.wait()


def worker_sample(name: str, slot: int, value: float) -> Sample:
    return Sample(f"proxywatch_worker_{name}", value, labels_of(worker=str(slot)))


def value_of(samples: Iterable[Sample], name: str, slot: int) -> float | None:
    wanted = (f"proxywatch_worker_{name}", labels_of(worker=str(slot)))
    return next((sample.value for sample in samples if (sample.name, sample.labels) == wanted), None)


@pytest.fixture
def probe(context: ProbeContext) -> WorkersProbe:
    return WorkersProbe(WorkersProbeSettings(kind="workers", service="proxy"), context)


@pytest.fixture
async def heard(probe: WorkersProbe) -> AsyncIterator[Heard]:
    ear = Heard()
    watching = asyncio.create_task(probe.watch(ear.emit))
    yield ear
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching


async def test_two_healthy_workers(probe: WorkersProbe, proxy: LiveProxy) -> None:
    """Both live, serve and answer; what they use is plausible."""
    measurement = await probe.measure()
    assert measurement.note == ""
    for slot in (0, 1):
        assert [value_of(measurement.samples, name, slot) for name in ("up", "serving", "responsive")] == [1, 1, 1]
        assert value_of(measurement.samples, "starts_total", slot) == 1
        assert (value_of(measurement.samples, "uss_bytes", slot) or 0) > 5_000_000
        assert (value_of(measurement.samples, "open_fds", slot) or 0) > 3
    assert Sample("proxywatch_workers_serving", 2) in measurement.samples
    assert Sample("proxywatch_workers_expected", 2) in measurement.samples


async def test_a_killed_worker_is_announced_and_so_is_its_replacement(
    probe: WorkersProbe, heard: Heard, proxy: LiveProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL of a worker is emitted without a measurement in between, and then that its slot serves again."""
    await probe.measure()
    clock = asyncio.get_running_loop().time
    victim = await proxy.pid(0)
    killed_at = clock()
    os.kill(victim, signal.SIGKILL)
    await heard.until(worker_sample("up", 0, 0.0))
    seen_after = clock() - killed_at
    await heard.until(worker_sample("serving", 0, 1.0))
    serving_after = clock() - killed_at
    ours = [sample for sample in heard.samples if sample.name == "proxywatch_worker_up"]
    assert ours == [worker_sample("up", 0, 0.0), worker_sample("up", 0, 1.0)], "one death, one return, nobody else's"
    measurement = await probe.measure()
    assert value_of(measurement.samples, "crashes_total", 0) == 1
    with capsys.disabled():
        print(f"\n[death emitted after {seen_after * 1000:.1f} ms, replacement after {serving_after * 1000:.0f} ms]")


async def test_a_death_is_announced_while_the_master_hangs(probe: WorkersProbe, heard: Heard, proxy: LiveProxy) -> None:
    """With the master stopped the kernel still tells us; the measurement fails, and still shows who lives."""
    await probe.measure()
    victim = await proxy.pid(1)
    proxy.master.send_signal(signal.SIGSTOP)
    os.kill(victim, signal.SIGKILL)
    await heard.until(worker_sample("up", 1, 0.0))
    with pytest.raises(MeasurementError, match="the master does not answer") as caught:
        await probe.measure()
    assert [value_of(caught.value.samples, "up", slot) for slot in (0, 1)] == [1, 0]
    assert value_of(caught.value.samples, "responsive", 0) == 1
    proxy.master.send_signal(signal.SIGCONT)
    await heard.until(worker_sample("serving", 1, 1.0))


async def test_a_stopped_worker_lives_but_does_not_answer(probe: WorkersProbe, proxy: LiveProxy) -> None:
    """SIGSTOP: the process is up, its socket is silent, and the other worker is measured all the same."""
    os.kill(await proxy.pid(0), signal.SIGSTOP)
    measurement = await probe.measure()
    assert [value_of(measurement.samples, name, 0) for name in ("up", "serving", "responsive")] == [1, 1, 0]
    assert value_of(measurement.samples, "responsive", 1) == 1
    assert "worker 0" in measurement.note
    assert "no answer within 0.8 s" in measurement.note


async def test_a_planned_recycle_is_no_death(probe: WorkersProbe, heard: Heard, proxy: LiveProxy) -> None:
    """A graceful recycle replaces the process without a moment at which the slot counts as down."""
    await probe.measure()
    old = await proxy.pid(0)
    done = await proxy.api.recycle_worker(0, "graceful", old, timeout=PATIENCE)
    assert isinstance(done, Recycled)
    assert done.old_pid == old != done.new_pid
    await heard.until(worker_sample("up", 0, 1.0))
    async with asyncio.timeout(PATIENCE):
        while (await proxy.status()).workers[0].state != "serving" or process.identify(old):
            await asyncio.sleep(0.05)
    assert worker_sample("up", 0, 0.0) not in heard.samples
    again = await proxy.api.recycle_worker(0, "kill", old, timeout=PATIENCE)
    assert isinstance(again, AlreadyReplaced)


async def test_the_rest_of_the_conversation(proxy: LiveProxy) -> None:
    """Memory, garbage, stacks, cache and circuit: each call is understood by the real proxy."""
    api = proxy.api
    assert (await api.worker_memory(0)).uss_bytes > 0
    assert (await api.collect_garbage(0)).pause_ms >= 0
    assert "thread 0x" in await api.worker_stacks(0)
    assert (await api.evict_cache(fraction=0.5))["evicted"] == 0
    assert "flushed" in await api.flush_cache()
    assert (await api.cache()).usage_ratio < 0.5
    await api.set_circuit("far", "open", 30, "a test")
    assert (await api.providers())["far"].circuit == "open"
    with pytest.raises(ActionError, match="answered 404") as caught:
        await api.set_circuit("nobody", "open", 30, "a test")
    assert caught.value.permanent
