"""The packaged configuration as a host under systemd has it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml

from watchdog.errors import InstallationError
from watchdog.installation.configuration import credentials_directory, host_configuration, host_unit
from watchdog.installation.layout import place_of_configuration, place_of_system_file

REPOSITORY = Path(__file__).resolve().parents[3]
CONFIG = REPOSITORY / "config"
NAMES = sorted(str(path.relative_to(CONFIG)) for path in CONFIG.rglob("*.yaml"))
KEY = "a key that is made up"


def hosted(name: str) -> str:
    return host_configuration(name, (CONFIG / name).read_text(), KEY)


@pytest.mark.parametrize("name", NAMES)
def test_no_place_is_relative_to_a_checkout(name: str) -> None:
    """No value of any packaged file is below var/ or config/ of a working directory, and none has the key in it."""
    text = hosted(name)
    values = " ".join(line.partition("#")[0] for line in text.splitlines())
    assert not any(word.lstrip("[{\"'").startswith(("var/", "config/")) for word in values.split())
    assert KEY not in text


def test_the_agent_watches_the_unit() -> None:
    """llm-proxy is a unit, with the paths and the credential that its units have."""
    found = yaml.safe_load(hosted("proxywatch.yaml"))
    service = found["services"]["llm-proxy"]
    assert (service["kind"], service["unit"]) == ("unit", "llm-proxy.service")
    assert not {"argv", "ready_url"} & set(service)
    assert service["proxy"]["master_socket"] == "/run/llm-proxy/master.sock"
    assert service["proxy"]["admin_key_file"] == "/run/credentials/proxywatch.service/secret_llm-proxy-admin.key"
    assert service["recovery"]["files"] == ["/etc/llm-proxy/llm-proxy.yaml"]
    assert service["recovery"]["check"] == ["llm-proxy", "config", "check", "--without-secrets", "{file}"]
    assert service["recovery"]["databases"] == ["/var/lib/llm-proxy/ledger.sqlite"]
    assert [place["directory"] for place in service["recovery"]["cache"]] == ["/var/lib/llm-proxy/shared"]
    assert (found["state_dir"], found["run_dir"], found["log_dir"]) == (
        "/var/lib/proxywatch",
        "/run/proxywatch",
        "/var/log",
    )


def test_the_proxy_knows_its_admin_key_by_digest_only() -> None:
    """auth.keys has SHA-256 of the key instead of a file, and demonstration faults are off."""
    found = yaml.safe_load(hosted("llm-proxy.yaml"))
    assert found["auth"]["keys"] == [
        {"id": "admin", "role": "admin", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}
    ]
    assert "faults" not in found
    assert (found["run_dir"], found["state_dir"]) == ("/run/llm-proxy", "/var/lib/llm-proxy")


def test_two_places_of_a_checkout_that_are_one_on_the_host_stand_there_once() -> None:
    """The disk probe, which refuses a path that stands twice, gets each once."""
    paths = yaml.safe_load(hosted("proxywatch.yaml"))["probes"]["places"]["paths"]
    assert len(paths) == len(set(paths))


def test_a_file_that_was_not_foreseen_is_refused() -> None:
    """A configuration in which nothing matches a change that must be made is an error that names the file."""
    with pytest.raises(InstallationError, match=r"config/llm-proxy\.yaml"):
        host_configuration("llm-proxy.yaml", "workers: 2\n", KEY)
    with pytest.raises(InstallationError, match="config/mine would be relative"):
        host_configuration("rules/x.yaml", "file: config/mine\n", KEY)


@pytest.mark.parametrize(
    "name",
    sorted(str(p.relative_to(REPOSITORY / "systemd")) for p in (REPOSITORY / "systemd").rglob("*") if p.is_file()),
)
def test_each_file_for_systemd_has_a_place(name: str) -> None:
    """Whatever is added to systemd/ is installed somewhere, and units where `systemctl mask` can mask them."""
    place = place_of_system_file(name)
    assert place is not None
    assert not place.startswith("/etc/systemd/")


def test_a_file_of_another_kind_has_none() -> None:
    """A README or a folder nobody knows is not put onto a host."""
    assert place_of_system_file("README.md") is None
    assert place_of_system_file("secret/x.service") is None
    assert place_of_configuration("rules/x.yaml") == "/etc/proxywatch/rules/x.yaml"


def test_units_run_the_programs_that_were_installed() -> None:
    """Every path of /opt/proxywatch leads to the environment in use, and the agent's credentials have a directory."""
    text = (REPOSITORY / "systemd/proxywatch.service").read_text()
    moved = host_unit(text, "/srv/venv/bin")
    assert "ExecStart=/srv/venv/bin/proxywatch run" in moved
    assert "/opt/proxywatch/" not in moved
    assert credentials_directory(text) == "/etc/credstore/proxywatch"
    with pytest.raises(InstallationError):
        credentials_directory("[Service]\n")
