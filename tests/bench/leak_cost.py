"""Two snapshots of millions of traces, taken and compared: the memory agent, and the standard library's tracemalloc.

Each side runs in a fresh process, `python -m tests.bench.leak_cost SIDE TRACES DIRECTORY`, that traces the same blocks
and grows by the same quarter between its two snapshots; a third one does so and takes none, and what the others'
memory is at its peak above that one's is what their snapshots take. As the agent's child works at the lowest priority,
all of them do, so that whatever else runs slows both alike.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from proxy.memory import MemoryAgent
from tests.bench.figures import Aim, BenchError, Figure
from tests.bench.machine import MIB

_TRACES = 2_000_000
_QUICK_TRACES = 200_000
_TIME_RATIO = 0.1
_MEMORY_RATIO = 0.25
_PATIENCE_SECONDS = 600.0
_TOP = 10
_FILES = 20
_PLACES = 25
_LEAKING = 12
"""Of so many places one grows."""
_SOURCE = "def kept(number):\n    return [bytes(40 + index % 160) for index in range(number)]\n"

Row = tuple[str, int, int, int, int, int]
"""File, line; bytes and blocks in the newer snapshot, and in the older one."""


@dataclass(frozen=True, slots=True)
class Side:
    """What one process has found and what that took. `children_bytes`: of its own that a child had at its peak."""

    seconds: float
    pause_ms: float
    peak_bytes: int
    children_bytes: int
    top: list[Row]


class Blocks:
    """Traced blocks from 500 places, evenly at first; then some of these places grow, each more than the one before."""

    def __init__(self, traces: int) -> None:
        self._traces = traces
        self._places = [
            self._place(f"/srv/module_{file}.py", line) for file in range(_FILES) for line in range(_PLACES)
        ]
        self._kept: list[list[bytes]] = []

    @staticmethod
    def _place(file: str, line: int) -> Callable[[int], list[bytes]]:
        functions: dict[str, Any] = {}
        exec(compile("\n" * 3 * line + _SOURCE, file, "exec"), functions)
        made: Callable[[int], list[bytes]] = functions["kept"]
        return made

    def begin(self) -> None:
        """As many as asked for."""
        self._kept += [place(self._traces // len(self._places)) for place in self._places]

    def grow(self) -> None:
        """By a quarter."""
        leaking = self._places[::_LEAKING]
        share = self._traces // 4 / sum(range(len(leaking) + 1))
        self._kept += [place(round(share * number)) for number, place in enumerate(leaking, 1)]


def measure(quick: bool) -> Iterator[Figure]:
    """All rows of this part. BenchError if both do not find the same."""
    traces = _QUICK_TRACES if quick else _TRACES
    with tempfile.TemporaryDirectory(prefix="proxywatch-bench-") as directory:
        nobody, theirs, ours = (_run(side, traces, Path(directory)) for side in _SIDES)
    if not _alike(ours.top, theirs.top):
        raise BenchError(f"the lines that grew most are not the same: ours {ours.top}, tracemalloc's {theirs.top}")
    part = f"Two snapshots of {traces:,} traces and a quarter more, compared"
    peer = "tracemalloc"
    aim = Aim(_TIME_RATIO, "ratio")
    yield Figure(part, f"time; the same {_TOP} lines first", ours.seconds, "s", peer, theirs.seconds, aim)
    extra, their_extra = (max(0, one.peak_bytes - nobody.peak_bytes) + one.children_bytes for one in (ours, theirs))
    aim = Aim(_MEMORY_RATIO, "ratio")
    yield Figure(part, "memory, the child's own included", extra / MIB, "MiB", peer, their_extra / MIB, aim)
    yield Figure(part, "longest stop of the service", ours.pause_ms, "ms", peer, theirs.pause_ms)


def _alike(ours: list[Row], theirs: list[Row]) -> bool:
    """The same lines in the same order with the same figures, but for a block or two that the interpreter keeps for its
    next use and counts for the last."""
    pairs = list(zip(ours, theirs, strict=False))
    return len(pairs) == _TOP and all(
        one[:2] == other[:2] and all(abs(one[at] - other[at]) <= 2 for at in (3, 5)) for one, other in pairs
    )


def _run(side: str, traces: int, directory: Path) -> Side:
    argv = [sys.executable, "-m", "tests.bench.leak_cost", side, str(traces), str(directory)]
    try:
        text = subprocess.run(argv, stdout=subprocess.PIPE, check=True, timeout=_PATIENCE_SECONDS).stdout
    except subprocess.SubprocessError as error:
        raise BenchError(f"{side}: {error}") from error
    document = json.loads(text)
    return Side(**document | {"top": [tuple(row) for row in document["top"]]})


def _nobody(blocks: Blocks, _: Path) -> Side:
    tracemalloc.start(1)
    blocks.begin()
    blocks.grow()
    return Side(0.0, 0.0, _peak_bytes(), 0, [])


def _tracemalloc(blocks: Blocks, _: Path) -> Side:
    tracemalloc.start(1)
    blocks.begin()
    began = time.perf_counter()
    older = tracemalloc.take_snapshot()
    first = time.perf_counter() - began
    blocks.grow()
    began = time.perf_counter()
    newer = tracemalloc.take_snapshot()
    lines = newer.compare_to(older, "lineno")
    second = time.perf_counter() - began
    top = [
        (
            each.traceback[0].filename,
            each.traceback[0].lineno,
            each.size,
            each.count,
            each.size - each.size_diff,
            each.count - each.count_diff,
        )
        for each in lines[:_TOP]
    ]
    return Side(first + second, 1000 * max(first, second), _peak_bytes(), 0, top)


def _agent(blocks: Blocks, directory: Path) -> Side:
    return asyncio.run(_asked(blocks, directory))


async def _asked(blocks: Blocks, directory: Path) -> Side:
    agent = MemoryAgent(directory)
    answers = []

    async def ask(*path: str, **body: Any) -> dict[str, Any]:
        status, document = await agent.handle("POST", ("memory", *path), body)
        if status != 200:
            raise BenchError(f"the agent answers {status}: {document}")
        return document

    try:
        await ask("trace", frames=1)
        blocks.begin()
        began = time.perf_counter()
        answers.append(await ask("snapshots"))
        first = time.perf_counter() - began
        blocks.grow()
        began = time.perf_counter()
        answers.append(await ask("snapshots"))
        older, newer = (answer["name"] for answer in answers)
        answers.append(await ask("compare", older=older, newer=newer, top=_TOP))
        second = time.perf_counter() - began
        peak = _peak_bytes()
    finally:
        await agent.close()
    names = ("file", "line", "bytes", "count", "bytes_before", "count_before")
    top = [tuple(row[name] for name in names) for row in answers[-1]["lines"]]
    pause, children = (max(answer[name] for answer in answers) for name in ("pause_ms", "child_peak_bytes"))
    return Side(first + second, pause, peak, children, top)


def _peak_bytes() -> int:
    """Resident memory of this process at its most, so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


_SIDES: dict[str, Callable[[Blocks, Path], Side]] = {"nobody": _nobody, "tracemalloc": _tracemalloc, "agent": _agent}


if __name__ == "__main__":
    os.nice(19)
    print(json.dumps(asdict(_SIDES[sys.argv[1]](Blocks(int(sys.argv[2])), Path(sys.argv[3])))))
