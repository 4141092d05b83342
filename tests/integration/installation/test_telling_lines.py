"""What is shown of a journal when an installation is not well."""

from __future__ import annotations

from watchdog.installation.systemd_steps import telling

ROUND = """\
Starting llm-proxy.service - llm-proxy, an OpenAI-compatible proxy...
Traceback (most recent call last):
  File "/opt/proxywatch/bin/llm-proxy", line 3, in <module>
    from proxy.__main__ import main
    ^^^^^^^^^^^
RuntimeError: this release cannot serve
llm-proxy.service: Main process exited, code=exited, status=1/FAILURE
llm-proxy.service: Failed with result 'exit-code'.
Failed to start llm-proxy.service - llm-proxy, an OpenAI-compatible proxy.
llm-proxy.service: Consumed 1.323s CPU time.
llm-proxy.service: Scheduled restart job, restart counter is at 1.
"""


def test_the_reason_is_shown_once_and_systemds_chatter_is_not() -> None:
    """Of ten starts that failed alike a person sees the error and how the process ended, and not ten times."""
    assert telling(ROUND.splitlines() * 10) == [
        "Traceback (most recent call last):",
        "    from proxy.__main__ import main",
        "RuntimeError: this release cannot serve",
        "llm-proxy.service: Main process exited, code=exited, status=1/FAILURE",
    ]


def test_chatter_alone_is_better_than_nothing() -> None:
    """A unit that never came to say anything is shown with what systemd said of it."""
    assert telling(["", "Failed to start x.service - x."]) == ["Failed to start x.service - x."]
    assert telling([]) == []
