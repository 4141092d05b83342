"""Log files over time: rotation, compression, other hands that move them, full disks, and hostile text."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.clock import FakeClock, SystemClock
from proxy.logs import LogWriter, bridge_logging, rotation
from proxy.settings import Log

KIB = 1 / 1024


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "llm_proxy.log"


def writer(file: Path, clock: FakeClock | None = None, **settings: Any) -> LogWriter:
    return LogWriter(Log(file=file, **settings), clock or FakeClock(), 2)


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def aside(file: Path) -> list[Path]:
    return sorted(found for found in file.parent.iterdir() if found.name.startswith(f"{file.name}."))


# Rotation


def test_a_full_file_is_set_aside(file: Path) -> None:
    """A file over its size is renamed by time, and lines go on in a new one; nothing is lost and nothing doubled."""
    clock = FakeClock()
    log = writer(file, clock, rotate_mb=KIB)
    for number in range(100):
        log.write("info", f"{number}")
        clock.advance(1.0)
    log.close()
    kept = aside(file)
    assert len(kept) > 3
    assert all(found.stat().st_size < 1400 for found in kept)
    told = [line["message"] for found in [*kept, file] for line in read(found)]
    assert told == [f"{number}" for number in range(100)]


def test_one_of_several_writers_rotates_and_the_others_follow(file: Path) -> None:
    """Two that share a file set it aside once, and both write to the new one within a second."""
    clock = FakeClock()
    first, second = (writer(file, clock, rotate_mb=KIB) for _ in range(2))
    for number in range(10):
        first.write("info", f"{number} {'x' * 100}")
    clock.advance(1.0)
    first.write("info", "new")
    second.write("info", "new too")
    first.close()
    second.close()
    assert [line["message"] for line in read(file)] == ["new", "new too"]
    assert len(aside(file)) == 1


def test_while_another_is_at_it_nobody_else_rotates(file: Path) -> None:
    """The file's lock decides; who does not get it writes on."""
    import fcntl

    clock = FakeClock()
    log = writer(file, clock, rotate_mb=KIB)
    log.write("info", "x" * 2000)
    with file.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        clock.advance(1.0)
        log.write("info", "one")
    assert aside(file) == []
    clock.advance(1.0)
    log.write("info", "two")
    assert [line["message"] for line in read(file)] == ["two"]
    log.close()


def make_aside(file: Path, stamp: str, text: str, age: float = 60.0) -> Path:
    made = file.with_name(f"{file.name}.{stamp}")
    made.write_text(text)
    os.utime(made, (time.time() - age, time.time() - age))
    return made


def test_what_was_set_aside_is_compressed_and_so_many_are_kept(file: Path) -> None:
    """Settled files become .gz of the same content, age and rights; the oldest go; unfinished and strange files are
    left or cleared as they must be."""
    for day in range(1, 6):
        make_aside(file, f"2026010{day}T000000", f"day {day}\n").chmod(0o600)
    fresh = make_aside(file, "20260106T000000", "still written to\n", age=0.0)
    part = file.with_name(f"{file.name}.20260105T000000.gz.part")
    part.write_bytes(b"torn")
    strange = file.with_name(f"{file.name}.bak")
    strange.write_text("somebody's own")
    script = (
        "import sys; from pathlib import Path; from proxy.logs.rotation import tidy; "
        "from proxy.clock import SystemClock; import os; tidy(Path(sys.argv[1]), 3, SystemClock()); "
        "print(os.getpriority(os.PRIO_PROCESS, 0))"
    )
    worker = subprocess.run(
        [
            sys.executable,
            "-c",
            script,
            str(file),
        ],
        capture_output=True,
        check=True,
    )
    assert worker.stdout.strip() == b"19"
    kept = {found.name.removeprefix(f"{file.name}."): found for found in aside(file)}
    assert set(kept) == {"20260104T000000.gz", "20260105T000000.gz", "20260106T000000", "bak"}
    packed = kept["20260104T000000.gz"]
    assert gzip.decompress(packed.read_bytes()) == b"day 4\n"
    assert packed.stat().st_mode & 0o777 == 0o600
    assert time.time() - packed.stat().st_mtime > 50
    assert fresh.read_text() == "still written to\n"


async def test_a_running_service_compresses_by_itself(file: Path) -> None:
    """Some seconds after a rotation the file that was set aside has been compressed, beside the running loop."""
    log = LogWriter(Log(file=file, rotate_mb=KIB), SystemClock(), 2)
    log.write("warning", "x" * 2000)
    await asyncio.sleep(1.05)  # the writer looks at its file once a second of the real clock
    log.write("warning", "after")
    (first,) = aside(file)
    async with asyncio.timeout(20):
        while not first.with_name(first.name + ".gz").exists():
            await asyncio.sleep(0.1)
    assert b"xxx" in gzip.decompress(first.with_name(first.name + ".gz").read_bytes())
    log.close()


def test_two_rotations_within_a_second_get_two_names(file: Path) -> None:
    """A name that is taken, also by a compressed file, is not taken again."""
    file.write_text("now")
    file.with_name(f"{file.name}.20231114T221320.gz").write_text("taken")
    with file.open("ab") as held:
        assert rotation.rotate(file, held.fileno(), 1_700_000_000.0)
    assert [found.name.rpartition(".")[2] for found in aside(file)] == ["20231114T221320-2", "gz"]


