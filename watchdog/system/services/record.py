"""What is remembered on disk of a service's process, so that it is found again after our own death; and the lock
that lets only one start, stop or restart of a service happen at a time."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from watchdog.system.process import ProcessIdentity, alive, boot_id
from watchdog.system.services import ServiceError

_LOCK_RETRY_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """`wanted` is what the last command asked for. `token` stands in the environment of the process that is being
    started; `pid` 0 means that its number was not written down yet."""

    wanted: bool
    pid: int = 0
    start_ticks: int = 0
    boot: str = ""
    token: str = ""
    started_at: float = 0.0
    halted: bool = False
    """A repair stopped it and will start it: its supervisor's word that somebody stopped it means us."""

    @property
    def identity(self) -> ProcessIdentity | None:
        """The process, if it is one of this boot and still runs."""
        if not self.pid or self.boot != boot_id():
            return None
        identity = ProcessIdentity(self.pid, self.start_ticks)
        return identity if alive(identity) else None


class RecordFile:
    """`RUN_DIR/services/NAME.json`, replaced by rename, and the lock file beside it."""

    def __init__(self, run_dir: Path, name: str) -> None:
        self.path = run_dir / "services" / f"{name}.json"

    def read(self) -> ServiceRecord | None:
        """None if nothing was ever recorded. Raises ServiceError for a record that cannot be understood."""
        try:
            return ServiceRecord(**json.loads(self.path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise ServiceError(f"{self.path}: the service's record cannot be read: {error}") from error

    def write(self, record: ServiceRecord) -> None:
        """Durable when it returns. Raises ServiceError."""
        draft = self.path.with_suffix(".new")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with draft.open("w") as file:
                json.dump(asdict(record), file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
        except OSError as error:
            raise ServiceError(f"{self.path}: the service's record cannot be written: {error.strerror}") from error

    @asynccontextmanager
    async def lock(self, timeout: float) -> AsyncIterator[None]:
        """Held by one at a time, in this process and in others, and let go by the kernel if we die.

        Raises ServiceError when it is not free within `timeout` seconds.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        try:
            while not _try_lock(descriptor):
                if clock() >= deadline:
                    raise ServiceError(f"{self.path.stem}: another start or stop has not ended within {timeout:g} s")
                await asyncio.sleep(_LOCK_RETRY_SECONDS)
            yield
        finally:
            os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
