"""What an operator may ask of the caches."""

from __future__ import annotations

from proxy.endpoints.route import Route, Services
from proxy.errors import ApiError
from proxy.exchange import GatewayReply, Request, document, is_number, json_object


def routes(services: Services) -> list[Route]:
    """`/api/cache`, for admins."""
    gateway = services.gateway

    async def flush(_request: Request) -> GatewayReply:
        return document(gateway.flush_cache())

    async def evict(request: Request) -> GatewayReply:
        body = json_object(request.body)
        expired, fraction = body.get("expired", False), body.get("fraction")
        if not isinstance(expired, bool):
            raise ApiError(400, f"expired: expected true or false, not {expired!r}.", param="expired")
        if fraction is not None and not (is_number(fraction) and 0 < fraction <= 1):
            raise ApiError(
                400, f"fraction: expected a number above 0 and at most 1, not {fraction!r}.", param="fraction"
            )
        if expired == (fraction is not None):
            raise ApiError(400, 'Expected exactly one of {"expired": true} and {"fraction": F}.')
        return document(gateway.evict_cache(expired=expired, fraction=fraction))

    return [
        Route("DELETE", "/api/cache", flush, "admin"),
        Route("POST", "/api/cache/evict", evict, "admin"),
    ]
