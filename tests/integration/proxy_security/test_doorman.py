"""Who is let in: keys and their files, roles, callers of this machine, and those who keep failing."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy import metrics
from proxy.auth import Caller, Doorman, Role
from proxy.clock import FakeClock
from proxy.errors import ApiError, ConfigError
from proxy.limits.restraints import Restraints
from proxy.limits.sources import FAILURES, SECONDS, Sources, network_of
from proxy.loopback import is_of_a_page, owner
from proxy.settings import Auth

USER, ADMIN = secrets.token_urlsafe(24), secrets.token_urlsafe(24)


class NoTransport(asyncio.BaseTransport):
    """A connection of which nothing is known."""


@dataclass
class OwnLine:
    transport: asyncio.BaseTransport = field(default_factory=NoTransport)


@dataclass
class OwnVisit:
    headers: dict[str, str] = field(default_factory=dict)
    peer: str | None = "203.0.113.9"
    id: str = "r1"
    label: str = "/v1/models"
    line: OwnLine = field(default_factory=OwnLine)


@dataclass
class Gate:
    doorman: Doorman
    clock: FakeClock
    directory: Path

    def caller(self, needs: Role = "user", **visit: Any) -> Caller:
        return self.doorman.admit(OwnVisit(**visit), needs)

    def refusal(self, needs: Role = "user", **visit: Any) -> ApiError:
        with pytest.raises(ApiError) as refused:
            self.doorman.admit(OwnVisit(**visit), needs)
        return refused.value

    def counted(self, name: str) -> dict[tuple[str, ...], float]:
        family = metrics.read(self.directory)[name]
        return {values: cells[0] for values, cells in family.series.items()}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    measured = metrics.Metrics(tmp_path / "metrics", "w0")
    clock = FakeClock()

    def made(**auth: Any) -> Gate:
        keys = [
            {"id": "joe", "sha256": hashlib.sha256(USER.encode()).hexdigest()},
            {"id": "boss", "role": "admin", "sha256": hashlib.sha256(ADMIN.encode()).hexdigest().upper()},
        ]
        settings = Auth.model_validate({"keys": keys} | auth)
        restraints = Restraints([], [], measured, clock)
        return Gate(Doorman(settings, measured, clock, restraints), clock, tmp_path / "metrics")

    yield made
    measured.close()


@pytest.fixture
def gate(make: Any) -> Gate:
    made: Gate = make()
    return made


@pytest.mark.parametrize(
    ("headers", "caller"),
    [
        (bearer(USER), Caller("joe", "user")),
        ({"authorization": f"bearer   {USER} "}, Caller("joe", "user")),
        ({"x-api-key": ADMIN}, Caller("boss", "admin")),
        ({"authorization": "Basic Og==", "x-api-key": ADMIN}, Caller("boss", "admin")),
    ],
    ids=["bearer", "bearer-loosely-written", "x-api-key", "x-api-key-beside-another-scheme"],
)
def test_a_key_says_who_calls(gate: Gate, headers: dict[str, str], caller: Caller) -> None:
    """A key is taken as Bearer or as x-api-key, and names its caller and role."""
    assert gate.caller(headers=headers) == caller


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "missing"),
        (bearer("wrong"), "invalid"),
        (bearer(USER + "x"), "invalid"),
        (bearer("sch\u00f6n\ud800"), "invalid"),
        ({"authorization": "Invalid format"}, "malformed"),
        (bearer(""), "malformed"),
    ],
    ids=["none", "wrong", "longer", "not-ascii", "another-scheme", "empty"],
)
def test_without_a_valid_key_nobody_is_let_in(
    gate: Gate, headers: dict[str, str], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer is 401 in OpenAI's words, the reason is counted and logged with the source, the key is not."""
    with caplog.at_level(logging.INFO, "proxy.security"):
        error = gate.refusal(headers=headers)
    assert (error.status, error.code) == (401, "invalid_api_key")
    assert gate.counted("auth_failures_total") == {(reason,): 1.0}
    (record,) = caplog.records
    told = vars(record)
    assert (told["event"], told["success"], told["source"], told["request_id"]) == (
        "failed_auth",
        False,
        "203.0.113.9",
        "r1",
    )
    assert "authentication" in record.getMessage()
    assert not headers or headers.get("authorization", "")[7:] not in record.getMessage() or reason == "malformed"


