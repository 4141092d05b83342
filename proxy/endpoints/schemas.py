"""PURE. The shapes of what is asked and answered, as JSON Schema for the OpenAPI document.

Requests declare only what the proxy itself judges: every other field is the provider's business. Answers declare what
callers may rely on; more may come.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "number"}
AMOUNT: Schema = {"type": "number", "minimum": 0}
COUNT: Schema = {"type": "integer", "minimum": 0}
RATIO: Schema = {"type": "number", "minimum": 0, "maximum": 1}
NULL: Schema = {"type": "null"}


def ref(name: str) -> Schema:
    """A reference to one of COMPONENTS."""
    return {"$ref": f"#/components/schemas/{name}"}


def shape(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """An object with these properties, and others."""
    found: Schema = {"type": "object", "properties": required | (optional or {})}
    return found | {"required": list(required)} if required else found


def maybe(schema: Schema) -> Schema:
    """That or null."""
    return {"anyOf": [schema, NULL]}


def one_of(*values: str) -> Schema:
    """One of these words."""
    return {"type": "string", "enum": list(values)}


def by_name(schema: Schema) -> Schema:
    """An object with such a value under each name."""
    return {"type": "object", "additionalProperties": schema}


def listing(schema: Schema) -> Schema:
    """An array of these."""
    return {"type": "array", "items": schema}


def _restraint(share: Schema) -> Schema:
    return shape({"share": share}, {"seconds": _SECONDS, "reason": STRING})


_HEALTH = one_of("healthy", "degraded", "unhealthy")
_MODEL: Schema = {"type": "string", "minLength": 1}
_STREAM: Schema = {"type": ["boolean", "null"]}
_SELECTED: Schema = {"type": "string", "minLength": 1, "maxLength": 200}
_SECONDS: Schema = {"type": "number", "minimum": 0, "maximum": 86_400}
_USAGE = shape({"prompt_tokens": COUNT, "total_tokens": COUNT}, {"completion_tokens": COUNT})

COMPONENTS: dict[str, Schema] = {
    "Error": shape(
        {
            "error": shape(
                {
                    "message": STRING,
                    "type": {"type": ["string", "null"]},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "integer", "null"]},
                }
            )
        }
    ),
    "AnthropicError": shape({"type": {"const": "error"}, "error": shape({"type": STRING, "message": STRING})}),
    "ChatRequest": shape({"model": _MODEL, "messages": {"type": "array"}}, {"stream": _STREAM}),
    "ChatCompletion": shape(
        {"object": STRING, "choices": listing(shape({"index": COUNT, "message": {"type": "object"}}))},
        {"id": STRING, "created": COUNT, "model": STRING, "usage": maybe(_USAGE)},
    ),
    "CompletionRequest": shape({"model": _MODEL, "prompt": {"type": ["string", "array"]}}, {"stream": _STREAM}),
    "Completion": shape({"choices": listing({"type": "object"})}, {"id": STRING, "usage": maybe(_USAGE)}),
    "Event": shape({"data": STRING}),
    "EmbeddingsRequest": shape({"model": _MODEL, "input": {"type": ["string", "array"]}}),
    "Embeddings": shape({"data": listing({"type": "object"})}, {"model": STRING, "usage": maybe(_USAGE)}),
    "MessagesRequest": shape({"model": _MODEL, "messages": {"type": "array"}}, {"stream": _STREAM}),
    "Message": shape(
        {"type": {"const": "message"}, "role": STRING, "content": listing({"type": "object"})},
        {"id": STRING, "model": STRING, "stop_reason": {"type": ["string", "null"]}, "usage": {"type": "object"}},
    ),
    "Model": shape({"id": STRING, "object": {"const": "model"}, "created": COUNT, "owned_by": STRING}),
    "Models": shape({"object": {"const": "list"}, "data": listing(ref("Model"))}),
    "Health": shape(
        {
            "status": _HEALTH,
            "reasons": listing(STRING),
            "restraints": listing(STRING),
            "version": STRING,
            "uptime_seconds": AMOUNT,
            "memory": shape({"rss_mb": AMOUNT, "percent": AMOUNT}),
        }
    ),
    "Alive": shape({"status": {"const": "alive"}}),
    "Ready": shape({"status": {"const": "ready"}}),
    "NotReady": shape({"status": {"const": "not ready"}, "reason": STRING}),
    "QuickHealth": shape({"status": _HEALTH, "memory_percent": AMOUNT, "cpu_percent": AMOUNT}),
    "ProviderHealth": shape(
        {
            "status": _HEALTH,
            "latency_ms": maybe(AMOUNT),
            "error_rate": RATIO,
            "rate_limit_remaining": maybe({"type": "integer"}),
            "circuit": one_of("closed", "open", "half_open"),
            "keys": listing(
                shape({"id": STRING, "state": one_of("active", "cooldown", "dead", "retiring", "retired", "spare")})
            ),
        }
    ),
    "ProvidersHealth": by_name(ref("ProviderHealth")),
    "CacheHealth": shape(
        {
            "status": one_of("healthy", "warning", "critical", "disabled"),
            "memory_usage_mb": AMOUNT,
            "max_memory_mb": AMOUNT,
            "hit_rate": maybe(RATIO),
            "entries": COUNT,
        }
    ),
    "LedgerHealth": shape(
        {"status": one_of("healthy", "degraded", "disabled")},
        {"kind": one_of("sqlite", "postgres"), "waiting_rows": COUNT, "spool_mb": AMOUNT},
    ),
    "DetailedHealth": shape(
        {
            "overall": shape({"status": _HEALTH, "reasons": listing(STRING)}),
            "application": shape({"status": _HEALTH, "version": STRING, "uptime_seconds": AMOUNT, "pid": COUNT}),
            "providers": ref("ProvidersHealth"),
            "cache": ref("CacheHealth"),
            "ledger": ref("LedgerHealth"),
            "system": ref("QuickHealth"),
        }
    ),
    "Metrics": shape(
        {
            "performance": shape(
                {
                    "avg_response_time_ms": AMOUNT,
                    "response_time_percentiles": by_name(maybe(AMOUNT)),
                    "requests_per_second": AMOUNT,
                    "queue_depth": COUNT,
                    "window_seconds": AMOUNT,
                }
            ),
            "http": shape({"requests_total": COUNT, "requests_by_status": by_name(COUNT)}),
            "http_client": shape({"pool_utilization": AMOUNT, "pool_size": COUNT}),
            "cache": shape({"memory_usage_mb": AMOUNT, "entries": COUNT, "hit_rate": maybe(RATIO)}),
            "rate_limiting": {"type": "object"},
            "security": shape({"failed_auth_attempts": COUNT}),
            "ledger": ref("LedgerHealth"),
            "workers": shape({"serving": COUNT, "starts_total": COUNT}),
        }
    ),
    "CacheMetrics": shape({"memory_usage_mb": AMOUNT, "entries": COUNT, "hit_rate": maybe(RATIO), "evictions": COUNT}),
    "Warming": shape(
        {"enabled": BOOLEAN, "paused": BOOLEAN, "held_by": listing(STRING), "caches": by_name({"type": "object"})}
    ),
    "Security": shape(
        {
            "failed_auth_attempts": COUNT,
            "failed_auth_by_reason": by_name(COUNT),
            "data_access": shape({"total": COUNT}),
            "rate_limited": shape({"total": COUNT}),
            "last_failures": maybe(listing({"type": "object"})),
        }
    ),
    "CacheKeys": shape({"keys": listing({"type": "object"})}),
    "CacheStats": shape({"oldest_entry_age_seconds": maybe(AMOUNT)}),
    "Selector": {
        "type": "object",
        "properties": {
            "cache": one_of("response", "summary"),
            "model": _SELECTED,
            "namespace": _SELECTED,
            "operation": _SELECTED,
            "older_than": {"type": "string", "pattern": r"^(\d{1,6}(ms|s|m|h|d))+$", "maxLength": 200},
        },
        "additionalProperties": False,
        "anyOf": [{"required": [name]} for name in ("model", "namespace", "operation", "older_than")],
    },
    "Invalidated": shape({"invalidated": COUNT, "caches": by_name(COUNT)}),
    "Evict": {
        "type": "object",
        "properties": {"expired": BOOLEAN, "fraction": {"type": "number", "exclusiveMinimum": 0, "maximum": 1}},
        "oneOf": [
            {"required": ["expired"], "properties": {"expired": {"const": True}}},
            {"required": ["fraction"]},
        ],
    },
    "Evicted": shape({"evicted": COUNT, "entries": COUNT, "memory_usage_mb": AMOUNT}),
    "Compacted": shape(
        {
            "checked": COUNT,
            "damaged": COUNT,
            "expired": COUNT,
            "unused": COUNT,
            "entries": COUNT,
            "memory_usage_mb": AMOUNT,
        }
    ),
    "PausedWarming": shape({}, {"seconds": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 86_400}}),
    "Flushed": shape({"flushed": COUNT, "flushes": COUNT}),
    "Circuit": shape(
        {"state": one_of("open", "closed")},
        {
            "seconds": {"type": "number", "exclusiveMinimum": 0, "maximum": 86_400},
            "reason": STRING,
            "model": {"type": ["string", "null"], "minLength": 1},
        },
    ),
    "Key": shape(
        {"state": one_of("retired", "active")}, {"grace_seconds": {"type": "number", "minimum": 0, "maximum": 86_400}}
    ),
    "Restraint": shape(
        {
            "what": one_of("load", "limits", "rate", "key"),
            "subject": STRING,
            "share": RATIO,
            "since": AMOUNT,
            "until": AMOUNT,
            "seconds": AMOUNT,
            "reason": STRING,
        }
    ),
    "Restraints": shape({"restraints": listing(ref("Restraint"))}),
    "Load": _restraint({"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
    "Rate": _restraint({"type": "number", "minimum": 0, "exclusiveMaximum": 1}),
    "Tightened": _restraint({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
    "Suspension": shape({"state": one_of("suspended", "active")}, {"seconds": _SECONDS, "reason": STRING}),
    "Fault": shape({"kind": STRING}, {"seconds": NUMBER, "mb": NUMBER}),
    "Anything": {"type": "object"},
}
