"""PromQL: `parse` an expression once, `evaluate` it over a series store at any time."""

from watchdog.metrics.promql.evaluator import Result, evaluate
from watchdog.metrics.promql.parser import Query, parse

__all__ = ["Query", "Result", "evaluate", "parse"]
