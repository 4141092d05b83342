"""`command`: the service belongs to an init system; it is started, stopped and asked by that system's own commands."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from watchdog.errors import ActionError
from watchdog.registry import Duration
from watchdog.system.command import run_command
from watchdog.system.process import wait_exit
from watchdog.system.services import (
    ServiceContext,
    ServiceError,
    ServiceSettings,
    ServiceState,
    ServiceStatus,
    services,
)
from watchdog.system.services.external import pidfile_status, read_pidfile
from watchdog.system.services.record import RecordFile, ServiceRecord

_STATUS_TIMEOUT_SECONDS = 10.0
_STATES: dict[int, ServiceState] = {0: "running", 1: "failed", 2: "failed", 3: "stopped"}
"""Exit statuses of `status` in an LSB init script; `systemctl is-active` uses 0 and 3 in the same way."""


class CommandSettings(ServiceSettings):
    """argv lists, never a shell. A command has done its work when it exits with 0."""

    kind: Literal["command"]
    start: tuple[str, ...] = Field(min_length=1)
    stop: tuple[str, ...] = Field(min_length=1)
    restart: tuple[str, ...] | None = Field(None, min_length=1)
    """Stop and start, if there is no such command."""
    status: tuple[str, ...] | None = Field(None, min_length=1)
    """Exit 0: running; 3: stopped; 1 and 2: failed; anything else: unknown."""
    stopped_output: str = ""
    """What `status` prints last when somebody stopped the service on purpose (`inactive` from `systemctl is-active`):
    then nobody starts it again. Empty: a stop by hand cannot be told from an end that nobody wanted."""
    pidfile: Path | None = None
    """Where the service writes its number: only with it can its end be announced."""
    start_timeout: Duration = 60.0
    stop_timeout: Duration = 60.0


@services.register(CommandSettings)
class CommandService:
    """See the module."""

    def __init__(self, settings: CommandSettings, context: ServiceContext) -> None:
        self.name = context.name
        self._settings = settings
        self._clock = context.clock
        self._file = RecordFile(context.run_dir, context.name)

    async def status(self) -> ServiceStatus:
        record = self._file.read()
        stopped_by_us = record is not None and not record.wanted
        by_pidfile = pidfile_status(self._settings.pidfile) if self._settings.pidfile else None
        if self._settings.status is None:
            found = by_pidfile or ServiceStatus("unknown", note="neither `status` nor `pidfile` is configured")
        else:
            result = await run_command(self._settings.status, timeout=_STATUS_TIMEOUT_SECONDS)
            state = _STATES.get(result.status, "unknown")
            note = result.tail or f"{self._settings.status[0]} exited with {result.status}"
            found = ServiceStatus(state, note=note)
            if by_pidfile is not None and state == "running":
                found = replace(found, identity=by_pidfile.identity, since=by_pidfile.since)
            halted = record is not None and record.halted
            if state == "stopped" and not halted and self._settings.stopped_output == result.tail != "":
                return replace(found, on_purpose=True)
        if stopped_by_us and found.state in ("stopped", "failed"):
            return replace(found, state="stopped", on_purpose=True)
        return found

    async def start(self) -> None:
        async with self._lock():
            self._file.write(ServiceRecord(wanted=True))
            await self._run(self._settings.start, self._settings.start_timeout)

    async def stop(self) -> None:
        async with self._lock():
            self._file.write(ServiceRecord(wanted=False))
            await self._run(self._settings.stop, self._settings.stop_timeout)

    async def halt(self) -> None:
        async with self._lock():
            self._file.write(ServiceRecord(wanted=True, halted=True))
            await self._run(self._settings.stop, self._settings.stop_timeout)

    async def restart(self) -> None:
        async with self._lock():
            self._file.write(ServiceRecord(wanted=True))
            both = self._settings.start_timeout + self._settings.stop_timeout
            if self._settings.restart is not None:
                await self._run(self._settings.restart, both)
            else:
                await self._run(self._settings.stop, self._settings.stop_timeout)
                await self._run(self._settings.start, self._settings.start_timeout)

    async def wait_exit(self) -> None:
        if self._settings.pidfile is None:
            raise ServiceError(f"{self.name}: no `pidfile` is configured, so its end is not announced", permanent=True)
        identity = read_pidfile(self._settings.pidfile)
        if identity is not None:
            await wait_exit(identity)

    def _lock(self) -> AbstractAsyncContextManager[None]:
        return self._file.lock(self._settings.start_timeout + self._settings.stop_timeout)

    async def _run(self, argv: tuple[str, ...], timeout: float) -> None:
        try:
            result = await run_command(argv, timeout=timeout)
        except ActionError as error:
            raise ServiceError(f"{self.name}: {error}", permanent=error.permanent) from error
        if result.status != 0:
            lines = tuple(result.output.splitlines()[-15:])
            raise ServiceError(
                f"{self.name}: {argv[0]} exited with {result.status}: {result.tail}",
                exit_code=result.status,
                log_lines=lines,
            )
