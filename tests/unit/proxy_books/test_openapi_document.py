"""The OpenAPI document says something of every route, and of nothing else; it is whole in itself."""

from __future__ import annotations

import importlib
import json
import pkgutil
from types import SimpleNamespace
from typing import Any, cast

import jsonschema_rs
import pytest

from proxy import endpoints, faults
from proxy.endpoints.description import SAID, description, document
from proxy.endpoints.route import Route, Services
from proxy.settings import Settings


def every_route() -> list[Route]:
    """Those of all modules of the package that have a table, and the two that the app adds."""
    settings = Settings.model_validate({"providers": [{"name": "p", "kind": "local", "port": 1}]})
    parts = {"gateway": None, "health": None, "metrics_dir": None, "restraints": None}
    services = cast("Services", SimpleNamespace(settings=settings, **parts))
    services.draining = lambda: False  # type: ignore[misc]
    modules = [
        importlib.import_module(f"proxy.endpoints.{found.name}") for found in pkgutil.iter_modules(endpoints.__path__)
    ]
    routes = [route for module in modules if hasattr(module, "routes") for route in module.routes(services)]
    routes.append(Route("POST", "/debug/fault", faults.inject, "admin"))
    return [*routes, description(routes)]


def test_every_route_is_described_and_nothing_else() -> None:
    """The table of what is said has exactly the routes that there are."""
    assert set(SAID) == {(route.method, route.path) for route in every_route()}


def references(part: Any) -> set[str]:
    """All that is referred to in a part of the document."""
    if isinstance(part, dict):
        own = {part["$ref"]} if "$ref" in part else set()
        return own.union(*map(references, part.values()))
    return set().union(*map(references, part)) if isinstance(part, list) else set()


def test_every_reference_has_its_target() -> None:
    """Each schema and header that is referred to is there; each schema that is there is referred to and is valid."""
    made = document(every_route())
    found = references(made)
    for reference in found:
        at: Any = made
        for step in reference.removeprefix("#/").split("/"):
            at = at[step]
    schemas = made["components"]["schemas"]
    assert {f"#/components/schemas/{name}" for name in schemas} == {one for one in found if "/schemas/" in one}
    for schema in schemas.values():
        jsonschema_rs.meta.validate(schema | {"$schema": "https://json-schema.org/draft/2020-12/schema"})
    assert json.loads(json.dumps(made)) == made


def test_operations_tell_what_they_take() -> None:
    """A key where one is taken, and the part of the path that varies."""
    paths = document(every_route())["paths"]
    assert paths["/v1/chat/completions"]["post"]["security"] == [{"bearer": []}, {"x-api-key": []}]
    assert "403" in paths["/api/cache"]["delete"]["responses"]
    assert "security" not in paths["/health"]["get"]
    (argument,) = paths["/api/providers/{provider}/circuit"]["post"]["parameters"]
    assert (argument["name"], argument["in"], argument["required"]) == ("provider", "path", True)
    names = [operation["operationId"] for path in paths.values() for operation in path.values()]
    assert len(names) == len(set(names))


def test_a_route_without_a_word_is_an_error() -> None:
    """A route that nobody described cannot hide in the document."""
    with pytest.raises(KeyError):
        document([Route("GET", "/new", faults.inject)])
