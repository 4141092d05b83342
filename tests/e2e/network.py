"""Hosts on a cable: network namespaces of the test's own, each outside host on a cable of its own to the server."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

CALLER = """
import http.client, json, sys, threading
server, port, key, pause = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
body = json.dumps({"model": "demo-small", "messages": [{"role": "user", "content": "hello"}]})
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
while True:
    connection = http.client.HTTPConnection(server, port, timeout=1)
    try:
        connection.request("POST", "/v1/chat/completions", body, {"authorization": "Bearer " + key})
        answer = connection.getresponse()
        answer.read()
        print(answer.status, flush=True)
    except TimeoutError:
        print("dropped", flush=True)
    except OSError as error:
        print(error, flush=True)
    finally:
        connection.close()
    if ended.wait(pause):
        break
"""


@dataclass
class Host:
    """One that calls the server, from `address`; `gateway` is the server's end of the cable."""

    name: str
    address: str
    gateway: str

    @contextlib.contextmanager
    def calling(self, port: int, key: str, pause: float) -> Iterator[list[str]]:
        """Calls again and again as long as the block lasts; afterwards the list has each answer's status, `dropped`
        where none came within a second."""
        seen: list[str] = []
        argv = (
            "ip",
            "netns",
            "exec",
            self.name,
            sys.executable,
            "-c",
            CALLER,
            self.gateway,
            str(port),
            key,
            str(pause),
        )
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield seen
            finally:
                seen += process.communicate(timeout=20)[0].splitlines()


@dataclass
class Network:
    """The server's namespace, and the hosts that were plugged in."""

    server: str
    hosts: list[Host] = field(default_factory=list)

    def within(self, *argv: str) -> tuple[str, ...]:
        """The command, run on the server."""
        return ("ip", "netns", "exec", self.server, *argv)

    def ruleset(self) -> str:
        """All that nft has on the server."""
        return subprocess.check_output(self.within("nft", "list", "ruleset"), text=True)


@contextlib.contextmanager
def network(hosts: int) -> Iterator[Network]:
    """A server and so many hosts. Needs root, iproute2 and nftables."""
    found = Network(f"pw-s-{os.getpid()}")
    try:
        subprocess.run(("ip", "netns", "add", found.server), check=True)
        subprocess.run(("ip", "-n", found.server, "link", "set", "lo", "up"), check=True)
        for number in range(hosts):
            host = Host(f"pw-h{number}-{os.getpid()}", f"10.213.{80 + number}.2", f"10.213.{80 + number}.1")
            found.hosts.append(host)
            subprocess.run(("ip", "netns", "add", host.name), check=True)
            ends = ("add", f"cable{number}", "type", "veth", "peer", "name", "cable", "netns", host.name)
            subprocess.run(("ip", "-n", found.server, "link", *ends), check=True)
            for name, device, address in (
                (found.server, f"cable{number}", host.gateway),
                (host.name, "cable", host.address),
            ):
                subprocess.run(("ip", "-n", name, "address", "add", f"{address}/24", "dev", device), check=True)
                subprocess.run(("ip", "-n", name, "link", "set", device, "up"), check=True)
        yield found
    finally:
        for name in (found.server, *(host.name for host in found.hosts)):
            subprocess.run(("ip", "netns", "del", name), check=False, capture_output=True)
