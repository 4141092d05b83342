"""`find_leak`: names what leaks in a worker, or in a process of a service that has memory agents, without stopping it.

It watches the process untraced, then traces its allocations for `duration` at a `share` of the connections and compares
snapshots. The verdict is the result, its first line for whoever was woken; the whole stands in the incident's story and
in a report in the agent's state directory. Where the target has several processes, that one is looked at that grows
fastest.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.core.model import Outcome
from watchdog.errors import ActionError, ProbeError
from watchdog.memory.diagnosis import Plan
from watchdog.memory.telling import told
from watchdog.registry import Duration
from watchdog.units import format_duration


class FindLeakSettings(ActionSettings):
    """`duration` is the time of tracing, in which `snapshots` are taken; `frames` of each allocation are kept, which
    costs the more the more they are; `quiet` is watched untraced before, as long as one interval if not given."""

    kind: Literal["find_leak"]
    timeout: Duration = 900.0
    duration: Duration = Field(300.0, ge=1, le=3600)
    snapshots: int = Field(4, ge=3, le=12)
    frames: int = Field(1, ge=1, le=25)
    share: float = Field(0.1, gt=0, le=1)
    quiet: Duration | None = Field(None, ge=0.5, le=3600)

    @property
    def plan(self) -> Plan:
        """How it is looked."""
        return Plan(self.duration, self.snapshots, self.frames, self.share, self.quiet)

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.timeout < self.plan.seconds * 1.2:
            least = format_duration(self.plan.seconds * 1.2)
            raise ValueError(f"`timeout` is too short for this `duration`: it takes {least} at least")
        return self


@actions.register(FindLeakSettings)
class FindLeak:
    """Fails if the process cannot be asked or will not trace (too little free memory, traced by somebody else), or is
    replaced meanwhile. It leaves nothing behind, so an unrecorded one counts as not done; a later one ends what it may
    have left traced."""

    disruptive = False

    def __init__(self, settings: FindLeakSettings, context: ActionContext) -> None:
        self._settings = settings
        self._context = context

    def describe(self) -> str:
        long = format_duration(self._settings.plan.seconds)
        return f"find what leaks in {self._context.target}: about {long}, {self._settings.snapshots} snapshots"

    async def survey(self) -> Survey:
        return {}

    async def perform(self, survey: Survey) -> str:
        agents = await self._context.memory_agents()
        finder = self._context.leaks
        if finder is None:
            raise ActionError("nothing is diagnosed here", permanent=True)
        try:
            agent = await finder.fastest(agents)
            finding = await finder.find(agent, self._settings.plan, suspected=self._context.labels.get("resource", ""))
        except ProbeError as error:
            raise ActionError(str(error)) from error
        return told(finding.verdict, str(finder.page(finding.name)))

    async def observe(self, survey: Survey) -> Sighting:
        return Sighting(Outcome.NOT_DONE, "a diagnosis changes nothing, and tracing ends by itself")
