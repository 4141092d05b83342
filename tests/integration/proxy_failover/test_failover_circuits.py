"""Circuits per provider and model: what a fault says of whom, the way back, and one trial at a time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from failover_callers import ask, until
from scripted_upstream import SILENT, Script, ScriptedUpstream, refusal, whole

from proxy.routing.breaker import State

MODELS = {"models": ["small", "large"]}
LONG = {"cooldown": "1h", "cooldown_max": "1h"}


def serving(upstream: ScriptedUpstream) -> dict[str, Any]:
    return {"name": upstream.name, "kind": "openai", "base_url": upstream.base_url, **MODELS}


async def test_outage_of_one_model_leaves_the_others(
    gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream
) -> None:
    """A model that fails is left alone; another one of the same provider is served there, and both are shown."""
    gateway = await gateway_of(serving(alpha), serving(beta), breaker=LONG)
    alpha.usual = refusal(500)
    for _ in range(4):
        assert (await ask(gateway, model="small")).provider == "beta"
    assert len(alpha.seen) == 3
    alpha.usual = None
    assert (await ask(gateway, model="large")).provider == "alpha"
    shown = gateway.providers_health()["alpha"]
    assert (shown["circuit"], shown["models"]) == ("closed", {"small": "open", "large": "closed"})
    assert (await ask(gateway, model="small")).provider == "beta"


async def test_broken_network_concerns_every_model(
    gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream
) -> None:
    """After three connections refused for one model, the others do not try their own."""
    gateway = await gateway_of(serving(alpha), serving(beta), breaker=LONG)
    await alpha.stop()
    for _ in range(3):
        assert (await ask(gateway, model="small")).provider == "beta"
    errors = gateway.providers_health()["alpha"]["errors"]
    assert (await ask(gateway, model="large")).provider == "beta"
    shown = gateway.providers_health()["alpha"]
    assert (shown["circuit"], shown["fault"], shown["errors"]) == ("open", "network", errors)


@pytest.mark.parametrize("fault", ["down", "outage", "silent"])
async def test_primary_comes_back(gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream, fault: str) -> None:
    """While the primary is out the other one serves, with one trial at a time; once it is well traffic returns."""
    scripts: dict[str, Script] = {"outage": refusal(503), "silent": SILENT}
    gateway = await gateway_of(
        alpha,
        beta,
        timeouts={"first_byte": "300ms", "answer": "300ms"},
        breaker={"cooldown": "100ms", "cooldown_max": "200ms"},
    )
    if fault == "down":
        await alpha.stop()
    else:
        alpha.usual = alpha.listing = scripts[fault]
    for _ in range(3):
        assert (await ask(gateway)).provider == "beta"
    before, alpha.most_at_once = len(alpha.seen), 0
    deadline = asyncio.get_running_loop().time() + 1.5
    while asyncio.get_running_loop().time() < deadline:
        heard = await asyncio.gather(*(ask(gateway) for _ in range(8)))
        assert {one.provider for one in heard} == {"beta"}
        await asyncio.sleep(0.02)
    assert alpha.most_at_once <= 1
    assert len(alpha.seen) - before <= 15
    if fault == "down":
        await alpha.start()
    else:
        alpha.usual, alpha.listing = None, refusal(404)
    came_back = asyncio.get_running_loop().time()
    while (await ask(gateway)).provider != "alpha":
        assert asyncio.get_running_loop().time() < came_back + 10
        await asyncio.sleep(0.02)
    assert gateway.providers_health()["alpha"]["circuit"] == "closed"


async def test_one_trial_over_all_workers(worker_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream) -> None:
    """Two workers with many requests at once make one trial between them; the others do not wait for it."""
    breaker = {"consecutive_failures": 1000, "min_requests": 1000, "cooldown": "1h", "cooldown_max": "1h"}
    workers = [await worker_of(alpha, beta, breaker=breaker, retry={"rounds": 0}) for _ in range(2)]
    alpha.usual = refusal(503, headers={"retry-after": "1"})
    assert await workers[0].ask() == [{"status": 200, "provider": "beta"}]
    alpha.usual, beta.usual = (0.5, *whole("well again")), refusal(500)
    await asyncio.sleep(1.1)
    heard = await asyncio.gather(*(worker.ask(10) for worker in workers))
    assert len(alpha.seen) == 2
    assert sorted(one["status"] for of_worker in heard for one in of_worker) == [200] + [500] * 19
    assert (await workers[1].health())["alpha"]["circuit"] == "closed"


async def test_failing_open(gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream) -> None:
    """With every route open a request is tried anyway; one that an operator has taken out comes last."""
    gateway = await gateway_of(alpha, beta, breaker=LONG | {"consecutive_failures": 1}, retry={"rounds": 0})
    alpha.usual = beta.usual = refusal(503)
    await ask(gateway)
    assert not gateway.usable()
    gateway.set_circuit("alpha", State.OPEN, 600, "maintenance")
    alpha.usual = beta.usual = None
    assert (await ask(gateway)).provider == "beta"


async def test_operator_takes_one_model_out(gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream) -> None:
    """Forcing one model's circuit leaves the provider's others; closing the provider's closes it too."""
    gateway = await gateway_of(serving(alpha), serving(beta))
    gateway.set_circuit("alpha", State.OPEN, 600, "drill", "small")
    assert [(await ask(gateway, model=model)).provider for model in ("small", "large")] == ["beta", "alpha"]
    gateway.set_circuit("alpha", State.CLOSED, 0, "drill over")
    assert (await ask(gateway, model="small")).provider == "alpha"
    with pytest.raises(KeyError):
        gateway.set_circuit("alpha", State.OPEN, 600, "drill", "no-such-model")


async def test_idle_probe_is_one_listing_per_cooldown(worker_of: Any, alpha: ScriptedUpstream) -> None:
    """Without traffic each cooldown costs at most one models listing, however many workers and models there are."""
    breaker = {"consecutive_failures": 1, "cooldown": "1s", "cooldown_max": "1s"}
    alpha.usual = alpha.listing = refusal(500)
    workers = [await worker_of(serving(alpha), breaker=breaker, retry={"rounds": 0}) for _ in range(2)]
    for model in ("small", "large"):
        assert (await workers[0].ask(model=model))[0]["status"] == 500
    failed = alpha.seen[-1].at
    await until(lambda: alpha.listings)
    assert alpha.listings[0].at - failed >= 2.9
    await asyncio.sleep(2.5)
    assert len(alpha.listings) == 1
