"""What people decide: a repair that asks for leave, a run that is to end, what is to be quiet or left alone."""

from __future__ import annotations

import secrets
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from watchdog.api import quiet
from watchdog.api.commands import RefusedError
from watchdog.api.known_names import refuse_unknown_matchers, refuse_unknown_targets
from watchdog.api.parts import Parts
from watchdog.api.requests import body_of, duration_in, parts_of, who
from watchdog.api.shapes import moment
from watchdog.api.views import run_shape
from watchdog.core.routing import parse_matchers
from watchdog.core.silences import Maintenance, Silence
from watchdog.core.targets import parse_target
from watchdog.store.runs import Run
from watchdog.units import format_duration


async def _approve(request: Request) -> Response:
    return _answer(request, granted=True)


async def _deny(request: Request) -> Response:
    return _answer(request, granted=False)


def _answer(request: Request, *, granted: bool) -> Response:
    parts, run_id = parts_of(request), request.path_params["id"]
    try:
        return _run(parts, parts.runner.answer(run_id, who(request), granted=granted))
    except KeyError:
        raise _not_asking(parts, run_id) from None


async def _cancel(request: Request) -> Response:
    """The run ends after what it is doing now; `?` of its end is asked at `/v1/runs/ID`."""
    parts, run_id = parts_of(request), request.path_params["id"]
    try:
        return _run(parts, parts.runner.cancel(run_id, who(request)))
    except KeyError:
        run = _known(parts, run_id)
        hint = "`proxywatch status` shows what is under way"
        raise RefusedError(409, f"run {run_id} is over already: {run.state}", hint) from None


def _run(parts: Parts, run: Run) -> Response:
    return JSONResponse({"now": moment(parts.clock.now()), **run_shape(run, parts.runs.effects_of(run.id))})


def _known(parts: Parts, run_id: int) -> Run:
    run = parts.runs.get(run_id)
    if run is None:
        raise RefusedError(404, f"there is no run {run_id}", "`proxywatch status` shows what waits for a person")
    return run


def _not_asking(parts: Parts, run_id: int) -> RefusedError:
    """Why a run takes no answer."""
    run = _known(parts, run_id)
    asked = run.approval
    if run.ended_at is not None:
        why = f"run {run_id} is over already: {run.state}"
    elif asked is None:
        why = f"run {run_id} asks nobody for leave"
    elif asked.granted is not None:
        why = f"run {run_id} was {'approved' if asked.granted else 'denied'} by {asked.by} already"
    else:
        ago = format_duration(parts.clock.now() - asked.until)
        why = f"the question of run {run_id} expired {ago} ago: it counts as denied"
    return RefusedError(409, why, f"`proxywatch playbook run {run.playbook} --target {run.target}` begins a new one")


async def _silences(request: Request) -> Response:
    parts = parts_of(request)
    return JSONResponse({"now": moment(parts.clock.now()), "silences": quiet.silences(parts)})


async def _silence(request: Request) -> Response:
    parts, body = parts_of(request), await body_of(request)
    text, duration = body.get("matchers"), duration_in(body, required=True)
    example = 'send such as alertname="WorkerHung", severity=~"warning|info"'
    if not isinstance(text, str):
        raise RefusedError(400, f"`matchers` is {text!r}", example)
    try:
        matchers = parse_matchers(text)
    except ValueError as error:
        raise RefusedError(400, str(error), example) from None
    if all(matcher.matches({}) for matcher in matchers):
        # Alertmanager's own rule: what matches an alert without labels would silence everything.
        raise RefusedError(400, f"{text!r} would match every alert", "name at least one label with a value")
    if not body.get("force"):
        refuse_unknown_matchers(parts, matchers)
    now = parts.clock.now()
    made = Silence(secrets.token_hex(4), matchers, now, now + (duration or 0.0), who(request), _comment(body))
    parts.facts.silence(made, now)
    words = ", ".join(map(str, matchers))
    _told(parts, "silenced", f"by {made.by} for {format_duration(duration or 0.0)}: {words}", made.comment)
    return JSONResponse({"now": moment(now), **quiet.silence_shape(parts, made)})


async def _expire(request: Request) -> Response:
    parts, identifier = parts_of(request), request.path_params["id"]
    now = parts.clock.now()
    if not parts.facts.end_silence(identifier, now):
        raise RefusedError(
            404, f"there is no silence {identifier!r}", "`proxywatch silence list` shows which there are"
        )
    _told(parts, "silence_ended", f"{identifier}, by {who(request)}")
    return JSONResponse({"now": moment(now), "silences": quiet.silences(parts)})


async def _maintenance(request: Request) -> Response:
    parts = parts_of(request)
    return JSONResponse({"now": moment(parts.clock.now()), "maintenance": quiet.maintenance(parts)})


async def _maintain(request: Request) -> Response:
    parts, body = parts_of(request), await body_of(request)
    targets, duration = body.get("targets"), duration_in(body, required=True)
    if not isinstance(targets, list) or not targets or not all(isinstance(t, str) and t.strip() for t in targets):
        raise RefusedError(400, f"`targets` is {targets!r}", 'send {"targets": ["service:NAME"]}')
    for target in targets:
        try:
            # A pattern may name what is not there yet; a name must be whole.
            parse_target(target) if "*" not in target else None
        except ValueError as error:
            raise RefusedError(400, str(error), "`*` stands for anything, as in worker:llm-proxy/*") from None
    if not body.get("force"):
        refuse_unknown_targets(parts, targets)
    now = parts.clock.now()
    made = Maintenance(secrets.token_hex(4), tuple(targets), now, now + (duration or 0.0), who(request), _comment(body))
    parts.facts.maintain(made, now)
    _told(
        parts, "maintenance", f"by {made.by} for {format_duration(duration or 0.0)}: {', '.join(targets)}", made.comment
    )
    return JSONResponse({"now": moment(now), **quiet.maintenance_shape(parts, made)})


async def _end_maintenance(request: Request) -> Response:
    parts, identifier = parts_of(request), request.path_params["id"]
    now = parts.clock.now()
    if not parts.facts.end_maintenance(identifier, now):
        hint = "`proxywatch maintenance list` shows which there are"
        raise RefusedError(404, f"there is no maintenance {identifier!r}", hint)
    _told(parts, "maintenance_ended", f"{identifier}, by {who(request)}")
    return JSONResponse({"now": moment(now), "maintenance": quiet.maintenance(parts)})


def _comment(body: dict[str, Any]) -> str:
    return str(body.get("comment") or "")


def _told(parts: Parts, kind: str, text: str, comment: str = "") -> None:
    parts.desk.record(kind, f"{text}: {comment}" if comment else text)
    parts.bell.ring()


ROUTES = (
    Route("/v1/runs/{id:int}/approve", _approve, methods=["POST"]),
    Route("/v1/runs/{id:int}/deny", _deny, methods=["POST"]),
    Route("/v1/runs/{id:int}/cancel", _cancel, methods=["POST"]),
    Route("/v1/silences", _silences),
    Route("/v1/silences", _silence, methods=["POST"]),
    Route("/v1/silences/{id}/expire", _expire, methods=["POST"]),
    Route("/v1/maintenance", _maintenance),
    Route("/v1/maintenance", _maintain, methods=["POST"]),
    Route("/v1/maintenance/{id}/end", _end_maintenance, methods=["POST"]),
)
