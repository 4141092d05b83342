"""A certificate near its end: a real server, certificates by openssl, a renewing program of the test's own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from world import REPOSITORY, World, eventually, free_ports, story

NEW_KEY = ("openssl", "req", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=test")
RENEW = """#!/bin/sh
# Signs the request anew for 90 days and puts the result in place, as renewing programs do.
cd "${{0%/*}}" || exit 9
echo renewed >> renewals
openssl x509 -req -in front.csr -CA ca.pem -CAkey ca.key -days {days} -extfile names -out front.new 2>/dev/null &&
mv front.new front.pem
"""
RELOAD = """#!/bin/sh
cd "${0%/*}" && kill -HUP "$(cat front.pid)"
"""


def program(file: Path, text: str) -> str:
    file.write_text(text)
    file.chmod(0o755)
    return str(file)


class Front:
    """The files of a server whose certificate is good for two more days."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()
        (place / "names").write_text("subjectAltName=DNS:localhost\n")
        self._openssl(*NEW_KEY, "-x509", "-days", "400", "-keyout", "ca.key", "-out", "ca.pem")
        self._openssl(*NEW_KEY, "-keyout", "front.key", "-out", "front.csr")
        self.renew = program(place / "renew", RENEW.format(days=2))
        subprocess.run((self.renew,), check=True)
        self.renewed_for(90)

    def renewed_for(self, days: int) -> None:
        """How long what is renewed from now on is good."""
        self.renew = program(self.place / "renew", RENEW.format(days=days))

    def _openssl(self, *argv: str) -> None:
        subprocess.run(argv, cwd=self.place, check=True, capture_output=True)

    @property
    def renewals(self) -> int:
        return len((self.place / "renewals").read_text().splitlines()) - 1

    def fingerprint(self) -> str:
        argv = ("openssl", "x509", "-in", str(self.place / "front.pem"), "-noout", "-fingerprint", "-sha256")
        return subprocess.check_output(argv, text=True).partition("=")[2].replace(":", "").strip().lower()


@pytest.fixture
def front(world: World) -> Front:
    """The server is a service of the world, in place of the proxy."""
    found = Front(world.root / "front")
    (port,) = free_ports(1)
    place = found.place
    argv = [sys.executable, str(Path(__file__).with_name("tls_front.py")), str(port)]
    argv += [str(place / name) for name in ("front.pem", "front.key", "front.pid")]
    own = {"interval": "300ms", "labels": {"certificate": "front"}, "kind": "tls"}
    shown = {**own, "address": f"127.0.0.1:{port}", "server_name": "localhost", "ca_file": str(place / "ca.pem")}
    world.configure(
        watch={
            "services": {"llm-proxy": None, "front": {"kind": "child", "argv": argv}},
            "probes": {"shown": shown, "stored": {**own, "file": str(place / "front.pem")}},
        },
        routes=world.inbox.routes,
    )
    rules = world.root / "config/rules/tls.yaml"
    text = re.sub(r"for: \d+m", "for: 1500ms", rules.read_text()).replace("interval: 1m", "interval: 250ms")
    rules.write_text(text)
    return found


def operators(front: Front, reload: str) -> str:
    """The part of the shipped playbook that is for the operator to fill in, filled in."""
    text = (REPOSITORY / "config/playbooks/certificate.yaml").read_text()
    head, _, rest = text.partition("\nautonomy: observe")
    commented = [line.removeprefix("# ") for line in rest.splitlines() if line.startswith("# ")]
    playbook = yaml.safe_load(head + "\n" + "\n".join(commented))
    for rung in playbook["ladder"]:
        rung["verify"] = {**rung["verify"], "hold": "300ms", "within": "5s"}
        for step in rung["steps"]:
            step["argv"] = [reload if "reload" in step["argv"] else front.renew]
    return yaml.safe_dump(playbook)


async def shown(world: World) -> list[str]:
    """The fingerprint that the server shows, as the probe has it."""
    answer = await world.ask("/v1/query?expr=probe_ssl_last_chain_info")
    return [series["labels"]["fingerprint_sha256"] for series in answer["result"]]


async def test_a_person_is_told_in_time_and_with_commands_it_is_renewed(world: World, front: Front) -> None:
    """As shipped nothing is tried and nothing fails: the message says what to do and where the commands belong. With
    them it is renewed once and loaded, and the incident ends by what the server shows."""
    await world.start()
    incident = await world.incident("probe:shown", "open", 20)
    assert set(incident["alertnames"]) == {"CertificateExpiresSoon", "CertificateExpires"}
    await eventually("a person is told", lambda: world.inbox.messages, 20)
    told = str(world.inbox.messages)
    assert "certbot renew" in told
    assert "playbooks/certificate.yaml" in told
    assert front.renewals == 0
    assert "run: " not in story(incident)

    file = world.root / "config/playbooks/certificate.yaml"
    file.write_text(operators(front, program(front.place / "reload", RELOAD)))
    old = front.fingerprint()
    await world.kill()
    await world.start()
    incident = await world.incident("probe:shown", "resolved", 30)
    assert "rung reload: skipped" in story(incident)
    assert "rung renew: verified" in story(incident)
    assert front.renewals == 1
    assert await shown(world) == [front.fingerprint()] != [old]


async def test_a_server_that_keeps_the_old_one_is_not_taken_for_renewed(world: World, front: Front) -> None:
    """The programs both said that they succeeded; the server shows the old certificate, so a person is called. Once it
    is told by somebody, all is well: nothing is renewed a second time."""
    file = world.root / "config/playbooks/certificate.yaml"
    file.write_text(operators(front, program(front.place / "reload", "#!/bin/sh\nexit 0\n")))
    await world.start()
    incident = await world.incident("probe:shown", "escalated", 30)
    assert "rung renew: failed" in story(incident)
    assert "CertificateNotLoaded" in incident["alertnames"]
    program(front.place / "reload", RELOAD)
    subprocess.run((str(front.place / "reload"),), check=True)
    await world.incident("probe:shown", "resolved", 20)
    assert front.renewals == 1
