"""Where everything of an installation has its place. Paths are those of the host, whatever root it is seen under."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

HOME = "/opt/proxywatch"
RECORD = "/usr/local/lib/proxywatch/installed.json"
"""Beside nothing that a service's user may write: whoever could change it would choose what root removes."""
ARCHIVES = "/var/backups/proxywatch"
PROXY_FILE = "/etc/llm-proxy/llm-proxy.yaml"
AGENT_FILE = "/etc/proxywatch/proxywatch.yaml"
ADMIN_KEY = "llm-proxy-admin.key"
CREDENTIALS_OF_AGENT = "/run/credentials/proxywatch.service"

SOCKET = "llm-proxy.socket"
PROXY = "llm-proxy.service"
AGENT = "proxywatch.service"
UNITS = (SOCKET, PROXY, AGENT)
PROGRAMS = ("llm-proxy", "proxywatch")
USERS = ("llm-proxy", "proxywatch")

CREDENTIALS = {
    "/etc/llm-proxy/credentials": "/etc/credstore/llm-proxy",
    "/etc/proxywatch/credentials": "/etc/credstore/proxywatch",
}
"""Where secrets once were, below a directory that the agent may write in, and where they are: systemd's own place for
them, in which root alone decides what it hands to whom."""
CONFIGURATION = ("/etc/llm-proxy", "/etc/proxywatch", *CREDENTIALS.values())
DATA = ("/var/lib/llm-proxy", "/var/lib/proxywatch", "/var/log/llm-proxy", "/var/log/proxywatch", ARCHIVES)

_PLACES = {
    ("", ".service"): "/usr/local/lib/systemd/system",
    ("", ".socket"): "/usr/local/lib/systemd/system",
    ("", ".timer"): "/usr/local/lib/systemd/system",
    ("", ".catalog"): "/usr/local/lib/systemd/catalog",
    ("catalog", ".catalog"): "/usr/local/lib/systemd/catalog",
    ("sysusers.d", ".conf"): "/usr/local/lib/sysusers.d",
    ("tmpfiles.d", ".conf"): "/usr/local/lib/tmpfiles.d",
    ("polkit", ".rules"): "/etc/polkit-1/rules.d",
}
"""By folder and suffix. Not /etc/systemd/system, where `systemctl mask` finds no room if the unit itself is there."""


def place_of_system_file(name: str) -> str | None:
    """Where a file of `systemd/` belongs, from its path in there; None for what is no such file."""
    path = PurePosixPath(name)
    folder = "" if str(path.parent) == "." else str(path.parent)
    place = _PLACES.get((folder, path.suffix))
    return f"{place}/{path.name}" if place else None


def place_of_configuration(name: str) -> str:
    """Where a file of `config/` belongs."""
    return PROXY_FILE if name == "llm-proxy.yaml" else f"/etc/proxywatch/{name}"


@dataclass(frozen=True, slots=True)
class Environment:
    """The virtual environment that the units use. `release` names ours; None is one that the caller brings."""

    programs: str
    """The directory that the units name."""
    release: str | None = None
    home: str = HOME

    @property
    def directory(self) -> str:
        """The environment itself."""
        return f"{self.home}/releases/{self.release}" if self.release else str(Path(self.programs).parent)


def own_environment(release: str, home: str = HOME) -> Environment:
    """One that is built for a release. The units name `HOME/bin`, which leads to the release in use."""
    return Environment(f"{home}/bin", release, home)


def brought_environment(directory: str) -> Environment:
    """One that is there already."""
    return Environment(f"{directory}/bin")
