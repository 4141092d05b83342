"""What an operator may hold back for a time: load, callers' limits, a caller's key. `seconds` 0 ends it at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from proxy.endpoints.route import Route, Services
from proxy.errors import ApiError
from proxy.exchange import GatewayReply, Request, document, is_number, json_object
from proxy.limits.restraints import Kind

_LONGEST_SECONDS = 86_400.0
_USUAL_SECONDS = 300.0
_REASON_CHARACTERS = 500


class Asked(NamedTuple):
    """A share, for how long, and why."""

    share: float
    seconds: float
    reason: str


def asked(body: bytes, fits: Callable[[float], bool], expected: str) -> Asked:
    """What a body asks for. ApiError 400 for a share that does not fit, and for other nonsense."""
    fields = json_object(body)
    share: Any = fields.get("share")
    if not is_number(share) or not fits(share):
        raise ApiError(400, f"share: expected a number {expected}, not {share!r}.", param="share")
    return Asked(float(share), *for_how_long(fields))


def for_how_long(fields: dict[str, Any]) -> tuple[float, str]:
    """Seconds and reason. ApiError 400 for what is neither."""
    seconds, reason = fields.get("seconds", _USUAL_SECONDS), fields.get("reason", "")
    if not is_number(seconds) or not 0 <= seconds <= _LONGEST_SECONDS:
        raise ApiError(
            400, f"seconds: expected a number from 0 to {_LONGEST_SECONDS:g}, not {seconds!r}.", param="seconds"
        )
    if not isinstance(reason, str):
        raise ApiError(400, f"reason: expected a string, not {reason!r}.", param="reason")
    return float(seconds), reason[:_REASON_CHARACTERS]


def routes(services: Services) -> list[Route]:
    """`/api/load`, `/api/limits`, `/api/keys` and `/api/restraints`, for admins."""
    restraints = services.restraints

    async def load(request: Request) -> GatewayReply:
        share, seconds, reason = asked(request.body, lambda share: 0 < share <= 1, "above 0 and at most 1")
        return document(restraints.put(Kind.LOAD, "", 1.0 - share, seconds, reason))

    async def limits(request: Request) -> GatewayReply:
        return document(
            restraints.put(Kind.LIMITS, "", *asked(request.body, lambda share: 0 < share < 1, "above 0 and below 1"))
        )

    async def key(request: Request) -> GatewayReply:
        fields, name = json_object(request.body), request.argument
        state = fields.get("state")
        if state not in ("suspended", "active"):
            raise ApiError(400, f"state: expected suspended or active, not {state!r}.", param="state")
        seconds, reason = for_how_long(fields)
        if request.caller is not None and name == request.caller.id:
            raise ApiError(400, "A key cannot suspend itself: nobody could take that back.", code="own_key")
        try:
            return document(restraints.put(Kind.KEY, name, 0.0, seconds if state == "suspended" else 0.0, reason))
        except KeyError:
            raise ApiError(404, f"There is no key {name[:100]!r}.", code="unknown_key") from None

    async def all_of_them(_request: Request) -> GatewayReply:
        return document({"restraints": restraints.told()})

    return [
        Route("POST", "/api/load", load, "admin"),
        Route("POST", "/api/limits", limits, "admin"),
        Route("POST", "/api/keys/*", key, "admin"),
        Route("GET", "/api/restraints", all_of_them, "admin"),
    ]
