"""What many stack dumps say together."""

from __future__ import annotations

from watchdog.system.stack_profile import Place, StackProfile, profile_of

IDLE = """Thread 0x00007f01 (most recent call first):
  File "/usr/lib/python3.11/concurrent/futures/thread.py", line 81 in _worker
  File "/usr/lib/python3.11/threading.py", line 982 in run

Current thread 0x00007f02 (most recent call first):
  File "/usr/lib/python3.11/asyncio/runners.py", line 118 in run
  File "/srv/proxy/worker.py", line 51 in run
"""
PARSING = """Current thread 0x00007f02 (most recent call first):
  File "/srv/proxy/wire/parser.py", line 40 in parse
  File "/srv/proxy/{caller}.py", line 7 in serve
  File "/usr/lib/python3.11/asyncio/runners.py", line 118 in run
"""


def test_the_hottest_places_come_first_with_their_callers() -> None:
    """By the innermost function of each thread; its line and its caller are the most frequent ones."""
    two = PARSING.format(caller="a").replace("line 40 in parse", "line 41 in close")
    elsewhere = PARSING.format(caller="a").replace("line 40 in parse", "line 44 in parse")
    found = profile_of([*[PARSING.format(caller=c) for c in "aab"], elsewhere, "\n", two, IDLE])
    assert found == StackProfile(
        dumps=7,
        busy=5,
        places=(
            Place("wire/parser.py:40 parse", "proxy/a.py:7 serve", 4),
            Place("wire/parser.py:41 close", "proxy/a.py:7 serve", 1),
        ),
    )


def test_threads_that_wait_for_work_do_not_count() -> None:
    """An event loop between two callbacks and an idle thread of a pool are no load."""
    assert profile_of([IDLE, IDLE]) == StackProfile(2, 0, ())


def test_two_threads_can_be_busy_at_once() -> None:
    """Both places are seen, in one busy dump; one without a caller has none."""
    alone = 'Thread 0x1 (most recent call first):\n  File "/srv/x/y.py", line 1 in <module>\n\n'
    found = profile_of([alone + PARSING.format(caller="a")])
    assert found.busy == 1
    assert found.places == (
        Place("x/y.py:1 <module>", "", 1),
        Place("wire/parser.py:40 parse", "proxy/a.py:7 serve", 1),
    )


def test_no_dump_and_an_empty_one_are_no_profile() -> None:
    """Nothing is made of nothing."""
    assert profile_of([]) == StackProfile(0, 0, ())
    assert profile_of(["", "stack of pid 1\n"]) == StackProfile(2, 0, ())
