"""What an answer means."""

from __future__ import annotations

import orjson
import pytest

from proxy.routing.outcome import Failure, Fault, Refusal, Rejected, error_object, judge, retry_after_seconds

NEW_YEAR_2000 = 946684800.0


def told(**error: object) -> bytes:
    return orjson.dumps({"error": error})


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (401, Fault.AUTH),
        (402, Fault.QUOTA),
        (403, Fault.AUTH),
        (408, Fault.TIMEOUT),
        (429, Fault.QUOTA),
        (500, Fault.OUTAGE),
        (503, Fault.OUTAGE),
        (529, Fault.OUTAGE),
        (302, Fault.MALFORMED),
    ],
)
def test_judge_failures_by_status(status: int, fault: Fault) -> None:
    """Each status that is the provider's fault has one class."""
    found = judge(status, {}, b"")
    assert isinstance(found, Failure)
    assert found.fault is fault


@pytest.mark.parametrize("status", [400, 404, 405, 409, 413, 422])
def test_judge_callers_own_errors(status: int) -> None:
    """What the caller did wrong is a refusal of the request."""
    assert judge(status, {}, b"nonsense") == Rejected(Refusal.REQUEST, status, b"nonsense", str(status))


def test_judge_success() -> None:
    """A 2xx is neither a failure nor a refusal."""
    assert judge(200, {}, b"") is None


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, told(code="content_filter")),
        (403, told(code="content_policy_violation")),
        (500, told(type="content_filter")),
        (400, told(code="content_filter", innererror={"code": "ResponsibleAIPolicyViolation"})),
        (400, told(code=None, innererror={"code": "ResponsibleAIPolicyViolation"})),
        (400, told(message="Output blocked by content filtering policy", type="invalid_request_error")),
    ],
)
def test_judge_refusal_of_content(status: int, body: bytes) -> None:
    """A content filter's refusal is known by its code wherever that stands, whatever its status."""
    found = judge(status, {}, body)
    assert isinstance(found, Rejected)
    assert found.refusal is Refusal.CONTENT


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, told(code="context_length_exceeded", message="too long")),
        (400, told(message="This model's maximum context length is 4096 tokens.", code=None)),
        (400, told(type="invalid_request_error", message="prompt is too long: 210000 tokens > 200000 maximum")),
        (400, told(message="input length and `max_tokens` exceed context limit: 199000 + 8192 > 200000")),
        (400, told(message="The decoder prompt (length 9000) is longer than the maximum model length of 8192.")),
        (400, told(message="the request exceeds the available context size, try increasing it")),
        (413, told(message="Input is too long for requested model.")),
        (422, orjson.dumps({"error": "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000"})),
        (400, orjson.dumps({"object": "error", "message": "This model's maximum context length is 8 tokens."})),
    ],
)
def test_judge_context_too_long(status: int, body: bytes) -> None:
    """A request that is too long for the model is known by code or by the words of the servers in use."""
    found = judge(status, {}, body)
    assert isinstance(found, Rejected)
    assert found.refusal is Refusal.CONTEXT


@pytest.mark.parametrize(
    "body", [told(message="max_tokens is too large"), told(message="messages: field required"), b"", b"[1]", b'"x"']
)
def test_judge_does_not_take_every_400_for_a_context(body: bytes) -> None:
    """Another 400 stays an ordinary refusal."""
    found = judge(400, {}, body)
    assert isinstance(found, Rejected)
    assert found.refusal is Refusal.REQUEST


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (402, b""),
        (429, told(code="insufficient_quota", type="insufficient_quota")),
        (400, told(message="Your credit balance is too low to access the Anthropic API.")),
    ],
)
def test_judge_spent_key(status: int, body: bytes) -> None:
    """A key without money or quota is a failure of the key that no short pause mends."""
    found = judge(status, {}, body)
    assert isinstance(found, Failure)
    assert (found.fault, found.spent) == (Fault.QUOTA, True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "7", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "Sat, 01 Jan 2000 00:00:30 GMT"}, 30.0),
        ({"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}, 0.0),
        ({"retry-after": "tomorrow"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e99"}, 3600.0),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    """The finest of the headers wins, a date is a wait from now on, nonsense is ignored, an absurd wait is bounded."""
    assert retry_after_seconds(headers, NEW_YEAR_2000) == seconds


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"error": {"message": "m"}}', {"message": "m"}),
        (b'{"error": "m"}', {"message": "m"}),
        (b'{"detail": "m"}', {"message": "m"}),
        (b'{"detail": [1]}', {}),
        (b"<html>", {}),
        (b"[]", {}),
    ],
)
def test_error_object(body: bytes, error: dict[str, object]) -> None:
    """An error is found in whichever way it is told."""
    assert error_object(body) == error
