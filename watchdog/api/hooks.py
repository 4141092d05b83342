"""`POST /hooks/NAME`: another program that knows the secret begins a playbook. Who it is was proved, not believed."""

from __future__ import annotations

import hmac
import stat

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from watchdog.api.commands import RefusedError
from watchdog.api.requests import body_of, parts_of
from watchdog.api.shapes import moment
from watchdog.api.views import run_shape
from watchdog.errors import ActionError
from watchdog.notifiers.webhook import signature
from watchdog.playbooks.triggers import WebhookTrigger

OLDEST_SIGNATURE_SECONDS = 300.0


async def _hook(request: Request) -> Response:
    """`{"target": T}` chooses one of the trigger's targets; where it has only one, that is meant."""
    parts, name = parts_of(request), request.path_params["name"]
    found = parts.triggers.webhook(name)
    if found is None:
        raise RefusedError(404, f"there is no webhook {name!r}", "`triggers:` in a playbook's file makes one")
    playbook, trigger = found
    if not _proved(request, await request.body(), _token(trigger), parts.clock.wall()):
        raise RefusedError(
            401, f"the webhook {name!r} was not called with its token", "send Authorization: Bearer TOKEN"
        )
    if not parts.ready:
        raise RefusedError(503, "the agent is only starting", "try again in a moment")
    target = (await body_of(request)).get("target", trigger.targets[0] if len(trigger.targets) == 1 else None)
    if target not in trigger.targets:
        raise RefusedError(400, f"`target` is {target!r}", f"targets: {', '.join(trigger.targets)}")
    try:
        run = parts.triggers.fire(playbook, target, f"webhook {name}")
    except ActionError as error:
        raise RefusedError(409, str(error), "`proxywatch status` shows what is under way") from None
    return JSONResponse({"now": moment(parts.clock.now()), **run_shape(run, [])}, status_code=202)


def _token(trigger: WebhookTrigger) -> str:
    file = trigger.token_file
    hint = f"put the token into {file}, readable by its owner only (chmod 600)"
    try:
        if stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise RefusedError(500, f"{file} may be read by others, so that its token is no secret", hint)
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RefusedError(500, f"{file}: the token cannot be read: {error}", hint) from None
    if not token:
        raise RefusedError(500, f"{file} holds no token", hint)
    return token


def _proved(request: Request, body: bytes, token: str, now: float) -> bool:
    """Whether the caller knows the token: it sent it, or signed with it lately. Compared in constant time."""
    sent = request.headers.get("authorization", "")
    if sent:
        return hmac.compare_digest(sent.encode(), f"Bearer {token}".encode())
    timestamp = request.headers.get("x-proxywatch-timestamp", "")
    if not timestamp.isascii() or not timestamp.isdigit() or abs(now - float(timestamp)) > OLDEST_SIGNATURE_SECONDS:
        return False
    signed = request.headers.get("x-proxywatch-signature", "")
    return hmac.compare_digest(signed.encode(), signature(token, timestamp, body).encode())


ROUTES = (Route("/hooks/{name}", _hook, methods=["POST"]),)
