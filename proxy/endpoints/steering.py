"""What an operator may ask of the providers: open and closed circuits, less traffic, keys retired and taken back."""

from __future__ import annotations

from typing import Any

from proxy.endpoints.restraining import asked
from proxy.endpoints.route import Route, Services
from proxy.errors import ApiError
from proxy.exchange import GatewayReply, Handler, Request, document, is_number, json_object
from proxy.gateway import Gateway
from proxy.limits.restraints import Kind, Restraints
from proxy.routing.breaker import State
from proxy.routing.keys import KeyState

_LONGEST_SECONDS = 86_400
_CIRCUITS = {"open": State.OPEN, "closed": State.CLOSED}
_KEYS = {"retired": KeyState.RETIRED, "active": KeyState.ACTIVE}


def routes(services: Services) -> list[Route]:
    """`/api/providers`, for admins. The last that fits a path is taken, so keys with odd names come last."""
    return [
        Route("POST", "/api/providers/*/circuit", _circuit(services.gateway), "admin"),
        Route("POST", "/api/providers/*/rate", _rate(services.restraints), "admin"),
        Route("POST", "/api/providers/*/keys/*", _key(services.gateway), "admin"),
    ]


def _circuit(gateway: Gateway) -> Handler:
    async def circuit(request: Request) -> GatewayReply:
        body = json_object(request.body)
        state, reason, model = body.get("state"), body.get("reason", ""), body.get("model")
        seconds = _seconds(body, "seconds", 300)
        if not isinstance(state, str) or state not in _CIRCUITS:
            raise ApiError(400, f"state: expected open or closed, not {state!r}.", param="state")
        if seconds == 0:
            raise ApiError(400, "seconds: expected a number above 0.", param="seconds")
        if not isinstance(reason, str):
            raise ApiError(400, f"reason: expected a string, not {reason!r}.", param="reason")
        if model is not None and (not isinstance(model, str) or not model):
            raise ApiError(400, f"model: expected a model's name, not {model!r}.", param="model")
        try:
            return document(gateway.set_circuit(request.argument, _CIRCUITS[state], seconds, reason[:500], model))
        except KeyError as error:
            if model is not None and error.args == (model,):
                raise ApiError(404, f"There is no model {model[:100]!r} there.", code="unknown_model") from None
            raise _unknown(request.argument) from None

    return circuit


def _rate(restraints: Restraints) -> Handler:
    async def rate(request: Request) -> GatewayReply:
        lowered = asked(request.body, lambda share: 0 <= share < 1, "from 0 and below 1")
        try:
            return document(restraints.put(Kind.RATE, request.argument, *lowered))
        except KeyError:
            raise _unknown(request.argument) from None

    return rate


def _key(gateway: Gateway) -> Handler:
    async def key(request: Request) -> GatewayReply:
        body = json_object(request.body)
        provider, _, key_id = request.argument.partition("/keys/")
        state, grace = body.get("state"), _seconds(body, "grace_seconds", 0)
        if not isinstance(state, str) or state not in _KEYS:
            raise ApiError(400, f"state: expected retired or active, not {state!r}.", param="state")
        try:
            return document(gateway.set_key(provider, key_id, _KEYS[state], grace))
        except KeyError as error:
            if error.args == (key_id,):
                raise ApiError(404, f"There is no key {key_id[:100]!r} there.", code="unknown_key") from None
            raise _unknown(provider) from None

    return key


def _seconds(body: dict[str, Any], name: str, usual: float) -> float:
    value = body.get(name, usual)
    if not (is_number(value) and 0 <= value <= _LONGEST_SECONDS):
        raise ApiError(400, f"{name}: expected a number from 0 to {_LONGEST_SECONDS}, not {value!r}.", param=name)
    return float(value)


def _unknown(provider: str) -> ApiError:
    return ApiError(404, f"There is no provider {provider[:100]!r}.", code="unknown_provider")
