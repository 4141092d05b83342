"""What was measured: one figure of ours, a peer's beside it, the aim, and how that is printed and written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal


class BenchError(Exception):
    """A measurement cannot be believed or made; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Aim:
    """The most that we allow ourselves: of our own figure, or of its ratio to the peer's."""

    most: float
    of: Literal["figure", "ratio"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One row. `theirs` is None where no peer does this or it is not installed."""

    part: str
    what: str
    ours: float
    unit: str
    peer: str = ""
    theirs: float | None = None
    aim: Aim | None = None
    note: str = ""
    absent: str = "not installed"
    """Why a peer has no figure."""

    @property
    def ratio(self) -> float | None:
        """Ours over theirs; None without a peer's figure, or when it is zero."""
        return self.ours / self.theirs if self.theirs else None

    @property
    def verdict(self) -> str:
        """`met`, `missed`, or empty when nothing was aimed at or the peer is missing."""
        reached = None if self.aim is None else self.ours if self.aim.of == "figure" else self.ratio
        if self.aim is None or reached is None:
            return ""
        return "met" if reached <= self.aim.most else "missed"


_HEADINGS = ("", "ours", "peer", "ratio", "aim")


def _number(value: float) -> str:
    if value and abs(value) < 10:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _ratio(value: float) -> str:
    return f"{value:.2f}x" if value >= 0.1 else f"1/{1 / value:.0f}"


def _cells(figure: Figure) -> tuple[str, ...]:
    absent = f"({figure.peer}: {figure.absent})" if figure.peer else ""
    theirs = absent if figure.theirs is None else f"{_number(figure.theirs)} {figure.unit} ({figure.peer})"
    ratio = "" if figure.ratio is None else _ratio(figure.ratio)
    aim = ""
    if figure.aim is not None:
        most = _ratio(figure.aim.most) if figure.aim.of == "ratio" else f"{_number(figure.aim.most)} {figure.unit}"
        aim = f"≤ {most}: {figure.verdict or 'not measured'}"
    what = f"{figure.what} ({figure.note})" if figure.note else figure.what
    return (what, f"{_number(figure.ours)} {figure.unit}", theirs, ratio, aim)


def _parts(figures: Iterable[Figure]) -> Iterable[tuple[str, list[tuple[str, ...]]]]:
    for part, rows in groupby(figures, key=lambda figure: figure.part):
        yield part, [_cells(figure) for figure in rows]


def table(figures: Sequence[Figure]) -> str:
    """For a terminal: aligned columns under each part's title."""
    parts = list(_parts(figures))
    all_rows = [_HEADINGS, *(row for _, rows in parts for row in rows)]
    widths = [max(len(row[at]) for row in all_rows) for at in range(len(_HEADINGS))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]).rstrip()

    return "\n".join(
        "\n".join((line((part, *_HEADINGS[1:])), *(line(row) for row in rows), "")) for part, rows in parts
    )


def write(directory: Path, machine: dict[str, str], figures: Sequence[Figure], missing: Sequence[str]) -> None:
    """`results.json` for programs and `README.md` for people."""
    directory.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = [
        asdict(figure) | {"ratio": figure.ratio, "verdict": figure.verdict} for figure in figures
    ]
    document = {"machine": machine, "left_out": list(missing), "figures": rows}
    (directory / "results.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    lines = ["# What it costs and how fast it heals", "", _METHOD, ""]
    (directory / "README.md").write_text("\n".join([*lines, *_tables(machine, figures, missing)]) + "\n")


def page(file: Path, title: str, machine: dict[str, str], figures: Sequence[Figure], missing: Sequence[str]) -> None:
    """Some parts by themselves, for people."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([f"# {title}", "", _AGENT_METHOD, "", *_tables(machine, figures, missing)]) + "\n")


def _tables(machine: dict[str, str], figures: Sequence[Figure], missing: Sequence[str]) -> Iterator[str]:
    yield from (f"- {name}: {value}" for name, value in machine.items())
    yield from (f"- left out: {line}" for line in missing)
    for part, cells in _parts(figures):
        yield from ("", f"## {part}", "", f"| {' | '.join(_HEADINGS)} |", "|---|---:|---:|---:|---|")
        yield from (f"| {' | '.join(row)} |" for row in cells)


_AGENT_METHOD = """\
Real daemons in processes of their own, over real files, sockets and signals; Monit makes the same checks in the same
cycle, after us. A decision is counted by the CPU clock; everything else in these tables is what somebody outside
would see, so whatever else the machine does is in it: mind the load before. Nothing here is asserted."""

_METHOD = """\
`make bench` writes this page and `results.json`. Everything is measured in one run on one machine, ours and the peer
with the same partner, so the ratios carry over to other machines and the absolute figures do not. CPU is what the
kernel charged to the server's processes alone, user and system, by each process's CPU clock; load generator and
upstream are not counted. llm-proxy has everything on: a caller's key, limits, cache, ledger, JSON log, metrics; nginx
writes its access log; the gateways run as installed, one process each, the caller's key checked. Streams are
not buffered. Monit runs at a 1 s cycle and restarts all of llm-proxy by a start script; kills come at random points
of its cycle. Times to repair are medians, with the range behind them; asking goes on every millisecond over fresh
connections. Snapshots of traced memory are taken and compared in a fresh process a side, through the agent's calls and
with `take_snapshot` twice and `compare_to(…, "lineno")`, both at the lowest priority; what each takes is its peak above
that of a process which traces the same blocks and takes none, with the child's own pages at their most added to ours.
Nothing here is asserted: a missed aim is written down as missed; only that both name the same lines is."""
