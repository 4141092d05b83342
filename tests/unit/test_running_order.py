"""The order of the tests where several processes share them."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest
import running_order

TESTS = Path(running_order.__file__).parent
SECONDS = {**running_order.LONG, **running_order.ONE_CONTAINER}
LONG = sorted(SECONDS)
COLLECTED = [
    (file, f"{file}::{number}")
    for file in sorted([*LONG, *(f"unit/test_{number}.py" for number in range(300))])
    for number in range(8)
]


@pytest.mark.parametrize("processes", [1, 2, 4, 7])
def test_each_runs_once_beside_the_others_of_its_file(processes: int) -> None:
    """Nothing is lost or doubled, and a file's tests keep their order; a long one's stay together."""
    order = running_order.shared_out(COLLECTED, processes)
    assert sorted(order) == sorted(test for _, test in COLLECTED)
    for file, group in groupby(COLLECTED, key=lambda pair: pair[0]):
        its = [test for _, test in group]
        assert [test for test in order if test in its] == its
        if file in LONG:
            first = order.index(its[0])
            assert order[first : first + len(its)] == its


def test_every_process_begins_with_long_files_and_ends_with_quick_ones() -> None:
    """Each stretch has its share of what takes long, in the beginning."""
    order = running_order.shared_out(COLLECTED, 4)
    each = len(order) // 4
    shares = []
    for number in range(4):
        long = [test.rpartition("::")[0] in LONG for test in order[number * each : (number + 1) * each]]
        assert long == sorted(long, reverse=True)
        assert not long[-1]
        stretch = {test.rpartition("::")[0] for test in order[number * each : (number + 1) * each]}
        shares.append(sum(SECONDS.get(file, 0) for file in stretch))
    assert max(shares) - min(shares) <= 30
    assert sum(shares) == sum(SECONDS.values())


def test_those_of_one_container_run_in_one_process() -> None:
    """Nobody else's tests come between them."""
    order = [test.rpartition("::")[0] for test in running_order.shared_out(COLLECTED, 4)]
    places = [place for place, file in enumerate(order) if file in running_order.ONE_CONTAINER]
    assert places == list(range(places[0], places[0] + 8 * len(running_order.ONE_CONTAINER)))


def test_what_is_known_to_take_long_is_there() -> None:
    """The table names files that exist."""
    assert [file for file in LONG if not (TESTS / file).is_file()] == []
