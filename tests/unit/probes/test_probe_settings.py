"""What the operator may write for a probe, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from watchdog.probes.http import HttpProbeSettings
from watchdog.probes.memory_leak import MemoryLeakProbeSettings
from watchdog.probes.process import ProcessProbeSettings
from watchdog.registry import Settings
from watchdog.system.services.child import ChildSettings

HTTP = {"kind": "http", "url": "http://127.0.0.1/"}


@pytest.mark.parametrize(
    ("written", "ranges"),
    [
        ([200], ((200, 200),)),
        (["2xx", 301], ((200, 299), (301, 301))),
        (["200-204", "404"], ((200, 204), (404, 404))),
    ],
)
def test_statuses_are_written_as_number_class_or_range(written: list[Any], ranges: tuple[tuple[int, int], ...]) -> None:
    """`200`, `2xx` and `200-204` mean what they say."""
    assert HttpProbeSettings.model_validate({**HTTP, "expected_status": written}).expected_status == ranges


@pytest.mark.parametrize(
    ("model", "data", "complaint"),
    [
        (HttpProbeSettings, {**HTTP, "expected_status": ["6xx"]}, "expected a status such as"),
        (HttpProbeSettings, {**HTTP, "expected_status": ["299-200"]}, "expected a status such as"),
        (HttpProbeSettings, {**HTTP, "url": "127.0.0.1:8000"}, "expected a URL such as"),
        (HttpProbeSettings, {**HTTP, "body_matches": "("}, "not a regular expression"),
        (HttpProbeSettings, {**HTTP, "verify": False}, "Extra inputs"),
        (HttpProbeSettings, {**HTTP, "interval": "10ms"}, "greater than or equal to 0.05"),
        (ProcessProbeSettings, {"kind": "process"}, "exactly one of"),
        (ProcessProbeSettings, {"kind": "process", "pidfile": "/x", "executable": "y"}, "exactly one of"),
        (
            ProcessProbeSettings,
            {"kind": "process", "service": "s", "pidfile": "/x", "executable": "y"},
            "only one of",
        ),
        (MemoryLeakProbeSettings, {"kind": "memory_leak", "window": "10m"}, "min_window is longer than window"),
        (MemoryLeakProbeSettings, {"kind": "memory_leak", "interval": "1s"}, "more than 2880 intervals"),
        (ChildSettings, {"kind": "child", "argv": []}, "at least 1 item"),
        (
            ChildSettings,
            {"kind": "child", "argv": ["x"], "proxy": {"url": "http://x", "master_socket": "/s", "key": "k"}},
            "proxy.key",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(model: type[Settings], data: dict[str, Any], complaint: str) -> None:
    """Each mistake is told by name when the configuration is read."""
    with pytest.raises(ValidationError, match=complaint):
        model.model_validate(data)


def test_a_demonstration_may_shorten_the_window() -> None:
    """Seconds instead of hours are allowed when both windows and the interval say so."""
    settings = MemoryLeakProbeSettings.model_validate(
        {"kind": "memory_leak", "interval": "500ms", "window": "1m", "min_window": "5s"}
    )
    assert (settings.window, settings.min_window) == (60.0, 5.0)
