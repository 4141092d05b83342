"""Blocking an address, with the real nft in network namespaces of the test's own; the machine's tables stay alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

from watchdog.core.model import Outcome
from watchdog.errors import ActionError

REAL = pytest.mark.skipif(
    os.environ.get("CI") != "true" and (os.geteuid() != 0 or shutil.which("nft") is None or shutil.which("ip") is None),
    reason="needs root, nftables and iproute2",
)
SERVER, CLIENT = "10.213.77.1", "10.213.77.2"
KNOCK = f"""
import socket, sys
try:
    socket.create_connection(("{SERVER}", 9), float(sys.argv[1])).close()
except ConnectionRefusedError:
    print("reached")
except TimeoutError:
    print("dropped")
"""


@dataclass
class Hosts:
    """Two hosts with a cable between them; nobody listens, so that a closed port says whether packets arrive."""

    server: str
    client: str

    @property
    def nft(self) -> list[str]:
        return ["ip", "netns", "exec", self.server, "nft"]

    def ruleset(self) -> str:
        return subprocess.check_output((*self.nft, "list", "ruleset"), text=True)

    def knock(self, seconds: float) -> str:
        argv = ("ip", "netns", "exec", self.client, sys.executable, "-c", KNOCK, str(seconds))
        return subprocess.check_output(argv, text=True).strip()


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    found = Hosts(f"pw-a-{os.getpid()}", f"pw-b-{os.getpid()}")
    try:
        for name in (found.server, found.client):
            subprocess.run(("ip", "netns", "add", name), check=True)
        cable = ("link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", found.client)
        subprocess.run(("ip", "-n", found.server, *cable), check=True)
        for name, address in ((found.server, SERVER), (found.client, CLIENT)):
            subprocess.run(("ip", "-n", name, "address", "add", f"{address}/24", "dev", "cable"), check=True)
            subprocess.run(("ip", "-n", name, "link", "set", "cable", "up"), check=True)
        yield found
    finally:
        for name in (found.server, found.client):
            subprocess.run(("ip", "netns", "del", name), check=False, capture_output=True)


@REAL
async def test_what_a_blocked_address_sends_is_dropped_for_a_while(make: Any, hosts: Hosts) -> None:
    """Reached before; dropped afterwards, by an element with an end; the world tells before and after a crash."""
    action = make("block_source", address=CLIENT, duration="90s", nft=hosts.nft)
    assert hosts.knock(10) == "reached"
    survey = await action.survey()
    assert survey == {"address": CLIENT, "blocked": False}
    assert (await action.observe(survey)).outcome is Outcome.NOT_DONE
    assert await action.perform(survey) == f"{CLIENT} is blocked for 1m 30s"
    assert hosts.knock(0.5) == "dropped"
    assert (await action.observe(survey)).outcome is Outcome.DONE
    assert f"{CLIENT} timeout 1m30s expires 1m" in hosts.ruleset()


@REAL
async def test_again_makes_it_longer_and_nothing_twice(make: Any, hosts: Hosts) -> None:
    """The element has the new end, each rule is there once, and other addresses and other tables stay."""
    subprocess.run((*hosts.nft, "add table inet other"), check=True)
    for address, duration in (("192.0.2.7", "1h"), ("2001:db8::7", "1h"), (CLIENT, "90s"), (CLIENT, "2h")):
        action = make("block_source", address=address, duration=duration, nft=hosts.nft)
        await action.perform(await action.survey())
    ruleset = hosts.ruleset()
    assert f"{CLIENT} timeout 2h expires " in ruleset
    assert "192.0.2.7 timeout 1h" in ruleset
    assert "2001:db8::7 timeout 1h" in ruleset
    assert ruleset.count("drop") == 2
    assert "table inet other" in ruleset
    again = await action.survey()
    assert again["blocked"] is True
    assert (await action.observe(again)).outcome is Outcome.NOT_DONE


@REAL
async def test_without_the_right_it_says_so(make: Any, hosts: Hosts) -> None:
    """An ordinary user without the capability: nothing is blocked, and the privilege is named that is missing."""
    nft = [*hosts.nft[:-1], "setpriv", "--reuid=65534", "--clear-groups", "nft"]
    with pytest.raises(ActionError, match="missing privilege CAP_NET_ADMIN"):
        await make("block_source", address=CLIENT, nft=nft).survey()
    assert hosts.ruleset() == ""


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("127.0.0.1", "no host elsewhere"),
        ("::1", "no host elsewhere"),
        ("::ffff:127.0.0.1", "no host elsewhere"),
        ("0.0.0.0", "no host elsewhere"),
        ("224.0.0.1", "no host elsewhere"),
        ("fe80::1", "no host elsewhere"),
        ("192.0.2.9", "is in 192.0.2.0/24, which is never blocked"),
        ("::ffff:192.0.2.9", "is in 192.0.2.0/24, which is never blocked"),
        ("192.0.3.0/24", "is no IP address"),
        ("1.2.3.4 }; flush ruleset", "is no IP address"),
        ("fe80::1%eth0", "is no IP address"),
    ],
)
async def test_what_must_not_be_blocked_never_reaches_nft(make: Any, source: str, said: str) -> None:
    """It comes from a label that others may have written; the program that would be run is not even there."""
    action = make("block_source", labels={"source": source}, allow=["192.0.2.0/24"], nft=["/no-such/nft"])
    for effect in (action.survey(), action.perform({})):
        with pytest.raises(ActionError, match=said) as caught:
            await effect
        assert caught.value.permanent


async def test_this_host_is_never_blocked(make: Any) -> None:
    """None of the addresses of its interfaces."""
    own = [e.address for entries in psutil.net_if_addrs().values() for e in entries if e.family.name == "AF_INET"]
    assert own
    for address in own:
        with pytest.raises(ActionError, match=r"it is this host itself|no host elsewhere"):
            await make("block_source", address=address, nft=["/no-such/nft"]).perform({})
