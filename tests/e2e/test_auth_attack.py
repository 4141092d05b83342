"""Somebody guesses keys over a real network, beside callers who must go on being served."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from network import Network, network
from world import BIN, QUESTION, World, eventually, found, story

REAL = pytest.mark.skipif(
    os.environ.get("CI") != "true" and (os.geteuid() != 0 or shutil.which("nft") is None or shutil.which("ip") is None),
    reason="needs root, nftables and iproute2",
)
ADMIN = "var/lib/llm-proxy/admin.key"
QUICKER = {
    "rules/security.yaml": (
        ("interval: 15s", "interval: 300ms"),
        (">= 30", ">= 10"),
        ("< 60", "< 5"),
        ("< 120", "< 5"),
    ),
    "playbooks/auth-attack.yaml": (
        ("hold: 2s, within: 20s", "hold: 300ms, within: 1s"),
        ("hold: 5s, within: 90s", "hold: 300ms, within: 20s"),
        ("hold: 5s, within: 150s", "hold: 300ms, within: 20s"),
        ("duration: 1h\n", "duration: 10s\n"),
    ),
}


def configure(world: World, key: str, *changes: tuple[str, str], **proxy: Any) -> None:
    """A proxy with one caller, `joe`, who has `key`; the shipped rules and playbook, only quicker."""
    joe = {"id": "joe", "sha256": hashlib.sha256(key.encode()).hexdigest()}
    keys = {"keys": [{"id": "admin", "role": "admin", "key_file": ADMIN}, joe]}
    world.configure(proxy={"auth": keys, **proxy}, watch={"probes": {"callers": {"interval": "300ms"}}})
    for file, quicker in QUICKER.items():
        path = world.root / "config" / file
        text = path.read_text()
        for old, new in (*quicker, *(change for change in changes if "playbooks" in file)):
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)


@pytest.fixture
def cables() -> Iterator[Network]:
    with network(hosts=2) as plugged:
        yield plugged


@REAL
async def test_who_guesses_keys_is_kept_out_for_a_while_and_nobody_else(world: World, cables: Network) -> None:
    """Limits first, then the kernel: the attacker's packets are dropped, another caller gets every answer meanwhile,
    and the block ends by itself. Where valid keys come from the address too it is not blocked: a person is called."""
    key = secrets.token_hex()
    configure(world, key, host="0.0.0.0")
    attacker, client = cables.hosts
    daemon = (str(BIN / "proxywatch"), "run", "--plain", "--config", str(world.config_file))
    await world.start(program=cables.within(*daemon))
    await eventually("the proxy serves", world.all_serve, 20)

    with client.calling(world.port, key, 0.1) as served:
        with attacker.calling(world.port, "wrong", 0.05) as refused:
            blocked = f"{attacker.address} timeout 10s expires"
            await eventually("the address is blocked", lambda: blocked in cables.ruleset(), 30)
            incident = await world.incident(f"source:{attacker.address}", "resolved", 40)
        told = story(incident)
        assert found(rf"evidence: security_log: .*event=failed_auth .*source={attacker.address} ", told)
        assert "rung tighten-limits: failed" in told
        assert "rung block-source: verified" in told
        await eventually("the block ends by itself", lambda: attacker.address not in cables.ruleset(), 20)

        with client.calling(world.port, "wrong", 0.05):
            target = f"source:{client.address}"
            told = story(await world.incident(target, "escalated", 40))
        assert "rung block-source: skipped" in told
        assert client.address not in cables.ruleset()

    assert set(served) == {"200"}
    assert len(served) > 50
    assert set(refused) <= {"401", "429", "dropped"}
    assert refused[-1] == "dropped"
    with attacker.calling(world.port, key, 0.05) as again:
        pass
    assert again == ["200"]


async def test_a_key_is_suspended_by_approval_and_without_nft_a_person_is_called(world: World) -> None:
    """A key that keeps trying admin calls is refused once a person has said so, and not before. What cannot be blocked
    leads up the ladder, and the reason is told."""
    key = secrets.token_hex()
    configure(world, key, ("        allow: []", "        nft: [/no-such/nft]\n        allow: []"))
    await world.start()
    await eventually("the proxy serves", world.all_serve, 20)
    url = f"http://127.0.0.1:{world.port}/metrics/security"
    headers = {"authorization": f"Bearer {key}"}
    abused: list[int] = []

    async def abuse(session: aiohttp.ClientSession) -> None:
        while True:
            async with session.get(url, headers=headers) as answer:
                abused.append(answer.status)
            await asyncio.sleep(0.05)

    async with aiohttp.ClientSession() as session:
        task = asyncio.create_task(abuse(session))
        try:
            target = "caller:llm-proxy/joe"

            async def asked() -> Any:
                mine = await world.incidents(target)
                timeline = (await world.ask(f"/v1/incidents/{mine[0]['id']}"))["timeline"] if mine else []
                return [line for line in timeline if line["kind"] == "approval"]

            (question,) = await eventually("a person is asked", asked, 30)
            assert "refuse key joe of llm-proxy for 1h" in question["text"]
            async with session.post(f"{url[:-17]}/v1/chat/completions", headers=headers, json=QUESTION) as answer:
                assert answer.status == 200
            status, said = await world.command("approve", str(question["data"]["run"]))
            assert status == 0, said
            assert "rung suspend-key: verified" in story(await world.incident(target, "resolved", 30))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert set(abused) == {403}

    line = json.dumps({"event": "failed_auth", "source": "192.0.2.9"}) + "\n"
    with (world.root / "var/log/llm-proxy/security.log").open("a") as log:
        log.write(line * 30)
    told = story(await world.incident("source:192.0.2.9", "escalated", 20))
    assert found(r"rung block-source: failed: block_source: .*/no-such/nft", told)
