"""What the service is for: completions, embeddings and the models that answer them."""

from __future__ import annotations

from proxy.call import Account, Operation
from proxy.endpoints.route import Route, Services
from proxy.errors import ApiError
from proxy.exchange import GatewayReply, Handler, Request, document


def routes(services: Services) -> list[Route]:
    """`/v1/…` and `/api/models`."""
    gateway = services.gateway

    def answering(operation: Operation) -> Handler:
        async def answer(request: Request) -> GatewayReply:
            assert request.caller is not None
            request.account = account = Account(operation, "", stream=False)
            return await gateway.answer(
                operation, request.body, request.headers, request.caller.id, request.id, account
            )

        return answer

    answered = answering(Operation.MESSAGES)

    async def messages(request: Request) -> GatewayReply:
        """Anthropic's clients look for the request's id under another name."""
        reply = await answered(request)
        reply.headers.append((b"request-id", request.id.encode()))
        return reply

    async def models(_request: Request) -> GatewayReply:
        return document(gateway.models())

    async def model(request: Request) -> GatewayReply:
        for listed in gateway.models()["data"]:
            if listed["id"] == request.argument:
                return document(listed)
        raise ApiError(
            404, f"The model {request.argument[:100]!r} does not exist.", code="model_not_found", param="model"
        )

    return [
        Route("POST", "/v1/chat/completions", answering(Operation.CHAT), "user", bounded=True, immediate=True),
        Route("POST", "/v1/completions", answering(Operation.COMPLETIONS), "user", bounded=True, immediate=True),
        Route("POST", "/v1/embeddings", answering(Operation.EMBEDDINGS), "user", bounded=True, immediate=True),
        Route("POST", "/v1/messages", messages, "user", bounded=True, immediate=True),
        Route("GET", "/v1/models", models, "user", bounded=True, immediate=True),
        Route("GET", "/v1/models/*", model, "user", immediate=True),
        Route("GET", "/api/models", models, "user", bounded=True, immediate=True),
    ]
