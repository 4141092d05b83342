"""What processes say of their memory, and finding what leaks in one of them while whoever asked for it listens."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from watchdog.actions.find_leak import FindLeakSettings
from watchdog.api.commands import RefusedError
from watchdog.api.json_answer import JSONResponse
from watchdog.api.parts import Parts
from watchdog.api.requests import body_of, parts_of, who
from watchdog.api.shapes import moment
from watchdog.core.targets import Target
from watchdog.errors import ActionError, ProbeError, ProxywatchError
from watchdog.memory.finder import LeakFinder
from watchdog.memory.findings import Finding, Trend
from watchdog.memory.telling import told
from watchdog.system.memory_agent import MemoryAgent, MemoryAgents
from watchdog.system.memory_answers import AgentMemory

Shape = dict[str, Any]
SPARK_POINTS = 40
RESOURCES = ("descriptors", "sockets", "tasks", "threads")
_TAKEN = ("duration", "snapshots", "frames", "share", "quiet")
_JSON: TypeAdapter[Any] = TypeAdapter(Any)


async def _status(request: Request) -> Response:
    """Every process with an agent, or those of `?service=` and `?worker=`."""
    parts = parts_of(request)
    found, problems = await _agents(parts, request.query_params.get("service"), request.query_params.get("worker"))
    shapes = [_process(parts, agent, memory) for agent, memory in found]
    return JSONResponse({"now": moment(parts.clock.now()), "processes": shapes, "problems": problems})


async def _trend(request: Request) -> Response:
    """The series behind the judgement of each process, and of what else it holds."""
    parts = parts_of(request)
    found, problems = await _agents(parts, request.query_params.get("service"), request.query_params.get("worker"))
    shapes = []
    for agent, memory in found:
        history = _finder(parts).history(agent.service, agent.worker)
        resources = [_resource(parts, agent, name) for name in RESOURCES]
        shapes.append(
            _process(parts, agent, memory)
            | {"points": history, "resources": [resource for resource in resources if resource is not None]}
        )
    return JSONResponse({"now": moment(parts.clock.now()), "processes": shapes, "problems": problems})


async def _snapshots(request: Request) -> Response:
    """The snapshots that the processes keep."""
    parts = parts_of(request)
    found, problems = await _agents(parts, request.query_params.get("service"), request.query_params.get("worker"))
    shapes = [
        {"service": agent.service, "worker": agent.worker, **snapshot.model_dump()}
        for agent, _memory in found
        for snapshot in await agent.snapshots()
    ]
    return JSONResponse({"now": moment(parts.clock.now()), "snapshots": shapes, "problems": problems})


async def _diff(request: Request) -> Response:
    """What grew between two snapshots of one process: `{"service", "worker", "older", "newer", "top"}`."""
    parts, body = parts_of(request), await body_of(request)
    older, newer, top = body.get("older"), body.get("newer"), body.get("top", 20)
    if not isinstance(older, str) or not isinstance(newer, str):
        raise RefusedError(400, "`older` and `newer` name two snapshots", "`proxywatch memory snapshots` lists them")
    if not isinstance(top, int) or not 1 <= top <= 1000:
        raise RefusedError(400, f"`top` is {top!r}", "send 1 to 1000")
    agent = await _holder(parts, body, {older, newer})
    compared = await agent.compare(older, newer, top)
    return JSONResponse({"now": moment(parts.clock.now()), "target": agent.target, **compared.model_dump()})


async def _trace(request: Request) -> Response:
    """Looks at one process until it is known what leaks: lines `{"tell": text}`, then `{"finding": …}` or `{"error": …,
    "hint": …}`. Whoever hangs up ends it."""
    parts, body = parts_of(request), await body_of(request)
    given = {key: body[key] for key in _TAKEN if body.get(key) is not None}
    try:
        # The same bounds as in a playbook; its timeout does not bind a person, who can hang up.
        settings = FindLeakSettings.model_validate({"kind": "find_leak", "timeout": "12h", **given})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the request"
        raise RefusedError(400, f"{where}: {first['msg']}", f"it takes {', '.join(_TAKEN)}") from None
    agent = await _one(parts, body)
    parts.desk.record("asked", f"{who(request)} asked what leaks in {agent.target}, process {agent.worker}")
    lines: asyncio.Queue[Shape | None] = asyncio.Queue()

    async def work() -> None:
        try:
            finder = _finder(parts)
            finding = await finder.find(agent, settings.plan, tell=lambda line: lines.put_nowait({"tell": line}))
            lines.put_nowait({"finding": _finding(finder, finding)})
        except (ProxywatchError, OSError) as error:
            lines.put_nowait(
                {"error": str(error), "hint": getattr(error, "hint", "") or "see `proxywatch memory status`"}
            )
        finally:
            lines.put_nowait(None)

    return StreamingResponse(_told(lines, work(), request), media_type="application/x-ndjson")


async def _told(lines: asyncio.Queue[Shape | None], work: Any, request: Request) -> AsyncIterator[str]:
    """The diagnosis is a task of its own, so that it can still put things in order when the caller has gone."""
    task: asyncio.Task[None] = asyncio.create_task(work, name="find-leak")
    under_way: set[asyncio.Task[None]] = request.app.state.diagnoses
    under_way.add(task)
    task.add_done_callback(under_way.discard)
    try:
        while not request.app.state.closing.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    line = await lines.get()
                if line is None:
                    return
                yield json.dumps(line, default=str, ensure_ascii=False) + "\n"
    finally:
        task.cancel()


async def _findings(request: Request) -> Response:
    """What was found before, newest first; `?name=` the whole of one with its page, `newest` for the last."""
    parts, name = parts_of(request), request.query_params.get("name")
    finder = _finder(parts)
    names = finder.names()
    if name is None:
        return JSONResponse({"now": moment(parts.clock.now()), "directory": str(finder.directory), "findings": names})
    if name == "newest":
        if not names:
            raise RefusedError(404, "nothing was found yet", "`proxywatch memory trace` looks for it")
        name = names[0]
    try:
        finding = finder.load(name)
    except KeyError:
        raise RefusedError(
            404, f"there is no finding {name!r}", "`proxywatch memory report --list` shows them"
        ) from None
    from watchdog.memory.report import report

    page = await asyncio.to_thread(report, finding)
    return JSONResponse({"now": moment(parts.clock.now()), "page": page, **_finding(finder, finding)})


ROUTES = (
    Route("/v1/memory", _status),
    Route("/v1/memory/trend", _trend),
    Route("/v1/memory/snapshots", _snapshots),
    Route("/v1/memory/diff", _diff, methods=["POST"]),
    Route("/v1/memory/trace", _trace, methods=["POST"]),
    Route("/v1/memory/findings", _findings),
)


def _finding(finder: LeakFinder, finding: Finding) -> Shape:
    path = finder.page(finding.name)
    return {
        "name": finding.name,
        "text": told(finding.verdict),
        "verdict": _JSON.dump_python(finding.verdict, mode="json"),
        "report": str(path),
    }


def _context(parts: Parts, service: str) -> tuple[MemoryAgents, LeakFinder]:
    context = parts.runner.context(str(Target("service", (service,))), {})
    if context.agents is None or context.leaks is None:
        raise RefusedError(503, "nothing is diagnosed here", "see the daemon's log")
    return context.agents, context.leaks


def _finder(parts: Parts) -> LeakFinder:
    return _context(parts, "any")[1]


async def _agents(
    parts: Parts, service: str | None, worker: str | None
) -> tuple[list[tuple[MemoryAgent, AgentMemory]], list[str]]:
    """Those that answer, with their figures; and what is wrong with the others."""
    agents, problems = _context(parts, "any")[0], []
    known = agents.services
    if service is not None and service not in known:
        raise _unknown(parts, service, known)
    asked: list[MemoryAgent] = []
    for name in known if service is None else (service,):
        try:
            asked += [agent for agent in await agents.of(name) if worker in (None, agent.worker)]
        except ProbeError as error:
            problems.append(f"{name}: {error}")
    answers = await asyncio.gather(*(agent.memory() for agent in asked), return_exceptions=True)
    found = []
    for agent, answer in zip(asked, answers, strict=True):
        if isinstance(answer, ProxywatchError):
            problems.append(f"{agent.service}/{agent.worker}: {answer}")
        elif isinstance(answer, BaseException):
            raise answer
        else:
            found.append((agent, answer))
    if worker is not None and not asked and not problems:
        raise RefusedError(404, f"there is no process {worker!r}", "`proxywatch memory status` shows which there are")
    return found, problems


async def _one(parts: Parts, body: Shape) -> MemoryAgent:
    """The process that is meant: of several the one that grows fastest."""
    service, worker = body.get("service"), body.get("worker")
    agents, finder = _context(parts, "any")
    if service is None:
        if len(agents.services) != 1:
            hint = f"send one of {', '.join(agents.services)}" if agents.services else _MOUNT
            raise RefusedError(400, "`service` is missing", hint)
        service = agents.services[0]
    if service not in agents.services:
        raise _unknown(parts, str(service), agents.services)
    try:
        found = [agent for agent in await agents.of(str(service)) if worker in (None, agent.worker)]
        if not found:
            raise RefusedError(404, f"no process of {service} is meant by {worker!r}", "see `proxywatch memory status`")
        return await finder.fastest(found)
    except (ProbeError, ActionError) as error:
        raise RefusedError(503, str(error), error.hint or "see `proxywatch status`") from error


async def _holder(parts: Parts, body: Shape, names: set[str]) -> MemoryAgent:
    """The process that keeps these snapshots, whichever of those that are meant that is."""
    service, worker = body.get("service"), body.get("worker")
    found, problems = await _agents(parts, service, None if worker is None else str(worker))
    for agent, _memory in found:
        if names <= {snapshot.name for snapshot in await agent.snapshots()}:
            return agent
    said = f"; {'; '.join(problems)}" if problems else ""
    raise RefusedError(404, f"no process keeps both snapshots{said}", "`proxywatch memory snapshots` lists them")


_MOUNT = "mount the agent in a service, see docs/memory-leaks.md"


def _unknown(parts: Parts, service: str, known: tuple[str, ...]) -> RefusedError:
    if service in parts.services:
        return RefusedError(404, f"service {service!r} has no memory agent", _MOUNT)
    return RefusedError(404, f"there is no service {service!r}", f"services with agents: {', '.join(known) or 'none'}")


def _process(parts: Parts, agent: MemoryAgent, memory: AgentMemory) -> Shape:
    finder = _finder(parts)
    history = finder.history(agent.service, agent.worker)
    step = -(-len(history) // SPARK_POINTS) or 1
    return {
        "service": agent.service,
        "worker": agent.worker,
        "target": agent.target,
        **memory.model_dump(exclude={"gc"}),
        "trend": _trend_shape(finder.trend(agent.service, agent.worker)),
        "spark": [value for _at, value in history[::step]],
        "since": moment(history[0][0]) if history else None,
    }


def _trend_shape(trend: Trend) -> Shape:
    return {
        "shape": trend.shape,
        "bytes_per_hour": trend.bytes_per_hour,
        "bytes_per_request": trend.bytes_per_request,
        "confidence": trend.confidence,
        "seconds_to_limit": trend.seconds_to_limit,
    }


def _resource(parts: Parts, agent: MemoryAgent, name: str) -> Shape | None:
    """What the series say of one kind of thing besides memory; None if nothing."""
    labels = {"service": agent.service, "worker": agent.worker, "resource": name}
    slope = parts.series.latest("proxywatch_resource_leak_slope_per_hour", **labels)
    shapes = parts.series.latest("proxywatch_resource_leak_shape", **labels)
    limit = parts.series.latest("proxywatch_resource_leak_seconds_to_limit", **labels)
    shape = next((dict(found).get("shape") for found, value, _at in shapes if value == 1), None)
    if shape is None and not slope:
        return None
    return {
        "resource": name,
        "shape": shape,
        "per_hour": slope[0][1] if slope else None,
        "seconds_to_limit": limit[0][1] if limit else None,
    }
