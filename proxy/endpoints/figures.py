"""What is measured: `/metrics` for scrapers and people."""

from __future__ import annotations

from proxy import metrics
from proxy.endpoints.route import Route, Services
from proxy.exchange import GatewayReply, Plain, Request, document
from proxy.exposition import text, wants


def routes(services: Services) -> list[Route]:
    """Figures, open to everybody."""

    async def figures(request: Request) -> GatewayReply:
        content_type = wants(request.headers.get("accept", ""))
        if content_type is None:
            return document(services.health.metrics_document())
        return Plain(200, text(metrics.read(services.metrics_dir), content_type), [(b"content-type", content_type)])

    async def as_json(_request: Request) -> GatewayReply:
        return document(services.health.metrics_document())

    return [Route("GET", "/metrics", figures), Route("GET", "/metrics/json", as_json)]
