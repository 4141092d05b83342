"""The unit files as systemd's own judges see them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from installed_lab import AGENT, PROXY, UNITS, Lab

MOST_EXPOSED = 1.5
YOUNGER_KEYS = {"RestartSteps", "RestartMaxDelaySec"}
"""What systemd 254 brought; an older one warns and goes on without them."""
UNKNOWN = re.compile(r"Unknown key(?: name)? '(\w+)'")
ALL_UNITS = sorted(path.name for path in UNITS.iterdir() if path.suffix in (".service", ".socket"))


def test_every_unit_is_valid(lab: Lab) -> None:
    """`systemd-analyze verify` has nothing to say of any unit, but for keys that a younger systemd knows."""
    names = [name.replace("@.", "@example.") for name in ALL_UNITS]
    done = lab.run("systemd-analyze", "verify", "--man=no", *names, check=False)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if re.search("llm-proxy|proxywatch", line)]
    unknown = {match[1] for line in ours if (match := UNKNOWN.search(line))}
    assert unknown <= YOUNGER_KEYS
    assert [line for line in ours if not UNKNOWN.search(line)] == []


@pytest.mark.parametrize("unit", [name for name in ALL_UNITS if name.endswith(".service")])
def test_exposure_stays_small(lab: Lab, unit: str, record_property: Callable[[str, object], None]) -> None:
    """`systemd-analyze security` counts at most 1.5 of 10 for each service, of what its file says by itself."""
    place = f"/etc/systemd/system/{unit}"
    told = lab.run("systemd-analyze", "security", "--offline=yes", "--no-pager", place).stdout
    figure = re.search(r"Overall exposure level for \S+: ([\d.]+)", told)
    assert figure, told
    record_property("figure", f"exposure of {unit}: {figure[1]}")
    assert float(figure[1]) <= MOST_EXPOSED


def test_what_is_still_exposed_is_explained(lab: Lab) -> None:
    """Each point that `systemd-analyze security` still counts is named in the comments of the unit."""
    for unit in (PROXY, AGENT):
        told = lab.run(
            "systemd-analyze", "security", "--offline=yes", "--json=short", f"/etc/systemd/system/{unit}"
        ).stdout
        exposed = {entry["json_field"] for entry in json.loads(told) if float(entry.get("exposure") or 0) > 0}
        comments = re.sub(r"\n#\s*", " ", (UNITS / unit).read_text())
        assert exposed, "a service without any exposure is not what systemd says of these"
        for field in exposed:
            name = field.removeprefix("RestrictAddressFamilies_")
            name = {"RootDirectoryOrRootImage": "RootDirectory", "AF_INET_INET6": "AF_INET6"}.get(name, name)
            assert name in comments, f"{unit}: {field}"


def test_users_and_directories_are_made_twice_to_the_same_result(lab: Lab) -> None:
    """sysusers and tmpfiles change nothing when they run again, and the credentials belong to root alone."""
    look = ("stat", "--format=%n %U %G %a", "/etc/llm-proxy", "/etc/proxywatch", "/etc/credstore/llm-proxy")
    before = lab.run(*look).stdout
    lab.run("systemd-sysusers")
    lab.run("systemd-tmpfiles", "--create", "proxywatch.conf")
    assert lab.run(*look).stdout == before
    assert "/etc/credstore/llm-proxy root root 700" in before
    groups = set(lab.run("id", "--name", "--groups", "proxywatch").stdout.split())
    assert groups == {"proxywatch", "llm-proxy", "systemd-journal"}


def test_the_catalogue_is_taken_and_shown(lab: Lab) -> None:
    """journalctl takes the catalogue without a complaint and shows a text of it for an id."""
    lab.booted.write("/usr/lib/systemd/catalog/proxywatch.catalog", (UNITS / "catalog/proxywatch.catalog").read_text())
    told = lab.run("journalctl", "--update-catalog")
    assert told.stderr == ""
    shown = lab.run("journalctl", "--dump-catalog", "27fc25144c644a2f95ec5bc749bc77d2").stdout
    assert "Defined-By: proxywatch" in shown