def test_who_moved_the_files_says_reopen(file: Path) -> None:
    """After a rename and `reopen` (logrotate's way) both logs go on in new files at once."""
    log = writer(file)
    log.write("info", "one")
    log.security("warning", "bad", event="failed_auth")
    for name in ("llm_proxy.log", "security.log"):
        file.with_name(name).rename(file.with_name(f"{name}.1"))
    log.reopen()
    log.write("info", "two")
    log.security("warning", "worse", event="failed_auth")
    assert [line["message"] for line in read(file)] == ["two", "worse"]
    assert [line["message"] for line in read(file.with_name("security.log"))] == ["worse"]
    log.close()


def test_a_directory_that_has_gone_is_made_again(tmp_path: Path) -> None:
    """Somebody who cleans up too much costs nothing but what was there."""
    clock = FakeClock()
    file = tmp_path / "logs" / "llm_proxy.log"
    log = writer(file, clock)
    for left in file.parent.iterdir():
        left.unlink()
    file.parent.rmdir()
    clock.advance(1.0)
    log.write("info", "one")
    assert read(file)[0]["message"] == "one"
    log.close()


def test_who_has_nothing_to_write_follows_too(file: Path) -> None:
    """A worker without requests does not hold on to a file that was set aside."""
    clock = FakeClock()
    log = writer(file, clock)
    inode = file.stat().st_ino
    file.rename(file.with_name("moved"))
    clock.advance(1.0)
    log.look()
    held = {entry.stat().st_ino for entry in Path("/proc/self/fd").iterdir() if entry.exists()}
    assert file.exists()
    assert inode not in held
    log.close()


# A full disk


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of this process may grow beyond 4 KiB: writing then fails, as on a full disk (EFBIG for ENOSPC)."""
    import signal

    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_costs_lines_and_is_told_of_later(file: Path, small_files: None) -> None:
    """Lines that could not be written are counted; the first that can be is preceded by one that says how many."""
    log = writer(file)
    for number in range(10):
        log.write("info", f"{number} {'x' * 600}")
    written = len(file.read_text().splitlines()) - (not file.read_text().endswith("\n"))
    assert log.lost == 10 - written > 0
    before = file.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    log.write("info", "well again")
    log.write("info", "and on")
    log.close()
    told = file.read_bytes()[before:].decode().strip().splitlines()
    lost, well, on = (json.loads(line) for line in told)
    assert (lost["level"], lost["lines"]) == ("WARNING", 10 - written)
    assert [well["message"], on["message"]] == ["well again", "and on"]
    whole = [line for line in file.read_text().splitlines() if line.endswith("}")]
    assert len([json.loads(line) for line in whole]) == written + 3


# Hostile text

NASTY = 'a\n{"level":"ERROR"}\r\x1b[2J\u2028\x9b\x00"} \\n caller=admin \ud800'


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_text_makes_a_line_of_its_own(file: Path, form: str) -> None:
    """Whatever message and fields hold, one call is one line, without a control character in it."""
    log = writer(file, format=form)
    log.write("info", NASTY, path=NASTY, big=2**70)
    log.security("warning", NASTY, source=NASTY)
    log.close()
    written = file.read_bytes().decode()
    assert written.count("\n") == 2
    assert not any(character < " " for character in written.replace("\n", ""))
    if form == "json":
        assert [line["message"] for line in read(file)] == [NASTY, NASTY]
    else:
        assert "\x9b" not in written
        assert "\u2028" not in written
        assert written.splitlines()[0].count(" caller=admin") == written.splitlines()[0].count("\\\\n caller=admin")


def test_text_values_that_could_pass_for_fields_are_quoted(file: Path) -> None:
    """Plain values stand as they are; one with a space, a quote or an equals sign in it is quoted."""
    log = writer(file, format="text")
    log.write("info", "request", path="/v1/models", caller="x y", odd='a="b"', none=None, empty="")
    log.close()
    line = file.read_text().strip()
    assert line.endswith('INFO    request path=/v1/models caller="x y" odd="a=\\"b\\"" none=None empty=""')


# The security log


def test_security_events_come_through_logging(file: Path) -> None:
    """An event of the logger `proxy.security` is in security.log, and from warning up in the other too, in the form
    that the operators' guide looks for."""
    log = writer(file, level="warning")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    bridge_logging(log, Log(file=file, level="warning"))
    try:
        security = logging.getLogger("proxy.security")
        security.info("admin call", extra={"event": "admin_call", "success": True, "key_id": "boss"})
        security.warning(
            "authentication failed",
            extra={"event": "failed_auth", "category": "authentication", "success": False, "source": "192.0.2.7"},
        )
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    log.close()
    events = read(file.with_name("security.log"))
    assert [(event["event"], event["success"]) for event in events] == [("admin_call", True), ("failed_auth", False)]
    assert events[0]["key_id"] == "boss"
    guide = (
        f"""grep "authentication" {file} | jq -r 'select(.success == false) | .source'; """
        f"""grep "failed_auth" {file} | awk '{{print $NF}}' | sort | uniq -c | sort -nr; """
        f"""grep -cE '"authentication".*"success": false' {file}; """
        f"""grep -cE '"level": "(ERROR|WARNING)".*"security"' {file}"""
    )
    said = subprocess.run(["/bin/sh", "-c", guide], capture_output=True, check=True, text=True).stdout.split()
    assert said == ["192.0.2.7", "1", '"192.0.2.7"}', "1", "1"]


def test_without_a_file_security_events_go_where_the_log_goes(tmp_path: Path) -> None:
    """A log on standard error has no file beside it; security events are in it."""
    target = tmp_path / "stderr"
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    log = LogWriter(Log(), FakeClock(), descriptor)
    log.security("info", "admin call", event="admin_call")
    log.close()
    os.close(descriptor)
    assert read(target)[0]["event"] == "admin_call"
