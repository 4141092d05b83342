"""Plots as inline SVG that follow the page's colours: lines over time, and bars. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

WIDTH, HEIGHT = 720, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 16, 14, 28
_BAR, _GAP = 20, 8
_TICKS = 5
_LABEL = 44

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Curve:
    """A line with a name; `style` is a class of the page: `c0` to `c5`, `trend`, `limit`."""

    name: str
    points: Sequence[Point]
    style: str


def lines(
    title: str,
    curves: Sequence[Curve],
    value_text: Callable[[float], str],
    *,
    spans: Iterable[tuple[float, float, str]] = (),
    base: float = 1.0,
    whole: bool = False,
) -> str:
    """Curves over time (epoch seconds, UTC), with named spans shaded; empty if there is nothing to draw. Ticks are
    round multiples of `base`, never a part of it if `whole`."""
    points = [point for curve in curves for point in curve.points]
    if len({at for at, _ in points}) < 2:
        return ""
    left, right = min(at for at, _ in points), max(at for at, _ in points)
    ticks = _ticks(min(value for _, value in points), max(value for _, value in points), base, whole=whole)
    low, high = ticks[0], ticks[-1]

    def x(at: float) -> float:
        return _LEFT + (at - left) / (right - left) * (WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    parts = []
    for start, end, name in spans:
        begin, stop = x(max(start, left)), x(min(end, right))
        if stop > begin:
            parts.append(
                f'<rect class="span" x="{begin:.1f}" y="{_TOP}" width="{stop - begin:.1f}"'
                f' height="{HEIGHT - _TOP - _BOTTOM}"><title>{escape(name)}</title></rect>'
            )
    edge, bottom = WIDTH - _RIGHT, HEIGHT - 8
    parts += [
        f'<path class="grid" d="M{_LEFT} {y(tick):.1f}H{edge}"/>'
        + _text(_LEFT - 8, y(tick) + 4, "end", value_text(tick))
        for tick in ticks
    ]
    for number, anchor in enumerate(("start", "middle", "middle", "middle", "end")):
        at = left + (right - left) * number / 4
        parts.append(_text(x(at), bottom, anchor, _time(at, right - left)))
    for curve in curves:
        path = "L".join(f"{x(at):.1f} {y(value):.1f}" for at, value in curve.points)
        parts.append(f'<path class="curve {curve.style}" d="M{path}"><title>{escape(curve.name)}</title></path>')
    return _figure(title, "".join(parts), HEIGHT, _legend(curves))


def bars(title: str, rows: Sequence[tuple[str, float, str]]) -> str:
    """`(label, value, text)` as horizontal bars, in the order given; empty if there are none above 0."""
    rows = [row for row in rows if row[1] > 0]
    if not rows:
        return ""
    left, room = 330, WIDTH - 330 - 130
    most = max(value for _, value, _ in rows)
    parts = []
    for number, (label, value, text) in enumerate(rows):
        top = number * (_BAR + _GAP) + _GAP
        size = max(1.0, value / most * room)
        short = label if len(label) <= _LABEL else "…" + label[-(_LABEL - 1) :]
        parts.append(
            f'<text class="label" x="{left - 8}" y="{top + 14}" text-anchor="end">{escape(short)}'
            f"<title>{escape(label)}</title></text>"
            f'<rect class="bar" x="{left}" y="{top}" width="{size:.1f}" height="{_BAR}" rx="3"/>'
            f'<text class="tick" x="{left + size + 8:.1f}" y="{top + 14}">{escape(text)}</text>'
        )
    return _figure(title, "".join(parts), len(rows) * (_BAR + _GAP) + _GAP, "")


def _figure(title: str, content: str, height: int, legend: str) -> str:
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {height}" role="img"'
        f' aria-label="{escape(title)}">{content}</svg>{legend}</figure>'
    )


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _legend(curves: Sequence[Curve]) -> str:
    items = "".join(f'<li class="{curve.style}">{escape(curve.name)}</li>' for curve in curves)
    return f'<ul class="legend">{items}</ul>'


def _ticks(low: float, high: float, base: float, *, whole: bool = False) -> list[float]:
    """Round values around the whole range; two at least."""
    span = max(high - low, abs(high) * 0.02, base * 1e-6)
    raw = span / (_TICKS - 1) / base
    power = 10 ** math.floor(math.log10(raw))
    step = base * next((power * factor for factor in (1, 2, 5) if raw <= power * factor), power * 10)
    step = max(step, base) if whole else step
    first = math.floor(low / step)
    last = max(math.ceil(high / step), first + 1)
    return [number * step for number in range(first, last + 1)]


def _time(at: float, span: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime(
        "%H:%M:%S" if span < 3600 else "%H:%M" if span < 86400 else "%d %H:%M"
    )
