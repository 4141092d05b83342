"""The security-log probe on a real file, as an llm-proxy writes it and as strangers would like it to be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from watchdog.clock import SystemClock
from watchdog.core.model import Sample
from watchdog.probes import MeasurementError, ProbeContext
from watchdog.probes.security_log import SecurityLogProbe, SecurityLogProbeSettings
from watchdog.system.http import HttpClient


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "security.log"
    file.touch()
    return file


def probe_of(path: Path, http: HttpClient, **settings: Any) -> SecurityLogProbe:
    found = SecurityLogProbeSettings.model_validate({"kind": "security_log", "path": str(path), **settings})
    return SecurityLogProbe(found, ProbeContext("mine", SystemClock(), http, {}, {}))


@pytest.fixture
async def probe(path: Path, http: HttpClient) -> AsyncIterator[SecurityLogProbe]:
    made = probe_of(path, http)
    yield made
    await made.close()


def tell(path: Path, event: str, ago: float = 0.0, **fields: object) -> None:
    at = datetime.fromtimestamp(SystemClock().wall() - ago, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    with path.open("a") as file:
        file.write(json.dumps({"timestamp": at, "level": "WARNING", "event": event, **fields}) + "\n")


def by(label: str, name: str, samples: Iterable[Sample]) -> dict[str, float]:
    return {dict(s.labels)[label]: s.value for s in samples if s.name == name}


async def test_failures_are_counted_by_address_within_the_window(probe: SecurityLogProbe, path: Path) -> None:
    """Old ones count not, a line that stands for several counts as such, and the same address is one however it is
    written; what is no address is counted apart."""
    tell(path, "failed_auth", ago=1000, source="192.0.2.1")
    tell(path, "failed_auth", ago=800, source="192.0.2.1")
    tell(path, "failed_auth", ago=60, source="192.0.2.1", failures=40)
    tell(path, "failed_auth", source="::ffff:192.0.2.1")
    tell(path, "failed_auth", source="2001:DB8:0::7")
    tell(path, "failed_auth", source="fe80::1%eth0")
    for odd in ("unknown", None, "1.2.3", '"} evil', 5):
        tell(path, "failed_auth", source=odd)
    samples = (await probe.measure()).samples
    assert by("source", "auth_source_failures", samples) == {"192.0.2.1": 42, "2001:db8::7": 1, "fe80::1": 1}
    assert by("source", "auth_source_quiet_seconds", samples)["192.0.2.1"] < 30
    assert {s.name: s.value for s in samples if not s.labels} == {"auth_sources": 3, "auth_unattributed_failures": 5}


async def test_whose_valid_keys_come_from_there_and_whose_keys_are_refused(probe: SecurityLogProbe, path: Path) -> None:
    """A source has the valid keys that came from it; a key has the calls that it was refused."""
    tell(path, "failed_auth", source="192.0.2.1")
    tell(path, "failed_auth", source="192.0.2.2")
    tell(path, "admitted_among_failures", source="192.0.2.1", key_id="joe", success=True)
    tell(path, "admin_call", source="192.0.2.3", key_id="admin", success=True)
    for _ in range(3):
        tell(path, "forbidden", source="192.0.2.2", key_id="joe")
    tell(path, "rate_limited", key_id="joe")
    samples = (await probe.measure()).samples
    assert by("source", "auth_source_admitted", samples) == {"192.0.2.1": 1, "192.0.2.2": 0}
    assert by("key", "auth_key_refusals", samples) == {"joe": 4}


async def test_however_many_addresses_fail_the_worst_are_told(path: Path, http: HttpClient) -> None:
    """As many series as `top` says, of ten thousand addresses; all that are remembered are counted."""
    lines = [{"event": "failed_auth", "source": f"10.{n // 250 % 250}.{n % 250}.1"} for n in range(10_000)]
    path.write_text("")
    probe = probe_of(path, http, top=3)
    await probe.measure()
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
        file.writelines(json.dumps({"event": "failed_auth", "source": "192.0.2.7"}) + "\n" for _ in range(5))
    samples = (await probe.measure()).samples
    await probe.close()
    failures = by("source", "auth_source_failures", samples)
    assert len(failures) == 3
    assert failures["192.0.2.7"] == 5
    assert {s.name: s.value for s in samples if not s.labels}["auth_sources"] == 4096


async def test_a_start_knows_what_was_written_before(path: Path, http: HttpClient) -> None:
    """By the times in the lines, from the end of a large file, so that a restart of the agent forgets no attack."""
    path.write_text("no line of ours\n" * 60_000)
    for _ in range(7):
        tell(path, "failed_auth", ago=100, source="192.0.2.1")
    probe = probe_of(path, http)
    samples = (await probe.measure()).samples
    await probe.close()
    assert by("source", "auth_source_failures", samples) == {"192.0.2.1": 7}


async def test_lines_that_are_none_do_no_harm(probe: SecurityLogProbe, path: Path) -> None:
    """Not JSON, no object, odd times and odd numbers, binary, endless: skipped, or counted once."""
    with path.open("ab") as file:
        file.write(b'{"event": "failed_auth"\n[1]\nnull\n\xff\xfe\n' + b"x" * 100_000 + b"\n")
        for odd in ('"timestamp": 5', '"timestamp": "soon"', '"failures": -3', '"failures": "many"', '"failures": 1e9'):
            file.write(b'{"event": "failed_auth", "source": "192.0.2.1", %s}\n' % odd.encode())
    samples = (await probe.measure()).samples
    assert by("source", "auth_source_failures", samples) == {"192.0.2.1": 5}


async def test_a_failure_is_told_without_a_measurement(probe: SecurityLogProbe, path: Path) -> None:
    """Soon after it was written; and over a rotation nothing is lost."""
    told: asyncio.Queue[list[Sample]] = asyncio.Queue()
    watching = asyncio.create_task(probe.watch(lambda samples: told.put_nowait(list(samples))))
    try:
        async with asyncio.timeout(45):
            tell(path, "failed_auth", source="192.0.2.1")
            assert by("source", "auth_source_failures", await told.get()) == {"192.0.2.1": 1}
            path.rename(path.with_name("security.log.1"))
            tell(path, "failed_auth", source="192.0.2.1")
            assert by("source", "auth_source_failures", await told.get()) == {"192.0.2.1": 2}
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_a_log_that_is_not_there_is_a_failure_and_what_was_known_stays(
    probe: SecurityLogProbe, path: Path
) -> None:
    """It is named; the counts so far are beside it."""
    tell(path, "failed_auth", source="192.0.2.1")
    await probe.measure()
    path.unlink()
    with pytest.raises(MeasurementError, match=r"security\.log: No such file") as caught:
        await probe.measure()
    assert by("source", "auth_source_failures", caught.value.samples) == {"192.0.2.1": 1}
