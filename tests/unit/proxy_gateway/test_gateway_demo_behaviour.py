"""What the demo upstream may be told."""

from __future__ import annotations

import pytest

from proxy.demo.behaviour import Behaviour, parse_behaviour


def test_demo_behaviour_is_read() -> None:
    """A behaviour names a mode and its numbers."""
    wanted = b'{"mode": "cut", "after_chunks": 3, "for_requests": 1}'
    assert parse_behaviour(wanted) == Behaviour(mode="cut", after_chunks=3, for_requests=1)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not JSON"),
        (b"[]", "expected a JSON object"),
        (b"{}", "mode: missing; expected one of ok"),
        (b'{"mode": "sad"}', "mode: expected one of ok, slow, .*not 'sad'"),
        (b'{"mode": "ok", "delay": 1}', "delay: unknown key; allowed are mode, "),
        (b'{"mode": "slow", "delay_seconds": "2"}', "delay_seconds: expected seconds"),
        (b'{"mode": "ok", "for_requests": 0}', "for_requests: expected a positive"),
        (b'{"mode": "ok", "chunks": true}', "chunks: expected a positive"),
    ],
)
def test_demo_bad_behaviour_is_named(body: bytes, says: str) -> None:
    """A wrong key or value is named with what is allowed."""
    with pytest.raises(ValueError, match=says):
        parse_behaviour(body)
