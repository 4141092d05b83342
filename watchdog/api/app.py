"""The control API: routes only. What is shown comes from `views`, `overview`, `explain` and `plan`.

Every answer is JSON; an error is `{"error": what is wrong, "hint": what to do}` with a fitting status.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from watchdog.api import commands, overview, views
from watchdog.api.explain import explain
from watchdog.api.frames import frames
from watchdog.api.parts import Parts
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
    """The application over one daemon. `app.state.closing`, once set, ends the event streams."""
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
            Route("/v1/reload", _reload, methods=["POST"]),
        ],
        exception_handlers={
            HTTPException: _http_error,
            ProxywatchError: _own_error,
            commands.RefusedError: _refused,
        },
    )
    app.state.parts = parts
    app.state.closing = asyncio.Event()
    return app


async def _status(request: Request) -> Response:
    parts = _parts(request)
    return JSONResponse(overview.status(parts, await overview.look(parts)))


async def _probes(request: Request) -> Response:
    return JSONResponse(views.probes(_parts(request)))


async def _probe_run(request: Request) -> Response:
    return JSONResponse(await commands.run_probe(_parts(request), request.path_params["name"]))


async def _alerts(request: Request) -> Response:
    return JSONResponse(views.alerts(_parts(request)))


async def _incidents(request: Request) -> Response:
    everything = request.query_params.get("all", "").lower() in {"1", "true", "yes"}
    limit = _whole(request.query_params.get("limit", "50"), "limit")
    return JSONResponse(views.incidents(_parts(request), everything=everything, limit=limit))


async def _incident(request: Request) -> Response:
    found = views.incident(_parts(request), request.path_params["id"])
    if found is None:
        raise commands.no_incident(request.path_params["id"])
    return JSONResponse(found)


async def _acknowledge(request: Request) -> Response:
    return JSONResponse(commands.acknowledge(_parts(request), request.path_params["id"], _who(request)))


async def _explain(request: Request) -> Response:
    target, incident = request.query_params.get("target"), request.query_params.get("incident")
    number = None if incident is None else _whole(incident, "incident")
    try:
        return JSONResponse(explain(_parts(request), target, number))
    except KeyError:
        raise commands.no_incident(number or 0) from None
    except ValueError as error:
        raise commands.RefusedError(400, str(error), "name a target as `proxywatch alerts` shows it") from None


async def _playbooks(request: Request) -> Response:
    return JSONResponse(views.playbooks(_parts(request)))


async def _playbook(request: Request) -> Response:
    parts, name = _parts(request), request.path_params["name"]
    commands.find_playbook(parts, name)
    return JSONResponse(views.playbook(parts, name))


async def _playbook_run(request: Request) -> Response:
    body = await _body(request)
    target, dry_run = body.get("target"), body.get("dry_run", False)
    if not isinstance(target, str) or not target:
        raise commands.RefusedError(400, "`target` is missing", 'send {"target": "worker:SERVICE/SLOT"}')
    shape = commands.run_playbook(_parts(request), request.path_params["name"], target, _who(request), bool(dry_run))
    return JSONResponse(shape, status_code=200 if dry_run else 202)


async def _run(request: Request) -> Response:
    """`?wait=SECONDS` answers when the run has ended, or when the time is over."""
    wait = min(_seconds(request.query_params.get("wait", "0"), "wait"), LONGEST_WAIT_SECONDS)
    return JSONResponse(await commands.wait_for_run(_parts(request), request.path_params["id"], wait))


async def _rules(request: Request) -> Response:
    return JSONResponse(views.rules(_parts(request)))


async def _query(request: Request) -> Response:
    expression = request.query_params.get("expr", "")
    if not expression:
        raise commands.RefusedError(400, "`expr` is missing", "send ?expr=up")
    return JSONResponse(views.query(_parts(request), expression))


async def _pause(request: Request) -> Response:
    body = await _body(request)
    duration = body.get("duration")
    if duration is not None and (not isinstance(duration, int | float) or isinstance(duration, bool) or duration <= 0):
        raise commands.RefusedError(400, f"`duration` is {duration!r}", "send seconds, more than 0")
    return JSONResponse(commands.pause(_parts(request), str(body.get("reason", "")), _who(request), duration))


async def _resume(request: Request) -> Response:
    return JSONResponse(commands.resume(_parts(request), _who(request)))


async def _reload(request: Request) -> Response:
    return JSONResponse({"done": await _parts(request).reload()})


async def _events(request: Request) -> Response:
    return StreamingResponse(_lines(_parts(request), request.app.state.closing), media_type="application/x-ndjson")


async def _lines(parts: Parts, closing: asyncio.Event) -> AsyncIterator[str]:
    """The status as one line, at once and then whenever something was measured or happened."""
    pace = frames(parts.bell, closing, shortest=STREAM_AT_MOST_SECONDS, longest=STREAM_AT_LEAST_SECONDS)
    async with contextlib.aclosing(pace):
        async for _ in pace:
            shape = overview.status(parts, await overview.look(parts))
            yield json.dumps(shape, separators=(",", ":")) + "\n"


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


def _who(request: Request) -> str:
    """The caller, by the credentials that the kernel vouches for."""
    return str(request.state.who)


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object that was sent; nothing sent is an empty one."""
    raw = await request.body()
    try:
        content = json.loads(raw) if raw else {}
    except ValueError as error:
        raise commands.RefusedError(400, f"the body is not JSON: {error}", "send a JSON object") from None
    if not isinstance(content, dict):
        raise commands.RefusedError(400, "the body is not a JSON object", 'send {"name": value}')
    return content


def _whole(text: str, name: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise commands.RefusedError(400, f"`{name}` is {text!r}", "expected a whole number")
    return int(text)


def _seconds(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise commands.RefusedError(400, f"`{name}` is {text!r}", "expected seconds")
    return value


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
