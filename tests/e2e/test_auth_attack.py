"""Somebody guesses keys over a real network, beside callers who must go on being served."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator

import pytest
from network import Network, network
from world import BIN, World, eventually, found, story

REAL = pytest.mark.skipif(
    os.environ.get("CI") != "true" and (os.geteuid() != 0 or shutil.which("nft") is None or shutil.which("ip") is None),
    reason="needs root, nftables and iproute2",
)
ADMIN = "var/lib/llm-proxy/admin.key"
QUICKER = {
    "rules/security.yaml": (("interval: 15s", "interval: 300ms"), (">= 30", ">= 10"), ("< 60", "< 8")),
    "playbooks/auth-attack.yaml": (
        ("hold: 2s, within: 20s", "hold: 300ms, within: 2s"),
        ("hold: 5s, within: 90s", "hold: 300ms, within: 20s"),
        ("duration: 1h\n", "duration: 10s\n"),
    ),
}


@pytest.fixture
def cables() -> Iterator[Network]:
    with network(hosts=2) as plugged:
        yield plugged


@REAL
async def test_who_guesses_keys_is_kept_out_for_a_while_and_nobody_else(world: World, cables: Network) -> None:
    """Limits first, then the kernel: the attacker's packets are dropped, another caller gets every answer meanwhile,
    and the block ends by itself. Where valid keys come from the address too it is not blocked: a person is called."""
    key = secrets.token_hex()
    caller = {"id": "joe", "sha256": hashlib.sha256(key.encode()).hexdigest()}
    world.configure(
        proxy={"host": "0.0.0.0", "auth": {"keys": [{"id": "admin", "role": "admin", "key_file": ADMIN}, caller]}},
        watch={"probes": {"callers": {"interval": "300ms"}}},
    )
    for file, changes in QUICKER.items():
        path = world.root / "config" / file
        text = path.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)
    attacker, client = cables.hosts
    daemon = (str(BIN / "proxywatch"), "run", "--plain", "--config", str(world.config_file))
    await world.start(program=cables.within(*daemon))
    await eventually("the proxy serves", world.all_serve, 20)

    with client.calling(world.port, key, 0.1) as served:
        with attacker.calling(world.port, "wrong", 0.05) as refused:
            incident = await world.incident(f"source:{attacker.address}", "resolved", 40)
            assert f"{attacker.address} timeout 10s expires" in cables.ruleset()
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
