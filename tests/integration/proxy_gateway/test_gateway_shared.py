"""The shared store when its files are damaged, its lock is stuck, or another process has the news."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.clock import SystemClock
from proxy.providers.board import Board
from proxy.providers.record import ProviderRecord
from proxy.routing.breaker import Policy, State
from proxy.routing.outcome import Failure, Fault
from proxy.shared import Shared, StoreBusyError

MAP_BYTES = 8 * 2**20
POLICY = Policy(3, 0.5, 5, 30.0, 60.0)


def filled(directory: Path) -> None:
    shared = Shared(directory, MAP_BYTES, SystemClock())
    for number in range(200):
        with shared.write() as txn:
            txn.put(b"%04d" % number, b"x" * 3000, db=shared.database("cache_bodies"))
    shared.close()


def garbage(data: Path) -> None:
    data.write_bytes(random.Random(1).randbytes(100_000))


def torn(data: Path) -> None:
    with data.open("r+b") as file:
        file.truncate(data.stat().st_size // 2)


def stub(data: Path) -> None:
    data.write_bytes(b"x")


def scrambled(data: Path) -> None:
    with data.open("r+b") as file:
        for page in range(2, data.stat().st_size // 4096, 3):
            file.seek(page * 4096)
            file.write(random.Random(page).randbytes(64))


@pytest.mark.parametrize("damage", [garbage, torn, stub, scrambled])
def test_damaged_store_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    """A damaged file is renamed, said on one log line, and the store works from empty."""
    directory = tmp_path / "shared"
    filled(directory)
    damage(directory / "data.mdb")
    with caplog.at_level(logging.WARNING):
        shared = Shared(directory, MAP_BYTES, SystemClock())
    assert len(list(tmp_path.glob("shared.damaged-*"))) == 1
    assert len([record for record in caplog.records if "set aside" in record.getMessage()]) == 1
    with shared.write() as txn:
        txn.put(b"k", b"v", db=shared.database("meta"))
    with shared.read() as txn:
        assert txn.get(b"k", db=shared.database("meta")) == b"v"
        assert txn.stat(shared.database("cache_bodies"))["entries"] == 0
    shared.close()


def test_sound_store_is_kept(tmp_path: Path) -> None:
    """A store that was closed, or whose process was killed, is opened again with what it held."""
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom proxy.clock import SystemClock\n"
        "from proxy.shared import Shared\nshared = Shared(Path(sys.argv[1]), 8 * 2**20, SystemClock())\n"
        "with shared.write() as txn: txn.put(b'k', b'v', db=shared.database('meta'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path / "shared")], check=False, timeout=30)
    assert ended.returncode == -9
    shared = Shared(tmp_path / "shared", MAP_BYTES, SystemClock())
    with shared.read() as txn:
        assert txn.get(b"k", db=shared.database("meta")) == b"v"
    shared.close()
    assert list(tmp_path.glob("*.damaged-*")) == []


def test_only_the_newest_damaged_store_is_kept(tmp_path: Path) -> None:
    """Files set aside do not pile up."""
    (tmp_path / "shared.damaged-20200101T000000Z").mkdir()
    filled(tmp_path / "shared")
    garbage(tmp_path / "shared" / "data.mdb")
    Shared(tmp_path / "shared", MAP_BYTES, SystemClock()).close()
    names = [path.name for path in tmp_path.glob("*.damaged-*")]
    assert len(names) == 1
    assert "20200101" not in names[0]


def test_replaced_store_is_noticed_and_joined(tmp_path: Path) -> None:
    """When another process has begun the store anew, this one notices and joins it without setting it aside again."""
    directory = tmp_path / "shared"
    shared = Shared(directory, MAP_BYTES, SystemClock())
    assert not shared.replaced()
    directory.rename(tmp_path / "elsewhere")
    filled(directory)
    assert shared.replaced()
    shared.recover()
    assert not shared.replaced()
    with shared.read() as txn:
        assert txn.stat(shared.database("cache_bodies"))["entries"] == 200
    assert list(tmp_path.glob("*.damaged-*")) == []
    shared.close()


_HOLDER = """
import sys
from pathlib import Path
from proxy.clock import SystemClock
from proxy.shared import Shared

shared = Shared(Path(sys.argv[1]), 8 * 2**20, SystemClock())
with shared.write() as txn:
    print("holding", flush=True)
    sys.stdin.read()
