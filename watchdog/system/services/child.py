"""`child`: proxywatch starts the service itself, in a session of its own, and finds it again after its own death.

Nothing ties the service's life to ours: no parent-death signal, no shared process group, no pipe. What is remembered
is its number and start time, written before anybody is told that it runs. If we die in the few milliseconds between
the start and that record, the process is found by a token in its environment.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from watchdog.registry import Duration
from watchdog.system.http import HttpError
from watchdog.system.process import (
    ProcessIdentity,
    ProcessStat,
    boot_id,
    identify,
    list_pids,
    read_stat,
    terminate,
    wait_exit,
)
from watchdog.system.services import (
    ServiceContext,
    ServiceError,
    ServiceSettings,
    ServiceStatus,
    services,
)
from watchdog.system.services.record import RecordFile, ServiceRecord
from watchdog.system.tail import tail

TOKEN_VARIABLE = "PROXYWATCH_START"  # noqa: S105 - the name of a variable, no secret
_LIVED_SECONDS = 1.0
_READY_RETRY_SECONDS = 0.1
_DOUBTED_SECONDS = 3.0
"""Where somebody else has its port already, our process has to live this long: most find that out and end at once."""
_DOUBT_TIMEOUT_SECONDS = 1.0
_LOG_LINES = 15


class ChildSettings(ServiceSettings):
    """A program that stays in the foreground."""

    kind: Literal["child"]
    argv: tuple[str, ...] = Field(min_length=1)
    directory: Path | None = None
    environment: dict[str, str] = Field(default_factory=dict)
    """Added to our own."""
    log_file: Path | None = None
    """Gets what it prints, appended; NAME.log in the log directory by default."""
    stop_timeout: Duration = 30.0
    """Between TERM and KILL."""
    start_timeout: Duration = 20.0
    ready_url: str | None = None
    """The start is complete when this answers below 500; without it, when the process has lived for a second."""


@services.register(ChildSettings)
class ChildService:
    """See the module."""

    def __init__(self, settings: ChildSettings, context: ServiceContext) -> None:
        self.name = context.name
        self._settings = settings
        self._clock = context.clock
        self._http = context.http
        self._file = RecordFile(context.run_dir, context.name)
        self._log_file = settings.log_file or context.log_dir / f"{context.name}.log"
        self._started: subprocess.Popen[bytes] | None = None
        self._starting = False

    async def status(self) -> ServiceStatus:
        record = self._file.read()
        if record is None:
            return ServiceStatus("stopped", note="never started")
        identity = await self._find(record)
        if identity is not None:
            return ServiceStatus("starting" if self._starting else "running", identity, record.started_at or None)
        how = self._exit_note()
        if not record.wanted:
            return ServiceStatus("stopped", note=f"stopped on purpose{how}", on_purpose=True)
        return ServiceStatus("failed", note=f"ended although it should run{how}")

    async def start(self) -> None:
        async with self._file.lock(self._settings.start_timeout + self._settings.stop_timeout):
            await self._start()

    async def stop(self) -> None:
        async with self._file.lock(self._settings.start_timeout + self._settings.stop_timeout):
            await self._stop(wanted=False)

    async def halt(self) -> None:
        async with self._file.lock(self._settings.start_timeout + self._settings.stop_timeout):
            await self._stop(wanted=True)

    async def restart(self) -> None:
        async with self._file.lock(self._settings.start_timeout + self._settings.stop_timeout):
            await self._stop(wanted=True)
            await self._start()

    async def wait_exit(self) -> None:
        record = self._file.read()
        identity = await self._find(record) if record else None
        if identity is not None:
            await wait_exit(identity)
            self._exit_code()

    async def _find(self, record: ServiceRecord) -> ProcessIdentity | None:
        """The recorded process; completes a record that a crash left without a number."""
        if record.pid or not record.token or self._starting:
            return record.identity
        found = await asyncio.to_thread(_find_by_token, record.token)
        self._file.write(_completed(record, found))
        return found

    async def _start(self) -> None:
        record = self._file.read()
        if record is not None and await self._find(record) is not None:
            if not record.wanted:
                self._file.write(replace(record, wanted=True))
            return
        self._exit_code()
        doubted = await self._answers()
        token = secrets.token_hex(8)
        self._started = None
        self._starting = True
        try:
            record = ServiceRecord(wanted=True, boot=boot_id(), token=token, started_at=self._clock.wall())
            self._file.write(record)
            try:
                self._started = await asyncio.to_thread(self._spawn, token)
            except ServiceError:
                self._file.write(_completed(record, None))
                raise
            identity = identify(self._started.pid)
            self._file.write(_completed(record, identity))
            if identity is None:
                raise self._died()
            await self._until_started(identity, doubted)
        finally:
            self._starting = False

    def _spawn(self, token: str) -> subprocess.Popen[bytes]:
        settings = self._settings
        try:
            self._log_file.parent.mkdir(parents=True, exist_ok=True)
            with self._log_file.open("ab") as log:
                return subprocess.Popen(
                    settings.argv,
                    cwd=settings.directory,
                    env={**os.environ, **settings.environment, TOKEN_VARIABLE: token},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            where = error.filename or settings.argv[0]
            raise ServiceError(f"{self.name}: cannot be started: {where}: {error.strerror}", permanent=True) from None

    async def _until_started(self, identity: ProcessIdentity, doubted: bool) -> None:
        """`doubted`: something answered before it was there, so that an answer alone says nothing about it."""
        ended = asyncio.create_task(wait_exit(identity))
        lived = min(_DOUBTED_SECONDS, self._settings.start_timeout / 2) if doubted else 0.0
        ready = asyncio.create_task(self._ready(lived))
        try:
            await asyncio.wait(
                (ended, ready), timeout=self._settings.start_timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if ended.done():
                raise self._died()
            if not ready.done():
                raise ServiceError(
                    f"{self.name}: {self._settings.ready_url} did not answer within {self._settings.start_timeout:g} s "
                    "of the start",
                    log_lines=self._log_lines(),
                )
            ready.result()
        finally:
            for task in (ended, ready):
                task.cancel()
            await asyncio.gather(ended, ready, return_exceptions=True)

    async def _answers(self) -> bool:
        """Whether somebody answers at `ready_url`; asked while nobody of ours should."""
        url = self._settings.ready_url
        try:
            return url is not None and (await self._http.get(url, timeout=_DOUBT_TIMEOUT_SECONDS)).status_code < 500
        except HttpError:
            return False

    async def _ready(self, least_seconds: float) -> None:
        url = self._settings.ready_url
        if url is None:
            await asyncio.sleep(_LIVED_SECONDS)
            return
        await asyncio.sleep(least_seconds)
        while True:
            try:
                if (await self._http.get(url, timeout=2.0)).status_code < 500:
                    return
            except HttpError:
                pass  # not yet; the caller holds the deadline
            await asyncio.sleep(_READY_RETRY_SECONDS)

    async def _stop(self, *, wanted: bool) -> None:
        record = self._file.read() or ServiceRecord(wanted=wanted)
        # Written first: if we die half-way, a service that is ending on purpose must not look as if it had failed.
        self._file.write(replace(record, wanted=wanted))
        identity = await self._find(record)
        if identity is None:
            return
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._settings.stop_timeout
        await terminate(identity, self._settings.stop_timeout)
        self._exit_code()
        # Its session is its own, so whoever is left in it was started by it.
        for left in await asyncio.to_thread(lambda: list(_session_of(identity))):
            await terminate(left, max(0.0, deadline - clock()))

    def _exit_code(self) -> int | None:
        """How the process that this very watchdog started has ended; reaps it. None for one that was adopted."""
        if self._started is None:
            return None
        code = self._started.poll()
        if code is None:
            # It has been announced dead a moment ago; the wait is for the kernel to hand over its status.
            state = read_stat(self._started.pid)
            if state is None or state.state in "ZX":
                code = self._started.wait()
        return code

    def _exit_note(self) -> str:
        code = self._exit_code()
        if code is None:
            return ""
        return f": killed by signal {-code}" if code < 0 else f": exit status {code}"

    def _died(self) -> ServiceError:
        code = self._exit_code()
        return ServiceError(
            f"{self.name}: ended during its start{self._exit_note()}", exit_code=code, log_lines=self._log_lines()
        )

    def _log_lines(self) -> tuple[str, ...]:
        try:
            return tail(self._log_file, _LOG_LINES)
        except OSError as error:
            return (f"{self._log_file}: {error.strerror}",)


def _completed(record: ServiceRecord, found: ProcessIdentity | None) -> ServiceRecord:
    """The record of a start of which it is known what became."""
    if found is None:
        return replace(record, token="")
    return replace(record, token="", pid=found.pid, start_ticks=found.start_ticks)


def _find_by_token(token: str) -> ProcessIdentity | None:
    """The oldest process that has the token: those that it started itself inherited it later."""
    wanted = f"{TOKEN_VARIABLE}={token}".encode()
    found: list[ProcessIdentity] = []
    for pid in list_pids():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        identity = identify(pid) if wanted in environment else None
        if identity is not None:
            found.append(identity)
    return min(found, key=lambda identity: identity.start_ticks, default=None)


def _session_of(leader: ProcessIdentity) -> Iterator[ProcessIdentity]:
    for pid in list_pids():
        stat: ProcessStat | None = read_stat(pid)
        if stat is not None and stat.session == leader.pid and stat.identity != leader and stat.state not in "ZX":
            yield stat.identity
