"""What an answer means, and which provider comes next."""

from __future__ import annotations

import pytest

from proxy.routing.breaker import Circuit, State
from proxy.routing.order import Plan, plan
from proxy.routing.outcome import Fault, judge, retry_after_seconds

CLOSED = Circuit()


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (200, None),
        (400, None),
        (404, None),
        (422, None),
        (401, Fault.AUTH),
        (402, Fault.AUTH),
        (403, Fault.AUTH),
        (408, Fault.TIMEOUT),
        (429, Fault.QUOTA),
        (500, Fault.OUTAGE),
        (503, Fault.OUTAGE),
        (529, Fault.OUTAGE),
        (302, Fault.MALFORMED),
    ],
)
def test_judge_by_status(status: int, fault: Fault | None) -> None:
    """Each status has one class; the caller's own errors and successes are final."""
    failure = judge(status, {}, b"", {})
    assert (failure and failure.fault) == fault


@pytest.mark.parametrize("status", [400, 403, 500])
def test_judge_refusal_of_content_is_final(status: int) -> None:
    """A content filter's refusal is the answer, whatever its status: another provider is not asked."""
    assert judge(status, {}, b"", {"code": "content_filter"}) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "7", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e99"}, 3600.0),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    """The finest of the headers wins, nonsense is ignored, an absurd wait is bounded."""
    assert retry_after_seconds(headers) == seconds


def test_plan_prefers_closed_then_due_trials() -> None:
    """Closed circuits come in the configured order, then the trials that are due; forced ones are the last resort."""
    circuits = {
        "a": Circuit(State.OPEN, 0, 50.0, forced=True),
        "b": CLOSED,
        "c": Circuit(State.OPEN, 0, 10.0),
        "d": CLOSED,
        "e": Circuit(State.HALF_OPEN, 0, 99.0),
    }
    assert plan(list(circuits), circuits.__getitem__, 20.0) == Plan(("b", "d"), ("c",), ("c", "e", "a"))
