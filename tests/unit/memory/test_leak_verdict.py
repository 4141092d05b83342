"""The verdict over observations made by hand: what is named, what is not, and how it is said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from observed import INTERVAL, LIBRARY, MIB, OWN, STANDARD, T0, compared, observation, reading

from watchdog.memory.findings import LeakKind, Trend, confidence_word
from watchdog.memory.packages import OWN as OWN_CODE
from watchdog.memory.packages import STANDARD_LIBRARY, UNKNOWN, nearest_own, package_of
from watchdog.memory.telling import told
from watchdog.memory.verdict import judge
from watchdog.system.memory_answers import Census, Pymalloc, Resources, SocketCount, TaskCount, Trim, TypeCount

EVEN = [{OWN: 900.0}] * 3


def test_the_line_that_keeps_growing_is_named() -> None:
    """File, line, bytes an hour at the usual pace, bytes a request, objects and confidence stand in the first line."""
    seen = observation(compared(EVEN, requests=[600] * 3), trend=Trend("leak", 527 * MIB, seconds_to_limit=7200.0))
    verdict = judge(seen)
    assert verdict.kind is LeakKind.PYTHON
    # 1.5 KiB a request, and 360,000 requests an hour before anything was traced.
    expected = "/srv/app/cache.py:41 keeps 527.3 MiB an hour, 1.5 KiB a request, 270,000 objects more; confidence high"
    assert verdict.sentence == expected
    assert verdict.explained == 1.0
    assert "its limit is reached in 2h" in told(verdict)
    assert told(verdict, "/somewhere.html").splitlines()[0] == expected


def test_a_leak_by_time_is_told_by_time() -> None:
    """Where growth by time comes nearer to how the process grows, fewer requests while tracing do not swell it."""
    seen = observation(compared(EVEN, requests=[60] * 3), trend=Trend("leak", 52.0 * MIB))
    assert judge(seen).places[0].bytes_per_hour == pytest.approx(900 * 60 * 1024)


def test_without_counted_requests_time_is_what_there_is() -> None:
    """A service that counts no requests is told bytes an hour, and none a request."""
    (place,) = judge(observation(compared(EVEN))).places
    assert place.bytes_per_request is None
    assert place.bytes_per_hour == pytest.approx(900 * 60 * 1024)


@pytest.mark.parametrize(
    "grown",
    [
        pytest.param([2000.0, 0.0, 0.0], id="a-big-request"),
        pytest.param([0.0, 0.0, 2000.0], id="a-late-big-request"),
        pytest.param([20.0, 20.0, 3000.0], id="a-big-request-in-a-trickle"),
        pytest.param([2000.0, 1500.0, 0.0], id="a-cache-that-is-full"),
        pytest.param([900.0, 1000.0, 50.0], id="a-cache-that-is-nearly-full"),
        pytest.param([1000.0, 700.0, 400.0], id="a-warm-up"),
        pytest.param([800.0, -1600.0, 900.0], id="a-saw-tooth"),
        pytest.param([0.0, 0.0, 0.0], id="nothing"),
        pytest.param([2.0, 2.0, 2.0], id="too-little-to-tell"),
    ],
)
def test_what_grows_and_ends_is_not_named(grown: Sequence[float]) -> None:
    """One-off growth, growth that has stopped or is ending, ups and downs, and crumbs are no leaks."""
    verdict = judge(observation(compared([{OWN: size} for size in grown])))
    assert verdict.kind is LeakKind.NONE
    assert verdict.places == ()
    assert "nothing that keeps growing" in verdict.sentence


def test_one_quiet_interval_does_not_hide_a_big_leak() -> None:
    """More than a mebibyte in all is a candidate although it did not grow once, and less sure."""
    steady, pausing = (
        judge(observation(compared([{OWN: size} for size in sizes]))).places[0]
        for sizes in ([900.0] * 4, [1300.0, 0.0, 1100.0, 1200.0])
    )
    assert pausing.confidence < steady.confidence


def test_what_the_collector_gives_back_is_said_to_be_cycles() -> None:
    """A line that does not survive a full collection is named only where no other is, with the reason."""
    both = compared([{OWN: 900.0, LIBRARY: 500.0}] * 3)
    survivors = compared([{LIBRARY: 1500.0}])[0]
    only = judge(observation(both, survivors=survivors))
    assert [place.package for place in only.places] == ["aiohttp"]
    cyclic = judge(observation(compared(EVEN), survivors=survivors))
    assert cyclic.kind is LeakKind.PYTHON
    assert "cycles" in cyclic.places[0].remark


def test_the_services_own_frame_is_named() -> None:
    """Where several frames are known, the line of the service's own that led to the allocation is the place."""
    traces = {STANDARD: (STANDARD, LIBRARY, OWN)}
    (place,) = judge(observation(compared([{STANDARD: 900.0}] * 3, tracebacks=traces), frames=3)).places
    assert (place.file, place.line, place.package) == (*OWN, OWN_CODE)
    assert place.traceback[0] == STANDARD


