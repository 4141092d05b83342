"""PURE. Metric families as Prometheus text or OpenMetrics, and figures read out of their histograms."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from proxy.metrics import Families, Family

PROMETHEUS = b"text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = b"application/openmetrics-text; version=1.0.0; charset=utf-8"


def wants(accept: str) -> bytes | None:
    """The exposition format that an Accept header asks for, or None for JSON, which `*/*` and no header mean."""
    offers = [part.split(";")[0].strip().lower() for part in accept.split(",")]
    if "application/openmetrics-text" in offers:
        return OPENMETRICS
    if "text/plain" in offers or "application/vnd.google.protobuf" in offers:
        return PROMETHEUS
    return None


def text(families: Families, content_type: bytes) -> bytes:
    """The exposition of all families. OpenMetrics names a counter's family without `_total` and ends in `# EOF`."""
    openmetrics = content_type == OPENMETRICS
    lines: list[str] = []
    for family in families.values():
        name = family.name.removesuffix("_total") if openmetrics and family.kind == "counter" else family.name
        lines.append(f"# HELP {name} {_escape_help(family.help)}")
        lines.append(f"# TYPE {name} {family.kind}")
        total = f"{name}_total" if openmetrics and family.kind == "counter" else name
        for values, cells in sorted(family.series.items()):
            pairs = list(zip(family.labels, values, strict=True))
            if family.kind == "histogram":
                lines.extend(_histogram(family, pairs, cells))
            else:
                lines.append(f"{total}{_labels(pairs)} {_number(cells[0])}")
    if openmetrics:
        lines.append("# EOF")
    return ("\n".join(lines) + "\n").encode()


def _histogram(family: Family, pairs: list[tuple[str, str]], cells: Sequence[float]) -> Iterator[str]:
    count = 0.0
    for bound, cell in zip((*family.buckets, math.inf), cells, strict=False):
        count += cell
        yield f"{family.name}_bucket{_labels([*pairs, ('le', _number(bound))])} {_number(count)}"
    yield f"{family.name}_sum{_labels(pairs)} {_number(cells[-1])}"
    yield f"{family.name}_count{_labels(pairs)} {_number(count)}"


def _labels(pairs: list[tuple[str, str]]) -> str:
    if not pairs:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in pairs) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _escape_help(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(value)


def quantile(q: float, buckets: Sequence[float], counts: Sequence[float]) -> float | None:
    """The q-quantile by linear interpolation within its bucket, as PromQL's histogram_quantile does.

    `counts` has one count per bucket and one for what lies above them all; None if nothing was counted.
    """
    total = sum(counts)
    if total <= 0:
        return None
    rank, seen, lower = q * total, 0.0, 0.0
    for bound, count in zip(buckets, counts, strict=False):
        if count and seen + count >= rank:
            return lower + (bound - lower) * (rank - seen) / count
        seen += count
        lower = bound
    return buckets[-1]
