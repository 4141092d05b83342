"""What a playbook writes down before it acts: bounded, without secrets, and telling."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from planted_evidence import SECRET, context_of, taken

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "systemd_bus"))

from acted_systemd import UNIT, ActedSystemd, Script

from watchdog.clock import SystemClock
from watchdog.core.masking import MASK
from watchdog.playbooks.evidence.collecting import PIECE_BYTES, presentable
from watchdog.playbooks.evidence.of_service import journal_tail
from watchdog.system.http import HttpClient
from watchdog.system.services import ServiceContext
from watchdog.system.services.unit import UnitService, UnitSettings
from watchdog.system.systemd.bus import SystemBus

REMOTE = shutil.which("systemd-journal-remote", path="/usr/lib/systemd:/lib/systemd")


def request(second: int, **more: Any) -> str:
    """A line of the proxy's log about one request."""
    at = datetime(2026, 11, 23, 7, 0, second, 250_000, UTC).isoformat()
    fields = {"status": 200, "path": "/v1/chat/completions", "response_time_ms": 12.5, "provider": "primary"}
    return json.dumps({"timestamp": at, "level": "INFO", "message": "request", **fields, "model": "small", **more})


def logs(directory: Path, **files: str) -> None:
    place = directory / "log" / "web"
    place.mkdir(parents=True)
    for name, text in files.items():
        (place / f"{name}.log").write_text(text)


async def test_what_the_proxy_says_is_told_without_secrets(tmp_path: Path) -> None:
    """A refused key in a provider's or a worker's last words, a header in a stack: the sentence stays, the key goes."""
    found = await taken(tmp_path, context_of(tmp_path), "providers", "workers", "worker_process", "worker_stacks")
    for name, text in found.items():
        assert SECRET not in text, name
        assert MASK in text, name
    assert "Incorrect API key provided" in found["providers"]
    assert "line 7, in ask" in found["worker_stacks"]


async def test_the_log_of_a_service_is_its_last_words(tmp_path: Path) -> None:
    """Requests are left out, JSON is told as people read it, its own output stands last, secrets are masked."""
    warning = {"timestamp": "2026-11-23T07:00:09Z", "level": "WARNING", "message": "refused", "api_key": SECRET, "n": 3}
    lines = [request(second) for second in range(50)] + [json.dumps(warning)]
    logs(tmp_path, web_json="\n".join(lines), web=f"starting\npassword={SECRET}\nTraceback: gone\n", empty_web="")
    (found,) = (await taken(tmp_path, context_of(tmp_path), "service_log")).values()
    assert SECRET not in found
    assert "completions" not in found
    assert "empty" not in found
    assert f"WARNING refused api_key={MASK} n=3" in found
    assert found.endswith(f"web.log:\nstarting\npassword={MASK}\nTraceback: gone")


async def test_a_log_is_cut_at_its_beginning_and_everything_else_at_its_end(tmp_path: Path) -> None:
    """16 KiB at most, and lines that a person can read; what tells most is left."""
    lines = [f"{number} " + "é" * 2_000 for number in range(30)]
    logs(tmp_path, web="\n".join([*lines, "the last word"]))
    (found,) = (await taken(tmp_path, context_of(tmp_path), "service_log")).values()
    assert len(found.encode()) <= PIECE_BYTES + 32
    assert found.startswith("cut …")
    assert found.endswith("the last word")
    other = presentable("the first word\n" + "x" * 900_000 + "\n" + "word " * 20_000)
    assert len(other.encode()) <= PIECE_BYTES + 32
    assert other.startswith("the first word\n")
    beginning = presentable("the first word\n" + "a line\n" * 30_000)
    assert len(beginning.encode()) <= PIECE_BYTES + 32
    assert beginning.endswith("… cut")


@pytest.mark.parametrize("lines_behind", range(0, 40, 3))
def test_no_cut_uncovers_half_a_secret(lines_behind: int) -> None:
    """A key of which the cut took the beginning away is masked to its end; nothing of it is left."""
    key = "-----BEGIN PRIVATE KEY-----\n" + f"{SECRET}\n" * 500 + "-----END PRIVATE KEY-----\n"
    shown = presentable(key * 9 + "a\n" * lines_behind, the_end=True)
    assert shown.count("-----BEGIN PRIVATE KEY-----") >= 5
    assert "planted" not in shown
    assert "secretXy" not in shown


async def test_the_last_requests_are_told_without_what_was_asked(tmp_path: Path) -> None:
    """The newest first, with status, time, provider and model; no health checks, no bodies, no keys."""
    lines = [request(second, model=f"m{second}") for second in range(40)]
    lines += [
        request(41, path="/health", model=None),
        request(
            42, status=502, path=f"/v1/models?key={SECRET}", model="last", body=f"{SECRET} asks", response_time_ms=900
        ),
        "no json",
        '"text"',
    ]
    logs(tmp_path, web_json="\n".join(lines))
    (found,) = (await taken(tmp_path, context_of(tmp_path), "last_requests")).values()
    first, _head, newest, *rest = found.splitlines()
    assert first == "20 requests, 1 failed, slowest 900 ms; the newest first"
    local = datetime(2026, 11, 23, 7, 0, 42, 250_000, UTC).astimezone().strftime("%H:%M:%S.%f")[:12]
    assert newest.split()[:5] == [local, "502", "900", "primary", "last"]
    assert SECRET not in found
    assert "asks" not in found
    assert "/health" not in found
    assert [line.split()[4] for line in rest] == [f"m{second}" for second in range(39, 20, -1)]


