"""The service's own OpenAPI 3.1 document: made from the table of routes and what is said here of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from proxy import __version__
from proxy.endpoints.route import Route
from proxy.endpoints.schemas import COMPONENTS, NUMBER, STRING, Schema, one_of, ref
from proxy.exchange import GatewayReply, Plain, Request

PATH = "/openapi.json"
JSON, STREAM = "application/json", "text/event-stream"
_PROMETHEUS, _OPENMETRICS = "text/plain; version=0.0.4; charset=utf-8", "application/openmetrics-text"

_EVERYWHERE = (400, 408, 413, 431, 500, 503)
"""What HTTP itself, a bug, or a worker that ends can come to."""
_WITH_KEY = (401, 403, 429)
_UPSTREAM = ("4XX", 502, 504)
_MEANINGS: dict[int | str, str] = {
    400: "The request is malformed.",
    401: "No valid API key was given.",
    403: "The key is suspended, or has not the role that this takes.",
    404: "There is no such thing.",
    408: "The request did not come in time.",
    413: "The body is too large.",
    429: "A limit is reached; `retry-after` says until when.",
    431: "The request's head is too large.",
    500: "The proxy has a bug.",
    502: "No provider gave a usable answer.",
    503: "Not now: overloaded, ending, or not ready.",
    504: "No provider answered in time.",
    "4XX": "The request was refused, by the proxy or by the provider.",
}
_DIALECTS = {"/v1/messages": "AnthropicError"}


@dataclass(frozen=True, slots=True)
class Said:
    """What is said of one route: `answers` are the schemas of a 200 by media type, `also` further statuses."""

    summary: str
    answers: Mapping[str, str]
    body: str | None = None
    may_be_empty: bool = False
    """Whether the body can be left out."""
    also: tuple[int | str, ...] = ()
    arguments: tuple[str, ...] = ()
    """The names of the parts `*` of the path."""
    shapes: tuple[tuple[int, str], ...] = ()
    """Statuses whose answers have a schema of their own beside the error's."""
    query: tuple[tuple[str, Schema], ...] = ()
    """What the query may say."""


def _json(summary: str, answer: str, **more: Any) -> Said:
    return Said(summary, {JSON: answer}, **more)


_PAGE: tuple[tuple[str, Schema], ...] = (
    ("cache", one_of("response", "summary")),
    ("after", {"type": "string", "minLength": 1, "description": "The last page's `next`."}),
    ("limit", {"type": "integer", "minimum": 1, "maximum": 1000}),
)
SAID: dict[tuple[str, str], Said] = {
    ("POST", "/v1/chat/completions"): Said(
        "A chat completion, whole or streamed",
        {JSON: "ChatCompletion", STREAM: "Event"},
        "ChatRequest",
        also=_UPSTREAM,
    ),
    ("POST", "/v1/completions"): Said(
        "A text completion, whole or streamed",
        {JSON: "Completion", STREAM: "Event"},
        "CompletionRequest",
        also=_UPSTREAM,
    ),
    ("POST", "/v1/embeddings"): _json("Embeddings", "Embeddings", body="EmbeddingsRequest", also=_UPSTREAM),
    ("POST", "/v1/messages"): Said(
        "A message by Anthropic's contract, whole or streamed",
        {JSON: "Message", STREAM: "Event"},
        "MessagesRequest",
        also=_UPSTREAM,
    ),
    ("GET", "/v1/models"): _json("The models that may be asked", "Models"),
    ("GET", "/v1/models/*"): _json("One of them", "Model", also=(404,), arguments=("model",)),
    ("GET", "/api/models"): _json("The models that may be asked", "Models"),
    ("GET", "/health"): _json("How the service is, and why", "Health"),
    ("GET", "/health/live"): _json("Whether this process answers; asks nothing else", "Alive"),
    ("GET", "/health/ready"): _json("Whether to send requests here", "Ready", shapes=((503, "NotReady"),)),
    ("GET", "/health/quick"): _json("The machine's memory and CPU", "QuickHealth"),
    ("GET", "/health/detailed"): _json("Everything at once", "DetailedHealth"),
    ("GET", "/health/providers"): _json("Each provider by its name", "ProvidersHealth"),
    ("GET", "/health/cache"): _json("The response cache", "CacheHealth"),
    ("GET", "/metrics"): Said(
        "Figures of the whole service, for scrapers or as JSON, by the Accept header",
        {JSON: "Metrics", _PROMETHEUS: "", _OPENMETRICS: ""},
    ),
    ("GET", "/metrics/json"): _json("Figures of the whole service", "Metrics"),
    ("GET", "/metrics/cache"): _json("The caches' figures", "CacheMetrics"),
    ("GET", "/metrics/cache/warming"): _json("What warming does, and what holds it", "Warming"),
    ("GET", "/metrics/security"): _json("Failed keys, admin calls, limits reached", "Security"),
    ("GET", "/debug/cache/keys"): _json("Entries of a cache, a page of them", "CacheKeys", query=_PAGE),
    ("GET", "/debug/cache/config"): _json("The caches' settings", "Anything"),
    ("GET", "/debug/cache/stats"): _json("What a look at every entry tells", "CacheStats"),
    ("POST", "/api/cache/invalidate"): _json("Removes the entries that are selected", "Invalidated", body="Selector"),
    ("POST", "/api/cache/compact"): _json("Removes damaged, expired and unused entries", "Compacted"),
    ("POST", "/api/cache/warm"): _json("A round of warming at once, if warming is enabled", "Warming"),
    ("POST", "/api/cache/pause-warming"): _json(
        "No warming for a time, or until it is resumed", "Warming", body="PausedWarming", may_be_empty=True
    ),
    ("POST", "/api/cache/resume-warming"): _json("Warming goes on", "Warming"),
    ("GET", "/api/cache/export"): _json("All entries, for an import elsewhere", "Anything"),
    ("POST", "/api/cache/import"): _json("Stores what an export holds", "Anything", body="Anything"),
    ("DELETE", "/api/cache"): _json("Empties the cache for all workers", "Flushed"),
    ("POST", "/api/cache/evict"): _json("Removes expired entries, or a share of all", "Evicted", body="Evict"),
    ("POST", "/api/providers/*/circuit"): _json(
        "Opens or closes a provider's circuit", "ProviderHealth", body="Circuit", also=(404,), arguments=("provider",)
    ),
    ("POST", "/api/providers/*/keys/*"): _json(
        "Retires a provider's key, or takes it back", "Anything", body="Key", also=(404,), arguments=("provider", "key")
    ),
    ("POST", "/api/providers/*/rate"): _json(
        "Gives a provider a share of its traffic for a time, the rest to the next one",
        "Restraint",
        body="Rate",
        also=(404,),
        arguments=("provider",),
    ),
    ("POST", "/api/load"): _json("Refuses a share of new requests for a time", "Restraint", body="Load"),
    ("POST", "/api/limits"): _json("Gives callers a share of their limits for a time", "Restraint", body="Tightened"),
    ("POST", "/api/keys/*"): _json(
        "Suspends a caller's key for a time, or ends that",
        "Restraint",
        body="Suspension",
        also=(404,),
        arguments=("key",),
    ),
    ("GET", "/api/restraints"): _json("All that is held back for a time", "Restraints"),
    ("POST", "/debug/fault"): _json("Injects a real fault; only with `faults: true`", "Anything", body="Fault"),
    ("GET", PATH): _json("This document", "Anything"),
}


