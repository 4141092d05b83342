"""A finding as one HTML file: no script, nothing loaded from elsewhere, light and dark, readable on paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape

from watchdog.memory.findings import Finding, LeakKind, Observation, Place, Reading, Verdict, confidence_word
from watchdog.memory.plots import Curve, bars, lines
from watchdog.memory.verdict import growing_types
from watchdog.system.memory_answers import Comparison
from watchdog.units import format_bytes, format_duration

_MIB = 1024.0 * 1024.0
_CURVES = 6
_TYPES = 12

_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--soft:#57606a;--line:#d8dee4;--card:#f6f8fa;--hit:#fff4d6;
--c0:#0969da;--c1:#bc4c00;--c2:#1a7f37;--c3:#8250df;--c4:#bf3989;--c5:#6e7781;--trend:#cf222e;--limit:#cf222e;
--span:#0969da22}
@media(prefers-color-scheme:dark){:root{--bg:#0d1117;--fg:#e6edf3;--soft:#9198a1;--line:#30363d;--card:#161b22;
--hit:#3b2f0b;--c0:#58a6ff;--c1:#f0883e;--c2:#3fb950;--c3:#bc8cff;--c4:#f778ba;--c5:#9198a1;--trend:#ff7b72;
--limit:#ff7b72;--span:#58a6ff26}}
body{background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.4rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}
p.soft,dt{color:var(--soft)}code,pre{font:14px/1.5 ui-monospace,monospace;overflow-wrap:anywhere}
.verdict{background:var(--hit);border-left:4px solid var(--c1);padding:.8rem 1rem;margin:1rem 0;font-size:1.1rem;
overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(11rem,1fr));gap:.6rem;margin:1rem 0}
dl>div{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:.4rem .7rem}
dd{margin:0;font-variant-numeric:tabular-nums}
table{border-collapse:collapse;width:100%;font-size:.9rem;display:block;overflow-x:auto}
th,td{border-bottom:1px solid var(--line);padding:.3rem .6rem;text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
pre{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:.6rem;white-space:pre-wrap}
figure{margin:1rem 0;border:1px solid var(--line);border-radius:6px;padding:.6rem}
figcaption{color:var(--soft);font-size:.9rem}svg{width:100%;height:auto;display:block}
.grid{stroke:var(--line);stroke-width:1;fill:none}.tick,.label{fill:var(--soft);font:12px system-ui,sans-serif}
.label{fill:var(--fg);font:12px ui-monospace,monospace}.curve{fill:none;stroke-width:2;stroke-linejoin:round}
.bar{fill:var(--c0)}.span{fill:var(--span)}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;margin:.3rem 0 0;padding:0;font-size:.85rem}
.legend li::before{content:"";display:inline-block;width:1.1rem;height:3px;margin-right:.4rem;vertical-align:middle;
background:currentColor}.legend li{color:var(--fg);overflow-wrap:anywhere}
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}.c4{stroke:var(--c4)}
.c5{stroke:var(--c5)}.trend{stroke:var(--trend);stroke-dasharray:6 4}.limit{stroke:var(--limit);stroke-dasharray:2 4}
.legend .c0::before{background:var(--c0)}.legend .c1::before{background:var(--c1)}
.legend .c2::before{background:var(--c2)}.legend .c3::before{background:var(--c3)}
.legend .c4::before{background:var(--c4)}.legend .c5::before{background:var(--c5)}
.legend .trend::before,.legend .limit::before{background:var(--trend)}
@media print{body{max-width:none;margin:0}}
"""


def report(finding: Finding) -> str:
    """The whole page."""
    seen, verdict = finding.observation, finding.verdict
    title = f"What leaks in {seen.target}"
    body = "\n".join(
        part
        for part in (
            f"<h1>{escape(title)}</h1>",
            _when(finding),
            f'<p class="verdict">{escape(verdict.sentence)}</p>',
            _facts(verdict, seen),
            _section("How it grew", _memory_plot(finding)),
            _section("Which lines", _places_plot(verdict), _curves_plot(seen, verdict), _table(verdict.places)),
            _section("Where they stand", *(_source(place) for place in verdict.places)),
            _section("What else it holds", _counts_plot(seen)),
            _section("Which objects became more", _census_plot(seen)),
            _section("What else was seen", _list(verdict.remarks)),
        )
        if part
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _when(finding: Finding) -> str:
    seen = finding.observation
    long, frames = (
        format_duration(seen.ended_at - seen.began_at),
        "1 frame" if seen.frames == 1 else f"{seen.frames} frames",
    )
    said = f"Looked at from {_moment(seen.began_at)} for {long}, {frames} of each allocation kept; {finding.name}"
    return f'<p class="soft">{escape(said)}</p>'


def _facts(verdict: Verdict, seen: Observation) -> str:
    trend = seen.trend
    pairs: list[tuple[str, str | None]] = [
        ("Kind", str(verdict.kind)),
        ("Confidence", f"{confidence_word(verdict.confidence)} ({verdict.confidence:.0%})"),
        ("An hour", _bytes(verdict.bytes_per_hour)),
        ("A request", _bytes(verdict.bytes_per_request)),
        ("Explained", None if verdict.explained is None else f"{verdict.explained:.0%} of the growth"),
        ("Limit reached in", None if verdict.seconds_to_limit is None else format_duration(verdict.seconds_to_limit)),
        ("Shape of the series", trend.shape.replace("_", " ") if trend.shape else None),
        ("Longest pause caused", f"{seen.longest_pause_ms:.0f} ms"),
    ]
    cards = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs if value)
    return f"<dl>{cards}</dl>"


