"""`recycle_worker`: has the proxy's master replace one worker; `kill` for one that cannot drain.

The survey holds the worker's pid. The master refuses to touch any other pid, so a repeated call never hits the
replacement, and the effect is recognised by the pid being gone.
"""

from __future__ import annotations

from typing import Literal

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.core.model import Outcome
from watchdog.errors import ActionError, ProxywatchError
from watchdog.system.proxy_api import AlreadyReplaced


class RecycleWorkerSettings(ActionSettings):
    """`mode`: `graceful` lets requests finish; `kill` ends the worker at once. The proxy counts by `reason`."""

    kind: Literal["recycle_worker"]
    mode: Literal["graceful", "kill"] = "graceful"
    reason: Literal["command", "leak"] = "command"


@actions.register(RecycleWorkerSettings)
class RecycleWorker:
    """Fails if the master does not answer, or the replacement does not serve in time."""

    disruptive = True

    def __init__(self, settings: RecycleWorkerSettings, context: ActionContext) -> None:
        self._settings = settings
        self._context = context

    def describe(self) -> str:
        how = "kill and replace" if self._settings.mode == "kill" else "replace, then drain,"
        return f"{how} worker {self._context.label('worker')} of {self._context.label('service')}"

    async def survey(self) -> Survey:
        return {"slot": self._slot, "pid": await self._pid()}

    async def perform(self, survey: Survey) -> str:
        if survey["pid"] is None and self._settings.mode == "graceful":
            raise ActionError(f"worker {self._slot} has no process to drain; mode `kill` starts it at once")
        result = await self._context.proxy.recycle_worker(
            self._slot,
            mode=self._settings.mode,
            expect_pid=survey["pid"],
            timeout=self._settings.timeout,
            reason=self._settings.reason,
        )
        if isinstance(result, AlreadyReplaced):
            return f"worker {self._slot} had been replaced before: {result.reason}"
        return f"worker {self._slot}: pid {result.old_pid} replaced by {result.new_pid}"

    async def observe(self, survey: Survey) -> Sighting:
        try:
            pid = await self._pid()
        except ProxywatchError as error:
            return Sighting(Outcome.UNKNOWN, str(error))
        if pid == survey["pid"]:
            return Sighting(Outcome.NOT_DONE, f"worker {self._slot} still is pid {pid}")
        return Sighting(Outcome.DONE, f"worker {self._slot} was pid {survey['pid']} and now is {pid}")

    @property
    def _slot(self) -> int:
        worker = self._context.label("worker")
        if not worker.isdecimal():
            raise ActionError(f"target {self._context.target} has no slot number", permanent=True)
        return int(worker)

    async def _pid(self) -> int | None:
        status = await self._context.proxy.status()
        for worker in status.workers:
            if worker.slot == self._slot:
                return worker.pid
        raise ActionError(f"the master knows no worker {self._slot}", permanent=True)
