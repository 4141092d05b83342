"""How the service is: `/health` and what lies below it."""

from __future__ import annotations

from proxy.endpoints.route import Route, Services
from proxy.exchange import GatewayReply, Request, document


def routes(services: Services) -> list[Route]:
    """Health, open to everybody."""
    health, gateway = services.health, services.gateway

    async def summary(_request: Request) -> GatewayReply:
        return document(health.summary())

    async def live(_request: Request) -> GatewayReply:
        return document({"status": "alive"})

    async def ready(_request: Request) -> GatewayReply:
        reason = "draining" if services.draining() else None if gateway.usable() else "no usable provider"
        if reason is not None:
            return document({"status": "not ready", "reason": reason}, 503)
        return document({"status": "ready"})

    async def quick(_request: Request) -> GatewayReply:
        return document(health.quick())

    async def detailed(_request: Request) -> GatewayReply:
        return document(health.detailed())

    async def providers(_request: Request) -> GatewayReply:
        return document(gateway.providers_health())

    async def cache(_request: Request) -> GatewayReply:
        return document(gateway.cache_health())

    return [
        Route("GET", "/health", summary, immediate=True),
        Route("GET", "/health/live", live, immediate=True),
        Route("GET", "/health/ready", ready, immediate=True),
        Route("GET", "/health/quick", quick, immediate=True),
        Route("GET", "/health/detailed", detailed, immediate=True),
        Route("GET", "/health/providers", providers, immediate=True),
        Route("GET", "/health/cache", cache, immediate=True),
    ]