def _memory_plot(finding: Finding) -> str:
    """Anonymous memory with the trend's line and the limit that it implies, and when the process was looked at."""
    seen = finding.observation
    readings = [(reading.at, float(reading.memory.anon_bytes)) for reading in (*seen.quiet, *seen.traced)]
    history = sorted({*finding.history}) or readings
    curves = [Curve("anonymous memory", history, "c0")]
    slope = finding.verdict.bytes_per_hour
    if slope is not None and len(history) > 1:
        # Through the middle of what was measured before anything was traced, which swells the process.
        before = [point for point in history if point[0] <= seen.began_at] or history
        middle = sorted(before)[len(before) // 2]
        start, end = history[0][0], history[-1][0]
        line = [(at, middle[1] + (at - middle[0]) * slope / 3600) for at in (start, end)]
        curves.append(Curve(f"trend, {format_bytes(slope)} an hour", line, "trend"))
        left = finding.verdict.seconds_to_limit
        if left is not None:
            limit = history[-1][1] + slope * left / 3600
            if limit < 4 * max(value for _, value in history):
                curves.append(Curve(f"limit, {format_bytes(limit)}", [(start, limit), (end, limit)], "limit"))
    tracing = (seen.traced[0].at, seen.traced[-1].at, "allocations traced") if seen.traced else None
    return lines(
        "Anonymous memory (shaded: allocations were traced, which itself takes memory)",
        curves,
        format_bytes,
        spans=[tracing] if tracing else (),
        base=_MIB,
    )


def _places_plot(verdict: Verdict) -> str:
    rows = [
        (place.where, float(place.grown_bytes or place.grown_count), _grown(place))
        for place in verdict.places[:_CURVES]
    ]
    return bars("Growth between the first snapshot and the last", rows)


def _curves_plot(seen: Observation, verdict: Verdict) -> str:
    curves = [
        Curve(place.where, _growth_of(place, seen.comparisons), f"c{number}")
        for number, place in enumerate([place for place in verdict.places if place.grown_bytes][:_CURVES])
    ]
    most = max((value for curve in curves for _, value in curve.points), default=0.0)
    base = _MIB if most >= 2 * _MIB else 1024.0
    return lines("Growth from snapshot to snapshot", curves, format_bytes, base=base)


def _growth_of(place: Place, comparisons: Sequence[Comparison]) -> list[tuple[float, float]]:
    if not comparisons:
        return []
    total, points = 0, [(comparisons[0].older.taken_at, 0.0)]
    for each in comparisons:
        total += sum(
            line.grown_bytes
            for line in each.lines
            if (line.file, line.line) == (place.file, place.line) or (place.file, place.line) in line.traceback
        )
        points.append((each.newer.taken_at, float(total)))
    return points


def _counts_plot(seen: Observation) -> str:
    """Descriptors, sockets, tasks and threads over all readings, where any of them changed."""
    readings = (*seen.quiet, *seen.traced)
    names = (LeakKind.DESCRIPTORS, LeakKind.SOCKETS, LeakKind.TASKS, LeakKind.THREADS)
    curves = [
        Curve(str(name), [(reading.at, _count(reading, name)) for reading in readings], f"c{number}")
        for number, name in enumerate(names)
    ]
    changed = [curve for curve in curves if len({value for _, value in curve.points}) > 1]
    return lines("Descriptors, sockets, tasks and threads", changed, lambda value: f"{value:,.0f}", whole=True)


def _count(reading: Reading, name: str) -> float:
    return float(getattr(reading.memory, name))


def _census_plot(seen: Observation) -> str:
    if len(seen.censuses) < 2:
        return ""
    types = growing_types(seen)[:_TYPES]
    return bars(
        "Living objects by type, more in the second census than in the first",
        [(name, float(count), f"+{count:,}") for name, count in types],
    )


def _table(places: Sequence[Place]) -> str:
    if not places:
        return ""
    names = (("", "Line"), ("", "Package"), ("n", "Bytes"), ("n", "Objects"), ("n", "An hour"), ("n", "A request"))
    head = "<tr>" + "".join(f'<th class="{style}">{name}' for style, name in names) + "<th>Confidence"
    rows = "".join(
        f"<tr><td><code>{escape(place.where)}</code>{_remark(place)}<td>{escape(place.package)}"
        f"<td class=n>{_bytes(place.grown_bytes) if place.grown_bytes else ''}<td class=n>{place.grown_count:,}"
        f"<td class=n>{_bytes(place.bytes_per_hour) or ''}<td class=n>{_bytes(place.bytes_per_request) or ''}"
        f"<td>{confidence_word(place.confidence)} ({place.confidence:.0%})"
        for place in places
    )
    return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"


def _remark(place: Place) -> str:
    return f"<br><small>{escape(place.remark)}</small>" if place.remark else ""


def _source(place: Place) -> str:
    if not place.source and len(place.traceback) < 2:
        return ""
    function = f" in {place.function}" if place.function else ""
    calls = "".join(f"\n  called from {file}:{line}" for file, line in place.traceback[1:])
    return f"<p><code>{escape(place.where)}{escape(function)}</code></p><pre>{escape(place.source + calls)}</pre>"


def _section(title: str, *parts: str) -> str:
    content = "\n".join(part for part in parts if part)
    return f"<h2>{escape(title)}</h2>\n{content}" if content else ""


def _list(items: Iterable[str]) -> str:
    points = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<ul>{points}</ul>" if points else ""


def _grown(place: Place) -> str:
    return f"+{format_bytes(place.grown_bytes)}" if place.grown_bytes else f"+{place.grown_count:,}"


def _bytes(value: float | None) -> str | None:
    return None if value is None else format_bytes(value)


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
