"""Evidence, taken before anything is changed: each piece bounded in time and size, secrets masked, failures told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import psutil

from watchdog.actions import ActionContext
from watchdog.core.masking import mask
from watchdog.errors import ProxywatchError
from watchdog.playbooks.desk import Desk
from watchdog.playbooks.evidence.cache_diagnosis import cache_diagnosis
from watchdog.playbooks.evidence.of_configuration import config_changes
from watchdog.playbooks.evidence.of_host import disk_usage, pressure, top_processes
from watchdog.playbooks.evidence.of_memory import out_of_memory, process_memory
from watchdog.playbooks.evidence.of_proxy import cache, providers, worker_process, worker_stacks, workers
from watchdog.playbooks.evidence.of_requests import last_requests
from watchdog.playbooks.evidence.of_service import service_log, service_status
from watchdog.playbooks.evidence.security_lines import security_log
from watchdog.store.runs import Run, Runs

log = logging.getLogger("proxywatch.playbook")

PIECE_SECONDS = 3.0
PIECE_BYTES = 16_384
LINE_CHARACTERS = 1_000
TOLD_AT_THE_END = frozenset({"service_log", "security_log"})
"""Of a log the end tells most, of everything else the beginning."""
KEPT_RUNS = 4
"""Beside the first run of an incident, so many of its last ones keep the whole of their evidence."""

Collector = Callable[[ActionContext], Awaitable[str]]
"""Takes what an action on the target may see; returns text for a person, its first line the one that tells most."""

COLLECTORS: Mapping[str, Collector] = {
    f.__name__: f
    for f in (
        worker_process,
        worker_stacks,
        workers,
        service_status,
        service_log,
        security_log,
        last_requests,
        config_changes,
        providers,
        cache,
        cache_diagnosis,
        top_processes,
        pressure,
        out_of_memory,
        process_memory,
        disk_usage,
    )
}


def presentable(text: str, *, the_end: bool = False) -> str:
    """Secrets masked, each line and the whole cut to what a person reads; of the whole the end is kept if `the_end`."""
    lines = [line if len(line) <= LINE_CHARACTERS else line[:LINE_CHARACTERS] + "…" for line in text.splitlines()]
    # Masking comes after a first cut, for it costs, and before the last one, which must not halve what it looks for.
    rough = "\n".join(lines)
    whole = len(rough) <= 4 * PIECE_BYTES
    if not whole:
        rough = rough[-4 * PIECE_BYTES :].partition("\n")[2] if the_end else rough[: 4 * PIECE_BYTES]
    encoded = mask(rough).encode(errors="replace")
    if whole and len(encoded) <= PIECE_BYTES:
        return encoded.decode()
    if the_end:
        return "cut …\n" + encoded[-PIECE_BYTES:].decode(errors="ignore")
    return encoded[:PIECE_BYTES].decode(errors="ignore") + "\n… cut"


class _Plan(Protocol):
    @property
    def evidence(self) -> tuple[str, ...]: ...


class Evidence:
    """Collects what a playbook asks for, once a run, all pieces at the same time."""

    def __init__(self, desk: Desk, runs: Runs, context: Callable[[str, Mapping[str, str]], ActionContext]) -> None:
        self._desk = desk
        self._runs = runs
        self._context = context

    async def collect(self, run: Run, playbook: _Plan) -> None:
        """Adds each piece to the incident's story; a run that goes on after a restart has its evidence already."""
        if run.incident_id is None or not playbook.evidence:
            return
        taken = {
            entry.data.get("name")
            for entry in self._desk.incidents.evidence_since(run.incident_id, run.started_at)
            if entry.data.get("run") == run.id
        }
        names = [name for name in playbook.evidence if name not in taken]
        self._thin(run.incident_id)
        pieces = await asyncio.gather(*(self._piece(name, run) for name in names))
        for name, text in zip(names, pieces, strict=True):
            lines = text.strip().splitlines() or ["nothing"]
            telling = lines[-1] if name in TOLD_AT_THE_END else lines[0]
            data = {"name": name, "run": run.id, "text": text}
            self._desk.tell(run.incident_id, "evidence", f"{name}: {telling[:160]}", data)

    def _thin(self, incident_id: int) -> None:
        """An incident that is tried again for weeks keeps the evidence of its beginning and of its last runs."""
        runs = [run.id for run in self._runs.of_incident(incident_id)]
        surplus = runs[1:-KEPT_RUNS]
        if surplus:
            self._desk.incidents.thin_evidence(incident_id, surplus[-1])

    async def _piece(self, name: str, run: Run) -> str:
        try:
            async with asyncio.timeout(PIECE_SECONDS):
                text = await COLLECTORS[name](self._context(run.target, run.labels))
                return await asyncio.to_thread(presentable, text, the_end=name in TOLD_AT_THE_END)
        except TimeoutError:
            return f"could not be taken within {PIECE_SECONDS:g} s"
        except (ProxywatchError, OSError, ValueError, psutil.Error) as error:
            return mask(f"could not be taken: {error}")
        except Exception:
            log.exception("evidence %s failed by a bug of ours; the repair goes on without it", name)
            return "could not be taken: a bug of ours, see the log"
