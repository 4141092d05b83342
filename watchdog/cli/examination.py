"""What `proxywatch doctor` looks at: one function a question, each with what was found and what to do."""

from __future__ import annotations

import argparse
import ctypes
import http.client
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from watchdog.cli import text
from watchdog.cli.control import RefusedRequest, Unreachable, control_of
from watchdog.errors import ConfigError, EnvironmentUnfit

LITTLE_SPACE_BYTES = 1024**3
TOO_LITTLE_SPACE_BYTES = 100 * 1024**2
_PROXY_TIMEOUT_SECONDS = 2.0
_ADJTIMEX_BUFFER_BYTES = 512
_CLOCK_UNSYNCHRONISED = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `state`: ok, warn (it runs, but not as well), fail; `advice`: what to do."""

    what: str
    state: str
    found: str
    advice: str = ""


def examine(options: argparse.Namespace) -> Iterator[Finding]:
    """Every finding, in the order in which a person would look."""
    yield Finding("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")
    yield environment()
    yield kernel_pidfd()
    yield kernel_pressure()
    yield clock()
    yield from _configured(options)
    yield _daemon(options)


def environment() -> Finding:
    """Whether our import names are ours."""
    from watchdog.environment import check_environment

    try:
        check_environment()
    except EnvironmentUnfit as error:
        return Finding("import names", "fail", str(error), error.hint)
    return Finding("import names", "ok", "`watchdog` and `proxy` belong to proxywatch")


def kernel_pidfd() -> Finding:
    """Whether the kernel announces the end of processes (Linux 5.3)."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        advice = "use Linux 5.3 or newer, or allow pidfd_open in the container's seccomp profile"
        return Finding("pidfd", "fail", f"pidfd_open does not work: {error.strerror}", advice)
    return Finding("pidfd", "ok", "the kernel announces the end of a process")


def kernel_pressure() -> Finding:
    """Whether the kernel says who waits for what (PSI)."""
    try:
        Path("/proc/pressure/memory").read_text()
    except OSError as error:
        advice = "boot with psi=1; without it memory and I/O pressure are not seen, all else works"
        return Finding("pressure", "warn", f"/proc/pressure: {error.strerror}", advice)
    return Finding("pressure", "ok", "pressure stall information is there")


def clock() -> Finding:
    """Whether somebody keeps the clock right, as the kernel knows it (adjtimex)."""
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_ADJTIMEX_BUFFER_BYTES))
    if state == _CLOCK_UNSYNCHRONISED:
        advice = "run chrony or systemd-timesyncd; wrong times mislead whoever reads the incidents"
        return Finding("clock", "warn", "nothing keeps this machine's clock synchronised", advice)
    if state < 0:
        return Finding("clock", "warn", "the kernel does not tell whether the clock is synchronised")
    return Finding("clock", "ok", "synchronised")


def _configured(options: argparse.Namespace) -> Iterator[Finding]:
    from watchdog.cli.judge import judge
    from watchdog.settings import load_config

    judged = judge(options.config)
    if judged.problems:
        for problem in judged.problems:
            yield Finding("configuration", "fail", problem, "correct it; `proxywatch config check` judges it again")
    else:
        yield Finding("configuration", "ok", f"{judged.file}: {text.count(judged.probes, 'probe')}, "
                      f"{text.count(judged.rules, 'rule')}, {text.count(judged.playbooks, 'playbook')}")  # fmt: skip
    try:
        config = load_config(Path(options.config) if options.config else None).config
    except ConfigError:
        return  # told above
    for key in ("state_dir", "run_dir", "log_dir"):
        yield writable(key, getattr(config, key))
    yield space(config.state_dir)
    for name, service in config.services.items():
        if service.proxy is not None:
            yield proxy_answers(name, service.proxy.url)


def writable(key: str, directory: Path) -> Finding:
    """Whether we may write there, or make it."""
    place = _existing(directory)
    if os.access(place, os.W_OK | os.X_OK):
        return Finding(key, "ok", f"{directory}" + ("" if place == directory else " can be made"))
    advice = f"give {place} to the user that runs proxywatch, or change {key}"
    return Finding(key, "fail", f"{directory}: user {os.getuid()} may not write in {place}", advice)


def space(directory: Path) -> Finding:
    """Whether there is room for the agent's own memory."""
    free = shutil.disk_usage(_existing(directory)).free
    found = f"{text.size(free)} free for {directory}"
    if free < TOO_LITTLE_SPACE_BYTES:
        return Finding("disk", "fail", found, "make room: without its memory proxywatch acts on nothing")
    if free < LITTLE_SPACE_BYTES:
        return Finding("disk", "warn", found, "make room before it runs out")
    return Finding("disk", "ok", found)


def _existing(directory: Path) -> Path:
    """The directory, or the nearest one above it that exists."""
    place = directory.absolute()
    while not place.exists():
        place = place.parent
    return directory if place == directory.absolute() else place


def proxy_answers(name: str, url: str) -> Finding:
    """Whether the service's proxy answers on its public port."""
    parts = urlsplit(url)
    kind: Callable[..., http.client.HTTPConnection] = (
        http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    )
    connection = kind(parts.hostname, parts.port, timeout=_PROXY_TIMEOUT_SECONDS)
    try:
        connection.request("GET", parts.path.rstrip("/") + "/health/live")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        advice = "`proxywatch run` starts a service of kind `child`; otherwise start it yourself"
        return Finding(name, "warn", f"{url} does not answer: {reason}", advice)
    finally:
        connection.close()
    if status >= 500:
        return Finding(name, "warn", f"{url}/health/live answers {status}", "see its log, and `proxywatch status`")
    return Finding(name, "ok", f"{url} answers")


def _daemon(options: argparse.Namespace) -> Finding:
    try:
        control = control_of(options)
        shape = control.get("/v1/status")
    except (Unreachable, RefusedRequest, ConfigError) as error:
        return Finding("daemon", "warn", str(error), error.hint)
    return Finding("daemon", "ok", f"pid {shape['pid']} answers on {control.path}: {shape['verdict']['text']}")
