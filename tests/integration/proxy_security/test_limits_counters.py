"""Counters in a file that processes share: what each sees of the others, of the dead, and of files that are no use."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from proxy.limits.counters import Counters
from proxy.limits.window import RING


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "limits.counters"


def test_each_sees_what_all_have_counted(path: Path) -> None:
    """Counts of two processes add up, by subject and bucket, also when the other came later."""
    first = Counters(path, ["a", "b"])
    ours = first.ring("a")
    ours.add(7, 2)
    second = Counters(path, ["b", "a", "c"])
    theirs = second.ring("a")
    theirs.add(7, 3)
    theirs.add(8, 1)
    assert ours.total(7) == theirs.total(7) == 5
    assert ours.total(8) == 1
    assert first.ring("b").total(7) == second.ring("c").total(7) == 0
    first.close()
    second.close()


def test_a_bucket_of_an_earlier_round_counts_for_nothing(path: Path) -> None:
    """A cell is used again for the bucket that comes a ring later, and then forgets the first."""
    counters = Counters(path, ["a"])
    ring = counters.ring("a")
    ring.add(3, 5)
    assert ring.total(3 + RING) == 0
    ring.add(3 + RING, 1)
    assert (ring.total(3), ring.total(3 + RING)) == (0, 1)
    counters.close()


def test_what_the_dead_have_counted_stays(path: Path) -> None:
    """A row is claimed anew when its process has gone, and what was counted in it still counts."""
    first, second = Counters(path, ["a"]), Counters(path, ["a"])
    first.ring("a").add(1, 10)
    first.close()
    third = Counters(path, ["a"])
    third.ring("a").add(1, 1)
    assert second.ring("a").total(1) == 11
    size = path.stat().st_size
    second.close()
    third.close()
    last = Counters(path, ["a"])
    assert last.ring("a").total(1) == 11
    assert path.stat().st_size == size
    last.close()


def test_a_killed_process_lets_its_row_go(path: Path) -> None:
    """A row whose process was killed is free at once, with what it had counted."""
    child = os.fork()
    if child == 0:
        held = Counters(path, ["a"])
        held.ring("a").add(4, 6)
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    successor = Counters(path, ["a"])
    successor.ring("a").add(4, 1)
    assert successor.ring("a").total(4) == 7
    assert struct.unpack_from("=Q", path.read_bytes(), 40) == (1,)
    successor.close()


def test_a_count_that_does_not_fit_stays_at_the_most(path: Path) -> None:
    """A cell that is full does not spill into its bucket's number."""
    counters = Counters(path, ["a"])
    ring = counters.ring("a")
    ring.add(1, 2**32 - 2)
    ring.add(1, 5)
    assert ring.total(1) == 2**32 - 1
    counters.close()


@pytest.mark.parametrize(
    ("at", "junk"),
    [(0, b"nonsense"), (8, b"another boot's  "), (24, struct.pack("=Q", 2**30)), (40, struct.pack("=Q", 999))],
    ids=["not-ours", "another-boot", "room-beyond-the-end", "rows-beyond-the-end"],
)
def test_a_file_of_no_use_is_made_anew(path: Path, at: int, junk: bytes) -> None:
    """A file that is damaged, or counts by an earlier boot's clock, is replaced, and counting begins at nothing."""
    first = Counters(path, ["a"])
    first.ring("a").add(1, 9)
    first.close()
    with path.open("r+b") as file:
        file.seek(at)
        file.write(junk)
    again = Counters(path, ["a"])
    assert again.ring("a").total(1) == 0
    again.ring("a").add(1, 1)
    other = Counters(path, ["a"])
    assert other.ring("a").total(1) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    again.close()
    other.close()


@pytest.mark.parametrize("size", [0, 5, 100], ids=["empty", "torn-header", "torn-names"])
def test_a_torn_file_is_made_anew(path: Path, size: int) -> None:
    """A file that a full disk or a crash left short is of no use either."""
    Counters(path, ["a"]).close()
    os.truncate(path, size)
    counters = Counters(path, ["a"])
    counters.ring("a").add(1, 1)
    assert counters.ring("a").total(1) == 1
    counters.close()


def test_a_full_table_of_names_is_replaced_by_a_larger_one(path: Path) -> None:
    """More subjects than the file has room for get a new file; who uses the old one counts on in it."""
    old = Counters(path, ["a"])
    old.ring("a").add(1, 5)
    new = Counters(path, [f"s{number}" for number in range(2000)] + ["a"])
    new.ring("a").add(1, 1)
    new.ring("s1999").add(1, 2)
    assert (old.ring("a").total(1), new.ring("a").total(1), new.ring("s1999").total(1)) == (5, 1, 2)
    old.close()
    new.close()
