"""What the guards see beyond one target: pauses and the kill switch, maintenance, storms, what a target depends on."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path

from watchdog.clock import Clock
from watchdog.core.model import IncidentState
from watchdog.core.observer import Outbreak, SelfCheck, Storm, StormLimits, outbreak_of, storm_of
from watchdog.core.permission import Pause
from watchdog.core.silences import Maintenance
from watchdog.core.targets import Target, is_stranger, parse_target
from watchdog.playbooks.desk import Desk
from watchdog.store.facts import Facts

log = logging.getLogger("proxywatch.playbook")

CHECK_AGAIN_SECONDS = 10.0
TOLD_AT_ONCE = 32
KILL_SWITCH = "kill switch"
"""Who pauses where the file does not say it."""


class Surroundings:
    """Reads the present; keeps only the last look at itself."""

    def __init__(
        self,
        *,
        desk: Desk,
        facts: Facts,
        clock: Clock,
        kill_switch: Path,
        known: Callable[[], Iterable[Target]],
        depends_on: Callable[[str], Iterable[str]],
        look: Callable[[], Awaitable[SelfCheck]],
    ) -> None:
        """`kill_switch`: while this file exists nothing acts, whether or not the daemon has time to be asked.
        `known` are all targets of this host, `depends_on` gives the targets that a service needs."""
        self._desk = desk
        self._facts = facts
        self._clock = clock
        self._kill_switch = kill_switch
        self._known = known
        self.depends_on = depends_on
        self._look = look
        self._check: SelfCheck | None = None
        self._storm_told: float = 0.0
        self._suspicion = ""
        self._suspected: set[int] = set()
        """Incidents whose story tells of the storm that rages."""
        self._known_switch: Pause | None = None
        self._seen: tuple[int, StormLimits] | None = None
        self._found: Outbreak | None = None

    def pauses(self, now: float) -> tuple[Pause, ...]:
        """Every reason why nothing may act. StoreError when that cannot be read."""
        thrown = self._thrown(now)
        return (*self._facts.pauses(now), *([thrown] if thrown else []))

    def _thrown(self, now: float) -> Pause | None:
        """The kill switch, unless it has run out by itself."""
        thrown = read_kill_switch(self._kill_switch)
        return None if thrown is None or (thrown.until is not None and thrown.until <= now) else thrown

    def maintenance(self, now: float) -> tuple[Maintenance, ...]:
        """Windows that have not ended."""
        return self._facts.maintenance(now)

    def storm(self, limits: StormLimits, now: float) -> Storm | None:
        """The storm that rages, seen from the unresolved incidents."""
        outbreak = self._outbreak(limits)
        return None if outbreak is None else storm_of(outbreak, self._known(), limits, now)

    def _outbreak(self, limits: StormLimits) -> Outbreak | None:
        """Every guard asks, and between two changes of incidents the answer is the same."""
        seen = (self._desk.revision, limits)
        if self._seen != seen:
            opened: dict[Target, float] = {}
            for incident in self._desk.unresolved:
                target = parse_target(incident.key)
                if incident.firing and target.kind != "alert" and not is_stranger(incident.key):
                    opened[target] = incident.opened_at
            self._seen, self._found = seen, outbreak_of(opened, limits)
        return self._found

    def check(self, raging: Storm | None) -> SelfCheck | None:
        """The last look at itself, if it was taken in this storm."""
        if raging is None or self._check is None or self._check.at < self._clock.now() - 3 * CHECK_AGAIN_SECONDS:
            return None
        return self._check

    def ailing(self, service: str) -> Mapping[str, str]:
        """What a service depends on and is in trouble, with the title of the incident."""
        found = (self._desk.on(target) for target in self.depends_on(service))
        return {
            incident.key: incident.title
            for incident in found
            if incident is not None and incident.state is not IncidentState.SUPPRESSED
        }

    async def watch(self, limits: StormLimits) -> Storm | None:
        """To be called every few seconds: in a storm it takes a look at itself, and says so once a storm. It also says
        when the kill switch was thrown or taken back, for nobody asks the agent to do that."""
        now = self._clock.now()
        self._watch_kill_switch(now)
        raging = self.storm(limits, now)
        if raging is None:
            return None
        if self._check is not None and now - self._check.at < CHECK_AGAIN_SECONDS:
            await self._tell_incidents()
            return raging
        self._check = await self._look()
        if now - self._storm_told > limits.within + limits.cooldown:
            found = (
                "; ".join(self._check.faults) or "it found nothing wrong with itself and goes on, one repair at a time"
            )
            self._suspicion = f"suspect the observer: {raging.text}; the agent looked at itself: {found}"
            self._suspected.clear()
            self._desk.record("storm", self._suspicion)
        await self._tell_incidents()
        self._storm_told = now
        return raging

    async def _tell_incidents(self) -> None:
        """Every incident's story says it, also of those that the storm brings later; some at a time, so that hundreds
        of them hold nobody up."""
        new = [incident.id for incident in self._desk.unresolved if incident.id not in self._suspected]
        for start in range(0, len(new), TOLD_AT_ONCE):
            with self._desk.transaction():
                for identifier in new[start : start + TOLD_AT_ONCE]:
                    self._desk.tell(identifier, "storm", self._suspicion)
            self._suspected.update(new[start : start + TOLD_AT_ONCE])
            await asyncio.sleep(0)

    def _watch_kill_switch(self, now: float) -> None:
        thrown = self._thrown(now)
        if thrown is not None and self._known_switch is None:
            whose = "" if thrown.by == KILL_SWITCH else f" of {thrown.by}"
            self._desk.record("paused", f"by the kill switch{whose}: {thrown.reason}")
        elif thrown is None and self._known_switch is not None:
            self._desk.record("resumed", "the kill switch is no longer thrown")
        self._known_switch = thrown


def read_kill_switch(file: Path) -> Pause | None:
    """The pause that the file stands for. Its text may be JSON with `reason`, `by`, `since`, `until` (epoch seconds);
    whatever else stands there, or cannot be read, pauses as well: the file's being there is what counts."""
    try:
        # Every decision asks, and nearly always nobody has thrown it: that is told far sooner than by opening.
        file.stat()
        text = file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        return Pause(f"the kill switch {file} is there and cannot be read: {error.strerror}", KILL_SWITCH, 0.0)
    try:
        said = json.loads(text)
        until = said.get("until")
        return Pause(
            str(said["reason"]), str(said["by"]), float(said.get("since", 0.0)), None if until is None else float(until)
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return Pause(text.strip()[:200] or f"the file {file} exists", KILL_SWITCH, 0.0)


def throw_kill_switch(file: Path, pause: Pause) -> None:
    """Makes the file, whole or not at all; for the command line, when the daemon does not answer. OSError."""
    body = {"reason": pause.reason, "by": pause.by, "since": pause.since, "until": pause.until}
    fresh = file.with_name(file.name + ".new")
    fresh.write_text(json.dumps(body) + "\n", encoding="utf-8")
    fresh.replace(file)
