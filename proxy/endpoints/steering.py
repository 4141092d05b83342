"""What an operator may ask of the providers: open and close circuits."""

from __future__ import annotations

from proxy.endpoints.route import Route, Services
from proxy.errors import ApiError
from proxy.exchange import GatewayReply, Request, document, is_number, json_object


def routes(services: Services) -> list[Route]:
    """`/api/providers`, for admins."""

    async def circuit(request: Request) -> GatewayReply:
        body = json_object(request.body)
        state, seconds, reason = body.get("state"), body.get("seconds", 300), body.get("reason", "")
        if state not in ("open", "closed"):
            raise ApiError(400, f"state: expected open or closed, not {state!r}.", param="state")
        if not (is_number(seconds) and 0 < seconds <= 86_400):
            raise ApiError(400, f"seconds: expected a number above 0, at most 86400, not {seconds!r}.", param="seconds")
        if not isinstance(reason, str):
            raise ApiError(400, f"reason: expected a string, not {reason!r}.", param="reason")
        try:
            return document(services.gateway.set_circuit(request.argument, state, float(seconds), reason[:500]))
        except KeyError:
            raise ApiError(404, f"There is no provider {request.argument!r}.", code="unknown_provider") from None

    return [Route("POST", "/api/providers/*/circuit", circuit, "admin")]