def test_a_key_of_bytes_that_are_no_latin_is_found(make: Any) -> None:
    """A key is hashed as the bytes that came, whatever they spell."""
    key = "schlüssel-" + USER
    gate = make(keys=[{"id": "z", "sha256": hashlib.sha256(key.encode()).hexdigest()}])
    assert gate.caller(headers=bearer(key.encode().decode("latin-1"))).id == "z"


def test_a_user_is_no_admin(gate: Gate) -> None:
    """An admin call with a user's key is 403, and is not held against the address."""
    for _ in range(3 * FAILURES):
        error = gate.refusal("admin", headers=bearer(USER))
        assert (error.status, error.code) == (403, "admin_key_required")
    assert gate.counted("auth_failures_total") == {("forbidden",): 3.0 * FAILURES}
    assert gate.caller("admin", headers=bearer(ADMIN), label="/api/cache").id == "boss"
    assert gate.counted("admin_calls_total") == {("/api/cache", "boss"): 1.0}


# Key files


def key_file(path: Path, key: str) -> Path:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(key + "\n")
    return path


def test_a_changed_key_file_counts_and_the_old_key_no_longer(make: Any, tmp_path: Path) -> None:
    """A second after its file was rewritten the new key is let in and the old one refused, without a restart."""
    old, new = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    file = key_file(tmp_path / "k", old)
    gate = make(keys=[{"id": "f", "role": "admin", "key_file": str(file)}])
    assert gate.caller(headers=bearer(old)).id == "f"
    file.write_text(new)
    assert gate.caller(headers=bearer(old)).id == "f"
    gate.clock.advance(1.0)
    assert gate.caller(headers=bearer(new)).role == "admin"
    assert gate.refusal(headers=bearer(old)).status == 401


@pytest.mark.parametrize("spoil", ["remove", "open", "empty"])
def test_a_key_whose_file_is_spoilt_is_refused(make: Any, tmp_path: Path, spoil: str) -> None:
    """A file that has gone, can be read by others or is empty takes its key with it, until it is mended."""
    key = secrets.token_urlsafe(24)
    file = key_file(tmp_path / "k", key)
    gate = make(keys=[{"id": "f", "key_file": str(file)}])
    match spoil:
        case "remove":
            file.unlink()
        case "open":
            file.chmod(0o644)
        case "empty":
            file.write_text("\n")
    gate.clock.advance(1.0)
    assert gate.refusal(headers=bearer(key)).status == 401
    key_file(file, key)
    gate.clock.advance(1.0)
    assert gate.caller(headers=bearer(key)).id == "f"


def test_a_key_file_that_others_can_read_stops_the_start(make: Any, tmp_path: Path) -> None:
    """At the start it is an error of configuration that names the key's id and not the key."""
    key = secrets.token_urlsafe(24)
    file = key_file(tmp_path / "k", key)
    file.chmod(0o640)
    with pytest.raises(ConfigError, match=r"auth\.keys\.f: .*chmod 600") as refused:
        make(keys=[{"id": "f", "key_file": str(file)}])
    assert key not in str(refused.value)


# Callers of this machine

LOCAL = {"host": "localhost:8000"}


@pytest.mark.parametrize(
    ("anonymous", "peer", "headers", "welcome"),
    [
        ("user", "127.0.0.1", LOCAL, True),
        ("user", "::1", LOCAL, True),
        ("user", "::ffff:127.0.0.1", LOCAL, True),
        ("owner", "127.0.0.1", LOCAL, True),
        ("none", "127.0.0.1", LOCAL, False),
        ("user", "10.0.0.1", LOCAL, False),
        ("user", None, LOCAL, False),
        ("user", "127.0.0.1", LOCAL | {"x-forwarded-for": "1.2.3.4"}, False),
        ("user", "127.0.0.1", LOCAL | {"via": "1.1 edge"}, False),
        ("user", "127.0.0.1", LOCAL | {"origin": "https://evil.example"}, False),
        ("owner", "127.0.0.1", {"host": "rebound.example:8000"}, False),
    ],
    ids=["v4", "v6", "mapped", "owner-too", "none", "elsewhere", "unknown", "forwarded", "via", "page", "rebound"],
)
def test_anonymous_callers(make: Any, anonymous: str, peer: str | None, headers: dict[str, str], welcome: bool) -> None:
    """Without a key callers of this machine are users if the settings say so, but no proxy between and no web page."""
    gate = make(anonymous_loopback=anonymous)
    if welcome:
        assert gate.caller(headers=headers, peer=peer) == Caller("anonymous", "user")
    else:
        assert gate.refusal(headers=headers, peer=peer).status == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "rebound.example:8000"},
        {},
        LOCAL | {"origin": "http://localhost:8000"},
        LOCAL | {"sec-fetch-site": "same-origin"},
        LOCAL | {"referer": "http://localhost:8000/"},
        {"host": "localhost.example"},
        {"host": "127.0.0.1.example"},
        {"host": "[::1"},
    ],
    ids=["rebound", "no-host", "origin", "sec-fetch", "referer", "name-like-ours", "address-like-ours", "torn"],
)
def test_a_page_in_a_browser_is_nobody(headers: dict[str, str]) -> None:
    """What a browser sends for a page, or under a name that is not this machine's, is taken for a page's."""
    assert is_of_a_page(headers)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "127.9.9.9", "[::1]:8000", "[::1]"])