"""


def test_stuck_writer_delays_nobody(tmp_path: Path) -> None:
    """While another process sits in a write transaction, reads go on and writes are refused within milliseconds."""
    shared = Shared(tmp_path / "shared", MAP_BYTES, SystemClock())
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path / "shared")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"holding\n"
        began = time.monotonic()
        for _ in range(10):
            with pytest.raises(StoreBusyError):
                shared.write().__enter__()
        assert time.monotonic() - began < 0.5
        with shared.read() as txn:
            assert txn.get(b"k", db=shared.database("meta")) is None
        holder.kill()
    with shared.write() as txn:
        txn.put(b"k", b"v", db=shared.database("meta"))
    shared.close()


async def test_requests_go_on_while_the_writer_is_stuck(
    make_gateway: Any, ask: Any, alpha: Any, tmp_path: Path
) -> None:
    """A stuck writer costs a request its caching, not its answer, and the circuit still opens here."""
    gateway = await make_gateway()
    command = [sys.executable, "-c", _HOLDER, str(tmp_path / "state" / "shared")]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"holding\n"
        alpha.behave("401")
        began = time.monotonic()
        for number in range(5):
            assert (await ask.whole(gateway, f"text {number}")).status == 200
        assert time.monotonic() - began < 2
        assert gateway.providers_health()["alpha"]["circuit"] == "open"
        holder.kill()
    assert gateway.providers_health()["alpha"]["circuit"] in ("open", "half_open")


async def test_requests_go_on_when_the_store_is_damaged_under_them(make_gateway: Any, ask: Any, tmp_path: Path) -> None:
    """Files replaced by others while a gateway runs cost it its memory, not a request."""
    gateway = await make_gateway()
    await ask.whole(gateway)
    (tmp_path / "state" / "shared").rename(tmp_path / "state" / "gone")
    assert (await ask.whole(gateway, "another")).status == 200
    gateway._shared.recover()
    again = [dict((await ask.whole(gateway)).headers)[b"x-cache"] for _ in range(2)]
    assert again == [b"miss", b"hit"]


@pytest.mark.parametrize("damage", [garbage, torn, stub])
async def test_requests_go_on_when_the_file_is_damaged_under_them(
    make_gateway: Any, ask: Any, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """A file overwritten or cut while a gateway maps it costs the memory, not a request and not the process."""
    gateway = await make_gateway()
    for number in range(50):
        await ask.whole(gateway, f"text {number}")
    damage(tmp_path / "state" / "shared" / "data.mdb")
    assert (await ask.whole(gateway, "text 1")).status == 200
    assert len(list((tmp_path / "state").glob("shared.damaged-*"))) == 1
    await ask.whole(gateway, "text 2")
    assert dict((await ask.whole(gateway, "text 2")).headers)[b"x-cache"] == b"hit"


_FAILER = """
import sys
from pathlib import Path
from proxy.clock import SystemClock
from proxy.providers.board import Board
from proxy.providers.record import ProviderRecord
from proxy.routing.breaker import Policy
from proxy.routing.outcome import Failure, Fault
from proxy.shared import Shared

clock = SystemClock()
board = Board(Shared(Path(sys.argv[1]), 8 * 2**20, clock), clock)
record = ProviderRecord(board, {"alpha": ["m"]}, Policy(3, 0.5, 5, 30, 60), 30, clock)
for _ in range(3):
    record.failed("alpha", "m", clock.monotonic(), Failure(Fault.OUTAGE, "500: it broke"))
record.flush()
"""


def make_record(shared: Shared) -> tuple[Board, ProviderRecord]:
    board = Board(shared, SystemClock())
    return board, ProviderRecord(board, {"alpha": ["m"]}, POLICY, 30.0, SystemClock())


def test_circuit_and_figures_are_shared_by_processes(tmp_path: Path) -> None:
    """What one process learns of a provider, another knows at its next look."""
    shared = Shared(tmp_path / "shared", MAP_BYTES, SystemClock())
    board, record = make_record(shared)
    board.refresh()
    assert record.circuit("alpha", "m").state is State.CLOSED
    subprocess.run([sys.executable, "-c", _FAILER, str(tmp_path / "shared")], check=True, timeout=30)
    board.refresh()
    assert (record.circuit("alpha", "m").state, record.circuit("alpha", "m").fault) == (State.OPEN, Fault.OUTAGE)
    figures = record.figures("alpha")
    assert (figures.requests, figures.errors, figures.last_error) == (3, 3, "500: it broke")
    assert not record.claim("alpha", "m", 1.0)
    shared.close()


def test_deadlines_of_an_earlier_boot_are_forgotten(tmp_path: Path) -> None:
    """Monotonic deadlines mean nothing after a reboot: circuits start closed, the cache stays."""
    shared = Shared(tmp_path / "shared", MAP_BYTES, SystemClock())
    board, record = make_record(shared)
    record.failed("alpha", "m", SystemClock().monotonic(), Failure(Fault.OUTAGE, "500", retry_after=60.0))
    with shared.write() as txn:
        txn.put(b"boot", b"another", db=shared.database("meta"))
        txn.put(b"k", b"v", db=shared.database("cache_bodies"))
    shared.close()
    shared = Shared(tmp_path / "shared", MAP_BYTES, SystemClock())
    board, record = make_record(shared)
    board.refresh()
    assert record.circuit("alpha", "m").state is State.CLOSED
    with shared.read() as txn:
        assert txn.get(b"k", db=shared.database("cache_bodies")) == b"v"
    shared.close()


def test_lease_is_given_to_one(tmp_path: Path) -> None:
    """A lease that is out is refused, also to its holder, until it ends."""
    shared = Shared(tmp_path / "shared", MAP_BYTES, SystemClock())
    board, _ = make_record(shared)
    assert board.lease(b"alpha", 60.0)
    assert not make_record(shared)[0].lease(b"alpha", 60.0)
    shared.close()
