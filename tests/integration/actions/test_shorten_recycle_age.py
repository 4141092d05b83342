"""The age of workers, shortened for a time through a real llm-proxy."""

from __future__ import annotations

from typing import Any

from watchdog.core.model import Outcome
from watchdog.system.proxy_api import ProxyApi


async def test_it_is_ordered_recognised_and_ended(make: Any, proxy: ProxyApi) -> None:
    """The master names the order and why; the world tells «not done» before and «done» after, also of a second one
    over the first; with a duration of nothing it is over, and that is recognised as well."""
    action = make("shorten_recycle_age", "service:llm-proxy", proxy, labels={"alertname": "Leak"}, age="2h")
    for _ in range(2):
        survey = await action.survey()
        assert (await action.observe(survey)).outcome is Outcome.NOT_DONE
        assert await action.perform(survey) == "workers are replaced after 2h at the latest"
        assert (await action.observe(survey)).outcome is Outcome.DONE
    told = (await proxy.status()).recycle_age
    assert told is not None
    assert told.ordered is not None
    assert (told.seconds, told.ordered.reason) == (7200.0, "proxywatch: Leak, service:llm-proxy")

    back = make("shorten_recycle_age", "service:llm-proxy", proxy, duration="0s")
    survey = await back.survey()
    assert (await back.observe(survey)).outcome is Outcome.NOT_DONE
    assert await back.perform(survey) == "workers may become any age"
    assert (await back.observe(survey)).outcome is Outcome.DONE
