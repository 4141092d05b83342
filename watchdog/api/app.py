"""The control API: routes only. What is shown comes from `views`, `overview`, `explain` and `plan`.

Every answer is JSON; an error is `{"error": what is wrong, "hint": what to do}` with a fitting status.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from watchdog.api import commands, heartbeats, hooks, memory, overview, people, views
from watchdog.api.explain import explain
from watchdog.api.frames import frames
from watchdog.api.history import history
from watchdog.api.json_answer import JSONResponse
from watchdog.api.parts import Parts
from watchdog.api.requests import body_of, duration_in, parts_of, seconds_of, who, whole
from watchdog.errors import ConfigError, ProxywatchError, QueryError, StoreError, TransitionError

STREAM_AT_MOST_SECONDS = 0.25
"""Least time between two lines of the event stream."""
STREAM_AT_LEAST_SECONDS = 5.0
"""A line is sent after this time although nothing happened, so that a reader knows that it is still connected."""
LONGEST_WAIT_SECONDS = 30.0

_STATUS: Mapping[type[ProxywatchError], tuple[int, str]] = {
    ConfigError: (422, "the last good configuration stays in force; correct the file and reload again"),
    QueryError: (400, "see `proxywatch query up` for a first expression"),
    StoreError: (503, "nothing is done until the state can be read and written again"),
    TransitionError: (409, "look at it again: it has changed meanwhile"),
}
"""Status, and what to do where the error itself does not say it."""


def create_app(parts: Parts) -> Starlette:
    """The application over one daemon. `app.state.closing`, once set, ends the event streams; `diagnoses` are the
    tasks that look for leaks."""
    app = Starlette(
        routes=[
            Route("/v1/status", _status),
            Route("/v1/probes", _probes),
            Route("/v1/probes/{name}/run", _probe_run, methods=["POST"]),
            Route("/v1/alerts", _alerts),
            Route("/v1/incidents", _incidents),
            Route("/v1/incidents/{id:int}", _incident),
            Route("/v1/incidents/{id:int}/ack", _acknowledge, methods=["POST"]),
            Route("/v1/explain", _explain),
            Route("/v1/playbooks", _playbooks),
            Route("/v1/playbooks/{name}", _playbook),
            Route("/v1/playbooks/{name}/run", _playbook_run, methods=["POST"]),
            Route("/v1/runs/{id:int}", _run),
            Route("/v1/rules", _rules),
            Route("/v1/query", _query),
            Route("/v1/events", _events),
            Route("/v1/pause", _pause, methods=["POST"]),
            Route("/v1/resume", _resume, methods=["POST"]),
            Route("/v1/history", _history),
            Route("/v1/reload", _reload, methods=["POST"]),
            *people.ROUTES,
            *heartbeats.ROUTES,
            *hooks.ROUTES,
            *memory.ROUTES,
        ],
        exception_handlers={
            HTTPException: _http_error,
            ProxywatchError: _own_error,
            commands.RefusedError: _refused,
        },
    )
    app.state.parts = parts
    app.state.closing = asyncio.Event()
    app.state.diagnoses = set()
    return app


async def _status(request: Request) -> Response:
    parts = parts_of(request)
    return JSONResponse(overview.status(parts, await overview.look(parts)))


async def _probes(request: Request) -> Response:
    return JSONResponse(views.probes(parts_of(request)))


async def _probe_run(request: Request) -> Response:
    return JSONResponse(await commands.run_probe(parts_of(request), request.path_params["name"]))


async def _alerts(request: Request) -> Response:
    return JSONResponse(views.alerts(parts_of(request)))


async def _incidents(request: Request) -> Response:
    everything = request.query_params.get("all", "").lower() in {"1", "true", "yes"}
    limit = whole(request.query_params.get("limit", "50"), "limit")
    return JSONResponse(views.incidents(parts_of(request), everything=everything, limit=limit))


async def _incident(request: Request) -> Response:
    found = views.incident(parts_of(request), request.path_params["id"])
    if found is None:
        raise commands.no_incident(request.path_params["id"])
    return JSONResponse(found)


async def _acknowledge(request: Request) -> Response:
    return JSONResponse(commands.acknowledge(parts_of(request), request.path_params["id"], who(request)))


async def _explain(request: Request) -> Response:
    target, incident = request.query_params.get("target"), request.query_params.get("incident")
    number = None if incident is None else whole(incident, "incident")
    try:
        return JSONResponse(explain(parts_of(request), target, number))
    except KeyError:
        raise commands.no_incident(number or 0) from None
    except ValueError as error:
        raise commands.RefusedError(400, str(error), "name a target as `proxywatch alerts` shows it") from None


async def _playbooks(request: Request) -> Response:
    return JSONResponse(views.playbooks(parts_of(request)))


async def _playbook(request: Request) -> Response:
    parts, name = parts_of(request), request.path_params["name"]
    commands.find_playbook(parts, name)
    return JSONResponse(views.playbook(parts, name))


async def _playbook_run(request: Request) -> Response:
    body = await body_of(request)
    target, dry_run = body.get("target"), body.get("dry_run", False)
    if not isinstance(target, str) or not target:
        raise commands.RefusedError(400, "`target` is missing", 'send {"target": "worker:SERVICE/SLOT"}')
    shape = commands.run_playbook(parts_of(request), request.path_params["name"], target, who(request), bool(dry_run))
    return JSONResponse(shape, status_code=200 if dry_run else 202)


async def _run(request: Request) -> Response:
    """`?wait=SECONDS` answers when the run has ended, or when the time is over."""
    wait = min(seconds_of(request.query_params.get("wait", "0"), "wait"), LONGEST_WAIT_SECONDS)
    return JSONResponse(await commands.wait_for_run(parts_of(request), request.path_params["id"], wait))


async def _rules(request: Request) -> Response:
    return JSONResponse(views.rules(parts_of(request)))


async def _query(request: Request) -> Response:
    expression = request.query_params.get("expr", "")
    if not expression:
        raise commands.RefusedError(400, "`expr` is missing", "send ?expr=up")
    return JSONResponse(views.query(parts_of(request), expression))


async def _history(request: Request) -> Response:
    """`?since=SECONDS` back from now, a day if it is not given; `?target=` only what concerns it."""
    since = seconds_of(request.query_params.get("since", "86400"), "since")
    return JSONResponse(history(parts_of(request), since, request.query_params.get("target")))


async def _pause(request: Request) -> Response:
    body = await body_of(request)
    duration = duration_in(body, required=False)
    return JSONResponse(commands.pause(parts_of(request), str(body.get("reason", "")), who(request), duration))


async def _resume(request: Request) -> Response:
    return JSONResponse(commands.resume(parts_of(request), who(request)))


async def _reload(request: Request) -> Response:
    return JSONResponse({"done": await parts_of(request).reload()})


async def _events(request: Request) -> Response:
    return StreamingResponse(_lines(parts_of(request), request.app.state.closing), media_type="application/x-ndjson")


async def _lines(parts: Parts, closing: asyncio.Event) -> AsyncIterator[str]:
    """The status as one line, at once and then whenever something was measured or happened."""
    pace = frames(parts.bell, closing, shortest=STREAM_AT_MOST_SECONDS, longest=STREAM_AT_LEAST_SECONDS)
    async with contextlib.aclosing(pace):
        async for _ in pace:
            shape = overview.status(parts, await overview.look(parts))
            yield json.dumps(shape, separators=(",", ":")) + "\n"


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(
        {"error": error.detail, "hint": "the routes are in watchdog/api/app.py"}, status_code=error.status_code
    )


async def _own_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ProxywatchError)
    known = (answer for kind, answer in _STATUS.items() if isinstance(error, kind))
    status, hint = next(known, (500, "see the daemon's log"))
    return JSONResponse({"error": str(error), "hint": error.hint or hint}, status_code=status)


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, commands.RefusedError)
    return JSONResponse({"error": str(error), "hint": error.hint}, status_code=error.status)
