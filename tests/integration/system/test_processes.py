"""Real processes: their identity, their end, their figures, and signals that hit nobody else."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from watchdog.system import pidfd, process
from watchdog.system.process import ProcessIdentity
from watchdog.system.process_evidence import read_evidence
from watchdog.system.tail import tail

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"


@contextmanager
def running(*argv: str) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(argv or ("sleep", "600"), stdout=subprocess.PIPE)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()


def identity_of(child: subprocess.Popen[bytes]) -> ProcessIdentity:
    found = process.identify(child.pid)
    assert found is not None
    return found


async def test_the_kernel_announces_a_death(capsys: pytest.CaptureFixture[str]) -> None:
    """SIGKILL of a process wakes the waiter without any polling, before anybody has reaped it."""
    clock = asyncio.get_running_loop().time
    with running() as child:
        waiter = asyncio.create_task(process.wait_exit(identity_of(child)))
        await asyncio.sleep(0)
        assert not waiter.done()
        killed_at = clock()
        child.kill()
        await asyncio.wait_for(waiter, 45)
        seen_after = clock() - killed_at
        assert child.returncode is None, "nobody has reaped it yet"
        assert not process.alive(ProcessIdentity(child.pid, 0))
    with capsys.disabled():
        print(f"\n[death seen by pidfd after {seen_after * 1000:.1f} ms]")


async def test_waiting_for_nobody_ends_at_once() -> None:
    """A number that no process has is a process that has ended."""
    with running() as child:
        gone = child.pid
    await asyncio.wait_for(pidfd.wait_exit(gone), 45)


async def test_a_cancelled_wait_leaves_nothing_open() -> None:
    """Cancelling a wait gives its descriptor back."""
    with running() as child:
        before = process.count_descriptors(os.getpid())
        waiter = asyncio.create_task(pidfd.wait_exit(child.pid))
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        assert process.count_descriptors(os.getpid()) == before


async def test_a_reused_number_is_somebody_else() -> None:
    """A process with the same number and another start time is neither alive, nor waited for, nor signalled."""
    with running() as child:
        stranger = ProcessIdentity(child.pid, identity_of(child).start_ticks + 1)
        assert not process.alive(stranger)
        await asyncio.wait_for(process.wait_exit(stranger), 45)
        assert await process.terminate(stranger, 5) == "gone"
        assert process.alive(identity_of(child))


async def test_a_polite_process_ends_by_term() -> None:
    """TERM suffices for a process that obeys."""
    with running() as child:
        assert await process.terminate(identity_of(child), 10) == "ended"
        assert child.wait() == -signal.SIGTERM


async def test_a_stopped_process_ends_by_term_too() -> None:
    """A process in SIGSTOP is woken, so that it can obey."""
    with running() as child:
        child.send_signal(signal.SIGSTOP)
        assert await process.terminate(identity_of(child), 10) == "ended"
        assert child.wait() == -signal.SIGTERM


async def test_a_deaf_process_is_killed() -> None:
    """A process that ignores TERM is killed when its time is over."""
    with running(sys.executable, "-c", DEAF) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"deaf\n"
        assert await process.terminate(identity_of(child), 0.1) == "killed"
        assert child.wait() == -signal.SIGKILL


async def test_a_zombie_is_dead() -> None:
    """A process that has ended and was not reaped is not alive, and has no memory."""
    with running("true") as child:
        await asyncio.wait_for(pidfd.wait_exit(child.pid), 45)
        assert process.identify(child.pid) is None
        stat = process.read_stat(child.pid)
        assert stat is not None
        assert stat.state == "Z"
        with pytest.raises(ProcessLookupError):
            process.read_anon_bytes(child.pid)


def test_figures_of_a_process_with_a_strange_name(tmp_path: Path) -> None:
    """A name with blanks and parentheses does not shift the figures."""
    odd = tmp_path / "a) R (b"
    odd.symlink_to(Path(sys.executable).resolve())
    with running(str(odd), "-c", DEAF) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"deaf\n"
        stat = process.read_stat(child.pid)
        assert stat is not None
        assert stat.parent == os.getpid()
        assert stat.threads == 1
        assert stat.resident_bytes > 0


def test_own_memory_is_less_than_resident_and_more_than_nothing() -> None:
    """USS and anonymous bytes are plausible beside each other."""
    memory = process.read_memory(os.getpid())
    stat = process.read_stat(os.getpid())
    assert stat is not None
    assert 0 < memory.anon_bytes <= memory.uss_bytes * 1.5
    assert memory.uss_bytes <= stat.resident_bytes
    assert process.read_anon_bytes(os.getpid()) == pytest.approx(memory.anon_bytes, rel=0.2)


def test_evidence_of_a_stopped_process_says_so() -> None:
    """State, command line, threads and descriptors are read from outside; what is refused is named."""
    with running() as child:
        child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        found = read_evidence(child.pid)
    assert "T (stopped)" in found.parts["state"]
    assert found.parts["cmdline"] == "sleep 600"
    assert str(child.pid) in found.parts["threads"]
    assert " open, limit " in found.parts["descriptors"]
    assert len(found.parts) + len(found.unreadable) == 7


def test_evidence_of_nobody_names_what_is_missing() -> None:
    """A process that is gone gives no parts, seven reasons, and no exception."""
    with running() as child:
        pass
    found = read_evidence(child.pid)
    assert found.parts == {}
    assert len(found.unreadable) == 7


def test_the_tail_is_bounded_and_survives_rotation(tmp_path: Path) -> None:
    """At most so many lines from so many bytes; just after a rotation the old file fills up what is missing."""
    log = tmp_path / "x.log"
    log.write_text("".join(f"line {n}\n" for n in range(1000)))
    assert tail(log, 3) == ("line 997", "line 998", "line 999")
    assert tail(log, 100, max_bytes=20) == ("line 998", "line 999")
    log.rename(tmp_path / "x.log.1")
    log.write_text("new\n")
    assert tail(log, 3) == ("line 998", "line 999", "new")
    (tmp_path / "x.log.1").unlink()
    assert tail(log, 3) == ("new",)
    with pytest.raises(FileNotFoundError):
        tail(tmp_path / "none")
