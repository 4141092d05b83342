"""Evidence, taken before anything is changed: each piece bounded in time and size, each failure to take it recorded."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol

import psutil

from watchdog.actions import ActionContext
from watchdog.errors import ProxywatchError
from watchdog.playbooks.cache_diagnosis import cache_diagnosis
from watchdog.playbooks.desk import Desk
from watchdog.playbooks.security_lines import security_log
from watchdog.store.runs import Run, Runs
from watchdog.system.disk_usage import disk_usage as usage_of
from watchdog.system.process_evidence import read_evidence
from watchdog.system.tail import tail
from watchdog.units import format_bytes

log = logging.getLogger("proxywatch.playbook")

PIECE_SECONDS = 3.0
DISK_SECONDS = 2.0
PIECE_CHARACTERS = 16_384
TOP_PROCESSES = 8
LOG_LINES = 20
TOLD_AT_THE_END = frozenset({"service_log", "security_log"})
"""Of a log the end tells most, of everything else the beginning."""
KEPT_RUNS = 4
"""Beside the first run of an incident, so many of its last ones keep the whole of their evidence."""

Collector = Callable[[ActionContext], Awaitable[str]]
"""Takes what an action on the target may see; returns text for a person."""


async def worker_process(context: ActionContext) -> str:
    """What /proc says of the worker: state, where the kernel has it waiting, stack where readable, descriptors."""
    status = await context.proxy.status()
    slot = int(context.label("worker"))
    worker = next((w for w in status.workers if w.slot == slot), None)
    if worker is None:
        return f"the master knows no worker {slot}"
    said = f"the master says: {worker.state}, starts {worker.starts}, crashes {worker.crashes}"
    said += f", last exit: {worker.last_exit}" if worker.last_exit else ""
    if worker.pid is None:
        return said
    found = await asyncio.to_thread(read_evidence, worker.pid)
    parts = [f"{name}:\n{text}" for name, text in found.parts.items()]
    if found.unreadable:
        parts.append("could not be read: " + ", ".join(found.unreadable))
    return "\n".join([said, f"pid {worker.pid}", *parts])


async def worker_stacks(context: ActionContext) -> str:
    """The Python stacks of all its threads, dumped by a signal handler: works while the event loop is blocked."""
    return await context.proxy.worker_stacks(int(context.label("worker")))


async def service_log(context: ActionContext) -> str:
    """The last lines of the service's own output and log files."""
    return await asyncio.to_thread(_last_lines, context.log_dir, context.label("service"))


async def service_status(context: ActionContext) -> str:
    """What the service's controller knows."""
    status = await context.service.status()
    pid = f", pid {status.identity.pid}" if status.identity else ""
    return f"{status.state}{pid}" + (f": {status.note}" if status.note else "")


async def workers(context: ActionContext) -> str:
    """The master's view of all workers."""
    status = await context.proxy.status()
    return "\n".join(
        f"worker {w.slot}: {w.state}, pid {w.pid}, starts {w.starts}, crashes {w.crashes}, last exit {w.last_exit}"
        for w in status.workers
    )


async def providers(context: ActionContext) -> str:
    """The proxy's view of its providers."""
    known = await context.proxy.providers()
    return "\n".join(
        f"{name}: {p.status}, circuit {p.circuit}, fault {p.fault or 'none'}, error rate {p.error_rate:.0%}"
        + (f", last error: {p.last_error}" if p.last_error else "")
        for name, p in known.items()
    )


async def cache(context: ActionContext) -> str:
    """The proxy's view of its cache."""
    return json.dumps((await context.proxy.cache()).model_dump(mode="json"))


async def top_processes(_context: ActionContext) -> str:
    """The processes that hold most memory."""
    found = await asyncio.to_thread(_by_memory)
    return "\n".join(f"{format_bytes(rss):>10}  {pid:>7}  {name}" for rss, pid, name in found)


async def pressure(_context: ActionContext) -> str:
    """Pressure stall information and load: who waits for what."""
    lines = [f"load {' '.join(f'{x:.2f}' for x in psutil.getloadavg())}"]
    for resource in ("cpu", "memory", "io"):
        path = Path("/proc/pressure") / resource
        if path.exists():
            lines.append(f"{resource}: {(await asyncio.to_thread(path.read_text)).splitlines()[0]}")
    return "\n".join(lines)


async def disk_usage(context: ActionContext) -> str:
    """What uses the target's filesystem: directories, files, and deleted files that are still open."""
    found = await asyncio.to_thread(usage_of, context.label("mountpoint"), DISK_SECONDS)
    parts = (
        ("directories, with all below", [f"{format_bytes(size):>10}  {path!r}" for size, path in found.directories]),
        ("files", [f"{format_bytes(size):>10}  {path!r}" for size, path in found.files]),
        ("deleted but still open", [f"{format_bytes(size):>10}  {name!r}" for size, name in found.deleted]),
        ("entries directly in", [f"{count:>10}  {path!r}" for count, path in found.crowded]),
    )
    largest = found.directories[1:2] or found.directories
    first = f"{format_bytes(largest[0][0])} below {largest[0][1]!r}" if largest else "nothing that we may read"
    seen = f"{first}; {found.looked_at} entries looked at" + ("" if found.complete else ", not all: the time was up")
    return "\n".join([seen, *(f"{title}:\n" + "\n".join(lines) for title, lines in parts if lines)])


COLLECTORS: Mapping[str, Collector] = {
    f.__name__: f
    for f in (
        worker_process,
        worker_stacks,
        service_log,
        service_status,
        workers,
        providers,
        cache,
        cache_diagnosis,
        top_processes,
        pressure,
        disk_usage,
        security_log,
    )
}


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
        except TimeoutError:
            return f"could not be taken within {PIECE_SECONDS:g} s"
        except (ProxywatchError, OSError, ValueError, psutil.Error) as error:
            return f"could not be taken: {error}"
        except Exception:
            log.exception("evidence %s failed by a bug of ours; the repair goes on without it", name)
            return "could not be taken: a bug of ours, see the log"
        return _bounded(name, text)


def _bounded(name: str, text: str) -> str:
    """At most PIECE_CHARACTERS, of the end that tells."""
    if len(text) <= PIECE_CHARACTERS:
        return text
    if name in TOLD_AT_THE_END:
        return "cut …\n" + text[-PIECE_CHARACTERS:]
    return text[:PIECE_CHARACTERS] + "\n… cut"


def _last_lines(logs: Path, service: str) -> str:
    files = sorted(path for path in logs.rglob("*.log") if service in path.name or service in path.parent.name)
    found = [f"{path.name}:\n" + "\n".join(tail(path, LOG_LINES)) for path in files]
    return "\n".join(found) or f"no log of {service} under {logs}"


def _by_memory() -> list[tuple[int, int, str]]:
    found = []
    for process in psutil.process_iter(["pid", "name", "memory_info"]):
        memory = process.info["memory_info"]
        if memory is not None:
            found.append((memory.rss, process.info["pid"], process.info["name"] or "?"))
    return sorted(found, reverse=True)[:TOP_PROCESSES]
