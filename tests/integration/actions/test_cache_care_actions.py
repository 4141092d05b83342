"""Warming paused, wanted and refused, and a compaction, through a real llm-proxy."""

from __future__ import annotations

from typing import Any

import pytest

from watchdog.core.model import Outcome
from watchdog.errors import ActionError
from watchdog.system.proxy_api import ProxyApi

CACHE = "cache:llm-proxy"


async def test_warming_is_paused_and_goes_on(make: Any, proxy: ProxyApi) -> None:
    """The world says «not done» before and «done» after, of a pause, of another over it, and of its end."""
    pause, resume = make("pause_warming", CACHE, proxy, duration="1h"), make("pause_warming", CACHE, proxy, duration=0)
    for action, paused in ((pause, True), (pause, True), (resume, False)):
        survey = await action.survey()
        assert (await action.observe(survey)).outcome is Outcome.NOT_DONE
        await action.perform(survey)
        assert (await action.observe(survey)).outcome is Outcome.DONE
        assert (await proxy.warming()).paused is paused


async def test_what_the_configuration_has_off_is_not_warmed(make: Any, proxy: ProxyApi) -> None:
    """It fails, for good, instead of telling of a round that never comes."""
    warm = make("warm_cache", CACHE, proxy)
    survey = await warm.survey()
    with pytest.raises(ActionError, match="warming is off in the proxy's configuration") as caught:
        await warm.perform(survey)
    assert caught.value.permanent
    assert (await warm.observe(survey)).outcome is Outcome.NOT_DONE


async def test_compaction_tells_what_went(make: Any, proxy: ProxyApi) -> None:
    """Of an empty cache nothing."""
    said = await make("compact_cache", CACHE, proxy).perform({})
    assert said == "0 damaged, 0 expired and 0 unused entries removed of 0; 0.0 MB are left"


async def test_what_matches_is_forgotten(make: Any, proxy: ProxyApi) -> None:
    """The proxy takes the selector, and says how many answers there were."""
    forget = make("invalidate_cache", CACHE, proxy, model="gpt-*", older_than="1h")
    assert forget.describe() == "forget answers in the cache of llm-proxy: model gpt-*, older than 1h"
    assert await forget.perform({}) == "0 answers forgotten"
