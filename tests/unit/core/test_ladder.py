"""The ladder: gentlest first, never back down, always an end."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchdog.core.ladder import Attempt, Exhausted, Finished, RungLimit, RungOutcome, Try, next_move

O = RungOutcome  # noqa: E741 - a table of outcomes reads better with one letter
LADDERS = st.lists(st.integers(1, 3), min_size=1, max_size=5).map(
    lambda attempts: [RungLimit(f"r{index}", count) for index, count in enumerate(attempts)]
)
ONCE = [RungLimit("a"), RungLimit("b"), RungLimit("c")]


@settings(max_examples=200)
@given(LADDERS, st.lists(st.sampled_from(list(O)), min_size=16, max_size=16))
def test_every_ladder_ends_and_never_goes_back_down(rungs: list[RungLimit], outcomes: list[RungOutcome]) -> None:
    """Whatever the outcomes, the climb ends within the sum of attempts, and no move is below an earlier one."""
    attempts: list[Attempt] = []
    highest = 0
    while isinstance(move := next_move(rungs, attempts), Try):
        assert move.index >= highest
        mine = [a for a in attempts if a.rung == rungs[move.index].name]
        assert move.attempt == len(mine) + 1 <= rungs[move.index].attempts
        highest = move.index
        attempts.append(Attempt(rungs[move.index].name, outcomes[len(attempts)], "note"))
    assert len(attempts) <= sum(rung.attempts for rung in rungs)
    assert isinstance(move, Finished) is (bool(attempts) and attempts[-1].outcome is O.VERIFIED)
    ended_early = attempts[-1].outcome in {O.VERIFIED, O.STOPPED, O.REFUSED, O.SPENT}
    assert ended_early or attempts[-1].rung == rungs[-1].name


@settings(max_examples=100)
@given(LADDERS, st.lists(st.tuples(st.sampled_from(["r0", "r1", "r9"]), st.sampled_from(list(O))), max_size=8))
def test_any_record_has_a_next_move(rungs: list[RungLimit], record: list[tuple[str, RungOutcome]]) -> None:
    """Even a record of another edition of the playbook leads to a move, and a rung it names is not tried too often."""
    attempts = [Attempt(rung, outcome) for rung, outcome in record]
    move = next_move(rungs, attempts)
    if isinstance(move, Try):
        assert sum(a.rung == rungs[move.index].name for a in attempts) < rungs[move.index].attempts


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ([], Try(0, 1)),
        ([("a", O.FAILED)], Try(1, 1)),
        ([("a", O.SKIPPED)], Try(1, 1)),
        ([("a", O.FAILED), ("b", O.VERIFIED)], Finished("b")),
        ([("gone", O.FAILED)], Try(0, 1)),
        ([("b", O.FAILED)], Try(2, 1)),
        ([("gone", O.VERIFIED)], Finished("gone")),
        ([("a", O.STOPPED)], Exhausted("rung a was stopped")),
        ([("a", O.REFUSED, "budget spent")], Exhausted("budget spent")),
        (
            [("a", O.FAILED, "exit 1"), ("b", O.SKIPPED), ("c", O.FAILED, "exit 3")],
            Exhausted("the ladder is exhausted: a, c did not help (exit 3)"),
        ),
        (
            [("a", O.SKIPPED), ("b", O.SKIPPED), ("c", O.SKIPPED)],
            Exhausted("the ladder is exhausted: nothing applied"),
        ),
    ],
)
def test_the_next_move(record: list[tuple[str, ...]], expected: Try | Finished | Exhausted) -> None:
    """The next move from a record, row by row."""
    assert next_move(ONCE, [Attempt(a[0], RungOutcome(a[1]), *a[2:]) for a in record]) == expected


def test_a_rung_is_tried_as_often_as_it_may() -> None:
    """A rung with two attempts is tried twice before the next, and not again once it was skipped."""
    rungs = [RungLimit("a", 2), RungLimit("b")]
    assert next_move(rungs, [Attempt("a", O.FAILED)]) == Try(0, 2)
    assert next_move(rungs, [Attempt("a", O.FAILED), Attempt("a", O.FAILED)]) == Try(1, 1)
    assert next_move(rungs, [Attempt("a", O.SKIPPED)]) == Try(1, 1)


def test_a_ladder_without_rungs_is_exhausted() -> None:
    """No rungs: a person is told at once."""
    assert next_move([], []) == Exhausted("the playbook has no rungs")
