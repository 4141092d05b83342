"""Several keys of one provider: taken in turn, cooling down, dying, coming back, replaced in their files, retired."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from failover_callers import ask, until
from scripted_upstream import ScriptedUpstream, http, refusal, whole

from proxy.clock import FakeClock
from proxy.routing.keys import KeyState


def keyed(upstream: ScriptedUpstream, *keys: str, **fields: Any) -> dict[str, Any]:
    """A provider whose keys `k1` … are given under ids of the same name."""
    sections = [{"id": f"id-{key}", "key": key} for key in keys]
    return {"name": upstream.name, "kind": "openai", "base_url": upstream.base_url, "keys": sections, **fields}


def states(gateway: Any, name: str = "alpha") -> dict[str, str]:
    return {key["id"]: key["state"] for key in gateway.providers_health()[name]["keys"]}


def used(upstream: ScriptedUpstream) -> list[str]:
    return [seen.key for seen in upstream.seen]


async def test_keys_are_taken_in_turn(gateway_of: Any, alpha: ScriptedUpstream) -> None:
    """Each request takes the next key, and the account names it by its id."""
    gateway = await gateway_of(keyed(alpha, "k1", "k2"))
    ids = [(await ask(gateway)).account.key_id for _ in range(4)]
    assert sorted(ids[:2]) == ["id-k1", "id-k2"]
    assert (ids[:2], used(alpha)) == (ids[2:], [str(key).removeprefix("id-") for key in ids])


@pytest.mark.parametrize(("status", "state"), [(429, "cooldown"), (402, "cooldown"), (401, "dead"), (403, "dead")])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_next_key_is_taken_at_once(
    gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream, status: int, state: str, stream: bool
) -> None:
    """A limited or refused key costs one attempt, not a provider and not a circuit."""
    alpha.by_key["k1"] = refusal(status, headers={"retry-after": "30"})
    gateway = await gateway_of(keyed(alpha, "k1", "k2"), beta)
    for _ in range(4):
        assert (await ask(gateway, stream=stream)).provider == "alpha"
    assert used(alpha).count("k1") == 1
    assert states(gateway) == {"id-k1": state, "id-k2": "active"}
    assert gateway.providers_health()["alpha"]["circuit"] == "closed"
    assert len(beta.seen) == 0


async def test_all_keys_dead(gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream) -> None:
    """The provider is out until a key is back: 502, so that the caller does not blame its own key; nobody is asked."""
    alpha.usual = refusal(401, "Incorrect API key provided: k1")
    gateway = await gateway_of(keyed(alpha, "k1", "k2"), retry={"rounds": 0})
    heard = await ask(gateway)
    assert (heard.status, heard.error["code"], heard.retryable) == (502, "upstream_credentials_exhausted", False)
    assert len(alpha.seen) == 2
    assert not gateway.usable()
    again = await ask(gateway)
    assert (again.status, again.error["code"], len(alpha.seen)) == (502, "upstream_credentials_exhausted", 2)
    shown = gateway.providers_health()["alpha"]
    assert (shown["fault"], shown["circuit"], shown["status"]) == ("auth", "open", "unhealthy")
    assert "k1" not in repr([shown["last_error"], heard.error])


async def test_provider_without_keys_left_is_failed_over(
    gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream
) -> None:
    """Another provider answers meanwhile."""
    alpha.usual = refusal(403)
    gateway = await gateway_of(keyed(alpha, "k1"), beta)
    assert [(await ask(gateway)).provider for _ in range(3)] == ["beta", "beta", "beta"]
    assert len(alpha.seen) == 1


async def test_all_keys_cooling_are_waited_for(gateway_of: Any, alpha: ScriptedUpstream) -> None:
    """With every key limited for a moment the request waits for the first of them, and no key is asked too early."""
    alpha.scripts = [refusal(429, headers={"retry-after-ms": "900"}), refusal(429, headers={"retry-after-ms": "400"})]
    gateway = await gateway_of(keyed(alpha, "k1", "k2"))
    heard = await ask(gateway)
    assert (heard.status, heard.account.attempts) == (200, 3)
    assert alpha.seen[2].key == alpha.seen[1].key
    assert alpha.seen[2].at - alpha.seen[1].at >= 0.39


async def test_each_key_is_tried_once_in_a_round(gateway_of: Any, alpha: ScriptedUpstream) -> None:
    """A key whose short cooldown has passed while the other one was tried waits for the next round."""
    alpha.by_key["k1"] = refusal(429, headers={"retry-after": "0"})
    alpha.by_key["k2"] = (0.3, *refusal(429, headers={"retry-after": "0"}))
    heard = await ask(await gateway_of(keyed(alpha, "k1", "k2"), retry={"rounds": 1, "pause_initial": "100ms"}))
    assert heard.status == 429
    assert sorted(used(alpha)[:2]) == sorted(used(alpha)[2:]) == ["k1", "k2"]


async def test_all_keys_cooling_for_long_is_told(gateway_of: Any, alpha: ScriptedUpstream) -> None:
    """The caller hears 429 with the time until the first key is back."""
    alpha.usual = refusal(429, headers={"retry-after": "300"})
    gateway = await gateway_of(keyed(alpha, "k1", "k2"))
    assert (await ask(gateway)).status == 429
    heard = await ask(gateway)
    assert (heard.status, len(alpha.seen)) == (429, 2)
    assert heard.headers is not None
    assert 290 <= int(heard.headers[b"retry-after"]) <= 300


async def test_death_is_known_to_all_workers(worker_of: Any, alpha: ScriptedUpstream) -> None:
    """What one worker learns of a key, another one does not have to learn."""
    alpha.by_key["k1"] = refusal(401)
    one, other = await worker_of(keyed(alpha, "k1", "k2")), await worker_of(keyed(alpha, "k1", "k2"))
    for _ in range(2):
        assert await one.ask() == [{"status": 200, "provider": "alpha"}]
    shown = (await other.health())["alpha"]["keys"]
    assert [(key["id"], key["state"]) for key in shown] == [("id-k1", "dead"), ("id-k2", "active")]
    for _ in range(4):
        assert await other.ask() == [{"status": 200, "provider": "alpha"}]
    assert used(alpha).count("k1") == 1


async def test_dead_key_is_asked_again_and_comes_back(gateway_of: Any, alpha: ScriptedUpstream) -> None:
    """Only when its time has come, by one models listing; alive again it is used, and so is the provider."""
    clock = FakeClock()
    alpha.usual = alpha.listing = refusal(401)
    gateway = await gateway_of(keyed(alpha, "k1"), clock=clock, retry={"rounds": 0})
    assert (await ask(gateway)).status == 502
    clock.advance(14)
    gateway.providers.tick()
    await asyncio.sleep(0.2)
    assert alpha.listings == []
    clock.advance(2)
    gateway.providers.tick()
    await until(lambda: gateway.providers_health()["alpha"]["keys"][0]["until"] > clock.wall() + 29)
    gateway.providers.tick()
    await asyncio.sleep(0.2)
    assert len(alpha.listings) == 1
    alpha.usual, alpha.listing = None, http(200, {"object": "list", "data": []})
    clock.advance(31)
    await until(lambda: states(gateway) == {"id-k1": "active"})
    await until(lambda: gateway.providers_health()["alpha"]["circuit"] == "closed")
    assert (await ask(gateway)).status == 200


def write_key(file: Path, key: str) -> Path:
    fresh = file.with_name(file.name + ".new")
    fresh.write_text(key + "\n")
    fresh.chmod(0o600)
    return fresh.replace(file)


async def test_new_key_in_the_file_is_taken_without_a_restart(
    gateway_of: Any, alpha: ScriptedUpstream, tmp_path: Path
) -> None:
    """Within seconds all requests take the new key; the old one is a spare, used if the new one is refused."""
    file = write_key(tmp_path / "provider.key", "old")
    section = {"name": "alpha", "kind": "openai", "base_url": alpha.base_url, "api_key_file": file}
    gateway = await gateway_of(section)
    await ask(gateway)
    write_key(file, "new")
    await until(lambda: states(gateway) == {"key-1": "active", "key-1.previous": "retiring"})
    assert "until" in gateway.providers_health()["alpha"]["keys"][1]
    for _ in range(3):
        await ask(gateway)
    assert used(alpha) == ["old", "new", "new", "new"]
    alpha.by_key["new"] = refusal(401)
    heard = await ask(gateway)
    assert (heard.status, heard.account.key_id) == (200, "key-1.previous")
    assert states(gateway) == {"key-1": "dead", "key-1.previous": "retiring"}


async def test_old_key_ends_with_the_grace(gateway_of: Any, alpha: ScriptedUpstream, tmp_path: Path) -> None:
    """After `rotation_grace` nothing is left of it."""
    clock, file = FakeClock(), write_key(tmp_path / "provider.key", "old")
    section = {"name": "alpha", "kind": "openai", "base_url": alpha.base_url, "api_key_file": file}
    gateway = await gateway_of(section | {"rotation_grace": "1m"}, clock=clock)
    write_key(file, "new")
    await until(lambda: len(states(gateway)) == 2)
    clock.advance(59)
    gateway.providers.tick()
    assert states(gateway) == {"key-1": "active", "key-1.previous": "retiring"}
    clock.advance(2)
    gateway.providers.tick()
    assert states(gateway) == {"key-1": "active"}


async def test_new_key_revives_a_dead_provider_at_once(
    gateway_of: Any, alpha: ScriptedUpstream, tmp_path: Path
) -> None:
    """An operator who replaces a revoked key need not wait for any cooldown."""
    file = write_key(tmp_path / "provider.key", "old")
    section = {"name": "alpha", "kind": "openai", "base_url": alpha.base_url, "api_key_file": file}
    gateway = await gateway_of(section, retry={"rounds": 0}, breaker={"cooldown": "1h", "cooldown_max": "1h"})
    alpha.by_key["old"] = refusal(401)
    assert (await ask(gateway)).status == 502
    write_key(file, "new")
    await until(lambda: gateway.providers_health()["alpha"]["circuit"] == "closed")
    assert (await ask(gateway)).status == 200
    assert used(alpha) == ["old", "new"]


async def test_unusable_new_file_changes_nothing(gateway_of: Any, alpha: ScriptedUpstream, tmp_path: Path) -> None:
    """A file that others can read, or that is empty, is not taken; the old key goes on."""
    file = write_key(tmp_path / "provider.key", "old")
    gateway = await gateway_of({"name": "alpha", "kind": "openai", "base_url": alpha.base_url, "api_key_file": file})
    file.write_text("")
    for _ in range(3):
        gateway.providers.tick()
    file.write_text("open to all")
    file.chmod(0o644)
    for _ in range(3):
        gateway.providers.tick()
    assert (await ask(gateway)).status == 200
    assert (used(alpha), states(gateway)) == (["old"], {"key-1": "active"})


async def test_operator_retires_a_key_and_takes_it_back(gateway_of: Any, alpha: ScriptedUpstream) -> None:
    """A retiring key gets no new requests while another one can, and none at all after its grace."""
    gateway = await gateway_of(keyed(alpha, "k1", "k2"), retry={"rounds": 0})
    gateway.set_key("alpha", "id-k1", KeyState.RETIRED, 0.8)
    assert states(gateway) == {"id-k1": "retiring", "id-k2": "active"}
    for _ in range(3):
        await ask(gateway)
    assert used(alpha) == ["k2"] * 3
    alpha.by_key["k2"] = refusal(401)
    assert (await ask(gateway)).account.key_id == "id-k1"
    await until(lambda: states(gateway)["id-k1"] == "retired")
    assert (await ask(gateway)).status == 502
    gateway.set_key("alpha", "id-k1", KeyState.ACTIVE, 0)
    await until(lambda: gateway.providers_health()["alpha"]["circuit"] == "closed")
    assert (await ask(gateway)).account.key_id == "id-k1"
    with pytest.raises(KeyError):
        gateway.set_key("alpha", "id-k9", KeyState.ACTIVE, 0)


async def test_failed_keys_are_not_billed(gateway_of: Any, alpha: ScriptedUpstream) -> None:
    """Only the attempt that answered is named; those before it are counted."""
    alpha.scripts, alpha.usual = [refusal(429), refusal(401)], whole("fine", model="m-2026")
    heard = await ask(await gateway_of(keyed(alpha, "k1", "k2", "k3")))
    assert (heard.account.attempts, heard.account.model) == (3, "m-2026")
    assert heard.account.key_id == f"id-{used(alpha)[-1]}"


async def test_new_key_relieves_a_provider_whose_old_one_was_limited(
    gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream, tmp_path: Path
) -> None:
    """A key without money is replaced in its file, and traffic is back within seconds, not after the long cooldown."""
    file = write_key(tmp_path / "provider.key", "old")
    section = {"name": "alpha", "kind": "openai", "base_url": alpha.base_url, "api_key_file": file}
    gateway = await gateway_of(section, beta)
    alpha.by_key["old"] = refusal(429, code="insufficient_quota")
    assert (await ask(gateway)).provider == "beta"
    shown = gateway.providers_health()["alpha"]
    assert (shown["circuit"], shown["fault"], shown["keys"][0]["state"]) == ("open", "quota", "cooldown")
    write_key(file, "new")
    await until(lambda: gateway.providers_health()["alpha"]["circuit"] == "closed")
    assert ((await ask(gateway)).provider, used(alpha)) == ("alpha", ["old", "new"])


async def test_a_spare_is_kept_back_until_it_is_taken_into_use(
    gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream
) -> None:
    """No request takes it, not even when every other key is dead; an operator's word makes it a key like the others."""
    alpha.by_key["k1"] = refusal(401)
    provider = keyed(alpha, "k1", "k2")
    provider["keys"][1]["spare"] = True
    gateway = await gateway_of(provider, beta)
    assert [(await ask(gateway)).provider for _ in range(3)] == ["beta"] * 3
    assert states(gateway) == {"id-k1": "dead", "id-k2": "spare"}
    assert gateway.providers_health()["alpha"]["fault"] == "auth"
    gateway.set_key("alpha", "id-k2", KeyState.ACTIVE, 0.0)
    assert states(gateway)["id-k2"] == "active"
    await until(lambda: gateway.providers_health()["alpha"]["circuit"] == "closed")
    assert (await ask(gateway)).provider == "alpha"
    assert set(used(alpha)) == {"k1", "k2"}
