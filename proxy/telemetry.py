"""What a settled request adds to the metrics, by the names of OpenTelemetry's conventions for generative AI.

Semantic conventions, gen-ai metrics (status: development): names, units, attributes and bucket bounds are theirs; dots
become underscores and a unit becomes a suffix, as Prometheus has it. Every label value is one of a bounded set: models
are those that the configuration names, everything else is `other`.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.call import Account, Operation
from proxy.metrics import OTHER, Counter, CounterSeries, Histogram, HistogramSeries, Metrics
from proxy.providers.kinds.local import DEMO_MODELS
from proxy.settings import Settings

NONE = "none"
"""The provider of a request that none answered."""
DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKEN_BUCKETS = tuple(4.0**power for power in range(14))
FIRST_TOKEN_BUCKETS = (*(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),)
PER_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_LABELS = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_response_model")
_OPERATIONS: dict[Operation, str] = {operation: operation.value for operation in Operation} | {
    Operation.MESSAGES: Operation.CHAT.value
}


def known_models(settings: Settings) -> frozenset[str]:
    """Every model that the configuration names: names, aliases, and what providers call them."""
    names = {model for provider in settings.providers for model in provider.models}
    if any(provider.kind == "local" and not provider.models for provider in settings.providers):
        names.update(DEMO_MODELS)
    for model in settings.models:
        names.update((model.name, *model.aliases))
        names.update(route.model for route in model.routes if route.model is not None)
    return frozenset(names)


@dataclass(frozen=True, slots=True)
class _Series:
    """All that requests of one kind count in."""

    duration: HistogramSeries
    input_tokens: HistogramSeries
    output_tokens: HistogramSeries
    first_token: HistogramSeries
    per_token: HistogramSeries
    cost: CounterSeries


class Telemetry:
    """One worker's share of the metrics."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._models = known_models(settings)
        self._series: dict[tuple[Operation, str | None, str, str | None], _Series] = {}
        self._failed: dict[tuple[Operation, str | None, str, str], HistogramSeries] = {}
        self._duration: Histogram = metrics.histogram(
            "gen_ai_client_operation_duration_seconds",
            "Of requests for a model, until the last byte; answers from the cache left out.",
            DURATION_BUCKETS,
            (*_LABELS, "error_type"),
        )
        self._tokens: Histogram = metrics.histogram(
            "gen_ai_client_token_usage", "Tokens per request.", TOKEN_BUCKETS, (*_LABELS, "gen_ai_token_type")
        )
        self._first_token: Histogram = metrics.histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Until the first content of a stream.",
            FIRST_TOKEN_BUCKETS,
            _LABELS,
        )
        self._per_token: Histogram = metrics.histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Of a stream, for each token after the first.",
            PER_TOKEN_BUCKETS,
            _LABELS,
        )
        self._cost: Counter = metrics.counter(
            "llm_proxy_cost_usd_total", "What answers cost, by the configured prices.", ("provider", "model")
        )

    def observe(self, account: Account, status: int, seconds: float, began_to_answer: float | None) -> None:
        """Counts one request that ended. `began_to_answer`: seconds until a stream's first content, if it was one.

        `error_type` is the status, or how a stream that began well was ended (`stream_cut` and the like).
        """
        asked = account.model_asked if account.model_asked in self._models else OTHER
        if status >= 400 or account.error is not None:
            self._fail(account, asked, str(status) if status >= 400 else account.error or OTHER).observe(seconds)
            return
        answered = account.model if account.model is None or account.model in self._models else OTHER
        key = (account.operation, account.provider, asked, answered)
        series = self._series.get(key) or self._resolve(key)
        series.duration.observe(seconds)
        usage = account.usage
        if usage is not None:
            series.input_tokens.observe(usage.input)
            series.output_tokens.observe(usage.output)
            if account.cost_usd:
                series.cost.inc(account.cost_usd)
        if began_to_answer is not None:
            series.first_token.observe(began_to_answer)
            if usage is not None and usage.output > 1:
                series.per_token.observe(max(0.0, seconds - began_to_answer) / (usage.output - 1))

    def _fail(self, account: Account, asked: str, error: str) -> HistogramSeries:
        key = (account.operation, account.provider, asked, error)
        series = self._failed.get(key)
        if series is None:
            labels = _OPERATIONS[account.operation], account.provider or NONE, asked, ""
            series = self._failed[key] = self._duration.at(*labels, error)
        return series

    def _resolve(self, key: tuple[Operation, str | None, str, str | None]) -> _Series:
        operation, provider, asked, answered = key
        labels = _OPERATIONS[operation], provider or NONE, asked, answered or ""
        series = self._series[key] = _Series(
            self._duration.at(*labels, ""),
            self._tokens.at(*labels, "input"),
            self._tokens.at(*labels, "output"),
            self._first_token.at(*labels),
            self._per_token.at(*labels),
            self._cost.at(provider or NONE, answered or asked),
        )
        return series
