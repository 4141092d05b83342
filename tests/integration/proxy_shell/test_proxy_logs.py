"""The structured log: gathered lines, rotation, and the end of the process."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from proxy.clock import FakeClock
from proxy.logs import LogWriter
from proxy.settings import Log


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "l.log"


def writer(file: Path, clock: FakeClock | None = None) -> LogWriter:
    return LogWriter(Log(file=file), clock or FakeClock(), 2)


def messages(file: Path) -> list[str]:
    return [json.loads(line)["message"] for line in file.read_text().splitlines()]


async def test_lines_are_gathered_and_come_by_themselves(file: Path) -> None:
    """A line below warning waits for others, and is written without another's help within the time promised."""
    log = writer(file)
    log.write("info", "one")
    log.write("info", "two")
    assert messages(file) == []
    async with asyncio.timeout(45):
        while not messages(file):
            await asyncio.sleep(0.01)
    assert messages(file) == ["one", "two"]
    log.write("info", "three")
    async with asyncio.timeout(45):
        while len(messages(file)) < 3:
            await asyncio.sleep(0.01)
    log.close()


async def test_a_warning_waits_for_nothing(file: Path) -> None:
    """A warning is in the file at once, behind the lines that came before it."""
    log = writer(file)
    log.write("info", "one")
    log.write("warning", "two")
    assert messages(file) == ["one", "two"]
    log.close()


async def test_no_write_is_larger_than_a_pipe_takes_whole(file: Path) -> None:
    """What is gathered is written before it grows beyond 4 KiB, in order, and closing loses nothing."""
    log = writer(file)
    sent = [f"{number} {'x' * 900}" for number in range(10)]
    for message in sent:
        log.write("info", message)
        assert sum(map(len, sent[: sent.index(message) + 1])) - file.stat().st_size <= 4096
    assert 0 < len(messages(file)) < len(sent)
    log.close()
    assert messages(file) == sent


def test_without_an_event_loop_each_line_is_written_at_once(file: Path) -> None:
    """Where nothing could flush later, nothing waits; stamps are UTC to the millisecond."""
    clock = FakeClock(wall=1_700_000_000.9)
    log = writer(file, clock)
    log.write("info", "one")
    clock.advance(0.25)
    log.write("info", "two")
    stamps = [json.loads(line)["timestamp"] for line in file.read_text().splitlines()]
    assert stamps == ["2023-11-14T22:13:20.900Z", "2023-11-14T22:13:21.150Z"]
    assert datetime.fromisoformat(stamps[1]).tzinfo is UTC
    log.close()


def test_a_rotated_file_is_made_anew(file: Path) -> None:
    """After a rename lines go to a new file of the same name, within a second."""
    clock = FakeClock()
    log = writer(file, clock)
    log.write("info", "one")
    file.rename(file.with_suffix(".1"))
    clock.advance(1.0)
    log.write("info", "two")
    assert messages(file.with_suffix(".1")) == ["one"]
    assert messages(file) == ["two"]
    log.close()
