"""PURE. The packaged configuration, which runs from a checkout, as a host under systemd has it.

The text is kept with its comments. Each change must find what it changes, so that no release is installed whose
configuration was rewritten in part.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from watchdog.errors import InstallationError
from watchdog.installation.layout import ADMIN_KEY, CREDENTIALS_OF_AGENT, HOME, PROXY, PROXY_FILE


@dataclass(frozen=True, slots=True)
class _Change:
    """`must`: without a match the file is not the one that this was written for."""

    pattern: str
    text: str
    must: bool = True


_PLACES = (
    _Change(r"(?<![\w./-])var/run/", "/run/", must=False),
    _Change(r"(?<![\w./-])var/(?=lib|log)", "/var/", must=False),
    _Change(r"(?<![\w./-])config/llm-proxy\.yaml", PROXY_FILE, must=False),
)
"""A relative path becomes the host's own."""

_AGENT = (
    _Change(r"(?m)^    kind: child\b.*$", f"    kind: unit                      # systemd's own\n    unit: {PROXY}"),
    _Change(r"(?m)^    argv: \[llm-proxy, run\].*\n", ""),
    _Change(r"(?m)^    ready_url: .*\n", ""),
    _Change(
        r"(?m)^(      admin_key_file: )\S+.*$",
        rf"\g<1>{CREDENTIALS_OF_AGENT}/secret_{ADMIN_KEY}   # systemd hands it over",
    ),
    # The secrets of llm-proxy are handed to its unit alone, and the agent has to judge without.
    _Change(r"(?m)^(      check: \[llm-proxy, config, check)(, \"\{file\}\"\])", r"\g<1>, --without-secrets\g<2>"),
    # The socket unit gives its port up a moment after the service has stopped.
    _Change(r", ports: \[8000\]", "", must=False),
)

_PROXY = (
    _Change(r"(?m)^(      )key_file: \S+/admin\.key\b.*$", r"\g<1>sha256: @DIGEST@"),
    _Change(r"(?m)^faults: true\b.*\n?", ""),
)

_LEFT = re.compile(r"(?m)^(?!\s*#)(?:[^#\n]*?)(?<![\w./-])(var/\S+|config/\S+)")


def host_configuration(name: str, text: str, admin_key: str) -> str:
    """One file of `config/`, by its path there. The proxy gets the key's digest only. Raises InstallationError."""
    changes: tuple[_Change, ...] = _PLACES
    if name == "proxywatch.yaml":
        changes += _AGENT
    elif name == "llm-proxy.yaml":
        changes += _PROXY
    for change in changes:
        text, count = re.subn(change.pattern, change.text, text)
        if change.must and not count:
            raise InstallationError(f"config/{name}: nothing matches {change.pattern}", hint="this release is damaged")
    if left := _LEFT.search(text):
        raise InstallationError(
            f"config/{name}: {left[1]} would be relative to nothing", hint="this release is damaged"
        )
    text = re.sub(r"(?m)^(.*\b(?:paths|directories): )\[([^\]]*)\]", _each_once, text)
    return text.replace("@DIGEST@", hashlib.sha256(admin_key.encode()).hexdigest())


def _each_once(match: re.Match[str]) -> str:
    """Two places of a checkout may be one on the host."""
    return f"{match[1]}[{', '.join(dict.fromkeys(part.strip() for part in match[2].split(',')))}]"


def host_unit(text: str, programs: str) -> str:
    """A unit file for programs that are elsewhere than it says; its documentation is beside them."""
    return text.replace(f"{HOME}/", f"{programs.rpartition('/')[0]}/")


def credentials_directory(unit: str) -> str:
    """The directory whose files the unit is handed as `secret_FILE`. Raises InstallationError."""
    found = re.search(r"(?m)^LoadCredential=secret:(/\S+)$", unit)
    if found is None:
        raise InstallationError("proxywatch.service takes no credentials", hint="this release is damaged")
    return found[1]
