"""The line by which the agent says how it is: in its log at the start, and to systemd."""

from __future__ import annotations

from small_daemon import SmallDaemon

from watchdog.api.headline import headline


async def test_it_says_all_well_only_when_all_is_well(small: SmallDaemon) -> None:
    """A service that could not be started, a probe that measures nothing and an incident each have their word."""
    assert headline(small.parts).startswith("all well; 1 services, 1 probes, 3 rules, 2 playbooks")
    await small.post("/v1/probes/front/run")
    assert headline(small.parts).startswith("1 probe(s) measure nothing: front; 1 services")
    small.parts.unstarted["llm-proxy"] = "llm-proxy: ended during its start: exit status 1"
    assert headline(small.parts).startswith("not started: llm-proxy: ended during its start: exit status 1; 1 probe(s)")
    small.measured("proxywatch_service_up", 1, service="llm-proxy")
    assert headline(small.parts).startswith("1 probe(s)")
    small.measured("strange_ratio", 2)
    assert headline(small.parts).startswith("1 unresolved incident(s): Strange; 1 probe(s)")
    small.parts.ready = False
    assert "starting for " in headline(small.parts)
