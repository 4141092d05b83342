"""Load, limits, a provider's rate and a key, held back for a time through a real llm-proxy."""

from __future__ import annotations

from typing import Any

import pytest

from watchdog.core.model import Outcome
from watchdog.errors import ActionError
from watchdog.system.proxy_api import ProxyApi

KINDS: dict[str, tuple[str, dict[str, Any], tuple[str, str, float]]] = {
    "shed_load": ("service:llm-proxy", {"share": 0.25, "duration": "1m"}, ("load", "", 0.25)),
    "tighten_limits": ("service:llm-proxy", {"share": 0.5, "duration": "1m"}, ("limits", "", 0.5)),
    "lower_rate": ("provider:far", {"share": 0.0, "duration": "1m"}, ("rate", "far", 0.0)),
    "suspend_key": ("caller:llm-proxy/anonymous", {"duration": "1m"}, ("key", "anonymous", 1.0)),
}


async def in_force(proxy: ProxyApi) -> list[tuple[str, str, float]]:
    return [(one.what, one.subject, one.share) for one in await proxy.restraints()]


@pytest.mark.parametrize("kind", sorted(KINDS))
async def test_it_is_held_back_recognised_and_given_back(make: Any, proxy: ProxyApi, kind: str) -> None:
    """The proxy names what is held back and for whom; the world tells «not done» before and «done» after, also of a
    second one over the first; with a duration of nothing it is over, and that is recognised as well."""
    target, keys, expected = KINDS[kind]
    action = make(kind, target, proxy, labels={"alertname": "TooMuch"}, **keys)
    survey = await action.survey()
    assert (await action.observe(survey)).outcome is Outcome.NOT_DONE
    assert (await action.perform(survey)).endswith("is held back for 1m")
    assert await in_force(proxy) == [expected]
    assert [one.reason for one in await proxy.restraints()] == [f"proxywatch: TooMuch, {target}"]
    assert (await action.observe(survey)).outcome is Outcome.DONE

    again = await action.survey()
    assert (await action.observe(again)).outcome is Outcome.NOT_DONE
    await action.perform(again)
    assert (await action.observe(again)).outcome is Outcome.DONE

    back = make(kind, target, proxy, **keys | {"duration": "0s"})
    survey = await back.survey()
    assert (await back.observe(survey)).outcome is Outcome.NOT_DONE
    assert (await back.perform(survey)).endswith("is no longer held back")
    assert await in_force(proxy) == []
    assert (await back.observe(survey)).outcome is Outcome.DONE


@pytest.mark.parametrize(
    ("kind", "target", "said"),
    [
        ("lower_rate", "provider:near", "There is no provider 'near'"),
        ("suspend_key", "caller:llm-proxy/nobody", "There is no key 'nobody'"),
        ("suspend_key", "caller:llm-proxy/admin", "A key cannot suspend itself"),
    ],
)
async def test_what_the_proxy_refuses_is_a_permanent_failure(
    make: Any, proxy: ProxyApi, kind: str, target: str, said: str
) -> None:
    """Nothing is held back, and trying again would be no use."""
    action = make(kind, target, proxy)
    with pytest.raises(ActionError, match=said) as caught:
        await action.perform(await action.survey())
    assert caught.value.permanent
    assert await in_force(proxy) == []
