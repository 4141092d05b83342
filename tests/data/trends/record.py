"""Records how the memory of small Python processes goes: `python record.py` writes a file per case beside itself.

Each case is a process of its own that serves a pretended request a few thousand times in 24 seconds and reads its own
RssAnon 20 times a second. A line is seconds, KiB, requests so far. Hours of a service are compressed into seconds.
"""

from __future__ import annotations

import gc
import math
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

SECONDS = 24.0
READINGS_PER_SECOND = 20
REQUESTS_PER_SECOND = 400


class Session:
    """Something that refers to itself, so that only the collector frees it."""

    def __init__(self, size: int) -> None:
        self.body = bytearray(size)
        self.own = self


def kept_for_ever() -> Callable[[int, float], None]:
    kept: list[bytes | bytearray] = []
    return lambda number, at: kept.append(b"x" * (200 + number % 50))


def one_in_fifty_is_kept() -> Callable[[int, float], None]:
    kept: list[bytearray] = []
    recent: deque[bytearray] = deque(maxlen=200)

    def serve(number: int, at: float) -> None:
        recent.append(bytearray(3000 + number % 4000))
        if number % 50 == 0:
            kept.append(bytearray(60_000))

    return serve


def kept_after_a_warm_up() -> Callable[[int, float], None]:
    cache: dict[int, bytearray] = {}
    kept: list[bytes | bytearray] = []

    def serve(number: int, at: float) -> None:
        cache[hash(str(number)) % 1500] = bytearray(6000)
        kept.append(bytearray(1500))

    return serve


def kept_beside_cycles() -> Callable[[int, float], None]:
    kept: list[bytes | bytearray] = []
    gc.disable()

    def serve(number: int, at: float) -> None:
        Session(2000)
        kept.append(bytearray(1500))
        if number % 1500 == 0:
            gc.collect()

    return serve


def nothing_kept() -> Callable[[int, float], None]:
    recent: deque[bytes] = deque(maxlen=100)
    return lambda number, at: recent.append(b"x" * (number * 7919 % 9000))


def a_cache_that_fills() -> Callable[[int, float], None]:
    cache: dict[int, bytearray] = {}

    def serve(number: int, at: float) -> None:
        cache[hash(str(number)) % 1000] = bytearray(8000)

    return serve


def cycles_until_collected() -> Callable[[int, float], None]:
    gc.disable()

    def serve(number: int, at: float) -> None:
        Session(200_000)
        if number % 300 == 0:
            gc.collect()

    return serve


def one_big_request() -> Callable[[int, float], None]:
    kept: list[bytearray] = []

    def serve(number: int, at: float) -> None:
        if at > 0.4 and not kept:
            kept.append(bytearray(b"z") * 30_000_000)

    return serve


def as_much_as_is_in_flight() -> Callable[[int, float], None]:
    flying: list[bytearray] = []

    def serve(number: int, at: float) -> None:
        wanted = int(60 * load(at, "waves"))
        while len(flying) < wanted:
            flying.append(bytearray(b"z") * 300_000)
        del flying[wanted:]

    return serve


CASES: dict[str, tuple[Callable[[], Callable[[int, float], None]], str]] = {
    "leak_list": (kept_for_ever, "steady"),
    "leak_one_in_fifty": (one_in_fifty_is_kept, "steady"),
    "leak_by_waves": (kept_for_ever, "waves"),
    "leak_after_warm_up": (kept_after_a_warm_up, "steady"),
    "leak_beside_cycles": (kept_beside_cycles, "steady"),
    "plateau": (nothing_kept, "steady"),
    "warm_up_cache": (a_cache_that_fills, "steady"),
    "saw_tooth_cycles": (cycles_until_collected, "steady"),
    "step_big_request": (one_big_request, "steady"),
    "traffic_in_flight": (as_much_as_is_in_flight, "waves"),
}


def load(at: float, traffic: str) -> float:
    """The share of the highest rate at a place from 0 to 1."""
    return 1.0 if traffic == "steady" else 0.5 + 0.45 * math.sin(4 * math.pi * at)


def anon_kibibytes() -> int:
    """RssAnon of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1])


def run(case: str) -> None:
    """The process of a case: serves and prints."""
    build, traffic = CASES[case]
    serve, number, due, start = build(), 0, 0.0, time.monotonic()
    for reading in range(int(SECONDS * READINGS_PER_SECOND)):
        at = reading / (SECONDS * READINGS_PER_SECOND)
        due += load(at, traffic) * REQUESTS_PER_SECOND / READINGS_PER_SECOND
        while number < due:
            number += 1
            serve(number, at)
        passed = time.monotonic() - start
        print(f"{passed:.3f} {anon_kibibytes()} {number}", flush=True)
        time.sleep(max(0.0, (reading + 1) / READINGS_PER_SECOND - passed))


def main() -> None:
    """Records every case, all at once: they sleep for most of the time."""
    here = Path(__file__)
    running = {}
    for case in CASES:
        with (here.parent / f"{case}.txt").open("w") as file:
            running[case] = subprocess.Popen([sys.executable, str(here), case], stdout=file)
    for case, process in running.items():
        print(case, process.wait())


if __name__ == "__main__":
    run(sys.argv[1]) if len(sys.argv) > 1 else main()
