"""What requests add to the metrics: names, labels from bounded sets, and nothing for what was not there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy import metrics
from proxy.call import Account, Operation, Usage
from proxy.metrics import Families, Metrics
from proxy.settings import Settings
from proxy.telemetry import Telemetry

DURATION = "gen_ai_client_operation_duration_seconds"
TOKENS = "gen_ai_client_token_usage"
FIRST = "gen_ai_server_time_to_first_token_seconds"
EACH = "gen_ai_server_time_per_output_token_seconds"


@dataclass
class Observed:
    """Telemetry, and what is to be read of it."""

    telemetry: Telemetry
    directory: Path

    def families(self) -> Families:
        return metrics.read(self.directory)

    def sums(self, name: str) -> dict[tuple[str, ...], float]:
        """By labels: a histogram's sum, a counter's value."""
        return {labels: round(cells[-1], 9) for labels, cells in self.families()[name].series.items()}


@pytest.fixture
def observed(tmp_path: Path) -> Iterator[Observed]:
    settings = Settings.model_validate(
        {
            "providers": [{"name": "p", "kind": "local", "port": 1, "models": ["listed"]}],
            "models": [{"name": "large", "aliases": ["big"], "routes": [{"provider": "p", "model": "large-2"}]}],
        }
    )
    measured = Metrics(tmp_path, "w0")
    yield Observed(Telemetry(settings, measured), tmp_path)
    measured.close()


def account(operation: Operation = Operation.CHAT, asked: str = "large", **known: object) -> Account:
    """What one request came to."""
    made = Account(operation, asked, stream=False, provider="p", model="large-2", usage=Usage(100, 20), cost_usd=0.5)
    for name, value in known.items():
        setattr(made, name, value)
    return made


def test_a_whole_answer(observed: Observed) -> None:
    """Duration, tokens of both kinds and cost are counted under the names of OpenTelemetry; a first token is not."""
    observed.telemetry.observe(account(), 200, 1.5, None)
    observed.telemetry.observe(account(Operation.MESSAGES), 200, 0.5, None)
    known = ("chat", "p", "large", "large-2")
    assert observed.sums(DURATION) == {(*known, ""): 2.0}
    assert observed.sums(TOKENS) == {(*known, "input"): 200.0, (*known, "output"): 40.0}
    assert observed.sums("llm_proxy_cost_usd_total") == {("p", "large-2"): 1.0}
    assert observed.families()[DURATION].labels == (
        "gen_ai_operation_name",
        "gen_ai_provider_name",
        "gen_ai_request_model",
        "gen_ai_response_model",
        "error_type",
    )
    assert sum(observed.families()[FIRST].series[known][:-1]) == 0


def test_a_stream(observed: Observed) -> None:
    """The first token's time is counted, and the rest of the time per token after it."""
    observed.telemetry.observe(account(usage=Usage(5, 11)), 200, 2.5, 0.5)
    observed.telemetry.observe(account(usage=Usage(5, 1)), 200, 2.5, 0.5)
    known = ("chat", "p", "large", "large-2")
    assert observed.sums(FIRST) == {known: 1.0}
    assert observed.sums(EACH) == {known: 0.2}


def test_a_failure(observed: Observed) -> None:
    """It is counted by its status, or by how its stream ended, with no tokens; a request that nobody answered has the
    provider `none`."""
    observed.telemetry.observe(account(provider=None, model=None, usage=None), 502, 1.0, None)
    observed.telemetry.observe(account(), 499, 1.0, None)
    observed.telemetry.observe(account(error="stream_cut"), 200, 3.0, 0.5)
    assert observed.sums(DURATION) == {
        ("chat", "none", "large", "", "502"): 1.0,
        ("chat", "p", "large", "", "499"): 1.0,
        ("chat", "p", "large", "", "stream_cut"): 3.0,
    }
    assert TOKENS not in observed.families()


def test_names_of_strangers_make_no_series(observed: Observed) -> None:
    """Models that the configuration does not name are `other`, in requests and in answers, however many come."""
    for number in range(1000):
        observed.telemetry.observe(account(asked=f"junk-{number}", model=f"junk-{number}"), 200, 0.001, None)
        observed.telemetry.observe(account(asked=f"junk-{number}"), 404, 0.001, None)
    for asked in ("listed", "big"):
        observed.telemetry.observe(account(asked=asked, model=asked), 200, 0.001, None)
    assert set(observed.sums(DURATION)) == {
        ("chat", "p", "other", "other", ""),
        ("chat", "p", "other", "", "404"),
        ("chat", "p", "listed", "listed", ""),
        ("chat", "p", "big", "big", ""),
    }
    assert observed.sums("llm_proxy_cost_usd_total")["p", "other"] == 500.0
