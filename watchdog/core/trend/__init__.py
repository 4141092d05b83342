"""Is something really growing, what kind of growth is it, how fast, and when is the limit reached."""

from __future__ import annotations

from watchdog.core.trend.judgement import Judgement, Outlook, Point, Shape, until
from watchdog.core.trend.judging import judge
from watchdog.core.trend.slope import MAX_POINTS, Interval, Line, Trend, mann_kendall, sen_interval, theil_sen

__all__ = [
    "MAX_POINTS",
    "Interval",
    "Judgement",
    "Line",
    "Outlook",
    "Point",
    "Shape",
    "Trend",
    "judge",
    "mann_kendall",
    "sen_interval",
    "theil_sen",
    "until",
]
