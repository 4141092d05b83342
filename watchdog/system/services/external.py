"""`external`: a service that is watched and never touched. What reads a pidfile stands here too."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from watchdog.system.kernel_files import read_small
from watchdog.system.process import ProcessIdentity, identify, started_at, wait_exit
from watchdog.system.services import ServiceContext, ServiceError, ServiceSettings, ServiceStatus, services


class ExternalSettings(ServiceSettings):
    """Without a pidfile its state is unknown here, and only probes tell how it is."""

    kind: Literal["external"]
    pidfile: Path | None = None


@services.register(ExternalSettings)
class ExternalService:
    """See the module."""

    def __init__(self, settings: ExternalSettings, context: ServiceContext) -> None:
        self.name = context.name
        self._pidfile = settings.pidfile

    async def status(self) -> ServiceStatus:
        if self._pidfile is None:
            return ServiceStatus("unknown", note="external, without a pidfile")
        return pidfile_status(self._pidfile)

    async def start(self) -> None:
        raise self._hands_off("started")

    async def stop(self) -> None:
        raise self._hands_off("stopped")

    async def halt(self) -> None:
        raise self._hands_off("stopped")

    async def restart(self) -> None:
        raise self._hands_off("restarted")

    async def wait_exit(self) -> None:
        if self._pidfile is None:
            raise ServiceError(f"{self.name}: external and without a pidfile: its end is not announced", permanent=True)
        identity = read_pidfile(self._pidfile)
        if identity is not None:
            await wait_exit(identity)

    def _hands_off(self, what: str) -> ServiceError:
        return ServiceError(f"{self.name} is external: it is watched and never {what}", permanent=True)


def read_pidfile(path: Path) -> ProcessIdentity | None:
    """The process whose number the file holds; None if there is no file or no such process.

    A process that started after the file was written is another one with a reused number. Raises ServiceError for a
    file that cannot be read or holds no number.
    """
    try:
        text = read_small(str(path)).decode()
        written_at = path.stat().st_mtime
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ServiceError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        pid = int(text.split()[0])
    except (IndexError, ValueError):
        raise ServiceError(f"{path}: does not begin with a process number") from None
    identity = identify(pid) if pid > 0 else None
    if identity is not None and started_at(identity) > written_at + _CLOCK_SLACK_SECONDS:
        return None
    return identity


_CLOCK_SLACK_SECONDS = 2.0
"""The kernel tells start times from a boot time in whole seconds."""


def pidfile_status(path: Path) -> ServiceStatus:
    """Running or stopped, by a pidfile."""
    identity = read_pidfile(path)
    if identity is None:
        return ServiceStatus("stopped", note=f"{path} names no running process")
    return ServiceStatus("running", identity, started_at(identity))