async def test_without_requests_it_says_where_it_looked(tmp_path: Path) -> None:
    """No log, or none of requests, is no failure."""
    (found,) = (await taken(tmp_path, context_of(tmp_path), "last_requests")).values()
    assert found.startswith("no request in the logs of web below ")


async def test_who_burns_the_processor_stands_first(tmp_path: Path) -> None:
    """A busy process is told by its share and its program's name, never by its arguments."""
    argv = [sys.executable, "-c", "print(flush=True)\nwhile True: pass", SECRET]
    busy = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    try:
        assert busy.stdout is not None
        await busy.stdout.readline()
        (found,) = (await taken(tmp_path, context_of(tmp_path), "top_processes")).values()
    finally:
        busy.kill()
        await busy.communicate()
    assert SECRET not in found
    by_cpu, by_memory = found.partition("by CPU:\n")[2].split("by memory:\n")
    shares = {int(line.split()[1]): int(line.split()[0].rstrip("%")) for line in by_cpu.splitlines()}
    assert shares[busy.pid] > 5
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert len(by_memory.splitlines()) == 8


async def test_pressure_tells_who_waits_for_what(tmp_path: Path) -> None:
    """The load, and a line for each resource where the kernel counts it."""
    (found,) = (await taken(tmp_path, context_of(tmp_path), "pressure")).values()
    assert found.startswith("load ")
    if Path("/proc/pressure/cpu").exists():
        assert [line.partition(":")[0] for line in found.splitlines()[1:]] == ["cpu", "memory", "io"]


@pytest.fixture
async def unit(tmp_path: Path) -> AsyncIterator[UnitService]:
    """A unit on a bus of the test's own."""
    if shutil.which("dbus-daemon") is None and "CI" not in os.environ:
        pytest.skip("needs dbus-daemon (package dbus)")
    script = Script()
    script.unit["FragmentPath"] = "/etc/systemd/system/web.service"
    script.service |= {
        "NRestarts": 4,
        "Result": "oom-kill",
        "MemoryCurrent": 3 * 1024**2,
        "MemoryMax": 2**64 - 1,
        "CPUUsageNSec": 90_000_000_000,
        "StatusText": f"token={SECRET} was refused",
        "Environment": SECRET,
    }
    acted, http = ActedSystemd(script), HttpClient()
    await acted.start()
    bus = SystemBus(acted.address)
    context = ServiceContext("web", tmp_path, tmp_path, SystemClock(), http, bus)
    yield UnitService(UnitSettings.model_validate({"kind": "unit", "unit": UNIT}), context)
    bus.close()
    await http.close()
    await acted.stop()


async def test_a_unit_is_told_by_the_properties_that_help(unit: UnitService, tmp_path: Path) -> None:
    """State, result, restarts, memory, times: as systemd has them; no limits that are none, and no environment."""
    context = context_of(tmp_path, service=unit, target="service:web")
    (found,) = (await taken(tmp_path, context, "service_status")).values()
    first, *lines = found.splitlines()
    assert "started it again 4 times by itself" in first
    told = dict(line.split(": ", 1) for line in lines)
    assert told == {
        "SubState": "running",
        "Result": "oom-kill",
        "NRestarts": "4",
        "StatusText": f"token={MASK} was refused",
        "MemoryCurrent": "3.0 MiB",
        "CPUUsageNSec": "1m 30s of CPU",
        "FragmentPath": "/etc/systemd/system/web.service",
    }


async def test_the_log_of_a_unit_begins_with_its_journal(unit: UnitService, tmp_path: Path) -> None:
    """Even where journalctl knows nothing of it; its files follow."""
    logs(tmp_path, web="in the file")
    (found,) = (await taken(tmp_path, context_of(tmp_path, service=unit), "service_log")).values()
    assert found.splitlines()[0].startswith(("journal of web.service", "the journal of web.service could not be read"))
    assert found.endswith("web.log:\nin the file")


@pytest.mark.skipif(
    os.environ.get("CI") != "true" and (REMOTE is None or shutil.which("journalctl") is None),
    reason="systemd-journal-remote makes the files",
)
async def test_the_journal_is_told_of_one_unit_and_of_its_end(tmp_path: Path) -> None:
    """By the real journalctl from a real file: the last forty lines of that unit, secrets masked."""
    entry = "__REALTIME_TIMESTAMP={0}\n__MONOTONIC_TIMESTAMP={0}\n_BOOT_ID={1:032x}\n_SYSTEMD_UNIT={2}\nMESSAGE={3}\n\n"
    said = "".join(
        entry.format(1_600_000_000_000_000 + i, 7, f"{'web' if i % 2 else 'other'}.service", f"line {i} token={SECRET}")
        for i in range(200)
    )
    argv = (str(REMOTE), "--split-mode=none", "-o", str(tmp_path / "system.journal"), "-")
    await asyncio.to_thread(subprocess.run, argv, input=said, text=True, check=True, capture_output=True)
    head, *lines = presentable(await journal_tail("web.service", f"--directory={tmp_path}"), the_end=True).splitlines()
    assert head == "journal of web.service:"
    assert [int(line.split()[-2]) for line in lines] == list(range(121, 201, 2))
    assert all(line.endswith(f"token={MASK}") for line in lines)
    refused = await journal_tail("web.service", f"--directory={tmp_path}/none")
    assert refused.startswith("the journal of web.service could not be read: ")
