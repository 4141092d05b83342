"""Traced allocations by line: read in a child, written, compared."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
import uvloop
from agent_bench import PATIENCE, PLANTED, mounted, planted

from proxy import memory

REPOSITORY = Path(memory.__file__).parents[1]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A snapshot with one line in it."""
    written = tmp_path / "0-1795426847877-1.pwmem"
    header = {"name": written.name, "taken_at": 1.0, "pid": 1, "requests": None, "traces": 1, "traced_bytes": 4096}
    memory.write_snapshot(written, header, {(("/a.py", 1), ("/ö\udcff.py", 70_000)): (1 << 40, 1)})
    return written


@pytest.mark.parametrize("in_parts", [True, False], ids=["in_parts", "at_once"])
async def test_growth_is_what_the_standard_library_finds(tmp_path: Path, in_parts: bool) -> None:
    """Between two snapshots each line has the bytes and blocks that Snapshot.compare_to gives it, in the same order,
    whether the traces are read in parts or, on an interpreter of another layout, all at once."""
    functions = planted()
    async with mounted(tmp_path, requests=iter((10, 30)).__next__) as ask:
        ask.agent._in_parts = in_parts
        await ask("POST", "/memory/trace")
        kept = [functions.many(70_000)]
        older, before = await ask("POST", "/memory/snapshots"), tracemalloc.take_snapshot()
        kept += [functions.many(2000), functions.few(300)]
        del kept[0][:1000]
        newer, after = await ask("POST", "/memory/snapshots"), tracemalloc.take_snapshot()
        compared = await ask("POST", "/memory/compare", older=older["name"], newer=newer["name"])
        assert ask.agent._in_parts is in_parts
    only = [tracemalloc.Filter(True, PLANTED)]
    wanted = after.filter_traces(only).compare_to(before.filter_traces(only), "lineno")
    figures = [
        (each.traceback[0].lineno, each.size, each.count, each.size - each.size_diff, each.count - each.count_diff)
        for each in wanted
    ]
    names = ("line", "bytes", "count", "bytes_before", "count_before")
    ours = [tuple(row[name] for name in names) for row in compared["lines"] if row["file"] == PLANTED]
    assert ours == figures
    assert [row["line"] for row in compared["lines"][:2]] == [5, 2]
    assert compared["requests"] == 20
    assert compared["grown_bytes"] == newer["traced_bytes"] - older["traced_bytes"]
    assert newer["traces"] > 71_000


async def test_tracebacks_go_from_the_innermost_outwards(tmp_path: Path) -> None:
    """With more frames each line tells who called it, and lines of the agent itself are never named."""
    functions = planted()
    async with mounted(tmp_path) as ask:
        await ask("POST", "/memory/trace", frames=4)
        first = await ask("POST", "/memory/snapshots")
        kept = functions.through(50)
        second = await ask("POST", "/memory/snapshots")
        compared = await ask("POST", "/memory/compare", older=first["name"], newer=second["name"], top=1000)
    assert len(kept) == 50
    top = compared["lines"][0]
    assert top["traceback"][0] == [PLANTED, 5]
    after_caller = top["traceback"][top["traceback"].index([PLANTED, 8]) + 1 :]
    assert after_caller[0][0] == __file__
    assert not [row for row in compared["lines"] if [memory.__file__] in [frame[:1] for frame in row["traceback"]]]


async def test_tracing_is_taken_over_from_nobody(tmp_path: Path) -> None:
    """What somebody else traces can be looked at, and is neither started anew nor stopped, by closing neither."""
    tracemalloc.start(2)
    try:
        async with mounted(tmp_path) as ask:
            tracing = (await ask("GET", "/memory"))["tracing"]
            assert (tracing["ours"], tracing["frames"], tracing["until"]) == (False, 2, None)
            assert (await ask.refused("POST", "/memory/trace"))[0] == 409
            assert (await ask.refused("DELETE", "/memory/trace"))[0] == 409
            assert (await ask("POST", "/memory/snapshots"))["frames"] == 2
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()


async def test_tracing_begins_and_ends_once(tmp_path: Path) -> None:
    """A second start is refused and changes nothing; what is not traced can be neither stopped nor taken; closing the
    agent ends what it has begun."""
    async with mounted(tmp_path) as ask:
        assert await ask.refused("POST", "/memory/snapshots") == (409, "not tracing")
        assert await ask.refused("DELETE", "/memory/trace") == (409, "not tracing")
        state = await ask("POST", "/memory/trace", frames=3, limit_seconds=500.5)
        assert state["frames"] == 3
        assert state["until"] - state["since"] == pytest.approx(500.5)
        assert (await ask.refused("POST", "/memory/trace", frames=1))[0] == 409
        assert (await ask("GET", "/memory"))["tracing"]["until"] == state["until"]
        assert (await ask("DELETE", "/memory/trace"))["tracing"] is None
        assert not tracemalloc.is_tracing()
        await ask("POST", "/memory/trace")
    assert not tracemalloc.is_tracing()