def test_a_command_here_is_no_page(host: str) -> None:
    """curl's request to this machine's own names and addresses is none."""
    assert not is_of_a_page({"host": host, "user-agent": "curl/8"})


async def connected(host: str) -> tuple[asyncio.StreamWriter, asyncio.StreamWriter, asyncio.Server]:
    accepted: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::")
    server = await asyncio.start_server(lambda _reader, writer: accepted.set_result(writer), sock=listener)
    port = listener.getsockname()[1]
    _, client = await asyncio.open_connection("::1" if host == "::1" else "127.0.0.1", port)
    return client, await accepted, server


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::"], ids=["v4", "v6", "mapped"])
async def test_the_proxys_own_user_is_admin(make: Any, host: str) -> None:
    """A connection that this system user made is let in as admin without a key, and is logged as `owner`."""
    gate = make(anonymous_loopback="owner")
    client, accepted, server = await connected(host)
    try:
        line = OwnLine(accepted.transport)
        peer = accepted.get_extra_info("peername")[0]
        assert gate.caller("admin", headers=LOCAL, peer=peer, line=line) == Caller("owner", "admin")
        assert gate.refusal("admin", headers=LOCAL | {"origin": "null"}, peer=peer, line=line).status == 401
        assert gate.refusal("admin", headers=LOCAL | {"x-real-ip": "::1"}, peer=peer, line=line).status == 401
        assert gate.refusal("admin", headers=LOCAL | bearer("x"), peer=peer, line=line).status == 401
    finally:
        client.close()
        accepted.close()
        server.close()
        await server.wait_closed()