def description(routes: Iterable[Route]) -> Route:
    """The route that describes these routes, and itself."""
    known = list(routes)
    made: list[bytes] = []

    async def describe(_request: Request) -> GatewayReply:
        if not made:
            made.append(orjson.dumps(document([*known, own])))
        return Plain(200, made[0], [(b"content-type", b"application/json")])

    own = Route("GET", PATH, describe)
    return own


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The document. KeyError names a route of which nothing is said."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        said = SAID[route.method, route.path]
        path = _path(route, said)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, said)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llm-proxy",
            "version": __version__,
            "description": "An OpenAI-compatible proxy before language models. Unknown fields of requests pass through;"
            " answers may have more fields than are told here. Every answer has x-request-id and x-response-time.",
        },
        "paths": paths,
        "components": {
            "schemas": COMPONENTS,
            "headers": {
                "x-request-id": {"description": "Names the request in the log.", "schema": STRING},
                "x-response-time": {"description": "Milliseconds until the head was sent.", "schema": NUMBER},
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _path(route: Route, said: Said) -> str:
    path = route.path
    for name in said.arguments:
        path = path.replace("*", "{" + name + "}", 1)
    return path


def _operation(route: Route, said: Said) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": said.summary, "operationId": _name(route)}
    parameters: list[Schema] = [{"name": name, "in": "query", "schema": schema} for name, schema in said.query]
    for name in said.arguments:
        schema = {"type": "string", "minLength": 1}
        parameters.append({"name": name, "in": "path", "required": True, "schema": schema})
    if parameters:
        operation["parameters"] = parameters
    if said.body is not None:
        operation["requestBody"] = {"required": not said.may_be_empty, "content": {JSON: {"schema": ref(said.body)}}}
    if route.needs is not None:
        operation["security"] = [{"bearer": []}, {"x-api-key": []}]
        operation["description"] = f"Takes a key of role {route.needs}, or what `auth.anonymous_loopback` allows."
    answers = {"200": _answer("As asked.", {media: _schema(name) for media, name in said.answers.items()})}
    own = dict(said.shapes)
    statuses = {*_EVERYWHERE, *said.also, *(_WITH_KEY if route.needs else ())}
    for status in sorted(statuses, key=str):
        error: Schema = ref(_DIALECTS.get(route.path, "Error"))
        if isinstance(status, int) and status in own:
            error = {"anyOf": [ref(own[status]), error]}
        answers[str(status)] = _answer(_MEANINGS[status], {JSON: error})
    return operation | {"responses": answers}


def _schema(name: str) -> Schema:
    return ref(name) if name else STRING


def _answer(meaning: str, contents: Mapping[str, Schema]) -> dict[str, Any]:
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in ("x-request-id", "x-response-time")}
    return {
        "description": meaning,
        "headers": headers,
        "content": {media: {"schema": schema} for media, schema in contents.items()},
    }


def _name(route: Route) -> str:
    words = [part for part in route.path.replace("*", "one").replace("_", "-").strip("/").split("/") if part]
    return "-".join((route.method.lower(), *words)).replace(".", "-")
