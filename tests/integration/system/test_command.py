"""Programs that are run: to their end, in bounded time, with bounded output."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from watchdog.errors import ActionError
from watchdog.system.command import OUTPUT_LIMIT, run_command


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Path]:
    """A file to which scripts write the pid of what they leave running; it is ended afterwards."""
    file = tmp_path / "pid"
    yield file
    if file.exists():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGKILL)


def alive(pid: int) -> bool:
    """Running, and no zombie that nobody has waited for yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_what_it_printed_and_how_it_ended() -> None:
    """Both streams are kept in order, the tail is the last line that says something, the status is the exit code."""
    result = await run_command(["sh", "-c", "echo one; echo two >&2; echo; exit 3"], timeout=10)
    assert (result.status, result.output, result.tail) == (3, "one\ntwo\n\n", "two")
    assert (await run_command(["sh", "-c", "kill -9 $$"], timeout=10)).status == -9
    assert (await run_command(["true"], timeout=10)).tail == ""


async def test_only_the_last_part_of_the_output_is_kept() -> None:
    """Megabytes of output cost no memory, and none of its end is lost."""
    program = f"import sys; sys.stdout.write('x' * {OUTPUT_LIMIT * 20}); print('the end')"
    result = await run_command([sys.executable, "-c", program], timeout=30)
    assert len(result.output) == OUTPUT_LIMIT
    assert result.output.endswith("xthe end\n")


async def test_what_it_leaves_running_is_not_waited_for(children: Path) -> None:
    """A program that starts a daemon and ends is done when it ends, and the daemon lives on."""
    script = f"sleep 600 & echo $! > {children}; echo started"
    result = await run_command(["sh", "-c", script], timeout=20)
    assert (result.status, result.tail) == (0, "started")
    assert alive(int(children.read_text()))


async def test_a_daemon_that_goes_on_printing_holds_up_nothing(children: Path) -> None:
    """Even one that floods the pipe it inherited."""
    result = await run_command(["sh", "-c", f"yes & echo $! > {children}"], timeout=20)
    assert result.status == 0


async def test_after_its_time_the_whole_group_is_ended(children: Path) -> None:
    """A program that is not done in time is ended together with what it started."""
    with pytest.raises(ActionError, match=r"^sh: not done after 0\.5 s, ended$"):
        await run_command(["sh", "-c", f"sleep 600 & echo $! > {children}; sleep 600"], timeout=0.5)
    async with asyncio.timeout(10):
        while alive(int(children.read_text())):
            await asyncio.sleep(0.01)


async def test_a_cancelled_run_leaves_nothing_behind(children: Path) -> None:
    """Whoever stops waiting ends the program too."""
    task = asyncio.create_task(run_command(["sh", "-c", f"echo $$ > {children}; sleep 600"], timeout=600))
    async with asyncio.timeout(10):
        while not children.exists() or not children.read_text():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not alive(int(children.read_text()))


async def test_a_program_that_is_not_there() -> None:
    """It cannot be started: one line, permanent, and no descriptor is left open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(ActionError, match="/no/such: cannot be started: No such file") as caught:
            await run_command(["/no/such"], timeout=1)
        assert caught.value.permanent
        await run_command(["true"], timeout=10)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


async def test_it_inherits_no_input() -> None:
    """A program that reads its standard input finds its end at once."""
    assert (await run_command(["cat"], timeout=10)).output == ""


_MORTAL = """
import asyncio, sys
from watchdog.system.command import run_command
asyncio.run(run_command(["sh", "-c", "echo $$ > " + sys.argv[1] + "; sleep 60; true"], timeout=600, outlives_us=False))
"""


async def test_a_program_that_must_not_outlive_us_dies_with_us(children: Path) -> None:
    """When the process that runs it is killed, nobody bounds it any more: the kernel ends it at once."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _MORTAL, str(children))
    async with asyncio.timeout(60):
        while not (children.exists() and children.read_text().strip()):
            await asyncio.sleep(0.02)
        pid = int(children.read_text())
        assert alive(pid)
        process.kill()
        await process.wait()
        while alive(pid):
            await asyncio.sleep(0.02)


async def test_a_bound_program_that_is_not_there_says_so() -> None:
    """The words are those of any other program."""
    with pytest.raises(ActionError, match=r"^no-such-program: cannot be started: No such"):
        await run_command(["no-such-program"], timeout=5, outlives_us=False)
