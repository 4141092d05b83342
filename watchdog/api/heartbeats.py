"""What jobs of others report: that they begin, how they ended, what they have to say. Kept before it is answered."""

from __future__ import annotations

import difflib
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from watchdog.api.commands import RefusedError
from watchdog.api.parts import Parts
from watchdog.api.requests import body_of, parts_of
from watchdog.api.shapes import moment, seconds
from watchdog.probes.heartbeat import Heartbeat, HeartbeatProbeSettings, Report, keep, recall

_REPORTS: dict[str, Report] = {"start": "start", "end": "end", "log": "log"}
_HIGHEST_EXIT_CODE = 255


async def _heartbeats(request: Request) -> Response:
    parts = parts_of(request)
    now = parts.clock.now()
    shapes = [_shape(name, recall(parts.facts, name, now), one) for name, one in _configured(parts).items()]
    return JSONResponse({"now": moment(now), "heartbeats": shapes})


async def _report(request: Request) -> Response:
    parts, body = parts_of(request), await body_of(request)
    name = request.path_params["name"]
    settings = _configured(parts).get(name)
    if settings is None:
        raise _unknown(parts, name)
    report = _REPORTS.get(str(body.get("report", "end")))
    exit_code, log = body.get("exit_code", 0), body.get("log", "")
    if report is None:
        raise RefusedError(400, f"`report` is {body.get('report')!r}", f"send one of {', '.join(_REPORTS)}")
    if not isinstance(exit_code, int) or isinstance(exit_code, bool) or not 0 <= exit_code <= _HIGHEST_EXIT_CODE:
        raise RefusedError(400, f"`exit_code` is {exit_code!r}", f"send 0 to {_HIGHEST_EXIT_CODE}")
    if not isinstance(log, str):
        raise RefusedError(400, f"`log` is {log!r}", "send a text")
    now = parts.clock.now()
    after = recall(parts.facts, name, now).reported(report, now, exit_code, log)
    keep(parts.facts, name, after)
    await parts.probe_now(name)
    return JSONResponse({"now": moment(now), **_shape(name, after, settings)})


def _configured(parts: Parts) -> dict[str, HeartbeatProbeSettings]:
    probes = parts.loaded.config.probes
    return {name: one for name, one in probes.items() if isinstance(one, HeartbeatProbeSettings)}


def _unknown(parts: Parts, name: str) -> RefusedError:
    known = list(_configured(parts))
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"heartbeats: {', '.join(known) or 'none is configured'}"
    return RefusedError(404, f"there is no heartbeat {name!r}", hint)


def _shape(name: str, known: Heartbeat, settings: HeartbeatProbeSettings) -> dict[str, Any]:
    last = known.known_since if known.last_success is None else known.last_success
    return {
        "name": name,
        "last_success": moment(known.last_success),
        "last_end": moment(known.last_end),
        "exit_code": known.exit_code,
        "duration_seconds": seconds(known.duration),
        "running_since": moment(known.running_since),
        "due": moment(last + settings.period + settings.grace),
        "reports": known.reports,
        "log": known.log,
    }


ROUTES = (
    Route("/v1/heartbeats", _heartbeats),
    Route("/v1/heartbeats/{name}", _report, methods=["POST"]),
)