def test_a_harmless_shape_outweighs_lines_that_grew_meanwhile() -> None:
    """Whose memory is a saw-tooth does not leak, whatever grew meanwhile; that is shown, with little confidence."""
    verdict = judge(observation(compared(EVEN), trend=Trend("saw_tooth")))
    assert verdict.kind is LeakKind.NONE
    assert "saw-tooth" in " ".join(verdict.remarks)
    assert confidence_word(verdict.places[0].confidence) == "low"


def growing_natively(**more: Any) -> dict[str, Any]:
    """Malloc gives out four mebibytes a minute, and none of it is traced."""
    quiet = (reading(0, 100, heap=50, requests=0), reading(60, 104, heap=54, requests=6000))
    traced = tuple(
        reading(120 + n * INTERVAL, 120 + 4 * n, heap=60 + 4.5 * n, requests=6000 * (n + 2), table=5 + 0.5 * n)
        for n in range(4)
    )
    return {"quiet": quiet, "traced": traced} | more


def test_growth_that_is_not_traced_is_native() -> None:
    """The heap in use grows before and while tracing, more than traces and their tables: no line is named."""
    verdict = judge(observation(compared([{OWN: 10.0}] * 3, requests=[6000] * 3), **growing_natively()))
    assert verdict.kind is LeakKind.NATIVE
    assert "native memory grows by 240.0 MiB an hour" in verdict.sentence
    assert verdict.bytes_per_request == pytest.approx(4 * MIB / 6000)


def test_traced_growth_is_not_native() -> None:
    """The same growth of the heap with a line that explains it is that line's."""
    verdict = judge(observation(compared([{OWN: 4096.0}] * 3, requests=[6000] * 3), **growing_natively()))
    assert verdict.kind is LeakKind.PYTHON


def test_tables_of_traces_are_not_native_growth() -> None:
    """What keeping the traces takes is ours, however the process breathed before."""
    quiet = (reading(0, 100, heap=50), reading(60, 101, heap=51))
    traced = tuple(reading(120 + n * INTERVAL, 110 + 4 * n, heap=60 + 4 * n, table=5 + 4 * n) for n in range(4))
    assert judge(observation(compared([{OWN: 1.0}] * 3), quiet=quiet, traced=traced)).kind is LeakKind.NONE


def test_what_malloc_gives_back_is_fragmentation() -> None:
    """A good part of the process that malloc_trim returns was free all the time."""
    verdict = judge(observation(compared([{}] * 3), trimmed=Trim(before_bytes=200 * MIB, after_bytes=140 * MIB)))
    assert verdict.kind is LeakKind.FRAGMENTATION
    assert "malloc_trim gave back 60.0 MiB of 200.0 MiB" in verdict.sentence