async def test_another_user_of_this_machine_is_not_admin(make: Any) -> None:
    """A connection that another system user made is nobody's here."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a connection in another user's name")
    gate = make(anonymous_loopback="owner")
    accepted: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda _reader, writer: accepted.set_result(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    script = f"import socket,sys; c=socket.create_connection(('127.0.0.1',{port})); sys.stdin.read()"
    child = await asyncio.create_subprocess_exec(
        "/usr/bin/env", "python3", "-c", script, stdin=asyncio.subprocess.PIPE, user=65534
    )
    writer = await asyncio.wait_for(accepted, 20)
    try:
        visit = {"headers": LOCAL, "peer": "127.0.0.1", "line": OwnLine(writer.transport)}
        assert owner(writer.get_extra_info("peername"), writer.get_extra_info("sockname")) == 65534
        assert gate.refusal("admin", **visit).status == 401
        assert gate.caller("user", **visit).id == "anonymous"
    finally:
        await child.communicate(b"")
        writer.close()
        server.close()
        await server.wait_closed()


async def test_a_connection_that_was_closed_is_nobodys() -> None:
    """The kernel shows what its process has closed as root's; it is taken for nobody's."""
    client, accepted, server = await connected("127.0.0.1")
    ends = accepted.get_extra_info("peername"), accepted.get_extra_info("sockname")
    assert owner(*ends) == os.geteuid()
    client.close()
    await client.wait_closed()
    assert owner(*ends) is None
    accepted.close()
    server.close()
    await server.wait_closed()


# Those who keep failing


def test_an_address_that_keeps_failing_is_held_off_but_no_valid_key(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """After ten failures in a minute the address gets 429 for a minute; a valid key from there is let in meanwhile,
    other addresses are not concerned, and the log stays short."""
    assert [gate.refusal(headers=bearer(f"{n}")).status for n in range(FAILURES)] == [401] * FAILURES
    caplog.clear()
    with caplog.at_level(logging.INFO, "proxy.security"):
        errors = [gate.refusal(headers=bearer("again")) for _ in range(50)]
    assert {error.status for error in errors} == {429}
    assert len(caplog.records) == 1
    assert (b"retry-after", b"60") in errors[0].headers
    assert gate.caller(headers=bearer(USER)).id == "joe"
    assert gate.refusal(headers=bearer("x"), peer="203.0.113.10").status == 401
    assert gate.counted("auth_failures_total")[("throttled",)] == 49.0
    gate.clock.advance(SECONDS)
    assert gate.refusal(headers=bearer("x")).status == 401


def test_what_a_held_off_address_goes_on_sending_is_told_in_sums(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    """Every ten seconds one line with the number of failures since the last, so that a watcher sees that it goes on;
    and once that a valid key came from there, so that nobody shuts out its owner unknowingly."""
    for _ in range(FAILURES + 1):
        gate.refusal(headers=bearer("wrong"))
    caplog.clear()
    with caplog.at_level(logging.INFO, "proxy.security"):
        for _ in range(3):
            gate.clock.advance(4)
            for _ in range(5):
                gate.refusal(headers=bearer("again"))
            gate.caller(headers=bearer(USER))
    told = [(record.event, getattr(record, "failures", None), record.source) for record in caplog.records]
    assert told == [("admitted_among_failures", None, "203.0.113.9"), ("failed_auth", 11, "203.0.113.9")]


def test_a_valid_key_among_failures_is_told_once_it_looks_odd() -> None:
    """From the third failure within a minute on, held off or not; again after a minute, and never of others."""
    sources = Sources()
    told = []
    for now in (0.0, 1.0, 2.0, 3.0):
        sources.failed("192.0.2.1", now)
        told.append((sources.admitted("192.0.2.1", now), sources.admitted("192.0.2.2", now)))
    assert told == [(False, False), (False, False), (True, False), (False, False)]
    assert not sources.admitted("192.0.2.1", 100.0)
    for _ in range(FAILURES + 1):
        sources.failed("192.0.2.1", 101.0)
    assert sources.admitted("192.0.2.1", 130.0)


def test_failures_far_apart_are_not_held_against_anybody() -> None:
    """Ten failures a minute for an hour never hold an address off."""
    sources = Sources()
    assert {sources.failed("192.0.2.1", 6.1 * number)[0] for number in range(600)} == {0.0}


def test_the_table_of_addresses_is_bounded() -> None:
    """However many addresses fail, a thousand are remembered; a whole /64 counts as one, a mapped address as IPv4."""
    sources = Sources()
    for number in range(5000):
        sources.failed(f"10.1.{number // 250}.{number % 250}", 0.0)
    assert len(sources) == 1024
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:2%eth0") == "2001:db8::/64"
    assert network_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert network_of("not:an:address") == network_of(None) == "unknown"


@pytest.mark.parametrize("name", ["anonymous", "owner"])
def test_a_key_cannot_be_called_as_those_without_one(name: str) -> None:
    """An id that stands for callers without a key is refused."""
    with pytest.raises(ValueError, match="stands for callers without a key"):
        Auth.model_validate({"keys": [{"id": name, "sha256": "a" * 64}]})


def test_two_ids_for_one_key_are_refused() -> None:
    """One key cannot be two callers."""
    keys = [{"id": "a", "sha256": "a" * 64}, {"id": "b", "sha256": "A" * 64}]
    with pytest.raises(ValueError, match="'b' is the same key as 'a'"):
        Auth.model_validate({"keys": keys})


def test_a_made_key_is_the_one_that_its_hash_lets_in(make: Any) -> None:
    """`llm-proxy key new` tells a key and an entry for the configuration that lets it in; `key hash` tells the same
    hash of it, read from standard input."""

    def run(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "proxy", "key", *words]
        return subprocess.run(command, input=given, capture_output=True, text=True, check=False)

    shown, entry = run("new", "--id", "ann's", "--admin").stdout.splitlines()
    key = shown.rpartition(" ")[2]
    (configured,) = yaml.safe_load(entry.partition(":")[2])
    assert make(keys=[configured]).caller("admin", headers=bearer(key)) == Caller("ann's", "admin")
    assert run("hash", given=key + "\n").stdout.strip() == configured["sha256"]
    assert run("hash").returncode == 2
