"""Keys of a provider, retired and taken back through a real llm-proxy."""

from __future__ import annotations

from typing import Any

import pytest

from watchdog.core.model import Outcome
from watchdog.errors import ActionError
from watchdog.system.proxy_api import ProxyApi

FAR = "provider:far"


async def states(proxy: ProxyApi) -> dict[str, str]:
    return {key.id: key.state for key in (await proxy.providers())["far"].keys}


async def test_a_key_is_retired_and_taken_back(make: Any, proxy: ProxyApi) -> None:
    """The proxy tells the new state; before, the world says that it has not happened, and after, that it has."""
    retire = make("provider_key", FAR, proxy, key="one", state="retired")
    survey = await retire.survey()
    assert (await retire.observe(survey)).outcome is Outcome.NOT_DONE
    assert await retire.perform(survey) == "key one of far is retired (it was active)"
    assert await states(proxy) == {"one": "retired", "two": "active"}
    assert (await retire.observe(survey)).outcome is Outcome.DONE

    back = make("provider_key", FAR, proxy, key="one", state="active")
    survey = await back.survey()
    await back.perform(survey)
    assert await states(proxy) == {"one": "active", "two": "active"}
    assert (await back.observe(survey)).outcome is Outcome.DONE


async def test_a_grace_makes_it_a_spare_first(make: Any, proxy: ProxyApi) -> None:
    """It is retiring, which counts as done."""
    retire = make("provider_key", FAR, proxy, key="two", state="retired", grace="1h")
    survey = await retire.survey()
    await retire.perform(survey)
    assert (await states(proxy))["two"] == "retiring"
    assert (await retire.observe(survey)).outcome is Outcome.DONE
    await make("provider_key", FAR, proxy, key="two", state="active").perform(survey)


async def test_the_last_key_that_works_is_never_retired(make: Any, proxy: ProxyApi) -> None:
    """Even where the survey of before the other's retirement says otherwise."""
    first = make("provider_key", FAR, proxy, key="one", state="retired")
    second = make("provider_key", FAR, proxy, key="two", state="retired")
    early = await second.survey()
    await first.perform(await first.survey())
    with pytest.raises(ActionError, match="the last of far that works") as caught:
        await second.perform(early)
    assert caught.value.permanent
    assert await states(proxy) == {"one": "retired", "two": "active"}
    await make("provider_key", FAR, proxy, key="one", state="active").perform(early)


@pytest.mark.parametrize(
    ("target", "key", "said"), [(FAR, "three", "has no key 'three'"), ("provider:near", "one", "no provider 'near'")]
)
async def test_what_the_proxy_does_not_know(make: Any, proxy: ProxyApi, target: str, key: str, said: str) -> None:
    """An unknown key or provider is refused before anything is asked of the proxy."""
    with pytest.raises(ActionError, match=said):
        await make("provider_key", target, proxy, key=key, state="retired").survey()


async def test_a_spare_is_taken_into_use(make: Any, proxy: ProxyApi) -> None:
    """The key that the configuration keeps back becomes active; the world tells before and after; without another
    spare there is nothing to take, for good."""
    rotate = make("rotate_provider_key", "provider:kept", proxy)
    survey = await rotate.survey()
    assert survey == {"key": "two"}
    assert (await rotate.observe(survey)).outcome is Outcome.NOT_DONE
    assert await rotate.perform(survey) == "spare key two of kept is in use (active)"
    assert (await rotate.observe(survey)).outcome is Outcome.DONE
    with pytest.raises(ActionError, match="has no spare key") as caught:
        await rotate.perform(await rotate.survey())
    assert caught.value.permanent


async def test_a_retired_key_is_no_spare(make: Any, proxy: ProxyApi) -> None:
    """What an operator has retired is never taken back by a rotation."""
    retire = make("provider_key", FAR, proxy, key="one", state="retired")
    survey = await retire.survey()
    await retire.perform(survey)
    assert await make("rotate_provider_key", FAR, proxy).survey() == {"key": None}
    await make("provider_key", FAR, proxy, key="one", state="active").perform(survey)