def test_arenas_that_grow_and_hold_nothing_are_fragmentation() -> None:
    """Python's own arenas count as well, whose free space malloc_trim cannot return."""
    censuses = tuple(
        Census(taken_at=T0, pymalloc=Pymalloc(arenas_bytes=size * MIB, in_use_bytes=10 * MIB)) for size in (20, 50)
    )
    verdict = judge(observation(compared([{}] * 3), censuses=censuses))
    assert verdict.kind is LeakKind.FRAGMENTATION
    assert "arenas grew by 30.0 MiB" in verdict.sentence


def holding(**growth: int) -> dict[str, Any]:
    """So many more of a kind every minute."""

    def at(seconds: float, **more: Any) -> Any:
        return reading(seconds, 100, **{kind: 10 + int(each * seconds / 60) for kind, each in growth.items()}, **more)

    return {"quiet": (at(0), at(60)), "traced": tuple(at(120 + n * INTERVAL, table=5.0) for n in range(4))}


def test_tasks_that_do_not_end_are_named_by_who_makes_them() -> None:
    """One frame tells asyncio's own line; the service's line with as many new objects is put before it."""
    task = {"what": "wait_for_ever", "waiting_at": "/srv/app/wait.py:3", "created_at": ":".join(map(str, STANDARD))}
    resources = (Resources(), Resources(tasks=(TaskCount(count=300, **task),)))
    lines = compared([{OWN: 100.0, ("/srv/app/wait.py", 3): 100.0}] * 3, counts=1)
    verdict = judge(observation(lines, resources=resources, **holding(tasks=100)))
    assert verdict.kind is LeakKind.TASKS
    assert verdict.sentence.startswith("/srv/app/cache.py:41: 400 more tasks in 6m: tasks of wait_for_ever")
    assert [place.where for place in verdict.places[:2]] == ["/srv/app/cache.py:41", task["created_at"]]


def test_sockets_are_named_with_whom_they_lead_to() -> None:
    """Without a place the peer and the state are what there is."""
    peers = [SocketCount(peer="10.0.0.1:443", state="CLOSE_WAIT", count=count) for count in (1, 60)]
    resources = (Resources(sockets=(peers[0],)), Resources(sockets=(peers[1],)))
    verdict = judge(observation(compared([{}] * 3), resources=resources, **holding(sockets=20, descriptors=20)))
    assert verdict.kind is LeakKind.SOCKETS
    assert "59 more CLOSE_WAIT to 10.0.0.1:443" in verdict.sentence


def test_a_few_more_or_a_pause_is_no_leak_unless_it_was_suspected() -> None:
    """Fewer than five come and go with the callers; what an alert saw over hours is believed as soon as it grew."""
    few = holding(threads=1) | {"quiet": ()}
    assert judge(observation(compared([{}] * 3), **few)).kind is LeakKind.NONE
    assert judge(observation(compared([{}] * 3), suspected="threads", **few)).kind is LeakKind.THREADS


def test_types_that_became_more_are_mentioned() -> None:
    """A census before and after says what kind of object it is, of the types that both have counted."""
    censuses = tuple(
        Census(taken_at=T0, types=(TypeCount(type="Session", module="shop", count=count), *more))
        for count, more in ((10, ()), (510, (TypeCount(type="dict", module="builtins", count=9),)))
    )
    assert "more objects of shop.Session (+500)" in judge(observation(compared(EVEN), censuses=censuses)).remarks


@pytest.mark.parametrize(
    ("file", "package"),
    [
        (LIBRARY[0], "aiohttp"),
        ("/usr/lib/python3/dist-packages/six.py", "six"),
        (STANDARD[0], STANDARD_LIBRARY),
        ("/opt/python/lib/python3.13t/json/decoder.py", STANDARD_LIBRARY),
        ("<frozen importlib._bootstrap>", STANDARD_LIBRARY),
        ("<string>", UNKNOWN),
        (OWN[0], OWN_CODE),
    ],
)
def test_whose_code_a_file_is(file: str, package: str) -> None:
    """By its path alone, so that it can be told of files that only the service may read."""
    assert package_of(file) == package


def test_nothing_own_in_a_traceback() -> None:
    """Where only libraries are seen, no frame is preferred."""
    assert nearest_own((STANDARD, LIBRARY)) is None
