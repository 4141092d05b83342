"""What the service is for: completions, embeddings and the models that answer them."""

from __future__ import annotations

from proxy.call import Operation
from proxy.endpoints.route import Route, Services
from proxy.exchange import GatewayReply, Request, document


def routes(services: Services) -> list[Route]:
    """`/v1/…` and `/api/models`."""
    gateway = services.gateway

    async def chat(request: Request) -> GatewayReply:
        assert request.caller is not None
        return await gateway.answer(Operation.CHAT, request.body, request.headers, request.caller.id, request.id)

    async def models(_request: Request) -> GatewayReply:
        return document(gateway.models())

    return [
        Route("POST", "/v1/chat/completions", chat, "user", bounded=True),
        Route("GET", "/v1/models", models, "user"),
        Route("GET", "/api/models", models, "user"),
    ]