async def test_a_blocked_loop_does_not_keep_tracing_on(tmp_path: Path) -> None:
    """The limit holds though the event loop never comes to it."""
    async with mounted(tmp_path) as ask:
        await ask("POST", "/memory/trace", limit_seconds=1)
        deadline = time.monotonic() + PATIENCE
        while tracemalloc.is_tracing() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not tracemalloc.is_tracing()
        assert (await ask("GET", "/memory"))["tracing"] is None
        await ask("POST", "/memory/trace", limit_seconds=900)


def test_it_works_under_uvloop(tmp_path: Path) -> None:
    """Fork, pipe and the child's end are watched by the loop that the service has."""

    async def one() -> None:
        async with mounted(tmp_path) as ask:
            await ask("POST", "/memory/trace")
            kept = planted().many(100)
            taken = await ask("POST", "/memory/snapshots")
            assert taken["traces"] >= len(kept)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(one())


def test_a_snapshot_comes_back_as_it_was_written(file: Path) -> None:
    """Names that are no text, long lines, sums beyond 32 bits; and only its user can read it."""
    read = memory.read_snapshot(file)
    assert read.cells == {(("/a.py", 1), ("/ö\udcff.py", 70_000)): (1 << 40, 1)}
    assert read.header == memory.read_header(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda whole: b"", "it is no snapshot"),
        (lambda whole: b"\x7fELF" + bytes(60), "it is no snapshot"),
        (lambda whole: whole[:7] + b"\x09" + whole[8:], "it is of version 9, and this reads version 1"),
        (lambda whole: whole[:12], ""),
        (lambda whole: whole[:20], ""),
        (lambda whole: whole[:-1], "it is cut short"),
        (lambda whole: whole[:-6] + b"spoilt", ""),
        (lambda whole: whole[:8] + b"\xff\xff\xff\xff" + whole[12:], "its header is too long"),
    ],
    ids=["empty", "foreign", "newer", "no_lengths", "half_a_header", "cut", "damaged", "endless_header"],
)
async def test_a_spoilt_file_is_told_by_name(file: Path, spoil: object, text: str) -> None:
    """No damage makes more of it than an answer that names the file, and the others are listed all the same."""
    good = file.with_name("0-1795426847878-1.pwmem")
    good.write_bytes(file.read_bytes())
    file.write_bytes(spoil(file.read_bytes()))  # type: ignore[operator]
    async with mounted(file.parent) as ask:
        status, error = await ask.refused("POST", "/memory/compare", older=good.name, newer=file.name)
        assert (status, error.partition(" cannot be read: ")[0]) == (500, file.name)
        assert text in error
        listed = await ask("GET", "/memory/snapshots")
        assert len(listed["snapshots"]) + len(listed["unreadable"]) == 2
        assert {each["name"] for each in listed["unreadable"]} <= {file.name}


async def test_only_so_many_snapshots_are_kept(tmp_path: Path) -> None:
    """The oldest go when there are too many or too large ones, and half a file that a killed child has left; what
    belongs to an agent of another name stays."""
    foreign = tmp_path / "12-1795426847877-1.pwmem"
    large = tmp_path / "1-1000000000001-1.pwmem"
    half = tmp_path / "1-1000000000000-1.part"
    for each in (foreign, large, half):
        each.touch()
    async with mounted(tmp_path, name="1", keep=3) as ask:
        await ask("POST", "/memory/trace")
        first = await ask("POST", "/memory/snapshots")
        assert {each.name for each in tmp_path.iterdir()} == {foreign.name, large.name, first["name"]}
        os.truncate(large, 65 << 20)
        names = [first["name"]] + [(await ask("POST", "/memory/snapshots"))["name"] for _ in range(3)]
        assert {each.name for each in tmp_path.iterdir()} == {foreign.name, *names[1:]}
        assert [each["name"] for each in (await ask("GET", "/memory/snapshots"))["snapshots"]] == names[1:]
        assert (await ask.refused("POST", "/memory/compare", older=names[0], newer=names[1]))[0] == 404


def test_two_files_are_compared_without_the_service(file: Path) -> None:
    """`python -m proxy.memory diff` needs the two files only, says when they are of two processes, and names the one
    that it cannot read."""
    newer = file.with_name("0-1795426900000-2.pwmem")
    header = memory.read_header(file) | {"name": newer.name, "taken_at": 61.0, "pid": 2}
    memory.write_snapshot(newer, header, {(("/b.py", 7), ("/main.py", 1)): (2048, 2), (("/a.py", 1),): (1 << 40, 1)})

    def diff(*files: Path) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "proxy.memory", "diff", *map(str, files)]
        return subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=False)

    shown = diff(file, newer)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "60 s" in shown.stdout.splitlines()[0]
    assert "Two processes, 1 and 2" in shown.stdout
    assert "+2.0 KiB        +2 blocks  /b.py:7" in shown.stdout
    assert "by /main.py:1" in shown.stdout
    newer.write_bytes(b"")
    failed = diff(file, newer)
    assert failed.returncode == 1
    assert failed.stderr == f"{newer.name} cannot be read: it is no snapshot\n"
